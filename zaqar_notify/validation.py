"""Request documents to records: what a request may say, and what to change when it may not.

Every function raises `InvalidRequest` (or a kind of it) whose text is shown to the client. Nothing here does I/O.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from zaqar_notify import signing, trace
from zaqar_notify.errors import Conflict, InvalidQueue, InvalidRequest, UnknownScheme
from zaqar_notify.model import Draft, State, Subscription

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
MAX_WAIT = 604800
"""Seconds; the longest wait of a schedule."""
MAX_IN_FLIGHT = 1000
MIN_RATE = 0.001
MAX_RATE = 10000
"""Sends per second."""
END_OF_TIME = 253402300799
"""The last second of the year 9999."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_QUEUE_NAME = re.compile(r"[a-zA-Z0-9_\-.]+")
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]*):.")

_SHARED = ("messages", "subscriptions", "claims")
_SHARED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_SHARE_TIME = 86400.0
_PURGED = ("messages", "subscriptions")
_OPERATIONS = ("add", "remove", "replace")
_POINTER = re.compile(r"/metadata/((?:[^/~]|~[01])+)")
_BACKOFF_FUNCTIONS = ("linear", "arithmetic", "geometric", "exponential")
_RETRY_NUMBERS = ("retries_with_no_delay", "minimum_delay_retries", "minimum_delay", "maximum_delay", "maximum_delay_retries")


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The options of ``[transport]``, under their own names, and one of ``[notification]``."""

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
    max_attempts: int = 100
    """Of ``[notification]``."""


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
    return min(DEFAULT_PAGE, most) if text is None else how_many(text, most, "limit")


def how_many(text: str, most: int, what: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most:
        return int(text)
    raise InvalidRequest(f"{what} has to be an integer from 1 to {most}.")


def ids(texts: Iterable[str], most: int, what: str) -> list[str]:
    """The ids in the values of a query's field, each of which may hold several, parted by commas."""
    found = list(dict.fromkeys(part for text in texts for part in text.split(",") if part))
    if len(found) > most:
        raise InvalidRequest(f"{what} may hold at most {most} ids.")
    return found


# -- queues -----------------------------------------------------------------------------------------------------------------


def queue_metadata(document: Any, limits: Limits) -> dict[str, Any]:
    metadata = json_object(document, "The queue's metadata")
    for name, check in _RESERVED.items():
        if name in metadata:
            check(metadata[name], limits, name)
    return metadata


def reserved_defaults(limits: Limits) -> dict[str, Any]:
    """What the reserved names of a queue's metadata mean where it does not have them."""
    return {
        "_max_messages_post_size": limits.max_messages_post_size,
        "_default_message_ttl": limits.default_message_ttl,
        "_default_message_delay": limits.default_message_delay,
        "_dead_letter_queue": None,
        "_dead_letter_queue_messages_ttl": None,
        "_max_claim_count": None,
        "_enable_encrypt_messages": False,
    }


@dataclasses.dataclass(frozen=True, slots=True)
class MetadataChange:
    operation: str
    """``add``, ``remove`` or ``replace``."""
    name: str
    value: Any = None


def metadata_changes(document: Any) -> list[MetadataChange]:
    """Zaqar's dialect of JSON patch (RFC 6902): whole values under ``/metadata`` only."""
    if not isinstance(document, list):
        raise InvalidRequest(f"The request has to be a JSON list of operations, and is {_kind(document)}.")
    return [_metadata_change(change, f"Operation {index}") for index, change in enumerate(document)]


def _metadata_change(change: Any, where: str) -> MetadataChange:
    asked = json_object(change, where)
    operation, path = asked.get("op"), asked.get("path")
    if operation not in _OPERATIONS:
        raise InvalidRequest(f'{where}: "op" has to be one of {", ".join(_OPERATIONS)}.')
    pointer = _POINTER.fullmatch(path) if isinstance(path, str) else None
    if pointer is None:
        raise InvalidRequest(f'{where}: "path" has to be /metadata/ and a name, in which ~1 stands for / and ~0 for ~.')
    if operation != "remove" and "value" not in asked:
        raise InvalidRequest(f'{where}: {operation} needs a "value".')
    return MetadataChange(operation, pointer[1].replace("~1", "/").replace("~0", "~"), asked.get("value"))


