"""What the log keeps of an attempt: over real sockets, bounded, and without secrets."""

import dataclasses
import itertools
import json
import threading
import time
import unittest
from collections.abc import Mapping
from typing import Any

from tests.notifiers import endpoint as behave
from tests.notifiers.case import WAIT, closed_port, wait_for
from tests.notifiers.endpoint import OK, answer, certificate
from tests.notifiers.test_webhook import WebhookCase, message, subscription
from zaqar_notify.model import Delivery, Exchange, MessageKind, Outcome, OutcomeKind
from zaqar_notify.notifiers import exchanges
from zaqar_notify.notifiers.exchanges import HttpExchange, of_response, redacted_headers, redacted_url
from zaqar_notify.notifiers.sending import EXCHANGE_LENGTH, sound
from zaqar_notify.notifiers.webhook import WebhookNotifier
from zaqar_notify.signing import make_secret

PHASES = ["name", "connect", "tls", "first_byte", "end"]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def echo(endpoint: behave.Endpoint, connection: Any, request: behave.Received) -> None:
    """An endpoint that says what it got, and fails."""
    headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    lines = [f"X-Echo-{number}: {value}" for number, value in enumerate(request.headers.values())]
    connection.sendall(answer(500, f"X-Line: {request.line}", *lines, body=f"{request.line}\n{headers}".encode()))


class ExchangeCase(WebhookCase):
    def exchange(self, url: str, options: Mapping[str, Any] | None = None, **more: Any) -> Exchange:
        exchange = self.attempt(url, options, **more).exchange
        assert exchange is not None
        self.assertEqual(exchange, sound(Outcome(OutcomeKind.RETRY, exchange=exchange)).exchange)
        self.assert_in_order(exchange.phases)
        return exchange

    def assert_in_order(self, phases: Mapping[str, float]) -> None:
        self.assertEqual([name for name in PHASES if name in phases], list(phases))
        self.assertTrue(all(earlier <= later for earlier, later in itertools.pairwise(phases.values())), phases)
        self.assertGreaterEqual(min(phases.values()), 0.0)

    def recording(self, **values: Any) -> WebhookNotifier:
        return self.notifier(self.clients(record_successes=True, ca_file=certificate().file), **values)


class SuccessTest(ExchangeCase):
    def test_nothing_is_recorded_of_a_success_unless_it_is_wanted(self) -> None:
        for reply in (OK, answer(204), answer(200, "webhook-delivery: disable")):
            self.assertIsNone(self.attempt(self.endpoint(reply).url).exchange)

    def test_the_whole_of_it(self) -> None:
        endpoint = self.endpoint(answer(202, "X-Request-Id: r1", "Content-Type: text/plain", body=b"taken"))
        notifier = self.recording()
        delivery = Delivery("m1-s1", 3, time.monotonic() + WAIT, message(), subscription(endpoint.url))
        ((_, outcome),) = self.deliver(notifier, delivery)
        self.assertEqual((OutcomeKind.DELIVERED, 202, ""), (outcome.kind, outcome.status, outcome.detail))
        self.assertIs(outcome, sound(outcome))
        exchange = outcome.exchange
        assert exchange is not None
        (received,) = endpoint.requests
        sent = {name: value for name, value in received.headers.items() if name not in ("host", "accept", "content-length")}
        sent["webhook-signature"] = sent["webhook-signature"][:11] + "..."
        self.assertEqual(
            {"method": "POST", "url": endpoint.url, "headers": sent, "body_size": len(received.body)}, exchange.request
        )
        headers = {"content-length": "5", "x-request-id": "r1", "content-type": "text/plain"}
        self.assertEqual({"status": 202, "headers": headers, "body": "taken"}, exchange.response)
        self.assertEqual(["name", "connect", "first_byte", "end"], list(exchange.phases))
        self.assert_in_order(exchange.phases)

    def test_it_is_json(self) -> None:
        exchange = self.exchange(self.endpoint().url, notifier=self.recording())
        for part in (exchange.request, exchange.response, exchange.phases):
            self.assertEqual(part, json.loads(json.dumps(part)))

    def test_what_disables_is_recorded_with_its_reason(self) -> None:
        outcome = self.attempt(self.endpoint(answer(200, "webhook-delivery: disable")).url, notifier=self.recording())
        self.assertEqual("webhook-delivery", outcome.disable)
        assert outcome.exchange is not None
        assert outcome.exchange.response is not None
        self.assertEqual("disable", outcome.exchange.response["headers"]["webhook-delivery"])


