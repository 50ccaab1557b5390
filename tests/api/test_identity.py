import collections
import unittest

import falcon
from falcon import testing

from tests.api.case import CLIENT, SIGNER, ApiCase, OverMemory, OverSql
from zaqar_notify.api.identity import ApiKeys, Caller, KeystoneGate, KeystoneTokens, make_key
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.signing import UrlSigner

Q = "/v2/queues/q"
FORGED = {
    "X-Identity-Status": "Confirmed",
    "X-Service-Identity-Status": "Confirmed",
    "X-Roles": "admin,read,publish",
    "X-Role": "admin",
    "X-User-Id": "root",
    "X-User": "root",
    "X-User-Domain-Name": "Default",
    "X-Tenant-Id": "p",
    "X-Tenant": "p",
    "X-Domain-Id": "default",
    "X-Project-Name": "p",
    "X-Project-Domain-Id": "default",
    "X-Is-Admin-Project": "True",
    "OpenStack-System-Scope": "all",
    "X-Service-Roles": "admin",
}


class NoneTest(ApiCase):
    """[auth] strategy = none"""

    def test_roles_are_what_the_header_says(self):
        self.refused(403, "GET", "/v2/health", title="Forbidden")
        for roles in ("admin", "member, admin", "ADMIN", ",admin,"):
            self.ok("GET", "/v2/health", headers={"X-Roles": roles})
        for roles in ("", ",", "administrator", "not admin"):
            self.refused(403, "GET", "/v2/health", headers={"X-Roles": roles})

    def test_everything_else_needs_none(self):
        self.ok("PUT", Q, status=201)
        self.ok("POST", f"{Q}/share", {})
        self.ok("POST", f"{Q}/purge", status=204)
        self.ok("DELETE", Q, status=204, headers={"X-Roles": "reader"})

    def test_keys_are_not_looked_at(self):
        self.ok("GET", "/v2/queues", headers={"Authorization": "Bearer nonsense", "X-Auth-Token": "zn_x"})

    def test_no_challenge(self):
        self.assertNotIn("www-authenticate", self.refused(403, "GET", "/v2/health").headers)


class Keys:
    """[auth] strategy = apikey"""

    LIFETIME = 5.0

    def make_identity(self, storage):
        self.ticks = getattr(self, "ticks", 1000.0)
        return ApiKeys(storage, lifetime=self.LIFETIME, clock=lambda: self.ticks)

    def key(self, *roles, project="p"):
        text, key = make_key(project, roles, "", self.clock())
        self.storage.add_key(key)
        return text

    def bearing(self, key, **more):
        return {"headers": {"Authorization": f"Bearer {key}", **more}, "project": None}


