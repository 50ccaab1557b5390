"""Taking what is due, in turns over the projects: however much one of them has waiting, the others have their share.

There is no transaction. What is due is found by an index, then leased by one update that passes over what another worker has
leased meanwhile, then read back by the token: so nothing is handed out twice, and workers are not in each other's way.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from zaqar_notify.model import LaneKey, Receipt, ReceiptKind
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import RANGE, Entry, Row, Taken
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    JOBS,
    LANES,
    OUTBOX,
    PROJECTS,
    Document,
    Filter,
    of_delivery_key,
    values,
)
from zaqar_notify.storage.mongodb.scope import Bound, Scope

WORKER_SHIFT = 32
"""A token is the worker's id and, in its lower bits, the number of the take."""
_BEFORE_ALL = -1
_MOST_PARTS = 100
"""So many ranges of an index are asked for in one command."""

Turns = dict[str, int]
"""By collection: the project that had the last turn."""
Pipeline = list[Mapping[str, Any]]


def token_of(worker_id: int, take: int) -> int:
    return worker_id << WORKER_SHIFT | take


def tokens_of(worker_id: int) -> Filter:
    """A condition on ``lease``: any take of this worker."""
    return {"$gte": token_of(worker_id, 0), "$lt": token_of(worker_id + 1, 0)}


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    worker_id: int
    token: int
    now: float
    until: float
    leased: set[str] = dataclasses.field(default_factory=set)
    """Collections of which this token may have some; kept when the take is tried again."""

    @property
    def given(self) -> Document:
        return {"due_at": self.until, "lease": self.token}


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    """What can be due."""

    collection: str
    index: str
    where: Filter = dataclasses.field(default_factory=dict)
    """What all of it has in common: the fields before the project in the index."""
    ended_first: bool = False
    """What is due since some moment goes before what is due at once: leases that have ended before what comes in, so that
    those are not left behind however much comes in."""

    def due(self, now: float) -> Sequence[Any]:
        """Conditions on ``due_at``, the most urgent first."""
        return ({"$gt": 0.0, "$lte": now}, 0.0) if self.ended_first else ({"$lte": now},)


_ENTRIES = _Kind(OUTBOX, "ix_outbox_due", ended_first=True)
_ROWS = _Kind(DELIVERIES, "ix_deliveries_due")


