import unittest

from zaqar_notify import trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class TraceTest(unittest.TestCase):
    def test_a_child_is_a_new_span_of_the_same_trace(self) -> None:
        self.assertEqual(f"00-{TRACE}-00000000000000ab-01", trace.child(PARENT, 0xAB))
        self.assertEqual(f"00-{TRACE}-{'f' * 16}-00", trace.child(f"00-{TRACE}-{SPAN}-00", 2**64 - 1))

    def test_a_child_can_be_a_parent(self) -> None:
        self.assertTrue(trace.is_valid(trace.child(PARENT, 1)))

    def test_flags_without_a_meaning_are_not_passed_on(self) -> None:
        flags = {"00": "00", "01": "01", "02": "02", "03": "03", "04": "00", "ff": "03"}
        self.assertEqual(flags, {one: str(trace.child(f"00-{TRACE}-{SPAN}-{one}", 1))[-2:] for one in flags})

    def test_a_later_version_is_read_as_far_as_it_is_known(self) -> None:
        for value in (f"cc-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01-what-the-future-holds", f"fe-{TRACE}-{SPAN}-01-"):
            with self.subTest(value):
                self.assertEqual(f"00-{TRACE}-0000000000000001-01", trace.child(value, 1))

    def test_what_is_none(self) -> None:
        values = [
            *(None, 5, b"00", {}, "", "-", "00"),
            f"00-{TRACE.upper()}-{SPAN}-01",
            f"00-{TRACE}-{SPAN.upper()}-01",
            f"00-{TRACE}-{SPAN}-1",
            f"00-{TRACE}-{SPAN}-0G",
            f"0-{TRACE}-{SPAN}-01",
            f"ff-{TRACE}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE[1:]}-{SPAN}-01",
            f"00-{TRACE}-{SPAN}0-01",
            f"00-{TRACE}-{SPAN}",
            f"00-{TRACE}-{SPAN}-01-",
            f"00-{TRACE}-{SPAN}-01-more",
            f"01-{TRACE}-{SPAN}-01more",
            f"01-{TRACE}-{SPAN}-01-\r\nx: y",
            f"00-{TRACE}-{SPAN}-01\n",
            f" {PARENT}",
            f"{PARENT} ",
            PARENT.replace("4", "\u0664"),
        ]
        for value in values:
            with self.subTest(repr(value)):
                self.assertFalse(trace.is_valid(value))
                self.assertIsNone(trace.child(value, 1))
