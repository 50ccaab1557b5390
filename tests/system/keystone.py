"""A small Keystone on a real socket: it gives a token to whoever asks, has a catalogue with one endpoint, and validates tokens.

As much of the Identity API v3 as keystoneauth (the clients' side) and keystonemiddleware (the service's side) use.
"""

from __future__ import annotations

import dataclasses
import datetime
import http.server
import json
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

SERVICE_USER = "zaqar-notify"
"""The user whose tokens may validate those of others."""

DEFAULT_DOMAIN = {"id": "default", "name": "Default"}


@dataclasses.dataclass(frozen=True)
class Token:
    user: str
    project: str
    roles: tuple[str, ...]
    expires_at: float
    methods: tuple[str, ...] = ("password",)


class Keystone:
    """``messaging`` is the URL that the catalogue has for the service type of that name; ``roles`` are those of users that have
    others than ``member``. ``add_cleanup`` is a test's, a class's or a module's."""

    def __init__(self, add_cleanup: Callable[[Callable[[], None]], object]) -> None:
        self.messaging = ""
        self.roles: dict[str, tuple[str, ...]] = {SERVICE_USER: ("service",)}
        self.tokens: dict[str, Token] = {}
        self.validated: list[str] = []
        """Tokens in the order in which the service asked for them."""
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"keystone": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        add_cleanup(self.close)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def options(self) -> str:
        """Configuration of a service that trusts this Keystone."""
        return f"""\
[auth]
strategy = keystone
[keystone_authtoken]
www_authenticate_uri = {self.url}/v3
auth_type = password
auth_url = {self.url}
username = {SERVICE_USER}
password = anything
project_name = service
user_domain_id = default
project_domain_id = default
"""

    def issue(self, project: str, *, user: str = "alice", ttl: float = 3600.0) -> str:
        """A new token's id."""
        token_id = secrets.token_hex(16)
        self.tokens[token_id] = Token(user, project, self.roles.get(user, ("member",)), time.time() + ttl)
        return token_id

    def live(self, token_id: str | None) -> Token | None:
        token = self.tokens.get(token_id or "")
        return token if token is not None and token.expires_at > time.time() else None

    def authenticate(self, auth: dict[str, Any]) -> str:
        """The id of a token for any credentials; ``auth`` is the document of a request for one."""
        identity = auth["identity"]
        if "password" in identity["methods"]:
            user = identity["password"]["user"]
            name = user.get("name") or user["id"]
        else:
            name = self.tokens[identity["token"]["id"]].user
        project = auth.get("scope", {}).get("project", {})
        return self.issue(project.get("id") or project.get("name") or "unscoped", user=name)

    def document(self, token: Token) -> dict[str, Any]:
        return {
            "token": {
                "methods": list(token.methods),
                "user": {"id": f"{token.user}-id", "name": token.user, "domain": DEFAULT_DOMAIN, "password_expires_at": None},
                "project": {"id": token.project, "name": token.project, "domain": DEFAULT_DOMAIN},
                "roles": [{"id": f"{role}-id", "name": role} for role in token.roles],
                "issued_at": _iso(time.time()),
                "expires_at": _iso(token.expires_at),
                "is_domain": False,
                "audit_ids": [secrets.token_urlsafe(16)],
                "catalog": [
                    _service("identity", "keystone", f"{self.url}/v3"),
                    _service("messaging", "zaqar", self.messaging),
                ],
            }
        }

    def versions(self) -> dict[str, Any]:
        return {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": f"{self.url}/v3/"}],
            "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
        }


def _service(kind: str, name: str, url: str) -> dict[str, Any]:
    endpoints = [
        {"id": f"{kind}-{interface}", "interface": interface, "region": "RegionOne", "region_id": "RegionOne", "url": url}
        for interface in ("public", "internal", "admin")
    ]
    return {"id": f"{kind}-service", "type": kind, "name": name, "endpoints": endpoints}


class _Handler(http.server.BaseHTTPRequestHandler):
    keystone: Keystone
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "":
            self.answer(300, {"versions": {"values": [self.keystone.versions()]}})
        elif path == "/v3":
            self.answer(200, {"version": self.keystone.versions()})
        elif path == "/v3/auth/tokens":
            self.validate()
        else:
            self.fail(404)

    def validate(self) -> None:
        caller = self.keystone.live(self.headers["X-Auth-Token"])
        if caller is None or "service" not in caller.roles:
            return self.fail(401)
        subject = self.headers["X-Subject-Token"]
        self.keystone.validated.append(subject)
        token = self.keystone.live(subject)
        if token is None:
            return self.fail(404)
        return self.answer(200, self.keystone.document(token), {"X-Subject-Token": subject})

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.rstrip("/") != "/v3/auth/tokens":
            return self.fail(404)
        token_id = self.keystone.authenticate(document["auth"])
        return self.answer(201, self.keystone.document(self.keystone.tokens[token_id]), {"X-Subject-Token": token_id})

    def fail(self, status: int) -> None:
        title = http.HTTPStatus(status).phrase
        self.answer(status, {"error": {"code": status, "title": title, "message": f"{title}."}})

    def answer(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _iso(instant: float) -> str:
    return datetime.datetime.fromtimestamp(instant, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
