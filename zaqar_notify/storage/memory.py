"""The storage in the memory of one process, for tests: the same semantics as the SQL one, with dictionaries and one lock.

Nothing here is fast or bounded. Ids are text of one length, so that they sort as the numbers that they are.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from zaqar_notify.encryption import Keyring
from zaqar_notify.errors import Conflict
from zaqar_notify.model import DeliveryRecord, Draft, LaneKey, LogEntry, Message, Queue, State, Subscription
from zaqar_notify.storage import ids, standing
from zaqar_notify.storage.base import MOST_LINES, Closing, Entry, Loaded, Row, Settlement, Storage, Subscribed, Taken

_WORKER_SHIFT = 32
_AT_ONCE = 0.0
"""The due time of what need not wait, whatever the clock says."""
_Key = TypeVar("_Key")


@dataclasses.dataclass(eq=False)
class _Queue:
    record: Queue
    deleted: bool = False


@dataclasses.dataclass(eq=False)
class _Message:
    record: Message
    queue: _Queue
    deleted: bool = False


@dataclasses.dataclass(eq=False)
class _Subscription:
    record: Subscription
    deleted_at: float | None = None
    expired: bool = False
    """It was not deleted but has expired."""


@dataclasses.dataclass(eq=False)
class _Leased:
    due_at: float | None
    lease: int | None = None

    def take(self, token: int, until: float) -> None:
        self.lease, self.due_at = token, until

    def free(self) -> None:
        self.lease, self.due_at = None, _AT_ONCE


@dataclasses.dataclass(eq=False)
class _Entry(_Leased):
    takes: int = 0
    after: str | None = None


@dataclasses.dataclass(eq=False)
class _Row(_Leased):
    lane: LaneKey | None = None
    attempts: int = 0
    lines: int = 0


class MemoryStorage(Storage):
    def __init__(
        self,
        *,
        keyring: Keyring,
        retention: float,
        body_retention: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``keyring`` is not needed: nothing leaves the memory. ``retention`` and ``body_retention`` are seconds."""
        self._retention = retention
        self._body_retention = body_retention
        self._clock = clock
        self._lock = threading.RLock()
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._messages: dict[str, _Message] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._outbox: dict[str, _Entry] = {}
        self._rows: dict[tuple[str, str], _Row] = {}
        self._lanes: dict[LaneKey, _Leased] = {}
        self._log: dict[tuple[str, str], list[LogEntry]] = {}
        self._last_id = 0
        self._workers = itertools.count(1)
        self._takes = itertools.count(1)

    # -- life ---------------------------------------------------------------------------------------------------------------

    def upgrade(self) -> bool:
        return False

    def check(self) -> None:
        return

    def close(self) -> None:
        return

    def _new_id(self, now: float) -> str:
        self._last_id = ids.rising(self._last_id, now, 1)[0]
        return ids.show(self._last_id)

    # -- queues -------------------------------------------------------------------------------------------------------------

    def put_queue(self, project: str, name: str, metadata: Mapping[str, Any]) -> bool:
        metadata = json.loads(json.dumps(dict(metadata)))
        with self._lock:
            found = self._queues.get((project, name))
            if found is None:
                self._ensure_queue(project, name, metadata)
                return True
            found.record = dataclasses.replace(found.record, metadata=metadata)
            return False

    def _ensure_queue(self, project: str, name: str, metadata: Mapping[str, Any] | None = None) -> _Queue:
        key = (project, name)
        if key not in self._queues:
            self._queues[key] = _Queue(Queue(project, name, metadata or {}, self._clock()))
        return self._queues[key]

    def get_queue(self, project: str, name: str) -> Queue | None:
        with self._lock:
            found = self._queues.get((project, name))
            return None if found is None else found.record

    def list_queues(self, project: str, marker: str | None, limit: int) -> list[Queue]:
        with self._lock:
            names = sorted(name for of, name in self._queues if of == project and name > (marker or ""))
            return [self._queues[project, name].record for name in names[:limit]]

    def delete_queue(self, project: str, name: str) -> None:
        with self._lock:
            found = self._queues.pop((project, name), None)
            if found is not None:
                found.deleted = True

    # -- messages -----------------------------------------------------------------------------------------------------------

    def publish(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None = None) -> list[str]:
        with self._lock:
            now = self._clock()
            return [self._store(project, queue, draft, client_id, now) for draft in drafts]

    def _store(self, project: str, queue: str, draft: Draft, client_id: str | None, now: float) -> str:
        message_id = self._new_id(now)
        record = Message(
            id=message_id,
            project=project,
            queue=queue,
            body_json=draft.body_json,
            ttl=draft.ttl,
            created_at=now,
            expires_at=now + draft.ttl,
            attributes=dict(draft.attributes),
            parent_id=draft.parent_id,
            client_id=client_id,
        )
        self._messages[message_id] = _Message(record, self._ensure_queue(project, queue))
        self._outbox[message_id] = _Entry(_AT_ONCE)
        return message_id

    def get_message(self, project: str, queue: str, message_id: str) -> Message | None:
        with self._lock:
            found = self._message_of(project, queue, message_id)
            return found.record if found is not None and self._visible(found) else None

    def _message_of(self, project: str, queue: str, message_id: str) -> _Message | None:
        found = self._messages.get(message_id)
        return found if found is not None and (found.record.project, found.record.queue) == (project, queue) else None

    def _visible(self, message: _Message) -> bool:
        return not message.deleted and not message.queue.deleted and message.record.expires_at > self._clock()

    def list_messages(
        self, project: str, queue: str, marker: str | None, limit: int, not_from: str | None = None
    ) -> list[Message]:
        ids.parse_marker(marker)
        with self._lock:
            live = self._queues.get((project, queue))
            found = (
                message.record
                for message_id, message in sorted(self._messages.items())
                if message.queue is live and message_id > (marker or "") and self._visible(message)
            )
            wanted = (message for message in found if not_from is None or message.client_id != not_from)
            return list(itertools.islice(wanted, limit))

    def delete_message(self, project: str, queue: str, message_id: str) -> None:
        with self._lock:
            found = self._message_of(project, queue, message_id)
            if found is not None and self._visible(found):
                found.deleted = True

    # -- subscriptions ------------------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> Subscribed:
        with self._lock:
            now = self._clock()
            self._ensure_queue(subscription.project, subscription.queue)
            existing = self._find_subscriber(subscription.project, subscription.queue, subscription.subscriber)
            if existing is None:
                record = dataclasses.replace(subscription, id=self._new_id(now), **_age(subscription.ttl, now))
                self._subscriptions[record.id] = _Subscription(record)
                return Subscribed(record, created=True, secret_is_new=record.secret is not None and record.secret_made)
            if existing.record.confirmed:
                raise Conflict("This subscriber is subscribed to the queue already.")
            renewed = subscription.secret is not None and self._may_replace_secret(existing.record, subscription)
            changes = {"options": subscription.options, **_age(subscription.ttl, now)}
            if renewed:
                changes |= {"secret": subscription.secret, "secret_made": subscription.secret_made}
            existing.record = dataclasses.replace(existing.record, **changes)
            return Subscribed(existing.record, created=False, secret_is_new=renewed and subscription.secret_made)

    def _may_replace_secret(self, existing: Subscription, asked: Subscription) -> bool:
        if not asked.secret_made or existing.secret is None:
            return True
        signed = any(line.outcome for (_, of), lines in self._log.items() if of == existing.id for line in lines)
        return existing.secret_made and not signed and not any(of == existing.id for _, of in self._rows)

    def _find_subscriber(self, project: str, queue: str, subscriber: str) -> _Subscription | None:
        found = (one for one in self._live_subscriptions(project, queue) if one.record.subscriber == subscriber)
        return next(found, None)

    def _live_subscriptions(self, project: str, queue: str) -> Iterable[_Subscription]:
        now = self._clock()
        for _, one in sorted(self._subscriptions.items()):
            if (one.record.project, one.record.queue) == (project, queue) and one.deleted_at is None and one.record.live(now):
                yield one

    def _live_subscription(self, project: str, queue: str, subscription_id: str) -> _Subscription | None:
        found = (one for one in self._live_subscriptions(project, queue) if one.record.id == subscription_id)
        return next(found, None)

    def get_subscription(self, project: str, queue: str, subscription_id: str) -> Subscription | None:
        with self._lock:
            found = self._live_subscription(project, queue, subscription_id)
            return None if found is None else found.record

    def list_subscriptions(self, project: str, queue: str, marker: str | None, limit: int) -> list[Subscription]:
        ids.parse_marker(marker)
        with self._lock:
            found = (one.record for one in self._live_subscriptions(project, queue) if one.record.id > (marker or ""))
            return list(itertools.islice(found, limit))

    def update_subscription(
        self, project: str, queue: str, subscription_id: str, changes: Mapping[str, Any]
    ) -> Subscription | None:
        with self._lock:
            existing = self._live_subscription(project, queue, subscription_id)
            if existing is None:
                return None
            other = self._find_subscriber(project, queue, changes.get("subscriber", existing.record.subscriber))
            if other is not None and other is not existing:
                raise Conflict("Another subscription of the queue has this subscriber.")
            age = _age(changes["ttl"], self._clock()) if "ttl" in changes else {}
            existing.record = dataclasses.replace(existing.record, **{**changes, **age})
            return existing.record

    def delete_subscription(self, project: str, queue: str, subscription_id: str) -> None:
        with self._lock:
            found = self._live_subscription(project, queue, subscription_id)
            if found is not None:
                found.deleted_at = self._clock()

    # -- did it arrive? -----------------------------------------------------------------------------------------------------

    def message_deliveries(
        self, project: str, queue: str, message_id: str, marker: str | None, limit: int
    ) -> list[DeliveryRecord] | None:
        ids.parse_marker(marker)
        with self._lock:
            if self._message_of(project, queue, message_id) is None:
                return None
            found = {of for message, of in itertools.chain(self._log, self._rows) if message == message_id}
            entry = self._outbox.get(message_id)
            if entry is not None:
                live = (one.record.id for one in self._live_subscriptions(project, queue))
                found |= {of for of in live if of > (entry.after or "")}
            page = sorted(of for of in found if of > (marker or ""))[:limit]
            return [self._delivery(message_id, of) for of in page]

    def subscription_deliveries(
        self, project: str, queue: str, subscription_id: str, marker: str | None, limit: int
    ) -> list[DeliveryRecord] | None:
        ids.parse_marker(marker)
        with self._lock:
            known = self._subscriptions.get(subscription_id)
            if known is None or (known.record.project, known.record.queue) != (project, queue):
                return None
            found = {message for message, of in itertools.chain(self._log, self._rows) if of == subscription_id}
            if self._live_subscription(project, queue, subscription_id) is not None:
                live = self._queues.get((project, queue))
                found |= {
                    message
                    for message, entry in self._outbox.items()
                    if self._messages[message].queue is live and (entry.after or "") < subscription_id
                }
            page = sorted((message for message in found if marker is None or message < marker), reverse=True)[:limit]
            return [self._delivery(message, subscription_id) for message in page]

    def _delivery(self, message_id: str, subscription_id: str) -> DeliveryRecord:
        now = self._clock()
        message = self._messages[message_id]
        subscription = self._subscriptions.get(subscription_id)
        key = (message_id, subscription_id)
        still_open = self._rows.get(key) or self._outbox.get(message_id)
        deleted = subscription is None or (subscription.deleted_at is not None and not subscription.expired)
        return standing.record(
            message_id,
            subscription_id,
            self._log.get(key, ())[-MOST_LINES:],
            None if still_open is None else standing.Open(still_open.due_at, leased=still_open.lease is not None),
            cancelled=message.queue.deleted or deleted,
            expired=message.record.expires_at <= now or (subscription is not None and not subscription.record.live(now)),
            now=now,
        )

    # -- the worker ---------------------------------------------------------------------------------------------------------

    def join(self) -> int:
        with self._lock:
            return next(self._workers)

    def leave(self, worker_id: int) -> None:
        with self._lock:
            for one in itertools.chain(self._outbox.values(), self._rows.values(), self._lanes.values()):
                if one.lease is not None and one.lease >> _WORKER_SHIFT == worker_id:
                    one.free()

    def recover(self) -> int:
        """All workers live in this process."""
        return 0

    def take(
        self,
        worker_id: int,
        lease: float,
        *,
        entries: int,
        rows: int,
        lanes: int = 0,
        parked: Mapping[LaneKey, int] | None = None,
    ) -> Taken:
        with self._lock:
            now = self._clock()
            token = worker_id << _WORKER_SHIFT | next(self._takes)
            until = now + lease
            taken_entries = _take(self._outbox, token, now, until, entries, ended_leases_first=True)
            for message_id in taken_entries:
                self._outbox[message_id].takes += 1
            taken_rows = sorted(_take(self._rows, token, now, until, rows))
            taken_lanes = _take(self._lanes, token, now, until, lanes)
            emptied = []
            for lane, most in (parked or {}).items():
                taken_rows += self._take_parked(lane, token, until, most)
                if not self._parked(lane) and (lane not in self._lanes or self._holds(token, lane)):
                    self._lanes.pop(lane, None)
                    emptied.append(lane)
            return Taken(
                token,
                [Entry(one, self._outbox[one].after, self._outbox[one].takes) for one in sorted(taken_entries)],
                [self._row(key) for key in taken_rows],
                taken_lanes,
                emptied,
            )

    def _take_parked(self, lane: LaneKey, token: int, until: float, most: int) -> list[tuple[str, str]]:
        if lane not in self._lanes or not self._holds(token, lane):
            return []
        taken = self._parked(lane)[:most]
        for key in taken:
            self._rows[key].take(token, until)
        return taken

    def _parked(self, lane: LaneKey) -> list[tuple[str, str]]:
        return sorted(key for key, row in self._rows.items() if row.lane == lane and row.due_at is None)

    def _holds(self, token: int, lane: LaneKey) -> bool:
        held = self._lanes[lane].lease
        return held is not None and held >> _WORKER_SHIFT == token >> _WORKER_SHIFT

    def _row(self, key: tuple[str, str]) -> Row:
        row = self._rows[key]
        return Row(*key, row.attempts, row.lines, row.lane)

    def load(self, message_ids: Collection[str], subscription_ids: Collection[str]) -> Loaded:
        with self._lock:
            messages = (self._messages.get(message_id) for message_id in message_ids)
            subscriptions = (self._subscriptions.get(subscription_id) for subscription_id in subscription_ids)
            return Loaded(
                {one.record.id: one.record for one in messages if one is not None and not one.queue.deleted},
                {
                    one.record.id: one.record
                    for one in subscriptions
                    if one is not None and (one.deleted_at is None or one.expired)
                },
            )

    def known(self, message_id: str, after: str | None) -> set[str]:
        with self._lock:
            keys = itertools.chain(self._log, self._rows)
            return {of for message, of in keys if message == message_id and of > (after or "")}

    def settle(self, settlements: Sequence[Settlement], closings: Sequence[Closing] = ()) -> int:
        with self._lock:
            now = self._clock()
            kept = [one for one in settlements if self._has_lease(one)]
            for one in kept:
                self._settle(one, now)
            for closing in closings:
                entry = self._outbox.get(closing.message_id)
                if entry is None or entry.lease != closing.token:
                    continue
                if closing.after is None:
                    del self._outbox[closing.message_id]
                else:
                    entry.free()
                    entry.after, entry.takes = closing.after, 0
            return len(settlements) - len(kept)

    def _has_lease(self, settlement: Settlement) -> bool:
        found: _Leased | None
        if settlement.from_row:
            found = self._rows.get((settlement.message_id, settlement.subscription_id))
        else:
            found = self._outbox.get(settlement.message_id)
        return found is not None and found.lease == settlement.token

    def _settle(self, settlement: Settlement, now: float) -> None:
        key = (settlement.message_id, settlement.subscription_id)
        if settlement.log is not None:
            self._log.setdefault(key, []).append(settlement.log)
        self._rows.pop(key, None)
        if settlement.park is not None:
            self._lanes.setdefault(settlement.park, _Leased(_AT_ONCE))
            self._rows[key] = _Row(None, None, settlement.park, settlement.attempts, settlement.lines)
        elif settlement.due_at is not None:
            lease = settlement.token if settlement.hold else None
            self._rows[key] = _Row(settlement.due_at, lease, None, settlement.attempts, settlement.lines)
        subscription = self._subscriptions.get(settlement.subscription_id)
        if settlement.disable is not None and subscription is not None and subscription.record.disabled is None:
            subscription.record = dataclasses.replace(subscription.record, disabled=settlement.disable)
        project = self._messages[settlement.message_id].record.project
        for queue, draft in settlement.publish:
            self._store(project, queue, draft, None, now)

    def give_back(self, token: int, message_ids: Collection[str], rows: Collection[tuple[str, str]] = ()) -> None:
        with self._lock:
            for entry in filter(None, map(self._outbox.get, message_ids)):
                if entry.lease == token:
                    entry.free()
                    entry.takes -= 1
            for row in filter(None, map(self._rows.get, rows)):
                if row.lease == token:
                    row.free()

    # -- housekeeping -------------------------------------------------------------------------------------------------------

    def prune(self, limit: int) -> int:
        with self._lock:
            now = self._clock()
            steps = itertools.chain(self._end_expired_rows(now), self._prune_messages(now), self._prune_subscriptions(now))
            return sum(itertools.islice(steps, limit))

    def _end_expired_rows(self, now: float) -> Iterable[int]:
        for (message_id, subscription_id), row in list(self._rows.items()):
            message = self._messages[message_id]
            if message.record.expires_at > now or row.lease is not None:
                continue
            subscription = self._subscriptions.get(subscription_id)
            deleted = subscription is None or (subscription.deleted_at is not None and not subscription.expired)
            state = State.CANCELLED if deleted or message.queue.deleted else State.EXPIRED
            del self._rows[message_id, subscription_id]
            self._log.setdefault((message_id, subscription_id), []).append(LogEntry(row.lines + 1, now, state))
            yield 1

    def _prune_messages(self, now: float) -> Iterable[int]:
        for message_id, message in list(self._messages.items()):
            if message.record.expires_at > now or message_id in self._outbox or any(of == message_id for of, _ in self._rows):
                continue
            log = {key: lines for key, lines in self._log.items() if key[0] == message_id}
            ended_at = max((line.at for lines in log.values() for line in lines), default=None)
            if ended_at is None or ended_at + self._retention <= now:
                for key in log:
                    del self._log[key]
                    yield 1
                del self._messages[message_id]
                yield 1
            elif self._body_retention is not None and message.record.body_json and ended_at + self._body_retention <= now:
                message.record = dataclasses.replace(message.record, body_json=b"")
                yield 1

    def _prune_subscriptions(self, now: float) -> Iterable[int]:
        for subscription_id, one in list(self._subscriptions.items()):
            if one.deleted_at is None:
                if not one.record.live(now):
                    one.deleted_at, one.expired = one.record.expires_at, True
                    yield 1
            elif one.deleted_at + self._retention <= now and not any(
                of == subscription_id for _, of in itertools.chain(self._log, self._rows)
            ):
                del self._subscriptions[subscription_id]
                yield 1


def _age(ttl: int | None, now: float) -> dict[str, Any]:
    """The fields of a subscription whose ttl begins now."""
    return {"ttl": ttl, "created_at": now, "expires_at": None if ttl is None else now + ttl}


def _take(
    leased: Mapping[_Key, _Leased], token: int, now: float, until: float, most: int, *, ended_leases_first: bool = False
) -> list[_Key]:
    """Lease at most ``most`` of what is due, what has been due for longest first."""
    due = [(one.due_at, key) for key, one in leased.items() if one.due_at is not None and one.due_at <= now]
    due.sort(key=lambda pair: (ended_leases_first and pair[0] == _AT_ONCE, pair[0], str(pair[1])))
    taken = [key for _, key in due[: max(most, 0)]]
    for key in taken:
        leased[key].take(token, until)
    return taken
