import importlib
import pathlib
import subprocess
import sys
import tempfile
import unittest
import warnings

from zaqar_notify import bootstrap, errors
from zaqar_notify.api.identity import Caller

KEYSTONE = "[auth]\nstrategy = keystone\n[keystone_authtoken]\nwww_authenticate_uri = http://127.0.0.1:9/v3\n"


class ConfiguredCase(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def configure(self, text=""):
        file = self.directory / "test.conf"
        file.write_text(f"[DEFAULT]\ndata_dir = {self.directory}\n{text}")
        return bootstrap.configure(config_files=[str(file)])

    def refused(self, build, *words):
        with self.assertRaises(errors.CannotStart) as caught:
            build()
        self.assertEqual(len(str(caught.exception).splitlines()), 1)
        for word in words:
            self.assertIn(word, str(caught.exception))


class PolicyFileTest(ConfiguredCase):
    """[oslo_policy] policy_file"""

    def rules(self, text, options=""):
        (self.directory / "policy.yaml").write_text(text)
        return bootstrap.build_rules(self.configure(options))

    def test_without_one_the_defaults_hold(self):
        rules = bootstrap.build_rules(self.configure())
        self.assertTrue(rules.allow("messages:create", Caller("p", "apikey", ("publish",))))
        self.assertFalse(rules.allow("messages:create", Caller("p", "apikey", ("read",))))

    def test_one_beside_the_configuration_is_found(self):
        rules = self.rules('"messages:create": "role:read"\n')
        self.assertTrue(rules.allow("messages:create", Caller("p", "apikey", ("read",))))
        self.assertFalse(rules.allow("messages:create", Caller("p", "apikey", ("publish",))))
        self.assertTrue(rules.allow("queues:create", Caller("p", "apikey", ("publish",))), "the others stay")

    def test_one_of_another_name(self):
        (self.directory / "mine.yaml").write_text('"ping:get": "!"\n')
        rules = bootstrap.build_rules(self.configure("[oslo_policy]\npolicy_file = mine.yaml\n"))
        self.assertFalse(rules.allow("ping:get", Caller("p", "none")))

    def test_the_keystone_roles_of_a_whole_service_in_one_line(self):
        rules = self.rules('"tenant": "role:member"\n"reader": "rule:tenant or role:reader"\n')
        self.assertFalse(rules.allow("queues:get", Caller("p", "keystone", ("other",))))
        self.assertTrue(rules.allow("queues:get", Caller("p", "keystone", ("reader",))))
        self.assertFalse(rules.allow("messages:create", Caller("p", "keystone", ("reader",))))
        self.assertTrue(rules.allow("messages:create", Caller("p", "keystone", ("member",))))

    def test_rules_of_ones_own(self):
        rules = self.rules('"shop": "project_id:shop and role:read"\n"messages:create": "rule:shop"\n')
        self.assertTrue(rules.allow("messages:create", Caller("shop", "apikey", ("read",))))
        self.assertFalse(rules.allow("messages:create", Caller("other", "apikey", ("read",))))

    def test_an_empty_one_changes_nothing(self):
        self.assertTrue(self.rules("").allow("messages:create", Caller("p", "apikey", ("publish",))))

    def test_a_broken_one_stops_the_start(self):
        for text in (
            "messages:create: [",
            "- messages:create",
            "messages:create",
            '"messages:create": 5\n',
            '"messages:create":\n',
            '"messages:create": {"role": "read"}\n',
            '"messages:create": "nonsense"\n',
            '"messages:create": "role:read or (role:publish"\n',
            '"messages:create": "role:read or nonsense"\n',
            '"messages:create": "rule:missing"\n',
            '"a": "rule:b"\n"b": "rule:a"\n"messages:create": "rule:a"\n',
            "\x00",
        ):
            with self.subTest(text=text), self.assertNoLogs("oslo_policy"):
                self.refused(lambda text=text: self.rules(text), "policy", str(self.directory))

    def test_a_broken_one_among_several(self):
        (self.directory / "policy.d").mkdir()
        (self.directory / "policy.d" / "more.yaml").write_text('"ping:get": [')
        self.refused(lambda: bootstrap.build_rules(self.configure()), "policy.d")

    def test_one_that_is_named_has_to_be_there(self):
        for name in ("mine.yaml", "policy.yaml"):
            conf = self.configure(f"[oslo_policy]\npolicy_file = {name}\n")
            self.refused(lambda conf=conf: bootstrap.build_rules(conf), name)

    def test_a_name_that_nothing_asks_for_is_told(self):
        with self.assertLogs("zaqar_notify.bootstrap", "WARNING") as logs:
            self.rules('"message:create": "!"\n"messages:create": "rule:mine"\n"mine": "@"\n')
        [line] = logs.output
        self.assertIn("message:create", line)
        self.assertNotIn("mine", line.partition("asks for")[2])

    def test_a_change_comes_with_the_next_start(self):
        rules = self.rules('"ping:get": "!"\n')
        (self.directory / "policy.yaml").write_text('"ping:get": [')
        self.assertFalse(rules.allow("ping:get", Caller("p", "none")))


class KeystoneTest(ConfiguredCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with warnings.catch_warnings():
            # WebOb, which it builds on, uses what Python 3.13 does without.
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module("keystonemiddleware.auth_token")

    def test_its_options_are_needed(self):
        self.refused(lambda: bootstrap.check_access(self.configure(KEYSTONE)), "auth_type")
        for line in ("auth_type = nonsense", "auth_type = password\nhttp_connect_timeout = soon"):
            with self.subTest(line=line):
                self.refused(
                    lambda line=line: bootstrap.check_access(self.configure(f"{KEYSTONE}{line}\n")), "keystone_authtoken"
                )

    def test_with_them_it_starts_without_asking_keystone(self):
        bootstrap.check_access(self.configure(f"{KEYSTONE}auth_type = password\nauth_url = http://127.0.0.1:9\n"))

    def test_without_keystonemiddleware_it_says_how_to_install_it(self):
        self.configure(KEYSTONE)
        program = (
            "import sys\nsys.modules['keystonemiddleware.auth_token'] = None\n"
            "from zaqar_notify import bootstrap, errors\n"
            "try:\n    bootstrap.check_access(bootstrap.configure(config_files=[sys.argv[1]]))\n"
            "except errors.CannotStart as error:\n    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, self.directory / "test.conf"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        self.assertEqual(len(done.stdout.splitlines()), 1, done.stderr)
        self.assertIn("pip install 'zaqar-notify[keystone]'", done.stdout)

    def test_the_other_strategies_do_without_it(self):
        program = (
            "import sys\nfrom zaqar_notify import bootstrap\n"
            "bootstrap.check_access(bootstrap.configure(config_files=[sys.argv[1]]))\n"
            "assert 'keystonemiddleware' not in sys.modules and 'webob' not in sys.modules\n"
        )
        self.configure("[auth]\nstrategy = apikey\n")
        subprocess.run([sys.executable, "-c", program, self.directory / "test.conf"], check=True, timeout=60)


KEYS = f"""
[storage]
connection = memory://
[encryption]
keys = {"A" * 43}=
[signed_url]
secret_key = secret
"""


class SchemesTest(ConfiguredCase):
    """What is switched off, and what workers of their own serve."""

    def worker(self, text, schemes=()):
        worker = bootstrap.build_worker(self.configure(KEYS + text), schemes)
        self.addCleanup(worker.run)
        self.addCleanup(worker.stop)
        return worker

    def refuse(self, text, *words, schemes=()):
        self.refused(lambda: self.worker(text, schemes), *words)

    def test_all_are_on_and_everybodys(self):
        schemes = self.worker("")._schemes
        self.assertEqual((True, set(), set(), ("",)), (schemes.enabled, schemes.disabled, schemes.apart, schemes.pools))

    def test_switched_off(self):
        text = "[notification]\nenabled = false\ndisabled_schemes = sms, WEBPUSH\nwhen_disabled = drop\ndisabled_recheck = 7\n"
        schemes = self.worker(text)._schemes
        self.assertEqual((False, True, 7.0), (schemes.enabled, schemes.drops, schemes.recheck))
        self.assertEqual({"sms", "webpush"}, schemes.disabled)
        self.assertIsNotNone(schemes.off("webpush+https://push.example.org/1"))

    def test_one_of_its_own(self):
        schemes = self.worker("[worker]\napart = sms, Log\n", ["LOG"])._schemes
        self.assertEqual((("log",), {"sms", "log"}), (schemes.pools, schemes.apart))
        self.assertEqual(("log", "", "sms"), tuple(schemes.pool(uri) for uri in ("log:", "mailto:a@example.org", "sms:+1")))

    def test_one_of_its_own_runs_no_jobs(self):
        self.assertIsNone(self.worker("[worker]\napart = log\n", ["log"])._jobs)

    def test_a_scheme_that_nothing_serves(self):
        self.refuse("[notification]\ndisabled_schemes = sms, pigeon\n", "[notification] disabled_schemes", "pigeon", "mailto")
        self.refuse("[worker]\napart = pigeon\n", "[worker] apart", "pigeon", "mailto")
        self.refuse("[worker]\napart = log\n", "--schemes: no notifier serves pigeon", "loaded are apns", schemes=["pigeon"])

    def test_a_scheme_that_other_workers_serve_too(self):
        self.refuse("[worker]\napart = log\n", "--schemes sms", "[worker] apart", schemes=["log", "sms"])

    def test_a_bad_value(self):
        for text in ("enabled = maybe", "when_disabled = keep", "disabled_recheck = 0"):
            with self.subTest(text):
                self.refused(lambda text=text: self.configure(f"[notification]\n{text}\n"), text.partition(" ")[0])
