"""Housekeeping in bounded steps: what is due for a look is read from a snapshot, what came of it is written after.

A message is looked at when it expires, and then when its log may be dropped. Nothing adds to a log any more once the message
is expired and neither outbox nor rows know it, so that what the snapshot showed still holds when it is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, exists, func, literal, or_, select, text, union_all, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql.elements import ColumnElement

from zaqar_notify.model import LogEntry, MessageKind, State
from zaqar_notify.storage import ledger, statements
from zaqar_notify.storage.publishing import json_list
from zaqar_notify.storage.tables import (
    KIND_CODES,
    claims,
    deliveries,
    delivery_log,
    id_floors,
    messages,
    outbox,
    queues,
    subscriptions,
)

_LOOK_AGAIN = 600.0
"""Seconds, at most, until the next look at something that is over but still in use."""


@dataclasses.dataclass(frozen=True, slots=True)
class Retention:
    """Seconds."""

    log: float
    body: float | None

    @property
    def look_again(self) -> float:
        return min(_LOOK_AGAIN, max(self.log, 1.0))


def due(connection: Connection, now: float) -> bool:
    """Whether there is anything to do."""
    parts = (
        select(literal(1)).where(exists().where(queues.c.prune_at <= now)),
        select(literal(1)).where(exists().where(subscriptions.c.prune_at <= now)),
        select(literal(1)).where(exists().where(deliveries.c.expires_at <= now)),
        select(literal(1)).where(exists().where(messages.c.prune_at <= now)),
        select(literal(1)).where(exists().where(claims.c.expires_at <= now)),
        select(literal(1)).where(exists().where(*_delay_is_over(now))),
    )
    return connection.execute(union_all(*parts).limit(1)).first() is not None


# -- queues and subscriptions --------------------------------------------------------------------------------------------------


def prune_queues(connection: Connection, now: float, retention: Retention, limit: int) -> int:
    used = exists().where(messages.c.queue_id == queues.c.id)
    found = _look(connection, queues, now, limit, used.label("used"))
    _later(connection, queues, [number for number, is_used in found if is_used], now + retention.look_again)
    _remove(connection, queues, [number for number, is_used in found if not is_used])
    return len(found)


def prune_subscriptions(connection: Connection, now: float, retention: Retention, limit: int) -> int:
    column = subscriptions.c
    used = or_(
        exists().where(delivery_log.c.subscription_id == column.id), exists().where(deliveries.c.subscription_id == column.id)
    )
    found = _look(connection, subscriptions, now, limit, column.deleted_at, column.expires_at, used.label("used"))
    for number, deleted_at, expires_at, _ in found:
        if deleted_at is None:
            ended = {"deleted_at": expires_at, "prune_at": expires_at + retention.log}
            connection.execute(update(subscriptions).where(column.id == number).values(ended))
    deleted = [(number, is_used) for number, deleted_at, _, is_used in found if deleted_at is not None]
    _later(connection, subscriptions, [number for number, is_used in deleted if is_used], now + retention.look_again)
    gone = [number for number, is_used in deleted if not is_used]
    keep_floor(connection, subscriptions, gone)
    _remove(connection, subscriptions, gone)
    return len(found)


def _look(connection: Connection, table: Table, now: float, limit: int, *columns: Any) -> Sequence[Any]:
    query = select(table.c.id, *columns).where(table.c.prune_at <= now).order_by(table.c.prune_at).limit(limit)
    return connection.execute(query).all()


def _later(connection: Connection, table: Table, found: Sequence[int], at: float) -> None:
    if found:
        connection.execute(update(table).where(table.c.id.in_(found)).values(prune_at=at))


def _remove(connection: Connection, table: Table, found: Sequence[int]) -> None:
    if found:
        connection.execute(delete(table).where(table.c.id.in_(found)))


def keep_floor(connection: Connection, table: Table, gone: Sequence[int]) -> None:
    """Ids have to rise also above the greatest one, when that is removed."""
    if gone and max(gone) == connection.execute(select(func.max(table.c.id))).scalar():
        statement = insert(id_floors).values(name=table.name, last=max(gone))
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"last": statement.excluded.last}))


# -- claims and delays ---------------------------------------------------------------------------------------------------------

_MESSAGES_OF_A_CLAIM = 20
"""As many as a claim has at most, unless the operator allows more."""


def _delay_is_over(now: float) -> tuple[ColumnElement[bool], ...]:
    column = messages.c
    return column.free_at > text("0"), column.free_at <= now, column.claim_id.is_(None), column.deleted_at.is_(None)


def end_claims(connection: Connection, now: float, limit: int) -> int:
    """Messages whose claim or delay has ended are like any other; the claims are removed."""
    run = connection.exec_driver_sql
    query = select(claims.c.id).where(claims.c.expires_at <= now).order_by(claims.c.expires_at)
    ended = connection.execute(query.limit(max(1, limit // _MESSAGES_OF_A_CLAIM))).scalars().all()
    changed = run(statements.END_DELAYS, (now, limit)).rowcount
    if ended:
        freed = run(statements.END_CLAIMS, (*json_list(ended), limit)).rowcount
        changed += freed
        if freed < limit:
            keep_floor(connection, claims, ended)
            _remove(connection, claims, ended)
            changed += len(ended)
    return changed


# -- rows of expired messages --------------------------------------------------------------------------------------------------


def cancelled_with_queue() -> ColumnElement[bool]:
    """Of a message joined with its queue. Requests to confirm belong to their subscriptions, which outlive the queue."""
    return queues.c.deleted_at.is_not(None) & (messages.c.kind == KIND_CODES[MessageKind.NOTIFICATION])


def end_expired(connection: Connection, now: float, limit: int) -> int:
    """Rows that nobody has leased, of messages that are over: they end in the log."""
    row, subscription = deliveries.c, subscriptions.c
    deleted = or_(
        cancelled_with_queue(),
        subscription.id.is_(None),
        subscription.deleted_at.is_not(None) & subscription.deleted_at.is_distinct_from(subscription.expires_at),
    )
    found = connection.execute(
        select(row.message_id, row.subscription_id, row.lines, deleted.label("deleted"), messages.c.expires_at)
        .join_from(deliveries, messages, messages.c.id == row.message_id)
        .join(queues, queues.c.id == messages.c.queue_id)
        .outerjoin(subscriptions, subscription.id == row.subscription_id)
        .where(row.expires_at <= now, row.lease.is_(None))
        .order_by(row.expires_at)
        .limit(limit)
    ).all()
    if not found:
        return 0
    # A claim may have made the message live longer since the row was stored.
    later = [(expires_at, message, of) for message, of, _, _, expires_at in found if expires_at > now]
    ended = [one for one in found if one.expires_at <= now]
    lines = [
        ledger.line(message, of, LogEntry(lines + 1, now, State.CANCELLED if deleted else State.EXPIRED))
        for message, of, lines, deleted, _ in ended
    ]
    for statement, values in statements.INSERT_LINES.of(lines):
        connection.exec_driver_sql(statement, values)
    deleted_rows = [(message, of) for message, of, _, _, _ in ended]
    for statement, parameters in ((statements.DELETE_ROW, deleted_rows), (statements.KEEP_ROW, later)):
        if parameters:
            connection.exec_driver_sql(statement, parameters)
    return len(found)


# -- messages ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What is to become of a message."""

    id: int
    prune_at: float
    """0: it is to be removed."""
    drop_body: bool = False


