"""Projects, which share the work that is taken, have numbers."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.statements import json_list


def number_of(connection: Connection, name: str) -> int:
    found = connection.exec_driver_sql(statements.FIND_PROJECT, (name,)).scalar()
    if found is None:
        found = connection.exec_driver_sql(statements.INSERT_PROJECT, (name,)).scalar_one()
    return int(found)


def remove_unused(connection: Connection, numbers: Iterable[int]) -> None:
    asked = json_list(numbers)
    connection.exec_driver_sql(statements.HOLD_PROJECTS, asked)
    connection.exec_driver_sql(statements.REMOVE_UNUSED_PROJECTS, asked)
