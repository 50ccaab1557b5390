"""A project sees and touches its own things only, by any id: every route is asked with the ids of another project."""

import dataclasses
import json

from tests.api.case import CLIENT, HOOK, OTHER_CLIENT, SIGNER, ApiCase, OverMemory, OverSql, routes
from zaqar_notify.api.identity import ApiKeys, make_key
from zaqar_notify.api.middleware import Access

Q = "/v2/queues/{queue}"
MESSAGES, CLAIMS, SUBSCRIPTIONS = f"{Q}/messages", f"{Q}/claims", f"{Q}/subscriptions"
MESSAGE, CLAIM, SUBSCRIPTION = f"{MESSAGES}/{{message_id}}", f"{CLAIMS}/{{claim_id}}", f"{SUBSCRIPTIONS}/{{subscription_id}}"
DELIVERY = f"{MESSAGE}/deliveries/{{subscription_id}}"
SECRETS = ("mine-metadata", "mine-body", "mine.example", "mine-option")
PATCH = [{"op": "add", "path": "/metadata/added", "value": 1}]
PATCH_TYPE = "application/openstack-messaging-v2.0-json-patch"


@dataclasses.dataclass(frozen=True)
class Ask:
    query: str = ""
    document: object = None
    statuses: tuple[int, ...] = (200,)
    content_type: str = "application/json"


def ask(*statuses, query="", document=None, content_type="application/json"):
    return Ask(query, document, statuses, content_type)


REQUESTS = {
    ("GET", "/v2/"): [ask(200)],
    ("GET", "/v2/ping"): [ask(204)],
    ("HEAD", "/v2/ping"): [ask(204)],
    ("GET", "/v2/health"): [ask(403)],
    ("GET", "/v2/queues"): [
        ask(200, query="?detailed=true&with_count=true"),
        ask(200, query="?detailed=true&marker=a"),
        ask(200, query="?detailed=true&name={queue}"),
        ask(200, query="?detailed=true&with_count=true&team=mine-metadata"),
    ],
    ("GET", Q): [ask(200)],
    ("GET", f"{Q}/stats"): [ask(200)],
    ("GET", MESSAGES): [
        ask(200, query="?echo=true&include_claimed=true&include_delayed=true"),
        ask(200, query="?echo=true&include_claimed=true&include_delayed=true&marker={before}"),
        ask(200, query="?echo=true&marker={message_id}"),
        ask(404, query="?ids={message_id},{claimed_id}"),
    ],
    ("GET", MESSAGE): [ask(404)],
    ("GET", f"{MESSAGE}/deliveries"): [ask(404), ask(404, query="?marker={subscription_id}"), ask(404, query="?state=pending")],
    ("GET", DELIVERY): [ask(404), ask(404, query="?exchanges=false")],
    ("GET", CLAIM): [ask(404)],
    ("GET", SUBSCRIPTIONS): [ask(200), ask(200, query="?marker={before}"), ask(200, query="?marker={subscription_id}")],
    ("GET", SUBSCRIPTION): [ask(404)],
    ("GET", f"{SUBSCRIPTION}/deliveries"): [ask(404), ask(404, query="?marker={message_id}")],
    ("PATCH", CLAIM): [ask(404, document={"ttl": 43200, "grace": 43200})],
    ("DELETE", CLAIM): [ask(204)],
    ("DELETE", MESSAGE): [ask(204), ask(204, 400, query="?claim_id={claim_id}")],
    ("PATCH", SUBSCRIPTION): [ask(404, document={"ttl": 60}), ask(404, document=HOOK)],
    ("PUT", f"{SUBSCRIPTION}/confirm"): [ask(404, document={"confirmed": False}), ask(404, document={"confirmed": True})],
    ("POST", f"{SUBSCRIPTION}/enable"): [ask(404)],
    ("POST", f"{SUBSCRIPTION}/ping"): [ask(404)],
    ("POST", f"{SUBSCRIPTION}/replay"): [ask(404, document={"since": 0})],
    ("POST", f"{DELIVERY}/redeliver"): [ask(404), ask(404, document={"ttl": 60})],
    ("POST", f"{DELIVERY}/cancel"): [ask(404)],
    ("DELETE", SUBSCRIPTION): [ask(204)],
    ("PATCH", Q): [ask(200, 404, document=PATCH, content_type=PATCH_TYPE)],
    ("POST", SUBSCRIPTIONS): [ask(201, document={"subscriber": "http://mine.example/hook", "ttl": 3600})],
    ("POST", f"{Q}/share"): [ask(200, document={"paths": ["messages", "claims", "subscriptions"], "methods": ["GET"]})],
    ("POST", MESSAGES): [ask(201, document={"messages": [{"body": "theirs"}]})],
    ("POST", CLAIMS): [ask(201, 204, query="?limit=20", document={"ttl": 60, "grace": 60})],
    ("DELETE", MESSAGES): [
        ask(204, query="?ids={message_id},{claimed_id}"),
        ask(204, 400, query="?ids={message_id},{claimed_id}&claim_ids={claim_id}"),
        ask(200, query="?pop=20"),
    ],
    ("PUT", Q): [ask(201, 204, document={"team": "theirs"})],
    ("POST", f"{Q}/purge"): [ask(204), ask(204, document={"resource_types": ["messages", "subscriptions"]})],
    ("DELETE", Q): [ask(204)],
}
"""What is asked of each route, and what may be answered to a stranger. First what looks, then what changes."""


