import dataclasses
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
import unittest
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from tests.notifiers.case import WAIT, closed_port
from tests.notifiers.endpoint import certificate
from tests.notifiers.mailserver import PASSWORD, USER, MailServer, text_of
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.feedback import Links, Tokens
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Message, MessageKind, Outcome, OutcomeKind, Priority, Scope, Subscription, delivery_id
from zaqar_notify.notifiers.email import EmailNotifier
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.sections import Section
from zaqar_notify.notifiers.sending import sound

DELIVERED, RETRY, REJECTED = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REJECTED
AUTH, OURS = OutcomeKind.AUTH, OutcomeKind.OURS
ADDRESS = "ann@example.org"
LINKS = {"unsubscribe": "https://notify.example.org/unsubscribe/abc?sig=1"}
TOKENS = Links(Tokens("key"), "", delivery_id("18bcfe56800ddd6a", "18bcfe56802e8621"))


def section(values: Mapping[str, Any], **named: Mapping[str, Any]) -> Section:
    conf = cfg.ConfigOpts()
    conf.register_opts(EmailNotifier.options, "email")
    conf([], project="tests", default_config_files=[], default_config_dirs=[])
    for name, value in values.items():
        conf.set_override(name, value, "email")
    conf.set_override("accounts", list(named), "email")
    for account, options in named.items():
        conf.register_opts(EmailNotifier.named_options, f"email_{account}")
        for name, value in options.items():
            conf.set_override(name, value, f"email_{account}")
    return Section(conf, "email", EmailNotifier)


def message(body: Any = "hello", **fields: Any) -> Message:
    made = Message("m1", "p", "demo", json.dumps(body).encode(), 300, time.time(), time.time() + 300)
    return dataclasses.replace(made, **fields)


def subscription(uri: str, options: Mapping[str, Any] | None = None) -> Subscription:
    return Subscription("s1", "p", "demo", uri, None, options or {}, time.time(), None)


class EmailCase(unittest.TestCase):
    def server(self, **options: Any) -> MailServer:
        server = MailServer(**options)
        self.addCleanup(server.close)
        return server

    def notifier(self, values: Mapping[str, Any], record_successes: bool = False, **named: Mapping[str, Any]) -> EmailNotifier:
        clients = HttpClients(Guard(), max_timeout=20.0, record_successes=record_successes)
        notifier = EmailNotifier(section(values, **named), clients, logging.getLogger("tests.email"))
        self.addCleanup(notifier.close)
        return notifier

    def account(self, server: MailServer, **values: Any) -> dict[str, Any]:
        usual = {"host": "127.0.0.1", "port": server.port, "starttls": "never", "sender": "Notify <notify@example.com>"}
        return {**usual, **values}

    def for_server(self, server: MailServer, *, record_successes: bool = False, **values: Any) -> EmailNotifier:
        return self.notifier(self.account(server, **values), record_successes)

    def deliver(self, notifier: EmailNotifier, *deliveries: Delivery) -> dict[str, Outcome]:
        reports: queue.Queue[tuple[Delivery, Outcome]] = queue.Queue()
        notifier.send_many(deliveries, lambda delivery, outcome: reports.put((delivery, outcome)))
        found = {delivery.id: outcome for delivery, outcome in (reports.get(timeout=WAIT) for _ in deliveries)}
        self.assertEqual((len(deliveries), True), (len(found), reports.empty()))
        for outcome in found.values():
            self.assertEqual(outcome, sound(outcome))
        return found

    def attempt(
        self,
        notifier: EmailNotifier,
        uri: str = f"mailto:{ADDRESS}",
        options: Mapping[str, Any] | None = None,
        *,
        of: Message | None = None,
        timeout: float = WAIT,
        links: Mapping[str, str] | None = None,
        templates: Mapping[str, Any] | None = None,
        attempt: int = 1,
    ) -> Outcome:
        delivery = Delivery(
            "m1-s1", attempt, time.monotonic() + timeout, of or message(), subscription(uri, options), links or {}
        )
        delivery.templates = templates or {}
        return self.deliver(notifier, delivery)["m1-s1"]