def changed_metadata(metadata: Mapping[str, Any], changes: Sequence[MetadataChange], limits: Limits) -> dict[str, Any]:
    """Raises `Conflict` where something is to be replaced or removed that is not there. Reserved names are always there."""
    changed = dict(metadata)
    reserved = reserved_defaults(limits)
    for change in changes:
        if change.operation != "add" and change.name not in changed and change.name not in reserved:
            raise Conflict(f"The queue's metadata has no {change.name[:64]!r} to {change.operation}.")
        if change.operation == "remove":
            changed.pop(change.name, None)
        else:
            changed[change.name] = change.value
    # Only what was changed: what is older may break limits that have been lowered since.
    queue_metadata({change.name: changed[change.name] for change in changes if change.name in changed}, limits)
    check_size(len(compact_json(changed)), limits.max_queue_metadata, "The queue's metadata")
    return changed


def _message_ttl(value: Any, limits: Limits, what: str) -> int:
    return _integer(value, limits.min_message_ttl, limits.max_message_ttl, what)


def _message_delay(value: Any, limits: Limits, what: str) -> int:
    return _integer(value, 0, limits.max_message_delay, what)


def _post_size(value: Any, limits: Limits, what: str) -> None:
    _integer(value, 1, limits.max_messages_post_size, what)


def _dead_letter_queue(value: Any, limits: Limits, what: str) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} has to be the name of a queue or null, and is {_kind(value)}.")
    try:
        check_queue_name(value)
    except InvalidQueue as error:
        raise InvalidRequest(f"{what}: {error}") from None


def _optional_ttl(value: Any, limits: Limits, what: str) -> None:
    if value is not None:
        _message_ttl(value, limits, what)


def _claim_count(value: Any, limits: Limits, what: str) -> None:
    if value is not None:
        _integer(value, 1, None, what)


def _flag(value: Any, limits: Limits, what: str) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{what} has to be true or false, and is {_kind(value)}.")


def resources_to_purge(document: Any) -> set[str]:
    """Of ``messages`` and ``subscriptions``."""
    asked = json_object(document, "The request").get("resource_types")
    return set(_names(asked, _PURGED, "resource_types"))


def _names(value: Any, known: Sequence[str], what: str) -> list[str]:
    """In order, each once."""
    if isinstance(value, list) and all(isinstance(name, str) and name in known for name in value):
        return [name for name in known if name in value]
    raise InvalidRequest(f"{what} has to be a list of names, each one of {', '.join(known)}.")


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What a pre-signed URL is to allow."""

    resources: Sequence[str]
    """Of ``messages``, ``subscriptions`` and ``claims``."""
    methods: Sequence[str]
    expires_at: float


def share(document: Any, now: float) -> Share:
    asked = json_object(document, "The request")
    unknown = asked.keys() - {"paths", "methods", "expires"}
    if unknown:
        raise InvalidRequest(f"The request may hold paths, methods and expires only, and not {min(unknown)[:64]!r}.")
    return Share(
        _names(asked.get("paths", []), _SHARED, "paths") or ["messages"],
        _names(asked.get("methods", []), _SHARED_METHODS, "methods") or ["GET"],
        _end_of_share(asked["expires"], now) if "expires" in asked else now + _SHARE_TIME,
    )


def _end_of_share(value: Any, now: float) -> float:
    # Digits alone would be a date without its dashes: who sends them means seconds.
    expires_at = _instant(value) if isinstance(value, str) and not value.isdigit() else None
    if expires_at is None:
        raise InvalidRequest("expires has to be an instant in ISO 8601, as in 2030-01-31T12:00:00.")
    if expires_at <= now:
        raise InvalidRequest("expires lies in the past.")
    if expires_at > END_OF_TIME:
        raise InvalidRequest("expires may lie in the year 9999 at the latest.")
    return expires_at


def _instant(text: str) -> float | None:
    """Epoch seconds of an instant in ISO 8601, which is UTC where it names no zone; None for what is none."""
    try:
        instant = datetime.datetime.fromisoformat(text)
        return instant.replace(tzinfo=instant.tzinfo or datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def _check_retry_policy(value: Any, limits: Limits, what: str) -> None:
    """Zaqar's ``_retry_policy``, of a queue or a subscription."""
    policy = json_object(value, what)
    for name, check in _SCHEDULING.items():
        if name in policy:
            check(policy[name], limits, f"{what}.{name}")
    for name in _RETRY_NUMBERS:
        if name in policy:
            _integer(policy[name], 0, None, f"{what}.{name}")
    if policy.get("retry_backoff_function", "linear") not in _BACKOFF_FUNCTIONS:
        raise InvalidRequest(f"{what}.retry_backoff_function has to be one of {', '.join(_BACKOFF_FUNCTIONS)}.")
    if not isinstance(policy.get("ignore_subscription_override", False), bool):
        raise InvalidRequest(f"{what}.ignore_subscription_override has to be true or false.")
    if "minimum_delay" in policy and "maximum_delay" in policy and policy["maximum_delay"] - policy["minimum_delay"] < 10:
        raise InvalidRequest(f"{what}.maximum_delay has to be at least 10 more than minimum_delay.")


