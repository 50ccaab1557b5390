import dataclasses
import functools
import json
import logging
import queue
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oslo_config import cfg

from tests.notifiers import endpoint as behave
from tests.notifiers.case import WAIT, HttpCase, closed_port
from tests.notifiers.endpoint import answer
from tests.notifiers.sms_providers import Kannel, Provider, Twilio, Vonage, form
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.model import (
    Delivery,
    Message,
    MessageKind,
    Outcome,
    OutcomeKind,
    Receipt,
    ReceiptKind,
    Scope,
    Subscription,
)
from zaqar_notify.notifiers.gateways import PRESETS, WORDS, find
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.sections import Section
from zaqar_notify.notifiers.sending import sound
from zaqar_notify.notifiers.sms import SmsNotifier

DELIVERED, RETRY, THROTTLED, AUTH = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.THROTTLED, OutcomeKind.AUTH
REJECTED, GONE, OURS, REFUSED = OutcomeKind.REJECTED, OutcomeKind.GONE, OutcomeKind.OURS, OutcomeKind.REFUSED
DEVICE, FAILED = ReceiptKind.DEVICE, ReceiptKind.FAILED
NUMBER = "46701234567"


def section(**named: Mapping[str, Any]) -> Section:
    conf = cfg.ConfigOpts()
    conf.register_opts(SmsNotifier.options, "sms")
    conf([], project="tests", default_config_files=[], default_config_dirs=[])
    conf.set_override("gateways", list(named), "sms")
    for name, options in named.items():
        conf.register_opts(SmsNotifier.named_options, f"sms_{name}")
        for option, value in options.items():
            conf.set_override(option, value, f"sms_{name}")
    return Section(conf, "sms", SmsNotifier)


def message(body: Any = "hello", **fields: Any) -> Message:
    made = Message("m1", "p", "demo", json.dumps(body).encode(), 3600, time.time(), time.time() + 3600)
    return dataclasses.replace(made, **fields)


def subscription(uri: str, options: Mapping[str, Any] | None = None) -> Subscription:
    return Subscription("s1", "p", "demo", uri, None, options or {}, time.time(), None)


class SmsCase(HttpCase):
    def provider(self, kind: type[Provider], codes: dict[str, Any] | None = None) -> Any:
        provider = kind(codes)
        self.addCleanup(provider.close)
        return provider

    def notifier(self, clients: HttpClients | None = None, **named: Mapping[str, Any]) -> SmsNotifier:
        notifier = SmsNotifier(section(**named), clients or self.clients(), logging.getLogger("tests.sms"))
        self.addCleanup(notifier.close)
        return notifier

    def deliver(self, notifier: SmsNotifier, *deliveries: Delivery) -> dict[str, Outcome]:
        reports: queue.Queue[tuple[Delivery, Outcome]] = queue.Queue()
        notifier.send_many(deliveries, lambda delivery, outcome: reports.put((delivery, outcome)))
        found = {delivery.id: outcome for delivery, outcome in (reports.get(timeout=WAIT) for _ in deliveries)}
        self.assertEqual((len(deliveries), True), (len(found), reports.empty()))
        for outcome in found.values():
            self.assertEqual(outcome, sound(outcome))
        return found

    def attempt(
        self,
        notifier: SmsNotifier,
        number: str = NUMBER,
        *,
        of: Message | None = None,
        options: Mapping[str, Any] | None = None,
        links: Mapping[str, str] | None = None,
        templates: Mapping[str, Any] | None = None,
        query: str = "",
        timeout: float = WAIT,
    ) -> Outcome:
        to = subscription(f"sms:+{number}{query}", options)
        delivery = Delivery("m1-s1", 1, time.monotonic() + timeout, of or message(), to, links or {})
        delivery.templates = templates or {}
        return self.deliver(notifier, delivery)["m1-s1"]

    def expect(self, notifier: SmsNotifier, number: str, kind: OutcomeKind, **fields: Any) -> Outcome:
        outcome = self.attempt(notifier, number)
        self.assertIs(kind, outcome.kind, outcome)
        for name, value in {"target": False, "after": None, "disable": None, **fields}.items():
            self.assertEqual(value, getattr(outcome, name), (name, outcome))
        self.assertNotIn(number, f"{outcome}")
        return outcome

    def twilio(self, codes: dict[str, Any] | None = None, **values: Any) -> tuple[Twilio, SmsNotifier]:
        provider = self.provider(Twilio, codes)
        usual = {
            "preset": "twilio",
            "url": provider.url + "/2010-04-01/Accounts/{account}/Messages.json",
            "username": Twilio.SID,
            "password": Twilio.TOKEN,
            "account": Twilio.SID,
            "sender": "+15005550006",
        }
        return provider, self.notifier(main={**usual, **values})

    def vonage(self, codes: dict[str, Any] | None = None, **values: Any) -> tuple[Vonage, SmsNotifier]:
        provider = self.provider(Vonage, codes)
        usual = {"username": Vonage.KEY, "password": Vonage.SECRET, "sender": "Notify", "url": f"{provider.url}/sms/json"}
        return provider, self.notifier(main={"preset": "vonage", **usual, **values})

    def kannel(self, codes: dict[str, Any] | None = None, **values: Any) -> tuple[Kannel, SmsNotifier]:
        provider = self.provider(Kannel, codes)
        usual = {"username": Kannel.USER, "password": Kannel.PASSWORD, "url": f"{provider.url}/cgi-bin/sendsms"}
        # The guard allows no private address: only internal = true reaches this one.
        return provider, self.notifier(self.clients(allowed=[]), main={"preset": "kannel", "internal": True, **usual, **values})


