import json
import os
import time
import uuid

from tests.notifiers.providers import APNS_REASONS, FakeApns, apns_device, claims_of, pem, written
from tests.notifiers.pushing import LINKS, PushCase, delivery, message, subscription
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.model import MessageKind, OutcomeKind, Priority, Scope
from zaqar_notify.notifiers import apns
from zaqar_notify.notifiers.apns import ApnsNotifier, ProviderToken

DELIVERED, RETRY, THROTTLED, AUTH = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.THROTTLED, OutcomeKind.AUTH
REJECTED, GONE, OURS = OutcomeKind.REJECTED, OutcomeKind.GONE, OutcomeKind.OURS

EXPECTED = {
    "BadDeviceToken": (REJECTED, True),
    "DeviceTokenNotForTopic": (REJECTED, True),
    "MissingDeviceToken": (REJECTED, True),
    "BadCollapseId": (REJECTED, False),
    "BadExpirationDate": (REJECTED, False),
    "BadMessageId": (REJECTED, False),
    "BadPriority": (REJECTED, False),
    "DuplicateHeaders": (REJECTED, False),
    "InvalidPushType": (REJECTED, False),
    "PayloadEmpty": (REJECTED, False),
    "BadPath": (REJECTED, False),
    "MethodNotAllowed": (REJECTED, False),
    "PayloadTooLarge": (REJECTED, False),
    "ExpiredToken": (GONE, False),
    "Unregistered": (GONE, False),
    "TooManyProviderTokenUpdates": (THROTTLED, False),
    "TooManyRequests": (THROTTLED, False),
    "IdleTimeout": (RETRY, False),
    "InternalServerError": (RETRY, False),
    "ServiceUnavailable": (RETRY, False),
    "Shutdown": (RETRY, False),
}


class ApnsCase(PushCase):
    def setUp(self):
        super().setUp()
        self.apple = self.server(FakeApns())

    def shop(self, clients=None, **values):
        return self.notifier(ApnsNotifier, {"shop": self.apple.section(self.directory) | values}, clients)

    def one(self, device, sent=None, options=None, notifier=None):
        [outcome] = self.deliver(notifier or self.shop(), delivery(f"apns://shop/{device}", sent, options))
        return outcome

    def received(self):
        [request] = self.apple.requests
        return request.headers, json.loads(request.body)


