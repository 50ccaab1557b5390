"""Moving house: every record, in the words of the tables, from where another one was read last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo import ReplaceOne, UpdateOne

from zaqar_notify.storage.mongodb import floors
from zaqar_notify.storage.mongodb.collections import (
    ALERTS,
    API_KEYS,
    CLAIMS,
    COUNTERS,
    DELIVERIES,
    DELIVERY_LOG,
    FLOORS,
    JOBS,
    LANES,
    LIVE,
    MESSAGES,
    OUTBOX,
    PROJECTS,
    QUEUES,
    RECEIPTS,
    SUBSCRIPTIONS,
    WINDOWS,
    Document,
    alert_key,
    delivery_key,
    held_key,
    line_key,
    of_delivery_key,
    of_held_key,
    of_line_key,
    of_receipt_key,
    receipt_key,
    window_key,
    without_nulls,
)
from zaqar_notify.storage.mongodb.scope import Scope

KINDS = (
    PROJECTS, QUEUES, FLOORS, API_KEYS, ALERTS, SUBSCRIPTIONS, MESSAGES, CLAIMS, LANES, WINDOWS, OUTBOX, JOBS, DELIVERIES,
    DELIVERY_LOG, RECEIPTS,
)  # fmt: skip
"""In the order in which they are copied."""
_COUNTED = {**dict.fromkeys((PROJECTS, QUEUES, LANES, JOBS), "_id"), WINDOWS: "number"}
"""Collections whose documents are counted, and the field that has their number."""
_DELETABLE = frozenset({QUEUES, MESSAGES, SUBSCRIPTIONS})
_DUE = {"lease": None, "due_at": 0.0}
_NOT_HELD = {"worker_id": None, "held_until": 0.0}


def count(scope: Scope) -> dict[str, int]:
    return {kind: len(_floors(scope)) if kind == FLOORS else scope[kind].count({}) for kind in KINDS}


# -- out -----------------------------------------------------------------------------------------------------------------------


def read(scope: Scope, kind: str, after: Any, limit: int) -> tuple[list[Mapping[str, Any]], Any]:
    if kind == FLOORS:
        return (_floors(scope), kind) if after is None else ([], after)
    behind = {} if after is None else {"_id": {"$gt": after}}
    found = scope[kind].find(behind, sort=[("_id", 1)], limit=limit)
    columns = _columns(kind)
    records = [_record(kind, document, columns) for document in found]
    return records, found[-1]["_id"] if found else after


def _floors(scope: Scope) -> list[Mapping[str, Any]]:
    return [{"name": name, "last": last} for name, last in floors.kept(scope).items()]


def _columns(kind: str) -> Sequence[str]:
    from zaqar_notify.storage.sql.tables import metadata

    return [column.name for column in metadata.tables[kind].columns]


def _record(kind: str, document: Document, columns: Iterable[str]) -> Mapping[str, Any]:
    record: Document = {**document, **_key_columns(kind, document["_id"])}
    if kind == WINDOWS:
        record["id"] = document["number"]
    if "held" in record:
        record["window_key"] = of_held_key(record["held"])
    if kind in _DELETABLE and record["deleted_at"] == LIVE:
        del record["deleted_at"]
    if "lease" in record:
        record |= _DUE
    if "held_until" in record:
        record |= _NOT_HELD
    return {column: record.get(column) for column in columns}


def _key_columns(kind: str, key: Any) -> Document:
    if kind in (ALERTS, WINDOWS):
        return dict(key)
    if kind == DELIVERIES:
        return {"message_id": of_delivery_key(key)[0]}
    if kind == DELIVERY_LOG:
        message, _, number = of_line_key(key)
        return {"message_id": message, "number": number}
    if kind == RECEIPTS:
        return dict(zip(("message_id", "subscription_id", "kind"), of_receipt_key(key), strict=True))
    return {"message_id" if kind == OUTBOX else "id": key}


# -- in ------------------------------------------------------------------------------------------------------------------------


def store(scope: Scope, kind: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Each of them by itself: what was broken off is repeated."""
    if not records:
        return
    if kind == FLOORS:
        floors.keep(scope, {record["name"]: record["last"] for record in records})
        return
    documents = [_document(kind, record) for record in records]
    scope[kind].bulk_write([ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents])
    if kind in _COUNTED:
        greatest = max(document[_COUNTED[kind]] for document in documents)
        scope[COUNTERS].update_one({"_id": kind}, {"$max": {"last": greatest}}, upsert=True)
    if kind in floors.FLOORED:
        floors.raise_all(scope, max(document["_id"] for document in documents))
        _raise_queues(scope, kind, documents)


def _raise_queues(scope: Scope, kind: str, documents: Iterable[Document]) -> None:
    greatest: dict[tuple[Any, ...], int] = {}
    fields = ("project", "queue") if kind == SUBSCRIPTIONS else ("queue_id",)
    for document in documents:
        queue = tuple(document[field] for field in fields)
        greatest[queue] = max(greatest.get(queue, 0), document["_id"])
    names = ("project", "name") if kind == SUBSCRIPTIONS else ("_id",)
    scope[QUEUES].bulk_write(
        [UpdateOne(dict(zip(names, queue, strict=True)), {"$max": {"last_id": last}}) for queue, last in greatest.items()]
    )


def _document(kind: str, record: Mapping[str, Any]) -> Document:
    document = without_nulls(record)
    key = _key(kind, document)
    if kind in _DELETABLE:
        document.setdefault("deleted_at", LIVE)
    if kind == QUEUES:
        document["last_id"] = 0
    if "window_key" in document:
        its = document["window_id"], document["subscription_id"], document.pop("window_key")
        document["held"] = held_key(*its)
    return {"_id": key, **document}


def _key(kind: str, document: Document) -> Any:
    """Takes from the document what is in its key alone."""
    if kind == ALERTS:
        return alert_key(document.pop("project"), document.pop("cause"))
    if kind == WINDOWS:
        document["number"] = document.pop("id")
        return window_key(document.pop("project"), document.pop("scope"))
    if kind == DELIVERIES:
        return delivery_key(document.pop("message_id"), document["subscription_id"])
    if kind == DELIVERY_LOG:
        return line_key(document.pop("message_id"), document["subscription_id"], document.pop("number"))
    if kind == RECEIPTS:
        return receipt_key(document.pop("message_id"), document.pop("subscription_id"), document.pop("kind"))
    return document.pop("message_id" if kind == OUTBOX else "id")
