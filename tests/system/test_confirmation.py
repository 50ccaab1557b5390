"""The subscriber is asked first: the request arrives as a delivery, and its answer opens the subscription."""

from __future__ import annotations

import contextlib
import json
import time
import unittest
import urllib.parse

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.engines import OnSQLite
from tests.system.service import HEADERS, Service, wait_for

REQUIRED = """
[worker]
poll_interval = 0.1
[notification]
require_confirmation = true
[api]
public_url = https://notify.example.org
"""
SIGNED = ("URL-Signature", "URL-Methods", "URL-Paths", "X-Project-ID", "URL-Expires")


class ConfirmationTest(OnSQLite):
    def setUp(self) -> None:
        self.service = Service(self, REQUIRED, storage=self.new_storage())
        self.service.start_api()
        self.service.start("worker")
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.endpoint = Endpoint()
        stack.enter_context(Endpoints(self.endpoint))

    def received(self, kind: str, count: int = 1) -> list[dict]:
        def found() -> list[dict] | None:
            documents = [json.loads(arrival.body) for arrival in list(self.endpoint.arrivals)]
            wanted = [document for document in documents if document["Message_Type"] == kind]
            return wanted if len(wanted) >= count else None

        return wait_for(found, kind)

    def answer(self, request: dict, body: str, **changed: str) -> int:
        """As a subscriber's server does: nothing but the headers that it was sent."""
        headers = {name: request[name] for name in SIGNED} | changed
        return self.service.request("PUT", request["URL-Paths"], request[body], headers)[0]

    def state(self, message: str) -> str | None:
        (delivery,) = self.service.deliveries(message) or [{"state": None}]
        return delivery["state"]

    def test_a_subscriber_confirms_and_leaves_again(self) -> None:
        subscription = self.service.subscribe(self.endpoint.url)["subscription_id"]
        (request,) = self.received("SubscriptionConfirmation")
        self.assertEqual(request["queue_name"], "demo")
        self.assertEqual(
            urllib.parse.urlsplit(request["WSGISubscribeURL"])[:3],
            ("https", "notify.example.org", f"/v2/queues/demo/subscriptions/{subscription}/confirm"),
        )
        (before,) = self.service.post("before")
        wait_for(lambda: self.state(before) == "suppressed", "the record of what was not sent")

        self.assertEqual(self.answer(request, "SubscribeBody"), 204)
        self.assertTrue(self.service.request("GET", f"/v2/queues/demo/subscriptions/{subscription}")[1]["confirmed"])
        (after,) = self.service.post("after")
        wait_for(lambda: self.state(after) == "delivered", "the delivery")
        self.assertEqual([document["body"] for document in self.received("Notification")], ["after"])

        self.assertEqual(self.answer(request, "UnsubscribeBody"), 204)
        (goodbye,) = self.received("UnsubscribeConfirmation")
        (late,) = self.service.post("late")
        wait_for(lambda: self.state(late) == "suppressed", "the record of what was not sent")
        self.assertEqual(self.answer(goodbye, "SubscribeBody"), 204)
        (again,) = self.service.post("again")
        wait_for(lambda: self.state(again) == "delivered", "the delivery")

    def test_a_forged_answer_confirms_nothing(self) -> None:
        subscription = self.service.subscribe(self.endpoint.url)["subscription_id"]
        (request,) = self.received("SubscriptionConfirmation")
        other = self.service.subscribe(f"{self.endpoint.url}?other")["subscription_id"]
        forged = [
            {"URL-Signature": "0" * 64},
            {"URL-Expires": "2999-01-01T00:00:00"},
            {"URL-Methods": "PUT,DELETE"},
            {"X-Project-ID": "another"},
        ]
        for changed in forged:
            with self.subTest(changed):
                self.assertIn(self.answer(request, "SubscribeBody", **changed), (401, 403, 404))
        elsewhere = dict(request, **{"URL-Paths": request["URL-Paths"].replace(subscription, other)})
        self.assertIn(self.answer(elsewhere, "SubscribeBody"), (401, 403, 404))
        for one in (subscription, other):
            self.assertFalse(self.service.request("GET", f"/v2/queues/demo/subscriptions/{one}")[1]["confirmed"])

    def test_subscribing_again_asks_again_and_the_request_is_on_record(self) -> None:
        subscription = self.service.subscribe(self.endpoint.url)["subscription_id"]
        self.received("SubscriptionConfirmation")
        self.assertEqual(self.service.subscribe(self.endpoint.url)["subscription_id"], subscription)
        self.received("SubscriptionConfirmation", 2)

        def states() -> list[str]:
            _, answer = self.service.request("GET", f"/v2/queues/demo/subscriptions/{subscription}/deliveries")
            return [delivery["state"] for delivery in answer["deliveries"]]

        wait_for(lambda: states() == ["delivered", "delivered"], "the records of both requests")
        self.assertEqual(self.service.request("GET", "/v2/queues/demo/messages?echo=true")[1]["messages"], [])


class QuirksTest(unittest.TestCase):
    """What the worker and the API have to agree on, end to end."""

    def test_a_delayed_message_is_notified_when_its_delay_ends_and_an_encrypted_one_in_plain_text(self) -> None:
        service = Service(self, "\n[worker]\npoll_interval = 0.1\n")
        service.start_api()
        service.start("worker")
        endpoint = Endpoint()
        with Endpoints(endpoint):
            service.request("PUT", "/v2/queues/demo", {"_enable_encrypt_messages": True})
            service.subscribe(endpoint.url)
            posted_at = time.time()
            (delayed,) = service.post("delayed-and-secret", delay=5)
            (prompt,) = service.post("prompt-and-secret")
            wait_for(lambda: endpoint.accepted, "the message without a delay")
            self.assertEqual(service.request("GET", f"/v2/queues/demo/messages?ids={prompt}")[1]["messages"][0]["id"], prompt)
            self.assertEqual(json.loads(endpoint.arrivals[0].body)["body"], "prompt-and-secret")
            wait_for(lambda: len(endpoint.arrivals) == 2, "the delayed message")
            self.assertEqual(json.loads(endpoint.arrivals[1].body)["body"], "delayed-and-secret")
            self.assertGreaterEqual(endpoint.arrivals[1].at - posted_at, 5.0)
            wait_for(lambda: [one["state"] for one in service.deliveries(delayed)] == ["delivered"], "its record")
        stored = b"".join(path.read_bytes() for path in service.data_dir.glob("zaqar-notify.db*") if path.is_file())
        self.assertNotIn(b"and-secret", stored)
        self.assertIn(HEADERS["Client-ID"].encode(), stored, "this is where the messages are")
