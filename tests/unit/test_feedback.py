"""The signed tokens by which recipients and carriers answer."""

from __future__ import annotations

import unittest

from zaqar_notify.errors import Forbidden
from zaqar_notify.feedback import ACKNOWLEDGE, PATHS, Links, Subject, Tokens, Use
from zaqar_notify.model import delivery_id

DELIVERY = delivery_id("18bcfe56800ddd6a", "18bcfe56802e8621")


class TokenTest(unittest.TestCase):
    def test_a_token_names_its_delivery_and_address(self) -> None:
        tokens = Tokens("key")
        token = tokens.make(Use.RECEIPT, DELIVERY, 2)
        self.assertEqual(Subject("18bcfe56800ddd6a", "18bcfe56802e8621", 2), tokens.read(Use.RECEIPT, token))

    def test_it_fits_into_the_id_of_an_envelope(self) -> None:
        self.assertLessEqual(len(Tokens("key").make(Use.ENVELOPE, DELIVERY, 100)), 100)

    def test_it_is_good_for_one_use_only(self) -> None:
        tokens = Tokens("key")
        for use in Use:
            for other in set(Use) - {use}:
                with self.subTest(use=use, other=other), self.assertRaises(Forbidden):
                    tokens.read(other, tokens.make(use, DELIVERY))

    def test_every_character_counts(self) -> None:
        tokens = Tokens("key")
        token = tokens.make(Use.ACKNOWLEDGE, DELIVERY)
        for at in range(len(token)):
            changed = token[:at] + ("0" if token[at] != "0" else "1") + token[at + 1 :]
            with self.subTest(at=at), self.assertRaises(Forbidden):
                tokens.read(Use.ACKNOWLEDGE, changed)

    def test_what_is_no_token_is_refused(self) -> None:
        tokens = Tokens("key")
        token = tokens.make(Use.ACKNOWLEDGE, DELIVERY)
        for bad in ("", "a", token[:-1], f"{token}0", f"{token}\n", f" {token}", token.upper(), "a" * 10000, "a\N{SNOWMAN}"):
            with self.subTest(bad=bad[:80]), self.assertRaises(Forbidden):
                tokens.read(Use.ACKNOWLEDGE, bad)

    def test_another_key_makes_others(self) -> None:
        with self.assertRaises(Forbidden):
            Tokens("other").read(Use.RECEIPT, Tokens("key").make(Use.RECEIPT, DELIVERY))


class LinksTest(unittest.TestCase):
    def test_each_name_has_a_link_with_a_token_for_its_use(self) -> None:
        tokens = Tokens("key")
        links = Links(tokens, "https://notify.example.org", DELIVERY, 1)
        self.assertEqual(set(PATHS), set(links))
        self.assertEqual(len(PATHS), len(links))
        for name, (use, path) in PATHS.items():
            before, _, token = links[name].rpartition("/")
            self.assertEqual(f"https://notify.example.org{path}", f"{before}/")
            self.assertEqual(1, tokens.read(use, token).target)

    def test_there_is_no_other(self) -> None:
        links = Links(Tokens("key"), "https://notify.example.org", DELIVERY)
        self.assertIsNone(links.get("nothing"))
        self.assertIn(ACKNOWLEDGE, links)