class MailTest(EmailCase):
    """What arrives at a real server."""

    def mail(self, uri: str = f"mailto:{ADDRESS}", options: Mapping[str, Any] | None = None, **more: Any) -> Any:
        server = self.server()
        outcome = self.attempt(self.for_server(server, **more.pop("values", {})), uri, options, **more)
        self.assertIs(DELIVERED, outcome.kind, outcome)
        (mail,) = server.mails
        return mail

    def test_headers_and_body(self) -> None:
        mail = self.mail(attempt=3)
        self.assertEqual(("notify@example.com", [ADDRESS]), (mail.sender, mail.recipients))
        parsed = mail.parsed
        expected = {
            "From": "Notify <notify@example.com>",
            "To": ADDRESS,
            "Subject": "Notification: demo",
            "Message-ID": "<m1-s1@example.com>",
            "Auto-Submitted": "auto-generated",
            "zaqar-notify-queue": "demo",
            "zaqar-notify-subscription-id": "s1",
            "zaqar-notify-attempt": "3",
            "MIME-Version": "1.0",
        }
        self.assertEqual(expected, {name: parsed[name] for name in expected})
        self.assertLess(abs(parsed["Date"].datetime.timestamp() - time.time()), 60)
        self.assertTrue(parsed["Date"].endswith(" +0000"), "RFC 5322, 4.3: names of zones must not be written")
        self.assertIsNone(parsed["List-Unsubscribe"])
        self.assertEqual("hello\n\n-- \nQueue demo, message m1\n", text_of(parsed))

    def test_what_is_no_text_is_shown_as_json(self) -> None:
        text = self.mail(of=message({"order": 7, "to": ["Grün", "中"]})).text
        self.assertTrue(text.startswith('{\n  "order": 7,\n  "to": [\n    "Grün",\n    "中"\n  ]\n}\n'), text)

    def test_title_text_and_a_page(self) -> None:
        body = {"title": "Your order", "text": "It is on its way.", "data": {"order": 7}}
        parsed = self.mail(of=message(body)).parsed
        self.assertEqual("Your order", parsed["Subject"])
        self.assertTrue(text_of(parsed).startswith("It is on its way.\n\n-- \n"))
        own = {"subject": "Grüße", "text": "For mail", "html": "<p>Gr\u00fc\u00dfe & <b>more</b>\r</p>\n.\n" + "<i>x</i>" * 200}
        parsed = self.mail(of=message({**body, "email": own})).parsed
        self.assertEqual(("Grüße", "multipart/alternative"), (parsed["Subject"], parsed.get_content_type()))
        plain, page = parsed.iter_parts()
        self.assertEqual(("text/plain", "text/html"), (plain.get_content_type(), page.get_content_type()))
        self.assertTrue(text_of(plain).startswith("For mail\n\n-- \n"))
        self.assertEqual(own["html"].replace("\r", "\n"), text_of(page))
        self.assertEqual("mine", self.mail(f"mailto:{ADDRESS}?subject=mine", of=message(body)).parsed["Subject"])
        odd = {"title": "a\r\nBcc: x@y.zz", "text": 5, "email": {"subject": 5, "html": []}}
        mail = self.mail(of=message(odd))
        self.assertEqual("a Bcc: x@y.zz", mail.parsed["Subject"])
        self.assertIsNone(mail.parsed["Bcc"])

    def test_any_text_arrives_as_it_was(self) -> None:
        for text in ("From me\n.\n..\nend", "x" * 5000, "a\0b\x1b[31m", "Grüße 😀\n" * 100, "a\rb\r\nc"):
            with self.subTest(text[:10]):
                mail = self.mail(of=message(text))
                unix = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
                self.assertEqual(unix, mail.text.removesuffix("\n\n-- \nQueue demo, message m1\n"))
                self.assertNotIn(b"\n", mail.raw.replace(b"\r\n", b""))
                self.assertNotIn(b"\r", mail.raw.replace(b"\r\n", b""))
                self.assertLess(max(map(len, mail.raw.split(b"\r\n"))), 998)

    def test_subjects(self) -> None:
        cases = [
            ("?subject=Orders%20%2B%20more+", {}, "Orders + more+"),
            ("?subject=Gr%C3%BC%C3%9Fe", {}, "Grüße"),
            ("", {"subject": "Grüße " * 20}, ("Grüße " * 20).strip()),
            ("?SUBJECT=mine", {"subject": "theirs"}, "mine"),
            ("", {"subject": "=?utf-8?q?a=0D=0ABcc:_x?="}, "=?utf-8?q?a=0D=0ABcc:_x?="),
        ]
        for query, options, subject in cases:
            with self.subTest(query):
                self.assertEqual(subject, self.mail(f"mailto:{ADDRESS}{query}", options).parsed["Subject"])

    def test_unsubscribing_in_one_click(self) -> None:
        parsed = self.mail(links=LINKS).parsed
        self.assertEqual(f"<{LINKS['unsubscribe']}>", parsed["List-Unsubscribe"])
        self.assertEqual("List-Unsubscribe=One-Click", parsed["List-Unsubscribe-Post"])
        self.assertIn(f"Unsubscribe: {LINKS['unsubscribe']}\n", text_of(parsed))

    def test_one_click_is_for_https_only(self) -> None:
        parsed = self.mail(links={"unsubscribe": "http://notify.example.org/u"}).parsed
        self.assertEqual("<http://notify.example.org/u>", parsed["List-Unsubscribe"])
        self.assertIsNone(parsed["List-Unsubscribe-Post"])

    def test_tests_and_requests_to_confirm(self) -> None:
        parsed = self.mail(of=message({"test": True}, kind=MessageKind.TEST)).parsed
        self.assertEqual(("Test: demo", "true"), (parsed["Subject"], parsed["zaqar-notify-test"]))
        asked = message({"Message": "Do you want to?", "URL-Signature": "abc"}, kind=MessageKind.CONFIRMATION)
        text = self.mail(of=asked).text
        self.assertTrue(text.startswith("Do you want to?\n\n{"), text)
        self.assertIn('"URL-Signature": "abc"', text)
        links = {"confirm": "https://notify.example.org/c", "unsubscribe": "https://notify.example.org/u"}
        parsed = self.mail(of=asked, links=links, templates={"*": {"text": "x", "subject": "x"}}).parsed
        self.assertEqual("Do you want to?\n\nhttps://notify.example.org/c\n", text_of(parsed))
        self.assertEqual("Please confirm: notifications of demo", parsed["Subject"])
        self.assertIsNone(parsed["List-Unsubscribe"])

    def test_hints(self) -> None:
        for priority, shown in (
            (Priority.HIGH, "high"),
            (Priority.NORMAL, "normal"),
            (Priority.LOW, "low"),
            (Priority.VERY_LOW, "low"),
            (None, None),
        ):
            self.assertEqual(shown, self.mail(of=message(priority=priority)).parsed["Importance"])
        self.assertEqual("de-AT", self.mail(of=message(language="de-AT")).parsed["Content-Language"])
        for odd in (None, "no tag", "x\r\nBcc: a@b.cc"):
            self.assertIsNone(self.mail(of=message(language=odd)).parsed["Content-Language"])

    def test_templates(self) -> None:
        body = {"title": "T", "text": "t", "name": "<Ann>", "email": {"subject": "own", "html": "<p>own</p>"}}
        templates: dict[str, Any] = {
            "subject": "Für {{ body.name }}\n",
            "text": "Hallo {{ body.name }}\n\n{{ links.unsubscribe }}",
        }
        mail = self.mail(of=message(body), links=LINKS, templates={"email": templates})
        self.assertEqual("Für <Ann>", mail.parsed["Subject"])
        self.assertEqual(f"Hallo <Ann>\n\n{LINKS['unsubscribe']}\n", mail.text)
        self.assertFalse(mail.parsed.is_multipart())
        self.assertEqual(f"<{LINKS['unsubscribe']}>", mail.parsed["List-Unsubscribe"])
        templates = {"html": "<p>Hallo {{ body.name }}</p>", "text": {"en": "Hello", "default": "Hallo"}}
        parsed = self.mail(of=message(body, language="en-GB"), templates={"email": templates}).parsed
        self.assertEqual("own", parsed["Subject"])
        plain, page = parsed.iter_parts()
        self.assertEqual(("Hello\n", "<p>Hallo &lt;Ann&gt;</p>"), (text_of(plain), text_of(page).strip()))

    def test_templates_of_some_parts(self) -> None:
        body = {"text": "t", "name": "Ann", "email": {"subject": "own", "html": "<p>own</p>"}}
        parsed = self.mail(of=message(body), templates={"*": {"title": "For {{ body.name }}"}}).parsed
        plain, page = parsed.iter_parts()
        self.assertEqual(("For Ann", "<p>own</p>"), (parsed["Subject"], text_of(page).strip()))
        self.assertTrue(text_of(plain).startswith("t\n\n-- \nQueue demo"), plain)
        of_subscriber = self.mail(f"mailto:{ADDRESS}?subject=Mine", of=message(body), templates={"*": {"title": "x"}})
        self.assertEqual("Mine", of_subscriber.parsed["Subject"])

    def test_a_template_that_fails(self) -> None:
        server = self.server()
        outcome = self.attempt(self.for_server(server), templates={"email": {"html": "{{ body == [] }}"}})
        self.assertEqual((REJECTED, False, []), (outcome.kind, outcome.target, server.mails))
        self.assertIn("html of email", outcome.detail)

    def test_who_it_is_from(self) -> None:
        values = {"sender": "Grüne Meldungen <notify@bücher.example>", "allowed_from": ["@shop.example", "boss@example.com"]}
        mail = self.mail(values=values)
        self.assertEqual("notify@xn--bcher-kva.example", mail.sender)
        self.assertEqual("Grüne Meldungen <notify@xn--bcher-kva.example>", mail.parsed["From"])
        mail = self.mail(options={"from": 'The "Shop" <sales@shop.example>'}, values=values)
        self.assertEqual("notify@xn--bcher-kva.example", mail.sender)
        self.assertEqual("sales@shop.example", mail.parsed["From"].addresses[0].addr_spec)
        self.assertEqual('The "Shop"', mail.parsed["From"].addresses[0].display_name)
        # What was allowed when it was subscribed, and is not any more.
        self.assertEqual(
            "notify@example.com", self.mail(options={"from": "x@other.example"}).parsed["From"].addresses[0].addr_spec
        )

    def test_addresses_in_other_letters(self) -> None:
        mail = self.mail("mailto:ann@b%C3%BCcher.example")
        self.assertEqual((["ann@xn--bcher-kva.example"], "ann@xn--bcher-kva.example"), (mail.recipients, mail.parsed["To"]))
        self.assertNotIn("SMTPUTF8", mail.mail_options)
        mail = self.mail("mailto:gr%C3%BCn@example.org")
        self.assertEqual((["grün@example.org"], "grün@example.org"), (mail.recipients, mail.parsed["To"]))
        self.assertIn("SMTPUTF8", mail.mail_options)

    def test_plus_and_escapes_in_an_address(self) -> None:
        self.assertEqual(["ann+list#1@example.org"], self.mail("mailto:ann+list%231@Example.ORG").recipients)

    def test_a_status_notification_is_asked_for(self) -> None:
        mail = self.mail()
        self.assertLessEqual({"RET=HDRS", "ENVID=m1-s1"}, set(mail.mail_options))
        self.assertIn(f"ENVID={TOKENS['envelope']}", self.mail(links=TOKENS).mail_options)
        self.assertEqual(["NOTIFY=FAILURE"], mail.rcpt_options)
        self.assertEqual(["NOTIFY=SUCCESS,FAILURE"], self.mail(values={"dsn": "all"}).rcpt_options)
        mail = self.mail(values={"dsn": "none"})
        self.assertEqual([], mail.rcpt_options)
        self.assertNotIn("RET=HDRS", mail.mail_options)


