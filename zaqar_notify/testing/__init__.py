"""For the tests of a notifier: what every one has to do, run against its real counterpart.

    class UdpTest(NotifierConformance, unittest.TestCase):
        scheme = "udp"
        notifier = UdpNotifier
        bad_targets = ("udp://host-without-port",)

        def setUp(self):
            self.collector = Collector(self)

        def good(self):
            return f"udp://127.0.0.1:{self.collector.port}"

        def arrived(self):
            return self.collector.count

It runs under unittest, stestr and pytest, and needs nothing that the service does not need.
"""

from zaqar_notify.testing.addresses import SilentServer, closed_address
from zaqar_notify.testing.conformance import NotifierConformance
from zaqar_notify.testing.rig import Rig, Target

__all__ = ["NotifierConformance", "Rig", "SilentServer", "Target", "closed_address"]
