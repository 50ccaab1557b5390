"""Who runs the long jobs, and how they are come by: from the storage's leases, or from a TaskFlow job board by a conductor.

The board spreads the jobs, and knows nothing that the storage does not: a job that is lost from it is posted again, one that is
there twice is run once, and while the board is away for longer than `fallback_after` the jobs are taken from the storage's
leases, as without a board.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, Protocol

import taskflow.engines
from taskflow import exceptions, task
from taskflow.conductors.backends import impl_nonblocking
from taskflow.patterns import linear_flow
from taskflow.types import timing

from zaqar_notify import errors, jobs
from zaqar_notify.boards import Board
from zaqar_notify.jobs import Kind, Result, Run, Runner
from zaqar_notify.model import Job
from zaqar_notify.storage.base import Storage

LOG = logging.getLogger(__name__)

CLAIMED_PAUSE = 1.0
"""Seconds until a job is looked at again that another conductor has claimed, or another worker holds."""
LONGEST_BREAK = 10.0
"""Seconds between two tries to reach the board, at most."""
SILENCE = 60.0
"""Seconds between two warnings about a board that stays away."""
UNREADABLE = (LookupError, TypeError, ValueError)
"""What TaskFlow raises for something on the board that is none of its jobs; it has removed that then."""
STOP_WAIT = 5.0
"""Seconds that stopping waits for jobs to be let go. One that hangs longer is free when its hold runs out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings(jobs.Settings):
    repost_interval: float = 5.0
    most_posted: int = 500
    fallback_after: float = 30.0


class Worker(jobs.Feed, Protocol):
    @property
    def id(self) -> int:
        """0 before it has joined."""


class Cluster:
    """The threads of a worker that run jobs. ``make_board`` is called with 0, 1, 2 ... for each try to connect."""

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        make_board: Callable[[int], Board] | None = None,
        further: Mapping[str, Kind] | None = None,
    ) -> None:
        self._storage = storage
        self._settings = settings
        self._make_board = make_board
        self._further = further or {}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()
        self._woken = threading.Event()
        self._link: Link | None = None
        self._runner: Runner | None = None

    def start(self, worker: Worker) -> None:
        kinds = jobs.kinds(self._storage, worker, self._settings, self.wake)
        self._runner = runner = Runner(self._storage, self._settings, {**kinds, **self._further}, lambda: worker.id)
        targets = {f"jobs-{number}": self._take_leases for number in range(1, self._settings.jobs + 1)}
        if self._make_board is not None:
            name = f"{socket.gethostname()}-{os.getpid()}-{worker.id}"
            self._link = Link(name, self._storage, runner, self._settings, make_board=self._make_board, stopping=self._stopping)
            targets["board"] = self._link.run
        for name, target in targets.items():
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def wake(self) -> None:
        """There are new jobs. Safe to call from any thread, and quick."""
        self._woken.set()
        if self._link is not None:
            self._link.wake()

    def stop(self) -> None:
        """Let all jobs go at once, but for ranges of which a page is under way: `Storage.leave` does that."""
        self._stopping.set()
        self.wake()
        if self._link is not None:
            self._link.stop()
        end = time.monotonic() + STOP_WAIT
        if self._runner is not None:
            self._runner.stop(STOP_WAIT)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _take_leases(self) -> None:
        """One thread at a time looks for a job; who finds one lets the next one look."""
        while not self._stopping.is_set():
            with self._turn:
                run = self._look()
            if run is not None and self._runner is not None:
                self._runner.work(run)

    def _look(self) -> Run | None:
        while not self._stopping.is_set():
            if self._runner is not None and (self._link is None or self._link.is_lost):
                try:
                    run = self._runner.take()
                except errors.StorageUnavailable as error:
                    LOG.debug("looking for jobs has to wait: %s", error)
                else:
                    if isinstance(run, Run):
                        return run
            self._woken.wait(self._settings.poll_interval)
            self._woken.clear()
        return None


