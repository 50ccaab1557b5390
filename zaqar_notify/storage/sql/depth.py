"""How much waits: counted by indexes alone."""

from __future__ import annotations

from sqlalchemy import Connection

from zaqar_notify.storage.base import Depths
from zaqar_notify.storage.sql import statements


def measure(connection: Connection, now: float) -> Depths:
    counted = connection.exec_driver_sql(statements.COUNT_WAITING).one()
    oldest_at = connection.exec_driver_sql(statements.OLDEST_ENTRY, {"now": now}).scalar()
    return Depths(
        outbox=counted.outbox,
        oldest_at=oldest_at,
        pending=counted.due - counted.leased,
        parked=counted.deliveries - counted.due,
        in_flight=counted.leased,
        breakers=counted.breakers,
        jobs=counted.jobs,
        failed_jobs=counted.failed_jobs,
    )
