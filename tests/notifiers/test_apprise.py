import importlib.util
import json
import logging
import socket
import threading
import time
import unittest
from collections.abc import Mapping
from typing import Any
from unittest import mock

import requests
from apprise import NotificationManager
from oslo_config import cfg

from tests.notifiers import endpoint as behave
from tests.notifiers.case import WAIT, HttpCase, closed_port, wait_for
from tests.notifiers.endpoint import Endpoint, Received, answer, certificate
from zaqar_notify.errors import CannotStart, InvalidRequest, RefusedAddress
from zaqar_notify.model import Delivery, Message, MessageKind, Outcome, OutcomeKind, Scope, Subscription
from zaqar_notify.notifiers import apprise as bridge
from zaqar_notify.notifiers.apprise import NEVER, AppriseNotifier
from zaqar_notify.notifiers.guarded_requests import MOST_BYTES, Attempt
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.sending import sound
from zaqar_notify.testing import NotifierConformance

DELIVERED, RETRY, THROTTLED = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.THROTTLED
REJECTED, REFUSED = OutcomeKind.REJECTED, OutcomeKind.REFUSED
OK = answer(200, body=b"{}")
TOPIC = "s3cret-topic"


def section(**values: Any) -> Any:
    conf = cfg.ConfigOpts()
    conf.register_opts(AppriseNotifier.options, "apprise")
    conf([], project="tests", default_config_files=[], default_config_dirs=[])
    for name, value in {"enabled": True, "allowed_schemes": ["ntfy", "ntfys", "discord", "tgram", "rsyslog"], **values}.items():
        conf.set_override(name, value, "apprise")
    return conf.apprise


def subscription(uri: str) -> Subscription:
    return Subscription("s1", "p", "demo", uri, None, {}, time.time(), None)


class AppriseCase(HttpCase):
    def notifier(self, clients: HttpClients | None = None, **values: Any) -> AppriseNotifier:
        clients = clients or self.clients(ca_file=certificate().file)
        return AppriseNotifier(section(**values), clients, logging.getLogger("tests.apprise"))

    def ntfy(self, reply: Any = OK, topics: str = TOPIC) -> str:
        self.served = self.endpoint(reply)
        return f"apprise+ntfy://127.0.0.1:{self.served.port}/{topics}"

    def attempt(
        self,
        uri: str,
        body: Any = "hello",
        *,
        notifier: AppriseNotifier | None = None,
        timeout: float = WAIT,
        kind: MessageKind = MessageKind.NOTIFICATION,
        templates: Mapping[str, Any] | None = None,
    ) -> Outcome:
        message = Message("m1", "p", "demo", json.dumps(body).encode(), 300, time.time(), time.time() + 300, kind=kind)
        delivery = Delivery("m1-s1", 1, time.monotonic() + timeout, message, subscription(uri), templates=templates or {})
        outcome = (notifier or self.notifier()).send(delivery)
        self.assertEqual(outcome, sound(outcome))
        self.assertNotIn(TOPIC, repr(outcome))
        return outcome


