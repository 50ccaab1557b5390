import dataclasses
import json
import unittest

from zaqar_notify import conf, signing, validation
from zaqar_notify.errors import Conflict, InvalidQueue, InvalidRequest, UnknownScheme
from zaqar_notify.model import Priority
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
        others = {option.name: option.default for option in conf.NOTIFICATION}
        self.assertEqual(fields.pop("max_attempts"), others["max_attempts"])
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

    def test_templates(self):
        validation.queue_metadata({"_templates": {"*": {"text": "{{ body }}"}}}, LIMITS)
        for templates in (None, [], "x", {"email": {"footer": "x"}}, {"sms": {"text": "{% include 'x' %}"}}):
            with self.subTest(templates=templates), self.assertRaisesRegex(InvalidRequest, "_templates"):
                validation.queue_metadata({"_templates": templates}, LIMITS)

    def test_retry_policy(self):
        good = {
            "retries_with_no_delay": 1,
            "minimum_delay": 5,
            "maximum_delay": 15,
            "retry_backoff_function": "geometric",
            "ignore_subscription_override": True,
            "of_a_later_version": None,
            "schedule": [0, 5.5],
            "max_attempts": 100,
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
            {"schedule": []},
            {"max_attempts": 101},
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

    def test_how_it_is_to_be_delivered(self):
        [plain] = drafts({"body": 1})
        self.assertEqual((plain.collapse_key, plain.priority, plain.language), (None, None, None))
        [draft] = drafts({"body": 1, "collapse_key": "order 7/\u00e4", "priority": "very-low", "language": "de-CH"})
        self.assertEqual((draft.collapse_key, draft.priority, draft.language), ("order 7/\u00e4", Priority.VERY_LOW, "de-CH"))
        self.assertEqual(
            [drafts({"body": 1, "priority": text})[0].priority for text in ("very-low", "low", "normal", "high")],
            list(Priority),
        )
        self.assertEqual(len(drafts({"body": 1, "collapse_key": "k" * 256})[0].collapse_key), 256)
        wrong = {
            "collapse_key": ["", "k" * 257, "a\nb", "a\0", "\x7f", 5, None, True, [], {}],
            "priority": ["", "HIGH", "urgent", "very_low", 4, None, True, [], {}, ["high"]],
            "language": [
                *("", "e", "german1", "de_CH", "de-", "-de", "de--CH", "de-CHE-", "de CH", "de\n", "x", "a-de", "1de", "de-a"),
                *("de-" + "x" * 9, "d\u00e4", "de-x", "en-" + "-".join(["abcde"] * 6), 5, None, True, [], {}),
            ],
        }
        for name, values in wrong.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.refused(f"messages[0].{name} has to be", {"body": 1, name: value})

    def test_language_tags(self):
        # Most of them are examples of RFC 5646, appendix A.
        tags = "de fr ja i-enochian zh-Hant zh-Hans sr-Cyrl zh-cmn-Hans-CN cmn-Hans-CN zh-yue-HK yue-HK zh-Hans-CN sr-Latn-RS"
        tags += " sl-rozaj sl-rozaj-biske sl-nedis de-CH-1901 sl-IT-nedis hy-Latn-IT-arevela de-DE en-US es-419 de-CH-x-phonebk"
        tags += " az-Arab-x-AZE-derbend x-whatever qaa-Qaaa-QM-x-southern de-Qaaa sr-Latn-QM en-US-u-islamcal"
        tags += " zh-CN-a-myext-x-private"
        for tag in [*tags.split(), "DE-ch", "en-a-myext-b-another", "zh-min-nan", "sl-Latn-IT-rozaj-biske-1994-x-abcdefg"[:35]]:
            with self.subTest(tag=tag):
                self.assertEqual(drafts({"body": 1, "language": tag})[0].language, tag)

    def test_delay(self):
        posted = {"messages": [{"body": 1}, {"body": 1, "delay": 0}, {"body": 1, "delay": 900}]}
        drafts = validation.messages(posted, default_ttl=60, default_delay=7, limits=LIMITS)
        self.assertEqual([draft.delay for draft in drafts], [7, 0, 900])
        for delay in (-1, 901, 1.0, "1", None, True):
            with self.assertRaisesRegex(InvalidRequest, r"messages\[0\]\.delay .* 0 to 900"):
                validation.messages({"messages": [{"body": 1, "delay": delay}]}, default_ttl=60, limits=LIMITS)


class IdsTest(unittest.TestCase):
    def test_each_once_in_order(self):
        self.assertEqual(validation.ids(["b,a,b", "", ",c,,a"], 20, "ids"), ["b", "a", "c"])
        self.assertEqual(validation.ids([",", ""], 20, "ids"), [])

    def test_most(self):
        self.assertEqual(len(validation.ids(["a,b", "c,a"], 3, "ids")), 3)
        with self.assertRaisesRegex(InvalidRequest, "ids may hold at most 2"):
            validation.ids(["a,b", "c"], 2, "ids")

    def test_how_many(self):
        self.assertEqual([validation.how_many(text, 20, "pop") for text in ("1", "20", "007")], [1, 20, 7])
        for text in ("", "0", "21", "-1", "+1", "1.0", "x", " 1", "\u0661", "\xb2", "9" * 30, "1\n"):
            with self.subTest(text=text), self.assertRaisesRegex(InvalidRequest, "pop has to be an integer from 1 to 20"):
                validation.how_many(text, 20, "pop")


class ClaimTest(unittest.TestCase):
    def test_defaults(self):
        for document in ({}, {"ttl": None}, {"grace": None, "more": 1}):
            self.assertEqual(validation.claim_terms(document, LIMITS), (300, 60))

    def test_bounds(self):
        self.assertEqual(validation.claim_terms({"ttl": 60, "grace": 43200}, LIMITS), (60, 43200))
        for name in ("ttl", "grace"):
            for value in (59, 43201, "60", 60.0, False, []):
                with self.assertRaisesRegex(InvalidRequest, f"{name} .* 60 to 43200"):
                    validation.claim_terms({name: value}, LIMITS)


class MetadataChangesTest(unittest.TestCase):
    def change(self, metadata, *changes, limits=LIMITS):
        return validation.changed_metadata(metadata, validation.metadata_changes(list(changes)), limits)

    def test_in_order(self):
        metadata = {"a": 1}
        changed = self.change(
            metadata,
            {"op": "remove", "path": "/metadata/a"},
            {"op": "add", "path": "/metadata/a", "value": 2},
            {"op": "replace", "path": "/metadata/a", "value": {"b": 3}},
        )
        self.assertEqual((changed, metadata), ({"a": {"b": 3}}, {"a": 1}))

    def test_pointers(self):
        for path, name in (
            ("/metadata/a", "a"),
            ("/metadata/~0~1", "~/"),
            ("/metadata/~01", "~1"),
            ("/metadata/\u00e4 \n", "\u00e4 \n"),
        ):
            self.assertEqual(self.change({}, {"op": "add", "path": path, "value": 1}), {name: 1})

    def test_what_is_not_there(self):
        for operation in ("remove", "replace"):
            with self.assertRaisesRegex(Conflict, f"'{'x' * 64}' to {operation}"):
                self.change({"a": 1}, {"op": operation, "path": "/metadata/" + "x" * 1000, "value": 1})
            self.change({"a": 1}, {"op": operation, "path": "/metadata/_max_claim_count", "value": 1})

    def test_size(self):
        limits = dataclasses.replace(LIMITS, max_queue_metadata=10)
        self.assertEqual(self.change({}, {"op": "add", "path": "/metadata/a", "value": "12"}, limits=limits), {"a": "12"})
        with self.assertRaisesRegex(InvalidRequest, "at most 10"):
            self.change({}, {"op": "add", "path": "/metadata/a", "value": "123"}, limits=limits)

    def test_reserved_names(self):
        with self.assertRaisesRegex(InvalidRequest, "_max_claim_count"):
            self.change({}, {"op": "add", "path": "/metadata/_max_claim_count", "value": 0})
        self.change({"_max_claim_count": 0}, {"op": "add", "path": "/metadata/a", "value": 0})


class PurgeTest(unittest.TestCase):
    def test_resources(self):
        self.assertEqual(validation.resources_to_purge({"resource_types": ["messages"]}), {"messages"})
        for value in (None, "messages", ["claims"], [None], [["messages"]], {"messages": 1}):
            with self.assertRaisesRegex(InvalidRequest, "resource_types"):
                validation.resources_to_purge({"resource_types": value})


class ShareTest(unittest.TestCase):
    NOW = 1_700_000_000.0

    def test_defaults(self):
        self.assertEqual(validation.share({}, self.NOW), validation.Share(["messages"], ["GET"], self.NOW + 86400))

    def test_instants(self):
        for text, expires_at in (
            ("2023-11-14T22:13:21", self.NOW + 1),
            ("2023-11-15T00:13:21+02:00", self.NOW + 1),
            ("2023-11-14T22:13:21.5Z", self.NOW + 1.5),
            ("9999-12-31T23:59:59", validation.END_OF_TIME),
        ):
            self.assertEqual(validation.share({"expires": text}, self.NOW).expires_at, expires_at)
        for text, why in (
            ("2023-11-14T22:13:20", "past"),
            ("0001-01-01T00:00:00+23:59", "past"),
            ("9999-12-31T23:59:59-00:01", "9999"),
            ("20301231", "ISO 8601"),
            ("tomorrow", "ISO 8601"),
        ):
            with self.subTest(text=text), self.assertRaisesRegex(InvalidRequest, why):
                validation.share({"expires": text}, self.NOW)

    def test_unknown_key(self):
        with self.assertRaisesRegex(InvalidRequest, "'project_id'"):
            validation.share({"project_id": "p", "zzz": 1}, self.NOW)


class ConfirmedTest(unittest.TestCase):
    def test_only_booleans(self):
        self.assertEqual([validation.confirmed({"confirmed": value}) for value in (True, False)], [True, False])
        for document in ({}, {"confirmed": 1}, {"confirmed": "true"}, {"confirmed": None}, []):
            with self.assertRaises(InvalidRequest):
                validation.confirmed(document)


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

    def test_options_for_all_notifiers(self):
        good = {
            "max_attempts": 100,
            "schedule": [0, 0.5, 604800],
            "max_in_flight": 1000,
            "rate": 0.001,
            "dead_letter_queue": "dead",
            "window": {"seconds": 86400},
            "fallback": ["mailto:a@example.org", *(f"sms:+4670123456{number}" for number in range(4))],
            "callback": "HTTPS://example.org/owner",
            "templates": {"email": {"subject": "Order {{ body.order }}", "text": {"de": "Hallo", "default": "Hello"}}},
            "language": "zh-Hant-TW",
            "_retry_policy": {"schedule": [0] * 100, "max_attempts": 1},
        }
        self.assertEqual(self.make({"subscriber": "http://e/", "options": good}).options, good)
        wrong = {
            "max_attempts": [0, 101, 1.0, "1", True, None],
            "schedule": [[], [0] * 101, [-1], [604801], ["1"], [True], [None], 5, "5", None, {}],
            "max_in_flight": [0, 1001, 1.5, "1", True, None],
            "rate": [0, -1, 0.0009, 10000.1, "1", True, None],
            "dead_letter_queue": ["", "a b", "a/b", "x" * 65, 5, None, [], "q"],
            "window": [
                *(
                    5,
                    "5",
                    None,
                    [],
                    {},
                    {"min": 1},
                    {"max": 1},
                    {"seconds": 5, "min": 1, "max": 2},
                    {"min": 1, "max": 2, "x": 1},
                ),
                *({"seconds": seconds} for seconds in (0, -1, 86400.5, "5", True, None, [])),
                *(
                    {"min": a, "max": b}
                    for a, b in ((2, 1), (-1, 1), (0, 0), (1, 86401), ("1", 2), (1, "2"), (1, True), (None, 2))
                ),
            ],
            "fallback": [
                *([], "http://a/", None, {}, ["http://a/"] * 6, [None], ["a"], [["http://a/"]], ["http://a/\n"]),
                *(["trust+http://a/"], ["http://a/", "http://a/" + "x" * 2040]),
            ],
            "templates": [None, [], "x", {"email": "x"}, {"fax": {"text": "x"}}, {"sms": {"text": "{{"}}, {"sms": {"text": 5}}],
            "language": [None, "", 5, [], "d", "de_AT", "de\n", "anything-at-all", "de-" + "x" * 33],
            "callback": [None, "", 5, [], ["http://a/"], "a", "http:", "mailto:a@b", "httpx://a/", "http://a/\n"],
        }
        for name, values in wrong.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.refused({"subscriber": "http://e/", "options": {name: value}}, f"options.{name}")
                    if name in ("max_attempts", "schedule"):
                        nested = {"_retry_policy": {name: value}}
                        self.refused({"subscriber": "http://e/", "options": nested}, f"options._retry_policy.{name}")

    def test_windows(self):
        for window in ({"seconds": 0.5}, {"min": 0, "max": 0.5}, {"min": 60, "max": 60}):
            self.assertEqual(self.make({"subscriber": "http://e/", "options": {"window": window}}).options, {"window": window})
        short = dataclasses.replace(LIMITS, max_window=5)
        self.make({"subscriber": "http://e/", "options": {"window": {"seconds": 5}}}, short)
        with self.assertRaisesRegex(InvalidRequest, "at most 5 seconds"):
            self.make({"subscriber": "http://e/", "options": {"window": {"min": 1, "max": 5.5}}}, short)

    def test_further_addresses(self):
        def addresses(**options):
            found = validation.further_addresses(self.make({"subscriber": "http://e/", "options": options}), LIMITS)
            return [(what, addressed.subscriber, sorted(addressed.options)) for what, addressed in found]

        self.assertEqual(addresses(), [])
        self.assertEqual(
            addresses(fallback=["http://a/", "mailto:a@b"], callback="http://e/"),
            [
                ("options.fallback[0]", "http://a/", ["callback", "fallback"]),
                ("options.fallback[1]", "mailto:a@b", ["callback", "fallback"]),
                ("options.callback", "http://e/", []),
            ],
        )
        for fallback, index in ((["http://a/", "http://e/"], 1), (["http://a/", "http://b/", "http://a/"], 2)):
            with self.assertRaisesRegex(InvalidRequest, rf"options.fallback\[{index}\]"):
                addresses(fallback=fallback)

    def test_no_object(self):
        for document in ([], "x", 5, None, True):
            self.refused(document, "JSON object")


class SubscriptionChangesTest(unittest.TestCase):
    def change(self, document):
        return validation.subscription_changes(document, queue="q", limits=LIMITS, now=1000.0)

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
            {"options": {"dead_letter_queue": "q"}},
            {"options": {"rate": 0}},
        ]
        for document in documents:
            with self.subTest(document=document), self.assertRaises(InvalidRequest):
                self.change(document)


