"""Plugins that do everything wrong, all in one worker: what they cost is their own deliveries."""

from __future__ import annotations

import signal
from typing import Any
from unittest.mock import ANY

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.engines import OnSQLite
from tests.system.plugins import Plugins
from tests.system.service import WAIT, Service, wait_for

MODULE = """\
import copy
import sys
import threading

from zaqar_notify.model import Draft, Exchange, Outcome, OutcomeKind, Scope
from zaqar_notify.notifiers.base import BatchNotifier, SingleNotifier

DELIVERED = Outcome(OutcomeKind.DELIVERED)


def raising(error):
    def call(self, *arguments):
        raise copy.copy(error)
    return call


class Good(SingleNotifier):
    def send(self, delivery):
        return DELIVERED


class Raises(Good):
    send = raising(ValueError("secret"))


class Exits(Good):
    send = raising(SystemExit(3))


class Interrupts(Good):
    send = raising(KeyboardInterrupt())


class Base(Good):
    send = raising(BaseException("secret"))


class Lane(Good):
    lane = raising(SystemExit(3))


class Timeout(Good):
    timeout = raising(ZeroDivisionError())


class OddTimeout(Good):
    def timeout(self, subscription):
        return "soon"


class OddLane(Good):
    def lane(self, subscription):
        return b"\\x00\\xff" + "\\x00\\udc80".encode("utf-8", "replace")


class Window(Good):
    window = raising(SystemExit(3))


class OddWindow(Good):
    def window(self, subscription):
        return "for ever"


class Returns(Good):
    def send(self, delivery):
        return None


class Publishes(Good):
    def send(self, delivery):
        return Outcome(OutcomeKind.DELIVERED, publish=(("q" * 300, Draft(b"1", 60)),))


class Odd(Good):
    def send(self, delivery):
        return Outcome(OutcomeKind.REJECTED, "a\\x00b\\udc80", 2**70, -1.0, disable=None, credential=7, provider_id="p\\x00",
                       exchange=Exchange({"sent": "a\\x00b"}, {"got": "\\x00"}, {"end": 0.1}))


class BatchExits(BatchNotifier):
    def send_many(self, deliveries, report):
        sys.exit(3)


class Twice(BatchNotifier):
    def send_many(self, deliveries, report):
        for delivery in deliveries:
            report(delivery, DELIVERED)
            report(delivery, Outcome(OutcomeKind.GONE))
            report("something else", DELIVERED)
            report(copy.copy(delivery), Outcome(OutcomeKind.GONE))


class Foreign(BatchNotifier):
    def send_many(self, deliveries, report):
        def run():
            for delivery in deliveries:
                report(delivery, DELIVERED)
            raise SystemExit(3)
        threading.Thread(target=run).start()


class Never(BatchNotifier):
    def timeout(self, subscription):
        return 0.5

    def send_many(self, deliveries, report):
        pass


class Hangs(Good):
    def timeout(self, subscription):
        return 0.5

    def send(self, delivery):
        threading.Event().wait()


class LaneHangs(Good):
    def lane(self, subscription):
        threading.Event().wait()


class BatchHangs(Never):
    def send_many(self, deliveries, report):
        threading.Event().wait()


class Leaky(Good):
    most_threads = 10

    def send(self, delivery):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return DELIVERED


class LeakyBatch(BatchNotifier):
    most_threads = 10

    def send_many(self, deliveries, report):
        for delivery in deliveries:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            report(delivery, DELIVERED)


class Unhashable(Good):
    __hash__ = None


class Checks(Good):
    def check(self, subscription):
        if subscription.subscriber != "checks:good":
            sys.exit(3)


class CloseRaises(Good):
    close = raising(SystemExit(3))


class CloseHangs(Good):
    def close(self):
        threading.Event().wait()
"""

FAULT = "The notifier failed: "
NONE = "The notifier returned no outcome"
EXPECTED: dict[str, tuple[Any, str, str]] = {
    "raises": ("pending", "ours", f"{FAULT}ValueError"),
    "exits": ("pending", "ours", f"{FAULT}SystemExit"),
    "interrupts": ("pending", "ours", f"{FAULT}KeyboardInterrupt"),
    "base": ("pending", "ours", f"{FAULT}BaseException"),
    "lane": ("pending", "ours", f"{FAULT}SystemExit"),
    "timeout": ("pending", "ours", f"{FAULT}ZeroDivisionError"),
    "oddtimeout": ("pending", "ours", f"{FAULT}ValueError"),
    "window": ("pending", "ours", f"{FAULT}SystemExit"),
    "oddwindow": ("pending", "ours", f"{FAULT}ValueError"),
    "returns": ("pending", "ours", NONE),
    "publishes": ("pending", "ours", "The notifier returned a message that cannot be stored"),
    "batchexits": ("pending", "ours", f"{FAULT}SystemExit"),
    "odd": ("dead", "rejected", "a?b?"),
    "oddlane": ("delivered", "delivered", ""),
    "twice": ("delivered", "delivered", ""),
    "foreign": ("delivered", "delivered", ""),
    "unhashable": ("delivered", "delivered", ""),
    "closeraises": ("delivered", "delivered", ""),
    "closehangs": ("delivered", "delivered", ""),
    "never": (ANY, "retry", "The notifier did not answer in time"),
    "lanehangs": ("pending", "ours", "The notifier did not answer within 1 s"),
    "batchhangs": (ANY, "retry", "The notifier did not answer in time"),
    "hangs": (ANY, "retry", "The notifier did not answer in time"),
}
"""Of the first message: its state, the outcome of its first attempt, and why."""
OTHERS = {"leaky": "Leaky", "leakybatch": "LeakyBatch", "checks": "Checks"}
CLASSES = {
    "oddwindow": "OddWindow",
    "lanehangs": "LaneHangs",
    "batchhangs": "BatchHangs",
    "oddtimeout": "OddTimeout",
    "oddlane": "OddLane",
    "batchexits": "BatchExits",
    "closeraises": "CloseRaises",
    "closehangs": "CloseHangs",
}