class BounceTest(EmailCase):
    """``bounce_to``: where what could not be delivered comes back to."""

    BOUNCES = {"bounce_to": "bounces@Notify.example.org"}

    def attempt_with(self, links: Mapping[str, str], values: Mapping[str, Any] = BOUNCES, **server: Any) -> tuple[Any, Outcome]:
        made = self.server(**server)
        outcome = self.attempt(self.for_server(made, record_successes=True, **values), links=links)
        return (made.mails[0] if made.mails else None), outcome

    def test_the_envelopes_sender_names_the_delivery(self) -> None:
        mail, outcome = self.attempt_with(TOKENS)
        self.assertEqual(f"bounces+{TOKENS['envelope']}@notify.example.org", mail.sender)
        self.assertEqual("Notify <notify@example.com>", mail.parsed["From"])
        self.assertLessEqual(len(mail.sender.partition("@")[0]), 64)
        assert outcome.exchange is not None
        self.assertEqual("bounces@notify.example.org", outcome.exchange.request["sender"])
        self.assertNotIn(TOKENS["envelope"], str(outcome))

    def test_without_a_token_it_is_the_mailbox_itself(self) -> None:
        self.assertEqual("bounces@notify.example.org", self.attempt_with({})[0].sender)

    def test_without_the_option_it_is_the_sender(self) -> None:
        self.assertEqual("notify@example.com", self.attempt_with(TOKENS, {})[0].sender)

    def test_a_server_that_repeats_it_does_not_bring_the_token_into_the_log(self) -> None:
        sender = f"bounces+{TOKENS['envelope']}@notify.example.org"
        _, outcome = self.attempt_with(TOKENS, to_sender=f"550 5.7.1 <{sender.upper()}>: not from here")
        self.assertIn("5.7.1 <...>: not from here", outcome.detail)
        self.assertNotIn(TOKENS["envelope"], str(outcome).lower())

    def test_unsubscribing_by_mail(self) -> None:
        by_mail = f"<mailto:bounces+{TOKENS['unsubscribe_by_mail']}@notify.example.org?subject=unsubscribe>"
        parsed = self.attempt_with(TOKENS)[0].parsed
        self.assertEqual((by_mail, None), (parsed["List-Unsubscribe"], parsed["List-Unsubscribe-Post"]))
        parsed = self.attempt_with({**TOKENS, **LINKS})[0].parsed
        self.assertEqual(f"<{LINKS['unsubscribe']}>, {by_mail}", parsed["List-Unsubscribe"])
        self.assertEqual("List-Unsubscribe=One-Click", parsed["List-Unsubscribe-Post"])
        self.assertIsNone(self.attempt_with(TOKENS, {})[0].parsed["List-Unsubscribe"])
        odd = self.attempt_with(TOKENS, {"bounce_to": "a&b%@notify.example.org"})[0].parsed["List-Unsubscribe"]
        self.assertTrue(odd.startswith("<mailto:a%26b%25+u"), odd)

    def test_an_address_that_leaves_no_room_stops_the_start(self) -> None:
        server = self.server()
        self.for_server(server, bounce_to="eighteen.letters.x@example.org")
        for address in ("nineteen.letters.xy@example.org", "a+b@example.org", "grün@example.org", "nobody", "a@b"):
            with self.subTest(address), self.assertRaisesRegex(CannotStart, r"^\[email\] bounce_to"):
                self.for_server(server, bounce_to=address)


