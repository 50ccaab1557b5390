"""Did it arrive? Pages of deliveries, merged from the log, the rows and the open outbox entries.

Each part is read by an index from where the page begins, and no further than the page is long.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from zaqar_notify.model import DeliveryRecord, LogEntry
from zaqar_notify.storage import ids, standing
from zaqar_notify.storage.base import MOST_LINES
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.codes import OUTCOMES, STATES
from zaqar_notify.storage.sql import pruning, receiving, statements
from zaqar_notify.storage.sql.statements import json_list
from zaqar_notify.storage.sql.tables import deliveries, delivery_log, jobs, messages, outbox, queues, subscriptions
from zaqar_notify.storage.standing import Open

_REMOVED = (True, False)


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What of them is handed out, and at what moment."""

    limit: int
    now: float
    exchanges: Bodies | None
    """What opens what went over the wire; None: it is left out."""


def find_message(connection: Connection, project: str, queue: str, public_id: str) -> int | None:
    """By its foreign id where it has one, whatever became of it. The newest, where another service used an id twice."""
    asked = {"public": public_id, "message": ids.parse(public_id), "project": project, "name": queue}
    number: int | None = connection.exec_driver_sql(statements.FIND_PUBLIC_MESSAGE, asked).scalar()
    return number


def find_marker(connection: Connection, project: str, queue: str, marker: str | None) -> int | None:
    """The id within of the message id ``marker``. Raises `InvalidRequest` for what cannot be one."""
    found = None if marker is None else find_message(connection, project, queue, marker)
    return ids.parse_marker(marker) if found is None else found


def of_message(
    connection: Connection, project: str, queue: str, message_id: int, *, behind: int, wanted: Wanted
) -> list[DeliveryRecord] | None:
    message = connection.execute(
        select(messages.c.expires_at, messages.c.queue_id, queues.c.deleted_at, outbox.c.message_id, outbox.c.after_id)
        .join_from(messages, queues, queues.c.id == messages.c.queue_id)
        .outerjoin(outbox, outbox.c.message_id == messages.c.id)
        .where(messages.c.id == message_id, messages.c.prune_at > 0, queues.c.project == project, queues.c.name == queue)
    ).first()
    if message is None:
        return None
    log, rows = delivery_log.c, deliveries.c
    parts = [
        select(log.subscription_id)
        .distinct()
        .where(log.message_id == message_id, log.subscription_id > behind)
        .order_by(log.subscription_id),
        select(rows.subscription_id)
        .where(rows.message_id == message_id, rows.subscription_id > behind)
        .order_by(rows.subscription_id),
    ]
    if message.message_id is not None:
        parts.append(_matching(project, queue, max(behind, message.after_id or 0), wanted.now))
    found = _read(connection, parts, wanted.limit)
    ranges = _ranges_behind(connection, message_id, behind)
    found.append(_in_ranges(connection, ranges, wanted.limit, functools.partial(_matching, project, queue, now=wanted.now)))
    page = _merge(found, wanted.limit)
    pairs = [(message_id, subscription_id) for subscription_id in page]
    return _records(connection, pairs, wanted)


def _matching(project: str, queue: str, behind: int, now: float) -> Select[tuple[int]]:
    """Subscriptions that an open entry of the queue is still to be matched with."""
    column = subscriptions.c
    return (
        select(column.id)
        .where(column.project == project, column.queue == queue, column.id > behind, column.deleted_at.is_(None))
        .where(or_(column.expires_at.is_(None), column.expires_at > now))
        .order_by(column.id)
    )


