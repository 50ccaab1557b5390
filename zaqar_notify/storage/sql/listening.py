"""PostgreSQL's NOTIFY as a hint for the workers of other machines, on connections of its own. Threads start at first use."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

LOG = logging.getLogger(__name__)

_CHANNEL = "zaqar_notify_work"
_COALESCED = 0.005
"""Seconds between two announcements at least: each wakes every worker."""
_RECONNECT = (0.1, 5.0)
"""Seconds until the second try to connect, and at most."""

Connect = Callable[[], psycopg.Connection[Any]]


class Announcer:
    """Many calls in a short time are one NOTIFY, in no transaction of anybody. What fails is forgotten: workers poll."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._process = 0

    def announce(self) -> None:
        if not self._wanted.is_set():
            self._wanted.set()
        if self._process != os.getpid():
            self._start()

    def close(self) -> None:
        self._closed = True
        self._wanted.set()
        if self._thread is not None and self._process == os.getpid():
            self._thread.join(_RECONNECT[1])

    def _start(self) -> None:
        """A thread does not live on in a process that was forked."""
        with self._lock:
            if self._process != os.getpid() and not self._closed:
                self._process = os.getpid()
                self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        while self._wanted.wait() and not self._closed:
            self._wanted.clear()
            try:
                if connection is None:
                    connection = self._connect()
                connection.execute(f"NOTIFY {_CHANNEL}")
            except psycopg.Error:
                if connection is not None:
                    connection.close()
                connection = None
                # Nobody waits for it; who is told too late has polled.
                time.sleep(_RECONNECT[0])
            time.sleep(_COALESCED)
        if connection is not None:
            connection.close()


class Listener:
    """Calls ``wake`` when somebody has announced work, and whenever it may have missed that."""

    def __init__(self, connect: Connect, wake: Callable[[], None]) -> None:
        self._connect = connect
        self._wake = wake
        self._closed = threading.Event()
        self._ears, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nothing is called any more when it returns, unless it is called by ``wake`` itself."""
        if self._closed.is_set():
            return
        self._closed.set()
        os.write(self._end, b"x")
        if self._thread is not threading.current_thread():
            self._thread.join()
        os.close(self._end)

    def _run(self) -> None:
        pause, longest = _RECONNECT
        try:
            while not self._closed.is_set():
                try:
                    with contextlib.closing(self._connect()) as connection:
                        connection.execute(f"LISTEN {_CHANNEL}")
                        pause = _RECONNECT[0]
                        self._listen(connection)
                except psycopg.Error as error:
                    reason = str(error).strip().partition("\n")[0]
                    LOG.warning("cannot hear of work of other machines, which is found by polling: %s", reason)
                    self._closed.wait(pause)
                    pause = min(2 * pause, longest)
        finally:
            os.close(self._ears)

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        """Returns when it is closed; raises when the connection is lost."""
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._ears, select.POLLIN)
        # Also for what was announced before.
        self._wake()
        while not self._closed.is_set():
            poll.poll()
            if not self._closed.is_set() and list(connection.notifies(timeout=0)):
                self._wake()
