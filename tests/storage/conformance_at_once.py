"""Windows when many put something into them at once, and when a process dies that has."""

from __future__ import annotations

import threading
import time

from tests.storage import processes
from tests.storage.conformance_windows import GONE, LONG, WAITS, WindowsCase, window
from zaqar_notify.storage.base import Closing, Settlement, Storage

HOLDER = """
from zaqar_notify.storage.base import Closing, Settlement, Window
worker = storage.join()
taken = storage.take(worker, 10**9, entries=10, rows=0)
windows = [Window("s", 600.0, key) for key in ("a", "b")]
for entry, window in zip(taken.entries, windows):
    held = Settlement(entry.message_id, sys.argv[1], taken.token, False, window=window)
    storage.settle([held], [Closing(entry.message_id, taken.token)])
print("held", flush=True)
sys.stdin.readline()
"""


class AtOnceConformance(WindowsCase):
    MESSAGES = 12

    def test_one_of_those_that_come_at_once_waits(self) -> None:
        self.begin()
        message_ids, token = self.matched(self.MESSAGES)
        storages: list[Storage] = [self.another() for _ in range(4)]
        together = threading.Barrier(self.MESSAGES)
        failures: list[BaseException] = []

        def settle(number: int) -> None:
            message_id = message_ids[number]
            waits = [
                self.waits(message_id, token, window(scope=scope), one) for scope, one in (("s", self.mine), ("t", self.other))
            ]
            together.wait(60)
            try:
                # Some name the windows in another order.
                held = storages[number % 4].settle(waits[:: 1 if number % 2 else -1], [Closing(message_id, token)])
                self.assertEqual(0, held)
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=settle, args=(number,)) for number in range(self.MESSAGES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], failures)
        expected = [GONE] * (self.MESSAGES - 1) + [WAITS]
        self.assertEqual((expected, expected), (self.states(message_ids), self.states(message_ids, self.other)))
        rows = self.release().rows
        self.assertEqual([message_ids[-1]] * 2, [row.message_id for row in rows])
        self.assertEqual(2, len({row.window_id for row in rows}))


class KilledHolderConformance(WindowsCase, processes.ProcessCase):
    def test_what_a_killed_process_had_put_into_a_window_is_there(self) -> None:
        self.clock.now = time.time()
        self.begin()
        message_ids = self.publish(2, ttl=100_000)
        process = self.start(HOLDER, self.mine.id)
        self.assertEqual("held\n", process.stdout.readline())  # type: ignore[union-attr]
        process.kill()
        process.wait()
        self.storage.close()
        self.storage = self.another()
        self.worker = self.storage.join()
        self.clock.now = max(time.time(), self.clock.now)
        self.assertEqual([WAITS, WAITS], self.states(message_ids))
        ends_at = {self.released_at(message_id) for message_id in message_ids}
        self.assertEqual(1, len(ends_at))
        later = self.hold(window("a"))
        self.assertEqual([GONE, WAITS, WAITS], self.states([*message_ids, later]))
        self.assertEqual(ends_at, {self.released_at(later)}, "the window is open still")
        self.clock.now = ends_at.pop() - 0.1
        self.assertEqual([], self.released(0))
        self.assertEqual([message_ids[1], later], self.released(0.1))

    def test_a_killed_worker_gives_back_what_was_released(self) -> None:
        self.begin()
        message_id = self.hold()
        self.clock.now += LONG
        taken = self.take(self.worker)
        self.storage.close()
        self.storage = self.another()
        self.storage.leave(self.worker)
        self.worker = self.storage.join()
        again = self.take(self.worker)
        self.assertEqual(self.rows(taken), self.rows(again))
        done = Settlement(message_id, self.mine.id, taken.token, from_row=True, log=self.delivered())
        self.assertEqual(1, self.storage.settle([done]), "it lost its lease")
