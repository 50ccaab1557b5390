"""What a message becomes on each channel, where a subscription or its queue has templates for it.

Their document says by channel, and within that by part, what a person gets to see: a template, or several by language::

    {"email": {"subject": "Order {{ body.order }}", "text": {"de": "Hallo {{ body.name }}", "default": "Hello"}}}
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from zaqar_notify import feedback
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.masking import masked
from zaqar_notify.model import Delivery, Message, MessageKind, Subscription
from zaqar_notify.sandbox import MOST_SOURCE, Budget, Refused, Sandbox

ANY = "*"
"""Stands for each channel that is not named."""
DEFAULT = "default"
"""Stands for each language that is not named."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "email": ("subject", "title", "text", "html", "digest_subject"),
    "sms": ("text",),
    "fcm": ("title", "text"),
    "apns": ("title", "text"),
    "webpush": ("title", "text"),
    "slack": ("title", "text"),
    "apprise": ("title", "text"),
    ANY: ("subject", "title", "text", "html"),
}
"""What each channel can show. The title is the subject of a mail that has no other; a mail of several notifications has one of
its own."""
MOST_TOGETHER = 65536
"""Characters of all templates of a document."""

FIELDS: Mapping[str, tuple[str, ...] | None] = {
    "body": None,
    "message": (
        *("id", "queue", "created_at", "expires_at", "ttl"),
        *("language", "priority", "collapse_key", "attributes"),
    ),
    "subscription": ("id", "subscriber"),
    "digest": ("count",),
    "links": (feedback.UNSUBSCRIBE, feedback.ACKNOWLEDGE),
}
"""What a template can speak of."""
_SANDBOX = Sandbox(FIELDS)
_TAG = re.compile(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*")
MOST_TAG = 64
_DIGEST_SUBJECT = "digest_subject"
_NONE: Mapping[str, Any] = {}


# -- the documents ------------------------------------------------------------------------------------------------------------


def check(value: Any, what: str) -> None:
    """Raises `InvalidRequest` for what is no document of templates; ``what`` says where it stands."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{what} has to be an object of templates, by channel.")
    size = 0
    for channel, parts in value.items():
        if channel not in PARTS:
            raise InvalidRequest(f"{what}: {str(channel)[:64]} is no channel; what has templates is {', '.join(PARTS)}.")
        for place, source in _sources(parts, PARTS[channel], f"{what}.{channel}"):
            size += len(source)
            if size > MOST_TOGETHER:
                raise InvalidRequest(f"{what} may hold at most {MOST_TOGETHER} characters in all, and each {MOST_SOURCE}.")
            try:
                _SANDBOX.check(source)
            except Refused as refused:
                raise InvalidRequest(f"{place}: {refused}.") from None


def _sources(parts: Any, known: tuple[str, ...], what: str) -> Iterator[tuple[str, str]]:
    """Each template of a channel, and where it stands."""
    if not isinstance(parts, Mapping):
        raise InvalidRequest(f"{what} has to be an object of templates: {', '.join(known)}.")
    for part, value in parts.items():
        if part not in known:
            raise InvalidRequest(f"{what} has no {str(part)[:64]}; it has {', '.join(known)}.")
        place = f"{what}.{part}"
        found = [(place, value)]
        if isinstance(value, Mapping):
            wrong = next((tag for tag in value if not is_tag(tag)), None)
            if wrong is not None:
                raise InvalidRequest(f"{place}: {str(wrong)[:64]!r} is no tag of a language, such as de or de-AT.")
            found = [(f"{place}.{tag}", source) for tag, source in value.items()]
        for where, source in found:
            if not isinstance(source, str):
                raise InvalidRequest(f"{where} has to be a template in a string, or an object of such by language.")
            yield where, source


def merged(own: Any, of_queue: Any) -> Mapping[str, Any]:
    """``options.templates`` of a subscription and ``_templates`` of its queue's metadata as one: by channel, and for all others
    under `ANY`. One of the two serves a channel, the subscription's where it says anything of it."""
    own, of_queue = _plain(own), _plain(of_queue)
    return own if ANY in own or not of_queue else {**of_queue, **own}


def _plain(document: Any) -> Mapping[str, Any]:
    """By channel, with what is said of all channels where one says nothing."""
    if not isinstance(document, Mapping):  # nearly always there is none
        return _NONE
    parts = {channel: value for channel, value in document.items() if isinstance(value, Mapping)}
    usual = parts.get(ANY, _NONE)
    return {channel: {**usual, **value} for channel, value in parts.items()}


# -- languages ----------------------------------------------------------------------------------------------------------------


def is_tag(text: Any) -> bool:
    """In the form of RFC 5646; `DEFAULT` is one of these, too."""
    return isinstance(text, str) and len(text) <= MOST_TAG and _TAG.fullmatch(text) is not None


def chosen(by_language: Mapping[str, Any], language: str | None) -> Any:
    """That for a language: ``de-AT``, then ``de``, then `DEFAULT` (RFC 4647, 3.4). None: there is none."""
    tags = {tag.lower(): value for tag, value in by_language.items()}
    for tag in _wider((language or "").lower()):
        if tag in tags:
            return tags[tag]
    return tags.get(DEFAULT)


def _wider(tag: str) -> Iterator[str]:
    while tag:
        yield tag
        tag = tag.rpartition("-")[0]
        if len(tag) > 1 and tag[-2] == "-":  # what begins with a single letter belongs to what stood behind it
            tag = tag[:-2]


def language_of(delivery: Delivery) -> str | None:
    """The message's, else that of the subscription."""
    own = delivery.subscription.options.get("language")
    return delivery.message.language or (own if isinstance(own, str) else None)


# -- rendering ----------------------------------------------------------------------------------------------------------------


def render(delivery: Delivery, channel: str) -> Mapping[str, str]:
    """What templates make of a delivery, by part; nothing where there are none for this channel, and for what asks to confirm.

    Raises `InvalidRequest` that says which template failed, and why.
    """
    found = _found(delivery, channel)
    if found is None:
        return _NONE
    language, budget, data = language_of(delivery), Budget(), _data(delivery)
    made: dict[str, str] = {}
    for part in PARTS.get(channel, PARTS[ANY]):
        source = _source(found, part, language) if part != _DIGEST_SUBJECT else None
        if source is not None:
            try:
                made[part] = _SANDBOX.run(source, data, budget, html=part == "html")
            except Refused as refused:
                raise InvalidRequest(f"The template for the {part} of {channel} failed: {refused}") from None
    return made


def digest_subject(delivery: Delivery, count: int) -> str | None:
    """The subject of a mail of ``count`` notifications, of which this is the first. None: there is no template, or it fails."""
    found = _found(delivery, "email")
    source = None if found is None else _source(found, _DIGEST_SUBJECT, language_of(delivery))
    if source is None:
        return None
    try:
        return _SANDBOX.run(source, {**_data(delivery), "digest": {"count": count}}, Budget())
    except Refused:
        return None


def _found(delivery: Delivery, channel: str) -> Mapping[str, Any] | None:
    """The templates of a channel, by part. What an older version took without looking, and are none, count as none."""
    if not delivery.templates or delivery.message.kind is MessageKind.CONFIRMATION:  # nearly always there are none
        return None
    found = delivery.templates.get(channel) or delivery.templates.get(ANY)
    return found if isinstance(found, Mapping) else None


def _source(found: Mapping[str, Any], part: str, language: str | None) -> str | None:
    source = found.get(part)
    if isinstance(source, Mapping):
        source = chosen(source, language)
    return source if isinstance(source, str) else None


def _data(delivery: Delivery) -> Mapping[str, Any]:
    """What `FIELDS` promises."""
    return {
        "body": delivery.message.body,
        "message": _message(delivery.message),
        "subscription": _subscription(delivery.subscription),
        "digest": {"count": 1},
        "links": _Links(delivery.links),
    }


def _message(message: Message) -> Mapping[str, Any]:
    return {
        "id": message.public_id,
        "queue": message.queue,
        "created_at": _instant(message.created_at),
        "expires_at": _instant(message.expires_at),
        "ttl": message.ttl,
        "language": message.language,
        "priority": message.priority.text if message.priority is not None else None,
        "collapse_key": message.collapse_key,
        "attributes": dict(message.attributes),
    }


def _subscription(subscription: Subscription) -> Mapping[str, Any]:
    """Who reads it knows the own address or number. Other URIs hold what is nobody's to read."""
    subscriber = subscription.subscriber
    address = subscriber.partition("?")[0]
    is_open = address.partition(":")[0].lower() in ("mailto", "sms")
    return {"id": subscription.id, "subscriber": address if is_open else masked(subscriber)}


def _instant(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Links(Mapping[str, str]):
    """Each is signed once, when a template asks for it."""

    def __init__(self, links: Mapping[str, str]) -> None:
        self._get = functools.cache(links.get)

    def __getitem__(self, name: str) -> str:
        found = self._get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        raise TypeError

    def __len__(self) -> int:
        return 0
