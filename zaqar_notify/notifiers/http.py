"""The guarded HTTP clients: one libcurl engine for sending in bulk, and a `requests` session for everything else.

What is heavy (libcurl, requests) is loaded when it is first used, so that an API process, which only checks, loads neither.
"""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zaqar_notify.errors import CannotStart
from zaqar_notify.guard import Guard

if TYPE_CHECKING:
    import requests

    from zaqar_notify.notifiers.engine import Engine


_EVERYWHERE = ("0.0.0.0/0", "::/0")


class Fault(enum.Enum):
    """Why a request got no complete answer."""

    CONNECT = "connection refused or unreachable"
    TIMEOUT = "timeout"
    TLS = "TLS failure"
    RESET = "connection reset"
    PROTOCOL = "not an HTTP answer"
    NAME_UNKNOWN = "name does not exist"
    URL = "URL not understood"
    GUARD = "address not allowed"
    PROXY_REFUSED = "refused by the egress proxy"
    PROXY_GATEWAY = "not reached by the egress proxy"
    # Ours: these say nothing about the endpoint.
    PROXY = "egress proxy out of order"
    RESOLVER = "resolver out of order"
    LOCAL = "local limit"
    LATE = "not started in time"
    CLOSED = "stopped"
    OTHER = "failed"


@dataclasses.dataclass(slots=True, eq=False)
class Request:
    """One POST or GET. ``done`` is called exactly once, on the engine's thread: it has to return quickly."""

    url: str
    headers: list[str]
    """Lines, ``Name: value``. They may replace what libcurl sets itself, so they are to be checked before."""
    body: bytes
    deadline: float
    """``time.monotonic()`` seconds; covers the look-up of the name too."""
    done: Callable[[Request, Response], None]
    connect_timeout: float = 5.0
    max_response_bytes: int = 65536
    """More of the answer is not read; its status stands."""
    keep_bytes: int = 1024
    """How much of the answer's body `Response.body` holds."""
    started_at: float = dataclasses.field(default_factory=time.monotonic)
    """``time.monotonic()`` seconds: what `Response.phases` counts from."""
    timed: bool = False
    """`Response.phases` is wanted of a success too."""
    method: str = "POST"
    """``POST`` or ``GET``, which has no body."""
    tag: Any = None
    """The caller's own."""
    pool: str = ""
    """Requests that name the same one have connections of their own, and share them as streams where there is HTTP/2. One
    whose connection ends before it is answered is sent again on another, within its time, where others were answered
    meanwhile: large providers tell connections to go away in the middle of traffic."""
    repeats: int = 0
    """How often that was done."""


@dataclasses.dataclass(slots=True, eq=False)
class Response:
    """With a ``fault`` the answer is missing or incomplete; ``status`` may be known all the same."""

    status: int
    """0: none."""
    head: bytes = b""
    """Status line and headers as they came, also of interim (1xx) answers."""
    body: bytes = b""
    fault: Fault | None = None
    detail: str = ""
    """More about the fault, for people; may hold what the other side said."""
    phases: dict[str, float] | None = None
    """Seconds from `Request.started_at` until each was over: ``name`` (the look-up; its addresses may have been known),
    ``connect`` and ``tls`` (of a new connection), ``first_byte`` of the answer, ``end``. What did not happen is missing.
    None for a complete answer of 2xx, unless `Request.timed`."""

    def lines(self) -> list[bytes]:
        """What follows the status line of the final answer: its headers, ``Name: value``, and empty lines."""
        return self.head[self.head.rfind(b"\nHTTP/") + 1 :].splitlines()[1:]

    def header(self, name: str) -> str | None:
        """The last value of a header in the final answer; None: absent."""
        wanted = name.lower().encode() + b":"
        if wanted not in self.head.lower():  # nearly always: cheaper than looking at each line
            return None
        value = None
        for line in self.head.splitlines():
            if line.startswith(b"HTTP/"):
                value = None
            elif line.lower().startswith(wanted):
                value = line[len(wanted) :].strip().decode("latin-1")
        return value


