import dataclasses
import json
import unittest

from zaqar_notify import payload
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import Message, MessageKind


def message(body_json: bytes, queue: str = "demo") -> Message:
    return Message("m1", "p", queue, body_json, 300, created_at=1.0, expires_at=301.0)


class ZaqarTest(unittest.TestCase):
    def test_document(self) -> None:
        document = payload.zaqar(message('{"a":"grün","n":[1,null]}'.encode(), "a_b-c.d"))
        self.assertEqual(
            {"body": {"a": "grün", "n": [1, None]}, "ttl": 300, "Message_Type": "Notification", "queue_name": "a_b-c.d"},
            json.loads(document),
        )

    def test_the_body_is_passed_on_byte_by_byte(self) -> None:
        body = b'{"big": 1.0000000000000000001, "twice": 1, "twice": 2, "escaped": "\\u00fc%d%s"}'
        self.assertIn(b'{"body": ' + body + b', "ttl": 300', payload.zaqar(message(body)))

    def test_a_request_to_confirm_is_its_body(self) -> None:
        request = dataclasses.replace(message(b'{"Message_Type":"SubscriptionConfirmation"}'), kind=MessageKind.CONFIRMATION)
        self.assertEqual(b'{"Message_Type":"SubscriptionConfirmation"}', payload.zaqar(request))

    def test_what_tells_an_owner_of_trouble_is_its_body(self) -> None:
        told = dataclasses.replace(message(b'{"event":"delivery.dead"}'), kind=MessageKind.CALLBACK)
        self.assertEqual(b'{"event":"delivery.dead"}', payload.zaqar(told))


class PostDataTest(unittest.TestCase):
    def test_the_placeholder_is_replaced_with_its_quotes_wherever_it_stands(self) -> None:
        document = payload.zaqar(message(b'"x"'))
        filled = payload.fill('{"a": "$zaqar_message$", "b": ["ü", "$zaqar_message$"]}', document)
        self.assertEqual({"a": json.loads(document), "b": ["ü", json.loads(document)]}, json.loads(filled))

    def test_without_a_placeholder_it_is_sent_as_it_is(self) -> None:
        self.assertEqual(b"text $zaqar_message$", payload.fill("text $zaqar_message$", b"{}"))

    def test_check(self) -> None:
        payload.check_post_data("anything")
        for value in (None, 5, {"a": "b"}, ["x"], "\ud800"):
            with self.subTest(repr(value)), self.assertRaisesRegex(InvalidRequest, "post_data"):
                payload.check_post_data(value)


class PostHeadersTest(unittest.TestCase):
    def test_good_ones(self) -> None:
        payload.check_post_headers({})
        payload.check_post_headers(
            {"Authorization": "Bearer x", "X-Empty": "", "content-type": "text/plain", "User-Agent": "me"}
        )

    def test_reserved_ones(self) -> None:
        names = ["Host", "content-length", "Transfer-Encoding", "Connection", "Expect", "TE", "Upgrade", "Webhook-Id"]
        names += ["WEBHOOK-SIGNATURE", "webhook-anything", "Zaqar-Notify-Attempt", "Proxy-Authorization"]
        for name in names:
            with self.subTest(name), self.assertRaisesRegex(InvalidRequest, "may not be replaced"):
                payload.check_post_headers({name: "x"})

    def test_bad_ones(self) -> None:
        bad = [
            None,
            [],
            "A: b",
            {"": "x"},
            {"A B": "x"},
            {"A:": "x"},
            {"A\r\nB": "x"},
            {"Ä": "x"},
            {5: "x"},
            {"A": None},
            {"A": 5},
            {"A": "x\r\nB: y"},
            {"A": "x\ny"},
            {"A": "x\x00"},
            {"A": "ü"},
            {"A": "x", "a": "y"},
            {"A": "x" * 8193},
            {f"A{number}": "x" for number in range(51)},
        ]
        for headers in bad:
            with self.subTest(str(headers)[:50]), self.assertRaisesRegex(InvalidRequest, "post_headers"):
                payload.check_post_headers(headers)