class InjectionTest(EmailCase):
    """Whatever a client or a message says, there is one mail, with the headers that we chose."""

    HOSTILE = (
        "\r\nBcc: evil@example.org",
        "\nX-Evil: 1",
        "\r\n\r\nbody",
        "\r\n.\r\nMAIL FROM:<x@y.z>",
        "\u2028X-Evil: 1",
        "\x00",
    )
    HEADERS = (
        *("auto-submitted", "content-type", "date", "from", "message-id", "mime-version", "subject", "to"),
        *("zaqar-notify-attempt", "zaqar-notify-queue", "zaqar-notify-subscription-id"),
    )

    def test_check_refuses(self) -> None:
        notifier = self.for_server(self.server(), allowed_from=["*"])
        for hostile in self.HOSTILE:
            escaped = "".join(f"%{byte:02X}" for byte in hostile.encode())
            for uri, options in (
                (f"mailto:ann{escaped}@example.org", {}),
                (f"mailto:ann@example.org{escaped}", {}),
                (f"mailto:ann@example.org?subject=x{escaped}", {}),
                (f"mailto:ann@example.org?account=x{escaped}", {}),
                ("mailto:ann@example.org", {"subject": f"x{hostile}y"}),
                ("mailto:ann@example.org", {"from": f"X{hostile} <a@example.org>"}),
                ("mailto:ann@example.org", {"from": f"a@example.org{hostile}"}),
            ):
                with self.subTest((uri, options)), self.assertRaises(InvalidRequest):
                    notifier.check(subscription(uri, options))

    def test_what_was_stored_without_a_check_does_no_harm(self) -> None:
        server = self.server()
        notifier = self.for_server(server, allowed_from=["*"])
        for hostile in self.HOSTILE:
            for options, more in (
                ({"subject": f"x{hostile}y"}, {}),
                ({}, {"of": message(f"x{hostile}y")}),
                ({}, {"of": message("x", foreign_id=f"x{hostile}y")}),
            ):
                with self.subTest((options, more)):
                    server.mails.clear()
                    self.assertIs(DELIVERED, self.attempt(notifier, options=options, **more).kind)
                    (mail,) = server.mails
                    self.assertEqual([ADDRESS], mail.recipients)
                    names = sorted(name.lower() for name in mail.parsed if name.lower() != "content-transfer-encoding")
                    self.assertEqual(self.HEADERS, tuple(names))
        server.mails.clear()
        with self.assertLogs("tests.email", logging.ERROR):
            for options in ({"from": "a@example.org\r\nBcc: x@y.zz"}, {"subject": 5}):
                self.assertIs(OURS, self.attempt(notifier, options=options).kind)
            self.assertIs(OURS, self.attempt(notifier, links={"unsubscribe": "https://x/\r\nBcc: x@y.zz"}).kind)
        self.assertEqual([], server.mails)

    def test_a_subscriber_that_is_no_address_does_not_stop_its_batch(self) -> None:
        server = self.server()
        bad = Delivery("bad", 1, time.monotonic() + WAIT, message(), subscription("mailto:ann%0D%0A@example.org"))
        good = Delivery("good", 1, time.monotonic() + WAIT, message(), subscription("mailto:ann@example.org"))
        outcomes = self.deliver(self.for_server(server), good, bad)
        self.assertEqual((REJECTED, True, DELIVERED), (outcomes["bad"].kind, outcomes["bad"].target, outcomes["good"].kind))
        self.assertEqual(1, len(server.mails))


