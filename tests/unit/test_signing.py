import base64
import datetime
import hmac
import unittest

import standardwebhooks

from zaqar_notify import signing
from zaqar_notify.errors import InvalidRequest

KEY = b"0123456789abcdef01234567"
NOW = 1_700_000_000


def secret_of(size: int) -> str:
    return "whsec_" + base64.b64encode(b"k" * size).decode()


class SecretTest(unittest.TestCase):
    def test_made_secrets_differ_and_parse(self) -> None:
        first, second = signing.make_secret(), signing.make_secret()
        self.assertNotEqual(first, second)
        self.assertEqual(32, len(signing.parse_secret(first)))

    def test_sizes(self) -> None:
        for size in (24, 32, 64):
            with self.subTest(size):
                self.assertEqual(b"k" * size, signing.parse_secret(secret_of(size)))
        for size in (0, 23, 65):
            with self.subTest(size), self.assertRaises(InvalidRequest):
                signing.parse_secret(secret_of(size))

    def test_bad_secrets_are_refused_and_not_shown(self) -> None:
        good = base64.b64encode(b"k" * 32).decode()
        for secret in (
            "",
            good,
            "whsec-" + good,
            "whsec_ä" + good,
            "whsec_" + good[:-1],
            "whsec_" + good + "\n",
            "whsec_-_" + good,
            5,
        ):
            with self.subTest(secret), self.assertRaises(InvalidRequest) as caught:
                signing.parse_secret(secret)  # type: ignore[arg-type]
            self.assertNotIn(good[:8], str(caught.exception))


class SignatureTest(unittest.TestCase):
    def test_the_example_of_the_specification(self) -> None:
        key = signing.parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        signature = signing.sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        self.assertEqual("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", signature)

    def test_the_reference_library_verifies(self) -> None:
        secret = signing.make_secret()
        now = int(datetime.datetime.now(tz=datetime.UTC).timestamp())
        body = '{"body": "grün"}'.encode()
        headers = {
            "webhook-id": "m-s",
            "webhook-timestamp": str(now),
            "webhook-signature": signing.sign(signing.parse_secret(secret), "m-s", now, body),
        }
        self.assertEqual({"body": "grün"}, standardwebhooks.Webhook(secret).verify(body, headers))
        with self.assertRaises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(secret).verify(body + b" ", headers)

    def test_verify(self) -> None:
        signature = signing.sign(KEY, "m-s", NOW, b"{}")
        self.assertTrue(signing.verify(KEY, "m-s", str(NOW), b"{}", signature, now=NOW + 299))
        self.assertTrue(signing.verify(KEY, "m-s", str(NOW), b"{}", f"v1a,xyz v1,abc {signature}", now=NOW))

    def test_verify_refuses(self) -> None:
        signature = signing.sign(KEY, "m-s", NOW, b"{}")
        wrong = {
            "key": (b"x" * 24, "m-s", str(NOW), b"{}", signature, NOW),
            "id": (KEY, "m-t", str(NOW), b"{}", signature, NOW),
            "timestamp": (KEY, "m-s", str(NOW + 1), b"{}", signature, NOW),
            "body": (KEY, "m-s", str(NOW), b"{ }", signature, NOW),
            "signature": (KEY, "m-s", str(NOW), b"{}", signature[:-2], NOW),
            "not ascii": (KEY, "m-s", str(NOW), b"{}", "v1,ä", NOW),
            "none": (KEY, "m-s", str(NOW), b"{}", "", NOW),
            "old": (KEY, "m-s", str(NOW), b"{}", signature, NOW + 301),
            "of the future": (KEY, "m-s", str(NOW), b"{}", signature, NOW - 301),
            "no number": (KEY, "m-s", "now", b"{}", signature, NOW),
            "no timestamp": (KEY, "m-s", "", b"{}", signature, NOW),
        }
        for name, (key, delivery_id, timestamp, body, signatures, now) in wrong.items():
            with self.subTest(name):
                self.assertFalse(signing.verify(key, delivery_id, timestamp, body, signatures, now=now))