OPTIONS = """
[worker]
lease = 13
timeout = 2
poll_interval = 0.1
hang_grace = 0.3
stop_timeout = 1
[webhook]
timeout = 2
[notification]
retry_schedule = 0, 0.1
fault_delay = 60
[delivery_log]
record = all
"""
MESSAGES = 40


class MisbehavingPluginsTest(OnSQLite):
    def setUp(self) -> None:
        plugins = Plugins(self)
        schemes = {scheme: CLASSES.get(scheme, scheme.capitalize()) for scheme in EXPECTED}
        plugins.install("misbehaving", MODULE, schemes | OTHERS)
        self.service = Service(self, OPTIONS, plugins.environment, storage=self.new_storage())
        self.service.start_api()

    def found(self, message: str) -> dict[str, dict[str, Any]]:
        return {self.schemes[one["subscription_id"]]: one for one in self.all_deliveries(message)}

    def all_deliveries(self, message: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        path = f"/v2/queues/demo/messages/{message}/deliveries"
        while path:
            status, page = self.service.request("GET", path)
            self.assertEqual(200, status, page)
            found += page["deliveries"]
            path = page["links"][0]["href"] if page["links"] else ""
        return found

    def seen(self, message: str, scheme: str) -> tuple[str, str, str] | None:
        delivery = self.found(message)[scheme]
        first = (delivery["attempts"] or [None])[0]
        return (delivery["state"], first["outcome"], first["error"] or "") if first else None

    def test_they_cost_their_own_deliveries(self) -> None:
        worker = self.service.start("worker")
        self.schemes = {self.service.subscribe(f"{scheme}:x")["subscription_id"]: scheme for scheme in EXPECTED}
        endpoint = Endpoint()
        with Endpoints(endpoint):
            self.schemes[self.service.subscribe(endpoint.url)["subscription_id"]] = "http"
            messages = self.service.post(*range(MESSAGES))
            wait_for(lambda: len(endpoint.arrivals) == MESSAGES, f"the healthy one\n{self.service.log('worker')}")
            for scheme, expected in EXPECTED.items():
                wait_for(
                    lambda scheme=scheme, expected=expected: expected == self.seen(messages[0], scheme),
                    f"{scheme}: {self.seen(messages[0], scheme)}\n{self.service.log('worker')}",
                )
            self.assertIsNone(worker.poll())
            (odd,) = self.found(messages[0])["odd"]["attempts"]
            self.assertEqual((None, "?"), (odd["status"], odd["error"][1]))
            # They are still there, and so is the healthy one.
            (last,) = self.service.post("last")
            wait_for(lambda: self.seen(last, "http") == ("delivered", "delivered", ""), "the last one")
        worker.send_signal(signal.SIGTERM)
        self.assertEqual(0, worker.wait(WAIT))
        log = self.service.log("worker")
        self.assertIn("CloseHangs does not close", log)
        self.assertIn("BatchHangs: send_many does not return", log)
        self.assertNotIn("secret", "".join(self.seen(messages[0], scheme)[2] for scheme in EXPECTED))

    def test_one_that_leaks_threads_is_stopped_and_named(self) -> None:
        self.service.start("worker")
        endpoint = Endpoint()
        with Endpoints(endpoint):
            self.schemes = {
                self.service.subscribe(f"{scheme}:x")["subscription_id"]: scheme for scheme in ("leaky", "leakybatch")
            }
            self.schemes[self.service.subscribe(endpoint.url)["subscription_id"]] = "http"
            posted: list[str] = []

            def stopped(name: str) -> bool:
                posted.extend(self.service.post(*range(20)))
                return f"{name} leaks threads: " in self.service.log("worker")

            for name in ("Leaky", "LeakyBatch"):
                wait_for(lambda name=name: stopped(name), f"{name} to be stopped")
            posted += self.service.post("last")
            for scheme in ("leaky", "leakybatch"):
                wait_for(lambda scheme=scheme: self.found(posted[-1])[scheme]["state"] == "parked", f"{scheme} to be parked")
            wait_for(lambda: len(endpoint.arrivals) == len(posted), "the healthy one")
            for name in ("Leaky", "LeakyBatch"):
                self.assertEqual(1, self.service.log("worker").count(f" {name} leaks threads: "))

    def test_a_check_that_fails_costs_that_request(self) -> None:
        for _ in range(20):  # more than there are threads
            status, answer = self.service.request("POST", "/v2/queues/demo/subscriptions", {"subscriber": "checks:bad"})
            self.assertEqual((500, "The notifier failed: SystemExit"), (status, answer["description"]))
        self.service.subscribe("checks:good")
        self.assertEqual(20, self.service.log("api").count("ERROR zaqar_notify.notifiers.checks: a bug in the notifier"))
