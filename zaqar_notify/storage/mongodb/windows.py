"""Windows: deliveries that wait until their scope's window ends, and what takes the place of what waits.

Whoever puts something into a window writes to its document. So two who do that at once meet there, and of two deliveries for
the same one of them finds the other.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping
from typing import Any

from pymongo import UpdateOne

from zaqar_notify.storage.base import Window
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    WINDOWS,
    Document,
    held_key,
    of_delivery_key,
    window_key,
)
from zaqar_notify.storage.mongodb.scope import Scope


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """What is to become of a delivery."""

    project: str
    window: Window
    lines: int
    """In its log."""

    @property
    def place(self) -> tuple[str, str]:
        return self.project, self.window.scope


def hold(scope: Scope, asked: Mapping[bytes, Waiting], now: float) -> tuple[dict[bytes, Document], dict[bytes, int]]:
    """``asked``: by the keys of deliveries. Returns what the rows have that stay, and of those that are superseded, asked for
    or found, how many lines their logs have."""
    if not asked:
        return {}, {}
    windows = _open(scope, asked.values(), now)
    left: dict[bytes, Document] = {}
    same: dict[bytes, dict[bytes, int]] = {}
    for key, one in asked.items():
        number, ends_at = windows[one.place]
        held = held_key(number, of_delivery_key(key)[1], one.window.key)
        due_at = ends_at + random.uniform(0.0, one.window.spread)  # noqa: S311 - no secret
        left[key] = {"window_id": number, "held": held, "due_at": due_at}
        same.setdefault(held, {})[key] = one.lines
    waiting: dict[str, Any] = {"held": {"$in": list(same)}, "lease": None, "due_at": {"$gt": now}}
    for row in scope[DELIVERIES].find(waiting, ["held", "lines"], hint="ix_deliveries_held"):
        same[row["held"]][row["_id"]] = row["lines"]
    superseded: dict[bytes, int] = {}
    for lines in same.values():
        # Of one subscription: their keys are in the order of the messages.
        del lines[max(lines)]
        superseded |= lines
    return {key: row for key, row in left.items() if key not in superseded}, superseded


def _open(scope: Scope, asked: Iterable[Waiting], now: float) -> dict[tuple[str, str], tuple[int, float]]:
    """By project and scope: the number of the window that is open, and its end."""
    first: dict[tuple[str, str], Window] = {}
    for one in asked:
        first.setdefault(one.place, one.window)
    keys = {place: window_key(*place) for place in first}
    found = scope[WINDOWS].find({"_id": {"$in": list(keys.values())}, "ends_at": {"$gt": now}})
    known = {(window["_id"]["project"], window["_id"]["scope"]): (window["number"], window["ends_at"]) for window in found}
    windows = {place: (number, end) for place, (number, end) in known.items() if first[place].joins(end, now)}
    fresh = first.keys() - windows.keys()
    if fresh:
        numbers = scope.numbers(WINDOWS, len(fresh))
        windows |= {place: (number, now + first[place].seconds) for place, number in zip(fresh, numbers, strict=True)}
    scope[WINDOWS].bulk_write(
        [
            UpdateOne({"_id": keys[place]}, {"$set": {"number": number, "ends_at": end}, "$inc": {"touches": 1}}, upsert=True)
            for place, (number, end) in windows.items()
        ]
    )
    return windows
