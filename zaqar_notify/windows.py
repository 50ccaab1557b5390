"""Windows: notifications wait, and what waited together is released together.

A window is asked for by a subscription (``options.window``), or by the credential that its notifications go by.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
from typing import Any, TypeGuard

from zaqar_notify.model import Message, Subscription

SPREAD = 1.0
"""Seconds within which what is released is sent, where each is sent by itself."""

CLOCKS_DIFFER = 10.0
"""Seconds that the workers' views of the clock may be apart."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """How long each window is: drawn anew from between these, in seconds."""

    scope: str
    """What shares a window, within the project."""
    least: float
    most: float

    def draw(self) -> float:
        return self.least if self.least == self.most else random.uniform(self.least, self.most)  # noqa: S311 - no secret


def bounds(subscription: Subscription, credential: tuple[str, float, float] | None) -> Bounds | None:
    """``credential``: what `Notifier.window` says."""
    own = _seconds(subscription.options.get("window"))
    if own is not None:
        return Bounds(f"subscription:{subscription.id}", *own)
    return None if credential is None else Bounds(f"credential:{credential[0]}", *credential[1:])


def _seconds(asked: Any) -> tuple[float, float] | None:
    """``{seconds}`` or ``{min, max}``. An older version took it without looking: what is no window counts as none."""
    if not isinstance(asked, dict):
        return None
    least, most = (asked.get("seconds"),) * 2 if "seconds" in asked else (asked.get("min"), asked.get("max"))
    if not _is_time(least) or not _is_time(most):
        return None
    return (float(least), float(most)) if most > 0 and least <= most else None


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def key(message: Message) -> str:
    """What a later message has in common with one that it supersedes: the collapse key, or else the body. 64 characters."""
    if message.collapse_key is not None:
        return hashlib.sha256(b"key\0" + message.collapse_key.encode("utf-8", "replace")).hexdigest()
    return hashlib.sha256(b"body\0" + message.body_json).hexdigest()
