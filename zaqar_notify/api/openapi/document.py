"""The whole document: what its operations have in common, and who may."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from zaqar_notify import __version__, validation
from zaqar_notify.api.openapi import operations, schemas
from zaqar_notify.api.openapi.fragments import Json, answer, json_content, parameter, schema
from zaqar_notify.validation import Limits

STRATEGIES = {"none": ["project"], "apikey": ["apiKey", "apiKeyToken"], "keystone": ["keystoneToken"]}
"""The security schemes of each strategy; one of them is enough."""
SIGNED = ["urlSignature", "urlExpires", "urlMethods", "urlPaths", "project"]
"""The security schemes of a pre-signed request, which has all of them."""

_DESCRIPTION = """\
Publish and subscribe on queues: the queues, messages, claims and subscriptions of OpenStack Zaqar's API v2, and what became
of each delivery.

A queue needs no creation: its first message or subscription makes it. Everything belongs to the caller's project, and what
belongs to another project is as unknown as what never was.

Every answer has the header `x-openstack-request-id`; the service's log has the same id where something failed. An error has
a JSON body with `title` and `description`; only 406 has none. There is no such route: 404. The route has no such method: 405,
with the header `Allow`. A parameter of the query that is empty is the same as none.

Pre-signed requests bring the five headers that `POST /v2/queues/{queue}/share` has answered, or that a subscriber was sent to
confirm its subscription, in place of other credentials.
"""

_TAGS = {
    "service": "Is it there, how is it, what can it do?",
    "queues": "Queues with their metadata and statistics; pre-signed URLs.",
    "messages": "Messages are posted, read, popped and deleted.",
    "claims": "A claim gives messages to one consumer for a time.",
    "subscriptions": "Who is notified of a queue's messages.",
    "deliveries": "Did it arrive, and if not, why?",
    "feedback": "What those who are notified, and those who carry it, answer: by links in the notifications.",
}


def document(limits: Limits, strategy: str | None = None) -> Json:
    """``strategy``: that of ``[auth]``; None describes all of them."""
    strategies = list(STRATEGIES) if strategy is None else [strategy]
    schemes = [scheme for one in strategies for scheme in STRATEGIES[one]]
    security = operations.Security(
        callers=[{scheme: []} for scheme in schemes],
        signed={scheme: [] for scheme in SIGNED},
        # Without authentication nobody is asked to authenticate, and only loopback is served.
        errors=frozenset({403, 406} if strategies == ["none"] else {401, 403, 406}),
        public_errors=frozenset({403} if "none" in strategies else ()),
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "zaqar-notify",
            "version": __version__,
            "summary": "Publish/subscribe notifications for a queuing REST API that speaks Zaqar v2",
            "description": _DESCRIPTION,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": operations.paths(limits, security),
        "components": {
            "schemas": schemas.schemas(limits),
            "parameters": _parameters(limits, strategies),
            "headers": _headers(),
            "responses": _errors() | _pages(),
            "securitySchemes": _security_schemes(schemes),
        },
    }


def _security_schemes(used: list[str]) -> Json:
    schemes = {
        "project": _header_scheme(
            "X-Project-ID", "The caller's project: all that is asked without authentication ([auth] strategy = none)."
        ),
        "apiKey": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "zn_<id>_<secret>",
            "description": "An API key, which is for one project ([auth] strategy = apikey).",
        },
        "apiKeyToken": _header_scheme("X-Auth-Token", "The same API key, for clients of OpenStack."),
        "keystoneToken": _header_scheme("X-Auth-Token", "A token of Keystone for a project ([auth] strategy = keystone)."),
        "urlSignature": _header_scheme("URL-Signature", "The signature of a pre-signed request."),
        "urlExpires": _header_scheme("URL-Expires", "When the signature ends."),
        "urlMethods": _header_scheme("URL-Methods", "The methods that it allows, joined by commas."),
        "urlPaths": _header_scheme("URL-Paths", "The paths that it allows, joined by commas."),
    }
    return {name: scheme for name, scheme in schemes.items() if name in {*used, *SIGNED}}


def _header_scheme(name: str, description: str) -> Json:
    return {"type": "apiKey", "in": "header", "name": name, "description": description}


def _parameters(limits: Limits, strategies: list[str]) -> Json:
    client_id: Json = {"type": "string", "format": "uuid"}
    if limits.client_id_uuid_safe != "strict":
        client_id = {"type": "string", "minLength": 1, "maxLength": validation.MAX_CLIENT_ID}
    client = "3381af92-2b9e-11e3-b191-71861300734c"
    return {
        "ClientId": parameter(
            "header", "Client-ID", client_id, "Tells one client's messages from another's.", client, required=True
        ),
        "ClientIdUnlessSigned": parameter(
            "header", "Client-ID", client_id, "As elsewhere; a pre-signed request may leave it out.", client
        ),
        "ProjectId": parameter(
            "header",
            "X-Project-ID",
            {"type": "string", "minLength": 1, "maxLength": validation.MAX_PROJECT, "pattern": r"[^\s]"},
            "The project. Required without authentication and in a pre-signed request. An API key or a token says it, too: it "
            "may be left out then, and has to be the same if it is not.",
            "demo",
            required=strategies == ["none"],
        ),
        "Queue": parameter("path", "queue", schema("QueueName"), "The queue's name.", "demo"),
        "MessageId": parameter("path", "message_id", _ID, "The message's id.", schemas.MESSAGE_ID),
        "ClaimId": parameter("path", "claim_id", _ID, "The claim's id.", schemas.CLAIM_ID),
        "SubscriptionId": parameter("path", "subscription_id", _ID, "The subscription's id.", schemas.SUBSCRIPTION_ID),
        "Token": parameter("path", "token", _ID, "From a link in a notification, for one delivery and one use.", _TOKEN),
        "Marker": parameter("query", "marker", {"type": "string"}, "What the page begins behind: from the link to it."),
        "QueueMarker": parameter(
            "query",
            "marker",
            {"type": "string", "maxLength": validation.MAX_QUEUE_NAME, "pattern": r"^[a-zA-Z0-9_\-.]*$"},
            "The name that the page begins behind.",
        ),
    }


_ID: Json = {"type": "string", "minLength": 1}
_TOKEN = f"a{schemas.MESSAGE_ID}-{schemas.SUBSCRIPTION_ID}-0-5c0f3b2a9d8e7f6a1b4c5d6e7f8091a2"


def _headers() -> Json:
    return {
        "RequestId": _header("The request's id, which the service's log has, too.", pattern="^req-[0-9a-f-]{36}$"),
        "Location": _header("The path of what was made or changed.", pattern="^/v2/queues/"),
        "AcceptPatch": _header("The type of the body that is accepted.", const=operations.PATCH_TYPE),
        "RetryAfter": _header("Seconds to wait before the next try.", pattern="^[0-9]+$"),
        "Challenge": _header("How to authenticate."),
        "ContentSecurityPolicy": _header("It lets the page load nothing and run nothing."),
    }


def _header(description: str, **rules: str) -> Json:
    return {"description": description, "required": True, "schema": {"type": "string", **rules}}


def _errors() -> Json:
    return {
        "BadRequest": _error(
            "The request is not understood, or asks for what is not allowed.",
            "Invalid request",
            "limit has to be an integer from 1 to 20.",
        ),
        "Unauthorized": _error(
            "The caller has not said who it is, or not truly.",
            "Unauthorized",
            "There is no such key, or it was revoked.",
            {"WWW-Authenticate": "Challenge"},
        ),
        "Forbidden": _error(
            "The caller may not do this.", "Forbidden", "The rules of this service do not allow you to do this."
        ),
        "NotFound": _error(
            "There is no such thing.",
            "Not found",
            "There is no such message in the queue: it never was, has expired or was deleted.",
        ),
        "RequestTimeout": _error(
            "The request took too long to arrive.", "Request Timeout", "The request did not arrive within 10 s."
        ),
        "UriTooLong": _error("The path and the query are too long.", "URI Too Long", "Request Line is too large (5833 > 4094)"),
        "TooManyRequests": _error(
            "Too much comes from this address at once.",
            "Too Many Requests",
            "Too many connections from this address wait for a request.",
            {"Retry-After": "RetryAfter"},
        ),
        "HeadersTooLarge": _error(
            "The headers are too long.", "Request Header Fields Too Large", "limit request headers fields size"
        ),
        "NotAcceptable": answer("The header Accept does not allow application/json. There is no body."),
        "Conflict": _error("What is there does not allow this.", "Conflict", "The queue's metadata has no 'team' to remove."),
        "UnsupportedMediaType": _error(
            "The body is of another type than the one that is accepted.",
            "Unsupported Media Type",
            f"A queue's metadata is changed with Content-Type: {operations.PATCH_TYPE}.",
            {"Accept-Patch": "AcceptPatch"},
        ),
        "Unavailable": _error(
            "The storage is out of reach, or the service is stopping or busy; nothing was changed.",
            "Service temporarily unavailable",
            "The database is locked.",
            {"Retry-After": "RetryAfter"},
        ),
    }


def _pages() -> Json:
    """The errors of routes that people open: a page for a browser, and JSON for others."""
    gone = _error("It was there once, and will not be again.", "Gone", "This request to confirm is not valid any more.")
    page = json_content({"type": "string"}, operations.PAGE, "text/html")
    found = {name: error for name, error in (_errors() | {"Gone": gone}).items() if name in operations.PAGES}
    return {f"{name}Page": {**error, "content": error["content"] | page} for name, error in found.items()}


def _error(meaning: str, title: str, description: str, headers: Mapping[str, str] = MappingProxyType({})) -> Json:
    return answer(meaning, schema("Error"), {"title": title, "description": description}, headers)