def look_at_messages(connection: Connection, now: float, retention: Retention, limit: int) -> list[Look]:
    """Reads as many log lines as the messages have, and so belongs into a snapshot."""
    column = messages.c
    used = or_(exists().where(outbox.c.message_id == column.id), exists().where(deliveries.c.message_id == column.id))
    last = select(func.max(delivery_log.c.at)).where(delivery_log.c.message_id == column.id).scalar_subquery()
    found = connection.execute(
        select(column.id, used.label("used"), last.label("last"), (func.length(column.body) > 0).label("body"))
        .where(column.prune_at > 0, column.prune_at <= now)
        .order_by(column.prune_at)
        .limit(limit)
    )
    return [_judge(row, now, retention) for row in found]


def _judge(found: Any, now: float, retention: Retention) -> Look:
    number, used, last, body = found
    if used:
        return Look(number, now + retention.look_again)
    if last is None:
        return Look(number, 0.0)
    ended_at = last / 1e3
    if ended_at + retention.log <= now:
        return Look(number, 0.0)
    if retention.body is not None and body and ended_at + retention.body < ended_at + retention.log:
        if ended_at + retention.body > now:
            return Look(number, ended_at + retention.body)
        return Look(number, ended_at + retention.log, drop_body=True)
    return Look(number, ended_at + retention.log)


def store_looks(connection: Connection, looks: Sequence[Look]) -> int:
    if looks:
        column = messages.c
        # Readers pass over what is expired by the index only once it has deleted_at.
        hidden = func.coalesce(column.deleted_at, column.expires_at)
        moved = update(messages).where(column.id == bindparam("of")).values(prune_at=bindparam("at"), deleted_at=hidden)
        connection.execute(moved, [{"of": look.id, "at": look.prune_at} for look in looks])
        emptied = [look.id for look in looks if look.drop_body]
        if emptied:
            connection.execute(update(messages).where(column.id.in_(emptied)).values(body=b""))
    return len(looks)


def remove_messages(connection: Connection, limit: int) -> int:
    """Messages whose retention is over, and before them the lines of their logs."""
    column = messages.c
    found = connection.execute(select(column.id).where(column.prune_at == 0).order_by(column.id).limit(limit)).scalars().all()
    if not found:
        return 0
    lines = connection.exec_driver_sql(statements.REMOVE_LINES, (*json_list(found), limit)).rowcount
    if lines == limit:
        return limit
    keep_floor(connection, messages, found)
    _remove(connection, messages, found)
    return lines + len(found)
