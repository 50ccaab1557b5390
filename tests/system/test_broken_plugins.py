"""Plugins that cannot be used: the service does not start, or starts without them where it was told to."""

from __future__ import annotations

import json
import subprocess
import sys
import unittest

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.plugins import Plugins
from tests.system.service import WAIT, Service, wait_for

GOOD = """\
from zaqar_notify.model import Outcome, OutcomeKind
from zaqar_notify.notifiers.base import SingleNotifier


class Good(SingleNotifier):
    def send(self, delivery):
        return Outcome(OutcomeKind.DELIVERED)


class Raising(Good):
    def __init__(self, conf, http, log):
        raise RuntimeError("no such device")


class Unfinished(SingleNotifier):
    pass


def function():
    pass
"""
IGNORE = """
[worker]
poll_interval = 0.1
[notification]
ignore_broken_plugins = true
fault_delay = 0.3
"""


class BrokenPluginsTest(unittest.TestCase):
    def setUp(self) -> None:
        self.plugins = Plugins(self)

    def service(self, options: str = "") -> Service:
        """Set up while all was well."""
        service = Service(self, options)
        service.environment |= self.plugins.environment
        return service

    def command(self, service: Service, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "zaqar_notify", *words, "--config-file", str(service.config)],
            env=service.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def test_start_up_fails_with_one_line_that_names_it(self) -> None:
        service = self.service()
        self.plugins.install("lost-import", "import no_such_module", {"lost": "X"})
        line = (
            "zaqar-notify: The notifier lost (lost_import:X) of lost-import 1.0 does not load: ModuleNotFoundError: "
            "No module named 'no_such_module'\n"
        )
        self.assertEqual((2, "", line), self.command(service, "worker"))
        status, _, error = self.command(service, "api")
        self.assertEqual((2, 1), (status, error.count("\n")), error)

    def test_one_that_raises_in_its_constructor(self) -> None:
        service = self.service()
        self.plugins.install("bad-start", GOOD, {"bad": "Raising"})
        status, _, error = self.command(service, "worker")
        self.assertEqual((2, 1), (status, error.count("\n")), error)
        self.assertIn("bad_start:Raising of bad-start 1.0 does not start: RuntimeError: no such device", error)
        status, _, error = self.command(service, "api")
        self.assertEqual(2, status)
        self.assertIn("bad_start:Raising of bad-start 1.0 does not start: RuntimeError: no such device", error)
        self.assertNotIn("Traceback", error)

    def test_the_list_shows_them_all(self) -> None:
        service = self.service()
        self.plugins.install("lost-import", "import no_such_module", {"lost": "X"})
        self.plugins.install("exiting", "raise SystemExit(7)", {"exiting": "X"})
        self.plugins.install("some", GOOD, {"bad": "Raising", "half": "Unfinished", "none": "function", "good": "Good"})
        self.plugins.install("first", GOOD, {"twice": "Good"})
        self.plugins.install("second", GOOD, {"twice": "Good", "HTTPS": "Good"})
        status, out, error = self.command(service, "notifiers")
        self.assertEqual((1, ""), (status, error))
        self.assertRegex(out, r"(?m)^good +some:Good +some +1\.0 +-$")
        self.assertRegex(out, r"(?m)^bad +some:Raising +some +1\.0 +some:Raising of some 1\.0 does not start: RuntimeError: ")
        status, out, _ = self.command(service, "notifiers", "--json")
        self.assertEqual(1, status)
        rows = json.loads(out)
        errors = {(row["scheme"], row["package"]): row["error"] for row in rows if row["error"] is not None}
        for key, words in {
            ("lost", "lost-import"): "ModuleNotFoundError",
            ("exiting", "exiting"): "SystemExit: 7",
            ("bad", "some"): "no such device",
            ("half", "some"): "lacks send",
            ("none", "some"): "neither a SingleNotifier nor",
            ("twice", "first"): "Two notifiers serve the scheme twice",
            ("twice", "second"): "Two notifiers serve the scheme twice",
            ("https", "second"): "Two notifiers serve the scheme https",
        }.items():
            self.assertIn(words, errors.pop(key))
        self.assertEqual({}, errors)
        good = {row["scheme"]: row["class"] for row in rows if row["error"] is None}
        self.assertEqual("zaqar_notify.notifiers.webhook:WebhookNotifier", good["https"])
        self.assertLessEqual({"good", "http", "log"}, set(good))

    def test_without_them_where_that_is_asked_for(self) -> None:
        self.plugins.install("mending", GOOD, {"lost": "Good"})
        service = self.service(IGNORE)
        api = service.start_api()
        lost = service.subscribe("lost:x")["subscription_id"]
        service.kill(api)
        (self.plugins.directory / "mending.py").write_text("import no_such_module")
        endpoint = Endpoint()
        with Endpoints(endpoint):
            service.start_api()
            worker = service.start("worker")
            service.subscribe(endpoint.url)
            status, answer = service.request("POST", "/v2/queues/demo/subscriptions", {"subscriber": "lost:y"})
            self.assertEqual((400, "Unknown subscriber scheme"), (status, answer["title"]))
            self.assertIn("lost: cannot be used here: it does not load (ModuleNotFoundError)", answer["description"])
            (message,) = service.post("waits for it")
            wait_for(lambda: endpoint.arrivals, f"the others\n{service.log('worker')}")
            for kind in ("api", "worker"):
                self.assertRegex(service.log(kind), r"ERROR zaqar_notify\.bootstrap: left out, .*No module named 'no_such_mod")

            def waiting() -> dict | None:
                found = {one["subscription_id"]: one for one in service.deliveries(message)}[lost]
                return found if found["attempts"] else None

            delivery = wait_for(waiting, "the delivery to be put off")
            self.assertEqual("pending", delivery["state"])
            self.assertEqual("ours", delivery["attempts"][0]["outcome"])
            self.assertIn("cannot be used here", delivery["attempts"][0]["error"])
            # It is mended: what waits is delivered.
            service.kill(worker)
            (self.plugins.directory / "mending.py").write_text(GOOD)
            service.start("worker")
            wait_for(
                lambda: {one["subscription_id"]: one["state"] for one in service.deliveries(message)}[lost] == "delivered",
                f"the delivery\n{service.log('worker')}",
            )
