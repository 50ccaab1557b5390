"""What a message becomes on each channel, where a subscription or its queue has templates for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANY = "*"
"""Stands for each channel that is not named."""

_NONE: Mapping[str, Any] = {}


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
