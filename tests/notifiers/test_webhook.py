import contextlib
import email.utils
import json
import logging
import queue
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import h2.config
import h2.connection
import h2.events
import standardwebhooks
from oslo_config import cfg

from tests.notifiers import endpoint as behave
from tests.notifiers.case import WAIT, HttpCase, closed_port
from tests.notifiers.endpoint import Endpoint, answer, certificate
from zaqar_notify import __version__, signing
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Message, Outcome, OutcomeKind, Scope, Subscription
from zaqar_notify.notifiers.http import Fault, HttpClients, Response
from zaqar_notify.notifiers.webhook import WebhookNotifier, classify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DELIVERED, RETRY, THROTTLED = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.THROTTLED
REFUSED, OURS, GONE = OutcomeKind.REFUSED, OutcomeKind.OURS, OutcomeKind.GONE


def section(**values: Any) -> Any:
    conf = cfg.ConfigOpts()
    conf.register_opts(WebhookNotifier.options, "webhook")
    conf([], project="tests", default_config_files=[], default_config_dirs=[])
    for name, value in values.items():
        conf.set_override(name, value, "webhook")
    return conf.webhook


def message(body: Any = "hello", number: int = 1) -> Message:
    return Message(f"m{number}", "p", "demo", json.dumps(body).encode(), 300, time.time(), time.time() + 300)


def subscription(url: str, options: Mapping[str, Any] | None = None) -> Subscription:
    return Subscription("s1", "p", "demo", url, None, options or {}, time.time(), None, secret=SECRET)


class WebhookCase(HttpCase):
    def notifier(self, clients: HttpClients | None = None, **values: Any) -> WebhookNotifier:
        return WebhookNotifier(section(**values), clients or self.clients(), logging.getLogger("tests.webhook"))

    def attempt(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        *,
        notifier: WebhookNotifier | None = None,
        timeout: float = WAIT,
        attempt: int = 1,
    ) -> Outcome:
        delivery = Delivery("m1-s1", attempt, time.monotonic() + timeout, message(), subscription(url, options))
        ((reported, outcome),) = self.deliver(notifier or self.notifier(), delivery)
        self.assertIs(delivery, reported)
        return outcome

    def deliver(self, notifier: WebhookNotifier, *deliveries: Delivery) -> list[tuple[Delivery, Outcome]]:
        reports: queue.Queue[tuple[Delivery, Outcome]] = queue.Queue()
        notifier.send_many(deliveries, lambda delivery, outcome: reports.put((delivery, outcome)))
        found = [reports.get(timeout=WAIT) for _ in deliveries]
        self.assertTrue(reports.empty())
        return found