class PhasesTest(ExchangeCase):
    def test_a_connection_that_was_there_has_no_time_of_its_own(self) -> None:
        endpoint = self.endpoint(tls=certificate().context())
        notifier = self.recording()
        first = self.exchange(endpoint.url, notifier=notifier)
        second = self.exchange(endpoint.url, notifier=notifier)
        self.assertEqual(1, endpoint.connections)
        self.assertEqual(PHASES, list(first.phases))
        self.assertEqual(["name", "first_byte", "end"], list(second.phases))

    def test_the_look_up_of_a_name_counts(self) -> None:
        def look_up(name: str) -> list[str]:
            time.sleep(0.1)
            return ["127.0.0.1"]

        exchange = self.exchange(
            self.endpoint(answer(500)).named("a.test"), notifier=self.notifier(self.clients(look_up=look_up))
        )
        self.assertGreaterEqual(exchange.phases["name"], 0.1)

    def test_an_attempt_says_how_far_it_came(self) -> None:
        release = threading.Event()
        self.addCleanup(release.set)

        def look_up(name: str) -> list[str]:
            wait_for(release)
            return []

        slow = self.notifier(self.clients(look_up=look_up))
        tls = self.endpoint(tls=certificate().context())
        cases = {
            "no name": (self.exchange("http://nowhere.invalid/"), ["end"]),
            "no name in time": (self.exchange("http://a.test/", notifier=slow, timeout=0.2), ["end"]),
            "forbidden": (self.exchange("http://10.0.0.1/"), ["end"]),
            "too late": (self.exchange("http://127.0.0.1:1/", timeout=-1), ["end"]),
            "refused": (self.exchange(f"http://127.0.0.1:{closed_port()}/"), ["name", "end"]),
            "bad certificate": (self.exchange(tls.url), ["name", "connect", "end"]),
            "silent": (self.exchange(self.endpoint(behave.silent).url, timeout=0.3), ["name", "connect", "end"]),
            "reset": (self.exchange(self.endpoint(behave.reset).url), ["name", "connect", "end"]),
        }
        for name, (exchange, phases) in cases.items():
            with self.subTest(name):
                self.assertEqual((phases, None), (list(exchange.phases), exchange.response))
                self.assertEqual("POST", exchange.request["method"])

    def test_an_answer_that_is_cut_off(self) -> None:
        exchange = self.exchange(self.endpoint(behave.cut_body).url)
        self.assertEqual(["name", "connect", "first_byte", "end"], list(exchange.phases))
        self.assertEqual({"status": 200, "headers": {"content-length": "100"}, "body": "short"}, exchange.response)

    def test_what_a_stop_ends(self) -> None:
        notifier = self.notifier()
        notifier.http.engine()
        notifier.http.close()
        self.assertEqual(["end"], list(self.exchange("http://127.0.0.1:1/", notifier=notifier).phases))