class SpellingTest(unittest.TestCase):
    """A name that is nearly ours is a slip; any other is the client's own."""

    def refused(self, text, read, *given, **named):
        with self.assertRaises(InvalidRequest) as caught:
            read(*given, **named)
        self.assertIn(text, str(caught.exception))

    def subscribed(self, **document):
        return validation.subscription(
            {"subscriber": "https://a.b/", **document}, project="p", queue="q", limits=LIMITS, now=0.0
        )

    def test_options(self):
        slips = {
            "windows": "window",
            "fallbacks": "fallback",
            "call_back": "callback",
            "template": "templates",
            "languages": "language",
            "maxInFlight": "max_in_flight",
            "dead-letter-queue": "dead_letter_queue",
            "retry_policy": "_retry_policy",
            "post_header": "post_headers",
            "Secret": "secret",
        }
        for given, meant in slips.items():
            with self.subTest(given):
                self.refused(f"options.{given} is not known; options.{meant} is.", self.subscribed, options={given: 1})
                changes = {"options": {given: 1}}
                self.refused(given, validation.subscription_changes, changes, queue="q", limits=LIMITS, now=0.0)

    def test_retry_policies(self):
        text = "options._retry_policy.minimumDelay is not known; options._retry_policy.minimum_delay is."
        self.refused(text, self.subscribed, options={"_retry_policy": {"minimumDelay": 5}})
        self.refused("_retry_policy.max_attempt", validation.queue_metadata, {"_retry_policy": {"max_attempt": 5}}, LIMITS)
        self.subscribed(options={"_retry_policy": {"mine": 5, "maximum_delay": 50}})

    def test_options_of_the_client(self):
        own = {"label": 1, "windowing": 1, "lang": "de", "subject": "x", "keys": {}, "": 1, "_": 1, "s": 1}
        self.assertEqual(own, self.subscribed(options=own).options)
        both = {"language": "de", "languages": ["de", "sv"]}
        self.assertEqual(both, self.subscribed(options=both).options)

    def test_options_beside_the_options(self):
        self.refused("window is an option: it has to stand in the object options.", self.subscribed, window={"seconds": 3})
        self.refused("option is not known; options is.", self.subscribed, option={})
        self.refused("timeout", validation.subscription_changes, {"timeout": 3}, queue="q", limits=LIMITS, now=0.0)
        self.subscribed(id="1", age=4, confirmed=True, source="q")  # as it is shown

    def test_messages(self):
        for given, meant in (
            ("collapseKey", "collapse_key"),
            ("attribute", "attributes"),
            ("TTL", "ttl"),
            ("Priority", "priority"),
        ):
            with self.subTest(given):
                document = {"messages": [{"body": 1, "href": "/", "age": 3, "id": "1"}, {"body": 1, given: 1}]}
                text = f"messages[1].{given} is not known; messages[1].{meant} is."
                self.refused(text, validation.messages, document, default_ttl=60, limits=LIMITS)

    def test_metadata(self):
        self.refused("_template is not known; _templates is.", validation.queue_metadata, {"_template": {}}, LIMITS)
        self.refused("_max-claim-count", validation.queue_metadata, {"_max-claim-count": 1}, LIMITS)
        own = {"template": 1, "templates": 1, "retry_policy": 1, "_flavor": "x", "_mine": 1}
        self.assertEqual(own, validation.queue_metadata(own, LIMITS))
