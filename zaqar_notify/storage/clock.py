"""The clock of a database server, as a process knows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from zaqar_notify.errors import StorageUnavailable

_LIFETIME = 5.0
_ASK_AGAIN = 1.0
"""Seconds after a question without an answer."""


class ServerClock:
    """Asks the server at its first use and now and then, and counts on by this machine's monotonic clock in between: its wall
    clock does not matter."""

    def __init__(self, ask: Callable[[], float], lifetime: float = _LIFETIME) -> None:
        """``ask`` returns the server's epoch seconds, or raises `StorageUnavailable`. ``lifetime``: seconds that an answer is
        counted on."""
        self._ask = ask
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._offset: float | None = None
        self._good_until = 0.0

    def __call__(self) -> float:
        """Raises `StorageUnavailable` when the server has never answered."""
        if time.monotonic() >= self._good_until and self._lock.acquire(blocking=self._offset is None):
            try:
                self._learn()
            finally:
                self._lock.release()
        if self._offset is None:
            raise StorageUnavailable("The database cannot be used now: it has not told the time")
        return time.monotonic() + self._offset

    def _learn(self) -> None:
        asked_at = time.monotonic()
        if asked_at < self._good_until:
            return  # another thread has asked meanwhile
        try:
            told = self._ask()
        except StorageUnavailable:
            if self._offset is None:
                raise
            self._good_until = time.monotonic() + _ASK_AGAIN
            return
        answered_at = time.monotonic()
        # It looked at its clock somewhere between the two.
        self._offset = told - (asked_at + answered_at) / 2
        self._good_until = answered_at + self._lifetime
