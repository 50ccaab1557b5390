"""What gateways for short messages report of what they have accepted, to the URL that they were given with it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zaqar_notify.model import Receipt, ReceiptKind
from zaqar_notify.notifiers import answers

_TEXT = re.compile(r"\btext:.*", re.IGNORECASE | re.DOTALL)
"""The end of what a message centre says: the beginning of the short message."""


def _values(text: str) -> frozenset[str]:
    return frozenset(text.lower().split())


@dataclasses.dataclass(frozen=True, slots=True)
class Reporting:
    """Which fields of a report say what. Values are in lower case."""

    state: str = ""
    """The field with what became of it; empty: this gateway reports nothing."""
    code: str = ""
    """That with the reason."""
    words: str = ""
    """That with what the message centre said."""
    delivered: frozenset[str] = frozenset()
    """States that mean that the device has it."""
    failed: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    """States and codes that mean that nothing will ever arrive at this number."""

    def receipt(self, fields: Mapping[str, str], who: str, now: float, mask: Callable[[str], str]) -> Receipt | None:
        """None: it says nothing that ends the delivery. ``mask`` takes out of a text what is not for a log."""
        state = fields.get(self.state, "").strip().lower() if self.state else ""
        if not state:
            return None
        code = fields.get(self.code, "").strip().lower() if self.code else ""
        if state in self.delivered:
            return Receipt(ReceiptKind.DEVICE, now, answers.printable(mask(f"{who} reported {state}")))
        gone = state in self.gone or (bool(code) and code in self.gone)
        if not (state in self.failed or state in self.gone):
            return None
        detail = answers.printable(mask(f"{who} reported {state}{self._why(fields, code)}"))
        return Receipt(ReceiptKind.FAILED, now, detail, gone=gone)

    def _why(self, fields: Mapping[str, str], code: str) -> str:
        said = _TEXT.sub("", fields.get(self.words, "")).strip() if self.words else ""
        return (f", code {code}" if code else "") + (f": {said}" if said else "")


REPORTING: Mapping[str, Reporting] = {
    "generic": Reporting(),
    # "Outbound Message Status in Status Callbacks", and the pages of the errors:
    # https://www.twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks
    # 30005: unknown, 30006: a landline, or not reachable from a short code, 21610: has answered STOP.
    "twilio": Reporting(
        state="MessageStatus",
        code="ErrorCode",
        delivered=_values("delivered read"),
        failed=_values("undelivered failed canceled"),
        gone=_values("30005 30006 21610"),
    ),
    # "Delivery receipts" and "Vonage SMS Delivery Error Codes and Descriptions":
    # https://developer.vonage.com/en/messaging/sms/guides/delivery-receipts
    # 3: not in use any more, 4: barred by its owner, 9: its owner wants nothing from this service.
    "vonage": Reporting(
        state="status",
        code="err-code",
        delivered=_values("delivered"),
        failed=_values("expired failed rejected deleted"),
        gone=_values("3 4 9"),
    ),
    # Kannel's user guide, "Delivery Reports": https://www.kannel.org/download/1.4.5/userguide-1.4.5/userguide.html
    # 4: buffered, 8: the message centre has it.
    "kannel": Reporting(state="state", words="answer", delivered=_values("1"), failed=_values("2 16")),
}
"""By the preset. The fields of Kannel's reports are those that its preset asks for in the callback's query."""


def of(preset: str, conf: Any) -> Reporting:
    """That of the preset, with what the section says in its place."""
    found = REPORTING[preset]
    return dataclasses.replace(
        found,
        state=conf.receipt_field or found.state,
        code=conf.receipt_code or found.code,
        delivered=_chosen(conf.receipt_delivered, found.delivered),
        failed=_chosen(conf.receipt_failed, found.failed),
        gone=_chosen(conf.receipt_gone, found.gone),
    )


def _chosen(listed: Iterable[str] | None, usual: frozenset[str]) -> frozenset[str]:
    return usual if listed is None else frozenset(value.lower() for value in listed)
