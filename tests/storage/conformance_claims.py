"""Who may have a message, and when: delays, claims, dead letters, popping, deleting, counting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from tests.storage.contract import ELSEWHERE, MALFORMED, NOW, RETENTION, UNKNOWN, StorageCase
from zaqar_notify.errors import Forbidden, InvalidRequest
from zaqar_notify.model import Draft, Message, State, Stats
from zaqar_notify.storage.base import Closing, Entry, Settlement


class DelayConformance(StorageCase):
    def test_nobody_has_it_before_its_delay_ends(self) -> None:
        delayed = self.publish(delay=30)[0]
        for now in (NOW, NOW + 29.9):
            self.clock.now = now
            self.assertEqual([], self.listed())
            self.assertEqual([], self.listed(claimed=True))
            self.assertEqual([delayed], self.listed(delayed=True))
            self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
            self.assertEqual([], self.popped())
            self.assertEqual((1, 0), self.counted())
        self.clock.now = NOW + 30
        self.assertEqual([delayed], self.listed())
        self.assertEqual([delayed], self.listed(delayed=True))
        self.assertEqual((0, 1), self.counted())
        self.assertEqual([delayed], self.claim()[1])

    def test_who_knows_its_id_can_read_it(self) -> None:
        delayed = self.publish(delay=30)[0]
        message = self.storage.get_message("p", "q", delayed)
        self.assertEqual((delayed, None, {"n": 0}), (message.id, message.claim_id, message.body))

    def test_it_can_be_popped_when_its_delay_has_ended(self) -> None:
        delayed = self.publish(delay=30)
        self.clock.now += 30
        self.assertEqual(delayed, self.popped())

    def test_its_life_begins_when_its_delay_ends(self) -> None:
        delayed = self.publish(ttl=60, delay=30)[0]
        message = self.storage.load([delayed], []).messages[delayed]
        self.assertEqual((60, NOW, NOW + 90), (message.ttl, message.created_at, message.expires_at))
        self.close_entries()
        self.clock.now = NOW + 89.9
        self.prune_all()
        self.assertEqual([delayed], self.listed())
        self.clock.now = NOW + 90
        self.assertEqual([], self.listed(delayed=True))
        self.assertEqual((0, 0), self.counted())

    def test_its_entry_comes_due_when_its_delay_ends(self) -> None:
        mine = self.subscribe()
        posted_at = self.clock.now
        at_once = self.publish()[0]
        delayed = self.publish(delay=30)[0]
        record = self.delivery(delayed, mine.id)
        self.assertEqual((State.PENDING, posted_at + 30), (record.state, record.next_attempt_at))
        worker = self.storage.join()
        self.assertEqual([at_once], [entry.message_id for entry in self.take(worker).entries])
        self.storage.leave(worker)
        self.clock.now = posted_at + 29.9
        again = self.storage.join()
        taken = self.take(again)
        self.assertEqual([at_once], [entry.message_id for entry in taken.entries])
        self.storage.settle([], [Closing(at_once, taken.token)])
        self.clock.now = posted_at + 30
        self.assertEqual([Entry(delayed, None, 1)], self.take(again).entries)
        self.assertEqual(State.IN_FLIGHT, self.state(delayed, mine.id))

    def test_each_message_has_its_own(self) -> None:
        drafts = [Draft(b"%d" % delay, 300, delay=delay) for delay in (0, 60, 30)]
        first, last, second = self.storage.publish("p", "q", drafts)
        worker = self.storage.join()
        for now, expected, readable in (
            (NOW, [first], [first]),
            (NOW + 30, [second], [first, second]),
            (NOW + 60, [last], [first, last, second]),
        ):
            self.clock.now = now
            taken = self.take(worker)
            self.assertEqual(expected, [entry.message_id for entry in taken.entries])
            self.storage.settle([], [Closing(one, taken.token) for one in expected])
            self.assertEqual(readable, self.listed())

    def test_pages_with_delayed_and_claimed_ones_keep_the_order(self) -> None:
        given: list[str] = []
        for _ in range(4):
            given += self.publish(1)
            given += self.publish(1, delay=300)
        self.claim(2)
        for flags, expected in (
            ({}, [given[4], given[6]]),
            ({"claimed": True}, given[0::2]),
            ({"delayed": True}, [given[1], *given[3:]]),
            ({"claimed": True, "delayed": True}, given),
        ):
            for size in (1, 3, 20):
                found: list[str] = []
                while page := self.storage.list_messages("p", "q", found[-1] if found else None, size, **flags):
                    self.assertTrue(len(page) <= size)
                    found += [message.id for message in page]
                self.assertEqual(expected, found, flags)

    def test_not_from_goes_for_all_of_them(self) -> None:
        self.publish(client_id="me")
        self.claim()
        self.publish(delay=30, client_id="me")
        theirs = self.publish(delay=30, client_id="they")
        found = self.storage.list_messages("p", "q", None, 9, "me", claimed=True, delayed=True)
        self.assertEqual(theirs, [message.id for message in found])

    def test_deleting_a_delayed_one(self) -> None:
        mine = self.subscribe()
        delayed, other = self.publish(2, delay=30)
        self.storage.delete_message("p", "q", delayed)
        self.storage.delete_messages("p", "q", [other])
        self.assertEqual([], self.listed(delayed=True))
        self.assertEqual((0, 0), self.counted())
        self.clock.now += 30
        self.assertEqual([], self.listed())
        taken = self.take(self.storage.join())
        self.assertEqual([delayed, other], [entry.message_id for entry in taken.entries], "its deliveries go on")
        self.assertEqual(State.IN_FLIGHT, self.state(delayed, mine.id))

    def test_a_claim_cannot_be_given_for_a_delayed_one(self) -> None:
        self.publish()
        claim_id, _ = self.claim()
        delayed = self.publish(delay=30)[0]
        self.assertRaises(InvalidRequest, self.storage.delete_message, "p", "q", delayed, claim_id)
        self.assertEqual([delayed], self.listed(delayed=True))

    def test_published_with_a_settlement(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        worker = self.storage.join()
        token = self.take(worker).token
        posted_at = self.clock.now
        later = (("later", Draft(b"1", 60, delay=30)),)
        end = Settlement(message_id, mine.id, token, from_row=False, log=self.delivered(), publish=later)
        self.assertEqual(0, self.storage.settle([end], [Closing(message_id, token)]))
        self.assertEqual([], self.listed("later"))
        self.assertEqual([], list(self.take(worker).entries))
        self.clock.now = posted_at + 30
        self.assertEqual(self.listed("later"), [entry.message_id for entry in self.take(worker).entries])

    def test_pruning_leaves_it(self) -> None:
        delayed = self.publish(ttl=60, delay=900)[0]
        self.clock.now += 800
        self.assertEqual(0, self.prune_all())
        self.clock.now += 100
        self.assertEqual([delayed], self.listed())


class ClaimConformance(StorageCase):
    def test_the_oldest_first(self) -> None:
        given = self.publish(5)
        claim, messages = self.storage.claim("p", "q", 3, 100, 70)
        self.assertEqual(given[:3], [message.id for message in messages])
        self.assertEqual((100, 70, NOW, NOW + 100), (claim.ttl, claim.grace, claim.created_at, claim.expires_at))
        self.assertEqual({claim.id}, {message.claim_id for message in messages})
        self.assertEqual([{"n": 0}, {"n": 1}, {"n": 2}], [message.body for message in messages])
        other, rest = self.claim()
        self.assertEqual(given[3:], rest)
        self.assertNotEqual(claim.id, other)
        self.assertIsNone(self.storage.claim("p", "q", 3, 60, 60))

    def test_a_queue_that_is_not_there(self) -> None:
        self.assertIsNone(self.storage.claim("p", "none", 3, 60, 60))
        self.assertEqual([], self.storage.pop_messages("p", "none", 3))
        self.assertIsNone(self.storage.get_queue("p", "none"))

    def test_nobody_else_sees_what_is_claimed(self) -> None:
        claimed, free = self.publish(2)
        claim_id, _ = self.claim(1)
        self.assertEqual([free], self.listed())
        self.assertEqual([free], self.listed(delayed=True))
        found = self.storage.list_messages("p", "q", None, 9, claimed=True)
        self.assertEqual([(claimed, claim_id), (free, None)], [(message.id, message.claim_id) for message in found])
        self.assertEqual(claim_id, self.storage.get_message("p", "q", claimed).claim_id)
        self.assertIsNone(self.storage.get_message("p", "q", free).claim_id)
        self.assertEqual((1, 1), self.counted())
        self.assertEqual([free], self.popped())

    def test_deliveries_do_not_mind(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        self.claim()
        self.assertEqual(State.PENDING, self.state(message_id, mine.id))
        self.assertEqual([message_id], [entry.message_id for entry in self.take(self.storage.join()).entries])
        self.assertIn(message_id, self.storage.load([message_id], []).messages)

    def test_it_can_be_asked_for(self) -> None:
        given = self.publish(3)
        claim_id, _ = self.claim(2)
        claim, messages = self.storage.get_claim("p", "q", claim_id)
        self.assertEqual((claim_id, 60, 60, NOW), (claim.id, claim.ttl, claim.grace, claim.created_at))
        self.assertEqual([(one, claim_id) for one in given[:2]], [(message.id, message.claim_id) for message in messages])
        self.storage.delete_message("p", "q", given[0], claim_id)
        self.assertEqual(given[1:2], [message.id for message in self.storage.get_claim("p", "q", claim_id)[1]])

    def test_expired_messages_are_not_claimed(self) -> None:
        self.publish(ttl=60)
        lasting = self.publish(ttl=300)
        self.clock.now += 60
        self.assertEqual(lasting, self.claim()[1])

    def test_when_it_expires_its_messages_are_free(self) -> None:
        given = self.publish(2)
        claim_id, _ = self.claim(ttl=60)
        self.clock.now += 59.9
        self.assertIsNotNone(self.storage.get_claim("p", "q", claim_id))
        self.assertEqual([], self.listed())
        self.clock.now = NOW + 60
        for pruned in (False, True):
            self.assertIsNone(self.storage.get_claim("p", "q", claim_id), f"pruned: {pruned}")
            self.assertEqual(given, self.listed())
            self.assertEqual((0, 2), self.counted())
            self.assertEqual(
                [None, None], [one.claim_id for one in self.storage.list_messages("p", "q", None, 9, claimed=True)]
            )
            self.assertIsNone(self.storage.get_message("p", "q", given[0]).claim_id)
            self.assertFalse(self.storage.update_claim("p", "q", claim_id, 60, 60))
            self.prune_all()
        again, messages = self.claim()
        self.assertEqual(given, messages)
        self.assertNotEqual(claim_id, again)

    def test_what_has_expired_can_be_popped_once(self) -> None:
        given = self.publish(3)
        self.claim(2, ttl=60)
        self.clock.now += 60
        self.assertEqual(given, sorted(self.popped()))
        self.assertEqual([], self.popped())

    def test_releasing(self) -> None:
        given = self.publish(4)
        claim_id, _ = self.claim(2)
        self.storage.release_claim("p", "q", claim_id)
        self.storage.release_claim("p", "q", claim_id)
        self.assertIsNone(self.storage.get_claim("p", "q", claim_id))
        self.assertFalse(self.storage.update_claim("p", "q", claim_id, 60, 60))
        self.assertEqual(given, self.listed())
        self.assertEqual((0, 4), self.counted())
        self.assertEqual(given[:2], self.claim(2)[1])

    def test_an_old_claim_has_no_power_over_what_was_claimed_again(self) -> None:
        given = self.publish(2)
        old, _ = self.claim(ttl=60)
        self.clock.now += 60
        new, _ = self.claim(ttl=60)
        self.storage.release_claim("p", "q", old)
        self.assertFalse(self.storage.update_claim("p", "q", old, 600, 600))
        self.assertRaises(InvalidRequest, self.storage.delete_message, "p", "q", given[0], old)
        self.prune_all()
        self.assertIsNone(self.storage.get_claim("p", "q", old))
        self.assertEqual(given, [message.id for message in self.storage.get_claim("p", "q", new)[1]])
        self.assertEqual([], self.listed())

    def test_messages_outlive_the_claim_by_its_grace(self) -> None:
        short = self.publish(ttl=60)[0]
        long = self.publish(ttl=1000)[0]
        self.close_entries()
        claim_id, _ = self.claim(ttl=100, grace=70)
        self.clock.now = NOW + 99
        self.prune_all()
        found = self.storage.get_claim("p", "q", claim_id)[1]
        self.assertEqual([short, long], [message.id for message in found])
        self.assertEqual([NOW + 170, NOW + 1000], [message.expires_at for message in found])
        self.assertTrue(all(message.ttl >= message.expires_at - message.created_at for message in found), found)
        self.assertEqual(NOW + 170, self.storage.load([short], []).messages[short].expires_at)
        self.clock.now = NOW + 169.9
        self.prune_all()
        self.assertEqual([short, long], self.listed())
        self.clock.now = NOW + 170
        self.assertEqual([long], self.listed())
        self.prune_all()
        self.assertEqual({}, self.storage.load([short], []).messages)
        self.assertEqual([long], self.listed())

    def test_deliveries_live_as_long_as_the_message(self) -> None:
        mine = self.subscribe()
        posted_at = self.clock.now
        message_id, _ = self.entry_into_row(mine.id, log=self.failed(), due_at=NOW + 150, attempts=1, lines=1, ttl=60)
        self.claim(ttl=100, grace=100)
        self.clock.now = posted_at + 199
        self.prune_all()
        self.assertEqual(State.PENDING, self.state(message_id, mine.id))
        self.clock.now = posted_at + 200
        self.prune_all()
        self.assertEqual(State.EXPIRED, self.state(message_id, mine.id))

    def test_updating_lets_it_run_from_now_on(self) -> None:
        given = self.publish(2, ttl=130)
        claim_id, _ = self.claim(ttl=60, grace=60)
        self.clock.now = NOW + 50
        self.assertTrue(self.storage.update_claim("p", "q", claim_id, 100, 80))
        claim, messages = self.storage.get_claim("p", "q", claim_id)
        self.assertEqual((claim_id, 100, 80, NOW + 50), (claim.id, claim.ttl, claim.grace, claim.created_at))
        self.assertEqual([NOW + 230] * 2, [message.expires_at for message in messages])
        self.clock.now = NOW + 149.9
        self.assertEqual([], self.listed())
        self.assertEqual([], self.popped())
        self.assertEqual((2, 0), self.counted())
        self.assertIsNotNone(self.storage.get_claim("p", "q", claim_id))
        self.clock.now = NOW + 150
        self.assertEqual(given, self.listed())
        self.assertIsNone(self.storage.get_claim("p", "q", claim_id))
        self.clock.now = NOW + 230
        self.assertEqual([], self.listed())

    def test_updating_can_end_it_sooner_and_shortens_no_life(self) -> None:
        given = self.publish(1, ttl=100)
        claim_id, _ = self.claim(ttl=1000, grace=60)
        self.assertTrue(self.storage.update_claim("p", "q", claim_id, 60, 60))
        self.clock.now = NOW + 60
        self.assertEqual(given, self.listed())
        self.assertEqual(NOW + 1060, self.storage.get_message("p", "q", given[0]).expires_at)
        self.assertEqual(given, self.claim()[1])

    def test_what_there_is_no_claim_of(self) -> None:
        self.publish()
        self.claim()
        for bad in (*MALFORMED, UNKNOWN):
            self.assertIsNone(self.storage.get_claim("p", "q", bad))
            self.assertFalse(self.storage.update_claim("p", "q", bad, 60, 60))
            self.storage.release_claim("p", "q", bad)
        self.assertEqual((1, 0), self.counted())

    def test_another_project_or_queue_cannot_touch_a_claim(self) -> None:
        given = self.publish()
        self.publish(queue="r")
        self.publish(project="o")
        claim_id, _ = self.claim()
        for project, queue in ELSEWHERE:
            self.assertIsNone(self.storage.get_claim(project, queue, claim_id))
            self.assertFalse(self.storage.update_claim(project, queue, claim_id, 600, 600))
            self.storage.release_claim(project, queue, claim_id)
            self.storage.delete_message(project, queue, given[0], claim_id)
            self.storage.delete_messages(project, queue, given)
            self.assertRaises(InvalidRequest, self.storage.delete_messages, project, queue, given, [claim_id])
        claim, messages = self.storage.get_claim("p", "q", claim_id)
        self.assertEqual((60, NOW, given), (claim.ttl, claim.created_at, [message.id for message in messages]))
        for project, queue in (("o", "q"), ("p", "r")):
            theirs, claimed = self.storage.claim(project, queue, 9, 60, 60)
            self.assertEqual([(project, queue)], [(message.project, message.queue) for message in claimed])
            self.assertRaises(Forbidden, self.storage.delete_message, project, queue, claimed[0].id)
            self.assertRaises(InvalidRequest, self.storage.delete_message, project, queue, claimed[0].id, claim_id)
            self.assertRaises(InvalidRequest, self.storage.delete_message, "p", "q", given[0], theirs.id)
        self.assertEqual((1, 0), self.counted())

    def test_a_queue_made_again_knows_no_old_claim(self) -> None:
        self.publish()
        claim_id, _ = self.claim()
        self.storage.delete_queue("p", "q")
        self.assertIsNone(self.storage.get_claim("p", "q", claim_id))
        new = self.publish()
        self.assertIsNone(self.storage.get_claim("p", "q", claim_id))
        self.storage.release_claim("p", "q", claim_id)
        self.assertEqual(new, self.claim()[1])

    def test_expired_claims_are_pruned_in_bounded_steps(self) -> None:
        self.publish(12, ttl=600)
        for _ in range(12):
            self.claim(1, ttl=60)
        self.close_entries()
        self.assertEqual(0, self.prune_all())
        self.clock.now += 60
        steps = []
        while step := self.storage.prune(5):
            steps.append(step)
            self.assertTrue(step <= 2 * 5 and len(steps) < 50, steps)
        self.assertEqual((0, 12), self.counted())
        self.assertEqual(12, len(self.claim()[1]))

    def test_threads_get_each_message_once(self) -> None:
        given = self.publish(240)
        found: list[str] = []

        def claim() -> None:
            while claimed := self.storage.claim("p", "q", 7, 60, 60):
                found.extend(message.id for message in claimed[1])

        def pop() -> None:
            while popped := self.storage.pop_messages("p", "q", 7):
                found.extend(message.id for message in popped)

        self._run_all([claim, pop] * 3)
        self.assertEqual(given, sorted(found))

    def test_threads_that_claim_release_and_pop_lose_nothing(self) -> None:
        given = self.publish(60)
        found: list[str] = []

        def consume() -> None:
            while claimed := self.storage.claim("p", "q", 5, 60, 60):
                claim, messages = claimed
                for message in messages[:2]:
                    self.storage.delete_message("p", "q", message.id, claim.id)
                    found.append(message.id)
                self.storage.release_claim("p", "q", claim.id)

        self._run_all([consume] * 4)
        self.assertEqual(given, sorted(found + self.popped(100)))

    def _run_all(self, works: Sequence[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class DeadLetterConformance(StorageCase):
    def have_dead_letters(self) -> None:
        self.storage.put_queue("p", "q", {"_max_claim_count": 2, "_dead_letter_queue": "dead"})

    def claim_and_release(self, times: int, limit: int = 20) -> None:
        for _ in range(times):
            self.storage.release_claim("p", "q", self.claim(limit)[0])

    def letters(self, queue: str = "dead") -> list[Message]:
        return self.storage.list_messages("p", queue, None, 100)

    def test_what_was_claimed_too_often_is_moved(self) -> None:
        self.have_dead_letters()
        draft = Draft(b'{"x": "\xc3\xa9"}', 200, {"kind": "a", "n": 1.5})
        message_id = self.storage.publish("p", "q", [draft], "me")[0]
        self.claim_and_release(2)
        self.assertEqual([], self.letters())
        self.clock.now += 5
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        letter = self.letters()[0]
        self.assertEqual(("p", "dead", message_id, "me"), (letter.project, letter.queue, letter.parent_id, letter.client_id))
        self.assertEqual((draft.body_json, dict(draft.attributes)), (letter.body_json, letter.attributes))
        self.assertEqual((200, NOW + 5, NOW + 205), (letter.ttl, letter.created_at, letter.expires_at))
        self.assertNotEqual(message_id, letter.id)
        self.assertIsNone(self.storage.get_message("p", "q", message_id))
        self.assertEqual([], self.listed(claimed=True, delayed=True))
        self.assertEqual(((0, 0), (0, 1)), (self.counted(), self.counted("dead")))

    def test_a_claim_that_expires_counts_and_an_update_does_not(self) -> None:
        self.have_dead_letters()
        given = self.publish()
        claim_id, _ = self.claim(ttl=60)
        for _ in range(3):
            self.storage.update_claim("p", "q", claim_id, 60, 60)
        self.clock.now += 60
        self.assertEqual(given, self.claim(ttl=60)[1])
        self.clock.now += 60
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        self.assertEqual(given, [letter.parent_id for letter in self.letters()])

    def test_its_own_time_to_live(self) -> None:
        self.storage.put_queue(
            "p", "q", {"_max_claim_count": 1, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 90}
        )
        self.publish()
        self.claim_and_release(1)
        self.clock.now += 5
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        letter = self.letters()[0]
        self.assertEqual((90, NOW + 95), (letter.ttl, letter.expires_at))

    def test_subscribers_of_the_dead_letter_queue_are_told(self) -> None:
        self.have_dead_letters()
        mine = self.subscribe(queue="dead")
        self.publish()
        self.close_entries()
        self.claim_and_release(2)
        self.storage.claim("p", "q", 5, 60, 60)
        letter = self.letters()[0].id
        self.assertEqual([Entry(letter, None, 1)], self.take(self.storage.join()).entries)
        found = self.storage.message_deliveries("p", "dead", letter, None, 9)
        self.assertEqual([(mine.id, State.IN_FLIGHT)], [(one.subscription_id, one.state) for one in found])

    def test_deliveries_of_the_original_go_on(self) -> None:
        self.have_dead_letters()
        mine, other = self.subscribe(), self.subscribe("http://b/")
        message_id = self.publish()[0]
        worker = self.storage.join()
        token = self.take(worker).token
        waits = Settlement(message_id, mine.id, token, from_row=False, log=self.failed(), due_at=NOW + 9, attempts=1, lines=1)
        self.storage.settle([waits], [Closing(message_id, token, after=mine.id)])
        self.claim_and_release(2)
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        self.assertEqual(State.PENDING, self.state(message_id, mine.id))
        self.assertEqual(State.PENDING, self.state(message_id, other.id))
        self.clock.now = NOW + 10
        taken = self.take(worker)
        self.assertIn(Entry(message_id, mine.id, 1), taken.entries)
        self.assertEqual([message_id], [row.message_id for row in taken.rows])
        self.assertIn(message_id, self.storage.load([message_id], []).messages)
        end = Settlement(message_id, mine.id, taken.token, from_row=True, log=self.delivered(2))
        self.assertEqual(0, self.storage.settle([end]))
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))

    def test_the_others_are_claimed(self) -> None:
        self.have_dead_letters()
        worn = self.publish(30)
        self.claim_and_release(2, 30)
        fresh = self.publish(3)
        claim_id, messages = self.claim(2)
        self.assertEqual(fresh[:2], messages)
        found = self.storage.get_claim("p", "q", claim_id)
        self.assertEqual(fresh[:2], [message.id for message in found[1]])
        self.assertEqual(fresh[2:], self.claim()[1])
        self.assertEqual(worn, [letter.parent_id for letter in self.letters()])

    def test_counting_begins_anew_in_the_dead_letter_queue(self) -> None:
        self.have_dead_letters()
        self.storage.put_queue("p", "dead", {"_max_claim_count": 1, "_dead_letter_queue": "deader"})
        self.publish()
        self.claim_and_release(2)
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        claim_id, letters = self.claim(queue="dead")
        self.storage.release_claim("p", "dead", claim_id)
        self.assertIsNone(self.storage.claim("p", "dead", 5, 60, 60))
        self.assertEqual(letters, [letter.parent_id for letter in self.letters("deader")])

    def test_claims_from_before_the_metadata_count(self) -> None:
        self.storage.put_queue("p", "q", {})
        self.publish()
        self.claim_and_release(3)
        self.storage.put_queue("p", "q", {"_max_claim_count": 3, "_dead_letter_queue": "dead"})
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        self.assertEqual(1, len(self.letters()))

    def test_without_both_it_is_claimed_like_others(self) -> None:
        given = self.publish()
        for metadata in (
            {},
            {"_max_claim_count": 1},
            {"_dead_letter_queue": "dead"},
            {"_max_claim_count": None, "_dead_letter_queue": "dead"},
            {"_max_claim_count": 1, "_dead_letter_queue": None},
            {"_max_claim_count": "1", "_dead_letter_queue": "dead"},
            {"_max_claim_count": 0, "_dead_letter_queue": "dead"},
            {"_max_claim_count": -1, "_dead_letter_queue": "dead"},
            {"_max_claim_count": 1, "_dead_letter_queue": ""},
            {"_max_claim_count": 1, "_dead_letter_queue": ["dead"]},
            {"_max_claim_count": True, "_dead_letter_queue": {}},
        ):
            self.storage.put_queue("p", "q", metadata)
            claim_id, messages = self.claim()
            self.assertEqual(given, messages, metadata)
            self.storage.release_claim("p", "q", claim_id)
        self.assertEqual([], self.letters())

    def test_a_nonsensical_time_to_live_is_not_heeded(self) -> None:
        for number, ttl in enumerate((None, "x", -1, 0, True, [], {}), 1):
            self.storage.put_queue(
                "p", "q", {"_max_claim_count": 1, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": ttl}
            )
            self.publish(ttl=200)
            self.claim_and_release(1)
            self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
            self.assertEqual([200] * number, [letter.ttl for letter in self.letters()], ttl)

    def test_a_queue_that_is_its_own(self) -> None:
        self.storage.put_queue("p", "q", {"_max_claim_count": 1, "_dead_letter_queue": "q"})
        given = self.publish()
        self.claim_and_release(1)
        self.storage.claim("p", "q", 5, 60, 60)
        found = self.storage.list_messages("p", "q", None, 9, claimed=True)
        self.assertEqual(given, [message.parent_id for message in found])

    def test_the_dead_letter_queue_is_of_the_same_project(self) -> None:
        self.have_dead_letters()
        self.storage.put_queue("o", "dead", {})
        self.publish()
        self.claim_and_release(2)
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        self.assertEqual([], self.storage.list_messages("o", "dead", None, 9))
        self.assertEqual(1, len(self.letters()))


class DeletingConformance(StorageCase):
    def test_a_claimed_one_is_deleted_with_its_claim_alone(self) -> None:
        mine, theirs = self.publish(2)
        right, _ = self.claim(1)
        wrong, _ = self.claim(1)
        self.assertRaises(Forbidden, self.storage.delete_message, "p", "q", mine)
        self.assertRaises(Forbidden, self.storage.delete_message, "p", "q", mine, wrong)
        for bad in (*MALFORMED, UNKNOWN):
            self.assertRaises(InvalidRequest, self.storage.delete_message, "p", "q", mine, bad)
        self.assertEqual([mine, theirs], self.listed(claimed=True))
        self.storage.delete_message("p", "q", mine, right)
        self.assertEqual([theirs], self.listed(claimed=True))
        self.storage.delete_message("p", "q", mine, right)
        self.assertEqual([], self.storage.get_claim("p", "q", right)[1])

    def test_a_free_one_is_deleted_without_a_claim_alone(self) -> None:
        self.publish()
        other, _ = self.claim()
        free = self.publish()[0]
        for bad in (other, *MALFORMED, UNKNOWN):
            self.assertRaises(InvalidRequest, self.storage.delete_message, "p", "q", free, bad)
        self.assertEqual([free], self.listed())
        self.storage.delete_message("p", "q", free)
        self.assertEqual([], self.listed())

    def test_a_claim_that_has_ended_is_none(self) -> None:
        for end in (self._expire, lambda claim_id: self.storage.release_claim("p", "q", claim_id)):
            message_id = self.publish()[0]
            claim_id, _ = self.claim()
            end(claim_id)
            self.assertRaises(InvalidRequest, self.storage.delete_message, "p", "q", message_id, claim_id)
            self.storage.delete_message("p", "q", message_id)
            self.assertEqual([], self.listed())

    def _expire(self, claim_id: str) -> None:
        self.clock.now += 60

    def test_what_is_not_there_is_deleted_in_silence(self) -> None:
        gone = self.publish()[0]
        self.storage.delete_message("p", "q", gone)
        self.publish()
        claim_id, _ = self.claim()
        for message_id in (gone, UNKNOWN, *MALFORMED):
            for claim in (None, claim_id, UNKNOWN, "x"):
                self.storage.delete_message("p", "q", message_id, claim)
        self.assertEqual((1, 0), self.counted())

    def test_a_claim_cannot_delete_an_expired_one(self) -> None:
        self.publish(ttl=60)
        self.clock.now += 60
        self.storage.delete_message("p", "q", self.publish()[0])
        self.assertEqual((0, 0), self.counted())

    def test_several(self) -> None:
        mine = self.subscribe()
        given = self.publish(4)
        self.claim(1)
        self.storage.delete_messages("p", "q", [*given[:3], UNKNOWN, *MALFORMED, given[0]])
        self.assertEqual(given[3:], self.listed(claimed=True))
        self.storage.delete_messages("p", "q", [])
        self.storage.delete_messages("p", "q", given[:3])
        self.assertEqual(given[3:], self.listed(claimed=True))
        self.assertEqual(given, [entry.message_id for entry in self.take(self.storage.join()).entries])
        self.assertEqual(State.IN_FLIGHT, self.state(given[0], mine.id), "its deliveries go on")

    def test_several_with_their_claims(self) -> None:
        given = self.publish(6)
        first, second = self.claim(2)[0], self.claim(2)[0]
        self.storage.delete_messages("p", "q", [given[0], given[2], given[4]], [first, second])
        self.assertEqual([given[1], given[3], given[5]], self.listed(claimed=True))
        self.storage.delete_messages("p", "q", [given[1]], [first, first])
        self.storage.delete_messages("p", "q", [given[5]], [])
        self.assertEqual([given[3]], self.listed(claimed=True))

    def test_several_with_a_claim_of_none_of_them(self) -> None:
        given = self.publish(5)
        first, second = self.claim(2)[0], self.claim(2)[0]
        for message_ids, claim_ids in (
            (given[:2], [first, second]),
            (given[4:], [first]),
            (given, [first, second, UNKNOWN]),
            *((given, [bad]) for bad in MALFORMED),
            ([], [first]),
            ([UNKNOWN], [first]),
        ):
            self.assertRaises(InvalidRequest, self.storage.delete_messages, "p", "q", message_ids, claim_ids)
            self.assertEqual(given, self.listed(claimed=True), (message_ids, claim_ids))
        self.clock.now += 60
        self.assertRaises(InvalidRequest, self.storage.delete_messages, "p", "q", given, [first, second])
        self.assertEqual(given, self.listed())

    def test_several_of_another_project_or_queue(self) -> None:
        given = self.publish(2)
        self.publish(queue="r")
        self.publish(project="o")
        for project, queue in ELSEWHERE:
            self.storage.delete_messages(project, queue, given)
        self.assertEqual(given, self.listed())

    def test_popping(self) -> None:
        mine = self.subscribe()
        posted_at = self.clock.now
        given = self.publish(5)
        popped = self.storage.pop_messages("p", "q", 3)
        self.assertEqual(given[:3], [message.id for message in popped])
        self.assertEqual([{"n": 0}, {"n": 1}, {"n": 2}], [message.body for message in popped])
        self.assertEqual(
            {("p", "q", 300, posted_at, posted_at + 300, None)},
            {(one.project, one.queue, one.ttl, one.created_at, one.expires_at, one.claim_id) for one in popped},
        )
        self.assertEqual(given[3:], self.listed())
        self.assertIsNone(self.storage.get_message("p", "q", given[0]))
        self.assertEqual(given[3:], self.popped())
        self.assertEqual([], self.popped())
        self.assertEqual((0, 0), self.counted())
        self.assertEqual(given, [entry.message_id for entry in self.take(self.storage.join()).entries])
        self.assertEqual(State.IN_FLIGHT, self.state(given[0], mine.id), "its deliveries go on")

    def test_popping_takes_only_what_is_free(self) -> None:
        self.publish(ttl=60)
        self.clock.now += 60
        claimed = self.publish()
        self.claim()
        delayed = self.publish(delay=300)
        self.publish(queue="r")
        self.publish(project="o")
        free = self.publish()
        self.assertEqual(free, self.popped())
        self.assertEqual(claimed + delayed, self.listed(claimed=True, delayed=True))
        self.assertEqual([(0, 1)] * 2, [(one.claimed, one.free) for one in map(self.storage.stats, "po", "rq")])

    def test_what_was_popped_goes_when_its_retention_is_over(self) -> None:
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, log=self.delivered(), ttl=60)
        self.popped()
        self.clock.now += 61
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.clock.now += RETENTION
        self.prune_all()
        self.assertEqual({}, self.storage.load([message_id], []).messages)


class StatsConformance(StorageCase):
    def test_none(self) -> None:
        self.assertEqual(Stats(), self.storage.stats("p", "none"))
        self.storage.put_queue("p", "q", {})
        self.assertEqual(Stats(), self.storage.stats("p", "q"))
        self.assertEqual(Stats(), self.storage.volume())
        self.assertIsNone(self.storage.get_queue("p", "none"))

    def test_counting(self) -> None:
        expired = self.publish(2, ttl=60)
        self.clock.now += 60
        given = self.publish(8)
        self.publish(3, delay=30)
        self.claim(3)
        self.storage.delete_message("p", "q", given[7])
        self.publish(queue="r")
        self.publish(project="o")
        self.assertEqual((6, 4), self.counted())
        self.assertNotIn(self.storage.stats("p", "q").oldest.id, expired)
        self.popped(1)
        self.assertEqual((6, 3), self.counted())
        self.clock.now += 30
        self.assertEqual((3, 6), self.counted())
        self.clock.now += 30
        self.assertEqual((0, 9), self.counted())

    def test_the_oldest_and_the_newest(self) -> None:
        first = self.publish(ttl=600)[0]
        self.clock.now += 10
        between = self.publish(ttl=60)[0]
        self.clock.now += 10
        last = self.publish(ttl=900)[0]
        stats = self.storage.stats("p", "q")
        self.assertEqual((first, NOW, 600), (stats.oldest.id, stats.oldest.created_at, stats.oldest.ttl))
        self.assertEqual((last, NOW + 20, 900), (stats.newest.id, stats.newest.created_at, stats.newest.ttl))
        self.storage.delete_message("p", "q", last)
        self.assertEqual(between, self.storage.stats("p", "q").newest.id)
        self.claim(1)
        self.assertEqual(first, self.storage.stats("p", "q").oldest.id)
        self.clock.now += 50
        stats = self.storage.stats("p", "q")
        self.assertEqual((first, first), (stats.oldest.id, stats.newest.id))

    def test_the_volume_is_of_all_projects(self) -> None:
        self.publish(3)
        self.claim(2)
        self.publish(2, project="o", queue="x")
        self.publish(project="o", delay=30)
        self.publish(4, queue="gone")
        self.publish(ttl=60, queue="r")
        self.storage.delete_queue("p", "gone")
        self.assertEqual(Stats(claimed=3, free=4), self.storage.volume())
        self.clock.now += 60
        self.assertEqual(Stats(claimed=0, free=6), self.storage.volume())

    def test_another_project_counts_its_own(self) -> None:
        self.publish(3)
        self.assertEqual(Stats(), self.storage.stats("o", "q"))
        self.publish(project="o")
        stats = self.storage.stats("o", "q")
        self.assertEqual((1, 1, "o"), (stats.total, stats.free, stats.oldest.project))


class ClaimsConformance(DelayConformance, ClaimConformance, DeadLetterConformance, DeletingConformance, StatsConformance):
    pass
