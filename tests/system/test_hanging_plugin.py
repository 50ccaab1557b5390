"""A plugin whose send never returns, installed as a directory on the path."""

import pathlib
import signal
import tempfile
import unittest

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
ENTRY_POINTS = "[zaqar_notify.notifiers]\nhang = hanging_notifier:HangingNotifier\n"
METADATA = "Metadata-Version: 2.1\nName: hanging-notifier\nVersion: 1.0\n"

OPTIONS = """
[worker]
stop_timeout = 1
# The worker does not give the send up before it is told to stop.
hang_grace = 3600
"""


class HangingPluginTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        (self.directory / "hanging_notifier.py").write_text(MODULE)
        information = self.directory / "hanging_notifier-1.0.dist-info"
        information.mkdir()
        (information / "entry_points.txt").write_text(ENTRY_POINTS)
        (information / "METADATA").write_text(METADATA)

    def test_it_does_not_keep_a_worker_from_stopping(self):
        service = Service(self, OPTIONS, {"PYTHONPATH": str(self.directory)})
        service.start_api()
        worker = service.start("worker")
        started = self.directory / "started"
        service.subscribe(f"hang:{started}")
        (message,) = service.post("never sent")
        wait_for(started.exists, f"the send\n{service.log('worker')}")
        worker.send_signal(signal.SIGTERM)
        self.assertEqual(0, worker.wait(WAIT))
        self.assertIn("1 sends did not end in time", service.log("worker"))
        self.assertNotIn("Traceback", service.log("worker"))
        # Whoever takes over has it: it has not ended.
        self.assertIn(service.deliveries(message)[0]["state"], ("pending", "in_flight"))
