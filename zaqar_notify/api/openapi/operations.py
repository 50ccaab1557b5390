"""Every route with its methods: what they take and what they answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from zaqar_notify.api.openapi.fragments import Json, answer, integer, json_content, parameter, ref, schema
from zaqar_notify.api.openapi.schemas import CLAIM_ID, MESSAGE_ID, SUBSCRIPTION_ID
from zaqar_notify.model import State
from zaqar_notify.validation import DEFAULT_PAGE, Limits

PATCH_TYPE = "application/openstack-messaging-v2.0-json-patch"

QUEUE = "/v2/queues/{queue}"
MESSAGES = f"{QUEUE}/messages"
MESSAGE = f"{MESSAGES}/{{message_id}}"
DELIVERY = f"{MESSAGE}/deliveries/{{subscription_id}}"
CLAIMS = f"{QUEUE}/claims"
CLAIM = f"{CLAIMS}/{{claim_id}}"
SUBSCRIPTIONS = f"{QUEUE}/subscriptions"
SUBSCRIPTION = f"{SUBSCRIPTIONS}/{{subscription_id}}"

PAGE = "<!DOCTYPE html>..."
_DEMO = "/v2/queues/demo"
_LOCATED = {"Location": "Location"}
_ERRORS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    406: "NotAcceptable",
    408: "RequestTimeout",
    409: "Conflict",
    410: "Gone",
    414: "UriTooLong",
    415: "UnsupportedMediaType",
    429: "TooManyRequests",
    431: "HeadersTooLarge",
    503: "Unavailable",
}
PAGES = frozenset({"BadRequest", "Forbidden", "NotFound", "Gone", "Unavailable"})
"""Errors that a browser gets as a page from the routes that people open: there is a response ``<name>Page`` for each."""
ANYWHERE = frozenset({400, 408, 414, 429, 431, 503})
"""Statuses of errors that stand before every route: of HTTP itself, and of a service that has too much to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Security:
    """Requirements of OpenAPI: who may."""

    callers: Sequence[Json]
    """For what asks who is calling."""
    signed: Json
    """One more way to say it, for what pre-signed URLs can be made for."""
    errors: frozenset[int]
    """Statuses, beside `ANYWHERE`, of every route that asks who is calling."""
    public_errors: frozenset[int]
    """The same of routes that do not."""


class _Operations:
    def __init__(self, security: Security) -> None:
        self._security = security

    def public(self, operation_id: str, summary: str, answers: Json, description: str = "") -> Json:
        responses = answers | _refused(self._security.public_errors)
        return _described(operation_id, "service", summary, description) | {"responses": responses, "security": []}

    def by_token(
        self,
        operation_id: str,
        summary: str,
        answers: Json,
        description: str,
        *,
        errors: Sequence[int] = (404,),
        parameters: Sequence[Json] = (),
        body: Json | None = None,
        pages: bool = False,
    ) -> Json:
        """For whoever has the URL: the token in it is the right. ``errors`` beside 403. ``pages``: it is opened by people."""
        made = _described(operation_id, "feedback", summary, description)
        if parameters:
            made["parameters"] = list(parameters)
        if body is not None:
            made["requestBody"] = body
        return made | {"responses": answers | _refused(frozenset({403, *errors}), pages=pages), "security": []}

    def __call__(
        self,
        operation_id: str,
        tag: str,
        summary: str,
        answers: Json,
        *,
        action: str,
        description: str = "",
        parameters: Sequence[Json] = (),
        body: Json | None = None,
        errors: Sequence[int] = (),
        client_id: str = "ClientId",
        signed: bool = False,
    ) -> Json:
        """``errors`` beside those that every route has; ``action`` is the policy's name of it."""
        made = _described(operation_id, tag, summary, description)
        made["parameters"] = [ref("parameters", client_id), ref("parameters", "ProjectId"), *parameters]
        if body is not None:
            made["requestBody"] = body
        made["responses"] = answers | _refused(self._security.errors.union(errors))
        made["security"] = [*self._security.callers, self._security.signed] if signed else list(self._security.callers)
        made["x-policy-action"] = action
        return made


def _refused(statuses: frozenset[int], *, pages: bool = False) -> Json:
    names = {str(status): _ERRORS[status] for status in sorted(statuses | ANYWHERE)}
    return {status: ref("responses", f"{name}Page" if pages and name in PAGES else name) for status, name in names.items()}


