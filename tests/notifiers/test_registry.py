import importlib.metadata
import logging
import pathlib
import sys
import tempfile
import threading
import unittest
from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import mock

import stevedore.extension
from oslo_config import cfg

from tests.notifiers.case import LOOPBACK
from zaqar_notify import notifiers
from zaqar_notify.errors import CannotStart, InvalidRequest, NotifierFailed, UnknownScheme
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Message, Outcome, OutcomeKind, Receipt, ReceiptKind, Subscription
from zaqar_notify.notifiers import Notifiers, Plugin
from zaqar_notify.notifiers import plugins as installed
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


class Other(Plain):
    pass


class Exiting(Plain):
    def __init__(self, *arguments: Any) -> None:
        sys.exit(3)


class Misconfigured(Plain):
    def __init__(self, *arguments: Any) -> None:
        raise CannotStart("[misconfigured] device is not set")


class Unready(Plain):
    def __init__(self, *arguments: Any) -> None:
        """Forgets its base class."""


class Buggy(Plain):
    def check(self, subscription: Subscription) -> None:
        sys.exit(3)

    def receipt(self, subscription: Subscription, fields: Mapping[str, str]) -> Any:
        return "delivered" if fields["state"] == "nonsense" else 1 / 0


class Undecided(Plain):
    go = threading.Event()

    def check(self, subscription: Subscription) -> None:
        self.go.wait(20.0)


class Clinging(Plain):
    def close(self) -> None:
        sys.exit(3)


class Hanging(Plain):
    go = threading.Event()

    def close(self) -> None:
        self.go.wait()


class Greedy(Plain):
    section = "shared"
    options = [cfg.IntOpt("size")]


class Greedier(Plain):
    section = "shared"
    options = [cfg.StrOpt("size")]


class NoOptions(Plain):
    options = ["size"]


class NoNumber(Plain):
    most_threads = "many"


class NoNames(Plain):
    named_by = "apps"


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
            {"apns", "apprise", "fcm", "http", "https", "log", "mailto", "queue", "slack", "sms", "webpush"},
            set(loaded.schemes()),
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
        loaded = self.started(Notifiers([plugin("x", package="first"), plugin("y"), plugin("x", Other, package="second")]))
        with self.assertRaisesRegex(CannotStart, "scheme x: .*Plain of first 1.0 and .*Other of second 1.0"):
            loaded.require_whole()
        loaded.require_whole(ignore_plugins=True)
        self.assertEqual(["y"], loaded.schemes())
        with self.assertRaisesRegex(UnknownScheme, "x: cannot be used here: several notifiers want to serve it"):
            loaded.pick("x:")

    def test_nobody_takes_a_scheme_from_this_package(self) -> None:
        loaded = self.started(Notifiers([plugin("log"), plugin("log", LogNotifier, package="zaqar-notify")]))
        self.assertIsInstance(loaded.pick("log:"), LogNotifier)
        with self.assertRaisesRegex(CannotStart, "Two notifiers serve the scheme log"):
            loaded.require_whole()
        self.assertEqual(["third-party"], [one.package for one in loaded.broken])

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
        for cls, words in (
            (Broken, "Broken of third-party 1.0 does not start: RuntimeError: no such device"),
            (Exiting, "Exiting of third-party 1.0 does not start: SystemExit: 3"),
            (Unready, "Unready of third-party 1.0 does not start: its __init__ does not call super.*__init__"),
            (Misconfigured, "^.misconfigured. device is not set$"),
        ):
            with self.subTest(cls):
                scheme = cls.__name__.lower()
                loaded = self.started(Notifiers([plugin(scheme, cls), plugin("good")]))
                with self.assertRaisesRegex(CannotStart, words):
                    loaded.require_whole()
                loaded.require_whole(ignore_plugins=True)
                self.assertEqual((["good"], [scheme]), (loaded.schemes(), [one.scheme for one in loaded.broken]))
                with self.assertRaises(UnknownScheme) as refused:
                    loaded.check(subscription(f"{scheme}:x"))
                self.assertIn("cannot be used here: it does not start", str(refused.exception))
                self.assertNotIn("device", str(refused.exception))

    def test_one_of_this_package_has_to_start(self) -> None:
        broken = plugin("log", LogNotifier).broken("the disk is full", "it does not start")
        loaded = Notifiers([plugin("good")], broken=[broken])
        with self.assertRaisesRegex(CannotStart, "the disk is full"):
            loaded.require_whole(ignore_plugins=True)

    def test_options_that_another_one_has(self) -> None:
        loaded = Notifiers([plugin("a", Greedy), plugin("b", Greedier)])
        loaded.register(cfg.ConfigOpts())
        self.assertEqual(["b"], [one.scheme for one in loaded.broken])
        with self.assertRaisesRegex(CannotStart, "Greedier of third-party 1.0: its options cannot be used: DuplicateOptError"):
            loaded.require_whole()

    def test_schemes_that_are_broken_may_be_asked_for(self) -> None:
        loaded = self.started(Notifiers([plugin("broken", Broken), plugin("good")], ["broken", "good"]))
        self.assertEqual(["good"], loaded.schemes())

    def test_a_bug_costs_the_request(self) -> None:
        loaded = self.started(Notifiers([plugin("bug", Buggy)]))
        with self.assertLogs(f"{notifiers.NAMESPACE}.bug", logging.ERROR), self.assertRaises(NotifierFailed) as failed:
            loaded.check(subscription("bug:x"))
        self.assertEqual("The notifier failed: SystemExit", str(failed.exception))
        with self.assertLogs(f"{notifiers.NAMESPACE}.bug", logging.ERROR), self.assertRaises(NotifierFailed):
            loaded.receipt(subscription("bug:x"), {"state": "raise"})
        with self.assertRaisesRegex(NotifierFailed, "returned no receipt"):
            loaded.receipt(subscription("bug:x"), {"state": "nonsense"})

    def test_a_check_that_hangs_is_not_waited_for(self) -> None:
        loaded = self.started(Notifiers([plugin("slow", Undecided)]))
        self.addCleanup(Undecided.go.set)
        with mock.patch.object(notifiers, "PATIENCE", 0.05):
            for _ in range(6):
                with self.assertRaisesRegex(NotifierFailed, "did not answer within|hangs"):
                    loaded.check(subscription("slow:x"))

    def test_what_is_heard_later(self) -> None:
        loaded = self.started(Notifiers([plugin("x")]))
        heard: list[Any] = []
        loaded.report_to(lambda *about: heard.append(about))
        received = loaded.pick("x:").received
        received("m1", "s1", Receipt(ReceiptKind.DEVICE, 1.0, "a\x00"))
        for nonsense in (("m1", "s1", "delivered"), (None, "s1", Receipt(ReceiptKind.DEVICE, 1.0)), ("m1", 5, None)):
            with self.assertLogs(f"{notifiers.NAMESPACE}.x", logging.ERROR):
                received(*nonsense)
        self.assertEqual([("m1", "s1", Receipt(ReceiptKind.DEVICE, 1.0, "a?"))], heard)

    def test_those_that_do_not_close(self) -> None:
        loaded = Notifiers([plugin("hangs", Hanging), plugin("clings", Clinging), plugin("good")])
        loaded.instantiate(configured(loaded), HttpClients(Guard(LOOPBACK), max_timeout=20.0))
        self.addCleanup(Hanging.go.set)
        with mock.patch.object(notifiers, "CLOSE_TIME", 0.5), self.assertLogs() as logged:
            loaded.close()
        self.assertEqual([True], [one.closed for one in Plain.made if type(one) is Plain])
        self.assertIn("Hanging does not close", "".join(logged.output))
        self.assertIn("a bug in the notifier", "".join(logged.output))


