"""Several notifications in one mail, as a real server gets it."""

import dataclasses
import json
import time
import unittest
from typing import Any

from tests.notifiers.case import WAIT
from tests.notifiers.mailserver import MailServer, text_of
from tests.notifiers.test_email import ADDRESS, LINKS, EmailCase, subscription
from zaqar_notify.model import Delivery, Message, MessageKind, OutcomeKind, Priority
from zaqar_notify.notifiers import digests
from zaqar_notify.notifiers.email import EmailNotifier

DELIVERED, RETRY, REJECTED, OURS = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REJECTED, OutcomeKind.OURS
RULE = "-" * 64


def message(number: int, body: Any, **fields: Any) -> Message:
    return Message(f"m{number}", "p", "orders", json.dumps(body).encode(), 300, time.time(), time.time() + 300, **fields)


class DigestCase(EmailCase):
    def digest(self, *messages: Message, uri: str = f"mailto:{ADDRESS}", templates: Any = None, **fields: Any) -> Delivery:
        """The first one leads."""
        to = subscription(uri, fields.pop("options", None))
        first, *others = (
            Delivery(f"{one.id}-s1", 1, time.monotonic() + WAIT, one, to, LINKS, templates=templates or {}, **fields)
            for one in messages
        )
        first.others = others
        return first

    def sent(self, *messages: Message, **fields: Any) -> Any:
        server = self.server()
        delivery = self.digest(*messages, **fields)
        outcome = self.deliver(self.for_server(server), delivery)[delivery.id]
        self.assertIs(DELIVERED, outcome.kind, outcome)
        (mail,) = server.mails
        self.assertIn(mail.parsed["Message-ID"], outcome.detail)
        self.assertIn(f"digest of {len(messages)} <", outcome.detail)
        return mail


