"""The application behind a real server, over real sockets."""

import http.client
import json
import socket
import threading
import wsgiref.simple_server

from tests.api.case import CLIENT, ApiCase

HEADERS = {"Client-ID": CLIENT, "X-Project-ID": "p"}


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


class SocketTest(ApiCase):
    loopback_only = True

    def setUp(self):
        super().setUp()
        server = wsgiref.simple_server.make_server("127.0.0.1", 0, self.client.app, handler_class=Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.address = server.server_address

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, body, {**HEADERS, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def test_post_and_read(self):
        document = json.dumps({"messages": [{"body": "ä\0"}]})
        status, headers, body = self.request("POST", "/v2/queues/q/messages", document)
        self.assertEqual(status, 201, body)
        self.assertTrue(headers["x-openstack-request-id"].startswith("req-"))
        [href] = json.loads(body)["resources"]
        status, headers, body = self.request("GET", href)
        self.assertEqual((status, json.loads(body)["body"]), (200, "ä\0"))

    def test_bodiless_answers(self):
        self.assertEqual(self.request("HEAD", "/v2/ping")[::2], (204, b""))
        self.assertEqual(self.request("GET", "/v2/ping")[::2], (204, b""))
        self.assertEqual(self.request("PUT", "/v2/queues/q")[0], 201)

    def test_errors(self):
        self.assertEqual(self.request("POST", "/v2/queues/q/messages", "{")[0], 400)
        self.assertEqual(self.request("GET", "/nowhere")[0], 404)
        self.assertEqual(self.request("BREW", "/v2/queues")[0], 400)
        self.assertEqual(self.request("GET", "/v2/queues/a%00b")[0], 400)
        self.assertEqual(self.request("GET", "/v2/ping", headers={"X-Forwarded-For": "127.0.0.1"})[0], 403)

    def test_content_length_that_is_none(self):
        for length in ("x", "-1", "1.5"):
            status, _, body = self.request("PUT", "/v2/queues/q", headers={"Content-Length": length})
            self.assertEqual((status, set(json.loads(body))), (400, {"title", "description"}))

    def test_client_that_leaves_in_the_middle_of_its_body(self):
        with socket.create_connection(self.address, timeout=30) as sender:
            lines = ["POST /v2/queues/q/messages HTTP/1.1", "Host: localhost", "Content-Length: 1000"]
            lines += [f"{name}: {value}" for name, value in HEADERS.items()]
            sender.sendall("\r\n".join([*lines, "", '{"messages": [']).encode())
            sender.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: sender.recv(65536), b""))
        self.assertIn(b" 400 ", answer.split(b"\r\n", 1)[0])
        self.assertIn(b"ended after 14 of 1000 bytes", answer)
        self.assertEqual(self.wakes, [])