class TwilioTest(SmsCase):
    def test_what_it_gets(self) -> None:
        provider, notifier = self.twilio()
        outcome = self.attempt(notifier, of=message("Grüße & mehr =?+%"), links={"receipt": "https://n.example/r?a=1&b=2"})
        self.assertEqual((DELIVERED, 201, Twilio.MESSAGE), (outcome.kind, outcome.status, outcome.provider_id))
        (asked,) = provider.taken
        self.assertTrue(3500 < int(asked.pop("ValidityPeriod")) <= 3600)
        expected = {
            "To": f"+{NUMBER}",
            "From": "+15005550006",
            "Body": "Grüße & mehr =?+%",
            "StatusCallback": "https://n.example/r?a=1&b=2",
        }
        self.assertEqual((expected, []), (asked, provider.complaints))

    def test_a_messaging_service_and_a_message_that_lives_long(self) -> None:
        provider, notifier = self.twilio(sender=None, service="MG" + "2c" * 16)
        self.assertIs(DELIVERED, self.attempt(notifier, of=message(expires_at=time.time() + 86400)).kind)
        self.assertEqual([{"To", "MessagingServiceSid", "Body"}], [set(asked) for asked in provider.taken])
        self.assertEqual([], provider.complaints)

    def test_answers(self) -> None:
        cases: dict[int, tuple[OutcomeKind, dict[str, Any]]] = {
            20429: (THROTTLED, {"after": 7.0, "scope": Scope.CREDENTIAL, "credential": "sms main", "status": 429}),
            14107: (THROTTLED, {"after": 1.0, "scope": Scope.CREDENTIAL, "credential": "sms main"}),
            30001: (THROTTLED, {"after": 1.0}),
            20003: (AUTH, {"credential": "sms main", "scope": Scope.CREDENTIAL}),
            21606: (AUTH, {"credential": "sms main"}),
            21610: (GONE, {"disable": "gone"}),
            21211: (REJECTED, {"target": True}),
            21614: (REJECTED, {"target": True}),
            21617: (REJECTED, {}),
            99999: (REJECTED, {"status": 400}),
        }
        numbers = {f"4670000{code}": code for code in cases}
        provider, notifier = self.twilio(dict(numbers))
        for number, code in numbers.items():
            kind, fields = cases[code]
            with self.subTest(code):
                self.assertIn(str(code), self.expect(notifier, number, kind, **fields).detail)
        self.assertEqual([], provider.complaints)

    def test_a_wrong_token(self) -> None:
        _, notifier = self.twilio(password="wr0ng-token")
        outcome = self.expect(notifier, NUMBER, AUTH, status=401, credential="sms main")
        self.assertIn("20003: Authenticate", outcome.detail)
        self.assertNotIn("wr0ng-token", f"{outcome}{notifier._gateways}")

    def test_nothing_secret_is_recorded(self) -> None:
        basic = "QUMwYTBhMGEwYTBhMGEwYTBhMGE"
        provider, _ = self.twilio({NUMBER: 21211})
        provider.repeat = [Twilio.TOKEN, " Basic ", basic]
        notifier = self.notifier(
            self.clients(record_successes=True),
            main={
                "preset": "twilio",
                "url": provider.url + "/2010-04-01/Accounts/{account}/Messages.json",
                "username": Twilio.SID,
                "password": Twilio.TOKEN,
                "account": Twilio.SID,
                "sender": "+15005550006",
            },
        )
        bad = self.attempt(notifier, links={"receipt": "https://n.example/r?sig=s1gnature"})
        good = self.attempt(notifier, "46700000001", links={"receipt": "https://n.example/r?sig=s1gnature"})
        for outcome, number, status in ((bad, NUMBER, 400), (good, "46700000001", 201)):
            exchange = outcome.exchange
            assert exchange is not None
            assert exchange.response is not None
            self.assertEqual(status, exchange.response["status"])
            self.assertEqual("POST", exchange.request["method"])
            self.assertTrue(exchange.request["url"].endswith("/2010-04-01/Accounts/***/Messages.json"), exchange.request)
            self.assertEqual("***", exchange.request["headers"]["authorization"])
            for secret in (Twilio.TOKEN, number, "s1gnature", "hello" if outcome is bad else "s1gnature"):
                self.assertNotIn(secret, f"{outcome}")
        self.assertEqual([], provider.complaints)


