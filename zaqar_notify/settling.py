"""What has become of deliveries: the flow that stores it, and all that follows from it for others.

An outcome becomes a line of the log and a row or an end (`zaqar_notify.retry`), and with it what owners are told, and what the
subscription is held to.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskflow import retry, task
from taskflow.patterns import linear_flow

from zaqar_notify import addresses, errors
from zaqar_notify.alerts import Alerts, dead_letter
from zaqar_notify.attempt_log import AttemptLog, attempt_line
from zaqar_notify.compiled import CompiledFlow
from zaqar_notify.lanes import OpenEntry, Send, Turn
from zaqar_notify.metrics import WorkerMetrics
from zaqar_notify.model import Alert, Disabled, Draft, LaneKey, LogEntry, MessageKind, Outcome, OutcomeKind, State, Subscription
from zaqar_notify.retry import Next, Policy, next_state, policy_of
from zaqar_notify.storage.base import Breaker, Closing, Failure, Settlement, Storage, Window

MOST_FAILING = 100_000
"""Subscriptions whose failures a worker remembers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Endurance:
    """When a subscription that fails is disabled."""

    strikes: int = 3
    """Attempts in a row that found the target itself to be wrong."""
    failing: float = 432000.0
    """Seconds of nothing but failures."""


_UNDELIVERED = frozenset({State.DEAD, State.GONE})
"""What has ended without success, and its owner wants to know."""
_FREE = frozenset({OutcomeKind.THROTTLED, OutcomeKind.AUTH, OutcomeKind.OURS})
"""What uses up no attempt."""


@dataclasses.dataclass(frozen=True, slots=True)
class Telling:
    """Who learns what of the attempts."""

    alerts: Alerts = dataclasses.field(default_factory=lambda: Alerts(None))
    endurance: Endurance = dataclasses.field(default_factory=Endurance)
    metrics: WorkerMetrics = dataclasses.field(default_factory=WorkerMetrics)
    attempts: AttemptLog = dataclasses.field(default_factory=lambda: AttemptLog("none"))
    record_successes: bool = False
    """Keep what went over the wire of successful attempts, too."""


