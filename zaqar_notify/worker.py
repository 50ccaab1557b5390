"""The worker's loop: wait, take, dispatch, start sends, collect outcomes, settle, stop gracefully.

One thread does all of it, with one database connection and no locks; notifiers send on threads of their own and report into a
queue. Nothing here sleeps for a retry or waits for an endpoint.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import math
import os
import select
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from zaqar_notify import errors
from zaqar_notify.flow import Dispatch, Leased, LinksOf, Routes, no_links
from zaqar_notify.lanes import Lanes, Limits, Send, Sender, Turn
from zaqar_notify.model import Delivery, LaneKey, Outcome, OutcomeKind, Scope, State
from zaqar_notify.notifiers.sending import sound
from zaqar_notify.ranges import Ranges, Share, Window
from zaqar_notify.retry import Policy
from zaqar_notify.schemes import ALL, OURS, Schemes
from zaqar_notify.settling import Settling, Telling
from zaqar_notify.storage.base import Closing, Entry, Storage, Taken
from zaqar_notify.wake import Listener

TICK = 0.05
"""Seconds between two looks at what is waiting or under way, when nothing else happens."""
LEARNING_SHARE = 0.05
"""Of the loop's time that reading the breakers may take, however many are open."""
NEWCOMERS = 32
"""Entries that are taken at once, beyond what there is room for, for projects of which nothing waits."""
OTHERS_FOR = 5.0
"""Seconds since another message came in for which a huge fan-out leaves time to others."""
TURN = 0.005
"""Seconds, while it does so, between two looks at what has ended."""
STEP = 32
"""Outcomes, and sends of huge fan-outs, between two looks at what else has come in."""
RANGES_BATCH = 100
"""Outcomes that are settled at once during a huge fan-out."""
PAGE_TIME = 0.2
SMALLEST_PAGE = 100
"""A page of a range has about as many subscriptions as lately were sent to in so many seconds, and at least so many."""
BUSY = 64
GATHER = 0.003
"""With so many sends in flight, the loop waits so many seconds after an outcome for others to come: to be woken by each takes
the interpreter's lock from the threads that send too often."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """``[worker]``; durations are seconds."""

    lease: float = 30.0
    poll_interval: float = 1.0
    stop_timeout: float = 30.0
    max_active: int = 4000
    micro_batch: int = 500
    settle_delay: float = 0.05
    dispatch_interval: float = 0.01
    hang_grace: float = 5.0
    prune_interval: float = 5.0
    prune_step: int = 500
    ahead: float = 0.3
    page: int = 1000
    """Subscriptions that are matched with one message at a time."""
    cut_after: int = 10_000
    """Subscriptions, in whole pages, after which what is left of an entry becomes a job."""
    window_batch: int = 500
    """Of what is released from windows, at most so much is handed to a notifier at once, and is put into one digest."""
    range_share: float = 0.5
    """Of the worker's time that huge fan-outs have at most while other messages come in."""


