"""The window that a credential asks for."""

import tempfile
import time
import unittest

from zaqar_notify import bootstrap
from zaqar_notify.errors import CannotStart
from zaqar_notify.model import Subscription
from zaqar_notify.notifiers import windows

APNS = "team = A1B2C3D4E5\nkey_id = F6G7H8I9J0\nkey_file = key.p8\ntopic = org.example.shop\n"
VAPID = "key_file = vapid.pem\nsubject = mailto:push@example.org\n"
TOKEN = "ab" * 32
CONFIGURATION = f"""
[email]
accounts = shop
host = smtp.example.org
sender = notify@example.org
[email_shop]
host = smtp.example.org
sender = shop@example.org
window = 60
[sms]
gateways = first, second
[sms_first]
url = https://gateway.example.org/?to={{to}}&text={{text}}
[sms_second]
url = https://gateway.example.org/?to={{to}}&text={{text}}
window = 30-90
[apns]
apps = shop, other
[apns_shop]
{APNS}window = 5-10
[apns_other]
{APNS}
[fcm]
apps = shop, other
[fcm_shop]
service_account = account.json
window = 1
[fcm_other]
service_account = account.json
[webpush]
apps = shop, other
window = 20
{VAPID}
[webpush_shop]
window = 86400
{VAPID}
[webpush_other]
{VAPID}
"""


class WindowTest(unittest.TestCase):
    def notifiers(self, text: str):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(text)
            file.flush()
            made = bootstrap.build_notifiers(bootstrap.configure(config_files=[file.name]))
        self.addCleanup(made.close)
        return made

    def test_each_notifier(self) -> None:
        notifiers = self.notifiers(CONFIGURATION)
        for uri, options, expected in (
            ("mailto:a@example.org?account=shop", {}, ("email account shop", 60.0, 60.0)),
            ("mailto:a@example.org", {"account": "shop"}, ("email account shop", 60.0, 60.0)),
            ("mailto:a@example.org", {}, None),
            ("mailto:a@example.org?account=gone", {}, None),
            ("sms:+46701234567?gateway=second", {}, ("sms second", 30.0, 90.0)),
            ("sms:+46701234567", {}, None),
            ("sms:+46701234567?gateway=gone", {}, None),
            (f"apns://shop/{TOKEN}", {}, ("apns/shop", 5.0, 10.0)),
            (f"apns://other/{TOKEN}", {}, None),
            (f"apns://gone/{TOKEN}", {}, None),
            ("fcm://shop/token", {}, ("fcm/shop", 1.0, 1.0)),
            ("fcm://other/token", {}, None),
            ("fcm://gone/token", {}, None),
            ("webpush+https://push.example.org/x", {}, ("webpush", 20.0, 20.0)),
            ("webpush+https://push.example.org/x", {"app": "shop"}, ("webpush/shop", 86400.0, 86400.0)),
            ("webpush+https://push.example.org/x", {"app": "other"}, None),
            ("webpush+https://push.example.org/x", {"app": "gone"}, None),
            ("https://example.org/", {}, None),
        ):
            with self.subTest(uri, options=options):
                subscription = Subscription("s1", "p", "q", uri, None, options, time.time(), None)
                self.assertEqual(expected, notifiers.pick(uri).window(subscription))

    def test_bad_ones_stop_the_start(self) -> None:
        for bad in ("0", "90-30", "x", "60s", "-5", "5-", "86401", "1-86401", "999999", "1.5"):
            with self.subTest(bad), self.assertRaisesRegex(CannotStart, r"\[sms_first\] window has to be seconds"):
                self.notifiers(
                    f"[sms]\ngateways = first\n[sms_first]\nurl = https://x.example/{{to}}{{text}}\nwindow = {bad}\n"
                )
        self.assertIsNone(windows.parse("", "x"))
        self.assertEqual((60.0, 60.0), windows.parse(" 60 ", "x"))