class ApiKeyTests(Keys):
    def test_either_header(self):
        key = self.key("read")
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"bearer  {key} "},
            {"X-Auth-Token": key},
            {"X-Auth-Token": f" {key} "},
            {"Authorization": "Basic eDp5", "X-Auth-Token": key},
        ):
            with self.subTest(headers=headers):
                self.ok("GET", "/v2/queues", project=None, headers=headers)

    def test_without_a_key_or_with_a_wrong_one(self):
        key = self.key("admin")
        other = self.key("admin", project="other")
        mixed = key[:20] + other[20:]
        for text in (
            "",
            "zn",
            key[:-1],
            key + "0",
            key.upper(),
            f"{key}\x00",
            f"{key}ä",
            mixed,
            f"zn_{'0' * 16}_{'0' * 64}",
            f"zn_{key[3:19]}_{'0' * 64}",
            key[3:],
            "x" * 5000,
        ):
            for headers in ({"Authorization": f"Bearer {text}"}, {"X-Auth-Token": text}, {"Authorization": text}):
                with self.subTest(headers=headers):
                    answer = self.refused(401, "GET", "/v2/queues", project=None, headers=headers, title="Unauthorized")
                    self.assertEqual(answer.headers["www-authenticate"], 'Bearer realm="zaqar-notify"')
                    self.assertNotIn(key[20:], answer.text)
        self.assertEqual(self.refused(401, "GET", "/v2/queues").headers["www-authenticate"], 'Bearer realm="zaqar-notify"')
        self.refused(401, "GET", "/v2/ping")
        self.assertEqual(self.call("HEAD", "/v2/ping").status_code, 401)

    def test_what_is_public_and_what_is_not_there_needs_no_key(self):
        self.assertEqual(self.call("GET", "/", project=None, client_id=None).status_code, 300)
        self.refused(404, "GET", "/nowhere", project=None, client_id=None)

    def test_the_project_is_the_keys(self):
        mine, theirs = self.key("read", "publish"), self.key("read", "publish", project="other")
        self.ok("PUT", Q, status=201, **self.bearing(mine))
        self.assertEqual(len(self.ok("GET", "/v2/queues", **self.bearing(mine)).json["queues"]), 1)
        self.assertEqual(self.ok("GET", "/v2/queues", **self.bearing(theirs)).json["queues"], [])
        self.ok("GET", "/v2/queues", project="p", headers={"X-Auth-Token": mine})
        for project in ("other", "", " ", "P", "pp"):
            self.refused(403, "GET", "/v2/queues", project=project, headers={"X-Auth-Token": mine}, title="Forbidden")

    def test_roles_are_the_keys(self):
        reader, publisher = self.key("read"), self.key("publish")
        self.ok("PUT", Q, status=201, **self.bearing(publisher))
        self.ok("POST", f"{Q}/messages", {"messages": [{"body": 1}]}, status=201, **self.bearing(publisher))
        self.refused(403, "GET", f"{Q}/messages", **self.bearing(publisher), title="Forbidden")
        self.refused(403, "POST", f"{Q}/claims", **self.bearing(publisher))
        self.ok("GET", f"{Q}/messages", **self.bearing(reader))
        self.refused(403, "POST", f"{Q}/messages", {"messages": [{"body": 1}]}, **self.bearing(reader))
        self.refused(403, "DELETE", f"{Q}/messages?pop=1", **self.bearing(reader))
        self.refused(403, "DELETE", Q, **self.bearing(reader))
        self.ok("DELETE", Q, status=204, **self.bearing(self.key("admin")))

    def test_a_header_makes_nobody_an_administrator(self):
        self.refused(403, "GET", "/v2/health", **self.bearing(self.key("read"), **FORGED))
        self.ok("GET", "/v2/health", **self.bearing(self.key("admin")))

    def test_an_unknown_method_is_no_question_of_rights(self):
        for method in ("PATCH", "DELETE"):
            self.refused(405, method, "/v2/queues", **self.bearing(self.key("read")))
        self.ok("OPTIONS", "/v2/queues", **self.bearing(self.key("read")))

    def test_head_follows_get(self):
        self.assertEqual(self.call("HEAD", "/v2/ping", **self.bearing(self.key())).status_code, 204)

    def test_a_revoked_key(self):
        key = self.key("read")
        self.ok("GET", "/v2/queues", **self.bearing(key))
        self.assertTrue(self.storage.revoke_key(key[3:19]))
        self.ok("GET", "/v2/queues", **self.bearing(key))
        self.ticks += self.LIFETIME
        self.refused(401, "GET", "/v2/queues", **self.bearing(key))
        fresh = self.make_client()
        self.refused(401, "GET", "/v2/queues", **self.bearing(key), client=fresh)

    def test_a_key_is_stored_without_its_secret(self):
        secret = self.key("read")[20:]
        self.assertNotIn(secret, repr(self.storage.list_keys()))
        self.assertNotIn(bytes.fromhex(secret), [key.secret_hash for key in self.storage.list_keys()])

    def test_made_keys_differ(self):
        made = {self.key("read") for _ in range(20)}
        self.assertEqual(len({key[3:19] for key in made}), 20)
        self.assertEqual(len({key[20:] for key in made}), 20)
        for key in made:
            self.assertRegex(key, r"\Azn_[0-9a-f]{16}_[0-9a-f]{64}\Z")


class ApiKeyMemoryTest(OverMemory, ApiKeyTests, ApiCase):
    pass


class ApiKeySqlTest(OverSql, ApiKeyTests, ApiCase):
    pass


