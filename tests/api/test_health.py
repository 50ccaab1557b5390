from tests.api.case import ApiCase, OverMemory, OverSql
from zaqar_notify.errors import CannotStart, StorageUnavailable
from zaqar_notify.storage.memory import MemoryStorage

ADMIN = {"X-Roles": "admin"}


class HealthTests:
    def test_health(self):
        health = self.ok("GET", "/v2/health", headers=ADMIN).json
        self.assertEqual(set(health), {"storage_reachable", "catalog_reachable", "operation_status", "message_volume"})
        self.assertIs(health["storage_reachable"], True)
        self.assertIs(health["catalog_reachable"], True)
        self.assertEqual(health["message_volume"], {"free": 0, "claimed": 0, "total": 0})
        for status in health["operation_status"].values():
            self.assertEqual((status["succeeded"], status["ref"]), (True, None))
            self.assertGreaterEqual(status["seconds"], 0)
        self.assertEqual(self.ok("GET", "/v2/queues").json["queues"], [], "nothing is posted for it")

    def test_volume_of_all_projects(self):
        self.post(1, 2, 3)
        self.post(4, project="other")
        self.claim(query="limit=1")
        volume = self.ok("GET", "/v2/health", headers=ADMIN, project="operator").json["message_volume"]
        self.assertEqual(volume, {"free": 3, "claimed": 1, "total": 4})

    def test_who_may(self):
        self.refused(403, "GET", "/v2/health")
        self.refused(403, "GET", "/v2/health", headers={"X-Roles": "member"})


class HealthMemoryTest(OverMemory, HealthTests, ApiCase):
    pass


class HealthSqlTest(OverSql, HealthTests, ApiCase):
    pass


class Down(MemoryStorage):
    def check(self):
        raise StorageUnavailable("The database is out of reach.")

    def volume(self):
        raise StorageUnavailable("The database is out of reach.")


class OldSchema(MemoryStorage):
    def check(self):
        raise CannotStart("The schema is of another version.")


class UnhealthyTest(ApiCase):
    def test_storage_out_of_reach(self):
        client = self.make_client(Down(keyring=None, retention=1.0))
        with self.assertLogs("zaqar_notify", "WARNING") as logs:
            answer = self.ok("GET", "/v2/health", headers=ADMIN, client=client)
        health = answer.json
        self.assertIs(health["storage_reachable"], False)
        self.assertIs(health["catalog_reachable"], False)
        self.assertIsNone(health["message_volume"])
        for status in health["operation_status"].values():
            self.assertEqual((status["succeeded"], status["ref"]), (False, answer.headers["x-openstack-request-id"]))
        self.assertIn(answer.headers["x-openstack-request-id"], logs.output[0])
        self.assertNotIn("out of reach", answer.text)

    def test_schema_of_another_version(self):
        client = self.make_client(OldSchema(keyring=None, retention=1.0))
        with self.assertLogs("zaqar_notify", "WARNING"):
            health = self.ok("GET", "/v2/health", headers=ADMIN, client=client).json
        self.assertIs(health["storage_reachable"], False)
        self.assertEqual(health["message_volume"]["total"], 0)
