import dataclasses
import json
import unittest

from zaqar_notify import conf, signing, validation
from zaqar_notify.errors import InvalidQueue, InvalidRequest, UnknownScheme
from zaqar_notify.validation import Limits

LIMITS = Limits()
SECRET = signing.make_secret()


def parse(raw, limit=100_000):
    return validation.parse_json(raw, limit, "The request")


class LimitsTest(unittest.TestCase):
    def test_fields_and_defaults_are_the_options(self):
        options = {option.name: option.default for option in conf.TRANSPORT}
        fields = {field.name: getattr(LIMITS, field.name) for field in dataclasses.fields(Limits)}
        fields["subscriber_types"] = list(fields["subscriber_types"])
        self.assertEqual(fields, options)


class ParseJsonTest(unittest.TestCase):
    def refused(self, raw, text, limit=100_000):
        with self.assertRaises(InvalidRequest) as caught:
            parse(raw, limit)
        self.assertIn("The request", str(caught.exception))
        self.assertIn(text, str(caught.exception))

    def test_every_kind_of_value(self):
        self.assertEqual(
            parse(b'{"a": [1, -2.5, true, null, "x\\u0000\\ud83d\\ude00"]}'), {"a": [1, -2.5, True, None, "x\0\U0001f600"]}
        )

    def test_size(self):
        self.assertEqual(parse(b'"12"', 4), "12")
        self.refused(b'"123"', "at most 4 bytes", 4)

    def test_malformed(self):
        for raw in (b"", b"{", b"{'a': 1}", b"[1,]", b"nul", b"1 2", b"\xef\xbb\xbf1", b'"\n"', "1".encode("utf-16")):
            with self.subTest(raw=raw):
                self.refused(raw, "not ")

    def test_not_utf_8(self):
        self.refused(b'"\xff"', "not UTF-8: byte 1")
        self.refused(b'"\xed\xa0\x80"', "not UTF-8")

    def test_numbers_that_json_does_not_have(self):
        for raw in (b"NaN", b"[Infinity]", b'{"a": -Infinity}', b"1e999", b"-1e999"):
            with self.subTest(raw=raw):
                self.refused(raw, "number" if b"e" in raw else "not a JSON value")

    def test_integers_of_64_bits(self):
        self.assertEqual(parse(b"[9223372036854775807, -9223372036854775808]"), [2**63 - 1, -(2**63)])
        for raw in (b"9223372036854775808", b"-9223372036854775809", b"1" * 5000):
            with self.subTest(raw=raw[:30]):
                self.refused(raw, "64 bits")

    def test_nesting(self):
        deepest = b"[" * validation.MAX_NESTING + b"]" * validation.MAX_NESTING
        self.assertEqual(json.dumps(parse(deepest)).encode(), deepest)
        self.refused(b"[" + deepest + b"]", "nested too deeply")
        self.refused(b'{"a":' * 50_000, "nested too deeply", 10**6)
        self.refused(b"[" * 50_000 + b"]" * 50_000, "nested too deeply", 10**6)

    def test_many_brackets_side_by_side_are_not_deep(self):
        wide = [[{}] for _ in range(1000)]
        self.assertEqual(parse(json.dumps(wide).encode()), wide)

    def test_half_of_a_surrogate_pair(self):
        for raw in (b'"\\ud800"', b'{"\\uDFFF": 1}', b'["\\ude00\\ud83d"]'):
            with self.subTest(raw=raw):
                self.refused(raw, "surrogate")

    def test_text_that_only_looks_like_a_surrogate(self):
        self.assertEqual(parse(b'"\\\\ud800"'), "\\ud800")

    def test_compact_json(self):
        self.assertEqual(validation.compact_json({"ä": [1, 2.5, None]}), '{"ä":[1,2.5,null]}'.encode())


class NamesTest(unittest.TestCase):
    def test_queue_names(self):
        for name in ("a", "A-b_c.9", "x" * 64, "."):
            validation.check_queue_name(name)
        for name in ("", "x" * 65, "a b", "a/b", "ä", "a\n", "a\0", "a%20", "*"):
            with self.subTest(name=name), self.assertRaises(InvalidQueue):
                validation.check_queue_name(name)

    def test_projects(self):
        for project in ("p", "x" * 256, "Ä b/c"):
            validation.check_project(project)
        for project in ("x" * 257, "a\0b", "a\nb"):
            with self.subTest(project=project), self.assertRaises(InvalidQueue):
                validation.check_project(project)

    def test_page_size(self):
        self.assertEqual(validation.page_size(None, 20), 10)
        self.assertEqual(validation.page_size(None, 5), 5)
        self.assertEqual(validation.page_size("1", 20), 1)
        self.assertEqual(validation.page_size("20", 20), 20)
        for text in ("0", "21", "-1", "x", "1.0", "+1", " 1", "1_0", "\uff11", "9" * 5000):
            with self.subTest(text=text[:10]), self.assertRaises(InvalidRequest):
                validation.page_size(text, 20)