class AnswerTest(EmailCase):
    """Each row of the table of answers, over a real socket."""

    def expect(self, kind: OutcomeKind, rcpt: str | None = None, *, to: str = "someone", **fields: Any) -> Outcome:
        timeout, server = fields.pop("timeout", WAIT), fields.pop("server", None) or {}
        if rcpt is not None:
            server = {"answers": {to: rcpt}}
        outcome = self.attempt(self.for_server(self.server(**server)), f"mailto:{to}@example.org", timeout=timeout)
        self.assertIs(kind, outcome.kind, outcome)
        for name, value in {"target": False, "after": None, **fields}.items():
            self.assertEqual(value, getattr(outcome, name), (name, outcome))
        self.assertNotIn(f"{to}@example.org", outcome.detail)
        return outcome

    def test_taken(self) -> None:
        outcome = self.expect(DELIVERED, status=250, provider_id="4XyZ01")
        self.assertEqual("accepted by the mail server: 2.0.0 Ok: queued as 4XyZ01", outcome.detail)
        self.expect(DELIVERED, server={"taken": "250 OK id=1tABcd-000123-Ab"}, provider_id="1tABcd-000123-Ab")
        self.expect(DELIVERED, server={"taken": "250 thanks"}, provider_id=None)

    def test_the_recipient_may_be_taken_later(self) -> None:
        outcome = self.expect(RETRY, "450 4.2.1 mailbox {address} is busy", status=450, scope=Scope.SUBSCRIPTION)
        self.assertEqual("the mail server answered 450 4.2.1 mailbox ... is busy (recipient)", outcome.detail)
        self.expect(RETRY, "451 4.7.1 greylisted", status=451, scope=Scope.SUBSCRIPTION)
        self.expect(RETRY, "421 4.3.2 shutting down", status=421, scope=Scope.LANE)

    def test_too_many_recipients(self) -> None:
        self.expect(RETRY, "452 4.5.3 too many recipients", status=452, scope=Scope.SUBSCRIPTION)
        self.expect(RETRY, "552 too many recipients", status=552, scope=Scope.SUBSCRIPTION)

    def test_there_is_no_such_recipient(self) -> None:
        for answer in (
            "550 5.1.1 {address}: no such user",
            "550 5.1.2 no such host",
            "550 5.1.10 null MX",
            "550 5.2.1 disabled",
            "550 unknown user {address}",
            "551 moved",
            "553 mailbox name not allowed",
        ):
            self.expect(REJECTED, answer, status=int(answer[:3]), target=True)

    def test_the_recipient_is_refused_for_another_reason(self) -> None:
        for answer in ("550 5.7.1 blocked", "554 5.7.1 spam", "554 no", "550 5.2.2 mailbox full", "550 5.4.1 no route"):
            self.expect(REJECTED, answer, status=int(answer[:3]))

    def test_the_message(self) -> None:
        self.expect(RETRY, server={"taken": "451 4.3.0 try later"}, status=451, scope=Scope.SUBSCRIPTION)
        self.expect(REJECTED, server={"taken": "554 5.7.1 spam"}, status=554)
        self.expect(REJECTED, server={"taken": "552 5.3.4 too big"}, status=552)
        self.expect(REJECTED, server={"taken": "550 5.1.1 no such user after all"}, status=550, target=True)
        outcome = self.expect(REJECTED, server={"size": 100}, status=552)
        self.assertIn("5.3.4", outcome.detail)

    def test_the_sender_is_refused(self) -> None:
        for answer in ("550 5.7.1 not your address", "553 5.1.8 no such domain", "530 5.7.0 log in first"):
            outcome = self.expect(AUTH, server={"to_sender": answer}, status=int(answer[:3]), scope=Scope.CREDENTIAL)
            self.assertEqual("email account default", outcome.credential)
        self.expect(AUTH, "550 5.1.8 {address}: sender not known", status=550)
        self.expect(RETRY, server={"to_sender": "451 4.3.2 busy"}, status=451, scope=Scope.LANE)
        self.expect(REJECTED, server={"to_sender": "552 5.3.4 too big"}, status=552)

    def test_the_connection_breaks(self) -> None:
        for to in ("drop-rcpt", "drop-data"):
            self.expect(RETRY, to=to, status=None, scope=Scope.LANE)

    def test_no_answer_in_time(self) -> None:
        for to in ("hang", "drip"):
            started = time.monotonic()
            outcome = self.expect(RETRY, to=to, timeout=0.5, status=None, scope=Scope.LANE)
            self.assertIn("no answer in time", outcome.detail)
            self.assertLess(time.monotonic() - started, 10)

    def test_nobody_listens(self) -> None:
        values = {"host": "127.0.0.1", "port": closed_port(), "starttls": "never", "sender": "a@example.com"}
        outcome = self.attempt(self.notifier(values))
        self.assertEqual((RETRY, Scope.LANE, None), (outcome.kind, outcome.scope, outcome.status))
        self.assertIn("refused", outcome.detail)
        outcome = self.attempt(self.notifier({**values, "host": "mail.invalid"}))
        self.assertEqual((OURS, None), (outcome.kind, outcome.status))

    def test_what_is_no_smtp_server(self) -> None:
        for greeting in (b"554 5.3.2 go away\r\n", b"421 4.3.2 not now\r\n", b"SSH-2.0-x\r\n", b""):
            with self.subTest(greeting), Greeter(greeting) as port:
                values = {"host": "127.0.0.1", "port": port, "starttls": "never", "sender": "a@example.com"}
                outcome = self.attempt(self.notifier(values))
                self.assertIs(AUTH if greeting.startswith(b"554") else RETRY, outcome.kind, outcome)

    def test_an_address_that_needs_utf8(self) -> None:
        server = self.server(smtputf8=False)
        outcome = self.attempt(self.for_server(server), "mailto:gr%C3%BCn@example.org")
        self.assertEqual((REJECTED, True), (outcome.kind, outcome.target))
        self.assertIn("SMTPUTF8", outcome.detail)

    def test_a_dry_run(self) -> None:
        server = self.server()
        outcome = self.attempt(self.for_server(server, dry_run=True))
        self.assertEqual((DELIVERED, "dry run: not sent", 0), (outcome.kind, outcome.detail, server.connections))


