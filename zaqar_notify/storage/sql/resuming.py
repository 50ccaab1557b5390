"""One delivery again, or not at all, because somebody says so."""

from __future__ import annotations

from typing import Any

from zaqar_notify.errors import Conflict, NotFound
from zaqar_notify.model import LogEntry, State
from zaqar_notify.storage.codes import STATES
from zaqar_notify.storage.sql import arrivals, ledger, statements
from zaqar_notify.storage.sql.reading import Place

_UNKNOWN = "There is no such delivery (any more)."


def redeliver(place: Place, message_id: str, subscription: int, ttl: float) -> None:
    """``message_id`` is the public one."""
    connection, expires_at = place.connection, place.now + ttl
    found = _find(place, message_id, subscription)
    if not _ended(found):
        raise Conflict("The delivery has not ended: cancel it first, or wait.")
    if not found.body:
        raise Conflict("The body of the message is not kept any more.")
    row = statements.due_row(found.id, subscription, expires_at, found.project_id, lines=found.lines, again=found.lines)
    statements.PUT_ROWS.into(connection, [row])
    look_at = min(expires_at, place.now + place.retention.look_again)
    place.run(statements.REVIVE_MESSAGE, message=found.id, look_at=look_at)


def cancel(place: Place, message_id: str, subscription: int) -> None:
    """``message_id`` is the public one."""
    connection = place.connection
    found = _find(place, message_id, subscription)
    if _ended(found):
        raise Conflict("The delivery has ended.")
    if found.row_lines is None:
        connection.exec_driver_sql(statements.CANCEL_OF_ENTRY, (found.id,))
        place.run(statements.CANCEL_OF_JOB, message=found.id, subscription=subscription)
    else:
        connection.exec_driver_sql(statements.DELETE_ROW, (found.id, subscription))
    number = max(found.row_lines or 0, found.lines or 0) + 1
    line = ledger.line(found.id, subscription, LogEntry(number, place.now, State.CANCELLED))
    statements.INSERT_LINES.into(connection, [line])


def _find(place: Place, message_id: str, subscription: int) -> Any:
    message = arrivals.find_message(place.connection, place.project, place.queue, message_id)
    found = None
    if message is not None:
        for statement in (statements.HOLD_MESSAGE, statements.HOLD_ENTRY, statements.HOLD_JOBS, statements.HOLD_ROW):
            place.run(statement, message=message, subscription=subscription)
        found = place.run(statements.FIND_DELIVERY, message=message, subscription=subscription).first()
    if found is None or (found.row_lines is None and found.state is None and not found.covered):
        raise NotFound(_UNKNOWN)
    return found


def _ended(found: Any) -> bool:
    if found.row_lines is not None:
        return False
    return not found.covered or (found.state is not None and STATES[found.state].ended)
