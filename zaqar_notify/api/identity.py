"""Who calls: an identity for each ``[auth] strategy``, and pre-signed requests, which work under all of them."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import falcon

from zaqar_notify import validation
from zaqar_notify.errors import Forbidden, Unauthorized
from zaqar_notify.model import ApiKey
from zaqar_notify.signing import UrlSigner
from zaqar_notify.storage.base import Storage

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOG = logging.getLogger(__name__)

Clock = Callable[[], float]

ROLES = ("read", "publish", "subscribe", "admin")
"""What a key can be for; the rules say what each may do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    project: str
    auth: str
    """How it was identified: ``none``, ``apikey``, ``keystone``, ``signed``, or ``application`` (by the app that this service
    is mounted on). Rules can ask for it."""
    roles: tuple[str, ...] = ()
    user_id: str | None = None

    @property
    def signed(self) -> bool:
        """The signature is the right: no rule is asked."""
        return self.auth == "signed"


class Identity(Protocol):
    @property
    def challenge(self) -> str | None:
        """The value of WWW-Authenticate in a 401; None where something else writes the header, or there is no 401."""

    def identify(self, req: falcon.Request) -> Caller:
        """Raises `Unauthorized`, `Forbidden`, or a 400 for headers that are wrong in themselves."""


# -- [auth] strategy = none ----------------------------------------------------------------------------------------------------


class Anyone:
    """Whoever can reach this service is what the headers say. Only for loopback."""

    challenge = None
    ROLES = ("read", "publish", "subscribe")

    def identify(self, req: falcon.Request) -> Caller:
        roles = (*self.ROLES, *_listed(req.env["HTTP_X_ROLES"])) if "HTTP_X_ROLES" in req.env else self.ROLES
        return Caller(project_header(req), "none", roles, req.env.get("HTTP_X_USER_ID"))


def project_header(req: falcon.Request) -> str:
    project: str | None = req.env.get("HTTP_X_PROJECT_ID")
    if project is None:
        raise falcon.HTTPBadRequest(title="Missing header value", description="The X-Project-ID header is required.")
    if not project.strip():
        raise falcon.HTTPBadRequest(
            title="Empty project header not allowed", description="The X-Project-ID header has to name a project."
        )
    validation.check_project(project)
    return project


def _listed(header: str) -> Iterable[str]:
    return filter(None, map(str.strip, header.split(",")))


# -- [auth] strategy = apikey --------------------------------------------------------------------------------------------------

_KEY = re.compile(r"zn_([0-9a-f]{16})_([0-9a-f]{64})")


def make_key(project: str, roles: Iterable[str], name: str, now: float) -> tuple[str, ApiKey]:
    """The text that its holder gets, and the record, which has only the hash of its secret."""
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    return f"zn_{key_id}_{secret}", ApiKey(key_id, project, tuple(roles), name, _hash(secret), now)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class ApiKeys:
    """Keys in the storage. Each is remembered for ``lifetime`` seconds: a revoked one works for so long at most."""

    challenge = 'Bearer realm="zaqar-notify"'
    MOST_KNOWN = 10_000
    MOST_UNKNOWN = 1_000
    """Ids that are in no key. In a table of their own: a flood of them does not push out the keys that are in use."""
    _REFUSAL = "There is no such key, or it was revoked."

    def __init__(self, storage: Storage, *, lifetime: float, clock: Clock = time.monotonic) -> None:
        self._storage = storage
        self._lifetime = lifetime
        self._clock = clock
        self._known: dict[str, tuple[float, ApiKey]] = {}
        self._unknown: dict[str, float] = {}

    def identify(self, req: falcon.Request) -> Caller:
        match = _KEY.fullmatch(_credential(req))
        if match is None:
            raise Unauthorized(
                "A key is required, zn_ and so on, in the header Authorization: Bearer, or in X-Auth-Token: "
                "'zaqar-notify key create' makes one."
            )
        key = self._find(match[1])
        # Compared also when it is revoked, so that only its holder could tell the two refusals apart by time.
        if key is None or not hmac.compare_digest(key.secret_hash, _hash(match[2])) or key.revoked_at is not None:
            raise Unauthorized(self._REFUSAL)
        if req.env.get("HTTP_X_PROJECT_ID", key.project) != key.project:
            raise Forbidden("The X-Project-ID header names another project than the key's: leave it out.")
        return Caller(key.project, "apikey", key.roles, key.id)

    def _find(self, key_id: str) -> ApiKey | None:
        now = self._clock()
        known = self._known.get(key_id)
        if known is not None and known[0] > now:
            return known[1]
        if self._unknown.get(key_id, now) > now:
            return None
        key = self._storage.get_key(key_id)
        if key is None:
            _bound(self._unknown, self.MOST_UNKNOWN)
            self._unknown[key_id] = now + self._lifetime
        else:
            _bound(self._known, self.MOST_KNOWN)
            self._known[key_id] = (now + self._lifetime, key)
        return key