class Greeter:
    """Says one thing to who connects, and hangs up."""

    def __init__(self, greeting: bytes) -> None:
        import socket

        self._greeting = greeting
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.sendall(self._greeting)


class TlsTest(EmailCase):
    """A throw-away certificate authority, and real TLS."""

    def test_starttls(self) -> None:
        server = self.server(tls=certificate().context())
        outcome = self.attempt(self.for_server(server, starttls="always", ca_file=certificate().file))
        self.assertEqual((DELIVERED, True), (outcome.kind, server.mails[0].secured), outcome)
        outcome = self.attempt(self.for_server(server, starttls="if-offered", ca_file=certificate().file))
        self.assertEqual((DELIVERED, True), (outcome.kind, server.mails[1].secured), outcome)
        self.assertIs(DELIVERED, self.attempt(self.for_server(server, starttls="never")).kind)
        self.assertFalse(server.mails[2].secured)

    def test_tls_from_the_first_byte(self) -> None:
        server = self.server(tls=certificate().context(), implicit_tls=True)
        notifier = self.for_server(server, tls=True, ca_file=certificate().file)
        for number in range(2):
            self.assertIs(DELIVERED, self.attempt(notifier).kind)
            self.assertTrue(server.mails[number].secured)
        self.assertEqual(1, server.connections)

    def test_a_certificate_that_is_not_trusted_or_of_another_host(self) -> None:
        server = self.server(tls=certificate().context())
        for values in ({}, {"ca_file": certificate().file, "host": "localhost"}):
            outcome = self.attempt(self.for_server(server, starttls="if-offered", **values))
            self.assertEqual((RETRY, Scope.LANE, None), (outcome.kind, outcome.scope, outcome.status), outcome)
            self.assertIn("certificate verify failed", outcome.detail)
        self.assertEqual([], server.mails)

    def test_starttls_is_not_offered(self) -> None:
        server = self.server()
        outcome = self.attempt(self.for_server(server, starttls="always"))
        self.assertIs(RETRY, outcome.kind)
        self.assertIn("does not offer STARTTLS", outcome.detail)
        self.assertIs(DELIVERED, self.attempt(self.for_server(server, starttls="if-offered")).kind)
        self.assertFalse(server.mails[0].secured)

    def test_no_password_without_tls(self) -> None:
        server = self.server(auth=True)
        login = {"username": USER, "password": PASSWORD}
        self.assertIs(RETRY, self.attempt(self.for_server(server, starttls="if-offered", **login)).kind)
        self.assertEqual([], server.logins)
        self.assertIs(DELIVERED, self.attempt(self.for_server(server, starttls="never", **login)).kind)

    def test_slow_tls(self) -> None:
        """The server never answers the client's first flight."""
        import socket

        with socket.create_server(("127.0.0.1", 0)) as listener:
            values = {"host": "127.0.0.1", "port": listener.getsockname()[1], "tls": True, "sender": "a@example.com"}
            outcome = self.attempt(self.notifier(values), timeout=0.3)
        self.assertEqual((RETRY, Scope.LANE), (outcome.kind, outcome.scope))


class LoginTest(EmailCase):
    def test_login(self) -> None:
        server = self.server(tls=certificate().context(), auth=True)
        notifier = self.for_server(
            server, starttls="always", ca_file=certificate().file, username=USER, password=PASSWORD, helo="notify.test"
        )
        self.assertIs(DELIVERED, self.attempt(notifier).kind)
        self.assertEqual((USER, True), (server.mails[0].user, server.mails[0].secured))
        self.assertEqual({"notify.test"}, set(server.ehlos))

    def test_a_wrong_password(self) -> None:
        server = self.server(auth=True)
        notifier = self.for_server(server, username=USER, password="wr0ng-password")
        outcome = self.attempt(notifier)
        self.assertEqual((AUTH, 535, "email account default"), (outcome.kind, outcome.status, outcome.credential))
        self.assertNotIn("wr0ng-password", f"{outcome}{notifier._accounts}")

    def test_login_is_needed(self) -> None:
        outcome = self.attempt(self.for_server(self.server(auth=True)))
        self.assertEqual((AUTH, 530), (outcome.kind, outcome.status))

    def test_login_is_not_offered(self) -> None:
        outcome = self.attempt(self.for_server(self.server(), username=USER, password=PASSWORD))
        self.assertIs(AUTH, outcome.kind, outcome)

    def test_by_what_name_we_go(self) -> None:
        server = self.server()
        self.attempt(self.for_server(server))
        self.assertEqual(["[127.0.0.1]"], server.ehlos)


