"""The signed tokens by which recipients and carriers answer."""

from __future__ import annotations

import unittest
import unittest.mock

from zaqar_notify.errors import Forbidden
from zaqar_notify.feedback import ACKNOWLEDGE, ENVELOPE, IN_MAILS, PATHS, SHORT, Links, Subject, Tokens, Use
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


class ShortTokenTest(unittest.TestCase):
    """The form for mails."""

    def test_it_names_its_delivery_and_address(self) -> None:
        tokens = Tokens("key")
        for delivery in (DELIVERY, "0000000000000001-7fffffffffffffff"):
            token = tokens.make_short(Use.ENVELOPE, delivery, 255)
            self.assertEqual(Subject(*delivery.split("-"), 255), tokens.read_short(Use.ENVELOPE, token))

    def test_it_fits_before_the_at_sign(self) -> None:
        token = Tokens("key").make_short(Use.ENVELOPE, DELIVERY, 100)
        self.assertEqual(SHORT, len(token))
        self.assertLessEqual(len(f"bounces+{token}"), 64)
        self.assertRegex(token, r"^[a-z0-9]+$")

    def test_capitals_are_the_same(self) -> None:
        tokens = Tokens("key")
        token = tokens.make_short(Use.ENVELOPE, DELIVERY)
        self.assertEqual(tokens.read_short(Use.ENVELOPE, token), tokens.read_short(Use.ENVELOPE, token.upper()))

    def test_it_is_good_for_one_use_only(self) -> None:
        tokens = Tokens("key")
        for use in Use:
            for other in set(Use) - {use}:
                with self.subTest(use=use, other=other), self.assertRaises(Forbidden):
                    tokens.read_short(other, tokens.make_short(use, DELIVERY))
        with self.assertRaises(Forbidden):
            tokens.read(Use.UNSUBSCRIBE, tokens.make_short(Use.UNSUBSCRIBE, DELIVERY))
        with self.assertRaises(Forbidden):
            tokens.read_short(Use.UNSUBSCRIBE, tokens.make(Use.UNSUBSCRIBE, DELIVERY))

    def test_every_character_counts(self) -> None:
        tokens = Tokens("key")
        token = tokens.make_short(Use.ENVELOPE, DELIVERY)
        for at in range(len(token)):
            for other in set("abcdefghijklmnopqrstuvwxyz234567") - {token[at]}:
                with self.assertRaises(Forbidden, msg=f"{other} at {at}"):
                    tokens.read_short(Use.ENVELOPE, token[:at] + other + token[at + 1 :])

    def test_what_is_no_token_is_refused(self) -> None:
        tokens = Tokens("key")
        token = tokens.make_short(Use.ENVELOPE, DELIVERY)
        for bad in (
            "",
            "e",
            token[:-1],
            f"{token}a",
            f"{token}\n",
            f" {token}",
            "e" * 45,
            "e" * 10000,
            f"{token[:-1]}\N{KELVIN SIGN}",
        ):
            with self.subTest(bad=bad[:80]), self.assertRaises(Forbidden):
                tokens.read_short(Use.ENVELOPE, bad)

    def test_another_key_makes_others(self) -> None:
        with self.assertRaises(Forbidden):
            Tokens("other").read_short(Use.ENVELOPE, Tokens("key").make_short(Use.ENVELOPE, DELIVERY))

    def test_there_is_none_for_what_is_no_delivery(self) -> None:
        for bad in ("", "m1-s1", f"{DELIVERY}\n", DELIVERY[1:]):
            with self.subTest(bad=bad), self.assertRaises(ValueError):
                Tokens("key").make_short(Use.ENVELOPE, bad)


class LinksTest(unittest.TestCase):
    def test_each_name_has_a_link_with_a_token_for_its_use(self) -> None:
        tokens = Tokens("key")
        links = Links(tokens, "https://notify.example.org", DELIVERY, 1)
        self.assertEqual({*PATHS, *IN_MAILS}, set(links))
        self.assertEqual(len(set(links)), len(links))
        for name, (use, path) in PATHS.items():
            before, _, token = links[name].rpartition("/")
            self.assertEqual(f"https://notify.example.org{path}", f"{before}/")
            self.assertEqual(1, tokens.read(use, token).target)

    def test_there_is_no_other(self) -> None:
        links = Links(Tokens("key"), "https://notify.example.org", DELIVERY)
        self.assertIsNone(links.get("nothing"))
        self.assertIn(ACKNOWLEDGE, links)
        self.assertNotIn("nothing", links)

    def test_to_ask_whether_there_is_one_signs_nothing(self) -> None:
        links = Links(Tokens("key"), "https://notify.example.org", DELIVERY)
        with (
            unittest.mock.patch.object(Tokens, "_mac", side_effect=AssertionError),
            unittest.mock.patch.object(Tokens, "_short", side_effect=AssertionError),
        ):
            self.assertEqual(len(links), sum(name in links for name in links))

    def test_without_a_public_url_there_are_the_tokens_for_mails(self) -> None:
        tokens = Tokens("key")
        links = Links(tokens, "", DELIVERY, 3)
        self.assertEqual((set(IN_MAILS), len(IN_MAILS)), (set(links), len(links)))
        for name, use in IN_MAILS.items():
            self.assertEqual(3, tokens.read_short(use, links[name]).target)
        self.assertIsNone(links.get(ACKNOWLEDGE))
        self.assertNotIn(ACKNOWLEDGE, links)
        self.assertEqual(links[ENVELOPE], Links(tokens, "https://notify.example.org", DELIVERY, 3)[ENVELOPE])
