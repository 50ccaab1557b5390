"""For a library that sends with `requests` by itself: in its modules something else stands for it, so that our own client
sends, with the guard, within the time of the attempt, without redirects, and without reading more than a part of an answer."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import requests
import urllib3

if TYPE_CHECKING:
    from zaqar_notify.notifiers.http import HttpClients

MOST_BYTES = 65536
"""Of an answer that are read."""
_PIECE = 8192
_SHORTEST = 0.01
"""Seconds; no time at all would mean no limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    status: int
    retry_after: str | None


class Attempt:
    """What is sent, while it is `under_way`, by the thread that it is under way in."""

    def __init__(self, http: HttpClients, deadline: float) -> None:
        """``deadline``: ``time.monotonic()`` seconds."""
        self._http = http
        self._deadline = deadline
        self.answers: list[Answer] = []
        self.errors: list[str] = []
        """Why there was none, in words without anything of the URL."""

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        _current.attempt = self
        try:
            yield
        finally:
            _current.attempt = None

    def request(self, method: str, url: str, options: dict[str, Any]) -> requests.Response:
        """Raises `RefusedAddress`, and what requests raises."""
        left = max(self._deadline - time.monotonic(), _SHORTEST)
        asked = options.pop("timeout", None)
        connect, read = asked if isinstance(asked, tuple) else (asked, asked)
        timeout = min(connect or left, left), min(read or left, left)
        if options.get("verify") is True:
            del options["verify"]  # what the session trusts may be more than the system does
        options |= {"allow_redirects": False, "stream": True, "timeout": timeout}
        try:
            response = self._http.session().request(method, url, **options)
            self._read(response)
        except requests.RequestException as error:
            self.errors.append(_words(error))
            raise
        self.answers.append(Answer(response.status_code, response.headers.get("retry-after")))
        return response

    def _read(self, response: requests.Response) -> None:
        """What has come is taken as it comes, so that one that trickles does not outlast the attempt."""
        body = b""
        with contextlib.closing(response):
            try:
                while len(body) < MOST_BYTES and (piece := response.raw.read1(_PIECE, decode_content=True)):
                    body += piece
                    if time.monotonic() > self._deadline:
                        break
            except urllib3.exceptions.TimeoutError as error:
                raise requests.ReadTimeout from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise requests.exceptions.ChunkedEncodingError from error
        if time.monotonic() > self._deadline:
            raise requests.ReadTimeout
        response._content = body[:MOST_BYTES]
        response._content_consumed = True  # type: ignore[attr-defined]


def _words(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "timeout"
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS failure"
    return "no connection" if isinstance(error, requests.ConnectionError) else "no answer that could be read"


class _Current(threading.local):
    attempt: Attempt | None = None


_current = _Current()


class _Requests:
    """Stands for the module. Where no attempt is under way it is that module."""

    def __getattr__(self, name: str) -> Any:
        if _current.attempt is not None and name in ("Session", "session", "sessions", "api", "adapters"):
            raise AttributeError(f"requests.{name} would go around the guard")
        return getattr(requests, name)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        attempt = _current.attempt
        if attempt is None:
            return requests.request(method, url, **options)  # noqa: S113 - as somebody else has asked
        return attempt.request(method, url, options)

    def get(self, url: str, **options: Any) -> requests.Response:
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> requests.Response:
        return self.request("HEAD", url, **options)

    def post(self, url: str, data: Any = None, **options: Any) -> requests.Response:
        return self.request("POST", url, data=data, **options)

    def put(self, url: str, data: Any = None, **options: Any) -> requests.Response:
        return self.request("PUT", url, data=data, **options)

    def patch(self, url: str, data: Any = None, **options: Any) -> requests.Response:
        return self.request("PATCH", url, data=data, **options)

    def delete(self, url: str, **options: Any) -> requests.Response:
        return self.request("DELETE", url, **options)


_REQUESTS = _Requests()


def take_over(namespace: MutableMapping[str, Any]) -> bool:
    """Stand for requests in a module; False: it does not have it."""
    if namespace.get("requests") not in (requests, _REQUESTS):
        return False
    namespace["requests"] = _REQUESTS
    return True
