"""What a person reads of a message, for the channels that show it to one."""

from __future__ import annotations

import json
from typing import Any

from zaqar_notify.model import Delivery, MessageKind

CONFIRM, UNSUBSCRIBE, RECEIPT = "confirm", "unsubscribe", "receipt"
"""Names in ``delivery.links``."""


def text(delivery: Delivery, *, indent: int | None = None) -> str:
    """A body that is a string as it is, any other as JSON, ``indent`` spaces deeper at each level or all in one line.

    Of a request to confirm, what it asks, and the link to answer with where there is one.
    """
    message = delivery.message
    body = message.body
    if message.kind is not MessageKind.CONFIRMATION:
        return body if isinstance(body, str) else _json(body, indent)
    asked = str(body.get("Message", "")) if isinstance(body, dict) else ""
    link = delivery.links.get(CONFIRM)
    if link:
        return f"{asked}\n\n{link}" if indent else f"{asked} {link}"
    return f"{asked}\n\n{_json(body, indent)}" if indent else asked


def _json(value: Any, indent: int | None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def line(value: str, most: int) -> str:
    """In one line, without anything that is not printable, of at most so many characters."""
    shown = " ".join("".join(one if one.isprintable() else " " for one in value).split())
    return shown if len(shown) <= most else shown[: most - 1] + "\u2026"
