import contextlib
import dataclasses
import datetime
import logging
import queue
import socket
import threading
import time
import unittest
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

from tests.notifiers import smsc
from tests.notifiers.case import WAIT, closed_port
from tests.notifiers.endpoint import certificate
from tests.notifiers.smsc import PASSWORD, USER, MessageCentre
from tests.notifiers.test_sms import message, section, subscription
from zaqar_notify.errors import CannotStart
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Priority, Receipt, ReceiptKind, Scope
from zaqar_notify.notifiers import smpp
from zaqar_notify.notifiers.awaiting import MOST, MOST_EARLY, Awaiting, Report
from zaqar_notify.notifiers.gateways import WORDS
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.sending import sound
from zaqar_notify.notifiers.smpp import OUTCOMES, SmppGateway
from zaqar_notify.notifiers.sms import SmsNotifier

DELIVERED, RETRY, THROTTLED, AUTH = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.THROTTLED, OutcomeKind.AUTH
REJECTED, OURS = OutcomeKind.REJECTED, OutcomeKind.OURS
NUMBER = "46701234567"
Heard = tuple[str, str, Receipt]


class SmppCase(unittest.TestCase):
    def notifier(self, port: int, **values: Any) -> SmsNotifier:
        usual = {"preset": "smpp", "url": f"smpp://127.0.0.1:{port}", "username": USER, "password": PASSWORD}
        clients = HttpClients(Guard(), max_timeout=20.0)
        notifier = SmsNotifier(section(main={**usual, **values}), clients, logging.getLogger("tests.smpp"))
        self.addCleanup(notifier.close)
        return notifier

    def deliver(self, notifier: SmsNotifier, *deliveries: Delivery) -> dict[str, Outcome]:
        reports: queue.Queue[tuple[Delivery, Outcome]] = queue.Queue()
        notifier.send_many(deliveries, lambda delivery, outcome: reports.put((delivery, outcome)))
        found = {delivery.id: outcome for delivery, outcome in (reports.get(timeout=WAIT) for _ in deliveries)}
        self.assertEqual((len(deliveries), True), (len(found), reports.empty()))
        for outcome in found.values():
            self.assertEqual(outcome, sound(outcome))
        return found

    @staticmethod
    def delivery(number: str = NUMBER, body: Any = "hello", *, name: str = "m1-s1", timeout: float = WAIT) -> Delivery:
        return Delivery(name, 1, time.monotonic() + timeout, message(body), subscription(f"sms:+{number}"))

    def attempt(self, notifier: SmsNotifier, number: str = NUMBER, body: Any = "hello", timeout: float = WAIT) -> Outcome:
        return self.deliver(notifier, self.delivery(number, body, timeout=timeout))["m1-s1"]


class MessageCentreTestCase(SmppCase):
    centre: ClassVar[MessageCentre]

    @classmethod
    def setUpClass(cls) -> None:
        if not smsc.is_there():
            raise unittest.SkipTest("server missing: smpp")
        cls.centre = MessageCentre()
        cls.addClassCleanup(cls.centre.close)

    def setUp(self) -> None:
        self.centre.forget()