class AnswerTest(ExchangeCase):
    def response(self, reply: bytes | behave.Behave, **values: Any) -> dict[str, Any]:
        response = self.exchange(self.endpoint(reply).url, notifier=self.notifier(**values)).response
        assert response is not None
        return dict(response)

    def test_of_each_kind_of_failure(self) -> None:
        for status in (302, 400, 410, 429, 500, 503):
            response = self.response(answer(status, "Retry-After: 5", body=b"no"))
            headers = {"content-length": "2", "retry-after": "5"}
            self.assertEqual({"status": status, "headers": headers, "body": "no"}, response)

    def test_its_body_is_cut(self) -> None:
        body = "ü".encode() * 3000
        self.assertEqual("ü" * 512, self.response(answer(500, body=body))["body"])
        self.assertEqual("ü" * 2048, self.response(answer(500, body=body), log_body_bytes=4096)["body"])
        self.assertEqual("ü" * 4, self.response(answer(500, body=body), log_body_bytes=9)["body"][:4])
        self.assertNotIn("body", self.response(answer(500, body=body), log_body_bytes=0))

    def test_a_body_that_is_no_text(self) -> None:
        response = self.response(answer(500, body=b"a\x00b\x1b\xff\xfe\nc"))
        self.assertEqual("a\ufffdb\ufffd\ufffd\ufffd\nc", response["body"])
        body = self.response(answer(500, body=b"\xff" * 5000))["body"]
        self.assertLessEqual(len(body.encode()), 1024)

    def test_headers_of_interim_answers_do_not_count(self) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nX-A: early\r\n\r\n"
        self.assertEqual({"content-length": "0", "x-b": "late"}, self.response(early + answer(500, "X-B: late"))["headers"])

    def test_a_header_that_comes_twice(self) -> None:
        self.assertEqual("1, 2", self.response(answer(500, "X-A: 1", "x-a: 2"))["headers"]["x-a"])

    def test_many_headers(self) -> None:
        for count in (50, 1000):
            response = self.response(answer(500, *(f"X-{number}: {number}" for number in range(count))))
            self.assertTrue(response["truncated"])
            self.assertEqual(["content-length", *(f"x-{number}" for number in range(49))], list(response["headers"]))

    def test_long_interim_headers(self) -> None:
        def reply(endpoint: behave.Endpoint, connection: Any, request: behave.Received) -> None:
            early = b"HTTP/1.1 103 Early Hints\r\nX-A: %b\r\n\r\n" % (b"a" * 5000)
            connection.sendall(early + b"HTTP/1.1 500 No\r\n\r\nno")
            behave.hang_up(endpoint, connection, request)

        self.assertEqual({"status": 500, "headers": {}, "body": "no"}, self.response(reply))

    def test_exactly_as_many_headers_as_are_kept(self) -> None:
        response = self.response(answer(500, *(f"X-{number}: {number}" for number in range(49))))
        self.assertEqual((50, False), (len(response["headers"]), "truncated" in response))

    def test_long_headers(self) -> None:
        for lines in (["X-A: " + "a" * 60_000], [f"X-{number}: {'a' * 900}" for number in range(20)], ["a" * 60_000 + ": x"]):
            response = self.response(answer(500, *lines))
            size = sum(len(name) + len(value) for name, value in response["headers"].items())
            self.assertEqual((True, True), (response["truncated"], size <= 4096), size)

    def test_whatever_an_answer_holds_it_takes_less_than_a_database_field(self) -> None:
        lines = [f"X-{number}: ".encode() + b"\xff" * 900 for number in range(20)]
        for body in (b"\x00" * 9000, b"\xff" * 9000, b'"' * 9000, b"\\" * 9000, "\U0001f600".encode() * 9000):
            reply = b"HTTP/1.1 500 No\r\n" + b"\r\n".join(lines) + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            headers = {f"X-{number}": '"' * 150 for number in range(49)}
            exchange = self.exchange(
                self.endpoint(reply).url + "?" + "a" * 1900,
                {"post_headers": headers},
                notifier=self.notifier(log_body_bytes=exchanges.MOST_BODY_BYTES),
            )
            self.assertLess(len(json.dumps(dataclasses.asdict(exchange))), 65536)

    def test_the_answer_of_an_egress_proxy_is_not_the_endpoint_s(self) -> None:
        for status in (403, 407, 502):
            proxy = self.endpoint(answer(status, "X-Inner: 10.1.2.3", body=b"inner"))
            notifier = self.notifier(self.clients(proxy=f"http://127.0.0.1:{proxy.port}"))
            for url in ("http://endpoint.example/", "https://endpoint.example/"):
                self.assertIsNone(self.exchange(url, notifier=notifier).response)

    def test_through_an_egress_proxy(self) -> None:
        endpoint, proxy = self.endpoint(answer(500, "X-A: b")), self.endpoint(behave.proxy)
        notifier = self.notifier(self.clients(proxy=f"http://127.0.0.1:{proxy.port}"))
        exchange = self.exchange(endpoint.named("a.test"), notifier=notifier)
        assert exchange.response is not None
        self.assertEqual({"content-length": "0", "x-a": "b"}, exchange.response["headers"])
        self.assertEqual(["name", "connect", "first_byte", "end"], list(exchange.phases))


