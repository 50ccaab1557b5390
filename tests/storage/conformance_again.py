"""Deliveries that are started anew, cancelled or made as a test, and what is remembered of them for how long."""

from __future__ import annotations

from typing import Any

from tests.storage.conformance_hidden import HiddenCase
from tests.storage.contract import ELSEWHERE, LANE, LEASE, MALFORMED, NOW, RETENTION, UNKNOWN, StorageCase
from zaqar_notify.errors import Conflict, NotFound
from zaqar_notify.model import Draft, Exchange, LogEntry, MessageKind, OutcomeKind, State, Subscription
from zaqar_notify.storage.base import Closing, Row, Settlement, Taken

ENDED = [state for state in State if state.ended]
EXCHANGE = Exchange(
    {"method": "POST", "url": "http://a/?x=é", "headers": {"webhook-id": "1"}, "body_size": 12},
    {"status": 503, "headers": {"retry-after": "7"}, "body": 'no "service"\n\x00é'},
    {"name": 0.001, "connect": 0.0125, "first_byte": 1.5, "end": 2.0},
)


class AgainCase(StorageCase):
    def begin(self) -> None:
        self.mine = self.subscribe()
        self.other = self.subscribe("http://b/")
        self.worker = self.storage.join()

    def end(self, state: State = State.DELIVERED, *, ttl: int = 300, **fields: Any) -> str:
        """A message whose delivery has ended."""
        return self.entry_into_row(self.mine.id, ttl=ttl, log=self.attempt(1, state), **fields)[0]

    def leave_row(self, **fields: Any) -> tuple[str, int]:
        """A message with a row, which has one line in its log. Returns its id and the token of the take."""
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        left = Settlement(
            message_id, self.mine.id, token, from_row=False, log=self.failed(), **{"attempts": 1, "lines": 1, **fields}
        )
        self.assertEqual(0, self.storage.settle([left], [Closing(message_id, token)]))
        return message_id, token

    def redeliver(self, message_id: str, *, ttl: float = 600.0, of: Subscription | None = None) -> None:
        self.storage.redeliver("p", "q", message_id, (of or self.mine).id, ttl)

    def cancel(self, message_id: str, of: Subscription | None = None) -> None:
        self.storage.cancel("p", "q", message_id, (of or self.mine).id)

    def log(self, message_id: str, of: Subscription | None = None) -> list[tuple[int, State]]:
        return [(line.number, line.state) for line in self.delivery(message_id, (of or self.mine).id).log]

    def settle_row(self, message_id: str, taken: Taken, log: LogEntry, **fields: Any) -> None:
        settlement = Settlement(message_id, self.mine.id, taken.token, from_row=True, log=log, **fields)
        self.assertEqual(0, self.storage.settle([settlement]))

    def assert_unknown(self, call: Any, *more: Any) -> None:
        """``call`` finds nothing but deliveries of this queue and this project."""
        message_id = self.end()
        for project, queue in ELSEWHERE:
            self.assertRaises(NotFound, call, project, queue, message_id, self.mine.id, *more)
        for bad in (*MALFORMED, UNKNOWN):
            self.assertRaises(NotFound, call, "p", "q", bad, self.mine.id, *more)
            self.assertRaises(NotFound, call, "p", "q", message_id, bad, *more)
        self.assertRaises(NotFound, call, "p", "q", message_id, self.subscribe("http://late/").id, *more)
        self.storage.delete_subscription("p", "q", self.mine.id)
        self.assertRaises(NotFound, call, "p", "q", message_id, self.mine.id, *more)
        self.mine = self.other
        message_id = self.end()
        self.storage.purge_messages("p", "q")
        self.assertRaises(NotFound, call, "p", "q", message_id, self.mine.id, *more)
        message_id = self.end()
        self.storage.delete_queue("p", "q")
        self.assertRaises(NotFound, call, "p", "q", message_id, self.mine.id, *more)
        message_id = self.end()
        self.clock.now += RETENTION + 400
        self.prune_all()
        self.assertRaises(NotFound, call, "p", "q", message_id, self.mine.id, *more)