class Counting:
    """A storage of keys, and how often it was asked for each."""

    def __init__(self):
        self.keys = {}
        self.asked = collections.Counter()
        self.out_of_reach = False

    def get_key(self, key_id):
        if self.out_of_reach:
            raise StorageUnavailable("out of reach")
        self.asked[key_id] += 1
        return self.keys.get(key_id)


class KeyCacheTest(unittest.TestCase):
    def setUp(self):
        self.storage = Counting()
        self.now = 100.0
        self.identity = ApiKeys(self.storage, lifetime=5.0, clock=lambda: self.now)

    def key(self):
        text, key = make_key("p", ["read"], "", 0.0)
        self.storage.keys[key.id] = key
        return text

    def identify(self, text):
        environ = testing.create_environ(headers={"X-Auth-Token": text})
        return self.identity.identify(falcon.Request(environ))

    def refuse(self, text):
        with self.assertRaises(Exception) as caught:
            self.identify(text)
        self.assertEqual(caught.exception.status, 401)

    def test_a_key_is_read_once_in_its_lifetime(self):
        key = self.key()
        for _ in range(5):
            self.assertEqual(self.identify(key), Caller("p", "apikey", ("read",), key[3:19]))
        self.refuse(key[:-64] + "0" * 64)
        self.assertEqual(self.storage.asked[key[3:19]], 1)
        self.now += 5.0
        self.identify(key)
        self.assertEqual(self.storage.asked[key[3:19]], 2)

    def test_so_is_that_there_is_none(self):
        unknown = f"zn_{'a' * 16}_{'0' * 64}"
        for _ in range(5):
            self.refuse(unknown)
        self.assertEqual(self.storage.asked["a" * 16], 1)
        self.now += 5.0
        self.refuse(unknown)
        self.assertEqual(self.storage.asked["a" * 16], 2)

    def test_a_new_key_works_at_once(self):
        self.assertEqual(self.identify(self.key()).project, "p")

    def test_a_flood_of_unknown_keys_neither_grows_nor_forgets(self):
        key = self.key()
        self.identify(key)
        for number in range(self.identity.MOST_UNKNOWN * 2 + 1):
            self.refuse(f"zn_{number:016x}_{'0' * 64}")
        self.assertLessEqual(len(self.identity._unknown), self.identity.MOST_UNKNOWN)
        self.identify(key)
        self.assertEqual(self.storage.asked[key[3:19]], 1)

    def test_nor_do_many_keys(self):
        self.identity.MOST_KNOWN = 3
        for _ in range(10):
            self.identify(self.key())
            self.assertLessEqual(len(self.identity._known), 3)

    def test_the_storage_is_out_of_reach(self):
        key = self.key()
        self.identify(key)
        self.storage.out_of_reach = True
        self.identify(key)
        self.now += 5.0
        with self.assertRaises(StorageUnavailable):
            self.identify(key)