def _described(operation_id: str, tag: str, summary: str, description: str) -> Json:
    made: Json = {"operationId": operation_id, "tags": [tag], "summary": summary}
    if description:
        made["description"] = description
    return made


def _body(
    name: str, example: Any, *, required: bool = True, description: str = "", media_type: str = "application/json"
) -> Json:
    made: Json = {"required": required, "content": json_content(schema(name), example, media_type)}
    if description:
        made["description"] = description
    return made


def _limit(most: int, what: str) -> Json:
    described = integer(1, most, default=min(DEFAULT_PAGE, most))
    return parameter("query", "limit", described, f"Most {what}.", min(5, most))


def _flag(name: str, description: str) -> Json:
    return parameter("query", name, {"type": "boolean", "default": False}, description)


def _text(name: str, description: str, example: str, *, required: bool = False) -> Json:
    return parameter("query", name, {"type": "string"}, description, example, required=required)


def _links(name: str, value: str, *operation_ids: str) -> dict[str, Json]:
    """To operations on what ``value`` is the id of, in the same queue."""
    return {operation_id: {"queue": "$request.path.queue", name: value} for operation_id in operation_ids}


def _ids(name: str, most: int, description: str, example: str) -> Json:
    described = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": most}
    return parameter("query", name, described, description, [example]) | {"style": "form", "explode": False}


def paths(limits: Limits, security: Security) -> Json:
    operation = _Operations(security)
    queue = [ref("parameters", "Queue")]
    message = [*queue, ref("parameters", "MessageId")]
    claim = [*queue, ref("parameters", "ClaimId")]
    subscription = [*queue, ref("parameters", "SubscriptionId")]
    delivery = [*message, ref("parameters", "SubscriptionId")]
    return {
        **_service(operation),
        "/v2/queues": _queues(operation, limits),
        QUEUE: {"parameters": queue, **_queue(operation, limits)},
        f"{QUEUE}/stats": {"parameters": queue, **_stats(operation)},
        f"{QUEUE}/purge": {"parameters": queue, **_purge(operation)},
        f"{QUEUE}/share": {"parameters": queue, **_share(operation)},
        MESSAGES: {"parameters": queue, **_messages(operation, limits)},
        MESSAGE: {"parameters": message, **_message(operation)},
        f"{MESSAGE}/deliveries": {"parameters": message, **_message_deliveries(operation, limits)},
        DELIVERY: {"parameters": delivery, **_delivery(operation)},
        f"{DELIVERY}/redeliver": {"parameters": delivery, **_redeliver(operation)},
        f"{DELIVERY}/cancel": {"parameters": delivery, **_cancel(operation)},
        CLAIMS: {"parameters": queue, **_claims(operation, limits)},
        CLAIM: {"parameters": claim, **_claim(operation)},
        SUBSCRIPTIONS: {"parameters": queue, **_subscriptions(operation, limits)},
        SUBSCRIPTION: {"parameters": subscription, **_subscription(operation)},
        f"{SUBSCRIPTION}/confirm": {"parameters": subscription, **_confirm(operation)},
        f"{SUBSCRIPTION}/enable": {"parameters": subscription, **_enable(operation)},
        f"{SUBSCRIPTION}/ping": {"parameters": subscription, **_ping(operation)},
        f"{SUBSCRIPTION}/deliveries": {"parameters": subscription, **_subscription_deliveries(operation, limits)},
        f"{SUBSCRIPTION}/replay": {"parameters": subscription, **_replay(operation)},
        **_feedback(operation),
    }


# -- the service ------------------------------------------------------------------------------------------------------------

_VERSIONS = {
    "versions": [
        {
            "id": "2",
            "status": "CURRENT",
            "updated": "2014-9-24T04:06:47Z",
            "media-types": [{"base": "application/json", "type": "application/vnd.openstack.messaging-v2+json"}],
            "links": [{"rel": "self", "href": "/v2/"}],
        }
    ]
}
_HOME = {
    "resources": {
        "rel/queues": {
            "href-template": "/v2/queues{?marker,limit,detailed}",
            "href-vars": {"marker": "param/marker", "limit": "param/limit", "detailed": "param/detailed"},
            "hints": {"allow": ["GET"], "formats": {"application/json": {}}},
        }
    }
}
_HEALTH = {
    "storage_reachable": True,
    "catalog_reachable": True,
    "operation_status": {
        "check_storage": {"succeeded": True, "seconds": 0.001, "ref": None},
        "count_messages": {"succeeded": True, "seconds": 0.002, "ref": None},
    },
    "message_volume": {"free": 12, "claimed": 3, "total": 15},
}


