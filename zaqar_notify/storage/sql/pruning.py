"""Housekeeping in bounded steps: what is due for a look is read from a snapshot, what came of it is written after.

A message is looked at when it expires, and then when its log may be dropped. Nothing adds to a log any more once the message
is expired and neither outbox nor rows know it, so that what the snapshot showed still holds when it is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, Table, case, delete, exists, func, literal, or_, select, text, union_all, update
from sqlalchemy.sql.elements import ColumnElement

from zaqar_notify.model import LogEntry, MessageKind, State
from zaqar_notify.storage.codes import KIND_CODES, STATE_CODES
from zaqar_notify.storage.retention import Look, Retention
from zaqar_notify.storage.sql import ledger, projects, statements
from zaqar_notify.storage.sql.statements import json_list
from zaqar_notify.storage.sql.tables import (
    alerts,
    claims,
    deliveries,
    delivery_log,
    jobs,
    lanes,
    messages,
    outbox,
    queues,
    subscriptions,
    windows,
)

_IDLE = 3600.0
"""Seconds after which a breaker is forgotten that nothing waits for: nobody has probed its endpoint since."""


def due(connection: Connection, now: float, retention: Retention) -> bool:
    """Whether there is anything to do."""
    parts = (
        select(literal(1)).where(exists().where(queues.c.prune_at <= now)),
        select(literal(1)).where(exists().where(subscriptions.c.prune_at <= now)),
        select(literal(1)).where(exists().where(deliveries.c.expires_at <= now, deliveries.c.ends_at.is_(None))),
        select(literal(1)).where(exists().where(deliveries.c.ends_at <= now)),
        select(literal(1)).where(exists().where(messages.c.prune_at <= now)),
        select(literal(1)).where(exists().where(claims.c.expires_at <= now)),
        select(literal(1)).where(exists().where(*_delay_is_over(now))),
        select(literal(1)).where(exists().where(alerts.c.prune_at <= now)),
        select(literal(1)).where(exists().where(*_idle(now))),
        select(literal(1)).where(exists().where(windows.c.ends_at <= now)),
        select(literal(1)).where(exists().where(jobs.c.failed_at <= now - retention.log)),
    )
    return connection.execute(union_all(*parts).limit(1)).first() is not None


# -- queues and subscriptions --------------------------------------------------------------------------------------------------


def prune_queues(connection: Connection, now: float, retention: Retention, limit: int) -> int:
    used = exists().where(messages.c.queue_id == queues.c.id)
    found = _look(connection, queues, now, limit, used.label("used"), queues.c.project_id)
    _later(connection, queues, [one.id for one in found if one.used], now + retention.look_again)
    gone = [one for one in found if not one.used]
    if gone:
        _remove(connection, queues, [one.id for one in gone])
        projects.remove_unused(connection, {one.project_id for one in gone})
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
    return connection.execute(_held(query)).all()


def _held(query: Select[Any], *of: Table) -> Select[Any]:
    """Nobody else changes what is found before this transaction has ended; what somebody is changing is passed over."""
    return query.with_for_update(skip_locked=True, of=of or None)


def _later(connection: Connection, table: Table, found: Sequence[int], at: float) -> None:
    if found:
        connection.execute(update(table).where(table.c.id.in_(found)).values(prune_at=at))


def _remove(connection: Connection, table: Table, found: Sequence[int]) -> None:
    if found:
        connection.execute(delete(table).where(table.c.id.in_(found)))


def keep_floor(connection: Connection, table: Table, gone: Sequence[int], last: int | None = None) -> None:
    """Ids have to rise also above the greatest one, when that is removed: ``last``, or the one that is in the table."""
    if gone and max(gone) == (last or connection.execute(select(func.max(table.c.id))).scalar()):
        connection.exec_driver_sql(statements.RAISE_FLOOR, (table.name, max(gone)))


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
    ended = connection.execute(_held(query.limit(max(1, limit // _MESSAGES_OF_A_CLAIM)))).scalars().all()
    changed = run(statements.END_DELAYS, (now, limit)).rowcount
    if ended:
        changed += run(statements.END_CLAIMS, (*json_list(ended), limit)).rowcount
        last = connection.execute(select(func.max(claims.c.id))).scalar()
        gone = run(statements.REMOVE_CLAIMS, json_list(ended)).scalars().all()
        keep_floor(connection, claims, gone, last)
        changed += len(gone)
    return changed


# -- alerts, windows and lanes -------------------------------------------------------------------------------------------------


def forget_alerts(connection: Connection, now: float, limit: int) -> int:
    return connection.exec_driver_sql(statements.REMOVE_ALERTS, (now, limit)).rowcount


def remove_windows(connection: Connection, now: float, limit: int) -> int:
    return connection.exec_driver_sql(statements.REMOVE_ENDED_WINDOWS, (now, limit)).rowcount


def _idle(now: float) -> tuple[ColumnElement[bool], ...]:
    parked = exists().where(deliveries.c.lane_id == lanes.c.id, deliveries.c.due_at.is_(None))
    return lanes.c.trips > text("0"), lanes.c.probe_at <= now - _IDLE, ~parked


def remove_idle_lanes(connection: Connection, now: float, limit: int) -> int:
    run = connection.exec_driver_sql
    found = run(statements.IDLE_LANES, (now - _IDLE, limit)).scalars().all()
    return run(statements.REMOVE_IDLE_LANES, json_list(found)).rowcount if found else 0


# -- jobs ----------------------------------------------------------------------------------------------------------------------


def remove_failed_jobs(connection: Connection, now: float, retention: Retention, limit: int) -> int:
    return connection.exec_driver_sql(statements.REMOVE_FAILED_JOBS, (now - retention.log, limit)).rowcount


# -- rows of expired messages --------------------------------------------------------------------------------------------------


def cancelled_with_queue() -> ColumnElement[bool]:
    """Of a message joined with its queue. Requests to confirm belong to their subscriptions, which outlive the queue."""
    return queues.c.deleted_at.is_not(None) & (messages.c.kind == KIND_CODES[MessageKind.NOTIFICATION])


def end_expired(connection: Connection, now: float, retention: Retention, limit: int) -> int:
    """Rows that nobody has leased, of messages that are over: they are handed to the workers, which tell whom it concerns.

    Those of what was deleted end here, in the log; so do those that no worker has ended in time.
    """
    row = deliveries.c
    found = _expired(connection, now, limit, row.expires_at, row.ends_at.is_(None))
    if len(found) < limit:
        found += _expired(connection, now, limit - len(found), row.ends_at)
    # The message may live longer than the row says.
    later = [(one.expires_at, one.message_id, one.subscription_id) for one in found if one.expires_at > now]
    expired = [one for one in found if one.expires_at <= now]
    handed = [(now + retention.look_again, one.message_id, one.subscription_id) for one in expired if _is_for_workers(one)]
    ended = [one for one in expired if not _is_for_workers(one)]
    lines = [ledger.line(one.message_id, one.subscription_id, _end(one, now)) for one in ended]
    statements.INSERT_LINES.into(connection, lines)
    if ended:
        connection.exec_driver_sql(statements.DELETE_ROWS, json_list((one.message_id, one.subscription_id) for one in ended))
    for statement, parameters in (
        (statements.HAND_OVER_ROW, handed),
        (statements.KEEP_ROW, later),
    ):
        if parameters:
            connection.exec_driver_sql(statement, parameters)
    return len(found)


def _expired(connection: Connection, now: float, limit: int, due: ColumnElement[Any], *where: ColumnElement[bool]) -> list[Any]:
    row, subscription = deliveries.c, subscriptions.c
    deleted = or_(
        cancelled_with_queue(),
        subscription.id.is_(None),
        subscription.deleted_at.is_not(None) & subscription.deleted_at.is_distinct_from(subscription.expires_at),
    )
    columns = (
        row.message_id,
        row.subscription_id,
        row.lines,
        row.ends_at,
        deleted.label("deleted"),
        _expiry().label("expires_at"),
    )
    query = (
        select(*columns)
        .join_from(deliveries, messages, messages.c.id == row.message_id)
        .join(queues, queues.c.id == messages.c.queue_id)
        .outerjoin(subscriptions, subscription.id == row.subscription_id)
        .where(due <= now, row.lease.is_(None), *where)
        .order_by(due)
        .limit(limit)
    )
    return list(connection.execute(_held(query, deliveries)))


def _is_for_workers(expired: Any) -> bool:
    """Once."""
    return not expired.deleted and expired.ends_at is None


def _end(expired: Any, now: float) -> LogEntry:
    return LogEntry(expired.lines + 1, now, State.CANCELLED if expired.deleted else State.EXPIRED)


def _expiry() -> ColumnElement[float]:
    return case((deliveries.c.again > 0, deliveries.c.expires_at), else_=messages.c.expires_at)


# -- messages ------------------------------------------------------------------------------------------------------------------


def look_at_messages(connection: Connection, now: float, retention: Retention, limit: int) -> list[Look]:
    """Reads as many log lines as the messages have, and so belongs into a snapshot."""
    column, log = messages.c, delivery_log.c
    used = or_(*(exists().where(table.c.message_id == column.id) for table in (outbox, deliveries, jobs)))
    last = select(func.max(log.at)).where(log.message_id == column.id).scalar_subquery()
    query = (
        select(
            column.id,
            column.prune_at,
            column.expires_at,
            column.ended_at,
            used.label("used"),
            last.label("last"),
            (func.length(column.body) > 0).label("body"),
        )
        .where(column.prune_at > 0, column.prune_at <= now)
        .order_by(column.prune_at)
        .limit(limit)
    )
    judging = _Judging(connection, now, retention)
    found = connection.execute(query).all()
    judging.look_for_delivered([one.id for one in found], limit)
    return [judging.judge(one) for one in found]


class _Judging:
    def __init__(self, connection: Connection, now: float, retention: Retention) -> None:
        self._connection = connection
        self._now = now
        self._retention = retention
        self._old: dict[int, list[tuple[int, float]]] = {}
        """By message: (subscription, when it ended) of what was delivered long ago."""
        self._complete = True
        """There is no more of it."""
        self._recent: dict[int, float] = {}
        """By message: when the first of the others was delivered."""

    def look_for_delivered(self, found: Sequence[int], limit: int) -> None:
        kept = self._retention.forget_delivered
        if kept is None or not found:
            return
        run = self._connection.exec_driver_sql
        (asked,) = json_list(found)
        before = round((self._now - kept) * 1e3)
        asked_for = {"asked": asked, "delivered": STATE_CODES[State.DELIVERED], "before": before}
        lines = run(statements.DELIVERED_BEFORE, {**asked_for, "limit": limit}).all()
        self._complete = len(lines) < limit
        for message, subscription, at in lines:
            self._old.setdefault(message, []).append((subscription, at / 1e3))
        self._recent = {message: at / 1e3 for message, at in run(statements.DELIVERED_SINCE, asked_for)}

    def judge(self, found: Any) -> Look:
        old = self._old.get(found.id, ())
        prune_at, drop_body = self._retention.next_look(
            self._now,
            expires_at=found.expires_at,
            used=found.used,
            ended_at=max((found.last or 0) / 1e3, found.ended_at or 0.0),
            has_body=found.body,
            delivered_at=self._recent.get(found.id, math.inf),
        )
        if not self._complete:
            # It stays due, until all is gone that is too old.
            prune_at, drop_body = found.prune_at, False
        forgotten = tuple(subscription for subscription, _ in old)
        return Look(found.id, found.prune_at, prune_at, drop_body, forgotten, max((at for _, at in old), default=0.0))


def store_looks(connection: Connection, looks: Sequence[Look], now: float) -> int:
    held = set(connection.exec_driver_sql(statements.HOLD_MESSAGES, json_list(look.id for look in looks)).scalars())
    looks = [look for look in looks if look.id in held]
    if not looks:
        return 0
    stored = [
        {
            "message": look.id,
            "seen": look.seen,
            "prune_at": look.prune_at,
            "drop_body": look.drop_body,
            "ended_at": look.ended_at,
            "now": now,
        }
        for look in looks
    ]
    connection.exec_driver_sql(statements.STORE_LOOK, stored)
    forgotten = [(look.id, subscription) for look in looks for subscription in look.forget]
    if not forgotten:
        return len(looks)
    connection.exec_driver_sql(statements.FORGET_RECEIPTS, json_list(forgotten))
    return len(looks) + connection.exec_driver_sql(statements.FORGET_DELIVERED, json_list(forgotten)).rowcount


def remove_messages(connection: Connection, limit: int) -> int:
    """Messages whose retention is over, and before them their receipts and the lines of their logs."""
    column = messages.c
    query = select(column.id).where(column.prune_at == 0).order_by(column.id).limit(limit)
    found = connection.execute(_held(query)).scalars().all()
    if not found:
        return 0
    removed = 0
    for statement in (statements.REMOVE_RECEIPTS, statements.REMOVE_LINES):
        removed += connection.exec_driver_sql(statement, (*json_list(found), limit - removed)).rowcount
        if removed == limit:
            return limit
    keep_floor(connection, messages, found)
    _remove(connection, messages, found)
    return removed + len(found)
