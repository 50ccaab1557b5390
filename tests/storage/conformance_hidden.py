"""Messages that readers never see (held ones, and those that ask for a confirmation), and bodies that are encrypted."""

from __future__ import annotations

import base64
from typing import Any

from tests.storage.contract import ELSEWHERE, LEASE, MALFORMED, NOW, RETENTION, SECRET, UNKNOWN, StorageCase, make_keyring
from zaqar_notify.encryption import Keyring
from zaqar_notify.errors import Conflict, InvalidRequest
from zaqar_notify.model import Alert, Draft, MessageKind, State, Subscription
from zaqar_notify.storage.base import Closing, Entry, Failure, Row, Settlement

OLD_KEY = base64.b64encode(b"k" * 32).decode()
NEW_KEY = base64.b64encode(b"n" * 32).decode()
HOLD = 30.0


class ChangingKeyring(Keyring):
    """Its keys can be replaced, as by a restart with another configuration."""

    def replace(self, *keys: str) -> None:
        self.__init__(keys)  # type: ignore[misc]


class HiddenCase(StorageCase):
    def assert_hidden(self, message_id: str) -> None:
        """Readers do not see it, whatever they try."""
        self.assertIsNone(self.storage.get_message("p", "q", message_id))
        self.assertEqual([], self.listed(claimed=True, delayed=True))
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        self.assertEqual([], self.popped())
        self.assertEqual((0, 0), self.counted())
        self.assertEqual(0, self.storage.volume().total)
        self.storage.delete_message("p", "q", message_id)
        self.storage.delete_messages("p", "q", [message_id])
        self.assertIn(message_id, self.storage.load([message_id], []).messages)


