"""TaskFlow's job boards, each so that a job of a killed worker is free again soon, and is found by its age.

What a board has of a job is its id and its kind: a way to spread it. The storage has the job itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import urllib.parse
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from zaqar_notify.errors import CannotStart

KINDS = ("redis", "etcd", "zookeeper")
"""Each is a module here, a URL's scheme, and an extra of the package."""
_TLS = {"rediss": "redis", "etcds": "etcd"}
_PORTS = {"redis": 6379, "etcd": 2379, "zookeeper": 2181}


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """``scheme://user:password@host:port,host:port/path?name=value``"""

    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    path: str = ""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further ones, as TaskFlow's board names them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Durations are seconds."""

    name: str
    """Boards of other names on the same server are other boards."""
    expiry: float
    """A claim that is not renewed ends after this long."""
    timeout: float
    """The longest that one request may take, where the client can tell."""


class Posting(Protocol):
    """A job, as a board has it."""

    details: Mapping[str, Any]
    sequence: int


class Board(Protocol):
    """What is needed of TaskFlow's boards, and what the classes here add. Each call may raise one of ``errors``."""

    errors: ClassVar[tuple[type[Exception], ...]]
    """What its client raises when the server is out of reach, beside TaskFlow's own."""

    def connect(self) -> None: ...

    def close(self) -> None: ...

    def listing(self) -> list[Any]:
        """All that is posted, claimed or not, in one request or two; never what is remembered from before."""

    def post(self, name: str, *, details: Mapping[str, Any]) -> Any: ...

    def claim(self, job: Any, who: str) -> None:
        """Raises taskflow's UnclaimableJob or NotFound. The claim ends by itself when it is not renewed."""

    def renew(self, job: Any, who: str) -> bool:
        """False when the claim is lost."""

    def find_owner(self, job: Any) -> str | None: ...

    def consume(self, job: Any, who: str) -> None: ...

    def abandon(self, job: Any, who: str) -> None: ...


def load(kind: str) -> Any:
    """The board's module: ``make(address, settings, turn)`` makes a `Board`, which is
    not connected. Raises `CannotStart` without its libraries."""
    try:
        return importlib.import_module(f"{__name__}.{kind}")
    except ImportError as error:
        raise CannotStart(
            f"[cluster] jobboard is {kind}, which needs {error.name or 'its client'}: pip install 'zaqar-notify[{kind}]'"
        ) from error


def parse(kind: str, url: str) -> Address:
    """Raises `CannotStart` for what is no URL of such a board."""
    try:
        parts = urllib.parse.urlsplit(url)
        _check_scheme(kind, parts.scheme)
        credentials, _, places = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        return Address(
            hosts=tuple(_host(place, _PORTS[kind]) for place in places.split(",")),
            tls=parts.scheme in _TLS,
            username=urllib.parse.unquote(username) or None,
            password=urllib.parse.unquote(password) or None,
            path=parts.path.strip("/"),
            options=dict(urllib.parse.parse_qsl(parts.query, strict_parsing=True)) if parts.query else {},
        )
    except ValueError as error:
        # The URL may hold a password: it is not repeated.
        raise CannotStart(f"Bad [cluster] connection: {error}, such as {kind}://127.0.0.1:{_PORTS[kind]}") from error


def _check_scheme(kind: str, scheme: str) -> None:
    if _TLS.get(scheme, scheme) != kind:
        raise ValueError("not the URL of such a board")


def show_host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(place: str, port: int) -> tuple[str, int]:
    one = urllib.parse.urlsplit(f"//{place}")
    if not one.hostname:
        raise ValueError("a host is missing")
    return one.hostname, one.port or port
