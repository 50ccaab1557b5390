"""The collections, their indexes and their documents.

A document has the names and meanings of the columns in `zaqar_notify.storage.sql.tables`, but:

- ``_id`` is the primary key. Where that has several numbers it is bytes, `delivery_key`, `line_key` and `receipt_key`, so that
  what belongs to a message, or to a delivery, is one range; ``message_id``, ``number`` and ``kind`` are in the key alone;
- what is null is left out, except a ``deleted_at`` of a queue, a message or a subscription: that is 0 until it is deleted,
  because a partial index cannot say "without the field";
- ``held`` of a delivery has its ``window_key`` in it, with the numbers of the window and of the subscription: see `held_key`;
- a window has its ``id`` as ``number``: its key is its scope, of which there is one;
- a queue has a ``last_id``: the greatest id that was given to one of its messages or subscriptions. Whoever gives out ids
  writes it first, so that two who do so for one queue meet there, and ids rise in the order of their commits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

REVISION = 2
"""Of the collections and indexes below. Changes of it are made by `schema.upgrade`."""
OLDEST_READER = 2
"""The oldest revision whose code may still work on what this one has made."""

Document = dict[str, Any]
Filter = Mapping[str, Any]

ALERTS = "alerts"
API_KEYS = "api_keys"
CLAIMS = "claims"
COUNTERS = "counters"
"""{_id: name of a collection, last: the number that was given out last}"""
FLOORS = "id_floors"
"""One document of the counters. By the name of a collection: the greatest id of it that pruning has removed. ``last``: ids of a
queue that is made later are above this one."""
DELIVERIES = "deliveries"
DELIVERY_LOG = "delivery_log"
JOBS = "jobs"
LANES = "lanes"
MESSAGES = "messages"
OUTBOX = "outbox"
PROJECTS = "projects"
QUEUES = "queues"
RECEIPTS = "receipts"
SCHEMA = "schema"
SUBSCRIPTIONS = "subscriptions"
WAKES = "wakes"
"""One document, which is touched when there is work: the workers of other machines watch it."""
WINDOWS = "windows"
"""One of each scope: the one that is open, or was the last."""
WORKERS = "workers"

LIVE = 0.0
"""The ``deleted_at`` of what is not deleted."""

# -- keys ----------------------------------------------------------------------------------------------------------------------

_DELIVERY = struct.Struct(">QQ")
_LINE = struct.Struct(">QQI")
_RECEIPT = struct.Struct(">QQB")
_GREATEST = 2**64 - 1


def delivery_key(message: int, subscription: int) -> bytes:
    return _DELIVERY.pack(message, subscription)


def of_delivery_key(key: bytes) -> tuple[int, int]:
    """The numbers of the message and of the subscription."""
    message, subscription = _DELIVERY.unpack(key)
    return message, subscription


def line_key(message: int, subscription: int, number: int) -> bytes:
    return _LINE.pack(message, subscription, number)


def of_line_key(key: bytes) -> tuple[int, int, int]:
    message, subscription, number = _LINE.unpack(key)
    return message, subscription, number


def receipt_key(message: int, subscription: int, kind: int) -> bytes:
    return _RECEIPT.pack(message, subscription, kind)


def of_receipt_key(key: bytes) -> tuple[int, int, int]:
    message, subscription, kind = _RECEIPT.unpack(key)
    return message, subscription, kind


def held_key(window: int, subscription: int, key: str) -> bytes:
    """What waits in a window, and may be superseded: at most one row has it that is neither leased nor due."""
    return _DELIVERY.pack(window, subscription) + key.encode()


def of_held_key(held: bytes) -> str:
    """The key of the window's `Window`."""
    return held[_DELIVERY.size :].decode()


def deliveries_of(message: int, behind: int = 0, up_to: int | None = None) -> Filter:
    """A condition on ``_id``: rows of a message for subscriptions behind one, and up to one."""
    last = _GREATEST if up_to is None else up_to
    return {"$gte": delivery_key(message, behind + 1), "$lte": delivery_key(message, last)}


def lines_of(message: int, behind: int = 0, up_to: int | None = None) -> Filter:
    """A condition on ``_id``: lines of a message for subscriptions behind one, and up to one."""
    last = _GREATEST if up_to is None else up_to
    return {"$gte": line_key(message, behind + 1, 0), "$lte": line_key(message, last, 2**32 - 1)}


def lines_of_delivery(message: int, subscription: int) -> Filter:
    return {"$gte": line_key(message, subscription, 0), "$lte": line_key(message, subscription, 2**32 - 1)}


def receipts_of(message: int) -> Filter:
    return {"$gte": receipt_key(message, 0, 0), "$lte": receipt_key(message, _GREATEST, 255)}


def receipts_of_delivery(message: int, subscription: int) -> Filter:
    return {"$gte": receipt_key(message, subscription, 0), "$lte": receipt_key(message, subscription, 255)}


def window_key(project: str, scope: str) -> Document:
    return {"project": project, "scope": scope}


def alert_key(project: str, cause: str) -> Document:
    return {"project": project, "cause": cause}


def without_nulls(document: Mapping[str, Any]) -> Document:
    return {name: value for name, value in document.items() if value is not None}


def changes(values: Mapping[str, Any]) -> Document:
    """The update that sets fields, and leaves out those that become None."""
    put = without_nulls(values)
    gone = {name: "" for name, value in values.items() if value is None}
    return {operator: fields for operator, fields in (("$set", put), ("$unset", gone)) if fields}


def values(document: Mapping[str, Any], fields: Iterable[str]) -> tuple[Any, ...]:
    return tuple(map(document.get, fields))