class HoldConformance(HiddenCase):
    def hold(self, count: int = 1, *, ttl: int = 300, queue: str = "q", seconds: float = HOLD) -> list[str]:
        drafts = [Draft(b'{"n": %d}' % number, ttl, {"k": number}) for number in range(count)]
        return self.storage.hold("p", queue, drafts, "me", seconds)

    def test_the_envelope_of_a_held_message_comes_back(self) -> None:
        first, second = self.hold(2)
        messages = self.storage.load([first, second], []).messages
        self.assertEqual([{"n": 0}, {"n": 1}], [messages[one].body for one in (first, second)])
        message = messages[second]
        self.assertEqual(("p", "q", "me", {"k": 1}), (message.project, message.queue, message.client_id, message.attributes))
        self.assertEqual((300, NOW, NOW + 300), (message.ttl, message.created_at, message.expires_at))
        self.assertEqual((MessageKind.NOTIFICATION, None, second), (message.kind, message.foreign_id, message.public_id))
        self.assertIsNotNone(self.storage.get_queue("p", "q"))
        self.assertEqual([], self.storage.hold("p", "q", [], None, HOLD))

    def test_readers_never_see_it(self) -> None:
        held, released, foreign = self.hold(3)
        self.assert_hidden(held)
        self.storage.release("p", "q", [released])
        self.assert_hidden(released)
        self.storage.release("p", "q", [foreign], ["theirs"])
        self.assert_hidden(foreign)
        self.assertIsNone(self.storage.get_message("p", "q", "theirs"))
        self.clock.now += HOLD
        self.assert_hidden(held)
        self.assertEqual(3, len(self.take(self.storage.join()).entries), "their deliveries went on")

    def test_ids_rise_over_all_kinds(self) -> None:
        given = self.hold(2) + self.publish(2) + self.hold(1) + self.publish(1)
        self.assertEqual(sorted(set(given)), given)
        self.assertEqual(given[2:4] + given[5:], self.listed())

    def test_it_comes_due_by_itself(self) -> None:
        mine = self.subscribe()
        held_at = self.clock.now
        held = self.hold()[0]
        worker = self.storage.join()
        record = self.delivery(held, mine.id)
        self.assertEqual((State.PENDING, held_at + HOLD), (record.state, record.next_attempt_at))
        self.clock.now = held_at + HOLD - 0.1
        self.assertEqual([], list(self.take(worker).entries))
        self.assertEqual(0, self.prune_all())
        self.clock.now = held_at + HOLD
        self.assertEqual([Entry(held, None, 1)], self.take(worker).entries)

    def test_releasing_makes_it_due_at_once(self) -> None:
        mine = self.subscribe()
        first, second, third = self.hold(3)
        self.storage.release("p", "q", [first, third])
        self.clock.now -= 3600
        worker = self.storage.join()
        self.assertEqual([first, third], [entry.message_id for entry in self.take(worker).entries])
        self.assertEqual(State.IN_FLIGHT, self.state(first, mine.id))
        self.assertIsNone(self.storage.load([first], []).messages[first].foreign_id)
        self.storage.release("p", "q", [second])
        self.assertEqual([second], [entry.message_id for entry in self.take(worker).entries])

    def test_a_delay_is_kept(self) -> None:
        released, waiting = self.storage.hold("p", "q", [Draft(b"1", 300, delay=60)] * 2, None, HOLD)
        self.storage.release("p", "q", [released])
        worker = self.storage.join()
        for now, expected in ((NOW + 59.9, []), (NOW + 60, [released, waiting])):
            self.clock.now = now
            self.assertEqual(expected, [entry.message_id for entry in self.take(worker).entries])

    def test_foreign_ids_are_what_everyone_sees(self) -> None:
        mine = self.subscribe()
        foreign = ["Th/eir 1", "é" * 100, "ffffffffffffffff"]
        held = self.hold(3)
        self.storage.release("p", "q", held, foreign)
        loaded = self.storage.load(held, []).messages
        self.assertEqual(sorted(held), sorted(loaded))
        self.assertEqual(foreign, [loaded[one].foreign_id for one in held])
        self.assertEqual(foreign, [loaded[one].public_id for one in held])
        token = self.take(self.storage.join()).token
        done = [Settlement(one, mine.id, token, from_row=False, log=self.delivered()) for one in held[:2]]
        waits = Settlement(held[2], mine.id, token, from_row=False, due_at=NOW + 900)
        self.assertEqual(0, self.storage.settle([*done, waits], [Closing(one, token) for one in held]))
        for public in foreign:
            found = self.storage.message_deliveries("p", "q", public, None, 9)
            self.assertEqual([(public, mine.id)], [(one.message_id, one.subscription_id) for one in found])
            for project, queue in ELSEWHERE:
                self.assertIsNone(self.storage.message_deliveries(project, queue, public, None, 9))
        self.assertEqual(State.DELIVERED, self.state(foreign[0], mine.id))
        self.assertEqual(State.PENDING, self.state(foreign[2], mine.id))

    def test_foreign_ids_before_the_work_is_done(self) -> None:
        mine = self.subscribe()
        held = self.hold()
        self.storage.release("p", "q", held, ["theirs"])
        self.assertEqual(State.PENDING, self.state("theirs", mine.id))
        self.assertIsNone(self.storage.message_deliveries("p", "q", "unknown", None, 9))

    def test_pages_behind_foreign_markers(self) -> None:
        mine = self.subscribe()
        held = self.hold(4)
        foreign = ["zz", "a", "m", "b"]
        self.storage.release("p", "q", held, foreign)
        ours = self.publish(2)
        for size in (1, 2, 3, 9):
            found: list[str] = []
            while page := self.storage.subscription_deliveries("p", "q", mine.id, found[-1] if found else None, size):
                self.assertTrue(len(page) <= size)
                found += [record.message_id for record in page]
            self.assertEqual(ours[::-1] + foreign[::-1], found)

    def test_a_foreign_marker_of_another_queue_is_none(self) -> None:
        mine = self.subscribe()
        self.storage.release("p", "r", self.hold(queue="r"), ["theirs"])
        self.publish()
        for bad in ("theirs", "unknown", "x" * 1000, *MALFORMED[1:]):
            self.assertRaises(InvalidRequest, self.storage.subscription_deliveries, "p", "q", mine.id, bad, 5)

    def test_the_same_foreign_id_in_two_queues(self) -> None:
        self.subscribe()
        self.subscribe(queue="r")
        for queue in "qr":
            self.storage.release("p", queue, self.hold(queue=queue), ["1"])
            found = self.storage.message_deliveries("p", queue, "1", None, 9)
            self.assertEqual(["1"], [record.message_id for record in found])

    def test_a_foreign_id_that_is_used_twice_loses_nothing(self) -> None:
        self.subscribe()
        held = self.hold(3)
        self.storage.release("p", "q", held[:1], ["again"])
        self.storage.release("p", "q", held[1:], ["again", "other"])
        self.assertIsNotNone(self.storage.message_deliveries("p", "q", "again", None, 9))
        self.assertIsNotNone(self.storage.message_deliveries("p", "q", "other", None, 9))
        self.assertEqual(held, [entry.message_id for entry in self.take(self.storage.join()).entries])
        self.assertEqual(set(held), set(self.storage.load(held, []).messages))

    def test_releasing_what_was_taken_meanwhile(self) -> None:
        mine = self.subscribe()
        held = self.hold()
        self.clock.now += HOLD
        worker = self.storage.join()
        taken = self.take(worker)
        self.storage.release("p", "q", held, ["theirs"])
        self.assertEqual([], list(self.take(worker).entries), "its lease goes on")
        self.assertEqual("theirs", self.storage.load(held, []).messages[held[0]].foreign_id)
        done = Settlement(held[0], mine.id, taken.token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(held[0], taken.token)]))
        self.assertEqual(State.DELIVERED, self.state("theirs", mine.id))

    def test_releasing_what_has_ended_meanwhile(self) -> None:
        mine = self.subscribe()
        held = self.hold()
        self.clock.now += HOLD
        token = self.take(self.storage.join()).token
        done = Settlement(held[0], mine.id, token, from_row=False, log=self.delivered())
        self.storage.settle([done], [Closing(held[0], token)])
        self.storage.release("p", "q", held, ["theirs"])
        self.assertEqual(State.DELIVERED, self.state("theirs", mine.id))
        self.clock.now += LEASE
        self.assertEqual([], list(self.take(self.storage.join()).entries))

    def test_what_is_given_back_is_due_as_ever(self) -> None:
        held = self.hold()
        self.clock.now += HOLD
        worker = self.storage.join()
        self.storage.give_back(self.take(worker).token, held)
        self.assertEqual([Entry(held[0], None, 1)], self.take(worker).entries)

    def test_leaving_releases_nothing_that_is_held(self) -> None:
        self.hold()
        worker = self.storage.join()
        self.take(worker)
        self.storage.leave(worker)
        self.assertEqual([], list(self.take(self.storage.join()).entries))

    def test_dropping(self) -> None:
        mine = self.subscribe()
        dropped, kept = self.hold(2)
        self.storage.drop("p", "q", [dropped])
        self.storage.drop("p", "q", [dropped, UNKNOWN, *MALFORMED])
        self.storage.release("p", "q", [dropped], ["theirs"])
        found = self.storage.subscription_deliveries("p", "q", mine.id, None, 9)
        self.assertEqual([kept], [record.message_id for record in found])
        for message_id in (dropped, "theirs"):
            self.assertFalse(self.storage.message_deliveries("p", "q", message_id, None, 9))
        self.prune_all()
        for message_id in (dropped, "theirs"):
            self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 9))
        self.assertEqual([kept], list(self.storage.load([dropped, kept], []).messages))
        self.clock.now += HOLD
        self.assertEqual([kept], [entry.message_id for entry in self.take(self.storage.join()).entries])
        self.assertTrue(self.publish()[0] > kept)

    def test_dropping_what_is_due_and_not_taken(self) -> None:
        held = self.hold()
        self.clock.now += HOLD
        self.storage.drop("p", "q", held)
        self.assertEqual([], list(self.take(self.storage.join()).entries))

    def test_dropping_what_was_taken_does_nothing(self) -> None:
        mine = self.subscribe()
        held = self.hold()
        self.clock.now += HOLD
        worker = self.storage.join()
        taken = self.take(worker)
        self.storage.drop("p", "q", held)
        self.assertIn(held[0], self.storage.load(held, []).messages)
        self.clock.now += LEASE
        self.storage.drop("p", "q", held)
        again = self.take(worker)
        self.assertEqual([Entry(held[0], None, 2)], again.entries)
        self.assertNotEqual(taken.token, again.token)
        done = Settlement(held[0], mine.id, again.token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(held[0], again.token)]))
        self.storage.drop("p", "q", held)
        self.assertEqual(State.DELIVERED, self.state(held[0], mine.id))

    def test_dropping_what_a_worker_left_behind_does_nothing(self) -> None:
        held = self.hold()
        self.clock.now += HOLD
        worker = self.storage.join()
        self.take(worker)
        self.storage.leave(worker)
        self.storage.drop("p", "q", held)
        self.assertEqual(held, [entry.message_id for entry in self.take(self.storage.join()).entries])

    def test_another_project_or_queue_cannot_touch_a_held_message(self) -> None:
        held = self.hold()
        self.publish(queue="r")
        self.storage.publish("o", "q", [Draft(b"1", 300)])
        self.close_entries()
        for project, queue in ELSEWHERE:
            self.storage.release(project, queue, held, ["theirs"])
            self.storage.drop(project, queue, held)
        self.assertEqual([], list(self.take(self.storage.join()).entries))
        self.assertIsNone(self.storage.load(held, []).messages[held[0]].foreign_id)

    def test_what_was_posted_is_not_released_or_given_an_id(self) -> None:
        delayed = self.publish(delay=60)
        self.storage.release("p", "q", delayed, ["theirs"])
        self.assertEqual([], list(self.take(self.storage.join()).entries))
        self.assertIsNone(self.storage.get_message("p", "q", delayed[0]).foreign_id)
        self.assertEqual(delayed, self.listed(delayed=True))

    def test_deleting_the_queue_cancels_it(self) -> None:
        for end in (self.storage.delete_queue, self.storage.purge_messages):
            held = self.hold()
            end("p", "q")
            self.storage.release("p", "q", held)
            self.assertEqual({}, self.storage.load(held, []).messages)

    def test_it_expires_like_others(self) -> None:
        mine = self.subscribe()
        held = self.hold(ttl=60)
        self.storage.release("p", "q", held, ["theirs"])
        token = self.take(self.storage.join()).token
        waits = Settlement(held[0], mine.id, token, from_row=False, log=self.failed(), due_at=NOW + 900, attempts=1, lines=1)
        self.storage.settle([waits], [Closing(held[0], token)])
        self.clock.now += 60
        self.prune_all()
        self.assertEqual(State.EXPIRED, self.state("theirs", mine.id))
        for _ in range(2):  # no worker ends it, so housekeeping does
            self.clock.now += RETENTION + 1
            self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", "theirs", None, 9))
        self.assertEqual({}, self.storage.load(held, []).messages)