class QueueMetadataTest(unittest.TestCase):
    def test_any_object(self):
        for metadata in ({}, {"a": [1]}, {"_default_message_ttl": 60, "_max_messages_post_size": 1}, {"_flavor": "x"}):
            self.assertEqual(validation.queue_metadata(metadata, LIMITS), metadata)

    def test_no_object(self):
        for document in ([], "x", 1, 1.5, None, True):
            with self.subTest(document=document), self.assertRaisesRegex(InvalidRequest, "JSON object"):
                validation.queue_metadata(document, LIMITS)

    def test_reserved_numbers(self):
        for value in ("60", 60.0, None, True, [60], 59, 1209601, 0, -1):
            with self.subTest(value=value), self.assertRaisesRegex(InvalidRequest, "_default_message_ttl .*60 to 1209600"):
                validation.queue_metadata({"_default_message_ttl": value}, LIMITS)
        for value in ("1", 1.0, None, True, 0, 262145):
            with self.subTest(value=value), self.assertRaisesRegex(InvalidRequest, "_max_messages_post_size"):
                validation.queue_metadata({"_max_messages_post_size": value}, LIMITS)

    def test_retry_policy(self):
        good = {
            "retries_with_no_delay": 1,
            "minimum_delay": 5,
            "maximum_delay": 15,
            "retry_backoff_function": "geometric",
            "ignore_subscription_override": True,
            "of_a_later_version": None,
        }
        validation.queue_metadata({"_retry_policy": good}, LIMITS)
        wrong = [
            [],
            None,
            {"minimum_delay": "5"},
            {"minimum_delay": -1},
            {"maximum_delay_retries": True},
            {"maximum_delay": 14, "minimum_delay": 5},
            {"retry_backoff_function": "cubic"},
            {"retry_backoff_function": ["linear"]},
            {"ignore_subscription_override": 1},
        ]
        for policy in wrong:
            with self.subTest(policy=policy), self.assertRaisesRegex(InvalidRequest, "_retry_policy"):
                validation.queue_metadata({"_retry_policy": policy}, LIMITS)


def drafts(*messages, ttl=3600):
    return validation.messages({"messages": list(messages)}, default_ttl=ttl, limits=LIMITS)


class MessagesTest(unittest.TestCase):
    def refused(self, text, *messages):
        with self.assertRaises(InvalidRequest) as caught:
            drafts(*messages)
        self.assertIn(text, str(caught.exception))

    def test_drafts(self):
        first, second = drafts({"body": {"ä": [1, None]}, "ttl": 60}, {"body": None, "unknown": 1, "attributes": {"a": 1}})
        self.assertEqual((first.body_json, first.ttl, first.attributes), ('{"ä":[1,null]}'.encode(), 60, {}))
        self.assertEqual((second.body_json, second.ttl, second.attributes), (b"null", 3600, {"a": 1}))

    def test_default_ttl_is_the_callers(self):
        self.assertEqual(drafts({"body": 1}, ttl=77)[0].ttl, 77)

    def test_no_list(self):
        for document in ({}, {"messages": []}, {"messages": {}}, {"messages": None}, {"messages": "x"}, [], None, 5):
            with self.subTest(document=document), self.assertRaises(InvalidRequest):
                validation.messages(document, default_ttl=60, limits=LIMITS)

    def test_which_message_is_wrong(self):
        self.refused("messages[1]", {"body": 1}, [])
        self.refused("messages[0] has to be a JSON object, and is null", None)
        self.refused('messages[1] has no "body"', {"body": 1}, {"ttl": 60})

    def test_ttl(self):
        self.assertEqual([draft.ttl for draft in drafts({"body": 1, "ttl": 60}, {"body": 1, "ttl": 1209600})], [60, 1209600])
        for ttl in (59, 1209601, -1, 0, "60", 60.0, None, True, [], {}):
            with self.subTest(ttl=ttl):
                self.refused("messages[0].ttl has to be an integer from 60 to 1209600", {"body": 1, "ttl": ttl})

    def test_attributes(self):
        good = {"s": "x", "i": 1, "f": 1.5, "b": False, "l": ["a", "b"], "e": []}
        self.assertEqual(drafts({"body": 1, "attributes": good})[0].attributes, good)
        most = {str(number): number for number in range(20)}
        self.assertEqual(drafts({"body": 1, "attributes": most})[0].attributes, most)
        self.refused("at most 20", {"body": 1, "attributes": {**most, "more": 1}})
        for value in (None, {}, [1], ["a", None], [["a"]], {"a": 1}):
            with self.subTest(value=value):
                self.refused("'k' has to be", {"body": 1, "attributes": {"k": value}})
        for value in (None, [], "x", 1):
            with self.subTest(attributes=value):
                self.refused("messages[0].attributes has to be", {"body": 1, "attributes": value})


