"""Requests that share their connections: the streams of HTTP/2."""

import queue
import time

from tests.notifiers import endpoint as behave
from tests.notifiers.case import HttpCase
from tests.notifiers.endpoint import OK, answer, certificate
from tests.notifiers.http2 import SILENCE, Answer, Http2Server
from zaqar_notify.notifiers.http import Fault, HttpClients, Request, Response


class PoolCase(HttpCase):
    def server(self, respond=lambda received: Answer(), **options):
        server = Http2Server(respond, **options)
        self.addCleanup(server.close)
        return server

    def trusting(self, **options) -> HttpClients:
        return self.clients(ca_file=certificate().file, **options)


class StreamTest(PoolCase):
    def test_many_are_streams_of_one_connection(self):
        server = self.server()
        clients = self.trusting(http2=False)  # which is about webhooks
        for number in (100, 300):  # before the other side has said how many it allows, 100
            responses = self.send(clients, *[server.url] * number, pool="p")
            self.assertEqual({(200, None)}, {(one.status, one.fault) for one in responses})
        self.assertEqual((400, 1), (len(server.requests), server.connections))

    def test_no_more_streams_than_the_other_side_allows(self):
        server = self.server(streams=10)
        self.assertEqual({200}, {one.status for one in self.send(self.trusting(), *[server.url] * 100, pool="p")})
        self.assertLessEqual(server.most_open, 10)

    def test_pools_share_nothing_with_others(self):
        server = self.server()
        clients = self.trusting()
        for pool in ("a", "b", "", "a", "b", ""):
            self.assertEqual(200, self.send_one(clients, server.named("secure.test"), pool=pool).status)
        self.assertEqual(3, server.connections)

    def test_without_http2(self):
        plain, secured = self.endpoint(answer(201)), self.endpoint(answer(201), tls=certificate().context())
        for endpoint in (plain, secured):
            responses = self.send(self.trusting(), *[endpoint.url] * 20, pool="p")
            self.assertEqual({201}, {one.status for one in responses})

    def test_through_an_egress_proxy(self):
        server, proxy = self.server(), self.endpoint(behave.proxy)
        clients = self.trusting(proxy=f"http://127.0.0.1:{proxy.port}")
        responses = self.send(clients, *[server.named("secure.test")] * 20, pool="p")
        self.assertEqual({200}, {one.status for one in responses})
        self.assertEqual((1, 1), (server.connections, len(proxy.requests)))

    def test_the_guard_judges_here_too(self):
        server = self.server()
        clients = self.trusting(allowed=[])
        for url in (server.url, server.named("secure.test")):
            self.assertIs(Fault.GUARD, self.send_one(clients, url, pool="p").fault)
        self.assertEqual(0, server.connections)


class EndOfConnectionTest(PoolCase):
    def test_told_to_go_away(self):
        """All that was refused is sent again, whatever the number; nothing is sent twice."""
        server = self.server(goaway_every=100)
        responses = self.send(self.trusting(), *[server.url] * 500, pool="p")
        self.assertEqual({(200, None)}, {(one.status, one.fault) for one in responses})
        self.assertEqual((500, 5), (len(server.requests), server.ended))

    def test_cut_off_in_the_middle(self):
        server = self.server(goaway_every=50, abrupt=True)
        responses = self.send(self.trusting(), *[server.url] * 200, pool="p")
        self.assertEqual({200}, {one.status for one in responses})

    def test_who_answers_nobody_is_not_asked_again(self):
        for pool in ("", "p"):
            endpoint = self.endpoint(behave.hang_up)
            self.assertIs(Fault.RESET, self.send_one(self.trusting(), endpoint.url, pool=pool).fault)
            self.assertEqual(1, len(endpoint.requests))

    def test_repeating_ends(self):
        def now_and_then(endpoint, connection, request):
            if request.body == b"good":
                connection.sendall(OK)
            else:
                time.sleep(0.05)
                behave.reset(endpoint, connection, request)

        for timeout, least, most in ((0.2, 2, 5), (20.0, 11, 16)):
            endpoint = self.endpoint(now_and_then)
            clients = self.trusting()
            answers: queue.Queue[Response] = queue.Queue()
            bad = Request(endpoint.url, [], b"bad", time.monotonic() + timeout, lambda _, found: answers.put(found), pool="p")  # noqa: B023
            self.assertEqual(200, self.send_one(clients, endpoint.url, body=b"good", pool="p").status)
            clients.engine().send_many([bad])
            self.assertIn(answers.get(timeout=20).fault, (Fault.RESET, Fault.TIMEOUT))
            self.assertIn(len(endpoint.requests) - 1, range(least, most + 1))

    def test_a_connection_that_has_gone_silent_is_used_no_more(self):
        silent = set()

        def respond(received):
            return SILENCE if received.headers["x-connection"] in silent else Answer()

        server = self.server(respond)
        clients = self.trusting()
        self.assertEqual(200, self.tell(clients, server, "1", 20.0).status)
        silent.add("1")
        self.assertIs(Fault.TIMEOUT, self.tell(clients, server, "1", 0.3).fault)
        self.assertEqual(200, self.tell(clients, server, "2", 20.0).status)
        self.assertEqual(2, server.connections)

    def test_one_silent_stream_does_not_cost_the_others_their_connection(self):
        server = self.server(lambda received: SILENCE if received.headers["x-connection"] == "silent" else Answer())
        clients = self.trusting()
        answers: queue.Queue[Response] = queue.Queue()
        clients.engine().send_many([self.request(server, "silent", 0.4, answers)])
        for _ in range(3):
            self.assertEqual(200, self.tell(clients, server, "1", 20.0).status)
        self.assertIs(Fault.TIMEOUT, answers.get(timeout=20).fault)
        self.assertEqual(200, self.tell(clients, server, "1", 20.0).status)
        self.assertEqual(1, server.connections)

    def tell(self, clients, server, text, timeout):
        answers: queue.Queue[Response] = queue.Queue()
        clients.engine().send_many([self.request(server, text, timeout, answers)])
        return answers.get(timeout=20)

    def request(self, server, text, timeout, answers):
        done = lambda _, response: answers.put(response)  # noqa: E731
        return Request(server.url, [f"x-connection: {text}"], b"{}", time.monotonic() + timeout, done, pool="p")
