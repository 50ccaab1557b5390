"""Ranges of huge fan-outs that this worker delivers, a page of subscribers at a time.

Who runs the job of a range holds it here, and lets it go, from a thread of its own; all else is for the worker's main thread.
"""

from __future__ import annotations

import collections
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
    def deliveries(self) -> int:
        """Of the pages that are under way: those that are not settled yet."""
        return sum(page.unsettled for page in self._pages.values() if page is not None)
