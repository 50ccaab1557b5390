"""Delivery status notifications (RFC 3464): what they say, out of mails that anybody may have written.

Nothing here recurses, and each step looks at a bounded number of bytes, so that the time that a mail takes rises with its size
and with nothing else. Of a mail the parts at its top are looked at, and of these the report alone.
"""

from __future__ import annotations

import email.message
import email.parser
import email.policy
import re
from collections.abc import Iterator
from typing import NamedTuple

from zaqar_notify.model import Receipt, ReceiptKind
from zaqar_notify.notifiers import mail
from zaqar_notify.notifiers.content import line

MOST_HEAD = 65536
MOST_STATUS = 65536
"""Bytes of a header, and of a report."""
MOST_PARTS = 10
MOST_RECIPIENTS = 100
_MOST_FIELD = 1000
_MOST_BOUNDARY = 200
_DETAIL = 200

_STATUS_TYPES = ("message/delivery-status", "message/global-delivery-status")
"""The latter with addresses in UTF-8 (RFC 6533)."""
_HAS_IT = ("delivered", "expanded")
"""Values of Action: the mailbox has it, or the list that was written to. ``relayed`` says but that it has left a server that
reports nothing more."""
_BLANK = re.compile(rb"\r?\n[ \t]*\r?\n")
_ADDRESS = re.compile(r"[^\s@]{0,320}@[^\s@]{0,320}")
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_HEADERS = email.parser.BytesHeaderParser(policy=email.policy.compat32)


class Recipient(NamedTuple):
    action: str
    """In lower case."""
    status: str
    """As 5.1.1 (RFC 3463); empty: there is none."""
    diagnostic: str
    """What a mail server said. It may hold addresses."""


class Report(NamedTuple):
    envelope_id: str
    """Empty: there is none."""
    recipients: tuple[Recipient, ...]


def read(raw: bytes) -> Report | None:
    """None: it is no report. The end of ``raw`` may be missing: reports come before what they are about."""
    head, body = _parted(raw)
    kind = _content_type(head)
    if kind is None or kind.get_content_type() != "multipart/report":
        return None
    boundary = kind.get_boundary()
    if not boundary or len(boundary) > _MOST_BOUNDARY:
        return None
    for part in _parts(body, boundary):
        status = _status(part)
        if status is not None:
            return _report(status)
    return None


def receipt(report: Report, now: float) -> Receipt | None:
    """None: it says nothing that ends the delivery. The envelope had one recipient: several are those that its address stands
    for, and one of them that has the mail is enough."""
    there = [one for one in report.recipients if one.action in _HAS_IT]
    if there:
        return Receipt(ReceiptKind.DEVICE, now, _detail(there[0]))
    failed = [one for one in report.recipients if one.action == "failed"]
    if not failed:
        return None
    return Receipt(ReceiptKind.FAILED, now, _detail(failed[0]), gone=all(mail.is_no_such(one.status) for one in failed))


def _detail(recipient: Recipient) -> str:
    said = recipient.diagnostic.partition(";")[2] or recipient.diagnostic
    words = f"{recipient.action} {recipient.status}: {said}".replace("<", " ").replace(">", " ")
    return line(_ADDRESS.sub("...", words), _DETAIL).rstrip(" :")


# -- the mail -----------------------------------------------------------------------------------------------------------------


def _parted(raw: bytes) -> tuple[bytes, bytes]:
    """Header and body."""
    match = _BLANK.search(raw, 0, MOST_HEAD)
    return (raw[: match.start()], raw[match.end() :]) if match else (raw[:MOST_HEAD], b"")


def _content_type(head: bytes) -> email.message.Message | None:
    """A message that has this field, and how it is encoded, and nothing else."""
    found = _HEADERS.parsebytes(head)
    made = email.message.Message()
    for name in ("Content-Type", "Content-Transfer-Encoding"):
        value = str(found.get(name, ""))
        if len(value) > _MOST_FIELD:
            return None
        made[name] = value
    return made


def _parts(body: bytes, boundary: str) -> Iterator[bytes]:
    line = re.compile(rb"^--" + re.escape(boundary.encode("ascii", "replace")) + rb"(--)?[ \t]*\r?$", re.MULTILINE)
    begin: int | None = None
    for count, match in enumerate(line.finditer(body)):
        if begin is not None:
            yield body[begin : match.start()]
        if match[1] or count == MOST_PARTS:
            return
        begin = match.end() + 1
    if begin is not None:
        yield body[begin:]  # its end was cut off


def _status(part: bytes) -> bytes | None:
    """The report, where this part is one."""
    head, body = _parted(part)
    kind = _content_type(head)
    if kind is None or kind.get_content_type() not in _STATUS_TYPES:
        return None
    kind.set_payload(body[:MOST_STATUS].decode("ascii", "surrogateescape"))
    decoded = kind.get_payload(decode=True)
    return decoded if isinstance(decoded, bytes) else None


def _report(status: bytes) -> Report:
    blocks = [_HEADERS.parsebytes(block) for block in _BLANK.split(status.strip(), MOST_RECIPIENTS)[: MOST_RECIPIENTS + 1]]
    ids = (_field(block, "Original-Envelope-Id") for block in blocks)
    return Report(
        next((one for one in ids if one), ""),
        tuple(_recipient(block) for block in blocks if _field(block, "Action")),
    )


def _recipient(block: email.message.Message) -> Recipient:
    diagnostic = _field(block, "Diagnostic-Code")
    found = _STATUS.search(_field(block, "Status"))
    status = found[0] if found else ""
    if status[1:] in ("", ".0.0"):  # some say it in the diagnostic alone
        precise = _STATUS.search(diagnostic)
        status = precise[0] if precise else status
    return Recipient(_field(block, "Action").partition(" ")[0].lower(), status, diagnostic)


def _field(block: email.message.Message, name: str) -> str:
    return " ".join(str(block.get(name, ""))[:_MOST_FIELD].split())
