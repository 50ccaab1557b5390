"""Look-ups of names, outside libcurl: a slow name delays nobody but itself."""

from __future__ import annotations

import collections
import dataclasses
import queue
import socket
import threading
import time
from collections.abc import Callable

from zaqar_notify.notifiers.http import Fault

MAX_ADDRESSES = 16
_UNKNOWN_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY})


@dataclasses.dataclass(slots=True, eq=False)
class Answer:
    addresses: tuple[str, ...]
    fault: Fault | None = None
    detail: str = ""
    fresh_until: float = 0.0
    usable_until: float = 0.0


Answered = Callable[[str, Answer], None]


def system_look_up(name: str) -> list[str]:
    """The addresses of a name, best first (RFC 6724). Raises `socket.gaierror`."""
    # Bytes keep Python's IDNA codec out of the way: it raises errors of its own for names that just do not exist.
    found = socket.getaddrinfo(name.encode(), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


class Resolver:
    """A cache in front of ``look_up``, with one look-up in flight per name and at most ``threads`` at once.

    An answer is fresh for ``ttl`` seconds; for as long again it is still given out while a new look-up runs behind it, so
    that a resolver that is slow or down for a while does not hold up names that are in use. ``failure_ttl``: for how long a
    failure is remembered.
    """

    def __init__(
        self,
        look_up: Callable[[str], list[str]] = system_look_up,
        *,
        ttl: float = 60.0,
        failure_ttl: float = 2.0,
        threads: int = 32,
        size: int = 20000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = ttl
        self._failure_ttl = failure_ttl
        self._max_threads = threads
        self._size = size
        self._look_up = look_up
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: collections.OrderedDict[str, Answer] = collections.OrderedDict()
        self._waiting: dict[str, list[Answered]] = {}
        self._names: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = 0
        self._closed = False

    def cached(self, name: str) -> Answer | None:
        """What is known about a name now; None: ask. Cheap."""
        answer = self._answers.get(name)
        if answer is None:
            return None
        now = self._clock()
        if now < answer.fresh_until:
            return answer
        if now < answer.usable_until:
            self._ask(name, None)
            return answer
        return None

    def ask(self, name: str, answered: Answered) -> None:
        """Look the name up; ``answered(name, answer)`` is called once, on another thread."""
        self._ask(name, answered)

    def close(self) -> None:
        """End the threads; look-ups that are under way are not waited for, and nobody is answered any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            threads = self._threads
        for _ in range(threads):
            self._names.put(None)

    def _ask(self, name: str, answered: Answered | None) -> None:
        with self._lock:
            if self._closed:
                return
            waiting = self._waiting.get(name)
            if waiting is None:
                waiting = self._waiting[name] = []
                self._names.put(name)
                if self._threads < min(self._max_threads, len(self._waiting)):
                    self._threads += 1
                    threading.Thread(target=self._work, name="resolver", daemon=True).start()
            if answered is not None:
                waiting.append(answered)

    def _work(self) -> None:
        while (name := self._names.get()) is not None:
            answer = self._resolve(name)
            with self._lock:
                answer = self._store(name, answer)
                waiting = self._waiting.pop(name, [])
            for answered in waiting:
                answered(name, answer)

    def _resolve(self, name: str) -> Answer:
        try:
            addresses = self._look_up(name)
        except (OSError, UnicodeError) as error:
            unknown = isinstance(error, socket.gaierror) and error.errno in _UNKNOWN_NAME
            fault = Fault.NAME_UNKNOWN if unknown else Fault.RESOLVER
            return Answer(
                (), fault, getattr(error, "strerror", None) or str(error), fresh_until=self._clock() + self._failure_ttl
            )
        now = self._clock()
        if not addresses:
            return Answer((), Fault.NAME_UNKNOWN, "it has no address", fresh_until=now + self._failure_ttl)
        return Answer(tuple(addresses[:MAX_ADDRESSES]), fresh_until=now + self._ttl, usable_until=now + 2 * self._ttl)

    def _store(self, name: str, answer: Answer) -> Answer:
        old = self._answers.get(name)
        if old is not None and answer.fault is Fault.RESOLVER and self._clock() < old.usable_until:
            old.fresh_until = answer.fresh_until  # a resolver that is down does not make a known name unknown
            return old
        if old is not None and old.addresses == answer.addresses:
            answer.addresses = old.addresses  # the same object: whoever compares sees at once that nothing changed
        self._answers[name] = answer
        self._answers.move_to_end(name)
        if len(self._answers) > self._size:
            self._answers.popitem(last=False)
        return answer
