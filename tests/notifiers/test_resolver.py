import queue
import socket
import threading
import unittest

from tests.notifiers.case import WAIT, wait_for
from zaqar_notify.notifiers.http import Fault
from zaqar_notify.notifiers.resolver import Answer, Resolver, system_look_up


class Names:
    """A look-up that counts, and that can be held up or made to fail."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.address = "192.0.2.1"
        self.failure: Exception | None = None
        self.held: dict[str, threading.Event] = {}

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        if name in self.held:
            wait_for(self.held[name])
        if self.failure is not None:
            raise self.failure
        return [self.address]


class ResolverTest(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.names = Names()
        self.answers: queue.Queue[tuple[str, Answer]] = queue.Queue()

    def make(self, **options: float) -> Resolver:
        resolver = Resolver(self.names, clock=lambda: self.now, **{"ttl": 60.0, "failure_ttl": 2.0, **options})  # type: ignore[arg-type]
        self.addCleanup(resolver.close)
        return resolver

    def ask(self, resolver: Resolver, name: str) -> Answer:
        resolver.ask(name, lambda found, answer: self.answers.put((found, answer)))
        found, answer = self.answers.get(timeout=WAIT)
        self.assertEqual(name, found)
        return answer

    def test_an_answer_is_cached(self) -> None:
        resolver = self.make()
        self.assertIsNone(resolver.cached("a.test"))
        answer = self.ask(resolver, "a.test")
        self.assertEqual((("192.0.2.1",), None), (answer.addresses, answer.fault))
        self.now = 59.0
        self.assertIs(answer, resolver.cached("a.test"))
        self.assertEqual(["a.test"], self.names.asked)

    def test_an_old_answer_is_used_while_a_new_one_is_fetched(self) -> None:
        resolver = self.make()
        self.ask(resolver, "a.test")
        self.now, self.names.address = 61.0, "192.0.2.2"
        release = self.names.held["a.test"] = threading.Event()
        old = resolver.cached("a.test")
        assert old is not None
        self.assertEqual(("192.0.2.1",), old.addresses)
        resolver.ask("a.test", lambda found, answer: self.answers.put((found, answer)))
        release.set()
        self.assertEqual(("192.0.2.2",), self.answers.get(timeout=WAIT)[1].addresses)
        new = resolver.cached("a.test")
        assert new is not None
        self.assertEqual(("192.0.2.2",), new.addresses)
        self.assertEqual(2, len(self.names.asked))

    def test_too_old_an_answer_is_not_used(self) -> None:
        resolver = self.make()
        self.ask(resolver, "a.test")
        self.now = 121.0
        self.assertIsNone(resolver.cached("a.test"))

    def test_one_look_up_in_flight_per_name(self) -> None:
        resolver = self.make()
        release = self.names.held["a.test"] = threading.Event()
        for _ in range(10):
            resolver.ask("a.test", lambda found, answer: self.answers.put((found, answer)))
        release.set()
        self.assertEqual(10, len([self.answers.get(timeout=WAIT) for _ in range(10)]))
        self.assertEqual(["a.test"], self.names.asked)

    def test_a_slow_name_delays_only_itself(self) -> None:
        resolver = self.make()
        self.names.held["slow.test"] = threading.Event()
        self.addCleanup(self.names.held["slow.test"].set)
        resolver.ask("slow.test", lambda found, answer: self.answers.put((found, answer)))
        self.assertEqual(("192.0.2.1",), self.ask(resolver, "quick.test").addresses)

    def test_at_most_so_many_at_once(self) -> None:
        resolver = self.make(threads=2)
        events = [self.names.held.setdefault(f"{number}.test", threading.Event()) for number in range(4)]
        for number in range(4):
            resolver.ask(f"{number}.test", lambda found, answer: self.answers.put((found, answer)))
        for event in events[1::-1]:
            event.set()
        self.assertEqual({"0.test", "1.test"}, {self.answers.get(timeout=WAIT)[0] for _ in range(2)})
        for event in events:
            event.set()
        self.assertEqual({"2.test", "3.test"}, {self.answers.get(timeout=WAIT)[0] for _ in range(2)})

    def test_a_name_that_does_not_exist_and_a_resolver_that_is_down(self) -> None:
        resolver = self.make()
        cases = {
            socket.EAI_NONAME: Fault.NAME_UNKNOWN,
            socket.EAI_NODATA: Fault.NAME_UNKNOWN,
            socket.EAI_AGAIN: Fault.RESOLVER,
            socket.EAI_FAIL: Fault.RESOLVER,
            socket.EAI_SYSTEM: Fault.RESOLVER,
        }
        for code, fault in cases.items():
            with self.subTest(code):
                self.names.failure = socket.gaierror(code, "told so")
                answer = self.ask(resolver, f"{code}.test")
                self.assertEqual((fault, "told so", ()), (answer.fault, answer.detail, answer.addresses))

    def test_failures_are_remembered_briefly(self) -> None:
        resolver = self.make()
        self.names.failure = socket.gaierror(socket.EAI_NONAME, "no")
        answer = self.ask(resolver, "a.test")
        self.now = 1.0
        self.assertIs(answer, resolver.cached("a.test"))
        self.now = 3.0
        self.assertIsNone(resolver.cached("a.test"))

    def test_a_resolver_that_is_down_does_not_make_a_known_name_unknown(self) -> None:
        resolver = self.make()
        self.ask(resolver, "a.test")
        self.now, self.names.failure = 61.0, socket.gaierror(socket.EAI_AGAIN, "later")
        self.assertEqual(("192.0.2.1",), self.ask(resolver, "a.test").addresses)
        self.names.failure = socket.gaierror(socket.EAI_NONAME, "no")
        self.assertIs(Fault.NAME_UNKNOWN, self.ask(resolver, "a.test").fault)

    def test_the_cache_is_bounded(self) -> None:
        resolver = self.make(size=2)
        for name in ("a.test", "b.test", "c.test"):
            self.ask(resolver, name)
        self.assertIsNone(resolver.cached("a.test"))
        self.assertIsNotNone(resolver.cached("c.test"))

    def test_the_systems_resolver(self) -> None:
        self.assertLessEqual(set(system_look_up("localhost")), {"127.0.0.1", "::1"})
        for name in ("x" * 64 + ".test", "a..b"):
            with self.subTest(name), self.assertRaises(socket.gaierror):
                system_look_up(name)