class VonageTest(SmsCase):
    def test_what_it_gets(self) -> None:
        provider, notifier = self.vonage()
        outcome = self.attempt(notifier, of=message("hello"), links={"receipt": "https://n.example/r"})
        self.assertEqual((DELIVERED, 200, "0A0000000123ABCD1"), (outcome.kind, outcome.status, outcome.provider_id))
        self.assertIs(DELIVERED, self.attempt(notifier, of=message("中文", expires_at=time.time() + 2)).kind)
        first, second = provider.taken
        self.assertTrue(3500000 < int(first.pop("ttl")) <= 3600000)
        expected = {
            "api_key": Vonage.KEY,
            "api_secret": Vonage.SECRET,
            "from": "Notify",
            "to": NUMBER,
            "text": "hello",
            "type": "text",
            "client-ref": "m1-s1",
            "callback": "https://n.example/r",
        }
        self.assertEqual(expected, first)
        self.assertEqual(("中文", "unicode", "20000"), (second["text"], second["type"], second["ttl"]))
        self.assertEqual([], provider.complaints)

    def test_answers(self) -> None:
        cases: dict[str, tuple[OutcomeKind, dict[str, Any]]] = {
            "1": (THROTTLED, {"after": 1.0, "scope": Scope.CREDENTIAL}),
            "429": (THROTTLED, {"status": 429}),
            "2": (REJECTED, {}),
            "4": (AUTH, {"credential": "sms main"}),
            "5": (RETRY, {"scope": Scope.SUBSCRIPTION}),
            "6": (REJECTED, {"target": True}),
            "7": (REJECTED, {"target": True}),
            "9": (AUTH, {}),
            "12": (REJECTED, {}),
            "15": (AUTH, {}),
            "33": (GONE, {"disable": "gone"}),
            "99": (RETRY, {}),
        }
        for code, (kind, fields) in cases.items():
            number = f"467000000{code}"
            provider, notifier = self.vonage({number: code}, throttle_delay=1.0)
            with self.subTest(code):
                outcome = self.expect(notifier, number, kind, **{"after": 1.0 if kind is THROTTLED else None, **fields})
                self.assertEqual([], provider.complaints)
                assert outcome.exchange is not None
                self.assertNotIn(number, f"{outcome}")

    def test_wrong_credentials(self) -> None:
        _, notifier = self.vonage(password="wr0ng-secret")
        outcome = self.expect(notifier, NUMBER, AUTH, status=200)
        self.assertIn("code 4: Bad Credentials", outcome.detail)


class KannelTest(SmsCase):
    def test_what_it_gets(self) -> None:
        provider, notifier = self.kannel(sender="12345")
        outcome = self.attempt(notifier, of=message("a&b=c %d +1"), links={"receipt": "https://n.example/r?sig=1"})
        self.assertEqual((DELIVERED, 202), (outcome.kind, outcome.status))
        self.assertIs(DELIVERED, self.attempt(notifier, of=message("中文", expires_at=time.time() + 2)).kind)
        first, second = provider.taken
        expected = {
            "username": Kannel.USER,
            "password": Kannel.PASSWORD,
            "from": "12345",
            "to": f"+{NUMBER}",
            "text": "a&b=c %d +1",
            "charset": "UTF-8",
            "coding": "0",
            "validity": "60",
            "dlr-url": "https://n.example/r?sig=1&state=%d&answer=%A",
            "dlr-mask": "31",
        }
        self.assertEqual(expected, first)
        self.assertEqual(("中文", "2", "1"), (second["text"], second["coding"], second["validity"]))
        self.assertEqual([], provider.complaints)

    def test_answers(self) -> None:
        cases: dict[str, tuple[OutcomeKind, dict[str, Any]]] = {
            "queued": (DELIVERED, {"status": 202}),
            "denied": (REJECTED, {"target": True, "status": 403}),
            "unroutable": (REJECTED, {"target": True}),
            "malformed": (REJECTED, {"status": 400}),
            "temporal": (RETRY, {"status": 503, "scope": Scope.LANE}),
            "sender": (AUTH, {}),
            "else": (RETRY, {"status": 404}),
        }
        numbers = {f"467000000{number}": name for number, name in enumerate(cases)}
        provider, notifier = self.kannel(dict(numbers))
        for number, name in numbers.items():
            kind, fields = cases[name]
            with self.subTest(name):
                self.expect(notifier, number, kind, **fields)
        self.assertEqual([], provider.complaints)

    def test_a_wrong_password(self) -> None:
        _, notifier = self.kannel(password="wr0ng-password")
        outcome = self.expect(notifier, NUMBER, AUTH, status=403)
        self.assertIn("Authorization failed", outcome.detail)

    def test_the_url_in_the_record_has_neither_number_nor_text_nor_password(self) -> None:
        _, notifier = self.kannel({NUMBER: "temporal"})
        exchange = self.attempt(notifier, of=message("private words")).exchange
        assert exchange is not None
        for secret in (NUMBER, "private", Kannel.PASSWORD, Kannel.USER):
            self.assertNotIn(secret, f"{exchange}")
        self.assertIn("/cgi-bin/sendsms?username=***&password=***", exchange.request["url"])

    def test_without_internal_the_guard_judges(self) -> None:
        provider, notifier = self.kannel(internal=False)
        self.assertIs(REFUSED, self.attempt(notifier).kind)
        self.assertEqual(0, provider.endpoint.connections)


