"""What is heard of deliveries after they were accepted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import OutcomeKind, Receipt, ReceiptKind, State
from zaqar_notify.storage.codes import OUTCOME_CODES, RECEIPT_CODES, RECEIPT_KINDS, STATE_CODES
from zaqar_notify.storage.retention import Retention
from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.statements import json_list

_NEVER = float("inf")
_USE_UP = [OUTCOME_CODES[kind] for kind in (OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REJECTED, OutcomeKind.GONE)]
"""Outcomes that use up an attempt."""


def receive(
    connection: Connection, message: int, subscription: int, receipt: Receipt, *, now: float, retention: Retention
) -> bool:
    run = connection.exec_driver_sql
    delivery = {"message": message, "subscription": subscription}
    # Whoever removes the log, or delivers it again, has to wait.
    if run(statements.HOLD_MESSAGE, {"message": message}).first() is None:
        return False
    last = run(statements.LAST_LINE, delivery).first()
    if last is None:
        return False
    heard = {
        "kind": RECEIPT_CODES[receipt.kind],
        "at": receipt.at,
        "detail": receipt.detail or None,
        "gone": receipt.gone or None,
    }
    new = run(statements.INSERT_RECEIPT, {**delivery, **heard}).rowcount > 0
    failed = receipt.kind is ReceiptKind.FAILED and last.state == STATE_CODES[State.DELIVERED]
    if not failed or not _leave_row(connection, message, subscription, last.number, receipt):
        return new
    run(statements.REVIVE_MESSAGE, {"message": message, "now": now, "look_at": now + retention.look_again})
    if not new:
        run(statements.REPLACE_RECEIPT, {**delivery, **heard})
    return True


def _leave_row(connection: Connection, message: int, subscription: int, lines: int, receipt: Receipt) -> bool:
    """False when there is nobody whom it concerns, or a row: then it is being delivered again."""
    asked = {"message": message, "subscription": subscription, "used": json.dumps(_USE_UP)}
    found = connection.exec_driver_sql(statements.FIND_REPORTED, asked).first()
    if found is None:
        return False
    used = {"attempts": max(found.attempts, 1), "lines": lines, "target": found.target}
    row = statements.due_row(message, subscription, _NEVER, found.project_id, **used, report=_text(receipt))
    return statements.LEAVE_ROWS.into(connection, [row]) > 0


def _text(receipt: Receipt) -> str:
    return json.dumps({"at": receipt.at, "detail": receipt.detail, "gone": receipt.gone})


def report(text: str) -> Receipt:
    """That of a row."""
    return Receipt(ReceiptKind.FAILED, **json.loads(text))


def of(connection: Connection, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[Receipt]]:
    """By message and subscription, the oldest first."""
    found: dict[tuple[int, int], list[Receipt]] = {}
    rows: Iterable[Any] = connection.exec_driver_sql(statements.RECEIPTS, json_list(pairs))
    for message, subscription, kind, at, detail, gone in rows:
        found.setdefault((message, subscription), []).append(Receipt(RECEIPT_KINDS[kind], at, detail or "", bool(gone)))
    return found
