"""The LMTP server, over real sockets, with smtplib as the mail server and with ones that behave badly."""

from __future__ import annotations

import contextlib
import os
import pathlib
import smtplib
import socket
import stat
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Sequence
from typing import Any

from zaqar_notify.errors import CannotStart
from zaqar_notify.receiving import lmtp
from zaqar_notify.receiving.lmtp import MOST_COMMAND, MOST_MISTAKES, MOST_RECIPIENTS, Limits, Server, bind

WAIT = 30.0
OK = "250 2.0.0 ok"
Taken = tuple[str, list[str], bytes]


def wait_for(condition: Callable[[], Any], what: str = "it") -> None:
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"gave up waiting for {what}")
        time.sleep(0.01)


class LmtpCase(unittest.TestCase):
    def serve(self, take: Any = None, *, address: str = "127.0.0.1:0", **limits: Any) -> Server:
        self.taken: list[Taken] = []
        self.closed = 0

        def usual(sender: str, recipients: Sequence[str], content: bytes) -> list[str]:
            self.taken.append((sender, list(recipients), content))
            return [OK] * len(recipients)

        def closing() -> None:
            self.closed += 1

        listener = bind(address)
        self.name = listener.getsockname()
        server = Server(listener, take or usual, Limits(**{"timeout": WAIT, **limits}), closing)
        server.start()
        self.thread = threading.Thread(target=server.run)
        self.thread.start()
        self.addCleanup(self.stop, server)
        return server

    def stop(self, server: Server) -> None:
        server.stop()
        self.thread.join(WAIT)
        self.assertFalse(self.thread.is_alive())

    def connect(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self.name, str) else socket.AF_INET6 if len(self.name) == 4 else socket.AF_INET
        connection = socket.socket(family)
        self.addCleanup(connection.close)
        connection.settimeout(WAIT)
        connection.connect(self.name)
        return connection

    def client(self) -> smtplib.LMTP:
        client = smtplib.LMTP("127.0.0.1", self.name[1], local_hostname="mail.test", timeout=WAIT)
        self.addCleanup(client.close)
        return client

    def say(self, connection: socket.socket, *commands: str) -> list[bytes]:
        """Last lines of the answers, the greeting's first."""
        answers = [self.answer(connection)]
        for command in commands:
            connection.sendall(f"{command}\r\n".encode())
            answers.append(self.answer(connection))
        return answers

    @staticmethod
    def answer(connection: socket.socket) -> bytes:
        """The last line of an answer; empty: there is none any more."""
        line = b""
        while True:
            byte = connection.recv(1)
            line += byte
            if not byte or (line.endswith(b"\n") and line[3:4] == b" "):
                return line.rstrip()
            if line.endswith(b"\n"):
                line = b""

    def begun(self, *recipients: str) -> socket.socket:
        """In the middle of a mail."""
        connection = self.connect()
        named = [f"RCPT TO:<{one}>" for one in recipients or ("b@example.org",)]
        answers = self.say(connection, "LHLO x", "MAIL FROM:<>", *named, "DATA")
        self.assertEqual(b"354", answers[-1][:3])
        return connection


