"""Who may be sent to now: limits in flight, waiting and parking.

A lane is what shares a limit: a project and an endpoint. Its limit adapts: a success adds one, a failure that counts against
the lane halves it. A send that is under way for ``slow_after`` makes its lane a slow one; all slow lanes together may use only
a share of what may be in flight, so that endpoints that hang cannot take the places of those that answer.

A lane that does little but fail is shut by its circuit breaker: what goes there is parked. The worker that holds the lane when
its time has come sends one delivery as a probe; an answer opens the lane again, slowly. All workers know of it by the storage.

Everything here runs on the worker's main thread; ``now`` is always ``time.monotonic()`` seconds.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from zaqar_notify.model import Delivery, LaneKey, Outcome, OutcomeKind, Scope


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Durations are seconds."""

    max_in_flight: int = 1024
    lane_min: int = 2
    lane_max: int = 32
    max_lanes: int = 1000
    park_after: float = 1.0
    slow_after: float = 1.0
    slow_share: float = 1 / 3
    parked_for: float = 30.0
    """How long a lane is taken to have parked rows since that was last seen."""
    idle_after: float = 300.0
    """How long an unused lane is remembered."""
    breaker_failures: float = 0.7
    """The share of failures that shuts a lane, among at least ``breaker_attempts`` in ``breaker_window``."""
    breaker_attempts: int = 10
    breaker_window: float = 300.0
    breaker_wait: float = 30.0
    """Until the first probe; doubles with each that fails, up to ``breaker_wait_max``."""
    breaker_wait_max: float = 3600.0
    release_rate: float = 10.0
    """Sends per second of a lane that was opened again, at first; doubles every ``_RELEASE_DOUBLING`` seconds."""


MOST_STRIDE = 500
MOST_IDLE = 10_000
"""With more lanes than that, those that are not used now are forgotten much sooner."""
_BUCKETS = 10
_LOOKS = 2000
"""Lanes that are looked at in one step of forgetting those that are not used: about a millisecond."""
_RELEASE_DOUBLING = 10.0
_RELEASE_TIME = 60.0
"""Seconds until a lane that was opened again is free to send as it likes."""
_RENEW_BEFORE = 10.0
"""Seconds before the end of its lease at which a lane with limits of its own is asked for again, although it is busy."""
_CATCH_UP = 0.1
"""Seconds that a paced lane may be behind and make up for: the loop does not come by at each moment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """What a subscription asks for its own endpoint: a lane of its own, which only the worker that holds it may send to."""

    in_flight: int | None = None
    rate: float | None = None
    """Sends per second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """A breaker has opened (``trips`` > 0, for ``wait`` seconds) or closed (0)."""

    key: LaneKey
    trips: int
    wait: float = 0.0


_TAKEN = frozenset({OutcomeKind.DELIVERED, OutcomeKind.REJECTED, OutcomeKind.GONE})
"""Who answers so is well, and may have more: what is wrong is one target, or one payload. A list of nothing but bad tokens goes
no slower than one of good ones."""
_ANSWERS = frozenset({OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REJECTED, OutcomeKind.GONE, OutcomeKind.THROTTLED})


class Sender(Protocol):
    """What starts sends: a notifier, or the threads that run one."""

    def send_many(self, deliveries: Sequence[Delivery], report: Callable[[Delivery, Outcome], None]) -> None:
        """Start these and return at once; each is reported exactly once, from any thread, unless it hangs."""

    def give_up(self, delivery: Delivery) -> None:
        """Nobody waits for this one any more: it has outstayed its deadline."""

    @property
    def full(self) -> bool:
        """It takes no further send until one of those under way ends."""

    @property
    def stopped(self) -> bool:
        """It takes none at all: everything it sends with is lost in sends that hang."""