class RequestTest(WebhookCase):
    def test_what_a_subscriber_gets(self) -> None:
        endpoint = self.endpoint()
        outcome = self.attempt(endpoint.url, attempt=3)
        self.assertEqual((DELIVERED, 200, None), (outcome.kind, outcome.status, outcome.disable))
        (received,) = endpoint.requests
        self.assertEqual(
            {"body": "hello", "ttl": 300, "Message_Type": "Notification", "queue_name": "demo"}, json.loads(received.body)
        )
        expected = {
            "webhook-id": "m1-s1",
            "zaqar-notify-queue": "demo",
            "zaqar-notify-message-id": "m1",
            "zaqar-notify-subscription-id": "s1",
            "zaqar-notify-attempt": "3",
            "content-type": "application/json",
            "user-agent": f"zaqar-notify/{__version__}",
        }
        self.assertEqual(expected, {name: received.headers[name] for name in expected})

    def test_a_foreign_id_is_named_in_a_header_whatever_it_holds(self) -> None:
        endpoint = self.endpoint()
        ids = ["50b68a50d6f5b8c8a7c62b01", "1-2.3/a%b", "a\r\nx: y", "grün"]
        deliveries = [
            Delivery(f"m{number}-s1", 1, time.monotonic() + WAIT, replace(message(), id=f"m{number}", foreign_id=foreign), sub)
            for sub in (subscription(endpoint.url),)
            for number, foreign in enumerate(ids)
        ]
        self.assertEqual({DELIVERED}, {outcome.kind for _, outcome in self.deliver(self.notifier(), *deliveries)})
        seen = {request.headers["webhook-id"]: request.headers["zaqar-notify-message-id"] for request in endpoint.requests}
        expected = ["50b68a50d6f5b8c8a7c62b01", "1-2.3/a%25b", "a%0D%0Ax:%20y", "gr%C3%BCn"]
        self.assertEqual({f"m{number}-s1": shown for number, shown in enumerate(expected)}, seen)

    def test_the_signature_is_verified_by_the_reference_library(self) -> None:
        endpoint = self.endpoint()
        self.attempt(endpoint.url)
        self.attempt(endpoint.url, {"post_data": '{"wrapped": "$zaqar_message$"}'})
        for received in endpoint.requests:
            standardwebhooks.Webhook(SECRET).verify(received.body, received.headers)
            with self.assertRaises(standardwebhooks.WebhookVerificationError):
                standardwebhooks.Webhook(signing.make_secret()).verify(received.body, received.headers)
        self.assertEqual("hello", json.loads(endpoint.requests[1].body)["wrapped"]["body"])

    def test_post_headers(self) -> None:
        endpoint = self.endpoint()
        self.attempt(endpoint.url, {"post_headers": {"Authorization": "Bearer x", "X-Empty": "", "content-type": "text/plain"}})
        headers = endpoint.requests[0].headers
        self.assertEqual(
            ("Bearer x", "", "text/plain"), tuple(headers[name] for name in ("authorization", "x-empty", "content-type"))
        )
        self.assertEqual(f"zaqar-notify/{__version__}", headers["user-agent"])
        self.attempt(endpoint.url, {"post_headers": {"User-Agent": "mine"}})
        self.assertEqual("mine", endpoint.requests[1].headers["user-agent"])

    def test_a_batch(self) -> None:
        good, bad = self.endpoint(), self.endpoint(answer(500))
        deliveries = [
            Delivery(f"m{number}-s1", 1, time.monotonic() + WAIT, message(number, number), subscription(endpoint.url))
            for number, endpoint in enumerate([good, bad, good, bad])
        ]
        outcomes = {delivery.id: outcome.kind for delivery, outcome in self.deliver(self.notifier(), *deliveries)}
        self.assertEqual({"m0-s1": DELIVERED, "m1-s1": RETRY, "m2-s1": DELIVERED, "m3-s1": RETRY}, outcomes)
        self.assertEqual({0, 2}, {json.loads(one.body)["body"] for one in good.requests})

    def test_a_delivery_that_cannot_be_sent_does_not_stop_its_batch(self) -> None:
        endpoint = self.endpoint()
        broken = subscription(endpoint.url, {"post_data": 5})
        deliveries = [
            Delivery(name, 1, time.monotonic() + WAIT, message(), one)
            for name, one in (("bad", broken), ("good", subscription(endpoint.url)))
        ]
        with self.assertLogs("tests.webhook", logging.ERROR):
            reports = self.deliver(self.notifier(), *deliveries)
        self.assertEqual({"bad": OURS, "good": DELIVERED}, {delivery.id: outcome.kind for delivery, outcome in reports})

    def test_connections_are_used_again(self) -> None:
        endpoint = self.endpoint()
        notifier = self.notifier()
        for _ in range(10):
            self.attempt(endpoint.url, notifier=notifier)
        self.assertEqual((10, 1), (len(endpoint.requests), endpoint.connections))


