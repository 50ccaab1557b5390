"""Long work: a job of the storage is held by one worker, which renews its hold while it works on it, step by step.

Who holds a job is decided by the storage alone. However a worker has come to it, from the storage or from a board, it is run
here; what runs the same job a second time finds that it is held, or gone.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from zaqar_notify import errors
from zaqar_notify.model import DeliveryRecord, Job
from zaqar_notify.replay import Replay
from zaqar_notify.storage.base import CUT, RANGE, REPLAY, Storage

LOG = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds for which a worker leaves a job alone that it could not go on with; doubled each time."""
STRANGER_PAUSE = 60.0
"""The same for a job of a kind that this version does not know: a newer one made it, and runs it."""
MOST_ERROR = 500
"""Characters of why a job has failed that are kept."""
BACKGROUND = frozenset({REPLAY})
"""Kinds that may not take all places: what nobody waits for must not hold up fan-outs for hours."""
_PAGE = 100
_MOST_PAGES = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """``[cluster]``; durations are seconds."""

    jobs: int = 2
    """At once, in this worker."""
    lease: float = 20.0
    poll_interval: float = 0.5
    range: int = 50_000
    """Subscribers of a range."""
    replay_rate: float = 50.0
    """Deliveries that a replay starts in a second, at most."""


class Result(enum.Enum):
    """What has become of a job that somebody has tried to run."""

    ENDED = enum.auto()  # done, failed or gone: there is nothing left to run
    ELSEWHERE = enum.auto()  # another worker holds it
    LET_GO = enum.auto()  # this one could not go on with it, or is stopping


class Feed(Protocol):
    """The worker, as far as ranges are concerned. Both may be called from any thread."""

    def hold_range(self, job_id: str, ended: Callable[[], None]) -> None:
        """Deliver the range, a page at a time, until it is let go. ``ended`` is called, from any thread, when the storage has
        said that there are no more pages, or that another worker holds it."""

    def let_range_go(self, job_id: str) -> bool:
        """Take no more pages; False while one is under way still."""


class Run:
    """A job under way: what its kind sees of it."""

    def __init__(self, job: Job, storage: Storage, *, worker_id: Callable[[], int], lease: float, asked_at: float) -> None:
        """It was held by ``worker_id()`` at ``asked_at`` (``time.monotonic()``)."""
        self.job = job
        self.worker_id = worker_id()
        self.stopped = False
        self.keep = False
        """Hold it on when this worker stops, until that has given everything back: something is under way still."""
        self.renewed: Callable[[], None] = lambda: None
        """Called with each renewal: a claim on a board wants to be renewed as well."""
        self._storage = storage
        self._worker_id = worker_id
        self._lease = lease
        self._held_until = asked_at + lease
        self._renew_at = asked_at + lease / 3
        self._nudged = threading.Event()

    def nudge(self) -> None:
        """End the pause that it makes, or its next one."""
        self._nudged.set()

    def stop(self) -> None:
        self.stopped = True
        self._nudged.set()

    @property
    def held(self) -> bool:
        """Whether this worker still has it, as far as it knows."""
        return time.monotonic() < self._held_until and self.worker_id == self._worker_id()

    def goes_on(self, pause: float = 0.0) -> bool:
        """Renew the hold when it is time, and say whether there is still one, and nobody wants it to stop. Waits first, for as
        long as ``pause``, unless nudged. To be called several times in the length of a lease."""
        if pause and self._nudged.wait(min(pause, max(0.0, self._renew_at - time.monotonic()))):
            self._nudged.clear()
        if self.stopped or not self.held:
            return False
        if time.monotonic() >= self._renew_at:
            self._renew()
        return self.held and not self.stopped

    def _renew(self) -> None:
        asked_at = time.monotonic()
        try:
            held = self._storage.hold_job(self.worker_id, self._lease, self.job.id)
        except errors.StorageUnavailable as error:
            LOG.warning("job %s: its hold could not be renewed yet: %s", self.job.id, error)
            self._renew_at = asked_at + min(1.0, self._lease / 10)
            return
        if held is None:
            self._held_until = 0.0
            return
        self._held_until = asked_at + self._lease
        self._renew_at = asked_at + self._lease / 3
        self.renewed()


Kind = Callable[[Run], bool]
"""Works on a job while `Run.goes_on`. True: it is done, and can be taken off the storage; False: the storage has ended it by
itself, or it is not done. An exception is its failure; `StorageUnavailable` and `OSError` are not: they end by themselves."""


