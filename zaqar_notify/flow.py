"""The two TaskFlow flows that every message takes, top to bottom.

**Dispatch** turns leased work into sends: load -> match -> submit. **Settle** stores what became of them. Between the two a
send waits for its lane and travels; it outlives the flow that started it, so that a slow endpoint holds up nothing. Both run
on the worker's main thread.

Each flow is compiled once and used again (about a third cheaper than building one for each batch), over a batch: TaskFlow costs
about half a millisecond a task. There is no TaskFlow persistence: the storage has the truth.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from taskflow import engines, retry, states, task
from taskflow.patterns import linear_flow
from taskflow.utils import persistence_utils

from zaqar_notify import addresses, errors, windows
from zaqar_notify.alerts import Alerts, dead_letter
from zaqar_notify.attempt_log import AttemptLog, attempt_line
from zaqar_notify.lanes import Chosen, Lane, Lanes, OpenEntry, Send, Turn
from zaqar_notify.matching import wanted
from zaqar_notify.metrics import WorkerMetrics
from zaqar_notify.model import (
    Alert,
    Disabled,
    Draft,
    LaneKey,
    LogEntry,
    Message,
    MessageKind,
    Outcome,
    OutcomeKind,
    Receipt,
    State,
    Subscription,
    delivery_id,
)
from zaqar_notify.notifiers.sending import Route
from zaqar_notify.retry import Next, Policy, next_state, policy_of
from zaqar_notify.schemes import ALL, Schemes
from zaqar_notify.storage.base import Breaker, Closing, Entry, Failure, Loaded, Row, Settlement, Storage, Taken, Window
from zaqar_notify.templates import merged
from zaqar_notify.windows import Bounds

BREATH = 50
"""Pairs of message and subscription between two breaths."""
SLICE = 100
"""Subscriptions that are read from the storage between two breaths."""
MOST_LARGE = 10_000
"""Entries with more than a page of subscribers that a worker remembers."""
MOST_TOGETHER = 204_800
"""Bytes of messages' bodies in a digest, unless that is a single one: 40 % of the characters that one in a mail shows, for text
takes more than what it is made of."""
MOST_FAILING = 100_000
"""Subscriptions whose failures a worker remembers."""


Routes = Callable[[Subscription], Route]
"""Raises `NotifyError` when no loaded notifier serves the subscription."""
LinksOf = Callable[[str, int], Mapping[str, str]]
"""The links of a delivery, by its id and its target. Called for each that is sent: quick."""


def no_links(delivery_id: str, target: int) -> Mapping[str, str]:
    return _NO_LINKS


_NO_LINKS: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Leased:
    """What one take returned, and until when (``time.monotonic()``) it is this worker's."""

    taken: Taken
    until: float
    room: int
    """How many deliveries this worker has room for; what goes beyond is given back."""
    page: int | None = None
    """Subscriptions that are matched with one message at a time, where these are fewer than usual."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dispatched:
    sends: Sequence[Send]
    entries: int
    """How many of the outbox entries were matched; the others were given back."""
    pairs: int
    """How many pairs of a message and a subscription were looked at, sent or not."""
    pages: Sequence[OpenEntry] = ()
    """Of ranges: those that are not given back."""
    together: Collection[LaneKey] = ()
    """Lanes in which rows are parked that make digests."""


# -- dispatch ------------------------------------------------------------------------------------------------------------------


class Dispatch:
    """load -> match -> submit. What ends here without a send (expired, suppressed, parked ...) goes to ``settling``."""

    def __init__(
        self,
        storage: Storage,
        routes: Routes,
        lanes: Lanes,
        settling: Settling,
        *,
        page: int,
        cut_after: int,
        breathe: Callable[[], None],
        confirmed_only: bool,
        links: LinksOf = no_links,
        schemes: Schemes = ALL,
        digest: int = 500,
    ) -> None:
        """``page``: subscriptions that are matched with one message at a time; after ``cut_after`` of them, in whole pages,
        what is left of an entry becomes a job. ``breathe`` is called every few milliseconds: it starts sends in the places of
        those that have ended meanwhile. ``digest``: the most messages of one digest."""
        self.storage = storage
        self.routes = routes
        self.lanes = lanes
        self.settling = settling
        self.page = page
        self.cut_after = cut_after
        self._matched: collections.OrderedDict[str, int] = collections.OrderedDict()
        """By message: with how many subscriptions its entry was matched here. One that moves between workers is cut later."""
        self.breathe = breathe
        self.confirmed_only = confirmed_only
        self.links = links
        self.schemes = schemes
        self.digest = digest
        self._flow = _Flow(
            linear_flow.Flow("dispatch").add(
                task.FunctorTask(self.load, name="load", revert=self.give_back, provides="loaded"),
                task.FunctorTask(self.match, name="match", provides="dispatched"),
                task.FunctorTask(self.submit, name="submit"),
            ),
            inputs=("leased",),
        )

    def run(self, leased: Leased) -> Dispatched:
        """Raises `StorageUnavailable`; the work is then given back."""
        dispatched: Dispatched = self._flow.run("dispatched", leased=leased)
        return dispatched

    def load(self, leased: Leased) -> Loaded:
        taken = leased.taken
        messages = {entry.message_id for entry in taken.entries} | {row.message_id for row in taken.rows}
        self.breathe()
        return self.storage.load(messages, {row.subscription_id for row in taken.rows})

    def match(self, leased: Leased, loaded: Loaded) -> Dispatched:
        match = _Match(self, leased)
        for row in _shuffled(leased.taken.rows):
            match.row(row, loaded)
        match.make_digests()
        entries = leased.taken.entries
        matched = 0
        while matched < len(entries) and match.pairs < leased.room:
            match.entry(entries[matched], loaded)
            matched += 1
        if matched < len(entries):
            messages, ranges = _apart(entries[matched:])
            self.storage.give_back(leased.taken.token, messages, (), ranges)
        return Dispatched(match.sends, matched, match.pairs, match.pages, match.together)

    def grows_huge(self, message_id: str, more: int) -> bool:
        """Whether an entry, of which a whole page was matched, is to be cut."""
        matched = self._matched.pop(message_id, 0) + more
        if matched >= self.cut_after:
            return True
        self._matched[message_id] = matched
        if len(self._matched) > MOST_LARGE:
            self._matched.popitem(last=False)
        return False

    def is_done(self, message_id: str) -> None:
        self._matched.pop(message_id, None)

    def submit(self, dispatched: Dispatched) -> None:
        self.breathe()
        now = time.monotonic()
        for send in dispatched.sends:
            if not self.lanes.submit(send, now):
                self.settling.park(send)
        self.breathe()  # now, and not when the flow has ended: that is a millisecond later

    def give_back(self, leased: Leased, **_: Any) -> None:
        """Reverts load: nothing was submitted yet. When the storage is out of reach the leases run out by themselves."""
        taken = leased.taken
        try:
            messages, ranges = _apart(taken.entries)
            rows = [(row.message_id, row.subscription_id) for row in taken.rows]
            self.storage.give_back(taken.token, messages, rows, ranges)
        except errors.StorageUnavailable:
            return


def _apart(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """The messages of entries, and the ranges of pages."""
    ranges = [entry.job_id for entry in entries if entry.job_id is not None]
    return [entry.message_id for entry in entries if entry.job_id is None], ranges


def _shuffled(rows: Sequence[Row]) -> Sequence[Row]:
    """What is released from windows comes last, in random order: nobody is to learn from it what came first."""
    released = [row for row in rows if row.window_id is not None]
    if not released:
        return rows
    random.shuffle(released)
    return [*(row for row in rows if row.window_id is None), *released]


_SEALED = Outcome(OutcomeKind.OURS, detail="It was encrypted with a key that is not there any more")
"""The body of the message, or the secret of the subscription."""
_NO_ADDRESS = Outcome(OutcomeKind.REJECTED, detail="The subscription does not have this address any more")


def _reported(report: Receipt) -> Outcome:
    """That the target does not exist is evidence, and no proof: reports come late, and from others than those that know."""
    return Outcome(OutcomeKind.REJECTED, detail=report.detail or "reported as not delivered", target=report.gone)


@dataclasses.dataclass(frozen=True, slots=True)
class _Way:
    """How what goes to one address of a subscription is handled."""

    route: Route
    lane: Lane
    window: Bounds | None = None
    off: str | None = None
    """Why nothing is sent there."""
    elsewhere: bool = False
    """Other workers send it."""
    straight: bool = True
    """There is nothing of all that, and neither templates nor digests: it is sent."""


class _Match:
    """Pairs the messages of one batch with their subscriptions."""

    def __init__(self, dispatch: Dispatch, leased: Leased) -> None:
        self._dispatch = dispatch
        self._settling = dispatch.settling
        self._leased = leased
        self._pages: dict[tuple[str, str, str | None], list[Subscription]] = {}
        self._ways: dict[str, _Way | Outcome] = {}
        self._keys: dict[str, str] = {}
        """What later messages have in common with one that they supersede, by the message's id."""
        self._digests: collections.defaultdict[tuple[Any, ...], list[Send]] = collections.defaultdict(list)
        self._wall = dispatch.storage.now()
        self._now = time.monotonic()
        self._most = min(dispatch.page, leased.page or dispatch.page)
        self.pairs = 0
        self.sends: list[Send] = []
        self.pages: list[OpenEntry] = []
        self.together: set[LaneKey] = set()

    def entry(self, entry: Entry, loaded: Loaded) -> None:
        opened = OpenEntry(entry.message_id, self._leased.taken.token, job_id=entry.job_id)
        if entry.job_id is not None:
            self.pages.append(opened)
        message = loaded.messages.get(entry.message_id)
        if message is not None:
            page = self._page(message, entry, opened)
            # An entry that was leased before may have been settled in part.
            known: Collection[str] = ()
            if page and (entry.takes > 1 or entry.job_id is not None):
                known = self._dispatch.storage.known(entry.message_id, entry.after, page[-1].id)
            for subscription in page:
                if subscription.id not in known:
                    self._pair(message, subscription, opened)
        if not opened.unsettled:
            self._settling.close(opened)

    def _page(self, message: Message, entry: Entry, opened: OpenEntry) -> Sequence[Subscription]:
        """The next subscriptions; ``opened`` learns what is behind them."""
        page = self._subscriptions(message, entry.after)
        if entry.last is not None:
            page = [one for one in page if one.id <= entry.last]
        if len(page) == self._most and page[-1].id != entry.last:
            opened.after = page[-1].id
            opened.cut = entry.job_id is None and self._dispatch.grows_huge(message.id, len(page))
        elif entry.after is not None:
            self._dispatch.is_done(message.id)
        return page

    def _subscriptions(self, message: Message, after: str | None) -> list[Subscription]:
        key = (message.project, message.queue, after)
        if key not in self._pages:
            page: list[Subscription] = []
            self._pages[key] = page
            at_once = SLICE if self._leased.page else self._most
            while (most := min(self._most - len(page), at_once)) > 0:
                behind = page[-1].id if page else after
                found = self._dispatch.storage.list_subscriptions(message.project, message.queue, behind, most)
                page += found
                if len(found) < most:
                    break
                self._dispatch.breathe()
        return self._pages[key]

    def row(self, row: Row, loaded: Loaded) -> None:
        message = loaded.messages.get(row.message_id)
        subscription = loaded.subscriptions.get(row.subscription_id)
        if message is None or subscription is None:
            self._orphan(row)
        elif row.report is not None:
            self._report(message, subscription, row, row.report)
        elif row.target or message.kind is MessageKind.CALLBACK:
            self._aside(message, subscription, row)
        else:
            self._pair(message, subscription, None, row)

    def _orphan(self, row: Row) -> None:
        line = LogEntry(row.lines + 1, self._wall, State.CANCELLED)
        if row.report is not None:
            outcome = _reported(row.report)
            line = dataclasses.replace(line, state=State.DEAD, outcome=outcome.kind, detail=outcome.detail, target=row.target)
        self._settling.add(Settlement(row.message_id, row.subscription_id, self._leased.taken.token, True, line), None)

    def _report(self, message: Message, subscription: Subscription, row: Row, report: Receipt) -> None:
        """It was delivered, and was not after all: that counts like the answer to an attempt."""
        addressed = addresses.at(subscription, row.target) or subscription
        row = dataclasses.replace(row, expires_at=message.expires_at)
        send = self._make(message, addressed, None, row, addresses.suffix(row.target))
        self._settling.settle(send, _reported(report), self._wall, None)

    def _aside(self, message: Message, subscription: Subscription, row: Row) -> None:
        """It goes to another address than the subscriber."""
        if message.kind is MessageKind.CALLBACK:
            addressed, suffix = addresses.callback(subscription), addresses.CALLBACK
        else:
            addressed, suffix = addresses.at(subscription, row.target), addresses.suffix(row.target)
        if addressed is None:
            send = self._make(message, subscription, None, row, suffix)
            self._settling.settle(send, _NO_ADDRESS, self._wall, None)
        else:
            self._pair(message, addressed, None, row, suffix)

    def _pair(
        self, message: Message, subscription: Subscription, entry: OpenEntry | None, row: Row | None = None, address: str = ""
    ) -> None:
        """``subscription`` has this address as its subscriber."""
        self.pairs += 1
        if self.pairs % BREATH == 0:
            self._dispatch.breathe()
        if entry is not None:
            entry.unsettled += 1
        send = self._make(message, subscription, entry, row, address)
        end = wanted(
            message,
            subscription,
            self._wall,
            confirmed_only=self._dispatch.confirmed_only,
            expires_at=send.expires_at,
            target=send.target,
        )
        if end is not None:
            self._settling.end(send, end, self._wall)
        elif isinstance(way := self._way(subscription, address) if not message.sealed else _SEALED, Outcome):
            self._settling.settle(send, way, self._wall, None)
        else:
            route = way.route
            send.sender, send.timeout, send.lane = route.sender, route.timeout, way.lane
            if way.straight:
                self.sends.append(send)
            elif not self._waits(send, way):
                self._send(send, route)

    def _make(
        self, message: Message, subscription: Subscription, entry: OpenEntry | None, row: Row | None, address: str
    ) -> Send:
        target = 0
        if row is not None:
            target = row.target
            if row.expires_at != message.expires_at:
                # A redelivery has an expiry of its own, and providers are told how long it is worth delivering.
                message = dataclasses.replace(message, expires_at=row.expires_at)
        its_id = delivery_id(message.id, subscription.id)
        return Send(
            id=its_id,
            attempt=row.attempts + 1 if row else 1,
            deadline=0.0,
            message=message,
            subscription=subscription,
            links=self._dispatch.links(its_id, target),
            target=target,
            token=self._leased.taken.token,
            lease_until=self._leased.until,
            entry=entry,
            attempts=row.attempts if row else 0,
            lines=row.lines if row else 0,
            lines_before=row.lines_before if row else 0,
            from_parking=row is not None and row.lane is not None,
            expires_at=message.expires_at,
            yields=entry is not None and entry.job_id is not None,
            address=address,
            window_id=row.window_id if row else None,
        )

    def _waits(self, send: Send, way: _Way) -> bool:
        """Whether it is not sent now, but ends or waits."""
        if way.off is not None and self._dispatch.schemes.drops:
            self._settling.end(send, State.SUPPRESSED, self._wall, way.off)
        elif way.off is not None and not way.elsewhere:
            self._shut(send)
        elif way.window is not None and _is_first(send):
            self._settling.hold_back(send, self._window(send.message, way.window, way.route))
        elif way.elsewhere:
            self._hand_over(send)
        else:
            return False
        return True

    def _send(self, send: Send, route: Route) -> None:
        if route.templated:
            send.templates = self._templates(send.message, send.subscription)
        if route.digests and send.window_id is not None:
            self._digests[send.window_id, send.whose, send.attempts].append(send)
        else:
            self.sends.append(send)

    def _shut(self, send: Send) -> None:
        """It waits in its lane, which is shut for all workers: until that time nothing of it is looked at."""
        lane = send.lane
        if not lane.trips or lane.held_until > self._now:
            turn = self._dispatch.lanes.pause(lane, self._dispatch.schemes.recheck)
            self._settling.turn(turn, self._wall)
        self._settling.park(send)

    def _hand_over(self, send: Send) -> None:
        if send.from_parking:
            # Its lane was another pool's, and changes over with it.
            self._dispatch.lanes.emptied([send.lane.key])
        self._settling.hand_over(send)

    def _window(self, message: Message, bounds: Bounds, route: Route) -> Window:
        key = self._keys.get(message.id)
        if key is None:
            key = self._keys[message.id] = windows.key(message)
        spread = 0.0 if route.digests else windows.SPREAD
        return Window(bounds.scope, bounds.draw(), key, spread, bounds.most + windows.CLOCKS_DIFFER)

    def make_digests(self) -> None:
        """What was released together, for one address, is sent at once, the oldest message first."""
        for sends in self._digests.values():
            sends.sort(key=lambda send: send.id)
            for digest in _cut(sends, self._dispatch.digest):
                digest[0].others = digest[1:]
                self._gather(digest[0])
        self._digests.clear()

    def _gather(self, send: Send) -> None:
        """What is parked is taken a few at a time, and would come as many digests: once more then, with all that is there."""
        lane = send.lane
        parked = send.from_parking or any(other.from_parking for other in send.others)
        if parked:
            self.together.add(lane.key)
        if parked and not lane.together:
            self._settling.park(send)
        else:
            self.sends.append(send)

    def _templates(self, message: Message, subscription: Subscription) -> Mapping[str, Any]:
        """Raises `StorageUnavailable`: what the queue has is not known, and without it something else would be sent."""
        metadata = self._settling.policies.metadata(message.project, message.queue)
        return merged(subscription.options.get("templates"), metadata.get("_templates"))

    def _way(self, subscription: Subscription, address: str) -> _Way | Outcome:
        whose = subscription.id + address
        found = self._ways.get(whose)
        if found is None:
            found = self._ways[whose] = self._look_up(subscription, whose)
        return found

    def _look_up(self, subscription: Subscription, whose: str) -> _Way | Outcome:
        if subscription.sealed:
            return _SEALED
        try:
            route = self._dispatch.routes(subscription)
        except errors.NotifyError as error:
            return Outcome(OutcomeKind.OURS, detail=str(error))
        schemes, lanes, chosen = self._dispatch.schemes, self._dispatch.lanes, _chosen(subscription)
        shared = LaneKey(subscription.project, route.lane, schemes.pool(subscription.subscriber))
        own = shared.own(whose)
        # What has limits of its own has a lane of its own, and what has asked to be left in peace until it is over.
        key = shared if chosen is None and not lanes.is_shut(own) else own
        elsewhere = key.pool not in schemes.pools
        lane = Lane(key, 1, self._now) if elsewhere else lanes.lane(key, self._now, chosen, route.most)
        window, off = windows.bounds(subscription, route.window), schemes.off(subscription.subscriber)
        straight = window is None and off is None and not (elsewhere or route.templated or route.digests)
        return _Way(route, lane, window, off, elsewhere, straight)