def of_subscription(
    connection: Connection, project: str, queue: str, subscription_id: int, *, before: int | None, wanted: Wanted
) -> list[DeliveryRecord] | None:
    column = subscriptions.c
    subscription = connection.execute(
        select(column.deleted_at, column.expires_at).where(
            column.id == subscription_id, column.project == project, column.queue == queue
        )
    ).first()
    if subscription is None:
        return None
    log, rows = delivery_log.c, deliveries.c
    parts = [
        select(log.message_id).distinct().where(log.subscription_id == subscription_id).order_by(log.message_id.desc()),
        select(rows.message_id).where(rows.subscription_id == subscription_id).order_by(rows.message_id.desc()),
    ]
    if subscription.deleted_at is None and (subscription.expires_at is None or subscription.expires_at > wanted.now):
        queue_id = connection.execute(
            select(queues.c.id).where(queues.c.project == project, queues.c.name == queue, queues.c.deleted_at.is_(None))
        ).scalar()
        if queue_id is not None:
            entries = outbox.c
            parts.append(
                select(entries.message_id)
                .where(entries.queue_id == queue_id)
                .where(or_(entries.after_id.is_(None), entries.after_id < subscription_id))
                .order_by(entries.message_id.desc())
            )
            part = jobs.c
            parts.append(
                select(part.message_id)
                .distinct()
                .where(part.queue_id == queue_id, *_covers(subscription_id, subscription_id))
                .order_by(part.message_id.desc())
            )
    if before is not None:
        parts = [part.where(part.selected_columns[0] < before) for part in parts]
    page = _merge(_read(connection, parts, wanted.limit), wanted.limit, newest_first=True)
    return _records(connection, [(message_id, subscription_id) for message_id in page], wanted)


def _ranges_behind(connection: Connection, message_id: int, behind: int) -> list[tuple[int, int | None]]:
    """Of each job of the message, in order: the part of its range behind this subscription. Ranges do not overlap."""
    column = jobs.c
    after = func.coalesce(column.after_id, 0)
    query = select(after, column.last_id).where(column.message_id == message_id).order_by(after)
    query = query.where(or_(column.last_id.is_(None), column.last_id > behind))
    return [(max(behind, begins), last) for begins, last in connection.execute(query)]


def _in_ranges(
    connection: Connection, ranges: Iterable[tuple[int, int | None]], limit: int, matching: Callable[[int], Select[Any]]
) -> list[int]:
    """Subscriptions that jobs of a message are still to be matched with."""
    found: list[int] = []
    for behind, last in ranges:
        query = matching(behind)
        if last is not None:
            query = query.where(subscriptions.c.id <= last)
        found += connection.execute(query.limit(limit - len(found))).scalars().all()
        if len(found) == limit:
            break
    return found


def _read(connection: Connection, parts: Iterable[Select[Any]], limit: int) -> list[Sequence[int]]:
    return [connection.execute(part.limit(limit)).scalars().all() for part in parts]


def _merge(found: Iterable[Sequence[int]], limit: int, *, newest_first: bool = False) -> list[int]:
    merged = (number for number, _ in itertools.groupby(heapq.merge(*found, reverse=newest_first)))
    return list(itertools.islice(merged, limit))


def _records(connection: Connection, pairs: Sequence[tuple[int, int]], wanted: Wanted) -> list[DeliveryRecord]:
    """One for each pair of message and subscription; of one message, or of one subscription."""
    message_ids, subscription_ids = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    now = wanted.now
    log = _log(connection, pairs, wanted.exchanges)
    receipts = receiving.of(connection, pairs)
    rows = _rows(connection, message_ids, subscription_ids, now)
    entries = _entries(connection, message_ids)
    ranges = _ranges(connection, message_ids, subscription_ids)
    of_messages = _of_messages(connection, message_ids, now)
    of_subscriptions = _of_subscriptions(connection, subscription_ids, now)
    records = []
    for message, subscription in pairs:
        public_id, cancelled, expired = of_messages.get(message, (ids.show(message), *_REMOVED))
        its_cancelled, its_expired = of_subscriptions.get(subscription, _REMOVED)
        row = rows.get((message, subscription))
        records.append(
            standing.record(
                public_id,
                ids.show(subscription),
                log.get((message, subscription), ()),
                row or entries.get(message) or _in_range(ranges.get(message, ()), subscription),
                cancelled=cancelled or its_cancelled,
                expired=its_expired or (expired if row is None or row.expires_at is None else row.expires_at <= now),
                now=now,
                receipts=receipts.get((message, subscription), ()),
            )
        )
    return records


def _of_messages(connection: Connection, message_ids: set[int], now: float) -> dict[int, tuple[str, bool, bool]]:
    """Its id outside, whether it was cancelled with its queue, and whether it is expired."""
    query = (
        select(messages.c.id, messages.c.foreign_id, pruning.cancelled_with_queue(), messages.c.expires_at)
        .join_from(messages, queues, queues.c.id == messages.c.queue_id)
        .where(messages.c.id.in_(message_ids))
    )
    return {
        message: (foreign_id or ids.show(message), cancelled, expires_at <= now)
        for message, foreign_id, cancelled, expires_at in connection.execute(query)
    }