class RowExpiryConformance(AgainCase):
    def expiries(self, taken: Taken) -> list[float]:
        return [round(row.expires_at, 2) for row in taken.rows]

    def test_a_row_expires_with_its_message(self) -> None:
        self.begin()
        posted_at = round(self.clock.now, 2)
        self.leave_row(due_at=NOW + 10)
        self.clock.now += 20
        self.assertEqual([posted_at + 300], self.expiries(self.take(self.worker)))

    def test_a_parked_row_too(self) -> None:
        self.begin()
        posted_at = round(self.clock.now, 2)
        self.leave_row(park=LANE)
        self.clock.now += 20
        self.take(self.worker, lanes=5)
        self.assertEqual([posted_at + 300], self.expiries(self.take(self.worker, parked={LANE: 5})))

    def test_a_delay_comes_before(self) -> None:
        self.begin()
        posted_at = round(self.clock.now, 2)
        message_id = self.publish(delay=60)[0]
        self.clock.now += 60
        token = self.take(self.worker).token
        left = Settlement(message_id, self.mine.id, token, from_row=False, due_at=self.clock.now)
        self.storage.settle([left], [Closing(message_id, token)])
        self.assertEqual([posted_at + 360], self.expiries(self.take(self.worker)))

    def test_a_claim_makes_it_live_longer(self) -> None:
        self.begin()
        self.leave_row(due_at=NOW + 10)
        self.clock.now += 20
        claimed_at = round(self.clock.now, 2)
        self.claim(ttl=400, grace=100)
        self.assertEqual([claimed_at + 500], self.expiries(self.take(self.worker)))


