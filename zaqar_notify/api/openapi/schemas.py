"""What the bodies of requests and answers look like."""

from __future__ import annotations

from zaqar_notify import signing, templates, validation
from zaqar_notify.api import deliveries
from zaqar_notify.api.openapi.fragments import Json, integer, listed, nullable, record, schema
from zaqar_notify.model import OutcomeKind, ReceiptKind, State
from zaqar_notify.sandbox import MOST_SOURCE
from zaqar_notify.validation import Limits

INT64 = 2**63 - 1
ANY: Json = {"description": "Any JSON value; integers have at most 64 bits."}
COUNT = integer(0)
SECONDS: Json = {"type": "number"}
INSTANT: Json = {"type": "number", "description": "Seconds since 1970-01-01, UTC."}
TEXT: Json = {"type": "string"}
FLAG: Json = {"type": "boolean"}

MESSAGE_ID = "01995f6e2b7000a1"
CLAIM_ID = "01995f6e2b7000b2"
SUBSCRIPTION_ID = "01995f6e2b7000c3"


def schemas(limits: Limits) -> Json:
    return {
        "Error": record({"title": TEXT, "description": {**TEXT, "description": "What is wrong, and what to change."}}),
        "Links": listed(
            record({"rel": {"const": "next"}, "href": {**TEXT, "description": "The path and query of the next page."}}), 1
        )
        | {"description": "The link to the next page, or none where there is no more."},
        **_service(),
        **_queues(limits),
        **_messages(limits),
        **_claims(limits),
        **_subscriptions(limits),
        **_deliveries(limits),
    }


# -- the service ------------------------------------------------------------------------------------------------------------


def _service() -> Json:
    link = record({"rel": TEXT, "href": TEXT})
    version = record(
        {
            "id": TEXT,
            "status": {"enum": ["CURRENT", "SUPPORTED", "DEPRECATED"]},
            "updated": TEXT,
            "media-types": listed(record({"base": TEXT, "type": TEXT})),
            "links": listed(link),
        }
    )
    tried = record(
        {
            "succeeded": FLAG,
            "seconds": SECONDS,
            "ref": {"type": ["string", "null"], "description": "The request's id, under which the log has the reason."},
        }
    )
    volume = dict.fromkeys(("free", "claimed", "total"), COUNT)
    return {
        "Versions": record({"versions": listed(version)}),
        "Home": {
            "type": "object",
            "properties": {"resources": {"type": "object", "additionalProperties": {"type": "object"}}},
            "required": ["resources"],
            "description": "A home document for JSON HTTP APIs (draft-nottingham-json-home-03).",
        },
        "Health": record(
            {
                "storage_reachable": FLAG,
                "catalog_reachable": FLAG,
                "operation_status": record({"check_storage": tried, "count_messages": tried}),
                "message_volume": nullable(record(volume)) | {"description": "Of all projects together; null: not known now."},
            }
        ),
    }


# -- queues -----------------------------------------------------------------------------------------------------------------

QUEUE_NAME: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": validation.MAX_QUEUE_NAME,
    "pattern": r"^[a-zA-Z0-9_\-.]+$",
}


