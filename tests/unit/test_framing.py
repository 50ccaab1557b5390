import random
import unittest

from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.message import Request

from zaqar_notify.commands.connections import Received
from zaqar_notify.commands.framing import BROKEN, HEAD_TOO_LARGE, MORE, RequestEnd

MAX_HEAD = 1000
MAX_BODY = 100
START = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


def end_of(received: bytes, step: int | None = None) -> int:
    """Fed in pieces of ``step`` bytes, up to the first that decides."""
    end = RequestEnd(MAX_HEAD, MAX_BODY)
    for size in range(step or len(received), len(received) + (step or 1), step or len(received)):
        found = end.find(bytearray(received[:size]))
        if found != MORE:
            return found
    return MORE


def sized(length: bytes, body: bytes = b"") -> bytes:
    return START + b"Content-Length: " + length + b"\r\n\r\n" + body


class Case(unittest.TestCase):
    def ends(self, request: bytes) -> None:
        """At its last byte, whatever follows, in whatever pieces, and not before."""
        for step in (1, 2, 3, 7, 64, None):
            self.assertEqual(end_of(request, step), len(request), step)
        self.assertEqual(end_of(request + b"GET / HTTP/1.1\r\n\r\n"), len(request))
        for size in range(1, len(request)):
            self.assertEqual(end_of(request[:size]), MORE, request[:size])

    def broken(self, request: bytes) -> None:
        for step in (1, 5, None):
            self.assertEqual(end_of(request, step), BROKEN, step)


