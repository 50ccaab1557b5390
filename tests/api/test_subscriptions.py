import base64
import dataclasses
import json
import pathlib
import shutil
import tempfile

from tests.api.case import CLIENT, HOOK, SIGNER, ApiCase, OverMemory, OverSql
from zaqar_notify import signing, validation
from zaqar_notify.encryption import Keyring
from zaqar_notify.model import Disabled, MessageKind
from zaqar_notify.storage.base import Closing, Failure, Settlement
from zaqar_notify.validation import MASK

PATH = "/v2/queues/q/subscriptions"
SECRET = signing.make_secret()
OTHER_SECRET = signing.make_secret()


class SubscriptionTests:
    def create(self, document, **options):
        return self.ok("POST", PATH, document, status=201, **options).json

    def stored(self, subscription_id):
        return self.storage.get_subscription("p", "q", subscription_id)

    def test_post_makes_a_secret_and_tells_it_once(self):
        answer = self.ok("POST", PATH, HOOK, status=201)
        self.assertEqual(set(answer.json), {"subscription_id", "secret"})
        self.assertEqual(answer.headers["location"], f"{PATH}/{answer.json['subscription_id']}")
        signing.parse_secret(answer.json["secret"])
        self.assertEqual(self.stored(answer.json["subscription_id"]).secret, answer.json["secret"])
        self.assertEqual([queue["name"] for queue in self.ok("GET", "/v2/queues").json["queues"]], ["q"])

    def test_get(self):
        document = {**HOOK, "ttl": 300, "options": {"a": {"b": 1}, "secret": SECRET}}
        made = self.create(document)
        self.assertEqual(set(made), {"subscription_id"}, "a given secret is not told again")
        self.clock.now += 61.7
        shown = {
            "id": made["subscription_id"],
            "source": "q",
            "subscriber": HOOK["subscriber"],
            "ttl": 300,
            "age": 61,
            "options": {"a": {"b": 1}, "secret": MASK},
            "confirmed": False,
        }
        self.assertEqual(self.ok("GET", f"{PATH}/{made['subscription_id']}").json, shown)
        self.assertEqual(self.ok("GET", PATH).json, {"subscriptions": [shown], "links": []})

    def test_without_ttl_it_does_not_expire(self):
        subscription_id = self.subscribe()
        self.clock.now += 10**9
        self.assertIsNone(self.ok("GET", f"{PATH}/{subscription_id}").json["ttl"])

    def test_default_ttl(self):
        client = self.make_client(default_subscription_ttl=600)
        subscription_id = self.create(HOOK, client=client)["subscription_id"]
        self.assertEqual(self.ok("GET", f"{PATH}/{subscription_id}").json["ttl"], 600)

    def test_expiry(self):
        subscription_id = self.create({**HOOK, "ttl": 60})["subscription_id"]
        self.clock.now += 59.9
        self.ok("GET", f"{PATH}/{subscription_id}")
        self.clock.now += 0.1
        self.refused(404, "GET", f"{PATH}/{subscription_id}")
        self.refused(404, "PATCH", f"{PATH}/{subscription_id}", {"ttl": 60})
        self.refused(404, "POST", f"{PATH}/{subscription_id}/enable")
        self.assertEqual(self.ok("GET", PATH).json["subscriptions"], [])

    def test_post_refused(self):
        documents = [
            [],
            "x",
            5,
            {},
            {"ttl": 60},
            {"subscriber": ""},
            {"subscriber": 5},
            {"subscriber": []},
            {"subscriber": "endpoint"},
            {"subscriber": "http:"},
            {"subscriber": "http://e/\n"},
            {"subscriber": "http://e/" + "x" * 2040},
            {"subscriber": "http://forbidden/"},
            {**HOOK, "ttl": 59},
            {**HOOK, "ttl": "60"},
            {**HOOK, "ttl": 60.0},
            {**HOOK, "ttl": True},
            {**HOOK, "ttl": 10**12},
            {**HOOK, "options": []},
            {**HOOK, "options": None},
            {**HOOK, "options": "x"},
            {**HOOK, "options": {"refused": 1}},
            {**HOOK, "options": {"secret": "x"}},
            {**HOOK, "options": {"secret": 5}},
            {**HOOK, "options": {"secret": MASK}},
            {**HOOK, "options": {"_retry_policy": {"minimum_delay": "x"}}},
        ]
        for document in documents:
            with self.subTest(document=document):
                self.refused(400, "POST", PATH, document)
        self.refused(400, "POST", PATH)
        self.refused(400, "POST", PATH, {"subscriber": "nobody:x"}, title="Unknown subscriber scheme")
        self.refused(400, "POST", PATH, {"subscriber": "trust+http://e/"}, text="Keystone")
        self.refused(400, "POST", PATH, {**HOOK, "options": {"a": "x" * 65536}}, text="at most 65536")
        self.assertEqual(self.ok("GET", PATH).json["subscriptions"], [])
        self.assertEqual(self.ok("GET", "/v2/queues").json["queues"], [])

    def test_further_addresses_are_checked(self):
        good = {"fallback": ["http://endpoint.example/2", "http://endpoint.example/3"], "callback": "http://endpoint.example/4"}
        made = self.create({**HOOK, "options": good})
        one = f"{PATH}/{made['subscription_id']}"
        shown = self.ok("GET", one).json["options"]
        self.assertEqual(shown, {**good, "secret": MASK})
        wrong = [
            ({"fallback": ["http://endpoint.example/2", "nobody:x"]}, "options.fallback[1]: No notifier serves nobody"),
            ({"fallback": ["http://forbidden/"]}, "options.fallback[0]: This host is not allowed."),
            ({"fallback": ["http://endpoint.example/2", HOOK["subscriber"]]}, "options.fallback[1]"),
            ({"fallback": ["http://endpoint.example/2"] * 2}, "options.fallback[1]"),
            ({"fallback": []}, "options.fallback"),
            ({"callback": "http://forbidden/"}, "options.callback: This host is not allowed."),
            ({"callback": "nobody:x"}, "options.callback"),
            ({"window": {"seconds": 86401}}, "options.window"),
        ]
        for options, text in wrong:
            with self.subTest(options=options):
                self.refused(400, "POST", PATH, {**HOOK, "options": options}, text=text)
                self.refused(400, "PATCH", one, {"options": options}, text=text)
        # Also when it is the subscriber alone that changes.
        self.refused(400, "PATCH", one, {"subscriber": "http://endpoint.example/3"}, text="options.fallback[1]")
        self.assertEqual(self.ok("GET", one).json["options"], shown)
        self.ok("PATCH", one, {"subscriber": "http://endpoint.example/5"}, status=204)
        self.ok("PATCH", one, {"options": {}}, status=204)

    def test_what_an_older_version_took_for_an_unknown_option_stops_no_other_change(self):
        asked = validation.subscription(HOOK, project="p", queue="q", limits=self.limits, now=self.clock.now)
        old = self.storage.subscribe(
            dataclasses.replace(asked, options={"fallback": 5, "callback": [], "window": 5})
        ).subscription
        self.ok("PATCH", f"{PATH}/{old.id}", {"ttl": 600}, status=204)
        self.refused(400, "PATCH", f"{PATH}/{old.id}", {"subscriber": "http://endpoint.example/5"}, text="options.fallback")

    def test_a_refused_secret_is_not_repeated(self):
        for secret in ("whsec_" + "A" * 200, "topsecret-topsecret"):
            answer = self.refused(400, "POST", PATH, {**HOOK, "options": {"secret": secret}})
            self.assertNotIn(secret[6:20], answer.text)

    def test_post_again(self):
        made = self.create({**HOOK, "ttl": 300, "options": {"a": 1}})
        again = self.create({**HOOK, "ttl": 600, "options": {"b": 2}})
        self.assertEqual(again["subscription_id"], made["subscription_id"])
        self.assertNotEqual(again["secret"], made["secret"])
        shown = self.ok("GET", f"{PATH}/{made['subscription_id']}").json
        self.assertEqual((shown["ttl"], shown["options"]), (600, {"b": 2, "secret": MASK}))
        self.assertEqual(len(self.ok("GET", PATH).json["subscriptions"]), 1)

    def test_post_again_keeps_a_secret_that_the_client_gave(self):
        made = self.create({**HOOK, "options": {"secret": SECRET}})
        again = self.create(HOOK)
        self.assertEqual(again, {"subscription_id": made["subscription_id"]})
        self.assertEqual(self.stored(made["subscription_id"]).secret, SECRET)
        given = self.create({**HOOK, "options": {"secret": OTHER_SECRET}})
        self.assertEqual(given, {"subscription_id": made["subscription_id"]})
        self.assertEqual(self.stored(made["subscription_id"]).secret, OTHER_SECRET)

    def test_post_again_over_a_confirmed_one(self):
        asked = validation.subscription(HOOK, project="p", queue="q", limits=self.limits, now=self.clock.now)
        confirmed = self.storage.subscribe(dataclasses.replace(asked, confirmed=True)).subscription
        self.refused(409, "POST", PATH, {**HOOK, "ttl": 60}, title="Conflict")
        shown = self.ok("GET", f"{PATH}/{confirmed.id}").json
        self.assertEqual((shown["confirmed"], shown["ttl"]), (True, None))

    def test_secrets_are_in_no_other_answer(self):
        secret = self.create(HOOK)["secret"]
        self.post("x")
        subscription_id = self.ok("GET", PATH).json["subscriptions"][0]["id"]
        one = f"{PATH}/{subscription_id}"
        answers = [
            self.ok("GET", PATH),
            self.ok("GET", one),
            self.ok("PATCH", one, {"ttl": 60}, status=204),
            self.refused(400, "PATCH", one, {"ttl": 1}),
            self.ok("GET", one + "/deliveries"),
            self.ok("POST", one + "/enable", status=204),
            self.ok("GET", "/v2/queues?detailed=true"),
            self.ok("GET", "/v2/queues/q/messages?echo=true"),
            self.ok("DELETE", one, status=204),
        ]
        for answer in answers:
            self.assertNotIn(secret[6:], answer.text + repr(answer.headers))

    def test_patch(self):
        subscription_id = self.create({**HOOK, "ttl": 300, "options": {"a": 1}})["subscription_id"]
        one = f"{PATH}/{subscription_id}"
        self.clock.now += 100
        answer = self.ok("PATCH", one, {"subscriber": "http://endpoint.example/new"}, status=204)
        self.assertEqual((answer.content, answer.headers["location"]), (b"", one))
        shown = self.ok("GET", one).json
        self.assertEqual((shown["subscriber"], shown["ttl"], shown["age"]), ("http://endpoint.example/new", 300, 100))
        self.assertEqual(shown["options"], {"a": 1, "secret": MASK})
        self.ok("PATCH", one, {"options": {"b": 2}, "unknown": 1}, status=204)
        self.assertEqual(self.ok("GET", one).json["options"], {"b": 2, "secret": MASK})
        self.ok("PATCH", one, {"ttl": 400}, status=204)
        shown = self.ok("GET", one).json
        self.assertEqual((shown["ttl"], shown["age"]), (400, 0))
        self.ok("PATCH", one, {"ttl": None}, status=204)
        self.clock.now += 10**6
        self.assertIsNone(self.ok("GET", one).json["ttl"])

    def test_patch_of_the_secret(self):
        made = self.create(HOOK)
        one = f"{PATH}/{made['subscription_id']}"
        for options in ({}, {"secret": MASK}, {"a": 1}, self.ok("GET", one).json["options"]):
            self.ok("PATCH", one, {"options": options}, status=204)
            self.assertEqual(self.stored(made["subscription_id"]).secret, made["secret"])
        self.ok("PATCH", one, {"options": {"secret": SECRET}}, status=204)
        stored = self.stored(made["subscription_id"])
        self.assertEqual((stored.secret, stored.secret_made, dict(stored.options)), (SECRET, False, {}))

    def test_patch_refused(self):
        made = self.create({**HOOK, "ttl": 300, "options": {"a": 1}})
        one = f"{PATH}/{made['subscription_id']}"
        before = self.ok("GET", one).json
        documents = [
            [],
            {},
            {"confirmed": True},
            {"ttl": 59},
            {"ttl": "60"},
            {"ttl": 10**12},
            {"subscriber": ""},
            {"subscriber": None},
            {"subscriber": "nobody:x"},
            {"subscriber": "http://forbidden/"},
            {"options": []},
            {"options": None},
            {"options": {"refused": 1}},
            {"options": {"secret": "x"}},
            {"ttl": 600, "options": {"secret": None}},
            {"options": {"a": "x" * 65536}},
        ]
        for document in documents:
            with self.subTest(document=str(document)[:60]):
                self.refused(400, "PATCH", one, document)
        self.refused(400, "PATCH", one)
        self.assertEqual(self.ok("GET", one).json, before)

    def test_patch_checks_what_comes_of_it(self):
        # The options alone are fine, and the subscriber alone would be: the whole is judged.
        made = self.create(HOOK)
        self.storage.update_subscription("p", "q", made["subscription_id"], {"options": {"refused": 1}})
        self.refused(400, "PATCH", f"{PATH}/{made['subscription_id']}", {"subscriber": "http://endpoint.example/new"})

    def test_patch_conflict(self):
        first, second = self.subscribe(1), self.subscribe(2)
        self.refused(409, "PATCH", f"{PATH}/{second}", {"subscriber": "http://endpoint.example/1"}, title="Conflict")
        self.ok("PATCH", f"{PATH}/{first}", {"subscriber": "http://endpoint.example/1"}, status=204)

    def test_delete(self):
        subscription_id = self.subscribe()
        for _ in range(2):
            self.assertEqual(self.ok("DELETE", f"{PATH}/{subscription_id}", status=204).content, b"")
        self.refused(404, "GET", f"{PATH}/{subscription_id}")
        self.assertEqual(self.ok("GET", PATH).json, {"subscriptions": [], "links": []})

    def test_deleting_the_queue_keeps_subscriptions(self):
        subscription_id = self.subscribe()
        self.ok("DELETE", "/v2/queues/q", status=204)
        self.ok("GET", f"{PATH}/{subscription_id}")

    def test_disabled_and_enabled_again(self):
        subscription_id = self.subscribe()
        one = f"{PATH}/{subscription_id}"
        self.assertNotIn("disabled", self.ok("GET", one).json)
        disabled = Disabled("The endpoint answered 410 Gone.", self.clock.now)
        self.storage.update_subscription("p", "q", subscription_id, {"disabled": disabled})
        expected = {"reason": "The endpoint answered 410 Gone.", "at": self.clock.now, "enable_by": "owner"}
        self.assertEqual(self.ok("GET", one).json["disabled"], expected)
        self.assertEqual(self.ok("GET", PATH).json["subscriptions"][0]["disabled"], expected)
        for _ in range(2):
            self.assertEqual(self.ok("POST", one + "/enable", status=204).content, b"")
            self.assertNotIn("disabled", self.ok("GET", one).json)

    def test_what_an_operator_disabled(self):
        subscription_id = self.subscribe()
        disabled = Disabled("abuse", self.clock.now, "operator")
        self.storage.update_subscription("p", "q", subscription_id, {"disabled": disabled})
        self.refused(403, "POST", f"{PATH}/{subscription_id}/enable", text="operator")
        self.assertEqual(self.ok("GET", f"{PATH}/{subscription_id}").json["disabled"], dataclasses.asdict(disabled))

    def failing(self, subscription_id, at, **failure):
        [message_id] = self.post("x")
        taken = self.storage.take(self.storage.join(), 30.0, entries=10, rows=0)
        limits = {"most_strikes": 3, "longest": 100.0, "reason_strikes": "wrong", "reason_longest": "too long"}
        failed = Failure(at, **{"strike": False, **limits, **failure})
        settlement = Settlement(message_id, subscription_id, taken.token, from_row=False, due_at=at + 5, failure=failed)
        self.assertEqual(0, self.storage.settle([settlement], [Closing(message_id, taken.token)]))

    def test_what_fails_is_shown(self):
        subscription_id = self.subscribe()
        path = f"{PATH}/{subscription_id}"
        self.assertFalse({"strikes", "failing_since"} & self.ok("GET", path).json.keys())
        since = self.clock.now
        self.failing(subscription_id, since)
        shown = self.ok("GET", path).json
        self.assertEqual((shown["failing_since"], shown.get("strikes")), (since, None))
        self.failing(subscription_id, since + 7, strike=True)
        shown = self.ok("GET", path).json
        self.assertEqual((shown["failing_since"], shown["strikes"]), (since, 1))
        self.assertEqual(self.ok("GET", PATH).json["subscriptions"], [shown])
        self.failing(subscription_id, since + 8, strike=True, most_strikes=2)
        self.assertEqual(self.ok("GET", path).json["disabled"]["reason"], "wrong")
        self.ok("POST", f"{path}/enable", status=204)
        self.assertFalse({"strikes", "failing_since", "disabled"} & self.ok("GET", path).json.keys())

    def test_ping(self):
        subscription_id = self.subscribe()
        self.subscribe(1)
        self.wakes.clear()
        answer = self.ok("POST", f"{PATH}/{subscription_id}/ping", status=202)
        self.assertEqual(set(answer.json), {"message_id"})
        message_id = answer.json["message_id"]
        self.assertEqual(answer.headers["location"], f"/v2/queues/q/messages/{message_id}/deliveries/{subscription_id}")
        self.assertEqual(self.ok("GET", answer.headers["location"]).json["state"], "pending")
        self.assertEqual(self.wakes, [0], "readers do not see it")
        taken = self.storage.take(self.storage.join(), 30.0, entries=10, rows=10)
        self.assertEqual([(row.message_id, row.subscription_id) for row in taken.rows], [(message_id, subscription_id)])
        self.assertEqual(list(taken.entries), [])
        message = self.storage.load([message_id], []).messages[message_id]
        self.assertEqual((message.kind, message.body, message.ttl), (MessageKind.TEST, {"test": True}, 3600))

    def test_ping_of_nobody(self):
        for unknown in ("0" * 16, "x", "%00", "%ff"):
            self.refused(404, "POST", f"{PATH}/{unknown}/ping")
        self.assertEqual(self.wakes, [])

    def test_pages_hold_everything_once(self):
        ids = [self.subscribe(number) for number in range(25)]
        for query, sizes in (("", [10, 10, 5]), ("limit=20", [20, 5]), ("limit=5", [5] * 5)):
            pages = list(self.walk(PATH, "subscriptions", query))
            self.assertEqual([len(page) for page in pages], sizes, query)
            self.assertEqual([entry["id"] for page in pages for entry in page], ids)

    def test_paging_refused(self):
        for query in ("limit=0", "limit=21", "limit=x", "marker=nonsense", "marker=%00"):
            with self.subTest(query=query):
                self.refused(400, "GET", f"{PATH}?{query}")

    def test_unknown_ids(self):
        for subscription_id in ("0" * 16, "x", "f" * 40, "%00", "%ff", "-1"):
            one = f"{PATH}/{subscription_id}"
            with self.subTest(subscription_id=subscription_id):
                self.refused(404, "GET", one)
                self.refused(404, "PATCH", one, {"ttl": 60})
                self.refused(404, "POST", one + "/enable")
                self.ok("DELETE", one, status=204)

    def test_confirm_without_being_asked(self):
        one = f"{PATH}/{self.subscribe()}"
        for confirmed in (True, True, False, True):
            answer = self.ok("PUT", f"{one}/confirm", {"confirmed": confirmed}, status=204)
            self.assertEqual((answer.content, answer.headers["location"]), (b"", f"{one}/confirm"))
            self.assertIs(self.ok("GET", one).json["confirmed"], confirmed)
        self.assertEqual(self.deliveries(one), [], "nobody is told where no confirmation is required")
        self.refused(409, "POST", PATH, {"subscriber": "http://endpoint.example/0"})

    def deliveries(self, one):
        return self.ok("GET", f"{one}/deliveries").json["deliveries"]

    def test_confirm_refused(self):
        one = f"{PATH}/{self.subscribe()}"
        for document in ([], {}, "x", True, None, *({"confirmed": value} for value in (None, 1, 0, "true", [], {}))):
            with self.subTest(document=document):
                self.refused(400, "PUT", f"{one}/confirm", body=json.dumps(document))
        self.refused(400, "PUT", f"{one}/confirm")
        self.assertIs(self.ok("GET", one).json["confirmed"], False)

    def test_confirm_unknown(self):
        one = f"{PATH}/{self.subscribe()}"
        for unknown in ("0" * 16, "x", "f" * 40, "%00", "%ff"):
            self.refused(404, "PUT", f"{PATH}/{unknown}/confirm", {"confirmed": True})
        self.refused(404, "PUT", f"{one}/confirm", {"confirmed": True}, project="other")
        self.refused(404, "PUT", f"{one.replace('/q/', '/r/')}/confirm", {"confirmed": True})
        self.assertIs(self.ok("GET", one).json["confirmed"], False)


