"""What a person reads of a message, for the channels that show it to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from zaqar_notify import templates
from zaqar_notify.feedback import CONFIRM
from zaqar_notify.model import Delivery, Message, MessageKind

_MOST_INDENTED = 16384
"""Characters."""


class Content(NamedTuple):
    title: str | None
    text: str
    own: Mapping[str, Any]
    """What the body says for one channel alone."""
    plain: bool
    """The text is that of a person; else it is JSON."""
    made: Mapping[str, str] = {}
    """The parts that templates have made: they come before ``own``. Title and text are among them, and where they belong."""


def content(delivery: Delivery, channel: str, *, indent: int | None = None, templated: bool = True) -> Content:
    """What the templates of the channel make of it, and where there are none, what the body says. Of a request to confirm it is
    what it asks, and the link to answer with where there is one. Raises `InvalidRequest` where a template fails.

    ``indent``: JSON is that many spaces deeper at each level, or all in one line. ``templated`` false: templates are left out.
    """
    message = delivery.message
    if message.kind is MessageKind.CONFIRMATION:
        return Content(None, _question(message.body, delivery.links.get(CONFIRM), indent), {}, True)
    said, made = _said(message, channel, indent), templates.render(delivery, channel) if templated else {}
    if not made:
        return said
    return Content(made.get("title", said.title), made.get("text", said.text), said.own, "text" in made or said.plain, made)


def _said(message: Message, channel: str, indent: int | None) -> Content:
    """A body that is a string is the text. Of an object ``title`` and ``text`` (or ``body``) are shown, where they are strings,
    and ``channel`` holds what is for this channel alone. An object without any of these, and any other body, is shown as JSON.
    """
    body = message.body
    if isinstance(body, str):
        return Content(None, body, {}, True)
    if not isinstance(body, dict):
        return Content(None, _json(body, indent), {}, False)
    own = body.get(channel)
    own = own if isinstance(own, dict) else {}
    title, text = _string(body.get("title")), _string(own.get("text")) or _string(body.get("text")) or _string(body.get("body"))
    if text is None and title is None:
        return Content(None, _json(body, indent), own, False)
    return Content(title, title or "" if text is None else text, own, True)


def _question(body: Any, link: str | None, indent: int | None) -> str:
    asked = str(body.get("Message", "")) if isinstance(body, dict) else ""
    if link:
        return f"{asked}\n\n{link}" if indent else f"{asked} {link}"
    return f"{asked}\n\n{_json(body, indent)}" if indent else asked


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _json(value: Any, indent: int | None) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # What is nested deeply becomes very much longer by that.
    return json.dumps(value, ensure_ascii=False, indent=indent) if indent and len(text) <= _MOST_INDENTED else text


def line(value: str, most: int) -> str:
    """In one line, without anything that is not printable, of at most so many characters."""
    shown = " ".join("".join(one if one.isprintable() else " " for one in value).split())
    return shown if len(shown) <= most else shown[: most - 1] + "\u2026"
