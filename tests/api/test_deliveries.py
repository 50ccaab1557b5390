import urllib.parse

from tests.api.case import ApiCase, OverMemory, OverSql
from zaqar_notify.model import LogEntry, OutcomeKind, State
from zaqar_notify.storage.base import Closing, Settlement

QUEUE = "/v2/queues/q"


class DeliveryTests:
    def settle(self, message_ids, lines, due_at=None):
        """Work as a worker: one line in the log for each (message, subscription) of ``lines``."""
        worker = self.storage.join()
        taken = self.storage.take(worker, 30.0, entries=100, rows=0)
        self.assertEqual(sorted(entry.message_id for entry in taken.entries), sorted(message_ids))
        settlements = [
            Settlement(message_id, subscription_id, taken.token, False, log=log, due_at=due_at, attempts=1, lines=1)
            for message_id, subscription_id, log in lines
        ]
        closings = [Closing(message_id, taken.token) for message_id in message_ids]
        self.assertEqual(self.storage.settle(settlements, closings), 0)

    def deliveries(self, path):
        answer = self.ok("GET", f"{QUEUE}/{path}/deliveries").json
        self.assertEqual(set(answer), {"deliveries", "links"})
        return answer["deliveries"]

    def test_waiting_for_the_worker(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        [delivery] = self.deliveries(f"messages/{message_id}")
        self.assertEqual(delivery["state"], "pending")
        self.assertEqual((delivery["message_id"], delivery["subscription_id"]), (message_id, subscription_id))
        self.assertEqual(delivery["attempts"], [])
        self.assertEqual(self.deliveries(f"subscriptions/{subscription_id}"), [delivery])

    def test_nobody_subscribed(self):
        [message_id] = self.post("x")
        self.assertEqual(self.ok("GET", f"{QUEUE}/messages/{message_id}/deliveries").json, {"deliveries": [], "links": []})

    def test_delivered(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        at = self.clock.now + 0.25
        line = LogEntry(1, at, State.DELIVERED, OutcomeKind.DELIVERED, 204, 0.125, "accepted")
        self.settle([message_id], [(message_id, subscription_id, line)])
        expected = {
            "message_id": message_id,
            "subscription_id": subscription_id,
            "state": "delivered",
            "next_attempt_at": None,
            "attempts": [
                {
                    "number": 1,
                    "at": at,
                    "outcome": "delivered",
                    "state": "delivered",
                    "status": 204,
                    "duration": 0.125,
                    "error": None,
                }
            ],
        }
        self.assertEqual(self.deliveries(f"messages/{message_id}"), [expected])
        self.assertEqual(self.deliveries(f"subscriptions/{subscription_id}"), [expected])

    def test_failed_and_to_be_tried_again(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        line = LogEntry(1, self.clock.now, State.PENDING, OutcomeKind.RETRY, 500, 0.5, "the endpoint answered 500")
        self.settle([message_id], [(message_id, subscription_id, line)], due_at=self.clock.now + 5)
        [delivery] = self.deliveries(f"messages/{message_id}")
        self.assertEqual((delivery["state"], delivery["next_attempt_at"]), ("pending", self.clock.now + 5))
        [attempt] = delivery["attempts"]
        self.assertEqual((attempt["outcome"], attempt["status"]), ("retry", 500))
        self.assertEqual(attempt["error"], "the endpoint answered 500")

    def test_the_last_fifty_of_many_attempts(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        lines = [LogEntry(number, self.clock.now, State.PENDING, OutcomeKind.OURS, detail="x") for number in range(1, 61)]
        self.settle([message_id], [(message_id, subscription_id, line) for line in lines], due_at=self.clock.now + 5)
        for path in (f"messages/{message_id}", f"subscriptions/{subscription_id}"):
            [delivery] = self.deliveries(path)
            self.assertEqual([attempt["number"] for attempt in delivery["attempts"]], list(range(11, 61)))

    def test_ended_without_an_attempt(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        line = LogEntry(1, self.clock.now, State.SUPPRESSED, detail="the subscription is disabled")
        self.settle([message_id], [(message_id, subscription_id, line)])
        [delivery] = self.deliveries(f"messages/{message_id}")
        self.assertEqual(delivery["state"], "suppressed")
        [attempt] = delivery["attempts"]
        self.assertEqual((attempt["outcome"], attempt["status"], attempt["duration"]), (None, None, None))
        self.assertEqual(attempt["error"], "the subscription is disabled")

    def test_answers_after_message_and_subscription_are_deleted(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        line = LogEntry(1, self.clock.now, State.DELIVERED, OutcomeKind.DELIVERED, 200, 0.1)
        self.settle([message_id], [(message_id, subscription_id, line)])
        self.ok("DELETE", f"{QUEUE}/messages/{message_id}", status=204)
        self.ok("DELETE", f"{QUEUE}/subscriptions/{subscription_id}", status=204)
        for path in (f"messages/{message_id}", f"subscriptions/{subscription_id}"):
            self.assertEqual([delivery["state"] for delivery in self.deliveries(path)], ["delivered"])

    def test_pages_of_a_message(self):
        subscription_ids = [self.subscribe(number) for number in range(25)]
        [message_id] = self.post("x")
        lines = [
            (message_id, subscription_id, LogEntry(1, self.clock.now, State.DELIVERED, OutcomeKind.DELIVERED, 200, 0.1))
            for subscription_id in subscription_ids[:12]
        ]
        path = f"{QUEUE}/messages/{message_id}/deliveries"
        for settled in (False, True):
            if settled:
                self.settle([message_id], lines)
            expected = subscription_ids[:12] if settled else subscription_ids
            for query in ("", "limit=20", "limit=1"):
                pages = list(self.walk(path, "deliveries", query))
                self.assertEqual([delivery["subscription_id"] for page in pages for delivery in page], expected)

    def test_pages_of_a_subscription(self):
        subscription_id = self.subscribe()
        message_ids = self.post(*range(25))
        path = f"{QUEUE}/subscriptions/{subscription_id}/deliveries"
        for query in ("", "limit=20", "limit=1"):
            pages = list(self.walk(path, "deliveries", query))
            self.assertEqual([delivery["message_id"] for page in pages for delivery in page], message_ids[::-1])

    def test_unknown(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        for unknown in ("0" * 16, "x", "f" * 40, "%00", "%ff"):
            with self.subTest(unknown=unknown):
                self.refused(404, "GET", f"{QUEUE}/messages/{unknown}/deliveries")
                self.refused(404, "GET", f"{QUEUE}/subscriptions/{unknown}/deliveries")
        self.refused(404, "GET", f"/v2/queues/other/messages/{message_id}/deliveries")
        self.refused(404, "GET", f"/v2/queues/other/subscriptions/{subscription_id}/deliveries")

    def test_paging_refused(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        for path in (f"messages/{message_id}", f"subscriptions/{subscription_id}"):
            for query in ({"limit": "0"}, {"limit": "21"}, {"limit": "x"}, {"marker": "nonsense"}, {"marker": "\0"}):
                with self.subTest(path=path, query=query):
                    self.refused(400, "GET", f"{QUEUE}/{path}/deliveries?{urllib.parse.urlencode(query)}")


class DeliveryMemoryTest(OverMemory, DeliveryTests, ApiCase):
    pass


class DeliverySqlTest(OverSql, DeliveryTests, ApiCase):
    pass