class RedeliveryConformance(AgainCase):
    def test_it_starts_anew_and_its_log_goes_on(self) -> None:
        self.begin()
        message_id = self.end()
        self.clock.now += 10
        self.redeliver(message_id, ttl=600.5)
        record = self.delivery(message_id, self.mine.id)
        self.assertEqual((State.PENDING, self.clock.now), (record.state, record.next_attempt_at))
        self.assertEqual([(1, State.DELIVERED)], self.log(message_id))
        expires_at = self.clock.now + 600.5
        taken = self.take(self.worker)
        self.assertEqual([Row(message_id, self.mine.id, 0, 1, lines_before=1)], self.rows(taken))
        self.assertEqual(round(expires_at, 2), round(taken.rows[0].expires_at, 2))
        self.assertEqual(([], State.IN_FLIGHT), (list(taken.entries), self.state(message_id, self.mine.id)))
        self.settle_row(message_id, taken, self.delivered(2))
        self.assertEqual([(1, State.DELIVERED), (2, State.DELIVERED)], self.log(message_id))
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine.id))
        self.assertIsNone(self.delivery(message_id, self.other.id), "nobody else gets it")

    def test_it_is_due_also_when_the_clock_is_set_back(self) -> None:
        self.begin()
        message_id = self.end()
        self.redeliver(message_id)
        self.clock.now -= 3600
        self.assertEqual([Row(message_id, self.mine.id, 0, 1, lines_before=1)], self.rows(self.take(self.worker)))

    def test_whatever_became_of_it(self) -> None:
        self.begin()
        given = [self.end(state) for state in ENDED]
        for message_id in given:
            self.redeliver(message_id)
        self.assertEqual(given, [row.message_id for row in self.take(self.worker).rows])

    def test_no_attempt_is_used_up(self) -> None:
        self.begin()
        message_id, _ = self.leave_row(due_at=NOW, attempts=4)
        self.settle_row(message_id, self.take(self.worker), self.attempt(2, State.DEAD, OutcomeKind.RETRY))
        self.redeliver(message_id)
        self.assertEqual([Row(message_id, self.mine.id, 0, 2, lines_before=2)], self.rows(self.take(self.worker)))

    def test_the_end_of_it_can_be_redelivered_again(self) -> None:
        self.begin()
        message_id = self.end(State.DEAD)
        for number in (2, 3, 4):
            self.redeliver(message_id)
            self.assertRaises(Conflict, self.redeliver, message_id)
            taken = self.take(self.worker)
            self.assertEqual([Row(message_id, self.mine.id, 0, number - 1, lines_before=number - 1)], self.rows(taken))
            self.assertRaises(Conflict, self.redeliver, message_id)
            self.settle_row(message_id, taken, self.attempt(number, State.DEAD))

    def test_while_it_has_not_ended(self) -> None:
        self.begin()
        waiting, _ = self.leave_row(due_at=NOW + 900)
        parked, _ = self.leave_row(park=LANE)
        held, _ = self.leave_row(due_at=NOW + 900, hold=True)
        taken = self.publish()[0]
        self.take(self.worker)
        posted = self.publish()[0]
        for message_id in (waiting, parked, held, taken, posted):
            state = self.state(message_id, self.mine.id)
            self.assertRaises(Conflict, self.redeliver, message_id)
            self.assertEqual(state, self.state(message_id, self.mine.id))
        self.assertEqual([], list(self.take(self.worker).rows))

    def test_of_an_expired_message(self) -> None:
        self.begin()
        message_id = self.end(ttl=60)
        self.clock.now += 500
        self.prune_all()
        self.redeliver(message_id, ttl=5000)
        self.clock.now += RETENTION + 1000
        self.prune_all()
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
        self.assertIsNone(self.storage.get_message("p", "q", message_id))
        taken = self.take(self.worker)
        self.assertEqual([Row(message_id, self.mine.id, 0, 1, lines_before=1)], self.rows(taken))
        self.assertEqual({"n": 0}, self.storage.load([message_id], []).messages[message_id].body)
        self.settle_row(message_id, taken, self.delivered(2))
        self.clock.now += RETENTION - 1
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine.id), "its retention begins anew")
        self.clock.now += 700
        self.prune_all()
        self.assertIsNone(self.delivery(message_id, self.mine.id))

    def test_without_the_body(self) -> None:
        self.begin()
        self.storage.close()
        self.storage = self.open(body_retention=100.0)
        self.mine = self.subscribe("http://c/")
        message_id = self.end(ttl=60)
        self.clock.now += 200
        self.prune_all()
        self.assertRaises(Conflict, self.redeliver, message_id)
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine.id))

    def test_of_what_is_not_there(self) -> None:
        self.begin()
        self.assert_unknown(self.storage.redeliver, 600.0)

    def test_of_what_readers_do_not_see(self) -> None:
        self.begin()
        deleted = self.end()
        self.storage.delete_message("p", "q", deleted)
        self.redeliver(deleted)
        held = self.storage.hold("p", "q", [Draft(b"1", 300)], None, 30.0)[0]
        self.storage.release("p", "q", [held], ["theirs"])
        taken = self.take(self.worker)
        done = Settlement(held, self.mine.id, taken.token, from_row=False, log=self.delivered())
        self.storage.settle([done], [Closing(held, taken.token)])
        self.assertRaises(NotFound, self.redeliver, held)
        self.redeliver("theirs")
        self.assertEqual(State.PENDING, self.state("theirs", self.mine.id))
        self.assertEqual([Row(held, self.mine.id, 0, 1, lines_before=1)], self.rows(self.take(self.worker)))

    def test_it_expires_by_itself(self) -> None:
        self.begin()
        message_id = self.end(State.DEAD, ttl=5000)
        self.redeliver(message_id, ttl=100.0)
        self.clock.now += 99
        self.assertEqual(0, self.prune_all())
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
        self.clock.now += 1
        self.assertEqual(State.EXPIRED, self.state(message_id, self.mine.id))
        self.prune_all()
        self.assertEqual(State.EXPIRED, self.state(message_id, self.mine.id))
        self.clock.now += 600  # no worker has ended it
        self.prune_all()
        self.assertEqual([(1, State.DEAD), (2, State.EXPIRED)], self.log(message_id))
        self.assertEqual([], list(self.take(self.worker).rows))
        self.assertIsNotNone(self.storage.get_message("p", "q", message_id))
        self.redeliver(message_id)
        self.assertEqual([Row(message_id, self.mine.id, 0, 2, lines_before=2)], self.rows(self.take(self.worker)))

    def test_the_lines_before_it_stay_with_it(self) -> None:
        self.begin()
        message_id, _ = self.leave_row(due_at=NOW)
        taken = self.take(self.worker)
        self.assertEqual([Row(message_id, self.mine.id, 1, 1)], self.rows(taken))
        self.settle_row(message_id, taken, self.attempt(2, State.DEAD, OutcomeKind.RETRY))
        self.redeliver(message_id)
        taken = self.take(self.worker)
        self.assertEqual([Row(message_id, self.mine.id, 0, 2, lines_before=2)], self.rows(taken))
        ways: tuple[dict[str, Any], ...] = ({"due_at": NOW}, {"due_at": NOW, "hold": True}, {"park": LANE}, {"due_at": NOW})
        for number, left in enumerate(ways, 3):
            self.settle_row(message_id, taken, self.failed(number), lines=number, **left)
            self.take(self.worker, rows=0, lanes=5)
            taken = self.take(self.worker, parked={LANE: 5})
            row = Row(message_id, self.mine.id, 0, number, left.get("park"), lines_before=2)
            self.assertEqual([row], self.rows(taken))
        self.storage.give_back(taken.token, [], [(message_id, self.mine.id)])
        self.assertEqual([row], self.rows(self.take(self.worker)))
        self.clock.now += 600  # it is over, and handed to the workers once its lease is
        self.storage.leave(self.worker)
        self.prune_all()
        taken = self.take(self.storage.join())
        self.assertEqual([row], self.rows(taken))
        self.settle_row(message_id, taken, self.attempt(7, State.EXPIRED))
        self.redeliver(message_id)
        self.assertEqual([Row(message_id, self.mine.id, 0, 7, lines_before=7)], self.rows(self.take(self.worker)))

    def test_its_expiry_stays_with_it(self) -> None:
        self.begin()
        message_id = self.end(ttl=60)
        self.redeliver(message_id, ttl=2000.0)
        expires_at = round(self.clock.now + 2000, 2)
        self.clock.now += 100
        number = 1
        for left in ({"due_at": NOW + 200}, {"due_at": NOW + 300, "hold": True}, {"park": LANE}):
            taken = self.take(self.worker)
            self.assertEqual(expires_at, round(taken.rows[0].expires_at, 2))
            number += 1
            self.settle_row(message_id, taken, self.failed(number), attempts=1, lines=number, **left)
            self.clock.now += 100
            self.prune_all()
        self.take(self.worker, lanes=5)
        parked = self.take(self.worker, parked={LANE: 5}).rows
        self.assertEqual(
            [(message_id, 4, expires_at)], [(row.message_id, row.lines, round(row.expires_at, 2)) for row in parked]
        )

    def test_while_others_of_the_message_are_under_way(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        done = Settlement(message_id, self.mine.id, token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done]))
        self.redeliver(message_id)
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
        self.settle_row(message_id, self.take(self.worker), self.delivered(2))
        self.clock.now += LEASE
        again = self.take(self.worker)
        self.assertEqual(([2], {self.mine.id}), ([one.takes for one in again.entries], self.storage.known(message_id, None)))
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine.id))
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, self.other.id))

    def test_who_was_passed_over_has_no_delivery(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        self.storage.settle([], [Closing(message_id, self.take(self.worker).token, after=self.mine.id)])
        self.assertIsNone(self.delivery(message_id, self.mine.id))
        self.assertRaises(NotFound, self.redeliver, message_id)
        self.assertRaises(NotFound, self.cancel, message_id)
        self.assertRaises(Conflict, self.redeliver, message_id, of=self.other)

    def test_deleting_the_subscription_cancels_it(self) -> None:
        self.begin()
        message_id = self.end()
        self.redeliver(message_id)
        self.storage.delete_subscription("p", "q", self.mine.id)
        self.assertEqual(State.CANCELLED, self.state(message_id, self.mine.id))
        self.clock.now += 700
        self.prune_all()
        self.assertEqual([(1, State.DELIVERED), (2, State.CANCELLED)], self.log(message_id))


class CancelConformance(AgainCase):
    def test_a_row_that_waits(self) -> None:
        self.begin()
        message_id, _ = self.leave_row(due_at=NOW + 60)
        self.cancel(message_id)
        record = self.delivery(message_id, self.mine.id)
        self.assertEqual((State.CANCELLED, None), (record.state, record.next_attempt_at))
        self.assertEqual([(1, State.PENDING), (2, State.CANCELLED)], self.log(message_id))
        self.assertEqual((None, round(self.clock.now, 2)), (record.log[1].outcome, round(record.log[1].at, 2)))
        self.clock.now += 100
        self.assertEqual([], list(self.take(self.worker).rows))

    def test_a_row_that_is_parked(self) -> None:
        self.begin()
        message_id, _ = self.leave_row(park=LANE)
        self.cancel(message_id)
        self.assertEqual([(1, State.PENDING), (2, State.CANCELLED)], self.log(message_id))
        self.take(self.worker, lanes=5)
        taken = self.take(self.worker, parked={LANE: 5})
        self.assertEqual(([], [LANE]), (list(taken.rows), list(taken.emptied)))

    def test_a_row_that_is_in_flight(self) -> None:
        self.begin()
        message_id, _ = self.leave_row(due_at=NOW)
        token = self.take(self.worker).token
        self.cancel(message_id)
        late = Settlement(
            message_id, self.mine.id, token, from_row=True, log=self.delivered(2), publish=(("r", Draft(b"1", 60)),)
        )
        self.assertEqual(1, self.storage.settle([late]))
        self.assertEqual([(1, State.PENDING), (2, State.CANCELLED)], self.log(message_id))
        self.assertIsNone(self.storage.get_queue("p", "r"))
        self.clock.now += LEASE
        self.assertEqual([], list(self.take(self.worker).rows))

    def test_a_message_that_is_not_matched(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        self.cancel(message_id)
        self.assertEqual([(1, State.CANCELLED)], self.log(message_id))
        states = [self.state(message_id, one.id) for one in (self.mine, self.other)]
        self.assertEqual([State.CANCELLED, State.PENDING], states)
        taken = self.take(self.worker)
        self.assertEqual([True], [entry.takes > 1 for entry in taken.entries], "what is known of it has to be asked for")
        self.assertEqual({self.mine.id}, self.storage.known(message_id, None))
        self.assertEqual(State.CANCELLED, self.state(message_id, self.mine.id))
        done = Settlement(message_id, self.other.id, taken.token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(message_id, taken.token)]))
        states = [self.state(message_id, one.id) for one in (self.mine, self.other)]
        self.assertEqual([State.CANCELLED, State.DELIVERED], states)

    def test_a_message_that_is_given_back(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        self.cancel(message_id)
        for _ in range(3):
            taken = self.take(self.worker)
            self.assertEqual([True], [entry.takes > 1 for entry in taken.entries])
            self.storage.give_back(taken.token, [message_id])

    def test_a_subscriber_of_a_later_page(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        self.cancel(message_id, self.other)
        taken = self.take(self.worker)
        done = Settlement(message_id, self.mine.id, taken.token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(message_id, taken.token, after=self.mine.id)]))
        taken = self.take(self.worker)
        entries = [(entry.after, entry.takes > 1) for entry in taken.entries]
        self.assertEqual([(self.mine.id, True)], entries)
        self.assertEqual({self.other.id}, self.storage.known(message_id, self.mine.id))

    def test_a_message_that_is_in_flight(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        self.cancel(message_id)
        ends = [
            Settlement(message_id, one.id, token, from_row=False, log=self.delivered(), publish=((name, Draft(b"1", 60)),))
            for one, name in ((self.mine, "mine"), (self.other, "other"))
        ]
        self.assertEqual(1, self.storage.settle(ends))
        self.assertEqual([(1, State.CANCELLED)], self.log(message_id))
        self.assertEqual([(1, State.DELIVERED)], self.log(message_id, self.other))
        self.assertIsNone(self.storage.get_queue("p", "mine"))
        self.clock.now += LEASE
        takes = {entry.message_id: entry.takes for entry in self.take(self.worker).entries}
        self.assertTrue(takes[message_id] > 1)
        self.assertEqual({self.mine.id, self.other.id}, self.storage.known(message_id, None))

    def test_what_was_in_flight_does_not_end_its_redelivery(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        self.cancel(message_id)
        self.redeliver(message_id)
        late = Settlement(message_id, self.mine.id, token, from_row=False, log=self.delivered())
        self.assertEqual(1, self.storage.settle([late]))
        self.assertEqual(State.PENDING, self.state(message_id, self.mine.id))
        self.assertEqual([Row(message_id, self.mine.id, 0, 1, lines_before=1)], self.rows(self.take(self.worker)))

    def test_a_redelivery(self) -> None:
        self.begin()
        message_id = self.end()
        self.redeliver(message_id)
        self.cancel(message_id)
        self.assertEqual([(1, State.DELIVERED), (2, State.CANCELLED)], self.log(message_id))
        self.assertEqual([], list(self.take(self.worker).rows))

    def test_what_has_ended(self) -> None:
        self.begin()
        for state in ENDED:
            message_id = self.end(state)
            self.assertRaises(Conflict, self.cancel, message_id)
            self.assertEqual([(1, state)], self.log(message_id))
        message_id, _ = self.leave_row(due_at=NOW + 60)
        self.cancel(message_id)
        self.assertRaises(Conflict, self.cancel, message_id)

    def test_what_has_ended_while_others_are_under_way(self) -> None:
        self.begin()
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        done = Settlement(message_id, self.mine.id, token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done]))
        self.assertRaises(Conflict, self.cancel, message_id)
        self.assertEqual([(1, State.DELIVERED)], self.log(message_id))

    def test_what_is_not_there(self) -> None:
        self.begin()
        self.assert_unknown(self.storage.cancel)

    def test_a_held_message_that_is_dropped(self) -> None:
        self.begin()
        held, kept = self.storage.hold("p", "q", [Draft(b"1", 300)] * 2, None, 30.0)
        self.cancel(held)
        self.storage.drop("p", "q", [held])
        self.assertIsNone(self.storage.message_deliveries("p", "q", held, None, 10))
        found = self.storage.subscription_deliveries("p", "q", self.mine.id, None, 10)
        self.assertEqual([kept], [one.message_id for one in found])

    def test_by_the_foreign_id(self) -> None:
        self.begin()
        held = self.storage.hold("p", "q", [Draft(b"1", 300)], None, 30.0)
        self.storage.release("p", "q", held, ["theirs"])
        self.assertRaises(NotFound, self.cancel, held[0])
        self.cancel("theirs")
        self.assertEqual(State.CANCELLED, self.state("theirs", self.mine.id))


