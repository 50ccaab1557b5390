"""The storage interface, in the words of the domain. Each method is one transaction.

The ledger of a message has three parts:

- the **outbox** holds one entry for each message that is not matched and settled yet, however many subscribers there are;
- a **row** holds one delivery (message x subscription) that outlives its entry: it waits for a retry (it has a due time), is
  parked in a lane (it has none; the lane has), or is in flight for long (its due time is the end of its lease);
- the **log** holds a line for each attempt and for each end without an attempt. What has ended is in the log alone.

An entry with very many subscribers is cut: a **job** takes its place, which cuts them into ranges, each of them a job that any
worker can hold and work through, a page of subscribers at a time.

Taking leases what it returns: the end of the lease is written where the due time was, so that taking costs the same whatever
is waiting, in flight or parked, and each lease has a *token* (the fence). A token belongs to one worker and one take; every
settling statement carries it, so that a worker that lost its lease changes nothing.

All methods are safe to call from several threads. Each raises `StorageUnavailable` when the database is locked, full or out of
reach, and has then changed nothing; only where the connection broke while a commit was under way can nobody say. The storage
has a clock of its own, that of the database where that is a server: it alone judges leases. Instants are epoch seconds.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

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
    Queue,
    Receipt,
    Stats,
    Subscription,
)
from zaqar_notify.storage import ids

Confirmation = Callable[[Subscription], Draft]
"""Makes the message that asks a subscriber to confirm. Called within a transaction: quick, and without I/O."""

MOST_LINES = 50
"""Of the log of a delivery at most so many lines are handed out, the last ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A leased outbox entry, or the next page of a range of subscribers."""

    message_id: str
    after: str | None
    """Subscriptions up to this id are dealt with: match goes on behind it."""
    takes: int
    """1 the first time; more: it was leased before, so the log may already know some of its deliveries."""
    job_id: str | None = None
    """The range that this is a page of. The log may know some of its deliveries, whatever ``takes`` says."""
    last: str | None = None
    """Of a range: subscriptions behind this id are not its own; None: there is no such limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A leased delivery row."""

    message_id: str
    subscription_id: str
    attempts: int
    """Used up so far."""
    lines: int
    """Lines in its log so far."""
    lane: LaneKey | None = None
    """Set when it was parked there."""
    expires_at: float = math.inf
    """The message's expiry, or that of a redelivery: nothing is sent after it. A report has none."""
    lines_before: int = 0
    """Lines of its log before it was redelivered."""
    window_id: str | None = None
    """Of the window that it was held in, and is released from now. Kept over retries: what was released together is sent
    together, where that makes a digest."""
    target: int = 0
    """Which address of the subscription it goes to: see `zaqar_notify.model.Delivery`."""
    report: Receipt | None = None
    """It was delivered, and this FAILED has come in since (`Storage.receive`): settle it, and send nothing. It stays with the
    row until it is settled with a line for the log; a row that such a settlement leaves has the message's expiry."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A delivery waits for the end of the window of its scope, which opens with the first that waits.

    While it waits, a later message with the same subscription and ``key`` takes its place: its row goes, and its log ends in
    state SUPERSEDED. Where the later message was settled first, the earlier one ends so.
    """

    scope: str
    """Within the project: a subscription, or a credential."""
    seconds: float
    """How long the window is if this delivery opens it."""
    key: str
    """At most 64 characters."""
    spread: float = 0.0
    """What is released comes due in random order within so many seconds after the end; 0: all at once."""
    longest: float = math.inf
    """At least ``seconds``. One that would stay open for longer is not joined, but replaced: the clock was set back."""

    def joins(self, ends_at: float, now: float) -> bool:
        """Whether one that ends then is open, for this delivery too."""
        return now < ends_at <= now + self.longest


