"""Clients that are slow, rude or many, against the API as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import resource
import signal
import socket
import subprocess
import time
import unittest

from tests.system.service import HEADERS, WAIT, Service, wait_for
from tests.system.serving import children_of

COMMON = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **HEADERS}.items()).encode()
PING = b"GET /v2/ping HTTP/1.1\r\n" + COMMON + b"\r\n"
POST = b"POST /v2/queues/demo/messages HTTP/1.1\r\n" + COMMON


def document(body: object = 1) -> bytes:
    return json.dumps({"messages": [{"body": body}]}).encode()


def sized(body: bytes, *lines: bytes) -> bytes:
    return POST + b"".join(lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes, size: int, *lines: bytes) -> bytes:
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    return (
        POST
        + b"".join(lines)
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x;name=value\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        + b"0\r\nX-Trailer: x\r\n\r\n"
    )


class Client:
    """One connection, and what it has received."""

    def __init__(self, service: Service, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT)
        self.socket.connect(("127.0.0.1", service.port))
        self.received = b""

    def send(self, data: bytes) -> None:
        """A server that has closed already is no failure: what it has answered is what counts."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        while (found := self.received.find(b"\r\n\r\n")) < 0:
            self._receive()
        first, *lines = self.received[:found].decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(first.split()[1])
        end = found + 4 + int(headers.get("content-length", 0))
        while len(self.received) < end:
            self._receive()
        body, self.received = self.received[found + 4 : end], self.received[end:]
        return status, headers, body

    def status(self) -> int:
        return self.answer()[0]

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise AssertionError(f"closed after {self.received!r}")
        self.received += data

    def rest(self) -> bytes:
        """All until the server closes."""
        with contextlib.suppress(ConnectionError):
            while data := self.socket.recv(65536):
                self.received += data
        return self.received

    def is_closed(self) -> bool:
        """Now, and with nothing left to read."""
        self.socket.setblocking(False)
        try:
            return self.socket.recv(65536) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self.socket.settimeout(WAIT)