def _service(operation: _Operations) -> Json:
    return {
        "/": {
            "get": operation.public(
                "list_versions", "The versions of the API", {"300": answer("The versions.", schema("Versions"), _VERSIONS)}
            )
        },
        "/v2/": {
            "get": operation(
                "get_home",
                "service",
                "The routes of this version",
                {"200": answer("A home document.", schema("Home"), _HOME, media_type="application/json-home")},
                action="ping:get",
            )
        },
        "/v2/openapi.json": {
            "get": operation.public(
                "get_openapi",
                "This document",
                {"200": answer("An OpenAPI 3.1 document.", {"type": "object"}, {"openapi": "3.1.0"})},
                "With the limits of this installation.",
            )
        },
        "/v2/ping": {
            "get": operation(
                "ping",
                "service",
                "Is the service there, and its storage?",
                {"204": answer("Both are.")},
                action="ping:get",
            ),
            "head": operation("ping_head", "service", "Is the service there?", {"204": answer("It is.")}, action="ping:get"),
        },
        "/v2/health": {
            "get": operation(
                "get_health",
                "service",
                "How the service is",
                {"200": answer("How it is.", schema("Health"), _HEALTH)},
                action="health:get",
                description="It takes the role `admin`; without authentication, the header `X-Roles: admin`.",
            )
        },
    }


# -- queues -----------------------------------------------------------------------------------------------------------------

_METADATA = {"team": "billing", "_default_message_ttl": 86400}
_SHOWN_METADATA = {
    "_max_messages_post_size": 262144,
    "_default_message_ttl": 86400,
    "_default_message_delay": 0,
    "_dead_letter_queue": None,
    "_dead_letter_queue_messages_ttl": None,
    "_max_claim_count": None,
    "_enable_encrypt_messages": False,
    "team": "billing",
}
_SIGNED_URL = {
    "paths": [f"{_DEMO}/messages"],
    "methods": ["GET", "POST"],
    "project": "demo",
    "expires": "2035-01-01T00:00:00",
    "signature": "6a63d63242ebd18c3518871dda6fdcb6273db2672c599bf985469241e9a1c799",
}
_STATS_END = {"age": 7, "ttl": 3600, "created": "2035-01-01T00:00:00Z", "href": f"{_DEMO}/messages/{MESSAGE_ID}"}


def _queues(operation: _Operations, limits: Limits) -> Json:
    filters = parameter(
        "query",
        "metadata",
        {"type": "object", "additionalProperties": {"type": "string"}},
        "Every other parameter is a name in the metadata with the value that a queue has to have there; what is no string is "
        "compared by its JSON text.",
    ) | {"style": "form", "explode": True}
    return {
        "get": operation(
            "list_queues",
            "queues",
            "List the queues",
            {
                "200": answer(
                    "A page of queues, by name.",
                    schema("Queues"),
                    {
                        "queues": [{"name": "demo", "href": _DEMO}],
                        "links": [{"rel": "next", "href": "/v2/queues?marker=demo&limit=1"}],
                    },
                )
            },
            action="queues:get_all",
            parameters=[
                ref("parameters", "QueueMarker"),
                _limit(limits.max_queues_per_page, "queues on a page"),
                _flag("detailed", "Show the metadata, too."),
                _text("name", "Only queues whose name contains this.", "dem"),
                _flag("with_count", "Say how many there are on all pages."),
                filters,
            ],
        )
    }


