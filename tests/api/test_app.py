import io
import logging

from falcon import testing
from gunicorn.http.errors import InvalidChunkSize

from tests.api.case import CLIENT, ApiCase
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.storage.memory import MemoryStorage

DETAIL = "whsec_secret-detail"


class ErrorShapeTest(ApiCase):
    def test_unknown_routes(self):
        for path in (
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
            ("POST", "/v2/queues/q", "DELETE, GET, PATCH, PUT, OPTIONS"),
            ("PUT", "/v2/queues/q/messages", "DELETE, GET, POST, OPTIONS"),
            ("GET", "/v2/queues/q/claims", "POST, OPTIONS"),
            ("PUT", "/v2/queues/q/claims/x", "DELETE, GET, PATCH, OPTIONS"),
            ("GET", "/v2/queues/q/share", "POST, OPTIONS"),
            ("GET", "/v2/queues/q/purge", "POST, OPTIONS"),
            ("POST", "/v2/queues/q/stats", "GET, OPTIONS"),
            ("GET", one + "/confirm", "PUT, OPTIONS"),
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