class ReceiptTest(SmsCase):
    """What the gateways report later, to the URL that they were given, and what is made of it."""

    def setUp(self) -> None:
        super().setUp()
        self.reports = self.endpoint(behave.OK)
        self.callback = f"http://127.0.0.1:{self.reports.port}/v2/receipts/r18bc-18bc-0-9f%2F"

    def heard(self, notifier: SmsNotifier, **more: Any) -> Receipt | None:
        """Of the last report."""
        request = self.reports.requests[-1]
        method, target, _ = request.line.split()
        self.assertEqual("/v2/receipts/r18bc-18bc-0-9f%2F", target.partition("?")[0], "the token has survived")
        fields = dict(urllib.parse.parse_qsl(target.partition("?")[2]))
        if method == "POST":
            fields |= json.loads(request.body) if request.body.startswith(b"{") else form(request)
        return notifier.receipt(more.pop("subscription", subscription(f"sms:+{NUMBER}")), fields)

    def expect_receipts(
        self, notifier: SmsNotifier, report: Callable[..., int], cases: Iterable[tuple[tuple[Any, ...], Any]]
    ) -> None:
        """Each is what is reported, and what it means: None, or kind, gone and words of the detail."""
        for said, expected in cases:
            with self.subTest(said):
                self.assertEqual(200, report(*said))
                found = self.heard(notifier)
                if expected is None:
                    self.assertIsNone(found)
                    continue
                assert found is not None
                kind, gone, words = expected
                self.assertEqual((kind, gone), (found.kind, found.gone), found)
                self.assertEqual(f"the gateway main reported {words}", found.detail)
                self.assertLess(abs(found.at - time.time()), 60)

    def sent(self, made: tuple[Any, SmsNotifier]) -> tuple[Any, SmsNotifier, dict[str, str]]:
        provider, notifier = made
        self.assertIs(DELIVERED, self.attempt(notifier, links={"receipt": self.callback}).kind)
        self.assertEqual([], provider.complaints)
        return provider, notifier, provider.taken[0]

    def test_twilio(self) -> None:
        provider, notifier, asked = self.sent(self.twilio())
        cases = [
            (("sent",), None),
            (("queued",), None),
            (("delivered",), (DEVICE, False, "delivered")),
            (("read",), (DEVICE, False, "read")),
            (("failed", 30008), (FAILED, False, "failed, code 30008")),
            (("undelivered", 30003), (FAILED, False, "undelivered, code 30003")),
            (("undelivered", 30005), (FAILED, True, "undelivered, code 30005")),
            (("undelivered", 30006), (FAILED, True, "undelivered, code 30006")),
            (("failed", 21610), (FAILED, True, "failed, code 21610")),
            (("canceled",), (FAILED, False, "canceled")),
        ]
        self.expect_receipts(notifier, functools.partial(provider.report, asked), cases)

    def test_vonage(self) -> None:
        provider, notifier, asked = self.sent(self.vonage())
        cases = [
            (("accepted",), None),
            (("buffered",), None),
            (("unknown", "1"), None),
            (("delivered",), (DEVICE, False, "delivered, code 0")),
            (("DELIVERED",), (DEVICE, False, "delivered, code 0")),
            (("failed", "2"), (FAILED, False, "failed, code 2")),
            (("failed", "3"), (FAILED, True, "failed, code 3")),
            (("rejected", "4"), (FAILED, True, "rejected, code 4")),
            (("rejected", "6"), (FAILED, False, "rejected, code 6")),
            (("expired", "1"), (FAILED, False, "expired, code 1")),
        ]
        for how in ("GET", "FORM", "JSON"):
            report = functools.partial(provider.report, asked, how=how)
            self.expect_receipts(notifier, report, [(said, e and (*e[:2], e[2].removesuffix(", code 0"))) for said, e in cases])

    def test_kannel(self) -> None:
        provider, notifier, asked = self.sent(self.kannel())
        said = f"id:7 sub:001 dlvrd:000 stat:UNDELIV err:012 Text:private words to {NUMBER}"
        cases = [
            ((8, "ACK/"), None),
            ((4,), None),
            ((1, said), (DEVICE, False, "1")),
            ((2, said), (FAILED, False, "2: id:7 sub:001 dlvrd:000 stat:UNDELIV err:012")),
            ((16, f"NACK/0x0b/Invalid +{NUMBER} & co.\n"), (FAILED, False, "16: NACK/0x0b/Invalid *** & co.")),
            ((2, "x" * 300), (FAILED, False, "2: " + "x" * 168 + "...")),
        ]
        self.expect_receipts(notifier, functools.partial(provider.report, asked), cases)
        self.assertEqual([], provider.complaints)

    def test_gateways_of_ones_own(self) -> None:
        notifier = self.notifier(
            main={
                "url": "https://gateway.example.org/send?to={to}&text={text}",
                "receipt_field": "outcome",
                "receipt_code": "why",
                "receipt_delivered": ["OK", "READ"],
                "receipt_failed": ["NO"],
                "receipt_gone": ["NEVER", "77"],
            }
        )
        to = subscription(f"sms:+{NUMBER}")
        for fields, expected in (
            ({"outcome": "ok"}, (DEVICE, False)),
            ({"outcome": "READ", "why": "77"}, (DEVICE, False)),
            ({"outcome": "no"}, (FAILED, False)),
            ({"outcome": "NO", "why": "77"}, (FAILED, True)),
            ({"outcome": "never"}, (FAILED, True)),
            ({"outcome": "maybe", "why": "77"}, None),
            ({"outcome": ""}, None),
            ({"status": "OK"}, None),
            ({}, None),
        ):
            with self.subTest(fields):
                found = notifier.receipt(to, fields)
                self.assertEqual(expected, found and (found.kind, found.gone))

    def test_a_gateway_that_says_nothing_of_reports_gives_none(self) -> None:
        notifier = self.notifier(main={"url": "https://gateway.example.org/send?to={to}&text={text}"})
        self.assertIsNone(notifier.receipt(subscription(f"sms:+{NUMBER}"), {"": "delivered", "status": "delivered"}))
        self.assertIsNone(notifier.receipt(subscription(f"sms:+{NUMBER}?gateway=other"), {"status": "delivered"}))
        self.assertIsNone(self.notifier().receipt(subscription(f"sms:+{NUMBER}"), {"status": "delivered"}))

    def test_it_is_the_gateway_that_the_message_went_over(self) -> None:
        url = "https://gateway.example.org/send?to={to}&text={text}"
        notifier = self.notifier(
            one={"url": url, "receipt_field": "a", "receipt_delivered": ["1"]},
            two={"url": url, "receipt_field": "b", "receipt_failed": ["1"]},
        )
        fields = {"a": "1", "b": "1"}
        for uri, options, kind in (
            (f"sms:+{NUMBER}", {}, DEVICE),
            (f"sms:+{NUMBER}?gateway=two", {}, FAILED),
            (f"sms:+{NUMBER}", {"gateway": "two"}, FAILED),
        ):
            found = notifier.receipt(subscription(uri, options), fields)
            assert found is not None
            self.assertIs(kind, found.kind)

    def test_what_a_stranger_writes_is_one_line(self) -> None:
        notifier = self.notifier(
            main={"url": "https://g.example/?to={to}&text={text}", "receipt_field": "s", "receipt_gone": ["x"]}
        )
        for fields in ({"s": "x\r\n\x1b[31m"}, {"s": "x" * 100_000}, {"s": "\ud800"}, {"s": "x", "why": "y"}):
            found = notifier.receipt(subscription(f"sms:+{NUMBER}"), fields)
            self.assertTrue(found is None or (found.detail.isprintable() and len(found.detail) <= 200))


