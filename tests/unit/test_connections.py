import json
import socket
import unittest

from gunicorn.http import errors as http_errors

from zaqar_notify import bootstrap, errors
from zaqar_notify.commands import api
from zaqar_notify.commands.connections import (
    Addresses,
    Answer,
    Connection,
    Received,
    Waiting,
    error_answer,
    parse_networks,
    refusal,
)


class AddressesTest(unittest.TestCase):
    def test_counting(self):
        addresses = Addresses(2, ())
        one = addresses.counted(("192.0.2.1", 5000))
        for change, exceeded in ((1, False), (1, False), (1, True), (0, True), (-1, False), (-2, False)):
            addresses.add(one, change)
            self.assertEqual(addresses.is_exceeded(one), exceeded)
        self.assertFalse(addresses.is_exceeded(addresses.counted(("192.0.2.2", 5000))))

    def test_what_is_one_address(self):
        addresses = Addresses(1, ())
        same = {addresses.counted(client) for client in (("192.0.2.1", 1), ("192.0.2.1", 2), ("::ffff:192.0.2.1", 1, 0, 0))}
        self.assertEqual(same, {"192.0.2.1"})
        self.assertEqual(addresses.counted(("fe80::1%eth0", 1, 0, 2)), "fe80::1")

    def test_who_is_not_counted(self):
        self.assertIsNone(Addresses(0, ()).counted(("192.0.2.1", 1)))
        addresses = Addresses(1, parse_networks(["10.0.0.1", "192.0.2.7/24", "2001:db8::/32"]))
        for trusted in ("10.0.0.1", "192.0.2.200", "::ffff:10.0.0.1", "2001:db8::5"):
            self.assertIsNone(addresses.counted((trusted, 1)), trusted)
        self.assertEqual(addresses.counted(("10.0.0.2", 1)), "10.0.0.2")
        self.assertFalse(addresses.is_exceeded(None))

    def test_proxies_that_are_no_addresses_stop_the_start(self):
        conf = bootstrap.configure(overrides={("api", "trusted_proxies"): ["10.0.0.1", "proxy.example"]})
        with self.assertRaisesRegex(errors.CannotStart, "trusted_proxies.*proxy.example"):
            api.limits_of(conf)

    def test_bodies_may_be_as_large_as_the_largest_limit(self):
        conf = bootstrap.configure(overrides={("transport", "max_queue_metadata"): 1_000_000})
        self.assertEqual(api.limits_of(conf).max_body, 1_000_000)


class WaitingTest(unittest.TestCase):
    def test_shortening(self):
        ends = [socket.socketpair() for _ in range(2)]
        for end in (end for pair in ends for end in pair):
            self.addCleanup(end.close)
        waiting = Waiting(10.0)
        self.assertIsNone(waiting.first())
        for (end, _), deadline in zip(ends, (100.5, 105.0), strict=True):
            connection = Connection(end, None, None, None)
            connection.deadline = deadline
            waiting.connections[connection] = None
        waiting.shorten(1.0, 100.0)
        self.assertEqual([connection.deadline for connection in waiting.connections], [100.5, 101.0])
        self.assertEqual((waiting.patience, waiting.first().deadline), (1.0, 100.5))


class AnswerTest(unittest.TestCase):
    def test_it_keeps_what_is_written(self):
        answer = Answer()
        self.assertEqual(answer.send(b"HTTP/1.1 100 Continue\r\n\r\n"), 25)
        answer.sendall(b"head")
        answer.sendall(b"body")
        self.assertEqual((answer.take(), answer.take()), (b"headbody", b""))

    def test_half_an_answer_is_none(self):
        answer = Answer()
        answer.sendall(b"head")
        answer.shutdown(socket.SHUT_WR)
        self.assertEqual((answer.recv(100), answer.take()), (b"", b""))

    def test_the_connection_sends_what_fits(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            connection = Connection(ours, None, None, None)
            data = bytes(range(256)) * 10_000
            connection.unsent = data
            received = b""
            while connection.unsent:
                connection.send()
                connection.send()
                received += theirs.recv(1 << 20)
            while len(received) < len(data):
                received += theirs.recv(1 << 20)
            self.assertEqual(received, data)
            connection.send()
            theirs.close()
            connection.unsent = b"x"
            with self.assertRaises(OSError):
                connection.send()

    def test_errors(self):
        for error, status in (
            (http_errors.LimitRequestLine(9000, 8000), 414),
            (http_errors.LimitRequestHeaders("x"), 431),
            (http_errors.UnsupportedTransferCoding("x"), 501),
            (http_errors.InvalidHeader("x"), 400),
            (http_errors.InvalidChunkSize(b"x"), 400),
            (http_errors.NoMoreData(), 400),
            (OSError("x"), None),
            (ValueError("x"), None),
        ):
            self.assertEqual(refusal(error), status, error)

    def test_error_answer(self):
        for status, again in ((408, False), (429, True), (503, True)):
            head, body = error_answer(status, 'say "ä"').split(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = dict(line.split(": ") for line in lines)
            self.assertTrue(first.startswith(f"HTTP/1.1 {status} "))
            self.assertEqual(json.loads(body)["description"], 'say "ä"')
            self.assertEqual(headers["Content-Length"], str(len(body)))
            self.assertEqual("Retry-After" in headers, again)


class ReceivedTest(unittest.TestCase):
    def test_used_up(self):
        for size, used in ((4, False), (5, True), (6, False)):
            received = Received(b"12345")
            received.read(size)
            self.assertEqual(received.is_used_up(), used, size)
        received = Received(b"12345")
        self.assertFalse(received.is_used_up())
        received.unread(received.read())
        self.assertFalse(received.is_used_up())
