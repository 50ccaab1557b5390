"""The whole way of a bounce: a worker, a real Postfix, and `zaqar-notify receive` to which it hands over what came back."""

from __future__ import annotations

import pathlib
import re
import smtplib
import unittest
from typing import Any, ClassVar

from tests.notifiers.mailserver import MailServer
from tests.receiving.mails import letter
from tests.servers.base import free_port
from tests.servers.postfix import Postfix
from tests.system.service import WAIT, Service, wait_for

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs/channels/email.md"
OPTIONS = """
[email]
host = 127.0.0.1
port = {smtp}
starttls = never
sender = Notify <notify@notify.example.org>
dsn = all
bounce_to = bounces@notify.example.org
accounts = plain
[email_plain]
host = 127.0.0.1
port = {smtp}
starttls = never
sender = notify@notify.example.org
[receive]
listen = 127.0.0.1:{lmtp}
"""


def of_the_docs(lmtp: int) -> str:
    """What the page says to put into main.cf."""
    (block,) = re.findall(r"^```\n(relay_domains = .*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert "8824" in block
    return str(block).replace("8824", str(lmtp))


class PostfixTest(unittest.TestCase):
    """What is for box.example.org stays at this Postfix; all else it hands on to a server that knows nothing of reports."""

    far: ClassVar[MailServer]
    postfix: ClassVar[Postfix]
    service: ClassVar[Service]

    @classmethod
    def setUpClass(cls) -> None:
        cls.far = MailServer(dsn=False, answers={"nobody": "550 5.1.1 <{address}>: there is no such user here"})
        cls.addClassCleanup(cls.far.close)
        lmtp = free_port()
        cls.postfix = Postfix(settings=f"{of_the_docs(lmtp)}relayhost = [127.0.0.1]:{cls.far.port}\n")
        cls.addClassCleanup(cls.postfix.close)
        cls.service = Service(options=OPTIONS.format(smtp=cls.postfix.port, lmtp=lmtp))
        cls.addClassCleanup(cls.service.close)
        cls.service.start_api()
        cls.service.start("worker")

    def setUp(self) -> None:
        self.queue = self._testMethodName
        self.far.mails.clear()

    def receive(self) -> None:
        seen = self.service.log("receive").count(" ready for mails")
        process = self.service.start("receive")
        self.addCleanup(self.service.kill, process)
        wait_for(lambda: self.service.log("receive").count(" ready for mails") > seen, "the receiver")

    def send(self, *uris: str) -> dict[str, str]:
        """A message to them all; returns the ids of their subscriptions. Postfix has taken the mails."""
        made = {uri: self.service.subscribe(uri, self.queue)["subscription_id"] for uri in uris}
        (self.message_id,) = self.service.post("hello", queue=self.queue)
        wait_for(lambda: len([one for one in self.records().values() if one["attempts"]]) == len(made), "the attempts")
        return made

    def records(self) -> dict[str, Any]:
        return {one["subscription_id"]: one for one in self.service.deliveries(self.message_id, self.queue)}

    def heard(self, subscription_id: str) -> list[tuple[str, str]]:
        return [(one["kind"], one["detail"]) for one in self.records()[subscription_id]["receipts"]]

    def until_heard(self, subscription_id: str) -> list[tuple[str, str]]:
        try:
            return wait_for(lambda: self.heard(subscription_id), "a receipt")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.postfix.log}\n{self.service.log('receive')}") from error

    def test_what_comes_back(self) -> None:
        self.receive()
        nobody, ann, bob, plain = self.send(
            "mailto:nobody@example.com",
            "mailto:ann@box.example.org",
            "mailto:bob@example.com",
            "mailto:nobody@example.com?account=plain",
        ).values()
        failed = [("failed", "failed 5.1.1: 550 5.1.1 ... : there is no such user here")]
        self.assertEqual(failed, self.until_heard(nobody))
        self.assertEqual(failed, self.until_heard(plain), "known by the envelope's id alone")
        self.assertEqual(
            [("delivered_to_device", "delivered 2.0.0: delivery via virtual: delivered to maildir")], self.until_heard(ann)
        )
        # It has left for where nobody reports: a report says so, and ends nothing.
        wait_for(lambda: "bob" in "".join(mail.recipients[0] for mail in self.far.mails), "the mail")
        wait_for(lambda: not self.postfix.queue, "an empty queue")
        self.assertEqual([], self.heard(bob))
        self.assertEqual("delivered", self.records()[ann]["state"])
        for subscription_id in (nobody, plain):
            wait_for(lambda one=subscription_id: self.records()[one]["state"] == "dead", "the end")
        self.assertEqual(1, len(self.postfix.mailbox))
        self.assertNotIn("Traceback", self.service.log("receive") + self.service.log("worker"))

    def test_what_comes_while_nobody_receives_comes_later(self) -> None:
        (nobody,) = self.send("mailto:nobody@example.com").values()
        wait_for(lambda: re.search(r"postfix/lmtp.*status=deferred", self.postfix.log), f"a try\n{self.postfix.log}")
        self.assertEqual([], self.heard(nobody))
        self.receive()
        self.assertEqual(["failed"], [kind for kind, _ in self.until_heard(nobody)])

    def test_unsubscribing_by_mail(self) -> None:
        self.receive()
        (bob,) = self.send("mailto:bob@example.com").values()
        wait_for(lambda: self.far.mails, "the mail")
        (by_mail,) = re.findall(r"<mailto:(.*?)\?subject=unsubscribe>", self.far.mails[0].parsed["List-Unsubscribe"])
        with smtplib.SMTP("127.0.0.1", self.postfix.port, local_hostname="test", timeout=WAIT) as client:
            client.sendmail("bob@example.com", [by_mail], letter())
        path = f"/v2/queues/{self.queue}/subscriptions/{bob}"
        wait_for(lambda: self.service.request("GET", path)[0] == 404, f"the end of it\n{self.postfix.log}")
