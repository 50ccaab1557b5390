import functools
import json
import os
import time
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.notifiers.http2 import Answer
from tests.notifiers.providers import FakeFcm, pem
from tests.notifiers.pushing import LINKS, PushCase, delivery, message, subscription
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.model import OutcomeKind, Priority, Scope
from zaqar_notify.notifiers.fcm import FcmNotifier

DELIVERED, RETRY, THROTTLED, AUTH = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.THROTTLED, OutcomeKind.AUTH
REJECTED, GONE, OURS = OutcomeKind.REJECTED, OutcomeKind.GONE, OutcomeKind.OURS


class FcmCase(PushCase):
    def setUp(self):
        super().setUp()
        self.google = self.server(FakeFcm())

    def shop(self, clients=None, **changes):
        dry = changes.pop("dry_run", False)
        section = self.google.section(self.directory, **changes) | {"dry_run": dry}
        return self.notifier(FcmNotifier, {"shop": section}, clients)

    def one(self, device="good-1", sent=None, notifier=None):
        [outcome] = self.deliver(notifier or self.shop(), delivery(f"fcm://shop/{device}", sent))
        return outcome

    def many(self, notifier, *devices):
        return self.deliver(notifier, *[delivery(f"fcm://shop/{device}") for device in devices])


class RequestTest(FcmCase):
    def test_what_a_device_gets(self):
        outcome = self.one(
            "good-a:b_c", message({"title": "T", "text": "t", "data": {"a": 1, "b": "x"}}, priority=Priority.HIGH)
        )
        self.assertEqual((DELIVERED, 200), (outcome.kind, outcome.status))
        self.assertEqual("projects/shop-1234/messages/1", outcome.provider_id)
        [document] = self.google.messages
        ttl = document["message"]["android"].pop("ttl")
        self.assertIn(int(ttl.removesuffix("s")), range(280, 301))
        about = {"zaqar_notify_id": "m1-s1", "zaqar_notify_queue": "demo", "zaqar_notify_message_id": "m1"}
        expected = {
            "token": "good-a:b_c",
            "notification": {"title": "T", "body": "t"},
            "data": {**about, "a": "1", "b": "x"},
            "android": {"priority": "HIGH"},
        }
        self.assertEqual({"message": expected}, document)

    def test_wishes_of_a_message(self):
        for priority in (Priority.NORMAL, Priority.LOW, Priority.VERY_LOW):
            self.one(sent=message("x", ttl=5_000_000, priority=priority, collapse_key="k" * 100))
            android = self.google.messages[-1]["message"]["android"]
            self.assertEqual({"ttl": "2419200s", "priority": "NORMAL", "collapse_key": "k" * 100}, android)

    def test_without_anything_to_show(self):
        for body, data in (({"order": {"id": 7}}, {"order": '{"id":7}'}), ([1, 2], {"data": "[1,2]"})):
            self.one(sent=message(body))
            made = self.google.messages[-1]["message"]
            self.assertNotIn("notification", made)
            self.assertLessEqual(data.items(), made["data"].items())

    def test_what_is_for_fcm_alone_but_another_target(self):
        own = {"android": {"restricted_package_name": "x"}, "token": "other", "topic": "all", "condition": "c", "webpush": {}}
        self.one(sent=message({"text": "t", "fcm": own}))
        made = self.google.messages[0]["message"]
        self.assertEqual({"token", "android", "webpush", "notification", "data"}, made.keys())
        self.assertEqual(("good-1", "x"), (made["token"], made["android"]["restricted_package_name"]))
        self.assertIn("ttl", made["android"])

    def test_where_the_application_can_say_that_it_has_it(self):
        self.deliver(self.shop(), delivery("fcm://shop/good-1", links=LINKS))
        told = self.google.messages[0]["message"]["data"]
        self.assertEqual("https://notify.example.org/acknowledge", told["zaqar_notify_acknowledge"])
        self.assertEqual(4, len(told))

    def test_templates(self):
        body = {"text": "t", "data": {"a": 1}, "fcm": {"notification": {"title": "own", "image": "https://x/y"}}}
        templates = {"fcm": {"title": "{{ body.data.a }}", "text": "{{ body.text|upper }}"}}
        self.deliver(self.shop(), delivery("fcm://shop/good-1", message(body), templates=templates))
        shown = self.google.messages[0]["message"]["notification"]
        self.assertEqual({"title": "1", "body": "T", "image": "https://x/y"}, shown)

    def test_dry_run(self):
        self.assertIs(DELIVERED, self.one(notifier=self.shop(dry_run=True)).kind)
        self.assertIs(True, self.google.messages[0]["validate_only"])


