"""Jobs of a whole service over a TaskFlow board: a huge fan-out whose worker is killed, and what operators see of it.

With one board: what differs between them is tested by tests/flow/test_boards.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
import unittest
from typing import Any

from tests.servers.base import Server
from tests.servers.redis import Redis
from tests.system.endpoints import Endpoint, Endpoints
from tests.system.service import Service, wait_for
from zaqar_notify import bootstrap
from zaqar_notify.model import Subscription

SUBSCRIBERS = 300
MAX_IN_FLIGHT = 12
MICRO_BATCH = 20
OPTIONS = f"""
[worker]
page = 20
cut_after = 20
max_in_flight = {MAX_IN_FLIGHT}
micro_batch = {MICRO_BATCH}
poll_interval = 0.1
[cluster]
jobboard = %s
connection = %s
range = 50
lease = 2
poll_interval = 0.1
repost_interval = 0.5
"""


class ClusterTest(unittest.TestCase):
    def start(self, kind: str, server: Server) -> None:
        endpoint = Endpoint(delay=0.02)
        endpoints = Endpoints(endpoint)
        endpoints.__enter__()
        self.addCleanup(endpoints.__exit__)
        self.endpoint = endpoint
        self.service = Service(self, OPTIONS % (kind, f"{kind}://127.0.0.1:{server.port}"))
        self.service.start_api()

    def subscribe_many(self) -> None:
        conf = bootstrap.configure(config_files=[str(self.service.config)])
        storage = bootstrap.build_storage(conf)
        self.addCleanup(storage.close)
        self.board = bootstrap.board_maker(conf)(0)
        self.board.connect()
        self.addCleanup(self.board.close)
        now = storage.now()
        for number in range(SUBSCRIBERS):
            uri = f"{self.endpoint.url}{number}"
            storage.subscribe(Subscription("", "demo", "demo", uri, None, {}, now, None))
        self.storage = storage

    def worker(self) -> subprocess.Popen[bytes]:
        ready = self.service.log("worker").count("is ready")
        process = self.service.start("worker")
        wait_for(lambda: self.service.log("worker").count("is ready") > ready, "a worker")
        return process

    def status(self, expected: int = 0) -> dict[str, Any]:
        command = self.service._command("cluster", "status", "--json")
        done = subprocess.run(command, env=self.service.environment, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(expected, done.returncode, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def check_a_killed_worker(self, kind: str, server: Server) -> None:
        self.start(kind, server)
        self.subscribe_many()
        first = self.worker()
        self.service.post({"n": 1})
        wait_for(
            lambda: any(job.kind == "range" and job.held_until for job in self.storage.list_jobs(None, 20)), "a range under way"
        )
        wait_for(lambda: len(self.endpoint.seen) > 80, "some deliveries")
        self.service.kill(first)
        self.assertLess(len(self.endpoint.seen), SUBSCRIBERS, "it was not in the middle")
        self.assertTrue(self.storage.list_jobs(None, 1))
        second = self.worker()
        wait_for(lambda: len(self.endpoint.accepted) == SUBSCRIBERS, f"all deliveries\n{self.service.log('worker')[-3000:]}")
        wait_for(lambda: not self.storage.list_jobs(None, 1), "the end of all jobs")
        again = sum(count - 1 for count in self.endpoint.seen.values())
        self.assertLessEqual(again, MAX_IN_FLIGHT + MICRO_BATCH)
        wait_for(lambda: not self.board.listing(), "an empty board")
        self.service.kill(second, signal.SIGTERM)
        status = self.status(expected=1)
        self.assertEqual((["no worker is at work"], 0), (status["problems"], status["board"]["posted"]))
        self.assertNotIn("Traceback", self.service.log("worker"))

    def test_a_killed_worker_with_redis(self) -> None:
        self.check_a_killed_worker("redis", Redis(self))


if __name__ == "__main__":
    unittest.main()