class AnswerTest(WebhookCase):
    """Each row of the table of answers, over a real socket."""

    def expect(self, reply: bytes | behave.Behave, kind: OutcomeKind, **fields: Any) -> Outcome:
        timeout = fields.pop("timeout", WAIT)
        outcome = self.attempt(self.endpoint(reply).url, timeout=timeout)
        self.assertIs(kind, outcome.kind, outcome)
        for name, value in {"disable": None, "after": None, **fields}.items():
            self.assertEqual(value, getattr(outcome, name), (name, outcome))
        return outcome

    def test_2xx(self) -> None:
        for status in (200, 201, 202, 204, 299):
            self.expect(answer(status), DELIVERED, status=status)

    def test_410(self) -> None:
        outcome = self.expect(answer(410), GONE, status=410, disable="gone")
        self.assertIn("410 Gone", outcome.detail)

    def test_429(self) -> None:
        self.expect(answer(429, "Retry-After: 7"), THROTTLED, after=7.0, scope=Scope.SUBSCRIPTION)
        self.expect(answer(429), RETRY, status=429, scope=Scope.SUBSCRIPTION)
        self.expect(answer(429, "Retry-After: soon"), RETRY, scope=Scope.SUBSCRIPTION)

    def test_503(self) -> None:
        self.expect(answer(503, "retry-after: 120"), THROTTLED, after=120.0, scope=Scope.LANE)
        self.expect(answer(503), RETRY, status=503, scope=Scope.LANE)

    def test_retry_after_as_a_date(self) -> None:
        date = email.utils.formatdate(time.time() + 1000, usegmt=True)
        outcome = self.attempt(self.endpoint(answer(503, f"Retry-After: {date}")).url)
        self.assertIs(THROTTLED, outcome.kind)
        assert outcome.after is not None
        self.assertTrue(900 < outcome.after <= 1000, outcome.after)

    def test_other_5xx(self) -> None:
        for status in (500, 501, 502, 504, 507, 599):
            self.expect(answer(status, "Retry-After: 7"), RETRY, status=status, scope=Scope.LANE)

    def test_3xx_and_other_4xx(self) -> None:
        for status in (301, 302, 304, 307, 308, 400, 401, 403, 404, 408, 409, 413, 421, 422, 425, 451, 499):
            self.expect(answer(status), RETRY, status=status, scope=Scope.SUBSCRIPTION)

    def test_a_redirect_is_not_followed(self) -> None:
        target = self.endpoint()
        self.expect(answer(308, f"Location: {target.url}"), RETRY, status=308)
        self.assertEqual(0, target.connections)

    def test_the_endpoint_disables(self) -> None:
        for status in (400, 429, 500, 503):
            self.expect(answer(status, "Webhook-Delivery: disable", "Retry-After: 7"), REFUSED, disable="webhook-delivery")
        self.expect(answer(200, "webhook-delivery: Disable"), DELIVERED, disable="webhook-delivery", status=200)
        self.expect(answer(410, "webhook-delivery: disable"), GONE, disable="gone")

    def test_the_endpoint_aborts_a_message(self) -> None:
        for status in (302, 400, 429, 503):
            self.expect(answer(status, "webhook-delivery: abort-message", "Retry-After: 7"), REFUSED, status=status)
        self.expect(answer(204, "webhook-delivery: abort-message"), DELIVERED, status=204)

    def test_other_wishes_mean_nothing(self) -> None:
        self.expect(answer(200, "webhook-delivery: please"), DELIVERED)
        self.expect(answer(500, "webhook-delivery: please"), RETRY)

    def test_no_answer(self) -> None:
        self.expect(behave.silent, RETRY, timeout=0.2, scope=Scope.LANE, status=None)
        self.expect(behave.slow_body, RETRY, timeout=0.3, scope=Scope.LANE)

    def test_refused_reset_cut(self) -> None:
        outcome = self.attempt(f"http://127.0.0.1:{closed_port()}/")
        self.assertEqual((RETRY, Scope.LANE, None), (outcome.kind, outcome.scope, outcome.status))
        self.assertIn("refused", outcome.detail)
        for reply in (behave.reset, behave.hang_up, behave.cut_body, b"nonsense\r\n\r\n"):
            self.expect(reply, RETRY, scope=Scope.LANE)

    def test_more_body_than_is_read(self) -> None:
        self.expect(behave.endless_body, DELIVERED, status=200)

    def test_tls_failure(self) -> None:
        endpoint = self.endpoint(tls=certificate().context())
        outcome = self.attempt(endpoint.url)
        self.assertEqual((RETRY, Scope.LANE), (outcome.kind, outcome.scope))
        self.assertIn("certificate", outcome.detail)

    def test_a_name_that_does_not_exist(self) -> None:
        self.assertIs(RETRY, self.attempt("http://nowhere.invalid/").kind)

    def test_the_guard(self) -> None:
        endpoint = self.endpoint()
        for url in (endpoint.url, endpoint.named("a.test")):
            outcome = self.attempt(url, notifier=self.notifier(self.clients(allowed=[])))
            self.assertIs(REFUSED, outcome.kind)
            self.assertIn("127.0.0.0/8", outcome.detail)
        self.assertEqual(0, endpoint.connections)

    def test_the_egress_proxy(self) -> None:
        for status, kind in {403: REFUSED, 407: OURS, 502: RETRY, 503: RETRY, 504: RETRY}.items():
            proxy = self.endpoint(answer(status))
            notifier = self.notifier(self.clients(proxy=f"http://127.0.0.1:{proxy.port}"))
            self.assertIs(kind, self.attempt("https://endpoint.example/", notifier=notifier).kind, status)
        notifier = self.notifier(self.clients(proxy=f"http://127.0.0.1:{closed_port()}"))
        self.assertIs(OURS, self.attempt("https://endpoint.example/", notifier=notifier).kind)

    def test_what_is_our_own_fault(self) -> None:
        notifier = self.notifier(self.clients(ca_file="/nowhere.pem"))
        self.assertIs(OURS, self.attempt("https://127.0.0.1:1/", notifier=notifier, timeout=-1).kind)
        endpoint = self.endpoint(tls=certificate().context())
        self.assertIs(OURS, self.attempt(endpoint.url, notifier=notifier).kind)
        notifier.http.close()
        self.assertIs(OURS, self.attempt(endpoint.url, notifier=notifier).kind)

    def test_details_are_short_and_printable(self) -> None:
        body = b"<h1>No\x1b[31m\r\n way</h1>\xff\x00" + b"x" * 5000
        outcome = self.expect(answer(500, body=body), RETRY)
        self.assertTrue(outcome.detail.isprintable())
        self.assertLess(len(outcome.detail), 300)
        self.assertTrue(outcome.detail.startswith("the endpoint answered 500 Internal Server Error: <h1>No"), outcome.detail)


