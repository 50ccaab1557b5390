"""A `requests` session that judges each address between look-up and dial."""

from __future__ import annotations

import http.cookiejar
import socket
from collections.abc import Callable
from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions
import urllib3.util.connection

from zaqar_notify.errors import RefusedAddress
from zaqar_notify.guard import Guard, is_address

LookUp = Callable[[str], list[str]]


class _GuardedDial:
    """In front of a urllib3 connection class: dials only what ``guard`` allows."""

    guard: Guard
    look_up: LookUp
    _dns_host: str
    host: str
    port: int
    timeout: Any
    source_address: tuple[str, int] | None
    socket_options: Any

    def _new_conn(self) -> socket.socket:
        refusal: str | None = None
        failure: OSError | None = None
        for ip in self._addresses():
            refused = self.guard.check_address(ip) or self.guard.check_port(self.port)
            if refused is not None:
                refusal = refused
                continue
            try:
                return urllib3.util.connection.create_connection(
                    (ip, self.port), self.timeout, self.source_address, self.socket_options
                )
            except OSError as error:
                failure = error
        if failure is None and refusal is not None:
            raise RefusedAddress(f"{self.host}: {refusal}.")
        raise self._failed(failure)

    def _addresses(self) -> list[str]:
        host = self._dns_host.strip("[]")
        if is_address(host):
            return [host]
        try:
            return self.look_up(host)
        except socket.gaierror as error:
            raise urllib3.exceptions.NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]

    def _failed(self, failure: OSError | None) -> Exception:
        connection: Any = self
        if isinstance(failure, TimeoutError):
            return urllib3.exceptions.ConnectTimeoutError(connection, f"no connection to {self.host} in time")
        return urllib3.exceptions.NewConnectionError(connection, f"no connection to {self.host}: {failure}")


def _guarded_pools(guard: Guard, look_up: LookUp) -> dict[str, Any]:
    class HTTPConnection(_GuardedDial, urllib3.connection.HTTPConnection):
        pass

    class HTTPSConnection(_GuardedDial, urllib3.connection.HTTPSConnection):
        pass

    class HTTPPool(urllib3.HTTPConnectionPool):
        ConnectionCls = HTTPConnection

    class HTTPSPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = HTTPSConnection

    for connection in (HTTPConnection, HTTPSConnection):
        connection.guard = guard
        connection.look_up = staticmethod(look_up)
    return {"http": HTTPPool, "https": HTTPSPool}


class GuardedAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, guard: Guard, timeout: tuple[float, float], look_up: LookUp) -> None:
        self._guard = guard
        self._look_up = look_up
        self._timeout = timeout
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _guarded_pools(self._guard, self._look_up)

    def send(self, request: Any, *args: Any, **options: Any) -> requests.Response:
        self._guard.check_url(request.url)  # each hop of a redirect comes through here as well
        if options.get("timeout") is None:
            options["timeout"] = self._timeout
        return super().send(request, *args, **options)


class GuardedSession(requests.Session):
    """``timeout``: seconds to connect and to wait for each part of the answer, where a request names none.

    With a ``proxy`` names are judged by the proxy, and literal addresses here.
    """

    def __init__(
        self, guard: Guard, *, timeout: tuple[float, float], ca_file: str | None, proxy: str | None, look_up: LookUp
    ) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = 5
        self.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        if ca_file:
            self.verify = ca_file
        if proxy:
            self.proxies = {"http": proxy, "https": proxy}
        self.adapters.clear()
        for prefix in ("https://", "http://"):
            self.mount(prefix, GuardedAdapter(guard, timeout, look_up))

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        options.setdefault("allow_redirects", False)
        return super().request(method, url, *args, **options)

    def get(self, url: str | bytes, **options: Any) -> requests.Response:
        return self.request("GET", url, **options)

    def options(self, url: str | bytes, **options: Any) -> requests.Response:
        return self.request("OPTIONS", url, **options)
