"""A client, the service and its endpoints: real processes, real sockets, and what goes wrong between them."""

from __future__ import annotations

import base64
import collections
import fcntl
import resource
import signal
import time

from standardwebhooks import Webhook

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.engines import OnSQLite
from tests.system.service import HEADERS, Service, wait_for
from tests.system.soak import soak

QUICK = """
[worker]
lease = 13
timeout = 2
poll_interval = 0.1
[webhook]
timeout = 2
[notification]
retry_schedule = 0, 0.1, 0.1
[transport]
min_message_ttl = 1
min_subscription_ttl = 1
"""
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdefghijklmn").decode()


class KillTest(OnSQLite):
    def test_nothing_acknowledged_is_lost(self) -> None:
        result = soak(rounds=3, storage=self.new_storage())
        print(f"soak: {result}")
        self.assertGreater(result.messages, 0)
        self.assertEqual(result.lost, 0)
        self.assertLessEqual(result.duplicates, result.allowed)


class DeliveryCase(OnSQLite):
    options = QUICK

    def setUp(self) -> None:
        self.service = Service(self, self.options, storage=self.new_storage())
        self.service.start_api()

    def endpoint(self, **behaviour: object) -> Endpoint:
        endpoint = Endpoint(**behaviour)
        endpoints = Endpoints(endpoint)
        endpoints.__enter__()
        self.addCleanup(endpoints.__exit__)
        return endpoint

    def wait_delivery(self, message: str, state: str, subscription: str | None = None) -> dict:
        def found() -> dict | None:
            for delivery in self.service.deliveries(message):
                if delivery["state"] == state and subscription in {None, delivery["subscription_id"]}:
                    return delivery
            return None

        return wait_for(found, f"{state}; there is {self.service.deliveries(message)}; log: {self.service.log('worker')}")