class ClassifyTest(HttpCase):
    def test_every_fault_has_an_outcome(self) -> None:
        expected = {
            RETRY: "CONNECT TIMEOUT TLS RESET PROTOCOL NAME_UNKNOWN PROXY_GATEWAY OTHER",
            REFUSED: "GUARD PROXY_REFUSED",
            OURS: "PROXY RESOLVER LOCAL LATE CLOSED",
            OutcomeKind.REJECTED: "URL",
        }
        kinds = {Fault[name]: kind for kind, names in expected.items() for name in names.split()}
        self.assertEqual(kinds, {fault: classify(Response(0, fault=fault), 0.0).kind for fault in Fault})

    def test_retry_after(self) -> None:
        now = 1_700_000_000.0
        cases = {
            "0": 0.0,
            "120": 120.0,
            "9" * 5000: 999_999_999_999_999.0,
            "Tue, 14 Nov 2023 22:14:20 GMT": 60.0,
            "Tuesday, 14-Nov-23 22:14:20 GMT": 60.0,
            "Tue Nov 14 22:14:20 2023": 60.0,
            "Mon, 01 Jan 2001 00:00:00 GMT": 0.0,
            "": None,
            "-5": None,
            "1.5": None,
            "\u0661": None,
            "soon": None,
            "Fri, 99 Foo 2023 99:99:99 GMT": None,
        }
        for value, after in cases.items():
            with self.subTest(value[:40]):
                head = b"HTTP/1.1 429 x\r\nRetry-After: " + value.encode() + b"\r\n\r\n"
                self.assertEqual(after, classify(Response(429, head), now).after)


