"""Somebody's queue service with notifications mounted on it, in processes that are killed, and the example of one."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.foreign_queue import HELD_FOR
from tests.system.service import WAIT, Service, free_port, wait_for
from tests.system.serving import CURL_LINE, Program

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MESSAGES = "/v2/queues/demo/messages"


class KilledTest(unittest.TestCase):
    def setUp(self) -> None:
        self.service = Service(self, "[worker]\npoll_interval = 0.1\n")
        self.stored = self.service.data_dir / "stored"
        self.endpoint = Endpoint()
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        stack.enter_context(Endpoints(self.endpoint))
        self.start_foreign()
        self.subscription = self.service.subscribe(self.endpoint.url)["subscription_id"]
        self.service.start("worker")

    def start_foreign(self) -> None:
        """The queue service stands where the API of this one would."""
        command = [sys.executable, "-m", "tests.system.foreign_queue"]
        with (self.service.data_dir / "foreign.log").open("ab") as log:
            self.foreign = subprocess.Popen(
                [*command, str(self.stored), str(self.service.port), str(self.service.config)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.service.processes.append(self.foreign)
        wait_for(self.answers, f"the queue service\n{self.service.log('foreign')}")

    def answers(self) -> bool:
        self.assertIsNone(self.foreign.poll(), self.service.log("foreign"))
        try:
            return self.service.request("GET", "/v2/queues/demo/subscriptions")[0] == 200
        except OSError:
            return False

    def kill_by(self, body: str) -> float:
        """Post what kills the queue service; returns when it was posted."""
        posted_at = time.time()
        with self.assertRaises((http.client.HTTPException, OSError)):
            self.service.post(body)
        self.assertEqual(-signal.SIGKILL, self.foreign.wait(WAIT))
        self.service.processes.remove(self.foreign)
        return posted_at

    def message_id(self, body: str) -> str | None:
        """The service's own id of a message with this body."""
        with contextlib.closing(sqlite3.connect(self.service.data_dir / "zaqar-notify.db")) as database:
            rows = database.execute("SELECT id, body FROM messages").fetchall()
        found = [row[0] for row in rows if json.loads(row[1]) == body]
        return f"{found[0]:016x}" if found else None

    def stored_bodies(self) -> list[str]:
        return [json.loads(line) for line in self.stored.read_text().splitlines()] if self.stored.exists() else []

    def arrival(self, body: str):
        def arrived():
            return [arrival for arrival in list(self.endpoint.arrivals) if json.loads(arrival.body)["body"] == body]

        wait_for(arrived, body)
        (arrival,) = arrived()
        return arrival

    def is_delivered(self, message_id: str) -> bool:
        return [delivery["state"] for delivery in self.service.deliveries(message_id)] == ["delivered"]

    def test_accepted_and_not_accepted(self):
        for body, status in (("refused", 409), ("broken", 500)):
            answer = self.service.request("POST", MESSAGES, {"messages": [{"body": body}]})
            self.assertEqual(status, answer[0])
            self.assertIsNone(self.message_id(body))
        (foreign_id,) = self.service.post("accepted")
        self.assertRegex(foreign_id, r"\Aforeign-\d+\Z")
        arrival = self.arrival("accepted")
        self.assertEqual(foreign_id, arrival.headers["zaqar-notify-message-id"])
        wait_for(lambda: self.is_delivered(foreign_id), "the record of it")
        (delivery,) = self.service.deliveries(foreign_id)
        self.assertEqual((foreign_id, self.subscription), (delivery["message_id"], delivery["subscription_id"]))
        status, listed = self.service.request("GET", f"/v2/queues/demo/subscriptions/{self.subscription}/deliveries")
        self.assertEqual((200, [foreign_id]), (status, [delivery["message_id"] for delivery in listed["deliveries"]]))
        self.assertEqual(["accepted"], self.stored_bodies())
        self.assertEqual(1, len(self.endpoint.arrivals))

    def test_killed_between_the_two_commits(self):
        for body, stored in (("killed before it is stored", []), ("killed when it is stored", ["killed when it is stored"])):
            with self.subTest(body):
                posted_at = self.kill_by(body)
                held = self.message_id(body)
                self.assertIsNotNone(held)
                self.assertEqual(stored, self.stored_bodies())
                arrival = self.arrival(body)
                self.assertGreaterEqual(arrival.at, posted_at + HELD_FOR)
                self.assertEqual(held, arrival.headers["zaqar-notify-message-id"])
                self.assertEqual(f"{held}-{self.subscription}", arrival.headers["webhook-id"])
                self.start_foreign()
                wait_for(lambda: self.is_delivered(held), "the record of it")  # noqa: B023

    def test_killed_when_it_is_released(self):
        self.kill_by("killed when it is released")
        arrival = self.arrival("killed when it is released")
        self.start_foreign()
        foreign_id = arrival.headers["zaqar-notify-message-id"]
        self.assertRegex(foreign_id, r"\Aforeign-\d+\Z")
        wait_for(lambda: self.is_delivered(foreign_id), "the record of it")
        # What comes later arrives, and the one that was released has not come a second time by then.
        self.service.post("accepted")
        self.arrival("accepted")
        self.assertEqual(2, len(self.endpoint.arrivals))


class ExampleTest(unittest.TestCase):
    """Does what the README of the example tells its readers to do, on other ports."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        self.addCleanup(directory.cleanup)
        self.directory = f"{directory.name}/foreign-queue"
        shutil.copytree(ROOT / "examples/foreign-queue", self.directory, ignore=shutil.ignore_patterns("__pycache__", "var"))
        self.readme = (ROOT / "examples/foreign-queue/README.md").read_text()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path}

    def block(self, word: str) -> str:
        """The block with this word, for other ports."""
        blocks = re.findall(r"^```sh\n(.*?)^```$", self.readme, re.MULTILINE | re.DOTALL)
        (block,) = [block for block in blocks if word in block]
        block = block.replace("127.0.0.1:8890", f"127.0.0.1:{self.port}")
        return block.replace("zaqar-notify listen", "zaqar-notify listen --port 0")

    def run_block(self, block: str) -> str:
        return subprocess.run(
            ["bash", "-ec", block],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=True,
        ).stdout

    def start(self, word: str) -> Program:
        command = self.block(word).strip()
        return Program(self, ["-c", f"exec {command}"], command=["bash"], cwd=self.directory, environment=self.environment)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}{MESSAGES}", timeout=WAIT) as answer:
                return answer.status == 200
        except OSError:
            return False

    def test_it(self):
        self.run_block(self.block("db upgrade"))
        self.start("zaqar-notify worker")
        self.start("gunicorn")
        wait_for(self.answers, "the queue service")
        listen = self.start("zaqar-notify listen")
        subscribing = listen.until(CURL_LINE)[0]
        self.assertIn("subscription_id", self.run_block(subscribing))
        posted = self.run_block(self.block("hello"))
        self.assertIn(" 201 ", posted.splitlines()[0])
        message_id = re.search(rf'"{MESSAGES}/(\w+)"', posted)[1]
        self.assertRegex(message_id, r"\A[0-9a-f]{32}\Z")
        listen.until(message_id)
        asking = self.block("deliveries").replace("/ID/", f"/{message_id}/")

        def delivered() -> bool:
            return json.loads(self.run_block(asking))["deliveries"][0]["state"] == "delivered"

        wait_for(delivered, "the record of the delivery")
        with urllib.request.urlopen(f"{self.url}{MESSAGES}", timeout=WAIT) as answer:
            self.assertEqual([{"id": message_id, "body": {"hello": "world"}}], json.loads(answer.read())["messages"])