class MessageCentreTest(MessageCentreTestCase):
    def test_what_it_gets(self) -> None:
        notifier = self.notifier(self.centre.port, sender="+46700000000")
        outcome = self.attempt(notifier, body="hello {€}")
        self.assertEqual((DELIVERED, 0), (outcome.kind, outcome.status))
        self.assertRegex(str(outcome.provider_id), r"^id-\d+$")
        (submitted,) = self.centre.submitted()
        self.assertIn({"event": "bind", "version": 0x34, "right": True}, self.centre.events)
        until = datetime.datetime.fromisoformat(submitted.pop("validity")).timestamp()
        self.assertLess(abs(until - time.time() - 3600), 60)
        expected = {
            "event": "submit_sm",
            "to": NUMBER,
            "from": "46700000000",
            "from_ton": 1,
            "from_npi": 1,
            "to_ton": 1,
            "to_npi": 1,
            "data_coding": 0,
            "esm_class": 0,
            "registered": 1,
            "priority": 0,
            "text": "hello {€}",
            "udh": [],
        }
        self.assertEqual(expected, submitted)

    def test_how_urgent_it_is_and_how_long_it_is_worth_sending(self) -> None:
        notifier = self.notifier(self.centre.port)
        for priority, lives, flag in ((Priority.HIGH, 7200, 2), (Priority.NORMAL, 90, 0), (Priority.LOW, 40 * 86400, 0)):
            self.centre.events.clear()
            asked = self.delivery()
            asked.message = dataclasses.replace(asked.message, priority=priority, expires_at=time.time() + lives)
            self.assertIs(DELIVERED, self.deliver(notifier, asked)["m1-s1"].kind)
            (submitted,) = self.centre.submitted()
            until = datetime.datetime.fromisoformat(submitted["validity"]).timestamp()
            self.assertLess(abs(until - time.time() - min(lives, 30 * 86400)), 60)
            self.assertEqual(flag, submitted["priority"])

    def test_other_letters_and_a_name_as_sender(self) -> None:
        self.attempt(self.notifier(self.centre.port, sender="Notify"), body="中文 😀")
        (submitted,) = self.centre.submitted()
        self.assertEqual(
            ("中文 😀", 8, "Notify", 5, 0),
            tuple(submitted[name] for name in ("text", "data_coding", "from", "from_ton", "from_npi")),
        )

    def test_long_texts_come_in_parts(self) -> None:
        notifier = self.notifier(self.centre.port)
        for text in ("a" * 152 + "€" + "b" * 200, "中" * 100):
            self.centre.events.clear()
            self.assertIs(DELIVERED, self.attempt(notifier, body=text).kind)
            parts = self.centre.submitted()
            self.assertEqual(text, "".join(part["text"] for part in parts))
            headers = [bytes.fromhex("".join(part["udh"])) for part in parts]
            self.assertEqual([(0, 3, len(parts), n + 1) for n in range(len(parts))], [(*h[-5:-3], *h[-2:]) for h in headers])
            self.assertEqual(1, len({header[-3] for header in headers}))
            self.assertEqual({0x40}, {part["esm_class"] for part in parts})

    def test_answers(self) -> None:
        notifier = self.notifier(self.centre.port, outcomes={"0x45": "rejected"})
        cases: dict[int, tuple[OutcomeKind, dict[str, Any]]] = {
            0x58: (THROTTLED, {"after": 1.0, "scope": Scope.CREDENTIAL, "credential": "sms main"}),
            0x14: (THROTTLED, {"after": 1.0}),
            0x0B: (REJECTED, {"target": True}),
            0x0A: (AUTH, {"credential": "sms main"}),
            0x01: (REJECTED, {}),
            0x08: (RETRY, {"scope": Scope.LANE}),
            0x64: (RETRY, {"scope": Scope.SUBSCRIPTION}),
            0x45: (REJECTED, {}),
            0x499: (RETRY, {"scope": Scope.SUBSCRIPTION}),
        }
        for status, (kind, fields) in cases.items():
            with self.subTest(hex(status)):
                outcome = self.attempt(notifier, f"4600{status:04d}00")
                self.assertIs(kind, outcome.kind, outcome)
                for name, value in {"status": status, "target": False, "after": None, **fields}.items():
                    self.assertEqual(value, getattr(outcome, name), (name, outcome))
                self.assertIn(f"0x{status:02x}", outcome.detail)
                assert outcome.exchange is not None
                self.assertNotIn(f"4600{status:04d}00", f"{outcome}")
        self.assertEqual(1, self.centre.count("connection"))

    def test_a_refused_bind(self) -> None:
        outcome = self.attempt(self.notifier(self.centre.port, password="wr0ng"))
        self.assertEqual((AUTH, 0x0E, "sms main"), (outcome.kind, outcome.status, outcome.credential))
        self.assertNotIn("wr0ng", f"{outcome}")
        outcome = self.attempt(self.notifier(self.centre.port, username="busy"))
        self.assertEqual((RETRY, Scope.LANE, 8), (outcome.kind, outcome.scope, outcome.status))

    def test_many_over_one_connection_within_the_window(self) -> None:
        notifier = self.notifier(self.centre.port, max_unanswered=5)
        deliveries = [self.delivery(name=str(number)) for number in range(200)]
        outcomes = self.deliver(notifier, *deliveries)
        self.assertEqual({DELIVERED}, {outcome.kind for outcome in outcomes.values()})
        self.assertEqual(200, len({outcome.provider_id for outcome in outcomes.values()}))
        self.assertEqual((1, 200), (self.centre.count("connection"), len(self.centre.submitted())))

    def test_no_answer_to_some(self) -> None:
        notifier = self.notifier(self.centre.port, max_unanswered=3)
        silent = [self.delivery("46010000000", name=f"silent{n}", timeout=0.6) for n in range(3)]
        outcomes = self.deliver(notifier, *silent, self.delivery(name="late", timeout=0.3), self.delivery(name="good"))
        self.assertEqual([RETRY] * 3, [outcomes[one.id].kind for one in silent])
        self.assertEqual((OURS, DELIVERED), (outcomes["late"].kind, outcomes["good"].kind))
        self.assertEqual(1, self.centre.count("connection"))

    def test_it_hangs_up(self) -> None:
        notifier = self.notifier(self.centre.port, max_unanswered=1)
        outcomes = self.deliver(notifier, self.delivery("46020000000", name="cut"), self.delivery(name="after"))
        self.assertEqual((RETRY, Scope.LANE), (outcomes["cut"].kind, outcomes["cut"].scope))
        self.assertIs(DELIVERED, outcomes["after"].kind)
        self.assertEqual(2, self.centre.count("connection"))

    def test_signs_of_life(self) -> None:
        notifier = self.notifier(self.centre.port, enquire_link=0.1)
        self.attempt(notifier)
        for _ in range(3):
            self.centre.wait("enquire_link")
        self.assertIs(DELIVERED, self.attempt(notifier, "46030000000").kind)  # here the other side asks
        self.assertEqual(1, self.centre.count("connection"))

    def test_closing_says_goodbye(self) -> None:
        notifier = self.notifier(self.centre.port)
        self.attempt(notifier)
        notifier.close()
        self.centre.wait("unbind")
        self.assertIs(OURS, self.attempt(notifier).kind)


