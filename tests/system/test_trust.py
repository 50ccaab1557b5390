"""Breakers, dead letters, disabling and alerts while workers are killed: real processes, real endpoints."""

from __future__ import annotations

import collections
import signal
import time
from typing import Any

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.engines import OnSQLite
from tests.system.service import Service, wait_for

OPTIONS = """
[worker]
poll_interval = 0.1
breaker_wait = 0.3
breaker_wait_max = 0.5
release_rate = 1000
[notification]
retry_schedule = 0, 0.1, 0.1
retry_jitter = 0
alert_queue = alerts
"""


class TrustCase(OnSQLite):
    options = OPTIONS

    def setUp(self) -> None:
        self.service = Service(self, self.options, storage=self.new_storage())
        self.service.start_api()
        self.worker = self.service.start("worker")

    def endpoint(self, **behaviour: object) -> Endpoint:
        endpoint = Endpoint(**behaviour)
        endpoints = Endpoints(endpoint)
        endpoints.__enter__()
        self.addCleanup(endpoints.__exit__)
        return endpoint

    def kill_and_start(self) -> None:
        self.service.kill(self.worker, signal.SIGKILL)
        self.worker = self.service.start("worker")

    def everything(self, path: str, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while path:
            status, answer = self.service.request("GET", path)
            self.assertEqual(status, 200, answer)
            found += answer[kind]
            path = next((link["href"] for link in answer["links"] if answer[kind]), "")
        return found

    def messages(self, queue: str) -> list[dict[str, Any]]:
        return self.everything(f"/v2/queues/{queue}/messages?echo=true&limit=20", "messages")

    def states(self, subscription: str) -> collections.Counter[str]:
        path = f"/v2/queues/demo/subscriptions/{subscription}/deliveries?limit=20"
        return collections.Counter(delivery["state"] for delivery in self.everything(path, "deliveries"))

    def subscription(self, subscription: str) -> dict[str, Any]:
        return self.service.request("GET", f"/v2/queues/demo/subscriptions/{subscription}")[1]


class KillTest(TrustCase):
    # A breaker would let the failing endpoint have a probe now and then only.
    options = OPTIONS.replace("breaker_wait =", "breaker_attempts = 100000\nbreaker_wait =")

    def test_kills_lose_neither_deliveries_nor_letters_nor_alerts(self) -> None:
        healthy, failing, gone = self.endpoint(), self.endpoint(status=lambda _: 500), self.endpoint(status=lambda _: 410)
        good = self.service.subscribe(healthy.url)["subscription_id"]
        bad = self.service.subscribe(failing.url, options={"dead_letter_queue": "letters"})["subscription_id"]
        left = self.service.subscribe(gone.url)["subscription_id"]
        posted: list[str] = []
        for _ in range(4):
            for _ in range(10):
                posted += self.service.post(1, 2)
            self.kill_and_start()
        wait_for(lambda: self.states(good) == {"delivered": len(posted)}, "the healthy ones")
        wait_for(lambda: self.states(bad) == {"dead": len(posted)}, "the dead ones")
        letters = collections.Counter(letter["attributes"]["dead_letter_message_id"] for letter in self.messages("letters"))
        self.assertEqual(letters, dict.fromkeys(posted, 1), "one letter for each, with the end that it tells of")
        states = self.states(left)
        self.assertEqual(states["gone"] + states["suppressed"], len(posted), states)
        self.assertEqual(self.subscription(left)["disabled"]["enable_by"], "owner")
        told = collections.Counter(
            (alert["body"]["event"], alert["body"]["subscription_id"]) for alert in self.messages("alerts")
        )
        self.assertEqual(
            told, {("delivery.dead", bad): 1, ("delivery.dead", left): 1, ("subscription.disabled", left): 1}, "once an hour"
        )


class BreakerTest(TrustCase):
    options = OPTIONS.replace("breaker_wait = 0.3\nbreaker_wait_max = 0.5", "breaker_wait = 2\nbreaker_wait_max = 2")

    def test_an_open_breaker_outlives_the_worker_and_its_endpoint_is_served_when_it_is_back(self) -> None:
        down = [True]
        endpoint = self.endpoint(status=lambda _: 500 if down[0] else 200)
        subscription = self.service.subscribe(endpoint.url, options={"max_attempts": 100})["subscription_id"]
        posted = self.service.post(*range(20))
        # What is parked is stored together with the breaker, or after it.
        wait_for(lambda: self.states(subscription)["parked"], "the breaker to open")
        self.kill_and_start()
        wait_for(lambda: self.service.log("worker").count("is ready") == 2, "the next worker")
        time.sleep(0.2)
        attempts = len(endpoint.arrivals)
        posted += self.service.post(*range(30))
        time.sleep(1.0)
        self.assertLess(len(endpoint.arrivals) - attempts, 10, "only probes")
        down[0] = False
        wait_for(lambda: self.states(subscription) == {"delivered": len(posted)}, "all of them")

    def test_a_dead_endpoint_leaves_its_neighbours_alone(self) -> None:
        healthy, dead = self.endpoint(), self.endpoint(status=lambda _: None)
        good = self.service.subscribe(healthy.url)["subscription_id"]
        self.service.subscribe(dead.url)
        posted = self.service.post(*range(100))
        wait_for(lambda: self.states(good) == {"delivered": len(posted)}, "the healthy ones")
