"""The storage in the memory of one process, for tests: the same semantics as the SQL one, with dictionaries and one lock.

Nothing here is fast or bounded. Ids are text of one length, so that they sort as the numbers that they are.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from zaqar_notify.encryption import CannotDecrypt, Keyring
from zaqar_notify.errors import CannotStart, Conflict, Forbidden, InvalidRequest, NotFound
from zaqar_notify.model import (
    Alert,
    ApiKey,
    Claim,
    DeliveryRecord,
    Disabled,
    Draft,
    Job,
    LaneKey,
    LogEntry,
    Member,
    Message,
    MessageKind,
    OutcomeKind,
    Queue,
    Receipt,
    ReceiptKind,
    State,
    Stats,
    Subscription,
)
from zaqar_notify.storage import ids, standing
from zaqar_notify.storage.base import (
    CUT,
    MOST_LINES,
    RANGE,
    Breaker,
    Closing,
    Confirmation,
    Depths,
    Entry,
    Failure,
    Loaded,
    Row,
    Settlement,
    Storage,
    Subscribed,
    Taken,
    Window,
)
from zaqar_notify.storage.retention import Retention

_WORKER_SHIFT = 32
_AT_ONCE = 0.0
"""The due time of what need not wait, whatever the clock says."""
_USE_UP = frozenset({OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REJECTED, OutcomeKind.GONE})
"""Outcomes that use up an attempt."""
_STAYS = "What is in the memory of a process stays there: memory:// cannot be copied"
_Key = TypeVar("_Key")


@dataclasses.dataclass(eq=False)
class _Queue:
    record: Queue
    deleted: bool = False


@dataclasses.dataclass(eq=False)
class _Claim:
    record: Claim
    queue: _Queue


@dataclasses.dataclass(eq=False)
class _Message:
    record: Message
    """As it is stored: the body may be encrypted, the claim is not in it."""
    queue: _Queue
    encrypted: bool = False
    free_at: float = _AT_ONCE
    """The end of its delay."""
    deleted: bool = False
    hidden: bool = False
    """Readers never see it."""
    claim_id: str | None = None
    """The last claim on it, which may have ended."""
    claims: int = 0
    """How often it was claimed."""
    ended_at: float = -math.inf
    """When the last of those deliveries ended that the log has forgotten."""

    @property
    def cancelled(self) -> bool:
        """With its queue. Requests to confirm belong to their subscriptions, which outlive the queue."""
        return self.queue.deleted and self.record.kind is MessageKind.NOTIFICATION


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
    cancelled: bool = False
    """Some of its deliveries were cancelled before it was matched."""


@dataclasses.dataclass(eq=False)
class _Row(_Leased):
    lane: LaneKey | None = None
    attempts: int = 0
    lines: int = 0
    expires_at: float | None = None
    """Of a redelivery; None: it expires with its message."""
    lines_before: int = 0
    """Of a redelivery: lines of its log before."""
    ends_at: float | None = None
    """It has expired and was handed to the workers: housekeeping ends it then, unless one of them has done so."""
    window_id: str | None = None
    key: str | None = None
    """It was held in this window, for this key, when it was last settled."""
    target: int = 0
    report: Receipt | None = None

    def held(self, now: float) -> bool:
        return self.key is not None and self.lease is None and self.due_at is not None and self.due_at > now


@dataclasses.dataclass(eq=False)
class _Lane(_Leased):
    trips: int = 0
    """Of its breaker; 0: that is closed."""
    until: float = _AT_ONCE
    """When an open breaker may be probed."""
    pool: str = ""


@dataclasses.dataclass(frozen=True)
class _Window:
    id: str
    ends_at: float


@dataclasses.dataclass(eq=False)
class _Job(_Leased):
    """The lease is that of a page."""

    id: str = ""
    project: str = ""
    kind: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Without those of a part of a fan-out, which follow."""
    created_at: float = 0.0
    message_id: str | None = None
    after: str | None = None
    last: str | None = None
    cancelled: bool = False
    takes: int = 0
    worker_id: int | None = None
    held_until: float = 0.0
    error: str | None = None
    failed_at: float | None = None

    def covers(self, key: tuple[str, str]) -> bool:
        message_id, subscription_id = key
        behind = self.message_id == message_id and subscription_id > (self.after or "")
        return behind and (self.last is None or subscription_id <= self.last)

    def held_by(self, worker_id: int, now: float) -> bool:
        return self.worker_id == worker_id and self.held_until > now

    def record(self) -> Job:
        details = dict(self.details)
        if self.kind in (CUT, RANGE):
            details |= {"message_id": self.message_id, "after": self.after, "last": self.last}
        return Job(
            self.id,
            self.project,
            self.kind,
            details,
            self.created_at,
            self.takes,
            self.worker_id,
            self.held_until,
            self.error,
        )


