"""Several hosts on one database, and what can happen to them: one is paused, killed, cut off, or has a wrong clock; the
database fails over or is restarted."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import signal
import subprocess
import time
import unittest
from typing import Any

from tests.servers import mongodb, postgresql
from tests.system.endpoints import Endpoint, Endpoints
from tests.system.engines import OnMongoDB, OnPostgreSQL
from tests.system.hosts import Load, Network, clock_off_by
from tests.system.service import Service, wait_for

FIGURES = pathlib.Path(__file__).resolve().parent.parent.parent / "bench-results"
LEASE = 12
MAX_IN_FLIGHT = 64
MICRO_BATCH = 50
OPTIONS = f"""
[worker]
lease = {LEASE}
timeout = 2
poll_interval = 0.2
max_in_flight = {MAX_IN_FLIGHT}
micro_batch = {MICRO_BATCH}
breaker_attempts = 100000
[webhook]
timeout = 2
[notification]
retry_schedule = 0, 0.5, 0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
retry_jitter = 0
[transport]
min_message_ttl = 1
max_deliveries_per_page = 500
[guard]
allowed_networks = 127.0.0.0/8, 10.214.0.0/16
"""


class NodesCase(unittest.TestCase):
    """``first`` has the API; ``host`` makes others beside it."""

    def start(self, storage: str, options: str = OPTIONS) -> None:
        self.options = options
        self.first = Service(self, options, storage=storage)
        self.first.start_api()

    def host(self, **where: Any) -> Service:
        return Service(self, self.options, beside=self.first, **where)

    def workers(self, *hosts: Service) -> list[subprocess.Popen[bytes]]:
        """One on each, started and ready."""
        ready = collections.Counter({host: host.log("worker").count("is ready") for host in hosts})
        ready.update(hosts)
        processes = [host.start("worker") for host in hosts]
        for host in hosts:
            wait_for(lambda host=host: host.log("worker").count("is ready") >= ready[host], "a worker")
        return processes

    def endpoint(self, **behaviour: Any) -> Endpoint:
        endpoint = Endpoint(**behaviour)
        endpoints = Endpoints(endpoint)
        endpoints.__enter__()
        self.addCleanup(endpoints.__exit__)
        return endpoint

    def subscribe(self, endpoint: Endpoint) -> str:
        return self.first.subscribe(endpoint.url)["subscription_id"]

    def ledger(self, subscription: str) -> dict[str, dict[str, Any]]:
        """All deliveries to it, by message."""
        found: dict[str, dict[str, Any]] = {}
        path = f"/v2/queues/demo/subscriptions/{subscription}/deliveries?limit=500"
        while path:
            status, answer = self.first.request("GET", path)
            self.assertEqual(status, 200, answer)
            found |= {delivery["message_id"]: delivery for delivery in answer["deliveries"]}
            path = next((link["href"] for link in answer["links"] if answer["deliveries"]), "")
        return found

    def wait_delivered(self, subscription: str, messages: list[str], hosts: list[Service] | None = None) -> None:
        def left() -> collections.Counter[str]:
            ledger = self.ledger(subscription)
            return collections.Counter(
                ledger[message]["state"] if message in ledger else "unknown"
                for message in messages
                if ledger.get(message, {}).get("state") != "delivered"
            )

        def done() -> bool:
            time.sleep(0.3)
            return not left()

        try:
            wait_for(done, "all deliveries", timeout=120)
        except AssertionError:
            logs = "\n".join(host.log("worker")[-3000:] for host in [self.first, *(hosts or [])])
            self.fail(f"not delivered: {left()}\n{self.first.log('api')[-2000:]}\n{logs}")

    def check_settled_once(self, subscription: str, messages: list[str]) -> None:
        """By the ledger: each attempt once, and one that delivered."""
        ledger = self.ledger(subscription)
        for message in messages:
            attempts = ledger[message]["attempts"]
            self.assertEqual([attempt["number"] for attempt in attempts], list(range(1, len(attempts) + 1)), attempts)
            self.assertEqual([attempt["outcome"] for attempt in attempts].count("delivered"), 1, (message, attempts))

    def duplicates(self, *endpoints: Endpoint) -> int:
        return sum(count - 1 for endpoint in endpoints for count in endpoint.accepted.values() if count > 1)


class PausedCase(NodesCase):
    def check_paused(self, storage: str) -> None:
        self.start(storage)
        slow, failing = self.endpoint(delay=0.5), self.endpoint(delay=0.3, status=lambda seen: 500 if seen == 1 else 200)
        silent = self.endpoint(status=lambda seen: None if seen == 1 else 200)
        subscriptions = [self.subscribe(endpoint) for endpoint in (slow, failing, silent)]
        (paused,) = self.workers(self.first)
        messages = self.first.post(*range(20))
        wait_for(lambda: len(slow.accepted) > 2 and failing.arrivals, "the first deliveries")
        os.killpg(paused.pid, signal.SIGSTOP)
        began = time.monotonic()
        second = self.host()
        (other,) = self.workers(second)
        for subscription in subscriptions:
            self.wait_delivered(subscription, messages, [second])
        print(f"{self.id()}: taken over in {time.monotonic() - began:.1f} s, lease {LEASE} s")
        before = [self.ledger(subscription) for subscription in subscriptions]
        os.killpg(paused.pid, signal.SIGCONT)
        second.kill(other, signal.SIGTERM)
        # What it had in hand when it was paused ends now, some of it with a success and some with a failure.
        later = self.first.post("later")
        for subscription in subscriptions:
            self.wait_delivered(subscription, later)
        time.sleep(1)
        for subscription, ledger in zip(subscriptions, before, strict=True):
            self.check_settled_once(subscription, messages + later)
            after = self.ledger(subscription)
            self.assertEqual({message: after[message] for message in messages}, ledger)
        self.assertLessEqual(self.duplicates(slow, failing), MAX_IN_FLIGHT + MICRO_BATCH)


class ClockCase(NodesCase):
    def check_clocks(self, storage: str) -> None:
        self.start(storage)
        ahead = self.host(environment=clock_off_by(60))
        behind = self.host(environment=clock_off_by(-60))
        healthy, failing = self.endpoint(delay=0.05), self.endpoint(status=lambda seen: 500 if seen == 1 else 200)
        subscriptions = [self.subscribe(endpoint) for endpoint in (healthy, failing)]
        (short,) = self.first.post("short", ttl=1)
        time.sleep(1.2)
        messages: list[str] = []
        for hosts in ([behind], [ahead], [behind, ahead, self.first]):
            workers = self.workers(*hosts)
            posted = [message for _ in range(10) for message in self.first.post(*range(3), ttl=30)]
            for subscription in subscriptions:
                self.wait_delivered(subscription, posted, [ahead, behind])
            messages += posted
            for host, worker in zip(hosts, workers, strict=True):
                host.kill(worker, signal.SIGTERM)
        for subscription in subscriptions:
            self.check_settled_once(subscription, messages)
            self.assertEqual(self.ledger(subscription)[short]["state"], "expired", "by the database's clock it was")
        # Were wrong clocks believed, there would be one for nearly all. A machine that stalls may let a lease end in truth.
        again = sum(seen - 1 for seen in healthy.seen.values())
        self.assertLess(again, 5, "leases have seemed to end early")
        self.assertTrue(set(failing.seen.values()) <= {2, 3}, failing.seen)
        arrivals: dict[str, list[float]] = collections.defaultdict(list)
        for arrival in failing.arrivals:
            arrivals[arrival.headers["webhook-id"]].append(arrival.at)
        waits = sorted(later - first for first, later, *_ in arrivals.values())
        self.assertGreater(waits[5], 0.45, "tried again before it was due")
        self.assertLess(waits[-1], 50, "tried again when it was due by a wrong clock")


class KilledCase(NodesCase):
    def check_killed_host(self, storage: str) -> None:
        self.start(storage)
        endpoint = self.endpoint(delay=0.5)
        subscription = self.subscribe(endpoint)
        doomed = self.host()
        workers = self.workers(doomed, doomed)
        messages = self.first.post(*range(20))
        wait_for(lambda: len(endpoint.accepted) > 2, "the first deliveries")
        for worker in workers:
            os.killpg(worker.pid, signal.SIGKILL)
        began = time.monotonic()
        for worker in workers:
            doomed.kill(worker)
        self.workers(self.first)
        self.wait_delivered(subscription, messages)
        print(f"{self.id()}: taken over in {time.monotonic() - began:.1f} s, lease {LEASE} s")
        self.check_settled_once(subscription, messages)
        self.assertLessEqual(self.duplicates(endpoint), 2 * (MAX_IN_FLIGHT + MICRO_BATCH))
        self.check_members(1)

    def check_members(self, count: int) -> None:
        status = json.loads(self.first.run("cluster", "status", "--json"))
        self.assertEqual([worker["state"] for worker in status["workers"]], ["alive"] * count, status)


class CutCase(NodesCase):
    def check_cut_off(self, network: Network, storage: str) -> None:
        # A connection on which nothing comes back is given up after a multiple of this.
        self.start(storage, OPTIONS + "[storage]\nbusy_timeout = 2\n")
        healthy = self.endpoint(host=network.web, delay=0.3)
        failing = self.endpoint(host=network.web, status=lambda seen: 500 if seen == 1 else 200)
        subscriptions = [self.subscribe(endpoint) for endpoint in (healthy, failing)]
        hosts = [self.host(within=network.within(number)) for number in range(3)]
        self.workers(*hosts)
        load = Load(self.first, clients=3, pause=0.1)
        wait_for(lambda: len(healthy.accepted) > 30, "the first deliveries")
        network.cut(0)
        time.sleep(LEASE + 3)
        wait_for(lambda: "has to wait" in hosts[0].log("worker"), "the one that is cut off to notice")
        network.heal(0)
        time.sleep(2)
        messages = load.stop()
        for subscription in subscriptions:
            self.wait_delivered(subscription, messages, hosts)
        arrived = len(healthy.arrivals)
        # The one that was cut off takes part again.
        for host in hosts[1:]:
            host.kill(host.processes[0], signal.SIGTERM)
        later = self.first.post("later")
        for subscription in subscriptions:
            self.wait_delivered(subscription, later, hosts)
            self.check_settled_once(subscription, messages + later)
        duplicates = self.duplicates(healthy, failing)
        print(
            f"{self.id()}: {len(messages)} messages to 2 endpoints, {arrived} arrivals at the first, {duplicates} duplicates, "
            f"worst publish stall {load.worst_stall:.2f} s"
        )
        self.assertLessEqual(duplicates, MAX_IN_FLIGHT + MICRO_BATCH)
        self.assertLess(load.worst_stall, 2 * LEASE, "others were held up by one that was cut off")


class FailoverCase(NodesCase):
    def check_failover(self, storage: str, fail: Any) -> None:
        """``fail`` does to the database what there is to do, under load."""
        self.start(storage)
        endpoints = [self.endpoint(), self.endpoint(delay=0.05)]
        subscriptions = [self.subscribe(endpoint) for endpoint in endpoints]
        second = self.host()
        self.workers(self.first, second)
        load = Load(self.first)
        wait_for(lambda: len(endpoints[0].accepted) > 30, "the first deliveries")
        fail()
        before = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > before + 30, "posts after the failure")
        messages = load.stop()
        for subscription in subscriptions:
            self.wait_delivered(subscription, messages, [second])
            self.check_settled_once(subscription, messages)
        figures = {
            "messages": len(messages),
            "refused": load.refused,
            "worst_publish_stall": round(load.worst_stall, 3),
            "duplicates": self.duplicates(*endpoints),
        }
        print(f"{self.id()}: {figures}")
        FIGURES.mkdir(exist_ok=True)
        (FIGURES / f"failover-{self.id().rpartition('.')[0].rpartition('.')[2]}.json").write_text(json.dumps(figures) + "\n")


class PostgreSQLTest(OnPostgreSQL, PausedCase, ClockCase, KilledCase, CutCase, FailoverCase):
    def test_a_paused_worker_cannot_settle_when_it_wakes_up(self) -> None:
        self.check_paused(self.new_storage())

    def test_the_clocks_of_workers_do_not_matter(self) -> None:
        self.check_clocks(self.new_storage())

    def test_a_killed_hosts_work_is_taken_over(self) -> None:
        self.check_killed_host(self.new_storage())

    def test_a_host_that_is_cut_off_from_the_database_and_healed(self) -> None:
        network = Network(self, 3)
        self.check_cut_off(network, postgresql.PostgreSQL(self, network.database).new_database())

    def test_the_server_is_restarted_and_killed_under_load(self) -> None:
        server = postgresql.PostgreSQL(self)

        def fail() -> None:
            server.restart()
            time.sleep(2)
            server.kill()
            server.start()

        self.check_failover(server.new_database(), fail)


class MongoDBTest(OnMongoDB, PausedCase, ClockCase, KilledCase, CutCase, FailoverCase):
    def test_a_paused_worker_cannot_settle_when_it_wakes_up(self) -> None:
        self.check_paused(self.new_storage())

    def test_the_clocks_of_workers_do_not_matter(self) -> None:
        self.check_clocks(self.new_storage())

    def test_a_killed_hosts_work_is_taken_over(self) -> None:
        self.check_killed_host(self.new_storage())

    def test_a_host_that_is_cut_off_from_the_database_and_healed(self) -> None:
        network = Network(self, 3)
        self.check_cut_off(network, mongodb.ReplicaSet(self, network.database).new_database())

    def test_the_primary_of_three_is_killed_under_load(self) -> None:
        servers = mongodb.ReplicaSet(self, members=3)

        def fail() -> None:
            killed = servers.kill_primary()
            time.sleep(5)
            servers.restart(killed)

        self.check_failover(servers.new_database(), fail)
