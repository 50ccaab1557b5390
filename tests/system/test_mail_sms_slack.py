"""E-mail, short messages and Slack through a running service, to servers on this machine."""

import unittest

from tests.notifiers.endpoint import Endpoint, certificate
from tests.notifiers.mailserver import PASSWORD, USER, MailServer, text_of
from tests.notifiers.sms_providers import Kannel, Twilio
from tests.notifiers.test_slack import PATH, Slack
from tests.system.service import Service, wait_for

NUMBER = "46701234567"


class ChannelsTest(unittest.TestCase):
    def setUp(self):
        self.mail = MailServer(tls=certificate().context(), auth=True, answers={"nobody": "550 5.1.1 {address}: no such user"})
        self.twilio, self.kannel, self.slack = Twilio({NUMBER: 21610}), Kannel(), Slack()
        self.hook = Endpoint(self.slack, tls=certificate().context())
        for server in (self.mail, self.twilio, self.kannel, self.hook):
            self.addCleanup(server.close)
        account = {
            "host": "127.0.0.1",
            "port": self.mail.port,
            "ca_file": certificate().file,
            "sender": "Notify <notify@example.com>",
            "username": USER,
        }
        sections = {
            "webhook": {"ca_file": certificate().file},
            "email": {**account, "password": PASSWORD, "accounts": "broken"},
            "email_broken": {**account, "password": "wr0ng-password"},
            "sms": {"gateways": "twilio, kannel"},
            "sms_twilio": {
                "preset": "twilio",
                "url": self.twilio.url + "/2010-04-01/Accounts/{account}/Messages.json",
                "account": Twilio.SID,
                "username": Twilio.SID,
                "password": Twilio.TOKEN,
                "sender": "+15005550006",
            },
            "sms_kannel": {
                "preset": "kannel",
                "url": f"{self.kannel.url}/cgi-bin/sendsms",
                "username": Kannel.USER,
                "password": Kannel.PASSWORD,
                "internal": "true",
            },
            "slack": {"hosts": "127.0.0.1"},
            "notification": {"disable_after_strikes": 1},
        }
        lines = [
            line
            for name, options in sections.items()
            for line in (f"[{name}]", *(f"{option} = {value}" for option, value in options.items()))
        ]
        self.service = Service(self, "\n".join(lines) + "\n")
        self.service.start_api()
        self.service.start("worker")

    def subscribe(self, subscriber, **options):
        asked = {"subscriber": subscriber, "ttl": 600, "options": options}
        return self.service.request("POST", "/v2/queues/q/subscriptions", asked)

    def deliveries(self, message_id):
        _, found = self.service.request("GET", f"/v2/queues/q/messages/{message_id}/deliveries")
        return {one["subscription_id"]: one for one in found["deliveries"]}

    def test_all_of_them(self):
        subscribers = {
            "mailto:ann@example.org?subject=Orders": "delivered",
            "mailto:nobody@example.org": "dead",
            "mailto:bob@example.org?account=broken": "pending",
            "sms:+46700000001": "delivered",
            f"sms:+{NUMBER}": "gone",
            "sms:+46700000002?gateway=kannel": "delivered",
            f"slack+https://127.0.0.1:{self.hook.port}{PATH}": "delivered",
        }
        made = [self.subscribe(subscriber) for subscriber in subscribers]
        self.assertEqual([201] * len(subscribers), [status for status, _ in made])
        ids = [document["subscription_id"] for _, document in made]
        _, posted = self.service.request(
            "POST", "/v2/queues/q/messages", {"messages": [{"body": {"title": "T", "text": "hi"}}]}
        )
        message_id = posted["resources"][0].rpartition("/")[2]
        expected = dict(zip(ids, subscribers.values(), strict=True))

        def ended():
            found = self.deliveries(message_id)
            parked = {"parked": "pending"}  # the account's way is shut
            return {key: parked.get(one["state"], one["state"]) for key, one in found.items()} == expected and all(
                one["attempts"] for one in found.values()
            )

        wait_for(ended, "all deliveries to end")
        (mail,) = self.mail.mails
        self.assertEqual((["ann@example.org"], "Orders", USER), (mail.recipients, mail.parsed["Subject"], mail.user))
        self.assertTrue(mail.text.startswith("hi\n"))
        self.assertEqual(["hi"], [asked["Body"] for asked in self.twilio.taken])
        self.assertEqual(["hi"], [asked["text"] for asked in self.kannel.taken])
        self.assertEqual([{"text": "T\nhi"}], self.slack.payloads)
        self.assertEqual([], self.twilio.complaints + self.kannel.complaints)
        outcomes = [self.deliveries(message_id)[one]["attempts"][0]["outcome"] for one in ids]
        self.assertEqual(["delivered", "rejected", "auth", "delivered", "gone", "delivered", "delivered"], outcomes)
        for number in (1, 4):
            _, subscription = self.service.request("GET", f"/v2/queues/q/subscriptions/{ids[number]}")
            self.assertIn("disabled", subscription)
        log = self.service.log("worker")
        for secret in (PASSWORD, "wr0ng-password", Twilio.TOKEN, Kannel.PASSWORD, NUMBER, "4670000000", "@example.org", PATH):
            self.assertNotIn(secret, log)

    def test_templates_and_a_digest(self):
        text = {"de": "Hallo {{ body.name }}", "default": "Hello {{ body.name }}"}
        self.service.request("PUT", "/v2/queues/q", {"_templates": {"*": {"text": text, "title": "T"}}})
        own = {
            "email": {
                "subject": "For {{ body.name }}",
                "text": "{{ body.n }}. {{ message.language }}",
                "html": "<b>{{ body.name }}</b>",
            }
        }
        window = {"seconds": 3}
        for subscriber, options in (
            ("mailto:ann@example.org", {"templates": own, "window": window}),
            ("sms:+46700000002?gateway=kannel", {"language": "de"}),
            (f"slack+https://127.0.0.1:{self.hook.port}{PATH}", {}),
        ):
            self.assertEqual(201, self.subscribe(subscriber, **options)[0])
        sent = [{"body": {"n": n, "name": "<Ann>"}, "ttl": 600, "language": "de-AT"} for n in range(3)]
        _, posted = self.service.request("POST", "/v2/queues/q/messages", {"messages": sent})
        ids = [resource.rpartition("/")[2] for resource in posted["resources"]]

        def records():
            return [one for message_id in ids for one in self.deliveries(message_id).values()]

        wait_for(lambda: [one["state"] for one in records()] == ["delivered"] * 9, "all deliveries to end")
        (mail,) = self.mail.mails
        plain, page = (text_of(part) for part in mail.parsed.iter_parts())
        self.assertIn("[3/3] For <Ann>\n2. de-AT\n", plain)
        self.assertIn("<h3>[1/3] For &lt;Ann&gt;</h3>\n<div><b>&lt;Ann&gt;</b></div>", page)
        named = [one for one in records() if mail.parsed["Message-ID"] in one["attempts"][0].get("detail", "")]
        self.assertEqual(3, len(named))
        self.assertEqual(["Hallo <Ann>"] * 3, [asked["text"] for asked in self.kannel.taken])
        self.assertEqual([{"text": "T\nHallo &lt;Ann&gt;"}] * 3, self.slack.payloads)

    def test_what_can_never_work_is_refused_at_once(self):
        cases = {
            "mailto:nobody": "@",
            "mailto:ann@example.org?account=other": "no account",
            "sms:0701234567": "country",
            "sms:+46701234567?gateway=other": "no gateway",
            "slack+https://hooks.example.org/x": "127.0.0.1",
        }
        for subscriber, wrong in cases.items():
            with self.subTest(subscriber):
                status, document = self.subscribe(subscriber)
                self.assertEqual(400, status)
                self.assertIn(wrong, document["description"])
