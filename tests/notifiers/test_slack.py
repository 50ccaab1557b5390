import dataclasses
import json
import logging
import queue
import re
import time
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from tests.notifiers import endpoint as behave
from tests.notifiers.case import WAIT, HttpCase, closed_port
from tests.notifiers.endpoint import Endpoint, Received, answer, certificate
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.masking import masked
from zaqar_notify.model import Delivery, Message, MessageKind, Outcome, OutcomeKind, Scope, Subscription
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.sending import sound
from zaqar_notify.notifiers.slack import SlackNotifier

DELIVERED, RETRY, THROTTLED = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.THROTTLED
REJECTED, GONE, OURS, REFUSED = OutcomeKind.REJECTED, OutcomeKind.GONE, OutcomeKind.OURS, OutcomeKind.REFUSED
PATH = "/services/T00000000/B00000000/s3cretOfTheWebhook"


def section(**values: Any) -> Any:
    conf = cfg.ConfigOpts()
    conf.register_opts(SlackNotifier.options, "slack")
    conf([], project="tests", default_config_files=[], default_config_dirs=[])
    for name, value in values.items():
        conf.set_override(name, value, "slack")
    return conf.slack


def message(body: Any = "hello", **fields: Any) -> Message:
    made = Message("m1", "p", "demo", json.dumps(body).encode(), 300, time.time(), time.time() + 300)
    return dataclasses.replace(made, **fields)


def subscription(uri: str) -> Subscription:
    return Subscription("s1", "p", "demo", uri, None, {}, time.time(), None)


class Slack:
    """What Slack's page on incoming webhooks says, as a server."""

    def __init__(self) -> None:
        self.payloads: list[dict[str, Any]] = []

    def __call__(self, endpoint: Endpoint, connection: Any, request: Received) -> None:
        connection.sendall(self.reply(request))

    def reply(self, request: Received) -> bytes:
        if request.line != f"POST {PATH} HTTP/1.1":
            return answer(404, body=b"no_service")
        if not request.headers.get("content-type", "").startswith("application/json"):
            return answer(400, body=b"invalid_payload")
        payload = json.loads(request.body)
        if not any(payload.get(key) for key in ("text", "blocks", "attachments")):
            return answer(400, body=b"no_text")
        if re.search(r"<(?![!@#]|https?:)|&(?!amp;|lt;|gt;)", payload.get("text", "")):
            return answer(400, body=b"invalid_payload")
        self.payloads.append(payload)
        return answer(200, body=b"ok")


class SlackCase(HttpCase):
    def notifier(self, clients: HttpClients | None = None, **values: Any) -> SlackNotifier:
        clients = clients or self.clients(ca_file=certificate().file)
        return SlackNotifier(section(**{"hosts": ["127.0.0.1"], **values}), clients, logging.getLogger("tests.slack"))

    def secured(self, reply: Any) -> str:
        return "slack+" + self.endpoint(reply, tls=certificate().context()).url.replace("/hook", PATH)

    def deliver(self, notifier: SlackNotifier, *deliveries: Delivery) -> dict[str, Outcome]:
        reports: queue.Queue[tuple[Delivery, Outcome]] = queue.Queue()
        notifier.send_many(deliveries, lambda delivery, outcome: reports.put((delivery, outcome)))
        found = {delivery.id: outcome for delivery, outcome in (reports.get(timeout=WAIT) for _ in deliveries)}
        self.assertEqual((len(deliveries), True), (len(found), reports.empty()))
        for outcome in found.values():
            self.assertEqual(outcome, sound(outcome))
        return found

    def attempt(
        self,
        uri: str,
        *,
        of: Message | None = None,
        notifier: SlackNotifier | None = None,
        timeout: float = WAIT,
        links: Mapping[str, str] | None = None,
        templates: Mapping[str, Any] | None = None,
    ) -> Outcome:
        delivery = Delivery("m1-s1", 1, time.monotonic() + timeout, of or message(), subscription(uri), links or {})
        delivery.templates = templates or {}
        return self.deliver(notifier or self.notifier(), delivery)["m1-s1"]