class AnswerTest(FcmCase):
    TABLE: ClassVar = {
        "unregistered": (GONE, Scope.LANE, False),
        "noproject": None,
        "mismatch": (REJECTED, Scope.LANE, True),
        "denied": (AUTH, Scope.CREDENTIAL, False),
        "badtoken": (REJECTED, Scope.LANE, True),
        "badfield": (REJECTED, Scope.LANE, True),
        "baddata": (REJECTED, Scope.LANE, False),
        "toobig": (REJECTED, Scope.LANE, False),
        "quota": (THROTTLED, Scope.CREDENTIAL, False),
        "device": (THROTTLED, Scope.SUBSCRIPTION, False),
        "unavailable": (RETRY, Scope.LANE, False),
        "internal": (RETRY, Scope.LANE, False),
        "thirdparty": (AUTH, Scope.CREDENTIAL, False),
        "gateway": (RETRY, Scope.LANE, False),
    }

    def test_every_answer(self):
        table = {name: expected for name, expected in self.TABLE.items() if expected}
        outcomes = self.many(self.shop(), *[f"{name}-1" for name in table])
        for (name, expected), outcome in zip(table.items(), outcomes, strict=True):
            with self.subTest(name):
                self.assertEqual(expected, (outcome.kind, outcome.scope, outcome.target))
                self.assertEqual("fcm/shop" if outcome.kind is AUTH else None, outcome.credential)
                self.assertEqual("gone" if outcome.kind is GONE else None, outcome.disable)
        self.assertEqual(1, self.google.grants)

    def test_a_project_that_is_unknown_ends_no_subscription(self):
        outcome = self.one("noproject-1")
        self.assertEqual((AUTH, None), (outcome.kind, outcome.disable))
        self.assertIs(AUTH, self.one(notifier=self.shop(project_id="other")).kind)

    def test_how_long_to_wait(self):
        notifier = self.shop()
        self.assertEqual(60.0, self.one("quota-1", notifier=notifier).after)
        self.google.retry_after = "13"
        outcomes = self.many(notifier, "quota-1", "unavailable-1")
        self.assertEqual([(THROTTLED, 13.0)] * 2, [(outcome.kind, outcome.after) for outcome in outcomes])

    def test_no_registration_token_is_in_the_log(self):
        outcome = self.one("badtoken-s3cr3t")
        kept = json.dumps([outcome.detail, outcome.exchange.request, outcome.exchange.response])
        self.assertNotIn("s3cr3t", kept)
        self.assertNotIn("ya29", kept)
        self.assertIn("not a valid FCM registration token", kept)

    def test_no_answer(self):
        [outcome] = self.deliver(self.shop(), delivery("fcm://shop/silent-1", timeout=0.5))
        self.assertIs(RETRY, outcome.kind)

    def test_go_away(self):
        self.google.goaway_every = 100
        outcomes = self.many(self.shop(), *[f"{'good' if number % 2 else 'unregistered'}-{number}" for number in range(300)])
        self.assertEqual([GONE, DELIVERED] * 150, [outcome.kind for outcome in outcomes])
        self.assertEqual(301, len(self.google.requests))


