import unittest

from oslo_config import cfg

from zaqar_notify import bootstrap, conf


class OptionsTest(unittest.TestCase):
    def test_the_environment_can_express_every_option(self):
        # It has one value for each name: a MultiOpt, which is given once for each value, cannot come from there.
        multi = cfg.MultiStrOpt("many")
        self.assertEqual([("x", "many")], given_many_times(conf.list_opts([("x", [multi])])), "what this test looks for")
        self.assertEqual([], given_many_times(bootstrap.list_opts()))

    def test_the_notifiers_options_are_among_them(self):
        self.assertLessEqual({"worker", "webhook"}, {group for group, _ in bootstrap.list_opts()})


def given_many_times(listed):
    return [(group, option.name) for group, options in listed for option in options if option.multi]
