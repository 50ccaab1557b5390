import contextlib
import socket
import unittest

from zaqar_notify_udp import UdpNotifier

from zaqar_notify.testing import NotifierConformance


class UdpConformanceTest(NotifierConformance, unittest.TestCase):
    scheme = "udp"
    notifier = UdpNotifier
    bad_targets = ("udp:", "udp://host", "udp://:9999", "udp://host:x", "udp://host:0")

    def setUp(self) -> None:
        self.collector = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.collector.close)
        self.collector.bind(("127.0.0.1", 0))
        self.collector.setblocking(False)
        self.datagrams: list[bytes] = []

    def good(self) -> str:
        return f"udp://127.0.0.1:{self.collector.getsockname()[1]}"

    def arrived(self) -> int:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.datagrams.append(self.collector.recv(65536))
        return len(self.datagrams)