class SecretsTest(ExchangeCase):
    SECRETS: Mapping[str, str] = {
        "Authorization": "Bearer secret-aaaa",
        "X-Api-Key": "secret-aaaa-and-more",
        "Cookie": "sid=secret-bbbb",
        "X-Vendor-Token": "secret-cccc",
        "X-Password": "secret-dddd",
        "X-Hub-Signature-256": "sha256=secret-eeee",
        "X-Anything": "Basic c2VjcmV0LWZmZmY=",
        "X-Whatever": make_secret(),
        "X-Auth": "secret-gggg",
    }

    def test_no_secret_of_a_request_is_kept_even_where_the_answer_repeats_it(self) -> None:
        options = {"post_headers": {**self.SECRETS, "X-Plain": "plain", "X-Short-Key": "O", "X-Empty-Key": ""}}
        endpoint = self.endpoint(echo)
        outcome = self.attempt(
            endpoint.url + "?key=secret-hhhh&a=b&sig=sec%72et-iiii", options, notifier=self.notifier(log_body_bytes=4096)
        )
        text = repr(outcome)
        for value in [*self.SECRETS.values(), "secret", "sec%72et"]:
            self.assertNotIn(value, text)
        self.assertIn("secret-aaaa-and-more", repr(endpoint.requests))
        assert outcome.exchange is not None
        assert outcome.exchange.response is not None
        self.assertEqual(f"{endpoint.url}?key=***&a=b&sig=***", outcome.exchange.request["url"])
        headers = outcome.exchange.request["headers"]
        self.assertEqual({"***"}, {headers[name.lower()] for name in self.SECRETS})
        self.assertEqual("plain", headers["x-plain"])
        self.assertIn("x-plain: plain", outcome.exchange.response["body"])
        self.assertIn("x-short-key: O", outcome.exchange.response["body"])
        self.assertIn("POST /hook?key=***&a=b&sig=***", outcome.detail)

    def test_an_answer_to_a_request_to_confirm_may_repeat_it(self) -> None:
        def repeat(endpoint: behave.Endpoint, connection: Any, request: behave.Received) -> None:
            connection.sendall(answer(500, body=request.body))

        asked = dataclasses.replace(message({"URL-Signature": "secret"}), kind=MessageKind.CONFIRMATION)
        endpoint = self.endpoint(repeat)
        delivery = Delivery("m1-s1", 1, time.monotonic() + WAIT, asked, subscription(endpoint.url))
        ((_, outcome),) = self.deliver(self.notifier(), delivery)
        self.assertIn(b"secret", endpoint.requests[0].body)
        self.assertEqual(500, outcome.status)
        self.assertNotIn("secret", repr(outcome))

    def test_a_secret_at_the_edge_of_what_is_kept(self) -> None:
        def reply(endpoint: behave.Endpoint, connection: Any, request: behave.Received) -> None:
            connection.sendall(answer(500, body=b"x" * 1015 + request.headers["x-key"].encode() + b"y" * 3000))

        exchange = self.exchange(self.endpoint(reply).url, {"post_headers": {"X-Key": "secret-" + "s" * 100}})
        assert exchange.response is not None
        self.assertEqual("x" * 1015 + "***" + "y" * 6, exchange.response["body"])

    def test_what_repeats_a_secret_is_understood_as_it_came(self) -> None:
        endpoint = self.endpoint(answer(503, "Retry-After: 123456", "webhook-delivery: please"))
        outcome = self.attempt(endpoint.url, {"post_headers": {"X-Key": "123456"}})
        self.assertEqual((OutcomeKind.THROTTLED, 123456.0), (outcome.kind, outcome.after))

    def test_of_an_answer(self) -> None:
        lines = ["Set-Cookie: sid=secret", "Location: https://u:secret@x.test/?token=secret#secret", "X-Csrf-Token: secret"]
        exchange = self.exchange(self.endpoint(answer(302, *lines, "WWW-Authenticate: Bearer realm=x")).url)
        self.assertNotIn("secret", repr(exchange))
        assert exchange.response is not None
        self.assertEqual("https://***@x.test/?token=***", exchange.response["headers"]["location"])
        self.assertEqual("Bearer realm=x", exchange.response["headers"]["www-authenticate"])

    def test_a_signature_can_be_compared_and_not_used(self) -> None:
        self.assertEqual(
            {"webhook-signature": "v1,K5oZfzN9... v1a,hnO3f9T8..."},
            redacted_headers([("Webhook-Signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9 v1a,hnO3f9T8Ytu9HwrXslvu")]),
        )

    def test_urls(self) -> None:
        cases = {
            "https://example.org/a?b=c&d": "https://example.org/a?b=c&d",
            "https://example.org/#token=x": "https://example.org/",
            "https://user:pw@example.org:1/": "https://***@example.org:1/",
            "https://tok@example.org/": "https://***@example.org/",
            "https://example.org/?API%5FKEY=x&access_token=y&Signature=z&code=c&x=1": (
                "https://example.org/?API%5FKEY=***&access_token=***&Signature=***&code=***&x=1"
            ),
            "https://example.org/?token=&token": "https://example.org/?token=&token",
            "https://example.org/?design=1&zip_code=2&pinned=3": "https://example.org/?design=1&zip_code=2&pinned=3",
            "https://[example.org/?token=x": "***",
        }
        self.assertEqual(cases, {url: redacted_url(url) for url in cases})
        self.assertEqual(2048, len(redacted_url("https://example.org/" + "a" * 9999)))

    def test_names(self) -> None:
        secret = "X-API-Key apikey X-Auth-Token X-AUTH PASSWORD passwd Client-Secret session_id auth x-sig jwt x_otp pwd"
        self.assertEqual([], [name for name in secret.split() if not exchanges.is_secret(name)])
        plain = "Content-Type Date ETag X-Request-Id X-Author design Retry-After Server Location X-Passenger pinned"
        self.assertEqual([], [name for name in plain.split() if exchanges.is_secret(name)])