def _queues(limits: Limits) -> Json:
    return {
        "QueueName": QUEUE_NAME,
        "QueueMetadata": {
            "type": "object",
            "description": "Names of your own, and these. A queue shows the defaults of those that are not set.",
            "properties": _reserved(limits),
        },
        "ShownMetadata": {
            "type": "object",
            "description": "The queue's metadata, with the reserved names at their defaults where they are not set.",
            "properties": {name: _unbounded(described) for name, described in _reserved(limits).items()}
            | {
                "_retry_policy": {"type": "object", "description": "How deliveries are tried again."},
                "_templates": {"type": "object", "description": "What messages become, by channel."},
            },
            "required": sorted(_reserved(limits).keys() - {"_retry_policy", "_templates"}),
        },
        "Queue": record(
            {"name": schema("QueueName"), "href": TEXT, "metadata": schema("ShownMetadata")}, optional=("metadata",)
        ),
        "Queues": record(
            {
                "queues": listed(schema("Queue"), limits.max_queues_per_page),
                "links": schema("Links"),
                "count": {**COUNT, "description": "How many queues there are on all pages: only with with_count."},
            },
            optional=("count",),
        ),
        "MetadataPatch": _metadata_patch(),
        "Stats": record(
            {"messages": record({**dict.fromkeys(("claimed", "free", "total"), COUNT), **_ends()}, optional=tuple(_ends()))}
        ),
        "Purge": {
            "type": "object",
            "properties": {
                "resource_types": {
                    "type": "array",
                    "items": {"enum": ["messages", "subscriptions"]},
                    "description": "What is deleted.",
                }
            },
            "required": ["resource_types"],
        },
        "Share": {
            "type": "object",
            "properties": {
                "paths": {
                    "type": "array",
                    "items": {"enum": ["messages", "subscriptions", "claims"]},
                    "default": ["messages"],
                    "description": "What of the queue may be used.",
                },
                "methods": {
                    "type": "array",
                    "items": {"enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]},
                    "default": ["GET"],
                    "description": "How it may be used.",
                },
                "expires": {
                    "type": "string",
                    "description": "An instant of the future in ISO 8601; without a zone it is UTC. Default: a day from now.",
                },
            },
            "additionalProperties": False,
        },
        "SignedUrl": record(
            {
                "paths": listed(TEXT),
                "methods": listed(TEXT),
                "project": TEXT,
                "expires": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$", "description": "UTC."},
                "signature": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            },
            description="What to send in the headers URL-Paths, URL-Methods (each joined by commas), X-Project-ID, URL-Expires "
            "and URL-Signature.",
        ),
        "RetryPolicy": _retry_policy(limits),
        "Templates": _templates(),
    }


def _reserved(limits: Limits) -> Json:
    return {
        "_max_messages_post_size": integer(
            1,
            limits.max_messages_post_size,
            default=limits.max_messages_post_size,
            description="Largest body, in bytes, of a request that posts messages.",
        ),
        "_default_message_ttl": integer(
            limits.min_message_ttl,
            limits.max_message_ttl,
            default=limits.default_message_ttl,
            description="Time to live, in seconds, of a message that names none.",
        ),
        "_default_message_delay": integer(
            0,
            limits.max_message_delay,
            default=limits.default_message_delay,
            description="Delay, in seconds, of a message that names none.",
        ),
        "_dead_letter_queue": nullable(QUEUE_NAME)
        | {"default": None, "description": "Where a message goes that was claimed _max_claim_count times."},
        "_dead_letter_queue_messages_ttl": nullable(
            integer(
                limits.min_message_ttl,
                limits.max_message_ttl,
                description="Time to live, in seconds, of a message there; null leaves it its own.",
            )
        )
        | {"default": None},
        "_max_claim_count": nullable(
            integer(1, INT64, description="How often a message can be claimed before it goes to the dead-letter queue.")
        )
        | {"default": None},
        "_enable_encrypt_messages": {
            "type": "boolean",
            "default": False,
            "description": "Whether bodies are encrypted where they are stored. Readers and subscribers get plain text.",
        },
        "_retry_policy": schema("RetryPolicy"),
        "_templates": schema("Templates"),
    }


def _templates() -> Json:
    source: Json = {"type": "string", "maxLength": MOST_SOURCE}
    by_language = {
        "type": "object",
        "propertyNames": {"maxLength": templates.MOST_TAG, "pattern": "^[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*$"},
        "additionalProperties": source,
    }
    return {
        "type": "object",
        "description": "Templates (Jinja2, sandboxed) by channel and part, each of them one, or several by language.",
        "properties": {
            channel: {
                "type": "object",
                "properties": {part: {"anyOf": [source, by_language]} for part in parts},
                "additionalProperties": False,
            }
            for channel, parts in templates.PARTS.items()
        },
        "additionalProperties": False,
    }


def _unbounded(described: Json) -> Json:
    """Without limits, which the operator may have changed since the value was stored."""
    return {name: value for name, value in described.items() if name not in ("minimum", "maximum")}


def _scheduling(limits: Limits) -> Json:
    return {
        "schedule": listed({"type": "number", "minimum": 0, "maximum": validation.MAX_WAIT}, limits.max_attempts)
        | {
            "minItems": 1,
            "description": "Seconds to wait before each attempt. The first attempt is made at once, whatever the first says.",
        },
        "max_attempts": integer(
            1,
            limits.max_attempts,
            description="How many attempts are made: a longer schedule is cut, the last wait of a shorter one is repeated.",
        ),
    }


def _retry_policy(limits: Limits) -> Json:
    number = integer(0, INT64)
    return {
        "type": "object",
        "description": "How deliveries are tried again. With a schedule the numbers and delays do not count. Where both delays "
        "are given, maximum_delay is at least 10 more than minimum_delay.",
        "properties": {
            **_scheduling(limits),
            "retries_with_no_delay": {**number, "default": 3},
            "minimum_delay_retries": {**number, "default": 3},
            "minimum_delay": {**number, "default": 5, "description": "Seconds."},
            "maximum_delay": {**number, "default": 30, "description": "Seconds."},
            "maximum_delay_retries": {**number, "default": 3},
            "retry_backoff_function": {"enum": ["linear", "arithmetic", "geometric", "exponential"], "default": "linear"},
            "ignore_subscription_override": {
                "type": "boolean",
                "default": False,
                "description": "Of a queue: its subscriptions' own policies do not count.",
            },
        },
    }


def _metadata_patch() -> Json:
    path = {
        "type": "string",
        "pattern": "^/metadata/([^/~]|~[01])+$",
        "description": "/metadata/ and the name, in which ~1 stands for / and ~0 for ~.",
    }
    return {
        "type": "array",
        "description": "The changes, which are made all or not at all. Each is of a whole value, not of a part of it.",
        "items": {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"op": {"enum": ["add", "replace"]}, "path": path, "value": ANY},
                    "required": ["op", "path", "value"],
                },
                {"type": "object", "properties": {"op": {"const": "remove"}, "path": path}, "required": ["op", "path"]},
            ]
        },
    }


