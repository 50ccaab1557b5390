"""Turns between the processes of one machine."""

from __future__ import annotations

import fcntl
import os
import time

_PAUSE = 0.0002
"""Seconds between two tries to get a lock that another has."""


class FileLock:
    """A lock between processes, and between the `FileLock` objects of one. It ends with the process, however that ends."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; False when it is still held by another. Raises OSError."""
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up_at = None
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # A blocking call knows no timeout.
                now = time.monotonic()
                give_up_at = give_up_at or now + timeout
                if now >= give_up_at:
                    return False
                time.sleep(_PAUSE)
            else:
                return True

    def release(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
