from tests.api.case import ApiCase, OverMemory, OverSql

QUEUE = "/v2/queues/q"
PATH = f"{QUEUE}/claims"


class ClaimTests:
    def stats(self, queue="q"):
        stats = self.ok("GET", f"/v2/queues/{queue}/stats").json["messages"]
        return stats["claimed"], stats["free"]

    def test_claim(self):
        ids = self.post(*range(12))
        self.clock.now += 7.5
        answer = self.ok("POST", PATH, {"ttl": 100, "grace": 60}, status=201)
        self.assertEqual(set(answer.json), {"messages"})
        claim_id = answer.headers["location"].removeprefix(f"{PATH}/")
        messages = answer.json["messages"]
        self.assertEqual([message["id"] for message in messages], ids[:10], "ten, the oldest first")
        self.assertEqual(messages[3]["href"], f"{QUEUE}/messages/{ids[3]}?claim_id={claim_id}")
        self.assertEqual((messages[3]["body"], messages[3]["age"], messages[3]["ttl"]), (3, 7, 3600))
        self.assertEqual(set(messages[3]), {"id", "href", "ttl", "age", "body", "checksum"})
        self.assertEqual(self.stats(), (10, 2))
        listed = self.ok("GET", f"{QUEUE}/messages?echo=true").json["messages"]
        self.assertEqual([message["id"] for message in listed], ids[10:])
        self.assertEqual([message["id"] for message in self.claim()[1]], ids[10:])

    def test_nothing_to_claim(self):
        for path in (PATH, "/v2/queues/none/claims"):
            answer = self.ok("POST", path, status=204)
            self.assertEqual(answer.content, b"")
            self.assertNotIn("location", answer.headers)
        self.assertEqual(self.ok("GET", "/v2/queues").json["queues"], [])

    def test_get(self):
        ids = self.post(1, 2)
        claim_id, claimed = self.claim(document={"ttl": 100})
        self.clock.now += 30.9
        shown = self.ok("GET", f"{PATH}/{claim_id}").json
        self.assertEqual(set(shown), {"ttl", "age", "href", "messages"})
        self.assertEqual((shown["ttl"], shown["age"], shown["href"]), (100, 30, f"{PATH}/{claim_id}"))
        self.assertEqual([message["href"] for message in shown["messages"]], [message["href"] for message in claimed])
        self.ok("DELETE", claimed[0]["href"], status=204)
        self.assertEqual([message["id"] for message in self.ok("GET", f"{PATH}/{claim_id}").json["messages"]], ids[1:])

    def test_bodies(self):
        defaults = (300, 301)
        for options, (alive, ended) in (
            ({}, defaults),
            ({"document": {}}, defaults),
            ({"document": {"ttl": None, "grace": None, "limit": 5, "more": []}}, defaults),
            ({"document": {"ttl": 60}}, (59, 60)),
            ({"document": {"ttl": 43200, "grace": 43200}}, (43199, 43200)),
        ):
            with self.subTest(**options):
                self.post("x")
                claim_id, _ = self.claim(**options)
                self.clock.now += alive - 0.5
                self.ok("GET", f"{PATH}/{claim_id}")
                self.clock.now += ended - alive + 0.5
                self.refused(404, "GET", f"{PATH}/{claim_id}")
                self.ok("POST", f"{QUEUE}/purge", status=204)

    def test_defaults_and_limits_are_options(self):
        client = self.make_client(
            default_claim_ttl=10,
            min_claim_ttl=5,
            max_claim_ttl=20,
            min_claim_grace=0,
            max_claim_grace=3,
            max_messages_per_claim_or_pop=4,
        )
        self.post(*range(6))
        claim_id, messages = self.claim(client=client)
        self.assertEqual(len(messages), 4)
        self.assertEqual(self.ok("GET", f"{PATH}/{claim_id}").json["ttl"], 10)
        self.claim(client=client, document={"ttl": 20, "grace": 0})
        for document in ({"ttl": 4}, {"ttl": 21}, {"grace": -1}, {"grace": 4}):
            self.refused(400, "POST", PATH, document, client=client)
        self.refused(400, "POST", f"{PATH}?limit=5", client=client)

    def test_limit(self):
        ids = self.post(*range(25))
        self.assertEqual([message["id"] for message in self.claim(query="limit=1")[1]], ids[:1])
        self.assertEqual([message["id"] for message in self.claim(query="limit=20")[1]], ids[1:21])
        for limit in ("0", "21", "-1", "x", "1.5", "%00", "9" * 30):
            self.refused(400, "POST", f"{PATH}?limit={limit}", text="1 to 20")
        self.assertEqual(self.stats(), (21, 4))

    def test_refused(self):
        self.post("x")
        claim_id, _ = self.claim()
        self.post("y")
        values = ("60", 59, 43201, 60.0, True, [], {}, -1, 2**63 - 1)
        documents = [[], "x", 5, True, *({name: value} for name in ("ttl", "grace") for value in values)]
        for document in documents:
            with self.subTest(document=document):
                self.refused(400, "POST", PATH, document)
                self.refused(400, "PATCH", f"{PATH}/{claim_id}", document)
        for raw in (b"null", b"{", b"\xff", b'{"ttl": 1e400}', b"x" * 70_000):
            self.refused(400, "POST", PATH, body=raw)
            self.refused(400, "PATCH", f"{PATH}/{claim_id}", body=raw)
        self.refused(400, "PATCH", f"{PATH}/{claim_id}")
        self.assertEqual(self.stats(), (1, 1))
        self.assertEqual(self.ok("GET", f"{PATH}/{claim_id}").json["ttl"], 300)

    def test_patch(self):
        self.post("x")
        claim_id, _ = self.claim(document={"ttl": 60})
        self.clock.now += 50
        self.assertEqual(self.ok("PATCH", f"{PATH}/{claim_id}", {"ttl": 100, "grace": 60}, status=204).content, b"")
        shown = self.ok("GET", f"{PATH}/{claim_id}").json
        self.assertEqual((shown["ttl"], shown["age"]), (100, 0))
        self.clock.now += 99
        self.ok("PATCH", f"{PATH}/{claim_id}", {}, status=204)
        self.assertEqual(self.ok("GET", f"{PATH}/{claim_id}").json["ttl"], 300)
        self.clock.now += 300
        self.refused(404, "PATCH", f"{PATH}/{claim_id}", {"ttl": 60})

    def test_release(self):
        [message_id] = self.post("x")
        claim_id, _ = self.claim()
        for _ in range(2):
            self.assertEqual(self.ok("DELETE", f"{PATH}/{claim_id}", status=204).content, b"")
        self.refused(404, "GET", f"{PATH}/{claim_id}")
        self.assertEqual(self.ok("GET", f"{QUEUE}/messages/{message_id}").json["href"], f"{QUEUE}/messages/{message_id}")
        self.assertEqual(self.stats(), (0, 1))

    def test_a_claim_ends(self):
        [message_id] = self.post("x")
        first, _ = self.claim(document={"ttl": 60})
        self.clock.now += 60
        self.assertEqual(self.stats(), (0, 1))
        second, messages = self.claim()
        self.assertEqual([message["id"] for message in messages], [message_id])
        self.assertNotEqual(first, second)

    def test_unknown_ids(self):
        self.post("x")
        for claim_id in ("0" * 16, "x", "f" * 40, "%00", "%ff", "..%5c", "-1", "1;2", "x" * 3000):
            with self.subTest(claim_id=claim_id[:50]):
                self.refused(404, "GET", f"{PATH}/{claim_id}")
                self.refused(404, "PATCH", f"{PATH}/{claim_id}", {"ttl": 60})
                self.ok("DELETE", f"{PATH}/{claim_id}", status=204)

    def test_another_project_or_queue(self):
        self.post("x")
        claim_id, [message] = self.claim()
        for path, project in ((f"{PATH}/{claim_id}", "other"), (f"/v2/queues/r/claims/{claim_id}", "p")):
            self.refused(404, "GET", path, project=project)
            self.refused(404, "PATCH", path, {"ttl": 60}, project=project)
            self.ok("DELETE", path, status=204, project=project)
        self.ok("POST", PATH, status=204, project="other")
        self.assertEqual(len(self.ok("GET", f"{PATH}/{claim_id}").json["messages"]), 1)
        self.ok("DELETE", message["href"], status=204)

    def test_dead_letter_queue(self):
        self.ok(
            "PUT",
            QUEUE,
            {"_max_claim_count": 2, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 90},
            status=201,
        )
        self.post("bad")
        for _ in range(2):
            claim_id, _ = self.claim()
            self.ok("DELETE", f"{PATH}/{claim_id}", status=204)
        before = len(self.wakes)
        self.ok("POST", PATH, status=204)
        self.assertEqual(len(self.wakes), before + 1, "the dead-letter queue has subscribers too")
        self.assertEqual((self.stats(), self.stats("dead")), ((0, 0), (0, 1)))
        [moved] = self.ok("GET", "/v2/queues/dead/messages?echo=true").json["messages"]
        self.assertEqual((moved["body"], moved["ttl"]), ("bad", 90))

    def test_claims_wake_nobody_else(self):
        self.post("x")
        before = len(self.wakes)
        self.claim()
        self.assertEqual(len(self.wakes), before)


class ClaimMemoryTest(OverMemory, ClaimTests, ApiCase):
    pass


class ClaimSqlTest(OverSql, ClaimTests, ApiCase):
    pass