class GenericTest(SmsCase):
    def generic(self, reply: Any = behave.OK, **values: Any) -> tuple[Any, SmsNotifier]:
        endpoint = self.endpoint(reply)
        usual = {"url": f"http://127.0.0.1:{endpoint.port}/send", "body": "to={to}&text={text}"}
        return endpoint, self.notifier(main={**usual, **values})

    def test_a_form(self) -> None:
        endpoint, notifier = self.generic(body="to={to}&text={text}&from={from}&flash=&key={password}", password="k&y=1234")
        self.assertIs(DELIVERED, self.attempt(notifier, of=message("a&b=ü")).kind)
        asked = form(endpoint.requests[0])
        self.assertEqual({"to": f"+{NUMBER}", "text": "a&b=ü", "flash": "", "key": "k&y=1234"}, asked)

    def test_json(self) -> None:
        endpoint, notifier = self.generic(
            content_type="application/json; charset=utf-8",
            body='{"messages": [{"to": "{number}", "content": {"text": "{text}", "kind": "{encoding}"}, "ref": "{id}"}]}',
            headers=["X-Api-Key: {password}", "X-Ref: {id}"],
            password="the-k3y",
        )
        text = 'a "quote" \\ and\nlines, €'
        self.assertIs(DELIVERED, self.attempt(notifier, of=message(text)).kind)
        (request,) = endpoint.requests
        expected = {"to": NUMBER, "content": {"text": text, "kind": "gsm"}, "ref": "m1-s1"}
        self.assertEqual({"messages": [expected]}, json.loads(request.body))
        self.assertEqual(
            ("the-k3y", "m1-s1", "application/json; charset=utf-8"),
            tuple(request.headers[name] for name in ("x-api-key", "x-ref", "content-type")),
        )

    def test_xml_and_plain(self) -> None:
        endpoint, notifier = self.generic(content_type="text/xml", body="<sms to='{to}'>{text}</sms>")
        self.attempt(notifier, of=message("<a href='x'>&\"</a>"))
        self.assertEqual(
            f"<sms to='+{NUMBER}'>&lt;a href=&apos;x&apos;&gt;&amp;&quot;&lt;/a&gt;</sms>".encode(), endpoint.requests[0].body
        )
        _, notifier = self.generic(
            content_type="text/plain", body="{text}", url=f"http://127.0.0.1:{endpoint.port}/{{number}}/x?from={{from}}&a=b"
        )
        self.attempt(notifier, of=message("as it is: é"))
        request = endpoint.requests[-1]
        self.assertEqual((f"POST /{NUMBER}/x?a=b HTTP/1.1", "as it is: é".encode()), (request.line, request.body))

    def test_get(self) -> None:
        endpoint, _ = self.generic()
        url = f"http://127.0.0.1:{endpoint.port}/send/{{to}}"
        self.attempt(self.notifier(main={"method": "GET", "url": f"{url}?t={{text}}&c={{callback}}&x=1"}))
        self.attempt(self.notifier(main={"method": "GET", "url": url, "body": "t={text}"}), of=message("a b/c"))
        self.assertEqual(
            [f"GET /send/%2B{NUMBER}?t=hello&x=1 HTTP/1.1", f"GET /send/%2B{NUMBER}?t=a%20b%2Fc HTTP/1.1"],
            [one.line for one in endpoint.requests],
        )

    def test_where_the_answer_says_what(self) -> None:
        body = json.dumps({"result": {"state": "OK", "ids": [{"ref": 77}], "why": ""}}).encode()
        values: dict[str, Any] = {"code": "result.state", "success": ["OK"], "id": "result.ids.0.ref", "error": "result.why"}
        _, notifier = self.generic(answer(200, body=body), **values)
        outcome = self.attempt(notifier)
        self.assertEqual((DELIVERED, "77"), (outcome.kind, outcome.provider_id))
        body = json.dumps({"result": {"state": "BLOCKED", "why": f"no {NUMBER}"}}).encode()
        for reply in (answer(200, body=body), answer(418, body=body)):
            _, notifier = self.generic(reply, **values, outcomes={"BLOCKED": "target"})
            outcome = self.expect(notifier, NUMBER, REJECTED, target=True)
            self.assertIn("code BLOCKED: no ***", outcome.detail)
        _, notifier = self.generic(answer(200, body=b"ERR 17 no credit"), code=r"/ERR (\d+)/", outcomes={"17": "auth"})
        self.expect(notifier, NUMBER, AUTH, status=200)
        _, notifier = self.generic(
            answer(200, body=b"ok id:abc"), code=r"/ERR (\d+)/", id=r"/id:(\w+)/", outcomes={"17": "auth"}
        )
        self.assertEqual("abc", self.attempt(notifier).provider_id)

    def test_statuses(self) -> None:
        cases: dict[int, tuple[OutcomeKind, dict[str, Any]]] = {
            200: (DELIVERED, {}),
            204: (DELIVERED, {}),
            302: (RETRY, {"scope": Scope.SUBSCRIPTION}),
            400: (REJECTED, {}),
            401: (AUTH, {}),
            403: (AUTH, {}),
            404: (RETRY, {}),
            408: (RETRY, {}),
            413: (REJECTED, {}),
            429: (THROTTLED, {"after": 1.0}),
            500: (RETRY, {"scope": Scope.LANE}),
            503: (RETRY, {"scope": Scope.LANE}),
        }
        for status, (kind, fields) in cases.items():
            with self.subTest(status):
                _, notifier = self.generic(answer(status))
                self.expect(notifier, NUMBER, kind, status=status, **fields)
        _, notifier = self.generic(answer(404), outcomes={"http-404": "ours"})
        self.expect(notifier, NUMBER, OURS)
        _, notifier = self.generic(answer(429, "Retry-After: 30"))
        self.expect(notifier, NUMBER, THROTTLED, after=30.0)

    def test_an_answer_without_the_code_that_means_success(self) -> None:
        for body in (b"", b"{", b"[]", b'{"status": null}', b'{"status": true}', b"[" * 100000):
            _, notifier = self.generic(answer(200, body=body), code="status", success=["0"])
            self.expect(notifier, NUMBER, RETRY, scope=Scope.SUBSCRIPTION)

    def test_no_answer(self) -> None:
        for reply in (behave.reset, behave.hang_up, b"nonsense\r\n\r\n"):
            _, notifier = self.generic(reply)
            self.expect(notifier, NUMBER, RETRY, scope=Scope.LANE, status=None)
        _, notifier = self.generic(behave.silent)
        self.assertIs(RETRY, self.attempt(notifier, timeout=0.2).kind)
        notifier = self.notifier(
            main={"url": f"http://127.0.0.1:{closed_port()}/", "body": "{to}{text}", "content_type": "text/plain"}
        )
        self.expect(notifier, NUMBER, RETRY, scope=Scope.LANE)

    def test_text_comes_in_one_piece(self) -> None:
        endpoint, notifier = self.generic()
        for text, expected in (
            ("a\x00b\x1b[31m\r\nc\td", "a b [31m\nc d"),
            ({"order": 7, "to": "Grün"}, '{"order": 7, "to": "Grün"}'),
            ({"title": "Order", "text": "It is here", "data": 7}, "It is here"),
            ({"title": "Order", "text": "It is here", "sms": {"text": "Here!"}}, "Here!"),
            ("", " "),
            ("x" * 1000, "x" * (6 * 153 - 3) + "..."),
        ):
            endpoint.requests.clear()
            self.assertIs(DELIVERED, self.attempt(notifier, of=message(text)).kind)
            self.assertEqual(expected, form(endpoint.requests[0])["text"])

    def test_what_is_too_long_can_be_refused(self) -> None:
        endpoint, notifier = self.generic(overlong="reject", max_segments=2)
        self.assertIs(DELIVERED, self.attempt(notifier, of=message("x" * 306)).kind)
        outcome = self.attempt(notifier, of=message("x" * 307))
        self.assertEqual((REJECTED, False, 1), (outcome.kind, outcome.target, len(endpoint.requests)))

    def test_templates(self) -> None:
        endpoint, notifier = self.generic(max_segments=1)
        default = "Your code: {{ body.code }}. Stop: {{ links.unsubscribe }}"
        templates = {"sms": {"text": {"de": "Ihr Code: {{ body.code }}", "default": default}}}
        body, links = {"code": "0815", "text": "for others"}, {"unsubscribe": "https://n.example/u", "receipt": "x"}
        self.attempt(notifier, of=message(body, language="de-CH"), templates=templates, links=links)
        self.attempt(notifier, of=message(body), templates=templates, links=links)
        expected = ["Ihr Code: 0815", "Your code: 0815. Stop: https://n.example/u"]
        self.assertEqual(expected, [form(one)["text"] for one in endpoint.requests])
        outcome = self.attempt(notifier, templates={"sms": {"text": "{{ body == [] }}"}})
        self.assertEqual((REJECTED, False, 2), (outcome.kind, outcome.target, len(endpoint.requests)))
        self.assertIn("text of sms", outcome.detail)

    def test_a_request_to_confirm(self) -> None:
        endpoint, notifier = self.generic()
        asked = message({"Message": "Do you want to?", "URL-Signature": "x"}, kind=MessageKind.CONFIRMATION)
        self.attempt(notifier, of=asked)
        self.attempt(notifier, of=asked, links={"confirm": "https://n.example/c"})
        self.assertEqual(
            ["Do you want to?", "Do you want to? https://n.example/c"], [form(one)["text"] for one in endpoint.requests]
        )

    def test_a_dry_run(self) -> None:
        endpoint, notifier = self.generic(dry_run=True)
        self.assertEqual((DELIVERED, 0), (self.attempt(notifier).kind, endpoint.connections))

    def test_a_bad_one_does_not_stop_its_batch(self) -> None:
        endpoint, notifier = self.generic()
        deliveries = [
            Delivery(name, 1, time.monotonic() + WAIT, of, subscription(uri, options))
            for name, uri, of, options in (
                ("good", f"sms:+{NUMBER}", message(), {}),
                ("number", "sms:nobody", message(), {}),
                ("body", f"sms:+{NUMBER}", message(body_json=b"{"), {}),
                ("gateway", f"sms:+{NUMBER}", message(), {"gateway": "other"}),
                ("last", f"sms:+{NUMBER}", message(), {}),
            )
        ]
        with self.assertLogs("tests.sms", logging.ERROR):
            outcomes = self.deliver(notifier, *deliveries)
        self.assertEqual(
            {"good": DELIVERED, "number": REJECTED, "body": OURS, "gateway": OURS, "last": DELIVERED},
            {name: outcome.kind for name, outcome in outcomes.items()},
        )
        self.assertEqual(2, len(endpoint.requests))

    def test_connections_are_used_again(self) -> None:
        endpoint, notifier = self.generic()
        for _ in range(5):
            self.attempt(notifier)
        self.assertEqual((5, 1), (len(endpoint.requests), endpoint.connections))


