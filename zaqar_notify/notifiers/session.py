"""A `requests` session that judges each address between look-up and dial."""

from __future__ import annotations

import http.cookiejar
import socket
from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions

from zaqar_notify.errors import RefusedAddress
from zaqar_notify.guard import Guard


class _GuardedDial:
    """In front of a urllib3 connection class: dials only what ``guard`` allows."""

    guard: Guard
    _dns_host: str
    host: str
    port: int
    timeout: Any
    source_address: tuple[str, int] | None
    socket_options: Any

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self._dns_host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise urllib3.exceptions.NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        refusal, failure = None, None
        for family, kind, protocol, _, address in found:
            refused = self.guard.check_address(str(address[0])) or self.guard.check_port(self.port)
            if refused is not None:
                refusal = refused
                continue
            try:
                return self._dial(family, kind, protocol, address)
            except OSError as error:
                failure = error
        if failure is None and refusal is not None:
            raise RefusedAddress(f"{self.host}: {refusal}.")
        if isinstance(failure, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError(self, f"no connection to {self.host} in time") from failure
        raise urllib3.exceptions.NewConnectionError(self, f"no connection to {self.host}: {failure}") from failure  # type: ignore[arg-type]

    def _dial(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket:
        dialled = socket.socket(family, kind, protocol)
        try:
            for option in self.socket_options or ():
                dialled.setsockopt(*option)
            if isinstance(self.timeout, (int, float)):
                dialled.settimeout(self.timeout)
            if self.source_address:
                dialled.bind(self.source_address)
            dialled.connect(address)
        except OSError:
            dialled.close()
            raise
        return dialled


def _guarded_pools(guard: Guard) -> dict[str, Any]:
    class HTTPConnection(_GuardedDial, urllib3.connection.HTTPConnection):
        pass

    class HTTPSConnection(_GuardedDial, urllib3.connection.HTTPSConnection):
        pass

    class HTTPPool(urllib3.HTTPConnectionPool):
        ConnectionCls = HTTPConnection

    class HTTPSPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = HTTPSConnection

    HTTPConnection.guard = HTTPSConnection.guard = guard
    return {"http": HTTPPool, "https": HTTPSPool}


class GuardedAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, guard: Guard, timeout: tuple[float, float]) -> None:
        self._guard = guard
        self._timeout = timeout
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _guarded_pools(self._guard)

    def send(self, request: Any, *args: Any, **options: Any) -> requests.Response:
        self._guard.check_url(request.url)  # each hop of a redirect comes through here as well
        if options.get("timeout") is None:
            options["timeout"] = self._timeout
        return super().send(request, *args, **options)


class GuardedSession(requests.Session):
    """``timeout``: seconds to connect and to wait for each part of the answer, where a request names none.

    With a ``proxy`` names are judged by the proxy, and literal addresses here.
    """

    def __init__(self, guard: Guard, *, timeout: tuple[float, float], ca_file: str | None, proxy: str | None) -> None:
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
            self.mount(prefix, GuardedAdapter(guard, timeout))

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        options.setdefault("allow_redirects", False)
        return super().request(method, url, *args, **options)

    def get(self, url: str | bytes, **options: Any) -> requests.Response:
        return self.request("GET", url, **options)

    def options(self, url: str | bytes, **options: Any) -> requests.Response:
        return self.request("OPTIONS", url, **options)
