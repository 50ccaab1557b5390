"""Windows: what waits for the end of one, and what takes the place of what waits.

Of two settlements of one window the second waits until the first is stored: it sees what that has left there.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.storage.base import Settlement, Window
from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.statements import json_list

_Run = Callable[..., Any]
Pair = tuple[int, int]
"""A message and a subscription."""

_SHORTEST = 0.001
"""Seconds that a window is open at least."""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """How a row waits."""

    window: int
    key: str
    due_at: float


Asked = tuple[Settlement, int, int]
"""With its message and its subscription."""


def wanted(settlement: Settlement) -> Window | None:
    return settlement.window if settlement.park is None else None


def stored_before(run: _Run, asked: Iterable[Asked]) -> set[Pair]:
    """Of settlements without a line of their own, which would tell: those that a commit has stored that was reported as failed.
    The row is there, or what became of it is in the log."""
    fresh = [(message, other, one.lines + 1) for one, message, other in asked if not one.from_row and one.log is None]
    return {(message, other) for message, other in run(statements.WAITED_BEFORE, json_list(fresh))} if fresh else set()


def find_places(connection: Connection, asked: Sequence[Asked], now: float) -> tuple[dict[Pair, Held], dict[Pair, int]]:
    """Of settlements that want to wait: those that do. And what is superseded, of them and of what waits already, with the
    number of lines in its log."""
    run = connection.exec_driver_sql
    (listed,) = json_list({message for _, message, _ in asked})
    projects: dict[int, str] = dict(run(statements.PROJECTS, (listed,)).all())
    windows = _open(connection, _scopes(asked, projects), now)
    held: dict[Pair, Held] = {}
    lines: dict[tuple[int, int, str], dict[int, int]] = {}
    for one, message, subscription in asked:
        window = wanted(one)
        assert window is not None  # noqa: S101 - nothing else is asked for
        number, ends_at = windows[projects[message], window.scope]
        due_at = ends_at + random.uniform(0.0, window.spread)  # noqa: S311 - no secret
        held[message, subscription] = Held(number, window.key, due_at)
        lines.setdefault((number, subscription, window.key), {})[message] = one.lines
    (listed,) = json_list(lines)
    for number, subscription, key, message, count in run(statements.HELD_ROWS, {"asked": listed, "now": now}):
        lines[number, subscription, key].setdefault(message, count)
    superseded = {
        (message, subscription): count
        for (_, subscription, _), same in lines.items()
        for message, count in same.items()
        if message != max(same)
    }
    return {pair: place for pair, place in held.items() if pair not in superseded}, superseded


def _scopes(asked: Iterable[Asked], projects: Mapping[int, str]) -> dict[tuple[str, str], Window]:
    """What each window is like: as the first says."""
    scopes: dict[tuple[str, str], Window] = {}
    for one, message, _ in asked:
        window = wanted(one)
        if window is not None:
            scopes.setdefault((projects[message], window.scope), window)
    return scopes


def _open(
    connection: Connection, scopes: Mapping[tuple[str, str], Window], now: float
) -> dict[tuple[str, str], tuple[int, float]]:
    """By project and scope: the number and the end of the window that is open."""
    run = connection.exec_driver_sql
    found: dict[tuple[str, str], tuple[int, float]] = {}
    opened: set[tuple[str, str]] = set()
    """Here, or by somebody else at this moment: what is there then is joined."""
    while missing := sorted(scopes.keys() - found.keys()):
        ended = []
        for project, scope, number, ends_at in run(statements.FIND_WINDOWS, json_list(missing)).all():
            if (project, scope) in opened or scopes[project, scope].joins(ends_at, now):
                found[project, scope] = number, ends_at
            else:
                ended.append(number)
        if ended:
            run(statements.REMOVE_WINDOWS, json_list(ended))
        fresh = [(*scope, now + max(scopes[scope].seconds, _SHORTEST)) for scope in missing if scope not in found]
        statements.INSERT_WINDOWS.into(connection, fresh)
        opened.update(scopes.keys() - found.keys())
    return found