class EntryPointTest(unittest.TestCase):
    def load(self, value: str, name: str = "x") -> Plugin | installed.Broken:
        entry_point = importlib.metadata.EntryPoint(name, value, notifiers.NAMESPACE)
        try:
            found = entry_point.load()
        except (ImportError, AttributeError) as error:
            return installed.unloadable(entry_point, error)
        return installed.inspected(stevedore.extension.Extension(name, entry_point, found, None))

    def test_section_and_package(self) -> None:
        loaded = self.load("tests.notifiers.test_registry:Plain", "X")
        self.assertEqual(("x", "X", "tests"), (loaded.scheme, loaded.section, loaded.package))

    def test_what_is_no_notifier(self) -> None:
        here = "tests.notifiers.test_registry"
        cases = {
            f"{here}:plugin": "neither",
            f"{here}:EntryPointTest": "neither",
            "zaqar_notify.notifiers.base:Notifier": "neither",
            f"{here}:Unfinished": "lacks send",
            f"{here}:NoOptions": "no list of oslo.config's options",
            f"{here}:NoNumber": "most_threads that are no integer",
            f"{here}:NoNames": "an option for its names that is none of its options",
            f"{here}:Absent": "of tests unknown does not load: AttributeError",
            "no_such_module:X": "x .no_such_module:X. of no_such_module unknown does not load: ModuleNotFoundError",
        }
        for value, words in cases.items():
            with self.subTest(value):
                self.assertRegex(self.load(value).error, words)

    def test_modules_that_do_more_than_fail(self) -> None:
        for name, statement, words in (
            ("exits", "raise SystemExit('secret')", "ImportError: SystemExit: secret$"),
            ("asserts", "assert False, 'secret'", "ImportError: AssertionError: secret$"),
            ("raises", "raise RuntimeError('a\\nsecret')", "RuntimeError: a secret$"),
        ):
            with self.subTest(statement), tempfile.TemporaryDirectory() as directory:
                pathlib.Path(directory, f"stray_{name}.py").write_text(statement)
                point = importlib.metadata.EntryPoint("stray", f"stray_{name}:X", notifiers.NAMESPACE)
                with (
                    mock.patch.object(sys, "path", [directory, *sys.path]),
                    mock.patch.object(installed._Manager, "list_entry_points", lambda _, point=point: [point]),
                ):
                    found, broken = installed.find()
                self.assertEqual(([], ["stray"]), (found, [one.scheme for one in broken]))
                self.assertRegex(broken[0].error, words)
                self.assertNotIn("secret", broken[0].reason)


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