class ConfirmationConformance(HiddenCase):
    def ask(self, subscription: Subscription) -> Draft:
        self.asked = subscription
        return Draft(b'{"confirm": "%s"}' % subscription.id.encode(), 100, {"k": 1})

    def subscribe_asking(self, subscriber: str = "http://a/", **fields: Any) -> Subscription:
        return self.storage.subscribe(self.subscription(subscriber, **fields), self.ask).subscription

    def test_the_subscriber_is_asked(self) -> None:
        self.subscribe("http://other/")
        mine = self.subscribe_asking(ttl=600, options={"a": 1}, secret=SECRET)
        self.assertEqual(mine, self.asked)
        worker = self.storage.join()
        asked_at = self.clock.now
        self.clock.now -= 3600
        taken = self.take(worker)
        self.assertEqual([], list(taken.entries))
        message_id = taken.rows[0].message_id
        self.assertEqual([Row(message_id, mine.id, 0, 0)], self.rows(taken))
        loaded = self.storage.load([message_id], [mine.id])
        self.assertEqual({mine.id: mine}, loaded.subscriptions)
        message = loaded.messages[message_id]
        self.assertEqual((MessageKind.CONFIRMATION, {"confirm": mine.id}), (message.kind, message.body))
        self.assertEqual(("p", "q", {"k": 1}), (message.project, message.queue, message.attributes))
        self.assertEqual((100, asked_at, asked_at + 100), (message.ttl, message.created_at, message.expires_at))
        self.assertEqual((None, None), (message.foreign_id, message.claim_id))

    def test_what_clients_post_is_a_notification(self) -> None:
        posted = self.publish()[0]
        self.assertEqual(MessageKind.NOTIFICATION, self.storage.get_message("p", "q", posted).kind)
        self.assertEqual(MessageKind.NOTIFICATION, self.storage.load([posted], []).messages[posted].kind)

    def test_readers_never_see_it_and_others_do_not_get_it(self) -> None:
        other = self.subscribe("http://other/")
        mine = self.subscribe_asking()
        late = self.subscribe("http://late/")
        message_id = self.take(self.storage.join()).rows[0].message_id
        self.assert_hidden(message_id)
        for one in (other, late):
            self.assertIsNone(self.delivery(message_id, one.id))
            self.assertEqual([], self.storage.subscription_deliveries("p", "q", one.id, None, 9))
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, mine.id))

    def test_it_can_be_asked_whether_it_arrived(self) -> None:
        mine = self.subscribe_asking()
        found = self.storage.subscription_deliveries("p", "q", mine.id, None, 9)
        self.assertEqual([State.PENDING], [record.state for record in found])
        message_id = found[0].message_id
        posted = self.publish()[0]
        taken = self.take(self.storage.join())
        self.assertEqual([message_id], [row.message_id for row in taken.rows])
        done = Settlement(message_id, mine.id, taken.token, from_row=True, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done]))
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        found = self.storage.subscription_deliveries("p", "q", mine.id, None, 9)
        self.assertEqual([posted, message_id], [record.message_id for record in found])

    def test_again_it_is_sent_again(self) -> None:
        mine = self.subscribe_asking()
        again = self.subscribe_asking(options={"b": 2})
        self.assertEqual((mine.id, {"b": 2}), (again.id, again.options))
        self.assertEqual(again, self.asked)
        rows = self.take(self.storage.join()).rows
        self.assertEqual([mine.id] * 2, [row.subscription_id for row in rows])
        self.assertEqual(2, len({row.message_id for row in rows}))

    def test_a_confirmed_one_is_not_asked(self) -> None:
        self.subscribe(confirmed=True)
        self.assertRaises(Conflict, self.storage.subscribe, self.subscription(), self.ask)
        self.assertEqual([], list(self.take(self.storage.join()).rows))

    def test_another_subscriber_is_asked(self) -> None:
        mine = self.subscribe(confirmed=True)
        for changes in ({"ttl": 600}, {"subscriber": mine.subscriber, "options": {"a": 1}}):
            self.assertTrue(self.storage.update_subscription("p", "q", mine.id, changes, self.ask).confirmed)
        self.assertEqual([], list(self.take(self.storage.join()).rows))
        changed = self.storage.update_subscription("p", "q", mine.id, {"subscriber": "http://b/"}, self.ask)
        self.assertEqual((False, "http://b/", changed), (changed.confirmed, changed.subscriber, self.asked))
        self.assertEqual(changed, self.storage.get_subscription("p", "q", mine.id))
        row = self.take(self.storage.join()).rows[0]
        message = self.storage.load([row.message_id], []).messages[row.message_id]
        self.assertEqual((mine.id, MessageKind.CONFIRMATION), (row.subscription_id, message.kind))

    def test_another_subscriber_is_not_asked_where_none_has_to_confirm(self) -> None:
        mine = self.subscribe(confirmed=True)
        self.assertTrue(self.storage.update_subscription("p", "q", mine.id, {"subscriber": "http://b/"}).confirmed)
        self.assertEqual([], list(self.take(self.storage.join()).rows))

    def test_what_raises_stores_nothing(self) -> None:
        def ask(subscription: Subscription) -> Draft:
            raise InvalidRequest("no")

        self.assertRaises(InvalidRequest, self.storage.subscribe, self.subscription(), ask)
        self.assertEqual([], self.storage.list_subscriptions("p", "q", None, 9))
        self.assertIsNone(self.storage.get_queue("p", "q"))
        mine = self.subscribe(options={"a": 1})
        self.assertRaises(InvalidRequest, self.storage.subscribe, self.subscription(options={"b": 1}), ask)
        self.assertRaises(InvalidRequest, self.storage.confirm, "p", "q", mine.id, True, ask)
        changes = {"subscriber": "http://b/", "ttl": 600}
        self.assertRaises(InvalidRequest, self.storage.update_subscription, "p", "q", mine.id, changes, ask)
        self.assertEqual(mine, self.storage.get_subscription("p", "q", mine.id))
        self.assertEqual([], list(self.take(self.storage.join()).rows))

    def test_confirming(self) -> None:
        mine = self.subscribe(ttl=600, options={"a": 1}, secret=SECRET, secret_made=True)
        self.assertFalse(mine.confirmed)
        for confirmed in (True, True, False):
            changed = self.storage.confirm("p", "q", mine.id, confirmed)
            self.assertEqual(confirmed, changed.confirmed)
            self.assertEqual(changed, self.storage.get_subscription("p", "q", mine.id))
            self.assertEqual([changed], self.storage.list_subscriptions("p", "q", None, 9))
            self.assertEqual(changed, self.storage.load([], [mine.id]).subscriptions[mine.id])
        self.assertEqual(mine, changed, "nothing else has changed")
        self.assertEqual([], list(self.take(self.storage.join()).rows))

    def test_who_has_confirmed_is_subscribed(self) -> None:
        mine = self.subscribe()
        self.storage.confirm("p", "q", mine.id, True)
        self.assertRaises(Conflict, self.storage.subscribe, self.subscription())
        self.storage.confirm("p", "q", mine.id, False)
        self.assertFalse(self.storage.subscribe(self.subscription()).created)

    def test_who_declines_is_told(self) -> None:
        mine = self.subscribe()
        self.storage.confirm("p", "q", mine.id, True)
        changed = self.storage.confirm("p", "q", mine.id, False, self.ask)
        self.assertEqual((False, changed), (changed.confirmed, self.asked))
        row = self.take(self.storage.join()).rows[0]
        self.assertEqual(mine.id, row.subscription_id)
        message = self.storage.load([row.message_id], []).messages[row.message_id]
        self.assertEqual((MessageKind.CONFIRMATION, {"confirm": mine.id}), (message.kind, message.body))
        self.assert_hidden(row.message_id)

    def test_its_queue_may_have_been_deleted(self) -> None:
        mine = self.subscribe()
        self.storage.delete_queue("p", "q")
        self.assertTrue(self.storage.confirm("p", "q", mine.id, True).confirmed)
        self.assertFalse(self.storage.confirm("p", "q", mine.id, False, self.ask).confirmed)
        row = self.take(self.storage.join()).rows[0]
        self.assertIn(row.message_id, self.storage.load([row.message_id], []).messages)

    def test_its_queue_may_be_emptied_or_deleted_while_it_is_asked(self) -> None:
        for number, end in enumerate((self.storage.purge_messages, self.storage.delete_queue)):
            mine = self.subscribe_asking(f"http://{number}/")
            end("p", "q")
            [asked] = self.storage.subscription_deliveries("p", "q", mine.id, None, 9)
            self.assertEqual(State.PENDING, asked.state)
            self.assertIn(asked.message_id, self.storage.load([asked.message_id], []).messages)
            self.clock.now += 100
            self.prune_all()
            self.assertEqual(State.EXPIRED, self.state(asked.message_id, mine.id))

    def test_what_cannot_be_confirmed(self) -> None:
        mine = self.subscribe()
        expired = self.subscribe("http://b/", ttl=60)
        deleted = self.subscribe("http://c/")
        self.storage.delete_subscription("p", "q", deleted.id)
        self.clock.now += 60
        for unknown in (expired.id, deleted.id, UNKNOWN, *MALFORMED):
            self.assertIsNone(self.storage.confirm("p", "q", unknown, True, self.ask))
        for project, queue in ELSEWHERE:
            self.assertIsNone(self.storage.confirm(project, queue, mine.id, True, self.ask))
        self.assertFalse(self.storage.get_subscription("p", "q", mine.id).confirmed)
        self.assertEqual([], list(self.take(self.storage.join()).rows))

    def test_it_ends_like_others(self) -> None:
        mine, other = self.subscribe_asking(), self.subscribe_asking("http://b/")
        expiring = self.storage.subscription_deliveries("p", "q", mine.id, None, 9)[0].message_id
        cancelled = self.storage.subscription_deliveries("p", "q", other.id, None, 9)[0].message_id
        self.storage.delete_subscription("p", "q", other.id)
        self.assertEqual(State.CANCELLED, self.state(cancelled, other.id))
        self.clock.now += 100
        self.prune_all()
        self.assertEqual((State.EXPIRED, State.CANCELLED), (self.state(expiring, mine.id), self.state(cancelled, other.id)))
        for _ in range(2):  # no worker ends it, so housekeeping does
            self.clock.now += RETENTION + 1
            self.prune_all()
        self.assertEqual({}, self.storage.load([expiring, cancelled], []).messages)
        self.assertEqual([], self.storage.subscription_deliveries("p", "q", mine.id, None, 9))

    def test_a_retry_is_a_row_like_others(self) -> None:
        mine = self.subscribe_asking()
        worker = self.storage.join()
        taken = self.take(worker)
        message_id = taken.rows[0].message_id
        again = Settlement(
            message_id, mine.id, taken.token, from_row=True, log=self.failed(), due_at=NOW + 10, attempts=1, lines=1
        )
        self.assertEqual(0, self.storage.settle([again]))
        self.clock.now = NOW + 10
        self.assertEqual([Row(message_id, mine.id, 1, 1)], self.rows(self.take(worker)))


