"""Taking what is due, in turns over the projects: however much one of them has waiting, the others have their share."""

from __future__ import annotations

import collections
import dataclasses
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import LaneKey
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Entry, Row, Taken
from zaqar_notify.storage.sql import jobs, receiving, statements
from zaqar_notify.storage.sql.statements import json_list

_WORKER_SHIFT = 32
"""A token is the worker's id and, in its lower bits, the number of the take."""

_BEFORE_ALL = -1
_BEHIND_ALL = 2**63 - 1

_Run = Callable[..., Any]

# By position: by name it takes three times as long.
_PROJECT, _MESSAGE, _MESSAGE_AND_SUBSCRIPTION = operator.itemgetter(0), operator.itemgetter(1), operator.itemgetter(1, 2)
_LANE = 5


TOKENS = 1 << _WORKER_SHIFT
"""So many has each worker."""


def token_of(worker_id: int, take: int) -> int:
    return worker_id << _WORKER_SHIFT | take


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    """What can be due."""

    projects: str
    """The statement that finds those that have some of it due."""
    take: str
    pool: str | None = None
    """Only of this one."""


_ENTRIES = _Kind(statements.PROJECTS_WITH_ENTRIES, statements.TAKE_ENTRIES)
_ROWS = _Kind(statements.PROJECTS_WITH_ROWS, statements.TAKE_ROWS)


def _lanes_in(pool: str) -> _Kind:
    return _Kind(statements.PROJECTS_WITH_LANES, statements.TAKE_LANES, pool)


