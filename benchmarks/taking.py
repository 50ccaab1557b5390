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
from zaqar_notify.storage.sql import SqlStorage

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