class SessionTest(ExchangeCase):
    def test_of_an_answer_that_the_session_got(self) -> None:
        endpoint = self.endpoint(echo)
        session = self.clients().session()
        response = session.post(f"{endpoint.url}?token=secret-bbbb", data="grün".encode(), headers={"X-Key": b"secret-aaaa"})
        exchange = of_response(response)
        assert exchange.response is not None
        self.assertNotIn("secret", repr(exchange))
        self.assertEqual(
            ("POST", f"{endpoint.url}?token=***", 5), tuple(exchange.request[name] for name in ("method", "url", "body_size"))
        )
        self.assertEqual("***", exchange.request["headers"]["x-key"])
        self.assertEqual(500, exchange.response["status"])
        self.assertIn("x-key: ***", exchange.response["body"])
        self.assertEqual(["first_byte"], list(exchange.phases))
        self.assertIs(exchange, sound(Outcome(OutcomeKind.RETRY, exchange=exchange)).exchange)
        self.assertNotIn("body", dict(of_response(response, 0).response or {}))

    def test_of_a_request_without_a_body(self) -> None:
        exchange = of_response(self.clients().session().get(self.endpoint().url))
        self.assertEqual(("GET", 0), (exchange.request["method"], exchange.request["body_size"]))


class PluginTest(unittest.TestCase):
    """What a notifier of somebody else records is stored, or else a note."""

    def sound(self, exchange: Any, kind: OutcomeKind = OutcomeKind.DELIVERED) -> Any:
        outcome = sound(Outcome(kind, status=200, exchange=exchange))
        self.assertEqual((kind, 200), (outcome.kind, outcome.status))
        return outcome.exchange

    def test_good_ones_are_copied(self) -> None:
        request = {"to": "+491"}
        for kind in (OutcomeKind.DELIVERED, OutcomeKind.RETRY):
            exchange = self.sound(Exchange(request, {"id": 5}, {"end": 1}), kind)
            self.assertEqual(Exchange({"to": "+491"}, {"id": 5}, {"end": 1.0}), exchange)
            self.assertIsNot(request, exchange.request)
        self.assertEqual(Exchange({}), self.sound(Exchange({})))
        self.assertIsNone(self.sound(None))

    def test_bad_ones_leave_a_note(self) -> None:
        circle: dict[str, Any] = {}
        circle["circle"] = circle
        deep: Any = []
        for _ in range(100_000):
            deep = [deep]
        bad: list[Any] = [
            *(5, "text", {"request": {}}, Exchange(None), Exchange({}, 5), Exchange({}, None, None)),  # type: ignore[arg-type]
            *(Exchange({"a": b"x"}), Exchange({"a": object()}), Exchange({"a": float("nan")}), Exchange({"a": "\ud800"})),
            *(Exchange(circle), Exchange({"a": deep}), Exchange({}, None, {"end": "soon"})),  # type: ignore[dict-item]
        ]
        for exchange in bad:
            with self.subTest(repr(type(exchange))):
                self.assertIn("not JSON", self.sound(exchange).request["error"])

    def test_a_long_one_leaves_a_note(self) -> None:
        self.assertIn("longer", self.sound(Exchange({"a": "x" * EXCHANGE_LENGTH})).request["error"])

    def test_one_that_was_made_here_is_passed_on(self) -> None:
        exchange = HttpExchange({"a": "b"})
        for kind in (OutcomeKind.DELIVERED, OutcomeKind.RETRY):
            self.assertIs(exchange, self.sound(exchange, kind))


