"""Ranges of huge fan-outs that this worker delivers, a page of subscribers at a time.

Who runs the job of a range holds it here, and lets it go, from a thread of its own; all else is for the worker's main thread.
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from zaqar_notify.lanes import OpenEntry


class Ranges:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: collections.OrderedDict[str, Callable[[], None]] = collections.OrderedDict()
        self._pages: dict[str, OpenEntry | None] = {}
        """Under way; None: it is being matched."""
        self._not_before: dict[str, float] = {}

    # For any thread:

    def hold(self, job_id: str, ended: Callable[[], None]) -> None:
        with self._lock:
            self._held[job_id] = ended

    def let_go(self, job_id: str) -> bool:
        """False while a page is under way still."""
        with self._lock:
            self._held.pop(job_id, None)
            self._not_before.pop(job_id, None)
            return job_id not in self._pages

    # For the worker:

    def idle(self, most: int, now: float) -> list[str]:
        """At most so many of those of which no page is under way, in turns."""
        with self._lock:
            free = (one for one in self._held if one not in self._pages and self._not_before.get(one, 0.0) <= now)
            found = [one for one, _ in zip(free, range(most), strict=False)]
            for one in found:
                self._held.move_to_end(one)
            return found

    def put_off(self, job_ids: Iterable[str], until: float) -> None:
        """There was nothing to be had of them."""
        with self._lock:
            self._not_before |= {one: until for one in job_ids if one in self._held}

    def begin(self, job_ids: Collection[str]) -> None:
        with self._lock:
            self._pages |= dict.fromkeys(job_ids)

    def matched(self, pages: Sequence[OpenEntry]) -> None:
        """Unless they are closed already."""
        with self._lock:
            self._pages |= {page.job_id: page for page in pages if page.job_id in self._pages}

    def over(self, job_id: str) -> None:
        """Its page was settled, or given back."""
        with self._lock:
            self._pages.pop(job_id, None)

    def end(self, job_ids: Iterable[str]) -> None:
        """They are done, or not this worker's any more."""
        with self._lock:
            told = [self._held.pop(one) for one in job_ids if one in self._held]
        for ended in told:
            ended()

    @property
    def busy(self) -> bool:
        return bool(self._pages)

    @property
    def deliveries(self) -> int:
        """Of the pages that are under way: those that are not settled yet."""
        return sum(page.unsettled for page in self._pages.values() if page is not None)


class Window:
    """How many sends of huge fan-outs may be under way at once.

    Those that the endpoints have are welcome, however slow they are; those that only stand in line, here or on the way, make
    all others wait. How many these are is seen from how long a send takes, against how long it takes when there are few (as
    TCP Vegas does it); that is tried again now and then.
    """

    LEAST = 32
    FEW, MANY = 16, 48
    """With fewer than so many in line it grows, with more it shrinks."""
    AGAIN = 100
    TRY = 4
    """After so many times the least is tried for so many; the first of these still knows the sends from before."""

    def __init__(self, most: int) -> None:
        self.size = self.LEAST
        self._most = most
        self._best = math.inf
        self._sum = 0.0
        self._count = 0
        self._times = 0
        self._before = self.LEAST

    def ended(self, duration: float) -> None:
        """A send has, after so many seconds."""
        self._sum += duration
        self._count += 1

    def adapt(self, full: bool) -> None:
        """To what has ended since the last time; it grows only while it is ``full``. To be called ten times a second."""
        if not self._count:
            return
        mean, self._sum, self._count = self._sum / self._count, 0.0, 0
        self._times += 1
        if self._times > self.AGAIN:
            self._try_least(mean, self._times - self.AGAIN)
            return
        self._best = min(self._best, mean)
        in_line = self.size * (1.0 - self._best / mean) if mean > 0 else 0.0
        if in_line > self.MANY:
            self.size = max(self.LEAST, self.size - self.size // 8)
        elif in_line < self.FEW and full:
            self.size = min(self.size + self.size // 8, self._most)

    def _try_least(self, mean: float, time: int) -> None:
        if time == 1:
            self._before, self.size = self.size, self.LEAST
        elif time == 2:
            self._best = math.inf
        else:
            self._best = min(self._best, mean)
        if time == self.TRY:
            self.size, self._times = self._before, 0


class Share:
    """Of the time, what huge fan-outs have of it; the rest is owed to others. ``now`` is ``time.monotonic()`` seconds."""

    SLICE, MOST = 0.01, 0.1
    """Seconds after which a rest is owed, and what is worked off at once at most."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._since = 0.0
        """Work without a rest has gone on since then."""

    def owed(self, now: float) -> float:
        """Seconds."""
        worked = now - self._since
        return 0.0 if worked < self.SLICE else min(worked, self.MOST) * (1.0 / self._share - 1.0)

    def rested(self, now: float) -> None:
        """What was owed."""
        self._since = now

    def idle(self, seconds: float, now: float) -> None:
        """There was nothing to do for so long."""
        self._since = now if self._share >= 1.0 else min(now, self._since + seconds / (1.0 - self._share))

    def other(self, seconds: float) -> None:
        """Something else was done for so long."""
        self._since += seconds
