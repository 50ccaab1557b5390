"""Looking at messages that may be over: what is to become of them and of their logs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pymongo import UpdateOne

from zaqar_notify.model import State
from zaqar_notify.storage.codes import STATE_CODES
from zaqar_notify.storage.mongodb import floors
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    DELIVERY_LOG,
    JOBS,
    LIVE,
    MESSAGES,
    OUTBOX,
    RECEIPTS,
    Document,
    Filter,
    deliveries_of,
    delivery_key,
    lines_of,
    lines_of_delivery,
    of_delivery_key,
    of_line_key,
    receipts_of,
    receipts_of_delivery,
)
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.mongodb.taking import Pipeline, gathered
from zaqar_notify.storage.retention import Look, Retention

_DELIVERED = STATE_CODES[State.DELIVERED]


def look_at_messages(scope: Scope, now: float, retention: Retention, limit: int) -> list[Look]:
    """Reads as many log lines as the messages have, and so belongs into a snapshot."""
    found = scope[MESSAGES].aggregate(
        [
            {"$match": {"prune_at": {"$gt": 0.0, "$lte": now}}},
            {"$sort": {"prune_at": 1}},
            {"$limit": limit},
            {"$project": {"prune_at": 1, "expires_at": 1, "ended_at": 1, "body": {"$gt": [{"$binarySize": "$body"}, 0]}}},
        ],
        hint="ix_messages_prune",
    )
    if not found:
        return []
    numbers = [message["_id"] for message in found]
    judging = _Judging(scope, now, retention)
    judging.look_for_delivered(numbers, limit)
    judging.look_for_use(numbers)
    return [judging.judge(message) for message in found]


class _Judging:
    def __init__(self, scope: Scope, now: float, retention: Retention) -> None:
        self._scope = scope
        self._now = now
        self._retention = retention
        self._used: set[int] = set()
        self._last: dict[int, float] = {}
        """By message: when the last line of its log was written."""
        self._old: dict[int, list[tuple[int, float]]] = {}
        """By message: (subscription, when it ended) of what was delivered long ago."""
        self._complete = True
        """There is no more of it."""
        self._recent: dict[int, float] = {}
        """By message: when the first of the others was delivered."""

    def look_for_use(self, numbers: Sequence[int]) -> None:
        asked = {"$in": numbers}
        self._used = {entry["_id"] for entry in self._scope[OUTBOX].find({"_id": asked}, ["_id"])}
        of_jobs = self._scope[JOBS].find({"message_id": asked}, ["message_id"], hint="ix_jobs_message")
        self._used |= {job["message_id"] for job in of_jobs}
        parts: list[Pipeline] = [
            [{"$match": {"_id": deliveries_of(number)}}, {"$limit": 1}, {"$project": {"_id": 1}}] for number in numbers
        ]
        rows = gathered(self._scope[DELIVERIES], DELIVERIES, parts)
        self._used |= {of_delivery_key(row["_id"])[0] for row in rows}
        last: Pipeline = [{"$group": {"_id": None, "at": {"$max": "$at"}}}]
        self._last = self._over_lines(numbers, last)

    def _over_lines(self, numbers: Sequence[int], stages: Pipeline) -> dict[int, float]:
        """By message: the ``at``, in seconds, that the stages make of its lines."""
        parts: list[Pipeline] = [
            [{"$match": {"_id": lines_of(number)}}, *stages, {"$addFields": {"_id": number}}] for number in numbers
        ]
        found = gathered(self._scope[DELIVERY_LOG], DELIVERY_LOG, parts)
        return {one["_id"]: one["at"] / 1e3 for one in found}

    def look_for_delivered(self, numbers: Sequence[int], limit: int) -> None:
        kept = self._retention.forget_delivered
        if kept is None:
            return
        before = round((self._now - kept) * 1e3)
        lines = self._delivered_before(numbers, before, limit)
        self._complete = len(lines) < limit
        for message, subscription, at in lines:
            self._old.setdefault(message, []).append((subscription, at))
        since: Pipeline = [
            {"$match": {"state": _DELIVERED, "at": {"$gt": before}}},
            {"$group": {"_id": None, "at": {"$min": "$at"}}},
        ]
        self._recent = self._over_lines(numbers, since)

    def _delivered_before(self, numbers: Sequence[int], before: int, limit: int) -> list[tuple[int, int, float]]:
        """What was delivered long ago, of messages that nobody is matching: unless it is being delivered again."""
        asked = {"$in": list(numbers)}
        matched = {entry["_id"] for entry in self._scope[OUTBOX].find({"_id": asked}, ["_id"])}
        of_jobs = self._scope[JOBS].find({"message_id": asked}, ["message_id"], hint="ix_jobs_message")
        matched |= {job["message_id"] for job in of_jobs}
        found: list[tuple[int, int, float]] = []
        for number in numbers:
            if number not in matched and len(found) < limit:
                old = {"_id": lines_of(number), "state": _DELIVERED, "at": {"$lte": before}}
                lines = self._scope[DELIVERY_LOG].find(old, ["at"], sort=[("_id", 1)], limit=limit - len(found))
                found += ((*of_line_key(line["_id"])[:2], line["at"] / 1e3) for line in self._over(lines))
        return found

    def _over(self, lines: Sequence[Document]) -> list[Document]:
        """Those that are the last of their delivery, which has no row."""
        pairs = {of_line_key(line["_id"])[:2] for line in lines}
        keys = [delivery_key(*pair) for pair in pairs]
        open_rows = {row["_id"] for row in self._scope[DELIVERIES].find({"_id": {"$in": keys}}, ["_id"])} if keys else set()
        parts: list[Pipeline] = [
            [{"$match": {"_id": lines_of_delivery(*pair)}}, {"$sort": {"_id": -1}}, {"$limit": 1}, {"$project": {"_id": 1}}]
            for pair in pairs
        ]
        last = {line["_id"] for line in gathered(self._scope[DELIVERY_LOG], DELIVERY_LOG, parts)}
        return [line for line in lines if line["_id"] in last and delivery_key(*of_line_key(line["_id"])[:2]) not in open_rows]

    def judge(self, message: Document) -> Look:
        number = message["_id"]
        old = self._old.get(number, ())
        prune_at, drop_body = self._retention.next_look(
            self._now,
            expires_at=message["expires_at"],
            used=number in self._used,
            ended_at=max(self._last.get(number, 0.0), message.get("ended_at", 0.0)),
            has_body=message["body"],
            delivered_at=self._recent.get(number, math.inf),
        )
        if not self._complete:
            # It stays due, until all is gone that is too old.
            prune_at, drop_body = message["prune_at"], False
        forgotten = tuple(subscription for subscription, _ in old)
        return Look(number, message["prune_at"], prune_at, drop_body, forgotten, max((at for _, at in old), default=0.0))


def store_looks(scope: Scope, looks: Sequence[Look], now: float) -> int:
    """Unless something has happened to a message since it was looked at."""
    scope[MESSAGES].bulk_write([_stored(look, now) for look in looks])
    forgotten = [(look.id, subscription) for look in looks for subscription in look.forget]
    removed = _remove_ranges(scope, DELIVERY_LOG, (lines_of_delivery(*pair) for pair in forgotten))
    return len(looks) + removed + _remove_ranges(scope, RECEIPTS, (receipts_of_delivery(*pair) for pair in forgotten))


def _stored(look: Look, now: float) -> UpdateOne:
    deleted_at = {"$cond": [{"$eq": ["$deleted_at", LIVE]}, "$expires_at", "$deleted_at"]}
    # Readers pass over what is expired by the index only once it has deleted_at.
    stored: Document = {
        "prune_at": look.prune_at,
        "deleted_at": {"$cond": [{"$lte": ["$expires_at", now]}, deleted_at, "$deleted_at"]},
    }
    if look.ended_at:
        stored["ended_at"] = {"$max": ["$ended_at", look.ended_at]}
    if look.drop_body:
        stored["body"] = b""
    return UpdateOne({"_id": look.id, "prune_at": look.seen}, [{"$set": stored}])


def look_again(scope: Scope, message: Document, now: float, at: float) -> None:
    """That it has a row now is looked up at this moment, at the latest, and before housekeeping removes what it has seen."""
    prune_at = at if message["expires_at"] <= now else min(message["prune_at"], at)
    scope[MESSAGES].update_one({"_id": message["_id"]}, {"$set": {"prune_at": prune_at}, "$inc": {"touches": 1}})


def _remove_ranges(scope: Scope, collection: str, ranges: Iterable[Any]) -> int:
    keys: list[bytes] = []
    for its in ranges:
        keys += (found["_id"] for found in scope[collection].find({"_id": its}, ["_id"]))
    return scope[collection].delete_many({"_id": {"$in": keys}}) if keys else 0


def remove_messages(scope: Scope, limit: int) -> int:
    """Messages whose retention is over, and before them the lines of their logs, and then what was heard of them."""
    found = [message["_id"] for message in scope[MESSAGES].find({"prune_at": 0.0}, ["_id"], limit=limit)]
    removed = 0
    for number in found:
        for collection, its in ((DELIVERY_LOG, lines_of(number)), (RECEIPTS, receipts_of(number))):
            removed += _remove_some(scope, collection, its, limit - removed)
            if removed >= limit:
                return removed
    return removed + _remove(scope, found)


def _remove_some(scope: Scope, collection: str, its: Filter, most: int) -> int:
    keys = [found["_id"] for found in scope[collection].find({"_id": its}, ["_id"], limit=most)]
    return scope[collection].delete_many({"_id": {"$in": keys}}) if keys else 0


def _remove(scope: Scope, numbers: Collection[int]) -> int:
    if not numbers:
        return 0
    floors.keep(scope, {MESSAGES: max(numbers)})
    return scope[MESSAGES].delete_many({"_id": {"$in": list(numbers)}, "prune_at": 0.0})
