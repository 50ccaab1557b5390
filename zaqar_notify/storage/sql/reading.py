"""Pages of messages, and how many there are."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Connection, CursorResult

from zaqar_notify.model import Message, Stats
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.retention import Retention
from zaqar_notify.storage.sql import catalogue, statements


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A queue at a moment, what opens its messages, and how long what is posted there is kept."""

    connection: Connection
    bodies: Bodies
    retention: Retention
    project: str
    queue: str
    number: int | None
    """None: there is no such queue."""
    now: float

    @classmethod
    def of(cls, connection: Connection, project: str, queue: str, *, now: float, bodies: Bodies, retention: Retention) -> Place:
        return cls(connection, bodies, retention, project, queue, catalogue.find(connection, project, queue), now)

    def run(self, statement: str, **parameters: Any) -> CursorResult[Any]:
        return self.connection.exec_driver_sql(statement, {"queue": self.number, "now": self.now, **parameters})

    def messages(self, statement: str, **parameters: Any) -> list[Message]:
        found = self.run(statement, **parameters)
        return [self.bodies.message(self.project, self.queue, row, self.now) for row in found]


_LISTS = {
    # (claimed, delayed): wanted
    (False, False): statements.LIST_FREE,
    (True, False): statements.LIST_NOT_DELAYED,
    (False, True): statements.LIST_NOT_CLAIMED,
    (True, True): statements.LIST_ALL,
}


def get(place: Place, message: int) -> Message | None:
    return next(iter(place.messages(statements.GET_MESSAGE, message=message)), None)


def page(place: Place, *, behind: int, limit: int, not_from: str | None, claimed: bool, delayed: bool) -> list[Message]:
    return place.messages(_LISTS[claimed, delayed], behind=behind, limit=limit, not_from=not_from)


def stats(place: Place) -> Stats:
    counts = place.run(statements.COUNT_MESSAGES).one()
    oldest, newest = (place.messages(one) for one in (statements.OLDEST_MESSAGE, statements.NEWEST_MESSAGE))
    return Stats(counts.claimed, counts.free, next(iter(oldest), None), next(iter(newest), None))


def volume(connection: Connection, now: float) -> Stats:
    counts = connection.exec_driver_sql(statements.COUNT_ALL_MESSAGES, {"now": now}).one()
    return Stats(counts.claimed, counts.free)
