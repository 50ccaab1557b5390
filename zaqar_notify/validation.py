"""Request documents to records: what a request may say, and what to change when it may not.

Every function raises `InvalidRequest` (or a kind of it) whose text is shown to the client. Nothing here does I/O.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zaqar_notify import signing
from zaqar_notify.errors import InvalidQueue, InvalidRequest, UnknownScheme
from zaqar_notify.model import Draft, Subscription

MASK = "********"
"""Stands for a secret wherever options are shown; sent back in a PATCH it keeps the secret."""

DEFAULT_PAGE = 10
MAX_ATTRIBUTES = 20
MAX_CLIENT_ID = 256
MAX_NESTING = 200
"""Deepest nesting of a document, far below where Python's own parser gives up: what is stored can be parsed anywhere."""
MAX_PROJECT = 256
MAX_QUEUE_NAME = 64
MAX_SUBSCRIBER = 2048
END_OF_TIME = 253402300799
"""The last second of the year 9999."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_QUEUE_NAME = re.compile(r"[a-zA-Z0-9_\-.]+")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]*):.")

_BACKOFF_FUNCTIONS = ("linear", "arithmetic", "geometric", "exponential")
_RETRY_NUMBERS = ("retries_with_no_delay", "minimum_delay_retries", "minimum_delay", "maximum_delay", "maximum_delay_retries")


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The options of ``[transport]``, under their own names."""

    default_message_ttl: int = 3600
    min_message_ttl: int = 60
    max_message_ttl: int = 1209600
    min_subscription_ttl: int = 60
    default_subscription_ttl: int | None = None
    default_message_delay: int = 0
    max_message_delay: int = 900
    default_claim_ttl: int = 300
    default_claim_grace: int = 60
    min_claim_ttl: int = 60
    min_claim_grace: int = 60
    max_claim_ttl: int = 43200
    max_claim_grace: int = 43200
    max_messages_per_claim_or_pop: int = 20
    message_delete_with_claim_id: bool = False
    max_messages_post_size: int = 262144
    max_queue_metadata: int = 65536
    max_subscription_size: int = 65536
    max_queues_per_page: int = 20
    max_messages_per_page: int = 20
    max_subscriptions_per_page: int = 20
    max_deliveries_per_page: int = 20
    client_id_uuid_safe: str = "strict"
    subscriber_types: Sequence[str] = ()


# -- JSON -------------------------------------------------------------------------------------------------------------------


def _parse_int(text: str) -> int:
    # The length first: Python refuses to convert thousands of digits, and takes long for hundreds.
    if len(text) <= 20:
        number = int(text)
        if -(2**63) <= number < 2**63:
            return number
    raise ValueError(f"the integer {text[:24]}{'...' if len(text) > 24 else ''} does not fit into 64 bits")


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:24]} is out of range")
    return number


def _parse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON value")


_decode = json.JSONDecoder(parse_int=_parse_int, parse_float=_parse_float, parse_constant=_parse_constant).decode
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode


def parse_json(raw: bytes, limit: int, what: str) -> Any:
    """The document in ``raw``, which can be written as UTF-8 JSON again; ``what`` names it in the description of an error."""
    check_size(len(raw), limit, what)
    try:
        document = _decode(raw.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what} is not UTF-8: byte {error.start} is wrong.") from None
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error}.") from None
    if raw.count(b"[") + raw.count(b"{") > MAX_NESTING and _too_nested(document):
        raise _too_deep(what)
    if _ESCAPED_SURROGATE.search(raw):
        _check_surrogates(document, what)
    return document