class Delivering(DeliveryCase):
    def setUp(self) -> None:
        super().setUp()
        self.worker = self.service.start("worker")

    def test_a_signed_notification_arrives_and_can_be_asked_for(self) -> None:
        endpoint = self.endpoint()
        subscribed = self.service.subscribe(endpoint.url, options={"secret": SECRET, "post_headers": {"x-mine": "1"}})
        (message,) = self.service.post({"hello": "wörld"}, ttl=60)
        delivery = self.wait_delivery(message, "delivered")
        (arrival,) = endpoint.arrivals
        self.assertEqual(
            Webhook(SECRET).verify(arrival.body, arrival.headers),
            {"body": {"hello": "wörld"}, "ttl": 60, "Message_Type": "Notification", "queue_name": "demo"},
        )
        self.assertEqual(arrival.headers["x-mine"], "1")
        self.assertEqual(delivery["subscription_id"], subscribed["subscription_id"])
        (attempt,) = delivery["attempts"]
        self.assertEqual((attempt["number"], attempt["outcome"], attempt["status"]), (1, "delivered", 200))
        self.assertGreater(attempt["duration"], 0)
        _, page = self.service.request("GET", f"/v2/queues/demo/subscriptions/{subscribed['subscription_id']}/deliveries")
        self.assertEqual([one["message_id"] for one in page["deliveries"]], [message])

    def test_a_failure_is_tried_again_with_the_same_id_and_recorded(self) -> None:
        endpoint = self.endpoint(status=lambda seen: 500 if seen == 1 else 200)
        self.service.subscribe(endpoint.url)
        (message,) = self.service.post(1)
        delivery = self.wait_delivery(message, "delivered")
        self.assertEqual([attempt["status"] for attempt in delivery["attempts"]], [500, 200])
        self.assertIn("500", delivery["attempts"][0]["error"])
        self.assertEqual([arrival.headers["zaqar-notify-attempt"] for arrival in endpoint.arrivals], ["1", "2"])
        self.assertEqual(len(endpoint.seen), 1)

    def test_it_dies_when_the_schedule_is_used_up(self) -> None:
        endpoint = self.endpoint(status=lambda _: 500)
        self.service.subscribe(endpoint.url)
        (message,) = self.service.post(1)
        self.assertEqual(len(self.wait_delivery(message, "dead")["attempts"]), 3)

    def test_an_endpoint_that_never_answers_times_out_and_holds_up_nobody(self) -> None:
        silent, healthy = self.endpoint(status=lambda _: None), self.endpoint()
        late = self.service.subscribe(silent.url)["subscription_id"]
        quick = self.service.subscribe(healthy.url)["subscription_id"]
        messages = self.service.post(*range(20))
        for message in messages:
            self.wait_delivery(message, "delivered", quick)
        self.wait_delivery(messages[0], "in_flight", late)
        self.wait_delivery(messages[-1], "parked", late)
        self.assertIn("timeout", self.wait_delivery(messages[0], "dead", late)["attempts"][0]["error"])

    def test_gone_and_the_endpoints_wish_disable_and_the_owner_enables(self) -> None:
        for status, headers, reason, state in (
            (410, "", "gone", "gone"),
            (200, "webhook-delivery: disable\r\n", "webhook-delivery", "delivered"),
            (500, "webhook-delivery: disable\r\n", "webhook-delivery", "refused"),
        ):
            with self.subTest(status=status, headers=headers):
                endpoint = self.endpoint(status=lambda _, status=status: status, headers=headers)
                path = f"/v2/queues/demo/subscriptions/{self.service.subscribe(endpoint.url)['subscription_id']}"
                subscription = path.rpartition("/")[2]
                (message,) = self.service.post(1)
                self.wait_delivery(message, state, subscription)
                disabled = self.service.request("GET", path)[1]["disabled"]
                self.assertEqual((disabled["reason"], disabled["enable_by"]), (reason, "owner"))
                (message,) = self.service.post(2)
                self.wait_delivery(message, "suppressed", subscription)
                endpoint.status, endpoint.headers = lambda _: 200, ""
                self.assertEqual(self.service.request("POST", f"{path}/enable")[0], 204)
                self.assertNotIn("disabled", self.service.request("GET", path)[1])
                (message,) = self.service.post(3)
                self.wait_delivery(message, "delivered", subscription)

    def test_deleting_the_subscription_cancels_deleting_the_message_does_not(self) -> None:
        endpoint = self.endpoint(status=lambda seen: 500 if seen < 3 else 200, delay=0.3)
        subscription = self.service.subscribe(endpoint.url)["subscription_id"]
        (message,) = self.service.post(1)
        wait_for(lambda: endpoint.arrivals, "the first attempt")
        self.service.request("DELETE", f"/v2/queues/demo/messages/{message}")
        self.assertEqual(self.service.request("GET", f"/v2/queues/demo/messages/{message}")[0], 404)
        self.wait_delivery(message, "delivered", subscription)
        (message,) = self.service.post(2)
        wait_for(lambda: len(endpoint.arrivals) > 3, "the next message's first attempt")
        self.service.request("DELETE", f"/v2/queues/demo/subscriptions/{subscription}")
        self.wait_delivery(message, "cancelled", subscription)

    def test_no_secret_in_a_log_or_an_answer(self) -> None:
        self.service.config.write_text(self.service.config.read_text() + "\n[DEFAULT]\ndebug = true\n")
        self.service.kill(self.worker, signal.SIGTERM)
        self.service.start("worker")
        endpoint = self.endpoint(status=lambda seen: 500 if seen == 1 else 200)
        secret = SECRET.removeprefix("whsec_")
        answer = self.service.subscribe(endpoint.url, options={"secret": SECRET})
        made = self.service.subscribe(endpoint.url + "made")["secret"]
        path = f"/v2/queues/demo/subscriptions/{answer['subscription_id']}"
        self.assertEqual(self.service.request("GET", path)[1]["options"]["secret"], "********")
        self.service.request("PATCH", path, {"options": {"secret": "********"}, "ttl": 60})
        self.service.request("PATCH", path, {"options": {"secret": SECRET + "!"}})
        (message,) = self.service.post(1)
        self.wait_delivery(message, "delivered", answer["subscription_id"])
        shown = self.service.log("api") + self.service.log("worker") + str(self.service.deliveries(message))
        shown += str(self.service.request("GET", "/v2/queues/demo/subscriptions"))
        self.assertIn("outcome=retry", shown)
        for hidden in (secret, made.removeprefix("whsec_")):
            self.assertNotIn(hidden, shown)
        for file in self.service.data_dir.rglob("*.db*"):
            if file.is_file():
                self.assertNotIn(secret.encode(), file.read_bytes(), file)

    def test_another_projects_ids_are_unknown(self) -> None:
        endpoint = self.endpoint()
        subscription = self.service.subscribe(endpoint.url)["subscription_id"]
        (message,) = self.service.post(1)
        other = {**HEADERS, "X-Project-ID": "other"}
        for path in (f"messages/{message}", f"messages/{message}/deliveries", f"subscriptions/{subscription}"):
            self.assertEqual(self.service.request("GET", f"/v2/queues/demo/{path}", headers=other)[0], 404, path)


class TwoWorkers(DeliveryCase):
    def test_they_do_not_deliver_twice(self) -> None:
        for _ in range(2):
            self.service.start("worker")
        endpoints = [self.endpoint(), self.endpoint(delay=0.02)]
        subscriptions = [self.service.subscribe(endpoint.url)["subscription_id"] for endpoint in endpoints]
        messages = [message for number in range(40) for message in self.service.post(*range(number, number + 5))]
        for endpoint, subscription in zip(endpoints, subscriptions, strict=True):
            expected = {f"{message}-{subscription}" for message in messages}
            wait_for(lambda: expected <= endpoint.accepted.keys(), "all deliveries")  # noqa: B023
        time.sleep(1)  # time for a second copy to come
        for endpoint in endpoints:
            self.assertEqual(collections.Counter(endpoint.seen.values()), {1: len(messages)})