class LongWork(Protocol):
    """What runs the long jobs, on threads of its own."""

    def start(self, worker: Any) -> None:
        """The worker has joined."""

    def wake(self) -> None:
        """There are new jobs. Quick."""

    def stop(self) -> None:
        """It is about to stop: all jobs are let go."""


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What the storage tells others of this worker."""

    host: str = ""
    pid: int = 0
    version: str = ""


class Worker:
    def __init__(
        self,
        storage: Storage,
        routes: Routes,
        listener: Listener,
        *,
        settings: Settings,
        limits: Limits,
        policy: Policy,
        telling: Telling | None = None,
        confirmed_only: bool = False,
        links: LinksOf = no_links,
        schemes: Schemes = ALL,
        jobs: LongWork | None = None,
        identity: Identity | None = None,
        tell_others: Callable[[], None] = lambda: None,
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        """``confirmed_only`` is ``[notification] require_confirmation``. ``tell_others`` is called when there is something for
        workers that serve other schemes: quick. ``closing`` is called at the very end of `run`, when everything is settled."""
        self._log = logging.getLogger(__name__)
        self._storage = storage
        self._listener = listener
        self._jobs = jobs
        self._identity = identity or Identity()
        self._ranges = Ranges()
        self._window = Window(limits.max_in_flight)
        self._share = Share(settings.range_share)
        self._unwatch: Callable[[], None] = lambda: None
        self._closing = closing
        self._settings = settings
        self._schemes = schemes
        self._lanes = Lanes(limits)
        self._telling = telling or Telling()
        self._settling = Settling(
            storage,
            policy,
            self._telling,
            micro_batch=settings.micro_batch,
            log=self._log,
            closed=self._closed,
            tell_others=tell_others,
        )
        dispatch = functools.partial(
            Dispatch,
            storage,
            routes,
            self._lanes,
            self._settling,
            page=settings.page,
            cut_after=settings.cut_after,
            confirmed_only=confirmed_only,
            links=links,
            schemes=schemes,
            digest=settings.window_batch,
        )
        self._dispatch = dispatch(breathe=self._refill)
        self._page_dispatch = dispatch(breathe=self._attend)
        self._reported: collections.deque[tuple[Delivery, Outcome, float]] = collections.deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asleep = False
        self._stopping = False
        self._id = 0
        self._fan_out = 1.0
        self._pace = 0.0  # deliveries that ended, per second
        self._finished = 0
        self._paced_at = time.monotonic()
        self._more = True  # there may be due work that was not taken yet
        self._told = False  # somebody has said so since the last look
        self._dispatched_at = self._polled_at = self._recovered_at = self._pruned_at = self._troubled_until = 0.0
        self._learn_at = self._beat_at = self._forget_at = 0.0
        self._woken = self._resting = False
        self._held_back = False  # sends of huge fan-outs, although more might be under way: after what else there is
        self._others_at = 0.0
        self._policy = policy
        # Since when a subscription is disabled, and until when an address is to be left in peace (``time.monotonic()``).
        self._disabled: dict[str, float] = {}
        self._paused: dict[str, float] = {}
        self._poller = select.epoll()
        self._poller.register(listener.fileno(), select.EPOLLIN)
        self._poller.register(self._bell, select.EPOLLIN)

    # -- life ---------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register with the storage, and warm up: the first flow of a process takes about 0.1 s."""
        self._join(time.monotonic())
        self._storage.merge_pools(self._schemes.apart)
        self._learn_of_breakers(time.monotonic())
        nothing = Taken(0, (), ())
        self._dispatch.run(Leased(nothing, 0.0, 0))
        self._settling.run()
        if self._jobs is not None:
            self._jobs.start(self)
        self._unwatch = self._storage.watch(self.wake)
        self._log.info("worker %d is ready", self._id)
        if (off := self._schemes.all_off()) is not None:
            self._log.warning("%s", off)

    @property
    def id(self) -> int:
        """By which the storage knows it now; 0 before it has joined."""
        return self._id

    def run(self) -> None:
        """Returns when `stop` was called and what was under way has ended, or ``stop_timeout`` has passed."""
        while not self._stopping:
            self._step()
        self._drain()

    def stop(self) -> None:
        """Safe to call from a signal handler and from other threads."""
        self._stopping = True
        os.eventfd_write(self._bell, 1)

    def wake(self) -> None:
        """There may be new work. Safe to call from any thread, and quick."""
        self._woken = True
        if self._asleep or self._resting:
            os.eventfd_write(self._bell, 1)

    def hold_range(self, job_id: str, ended: Callable[[], None]) -> None:
        """Deliver this range, whose job is held under `id`, until it is let go. ``ended`` is called, from the worker's thread,
        when the storage has said that it is done, or not this worker's any more. Safe to call from any thread."""
        self._ranges.hold(job_id, ended)
        self.wake()

    def let_range_go(self, job_id: str) -> bool:
        """Take no more pages of it; False while one is under way still. Safe to call from any thread."""
        return self._ranges.let_go(job_id)

    def _drain(self) -> None:
        self._unwatch()
        if self._jobs is not None:
            self._jobs.stop()
        wall, give_up_at = self._storage.now(), time.monotonic() + self._settings.stop_timeout
        for send in self._lanes.withdraw():
            self._settling.later(send, wall)
        self._log.info("stopping: %d sends are under way", self._lanes.in_flight)
        while (self._lanes.in_flight or self._settling.outstanding) and time.monotonic() < give_up_at:
            self._collect()
            self._watch()
            self._settle(hurry=True)
            self._beat()
            self._wait(TICK)
        self._telling.metrics.flush(math.inf, self._lanes.in_flight)
        if self._lanes.in_flight:
            self._log.warning("%d sends did not end in time; their deliveries will be sent again", self._lanes.in_flight)
        try:
            self._storage.leave(self._id)
        except errors.StorageUnavailable as error:
            self._log.warning("leases could not be given back and run out by themselves: %s", error)
        self._listener.close()
        self._poller.close()
        self._closing()

    # -- the loop -----------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        self._beat()
        self._attend()
        self._watch()
        self._settle()
        self._take()
        self._start_sends()
        self._keep_house()
        self._telling.metrics.flush(time.monotonic(), self._lanes.in_flight)
        self._wait(self._pause())

    def _join(self, now: float) -> None:
        self._id = self._storage.join(**dataclasses.asdict(self._identity))
        self._beat_at = now + self._settings.lease / 3

    def _beat(self) -> None:
        """Tell the others that this worker lives, several times in the length of a lease."""
        now = time.monotonic()
        if now < max(self._beat_at, self._troubled_until):
            return
        try:
            if self._storage.beat(self._id):
                self._beat_at = now + self._settings.lease / 3
                return
            self._log.warning("worker %d was taken for dead: what it had is given back, and it joins anew", self._id)
            self._lanes.lose()
            self._join(now)
        except errors.StorageUnavailable as error:
            self._trouble("saying that it lives", error)

    def _collect(self) -> None:
        """Outcomes that notifiers have reported since the last step."""
        wall = self._storage.now()
        for _ in range(min(len(self._reported), STEP) if self._ranges.busy else len(self._reported)):
            delivery, outcome, at = self._reported.popleft()
            if not isinstance(delivery, Send) or delivery.identity != id(delivery):
                self._log.error("a notifier reported something that is not one of its deliveries: %.100r", delivery)
            elif delivery.ended:  # it was given up before
                self._lanes.unblock(delivery.sender)
            else:
                self._finish(delivery, sound(outcome), at, wall)

    def _refill(self) -> None:
        """Start sends in the places of those that have ended, in the middle of other work: an endpoint that answers at once
        would wait for us otherwise."""
        self._collect()
        self._start_sends()

    def _attend(self) -> None:
        """`_refill`; and what has come in meanwhile is sent at once, in the middle of a huge fan-out."""
        self._refill()
        if self._ranges.busy:
            self._hear()
            self._serve_others()
            self._rest()

    def _serve_others(self) -> None:
        now = time.monotonic()
        if self._told and now >= self._troubled_until:
            self._told = False
            self._others_at = now
            self._take_others(now)
            self._start_sends()
            # What sends has to have the interpreter's lock for that.
            time.sleep(GATHER / 10)
            self._share.other(time.monotonic() - now)

    def _rest(self) -> None:
        """A huge fan-out has but a share of the time while other messages come in, in slices: most of these then find a worker,
        and a machine, that have nothing else to do."""
        now = time.monotonic()
        full = self._settling.outstanding >= self._settings.micro_batch
        owed = 0.0 if full or now > self._others_at + OTHERS_FOR else self._share.owed(now)
        if not owed:
            return
        self._resting = True
        while (left := now + owed - time.monotonic()) > 0 and not self._stopping:
            self._listen(min(left, TURN))
            self._serve_others()
            self._collect()
            self._start_sends(yielding=0)
        self._resting = False
        self._share.rested(time.monotonic())

    def _listen(self, wait: float) -> None:
        for descriptor, _ in self._poller.poll(wait):
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
        self._hear()

    def _finish(self, send: Send, outcome: Outcome, at: float, wall: float) -> None:
        duration = at - send.started_at
        self._finished += 1
        if send.yields and not send.overdue:
            self._window.ended(duration)
        turn = self._lanes.finish(send, outcome, duration, at)
        self._settling.settle(send, outcome, wall, duration)
        if turn is not None:
            self._turn(turn, wall)
        if (outcome.disable or outcome.kind is OutcomeKind.GONE) and not send.address:
            self._disabled[send.subscription.id] = at
        if outcome.kind is OutcomeKind.THROTTLED and outcome.after:
            wait = min(outcome.after, self._policy.after_max)
            lane = send.lane
            if outcome.scope is Scope.SUBSCRIPTION and lane.chosen is None and not lane.key.is_own(send.whose):
                # What waits here already; the rest, and the other workers, find its own lane shut.
                self._paused[send.whose] = at + wait
                lane = self._lanes.lane(lane.key.own(send.whose), at)
            self._turn(self._lanes.pause(lane, wait), wall)
        if outcome.kind is OutcomeKind.AUTH:
            refused = self._lanes.refused(send.lane, self._policy.fault_delay, self._policy.fault_delay_max, at)
            if refused is not None:
                self._turn(refused, wall)

    def _turn(self, turn: Turn, wall: float) -> None:
        self._settling.turn(turn, wall)
        lane = f"lane {turn.key.name} of project {turn.key.project}"
        if turn.trips:
            self._log.info("%s is shut for %.1f s (%d in a row)", lane, turn.wait, turn.trips)
            for send in self._lanes.evict(turn.key):
                self._settling.park(send)
        else:
            self._log.info("%s is open again", lane)

    def _learn_of_breakers(self, now: float) -> None:
        """What other workers have found out, and this one before it was started again."""
        began = time.monotonic()
        known = {breaker.lane: breaker.trips for breaker in self._storage.breakers()} | self._settling.unsaved()
        self._lanes.shut({lane: trips for lane, trips in known.items() if trips}, now)
        ended = time.monotonic()
        self._learn_at = ended + (ended - began) / LEARNING_SHARE

    def _watch(self) -> None:
        """What takes too long leaves its outbox entry for a row: parked, or in flight under a lease of its own."""
        now = time.monotonic()
        for send in self._lanes.waited_too_long(now):
            self._settling.park(send)
        for send in self._lanes.under_way_too_long(now):
            if send.entry is not None:
                self._settling.hold(send, self._storage.now() + self._settings.lease)
        for send in self._lanes.hung(now, self._settings.hang_grace):
            send.sender.give_up(send)
            late = Outcome(OutcomeKind.RETRY, detail="The notifier did not answer in time")
            self._finish(send, late, now, self._storage.now())

    def _settle(self, hurry: bool = False) -> None:
        now = time.monotonic()
        while self._settling.since is not None and now >= self._troubled_until:
            most = self._settings.micro_batch
            if self._ranges.busy and self._settling.outstanding < most:
                most = min(RANGES_BATCH, most)
            full = self._settling.outstanding >= most
            if not (full or hurry or now - self._settling.since >= self._settings.settle_delay):
                return
            try:
                if self._settling.run(most):
                    self._more = True
                self._attend()
            except errors.StorageUnavailable as error:
                self._trouble("settling", error)

    def _trouble(self, doing: str, error: errors.StorageUnavailable) -> None:
        """Outcomes are kept, and nothing new is taken, until the storage answers again."""
        self._log.warning("%s has to wait: %s", doing, error)
        self._troubled_until = time.monotonic() + 0.5

    def _take(self) -> None:
        now = time.monotonic()
        if now < max(self._dispatched_at + self._settings.dispatch_interval, self._troubled_until):
            return
        self._measure_pace(now)
        self._take_others(now)
        self._take_pages(time.monotonic())

    def _take_others(self, now: float) -> None:
        """What is not of a range."""
        room = self._room()
        if room:
            self._take_what_is_due(room, now)
        else:
            self._take_from_newcomers(now)

    def _take_what_is_due(self, room: int, now: float) -> None:
        parked = self._lanes.room(now, room)
        if not (self._more or parked or now >= self._polled_at + self._settings.poll_interval):
            return
        try:
            if now >= self._recovered_at + self._settings.poll_interval:
                self._recovered_at = now
                self._storage.recover()
                if now >= self._learn_at:
                    self._learn_of_breakers(now)
            for pool in self._schemes.pools:
                self._take_and_dispatch(pool, room, parked, now)
        except errors.StorageUnavailable as error:
            self._trouble("taking", error)

    def _take_from_newcomers(self, now: float) -> None:
        """Under load, what has come in meanwhile for a project of which nothing waits here does not stand behind what does."""
        self._hear()
        held = self._lanes.in_flight + self._lanes.waiting + self._settling.outstanding
        if not self._told or OURS not in self._schemes.pools or held >= self._settings.max_active:
            return
        self._told = False
        waiting = self._lanes.projects_waiting()
        try:
            taken = self._storage.take(self._id, self._settings.lease, entries=NEWCOMERS, rows=0, without=waiting)
            if taken.entries:
                self._dispatch.run(Leased(taken, now + self._settings.lease, self._settings.micro_batch))
                self._dispatched_at = time.monotonic()
        except errors.StorageUnavailable as error:
            self._trouble("taking", error)

    def _take_and_dispatch(self, pool: str, room: int, parked: Mapping[LaneKey, int], now: float) -> None:
        # What is due is handed over, by those that take it, to whom serves its scheme: in parked rows.
        entries, rows = (max(1, int(room / max(1.0, self._fan_out))), room) if pool == OURS else (0, 0)
        if len(self._schemes.pools) > 1:
            parked = {lane: most for lane, most in parked.items() if lane.pool == pool}
        taken = self._storage.take(
            self._id,
            self._settings.lease,
            entries=entries,
            rows=rows,
            lanes=self._lanes.holdable(),
            parked=parked,
            pool=pool,
        )
        others = pool != self._schemes.pools[0] and self._more
        self._more = others or 0 < entries == len(taken.entries) or len(taken.rows) >= room or bool(taken.lanes)
        self._polled_at = now
        self._lanes.emptied(taken.emptied)
        self._lanes.hold(taken.lanes, now + self._settings.lease, now, taken.probes)
        if parked:
            found = {row.lane for row in taken.rows}
            self._lanes.renew(parked.keys() - set(taken.emptied), now + self._settings.lease)
            self._lanes.bare(
                [lane for lane in parked if parked[lane] and lane not in found], now + self._settings.poll_interval
            )
        if taken.entries or taken.rows:
            dispatched = self._dispatch.run(Leased(taken, now + self._settings.lease, room))
            self._dispatched_at = time.monotonic()
            self._more = self._more or dispatched.entries < len(taken.entries)
            parked_lanes = {row.lane for row in taken.rows if row.lane is not None}
            if parked_lanes:
                self._lanes.pulled(parked_lanes, {send.lane.key for send in dispatched.sends}, dispatched.together)
            if dispatched.entries:
                fan_out = (dispatched.pairs - len(taken.rows)) / dispatched.entries
                self._fan_out += 0.5 * (fan_out - self._fan_out)

    def _take_pages(self, now: float) -> None:
        """The next pages of ranges, into the room that other work leaves; one at a time while there is more of that."""
        room = self._room_for_pages()
        page = min(max(int(self._pace * PAGE_TIME), SMALLEST_PAGE), self._settings.page)
        asked = self._ranges.idle(1 if self._more else room // page + 1, now) if room else []
        if not asked or now < self._troubled_until:
            return
        try:
            taken = self._storage.take(self._id, self._settings.lease, entries=0, rows=0, ranges=asked)
            self._ranges.end(taken.ended)
            pages = {entry.job_id: entry for entry in taken.entries if entry.job_id is not None}
            self._ranges.put_off(set(asked) - pages.keys(), now + self._settings.poll_interval)
            self._dispatch_pages(taken, pages, Leased(taken, now + self._settings.lease, room, page))
        except errors.StorageUnavailable as error:
            self._trouble("taking", error)

    def _dispatch_pages(self, taken: Taken, pages: Mapping[str, Entry], leased: Leased) -> None:
        if not pages:
            return
        self._ranges.begin(pages.keys())
        given_back: Collection[str] = pages.keys()
        try:
            dispatched = self._page_dispatch.run(leased)
            self._ranges.matched(dispatched.pages)
            given_back = pages.keys() - {page.job_id for page in dispatched.pages}
        finally:
            for job_id in given_back:
                self._ranges.over(job_id)

    def _closed(self, closing: Closing) -> None:
        if closing.job_id is not None:
            self._ranges.over(closing.job_id)
        elif not closing.cut:
            self._more = True  # the entry's next page is due at once
        elif self._jobs is not None:
            self._jobs.wake()

    def _start_sends(self, yielding: int = STEP) -> None:
        """Of huge fan-outs, at most ``yielding``."""
        now, wall = time.monotonic(), self._storage.now()
        # What is in flight and what is not settled yet is what a kill can make us send twice: both are bounded.
        places = self._lanes.limits.max_in_flight + self._settings.micro_batch
        places -= self._lanes.in_flight + self._settling.outstanding
        starting: dict[Sender, list[Send]] = {}
        yielded = 0
        for send in self._lanes.start(places, now, min(yielding, self._window.size - self._lanes.yielding)):
            yielded += send.yields
            if self._may_start(send, now, wall):
                send.deadline = now + send.timeout
                starting.setdefault(send.sender, []).append(send)
        self._held_back = yielded >= STEP
        for sender, deliveries in starting.items():
            if len(deliveries) <= self._settings.window_batch:
                sender.send_many(deliveries, self._report)
            else:
                self._hand_out(sender, deliveries)

    def _hand_out(self, sender: Sender, deliveries: Sequence[Send]) -> None:
        """What is released from windows a part at a time, however much of it there is."""
        released = [send for send in deliveries if send.window_id is not None]
        most = self._settings.window_batch
        for first in range(0, len(released), most):
            sender.send_many(released[first : first + most], self._report)
        if len(released) < len(deliveries):
            sender.send_many([send for send in deliveries if send.window_id is None], self._report)

    def _may_start(self, send: Send, now: float, wall: float) -> bool:
        """The checks that stand before every attempt."""
        if send.others and not self._is_whole(send, wall):
            return False
        if send.expires_at <= wall or not send.subscription.live(wall):
            state = State.EXPIRED
        elif self._disabled and self._disabled.get(send.whose, 0.0) > send.waiting_since:
            state = State.SUPPRESSED
        elif self._paused and (pause := self._paused.get(send.whose, 0.0) - now) > 0:
            self._lanes.release(send)
            self._settling.later(send, wall + pause)
            return False
        elif now + send.timeout > send.lease_until:
            self._lanes.release(send)
            self._settling.later(send, wall)
            return False
        else:
            return True
        self._lanes.release(send)
        self._settling.end(send, state, wall)
        return False

    def _is_whole(self, send: Send, wall: float) -> bool:
        """What has expired of a digest is left out. Where that is the one in which the others are, they start anew."""
        expired = [one for one in (send, *send.others) if one.expires_at <= wall]
        if not expired or len(expired) > len(send.others):
            return True
        left = [one for one in (send, *send.others) if one.expires_at > wall]
        send.others = ()
        for one in expired:
            self._settling.end(one, State.EXPIRED, wall)
        left[0].others = left[1:]
        if left[0] is send:
            return True
        self._lanes.release(send)
        self._settling.later(left[0], wall)
        return False

    def _report(self, delivery: Delivery, outcome: Outcome) -> None:
        """Called by notifiers, from any thread."""
        self._reported.append((delivery, outcome, time.monotonic()))
        if self._asleep:
            os.eventfd_write(self._bell, 1)

    def _room(self) -> int:
        """How many more deliveries may be held: as many as have lately ended in ``ahead`` seconds, so that what is taken
        is sent before it has waited for long. None while that is few: under load a batch is worth waiting for."""
        most, held = self._most(), self._lanes.in_flight + self._lanes.waiting + self._settling.outstanding
        room = min(most - held + self._ranges.deliveries, self._settings.max_active - held)
        return room if room >= most // 4 else 0

    def _most(self) -> int:
        return min(self._settings.max_active, max(self._settings.micro_batch, int(self._pace * self._settings.ahead)))

    def _room_for_pages(self) -> int:
        """So many deliveries of ranges may be held beside the others."""
        most, held = self._most(), self._lanes.in_flight + self._lanes.waiting + self._settling.outstanding
        room = min(most - self._ranges.deliveries, self._settings.max_active - held)
        return room if room >= most // 4 else 0

    def _measure_pace(self, now: float) -> None:
        passed = now - self._paced_at
        if passed >= 0.1:
            self._pace += (1.0 - math.exp(-2.0 * passed)) * (self._finished / passed - self._pace)
            self._paced_at, self._finished = now, 0
            self._window.adapt(full=self._lanes.yielding >= self._window.size - STEP)

    # -- in between ---------------------------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        now = time.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + (self._settings.prune_interval if self._lanes.forget_idle(now) else TICK)
        if now < max(self._pruned_at + self._settings.prune_interval, self._troubled_until):
            return
        try:
            pruned = self._storage.prune(self._settings.prune_step)
        except errors.StorageUnavailable as error:
            self._trouble("pruning", error)
            return
        # A full step says that there is more; other work comes first.
        self._pruned_at = now if pruned < self._settings.prune_step else now - self._settings.prune_interval + TICK
        self._disabled = {key: at for key, at in self._disabled.items() if at > now - self._settings.lease}
        self._paused = {key: until for key, until in self._paused.items() if until > now}

    def _pause(self) -> float:
        now = time.monotonic()
        if self._settling.since is not None:
            pause = self._settling.since + self._settings.settle_delay - now
        elif self._lanes.in_flight or self._lanes.waiting:
            pause = TICK
        else:
            pause = self._polled_at + self._settings.poll_interval - now
        if (self._more and self._room()) or (self._ranges.idle(1, now) and self._room_for_pages()):
            pause = min(pause, self._dispatched_at + self._settings.dispatch_interval - now)
        if self._held_back:
            pause = 0.0
        return max(pause, self._troubled_until - now, 0.0)

    def _wait(self, pause: float) -> None:
        self._asleep = True
        began = time.monotonic()
        try:
            events = self._poller.poll(0 if self._reported or self._woken else pause)
        finally:
            self._asleep = False
        ended = time.monotonic()
        self._share.idle(ended - began, ended)
        for descriptor, _ in events:
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
                if self._lanes.in_flight >= BUSY and len(events) == 1:
                    time.sleep(GATHER)
            else:
                self._hear()
        if self._woken:
            self._hear()

    def _hear(self) -> None:
        woken, self._woken = self._woken, False
        if self._listener.drain() or woken:
            self._more = self._told = True