def take(
    scope: Scope,
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
    """``turns`` is changed."""
    # First: what is renewed is not due, and what is removed is not handed out.
    held, emptied = _take_parked(scope, lease, parked) if parked else ({}, [])
    _lease_due(scope, _ENTRIES, lease, turns, entries, passed_over=_numbers(scope, without))
    _lease_due(scope, _ROWS, lease, turns, rows)
    of_pool = _Kind(LANES, "ix_lanes_due", {"pool": pool})
    _lease_due(scope, of_pool, lease, turns, lanes)
    pages, ended = _take_pages(scope, lease, ranges) if ranges else ([], [])
    found_lanes = {lane_key(lane): lane["trips"] for lane in _leased(scope, of_pool, lease)}
    return Taken(
        lease.token,
        [_entry(entry) for entry in _leased(scope, _ENTRIES, lease)] + pages,
        _rows(scope, _leased(scope, _ROWS, lease), held),
        list(found_lanes),
        emptied,
        {key: trips for key, trips in found_lanes.items() if trips},
        ended,
    )


def _leased(scope: Scope, kind: _Kind, lease: Lease) -> list[Document]:
    """What this take got, oldest message first."""
    if kind.collection not in lease.leased:
        return []
    found = scope[kind.collection].find({"lease": lease.token}, hint=f"ix_{kind.collection}_lease")
    return sorted(found, key=lambda document: document["_id"])


def _numbers(scope: Scope, projects: Collection[str]) -> frozenset[int]:
    if not projects:
        return frozenset()
    return frozenset(project["_id"] for project in scope[PROJECTS].find({"name": {"$in": list(projects)}}, ["_id"]))


def _entry(entry: Document) -> Entry:
    after = entry.get("after_id")
    return Entry(ids.show(entry["_id"]), None if after is None else ids.show(after), entry["takes"])


# -- in turns ------------------------------------------------------------------------------------------------------------------


def _lease_due(
    scope: Scope, kind: _Kind, lease: Lease, turns: Turns, most: int, *, passed_over: frozenset[int] = frozenset()
) -> None:
    """Each project gets as many as the others; what some leave is for the rest."""
    if most <= 0:
        return
    of = scope[kind.collection]
    last_turn = turns.get(kind.collection, _BEFORE_ALL)
    projects = _next_projects(of, kind, last_turn, now=lease.now, most=most, passed_over=passed_over)
    if projects:
        turns[kind.collection] = projects[-1]
    counted = {"$inc": {"takes": 1}} if kind is _ENTRIES else {}
    room = most
    while projects and room > 0:
        each = max(1, room // len(projects))
        served, skipped = projects[:room], projects[room:]
        found = _due(of, kind, served, lease.now, each)
        if found:
            lease.leased.add(kind.collection)
            unleased = {"_id": {"$in": [one["_id"] for one in found]}, "due_at": {"$lte": lease.now}}
            of.update_many(unleased, {"$set": lease.given, **counted})
        room -= len(found)
        counts = collections.Counter(one["project_id"] for one in found)
        projects = [project for project in served if counts[project] == each] + skipped


def _next_projects(of: Bound, kind: _Kind, last_turn: int, *, now: float, most: int, passed_over: frozenset[int]) -> list[int]:
    """Those that have something due, beginning behind the one that had the last turn."""
    limit = most + len(passed_over)
    found = _projects_due(of, kind, _BEFORE_ALL, now, limit + 1)
    if len(found) > limit:
        found += _projects_due(of, kind, max(last_turn, found[-1]), now, limit)
    following = [project for project in found if project > last_turn]
    before = [project for project in found if project <= last_turn]
    return [project for project in following + before if project not in passed_over][:most]


def _projects_due(of: Bound, kind: _Kind, after: int, now: float, limit: int) -> list[int]:
    """By number: one look into the index for each that has anything at all (a DISTINCT_SCAN)."""
    found = of.aggregate(
        [
            {"$match": {**kind.where, "project_id": {"$gt": after}, "due_at": {"$lte": now}}},
            {"$sort": {"project_id": 1, "due_at": 1}},
            {"$group": {"_id": "$project_id", "due_at": {"$first": "$due_at"}}},
            {"$limit": limit},
        ],
        hint=kind.index,
    )
    return sorted(project["_id"] for project in found)


def _due(of: Bound, kind: _Kind, projects: Sequence[int], now: float, most: int) -> list[Document]:
    """At most so many of each."""
    fields = {"project_id": 1}
    parts: list[Pipeline] = []
    for project in projects:
        ranges: list[Pipeline] = [
            [
                {"$match": {**kind.where, "project_id": project, "due_at": due_at}},
                {"$sort": {"due_at": 1, "_id": 1}},
                {"$limit": most},
                {"$project": fields},
            ]
            for due_at in kind.due(now)
        ]
        parts.append([*united(kind.collection, ranges), {"$limit": most}])
    return gathered(of, kind.collection, parts)


def united(collection: str, parts: Sequence[Pipeline]) -> Pipeline:
    """One pipeline with the results of several."""
    return [*parts[0], *({"$unionWith": {"coll": collection, "pipeline": part}} for part in parts[1:])]


def gathered(of: Bound, collection: str, parts: Sequence[Pipeline]) -> list[Document]:
    """The results of any number of pipelines, in few commands."""
    found: list[Document] = []
    for start in range(0, len(parts), _MOST_PARTS):
        found += of.aggregate(united(collection, parts[start : start + _MOST_PARTS]))
    return found


# -- parked --------------------------------------------------------------------------------------------------------------------


def find_lanes(scope: Scope, keys: Iterable[LaneKey]) -> dict[LaneKey, Document]:
    names: dict[str, list[str]] = {}
    for key in keys:
        names.setdefault(key.project, []).append(key.name)
    conditions = [{"project": project, "name": {"$in": asked}} for project, asked in names.items()]
    found: list[Document] = []
    for start in range(0, len(conditions), _MOST_PARTS):
        found += scope[LANES].find({"$or": conditions[start : start + _MOST_PARTS]}, hint="ix_lanes_name")
    return {lane_key(lane): lane for lane in found}


LANE_FIELDS = ("project", "name", "pool")


def lane_key(lane: Document) -> LaneKey:
    return LaneKey(*values(lane, LANE_FIELDS))


def merge_pools(scope: Scope, kept: Collection[str]) -> None:
    scope[LANES].update_many({"pool": {"$nin": ["", *kept]}}, {"$set": {"pool": ""}}, hint="ix_lanes_due")


def _take_parked(scope: Scope, lease: Lease, parked: Mapping[LaneKey, int]) -> tuple[dict[int, LaneKey], list[LaneKey]]:
    """The lanes from which rows were leased, by their number, and those that were found empty."""
    lanes = find_lanes(scope, parked)
    mine = {key: lane for key, lane in lanes.items() if _is_held(lane, lease)}
    found = _find_parked(scope, {lane["_id"]: parked[key] for key, lane in mine.items() if parked[key] > 0})
    taken_from = {row["lane_id"] for row in found}
    if found:
        lease.leased.add(DELIVERIES)
        still_parked = {"_id": {"$in": [row["_id"] for row in found]}, "due_at": None}
        scope[DELIVERIES].update_many(still_parked, {"$set": lease.given})
    emptied = []
    kept = []
    for key in parked:
        if key not in lanes:
            emptied.append(key)
        elif key in mine:
            lane = mine[key]
            if parked[key] > 0 and lane["_id"] not in taken_from and _let_go(scope, lane):
                emptied.append(lane_key(lane))
            else:
                kept.append(lane["_id"])
    if kept:
        held = {"_id": {"$in": kept}, "lease": tokens_of(lease.worker_id)}
        scope[LANES].update_many(held, {"$set": {"due_at": lease.until}})
    return {lane["_id"]: lane_key(lane) for lane in mine.values() if lane["_id"] in taken_from}, emptied


def _is_held(lane: Document, lease: Lease) -> bool:
    held_by = lane.get("lease")
    return held_by is not None and held_by >> WORKER_SHIFT == lease.worker_id


def _find_parked(scope: Scope, most_of: Mapping[int, int]) -> list[Document]:
    parts: list[Pipeline] = [
        [
            {"$match": {"lane_id": lane, "due_at": None}},
            {"$sort": {"_id": 1}},
            {"$limit": most},
            {"$project": {"lane_id": 1}},
        ]
        for lane, most in most_of.items()
    ]
    return gathered(scope[DELIVERIES], DELIVERIES, parts)


def _let_go(scope: Scope, lane: Document) -> bool:
    """Of an empty lane; one with an open breaker stays. False when something was parked in it meanwhile: whoever does that
    counts up its ``touches``."""
    if lane["trips"]:
        return True
    as_read = {"_id": lane["_id"], "trips": 0, "touches": lane.get("touches"), "lease": lane["lease"]}
    return scope[LANES].delete_one(as_read) > 0


def _rows(scope: Scope, rows: Sequence[Document], held: Mapping[int, LaneKey]) -> list[Row]:
    """Those of the lanes that are held stand behind the others."""
    strange = {row["lane_id"] for row in rows if "lane_id" in row} - held.keys()
    found = scope[LANES].find({"_id": {"$in": list(strange)}}, LANE_FIELDS) if strange else []
    names = {**held, **{lane["_id"]: lane_key(lane) for lane in found}}
    return [_row(row, names) for row in sorted(rows, key=lambda row: row.get("lane_id") in held)]


def _row(row: Document, names: Mapping[int, LaneKey]) -> Row:
    message, subscription = of_delivery_key(row["_id"])
    window, report = row.get("window_id"), row.get("report")
    return Row(
        ids.show(message),
        ids.show(subscription),
        row["attempts"],
        row["lines"],
        names.get(row.get("lane_id", 0)),
        row["expires_at"],
        row["again"],
        None if window is None else ids.show(window),
        row.get("target", 0),
        None if report is None else Receipt(ReceiptKind.FAILED, **json.loads(report)),
    )


# -- pages of ranges -----------------------------------------------------------------------------------------------------------


def _take_pages(scope: Scope, lease: Lease, ranges: Collection[str]) -> tuple[list[Entry], list[str]]:
    """The next pages, and the ranges that are not held."""
    numbers = {job_id: ids.parse(job_id) for job_id in ranges}
    held = {
        "_id": {"$in": [number for number in numbers.values() if number is not None]},
        "kind": RANGE,
        "worker_id": lease.worker_id,
        "held_until": {"$gt": lease.now},
        "failed_at": None,
    }
    scope[JOBS].update_many({**held, "due_at": {"$lte": lease.now}}, {"$set": lease.given})
    found = {job["_id"]: job for job in scope[JOBS].find(held)}
    pages = [_page(job) for job in found.values() if job.get("lease") == lease.token]
    return pages, [job_id for job_id, number in numbers.items() if number not in found]


def _page(job: Document) -> Entry:
    after, last = job.get("after_id"), job.get("last_id")
    return Entry(
        ids.show(job["message_id"]),
        None if after is None else ids.show(after),
        1,
        ids.show(job["_id"]),
        None if last is None else ids.show(last),
    )