class EncryptionConformance(StorageCase):
    BODY = '{"x": "é"}'.encode()

    def have_encryption(self) -> ChangingKeyring:
        keyring = ChangingKeyring([OLD_KEY])
        self.storage = self.open(keyring=keyring)
        self.storage.put_queue("p", "q", {"_enable_encrypt_messages": True})
        return keyring

    def post(self, **fields: Any) -> str:
        return self.storage.publish("p", "q", [Draft(self.BODY, 300, {"k": 1}, **fields)], "me")[0]

    def read(self, message_id: str, queue: str = "q") -> list[Any]:
        """By all methods that leave it where it is."""
        found = [
            self.storage.get_message("p", queue, message_id),
            *(one for one in self.storage.list_messages("p", queue, None, 99) if one.id == message_id),
            self.storage.load([message_id], []).messages[message_id],
        ]
        claim, messages = self.storage.claim("p", queue, 99, 60, 60)
        found += [one for one in messages if one.id == message_id]
        found += [one for one in self.storage.get_claim("p", queue, claim.id)[1] if one.id == message_id]
        self.storage.release_claim("p", queue, claim.id)
        self.assertEqual(5, len(found))
        return found

    def assert_readable(self, message_id: str, queue: str = "q") -> None:
        for message in self.read(message_id, queue):
            self.assertEqual((self.BODY, False), (message.body_json, message.sealed))

    def assert_sealed(self, message_id: str) -> None:
        for message in self.read(message_id):
            self.assertEqual((b"", True), (message.body_json, message.sealed))
            self.assertEqual(
                ("p", "q", "me", {"k": 1}), (message.project, message.queue, message.client_id, message.attributes)
            )

    def test_everyone_reads_plain_text(self) -> None:
        self.have_encryption()
        message_id = self.post()
        self.assert_readable(message_id)
        popped = self.storage.pop_messages("p", "q", 9)
        self.assertEqual([(message_id, self.BODY, False)], [(one.id, one.body_json, one.sealed) for one in popped])
        self.assertEqual(self.BODY, self.storage.load([message_id], []).messages[message_id].body_json)

    def test_the_metadata_may_change(self) -> None:
        keyring = self.have_encryption()
        given = []
        for metadata in ({"_enable_encrypt_messages": flag} for flag in (False, True, None, "yes", 1, [])):
            self.storage.put_queue("p", "q", metadata)
            given.append(self.post())
        for message_id in given:
            self.assert_readable(message_id)
        keyring.replace(NEW_KEY)
        found = self.storage.list_messages("p", "q", None, 99)
        self.assertEqual([False, True], [message.sealed for message in found][:2])

    def test_each_queue_has_its_own_choice(self) -> None:
        keyring = self.have_encryption()
        plain = self.publish(queue="r")[0]
        self.publish(project="o")
        sealed = self.post()
        keyring.replace(NEW_KEY)
        self.assert_sealed(sealed)
        self.assertEqual({"n": 0}, self.storage.get_message("p", "r", plain).body)
        self.assertEqual([{"n": 0}], [message.body for message in self.storage.list_messages("o", "q", None, 9)])

    def test_keys_can_be_rotated(self) -> None:
        keyring = self.have_encryption()
        old = self.post()
        keyring.replace(NEW_KEY, OLD_KEY)
        self.assert_readable(old)
        new = self.post()
        keyring.replace(NEW_KEY)
        self.assertEqual([True, False], [message.sealed for message in self.storage.list_messages("p", "q", None, 9)])
        self.assert_readable(new)

    def test_a_lost_key_seals_and_loses_nothing(self) -> None:
        keyring = self.have_encryption()
        mine = self.subscribe()
        message_id = self.post()
        keyring.replace(NEW_KEY)
        self.assert_sealed(message_id)
        self.assertEqual(State.PENDING, self.state(message_id, mine.id))
        self.assertEqual(message_id, self.storage.stats("p", "q").oldest.id)
        keyring.replace(OLD_KEY)
        self.assert_readable(message_id)

    def test_a_sealed_one_is_popped_and_deleted_like_others(self) -> None:
        keyring = self.have_encryption()
        popped, deleted = self.post(), self.post()
        keyring.replace(NEW_KEY)
        found = self.storage.pop_messages("p", "q", 1)
        self.assertEqual([(popped, b"", True)], [(one.id, one.body_json, one.sealed) for one in found])
        self.storage.delete_message("p", "q", deleted)
        self.assertEqual([], self.listed())

    def test_what_a_settlement_publishes(self) -> None:
        keyring = self.have_encryption()
        mine = self.subscribe(queue="plain")
        message_id = self.publish(queue="plain")[0]
        token = self.take(self.storage.join()).token
        posts = (("q", Draft(self.BODY, 60)), ("plain", Draft(self.BODY, 60)))
        end = Settlement(message_id, mine.id, token, from_row=False, log=self.delivered(), publish=posts)
        self.assertEqual(0, self.storage.settle([end], [Closing(message_id, token)]))
        self.assert_readable(self.listed()[0])
        keyring.replace(NEW_KEY)
        self.assertEqual([True], [message.sealed for message in self.storage.list_messages("p", "q", None, 9)])
        self.assertEqual([False] * 2, [message.sealed for message in self.storage.list_messages("p", "plain", None, 9)])

    def test_an_alert_shows_no_more_at_rest_than_the_message_that_it_is_about(self) -> None:
        keyring = self.have_encryption()
        for queue in ("q", "plain"):
            mine = self.subscribe(queue=queue)
            message_id = self.publish(queue=queue)[0]
            token = self.take(self.storage.join()).token
            alerts = (Alert(f"dead:{queue}", f"alerts-{queue}", Draft(self.BODY, 60)),)
            failure = Failure(
                self.clock.now, True, 1, 9.0, "strikes", "time", Alert(mine.id, f"alerts-{queue}", alerts[0].draft)
            )
            end = Settlement(message_id, mine.id, token, False, self.delivered(), alerts=alerts, failure=failure)
            self.assertEqual(0, self.storage.settle([end], [Closing(message_id, token)]))
            for alert in self.listed(f"alerts-{queue}"):
                self.assert_readable(alert, f"alerts-{queue}")
        keyring.replace(NEW_KEY)
        for queue, sealed in (("q", True), ("plain", False)):
            found = self.storage.list_messages("p", f"alerts-{queue}", None, 9)
            self.assertEqual([sealed] * 2, [alert.sealed for alert in found])

    def test_held_ones_and_confirmations(self) -> None:
        keyring = self.have_encryption()
        held = self.storage.hold("p", "q", [Draft(self.BODY, 300)], None, 30)[0]
        self.storage.subscribe(self.subscription(), lambda subscription: Draft(self.BODY, 300))
        asking = self.take(self.storage.join()).rows[0].message_id
        for lost in (False, True):
            loaded = self.storage.load([held, asking], []).messages
            expected = (b"", True) if lost else (self.BODY, False)
            self.assertEqual([expected] * 2, [(loaded[one].body_json, loaded[one].sealed) for one in (held, asking)])
            keyring.replace(NEW_KEY)

    def test_dead_letters_between_encrypted_and_plain_queues(self) -> None:
        for source in (False, True):
            for target in (False, True):
                keyring = self.have_encryption()
                dead = f"dead-{source}-{target}"
                reserved = {"_max_claim_count": 1, "_dead_letter_queue": dead}
                self.storage.put_queue("p", "q", {"_enable_encrypt_messages": source, **reserved})
                self.storage.put_queue("p", dead, {"_enable_encrypt_messages": target})
                self.storage.purge_messages("p", "q")
                self.post()
                self.storage.release_claim("p", "q", self.claim()[0])
                self.assertIsNone(self.storage.claim("p", "q", 9, 60, 60))
                self.assert_readable(self.listed(dead)[0], dead)
                keyring.replace(NEW_KEY)
                self.assertEqual([target], [one.sealed for one in self.storage.list_messages("p", dead, None, 9)])

    def test_a_sealed_dead_letter_is_not_lost(self) -> None:
        keyring = self.have_encryption()
        self.storage.put_queue(
            "p", "q", {"_enable_encrypt_messages": True, "_max_claim_count": 1, "_dead_letter_queue": "dead"}
        )
        self.post()
        self.storage.release_claim("p", "q", self.claim()[0])
        keyring.replace(NEW_KEY)
        self.storage.claim("p", "q", 9, 60, 60)
        keyring.replace(OLD_KEY)
        found = [one for queue in ("q", "dead") for one in self.storage.list_messages("p", queue, None, 9, claimed=True)]
        self.assertEqual([(self.BODY, False)], [(one.body_json, one.sealed) for one in found])

    def test_a_dropped_body_is_not_sealed(self) -> None:
        keyring = ChangingKeyring([OLD_KEY])
        self.storage = self.open(keyring=keyring, body_retention=100.0)
        self.storage.put_queue("p", "q", {"_enable_encrypt_messages": True})
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, log=self.delivered(), ttl=60)
        self.clock.now += 110
        self.prune_all()
        keyring.replace(NEW_KEY)
        message = self.storage.load([message_id], []).messages[message_id]
        self.assertEqual((b"", False), (message.body_json, message.sealed))

    def test_odd_bodies(self) -> None:
        self.have_encryption()
        bodies = [b'""', b"0", b"null", b'"' + b"x" * 100_000 + b'"']
        given = self.storage.publish("p", "q", [Draft(body, 300) for body in bodies])
        found = self.storage.list_messages("p", "q", None, 9)
        self.assertEqual(list(zip(given, bodies, strict=True)), [(one.id, one.body_json) for one in found])

    def test_the_usual_keyring_will_do(self) -> None:
        self.storage = self.open(keyring=make_keyring())
        self.storage.put_queue("p", "q", {"_enable_encrypt_messages": True})
        self.assert_readable(self.post())


class HiddenConformance(HoldConformance, ConfirmationConformance, EncryptionConformance):
    pass
