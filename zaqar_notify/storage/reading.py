"""Pages of messages, and how many there are."""

from __future__ import annotations

from sqlalchemy import Connection

from zaqar_notify.model import Message, Stats
from zaqar_notify.storage import catalogue, statements
from zaqar_notify.storage.bodies import Bodies

_LISTS = {
    # (claimed, delayed): wanted
    (False, False): statements.LIST_FREE,
    (True, False): statements.LIST_NOT_DELAYED,
    (False, True): statements.LIST_NOT_CLAIMED,
    (True, True): statements.LIST_ALL,
}


def get(connection: Connection, bodies: Bodies, project: str, queue: str, message: int, now: float) -> Message | None:
    asked = {"queue": catalogue.find(connection, project, queue), "message": message, "now": now}
    found = connection.exec_driver_sql(statements.GET_MESSAGE, asked).first()
    return None if found is None else bodies.message(project, queue, found, now)


def page(
    connection: Connection,
    bodies: Bodies,
    project: str,
    queue: str,
    *,
    behind: int,
    limit: int,
    not_from: str | None,
    claimed: bool,
    delayed: bool,
    now: float,
) -> list[Message]:
    number = catalogue.find(connection, project, queue)
    asked = {"queue": number, "behind": behind, "limit": limit, "not_from": not_from, "now": now}
    found = connection.exec_driver_sql(_LISTS[claimed, delayed], asked)
    return [bodies.message(project, queue, row, now) for row in found]


def stats(connection: Connection, bodies: Bodies, project: str, queue: str, now: float) -> Stats:
    asked = {"queue": catalogue.find(connection, project, queue), "now": now}
    claimed, free = connection.exec_driver_sql(statements.COUNT_MESSAGES, asked).one()
    ends = [connection.exec_driver_sql(one, asked).first() for one in (statements.OLDEST_MESSAGE, statements.NEWEST_MESSAGE)]
    oldest, newest = (None if row is None else bodies.message(project, queue, row, now) for row in ends)
    return Stats(claimed, free, oldest, newest)


def volume(connection: Connection, now: float) -> Stats:
    claimed, free = connection.exec_driver_sql(statements.COUNT_ALL_MESSAGES, {"now": now}).one()
    return Stats(claimed, free)