class ConfigurationTest(SmsCase):
    def test_several_gateways(self) -> None:
        first, second = self.endpoint(), self.endpoint()
        notifier = self.notifier(
            one={"url": first.url, "body": "{to}={text}&t={to}"},
            two={"url": second.url, "body": "to={to}&text={text}", "timeout": 3.0},
        )
        self.attempt(notifier)
        self.attempt(notifier, query="?gateway=two")
        self.attempt(notifier, options={"gateway": "two"})
        self.assertEqual((1, 2), (len(first.requests), len(second.requests)))
        uris = [subscription(f"sms:+{NUMBER}{query}") for query in ("", "?gateway=two", "?gateway=three")]
        self.assertEqual(["sms:one", "sms:two", "sms:"], [notifier.lane(uri) for uri in uris])
        self.assertEqual([15.0, 3.0, None], [notifier.timeout(uri) for uri in uris])

    def test_what_stops_the_start(self) -> None:
        good = {"url": "https://gateway.example/send", "body": "to={to}&text={text}"}
        self.notifier(main=good)
        for values, words in (
            ({"url": None}, "sms_main. url is not set"),
            ({"url": "ftp://gateway.example/"}, "http"),
            ({"url": "https://{account}.example/"}, "host"),
            ({"url": "https://user:word@gateway.example/"}, "host"),
            ({"body": "text={text}"}, "{to}"),
            ({"body": "to={to}"}, "{text}"),
            ({"body": "to={to}&text={text}&x={nonsense}"}, "nonsense"),
            ({"body": '{"to": "{two}"}', "content_type": "application/json"}, "two"),
            ({"headers": ["X-Text: {text}"]}, "text"),
            ({"headers": ["no header"]}, "headers"),
            ({"headers": ["X-Key: {password}"], "password": "größe"}, "ASCII"),
            ({"outcomes": {"1": "nonsense"}}, "nonsense"),
            ({"code": "/(/"}, "regular expression"),
            ({"method": "GET", "content_type": "text/plain"}, "GET"),
            ({"preset": "twilio"}, "account is not set"),
            ({"preset": "vonage", "username": "x", "password": "y"}, "sender is not set"),
            ({"preset": "kannel", "url": None}, "url is not set"),
        ):
            with self.subTest(values), self.assertRaisesRegex(CannotStart, words):
                self.notifier(main={**good, **values})

    def test_the_presets_are_sound(self) -> None:
        values = {"username": "u", "password": "p", "account": "a", "sender": "s"}
        for name, preset in PRESETS.items():
            if name != "generic":
                self.notifier(main={"preset": name, "url": preset.url or "https://gateway.example/", **values})
            self.assertLessEqual(set(preset.outcomes.values()), set(WORDS))
            self.assertTrue(preset.url is None or preset.url.startswith("https://"))

    def test_find(self) -> None:
        document = {"a": [{"b": 1}, {"b": "2", "c": None}], "d": True, "e": {"x": 1.5, "y": {}}}
        for path, expected in {
            "a.*.b": ["1", "2"],
            "a.1.b": ["2"],
            "a.2.b": [],
            "a.x.b": [],
            "a.1.c": [],
            "d": [],
            "e.*": ["1.5"],
            "": [],
            "/o (..)/": ["wo"],
            "/hello/": ["hello"],
            "/nothing/": [],
        }.items():
            self.assertEqual(expected, find(path, "hello world, o wo", document), path)


