"""What a report says (RFC 3464), and what those say that were written to do harm."""

from __future__ import annotations

import base64
import random
import time
import unittest

from tests.receiving.mails import ABOUT, BOUNDARY, DELAYED, DELIVERED, NO_SUCH_USER, letter, recipient, report
from zaqar_notify.model import Receipt, ReceiptKind
from zaqar_notify.receiving import reports
from zaqar_notify.receiving.reports import MOST_RECIPIENTS, Recipient, Report, read, receipt

DEVICE, FAILED = ReceiptKind.DEVICE, ReceiptKind.FAILED
SAID = "smtp; 550 5.1.1 <ann@example.org>: Recipient address rejected: no such user"


class ReadTest(unittest.TestCase):
    def test_what_postfix_writes(self) -> None:
        self.assertEqual(Report("abc", (Recipient("failed", "5.1.1", SAID),)), read(report("abc")))

    def test_lines_may_end_as_on_unix(self) -> None:
        self.assertEqual(read(report("abc")), read(report("abc").replace(b"\r\n", b"\n")))

    def test_several_recipients(self) -> None:
        found = read(report("abc", (NO_SUCH_USER, DELIVERED, DELAYED)))
        assert found is not None
        self.assertEqual(["failed", "delivered", "delayed"], [one.action for one in found.recipients])

    def test_without_an_envelope_id(self) -> None:
        found = read(report("", status=f"Reporting-MTA: dns; x\n\n{NO_SUCH_USER}"))
        assert found is not None
        self.assertEqual(("", 1), (found.envelope_id, len(found.recipients)))

    def test_addresses_in_utf_8(self) -> None:
        """RFC 6533."""
        text = ABOUT.format(id="abc") + "\nFinal-Recipient: utf-8; grün@example.org\nAction: failed\nStatus: 5.1.1\n"
        for encoding, status in (
            ("8bit", text),
            ("base64", base64.encodebytes(text.encode()).decode()),
            ("quoted-printable", text.replace("ü", "=C3=BC")),
        ):
            with self.subTest(encoding):
                found = read(report("", status=status, status_type="message/global-delivery-status", encoding=encoding))
                self.assertEqual(Report("abc", (Recipient("failed", "5.1.1", ""),)), found)

    def test_the_status_is_in_the_diagnostic_alone(self) -> None:
        for status in ("", "5.0.0", "nonsense"):
            with self.subTest(status):
                found = read(report("abc", (recipient("failed", status, "smtp; 550 5.2.1 mailbox disabled"),)))
                assert found is not None
                self.assertEqual("5.2.1", found.recipients[0].status)

    def test_a_mail_whose_end_is_missing(self) -> None:
        whole = report("abc")
        for end in (whole.index(b"Content-Description: Undelivered"), whole.index(b"evil"), len(whole) - 3):
            self.assertEqual(read(whole), read(whole[:end]))

    def test_what_is_no_report(self) -> None:
        plain = report("abc")
        cases = {
            "a letter": letter(),
            "nothing": b"",
            "no header": b"\r\n\r\nhello",
            "another kind of multipart": plain.replace(b"multipart/report", b"multipart/mixed"),
            "that a mail was read": plain.replace(b"message/delivery-status", b"message/disposition-notification"),
            "no boundary": plain.replace(b'\tboundary="', b'\tborder="'),
            "another boundary": plain.replace(b'\tboundary="', b'\tboundary="x'),
            "within another mail": b"Content-Type: message/rfc822\r\n\r\n" + plain,
            "a boundary that is too long": report("abc", boundary="b" * 201),
            "a header without an end": b"Content-Type: multipart/report; boundary=x" + b"x" * 200_000,
        }
        for name, raw in cases.items():
            with self.subTest(name):
                self.assertIsNone(read(raw))

    def test_the_mail_that_it_is_about_says_nothing(self) -> None:
        found = read(report("", status="Reporting-MTA: dns; x\n"))
        self.assertEqual(Report("", ()), found)


class ReceiptTest(unittest.TestCase):
    def of(self, *recipients: str) -> Receipt | None:
        found = read(report("abc", recipients))
        assert found is not None
        return receipt(found, 7.0)

    def test_the_address_does_not_exist(self) -> None:
        expected = "failed 5.1.1: 550 5.1.1 ... : Recipient address rejected: no such user"
        self.assertEqual(Receipt(FAILED, 7.0, expected, gone=True), self.of(NO_SUCH_USER))

    def test_which_failures_are_about_the_address(self) -> None:
        for status, gone in (
            *(("5.1.1", True), ("5.1.2", True), ("5.1.3", True), ("5.1.6", True), ("5.1.10", True), ("5.2.1", True)),
            *(("5.1.7", False), ("5.1.8", False), ("5.2.2", False), ("5.7.1", False), ("4.4.7", False), ("5.0.0", False)),
        ):
            with self.subTest(status):
                found = self.of(recipient("failed", status))
                self.assertEqual(Receipt(FAILED, 7.0, f"failed {status}", gone=gone), found)

    def test_it_is_there(self) -> None:
        self.assertEqual(Receipt(DEVICE, 7.0, "delivered 2.0.0: delivered to mailbox"), self.of(DELIVERED))
        self.assertEqual(Receipt(DEVICE, 7.0, "expanded 2.0.0"), self.of(recipient("expanded", "2.0.0")))

    def test_nothing_has_ended(self) -> None:
        for one in (DELAYED, recipient("relayed", "2.0.0"), recipient("unheard-of", "5.1.1"), "Status: 5.1.1\n", ""):
            with self.subTest(one):
                self.assertIsNone(self.of(one))

    def test_actions_are_written_in_any_way(self) -> None:
        for action in ("FAILED", "Failed (really)", "  failed"):
            found = self.of(recipient(action, "5.7.1"))
            assert found is not None
            self.assertIs(FAILED, found.kind)

    def test_of_several_one_that_has_it_is_enough(self) -> None:
        found = self.of(NO_SUCH_USER, DELIVERED)
        assert found is not None
        self.assertIs(DEVICE, found.kind)
        found = self.of(DELAYED, NO_SUCH_USER)
        assert found is not None
        self.assertEqual((FAILED, True), (found.kind, found.gone))
        found = self.of(recipient("failed", "5.2.2"), NO_SUCH_USER)
        assert found is not None
        self.assertEqual((FAILED, False), (found.kind, found.gone))

    def test_the_detail_is_a_line_without_addresses(self) -> None:
        said = "smtp; 550 <ann@example.org>\tsays: bob+1@sub.example.org, grün@example.org\x1b[31m " + "x" * 500
        found = self.of(recipient("failed", "5.7.1", said))
        assert found is not None
        self.assertNotIn("example.org", found.detail)
        self.assertNotIn("ann", found.detail)
        self.assertTrue(found.detail.isprintable(), found.detail)
        self.assertLessEqual(len(found.detail), 200)


