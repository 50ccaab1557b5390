"""The whole way of a delivery report: a worker, gateways for short messages, and the API that they report to."""

from __future__ import annotations

import unittest
from typing import Any, ClassVar

from tests.notifiers import smsc
from tests.notifiers.sms_providers import Kannel, Twilio, Vonage, fetch
from tests.notifiers.smsc import MessageCentre
from tests.system.service import Service, wait_for

OPTIONS = """
[sms]
gateways = twilio, kannel, vonage, smpp
[sms_twilio]
preset = twilio
url = {twilio}/2010-04-01/Accounts/{{account}}/Messages.json
account = {sid}
username = {sid}
password = {token}
sender = +15005550006
[sms_kannel]
preset = kannel
url = {kannel}/cgi-bin/sendsms
username = {user}
password = {password}
internal = true
[sms_vonage]
preset = vonage
url = {vonage}/sms/json
username = {key}
password = {secret}
sender = Notify
[sms_smpp]
preset = smpp
url = smpp://127.0.0.1:{centre}
username = {system}
password = {word}
"""


class ReportsTest(unittest.TestCase):
    twilio: ClassVar[Twilio]
    kannel: ClassVar[Kannel]
    vonage: ClassVar[Vonage]
    centre: ClassVar[MessageCentre | None]
    service: ClassVar[Service]

    @classmethod
    def setUpClass(cls) -> None:
        cls.twilio, cls.kannel, cls.vonage = Twilio(), Kannel(), Vonage()
        for provider in (cls.twilio, cls.kannel, cls.vonage):
            cls.addClassCleanup(provider.close)
        values = {"sid": Twilio.SID, "token": Twilio.TOKEN, "user": Kannel.USER, "password": Kannel.PASSWORD}
        values |= {"key": Vonage.KEY, "secret": Vonage.SECRET, "system": smsc.USER, "word": smsc.PASSWORD}
        urls = {"twilio": cls.twilio.url, "kannel": cls.kannel.url, "vonage": cls.vonage.url}
        cls.centre = MessageCentre() if smsc.is_there() else None
        if cls.centre is not None:
            cls.addClassCleanup(cls.centre.close)
        cls.service = Service(options=OPTIONS.format(**values, **urls, centre=cls.centre.port if cls.centre else 1))
        cls.addClassCleanup(cls.service.close)
        cls.service.environment["OS_API__PUBLIC_URL"] = cls.service.url
        cls.service.start_api()
        cls.service.start("worker")

    def setUp(self) -> None:
        self.queue = self._testMethodName
        for provider in (self.twilio, self.kannel, self.vonage):
            provider.taken.clear()

    def send(self, *uris: str) -> list[str]:
        """A message to them all; returns the ids of their subscriptions."""
        made = [self.service.subscribe(uri, self.queue)["subscription_id"] for uri in uris]
        (self.message_id,) = self.service.post("hello", queue=self.queue)
        wait_for(lambda: len([one for one in self.records().values() if one["attempts"]]) == len(made), "the attempts")
        return made

    def records(self) -> dict[str, Any]:
        return {one["subscription_id"]: one for one in self.service.deliveries(self.message_id, self.queue)}

    def heard(self, subscription_id: str) -> list[tuple[str, str]]:
        return [(one["kind"], one["detail"]) for one in self.records()[subscription_id]["receipts"]]

    def test_each_gateway_reports_in_its_own_way(self) -> None:
        by_twilio, by_kannel, by_vonage = self.send(
            "sms:+46700000001", "sms:+46700000002?gateway=kannel", "sms:+46700000003?gateway=vonage"
        )
        (asked,) = self.twilio.taken
        self.assertEqual(204, self.twilio.report(asked, "sent"))
        self.assertEqual([], self.heard(by_twilio))
        self.assertEqual(204, self.twilio.report(asked, "delivered"))
        self.assertEqual([("delivered_to_device", "the gateway twilio reported delivered")], self.heard(by_twilio))
        self.assertEqual("delivered_to_device", self.records()[by_twilio]["progress"])
        (asked,) = self.kannel.taken
        for state, said in ((8, "ACK/"), (1, "id:1 stat:DELIVRD err:000 text:hello")):
            self.assertEqual(200, self.kannel.report(asked, state, said))
        expected = "the gateway kannel reported 1"
        self.assertEqual([("delivered_to_device", expected)], self.heard(by_kannel))
        (asked,) = self.vonage.taken
        for how, status in (("GET", 200), ("JSON", 204), ("FORM", 204)):
            self.assertEqual(status, self.vonage.report(asked, "delivered", how=how))
        self.assertEqual([("delivered_to_device", "the gateway vonage reported delivered")], self.heard(by_vonage))
        self.assertEqual([], self.twilio.complaints + self.kannel.complaints + self.vonage.complaints)

    def test_a_message_centre_reports_over_the_connection(self) -> None:
        if self.centre is None:
            raise unittest.SkipTest("server missing: smpp")
        # It does so right behind its answer, and before that is stored.
        there, lost = self.send("sms:+46700000001?gateway=smpp", "sms:+460450120000?gateway=smpp")
        wait_for(lambda: self.heard(there) and self.heard(lost), "the reports")
        self.assertEqual([("delivered_to_device", "the gateway smpp reported DELIVRD")], self.heard(there))
        self.assertEqual([("failed", "the gateway smpp reported UNDELIV, error 012")], self.heard(lost))
        wait_for(lambda: self.records()[lost]["state"] == "dead", "the end")
        self.assertEqual("delivered", self.records()[there]["state"])

    def test_a_failure_is_in_the_record(self) -> None:
        (by_twilio,) = self.send("sms:+46700000001")
        (asked,) = self.twilio.taken
        for _ in range(2):  # providers repeat themselves
            self.assertEqual(204, self.twilio.report(asked, "undelivered", 30005))
        self.assertEqual([("failed", "the gateway twilio reported undelivered, code 30005")], self.heard(by_twilio))
        wait_for(lambda: self.records()[by_twilio]["state"] == "dead", "the end")

    def test_a_forged_report_changes_nothing(self) -> None:
        (by_twilio,) = self.send("sms:+46700000001")
        (asked,) = self.twilio.taken
        url = asked["StatusCallback"]
        self.assertTrue(url.startswith(f"{self.service.url}/v2/receipts/r"), url)
        for forged in (f"{url[:-1]}{'0' if url[-1] != '0' else '1'}", url.replace("/receipts/r", "/receipts/a"), f"{url}0"):
            self.assertEqual(403, fetch(forged, b"MessageStatus=undelivered&ErrorCode=30005"))
        self.assertEqual([], self.heard(by_twilio))
