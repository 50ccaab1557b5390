"""`zaqar_notify.testing`: good notifiers pass, and for each thing that one can get wrong there is a test that says so."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import unittest
from collections.abc import Sequence
from typing import Any, ClassVar

from oslo_config import cfg

from tests.notifiers.telling import Tell, TellMany, TellServer, address, tell
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.model import Delivery, Exchange, Outcome, OutcomeKind, Subscription
from zaqar_notify.notifiers.base import Notifier, Report, SingleNotifier
from zaqar_notify.testing import NotifierConformance

DELIVERED = Outcome(OutcomeKind.DELIVERED)
PASSWORD = "s3cret-of-the-test"


class TellConformance(NotifierConformance):
    scheme = "tell"
    notifier: ClassVar[type[Notifier]] = Tell
    bad_targets = ("tell://host", "tell:", "tell://host:x")
    bad_options = ({"loud": "yes"},)
    secrets = (PASSWORD,)

    def setUp(self) -> None:
        self.server = TellServer(self)

    def good(self) -> str:
        return f"tell://{self.server.address}"

    def arrived(self) -> int:
        return len(self.server.told)

    def at(self, address: str) -> str:
        return f"tell://{address}"

    def configuration(self) -> dict[str, Any]:
        return {"tell": {"password": PASSWORD}}


class Digesting(Tell):
    digests = True


class DigestingMany(TellMany):
    digests = True


class SingleTest(TellConformance, unittest.TestCase):
    notifier = Digesting


class BatchTest(TellConformance, unittest.TestCase):
    notifier = DigestingMany


# -- what is wrong with these stands in the table below -----------------------------------------------------------------------


class NoNotifier:
    pass


class Secretive(Tell):
    options = [cfg.StrOpt("api_key", help="Seen by everybody.")]


class Helpless(Tell):
    options = [cfg.StrOpt("mode")]


class Multiple(Tell):
    options = [cfg.MultiStrOpt("many", help="The environment cannot say it.")]


class Demanding(Tell):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self.conf.password is None:
            raise CannotStart("[tell] password is not set")


class Strict(Tell):
    def check(self, subscription: Subscription) -> None:
        raise InvalidRequest("Never.")


class Lax(Tell):
    def check(self, subscription: Subscription) -> None:
        pass


class Mute(Tell):
    def check(self, subscription: Subscription) -> None:
        try:
            super().check(subscription)
        except InvalidRequest:
            raise InvalidRequest("") from None


class Wrong(Tell):
    def check(self, subscription: Subscription) -> None:
        try:
            super().check(subscription)
        except InvalidRequest as error:
            raise ValueError from error


class LooksUp(Tell):
    def check(self, subscription: Subscription) -> None:
        super().check(subscription)
        socket.getaddrinfo("localhost", 80)


class LooksUpInLane(Tell):
    def lane(self, subscription: Subscription) -> str:
        return socket.gethostbyname("localhost")


class NoLane(Tell):
    def lane(self, subscription: Subscription) -> str:
        return ""


class ManyLanes(Tell):
    def lane(self, subscription: Subscription) -> str:
        return str(id(object())) + os.urandom(4).hex()


class TellingLane(Tell):
    def lane(self, subscription: Subscription) -> str:
        return f"lane {self.conf.password}"


class NoTimeout(Tell):
    def timeout(self, subscription: Subscription) -> float:
        return -1.0


class NoWindow(Tell):
    def window(self, subscription: Subscription) -> Any:
        return "w", 60.0, 30.0


class Nothing(Tell):
    def send(self, delivery: Delivery) -> Outcome:
        return DELIVERED


class Again(Tell):
    def send(self, delivery: Delivery) -> Outcome:
        tell(delivery)
        return tell(delivery)


class Careless(Tell):
    """Of what stands in a body."""

    def send(self, delivery: Delivery) -> Outcome:
        delivery.message.body["hello"]
        return tell(delivery)


class Raises(Tell):
    def send(self, delivery: Delivery) -> Outcome:
        with socket.create_connection(address(delivery.subscription)):
            return tell(delivery)


class Patient(Tell):
    def send(self, delivery: Delivery) -> Outcome:
        return tell(dataclasses.replace(delivery, deadline=delivery.deadline + 3.0))


class Silent(Tell):
    """About why."""

    def send(self, delivery: Delivery) -> Outcome:
        return dataclasses.replace(tell(delivery), detail="")


class Telltale(Tell):
    def send(self, delivery: Delivery) -> Outcome:
        return dataclasses.replace(tell(delivery), detail=f"with {self.conf.password}")


class Logs(Tell):
    def send(self, delivery: Delivery) -> Outcome:
        self.log.debug("with %s", self.conf.password)
        return tell(delivery)


class Unsound(Tell):
    def send(self, delivery: Delivery) -> Outcome:
        return dataclasses.replace(tell(delivery), exchange=Exchange({"sent": b"bytes"}))


class Scatters(Tell):
    """A digest into its parts."""

    digests = True

    def send(self, delivery: Delivery) -> Outcome:
        for other in delivery.others:
            tell(other)
        return tell(delivery)


class Wet(Tell):
    """When it should run dry."""

    def send(self, delivery: Delivery) -> Outcome:
        return tell(delivery)


class LeaksSockets(Tell):
    left: ClassVar[list[socket.socket]] = []

    def send(self, delivery: Delivery) -> Outcome:
        self.left.append(socket.socket())
        return tell(delivery)


class LeaksThreads(Tell):
    end = threading.Event()

    def send(self, delivery: Delivery) -> Outcome:
        threading.Thread(target=self.end.wait, daemon=True).start()
        return tell(delivery)


class ClosesOnce(Tell):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError
        self.closed = True


class OpensLate(Tell):
    connection: socket.socket

    def send(self, delivery: Delivery) -> Outcome:
        self.connection = socket.socket()
        return tell(delivery)

    def close(self) -> None:
        self.connection.close()


class Twice(TellMany):
    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        def both(delivery: Delivery, outcome: Outcome) -> None:
            report(delivery, outcome)
            report(delivery, outcome)

        super().send_many(deliveries, both)


class Copies(TellMany):
    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        super().send_many([dataclasses.replace(delivery) for delivery in deliveries], report)


class Strange(TellMany):
    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        super().send_many(deliveries, lambda delivery, outcome: report(delivery, outcome) or report(outcome, delivery))


class Forgets(TellMany):
    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        super().send_many(deliveries[:20], report)


class AllOrNothing(TellMany):
    """One that is bad stops those behind it."""

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        outcomes = [tell(delivery) for delivery in deliveries]
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            report(delivery, outcome)


TABLE: Sequence[tuple[Any, str, str]] = (
    (NoNotifier, "test_it_is_a_plugin", "neither a SingleNotifier nor a BatchNotifier"),
    (SingleNotifier, "test_it_is_a_plugin", "lacks send"),
    (None, "test_it_is_a_plugin", "0 packages serve tell"),
    (Secretive, "test_it_is_a_plugin", "looks like a secret"),
    (Helpless, "test_it_is_a_plugin", "has no help text"),
    (Multiple, "test_it_is_a_plugin", "has one value"),
    (Demanding, "test_it_starts_without_any_configuration", "password is not set"),
    (Strict, "test_good_targets_are_accepted", "Never"),
    (LooksUp, "test_good_targets_are_accepted", "has to do no I/O"),
    (Lax, "test_bad_targets_are_refused", "InvalidRequest not raised"),
    (Mute, "test_bad_targets_are_refused", "not told what to change"),
    (Wrong, "test_bad_targets_are_refused", "ValueError"),
    (Lax, "test_bad_options_are_refused", "InvalidRequest not raised"),
    (LooksUpInLane, "test_lane_timeout_and_window", "has to do no I/O"),
    (NoLane, "test_lane_timeout_and_window", "no name for a lane"),
    (ManyLanes, "test_lane_timeout_and_window", "another one each time"),
    (TellingLane, "test_lane_timeout_and_window", "tells a secret"),
    (NoTimeout, "test_lane_timeout_and_window", "no timeout"),
    (NoWindow, "test_lane_timeout_and_window", "no window"),
    (Nothing, "test_a_good_target_gets_it_once", "should have arrived"),
    (Again, "test_a_good_target_gets_it_once", "should have arrived"),
    (Unsound, "test_a_good_target_gets_it_once", "not stored as it is"),
    (Careless, "test_anything_may_be_the_body", "The notifier failed: TypeError"),
    (Nothing, "test_a_bad_target_is_no_success", "unexpectedly identical"),
    (Raises, "test_a_bad_target_is_no_success", "an outcome, not an exception"),
    (Silent, "test_a_bad_target_is_no_success", "nobody is told why"),
    (Nothing, "test_a_target_where_nobody_is", "unexpectedly identical"),
    (Raises, "test_a_target_where_nobody_is", "an outcome, not an exception"),
    (Nothing, "test_a_target_that_hangs", "unexpectedly identical"),
    (Patient, "test_a_target_that_hangs", "after its deadline the attempt was not over"),
    (Nothing, "test_a_bug_costs_its_own_delivery", "never looked at"),
    (AllOrNothing, "test_a_bug_costs_its_own_delivery", "has nothing to do with it"),
    (Forgets, "test_many_at_once", r"\d+ of 50 deliveries were never reported"),
    (Twice, "test_many_at_once", "reported 2 times"),
    (Copies, "test_many_at_once", r"\d+ of 50 deliveries were never reported"),
    (Strange, "test_many_at_once", "no delivery"),
    (Scatters, "test_a_digest_is_one_notification", "should have arrived"),
    (Wet, "test_a_dry_run_sends_nothing", "should have arrived"),
    (Telltale, "test_nothing_secret_is_logged", "the outcome tells a secret"),
    (Logs, "test_nothing_secret_is_logged", "the log tells a secret"),
    (ClosesOnce, "test_close_at_any_time", "RuntimeError"),
    (OpensLate, "test_close_at_any_time", "AttributeError"),
    (LeaksSockets, "test_close_gives_everything_back", "files .sockets ...."),
    (LeaksThreads, "test_close_gives_everything_back", "threads are left"),
)


HASTY = (Nothing, Forgets, Copies, LeaksSockets, LeaksThreads)
"""What they do not do is not to be waited for."""


class BrokenTest(unittest.TestCase):
    def run_test(self, cls: Any, name: str) -> unittest.TestResult:
        patience = 1.0 if cls in HASTY else 10.0
        case = type("Case", (TellConformance, unittest.TestCase), {"notifier": cls, "patience": patience, "hang_grace": 1.5})
        result = unittest.TestResult()
        case(name).run(result)
        return result

    def test_each_mistake_is_found(self) -> None:
        self.addCleanup(LeaksThreads.end.set)
        self.addCleanup(lambda: [one.close() for one in LeaksSockets.left])
        for cls, name, words in TABLE:
            with self.subTest(cls=cls, test=name):
                result = self.run_test(cls, name)
                self.assertEqual(1, result.testsRun)
                self.assertRegex("".join(text for _, text in (*result.failures, *result.errors)), words)

    def test_every_test_can_fail(self) -> None:
        tests = {name for name in dir(NotifierConformance) if name.startswith("test_")}
        self.assertEqual(tests, {name for _, name, _ in TABLE})


class RunnersTest(unittest.TestCase):
    def test_the_mixin_alone_is_no_test(self) -> None:
        found = unittest.defaultTestLoader.loadTestsFromName("zaqar_notify.testing")
        self.assertEqual(0, found.countTestCases())

    def test_it_needs_nothing_that_the_service_does_not_need(self) -> None:
        program = "import sys, zaqar_notify.testing; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
        )
        loaded = {name.partition(".")[0] for name in done.stdout.split()}
        self.assertIn("oslo_config", loaded)
        self.assertEqual(set(), loaded & {"testtools", "stestr", "pytest", "mock", "aiosmtpd", "h2", "pycurl", "requests"})
