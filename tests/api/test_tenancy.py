"""A project sees and touches its own things only, by any id."""

from tests.api.case import HOOK, ApiCase, OverMemory, OverSql

Q = "/v2/queues/q"


class TenancyTests:
    def setUp(self):
        super().setUp()
        self.ok("PUT", Q, {"mine": 1}, status=201)
        [self.message] = self.post("x")
        self.subscription = self.subscribe()

    def mine(self):
        """All that the owner sees."""
        paths = [
            "/v2/queues?detailed=true",
            Q,
            f"{Q}/messages?echo=true",
            f"{Q}/messages/{self.message}",
            f"{Q}/messages/{self.message}/deliveries",
            f"{Q}/subscriptions",
            f"{Q}/subscriptions/{self.subscription}",
            f"{Q}/subscriptions/{self.subscription}/deliveries",
        ]
        return [self.ok("GET", path).json for path in paths]

    def check_stranger(self, queue, **who):
        """``queue``: the stranger's path to a queue of the same or another name."""
        message, subscription = f"{queue}/messages/{self.message}", f"{queue}/subscriptions/{self.subscription}"
        for path in (message, f"{message}/deliveries", subscription, f"{subscription}/deliveries"):
            self.refused(404, "GET", path, **who)
        self.refused(404, "GET", f"{queue}/messages?ids={self.message}", **who)
        self.refused(404, "PATCH", subscription, {"ttl": 60}, **who)
        self.refused(404, "POST", f"{subscription}/enable", **who)
        self.assertEqual(self.ok("GET", f"{queue}/messages?echo=true", **who).json["messages"], [])
        self.assertEqual(self.ok("GET", f"{queue}/subscriptions", **who).json["subscriptions"], [])
        self.assertNotIn("mine", self.ok("GET", queue, **who).json)
        self.ok("DELETE", message, status=204, **who)
        self.ok("DELETE", subscription, status=204, **who)
        self.ok("DELETE", queue, status=204, **who)

    def test_another_project(self):
        before = self.mine()
        self.assertEqual(self.ok("GET", "/v2/queues", project="other").json["queues"], [])
        self.check_stranger(Q, project="other")
        self.assertEqual(self.mine(), before)

    def test_another_project_with_a_queue_of_the_same_name(self):
        before = self.mine()
        self.ok("PUT", Q, {"_default_message_ttl": 60}, status=201, project="other")
        [theirs] = self.post("theirs", project="other")
        document = self.ok("POST", f"{Q}/subscriptions", HOOK, status=201, project="other").json
        self.assertNotEqual(document["subscription_id"], self.subscription)
        listed = self.ok("GET", f"{Q}/messages?echo=true", project="other").json["messages"]
        self.assertEqual([(message["id"], message["ttl"]) for message in listed], [(theirs, 60)])
        self.refused(404, "GET", f"{Q}/messages/{theirs}")
        self.refused(404, "GET", f"{Q}/subscriptions/{document['subscription_id']}")
        self.assertEqual(self.mine(), before)
        self.ok("DELETE", f"{Q}/messages/{self.message}", status=204, project="other")
        self.ok("DELETE", f"{Q}/subscriptions/{self.subscription}", status=204, project="other")
        self.ok("DELETE", Q, status=204, project="other")
        self.assertEqual(self.mine(), before)

    def test_ids_through_another_queue_of_the_same_project(self):
        before = self.mine()
        self.ok("PUT", "/v2/queues/r", status=201)
        self.check_stranger("/v2/queues/r")
        self.assertEqual(self.mine(), before)

    def test_projects_that_look_alike(self):
        before = self.mine()
        for project in ("P", "p%", "_", "*", "pp", "p/"):
            self.check_stranger(Q, project=project)
        self.assertEqual(self.mine(), before)


class TenancyMemoryTest(OverMemory, TenancyTests, ApiCase):
    pass


class TenancySqlTest(OverSql, TenancyTests, ApiCase):
    pass
