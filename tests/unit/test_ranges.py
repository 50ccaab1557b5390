"""What a worker knows of the ranges that it delivers, and how it holds them back for others."""

from __future__ import annotations

import unittest

from zaqar_notify.ranges import Ranges, Share, Window


class RangesTest(unittest.TestCase):
    def test_they_have_their_turns(self) -> None:
        ranges = Ranges()
        for name in "abc":
            ranges.hold(name, lambda: None)
        self.assertEqual([["a"], ["b"], ["c"], ["a"]], [ranges.idle(1, 0.0) for _ in range(4)])
        self.assertEqual(["b", "c", "a"], ranges.idle(9, 0.0))
        ranges.put_off(["c"], 5.0)
        self.assertEqual(["b", "a"], ranges.idle(9, 4.0))
        self.assertEqual(["c", "b", "a"], ranges.idle(9, 5.0))

    def test_one_that_is_let_go_has_its_page_still(self) -> None:
        ranges = Ranges()
        ranges.hold("a", lambda: None)
        ranges.begin(["a"])
        self.assertEqual([], ranges.idle(9, 0.0))
        self.assertFalse(ranges.let_go("a"))
        ranges.hold("a", lambda: None)
        self.assertEqual([], ranges.idle(9, 0.0))
        ranges.over("a")
        self.assertEqual(["a"], ranges.idle(9, 0.0))
        self.assertTrue(ranges.let_go("a"))
        self.assertEqual([], ranges.idle(9, 0.0))

    def test_its_end_is_told_once(self) -> None:
        ranges = Ranges()
        told: list[str] = []
        for name in "ab":
            ranges.hold(name, lambda name=name: told.append(name))
        ranges.let_go("b")
        for _ in range(2):
            ranges.end(["a", "b", "c"])
        self.assertEqual(["a"], told)


class WindowTest(unittest.TestCase):
    def run_for(self, window: Window, times: int, duration: object, *, full: bool = True) -> None:
        """``duration`` makes one of how many are under way."""
        for _ in range(times):
            for _ in range(20):
                window.ended(duration(window.size))
            window.adapt(full)

    def test_slow_endpoints_that_take_any_number_get_as_many_as_may_be(self) -> None:
        window = Window(1024)
        self.run_for(window, 100, lambda _: 0.2)
        self.assertEqual(1024, window.size)

    def test_it_does_not_grow_while_it_is_not_used(self) -> None:
        window = Window(1024)
        self.run_for(window, 100, lambda _: 0.2, full=False)
        self.assertEqual(Window.LEAST, window.size)

    def test_it_stays_small_where_more_only_stand_in_line(self) -> None:
        window = Window(1024)
        # 5,000 a second, each of which takes 1 ms by itself.
        for _ in range(50):
            self.run_for(window, 20, lambda size: max(0.001, size / 5000))
            self.assertTrue(Window.LEAST <= window.size < 100, window.size)

    def test_endpoints_that_take_so_many_and_no_more(self) -> None:
        window = Window(1024)
        # 100 ms, and 2,000 a second: 200 are under way, and the rest stands in line.
        self.run_for(window, 95, lambda size: max(0.1, size / 2000))
        self.assertTrue(150 < window.size < 300, window.size)

    def test_it_learns_that_endpoints_have_become_slower(self) -> None:
        window = Window(1024)
        self.run_for(window, 50, lambda _: 0.001)
        self.run_for(window, 50, lambda _: 0.5)
        self.assertLess(window.size, 50, "they seem to stand in line")
        self.run_for(window, 100, lambda _: 0.5)
        self.assertEqual(1024, window.size)

    def test_nothing_that_ended_says_nothing(self) -> None:
        window = Window(1024)
        window.adapt(True)
        self.run_for(window, 1, lambda _: 0.0)
        self.assertGreaterEqual(window.size, Window.LEAST)


class ShareTest(unittest.TestCase):
    def test_work_is_followed_by_a_rest(self) -> None:
        share = Share(0.25)
        share.rested(100.0)
        self.assertEqual(0.0, share.owed(100.005), "it is too little to speak of")
        self.assertAlmostEqual(0.06, share.owed(100.02))
        share.rested(100.08)
        self.assertEqual(0.0, share.owed(100.08))

    def test_half_of_the_time(self) -> None:
        share = Share(0.5)
        share.rested(100.0)
        self.assertAlmostEqual(0.05, share.owed(100.05))

    def test_no_rest_is_longer_than_others_can_tell(self) -> None:
        self.assertAlmostEqual(0.1, Share(0.5).owed(1e6))

    def test_what_was_done_for_others_is_no_work(self) -> None:
        share = Share(0.5)
        share.rested(100.0)
        share.other(0.03)
        self.assertAlmostEqual(0.02, share.owed(100.05))

    def test_having_nothing_to_do_is_a_rest(self) -> None:
        share = Share(0.5)
        share.rested(100.0)
        share.idle(0.05, 100.1)
        self.assertEqual(0.0, share.owed(100.1))
        share.idle(5.0, 105.1)
        self.assertAlmostEqual(0.02, share.owed(105.12), msg="it is not saved up")

    def test_all_of_the_time(self) -> None:
        share = Share(1.0)
        self.assertEqual(0.0, share.owed(50.0))
        share.idle(1.0, 51.0)
        self.assertEqual(0.0, share.owed(60.0))
