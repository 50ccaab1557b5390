"""Subscriptions, with the options that hold for every notifier. What only a notifier knows is for it to check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zaqar_notify import addresses, signing, templates
from zaqar_notify.errors import InvalidRequest, UnknownScheme
from zaqar_notify.model import Subscription
from zaqar_notify.validation.documents import CONTROL, integer, is_number, json_object, kind
from zaqar_notify.validation.drafts import language
from zaqar_notify.validation.limits import (
    END_OF_TIME,
    MAX_FALLBACKS,
    MAX_IN_FLIGHT,
    MAX_RATE,
    MAX_SUBSCRIBER,
    MIN_RATE,
    Limits,
)
from zaqar_notify.validation.names import dead_letter_queue
from zaqar_notify.validation.schedules import SCHEDULING, check_retry_policy
from zaqar_notify.validation.spelling import by_sound, check_names

MASK = "********"
"""Stands for a secret wherever options are shown; sent back in a PATCH it keeps the secret."""

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]*):.")


def subscription(document: Any, *, project: str, queue: str, limits: Limits, now: float) -> Subscription:
    """Without ``options.secret`` a secret is made. The id is the storage's to give."""
    asked = json_object(document, "The subscription")
    _check_places(asked)
    if "subscriber" not in asked:
        raise InvalidRequest('The subscription has no "subscriber": the URI that gets the notifications.')
    options, secret = _options(asked.get("options", {}), queue, limits)
    ttl = _subscription_ttl(asked.get("ttl", limits.default_subscription_ttl), limits, now)
    return Subscription(
        id="",
        project=project,
        queue=queue,
        subscriber=_uri(asked["subscriber"], "subscriber"),
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
    _check_places(asked)
    changes: dict[str, Any] = {}
    if "subscriber" in asked:
        changes["subscriber"] = _uri(asked["subscriber"], "subscriber")
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


def further_addresses(subscription: Subscription, limits: Limits) -> Iterator[tuple[str, Subscription]]:
    """For each address beside the subscriber its name, and the subscription that has it in place of the subscriber. A notifier
    has to accept each of them."""
    options = subscription.options
    for name in ("fallback", "callback"):
        if name in options:  # an older version stored them without a look
            _CHECKED_OPTIONS[name](options[name], limits, f"options.{name}")
    seen = {subscription.subscriber}
    for index in range(addresses.further(subscription, 0)):
        addressed = addresses.at(subscription, index + 1)
        if addressed is None or addressed.subscriber in seen:
            raise InvalidRequest(f"options.fallback[{index}] is there twice: as the subscriber, or in the list.")
        seen.add(addressed.subscriber)
        yield f"options.fallback[{index}]", addressed
    owner = addresses.callback(subscription)
    if owner is not None:
        yield "options.callback", owner


def _check_places(asked: Mapping[str, Any]) -> None:
    """Nothing may stand beside the options that belongs among them."""
    check_names(asked.keys(), _KEYS, "")
    for name in _OPTIONS.values():
        if name in asked:
            raise InvalidRequest(f"{name} is an option: it has to stand in the object options.")


def _uri(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} has to be a URI in a string, and is {kind(value)}.")
    if len(value) > MAX_SUBSCRIBER:
        raise InvalidRequest(f"{what} may have at most {MAX_SUBSCRIBER} characters.")
    if CONTROL.search(value):
        raise InvalidRequest(f"{what} may not hold control characters.")
    match = _SCHEME.match(value)
    if match is None:
        raise InvalidRequest(
            f"{what} has to be a URI with a scheme, as in https://example.org/notify or mailto:ann@example.org."
        )
    if match[1].lower().startswith("trust+"):
        raise UnknownScheme(
            f"{what}: trust+ subscribers need a Keystone trust, which is not supported: use the URI behind the +."
        )
    return value


def _subscription_ttl(value: Any, limits: Limits, now: float) -> int | None:
    """None, where the client says null or there is no default, never expires."""
    if value is None:
        return None
    ttl = integer(value, limits.min_subscription_ttl, None, "ttl")
    if now + ttl > END_OF_TIME:
        raise InvalidRequest("ttl is too large: the subscription would end after the year 9999.")
    return ttl


def _options(value: Any, queue: str, limits: Limits, keep_masked: bool = False) -> tuple[dict[str, Any], str | None]:
    """The options without the secret, and the secret. What only a notifier knows is for the notifier to check."""
    options = dict(json_object(value, "options"))
    check_names(options.keys(), _OPTIONS, "options.")
    for name, check in _CHECKED_OPTIONS.items():
        if name in options:
            check(options[name], limits, f"options.{name}")
    if options.get("dead_letter_queue") == queue:
        raise InvalidRequest("options.dead_letter_queue has to be another queue than the subscription's own.")
    if "secret" not in options:
        return options, None
    secret = options.pop("secret")
    if not isinstance(secret, str):
        raise InvalidRequest(f"options.secret has to be a string, and is {kind(secret)}.")
    if keep_masked and secret == MASK:
        return options, None
    signing.parse_secret(secret)
    return options, secret


def _check_in_flight(value: Any, limits: Limits, what: str) -> None:
    integer(value, 1, MAX_IN_FLIGHT, what)


def _check_rate(value: Any, limits: Limits, what: str) -> None:
    if not is_number(value, MIN_RATE, MAX_RATE):
        raise InvalidRequest(f"{what} has to be a number of notifications per second, from {MIN_RATE} to {MAX_RATE}.")


def _check_letters(value: Any, limits: Limits, what: str) -> None:
    if value is None:
        raise InvalidRequest(f"{what} has to be the name of a queue; leave it out where there is to be none.")
    dead_letter_queue(value, limits, what)


def _check_window(value: Any, limits: Limits, what: str) -> None:
    window = json_object(value, what)
    most = limits.max_window
    if window.keys() == {"seconds"}:
        least, longest = 0, window["seconds"]
    elif window.keys() == {"min", "max"}:
        least, longest = window["min"], window["max"]
    else:
        raise InvalidRequest(f'{what} has to hold either "seconds", or "min" and "max".')
    if not (is_number(longest, 0, most) and longest > 0 and is_number(least, 0, longest)):
        raise InvalidRequest(f"{what} has to be above 0 and at most {most} seconds; min may be 0, and at most max.")


def _check_fallback(value: Any, limits: Limits, what: str) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_FALLBACKS:
        raise InvalidRequest(f"{what} has to be a list of 1 to {MAX_FALLBACKS} URIs.")
    for index, uri in enumerate(value):
        _uri(uri, f"{what}[{index}]")


def _check_callback(value: Any, limits: Limits, what: str) -> None:
    if _uri(value, what).partition(":")[0].lower() not in ("http", "https"):
        raise InvalidRequest(f"{what} has to be an http or https URL.")


_CHECKED_OPTIONS: Mapping[str, Callable[[Any, Limits, str], object]] = {
    "_retry_policy": check_retry_policy,
    **SCHEDULING,
    "max_in_flight": _check_in_flight,
    "rate": _check_rate,
    "dead_letter_queue": _check_letters,
    "window": _check_window,
    "fallback": _check_fallback,
    "callback": _check_callback,
    "templates": lambda value, limits, what: templates.check(value, what),
    "language": lambda value, limits, what: language(value, what),
}
_OPTIONS = by_sound((*_CHECKED_OPTIONS, "secret", "timeout", "post_headers", "post_data"))
_KEYS = by_sound(("subscriber", "ttl", "options"))


def confirmed(document: Any) -> bool:
    """A subscriber's answer to the request to confirm."""
    answer = json_object(document, "The request").get("confirmed")
    if not isinstance(answer, bool):
        raise InvalidRequest('The request has to say "confirmed": true or false.')
    return answer