class PingConformance(HiddenCase):
    def ping(self, subscription: Subscription, ttl: int = 60) -> str | None:
        return self.storage.ping("p", "q", subscription.id, Draft(b'{"ping": 1}', ttl, {"k": 1}))

    def test_the_subscriber_alone_gets_it(self) -> None:
        mine, other = self.subscribe(), self.subscribe("http://b/")
        sent_at = self.clock.now
        message_id = self.ping(mine)
        assert message_id
        self.assert_hidden(message_id)
        self.assertEqual((State.PENDING, None), (self.state(message_id, mine.id), self.delivery(message_id, other.id)))
        self.clock.now -= 3600
        worker = self.storage.join()
        taken = self.take(worker)
        self.assertEqual(([], [Row(message_id, mine.id, 0, 0)]), (list(taken.entries), self.rows(taken)))
        self.assertEqual(round(sent_at + 60, 2), round(taken.rows[0].expires_at, 2))
        message = self.storage.load([message_id], []).messages[message_id]
        self.assertEqual((MessageKind.TEST, {"ping": 1}, {"k": 1}), (message.kind, message.body, message.attributes))
        self.assertEqual((60, sent_at + 60), (message.ttl, message.expires_at))
        done = Settlement(message_id, mine.id, taken.token, from_row=True, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done]))
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.assert_hidden(message_id)

    def test_of_an_encrypted_queue(self) -> None:
        self.storage.put_queue("p", "q", {"_enable_encrypt_messages": True})
        message_id = self.ping(self.subscribe())
        assert message_id
        self.assertEqual({"ping": 1}, self.storage.load([message_id], []).messages[message_id].body)

    def test_a_deleted_queue_is_made_again(self) -> None:
        mine = self.subscribe()
        self.storage.delete_queue("p", "q")
        message_id = self.ping(mine)
        assert message_id
        self.assertIsNotNone(self.storage.get_queue("p", "q"))
        self.assertEqual(State.PENDING, self.state(message_id, mine.id))

    def test_who_is_not_there(self) -> None:
        mine, expired, deleted = (self.subscribe(f"http://{number}/", ttl=ttl) for number, ttl in enumerate((None, 60, None)))
        self.storage.delete_subscription("p", "q", deleted.id)
        self.clock.now += 100
        for of in (expired, deleted):
            self.assertIsNone(self.ping(of))
        for bad in (*MALFORMED, UNKNOWN):
            self.assertIsNone(self.storage.ping("p", "q", bad, Draft(b"1", 60)))
        for project, queue in ELSEWHERE:
            self.assertIsNone(self.storage.ping(project, queue, mine.id, Draft(b"1", 60)))
            if queue != "q" or project != "p":
                self.assertEqual([], self.storage.subscription_deliveries("p", "q", mine.id, None, 10))
        self.assertEqual([], list(self.take(self.storage.join()).rows))

    def test_nobody_else_can_touch_it(self) -> None:
        mine = self.subscribe()
        message_id = self.ping(mine)
        assert message_id
        self.storage.release("p", "q", [message_id], ["theirs"])
        self.storage.drop("p", "q", [message_id])
        self.assertIsNone(self.storage.load([message_id], []).messages[message_id].foreign_id)
        self.assertEqual(State.PENDING, self.state(message_id, mine.id))

    def test_it_expires(self) -> None:
        mine = self.subscribe()
        message_id = self.ping(mine)
        assert message_id
        self.clock.now += 60
        self.prune_all()
        self.assertEqual(State.EXPIRED, self.state(message_id, mine.id))
        for _ in range(2):  # no worker ends it, so housekeeping does
            self.clock.now += RETENTION + 1
            self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))


