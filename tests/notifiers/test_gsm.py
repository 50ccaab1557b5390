import unittest

from zaqar_notify.notifiers import gsm


class MeasureTest(unittest.TestCase):
    """The figures of GSM 03.38 and 03.40: 160 or 153 places of seven bits, 70 or 67 of sixteen."""

    def test_segments(self) -> None:
        cases = [
            ("", False, 1),
            ("a" * 160, False, 1),
            ("a" * 161, False, 2),
            ("a" * 306, False, 2),
            ("a" * 307, False, 3),
            ("\u20ac" * 80, False, 1),
            ("\u20ac" * 81, False, 2),
            ("a" * 152 + "\u20ac" + "a" * 100, False, 2),  # the escape and its character stay together
            ("a" * 152 + "\u20ac" + "a" * 152, False, 3),
            ("\u4e2d" * 70, True, 1),
            ("\u4e2d" * 71, True, 2),
            ("\u4e2d" * 134, True, 2),
            ("\u4e2d" * 135, True, 3),
            ("\U0001f600" * 35, True, 1),
            ("\U0001f600" * 36, True, 2),
            ("\U0001f600" * 66, True, 2),
            ("\U0001f600" * 67, True, 3),  # 67 places hold 33 of two
            ("\u00e9\u00e0\u00f1\u00df\u00c6 @\u00a3$", False, 1),
            ("\u00ea", True, 1),
            ("`", True, 1),
        ]
        for text, unicode, segments in cases:
            with self.subTest(text[:5]):
                self.assertEqual((unicode, segments), gsm.measure(text))
                self.assertEqual((segments, text), (len(gsm.parts(text)), "".join(gsm.parts(text))))

    def test_cut(self) -> None:
        for text in ("a" * 1000, "\u20ac" * 1000, "\u4e2d" * 1000, "\U0001f600" * 1000, "a" * 300 + "\u4e2d"):
            for segments in (1, 2, 3):
                with self.subTest((text[:3], segments)):
                    shortened = gsm.cut(text, segments)
                    self.assertLessEqual(gsm.measure(shortened).segments, segments)
                    self.assertTrue(shortened == text or shortened.endswith(("...", "\u2026")))
                    self.assertGreater(gsm.measure(shortened + "xx" * 3).segments, segments)
        self.assertEqual("short", gsm.cut("short", 1))

    def test_the_alphabet(self) -> None:
        self.assertEqual(128, len(gsm.ALPHABET))
        self.assertEqual(b"\x00\x02\x0a\x0d\x20\x40\x41\x5a\x61\x7a\x7f", gsm.encode("@$\n\r \u00a1AZaz\u00e0"))
        self.assertEqual(b"\x1b\x65\x1b\x3c\x1b\x3e\x1b\x14", gsm.encode("\u20ac[]^"))
        with self.assertRaises(ValueError):
            gsm.encode("\u4e2d")