class HeadTest(Case):
    def test_without_a_body(self):
        self.ends(b"GET / HTTP/1.1\r\n\r\n")
        self.ends(b"GET / HTTP/1.0\r\nHost: x\r\nX-Content-Length: 5\r\nX: content-length: 5\r\n\r\n")
        self.ends(b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")

    def test_too_large(self):
        self.assertEqual(end_of(b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD), HEAD_TOO_LARGE)
        self.assertEqual(end_of(b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n"), HEAD_TOO_LARGE)
        self.assertEqual(end_of(b"G" * (MAX_HEAD + 1), 10), HEAD_TOO_LARGE)
        self.assertEqual(end_of(b"G" * MAX_HEAD), MORE)

    def test_lines_without_a_carriage_return_are_not_waited_for(self):
        self.broken(b"GET / HTTP/1.1\nHost: x\n\n")
        self.broken(b"\n")

    def test_expecting_to_be_asked(self):
        for head, expects in (
            (sized(b"1").replace(b"Host: x", b"Expect: 100-continue"), True),
            (sized(b"1").replace(b"Host: x", b"eXPECT:100-Continue "), True),
            (sized(b"1").replace(b"Host: x", b"Expect: 200-ok"), False),
            (sized(b"1").replace(b"Host: x", b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0"), False),
            (sized(b"1"), False),
        ):
            end = RequestEnd(MAX_HEAD, MAX_BODY)
            self.assertEqual(end.find(head), MORE)
            self.assertEqual((end.expects_continue, end.head_size), (expects, len(head)), head)


class LengthTest(Case):
    def test_body(self):
        self.ends(sized(b"0"))
        self.ends(sized(b"5", b"\r\n\r\n5"))
        self.ends(sized(b"\t005 ", b"12345").replace(b"Content-Length", b"cONTENT-lENGTH"))
        self.ends(sized(b"100", b"x" * MAX_BODY))

    def test_lengths_that_are_not_waited_for(self):
        for length in (b"101", b"9" * 30, b"-1", b"+1", b"1.0", b"", b"0x1", b"1, 1", b"1 1", b"\xb2", b"1\x00", b"1_0"):
            self.broken(sized(length))

    def test_two_lengths(self):
        self.broken(sized(b"5\r\nX: y\r\nContent-Length: 5"))
        self.broken(sized(b"5\r\nTransfer-Encoding: chunked"))
        self.broken(START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n")
        for coding in (b"gzip", b"gzip, chunked", b"chunked, identity", b"xchunked", b""):
            self.broken(START + b"Transfer-Encoding: " + coding + b"\r\n\r\n")


class ChunkedTest(Case):
    def test_body(self):
        self.ends(CHUNKED + b"0\r\n\r\n")
        self.ends(CHUNKED + b"5\r\n\r\n\r\n5\r\n00\r\n\r\n")
        self.ends(CHUNKED + b'a;name=value;other="x"\r\n0\r\n\r\n45678\r\n1 ;x\r\n1\r\n0;last\r\n\r\n')
        self.ends(CHUNKED.replace(b": chunked", b":\tCHUNKED ") + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n")

    def test_trailers(self):
        self.ends(CHUNKED + b"1\r\nx\r\n0\r\nExpires: never\r\nX: y\r\n\r\n")
        self.broken(CHUNKED + b"0\r\n" + b"X: y\r\n" * (MAX_HEAD // 6 + 1))

    def test_too_large(self):
        self.broken(CHUNKED + b"65\r\n")
        self.broken(CHUNKED + b"33\r\n" + b"x" * 51 + b"\r\n33\r\n")
        self.broken(CHUNKED + b"f" * 18 + b"\r\n")
        # All overhead, and no end: twice the body and a head of it is enough.
        self.broken(CHUNKED + (b"1;" + b"x" * 200 + b"\r\nx\r\n") * 8)

    def test_malformed(self):
        for body in (
            b"x\r\n",
            b"\r\n",
            b" 1\r\n",
            b"0x1\r\n",
            b"-1\r\n",
            b"1 1\r\n",
            b";x\r\n",
            b"1\r\nxx\r\n",
            b"1\r\nx\n\r\n",
        ):
            self.broken(CHUNKED + body)
        self.assertEqual(end_of(CHUNKED + b"1;" + b"x" * 9000), BROKEN)


class AgreementTest(unittest.TestCase):
    """gunicorn's parser, given what is found here, ends where this does, or refuses, or knows that something is missing."""

    def parse(self, data: bytes) -> bool | None:
        """Whether the parser has used exactly this; None when it refuses."""
        received = Received(data)
        try:
            request = Request(Config(), received, ("127.0.0.1", 1))
            while request.body.read(1024):
                pass
        except (ParseException, NoMoreData, OSError):
            return None
        return received.is_used_up()

    def test_good_ones(self):
        for request in (
            b"GET / HTTP/1.1\r\n\r\n",
            sized(b"5", b"12345"),
            CHUNKED + b'5;a=b;c="d"\r\n12345\r\n0\r\nX: y\r\n\r\n',
            CHUNKED + b"0\r\n\r\n",
        ):
            with self.subTest(request):
                self.assertEqual(end_of(request), len(request))
                self.assertTrue(self.parse(request))
                self.assertFalse(self.parse(request + b"G"))
                self.assertFalse(self.parse(request[:-1]))

    def test_random_ones(self):
        parts = [
            b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b" ", b"\t", b"Host: x\r\n",
            b"Content-Length: 3\r\n", b"Content-Length : 3\r\n", b" Content-Length: 3\r\n", b"Content-Length:\x0b3\r\n",
            b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding: identity\r\n",
            b"3\r\nabc\r\n", b"0\r\n", b"0\r\n\r\n", b"abc", b"3;x\r\n", b"3 \r\n", b"X: y\x00\r\n",
            b"X: y\nContent-Length: 3\r\n",
        ]  # fmt: skip
        random_one = random.Random(3)
        agreed = 0
        for _ in range(4000):
            data = b"".join(random_one.choices(parts, k=random_one.randint(1, 8)))
            if random_one.random() < 0.7:
                data = START + data
            size = end_of(data)
            if size > 0:
                used = self.parse(data[:size])
                self.assertIsNot(used, False, data)
                agreed += used is True
        self.assertGreater(agreed, 100)