class ExchangeConformance(AgainCase):
    def kept(self, message_id: str) -> list[Exchange | None]:
        """As both sides say it."""
        of_message = self.storage.message_deliveries("p", "q", message_id, None, 10, exchanges=True)
        of_subscription = self.storage.subscription_deliveries("p", "q", self.mine.id, None, 10, exchanges=True)
        found = [record for record in of_subscription or () if record.message_id == message_id]
        self.assertEqual(found, of_message)
        return [line.exchange for line in found[0].log]

    def attempted(self, *exchanges: Exchange | None) -> str:
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        from_row = False
        for number, exchange in enumerate(exchanges, 1):
            line = self.attempt(number, State.PENDING, OutcomeKind.RETRY, exchange=exchange)
            left = Settlement(message_id, self.mine.id, token, from_row, line, due_at=self.clock.now, lines=number)
            self.assertEqual(0, self.storage.settle([left], [Closing(message_id, token)]))
            token, from_row = self.take(self.worker).token, True
        return message_id

    def test_an_exchange_comes_back(self) -> None:
        self.begin()
        second = Exchange({"method": "POST"})
        message_id = self.attempted(EXCHANGE, None, second)
        self.assertEqual([EXCHANGE, None, second], self.kept(message_id))

    def test_only_where_it_is_asked_for(self) -> None:
        self.begin()
        message_id = self.attempted(EXCHANGE)
        self.assertEqual([None], [line.exchange for line in self.delivery(message_id, self.mine.id).log])

    def test_a_large_one(self) -> None:
        self.begin()
        large = Exchange({"url": "http://a/"}, {"body": "é" * 65536})
        self.assertEqual([large], self.kept(self.attempted(large)))

    def test_an_exchange_of_an_encrypted_queue(self) -> None:
        self.begin()
        self.storage.put_queue("p", "q", {"_enable_encrypt_messages": True})
        message_id = self.attempted(EXCHANGE, None)
        self.assertEqual([EXCHANGE, None], self.kept(message_id))
        self.storage.put_queue("p", "q", {})
        self.assertEqual([EXCHANGE, None], self.kept(message_id), "what was stored before can still be read")

    def test_it_is_kept_as_long_as_its_log(self) -> None:
        self.begin()
        message_id = self.attempted(EXCHANGE)
        self.clock.now += LEASE
        self.settle_row(message_id, self.take(self.worker), self.attempt(2, State.DEAD))
        self.storage.delete_message("p", "q", message_id)
        self.clock.now += RETENTION - 1
        self.prune_all()
        self.assertEqual([EXCHANGE, None], self.kept(message_id))