@dataclasses.dataclass(slots=True, eq=False)
class OpenEntry:
    """A leased outbox entry (or the page of its subscribers that is being sent) until all its deliveries are settled."""

    message_id: str
    token: int
    after: str | None = None
    """More subscribers follow behind this id."""
    unsettled: int = 0
    job_id: str | None = None
    """It is a page of this range."""
    cut: bool = False
    """There may be very many more subscribers: it becomes a job when it is closed."""


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Send(Delivery):
    """A delivery as the worker carries it: with its lane, its lease and its history."""

    token: int
    lease_until: float
    entry: OpenEntry | None
    """None: it came from a row, or has left its entry for one."""
    attempts: int = 0
    lines: int = 0
    lines_before: int = 0
    """Of them, those before it was redelivered."""
    from_parking: bool = False
    waiting_since: float = 0.0
    started_at: float = 0.0
    in_slow_share: bool = False
    overdue: bool = False
    """Under way for longer than ``slow_after``."""
    ended: bool = False
    identity: int = 0
    """Its own ``id()``, once it has been started: a copy of it has the same number, and is another object."""
    withdrawn: bool = False
    """It waits no longer, although it was not started."""
    yields: bool = False
    """It is of a huge fan-out: what else may start goes first."""
    expires_at: float = math.inf
    """Epoch seconds: nothing is sent after it."""
    address: str = ""
    """What tells its address from the subscriber of its subscription, which has none (`zaqar_notify.addresses`)."""
    window_id: str | None = None
    """Of the window that it was released from."""
    others: Sequence[Send] = ()
    # Where it goes, once that has been looked up:
    lane: Lane = dataclasses.field(init=False)
    sender: Sender = dataclasses.field(init=False)
    timeout: float = dataclasses.field(init=False)

    @property
    def whose(self) -> str:
        """The subscription, or the address beside it that this goes to."""
        return self.subscription.id + self.address


_NOBODY: collections.deque[Send] = collections.deque(maxlen=0)


class Lane:
    __slots__ = (
        "bare_until",
        "chosen",
        "held_until",
        "in_flight",
        "key",
        "limit",
        "most",
        "next_at",
        "opened_at",
        "parked_until",
        "queued",
        "sender",
        "slow",
        "stride",
        "together",
        "trips",
        "used_at",
        "waiting",
        "window",
    )

    def __init__(self, key: LaneKey, limit: int, now: float) -> None:
        self.key = key
        self.limit = limit
        self.most: int | None = None  # what its notifier lets the limit come to
        self.in_flight = 0
        self.waiting: collections.deque[Send] = _NOBODY  # there may be very many lanes, and few in use
        self.queued = False  # stands in a ring
        self.slow = False
        self.parked_until = 0.0
        self.held_until = 0.0
        self.stride = 0  # parked rows to take at once, while they end without being sent
        self.together = False  # it has parked rows that make digests: as many as possible are to be taken at once
        self.used_at = now
        self.sender: Sender | None = None
        self.chosen: Chosen | None = None
        self.trips = 0  # how often its breaker has opened in a row; 0: it is closed
        self.opened_at = -math.inf  # when it was closed last, and the lane opened again
        self.next_at = 0.0  # a paced lane sends nothing before
        self.bare_until = 0.0  # it was found without parked rows, and is not asked for them before
        self.window: list[int] = []  # three numbers for each time: which one, attempts, failures

    @property
    def ready(self) -> bool:
        return bool(self.waiting) and self.in_flight < self.limit

    def count(self, failed: bool, bucket: int) -> None:
        window = self.window
        if not window or window[-3] != bucket:
            window += (bucket, 0, 0)
            del window[: -3 * _BUCKETS]
        window[-2] += 1
        window[-1] += failed

    def failing(self, limits: Limits, bucket: int) -> bool:
        recent = [at for at in range(0, len(self.window), 3) if self.window[at] > bucket - _BUCKETS]
        attempts, failures = (sum(self.window[at + which] for at in recent) for which in (1, 2))
        return attempts >= limits.breaker_attempts and failures >= limits.breaker_failures * attempts

    def rate(self, limits: Limits, now: float) -> float:
        """Sends per second that it may start now."""
        chosen = self.chosen.rate if self.chosen and self.chosen.rate else math.inf
        since = now - self.opened_at
        return min(chosen, limits.release_rate * 2.0 ** (since / _RELEASE_DOUBLING)) if since < _RELEASE_TIME else chosen

    def ceiling(self, limits: Limits) -> int:
        return (self.chosen.in_flight if self.chosen else None) or self.most or limits.lane_max