def _ends() -> Json:
    end = record(
        {"age": COUNT, "ttl": integer(1), "created": {**TEXT, "format": "date-time"}, "href": TEXT},
        description="Not there where the queue has no messages.",
    )
    return {"newest": end, "oldest": end}


# -- messages ---------------------------------------------------------------------------------------------------------------


def _messages(limits: Limits) -> Json:
    message: Json = {
        "id": TEXT,
        "href": {**TEXT, "description": "The message's path; that of a claimed one has ?claim_id=."},
        "ttl": {**integer(1), "description": "Seconds that it lives."},
        "age": {**COUNT, "description": "Seconds since it was posted."},
        "body": ANY,
        "checksum": {
            "type": "string",
            "pattern": "^MD5:[0-9a-f]{32}$",
            "description": "MD5 of the body as the JSON text that Python's json.dumps makes.",
        },
        # One more: the header traceparent of the request which posted it.
        "attributes": _attributes(validation.MAX_ATTRIBUTES + 1) | {"description": "Only where it has any."},
        **_manner(),
        "sealed": {
            "type": "boolean",
            "description": "true: the service lacks the key to decrypt the body, which is null. Else not there.",
        },
    }
    posted: Json = {
        "body": ANY,
        "ttl": integer(
            limits.min_message_ttl, limits.max_message_ttl, description="Seconds that it lives; default: the queue's."
        ),
        "delay": integer(
            0,
            limits.max_message_delay,
            description="Seconds until it can be read, claimed and delivered; its ttl begins then. Default: the queue's.",
        ),
        "attributes": _attributes(validation.MAX_ATTRIBUTES),
        **_manner(),
    }
    return {
        "Message": record(message, optional=("checksum", "attributes", *_manner(), "sealed")),
        "Messages": record({"messages": listed(schema("Message"))}),
        "MessagePage": record(
            {"messages": listed(schema("Message"), limits.max_messages_per_page), "links": schema("Links")}, optional=("links",)
        ),
        "NewMessages": {
            "type": "object",
            "properties": {
                "messages": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "object", "properties": posted, "required": ["body"]},
                }
            },
            "required": ["messages"],
        },
        "Posted": record(
            {"resources": listed(TEXT) | {"description": "The path of each message, in the order of the request."}}
        ),
    }


