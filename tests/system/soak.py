"""The zero-loss proof: kill -9 at random moments, and then account for every acknowledged message.

``python -m tests.system.soak --rounds 20`` runs it by itself; three rounds are part of the tests.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import threading
import time
import urllib.error

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.service import Service, wait_for

MAX_IN_FLIGHT = 64
MICRO_BATCH = 50
OPTIONS = f"""
[worker]
max_in_flight = {MAX_IN_FLIGHT}
micro_batch = {MICRO_BATCH}
lease = 14
timeout = 3
poll_interval = 0.2
breaker_wait = 0.5
breaker_wait_max = 1
release_rate = 1000
[webhook]
timeout = 3
[notification]
retry_schedule = 0, 0.1, 0.2, 0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
"""


@dataclasses.dataclass
class Result:
    messages: int = 0
    """Acknowledged with 201."""
    kills: int = 0
    lost: int = 0
    """Acknowledged message x reachable endpoint without a 2xx."""
    duplicates: int = 0
    """2xx answers beyond the first for one webhook-id."""
    allowed: int = 0
    """What was in flight and not settled at each kill of a worker, at most."""

    def __str__(self) -> str:
        return (
            f"{self.messages} messages acknowledged, {self.kills} kills, {self.lost} lost, "
            f"{self.duplicates} duplicates (at most {self.allowed})"
        )


class Publishers:
    """Clients that post until they are told to stop, and note what was acknowledged."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self.acknowledged: list[str] = []
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                self.acknowledged += self._service.post({"client": client, "number": number}, {"second": number})
            except (OSError, urllib.error.URLError, AssertionError):
                time.sleep(0.05)  # no 201: not acknowledged, whatever became of it
            number += 1
            time.sleep(0.01)

    def stop(self) -> list[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        return self.acknowledged


def soak(rounds: int, seed: int | None = None, storage: str = "") -> Result:
    chance = random.Random(seed)
    result = Result()
    service = Service(options=OPTIONS, storage=storage)
    reachable = {
        "at once": Endpoint(),
        "after 200 ms": Endpoint(delay=0.2),
        "500 first": Endpoint(status=lambda seen: 500 if seen == 1 else 200),
    }
    silent = Endpoint(status=lambda _: None)
    try:
        with Endpoints(*reachable.values(), silent):
            processes = {"api": service.start_api(), "worker": service.start("worker")}
            subscriptions = {name: service.subscribe(endpoint.url)["subscription_id"] for name, endpoint in reachable.items()}
            service.subscribe(silent.url)
            publishers = Publishers(service)
            for _ in range(rounds):
                time.sleep(chance.uniform(0.5, 2.0))
                victim = chance.choice(["api", "worker", "worker"])
                service.kill(processes[victim])
                result.kills += 1
                if victim == "worker":
                    result.allowed += MAX_IN_FLIGHT + MICRO_BATCH
                processes[victim] = service.start_api() if victim == "api" else service.start("worker")
            messages = publishers.stop()
            expected = {
                (name, f"{message}-{subscription}") for name, subscription in subscriptions.items() for message in messages
            }

            def missing() -> int:
                return sum(not reachable[name].accepted[webhook_id] for name, webhook_id in expected)

            try:
                wait_for(lambda: not missing(), "all deliveries", timeout=120.0)
            except AssertionError:
                print(service.log("worker")[-4000:], file=sys.stderr)
            result.messages = len(messages)
            result.lost = missing()
            result.duplicates = sum(
                count - 1 for endpoint in reachable.values() for count in endpoint.accepted.values() if count > 1
            )
    finally:
        service.close()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how many times something is killed (default: 20)")
    parser.add_argument("--seed", type=int, help="repeats the same choices")
    parser.add_argument("--storage", default="", help="the URL of an empty storage (default: SQLite in a directory of its own)")
    arguments = parser.parse_args()
    result = soak(arguments.rounds, arguments.seed, arguments.storage)
    print(result)
    return int(result.lost > 0 or result.duplicates > result.allowed or not result.messages)


if __name__ == "__main__":
    sys.exit(main())
