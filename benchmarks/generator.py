"""The load: a process of its own that posts messages over keep-alive connections and checks every reply.

Without a rate it is a closed loop (each client posts again as soon as it has its answer); with a rate it is an open one: a post
that finds no idle client waits, and that wait counts as part of its latency.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import gc
import multiprocessing
import multiprocessing.connection
import re
import select
import signal
import socket
import time
import uuid

HOST = "127.0.0.1"
PROJECT = "benchmark"
PATIENCE = 60.0
"""Seconds without any reply after which the load gives up."""
CLIENT_ID = str(uuid.UUID(int=1))
_MESSAGE = re.compile(rb'/messages/([^"?/,]+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_INSTANT = b"%017.6f"


@dataclasses.dataclass(frozen=True)
class Load:
    port: int
    queue: str
    duration: float | None = None
    """Seconds; or until ``posts`` are made."""
    posts: int | None = None
    rate: float | None = None
    """Posts a second; None: as fast as the answers come."""
    clients: int = 16
    batch: int = 1
    """Messages in one post."""
    size: int = 1024
    """Bytes of the JSON text of one message's body."""
    key: str | None = None
    """An API key that is sent along."""
    project: str = PROJECT


@dataclasses.dataclass
class Posted:
    started_at: float = 0.0
    ended_at: float = 0.0
    """Epoch seconds: the first request, the last reply."""
    posts: int = 0
    accepted: list[str] = dataclasses.field(default_factory=list)
    """Ids of the messages."""
    latencies: array.array[float] = dataclasses.field(default_factory=lambda: array.array("d"))
    """Seconds from request to reply, one for each post."""
    faults: list[str] = dataclasses.field(default_factory=list)
    """Replies that were not as they should be, and lost connections."""

    @property
    def per_second(self) -> float:
        return self.posts / (self.ended_at - self.started_at) if self.posts else 0.0


class Generator:
    """The process with the load, as its starter sees it."""

    def __init__(self, load: Load) -> None:
        context = multiprocessing.get_context("spawn")
        self._results, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(theirs, load), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Posted:
        """Wait for the end of the load."""
        try:
            posted: Posted = self._results.recv()
        finally:
            self._results.close()
            self._process.join(10)
        self._process.close()
        return posted


def post(load: Load) -> Posted:
    return Generator(load).result()


def _run(results: multiprocessing.connection.Connection, load: Load) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.disable()
    results.send(_Loop(load).run())
    results.close()


class _Client:
    __slots__ = ("began_at", "pending", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.pending = b""
        self.began_at: float | None = None
        """``perf_counter`` seconds of the request that has no reply yet."""


class _Loop:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.request = request_template(load)
        self.epoll = select.epoll()
        self.clients: dict[int, _Client] = {}
        self.idle: collections.deque[_Client] = collections.deque(self.connect() for _ in range(load.clients))
        self.started = 0
        """Requests sent."""
        self.behind = False
        """What is due had to wait for an idle client, so that the instant at which it was due counts."""
        self.posted = Posted()

    def run(self) -> Posted:
        self.posted.started_at, self.begin = time.time(), time.perf_counter()
        while True:
            timeout = self.send_due()
            if timeout is None and len(self.idle) == len(self.clients):
                break
            events = self.epoll.poll(PATIENCE if timeout is None else timeout)
            for descriptor, _ in events:
                self.receive(self.clients[descriptor])
            if timeout is None and not events:
                self.posted.faults.append(f"no reply within {PATIENCE:g} s")
                break
        for client in self.clients.values():
            client.socket.close()
        self.epoll.close()
        return self.posted

    def send_due(self) -> float | None:
        """Send what is due to idle clients; returns seconds until the next is due, None when there is none."""
        load, idle = self.load, self.idle
        while not self.over():
            now = time.perf_counter()
            due = now if load.rate is None else self.begin + self.started / load.rate
            if due > now:
                self.behind = False
                return due - now
            if not idle:
                self.behind = True
                return 1.0
            self.send(idle.popleft(), due if self.behind else now, now)
        return None

    def over(self) -> bool:
        load = self.load
        if load.posts is not None:
            return self.started >= load.posts
        if load.rate is not None:
            return self.started >= (load.duration or 0) * load.rate
        return time.perf_counter() - self.begin >= (load.duration or 0)

    def send(self, client: _Client, since: float, now: float) -> None:
        instant = _INSTANT % (time.time() - (now - since))
        self.started += 1
        client.began_at = since
        try:
            client.socket.send(self.request.replace(_PLACE, instant))
        except OSError as error:
            self.lost(client, str(error))

    def receive(self, client: _Client) -> None:
        try:
            data = client.socket.recv(65536)
        except OSError as error:
            self.lost(client, str(error))
            return
        if not data:
            self.lost(client, "closed by the server")
            return
        if client.pending:
            data = client.pending + data
        head, separator, body = data.partition(b"\r\n\r\n")
        match = _LENGTH.search(head)
        if not separator or match is None or len(body) < int(match[1]):
            client.pending = data
            return
        client.pending = b""
        self.check(client, head, body)

    def check(self, client: _Client, head: bytes, body: bytes) -> None:
        if client.began_at is None:
            self.posted.faults.append("a reply without a request")
            return
        self.posted.latencies.append(time.perf_counter() - client.began_at)
        self.posted.ended_at = time.time()
        self.posted.posts += 1
        client.began_at = None
        self.idle.append(client)
        messages = _MESSAGE.findall(body)
        if not head.startswith(b"HTTP/1.1 201 ") or len(messages) != self.load.batch:
            self.posted.faults.append((head.partition(b"\r\n")[0] + b" " + body[:200]).decode(errors="replace"))
        self.posted.accepted.extend(message.decode() for message in messages)

    def lost(self, client: _Client, why: str) -> None:
        del self.clients[client.socket.fileno()]
        client.socket.close()
        if client.began_at is not None:
            self.posted.faults.append(f"no reply: {why}")
        else:
            self.idle.remove(client)
        self.idle.append(self.connect())

    def connect(self) -> _Client:
        connection = socket.create_connection((HOST, self.load.port), 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.epoll.register(connection.fileno(), select.EPOLLIN)
        client = self.clients[connection.fileno()] = _Client(connection)
        return client


_PLACE = b"@" * len(_INSTANT % 1e9)


def request_template(load: Load) -> bytes:
    """A whole request with room for the instant of its sending in each message."""
    message = b'{"sent_at":%s,"pad":"%s"}' % (_PLACE, b"x" * max(0, load.size - len(_PLACE) - len(b'{"sent_at":,"pad":""}')))
    body = b'{"messages":[%s]}' % b",".join([b'{"ttl":3600,"body":%s}' % message] * load.batch)
    key = f"Authorization: Bearer {load.key}\r\n" if load.key else ""
    head = (
        f"POST /v2/queues/{load.queue}/messages HTTP/1.1\r\nHost: {HOST}:{load.port}\r\nClient-ID: {CLIENT_ID}\r\n"
        f"X-Project-ID: {load.project}\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        f"{key}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