class PayloadTest(SlackCase):
    def payload(
        self, of: Message, links: Mapping[str, str] | None = None, templates: Mapping[str, Any] | None = None, **values: Any
    ) -> Any:
        slack = Slack()
        uri = self.secured(slack)
        outcome = self.attempt(uri, of=of, links=links, templates=templates, notifier=self.notifier(**values))
        self.assertEqual((DELIVERED, 200), (outcome.kind, outcome.status), outcome)
        (payload,) = slack.payloads
        return payload

    def test_text(self) -> None:
        self.assertEqual({"text": "hello"}, self.payload(message("hello")))
        self.assertEqual({"text": "a &lt;!channel&gt; &amp; b"}, self.payload(message("a <!channel> & b")))
        self.assertEqual({"text": "Grüße 😀"}, self.payload(message("Grüße 😀")))
        self.assertEqual({"text": "Order\nis &lt;here&gt;"}, self.payload(message({"title": "Order", "text": "is <here>"})))
        self.assertEqual({"text": "Order"}, self.payload(message({"title": "Order", "data": {"n": 7}})))

    def test_anything_else_is_shown_as_json(self) -> None:
        self.assertEqual({"text": '```\n{\n  "order": "&lt;7&gt;"\n}\n```'}, self.payload(message({"order": "<7>"})))
        self.assertEqual({"text": "```\n[\n  1\n]\n```"}, self.payload(message([1])))

    def test_a_payload_of_its_own(self) -> None:
        own = {"text": "*now* <!here>", "blocks": [{"type": "divider"}], "unfurl_links": False}
        self.assertEqual(
            own, self.payload(message({"text": "hello", "slack": {**own, "channel": "#other", "username": "boss"}}))
        )

    def test_templates(self) -> None:
        templates = {"slack": {"text": "*{{ body.name }}*", "title": "Order"}}
        own = message({"name": "<!here>", "slack": {"text": "own"}})
        self.assertEqual({"text": "Order\n*&lt;!here&gt;*"}, self.payload(own, templates=templates))
        test = message({"name": "x"}, kind=MessageKind.TEST)
        self.assertEqual({"text": "Order\n*x*"}, self.payload(test, templates=templates))
        outcome = self.attempt(self.secured(Slack()), of=own, templates={"*": {"text": "{{ body == [] }}"}})
        self.assertEqual((REJECTED, False), (outcome.kind, outcome.target))
        self.assertIn("text of slack", outcome.detail)

    def test_a_payload_that_slack_would_refuse(self) -> None:
        slack = Slack()
        uri = self.secured(slack)
        for own in ({"blocks": [{}] * 51}, {"attachments": [{}] * 101}, {"text": 5}, {"blocks": {}}, {"mrkdwn": True}):
            outcome = self.attempt(uri, of=message({"slack": own}))
            self.assertEqual((REJECTED, False), (outcome.kind, outcome.target), own)
        self.assertEqual([], slack.payloads)

    def test_long_texts_are_cut(self) -> None:
        text = self.payload(message("x" * 5000), max_text=1000)["text"]
        self.assertEqual("x" * 999 + "\u2026", text)

    def test_tests_and_requests_to_confirm(self) -> None:
        self.assertEqual({"text": "Test of demo"}, self.payload(message({"test": True}, kind=MessageKind.TEST)))
        asked = message({"Message": "Do you want to?"}, kind=MessageKind.CONFIRMATION)
        confirm = {"confirm": "https://n.example/c?a=1"}
        self.assertEqual({"text": "Do you want to?\n\nhttps://n.example/c?a=1"}, self.payload(asked, confirm))

    def test_empty(self) -> None:
        slack = Slack()
        self.assertIs(DELIVERED, self.attempt(self.secured(slack), of=message("")).kind)