class Link:
    """The board's side of a worker, on a thread of its own: connect, post what is missing, run a conductor, and begin anew when
    the board does not answer."""

    def __init__(
        self,
        name: str,
        storage: Storage,
        runner: Runner,
        settings: Settings,
        *,
        make_board: Callable[[int], Board],
        stopping: threading.Event,
    ) -> None:
        self._name = name
        self._poster = Poster(storage, settings)
        self._runner = runner
        self._settings = settings
        self._make_board = make_board
        self._stopping = stopping
        self._pause = _Pause(settings.poll_interval)
        self._answered_at = time.monotonic()
        self._away_since: float | None = None
        self._warned_at = -SILENCE

    @property
    def is_lost(self) -> bool:
        """The board has not answered for so long that jobs are not to wait for it."""
        return time.monotonic() - self._answered_at > self._settings.fallback_after

    def wake(self) -> None:
        self._poster.hurry()
        self._pause.wake()

    def stop(self) -> None:
        self._pause.interrupt()

    def answered(self) -> None:
        self._answered_at = time.monotonic()
        if self._away_since is not None:
            LOG.info("the job board answers again, after %.0f s", self._answered_at - self._away_since)
            self._away_since = None

    def run(self) -> None:
        turn = 0
        break_ = self._settings.poll_interval
        while not self._stopping.is_set():
            began = time.monotonic()
            board = self._make_board(turn)
            try:
                board.connect()
                self._conduct(board)
            except (exceptions.TaskFlowException, BoardAway, *UNREADABLE, *board.errors) as error:
                self._complain(error)
            finally:
                _close(board)
            turn += 1
            break_ = self._settings.poll_interval if self._answered_at > began else min(2 * break_, LONGEST_BREAK)
            self._stopping.wait(break_)

    def _conduct(self, board: Board) -> None:
        """Until the board fails, or somebody stops it."""
        self._poster.hurry()
        desk = Desk(board, self._poster, self._runner, self.answered)
        conductor = Conductor(self._name, desk, self._runner, self._pause, self._settings.jobs)
        try:
            conductor.run()
        finally:
            conductor.wait_for_jobs(STOP_WAIT if self._stopping.is_set() else 0.0)

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        if now - self._warned_at >= SILENCE:
            self._warned_at = now
            LOG.warning(
                "the job board does not answer: %s. It is tried again; after %.0f s jobs are taken from the storage without it",
                _why(error),
                self._settings.fallback_after,
            )


class BoardAway(Exception):
    """The board does not answer. Not among TaskFlow's errors: its conductor would go on with a broken connection."""


class Desk:
    """What a conductor sees of the board: jobs of the storage that it may try to claim, the oldest first."""

    def __init__(self, board: Board, poster: Poster, runner: Runner, answered: Callable[[], None]) -> None:
        self._board = board
        self._poster = poster
        self._runner = runner
        self._answered = answered

    def iterjobs(self, only_unclaimed: bool = False, ensure_fresh: bool = False) -> Iterator[Any]:
        with _known(self._board):
            listing = self._board.listing()
            self._answered()
            listing += self._poster.post_missing(self._board, listing)
        for posting in oldest_first(listing):
            off = self._runner.is_off(posting.details["job_id"])
            if not off and self._runner.has_room_for(posting.details.get("kind")):
                yield posting

    def claim(self, posting: Any, who: str) -> None:
        try:
            with _known(self._board):
                self._board.claim(posting, who)
        except (exceptions.UnclaimableJob, exceptions.NotFound):
            self._runner.put_off(posting.details["job_id"], CLAIMED_PAUSE)
            raise

    def renew(self, posting: Any, who: str) -> None:
        """A claim that is lost costs nothing: who claims the job finds that it is held."""
        try:
            with _known(self._board):
                self._board.renew(posting, who)
        except (BoardAway, exceptions.NotFound) as error:
            LOG.debug("the claim on job %s could not be renewed: %s", posting.details["job_id"], error)

    def finish(self, posting: Any, who: str, ended: bool) -> None:
        try:
            with _known(self._board):
                if ended:
                    self._board.consume(posting, who)
                else:
                    self._board.abandon(posting, who)
        except (BoardAway, exceptions.NotFound) as error:
            LOG.debug("job %s could not be taken off the board, or given back: %s", posting.details["job_id"], error)

    def register_entity(self, entity: Any) -> None:
        """Conductors are members of the storage."""


class Poster:
    """Posts what the storage has and the board has not: at once when hurried, else now and then."""

    PAGE = 100

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._due_at = 0.0

    def hurry(self) -> None:
        self._due_at = 0.0

    def post_missing(self, board: Board, listing: list[Any]) -> list[Any]:
        """What was posted. The board's listing is read as a whole, by everybody: it is kept short, and the rest waits."""
        now = time.monotonic()
        room = self._settings.most_posted - len(listing)
        if now < self._due_at or room <= 0:
            return []
        # What others have made they post themselves, unless they have died.
        before = self._storage.now() - self._settings.repost_interval if self._due_at else None
        self._due_at = now + self._settings.repost_interval
        try:
            missing = list(itertools.islice(self._missing(before, listing), room))
        except errors.StorageUnavailable as error:
            LOG.debug("looking for jobs that are not on the board has to wait: %s", error)
            return []
        return [board.post(f"{job.kind} {job.id}", details={"job_id": job.id, "kind": job.kind}) for job in missing]

    def _missing(self, before: float | None, listing: list[Any]) -> Iterator[Job]:
        """What can wait gets half of the places at most: it must not keep off the board what cannot."""
        there = {posting.details.get("job_id") for posting in listing}
        room = self._settings.most_posted // 2 - sum(posting.details.get("kind") in jobs.BACKGROUND for posting in listing)
        for job in self._open_jobs(before):
            if job.id in there or (job.kind in jobs.BACKGROUND and room <= 0):
                continue
            room -= job.kind in jobs.BACKGROUND
            yield job

    def _open_jobs(self, before: float | None) -> Iterator[Job]:
        """Read as far as they are asked for; those made since ``before`` are left out."""
        marker = None
        while True:
            page = self._storage.list_jobs(marker, self.PAGE, failed=False)
            for job in page:
                if before is not None and job.created_at > before:
                    return
                yield job
            if len(page) < self.PAGE:
                return
            marker = page[-1].id


