"""The records that travel through the service: frozen, without I/O.

Instants end in ``_at`` and are epoch seconds (UTC, float); durations are float seconds unless the API says integer;
ids end in ``_id`` and are opaque strings that the storage makes.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any

ENVELOPE_VERSION = 1
"""Version of the message format. Readers accept older versions and ignore what they do not know."""


class OutcomeKind(enum.Enum):
    """What one attempt came to, as the notifier says it."""

    DELIVERED = "delivered"  # the other side took it
    RETRY = "retry"  # may work later
    THROTTLED = "throttled"  # told to slow down
    AUTH = "auth"  # our credential is refused
    OURS = "ours"  # our own DNS, proxy, database or bug
    REJECTED = "rejected"  # will never work
    GONE = "gone"  # the target no longer exists
    REFUSED = "refused"  # our guard, or the endpoint aborts this message


class State(enum.Enum):
    """Where a delivery (message x subscription) stands."""

    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    PARKED = "parked"  # waits for a full lane
    DELIVERED = "delivered"
    FILTERED = "filtered"
    SUPPRESSED = "suppressed"  # the subscription is disabled or not confirmed
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    CANCELLED = "cancelled"  # the subscription or the queue was deleted
    REFUSED = "refused"
    DEAD = "dead"
    GONE = "gone"

    @property
    def ended(self) -> bool:
        return self not in _OPEN_STATES


_OPEN_STATES = frozenset({State.PENDING, State.IN_FLIGHT, State.PARKED})


class MessageKind(enum.Enum):
    NOTIFICATION = "notification"  # what clients posted
    TEST = "test"  # made by a subscription's ping, for that subscriber alone
    CONFIRMATION = "confirmation"  # asks one subscriber whether it wants to be; its body is what that one receives
    CALLBACK = "callback"  # tells the owner of one subscription, at its ``callback`` URL, that something is wrong with it


class Scope(enum.Enum):
    """What a failure or a request to slow down is about: one subscription, or all that shares its lane."""

    SUBSCRIPTION = "subscription"
    LANE = "lane"
    CREDENTIAL = "credential"


class Priority(enum.IntEnum):
    """How urgent a message is (RFC 8030, 5.3)."""

    VERY_LOW = 1
    LOW = 2
    NORMAL = 3
    HIGH = 4

    @property
    def text(self) -> str:
        """As clients write it."""
        return self.name.lower().replace("_", "-")


class ReceiptKind(enum.Enum):
    """What was heard of a delivery after the provider had accepted it."""

    DEVICE = "delivered_to_device"  # the mailbox or the device has it
    ACKNOWLEDGED = "acknowledged"  # the application says so
    FAILED = "failed"  # accepted, and not delivered after all


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    kind: ReceiptKind
    at: float
    detail: str = ""
    """One line for a person. Never a secret."""
    gone: bool = False
    """Of a FAILED: the target does not exist (any more)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """A message on its way into the storage, which gives it its id and its instants."""

    body_json: bytes
    """JSON text, UTF-8."""
    ttl: int
    """Seconds."""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parent_id: str | None = None
    delay: int = 0
    """Seconds until it can be read, claimed and delivered. The time to live begins after them."""
    collapse_key: str | None = None
    """Of two notifications with the same one only the later matters."""
    priority: Priority | None = None
    language: str | None = None
    """Tag of RFC 5646: of its text, and which templates are for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """The envelope. ``expires_at`` is an instant, so that every step can judge it without knowing when it was posted."""

    id: str
    project: str
    queue: str
    body_json: bytes
    """JSON text, UTF-8, as it was posted; empty once ``[delivery_log] body_retention`` has dropped it, and when sealed."""
    ttl: int
    created_at: float
    expires_at: float
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parent_id: str | None = None
    client_id: str | None = None
    version: int = ENVELOPE_VERSION
    kind: MessageKind = MessageKind.NOTIFICATION
    foreign_id: str | None = None
    """Its id in the queue service that this one extends: what subscribers and clients see instead of ``id``."""
    claim_id: str | None = None
    """The claim that has it now."""
    sealed: bool = False
    """Its body cannot be opened: the key that encrypted it is not among [encryption] keys."""
    collapse_key: str | None = None
    priority: Priority | None = None
    language: str | None = None

    @property
    def public_id(self) -> str:
        return self.foreign_id or self.id

    @property
    def body(self) -> Any:
        """The body as a Python value, parsed anew at each call."""
        return json.loads(self.body_json)


@dataclasses.dataclass(frozen=True, slots=True)
class Queue:
    project: str
    name: str
    metadata: Mapping[str, Any]
    created_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """Messages that one consumer works on; nobody else sees them until it ends."""

    id: str
    ttl: int
    """Seconds."""
    grace: int
    """Seconds that its messages live on, at least, after the claim has ended."""
    created_at: float
    """Since when the ttl runs."""

    @property
    def expires_at(self) -> float:
        return self.created_at + self.ttl


@dataclasses.dataclass(frozen=True, slots=True)
class Stats:
    """How many messages there are. Delayed ones are among the claimed: nobody can have them now."""

    claimed: int = 0
    free: int = 0
    oldest: Message | None = None
    newest: Message | None = None

    @property
    def total(self) -> int:
        return self.claimed + self.free


@dataclasses.dataclass(frozen=True, slots=True)
class Alert:
    """A message for the project's alert queue, at most one in ``every`` seconds for the same project and cause.

    With ``subscription_id`` it is for the ``callback`` URL of that subscription instead: a message of kind CALLBACK that
    readers never see, in ``queue``, with a row for this subscription alone; nothing at all once that was deleted.
    """

    cause: str
    queue: str
    draft: Draft
    every: float = 3600.0
    subscription_id: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ApiKey:
    """``zn_<id>_<secret>`` without the secret."""

    id: str
    project: str
    roles: tuple[str, ...]
    """Of ``read``, ``publish``, ``subscribe`` and ``admin``."""
    name: str
    """What it is for, in the words of who made it."""
    secret_hash: bytes
    """SHA-256 of the secret, which has 256 bits of chance: a slow hash would protect nothing more."""
    created_at: float
    revoked_at: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Disabled:
    """Why a subscription gets nothing, since when, and who may enable it again (``owner`` or ``operator``)."""

    reason: str
    at: float
    enable_by: str = "owner"


@dataclasses.dataclass(frozen=True, slots=True)
class Subscription:
    id: str
    project: str
    queue: str
    subscriber: str
    """The URI; its scheme chooses the notifier."""
    ttl: int | None
    """Seconds; None never expires."""
    options: Mapping[str, Any]
    """As the client gave them, without ``secret``."""
    created_at: float
    """Since when the ttl runs: a new ttl starts it anew."""
    expires_at: float | None
    confirmed: bool = False
    secret: str | None = dataclasses.field(default=None, repr=False)
    """``whsec_`` and base64: signs the deliveries. Encrypted at rest, never shown again. None also when it is sealed."""
    secret_made: bool = False
    """The service made the secret (the client gave none)."""
    sealed: bool = False
    """Its secret cannot be opened: the key that encrypted it is not among [encryption] keys."""
    disabled: Disabled | None = None
    strikes: int = 0
    """Attempts in a row that found the target itself to be wrong."""
    failing_since: float | None = None
    """Since when no attempt has succeeded; None after a success, and before the first failure."""

    def live(self, now: float) -> bool:
        return self.expires_at is None or self.expires_at > now


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """What went over the wire in one attempt, as the log keeps it: bounded, and without secrets. The notifier sees to both.

    All three are JSON objects of the transport's own. Of HTTP: ``request`` has method, url, headers and body_size (the body is
    the message's), ``response`` status, headers and body (text, cut), ``phases`` seconds since the start of the attempt: name,
    connect, tls, first_byte, end.
    """

    request: Mapping[str, Any]
    response: Mapping[str, Any] | None = None
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt came to: a value, not an exception."""

    kind: OutcomeKind
    detail: str = ""
    """One line for a person: why. Never a secret."""
    status: int | None = None
    """The status of the answer in the transport's own numbers (HTTP: 100-599)."""
    after: float | None = None
    """Seconds that the other side asked us to wait."""
    scope: Scope = Scope.LANE
    """Whom a RETRY counts against, and who has to wait for a THROTTLED."""
    disable: str | None = None
    """Not None: the subscription is to be disabled, for this reason."""
    target: bool = False
    """A REJECTED that is about the target, not about this payload: a strike against the subscription."""
    credential: str | None = None
    provider_id: str | None = None
    """The provider's own id of what it took."""
    publish: tuple[tuple[str, Draft], ...] = ()
    """(queue, draft) pairs in the same project, stored in the transaction that settles this attempt."""
    exchange: Exchange | None = None


