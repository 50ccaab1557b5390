"""Pages of messages, and how many there are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from zaqar_notify.model import Message, Stats
from zaqar_notify.storage.mongodb import publishing
from zaqar_notify.storage.mongodb.collections import LIVE, MESSAGE_FIELDS, MESSAGES, QUEUES, Document, values
from zaqar_notify.storage.mongodb.publishing import Means
from zaqar_notify.storage.mongodb.scope import Scope

_QUEUES_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A queue at a moment, and what it takes to read from it and to post to it."""

    scope: Scope
    means: Means
    project: str
    queue: str
    found: Document | None
    """None: there is no such queue."""
    now: float

    @classmethod
    def of(cls, scope: Scope, project: str, queue: str, *, now: float, means: Means) -> Place:
        return cls(scope, means, project, queue, publishing.find_queue(scope, project, queue), now)

    @property
    def number(self) -> int | None:
        return None if self.found is None else self.found["_id"]

    def live(self, **conditions: Any) -> dict[str, Any]:
        """The condition on messages that readers may see."""
        return {"queue_id": self.number, "deleted_at": LIVE, "expires_at": {"$gt": self.now}, **conditions}

    def messages(self, wanted: Mapping[str, Any], **options: Any) -> list[Message]:
        found = self.scope[MESSAGES].find(wanted, MESSAGE_FIELDS, **options)
        return [self.message(document) for document in found]

    def message(self, document: Document) -> Message:
        row = values(document, MESSAGE_FIELDS)
        return self.means.bodies.message(self.project, self.queue, row, self.now)


@dataclasses.dataclass(frozen=True, slots=True)
class _Range:
    """Of a queue's live messages, each in the order of an index."""

    index: str
    condition: Mapping[str, Any]


_PLAIN = _Range("ix_messages_queue", {"free_at": 0.0})
_DELAYED = _Range("ix_messages_delayed", {"free_at": {"$gt": 0.0}, "claim_id": None})
_CLAIMED = _Range("ix_messages_claimed", {"claim_id": {"$exists": True}})


def _ended(now: float) -> _Range:
    """Claims and delays that have ended. It is short, because housekeeping makes them plain; those are in the last two as
    well. Not in the order of ids, but of their end."""
    return _Range("ix_messages_queue", {"free_at": {"$gt": 0.0, "$lte": now}})


def _merged(
    place: Place, ranges: Sequence[_Range], limit: int, order: int = 1, conditions: Mapping[str, Any] | None = None
) -> list[Message]:
    """Each range is read no further than the page is long."""
    if place.number is None:
        return []
    found: dict[int, Document] = {}
    for one in ranges:
        wanted = place.live(**one.condition, **(conditions or {}))
        page = place.scope[MESSAGES].find(wanted, MESSAGE_FIELDS, sort=[("_id", order)], limit=limit, hint=one.index)
        found.update((document["_id"], document) for document in page)
    chosen = sorted(found, reverse=order < 0)[:limit]
    return [place.message(found[number]) for number in chosen]


def get(place: Place, message: int) -> Message | None:
    return next(iter(place.messages(place.live(_id=message))), None)


def page(place: Place, *, behind: int, limit: int, not_from: str | None, claimed: bool, delayed: bool) -> list[Message]:
    ranges = [_PLAIN]
    if not (claimed and delayed):
        ranges.append(_ended(place.now))
    ranges += [one for one, asked in ((_CLAIMED, claimed), (_DELAYED, delayed)) if asked]
    conditions: dict[str, Any] = {"_id": {"$gt": behind}}
    if not_from is not None:
        conditions["client_id"] = {"$ne": not_from}
    return _merged(place, ranges, limit, conditions=conditions)


def stats(place: Place) -> Stats:
    if place.number is None:
        return Stats()
    claimed, free = (
        place.scope[MESSAGES].count(place.live(free_at=condition), hint="ix_messages_queue")
        for condition in ({"$gt": place.now}, {"$lte": place.now})
    )
    oldest, newest = (_merged(place, (_PLAIN, _CLAIMED, _DELAYED), 1, order) for order in (1, -1))
    return Stats(claimed, free, next(iter(oldest), None), next(iter(newest), None))


def volume(scope: Scope, now: float) -> Stats:
    claimed = free = 0
    queues = (queue["_id"] for queue in scope[QUEUES].each({"deleted_at": LIVE}, ["_id"]))
    for some in iter(lambda: list(itertools.islice(queues, _QUEUES_AT_ONCE)), []):
        counted = scope[MESSAGES].aggregate(
            [
                {"$match": {"queue_id": {"$in": some}, "deleted_at": LIVE, "expires_at": {"$gt": now}}},
                {"$group": {"_id": {"$gt": ["$free_at", now]}, "count": {"$sum": 1}}},
            ],
            hint="ix_messages_queue",
        )
        counts = {one["_id"]: one["count"] for one in counted}
        claimed += counts.get(True, 0)
        free += counts.get(False, 0)
    return Stats(claimed, free)
