"""The system tests that matter most, on PostgreSQL."""

from __future__ import annotations

from tests.system import test_delivery, test_misbehaving_plugins, test_trust
from tests.system.engines import OnPostgreSQL


class Delivering(OnPostgreSQL, test_delivery.Delivering):
    pass


class TwoWorkers(OnPostgreSQL, test_delivery.TwoWorkers):
    pass


class Expiring(OnPostgreSQL, test_delivery.Expiring):
    pass


class Stopping(OnPostgreSQL, test_delivery.Stopping):
    pass


class KillTest(OnPostgreSQL, test_delivery.KillTest):
    pass


class TrustKillTest(OnPostgreSQL, test_trust.KillTest):
    # What a killed worker had is free when its lease has ended.
    options = test_trust.KillTest.options.replace("[worker]", "[worker]\nlease = 12\ntimeout = 2") + "[webhook]\ntimeout = 2\n"


class MisbehavingPlugins(OnPostgreSQL, test_misbehaving_plugins.MisbehavingPluginsTest):
    """It takes fewer values than other databases do."""

    # Nothing of the database's.
    test_one_that_leaks_threads_is_stopped_and_named = test_a_check_that_fails_costs_that_request = None