def _queue(operation: _Operations, limits: Limits) -> Json:
    return {
        "put": operation(
            "put_queue",
            "queues",
            "Make a queue, or replace its metadata",
            {
                "201": answer("The queue is new.", headers=_LOCATED),
                "204": answer("The metadata of the queue was replaced.", headers=_LOCATED),
            },
            action="queues:create",
            body=_body(
                "QueueMetadata",
                _METADATA,
                required=False,
                description=f"The metadata, at most {limits.max_queue_metadata} bytes. None is the same as an empty object.",
            ),
        ),
        "get": operation(
            "get_queue",
            "queues",
            "Show a queue's metadata",
            {"200": answer("The metadata.", schema("ShownMetadata"), _SHOWN_METADATA)},
            action="queues:get",
            description="Also for a queue that does not exist yet.",
        ),
        "patch": operation(
            "patch_queue",
            "queues",
            "Change a queue's metadata",
            {"200": answer("The metadata as it is now.", schema("ShownMetadata"), _SHOWN_METADATA)},
            action="queues:update",
            body=_body("MetadataPatch", [{"op": "add", "path": "/metadata/team", "value": "billing"}], media_type=PATCH_TYPE),
            errors=(404, 409, 415),
        ),
        "delete": operation(
            "delete_queue",
            "queues",
            "Delete a queue with its messages",
            {"204": answer("There is no such queue any more.")},
            action="queues:delete",
            description="Their deliveries that have not ended are cancelled. Subscriptions stay, for a queue of the same name.",
        ),
    }


def _stats(operation: _Operations) -> Json:
    return {
        "get": operation(
            "get_queue_stats",
            "queues",
            "Count a queue's messages",
            {
                "200": answer(
                    "How many there are, and the first and the last of them.",
                    schema("Stats"),
                    {"messages": {"claimed": 0, "free": 1, "total": 1, "newest": _STATS_END, "oldest": _STATS_END}},
                )
            },
            action="queues:stats",
            description="Delayed ones count as claimed: nobody can have them now.",
        )
    }


def _purge(operation: _Operations) -> Json:
    return {
        "post": operation(
            "purge_queue",
            "queues",
            "Delete all messages or subscriptions of a queue",
            {"204": answer("They are deleted.")},
            action="queues:purge",
            body=_body("Purge", {"resource_types": ["messages"]}, required=False),
        )
    }


def _share(operation: _Operations) -> Json:
    return {
        "post": operation(
            "share_queue",
            "queues",
            "Make a pre-signed URL",
            {"200": answer("What to send in the headers of a pre-signed request.", schema("SignedUrl"), _SIGNED_URL)},
            action="queues:share",
            description="Whoever has it may use the methods on the paths, and on what lies below them, until it expires.",
            body=_body("Share", {"paths": ["messages"], "methods": ["GET", "POST"], "expires": "2035-01-01T00:00:00Z"}),
        )
    }


# -- messages ---------------------------------------------------------------------------------------------------------------

_MANNER = {"attributes": {"kind": "order"}, "collapse_key": "order-7", "priority": "high", "language": "en"}
_MESSAGE = {
    "id": MESSAGE_ID,
    "href": f"{_DEMO}/messages/{MESSAGE_ID}",
    "ttl": 3600,
    "age": 7,
    "body": {"order": 7},
    "checksum": "MD5:7fa20081ee1217af020c02f44b6a3f91",
    **_MANNER,
}
_CLAIMED = _MESSAGE | {"href": f"{_DEMO}/messages/{MESSAGE_ID}?claim_id={CLAIM_ID}"}


def _messages(operation: _Operations, limits: Limits) -> Json:
    at_once = limits.max_messages_per_claim_or_pop
    return {
        "post": operation(
            "post_messages",
            "messages",
            "Post messages",
            {
                "201": answer(
                    "All of them are on disk.",
                    schema("Posted"),
                    {"resources": [f"{_DEMO}/messages/{MESSAGE_ID}"]},
                    _LOCATED,
                )
            },
            action="messages:create",
            description="All are stored, or none. The queue is made if it is missing.",
            parameters=[
                parameter(
                    "header",
                    "traceparent",
                    {"type": "string"},
                    "W3C Trace Context: a valid one is kept as the messages' attribute of this name, and passed on.",
                    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                )
            ],
            body=_body(
                "NewMessages",
                {"messages": [{"body": {"order": 7}, "ttl": 3600, **_MANNER}, {"body": "any JSON"}]},
                description=f"At most {limits.max_messages_post_size} bytes, or what the queue's metadata says.",
            ),
            signed=True,
        ),
        "get": operation(
            "list_messages",
            "messages",
            "List messages, or show some of them",
            {
                "200": answer(
                    "A page of messages, the oldest first; or, with ids, those of them that are there.",
                    schema("MessagePage"),
                    {"messages": [_MESSAGE], "links": []},
                    links=_links(
                        "message_id",
                        "$response.body#/messages/0/id",
                        "get_message",
                        "delete_message",
                        "list_message_deliveries",
                    ),
                )
            },
            action="messages:get_all",
            description="A full page always has a link to the next one: a reader waits with it for what comes. With ids the "
            "other parameters do not count, and 404 says that none of these messages is there.",
            parameters=[
                ref("parameters", "Marker"),
                _limit(limits.max_messages_per_page, "messages on a page"),
                _flag("echo", "Also the messages that this client, by its Client-ID, has posted itself."),
                _flag("include_claimed", "Also claimed ones."),
                _flag("include_delayed", "Also delayed ones."),
                _ids("ids", limits.max_messages_per_page, "Ids of messages, joined by commas.", MESSAGE_ID),
            ],
            errors=(404,),
            signed=True,
        ),
        "delete": operation(
            "delete_messages",
            "messages",
            "Pop messages, or delete some of them",
            {
                "200": answer("With pop: the messages, which are deleted.", schema("Messages"), {"messages": [_MESSAGE]}),
                "204": answer("With ids: none of them is there any more."),
            },
            action="messages:delete_all",
            description="Give either ids or pop. Each message is popped by one caller only. Deliveries go on.",
            parameters=[
                _ids("ids", at_once, "Ids of messages, joined by commas.", MESSAGE_ID),
                _ids(
                    "claim_ids",
                    at_once,
                    "With ids: those of the claims that have the messages, each of at least one.",
                    CLAIM_ID,
                ),
                parameter("query", "pop", integer(1, at_once), "How many to pop, at most."),
            ],
            signed=True,
        ),
    }


