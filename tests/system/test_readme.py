"""Does what README.md tells its readers to do, with other ports and paths."""

import argparse
import json
import pathlib
import re
import shlex
import tempfile
import unittest
import urllib.request

from tests.system.service import WAIT, free_port, wait_for
from tests.system.serving import CURL_LINE, Program

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def curl(line: str) -> tuple[int, str, dict]:
    """Do what a curl line would do; returns the status, the Location and the document of the answer."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("program", choices=["curl"])
    parser.add_argument("url")
    parser.add_argument("-i", action="store_true")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    words = parser.parse_args(shlex.split(line.replace("\\\n", " ")))
    headers = dict(header.split(": ", 1) for header in words.H)
    if words.d is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")  # as curl does
    request = urllib.request.Request(words.url, None if words.d is None else words.d.encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT) as answer:
        return answer.status, answer.headers["Location"], json.loads(answer.read())


def shape(value: object) -> object:
    """Keys and kinds of a document, without its values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


class ReadmeTest(unittest.TestCase):
    def test_the_two_commands_come_first(self):
        first = blocks("sh")[0].splitlines()
        self.assertEqual(["make serve", "make test"], [line.partition("#")[0].strip() for line in first])
        makefile = (ROOT / "Makefile").read_text()
        for target in ("serve", "test", "bench", "soak"):
            self.assertRegex(makefile, rf"(?m)^{target}:")

    def test_the_tour(self):
        _, receive, post, ask = blocks("sh")
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        self.addCleanup(directory.cleanup)
        port = free_port()
        serve = Program(self, ["serve", "--port", str(port), "--data", directory.name])
        serve.until("is ready on")
        here = f"http://127.0.0.1:{port}"

        command, *words = shlex.split(receive)
        self.assertEqual(".venv/bin/zaqar-notify", command)
        listen = Program(self, [*words, "--port", "0", "--url", here])
        status, _, subscribed = curl(listen.until(CURL_LINE)[0])
        self.assertEqual((201, {"subscription_id"}), (status, set(subscribed)))

        status, location, answer = curl(post.replace("http://127.0.0.1:8888", here))
        self.assertEqual(201, status)
        message_id = answer["resources"][0].rpartition("/")[2]
        self.assertIn(message_id, location)
        (line,) = blocks("text")
        shown = (
            re.escape(line.strip()).replace("14:03:22", r"\d\d:\d\d:\d\d").replace(re.escape("1a1f96f9422aeae9"), message_id)
        )
        listen.until(f"^{shown}$")

        line = ask.replace("http://127.0.0.1:8888", here).replace("MESSAGE_ID", message_id)
        # The receiver prints before the worker has its answer.
        answer = wait_for(lambda: self.delivered(line), "the delivery in the log")
        promised = json.loads(blocks("json")[0])
        self.assertEqual(shape(promised), shape(answer))
        self.assertEqual(subscribed["subscription_id"], answer["deliveries"][0]["subscription_id"])
        self.assertEqual(204, answer["deliveries"][0]["attempts"][0]["status"])

        self.assertEqual(0, listen.stop())
        self.assertEqual(0, serve.stop())

    @staticmethod
    def delivered(line: str) -> dict | None:
        _, _, answer = curl(line)
        return answer if [delivery["state"] for delivery in answer["deliveries"]] == ["delivered"] else None
