"""Group commit: the work of many threads in one transaction, for a commit costs the same however much is in it."""

from __future__ import annotations

import abc
import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from zaqar_notify.errors import StorageUnavailable

_SIBLINGS_PAUSE = 0.0005
"""Seconds between two looks at whether others have come."""

Run = Callable[[Any, list[Any]], Sequence[Any]]
"""Gets the connection (or session) of the transaction and items; returns a result for each, in order."""


class Work:
    """What one thread wants written; the thread waits at the gate."""

    __slots__ = ("done", "durable", "error", "gate", "item", "result", "run", "together")

    def __init__(self, run: Run, item: Any, together: bool, durable: bool) -> None:
        self.run: Final = run
        self.item: Final = item
        self.together: Final = together
        """Its items may be given to one call of ``run`` with those of others that have the same."""
        self.durable: Final = durable
        self.result: Any = None
        self.error: Exception | None = None
        self.done = False
        self.gate = threading.Lock()
        self.gate.acquire()


class Grouping(abc.ABC):
    """The thread at the head of the queue leads. It does the work of all that wait, up to ``most`` of them, in one transaction,
    wakes them with their results, and hands the lead to the next."""

    failures: ClassVar[tuple[type[Exception], ...]] = (StorageUnavailable,)
    """What `_prepare` and `_perform` raise when nothing was stored: all that are served get it, translated."""

    patience: ClassVar[float] = _SIBLINGS_PAUSE
    """Seconds, at most, that a transaction waits for as many as the one before served: the threads that it woke come back with
    the next requests, and would each miss it by a little."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._mutex = threading.Lock()
        self._waiting: collections.deque[Work] = collections.deque()
        self._led = False
        self._together = 0  # how many the last transaction served

    def run(self, run: Run, item: Any, *, together: bool = True, durable: bool = True) -> Any:
        """Returns when it is stored; raises what ``run`` raises, and what the transaction fails with."""
        work = Work(run, item, together, durable)
        with self._mutex:
            self._waiting.append(work)
            leads = not self._led
            self._led = True
        if not leads:
            work.gate.acquire()
        if not work.done:
            self._lead()
        if work.error is not None:
            raise work.error
        return work.result

    def _prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Wait for what the transaction needs: what comes meanwhile is in it too."""

    @abc.abstractmethod
    def _perform(self, batch: list[Work]) -> None:
        """Do the work and commit; sets ``result`` or ``error`` of each. Nothing is stored when this raises."""

    def _translated(self, error: Exception) -> Exception:
        return error

    def _lead(self) -> None:
        batch: list[Work] = []
        failure: Exception = StorageUnavailable("Interrupted")
        try:
            self._wait_for_siblings()
            try:
                self._prepare()
            finally:
                batch = self._next_batch()
            self._perform(batch)
            for work in batch:
                work.done = True
        except self.failures as error:
            failure = self._translated(error)
        finally:
            self._wake(batch, failure)

    def _wait_for_siblings(self) -> None:
        give_up_at = time.monotonic() + self.patience
        while len(self._waiting) < self._together and time.monotonic() < give_up_at:
            time.sleep(_SIBLINGS_PAUSE)

    def _next_batch(self) -> list[Work]:
        with self._mutex:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
        self._together = len(batch)
        return batch

    def _wake(self, batch: list[Work], failure: Exception) -> None:
        for work in batch:
            if not work.done:
                # An exception of its own for each thread: raising one changes it.
                work.error = type(failure)(*failure.args) if isinstance(failure, StorageUnavailable) else failure
                work.done = True
        with self._mutex:
            following = self._waiting[0] if self._waiting else None
            self._led = following is not None
        for work in batch[1:]:
            work.gate.release()
        if following is not None:
            following.gate.release()


def units(batch: list[Work]) -> list[list[Work]]:
    """Parts of a batch that succeed or fail as one."""
    found: list[list[Work]] = []
    together: dict[Run, list[Work]] = {}
    for work in batch:
        if work.together and work.run in together:
            together[work.run].append(work)
            continue
        found.append([work])
        if work.together:
            together[work.run] = found[-1]
    return found
