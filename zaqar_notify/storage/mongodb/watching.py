"""Telling the workers of other machines that there is work, and hearing of it: hints, and polling is the guarantee."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pymongo.errors import PyMongoError

from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.storage.mongodb.collections import WAKES, Document
from zaqar_notify.storage.mongodb.session import Database

LOG = logging.getLogger(__name__)

_BETWEEN = 0.005
"""Seconds between two announcements of a process, at least."""
_PAUSE = (0.1, 5.0)
"""Seconds until a broken stream is opened again: the first time, and at most."""
_MOST_WAIT = 1000
"""Milliseconds that the server waits for a change before it answers that there is none."""


class Announcer:
    """Touches the document that everybody watches, from a thread of its own: many calls at once are one touch."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked = threading.Event()
        self._ended = threading.Event()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None

    def announce(self) -> None:
        self._asked.set()
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def _start(self) -> None:
        """Also in a process that was forked, which has the object and not its thread."""
        with self._mutex:
            if self._ended.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="announce", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            if self._ended.is_set():
                return
            self._asked.clear()
            try:
                self._database.touch(WAKES)
            except (PyMongoError, StorageUnavailable) as error:
                LOG.debug("the workers of other machines were not told of work: %s", error)
            self._ended.wait(_BETWEEN)

    def close(self) -> None:
        self._ended.set()
        self._asked.set()


class Watcher:
    """Calls ``wake`` at each touch of the document, and whenever the stream of changes is opened (again): what came meanwhile
    is not in it."""

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2 * _MOST_WAIT / 1000)

    def _run(self) -> None:
        first, longest = _PAUSE
        pause = first
        while not self._ended.is_set():
            try:
                with self._database.changes_of(WAKES, _MOST_WAIT) as changes:
                    pause = first
                    self._wake()
                    while not self._ended.is_set() and changes.alive:
                        change: Document | None = changes.try_next()
                        if change is not None:
                            self._wake()
            except (PyMongoError, StorageUnavailable) as error:
                if not self._ended.is_set():
                    LOG.info("who posts on other machines is not heard for now: %s", error)
            self._ended.wait(pause)
            pause = min(2 * pause, longest)