class SessionTest(LmtpCase):
    def test_a_mail(self) -> None:
        self.serve()
        client = self.client()
        client.sendmail("", ["a+token@example.org"], b"Subject: x\r\n\r\n.dot\r\n..\r\nend\r\n", ["BODY=8BITMIME", "SIZE=10"])
        client.sendmail("ann@example.org", ["b@example.org"], "second")
        client.quit()
        self.assertEqual(("", ["a+token@example.org"], b"Subject: x\r\n\r\n.dot\r\n..\r\nend\r\n"), self.taken[0])
        self.assertEqual(("ann@example.org", ["b@example.org"], b"second\r\n"), self.taken[1])

    def test_each_recipient_has_an_answer(self) -> None:
        answers = {"a@example.org": OK, "b@example.org": "451 4.3.0 later", "c@example.org": OK}
        self.serve(lambda _, recipients, __: [answers[one] for one in recipients])
        connection = self.begun(*answers)
        connection.sendall(b"x\r\n.\r\n")
        self.assertEqual([one.encode() for one in answers.values()], [self.answer(connection) for _ in answers])

    def test_on_a_socket_in_the_file_system(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "lmtp")
            server = self.serve(address=f"unix:{path}")
            self.assertEqual(0o666, stat.S_IMODE(os.stat(path).st_mode), "the mail server has a user of its own")
            connection = self.begun("b@example.org")
            connection.sendall(b"x\r\n.\r\n")
            self.assertEqual(OK.encode(), self.answer(connection))
            self.stop(server)
            self.assertFalse(os.path.exists(path))

    def test_over_ipv6(self) -> None:
        try:
            self.serve(address="[::1]:0")
        except CannotStart as error:
            raise unittest.SkipTest(f"no IPv6: {error}") from error
        connection = self.begun()
        connection.sendall(b"x\r\n.\r\n")
        self.assertEqual(OK.encode(), self.answer(connection))

    def test_commands_may_come_at_once(self) -> None:
        self.serve()
        connection = self.connect()
        connection.sendall(
            b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
            + b"one\r\n.\r\nmail from:<c@d.e>\r\nRSET\r\nNOOP\r\nVRFY x\r\nQUIT\r\n"
        )
        codes = []
        while answer := self.answer(connection):
            codes.append(answer[:3])
        self.assertEqual([b"220", b"250", b"250", b"250", b"354", b"250", b"250", b"250", b"250", b"252", b"221"], codes)
        self.assertEqual([("", ["b@example.org"], b"one\r\n")], self.taken)

    def test_it_is_lmtp(self) -> None:
        self.serve()
        for hello in ("HELO x", "EHLO x", "GET / HTTP/1.1"):
            self.assertEqual(b"500", self.say(self.connect(), hello)[1][:3])

    def test_commands_in_the_wrong_order(self) -> None:
        self.serve()
        answers = self.say(
            self.connect(),
            *("LHLO", "MAIL FROM:<>", "LHLO x", "RCPT TO:<a@b.c>", "DATA", "MAIL TO:<>", "MAIL FROM:<>", "MAIL FROM:<>"),
            *("DATA", "RCPT FROM", "RCPT TO:<a@b.c> NOTIFY=NEVER ORCPT=rfc822;a@b.c"),
        )
        self.assertEqual("220 501 503 250 503 503 501 250 503 503 501 250", " ".join(one[:3].decode() for one in answers))

    def test_too_many_recipients_come_in_turns(self) -> None:
        self.serve()
        answers = self.say(self.connect(), "LHLO x", "MAIL FROM:<>", *["RCPT TO:<a@b.c>"] * (MOST_RECIPIENTS + 1))
        self.assertEqual((b"250", b"452"), (answers[-2][:3], answers[-1][:3]))


class HostileTest(LmtpCase):
    def test_of_a_large_mail_the_beginning_is_kept(self) -> None:
        self.serve(max_size=1000)
        connection = self.begun()
        for _ in range(100):
            connection.sendall(b"0123456789" * 99 + b"\r\n")
        connection.sendall(b".\r\n")
        self.assertEqual(OK.encode(), self.answer(connection))
        ((_, _, content),) = self.taken
        self.assertEqual((1000, b"0123456789"), (len(content), content[:10]))

    def test_a_line_of_any_length_with_a_dot_in_it(self) -> None:
        self.serve(max_size=3_000_000)
        connection = self.begun()
        line = b"x" * 65535 + b"\r.\r" + b"y" * 1_000_000 + b"\n.\n" + b"\xff\0" * 70_000
        connection.sendall(b"..\r\n" + line + b"\r\n.\r\n")
        self.assertEqual(OK.encode(), self.answer(connection))
        self.assertEqual(b".\r\n" + line + b"\r\n", self.taken[0][2])

    def test_the_end_comes_in_pieces(self) -> None:
        self.serve()
        connection = self.begun()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"x" * 70_000 + b"\r", b"\n", b".", b"\r", b"\n":
            connection.sendall(byte)
            time.sleep(0.01)
        self.assertEqual(OK.encode(), self.answer(connection))
        self.assertEqual(b"x" * 70_000 + b"\r\n", self.taken[0][2])

    def test_long_commands(self) -> None:
        self.serve()
        connection = self.connect()
        answers = self.say(
            connection, "LHLO x", "MAIL FROM:<" + "x" * MOST_COMMAND + ">", "MAIL FROM:<" + "x" * 300_000 + ">", "NOOP"
        )
        self.assertEqual([b"220", b"250", b"500", b"500", b"250"], [one[:3] for one in answers])

    def test_who_makes_mistakes_only_is_sent_away(self) -> None:
        self.serve()
        answers = self.say(self.connect(), *["\xff\x00 nonsense"] * MOST_MISTAKES)
        self.assertEqual(b"500", answers[-1][:3])
        connection = self.connect()
        self.say(connection, *["nonsense"] * MOST_MISTAKES)
        self.assertEqual(b"421", self.answer(connection)[:3])
        self.assertEqual(b"", self.answer(connection))

    def test_who_is_slow_is_sent_away(self) -> None:
        self.serve(timeout=0.3)
        idle = self.connect()
        self.assertEqual(b"220", self.answer(idle)[:3])
        self.assertEqual(b"", self.answer(idle))
        dripping = self.begun()
        with contextlib.suppress(OSError):
            while True:  # never a pause that is too long, and never an end
                dripping.sendall(b"x")
                time.sleep(0.02)
        self.assertEqual([], self.taken)

    def test_who_reads_no_answers_is_sent_away(self) -> None:
        self.serve(timeout=0.3)
        connection = self.connect()
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"NOOP\r\n" * 10_000)

    def test_connections_are_limited(self) -> None:
        self.serve(max_connections=2)
        first, second = self.begun(), self.begun()
        third = self.connect()
        self.assertEqual(b"421", self.answer(third)[:3])
        self.assertEqual(b"", self.answer(third))
        first.close()

        def there_is_room() -> bool:
            with self.connect() as another:
                return self.answer(another)[:3] == b"220"

        wait_for(there_is_room, "room")
        second.sendall(b"x\r\n.\r\n")
        self.assertEqual(OK.encode(), self.answer(second))

    def test_what_goes_away_in_the_middle_leaves_nothing(self) -> None:
        self.serve()
        for said in (b"", b"half a mail", b"x\r\n."):
            connection = self.begun()
            connection.sendall(said)
            connection.close()
        connection = self.begun()
        connection.sendall(b"whole\r\n.\r\n")
        self.assertEqual(OK.encode(), self.answer(connection))
        self.assertEqual([b"whole\r\n"], [content for _, _, content in self.taken])

    def test_a_bug_is_for_later(self) -> None:
        def fail(sender: str, recipients: Sequence[str], content: bytes) -> list[str]:
            raise RuntimeError("a bug")

        self.serve(fail)
        with self.assertLogs("zaqar_notify.receiving.lmtp", "ERROR"):
            connection = self.begun("a@b.c", "d@e.f")
            connection.sendall(b"x\r\n.\r\n")
            self.assertEqual([b"451", b"451"], [self.answer(connection)[:3] for _ in range(2)])
        connection.sendall(b"NOOP\r\n")
        self.assertEqual(b"250", self.answer(connection)[:3])


