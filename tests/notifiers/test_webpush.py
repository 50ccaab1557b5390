import base64
import json
import os
import time

from cryptography.hazmat.primitives.asymmetric import ec

from tests.notifiers.providers import claims_of, decoded, pem, written
from tests.notifiers.pushing import LINKS, PushCase, delivery, message, subscription
from tests.notifiers.webpushserver import Browser, PushService, WebPushTesting, point
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.guard import Guard
from zaqar_notify.model import OutcomeKind, Priority, Scope
from zaqar_notify.notifiers import webpush
from zaqar_notify.notifiers.webpush import Vapid, WebPushNotifier

DELIVERED, RETRY, THROTTLED, AUTH = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.THROTTLED, OutcomeKind.AUTH
REJECTED, GONE, REFUSED = OutcomeKind.REJECTED, OutcomeKind.GONE, OutcomeKind.REFUSED


class EncryptionTest(PushCase):
    def test_the_example_of_rfc_8291(self):
        def private(text):
            return ec.derive_private_key(int.from_bytes(decoded(text), "big"), ec.SECP256R1())

        browser = Browser(private("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"), decoded("BTBZMqHH6r4Tts7J_aSIgg"))
        sealed = webpush.encrypt_with(
            b"When I grow up, I want to be a watermelon",
            webpush.parse_keys(**browser.keys),
            private("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
            decoded("DGv6ra1nlYgDCS1FRnbzlw"),
        )
        expected = (
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_y"
            "l95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        )
        self.assertEqual(decoded(expected), sealed)
        self.assertEqual(b"When I grow up, I want to be a watermelon", browser.open(sealed))

    def test_opened_by_another_implementation(self):
        browser = Browser()
        keys = webpush.parse_keys(**browser.keys)
        for size in (0, 1, 100, webpush.MAX_PAYLOAD):
            plain = os.urandom(size)
            sealed = webpush.encrypt(plain, keys)
            self.assertEqual(plain, browser.open(sealed))
            self.assertLessEqual(len(sealed), 4096)
        self.assertNotEqual(webpush.encrypt(b"x", keys)[:86], webpush.encrypt(b"x", keys)[:86])

    def test_keys_in_any_base64(self):
        browser = Browser()
        plain, auth = point(browser.private), browser.auth
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            for text, secret in ((encode(plain), encode(auth)), (encode(plain).rstrip(b"="), encode(auth).rstrip(b"="))):
                self.assertEqual(plain, webpush.parse_keys(text.decode(), secret.decode()).point)


class WebPushCase(PushCase):
    def setUp(self):
        super().setUp()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.service = self.server(PushService(self.key))

    def values(self, key=None):
        path = written(self.directory, f"vapid{len(os.listdir(self.directory))}.pem", pem(key or self.key))
        return {"key_file": path, "subject": "mailto:push@example.org"}

    def own(self, clients=None, named=None, **values):
        return self.notifier(WebPushNotifier, named or {}, clients, **(self.values() | values))

    def options(self, **others):
        return {"keys": self.service.browser.keys, **others}

    def many(self, notifier, *names, sent=None):
        return self.deliver(notifier, *[delivery(self.service.subscriber(name), sent, self.options()) for name in names])

    def one(self, name="good-1", sent=None, notifier=None):
        return self.many(notifier or self.own(), name, sent=sent)[0]


class RequestTest(WebPushCase):
    def test_what_a_page_gets(self):
        sent = message({"title": "T", "text": "t", "data": [1]}, priority=Priority.VERY_LOW, collapse_key="order-7")
        outcome = self.one(sent=sent)
        self.assertEqual((DELIVERED, 201), (outcome.kind, outcome.status))
        about = {"id": "m1-s1", "queue": "demo", "message_id": "m1"}
        self.assertEqual([about | {"title": "T", "text": "t", "data": [1]}], self.service.messages)
        headers = self.service.requests[0].headers
        self.assertEqual(("very-low", "order-7"), (headers["urgency"], headers["topic"]))
        self.assertIn(int(headers["ttl"]), range(280, 301))

    def test_long_keys_are_hashed_and_long_lives_cut(self):
        notifier = self.own()
        for number, key in enumerate(["k" * 33, "k" * 33, "a b", "ü"]):
            sent = message(number=number, collapse_key=key, ttl=4_000_000)
            self.assertIs(DELIVERED, self.one(sent=sent, notifier=notifier).kind)
        topics = [request.headers["topic"] for request in self.service.requests]
        self.assertEqual((topics[0], 3, {32}), (topics[1], len(set(topics)), {len(topic) for topic in topics}))
        self.assertEqual("2592000", self.service.requests[0].headers["ttl"])

    def test_what_templates_make(self):
        body = {"title": "T", "text": "t", "data": [1], "webpush": {"text": "own", "icon": "i"}}
        given = delivery(self.service.subscriber("good-1"), message(body), self.options(), links=LINKS)
        given.templates = {"webpush": {"text": "{{ body.data[0] }}"}}
        self.deliver(self.own(), given)
        about = {"id": "m1-s1", "queue": "demo", "message_id": "m1", "acknowledge": "https://notify.example.org/acknowledge"}
        self.assertEqual([about | {"title": "T", "text": "1", "data": [1], "icon": "i"}], self.service.messages)

    def test_too_large_is_not_sent(self):
        outcome = self.one(sent=message("x" * 4000))
        self.assertEqual((REJECTED, False, []), (outcome.kind, outcome.target, self.service.requests))

    def test_dry_run(self):
        self.assertIs(DELIVERED, self.one(notifier=self.own(dry_run=True)).kind)
        self.assertEqual([], self.service.requests)

    def test_many_over_one_connection_with_one_signature(self):
        outcomes = self.many(self.own(), *[f"good-{number}" for number in range(50)])
        self.assertEqual({DELIVERED}, {outcome.kind for outcome in outcomes})
        self.assertEqual(1, self.service.connections)
        self.assertEqual(1, len({request.headers["authorization"] for request in self.service.requests}))

    def test_applications_with_keys_of_their_own(self):
        other = ec.generate_private_key(ec.SECP256R1())
        elsewhere = self.server(PushService(other))
        notifier = self.own(named={"shop": self.values(other)})
        deliveries = [
            delivery(self.service.subscriber(), None, self.options()),
            delivery(elsewhere.subscriber(), None, {"keys": elsewhere.browser.keys, "app": "shop"}),
        ]
        self.assertEqual([DELIVERED, DELIVERED], [outcome.kind for outcome in self.deliver(notifier, *deliveries)])

    def test_go_away(self):
        self.service.goaway_every = 100
        outcomes = self.many(self.own(), *[f"{'good' if number % 2 else 410}-{number}" for number in range(300)])
        self.assertEqual([GONE, DELIVERED] * 150, [outcome.kind for outcome in outcomes])


class AnswerTest(WebPushCase):
    def test_statuses(self):
        table = {
            200: (DELIVERED, Scope.LANE),
            202: (DELIVERED, Scope.LANE),
            301: (RETRY, Scope.SUBSCRIPTION),
            400: (REJECTED, Scope.LANE),
            404: (GONE, Scope.LANE),
            406: (RETRY, Scope.SUBSCRIPTION),
            410: (GONE, Scope.LANE),
            413: (REJECTED, Scope.LANE),
            429: (RETRY, Scope.SUBSCRIPTION),
            500: (RETRY, Scope.LANE),
            503: (RETRY, Scope.LANE),
        }
        outcomes = self.many(self.own(), *[f"{status}-1" for status in table])
        for (status, expected), outcome in zip(table.items(), outcomes, strict=True):
            with self.subTest(status):
                self.assertEqual((*expected, status), (outcome.kind, outcome.scope, outcome.status))
                self.assertEqual("gone" if outcome.kind is GONE else None, outcome.disable)
                self.assertFalse(outcome.target)

    def test_how_long_to_wait(self):
        self.service.retry_after = "17"
        outcomes = self.many(self.own(), "429-1", "503-1")
        self.assertEqual(
            [(THROTTLED, 17.0, Scope.SUBSCRIPTION), (THROTTLED, 17.0, Scope.LANE)],
            [(outcome.kind, outcome.after, outcome.scope) for outcome in outcomes],
        )

    def test_a_key_that_is_refused(self):
        """At first it may be ours that is wrong; once it was accepted there, it is the subscription's."""
        notifier = self.own()
        outcome = self.one("403-1", notifier=notifier)
        self.assertEqual((AUTH, "webpush", Scope.CREDENTIAL), (outcome.kind, outcome.credential, outcome.scope))
        self.one(notifier=notifier)
        for name in ("403-1", "401-1"):
            outcome = self.one(name, notifier=notifier)
            self.assertEqual((REJECTED, True), (outcome.kind, outcome.target))
        wrong = self.own(**self.values(ec.generate_private_key(ec.SECP256R1())))
        self.assertIs(AUTH, self.one(notifier=wrong).kind)

    def test_a_key_file_that_cannot_be_used(self):
        for text, wrong in (("x", "no private key"), (pem(ec.generate_private_key(ec.SECP384R1())), "P-256")):
            outcome = self.one(notifier=self.own(key_file=written(self.directory, "bad.pem", text)))
            self.assertEqual((AUTH, "webpush"), (outcome.kind, outcome.credential))
            self.assertIn(wrong, outcome.detail)

    def test_the_secret_of_an_address_is_not_in_the_log(self):
        outcome = self.one("500-s3cr3t")
        kept = json.dumps([outcome.detail, outcome.exchange.request, outcome.exchange.response])
        self.assertNotIn("s3cr3t", kept)
        self.assertIn("/sha256:", kept)

    def test_forbidden_addresses_are_not_dialled(self):
        notifier = self.own(self.trusting(allowed=[]))
        self.assertIs(REFUSED, self.one(notifier=notifier).kind)
        self.assertEqual(0, self.service.connections)


class VapidTest(WebPushCase):
    def vapid(self):
        values = self.values()
        return Vapid(values["key_file"], values["subject"])

    def test_one_for_each_service_and_twelve_hours(self):
        vapid, now = self.vapid(), time.time()
        signed = vapid.header("https://a.example", now)
        self.assertIs(signed, vapid.header("https://a.example", now + 21599))
        self.assertIsNot(signed, vapid.header("https://b.example:444", now))
        self.assertIsNot(signed, vapid.header("https://a.example", now + 21601))
        token = signed.line.partition("t=")[2].partition(",")[0]
        header, claims = claims_of(token, self.key.public_key())
        self.assertEqual({"typ": "JWT", "alg": "ES256"}, header)
        self.assertEqual({"aud": "https://a.example", "exp": int(now) + 43200, "sub": "mailto:push@example.org"}, claims)

    def test_only_so_many_are_kept(self):
        vapid = self.vapid()
        for number in range(webpush._ORIGINS):
            vapid._signed[str(number)] = webpush.Signed("", 0.0)
        vapid.header("https://a.example", time.time())
        self.assertEqual(webpush._ORIGINS, len(vapid._signed))
        self.assertNotIn("0", vapid._signed)


class CheckTest(WebPushCase):
    def test_targets_and_options(self):
        notifier = self.own(named={"shop": self.values()})
        notifier.check(subscription(self.service.subscriber(), self.options()))
        notifier.check(subscription(self.service.subscriber(), self.options(app="shop")))
        keys = self.service.browser.keys
        cases = [
            ({}, "options.keys has to be"),
            ({"keys": "x"}, "options.keys has to be"),
            ({"keys": {}}, "p256dh"),
            ({"keys": keys | {"auth": "AAAA"}}, "16 bytes"),
            ({"keys": keys | {"auth": "Ä"}}, "base64url"),
            ({"keys": keys | {"auth": "AAAAA"}}, "base64url"),
            ({"keys": keys | {"p256dh": 1}}, "p256dh"),
            ({"keys": keys | {"p256dh": "BAAA"}}, "65 bytes"),
            ({"keys": keys | {"p256dh": base64.b64encode(b"\4" + b"\1" * 64).decode()}}, "P-256"),
            ({"keys": keys, "app": "other"}, "known are: shop"),
        ]
        for options, wrong in cases:
            with self.subTest(options), self.assertRaisesRegex(InvalidRequest, wrong):
                notifier.check(subscription(self.service.subscriber(), options))
        for uri in (
            "webpush+ftp://x/",
            "webpush:x",
            "webpush+https://10.0.0.1/x",
            "webpush+https://u@x/",
            "webpush+https://x/" + "a" * 2000,
        ):
            with self.subTest(uri), self.assertRaises(InvalidRequest):
                notifier.check(subscription(uri, self.options()))
        https_only = self.own(self.trusting(guard=Guard(["127.0.0.0/8"], https_only=True)))
        with self.assertRaises(InvalidRequest):
            https_only.check(subscription("webpush+http://127.0.0.1/x", self.options()))

    def test_without_any_key(self):
        notifier = self.notifier(WebPushNotifier, {})
        with self.assertRaisesRegex(InvalidRequest, "known are: none"):
            notifier.check(subscription(self.service.subscriber(), self.options()))
        with self.assertRaisesRegex(CannotStart, r"\[webpush\] subject"):
            self.own(subject="push@example.org")
        with self.assertRaisesRegex(CannotStart, r"\[webpush_shop\] key_file is not set"):
            self.own(named={"shop": {}})

    def test_lane(self):
        notifier = self.own()
        lanes = {notifier.lane(subscription(f"webpush+https://{place}")) for place in ("a/x", "a/y?z", "b:444/x")}
        self.assertEqual({"webpush+https://a", "webpush+https://b:444"}, lanes)


class OtherServiceTest(WebPushCase):
    def setUp(self):
        super().setUp()
        self.other = WebPushTesting(self)

    def test_delivered_and_expired(self):
        notifier = self.own()
        made = self.other.subscribe(self.key)
        given = lambda number: delivery(f"webpush+{made['endpoint']}", message(number=number), {"keys": made["keys"]})  # noqa: E731
        outcomes = self.deliver(notifier, *[given(number) for number in range(20)])
        self.assertEqual({(DELIVERED, 201)}, {(outcome.kind, outcome.status) for outcome in outcomes})
        messages = self.other.ask("/get-notifications", {"clientHash": made["clientHash"]})["messages"]
        self.assertEqual({f"m{number}" for number in range(20)}, {json.loads(one)["message_id"] for one in messages})
        self.other.ask(f"/expire-subscription/{made['clientHash']}", {})
        self.assertEqual([GONE], [outcome.kind for outcome in self.deliver(notifier, given(30))])

    def test_another_key(self):
        made = self.other.subscribe(ec.generate_private_key(ec.SECP256R1()))
        [outcome] = self.deliver(self.own(), delivery(f"webpush+{made['endpoint']}", None, {"keys": made["keys"]}))
        self.assertEqual((REJECTED, 400), (outcome.kind, outcome.status))