class Settling:
    """What has become of deliveries and is not stored yet, in order; and the flow that stores it a micro-batch at a time."""

    def __init__(
        self,
        storage: Storage,
        policy: Policy,
        telling: Telling,
        *,
        micro_batch: int,
        log: logging.Logger,
        closed: Callable[[Closing], None] = lambda _: None,
        tell_others: Callable[[], None] = lambda: None,
    ) -> None:
        """``closed`` is called for each page that is settled, unless it was the last one of an entry; ``tell_others`` when
        something was stored that waits for other workers."""
        self._storage = storage
        self._telling = telling
        self._alerts = telling.alerts
        self._failing: set[str] = set()
        """Subscriptions that have failed since they last succeeded, as far as is known here: for sends whose subscription was
        loaded before that. Those loaded after say so themselves."""
        self._turns: dict[LaneKey, Breaker] = {}
        self._policy = policy
        self.policies = _Policies(storage, policy)
        self._micro_batch = micro_batch
        self._log = log
        self._closed = closed
        self._tell_others = tell_others
        self._handed_over = False
        """Whatever there was to hand over once, there will be more of."""
        self._queue: collections.deque[tuple[Settlement | None, OpenEntry | None]] = collections.deque()
        self._batch: tuple[list[Settlement], list[Closing], list[Breaker]] | None = None
        self.since: float | None = None
        """Since when (``time.monotonic()``) the oldest has been waiting to be stored."""
        self._flow = CompiledFlow(
            linear_flow.Flow("settle", retry=_Patience(name="patience")).add(
                task.FunctorTask(self.store, name="store", provides="lost"),
            ),
            inputs=("settlements", "closings", "breakers"),
            retry_name="patience",
        )

    @property
    def outstanding(self) -> int:
        return len(self._queue) + (len(self._batch[0]) if self._batch else 0)

    # The ways in which a delivery comes here:

    def settle(self, send: Send, outcome: Outcome, wall: float, duration: float | None) -> None:
        """An attempt has come to this outcome; all that is in a digest has. What is to be tried again is due again together."""
        chance = random.random()  # noqa: S311 - jitter
        self._settle(send, outcome, wall, duration, chance)
        if send.others:
            again = dataclasses.replace(outcome, publish=())
            for other in send.others:
                self._settle(other, again, wall, duration, chance, of=send)

    def _settle(
        self, send: Send, outcome: Outcome, wall: float, duration: float | None, chance: float, *, of: Send | None = None
    ) -> None:
        """``of`` is the first one of its digest. That counts for the subscription, and is told of, as the others are not. That
        the subscription is disabled each of them says: any may have been cancelled meanwhile."""
        about = of is None
        delivered = outcome.kind is OutcomeKind.DELIVERED
        logged = self._telling.attempts.wants(outcome.kind)
        policy = self.policies.of(send.subscription) if logged or not delivered else self._policy
        following = next_state(
            outcome,
            attempts=send.attempts,
            faults=0 if delivered else self._faults(of or send, outcome),
            now=wall,
            expires_at=send.expires_at,
            policy=policy,
            chance=chance,
            further=0 if delivered else _further(send),
        )
        told = _going_on(send, outcome) if following.goes_on else outcome
        disable = None if delivered and outcome.disable is None else _disables(send, outcome)
        line = LogEntry(
            number=send.lines + 1,
            at=wall,
            state=following.state,
            outcome=outcome.kind,
            status=outcome.status,
            duration=duration,
            detail=told.detail,
            exchange=None if delivered and not self._telling.record_successes else outcome.exchange,
            target=send.target,
        )
        self._count(send, outcome, following, wall, duration)
        if logged:
            self._telling.attempts.add(
                attempt_line(
                    send,
                    told,
                    attempt=send.attempt,
                    most=len(policy.schedule),
                    duration=duration,
                    state=following.state,
                    due_at=following.due_at,
                )
            )
        self.add(
            Settlement(
                send.message.id,
                send.subscription.id,
                send.token,
                send.entry is None,
                line,
                due_at=following.due_at,
                attempts=following.attempts,
                lines=line.number,
                disable=Disabled(disable, wall) if disable else None,
                publish=(*outcome.publish, *self._letters(send, following, outcome.detail)),
                failure=self._failure(send, outcome, wall) if about else None,
                recovered=about and self._recovered(send, outcome),
                alerts=self._alerts_about(send, outcome, following, disable, wall) if about else (),
                job_id=_range(send),
                window_id=send.window_id,
                target=send.target + following.goes_on,
            ),
            send.entry,
        )

    def _faults(self, send: Send, outcome: Outcome) -> int:
        """Attempts before this one, to the same address, that used up nothing."""
        if not send.target:
            return send.lines - send.lines_before - send.attempts
        if outcome.kind not in _FREE:
            return 0
        message, subscription = send.message, send.subscription
        try:
            record = self._storage.get_delivery(message.project, message.queue, message.public_id, subscription.id)
        except errors.StorageUnavailable:
            return 0
        log = record.log if record is not None else ()
        return sum(line.target == send.target and line.outcome in _FREE for line in log if line.number > send.lines_before)

    def _count(self, send: Send, outcome: Outcome, following: Next, wall: float, duration: float | None) -> None:
        message = send.message
        # A delayed message is late only once its delay has ended; a redelivery has waited for somebody to ask for it, and what
        # comes from a window was to wait.
        late = outcome.kind is OutcomeKind.DELIVERED and not send.lines_before and send.window_id is None
        lag = wall - max(message.created_at, message.expires_at - message.ttl) if late else None
        self._telling.metrics.attempt(send.subscription.subscriber, outcome.kind, duration, lag)
        if following.state in _UNDELIVERED:
            self._telling.metrics.dead_letter()

    def _failure(self, send: Send, outcome: Outcome, wall: float) -> Failure | None:
        strike = outcome.kind is OutcomeKind.REJECTED and outcome.target
        if not (strike or outcome.kind is OutcomeKind.RETRY) or send.address:
            return None
        if len(self._failing) >= MOST_FAILING:
            self._failing.clear()
        self._failing.add(send.subscription.id)
        limits = self._telling.endurance
        reasons = (f"{limits.strikes} attempts in a row found the target to be wrong", "nothing but failures for too long")
        about = self._alerts.disabled(send.message, send.subscription, reasons[0 if strike else 1], outcome.detail, wall)
        alert = next((alert for alert in about if alert.subscription_id is None), None)
        callback = next((alert for alert in about if alert.subscription_id is not None), None)
        return Failure(wall, strike, limits.strikes, limits.failing, *reasons, alert, callback)

    def _recovered(self, send: Send, outcome: Outcome) -> bool:
        if outcome.kind is not OutcomeKind.DELIVERED or send.address:
            return False
        subscription = send.subscription
        if subscription.failing_since is None and not subscription.strikes and subscription.id not in self._failing:
            return False
        self._failing.discard(subscription.id)
        return True

    def _letters(self, send: Send, end: Next, detail: str) -> list[tuple[str, Draft]]:
        if end.state not in _UNDELIVERED:
            return []
        return dead_letter(send.message, send.subscription, end.state, detail, end.attempts)

    def _alerts_about(
        self, send: Send, outcome: Outcome, following: Next, disable: str | None, wall: float
    ) -> tuple[Alert, ...]:
        if outcome.kind is OutcomeKind.DELIVERED and not disable:
            return ()
        about: list[Alert] = []
        if following.state in _UNDELIVERED:
            about += self._alerts.dead(send.message, send.subscription, following.state, outcome.detail, wall)
        if disable:
            about += self._alerts.disabled(send.message, send.subscription, disable, outcome.detail, wall)
        if outcome.kind is OutcomeKind.AUTH:
            credential = outcome.credential or send.lane.key.name
            about += self._alerts.credential(send.message, send.subscription, credential, outcome.detail, wall)
        return tuple(about)

    def turn(self, turn: Turn, wall: float) -> None:
        """A breaker has opened or closed: all workers are to know, and those that come after."""
        self._turns[turn.key] = Breaker(turn.key, turn.trips, wall + turn.wait)
        if self.since is None:
            self.since = time.monotonic()

    def unsaved(self) -> dict[LaneKey, int]:
        """Breakers that have turned and are not stored yet: their trips."""
        saving = self._batch[2] if self._batch else ()
        return {breaker.lane: breaker.trips for breaker in (*saving, *self._turns.values())}

    def end(self, send: Send, state: State, wall: float, detail: str = "") -> None:
        """It ends without an attempt: expired, suppressed, cancelled ... So does all that is in a digest."""
        for one in (send, *send.others):
            self._end(one, state, wall, detail)

    def _end(self, send: Send, state: State, wall: float, detail: str) -> None:
        line = LogEntry(send.lines + 1, wall, state, detail=detail)
        letters: Sequence[tuple[str, Draft]] = ()
        about: Sequence[Alert] = ()
        # What was tried or parked, and ran out of time, has failed like any other.
        if state is State.EXPIRED and (send.entry is None or send.lines):
            self._telling.metrics.dead_letter()
            why = "expired before it could be delivered"
            letters = dead_letter(send.message, send.subscription, state, why, send.attempts)
            about = self._alerts.dead(send.message, send.subscription, state, why, wall)
        self.add(
            Settlement(
                send.message.id,
                send.subscription.id,
                send.token,
                send.entry is None,
                line,
                publish=tuple(letters),
                alerts=tuple(about),
                job_id=_range(send),
            ),
            send.entry,
        )

    def park(self, send: Send) -> None:
        """It has to wait for its lane."""
        self._leave_row(send, park=send.lane.key)

    def hand_over(self, send: Send) -> None:
        """It waits in its lane for the workers that serve it."""
        self._handed_over = True
        self.park(send)

    def hold_back(self, send: Send, window: Window) -> None:
        """It waits for the end of this window."""
        self._leave_row(send, window=window)

    def later(self, send: Send, due_at: float) -> None:
        """It is not started now; anyone may take it from then on."""
        self._leave_row(send, due_at=due_at)

    def hold(self, send: Send, until: float) -> None:
        """It is under way for long: it leaves its entry for a row that stays leased until then."""
        self._leave_row(send, due_at=until, hold=True)
        send.entry = None

    def _leave_row(self, send: Send, **kind: Any) -> None:
        for one in (send, *send.others):
            settlement = Settlement(
                one.message.id,
                one.subscription.id,
                one.token,
                one.entry is None,
                attempts=one.attempts,
                lines=one.lines,
                job_id=_range(one),
                window_id=one.window_id,
                target=one.target,
                **kind,
            )
            self.add(settlement, one.entry)

    def close(self, entry: OpenEntry) -> None:
        """An entry with nothing left to settle."""
        self._put((None, entry))

    def add(self, settlement: Settlement, entry: OpenEntry | None) -> None:
        self._put((settlement, entry))

    def _put(self, item: tuple[Settlement | None, OpenEntry | None]) -> None:
        if self.since is None:
            self.since = time.monotonic()
        self._queue.append(item)

    # The flow:

    def run(self, most: int | None = None) -> bool:
        """Store one micro-batch, of at most ``most``; True when it has posted messages (copies, dead letters, alerts). Raises
        `StorageUnavailable` after some tries; the next call goes on with the same batch, so that nothing is sent again while
        the leases last."""
        self._telling.attempts.flush()
        if self._batch is None:
            self._batch = self._next_batch(most or self._micro_batch)
        settlements, closings, breakers = self._batch
        lost = self._flow.run("lost", settlements=settlements, closings=closings, breakers=breakers)
        self._batch = None
        self.since = time.monotonic() if self._queue else None
        for closing in closings:
            if closing.job_id is not None or closing.after is not None:
                self._closed(closing)
        if lost:
            self._log.warning(
                "%d of %d deliveries were settled by another worker: the lease had run out", lost, len(settlements)
            )
        if self._handed_over and any(settlement.park is not None for settlement in settlements):
            self._tell_others()
        return any(settlement.publish or settlement.alerts for settlement in settlements)

    def store(self, settlements: list[Settlement], closings: list[Closing], breakers: list[Breaker]) -> int:
        return self._storage.settle(settlements, closings, breakers)

    def _next_batch(self, most: int) -> tuple[list[Settlement], list[Closing], list[Breaker]]:
        settlements: list[Settlement] = []
        closings: list[Closing] = []
        seen: set[tuple[str, str]] = set()
        while self._queue and len(settlements) < most and len(closings) < most:
            settlement, entry = self._queue[0]
            if settlement is not None:
                # Two steps of one delivery (a row, then its end) are two transactions: one has to see the other.
                key = (settlement.message_id, settlement.subscription_id)
                if key in seen:
                    break
                seen.add(key)
                settlements.append(settlement)
            self._queue.popleft()
            if entry is not None:
                entry.unsettled -= settlement is not None
                if not entry.unsettled:
                    closings.append(Closing(entry.message_id, entry.token, entry.after, cut=entry.cut, job_id=entry.job_id))
        breakers = list(self._turns.values())
        self._turns.clear()
        return settlements, closings, breakers


