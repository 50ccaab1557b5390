"""Many consumers of one queue at once: each message goes to one of them, and to none twice."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

from tests.storage import processes
from zaqar_notify.model import Draft
from zaqar_notify.storage.base import Storage

BATCH = 20

CONSUMER = """
import threading

def consume(number):
    while True:
        if number % 2:
            found = [message.id for message in storage.pop_messages("p", "q", 20)]
        else:
            claimed = storage.claim("p", "q", 20, 300, 60)
            found = [message.id for message in claimed[1]] if claimed else []
        if not found:
            return
        mine.extend(found)

# Each has something, however the race ends.
mine = [message.id for message in storage.pop_messages("p", "q", 20)]
print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=consume, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*mine)
"""


class ContentionConformance(processes.ProcessCase):
    def setUp(self) -> None:
        super().setUp()
        # By its own clock, as other processes see it.
        self.storage = self.make_storage(None)
        self.addCleanup(self.storage.close)

    def post(self, count: int) -> list[str]:
        given = []
        for _ in range(count // 1000):
            given += self.storage.publish("p", "q", [Draft(b'{"n": 1}', 3600)] * 1000)
        return given

    def run_threads(self, consumers: list[Callable[[Storage, list[str]], list[str]]]) -> list[list[str]]:
        """What each of them got. Each ends when it finds nothing any more."""
        got: list[list[str]] = [[] for _ in consumers]
        together = threading.Barrier(len(consumers))
        failures: list[BaseException] = []

        def run(consumer: Callable[[Storage, list[str]], list[str]], mine: list[str]) -> None:
            together.wait(30)
            try:
                while found := consumer(self.storage, mine):
                    mine += found
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=run, args=pair) for pair in zip(consumers, got, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], failures)
        return got

    def assert_each_once(self, given: list[str], got: list[list[str]]) -> None:
        counted = collections.Counter(message for mine in got for message in mine)
        self.assertEqual([], [message for message, times in counted.items() if times > 1])
        self.assertEqual(set(), set(given) ^ set(counted))

    def test_sixteen_threads_claim_and_pop_ten_thousand_messages(self) -> None:
        given = self.post(10_000)
        kept: list[str] = []

        def pop(storage: Storage, _: list[str]) -> list[str]:
            return [message.id for message in storage.pop_messages("p", "q", BATCH)]

        def claim(storage: Storage, _: list[str]) -> list[str]:
            claimed = storage.claim("p", "q", BATCH, 300, 60)
            found = [message.id for message in claimed[1]] if claimed else []
            kept.extend(found)
            return found

        def claim_and_delete(storage: Storage, _: list[str]) -> list[str]:
            claimed = storage.claim("p", "q", BATCH, 300, 60)
            if claimed is None:
                return []
            found = [message.id for message in claimed[1]]
            storage.delete_messages("p", "q", found, {claimed[0].id})
            return found

        got = self.run_threads([pop, claim, claim_and_delete, pop] * 4)
        self.assert_each_once(given, got)
        self.assertTrue(all(len(mine) % BATCH == 0 for mine in got), [len(mine) for mine in got])
        stats = self.storage.stats("p", "q")
        self.assertEqual((len(kept), 0), (stats.claimed, stats.free))

    def test_what_is_given_back_or_posted_meanwhile_is_not_lost(self) -> None:
        given = self.post(2000)
        later: list[str] = []

        def pop(storage: Storage, _: list[str]) -> list[str]:
            return [message.id for message in storage.pop_messages("p", "q", BATCH)]

        def claim_and_release(storage: Storage, _: list[str]) -> list[str]:
            # Keeps nothing, and ends some time: those who pop may have gone while it had everything.
            for _ in range(100):
                claimed = storage.claim("p", "q", BATCH, 300, 60)
                if claimed is not None:
                    storage.release_claim("p", "q", claimed[0].id)
            return []

        def post(storage: Storage, _: list[str]) -> list[str]:
            for _ in range(50):
                later.extend(storage.publish("p", "q", [Draft(b"1", 3600)] * 10))
            return []

        got = self.run_threads([pop, claim_and_release, post] * 3)
        # Who looked while the others had everything claimed has gone too early.
        while rest := pop(self.storage, []):
            got.append(rest)
        self.assert_each_once(given + later, got)

    def test_two_processes_claim_and_pop(self) -> None:
        given = self.post(4000)
        processes = [self.start(CONSUMER) for _ in range(2)]
        for process in processes:
            self.assertEqual("ready\n", process.stdout.readline())
        got = []
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            output, _ = process.communicate(timeout=120)
            self.assertEqual(0, process.returncode)
            got.append(output.split())
        self.assert_each_once(given, got)
        self.assertTrue(all(got))
