import urllib.parse

from tests.api.case import ApiCase, OverMemory, OverSql

DEFAULTS = {
    "_max_messages_post_size": 262144,
    "_default_message_ttl": 3600,
    "_default_message_delay": 0,
    "_dead_letter_queue": None,
    "_dead_letter_queue_messages_ttl": None,
    "_max_claim_count": None,
    "_enable_encrypt_messages": False,
}


class QueueTests:
    def test_put(self):
        created = self.ok("PUT", "/v2/queues/q", {"a": {"b": [1]}}, status=201)
        self.assertEqual(created.headers["location"], "/v2/queues/q")
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, {**DEFAULTS, "a": {"b": [1]}})
        replaced = self.ok("PUT", "/v2/queues/q", {"c": None}, status=204)
        self.assertEqual(replaced.headers["location"], "/v2/queues/q")
        self.assertEqual(replaced.content, b"")
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, {**DEFAULTS, "c": None})

    def test_put_without_body(self):
        self.ok("PUT", "/v2/queues/q", status=201)
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, DEFAULTS)

    def test_put_reserved_names(self):
        self.ok("PUT", "/v2/queues/q", {"_default_message_ttl": 77, "_max_messages_post_size": 1000}, status=201)
        shown = self.ok("GET", "/v2/queues/q").json
        self.assertEqual(shown, {**DEFAULTS, "_default_message_ttl": 77, "_max_messages_post_size": 1000})

    def test_put_refused(self):
        for document in ([], "x", 5, {"_default_message_ttl": "60"}, {"_max_messages_post_size": True}):
            with self.subTest(document=document):
                self.refused(400, "PUT", "/v2/queues/q", document)
        self.refused(400, "PUT", "/v2/queues/q", {"a": "x" * 65536}, text="at most 65536")
        self.refused(400, "PUT", "/v2/queues/q", body=b"null", text="null")
        self.assertEqual(self.ok("GET", "/v2/queues").json["queues"], [])

    def test_size_of_metadata_at_its_limit(self):
        self.ok("PUT", "/v2/queues/q", body=b'{"a": "%s"}' % (b"x" * (65536 - 9)), status=201)

    def test_get_shows_defaults_of_a_queue_that_is_not_there(self):
        self.assertEqual(self.ok("GET", "/v2/queues/none").json, DEFAULTS)
        self.assertEqual(self.ok("GET", "/v2/queues").json["queues"], [])

    def test_delete(self):
        self.ok("PUT", "/v2/queues/q", {"a": 1}, status=201)
        [message_id] = self.post("x")
        for _ in range(2):
            self.assertEqual(self.ok("DELETE", "/v2/queues/q", status=204).content, b"")
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, DEFAULTS)
        self.refused(404, "GET", f"/v2/queues/q/messages/{message_id}")
        self.ok("PUT", "/v2/queues/q", status=201)
        self.assertEqual(self.ok("GET", "/v2/queues/q/messages?echo=true").json["messages"], [])

    def test_names(self):
        self.ok("PUT", "/v2/queues/" + "x" * 64, status=201)
        for name in ("x" * 65, "a b", "ä", "a\n", "a\0", "a*", "a%2541"):
            path = "/v2/queues/" + urllib.parse.quote(name)
            with self.subTest(name=name):
                self.refused(400, "PUT", path, title="Invalid queue identification")
                self.refused(400, "GET", path, title="Invalid queue identification")
                self.refused(400, "POST", path + "/messages", {"messages": [{"body": 1}]}, title="Invalid queue identification")
                self.refused(400, "GET", path + "/subscriptions", title="Invalid queue identification")

    def test_list_of_none(self):
        self.assertEqual(self.ok("GET", "/v2/queues").json, {"queues": [], "links": []})

    def test_list(self):
        self.ok("PUT", "/v2/queues/b", {"k": 1}, status=201)
        self.ok("PUT", "/v2/queues/a", status=201)
        entries = [{"name": name, "href": f"/v2/queues/{name}"} for name in "ab"]
        self.assertEqual(self.ok("GET", "/v2/queues").json, {"queues": entries, "links": []})
        entries[0]["metadata"] = DEFAULTS
        entries[1]["metadata"] = {**DEFAULTS, "k": 1}
        self.assertEqual(self.ok("GET", "/v2/queues?detailed=true").json["queues"], entries)

    def test_pages_hold_everything_once(self):
        names = sorted(f"q{number:02}" for number in range(25))
        for name in reversed(names):
            self.ok("PUT", f"/v2/queues/{name}", status=201)
        for query, sizes in (("", [10, 10, 5]), ("limit=20", [20, 5]), ("limit=5", [5] * 5), ("limit=", [10, 10, 5])):
            pages = list(self.walk("/v2/queues", "queues", query))
            self.assertEqual([len(page) for page in pages], sizes, query)
            self.assertEqual([queue["name"] for page in pages for queue in page], names)
        pages = list(self.walk("/v2/queues", "queues", "detailed=true&limit=20"))
        self.assertTrue(all("metadata" in queue for page in pages for queue in page))

    def test_paging_refused(self):
        for query in ("limit=0", "limit=21", "limit=x", "limit=-1", "limit=1.5", "marker=a%00", "marker=%ff", "detailed=7"):
            with self.subTest(query=query):
                self.refused(400, "GET", f"/v2/queues?{query}")

    def test_filters_do_no_harm(self):
        self.ok("PUT", "/v2/queues/a", status=201)
        for query in ("name=a", "with_count=true", "colour=red", "with_count=%ff&=&&x"):
            self.assertEqual(len(self.ok("GET", f"/v2/queues?{query}").json["queues"]), 1)


class QueueMemoryTest(OverMemory, QueueTests, ApiCase):
    pass


class QueueSqlTest(OverSql, QueueTests, ApiCase):
    pass
