import dataclasses
import unittest
import urllib.parse

from tests.api.case import ApiCase, OverMemory, OverSql
from zaqar_notify.api import deliveries, replays
from zaqar_notify.model import DeliveryRecord, Exchange, LogEntry, OutcomeKind, Receipt, ReceiptKind, State
from zaqar_notify.storage.base import REPLAY, Closing, Settlement

QUEUE = "/v2/queues/q"
EXCHANGE = Exchange(
    {"method": "POST", "url": "http://endpoint.example/0", "headers": {"webhook-id": "1"}, "body_size": 12},
    {"status": 503, "headers": {}, "body": "busy"},
    {"name": 0.25, "end": 0.5},
)
SHOWN_EXCHANGE = dataclasses.asdict(EXCHANGE)


def path_of(message_id, subscription_id, then=""):
    return f"{QUEUE}/messages/{message_id}/deliveries/{subscription_id}{then}"


class DeliveryTests:
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
        self.assertEqual((delivery["progress"], delivery["acknowledged_at"], delivery["receipts"]), (None, None, []))
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
            "progress": "accepted",
            "acknowledged_at": None,
            "receipts": [],
            "attempts": [
                {
                    "number": 1,
                    "at": at,
                    "outcome": "delivered",
                    "state": "delivered",
                    "status": 204,
                    "duration": 0.125,
                    "error": None,
                    "detail": "accepted",
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

    # -- one delivery -------------------------------------------------------------------------------------------------------

    def ended(self, state=State.DEAD, outcome=OutcomeKind.RETRY, exchange=EXCHANGE):
        """A message with a delivery that has ended: the ids of both parts."""
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        line = LogEntry(1, self.clock.now, state, outcome, 503, 0.5, "busy", exchange)
        self.settle([message_id], [(message_id, subscription_id, line)])
        return message_id, subscription_id

    def taken_rows(self):
        taken = self.storage.take(self.storage.join(), 30.0, entries=0, rows=10)
        return {(row.message_id, row.subscription_id): row for row in taken.rows}

    def test_one(self):
        message_id, subscription_id = self.ended()
        other = self.subscribe(1)
        [listed] = self.deliveries(f"messages/{message_id}")
        one = self.ok("GET", path_of(message_id, subscription_id)).json
        [attempt] = one.pop("attempts")
        self.assertEqual(one | {"attempts": [attempt | {"exchange": SHOWN_EXCHANGE}]}, one | {"attempts": [attempt]})
        self.assertNotIn("exchange", listed["attempts"][0])
        self.assertEqual(self.ok("GET", path_of(message_id, subscription_id) + "?exchanges=false").json, listed)
        for unknown in (other, "0" * 16, "7" + "f" * 15, "x", "%00"):
            self.refused(404, "GET", path_of(message_id, unknown))
            self.refused(404, "GET", path_of(unknown, subscription_id))
        self.refused(404, "GET", f"/v2/queues/other/messages/{message_id}/deliveries/{subscription_id}")
        self.refused(400, "GET", path_of(message_id, subscription_id) + "?exchanges=maybe")

    def test_one_of_several(self):
        ids = [self.subscribe(number) for number in range(3)]
        [message_id] = self.post("x")
        for subscription_id in ids:
            self.assertEqual(self.ok("GET", path_of(message_id, subscription_id)).json["subscription_id"], subscription_id)

    def test_one_answers_after_message_and_subscription_are_deleted(self):
        message_id, subscription_id = self.ended()
        self.ok("DELETE", f"{QUEUE}/messages/{message_id}", status=204)
        self.ok("DELETE", f"{QUEUE}/subscriptions/{subscription_id}", status=204)
        self.assertEqual(self.ok("GET", path_of(message_id, subscription_id)).json["state"], "dead")

    def test_exchanges_in_listings(self):
        message_id, subscription_id = self.ended()
        for path in (f"messages/{message_id}", f"subscriptions/{subscription_id}"):
            for query, expected in (("", None), ("?exchanges=false", None), ("?exchanges=true", SHOWN_EXCHANGE)):
                [delivery] = self.ok("GET", f"{QUEUE}/{path}/deliveries{query}").json["deliveries"]
                self.assertEqual(delivery["attempts"][0].get("exchange"), expected)

    def test_an_exchange_that_was_not_recorded(self):
        message_id, subscription_id = self.ended(exchange=None)
        self.assertIsNone(self.ok("GET", path_of(message_id, subscription_id)).json["attempts"][0]["exchange"])

    # -- again, or not at all -----------------------------------------------------------------------------------------------

    def test_redeliver(self):
        for state, outcome in ((State.DEAD, OutcomeKind.RETRY), (State.DELIVERED, OutcomeKind.DELIVERED)):
            message_id, subscription_id = self.ended(state, outcome)
            self.wakes.clear()
            path = path_of(message_id, subscription_id)
            answer = self.ok("POST", f"{path}/redeliver", status=202)
            self.assertEqual((answer.text, answer.headers["location"]), ("", path))
            self.assertTrue(self.wakes)
            self.assertEqual(self.ok("GET", path).json["state"], "pending")
            row = self.taken_rows()[message_id, subscription_id]
            self.assertEqual((row.attempts, row.lines), (0, 1))
            self.assertAlmostEqual(row.expires_at, self.clock.now + 3600, delta=1)
            self.ok("DELETE", f"{QUEUE}/subscriptions/{subscription_id}", status=204)

    def test_redeliver_with_a_ttl(self):
        message_id, subscription_id = self.ended()
        self.ok("PUT", QUEUE, {"_default_message_ttl": 7200}, status=204)
        path = path_of(message_id, subscription_id, "/redeliver")
        for document, ttl in (({"ttl": 60}, 60), ({"ttl": 1209600}, 1209600), ({"ttl": None}, 7200), ({"else": 1}, 7200)):
            self.ok("POST", path, document, status=202)
            row = self.taken_rows()[message_id, subscription_id]
            self.assertAlmostEqual(row.expires_at, self.clock.now + ttl, delta=1)
            self.ok("POST", path_of(message_id, subscription_id, "/cancel"), status=204)

    def test_redeliver_refused(self):
        message_id, subscription_id = self.ended()
        path = path_of(message_id, subscription_id, "/redeliver")
        for document in ([], "x", 5, {"ttl": 59}, {"ttl": 1209601}, {"ttl": "60"}, {"ttl": 60.0}, {"ttl": True}):
            with self.subTest(document=document):
                self.refused(400, "POST", path, document)
        self.refused(400, "POST", path, body="{")
        self.wakes.clear()
        for unknown in ("0" * 16, "x", "%00", "%ff"):
            self.refused(404, "POST", path_of(message_id, unknown, "/redeliver"))
            self.refused(404, "POST", path_of(unknown, subscription_id, "/redeliver"))
        self.assertEqual(self.wakes, [])
        self.ok("POST", path, status=202)
        self.refused(409, "POST", path)

    def test_redeliver_to_one_that_is_gone(self):
        message_id, subscription_id = self.ended()
        self.ok("DELETE", f"{QUEUE}/subscriptions/{subscription_id}", status=204)
        self.refused(404, "POST", path_of(message_id, subscription_id, "/redeliver"))

    # -- a whole subscription again -----------------------------------------------------------------------------------------

    def replay(self, subscription_id, **document):
        answer = self.ok("POST", f"{QUEUE}/subscriptions/{subscription_id}/replay", document, status=202)
        job = self.storage.get_job(answer.json["job_id"])
        self.assertEqual(
            ("p", REPLAY, "q", subscription_id),
            (job.project, job.kind, *(job.details[k] for k in ("queue", "subscription_id"))),
        )
        return {name: job.details[name] for name in ("states", "since", "until", "ttl")}

    def test_a_replay_is_a_job(self):
        subscription_id = self.subscribe()
        now = self.clock.now
        self.assertEqual(
            {"states": ["dead", "expired"], "since": 5.5, "until": now, "ttl": 3600}, self.replay(subscription_id, since=5.5)
        )
        self.assertTrue(self.wakes)

    def test_a_replay_of_ones_own_choice(self):
        self.ok("PUT", QUEUE, {"_default_message_ttl": 7200}, status=201)
        for number, (document, expected) in enumerate(
            (
                ({"since": "1970-01-01T00:01:00Z", "until": "1970-01-01T01:02:00+01:00"}, (60, 120, ["dead", "expired"], 7200)),
                ({"since": "60", "until": 2000000000, "states": ["gone", "delivered"]}, (60, 2e9, ["delivered", "gone"], 7200)),
                ({"since": 0, "until": None, "states": None, "ttl": 60}, (0, self.clock.now, ["dead", "expired"], 60)),
            )
        ):
            with self.subTest(document=document):
                found = self.replay(self.subscribe(number), **document)
                self.assertEqual(expected, (found["since"], found["until"], found["states"], found["ttl"]))

    def test_a_replay_refused(self):
        subscription_id = self.subscribe()
        path = f"{QUEUE}/subscriptions/{subscription_id}/replay"
        for document in (
            *([], {}, {"since": None}, {"since": True}, {"since": -1}, {"since": "soon"}, {"since": []}, {"since": 1e12}),
            *({"since": 2, "until": 2}, {"since": 2, "until": "1"}, {"since": self.clock.now}),
            *({"since": 0, "states": states} for states in ([], "dead", ["pending"], ["in_flight"], [1], [["dead"]], {})),
            *({"since": 0, "ttl": ttl} for ttl in (59, "60", True)),
        ):
            with self.subTest(document=document):
                self.refused(400, "POST", path, document)
        self.refused(400, "POST", path)
        for unknown in ("0" * 16, "x", "%00"):
            self.refused(404, "POST", f"{QUEUE}/subscriptions/{unknown}/replay", {"since": 0})
        self.assertEqual([], self.storage.list_jobs(None, 1))

    def test_one_replay_of_a_subscription_and_so_many_of_a_project(self):
        ids = map(self.subscribe, range(replays.MOST_AT_ONCE + 1))
        first, *others = (f"{QUEUE}/subscriptions/{subscription_id}/replay" for subscription_id in ids)
        self.ok("POST", first, {"since": 0}, status=202)
        self.refused(409, "POST", first, {"since": 0}, text="under way")
        for other in others[:-1]:
            self.ok("POST", other, {"since": 0}, status=202)
        self.refused(409, "POST", others[-1], {"since": 0}, text="10 replays")
        worker = self.storage.join()
        job = self.storage.hold_job(worker, 30.0)
        self.storage.finish_job(worker, job.id)
        self.ok("POST", first, {"since": 0}, status=202)

    def test_cancel(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        path = path_of(message_id, subscription_id)
        answer = self.ok("POST", f"{path}/cancel", status=204)
        self.assertEqual(answer.headers["location"], path)
        self.assertEqual(self.ok("GET", path).json["state"], "cancelled")
        self.refused(409, "POST", f"{path}/cancel")
        for unknown in ("0" * 16, "x", "%00", "%ff"):
            self.refused(404, "POST", path_of(message_id, unknown, "/cancel"))
            self.refused(404, "POST", path_of(unknown, subscription_id, "/cancel"))

    # -- filters --------------------------------------------------------------------------------------------------------------

    def mixed(self):
        """Messages that came to different ends, one each second: a subscription's id, and those of the messages."""
        subscription_id = self.subscribe()
        states = [State.DELIVERED, State.DEAD, State.EXPIRED, State.PENDING]
        message_ids = self.post(*range(len(states)))
        lines = [
            (message_id, subscription_id, LogEntry(1, self.clock.now + second, state, OutcomeKind.RETRY))
            for second, (message_id, state) in enumerate(zip(message_ids[:3], states, strict=False))
        ]
        self.settle_some(message_ids, lines)
        return subscription_id, message_ids

    def settle_some(self, message_ids, lines):
        """The others stay in the outbox."""
        taken = self.storage.take(self.storage.join(), 30.0, entries=1000, rows=0)
        settled = {message_id for message_id, *_ in lines}
        settlements = [
            Settlement(message_id, subscription_id, taken.token, False, log=log) for message_id, subscription_id, log in lines
        ]
        self.storage.settle(settlements, [Closing(message_id, taken.token) for message_id in settled])
        self.storage.give_back(taken.token, set(message_ids) - settled)

    def found(self, subscription_id, **query):
        path = f"{QUEUE}/subscriptions/{subscription_id}/deliveries"
        pages = self.walk(path, "deliveries", urllib.parse.urlencode(query))
        return [delivery["message_id"] for page in pages for delivery in page]

    def test_by_state(self):
        subscription_id, [delivered, dead, expired, pending] = self.mixed()
        for asked, expected in (
            ("delivered", [delivered]),
            ("dead", [dead]),
            ("dead,expired", [expired, dead]),
            ("pending", [pending]),
            ("dead,,dead", [dead]),
            ("gone", []),
        ):
            self.assertEqual(self.found(subscription_id, state=asked), expected, asked)
        both = self.ok("GET", f"{QUEUE}/subscriptions/{subscription_id}/deliveries?state=dead&state=delivered").json
        self.assertEqual([one["message_id"] for one in both["deliveries"]], [dead, delivered])
        [of_message] = self.ok("GET", f"{QUEUE}/messages/{dead}/deliveries?state=dead").json["deliveries"]
        self.assertEqual(of_message["subscription_id"], subscription_id)
        self.assertEqual(self.ok("GET", f"{QUEUE}/messages/{dead}/deliveries?state=delivered").json["deliveries"], [])

    def test_by_time(self):
        subscription_id, [delivered, dead, expired, _] = self.mixed()
        at = self.clock.now
        for query, expected in (
            ({"since": at}, [expired, dead, delivered]),
            ({"since": at + 0.5}, [expired, dead]),
            ({"until": at + 2}, [dead, delivered]),
            ({"since": at + 1, "until": at + 2}, [dead]),
            ({"since": at + 3}, []),
            ({"since": at, "state": "dead"}, [dead]),
            ({"since": "2023-11-14T22:13:21Z"}, [expired, dead]),
            ({"since": "2023-11-14T22:13:21"}, [expired, dead]),
            ({"since": "2023-11-15T00:13:21+02:00"}, [expired, dead]),
            ({"since": "2023-11-14"}, [expired, dead, delivered]),
        ):
            with self.subTest(query=query):
                self.assertEqual(self.found(subscription_id, **query), expected)
        path = f"{QUEUE}/subscriptions/{subscription_id}/deliveries?since=2023-11-15T00:13:21+02:00"
        self.assertEqual(len(self.ok("GET", path).json["deliveries"]), 2, "a + that nobody has encoded")

    def test_filters_refused(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        for path in (f"messages/{message_id}", f"subscriptions/{subscription_id}"):
            for query in (
                {"state": "nonsense"},
                {"state": "dead,Dead"},
                {"state": ","},
                {"state": "\0"},
                {"since": "yesterday"},
                {"since": "-1"},
                {"since": "nan"},
                {"since": "1e9"},
                {"until": "9" * 400},
                {"since": "2", "until": "2"},
                {"exchanges": "perhaps"},
            ):
                with self.subTest(path=path, query=query):
                    self.refused(400, "GET", f"{QUEUE}/{path}/deliveries?{urllib.parse.urlencode(query)}")

    def test_filters_of_what_is_unknown(self):
        self.refused(404, "GET", f"{QUEUE}/messages/{'0' * 16}/deliveries?state=dead")
        self.refused(404, "GET", f"{QUEUE}/subscriptions/{'0' * 16}/deliveries?since=0")

    def test_pages_of_what_is_filtered(self):
        subscription_id = self.subscribe()
        message_ids = self.post(*range(30))
        lines = [
            (
                message_id,
                subscription_id,
                LogEntry(1, self.clock.now, State.DELIVERED if n % 3 else State.DEAD, OutcomeKind.RETRY, exchange=EXCHANGE),
            )
            for n, message_id in enumerate(message_ids)
        ]
        self.settle(message_ids, lines)
        path = f"{QUEUE}/subscriptions/{subscription_id}/deliveries"
        query = "state=dead&since=2023-11-14T22:13:20%2B00:00&exchanges=true"
        for limit in (1, 3, 20):
            pages = list(self.walk(path, "deliveries", f"{query}&limit={limit}"))
            self.assertEqual([one["message_id"] for page in pages for one in page], message_ids[27::-3])
            self.assertTrue(all(len(page) <= limit for page in pages))
            self.assertTrue(all(one["attempts"][0]["exchange"] for page in pages for one in page))

    def test_a_request_looks_at_so_many_and_no_more(self):
        subscription_id = self.subscribe()
        message_ids = [one for _ in range(13) for one in self.post(*range(100))]
        oldest = message_ids[0]
        lines = [
            (message_id, subscription_id, LogEntry(1, self.clock.now, State.DELIVERED, OutcomeKind.DELIVERED))
            for message_id in message_ids[1:]
        ]
        lines.append((oldest, subscription_id, LogEntry(1, self.clock.now, State.DEAD, OutcomeKind.RETRY)))
        self.settle_some(message_ids, lines)
        looked_at = []
        read = self.storage.subscription_deliveries

        def counting(*arguments, **options):
            found = read(*arguments, **options)
            looked_at[-1] += len(found)
            return found

        self.storage.subscription_deliveries = counting
        pages = []
        href = f"{QUEUE}/subscriptions/{subscription_id}/deliveries?state=dead"
        while href:
            looked_at.append(0)
            page = self.ok("GET", href).json
            pages.append([one["message_id"] for one in page["deliveries"]])
            href = page["links"][0]["href"] if page["links"] else None
        self.assertEqual(pages, [[], [oldest]])
        self.assertEqual(looked_at, [deliveries.MOST_LOOKED_AT, 300])

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


class ReceiptTests:
    """What is heard of a delivery when it was delivered."""

    def test_receipts(self):
        subscription_id = self.subscribe()
        message_id = self.deliver(subscription_id, target=2)
        at = self.clock.now
        shown = [self.one(message_id, subscription_id)]
        for kind, detail in ((ReceiptKind.DEVICE, "250 ok"), (ReceiptKind.ACKNOWLEDGED, "")):
            self.clock.now += 1.5
            self.assertTrue(self.storage.receive(message_id, subscription_id, Receipt(kind, self.clock.now, detail)))
            shown.append(self.one(message_id, subscription_id))
        device = {"kind": "delivered_to_device", "at": at + 1.5, "detail": "250 ok"}
        acknowledged = {"kind": "acknowledged", "at": at + 3, "detail": None}
        self.assertEqual([one["receipts"] for one in shown], [[], [device], [device, acknowledged]])
        self.assertEqual([one["acknowledged_at"] for one in shown], [None, None, at + 3])
        self.assertEqual([one["progress"] for one in shown], ["accepted", "delivered_to_device", "acknowledged"])
        self.assertEqual({one["attempts"][0]["fallback"] for one in shown}, {2})
        for path in (f"messages/{message_id}", f"subscriptions/{subscription_id}"):
            [listed] = self.ok("GET", f"{QUEUE}/{path}/deliveries?exchanges=true").json["deliveries"]
            self.assertEqual(listed, shown[-1])

    def test_a_failure(self):
        subscription_id = self.subscribe()
        message_id = self.deliver(subscription_id)
        self.storage.receive(message_id, subscription_id, Receipt(ReceiptKind.FAILED, self.clock.now, "5.1.1 no such user"))
        shown = self.one(message_id, subscription_id)
        self.assertEqual((shown["state"], shown["progress"]), ("pending", "failed"))
        self.assertNotIn("fallback", shown["attempts"][0])

    def one(self, message_id, subscription_id):
        return self.ok("GET", path_of(message_id, subscription_id)).json


class ProgressTest(unittest.TestCase):
    def progress(self, state, *heard, at=100.0):
        line = LogEntry(1, at, state, OutcomeKind.DELIVERED)
        receipts = tuple(Receipt(kind, when) for kind, when in heard)
        return deliveries.progress(DeliveryRecord("1", "2", state, None, (line,), receipts))

    def test_nothing_was_heard(self):
        for state in State:
            self.assertEqual(self.progress(state), "accepted" if state is State.DELIVERED else None)
        self.assertIsNone(deliveries.progress(DeliveryRecord("1", "2", State.PENDING, None, ())))

    def test_what_was_heard_last_counts(self):
        device, failed = (ReceiptKind.DEVICE, 101.0), (ReceiptKind.FAILED, 102.0)
        self.assertEqual(self.progress(State.DELIVERED, device), "delivered_to_device")
        self.assertEqual(self.progress(State.DEAD, device, failed), "failed")
        self.assertEqual(self.progress(State.DEAD, failed, (ReceiptKind.DEVICE, 103.0)), "delivered_to_device")

    def test_who_has_acknowledged_has_it(self):
        acknowledged = (ReceiptKind.ACKNOWLEDGED, 99.0)
        self.assertEqual(self.progress(State.DELIVERED, acknowledged), "acknowledged")
        self.assertEqual(self.progress(State.DEAD, acknowledged, (ReceiptKind.FAILED, 102.0)), "acknowledged")

    def test_a_failure_before_it_was_delivered_elsewhere(self):
        failed = (ReceiptKind.FAILED, 102.0)
        self.assertEqual(self.progress(State.DELIVERED, failed, at=103.0), "accepted")
        self.assertEqual(self.progress(State.DELIVERED, (ReceiptKind.DEVICE, 101.0), failed, at=103.0), "delivered_to_device")
        self.assertEqual(self.progress(State.DELIVERED, failed, at=101.0), "failed")
        self.assertEqual(self.progress(State.PENDING, failed, at=103.0), "failed")


class ReceiptMemoryTest(OverMemory, ReceiptTests, ApiCase):
    pass


class ReceiptSqlTest(OverSql, ReceiptTests, ApiCase):
    pass


class DeliveryMemoryTest(OverMemory, DeliveryTests, ApiCase):
    pass


class DeliverySqlTest(OverSql, DeliveryTests, ApiCase):
    pass
