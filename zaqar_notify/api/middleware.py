"""What holds for every request, whatever its resource: its id, where it may come from, who sends it, which headers it needs."""

from __future__ import annotations

import enum
import functools
import ipaddress
import time
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

import falcon

from zaqar_notify import validation
from zaqar_notify.api.identity import Caller, Identity, SignedRequests
from zaqar_notify.api.policy import Rules
from zaqar_notify.errors import Forbidden, Unauthorized
from zaqar_notify.metrics import ApiMetrics

REQUEST_ID_HEADER = "x-openstack-request-id"


class Access(enum.Enum):
    """What a resource asks of the headers of a request: its class attribute ``access``.

    One that is ZAQAR has a second one, ``rules``: HTTP method -> action in the policy. HEAD follows GET. With
    ``client_id_optional_when_signed`` a pre-signed request to it may come without a Client-ID, and with any Accept and
    Content-Type. One with ``signable`` false takes no pre-signed request at all.
    """

    ZAQAR = "zaqar"  # a caller that the rules allow this, Client-ID, JSON
    SIGNED = "signed"  # the token in the URL is the right: no caller, no header, any type
    PUBLIC = "public"


def request_id(req: falcon.Request) -> str:
    """The request's id, made when it is first asked for."""
    known: str | None = req.context.get("request_id")
    if known is None:
        known = req.context.request_id = f"req-{uuid.uuid4()}"
    return known


class Measuring:
    """Stands before all others. A resource leaves in ``published`` of the context how many messages it has stored."""

    def __init__(self, metrics: ApiMetrics) -> None:
        self._metrics = metrics

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.began = time.perf_counter()

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        seconds = time.perf_counter() - req.context.began
        self._metrics.request(req.method, req.uri_template, resp.status_code, seconds)
        published: int | None = req.context.get("published")
        if published is not None:
            self._metrics.published(published)


class RequestIds:
    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        resp.set_header(REQUEST_ID_HEADER, request_id(req))


class Discretion:
    """A URL that is a right of its own is kept by nobody who reads the answer."""

    _HEADERS: ClassVar[Mapping[str, str]] = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        if getattr(resource, "access", None) is Access.SIGNED:
            resp.set_headers(self._HEADERS)


class LoopbackOnly:
    """Without authentication nothing but loopback is served, also under a WSGI server that listens elsewhere.

    A forwarding header means that a proxy stands on loopback, and the client anywhere. Another name in the Host header than
    loopback's means that a web page stands behind it, whose name leads to this machine all of a sudden (DNS rebinding).
    """

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if not _is_loopback(req.env.get("REMOTE_ADDR", "")):
            raise Forbidden("Without authentication ([auth] strategy = none) only requests from loopback are served.")
        if "HTTP_X_FORWARDED_FOR" in req.env or "HTTP_FORWARDED" in req.env:
            raise Forbidden("Without authentication ([auth] strategy = none) forwarded requests are not served.")
        if not _names_loopback(req.env.get("HTTP_HOST", "localhost")):
            raise Forbidden("Without authentication ([auth] strategy = none) the Host header has to name loopback.")


@functools.lru_cache(maxsize=1024)
def _names_loopback(host: str) -> bool:
    """``host`` as in a Host header, with or without a port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() in ("", "localhost") or name.lower().endswith(".localhost") or _is_loopback(name)


@functools.lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    try:
        judged = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(judged, "ipv4_mapped", None)
    return (mapped or judged).is_loopback


class Callers:
    """Finds out who calls, and whether the rules allow what is asked. Leaves ``caller`` and ``project`` in the context."""

    def __init__(self, identity: Identity, signed: SignedRequests, rules: Rules) -> None:
        self._identity = identity
        self._signed = signed
        self._rules = rules

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: Any, params: dict[str, Any]) -> None:
        if not _is_zaqar(resource):
            return
        try:
            caller = (self._signed if self._signed.is_signed(req) else self._identity).identify(req)
        except Unauthorized:
            if self._identity.challenge is not None:
                resp.set_header("WWW-Authenticate", self._identity.challenge)
            raise
        if not caller.signed:
            self._check(req.method, resource, caller)
        elif not getattr(resource, "signable", True):
            raise Forbidden("A pre-signed URL does not allow this.")
        req.context.caller = caller
        req.context.project = caller.project

    def _check(self, method: str, resource: Any, caller: Caller) -> None:
        action = resource.rules.get("GET" if method == "HEAD" else method)
        # A method that the resource does not know has no action either, and is answered with 405, or by Falcon's own OPTIONS.
        if action is None and not hasattr(resource, f"on_{method.lower()}"):
            return
        if action is None or not self._rules.allow(action, caller):
            raise Forbidden("The rules of this service do not allow you to do this.")


class HeaderRules:
    """Behind `Callers`. Leaves ``client_id`` in the context."""

    def __init__(self, *, strict_client_id: bool) -> None:
        self._strict_client_id = strict_client_id

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: Any, params: dict[str, Any]) -> None:
        if not _is_zaqar(resource):
            return
        subscriber = _is_subscriber(req, resource)
        if not subscriber:
            _refuse_forms(req)
            if not req.client_accepts("application/json"):
                resp.status = falcon.HTTP_406
                resp.complete = True
                return
        req.context.client_id = None if subscriber and "HTTP_CLIENT_ID" not in req.env else self._client_id(req)
        if "queue" in params:
            validation.check_queue_name(params["queue"])

    def _client_id(self, req: falcon.Request) -> str:
        client_id: str = req.env.get("HTTP_CLIENT_ID", "")
        if not client_id:
            raise falcon.HTTPBadRequest(title="Missing header value", description="The Client-ID header is required.")
        if not self._strict_client_id:
            return _bounded_client_id(client_id)
        try:
            return _canonical_uuid(client_id)
        except ValueError:
            raise falcon.HTTPBadRequest(
                title="Wrong UUID value", description="The Client-ID header has to be a UUID."
            ) from None


def _is_zaqar(resource: Any) -> bool:
    # In an application that this service extends there are resources that know nothing of it.
    return getattr(resource, "access", None) is Access.ZAQAR


def _is_subscriber(req: falcon.Request, resource: Any) -> bool:
    """A subscriber confirms with the headers that it was sent and, for the others, with those that its library sends."""
    return req.context.caller.signed and getattr(resource, "client_id_optional_when_signed", False)


def _refuse_forms(req: falcon.Request) -> None:
    # curl -d sends this type unless it is told another; an empty body of any type does no harm.
    content_type = req.content_type
    if content_type and content_type.lower().startswith("application/x-www-form-urlencoded") and _has_body(req):
        raise falcon.HTTPBadRequest(
            title="Invalid Content-Type",
            description="A form is not accepted: send JSON, with the header Content-Type: application/json.",
        )


def _has_body(req: falcon.Request) -> bool:
    return bool(req.content_length) or "HTTP_TRANSFER_ENCODING" in req.env


def _bounded_client_id(client_id: str) -> str:
    if len(client_id) > validation.MAX_CLIENT_ID:
        raise falcon.HTTPBadRequest(
            title="Wrong Client-ID value",
            description=f"The Client-ID header may have at most {validation.MAX_CLIENT_ID} characters.",
        )
    return client_id


@functools.lru_cache(maxsize=1024)
def _canonical_uuid(text: str) -> str:
    """One spelling for each UUID, so that ``echo`` knows a client again. `ValueError` for anything else."""
    return str(uuid.UUID(text))
