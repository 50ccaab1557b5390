import argparse
import contextlib
import io
import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

from zaqar_notify import bootstrap, cli, errors, signing
from zaqar_notify.commands import address, children, curl, listen, serve, show


def run(*words: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command that runs in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(words)
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


KEY_COMMANDS = (["key"], ["key", "create"], ["key", "list"], ["key", "revoke"])
CLUSTER_COMMANDS = (
    ["cluster"],
    ["cluster", "status"],
    ["db", "copy"],
    ["job"],
    *(["job", action] for action in ("list", "show", "retry", "drop")),
)


class ParserTest(unittest.TestCase):
    COMMANDS = (
        *(
            ["serve"],
            ["api"],
            ["worker"],
            ["receive"],
            ["notifiers"],
            ["config"],
            ["db"],
            ["db", "upgrade"],
            ["send"],
            ["listen"],
        ),
        *KEY_COMMANDS,
        *CLUSTER_COMMANDS,
    )

    def test_every_command_explains_itself_with_an_example(self):
        for command in self.COMMANDS:
            with self.subTest(command=command):
                status, out, _ = run(*command, "--help")
                self.assertEqual(0, status)
                self.assertIn("example", out)
                self.assertLessEqual(max(map(len, out.splitlines())), 80)

    def test_what_only_serve_uses_is_not_shown(self):
        for command in self.COMMANDS:
            self.assertNotIn("-fd", run(*command, "--help")[1])

    def test_the_overview_names_every_command(self):
        _, out, _ = run("--help")
        for command in self.COMMANDS:
            self.assertIn(f"\n    {command[0]} ", out)

    def test_version(self):
        status, out, _ = run("--version")
        self.assertEqual((0, "zaqar-notify "), (status, out[:13]))

    def test_usage_errors_end_with_status_2(self):
        for words in ([], ["nonsense"], ["serve", "--port", "70000"], ["serve", "--port", "x"], ["db"]):
            with self.subTest(words=words):
                self.assertEqual(2, run(*words)[0])


class ErrorTest(unittest.TestCase):
    def test_what_cannot_start_is_one_line_and_status_2(self):
        status, _, err = run("serve", "--config-file", "/nowhere/a.conf")
        self.assertEqual(2, status)
        self.assertEqual(1, len(err.splitlines()))
        self.assertTrue(err.startswith("zaqar-notify: "))
        self.assertIn("/nowhere/a.conf", err)

    def test_a_bad_value_is_named(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write("[worker]\nlease = soon\n")
            file.flush()
            status, _, err = run("config", "--config-file", file.name)
        self.assertEqual((2, 1), (status, len(err.splitlines())))
        self.assertIn("lease", err)

    def test_without_authentication_only_loopback(self):
        for command in ("serve", "api"):
            for host in ("0.0.0.0", "::", "192.0.2.7"):
                with self.subTest(command=command, host=host), tempfile.TemporaryDirectory() as directory:
                    status, _, err = run(command, "--host", host, "--data", directory)
                    self.assertEqual((2, 1), (status, len(err.splitlines())))
                    self.assertIn("loopback", err)

    def test_what_needs_keys_refuses_to_start_without(self):
        for command in ("api", "worker", "receive"):
            with self.subTest(command=command), tempfile.TemporaryDirectory() as directory:
                status, _, err = run(command, "--data", directory)
                self.assertEqual((2, 1), (status, len(err.splitlines())))
                self.assertIn("[encryption]", err)


class ShowTest(unittest.TestCase):
    SECRETS = "[encryption]\nkeys = c2VjcmV0LWtleQ==\n[signed_url]\nsecret_key = hidden-key\n"

    def rows(self, text: str, *words: str) -> dict[tuple[str, str], dict]:
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(text)
            file.flush()
            status, out, err = run("config", "--json", "--config-file", file.name, *words)
        self.assertEqual(0, status, err)
        self.path = file.name
        return {(row["group"], row["name"]): row for row in json.loads(out)}

    def test_where_each_value_came_from(self):
        os.environ["OS_WORKER__MICRO_BATCH"] = "7"
        self.addCleanup(os.environ.pop, "OS_WORKER__MICRO_BATCH")
        rows = self.rows("[worker]\nlease = 40\nmicro_batch = 9\n[api]\nport = 1\n", "--port", "2")
        self.assertEqual((40.0, f"file {self.path}"), self.value(rows, "worker", "lease"))
        self.assertEqual((7, "environment variable OS_WORKER__MICRO_BATCH"), self.value(rows, "worker", "micro_batch"))
        self.assertEqual((2, "command line"), self.value(rows, "api", "port"))
        self.assertEqual((8, "default"), self.value(rows, "api", "threads"))
        self.assertEqual(("var", "default"), self.value(rows, "DEFAULT", "data_dir"))

    @staticmethod
    def value(rows, group, name):
        row = rows[group, name]
        return row["value"], row["source"]

    def test_the_keys_that_serve_made_are_read_first(self):
        with tempfile.TemporaryDirectory() as directory:
            made = serve.make_secrets(directory)
            rows = self.rows("", "--data", directory)
            for option in (("encryption", "keys"), ("signed_url", "secret_key")):
                self.assertEqual((show.MASK, f"file {made}"), self.value(rows, *option))
            rows = self.rows(f"[DEFAULT]\ndata_dir = {directory}\n[signed_url]\nsecret_key = mine\n")
            self.assertEqual(f"file {made}", rows["encryption", "keys"]["source"])
            self.assertEqual(f"file {self.path}", rows["signed_url", "secret_key"]["source"], "a given file wins")

    def test_the_notifiers_options_are_shown(self):
        self.assertIn(("webhook", "timeout"), self.rows(""))

    def test_secrets_are_masked(self):
        rows = self.rows(self.SECRETS.replace("hidden-key", "like://a-url"))
        self.assertEqual(show.MASK, rows["encryption", "keys"]["value"])
        self.assertEqual(show.MASK, rows["signed_url", "secret_key"]["value"])

    def test_the_table_shows_no_secret(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(self.SECRETS + "[storage]\nconnection = postgresql://me:pass/wo@rd@db/notify?password=again\n")
            file.flush()
            status, out, err = run("config", "--config-file", file.name)
        self.assertEqual(0, status, err)
        self.assertIn("postgresql://********@db/notify?********", out)
        for secret in ("c2VjcmV0", "hidden-key", "pass/wo", "again"):
            self.assertNotIn(secret, out)

    def test_what_a_url_may_hide(self):
        for url, shown in (
            ("sqlite:////var/lib/notify.db", "sqlite:////var/lib/notify.db"),
            ("postgresql://me@db/n", "postgresql://********@db/n"),
            ("postgresql://me:a@b@db/n?sslmode=require", "postgresql://********@db/n?********"),
        ):
            with self.subTest(url=url):
                self.assertEqual(shown, show.mask_url(url))


class KeyTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.options = ("--data", directory.name)
        serve.make_secrets(directory.name)
        self.database = pathlib.Path(directory.name, "zaqar-notify.db")
        self.run_well("db", "upgrade")

    def run_well(self, *words):
        status, out, err = run(*words, *self.options)
        self.assertEqual((0, ""), (status, err))
        return out

    def create(self, *words):
        return self.run_well("key", "create", *words)

    def listed(self, *words):
        return json.loads(self.run_well("key", "list", "--json", *words))

    def test_its_life(self):
        key = self.create("--project", "shop", "--roles", "publish, read", "--name", "the back end")
        self.assertRegex(key, r"\Azn_[0-9a-f]{16}_[0-9a-f]{64}\n\Z")
        [row] = self.listed()
        self.assertRegex(row.pop("created_at"), r"\A20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
        expected = {
            "id": key[3:19],
            "project": "shop",
            "roles": ["read", "publish"],
            "name": "the back end",
            "revoked_at": None,
        }
        self.assertEqual(expected, row)
        self.run_well("key", "revoke", key[3:19])
        self.assertRegex(self.listed()[0]["revoked_at"], r"Z\Z")
        status, _, err = run("key", "revoke", key[3:19], *self.options)
        self.assertEqual((1, 1), (status, len(err.splitlines())))

    def test_the_secret_is_kept_nowhere(self):
        key = self.create("--project", "shop", "--roles", "admin").strip()
        self.assertNotIn(key[20:], self.run_well("key", "list") + json.dumps(self.listed()))
        self.assertNotIn(key[20:].encode(), self.database.read_bytes())

    def test_json(self):
        document = json.loads(self.create("--project", "shop", "--roles", "admin", "--json"))
        self.assertEqual(document["id"], document.pop("key")[3:19])
        self.assertEqual([document], self.listed())

    def test_lists_in_order_and_by_project(self):
        made = [self.create("--project", project, "--roles", "read")[3:19] for project in ("a", "b", "a")]
        self.assertEqual(made, [row["id"] for row in self.listed()])
        self.assertEqual([made[0], made[2]], [row["id"] for row in self.listed("--project", "a")])
        self.assertEqual([], self.listed("--project", "c"))
        table = self.run_well("key", "list", "--project", "b").splitlines()
        self.assertEqual((2, True), (len(table), table[1].startswith(made[1])))

    def test_what_is_refused(self):
        for words in (
            ["--project", "p", "--roles", "write"],
            ["--project", "p", "--roles", ""],
            ["--project", "p", "--roles", "read,"],
            ["--project", "", "--roles", "read"],
            ["--project", " ", "--roles", "read"],
            ["--project", "p ", "--roles", "read"],
            ["--project", "ü", "--roles", "read"],
            ["--project", "p" * 257, "--roles", "read"],
            ["--project", "a\nb", "--roles", "read"],
            ["--project", "p", "--roles", "read", "--name", "x" * 256],
            ["--project", "p", "--roles", "read", "--name", "\x1b[2J"],
        ):
            with self.subTest(words=words):
                status, out, err = run("key", "create", *words, *self.options)
                self.assertEqual((1, "", 1), (status, out, len(err.splitlines())))
        self.assertEqual([], self.listed())

    def test_without_a_database(self):
        with tempfile.TemporaryDirectory() as directory:
            serve.make_secrets(directory)
            status, _, err = run("key", "list", "--data", directory)
        self.assertEqual((2, 1), (status, len(err.splitlines())))
        self.assertIn("db upgrade", err)


class AddressTest(unittest.TestCase):
    def test_with_authentication_any_address_will_do(self):
        for strategy in ("apikey", "keystone"):
            conf = bootstrap.configure(overrides={("auth", "strategy"): strategy, ("api", "host"): "0.0.0.0"})
            address.require_loopback(conf)
        conf.set_override("strategy", "none", "auth")
        with self.assertRaises(errors.CannotStart):
            address.require_loopback(conf)

    def test_a_reserved_port_is_closed_to_others_and_open_to_its_own(self):
        with address.reserve("127.0.0.1", 0) as reservation:
            port = reservation.getsockname()[1]
            with self.assertRaisesRegex(errors.CannotStart, f"Port {port} on 127.0.0.1 is taken"):
                address.reserve("127.0.0.1", port)
            with socket.socket() as own:
                for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # as gunicorn does
                    own.setsockopt(socket.SOL_SOCKET, option, 1)
                own.bind(("127.0.0.1", port))
                own.listen()
                socket.create_connection(("127.0.0.1", port), 5).close()
                with self.assertRaises(errors.CannotStart):
                    address.reserve("127.0.0.1", port)

    def test_a_former_process_does_not_block_the_port(self):
        with socket.socket() as former:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                former.setsockopt(socket.SOL_SOCKET, option, 1)
            former.bind(("127.0.0.1", 0))
            former.listen()
            port = former.getsockname()[1]
            client = socket.create_connection(("127.0.0.1", port), 5)
            former.accept()[0].close()  # closes first: the connection stays in TIME_WAIT on this side
            client.close()
        address.reserve("127.0.0.1", port).close()

    def test_an_address_of_another_machine(self):
        with self.assertRaisesRegex(errors.CannotStart, "Cannot listen on 192.0.2.1"):
            address.reserve("192.0.2.1", 0)

    def test_urls(self):
        self.assertEqual("http://127.0.0.1:80", address.url("127.0.0.1", 80))
        self.assertEqual("http://[::1]:80", address.url("::1", 80))


class DataDirectoryTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "data")

    def test_one_service_at_a_time(self):
        with serve.lock(self.path) as killed:
            self.assertFalse(killed)
            self.assertEqual(0o700, stat.S_IMODE(os.stat(self.path).st_mode))
            with self.assertRaisesRegex(errors.CannotStart, f"in use by process {os.getpid()}"), serve.lock(self.path):
                self.fail("locked twice")
        with serve.lock(self.path) as killed:
            self.assertFalse(killed)

    def test_a_killed_predecessor_is_noticed(self):
        os.mkdir(self.path)
        pathlib.Path(self.path, "serve.lock").write_text("12345678\n")
        with serve.lock(self.path) as killed:
            self.assertTrue(killed)

    def test_a_directory_that_cannot_be_made(self):
        pathlib.Path(self.path).write_text("a file")
        with self.assertRaisesRegex(errors.CannotStart, "Cannot use the data directory"), serve.lock(self.path):
            self.fail("locked a file")

    def test_secrets_are_made_once(self):
        os.mkdir(self.path)
        path = pathlib.Path(serve.make_secrets(self.path))
        first = path.read_text()
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        self.assertEqual(["secrets.conf"], os.listdir(self.path))
        serve.make_secrets(self.path)
        self.assertEqual(first, path.read_text())

    def test_what_a_crash_left_half_written_is_replaced(self):
        os.mkdir(self.path)
        pathlib.Path(self.path, "secrets.conf.new").write_text("[encryp")
        text = pathlib.Path(serve.make_secrets(self.path)).read_text()
        self.assertIn("secret_key = ", text)
        self.assertEqual(["secrets.conf"], os.listdir(self.path))


class ReviveTest(unittest.TestCase):
    def test_what_dies_is_started_again_after_a_pause(self):
        started = []

        def start() -> subprocess.Popen:
            started.append(subprocess.Popen([sys.executable, "-c", ""]))
            return started[-1]

        child = children.Child("worker", start, start(), started_at=100.0)
        now = 100.0
        with contextlib.redirect_stderr(io.StringIO()) as said:
            for pause in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
                child.process.wait()
                child.revive(now)
                self.assertEqual(now + pause, child.due_at)
                number = len(started)
                child.revive(now + pause - 0.001)
                self.assertEqual(number, len(started), "started before it was due")
                now += pause
                child.revive(now)
                self.assertEqual(number + 1, len(started))
            child.process.wait()
            child.revive(now + 31)
        self.assertEqual(now + 31 + 1, child.due_at, "the first pause again after a long life")
        self.assertIn("zaqar-notify: the worker ended (exit status 0); starting it again in 1 s", said.getvalue())

    def test_one_that_lives_is_left_alone(self):
        with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
            child = children.Child("api", lambda: self.fail("started again"), process, started_at=0.0)
            child.revive(1.0)
            child.revive(1000.0)
            self.assertIsNone(child.due_at)


class CurlTest(unittest.TestCase):
    def test_quotes_survive(self):
        line = curl.post("http://127.0.0.1:1/v2/queues/q/messages", {"it's": "$HOME `id`"}, "p")
        words = subprocess.run(
            ["sh", "-c", f"set -- {line}; printf '%s\\n' \"$@\""], capture_output=True, text=True, check=True
        )
        self.assertEqual(json.dumps({"it's": "$HOME `id`"}), words.stdout.splitlines()[-1])
        self.assertIn("X-Project-ID: p", words.stdout.splitlines())


class ListenTest(unittest.TestCase):
    def setUp(self):
        self.key = b"k" * 32
        self.lines = []
        self.receiver = listen.Receiver("127.0.0.1", 0, key=self.key, output=self.lines.append)
        self.addCleanup(self.receiver.server_close)
        thread = threading.Thread(target=self.receiver.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.receiver.shutdown)

    def post(self, body: bytes, *, key: bytes | None = None, delivery_id: str = "m-s", **more: str) -> int:
        now = int(time.time())
        headers = {
            "webhook-id": delivery_id,
            "webhook-timestamp": str(now),
            "webhook-signature": signing.sign(key or self.key, delivery_id, now, body),
            "zaqar-notify-queue": "orders",
            "zaqar-notify-message-id": "m1",
            "zaqar-notify-attempt": "2",
        }
        request = urllib.request.Request(self.receiver.url, data=body, headers=headers | more)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return answer.status

    def test_a_right_signature(self):
        self.assertEqual(204, self.post(b'{"body": {"n": 1}, "ttl": 60}'))
        self.assertRegex(self.lines[0], r"^\d\d:\d\d:\d\d  queue orders  message m1  attempt 2  signature ok  \{\"n\": 1\}$")

    def test_a_wrong_signature(self):
        self.post(b"{}", key=b"x" * 32)
        self.assertIn("signature WRONG", self.lines[0])

    def test_no_signature_at_all(self):
        self.post(b"{}", **{"webhook-signature": "", "webhook-timestamp": "now"})
        self.assertIn("signature WRONG", self.lines[0])

    def test_a_repetition_is_marked(self):
        self.post(b"{}")
        self.post(b"{}")
        self.assertEqual([False, True], ["(again)" in line for line in self.lines])

    def test_nothing_in_a_body_commands_the_terminal(self):
        self.post(b"\x1b[2J\xc2\x9b plain")
        self.assertNotIn("\x1b", self.lines[0])
        self.assertNotIn("\x9b", self.lines[0])
        self.assertTrue(self.lines[0].endswith(" plain"))

    def test_another_status(self):
        self.receiver.status = 503
        with self.assertRaises(urllib.error.HTTPError) as raised:
            self.post(b"{}")
        self.assertEqual(503, raised.exception.code)
        raised.exception.close()

    def test_a_taken_port_and_a_bad_secret(self):
        port = self.receiver.server_address[1]
        status, _, err = run("listen", "--port", str(port))
        self.assertEqual((2, 1), (status, len(err.splitlines())))
        self.assertIn(str(port), err)
        status, _, err = run("listen", "--port", "0", "--secret", "whsec_short")
        self.assertEqual(2, status)
        self.assertNotIn("whsec_short", err)


class ArgumentsTest(unittest.TestCase):
    def test_a_port(self):
        self.assertEqual(8888, cli.port("8888"))
        with self.assertRaises(argparse.ArgumentTypeError):
            cli.port("-1")
