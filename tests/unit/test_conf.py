import dataclasses
import unittest

from oslo_config import cfg

from zaqar_notify import alerts, bootstrap, conf, lanes, retry, settling


class OptionsTest(unittest.TestCase):
    def test_the_environment_can_express_every_option(self):
        # It has one value for each name: a MultiOpt, which is given once for each value, cannot come from there.
        multi = cfg.MultiStrOpt("many")
        self.assertEqual([("x", "many")], given_many_times(conf.list_opts([("x", [multi])])), "what this test looks for")
        self.assertEqual([], given_many_times(bootstrap.list_opts()))

    def test_the_notifiers_options_are_among_them(self):
        self.assertLessEqual({"worker", "webhook"}, {group for group, _ in bootstrap.list_opts()})

    def test_the_defaults_are_those_of_what_they_are_for(self):
        workers, notification = defaults(conf.WORKER), defaults(conf.NOTIFICATION)
        limits = dataclasses.asdict(lanes.Limits())
        unset = {"parked_for", "idle_after"}
        self.assertEqual({name: workers[name] for name in limits if name not in unset}, without(limits, unset))
        for made, names in (
            (settling.Endurance(), {"strikes": "disable_after_strikes", "failing": "disable_after"}),
            (alerts.Alerts(None), {"queue": "alert_queue", "every": "alert_interval", "ttl": "alert_ttl"}),
            (retry.Policy(), {"most_attempts": "max_attempts", "after_max": "retry_after_max", "jitter": "retry_jitter"}),
        ):
            self.assertEqual(
                {name: notification[option] for name, option in names.items()},
                {name: getattr(made, name) for name in names},
            )

    def test_an_alert_queue_has_to_be_a_queue(self):
        [option] = [option for option in conf.NOTIFICATION if option.name == "alert_queue"]
        self.assertEqual("alerts.2", option.type("alerts.2"))
        for name in ("", "a b", "x" * 65, "a/b"):
            with self.subTest(name=name), self.assertRaises(ValueError):
                option.type(name)


def defaults(options):
    return {option.name: option.default for option in options}


def without(values, names):
    return {name: value for name, value in values.items() if name not in names}


def given_many_times(listed):
    return [(group, option.name) for group, options in listed for option in options if option.multi]