class AccessTokenTest(FcmCase):
    def test_it_is_fetched_once_for_all(self):
        notifier = self.shop()
        for _ in range(2):
            outcomes = self.many(notifier, *[f"good-{number}" for number in range(50)])
            self.assertEqual({DELIVERED}, {outcome.kind for outcome in outcomes})
        self.assertEqual((1, 100, 1), (self.google.grants, len(self.google.messages), self.google.connections))

    def test_one_that_is_refused_is_fetched_again_once(self):
        notifier = self.shop()
        self.one(notifier=notifier)
        self.google.valid.clear()
        outcomes = self.many(notifier, *[f"good-{number}" for number in range(20)])
        self.assertEqual(({DELIVERED}, 2), ({outcome.kind for outcome in outcomes}, self.google.grants))

    def test_refused_for_good(self):
        self.google.issuer = Answer(200, {}, b'{"access_token": "ya29.unknown", "expires_in": 3600}')
        outcome = self.one()
        self.assertEqual((AUTH, 401, "fcm/shop"), (outcome.kind, outcome.status, outcome.credential))
        self.assertEqual((2, 4), (self.google.grants, len(self.google.requests)))

    def test_shortly_before_its_end_a_new_one_is_fetched(self):
        for lifetime in (200, 30):
            with self.subTest(lifetime):
                google = self.google = self.server(FakeFcm())
                google.lifetime = lifetime
                notifier = self.shop()
                for number in (1, 2, 3):
                    # While one is on its way, no other is fetched.
                    self.until(functools.partial(self.sent_and_granted, notifier, google, number))
                self.assertGreaterEqual(google.grants, 3)

    def sent_and_granted(self, notifier, google, number):
        self.assertIs(DELIVERED, self.one(notifier=notifier).kind)
        return google.grants >= number

    def until(self, condition):
        deadline = time.monotonic() + 20
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)

    def test_what_the_issuer_answers(self):
        cases = [
            (Answer(400, {}, b'{"error":"invalid_grant"}'), AUTH, "invalid_grant"),
            (Answer(401, {}, b'{"error":"invalid_client"}'), AUTH, "invalid_client"),
            (Answer(503, {"retry-after": "5"}), THROTTLED, "503"),
            (Answer(500, {}), OURS, "500"),
            (Answer(200, {}, b"<html>"), OURS, "200"),
            (Answer(200, {}, b'{"access_token": "a\\r\\nb: c"}'), OURS, "200"),
            (Answer(200, {}, b"[]"), OURS, "200"),
        ]
        notifier = self.shop()
        for answer, kind, shown in cases:
            with self.subTest(answer):
                self.google.issuer = answer
                outcomes = self.many(notifier, "good-1", "good-2")
                self.assertEqual([kind, kind], [outcome.kind for outcome in outcomes])
                self.assertIn("no access token", outcomes[0].detail)
                self.assertIn(shown, outcomes[0].detail)
        self.google.issuer = None
        self.assertIs(DELIVERED, self.one(notifier=notifier).kind)

    def test_an_issuer_that_is_down(self):
        outcome = self.one(notifier=self.shop(token_uri="https://127.0.0.1:1/token"))
        self.assertIs(OURS, outcome.kind)

    def test_a_signature_that_is_wrong(self):
        notifier = self.shop(private_key=pem(rsa.generate_private_key(65537, 2048)))
        self.assertIs(AUTH, self.one(notifier=notifier).kind)

    def read(self, section):
        with open(section["service_account"], encoding="utf-8") as file:
            return file.read()

    def test_files_that_cannot_be_used(self):
        section = self.google.section(self.directory)
        good = json.loads(self.read(section))
        cases = {
            "no JSON": "{",
            "no client_email": json.dumps(good | {"client_email": None}),
            "no private RSA key|no private key": json.dumps(good | {"private_key": "x"}),
            "project_id": json.dumps(good | {"project_id": "a/b"}),
        }
        for wrong, text in cases.items():
            with self.subTest(wrong):
                path = os.path.join(self.directory, f"bad-{len(wrong)}.json")
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
                notifier = self.notifier(FcmNotifier, {"shop": section | {"service_account": path}})
                outcome = self.one(notifier=notifier)
                self.assertEqual((AUTH, "fcm/shop"), (outcome.kind, outcome.credential))
                self.assertRegex(outcome.detail, wrong)


class CheckTest(FcmCase):
    def test_targets(self):
        notifier = self.shop()
        notifier.check(subscription("fcm://shop/dXyz:APA91b-_x"))
        for uri in ("fcm://shop/", "fcm://shop/a/b", "fcm://shop/a?b", "fcm://shop/a b", "fcm:x", "fcm://shop/" + "a" * 2000):
            with self.subTest(uri), self.assertRaisesRegex(InvalidRequest, "fcm://APP/TOKEN"):
                notifier.check(subscription(uri))
        with self.assertRaisesRegex(InvalidRequest, "known are: shop"):
            notifier.check(subscription("fcm://other/x"))
        self.assertEqual("fcm://shop", notifier.lane(subscription("fcm://shop/x")))

    def test_checking_loads_and_opens_nothing(self):
        clients = self.trusting()
        notifier = self.notifier(FcmNotifier, {"shop": {"service_account": "/nowhere"}}, clients)
        notifier.check(subscription("fcm://shop/x"))
        self.assertIsNone(clients._engine)

    def test_without_a_file(self):
        with self.assertRaisesRegex(CannotStart, r"\[fcm_shop\] service_account is not set"):
            self.notifier(FcmNotifier, {"shop": {}})