class SubscriptionTest(unittest.TestCase):
    def make(self, document, limits=LIMITS, now=1000.0):
        return validation.subscription(document, project="p", queue="q", limits=limits, now=now)

    def refused(self, document, text="", error=InvalidRequest):
        with self.assertRaises(error) as caught:
            self.make(document)
        self.assertIn(text, str(caught.exception))

    def test_least(self):
        made = self.make({"subscriber": "http://e/"})
        self.assertEqual((made.id, made.project, made.queue, made.subscriber), ("", "p", "q", "http://e/"))
        self.assertEqual((made.ttl, made.expires_at, made.created_at, made.options), (None, None, 1000.0, {}))
        self.assertFalse(made.confirmed)
        self.assertTrue(made.secret_made)
        signing.parse_secret(made.secret)
        self.assertNotEqual(made.secret, self.make({"subscriber": "http://e/"}).secret)

    def test_given_secret_leaves_the_options(self):
        options = {"secret": SECRET, "a": 1}
        made = self.make({"subscriber": "http://e/", "options": options})
        self.assertEqual((made.secret, made.secret_made, made.options), (SECRET, False, {"a": 1}))
        self.assertNotIn(SECRET, repr(made))
        self.assertEqual(validation.shown_options(made), {"a": 1, "secret": validation.MASK})
        sealed = dataclasses.replace(made, secret=None, sealed=True)
        self.assertEqual(validation.shown_options(sealed), {"a": 1, "secret": validation.MASK})

    def test_bad_secrets(self):
        for secret in ("", "x", "whsec_", "whsec_AAAA", validation.MASK, None, 5, [], {}):
            with self.subTest(secret=secret):
                self.refused({"subscriber": "http://e/", "options": {"secret": secret}}, "secret")

    def test_ttl(self):
        made = self.make({"subscriber": "http://e/", "ttl": 60})
        self.assertEqual((made.ttl, made.expires_at), (60, 1060.0))
        last = validation.END_OF_TIME - 1000
        self.assertEqual(self.make({"subscriber": "http://e/", "ttl": last}).ttl, last)
        self.refused({"subscriber": "http://e/", "ttl": last + 1}, "9999")
        self.refused({"subscriber": "http://e/", "ttl": 2**63 - 1}, "9999")
        for ttl in (59, 0, -1, "60", 60.5, True, [], {}):
            with self.subTest(ttl=ttl):
                self.refused({"subscriber": "http://e/", "ttl": ttl}, "ttl has to be an integer of at least 60")

    def test_default_ttl(self):
        limits = dataclasses.replace(LIMITS, default_subscription_ttl=3600)
        self.assertEqual(self.make({"subscriber": "http://e/"}, limits).ttl, 3600)
        self.assertIsNone(self.make({"subscriber": "http://e/", "ttl": None}, limits).ttl)

    def test_subscriber(self):
        for subscriber in ("http://e/", "mailto:a@b?subject=x", "log:x", "A+b.c-1:x", "http://e/" + "x" * 2039):
            self.assertEqual(self.make({"subscriber": subscriber}).subscriber, subscriber)
        wrong = [
            "",
            "x",
            "http",
            ":x",
            "http:",
            "1a:x",
            "http//e",
            "ä:x",
            "http://e/" + "x" * 2040,
            "http://e/\n",
            "http://e/\0",
        ]
        for subscriber in [*wrong, None, 5, [], {}, True, 1.5]:
            with self.subTest(subscriber=subscriber):
                self.refused({"subscriber": subscriber}, "subscriber")
        self.refused({}, "subscriber")

    def test_trusts_are_left_out(self):
        for subscriber in ("trust+http://e/", "TRUST+https://e/"):
            self.refused({"subscriber": subscriber}, "Keystone", UnknownScheme)

    def test_options(self):
        for options in ([], "x", 5, None, True, 1.5):
            with self.subTest(options=options):
                self.refused({"subscriber": "http://e/", "options": options}, "options has to be a JSON object")
        self.refused({"subscriber": "http://e/", "options": {"_retry_policy": 5}}, "_retry_policy")

    def test_no_object(self):
        for document in ([], "x", 5, None, True):
            self.refused(document, "JSON object")


class SubscriptionChangesTest(unittest.TestCase):
    def change(self, document):
        return validation.subscription_changes(document, limits=LIMITS, now=1000.0)

    def test_each_field_alone(self):
        self.assertEqual(self.change({"subscriber": "log:x"}), {"subscriber": "log:x"})
        self.assertEqual(self.change({"ttl": 60}), {"ttl": 60})
        self.assertEqual(self.change({"ttl": None}), {"ttl": None})
        self.assertEqual(self.change({"options": {"a": 1}}), {"options": {"a": 1}})

    def test_secret(self):
        self.assertEqual(self.change({"options": {"secret": validation.MASK}}), {"options": {}})
        self.assertEqual(self.change({"options": {"secret": SECRET}}), {"options": {}, "secret": SECRET, "secret_made": False})

    def test_refused(self):
        documents = [
            {},
            {"confirmed": True},
            [],
            None,
            {"ttl": 59},
            {"ttl": "60"},
            {"ttl": 2**60},
            {"subscriber": None},
            {"subscriber": ""},
            {"options": None},
            {"options": []},
            {"options": {"secret": "x"}},
            {"options": {"secret": None}},
        ]
        for document in documents:
            with self.subTest(document=document), self.assertRaises(InvalidRequest):
                self.change(document)