class CheckTest(SmsCase):
    def check(self, uri: str, options: Mapping[str, Any] | None = None, **values: Any) -> None:
        good = {"url": "https://gateway.example/send", "body": "to={to}&text={text}"}
        self.notifier(main={**good, **values}, other=good).check(subscription(uri, options))

    def test_good_ones(self) -> None:
        for uri in ("sms:+46701234567", "SMS:+46-70-123.45(67)", "sms:%2B46701234567", "sms:+46701234567?gateway=other"):
            self.check(uri)
        self.check("sms:+46701234567", {"gateway": "other", "unknown": 1})
        self.check("sms:+46701234567", allowed_prefixes=["+45", "+46"])

    def test_bad_ones(self) -> None:
        for uri, options, words in (
            ("sms:", {}, "country"),
            ("sms:46701234567", {}, "country"),
            ("sms:0701234567", {}, "country"),
            ("sms:+0701234567", {}, "country"),
            ("sms:+123456", {}, "country"),
            ("sms:+1234567890123456", {}, "country"),
            ("sms:+46\u0661\u0662\u0663\u0664\u0665\u0666\u0667", {}, "country"),
            ("sms:+46701234567\n", {}, "country"),
            ("sms:+46701234567,+46701234568", {}, "one number"),
            ("sms:+46701234567;ext=1", {}, "country"),
            ("sms:+46701234567?body=hi", {}, "gateway"),
            ("sms:+46701234567?gateway=", {}, "gateway"),
            ("sms:+46701234567?gateway=a&gateway=b", {}, "once"),
            ("sms:+46701234567?gateway=nowhere", {}, "no gateway 'nowhere'"),
            ("sms:+46701234567", {"gateway": "nowhere"}, "no gateway 'nowhere'"),
            ("sms:+46701234567", {"gateway": 5}, "options.gateway"),
        ):
            with self.subTest((uri, options)), self.assertRaisesRegex(InvalidRequest, words):
                self.check(uri, options)
        with self.assertRaisesRegex(InvalidRequest, r"begin with \+45 or \+47"):
            self.check("sms:+46701234567", allowed_prefixes=["+45", "+47"])
        with self.assertRaisesRegex(InvalidRequest, "gateways is empty"):
            self.notifier().check(subscription("sms:+46701234567"))

    def test_checking_starts_nothing(self) -> None:
        clients = self.clients()
        good = {"url": "https://gateway.example/send", "body": "to={to}&text={text}"}
        self.notifier(clients, main=good).check(subscription("sms:+46701234567"))
        self.assertEqual((None, None, None), (clients._engine, clients._internal_engine, clients._session))
