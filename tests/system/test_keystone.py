"""Keystone's tokens over a socket: what clients' libraries do not try."""

import http.client
import unittest

from tests.system.keystone import Keystone
from tests.system.service import HEADERS, WAIT, Service

BARE = {name: value for name, value in HEADERS.items() if name != "X-Project-ID"}
FORGED = {"X-Identity-Status": "Confirmed", "X-Roles": "admin", "X-User-Id": "root", "X-Project-Id": "victim"}


class KeystoneTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.keystone = Keystone(cls.addClassCleanup)
        cls.service = Service(options=cls.keystone.options)
        cls.addClassCleanup(cls.service.close)
        cls.service.start_api()

    def ask(self, method, path, document=None, *, token=None, headers=BARE):
        sent = {**headers, **({"X-Auth-Token": token} if token else {})}
        return self.service.request(method, path, document, sent)

    def test_no_token(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=WAIT)
        self.addCleanup(connection.close)
        connection.request("GET", "/v2/queues", headers=HEADERS)
        answer = connection.getresponse()
        self.assertEqual(answer.status, 401)
        self.assertEqual(answer.headers["WWW-Authenticate"], f'Keystone uri="{self.keystone.url}/v3"')
        self.assertIn(b'"title"', answer.read())
        self.assertRegex(answer.headers["x-openstack-request-id"], "req-")

    def test_a_forged_identity(self):
        self.assertEqual(self.ask("GET", "/v2/queues", headers={**BARE, **FORGED})[0], 401)
        self.assertEqual(self.ask("GET", "/v2/queues", token="nonsense", headers={**BARE, **FORGED})[0], 401)
        token = self.keystone.issue("mine")
        self.assertEqual(self.ask("GET", "/v2/health", token=token, headers={**BARE, **FORGED})[0], 403)
        self.ask("PUT", "/v2/queues/only-mine", token=token, headers={**BARE, **FORGED})
        self.assertEqual(self.ask("GET", "/v2/queues", token=self.keystone.issue("victim"))[1]["queues"], [])

    def test_roles(self):
        self.keystone.roles["boss"] = ("reader", "admin")
        status, answer = self.ask("GET", "/v2/health", token=self.keystone.issue("mine", user="boss"))
        self.assertEqual((status, answer["storage_reachable"]), (200, True))

    def test_a_pre_signed_request_needs_no_token(self):
        token = self.keystone.issue("signing")
        self.ask("POST", "/v2/queues/q/messages", {"messages": [{"body": "signed for"}]}, token=token)
        url = self.ask("POST", "/v2/queues/q/share", {}, token=token)[1]
        signed = {
            "X-Project-ID": url["project"],
            "URL-Signature": url["signature"],
            "URL-Expires": url["expires"],
            "URL-Methods": ",".join(url["methods"]),
            "URL-Paths": ",".join(url["paths"]),
        }
        validated = len(self.keystone.validated)
        path = "/v2/queues/q/messages?echo=true"
        status, answer = self.ask("GET", path, headers={**BARE, **signed})
        self.assertEqual((status, [message["body"] for message in answer["messages"]]), (200, ["signed for"]))
        self.assertEqual(self.ask("GET", path, headers={**BARE, **signed, **FORGED})[0], 403)
        self.assertEqual(self.ask("GET", path, token="nonsense", headers={**BARE, **signed})[0], 200)
        self.assertEqual(self.ask("GET", path, token=token, headers={**BARE, **signed, "URL-Signature": ""})[0], 403)
        self.assertEqual(len(self.keystone.validated), validated)

    def test_what_is_public_stays_so(self):
        self.assertEqual(self.ask("GET", "/", token="nonsense")[0], 300)
        self.assertEqual(self.ask("GET", "/nowhere")[0], 404)

    def test_no_path_or_header_makes_it_fail(self):
        for path in ("/%ff%fe", "/v2/queues/%ff", "/v2/queues/%00", "/v2/queues?limit=%ff"):
            for headers in (BARE, {**BARE, "X-Auth-Token": "\xff\xfe"}, {**BARE, "X-Service-Token": "x"}):
                with self.subTest(path=path, headers=headers):
                    self.assertIn(self.ask("GET", path, headers=headers)[0], (400, 401, 404))


class OutOfReachTest(unittest.TestCase):
    def test_keystone_gives_no_answer(self):
        """Which is no reason to fail: whoever is in the right can come again."""
        keystone = Keystone(self.addCleanup)
        service = Service(self, keystone.options)
        service.start_api()
        token = keystone.issue("mine")
        keystone.close()
        status, answer = service.request("GET", "/v2/queues", headers={**BARE, "X-Auth-Token": token})
        self.assertIn(status, (401, 503), answer)
        self.assertEqual(set(answer), {"title", "description"})
