"""Messages of another queue service, which are held until that has accepted them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pymongo import UpdateOne

from zaqar_notify.model import MessageKind
from zaqar_notify.storage import ids
from zaqar_notify.storage.codes import KIND_CODES
from zaqar_notify.storage.mongodb.collections import DELIVERY_LOG, MESSAGES, OUTBOX, QUEUES, RECEIPTS, lines_of, receipts_of
from zaqar_notify.storage.mongodb.scope import Scope

_NOT_LEASED = {"lease": {"$exists": False}}


def release(scope: Scope, project: str, queue: str, message_ids: Sequence[str], foreign_ids: Sequence[str] | None) -> None:
    numbers = [ids.parse(message_id) for message_id in message_ids]
    held = _held(scope, project, queue, numbers)
    if foreign_ids is not None:
        named = {number: foreign for number, foreign in zip(numbers, foreign_ids, strict=True) if foreign and number in held}
        scope[MESSAGES].bulk_write(
            [UpdateOne({"_id": number}, {"$set": {"foreign_id": foreign}}) for number, foreign in named.items()]
        )
    scope[OUTBOX].bulk_write(
        [UpdateOne({"_id": number, **_NOT_LEASED}, {"$set": {"due_at": free_at}}) for number, free_at in held.items()]
    )


def drop(scope: Scope, project: str, queue: str, message_ids: Sequence[str]) -> None:
    for number in _held(scope, project, queue, [ids.parse(message_id) for message_id in message_ids]):
        # What was cancelled meanwhile counts as taken.
        untaken = {"_id": number, **_NOT_LEASED, "$expr": {"$eq": ["$takes", "$cancelled"]}}
        if scope[OUTBOX].delete_one(untaken):
            scope[DELIVERY_LOG].delete_many({"_id": lines_of(number)})
            scope[RECEIPTS].delete_many({"_id": receipts_of(number)})
            scope[MESSAGES].delete_one({"_id": number})


def _held(scope: Scope, project: str, queue: str, numbers: Iterable[int | None]) -> dict[int, float]:
    """Those that are held in this queue, with the end of their delay."""
    wanted = {
        "_id": {"$in": [number for number in numbers if number is not None]},
        "kind": KIND_CODES[MessageKind.NOTIFICATION],
        "$expr": {"$eq": ["$deleted_at", "$created_at"]},
    }
    found = scope[MESSAGES].find(wanted, ["queue_id", "free_at"])
    queues = {"_id": {"$in": list({message["queue_id"] for message in found})}, "project": project, "name": queue}
    theirs = {document["_id"] for document in scope[QUEUES].find(queues, ["_id"])} if found else set()
    return {message["_id"]: message["free_at"] for message in found if message["queue_id"] in theirs}
