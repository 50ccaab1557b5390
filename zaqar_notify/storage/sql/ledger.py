"""The worker's side of the ledger: settling, ending leases. Fences are read first, under the write lock, so that what is
written after needs no condition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import Alert, Draft, LaneKey, LogEntry, State
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Breaker, Closing, Settlement
from zaqar_notify.storage.bodies import Bodies, exchange_text
from zaqar_notify.storage.codes import OUTCOME_CODES, STATE_CODES
from zaqar_notify.storage.retention import Retention
from zaqar_notify.storage.sql import alerting, jobs, projects, publishing, statements
from zaqar_notify.storage.sql.failing import Verdicts
from zaqar_notify.storage.sql.statements import json_list
from zaqar_notify.storage.sql.taking import token_of

_Run = Callable[..., Any]

# -- settling ------------------------------------------------------------------------------------------------------------------


class Repeated(Exception):
    """Some lines are in the log already: they were stored, with all that belongs to them, by a commit that was reported as
    failed. Nothing else may be stored of these settlements."""


class _Settling:
    """One settlement after the other goes into lists, which are stored in bulk."""

    def __init__(self, connection: Connection, now: float, bodies: Bodies, retention: Retention) -> None:
        self._connection = connection
        self._bodies = bodies
        self._retention = retention
        self._run = connection.exec_driver_sql
        self._now = now
        self._lanes: dict[LaneKey, int] = {}
        self._lines: list[tuple[Any, ...]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._fresh: dict[tuple[int, int], tuple[Any, ...]] = {}
        """Rows of deliveries that had none."""
        self._ended: list[tuple[int, int]] = []
        self._verdicts = Verdicts()
        self._publish: list[tuple[int, str, Draft]] = []
        self._alerts: list[tuple[int, Alert]] = []

    def add(self, settlement: Settlement, message: int, subscription: int) -> None:
        if settlement.log is not None:
            self._lines.append(line(message, subscription, settlement.log))
        if settlement.park is not None:
            self._leave_row(settlement, message, subscription, self._lane(settlement.park), None)
        elif settlement.due_at is not None:
            self._leave_row(settlement, message, subscription, None, settlement.due_at)
        elif settlement.from_row:
            self._ended.append((message, subscription))
        self._verdicts.add(settlement, message, subscription)
        self._alerts += ((message, alert) for alert in settlement.alerts)
        for queue, draft in settlement.publish:
            self._publish.append((message, queue, draft))

    def _leave_row(
        self, settlement: Settlement, message: int, subscription: int, lane: int | None, due_at: float | None
    ) -> None:
        lease = settlement.token if settlement.hold and due_at is not None else None
        row = message, subscription, lane, due_at, lease, settlement.attempts, settlement.lines
        if settlement.from_row:
            self._rows.append(row)
        else:
            self._fresh[message, subscription] = row

    def find_lanes(self, settlements: Sequence[Settlement]) -> None:
        """All together, before any of them is parked in."""
        asked = {(one.park.project, one.park.name) for one in settlements if one.park is not None}
        if asked:
            found = self._run(statements.FIND_LANES_TO_PARK, json_list(asked))
            self._lanes = {LaneKey(project, name): number for project, name, number in found}

    def _lane(self, key: LaneKey) -> int:
        if key not in self._lanes:
            project_id = projects.number_of(self._connection, key.project)
            self._lanes[key] = self._run(statements.INSERT_LANE, (key.project, key.name, project_id)).scalar_one()
        return self._lanes[key]

    def store(self) -> bool:
        """False when some lines were there already."""
        rows = [*self._rows, *self._fresh.values()]
        if rows:
            found = self._run(statements.ORIGINS, json_list({row[0] for row in rows}))
            origins = {message: (expires_at, project_id, 0) for message, expires_at, project_id in found}
            rows = [(*row, *origins[row[0]]) for row in rows]
        self._seal_exchanges()
        all_new = statements.INSERT_LINES.into(self._connection, self._lines) == len(self._lines)
        statements.PUT_ROWS.into(self._connection, rows[: len(self._rows)])
        statements.LEAVE_ROWS.into(self._connection, sorted(rows[len(self._rows) :]))
        if self._ended:
            self._run(statements.DELETE_ROWS, json_list(self._ended))
        self._alerts += self._verdicts.store(self._run)
        if self._publish or self._alerts:
            self._publish_drafts()
        return all_new

    def _is_due(self, project: str, alert: Alert) -> bool:
        return alerting.is_due(self._run, project, alert, self._now)

    def _encrypted(self, messages: set[int]) -> set[int]:
        return set(self._run(statements.ENCRYPTED, json_list(messages)).scalars()) if messages else set()

    def _seal_exchanges(self) -> None:
        encrypted = self._encrypted({line[0] for line in self._lines if line[-1] is not None})
        if encrypted:
            self._lines = [self._sealed(line) if line[0] in encrypted and line[-1] else line for line in self._lines]

    def _sealed(self, line: tuple[Any, ...]) -> tuple[Any, ...]:
        message, subscription, number, *_, exchange = line
        return *line[:-1], self._bodies.seal_exchange(message, subscription, number, exchange)

    def _publish_drafts(self) -> None:
        asked = json_list({message for message, *_ in (*self._publish, *self._alerts)})
        names: dict[int, str] = dict(self._run(statements.PROJECTS, asked).all())
        posts = [publishing.Post(names[message], queue, (draft,)) for message, queue, draft in self._publish]
        due = [(message, alert) for message, alert in self._alerts if self._is_due(names[message], alert)]
        encrypted = self._encrypted({message for message, _ in due})
        for message, alert in due:
            posts.append(publishing.Post(names[message], alert.queue, (alert.draft,), encrypts=message in encrypted))
        publishing.insert(self._connection, posts, self._now, self._bodies, self._retention)


def settle(
    connection: Connection,
    settlements: Sequence[Settlement],
    closings: Sequence[Closing],
    breakers: Sequence[Breaker],
    *,
    now: float,
    bodies: Bodies,
    retention: Retention,
    repeats: bool = False,
) -> int:
    """Returns how many settlements had lost their lease. Raises `Repeated`, unless it is told that it ``repeats``."""
    kept = _Settling(connection, now, bodies, retention)
    parsed = [(one, ids.parse(one.message_id), ids.parse(one.subscription_id)) for one in settlements]
    fences = _Fences(connection.exec_driver_sql, parsed)
    kept.find_lanes(settlements)
    stored = _stored(connection.exec_driver_sql, parsed) if repeats else frozenset()
    lost = 0
    for one, message, subscription in parsed:
        if message is None or subscription is None or not fences.hold(one, message, subscription):
            lost += 1
        elif one.from_row or one.log is None or (message, subscription, one.log.number) not in stored:
            kept.add(one, message, subscription)
    if not kept.store() and not repeats:
        raise Repeated
    _close(connection, closings, now)
    for breaker in sorted(breakers, key=lambda one: (one.lane.project, one.lane.name)):
        _set_breaker(connection, breaker)
    return lost


_Parsed = tuple[Settlement, int | None, int | None]
"""With its message and its subscription."""
_Pair = tuple[int | None, int | None]
_NOT_LEASED = (None, 0)


def _stored(run: _Run, parsed: Sequence[_Parsed]) -> Collection[tuple[int, int, int]]:
    """The lines that are in the log already."""
    asked = [(message, other, one.log.number) for one, message, other in parsed if one.log is not None]
    return {(message, other, number) for message, other, number in run(statements.STORED_LINES, json_list(asked))}


class _Fences:
    """The leases under which settlements may be stored."""

    def __init__(self, run: _Run, parsed: Sequence[_Parsed]) -> None:
        rows = {(message, other) for one, message, other in parsed if one.from_row and None not in (message, other)}
        of_entries = [(one, message, other) for one, message, other in parsed if not one.from_row]
        entries = {message for one, message, _ in of_entries if one.job_id is None and message is not None}
        pages = {ids.parse(one.job_id) for one, *_ in of_entries if one.job_id is not None}
        self._entries = _leased_entries(run, entries)
        self._pages = jobs.fences(run, {number for number in pages if number is not None})
        self._rows = _leased_rows(run, rows)
        doubtful = [(message, other) for one, message, other in of_entries if self._of_entry(one, message)[1]]
        self._cancelled = _cancelled(run, doubtful)

    def _of_entry(self, one: Settlement, message: int | None) -> tuple[int | None, int]:
        """The token, and how many deliveries were cancelled."""
        if one.job_id is not None:
            return self._pages.get(ids.parse(one.job_id) or 0, _NOT_LEASED)
        return self._entries.get(message, _NOT_LEASED)

    def hold(self, one: Settlement, message: int, subscription: int) -> bool:
        if one.from_row:
            return self._rows.get((message, subscription)) == one.token
        return self._of_entry(one, message)[0] == one.token and (message, subscription) not in self._cancelled


def _leased_entries(run: _Run, messages: set[int]) -> dict[int | None, tuple[int, int]]:
    """The token, and how many deliveries of it were cancelled."""
    if not messages:
        return {}
    found = run(statements.LEASED_ENTRIES, json_list(messages))
    return {message: (lease, cancelled) for message, lease, cancelled in found}


def _cancelled(run: _Run, doubtful: Sequence[_Pair]) -> set[_Pair]:
    """Those that were cancelled after their entry was taken."""
    if not doubtful:
        return set()
    found = run(statements.CANCELLED, (*json_list(doubtful), STATE_CODES[State.CANCELLED]))
    return {(message, subscription) for message, subscription in found}


def _leased_rows(run: _Run, keys: Collection[Any]) -> dict[_Pair, int]:
    if not keys:
        return {}
    return {(message, subscription): lease for message, subscription, lease in run(statements.LEASED_ROWS, json_list(keys))}


def _close(connection: Connection, closings: Sequence[Closing], now: float) -> None:
    run = connection.exec_driver_sql
    ended: dict[int, list[int | None]] = {}
    for closing in closings:
        message = ids.parse(closing.message_id)
        if closing.job_id is not None:
            jobs.close_page(run, closing)
        elif closing.after is None:
            ended.setdefault(closing.token, []).append(message)
        elif closing.cut:
            jobs.cut_entry(connection, closing, now)
        else:
            run(statements.ADVANCE_ENTRY, (ids.parse(closing.after), message, closing.token))
    for token, entries in ended.items():
        run(statements.CLOSE_ENTRIES, (*json_list(entries), token))


def _set_breaker(connection: Connection, breaker: Breaker) -> None:
    key = {"project": breaker.lane.project, "name": breaker.lane.name}
    if not breaker.trips:
        connection.exec_driver_sql(statements.CLOSE_BREAKER, key)
        return
    project_id = projects.number_of(connection, breaker.lane.project)
    opened = {**key, "project_id": project_id, "trips": breaker.trips, "until": breaker.until}
    connection.exec_driver_sql(statements.OPEN_BREAKER, opened)


def line(message: int, subscription: int, entry: LogEntry) -> tuple[Any, ...]:
    """The parameters for INSERT_LINES."""
    return (
        message,
        subscription,
        entry.number,
        round(entry.at * 1e3),
        STATE_CODES[entry.state],
        None if entry.outcome is None else OUTCOME_CODES[entry.outcome],
        entry.status,
        None if entry.duration is None else round(entry.duration * 1e6),
        entry.detail or None,
        None if entry.exchange is None else exchange_text(entry.exchange),
    )


# -- ending leases -------------------------------------------------------------------------------------------------------------


def give_back(
    connection: Connection,
    token: int,
    message_ids: Collection[str],
    rows: Collection[tuple[str, str]],
    ranges: Collection[str],
) -> None:
    run = connection.exec_driver_sql
    if message_ids:
        run(statements.GIVE_BACK_ENTRY, [(ids.parse(message), token) for message in message_ids])
    if rows:
        run(statements.GIVE_BACK_ROW, [(ids.parse(message), ids.parse(subscription), token) for message, subscription in rows])
    if ranges:
        run(statements.GIVE_BACK_PAGE, [(ids.parse(job), token) for job in ranges])


def release(connection: Connection, worker_id: int) -> None:
    """End every lease of a worker, and let its jobs go. What it had taken from a lane comes due at once."""
    tokens = (token_of(worker_id, 0), token_of(worker_id + 1, 0))
    for statement in (
        statements.RELEASE_ENTRIES,
        statements.RELEASE_ROWS,
        statements.RELEASE_LANES,
        statements.RELEASE_PAGES,
    ):
        connection.exec_driver_sql(statement, tokens)
    connection.exec_driver_sql(statements.RELEASE_JOBS, (worker_id,))
