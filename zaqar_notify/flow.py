"""The first of the two TaskFlow flows that every message takes.

**Dispatch** turns leased work into sends: load -> match -> submit. **Settle** (`zaqar_notify.settling`) stores what became of
them. Between the two a send waits for its lane and travels; it outlives the flow that started it, so that a slow endpoint holds
up nothing. Both run on the worker's main thread.

Each flow is compiled once and used again (about a third cheaper than building one for each batch), over a batch: TaskFlow costs
about half a millisecond a task. There is no TaskFlow persistence: the storage has the truth.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from taskflow import task
from taskflow.patterns import linear_flow

from zaqar_notify import addresses, errors, windows
from zaqar_notify.compiled import CompiledFlow
from zaqar_notify.lanes import Chosen, Lane, Lanes, OpenEntry, Send
from zaqar_notify.matching import wanted
from zaqar_notify.model import (
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
from zaqar_notify.schemes import ALL, OURS, Schemes
from zaqar_notify.settling import Settling
from zaqar_notify.storage.base import Entry, Loaded, Row, Settlement, Storage, Taken, Window
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
        self._flow = CompiledFlow(
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


@dataclasses.dataclass(slots=True)
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
        shared = LaneKey(subscription.project, route.lane, schemes.pool(subscription.subscriber) if schemes.apart else OURS)
        own = shared.own(whose)
        # What has limits of its own has a lane of its own, and what has asked to be left in peace until it is over.
        key = shared if chosen is None and not lanes.is_shut(own) else own
        if key.pool not in schemes.pools:
            way = _Way(route, Lane(key, 1, self._now), elsewhere=True, straight=False)
        else:
            way = _Way(route, lanes.lane(key, self._now, chosen, route.most), straight=not (route.templated or route.digests))
        if not schemes.all_on and (off := schemes.off(subscription.subscriber)) is not None:
            way.off, way.straight = off, False
        if route.window is not None or "window" in subscription.options:
            way.window = windows.bounds(subscription, route.window)
            way.straight = way.straight and way.window is None
        return way


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