def _message(operation: _Operations) -> Json:
    return {
        "get": operation(
            "get_message",
            "messages",
            "Show a message",
            {"200": answer("The message.", schema("Message"), _MESSAGE)},
            action="messages:get",
            errors=(404,),
            signed=True,
        ),
        "delete": operation(
            "delete_message",
            "messages",
            "Delete a message",
            {"204": answer("There is no such message any more.")},
            action="messages:delete",
            description="A claimed one only with its claim's id: 403 without it, 400 with another one. Deliveries go on.",
            parameters=[_text("claim_id", "The id of the claim that has it.", CLAIM_ID)],
            signed=True,
        ),
    }


# -- claims -----------------------------------------------------------------------------------------------------------------

_TERMS = {"ttl": 300, "grace": 60}


def _claims(operation: _Operations, limits: Limits) -> Json:
    return {
        "post": operation(
            "claim_messages",
            "claims",
            "Claim messages",
            {
                "201": answer(
                    "The messages, which nobody else gets now.", schema("Messages"), {"messages": [_CLAIMED]}, _LOCATED
                ),
                "204": answer("There is nothing to claim."),
            },
            action="claims:create",
            description="The oldest free messages; each goes to one claim only. Delete what is done with its claim_id: what is "
            "left when the claim ends is free again.",
            parameters=[_limit(limits.max_messages_per_claim_or_pop, "messages to claim")],
            body=_body("ClaimTerms", _TERMS, required=False),
            signed=True,
        )
    }


def _claim(operation: _Operations) -> Json:
    return {
        "get": operation(
            "get_claim",
            "claims",
            "Show a claim with its messages",
            {
                "200": answer(
                    "The claim.",
                    schema("Claim"),
                    {"ttl": 300, "age": 7, "href": f"{_DEMO}/claims/{CLAIM_ID}", "messages": [_CLAIMED]},
                )
            },
            action="claims:get",
            errors=(404,),
            signed=True,
        ),
        "patch": operation(
            "renew_claim",
            "claims",
            "Renew a claim",
            {"204": answer("It lasts ttl seconds from now on.")},
            action="claims:update",
            body=_body("ClaimTerms", _TERMS),
            errors=(404,),
            signed=True,
        ),
        "delete": operation(
            "release_claim",
            "claims",
            "Release a claim",
            {"204": answer("Its messages that are left are free again.")},
            action="claims:delete",
            signed=True,
        ),
    }


# -- subscriptions ----------------------------------------------------------------------------------------------------------

_NEW_SUBSCRIPTION = {
    "subscriber": "https://example.org/notify",
    "ttl": 86400,
    "options": {"post_headers": {"Authorization": "Bearer x"}},
}
_SUBSCRIPTION = {
    "id": SUBSCRIPTION_ID,
    "source": "demo",
    "subscriber": "https://example.org/notify",
    "ttl": 86400,
    "age": 7,
    "options": {"post_headers": {"Authorization": "Bearer x"}, "secret": "********"},
    "confirmed": False,
}


