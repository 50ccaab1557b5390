"""Tells the workers on this machine that there is work: a datagram to each one's Unix socket in a directory.

A datagram is a hint (0.03 ms instead of half a poll interval); the workers' slow poll is the guarantee, so nothing here fails
a request, and a datagram that finds a full or dead socket is dropped.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

_RESCAN = 1.0
"""Seconds for which the list of sockets in the directory is believed."""


class Waker:
    """The sending side; safe to use from several threads."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._paths: list[str] = []
        self._scanned_at = -_RESCAN

    def notify(self) -> None:
        if time.monotonic() - self._scanned_at >= _RESCAN:
            self._paths = self._scan()
            self._scanned_at = time.monotonic()
        for path in self._paths:
            # A full buffer means that the worker has been told already; a dead socket that it is gone.
            with contextlib.suppress(OSError):
                self._socket.sendto(b"!", path)

    def _scan(self) -> list[str]:
        try:
            return [_short(self._directory, name) for name in os.listdir(self._directory) if name.endswith(".sock")]
        except FileNotFoundError:
            return []

    def close(self) -> None:
        self._socket.close()


class Listener:
    """The worker's side: a socket to select on."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        _remove_dead(directory)
        self._path = os.path.join(directory, f"{os.getpid()}.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(_short(directory, os.path.basename(self._path)))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """True when there was at least one wake-up since the last call."""
        woken = False
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(16):
                woken = True
        return woken

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _short(directory: str, name: str) -> str:
    """A path that fits into the 108 bytes of a socket address, however long the directory's is (Linux)."""
    path = os.path.join(directory, name)
    if len(os.fsencode(path)) <= 100:
        return path
    return f"/proc/self/fd/{_descriptor(directory)}/{name}"


_descriptors: dict[str, int] = {}


def _descriptor(directory: str) -> int:
    if directory not in _descriptors:
        _descriptors[directory] = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    return _descriptors[directory]


def _remove_dead(directory: str) -> None:
    """A killed worker leaves its socket behind; its name is the process id."""
    for name in os.listdir(directory):
        pid = name.removesuffix(".sock")
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