class RequestTest(ApnsCase):
    def test_what_a_device_gets(self):
        device = apns_device()
        sent = message("hello", collapse_key="order-7", priority=Priority.NORMAL)
        outcome = self.one(device, sent)
        self.assertEqual((DELIVERED, 200), (outcome.kind, outcome.status))
        headers, document = self.received()
        expected = {
            ":path": f"/3/device/{device}",
            "apns-topic": "org.example.shop",
            "apns-push-type": "alert",
            "apns-priority": "5",
            "apns-collapse-id": "order-7",
            "apns-expiration": str(int(sent.expires_at)),
        }
        self.assertEqual(expected, {name: headers[name] for name in expected})
        about = {"id": "m1-s1", "queue": "demo", "message_id": "m1"}
        self.assertEqual({"aps": {"alert": {"body": "hello"}}, "zaqar_notify": about}, document)
        self.assertEqual(outcome.provider_id, headers["apns-id"])

    def test_the_identifier_is_the_same_over_all_attempts(self):
        notifier = self.shop()
        for number in (1, 1, 2):
            self.one(apns_device(), message(number=number), notifier=notifier)
        ids = [request.headers["apns-id"] for request in self.apple.requests]
        self.assertEqual((ids[0], 2), (ids[1], len(set(ids))))
        self.assertEqual(ids, [str(uuid.UUID(one)) for one in ids])

    def test_bodies(self):
        cases = [
            ({"title": "T", "text": "t", "data": {"a": 1}}, {"alert": {"title": "T", "body": "t"}}, {"a": 1}, "alert"),
            ({"title": "T", "body": "b"}, {"alert": {"title": "T", "body": "b"}}, None, "alert"),
            ({"order": 7}, {"content-available": 1}, {"order": 7}, "background"),
            ([1, 2], {"content-available": 1}, [1, 2], "background"),
            (
                {"text": "t", "apns": {"aps": {"badge": 3, "sound": "default"}, "x": 1, "zaqar_notify": 2}},
                {"alert": {"body": "t"}, "badge": 3, "sound": "default"},
                None,
                "alert",
            ),
        ]
        notifier = self.shop()
        for number, (body, aps, data, kind) in enumerate(cases):
            with self.subTest(body):
                self.assertIs(DELIVERED, self.one(apns_device(), message(body, number=number), notifier=notifier).kind)
                request = self.apple.requests[-1]
                document = json.loads(request.body)
                self.assertEqual((aps, data), (document["aps"], document.get("data")))
                self.assertEqual(kind, request.headers["apns-push-type"])
                self.assertEqual("demo", document["zaqar_notify"]["queue"])
        self.assertEqual(1, document["x"])

    def test_a_request_to_confirm(self):
        body = {"Message_Type": "SubscriptionConfirmation", "Message": "Agree?", "URL-Paths": "/v2/x"}
        self.one(apns_device(), message(body, kind=MessageKind.CONFIRMATION))
        _, document = self.received()
        self.assertEqual(({"alert": {"body": "Agree?"}}, body), (document["aps"], document["data"]))

    def test_in_the_background_nothing_has_high_priority(self):
        notifier = self.shop()
        for number, (wanted, body, expected) in enumerate(
            [
                (Priority.HIGH, {"a": 1}, "5"),
                (Priority.LOW, {"a": 1}, "1"),
                (Priority.VERY_LOW, "x", "1"),
                (Priority.HIGH, "x", None),
                (None, "x", None),
            ]
        ):
            sent = message(body, number=number, priority=wanted)
            self.assertIs(DELIVERED, self.one(apns_device(), sent, notifier=notifier).kind)
            self.assertEqual(expected, self.apple.requests[-1].headers.get("apns-priority"))

    def test_keys_that_are_no_header_are_hashed(self):
        notifier = self.shop()
        for number, key in enumerate(["x" * 65, "a b", "a\r\nb: c", "ü", "x" * 65]):
            self.assertIs(DELIVERED, self.one(apns_device(), message(number=number, collapse_key=key), notifier=notifier).kind)
        keys = [request.headers["apns-collapse-id"] for request in self.apple.requests]
        self.assertEqual((4, keys[0], {64}), (len(set(keys)), keys[4], {len(key) for key in keys}))

    def test_where_the_application_can_say_that_it_has_it(self):
        self.deliver(self.shop(), delivery(f"apns://shop/{apns_device()}", links=LINKS))
        told = self.received()[1]["zaqar_notify"]
        about = {"id": "m1-s1", "queue": "demo", "message_id": "m1"}
        self.assertEqual({**about, "acknowledge": "https://notify.example.org/acknowledge"}, told)

    def test_what_attributes_say_is_for_filters(self):
        self.one(apns_device(), message(attributes={"collapse_key": "k", "priority": "low"}))
        self.assertEqual(set(), {"apns-collapse-id", "apns-priority"} & self.received()[0].keys())

    def test_templates(self):
        body = {
            "text": "t",
            "title": "T",
            "data": {"a": 1},
            "apns": {"aps": {"alert": {"body": "own", "loc-key": "k"}, "badge": 1}},
        }
        given = delivery(f"apns://shop/{apns_device()}", message(body, language="de-AT"))
        given.templates = {"apns": {"text": {"de": "{{ body.data.a }}. Gr\u00fc\u00dfe", "default": "no"}}}
        self.deliver(self.shop(), given)
        document = self.received()[1]
        alert = {"title": "T", "body": "1. Gr\u00fc\u00dfe", "loc-key": "k"}
        self.assertEqual(({"alert": alert, "badge": 1}, {"a": 1}), (document["aps"], document["data"]))

    def test_templates_show_what_else_would_be_data_alone(self):
        given = delivery(
            f"apns://shop/{apns_device()}", message({"order": 7}), templates={"*": {"title": "Order {{ body.order }}"}}
        )
        self.deliver(self.shop(), given)
        headers, document = self.received()
        self.assertEqual(({"alert": {"title": "Order 7"}}, {"order": 7}), (document["aps"], document["data"]))
        self.assertEqual("alert", headers["apns-push-type"])

    def test_a_template_that_fails(self):
        given = [delivery(f"apns://shop/{apns_device()}", message(number=number)) for number in range(2)]
        given[0].templates = {"apns": {"text": "{{ body == [] }}"}}
        bad, good = self.deliver(self.shop(), *given)
        self.assertEqual((REJECTED, False, DELIVERED), (bad.kind, bad.target, good.kind))
        self.assertIn("text of apns", bad.detail)

    def test_too_large_is_not_sent(self):
        outcome = self.one(apns_device(), message("x" * 4096))
        self.assertEqual((REJECTED, False, []), (outcome.kind, outcome.target, self.apple.requests))
        self.assertIn("4096", outcome.detail)

    def test_dry_run(self):
        outcome = self.one(apns_device(), notifier=self.shop(dry_run=True))
        self.assertEqual((DELIVERED, []), (outcome.kind, self.apple.requests))


