"""The system tests that matter most, on MongoDB, on a one-node replica set."""

from __future__ import annotations

from tests.system import test_delivery, test_trust
from tests.system.engines import OnMongoDB


class Delivering(OnMongoDB, test_delivery.Delivering):
    pass


class TwoWorkers(OnMongoDB, test_delivery.TwoWorkers):
    pass


class Expiring(OnMongoDB, test_delivery.Expiring):
    pass


class Stopping(OnMongoDB, test_delivery.Stopping):
    pass


class KillTest(OnMongoDB, test_delivery.KillTest):
    pass


class TrustKillTest(OnMongoDB, test_trust.KillTest):
    # What a killed worker had is free when its lease has ended.
    options = test_trust.KillTest.options.replace("[worker]", "[worker]\nlease = 12\ntimeout = 2") + "[webhook]\ntimeout = 2\n"
