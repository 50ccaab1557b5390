"""How the worker sends through a notifier: on threads of its own or directly. A hang or a bug in it costs its own deliveries
only."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from zaqar_notify.errors import InvalidQueue, NotifierFailed, NotifyError
from zaqar_notify.model import (
    Delivery,
    Draft,
    Exchange,
    Outcome,
    OutcomeKind,
    Priority,
    Receipt,
    ReceiptKind,
    Scope,
    Subscription,
)
from zaqar_notify.notifiers.asking import Asking
from zaqar_notify.notifiers.base import BatchNotifier, Notifier, Report, SingleNotifier
from zaqar_notify.notifiers.census import Census
from zaqar_notify.notifiers.exchanges import HttpExchange
from zaqar_notify.notifiers.plugins import is_own
from zaqar_notify.validation import END_OF_TIME, check_queue_name

DETAIL_LENGTH = 500
"""Characters of an outcome's detail that go into the log."""
EXCHANGE_LENGTH = 32768
"""Characters of JSON that an exchange may have."""
LANE_LENGTH = 512
"""Characters of a lane's name that count."""
PATIENCE = 1.0
"""Seconds in which a notifier of another package has to say where it sends: the worker stands still meanwhile."""
KNOWN_FOR = 10.0
"""Seconds for which it is not asked again about a subscription that has not changed."""
MOST_KNOWN = 10_000
FAILED = "The notifier failed: "
"""Begins what is told of a bug in one; its text stays in the log."""


