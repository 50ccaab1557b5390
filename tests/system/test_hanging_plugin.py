"""A plugin whose send never returns, installed as a directory on the path."""

import signal
import unittest

from tests.system.plugins import Plugins
from tests.system.service import WAIT, Service, wait_for

MODULE = """\
import pathlib
import threading

from zaqar_notify.notifiers.base import SingleNotifier


class HangingNotifier(SingleNotifier):
    def send(self, delivery):
        pathlib.Path(delivery.subscription.subscriber.removeprefix("hang:")).touch()
        # A thread that no exit of the interpreter would leave behind.
        thread = threading.Thread(target=threading.Event().wait, daemon=False)
        thread.start()
        thread.join()
"""
OPTIONS = """
[worker]
stop_timeout = 1
# The worker does not give the send up before it is told to stop.
hang_grace = 3600
"""


class HangingPluginTest(unittest.TestCase):
    def setUp(self):
        self.plugins = Plugins(self)
        self.plugins.install("hanging-notifier", MODULE, {"hang": "HangingNotifier"})

    def test_it_does_not_keep_a_worker_from_stopping(self):
        service = Service(self, OPTIONS, self.plugins.environment)
        service.start_api()
        worker = service.start("worker")
        started = self.plugins.directory / "started"
        service.subscribe(f"hang:{started}")
        (message,) = service.post("never sent")
        wait_for(started.exists, f"the send\n{service.log('worker')}")
        worker.send_signal(signal.SIGTERM)
        self.assertEqual(0, worker.wait(WAIT))
        self.assertIn("1 sends did not end in time", service.log("worker"))
        self.assertNotIn("Traceback", service.log("worker"))
        # Whoever takes over has it: it has not ended.
        self.assertIn(service.deliveries(message)[0]["state"], ("pending", "in_flight"))
