import hashlib
import json

from tests.api.case import CLIENT, OTHER_CLIENT, ApiCase, OverMemory, OverSql
from zaqar_notify.api.messages import show
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.model import Message
from zaqar_notify.storage.memory import MemoryStorage

PATH = "/v2/queues/q/messages"
BODIES = [None, True, 0, -1.5, "", "x\0ä\U0001f600", [], {}, {"a": [{"b": None}]}, 2**63 - 1, -(2**63)]


class MessageTests:
    def test_post(self):
        answer = self.ok("POST", PATH, {"messages": [{"body": 1}, {"body": 2, "ttl": 60}]}, status=201)
        ids = [href.removeprefix(f"{PATH}/") for href in answer.json["resources"]]
        self.assertEqual(set(answer.json), {"resources"})
        self.assertEqual(answer.headers["location"], f"{PATH}?ids={ids[0]},{ids[1]}")
        self.assertEqual([queue["name"] for queue in self.ok("GET", "/v2/queues").json["queues"]], ["q"])
        located = self.ok("GET", answer.headers["location"]).json["messages"]
        self.assertEqual(
            [(message["id"], message["body"], message["ttl"]) for message in located], [(ids[0], 1, 3600), (ids[1], 2, 60)]
        )

    def test_get(self):
        attributes = {"colour": "red", "sizes": ["s", "m"], "big": False, "weight": 1.5}
        document = {"messages": [{"body": {"ä": 1}, "ttl": 300, "attributes": attributes}]}
        [href] = self.ok("POST", PATH, document, status=201).json["resources"]
        self.clock.now += 61.7
        self.assertEqual(
            self.ok("GET", href).json,
            {
                "id": href.rpartition("/")[2],
                "href": href,
                "ttl": 300,
                "age": 61,
                "body": {"ä": 1},
                "checksum": "MD5:" + hashlib.md5(json.dumps({"ä": 1}).encode()).hexdigest(),
                "attributes": attributes,
            },
        )

    def test_how_it_is_to_be_delivered(self):
        manner = {"collapse_key": "order-7", "priority": "very-low", "language": "pt-BR"}
        documents = [{"body": 1, **manner}, {"body": 2}, *({"body": 3, name: value} for name, value in manner.items())]
        posted = self.ok("POST", PATH, {"messages": documents}, status=201).json["resources"]
        expected = [manner, {}, *({name: value} for name, value in manner.items())]

        def shown(messages):
            return [{name: message[name] for name in message.keys() & manner.keys()} for message in messages]

        self.assertEqual(expected, shown(self.ok("GET", href).json for href in posted))
        self.assertEqual(expected, shown(self.ok("GET", f"{PATH}?echo=true").json["messages"]))
        self.assertEqual(expected, shown(self.claim()[1]))
        self.clock.now += 300
        self.assertEqual(expected, shown(self.ok("DELETE", f"{PATH}?pop=20").json["messages"]))

    def test_bodies_come_back_as_they_were(self):
        ids = self.post(*BODIES)
        self.assertEqual([self.ok("GET", f"{PATH}/{message_id}").json["body"] for message_id in ids], BODIES)

    def test_many_in_one_request(self):
        ids = self.post(*range(500))
        self.assertEqual(len(set(ids)), 500)
        self.assertEqual(ids, sorted(ids))
        listed = [entry["id"] for page in self.walk(PATH, "messages", "echo=true&limit=20") for entry in page]
        self.assertEqual(listed, ids)

    def test_location_names_as_many_as_one_get_takes(self):
        answer = self.ok("POST", PATH, {"messages": [{"body": number} for number in range(1000)]}, status=201)
        self.assertEqual(len(answer.json["resources"]), 1000)
        located = self.ok("GET", answer.headers["location"]).json["messages"]
        self.assertEqual([message["body"] for message in located], list(range(20)))

    def test_wake_comes_after_the_messages_are_stored(self):
        self.post("a", "b")
        self.post("c")
        self.assertEqual(self.wakes, [2, 3])

    def test_refused_post_stores_and_wakes_nothing(self):
        documents = [
            {},
            [],
            "x",
            {"messages": []},
            {"messages": {"body": 1}},
            {"messages": [{"body": 1}, 5]},
            {"messages": [{"body": 1}, {}]},
            {"messages": [{"body": 1}, {"body": 1, "ttl": 59}]},
            {"messages": [{"body": 1}, {"body": 1, "ttl": 1209601}]},
            {"messages": [{"body": 1}, {"body": 1, "ttl": "60"}]},
            {"messages": [{"body": 1}, {"body": 1, "ttl": True}]},
            {"messages": [{"body": 1}, {"body": 1, "ttl": None}]},
            *({"messages": [{"body": 1}, {"body": 1, "delay": delay}]} for delay in (-1, 901, "5", 0.0, False, None, [])),
            {"messages": [{"body": 1}, {"body": 1, "collapse_key": ""}]},
            {"messages": [{"body": 1}, {"body": 1, "priority": "urgent"}]},
            {"messages": [{"body": 1}, {"body": 1, "language": "en_GB"}]},
            {"messages": [{"body": 1}, {"body": 1, "attributes": []}]},
            {"messages": [{"body": 1}, {"body": 1, "attributes": {"a": None}}]},
            {"messages": [{"body": 1}, {"body": 1, "attributes": {str(n): n for n in range(21)}}]},
        ]
        for document in documents:
            with self.subTest(document=document):
                self.refused(400, "POST", PATH, document)
        self.refused(400, "POST", PATH)
        self.assertEqual(self.ok("GET", PATH + "?echo=true").json, {"messages": [], "links": []})
        self.assertEqual(self.wakes, [])

    def test_unknown_keys_are_ignored(self):
        self.ok("POST", PATH, {"messages": [{"body": 1, "id": "x"}], "more": 1}, status=201)

    def listed(self, query="", **options):
        return [entry["id"] for entry in self.ok("GET", f"{PATH}?echo=true&{query}", **options).json["messages"]]

    def test_traceparent(self):
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        mine = {"traceparent": "mine"}
        full = {f"a{number}": number for number in range(20)}
        documents = [{"body": 1}, {"body": 2, "attributes": mine}, {"body": 3, "attributes": full}]
        for header, expected in (
            (trace, [{"traceparent": trace}, mine, {**full, "traceparent": trace}]),
            (trace.upper(), [None, mine, full]),
            ("00-x", [None, mine, full]),
            (None, [None, mine, full]),
        ):
            with self.subTest(header=header):
                headers = {"traceparent": header}
                self.ok("POST", "/v2/queues/q/messages", {"messages": documents}, status=201, headers=headers)
                listed = self.ok("DELETE", "/v2/queues/q/messages?pop=3").json["messages"]
                self.assertEqual([message.get("attributes") for message in listed], expected)

    def test_delay(self):
        document = {"messages": [{"body": 1, "delay": 30, "ttl": 60}, {"body": 2, "delay": 0}]}
        delayed, free = [href.rpartition("/")[2] for href in self.ok("POST", PATH, document, status=201).json["resources"]]
        self.assertEqual(self.listed(), [free])
        self.assertEqual(self.listed("include_delayed=true"), [delayed, free])
        self.assertEqual(self.listed("include_delayed=false"), [free])
        self.assertEqual([message["id"] for message in self.claim()[1]], [free])
        self.clock.now += 30
        self.assertEqual(self.listed(), [delayed])
        self.clock.now += 59
        self.ok("GET", f"{PATH}/{delayed}")
        self.clock.now += 1
        self.refused(404, "GET", f"{PATH}/{delayed}")

    def test_default_delay(self):
        self.ok("PUT", "/v2/queues/q", {"_default_message_delay": 20}, status=201)
        document = {"messages": [{"body": 1}, {"body": 2, "delay": 0}]}
        delayed, free = [href.rpartition("/")[2] for href in self.ok("POST", PATH, document, status=201).json["resources"]]
        self.assertEqual(self.listed(), [free])
        self.clock.now += 20
        self.assertEqual(self.listed(), [delayed, free])

    def test_default_delay_of_the_service(self):
        client = self.make_client(default_message_delay=10)
        self.assertEqual(self.ok("GET", "/v2/queues/q", client=client).json["_default_message_delay"], 10)
        self.post("x", client=client)
        self.assertEqual(self.listed(), [])
        self.ok("PUT", "/v2/queues/q", {"_default_message_delay": 500}, status=204)
        lowered = self.make_client(max_message_delay=5)
        [message_id] = self.post("y", client=lowered)
        self.clock.now += 5
        self.assertEqual(self.listed(), [message_id])

    def test_size(self):
        frame = len('{"messages": [{"body": ""}]}')
        at_limit = {"messages": [{"body": "x" * (262144 - frame)}]}
        self.ok("POST", PATH, body=json.dumps(at_limit), status=201)
        self.refused(400, "POST", PATH, body=json.dumps(at_limit) + " ", text="at most 262144")

    def test_size_that_the_queue_allows(self):
        self.ok("PUT", "/v2/queues/q", {"_max_messages_post_size": 100}, status=201)
        self.post("x" * 50)
        self.refused(400, "POST", PATH, {"messages": [{"body": "x" * 100}]}, text="at most 100")
        self.ok("PUT", "/v2/queues/q", {}, status=204)
        self.post("x" * 100)

    def test_default_ttl_of_the_queue(self):
        self.ok("PUT", "/v2/queues/q", {"_default_message_ttl": 77}, status=201)
        first, second = self.ok("POST", PATH, {"messages": [{"body": 1}, {"body": 1, "ttl": 60}]}, status=201).json["resources"]
        self.assertEqual((self.ok("GET", first).json["ttl"], self.ok("GET", second).json["ttl"]), (77, 60))
        self.ok("PUT", "/v2/queues/q", {"_default_message_ttl": 88}, status=204)
        [third] = self.post(1)
        self.assertEqual(self.ok("GET", f"{PATH}/{third}").json["ttl"], 88)
        self.ok("DELETE", "/v2/queues/q", status=204)
        [fourth] = self.post(1)
        self.assertEqual(self.ok("GET", f"{PATH}/{fourth}").json["ttl"], 3600)

    def test_default_ttl_of_the_service(self):
        client = self.make_client(default_message_ttl=123)
        [message_id] = self.post(1, client=client)
        self.assertEqual(self.ok("GET", f"{PATH}/{message_id}").json["ttl"], 123)

    def test_lowered_limits_hold_for_older_queues(self):
        self.ok("PUT", "/v2/queues/q", {"_default_message_ttl": 5000, "_max_messages_post_size": 5000}, status=201)
        client = self.make_client(max_message_ttl=1000, max_messages_post_size=100)
        [message_id] = self.post(1, client=client)
        self.assertEqual(self.ok("GET", f"{PATH}/{message_id}").json["ttl"], 1000)
        self.refused(400, "POST", PATH, {"messages": [{"body": "x" * 100}]}, text="at most 100", client=client)

    def test_echo(self):
        [mine] = self.post("mine")
        [theirs] = self.post("theirs", client_id=OTHER_CLIENT)
        seen = {
            query: [entry["id"] for entry in self.ok("GET", PATH + query).json["messages"]]
            for query in ("", "?echo=false", "?echo=true")
        }
        self.assertEqual(seen, {"": [theirs], "?echo=false": [theirs], "?echo=true": [mine, theirs]})
        for spelled in (CLIENT.upper(), CLIENT.replace("-", "")):
            self.assertEqual([entry["id"] for entry in self.ok("GET", PATH, client_id=spelled).json["messages"]], [theirs])

    def test_pages_hold_everything_once(self):
        ids = self.post(*range(25))
        for query in ("", "limit=20", "limit=5", "limit=1"):
            with self.subTest(query=query):
                pages = list(self.walk(PATH, "messages", f"echo=true&{query}"))
                self.assertEqual([entry["id"] for page in pages for entry in page], ids)
        self.assertEqual([len(page) for page in self.walk(PATH, "messages", "echo=true&limit=20")], [20, 5])

    def test_a_full_page_links_to_what_comes(self):
        first = self.post(1, 2)
        page = self.ok("GET", PATH + "?echo=true&limit=2").json
        [link] = page["links"]
        self.assertEqual(self.ok("GET", link["href"]).json, {"messages": [], "links": []})
        [third] = self.post(3)
        self.assertEqual([entry["id"] for entry in self.ok("GET", link["href"]).json["messages"]], [third])
        self.assertNotIn(third, first)

    def test_paging_refused(self):
        for query in ("limit=0", "limit=21", "limit=x", "echo=7", "marker=nonsense", "marker=%00"):
            with self.subTest(query=query):
                self.refused(400, "GET", f"{PATH}?{query}")

    def test_pages_keep_what_is_included(self):
        self.post(*range(6))
        self.claim(query="limit=5")
        self.ok("POST", PATH, {"messages": [{"body": 1, "delay": 30}] * 3}, status=201)
        for query, count in (
            ("", 1),
            ("include_claimed=true", 6),
            ("include_delayed=true", 4),
            ("include_claimed=true&include_delayed=true", 9),
        ):
            for limit in (1, 2, 3):
                pages = self.walk(PATH, "messages", f"echo=true&limit={limit}&{query}")
                self.assertEqual(sum(len(page) for page in pages), count, (query, limit))
        for query in ("include_claimed=7", "include_delayed=x"):
            self.refused(400, "GET", f"{PATH}?{query}")

    def test_href_of_a_claimed_one(self):
        claimed, free = self.post(1, 2)
        claim_id, _ = self.claim(query="limit=1")
        hrefs = [entry["href"] for entry in self.ok("GET", f"{PATH}?echo=true&include_claimed=true").json["messages"]]
        self.assertEqual(hrefs, [f"{PATH}/{claimed}?claim_id={claim_id}", f"{PATH}/{free}"])
        self.assertEqual(self.ok("GET", f"{PATH}/{claimed}").json["href"], hrefs[0])
        self.assertEqual([entry["href"] for entry in self.ok("GET", f"{PATH}?ids={claimed}").json["messages"]], hrefs[:1])
        self.ok("DELETE", hrefs[0], status=204)
        self.clock.now += 301
        self.assertEqual(self.listed(), [free])

    def test_a_sealed_message(self):
        record = Message("0" * 16, "p", "q", b"", 60, self.clock.now, self.clock.now + 60, sealed=True)
        self.assertEqual(
            show(record, self.clock.now),
            {"id": "0" * 16, "href": f"{PATH}/{'0' * 16}", "ttl": 60, "age": 0, "body": None, "sealed": True},
        )

    def test_get_by_ids(self):
        first, second = self.post(1, 2)
        unknown = "0" * 16
        answer = self.ok("GET", f"{PATH}?ids={second},{unknown},{first},{second}").json
        self.assertEqual([entry["id"] for entry in answer["messages"]], [second, first])
        self.refused(404, "GET", f"{PATH}?ids={unknown},x,")
        self.refused(404, "GET", f"{PATH}?ids=,")
        self.refused(400, "GET", f"{PATH}?ids=" + ",".join(str(number) for number in range(21)), text="at most 20")
        self.refused(400, "GET", f"{PATH}?" + "&".join(f"ids={number}" for number in range(21)), text="at most 20")
        answer = self.ok("GET", f"{PATH}?ids={first}&ids={second}").json
        self.assertEqual([entry["id"] for entry in answer["messages"]], [first, second], "as python-zaqarclient asks")

    def test_expiry(self):
        [href] = self.ok("POST", PATH, {"messages": [{"body": 1, "ttl": 60}]}, status=201).json["resources"]
        self.clock.now += 59.9
        self.ok("GET", href)
        self.clock.now += 0.1
        self.refused(404, "GET", href)
        self.assertEqual(self.ok("GET", PATH + "?echo=true").json["messages"], [])

    def test_delete(self):
        first, second = self.post(1, 2)
        for _ in range(2):
            self.assertEqual(self.ok("DELETE", f"{PATH}/{first}", status=204).content, b"")
        self.refused(404, "GET", f"{PATH}/{first}")
        self.assertEqual([entry["id"] for entry in self.ok("GET", PATH + "?echo=true").json["messages"]], [second])

    def test_delete_a_claimed_one(self):
        claimed, free, other = self.post(1, 2, 3)
        claim_id, _ = self.claim(query="limit=1")
        other_claim, [held] = self.claim(query="limit=1")
        self.assertEqual(held["id"], free)
        self.refused(403, "DELETE", f"{PATH}/{claimed}")
        self.refused(403, "DELETE", f"{PATH}/{claimed}?claim_id={other_claim}")
        for claim in ("x", "0" * 16, "%00", "%ff", claim_id[:-1]):
            self.refused(400, "DELETE", f"{PATH}/{claimed}?claim_id={claim}")
        self.refused(400, "DELETE", f"{PATH}/{other}?claim_id={claim_id}")
        self.assertEqual(self.listed("include_claimed=true"), [claimed, free, other])
        self.ok("DELETE", f"{PATH}/{claimed}?claim_id={claim_id}", status=204)
        self.ok("DELETE", f"{PATH}/{other}", status=204)
        self.assertEqual(self.listed("include_claimed=true"), [free])
        self.clock.now += 301
        self.refused(400, "DELETE", f"{PATH}/{free}?claim_id={other_claim}")
        self.ok("DELETE", f"{PATH}/{free}", status=204)

    def test_delete_by_ids(self):
        ids = self.post(*range(5))
        self.claim(query="limit=1")
        self.assertEqual(self.ok("DELETE", f"{PATH}?ids={ids[0]},{ids[1]},{'0' * 16},x,", status=204).content, b"")
        self.assertEqual(self.listed("include_claimed=true"), ids[2:])
        self.ok("DELETE", f"{PATH}?ids={ids[2]}&ids={ids[3]}", status=204)
        self.assertEqual(self.listed("include_claimed=true"), ids[4:])
        self.ok("DELETE", f"{PATH}?ids={ids[4]}", status=204, project="other")
        self.ok("DELETE", f"/v2/queues/r/messages?ids={ids[4]}", status=204)
        self.assertEqual(self.listed(), ids[4:])

    def test_delete_by_ids_and_claims(self):
        ids = self.post(*range(4))
        first, _ = self.claim(query="limit=1")
        second, _ = self.claim(query="limit=1")
        for claims in ("x", "0" * 16, f"{first},{second}", f"{first},x", ",", "%00"):
            self.refused(400, "DELETE", f"{PATH}?ids={ids[0]},{ids[2]}&claim_ids={claims}")
        self.assertEqual(self.listed("include_claimed=true"), ids)
        self.ok("DELETE", f"{PATH}?ids={ids[0]},{ids[1]}&claim_ids={first},{second}", status=204)
        self.assertEqual(self.listed("include_claimed=true"), ids[2:])

    def test_delete_needs_the_claims_where_the_operator_wants_it(self):
        client = self.make_client(message_delete_with_claim_id=True)
        [message_id] = self.post("x")
        for query in ("", "&claim_ids=", "&claim_ids=,"):
            self.refused(400, "DELETE", f"{PATH}?ids={message_id}{query}", text="claim_ids", client=client)
        claim_id, _ = self.claim()
        self.ok("DELETE", f"{PATH}?ids={message_id}&claim_ids={claim_id}", status=204, client=client)
        self.assertEqual(self.listed("include_claimed=true"), [])

    def test_pop(self):
        ids = self.post(*range(6))
        self.claim(query="limit=1")
        self.ok("POST", PATH, {"messages": [{"body": "later", "delay": 30}]}, status=201)
        popped = self.ok("DELETE", f"{PATH}?pop=2").json
        self.assertEqual([message["id"] for message in popped["messages"]], ids[1:3])
        self.assertEqual(popped["messages"][0]["body"], 1)
        self.assertEqual(set(popped["messages"][0]), {"id", "href", "ttl", "age", "body", "checksum"}, "as everywhere else")
        self.assertEqual(self.ok("DELETE", f"{PATH}?pop=20", project="other").json, {"messages": []})
        self.assertEqual(len(self.ok("DELETE", f"{PATH}?pop=20").json["messages"]), 3)
        self.assertEqual(self.ok("DELETE", f"{PATH}?pop=1").json, {"messages": []})

    def test_delete_refused(self):
        [message_id] = self.post("x")
        many = ",".join(str(number) for number in range(21))
        for query in (
            "",
            "ids=",
            "pop=",
            "ids=,",
            f"ids={message_id}&pop=1",
            "pop=0",
            "pop=21",
            "pop=-1",
            "pop=x",
            "pop=1.0",
            "pop=%31%00",
            "pop=1&claim_ids=x",
            f"ids={many}",
            f"ids={message_id}&claim_ids={many}",
            "claim_ids=x",
        ):
            with self.subTest(query=query):
                self.refused(400, "DELETE", f"{PATH}?{query}")
        self.ok("GET", f"{PATH}/{message_id}")
        self.assertEqual(
            len(self.ok("DELETE", f"{PATH}?pop=5", client=self.make_client(max_messages_per_claim_or_pop=5)).json), 1
        )
        self.refused(400, "DELETE", f"{PATH}?pop=6", client=self.make_client(max_messages_per_claim_or_pop=5), text="1 to 5")

    def test_unknown_ids(self):
        for message_id in ("0" * 16, "x", "f" * 40, "%00", "%ff", "..%5c", "-1", "1;2"):
            with self.subTest(message_id=message_id):
                self.refused(404, "GET", f"{PATH}/{message_id}")
                self.ok("DELETE", f"{PATH}/{message_id}", status=204)


class MessageMemoryTest(OverMemory, MessageTests, ApiCase):
    pass


class MessageSqlTest(OverSql, MessageTests, ApiCase):
    pass


class Full(MemoryStorage):
    def publish(self, project, queue, drafts, client_id=None):
        raise StorageUnavailable("The disk is full.")


class FullStorageTest(ApiCase):
    def make_storage(self, clock):
        return Full(keyring=None, retention=1.0, body_retention=None)

    def test_post(self):
        with self.assertLogs("zaqar_notify", "WARNING"):
            answer = self.refused(503, "POST", PATH, {"messages": [{"body": 1}]}, text="disk is full")
        self.assertEqual(answer.headers["retry-after"], "1")
        self.assertEqual(self.wakes, [])
