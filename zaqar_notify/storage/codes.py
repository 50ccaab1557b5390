"""Small numbers for what is stored of each message and each delivery. They never change."""

from __future__ import annotations

from zaqar_notify.model import MessageKind, OutcomeKind, ReceiptKind, State

STATE_CODES = {
    State.PENDING: 1,
    State.IN_FLIGHT: 2,
    State.PARKED: 3,
    State.DELIVERED: 4,
    State.FILTERED: 5,
    State.SUPPRESSED: 6,
    State.SUPERSEDED: 7,
    State.EXPIRED: 8,
    State.CANCELLED: 9,
    State.REFUSED: 10,
    State.DEAD: 11,
    State.GONE: 12,
}
OUTCOME_CODES = {
    OutcomeKind.DELIVERED: 1,
    OutcomeKind.RETRY: 2,
    OutcomeKind.THROTTLED: 3,
    OutcomeKind.AUTH: 4,
    OutcomeKind.OURS: 5,
    OutcomeKind.REJECTED: 6,
    OutcomeKind.GONE: 7,
    OutcomeKind.REFUSED: 8,
}
KIND_CODES = {
    MessageKind.NOTIFICATION: 0,
    MessageKind.CONFIRMATION: 1,
    MessageKind.TEST: 2,
    MessageKind.CALLBACK: 3,
}
RECEIPT_CODES = {
    ReceiptKind.DEVICE: 1,
    ReceiptKind.ACKNOWLEDGED: 2,
    ReceiptKind.FAILED: 3,
}
STATES = {code: state for state, code in STATE_CODES.items()}
OUTCOMES = {code: outcome for outcome, code in OUTCOME_CODES.items()}
KINDS = {code: kind for kind, code in KIND_CODES.items()}
RECEIPT_KINDS = {code: kind for kind, code in RECEIPT_CODES.items()}