class AnswerTest(SlackCase):
    def expect(self, reply: Any, kind: OutcomeKind, **fields: Any) -> Outcome:
        outcome = self.attempt(self.secured(reply), timeout=fields.pop("timeout", WAIT))
        self.assertIs(kind, outcome.kind, outcome)
        for name, value in {"target": False, "after": None, "disable": None, **fields}.items():
            self.assertEqual(value, getattr(outcome, name), (name, outcome))
        self.assertNotIn("s3cretOfTheWebhook", f"{outcome}")
        return outcome

    def test_the_words_of_slack(self) -> None:
        cases: dict[str, tuple[int, OutcomeKind, dict[str, Any]]] = {
            "invalid_payload": (400, REJECTED, {}),
            "no_text": (400, REJECTED, {}),
            "too_many_attachments": (400, REJECTED, {}),
            "user_not_found": (400, REJECTED, {"target": True}),
            "channel_not_found": (404, REJECTED, {"target": True}),
            "action_prohibited": (403, REJECTED, {"target": True}),
            "posting_to_general_channel_denied": (403, REJECTED, {"target": True}),
            "invalid_token": (403, GONE, {"disable": "gone"}),
            "no_service": (404, GONE, {"disable": "gone"}),
            "no_active_hooks": (404, GONE, {"disable": "gone"}),
            "no_team": (404, GONE, {"disable": "gone"}),
            "channel_is_archived": (410, GONE, {"disable": "gone"}),
            "team_disabled": (403, GONE, {"disable": "gone"}),
            "rollup_error": (500, RETRY, {"scope": Scope.LANE}),
        }
        for word, (status, kind, fields) in cases.items():
            with self.subTest(word):
                outcome = self.expect(answer(status, body=word.encode()), kind, status=status, **fields)
                self.assertIn(word, outcome.detail)

    def test_statuses(self) -> None:
        self.expect(answer(429, "Retry-After: 30", body=b"rate_limited"), THROTTLED, after=30.0, scope=Scope.SUBSCRIPTION)
        self.expect(answer(429), THROTTLED, after=1.0, scope=Scope.SUBSCRIPTION)
        self.expect(answer(403, body=b"something new"), RETRY, scope=Scope.SUBSCRIPTION)
        self.expect(answer(302, "Location: https://elsewhere.example/"), RETRY, scope=Scope.SUBSCRIPTION)
        self.expect(answer(413), REJECTED)
        self.expect(answer(503), RETRY, scope=Scope.LANE)

    def test_no_answer(self) -> None:
        for reply in (behave.reset, behave.hang_up, b"nonsense\r\n\r\n"):
            self.expect(reply, RETRY, scope=Scope.LANE, status=None)
        self.expect(behave.silent, RETRY, timeout=0.3, scope=Scope.LANE)
        self.assertIs(RETRY, self.attempt(f"slack+https://127.0.0.1:{closed_port()}{PATH}").kind)

    def test_the_guard(self) -> None:
        uri = self.secured(Slack())
        notifier = self.notifier(self.clients(allowed=[], ca_file=certificate().file))
        outcome = self.attempt(uri.replace("127.0.0.1", "a.test"), notifier=notifier)
        self.assertIs(REJECTED, outcome.kind)  # the host is not among those that may be subscribed
        notifier = self.notifier(self.clients(allowed=[], ca_file=certificate().file), hosts=["*"])
        self.assertIs(REFUSED, self.attempt(uri.replace("127.0.0.1", "a.test"), notifier=notifier).kind)

    def test_the_path_is_a_secret(self) -> None:
        for reply, kind in ((answer(500, body=f"at {PATH}".encode()), RETRY), (answer(200, body=b"ok"), DELIVERED)):
            uri = self.secured(reply)
            clients = self.clients(ca_file=certificate().file, record_successes=True)
            outcome = self.attempt(uri, notifier=self.notifier(clients))
            self.assertIs(kind, outcome.kind)
            assert outcome.exchange is not None
            self.assertEqual(masked(uri), "slack+" + outcome.exchange.request["url"])
            self.assertNotIn("s3cretOfTheWebhook", f"{outcome}")
        self.assertIsNone(self.attempt(self.secured(Slack())).exchange)

    def test_a_dry_run(self) -> None:
        slack = Slack()
        self.assertIs(DELIVERED, self.attempt(self.secured(slack), notifier=self.notifier(dry_run=True)).kind)
        self.assertEqual([], slack.payloads)

    def test_a_bad_one_does_not_stop_its_batch(self) -> None:
        slack = Slack()
        uri = self.secured(slack)
        deliveries = [
            Delivery(name, 1, time.monotonic() + WAIT, of, subscription(to))
            for name, of, to in (
                ("good", message(), uri),
                ("body", message(body_json=b"{"), uri),
                ("uri", message(), "slack+https://[/"),
                ("last", message(), uri),
            )
        ]
        with self.assertLogs("tests.slack", logging.ERROR):
            outcomes = self.deliver(self.notifier(), *deliveries)
        self.assertEqual(
            {"good": DELIVERED, "body": OURS, "uri": REJECTED, "last": DELIVERED},
            {name: outcome.kind for name, outcome in outcomes.items()},
        )


class CheckTest(SlackCase):
    def test_good_ones(self) -> None:
        notifier = self.notifier(self.clients(allowed=[]), hosts=["hooks.slack.com", "chat.example.org"])
        for uri in (
            f"slack+https://hooks.slack.com{PATH}",
            f"SLACK+https://HOOKS.slack.com{PATH}",
            "slack+https://chat.example.org:8443/hooks/abc",
        ):
            notifier.check(subscription(uri))
        self.notifier(self.clients(allowed=[]), hosts=["*"]).check(subscription("slack+https://anywhere.example/x"))

    def test_bad_ones(self) -> None:
        notifier = self.notifier(self.clients(allowed=[]), hosts=["hooks.slack.com"])
        for uri, words in (
            (f"slack+http://hooks.slack.com{PATH}", r"slack\+https"),
            (f"slack:{PATH}", r"slack\+https"),
            (f"slack://hooks.slack.com{PATH}", r"slack\+https"),
            ("slack+https://example.org/", "hooks.slack.com"),
            ("slack+https://hooks.slack.com.example.org/", "hooks.slack.com"),
            ("slack+https://hooks.slack.com@example.org/", "user name"),
            ("slack+https://10.0.0.1/", "private"),
            ("slack+https://", "host"),
        ):
            with self.subTest(uri), self.assertRaisesRegex(InvalidRequest, words):
                notifier.check(subscription(uri))

    def test_lanes(self) -> None:
        notifier = self.notifier()
        self.assertEqual("slack+https://hooks.slack.com", notifier.lane(subscription(f"slack+https://hooks.slack.com{PATH}")))
        self.assertEqual(15.0, notifier.timeout(subscription("slack+https://x/")))
