"""What it costs to take a batch of work, and to read a page of subscribers, by what else is in the database: the storage alone,
without processes or sockets."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

from benchmarks import filling
from benchmarks.report import Figure, Measure
from benchmarks.scenarios import Bench, ratio
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Storage

BATCH = 500
LEASE = 30.0
FEW = 1000
PAGE = 1000
"""`[worker] page`."""


def taking(bench: Bench) -> list[Figure]:
    """Milliseconds to take 500 outbox entries and 500 delivery rows, by what is in the database.

    Three databases: 1,000 entries and 1,000 rows that wait, all of them due; 1,000,000 of each; 1,000 of each beside 1,000,000
    rows that are parked for one endpoint (whose lane is not due: its breaker is open). Each in turn takes a batch, which is
    timed, and gives it back, which is not, so that the next take finds the same; the medians of 200 takes are compared.
    """
    many = bench.pick(1_000_000, 10_000)
    times = bench.pick(200, 5)
    with contextlib.ExitStack() as stack:
        few_waiting, many_waiting, many_parked = (
            stack.enter_context(_storage(bench, waiting=waiting, parked=parked))
            for waiting, parked in ((FEW, 0), (many, 0), (FEW, many))
        )
        storages = [few_waiting, many_waiting, many_parked]
        workers = [storage.join() for storage in storages]
        taken: list[list[float]] = [[], [], []]
        for _ in range(times):
            for storage, worker, seconds in zip(storages, workers, taken, strict=True):
                seconds.append(_take(storage, worker))
    base, waiting, parked = (statistics.median(seconds) * 1000 for seconds in taken)
    measures = [
        Measure(f"beside {many:,} waiting", ratio(waiting, base), f"times that beside {FEW:,}", at_most=1.2),
        Measure(f"beside {many:,} parked", ratio(parked, base), "times", at_most=1.2),
        Measure(f"beside {FEW:,}", base, "ms"),
        Measure(f"beside {many:,} waiting", waiting, "ms"),
        Measure(f"beside {many:,} parked", parked, "ms"),
    ]
    title = f"taking a batch beside {FEW:,} against {many:,} waiting rows, and beside {many:,} parked for one dead endpoint"
    return [Figure(title, measures)]


def _take(storage: Storage, worker_id: int) -> float:
    """Seconds that one take lasts; what was taken is due again afterwards."""
    began = time.perf_counter()
    taken = storage.take(worker_id, LEASE, entries=BATCH, rows=BATCH, lanes=BATCH)
    seconds = time.perf_counter() - began
    if (len(taken.entries), len(taken.rows)) != (BATCH, BATCH):
        raise RuntimeError(f"{len(taken.entries)} entries and {len(taken.rows)} rows taken instead of {BATCH} of each")
    storage.give_back(
        taken.token,
        [entry.message_id for entry in taken.entries],
        [(row.message_id, row.subscription_id) for row in taken.rows],
    )
    return seconds


@contextlib.contextmanager
def _storage(bench: Bench, *, waiting: int, parked: int = 0) -> Iterator[Storage]:
    """A database with ``waiting`` entries and as many rows, all due, and ``parked`` rows in one lane that is not due."""
    now = time.time()
    with bench.storage() as storage:
        if parked:
            storage.copy_into("lanes", [filling.lane(1, now + filling.DAY)])
        for kind, records in (
            ("outbox", filling.entries(waiting, now)),
            ("deliveries", filling.rows(waiting, now)),
            ("deliveries", filling.parked(parked, now, 1)),
        ):
            for batch in filling.batches(records):
                storage.copy_into(kind, batch)
        yield storage


def matching(bench: Bench) -> list[Figure]:
    """Milliseconds to read a page of 1,000 subscriptions, as matching does, by how many there are and where the page is.

    A queue with 2,000 subscribers against one with 1,000,000: its first page, and its last. Medians of 50 readings, in turns.
    """
    many = bench.pick(1_000_000, 10_000)
    now = time.time()
    with bench.storage() as storage:
        for queue, number in (("few", 2 * PAGE), ("many", many)):
            storage.put_queue("p", queue, {})
            for batch in filling.batches(filling.subscriptions("p", queue, ["https://a/"], number, now + number)):
                storage.copy_into("subscriptions", batch)
        behind = ids.show(filling.newest(now + many) - PAGE - 1)
        pages = (("few", None), ("many", None), ("many", behind))
        read: list[list[float]] = [[], [], []]
        for _ in range(bench.pick(50, 3)):
            for (queue, after), seconds in zip(pages, read, strict=True):
                seconds.append(_page(storage, queue, after))
    few, first, last = (statistics.median(seconds) * 1000 for seconds in read)
    measures = [
        Measure("the first page", ratio(first, few), "times that of few", at_most=1.2),
        Measure("the last page", ratio(last, few), "times", at_most=1.2),
        Measure("of few", few, "ms"),
    ]
    return [Figure(f"a page of {PAGE:,} subscriptions of {many:,}, against one of {2 * PAGE:,}", measures)]


def _page(storage: Storage, queue: str, after: str | None) -> float:
    began = time.perf_counter()
    found = storage.list_subscriptions("p", queue, after, PAGE)
    seconds = time.perf_counter() - began
    if len(found) != PAGE:
        raise RuntimeError(f"{len(found)} subscriptions on a page of {PAGE}")
    return seconds
