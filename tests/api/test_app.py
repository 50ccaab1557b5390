import io
import logging
import urllib.parse

from falcon import testing
from gunicorn.http.errors import InvalidChunkSize

from tests.api.case import CLIENT, HOOK, ApiCase, OverMemory, OverSql
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.storage.memory import MemoryStorage

DETAIL = "whsec_secret-detail"


class ErrorShapeTest(ApiCase):
    def test_unknown_routes(self):
        for path in (
            "/",
            "/v2",
            "/v2/nowhere",
            "/v1.1/queues",
            "/v2/queues/q/nowhere",
            "/v2/pools",
            "/v2/topics",
            "/%00",
            "/%ff",
        ):
            with self.subTest(path=path):
                self.refused(404, "GET", path, title="Not Found")
        self.refused(404, "GET", "/nowhere", client_id=None, project=None)

    def test_methods(self):
        one = "/v2/queues/q/subscriptions/" + "0" * 16
        for method, path, allowed in (
            ("POST", "/v2/queues", "GET, OPTIONS"),
            ("POST", "/v2/queues/q", "DELETE, GET, PUT, OPTIONS"),
            ("PUT", "/v2/queues/q/messages", "GET, POST, OPTIONS"),
            ("PUT", one, "DELETE, GET, PATCH, OPTIONS"),
            ("GET", one + "/enable", "POST, OPTIONS"),
            ("DELETE", "/v2/ping", "GET, HEAD, OPTIONS"),
        ):
            with self.subTest(method=method, path=path):
                answer = self.refused(405, method, path, title="Method Not Allowed")
                self.assertEqual(answer.headers["allow"], allowed)

    def test_body_that_ends_too_early(self):
        self.refused(400, "PUT", "/v2/queues/q", body="{}  ", headers={"Content-Length": "5"}, text="4 of 5")


class Broken(io.RawIOBase):
    def __init__(self, error):
        self.error = error

    def read(self, size=-1):
        raise self.error


class ChunkedBodyTest(ApiCase):
    """A body without a length, as a server hands it on that has taken the chunks apart."""

    def post(self, stream):
        environ = testing.create_environ(
            "/v2/queues/q/messages",
            method="POST",
            headers={"Client-ID": CLIENT, "X-Project-ID": "p", "Transfer-Encoding": "chunked"},
        )
        environ.update({"wsgi.input": stream, "wsgi.input_terminated": True})
        environ.pop("CONTENT_LENGTH", None)
        statuses = []
        body = b"".join(self.client.app(environ, lambda status, headers: statuses.append(status)))
        return int(statuses[0][:3]), body.decode()

    def test_bodies(self):
        self.assertEqual(self.post(io.BytesIO(b'{"messages": [{"body": 1}]}'))[0], 201)
        for stream, text in (
            (io.BytesIO(b" " * 262145), "at most 262144"),
            (io.BytesIO(b""), "not valid JSON"),
            (Broken(ConnectionResetError()), "to its end"),
            (Broken(InvalidChunkSize(b"zz")), "to its end"),
        ):
            status, body = self.post(stream)
            self.assertEqual(status, 400)
            self.assertIn(text, body)
        self.assertEqual(self.wakes, [1])


class Failing(MemoryStorage):
    """Each look at a queue fails: the queue's name says how."""

    def get_queue(self, project, name):
        if name == "locked":
            raise StorageUnavailable("The database is locked.")
        raise RuntimeError(f"something with {DETAIL}")


class UnexpectedErrorTest(ApiCase):
    def make_storage(self, clock):
        return Failing(keyring=None, retention=1.0, body_retention=None)

    def test_answer_has_no_details_and_the_log_has_them_once(self):
        for method, path, document in (
            ("GET", "/v2/queues/q", None),
            ("POST", "/v2/queues/q/messages", {"messages": [{"body": "private"}]}),
        ):
            with self.assertLogs("zaqar_notify", logging.ERROR) as logs:
                answer = self.refused(500, method, path, document)
            self.assertNotIn(DETAIL, answer.text)
            self.assertNotIn("RuntimeError", answer.text)
            [record] = logs.records
            self.assertIn(answer.headers["x-openstack-request-id"], record.getMessage())
            self.assertIn("RuntimeError", logs.output[0])
            self.assertNotIn("private", logs.output[0])

    def test_storage_out_of_reach(self):
        with self.assertLogs("zaqar_notify", logging.WARNING) as logs:
            answer = self.refused(503, "GET", "/v2/queues/locked", title="Service temporarily unavailable", text="locked")
        self.assertEqual(answer.headers["retry-after"], "1")
        self.assertEqual(len(logs.records), 1)
        self.assertIsNone(logs.records[0].exc_info)