def _of_subscriptions(connection: Connection, subscription_ids: set[int], now: float) -> dict[int, tuple[bool, bool]]:
    """Whether it was deleted, and whether it is expired."""
    column = subscriptions.c
    query = select(column.id, column.deleted_at, column.expires_at).where(column.id.in_(subscription_ids))
    return {
        subscription: (deleted_at is not None and deleted_at != expires_at, expires_at is not None and expires_at <= now)
        for subscription, deleted_at, expires_at in connection.execute(query)
    }


def _log(
    connection: Connection, pairs: Sequence[tuple[int, int]], exchanges: Bodies | None
) -> dict[tuple[int, int], list[LogEntry]]:
    found: dict[tuple[int, int], list[LogEntry]] = {}
    statement = statements.LAST_LINES if exchanges is None else statements.LAST_LINES_WITH_EXCHANGES
    for line in connection.exec_driver_sql(statement, (*json_list(pairs), MOST_LINES)):
        found.setdefault((line.message_id, line.subscription_id), []).append(_entry(line, exchanges))
    return found


def _entry(line: Row[Any], exchanges: Bodies | None) -> LogEntry:
    stored = line.exchange
    return LogEntry(
        number=line.number,
        at=line.at / 1e3,
        state=STATES[line.state],
        outcome=None if line.outcome is None else OUTCOMES[line.outcome],
        status=line.status,
        duration=None if line.duration is None else line.duration / 1e6,
        detail=line.detail or "",
        exchange=exchanges.exchange(line.message_id, line.subscription_id, line.number, stored)
        if exchanges is not None and stored is not None
        else None,
        target=line.target or 0,
    )


def _rows(connection: Connection, message_ids: set[int], subscription_ids: set[int], now: float) -> dict[tuple[int, int], Open]:
    column = deliveries.c
    query = select(
        column.message_id,
        column.subscription_id,
        column.due_at,
        column.lease,
        column.expires_at,
        or_(column.again > 0, column.report.is_not(None)).label("own_expiry"),
        (column.window_key.is_not(None) & column.lease.is_(None) & (column.due_at > now)).label("held"),
    ).where(column.message_id.in_(message_ids), column.subscription_id.in_(subscription_ids))
    return {(row.message_id, row.subscription_id): _open(row) for row in connection.execute(query)}


def _open(row: Any) -> Open:
    expires_at = row.expires_at if row.own_expiry else None
    return Open(row.due_at, leased=row.lease is not None, row=True, expires_at=expires_at, held=bool(row.held))


def _entries(connection: Connection, message_ids: set[int]) -> dict[int, Open]:
    column = outbox.c
    query = select(column.message_id, column.due_at, column.lease).where(column.message_id.in_(message_ids))
    return {message: Open(due_at, leased=lease is not None) for message, due_at, lease in connection.execute(query)}


def _covers(first: int, last: int) -> tuple[ColumnElement[bool], ...]:
    """Of jobs: those that some of these subscriptions may be in the range of."""
    column = jobs.c
    return or_(column.after_id.is_(None), column.after_id < last), or_(column.last_id.is_(None), column.last_id >= first)


def _ranges(
    connection: Connection, message_ids: set[int], subscription_ids: set[int]
) -> dict[int, list[tuple[int | None, int | None]]]:
    """By message: of each job, behind which subscription it stands, and the last one of its range."""
    if not subscription_ids:
        return {}
    found: dict[int, list[tuple[int | None, int | None]]] = {}
    query = select(jobs.c.message_id, jobs.c.after_id, jobs.c.last_id).where(
        jobs.c.message_id.in_(message_ids), *_covers(min(subscription_ids), max(subscription_ids))
    )
    for message, after, last in connection.execute(query):
        found.setdefault(message, []).append((after, last))
    return found


def _in_range(ranges: Iterable[tuple[int | None, int | None]], subscription: int) -> Open | None:
    waits = any((after or 0) < subscription and (last is None or subscription <= last) for after, last in ranges)
    return Open(0, leased=False) if waits else None
