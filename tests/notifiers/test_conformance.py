"""Every notifier that this package ships does what a third party's has to do, each against its real counterpart."""

from __future__ import annotations

import tempfile
import unittest
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tests.notifiers.endpoint import Endpoint, answer, certificate
from tests.notifiers.mailserver import PASSWORD, USER, MailServer
from tests.notifiers.providers import FakeApns, FakeFcm, apns_device, pem, written
from tests.notifiers.webpushserver import PushService
from zaqar_notify.testing import NotifierConformance, Target

TOKEN = "t0ken-of-the-target"


class EndpointConformance(NotifierConformance):
    """Over HTTP, to an endpoint that takes anything."""

    test_a_digest_is_one_notification: Any = None  # none of them makes one
    reply = answer(200, body=b"ok")

    def setUp(self) -> None:
        self.endpoint = self.served(Endpoint(self.reply))
        self.ca_file = certificate().file

    def served(self, server: Any) -> Any:
        self.addCleanup(server.close)
        return server

    def arrived(self) -> int | None:
        return len(self.endpoint.requests)


class LogTest(NotifierConformance, unittest.TestCase):
    """Nothing of it can be wrong, and it goes nowhere."""

    scheme = "log"
    test_bad_targets_are_refused = test_bad_options_are_refused = test_a_bad_target_is_no_success = None
    test_a_target_where_nobody_is = test_a_target_that_hangs = test_a_dry_run_sends_nothing = None
    test_nothing_secret_is_logged = test_a_digest_is_one_notification = None

    def good(self) -> str:
        return "log:"

    def arrived(self) -> None:
        return None


class QueueTest(NotifierConformance, unittest.TestCase):
    scheme = "queue"
    bad_targets = ("queue:", "queue:a/b", "queue:conformance")
    test_a_target_where_nobody_is = test_a_target_that_hangs = test_a_dry_run_sends_nothing = None
    test_bad_options_are_refused = test_nothing_secret_is_logged = test_a_digest_is_one_notification = None

    def good(self) -> str:
        return "queue:other"

    def arrived(self) -> None:
        return None  # it is stored when the delivery is settled


class WebhookTest(EndpointConformance, unittest.TestCase):
    scheme = "http"
    bad_targets = ("http://", "http://user:password@example.org/")
    bad_options = ({"post_data": 5}, {"timeout": 10000})
    secrets = (TOKEN,)
    test_a_dry_run_sends_nothing = None  # it has none

    def good(self) -> str:
        return f"{self.endpoint.url}?token={TOKEN}"

    def at(self, address: str) -> str:
        return f"http://{address}/?token={TOKEN}"


class SlackTest(EndpointConformance, unittest.TestCase):
    scheme = "slack"
    bad_targets = ("slack:", "slack+http://127.0.0.1/x", "slack+https://example.org/x")
    secrets = (TOKEN,)
    test_bad_options_are_refused = None  # it has none

    def setUp(self) -> None:
        super().setUp()
        self.endpoint = self.served(Endpoint(self.reply, tls=certificate().context()))

    def good(self) -> str:
        return f"slack+{self.endpoint.url}/{TOKEN}"

    def at(self, address: str) -> str:
        return f"slack+https://{address}/{TOKEN}"

    def configuration(self) -> dict[str, Any]:
        return {"slack": {"hosts": ["127.0.0.1"]}}


class EmailTest(NotifierConformance, unittest.TestCase):
    scheme = "mailto"
    bad_targets = ("mailto:", "mailto:ann", "mailto:ann@example.org?account=unknown")
    bad_options = ({"from": "other@example.net"},)
    secrets = (PASSWORD,)

    def setUp(self) -> None:
        self.server = MailServer(auth=True, tls=certificate().context())
        self.addCleanup(self.server.close)

    def good(self) -> str:
        return "mailto:ann@example.org"

    def at(self, address: str) -> Target:
        host, _, port = address.rpartition(":")
        return Target(self.good(), configuration={"email": {"host": host, "port": int(port)}})

    def arrived(self) -> int:
        return len(self.server.mails)

    def configuration(self) -> dict[str, Any]:
        login = {"username": USER, "password": PASSWORD, "ca_file": certificate().file}
        return {"email": {"host": "127.0.0.1", "port": self.server.port, "sender": "notify@example.org", **login}}


class SmsTest(EndpointConformance, unittest.TestCase):
    scheme = "sms"
    bad_targets = ("sms:", "sms:12", "sms:+46701234567?gateway=unknown")
    secrets = (TOKEN, "46709999999")
    test_bad_options_are_refused = None  # it has none

    def good(self) -> Target:
        return self.at(f"127.0.0.1:{self.endpoint.port}")

    def at(self, address: str) -> Target:
        gateway = {"url": f"http://{address}/send?key={{password}}", "body": "to={to}&text={text}", "password": TOKEN}
        return Target("sms:+46709999999", configuration={"sms": {"gateways": ["main"]}, "sms_main": gateway})


class PushConformance(EndpointConformance):
    def setUp(self) -> None:
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name


class FcmTest(PushConformance, unittest.TestCase):
    scheme = "fcm"
    bad_targets = ("fcm:", "fcm://shop/", f"fcm://other/{TOKEN}")
    secrets = (TOKEN,)
    test_bad_options_are_refused = None  # it has none

    def setUp(self) -> None:
        super().setUp()
        self.google = self.served(FakeFcm())

    def good(self) -> str:
        return f"fcm://shop/{TOKEN}"

    def at(self, address: str) -> Target:
        return Target(self.good(), configuration={"fcm_shop": {"url": f"https://{address}"}})

    def arrived(self) -> int:
        return sum(not message.get("validate_only") for message in self.google.messages)

    def configuration(self) -> dict[str, Any]:
        return {"fcm": {"apps": ["shop"]}, "fcm_shop": self.google.section(self.directory)}


class ApnsTest(PushConformance, unittest.TestCase):
    scheme = "apns"
    bad_targets = ("apns:", "apns://shop/", "apns://shop/xyz", "apns://other/" + "a0" * 32)
    test_bad_options_are_refused = None  # it has none

    def setUp(self) -> None:
        super().setUp()
        self.apple = self.served(FakeApns())
        self.device = apns_device()
        self.secrets = (self.device,)

    def good(self) -> str:
        return f"apns://shop/{self.device}"

    def at(self, address: str) -> Target:
        return Target(self.good(), configuration={"apns_shop": {"url": f"https://{address}"}})

    def arrived(self) -> int:
        return len(self.apple.requests)

    def configuration(self) -> dict[str, Any]:
        return {"apns": {"apps": ["shop"]}, "apns_shop": self.apple.section(self.directory)}


class WebPushTest(PushConformance, unittest.TestCase):
    scheme = "webpush"
    bad_targets = ("webpush:", "webpush+https://", "webpush+https://127.0.0.1/push/x")  # the last one without keys
    bad_options = ({"keys": {}}, {"keys": {"p256dh": "x", "auth": "y"}}, {"keys": 5})
    secrets = (TOKEN,)

    def setUp(self) -> None:
        super().setUp()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.service = self.served(PushService(self.key))

    def good(self) -> Target:
        return Target(self.service.subscriber(TOKEN), {"keys": self.service.browser.keys})

    def at(self, address: str) -> Target:
        return Target(f"webpush+https://{address}/push/{TOKEN}", {"keys": self.service.browser.keys})

    def arrived(self) -> int:
        return len(self.service.messages)

    def configuration(self) -> dict[str, Any]:
        return {
            "webpush": {"key_file": written(self.directory, "vapid.pem", pem(self.key)), "subject": "mailto:push@example.org"}
        }
