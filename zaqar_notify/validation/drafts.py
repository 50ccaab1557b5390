"""Messages that are posted."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zaqar_notify import trace
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import Draft, Priority
from zaqar_notify.validation.documents import CONTROL, compact_json, integer, json_object, kind
from zaqar_notify.validation.limits import MAX_ATTRIBUTES, MAX_COLLAPSE_KEY, MAX_LANGUAGE, Limits
from zaqar_notify.validation.spelling import by_sound, check_names

PRIORITIES: Mapping[str, Priority] = {priority.text: priority for priority in Priority}
LANGUAGE_TAG = (
    r"([A-Za-z]{2,3}(-[A-Za-z]{3}){0,3}|[A-Za-z]{4,8})"  # language, with up to three extensions
    r"(-[A-Za-z]{4})?"  # script
    r"(-([A-Za-z]{2}|[0-9]{3}))?"  # region
    r"(-([A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*"  # variants
    r"(-[A-WY-Za-wy-z0-9](-[A-Za-z0-9]{2,8})+)*"  # extensions
    r"(-[Xx](-[A-Za-z0-9]{1,8})+)?"  # private use
    r"|[Xx](-[A-Za-z0-9]{1,8})+"
    r"|[Ii]-[A-Za-z]{2,8}"  # registered before there was a grammar
)
"""RFC 5646, 2.1."""
_LANGUAGE = re.compile(LANGUAGE_TAG)


def messages(
    document: Any, *, default_ttl: int, limits: Limits, default_delay: int = 0, traceparent: str | None = None
) -> list[Draft]:
    """The defaults are for messages that name none. Keys that are not known are ignored, as Zaqar does, but for slips.

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
        raise InvalidRequest(f"{where} has to be a JSON object, and is {kind(message)}.")
    if not message.keys() <= _KEYS:
        check_names(message.keys(), _SOUNDS, f"{where}.")
    if "body" not in message:
        raise InvalidRequest(f'{where} has no "body".')
    ttl, delay = times
    if "ttl" in message:
        ttl = message_ttl(message["ttl"], limits, f"{where}.ttl")
    if "delay" in message:
        delay = message_delay(message["delay"], limits, f"{where}.delay")
    others = {name: read(message[name], f"{where}.{name}") for name, read in _OPTIONAL.items() if name in message}
    return Draft(compact_json(message["body"]), ttl, delay=delay, **others)


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


def _collapse_key(value: Any, where: str) -> str:
    if isinstance(value, str) and 1 <= len(value) <= MAX_COLLAPSE_KEY and not CONTROL.search(value):
        return value
    raise InvalidRequest(f"{where} has to be a string of 1 to {MAX_COLLAPSE_KEY} characters, none of them a control character.")


def _priority(value: Any, where: str) -> Priority:
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    raise InvalidRequest(f"{where} has to be one of {', '.join(PRIORITIES)}.")


def language(value: Any, where: str) -> str:
    if isinstance(value, str) and len(value) <= MAX_LANGUAGE and _LANGUAGE.fullmatch(value):
        return value
    raise InvalidRequest(
        f"{where} has to be a language tag (RFC 5646) of at most {MAX_LANGUAGE} characters, as in en, pt-BR or zh-Hant."
    )


_OPTIONAL: Mapping[str, Callable[[Any, str], Any]] = {
    "attributes": _attributes,
    "collapse_key": _collapse_key,
    "priority": _priority,
    "language": language,
}
_KEYS = frozenset(("body", "ttl", "delay", *_OPTIONAL))
_SOUNDS = by_sound(_KEYS)


def message_ttl(value: Any, limits: Limits, what: str) -> int:
    return integer(value, limits.min_message_ttl, limits.max_message_ttl, what)


def message_delay(value: Any, limits: Limits, what: str) -> int:
    return integer(value, 0, limits.max_message_delay, what)
