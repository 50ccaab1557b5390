"""The worker's side of the ledger: settling, ending leases. Fences are read first, under the write lock, so that what is
written after needs no condition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import Alert, Draft, LaneKey, LogEntry, MessageKind, State
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Breaker, Closing, Settlement
from zaqar_notify.storage.bodies import Bodies, exchange_text
from zaqar_notify.storage.codes import OUTCOME_CODES, STATE_CODES
from zaqar_notify.storage.retention import Retention
from zaqar_notify.storage.sql import alerting, jobs, projects, publishing, statements, windows
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

    def __init__(
        self, connection: Connection, now: float, bodies: Bodies, retention: Retention, reports: Mapping[windows.Pair, str]
    ) -> None:
        """``reports``: of the rows that are settled, as they are stored."""
        self._connection = connection
        self._bodies = bodies
        self._retention = retention
        self._run = connection.exec_driver_sql
        self._now = now
        self._reports = reports
        self._held: Mapping[windows.Pair, windows.Held] = {}
        """Those that wait for a window, and stay."""
        self._lanes: dict[LaneKey, int] = {}
        self._pools: Mapping[LaneKey, str] = {}
        """Those that the lanes are to be in."""
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
        elif settlement.window is not None:
            self._hold_back(settlement, message, subscription)
        elif settlement.due_at is not None:
            self._leave_row(settlement, message, subscription, None, settlement.due_at)
        elif settlement.from_row:
            self._ended.append((message, subscription))
        self._verdicts.add(settlement, message, subscription)
        self._alerts += ((message, alert) for alert in settlement.alerts)
        for queue, draft in settlement.publish:
            self._publish.append((message, queue, draft))

    def _hold_back(self, settlement: Settlement, message: int, subscription: int) -> None:
        held = self._held.get((message, subscription))
        if held is not None:
            self._leave_row(settlement, message, subscription, None, held.due_at, held)

    def _leave_row(  # noqa: PLR0917 - the parts of a row
        self,
        settlement: Settlement,
        message: int,
        subscription: int,
        lane: int | None,
        due_at: float | None,
        held: windows.Held | None = None,
    ) -> None:
        lease = settlement.token if settlement.hold and due_at is not None and held is None else None
        window = None if settlement.window_id is None else ids.parse(settlement.window_id)
        released = (window, None) if held is None else (held.window, held.key)
        report = self._reports.get((message, subscription)) if settlement.log is None else None
        used = settlement.attempts, settlement.lines, *released, settlement.target or None, report
        row = message, subscription, lane, due_at, lease, *used
        if settlement.from_row:
            self._rows.append(row)
        else:
            self._fresh[message, subscription] = row

    def find_windows(self, asked: Sequence[windows.Asked]) -> None:
        """All together, and before the lanes: whoever locks both does it in this order. What is superseded ends."""
        waiting = [one for one in asked if windows.wanted(one[0]) is not None]
        if not waiting:
            return
        self._held, superseded = windows.find_places(self._connection, waiting, self._now)
        self._ended += superseded
        for (message, subscription), lines in superseded.items():
            self._lines.append(line(message, subscription, LogEntry(lines + 1, self._now, State.SUPERSEDED)))

    def find_lanes(self, settlements: Iterable[Settlement], breakers: Iterable[Breaker]) -> None:
        """All together, before any of them is parked in or changed. Each is in the pool of the last one that names it."""
        self._pools = pools = {one.park: one.park.pool for one in settlements if one.park is not None}
        asked: dict[LaneKey, str | None] = {**pools, **{breaker.lane: None for breaker in breakers}}
        if not asked:
            return
        moved: dict[str, list[int]] = {}
        listed = json_list((key.project, key.name, pool) for key, pool in asked.items())
        for project, name, pool, number in self._run(statements.FIND_LANES_TO_USE, listed).all():
            key = LaneKey(project, name)
            self._lanes[key] = number
            if pools.get(key, pool) != pool:
                moved.setdefault(pools[key], []).append(number)
        for pool, numbers in moved.items():
            self._run(statements.MOVE_LANES, (pool, *json_list(numbers)))

    def _lane(self, key: LaneKey) -> int:
        if key not in self._lanes:
            project_id = projects.number_of(self._connection, key.project)
            made = self._run(statements.INSERT_LANE, (key.project, key.name, project_id, self._pools[key]))
            self._lanes[key] = made.scalar_one()
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

    def _with_owners(self) -> list[tuple[int, Alert]]:
        """Without those for subscriptions that were deleted."""
        asked = {_owner(alert) for _, alert in self._alerts} - {None}
        there = {None, *self._run(statements.OWNERS, json_list(asked)).scalars()} if asked else {None}
        return [(message, alert) for message, alert in self._alerts if _owner(alert) in there]

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
        due = [(message, alert) for message, alert in self._with_owners() if self._is_due(names[message], alert)]
        encrypted = self._encrypted({message for message, _ in due})
        posts += (_alert(names[message], alert, message in encrypted) for message, alert in due)
        publishing.insert(self._connection, posts, self._now, self._bodies, self._retention)


def _owner(alert: Alert) -> int | None:
    """None: it is for everyone who subscribes to its queue."""
    return None if alert.subscription_id is None else ids.parse(alert.subscription_id)


def _alert(project: str, alert: Alert, encrypts: bool) -> publishing.Post:
    owner = _owner(alert)
    kind = MessageKind.NOTIFICATION if owner is None else MessageKind.CALLBACK
    return publishing.Post(project, alert.queue, (alert.draft,), encrypts=encrypts, subscription=owner, kind=kind)


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
    run = connection.exec_driver_sql
    parsed = [(one, ids.parse(one.message_id), ids.parse(one.subscription_id)) for one in settlements]
    fences = _Fences(run, parsed)
    kept = fences.kept()
    settling = _Settling(connection, now, bodies, retention, fences.reports)
    fresh = _fresh(run, kept, repeats)
    settling.find_windows(fresh)
    settling.find_lanes((one for one, *_ in fresh), breakers)
    for one, message, subscription in fresh:
        settling.add(one, message, subscription)
    if not settling.store() and not repeats:
        raise Repeated
    _close(connection, closings, now)
    for breaker in sorted(breakers, key=lambda one: (one.lane.project, one.lane.name)):
        _set_breaker(connection, breaker)
    return len(settlements) - len(kept)


_Parsed = tuple[Settlement, int | None, int | None]
"""With its message and its subscription."""
_Pair = tuple[int | None, int | None]
_NOT_LEASED = (None, 0)


def _fresh(run: _Run, kept: Sequence[windows.Asked], repeats: bool) -> Sequence[windows.Asked]:
    """Without those that were stored before."""
    waited = windows.stored_before(run, kept)
    stored = _stored(run, kept) if repeats else frozenset()
    if not waited and not stored:
        return kept
    return [
        (one, message, other)
        for one, message, other in kept
        if (message, other) not in waited
        and (one.from_row or one.log is None or (message, other, one.log.number) not in stored)
    ]


def _stored(run: _Run, kept: Sequence[windows.Asked]) -> Collection[tuple[int, int, int]]:
    """The lines that are in the log already."""
    asked = [(message, other, one.log.number) for one, message, other in kept if one.log is not None]
    return {(message, other, number) for message, other, number in run(statements.STORED_LINES, json_list(asked))}


class _Fences:
    """The leases under which settlements may be stored."""

    def __init__(self, run: _Run, parsed: Sequence[_Parsed]) -> None:
        self._parsed = parsed
        rows = {(message, other) for one, message, other in parsed if one.from_row and None not in (message, other)}
        of_entries = [(one, message, other) for one, message, other in parsed if not one.from_row]
        entries = {message for one, message, _ in of_entries if one.job_id is None and message is not None}
        pages = {ids.parse(one.job_id) for one, *_ in of_entries if one.job_id is not None}
        self._entries = _leased_entries(run, entries)
        self._pages = jobs.fences(run, {number for number in pages if number is not None})
        self._rows, self.reports = _leased_rows(run, rows)
        doubtful = [(message, other) for one, message, other in of_entries if self._of_entry(one, message)[1]]
        self._cancelled = _cancelled(run, doubtful)

    def _of_entry(self, one: Settlement, message: int | None) -> tuple[int | None, int]:
        """The token, and how many deliveries were cancelled."""
        if one.job_id is not None:
            return self._pages.get(ids.parse(one.job_id) or 0, _NOT_LEASED)
        return self._entries.get(message, _NOT_LEASED)

    def kept(self) -> list[windows.Asked]:
        """Those that may be stored."""
        return [
            (one, message, subscription)
            for one, message, subscription in self._parsed
            if message is not None and subscription is not None and self._hold(one, message, subscription)
        ]

    def _hold(self, one: Settlement, message: int, subscription: int) -> bool:
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


def _leased_rows(run: _Run, keys: Collection[Any]) -> tuple[dict[_Pair, int], dict[windows.Pair, str]]:
    """The tokens, and the reports."""
    found = run(statements.LEASED_ROWS, json_list(keys)).all() if keys else []
    tokens = {(message, subscription): lease for message, subscription, lease, _ in found}
    return tokens, {(message, subscription): report for message, subscription, _, report in found if report is not None}


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
    opened = {**key, "project_id": project_id, "trips": breaker.trips, "until": breaker.until, "pool": breaker.lane.pool}
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
        entry.target or None,
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