class MarksTest(ExchangeCase):
    def send(
        self, attributes: Mapping[str, Any], options: Mapping[str, Any] | None = None, **more: Any
    ) -> list[dict[str, str]]:
        """The headers of two attempts of one message."""
        endpoint = self.endpoint()
        one = dataclasses.replace(message(), attributes=attributes, **more)
        target = subscription(endpoint.url, options)
        notifier = self.notifier()
        for number in (1, 2):
            self.deliver(notifier, Delivery("m1-s1", number, time.monotonic() + WAIT, one, target))
        return [received.headers for received in endpoint.requests]

    def test_each_attempt_is_a_span_of_the_trace_that_the_message_belongs_to(self) -> None:
        parent = f"00-{TRACE}-00f067aa0ba902b7-01"
        sent = [headers["traceparent"] for headers in self.send({"traceparent": parent})]
        for value in sent:
            self.assertRegex(value, f"^00-{TRACE}-(?!0{{16}})[0-9a-f]{{16}}-01$")
        self.assertEqual(3, len({parent, *sent}))

    def test_no_trace_or_a_broken_one(self) -> None:
        for attributes in (
            {},
            {"traceparent": "00-no"},
            {"traceparent": 5},
            {"traceparent": f"00-{TRACE}-{TRACE[:16]}-01\r\nx: y"},
        ):
            for headers in self.send(attributes):
                self.assertEqual((False, False), ("traceparent" in headers, "x" in headers))

    def test_the_client_s_own_header_stands(self) -> None:
        parent = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        sent = self.send(parent, {"post_headers": {"TraceParent": "mine", "X-A": "b"}})
        self.assertEqual(["mine", "mine"], [headers["traceparent"] for headers in sent])
        self.assertRegex(self.send(parent, {"post_headers": {"X-A": "b"}})[0]["traceparent"], TRACE)

    def test_a_test_notification_says_so(self) -> None:
        for headers in self.send({}, kind=MessageKind.TEST):
            self.assertEqual("true", headers["zaqar-notify-test"])
        for kind in (MessageKind.NOTIFICATION, MessageKind.CONFIRMATION):
            self.assertNotIn("zaqar-notify-test", self.send({}, kind=kind)[0])
