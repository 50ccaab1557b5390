"""The worker's side of the ledger: taking, settling, ending leases. Fences are read first, under the write lock, so that what
is written after needs no condition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import Draft, LaneKey, LogEntry
from zaqar_notify.storage import ids, publishing, statements
from zaqar_notify.storage.base import Closing, Entry, Row, Settlement, Taken
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.publishing import json_list
from zaqar_notify.storage.tables import OUTCOME_CODES, STATE_CODES

_WORKER_SHIFT = 32
"""A token is the worker's id and, in its lower bits, the number of the take."""

_Run = Callable[..., Any]


def token_of(worker_id: int, take: int) -> int:
    return worker_id << _WORKER_SHIFT | take


# -- taking --------------------------------------------------------------------------------------------------------------------


def any_due(connection: Connection, now: float, *, entries: int, rows: int, lanes: int) -> bool:
    asked = (
        (entries, statements.ANY_ENTRY_DUE),
        (rows, statements.ANY_ROW_DUE),
        (lanes, statements.ANY_LANE_DUE),
    )
    return any(most > 0 and connection.exec_driver_sql(statement, (now,)).first() for most, statement in asked)


def take(
    connection: Connection,
    token: int,
    now: float,
    until: float,
    *,
    entries: int,
    rows: int,
    lanes: int,
    parked: Mapping[LaneKey, int],
) -> Taken:
    run = connection.exec_driver_sql
    found_entries = run(statements.TAKE_ENTRIES, (until, token, now, *[entries] * 3)).all() if entries > 0 else []
    found_rows = run(statements.TAKE_ROWS, (until, token, now, rows)).all() if rows > 0 else []
    found_lanes = run(statements.TAKE_LANES, (until, token, now, lanes)).all() if lanes > 0 else []
    from_lanes, emptied = _take_parked(run, token, until, parked)
    names = _lane_names(run, {row[4] for row in found_rows if row[4] is not None})
    # RETURNING has no order: oldest message first.
    return Taken(
        token,
        [_entry(*entry) for entry in sorted(found_entries)],
        [_row(row, names.get(row[4])) for row in sorted(found_rows, key=_message_first)] + from_lanes,
        [LaneKey(*lane) for lane in found_lanes],
        emptied,
    )


def _take_parked(run: _Run, token: int, until: float, parked: Mapping[LaneKey, int]) -> tuple[list[Row], list[LaneKey]]:
    rows: list[Row] = []
    emptied: list[LaneKey] = []
    for lane, most in parked.items():
        found = run(statements.FIND_LANE, (lane.project, lane.name)).first()
        if found is None:
            emptied.append(lane)
        elif found.lease is not None and found.lease >> _WORKER_SHIFT == token >> _WORKER_SHIFT:
            taken = run(statements.TAKE_PARKED, (until, token, found.id, max(most, 0))).all()
            rows += [_row(row, lane) for row in sorted(taken, key=_message_first)]
            if run(statements.DELETE_EMPTY_LANE, (found.id,)).rowcount:
                emptied.append(lane)
    return rows, emptied


def _entry(message: int, after: int | None, takes: int) -> Entry:
    return Entry(ids.show(message), None if after is None else ids.show(after), takes)


def _message_first(row: Any) -> tuple[int, int]:
    return row[0], row[1]


def _row(row: Any, lane: LaneKey | None) -> Row:
    return Row(ids.show(row[0]), ids.show(row[1]), row[2], row[3], lane)


def _lane_names(run: _Run, lane_ids: set[int]) -> dict[int, LaneKey]:
    if not lane_ids:
        return {}
    return {lane: LaneKey(project, name) for lane, project, name in run(statements.NAME_LANES, json_list(lane_ids))}


# -- settling ------------------------------------------------------------------------------------------------------------------