MESSAGE_FIELDS = (
    "_id", "body", "ttl", "created_at", "expires_at", "attributes", "parent_id", "client_id", "version", "kind", "foreign_id",
    "encrypted", "free_at", "claim_id", "collapse_key", "priority", "language",
)  # fmt: skip
"""What `bodies.Bodies.message` makes a message of."""

# -- indexes -------------------------------------------------------------------------------------------------------------------

Index = tuple[str, str, Sequence[str], Mapping[str, Any]]
"""Collection, name, fields (all ascending), options."""

_SET = {"$exists": True}


def _where(**condition: Any) -> Mapping[str, Any]:
    return {"partialFilterExpression": condition}


_NOT_PLAIN = _where(deleted_at=LIVE, free_at={"$gt": 0.0})
"""Messages that are delayed or claimed, or were: a plain message that is posted is in none of their indexes."""

INDEXES: Sequence[Index] = (
    (PROJECTS, "ix_projects_name", ("name",), {"unique": True}),
    (QUEUES, "ix_queues_name", ("project", "name"), {"unique": True, **_where(deleted_at=LIVE)}),
    (QUEUES, "ix_queues_project", ("project_id",), {}),
    (QUEUES, "ix_queues_prune", ("prune_at",), _where(prune_at=_SET)),
    # With the expiry, so that counting, and passing over what is expired, reads nothing but the index.
    (MESSAGES, "ix_messages_queue", ("queue_id", "deleted_at", "free_at", "_id", "expires_at"), {}),
    (MESSAGES, "ix_messages_prune", ("prune_at",), {}),
    # Delayed: without a claim.
    (MESSAGES, "ix_messages_delayed", ("queue_id", "claim_id", "_id"), _NOT_PLAIN),
    (MESSAGES, "ix_messages_claimed", ("queue_id", "_id"), _where(deleted_at=LIVE, claim_id=_SET)),
    # Of a claim; and, without one, by the end of the delay.
    (MESSAGES, "ix_messages_claim", ("claim_id", "free_at", "_id"), _NOT_PLAIN),
    (MESSAGES, "ix_messages_encrypted", ("encrypted", "_id"), _where(encrypted=True)),
    # Not unique: another service may use an id twice, and that is no reason to refuse a message.
    (MESSAGES, "ix_messages_foreign", ("foreign_id",), _where(foreign_id=_SET)),
    (CLAIMS, "ix_claims_expires", ("expires_at",), {}),
    (
        SUBSCRIPTIONS,
        "ix_subscriptions_subscriber",
        ("project", "queue", "subscriber"),
        {"unique": True, **_where(deleted_at=LIVE)},
    ),
    (SUBSCRIPTIONS, "ix_subscriptions_queue", ("project", "queue", "deleted_at", "_id"), _where(deleted_at=LIVE)),
    (SUBSCRIPTIONS, "ix_subscriptions_prune", ("prune_at",), _where(prune_at=_SET)),
    # By the key: what has recovered is looked for among those that fail, which are few.
    (SUBSCRIPTIONS, "ix_subscriptions_failing", ("_id", "failing_since"), _where(failing_since=_SET)),
    (OUTBOX, "ix_outbox_due", ("project_id", "due_at", "_id"), {}),
    (OUTBOX, "ix_outbox_lease", ("lease",), _where(lease=_SET)),
    (OUTBOX, "ix_outbox_queue", ("queue_id", "_id"), {}),
    (DELIVERIES, "ix_deliveries_due", ("project_id", "due_at", "_id"), _where(due_at=_SET)),
    # Parked rows have no due time.
    (DELIVERIES, "ix_deliveries_lane", ("lane_id", "due_at", "_id"), _where(lane_id=_SET)),
    (DELIVERIES, "ix_deliveries_lease", ("lease",), _where(lease=_SET)),
    # What was not handed to the workers has no ``ends_at``: housekeeping does not step over what was.
    (DELIVERIES, "ix_deliveries_expires", ("ends_at", "expires_at"), {}),
    (DELIVERIES, "ix_deliveries_subscription", ("subscription_id", "_id"), {}),
    # Not unique: a sharded collection can have no such index.
    (DELIVERIES, "ix_deliveries_held", ("held",), _where(held=_SET)),
    (LANES, "ix_lanes_name", ("project", "name"), {"unique": True}),
    (LANES, "ix_lanes_due", ("pool", "project_id", "due_at", "_id"), {}),
    (LANES, "ix_lanes_open", ("probe_at",), _where(trips={"$gt": 0})),
    (LANES, "ix_lanes_lease", ("lease",), _where(lease=_SET)),
    (DELIVERY_LOG, "ix_delivery_log_subscription", ("subscription_id", "_id"), {}),
    (WINDOWS, "ix_windows_ends", ("ends_at",), {}),
    (ALERTS, "ix_alerts_prune", ("prune_at",), {}),
    (JOBS, "ix_jobs_lease", ("lease",), _where(lease=_SET)),
    (JOBS, "ix_jobs_message", ("message_id", "after_id"), _where(message_id=_SET)),
    (JOBS, "ix_jobs_queue", ("queue_id", "message_id"), _where(queue_id=_SET)),
    (JOBS, "ix_jobs_failed", ("failed_at", "_id"), _where(failed_at=_SET)),
)

COLLECTIONS = (
    ALERTS,
    API_KEYS,
    CLAIMS,
    COUNTERS,
    DELIVERIES,
    DELIVERY_LOG,
    JOBS,
    LANES,
    MESSAGES,
    OUTBOX,
    PROJECTS,
    QUEUES,
    RECEIPTS,
    SCHEMA,
    SUBSCRIPTIONS,
    WAKES,
    WINDOWS,
    WORKERS,
)
