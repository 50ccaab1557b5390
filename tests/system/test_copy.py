"""`zaqar-notify db copy`: a service moves from one storage to the next, and goes on as if nothing had happened."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import unittest
from typing import Any

from tests.servers import mongodb, postgresql
from tests.system.endpoints import Endpoint, Endpoints
from tests.system.service import WAIT, Service, wait_for

RETRYING = (
    "[notification]\nretry_schedule = 0, 2, 2, 2, 2, 2, 2, 2, 2, 2\nretry_jitter = 0\n[worker]\nbreaker_attempts = 1000\n"
)


class CopyTest(unittest.TestCase):
    def setUp(self) -> None:
        self.up = False
        self.healthy = Endpoint()
        self.failing = Endpoint(status=lambda _: 200 if self.up else 500)
        self.enterContext(Endpoints(self.healthy, self.failing))
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        self.addCleanup(directory.cleanup)
        self.folder = pathlib.Path(directory.name)

    def copy(self, service: Service, url: str, *words: str) -> subprocess.CompletedProcess[str]:
        """In the environment of the service."""
        to = self.folder / "to.conf"
        to.write_text(f"[storage]\nconnection = {url}\n")
        return subprocess.run(
            [
                *(sys.executable, "-m", "zaqar_notify", "db", "copy", "--config-file", str(service.config)),
                *("--to-config-file", str(to), *words),
            ],
            env=service.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )

    def moved(self, service: Service, url: str) -> Service:
        """The same service on another storage, to which everything was copied."""
        for process in list(service.processes):
            service.kill(process)
        done = self.copy(service, url)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"messages: \d+ of \d+, done")
        service.storage = url
        return Service(self, RETRYING, beside=service)

    def ask(self, service: Service, path: str) -> Any:
        status, answer = service.request("GET", path)
        self.assertEqual(200, status, answer)
        return answer

    def seen(self, service: Service, message: str, claim: str) -> list[Any]:
        """What a client can see that no time changes."""
        deliveries = self.ask(service, f"/v2/queues/demo/messages/{message}/deliveries")["deliveries"]
        return [
            self.ask(service, "/v2/queues/demo"),
            [
                body["body"]
                for body in self.ask(service, "/v2/queues/demo/messages?include_claimed=true&echo=true&limit=20")["messages"]
            ],
            [message["id"] for message in self.ask(service, f"/v2/queues/demo/claims/{claim}")["messages"]],
            [each["subscriber"] for each in self.ask(service, "/v2/queues/demo/subscriptions")["subscriptions"]],
            sorted(each["attempts"][0]["at"] for each in deliveries),
            service.run("key", "list"),
        ]

    def test_everything_goes_along_and_what_waits_arrives(self) -> None:
        storages = [postgresql.shared().new_database(), mongodb.shared().new_database(), f"sqlite:///{self.folder}/last.db"]
        service = Service(self, RETRYING)
        service.start_api()
        worker = service.start("worker")
        service.request("PUT", "/v2/queues/demo", {"_enable_encrypt_messages": True, "about": "dots.and.$dollars"})
        service.run("key", "create", "--project", "demo", "--roles", "read")
        for endpoint in (self.healthy, self.failing):
            service.subscribe(endpoint.url, options={"a.b": ["$c"]})
        first = service.post({"n": 0})[0]
        wait_for(lambda: len(self.healthy.arrivals) == 1 and self.failing.arrivals, "the first attempts")
        wait_for(
            lambda: all(each["attempts"] for each in service.deliveries(first)) and len(service.deliveries(first)) == 2,
            "their log",
        )
        service.kill(worker)
        waiting = service.post(*({"n": number} for number in range(1, 20)))
        status, claimed = service.request("POST", "/v2/queues/demo/claims?limit=2", {"ttl": 3600, "grace": 60})
        self.assertEqual(201, status)
        claim = claimed["messages"][0]["href"].rpartition("=")[2]
        before = self.seen(service, first, claim)
        self.assertEqual(20, len(before[1]))
        for url in storages:
            service = self.moved(service, url)
            service.start_api()
            self.assertEqual(before, self.seen(service, first, claim))
        self.up = True
        service.start("worker")
        wait_for(lambda: len(self.healthy.accepted) == 20 and len(self.failing.accepted) == 20, "all that waited")
        # Only what had been settled nowhere may come again: of the entry that was killed, nothing was.
        self.assertEqual(1, self.healthy.accepted[self.healthy.arrivals[0].headers["webhook-id"]])
        for message in waiting:
            wait_for(
                lambda message=message: [each["state"] for each in service.deliveries(message)] == ["delivered"] * 2,
                "their states",
            )
        newest = service.post({"n": "new"})[0]
        self.assertGreater(newest, max(waiting))

    def test_it_refuses_what_would_do_harm(self) -> None:
        service = Service(self, RETRYING)
        service.start_api()
        service.post({"n": 0})
        elsewhere = f"sqlite:///{self.folder}/other.db"
        worker = service.start("worker")
        wait_for(lambda: "is ready" in service.log("worker"), "the worker")
        done = self.copy(service, elsewhere)
        self.assertEqual((2, ""), (done.returncode, done.stdout))
        self.assertRegex(done.stderr, "Workers are at work on the storage .1.: .*Stop them")
        self.assertEqual(0, self.copy(service, elsewhere, "--while-running").returncode)
        service.kill(worker)  # it is no worker any more, although it never said so
        done = self.copy(service, elsewhere)
        self.assertEqual(2, done.returncode)
        self.assertRegex(done.stderr, "There is something at the destination already: .*1 messages")
        done = self.copy(service, elsewhere, "--again")
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertRegex(done.stdout, r"messages +1 +1\n")
        done = self.copy(service, f"sqlite:///{service.data_dir}/zaqar-notify.db")
        self.assertEqual(2, done.returncode)
        self.assertIn("names the storage that is copied", done.stderr)

    def test_the_environment_names_what_is_copied_and_not_where_to(self) -> None:
        there = self.folder / "there.db"
        service = Service(self, environment={"OS_STORAGE__CONNECTION": f"sqlite:///{self.folder}/here.db"})
        done = self.copy(service, f"sqlite:///{there}")
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn(f"{self.folder}/here.db -> sqlite:///{there}", done.stderr)

    def test_another_count_is_no_success(self) -> None:
        service = Service(self, RETRYING)
        service.start_api()
        elsewhere = Service(self, RETRYING)
        elsewhere.start_api()
        for each, number in ((service, 1), (elsewhere, 2)):
            each.post(*({"n": n} for n in range(number)))
        done = self.copy(service, f"sqlite:///{elsewhere.data_dir}/zaqar-notify.db", "--again")
        self.assertEqual(1, done.returncode)
        self.assertRegex(done.stdout, r"messages +1 +3\n")
        self.assertRegex(done.stderr, "the counts differ: .*messages")
