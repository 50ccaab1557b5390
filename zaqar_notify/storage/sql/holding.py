"""Messages of another queue service, which are held until that has accepted them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from zaqar_notify.storage import ids
from zaqar_notify.storage.sql import pruning, statements
from zaqar_notify.storage.sql.tables import messages


def release(
    connection: Connection, project: str, queue: str, message_ids: Sequence[str], foreign_ids: Sequence[str] | None
) -> None:
    run = connection.exec_driver_sql
    held = [{"message": ids.parse(message_id), "project": project, "name": queue} for message_id in message_ids]
    if not held:
        return
    if foreign_ids is not None:
        named = [{**one, "foreign": foreign} for one, foreign in zip(held, foreign_ids, strict=True) if foreign]
        if named:
            run(statements.NAME_HELD, named)
    run(statements.FREE_HELD, held)


def drop(connection: Connection, project: str, queue: str, message_ids: Sequence[str]) -> None:
    for number in filter(None, map(ids.parse, message_ids)):
        asked = {"message": number, "project": project, "name": queue}
        if connection.exec_driver_sql(statements.DROP_ENTRY, asked).rowcount:
            pruning.keep_floor(connection, messages, [number])
            for statement in (statements.DROP_LINES, statements.DROP_RECEIPTS, statements.DROP_MESSAGE):
                connection.exec_driver_sql(statement, asked)