Turns = dict[_Kind, int]
"""The project that had the last turn."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    token: int
    now: float
    until: float


def due(
    connection: Connection, now: float, *, entries: int, rows: int, lanes: int, without: Collection[str], pool: str
) -> dict[str, Any]:
    """The bounds for `take`: 0 for kinds of which nothing is due."""
    run = connection.exec_driver_sql
    found = run(statements.DUE, {"after": _BEFORE_ALL, "last": _BEHIND_ALL, "now": now, "limit": 1, "pool": pool}).one()
    any_entry = found.entries and entries > 0
    if any_entry and without:
        any_entry = _next_projects(run, _ENTRIES, _BEFORE_ALL, now, most=1, passed_over=_numbers(run, without))
    return {"entries": entries if any_entry else 0, "rows": rows if found.rows_ else 0, "lanes": lanes if found.lanes else 0}


def _numbers(run: _Run, projects: Collection[str]) -> frozenset[int]:
    return frozenset(run(statements.NUMBER_PROJECTS, json_list(projects)).scalars()) if projects else frozenset()


def take(
    connection: Connection,
    lease: Lease,
    turns: Turns,
    *,
    entries: int,
    rows: int,
    lanes: int,
    parked: Mapping[LaneKey, int],
    without: Collection[str] = (),
    ranges: Collection[str] = (),
    pool: str = "",
) -> Taken:
    """Has to run under the write lock. ``turns`` is changed."""
    run = connection.exec_driver_sql
    # First: what is renewed is not due, and what is removed is not handed out.
    from_lanes, emptied = _take_parked(connection, lease, parked)
    found_entries = _take_in_turns(run, _ENTRIES, lease, turns, entries, passed_over=_numbers(run, without))
    found_rows = _take_in_turns(run, _ROWS, lease, turns, rows)
    found_lanes = _take_in_turns(run, _lanes_in(pool), lease, turns, lanes)
    worker_id = lease.token >> _WORKER_SHIFT
    pages, ended = jobs.take_pages(run, ranges, worker_id=worker_id, **dataclasses.asdict(lease))
    names = _lane_names(run, {row[_LANE] for row in found_rows if row[_LANE] is not None})
    keys = {LaneKey(project, name, pool): trips for _, project, name, trips in found_lanes}
    # RETURNING has no order: oldest message first.
    return Taken(
        lease.token,
        [_entry(*entry) for entry in sorted(found_entries, key=_MESSAGE)] + pages,
        [_row(row, names.get(row[_LANE])) for row in sorted(found_rows, key=_MESSAGE_AND_SUBSCRIPTION)] + from_lanes,
        list(keys),
        emptied,
        {key: trips for key, trips in keys.items() if trips},
        ended,
    )


# -- in turns ------------------------------------------------------------------------------------------------------------------


def _take_in_turns(
    run: _Run, kind: _Kind, lease: Lease, turns: Turns, most: int, *, passed_over: frozenset[int] = frozenset()
) -> list[Any]:
    if most <= 0:
        return []
    projects = _next_projects(run, kind, turns.get(kind, _BEFORE_ALL), lease.now, most=most, passed_over=passed_over)
    if projects:
        turns[kind] = projects[-1]
    return _share(run, kind, lease, projects, most)


def _next_projects(run: _Run, kind: _Kind, last_turn: int, now: float, *, most: int, passed_over: frozenset[int]) -> list[int]:
    """Those that have something due, beginning behind the one that had the last turn."""
    found: list[int] = []
    limit = most + len(passed_over)
    for after, last in ((last_turn, _BEHIND_ALL), (_BEFORE_ALL, last_turn)):
        if len(found) < limit and after < last:
            asked = {"after": after, "last": last, "now": now, "limit": limit - len(found), "pool": kind.pool}
            found += run(kind.projects, asked).scalars()
    return [project for project in found if project not in passed_over][:most]


def _share(run: _Run, kind: _Kind, lease: Lease, projects: list[int], most: int) -> list[Any]:
    """Each gets as many as the others; what some leave is for the rest."""
    taken: list[Any] = []
    while projects and len(taken) < most:
        room = most - len(taken)
        each = max(1, room // len(projects))
        served, skipped = projects[:room], projects[room:]
        (asked,) = json_list(served)
        found = run(kind.take, {**dataclasses.asdict(lease), "projects": asked, "most": each, "pool": kind.pool}).all()
        taken += found
        counts = collections.Counter(map(_PROJECT, found))
        projects = [project for project in served if counts[project] == each] + skipped
    return taken


# -- parked --------------------------------------------------------------------------------------------------------------------


def _take_parked(connection: Connection, lease: Lease, parked: Mapping[LaneKey, int]) -> tuple[list[Row], list[LaneKey]]:
    if not parked:
        return [], []
    run = connection.exec_driver_sql
    found = run(statements.FIND_LANES, json_list((lane.project, lane.name) for lane in parked)).all()
    lanes = {LaneKey(project, name, pool): (number, token) for project, name, pool, number, token in found}
    emptied = [lane for lane in parked if lane not in lanes]
    worker = lease.token >> _WORKER_SHIFT
    named = {lane: lane for lane in lanes}
    asked = {named[lane]: lanes[lane] for lane in parked if lane in lanes}
    held = {number: lane for lane, (number, token) in asked.items() if token is not None and token >> _WORKER_SHIFT == worker}
    wanted = [(number, parked[lane]) for number, lane in held.items() if parked[lane] > 0]
    taken = _take_from_lanes(run, lease, wanted, connection.get_execution_options().get("lanes_at_once", 1))
    bare = [number for number, _ in wanted if number not in taken]
    if bare:
        run(statements.HOLD_LANES, json_list(bare))
        bare = list(run(statements.UNUSED_LANES, json_list(bare)).scalars())
        run(statements.DELETE_LANES, json_list(bare))
        emptied += (held.pop(number) for number in bare)
    if held:
        run(statements.RENEW_LANES, (lease.until, *json_list(held)))
    rows = [_row(row, lane) for number, lane in held.items() for row in sorted(taken[number], key=_MESSAGE_AND_SUBSCRIPTION)]
    return rows, emptied


def _take_from_lanes(run: _Run, lease: Lease, wanted: list[tuple[int, int]], at_once: int) -> dict[int, list[Any]]:
    """``wanted``: lanes, and how many rows of each."""
    taken: dict[int, list[Any]] = collections.defaultdict(list)
    for start in range(0, len(wanted), at_once):
        (asked,) = json_list(wanted[start : start + at_once])
        for row in run(statements.TAKE_PARKED, {"asked": asked, "token": lease.token, "until": lease.until}):
            taken[row[_LANE]].append(row)
    return taken


def _entry(_: int, message: int, after: int | None, takes: int) -> Entry:
    return Entry(ids.show(message), None if after is None else ids.show(after), takes)


def _row(row: Any, lane: LaneKey | None) -> Row:
    _, message, subscription, attempts, lines, _, expires_at, lines_before, window, target, report = row
    return Row(
        ids.show(message),
        ids.show(subscription),
        attempts,
        lines,
        lane,
        expires_at,
        lines_before,
        None if window is None else ids.show(window),
        target or 0,
        None if report is None else receiving.report(report),
    )


def _lane_names(run: _Run, lane_ids: set[int]) -> dict[int, LaneKey]:
    if not lane_ids:
        return {}
    found = run(statements.NAME_LANES, json_list(lane_ids))
    return {lane: LaneKey(project, name, pool) for lane, project, name, pool in found}


# -- pools ---------------------------------------------------------------------------------------------------------------------

_LANES_OF_A_STEP = 1000


def pools(connection: Connection) -> list[str]:
    """Those that have a name, and lanes."""
    return list(connection.exec_driver_sql(statements.POOLS).scalars())


def merge_pool(connection: Connection, pool: str) -> bool:
    """Some of its lanes are in that without a name from now on. False: there was none."""
    return connection.exec_driver_sql(statements.MERGE_POOL, (pool, _LANES_OF_A_STEP)).rowcount > 0
