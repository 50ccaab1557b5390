"""Records for `Storage.copy_into`: a database with very much in it, without having made each thing by the API.

The fields are the columns of zaqar_notify/storage/sql/tables.py, for every engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

DAY = 86_400.0
BATCH = 5000
Record = Mapping[str, Any]


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    found = iter(records)
    while batch := list(itertools.islice(found, BATCH)):
        yield batch


def newest(now: float) -> int:
    """An id as it is given out now: see zaqar_notify/storage/ids.py."""
    return int(now * 1000) << 20


def subscriptions(project: str, queue: str, urls: Sequence[str], number: int, now: float) -> Iterator[Record]:
    first = newest(now) - number
    for position in range(number):
        yield {
            "id": first + position,
            "project": project,
            "queue": queue,
            "subscriber": f"{urls[position % len(urls)]}{position}",
            "ttl": None,
            "options": "{}",
            "created_at": now,
            "expires_at": None,
            "confirmed": False,
            "secret": None,
            "secret_made": False,
            "disabled_at": None,
            "disabled_reason": None,
            "disabled_enable_by": None,
            "deleted_at": None,
            "prune_at": None,
            "strikes": 0,
            "failing_since": None,
        }


def entries(number: int, now: float) -> Iterator[Record]:
    """Outbox entries as they are posted."""
    for position in range(number):
        yield {
            "message_id": newest(now) - number + position,
            "queue_id": 1,
            "due_at": 0.0,
            "lease": None,
            "takes": 0,
            "after_id": None,
            "project_id": 0,
            "cancelled": 0,
        }


def rows(number: int, now: float) -> Iterator[Record]:
    """Deliveries that came due between an hour and a second ago, the oldest message first."""
    for position in range(number):
        yield _row(newest(now) - number + position, 1, None, now - 3600 + 3599 * position / number, now + DAY)


def parked(number: int, now: float, lane: int) -> Iterator[Record]:
    for position in range(number):
        yield _row(newest(now) - number + position, 2, lane, None, now + DAY)


def _row(message: int, subscription: int, lane: int | None, due_at: float | None, expires_at: float) -> Record:
    return {
        "message_id": message,
        "subscription_id": subscription,
        "lane_id": lane,
        "due_at": due_at,
        "lease": None,
        "attempts": 1,
        "lines": 1,
        "expires_at": expires_at,
        "project_id": 0,
        "again": 0,
        "ends_at": None,
    }


def lane(number: int, due_at: float) -> Record:
    """One that nobody may empty before ``due_at``."""
    return {
        "id": number,
        "project": "p",
        "name": "https://dead",
        "due_at": due_at,
        "lease": None,
        "project_id": 0,
        "trips": 0,
        "probe_at": None,
        "pool": "",
    }
