"""`zaqar-notify receive`, alone and as a part of `serve`: started, spoken to, killed and stopped as a user would."""

from __future__ import annotations

import os
import pathlib
import signal
import smtplib
import socket
import tempfile
import unittest

from tests.notifiers.mailserver import MailServer
from tests.receiving.mails import DELIVERED, NO_SUCH_USER, letter, report
from tests.servers.base import free_port
from tests.system.service import WAIT, Service, wait_for
from tests.system.serving import Client, Program, children_of

OPTIONS = """
[email]
host = 127.0.0.1
port = {smtp}
starttls = never
sender = notify@example.com
bounce_to = bounces@notify.example.org
[receive]
listen = {listen}
"""


def hand_over(port: int, sender: str, recipient: str, mail: bytes) -> None:
    with smtplib.LMTP("127.0.0.1", port, local_hostname="mail.test", timeout=WAIT) as client:
        client.sendmail(sender, [recipient], mail)


class ReceiveTest(unittest.TestCase):
    def setUp(self) -> None:
        self.mail = MailServer()
        self.addCleanup(self.mail.close)
        self.port = free_port()
        self.service = Service(self, OPTIONS.format(smtp=self.mail.port, listen=f"127.0.0.1:{self.port}"))
        self.service.start_api()
        self.service.start("worker")

    def start(self):
        seen = self.service.log("receive").count(" ready for mails")
        process = self.service.start("receive")
        wait_for(lambda: self.service.log("receive").count(" ready for mails") > seen, "the receiver")
        return process

    def delivered(self):
        """Ids of a message and a subscription, and the mail."""
        subscription_id = self.service.subscribe("mailto:ann@example.org")["subscription_id"]
        (message_id,) = self.service.post("hello")
        wait_for(lambda: self.record(message_id)["state"] == "delivered", "the delivery")
        return message_id, subscription_id, self.mail.mails[0]

    def record(self, message_id):
        return (self.service.deliveries(message_id) or [{"state": None}])[0]

    def test_a_bounce_comes_into_the_record(self) -> None:
        self.start()
        message_id, subscription_id, mail = self.delivered()
        (envelope_id,) = [word[6:] for word in mail.mail_options if word.startswith("ENVID=")]
        self.assertEqual(f"bounces+{envelope_id}@notify.example.org", mail.sender)
        forged = f"bounces+{envelope_id[:-1]}{'b' if envelope_id[-1] == 'a' else 'a'}@notify.example.org"
        hand_over(self.port, "", forged, report(f"{message_id}-{subscription_id}"))
        hand_over(self.port, "", "bounces@notify.example.org", report(envelope_id, (DELIVERED,)))
        hand_over(self.port, "", mail.sender, report("lost", (NO_SUCH_USER,)))
        heard = [one["kind"] for one in self.record(message_id)["receipts"]]
        self.assertEqual(["delivered_to_device", "failed"], heard)
        wait_for(lambda: self.record(message_id)["state"] == "dead", "the end")
        log = self.service.log("receive")
        self.assertIn(f"delivery={message_id}-{subscription_id} delivered_to_device: delivered 2.0.0", log)
        self.assertIn(f"delivery={message_id}-{subscription_id} failed: failed 5.1.1", log)
        self.assertEqual(1, log.count("a mail was dropped"))
        for secret in (envelope_id, "ann@", "Traceback"):
            self.assertNotIn(secret, log)

    def test_unsubscribing_by_mail(self) -> None:
        self.start()
        _, subscription_id, mail = self.delivered()
        _, _, rest = mail.parsed["List-Unsubscribe"].partition("<mailto:")
        path = f"/v2/queues/demo/subscriptions/{subscription_id}"
        hand_over(self.port, "ann@example.org", mail.sender, letter())
        self.assertEqual(200, self.service.request("GET", path)[0], "that was an answer to the mail")
        hand_over(self.port, "ann@example.org", rest.partition("?")[0], letter())
        self.assertEqual(404, self.service.request("GET", path)[0])

    def test_it_is_stopped_and_killed_and_started_again(self) -> None:
        process = self.start()
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT) as connection:
            self.assertEqual(b"220", connection.recv(3))
            process.terminate()
            self.assertEqual(0, process.wait(WAIT))
        self.service.processes.remove(process)
        process = self.start()
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT) as connection:
            self.assertEqual(b"220", connection.recv(3))
            self.service.kill(process)
        self.start()
        hand_over(self.port, "", "x@notify.example.org", letter())
        self.assertNotIn("Traceback", self.service.log("receive"))

    def test_what_stops_the_start_is_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", self.port)):
            process = self.service.start("receive")
            self.assertEqual(2, process.wait(WAIT))
        self.service.processes.remove(process)
        (line,) = self.service.log("receive").splitlines()
        self.assertEqual(f"zaqar-notify: [receive] listen: cannot use 127.0.0.1:{self.port}: Address already in use", line)


class ServeTest(unittest.TestCase):
    def test_serve_looks_after_one_where_it_is_to_listen(self) -> None:
        directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="zaqar-notify-")))
        api, path = free_port(), directory / "lmtp"
        serve = Program(
            self,
            ["serve", "--port", str(api), "--data", str(directory / "var")],
            environment={"OS_RECEIVE__LISTEN": f"unix:{path}"},
        )
        serve.until("is ready on")
        serve.until(f"Bounces are taken by LMTP at unix:{path}")
        self.greeted(path)
        (pid,) = [pid for pid, words in children_of(serve.process.pid).items() if "zaqar_notify receive" in words]
        os.kill(pid, signal.SIGKILL)
        serve.until("the receiver ended .by signal SIGKILL.; starting it again")
        wait_for(lambda: self.greets(path), "the next one")
        self.assertEqual(0, serve.stop())
        self.assertFalse(path.exists())
        self.assertFalse(Client(f"http://127.0.0.1:{api}").answers())
        self.assertNotIn("Traceback", serve.output)

    def test_one_that_cannot_start_ends_it(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory(prefix="zaqar-notify-"))
        words = ["serve", "--port", str(free_port()), "--data", f"{directory}/var"]
        serve = Program(self, words, environment={"OS_RECEIVE__LISTEN": "unix:/nowhere/lmtp"})
        serve.until(r"\[receive\] listen: cannot use unix:/nowhere/lmtp: No such file or directory")
        self.assertEqual(2, serve.process.wait(WAIT))

    def greeted(self, path: pathlib.Path) -> None:
        self.assertTrue(self.greets(path))

    @staticmethod
    def greets(path: pathlib.Path) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(WAIT)
            return connection.connect_ex(str(path)) == 0 and connection.recv(3) == b"220"
