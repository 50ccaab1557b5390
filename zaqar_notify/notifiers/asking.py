"""What other people's code is asked on the way of all deliveries: on threads of its own, and for a bounded time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from zaqar_notify.errors import NotifierFailed
from zaqar_notify.notifiers.census import Census

MOST_LOST = 4
"""Questions without an answer, after which no more are asked until one of them is answered."""

_Answer = TypeVar("_Answer")


class _Question:
    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.answered: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self.given_up = False


class Asking:
    """Its threads are as many as there are questions at once, and are used again."""

    def __init__(self, name: str, census: Census | None = None) -> None:
        """``census``: what these threads start counts as the notifier's."""
        self._name = name
        self._census = census
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._lost = 0

    def ask(self, call: Callable[[], _Answer], patience: float) -> _Answer:
        """What the call returns or raises; raises `NotifierFailed` when it takes longer than ``patience`` seconds."""
        question = _Question(call)
        with self._lock:
            if self._lost >= MOST_LOST:
                raise NotifierFailed("The notifier hangs")
            new = not self._idle
            self._idle -= not new
        if new:
            self._start()
        self._questions.put(question)
        try:
            answer, error = question.answered.get(timeout=patience)
        except queue.Empty:
            self._give_up(question)
            raise NotifierFailed(f"The notifier did not answer within {patience:g} s") from None
        if error is not None:
            raise error
        found: _Answer = answer
        return found

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name=f"{self._name}-asked", daemon=True).start()
        except RuntimeError as error:
            raise NotifierFailed(f"The notifier cannot be asked: {error}") from error
        self._threads += 1

    def _give_up(self, question: _Question) -> None:
        with self._lock:
            if question.answered.empty():  # it may have come in this moment
                question.given_up = True
                self._lost += 1

    def _run(self) -> None:
        if self._census is not None:
            self._census.name_this_thread()
        while (question := self._questions.get()) is not None:
            answer, error = None, None
            try:
                answer = question.call()
            except BaseException as raised:  # noqa: BLE001 - for whoever asks
                error = raised
            with self._lock:
                self._idle += 1
                self._lost -= question.given_up
                question.answered.put((answer, error))

    def close(self) -> None:
        for _ in range(self._threads):
            self._questions.put(None)
