"""Schemes that workers of their own serve, in real processes."""

from __future__ import annotations

import pathlib
import signal
import tempfile
import unittest

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.plugins import Plugins
from tests.system.service import WAIT, free_port, wait_for
from tests.system.serving import Client, Program, children_of

MODULE = """\
import os
import pathlib

from zaqar_notify.model import Outcome, OutcomeKind
from zaqar_notify.notifiers.base import SingleNotifier


class DyingNotifier(SingleNotifier):
    def send(self, delivery):
        deadly = pathlib.Path(delivery.subscription.subscriber.removeprefix("die:"))
        if deadly.exists():
            os._exit(3)
        deadly.with_name(f"sent-by-{os.getpid()}").touch()
        return Outcome(OutcomeKind.DELIVERED)
"""


class ApartTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.plugins = Plugins(self)
        self.plugins.install("dying-notifier", MODULE, {"die": "DyingNotifier"})
        self.port = free_port()
        self.client = Client(f"http://127.0.0.1:{self.port}")

    def serve(self, **environment: str) -> Program:
        words = ["serve", "--port", str(self.port), "--data", str(self.directory / "var")]
        return Program(self, words, environment=self.plugins.environment | environment)

    def workers(self, serve: Program) -> dict[bool, int]:
        """By whether it is the one that serves the scheme."""
        commands = children_of(serve.process.pid)
        return {"--schemes die" in command: pid for pid, command in commands.items() if " worker " in command}

    def states(self, message: str) -> dict[str, str]:
        return {delivery["subscription_id"]: delivery["state"] for delivery in self.client.deliveries(message)}

    def test_a_plugin_that_takes_its_process_down_again_and_again(self) -> None:
        endpoint = Endpoint()
        with Endpoints(endpoint):
            serve = self.serve(OS_WORKER__APART="die", OS_API__WORKERS="1")
            serve.until("is ready on")
            wait_for(lambda: len(self.workers(serve)) == 2, "both workers")
            general = self.workers(serve)[False]
            deadly = self.directory / "deadly"
            deadly.touch()
            dying = self.client.subscribe(f"die:{deadly}")["subscription_id"]
            other = self.client.subscribe(endpoint.url)["subscription_id"]
            messages = self.client.post(*range(5))
            for _ in range(2):
                serve.until(r"the worker for die ended \(exit status 3\); starting it again in")
                messages += self.client.post(*range(5))
                wait_for(lambda posted=messages: len(endpoint.arrivals) >= len(posted), "what is for others")
            self.assertEqual(general, self.workers(serve)[False], "it has not even noticed")
            for message in messages:
                wait_for(lambda message=message: self.states(message)[other] == "delivered", "its end")
                self.assertIn(self.states(message)[dying], ("parked", "pending", "in_flight"))
            deadly.unlink()
            for message in messages:
                wait_for(lambda message=message: self.states(message)[dying] == "delivered", "what had killed it")
            self.assertNotIn(f"sent-by-{general}", [path.name for path in self.directory.iterdir()])
            self.assertEqual(len(messages), len(endpoint.seen), "each arrived")
            self.assertEqual(0, serve.stop())
            self.assertNotIn("Traceback", serve.output)

    def test_a_scheme_that_nothing_serves(self) -> None:
        serve = self.serve(OS_WORKER__APART="pigeon")
        serve.until(r"\[worker\] apart: no notifier serves pigeon; loaded are apns, .*die,")
        self.assertEqual(2, serve.process.wait(WAIT))

    def test_a_worker_for_what_all_others_serve_too(self) -> None:
        serve = self.serve()
        serve.until("is ready on")
        words = ["worker", "--schemes", "die", "--data", str(self.directory / "var")]
        worker = Program(self, words, environment=self.plugins.environment)
        worker.until("zaqar-notify: --schemes die: other workers serve that, too; put it into \\[worker\\] apart")
        self.assertEqual(2, worker.process.wait(WAIT))
        self.assertEqual(0, serve.stop(signal.SIGTERM))
