from __future__ import annotations

import threading
import time
import unittest

from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.storage.clock import ServerClock

NOW = 1_700_000_000.0


class ServerClockTest(unittest.TestCase):
    def setUp(self) -> None:
        self.told: list[float | None] = []
        self.asked = 0
        self.delay = 0.0

    def ask(self) -> float:
        self.asked += 1
        time.sleep(self.delay)
        told = self.told.pop(0)
        if told is None:
            raise StorageUnavailable("out of reach")
        return told

    def test_it_is_asked_once_and_counted_on(self) -> None:
        self.told = [NOW]
        clock = ServerClock(self.ask, lifetime=3600)
        first = clock()
        time.sleep(0.01)
        second = clock()
        self.assertEqual(1, self.asked)
        self.assertGreaterEqual(first, NOW)
        self.assertGreaterEqual(second - first, 0.009)
        self.assertLess(second, NOW + 60)

    def test_it_is_asked_again_when_the_answer_is_old(self) -> None:
        self.told = [NOW, NOW + 1000]
        clock = ServerClock(self.ask, lifetime=0)
        self.assertLess(clock(), NOW + 60)
        self.assertGreaterEqual(clock(), NOW + 1000)

    def test_the_answer_is_of_the_middle_of_the_question(self) -> None:
        self.told, self.delay = [NOW], 0.2
        clock = ServerClock(self.ask, lifetime=3600)
        self.assertGreaterEqual(clock(), NOW + 0.1)

    def test_without_any_answer_there_is_no_time(self) -> None:
        self.told = [None, NOW]
        clock = ServerClock(self.ask, lifetime=3600)
        with self.assertRaises(StorageUnavailable):
            clock()
        self.assertGreaterEqual(clock(), NOW)

    def test_without_an_answer_it_is_counted_on(self) -> None:
        self.told = [NOW, None]
        clock = ServerClock(self.ask, lifetime=0)
        clock()
        self.assertGreaterEqual(clock(), NOW)
        self.assertGreaterEqual(clock(), NOW)
        self.assertEqual(2, self.asked, "it is left alone for a moment")

    def test_while_one_thread_asks_others_count_on(self) -> None:
        asked, answer = threading.Event(), threading.Event()

        def ask() -> float:
            if self.asked:
                asked.set()
                answer.wait(30)
            self.asked += 1
            return NOW + self.asked

        clock = ServerClock(ask, lifetime=0)
        clock()
        thread = threading.Thread(target=clock)
        thread.start()
        try:
            self.assertTrue(asked.wait(30))
            self.assertGreaterEqual(clock(), NOW + 1)
            self.assertEqual(1, self.asked)
        finally:
            answer.set()
            thread.join()
