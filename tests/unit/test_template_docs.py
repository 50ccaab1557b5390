"""docs/templates.md: its examples are run, and its lists are what there is."""

import json
import pathlib
import re
import unittest
from typing import Any

from zaqar_notify.model import Delivery, Message, Subscription
from zaqar_notify.sandbox import bounds
from zaqar_notify.sandbox.functions import FILTERS, ITEMS, TESTS
from zaqar_notify.sandbox.syntax import OF_LOOPS
from zaqar_notify.templates import FIELDS, MOST_TOGETHER, PARTS, check, merged, render

TEXT = (pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "templates.md").read_text()
DOCUMENT, MESSAGE, MAIL, OTHERS = map(json.loads, re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))


def made(templates: Any, channel: str) -> Any:
    message = Message("m1", "p", "q", json.dumps(MESSAGE["body"]).encode(), 60, 0.0, 60.0, language=MESSAGE["language"])
    subscription = Subscription("s1", "p", "q", "mailto:ann@example.org", None, {}, 0.0, None)
    links = {"unsubscribe": "https://notify.example.org/v2/unsubscriptions/u..."}
    return render(Delivery("m1-s1", 1, 0.0, message, subscription, links, templates=merged(templates, None)), channel)


class TemplateDocsTest(unittest.TestCase):
    def test_the_example(self) -> None:
        check(DOCUMENT, "x")
        mail = made(DOCUMENT, "email")
        self.assertEqual(MAIL, {part: mail[part] for part in MAIL})
        self.assertEqual("Order 7", mail["title"])
        for channel in ("fcm", "apns", "webpush", "slack", "apprise"):
            self.assertEqual(OTHERS, made(DOCUMENT, channel))

    def test_the_table_of_examples(self) -> None:
        rows = re.findall(r"^\| `(\{[{%].*)` \| `(.*)` \|$", TEXT, re.MULTILINE)
        self.assertGreater(len(rows), 5)
        for source, expected in rows:
            with self.subTest(source):
                templates = {"sms": {"text": source.replace("\\|", "|")}}
                check(templates, "x")
                self.assertEqual({"text": expected}, made(templates, "sms"))

    def test_the_parts_of_each_channel(self) -> None:
        shown = {}
        for channels, parts in re.findall(r"^\| ((?:`[a-z*]+`(?:, )?)+) \| ((?:`[a-z_]+`(?:, )?)+)", TEXT, re.MULTILINE):
            shown.update(dict.fromkeys(re.findall(r"`(.+?)`", channels), tuple(re.findall(r"`(.+?)`", parts))))
        self.assertEqual(dict(PARTS), shown)

    def test_what_a_template_can_speak_of(self) -> None:
        for name, fields in FIELDS.items():
            for field in fields or ():
                self.assertRegex(TEXT, rf"(?m)^\| (?=`{name}\.).*`({name})?\.{field}`")

    def test_the_lists(self) -> None:
        for head, known in (
            ("Filters", {*FILTERS, ITEMS}),
            ("Tests", TESTS),
            ("In a loop", [f"loop.{name}" for name in OF_LOOPS]),
        ):
            (listed,) = re.findall(rf"^- {head}: (.*?)(?=^- |^$)", TEXT, re.MULTILINE | re.DOTALL)
            self.assertEqual(set(known), set(re.findall(r"`([a-z0-9.]+)`", listed)), head)

    def test_the_bounds(self) -> None:
        (table,) = re.findall(r"^\| at most \|.*?(?=^$)", TEXT, re.MULTILINE | re.DOTALL)
        known = (bounds.MOST_SOURCE, MOST_TOGETHER, bounds.MOST_NODES, bounds.MOST_LOOPS, bounds.MOST_OUTPUT, bounds.MOST_STEPS)
        self.assertEqual(list(known), [int(number) for number in re.findall(r"^\|.*?\| (\d+)", table, re.MULTILINE)])
        self.assertIn(f"each {bounds.STRIDE} characters", table)
