import threading
import unittest

from zaqar_notify.errors import InvalidRequest, NotifierFailed
from zaqar_notify.notifiers.asking import MOST_LOST, Asking

WAIT = 10.0
SHORT = 0.05


class AskingTest(unittest.TestCase):
    def setUp(self) -> None:
        self.asking = Asking("test")
        self.addCleanup(self.asking.close)
        self.go = threading.Event()
        self.addCleanup(self.go.set)

    def hang(self) -> None:
        with self.assertRaisesRegex(NotifierFailed, "did not answer within 0.05 s"):
            self.asking.ask(lambda: self.go.wait(WAIT), SHORT)

    def test_answers(self) -> None:
        self.assertEqual(7, self.asking.ask(lambda: 7, WAIT))
        self.assertIsNone(self.asking.ask(lambda: None, WAIT))

    def test_what_is_raised_is_raised_here(self) -> None:
        for error in (InvalidRequest("no"), SystemExit(3), KeyboardInterrupt()):

            def call(error: BaseException = error) -> None:
                raise error

            with self.assertRaises(type(error)):
                self.asking.ask(call, WAIT)

    def test_one_thread_answers_one_after_the_other(self) -> None:
        threads = {self.asking.ask(threading.get_ident, WAIT) for _ in range(20)}
        self.assertEqual(1, len(threads))
        self.assertNotIn(threading.get_ident(), threads)

    def test_questions_at_the_same_time_do_not_wait_for_each_other(self) -> None:
        together = threading.Barrier(4)
        asked = [threading.Thread(target=self.asking.ask, args=(lambda: together.wait(WAIT), WAIT)) for _ in range(4)]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join(WAIT)
        self.assertFalse(together.broken)

    def test_those_that_hang_are_bounded_and_may_come_back(self) -> None:
        for _ in range(MOST_LOST):
            self.hang()
        with self.assertRaisesRegex(NotifierFailed, "^The notifier hangs$"):
            self.asking.ask(lambda: 7, WAIT)
        self.go.set()
        for _ in range(1000):
            try:
                self.assertEqual(7, self.asking.ask(lambda: 7, WAIT))
                break
            except NotifierFailed:
                threading.Event().wait(0.01)
        else:
            self.fail("it is asked no more")

    def test_one_that_hangs_keeps_nobody_from_asking(self) -> None:
        self.hang()
        self.assertEqual(7, self.asking.ask(lambda: 7, WAIT))