class _Settling:
    """One settlement after the other goes into lists, which are stored in bulk."""

    def __init__(self, connection: Connection, now: float, bodies: Bodies) -> None:
        self._connection = connection
        self._bodies = bodies
        self._run = connection.exec_driver_sql
        self._now = now
        self._lanes: dict[LaneKey, int] = {}
        self._lines: list[tuple[Any, ...]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._ended: list[tuple[int, int]] = []
        self._disabled: list[tuple[Any, ...]] = []
        self._publish: list[tuple[int, str, Draft]] = []

    def add(self, settlement: Settlement, message: int, subscription: int) -> None:
        if settlement.log is not None:
            self._lines.append(line(message, subscription, settlement.log))
        if settlement.park is not None:
            self._leave_row(settlement, message, subscription, self._lane(settlement.park), None)
        elif settlement.due_at is not None:
            self._leave_row(settlement, message, subscription, None, settlement.due_at)
        elif settlement.from_row:
            self._ended.append((message, subscription))
        if settlement.disable is not None:
            why = settlement.disable
            self._disabled.append((why.at, why.reason, why.enable_by, subscription))
        for queue, draft in settlement.publish:
            self._publish.append((message, queue, draft))

    def _leave_row(
        self, settlement: Settlement, message: int, subscription: int, lane: int | None, due_at: float | None
    ) -> None:
        lease = settlement.token if settlement.hold and due_at is not None else None
        self._rows.append((message, subscription, lane, due_at, lease, settlement.attempts, settlement.lines))

    def _lane(self, key: LaneKey) -> int:
        if key not in self._lanes:
            found = self._run(statements.FIND_LANE, (key.project, key.name)).first()
            if found is None:
                found = self._run(statements.INSERT_LANE, (key.project, key.name)).one()
            self._lanes[key] = found.id
        return self._lanes[key]

    def store(self) -> None:
        if self._rows:
            asked = json_list({row[0] for row in self._rows})
            expiries: dict[int, float] = dict(self._run(statements.EXPIRIES, asked).all())
            self._rows = [(*row, expiries[row[0]]) for row in self._rows]
        for rows, inserted in ((statements.INSERT_LINES, self._lines), (statements.PUT_ROWS, self._rows)):
            for statement, values in rows.of(inserted):
                self._run(statement, values)
        for statement, parameters in ((statements.DELETE_ROW, self._ended), (statements.DISABLE, self._disabled)):
            if parameters:
                self._run(statement, parameters)
        if self._publish:
            self._publish_drafts()

    def _publish_drafts(self) -> None:
        asked = json_list({message for message, _, _ in self._publish})
        projects: dict[int, str] = dict(self._run(statements.PROJECTS, asked).all())
        posts = [publishing.Post(projects[message], queue, (draft,)) for message, queue, draft in self._publish]
        publishing.insert(self._connection, posts, self._now, self._bodies)


def settle(
    connection: Connection, settlements: Sequence[Settlement], closings: Sequence[Closing], now: float, bodies: Bodies
) -> int:
    """Returns how many settlements had lost their lease."""
    run = connection.exec_driver_sql
    parsed = [(one, ids.parse(one.message_id), ids.parse(one.subscription_id)) for one in settlements]
    entries = _leased_entries(run, {message for one, message, _ in parsed if not one.from_row and message is not None})
    rows = _leased_rows(
        run, {(message, other) for one, message, other in parsed if one.from_row and None not in (message, other)}
    )
    kept = _Settling(connection, now, bodies)
    lost = 0
    for one, message, subscription in parsed:
        lease = rows.get((message, subscription)) if one.from_row else entries.get(message)
        if message is None or subscription is None or lease != one.token:
            lost += 1
        else:
            kept.add(one, message, subscription)
    kept.store()
    _close(run, closings)
    return lost


def _leased_entries(run: _Run, messages: set[int]) -> dict[int | None, int]:
    return dict(run(statements.LEASED_ENTRIES, json_list(messages)).all()) if messages else {}


def _leased_rows(run: _Run, keys: Collection[Any]) -> dict[tuple[int | None, int | None], int]:
    if not keys:
        return {}
    return {(message, subscription): lease for message, subscription, lease in run(statements.LEASED_ROWS, json_list(keys))}


def _close(run: _Run, closings: Sequence[Closing]) -> None:
    ended = []
    for closing in closings:
        message = ids.parse(closing.message_id)
        if closing.after is None:
            ended.append((message, closing.token))
        else:
            run(statements.ADVANCE_ENTRY, (ids.parse(closing.after), message, closing.token))
    if ended:
        run(statements.CLOSE_ENTRY, ended)


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
    )


# -- ending leases -------------------------------------------------------------------------------------------------------------


def give_back(connection: Connection, token: int, message_ids: Collection[str], rows: Collection[tuple[str, str]]) -> None:
    if message_ids:
        connection.exec_driver_sql(statements.GIVE_BACK_ENTRY, [(ids.parse(message), token) for message in message_ids])
    if rows:
        parameters = [(ids.parse(message), ids.parse(subscription), token) for message, subscription in rows]
        connection.exec_driver_sql(statements.GIVE_BACK_ROW, parameters)


def release(connection: Connection, worker_id: int) -> None:
    """End every lease of a worker. What it had taken from a lane comes due at once."""
    tokens = (token_of(worker_id, 0), token_of(worker_id + 1, 0))
    for statement in (statements.RELEASE_ENTRIES, statements.RELEASE_ROWS, statements.RELEASE_LANES):
        connection.exec_driver_sql(statement, tokens)
