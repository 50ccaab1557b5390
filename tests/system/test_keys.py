"""API keys against a running service: made, used and revoked."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from tests.system.service import HEADERS, Service, free_port, wait_for
from tests.system.serving import Program

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OPTIONS = """\
[api]
host = 0.0.0.0
[auth]
strategy = apikey
key_cache = 0.2
"""
"""A service with authentication may listen anywhere."""

BARE = {name: value for name, value in HEADERS.items() if name != "X-Project-ID"}


class KeyTest(unittest.TestCase):
    def setUp(self):
        self.service = Service(self, OPTIONS)

    def status(self, key, method="GET", path="/v2/queues", document=None):
        return self.service.request(method, path, document, {**BARE, "Authorization": f"Bearer {key}"})[0]

    def test_made_used_and_revoked_while_the_service_runs(self):
        self.service.start_api()
        self.assertEqual(401, self.service.request("GET", "/v2/queues")[0])
        key = self.service.run("key", "create", "--project", "shop", "--roles", "publish").strip()
        self.assertEqual(201, self.status(key, "POST", "/v2/queues/q/messages", {"messages": [{"body": 1}]}))
        self.assertEqual(403, self.status(key))
        reader = self.service.run("key", "create", "--project", "shop", "--roles", "read").strip()
        self.assertEqual(200, self.status(reader))
        self.service.run("key", "revoke", key[3:19])
        wait_for(lambda: self.status(key) == 401, "the revoked key to end")
        self.assertEqual(200, self.status(reader))
        log = self.service.log("api")
        self.assertNotIn(key[20:], log)
        self.assertNotIn("Traceback", log)

    def test_what_the_docs_show(self):
        self.service.start_api()
        text = (ROOT / "docs" / "security.md").read_text()
        [session] = [block for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "curl" in block]
        path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
        environment = {**os.environ, "PATH": path, "URL": self.service.url, "CONFIG": str(self.service.config)}
        done = subprocess.run(
            ["sh", "-e", "-c", session], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        self.assertIn("HTTP/1.1 200 OK", done.stdout)
        self.assertRegex(done.stdout, r"shop +read,publish +20\S+ +- +the shop's back end")
        self.assertRegex(self.service.run("key", "list"), r"shop +read,publish +20\S+ +20\S+ +the shop's back end")

    def test_a_broken_policy_stops_the_start_with_one_line(self):
        (self.service.data_dir / "policy.yaml").write_text('"queues:get": "nonsense"\n')
        process = self.service.start("api")
        self.assertEqual(2, process.wait(60))
        self.service.processes.remove(process)
        [line] = self.service.log("api").splitlines()
        self.assertIn("queues:get", line)


class ServeTest(unittest.TestCase):
    def test_serve_is_ready_although_it_asks_who_calls(self):
        with tempfile.TemporaryDirectory(prefix="zaqar-notify-") as directory:
            words = ["serve", "--port", str(free_port()), "--data", directory]
            serve = Program(self, words, environment={"OS_AUTH__STRATEGY": "apikey"})
            serve.until("is ready on")
            serve.until("Callers need an API key")
            self.assertEqual(0, serve.stop())
            self.assertNotIn("development form", serve.output)
