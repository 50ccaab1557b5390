"""A worker on another machine than the API is woken by the storage, long before it would look by itself."""

from __future__ import annotations

import unittest

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.engines import OnMongoDB, OnPostgreSQL
from tests.system.service import Service, wait_for

SELDOM = "[worker]\npoll_interval = 600\n"


class Waking:
    def test_a_post_wakes_a_worker_elsewhere(self: unittest.TestCase) -> None:  # type: ignore[misc]
        endpoint = Endpoint()
        self.enterContext(Endpoints(endpoint))
        here = Service(self, SELDOM, storage=self.new_storage())
        there = Service(self, SELDOM, beside=here)
        here.start_api()
        here.subscribe(endpoint.url)
        there.start("worker")
        wait_for(lambda: "is ready" in there.log("worker"), "the worker")
        for number in range(3):
            here.post({"n": number})
            wait_for(lambda number=number: len(endpoint.arrivals) == number + 1, "the notification")


class PostgreSQLTest(OnPostgreSQL, Waking):
    pass


class MongoDBTest(OnMongoDB, Waking):
    pass