UNSIGNED = {("POST", f"{DELIVERY}/redeliver"), ("POST", f"{DELIVERY}/cancel"), ("POST", f"{SUBSCRIPTION}/replay")}
"""What no pre-signed URL can be made for, although it lies below what is."""


class ByHeaders:
    """[auth] strategy = none"""

    def who(self, project):
        return {"project": project, "headers": {}}


class ByKeys:
    """[auth] strategy = apikey"""

    def make_identity(self, storage):
        return ApiKeys(storage, lifetime=5.0)

    def who(self, project):
        key, record = make_key(project, ["read", "publish", "subscribe"], "", self.clock())
        self.storage.add_key(record)
        owner, owner_record = make_key(project, ["admin"], "", self.clock())
        self.storage.add_key(owner_record)
        # The one that may do most; health, which is about all projects, is an administrator's.
        return {"project": None, "headers": {"X-Auth-Token": owner}, "health": key}


class TenancyTests:
    def setUp(self):
        super().setUp()
        self.owner = self.who("p")
        self.owner.pop("health", None)
        self.ok("PUT", Q.format(queue="q"), {"team": "mine-metadata"}, status=201, **self.owner)
        self.message, self.claimed = self.post("mine-body", "mine-body too", **self.owner)
        claim = self.ok("POST", f"{CLAIMS.format(queue='q')}?limit=1", status=201, **self.owner)
        self.claim = claim.headers["location"].rpartition("/")[2]
        # Messages are claimed in the order in which they were posted.
        self.claimed, self.message = self.message, self.claimed
        document = {"subscriber": "http://mine.example/hook", "options": {"note": "mine-option"}, "ttl": 3600}
        answer = self.ok("POST", SUBSCRIPTIONS.format(queue="q"), document, status=201, **self.owner)
        self.subscription = answer.json["subscription_id"]
        confirm = f"{SUBSCRIPTION}/confirm".format(queue="q", subscription_id=self.subscription)
        self.ok("PUT", confirm, {"confirmed": True}, status=204, **self.owner)

    def ids(self, queue="q"):
        return {
            "queue": queue,
            "message_id": self.message,
            "claimed_id": self.claimed,
            "claim_id": self.claim,
            "subscription_id": self.subscription,
            "before": "0" * len(self.message),
        }

    def mine(self):
        """All that the owner sees."""
        looks = [
            "/v2/queues?detailed=true&with_count=true",
            Q,
            f"{Q}/stats",
            f"{MESSAGES}?echo=true&include_claimed=true",
            MESSAGE,
            f"{MESSAGE}/deliveries",
            DELIVERY,
            CLAIM,
            SUBSCRIPTIONS,
            SUBSCRIPTION,
            f"{SUBSCRIPTION}/deliveries",
        ]
        seen = [self.ok("GET", path.format(**self.ids()), **self.owner).json for path in looks]
        self.assertTrue(all(secret in json.dumps(seen) for secret in SECRETS))
        return seen

    def walk_as(self, stranger, queue="q", but=()):
        """Every route, with the owner's ids below ``queue``. ``stranger``: (method, path) -> what `call` gets."""
        before = self.mine()
        for (method, template), asks in REQUESTS.items():
            if (method, template) in but:
                continue
            for one in asks:
                path = (template + one.query).format(**self.ids(queue))
                with self.subTest(method=method, path=path):
                    self.ask_as(stranger, method, path, one)
                    if method not in ("GET", "HEAD"):
                        self.assertEqual(self.mine(), before)

    def ask_as(self, stranger, method, path, one):
        how = stranger(method, path.partition("?")[0])
        body = {} if one.document is None else {"body": json.dumps(one.document)}
        headers = {**how["headers"], "Content-Type": one.content_type}
        answer = self.call(method, path, project=how["project"], headers=headers, client_id=OTHER_CLIENT, **body)
        self.assertIn(answer.status_code, one.statuses, answer.text)
        for secret in SECRETS:
            self.assertNotIn(secret, answer.text)
            self.assertNotIn(secret, str(answer.headers))
        if method == "GET":
            for own_id in (self.message, self.claimed, self.claim, self.subscription):
                self.assertNotIn(f"/{own_id}", answer.text.replace(path, ""))
                self.assertNotIn(f'"{own_id}"', answer.text)
        if method == "POST" and answer.text and path.endswith("/subscriptions"):
            self.assertNotEqual(answer.json["subscription_id"], self.subscription)

    def as_project(self, project):
        who = self.who(project)
        reader = {"project": who["project"], "headers": {"X-Auth-Token": who["health"]} if "health" in who else {}}
        return lambda method, path: reader if path == "/v2/health" else who

    def test_every_route_is_asked(self):
        served = {
            (name.removeprefix("on_").upper(), template)
            for template, resource in routes(self.client.app)
            if resource.access is Access.ZAQAR  # of the others test_feedback asks
            for name in dir(resource)
            if name.startswith("on_")
        }
        self.assertEqual(served, set(REQUESTS), "a route that this test does not ask could show what is another's")

    def test_another_project(self):
        self.walk_as(self.as_project("other"))

    def test_another_project_sees_and_counts_nothing(self):
        how = self.as_project("other")("GET", "")
        how = {"project": how["project"], "headers": how["headers"]}
        self.assertEqual(self.ok("GET", "/v2/queues?with_count=true", **how).json, {"queues": [], "links": [], "count": 0})
        stats = self.ok("GET", f"{Q}/stats".format(queue="q"), **how).json["messages"]
        self.assertEqual((stats["claimed"], stats["free"], stats["total"]), (0, 0, 0))
        listed = self.ok("GET", f"{MESSAGES}?echo=true&include_claimed=true".format(queue="q"), **how).json
        self.assertEqual(listed["messages"], [])
        self.assertEqual(self.ok("GET", SUBSCRIPTIONS.format(queue="q"), **how).json["subscriptions"], [])
        self.ok("POST", CLAIMS.format(queue="q"), status=204, **how)
        self.assertEqual(self.ok("DELETE", f"{MESSAGES}?pop=20".format(queue="q"), **how).json["messages"], [])

    def test_another_project_with_the_same_names(self):
        stranger = self.as_project("other")
        how = {key: value for key, value in stranger("GET", "").items() if key != "health"}
        self.ok("PUT", Q.format(queue="q"), {"team": "theirs"}, status=201, **how)
        [theirs] = self.post("theirs", **how)
        document = {"subscriber": "http://mine.example/hook"}
        subscribed = self.ok("POST", SUBSCRIPTIONS.format(queue="q"), document, status=201, **how).json["subscription_id"]
        before = self.mine()
        listed = self.ok("GET", f"{MESSAGES}?echo=true".format(queue="q"), **how).json["messages"]
        self.assertEqual([message["id"] for message in listed], [theirs])
        self.refused(404, "GET", MESSAGE.format(queue="q", message_id=theirs), **self.owner)
        self.refused(404, "GET", SUBSCRIPTION.format(queue="q", subscription_id=subscribed), **self.owner)
        self.assertEqual(self.mine(), before)
        # Its own subscription has the owner's URI, which is then no secret.
        self.ok("DELETE", SUBSCRIPTION.format(queue="q", subscription_id=subscribed), status=204, **how)
        self.walk_as(stranger, but={("POST", SUBSCRIPTIONS)})

    def test_a_signature_of_another_project(self):
        def stranger(method, path):
            url = SIGNER.sign([path], [method], "other", self.clock() + 60)
            return self.signed(url, "other")

        own = {key for key in REQUESTS if not key[1].startswith((MESSAGES, CLAIMS, SUBSCRIPTIONS))}
        self.walk_as(stranger, but=own | UNSIGNED)

    def test_the_owners_own_signature_does_not_reach_deliveries(self):
        before = self.mine()
        for method, template in UNSIGNED:
            path = template.format(**self.ids())
            signed = [MESSAGES.format(queue="q"), SUBSCRIPTIONS.format(queue="q")]
            url = SIGNER.sign(signed, [method], "p", self.clock() + 60)
            self.refused(403, method, path, text="pre-signed", **self.signed(url, "p"))
        self.assertEqual(self.mine(), before)

    def test_the_owners_signature_in_the_name_of_another_project(self):
        before = self.mine()
        for (method, template), asks in REQUESTS.items():
            path = template.format(**self.ids())
            url = SIGNER.sign([path], [method], "p", self.clock() + 60)
            how = self.signed(url, "other")
            with self.subTest(method=method, path=path):
                answer = self.call(method, path, asks[0].document, **how)
                self.assertEqual(answer.status_code, 403)
        self.assertEqual(self.mine(), before)

    def signed(self, url, project):
        headers = {
            "URL-Signature": url.signature,
            "URL-Expires": url.expires,
            "URL-Methods": ",".join(url.methods),
            "URL-Paths": ",".join(url.paths),
        }
        return {"project": project, "headers": headers}

    def test_a_share_of_another_project(self):
        how = {key: value for key, value in self.as_project("other")("POST", "").items() if key != "health"}
        document = {"paths": ["messages", "subscriptions", "claims"], "methods": ["GET", "POST", "PUT", "PATCH", "DELETE"]}
        share = self.ok("POST", f"{Q}/share".format(queue="q"), document, **how).json
        self.assertEqual(share["project"], "other")
        headers = {
            "URL-Signature": share["signature"],
            "URL-Expires": share["expires"],
            "URL-Methods": ",".join(share["methods"]),
            "URL-Paths": ",".join(share["paths"]),
        }
        own = {key for key in REQUESTS if not key[1].startswith((MESSAGES, CLAIMS, SUBSCRIPTIONS))}
        self.walk_as(lambda method, path: {"project": "other", "headers": headers}, but=own | UNSIGNED)
        for path in (MESSAGES, SUBSCRIPTIONS, MESSAGE, SUBSCRIPTION, CLAIM):
            self.refused(403, "GET", path.format(**self.ids()), project="p", headers=headers)

    def test_ids_through_another_queue_of_the_same_project(self):
        self.ok("PUT", Q.format(queue="r"), status=201, **self.owner)
        # What concerns whole queues is the owner's own.
        own = {key for key in REQUESTS if not key[1].startswith((MESSAGES, CLAIMS, SUBSCRIPTIONS))}
        self.walk_as(lambda method, path: self.owner, "r", but={*own, ("POST", SUBSCRIPTIONS)})

    def test_projects_that_look_alike(self):
        before = self.mine()
        for project in ("P", "p%", "_", "*", "pp", "p/", "p q"):
            how = {key: value for key, value in self.as_project(project)("GET", "").items() if key != "health"}
            self.refused(404, "GET", MESSAGE.format(**self.ids()), **how)
            self.refused(404, "GET", SUBSCRIPTION.format(**self.ids()), **how)
            self.refused(404, "GET", CLAIM.format(**self.ids()), **how)
            self.assertEqual(self.ok("GET", f"{MESSAGES}?echo=true".format(queue="q"), **how).json["messages"], [])
            self.assertEqual(self.ok("GET", "/v2/queues", **how).json["queues"], [])
            self.ok("DELETE", MESSAGE.format(**self.ids()), status=204, **how)
            self.ok("DELETE", SUBSCRIPTION.format(**self.ids()), status=204, **how)
            self.ok("DELETE", Q.format(queue="q"), status=204, **how)
        self.assertEqual(self.mine(), before)


class TenancyMemoryTest(ByHeaders, OverMemory, TenancyTests, ApiCase):
    pass


class TenancySqlTest(ByHeaders, OverSql, TenancyTests, ApiCase):
    pass


class KeysTests(ByKeys, TenancyTests):
    def test_a_key_of_another_project_in_the_owners_name(self):
        before = self.mine()
        who = self.who("other")
        for (method, template), asks in REQUESTS.items():
            path = template.format(**self.ids())
            with self.subTest(method=method, path=path):
                answer = self.call(method, path, asks[0].document, project="p", headers=who["headers"], client_id=CLIENT)
                self.assertEqual(answer.status_code, 403)
        self.assertEqual(self.mine(), before)


class TenancyKeysMemoryTest(OverMemory, KeysTests, ApiCase):
    pass


class TenancyKeysSqlTest(OverSql, KeysTests, ApiCase):
    pass