class SignedTests:
    """Pre-signed requests, under whatever strategy."""

    anybody = {"project": "p"}
    """Somebody who may do anything in the project p."""

    def setUp(self):
        super().setUp()
        self.ok("PUT", Q, status=201, **self.anybody)
        [self.message] = self.post("x", **self.anybody)

    def signed(self, paths=(f"{Q}/messages",), methods=("GET",), *, project="p", signer=SIGNER, ttl=60, **changed):
        url = signer.sign(paths, methods, project, self.clock() + ttl)
        headers = {
            "URL-Signature": url.signature,
            "URL-Expires": url.expires,
            "URL-Methods": ",".join(url.methods),
            "URL-Paths": ",".join(url.paths),
        }
        return {"project": project, "headers": {**headers, **changed}}

    def refuse(self, method, path, document=None, **how):
        self.refused(403, method, path, document, title="Forbidden", text="signature", **how)

    def test_a_share_is_honoured(self):
        document = {"paths": ["messages", "claims"], "methods": ["GET", "POST"]}
        share = self.ok("POST", f"{Q}/share", document, **self.anybody).json
        how = {
            "project": share["project"],
            "headers": {
                "URL-Signature": share["signature"],
                "URL-Expires": share["expires"],
                "URL-Methods": ",".join(share["methods"]),
                "URL-Paths": ",".join(share["paths"]),
            },
        }
        self.assertEqual(len(self.ok("GET", f"{Q}/messages?echo=true", **how).json["messages"]), 1)
        self.ok("GET", f"{Q}/messages/{self.message}", **how)
        self.ok("POST", f"{Q}/messages", {"messages": [{"body": 1}]}, status=201, **how)
        self.ok("POST", f"{Q}/claims", status=201, **how)
        self.refuse("DELETE", f"{Q}/messages/{self.message}", **how)
        self.refuse("GET", f"{Q}/subscriptions", **how)
        self.refuse("GET", Q, **how)
        self.refuse("GET", "/v2/queues", **how)
        self.refuse("GET", "/v2/queues/other/messages", **how)
        self.refuse("POST", f"{Q}/share", document, **how)

    def test_it_expires(self):
        how = self.signed(ttl=60)
        self.ok("GET", f"{Q}/messages", **how)
        self.clock.now += 60
        self.refuse("GET", f"{Q}/messages", **how)

    def test_another_key(self):
        self.refuse("GET", f"{Q}/messages", **self.signed(signer=UrlSigner("other")))

    def test_another_project(self):
        self.refuse("GET", f"{Q}/messages", **{**self.signed(), "project": "other"})
        self.refused(400, "GET", f"{Q}/messages", **{**self.signed(), "project": None})
        found = self.ok("GET", f"{Q}/messages?echo=true", **self.signed(project="other")).json
        self.assertEqual(found["messages"], [])

    def test_a_header_that_is_missing_or_wrong(self):
        for name in ("URL-Signature", "URL-Expires", "URL-Methods", "URL-Paths"):
            for value in ("", "x", "\\n", "ä", "\x00", "," * 1000, None):
                if value is None and name == "URL-Signature":
                    continue
                with self.subTest(name=name, value=value):
                    self.refuse("GET", f"{Q}/messages", **self.signed(**{name: value}))

    def test_it_never_falls_back_to_another_identity(self):
        how = self.anybody
        headers = {**how.get("headers", {}), "URL-Signature": "0" * 64}
        self.refuse("GET", "/v2/queues", **{**how, "headers": headers, "project": "p"})

    def test_headers_make_nobody_more(self):
        self.refuse("GET", "/v2/health", **self.signed(**FORGED))

    def test_a_client_id_is_required(self):
        self.refused(400, "GET", f"{Q}/messages", client_id=None, title="Missing header value", **self.signed())

    def test_but_not_to_confirm(self):
        subscription = f"{Q}/subscriptions/{self.subscribe(**self.anybody)}"
        how = self.signed([f"{subscription}/confirm"], ["PUT"])
        self.ok("PUT", f"{subscription}/confirm", {"confirmed": True}, status=204, client_id=None, **how)
        self.assertTrue(self.ok("GET", subscription, **self.anybody).json["confirmed"])
        self.ok("PUT", f"{subscription}/confirm", {"confirmed": False}, status=204, **how)
        self.refused(400, "PUT", f"{subscription}/confirm", {"confirmed": True}, client_id="no uuid", **how)
        self.refuse("GET", subscription, **how)
        self.refuse("DELETE", subscription, **how)
        other = f"{Q}/subscriptions/{self.subscribe(1, **self.anybody)}"
        self.refuse("PUT", f"{other}/confirm", {"confirmed": True}, client_id=None, **how)
        self.assertFalse(self.ok("GET", other, **self.anybody).json["confirmed"])

    def test_confirming_without_a_signature_needs_a_client_id(self):
        subscription = f"{Q}/subscriptions/{self.subscribe(**self.anybody)}"
        self.refused(400, "PUT", f"{subscription}/confirm", {"confirmed": True}, client_id=None, **self.anybody)


class SignedNoneTest(SignedTests, ApiCase):
    pass


class SignedLoopbackTest(SignedTests, ApiCase):
    loopback_only = True

    def test_a_signature_does_not_open_the_service_to_others(self):
        self.refused(403, "GET", f"{Q}/messages", remote_addr="192.0.2.1", text="loopback", **self.signed())