class TakingOver(DeliveryCase):
    # With such a lease nothing but the freed lock of the dead worker can bring its work back.
    options = QUICK.replace("lease = 13", "lease = 3600").replace("timeout = 2", "timeout = 600")

    def test_what_a_killed_worker_had_is_taken_over_by_another_at_once(self) -> None:
        endpoint = self.endpoint(status=lambda _: None)
        subscription = self.service.subscribe(endpoint.url)["subscription_id"]
        worker = self.service.start("worker")
        messages = self.service.post(*range(4))
        wait_for(lambda: len(endpoint.arrivals) == 2, "the first attempts")  # two at a time, and two that wait
        self.service.start("worker")
        self.wait_delivery(messages[0], "in_flight", subscription)
        endpoint.status = lambda _: 200
        self.service.kill(worker)
        for message in messages:
            self.wait_delivery(message, "delivered", subscription)


class Expiring(DeliveryCase):
    def test_what_expires_before_it_can_be_sent_is_recorded_and_not_sent(self) -> None:
        endpoint, brief = self.endpoint(), self.endpoint()
        kept = self.service.subscribe(endpoint.url)["subscription_id"]
        self.service.subscribe(brief.url, ttl=1)
        (short,) = self.service.post("short", ttl=1)
        (long,) = self.service.post("long")
        time.sleep(1.2)
        self.service.start("worker")
        self.wait_delivery(long, "delivered", kept)
        self.wait_delivery(short, "expired", kept)
        self.assertEqual(len(endpoint.arrivals), 1)
        self.assertEqual(brief.arrivals, [])


class Stopping(DeliveryCase):
    def test_a_stop_waits_for_what_is_under_way_and_a_restart_finds_the_rest(self) -> None:
        endpoint = self.endpoint(delay=0.3)
        subscription = self.service.subscribe(endpoint.url)["subscription_id"]
        messages = self.service.post(*range(10))
        worker = self.service.start("worker")
        wait_for(lambda: endpoint.arrivals, "the first attempt")
        worker.send_signal(signal.SIGTERM)
        self.assertEqual(worker.wait(30), 0)
        self.assertEqual(set(endpoint.seen), set(endpoint.accepted), "cut off in the middle")
        self.service.kill(self.service.processes[0], signal.SIGTERM)
        self.service.start_api()
        messages += self.service.post(*range(5))
        self.service.start("worker")
        for message in messages:
            self.wait_delivery(message, "delivered", subscription)
        self.assertEqual(set(endpoint.seen.values()), {1})


class Outages(DeliveryCase):
    def test_a_full_disk_answers_503_and_loses_nothing_acknowledged(self) -> None:
        endpoint = self.endpoint()
        subscription = self.service.subscribe(endpoint.url)["subscription_id"]
        (api,) = self.service.processes
        self.service.kill(api, signal.SIGTERM)
        # A limit on the size of files stands for the disk: a write beyond it fails, as one on a full disk does.
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
        try:
            api = self.service.start_api()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        acknowledged = []
        body = "x" * 100_000
        for _ in range(200):
            status, answer = self.service.request(
                "POST", "/v2/queues/demo/messages", {"messages": [{"body": body}, {"body": body}]}
            )
            if status != 201:
                break
            acknowledged += [href.rpartition("/")[2] for href in answer["resources"]]
        self.assertEqual((status, set(answer)), (503, {"title", "description"}))
        self.assertTrue(acknowledged)
        self.service.kill(api, signal.SIGTERM)
        self.service.start_api()
        self.service.start("worker")
        for message in acknowledged:
            self.wait_delivery(message, "delivered", subscription)
        self.assertEqual(len(endpoint.seen), len(acknowledged), "what was refused has not been stored in part")

    def test_a_locked_database_answers_503_and_settles_later_without_sending_again(self) -> None:
        self.service.config.write_text(self.service.config.read_text() + "\n[storage]\nbusy_timeout = 0.3\n")
        self.service.kill(self.service.processes[0], signal.SIGTERM)
        self.service.start_api()
        self.service.start("worker")
        endpoint = self.endpoint(delay=0.5)
        subscription = self.service.subscribe(endpoint.url)["subscription_id"]
        (message,) = self.service.post(1)
        wait_for(lambda: endpoint.arrivals, "the attempt")
        with (self.service.data_dir / "zaqar-notify.db.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            status, answer = self.service.request("POST", "/v2/queues/demo/messages", {"messages": [{"body": 2}]})
            self.assertEqual((status, set(answer)), (503, {"title", "description"}))
            self.assertEqual(self.service.request("GET", "/v2/ping")[0], 503)
            wait_for(lambda: endpoint.accepted, "the answer")
            time.sleep(1)
        self.wait_delivery(message, "delivered", subscription)
        (later,) = self.service.post(3)
        self.wait_delivery(later, "delivered", subscription)
        self.assertEqual(set(endpoint.seen.values()), {1})
