"""The endpoints: one process with one epoll loop that serves any number of ports on 127.0.0.1.

It shares the cores with what it measures, so it does the least that an endpoint can do: find the end of the request, note which
message came when, answer fixed bytes. Framing relies on Content-Length, which libcurl always sends.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import errno
import gc
import heapq
import itertools
import multiprocessing
import multiprocessing.connection
import random
import re
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

HOST = "127.0.0.1"
FIRST_PORT, LAST_PORT = 20_000, 32_767
"""Below what Linux gives to outgoing connections, so that those cannot take a port that is to be listened on."""

_SENT_AT = re.compile(rb'"sent_at": ?([0-9.]+)')
_LENGTH = b"\r\ncontent-length:"
_MESSAGE = b"\r\nzaqar-notify-message-id:"


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What an endpoint does with a request."""

    status: int = 204
    delay: float = 0.0
    """Seconds before the answer."""
    listens: bool = True
    """False: the port is reserved and refuses connections."""
    answers: bool = True
    """False: it reads requests and never answers."""


ANSWERS = Behaviour()
REFUSES = Behaviour(listens=False)
SILENT = Behaviour(answers=False)


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """What came to endpoints that answer 2xx, one item a request, in order of arrival, duplicates included."""

    arrived_at: array.array[float]
    """Epoch seconds."""
    sent_at: array.array[float]
    """Epoch seconds that the generator put into the body."""
    endpoint: array.array[int]
    """Index into the endpoints."""

    def latencies(self) -> list[float]:
        """Publish to arrival, in seconds."""
        return [arrived - sent for arrived, sent in zip(self.arrived_at, self.sent_at, strict=True)]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came, against what was accepted, over the endpoints that answer 2xx."""

    expected: int
    arrived: int
    missing: int
    unknown: int
    """Deliveries of messages that nobody accepted."""
    duplicates: int

    @property
    def agrees(self) -> bool:
        return self.expected == self.arrived and not (self.missing or self.unknown or self.duplicates)


class Sink:
    """The process with the endpoints, as its starter sees it."""

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, tuple(behaviours)), daemon=True)
        self._process.start()
        theirs.close()
        self.urls: list[str] = [f"http://{HOST}:{port}/" for port in self._control.recv()]

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._control.close()
        self._process.join(10)
        self._process.close()

    def count(self) -> int:
        """Requests that endpoints which answer 2xx have had since `forget`."""
        return int(self._ask("count"))

    def attempts(self) -> list[int]:
        """Requests by endpoint, also of those that answer nothing."""
        return list(self._ask("attempts"))

    def forget(self) -> None:
        self._ask("forget")

    def arrivals(self) -> Arrivals:
        return Arrivals(*self._ask("arrivals"))

    def compare(self, accepted: Collection[str]) -> Comparison:
        return Comparison(*self._ask("compare", list(accepted)))

    def wait(self, expected: int, *, patience: float = 30.0) -> None:
        """Return when that many requests came, or none came for ``patience`` seconds."""
        count, moved_at = self.count(), time.monotonic()
        while count < expected and time.monotonic() - moved_at < patience:
            time.sleep(0.1)
            before, count = count, self.count()
            if count != before:
                moved_at = time.monotonic()

    def _ask(self, command: str, *arguments: Any) -> Any:
        self._control.send((command, *arguments))
        return self._control.recv()


class _Endpoint:
    __slots__ = ("answer", "attempts", "delay", "healthy", "index", "seen")

    def __init__(self, index: int, behaviour: Behaviour) -> None:
        self.index = index
        self.answer = b"HTTP/1.1 %d X\r\n%s\r\n" % (
            behaviour.status,
            b"" if behaviour.status == 204 else b"Content-Length: 0\r\n",
        )
        if not behaviour.answers:
            self.answer = b""
        self.delay = behaviour.delay
        self.healthy = behaviour.listens and behaviour.answers and 200 <= behaviour.status < 300
        self.attempts = 0
        self.seen: dict[bytes, int] = {}


class _Connection:
    __slots__ = ("endpoint", "pending", "socket")

    def __init__(self, connection: socket.socket, endpoint: _Endpoint) -> None:
        self.socket = connection
        self.endpoint = endpoint
        self.pending = b""


class _Loop:
    def __init__(self, control: multiprocessing.connection.Connection, behaviours: Sequence[Behaviour]) -> None:
        self.control = control
        self.epoll = select.epoll()
        self.epoll.register(control.fileno(), select.EPOLLIN)
        self.endpoints = [_Endpoint(index, behaviour) for index, behaviour in enumerate(behaviours)]
        self.connections: dict[int, _Connection] = {}
        self.late: list[tuple[float, int, _Connection]] = []
        self.order = itertools.count()
        self.forget()
        self.sockets = reserve(len(behaviours))
        self.listeners: dict[int, tuple[socket.socket, _Endpoint]] = {}
        for listener, endpoint, behaviour in zip(self.sockets, self.endpoints, behaviours, strict=True):
            if behaviour.listens:
                listener.listen(4096)
                listener.setblocking(False)
                self.listeners[listener.fileno()] = listener, endpoint
                self.epoll.register(listener.fileno(), select.EPOLLIN)
        control.send([listener.getsockname()[1] for listener in self.sockets])

    def run(self) -> None:
        poll, connections, listeners, receive = self.epoll.poll, self.connections, self.listeners, self.receive
        control = self.control.fileno()
        while True:
            timeout = max(0.0, self.late[0][0] - time.monotonic()) if self.late else None
            for descriptor, _ in poll(timeout):
                connection = connections.get(descriptor)
                if connection is not None:
                    receive(connection)
                elif descriptor in listeners:
                    self.accept(*listeners[descriptor])
                elif descriptor == control and not self.command():
                    return
            if self.late:
                self.answer_late()

    def accept(self, listener: socket.socket, endpoint: _Endpoint) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections[connection.fileno()] = _Connection(connection, endpoint)
                self.epoll.register(connection.fileno(), select.EPOLLIN)

    def receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            del self.connections[connection.socket.fileno()]
            connection.socket.close()
            return
        if connection.pending:
            data = connection.pending + data
        start = 0
        while (end := data.find(b"\r\n\r\n", start)) >= 0:
            head = data[start : end + 2].lower()
            stop = end + 4 + int(_field(head, head, _LENGTH))
            if len(data) < stop:
                break
            self.record(connection.endpoint, _field(head, data[start : end + 2], _MESSAGE), data, end, stop)
            self.answer(connection)
            start = stop
        connection.pending = data[start:]

    def record(self, endpoint: _Endpoint, message: bytes, data: bytes, begin: int, stop: int) -> None:
        endpoint.attempts += 1
        if not endpoint.healthy:
            return
        self.arrived_at.append(time.time())
        match = _SENT_AT.search(data, begin, stop)
        self.sent_at.append(float(match[1]) if match else 0.0)
        self.endpoint.append(endpoint.index)
        endpoint.seen[message] = endpoint.seen.get(message, 0) + 1

    def answer(self, connection: _Connection) -> None:
        endpoint = connection.endpoint
        if endpoint.delay:
            heapq.heappush(self.late, (time.monotonic() + endpoint.delay, next(self.order), connection))
        elif endpoint.answer:
            with contextlib.suppress(OSError):
                connection.socket.send(endpoint.answer)

    def answer_late(self) -> None:
        now = time.monotonic()
        while self.late and self.late[0][0] <= now:
            connection = heapq.heappop(self.late)[2]
            with contextlib.suppress(OSError):
                connection.socket.send(connection.endpoint.answer)

    def command(self) -> bool:
        try:
            name, *arguments = self.control.recv()
        except EOFError:
            return False
        commands: dict[str, Callable[..., object]] = {
            "count": lambda: len(self.arrived_at),
            "attempts": lambda: [endpoint.attempts for endpoint in self.endpoints],
            "forget": self.forget,
            "arrivals": lambda: (self.arrived_at, self.sent_at, self.endpoint),
            "compare": self.compare,
        }
        self.control.send(commands[name](*arguments))
        return True

    def forget(self) -> None:
        self.arrived_at, self.sent_at, self.endpoint = array.array("d"), array.array("d"), array.array("H")
        for endpoint in self.endpoints:
            endpoint.attempts = 0
            endpoint.seen = {}

    def compare(self, accepted: list[str]) -> tuple[int, int, int, int, int]:
        wanted = {message.encode() for message in accepted}
        healthy = [endpoint for endpoint in self.endpoints if endpoint.healthy]
        missing = sum(len(wanted - endpoint.seen.keys()) for endpoint in healthy)
        unknown = sum(len(endpoint.seen.keys() - wanted) for endpoint in healthy)
        duplicates = sum(sum(endpoint.seen.values()) - len(endpoint.seen) for endpoint in healthy)
        return len(wanted) * len(healthy), len(self.arrived_at), missing, unknown, duplicates

    def close(self) -> None:
        for item in (*self.sockets, *(connection.socket for connection in self.connections.values())):
            item.close()
        self.epoll.close()
        self.control.close()


def serve(control: multiprocessing.connection.Connection, behaviours: Sequence[Behaviour]) -> None:
    """Serve until the other end of ``control`` is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_file_limit()
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and a collection over many small records would be seen as latency
    loop = _Loop(control, behaviours)
    try:
        loop.run()
    finally:
        loop.close()


def reserve(number: int) -> list[socket.socket]:
    """Sockets bound to free ports, not listening yet: connections to them are refused."""
    first = random.randrange(FIRST_PORT, LAST_PORT)
    span = LAST_PORT - FIRST_PORT + 1
    bound: list[socket.socket] = []
    for offset in range(span):
        if len(bound) == number:
            break
        candidate = socket.socket()
        try:
            candidate.bind((HOST, FIRST_PORT + (first - FIRST_PORT + offset) % span))
        except OSError as error:
            candidate.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            bound.append(candidate)
    return bound


def raise_file_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _field(head: bytes, original: bytes, name: bytes) -> bytes:
    """A header's value out of ``original``, found in ``head``, which is the same in lower case; empty without the header."""
    begin = head.find(name)
    if begin < 0:
        return b"0" if name is _LENGTH else b""
    begin += len(name)
    return original[begin : head.find(b"\r\n", begin)].strip()
