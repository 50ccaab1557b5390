"""What the engine's requests become in libcurl: transfers, and pools of connections that carry them."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any

import pycurl

from zaqar_notify.guard import Guard
from zaqar_notify.notifiers.http import Fault, Request, Response

_EXPECT_BODY = 1024 * 1024  # from here on libcurl asks "Expect: 100-continue", unless told not to
_SHARED_STREAMS = 1000  # as many as APNs allows; libcurl's own limit is 100
_SHARED_CONNECTIONS = 256  # kept in one pool
_HEARD_CONNECTIONS = 1024

LOCAL_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class Transfer:
    """An easy handle with what belongs to the request that it carries; used again and again."""

    __slots__ = (
        "body",
        "connect_timeout",
        "curl",
        "dialled",
        "guard",
        "head",
        "local",
        "refusal",
        "request",
        "size",
        "started_at",
    )

    def __init__(self, guard: Guard | None) -> None:
        self.curl: Any = Easy()
        self.curl.transfer = self
        self.guard = guard
        self.head: list[bytes] = []
        self.body: list[bytes] = []
        self.size = 0
        self.connect_timeout = 0.0
        self.request: Request | None = None
        self.started_at = 0.0
        self.dialled = False
        self.refusal: str | None = None
        self.local: str | None = None

    def open_socket(self, _purpose: int, address: Any) -> Opened | int:
        """libcurl asks for a socket to dial with: the last moment at which the address can be judged."""
        if self.guard is not None:
            ip, port = address.addr[:2]
            refusal = self.guard.check_address(ip) or self.guard.check_port(port)
            if refusal is not None:
                self.refusal = refusal
                return int(pycurl.SOCKET_BAD)
        try:
            opened = Opened(socket.socket(address.family, address.socktype, address.protocol))
            os.close(os.dup(opened.fileno()))  # pycurl takes a duplicate and does not say when it gets none
        except OSError as error:
            if error.errno in LOCAL_ERRNOS:
                self.local = error.strerror
            return int(pycurl.SOCKET_BAD)
        self.dialled = True
        return opened

    def write(self, data: bytes) -> int | None:
        request = self.request
        if request is None:
            return 0
        if self.size < request.keep_bytes:
            self.body.append(data[: request.keep_bytes - self.size])
        self.size += len(data)
        return None if self.size <= request.max_response_bytes else 0


class Opened:
    """A socket for pycurl, which duplicates its descriptor and lets go of it: the original is closed at that moment."""

    __slots__ = ("_socket",)

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened

    def fileno(self) -> int:
        return self._socket.fileno()

    def __del__(self) -> None:
        self._socket.close()


class Easy(pycurl.Curl):  # type: ignore[misc]  # pycurl has no types
    transfer: Transfer


class Pool:
    """A multi handle: connections, and what is known of the names that they lead to."""

    __slots__ = ("active", "answered", "heard", "idle", "loaded", "multi", "shared", "timer_at")

    def __init__(self, name: str, connections: int) -> None:
        self.shared = name != ""
        self.multi: Any = pycurl.CurlMulti()
        self.multi.setopt(pycurl.M_MAXCONNECTS, min(connections, _SHARED_CONNECTIONS) if self.shared else connections)
        if self.shared:
            self.multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, _SHARED_STREAMS)
        self.timer_at: float | None = None
        self.loaded: dict[tuple[str, int], tuple[str, ...]] = {}  # what libcurl's own cache holds
        self.idle: list[Transfer] = []
        self.active: set[Transfer] = set()
        self.answered: dict[tuple[str, int], float] = {}  # host and port -> when it last answered
        self.heard: dict[int, float] = {}  # descriptor of a connection -> when it last brought an answer
        self.multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def _set_timer(self, milliseconds: int) -> None:
        self.timer_at = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def close(self) -> None:
        for transfer in self.idle:
            transfer.curl.close()
        self.idle.clear()
        self.multi.close()


def prepare(transfer: Transfer, request: Request, left: float, resolve: list[str] | None) -> None:
    setopt = transfer.curl.setopt
    setopt(pycurl.URL, request.url)
    body = request.body
    setopt(pycurl.HTTPHEADER, request.headers if len(body) < _EXPECT_BODY else [*request.headers, "Expect:"])
    if request.method == "GET":
        setopt(pycurl.HTTPGET, 1)
    else:
        setopt(pycurl.POSTFIELDS, body)  # makes it a POST, whatever the handle carried before
    setopt(pycurl.TIMEOUT_MS, int(left * 1000) or 1)
    if transfer.connect_timeout != request.connect_timeout:
        transfer.connect_timeout = request.connect_timeout
        setopt(pycurl.CONNECTTIMEOUT_MS, int(request.connect_timeout * 1000) or 1)
    if resolve is not None:
        setopt(pycurl.RESOLVE, resolve)  # stays in libcurl's cache until it is replaced


def cut_if_silent(pool: Pool, transfer: Transfer, response: Response) -> None:
    """Notice a connection that has gone silent, and cut it: each new request would become one more stream of it."""
    fd = transfer.curl.getinfo(pycurl.LASTSOCKET)
    if fd < 0:
        return
    if response.status:
        if len(pool.heard) >= _HEARD_CONNECTIONS:
            pool.heard.clear()
        pool.heard[fd] = time.monotonic()
        return
    if response.fault is not Fault.TIMEOUT or pool.heard.get(fd, 0.0) >= transfer.started_at:
        return
    try:
        with socket.socket(fileno=os.dup(fd)) as silent:
            silent.shutdown(socket.SHUT_RDWR)  # libcurl sees its end, and tells all who use it
    except OSError:
        return


def phases_of(transfer: Transfer, request: Request, answered: bool) -> dict[str, float]:
    getinfo = transfer.curl.getinfo
    before = transfer.started_at - request.started_at
    phases = {"name": before}
    if transfer.dialled:  # libcurl names a time for a connection that was there before, too
        for name, info in (("connect", pycurl.CONNECT_TIME), ("tls", pycurl.APPCONNECT_TIME)):
            seconds = getinfo(info)
            if seconds:
                phases[name] = before + seconds
    if answered:  # it names one for a failure, too
        phases["first_byte"] = before + getinfo(pycurl.STARTTRANSFER_TIME)
    phases["end"] = time.monotonic() - request.started_at
    return phases
