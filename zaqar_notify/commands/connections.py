"""What the API's worker knows of its clients: their connections, what they may cost, and what it answers by itself."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import ipaddress
import json
import socket
import uuid
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors as http_errors
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

from zaqar_notify.commands.framing import RequestEnd

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What clients may cost one worker process; times in seconds."""

    read_timeout: float
    """From the first byte of a request, or from the acceptance of a connection that sends none, to the last."""
    write_timeout: float
    """A pause in reading an answer."""
    keepalive: float
    """Between two requests."""
    max_connections: int
    max_buffered: int
    """Bytes of all requests and answers that are held for clients."""
    max_body: int
    """Bytes; a larger body is not waited for."""
    connections_per_address: int = 0
    """Of those that wait for a request; 0: any number."""
    trusted_proxies: Sequence[Network] = ()


class Answer:
    """Stands where gunicorn expects the client's socket: keeps in memory what is written, and never blocks."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def sendall(self, data: bytes) -> None:
        self._parts.append(data)

    def send(self, data: bytes) -> int:
        """gunicorn sends "100 Continue" by this when an answer begins. By then the body is there, or not wanted."""
        return len(data)

    def recv(self, size: int) -> bytes:
        return b""

    def shutdown(self, how: int) -> None:
        """After a failure in the middle of an answer: a client must not take what there is of it for a whole one."""
        self._parts.clear()

    def setblocking(self, flag: bool) -> None:
        pass

    def settimeout(self, timeout: float | None) -> None:
        pass

    def gettimeout(self) -> float | None:
        return None

    def close(self) -> None:
        pass


class Received(Unreader):  # type: ignore[misc]
    """What gunicorn's parser reads from: a request's bytes, then the end."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data
        self.exhausted = False
        """The parser has asked for more than there is."""

    def chunk(self, size_hint: int | None = None) -> bytes:
        data, self._data = self._data, b""
        if not data:
            self.exhausted = True
        return data

    def is_used_up(self) -> bool:
        """The parser has found the end where it is."""
        return not (self.exhausted or self._data or self.buf.getvalue())


class Waiting:
    """Connections that wait for the same thing for equally long at most, and so in the order of their deadlines."""

    __slots__ = ("connections", "patience")

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.connections: dict[Connection, None] = {}

    def first(self) -> Connection | None:
        return next(iter(self.connections), None)

    def shorten(self, patience: float, now: float) -> None:
        self.patience = min(self.patience, patience)
        for connection in self.connections:
            connection.deadline = min(connection.deadline, now + patience)


class Connection:
    __slots__ = (
        "address",
        "client",
        "deadline",
        "discarded",
        "end",
        "ended",
        "ending",
        "held",
        "keep",
        "readable",
        "received",
        "server",
        "sock",
        "socket",
        "unsent",
        "waiting",
    )

    def __init__(self, client_socket: socket.socket, client: Any, server: Any, address: str | None) -> None:
        self.socket = client_socket
        self.address = address
        """What connections_per_address counts by; None: not counted."""
        self.received: bytes | bytearray = b""
        """What has come and is not handed over yet."""
        self.end: RequestEnd | None = None
        self.readable = False
        """There may be something to receive, of which no event will tell again."""
        self.ending = False
        """After what there is to receive comes the end, of which no event will tell again."""
        self.ended = False
        """The client sends no more, and all that it has sent is here."""
        self.unsent: bytes | memoryview = b""
        self.keep = True
        self.discarded = 0
        self.held = 0
        self.waiting: Waiting | None = None
        """None while a thread has it."""
        self.deadline = 0.0
        # For gunicorn, by its names.
        self.sock = Answer()
        self.client = client
        self.server = server

    def send(self) -> None:
        """Send what the connection takes now; `OSError` when the client is gone."""
        if self.unsent:
            with contextlib.suppress(BlockingIOError):
                self.unsent = memoryview(self.unsent)[self.socket.send(self.unsent) :]


class Addresses:
    """How many connections of each client address wait for a request."""

    def __init__(self, most: int, trusted: Iterable[Network]) -> None:
        self._most = most
        self._trusted = tuple(trusted)
        self._waiting: collections.Counter[str] = collections.Counter()

    def counted(self, client: Any) -> str | None:
        """What a connection is counted by, from the socket's address of its client; None when it is not."""
        if not self._most:
            return None
        address = ipaddress.ip_address(client[0].partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in network for network in self._trusted):
            return None
        return str(address)

    def add(self, address: str, change: int) -> None:
        if change:
            self._waiting[address] += change
            if not self._waiting[address]:
                del self._waiting[address]

    def is_exceeded(self, address: str | None) -> bool:
        return address is not None and self._waiting[address] > self._most


def read_body(request: Request, received: Received) -> io.BytesIO:
    """The decoded body; raises, before anything is done, when the parser does not see the request's end where it was found."""
    body = io.BytesIO(request.body.read())
    if not received.is_used_up():
        raise http_errors.InvalidHeader("The end of the request is ambiguous")
    return body


def refusal(error: Exception) -> int | None:
    """The status for what gunicorn's parser refuses; None for any other error."""
    for kind, status in (
        (http_errors.LimitRequestLine, 414),
        (http_errors.LimitRequestHeaders, 431),
        (getattr(http_errors, "ExpectationFailed", ()), 417),
        (http_errors.UnsupportedTransferCoding, 501),
        (http_errors.ParseException, 400),
        # These are no parse errors there, but errors of I/O.
        (http_errors.ChunkMissingTerminator, 400),
        (http_errors.InvalidChunkSize, 400),
        (http_errors.NoMoreData, 400),
    ):
        if isinstance(error, kind):
            return status
    return None


def error_answer(status: int, description: str) -> bytes:
    """A whole answer without the application: for requests that never get to it. The connection closes after it."""
    title = HTTPStatus(status).phrase
    body = json.dumps({"title": title, "description": description}).encode()
    lines = [
        f"HTTP/1.1 {status} {title}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"x-openstack-request-id: req-{uuid.uuid4()}",
        *(["Retry-After: 1"] if status in (429, 503) else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """`ValueError` for what is neither an address nor a network."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