class AnswerTest(ApnsCase):
    def test_every_reason(self):
        notifier = self.shop()
        devices = {reason: apns_device(reason) for reason in APNS_REASONS}
        self.apple.timestamp = int(time.time() * 1000)
        outcomes = self.deliver(notifier, *[delivery(f"apns://shop/{device}") for device in devices.values()])
        for reason, outcome in zip(devices, outcomes, strict=True):
            with self.subTest(reason):
                kind, target = EXPECTED.get(reason, (AUTH, False))
                self.assertEqual((kind, target, APNS_REASONS[reason]), (outcome.kind, outcome.target, outcome.status))
                self.assertIn(reason, outcome.detail)
                self.assertEqual("apns/shop" if kind is AUTH else None, outcome.credential)
                self.assertEqual("gone" if kind is GONE else None, outcome.disable)

    def test_gone_before_the_subscription_was_made(self):
        self.apple.timestamp = int((time.time() - 7200) * 1000)
        outcome = self.one(apns_device("Unregistered"))
        self.assertEqual((REJECTED, True, None), (outcome.kind, outcome.target, outcome.disable))

    def test_who_has_to_wait(self):
        notifier = self.shop()
        for after, expected in (("7", 7.0), (None, 60.0)):
            self.apple.retry_after = after
            outcome = self.one(apns_device("TooManyRequests"), notifier=notifier)
            self.assertEqual((expected, Scope.SUBSCRIPTION), (outcome.after, outcome.scope))
        self.assertIs(Scope.CREDENTIAL, self.one(apns_device("TooManyProviderTokenUpdates"), notifier=notifier).scope)
        self.apple.retry_after = "9"
        outcome = self.one(apns_device("ServiceUnavailable"), notifier=notifier)
        self.assertEqual((THROTTLED, 9.0, Scope.LANE), (outcome.kind, outcome.after, outcome.scope))

    def test_an_answer_that_is_not_apples(self):
        outcome = self.one(apns_device("unreadable"))
        self.assertEqual((RETRY, 502, Scope.LANE), (outcome.kind, outcome.status, outcome.scope))

    def test_no_answer(self):
        notifier = self.shop()
        [outcome] = self.deliver(notifier, delivery(f"apns://shop/{apns_device('silent')}", timeout=0.3))
        self.assertEqual((RETRY, Scope.LANE), (outcome.kind, outcome.scope))

    def test_no_device_token_is_in_the_log(self):
        device = apns_device("BadDeviceToken")
        outcome = self.one(device)
        kept = json.dumps([outcome.detail, outcome.exchange.request, outcome.exchange.response])
        self.assertNotIn(device, kept)
        self.assertIn("/3/device/sha256:", kept)
        self.assertEqual("***", outcome.exchange.request["headers"]["authorization"])
        self.assertIn("BadDeviceToken", outcome.exchange.response["body"])

    def test_successes_are_recorded_where_the_log_wants_them(self):
        self.assertIsNone(self.one(apns_device()).exchange)
        clients = self.trusting(record_successes=True)
        self.assertEqual(200, self.one(apns_device(), notifier=self.shop(clients)).exchange.response["status"])

    def test_one_refused_costs_no_other(self):
        devices = [apns_device("BadDeviceToken" if number % 2 else "") for number in range(50)]
        outcomes = self.deliver(self.shop(), *[delivery(f"apns://shop/{device}") for device in devices])
        self.assertEqual([DELIVERED, REJECTED] * 25, [outcome.kind for outcome in outcomes])