class ReceiptTest(MessageCentreTestCase):
    """What the message centre reports later, over the connection."""

    def sent(self, number: str, body: str = "hello") -> tuple[SmsNotifier, "queue.Queue[Heard]"]:
        self.centre.forget()
        heard: queue.Queue[Heard] = queue.Queue()
        notifier = self.notifier(self.centre.port)
        notifier.received = lambda *what: heard.put(what)
        self.assertIs(DELIVERED, self.attempt(notifier, number, body).kind)
        return notifier, heard

    def expect(self, number: str, kind: ReceiptKind, said: str, body: str = "hello") -> None:
        _, heard = self.sent(number, body)
        message_id, subscription_id, receipt = heard.get(timeout=WAIT)
        self.assertEqual(("m1", "s1"), (message_id, subscription_id))
        self.assertEqual((kind, False, f"the gateway main reported {said}"), (receipt.kind, receipt.gone, receipt.detail))
        self.assertLess(abs(receipt.at - time.time()), 60)
        for _ in self.centre.submitted():
            self.assertEqual(0, self.centre.wait("deliver_sm_resp")["status"])
        self.assertTrue(heard.empty())

    def nothing(self, number: str) -> None:
        notifier, heard = self.sent(number)
        self.assertEqual(0, self.centre.wait("deliver_sm_resp")["status"])
        notifier.close()
        self.assertTrue(heard.empty())

    def test_it_is_there(self) -> None:
        self.expect(NUMBER, ReceiptKind.DEVICE, "DELIVRD")
        self.assertEqual(1, self.centre.submitted()[0]["registered"])

    def test_it_failed(self) -> None:
        for state, name in ((3, "EXPIRED"), (4, "DELETED"), (5, "UNDELIV"), (8, "REJECTD")):
            with self.subTest(name):
                self.expect(f"4604{state}0120000", ReceiptKind.FAILED, f"{name}, error 012")
        self.expect("460450000000", ReceiptKind.FAILED, "UNDELIV")

    def test_it_is_on_its_way(self) -> None:
        for state in (1, 6, 7):
            with self.subTest(state):
                self.nothing(f"4604{state}0000000")

    def test_a_report_that_is_here_before_the_answer(self) -> None:
        self.expect("460500000000", ReceiptKind.DEVICE, "DELIVRD")

    def test_optional_parameters_alone(self) -> None:
        self.expect("460700000000", ReceiptKind.FAILED, "UNDELIV")

    def test_what_a_person_writes_is_no_report(self) -> None:
        self.nothing("460600000000")

    def test_all_parts_have_to_arrive(self) -> None:
        self.expect(NUMBER, ReceiptKind.DEVICE, "DELIVRD", "a" * 400)
        self.assertEqual(3, len(self.centre.submitted()))

    def test_one_part_that_fails_is_enough(self) -> None:
        self.expect("460450120000", ReceiptKind.FAILED, "UNDELIV, error 012", "a" * 400)

    def test_it_binds_again_for_what_is_awaited(self) -> None:
        with mock.patch.object(smpp, "_BIND_AGAIN", 0.05):
            _, heard = self.sent("460800000000")
            self.assertEqual(ReceiptKind.DEVICE, heard.get(timeout=WAIT)[2].kind)
        self.assertEqual(2, self.centre.count("bind"))


