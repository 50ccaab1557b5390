import base64
import datetime
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