class Complaints:
    """A bug is told at length, but not at each delivery: that would cost others their time."""

    EVERY = 10.0
    """Seconds."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        self._name = name
        self._log = log
        self._next = 0.0
        self._untold = 0

    def bug(self) -> None:
        """To be called where it was caught."""
        now = time.monotonic()
        if now < self._next:
            self._untold += 1
            return
        self._next = now + self.EVERY
        more, self._untold = f" ({self._untold} more since the last one)" if self._untold else "", 0
        self._log.exception("%s: a bug in the notifier%s", self._name, more)


class Threads:
    """At most ``size`` threads, started as they are needed. One whose send hangs is lost until that send returns."""

    def __init__(self, notifier: SingleNotifier, name: str, size: int, log: logging.Logger) -> None:
        self._notifier = notifier
        self._name = name
        self._size = size
        self._log = log
        self._work: queue.SimpleQueue[tuple[Delivery, Report] | None] = queue.SimpleQueue()
        self._threads = 0
        self._lock = threading.Lock()
        self._running: set[Delivery] = set()
        self._lost: set[Delivery] = set()
        self.census = Census(name, notifier.most_threads, log)
        self._complaints = Complaints(name, log)

    @property
    def full(self) -> bool:
        return len(self._running) >= self._size or self.census.is_leaking(self._threads)

    @property
    def stopped(self) -> bool:
        return len(self._lost) >= self._size or self.census.is_leaking(self._threads)

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        for delivery in deliveries:
            with self._lock:
                self._running.add(delivery)
                new = self._threads < min(len(self._running), self._size)
            if new and not self._start() and not self._threads:
                self._running.discard(delivery)
                report(delivery, Outcome(OutcomeKind.OURS, detail="No thread could be started"))
            else:
                self._work.put((delivery, report))

    def _start(self) -> bool:
        """One more thread; False: the process may have no more of them."""
        try:
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads + 1}", daemon=True).start()
        except RuntimeError as error:
            self._log.error("%s: %s", self._name, error)
            return False
        self._threads += 1
        return True

    def give_up(self, delivery: Delivery) -> None:
        """Its send has outstayed its deadline: count its thread as lost."""
        with self._lock:
            if delivery not in self._running:  # it has returned in this moment
                return
            self._lost.add(delivery)
        self._log.error("%s: a send hangs; %d of %d threads are lost", self._name, len(self._lost), self._size)

    def _run(self) -> None:
        self.census.name_this_thread()
        while (work := self._work.get()) is not None:
            delivery, report = work
            outcome = self._send(delivery)
            with self._lock:
                self._running.discard(delivery)
                self._lost.discard(delivery)
            report(delivery, outcome)

    def _send(self, delivery: Delivery) -> Outcome:
        try:
            return self._notifier.send(delivery)
        except BaseException as error:  # noqa: BLE001 - a driver's bug, sys.exit() too, costs this delivery only
            self._complaints.bug()
            return Outcome(OutcomeKind.OURS, detail=f"{FAILED}{type(error).__name__}")

    def close(self) -> None:
        for _ in range(self._threads):
            self._work.put(None)


class Direct:
    """A `BatchNotifier` as the worker sees it: it takes any number, and a bug in it costs the batch it was given."""

    full = False
    stopped = False

    def __init__(self, notifier: BatchNotifier, name: str, log: logging.Logger) -> None:
        self._notifier = notifier
        self._name = name
        self._log = log
        self._complaints = Complaints(name, log)

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        try:
            self._notifier.send_many(deliveries, report)
        except BaseException as error:  # noqa: BLE001 - a driver's bug, sys.exit() too, costs its own deliveries only
            self._complaints.bug()
            outcome = Outcome(OutcomeKind.OURS, detail=f"{FAILED}{type(error).__name__}")
            for delivery in deliveries:
                report(delivery, outcome)

    def give_up(self, delivery: Delivery) -> None:
        self._log.error("%s: no outcome was reported for delivery %s in time", self._name, delivery.id)

    def close(self) -> None:
        """It has no threads."""


class Aside:
    """A `BatchNotifier` of another package. That it returns at once is asked of it, and not relied on: it is called on a thread
    of its own, and nothing more is sent with it while that does not come back."""

    LONG = 1.0
    """Seconds after which a call that is under way is to blame for what is not reported."""

    def __init__(self, notifier: BatchNotifier, name: str, log: logging.Logger) -> None:
        self._direct = Direct(notifier, name, log)
        self._name = name
        self._log = log
        self._work: queue.SimpleQueue[tuple[Sequence[Delivery], Report] | None] = queue.SimpleQueue()
        self._started = False
        self._calling_since = math.inf
        self._stuck = False
        self.census = Census(name, notifier.most_threads, log)

    @property
    def stopped(self) -> bool:
        return self._stuck or self.census.is_leaking(ours=1)

    full = stopped

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        if not self._started:
            try:
                threading.Thread(target=self._run, name=f"{self._name}-batches", daemon=True).start()
            except RuntimeError as error:
                self._log.error("%s: %s", self._name, error)
                for delivery in deliveries:
                    report(delivery, Outcome(OutcomeKind.OURS, detail="No thread could be started"))
                return
            self._started = True
        self._work.put((deliveries, report))

    def _run(self) -> None:
        self.census.name_this_thread()
        while (work := self._work.get()) is not None:
            deliveries, report = work
            self._calling_since = now = time.monotonic()
            in_time = [delivery for delivery in deliveries if delivery.deadline > now]
            for delivery in deliveries:
                if delivery.deadline <= now:  # those before it took too long
                    report(delivery, Outcome(OutcomeKind.OURS, detail="The notifier was busy for too long"))
            if in_time:
                self._direct.send_many(in_time, report)
            self._calling_since, self._stuck = math.inf, False

    def give_up(self, delivery: Delivery) -> None:
        if time.monotonic() - self._calling_since < self.LONG:
            self._direct.give_up(delivery)
        elif not self._stuck:
            self._stuck = True
            self._log.error("%s: send_many does not return; nothing is sent with it until it does", self._name)

    def close(self) -> None:
        self._work.put(None)


_Sender = Threads | Direct | Aside


@dataclasses.dataclass(slots=True)
class Route:
    """How to reach a subscription: who sends, in which lane (its name within the project), in how many seconds."""

    sender: _Sender
    lane: str
    timeout: float
    templated: bool = False
    """It wants to know the templates of the subscription and its queue."""
    most: int | None = None
    """Attempts that may come to be under way at once in that lane; None: as many as in any other."""
    digests: bool = False
    """It sends what was released from a window together at once."""
    window: tuple[str, float, float] | None = None
    """What `Notifier.window` says."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """What a notifier has said of a subscription, as that was then."""

    route: Route
    subscriber: str
    options: Mapping[str, Any]
    until: float

    def holds(self, subscription: Subscription, now: float) -> bool:
        return now < self.until and self.subscriber == subscription.subscriber and self.options == subscription.options


class Senders:
    """One sender for each notifier, made when the first delivery needs it."""

    def __init__(self, pick: Callable[[str], Notifier], *, threads: int, timeout: float, max_timeout: float) -> None:
        """``pick`` finds the notifier of a subscriber's URI; ``timeout`` (seconds) holds where it names none. Longer than
        ``max_timeout`` no attempt may take: it has to end, and be settled, within its lease."""
        self._pick = pick
        self._threads = threads
        self._timeout = timeout
        self._max_timeout = max_timeout
        # By the notifier's id(): not every one can be hashed.
        self._senders: dict[int, _Sender] = {}
        self._asking: dict[int, Asking] = {}  # of other packages
        self._known: dict[tuple[int, str], _Known] = {}
        self._complaints: dict[int, Complaints] = {}

    def route(self, subscription: Subscription) -> Route:
        """Raises `NotifyError` when no loaded notifier serves the subscription, or it fails to say how."""
        notifier = self._pick(subscription.subscriber)
        sender = self._senders.get(id(notifier)) or self._start(notifier)
        asking = self._asking.get(id(notifier))
        try:
            if asking is None:
                return self._route(notifier, sender, subscription)
            return self._asked(asking, notifier, sender, subscription)
        except NotifyError:
            raise
        except BaseException as error:
            self._complaints[id(notifier)].bug()
            raise NotifierFailed(f"{FAILED}{type(error).__name__}") from error

    def _asked(self, asking: Asking, notifier: Notifier, sender: _Sender, subscription: Subscription) -> Route:
        """What it says is remembered for a while: to ask on another thread takes fifty times as long."""
        key, now = (id(notifier), subscription.id), time.monotonic()
        known = self._known.get(key)
        if known is not None and known.holds(subscription, now):
            return known.route
        route = asking.ask(lambda: self._route(notifier, sender, subscription), PATIENCE)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[key] = _Known(route, subscription.subscriber, subscription.options, now + KNOWN_FOR)
        return route

    def _route(self, notifier: Notifier, sender: _Sender, subscription: Subscription) -> Route:
        return Route(
            sender,
            _storable(notifier.lane(subscription)),
            self._bounded(notifier.timeout(subscription)),
            notifier.templated,
            _positive(notifier.in_flight(subscription)),
            notifier.digests,
            _window(notifier.window(subscription)),
        )

    def _bounded(self, timeout: float | None) -> float:
        seconds = self._timeout if timeout is None else float(timeout)
        if not seconds > 0:
            raise NotifierFailed(f"The notifier names a timeout of {seconds} seconds")
        return min(seconds, self._max_timeout)

    def _start(self, notifier: Notifier) -> _Sender:
        name, own = type(notifier).__name__, is_own(type(notifier))
        if isinstance(notifier, BatchNotifier):
            sender: _Sender = (Direct if own else Aside)(notifier, name, notifier.log)
        elif isinstance(notifier, SingleNotifier):
            sender = Threads(notifier, name, self._threads, notifier.log)
        else:
            raise NotifierFailed(f"{name} is neither a SingleNotifier nor a BatchNotifier")
        self._senders[id(notifier)] = sender
        self._complaints[id(notifier)] = Complaints(name, notifier.log)
        if not own:
            self._asking[id(notifier)] = Asking(name, None if isinstance(sender, Direct) else sender.census)
        return sender

    def close(self) -> None:
        for closing in (*self._senders.values(), *self._asking.values()):
            closing.close()


def _positive(number: int | None) -> int | None:
    if number is not None and not (type(number) is int and number > 0):
        raise NotifierFailed(f"The notifier lets {number!r} attempts be in flight")
    return number


def _window(window: tuple[str, float, float] | None) -> tuple[str, float, float] | None:
    if window is None:
        return None
    name, least, most = window
    if not 0 <= least <= most < math.inf:
        raise NotifierFailed(f"The notifier names a window of {least} to {most} seconds")
    return (_storable(name), float(least), float(most)) if most else None


def _storable(lane: str) -> str:
    """A lane's name as any database takes it."""
    return _plain(lane)[:LANE_LENGTH]