class AwaitingTest(unittest.TestCase):
    def test_what_was_ended_stays_so(self) -> None:
        awaiting = Awaiting()
        awaiting.accepted("d", ["1", "2", "3"])
        self.assertIsNone(awaiting.reported(Report("1", "DELIVRD")))
        self.assertEqual(("d", ReceiptKind.FAILED), awaiting.reported(Report("2", "UNDELIV")))
        self.assertIsNone(awaiting.reported(Report("3", "UNDELIV")))
        self.assertFalse(awaiting)

    def test_a_report_twice(self) -> None:
        awaiting = Awaiting()
        awaiting.accepted("d", ["1", "2"])
        for _ in range(3):
            self.assertIsNone(awaiting.reported(Report("1", "DELIVRD")))
        self.assertEqual(("d", ReceiptKind.DEVICE), awaiting.reported(Report("2", "DELIVRD")))

    def test_parts_of_one_id(self) -> None:
        awaiting = Awaiting()
        awaiting.accepted("d", ["1", "1"])
        self.assertEqual(("d", ReceiptKind.DEVICE), awaiting.reported(Report("1", "DELIVRD")))

    def test_memory_is_bounded(self) -> None:
        awaiting = Awaiting()
        for number in range(MOST + 10):
            awaiting.accepted(f"d{number}", [f"{number}"])
            awaiting.reported(Report(f"unknown {number}", "DELIVRD"))
        self.assertEqual((MOST, MOST_EARLY), (len(awaiting._awaited), len(awaiting._early)))
        self.assertIsNone(awaiting.reported(Report("9", "DELIVRD")), "the oldest is forgotten")
        self.assertEqual(("d10", ReceiptKind.DEVICE), awaiting.reported(Report("10", "DELIVRD")))
        self.assertEqual([], awaiting.accepted("x", ["unknown 1"]))
        last = f"unknown {MOST + 9}"
        self.assertEqual([Report(last, "DELIVRD")], awaiting.accepted("x", [last]))