def _further(send: Send) -> int:
    """How many addresses there are to fall back on: for what clients posted, where there is still something to send."""
    if send.message.kind is not MessageKind.NOTIFICATION or not send.message.body_json:
        return 0
    return addresses.further(send.subscription, send.target)


def _disables(send: Send, outcome: Outcome) -> str | None:
    """Why the subscription is to be disabled."""
    if send.address:
        return None
    return outcome.disable or (outcome.detail or "gone" if outcome.kind is OutcomeKind.GONE else None)


def _going_on(send: Send, outcome: Outcome) -> Outcome:
    """What the log says of the last attempt to an address."""
    target = send.target + 1
    on = f"goes on with fallback address {target} ({addresses.scheme(send.subscription, target)}:)"
    return dataclasses.replace(outcome, detail=f"{outcome.detail}; {on}" if outcome.detail else on)


def _range(send: Send) -> str | None:
    """That whose page it is of."""
    return None if send.entry is None else send.entry.job_id


class _Policies:
    """The retry policies of subscriptions. What their queues say is remembered for a moment."""

    LIFETIME = 5.0
    MOST = 10_000

    def __init__(self, storage: Storage, service: Policy) -> None:
        self._storage = storage
        self._service = service
        self._queues: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}

    def of(self, subscription: Subscription) -> Policy:
        try:
            metadata = self.metadata(subscription.project, subscription.queue)
        except errors.StorageUnavailable:
            # The policy of the service is better than to lose an outcome.
            metadata = {}
        return policy_of(self._service, metadata, subscription.options)

    def metadata(self, project: str, queue: str) -> Mapping[str, Any]:
        """Raises `StorageUnavailable` where it was never known; else what was known serves on."""
        now = time.monotonic()
        known = self._queues.get((project, queue))
        if known is not None and known[0] > now:
            return known[1]
        try:
            found = self._storage.get_queue(project, queue)
        except errors.StorageUnavailable:
            if known is None:
                raise
            return known[1]
        if len(self._queues) >= self.MOST:
            self._queues.clear()
        metadata = {} if found is None else found.metadata
        self._queues[project, queue] = (now + self.LIFETIME, metadata)
        return metadata


class _Patience(retry.Retry):  # type: ignore[misc]
    """Tries again while the storage is out of reach, waiting 0.05 s to 0.5 s in between (TaskFlow's own repeat at once)."""

    tries = 8

    def execute(self, history: Any, *args: Any, **kwargs: Any) -> int:
        return len(history)

    def on_failure(self, history: Any, *args: Any, **kwargs: Any) -> str:
        _, failures = history[-1]
        passing = all(failure.check(errors.StorageUnavailable) for failure in failures.values())
        if not passing or len(history) >= self.tries:
            return str(retry.REVERT)
        time.sleep(min(0.05 * 2.0 ** (len(history) - 1), 0.5))
        return str(retry.RETRY)
