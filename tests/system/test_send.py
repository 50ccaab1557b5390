"""`zaqar-notify send`, with endpoints and mail servers as real as can be."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from tests.notifiers import endpoint as behave
from tests.notifiers.case import closed_port
from tests.notifiers.endpoint import Endpoint, answer
from tests.notifiers.mailserver import USER, MailServer
from tests.system.plugins import Plugins
from tests.system.service import WAIT
from tests.system.serving import COMMAND

PLUGIN = """\
import threading

from oslo_config import cfg

from zaqar_notify.notifiers.base import SingleNotifier


class Hangs(SingleNotifier):
    def send(self, delivery):
        thread = threading.Thread(target=threading.Event().wait)
        thread.start()
        thread.join()


class Raises(SingleNotifier):
    def __init__(self, conf, http, log):
        raise RuntimeError("no such device")

    def send(self, delivery):
        pass
"""


class SendTest(unittest.TestCase):
    environment: dict[str, str] = {}

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def run_send(self, *words: str, text: str = "", config: str = "[guard]\nallowed_networks = 127.0.0.0/8\n") -> tuple:
        """Exit status, standard output and standard error."""
        file = self.directory / "test.conf"
        file.write_text(config)
        done = subprocess.run(
            [COMMAND, "send", *words, "--config-file", str(file)],
            env=os.environ | self.environment,
            cwd=self.directory,
            input=text,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def result(self, *words: str, status: int = 0, **more: str) -> dict:
        found, out, error = self.run_send(*words, "--json", **more)
        self.assertEqual(status, found, (out, error))
        return json.loads(out)

    def endpoint(self, reply: object = behave.OK) -> Endpoint:
        endpoint = Endpoint(reply)
        self.addCleanup(endpoint.close)
        return endpoint

    def refused(self, *words: str, **more: str) -> str:
        status, out, error = self.run_send(*words, **more)
        self.assertEqual((2, "", 1), (status, out, error.count("\n")), error)
        self.assertTrue(error.startswith("zaqar-notify: "), error)
        return error

    # -- webhooks -------------------------------------------------------------------------------------------------------------

    def test_delivered(self) -> None:
        endpoint = self.endpoint()
        status, out, error = self.run_send(f"{endpoint.url}?token=s3cret", "--body", '{"n": 1}', "--queue", "orders")
        self.assertEqual((0, ""), (status, error))
        self.assertRegex(
            out,
            rf"\Asubscriber   http://127.0.0.1:{endpoint.port}/hook\?\.\.\.\noutcome      delivered\nstatus       200\n"
            r"duration     \d+\.\d+ s\n\Z",
        )
        (request,) = endpoint.requests
        self.assertEqual({"n": 1}, json.loads(request.body)["body"])
        self.assertEqual(("orders", "1"), (request.headers["zaqar-notify-queue"], request.headers["zaqar-notify-attempt"]))
        self.assertIn("webhook-signature", request.headers)

    def test_not_delivered(self) -> None:
        for reply, outcome, code in ((answer(500, body=b"broken"), "retry", 500), (answer(410), "gone", 410)):
            result = self.result(self.endpoint(reply).url, "--body", "x", status=1)
            self.assertEqual((outcome, code), (result["outcome"], result["status"]))
            self.assertIn(str(code), result["detail"])
            self.assertNotIn("exchange", result)
        result = self.result(f"http://127.0.0.1:{closed_port()}/", "--body", "x", status=1)
        self.assertEqual(("retry", None), (result["outcome"], result["status"]))

    def test_the_exchange(self) -> None:
        url = f"{self.endpoint(answer(200, 'X-Seen: yes', body=b'fine')).url}?token=s3cret"
        for words in (("-v", "--json"), ("--verbose",)):
            status, out, error = self.run_send(url, "--body", "x", *words)
            self.assertEqual(0, status, error)
            document = json.loads(out[out.index("{") :])
            exchange = document.get("exchange", document)
            self.assertEqual(("yes", "fine"), (exchange["response"]["headers"]["x-seen"], exchange["response"]["body"]))
            self.assertNotIn("s3cret", out)

    def test_bodies(self) -> None:
        endpoint = self.endpoint()
        (self.directory / "body").write_text('{"from": "a file"}')
        for words, text, body in (
            (("--body", "hello"), "", "hello"),
            (("--body", '"42"'), "", "42"),
            (("--body", "42"), "", 42),
            (("--body", "@body"), "", {"from": "a file"}),
            (("--body", "-"), "[1, 2]", [1, 2]),
            (("--body", "-"), "two\nlines", "two\nlines"),
        ):
            self.result(endpoint.url, *words, text=text)
            self.assertEqual(body, json.loads(endpoint.requests[-1].body)["body"])

    def test_options_of_the_subscription(self) -> None:
        endpoint = self.endpoint()
        self.result(endpoint.url, "--body", "x", "--option", 'post_headers={"X-Mine": "1"}', "--option", "post_data=plain")
        self.assertEqual((b"plain", "1"), (endpoint.requests[0].body, endpoint.requests[0].headers["x-mine"]))

    def test_a_timeout(self) -> None:
        result = self.result(self.endpoint(behave.silent).url, "--body", "x", "--timeout", "0.3", status=1)
        self.assertEqual("retry", result["outcome"])
        self.assertIn("timeout", result["detail"])

    # -- mail -----------------------------------------------------------------------------------------------------------------

    def test_mail(self) -> None:
        server = MailServer()
        self.addCleanup(server.close)
        config = f"[email]\nhost = 127.0.0.1\nport = {server.port}\nstarttls = never\nsender = notify@example.org\n"
        options = ("--option", "from=notify@example.org", "--body", '{"title": "S", "text": "hello"}')
        result = self.result("mailto:ann@example.org", *options, config=config)
        self.assertEqual("4XyZ01", result["provider_id"])
        (mail,) = server.mails
        self.assertIn("S", mail.parsed["Subject"])
        self.assertIn("hello\n", mail.text)
        self.assertNotIn("ann", result["subscriber"])
        result = self.result("mailto:ann@example.org", *options, "--dry-run", config=config)
        self.assertEqual(("delivered", 1), (result["outcome"], len(server.mails)))

    def test_a_wrong_password_is_not_told(self) -> None:
        server = MailServer(auth=True, tls=behave.certificate().context())
        self.addCleanup(server.close)
        config = (
            f"[email]\nhost = 127.0.0.1\nport = {server.port}\nsender = notify@example.org\n"
            f"ca_file = {behave.certificate().file}\nusername = {USER}\npassword = wr0ng-password\n"
        )
        status, out, error = self.run_send("mailto:ann@example.org", "--body", "x", "-v", config=config)
        self.assertEqual(1, status, error)
        self.assertRegex(out, r"(?m)^outcome      auth$")
        self.assertNotIn("wr0ng", out + error)

    # -- others ---------------------------------------------------------------------------------------------------------------

    def test_what_only_the_service_can_do(self) -> None:
        result = self.result("queue:copies", "--body", "x", status=1)
        self.assertEqual("not sent", result["outcome"])
        self.assertIn("nothing was posted to copies: that needs the service", result["detail"])

    def test_the_log(self) -> None:
        status, out, error = self.run_send("log:x", "--body", '"seen"', "--language", "sv", "--priority", "high", "--ttl", "60")
        self.assertEqual(0, status)
        self.assertIn("queue=demo message=", error)
        self.assertIn('body="seen"', error)
        self.assertRegex(out, r"(?m)^outcome      delivered$")

    def test_what_cannot_be_tried(self) -> None:
        schemes = self.refused("nonsense:x", "--body", "x")
        self.assertIn("http:, https:, log:", schemes)
        for words, expected in (
            (("http://127.0.0.1/", "--body", "{broken"), "--body is not valid JSON"),
            (("http://127.0.0.1/", "--body", "@nowhere"), "cannot read nowhere"),
            (("http://127.0.0.1/", "--body", "x", "--option", "post_data"), "NAME=VALUE"),
            (("http://127.0.0.1/", "--body", "x", "--option", "post_data=5"), "post_data"),
            (("http://127.0.0.1/", "--body", "x", "--priority", "highest"), "priority"),
            (("http://127.0.0.1/", "--body", "x", "--queue", "a/b"), "queue"),
            (("http://127.0.0.1/", "--body", "x", "--dry-run"), "has no option dry_run"),
            (("mailto:nobody", "--body", "x"), "mailto"),
            (("http://10.0.0.1/", "--body", "x"), "10.0.0.1 is not allowed"),
        ):
            with self.subTest(words):
                self.assertIn(expected, self.refused(*words))
        status, _, error = self.run_send("http://127.0.0.1/", "--body", "x", "--timeout", "0")
        self.assertEqual(2, status)
        self.assertIn("above 0", error)

    def test_plugins(self) -> None:
        plugins = Plugins(self)
        plugins.install("some-plugins", PLUGIN, {"hangs": "Hangs", "bad": "Raises"})
        self.environment = plugins.environment
        config = "[worker]\nhang_grace = 0.2\n"
        result = self.result("hangs:x", "--body", "x", "--timeout", "0.3", status=1, config=config)
        self.assertEqual(("none", "The notifier did not answer in time"), (result["outcome"], result["detail"]))
        self.assertIn("does not start: RuntimeError: no such device", self.refused("bad:x", "--body", "x"))
        self.result("log:x", "--body", "x")  # the others can be tried

    def test_the_docs_show_what_it_prints(self) -> None:
        page = (pathlib.Path(__file__).parents[2] / "docs/operations.md").read_text()
        (shown,) = re.findall(r"^zaqar-notify send .*?\n```\n\n```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        _, out, _ = self.run_send(self.endpoint(answer(404)).url, "--body", '{"hello": "world"}')
        names = [line[:12].strip() for line in out.splitlines()]
        self.assertEqual(names, [line[:12].strip() for line in shown.splitlines()])