def _manner() -> Json:
    """How it is to be delivered."""
    return {
        "collapse_key": {
            "type": "string",
            "minLength": 1,
            "maxLength": validation.MAX_COLLAPSE_KEY,
            "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$",
            "description": "Of two notifications with the same one only the later matters.",
        },
        "priority": {"enum": list(validation.PRIORITIES), "description": "How urgent it is."},
        "language": {**_LANGUAGE, "description": "That of its text: a tag of RFC 5646."},
    }


def _attributes(most: int) -> Json:
    return {
        "type": "object",
        "maxProperties": most,
        "additionalProperties": {
            "anyOf": [{"type": ["string", "boolean"]}, {"type": "number", "minimum": -(2**63), "maximum": INT64}, listed(TEXT)]
        },
    }


# -- claims -----------------------------------------------------------------------------------------------------------------


def _claims(limits: Limits) -> Json:
    terms = {
        "ttl": integer(
            limits.min_claim_ttl, limits.max_claim_ttl, default=limits.default_claim_ttl, description="Seconds that it lasts."
        ),
        "grace": integer(
            limits.min_claim_grace,
            limits.max_claim_grace,
            default=limits.default_claim_grace,
            description="Seconds that its messages live on, at least, when it has ended.",
        ),
    }
    return {
        # null is the same as nothing: clients send it.
        "ClaimTerms": {"type": "object", "properties": {name: nullable(term) for name, term in terms.items()}},
        "Claim": record({"ttl": integer(1), "age": COUNT, "href": TEXT, "messages": listed(schema("Message"))}),
    }


# -- subscriptions ----------------------------------------------------------------------------------------------------------


def _subscriptions(limits: Limits) -> Json:
    disabled = record({"reason": TEXT, "at": INSTANT, "enable_by": {"enum": ["owner", "operator"]}})
    return {
        "NewSubscription": {"type": "object", "properties": _given(limits, "NewOptions"), "required": ["subscriber"]},
        "SubscriptionChanges": {
            "type": "object",
            "properties": _given(limits, "ChangedOptions"),
            "anyOf": [{"required": ["subscriber"]}, {"required": ["ttl"]}, {"required": ["options"]}],
        },
        "NewOptions": _options(limits, f"^{_SECRET}$", "Without one a secret is made."),
        "ChangedOptions": _options(
            limits,
            rf"^({_SECRET}|\*{{{len(validation.MASK)}}})$",
            f'Without one, or with "{validation.MASK}", it stays as it is.',
        )
        | {"description": "They replace all options but the secret."},
        "Subscribed": record(
            {
                "subscription_id": TEXT,
                "secret": {**TEXT, "description": "The secret that the service has made. It is told here, and never again."},
            },
            optional=("secret",),
        ),
        "Subscription": record(
            {
                "id": TEXT,
                "source": schema("QueueName"),
                "subscriber": TEXT,
                "ttl": {
                    "type": ["integer", "null"],
                    "description": "Seconds that it lives, since its age was 0; null: for ever.",
                },
                "age": COUNT,
                "options": {"type": "object", "description": f'As they were given; a secret is shown as "{validation.MASK}".'},
                "confirmed": FLAG,
                "disabled": disabled | {"description": "Only where it gets nothing now: why, and who may enable it again."},
                "strikes": {
                    **integer(1),
                    "description": "Only where there are any: attempts in a row that found the target itself to be wrong.",
                },
                "failing_since": {
                    **SECONDS,
                    "description": "Only where nothing has succeeded since: seconds since 1970-01-01, UTC.",
                },
            },
            optional=("disabled", "strikes", "failing_since"),
        ),
        "Subscriptions": record(
            {
                "subscriptions": listed(schema("Subscription"), limits.max_subscriptions_per_page),
                "links": schema("Links"),
            }
        ),
        "Pinged": record({"message_id": {**TEXT, "description": "The id by which its delivery can be asked for."}}),
        "Confirmation": {
            "type": "object",
            "properties": {"confirmed": {"type": "boolean", "description": "false ends it: nothing more is sent there."}},
            "required": ["confirmed"],
        },
    }