class RetentionConformance(StorageCase):
    """What was delivered is forgotten earlier than the rest."""

    def begin_forgetting(self, after: float = 100.0) -> None:
        self.storage.close()
        self.storage = self.open(retention_delivered=after)
        self.mine, self.other = self.subscribe(), self.subscribe("http://b/")
        self.worker = self.storage.join()

    def end_all(self, *ends: tuple[Subscription, State], close: bool = True, ttl: int = 60) -> str:
        message_id = self.publish(ttl=ttl)[0]
        token = self.take(self.worker).token
        settled = [
            Settlement(message_id, of.id, token, from_row=False, log=self.attempt(1, state, OutcomeKind.RETRY))
            for of, state in ends
        ]
        self.assertEqual(0, self.storage.settle(settled, [Closing(message_id, token)] if close else []))
        return message_id

    def test_delivered_ones_go_first(self) -> None:
        self.begin_forgetting()
        message_id = self.end_all((self.mine, State.DELIVERED), (self.other, State.DEAD))
        ended_at = self.clock.now
        self.clock.now = ended_at + 99
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine.id))
        self.clock.now = ended_at + 101
        self.prune_all()
        self.assertIsNone(self.delivery(message_id, self.mine.id))
        self.clock.now = ended_at + RETENTION - 1
        self.prune_all()
        self.assertEqual((None, State.DEAD), (self.state(message_id, self.mine.id), self.state(message_id, self.other.id)))
        self.assertEqual({"n": 0}, self.storage.load([message_id], []).messages[message_id].body)
        self.clock.now = ended_at + RETENTION + 1
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))
        self.assertEqual({}, self.storage.load([message_id], []).messages)

    def test_every_other_end_stays(self) -> None:
        self.begin_forgetting()
        ends = [state for state in ENDED if state is not State.DELIVERED]
        given = [self.end_all((self.mine, state)) for state in ends]
        self.clock.now += RETENTION - 1
        self.prune_all()
        self.assertEqual(ends, [self.state(one, self.mine.id) for one in given])

    def test_with_all_lines_of_its_log(self) -> None:
        self.begin_forgetting()
        message_id = self.publish(ttl=60)[0]
        token = self.take(self.worker).token
        row = Settlement(message_id, self.mine.id, token, False, self.failed(), due_at=NOW, attempts=1, lines=1)
        self.storage.settle([row], [Closing(message_id, token)])
        token = self.take(self.worker).token
        self.storage.settle([Settlement(message_id, self.mine.id, token, True, self.delivered(2))])
        self.clock.now += 99
        self.prune_all()
        self.assertEqual([1, 2], [line.number for line in self.delivery(message_id, self.mine.id).log])
        self.clock.now += 2
        self.prune_all()
        self.assertFalse(self.storage.message_deliveries("p", "q", message_id, None, 10))
        self.assertEqual([], self.storage.subscription_deliveries("p", "q", self.mine.id, None, 10))

    def test_the_rest_stays_as_long_as_ever(self) -> None:
        self.begin_forgetting()
        message_id = self.end_all((self.other, State.DEAD), close=False)
        self.clock.now += LEASE
        token = self.take(self.worker).token
        self.clock.now += 20
        last = Settlement(message_id, self.mine.id, token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([last], [Closing(message_id, token)]))
        ended_at = self.clock.now
        for now in (ended_at + 101, ended_at + RETENTION - 1):
            self.clock.now = now
            self.prune_all()
            self.assertEqual((None, State.DEAD), (self.state(message_id, self.mine.id), self.state(message_id, self.other.id)))
            self.assertEqual({"n": 0}, self.storage.load([message_id], []).messages[message_id].body)
        self.clock.now = ended_at + RETENTION + 1
        self.prune_all()
        self.assertEqual({}, self.storage.load([message_id], []).messages)

    def test_one_that_was_delivered_at_last_is_delivered(self) -> None:
        self.begin_forgetting()
        message_id = self.end_all((self.mine, State.DEAD), (self.other, State.DEAD))
        self.storage.redeliver("p", "q", message_id, self.mine.id, 600.0)
        token = self.take(self.worker).token
        self.storage.settle([Settlement(message_id, self.mine.id, token, True, self.delivered(2))])
        self.clock.now += 101
        self.prune_all()
        self.assertEqual((None, State.DEAD), (self.state(message_id, self.mine.id), self.state(message_id, self.other.id)))

    def test_one_that_is_delivered_again_stays(self) -> None:
        self.begin_forgetting()
        message_id = self.end_all((self.mine, State.DELIVERED), (self.other, State.DEAD))
        self.storage.redeliver("p", "q", message_id, self.mine.id, 600.0)
        self.clock.now += 200
        self.prune_all()
        self.assertEqual([1], [line.number for line in self.delivery(message_id, self.mine.id).log])

    def test_nothing_is_forgotten_that_keeps_it_from_being_sent_again(self) -> None:
        self.begin_forgetting()
        message_id = self.end_all((self.mine, State.DELIVERED), close=False)
        self.clock.now += 500
        self.prune_all()
        self.assertEqual([2], [entry.takes for entry in self.take(self.worker).entries])
        self.assertEqual({self.mine.id}, self.storage.known(message_id, None))

    def test_of_a_live_message_too(self) -> None:
        self.begin_forgetting()
        message_id = self.end_all((self.mine, State.DELIVERED), ttl=5000)
        self.clock.now += 99
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine.id))
        self.clock.now += 2
        self.prune_all()
        self.assertIsNone(self.delivery(message_id, self.mine.id))
        self.clock.now += RETENTION + 1
        self.prune_all()
        self.assertEqual({"n": 0}, self.storage.get_message("p", "q", message_id).body, "the message itself stays")
        self.assertEqual([], list(self.take(self.worker).entries))

    def test_while_others_wait(self) -> None:
        self.begin_forgetting()
        message_id = self.publish(ttl=5000)[0]
        token = self.take(self.worker).token
        done = Settlement(message_id, self.mine.id, token, from_row=False, log=self.delivered())
        waits = Settlement(message_id, self.other.id, token, from_row=False, due_at=NOW + 4000)
        self.assertEqual(0, self.storage.settle([done, waits], [Closing(message_id, token)]))
        self.clock.now += 101
        self.prune_all()
        self.assertEqual((None, State.PENDING), (self.state(message_id, self.mine.id), self.state(message_id, self.other.id)))

    def test_never_later_than_the_rest(self) -> None:
        self.begin_forgetting(RETENTION * 5)
        message_id = self.end_all((self.mine, State.DELIVERED), (self.other, State.DEAD))
        self.clock.now += RETENTION + 1
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))