class StopTest(LmtpCase):
    def test_idle_connections_end_at_once(self) -> None:
        server = self.serve()
        connection = self.connect()
        self.say(connection, "LHLO x", "MAIL FROM:<>")
        self.stop(server)
        self.assertIn(self.answer(connection)[:3], (b"", b"421"))
        self.assertEqual(1, self.closed)
        with self.assertRaises(OSError):
            self.connect()

    def test_a_mail_that_is_on_its_way_in_is_taken(self) -> None:
        server = self.serve()
        connection = self.begun()
        connection.sendall(b"first half, ")
        server.stop()
        wait_for(self.refused, "the port to be closed")
        connection.sendall(b"second half\r\n.\r\n")
        self.assertEqual(OK.encode(), self.answer(connection))
        self.assertEqual(b"421", self.answer(connection)[:3])
        self.stop(server)
        self.assertEqual([b"first half, second half\r\n"], [content for _, _, content in self.taken])

    def refused(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return True
        return False

    def test_but_it_is_not_waited_for_for_ever(self) -> None:
        server = self.serve(stop_timeout=0.2)
        connection = self.begun()
        self.stop(server)
        connection.sendall(b"x\r\n.\r\n")


class AddressTest(unittest.TestCase):
    def test_a_port_that_is_taken(self) -> None:
        with bind("127.0.0.1:0") as first:
            port = first.getsockname()[1]
            with self.assertRaisesRegex(CannotStart, rf"\[receive\] listen: cannot use 127.0.0.1:{port}: "):
                bind(f"127.0.0.1:{port}")

    def test_what_is_no_address(self) -> None:
        for address in (
            "192.0.2.1:8824",
            "127.0.0.1:70000",
            "[::zz]:1",
            "unix:/nowhere/at/all",
            "unix:" + "x" * 200,
            "no.such.host.invalid:1",
        ):
            with self.subTest(address), self.assertRaisesRegex(CannotStart, r"^\[receive\] listen: "):
                bind(address)

    def test_a_socket_that_was_left_over_is_replaced_and_one_in_use_is_not(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/lmtp"
            bind(f"unix:{path}").close()  # as after a kill
            self.assertTrue(os.path.exists(path))
            with bind(f"unix:{path}") as living:
                living.listen(1)
                with self.assertRaisesRegex(CannotStart, "in use"):
                    bind(f"unix:{path}")
            pathlib.Path(f"{directory}/file").write_text("mine")
            with self.assertRaises(CannotStart):
                bind(f"unix:{directory}/file")
            self.assertEqual("mine", pathlib.Path(f"{directory}/file").read_text())

    def test_the_usual_one_is_on_this_machine(self) -> None:
        self.assertTrue(lmtp.USUAL.startswith("127.0.0.1:"))
