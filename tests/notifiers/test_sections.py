import logging
import pathlib
import tempfile
import unittest

from oslo_config import cfg

from zaqar_notify import bootstrap
from zaqar_notify.commands import show
from zaqar_notify.errors import CannotStart
from zaqar_notify.guard import Guard
from zaqar_notify.model import Outcome, OutcomeKind
from zaqar_notify.notifiers import Notifiers, Plugin
from zaqar_notify.notifiers.base import SingleNotifier
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.sections import Section


class Gateways(SingleNotifier):
    section = "gate"
    options = [cfg.ListOpt("gateways", default=[]), cfg.IntOpt("size", default=7)]
    named_by = "gateways"
    named_options = [cfg.StrOpt("url"), cfg.IntOpt("port", default=80, max=99)]

    def send(self, delivery):
        return Outcome(OutcomeKind.DELIVERED)


def configured(text, cls=Gateways):
    conf = cfg.ConfigOpts()
    conf.register_opts(cls.options, "gate")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text)
        file.flush()
        conf([], project="tests", default_config_files=[file.name], default_config_dirs=[])
    return conf


class SectionTest(unittest.TestCase):
    def test_its_own_options_and_those_of_each_name(self):
        section = Section(configured("[gate]\ngateways = a, b\n[gate_a]\nurl = x\n"), "gate", Gateways)
        self.assertEqual((7, 7, True, False), (section.size, section["size"], "size" in section, "url" in section))
        self.assertEqual([("a", "x", 80), ("b", None, 80)], [(name, one.url, one.port) for name, one in section.named.items()])

    def test_what_cannot_be_used_stops_the_start(self):
        for text, wrong in (
            ("[gate]\ngateways = A b\n", "'A b' has to consist of a-z, 0-9 and _"),
            ("[gate]\ngateways = a\n[gate_a]\nport = 100\n", r"\[gate_a\]"),
        ):
            with self.subTest(text), self.assertRaisesRegex(CannotStart, wrong):
                Section(configured(text), "gate", Gateways)

    def test_a_section_of_a_notifier_without_options(self):
        conf = cfg.ConfigOpts()
        conf([], project="tests", default_config_files=[], default_config_dirs=[])

        class Plain(Gateways):
            options = []
            named_by = ""

        self.assertEqual({}, Section(conf, "plain", Plain).named)

    def test_a_notifier_is_made_with_it(self):
        loaded = Notifiers([Plugin("gate", Gateways, "gate", "third-party", "1.0")])
        conf = configured("[gate]\ngateways = a\n[gate_a]\nurl = x\n")
        loaded.instantiate(conf, HttpClients(Guard(), max_timeout=20.0))
        self.assertEqual("x", loaded.pick("gate:").conf.named["a"].url)
        self.assertEqual(logging.getLogger("zaqar_notify.notifiers.gate"), loaded.pick("gate:").log)
        self.assertEqual(["gate_name"], [section for section, _ in loaded.named_options()])
        self.assertEqual(["gate_a"], [section for section, _ in loaded.named_options(conf)])


class CommandTest(unittest.TestCase):
    def configure(self, text):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "a.conf")
            path.write_text(text)
            return bootstrap.configure(config_files=[str(path)])

    def test_named_sections_are_shown(self):
        rows = list(show.effective(self.configure("[apns]\napps = shop\n[apns_shop]\nteam = T\n")))
        shown = {row["name"]: row["value"] for row in rows if row["group"] == "apns_shop"}
        self.assertEqual(("T", None, "production"), (shown["team"], shown["topic"], shown["environment"]))

    def test_their_values_are_looked_at_when_the_configuration_is_read(self):
        with self.assertRaisesRegex(CannotStart, "apns_shop|environment"):
            self.configure("[apns]\napps = shop\n[apns_shop]\nenvironment = moon\n")