class Runner:
    """``worker_id`` is this worker's present one: it joins anew when it was taken for dead."""

    def __init__(self, storage: Storage, settings: Settings, kinds: Mapping[str, Kind], worker_id: Callable[[], int]) -> None:
        self._storage = storage
        self._settings = settings
        self._kinds = kinds
        self._worker_id = worker_id
        self._runs: dict[str, Run] = {}
        self._off: dict[str, _Off] = {}
        self._lock = threading.Lock()
        self._stopping = False

    @property
    def has_room(self) -> bool:
        return len(self._runs) < self._settings.jobs and not self._stopping

    def has_room_for(self, kind: str) -> bool:
        busy = sum(run.job.kind in BACKGROUND for run in list(self._runs.values()))
        return kind not in BACKGROUND or busy < max(1, self._settings.jobs - 1)

    def is_off(self, job_id: str) -> bool:
        """It is left alone for a while, or under way here."""
        off = self._off.get(job_id)
        return job_id in self._runs or (off is not None and time.monotonic() < off.until)

    def put_off(self, job_id: str, pause: float | None = None) -> None:
        """Leave it alone for ``pause`` seconds; None: for twice as long as the last time."""
        now = time.monotonic()
        with self._lock:
            before = self._off.get(job_id)
            if pause is None:
                pause = FIRST_PAUSE if before is None else min(2 * before.pause, LONGEST_PAUSE)
            self._off = {key: off for key, off in self._off.items() if off.until + LONGEST_PAUSE > now}
            self._off[job_id] = _Off(now + pause, pause)

    def take(self, job_id: str | None = None) -> Run | Result:
        """Hold this job, or the oldest that can be had. Raises `StorageUnavailable`."""
        with self._lock:
            if not self.has_room:
                return Result.LET_GO
            # The storage would let this worker hold what it holds already.
            if job_id is not None and job_id in self._runs:
                return Result.ELSEWHERE
        worker_id, asked_at = self._worker_id(), time.monotonic()
        job = self._oldest(worker_id) if job_id is None else self._storage.hold_job(worker_id, self._settings.lease, job_id)
        if job is None:
            return Result.ENDED if job_id is None else self._whereabouts(job_id)
        run = Run(job, self._storage, worker_id=self._worker_id, lease=self._settings.lease, asked_at=asked_at)
        return run if self._enlist(run) else Result.LET_GO

    def work(self, run: Run, renewed: Callable[[], None] = lambda: None) -> Result:
        """Work on it until it ends, or somebody stops it. Raises nothing: what goes wrong is known afterwards."""
        job = run.job
        LOG.info("job %s (%s of project %s) begins, for the %d. time", job.id, job.kind, job.project, job.takes)
        run.renewed = renewed
        try:
            return self._end(run, self._kinds[job.kind](run))
        except (errors.StorageUnavailable, OSError) as error:
            LOG.warning("job %s (%s) has to wait: %s", job.id, job.kind, error)
            self.put_off(job.id)
            self._let_go(run)
            return Result.LET_GO
        except Exception as error:
            LOG.exception("job %s (%s) has failed", job.id, job.kind)
            return self._fail(run, error)
        finally:
            with self._lock:
                del self._runs[job.id]

    def stop(self, wait: float) -> None:
        """Let all jobs go; returns when that is done, or ``wait`` seconds have passed."""
        with self._lock:
            self._stopping = True
            runs = list(self._runs.values())
        for run in runs:
            run.stop()
        end = time.monotonic() + wait
        while self._runs and time.monotonic() < end:
            time.sleep(0.01)

    def _oldest(self, worker_id: int) -> Job | None:
        if not any(map(self.is_off, list(self._off))) and all(map(self.has_room_for, BACKGROUND)):
            return self._storage.hold_job(worker_id, self._settings.lease)
        # The oldest may be one that is left alone: it must not hold up those behind it.
        now = self._storage.now()
        for job in self._open_jobs():
            if job.held_until <= now and not self.is_off(job.id) and self.has_room_for(job.kind):
                held = self._storage.hold_job(worker_id, self._settings.lease, job.id)
                if held is not None:
                    return held
        return None

    def _open_jobs(self) -> Iterator[Job]:
        marker = None
        for _ in range(_MOST_PAGES):
            page = self._storage.list_jobs(marker, _PAGE, failed=False)
            yield from page
            if len(page) < _PAGE:
                return
            marker = page[-1].id

    def _whereabouts(self, job_id: str) -> Result:
        job = self._storage.get_job(job_id)
        return Result.ENDED if job is None or job.error is not None else Result.ELSEWHERE

    def _enlist(self, run: Run) -> bool:
        job = run.job
        if job.kind not in self._kinds:
            self.put_off(job.id, STRANGER_PAUSE)
            LOG.warning("job %s is of kind %s, which this version does not know: it is left to newer ones", job.id, job.kind)
            self._let_go(run)
            return False
        with self._lock:
            if job.id in self._runs:  # it had lost its hold, and does not know yet
                return False
            if not self._stopping:
                self._runs[job.id] = run
                return True
        self._let_go(run)
        return False

    def _end(self, run: Run, done: bool) -> Result:
        job = run.job
        if done and self._storage.finish_job(run.worker_id, job.id):
            LOG.info("job %s (%s) is done", job.id, job.kind)
            return Result.ENDED
        if run.stopped and run.held:
            if not run.keep:
                self._let_go(run)
            return Result.LET_GO
        result = self._whereabouts(job.id)
        LOG.info("job %s (%s) %s", job.id, job.kind, "is done" if result is Result.ENDED else "is not this worker's any more")
        return result

    def _fail(self, run: Run, error: Exception) -> Result:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_ERROR]
        try:
            if self._storage.fail_job(run.worker_id, run.job.id, text):
                return Result.ENDED
            return self._whereabouts(run.job.id)
        except errors.StorageUnavailable as trouble:
            LOG.warning("job %s: that it has failed could not be stored: %s", run.job.id, trouble)
            self.put_off(run.job.id)
            return Result.LET_GO

    def _let_go(self, run: Run) -> None:
        try:
            self._storage.let_job_go(run.worker_id, run.job.id)
        except errors.StorageUnavailable as error:
            LOG.warning("job %s could not be let go, and is free when its hold has run out: %s", run.job.id, error)