class HttpClients:
    """Makes each client when it is first asked for. ``max_timeout``: seconds that one attempt may take at most.

    ``proxy`` is the URL of an egress proxy; the environment's proxy settings are ignored. ``look_up`` finds the addresses of
    a name; None: the system's resolver. ``record_successes``: the log wants the exchange of a successful attempt as well
    (``[delivery_log] record``).
    """

    def __init__(
        self,
        guard: Guard,
        *,
        max_timeout: float,
        timeout: float = 15.0,
        connect_timeout: float = 5.0,
        ca_file: str | None = None,
        proxy: str | None = None,
        connections: int = 4096,
        dns_cache: float = 60.0,
        http2: bool = True,
        look_up: Callable[[str], list[str]] | None = None,
        record_successes: bool = False,
    ) -> None:
        self.guard = guard
        self.max_timeout = max_timeout
        self.record_successes = record_successes
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._ca_file = ca_file
        self._proxy = proxy
        self._connections = connections
        self._dns_cache = dns_cache
        self._http2 = http2
        self._look_up = look_up
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._internal_engine: Engine | None = None
        self._session: requests.Session | None = None
        self._closed = False

    @classmethod
    def from_options(cls, conf: Any, guard: Guard, max_timeout: float, *, record_successes: bool = False) -> HttpClients:
        """``conf`` is the group of the section ``webhook``. Raises `CannotStart` when its timeout is above ``max_timeout``."""
        if conf.timeout > max_timeout:
            raise CannotStart(
                f"[webhook] timeout is {conf.timeout:g} s, but with [worker] lease as it is an attempt may take at most "
                f"{max_timeout:g} s: raise the lease or lower the timeout"
            )
        return cls(
            guard,
            max_timeout=max_timeout,
            timeout=conf.timeout,
            connect_timeout=conf.connect_timeout,
            ca_file=conf.ca_file,
            proxy=conf.proxy,
            connections=conf.connections,
            dns_cache=conf.dns_cache,
            http2=conf.http2,
            record_successes=record_successes,
        )

    def engine(self) -> Engine:
        """The libcurl engine, running; shared by all notifiers."""
        engine = self._engine
        if engine is not None and engine.alive:
            return engine
        with self._lock:
            if self._engine is None or not (self._engine.alive or self._closed):
                self._engine = self._make_engine(self.guard, self._proxy)
                if not self._closed:
                    self._engine.start()
            return self._engine

    def internal_engine(self) -> Engine:
        """An engine that judges no address and uses no proxy, with connections of its own: for URLs which the operator has put
        into the configuration and says to be internal, and never for one that a client can choose."""
        engine = self._internal_engine
        if engine is not None and engine.alive:
            return engine
        with self._lock:
            if self._internal_engine is None or not (self._internal_engine.alive or self._closed):
                self._internal_engine = self._make_engine(Guard(_EVERYWHERE), None)
                if not self._closed:
                    self._internal_engine.start()
            return self._internal_engine

    def session(self) -> requests.Session:
        """A `requests` session for token endpoints, confirmation pages and the like; shared, safe to use from any thread.

        It judges each address that it dials, follows no redirects unless asked to, keeps no cookies and has the timeouts of
        the webhook section. A refused address raises `RefusedAddress`.
        """
        with self._lock:
            if self._session is None:
                self._session = self._make_session()
            return self._session

    def close(self) -> None:
        """Stop: what is under way ends with `Fault.CLOSED`."""
        with self._lock:
            self._closed = True
            engines, session = (self._engine, self._internal_engine), self._session
        for engine in engines:
            if engine is not None:
                engine.close()
        if session is not None:
            session.close()

    def _make_engine(self, guard: Guard, proxy: str | None) -> Engine:
        from zaqar_notify.notifiers.engine import Engine
        from zaqar_notify.notifiers.resolver import Resolver, system_look_up

        return Engine(
            guard,
            Resolver(self._look_up or system_look_up, ttl=self._dns_cache),
            ca_file=self._ca_file,
            proxy=proxy,
            connections=self._connections,
            http2=self._http2,
        )

    def _make_session(self) -> requests.Session:
        from zaqar_notify.notifiers.resolver import system_look_up
        from zaqar_notify.notifiers.session import GuardedSession

        return GuardedSession(
            self.guard,
            timeout=(self.connect_timeout, self.timeout),
            ca_file=self._ca_file,
            proxy=self._proxy,
            look_up=self._look_up or system_look_up,
        )