class ConnectionTest(ApnsCase):
    def test_many_at_once_over_one_connection(self):
        outcomes = self.deliver(self.shop(), *[delivery(f"apns://shop/{apns_device()}") for _ in range(100)])
        self.assertEqual({DELIVERED}, {outcome.kind for outcome in outcomes})
        self.assertEqual((1, 1), (self.apple.connections, len(self.apple.tokens)))

    def test_told_to_go_away_every_100_streams(self):
        self.apple.goaway_every = 100
        devices = [apns_device("BadDeviceToken" if number % 2 else "") for number in range(400)]
        outcomes = self.deliver(self.shop(), *[delivery(f"apns://shop/{device}") for device in devices])
        self.assertEqual([DELIVERED, REJECTED] * 200, [outcome.kind for outcome in outcomes])
        self.assertEqual((400, 4), (len(self.apple.requests), self.apple.ended))

    def test_nothing_but_bad_tokens(self):
        notifier = self.shop()
        for _ in range(10):
            devices = [apns_device("BadDeviceToken") for _ in range(100)]
            outcomes = self.deliver(notifier, *[delivery(f"apns://shop/{device}") for device in devices])
            self.assertEqual({REJECTED}, {outcome.kind for outcome in outcomes})
        self.assertEqual(1, self.apple.connections)

    def test_each_application_has_connections_of_its_own(self):
        sections = {name: self.apple.section(self.directory, key) for name, key in (("a", "KEY1234567"), ("b", "KEY7654321"))}
        notifier = self.notifier(ApnsNotifier, sections)
        outcomes = self.deliver(notifier, *[delivery(f"apns://{'ab'[number % 2]}/{apns_device()}") for number in range(20)])
        self.assertEqual({DELIVERED}, {outcome.kind for outcome in outcomes})
        self.assertEqual(2, self.apple.connections)