@dataclasses.dataclass(slots=True, eq=False)
class Delivery:
    """One attempt of one message for one subscription, as a notifier gets it. Compared by identity: report the same object."""

    id: str
    """The same over all attempts, unique per message and subscription, without a dot."""
    attempt: int
    """1 for the first."""
    deadline: float
    """``time.monotonic()`` seconds: the attempt has to be over by then."""
    message: Message
    subscription: Subscription
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Signed URLs by name (`zaqar_notify.feedback`); none where the service has no public URL. Each is made when it is read."""
    target: int = 0
    """Which address of the subscription this goes to: 0 its subscriber, n the n-th of ``options.fallback``. ``subscription``
    has that address as its subscriber."""
    templates: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """By channel, as the subscription and its queue have them (`zaqar_notify.templates`)."""
    others: Sequence[Delivery] = ()
    """What goes into the same digest, for notifiers that make such: one attempt, and one outcome for all."""


def delivery_id(message_id: str, subscription_id: str) -> str:
    return f"{message_id}-{subscription_id}"


@dataclasses.dataclass(frozen=True, slots=True)
class LaneKey:
    """What shares a limit: a project and what the notifier names (scheme, host and port by default)."""

    project: str
    name: str
    pool: str = dataclasses.field(default="", compare=False)
    """Whose it is: a scheme that workers of its own serve; empty: all other workers'."""

    def own(self, subscription_id: str) -> LaneKey:
        """The lane of one subscription alone, beside this one."""
        return LaneKey(self.project, f"{self.name}#{subscription_id}", self.pool)

    def is_own(self, subscription_id: str) -> bool:
        return self.name.endswith(f"#{subscription_id}")


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Long work that spans many transactions: a part of a huge fan-out, for one."""

    id: str
    project: str
    kind: str
    details: Mapping[str, Any]
    """JSON; what the kind needs. Of a part of a fan-out: ``message_id``, ``after`` (how far it is) and ``last``."""
    created_at: float
    takes: int = 0
    """How often a worker took it up."""
    worker_id: int | None = None
    """Who holds it, or held it last."""
    held_until: float = 0.0
    error: str | None = None
    """Why it has failed; None: it has not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A worker of the cluster."""

    id: int
    host: str
    pid: int
    version: str
    joined_at: float
    seen_at: float
    """When it said for the last time that it lives."""
    entries: int = 0
    """Outbox entries that it has leased."""
    rows: int = 0
    lanes: int = 0
    jobs: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class LogEntry:
    """One line in the log of a delivery: an attempt (``outcome`` is set) or an end without one."""

    number: int
    """1, 2, 3 ... within the delivery."""
    at: float
    state: State
    """The state that this line put the delivery into."""
    outcome: OutcomeKind | None = None
    status: int | None = None
    duration: float | None = None
    """Seconds."""
    detail: str = ""
    exchange: Exchange | None = None
    target: int = 0
    """Which address it went to: see `Delivery`."""


@dataclasses.dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """The answer to "did it arrive?" for one message and one subscription."""

    message_id: str
    subscription_id: str
    state: State
    next_attempt_at: float | None
    log: tuple[LogEntry, ...]
    receipts: tuple[Receipt, ...] = ()
    """What was heard of it later, the oldest first; of each kind one."""
