from tests.api.case import ApiCase, OverMemory, OverSql
from zaqar_notify.errors import CannotStart, StorageUnavailable
from zaqar_notify.storage.memory import MemoryStorage


class Down(MemoryStorage):
    error: Exception = StorageUnavailable("The database is out of reach.")

    def check(self):
        raise self.error


class Outdated(Down):
    error = CannotStart("The database has an older schema; run: zaqar-notify db upgrade")


class PingTests:
    def test_get_and_head(self):
        for method in ("GET", "HEAD"):
            answer = self.ok(method, "/v2/ping", status=204)
            self.assertEqual(answer.content, b"")

    def test_headers_are_required(self):
        self.refused(400, "GET", "/v2/ping", client_id=None)


class PingMemoryTest(OverMemory, PingTests, ApiCase):
    pass


class PingSqlTest(OverSql, PingTests, ApiCase):
    pass


class PingWithoutStorageTest(ApiCase):
    def make_storage(self, clock):
        return self.make_down(Down)

    def make_down(self, kind):
        return kind(keyring=None, retention=1.0, body_retention=None)

    def test_get_says_that_storage_is_down(self):
        with self.assertLogs("zaqar_notify", "WARNING"):
            answer = self.refused(503, "GET", "/v2/ping", text="out of reach")
        self.assertEqual(answer.headers["retry-after"], "1")

    def test_outdated_schema(self):
        client = self.make_client(self.make_down(Outdated))
        with self.assertLogs("zaqar_notify", "WARNING"):
            self.refused(503, "GET", "/v2/ping", text="db upgrade", client=client)

    def test_head_asks_the_process_only(self):
        self.ok("HEAD", "/v2/ping", status=204)