def check_size(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise InvalidRequest(f"{what} is too large: at most {limit} bytes are allowed.")


def compact_json(value: Any) -> bytes:
    """``value`` comes from `parse_json`."""
    return _encode(value).encode()


def _too_deep(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what} is nested too deeply: at most {MAX_NESTING} levels are allowed.")


def _too_nested(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_NESTING):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return False
        level = below
    return any(isinstance(value, dict | list) for value in level)


def _check_surrogates(document: Any, what: str) -> None:
    try:
        compact_json(document)
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no text.") from None


def json_object(document: Any, what: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InvalidRequest(f"{what} has to be a JSON object, and is {_kind(document)}.")
    return document


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number"}
    return kinds[type(value)]


def _integer(value: Any, least: int, most: int | None, what: str) -> int:
    """``most`` None: as large as it likes."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return value
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise InvalidRequest(f"{what} has to be an integer {bounds}.")


# -- who and where ----------------------------------------------------------------------------------------------------------


def check_project(project: str) -> None:
    if len(project) > MAX_PROJECT:
        raise InvalidQueue(f"The X-Project-ID header may have at most {MAX_PROJECT} characters.")
    if _CONTROL.search(project):
        raise InvalidQueue("The X-Project-ID header may not hold control characters.")


def check_queue_name(name: str) -> None:
    if len(name) > MAX_QUEUE_NAME:
        raise InvalidQueue(f"A queue's name may have at most {MAX_QUEUE_NAME} characters.")
    if not _QUEUE_NAME.fullmatch(name):
        raise InvalidQueue("A queue's name may hold ASCII letters, digits, underscores, hyphens and dots only.")


def page_size(text: str | None, most: int) -> int:
    """The query's ``limit``; without one Zaqar's default, or less where pages are shorter."""
    if text is None:
        return min(DEFAULT_PAGE, most)
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most:
        return int(text)
    raise InvalidRequest(f"limit has to be an integer from 1 to {most}.")


# -- queues -----------------------------------------------------------------------------------------------------------------


def queue_metadata(document: Any, limits: Limits) -> dict[str, Any]:
    metadata = json_object(document, "The queue's metadata")
    if "_default_message_ttl" in metadata:
        _message_ttl(metadata["_default_message_ttl"], limits, "_default_message_ttl")
    if "_max_messages_post_size" in metadata:
        _integer(metadata["_max_messages_post_size"], 1, limits.max_messages_post_size, "_max_messages_post_size")
    if "_retry_policy" in metadata:
        check_retry_policy(metadata["_retry_policy"])
    return metadata


def check_retry_policy(value: Any) -> None:
    """Zaqar's ``_retry_policy``, of a queue or a subscription."""
    policy = json_object(value, "_retry_policy")
    for name in _RETRY_NUMBERS:
        if name in policy:
            _integer(policy[name], 0, None, f"_retry_policy.{name}")
    if policy.get("retry_backoff_function", "linear") not in _BACKOFF_FUNCTIONS:
        raise InvalidRequest(f"_retry_policy.retry_backoff_function has to be one of {', '.join(_BACKOFF_FUNCTIONS)}.")
    if not isinstance(policy.get("ignore_subscription_override", False), bool):
        raise InvalidRequest("_retry_policy.ignore_subscription_override has to be true or false.")
    if "minimum_delay" in policy and "maximum_delay" in policy and policy["maximum_delay"] - policy["minimum_delay"] < 10:
        raise InvalidRequest("_retry_policy.maximum_delay has to be at least 10 more than minimum_delay.")


# -- messages ---------------------------------------------------------------------------------------------------------------


def messages(document: Any, *, default_ttl: int, limits: Limits) -> list[Draft]:
    """``default_ttl`` is for messages that name none. Keys that are not known are ignored, as Zaqar does."""
    posted = json_object(document, "The request").get("messages")
    if not isinstance(posted, list) or not posted:
        raise InvalidRequest('The request has to hold a list "messages" of at least one message.')
    return [_draft(message, f"messages[{index}]", default_ttl, limits) for index, message in enumerate(posted)]


def _draft(message: Any, where: str, default_ttl: int, limits: Limits) -> Draft:
    if not isinstance(message, dict):
        raise InvalidRequest(f"{where} has to be a JSON object, and is {_kind(message)}.")
    if "body" not in message:
        raise InvalidRequest(f'{where} has no "body".')
    if "delay" in message and _integer(message["delay"], 0, None, f"{where}.delay"):
        raise InvalidRequest(f"{where}.delay: delay is not supported yet; leave it out, or send 0.")
    ttl = _message_ttl(message["ttl"], limits, f"{where}.ttl") if "ttl" in message else default_ttl
    body_json = _encode(message["body"]).encode()
    if "attributes" not in message:
        return Draft(body_json, ttl)
    return Draft(body_json, ttl, _attributes(message["attributes"], f"{where}.attributes"))


def _message_ttl(value: Any, limits: Limits, what: str) -> int:
    return _integer(value, limits.min_message_ttl, limits.max_message_ttl, what)


def _attributes(value: Any, where: str) -> dict[str, Any]:
    attributes = json_object(value, where)
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidRequest(f"{where} may hold at most {MAX_ATTRIBUTES} attributes.")
    for name, attribute in attributes.items():
        if not _is_attribute(attribute):
            raise InvalidRequest(f"{where}: {name[:64]!r} has to be a string, a number, a boolean or a list of strings.")
    return attributes


def _is_attribute(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, str | int | float | bool)


# -- subscriptions ----------------------------------------------------------------------------------------------------------


def subscription(document: Any, *, project: str, queue: str, limits: Limits, now: float) -> Subscription:
    """Without ``options.secret`` a secret is made. The id is the storage's to give."""
    asked = json_object(document, "The subscription")
    if "subscriber" not in asked:
        raise InvalidRequest('The subscription has no "subscriber": the URI that gets the notifications.')
    options, secret = _options(asked.get("options", {}))
    ttl = _subscription_ttl(asked.get("ttl", limits.default_subscription_ttl), limits, now)
    return Subscription(
        id="",
        project=project,
        queue=queue,
        subscriber=_subscriber(asked["subscriber"]),
        ttl=ttl,
        options=options,
        created_at=now,
        expires_at=None if ttl is None else now + ttl,
        secret=signing.make_secret() if secret is None else secret,
        secret_made=secret is None,
    )


def subscription_changes(document: Any, *, limits: Limits, now: float) -> dict[str, Any]:
    """The fields of a subscription that a PATCH replaces. A secret that is absent or masked is kept."""
    asked = json_object(document, "The request")
    changes: dict[str, Any] = {}
    if "subscriber" in asked:
        changes["subscriber"] = _subscriber(asked["subscriber"])
    if "ttl" in asked:
        changes["ttl"] = _subscription_ttl(asked["ttl"], limits, now)
    if "options" in asked:
        options, secret = _options(asked["options"], keep_masked=True)
        changes["options"] = options
        if secret is not None:
            changes["secret"] = secret
            changes["secret_made"] = False
    if not changes:
        raise InvalidRequest("Nothing to change: give at least one of subscriber, ttl and options.")
    return changes


def shown_options(subscription: Subscription) -> Mapping[str, Any]:
    """A subscription's options as any client may see them."""
    has_secret = subscription.secret is not None or subscription.sealed
    return {**subscription.options, "secret": MASK} if has_secret else subscription.options


def _subscriber(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"subscriber has to be a URI in a string, and is {_kind(value)}.")
    if len(value) > MAX_SUBSCRIBER:
        raise InvalidRequest(f"subscriber may have at most {MAX_SUBSCRIBER} characters.")
    if _CONTROL.search(value):
        raise InvalidRequest("subscriber may not hold control characters.")
    match = _SCHEME.match(value)
    if match is None:
        raise InvalidRequest("subscriber has to be a URI with a scheme, as in https://example.org/notify.")
    if match[1].lower().startswith("trust+"):
        raise UnknownScheme("trust+ subscribers need a Keystone trust, which is not supported: use the URI behind the +.")
    return value


def _subscription_ttl(value: Any, limits: Limits, now: float) -> int | None:
    """None, where the client says null or there is no default, never expires."""
    if value is None:
        return None
    ttl = _integer(value, limits.min_subscription_ttl, None, "ttl")
    if now + ttl > END_OF_TIME:
        raise InvalidRequest("ttl is too large: the subscription would end after the year 9999.")
    return ttl


def _options(value: Any, keep_masked: bool = False) -> tuple[dict[str, Any], str | None]:
    """The options without the secret, and the secret."""
    options = dict(json_object(value, "options"))
    if "_retry_policy" in options:
        check_retry_policy(options["_retry_policy"])
    if "secret" not in options:
        return options, None
    secret = options.pop("secret")
    if not isinstance(secret, str):
        raise InvalidRequest(f"options.secret has to be a string, and is {_kind(secret)}.")
    if keep_masked and secret == MASK:
        return options, None
    signing.parse_secret(secret)
    return options, secret


def confirmed(document: Any) -> bool:
    """A subscriber's answer to the request to confirm."""
    answer = json_object(document, "The request").get("confirmed")
    if not isinstance(answer, bool):
        raise InvalidRequest('The request has to say "confirmed": true or false.')
    return answer