class UrlSignerTest(unittest.TestCase):
    KEY = "a2d4c0ffee"
    PATH = "/v2/queues/q/messages"

    def setUp(self) -> None:
        self.signer = signing.UrlSigner(self.KEY)
        self.url = self.signer.sign(["/v2/queues/q/messages", "/v2/queues/q/claims"], ["POST", "GET"], "p", NOW + 60)

    def verify(self, method: str = "GET", path: str = PATH, *, now: float = NOW, **changed: str) -> bool:
        """With the headers that a client makes of ``url``, and what is ``changed`` in them."""
        headers = {
            "project": self.url.project,
            "paths": ",".join(self.url.paths),
            "methods": ",".join(self.url.methods),
            "expires": self.url.expires,
            "signature": self.url.signature,
        }
        return self.signer.verify(method, path, now=now, **(headers | changed))

    def test_what_is_signed(self) -> None:
        self.assertEqual(["/v2/queues/q/claims", "/v2/queues/q/messages"], self.url.paths)
        self.assertEqual(["GET", "POST"], self.url.methods)
        self.assertEqual(("p", "2023-11-14T22:14:20"), (self.url.project, self.url.expires))
        # Zaqar's: paths, methods, project and expires with a backslash and an n between them.
        signed = rb"/v2/queues/q/claims,/v2/queues/q/messages\nGET,POST\np\n2023-11-14T22:14:20"
        self.assertEqual(hmac.new(self.KEY.encode(), signed, "sha256").hexdigest(), self.url.signature)

    def test_what_is_allowed(self) -> None:
        for method in ("GET", "POST"):
            for path in (self.PATH, f"{self.PATH}/1", f"{self.PATH}/1/deliveries", "/v2/queues/q/claims"):
                with self.subTest(method=method, path=path):
                    self.assertTrue(self.verify(method, path))

    def test_what_is_not(self) -> None:
        for method in ("PUT", "DELETE", "HEAD", "get", "", "GET,POST"):
            with self.subTest(method=method):
                self.assertFalse(self.verify(method))
        for path in (
            "",
            "/",
            "/v2/queues/q",
            "/v2/queues/q/message",
            "/v2/queues/q/messagesx",
            "/v2/queues/Q/messages",
            "/v2/queues/q/subscriptions",
            "/v2/queues/q/claims,/v2/queues/q/messages",
            "/x/v2/queues/q/messages",
        ):
            with self.subTest(path=path):
                self.assertFalse(self.verify(path=path))

    def test_the_order_of_lists_does_not_matter(self) -> None:
        self.assertTrue(self.verify(methods="POST,GET", paths="/v2/queues/q/messages,/v2/queues/q/claims"))

    def test_every_change_is_noticed(self) -> None:
        for changed in (
            {"project": "q"},
            {"project": ""},
            {"paths": self.PATH},
            {"paths": f"/v2/queues/q/claims,{self.PATH},"},
            {"methods": "GET"},
            {"methods": "GET,POST,DELETE"},
            {"methods": ""},
            {"expires": "2024-11-14T22:14:20"},
            {"expires": ""},
            {"signature": ""},
            {"signature": "0" * 64},
            {"signature": self.url.signature[:-1]},
            {"signature": self.url.signature.upper()},
            {"signature": "ä" * 64},
            {"signature": "\udc80"},
        ):
            with self.subTest(changed=changed):
                self.assertFalse(self.verify(**changed))

    def test_another_key(self) -> None:
        self.signer = signing.UrlSigner(self.KEY + "0")
        self.assertFalse(self.verify())

    def test_it_expires(self) -> None:
        self.assertTrue(self.verify(now=NOW + 59.9))
        self.assertFalse(self.verify(now=NOW + 60))
        self.assertFalse(self.verify(now=NOW + 61))

    def test_other_spellings_of_the_same_instant(self) -> None:
        for expires in ("2023-11-14T22:14:20Z", "2023-11-14T23:14:20+01:00", "2023-11-14 22:14:20"):
            with self.subTest(expires=expires):
                self.assertTrue(self.verify(expires=expires))

    def test_what_is_no_instant(self) -> None:
        for expires in ("soon", "1700000060", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2023-13-01", "\x00"):
            with self.subTest(expires=expires):
                self.assertFalse(self.verify(expires=expires))

    def test_a_field_cannot_run_over_into_the_next(self) -> None:
        # Were backslashes allowed, the same text would be signed for two sets of fields.
        with self.assertRaises(InvalidRequest):
            self.signer.sign(["/v2/queues/a/messages"], ["GET"], f"x,{self.PATH}\\nDELETE\\nvictim", NOW + 60)
        signed = rb"/v2/queues/a/messages\nGET\nx,/v2/queues/q/messages\nDELETE\nvictim\n2023-11-14T22:14:20"
        self.assertFalse(
            self.verify(
                "DELETE",
                project="victim",
                paths=rf"/v2/queues/a/messages\nGET\nx,{self.PATH}",
                methods="DELETE",
                signature=hmac.new(self.KEY.encode(), signed, "sha256").hexdigest(),
            )
        )

    def test_projects_of_any_alphabet(self) -> None:
        for project in ("prüfung", "проект", "a,b", "a b", "\udc80"):
            with self.subTest(project=project):
                self.url = self.signer.sign([self.PATH], ["GET"], project, NOW + 60)
                self.assertTrue(self.verify())

    def test_instants_that_cannot_be_signed(self) -> None:
        for expires_at in (1e300, float("inf"), -1e300, float("nan")):
            with self.subTest(expires_at=expires_at), self.assertRaises(InvalidRequest):
                self.signer.sign([self.PATH], ["GET"], "p", expires_at)
