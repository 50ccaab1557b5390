"""The worker's side of the ledger: settling, ending leases.

What is settled is read first, in the snapshot of the transaction, and everything that a fence was read from is written: an
entry that stays is touched, because a write that changes nothing does not count. So whoever takes it over meanwhile is in the
way, and one of the two is tried again, and sees what the other has done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from zaqar_notify.model import Alert, Draft, LaneKey, LogEntry, MessageKind, State
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Breaker, Closing, Settlement
from zaqar_notify.storage.bodies import exchange_text
from zaqar_notify.storage.codes import OUTCOME_CODES, STATE_CODES
from zaqar_notify.storage.mongodb import alerting, jobs, projects, publishing, windows
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    DELIVERY_LOG,
    JOBS,
    LANES,
    MESSAGES,
    OUTBOX,
    QUEUES,
    SUBSCRIPTIONS,
    Document,
    changes,
    delivery_key,
    line_key,
    lines_of_delivery,
    of_delivery_key,
    of_line_key,
    without_nulls,
)
from zaqar_notify.storage.mongodb.failing import Verdicts
from zaqar_notify.storage.mongodb.loading import is_deleted
from zaqar_notify.storage.mongodb.publishing import Means
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.mongodb.taking import LANE_FIELDS, find_lanes, lane_key
from zaqar_notify.storage.mongodb.windows import Waiting

_DUPLICATE = 11000
_FREE: Mapping[str, Any] = {"$set": {"due_at": 0.0}, "$unset": {"lease": ""}}
_TOUCH: Mapping[str, Any] = {"$inc": {"touches": 1}}

# -- settling ------------------------------------------------------------------------------------------------------------------


class Settling:
    """What one call of `Storage.settle` stores. It may be run several times, each in a transaction of its own."""

    def __init__(
        self,
        settlements: Sequence[Settlement],
        closings: Sequence[Closing],
        breakers: Sequence[Breaker],
        *,
        now: float,
        means: Means,
    ) -> None:
        self._parsed = [(one, ids.parse(one.message_id), ids.parse(one.subscription_id)) for one in settlements]
        self._closings = closings
        self._breakers = breakers
        self._now = now
        self._means = means
        self._repeated = False
        """Some lines are in the log already: they were stored, with all that belongs to them, by a commit that was reported as
        failed."""

    def run(self, scope: Scope) -> int:
        """Returns how many settlements had lost their lease."""
        fences = _Fences(scope, self._parsed, self._closings)
        stored = self._stored(scope)
        changes_of_this = _Changes(scope, self._now, self._means, fences)
        lost = 0
        for one, message, subscription in self._parsed:
            if message is None or subscription is None or not fences.hold(one, message, subscription):
                lost += 1
            elif one.from_row or _line_of(one, message, subscription) not in stored:
                changes_of_this.add(one, message, subscription)
        fences.touch()
        changes_of_this.store_deliveries()
        try:
            changes_of_this.store_lines(self._repeated)
        except BulkWriteError as error:
            self._repeated = self._repeated or _is_repeated(error)
            raise
        changes_of_this.publish()
        fences.close(self._now)
        for breaker in self._breakers:
            _set_breaker(scope, breaker)
        return lost

    def _stored(self, scope: Scope) -> set[bytes]:
        """The lines that are in the log already."""
        asked = [
            _line_of(one, message or 0, subscription or 0)
            for one, message, subscription in self._parsed
            if self._repeated or _waits(one)
        ]
        return _known_lines(scope, [line for line in asked if line is not None])


def _waits(settlement: Settlement) -> bool:
    """For a window, without an attempt. Nothing but a later line says that it was stored, and that its row is gone again."""
    return settlement.window is not None and settlement.log is None and not settlement.from_row


def _line_of(settlement: Settlement, message: int, subscription: int) -> bytes | None:
    """The one that is in the log where it was stored."""
    if _waits(settlement):
        return line_key(message, subscription, settlement.lines + 1)
    return None if settlement.log is None else line_key(message, subscription, settlement.log.number)


def _known_lines(scope: Scope, lines: Collection[bytes]) -> set[bytes]:
    return {line["_id"] for line in scope[DELIVERY_LOG].find({"_id": {"$in": list(lines)}}, ["_id"])} if lines else set()


def _is_repeated(error: BulkWriteError) -> bool:
    return any(one["code"] == _DUPLICATE for one in error.details.get("writeErrors", ()))


_Parsed = tuple[Settlement, int | None, int | None]
"""With its message and its subscription."""


class _Fences:
    """The leases under which settlements may be stored, and what becomes of what is leased."""

    def __init__(self, scope: Scope, parsed: Sequence[_Parsed], closings: Sequence[Closing]) -> None:
        self._scope = scope
        self._closings = closings
        of_entries = [(one, message, other) for one, message, other in parsed if not one.from_row]
        entries = {message for one, message, _ in of_entries if one.job_id is None}
        entries |= {ids.parse(closing.message_id) for closing in closings if closing.job_id is None}
        pages = {ids.parse(one.job_id) for one, *_ in of_entries if one.job_id is not None}
        pages |= {ids.parse(closing.job_id) for closing in closings if closing.job_id is not None}
        self._entries = _leased(scope, OUTBOX, entries, ("lease", "cancelled", "queue_id"))
        self._pages = _leased(scope, JOBS, pages, ("lease", "cancelled"))
        rows = {delivery_key(message, other) for one, message, other in parsed if one.from_row and message and other}
        self._rows = _leased(scope, DELIVERIES, rows, ("lease", "report"))
        self._cancelled = _cancelled(
            scope, [(message, other) for one, message, other in of_entries if self._doubts(one, message)]
        )
        self._held: dict[str, set[int]] = {OUTBOX: set(), JOBS: set()}

    def _of(self, one: Settlement, message: int | None) -> tuple[str, int, Document | None]:
        if one.job_id is not None:
            number = ids.parse(one.job_id) or 0
            return JOBS, number, self._pages.get(number)
        return OUTBOX, message or 0, self._entries.get(message)

    def _doubts(self, one: Settlement, message: int | None) -> bool:
        """Whether some of its deliveries were cancelled before they were matched."""
        _, _, found = self._of(one, message)
        return found is not None and found["cancelled"] > 0

    def hold(self, one: Settlement, message: int, subscription: int) -> bool:
        if one.from_row:
            row = self._rows.get(delivery_key(message, subscription))
            return row is not None and row["lease"] == one.token
        collection, number, found = self._of(one, message)
        if found is None or found["lease"] != one.token or (message, subscription) in self._cancelled:
            return False
        self._held[collection].add(number)
        return True

    def is_report(self, key: bytes) -> bool:
        return "report" in self._rows.get(key, ())

    def touch(self) -> None:
        """What is not written by its closing. Rows are, in any case."""
        for closing in self._closings:
            collection, number, found = self._closed(closing)
            if found is not None:
                self._held[collection].discard(number)
        for collection, held in self._held.items():
            if held:
                self._scope[collection].update_many({"_id": {"$in": list(held)}}, _TOUCH)

    def _closed(self, closing: Closing) -> tuple[str, int, Document | None]:
        """None for a closing that has lost its lease."""
        if closing.job_id is None:
            collection, number = OUTBOX, ids.parse(closing.message_id)
            found = self._entries.get(number)
        else:
            collection, number = JOBS, ids.parse(closing.job_id)
            found = self._pages.get(number)
        return collection, number or 0, found if found is not None and found["lease"] == closing.token else None

    def close(self, now: float) -> None:
        over: dict[str, list[int]] = {OUTBOX: [], JOBS: []}
        for closing in self._closings:
            collection, number, found = self._closed(closing)
            if found is None:
                continue
            after = None if closing.after is None else ids.parse(closing.after)
            if after is None:
                over[collection].append(number)
            elif collection == JOBS:
                self._advance(JOBS, number, {"after_id": after})
            elif closing.cut:
                over[OUTBOX].append(number)
                jobs.add_cut(self._scope, found, after, now)
            else:
                # The next page of subscribers is new to everyone: it was never taken.
                self._advance(OUTBOX, number, {"after_id": after, "takes": found["cancelled"]})
        for collection, numbers in over.items():
            if numbers:
                self._scope[collection].delete_many({"_id": {"$in": numbers}})

    def _advance(self, collection: str, number: int, values: Mapping[str, Any]) -> None:
        self._scope[collection].update_one({"_id": number}, changes({**values, "due_at": 0.0, "lease": None}))


def _leased(scope: Scope, collection: str, keys: Collection[Any], fields: Sequence[str]) -> dict[Any, Document]:
    """Those that are under a lease, by their key."""
    asked = [key for key in keys if key is not None]
    found = scope[collection].find({"_id": {"$in": asked}}, fields) if asked else []
    return {document["_id"]: document for document in found if "lease" in document}


def _cancelled(scope: Scope, doubtful: Iterable[tuple[int | None, int | None]]) -> set[tuple[int, int]]:
    """Those that were cancelled after their entry was taken."""
    ranges = [{"_id": lines_of_delivery(message, other)} for message, other in doubtful if message and other]
    if not ranges:
        return set()
    found = scope[DELIVERY_LOG].find({"$or": ranges, "state": STATE_CODES[State.CANCELLED]}, ["_id"])
    return {of_line_key(line["_id"])[:2] for line in found}


class _Changes:
    """One settlement after the other goes into lists, which are stored in bulk."""

    def __init__(self, scope: Scope, now: float, means: Means, fences: _Fences) -> None:
        self._scope = scope
        self._now = now
        self._means = means
        self._fences = fences
        self._lines: dict[bytes, Document] = {}
        self._left: dict[bytes, tuple[Settlement, Document]] = {}
        """Rows that are left, without their lane."""
        self._ended: list[bytes] = []
        self._verdicts = Verdicts()
        self._posts: list[tuple[int, str, Draft]] = []
        self._alerts: list[tuple[int, Alert]] = []
        self._origins: dict[int, Document] | None = None

    def add(self, settlement: Settlement, message: int, subscription: int) -> None:
        key = delivery_key(message, subscription)
        if settlement.log is not None:
            document = line(message, subscription, settlement.log)
            self._lines.setdefault(document["_id"], document)
        if not (settlement.park is None and settlement.due_at is None and settlement.window is None):
            self._left[key] = settlement, _left(settlement)
        elif settlement.from_row:
            self._ended.append(key)
        self._verdicts.add(settlement, message, subscription)
        self._alerts += ((message, alert) for alert in settlement.alerts)
        self._posts += ((message, queue, draft) for queue, draft in settlement.publish)

    # -- rows ---------------------------------------------------------------------------------------------------------------

    def store_deliveries(self) -> None:
        rows = self._scope[DELIVERIES]
        self._pass_over_stored()
        self._hold_back()
        if self._ended:
            rows.delete_many({"_id": {"$in": self._ended}})
        if self._left:
            lanes = _ensure_lanes(self._scope, [one.park for one, _ in self._left.values() if one.park is not None])
            for settlement, row in self._left.values():
                row["lane_id"] = None if settlement.park is None else lanes[settlement.park]
            replaced = [key for key, (settlement, _) in self._left.items() if settlement.from_row]
            rows.bulk_write([UpdateOne({"_id": key}, changes(self._replaced(key))) for key in replaced])
            rows.insert_many([self._row(key, self._left[key][1]) for key in sorted(self._left.keys() - set(replaced))])

    def _pass_over_stored(self) -> None:
        """New rows that are there were left by a commit that was reported as failed: others may work on them."""
        fresh = [key for key, (settlement, _) in self._left.items() if not settlement.from_row]
        if fresh:
            for row in self._scope[DELIVERIES].find({"_id": {"$in": fresh}}, ["_id"]):
                del self._left[row["_id"]]

    def _hold_back(self) -> None:
        """In windows. Before any row is written: what is superseded is none of those that are."""
        asked = {
            key: Waiting(self._origin(of_delivery_key(key)[0])["project"], settlement.window, settlement.lines)
            for key, (settlement, _) in self._left.items()
            if settlement.window is not None and settlement.park is None
        }
        held, superseded = windows.hold(self._scope, asked, self._now)
        for key, fields in held.items():
            self._left[key][1].update(fields)
        for key, lines in superseded.items():
            self._left.pop(key, None)
            self._ended.append(key)
            end = line(*of_delivery_key(key), LogEntry(lines + 1, self._now, State.SUPERSEDED))
            self._lines.setdefault(end["_id"], end)

    def _replaced(self, key: bytes) -> Document:
        """A report does not expire. What is to be done because of it does, as the message."""
        settlement, left = self._left[key]
        if settlement.log is None or not self._fences.is_report(key):
            return left
        return {**left, "report": None, "expires_at": self._origin(of_delivery_key(key)[0])["expires_at"]}

    def _row(self, key: bytes, left: Document) -> Document:
        """A new one."""
        message, subscription = of_delivery_key(key)
        origin = self._origin(message)
        copied = {"expires_at": origin["expires_at"], "project_id": origin["project_id"], "again": 0}
        return {"_id": key, "subscription_id": subscription, **copied, **without_nulls(left)}

    def _origin(self, message: int) -> Document:
        """What is copied from the message: its expiry, its project, and whether it is encrypted."""
        if self._origins is None:
            self._origins = _find_origins(self._scope, self._messages())
        return self._origins[message]

    def _messages(self) -> set[int]:
        """Those whose origin may be asked for."""
        asked = {of_delivery_key(key)[0] for key in self._left}
        asked |= {of_line_key(key)[0] for key, line in self._lines.items() if "exchange" in line}
        asked |= {message for message, *_ in self._posts}
        return asked | self._verdicts.messages | {message for message, _ in self._alerts}

    # -- the log ------------------------------------------------------------------------------------------------------------

    def store_lines(self, repeated: bool) -> None:
        """``repeated``: some of them may be stored."""
        for key, document in self._lines.items():
            if "exchange" in document and self._origin(of_line_key(key)[0])["encrypted"]:
                document["exchange"] = self._means.bodies.seal_exchange(*of_line_key(key), document["exchange"])
        log = self._scope[DELIVERY_LOG]
        stored = _known_lines(self._scope, self._lines) if repeated else set()
        log.insert_many([line for key, line in self._lines.items() if key not in stored])

    # -- messages -----------------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        self._alerts += self._verdicts.store(self._scope)
        posts = [publishing.Post(self._origin(message)["project"], queue, (draft,)) for message, queue, draft in self._posts]
        for message, alert in self._alerts:
            origin = self._origin(message)
            if _has_owner(self._scope, alert) and alerting.is_due(self._scope, origin["project"], alert, self._now):
                post = publishing.Post(origin["project"], alert.queue, (alert.draft,), encrypts=origin["encrypted"])
                if alert.subscription_id is None:
                    posts.append(post)
                else:
                    self._call_back(post, ids.parse(alert.subscription_id) or 0)
        if posts:
            publishing.insert(self._scope, posts, self._now, self._means)

    def _call_back(self, post: publishing.Post, owner: int) -> None:
        publishing.insert_for_one(self._scope, post, owner, MessageKind.CALLBACK, now=self._now, means=self._means)


def _has_owner(scope: Scope, alert: Alert) -> bool:
    """Whether the subscription whose owner is to be told is there."""
    if alert.subscription_id is None:
        return True
    found = scope[SUBSCRIPTIONS].find_one({"_id": ids.parse(alert.subscription_id)}, ["deleted_at", "expires_at"])
    return found is not None and not is_deleted(found)


def _left(settlement: Settlement) -> Document:
    due_at = settlement.due_at if settlement.park is None and settlement.window is None else None
    return {
        "due_at": due_at,
        "lease": settlement.token if settlement.hold and due_at is not None else None,
        "attempts": settlement.attempts,
        "lines": settlement.lines,
        "window_id": None if settlement.window_id is None else ids.parse(settlement.window_id),
        "held": None,
        "target": settlement.target or None,
    }


def _find_origins(scope: Scope, numbers: Collection[int]) -> dict[int, Document]:
    messages = scope[MESSAGES].find({"_id": {"$in": list(numbers)}}, ["queue_id", "expires_at", "encrypted"])
    asked = list({message["queue_id"] for message in messages})
    queues = {queue["_id"]: queue for queue in scope[QUEUES].find({"_id": {"$in": asked}}, ["project", "project_id"])}
    return {message["_id"]: {**queues[message["queue_id"]], **message} for message in messages}


def line(message: int, subscription: int, entry: LogEntry) -> Document:
    """Whole numbers are stored in few bytes: milliseconds since the epoch, and microseconds."""
    optional = {
        "outcome": None if entry.outcome is None else OUTCOME_CODES[entry.outcome],
        "status": entry.status,
        "duration": None if entry.duration is None else round(entry.duration * 1e6),
        "detail": entry.detail or None,
        "exchange": None if entry.exchange is None else exchange_text(entry.exchange),
        "target": entry.target or None,
    }
    return {
        "_id": line_key(message, subscription, entry.number),
        "subscription_id": subscription,
        "at": round(entry.at * 1e3),
        "state": STATE_CODES[entry.state],
        **without_nulls(optional),
    }


# -- lanes and breakers --------------------------------------------------------------------------------------------------------


def _ensure_lanes(scope: Scope, keys: Sequence[LaneKey]) -> dict[LaneKey, int]:
    """Their numbers. They are touched, so that no worker removes one as empty in which something is being parked."""
    if not keys:
        return {}
    pools = {key: key.pool for key in keys}  # the last one says it
    found = find_lanes(scope, pools)
    of_pool: dict[str, list[int]] = {}
    for key, lane in found.items():
        of_pool.setdefault(pools[key], []).append(lane["_id"])
    for pool, numbers in of_pool.items():
        scope[LANES].update_many({"_id": {"$in": numbers}}, {**_TOUCH, "$set": {"pool": pool}})
    lanes = {key: int(lane["_id"]) for key, lane in found.items()}
    for key in sorted(pools.keys() - lanes.keys(), key=lambda key: (key.project, key.name)):
        lanes[key] = _make_lane(scope, LaneKey(key.project, key.name, pools[key]))
    return lanes


def _make_lane(scope: Scope, key: LaneKey, **others: Any) -> int:
    number = scope.number(LANES)
    project_id = projects.number_of(scope, key.project)
    named = {"project": key.project, "name": key.name, "pool": key.pool}
    scope[LANES].insert_one({"_id": number, **named, "due_at": 0.0, "project_id": project_id, "trips": 0, **others})
    return number


def _set_breaker(scope: Scope, breaker: Breaker) -> None:
    its = {"project": breaker.lane.project, "name": breaker.lane.name}
    if not breaker.trips:
        scope[LANES].update_one({**its, "trips": {"$gt": 0}}, changes({"trips": 0, "probe_at": None}))
        return
    opened = {"due_at": breaker.until, "trips": breaker.trips, "probe_at": breaker.until}
    if not scope[LANES].update_one(its, changes({**opened, "lease": None, "pool": breaker.lane.pool})):
        _make_lane(scope, breaker.lane, **opened)


def breakers(scope: Scope) -> list[Breaker]:
    found = scope[LANES].find({"trips": {"$gt": 0}}, [*LANE_FIELDS, "trips", "probe_at"], hint="ix_lanes_open")
    return [Breaker(lane_key(lane), lane["trips"], lane["probe_at"]) for lane in found]


# -- ending leases -------------------------------------------------------------------------------------------------------------


def give_back(
    scope: Scope,
    token: int,
    message_ids: Collection[str],
    rows: Collection[tuple[str, str]],
    ranges: Collection[str],
) -> None:
    """Each of them by itself: it needs no transaction."""
    entries = [number for number in map(ids.parse, message_ids) if number is not None]
    # They count as not taken.
    _free(scope, OUTBOX, token, entries, {**_FREE, "$inc": {"takes": -1}})
    parsed = [(ids.parse(message), ids.parse(subscription)) for message, subscription in rows]
    _free(scope, DELIVERIES, token, [delivery_key(message, other) for message, other in parsed if message and other], _FREE)
    _free(scope, JOBS, token, [number for number in map(ids.parse, ranges) if number is not None], _FREE)


def _free(scope: Scope, collection: str, token: int, keys: Sequence[Any], update: Mapping[str, Any]) -> None:
    if keys:
        scope[collection].update_many({"_id": {"$in": keys}, "lease": token}, update)