class ConfirmationTests:
    """Where a subscriber has to confirm."""

    require_confirmation = True
    public_url = "https://notify.example.org/api/"

    def test_nobody_is_sent_to_who_was_not_asked(self):
        options = {"fallback": ["http://endpoint.example/2"]}
        self.refused(400, "POST", PATH, {**HOOK, "options": options}, text="require_confirmation")
        one = f"{PATH}/{self.subscribe()}"
        self.refused(400, "PATCH", one, {"options": options}, text="require_confirmation")
        self.ok("PATCH", one, {"options": {"callback": "http://endpoint.example/2"}}, status=204)

    SIGNED = ("URL-Signature", "URL-Methods", "URL-Paths", "URL-Expires", "X-Project-ID")

    def requested(self):
        """What the subscribers are sent, for one worker that takes all of it."""
        worker = self.storage.join()
        taken = self.storage.take(worker, 30.0, entries=100, rows=100)
        rows = [(row.message_id, row.subscription_id) for row in taken.rows]
        loaded = self.storage.load([message for message, _ in rows], [])
        self.storage.settle([Settlement(*row, taken.token, True) for row in rows])
        return [(of, loaded.messages[message]) for message, of in rows]

    def answer(self, request, body, **changed):
        headers = {name: request[name] for name in self.SIGNED} | changed
        return self.call(
            "PUT", request["URL-Paths"], body=json.dumps(request[body]), headers=headers, client_id=None, project=None
        )

    def test_the_request_to_confirm(self):
        subscription_id = self.subscribe()
        self.assertEqual(len(self.wakes), 1)
        [(of, message)] = self.requested()
        self.assertEqual((of, message.kind, message.ttl, message.queue), (subscription_id, MessageKind.CONFIRMATION, 3600, "q"))
        request = message.body
        path = f"{PATH}/{subscription_id}/confirm"
        signed = SIGNER.sign([path], ["PUT"], "p", self.clock.now + 3600)
        self.assertIn(" q", request.pop("Message"))
        self.assertEqual(
            request,
            {
                "Message_Type": "SubscriptionConfirmation",
                "queue_name": "q",
                "URL-Signature": signed.signature,
                "URL-Methods": "PUT",
                "URL-Paths": path,
                "URL-Expires": "2023-11-14T23:13:20",
                "X-Project-ID": "p",
                "SubscribeBody": {"confirmed": True},
                "UnsubscribeBody": {"confirmed": False},
                "WSGISubscribeURL": f"https://notify.example.org/api{path}",
            },
        )
        self.assertEqual(message.body_json, json.dumps(message.body, separators=(",", ":")).encode(), "compact")
        self.assertEqual(self.ok("GET", "/v2/queues/q/messages?echo=true&include_delayed=true").json["messages"], [])

    def test_without_a_public_url_there_is_no_link(self):
        self.public_url = None
        self.client = self.make_client()
        self.subscribe()
        [(_, message)] = self.requested()
        self.assertNotIn("WSGISubscribeURL", message.body)

    def test_confirmed_and_left(self):
        one = f"{PATH}/{self.subscribe()}"
        [(_, asked)] = self.requested()
        self.assertEqual(self.answer(asked.body, "SubscribeBody").status_code, 204)
        self.assertIs(self.ok("GET", one).json["confirmed"], True)
        self.assertEqual((self.requested(), len(self.wakes)), ([], 1))
        self.assertEqual(self.answer(asked.body, "UnsubscribeBody").status_code, 204)
        self.assertIs(self.ok("GET", one).json["confirmed"], False)
        self.assertEqual(len(self.wakes), 2)
        [(_, left)] = self.requested()
        self.assertEqual((left.kind, left.body["Message_Type"]), (MessageKind.CONFIRMATION, "UnsubscribeConfirmation"))
        self.assertNotEqual(left.body["Message"], asked.body["Message"])
        self.assertEqual(self.answer(left.body, "SubscribeBody").status_code, 204)
        self.assertIs(self.ok("GET", one).json["confirmed"], True)

    def test_the_other_headers_are_the_subscribers_library_s(self):
        one = f"{PATH}/{self.subscribe()}"
        [(_, asked)] = self.requested()
        for headers in (
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "text/plain", "Accept": "text/html"},
            {"Client-ID": CLIENT},
        ):
            self.ok("PUT", f"{one}/confirm", {"confirmed": False}, status=204)
            self.assertEqual(self.answer(asked.body, "SubscribeBody", **headers).status_code, 204, headers)
            self.assertIs(self.ok("GET", one).json["confirmed"], True)
        self.assertEqual(self.answer(asked.body, "SubscribeBody", **{"Client-ID": "x"}).status_code, 400)
        refused = self.call(
            "PUT", f"{one}/confirm", body='{"confirmed": true}', headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        self.assertEqual(refused.status_code, 400, "not signed")

    def test_subscribing_again_asks_again(self):
        first = self.subscribe()
        self.clock.now += 5
        self.assertEqual(self.subscribe(), first)
        self.assertEqual([of for of, _ in self.requested()], [first, first])
        self.ok("PUT", f"{PATH}/{first}/confirm", {"confirmed": True}, status=204)
        self.refused(409, "POST", PATH, {"subscriber": "http://endpoint.example/0"})
        self.assertEqual(self.requested(), [])

    def test_another_subscriber_is_asked_before_it_gets_anything(self):
        one = f"{PATH}/{self.subscribe()}"
        self.ok("PUT", f"{one}/confirm", {"confirmed": True}, status=204)
        self.requested()
        wakes = len(self.wakes)
        for document in ({"ttl": 600}, {"subscriber": "http://endpoint.example/0", "options": {}}):
            self.ok("PATCH", one, document, status=204)
        self.assertIs(self.ok("GET", one).json["confirmed"], True)
        self.assertEqual((self.requested(), len(self.wakes)), ([], wakes))
        self.ok("PATCH", one, {"subscriber": "http://endpoint.example/1"}, status=204)
        self.assertIs(self.ok("GET", one).json["confirmed"], False)
        self.assertEqual(len(self.wakes), wakes + 1)
        [(_, asked)] = self.requested()
        self.assertEqual(asked.body["Message_Type"], "SubscriptionConfirmation")
        self.assertEqual(self.answer(asked.body, "SubscribeBody").status_code, 204)
        self.assertIs(self.ok("GET", one).json["confirmed"], True)

    def test_ping_waits_for_the_confirmation(self):
        path = f"{PATH}/{self.subscribe()}"
        self.requested()
        self.refused(409, "POST", f"{path}/ping")
        self.assertEqual(self.requested(), [])
        self.ok("PUT", f"{path}/confirm", {"confirmed": True}, status=204)
        self.ok("POST", f"{path}/ping", status=202)
        self.assertEqual(len(self.requested()), 1)
        self.refused(404, "POST", f"{PATH}/{'0' * 16}/ping")

    def test_what_is_refused_asks_nobody(self):
        self.refused(400, "POST", PATH, {"subscriber": "nobody:x"})
        self.assertEqual((self.wakes, self.requested()), ([], []))

    def test_answers_that_do_not_count(self):
        one, other = f"{PATH}/{self.subscribe(1)}", f"{PATH}/{self.subscribe(2)}"
        first, second = (message.body for _, message in self.requested())
        forged = [
            (first, {"URL-Signature": second["URL-Signature"]}),
            (first, {"URL-Signature": "0" * 64}),
            (first, {"X-Project-ID": "other"}),
            (first, {"URL-Expires": "2033-01-01T00:00:00"}),
            (first, {"URL-Methods": "PUT,GET"}),
            (first, {"URL-Paths": f"{PATH}"}),
            ({**first, "URL-Paths": second["URL-Paths"]}, {}),
        ]
        for request, changed in forged:
            with self.subTest(changed=changed):
                self.assertIn(self.answer(request, "SubscribeBody", **changed).status_code, (400, 401, 403, 404))
        self.clock.now += 3600
        self.assertIn(self.answer(first, "SubscribeBody").status_code, (401, 403, 404))
        for path in (one, other):
            self.assertIs(self.ok("GET", path).json["confirmed"], False)

    def test_a_project_that_cannot_be_signed(self):
        self.refused(400, "POST", PATH, HOOK, project="a\\b", text="backslash")
        self.assertEqual(self.ok("GET", PATH, project="a\\b").json["subscriptions"], [])
        self.assertEqual(self.wakes, [])


class ConfirmationMemoryTest(OverMemory, ConfirmationTests, ApiCase):
    pass


class ConfirmationSqlTest(OverSql, ConfirmationTests, ApiCase):
    pass


class LostKeyTest(OverSql, ApiCase):
    def make_storage(self, clock):
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        shutil.copytree(self._empty.name, self.directory, dirs_exist_ok=True)
        return self.open(self.directory, clock=clock)

    def test_the_listing_comes_and_a_new_secret_heals(self):
        lost = self.ok("POST", PATH, HOOK, status=201).json["subscription_id"]
        self.storage = self.open(self.directory, clock=self.clock, keyring=Keyring([base64.b64encode(b"n" * 32).decode()]))
        self.addCleanup(self.storage.close)
        self.client = self.make_client()
        kept = self.subscribe(1)
        with self.assertLogs("zaqar_notify.storage", "WARNING") as logged:
            shown = self.ok("GET", PATH).json["subscriptions"]
        self.assertEqual([(one["id"], one["options"]) for one in shown], [(lost, {"secret": MASK}), (kept, {"secret": MASK})])
        self.assertEqual(len(logged.output), 1)
        self.ok("PATCH", f"{PATH}/{lost}", {"options": {"secret": MASK}, "ttl": 600}, status=204)
        self.assertTrue(self.storage.get_subscription("p", "q", lost).sealed)
        self.ok("PATCH", f"{PATH}/{lost}", {"options": {"secret": SECRET}}, status=204)
        healed = self.storage.get_subscription("p", "q", lost)
        self.assertEqual((healed.secret, healed.sealed), (SECRET, False))


class SubscriptionMemoryTest(OverMemory, SubscriptionTests, ApiCase):
    pass


class SubscriptionSqlTest(OverSql, SubscriptionTests, ApiCase):
    pass
