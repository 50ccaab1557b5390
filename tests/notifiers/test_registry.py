import importlib.metadata
import logging
import unittest
from collections.abc import Mapping
from typing import Any, ClassVar

import stevedore.extension
from oslo_config import cfg

from tests.notifiers.case import LOOPBACK
from zaqar_notify import notifiers
from zaqar_notify.errors import CannotStart, InvalidRequest, UnknownScheme
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Message, Outcome, OutcomeKind, Receipt, ReceiptKind, Subscription
from zaqar_notify.notifiers import Notifiers, Plugin
from zaqar_notify.notifiers.base import Notifier, SingleNotifier
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.log import LogNotifier
from zaqar_notify.notifiers.webhook import WebhookNotifier


def subscription(uri: str, **options: Any) -> Subscription:
    return Subscription("s1", "p", "demo", uri, None, options, 0.0, None)


def configured(loaded: Notifiers) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    for section, options in loaded.options():
        conf.register_opts(options, section)
    conf([], project="tests", default_config_files=[], default_config_dirs=[])
    return conf


class Plain(SingleNotifier):
    """No section and no options of its own."""

    made: ClassVar[list[Notifier]] = []

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.closed = False
        self.made.append(self)

    def send(self, delivery: Delivery) -> Outcome:
        return Outcome(OutcomeKind.DELIVERED)

    def close(self) -> None:
        self.closed = True


class Broken(Plain):
    def __init__(self, *arguments: Any) -> None:
        raise RuntimeError("no such device")


class Hearing(Plain):
    def receipt(self, subscription: Subscription, fields: Mapping[str, str]) -> Receipt | None:
        return Receipt(ReceiptKind.DEVICE, 1.0, f"{subscription.subscriber} {fields['state']}")


class Unfinished(SingleNotifier):
    """Without `send`."""


def plugin(scheme: str, cls: type[Notifier] = Plain, package: str = "third-party") -> Plugin:
    return Plugin(scheme, cls, cls.section or scheme, package, "1.0")


class RegistryTest(unittest.TestCase):
    def setUp(self) -> None:
        Plain.made.clear()

    def started(self, loaded: Notifiers) -> Notifiers:
        loaded.instantiate(configured(loaded), HttpClients(Guard(LOOPBACK), max_timeout=20.0))
        self.addCleanup(loaded.close)
        return loaded

    def test_what_a_provider_reports_goes_to_the_notifier_of_the_scheme(self) -> None:
        loaded = self.started(Notifiers([plugin("deaf"), plugin("hears", Hearing)]))
        self.assertEqual(
            Receipt(ReceiptKind.DEVICE, 1.0, "hears:x ok"), loaded.receipt(subscription("hears:x"), {"state": "ok"})
        )
        self.assertIsNone(loaded.receipt(subscription("deaf:x"), {"state": "ok"}))
        with self.assertRaises(UnknownScheme):
            loaded.receipt(subscription("other:x"), {})

    def test_what_this_package_ships(self) -> None:
        loaded = self.started(Notifiers.load(own=True))
        self.assertLessEqual(
            {"apns", "fcm", "http", "https", "log", "mailto", "queue", "slack", "sms", "webpush"}, set(loaded.schemes())
        )
        self.assertLessEqual({"email", "log", "slack", "sms", "webhook"}, {section for section, _ in loaded.options()})
        version = importlib.metadata.version("zaqar-notify")
        rows = {row[0]: row[1:] for row in loaded.describe()}
        self.assertEqual(("zaqar_notify.notifiers.webhook:WebhookNotifier", "zaqar-notify", version), rows["https"])

    def test_pick(self) -> None:
        loaded = self.started(
            Notifiers([plugin("http", WebhookNotifier), plugin("log", LogNotifier), plugin("a+b"), plugin("a")])
        )
        self.assertIsInstance(loaded.pick("http://example.org/"), WebhookNotifier)
        self.assertIsInstance(loaded.pick("HTTP://example.org/"), WebhookNotifier)
        self.assertIsInstance(loaded.pick("log:"), LogNotifier)
        self.assertIs(loaded.pick("a:x"), loaded.pick("a+c:x"))
        self.assertIsNot(loaded.pick("a:x"), loaded.pick("a+b:x"))

    def test_unknown_schemes(self) -> None:
        loaded = self.started(Notifiers([plugin("http", WebhookNotifier), plugin("log", LogNotifier)]))
        for uri in ("ftp://example.org/", "mailto:a@b", "nonsense", "", ":", "+http://x", "xhttp://x", "x+http://x"):
            with self.subTest(uri), self.assertRaisesRegex(UnknownScheme, "http:, log:"):
                loaded.pick(uri)
        with self.assertRaisesRegex(UnknownScheme, "trust"):
            loaded.pick("trust+https://example.org/")

    def test_one_instance_for_each_class_and_section(self) -> None:
        self.started(Notifiers([plugin("one"), plugin("two")]))
        self.assertEqual(2, len(Plain.made))
        both = self.started(Notifiers([plugin("http", WebhookNotifier), plugin("https", WebhookNotifier)]))
        self.assertIs(both.pick("http://x/"), both.pick("https://x/"))
        self.assertEqual(1, len(both.options()))

    def test_subscriber_types(self) -> None:
        plugins = [plugin("http", WebhookNotifier), plugin("https", WebhookNotifier), plugin("log", LogNotifier)]
        loaded = self.started(Notifiers(plugins, ["HTTPS"]))
        loaded.pick("https://example.org/")
        with self.assertRaises(UnknownScheme):
            loaded.pick("http://example.org/")
        self.assertEqual((["https"], 3), (loaded.schemes(), len(loaded.describe())))
        with self.assertRaisesRegex(CannotStart, "mailto"):
            Notifiers(plugins, ["https", "mailto"])

    def test_two_for_one_scheme(self) -> None:
        with self.assertRaisesRegex(CannotStart, "first 1.0 and .* of second 1.0"):
            Notifiers([plugin("x", package="first"), plugin("y"), plugin("x", LogNotifier, package="second")])

    def test_check_is_the_notifiers(self) -> None:
        loaded = self.started(Notifiers([plugin("http", WebhookNotifier)]))
        loaded.check(subscription("http://example.org/"))
        with self.assertRaisesRegex(InvalidRequest, "post_data"):
            loaded.check(subscription("http://example.org/", post_data=5))

    def test_close(self) -> None:
        loaded = self.started(Notifiers([plugin("one")]))
        loaded.close()
        self.assertTrue(all(one.closed for one in Plain.made if isinstance(one, Plain)))

    def test_one_that_does_not_start(self) -> None:
        with self.assertRaisesRegex(CannotStart, "Broken of third-party 1.0 does not start: RuntimeError: no such device"):
            self.started(Notifiers([plugin("broken", Broken)]))