# -- what comes back -----------------------------------------------------------------------------------------------------------


def sound(outcome: Any) -> Outcome:
    """What a notifier reported in a form that can be stored, or what to make of it when it is no outcome at all."""
    if _is_plain(outcome):  # nearly always
        return outcome
    try:
        return _sound(outcome)
    except Exception:  # noqa: BLE001 - whatever it is made of
        return Outcome(OutcomeKind.OURS, detail="The notifier returned no outcome")


def _sound(outcome: Any) -> Outcome:
    if not isinstance(outcome, Outcome) or not isinstance(outcome.kind, OutcomeKind) or not isinstance(outcome.scope, Scope):
        return Outcome(OutcomeKind.OURS, detail="The notifier returned no outcome")
    publish = tuple(outcome.publish)
    if not all(_is_post(post) for post in publish):
        return Outcome(OutcomeKind.OURS, detail="The notifier returned a message that cannot be stored")
    return Outcome(
        outcome.kind,
        _text(outcome.detail),
        status=outcome.status if isinstance(outcome.status, int) and abs(outcome.status) < 2**31 else None,
        after=outcome.after if isinstance(outcome.after, int | float) and 0 <= outcome.after < math.inf else None,
        scope=outcome.scope,
        disable=_text(outcome.disable) if outcome.disable else None,
        target=bool(outcome.target),
        credential=_text(outcome.credential) if outcome.credential else None,
        provider_id=_text(outcome.provider_id) if outcome.provider_id else None,
        publish=publish,
        exchange=_exchange(outcome.exchange),
    )