@dataclasses.dataclass(frozen=True, slots=True)
class _Off:
    until: float
    """``time.monotonic()``"""
    pause: float


# -- kinds ---------------------------------------------------------------------------------------------------------------------


def kinds(storage: Storage, feed: Feed, settings: Settings, made: Callable[[], None] = lambda: None) -> dict[str, Kind]:
    """``made`` is called when a job has made others."""

    def cut(run: Run) -> bool:
        while run.goes_on() and storage.cut(run.worker_id, run.job.id, settings.range):
            made()
        made()
        return False

    def deliver_range(run: Run) -> bool:
        over = threading.Event()

        def ended() -> None:
            over.set()
            run.nudge()

        feed.hold_range(run.job.id, ended)
        try:
            while not over.is_set() and run.goes_on(pause=settings.lease):
                """The worker does the rest."""
        finally:
            run.keep = not feed.let_range_go(run.job.id)
        return False

    def deliver_again(run: Run) -> bool:
        return Replaying(storage, run, 1.0 / settings.replay_rate).go_on()

    return {CUT: cut, RANGE: deliver_range, REPLAY: deliver_again}


class Replaying:
    """A job of kind `REPLAY` under way: from the newest message to the oldest, and not all at once."""

    PAGE = 100

    def __init__(self, storage: Storage, run: Run, pause: float) -> None:
        details = run.job.details
        self._storage = storage
        self._run = run
        self._pause = pause
        self._replay = Replay.from_details(details)
        self._subscription = (run.job.project, str(details["queue"]), str(details["subscription_id"]))
        self._done = {name: details.get(name, default) for name, default in (("marker", None), *_COUNTS)}

    def go_on(self) -> bool:
        """True when it is done. How far it is, is stored after each page, and when it has to stop."""
        while self._run.goes_on():
            page = self._page()
            stopped = not self._work_through(page)
            if not stopped and len(page) < self.PAGE:
                LOG.info(
                    "job %s: %d deliveries begin anew, %d could not", self._run.job.id, *map(self._done.get, dict(_COUNTS))
                )
                return True
            if not self._storage.advance_job(self._run.worker_id, self._run.job.id, {**self._run.job.details, **self._done}):
                return False
        return False

    def _page(self) -> list[DeliveryRecord]:
        project, queue, subscription_id = self._subscription
        if self._storage.get_subscription(project, queue, subscription_id) is None:
            return []
        return self._storage.subscription_deliveries(*self._subscription, self._done["marker"], self.PAGE) or []

    def _work_through(self, page: list[DeliveryRecord]) -> bool:
        for delivery in page:
            if self._replay.wanted.has(delivery.state, delivery.log[-1].at if delivery.log else None):
                if not self._run.goes_on(self._pause):
                    return False
                self._start_anew(delivery.message_id)
            self._done["marker"] = delivery.message_id
        return True

    def _start_anew(self, message_id: str) -> None:
        project, queue, subscription_id = self._subscription
        try:
            self._storage.redeliver(project, queue, message_id, subscription_id, self._replay.ttl)
            self._done["redelivered"] += 1
        except (errors.NotFound, errors.Conflict):  # its body was dropped, or somebody was quicker
            self._done["skipped"] += 1


_COUNTS = (("redelivered", 0), ("skipped", 0))