class MemoryStorage(Storage):
    def __init__(
        self,
        *,
        keyring: Keyring,
        retention: float,
        body_retention: float | None = None,
        retention_delivered: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``keyring`` is for the bodies of messages only: secrets do not leave the memory. ``retention``,
        ``body_retention`` and ``retention_delivered`` are seconds; the last is for the logs of delivered deliveries."""
        self._keyring = keyring
        self._retention = retention
        self._body_retention = body_retention
        self._retention_delivered = retention_delivered
        self._clock = clock
        self._lock = threading.RLock()
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._messages: dict[str, _Message] = {}
        self._claims: dict[str, _Claim] = {}
        self._keys: dict[str, ApiKey] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._outbox: dict[str, _Entry] = {}
        self._rows: dict[tuple[str, str], _Row] = {}
        self._lanes: dict[LaneKey, _Lane] = {}
        self._log: dict[tuple[str, str], list[LogEntry]] = {}
        self._receipts: dict[tuple[str, str], list[Receipt]] = {}
        self._windows: dict[tuple[str, str], _Window] = {}
        self._alerted: dict[tuple[str, str], float] = {}
        self._turns: dict[str, str] = {}
        self._jobs: dict[str, _Job] = {}
        self._members: dict[int, Member] = {}
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

    def now(self) -> float:
        return self._clock()

    def _new_id(self, now: float) -> str:
        self._last_id = ids.rising(self._last_id, now, 1)[0]
        return ids.show(self._last_id)

    # -- queues -------------------------------------------------------------------------------------------------------------

    def put_queue(self, project: str, name: str, metadata: Mapping[str, Any]) -> bool:
        metadata = _copy(metadata)
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

    def update_queue(
        self, project: str, name: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> Mapping[str, Any] | None:
        with self._lock:
            found = self._queues.get((project, name))
            if found is None:
                return None
            found.record = dataclasses.replace(found.record, metadata=_copy(change(_copy(found.record.metadata))))
            return found.record.metadata

    def list_queues(
        self, project: str, marker: str | None, limit: int, *, name: str = "", metadata: Mapping[str, str] | None = None
    ) -> list[Queue]:
        with self._lock:
            found = (queue for queue in self._queues_like(project, name, metadata or {}) if queue.name > (marker or ""))
            return list(itertools.islice(found, limit))

    def count_queues(self, project: str, *, name: str = "", metadata: Mapping[str, str] | None = None) -> int:
        with self._lock:
            return sum(1 for _ in self._queues_like(project, name, metadata or {}))

    def _queues_like(self, project: str, part: str, metadata: Mapping[str, str]) -> Iterable[Queue]:
        for (of, name), queue in sorted(self._queues.items(), key=lambda item: item[0]):
            has = queue.record.metadata
            if of == project and part in name and all(key in has and _text(has[key]) == text for key, text in metadata.items()):
                yield queue.record

    def delete_queue(self, project: str, name: str) -> None:
        with self._lock:
            found = self._queues.pop((project, name), None)
            if found is not None:
                found.deleted = True

    def purge_messages(self, project: str, queue: str) -> None:
        with self._lock:
            found = self._queues.get((project, queue))
            if found is not None:
                found.deleted = True
                self._queues[project, queue] = _Queue(found.record)

    def purge_subscriptions(self, project: str, queue: str, limit: int) -> int:
        with self._lock:
            found = list(itertools.islice(self._live_subscriptions(project, queue), limit))
            for one in found:
                one.deleted_at = self._clock()
            return len(found)

    # -- messages -----------------------------------------------------------------------------------------------------------

    def publish(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None = None) -> list[str]:
        with self._lock:
            return [self._post(self._ensure_queue(project, queue), draft, client_id) for draft in drafts]

    def _post(self, queue: _Queue, draft: Draft, client_id: str | None = None, *, encrypts: bool = False) -> str:
        message = self._store(queue, draft, client_id, encrypts=encrypts)
        self._outbox[message.record.id] = _Entry(message.free_at)
        return message.record.id

    def _store(
        self,
        queue: _Queue,
        draft: Draft,
        client_id: str | None = None,
        *,
        kind: MessageKind = MessageKind.NOTIFICATION,
        hidden: bool = False,
        encrypts: bool = False,
    ) -> _Message:
        """Without an outbox entry."""
        now = self._clock()
        message_id = self._new_id(now)
        encrypted = encrypts or queue.record.metadata.get("_enable_encrypt_messages") is True
        record = Message(
            id=message_id,
            project=queue.record.project,
            queue=queue.record.name,
            body_json=self._keyring.seal(draft.body_json, _context(message_id)) if encrypted else draft.body_json,
            ttl=draft.ttl,
            created_at=now,
            expires_at=now + draft.delay + draft.ttl,
            attributes=dict(draft.attributes),
            parent_id=draft.parent_id,
            client_id=client_id,
            kind=kind,
            collapse_key=draft.collapse_key,
            priority=draft.priority,
            language=draft.language,
        )
        free_at = now + draft.delay if draft.delay else _AT_ONCE
        stored = _Message(record, queue, encrypted=encrypted, free_at=free_at, hidden=hidden)
        self._messages[message_id] = stored
        return stored

    def _store_for_one(
        self, queue: _Queue, draft: Draft, subscription_id: str, kind: MessageKind, *, encrypts: bool = False
    ) -> str:
        """Readers never see it; it has a row for this subscription alone instead of an outbox entry."""
        message = self._store(queue, draft, kind=kind, hidden=True, encrypts=encrypts)
        self._rows[message.record.id, subscription_id] = _Row(_AT_ONCE)
        return message.record.id

    def _show(self, message: _Message) -> Message:
        """As it is handed out."""
        shown = message.record
        claim = self._claim_on(message)
        if claim is not None:
            shown = dataclasses.replace(shown, claim_id=claim.record.id)
        if not message.encrypted or not shown.body_json:
            return shown
        try:
            return dataclasses.replace(shown, body_json=self._keyring.open(shown.body_json, _context(shown.id)))
        except CannotDecrypt:
            return dataclasses.replace(shown, body_json=b"", sealed=True)

    def get_message(self, project: str, queue: str, message_id: str) -> Message | None:
        with self._lock:
            found = self._visible_message(project, queue, message_id)
            return None if found is None else self._show(found)

    def _message_of(self, project: str, queue: str, message_id: str) -> _Message | None:
        found = self._messages.get(message_id)
        return found if found is not None and (found.record.project, found.record.queue) == (project, queue) else None

    def _visible_message(self, project: str, queue: str, message_id: str) -> _Message | None:
        found = self._message_of(project, queue, message_id)
        return found if found is not None and self._visible(found) else None

    def _visible(self, message: _Message) -> bool:
        gone = message.deleted or message.hidden or message.queue.deleted
        return not gone and message.record.expires_at > self._clock()

    def _delayed(self, message: _Message) -> bool:
        return message.free_at > self._clock()

    def _free(self, message: _Message) -> bool:
        return self._visible(message) and not self._delayed(message) and self._claim_on(message) is None

    def _messages_in(self, project: str, queue: str) -> list[_Message]:
        """Those that readers may see, oldest first."""
        live = self._queues.get((project, queue))
        return [message for _, message in sorted(self._messages.items()) if message.queue is live and self._visible(message)]

    def list_messages(
        self,
        project: str,
        queue: str,
        marker: str | None,
        limit: int,
        not_from: str | None = None,
        *,
        claimed: bool = False,
        delayed: bool = False,
    ) -> list[Message]:
        ids.parse_marker(marker)
        with self._lock:
            found = (
                message
                for message in self._messages_in(project, queue)
                if message.record.id > (marker or "")
                and (not_from is None or message.record.client_id != not_from)
                and (claimed or self._claim_on(message) is None)
                and (delayed or not self._delayed(message))
            )
            return [self._show(message) for message in itertools.islice(found, limit)]

    def delete_message(self, project: str, queue: str, message_id: str, claim_id: str | None = None) -> None:
        with self._lock:
            found = self._visible_message(project, queue, message_id)
            if found is None:
                return
            claim = self._claim_on(found)
            if claim_id is not None and self._live_claim(project, queue, claim_id) is None:
                raise InvalidRequest("There is no such claim (any more): leave claim_id out, or claim the message again.")
            if claim_id is not None and claim is None:
                raise InvalidRequest("The message is not claimed: leave claim_id out.")
            if claim is not None and claim.record.id != claim_id:
                raise Forbidden("The message is claimed: give the claim_id of its claim.")
            found.deleted = True

    def delete_messages(
        self, project: str, queue: str, message_ids: Collection[str], claim_ids: Collection[str] | None = None
    ) -> None:
        with self._lock:
            found = [self._visible_message(project, queue, message_id) for message_id in message_ids]
            visible = [message for message in found if message is not None]
            claims = {claim.record.id for claim in map(self._claim_on, visible) if claim is not None}
            if not claims.issuperset(claim_ids or ()):
                raise InvalidRequest("Each of claim_ids has to be the claim of at least one of the messages.")
            for message in visible:
                message.deleted = True

    def pop_messages(self, project: str, queue: str, limit: int) -> list[Message]:
        with self._lock:
            free = filter(self._free, self._messages_in(project, queue))
            popped = list(itertools.islice(free, limit))
            shown = [self._show(message) for message in popped]
            for message in popped:
                message.deleted = True
            return shown

    def stats(self, project: str, queue: str) -> Stats:
        with self._lock:
            live = self._messages_in(project, queue)
            if not live:
                return Stats()
            return dataclasses.replace(self._count(live), oldest=self._show(live[0]), newest=self._show(live[-1]))

    def volume(self) -> Stats:
        with self._lock:
            return self._count([message for message in self._messages.values() if self._visible(message)])

    def _count(self, messages: Collection[_Message]) -> Stats:
        free = sum(map(self._free, messages))
        return Stats(claimed=len(messages) - free, free=free)

    # -- claims -------------------------------------------------------------------------------------------------------------

    def claim(self, project: str, queue: str, limit: int, ttl: int, grace: int) -> tuple[Claim, list[Message]] | None:
        with self._lock:
            free = filter(self._free, self._messages_in(project, queue))
            claimed = list(itertools.islice((message for message in free if not self._bury(message)), limit))
            if not claimed:
                return None
            now = self._clock()
            claim = _Claim(Claim(self._new_id(now), ttl, grace, now), claimed[0].queue)
            self._claims[claim.record.id] = claim
            for message in claimed:
                message.claim_id = claim.record.id
                message.claims += 1
            self._prolong(claim)
            return claim.record, [self._show(message) for message in claimed]

    def _bury(self, message: _Message) -> bool:
        """Move it to the dead-letter queue if it was claimed too often."""
        metadata = message.queue.record.metadata
        most, target = _count_in(metadata, "_max_claim_count"), metadata.get("_dead_letter_queue")
        if most is None or message.claims < most or not isinstance(target, str) or not target:
            return False
        shown = self._show(message)
        if shown.sealed:
            return False  # what cannot be read cannot be moved without losing it
        ttl = _count_in(metadata, "_dead_letter_queue_messages_ttl") or shown.ttl
        draft = Draft(
            shown.body_json,
            ttl,
            shown.attributes,
            parent_id=shown.id,
            collapse_key=shown.collapse_key,
            priority=shown.priority,
            language=shown.language,
        )
        self._post(self._ensure_queue(shown.project, target), draft, shown.client_id)
        message.deleted = True
        return True

    def _messages_of(self, claim: _Claim) -> list[_Message]:
        """Those that are still there."""
        found = (message for _, message in sorted(self._messages.items()) if message.claim_id == claim.record.id)
        return [message for message in found if self._visible(message)]

    def _prolong(self, claim: _Claim) -> None:
        """Its messages live on until it has ended and its grace is over."""
        until = claim.record.expires_at + claim.record.grace
        for message in self._messages_of(claim):
            if message.record.expires_at < until:
                ttl = max(message.record.ttl, math.ceil(until - message.record.created_at))
                message.record = dataclasses.replace(message.record, expires_at=until, ttl=ttl)

    def _claim_on(self, message: _Message) -> _Claim | None:
        """The claim that has it now."""
        claim = self._claims.get(message.claim_id) if message.claim_id is not None else None
        return claim if claim is not None and claim.record.expires_at > self._clock() else None

    def _live_claim(self, project: str, queue: str, claim_id: str) -> _Claim | None:
        claim = self._claims.get(claim_id)
        if claim is None or claim.queue is not self._queues.get((project, queue)):
            return None
        return claim if claim.record.expires_at > self._clock() else None

    def get_claim(self, project: str, queue: str, claim_id: str) -> tuple[Claim, list[Message]] | None:
        with self._lock:
            claim = self._live_claim(project, queue, claim_id)
            return None if claim is None else (claim.record, [self._show(message) for message in self._messages_of(claim)])

    def update_claim(self, project: str, queue: str, claim_id: str, ttl: int, grace: int) -> bool:
        with self._lock:
            claim = self._live_claim(project, queue, claim_id)
            if claim is None:
                return False
            claim.record = Claim(claim_id, ttl, grace, self._clock())
            self._prolong(claim)
            return True

    def release_claim(self, project: str, queue: str, claim_id: str) -> None:
        with self._lock:
            if self._live_claim(project, queue, claim_id) is not None:
                del self._claims[claim_id]

    # -- messages of a queue service that this one extends ------------------------------------------------------------------

    def hold(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None, seconds: float) -> list[str]:
        with self._lock:
            until = self._clock() + seconds
            live = self._ensure_queue(project, queue)
            held = [self._store(live, draft, client_id, hidden=True) for draft in drafts]
            for message in held:
                self._outbox[message.record.id] = _Entry(max(until, message.free_at))
            return [message.record.id for message in held]

    def _held(self, project: str, queue: str, message_id: str) -> _Message | None:
        found = self._message_of(project, queue, message_id)
        if found is None or not found.hidden or found.record.kind is not MessageKind.NOTIFICATION:
            return None
        return found

    def release(self, project: str, queue: str, message_ids: Sequence[str], foreign_ids: Sequence[str] | None = None) -> None:
        with self._lock:
            public = itertools.repeat(None, len(message_ids)) if foreign_ids is None else foreign_ids
            for message_id, foreign_id in zip(message_ids, public, strict=True):
                message = self._held(project, queue, message_id)
                if message is None:
                    continue
                message.record = dataclasses.replace(message.record, foreign_id=foreign_id or message.record.foreign_id)
                entry = self._outbox.get(message_id)
                if entry is not None and entry.lease is None:
                    entry.due_at = message.free_at

    def drop(self, project: str, queue: str, message_ids: Sequence[str]) -> None:
        with self._lock:
            for message_id in message_ids:
                entry = self._outbox.get(message_id)
                untouched = entry is not None and entry.lease is None and not entry.takes
                if untouched and self._held(project, queue, message_id) is not None:
                    for key in self._logs_of(message_id):
                        self._forget(key)
                    del self._outbox[message_id], self._messages[message_id]

    # -- subscriptions ------------------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, confirmation: Confirmation | None = None) -> Subscribed:
        with self._lock:
            now = self._clock()
            existing = self._find_subscriber(subscription.project, subscription.queue, subscription.subscriber)
            if existing is None:
                record = dataclasses.replace(subscription, id=self._new_id(now), **_age(subscription.ttl, now))
                self._ask(record, confirmation)
                self._subscriptions[record.id] = _Subscription(record)
                return Subscribed(record, created=True, secret_is_new=record.secret is not None and record.secret_made)
            if existing.record.confirmed:
                raise Conflict("This subscriber is subscribed to the queue already.")
            renewed = subscription.secret is not None and self._may_replace_secret(existing.record, subscription)
            changes = {"options": subscription.options, **_age(subscription.ttl, now)}
            if renewed:
                changes |= {"secret": subscription.secret, "secret_made": subscription.secret_made}
            record = dataclasses.replace(existing.record, **changes)
            self._ask(record, confirmation)
            existing.record = record
            return Subscribed(record, created=False, secret_is_new=renewed and subscription.secret_made)

    def _ask(self, subscription: Subscription, confirmation: Confirmation | None) -> None:
        """Before anything is changed: what makes the confirmation may raise."""
        draft = None if confirmation is None else confirmation(subscription)
        queue = self._ensure_queue(subscription.project, subscription.queue)
        if draft is not None:
            self._store_for_one(queue, draft, subscription.id, MessageKind.CONFIRMATION)

    def confirm(
        self, project: str, queue: str, subscription_id: str, confirmed: bool, confirmation: Confirmation | None = None
    ) -> Subscription | None:
        with self._lock:
            existing = self._live_subscription(project, queue, subscription_id)
            if existing is None:
                return None
            record = dataclasses.replace(existing.record, confirmed=confirmed)
            if confirmation is not None:
                self._ask(record, confirmation)
            existing.record = record
            return record

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
        self,
        project: str,
        queue: str,
        subscription_id: str,
        changes: Mapping[str, Any],
        confirmation: Confirmation | None = None,
    ) -> Subscription | None:
        with self._lock:
            existing = self._live_subscription(project, queue, subscription_id)
            if existing is None:
                return None
            other = self._find_subscriber(project, queue, changes.get("subscriber", existing.record.subscriber))
            if other is not None and other is not existing:
                raise Conflict("Another subscription of the queue has this subscriber.")
            age = _age(changes["ttl"], self._clock()) if "ttl" in changes else {}
            moved = changes.get("subscriber", existing.record.subscriber) != existing.record.subscriber
            enabled = existing.record.disabled is not None and "disabled" in changes and changes["disabled"] is None
            fresh = {"strikes": 0, "failing_since": None} if enabled or moved else {}
            record = dataclasses.replace(existing.record, **{**changes, **age, **fresh})
            if confirmation is not None and moved:
                record = dataclasses.replace(record, confirmed=False)
                self._ask(record, confirmation)
            existing.record = record
            return record

    def delete_subscription(self, project: str, queue: str, subscription_id: str) -> None:
        with self._lock:
            found = self._live_subscription(project, queue, subscription_id)
            if found is not None:
                found.deleted_at = self._clock()

    # -- did it arrive? -----------------------------------------------------------------------------------------------------

    def message_deliveries(
        self, project: str, queue: str, message_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        ids.parse_marker(marker)
        with self._lock:
            asked = self._public_message(project, queue, message_id)
            if asked is None:
                return None
            message_id = asked.record.id
            found = {of for message, of in itertools.chain(self._log, self._rows) if message == message_id}
            live = (one.record.id for one in self._live_subscriptions(project, queue))
            found |= {of for of in live if self._covered((message_id, of))}
            page = sorted(of for of in found if of > (marker or ""))[:limit]
            return [self._delivery(message_id, of, exchanges) for of in page]

    def subscription_deliveries(
        self, project: str, queue: str, subscription_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        with self._lock:
            marker = self._internal_marker(project, queue, marker)
            known = self._subscriptions.get(subscription_id)
            if known is None or (known.record.project, known.record.queue) != (project, queue):
                return None
            found = {message for message, of in itertools.chain(self._log, self._rows) if of == subscription_id}
            if self._live_subscription(project, queue, subscription_id) is not None:
                live = self._queues.get((project, queue))
                open_messages = {*self._outbox, *self._messages_of_jobs()}
                found |= {
                    message
                    for message in open_messages
                    if self._messages[message].queue is live and self._covered((message, subscription_id))
                }
            page = sorted((message for message in found if marker is None or message < marker), reverse=True)[:limit]
            return [self._delivery(message, subscription_id, exchanges) for message in page]

    def _public_message(self, project: str, queue: str, public_id: str) -> _Message | None:
        """By its foreign id where it has one, whatever became of it. The newest, when the other service used an id twice."""
        for _, message in sorted(self._messages.items(), reverse=True):
            if message.record.public_id == public_id and (message.record.project, message.record.queue) == (project, queue):
                return message
        return None

    def _internal_marker(self, project: str, queue: str, marker: str | None) -> str | None:
        message = None if marker is None else self._public_message(project, queue, marker)
        if message is not None:
            return message.record.id
        ids.parse_marker(marker)
        return marker

    def _delivery(self, message_id: str, subscription_id: str, exchanges: bool = False) -> DeliveryRecord:
        now = self._clock()
        message = self._messages[message_id]
        subscription = self._subscriptions.get(subscription_id)
        key = (message_id, subscription_id)
        log = self._log.get(key, [])[-MOST_LINES:]
        row, entry = self._rows.get(key), self._outbox.get(message_id)
        still_open = row or entry or (_Entry(_AT_ONCE) if self._covered(key) else None)
        deleted = subscription is None or (subscription.deleted_at is not None and not subscription.expired)
        expires_at = message.record.expires_at if row is None else self._expires_at(message, row)
        return standing.record(
            message.record.public_id,
            subscription_id,
            log if exchanges else [dataclasses.replace(line, exchange=None) for line in log],
            None
            if still_open is None
            else standing.Open(
                still_open.due_at,
                leased=still_open.lease is not None,
                row=row is not None,
                held=row is not None and row.held(now),
            ),
            cancelled=message.cancelled or deleted,
            expired=expires_at <= now or (subscription is not None and not subscription.record.live(now)),
            now=now,
            receipts=sorted(self._receipts.get(key, ()), key=lambda receipt: receipt.at),
        )

    def _expires_at(self, message: _Message, row: _Row) -> float:
        if row.report is not None:
            return math.inf
        return message.record.expires_at if row.expires_at is None else row.expires_at

    def _logs_of(self, message_id: str) -> list[tuple[str, str]]:
        return [key for key in self._log if key[0] == message_id]

    def _forget(self, key: tuple[str, str]) -> None:
        del self._log[key]
        self._receipts.pop(key, None)

    def receive(self, message_id: str, subscription_id: str, receipt: Receipt) -> bool:
        with self._lock:
            key = (message_id, subscription_id)
            heard = self._receipts.get(key, [])
            if key not in self._log:
                return False
            reported = receipt.kind is ReceiptKind.FAILED and self._report(key, receipt)
            if not reported and any(one.kind is receipt.kind for one in heard):
                return False
            self._receipts[key] = [*(one for one in heard if one.kind is not receipt.kind), receipt]
            return True

    def _report(self, key: tuple[str, str], receipt: Receipt) -> bool:
        """A worker is to settle it, where it was taken for delivered and there is still somebody whom it concerns."""
        log, message, subscription = self._log[key], self._messages[key[0]], self._subscriptions.get(key[1])
        gone = message.cancelled or subscription is None or subscription.deleted_at is not None
        if gone or key in self._rows or log[-1].state is not State.DELIVERED:
            return False
        attempts = max(sum(line.outcome in _USE_UP for line in log), 1)
        target = next((line.target for line in reversed(log) if line.outcome is not None), 0)
        self._rows[key] = _Row(_AT_ONCE, attempts=attempts, lines=log[-1].number, target=target, report=receipt)
        return True

    # -- again, or not at all -----------------------------------------------------------------------------------------------

    def redeliver(self, project: str, queue: str, message_id: str, subscription_id: str, ttl: float) -> None:
        with self._lock:
            message, key = self._asked_delivery(project, queue, message_id, subscription_id)
            if not self._ended(key):
                raise Conflict("The delivery has not ended: cancel it first, or wait.")
            if not message.record.body_json:
                raise Conflict("The body of the message is not kept any more.")
            lines = self._log[key][-1].number
            self._rows[key] = _Row(_AT_ONCE, lines=lines, expires_at=self._clock() + ttl, lines_before=lines)

    def cancel(self, project: str, queue: str, message_id: str, subscription_id: str) -> None:
        with self._lock:
            _, key = self._asked_delivery(project, queue, message_id, subscription_id)
            if self._ended(key):
                raise Conflict("The delivery has ended.")
            row = self._rows.pop(key, None)
            if row is None:
                self._cancel_unmatched(key)
            number = 1 if row is None else row.lines + 1
            self._log.setdefault(key, []).append(LogEntry(number, self._clock(), State.CANCELLED))

    def _asked_delivery(
        self, project: str, queue: str, message_id: str, subscription_id: str
    ) -> tuple[_Message, tuple[str, str]]:
        """Raises `NotFound` unless there is such a delivery."""
        message = self._public_message(project, queue, message_id)
        subscription = self._live_subscription(project, queue, subscription_id)
        if message is not None and not message.queue.deleted and subscription is not None:
            key = (message.record.id, subscription_id)
            if key in self._rows or key in self._log or self._covered(key):
                return message, key
        raise NotFound("There is no such delivery (any more).")

    def _ended(self, key: tuple[str, str]) -> bool:
        if key in self._rows:
            return False
        return not self._covered(key) or (key in self._log and self._log[key][-1].state.ended)

    def _cancel_unmatched(self, key: tuple[str, str]) -> None:
        if key[0] in self._outbox:
            self._outbox[key[0]].cancelled = True
        for job in self._jobs.values():
            job.cancelled = job.cancelled or job.covers(key)

    def _covered(self, key: tuple[str, str]) -> bool:
        """By an outbox entry or a job, which is not matched with it yet or does not know what became of it."""
        entry = self._outbox.get(key[0])
        return (entry is not None and key[1] > (entry.after or "")) or any(job.covers(key) for job in self._jobs.values())

    def _messages_of_jobs(self) -> set[str]:
        return {job.message_id for job in self._jobs.values() if job.message_id is not None}

    def ping(self, project: str, queue: str, subscription_id: str, draft: Draft) -> str | None:
        with self._lock:
            if self._live_subscription(project, queue, subscription_id) is None:
                return None
            return self._store_for_one(self._ensure_queue(project, queue), draft, subscription_id, MessageKind.TEST)

    # -- keys of the API ----------------------------------------------------------------------------------------------------

    def add_key(self, key: ApiKey) -> None:
        with self._lock:
            if key.id in self._keys:
                raise Conflict("There is a key with this id already.")
            self._keys[key.id] = key

    def get_key(self, key_id: str) -> ApiKey | None:
        with self._lock:
            return self._keys.get(key_id)

    def list_keys(self, project: str | None = None) -> list[ApiKey]:
        with self._lock:
            found = (key for key in self._keys.values() if project is None or key.project == project)
            return sorted(found, key=lambda key: (key.created_at, key.id))

    def revoke_key(self, key_id: str) -> bool:
        with self._lock:
            key = self._keys.get(key_id)
            if key is None or key.revoked_at is not None:
                return False
            self._keys[key_id] = dataclasses.replace(key, revoked_at=self._clock())
            return True

    # -- the worker ---------------------------------------------------------------------------------------------------------

    def join(self, host: str = "", pid: int = 0, version: str = "") -> int:
        with self._lock:
            now, worker_id = self._clock(), next(self._workers)
            self._members[worker_id] = Member(worker_id, host, pid, version, now, now)
            return worker_id

    def beat(self, worker_id: int) -> bool:
        with self._lock:
            found = self._members.get(worker_id)
            if found is not None:
                self._members[worker_id] = dataclasses.replace(found, seen_at=self._clock())
            return found is not None

    def members(self) -> list[Member]:
        with self._lock:
            return [
                dataclasses.replace(
                    member,
                    entries=len(_leased_by(worker_id, self._outbox.values())),
                    rows=len(_leased_by(worker_id, self._rows.values())),
                    lanes=len(_leased_by(worker_id, self._lanes.values())),
                    jobs=sum(job.held_by(worker_id, self._clock()) for job in self._jobs.values()),
                )
                for worker_id, member in sorted(self._members.items())
            ]

    def leave(self, worker_id: int) -> None:
        with self._lock:
            self._members.pop(worker_id, None)
            leased = itertools.chain(self._outbox.values(), self._rows.values(), self._lanes.values(), self._jobs.values())
            for one in _leased_by(worker_id, leased):
                one.free()
            for job in self._jobs.values():
                if job.worker_id == worker_id:
                    job.held_until = 0.0

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
        without: Collection[str] = (),
        ranges: Collection[str] = (),
        pool: str = "",
    ) -> Taken:
        with self._lock:
            token = worker_id << _WORKER_SHIFT | next(self._takes)
            until = self._clock() + lease
            # First: what is renewed is not due, and what is removed is not handed out.
            from_lanes, emptied = self._take_parked(parked or {}, token, until)
            wanted = {key: entry for key, entry in self._outbox.items() if not without or self._project(key) not in without}
            taken_entries = self._take_due("entries", wanted, token, until, entries, ended_leases_first=True)
            for message_id in taken_entries:
                self._outbox[message_id].takes += 1
            taken_rows = sorted(self._take_due("rows", self._rows, token, until, rows))
            in_pool = {key: lane for key, lane in self._lanes.items() if lane.pool == pool}
            taken_lanes = list(map(self._named, self._take_due("lanes", in_pool, token, until, lanes)))
            pages, ended = self._take_pages(worker_id, token, until, ranges)
            return Taken(
                token,
                [self._entry(message_id) for message_id in sorted(taken_entries)] + pages,
                [self._row(key) for key in taken_rows + from_lanes],
                taken_lanes,
                emptied,
                {lane: self._lanes[lane].trips for lane in taken_lanes if self._lanes[lane].trips},
                ended,
            )

    def merge_pools(self, kept: Collection[str]) -> None:
        with self._lock:
            for lane in self._lanes.values():
                if lane.pool not in kept:
                    lane.pool = ""

    def _named(self, lane: LaneKey) -> LaneKey:
        """With the pool that it is in."""
        return dataclasses.replace(lane, pool=self._lanes[lane].pool) if lane in self._lanes else lane

    def _take_pages(self, worker_id: int, token: int, until: float, ranges: Collection[str]) -> tuple[list[Entry], list[str]]:
        now = self._clock()
        pages: list[Entry] = []
        ended: list[str] = []
        for job_id in ranges:
            job = self._jobs.get(job_id)
            if job is None or job.kind != RANGE or not job.held_by(worker_id, now):
                ended.append(job_id)
            elif job.message_id is not None and (job.lease is None or (job.due_at or 0.0) <= now):
                job.take(token, until)
                pages.append(Entry(job.message_id, job.after, 1, job_id=job_id, last=job.last))
        return sorted(pages, key=lambda page: page.job_id or ""), ended

    def _take_due(
        self,
        kind: str,
        leased: Mapping[_Key, _Leased],
        token: int,
        until: float,
        most: int,
        *,
        ended_leases_first: bool = False,
    ) -> list[_Key]:
        """Lease at most ``most`` of what is due: of each project in turn, what has been due for longest first."""
        now = self._clock()
        due = [(one.due_at, key) for key, one in leased.items() if one.due_at is not None and one.due_at <= now]
        due.sort(key=lambda pair: (ended_leases_first and pair[0] == _AT_ONCE, pair[0], str(pair[1])))
        of_projects: dict[str, list[_Key]] = {}
        for _, key in due:
            of_projects.setdefault(self._project(key), []).append(key)
        last = self._turns.get(kind, "")
        order = sorted(of_projects, key=lambda project: (project <= last, project))
        rounds = itertools.zip_longest(*(of_projects[project] for project in order))
        taken = list(itertools.islice((key for one in rounds for key in one if key is not None), max(most, 0)))
        for key in taken:
            leased[key].take(token, until)
        if taken:
            self._turns[kind] = self._project(taken[-1])
        return taken

    def _project(self, key: Any) -> str:
        """Of an entry, a row or a lane."""
        if isinstance(key, LaneKey):
            return key.project
        message_id = key[0] if isinstance(key, tuple) else key
        return self._messages[message_id].record.project

    def _take_parked(
        self, asked: Mapping[LaneKey, int], token: int, until: float
    ) -> tuple[list[tuple[str, str]], list[LaneKey]]:
        """The rows, and the lanes that were found empty."""
        taken: list[tuple[str, str]] = []
        emptied: list[LaneKey] = []
        for lane, most in asked.items():
            if lane not in self._lanes:
                emptied.append(lane)
            elif self._holds(token, lane):
                found = self._parked(lane)[: max(most, 0)]
                taken += found
                if found or most <= 0:
                    self._lanes[lane].due_at = until
                else:
                    emptied.append(self._named(lane))
                    self._let_go(lane)
        for key in taken:
            self._rows[key].take(token, until)
        return taken, emptied

    def _let_go(self, lane: LaneKey) -> None:
        """Unless its breaker is open."""
        if not self._lanes[lane].trips:
            del self._lanes[lane]

    def _parked(self, lane: LaneKey) -> list[tuple[str, str]]:
        return sorted(key for key, row in self._rows.items() if row.lane == lane and row.due_at is None)

    def _holds(self, token: int, lane: LaneKey) -> bool:
        held = self._lanes[lane].lease
        return held is not None and held >> _WORKER_SHIFT == token >> _WORKER_SHIFT

    def _row(self, key: tuple[str, str]) -> Row:
        row = self._rows[key]
        expires_at = self._expires_at(self._messages[key[0]], row)
        return Row(
            *key,
            row.attempts,
            row.lines,
            None if row.lane is None else self._named(row.lane),
            expires_at,
            row.lines_before,
            row.window_id,
            row.target,
            row.report,
        )

    def _entry(self, message_id: str) -> Entry:
        entry = self._outbox[message_id]
        # Whoever takes it has to ask what is known of it.
        return Entry(message_id, entry.after, entry.takes + entry.cancelled)

    def load(self, message_ids: Collection[str], subscription_ids: Collection[str]) -> Loaded:
        with self._lock:
            messages = (self._messages.get(message_id) for message_id in message_ids)
            subscriptions = (self._subscriptions.get(subscription_id) for subscription_id in subscription_ids)
            return Loaded(
                {one.record.id: self._show(one) for one in messages if one is not None and not one.cancelled},
                {
                    one.record.id: one.record
                    for one in subscriptions
                    if one is not None and (one.deleted_at is None or one.expired)
                },
            )

    def known(self, message_id: str, after: str | None, last: str | None = None) -> set[str]:
        with self._lock:
            keys = itertools.chain(self._log, self._rows)
            found = {of for message, of in keys if message == message_id and of > (after or "")}
            return {of for of in found if last is None or of <= last}

    def settle(
        self, settlements: Sequence[Settlement], closings: Sequence[Closing] = (), breakers: Sequence[Breaker] = ()
    ) -> int:
        with self._lock:
            kept = [one for one in settlements if self._has_lease(one)]
            for one in kept:
                self._settle(one)
            for closing in closings:
                self._close(closing)
            for breaker in breakers:
                self._set_breaker(breaker)
            return len(settlements) - len(kept)

    def _close(self, closing: Closing) -> None:
        if closing.job_id is not None:
            self._close_page(closing.job_id, closing)
            return
        entry = self._outbox.get(closing.message_id)
        if entry is None or entry.lease != closing.token:
            return
        if closing.after is None or closing.cut:
            del self._outbox[closing.message_id]
            if closing.after is not None:
                self._add_part(closing.message_id, CUT, closing.after, None, entry.cancelled)
        else:
            entry.free()
            entry.after, entry.takes = closing.after, 0

    def _close_page(self, job_id: str, closing: Closing) -> None:
        job = self._jobs.get(job_id)
        if job is None or job.lease != closing.token:
            return
        if closing.after is None:
            del self._jobs[job_id]
        else:
            job.free()
            job.after = closing.after

    def _set_breaker(self, breaker: Breaker) -> None:
        if breaker.trips:
            lane = self._enter(breaker.lane)
            lane.trips, lane.until = breaker.trips, breaker.until
            lane.lease, lane.due_at = None, breaker.until
        elif breaker.lane in self._lanes:
            self._lanes[breaker.lane].trips = 0

    def _enter(self, key: LaneKey) -> _Lane:
        """The lane, which is made if it is missing, and is in the pool of this key from now on."""
        lane = self._lanes.setdefault(key, _Lane(_AT_ONCE))
        lane.pool = key.pool
        return lane

    def breakers(self) -> list[Breaker]:
        with self._lock:
            return [Breaker(self._named(key), lane.trips, lane.until) for key, lane in self._lanes.items() if lane.trips]

    def depths(self) -> Depths:
        with self._lock:
            rows = self._rows.values()
            since = (max(self._messages[one].record.created_at, self._messages[one].free_at) for one in self._outbox)
            return Depths(
                outbox=len(self._outbox),
                oldest_at=min((at for at in since if at <= self._clock()), default=None),
                pending=sum(row.lease is None and row.due_at is not None for row in rows),
                parked=sum(row.due_at is None for row in rows),
                in_flight=sum(row.lease is not None for row in rows),
                breakers=len(self.breakers()),
                jobs=sum(job.failed_at is None for job in self._jobs.values()),
                failed_jobs=sum(job.failed_at is not None for job in self._jobs.values()),
            )

    def _has_lease(self, settlement: Settlement) -> bool:
        key = (settlement.message_id, settlement.subscription_id)
        if settlement.from_row:
            row = self._rows.get(key)
            return row is not None and row.lease == settlement.token
        entry: _Entry | _Job | None = self._outbox.get(settlement.message_id)
        if settlement.job_id is not None:
            entry = self._jobs.get(settlement.job_id)
        if entry is None or entry.lease != settlement.token:
            return False
        return not (entry.cancelled and any(line.state is State.CANCELLED for line in self._log.get(key, ())))

    def _settle(self, settlement: Settlement) -> None:
        key = (settlement.message_id, settlement.subscription_id)
        if settlement.log is not None:
            self._log.setdefault(key, []).append(settlement.log)
        self._leave_row(key, settlement, self._rows.pop(key, None))
        message = self._messages[settlement.message_id]
        self._judge(message, settlement)
        for queue, draft in settlement.publish:
            self._post(self._ensure_queue(message.record.project, queue), draft)
        for alert in settlement.alerts:
            self._alert(message, alert)

    def _leave_row(self, key: tuple[str, str], settlement: Settlement, replaced: _Row | None) -> None:
        left = _Row(None, attempts=settlement.attempts, lines=settlement.lines, target=settlement.target)
        left.window_id = settlement.window_id
        if replaced is not None:
            left.expires_at, left.ends_at = replaced.expires_at, replaced.ends_at
            left.lines_before = replaced.lines_before
            left.report = replaced.report if settlement.log is None else None
        if settlement.park is not None:
            self._enter(settlement.park)
            left.lane = settlement.park
        elif settlement.window is not None:
            self._hold_back(key, left, settlement.window)
            return
        elif settlement.due_at is not None:
            left.due_at, left.lease = settlement.due_at, settlement.token if settlement.hold else None
        else:
            return
        self._rows[key] = left

    def _hold_back(self, key: tuple[str, str], row: _Row, asked: Window) -> None:
        """Of those that wait in the window for the same, the one of the latest message stays."""
        now = self._clock()
        window = self._open_window(self._project(key), asked, now)
        row.window_id, row.key = window.id, asked.key
        row.due_at = window.ends_at + random.uniform(0, asked.spread)  # noqa: S311 - no secret
        self._rows[key] = row
        same = [
            one
            for one, other in self._rows.items()
            if (one[1], other.window_id, other.key) == (key[1], row.window_id, row.key) and (one == key or other.held(now))
        ]
        for superseded in sorted(same)[:-1]:
            line = LogEntry(self._rows.pop(superseded).lines + 1, now, State.SUPERSEDED)
            self._log.setdefault(superseded, []).append(line)

    def _open_window(self, project: str, asked: Window, now: float) -> _Window:
        found = self._windows.get((project, asked.scope))
        if found is None or not asked.joins(found.ends_at, now):
            found = self._windows[project, asked.scope] = _Window(self._new_id(now), now + asked.seconds)
        return found

    def _judge(self, message: _Message, settlement: Settlement) -> None:
        """What it says about the subscription itself."""
        subscription = self._subscriptions.get(settlement.subscription_id)
        if subscription is None or subscription.deleted_at is not None:
            return
        if settlement.disable is not None and subscription.record.disabled is None:
            subscription.record = dataclasses.replace(subscription.record, disabled=settlement.disable)
        if settlement.recovered:
            subscription.record = dataclasses.replace(subscription.record, strikes=0, failing_since=None)
        if settlement.failure is not None:
            self._fail(message, subscription, settlement.failure)

    def _fail(self, message: _Message, subscription: _Subscription, failure: Failure) -> None:
        record = subscription.record
        strikes = record.strikes + 1 if failure.strike else 0
        since = failure.at if record.failing_since is None else record.failing_since
        subscription.record = record = dataclasses.replace(record, strikes=strikes, failing_since=since)
        if record.disabled is not None:
            return
        if strikes >= failure.most_strikes:
            reason = failure.reason_strikes
        elif failure.at - since >= failure.longest:
            reason = failure.reason_longest
        else:
            return
        subscription.record = dataclasses.replace(record, disabled=Disabled(reason, failure.at))
        for alert in failure.alerts:
            self._alert(message, alert)

    def _alert(self, message: _Message, alert: Alert) -> None:
        project = message.record.project
        owner = None if alert.subscription_id is None else self._subscriptions.get(alert.subscription_id)
        if alert.subscription_id is not None and (owner is None or owner.deleted_at is not None):
            return
        now, key = self._clock(), (project, alert.cause)
        if key in self._alerted and self._alerted[key] <= now < self._alerted[key] + alert.every:
            return
        self._alerted[key] = now
        queue = self._ensure_queue(project, alert.queue)
        if owner is None:
            self._post(queue, alert.draft, encrypts=message.encrypted)
        else:
            self._store_for_one(queue, alert.draft, owner.record.id, MessageKind.CALLBACK, encrypts=message.encrypted)

    def give_back(
        self,
        token: int,
        message_ids: Collection[str],
        rows: Collection[tuple[str, str]] = (),
        ranges: Collection[str] = (),
    ) -> None:
        with self._lock:
            for job in filter(None, map(self._jobs.get, ranges)):
                if job.lease == token:
                    job.free()
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
            steps = itertools.chain(
                self._end_expired_rows(now),
                self._prune_claims(now),
                self._prune_messages(now),
                self._prune_subscriptions(now),
                self._prune_jobs(now),
                self._prune_windows(now),
            )
            return sum(itertools.islice(steps, limit))

    def _prune_claims(self, now: float) -> Iterable[int]:
        for claim_id, claim in list(self._claims.items()):
            if claim.record.expires_at <= now:
                del self._claims[claim_id]
                yield 1

    def _end_expired_rows(self, now: float) -> Iterable[int]:
        for (message_id, subscription_id), row in list(self._rows.items()):
            message = self._messages[message_id]
            if self._expires_at(message, row) > now or row.lease is not None or (row.ends_at or 0.0) > now:
                continue
            subscription = self._subscriptions.get(subscription_id)
            deleted = subscription is None or (subscription.deleted_at is not None and not subscription.expired)
            state = State.CANCELLED if deleted or message.cancelled else State.EXPIRED
            if state is State.EXPIRED and row.ends_at is None:
                row.free()
                row.lane, row.ends_at = None, now + Retention(self._retention).look_again
            else:
                del self._rows[message_id, subscription_id]
                self._log.setdefault((message_id, subscription_id), []).append(LogEntry(row.lines + 1, now, state))
            yield 1

    def _prune_messages(self, now: float) -> Iterable[int]:
        for message_id, message in list(self._messages.items()):
            if message_id in self._outbox or message_id in self._messages_of_jobs():
                continue
            yield from self._forget_delivered(message, now)
            if message.record.expires_at > now or any(of == message_id for of, _ in self._rows):
                continue
            log = self._logs_of(message_id)
            ended_at = max((self._log[key][-1].at for key in log), default=None)
            if ended_at is None or max(ended_at, message.ended_at) + self._retention <= now:
                for key in log:
                    self._forget(key)
                    yield 1
                del self._messages[message_id]
                yield 1
            elif self._may_drop_body(message, max(ended_at, message.ended_at), now):
                message.record = dataclasses.replace(message.record, body_json=b"")
                yield 1

    def _forget_delivered(self, message: _Message, now: float) -> Iterable[int]:
        if self._retention_delivered is None or self._retention_delivered >= self._retention:
            return
        for key in self._logs_of(message.record.id):
            last = self._log[key][-1]
            over = last.state is State.DELIVERED and last.at + self._retention_delivered <= now
            if over and key not in self._rows:
                message.ended_at = max(message.ended_at, last.at)
                self._forget(key)
                yield 1

    def _may_drop_body(self, message: _Message, ended_at: float, now: float) -> bool:
        if self._body_retention is None or not message.record.body_json:
            return False
        return ended_at + self._body_retention <= now

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

    def _prune_jobs(self, now: float) -> Iterable[int]:
        for job_id, job in list(self._jobs.items()):
            if job.failed_at is not None and job.failed_at + self._retention <= now:
                del self._jobs[job_id]
                yield 1

    def _prune_windows(self, now: float) -> Iterable[int]:
        for key, window in list(self._windows.items()):
            if window.ends_at <= now:
                del self._windows[key]
                yield 1

    # -- long work ----------------------------------------------------------------------------------------------------------

    def add_job(self, project: str, kind: str, details: Mapping[str, Any]) -> str:
        details = _copy(details)
        with self._lock:
            part = kind in (CUT, RANGE)
            message_id, after, last = (details.pop(name, None) if part else None for name in ("message_id", "after", "last"))
            return self._add_job(project, kind, details, message_id=message_id, after=after, last=last)

    def _add_job(self, project: str, kind: str, details: Mapping[str, Any], **part: Any) -> str:
        now = self._clock()
        job = _Job(_AT_ONCE, id=self._new_id(now), project=project, kind=kind, details=details, created_at=now, **part)
        self._jobs[job.id] = job
        return job.id

    def _add_part(self, message_id: str, kind: str, after: str | None, last: str | None, cancelled: bool) -> None:
        project = self._messages[message_id].record.project
        self._add_job(project, kind, {}, message_id=message_id, after=after, last=last, cancelled=cancelled)

    def list_jobs(self, marker: str | None, limit: int, *, failed: bool | None = None) -> list[Job]:
        ids.parse_marker(marker)
        with self._lock:
            found = (job for _, job in sorted(self._jobs.items()) if job.id > (marker or ""))
            wanted = (job.record() for job in found if failed is None or failed is (job.failed_at is not None))
            return list(itertools.islice(wanted, limit))

    def get_job(self, job_id: str) -> Job | None:
        with self._lock:
            job = self._jobs.get(job_id)
            return None if job is None else job.record()

    def hold_job(self, worker_id: int, lease: float, job_id: str | None = None) -> Job | None:
        with self._lock:
            now = self._clock()
            if job_id is None:
                free = (job for _, job in sorted(self._jobs.items()) if job.failed_at is None and job.held_until <= now)
                job = next(free, None)
            else:
                job = self._jobs.get(job_id)
            if job is None or job.failed_at is not None or (job.worker_id != worker_id and job.held_until > now):
                return None
            if job.worker_id != worker_id:
                job.free()
            job.takes += not (job.worker_id == worker_id and job.held_until)
            job.worker_id, job.held_until = worker_id, now + lease
            return job.record()

    def _held_job(self, worker_id: int, job_id: str) -> _Job | None:
        job = self._jobs.get(job_id)
        return job if job is not None and job.held_by(worker_id, self._clock()) else None

    def let_job_go(self, worker_id: int, job_id: str) -> None:
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.worker_id == worker_id:
                job.held_until = 0.0

    def finish_job(self, worker_id: int, job_id: str) -> bool:
        with self._lock:
            held = self._held_job(worker_id, job_id) is not None
            if held:
                del self._jobs[job_id]
            return held

    def advance_job(self, worker_id: int, job_id: str, details: Mapping[str, Any]) -> bool:
        with self._lock:
            job = self._held_job(worker_id, job_id)
            if job is not None:
                job.details = _copy(details)
            return job is not None

    def fail_job(self, worker_id: int, job_id: str, error: str) -> bool:
        with self._lock:
            job = self._held_job(worker_id, job_id)
            if job is not None:
                job.error, job.failed_at, job.held_until = error, self._clock(), 0.0
            return job is not None

    def retry_job(self, job_id: str) -> bool:
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.failed_at is None:
                return False
            job.error = job.failed_at = None
            return True

    def cut(self, worker_id: int, job_id: str, size: int) -> bool:
        with self._lock:
            job = self._held_job(worker_id, job_id)
            if job is None or job.kind != CUT or job.message_id is None:
                return False
            message = self._messages[job.message_id]
            behind = (
                subscription_id
                for subscription_id, one in sorted(self._subscriptions.items())
                if (one.record.project, one.record.queue) == (message.record.project, message.record.queue)
                and one.deleted_at is None
                and subscription_id > (job.after or "")
            )
            found = [] if message.queue.deleted else list(itertools.islice(behind, size))
            last = found[-1] if len(found) == size else None
            if found:
                self._add_part(job.message_id, RANGE, job.after, last, job.cancelled)
            job.after = last
            if last is None:
                del self._jobs[job_id]
            return last is not None

    # -- moving house -------------------------------------------------------------------------------------------------------

    def copy_counts(self) -> Mapping[str, int]:
        raise CannotStart(_STAYS)

    def copy_from(self, kind: str, after: Any, limit: int) -> tuple[list[Mapping[str, Any]], Any]:
        raise CannotStart(_STAYS)

    def copy_into(self, kind: str, records: Sequence[Mapping[str, Any]]) -> None:
        raise CannotStart(_STAYS)


def _leased_by(worker_id: int, leased: Iterable[_Leased]) -> list[_Leased]:
    return [one for one in leased if one.lease is not None and one.lease >> _WORKER_SHIFT == worker_id]


def _copy(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would bring it back."""
    copied: dict[str, Any] = json.loads(json.dumps(dict(metadata)))
    return copied


def _text(value: Any) -> str:
    """What a filter compares with."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _count_in(metadata: Mapping[str, Any], key: str) -> int | None:
    """None for what is no number of anything."""
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _context(message_id: str) -> bytes:
    """What the encrypted body is bound to."""
    return b"message:" + message_id.encode()


def _age(ttl: int | None, now: float) -> dict[str, Any]:
    """The fields of a subscription whose ttl begins now."""
    return {"ttl": ttl, "created_at": now, "expires_at": None if ttl is None else now + ttl}
