"""Templates of subscriptions and queues."""

import unittest

from zaqar_notify.templates import merged


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