class Conductor(impl_nonblocking.NonBlockingConductor):  # type: ignore[misc]
    """Claims what it finds on the desk, and runs each job as a flow, on a thread of its own, that is made from what the board
    has of it: its kind and its id. There is no logbook: how far a job is, is in the storage."""

    def __init__(self, name: str, desk: Desk, runner: Runner, pause: _Pause, most: int) -> None:
        super().__init__(name, desk, wait_timeout=pause, max_simultaneous_jobs=most, executor_factory=_Threads)
        self._desk = desk
        self._runner = runner

    def wait_for_jobs(self, timeout: float) -> None:
        """Until what was claimed is off the board or given back."""
        end = time.monotonic() + timeout
        while self._dispatched and time.monotonic() < end:
            time.sleep(0.01)

    def _engine_from_job(self, job: Any) -> Any:
        def work(job_id: str) -> Result:
            return self._work(job, job_id)

        flow = linear_flow.Flow(job.name).add(task.FunctorTask(work, name=str(job.details.get("kind")), provides="result"))
        return taskflow.engines.load(flow, store={"job_id": job.details["job_id"]}, engine="serial")

    def _dispatch_job(self, job: Any) -> bool:
        """Whether the board can forget it."""
        engine = self._engine_from_job(job)
        engine.run()
        return bool(engine.storage.fetch("result") is Result.ENDED)

    def _work(self, job: Any, job_id: str) -> Result:
        try:
            run = self._runner.take(job_id)
        except errors.StorageUnavailable as error:
            LOG.debug("job %s has to wait: %s", job_id, error)
            run = Result.LET_GO
        if isinstance(run, Run):
            return self._runner.work(run, renewed=lambda: self._desk.renew(job, self._name))
        if run is not Result.ENDED and not self._runner.is_off(job_id):
            self._runner.put_off(job_id, CLAIMED_PAUSE)
        return run

    def _can_claim_more_jobs(self, job: Any) -> bool:
        return self._runner.has_room and bool(super()._can_claim_more_jobs(job))

    def _try_finish_job(self, job: Any, consume: bool, trash: bool = False) -> None:
        self._desk.finish(job, self._name, consume and not trash)


class _Threads(futures.Executor):
    """A daemon thread for each call: jobs are few and long, and one that hangs must not hold up the end of the process."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> futures.Future[Any]:
        future: futures.Future[Any] = futures.Future()

        def work() -> None:
            try:
                result = function(*arguments, **keywords)
            except BaseException as error:  # noqa: BLE001 - handed to who waits for the result
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=work, name="board-job", daemon=True).start()
        return future


class _Pause(timing.Timeout):  # type: ignore[misc]
    """A conductor's wait between two looks at the board; can be cut short without stopping it."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self._woken = threading.Event()

    def wake(self) -> None:
        self._woken.set()

    def interrupt(self) -> None:
        super().interrupt()
        self._woken.set()

    def wait(self) -> None:
        self._woken.wait(self.value)
        self._woken.clear()


def oldest_first(listing: Iterable[Any]) -> list[Any]:
    """Of each job of the storage the posting that came first. What is not ours is left out."""
    found: dict[str, Any] = {}
    for posting in listing:
        job_id = posting.details.get("job_id")
        if isinstance(job_id, str) and (job_id not in found or posting.sequence < found[job_id].sequence):
            found[job_id] = posting
    return [found[job_id] for job_id in sorted(found)]


@contextlib.contextmanager
def _known(board: Board) -> Iterator[None]:
    """Every failure but the two that are answers is `BoardAway`."""
    try:
        yield
    except (exceptions.UnclaimableJob, exceptions.NotFound):
        raise
    except (exceptions.TaskFlowException, *board.errors) as error:
        raise BoardAway(_why(error)) from error


def _close(board: Board) -> None:
    try:
        board.close()
    except (exceptions.TaskFlowException, *board.errors) as error:
        LOG.debug("closing the job board: %s", _why(error))


def _why(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if error.__cause__ is None or isinstance(error, BoardAway) else f"{text}: {_why(error.__cause__)}"