class SendingTest(AppriseCase):
    def sent(self, body: Any, **more: Any) -> dict[str, Any]:
        self.assertEqual(
            (DELIVERED, 200), (outcome := self.attempt(self.ntfy(), body, **more)) and (outcome.kind, outcome.status)
        )
        (request,) = self.served.requests
        return json.loads(request.body)

    def test_what_is_said(self) -> None:
        for body, title, text in (
            ("hello", None, "hello"),
            ({"title": "T", "text": "t"}, "T", "t"),
            ({"title": "T"}, None, "T"),
            ({"n": [1]}, None, '{\n  "n": [\n    1\n  ]\n}'),
            ({"text": "t", "apprise": {"title": "own", "text": "mine", "type": "failure"}}, "own", "mine"),
        ):
            sent = self.sent(body)
            self.assertEqual((TOPIC, title, text), (sent["topic"], sent.get("title"), sent["message"]))

    def test_templates(self) -> None:
        templates = {"*": {"title": "Order {{ body.n }}", "text": "of {{ message.queue }}"}}
        sent = self.sent({"n": 7}, templates=templates)
        self.assertEqual(("Order 7", "of demo"), (sent["title"], sent["message"]))

    def test_nothing_to_say(self) -> None:
        self.assertIs(REJECTED, self.attempt(self.ntfy(), "").kind)
        self.assertEqual([], self.served.requests)

    def test_a_dry_run(self) -> None:
        self.assertIs(DELIVERED, self.attempt(self.ntfy(), notifier=self.notifier(dry_run=True)).kind)
        self.assertEqual(0, self.served.connections)

    def test_tls_with_the_certificates_of_the_configuration(self) -> None:
        endpoint = self.endpoint(OK, tls=certificate().context())
        uri = f"apprise+ntfys://127.0.0.1:{endpoint.port}/{TOPIC}"
        self.assertIs(DELIVERED, self.attempt(uri).kind)
        outcome = self.attempt(uri, notifier=self.notifier(self.clients()))
        self.assertEqual((RETRY, "ntfy: TLS failure"), (outcome.kind, outcome.detail))


class AnswerTest(AppriseCase):
    def test_statuses(self) -> None:
        for reply, kind, fields in (
            (answer(400), REJECTED, {"status": 400, "target": False}),
            (answer(413), REJECTED, {"status": 413, "target": False}),
            (answer(401), REJECTED, {"status": 401, "target": True}),
            (answer(404), REJECTED, {"status": 404, "target": True}),
            (answer(429), THROTTLED, {"status": 429, "after": 1.0, "scope": Scope.SUBSCRIPTION}),
            (answer(429, "Retry-After: 30"), THROTTLED, {"after": 30.0}),
            (answer(418), RETRY, {"status": 418, "scope": Scope.SUBSCRIPTION}),
            (answer(503), RETRY, {"status": 503, "scope": Scope.LANE}),
        ):
            outcome = self.attempt(self.ntfy(reply))
            self.assertIs(kind, outcome.kind, outcome)
            for name, value in fields.items():
                self.assertEqual(value, getattr(outcome, name), outcome)
            self.assertIn(f"ntfy answered {outcome.status}", outcome.detail)

    def test_no_answer(self) -> None:
        for reply, detail in (
            (behave.reset, "ntfy: no connection"),
            (behave.hang_up, "ntfy: no connection"),
            (b"nonsense\r\n\r\n", "ntfy: no connection"),
            (behave.cut_body, "ntfy: no answer that could be read"),
        ):
            outcome = self.attempt(self.ntfy(reply))
            self.assertEqual((RETRY, Scope.LANE, detail), (outcome.kind, outcome.scope, outcome.detail))
        outcome = self.attempt(f"apprise+ntfy://127.0.0.1:{closed_port()}/{TOPIC}")
        self.assertEqual((RETRY, "ntfy: no connection"), (outcome.kind, outcome.detail))

    def test_it_ends_in_time(self) -> None:
        for reply in (behave.silent, behave.slow_body):
            outcome = self.attempt(self.ntfy(reply), timeout=0.5)
            self.assertEqual((RETRY, "ntfy: timeout"), (outcome.kind, outcome.detail))

    def test_an_answer_without_end(self) -> None:
        self.assertIs(DELIVERED, self.attempt(self.ntfy(behave.endless_body)).kind)

    def test_several_targets_of_which_some_have_it(self) -> None:
        def reply(endpoint: Endpoint, connection: Any, request: Received) -> None:
            connection.sendall(OK if json.loads(request.body)["topic"] == "a" else answer(500))

        outcome = self.attempt(self.ntfy(reply, "a/b"))
        self.assertEqual((REJECTED, False), (outcome.kind, outcome.target))
        self.assertEqual("ntfy answered 500; 1 of 2 requests failed, and others would get it twice", outcome.detail)
        self.assertIs(RETRY, self.attempt(self.ntfy(answer(500), "a/b")).kind)


