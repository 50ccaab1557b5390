"""Requests that share their connections: the streams of HTTP/2."""

import queue
import time

from tests.notifiers import endpoint as behave
from tests.notifiers.case import HttpCase
from tests.notifiers.endpoint import answer, certificate
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

    def test_webhooks_are_not_repeated(self):
        endpoint = self.endpoint(behave.hang_up)
        self.assertIs(Fault.RESET, self.send_one(self.trusting(), endpoint.url).fault)
        once = len(endpoint.requests)
        response = self.send_one(self.trusting(), endpoint.url, pool="p")
        self.assertIs(Fault.RESET, response.fault)  # an end comes in any case
        self.assertGreater(len(endpoint.requests) - once, once)

    def test_repeating_ends_with_the_time_of_the_request(self):
        def wait(endpoint, connection, request):
            time.sleep(0.1)
            behave.reset(endpoint, connection, request)

        endpoint = self.endpoint(wait)
        response = self.send_one(self.trusting(), endpoint.url, pool="p", timeout=0.25)
        self.assertIn(response.fault, (Fault.TIMEOUT, Fault.LATE))
        self.assertLessEqual(len(endpoint.requests), 4)

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