def _check_max_attempts(value: Any, limits: Limits, what: str) -> None:
    _integer(value, 1, limits.max_attempts, what)


def _check_schedule(value: Any, limits: Limits, what: str) -> None:
    most = limits.max_attempts
    if not isinstance(value, list) or not 1 <= len(value) <= most or not all(_is_number(wait, 0, MAX_WAIT) for wait in value):
        raise InvalidRequest(f"{what} has to be a list of 1 to {most} numbers of seconds, each from 0 to {MAX_WAIT}.")


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


_SCHEDULING: Mapping[str, Callable[[Any, Limits, str], object]] = {
    "max_attempts": _check_max_attempts,
    "schedule": _check_schedule,
}

_RESERVED: Mapping[str, Callable[[Any, Limits, str], object]] = {
    "_default_message_ttl": _message_ttl,
    "_default_message_delay": _message_delay,
    "_max_messages_post_size": _post_size,
    "_dead_letter_queue": _dead_letter_queue,
    "_dead_letter_queue_messages_ttl": _optional_ttl,
    "_max_claim_count": _claim_count,
    "_enable_encrypt_messages": _flag,
    "_retry_policy": _check_retry_policy,
}


# -- messages ---------------------------------------------------------------------------------------------------------------


def messages(
    document: Any, *, default_ttl: int, limits: Limits, default_delay: int = 0, traceparent: str | None = None
) -> list[Draft]:
    """The defaults are for messages that name none. Keys that are not known are ignored, as Zaqar does.

    ``traceparent`` is the header of the request (W3C Trace Context): a valid one becomes an attribute of each message that has
    none of that name, and does not count against `MAX_ATTRIBUTES`.
    """
    posted = json_object(document, "The request").get("messages")
    if not isinstance(posted, list) or not posted:
        raise InvalidRequest('The request has to hold a list "messages" of at least one message.')
    times = default_ttl, default_delay
    drafts = [_draft(message, f"messages[{index}]", times, limits) for index, message in enumerate(posted)]
    return drafts if traceparent is None or not trace.is_valid(traceparent) else _traced(drafts, traceparent)


def _traced(drafts: Sequence[Draft], traceparent: str) -> list[Draft]:
    added = {trace.ATTRIBUTE: traceparent}
    return [dataclasses.replace(draft, attributes={**added, **draft.attributes}) for draft in drafts]


def _draft(message: Any, where: str, times: tuple[int, int], limits: Limits) -> Draft:
    """``times``: ttl and delay of a message that names none."""
    if not isinstance(message, dict):
        raise InvalidRequest(f"{where} has to be a JSON object, and is {_kind(message)}.")
    if "body" not in message:
        raise InvalidRequest(f'{where} has no "body".')
    ttl, delay = times
    if "ttl" in message:
        ttl = _message_ttl(message["ttl"], limits, f"{where}.ttl")
    if "delay" in message:
        delay = _message_delay(message["delay"], limits, f"{where}.delay")
    body_json = _encode(message["body"]).encode()
    if "attributes" not in message:
        return Draft(body_json, ttl, delay=delay)
    return Draft(body_json, ttl, _attributes(message["attributes"], f"{where}.attributes"), delay=delay)


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


# -- claims -----------------------------------------------------------------------------------------------------------------


def claim_terms(document: Any, limits: Limits) -> tuple[int, int]:
    """ttl and grace. null is as good as nothing: python-zaqarclient sends it for what its user did not name."""
    asked = json_object(document, "The claim")
    ttl, grace = asked.get("ttl"), asked.get("grace")
    return (
        limits.default_claim_ttl if ttl is None else _integer(ttl, limits.min_claim_ttl, limits.max_claim_ttl, "ttl"),
        limits.default_claim_grace
        if grace is None
        else _integer(grace, limits.min_claim_grace, limits.max_claim_grace, "grace"),
    )


# -- subscriptions ----------------------------------------------------------------------------------------------------------


def subscription(document: Any, *, project: str, queue: str, limits: Limits, now: float) -> Subscription:
    """Without ``options.secret`` a secret is made. The id is the storage's to give."""
    asked = json_object(document, "The subscription")
    if "subscriber" not in asked:
        raise InvalidRequest('The subscription has no "subscriber": the URI that gets the notifications.')
    options, secret = _options(asked.get("options", {}), queue, limits)
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


