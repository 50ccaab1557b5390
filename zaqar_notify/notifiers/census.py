"""Whose threads are they? A notifier that leaves threads behind at each send would take all that the process may have.

A new thread has the name, for the kernel, of the thread that started it (Linux, ``PR_SET_NAME`` of prctl(2)). So what sends
for a notifier is named after it, and what has its name, beside those, was started by it or by what it started. ``top -H`` shows
them.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import time
from collections.abc import Callable

_TASKS = "/proc/self/task"
_SET_NAME = 15
_NAME_LENGTH = 15
_PAUSE, _LEAKING_PAUSE = 0.1, 1.0
"""Seconds between two looks."""

_numbers = itertools.count(1)


def _find_prctl() -> Callable[..., int] | None:
    try:
        prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None  # no Linux: nothing is counted
    return prctl


_prctl = _find_prctl()


class Census:
    """Of one notifier. ``most`` threads may be its own; 0: as many as it likes."""

    def __init__(self, name: str, most: int, log: logging.Logger) -> None:
        self._name = name
        self._most = most
        self._log = log
        self._label = f"zn{next(_numbers)}-{name}".encode("ascii", "replace")[:_NAME_LENGTH]
        self._looked_at = 0.0
        self._leaking = False

    def name_this_thread(self) -> None:
        if _prctl is not None:
            _prctl(_SET_NAME, self._label, 0, 0, 0)

    def is_leaking(self, ours: int) -> bool:
        """More than it may have are alive, beside ``ours`` that send for it. Cheap: looks but from time to time."""
        if not self._most or _prctl is None:
            return False
        now = time.monotonic()
        if now >= self._looked_at + (_LEAKING_PAUSE if self._leaking else _PAUSE):
            self._looked_at = now
            self._look(ours)
        return self._leaking

    def _look(self, ours: int) -> None:
        # A directory has a link for each of its own, and two more: this is much cheaper than to read the names.
        some = os.stat(_TASKS).st_nlink - 2 > self._most
        count = max(0, self.count() - ours) if some else 0
        if count > self._most and not self._leaking:
            self._leaking = True
            self._log.error(
                "%s leaks threads: %d that it has started are alive, and it may have %d; it sends nothing until they end",
                *(self._name, count, self._most),
            )
        elif count <= self._most // 2 and self._leaking:
            self._leaking = False
            self._log.warning("%s has given back its threads, and is used again", self._name)

    def count(self) -> int:
        """Threads that are alive and have its name."""
        return sum(_label(task) == self._label for task in os.listdir(_TASKS))


def _label(task: str) -> bytes:
    try:
        with open(f"{_TASKS}/{task}/comm", "rb") as file:
            return file.read().rstrip(b"\n")
    except OSError:  # it has ended
        return b""