_SECRET = (
    signing.PREFIX + "([A-Za-z0-9+/]{4}){8,20}([A-Za-z0-9+/]{4}([A-Za-z0-9+/]{2}==)?|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?"
)
"""The base64 of `signing.MIN_BYTES` to `signing.MAX_BYTES` bytes."""


_URI_OF = r"^{}:[^\x00-\x1f\x7f-\x9f]+$"
_LANGUAGE: Json = {"type": "string", "maxLength": validation.MAX_LANGUAGE, "pattern": f"^({validation.LANGUAGE_TAG})$"}
_URI: Json = {
    "type": "string",
    "maxLength": validation.MAX_SUBSCRIBER,
    "pattern": _URI_OF.format(r"[a-zA-Z][a-zA-Z0-9+.\-]*"),
}


def _given(limits: Limits, options: str) -> Json:
    return {
        "subscriber": {
            **_URI,
            "description": "The URI that is notified. One of the notifiers of this installation has to serve its scheme.",
        },
        "ttl": _subscription_ttl(limits),
        "options": schema(options),
    }


def _options(limits: Limits, secret: str, otherwise: str) -> Json:
    return {
        "type": "object",
        "description": "How it is notified. Beside what holds for all, those of webhooks are described here; others are kept "
        "and shown, but for slips: names that differ from one of these in capitals, _, - or an s at the end alone.",
        "properties": {
            "secret": {
                "type": "string",
                "pattern": secret,
                "description": f"Signs the notifications: {signing.PREFIX} and the base64 of {signing.MIN_BYTES} to "
                f"{signing.MAX_BYTES} bytes. {otherwise}",
            },
            "timeout": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds that an attempt may take."},
            "post_headers": {
                "type": "object",
                "additionalProperties": TEXT,
                "description": "Headers of the notification; not Host, Content-Length, webhook-*.",
            },
            "post_data": {
                "type": "string",
                "description": 'The body of the notification; "$zaqar_message$", with the quotes, stands for the message.',
            },
            **_scheduling(limits),
            "_retry_policy": schema("RetryPolicy"),
            "max_in_flight": integer(1, validation.MAX_IN_FLIGHT, description="Attempts under way at once, at most."),
            "rate": {
                "type": "number",
                "minimum": validation.MIN_RATE,
                "maximum": validation.MAX_RATE,
                "description": "Attempts per second, at most.",
            },
            "dead_letter_queue": {
                **QUEUE_NAME,
                "description": "Another queue of the project, which gets the messages that could not be delivered.",
            },
            "templates": schema("Templates"),
            "language": {
                **_LANGUAGE,
                "description": "Whose templates are for messages that name no language: a tag of RFC 5646.",
            },
            "window": _window(limits),
            "fallback": listed(_URI, validation.MAX_FALLBACKS)
            | {
                "minItems": 1,
                "uniqueItems": True,
                "description": "Where a message is sent to, one after the other, that the subscriber did not get.",
            },
            "callback": {
                **_URI,
                "pattern": _URI_OF.format("[hH][tT][tT][pP][sS]?"),
                "description": "A URL that is told when the subscription gets nothing any more.",
            },
        },
    }


def _window(limits: Limits) -> Json:
    longest: Json = {"type": "number", "exclusiveMinimum": 0, "maximum": limits.max_window}
    least: Json = {"type": "number", "minimum": 0, "maximum": limits.max_window}
    one = {"type": "object", "properties": {"seconds": longest}, "required": ["seconds"], "additionalProperties": False}
    between = {
        "type": "object",
        "properties": {"min": least, "max": longest},
        "required": ["min", "max"],
        "additionalProperties": False,
    }
    return {
        "oneOf": [one, between],
        "description": "Messages wait for its end, and of those with the same collapse key the last is sent. Seconds, or a "
        "time between two bounds that is drawn anew for each.",
    }


