"""Projects, which share the work that is taken, have numbers."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.statements import json_list


def number_of(connection: Connection, name: str) -> int:
    """Makes it where it is missing. Nobody removes it before this transaction has ended."""
    while (found := connection.exec_driver_sql(statements.FIND_PROJECT, (name,)).scalar()) is None:
        connection.exec_driver_sql(statements.INSERT_PROJECT, (name,))
    return int(found)


def remove_unused(connection: Connection, numbers: Iterable[int]) -> None:
    held = connection.exec_driver_sql(statements.HOLD_PROJECTS, json_list(numbers)).scalars().all()
    connection.exec_driver_sql(statements.REMOVE_UNUSED_PROJECTS, json_list(held))
