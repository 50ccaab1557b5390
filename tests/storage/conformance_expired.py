"""Rows of expired messages: the workers end them, which tell whom it concerns; housekeeping only those that they leave."""

from __future__ import annotations

from tests.storage.conformance_again import AgainCase
from tests.storage.contract import LANE, LEASE, NOW, RETENTION
from zaqar_notify.model import State
from zaqar_notify.storage.base import Breaker, Row, Taken

LOOK_AGAIN = 600.0
"""So long the workers have time."""


class ExpiredRowConformance(AgainCase):
    def wait_and_park(self) -> tuple[str, str]:
        """A message that waits for a retry, for longer than it lives, and one that is parked."""
        waiting, _ = self.entry_into_row(self.mine.id, log=self.failed(), due_at=NOW + 900, attempts=1, lines=1, ttl=60)
        parked = self.publish(ttl=60)[0]
        self.park(self.worker, [parked], self.mine.id)
        return waiting, parked

    def expire(self) -> None:
        self.clock.now += 60
        self.prune_all()

    def end_taken(self, taken: Taken) -> None:
        for row in taken.rows:
            self.settle_row(row.message_id, taken, self.attempt(row.lines + 1, State.EXPIRED))

    def test_a_worker_takes_them_at_once(self) -> None:
        self.begin()
        waiting, parked = self.wait_and_park()
        expiry = round(self.clock.now + 60, 2)
        self.assertEqual([], list(self.take(self.worker).rows))
        self.expire()
        self.clock.now -= 3600
        taken = self.take(self.worker)
        self.assertEqual([Row(waiting, self.mine.id, 1, 1), Row(parked, self.mine.id, 0, 0)], self.rows(taken))
        self.assertEqual([expiry, expiry], [round(row.expires_at, 2) for row in taken.rows])

    def test_they_are_expired_for_everyone_and_end_by_what_the_worker_says(self) -> None:
        self.begin()
        given = self.wait_and_park()
        self.expire()
        for message_id in given:
            record = self.delivery(message_id, self.mine.id)
            self.assertEqual((State.EXPIRED, None), (record.state, record.next_attempt_at))
        self.assertEqual([[(1, State.PENDING)], []], [self.log(message_id) for message_id in given])
        taken = self.take(self.worker)
        self.assertEqual([State.IN_FLIGHT] * 2, [self.state(message_id, self.mine.id) for message_id in given])
        self.end_taken(taken)
        logs = [[(1, State.PENDING), (2, State.EXPIRED)], [(1, State.EXPIRED)]]
        self.assertEqual(logs, [self.log(message_id) for message_id in given])
        self.clock.now += LOOK_AGAIN + 1
        self.prune_all()
        self.assertEqual(logs, [self.log(message_id) for message_id in given])
        self.assertEqual([], list(self.take(self.worker).rows))

    def test_they_are_handed_over_once_in_bounded_steps(self) -> None:
        self.begin()
        parked = self.publish(20, ttl=60)
        self.park(self.worker, parked, self.mine.id)
        self.clock.now += 60
        steps = []
        while step := self.storage.prune(7):
            steps.append(step)
            self.assertTrue(len(steps) < 20, steps)
        self.assertTrue(max(steps) <= 2 * 7, steps)
        self.clock.now += LOOK_AGAIN - 1
        self.assertEqual(0, self.prune_all())
        self.assertEqual(parked, [row.message_id for row in self.take(self.worker).rows])

    def test_their_lane_runs_empty(self) -> None:
        self.begin()
        self.wait_and_park()
        self.take(self.worker, lanes=5)
        self.expire()
        taken = self.take(self.worker, rows=0, parked={LANE: 5})
        self.assertEqual(([], [LANE]), (list(taken.rows), list(taken.emptied)))
        self.clock.now += LEASE
        self.assertEqual([], list(self.take(self.worker, lanes=5).lanes))

    def test_an_open_breaker_does_not_keep_them_and_stays_open(self) -> None:
        self.begin()
        _, parked = self.wait_and_park()
        self.storage.settle([], [], [Breaker(LANE, 3, NOW + 3000)])
        self.expire()
        self.assertEqual(2, self.storage.depths().pending)
        self.assertIn(parked, [row.message_id for row in self.take(self.worker).rows])
        self.assertEqual([(LANE, 3)], [(one.lane, one.trips) for one in self.storage.breakers()])
        self.assertEqual(0, self.storage.depths().parked)

    def test_those_of_what_was_deleted_are_cancelled_at_once(self) -> None:
        self.begin()
        given = self.wait_and_park()
        self.storage.delete_subscription("p", "q", self.mine.id)
        self.expire()
        self.assertEqual([[(1, State.PENDING), (2, State.CANCELLED)], [(1, State.CANCELLED)]], [self.log(one) for one in given])
        self.mine = self.other
        given = self.wait_and_park()
        self.storage.purge_messages("p", "q")
        self.expire()
        self.assertEqual([(1, State.CANCELLED)], self.log(given[1]))
        self.assertEqual([], list(self.take(self.worker).rows))

    def test_what_is_deleted_after_that_is_cancelled(self) -> None:
        self.begin()
        given = self.wait_and_park()
        self.expire()
        self.storage.delete_subscription("p", "q", self.mine.id)
        self.assertEqual([State.CANCELLED] * 2, [self.state(one, self.mine.id) for one in given])
        self.clock.now += LOOK_AGAIN
        self.prune_all()
        self.assertEqual([[(1, State.PENDING), (2, State.CANCELLED)], [(1, State.CANCELLED)]], [self.log(one) for one in given])

    def test_they_can_be_cancelled(self) -> None:
        self.begin()
        _, parked = self.wait_and_park()
        self.expire()
        self.cancel(parked)
        self.assertEqual([(1, State.CANCELLED)], self.log(parked))
        self.assertNotIn(parked, [row.message_id for row in self.take(self.worker).rows])

    def test_what_no_worker_deals_with_ends_all_the_same(self) -> None:
        self.begin()
        given = self.wait_and_park()
        self.expire()
        self.clock.now += LOOK_AGAIN - 1
        self.prune_all()
        self.assertEqual([[(1, State.PENDING)], []], [self.log(one) for one in given])
        self.clock.now += 1
        self.prune_all()
        ended_at = self.clock.now
        self.assertEqual([[(1, State.PENDING), (2, State.EXPIRED)], [(1, State.EXPIRED)]], [self.log(one) for one in given])
        self.assertEqual([], list(self.take(self.worker).rows))
        self.clock.now = ended_at + RETENTION - 1
        self.prune_all()
        self.assertEqual([State.EXPIRED] * 2, [self.state(one, self.mine.id) for one in given])
        self.clock.now += LOOK_AGAIN
        self.prune_all()
        for message_id in given:
            self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))
        self.assertEqual({}, self.storage.load(given, []).messages)

    def test_the_message_goes_when_its_retention_is_over(self) -> None:
        self.begin()
        given = self.wait_and_park()
        self.expire()
        self.end_taken(self.take(self.worker))
        self.clock.now += RETENTION - 1
        self.prune_all()
        self.assertEqual([State.EXPIRED] * 2, [self.state(one, self.mine.id) for one in given])
        self.clock.now += LOOK_AGAIN
        self.prune_all()
        self.assertEqual({}, self.storage.load(given, []).messages)

    def test_a_worker_that_leaves_them_leaves_them_to_the_others(self) -> None:
        self.begin()
        waiting, _ = self.wait_and_park()
        self.expire()
        self.take(self.worker)
        self.storage.leave(self.worker)
        taken = self.take(self.storage.join())
        self.assertEqual(2, len(taken.rows))
        # It sees the clock otherwise.
        self.settle_row(waiting, taken, self.failed(2), due_at=NOW + 9000, attempts=2, lines=2)
        self.clock.now += LOOK_AGAIN
        self.prune_all()
        self.assertEqual((3, State.EXPIRED), self.log(waiting)[-1])

    def test_what_a_worker_has_when_the_time_is_over_is_left_to_it(self) -> None:
        self.begin()
        given = self.wait_and_park()
        self.expire()
        self.clock.now += LOOK_AGAIN - 1
        taken = self.take(self.worker)
        self.clock.now += LEASE
        self.prune_all()
        self.end_taken(taken)
        self.assertEqual([[(1, State.PENDING), (2, State.EXPIRED)], [(1, State.EXPIRED)]], [self.log(one) for one in given])

    def test_a_redelivery_that_expires_after_its_message(self) -> None:
        self.begin()
        message_id = self.end(State.DEAD, ttl=60)
        self.redeliver(message_id, ttl=100)
        expiry = round(self.clock.now + 100, 2)
        token = self.take(self.worker)
        self.settle_row(message_id, token, self.failed(2), park=LANE, attempts=1, lines=2)
        self.clock.now += 99
        self.prune_all()
        self.assertEqual(State.PARKED, self.state(message_id, self.mine.id))
        self.clock.now += 1
        self.prune_all()
        self.assertEqual(State.EXPIRED, self.state(message_id, self.mine.id))
        taken = self.take(self.worker)
        self.assertEqual([Row(message_id, self.mine.id, 1, 2, lines_before=1)], self.rows(taken))
        self.assertEqual(expiry, round(taken.rows[0].expires_at, 2))
        self.end_taken(taken)
        self.redeliver(message_id, ttl=100)
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
        self.clock.now += 100
        self.prune_all()
        anew = Row(message_id, self.mine.id, 0, 3, lines_before=3)
        self.assertEqual([anew], self.rows(self.take(self.worker)))
