"""Numbers that are ids."""

from __future__ import annotations

from sqlalchemy import Connection

from zaqar_notify.storage import ids


def give(connection: Connection, last: str, now: float, count: int = 1) -> list[int]:
    """Ids above all that were given out before, which the statement ``last`` tells; a server keeps them for this transaction.

    They rise in the order of commits only for what the transaction has locked, such as a queue.
    """
    least = ids.least(now)
    found = connection.exec_driver_sql(last, {"least": least, "room": ids.room(count)}).scalar_one()
    return ids.above(max(found, least), count)