def _credential(req: falcon.Request) -> str:
    scheme, _, credential = req.env.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "bearer":
        return str(credential).strip()
    return str(req.env.get("HTTP_X_AUTH_TOKEN", "")).strip()


def _bound(table: dict[str, Any], most: int) -> None:
    if len(table) >= most:
        table.clear()


# -- [auth] strategy = keystone ------------------------------------------------------------------------------------------------


class KeystoneTokens:
    """What keystonemiddleware, which stands before the application, has found out about the token."""

    challenge = None

    def identify(self, req: falcon.Request) -> Caller:
        if KeystoneGate.FAILED in req.env:
            raise falcon.HTTPServiceUnavailable(
                title="Service temporarily unavailable",
                description="The token could not be validated: Keystone is out of reach, or this service may not ask it.",
                retry_after=1,
            )
        # A client can send any header, but no such entry of the environment: only a valid token puts it there.
        if req.env.get("HTTP_X_IDENTITY_STATUS") != "Confirmed" or not req.env.get("keystone.token_info"):
            raise Unauthorized("A valid Keystone token is required in X-Auth-Token.")
        project = req.env.get("HTTP_X_PROJECT_ID")
        if not project:
            raise Forbidden("The token is for no project: ask Keystone for one with a project's scope.")
        validation.check_project(project)
        return Caller(project, "keystone", tuple(_listed(req.env.get("HTTP_X_ROLES", ""))), req.env.get("HTTP_X_USER_ID"))


class KeystoneGate:
    """Leads requests through keystonemiddleware, and pre-signed ones, which need no token, past it."""

    FAILED = "zaqar_notify.keystone_failed"
    _IDENTITY = re.compile(
        r"HTTP_(X_(IDENTITY_STATUS|ROLES?|USER.*|SERVICE_.*|DOMAIN_.*|TENANT.*|PROJECT_(?!ID$).*|IS_ADMIN_PROJECT)"
        r"|OPENSTACK_SYSTEM_SCOPE)"
    )

    def __init__(self, app: WSGIApplication, guarded: WSGIApplication, failures: tuple[type[Exception], ...]) -> None:
        """``guarded``: the middleware before ``app``; it raises ``failures`` when Keystone gives it no answer."""
        self._app = app
        self._guarded = guarded
        self._failures = failures

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if "HTTP_URL_SIGNATURE" in environ:
            return self._app(self._without_identity(environ), start_response)
        try:
            return self._guarded(environ, start_response)
        except self._failures as error:
            LOG.warning("a Keystone token could not be validated: %s", error)
            return self._app({**self._without_identity(environ), self.FAILED: True}, start_response)

    @classmethod
    def _without_identity(cls, environ: WSGIEnvironment) -> WSGIEnvironment:
        """What the middleware would have removed: nobody but it says who a caller is."""
        return {name: value for name, value in environ.items() if not cls._IDENTITY.fullmatch(name)}


# -- pre-signed requests -------------------------------------------------------------------------------------------------------


class SignedRequests:
    """Requests with the header URL-Signature. A wrong one is refused, whatever else the request brings."""

    def __init__(self, signer: UrlSigner, *, clock: Clock = time.time) -> None:
        self._signer = signer
        self._clock = clock

    @staticmethod
    def is_signed(req: falcon.Request) -> bool:
        return "HTTP_URL_SIGNATURE" in req.env

    def identify(self, req: falcon.Request) -> Caller:
        project = project_header(req)
        if not self._signer.verify(
            req.method,
            req.path,
            project=project,
            paths=req.env.get("HTTP_URL_PATHS", ""),
            methods=req.env.get("HTTP_URL_METHODS", ""),
            expires=req.env.get("HTTP_URL_EXPIRES", ""),
            signature=req.env["HTTP_URL_SIGNATURE"],
            now=self._clock(),
        ):
            raise Forbidden(
                "The signature is not valid for this request: it has expired, or it was made for another method, path or "
                "project, or one of the headers URL-Signature, URL-Expires, URL-Methods, URL-Paths and X-Project-ID is not "
                "as it was signed."
            )
        return Caller(project, "signed")