class HostileTest(unittest.TestCase):
    """Whatever comes, it ends soon, with a report or with none."""

    def expect(self, raw: bytes, name: str = "") -> Report | None:
        began = time.process_time()
        found = read(raw)
        self.assertLess(time.process_time() - began, 10.0, name)  # it takes 0.04
        if found is not None:
            receipt(found, 0.0)
        return found

    def test_parts_in_parts(self) -> None:
        deep = b"".join(
            b'Content-Type: multipart/report; report-type=delivery-status; boundary="%d"\r\n\r\n--%d\r\n' % (depth, depth)
            for depth in range(10_000)
        )
        self.assertIsNone(self.expect(deep))

    def test_very_many_parts(self) -> None:
        parts = b"--B\r\nContent-Type: text/plain\r\n\r\n" * 30_000
        head = b"Content-Type: multipart/report; boundary=B\r\n\r\n"
        status = b"--B\r\nContent-Type: message/delivery-status\r\n\r\nOriginal-Envelope-Id: x\r\n\r\nAction: failed\r\n--B--"
        self.assertIsNone(self.expect(head + parts + status))
        self.assertIsNotNone(self.expect(head + status + parts))

    def test_very_many_recipients(self) -> None:
        found = self.expect(report("abc", (DELIVERED,) * 10_000))
        assert found is not None
        self.assertLessEqual(len(found.recipients), MOST_RECIPIENTS)

    def test_huge_lines_and_headers(self) -> None:
        head = b"Content-Type: multipart/report; boundary=B"
        part = b"\r\n\r\n--B\r\nContent-Type: message/delivery-status\r\n"
        body, encoded = part + b"\r\n", head + part + b"Content-Transfer-Encoding: ?\r\n\r\n"
        for name, raw in {
            "a field": head + b"\r\nX: " + b"x" * 1_000_000 + body,
            "parameters": head + b";a=b" * 200_000 + body,
            "quotes": head + b';a="' * 200_000 + body,
            "continuations": head + b";a*0*=x''%20" * 50_000 + body,
            "a number": head.replace(b"boundary", b"boundary*" + b"9" * 900) + body,
            "folds": head + b"\r\n " * 200_000 + body,
            "spaces": head + b" " * 1_000_000 + body,
            "blank lines": head + body + b"\r\n" * 500_000,
            "lines of blanks": head + body + b"\n \t" * 300_000,
            "dashes": head + body + b"--" * 500_000,
            "boundaries": head + body + b"--B " * 200_000,
            "at signs": head + body + b"A: b\r\n\r\nAction: failed\r\nDiagnostic-Code: " + b"@" * 60_000,
            "colons": head + body + b":\r\n" * 300_000,
            "base64": encoded.replace(b"?", b"base64") + b"=" + b"A=" * 300_000,
            "uuencode": encoded.replace(b"?", b"uuencode") + b"begin 666 x\r\nM" + b"x" * 9,
            "an encoding that there is not": encoded.replace(b"?", b"\xff") + b"Action: failed",
        }.items():
            with self.subTest(name):
                self.expect(raw, name)

    def test_garbage(self) -> None:
        chance = random.Random(5)
        whole = report("abc")
        for _ in range(300):
            broken = bytearray(whole)
            for _ in range(chance.randrange(1, 40)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            self.expect(bytes(broken))
            self.expect(bytes(whole[: chance.randrange(len(whole))]))
            self.expect(chance.randbytes(2000))

    def test_names_of_encodings_that_there_are_not(self) -> None:
        for value in (
            b"multipart/report; boundary*=nonsense'x'B1A2C3%2Fmail.example.org",
            b"multipart/report; boundary*=utf-8''%FF%FE",
            b"multipart/report; boundary*0*=\xff; boundary*1=x",
            b"=?nonsense?q?multipart/report?=; boundary=B",
            b"multipart/report; boundary=\xff\xfe",
            b"multipart/report; boundary=",
            b'multipart/report; boundary=""',
        ):
            with self.subTest(value):
                self.expect(b"Content-Type: " + value + b"\r\n\r\n--" + BOUNDARY.encode() + b"\r\n\r\n")

    def test_what_is_cut_is_little(self) -> None:
        """What a real server writes is far from the limits."""
        long = recipient("failed", "5.1.1", "smtp; " + "a very long story " * 40)
        found = read(report("abc", (long,) * 20))
        assert found is not None
        self.assertEqual(20, len(found.recipients))
        self.assertLess(len(report("abc", (long,) * 20)), reports.MOST_STATUS)