class DigestTest(DigestCase):
    def test_the_notifier_says_that_it_makes_them(self) -> None:
        self.assertIs(True, EmailNotifier.digests)

    def test_text(self) -> None:
        mail = self.sent(message(2, {"title": "Second", "text": "two\n"}), message(3, {"n": 3}), message(1, "one"))
        self.assertEqual("3 notifications of orders", mail.parsed["Subject"])
        expected = (
            f'[1/3]\none\n\n{RULE}\n[2/3] Second\ntwo\n\n{RULE}\n[3/3]\n{{\n  "n": 3\n}}\n\n-- \nQueue orders\n'
            f"Unsubscribe: {LINKS['unsubscribe']}\n"
        )
        self.assertEqual(expected, mail.text)
        self.assertEqual("3", mail.parsed["zaqar-notify-digest"])
        self.assertEqual([ADDRESS], mail.recipients)
        self.assertEqual(f"<{LINKS['unsubscribe']}>", mail.parsed["List-Unsubscribe"])
        self.assertEqual("List-Unsubscribe=One-Click", mail.parsed["List-Unsubscribe-Post"])

    def test_pages(self) -> None:
        whole = "<!DOCTYPE html><html><head><title>x</title></head><BODY class='a'><p>two</p></body></html>"
        parsed = self.sent(
            message(1, "a < b"),
            message(2, {"title": "<T>", "text": "two", "email": {"html": whole}}),
            message(3, {"text": "three", "email": {"html": "<p>three</p>"}}),
        ).parsed
        plain, page = parsed.iter_parts()
        self.assertIn("[2/3] <T>\ntwo\n", text_of(plain))
        expected = (
            "<html><body>\n<h3>[1/3]</h3>\n<div><pre>a &lt; b</pre></div>\n<hr>\n"
            "<h3>[2/3] &lt;T&gt;</h3>\n<div><p>two</p></div>\n<hr>\n"
            "<h3>[3/3]</h3>\n<div><p>three</p></div>\n<hr>\n"
            f'<p>Queue orders<br>\n<a href="{LINKS["unsubscribe"]}">Unsubscribe</a></p>\n</body></html>\n'
        )
        self.assertEqual(expected, text_of(page))

    def test_odd_pages(self) -> None:
        for page, inner in (
            ("<p>x</p>", "<p>x</p>"),
            ("</body><p>x</p>", ""),
            ("<body", "<body"),
            ("<body>x", "x"),
            ("x</BODY>y", "x"),
            ("<body a='1'>x<body>y</body>z</body></html>", "x<body>y</body>z"),
            ("", ""),
        ):
            self.assertEqual(inner, digests._inner(page), page)

    def test_subjects(self) -> None:
        two = [message(number, {"title": "T"}) for number in (1, 2)]
        self.assertEqual("Mine", self.sent(*two, uri=f"mailto:{ADDRESS}?subject=Mine").parsed["Subject"])
        self.assertEqual("Mine", self.sent(*two, options={"subject": "Mine"}).parsed["Subject"])
        by_language = {"de": "{{ digest.count }} Meldungen: {{ message.queue }}", "default": "other"}
        templates = {"email": {"digest_subject": by_language}}
        german = [dataclasses.replace(one, language="de-CH") for one in two]
        self.assertEqual("2 Meldungen: orders", self.sent(*german, templates=templates).parsed["Subject"])
        failing = {"email": {"digest_subject": "{{ body == [] }}"}}
        self.assertEqual("2 notifications of orders", self.sent(message(1, []), two[1], templates=failing).parsed["Subject"])

    def test_templates(self) -> None:
        templates = {"email": {"subject": "S {{ body.n }}", "text": "{{ body.n|round }}\n\n", "html": "<b>{{ body.n }}</b>"}}
        plain, page = self.sent(message(1, {"n": 1}), message(2, {"n": 2}), templates=templates).parsed.iter_parts()
        self.assertTrue(text_of(plain).startswith(f"[1/2] S 1\n1.0\n\n{RULE}\n[2/2] S 2\n2.0\n\n-- \n"), text_of(plain))
        self.assertIn("<h3>[2/2] S 2</h3>\n<div><b>2</b></div>", text_of(page))

    def test_a_template_that_fails_for_one_shows_what_its_body_says(self) -> None:
        templates = {"email": {"text": "{% if body.n == 1 %}good{% endif %}"}}
        text = self.sent(message(1, {"n": 1}), message(2, {"n": [2], "text": "as it is"}), templates=templates).text
        self.assertTrue(text.startswith(f"[1/2]\ngood\n\n{RULE}\n[2/2]\nas it is\n"), text)

    def test_hints(self) -> None:
        low, high = (
            message(1, "x", priority=Priority.LOW, language="de"),
            message(2, "y", priority=Priority.HIGH, language="de"),
        )
        parsed = self.sent(low, high, message(3, "z", language="de")).parsed
        self.assertEqual(("high", "de"), (parsed["Importance"], parsed["Content-Language"]))
        parsed = self.sent(message(1, "x", language="de"), message(2, "y")).parsed
        self.assertEqual((None, None), (parsed["Importance"], parsed["Content-Language"]))

    def test_what_is_too_much_is_counted(self) -> None:
        many = [message(number, {"text": "x" * 100_000, "email": {"html": "<p>x</p>"}}) for number in range(10)]
        plain, page = self.sent(*many).parsed.iter_parts()
        self.assertIn(f"[5/10]\n{'x' * 100_000}\n\n{RULE}\n... and 5 more\n\n-- \n", text_of(plain))
        self.assertIn("<hr>\n<p>... and 5 more</p>\n<hr>\n", text_of(page))
        (huge,) = [self.sent(message(1, "x" * 600_000), message(2, "y"))]
        self.assertIn(f"xx\n\n{RULE}\n... and 1 more\n", huge.text)

    def test_deep_json_does_not_become_huge(self) -> None:
        deep: Any = list(range(20_000))
        for _ in range(150):
            deep = [deep]
        self.assertLess(len(self.sent(message(1, deep), message(2, "x")).raw), 400_000)

    def test_the_same_name_over_the_retries_of_the_same_members(self) -> None:
        one, two, three = (message(number, number) for number in (1, 2, 3))
        names = [self.sent(*members).parsed["Message-ID"] for members in ((one, two), (two, one), (one, two, three))]
        self.assertEqual((names[0], True), (names[1], names[0] != names[2]))
        self.assertRegex(names[0], r"\A<m1-s1-[0-9a-f]{16}@example\.com>\Z")

    def test_a_failure_is_that_of_all(self) -> None:
        server = MailServer(answers={"full": "452 4.2.2 mailbox full"})
        self.addCleanup(server.close)
        delivery = self.digest(message(1, 1), message(2, 2), uri="mailto:full@example.org")
        outcome = self.deliver(self.for_server(server), delivery)[delivery.id]
        self.assertIs(RETRY, outcome.kind)
        self.assertRegex(outcome.detail, r"\Adigest of 2 <m1-s1-[0-9a-f]{16}@example.com>: the mail server answered 452")

    def test_a_request_to_confirm_is_in_none(self) -> None:
        server = self.server()
        asked = message(2, {"Message": "Do you want to?"}, kind=MessageKind.CONFIRMATION)
        for members in ((message(1, 1), asked), (asked, message(1, 1))):
            delivery = self.digest(*members)
            with self.assertLogs("tests.email", "ERROR"):
                self.assertIs(OURS, self.deliver(self.for_server(server), delivery)[delivery.id].kind)
        self.assertEqual([], server.mails)


if __name__ == "__main__":
    unittest.main()