NASTY_JSON = [
    b"",
    b" ",
    b"{",
    b"}",
    b"[1,]",
    b"{'messages': []}",
    b"\xff\xfe",
    b"\x00",
    b'{"messages": [{"body": "\xff"}]}',
    b'{"messages": [{"body": "\xed\xa0\x80"}]}',
    b'{"messages": [{"body": "\\ud800"}]}',
    b'{"messages": [{"body": 1, "attributes": {"\\udc00": 1}}]}',
    b'{"subscriber": "http://endpoint.example/\\ud800"}',
    b'{"subscriber": "http://endpoint.example/", "options": {"\\ud800": 1}}',
    b'{"subscriber": "http://endpoint.example/", "ttl": 1e400}',
    b'{"messages": [{"body": NaN}]}',
    b'{"messages": [{"body": -Infinity}]}',
    b'{"messages": [{"body": 1e999}]}',
    b'{"messages": [{"body": 9223372036854775808}]}',
    b'{"messages": [{"body": ' + b"9" * 5000 + b"}]}",
    b'{"messages": [{"body": ' + b"[" * 20_000 + b"]" * 20_000 + b"}]}",
    b'{"messages": [{"body": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}]}",
    b'{"messages": [{"body": ' + b"[" * 300 + b"]" * 300 + b"}]}",
    b"[" * 20_000,
    b'"x" * 10',
    b"null",
    b"true",
    b"-0",
    b'"text"',
    b"[]",
    b'{"messages": "x" }',
    b'{"messages": null}',
    b'{"messages": [[]]}',
    b'{"messages": [{"body": 1, "ttl": {}}]}',
    b'{"messages": [{"body": 1, "ttl": 9223372036854775807}]}',
    b'{"messages": [{"body": 1, "ttl": -9223372036854775808}]}',
    b'{"subscriber": {"a": 1}}',
    b'{"subscriber": "http://[::1"}',
    b'{"subscriber": "http://endpoint.example/", "ttl": 9223372036854775807}',
    b'{"subscriber": "http://endpoint.example/", "options": {"secret": {"a": 1}}}',
    b'{"subscriber": "http://endpoint.example/", "options": {"secret": "whsec_\\u0000"}}',
    b'{"subscriber": "http://endpoint.example/", "options": {"secret": "whsec_\\u00e4"}}',
    b'{"_default_message_ttl": 1e2}',
    b"x" * 300_000,
]


class BadInputTests:
    """Nothing that a client sends makes the service fail."""

    def test_bodies(self):
        existing = self.ok("POST", "/v2/queues/q/subscriptions", HOOK, status=201).json["subscription_id"]
        for raw in NASTY_JSON:
            for method, path in (
                ("PUT", "/v2/queues/q"),
                ("POST", "/v2/queues/q/messages"),
                ("POST", "/v2/queues/q/subscriptions"),
                ("PATCH", f"/v2/queues/q/subscriptions/{existing}"),
            ):
                with self.subTest(raw=raw[:60], method=method, path=path):
                    answer = self.call(method, path, body=raw)
                    self.assertIn(answer.status_code, (201, 204, 400, 409), answer.text)
                    if answer.status_code >= 400:
                        self.assertEqual(set(answer.json), {"title", "description"})
        self.ok("GET", "/v2/queues/q/messages?echo=true")
        self.ok("GET", "/v2/queues/q/subscriptions")
        self.ok("GET", "/v2/queues/q")

    def test_only_good_messages_get_in(self):
        for raw in NASTY_JSON:
            with self.subTest(raw=raw[:60]):
                self.refused(400, "POST", "/v2/queues/q/messages", body=raw)

    def test_paths_and_queries(self):
        ids = ["\0", "ä", "\udcff", "../..", "a/b", "%", "%zz", "x" * 5000, "'; DROP TABLE messages; --", "9" * 40, "-1", "\n"]
        for nasty in ids:
            quoted = urllib.parse.quote(nasty, safe="", errors="surrogateescape")
            for path in (
                f"/v2/queues/{quoted}",
                f"/v2/queues/q/messages/{quoted}",
                f"/v2/queues/q/messages/{quoted}/deliveries",
                f"/v2/queues/q/messages?ids={quoted}",
                f"/v2/queues/q/messages?marker={quoted}",
                f"/v2/queues/q/messages?limit={quoted}",
                f"/v2/queues/q/messages?echo={quoted}",
                f"/v2/queues/q/subscriptions/{quoted}",
                f"/v2/queues/q/subscriptions/{quoted}/deliveries",
                f"/v2/queues/q/subscriptions?marker={quoted}",
                f"/v2/queues?marker={quoted}",
                f"/v2/queues?{quoted}={quoted}",
            ):
                with self.subTest(path=path):
                    answer = self.call("GET", path)
                    self.assertIn(answer.status_code, (200, 400, 404), answer.text)
                    if answer.status_code != 200:
                        self.assertEqual(set(answer.json), {"title", "description"})


class BadInputMemoryTest(OverMemory, BadInputTests, ApiCase):
    pass


class BadInputSqlTest(OverSql, BadInputTests, ApiCase):
    pass