@dataclasses.dataclass(frozen=True, slots=True)
class Breaker:
    """An open circuit breaker. One lane has one, shared by all workers."""

    lane: LaneKey
    trips: int
    """How often it has opened in a row."""
    until: float
    """When its endpoint may be probed; the worker that takes the lane then probes it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An attempt has failed by the fault of the other side: it may be the one too many for the subscription."""

    at: float
    strike: bool
    """The target itself is wrong."""
    most_strikes: int
    """With so many strikes in a row the subscription is disabled."""
    longest: float
    """Seconds of nothing but failures after which it is disabled."""
    reason_strikes: str
    reason_longest: str
    alert: Alert | None = None
    """Published when this disables the subscription."""
    callback: Alert | None = None
    """The same for the subscription's owner."""

    @property
    def alerts(self) -> tuple[Alert, ...]:
        return tuple(alert for alert in (self.alert, self.callback) if alert is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class Depths:
    """What waits, in all projects."""

    outbox: int
    """Messages that are not matched and settled yet."""
    oldest_at: float | None
    """When the oldest of them was posted, or its delay ended."""
    pending: int
    """Deliveries that wait for a retry, or for the end of a window."""
    parked: int
    in_flight: int
    """Rows under a lease."""
    breakers: int
    """Open ones."""
    jobs: int = 0
    """Those that have not failed."""
    failed_jobs: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    token: int
    entries: Sequence[Entry]
    rows: Sequence[Row]
    lanes: Sequence[LaneKey] = ()
    """Lanes that this worker may empty from now on, until its lease ends."""
    emptied: Sequence[LaneKey] = ()
    """Of the lanes asked for, those in which this call found no parked row. They are gone, unless their breaker is open. One
    whose last row this call has taken is not among them."""
    probes: Mapping[LaneKey, int] = dataclasses.field(default_factory=dict)
    """Of ``lanes``, those whose breaker is open: its trips. This worker is the one to probe."""
    ended: Sequence[str] = ()
    """Of the ranges asked for, those that this worker does not hold (any more), done ones among them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    messages: Mapping[str, Message]
    """By id; a message whose queue was deleted is missing."""
    subscriptions: Mapping[str, Subscription]
    """By id; a deleted one is missing, an expired or disabled one is here."""


@dataclasses.dataclass(slots=True)
class Settlement:
    """What becomes of one delivery: a line for the log (or none), and the row it leaves (or none).

    Never changed, but not frozen: there is one for each delivery, and to make a frozen one takes twice as long.
    """

    message_id: str
    subscription_id: str
    token: int
    from_row: bool
    """It came from a row, which this replaces; else from the message's outbox entry."""
    log: LogEntry | None = None
    due_at: float | None = None
    """Leaves a row that comes due then."""
    park: LaneKey | None = None
    """Leaves a row that is parked in this lane."""
    hold: bool = False
    """Leaves a row that stays leased under the same token until ``due_at``: it is in flight for long."""
    attempts: int = 0
    """Used up, for the row that is left."""
    lines: int = 0
    """Lines in its log, with this one, for the row that is left."""
    disable: Disabled | None = None
    """Disables the subscription."""
    publish: tuple[tuple[str, Draft], ...] = ()
    """(queue, draft) pairs that are posted in the project of the message."""
    failure: Failure | None = None
    recovered: bool = False
    """An attempt has succeeded: strikes and failing_since of the subscription are forgotten."""
    alerts: tuple[Alert, ...] = ()
    """They show parts of the message: encrypted as it is, whatever the queue they go to."""
    job_id: str | None = None
    """It came from a page of this range, and not from the message's outbox entry."""
    window: Window | None = None
    """Leaves a row that is held until the end of this window, or nothing, when a later message has its place."""
    window_id: str | None = None
    """Of the row that it came from, for the row that is left."""
    target: int = 0
    """For the row that is left. That of the attempt is in ``log``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Closing:
    """An outbox entry whose deliveries (of this page of subscribers) are all in the log or in rows."""

    message_id: str
    token: int
    after: str | None = None
    """None removes the entry; else there are more subscribers behind this id, and the entry is free to be taken again."""
    cut: bool = False
    """With ``after``: there may be very many behind it. A job of kind `CUT` takes the place of the entry, in the same
    transaction."""
    job_id: str | None = None
    """It is a page of this range. None for ``after`` ends the job: it is done."""


CUT = "cut"
"""Kind of a job: cut the subscribers behind ``after`` into ranges. It is done when `Storage.cut` says so."""
RANGE = "range"
"""Kind of a job: deliver a message to the subscribers behind ``after``, up to ``last``."""
REPLAY = "replay"
"""Kind of a job: deliver again what a subscription did not get. Its details are what `zaqar_notify.replay.Replay` holds,
``queue``, ``subscription_id``, and how far it is: ``marker``, ``redelivered``, ``skipped``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subscribed:
    subscription: Subscription
    created: bool
    secret_is_new: bool
    """The service made the subscription's secret, and this call stored it: the client is told it once. Not for a given one."""


class Storage(abc.ABC):
    """A subscription whose secret cannot be opened is handed out like any other, but ``sealed`` and without the secret. What is
    stored of the secret stays until it is replaced."""

    # -- life ---------------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def upgrade(self) -> bool:
        """Bring the schema to this version; True when there was something to do. Keeps all data."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise `StorageUnavailable` unless reads and writes would work; raise `CannotStart` on a schema of another version."""

    @abc.abstractmethod
    def close(self) -> None: ...

    @abc.abstractmethod
    def now(self) -> float:
        """What the storage's clock says. Quick: a server's clock is asked now and then only, and counted on by the monotonic
        clock of this machine, whatever its wall clock says."""

    def announce(self) -> None:  # noqa: B027 - most have nothing to do
        """Tell the workers of other machines that there is work. A hint: it never fails, never waits, and many calls at once
        are one announcement. For an engine that tells them by itself there is nothing to do."""

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake``, from a thread of its own, whenever there may be new work of another machine. Returns what ends it.
        A hint as well: what is lost on the way, and while the database is out of reach, is found by polling."""
        return lambda: None

    # -- queues -------------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def put_queue(self, project: str, name: str, metadata: Mapping[str, Any]) -> bool:
        """Make the queue or replace its metadata; True when it is new."""

    @abc.abstractmethod
    def get_queue(self, project: str, name: str) -> Queue | None: ...

    @abc.abstractmethod
    def update_queue(
        self, project: str, name: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> Mapping[str, Any] | None:
        """Replace the metadata by what ``change`` makes of it, in one transaction; None when there is no such queue.

        ``change`` may raise; nothing is changed then.
        """

    @abc.abstractmethod
    def list_queues(
        self, project: str, marker: str | None, limit: int, *, name: str = "", metadata: Mapping[str, str] | None = None
    ) -> list[Queue]:
        """At most ``limit`` queues by name, behind the name ``marker``: those whose name contains ``name`` and whose metadata
        has all of ``metadata``, where a value that is no string is compared by its JSON text."""

    @abc.abstractmethod
    def count_queues(self, project: str, *, name: str = "", metadata: Mapping[str, str] | None = None) -> int:
        """How many queues `list_queues` has on all its pages."""

    @abc.abstractmethod
    def delete_queue(self, project: str, name: str) -> None:
        """Delete the queue with its messages; their deliveries that have not ended are cancelled. Subscriptions stay, and what
        asks them to confirm goes on.

        Costs the same for any number of messages: pruning removes them later.
        """

    @abc.abstractmethod
    def purge_messages(self, project: str, queue: str) -> None:
        """Delete all messages of the queue; their deliveries that have not ended are cancelled. The queue stays as it is, with
        its subscriptions, and what asks them to confirm goes on.

        Costs the same for any number of messages.
        """

    @abc.abstractmethod
    def purge_subscriptions(self, project: str, queue: str, limit: int) -> int:
        """Delete at most ``limit`` subscriptions of the queue; returns how many. 0: there is none left."""

    # -- messages -----------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def publish(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None = None) -> list[str]:
        """Store messages and their outbox entries, all or none, durably; make the queue if it is missing. Returns the ids.

        The ids of a project's queue rise in the order in which messages are stored, so that a reader who pages behind a marker
        misses none but the delayed ones. A delayed one becomes visible, and its entry due, when its delay ends, and lives
        ``ttl`` seconds from then on. Bodies are encrypted where the queue's metadata has a true ``_enable_encrypt_messages``;
        all methods return them decrypted, or ``sealed``.
        """

    @abc.abstractmethod
    def get_message(self, project: str, queue: str, message_id: str) -> Message | None:
        """None also for one that is expired or deleted."""

    @abc.abstractmethod
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
        """At most ``limit`` live messages behind the id ``marker``, oldest first; none from the client ``not_from``.

        Claimed and delayed ones only where asked for.
        """

    @abc.abstractmethod
    def delete_message(self, project: str, queue: str, message_id: str, claim_id: str | None = None) -> None:
        """Hide it from readers. Its deliveries go on, and it can still be asked whether it arrived.

        `Forbidden` for a claimed one when ``claim_id`` is None or another claim. `InvalidRequest` when ``claim_id`` is given
        and there is no such claim (any more), or the message is not claimed. Nothing happens when there is no such message.
        """

    @abc.abstractmethod
    def delete_messages(
        self, project: str, queue: str, message_ids: Collection[str], claim_ids: Collection[str] | None = None
    ) -> None:
        """Delete several, claimed or not. With ``claim_ids``: `InvalidRequest`, and none is deleted, unless each is the claim
        of at least one of the messages."""

    @abc.abstractmethod
    def pop_messages(self, project: str, queue: str, limit: int) -> list[Message]:
        """Delete and return at most ``limit`` free messages (neither claimed nor delayed), in the order of `claim`. Each is
        returned to one caller only. Their deliveries go on."""

    @abc.abstractmethod
    def stats(self, project: str, queue: str) -> Stats:
        """Of a queue; zeros when there is none."""

    @abc.abstractmethod
    def volume(self) -> Stats:
        """Of all projects together, without the oldest and the newest."""

    # -- claims -------------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def claim(self, project: str, queue: str, limit: int, ttl: int, grace: int) -> tuple[Claim, list[Message]] | None:
        """Claim at most ``limit`` free messages for ``ttl`` seconds; None when there is none. The oldest come first, but those
        whose claim or delay has ended may come before all others.

        Each free message goes to one claim only. It lives at least ``grace`` seconds longer than the claim. One that was
        claimed ``_max_claim_count`` times already (metadata of the queue) is not claimed: where the queue has a
        ``_dead_letter_queue`` it is moved there, in the same transaction, as a new message with its id as ``parent_id`` and
        with ``_dead_letter_queue_messages_ttl``, or its own ttl; without one it is claimed like others.
        """

    @abc.abstractmethod
    def get_claim(self, project: str, queue: str, claim_id: str) -> tuple[Claim, list[Message]] | None:
        """With the messages that are still there; None also when it has expired or was released."""

    @abc.abstractmethod
    def update_claim(self, project: str, queue: str, claim_id: str, ttl: int, grace: int) -> bool:
        """Let it run ``ttl`` seconds from now on; False when there is no such claim (any more)."""

    @abc.abstractmethod
    def release_claim(self, project: str, queue: str, claim_id: str) -> None:
        """End it: its messages are free."""

    # -- messages of a queue service that this one extends ------------------------------------------------------------------

    @abc.abstractmethod
    def hold(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None, seconds: float) -> list[str]:
        """`publish`, but readers never see the messages, and their entries come due only after ``seconds``, or at `release`."""

    @abc.abstractmethod
    def release(self, project: str, queue: str, message_ids: Sequence[str], foreign_ids: Sequence[str] | None = None) -> None:
        """Held messages are due at once. ``foreign_ids``, one for each, are their ids for everyone outside from now on."""

    @abc.abstractmethod
    def drop(self, project: str, queue: str, message_ids: Sequence[str]) -> None:
        """Held messages were not accepted: they are removed, unless they have come due and been taken meanwhile."""

    # -- subscriptions ------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def subscribe(self, subscription: Subscription, confirmation: Confirmation | None = None) -> Subscribed:
        """Store a subscription (its id is ignored: one is made); make the queue if it is missing.

        What ``confirmation`` makes is stored in the same transaction as a message of kind CONFIRMATION that readers never see,
        with a row, due at once, for this subscription alone.

        When a live one for the same project, queue and subscriber exists: `Conflict` if that is confirmed, else its ttl and
        options are replaced and its id stays. Its secret is replaced by one that the client gave (``secret_made`` false); one
        that the service made is replaced only by a made one, and only while it has never signed a delivery.
        """

    @abc.abstractmethod
    def get_subscription(self, project: str, queue: str, subscription_id: str) -> Subscription | None:
        """None also for one that is expired or deleted."""

    @abc.abstractmethod
    def list_subscriptions(self, project: str, queue: str, marker: str | None, limit: int) -> list[Subscription]:
        """At most ``limit`` live subscriptions behind the id ``marker``, oldest first. Also what match pages through."""

    @abc.abstractmethod
    def update_subscription(
        self,
        project: str,
        queue: str,
        subscription_id: str,
        changes: Mapping[str, Any],
        confirmation: Confirmation | None = None,
    ) -> Subscription | None:
        """Replace fields (subscriber, ttl, options, secret, secret_made, disabled); None when there is no such one.

        A ``ttl`` among the changes starts the age anew. `Conflict` when another live one has the subscriber. With
        ``confirmation`` another subscriber than before has not confirmed, and is asked as in `subscribe`.
        """

    @abc.abstractmethod
    def confirm(
        self, project: str, queue: str, subscription_id: str, confirmed: bool, confirmation: Confirmation | None = None
    ) -> Subscription | None:
        """Set ``confirmed``; None when there is no such subscription. ``confirmation`` as in `subscribe`."""

    @abc.abstractmethod
    def delete_subscription(self, project: str, queue: str, subscription_id: str) -> None:
        """Delete it; its deliveries that have not ended are cancelled. It can still be asked what became of the others."""

    # -- did it arrive? -----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def message_deliveries(
        self, project: str, queue: str, message_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        """At most ``limit`` deliveries of a message behind the subscription id ``marker``; None for an unknown message.

        ``message_id``, here and in `subscription_deliveries` and in what both return, is the foreign one where there is one.

        Answers from outbox, rows and log, also when the message is expired or deleted or a subscription is gone, until the
        retention of the log has passed. Each comes with the last `MOST_LINES` lines of its log; the number of the first one
        says how many are left out. What went over the wire comes with them only where ``exchanges`` is true.
        """

    @abc.abstractmethod
    def subscription_deliveries(
        self, project: str, queue: str, subscription_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        """The same for a subscription, by message id, newest first: ``marker`` is the last message id already seen."""

    def get_delivery(
        self, project: str, queue: str, message_id: str, subscription_id: str, *, exchanges: bool = False
    ) -> DeliveryRecord | None:
        """One of those of `message_deliveries`; None when there is none."""
        number = ids.parse(subscription_id)
        if number is None:
            return None
        before = ids.show(number - 1) if number else None
        found = self.message_deliveries(project, queue, message_id, before, 1, exchanges=exchanges)
        return found[0] if found and found[0].subscription_id == subscription_id else None

    @abc.abstractmethod
    def receive(self, message_id: str, subscription_id: str, receipt: Receipt) -> bool:
        """Store what was heard of a delivery; of each kind the first is kept, and of FAILED the last that has left a row. False
        when there is no log of such a delivery (any more), or it has this kind already. Ids are unique over all projects: who
        calls has seen a signature.

        A FAILED of a delivery in state DELIVERED leaves a row, due at once, with the receipt as its ``report`` and the
        ``target`` of its last attempt, so that a worker settles it with all that belongs to such an end. Its ``attempts`` are
        those in the log that used one up, at least 1. There is no such row when the subscription or the queue was deleted, or
        the delivery has a row already.
        """

    # -- again, or not at all -----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def redeliver(self, project: str, queue: str, message_id: str, subscription_id: str, ttl: float) -> None:
        """Start a delivery anew, whatever became of it: a row that is due at once, with no attempt used up, and that expires
        ``ttl`` seconds from now. Its log goes on.

        `NotFound` for a message or subscription that is unknown, deleted (the subscription) or over its retention; `Conflict`
        while the delivery has not ended, or when the body of the message was dropped already.
        """

    @abc.abstractmethod
    def cancel(self, project: str, queue: str, message_id: str, subscription_id: str) -> None:
        """End a delivery that has not ended: state CANCELLED, in the log. What is in flight may still arrive; its outcome is
        not stored. Of a message that is not matched yet, this subscription is left out. `NotFound` as in `redeliver`;
        `Conflict` when it has ended.
        """

    @abc.abstractmethod
    def ping(self, project: str, queue: str, subscription_id: str, draft: Draft) -> str | None:
        """Store a message of kind TEST that readers never see, with a row, due at once, for this subscription alone. Returns
        its id; None when there is no such subscription."""

    # -- keys of the API ----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def add_key(self, key: ApiKey) -> None:
        """`Conflict` when there is one with this id."""

    @abc.abstractmethod
    def get_key(self, key_id: str) -> ApiKey | None:
        """Also a revoked one."""

    @abc.abstractmethod
    def list_keys(self, project: str | None = None) -> list[ApiKey]:
        """Of a project, or of all; the oldest first, with the revoked ones."""

    @abc.abstractmethod
    def revoke_key(self, key_id: str) -> bool:
        """False when there is no such key, or it was revoked before."""

    # -- the worker ---------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def join(self, host: str = "", pid: int = 0, version: str = "") -> int:
        """Register a worker; returns its id, which is never given out again. The rest is for `members`."""

    @abc.abstractmethod
    def beat(self, worker_id: int) -> bool:
        """This worker is alive. False when it was taken for dead, and forgotten: what it had is given back, and it has to
        `join` anew. To be called several times in the length of a lease, for a server cannot see whether a process lives."""

    @abc.abstractmethod
    def members(self) -> list[Member]:
        """The workers that have joined and neither left nor been found dead, by id, with what each holds."""

    @abc.abstractmethod
    def leave(self, worker_id: int) -> None:
        """Give back every lease of this worker, which has stopped, and forget it. The jobs that it holds are free."""

    @abc.abstractmethod
    def recover(self) -> int:
        """`leave` for workers that have died (their process has ended; on a server: they have not said for a whole lease that
        they live); returns how many such workers were found."""

    @abc.abstractmethod
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
        """Lease due work for ``lease`` seconds: outbox entries, rows that are due, lanes, and parked rows of lanes held.

        ``entries``, ``rows`` and ``lanes`` are upper bounds; ``parked`` says how many rows of which lane. Entries of the
        projects ``without`` stay where they are. A lane with an open breaker is due when that may be probed.

        Each call renews the lease of the lanes in ``parked`` that this worker holds, but for those in which it finds no parked
        row: such a lane is removed when its breaker is closed. So a lane whose last row is in flight is still held, and what is
        parked then stays with the same worker. 0 rows of a lane: its lease is renewed without a look into it.

        Every project with due work gets an equal share of each bound, and what others leave of it, in turns: one with a
        million entries or rows delays no other. Within a project the oldest first, but entries whose lease has ended before
        others. What was posted, given back or released is due also when the clock is set back. Costs nothing in the
        database when nothing is due.

        ``ranges`` are jobs of kind `RANGE` that this worker holds: of each, the next page is leased, unless the one before is
        under a lease still. The hold itself is not renewed.

        Only lanes of this ``pool`` are due for this worker. A lane is in that of the `LaneKey` that something was last parked
        in or whose breaker was last opened; all that is returned says which.
        """

    @abc.abstractmethod
    def merge_pools(self, kept: Collection[str]) -> None:
        """Lanes of other pools than ``kept`` are in that without a name from now on: nobody serves them any more."""

    @abc.abstractmethod
    def load(self, message_ids: Collection[str], subscription_ids: Collection[str]) -> Loaded: ...

    @abc.abstractmethod
    def known(self, message_id: str, after: str | None, last: str | None = None) -> set[str]:
        """Ids of the subscriptions behind ``after``, up to ``last``, for which the log or a row already knows this message."""

    @abc.abstractmethod
    def settle(
        self, settlements: Sequence[Settlement], closings: Sequence[Closing] = (), breakers: Sequence[Breaker] = ()
    ) -> int:
        """Store what became of deliveries, then close entries, then set breakers; durable. Returns how many settlements had
        lost their lease: of those nothing was stored.

        A breaker with ``trips`` 0 is closed: its lane stays with whoever holds it. Another one opens: nobody holds the lane any
        more, and it comes due at ``until``.
        """

    @abc.abstractmethod
    def breakers(self) -> list[Breaker]:
        """The open ones. Costs nothing to speak of, however many lanes and parked rows there are."""

    @abc.abstractmethod
    def depths(self) -> Depths: ...

    @abc.abstractmethod
    def give_back(
        self,
        token: int,
        message_ids: Collection[str],
        rows: Collection[tuple[str, str]] = (),
        ranges: Collection[str] = (),
    ) -> None:
        """End leases of this token early: the entries, the rows (message id, subscription id) and the pages of these ranges are
        due at once.

        Nothing of the entries was sent: they count as not taken.
        """

    @abc.abstractmethod
    def prune(self, limit: int) -> int:
        """One bounded step of housekeeping; at most about ``limit`` rows are changed. Returns how many were.

        Hands each row of an expired message to the workers, once: it is due at once and in no lane, so that one of them takes
        it, finds it expired, and settles it with all that belongs to such an end. What no worker has settled some minutes
        later ends here (state expired, in the log). So do, at once, rows of what was deleted (state cancelled), and
        redeliveries whose own time is over before that of their message. Removes messages, subscriptions, queues and log lines
        whose retention is over. Never touches what is leased.
        """

    # -- long work ----------------------------------------------------------------------------------------------------------
    #
    # A job is held by one worker at a time, by a lease that the storage's clock judges. It is there until it is done; one that
    # has failed is kept until somebody retries it, or the retention of the log is over. What a board (TaskFlow) knows of it is
    # a way to spread it, and never the truth.

    @abc.abstractmethod
    def add_job(self, project: str, kind: str, details: Mapping[str, Any]) -> str:
        """Store a job that any worker may hold; returns its id. ``details`` are JSON."""

    @abc.abstractmethod
    def list_jobs(self, marker: str | None, limit: int, *, failed: bool | None = None) -> list[Job]:
        """At most ``limit`` jobs behind the id ``marker``, the oldest first: all, or those that have failed, or the others."""

    @abc.abstractmethod
    def get_job(self, job_id: str) -> Job | None: ...

    @abc.abstractmethod
    def hold_job(self, worker_id: int, lease: float, job_id: str | None = None) -> Job | None:
        """Hold this job, or the oldest that nobody holds, for ``lease`` seconds; or go on holding it. None when there is none,
        it has failed, or another worker holds it. A page of a range that an earlier holder had leased is free then: that one
        cannot settle it any more."""

    @abc.abstractmethod
    def let_job_go(self, worker_id: int, job_id: str) -> None:
        """It is free for others at once, with all that was done of it. Nothing happens when this worker does not hold it."""

    @abc.abstractmethod
    def finish_job(self, worker_id: int, job_id: str) -> bool:
        """It is done, and gone; False when this worker does not hold it (any more)."""

    @abc.abstractmethod
    def advance_job(self, worker_id: int, job_id: str, details: Mapping[str, Any]) -> bool:
        """How far it is: these details are stored in place of the others. False as in `finish_job`. Not for `CUT` and `RANGE`,
        which know that by themselves."""

    @abc.abstractmethod
    def fail_job(self, worker_id: int, job_id: str, error: str) -> bool:
        """It has failed, for this reason (one line), and waits for `retry_job`. False as in `finish_job`."""

    @abc.abstractmethod
    def retry_job(self, job_id: str) -> bool:
        """A job that has failed is free again, and goes on where it was; False when there is none."""

    @abc.abstractmethod
    def cut(self, worker_id: int, job_id: str, size: int) -> bool:
        """One step of a job of kind `CUT` that this worker holds: the next ``size`` subscribers of its message's queue become a
        range; the last range has no ``last``. False when it is done (and gone), or not this worker's (any more). One step costs
        the same wherever it stands.
        """

    # -- moving house -------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def copy_counts(self) -> Mapping[str, int]:
        """How many records of which kind `copy_from` has to give. The kinds, and the fields of their records, are the tables
        and columns of `zaqar_notify.storage.sql.tables`, for every engine; what a process alone has (workers) is not among
        them. In the order in which they are to be copied."""

    @abc.abstractmethod
    def copy_from(self, kind: str, after: Any, limit: int) -> tuple[list[Mapping[str, Any]], Any]:
        """At most ``limit`` records of a kind behind ``after`` (None: from the beginning), and what to pass as ``after`` next.
        Leases are not copied: what was leased is due at once, and nobody holds a lane or a job."""

    @abc.abstractmethod
    def copy_into(self, kind: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Store them, ids and all; one that is there already is replaced, so that a copy that was broken off can be repeated.
        Ids that are given out later are above all of them."""