class EntryPointTest(unittest.TestCase):
    def load(self, value: str, name: str = "x") -> Plugin:
        entry_point = importlib.metadata.EntryPoint(name, value, notifiers.NAMESPACE)
        try:
            found = entry_point.load()
        except (ImportError, AttributeError) as error:
            notifiers._refuse(None, entry_point, error)
        return notifiers._plugin(stevedore.extension.Extension(name, entry_point, found, None))

    def test_section_and_package(self) -> None:
        loaded = self.load("tests.notifiers.test_registry:Plain", "X")
        self.assertEqual(("x", "X", "tests"), (loaded.scheme, loaded.section, loaded.package))

    def test_what_is_no_notifier(self) -> None:
        cases = {
            "tests.notifiers.test_registry:plugin": "neither",
            "tests.notifiers.test_registry:EntryPointTest": "neither",
            "zaqar_notify.notifiers.base:Notifier": "neither",
            "tests.notifiers.test_registry:Unfinished": "lacks send",
            "tests.notifiers.test_registry:Absent": "of tests unknown does not load: AttributeError",
            "no_such_module:X": "x .no_such_module:X. of no_such_module unknown does not load: ModuleNotFoundError",
        }
        for value, words in cases.items():
            with self.subTest(value), self.assertRaisesRegex(CannotStart, words):
                self.load(value)


class LogTest(unittest.TestCase):
    def test_one_line(self) -> None:
        conf = cfg.ConfigOpts()
        conf.register_opts(LogNotifier.options, "log")
        conf([], project="tests", default_config_files=[], default_config_dirs=[])
        conf.set_override("body_bytes", 10, "log")
        clients = HttpClients(Guard(), max_timeout=20.0)
        notifier = LogNotifier(conf.log, clients, logging.getLogger("tests.log"))
        message = Message("m1", "p", "demo", b'"a\nb\xc3\xbc' + b"x" * 100 + b'"', 60, 0.0, 60.0)
        with self.assertLogs("tests.log", logging.INFO) as logged:
            outcome = notifier.send(Delivery("m1-s1", 2, 0.0, message, subscription("log:")))
        self.assertIs(OutcomeKind.DELIVERED, outcome.kind)
        (line,) = logged.output
        self.assertIn('queue=demo message=m1 subscription=s1 attempt=2 body="a b\u00fcxxxx...', line)
        self.assertNotIn("\n", line)
