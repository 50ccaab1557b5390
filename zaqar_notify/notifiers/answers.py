"""What every notifier that goes over HTTP makes of an answer, or of there being none."""

from __future__ import annotations

import email.utils
import http
from typing import TYPE_CHECKING

from zaqar_notify.model import Outcome, OutcomeKind
from zaqar_notify.notifiers.http import Fault

if TYPE_CHECKING:
    from zaqar_notify.notifiers.http import Response

DETAIL = 200
"""Characters of what the other side said that a detail shows."""

FAULTS = {
    Fault.CONNECT: OutcomeKind.RETRY,
    Fault.TIMEOUT: OutcomeKind.RETRY,
    Fault.TLS: OutcomeKind.RETRY,
    Fault.RESET: OutcomeKind.RETRY,
    Fault.PROTOCOL: OutcomeKind.RETRY,
    Fault.NAME_UNKNOWN: OutcomeKind.RETRY,
    Fault.PROXY_GATEWAY: OutcomeKind.RETRY,
    Fault.OTHER: OutcomeKind.RETRY,
    Fault.URL: OutcomeKind.REJECTED,
    Fault.GUARD: OutcomeKind.REFUSED,
    Fault.PROXY_REFUSED: OutcomeKind.REFUSED,
    Fault.PROXY: OutcomeKind.OURS,
    Fault.RESOLVER: OutcomeKind.OURS,
    Fault.LOCAL: OutcomeKind.OURS,
    Fault.LATE: OutcomeKind.OURS,
    Fault.CLOSED: OutcomeKind.OURS,
}


def fault(fault: Fault, detail: str, status: int) -> Outcome:
    """That of a request without a complete answer."""
    text = f"{fault.value}: {printable(detail)}" if detail else fault.value
    if fault is Fault.GUARD:
        text = printable(detail)  # says it all
    return Outcome(FAULTS[fault], text, status or None, target=fault is Fault.URL)


def described(response: Response, who: str) -> str:
    """The answer in one line for people, with the beginning of its body. ``who`` answered."""
    try:
        phrase = " " + http.HTTPStatus(response.status).phrase
    except ValueError:
        phrase = ""
    line = f"{who} answered {response.status}{phrase}"
    if 300 <= response.status < 400:
        return f"{line}; redirects are not followed"
    text = printable(response.body[: 4 * DETAIL].decode("utf-8", "replace"))
    return f"{line}: {text}" if text else line


def printable(text: str) -> str:
    """In one line of at most `DETAIL` characters."""
    shown = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return shown if len(shown) <= DETAIL else shown[: DETAIL - 3] + "..."


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds from a Retry-After header (RFC 9110, 10.2.3): seconds or a date; None for anything else."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:15])
    try:
        at = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return max(0.0, at - now)
