import json
import urllib.parse

from tests.api.case import ApiCase, OverMemory, OverSql
from zaqar_notify.api.queues import PATCH_TYPE, QueuePurge

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

    def test_a_link_names_no_host(self):
        for name in ("a", "b"):
            self.ok("PUT", f"/v2/queues/{name}", status=201)
        [link] = self.ok("GET", "//v2/queues?limit=1").json["links"]
        self.assertEqual(link["href"], "/v2/queues?marker=a&limit=1")

    def test_paging_refused(self):
        for query in ("limit=0", "limit=21", "limit=x", "limit=-1", "limit=1.5", "marker=a%00", "marker=%ff", "detailed=7"):
            with self.subTest(query=query):
                self.refused(400, "GET", f"/v2/queues?{query}")

    def names(self, query, **options):
        return [queue["name"] for queue in self.ok("GET", f"/v2/queues?{query}", **options).json["queues"]]

    def test_filter_by_name(self):
        for name in ("orders", "orders-eu", "my.orders", "other", "a_b", "axb"):
            self.ok("PUT", f"/v2/queues/{name}", status=201)
        self.assertEqual(self.names("name=orders"), ["my.orders", "orders", "orders-eu"])
        self.assertEqual(self.names("name=a_b"), ["a_b"], "an underscore is no wildcard")
        for nothing in ("name=none", "name=%25", "name=*", "name=%00", "name=%ff"):
            self.assertEqual(self.names(nothing), [], nothing)
        self.assertEqual(len(self.names("name=")), 6)

    def test_filter_by_metadata(self):
        self.ok("PUT", "/v2/queues/a", {"colour": "red", "size": 5, "new": True, "deep": {"x": [1]}}, status=201)
        self.ok("PUT", "/v2/queues/b", {"colour": "red", "size": "6"}, status=201)
        self.ok("PUT", "/v2/queues/c", {"colour": None}, status=201)
        self.assertEqual(self.names("colour=red"), ["a", "b"])
        self.assertEqual(self.names("colour=red&size=5"), ["a"])
        self.assertEqual(self.names("size=6"), ["b"])
        self.assertEqual(self.names("new=true"), ["a"])
        self.assertEqual(self.names("colour=null"), ["c"])
        self.assertEqual(self.names("colour=red&name=b"), ["b"])
        for nothing in (
            "colour=blue",
            "none=x",
            "colour=re",
            "colour=%22red%22",
            "a.b=1",
            "%24.colour=red",
            "colour=%00",
            "%ff=%ff",
        ):
            self.assertEqual(self.names(nothing), [], nothing)
        self.refused(400, "GET", "/v2/queues?colour=red&colour=blue", text="'colour' twice")

    def test_count(self):
        for number in range(12):
            self.ok("PUT", f"/v2/queues/q{number:02}", {"even": number % 2 == 0}, status=201)
        self.ok("PUT", "/v2/queues/theirs", status=201, project="other")
        self.assertNotIn("count", self.ok("GET", "/v2/queues").json)
        self.assertNotIn("count", self.ok("GET", "/v2/queues?with_count=false").json)
        for query, count in (
            ("", 12),
            ("&limit=1", 12),
            ("&name=q0", 10),
            ("&even=true", 6),
            ("&name=none", 0),
            ("&marker=q09", 12),
        ):
            self.assertEqual(self.ok("GET", f"/v2/queues?with_count=true{query}").json["count"], count, query)
        self.refused(400, "GET", "/v2/queues?with_count=7")

    def test_pages_keep_their_filters(self):
        for number in range(25):
            self.ok("PUT", f"/v2/queues/q{number:02}", {"even": number % 2 == 0}, status=201)
        query = "even=true&name=q&limit=5&detailed=true&with_count=true"
        pages = list(self.walk("/v2/queues", "queues", query))
        self.assertEqual([len(page) for page in pages], [5, 5, 3])
        self.assertTrue(all(queue["metadata"]["even"] for page in pages for queue in page))
        answer = self.ok("GET", f"/v2/queues?{query}").json
        self.assertEqual(self.ok("GET", answer["links"][0]["href"]).json["count"], 13)

    def test_reserved_metadata(self):
        good = {
            "_default_message_ttl": [60, 1209600],
            "_default_message_delay": [0, 900],
            "_max_messages_post_size": [1, 262144],
            "_dead_letter_queue": ["dead", "a.b-c_D9", None],
            "_dead_letter_queue_messages_ttl": [60, None],
            "_max_claim_count": [1, 10**9, None],
            "_enable_encrypt_messages": [True, False],
            "_retry_policy": [{}, {"maximum_delay": 30}],
            "_flavor": ["any", 5],
        }
        bad = {
            "_default_message_ttl": [59, 1209601, "60", True, None, 60.5, []],
            "_default_message_delay": [-1, 901, "1", False, None, 1.0],
            "_max_messages_post_size": [0, 262145, "1", None, True],
            "_dead_letter_queue": ["", "a b", "x" * 65, 5, [], {}, True, "\u00e4"],
            "_dead_letter_queue_messages_ttl": [59, 1209601, "60", False],
            "_max_claim_count": [0, -1, "1", 1.5, True, []],
            "_enable_encrypt_messages": ["true", 1, None, []],
            "_retry_policy": [[], None, {"minimum_delay": "x"}, {"minimum_delay": 5, "maximum_delay": 10}],
        }
        self.ok("PUT", "/v2/queues/q", status=201)
        for name, values in good.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.ok("PUT", "/v2/queues/q", {name: value}, status=204)
                    self.assertEqual(self.ok("GET", "/v2/queues/q").json, {**DEFAULTS, name: value})
                    self.patch([{"op": "add", "path": f"/metadata/{name}", "value": value}])
        self.ok("PUT", "/v2/queues/q", status=204)
        for name, values in bad.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.refused(400, "PUT", "/v2/queues/q", {name: value}, text=name)
                    self.patch_refused(400, [{"op": "add", "path": f"/metadata/{name}", "value": value}], text=name)
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, DEFAULTS)

    # -- PATCH --------------------------------------------------------------------------------------------------------------

    def patch(self, changes, status=200, queue="q", content_type=PATCH_TYPE, **options):
        return self.ok("PATCH", f"/v2/queues/{queue}", status=status, **body(changes, content_type), **options).json

    def patch_refused(self, status, changes, queue="q", content_type=PATCH_TYPE, **options):
        return self.refused(status, "PATCH", f"/v2/queues/{queue}", **body(changes, content_type), **options)

    def test_patch(self):
        self.ok("PUT", "/v2/queues/q", {"a": 1, "b": {"c": 2}}, status=201)
        changes = [
            {"op": "add", "path": "/metadata/new", "value": [1]},
            {"op": "replace", "path": "/metadata/a", "value": None},
            {"op": "remove", "path": "/metadata/b"},
            {"op": "add", "path": "/metadata/x~1y~0z", "value": ""},
        ]
        expected = {**DEFAULTS, "new": [1], "a": None, "x/y~z": ""}
        self.assertEqual(self.patch(changes), expected)
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, expected)
        self.assertEqual(self.patch([]), expected)
        self.assertEqual(
            self.patch([{"op": "remove", "path": "/metadata/a"}], content_type=f"{PATCH_TYPE}; charset=utf-8")["new"], [1]
        )

    def test_patch_of_reserved_names(self):
        self.ok("PUT", "/v2/queues/q", status=201)
        self.assertEqual(self.patch([{"op": "remove", "path": "/metadata/_default_message_ttl"}]), DEFAULTS)
        changed = self.patch([{"op": "replace", "path": "/metadata/_default_message_ttl", "value": 77}])
        self.assertEqual(changed["_default_message_ttl"], 77)
        [message_id] = self.post("x")
        self.assertEqual(self.ok("GET", f"/v2/queues/q/messages/{message_id}").json["ttl"], 77)
        self.assertEqual(self.patch([{"op": "remove", "path": "/metadata/_default_message_ttl"}]), DEFAULTS)

    def test_patch_with_another_content_type(self):
        self.ok("PUT", "/v2/queues/q", status=201)
        for content_type in ("application/json", "application/json-patch+json", "", "text/plain", None):
            answer = self.patch_refused(415, [], content_type=content_type, title="Unsupported Media Type", text=PATCH_TYPE)
            self.assertEqual(answer.headers["accept-patch"], PATCH_TYPE)

    def test_patch_conflicts(self):
        self.ok("PUT", "/v2/queues/q", {"a": 1}, status=201)
        for operation in ({"op": "replace", "path": "/metadata/b", "value": 1}, {"op": "remove", "path": "/metadata/b"}):
            self.patch_refused(409, [{"op": "remove", "path": "/metadata/a"}, operation], title="Conflict", text="'b'")
        self.patch_refused(409, [{"op": "remove", "path": "/metadata/a"}] * 2)
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, {**DEFAULTS, "a": 1}, "all or nothing")

    def test_patch_of_a_queue_that_is_not_there(self):
        self.patch_refused(404, [{"op": "add", "path": "/metadata/a", "value": 1}])
        self.ok("PUT", "/v2/queues/q", status=201, project="other")
        self.patch_refused(404, [])
        self.assertEqual(self.ok("GET", "/v2/queues").json["queues"], [])

    def test_patch_refused(self):
        self.ok("PUT", "/v2/queues/q", {"a": 1}, status=201)
        add = {"op": "add", "path": "/metadata/b", "value": 1}
        documents = [{}, "x", None, 5, [5], [[]], [{}], [add, None]]
        documents += [[{**add, "op": operation}] for operation in (None, "", "move", "copy", "test", "ADD", 5, [], {})]
        documents += [
            [{**add, "path": path}]
            for path in (
                None,
                "",
                "/",
                "b",
                "/b",
                "/metadata",
                "/metadata/",
                "/metadata//",
                "metadata/b",
                "/metadata/b/c",
                "/other/b",
                5,
                [],
            )
        ]
        documents += [[{**add, "path": path}] for path in ("/metadata/b~", "/metadata/~2", "/metadata/b/", "//metadata/b")]
        documents += [
            [{"op": "add", "path": "/metadata/b"}],
            [{"op": "replace", "path": "/metadata/a"}],
            [{"path": "/metadata/a"}],
        ]
        documents += [[{"op": "add"}], [{"op": "remove"}]]
        for document in documents:
            with self.subTest(document=document):
                self.patch_refused(400, document)
        self.refused(400, "PATCH", "/v2/queues/q", headers={"Content-Type": PATCH_TYPE})
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, {**DEFAULTS, "a": 1})

    def test_patches_do_not_grow_the_metadata_beyond_its_limit(self):
        client = self.make_client(max_queue_metadata=200)
        self.ok("PUT", "/v2/queues/q", {"a": "x" * 100}, status=201, client=client)
        self.patch_refused(400, [{"op": "add", "path": "/metadata/b", "value": "x" * 100}], text="at most 200", client=client)
        self.patch([{"op": "replace", "path": "/metadata/a", "value": "y" * 100}], client=client)

    def test_what_broke_no_limit_once_can_be_patched_away(self):
        self.ok("PUT", "/v2/queues/q", {"_default_message_ttl": 5000}, status=201)
        client = self.make_client(max_message_ttl=1000)
        self.patch([{"op": "add", "path": "/metadata/a", "value": 1}], client=client)
        self.patch([{"op": "remove", "path": "/metadata/_default_message_ttl"}], client=client)

    # -- stats, purge, share ------------------------------------------------------------------------------------------------

    def test_stats_of_nothing(self):
        zeros = {"messages": {"claimed": 0, "free": 0, "total": 0}}
        self.assertEqual(self.ok("GET", "/v2/queues/none/stats").json, zeros)
        self.ok("PUT", "/v2/queues/q", status=201)
        self.assertEqual(self.ok("GET", "/v2/queues/q/stats").json, zeros)
        self.assertEqual([queue["name"] for queue in self.ok("GET", "/v2/queues").json["queues"]], ["q"])

    def test_stats(self):
        [oldest] = self.post("a")
        self.clock.now += 100
        newest = self.post("b", "c")[-1]
        self.claim(query="limit=1")
        self.clock.now += 20.5
        stats = self.ok("GET", "/v2/queues/q/stats").json["messages"]
        self.assertEqual((stats["claimed"], stats["free"], stats["total"]), (1, 2, 3))
        self.assertEqual(
            stats["oldest"],
            {"href": f"/v2/queues/q/messages/{oldest}", "age": 120, "ttl": 3600, "created": "2023-11-14T22:13:20Z"},
        )
        self.assertEqual(
            stats["newest"],
            {"href": f"/v2/queues/q/messages/{newest}", "age": 20, "ttl": 3600, "created": "2023-11-14T22:15:00Z"},
        )
        self.ok("GET", stats["newest"]["href"])
        self.assertEqual(self.ok("GET", "/v2/queues/q/stats", project="other").json["messages"]["total"], 0)

    def test_purge(self):
        self.ok("PUT", "/v2/queues/q", {"a": 1}, status=201)
        for document, left in (
            ({"resource_types": ["messages"]}, (0, 1)),
            ({"resource_types": ["subscriptions"]}, (1, 0)),
            ({"resource_types": ["subscriptions", "messages", "messages"]}, (0, 0)),
            ({"resource_types": []}, (1, 1)),
            (None, (0, 0)),
        ):
            with self.subTest(document=document):
                self.post("x")
                self.subscribe()
                answer = self.ok("POST", "/v2/queues/q/purge", document, status=204)
                self.assertEqual(answer.content, b"")
                counts = (
                    len(self.ok("GET", "/v2/queues/q/messages?echo=true").json["messages"]),
                    len(self.ok("GET", "/v2/queues/q/subscriptions").json["subscriptions"]),
                )
                self.assertEqual(counts, left)
                self.ok("POST", "/v2/queues/q/purge", status=204)
        self.assertEqual(self.ok("GET", "/v2/queues/q").json, {**DEFAULTS, "a": 1})
        self.ok("POST", "/v2/queues/none/purge", status=204)

    def test_purge_takes_all(self):
        self.addCleanup(setattr, QueuePurge, "STEP", QueuePurge.STEP)
        QueuePurge.STEP = 4
        self.post(*range(30))
        for number in range(25):
            self.subscribe(number)
        self.subscribe(1, queue="r")
        self.subscribe(1, project="other")
        self.ok("POST", "/v2/queues/q/purge", status=204)
        self.assertEqual(self.ok("GET", "/v2/queues/q/subscriptions").json["subscriptions"], [])
        self.assertEqual(self.ok("GET", "/v2/queues/q/stats").json["messages"]["total"], 0)
        self.assertEqual(len(self.ok("GET", "/v2/queues/r/subscriptions").json["subscriptions"]), 1)
        self.assertEqual(len(self.ok("GET", "/v2/queues/q/subscriptions", project="other").json["subscriptions"]), 1)

    def test_purge_refused(self):
        [message_id] = self.post("x")
        for document in (
            {},
            [],
            "x",
            {"resource_types": None},
            {"resource_types": "messages"},
            {"resource_types": ["messages", "claims"]},
            {"resource_types": ["messages", 5]},
            {"resource_types": [["messages"]]},
            {"resource_types": {"messages": 1}},
        ):
            with self.subTest(document=document):
                self.refused(400, "POST", "/v2/queues/q/purge", document)
        self.refused(400, "POST", "/v2/queues/q/purge", body=b"null")
        self.ok("GET", f"/v2/queues/q/messages/{message_id}")

    def share(self, document):
        return self.ok("POST", "/v2/queues/q/share", document).json

    def test_share(self):
        shared = self.share({})
        self.assertEqual(set(shared), {"paths", "methods", "project", "expires", "signature"})
        self.assertEqual((shared["paths"], shared["methods"], shared["project"]), (["/v2/queues/q/messages"], ["GET"], "p"))
        self.assertEqual(shared["expires"], "2023-11-15T22:13:20", "one day")
        self.assertRegex(shared["signature"], r"\A[0-9a-f]{64}\Z")
        shared = self.share({"paths": ["subscriptions", "claims", "claims", "messages"], "methods": ["POST", "GET", "POST"]})
        self.assertEqual(
            (shared["paths"], shared["methods"]),
            ([f"/v2/queues/q/{resource}" for resource in ("claims", "messages", "subscriptions")], ["GET", "POST"]),
        )
        shared = self.share({"paths": [], "methods": []})
        self.assertEqual((shared["paths"], shared["methods"]), (["/v2/queues/q/messages"], ["GET"]))

    def test_share_until(self):
        for expires, shown in (
            ("2023-11-14T22:13:21", "2023-11-14T22:13:21"),
            ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00"),
            ("2030-01-31T12:00:00.654321", "2030-01-31T12:00:00"),
            ("2030-01-31T12:00:00+02:30", "2030-01-31T09:30:00"),
            ("2030-01-31 12:00", "2030-01-31T12:00:00"),
            ("2030-01-31", "2030-01-31T00:00:00"),
            ("9999-12-31T23:59:59", "9999-12-31T23:59:59"),
        ):
            with self.subTest(expires=expires):
                self.assertEqual(self.share({"expires": expires})["expires"], shown)

    def test_share_refused(self):
        documents = [[], "x", None, 5, {"path": []}, {"project": "other"}, {"paths": ["messages"], "project_id": "p"}]
        documents += [
            {"paths": paths} for paths in (None, "messages", 5, {}, ["stats"], [""], ["messages", None], [[]], ["/v2"])
        ]
        documents += [
            {"methods": methods} for methods in (None, "GET", ["get"], ["GET", "TRACE"], [5], {"GET": 1}, ["GET,POST"])
        ]
        documents += [
            {"expires": expires}
            for expires in (
                None,
                5,
                10**18,
                True,
                [],
                "",
                "x",
                "1900000000",
                "20300131",
                "2023-11-14T22:13:20",
                "2023-11-14T22:13:20Z",
                "1999-01-01",
                "0001-01-01T00:00:00",
                "9999-12-31T23:59:59-00:01",
                "9999-12-31T23:59:59-23:59",
                "0001-01-01T00:00:00+23:59",
                "10000-01-01T00:00:00",
                "2030-13-01",
                "2030-01-31T25:00:00",
                "\uff12\uff10\uff13\uff10-01-01",
            )
        ]
        for document in documents:
            with self.subTest(document=document):
                self.refused(400, "POST", "/v2/queues/q/share", body=json.dumps(document))
        self.refused(400, "POST", "/v2/queues/q/share")
        self.refused(400, "POST", "/v2/queues/q/share", {}, project="a\\b", text="backslash")

    def test_what_was_shared_can_be_used(self):
        [message_id] = self.post("shared")
        shared = self.share({"expires": "2023-11-14T23:00:00"})
        headers = {
            "URL-Signature": shared["signature"],
            "URL-Paths": ",".join(shared["paths"]),
            "URL-Methods": ",".join(shared["methods"]),
            "URL-Expires": shared["expires"],
        }
        listed = self.ok("GET", "/v2/queues/q/messages?echo=true", headers=headers).json["messages"]
        self.assertEqual([message["id"] for message in listed], [message_id])
        self.ok("GET", listed[0]["href"], headers=headers)
        for method, path in (("DELETE", f"/v2/queues/q/messages/{message_id}"), ("GET", "/v2/queues/q"), ("GET", "/v2/queues")):
            self.assertIn(self.call(method, path, headers=headers).status_code, (401, 403, 404))
        self.clock.now += 3600
        self.assertIn(self.call("GET", "/v2/queues/q/messages", headers=headers).status_code, (401, 403, 404))


def body(changes, content_type):
    return {"body": json.dumps(changes), "headers": {"Content-Type": content_type}}


class QueueMemoryTest(OverMemory, QueueTests, ApiCase):
    pass


class QueueSqlTest(OverSql, QueueTests, ApiCase):
    pass
