"""How subscribers are shown in alerts and logs."""

import json
import unittest

from zaqar_notify.alerts import Alerts
from zaqar_notify.masking import hashed, masked
from zaqar_notify.model import Message, State, Subscription

TOKEN = "ab" * 32


class MaskedTest(unittest.TestCase):
    SHOWN = {
        "http://example.org/hook": "http://example.org/hook",
        "HTTPS://user:pass@example.org:8443/hook?token=s3cret#frag": "https://example.org:8443/hook?...",
        "mailto:ann@example.org?subject=Hi": f"mailto:{hashed('ann@example.org')}",
        "sms:+46701234567?gateway=twilio": f"sms:{hashed('+46701234567')}",
        f"fcm://shop/{TOKEN}": f"fcm://shop/{hashed(TOKEN)}",
        f"apns://shop/{TOKEN}": f"apns://shop/{hashed(TOKEN)}",
        "webpush+https://push.example.org/wpush/v2/gAAA?x=1": f"webpush+https://push.example.org/{hashed('/wpush/v2/gAAA?x=1')}",
        "webpush+https://push.example.org": f"webpush+https://push.example.org/{hashed('/')}",
        "slack+https://hooks.slack.com/services/T/B/s3cret": f"slack+https://hooks.slack.com/{hashed('/services/T/B/s3cret')}",
        "apprise+tgram://bot-token/chat": f"apprise+tgram:{hashed('//bot-token/chat')}",
        "log:": "log:",
        "queue:orders": "queue:orders",
        "pager://user:pass@host.example:99/device/s3cret?key=s3cret": "pager://host.example:99",
        "pager:s3cret": f"pager:{hashed('s3cret')}",
        "pager:": "pager:",
        "pager://[s3cret": f"pager:{hashed('//[s3cret')}",
        "http://[s3cret/": f"http:{hashed('//[s3cret/')}",
    }

    def test_each_scheme(self) -> None:
        for uri, shown in self.SHOWN.items():
            with self.subTest(uri):
                self.assertEqual(shown, masked(uri))
                self.assertNotIn("s3cret", shown.partition("sha256:")[0])

    def test_the_same_is_shown_the_same(self) -> None:
        self.assertEqual(masked("mailto:ann@example.org"), masked("MAILTO:ann@example.org?account=shop"))
        self.assertRegex(hashed("x"), r"\Asha256:[0-9a-f]{12}\Z")
        self.assertRegex(hashed("\ud800"), r"\Asha256:[0-9a-f]{12}\Z")

    def test_an_alert_names_nobody(self) -> None:
        message = Message("m1", "p", "orders", b"1", 60, 0.0, 60.0)
        subscription = Subscription("s1", "p", "orders", "mailto:ann@example.org", None, {}, 0.0, None)
        (alert,) = Alerts("alerts").dead(message, subscription, State.DEAD, "no such user", 1.0)
        shown = json.loads(alert.draft.body_json)
        self.assertEqual(masked(subscription.subscriber), shown["subscriber"])
        self.assertNotIn("ann", alert.draft.body_json.decode())
