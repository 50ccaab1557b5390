import importlib.util
import logging
import pathlib
import re
import socket
import subprocess
import sys
import unittest
from typing import Any

from oslo_config import cfg

from tests.notifiers.case import LOOPBACK, WAIT
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Message, Outcome, OutcomeKind, Subscription
from zaqar_notify.notifiers.http import HttpClients

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "notifier-plugin"
FILE = FOLDER / "zaqar_notify_udp.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("zaqar_notify_udp", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class UdpTest(unittest.TestCase):
    def setUp(self) -> None:
        self.plugin = load()

    def notifier(self, *allowed: str) -> Any:
        conf = cfg.ConfigOpts()
        conf.register_opts(self.plugin.UdpNotifier.options, "udp")
        conf([], project="tests", default_config_files=[], default_config_dirs=[])
        clients = HttpClients(Guard(allowed), max_timeout=20.0)
        return self.plugin.UdpNotifier(conf.udp, clients, logging.getLogger("tests.udp"))

    def send(self, notifier: Any, uri: str, body: bytes = b'"hello"') -> Outcome:
        message = Message("m1", "p", "demo", body, 60, 0.0, 60.0)
        outcome: Outcome = notifier.send(Delivery("m1-s1", 1, 0.0, message, self.subscription(uri)))
        return outcome

    def subscription(self, uri: str) -> Subscription:
        return Subscription("s1", "p", "demo", uri, None, {}, 0.0, None)

    def test_send(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.settimeout(WAIT)
            receiver.bind(("127.0.0.1", 0))
            uri = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
            self.assertIs(OutcomeKind.DELIVERED, self.send(self.notifier(*LOOPBACK), uri).kind)
            self.assertEqual(b'"hello"', receiver.recv(2000))
            self.assertIs(OutcomeKind.REFUSED, self.send(self.notifier(), uri).kind)
            self.assertIs(OutcomeKind.REJECTED, self.send(self.notifier(*LOOPBACK), uri, b"x" * 1401).kind)

    def test_their_own_tests_as_their_readmes_have_it(self) -> None:
        for folder in (FOLDER, FOLDER.with_name("batch-notifier-plugin")):
            (line,) = re.findall(r"^python (-m unittest)$", (folder / "README.md").read_text(), re.MULTILINE)
            done = subprocess.run(
                [sys.executable, "-W", "error", "-B", *line.split()],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            self.assertEqual(0, done.returncode, done.stderr)
            self.assertRegex(done.stderr, r"Ran \d\d tests")

    def test_check(self) -> None:
        notifier = self.notifier()
        notifier.check(self.subscription("udp://collector.example.org:9999"))
        for uri in ("udp:", "udp://host", "udp://:9999", "udp://host:x", "udp://host:0"):
            with self.subTest(uri), self.assertRaises(InvalidRequest):
                notifier.check(self.subscription(uri))