class ConnectionTest(EmailCase):
    def test_one_connection_for_many(self) -> None:
        server = self.server(answers={"nobody": "550 5.1.1 no", "later": "450 4.2.1 no"})
        notifier = self.for_server(server, connections=1)
        names = ["a", "nobody", "b", "later", "c", "nobody", "d"]
        deliveries = [
            Delivery(f"m{n}-s1", 1, time.monotonic() + WAIT, message(), subscription(f"mailto:{name}@example.org"))
            for n, name in enumerate(names)
        ]
        outcomes = self.deliver(notifier, *deliveries)
        usual = {"nobody": REJECTED, "later": RETRY}
        self.assertEqual(
            [usual.get(name, DELIVERED) for name in names], [outcomes[delivery.id].kind for delivery in deliveries]
        )
        self.assertEqual((1, ["a", "b", "c", "d"]), (server.connections, [m.recipients[0][0] for m in server.mails]))

    def test_at_most_so_many(self) -> None:
        server = self.server()
        notifier = self.for_server(server, connections=3)
        deliveries = [
            Delivery(f"m{n}-s1", 1, time.monotonic() + WAIT, message(), subscription(f"mailto:{ADDRESS}")) for n in range(60)
        ]
        self.assertEqual({DELIVERED}, {outcome.kind for outcome in self.deliver(notifier, *deliveries).values()})
        self.assertLessEqual(server.connections, 3)
        self.assertEqual(60, len(server.mails))

    def test_a_hanging_one_does_not_hold_up_the_others(self) -> None:
        server = self.server()
        notifier = self.for_server(server, connections=2)
        deadline = time.monotonic() + 2
        hanging = Delivery("h", 1, deadline, message(), subscription("mailto:hang@example.org"))
        others = [
            Delivery(f"m{n}", 1, time.monotonic() + WAIT, message(), subscription(f"mailto:{ADDRESS}")) for n in range(20)
        ]
        outcomes = self.deliver(notifier, hanging, *others)
        self.assertEqual([RETRY, *[DELIVERED] * 20], [outcomes[one.id].kind for one in (hanging, *others)])

    def test_what_waits_too_long_is_our_fault(self) -> None:
        notifier = self.for_server(self.server(), connections=1)
        hanging = Delivery("h", 1, time.monotonic() + 0.5, message(), subscription("mailto:hang@example.org"))
        waiting = Delivery("w", 1, time.monotonic() + 0.2, message(), subscription(f"mailto:{ADDRESS}"))
        outcomes = self.deliver(notifier, hanging, waiting)
        self.assertEqual((RETRY, OURS), (outcomes["h"].kind, outcomes["w"].kind))
        self.assertIn("busy", outcomes["w"].detail)

    def test_a_connection_that_the_server_has_ended(self) -> None:
        server = self.server()
        notifier = self.for_server(server, connections=1)
        for _ in range(3):
            self.assertIs(DELIVERED, self.attempt(notifier).kind)
            server.drop_all()
        self.assertEqual((3, 3), (server.connections, len(server.mails)))

    def test_a_server_that_takes_only_so_many_on_one_connection(self) -> None:
        server = self.server(mails_per_connection=2)
        notifier = self.for_server(server, connections=1)
        for _ in range(5):
            self.assertIs(DELIVERED, self.attempt(notifier).kind)
        self.assertEqual((3, 5), (server.connections, len(server.mails)))

    def test_after_a_failure_it_goes_on(self) -> None:
        server = self.server(answers={"end": "421 4.3.2 bye"})
        notifier = self.for_server(server, connections=1)
        for to, kind in (("a", DELIVERED), ("end", RETRY), ("b", DELIVERED), ("drop-data", RETRY), ("c", DELIVERED)):
            self.assertIs(kind, self.attempt(notifier, f"mailto:{to}@example.org").kind, to)

    def test_idle_connections_end(self) -> None:
        server = self.server()
        notifier = self.for_server(server, idle=0.1)
        self.attempt(notifier)
        (pool,) = notifier._pools.values()
        end = time.monotonic() + WAIT
        while pool._threads and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(set(), pool._threads)
        self.assertIs(DELIVERED, self.attempt(notifier).kind)
        self.assertEqual(2, server.connections)

    def test_closing(self) -> None:
        server = self.server()
        notifier = self.for_server(server, connections=1)
        reports: queue.Queue[Outcome] = queue.Queue()
        hanging = [
            Delivery(str(n), 1, time.monotonic() + 0.5, message(), subscription("mailto:hang@example.org")) for n in range(3)
        ]
        notifier.send_many(hanging, lambda _, outcome: reports.put(outcome))
        notifier.close()
        self.assertEqual(3, len([reports.get(timeout=WAIT) for _ in hanging]))
        self.assertIs(OURS, self.attempt(notifier).kind)


class AccountTest(EmailCase):
    def test_several(self) -> None:
        main, shop = self.server(), self.server()
        notifier = self.notifier(self.account(main), shop=self.account(shop, sender="shop@example.com"))
        self.attempt(notifier)
        self.attempt(notifier, f"mailto:{ADDRESS}?account=shop")
        self.attempt(notifier, options={"account": "shop"})
        self.assertEqual((1, 2), (len(main.mails), len(shop.mails)))
        self.assertEqual("shop@example.com", shop.mails[0].sender)
        lanes = [notifier.lane(subscription(f"mailto:{ADDRESS}{query}")) for query in ("", "?account=shop")]
        self.assertEqual([f"mailto:default@127.0.0.1:{main.port}", f"mailto:shop@127.0.0.1:{shop.port}"], lanes)

    def test_the_first_where_the_section_itself_is_none(self) -> None:
        shop = self.server()
        notifier = self.notifier({}, shop=self.account(shop, timeout=3.0))
        self.assertIs(DELIVERED, self.attempt(notifier).kind)
        self.assertEqual(3.0, notifier.timeout(subscription(f"mailto:{ADDRESS}")))

    def test_one_that_is_not_there_any_more(self) -> None:
        notifier = self.for_server(self.server())
        outcome = self.attempt(notifier, options={"account": "shop"})
        self.assertIs(OURS, outcome.kind)
        self.assertEqual("mailto:", notifier.lane(subscription(f"mailto:{ADDRESS}?account=shop")))

    def test_what_stops_the_start(self) -> None:
        good = {"host": "mail.example.com", "sender": "a@example.com"}
        self.notifier(good)
        for values, words in (
            ({"sender": None}, "email. sender is not set"),
            ({"sender": "nobody"}, "email. sender: it needs"),
            ({"sender": "grün@example.com"}, "ASCII"),
            ({"username": "x"}, "password"),
            ({"username": "x", "password": "größe"}, "ASCII"),
        ):
            with self.subTest(values), self.assertRaisesRegex(CannotStart, words):
                self.notifier({**good, **values})
        with self.assertRaisesRegex(CannotStart, "email_shop. host is not set"):
            self.notifier(good, shop={"sender": "a@example.com"})

    def test_a_file_of_certificates_that_is_none(self) -> None:
        with self.assertRaisesRegex(CannotStart, "/nowhere.pem"):
            self.for_server(self.server(), starttls="always", ca_file="/nowhere.pem")


