"""Templates of subscriptions and queues."""

import dataclasses
import subprocess
import sys
import unittest
from typing import Any, ClassVar

from zaqar_notify import feedback
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.masking import masked
from zaqar_notify.model import Delivery, Message, MessageKind, Priority, Subscription
from zaqar_notify.templates import PARTS, check, chosen, merged, render


class MergedTest(unittest.TestCase):
    """One of the two documents serves a channel."""

    def test_none(self) -> None:
        for nothing in (None, {}, "x", 7, [], {"email": "x"}):
            self.assertEqual({}, merged(nothing, nothing), nothing)
            self.assertEqual({"sms": {"text": "a"}}, merged({"sms": {"text": "a"}}, nothing))
            self.assertEqual({"sms": {"text": "a"}}, merged(nothing, {"sms": {"text": "a"}}))

    def test_channel_by_channel(self) -> None:
        of_queue = {"email": {"text": "q", "html": "q"}, "sms": {"text": "q"}, "*": {"text": "q*"}}
        expected = {"email": {"text": "o"}, "sms": {"text": "q"}, "*": {"text": "q*"}}
        self.assertEqual(expected, merged({"email": {"text": "o"}}, of_queue))

    def test_what_is_said_of_all_channels_fills_up_each_within_its_own_document(self) -> None:
        of_queue = {"*": {"text": "q*", "title": "q*"}, "sms": {"text": "q"}}
        self.assertEqual({"*": of_queue["*"], "sms": {"text": "q", "title": "q*"}}, merged(None, of_queue))
        own = {"*": {"text": "o*"}, "email": {"html": "o"}}
        self.assertEqual({"*": {"text": "o*"}, "email": {"text": "o*", "html": "o"}}, merged(own, of_queue))


class CheckTest(unittest.TestCase):
    def refused(self, value: Any, *words: str) -> None:
        with self.assertRaises(InvalidRequest) as raised:
            check(value, "options.templates")
        for word in ("options.templates", *words):
            self.assertIn(word, str(raised.exception))

    def test_what_is_let_through(self) -> None:
        check({}, "x")
        check({"email": {}}, "x")
        check({channel: dict.fromkeys(parts, "{{ body }}") for channel, parts in PARTS.items()}, "x")
        by_language = {"en": "a", "de-AT": "b", "zh-Hant-TW": "c", "default": "{{ links.unsubscribe }}"}
        check({"sms": {"text": by_language}}, "x")

    def test_the_shape(self) -> None:
        for value in (None, [], "x", 7):
            self.refused(value, "object")
        self.refused({"mail": {"text": "x"}}, "mail is no channel", "email", "*")
        self.refused({"email": "x"}, "options.templates.email", "object", "html")
        self.refused({"sms": {"html": "x"}}, "options.templates.sms has no html", "text")
        for value in (7, None, ["x"], {"de": 7}, {"de": {"x": "y"}}):
            self.refused({"sms": {"text": value}}, "options.templates.sms.text", "string")
        for tag in ("", "d e", "de_AT", "-de", "x" * 100, "de\n"):
            self.refused({"sms": {"text": {tag: "x"}}}, "options.templates.sms.text", "language")

    def test_which_template_which_line_and_what_is_wrong(self) -> None:
        self.refused(
            {"email": {"text": {"de": "x", "en": "line one\n{{ body.name() }}"}}},
            "options.templates.email.text.en: line 2: a call cannot be used.",
        )
        self.refused({"*": {"title": "{{ bodi }}"}}, "options.templates.*.title: line 1", "bodi", "body")

    def test_sizes(self) -> None:
        self.refused({"sms": {"text": "x" * 16385}}, "options.templates.sms.text", "16384")
        check({"sms": {"text": dict.fromkeys(("a", "b", "c", "d"), "x" * 16384)}}, "x")
        self.refused({"sms": {"text": dict.fromkeys(("a", "b", "c", "d", "e"), "x" * 16384)}}, "65536")


class LanguageTest(unittest.TestCase):
    def test_the_way_from_a_language_to_wider_ones(self) -> None:
        given = {"de": "de", "DE-at": "de-AT", "zh-hant": "zh-Hant", "default": "other"}
        for language, found in {
            "de-AT": "de-AT",
            "de-AT-1996": "de-AT",
            "de-CH": "de",
            "DE": "de",
            "zh-Hant-CN-x-private1": "zh-Hant",
            "zh-Hans": "other",
            "en": "other",
            "default": "other",
            "": "other",
            None: "other",
        }.items():
            self.assertEqual(found, chosen(given, language), language)
        self.assertIsNone(chosen({"de": "x"}, "en"))
        self.assertEqual("x", chosen({"de-x": "no", "de": "x"}, "de-x-one"))