class TokenTest(ApnsCase):
    def provider(self):
        section = self.apple.section(self.directory)
        return ProviderToken(section["team"], section["key_id"], section["key_file"])

    def test_all_processes_make_the_same_one(self):
        texts = {self.provider().text(now) for now in (9000.0, 10000.0, 11999.0)}
        self.assertEqual(1, len(texts))
        header, claims = claims_of(texts.pop(), self.apple.private["KEY1234567"].public_key())
        self.assertEqual(({"alg": "ES256", "kid": "KEY1234567"}, {"iss": "TEAM123456", "iat": 9000}), (header, claims))

    def test_it_lasts_fifty_minutes(self):
        provider = self.provider()
        self.assertEqual(provider.text(9000.0), provider.text(11999.9))
        self.assertNotEqual(provider.text(11999.9), provider.text(12000.0))

    def test_one_that_is_too_old_is_renewed_once(self):
        provider = self.provider()
        first = provider.text(11000.0)
        second = provider.renew(first, 11000.0)
        self.assertEqual(11000, claims_of(second, self.apple.private["KEY1234567"].public_key())[1]["iat"])
        self.assertEqual((second, second), (provider.renew(first, 11001.0), provider.text(12100.0)))
        self.assertIsNone(provider.renew(second, 12199.0))
        self.assertNotEqual(second, provider.text(12201.0))

    def test_not_within_twenty_minutes(self):
        provider = self.provider()
        self.assertIsNone(provider.renew(provider.text(9100.0), 9100.0))

    def test_clocks_that_differ(self):
        """Where it can be done, a delivery whose token was too old arrives with a newer one; else the credential pauses."""
        age = time.time() % apns.LIFETIME
        self.apple.clock_ahead = 3600 - age + 5
        notifier = self.shop()
        outcome = self.one(apns_device(), notifier=notifier)
        if age < apns.LEAST_LIFETIME:
            self.assertEqual((AUTH, 1), (outcome.kind, len(self.apple.requests)))
        else:
            self.assertEqual((DELIVERED, 2), (outcome.kind, len(self.apple.requests)))
            self.assertIs(DELIVERED, self.one(apns_device(), notifier=notifier).kind)
            self.assertEqual(3, len(self.apple.requests))

    def test_a_key_that_is_put_right_is_used_without_a_new_start(self):
        notifier = self.shop()
        section = self.apple.section(self.directory)
        os.remove(section["key_file"])
        outcome = self.one(apns_device(), notifier=notifier)
        self.assertEqual((AUTH, "apns/shop"), (outcome.kind, outcome.credential))
        self.assertIn("No such file", outcome.detail)
        written(self.directory, "KEY1234567.p8", pem(self.apple.private["KEY7654321"]))
        self.assertIn("InvalidProviderToken", self.one(apns_device(), notifier=notifier).detail)
        written(self.directory, "KEY1234567.p8", "no key")
        self.assertIn("no private key", self.one(apns_device(), notifier=notifier).detail)
        self.apple.section(self.directory)
        self.assertIs(DELIVERED, self.one(apns_device(), notifier=notifier).kind)


class CheckTest(ApnsCase):
    def test_targets(self):
        notifier = self.shop()
        notifier.check(subscription(f"apns://shop/{'0a' * 32}"))
        notifier.check(subscription(f"apns://shop/{'0a' * 80}", {"push_type": "background"}))
        cases = {
            "apns://shop/xyz": "hexadecimal",
            "apns://shop/": "hexadecimal",
            f"apns://shop/{'0a' * 32}0": "hexadecimal",
            f"apns://shop/{'0a' * 32}?x=1": "hexadecimal",
            f"apns:{'0a' * 32}": "hexadecimal",
            f"apns://[/{'0a' * 32}": "hexadecimal",
            f"apns://other/{'0a' * 32}": "'other' is not known here; known are: shop",
        }
        for uri, wrong in cases.items():
            with self.subTest(uri), self.assertRaisesRegex(InvalidRequest, wrong):
                notifier.check(subscription(uri))
        with self.assertRaisesRegex(InvalidRequest, "push_type"):
            notifier.check(subscription(f"apns://shop/{'0a' * 32}", {"push_type": ["alert"]}))

    def test_lane(self):
        notifier = self.shop()
        lanes = {notifier.lane(subscription(f"apns://{app}/{'0a' * 32}")) for app in ("shop", "shop", "other")}
        self.assertEqual({"apns://shop", "apns://other"}, lanes)

    def test_an_application_that_is_no_longer_known(self):
        [outcome] = self.deliver(self.shop(), delivery(f"apns://other/{apns_device()}"))
        self.assertEqual((AUTH, "apns/other"), (outcome.kind, outcome.credential))

    def test_checking_loads_and_opens_nothing(self):
        clients = self.trusting()
        notifier = self.notifier(ApnsNotifier, {"shop": self.apple.section(self.directory) | {"key_file": "/nowhere"}}, clients)
        notifier.check(subscription(f"apns://shop/{'0a' * 32}"))
        self.assertIsNone(clients._engine)

    def test_sections_that_cannot_be_used(self):
        good = self.apple.section(self.directory)
        for option in ("team", "key_id", "key_file", "topic"):
            with self.subTest(option), self.assertRaisesRegex(CannotStart, rf"\[apns_shop\] {option} is not set"):
                self.notifier(ApnsNotifier, {"shop": good | {option: None}})
        with self.assertRaisesRegex(CannotStart, "a-z"):
            self.notifier(ApnsNotifier, {"Shop!": good})