def _subscription_ttl(limits: Limits) -> Json:
    default = limits.default_subscription_ttl
    lasts = "it never ends" if default is None else f"{default}"
    return {
        "type": ["integer", "null"],
        "minimum": limits.min_subscription_ttl,
        "description": f"Seconds that it lives, at most until the year 9999; null: for ever. Default: {lasts}.",
    }


# -- deliveries -------------------------------------------------------------------------------------------------------------


def _deliveries(limits: Limits) -> Json:
    state = {"enum": [state.value for state in State]}
    attempt = record(
        {
            "number": {
                **integer(1),
                "description": "1, 2, 3 and so on; a first one above 1 says that earlier ones are left out.",
            },
            "at": INSTANT,
            "outcome": {
                "enum": [*(kind.value for kind in OutcomeKind), None],
                "description": "null for an end without an attempt.",
            },
            "state": state,
            "status": {"type": ["integer", "null"], "description": "That of the answer, in the transport's numbers."},
            "duration": {"type": ["number", "null"], "description": "Seconds."},
            "error": {"type": ["string", "null"]},
            "detail": {"type": "string", "description": "Only of a success: what there is to say of it, as what it was taken."},
            "fallback": {
                **integer(1, validation.MAX_FALLBACKS),
                "description": "Only where it went to another address than the subscriber: which one of options.fallback.",
            },
            "exchange": nullable(_exchange())
            | {"description": "Only where it was asked for: what went over the wire. null: nothing, or it was not recorded."},
        },
        optional=("detail", "fallback", "exchange"),
    )
    kinds = [kind.value for kind in ReceiptKind]
    receipt = record({"kind": {"enum": kinds}, "at": INSTANT, "detail": {"type": ["string", "null"]}})
    return {
        "Redelivery": {
            "type": "object",
            "properties": {
                "ttl": nullable(
                    integer(
                        limits.min_message_ttl,
                        limits.max_message_ttl,
                        description="Seconds for which it is tried; default: the queue's for messages.",
                    )
                )
            },
        },
        "Replay": {
            "type": "object",
            "required": ["since"],
            "properties": {
                "since": _moment("From then on."),
                "until": _moment("Before then; default: now.", "null"),
                "states": {
                    "type": ["array", "null"],
                    "items": {"enum": [state.value for state in State if state.ended]},
                    "minItems": 1,
                    "description": "Default: dead and expired.",
                },
                "ttl": nullable(
                    integer(
                        limits.min_message_ttl,
                        limits.max_message_ttl,
                        description="Seconds for which each is tried; default: the queue's for messages.",
                    )
                ),
            },
        },
        "Replaying": record({"job_id": TEXT}),
        "Delivery": record(
            {
                "message_id": TEXT,
                "subscription_id": TEXT,
                "state": state,
                "next_attempt_at": nullable(INSTANT),
                "progress": {
                    "enum": [deliveries.ACCEPTED, *kinds, None],
                    "description": "How far it has come, as far as is known; accepted: the other side took it.",
                },
                "acknowledged_at": nullable(INSTANT),
                "receipts": listed(receipt, len(kinds)) | {"description": "What was heard of it later; of each kind one."},
                "attempts": listed(attempt) | {"description": "The last ones."},
            }
        ),
        "Deliveries": record({"deliveries": listed(schema("Delivery")), "links": schema("Links")}),
    }


def _moment(description: str, *further: str) -> Json:
    return {
        "type": ["number", "string", *further],
        "minimum": 0,
        "maximum": validation.END_OF_TIME,
        "description": f"{description} Seconds since 1970, or an instant in ISO 8601: of the last attempt, or the end.",
    }


def _exchange() -> Json:
    return record(
        {
            "request": {"type": "object", "description": "Of HTTP: method, url, headers and body_size; secrets are masked."},
            "response": {
                "type": ["object", "null"],
                "description": "Of HTTP: status, headers and the beginning of the body. null: there was none.",
            },
            "phases": {
                "type": "object",
                "additionalProperties": {"type": "number"},
                "description": "Seconds from the start of the attempt to the end of each phase: name, connect, tls, "
                "first_byte, end.",
            },
        }
    )
