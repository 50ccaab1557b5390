"""Windows that outlive the workers which have opened them: real processes, real sockets, and kill -9."""

from __future__ import annotations

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.engines import OnSQLite
from tests.system.service import Service, wait_for

OPTIONS = """
[worker]
lease = 13
timeout = 2
poll_interval = 0.1
[webhook]
timeout = 2
"""
PARKED, DELIVERED, SUPERSEDED = "parked", "delivered", "superseded"


class WindowTest(OnSQLite):
    def setUp(self) -> None:
        self.endpoint = Endpoint()
        endpoints = Endpoints(self.endpoint)
        endpoints.__enter__()
        self.addCleanup(endpoints.__exit__)
        self.service = Service(self, OPTIONS, storage=self.new_storage())
        self.service.start_api()

    def state(self, message: str) -> str:
        (delivery,) = self.service.deliveries(message)
        return delivery["state"]

    def wait_all(self, messages: list[str], state: str) -> None:
        for message in messages:
            wait_for(lambda message=message: self.state(message) == state, f"{message} to be {state}")

    def test_kill_9_inside_a_window_loses_nothing(self) -> None:
        self.service.subscribe(self.endpoint.url, options={"window": {"seconds": 4}})
        worker = self.service.start("worker")
        repeated = self.service.post("again", "again", collapse_key="again")
        messages = self.service.post(*range(40))
        self.wait_all(messages, PARKED)
        self.service.kill(worker)
        self.service.start("worker")
        self.wait_all([*messages, repeated[1]], DELIVERED)
        self.assertEqual(SUPERSEDED, self.state(repeated[0]))
        self.assertEqual(41, len(self.endpoint.arrivals), "each of them once")
        self.assertEqual(41, len(self.endpoint.seen))

    def test_kill_9_while_windows_open_and_end(self) -> None:
        """At most what was in flight is sent twice."""
        self.service.subscribe(self.endpoint.url, options={"window": {"min": 0.3, "max": 0.6}})
        messages: list[str] = []
        for _ in range(4):
            worker = self.service.start("worker")
            before = len(self.endpoint.arrivals)
            messages += self.service.post(*range(len(messages), len(messages) + 20))
            wait_for(lambda before=before: len(self.endpoint.arrivals) > before, "a window to end")
            messages += self.service.post(*range(len(messages), len(messages) + 20))
            self.service.kill(worker)
        self.service.start("worker")
        self.wait_all(messages, DELIVERED)
        self.assertEqual(len(messages), len(self.endpoint.seen), "each arrived")
