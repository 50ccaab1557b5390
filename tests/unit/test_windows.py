"""What asks for a window, and what supersedes what."""

from __future__ import annotations

import dataclasses
import unittest
from typing import Any

from zaqar_notify import windows
from zaqar_notify.model import Message, Subscription
from zaqar_notify.windows import Bounds

MESSAGE = Message(id="m", project="p", queue="q", body_json=b"1", ttl=60, created_at=1000.0, expires_at=1060.0)
CREDENTIAL = ("apns_shop", 5.0, 9.0)


def bounds(window: Any, credential: Any = None) -> Bounds | None:
    options = {} if window is None else {"window": window}
    return windows.bounds(Subscription("7", "p", "q", "x://a", None, options, 0.0, None), credential)


class BoundsTest(unittest.TestCase):
    def test_of_a_subscription(self) -> None:
        self.assertEqual(Bounds("subscription:7", 60.0, 60.0), bounds({"seconds": 60}))
        self.assertEqual(Bounds("subscription:7", 0.5, 60.0), bounds({"min": 0.5, "max": 60}))

    def test_of_a_credential(self) -> None:
        self.assertEqual(Bounds("credential:apns_shop", 5.0, 9.0), bounds(None, CREDENTIAL))

    def test_that_of_the_subscription_comes_first(self) -> None:
        self.assertEqual(Bounds("subscription:7", 60.0, 60.0), bounds({"seconds": 60}, CREDENTIAL))

    def test_none(self) -> None:
        self.assertIsNone(bounds(None))

    def test_what_is_no_window_counts_as_none(self) -> None:
        nan, infinite = float("nan"), float("inf")
        for bad in (7, [], "x", {}, {"seconds": 0}, {"seconds": -1}, {"seconds": "7"}, {"seconds": True}, {"seconds": None}):
            with self.subTest(bad=bad):
                self.assertIsNone(bounds(bad))
                self.assertEqual(bounds(None, CREDENTIAL), bounds(bad, CREDENTIAL))
        for bad in ({"min": 2, "max": 1}, {"min": 0, "max": 0}, {"min": 1}, {"max": 1}, {"min": 1, "max": nan}):
            with self.subTest(bad=bad):
                self.assertIsNone(bounds(bad))
        for bad in ({"seconds": nan}, {"seconds": infinite}):
            with self.subTest(bad=bad):
                self.assertIsNone(bounds(bad))

    def test_it_is_drawn_from_between_them(self) -> None:
        drawn = {Bounds("x", 1.0, 3.0).draw() for _ in range(100)}
        self.assertGreater(len(drawn), 50)
        self.assertTrue(all(1.0 <= seconds <= 3.0 for seconds in drawn), drawn)
        self.assertEqual(3.0, Bounds("x", 3.0, 3.0).draw())


class KeyTest(unittest.TestCase):
    def test_the_collapse_key_or_else_the_body(self) -> None:
        def key(**fields: Any) -> str:
            return windows.key(dataclasses.replace(MESSAGE, **fields))

        self.assertEqual(key(id="1"), key(id="2"))
        self.assertNotEqual(key(body_json=b"1"), key(body_json=b"2"))
        self.assertEqual(key(collapse_key="a", body_json=b"1"), key(collapse_key="a", body_json=b"2"))
        self.assertNotEqual(key(collapse_key="a"), key(collapse_key="b"))
        self.assertNotEqual(key(collapse_key="1"), key(body_json=b"1"))
        self.assertNotEqual(key(collapse_key=""), key())
        self.assertEqual(64, len(key(collapse_key="\N{SNOWMAN}" * 256)))
