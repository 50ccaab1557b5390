"""Deliveries that are held until their window ends, and those that take the place of others meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tests.storage.conformance_again import AgainCase
from tests.storage.contract import LANE, LEASE, NOW, RETENTION
from zaqar_notify.model import LogEntry, State, Subscription
from zaqar_notify.storage.base import Closing, Failure, Row, Settlement, Taken, Window

LONG = 600.0
"""Seconds, of a window that no test waits for by itself."""
WAITS, GONE = State.PARKED, State.SUPERSEDED


def window(key: str = "k", *, scope: str = "s", seconds: float = LONG, spread: float = 0.0) -> Window:
    return Window(scope, seconds, key, spread)


class WindowsCase(AgainCase):
    def matched(self, count: int = 1, *, ttl: int = 100_000, project: str = "p") -> tuple[list[str], int]:
        """Messages whose entries are leased, and the token."""
        message_ids = self.publish(count, ttl=ttl, project=project)
        return message_ids, self.take(self.worker, rows=0).token

    def waits(
        self, message_id: str, token: int, asked: Window | None = None, of: Subscription | None = None, **fields: Any
    ) -> Settlement:
        subscription = of or self.mine
        return Settlement(message_id, subscription.id, token, from_row=False, window=asked or window(), **fields)

    def settle(self, *settlements: Settlement, close: bool = True) -> None:
        closings = [Closing(one.message_id, one.token) for one in settlements if close and not one.from_row]
        self.assertEqual(0, self.storage.settle(settlements, closings))

    def hold(self, asked: Window | None = None, of: Subscription | None = None, **fields: Any) -> str:
        """A message whose delivery waits for a window."""
        (message_id,), token = self.matched(**fields)
        self.settle(self.waits(message_id, token, asked, of))
        return message_id

    def states(self, message_ids: Sequence[str], of: Subscription | None = None) -> list[State | None]:
        return [self.state(message_id, (of or self.mine).id) for message_id in message_ids]

    def released_at(self, message_id: str) -> Any:
        return self.delivery(message_id, self.mine.id).next_attempt_at

    def release(self, after: float = LONG) -> Taken:
        self.clock.now += after
        return self.take(self.worker, entries=0)

    def released(self, after: float = LONG) -> list[str]:
        """Ids of the messages that are due then. They are delivered."""
        taken = self.release(after)
        self.deliver(taken)
        return [row.message_id for row in taken.rows]

    def deliver(self, taken: Taken) -> None:
        done = (
            Settlement(row.message_id, row.subscription_id, taken.token, from_row=True, log=self.delivered(row.lines + 1))
            for row in taken.rows
        )
        self.settle(*done)


class WaitingConformance(WindowsCase):
    def test_it_waits_for_the_end(self) -> None:
        self.begin()
        message_id = self.hold()
        opened_at = self.clock.now
        self.assertEqual((WAITS, opened_at + LONG), (self.state(message_id, self.mine.id), self.released_at(message_id)))
        self.assertEqual([], self.log(message_id))
        self.clock.now = opened_at + LONG - 0.1
        self.assertEqual([], list(self.take(self.worker, lanes=5).rows))
        self.assertEqual(WAITS, self.state(message_id, self.mine.id))
        self.clock.now = opened_at + LONG
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id), "it is released")
        taken = self.take(self.worker)
        (row,) = self.rows(taken)
        self.assertIsNotNone(row.window_id)
        self.assertEqual(Row(message_id, self.mine.id, 0, 0, window_id=row.window_id), row)
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, self.mine.id))
        self.settle_row(message_id, taken, self.delivered())
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine.id))

    def test_nobody_has_a_lease_on_it(self) -> None:
        self.begin()
        message_id = self.hold()
        self.storage.leave(self.worker)
        self.assertEqual(WAITS, self.state(message_id, self.mine.id))
        self.assertEqual(0, self.storage.depths().in_flight)
        self.assertEqual(1, self.storage.depths().pending)
        self.assertEqual([], list(self.take(self.storage.join()).rows))

    def test_the_first_opens_it_and_others_join(self) -> None:
        self.begin()
        first = self.hold(window("a"))
        ends_at = self.released_at(first)
        self.clock.now += LONG / 2
        self.prune_all()
        second = self.hold(window("b", seconds=9 * LONG))
        third = self.hold(window("c", scope="other"))
        theirs = self.hold(window("d"), self.other)
        self.assertEqual([ends_at, ends_at], [self.released_at(one) for one in (first, second)])
        self.assertEqual(self.clock.now + LONG, self.released_at(third))
        taken = self.release(LONG / 2)
        self.assertEqual([first, second, theirs], [row.message_id for row in taken.rows])
        (window_id,) = {row.window_id for row in taken.rows}
        self.deliver(taken)
        (row,) = self.release(LONG / 2).rows
        self.assertEqual(third, row.message_id)
        self.assertNotEqual(window_id, row.window_id)

    def test_of_another_project(self) -> None:
        self.begin()
        first = self.hold(window("a"))
        theirs = self.subscribe(project="o")
        self.clock.now += LONG / 2
        (other,), token = self.matched(project="o")
        self.settle(self.waits(other, token, window("a"), theirs))
        self.assertEqual([first], self.released(LONG / 2))
        self.assertEqual([other], self.released(LONG / 2))

    def test_one_that_is_over_is_not_joined(self) -> None:
        self.begin()
        first = self.hold()
        self.clock.now += LONG
        second = self.hold()
        self.assertEqual(self.clock.now + LONG, self.released_at(second))
        self.assertEqual([first], self.released(0))
        self.clock.now += LONG + 1
        self.prune_all()
        third = self.hold()
        self.assertEqual([second], self.released(0))
        self.assertEqual([third], self.released())

    def test_nor_one_that_is_too_long_since_the_clock_was_set_back(self) -> None:
        self.begin()
        asked = dataclasses.replace(window(), longest=LONG + 1)
        first = self.hold(asked)
        self.clock.now -= 1
        self.hold(dataclasses.replace(asked, key="other"))
        self.assertEqual(self.clock.now + LONG + 1, self.released_at(first))
        self.clock.now -= 86400
        second, third = self.hold(asked), self.hold(asked)
        self.assertEqual(self.clock.now + LONG, self.released_at(third))
        self.assertEqual([WAITS, GONE, WAITS], self.states([first, second, third]))
        self.assertEqual([third], self.released())

    def test_many_come_due_one_after_the_other(self) -> None:
        self.begin()
        message_ids, token = self.matched(40)
        opened_at = self.clock.now
        waiting = [self.waits(one, token, window(one, spread=100.0)) for one in message_ids]
        self.settle(*waiting)
        times = [self.released_at(one) for one in message_ids]
        self.assertTrue(opened_at + LONG <= min(times) <= max(times) <= opened_at + LONG + 100)
        self.assertTrue(max(times) - min(times) > 10, "all at nearly the same time: one chance in ten to the power of 38")
        self.assertNotEqual(sorted(times), times)
        self.assertEqual(set(), set(self.released(LONG - 1)))
        late = [one for one, at in zip(message_ids, times, strict=True) if at > opened_at + LONG + 50]
        self.clock.now = opened_at + LONG + 50
        self.assertEqual(set(message_ids) - set(late), set(self.released(0)))
        self.assertEqual([WAITS] * len(late), self.states(late))
        self.clock.now = opened_at + LONG + 100
        self.assertEqual(set(late), set(self.released(0)))

    def test_one_that_is_not_open_for_any_time(self) -> None:
        self.begin()
        for longest in (0.0, LONG):
            message_id = self.hold(Window("s", 0.0, "k", 0.0, longest))
            self.assertEqual([message_id], self.released(0.1))

    def test_a_row_can_wait_too(self) -> None:
        self.begin()
        parked, _ = self.leave_row(park=LANE)
        failed, _ = self.leave_row(due_at=NOW)
        self.take(self.worker, rows=0, lanes=1)
        for message_id, parked_in in ((failed, None), (parked, {LANE: 1})):
            token = self.take(self.worker, parked=parked_in).token
            used = {"attempts": 1, "lines": 1, "target": 2}
            self.settle(Settlement(message_id, self.mine.id, token, from_row=True, window=window(message_id), **used))
        self.assertEqual([WAITS, WAITS], self.states([failed, parked]))
        rows = self.rows(self.release())
        expected = [Row(one, self.mine.id, 1, 1, window_id=rows[0].window_id, target=2) for one in (parked, failed)]
        self.assertEqual(expected, rows)

    def test_with_a_line_and_all_that_belongs_to_it(self) -> None:
        self.begin()
        (message_id,), token = self.matched()
        failure = Failure(NOW, True, 3, 1e9, "strikes", "longest")
        self.settle(self.waits(message_id, token, log=self.failed(), attempts=1, lines=1, failure=failure))
        self.assertEqual([(1, State.PENDING)], self.log(message_id))
        self.assertEqual(WAITS, self.state(message_id, self.mine.id))
        self.assertEqual(1, self.storage.get_subscription("p", "q", self.mine.id).strikes)

    def test_what_was_released_is_like_others(self) -> None:
        self.begin()
        message_id = self.hold()
        self.release()
        self.assertEqual([], list(self.take(self.worker).rows))
        self.clock.now += LEASE
        taken = self.take(self.worker)
        (window_id,) = {row.window_id for row in taken.rows}
        kept = {"attempts": 1, "lines": 1, "window_id": window_id, "target": 1}
        self.settle_row(message_id, taken, self.failed(), due_at=self.clock.now + 60, **kept)
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
        taken = self.release(60)
        self.assertEqual([Row(message_id, self.mine.id, 1, 1, window_id=window_id, target=1)], self.rows(taken))
        self.settle(Settlement(message_id, self.mine.id, taken.token, from_row=True, park=LANE, window_id=window_id))
        self.take(self.worker, lanes=1)
        taken = self.take(self.worker, parked={LANE: 1})
        self.assertEqual([window_id], [row.window_id for row in taken.rows])
        held = {"due_at": self.clock.now + 5, "hold": True, "window_id": window_id}
        self.settle(Settlement(message_id, self.mine.id, taken.token, from_row=True, **held))
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, self.mine.id))
        taken = self.release(5)
        self.assertEqual([window_id], [row.window_id for row in taken.rows])
        self.settle(Settlement(message_id, self.mine.id, taken.token, from_row=True, due_at=NOW))
        self.assertEqual([None], [row.window_id for row in self.take(self.worker).rows])

    def test_everyone_sees_the_window(self) -> None:
        self.begin()
        first = self.hold(window("a"))
        ends_at = self.released_at(first)
        self.storage = self.another()
        self.worker = self.storage.join()
        self.clock.now += 5
        second, third = self.hold(window("b")), self.hold(window("a"))
        self.assertEqual([GONE, WAITS, WAITS], self.states([first, second, third]))
        self.assertEqual([ends_at, ends_at], [self.released_at(one) for one in (second, third)])
        self.assertEqual([second, third], self.released())


class SupersedingConformance(WindowsCase):
    """Of what waits for the same, the latest message stays."""

    def assert_one_waits(self, message_ids: Sequence[str], latest: str) -> None:
        self.assertEqual([WAITS if one == latest else GONE for one in message_ids], self.states(message_ids))
        told = [LogEntry(1, round(self.clock.now, 2), GONE)]
        ended = [self.delivery(one, self.mine.id) for one in message_ids if one != latest]
        for record in ended:
            self.assertEqual([dataclasses.replace(line, at=round(line.at, 2)) for line in record.log], told)
            self.assertIsNone(record.next_attempt_at)
        self.assertEqual([latest], self.released())

    def test_the_later_one_takes_its_place(self) -> None:
        self.begin()
        message_ids = [self.hold() for _ in range(3)]
        self.assert_one_waits(message_ids, message_ids[-1])

    def test_in_whatever_order_they_are_settled(self) -> None:
        for order in ((2, 1, 0), (1, 2, 0), (2, 0, 1)):
            self.begin()
            message_ids, token = self.matched(3)
            for number in order:
                self.settle(self.waits(message_ids[number], token))
            self.assert_one_waits(message_ids, message_ids[-1])
            self.storage.delete_subscription("p", "q", self.mine.id)
            self.storage.delete_subscription("p", "q", self.other.id)

    def test_all_at_once(self) -> None:
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
            self.begin()
            first = self.hold()
            message_ids, token = self.matched(3)
            self.settle(*(self.waits(message_ids[number], token) for number in order))
            self.assert_one_waits([first, *message_ids], message_ids[-1])
            self.storage.delete_subscription("p", "q", self.mine.id)
            self.storage.delete_subscription("p", "q", self.other.id)

    def test_others_stay(self) -> None:
        self.begin()
        first = self.hold(window("a"))
        second = self.hold(window("b"))
        third = self.hold(window("a", scope="other"))
        theirs = self.hold(window("a"), self.other)
        last = self.hold(window("a"))
        self.assertEqual([GONE, WAITS, WAITS, WAITS], self.states([first, second, third, last]))
        self.assertEqual(WAITS, self.state(theirs, self.other.id))

    def test_the_log_goes_on(self) -> None:
        self.begin()
        earlier, _ = self.leave_row(due_at=NOW)
        token = self.take(self.worker).token
        used = {"attempts": 1, "lines": 1}
        self.settle(Settlement(earlier, self.mine.id, token, from_row=True, window=window(), **used))
        self.hold()
        self.assertEqual([(1, State.PENDING), (2, GONE)], self.log(earlier))

    def test_the_log_of_one_that_comes_too_late(self) -> None:
        self.begin()
        row, _ = self.leave_row(due_at=NOW)
        (fresh,), token = self.matched()
        token_of_row = self.take(self.worker).token
        self.hold()
        used = {"attempts": 1, "lines": 1}
        self.settle(Settlement(row, self.mine.id, token_of_row, from_row=True, window=window(), **used))
        self.assertEqual([(1, State.PENDING), (2, GONE)], self.log(row))
        self.settle(self.waits(fresh, token, log=self.failed(), **used))
        self.assertEqual([(1, State.PENDING), (2, GONE)], self.log(fresh))

    def test_not_what_is_being_sent(self) -> None:
        self.begin()
        first = self.hold()
        taken = self.release()
        self.clock.now -= LONG / 2
        second = self.hold()
        self.assertEqual([State.IN_FLIGHT, WAITS], self.states([first, second]))
        self.settle_row(first, taken, self.delivered())
        self.assertEqual([State.DELIVERED, WAITS], self.states([first, second]))

    def test_not_what_is_due(self) -> None:
        self.begin()
        first = self.hold()
        self.release()
        self.storage.leave(self.worker)
        self.worker = self.storage.join()
        self.clock.now -= LONG / 2
        second = self.hold()
        self.assertEqual([State.PENDING, WAITS], self.states([first, second]))
        self.assertEqual([first], self.released(0))

    def test_not_what_waits_for_a_retry(self) -> None:
        self.begin()
        first = self.hold()
        taken = self.release()
        kept = {"attempts": 1, "lines": 1, "window_id": taken.rows[0].window_id}
        self.settle_row(first, taken, self.failed(), due_at=self.clock.now + LONG, **kept)
        self.clock.now -= LONG / 2
        second = self.hold()
        self.assertEqual([State.PENDING, WAITS], self.states([first, second]))

    def test_not_what_is_over_its_window_by_its_spread(self) -> None:
        self.begin()
        first = self.hold(window(spread=1e9))
        self.clock.now += LONG
        second = self.hold()
        self.assertEqual([WAITS, WAITS], self.states([first, second]))

    def test_a_redelivery_is_not_held(self) -> None:
        self.begin()
        first, second = self.hold(), self.hold()
        self.assertEqual([GONE, WAITS], self.states([first, second]))
        self.redeliver(first)
        third = self.hold()
        self.assertEqual([State.PENDING, GONE, WAITS], self.states([first, second, third]))
        self.assertEqual([Row(first, self.mine.id, 0, 1, lines_before=1)], self.rows(self.take(self.worker)))

    def test_ends_are_told_once(self) -> None:
        self.begin()
        message_ids = [self.hold() for _ in range(2)]
        self.hold()
        self.assertEqual([[(1, GONE)], [(1, GONE)]], [self.log(one) for one in message_ids])
        found = self.storage.subscription_deliveries("p", "q", self.mine.id, None, 9)
        self.assertEqual([WAITS, GONE, GONE], [one.state for one in found])


class HeldConformance(WindowsCase):
    """What becomes of a row that waits when something else happens to it."""

    def test_cancelled(self) -> None:
        self.begin()
        message_id = self.hold()
        self.cancel(message_id)
        self.assertEqual([(1, State.CANCELLED)], self.log(message_id))
        self.assertEqual([], list(self.release().rows))
        later = self.hold()
        self.redeliver(message_id)
        self.assertEqual([Row(message_id, self.mine.id, 0, 1, lines_before=1)], self.rows(self.take(self.worker)))
        self.assertEqual(WAITS, self.state(later, self.mine.id))

    def test_it_expires(self) -> None:
        self.begin()
        message_id = self.hold(ttl=60)
        self.clock.now += 60
        self.assertEqual(State.EXPIRED, self.state(message_id, self.mine.id))
        self.prune_all()
        (row,) = self.take(self.worker).rows
        self.assertEqual(message_id, row.message_id, "handed to the workers, before the window ends")
        second = self.hold()
        self.assertEqual([State.IN_FLIGHT, WAITS], self.states([message_id, second]))

    def test_nobody_ends_it_when_it_has_expired(self) -> None:
        self.begin()
        message_id = self.hold(window(seconds=1e6), ttl=60)
        for _ in range(2):
            self.clock.now += RETENTION + 1
            self.prune_all()
        self.assertEqual([(1, State.EXPIRED)], self.log(message_id))
        self.clock.now += RETENTION + 1
        self.prune_all()
        self.assertIsNone(self.delivery(message_id, self.mine.id))

    def test_its_subscription_is_deleted(self) -> None:
        self.begin()
        message_id = self.hold(ttl=300)
        self.storage.delete_subscription("p", "q", self.mine.id)
        self.assertEqual(State.CANCELLED, self.state(message_id, self.mine.id))
        self.assertIsNone(self.released_at(message_id))
        self.clock.now += 300
        self.prune_all()
        self.assertEqual([(1, State.CANCELLED)], self.log(message_id))

    def test_its_queue_is_deleted_or_purged(self) -> None:
        for remove in (self.storage.delete_queue, self.storage.purge_messages):
            self.begin()
            message_id = self.hold(ttl=300)
            remove("p", "q")
            self.assertEqual(State.CANCELLED, self.state(message_id, self.mine.id))
            self.clock.now += 300
            self.prune_all()
            self.assertEqual([(1, State.CANCELLED)], self.log(message_id))
            self.storage.delete_subscription("p", "q", self.mine.id)
            self.storage.delete_subscription("p", "q", self.other.id)

    def test_it_keeps_its_message(self) -> None:
        self.begin()
        message_id = self.hold(window(seconds=1e6), ttl=10_000)
        self.storage.delete_message("p", "q", message_id)
        self.clock.now += RETENTION * 3
        self.prune_all()
        self.assertEqual(WAITS, self.state(message_id, self.mine.id))

    def test_a_lost_lease_holds_nothing(self) -> None:
        self.begin()
        (message_id,), token = self.matched()
        self.storage.leave(self.worker)
        self.assertEqual(1, self.storage.settle([self.waits(message_id, token)]))
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
        self.worker = self.storage.join()
        earlier, later = self.hold(), self.publish()[0]
        self.assertEqual(1, self.storage.settle([self.waits(later, token)]))
        self.assertEqual(WAITS, self.state(earlier, self.mine.id), "and takes nobody's place")


class RepeatedWindowConformance(WindowsCase):
    """What is settled again, because nobody could say what became of the commit."""

    def again(self, *settlements: Settlement) -> None:
        self.settle(*settlements, close=False)

    def test_it_waits_once(self) -> None:
        self.begin()
        (message_id,), token = self.matched()
        waits = self.waits(message_id, token)
        self.again(waits)
        ends_at = self.released_at(message_id)
        self.clock.now += 1
        self.again(waits)
        self.assertEqual(
            ([], WAITS, ends_at), (self.log(message_id), self.state(message_id, self.mine.id), self.released_at(message_id))
        )
        self.clock.now = ends_at
        taken = self.take(self.worker, entries=0)
        self.assertEqual([message_id], [row.message_id for row in taken.rows])
        self.again(waits)
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, self.mine.id), "who has taken it keeps it")
        self.settle_row(message_id, taken, self.delivered())
        self.again(waits)
        self.assertEqual([(1, State.DELIVERED)], self.log(message_id))
        self.assertEqual([], list(self.release(LONG * 3).rows))

    def test_it_is_superseded_once(self) -> None:
        self.begin()
        (first, second), token = self.matched(2)
        settled = [self.waits(first, token), self.waits(second, token)]
        self.again(*settled)
        self.again(*settled)
        self.again(settled[0])
        self.assertEqual(([(1, GONE)], []), (self.log(first), self.log(second)))
        self.assertEqual([second], self.released())
        self.again(*settled)
        self.assertEqual([GONE, State.DELIVERED], self.states([first, second]))

    def test_with_others_that_were_not_stored(self) -> None:
        self.begin()
        (first, second, third), token = self.matched(3)
        self.again(self.waits(second, token, log=self.failed(), attempts=1, lines=1))
        self.again(*(self.waits(one, token, log=self.failed(), attempts=1, lines=1) for one in (third, second, first)))
        self.assertEqual([GONE, GONE, WAITS], self.states([first, second, third]))
        expected = [(1, State.PENDING), (2, GONE)]
        self.assertEqual([expected, expected, expected[:1]], [self.log(one) for one in (first, second, third)])
