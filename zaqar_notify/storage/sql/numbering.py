"""Numbers that are ids."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from zaqar_notify.storage import ids


def give(connection: Connection, last: str, now: float, count: int = 1) -> list[int]:
    """Ids above all that were given out before, which the statement ``last`` tells; a server keeps them for this transaction.

    They rise in the order of commits only for what the transaction has locked, such as a queue.
    """
    asked = wanted(now, count)
    return above(connection.exec_driver_sql(last, asked).scalar_one(), asked, count)


def wanted(now: float, count: int) -> dict[str, int]:
    """Parameters of such a statement."""
    return {"least": ids.least(now), "room": ids.room(count)}


def above(last: int, asked: Mapping[str, int], count: int) -> list[int]:
    """Of what was told in answer to `wanted`."""
    return ids.above(max(last, asked["least"]), count)
