"""What a process uses, and what it must not."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Iterator

_FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")
_ALLOWED = ("socket.gethostname",)
_watched: dict[int, list[str]] = {}
"""By the id of a thread: what it has done that it should not."""
_watching = threading.Lock()
_hooked = False


@contextlib.contextmanager
def without_io() -> Iterator[list[str]]:
    """The list gets what this thread does over a network or with other processes, as Python's auditing names it."""
    _install()
    done: list[str] = []
    _watched[threading.get_ident()] = done
    try:
        yield done
    finally:
        del _watched[threading.get_ident()]


def _install() -> None:
    """Once: nothing removes such a hook again."""
    global _hooked  # noqa: PLW0603
    with _watching:
        if not _hooked:
            sys.addaudithook(_audit)
            _hooked = True


def _audit(event: str, _: object) -> None:
    if _watched and event.startswith(_FORBIDDEN) and event not in _ALLOWED:
        done = _watched.get(threading.get_ident())
        if done is not None:
            done.append(event)


def used() -> tuple[int, int]:
    """How many file descriptors and threads this process has (Linux; elsewhere the threads that Python knows of)."""
    gc.collect()
    try:
        return len(os.listdir("/proc/self/fd")), os.stat("/proc/self/task").st_nlink - 2
    except OSError:
        return 0, threading.active_count()