def _subscriptions(operation: _Operations, limits: Limits) -> Json:
    return {
        "post": operation(
            "subscribe",
            "subscriptions",
            "Subscribe",
            {
                "201": answer(
                    "It is subscribed.",
                    schema("Subscribed"),
                    {"subscription_id": SUBSCRIPTION_ID, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
                    _LOCATED,
                    links=_links(
                        "subscription_id",
                        "$response.body#/subscription_id",
                        "get_subscription",
                        "update_subscription",
                        "unsubscribe",
                        "confirm_subscription",
                        "enable_subscription",
                        "ping_subscription",
                        "list_subscription_deliveries",
                    ),
                )
            },
            action="subscription:create",
            description="The queue is made if it is missing. The same subscriber again: 409 if it is confirmed; else its ttl "
            "and options are replaced, and its id stays.",
            body=_body("NewSubscription", _NEW_SUBSCRIPTION, description=f"At most {limits.max_subscription_size} bytes."),
            errors=(409,),
            signed=True,
        ),
        "get": operation(
            "list_subscriptions",
            "subscriptions",
            "List subscriptions",
            {
                "200": answer(
                    "A page of subscriptions, the oldest first.",
                    schema("Subscriptions"),
                    {"subscriptions": [_SUBSCRIPTION], "links": []},
                )
            },
            action="subscription:get_all",
            parameters=[ref("parameters", "Marker"), _limit(limits.max_subscriptions_per_page, "subscriptions on a page")],
            signed=True,
        ),
    }


def _subscription(operation: _Operations) -> Json:
    return {
        "get": operation(
            "get_subscription",
            "subscriptions",
            "Show a subscription",
            {"200": answer("The subscription.", schema("Subscription"), _SUBSCRIPTION)},
            action="subscription:get",
            errors=(404,),
            signed=True,
        ),
        "patch": operation(
            "update_subscription",
            "subscriptions",
            "Change a subscription",
            {"204": answer("It is changed.", headers=_LOCATED)},
            action="subscription:update",
            description="A new ttl starts the age anew. 409: another one has the subscriber.",
            body=_body("SubscriptionChanges", {"ttl": 604800}),
            errors=(404, 409),
            signed=True,
        ),
        "delete": operation(
            "unsubscribe",
            "subscriptions",
            "Unsubscribe",
            {"204": answer("There is no such subscription any more.")},
            action="subscription:delete",
            description="Its deliveries that have not ended are cancelled.",
            signed=True,
        ),
    }


def _confirm(operation: _Operations) -> Json:
    return {
        "put": operation(
            "confirm_subscription",
            "subscriptions",
            "Confirm a subscription, or end it",
            {"204": answer("It is as the request says.", headers=_LOCATED)},
            action="subscription:confirm",
            description="A subscriber that is asked to confirm gets the headers of a pre-signed request for this.",
            body=_body("Confirmation", {"confirmed": True}),
            client_id="ClientIdUnlessSigned",
            errors=(404,),
            signed=True,
        )
    }


def _enable(operation: _Operations) -> Json:
    return {
        "post": operation(
            "enable_subscription",
            "subscriptions",
            "Enable a subscription again",
            {"204": answer("It gets messages.")},
            action="subscription:enable",
            description="For one that was disabled because its endpoint did not work. 403: an operator has disabled it.",
            errors=(404,),
            signed=True,
        )
    }


def _ping(operation: _Operations) -> Json:
    return {
        "post": operation(
            "ping_subscription",
            "subscriptions",
            "Send a test notification",
            {
                "202": answer(
                    "It is on its way.",
                    schema("Pinged"),
                    {"message_id": MESSAGE_ID},
                    _LOCATED,
                    links={
                        name: {
                            "queue": "$request.path.queue",
                            "message_id": "$response.body#/message_id",
                            "subscription_id": "$request.path.subscription_id",
                        }
                        for name in ("get_delivery", "cancel_delivery")
                    },
                )
            },
            action="subscription:ping",
            description="To this subscriber alone; it is signed, tried again and logged like any other. 409: the subscriber "
            "has to confirm first.",
            errors=(404, 409),
            signed=True,
        )
    }


# -- deliveries -------------------------------------------------------------------------------------------------------------

_DELIVERIES: Json = {
    "deliveries": [
        {
            "message_id": MESSAGE_ID,
            "subscription_id": SUBSCRIPTION_ID,
            "state": "pending",
            "next_attempt_at": 2051222707.1,
            "progress": None,
            "acknowledged_at": None,
            "receipts": [],
            "attempts": [
                {
                    "number": 1,
                    "at": 2051222402.3,
                    "outcome": "retry",
                    "state": "pending",
                    "status": 500,
                    "duration": 0.012,
                    "error": "the endpoint answered 500 Internal Server Error",
                }
            ],
        }
    ],
    "links": [],
}
_REMEMBERED = "Also when the message has expired or was deleted, or the subscription is gone, for as long as the log is kept."


def _message_deliveries(operation: _Operations, limits: Limits) -> Json:
    return {"get": _deliveries(operation, limits, "list_message_deliveries", "What became of a message")}


def _subscription_deliveries(operation: _Operations, limits: Limits) -> Json:
    return {
        "get": _deliveries(operation, limits, "list_subscription_deliveries", "What became of the messages for a subscription")
    }


def _deliveries(operation: _Operations, limits: Limits, operation_id: str, summary: str) -> Json:
    return operation(
        operation_id,
        "deliveries",
        summary,
        {"200": answer("A page of deliveries.", schema("Deliveries"), _DELIVERIES)},
        action="deliveries:get_all",
        description=f"{_REMEMBERED} With state, since or until a page may be short, or empty, and have a link to the next.",
        parameters=[
            ref("parameters", "Marker"),
            _limit(limits.max_deliveries_per_page, "deliveries on a page"),
            _states(),
            _text(
                "since", f"Only what has its last attempt, or its end, at this time or later. {_TIME}", "2035-01-01T00:00:00Z"
            ),
            _text("until", f"Only what has its last attempt, or its end, before this time. {_TIME}", "2051222402.3"),
            _flag("exchanges", "Show what went over the wire."),
        ],
        errors=(404,),
        signed=True,
    )


_TIME = "Seconds since 1970, or an instant in ISO 8601."
_EXCHANGE = {
    "request": {
        "method": "POST",
        "url": "https://example.org/notify",
        "headers": {"content-type": "application/json"},
        "body_size": 81,
    },
    "response": {"status": 500, "headers": {"content-type": "text/plain"}, "body": "no such table"},
    "phases": {"name": 0.001, "connect": 0.003, "tls": 0.007, "first_byte": 0.012, "end": 0.012},
}


def _states() -> Json:
    described = {"type": "array", "items": {"enum": [state.value for state in State]}}
    made = parameter("query", "state", described, "Only those in one of these states, joined by commas.", ["dead", "expired"])
    return made | {"style": "form", "explode": False}


def _delivery(operation: _Operations) -> Json:
    [delivery] = _DELIVERIES["deliveries"]
    [attempt] = delivery["attempts"]
    return {
        "get": operation(
            "get_delivery",
            "deliveries",
            "What became of a message for a subscription",
            {"200": answer("The delivery.", schema("Delivery"), delivery | {"attempts": [attempt | {"exchange": _EXCHANGE}]})},
            action="deliveries:get",
            description=_REMEMBERED,
            parameters=[
                parameter("query", "exchanges", {"type": "boolean", "default": True}, "Show what went over the wire.", True)
            ],
            errors=(404,),
            signed=True,
        )
    }


def _redeliver(operation: _Operations) -> Json:
    return {
        "post": operation(
            "redeliver",
            "deliveries",
            "Start a delivery anew",
            {"202": answer("It is on its way.", headers=_LOCATED)},
            action="deliveries:redeliver",
            description="Whatever became of it. It has all its attempts again, and its log goes on. 409: it has not ended, or "
            "the message's body is not kept any more.",
            body=_body("Redelivery", {"ttl": 86400}, required=False),
            errors=(404, 409),
        )
    }


def _replay(operation: _Operations) -> Json:
    return {
        "post": operation(
            "replay",
            "deliveries",
            "Deliver again what has failed",
            {"202": answer("The workers do it, one after the other.", schema("Replaying"), {"job_id": "1a1f96f942310001"})},
            action="deliveries:replay",
            description="Each delivery that is in one of these states, and was tried for the last time, or ended, in this "
            "time, begins anew; those whose message's body is not kept any more are left out. 409: a replay of this "
            "subscription is not done yet, or too many of the project are not.",
            body=_body("Replay", {"since": "2035-01-01T10:00:00Z", "until": "2035-01-01T12:00:00Z", "states": ["dead"]}),
            errors=(404, 409),
        )
    }


def _cancel(operation: _Operations) -> Json:
    return {
        "post": operation(
            "cancel_delivery",
            "deliveries",
            "End a delivery",
            {"204": answer("It is cancelled.", headers=_LOCATED)},
            action="deliveries:cancel",
            description="An attempt that is under way may still arrive. 409: it has ended.",
            errors=(404, 409),
        )
    }


# -- feedback ---------------------------------------------------------------------------------------------------------------

_REPORT = {"MessageStatus": "delivered", "MessageSid": "SM5ef8732a3c49700934481addd5ce1659"}
_ANYTHING: Json = {
    "required": False,
    "description": "It is not looked at, and may have 16 KiB.",
    "content": json_content({"type": "object"}, {"List-Unsubscribe": "One-Click"}, "application/x-www-form-urlencoded"),
}
_HEADERS_OF_PAGES = {"Content-Security-Policy": "ContentSecurityPolicy"}


def _feedback(operation: _Operations) -> Json:
    token = [ref("parameters", "Token")]
    return {
        "/v2/acknowledgements/{token}": {"parameters": token, **_acknowledgements(operation)},
        "/v2/receipts/{token}": {"parameters": token, **_receipts(operation)},
        "/v2/unsubscriptions/{token}": {"parameters": token, **_unsubscriptions(operation)},
        "/v2/confirmations/{token}": {"parameters": token, **_confirmations(operation)},
    }


def _acknowledgements(operation: _Operations) -> Json:
    return {
        "post": operation.by_token(
            "acknowledge",
            "Say that a notification was taken",
            {"204": answer("It is in the record of the delivery.")},
            "For the application that was notified. Once more changes nothing. 503: the attempt is not over yet.",
            body=_ANYTHING,
        )
    }


def _receipts(operation: _Operations) -> Json:
    description = "For the provider that carries the notification. 503: the attempt is not over yet."
    fields = parameter(
        "query",
        "fields",
        {"type": "object", "maxProperties": 100},
        "What the provider has to say, in fields of its own.",
    )
    report = {"type": "object", "maxProperties": 100}
    return {
        "get": operation.by_token(
            "report_by_query",
            "Say what became of a notification",
            {"200": answer("It was heard.")},
            description,
            parameters=[fields | {"style": "form", "explode": True}],
        ),
        "post": operation.by_token(
            "report",
            "Say what became of a notification",
            {"204": answer("It was heard.")},
            description,
            body={
                "required": False,
                "description": "At most 100 fields, with those of the query, and 16 KiB.",
                "content": json_content(
                    report | {"additionalProperties": {"type": "string"}}, _REPORT, "application/x-www-form-urlencoded"
                )
                | json_content(report, _REPORT),
            },
        ),
    }


def _page(description: str) -> Json:
    return answer(
        description,
        {"type": "string"},
        PAGE,
        _HEADERS_OF_PAGES,
        media_type="text/html",
    )


def _unsubscriptions(operation: _Operations) -> Json:
    return {
        "get": operation.by_token(
            "show_unsubscription",
            "Ask whether to unsubscribe",
            {"200": _page("A page with a button. Nothing is changed.")},
            "For the person who was notified.",
            errors=(),
            pages=True,
        ),
        "post": operation.by_token(
            "unsubscribe_by_link",
            "Unsubscribe",
            {"200": _page("For a browser: there is no such subscription any more."), "204": answer("The same, for others.")},
            "By the button of the page, or in one click (RFC 8058).",
            errors=(),
            pages=True,
            body=_ANYTHING,
        ),
    }


def _confirmations(operation: _Operations) -> Json:
    description = "For the person who is asked to confirm. 410: it is too late, or another address is asked now."
    return {
        "get": operation.by_token(
            "show_confirmation",
            "Ask whether to confirm a subscription",
            {"200": _page("A page with a button. Nothing is changed.")},
            description,
            errors=(404, 410),
            pages=True,
        ),
        "post": operation.by_token(
            "confirm_by_link",
            "Confirm a subscription",
            {"200": _page("For a browser: it is confirmed."), "204": answer("The same, for others.")},
            description,
            errors=(404, 410),
            pages=True,
            body=_ANYTHING,
        ),
    }
