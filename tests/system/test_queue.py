"""Messages that are copied into other queues, by workers that are killed meanwhile."""

from __future__ import annotations

import collections

from tests.system.service import wait_for
from tests.system.test_delivery import QUICK, DeliveryCase


class QueueTest(DeliveryCase):
    # Small steps, so that a kill falls between two of them.
    options = QUICK.replace("[worker]", "[worker]\nmicro_batch = 5\nlane_max = 4")

    def popped(self, queue: str) -> list[dict]:
        status, answer = self.service.request("DELETE", f"/v2/queues/{queue}/messages?pop=20")
        self.assertEqual(200, status, answer)
        return answer["messages"]

    def test_each_is_copied_once_whatever_happens_to_the_worker(self) -> None:
        self.service.subscribe("queue:copies")
        sent = [message for _ in range(10) for message in self.service.post(*range(20))]
        copied: list[str] = []

        def arrived(count: int) -> bool:
            copied.extend(message["attributes"]["copy_message_id"] for message in self.popped("copies"))
            return len(copied) >= count

        for count in (20, 60, 100):
            worker = self.service.start("worker")
            wait_for(lambda count=count: arrived(count), f"{count} copies\n{self.service.log('worker')}")
            self.service.kill(worker)
        self.service.start("worker")
        for message in sent:
            self.wait_delivery(message, "delivered")
        while not arrived(len(sent)):
            self.assertTrue(copied)
        self.assertEqual(collections.Counter(sent), collections.Counter(copied))

    def test_it_reaches_the_subscribers_of_the_other_queue(self) -> None:
        endpoint = self.endpoint()
        self.service.subscribe("queue:copies")
        self.service.subscribe(endpoint.url, queue="copies")
        for subscriber, words in (("queue:demo", "for ever"), ("queue:a/b", "may hold")):
            status, answer = self.service.request("POST", "/v2/queues/demo/subscriptions", {"subscriber": subscriber})
            self.assertEqual(400, status)
            self.assertIn(words, answer["description"])
        self.service.start("worker")
        self.service.post({"n": 1}, attributes={"size": 7})
        (arrival,) = wait_for(lambda: endpoint.arrivals, "the copy")
        self.assertIn(b'"n":1', arrival.body.replace(b": ", b":"))
        self.assertIn(b'"queue_name"', arrival.body)