class Centre:
    """Does with each connection what a test wants."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            with connection, contextlib.suppress(OSError):
                self._behave(connection)


def pdu(command: int, sequence: int, body: bytes = b"", status: int = 0) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in (16 + len(body), command, status, sequence)) + body


BOUND = pdu(0x80000009, 1, b"smsc\0")


class HostileTest(SmppCase):
    def attempt_at(self, behave: Callable[[socket.socket], None], timeout: float = WAIT, **values: Any) -> Outcome:
        centre = Centre(behave)
        self.addCleanup(centre.close)
        return self.attempt(self.notifier(centre.port, **values), timeout=timeout)

    def test_what_is_no_message_centre(self) -> None:
        for said in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\1" + b"x" * 20, b"\xff\xff\xff\xff" + b"x" * 20, b""):
            with self.subTest(said):
                outcome = self.attempt_at(lambda connection, said=said: connection.sendall(said))
                self.assertEqual((RETRY, Scope.LANE, None), (outcome.kind, outcome.scope, outcome.status), outcome)

    def test_after_the_bind(self) -> None:
        def garbage(answer: bytes) -> Callable[[socket.socket], None]:
            def behave(connection: socket.socket) -> None:
                connection.recv(4096)
                connection.sendall(BOUND)
                connection.recv(4096)
                connection.sendall(answer)

            return behave

        for answer in (
            b"",
            b"x" * 100,
            pdu(0x77777777, 1),
            pdu(5, 1, b"\0\1"),
            pdu(0x00000006, 9),
            BOUND[:-1],
        ):
            with self.subTest(answer):
                self.assertIs(RETRY, self.attempt_at(garbage(answer)).kind)

    def test_answers_that_nobody_waits_for(self) -> None:
        def behave(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(BOUND + pdu(0x80000004, 4711, b"x\0") + pdu(0x80000015, 4712) + pdu(0x15, 4713))
            sequence = int.from_bytes(connection.recv(4096)[12:16], "big")
            connection.sendall(pdu(0x80000004, sequence, b"a\x00"))
            connection.recv(4096)

        def slowly(connection: socket.socket) -> None:
            connection.recv(4096)
            for byte in BOUND:
                connection.sendall(bytes((byte,)))
            request = connection.recv(4096)
            for byte in pdu(0x80000004, int.from_bytes(request[12:16], "big"), b"slow-id\0"):
                connection.sendall(bytes((byte,)))
            connection.recv(4096)

        outcome = self.attempt_at(slowly)
        self.assertEqual((DELIVERED, "slow-id"), (outcome.kind, outcome.provider_id))
        self.assertIs(DELIVERED, self.attempt_at(behave).kind)

    def test_what_comes_together_with_the_answer_to_the_bind(self) -> None:
        """Of what is there already no event tells."""
        said = b"id:x stat:DELIVRD"
        report = pdu(5, 7, bytes(7) + b"\x04" + bytes(8) + bytes((len(said),)) + said)
        connections: list[socket.socket] = []

        def behave(connection: socket.socket) -> None:
            connections.append(connection)
            connection.recv(4096)
            if len(connections) == 1:
                connection.sendall(BOUND)
                connection.sendall(pdu(0x80000004, int.from_bytes(connection.recv(4096)[12:16], "big"), b"x\0"))
                return
            connection.sendall(BOUND + report)
            connection.recv(4096)

        heard: queue.Queue[Heard] = queue.Queue()
        centre = Centre(behave)
        self.addCleanup(centre.close)
        notifier = self.notifier(centre.port, enquire_link=2 * WAIT)
        notifier.received = lambda *what: heard.put(what)
        with mock.patch.object(smpp, "_BIND_AGAIN", 0.05):
            self.assertIs(DELIVERED, self.attempt(notifier).kind)
            self.assertIs(ReceiptKind.DEVICE, heard.get(timeout=WAIT)[2].kind)

    def test_no_more_than_the_window_is_on_its_way(self) -> None:
        seen: list[int] = []

        def behave(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(BOUND)
            received = b""
            while len(seen) < 12:
                # What comes without an answer, until nothing more does.
                connection.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    while data := connection.recv(4096):
                        received += data
                requests = []
                while received:
                    size = int.from_bytes(received[:4], "big")
                    requests.append(int.from_bytes(received[12:16], "big"))
                    received = received[size:]
                rounds.append(len(requests))
                seen.extend(requests)
                connection.sendall(b"".join(pdu(0x80000004, sequence, b"x\0") for sequence in requests))
            connection.settimeout(None)
            connection.recv(4096)

        rounds: list[int] = []
        centre = Centre(behave)
        self.addCleanup(centre.close)
        notifier = self.notifier(centre.port, max_unanswered=5)
        outcomes = self.deliver(notifier, *(self.delivery(name=str(number)) for number in range(12)))
        self.assertEqual({DELIVERED}, {outcome.kind for outcome in outcomes.values()})
        self.assertEqual([5, 5, 2], [number for number in rounds if number])

    def test_tls(self) -> None:
        def behave(connection: socket.socket) -> None:
            with certificate().context().wrap_socket(connection, server_side=True) as secured:
                secured.recv(4096)
                secured.sendall(BOUND)
                while request := secured.recv(4096):
                    # Two records at once: what the second one holds is not seen by select().
                    secured.sendall(pdu(0x15, 77))
                    secured.sendall(pdu(0x80000004, int.from_bytes(request[12:16], "big"), b"x\0"))

        centre = Centre(behave)
        self.addCleanup(centre.close)
        secured = {"url": f"smpps://127.0.0.1:{centre.port}", "ca_file": certificate().file}
        notifier = self.notifier(1, **secured)
        self.assertIs(DELIVERED, self.attempt(notifier).kind)
        notifier.close()
        outcome = self.attempt(self.notifier(1, **{**secured, "ca_file": None}))
        self.assertEqual((RETRY, Scope.LANE), (outcome.kind, outcome.scope))
        self.assertIn("CERTIFICATE", outcome.detail.upper())
        with self.assertRaisesRegex(CannotStart, "/nowhere.pem"):
            self.notifier(1, **{**secured, "ca_file": "/nowhere.pem"})

    def test_silence(self) -> None:
        outcome = self.attempt_at(lambda connection: connection.recv(1) and connection.recv(4096) and None, connect_timeout=0.2)
        self.assertIs(RETRY, outcome.kind)

        def deaf(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(BOUND)
            while connection.recv(4096):
                pass

        outcome = self.attempt_at(deaf, timeout=0.3)
        self.assertIs(RETRY, outcome.kind)
        self.assertIn("in time", outcome.detail)

    def test_nobody_listens(self) -> None:
        outcome = self.attempt(self.notifier(closed_port()))
        self.assertEqual((RETRY, Scope.LANE), (outcome.kind, outcome.scope))
        self.assertIn("refused", outcome.detail)
        outcome = self.attempt(self.notifier(1, url="smpp://centre.invalid"))
        self.assertIs(OURS, outcome.kind)


class ConfigurationTest(SmppCase):
    def test_what_stops_the_start(self) -> None:
        for values, words in (
            ({"url": None}, "smpp://host:port"),
            ({"url": "http://x"}, "smpp://host:port"),
            ({"url": "smpp://x:y"}, "smpp://host:port"),
            ({"url": "smpp://x/y"}, "smpp://host:port"),
            ({"username": None}, "at most 15"),
            ({"username": "x" * 16}, "at most 15"),
            ({"password": "x" * 9}, "at most 8"),
            ({"password": "größe"}, "ASCII"),
            ({"outcomes": {"x": "auth"}}, "no number"),
            ({"outcomes": {"0x45": "delivered"}}, "has to end in one of"),
        ):
            with self.subTest(values), self.assertRaisesRegex(CannotStart, words):
                self.notifier(1, **values)
        self.assertLessEqual(set(OUTCOMES.values()), set(WORDS))

    def test_no_thread_before_there_is_something_to_send(self) -> None:
        (gateway,) = self.notifier(1)._gateways.values()
        assert isinstance(gateway, SmppGateway)
        self.assertIsNone(gateway._thread)