class CheckTest(WebhookCase):
    def check(self, url: str = "https://example.org/", **options: Any) -> None:
        self.notifier(self.clients(allowed=[])).check(subscription(url, options))

    def test_good_ones(self) -> None:
        self.check()
        self.check("HTTP://example.org:8080/a?b=c")
        self.check(timeout=20, post_headers={"A": "b"}, post_data="x", unknown={"is": "ignored"})
        self.check(timeout=0.5)

    def test_bad_ones(self) -> None:
        cases: list[tuple[str, dict[str, Any], str]] = [
            ("http://", {}, "host"),
            ("http://127.0.0.1/", {}, "loopback"),
            ("https://user:word@example.org/", {}, "user name"),
            ("https://example.org/" + "x" * 2048, {}, "2048"),
            ("https://example.org/", {"timeout": 21}, "at most 20"),
            ("https://example.org/", {"timeout": 0}, "above 0"),
            ("https://example.org/", {"timeout": -1}, "above 0"),
            ("https://example.org/", {"timeout": True}, "number"),
            ("https://example.org/", {"timeout": "5"}, "number"),
            ("https://example.org/", {"timeout": float("nan")}, "number"),
            ("https://example.org/", {"post_headers": {"Host": "x"}}, "Host"),
            ("https://example.org/", {"post_data": {}}, "post_data"),
        ]
        for url, options, words in cases:
            with self.subTest((url[:40], options)), self.assertRaisesRegex(InvalidRequest, words):
                self.check(url, **options)

    def test_checking_starts_nothing(self) -> None:
        clients = self.clients()
        self.notifier(clients).check(subscription("https://example.org/"))
        self.assertEqual((None, None), (clients._engine, clients._session))

    def test_timeout(self) -> None:
        notifier = self.notifier(timeout=12.0)
        self.assertEqual(12.0, notifier.timeout(subscription("https://example.org/")))
        self.assertEqual(3.0, notifier.timeout(subscription("https://example.org/", {"timeout": 3})))
        self.assertEqual(20.0, notifier.timeout(subscription("https://example.org/", {"timeout": 100})))

    def test_a_timeout_above_the_largest_stops_the_start(self) -> None:
        HttpClients.from_options(section(timeout=20.0), Guard(), 20.0)
        with self.assertRaisesRegex(CannotStart, "at most 20 s"):
            HttpClients.from_options(section(timeout=20.5), Guard(), 20.0)

    def test_lanes(self) -> None:
        notifier = self.notifier()
        same = ["https://example.org", "HTTPS://Example.ORG:443/a", "https://example.org/b?c"]
        self.assertEqual({"https://example.org:443"}, {notifier.lane(subscription(url)) for url in same})
        others = ["http://example.org", "https://example.org:444", "https://www.example.org", "http://[::1]:443/"]
        self.assertEqual(4, len({notifier.lane(subscription(url)) for url in others} - {"https://example.org:443"}))


def http2(endpoint: Endpoint, connection: ssl.SSLSocket) -> None:
    """A small HTTP/2 server: answers 201 to each request."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    state.initiate_connection()
    connection.sendall(state.data_to_send())
    while data := connection.recv(65536):
        for event in state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                endpoint.requests.append(behave.Received("HTTP/2", dict(event.headers), b""))
            elif isinstance(event, h2.events.DataReceived):
                endpoint.requests[-1].body += event.data
            elif isinstance(event, h2.events.StreamEnded):
                state.send_headers(event.stream_id, [(":status", "201"), ("webhook-delivery", "disable")], end_stream=True)
        connection.sendall(state.data_to_send())


class Http2Endpoint(Endpoint):
    def _requests(self, connection: Any) -> None:
        if connection.selected_alpn_protocol() == "h2":
            with contextlib.suppress(OSError):
                http2(self, connection)
        else:
            super()._requests(connection)


class Http2Test(WebhookCase):
    def setUp(self) -> None:
        self.server = Http2Endpoint(tls=certificate().context("h2", "http/1.1"))
        self.addCleanup(self.server.close)

    def test_where_it_is_offered(self) -> None:
        notifier = self.notifier(self.clients(ca_file=certificate().file))
        for _ in range(3):
            outcome = self.attempt(self.server.url, notifier=notifier)
            self.assertEqual((DELIVERED, 201, "webhook-delivery"), (outcome.kind, outcome.status, outcome.disable))
        self.assertEqual((3, 1), (len(self.server.requests), self.server.connections))
        received = self.server.requests[0]
        self.assertEqual("HTTP/2", received.line)
        standardwebhooks.Webhook(SECRET).verify(received.body, received.headers)

    def test_unless_it_is_switched_off(self) -> None:
        notifier = self.notifier(self.clients(ca_file=certificate().file, http2=False))
        self.assertEqual(200, self.attempt(self.server.url, notifier=notifier).status)
        self.assertEqual("POST /hook HTTP/1.1", self.server.requests[0].line)
