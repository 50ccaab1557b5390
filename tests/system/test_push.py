"""Mobile push and web push through a running service, to push services on this machine."""

import tempfile
import unittest

from cryptography.hazmat.primitives.asymmetric import ec

from tests.notifiers.endpoint import certificate
from tests.notifiers.providers import FakeApns, FakeFcm, apns_device, pem, written
from tests.notifiers.webpushserver import PushService
from tests.system.service import Service, wait_for


class PushTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.apple, self.google, key = FakeApns(), FakeFcm(), ec.generate_private_key(ec.SECP256R1())
        self.pushes = PushService(key)
        for server in (self.apple, self.google, self.pushes):
            self.addCleanup(server.close)
        sections = {
            "webhook": {"ca_file": certificate().file},
            "apns": {"apps": "shop"},
            "apns_shop": self.apple.section(directory.name),
            "fcm": {"apps": "shop"},
            "fcm_shop": self.google.section(directory.name),
            "webpush": {"key_file": written(directory.name, "vapid.pem", pem(key)), "subject": "mailto:push@example.org"},
        }
        lines = [
            line
            for name, options in sections.items()
            for line in (f"[{name}]", *(f"{option} = {value}" for option, value in options.items()))
        ]
        self.service = Service(self, "\n".join(lines) + "\n")
        self.service.start_api()
        self.service.start("worker")

    def subscribe(self, subscriber, options=None):
        return self.service.request(
            "POST", "/v2/queues/q/subscriptions", {"subscriber": subscriber, "ttl": 600, "options": options or {}}
        )

    def states(self, message_id):
        _, found = self.service.request("GET", f"/v2/queues/q/messages/{message_id}/deliveries")
        return {one["subscription_id"]: one["state"] for one in found["deliveries"]}

    def test_all_of_them(self):
        good, gone = apns_device(), apns_device("Unregistered")
        self.apple.timestamp = 1 << 50
        subscribers = [f"apns://shop/{good}", f"apns://shop/{gone}", "fcm://shop/good-1", "fcm://shop/unregistered-1"]
        made = [self.subscribe(subscriber) for subscriber in subscribers]
        made.append(self.subscribe(self.pushes.subscriber(), {"keys": self.pushes.browser.keys}))
        self.assertEqual([201] * 5, [status for status, _ in made])
        ids = [document["subscription_id"] for _, document in made]
        _, posted = self.service.request("POST", "/v2/queues/q/messages", {"messages": [{"body": {"title": "T", "text": "t"}}]})
        message_id = posted["resources"][0].rpartition("/")[2]
        expected = dict(zip(ids, ["delivered", "gone", "delivered", "gone", "delivered"], strict=True))
        wait_for(lambda: self.states(message_id) == expected, "all deliveries to end")
        self.assertEqual("T", self.pushes.messages[0]["title"])
        _, subscription = self.service.request("GET", f"/v2/queues/q/subscriptions/{ids[1]}")
        self.assertEqual("gone", subscription["disabled"]["reason"])
        log = self.service.log("worker")
        for secret in (good, gone, "good-1", "ya29."):
            self.assertNotIn(secret, log)

    def test_what_can_never_work_is_refused_at_once(self):
        cases = [
            ("apns://shop/xyz", {}, "hexadecimal"),
            ("apns://other/" + "0a" * 32, {}, "known are: shop"),
            ("fcm://shop/", {}, "registration token"),
            (self.pushes.subscriber(), {}, "options.keys"),
            ("webpush+https://10.0.0.1/x", {"keys": self.pushes.browser.keys}, "not allowed"),
        ]
        for subscriber, options, wrong in cases:
            with self.subTest(subscriber):
                status, document = self.subscribe(subscriber, options)
                self.assertEqual(400, status)
                self.assertIn(wrong, document["description"])
