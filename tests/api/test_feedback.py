"""What recipients and carriers answer, over the links in notifications."""

import json
import logging
import re
import urllib.parse

from tests.api.case import SIGNER, TOKENS, ApiCase, OverMemory, OverSql
from zaqar_notify.api import feedback
from zaqar_notify.api.confirmation import Confirmations
from zaqar_notify.api.identity import ApiKeys, KeystoneTokens
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.feedback import PATHS, Tokens, Use
from zaqar_notify.model import Disabled, LogEntry, MessageKind, OutcomeKind, Receipt, ReceiptKind, State, delivery_id
from zaqar_notify.storage.base import Settlement
from zaqar_notify.storage.memory import MemoryStorage

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
FORM = "application/x-www-form-urlencoded"
BEFORE = dict(PATHS.values())


def link(use, message_id, subscription_id, target=0, tokens=TOKENS):
    return BEFORE[use] + tokens.make(use, delivery_id(message_id, subscription_id), target)


class FeedbackCase(ApiCase):
    """Requests as those who follow a link make them: with none of the headers that callers have."""

    def follow(self, status, method, path, *, accept="*/*", headers=None, **options):
        everything = {"Accept": accept, **(headers or {})}
        answer = self.call(method, path, project=None, client_id=None, headers=everything, **options)
        self.assertEqual(answer.status_code, status, answer.text)
        self.assertEqual(answer.headers["cache-control"], "no-store")
        self.assertEqual(answer.headers["referrer-policy"], "no-referrer")
        self.assertNotIn("location", answer.headers)
        self.assertRegex(answer.headers["x-openstack-request-id"], r"\Areq-[0-9a-f-]{36}\Z")
        if status == 204:
            self.assertEqual(answer.content, b"")
        elif status >= 400 and accept != BROWSER:
            self.assertEqual(set(answer.json), {"title", "description"})
        return answer

    def page(self, status, method, path, **options):
        answer = self.follow(status, method, path, accept=BROWSER, **options)
        self.assertEqual(answer.headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual(answer.headers["x-frame-options"], "DENY")
        self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
        policy = answer.headers["content-security-policy"]
        for rule in ("default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
            self.assertIn(rule, policy.split("; "))
        self.assertNotRegex(answer.text, r"<script|<img|<link|https?:|\bon\w+=|style=")
        for part in ('<html lang="en">', "<title>", "<h1>", "<main>"):
            self.assertIn(part, answer.text)
        self.assertLess(len(answer.content), 4000)
        return answer.text

    def record(self, message_id, subscription_id):
        return self.ok("GET", f"/v2/queues/q/messages/{message_id}/deliveries/{subscription_id}").json

    def heard(self, message_id, subscription_id):
        return self.storage.get_delivery("p", "q", message_id, subscription_id).receipts

    def is_there(self, subscription_id):
        return self.storage.get_subscription("p", "q", subscription_id) is not None


class AcknowledgementTests:
    def test_it_is_in_the_record(self):
        subscription_id = self.subscribe()
        message_id = self.deliver(subscription_id)
        path = link(Use.ACKNOWLEDGE, message_id, subscription_id)
        self.clock.now += 7
        at = self.clock.now
        for _ in range(2):
            self.follow(204, "POST", path)
            self.clock.now += 1
        self.assertEqual(self.heard(message_id, subscription_id), (Receipt(ReceiptKind.ACKNOWLEDGED, at),))

    def test_any_body(self):
        subscription_id = self.subscribe()
        path = link(Use.ACKNOWLEDGE, self.deliver(subscription_id), subscription_id)
        for body in (b"", b"{", b"\xff", b"a=1", b"x" * 16384):
            for content_type in (None, FORM, "application/json", "x", "text/html"):
                self.follow(204, "POST", path, body=body, headers={"Content-Type": content_type} if content_type else {})
        self.follow(400, "POST", path, body=b"x" * 16385)

    def test_what_is_not_known_any_more(self):
        subscription_id = self.subscribe()
        message_id = self.deliver(subscription_id)
        unknown = "f" * 16
        for ids in ((unknown, subscription_id), (message_id, unknown), (message_id, self.subscribe(1)), ("1", "2")):
            self.follow(404, "POST", link(Use.ACKNOWLEDGE, *ids))

    def test_what_was_not_sent_yet(self):
        subscription_id = self.subscribe()
        [message_id] = self.post("x")
        path = link(Use.ACKNOWLEDGE, message_id, subscription_id)
        answer = self.follow(503, "POST", path)
        self.assertEqual(answer.headers["retry-after"], "1")
        self.storage.take(self.storage.join(), 30.0, entries=1, rows=0)
        self.follow(503, "POST", path)

    def test_after_message_and_subscription_are_gone(self):
        subscription_id = self.subscribe()
        message_id = self.deliver(subscription_id)
        self.ok("DELETE", f"/v2/queues/q/messages/{message_id}", status=204)
        self.ok("DELETE", f"/v2/queues/q/subscriptions/{subscription_id}", status=204)
        self.follow(204, "POST", link(Use.ACKNOWLEDGE, message_id, subscription_id))
        self.follow(204, "POST", link(Use.ACKNOWLEDGE, message_id, subscription_id))
        self.assertEqual(len(self.heard(message_id, subscription_id)), 1)

    def test_of_a_test_notification(self):
        subscription_id = self.subscribe()
        pinged = self.ok("POST", f"/v2/queues/q/subscriptions/{subscription_id}/ping", status=202).json["message_id"]
        self.follow(503, "POST", link(Use.ACKNOWLEDGE, pinged, subscription_id))


class ReportTests:
    def setUp(self):
        super().setUp()
        self.subscription_id = self.subscribe()
        self.message_id = self.deliver(self.subscription_id)
        self.path = link(Use.RECEIPT, self.message_id, self.subscription_id)

    def reported(self, path, **options):
        """What the notifier is given of it."""
        answer = self.follow(204, "POST", path, **options)
        self.assertEqual(answer.content, b"")
        return self.reports[-1][1]

    def form(self, **options):
        return {"headers": {"Content-Type": options.pop("content_type", FORM)}, **options}

    def test_fields(self):
        self.assertEqual(self.reported(self.path), {})
        self.assertEqual(
            self.reported(self.path + "?a=1&b=&c=x%20y&c=z&%C3%A4=%E2%82%AC"), {"a": "1", "b": "", "c": "z", "ä": "€"}
        )
        self.assertEqual(self.reported(self.path, **self.form(body="a=1&b=x+y&=")), {"a": "1", "b": "x y", "": ""})
        with_charset = self.form(body="a=%C3%A4", content_type=f"{FORM.upper()}; charset=UTF-8")
        self.assertEqual(self.reported(self.path + "?a=0&b=1", **with_charset), {"a": "ä", "b": "1"})
        document = {"s": "x", "i": 5, "f": 1.5, "t": True, "n": None, "l": [1, "a"], "o": {"number": "+46"}, "a": "2"}
        self.assertEqual(
            self.reported(self.path + "?a=1&z=", body=json.dumps(document), headers={"Content-Type": "application/json"}),
            {"s": "x", "i": "5", "f": "1.5", "t": "true", "l": '[1,"a"]', "o": '{"number":"+46"}', "a": "2", "z": ""},
        )
        self.assertEqual(self.reported(self.path, body="{}", headers={"Content-Type": "application/x+json"}), {})
        self.assertEqual({subscriber for subscriber, _ in self.reports}, {"http://endpoint.example/0"})

    def test_by_get(self):
        answer = self.follow(200, "GET", self.path + "?status=delivered&to=%2B4670")
        self.assertEqual(answer.content, b"")
        self.assertEqual(self.reports, [("http://endpoint.example/0", {"status": "delivered", "to": "+4670"})])
        self.follow(200, "GET", self.path, body="status=x", headers={"Content-Type": FORM})
        self.assertEqual(self.reports[-1][1], {})
        self.assertEqual(len(self.heard(self.message_id, self.subscription_id)), 1)

    def test_what_cannot_be_read(self):
        for body, content_type in (
            ("a=1", "text/plain"),
            ("a=1", "multipart/form-data; boundary=x"),
            ("{", "application/json"),
            ("[]", "application/json"),
            ('"a"', "application/json"),
            ('{"a": NaN}', "application/json"),
            ('{"a": "\\ud800"}', "application/json"),
            ("[" * 9000, "application/json"),
            ("a=" + "x" * 16384, FORM),
            ("&".join(f"f{number}=" for number in range(101)), FORM),
            (json.dumps({f"f{number}": 1 for number in range(101)}), "application/json"),
        ):
            with self.subTest(body=body[:20], content_type=content_type):
                self.follow(400, "POST", self.path, body=body, headers={"Content-Type": content_type})
        self.follow(400, "POST", self.path, body="a=1")
        self.follow(400, "GET", self.path + "?" + "&".join(f"f{number}=" for number in range(101)))
        together = "&".join(f"f{number}=" for number in range(51)), "&".join(f"g{number}=" for number in range(50))
        self.follow(400, "POST", f"{self.path}?{together[0]}", **self.form(body=together[1]))
        self.assertEqual(self.reports, [])
        self.assertEqual(len(self.reported(f"{self.path}?{together[0][:-5]}", **self.form(body=together[1]))), 100)

    def test_what_it_says_is_stored(self):
        self.clock.now += 5
        self.wakes.clear()
        self.follow(204, "POST", self.path + "?status=sent")
        self.assertEqual(self.heard(self.message_id, self.subscription_id), ())
        self.follow(204, "POST", self.path + "?status=delivered&reason=ok")
        self.follow(204, "POST", self.path + "?status=delivered&reason=again")
        device = Receipt(ReceiptKind.DEVICE, self.clock.now, "ok")
        self.assertEqual(self.heard(self.message_id, self.subscription_id), (device,))
        self.assertEqual(self.wakes, [])

    def test_a_failure_wakes_a_worker(self):
        self.wakes.clear()
        self.follow(204, "POST", self.path + "?status=undelivered&reason=" + urllib.parse.quote("30003 unreachable"))
        [receipt] = self.heard(self.message_id, self.subscription_id)
        self.assertEqual((receipt.kind, receipt.detail), (ReceiptKind.FAILED, "30003 unreachable"))
        self.assertEqual(len(self.wakes), 1)
        [row] = self.storage.take(self.storage.join(), 30.0, entries=0, rows=10).rows
        self.assertEqual((row.message_id, row.report), (self.message_id, receipt))

    def test_the_reason_is_one_line(self):
        reason = "\0a\r\nb\t\u2028c  d\x1b[31m" + "x" * 10000
        self.follow(204, "POST", f"{self.path}?status=delivered", **self.form(body=urllib.parse.urlencode({"reason": reason})))
        [receipt] = self.heard(self.message_id, self.subscription_id)
        self.assertTrue(receipt.detail.startswith("a b c d [31mxxx"), receipt.detail)
        self.assertEqual(len(receipt.detail), feedback.MOST_DETAIL)

    def test_of_an_address_that_is_a_fallback(self):
        fallback = ["http://endpoint.example/first", "http://endpoint.example/second"]
        one = f"/v2/queues/q/subscriptions/{self.subscription_id}"
        self.ok("PATCH", one, {"options": {"fallback": fallback}}, status=204)
        for target, uri in enumerate(["http://endpoint.example/0", *fallback]):
            self.follow(204, "POST", link(Use.RECEIPT, self.message_id, self.subscription_id, target) + "?status=sent")
            self.assertEqual(self.reports[-1][0], uri)
        self.follow(404, "POST", link(Use.RECEIPT, self.message_id, self.subscription_id, 3) + "?status=delivered")
        self.ok("PATCH", one, {"options": {}}, status=204)
        self.follow(404, "POST", link(Use.RECEIPT, self.message_id, self.subscription_id, 1) + "?status=delivered")
        self.assertEqual(self.heard(self.message_id, self.subscription_id), ())

    def test_of_a_subscription_that_is_disabled_or_deleted(self):
        changes = {"disabled": Disabled("gone", self.clock.now)}
        self.assertIsNotNone(self.storage.update_subscription("p", "q", self.subscription_id, changes))
        self.follow(204, "POST", self.path + "?status=delivered")
        self.assertEqual(len(self.heard(self.message_id, self.subscription_id)), 1)
        self.ok("DELETE", f"/v2/queues/q/subscriptions/{self.subscription_id}", status=204)
        self.follow(404, "POST", self.path + "?status=undelivered")

    def test_a_late_failure_of_another_address_changes_nothing(self):
        one = f"/v2/queues/q/subscriptions/{self.subscription_id}"
        self.ok("PATCH", one, {"options": {"fallback": ["http://endpoint.example/first"]}}, status=204)
        self.follow(204, "POST", self.path + "?status=undelivered")
        worker = self.storage.join()
        for line in (
            LogEntry(2, self.clock.now, State.PENDING, OutcomeKind.REJECTED),
            LogEntry(3, self.clock.now, State.DELIVERED, OutcomeKind.DELIVERED, target=1),
        ):
            taken = self.storage.take(worker, 30.0, entries=0, rows=10)
            due_at = None if line.state.ended else self.clock.now
            self.storage.settle(
                [
                    Settlement(
                        self.message_id,
                        self.subscription_id,
                        taken.token,
                        True,
                        line,
                        due_at=due_at,
                        lines=line.number,
                        target=1,
                    )
                ]
            )
        self.follow(204, "POST", self.path + "?status=undelivered&reason=second+part")
        self.assertEqual(list(self.storage.take(worker, 30.0, entries=0, rows=10).rows), [])
        self.follow(204, "POST", link(Use.RECEIPT, self.message_id, self.subscription_id, 1) + "?status=undelivered")
        [row] = self.storage.take(worker, 30.0, entries=0, rows=10).rows
        self.assertEqual((row.target, row.report.kind), (1, ReceiptKind.FAILED))

    def test_a_failure_while_it_is_sent_again_has_to_come_once_more(self):
        self.storage.redeliver("p", "q", self.message_id, self.subscription_id, 60)
        worker = self.storage.join()
        taken = self.storage.take(worker, 30.0, entries=0, rows=10)
        self.follow(503, "POST", self.path + "?status=undelivered")
        self.assertEqual(self.heard(self.message_id, self.subscription_id), ())
        line = LogEntry(2, self.clock.now, State.DELIVERED, OutcomeKind.DELIVERED)
        self.storage.settle([Settlement(self.message_id, self.subscription_id, taken.token, True, line)])
        self.follow(204, "POST", self.path + "?status=undelivered")
        [row] = self.storage.take(worker, 30.0, entries=0, rows=10).rows
        self.assertEqual(row.report.kind, ReceiptKind.FAILED)

    def test_what_is_not_known(self):
        self.follow(404, "POST", link(Use.RECEIPT, "f" * 16, self.subscription_id) + "?status=delivered")
        self.follow(404, "GET", link(Use.RECEIPT, self.message_id, "f" * 16) + "?status=delivered")
        # Nothing is stored of what says nothing.
        self.follow(204, "POST", link(Use.RECEIPT, "f" * 16, self.subscription_id) + "?status=sent")


class UnsubscriptionTests:
    def setUp(self):
        super().setUp()
        self.subscription_id = self.subscribe()
        self.message_id = self.deliver(self.subscription_id)
        self.path = link(Use.UNSUBSCRIBE, self.message_id, self.subscription_id)

    def test_a_get_changes_nothing(self):
        for _ in range(3):
            page = self.page(200, "GET", self.path)
        self.assertTrue(self.is_there(self.subscription_id))
        self.assertIn("queue q ", page)
        self.assertEqual(re.findall(r"<form[^>]*>", page), ['<form method="post">'])
        self.assertEqual(re.findall(r"<button[^>]*>", page), ['<button type="submit">'])
        self.assertNotIn("endpoint.example", page)
        for accept in ("application/json", "*/*", "image/png", "x", ""):
            answer = self.follow(200, "GET", self.path, accept=accept)
            self.assertEqual((answer.text, answer.headers["content-type"]), (page, "text/html; charset=utf-8"))

    def test_by_the_button(self):
        page = self.page(200, "POST", self.path, headers={"Content-Type": FORM})
        self.assertFalse(self.is_there(self.subscription_id))
        self.assertIn("queue q.", page)
        self.assertNotIn("<form", page)
        self.assertEqual(self.page(200, "POST", self.path), page)
        self.assertEqual(self.page(200, "GET", self.path), page)

    def test_in_one_click(self):
        for body, content_type in (
            ("List-Unsubscribe=One-Click", FORM),
            (
                '--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n',
                "multipart/form-data",
            ),
        ):
            self.follow(204, "POST", self.path, body=body, headers={"Content-Type": content_type})
            self.assertFalse(self.is_there(self.subscription_id))
        self.follow(204, "POST", self.path, accept="application/json")

    def test_who_was_a_fallback_address_ends_nothing_any_more(self):
        path = link(Use.UNSUBSCRIBE, self.message_id, self.subscription_id, 1)
        self.assertIn("gets no more notifications", self.page(200, "GET", path))
        self.follow(204, "POST", path)
        self.assertTrue(self.is_there(self.subscription_id))
        one = f"/v2/queues/q/subscriptions/{self.subscription_id}"
        self.ok("PATCH", one, {"options": {"fallback": ["http://endpoint.example/first"]}}, status=204)
        self.follow(204, "POST", path)
        self.assertFalse(self.is_there(self.subscription_id))

    def test_its_body_is_bounded(self):
        self.follow(400, "POST", self.path, body=b"x" * 16385)
        self.assertTrue(self.is_there(self.subscription_id))

    def test_open_deliveries_are_cancelled(self):
        [message_id] = self.post("x")
        self.follow(204, "POST", self.path)
        taken = self.storage.take(self.storage.join(), 30.0, entries=10, rows=10)
        loaded = self.storage.load([entry.message_id for entry in taken.entries], [self.subscription_id])
        self.assertEqual(([*loaded.messages], dict(loaded.subscriptions)), ([message_id], {}))

    def test_others_stay(self):
        other = self.subscribe(1)
        self.follow(204, "POST", self.path)
        self.assertTrue(self.is_there(other))

    def test_what_is_not_known_any_more_is_unsubscribed(self):
        path = link(Use.UNSUBSCRIBE, "f" * 16, "e" * 16)
        self.assertIn("this queue", self.page(200, "GET", path))
        self.page(200, "POST", path)
        self.follow(204, "POST", path)


class ConfirmationTests:
    def setUp(self):
        super().setUp()
        self.subscription_id = self.subscribe()
        self.request = self.requests()[0]
        self.path = link(Use.CONFIRM, self.request, self.subscription_id)

    def requests(self):
        """Ids of the messages that ask to confirm, as a worker takes them; it is done with them then."""
        taken = self.storage.take(self.storage.join(), 30.0, entries=10, rows=10)
        messages = self.storage.load([row.message_id for row in taken.rows], []).messages
        self.storage.settle([Settlement(row.message_id, row.subscription_id, taken.token, True) for row in taken.rows])
        self.assertEqual({message.kind for message in messages.values()}, {MessageKind.CONFIRMATION})
        return [row.message_id for row in taken.rows]

    def is_confirmed(self):
        return self.storage.get_subscription("p", "q", self.subscription_id).confirmed

    def change(self, **document):
        self.ok("PATCH", f"/v2/queues/q/subscriptions/{self.subscription_id}", document, status=204)

    def test_a_get_changes_nothing(self):
        page = self.page(200, "GET", self.path)
        self.assertIn("queue q ", page)
        self.assertEqual(page.count("<form"), 1)
        self.assertEqual(self.follow(200, "GET", self.path, accept="application/json").text, page)
        self.assertFalse(self.is_confirmed())

    def test_by_the_button(self):
        page = self.page(200, "POST", self.path)
        self.assertTrue(self.is_confirmed())
        self.assertIn("queue q.", page)
        self.assertEqual([self.page(200, method, self.path) for method in ("GET", "POST")], [page, page])

    def test_by_a_program(self):
        for accept in ("*/*", "application/json"):
            self.follow(204, "POST", self.path, accept=accept)
            self.assertTrue(self.is_confirmed())

    def test_also_where_no_confirmation_is_required_any_more(self):
        self.require_confirmation = False
        self.client = self.make_client()
        self.follow(204, "POST", self.path)
        self.assertTrue(self.is_confirmed())

    def test_not_for_another_address(self):
        self.change(subscriber="http://endpoint.example/another")
        [again] = self.requests()
        self.assertIn("Ask whoever", self.page(410, "GET", self.path))
        self.page(410, "POST", self.path)
        self.follow(410, "POST", self.path)
        self.assertFalse(self.is_confirmed())
        self.follow(204, "POST", link(Use.CONFIRM, again, self.subscription_id))
        self.assertTrue(self.is_confirmed())

    def test_when_nothing_but_the_options_have_changed(self):
        self.change(options={"max_in_flight": 1}, ttl=3600)
        self.follow(204, "POST", self.path)

    def test_not_when_it_is_too_late(self):
        self.clock.now += 3599
        self.page(200, "GET", self.path)
        self.clock.now += 1
        self.follow(410, "GET", self.path)
        self.follow(410, "POST", self.path)
        self.assertFalse(self.is_confirmed())

    def test_not_by_what_did_not_ask(self):
        """What was sent to an earlier address, or to one of the fallback, says nothing about the present one."""
        message_id = self.deliver(self.subscription_id)
        self.follow(410, "POST", link(Use.CONFIRM, message_id, self.subscription_id))
        self.follow(410, "POST", link(Use.CONFIRM, self.request, self.subscription_id, 1))
        self.follow(410, "POST", link(Use.CONFIRM, "f" * 16, self.subscription_id))
        other = self.subscribe(1)
        self.follow(410, "POST", link(Use.CONFIRM, self.request, other))
        self.assertFalse(self.is_confirmed())

    def test_not_what_is_gone(self):
        self.follow(404, "POST", link(Use.CONFIRM, self.request, "f" * 16))
        self.change(ttl=60)
        self.clock.now += 60
        self.follow(404, "GET", self.path)
        self.follow(404, "POST", self.path)
        self.ok("DELETE", f"/v2/queues/q/subscriptions/{self.subscription_id}", status=204)
        self.follow(404, "POST", self.path)
        self.assertIn("no such subscription", self.page(404, "GET", self.path))

    def test_after_its_queue_was_deleted(self):
        self.ok("DELETE", "/v2/queues/q", status=204)
        self.follow(204, "POST", self.path)

    def test_coming_back(self):
        """The notice of an end says how to agree again."""
        self.follow(204, "POST", self.path)
        one = f"/v2/queues/q/subscriptions/{self.subscription_id}"
        self.ok("PUT", f"{one}/confirm", {"confirmed": False}, status=204)
        [notice] = self.requests()
        self.follow(204, "POST", link(Use.CONFIRM, notice, self.subscription_id))
        self.assertTrue(self.is_confirmed())

    def test_nobody_sees_whom_it_asks(self):
        self.assertEqual(self.ok("GET", "/v2/queues/q/messages?echo=true").json["messages"], [])
        confirmations = Confirmations(True, 60, None, SIGNER)
        subscription = self.storage.get_subscription("p", "q", self.subscription_id)
        self.assertNotIn(b"sha256", confirmations.of(subscription).body_json)


class TokenTests:
    """What holds for all four routes."""

    def setUp(self):
        super().setUp()
        self.subscription_id = self.subscribe()
        self.message_id = self.deliver(self.subscription_id)

    def path(self, template, method="POST", **options):
        [use] = [use for use, path in PATHS.values() if template.startswith(path)]
        return link(use, self.message_id, self.subscription_id, **options)

    def asked(self, template):
        return [method for method in ("GET", "POST") if method == "POST" or template != feedback.TEMPLATES[0]]

    def test_bad_ones(self):
        for template in feedback.TEMPLATES:
            good = self.path(template)
            before, _, token = good.rpartition("/")
            changed = token[:-1] + ("0" if token[-1] != "0" else "1")
            others = [self.path(other).rpartition("/")[2] for other in feedback.TEMPLATES if other != template]
            bad = [changed, token[:-1], token + "0", token.upper(), token[1:], "x", "%00", "%ff", "a" * 3000, *others]
            bad.append(self.path(template, tokens=Tokens("another key")).rpartition("/")[2])
            bad.append(token.replace("-0-", "-1-", 1))
            for one in bad:
                for method in self.asked(template):
                    with self.subTest(template=template, method=method, token=one[:80]):
                        answer = self.follow(403, method, f"{before}/{one}")
                        self.assertNotIn(one[:20], answer.text.replace("x", ""))
        self.assertTrue(self.is_there(self.subscription_id))
        self.assertEqual((self.heard(self.message_id, self.subscription_id), self.reports), ((), []))

    def test_a_bad_one_in_a_browser(self):
        for template in sorted(feedback.PAGES):
            for method in ("GET", "POST"):
                self.assertIn("not valid", self.page(403, method, self.path(template)[:-1]))
        answer = self.follow(403, "POST", self.path(feedback.TEMPLATES[0])[:-1], accept=BROWSER)
        self.assertEqual(set(answer.json), {"title", "description"})

    def test_methods(self):
        for template in feedback.TEMPLATES:
            path = self.path(template)
            allowed = ", ".join(self.asked(template))
            for method in ("PUT", "PATCH", "DELETE", "HEAD"):
                answer = self.call(method, path, project=None, client_id=None)
                self.assertEqual((answer.status_code, answer.headers["allow"]), (405, f"{allowed}, OPTIONS"))
                self.assertEqual(answer.headers["cache-control"], "no-store")
            answer = self.call("OPTIONS", path, project=None, client_id=None)
            self.assertEqual((answer.status_code, answer.headers["allow"]), (200, allowed))
        self.follow(405, "GET", self.path(feedback.TEMPLATES[0]))
        self.assertTrue(self.is_there(self.subscription_id))

    def test_it_is_the_whole_last_segment(self):
        for template in feedback.TEMPLATES:
            path = self.path(template)
            for wrong in (f"{path}/", f"{path}/x", template.removesuffix("/{token}")):
                self.assertEqual(self.call("POST", wrong, project=None, client_id=None).status_code, 404)
            self.follow(403, "POST", template.removesuffix("{token}"))

    def test_what_callers_send_does_not_matter(self):
        path = self.path(feedback.TEMPLATES[0])
        strange = {
            "X-Project-ID": "another",
            "Client-ID": "me",
            "Authorization": "Bearer x",
            "X-Auth-Token": "x",
            "X-Roles": "x",
            "URL-Signature": "x",
            "Accept": "image/png",
        }
        for name, value in strange.items():
            with self.subTest(name=name):
                self.follow(204, "POST", path, headers={name: value})

    def test_nobody_has_to_say_who_it_is(self):
        for identity in (ApiKeys(self.storage, lifetime=1.0), KeystoneTokens()):
            self.make_identity = lambda storage, identity=identity: identity
            client = self.make_client()
            self.assertEqual(self.call("GET", "/v2/queues", client=client).status_code, 401)
            self.follow(204, "POST", self.path(feedback.TEMPLATES[0]), client=client)
            self.follow(403, "POST", self.path(feedback.TEMPLATES[0])[:-1], client=client)
            self.page(200, "GET", self.path(feedback.TEMPLATES[2]), client=client)

    def test_a_token_is_for_its_delivery_alone(self):
        theirs = self.subscribe(project="another")
        [message_id] = self.post("x", project="another")
        self.follow(404, "POST", link(Use.ACKNOWLEDGE, self.message_id, theirs))
        self.follow(404, "POST", link(Use.ACKNOWLEDGE, message_id, self.subscription_id))
        self.follow(404, "POST", link(Use.RECEIPT, message_id, self.subscription_id) + "?status=delivered")
        self.assertEqual(self.heard(self.message_id, self.subscription_id), ())


class LogTest(FeedbackCase):
    """A token in a log would be a right in a log."""

    def make_storage(self, clock):
        case = self

        class Failing(MemoryStorage):
            def receive(self, *arguments):
                raise case.error

            load = receive

        return Failing(keyring=None, retention=1.0, body_retention=None, clock=clock)

    def test_failures(self):
        for self.error, status in ((StorageUnavailable("The database is locked."), 503), (RuntimeError("a bug"), 500)):
            for use, method in (
                (Use.ACKNOWLEDGE, "POST"),
                (Use.RECEIPT, "GET"),
                (Use.UNSUBSCRIBE, "POST"),
                (Use.CONFIRM, "GET"),
            ):
                path = link(use, "1" * 16, "2" * 16)
                with self.subTest(use=use, status=status), self.assertLogs(level=logging.DEBUG) as logs:
                    answer = self.follow(status, method, path)
                    self.assertNotIn(path.rpartition("/")[2], answer.text)
                text = "".join(logging.Formatter().format(record) for record in logs.records)
                self.assertIn(BEFORE[use] + "{token}", text)
                self.assertNotIn(path.rpartition("/")[2], text)
                self.assertNotIn("2" * 16, text)

    def test_failures_in_a_browser(self):
        self.error = StorageUnavailable("The database is locked.")
        with self.assertLogs(level=logging.WARNING):
            self.assertIn("locked", self.page(503, "GET", link(Use.UNSUBSCRIBE, "1" * 16, "2" * 16)))


class AcknowledgementMemoryTest(OverMemory, AcknowledgementTests, FeedbackCase):
    pass


class AcknowledgementSqlTest(OverSql, AcknowledgementTests, FeedbackCase):
    pass


class ReportMemoryTest(OverMemory, ReportTests, FeedbackCase):
    pass


class ReportSqlTest(OverSql, ReportTests, FeedbackCase):
    pass


class UnsubscriptionMemoryTest(OverMemory, UnsubscriptionTests, FeedbackCase):
    pass


class UnsubscriptionSqlTest(OverSql, UnsubscriptionTests, FeedbackCase):
    pass


class ConfirmationMemoryTest(OverMemory, ConfirmationTests, FeedbackCase):
    require_confirmation = True


class ConfirmationSqlTest(OverSql, ConfirmationTests, FeedbackCase):
    require_confirmation = True


class TokenMemoryTest(OverMemory, TokenTests, FeedbackCase):
    pass


class TokenSqlTest(OverSql, TokenTests, FeedbackCase):
    pass
