"""The window of a credential: for how long notifications that go out with it are gathered before they are sent."""

from __future__ import annotations

import re
from typing import NamedTuple

from oslo_config import cfg

from zaqar_notify.errors import CannotStart

MOST = 86400
"""Seconds."""
_WINDOW = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

OPTION = cfg.StrOpt(
    "window",
    help="Seconds for which notifications are gathered, to be sent together in random order: 60; or 30-90 for a length that "
    "is drawn anew each time. What comes meanwhile for the same subscriber with the same collapse key, or the same body, "
    "replaces what came before. A subscription's own options.window comes first. Unset: they are sent at once.",
)


class Bounds(NamedTuple):
    """Seconds: of a window that has always the same length they are equal."""

    least: float
    most: float


def parse(text: str | None, section: str) -> Bounds | None:
    """Raises `CannotStart`."""
    if not text:
        return None
    match = _WINDOW.fullmatch(text.strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most <= MOST:
        raise CannotStart(f"[{section}] window has to be seconds from 1 to {MOST}, as in 60 or 30-90")
    return Bounds(float(least), float(most))
