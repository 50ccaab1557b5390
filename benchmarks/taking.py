"""What it costs to take a batch of work, by what else is in the database: the storage alone, without processes or sockets."""

from __future__ import annotations

import base64
import contextlib
import secrets
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Figure, Measure
from benchmarks.scenarios import Bench, ratio
from zaqar_notify.encryption import Keyring
from zaqar_notify.storage.sql.driver import SqlStorage

BATCH = 500
LEASE = 30.0
DAY = 86_400.0
FEW = 1000


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
            stack.enter_context(_storage(bench.directory / name, waiting=waiting, parked=parked))
            for name, waiting, parked in (("few", FEW, 0), ("waiting", many, 0), ("parked", FEW, many))
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


def _take(storage: SqlStorage, worker_id: int) -> float:
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
def _storage(directory: Path, *, waiting: int, parked: int) -> Iterator[SqlStorage]:
    """A database with ``waiting`` entries and as many rows, all due, and ``parked`` rows in one lane that is not due."""
    directory.mkdir()
    path = directory / "zaqar-notify.db"
    keyring = Keyring([base64.b64encode(secrets.token_bytes(32)).decode()])
    storage = SqlStorage(f"sqlite:///{path}", keyring=keyring, retention=7 * DAY, body_retention=None)
    try:
        storage.upgrade()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            fill(connection, waiting, parked, time.time())
        yield storage
    finally:
        storage.close()


def fill(connection: sqlite3.Connection, waiting: int, parked: int, now: float) -> None:
    """Rows as the storage writes them (storage/tables.py): entries as they are posted, rows that came due between an hour and a
    second ago, the oldest message first."""
    newest = int(now * 1000) << 20
    due_at = [now - 3600 + 3599 * number / waiting for number in range(waiting)]
    columns = "message_id, subscription_id, lane_id, due_at, attempts, lines, expires_at"
    connection.execute("PRAGMA synchronous=OFF")
    with connection:
        connection.executemany(
            "INSERT INTO outbox (message_id, queue_id, due_at, takes) VALUES (?, 1, 0, 0)",
            ((newest - waiting + number,) for number in range(waiting)),
        )
        connection.executemany(
            f"INSERT INTO deliveries ({columns}) VALUES (?, 1, NULL, ?, 1, 1, ?)",
            ((newest - waiting + number, due_at[number], now + DAY) for number in range(waiting)),
        )
        if parked:
            connection.execute("INSERT INTO lanes (id, project, name, due_at) VALUES (1, 'p', 'https://dead', ?)", (now + DAY,))
        connection.executemany(
            f"INSERT INTO deliveries ({columns}) VALUES (?, 2, 1, NULL, 1, 1, ?)",
            ((newest - parked + number, now + DAY) for number in range(parked)),
        )
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
