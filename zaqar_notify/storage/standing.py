"""Where a delivery stands, judged from what the ledger knows of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zaqar_notify.model import DeliveryRecord, LogEntry, Receipt, State


@dataclasses.dataclass(frozen=True, slots=True)
class Open:
    """A row, or an outbox entry that covers the delivery."""

    due_at: float | None
    """None: parked; 0: at once."""
    leased: bool
    row: bool = False
    """A row, and so open whatever the log says: it is a redelivery when that has ended."""
    expires_at: float | None = None
    """Of a redelivery."""
    held: bool = False
    """Until the end of a window, at ``due_at``."""


def record(
    message_id: str,
    subscription_id: str,
    log: Sequence[LogEntry],
    open: Open | None,
    *,
    cancelled: bool,
    expired: bool,
    now: float,
    receipts: Sequence[Receipt] = (),
) -> DeliveryRecord:
    """``cancelled``: the subscription or the queue was deleted; ``expired``: the message or the subscription is over."""
    state = _state(log, open, cancelled=cancelled, expired=expired, now=now)
    has_time = state is State.PENDING or (state is State.PARKED and open is not None and open.held)
    next_attempt_at = (open.due_at or now) if open and has_time else None
    return DeliveryRecord(message_id, subscription_id, state, next_attempt_at, tuple(log), tuple(receipts))


def _state(log: Sequence[LogEntry], open: Open | None, *, cancelled: bool, expired: bool, now: float) -> State:
    if log and log[-1].state.ended and not (open is not None and open.row):
        return log[-1].state
    if cancelled or open is None:
        return State.CANCELLED
    if open.leased and open.due_at is not None and open.due_at > now:
        return State.IN_FLIGHT
    if expired:
        return State.EXPIRED
    return State.PARKED if open.due_at is None or open.held else State.PENDING