class CheckTest(EmailCase):
    def setUp(self) -> None:
        values = {"host": "mail.example.com", "sender": "a@example.com", "allowed_from": ["@shop.example"]}
        self.checked = self.notifier(values, other=values)

    def test_good_ones(self) -> None:
        for uri in (
            "mailto:ann@example.org",
            "MAILTO:ann@example.org",
            "mailto:a.b+c=d@sub.example.org?subject=Hi&account=other",
            "mailto:gr%C3%BCn@b%C3%BCcher.example",
            "mailto:ann@bücher.example",
            f"mailto:{'a' * 64}@example.org",
        ):
            self.checked.check(subscription(uri))
        self.checked.check(subscription("mailto:ann@example.org", {"subject": "Hi", "from": "X <b@shop.example>", "other": 1}))
        self.checked.check(subscription("mailto:ann@example.org", {"from": "a@example.com"}))

    def test_bad_ones(self) -> None:
        for uri, words in (
            ("mailto:", "@"),
            ("mailto:ann", "@"),
            ("mailto:@example.org", "@"),
            ("mailto:ann@", "@"),
            ("mailto:ann@localhost", "domain"),
            ("mailto:ann@10.0.0.1", "domain"),
            ("mailto:ann@[10.0.0.1]", "domain"),
            ("mailto:ann@-x.org", "domain"),
            ("mailto:ann@x..org", "domain"),
            ("mailto:ann@%E2%98%83%00.example", "spaces"),
            ("mailto:ann@xn--zz--.b%C3%BC..example", "domain"),
            ("mailto:a b@example.org", "spaces"),
            ("mailto:%22a b%22@example.org", "spaces"),
            ("mailto:a..b@example.org", "spaces"),
            ("mailto:<ann@example.org>", "spaces"),
            (f"mailto:{'a' * 65}@example.org", "64"),
            ("mailto:ann@example.org,bob@example.org", "one address"),
            ("mailto:ann@example.org%2Cbob@example.org", "one address"),
            ("mailto:ann%ZZ@example.org", "percent"),
            ("mailto:ann%FF@example.org", "UTF-8"),
            ("mailto:ann@example.org#x", "%23"),
            ("mailto:ann@example.org?cc=bob@example.org", "subject and account"),
            ("mailto:ann@example.org?bcc=bob@example.org", "subject and account"),
            ("mailto:ann@example.org?subject=a&subject=b", "once"),
            ("mailto:ann@example.org?subject=", "line of text"),
            ("mailto:ann@example.org?subject=" + "x" * 201, "200"),
            ("mailto:ann@example.org?account=nowhere", "no account 'nowhere'"),
        ):
            with self.subTest(uri), self.assertRaisesRegex(InvalidRequest, words):
                self.checked.check(subscription(uri))

    def test_bad_options(self) -> None:
        for options, words in (
            ({"subject": 5}, "options.subject"),
            ({"subject": ""}, "options.subject"),
            ({"from": 5}, "options.from"),
            ({"from": "nobody"}, "options.from"),
            ({"from": "x@elsewhere.example"}, "may send from"),
            ({"from": "x@sub.shop.example"}, "may send from"),
            ({"from": "grün@shop.example"}, "ASCII"),
            ({"account": 5}, "options.account"),
            ({"account": "nowhere"}, "no account"),
        ):
            with self.subTest(options), self.assertRaisesRegex(InvalidRequest, words):
                self.checked.check(subscription("mailto:ann@example.org", options))

    def test_no_server(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "host is not set"):
            self.notifier({}).check(subscription("mailto:ann@example.org"))

    def test_an_api_process_loads_nothing_heavy(self) -> None:
        program = (
            "import sys, zaqar_notify.notifiers.email as e; e.mail.parse('mailto:ann@example.org');"
            "sys.exit(any(name in sys.modules for name in ('smtplib', 'pycurl', 'requests')))"
        )
        subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONWARNINGS": "error"}, timeout=60)


class ExchangeTest(EmailCase):
    def test_of_a_failure(self) -> None:
        server = self.server(tls=certificate().context(), auth=True, answers={"nobody": "550 5.1.1 {address}: who?"})
        notifier = self.for_server(
            server, starttls="always", ca_file=certificate().file, username=USER, password=PASSWORD, connections=1
        )
        exchange = self.attempt(notifier, "mailto:nobody@example.org").exchange
        assert exchange is not None
        self.assertEqual(
            {"server", "account", "sender", "size"},
            set(exchange.request),
        )
        self.assertEqual({"status": 550, "text": "5.1.1 ...: who?"}, exchange.response)
        self.assertEqual(["connect", "tls", "login", "end"], list(exchange.phases))
        self.assertEqual(sorted(exchange.phases.values()), list(exchange.phases.values()))
        for secret in (PASSWORD, "nobody@example.org"):
            self.assertNotIn(secret, str(exchange))
        exchange = self.attempt(notifier, "mailto:hang@example.org", timeout=0.2).exchange
        assert exchange is not None
        self.assertIsNone(exchange.response)

    def test_of_a_success_only_where_it_is_wanted(self) -> None:
        server = self.server()
        self.assertIsNone(self.attempt(self.for_server(server)).exchange)
        exchange = self.attempt(self.for_server(server, record_successes=True)).exchange
        assert exchange is not None
        self.assertEqual({"status": 250, "text": "2.0.0 Ok: queued as 4XyZ01"}, exchange.response)
        self.assertEqual(["connect", "recipient", "end"], list(exchange.phases))
