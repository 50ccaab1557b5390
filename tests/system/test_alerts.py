"""What owners are told of what goes wrong, and what they can do about it: over the API, with real endpoints."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

from tests.system.service import HEADERS, wait_for
from tests.system.test_delivery import DeliveryCase

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OPTIONS = """
[worker]
lease = 13
timeout = 2
poll_interval = 0.1
[webhook]
timeout = 2
[notification]
retry_schedule = 0, 0.1, 0.1
alert_queue = alerts
alert_ttl = 600
max_attempts = 7
[delivery_log]
record = all
"""


class AlertsTest(DeliveryCase):
    options = OPTIONS

    def setUp(self) -> None:
        super().setUp()
        self.service.start("worker")

    def messages(self, queue: str) -> list[dict[str, Any]]:
        status, answer = self.service.request("GET", f"/v2/queues/{queue}/messages?echo=true")
        self.assertEqual(status, 200, answer)
        return answer["messages"]

    def test_a_death_is_told_and_mended(self) -> None:
        broken, owner = self.endpoint(status=lambda _: 500), self.endpoint()
        subscription = self.service.subscribe(f"{broken.url}?token=x", options={"dead_letter_queue": "letters"})[
            "subscription_id"
        ]
        self.service.subscribe(owner.url, queue="alerts")
        (message,) = self.service.post({"order": 7})
        dead = self.wait_delivery(message, "dead")

        # The alert looks as the documentation shows it, and goes to whoever has subscribed to its queue.
        (arrival,) = wait_for(lambda: owner.arrivals, "the alert")
        alert = json.loads(arrival.body)["body"]
        [shown] = re.findall(r'^```json\n(\{\n  "event".*?)^```$', (ROOT / "docs/delivery.md").read_text(), re.M | re.S)
        sample = json.loads(shown)
        self.assertEqual(list(alert), list(sample))
        self.assertEqual([type(alert[key]) for key in sample], [type(value) for value in sample.values()])
        self.assertEqual(
            {key: alert[key] for key in ("event", "queue", "subscription_id", "subscriber", "state", "message_id", "sample")},
            {
                "event": sample["event"],
                "queue": "demo",
                "subscription_id": subscription,
                "subscriber": f"{broken.url}?...",
                "state": "dead",
                "message_id": message,
                "sample": sample["sample"],
            },
        )
        self.assertIn(alert["error"], [attempt["error"] for attempt in dead["attempts"]])
        self.assertEqual([one["ttl"] for one in self.messages("alerts")], [600])

        (letter,) = self.messages("letters")
        self.assertEqual(letter["body"], {"order": 7})
        table = re.findall(r"`(dead_letter_\w+)`", (ROOT / "docs/delivery.md").read_text())
        self.assertEqual(set(letter["attributes"]), set(table) - {"dead_letter_queue"})
        self.assertEqual(letter["attributes"]["dead_letter_attempts"], 3)

        # The owner mends the endpoint and has it sent once more, by what the letter says.
        broken.status = lambda _: 200
        attributes = letter["attributes"]
        path = (
            f"/v2/queues/{attributes['dead_letter_source']}/messages/{attributes['dead_letter_message_id']}"
            f"/deliveries/{attributes['dead_letter_subscription_id']}"
        )
        self.assertEqual(self.service.request("POST", f"{path}/redeliver")[0], 202)
        self.wait_delivery(message, "delivered", subscription)
        _, shown = self.service.request("GET", path)
        self.assertEqual([attempt["status"] for attempt in shown["attempts"]], [500, 500, 500, 200])
        for attempt in shown["attempts"]:
            self.assertEqual(attempt["exchange"]["request"]["url"], f"{broken.url}?token=***")
            self.assertEqual(attempt["exchange"]["response"]["status"], attempt["status"])
            self.assertGreater(attempt["exchange"]["phases"]["end"], 0)
        self.assertEqual(len({arrival.headers["webhook-id"] for arrival in broken.arrivals}), 1)
        _, listed = self.service.request("GET", f"/v2/queues/demo/subscriptions/{subscription}/deliveries?state=delivered")
        self.assertEqual([one["message_id"] for one in listed["deliveries"]], [message])

    def test_a_schedule_of_ones_own(self) -> None:
        failing = {}
        for options, attempts in (
            ({"schedule": [0, 0, 0, 0, 0]}, 5),
            ({"schedule": [0, 0, 0], "max_attempts": 2}, 2),
            ({"_retry_policy": {"schedule": [0], "max_attempts": 4}}, 4),
        ):
            endpoint = self.endpoint(status=lambda _: 500)
            failing[self.service.subscribe(endpoint.url, options=options)["subscription_id"]] = attempts
        (message,) = self.service.post(1)
        for subscription, attempts in failing.items():
            self.assertEqual(len(self.wait_delivery(message, "dead", subscription)["attempts"]), attempts)
        document = {"subscriber": "http://127.0.0.1:9/", "options": {"max_attempts": 8}}
        status, refused = self.service.request("POST", "/v2/queues/demo/subscriptions", document)
        self.assertEqual((status, "1 to 7" in refused["description"]), (400, True))

    def test_a_ping_and_the_trace_of_a_post(self) -> None:
        endpoint = self.endpoint()
        path = f"/v2/queues/demo/subscriptions/{self.service.subscribe(endpoint.url)['subscription_id']}"
        status, pinged = self.service.request("POST", f"{path}/ping")
        self.assertEqual(status, 202)
        self.wait_delivery(pinged["message_id"], "delivered")
        (arrival,) = endpoint.arrivals
        self.assertEqual(arrival.headers["zaqar-notify-test"], "true")
        self.assertEqual(json.loads(arrival.body)["body"], {"test": True})
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        document = {"messages": [{"body": 1}]}
        self.service.request("POST", "/v2/queues/demo/messages", document, {**HEADERS, "traceparent": trace})
        wait_for(lambda: len(endpoint.arrivals) == 2, "the message")
        sent = endpoint.arrivals[1].headers
        self.assertNotIn("zaqar-notify-test", sent)
        self.assertEqual(sent["traceparent"].split("-")[1], trace.split("-")[1])
        self.assertNotEqual(sent["traceparent"], trace, "each attempt is a span of its own")