def _cut(sends: Iterable[Send], most: int) -> Iterator[list[Send]]:
    """What counts as delivered is to be in a digest that was sent: one that is too long shows but a part of it."""
    digest: list[Send] = []
    size = 0
    for send in sends:
        size += len(send.message.body_json)
        if digest and (len(digest) == most or size > MOST_TOGETHER):
            yield digest
            digest, size = [], len(send.message.body_json)
        digest.append(send)
    yield digest


def _is_first(send: Send) -> bool:
    """Nothing was tried yet, and it was in no window: one that failed, or was asked for again, has waited enough."""
    tried = send.attempts or send.lines_before or send.window_id is not None or send.address
    return not tried and send.message.kind is MessageKind.NOTIFICATION


def _chosen(subscription: Subscription) -> Chosen | None:
    """The limits that a subscription asks for. An older version took these options without looking."""
    in_flight, rate = subscription.options.get("max_in_flight"), subscription.options.get("rate")
    in_flight = in_flight if type(in_flight) is int and in_flight > 0 else None
    rate = float(rate) if isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0 else None
    return Chosen(in_flight, rate) if in_flight or rate else None


# -- settle --------------------------------------------------------------------------------------------------------------------


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
        self._flow = _Flow(
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


# -- both ----------------------------------------------------------------------------------------------------------------------


class _Flow:
    """A flow that was compiled once."""

    def __init__(self, flow: linear_flow.Flow, inputs: Sequence[str], retry_name: str | None = None) -> None:
        detail = persistence_utils.create_flow_detail(flow)
        self._engine = engines.load(flow, flow_detail=detail, backend=_Nowhere(), engine="serial")
        self._engine.compile()
        # Transient: what is injected for good comes before it.
        self._engine.storage.inject(dict.fromkeys(inputs), transient=True)
        self._engine.prepare()
        self._retry_name = retry_name

    def run(self, result: str, **inputs: Any) -> Any:
        self._engine.reset()
        if self._retry_name:
            # reset() leaves the history of a retry controller as it is, and it would grow for ever.
            self._engine.storage.cleanup_retry_history(self._retry_name, states.PENDING)
        self._engine.storage.inject(inputs, transient=True)
        self._engine.run()
        return self._engine.storage.fetch(result)


class _Nowhere:
    """A persistence backend that keeps nothing. TaskFlow's own, in memory, costs more than half of the time of a flow."""

    def get_connection(self) -> _Nowhere:
        return self

    def update_atom_details(self, detail: Any) -> Any:
        return detail

    def update_flow_details(self, detail: Any) -> Any:
        return detail

    def close(self) -> None:
        """There is nothing to close."""
