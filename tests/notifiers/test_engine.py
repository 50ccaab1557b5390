import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time

from tests import guard_vectors
from tests.notifiers import endpoint as behave
from tests.notifiers.case import LOOPBACK, HttpCase, closed_port, wait_for
from tests.notifiers.endpoint import OK, answer, certificate
from zaqar_notify.errors import CannotStart
from zaqar_notify.guard import Guard
from zaqar_notify.notifiers.http import Fault, Request, Response

# In a process of its own that may open few files: what does not get one is LOCAL, the rest hangs until its time is over.
_FEW_FILES = """
import collections, os, queue, resource, sys, time
from zaqar_notify.guard import Guard
from zaqar_notify.notifiers.http import HttpClients, Request
clients = HttpClients(Guard(["127.0.0.0/8"]), max_timeout=20.0)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
answers = queue.Queue()
clients.engine().send_many(
    Request(sys.argv[1], [], b"", time.monotonic() + 1, lambda _, response: answers.put(response.fault.name))
    for _ in range(60)
)
counts = collections.Counter(answers.get(timeout=20) for _ in range(60))
clients.close()
print({name: counts[name] > 5 for name in sorted(counts)})
"""


class TransferTest(HttpCase):
    def test_request_and_response(self) -> None:
        endpoint = self.endpoint(answer(202, "X-Answer: a", "x-answer: b", body=b"taken"))
        response = self.send_one(self.clients(), endpoint.url, body=b'{"a": "\x00\xff"}')
        self.assertEqual((202, b"taken", None), (response.status, response.body, response.fault))
        self.assertEqual("b", response.header("X-ANSWER"))
        self.assertIsNone(response.header("x-other"))
        (received,) = endpoint.requests
        self.assertEqual("POST /hook HTTP/1.1", received.line)
        self.assertEqual(b'{"a": "\x00\xff"}', received.body)
        self.assertEqual(f"127.0.0.1:{endpoint.port}", received.headers["host"])
        self.assertEqual("application/json", received.headers["content-type"])
        self.assertNotIn("expect", received.headers)
        self.assertNotIn("accept-encoding", received.headers)

    def test_headers_of_an_interim_answer_do_not_count(self) -> None:
        endpoint = self.endpoint(b"HTTP/1.1 103 Early Hints\r\nX-A: early\r\n\r\n" + answer(200, "X-B: late"))
        response = self.send_one(self.clients(), endpoint.url)
        self.assertEqual((200, None, "late"), (response.status, response.header("x-a"), response.header("x-b")))

    def test_connections_are_used_again(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients()
        for _ in range(20):
            self.assertEqual(200, self.send_one(clients, endpoint.url).status)
            self.assertEqual(200, self.send_one(clients, endpoint.named("a.test")).status)
        self.assertEqual((40, 2), (len(endpoint.requests), endpoint.connections))

    def test_nothing_of_a_request_is_left_for_the_next_on_its_handle(self) -> None:
        endpoint = self.endpoint(answer(200, "X-Once: 1", body=b"first"))
        clients = self.clients()
        self.send_one(clients, endpoint.url, body=b"x" * 100_000)
        endpoint.reply = OK
        response = self.send_one(clients, endpoint.url, body=b"")
        self.assertEqual((b"", None), (response.body, response.header("x-once")))
        self.assertEqual(b"", endpoint.requests[1].body)

    def test_a_connection_that_the_endpoint_has_closed_is_made_anew(self) -> None:
        def once(endpoint: behave.Endpoint, connection: socket.socket, request: behave.Received) -> None:
            connection.sendall(OK)
            connection.shutdown(socket.SHUT_RDWR)

        endpoint = self.endpoint(once)
        clients = self.clients()
        for _ in range(5):
            self.assertEqual(200, self.send_one(clients, endpoint.url).status)
        self.assertEqual(5, endpoint.connections)

    def test_many_at_once(self) -> None:
        endpoints = [self.endpoint(answer(200, body=str(number).encode())) for number in range(5)]
        urls = [endpoints[number % 5].url for number in range(500)]
        responses = self.send(self.clients(), *urls)
        self.assertEqual([str(number % 5).encode() for number in range(500)], [one.body for one in responses])

    def test_a_silent_endpoint_holds_up_nobody(self) -> None:
        silent, quick = self.endpoint(behave.silent), self.endpoint()
        clients = self.clients()
        pending: queue.Queue[Response] = queue.Queue()
        hanging = [self.request(silent.url, pending) for _ in range(50)]
        clients.engine().send_many(hanging)
        self.assertEqual({200}, {one.status for one in self.send(clients, *[quick.url] * 50)})
        self.assertTrue(pending.empty())
        clients.close()
        self.assertEqual({Fault.CLOSED}, {pending.get_nowait().fault for _ in hanging})

    def request(self, url: str, answers: "queue.Queue[Response]", timeout: float = 60.0) -> Request:
        return Request(url, [], b"{}", time.monotonic() + timeout, lambda _, response: answers.put(response))

    def test_a_bad_callback_costs_only_its_own_request(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients()

        failed = threading.Event()

        def fail(request: Request, response: Response) -> None:
            failed.set()
            raise RuntimeError("a bug")

        with self.assertLogs("zaqar_notify.notifiers.engine", logging.ERROR):
            clients.engine().send_many([Request(endpoint.url, [], b"", time.monotonic() + 60, fail)])
            wait_for(failed)
            # By the same thread: so the first one has been dealt with.
            self.assertEqual(200, self.send_one(clients, endpoint.url).status)

    def test_a_callback_may_send(self) -> None:
        endpoint = self.endpoint()
        engine = self.clients().engine()
        done = threading.Event()

        def again(request: Request, response: Response) -> None:
            engine.send_many([Request(endpoint.url, [], b"", time.monotonic() + 60, lambda *_: done.set())])

        engine.send_many([Request(endpoint.url, [], b"", time.monotonic() + 60, again)])
        wait_for(done)
        self.assertEqual(2, len(endpoint.requests))

    def test_a_request_that_cannot_be_made_fails_alone(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients()
        bad: queue.Queue[Response] = queue.Queue()
        clients.engine().send_many([Request(endpoint.url, ["X: \u20ac"], b"", time.monotonic() + 60, lambda _, r: bad.put(r))])
        self.assertIs(Fault.OTHER, bad.get(timeout=20).fault)
        self.assertEqual(200, self.send_one(clients, endpoint.url).status)

    def test_after_close_nothing_is_sent(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients()
        self.send_one(clients, endpoint.url)
        clients.close()
        self.assertIs(Fault.CLOSED, self.send_one(clients, endpoint.url).fault)
        fresh = self.clients()
        fresh.close()
        self.assertIs(Fault.CLOSED, self.send_one(fresh, endpoint.url).fault)
        self.assertEqual(1, len(endpoint.requests))

    def test_each_request_is_answered_once_whatever_happens(self) -> None:
        kinds = [OK, behave.silent, behave.reset, behave.hang_up, behave.slow_body]
        urls = [self.endpoint(reply).url for reply in kinds]
        urls += [f"http://127.0.0.1:{closed_port()}/", "http://a.test:1/", "http://nowhere.invalid/", "http://10.0.0.1/", "x"]
        clients = self.clients()
        answers: queue.Queue[Request] = queue.Queue()
        requests = [
            Request(urls[number % len(urls)], [], b"", time.monotonic() + 60, lambda request, _: answers.put(request))
            for number in range(400)
        ]
        half = threading.Thread(target=lambda: [clients.engine().send_many([request]) for request in requests[200:]])
        clients.engine().send_many(requests[:200])
        half.start()
        clients.close()
        half.join()
        answered = [answers.get(timeout=20) for _ in requests]
        self.assertEqual((set(requests), True), (set(answered), answers.empty()))

    def test_no_descriptors_left_is_our_fault(self) -> None:
        endpoint = self.endpoint(behave.silent)
        done = subprocess.run(
            [sys.executable, "-c", _FEW_FILES, endpoint.url], capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual(("{'LOCAL': True, 'TIMEOUT': True}\n", ""), (done.stdout, done.stderr))

    def test_descriptors_are_given_back(self) -> None:
        endpoint = self.endpoint()
        before = len(os.listdir("/proc/self/fd"))
        clients = self.clients()
        self.send(clients, *[endpoint.url] * 20)
        clients.close()
        endpoint.close()
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before)

    def test_redirects_are_not_followed(self) -> None:
        elsewhere = self.endpoint()
        endpoint = self.endpoint(answer(307, f"Location: {elsewhere.url}"))
        self.assertEqual(307, self.send_one(self.clients(), endpoint.url).status)
        self.assertEqual([], elsewhere.requests)


class MethodTest(HttpCase):
    def test_get_and_post_by_turns_over_one_connection(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients()
        for method in ("GET", "POST", "GET", "GET", "POST"):
            self.assertEqual(200, self.send_one(clients, endpoint.url, method=method, body=b"{}").status)
        seen = [(one.line.split()[0], one.body, one.headers.get("content-length")) for one in endpoint.requests]
        get, post = ("GET", b"", None), ("POST", b"{}", "2")
        self.assertEqual([get, post, get, get, post], seen)
        self.assertEqual(1, endpoint.connections)


class InternalTest(HttpCase):
    def test_no_address_is_judged(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients(allowed=[])
        for url in (endpoint.url, endpoint.named("a.test")):
            self.assertEqual(200, self.send_one(clients, url, internal=True).status)

    def test_its_connections_carry_nothing_else(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients(allowed=[])
        for url in (endpoint.url, endpoint.named("a.test")):
            self.assertEqual(200, self.send_one(clients, url, internal=True).status)
            self.assertIs(Fault.GUARD, self.send_one(clients, url).fault)
        self.assertEqual(2, len(endpoint.requests))

    def test_no_proxy_is_used(self) -> None:
        endpoint, proxy = self.endpoint(), self.endpoint(behave.proxy)
        clients = self.clients(proxy=f"http://127.0.0.1:{proxy.port}")
        self.assertEqual(200, self.send_one(clients, endpoint.url, internal=True).status)
        self.assertEqual(0, proxy.connections)

    def test_it_ends_with_the_others(self) -> None:
        clients = self.clients()
        engines = clients.engine(), clients.internal_engine()
        self.assertIs(engines[1], clients.internal_engine())
        clients.close()
        self.assertEqual([False, False], [engine.alive for engine in engines])
        self.assertIs(Fault.CLOSED, self.send_one(clients, "http://127.0.0.1:1/", internal=True).fault)


class FaultTest(HttpCase):
    def fault(self, reply: behave.Behave | bytes, timeout: float = 20.0) -> Response:
        return self.send_one(self.clients(), self.endpoint(reply).url, timeout=timeout)

    def test_refused(self) -> None:
        response = self.send_one(self.clients(), f"http://127.0.0.1:{closed_port()}/")
        self.assertEqual((Fault.CONNECT, "Connection refused"), (response.fault, response.detail))

    def test_reset(self) -> None:
        self.assertIs(Fault.RESET, self.fault(behave.reset).fault)

    def test_hung_up(self) -> None:
        self.assertIs(Fault.RESET, self.fault(behave.hang_up).fault)

    def test_body_cut_off(self) -> None:
        self.assertIs(Fault.RESET, self.fault(behave.cut_body).fault)

    def test_no_answer(self) -> None:
        response = self.fault(behave.silent, timeout=0.2)
        self.assertEqual((Fault.TIMEOUT, 0), (response.fault, response.status))

    def test_slow_body(self) -> None:
        response = self.fault(behave.slow_body, timeout=0.8)
        self.assertEqual((Fault.TIMEOUT, 200), (response.fault, response.status))

    def test_no_connection_in_time(self) -> None:
        # A full backlog drops further SYNs; two connections fill that of a listener with backlog 0.
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            response = self.send_one(self.clients(), url, connect_timeout=0.3)
            for filler in fillers:
                filler.close()
        self.assertEqual((Fault.TIMEOUT, "no connection in time"), (response.fault, response.detail))

    def test_not_http(self) -> None:
        self.assertIs(Fault.PROTOCOL, self.fault(b"SSH-2.0-OpenSSH\r\n\r\n" * 10).fault)

    def test_endless_headers(self) -> None:
        response = self.fault(behave.endless_headers)
        self.assertIn(response.fault, (Fault.PROTOCOL, Fault.RESET))
        self.assertIn("large", response.detail)

    def test_more_body_than_wanted_keeps_the_status(self) -> None:
        endpoint = self.endpoint(behave.endless_body)
        response = self.send_one(self.clients(), endpoint.url, max_response_bytes=10_000, keep_bytes=100)
        self.assertEqual((200, None, b"x" * 100), (response.status, response.fault, response.body))

    def test_its_time_was_over_before(self) -> None:
        endpoint = self.endpoint()
        self.assertIs(Fault.LATE, self.send_one(self.clients(), endpoint.url, timeout=-1.0).fault)
        self.assertEqual([], endpoint.requests)


class NameTest(HttpCase):
    def test_names_are_looked_up_outside_and_kept(self) -> None:
        asked: list[str] = []

        def look_up(name: str) -> list[str]:
            asked.append(name)
            return ["127.0.0.1"]

        clients = self.clients(look_up=look_up)
        endpoint = self.endpoint()
        responses = self.send(clients, *[endpoint.named(f"{'ab'[number % 2]}.TEST") for number in range(20)])
        self.assertEqual({200}, {one.status for one in responses})
        self.assertEqual(["a.test", "b.test"], sorted(asked))

    def test_a_new_address_is_used_for_new_connections(self) -> None:
        addresses = ["127.0.0.1"]
        clients = self.clients(look_up=lambda name: list(addresses), dns_cache=0.0)
        endpoint = self.endpoint(behave.hang_up)
        self.assertIs(Fault.RESET, self.send_one(clients, endpoint.named("a.test")).fault)
        addresses[:] = ["127.0.0.2"]
        self.assertIs(Fault.CONNECT, self.send_one(clients, endpoint.named("a.test")).fault)
        addresses[:] = ["127.0.0.2", "127.0.0.1"]
        endpoint.reply = OK
        self.assertEqual(200, self.send_one(clients, endpoint.named("a.test")).status)

    def test_a_name_that_does_not_exist(self) -> None:
        response = self.send_one(self.clients(), "http://nowhere.invalid/")
        self.assertIs(Fault.NAME_UNKNOWN, response.fault)
        self.assertIn("nowhere.invalid", response.detail)

    def test_a_resolver_that_is_out_of_order(self) -> None:
        def look_up(name: str) -> list[str]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        self.assertIs(Fault.RESOLVER, self.send_one(self.clients(look_up=look_up), "http://a.test/").fault)

    def test_a_slow_name_delays_nobody_and_ends_in_time(self) -> None:
        release = threading.Event()
        self.addCleanup(release.set)

        def look_up(name: str) -> list[str]:
            if name == "slow.test":
                wait_for(release)
            return ["127.0.0.1"]

        clients = self.clients(look_up=look_up)
        endpoint = self.endpoint()
        late: queue.Queue[Response] = queue.Queue()
        slow = [
            Request(endpoint.named("slow.test"), [], b"", time.monotonic() + seconds, lambda _, response: late.put(response))
            for seconds in (0.3, 60.0)
        ]
        clients.engine().send_many(slow)
        self.assertEqual(200, self.send_one(clients, endpoint.named("quick.test")).status)
        self.assertIs(Fault.RESOLVER, late.get(timeout=20).fault)
        release.set()
        self.assertEqual(200, late.get(timeout=20).status)

    def test_what_waits_for_a_name_ends_at_close(self) -> None:
        release = threading.Event()
        self.addCleanup(release.set)

        def look_up(name: str) -> list[str]:
            wait_for(release)
            return []

        clients = self.clients(look_up=look_up)
        ended: queue.Queue[Response] = queue.Queue()
        clients.engine().send_many(
            [Request("http://a.test/", [], b"", time.monotonic() + 60, lambda _, response: ended.put(response))]
        )
        clients.close()
        self.assertIs(Fault.CLOSED, ended.get(timeout=20).fault)


class GuardTest(HttpCase):
    """Every address of the table, as a literal and behind a name: what is refused is never dialled."""

    def test_literal_addresses_and_urls(self) -> None:
        urls = [guard_vectors.url_of(address) for address in guard_vectors.REFUSED_ADDRESSES] + guard_vectors.REFUSED_URLS
        for url, response in zip(urls, self.send(self.clients(allowed=[]), *urls), strict=True):
            with self.subTest(url):
                self.assertIs(Fault.GUARD, response.fault)

    def test_behind_a_name(self) -> None:
        addresses = {f"n{number}.test": address for number, address in enumerate(guard_vectors.REFUSED_ADDRESSES)}
        clients = self.clients(allowed=[], look_up=lambda name: [addresses[name]])
        responses = self.send(clients, *[f"http://{name}:9/" for name in addresses])
        for address, response in zip(addresses.values(), responses, strict=True):
            with self.subTest(address):
                self.assertIs(Fault.GUARD, response.fault)
                self.assertIn("is not allowed", response.detail)

    def test_a_name_that_leads_to_this_machine(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients(allowed=[], look_up=None)
        response = self.send_one(clients, endpoint.named("localhost"))
        self.assertIs(Fault.GUARD, response.fault)
        self.assertEqual(0, endpoint.connections)

    def test_a_refused_address_beside_an_allowed_one(self) -> None:
        endpoint = self.endpoint()
        clients = self.clients(allowed=["127.0.0.1/32"], look_up=lambda name: ["::1", "127.0.0.2", "127.0.0.1"])
        self.assertEqual(200, self.send_one(clients, endpoint.named("a.test")).status)
        self.assertIs(Fault.CONNECT, self.send_one(clients, f"http://a.test:{closed_port()}/").fault)

    def test_ports_and_https_only(self) -> None:
        endpoint = self.endpoint()
        for guard in (Guard(LOOPBACK, allowed_ports=[endpoint.port + 1]), Guard(LOOPBACK, https_only=True)):
            clients = self.clients(guard=guard)
            for url in (endpoint.url, endpoint.named("a.test")):
                self.assertIs(Fault.GUARD, self.send_one(clients, url).fault)
        self.assertEqual(0, endpoint.connections)


class TlsTest(HttpCase):
    def test_a_certificate_that_is_trusted(self) -> None:
        endpoint = self.endpoint(tls=certificate().context())
        clients = self.clients(ca_file=certificate().file)
        self.assertEqual(200, self.send_one(clients, endpoint.url).status)
        self.assertEqual(200, self.send_one(clients, endpoint.named("secure.test")).status)

    def test_an_unknown_authority(self) -> None:
        endpoint = self.endpoint(tls=certificate().context())
        response = self.send_one(self.clients(), endpoint.url)
        self.assertIs(Fault.TLS, response.fault)
        self.assertIn("certificate", response.detail)
        self.assertEqual([], endpoint.requests)

    def test_a_certificate_for_another_name(self) -> None:
        endpoint = self.endpoint(tls=certificate().context())
        response = self.send_one(self.clients(ca_file=certificate().file), endpoint.named("other.test"))
        self.assertIs(Fault.TLS, response.fault)
        self.assertEqual([], endpoint.requests)

    def test_no_tls_at_all(self) -> None:
        endpoint = self.endpoint(b"nonsense\r\n\r\n")
        response = self.send_one(self.clients(), endpoint.url.replace("http:", "https:"))
        self.assertIs(Fault.TLS, response.fault)

    def test_a_file_of_authorities_that_is_missing_is_our_fault(self) -> None:
        endpoint = self.endpoint(tls=certificate().context())
        response = self.send_one(self.clients(ca_file="/nowhere/ca.pem"), endpoint.url)
        self.assertIs(Fault.LOCAL, response.fault)


class ProxyTest(HttpCase):
    def through(self, reply: bytes | behave.Behave, url: str) -> Response:
        proxy = self.endpoint(reply)
        response = self.send_one(self.clients(proxy=f"http://127.0.0.1:{proxy.port}"), url)
        self.assertTrue(all(one.line.startswith("CONNECT ") for one in proxy.requests), proxy.requests)
        return response

    def test_through_the_tunnel(self) -> None:
        for endpoint in (self.endpoint(answer(201)), self.endpoint(answer(201), tls=certificate().context())):
            proxy = self.endpoint(behave.proxy)
            clients = self.clients(proxy=f"http://user:word@proxy.test:{proxy.port}", ca_file=certificate().file)
            for _ in range(2):
                # The name is the proxy's to look up: ours does not know it.
                url = endpoint.named("secure.test" if "https" in endpoint.url else "only-the-proxy.example")
                self.assertEqual(201, self.send_one(clients, url).status)
            self.assertEqual(1, len(proxy.requests))
            self.assertNotIn("proxy-authorization", endpoint.requests[0].headers)

    def test_what_the_endpoint_answers_is_the_endpoints(self) -> None:
        for status in (403, 407, 502):
            endpoint = self.endpoint(answer(status))
            response = self.through(behave.proxy, endpoint.url)
            self.assertEqual((status, None), (response.status, response.fault))

    def test_an_endpoint_that_hangs_up_behind_the_proxy(self) -> None:
        endpoint = self.endpoint(behave.hang_up)
        self.assertIs(Fault.RESET, self.through(behave.proxy, endpoint.url).fault)

    def test_what_the_proxy_answers(self) -> None:
        cases = {
            403: Fault.PROXY_REFUSED,
            407: Fault.PROXY,
            400: Fault.PROXY,
            500: Fault.PROXY,
            502: Fault.PROXY_GATEWAY,
            503: Fault.PROXY_GATEWAY,
            504: Fault.PROXY_GATEWAY,
        }
        for status, fault in cases.items():
            for scheme in ("http", "https"):
                with self.subTest((status, scheme)):
                    response = self.through(answer(status), f"{scheme}://endpoint.example/")
                    self.assertIs(fault, response.fault)

    def test_a_proxy_that_is_down(self) -> None:
        for proxy in (f"http://127.0.0.1:{closed_port()}", "http://nowhere.invalid:3128"):
            with self.subTest(proxy):
                self.assertIs(Fault.PROXY, self.send_one(self.clients(proxy=proxy), "http://endpoint.example/").fault)

    def test_a_proxy_that_hangs_up(self) -> None:
        for reply in (behave.hang_up, behave.reset, b"nonsense\r\n\r\n"):
            with self.subTest(reply):
                self.assertIs(Fault.PROXY, self.through(reply, "https://endpoint.example/").fault)

    def test_literal_addresses_are_judged_here(self) -> None:
        proxy = self.endpoint(behave.proxy)
        clients = self.clients(allowed=[], proxy=f"http://127.0.0.1:{proxy.port}")
        self.assertIs(Fault.GUARD, self.send_one(clients, "http://127.1/").fault)
        self.assertEqual(0, proxy.connections)

    def test_the_environment_is_ignored(self) -> None:
        proxy = self.endpoint(behave.proxy)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            os.environ[name] = f"http://127.0.0.1:{proxy.port}"
            self.addCleanup(os.environ.pop, name)
        endpoint = self.endpoint()
        clients = self.clients()
        self.assertEqual(200, self.send_one(clients, endpoint.url).status)
        self.assertEqual(200, clients.session().post(endpoint.url).status_code)
        self.assertEqual(0, proxy.connections)

    def test_a_proxy_that_is_no_url_stops_the_start(self) -> None:
        for proxy in ("proxy:3128", "ftp://proxy", "http://", "http://proxy:x"):
            with self.subTest(proxy), self.assertRaisesRegex(CannotStart, "proxy"):
                self.clients(proxy=proxy).engine()