def _is_plain(outcome: Any) -> TypeGuard[Outcome]:
    return (
        type(outcome) is Outcome
        and outcome.kind is OutcomeKind.DELIVERED
        and outcome.detail == ""
        and outcome.after is None
        and outcome.disable is None
        and outcome.credential is None
        and outcome.provider_id is None
        and outcome.scope is Scope.LANE
        and outcome.target is False
        and outcome.publish == ()
        and (outcome.exchange is None or type(outcome.exchange) is HttpExchange)
        and type(outcome.status) is int
        and 0 <= outcome.status < 1000
    )


def _text(value: Any) -> str:
    return _plain(value)[:DETAIL_LENGTH]


def _plain(value: Any) -> str:
    """As text that any database takes."""
    return str(value).encode("utf-8", "replace").decode().replace("\x00", "?")


def _exchange(exchange: Any) -> Exchange | None:
    """A copy that can be stored; instead of one that cannot, a note that says why."""
    if exchange is None or type(exchange) is HttpExchange:
        return exchange
    try:
        response = None if exchange.response is None else dict(exchange.response)
        phases = {str(name): float(seconds) for name, seconds in exchange.phases.items()}
        text = json.dumps([dict(exchange.request), response, phases], allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, AttributeError, RecursionError):
        return Exchange({"error": "what the notifier recorded is not JSON"})
    if len(text) > EXCHANGE_LENGTH:
        return Exchange({"error": f"what the notifier recorded is longer than {EXCHANGE_LENGTH} characters of JSON"})
    return Exchange(*json.loads(text))


def sound_receipt(receipt: Any) -> Receipt | None:
    """What a provider has reported, as a notifier says it, in a form that can be stored; None: it is no receipt."""
    try:
        if isinstance(receipt, Receipt) and isinstance(receipt.kind, ReceiptKind) and 0 <= receipt.at <= END_OF_TIME:
            return Receipt(receipt.kind, float(receipt.at), _text(receipt.detail), bool(receipt.gone))
    except Exception:  # noqa: BLE001 - whatever it is made of
        return None
    return None


def _is_post(post: Any) -> bool:
    """(queue, draft) with values that any database takes."""
    try:
        queue, draft = post
        check_queue_name(queue)
        json.loads(draft.body_json.decode())
        json.dumps(dict(draft.attributes), allow_nan=False).encode()
        texts = [text.encode() for text in (draft.parent_id, draft.collapse_key, draft.language) if text is not None]
    except (TypeError, ValueError, AttributeError, RecursionError, InvalidQueue):
        return False
    return (
        isinstance(draft, Draft)
        and _is_time(draft.ttl, least=1)
        and _is_time(draft.delay, least=0)
        and b"\x00" not in b"".join(texts)
        and (draft.priority is None or isinstance(draft.priority, Priority))
    )


def _is_time(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 2**31
