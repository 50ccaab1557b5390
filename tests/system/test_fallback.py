"""A subscriber that is dead: its fallback address, and its owner. Real processes and sockets."""

from __future__ import annotations

import json
from typing import Any

from standardwebhooks import Webhook

from tests.system.endpoints import Arrival, Endpoint
from tests.system.service import wait_for
from tests.system.test_delivery import QUICK, SECRET, DeliveryCase


class FallbackTest(DeliveryCase):
    options = QUICK

    def setUp(self) -> None:
        super().setUp()
        self.service.start("worker")
        self.first, self.second, self.owner = self.endpoint(status=lambda _: 410), self.endpoint(), self.endpoint()

    def subscribe(self, **options: Any) -> str:
        options |= {"secret": SECRET, "callback": self.owner.url, "post_data": '{"wrapped": "$zaqar_message$"}'}
        return self.service.subscribe(self.first.url, options=options)["subscription_id"]

    def told(self, endpoint: Endpoint, count: int) -> list[tuple[dict[str, Any], Arrival]]:
        """What it was sent, with its signature verified."""
        wait_for(lambda: len(endpoint.arrivals) >= count, f"{count} to arrive; log: {self.service.log('worker')}")
        return [(json.loads(one.body), one) for one in endpoint.arrivals if Webhook(SECRET).verify(one.body, one.headers)]

    def test_the_next_address_gets_it_and_the_owner_is_told_of_the_subscriber(self) -> None:
        subscription = self.subscribe(fallback=[self.second.url])
        (message,) = self.service.post({"n": 1})
        delivery = self.wait_delivery(message, "delivered")
        first, second = delivery["attempts"]
        self.assertEqual(("gone", "pending", None), (first["outcome"], first["state"], first.get("fallback")))
        self.assertIn("goes on with fallback address 1 (http:)", first["error"])
        self.assertEqual(("delivered", "delivered", 1), (second["outcome"], second["state"], second["fallback"]))
        ((body, arrival),) = self.told(self.second, 1)
        self.assertEqual({"n": 1}, body["wrapped"]["body"])
        self.assertEqual(self.first.arrivals[0].headers["webhook-id"], arrival.headers["webhook-id"])
        ((event, _),) = self.told(self.owner, 1)
        self.assertEqual(("subscription.disabled", subscription), (event["event"], event["subscription_id"]))

    def test_without_another_address_the_owner_is_told_of_both(self) -> None:
        self.subscribe()
        (message,) = self.service.post({"n": 1})
        self.wait_delivery(message, "gone")
        told = self.told(self.owner, 2)
        self.assertEqual({"delivery.dead", "subscription.disabled"}, {event["event"] for event, _ in told})
        self.assertEqual({message}, {event["message_id"] for event, _ in told})
        # It is no message of the queue, although it has a record of its own.
        (own,) = self.service.request("GET", "/v2/queues/demo/messages?echo=true")[1]["messages"]
        self.assertEqual(message, own["id"])