class _Ring:
    """Round robin over projects, and over the lanes of each."""

    def __init__(self) -> None:
        self._projects: collections.OrderedDict[str, collections.deque[Lane]] = collections.OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._projects)

    def add(self, lane: Lane) -> None:
        lane.queued = True
        self._projects.setdefault(lane.key.project, collections.deque()).append(lane)

    def pop(self) -> Lane:
        project, lanes = self._projects.popitem(last=False)
        lane = lanes.popleft()
        if lanes:
            self._projects[project] = lanes
        lane.queued = False
        return lane


class Lanes:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.yielding = 0
        """In flight, of those that yield; without what is slow."""
        self.waiting = 0
        self._lanes: dict[LaneKey, Lane] = {}
        self._held: collections.OrderedDict[LaneKey, Lane] = collections.OrderedDict()
        self._shut: dict[LaneKey, Lane] = {}
        self._open_breakers: Mapping[LaneKey, int] = {}  # of all lanes, as the storage has said last: there may be very many
        self._to_look_at: list[LaneKey] = []
        self._paced: list[tuple[float, int, Lane]] = []  # a heap of when they may send again
        self._numbers = itertools.count()
        self._fast, self._slow, self._yielding = _Ring(), _Ring(), _Ring()
        self._blocked: dict[Sender, list[Lane]] = {}  # lanes that wait for their sender rather than for their endpoint
        self._slow_in_flight = 0
        self._slow_places = max(1, int(limits.max_in_flight * limits.slow_share))
        # In the order of submission and of start: since all wait equally long, what is overdue stands in front.
        self._arrived: collections.deque[Send] = collections.deque()
        self._started: collections.deque[Send] = collections.deque()
        self._overdue: set[Send] = set()

    def lane(self, key: LaneKey, now: float, chosen: Chosen | None = None, most: int | None = None) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, self.limits.lane_min, now)
            if trips := self._open_breakers.get(key, 0):
                lane.trips = trips
                self._shut[key] = lane
        lane.used_at = now
        if most is not None:
            lane.most = most
        if chosen is not None:
            lane.chosen = chosen
            lane.limit = min(lane.limit, lane.ceiling(self.limits))
        return lane

    # -- waiting ------------------------------------------------------------------------------------------------------------

    def submit(self, send: Send, now: float) -> bool:
        """Let it wait for its lane; False when it is to be parked instead: its lane has parked rows, which come first, or is
        shut, or is another worker's to send to."""
        lane = send.lane
        lane.sender = send.sender
        if send.sender.stopped:
            return False
        if lane.trips:
            # A probe, if this worker has the lane and nothing is under way there.
            if lane.held_until <= now or lane.in_flight or lane.waiting:
                return False
        elif lane.chosen is not None:
            # Also what another worker had taken, and has given back.
            if not send.from_parking or lane.held_until <= now:
                return False
        elif not send.from_parking and lane.parked_until > now:
            return False
        send.waiting_since = now
        if lane.waiting is _NOBODY:
            lane.waiting = collections.deque()
        lane.waiting.append(send)
        self._arrived.append(send)
        self.waiting += 1
        self._enqueue(lane)
        return True

    def start(self, places: int, now: float, yielding: int | None = None) -> Iterator[Send]:
        """The sends that may start now, at most ``places``, with their start recorded. Those that yield come last, at most
        ``yielding`` of them."""
        while self._paced and self._paced[0][0] <= now:
            lane = heapq.heappop(self._paced)[2]
            lane.queued = False
            self._enqueue(lane)
        for sender in [sender for sender in self._blocked if not sender.full]:
            self.unblock(sender)
        left = places if yielding is None else yielding
        while places > 0 and self.in_flight < self.limits.max_in_flight:
            slow = self._slow_in_flight < self._slow_places
            # Slow lanes first: their share bounds them, and behind a long row of fast ones they would never come.
            ring = (slow and self._slow) or self._fast or (left > 0 and self._yielding)
            if not ring:
                return
            lane = ring.pop()
            if not lane.ready:
                continue
            if lane.slow and not slow:
                self._slow.add(lane)
                continue
            if (sender := lane.waiting[0].sender).full:
                lane.queued = True
                self._blocked.setdefault(sender, []).append(lane)
                continue
            if not self._keeps_pace(lane, now):
                lane.queued = True
                heapq.heappush(self._paced, (lane.next_at, next(self._numbers), lane))
                continue
            left -= ring is self._yielding
            yield self._start(lane, now)
            places -= 1
            self._enqueue(lane)

    def _keeps_pace(self, lane: Lane, now: float) -> bool:
        rate = lane.rate(self.limits, now)
        if rate == math.inf:
            return True
        if lane.next_at > now:
            return False
        lane.next_at = max(lane.next_at, now - _CATCH_UP) + 1.0 / rate
        return True

    def _start(self, lane: Lane, now: float) -> Send:
        send = lane.waiting.popleft()
        if not lane.waiting:
            lane.waiting = _NOBODY
        send.started_at = now
        send.identity = id(send)
        lane.in_flight += 1
        lane.used_at = now
        self.waiting -= 1
        self.in_flight += 1
        self.yielding += send.yields
        if lane.slow:
            send.in_slow_share = True
            self._slow_in_flight += 1
        self._started.append(send)
        return send

    def _enqueue(self, lane: Lane) -> None:
        if not lane.queued and lane.ready:
            (self._slow if lane.slow else self._yielding if lane.waiting[0].yields else self._fast).add(lane)

    def waited_too_long(self, now: float) -> list[Send]:
        """Takes out what has waited for ``park_after``: it is to be parked, and its lane counts as parked from now on."""
        before = now - self.limits.park_after
        late = []
        while self._arrived and (self._gone(self._arrived[0]) or self._arrived[0].waiting_since <= before):
            send = self._arrived.popleft()
            if not self._gone(send):
                send.lane.waiting.popleft()
                late.append(send)
        self.waiting -= len(late)
        for send in late:
            send.lane.parked_until = now + self.limits.parked_for
        return late

    @staticmethod
    def _gone(send: Send) -> bool:
        return bool(send.started_at) or send.withdrawn

    def withdraw(self) -> list[Send]:
        """Takes out everything that waits, for a worker that stops."""
        waiting = [send for send in self._arrived if not self._gone(send)]
        self._arrived.clear()
        self.waiting = 0
        for send in waiting:
            send.lane.waiting = _NOBODY
        return waiting

    def projects_waiting(self) -> set[str]:
        """Those of which something waits here."""
        return {lane.key.project for lane in self._lanes.values() if lane.waiting}

    # -- under way ----------------------------------------------------------------------------------------------------------

    def finish(self, send: Send, outcome: Outcome, duration: float, now: float) -> Turn | None:
        """Give back its place, and adapt the limit of its lane to what came of it (``duration`` in seconds). Returns what its
        breaker does about it, if anything."""
        lane = send.lane
        lane.used_at = now
        failed = outcome.kind is OutcomeKind.RETRY and outcome.scope is Scope.LANE
        if outcome.kind in _TAKEN:
            lane.slow = duration >= self.limits.slow_after
            # A slow success undoes the halving that its slowness brought.
            lane.limit = min(lane.limit * 2 + 1 if send.overdue else lane.limit + 1, lane.ceiling(self.limits))
        elif failed:
            self._halve(lane)
        turn = None
        # Whatever it says, who answers is there; what our own faults and our guard stop says nothing.
        if failed or outcome.kind in _ANSWERS or (outcome.kind is OutcomeKind.REFUSED and outcome.status is not None):
            turn = self._judge(lane, failed, now)
        self.release(send)
        return turn

    # -- circuit breakers -----------------------------------------------------------------------------------------------------

    def _judge(self, lane: Lane, failed: bool, now: float) -> Turn | None:
        bucket = int(now / self.limits.breaker_window * _BUCKETS)
        if not lane.trips:
            lane.count(failed, bucket)
            return self._trip(lane) if failed and lane.failing(self.limits, bucket) else None
        if lane.held_until <= now:
            return None  # under way since before it was shut, or shut by another worker
        if failed:
            return self._trip(lane)
        self._open(lane, now)
        return Turn(lane.key, 0)

    def _trip(self, lane: Lane) -> Turn:
        wait = min(self.limits.breaker_wait * 2.0 ** min(lane.trips, 30), self.limits.breaker_wait_max)
        return self.pause(lane, wait, lane.trips + 1)

    def refused(self, lane: Lane, wait: float, longest: float, now: float) -> Turn | None:
        """Our credential is: whatever goes this way would be, too. The wait doubles each time, up to ``longest``."""
        if lane.trips and lane.held_until <= now:
            return None  # under way since before it was shut
        return self.pause(lane, min(wait * 2.0 ** min(lane.trips, 30), longest), lane.trips + 1)

    def pause(self, lane: Lane, wait: float, trips: int = 1) -> Turn:
        """Shut it for ``wait`` seconds: its endpoint has asked for it, or its breaker does. All workers are to know."""
        lane.trips = trips
        lane.stride = 0
        lane.window.clear()
        self._shut[lane.key] = lane
        self._held.pop(lane.key, None)
        lane.held_until = 0.0
        return Turn(lane.key, lane.trips, wait)

    def _open(self, lane: Lane, now: float) -> None:
        lane.trips = 0
        lane.limit = min(self.limits.lane_min, lane.ceiling(self.limits))
        lane.opened_at = now
        self._shut.pop(lane.key, None)

    def shut(self, open_breakers: Mapping[LaneKey, int], now: float) -> None:
        """What the storage says of all breakers: of those that are open, their trips."""
        for key in [key for key, lane in self._shut.items() if key not in open_breakers and lane.held_until <= now]:
            self._open(self._shut[key], now)
        for key in open_breakers.keys() & self._lanes.keys():
            lane = self._lanes[key]
            if lane.held_until <= now:
                lane.trips = open_breakers[key]
                self._shut[key] = lane
        self._open_breakers = open_breakers

    def is_shut(self, key: LaneKey) -> bool:
        lane = self._lanes.get(key)
        return lane.trips > 0 if lane is not None else key in self._open_breakers

    def evict(self, key: LaneKey) -> list[Send]:
        """Takes out what waits for a lane that was shut: it is to be parked."""
        waiting = list(self._lanes[key].waiting)
        self._lanes[key].waiting = _NOBODY
        for send in waiting:
            send.withdrawn = True
        self.waiting -= len(waiting)
        return waiting

    def release(self, send: Send) -> None:
        """Give back its place. By itself that says nothing about the lane: it was not sent after all."""
        send.ended = True
        send.lane.in_flight -= 1
        self.in_flight -= 1
        if send.in_slow_share:
            self._slow_in_flight -= 1
        if send.overdue:
            self._overdue.discard(send)
        else:
            self.yielding -= send.yields
        self._enqueue(send.lane)
        self.unblock(send.sender)

    def unblock(self, sender: Sender) -> None:
        """A send of this sender has ended, so it may have room for a lane that waited for it."""
        for lane in self._blocked.pop(sender, ()):
            lane.queued = False
            self._enqueue(lane)

    def under_way_too_long(self, now: float) -> list[Send]:
        """What has been under way for ``slow_after`` since the last call: it moves to the slow share."""
        before = now - self.limits.slow_after
        late = []
        while self._started and (self._started[0].ended or self._started[0].started_at <= before):
            send = self._started.popleft()
            if not send.ended:
                late.append(send)
        for send in late:
            self._slow_down(send)
        return late

    def _slow_down(self, send: Send) -> None:
        send.overdue = True
        self.yielding -= send.yields
        self._overdue.add(send)
        send.lane.slow = True
        self._halve(send.lane)
        if not send.in_slow_share:
            send.in_slow_share = True
            self._slow_in_flight += 1

    def _halve(self, lane: Lane) -> None:
        lane.limit = min(max(lane.limit // 2, self.limits.lane_min), lane.ceiling(self.limits))

    def hung(self, now: float, grace: float) -> list[Send]:
        """What is under way ``grace`` seconds after its deadline: nobody will report it any more."""
        return [send for send in self._overdue if send.deadline + grace <= now]

    # -- parked rows --------------------------------------------------------------------------------------------------------

    def hold(self, keys: Sequence[LaneKey], until: float, now: float, probes: Mapping[LaneKey, int] | None = None) -> None:
        """These lanes have parked rows, which this worker may take until then. Those in ``probes`` are shut, and this worker is
        the one to probe them."""
        for key in keys:
            lane = self.lane(key, now)
            lane.held_until = until
            lane.bare_until = 0.0
            if probes and key in probes:
                lane.trips = probes[key]
                lane.limit = 1
                self._shut[key] = lane
            lane.parked_until = max(lane.parked_until, now + self.limits.parked_for)
            self._held[key] = lane

    def renew(self, keys: Collection[LaneKey], until: float) -> None:
        """These were asked for parked rows, and stay this worker's until then."""
        for key in keys:
            if key in self._held:
                self._held[key].held_until = until

    def lose(self) -> None:
        """This worker was taken for dead: whatever it held is another's, or will be."""
        self._held.clear()
        for lane in self._lanes.values():
            lane.held_until = 0.0

    def emptied(self, keys: Sequence[LaneKey]) -> None:
        """These hold no parked row any more. One that is shut is still this worker's to probe, with what comes, but takes no
        place among those that are held: a project with very many dead endpoints would keep the others from theirs."""
        for key in keys:
            self._held.pop(key, None)
            lane = self._lanes.get(key)
            if lane is not None:
                lane.parked_until = 0.0
                if not lane.trips:
                    lane.held_until = 0.0

    def bare(self, keys: Collection[LaneKey], until: float) -> None:
        """These were asked for parked rows and had none, although they are held."""
        for key in keys:
            if key in self._held:
                self._held[key].bare_until = until

    def pulled(self, taken: Collection[LaneKey], sent: Collection[LaneKey], together: Collection[LaneKey] = ()) -> None:
        """Parked rows were taken from the lanes ``taken``, and those in ``sent`` had some to send; those in ``together`` had
        some that make digests. What only ends (its subscription was deleted, say) is taken in growing strides: a million rows
        would take for ever otherwise. What was only parked again, in a lane that was shut, does not end."""
        for key in taken:
            lane = self._lanes.get(key)
            if lane is None:
                continue  # another worker had taken them, and all of them have ended
            ends = key not in sent and key in self._held
            lane.stride = min(max(lane.stride * 2, 2 * lane.limit), MOST_STRIDE) if ends else 0
            lane.together = key in together

    def holdable(self) -> int:
        return max(0, self.limits.max_lanes - len(self._held))

    def room(self, now: float, most: int) -> Mapping[LaneKey, int]:
        """How many parked rows of which held lanes can be sent soon, at most ``most`` in all."""
        rooms: dict[LaneKey, int] = {}
        full = self._slow_in_flight >= self._slow_places
        for key, lane in list(self._held.items()):
            if lane.held_until <= now:
                del self._held[key]
                continue
            busy = lane.in_flight + len(lane.waiting)
            if lane.chosen is not None and (busy or lane.next_at > now):
                # Nobody else may have it meanwhile, and an empty one would be let go.
                if lane.held_until - now < _RENEW_BEFORE:
                    rooms[key] = 0
                continue
            blocked = (lane.slow and full) or (lane.sender is not None and lane.sender.full)
            blocked = blocked or lane.bare_until > now
            if busy < lane.limit and not blocked and most > 0:
                rooms[key] = min(self._soon(lane, busy, now), most)
                most -= rooms[key]
        # Next time it is the turn of the others first.
        for key in rooms:
            self._held.move_to_end(key)
        return rooms

    def _soon(self, lane: Lane, busy: int, now: float) -> int:
        if lane.together:
            return MOST_STRIDE
        if lane.trips:
            return max(1, lane.stride)
        soon = max(2 * lane.limit - busy, lane.stride)
        rate = lane.rate(self.limits, now)
        return soon if rate == math.inf else max(1, min(soon, int(rate * self.limits.park_after / 2) - len(lane.waiting)))

    def forget_idle(self, now: float) -> bool:
        """One step of it; False: there are more to be looked at."""
        if not self._to_look_at:
            self._to_look_at = list(self._lanes)
        before = now - (self.limits.idle_after if len(self._lanes) <= MOST_IDLE else self.limits.parked_for / 3)
        looked_at, self._to_look_at = self._to_look_at[-_LOOKS:], self._to_look_at[:-_LOOKS]
        for key in looked_at:
            lane = self._lanes.get(key)
            if lane is None or lane.in_flight or lane.waiting or key in self._held:
                continue
            # What is shut is to stay so: either that is known without it, or it is kept.
            if lane.used_at < before and (not lane.trips or key in self._open_breakers):
                del self._lanes[key]
                self._shut.pop(key, None)
        return not self._to_look_at