class RenderTest(unittest.TestCase):
    def delivery(
        self, templates: Any, options: Any = None, subscriber: str = "mailto:ann@example.org?subject=x", **fields: Any
    ):
        usual = {"expires_at": 1700003600.0, "kind": MessageKind.NOTIFICATION}
        message = Message("m1", "p", "orders", b'{"name": "Ann", "page": "<b>"}', 3600, 1700000000.0, **{**usual, **fields})
        subscription = Subscription("s1", "p", "orders", subscriber, None, options or {}, 0.0, None, secret="whsec_s3cret")
        links = {name: f"https://n.example/{name}" for name in feedback.PATHS}
        return Delivery("m1-s1", 1, 0.0, message, subscription, links, templates=merged(templates, None))

    def made(self, source: str, **fields: Any) -> str:
        return render(self.delivery({"sms": {"text": source}}, **fields), "sms")["text"]

    def test_none(self) -> None:
        for templates in (None, {}, {"sms": {"text": "x"}}):
            self.assertEqual({}, render(self.delivery(templates), "email"))
        self.assertEqual({}, render(self.delivery({"sms": {}}), "sms"))

    def test_the_channel_comes_before_all_others(self) -> None:
        delivery = self.delivery({"*": {"text": "any", "title": "any"}, "email": {"html": "{{ body.page }}", "text": "mail"}})
        self.assertEqual({"title": "any", "text": "mail", "html": "&lt;b&gt;"}, render(delivery, "email"))
        self.assertEqual({"title": "any", "text": "any"}, render(delivery, "fcm"))
        self.assertEqual({"text": "any"}, render(delivery, "sms"))
        self.assertEqual({"text": "any", "title": "any"}, render(delivery, "of-a-plugin"))

    def test_what_a_template_can_speak_of(self) -> None:
        message = (
            "{{ message.id }} {{ message.queue }} {{ message.created_at }} {{ message.expires_at }} {{ message.ttl }} "
            "{{ message.language }} {{ message.priority }} {{ message.collapse_key }} {{ message.attributes.a }}"
        )
        fields = {
            "language": "de",
            "priority": Priority.VERY_LOW,
            "collapse_key": "k",
            "attributes": {"a": 1},
            "foreign_id": "f1",
        }
        expected = "f1 orders 2023-11-14T22:13:20Z 2023-11-14T23:13:20Z 3600 de very-low k 1"
        self.assertEqual(expected, self.made(message, **fields))
        self.assertEqual("m1 []", self.made("{{ message.id }} [{{ message.priority }}{{ message.language }}]"))
        self.assertEqual("s1 mailto:ann@example.org", self.made("{{ subscription.id }} {{ subscription.subscriber }}"))
        shown = self.made("{{ subscription.subscriber }}", subscriber="slack+https://hooks.slack.com/s3cret")
        self.assertEqual(masked("slack+https://hooks.slack.com/s3cret"), shown)
        links = "{{ links.unsubscribe }} {{ links.acknowledge }}"
        self.assertEqual("https://n.example/unsubscribe https://n.example/acknowledge", self.made(links))

    def test_links_are_made_once_and_only_where_they_are_asked_for(self) -> None:
        class Links(dict):
            asked: ClassVar[list[str]] = []

            def get(self, name: str) -> str | None:
                self.asked.append(name)
                return super().get(name)

        delivery = self.delivery({"sms": {"text": "{{ body.name }}"}})
        delivery.links = Links(unsubscribe="https://n.example/u")
        render(delivery, "sms")
        self.assertEqual([], Links.asked)
        delivery.templates = {"sms": {"text": "{{ links.unsubscribe }}{{ links.unsubscribe }}[{{ links.acknowledge }}]"}}
        self.assertEqual({"text": "https://n.example/u" * 2 + "[]"}, render(delivery, "sms"))
        self.assertEqual(["unsubscribe", "acknowledge"], Links.asked)

    def test_languages(self) -> None:
        text = {"de": "Hallo", "en": "Hello", "default": "Hey"}
        for of_message, of_subscription, made in (
            ("de-AT", "en", "Hallo"),
            (None, "en-GB", "Hello"),
            ("fr", "en", "Hey"),
            (None, None, "Hey"),
            (None, 7, "Hey"),
        ):
            delivery = self.delivery({"sms": {"text": text}}, {"language": of_subscription}, language=of_message)
            self.assertEqual({"text": made}, render(delivery, "sms"))
        delivery = self.delivery({"email": {"text": {"de": "Hallo"}, "subject": "S"}}, language="en")
        self.assertEqual({"subject": "S"}, render(delivery, "email"))

    def test_what_asks_to_confirm_is_left_as_it_is(self) -> None:
        self.assertEqual({}, render(self.delivery({"*": {"text": "x"}}, kind=MessageKind.CONFIRMATION), "email"))
        self.assertEqual({"text": "x"}, render(self.delivery({"*": {"text": "x"}}, kind=MessageKind.TEST), "sms"))

    def test_what_fails_says_which_and_why(self) -> None:
        for source, why in (
            ("{{ body.name.upper() }}", "line 1: a call cannot be used"),
            ("{% for x in body.x %}", "end"),
            ("{{ body == body }}", "compared"),
        ):
            with self.assertRaises(InvalidRequest) as raised:
                self.made(source)
            self.assertTrue(str(raised.exception).startswith("The template for the text of sms failed: "), raised.exception)
            self.assertIn(why, str(raised.exception))

    def test_what_was_stored_before_it_was_checked(self) -> None:
        for odd in (
            {"sms": "x"},
            {"sms": {"text": 7}},
            {"sms": {"text": {"default": ["x"]}}},
            {"sms": {"text": {}}},
            {"*": None},
        ):
            self.assertEqual({}, render(self.delivery(odd), "sms"), odd)

    def test_the_parts_of_a_delivery_share_a_budget(self) -> None:
        half = "x" * 16000
        text = "{% for x in body.list %}" + half + "{% endfor %}"
        delivery = self.delivery({"email": {"text": text, "html": text}})
        delivery = dataclasses.replace(
            delivery, message=dataclasses.replace(delivery.message, body_json=b'{"list": [1,1,1,1,1,1,1,1,1,1]}')
        )
        with self.assertRaisesRegex(InvalidRequest, "the html of email failed"):
            render(delivery, "email")


class ImportTest(unittest.TestCase):
    def test_jinja2_is_loaded_with_the_first_template(self) -> None:
        script = (
            "import sys, zaqar_notify.templates as t; t.check({'sms': {}}, 'x'); before = 'jinja2' in sys.modules;"
            "t.check({'sms': {'text': 'x'}}, 'x'); print(before, 'jinja2' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        self.assertEqual("False True\n", done.stdout)