class Case(unittest.TestCase):
    options = ""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.start()

    @classmethod
    def start(cls) -> None:
        cls.service = Service(None, f"[api]\nthreads = 2\n{cls.options}")
        cls.addClassCleanup(cls.service.close)
        cls.api = cls.service.start_api()

    def tearDown(self) -> None:
        self.assertNotIn("Traceback", self.service.log("api"))
        self.assertNotIn("ERROR", self.service.log("api"))

    def client(self, data: bytes = b"", **options: int) -> Client:
        client = Client(self.service, **options)
        self.addCleanup(client.socket.close)
        client.send(data)
        return client

    def one(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        client = self.client(data)
        with client.socket:
            return client.answer()

    def assert_well(self) -> None:
        """A ping is answered, and at once."""
        started = time.monotonic()
        self.assertEqual(self.one(PING)[0], 204)
        self.assertLess(time.monotonic() - started, 1.0)

    def process(self) -> int:
        """The one that answers."""
        (pid,) = children_of(self.api.pid)
        return pid

    def sockets(self) -> int:
        """Open ones of that process."""
        count = 0
        for descriptor in pathlib.Path(f"/proc/{self.process()}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(descriptor).startswith("socket:")
        return count

    def assert_error(self, answer: tuple[int, dict[str, str], bytes], status: int) -> str:
        found, headers, body = answer
        self.assertEqual(found, status, body)
        self.assertEqual(headers["content-type"], "application/json")
        self.assertEqual(headers["connection"], "close")
        self.assertRegex(headers["x-openstack-request-id"], r"\Areq-[0-9a-f-]{36}\Z")
        parsed = json.loads(body)
        self.assertEqual(set(parsed), {"title", "description"})
        return str(parsed["description"])


HALVES = (
    PING[:30],
    PING[:-2],
    sized(document())[:-5],
    POST + b"Content-Length: 1000\r\n\r\n",
    chunked(document(), 5)[:-30],
    chunked(document(), 5)[:-2],
    POST + b"Transfer-Encoding: chunked\r\n\r\n",
    POST + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
)


class HalfSentTest(Case):
    options = "read_timeout = 1\n"

    def test_a_hundred_held(self):
        clients = [self.client(HALVES[number % len(HALVES)]) for number in range(100)]
        silent = [self.client() for _ in range(20)]
        for _ in range(5):
            self.assert_well()
        self.assertFalse(any(client.is_closed() for client in silent))
        for client in clients:
            last = client.rest().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.assertTrue(last.startswith(b"HTTP/1.1 408 "), last)
        for client in silent:
            self.assertEqual(client.rest(), b"")

    def test_the_answer_to_a_late_one(self):
        client = self.client(PING + PING[:-1])
        self.assertEqual(client.status(), 204)
        self.assertIn(" 1 s", self.assert_error(client.answer(), 408))
        self.assertEqual(client.rest(), b"")

    def test_a_byte_now_and_then_is_no_reprieve(self):
        clients = [self.client() for _ in range(30)]
        open_ones = set(clients)
        for byte in sized(document("x" * 1000)):
            for client in [*open_ones]:
                client.send(bytes([byte]))
                if client.is_closed() or client.received:
                    open_ones.discard(client)
            if not open_ones:
                break
            self.assert_well()
            time.sleep(0.02)
        self.assertEqual(len(open_ones), 0)

    def test_idle_connections_are_kept_for_longer(self):
        client = self.client(PING)
        self.assertEqual(client.status(), 204)
        time.sleep(1.5)
        client.send(PING)
        self.assertEqual(client.status(), 204)


class RequestTest(Case):
    """What is good stays good, in whatever pieces it comes."""

    def test_in_tiny_pieces(self):
        for request in (
            PING,
            sized(document("x" * 100)),
            chunked(document("y" * 100), 7),
            sized(document("z" * 100), b"Expect: 100-continue\r\n"),
        ):
            client = self.client()
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request:
                client.socket.sendall(bytes([byte]))
            status = client.status()
            if status == 100:
                self.assertIn(b"Expect", request)
                status = client.status()
            self.assertEqual(status, 204 if request is PING else 201)
            client.socket.close()

    def test_large_ones(self):
        body = document("x" * 200_000)
        for request in (sized(body), chunked(body, 1000), chunked(body, 150_000)):
            self.assertEqual(self.one(request)[0], 201)

    def test_pipelined(self):
        requests = [
            PING,
            sized(document(), b"X: 1\r\n"),
            chunked(document(), 3),
            PING,
            b"GET /nowhere HTTP/1.1\r\n" + COMMON + b"\r\n",
        ]
        everything = b"".join(requests * 4)
        statuses = [204, 201, 201, 204, 404] * 4
        for step in (len(everything), 1000, 333):
            client = self.client()
            for start in range(0, len(everything), step):
                client.send(everything[start : start + step])
            self.assertEqual([client.status() for _ in statuses], statuses)
            client.socket.close()

    def test_a_thousand_pipelined(self):
        client = self.client()
        client.send(PING * 1000)
        self.assertEqual([client.status() for _ in range(1000)], [204] * 1000)

    def test_unread_bodies_are_passed_over(self):
        request = b"GET /v2/ping HTTP/1.1\r\n" + COMMON + b"Content-Length: 5\r\n\r\nGET /"
        client = self.client(request + chunked(document(), 3).replace(b"/v2/queues/demo/messages", b"/nowhere") + PING)
        self.assertEqual([client.status() for _ in range(3)], [204, 404, 204])

    def test_closing(self):
        client = self.client(PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        self.assertEqual(client.answer()[1]["connection"], "close")
        self.assertEqual(client.rest(), b"")
        client = self.client(PING.replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertTrue(client.rest().startswith(b"HTTP/1.0 204 "))

    def test_a_client_that_has_said_all(self):
        for request, status in ((PING, b"204"), (sized(document()), b"201"), (sized(document())[:-5], b"400")):
            client = self.client(request)
            client.socket.shutdown(socket.SHUT_WR)
            self.assertEqual(client.rest().split()[1], status)
        client = self.client(PING[:-2])
        client.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(client.rest(), b"")

    def test_what_is_cut_off_is_not_carried_out(self):
        """Also where nobody reads the body: a message that is popped would be gone."""
        self.client(sized(document())).answer()
        lines = [b"DELETE /v2/queues/demo/messages?pop=1 HTTP/1.1", *COMMON.splitlines(), b"Content-Length: 100", b"", b"{}"]
        client = self.client(b"\r\n".join(lines))
        client.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(client.rest().split()[1], b"400")
        status, answer = self.service.request("GET", "/v2/queues/demo/stats")
        self.assertGreaterEqual(answer["messages"]["free"], 1, status)

    def test_expect_with_curl(self):
        for options in ([], ["-H", "Transfer-Encoding: chunked"]):
            command = ["curl", "-sv", "--expect100-timeout", "30", "-H", "Expect: 100-continue", *options]
            for name, value in HEADERS.items():
                command += ["-H", f"{name}: {value}"]
            done = subprocess.run(
                [*command, "-d", document("x" * 5000).decode(), f"{self.service.url}/v2/queues/demo/messages"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=WAIT,
                check=True,
            )
            self.assertEqual(done.stderr.count("< HTTP/1.1 100 Continue"), 1, done.stderr)
            self.assertIn("< HTTP/1.1 201 ", done.stderr)
            self.assertIn("resources", done.stdout)

    def test_nobody_is_asked_to_continue_with_too_much(self):
        client = self.client(POST + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n")
        self.assertEqual(client.status(), 400)
        self.assertEqual(client.rest(), b"")


class RefusedTest(Case):
    def test_too_large_a_body_is_not_waited_for(self):
        for head in (
            POST + b"Content-Length: 262145\r\n\r\n",
            POST + b"Content-Length: 262145\r\n\r\n" + b"x" * 10,
            POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
        ):
            client = self.client(head)
            status, headers, body = client.answer()
            self.assertEqual((status, set(json.loads(body))), (400, {"title", "description"}))
            self.assertEqual(headers["connection"], "close")
            self.assertEqual(client.rest(), b"")

    def test_a_client_that_sends_it_all_the_same_sees_the_answer(self):
        client = self.client()
        client.send(sized(b"x" * 800_000))
        self.assertEqual(client.status(), 400)
        client = self.client()
        client.send(chunked(b"x" * 800_000, 10_000))
        self.assertEqual(client.status(), 400)

    def test_what_follows_an_unread_body_is_no_request(self):
        client = self.client(POST + b"Content-Length: 300000\r\n\r\n" + PING * 10)
        self.assertEqual(client.status(), 400)
        self.assertEqual(client.rest(), b"")

    def test_heads(self):
        for head, status in (
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
            (b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n", 431),
            (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
            (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: magic\r\n\r\n", 501),
            (b"GET /\r\n\r\n", 400),
            (b"GET / HTTP/1.1\n\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
            (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (POST + b"Content-Length: -1\r\n\r\n", 400),
        ):
            with self.subTest(head[:60]):
                client = self.client(head)
                self.assert_error(client.answer(), status)
                self.assertEqual(client.rest(), b"")

    def test_broken_chunks(self):
        for body in (
            b"zz\r\n",
            b"3\r\nabcd\r\n",
            b"3;\x00\r\nabc\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\nX: \x00\r\n\r\n",
        ):
            with self.subTest(body):
                client = self.client(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body + PING)
                self.assertEqual(client.status(), 400)
                self.assertEqual(client.rest(), b"")

    def test_nobody_mounts_it_elsewhere(self):
        for name in (b"SCRIPT_NAME", b"PATH_INFO", b"Script_Name"):
            request = PING.replace(b"Host:", name + b": /elsewhere\r\nHost:")
            self.assertEqual(self.one(request)[0], 204)

    def test_garbage(self):
        parts = [
            *(PING, PING[:40], POST, sized(document()), chunked(document(), 4), b"\r\n\r\n", b"\r\n", b"\n\n", b"\x00"),
            *(b"\xff" * 9, b"{" * 500, b"5\r\nabcde\r\n", b"0\r\n\r\n"),
            *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"Expect: 100-continue\r\n"),
        ]
        for seed in range(150):
            random_one = random.Random(seed)
            data = b"".join(random_one.choices(parts, k=random_one.randint(1, 6)))
            if random_one.random() < 0.3:
                data = random_one.randbytes(random_one.randint(1, 3000))
            client = self.client()
            for _ in range(random_one.randint(1, 3)):
                client.send(data)
            if random_one.random() < 0.5:
                client.socket.shutdown(socket.SHUT_WR)
                for line in client.rest().split(b"\r\n"):
                    self.assertFalse(line.startswith(b"HTTP/1.1 500"), (seed, data))
            client.socket.close()
        self.assert_well()


class SlowReaderTest(Case):
    options = "write_timeout = 1\nkeepalive = 0.3\n"

    @classmethod
    def start(cls) -> None:
        super().start()
        for _ in range(20):
            cls.service.post("x" * 250_000)

    def test_an_idle_connection_ends_without_a_word(self):
        client = self.client(PING)
        self.assertEqual(client.answer()[1]["connection"], "keep-alive")
        self.assertEqual(client.rest(), b"")

    def test_it_holds_no_thread_and_gets_all_if_it_reads_on(self):
        listing = b"GET /v2/queues/demo/messages?echo=true&limit=20 HTTP/1.1\r\n" + COMMON + b"\r\n"
        before = self.sockets()
        slow = [self.client(listing, receive_buffer=4096) for _ in range(6)]
        patient = self.client(listing + PING, receive_buffer=4096)
        for client in slow:
            # The answer has begun.
            self.assertTrue(client.socket.recv(1))
        self.assert_well()
        status, _, body = patient.answer()
        self.assertEqual((status, len(json.loads(body)["messages"])), (200, 20))
        self.assertEqual(patient.status(), 204)
        wait_for(lambda: self.sockets() <= before, "the end of the slow ones")
        for client in slow:
            self.assertLess(len(client.rest()), 4_000_000)
        self.assert_well()


class AddressesTest(Case):
    options = "connections_per_address = 5\nread_timeout = 30\n"

    def test_the_newest_is_refused(self):
        held = [self.client(PING[:-1]) for _ in range(3)] + [self.client() for _ in range(2)]
        wait_for(self.refused_one, "five that are waited for")
        # A request that comes on one of them is none that is waited for, and its end makes room.
        held[0].send(PING[-1:])
        self.assertEqual(held[0].status(), 204)
        held.pop(0).socket.close()
        wait_for(lambda: self.one(PING)[0] == 204, "room for one more")
        for client in held[:2]:
            client.send(PING[-1:])
            self.assertEqual(client.status(), 204)

    def refused_one(self) -> bool:
        client = self.client()
        # Refused before it has said anything.
        client.socket.settimeout(0.5)
        try:
            answer = client.answer()
        except TimeoutError:
            return False
        finally:
            client.socket.close()
        self.assertEqual(answer[1]["retry-after"], "1")
        self.assert_error(answer, 429)
        return True

    def test_many_that_ask_and_leave(self):
        for _ in range(30):
            self.assertEqual(self.one(PING)[0], 204)


class ProxiesTest(Case):
    options = "connections_per_address = 1\ntrusted_proxies = 10.0.0.1, 127.0.0.0/30\n"

    def test_trusted_ones_are_not_counted(self):
        for _ in range(10):
            self.client(PING[:-1])
        self.assert_well()


class FloodTest(Case):
    options = "max_connections = 20\nmax_buffered = 1048576\nread_timeout = 300\nkeepalive = 300\n"

    def test_the_oldest_makes_room(self):
        idle = self.client(PING)
        self.assertEqual(idle.status(), 204)
        # After these it is known to be idle.
        self.assert_well()
        self.assert_well()
        half = [self.client(PING[:-1]) for _ in range(25)]
        self.assert_well()
        self.assertEqual(idle.rest(), b"")
        self.assertEqual(half[0].rest(), b"")
        # The newest have their place.
        half[-1].send(PING[-1:])
        self.assertEqual(half[-1].status(), 204)

    def test_nothing_is_left_of_a_thousand(self):
        self.assert_well()
        before = self.sockets()
        for number in range(1000):
            client = Client(self.service)
            if number % 3:
                client.send(HALVES[number % len(HALVES)] if number % 2 else PING)
            client.socket.close()
        wait_for(lambda: self.sockets() <= before, "all of them to be closed")
        self.assert_well()

    def test_half_sent_bodies_are_bounded_together(self):
        half = [self.client(sized(document("x" * 200_000))[:-1]) for _ in range(12)]
        refused = [client for client in half[:6] if client.status() == 503]
        self.assertEqual(len(refused), 6)
        self.assert_well()
        half[-1].send(b"}")
        self.assertEqual(half[-1].status(), 201)


class DescriptorsTest(Case):
    options = "read_timeout = 300\n"

    def test_without_descriptors_the_oldest_makes_room(self):
        # Its threads have opened what they need.
        for _ in range(10):
            self.assert_well()
        used = len(os.listdir(f"/proc/{self.process()}/fd"))
        resource.prlimit(self.process(), resource.RLIMIT_NOFILE, (used + 10, used + 10))
        half = [self.client(PING[:-1]) for _ in range(40)]
        self.assert_well()
        self.assertEqual(half[0].rest(), b"")
        half[-1].send(PING[-1:])
        self.assertEqual(half[-1].status(), 204)


class StopTest(Case):
    options = "read_timeout = 300\n"

    @classmethod
    def setUpClass(cls) -> None:
        """Each test stops what it has started."""

    def setUp(self) -> None:
        self.start()

    def test_half_sent_requests_do_not_hold_it_up(self):
        clients = [self.client(HALVES[number % len(HALVES)]) for number in range(100)]
        idle = self.client(PING)
        self.assertEqual(idle.status(), 204)
        started = time.monotonic()
        self.api.send_signal(signal.SIGTERM)
        self.assertEqual(self.api.wait(WAIT), 0)
        self.assertLess(time.monotonic() - started, 10.0)
        for client in clients:
            last = client.rest().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.assertTrue(last.startswith(b"HTTP/1.1 503 "), last)
        self.assertEqual(idle.rest(), b"")

    def test_the_last_requests_are_answered_and_the_connection_closed(self):
        clients = [self.client(PING) for _ in range(5)]
        for client in clients:
            self.assertEqual(client.status(), 204)
        half = self.client(PING[:-1])
        self.api.send_signal(signal.SIGTERM)
        for client in clients:
            client.send(PING)
        half.send(PING[-1:])
        for client in [*clients, half]:
            self.assertEqual(client.status(), 204)
            self.assertEqual(client.rest(), b"")
        self.assertEqual(self.api.wait(WAIT), 0)