class GuardTest(AppriseCase):
    def test_addresses_are_judged_where_they_are_dialled(self) -> None:
        uri = self.ntfy()
        forbidding = self.notifier(self.clients(allowed=[]))
        with self.assertRaisesRegex(RefusedAddress, "loopback"):
            forbidding.check(subscription(uri))
        self.assertIs(REFUSED, self.attempt(uri, notifier=forbidding).kind)
        named = uri.replace("127.0.0.1", "a.test")
        forbidding.check(subscription(named))
        outcome = self.attempt(named, notifier=forbidding)
        self.assertIs(REFUSED, outcome.kind, outcome)
        self.assertEqual(0, self.served.connections)
        self.assertIs(DELIVERED, self.attempt(named).kind)

    def test_redirects_are_not_followed(self) -> None:
        other = self.endpoint()
        outcome = self.attempt(self.ntfy(answer(302, f"Location: {other.url}")))
        self.assertEqual((RETRY, 302, 0), (outcome.kind, outcome.status, other.connections))
        self.attempt(self.ntfy(answer(302, f"Location: {other.url}")) + "?redirect=yes")
        self.assertEqual(0, other.connections)

    def test_files_of_this_machine_are_not_read(self) -> None:
        notifier = self.notifier()
        for uri in (
            "apprise+discord://123456789012345678/tokentokentoken?template=/etc/hostname",
            "apprise+tgram://123456789:abcdefg_hijklmnop/12345/?template=/etc/hostname",
        ):
            with self.assertRaisesRegex(InvalidRequest, "does not understand"):
                notifier.check(subscription(uri))
            notifier.check(subscription(uri.partition("?")[0]))

    def test_what_goes_around_the_guard(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "not sent over HTTP"):
            self.notifier().check(subscription("apprise+rsyslog://127.0.0.1"))
        with self.assertRaisesRegex(RefusedAddress, "10.0.0.1"):
            self.notifier(allow_unguarded=True).check(subscription("apprise+rsyslog://10.0.0.1"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(WAIT)
            uri = f"apprise+rsyslog://127.0.0.1:{receiver.getsockname()[1]}"
            outcome = self.attempt(uri, notifier=self.notifier(allow_unguarded=True))
            self.assertEqual((DELIVERED, None), (outcome.kind, outcome.status))
            self.assertIn(b"hello", receiver.recv(2000))

    def test_which_services_are_guarded(self) -> None:
        manager, library = NotificationManager(), bridge._library()
        unguarded = {scheme for scheme in manager.schemas() if not library.is_guarded(manager[scheme])} - NEVER
        self.assertLessEqual(
            {"mqtt", "mqtts", "irc", "ircs", "xmpp", "rsyslog", "aprs", "smpp"} & set(manager.schemas()), unguarded
        )
        self.assertEqual(
            set(), unguarded & {"ntfy", "ntfys", "gotify", "discord", "tgram", "matrix", "pover", "guilded", "msteams"}
        )
        self.assertLess(len(unguarded), 30)

    def test_only_what_is_under_way_is_taken_over(self) -> None:
        from apprise.plugins import ntfy

        self.attempt(self.ntfy())
        self.assertIsNot(requests, ntfy.requests)
        self.assertIs(requests.RequestException, ntfy.requests.RequestException)
        endpoint = self.endpoint()
        for method in ("get", "post", "put", "patch", "delete", "head"):
            self.assertEqual(200, getattr(ntfy.requests, method)(endpoint.url, timeout=WAIT).status_code)
        self.assertIs(requests.Session, ntfy.requests.Session)
        with Attempt(self.clients(), time.monotonic() + WAIT).under_way(), self.assertRaises(AttributeError):
            ntfy.requests.Session  # noqa: B018
        reached = threading.Event()

        def elsewhere() -> None:
            ntfy.requests.post(endpoint.url, timeout=WAIT)
            reached.set()

        attempt = Attempt(self.clients(allowed=[]), time.monotonic() + WAIT)
        with attempt.under_way():
            threading.Thread(target=elsewhere).start()
            wait_for(reached)
        self.assertEqual([], attempt.answers)

    def test_how_much_is_read(self) -> None:
        attempt = Attempt(self.clients(), time.monotonic() + WAIT)
        response = attempt.request(
            "POST", self.endpoint(answer(200, body=b"x" * 2 * MOST_BYTES)).url, {"data": b"", "verify": True}
        )
        self.assertEqual(MOST_BYTES, len(response.content))


class CheckTest(AppriseCase):
    def refused(self, uri: str, words: str, **values: Any) -> None:
        with self.subTest(uri), self.assertRaisesRegex(InvalidRequest, words):
            self.notifier(**values).check(subscription(uri))

    def test_good_ones(self) -> None:
        for uri in (
            "apprise+ntfy://example.org/topic",
            "APPRISE+NTFY://example.org/topic",
            "apprise+ntfys://me:pw@example.org/t",
        ):
            self.notifier().check(subscription(uri))

    def test_bad_ones(self) -> None:
        self.refused("apprise+ntfy://example.org/topic", "switched off", enabled=False)
        self.refused(
            "apprise+gotify://example.org/token", r"apprise\+gotify is not allowed here; allowed are: apprise\+discord, "
        )
        self.refused("apprise+ntfy://example.org/topic", "allowed are: none", allowed_schemes=[])
        self.refused("apprise+mailto://me:pw@example.org", "is not allowed here")
        self.refused("apprise+discord://", "does not understand this URL of discord")
        self.refused("apprise+nonsense", "is not allowed here")
        self.refused("apprise:ntfy://example.org/topic", "is not allowed here")

    def test_what_cannot_be_allowed(self) -> None:
        for scheme in ("mailto", "json", "XMLS", "slack", "dbus"):
            with self.assertRaisesRegex(CannotStart, f"allowed_schemes: {scheme.lower()} cannot be allowed"):
                self.notifier(allowed_schemes=["ntfy", scheme])

    def test_without_the_extra(self) -> None:
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            with self.assertRaisesRegex(CannotStart, r"pip install 'zaqar-notify\[apprise\]'"):
                self.notifier()
            self.notifier(enabled=False)  # keeps nobody from starting

    def test_the_lane_shows_no_token(self) -> None:
        lane = self.notifier().lane(subscription("apprise+tgram://123456789:abcdefg_hijklmnop/12345/"))
        self.assertRegex(lane, r"\Aapprise\+tgram://sha256:[0-9a-f]{12}\Z")
        self.assertEqual(15.0, self.notifier().timeout(subscription("apprise+ntfy://x/y")))

    def test_the_library_says_nothing(self) -> None:
        # With the URL in it, that is.
        lines: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = lines.append
        root, level = logging.getLogger(), logging.getLogger().level
        self.addCleanup(root.setLevel, level)
        self.addCleanup(root.removeHandler, handler)
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        self.attempt(self.ntfy(answer(500)))
        self.assertEqual([], [line.getMessage() for line in lines if line.name.startswith("apprise")])
        self.assertNotEqual([], lines)


class AppriseTest(NotifierConformance, unittest.TestCase):
    scheme = "apprise"
    bad_targets = ("apprise:", "apprise+discord://", "apprise+gotify://example.org/token", "apprise+mailto://me:pw@example.org")
    secrets = (TOPIC,)
    test_bad_options_are_refused = test_a_digest_is_one_notification = None  # it has none

    def setUp(self) -> None:
        self.endpoint = Endpoint(OK)
        self.addCleanup(self.endpoint.close)

    def good(self) -> str:
        return self.at(f"127.0.0.1:{self.endpoint.port}")

    def at(self, address: str) -> str:
        return f"apprise+ntfy://{address}/{TOPIC}"

    def arrived(self) -> int:
        return len(self.endpoint.requests)

    def configuration(self) -> dict[str, Any]:
        return {"apprise": {"enabled": True, "allowed_schemes": ["ntfy", "discord"]}}