def subscription_changes(document: Any, *, queue: str, limits: Limits, now: float) -> dict[str, Any]:
    """The fields of a subscription of ``queue`` that a PATCH replaces. A secret that is absent or masked is kept."""
    asked = json_object(document, "The request")
    changes: dict[str, Any] = {}
    if "subscriber" in asked:
        changes["subscriber"] = _subscriber(asked["subscriber"])
    if "ttl" in asked:
        changes["ttl"] = _subscription_ttl(asked["ttl"], limits, now)
    if "options" in asked:
        options, secret = _options(asked["options"], queue, limits, keep_masked=True)
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


def _options(value: Any, queue: str, limits: Limits, keep_masked: bool = False) -> tuple[dict[str, Any], str | None]:
    """The options without the secret, and the secret. What only a notifier knows is for the notifier to check."""
    options = dict(json_object(value, "options"))
    for name, check in _CHECKED_OPTIONS.items():
        if name in options:
            check(options[name], limits, f"options.{name}")
    if options.get("dead_letter_queue") == queue:
        raise InvalidRequest("options.dead_letter_queue has to be another queue than the subscription's own.")
    if "secret" not in options:
        return options, None
    secret = options.pop("secret")
    if not isinstance(secret, str):
        raise InvalidRequest(f"options.secret has to be a string, and is {_kind(secret)}.")
    if keep_masked and secret == MASK:
        return options, None
    signing.parse_secret(secret)
    return options, secret


def _check_in_flight(value: Any, limits: Limits, what: str) -> None:
    _integer(value, 1, MAX_IN_FLIGHT, what)


def _check_rate(value: Any, limits: Limits, what: str) -> None:
    if not _is_number(value, MIN_RATE, MAX_RATE):
        raise InvalidRequest(f"{what} has to be a number of notifications per second, from {MIN_RATE} to {MAX_RATE}.")


def _check_letters(value: Any, limits: Limits, what: str) -> None:
    if value is None:
        raise InvalidRequest(f"{what} has to be the name of a queue; leave it out where there is to be none.")
    _dead_letter_queue(value, limits, what)


_CHECKED_OPTIONS: Mapping[str, Callable[[Any, Limits, str], object]] = {
    "_retry_policy": _check_retry_policy,
    **_SCHEDULING,
    "max_in_flight": _check_in_flight,
    "rate": _check_rate,
    "dead_letter_queue": _check_letters,
}


def confirmed(document: Any) -> bool:
    """A subscriber's answer to the request to confirm."""
    answer = json_object(document, "The request").get("confirmed")
    if not isinstance(answer, bool):
        raise InvalidRequest('The request has to say "confirmed": true or false.')
    return answer


# -- deliveries -------------------------------------------------------------------------------------------------------------


def redelivery_ttl(document: Any, *, default_ttl: int, limits: Limits) -> int:
    """Seconds. null is as good as nothing."""
    ttl = json_object(document, "The request").get("ttl")
    return default_ttl if ttl is None else _message_ttl(ttl, limits, "ttl")


@dataclasses.dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """``since`` and ``until``, epoch seconds, are about the last line of a delivery's log: from, and before."""

    states: frozenset[State] | None = None
    since: float | None = None
    until: float | None = None

    @property
    def is_empty(self) -> bool:
        return self.states is None and self.since is None and self.until is None

    def has(self, state: State, last_at: float | None) -> bool:
        """``last_at``: of the last line; None where there is none, so that it is in no range of time."""
        if self.states is not None and state not in self.states:
            return False
        if self.since is None and self.until is None:
            return True
        if last_at is None:
            return False
        return (self.since is None or self.since <= last_at) and (self.until is None or last_at < self.until)


def delivery_filter(states: Iterable[str] | None, since: str | None, until: str | None) -> DeliveryFilter:
    """From the values of a query's fields; each of ``states`` may hold several, parted by commas."""
    made = DeliveryFilter(
        None if states is None else _states(states),
        None if since is None else moment(since, "since"),
        None if until is None else moment(until, "until"),
    )
    if made.since is not None and made.until is not None and made.since >= made.until:
        raise InvalidRequest("since has to be before until.")
    return made


def _states(texts: Iterable[str]) -> frozenset[State]:
    known = {state.value: state for state in State}
    names = [name for text in texts for name in text.split(",") if name]
    if not names or any(name not in known for name in names):
        raise InvalidRequest(f"state has to be one or more of {', '.join(known)}, parted by commas.")
    return frozenset(known[name] for name in names)


def moment(text: str, what: str) -> float:
    if _SECONDS.fullmatch(text):
        return float(text)
    # In a query that nobody has encoded the + before a zone is read as a space.
    instant = _instant(text)
    instant = _instant(text.replace(" ", "+")) if instant is None else instant
    if instant is None:
        raise InvalidRequest(f"{what} has to be seconds since 1970, or an instant in ISO 8601, as in 2030-01-31T12:00:00Z.")
    return instant