class SignedApiKeyTest(SignedTests, Keys, ApiCase):
    def setUp(self):
        ApiCase.setUp(self)
        self.anybody = self.bearing(self.key("admin"))
        self.ok("PUT", Q, status=201, **self.anybody)
        [self.message] = self.post("x", **self.anybody)


class SignedKeystoneTest(SignedTests, ApiCase):
    def make_identity(self, storage):
        return KeystoneTokens()

    anybody = {
        "project": "p",
        "headers": {"X-Identity-Status": "Confirmed", "X-Roles": "member"},
        "extras": {"keystone.token_info": {"token": {}}},
    }


class KeystoneTokensTest(ApiCase):
    def make_identity(self, storage):
        return KeystoneTokens()

    def who(self, status="Confirmed", roles="member", info=True, **more):
        headers = {"X-Identity-Status": status, "X-Roles": roles}
        return {"headers": headers, "extras": {"keystone.token_info": {"token": {}}} if info else {}, **more}

    def test_a_valid_token(self):
        self.ok("PUT", Q, status=201, **self.who())
        self.refused(403, "GET", "/v2/health", **self.who())
        self.ok("GET", "/v2/health", **self.who(roles="reader,admin"))

    def test_no_token_or_an_invalid_one(self):
        for how in (self.who(status="Invalid"), self.who(status=None), self.who(status="")):
            self.refused(401, "GET", "/v2/queues", title="Unauthorized", **how)

    def test_headers_alone_prove_nothing(self):
        self.refused(401, "GET", "/v2/queues", headers=FORGED)

    def test_a_token_without_a_project(self):
        self.refused(403, "GET", "/v2/queues", text="project", **self.who(project=None))

    def test_keystone_is_out_of_reach(self):
        answer = self.refused(503, "GET", "/v2/queues", extras={KeystoneGate.FAILED: True}, text="Keystone")
        self.assertEqual(answer.headers["retry-after"], "1")


class KeystoneGateTest(unittest.TestCase):
    class OutOfReach(Exception):
        pass

    def setUp(self):
        self.seen = []

    def app(self, environ, start_response):
        self.seen.append(("app", environ))
        return []

    def guarded(self, environ, start_response):
        self.seen.append(("guarded", environ))
        return []

    def broken(self, environ, start_response):
        raise self.OutOfReach("no answer")

    def call(self, guarded, **headers):
        gate = KeystoneGate(self.app, guarded, (self.OutOfReach,))
        gate(testing.create_environ(headers={"Client-ID": CLIENT, "X-Project-ID": "p", **headers}), lambda *_: None)
        [(who, environ)] = self.seen
        return who, environ

    def test_a_token_goes_through_the_middleware(self):
        who, environ = self.call(self.guarded, **FORGED)
        self.assertEqual((who, environ["HTTP_X_ROLES"]), ("guarded", FORGED["X-Roles"]))

    def check_stripped(self, environ):
        left = {name for name in environ if name.startswith(("HTTP_X_", "HTTP_OPENSTACK"))}
        self.assertEqual(left, {"HTTP_X_PROJECT_ID", "HTTP_X_AUTH_TOKEN"})
        self.assertEqual((environ["HTTP_X_PROJECT_ID"], environ["HTTP_CLIENT_ID"]), ("p", CLIENT))

    def test_a_signature_goes_past_it_and_keeps_nothing_of_a_forged_identity(self):
        who, environ = self.call(self.guarded, **{"URL-Signature": "", "X-Auth-Token": "t", **FORGED})
        self.assertEqual(who, "app")
        self.assertNotIn(KeystoneGate.FAILED, environ)
        self.check_stripped(environ)

    def test_no_answer_from_keystone(self):
        with self.assertLogs("zaqar_notify.api.identity", "WARNING") as logs:
            who, environ = self.call(self.broken, **{"X-Auth-Token": "secret-token", **FORGED})
        self.assertEqual((who, environ[KeystoneGate.FAILED]), ("app", True))
        self.check_stripped(environ)
        self.assertNotIn("secret-token", "".join(logs.output))
