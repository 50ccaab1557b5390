"""Reports as mail servers write them."""

from __future__ import annotations

import email.message
from collections.abc import Sequence

BOUNDARY = "B1A2C3/mail.example.org"

POSTFIX = """\
Received: by mail.example.org (Postfix) id 9B2D41F4C; Tue, 3 Mar 2026 10:00:00 +0000 (UTC)
Date: Tue, 3 Mar 2026 10:00:00 +0000 (UTC)
From: MAILER-DAEMON@mail.example.org (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: {to}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="{boundary}"
Message-Id: <20260303100000.9B2D41F4C@mail.example.org>

This is a MIME-encapsulated message.

--{boundary}
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mail.example.org.

--{boundary}
Content-Description: Delivery report
Content-Type: {status_type}{encoding}

{status}
--{boundary}
Content-Description: Undelivered Message
Content-Type: message/rfc822

Subject: Notification: demo
Content-Type: multipart/report; report-type=delivery-status; boundary=inner

--inner
Content-Type: message/delivery-status

Reporting-MTA: dns; evil.example.org
Original-Envelope-Id: evil

Action: failed
Status: 5.1.1

--inner--

--{boundary}--
"""

ABOUT = "Reporting-MTA: dns; mail.example.org\nOriginal-Envelope-Id: {id}\nX-Postfix-Queue-ID: 9B2D41F4C\n"
NO_SUCH_USER = (
    "Final-Recipient: rfc822; ann@example.org\n"
    "Original-Recipient: rfc822;ann@example.org\n"
    "Action: failed\n"
    "Status: 5.1.1\n"
    "Remote-MTA: dns; mx.example.org\n"
    "Diagnostic-Code: smtp; 550 5.1.1 <ann@example.org>: Recipient address rejected:\n"
    "    no such user\n"
)
DELIVERED = (
    "Final-Recipient: rfc822; ann@example.org\n"
    "Action: delivered\n"
    "Status: 2.0.0\n"
    "Diagnostic-Code: x-unix; delivered to mailbox\n"
)
DELAYED = "Final-Recipient: rfc822; ann@example.org\nAction: delayed\nStatus: 4.4.1\nWill-Retry-Until: later\n"


def report(
    envelope_id: str,
    recipients: Sequence[str] = (NO_SUCH_USER,),
    *,
    to: str = "bounces@notify.example.org",
    boundary: str = BOUNDARY,
    status_type: str = "message/delivery-status",
    encoding: str = "",
    status: str | None = None,
) -> bytes:
    """With the line ends that mails have."""
    text = status if status is not None else "\n".join((ABOUT.format(id=envelope_id), *recipients))
    filled = POSTFIX.format(
        to=to,
        boundary=boundary,
        status_type=status_type,
        status=text,
        encoding=f"\nContent-Transfer-Encoding: {encoding}" * bool(encoding),
    )
    return filled.replace("\n", "\r\n").encode()


def recipient(action: str, status: str = "", diagnostic: str = "") -> str:
    fields = {"Final-Recipient": "rfc822; ann@example.org", "Action": action, "Status": status, "Diagnostic-Code": diagnostic}
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def letter(subject: str = "unsubscribe", text: str = "please") -> bytes:
    made = email.message.EmailMessage()
    made["From"], made["To"], made["Subject"] = "ann@example.org", "bounces@notify.example.org", subject
    made.set_content(text)
    return made.as_bytes().replace(b"\n", b"\r\n")
