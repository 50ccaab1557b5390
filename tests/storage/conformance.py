"""What every storage has to do. A driver's tests are a class of `StorageConformance` with `make_storage`."""

from __future__ import annotations

import collections
import itertools
import threading
from typing import Any

from testtools.matchers import Equals

from tests.storage.conformance_again import (
    CancelConformance,
    ExchangeConformance,
    PingConformance,
    RedeliveryConformance,
    RetentionConformance,
    RowExpiryConformance,
)
from tests.storage.conformance_claims import ClaimsConformance
from tests.storage.conformance_cluster import JobsConformance, MembersConformance, RangesConformance
from tests.storage.conformance_expired import ExpiredRowConformance
from tests.storage.conformance_hidden import HiddenConformance
from tests.storage.conformance_queues import QueuesConformance
from tests.storage.conformance_trust import (
    AlertConformance,
    BreakerConformance,
    DepthsConformance,
    FailureConformance,
    FairnessConformance,
)
from tests.storage.contract import (
    LANE,
    LEASE,
    MALFORMED,
    NOW,
    OTHER_SECRET,
    RETENTION,
    SECRET,
    UNKNOWN,
    Clock,
    StorageCase,
    make_keyring,
)
from zaqar_notify.errors import Conflict, InvalidRequest
from zaqar_notify.model import Disabled, Draft, LaneKey, Outcome, OutcomeKind, State
from zaqar_notify.storage.base import MOST_LINES, Closing, Entry, Row, Settlement

__all__ = ["LANE", "NOW", "OTHER_SECRET", "RETENTION", "SECRET", "Clock", "StorageCase", "StorageConformance", "make_keyring"]


class QueueConformance(StorageCase):
    def test_put_get_replace(self) -> None:
        self.assertIsNone(self.storage.get_queue("p", "q"))
        self.assertTrue(self.storage.put_queue("p", "q", {"a": [1, {"b": None}]}))
        found = self.storage.get_queue("p", "q")
        self.assertEqual(
            ("p", "q", {"a": [1, {"b": None}]}, NOW), (found.project, found.name, found.metadata, found.created_at)
        )
        self.clock.now += 5
        self.assertFalse(self.storage.put_queue("p", "q", {}))
        self.assertEqual(({}, NOW), (self.storage.get_queue("p", "q").metadata, self.storage.get_queue("p", "q").created_at))

    def test_another_project_does_not_see_it(self) -> None:
        self.storage.put_queue("p", "q", {"mine": 1})
        self.assertIsNone(self.storage.get_queue("other", "q"))
        self.assertEqual([], self.storage.list_queues("other", None, 10))
        self.storage.delete_queue("other", "q")
        self.assertIsNotNone(self.storage.get_queue("p", "q"))

    def test_list_pages_by_name(self) -> None:
        for name in ("c", "a", "B", "d"):
            self.storage.put_queue("p", name, {})
        names = []
        marker = None
        while page := self.storage.list_queues("p", marker, 3):
            self.assertTrue(len(page) <= 3)
            names += [queue.name for queue in page]
            marker = names[-1]
        self.assertEqual(["B", "a", "c", "d"], names)

    def test_delete_takes_messages_and_leaves_subscriptions(self) -> None:
        subscription = self.subscribe()
        message_id = self.publish()[0]
        self.storage.delete_queue("p", "q")
        self.storage.delete_queue("p", "q")
        self.assertIsNone(self.storage.get_queue("p", "q"))
        self.assertIsNone(self.storage.get_message("p", "q", message_id))
        self.assertEqual({}, self.storage.load([message_id], []).messages)
        self.assertEqual(subscription, self.storage.get_subscription("p", "q", subscription.id))

    def test_a_queue_made_again_has_none_of_the_old_messages(self) -> None:
        old = self.publish()[0]
        self.storage.delete_queue("p", "q")
        new = self.publish()[0]
        self.assertEqual([new], [message.id for message in self.storage.list_messages("p", "q", None, 10)])
        self.assertIsNone(self.storage.get_message("p", "q", old))
        self.storage.delete_message("p", "q", old)

    def test_deleting_cancels_what_has_not_ended_and_keeps_what_has(self) -> None:
        subscription, other = self.subscribe(), self.subscribe("http://b/")
        message_id = self.publish()[0]
        taken = self.take(self.storage.join())
        done = Settlement(message_id, subscription.id, taken.token, from_row=False, log=self.delivered())
        waits = Settlement(message_id, other.id, taken.token, from_row=False, log=self.failed(), due_at=NOW + 9, lines=1)
        self.storage.settle([done, waits], [Closing(message_id, taken.token)])
        self.storage.delete_queue("p", "q")
        self.assertEqual(State.DELIVERED, self.state(message_id, subscription.id))
        self.assertEqual(State.CANCELLED, self.state(message_id, other.id))
        self.assertIsNone(self.delivery(message_id, other.id).next_attempt_at)


class MessageConformance(StorageCase):
    def test_the_envelope_comes_back(self) -> None:
        parent = self.publish()[0]
        draft = Draft(b'{"x": "\xc3\xa9"}', 60, {"kind": "a", "n": 1.5, "ok": True, "tags": ["x"]}, parent)
        client = "00000000-0000-0000-0000-000000000001"
        message_id = self.storage.publish("p", "q", [draft], client)[0]
        for message in (
            self.storage.get_message("p", "q", message_id),
            self.storage.list_messages("p", "q", parent, 10)[0],
            self.storage.load([message_id], []).messages[message_id],
        ):
            self.assertEqual(message_id, message.id)
            self.assertEqual(("p", "q", client, parent), (message.project, message.queue, message.client_id, message.parent_id))
            self.assertEqual((60, NOW, NOW + 60, 1), (message.ttl, message.created_at, message.expires_at, message.version))
            self.assertEqual({"x": "é"}, message.body)
            self.assertEqual(draft.body_json, message.body_json)
            self.assertEqual(dict(draft.attributes), message.attributes)

    def test_publishing_makes_the_queue(self) -> None:
        self.publish()
        self.assertEqual({}, self.storage.get_queue("p", "q").metadata)

    def test_publishing_nothing(self) -> None:
        self.assertEqual([], self.storage.publish("p", "q", []))
        self.assertEqual([], self.storage.list_messages("p", "q", None, 10))

    def test_publishing_keeps_the_metadata(self) -> None:
        self.storage.put_queue("p", "q", {"a": 1})
        self.publish()
        self.assertEqual({"a": 1}, self.storage.get_queue("p", "q").metadata)

    def test_ids_rise_also_when_the_clock_jumps_back(self) -> None:
        given = []
        for jump in (0, 0, 5, -100_000, 0, 200_000, -1):
            self.clock.now += jump
            given += self.publish(3)
        self.assertEqual(sorted(set(given)), given)
        self.assertTrue(all(len(one) == 16 and one == one.lower() and int(one, 16) < 2**63 for one in given))

    def test_ids_rise_above_pruned_ones(self) -> None:
        first = self.publish(3)
        self.take(self.storage.join())
        self.close_all()
        self.clock.now += 400
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", first[-1], None, 10))
        self.clock.now -= 100_000
        self.assertTrue(self.publish()[0] > first[-1])

    def close_all(self) -> None:
        self.clock.now += LEASE + 1
        taken = self.take(self.storage.join())
        self.storage.settle([], [Closing(entry.message_id, taken.token) for entry in taken.entries])

    def test_expired_ones_are_not_read(self) -> None:
        short = self.publish(ttl=60)[0]
        long = self.publish(ttl=120)[0]
        self.clock.now += 60
        self.assertIsNone(self.storage.get_message("p", "q", short))
        self.assertEqual([long], [message.id for message in self.storage.list_messages("p", "q", None, 10)])
        self.prune_all()
        self.assertEqual([long], [message.id for message in self.storage.list_messages("p", "q", None, 10)])

    def test_listing_pages_in_order_and_passes_over_others(self) -> None:
        mine, theirs = [], []
        for _ in range(5):
            mine += self.publish(client_id="me")
            theirs += self.publish(client_id="they")
        self.publish(queue="other")
        self.publish(project="other")
        without = self.publish()
        found: list[str] = []
        while page := self.storage.list_messages("p", "q", found[-1] if found else None, 2, "me"):
            self.assertTrue(len(page) <= 2)
            found += [message.id for message in page]
        self.assertEqual(theirs + without, found)
        self.assertEqual(11, len(self.storage.list_messages("p", "q", None, 100)))
        self.assertEqual([], self.storage.list_messages("p", "q", without[0], 100))

    def test_malformed_markers_and_ids_of_messages(self) -> None:
        self.publish()
        for bad in MALFORMED[1:]:
            self.assertRaises(InvalidRequest, self.storage.list_messages, "p", "q", bad, 10)
        for bad in (*MALFORMED, UNKNOWN):
            self.assertIsNone(self.storage.get_message("p", "q", bad))
            self.assertIsNone(self.storage.message_deliveries("p", "q", bad, None, 10))
            self.storage.delete_message("p", "q", bad)

    def test_another_project_or_queue_cannot_touch_a_message(self) -> None:
        message_id = self.publish()[0]
        self.publish(queue="r")
        self.publish(project="o")
        for project, queue in (("o", "q"), ("p", "r"), ("p", "none")):
            self.assertIsNone(self.storage.get_message(project, queue, message_id))
            self.assertIsNone(self.storage.message_deliveries(project, queue, message_id, None, 10))
            self.storage.delete_message(project, queue, message_id)
        self.assertIsNotNone(self.storage.get_message("p", "q", message_id))

    def test_deleting_hides_it_and_its_deliveries_go_on(self) -> None:
        subscription = self.subscribe()
        message_id = self.publish()[0]
        self.storage.delete_message("p", "q", message_id)
        self.storage.delete_message("p", "q", message_id)
        self.assertIsNone(self.storage.get_message("p", "q", message_id))
        self.assertEqual([], self.storage.list_messages("p", "q", None, 10))
        taken = self.take(self.storage.join())
        self.assertEqual([message_id], [entry.message_id for entry in taken.entries])
        self.assertIn(message_id, self.storage.load([message_id], []).messages)
        done = Settlement(message_id, subscription.id, taken.token, from_row=False, log=self.delivered())
        self.storage.settle([done], [Closing(message_id, taken.token)])
        self.assertEqual(State.DELIVERED, self.state(message_id, subscription.id))

    def test_threads_lose_nothing_and_readers_behind_a_marker_miss_nothing(self) -> None:
        given: list[str] = []
        seen: list[str] = []
        running = threading.Event()
        running.set()

        def publish() -> None:
            for _ in range(25):
                given.extend(self.publish(2))

        def read() -> None:
            last = False
            while not last:
                last = not running.is_set()
                while page := self.storage.list_messages("p", "q", seen[-1] if seen else None, 7):
                    seen.extend(message.id for message in page)

        writers = [threading.Thread(target=publish) for _ in range(4)]
        reader = threading.Thread(target=read)
        for thread in (reader, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        running.clear()
        reader.join()
        self.assertEqual(200, len(set(given)))
        self.assertEqual(sorted(given), seen)


class SubscriptionConformance(StorageCase):
    def test_it_comes_back(self) -> None:
        asked = self.subscription(
            "http://a/?x=1", ttl=60, options={"post_headers": {"a": "b"}}, secret=SECRET, secret_made=True
        )
        made = self.storage.subscribe(asked)
        self.assertTrue(made.created)
        self.assertTrue(made.secret_is_new)
        subscription = made.subscription
        self.assertEqual(("p", "q", "http://a/?x=1"), (subscription.project, subscription.queue, subscription.subscriber))
        self.assertEqual((60, NOW, NOW + 60), (subscription.ttl, subscription.created_at, subscription.expires_at))
        self.assertEqual({"post_headers": {"a": "b"}}, subscription.options)
        self.assertEqual((SECRET, True), (subscription.secret, subscription.secret_made))
        self.assertEqual((False, None), (subscription.confirmed, subscription.disabled))
        self.assertEqual(subscription, self.storage.get_subscription("p", "q", subscription.id))
        self.assertEqual([subscription], self.storage.list_subscriptions("p", "q", None, 10))
        self.assertEqual({subscription.id: subscription}, self.storage.load([], [subscription.id]).subscriptions)
        self.assertIsNotNone(self.storage.get_queue("p", "q"))

    def test_without_a_secret_none_is_new(self) -> None:
        made = self.storage.subscribe(self.subscription("log:"))
        self.assertEqual((False, None, None), (made.secret_is_new, made.subscription.secret, made.subscription.expires_at))

    def test_a_given_secret_is_not_told_again(self) -> None:
        made = self.storage.subscribe(self.subscription(secret=SECRET))
        self.assertEqual((False, SECRET), (made.secret_is_new, made.subscription.secret))

    def test_again_replaces_ttl_and_options_and_keeps_the_id(self) -> None:
        first = self.subscribe(ttl=60, options={"a": 1})
        self.clock.now += 10
        again = self.storage.subscribe(self.subscription(ttl=600, options={"b": 2}))
        self.assertEqual((False, first.id), (again.created, again.subscription.id))
        self.assertEqual((600, {"b": 2}), (again.subscription.ttl, again.subscription.options))
        self.assertEqual(self.clock.now + 600, again.subscription.expires_at)
        self.assertEqual(again.subscription, self.storage.get_subscription("p", "q", first.id))

    def test_again_when_confirmed_is_a_conflict(self) -> None:
        self.subscribe(confirmed=True)
        self.assertRaises(Conflict, self.storage.subscribe, self.subscription())
        self.assertTrue(self.storage.subscribe(self.subscription(queue="r")).created)
        self.assertTrue(self.storage.subscribe(self.subscription(project="o")).created)

    def test_again_a_made_secret_is_replaced_until_it_has_signed(self) -> None:
        first = self.subscribe(secret=SECRET, secret_made=True)
        asked = self.subscription(secret=OTHER_SECRET, secret_made=True)
        again = self.storage.subscribe(asked)
        self.assertEqual((True, OTHER_SECRET), (again.secret_is_new, again.subscription.secret))
        message_id, worker = self.entry_into_row(first.id, log=self.failed(), due_at=NOW + 10, attempts=1, lines=1)
        again = self.storage.subscribe(self.subscription(secret=SECRET, secret_made=True))
        self.assertEqual((False, OTHER_SECRET), (again.secret_is_new, again.subscription.secret))
        self.clock.now += 20
        token = self.take(worker).token
        self.storage.settle([Settlement(message_id, first.id, token, from_row=True, log=self.delivered(2))])
        again = self.storage.subscribe(self.subscription(secret=SECRET, secret_made=True))
        self.assertEqual((False, OTHER_SECRET), (again.secret_is_new, again.subscription.secret))

    def test_an_end_without_an_attempt_has_signed_nothing(self) -> None:
        first = self.subscribe(secret=SECRET, secret_made=True)
        self.entry_into_row(first.id, log=self.attempt(1, State.SUPPRESSED))
        again = self.storage.subscribe(self.subscription(secret=OTHER_SECRET, secret_made=True))
        self.assertEqual((True, OTHER_SECRET), (again.secret_is_new, again.subscription.secret))

    def test_again_a_given_secret_always_replaces(self) -> None:
        first = self.subscribe(secret=SECRET, secret_made=True)
        self.entry_into_row(first.id, log=self.delivered())
        again = self.storage.subscribe(self.subscription(secret=OTHER_SECRET))
        self.assertEqual(
            (False, OTHER_SECRET, False), (again.secret_is_new, again.subscription.secret, again.subscription.secret_made)
        )
        # And a made one never replaces a given one.
        again = self.storage.subscribe(self.subscription(secret=SECRET, secret_made=True))
        self.assertEqual(
            (False, OTHER_SECRET, False), (again.secret_is_new, again.subscription.secret, again.subscription.secret_made)
        )

    def test_over_an_expired_one_a_new_one_is_made(self) -> None:
        old = self.subscribe(ttl=60, secret=SECRET)
        self.clock.now += 60
        new = self.storage.subscribe(self.subscription(ttl=60))
        self.assertTrue(new.created)
        self.assertNotEqual(old.id, new.subscription.id)
        self.assertIsNone(new.subscription.secret)
        self.assertEqual([new.subscription], self.storage.list_subscriptions("p", "q", None, 10))

    def test_listing_pages_oldest_first_and_passes_over_expired_ones(self) -> None:
        expected = []
        for number in range(12):
            ttl = 60 if number % 3 else None
            made = self.subscribe(f"http://{number}/", ttl=ttl)
            expected += [made.id] if ttl is None else []
        self.subscribe("http://x/", queue="r")
        self.subscribe("http://x/", project="o")
        self.clock.now += 60
        for pruned in (False, True):
            found: list[str] = []
            while page := self.storage.list_subscriptions("p", "q", found[-1] if found else None, 3):
                found += [one.id for one in page]
            self.assertEqual(expected, found, f"pruned: {pruned}")
            self.prune_all()

    def test_malformed_markers_and_ids_of_subscriptions(self) -> None:
        self.subscribe()
        for bad in MALFORMED[1:]:
            self.assertRaises(InvalidRequest, self.storage.list_subscriptions, "p", "q", bad, 10)
        for bad in (*MALFORMED, UNKNOWN):
            self.assertIsNone(self.storage.get_subscription("p", "q", bad))
            self.assertIsNone(self.storage.update_subscription("p", "q", bad, {"ttl": 60}))
            self.assertIsNone(self.storage.subscription_deliveries("p", "q", bad, None, 10))
            self.storage.delete_subscription("p", "q", bad)

    def test_another_project_or_queue_cannot_touch_a_subscription(self) -> None:
        mine = self.subscribe()
        for project, queue in (("o", "q"), ("p", "r")):
            self.assertIsNone(self.storage.get_subscription(project, queue, mine.id))
            self.assertIsNone(self.storage.update_subscription(project, queue, mine.id, {"ttl": 60}))
            self.assertIsNone(self.storage.subscription_deliveries(project, queue, mine.id, None, 10))
            self.storage.delete_subscription(project, queue, mine.id)
        self.assertEqual(mine, self.storage.get_subscription("p", "q", mine.id))

    def test_updating(self) -> None:
        mine = self.subscribe(ttl=60, options={"a": 1}, secret=SECRET, secret_made=True)
        self.clock.now += 10
        why = Disabled("gone", self.clock.now, "operator")
        changed = self.storage.update_subscription(
            "p", "q", mine.id, {"subscriber": "http://b/", "options": {}, "disabled": why}
        )
        self.assertEqual(("http://b/", {}, why), (changed.subscriber, changed.options, changed.disabled))
        self.assertEqual((60, mine.created_at, mine.expires_at), (changed.ttl, changed.created_at, changed.expires_at))
        self.assertEqual((SECRET, True), (changed.secret, changed.secret_made))
        changed = self.storage.update_subscription(
            "p", "q", mine.id, {"ttl": 120, "disabled": None, "secret": OTHER_SECRET, "secret_made": False}
        )
        self.assertEqual((120, self.clock.now, self.clock.now + 120), (changed.ttl, changed.created_at, changed.expires_at))
        self.assertEqual((OTHER_SECRET, False, None), (changed.secret, changed.secret_made, changed.disabled))
        changed = self.storage.update_subscription("p", "q", mine.id, {"ttl": None})
        self.assertEqual((None, None), (changed.ttl, changed.expires_at))
        self.assertEqual(changed, self.storage.get_subscription("p", "q", mine.id))
        self.assertEqual(changed, self.storage.update_subscription("p", "q", mine.id, {}))

    def test_a_longer_ttl_outlives_the_old_one(self) -> None:
        mine = self.subscribe(ttl=60)
        self.storage.update_subscription("p", "q", mine.id, {"ttl": 600})
        self.clock.now += 100
        self.prune_all()
        self.assertIsNotNone(self.storage.get_subscription("p", "q", mine.id))
        self.storage.update_subscription("p", "q", mine.id, {"ttl": None})
        self.clock.now += 10_000
        self.prune_all()
        self.assertIsNotNone(self.storage.get_subscription("p", "q", mine.id))

    def test_updating_to_a_taken_subscriber_is_a_conflict(self) -> None:
        self.subscribe("http://a/")
        expiring = self.subscribe("http://b/", ttl=60)
        mine = self.subscribe("http://c/")
        for taken in ("http://a/", "http://b/"):
            self.assertRaises(Conflict, self.storage.update_subscription, "p", "q", mine.id, {"subscriber": taken})
        self.assertEqual("http://c/", self.storage.get_subscription("p", "q", mine.id).subscriber)
        self.clock.now += 100
        self.assertEqual(
            "http://b/", self.storage.update_subscription("p", "q", mine.id, {"subscriber": "http://b/"}).subscriber
        )
        self.assertIsNone(self.storage.get_subscription("p", "q", expiring.id))

    def test_an_expired_one_is_gone_for_clients_and_loaded_for_the_worker(self) -> None:
        mine = self.subscribe(ttl=60)
        self.clock.now += 60
        for pruned in (False, True):
            self.assertIsNone(self.storage.get_subscription("p", "q", mine.id))
            self.assertIsNone(self.storage.update_subscription("p", "q", mine.id, {"ttl": 60}))
            self.assertIn(mine.id, self.storage.load([], [mine.id]).subscriptions, f"pruned: {pruned}")
            self.prune_all()

    def test_deleting(self) -> None:
        mine = self.subscribe()
        self.storage.delete_subscription("p", "q", mine.id)
        self.storage.delete_subscription("p", "q", mine.id)
        self.assertIsNone(self.storage.get_subscription("p", "q", mine.id))
        self.assertEqual({}, self.storage.load([], [mine.id, UNKNOWN, "bad"]).subscriptions)
        self.assertEqual([], self.storage.list_subscriptions("p", "q", None, 10))
        self.assertNotEqual(mine.id, self.subscribe().id)

    def test_deleting_cancels_what_has_not_ended(self) -> None:
        mine = self.subscribe()
        message_id, worker = self.entry_into_row(mine.id, log=self.failed(), due_at=NOW + 10, attempts=1, lines=1)
        self.storage.delete_subscription("p", "q", mine.id)
        self.assertEqual(State.CANCELLED, self.state(message_id, mine.id))
        self.clock.now += 20
        taken = self.take(worker)
        end = self.attempt(2, State.CANCELLED)
        self.storage.settle([Settlement(message_id, mine.id, taken.token, from_row=True, log=end)])
        self.assertEqual((State.CANCELLED, 2), (self.state(message_id, mine.id), len(self.delivery(message_id, mine.id).log)))


class LedgerConformance(StorageCase):
    """Taking, settling, ending leases."""

    def test_taking_an_entry(self) -> None:
        given = self.publish(5)
        worker = self.storage.join()
        taken = self.take(worker, entries=3)
        self.assertEqual([Entry(one, None, 1) for one in given[:3]], taken.entries)
        self.assertEqual([Entry(one, None, 1) for one in given[3:]], self.take(worker).entries)
        nothing = self.take(worker)
        self.assertEqual(([], [], []), (list(nothing.entries), list(nothing.rows), list(nothing.lanes)))

    def test_nothing_is_taken_when_nothing_is_asked_for(self) -> None:
        self.publish()
        worker = self.storage.join()
        self.assertEqual([], list(self.take(worker, entries=0, rows=0).entries))
        self.assertEqual(1, len(self.take(worker).entries))

    def test_tokens_differ_between_takes_and_workers(self) -> None:
        one, other = self.storage.join(), self.storage.join()
        self.assertNotEqual(one, other)
        self.publish(4)
        tokens = [self.take(worker, entries=1).token for worker in (one, other, one, other)]
        self.assertEqual(4, len(set(tokens)))

    def test_a_lease_that_ends_is_taken_again(self) -> None:
        message_id = self.publish()[0]
        one, other = self.storage.join(), self.storage.join()
        self.take(one)
        self.clock.now += LEASE - 0.001
        self.assertEqual([], list(self.take(other).entries))
        self.clock.now += 0.001
        self.assertEqual([Entry(message_id, None, 2)], self.take(other).entries)

    def test_whoever_lost_the_lease_settles_nothing(self) -> None:
        mine, other = self.subscribe(), self.subscribe("http://b/")
        message_id = self.publish()[0]
        one, two = self.storage.join(), self.storage.join()
        lost = self.take(one)
        self.clock.now += LEASE
        won = self.take(two)
        late = [
            Settlement(message_id, mine.id, lost.token, from_row=False, log=self.delivered()),
            Settlement(
                message_id,
                other.id,
                lost.token,
                from_row=False,
                log=self.failed(),
                due_at=NOW,
                disable=Disabled("no", NOW),
                publish=(("dead", Draft(b"1", 60)),),
            ),
        ]
        self.assertEqual(2, self.storage.settle(late, [Closing(message_id, lost.token)]))
        self.assertEqual((), self.delivery(message_id, mine.id).log)
        self.assertEqual(set(), self.storage.known(message_id, None))
        self.assertIsNone(self.storage.get_subscription("p", "q", other.id).disabled)
        self.assertIsNone(self.storage.get_queue("p", "dead"))
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, mine.id))
        done = Settlement(message_id, mine.id, won.token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(message_id, won.token)]))
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))

    def test_whoever_lost_a_row_settles_nothing(self) -> None:
        mine = self.subscribe()
        message_id, one = self.entry_into_row(mine.id, log=self.failed(), due_at=NOW + 10, attempts=1, lines=1)
        self.clock.now += 11
        lost = self.take(one)
        self.clock.now += LEASE
        won = self.take(self.storage.join())
        self.assertEqual([Row(message_id, mine.id, 1, 1)], self.rows(won))
        late = Settlement(message_id, mine.id, lost.token, from_row=True, log=self.delivered(2))
        self.assertEqual(1, self.storage.settle([late]))
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, mine.id))
        self.assertEqual(
            0, self.storage.settle([Settlement(message_id, mine.id, won.token, from_row=True, log=self.delivered(2))])
        )
        again = Settlement(message_id, mine.id, won.token, from_row=True, log=self.delivered(2))
        self.assertEqual(1, self.storage.settle([again]))
        self.assertEqual(2, len(self.delivery(message_id, mine.id).log))

    def test_one_lost_settlement_does_not_harm_the_others(self) -> None:
        mine = self.subscribe()
        given = self.publish(2)
        taken = self.take(self.storage.join())
        settlements = [
            Settlement(given[0], mine.id, taken.token, from_row=False, log=self.delivered()),
            Settlement(given[1], mine.id, taken.token + 1, from_row=False, log=self.delivered()),
            Settlement(UNKNOWN, mine.id, taken.token, from_row=False, log=self.delivered()),
            Settlement(given[1], mine.id, taken.token, from_row=True, log=self.delivered()),
            Settlement("bad", "bad", taken.token, from_row=True, log=self.delivered()),
        ]
        self.assertEqual(4, self.storage.settle(settlements))
        self.assertEqual(State.DELIVERED, self.state(given[0], mine.id))
        self.assertEqual(State.IN_FLIGHT, self.state(given[1], mine.id))

    def test_the_log_says_what_was_said(self) -> None:
        mine = self.subscribe()
        message_id, worker = self.entry_into_row(mine.id, log=self.failed(), due_at=NOW + 5, attempts=1, lines=1)
        self.clock.now += 6.125
        token = self.take(worker).token
        second = self.attempt(2, State.PENDING, OutcomeKind.THROTTLED)
        self.storage.settle(
            [Settlement(message_id, mine.id, token, from_row=True, log=second, due_at=NOW + 20, attempts=1, lines=2)]
        )
        self.clock.now += 20
        taken = self.take(worker)
        self.assertEqual([Row(message_id, mine.id, 1, 2)], self.rows(taken))
        third = self.delivered(3)
        self.storage.settle([Settlement(message_id, mine.id, taken.token, from_row=True, log=third)])
        record = self.delivery(message_id, mine.id)
        self.assertEqual((State.DELIVERED, None), (record.state, record.next_attempt_at))
        self.assertEqual([1, 2, 3], [line.number for line in record.log])
        first = record.log[0]
        self.assertEqual(
            (State.PENDING, OutcomeKind.RETRY, 500, 1.5, "500 Oops"),
            (first.state, first.outcome, first.status, first.duration, first.detail),
        )
        for line, expected in zip(record.log[1:], (second, third), strict=True):
            self.assertThat(abs(line.at - expected.at) <= 0.001, Equals(True))
            self.assertEqual(
                (expected.state, expected.outcome, expected.status, expected.duration, expected.detail),
                (line.state, line.outcome, line.status, line.duration, line.detail),
            )

    def test_the_last_lines_of_a_long_log(self) -> None:
        mine, other = self.subscribe(), self.subscribe("http://b/")
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        tried = [
            Settlement(message_id, of.id, token, from_row=False, log=self.failed(number), due_at=NOW + 99, lines=number)
            for of, most in ((mine, MOST_LINES + 25), (other, 3))
            for number in range(1, most + 1)
        ]
        self.assertEqual(0, self.storage.settle(tried, [Closing(message_id, token)]))
        self.assertEqual(list(range(26, MOST_LINES + 26)), [line.number for line in self.delivery(message_id, mine.id).log])
        self.assertEqual([1, 2, 3], [line.number for line in self.delivery(message_id, other.id).log])

    def test_every_state_and_outcome_can_be_stored(self) -> None:
        mine = self.subscribe()
        lines = [(State.DEAD, outcome) for outcome in (None, *OutcomeKind)] + [(state, None) for state in State if state.ended]
        given = self.publish(len(lines))
        token = self.take(self.storage.join()).token
        self.storage.settle(
            [
                Settlement(one, mine.id, token, from_row=False, log=self.attempt(1, state, outcome))
                for one, (state, outcome) in zip(given, lines, strict=True)
            ]
        )
        for one, (state, outcome) in zip(given, lines, strict=True):
            record = self.delivery(one, mine.id)
            self.assertEqual((state, state, outcome), (record.state, record.log[0].state, record.log[0].outcome))

    def test_a_row_comes_due_and_not_before(self) -> None:
        mine = self.subscribe()
        message_id, worker = self.entry_into_row(mine.id, log=self.failed(), due_at=NOW + 60, attempts=1, lines=1)
        record = self.delivery(message_id, mine.id)
        self.assertEqual((State.PENDING, NOW + 60), (record.state, record.next_attempt_at))
        self.clock.now = NOW + 59.9
        self.assertEqual([], list(self.take(worker).rows))
        self.clock.now = NOW + 60
        self.assertEqual([], list(self.take(worker, rows=0).rows))
        self.assertEqual([Row(message_id, mine.id, 1, 1)], self.rows(self.take(worker)))
        self.assertEqual(
            (State.IN_FLIGHT, None), (self.state(message_id, mine.id), self.delivery(message_id, mine.id).next_attempt_at)
        )

    def test_oldest_due_first(self) -> None:
        mine = self.subscribe()
        given = self.publish(4)
        worker = self.storage.join()
        token = self.take(worker).token
        dues = dict(zip(given, (40, 10, 30, 20), strict=True))
        rows = [Settlement(one, mine.id, token, from_row=False, due_at=NOW + due) for one, due in dues.items()]
        self.storage.settle(rows, [Closing(one, token) for one in given])
        self.clock.now = NOW + 100
        first = {row.message_id for row in self.take(worker, rows=2).rows}
        self.assertEqual({given[1], given[3]}, first)
        self.assertEqual({given[0], given[2]}, {row.message_id for row in self.take(worker, rows=2).rows})

    def test_oldest_message_first(self) -> None:
        given = self.publish(6)
        worker = self.storage.join()
        taken = self.take(worker, entries=4)
        self.assertEqual(given[:4], [entry.message_id for entry in taken.entries])
        self.storage.give_back(taken.token, given[1:4])
        self.assertEqual(given[1:3], [entry.message_id for entry in self.take(worker, entries=2).entries])
        self.assertEqual(given[3:], [entry.message_id for entry in self.take(worker).entries])

    def test_entries_whose_lease_has_ended_are_not_left_behind(self) -> None:
        given = self.publish(2)
        worker = self.storage.join()
        self.take(worker, entries=1)
        self.clock.now += LEASE
        self.publish(3)
        self.assertEqual([Entry(given[0], None, 2)], self.take(worker, entries=1).entries)
        self.assertEqual([Entry(given[1], None, 1)], self.take(worker, entries=1).entries)

    def test_a_clock_that_is_set_back_holds_up_nothing(self) -> None:
        mine = self.subscribe()
        posted, advanced, returned, parked, row_of, released = self.publish(6)
        worker, leaving = self.storage.join(), self.storage.join()
        token = self.take(worker, entries=5).token
        self.storage.settle(
            [
                Settlement(parked, mine.id, token, from_row=False, park=LANE),
                Settlement(row_of, mine.id, token, from_row=False, due_at=self.clock.now),
            ],
            [Closing(advanced, token, after=UNKNOWN), Closing(parked, token), Closing(row_of, token)],
        )
        self.storage.give_back(token, [posted, returned])
        rows = self.take(leaving, lanes=5)
        self.assertEqual(
            ([posted, advanced, returned, released], [LANE]), ([one.message_id for one in rows.entries], rows.lanes)
        )
        self.storage.give_back(rows.token, [posted, returned], [(row_of, mine.id)])
        self.storage.leave(leaving)
        later = self.publish()[0]
        self.clock.now -= 3600
        state = self.delivery(later, mine.id)
        self.assertEqual((State.PENDING, self.clock.now), (state.state, state.next_attempt_at))
        taken = self.take(worker, lanes=5)
        self.assertEqual([posted, advanced, returned, released, later], [one.message_id for one in taken.entries])
        self.assertEqual(([row_of], [LANE]), ([row.message_id for row in taken.rows], taken.lanes))

    def test_a_held_row_stays_under_its_token(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        worker = self.storage.join()
        token = self.take(worker).token
        held = Settlement(message_id, mine.id, token, from_row=False, due_at=self.clock.now + 15, hold=True)
        self.storage.settle([held], [Closing(message_id, token)])
        self.assertEqual(State.IN_FLIGHT, self.state(message_id, mine.id))
        self.clock.now += 14
        self.assertEqual([], list(self.take(worker).rows))
        end = Settlement(message_id, mine.id, token, from_row=True, log=self.delivered())
        self.assertEqual(0, self.storage.settle([end]))
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.clock.now += 100
        self.assertEqual([], list(self.take(worker).rows))

    def test_a_held_row_comes_due_when_its_worker_does_not_come_back(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        held = Settlement(message_id, mine.id, token, from_row=False, due_at=self.clock.now + 15, hold=True)
        self.storage.settle([held], [Closing(message_id, token)])
        self.clock.now += 15
        self.assertEqual([Row(message_id, mine.id, 0, 0)], self.rows(self.take(self.storage.join())))
        self.assertEqual(1, self.storage.settle([Settlement(message_id, mine.id, token, from_row=True, log=self.delivered())]))

    def test_a_row_changes_between_due_and_parked(self) -> None:
        mine = self.subscribe()
        message_id, worker = self.entry_into_row(mine.id, due_at=NOW, attempts=2, lines=3)
        token = self.take(worker).token
        self.storage.settle([Settlement(message_id, mine.id, token, from_row=True, park=LANE, attempts=2, lines=3)])
        self.assertEqual(
            (State.PARKED, None), (self.state(message_id, mine.id), self.delivery(message_id, mine.id).next_attempt_at)
        )
        self.clock.now += 200
        self.assertEqual([], list(self.take(worker).rows))
        self.take(worker, lanes=1)
        taken = self.take(worker, parked={LANE: 5})
        self.assertEqual([Row(message_id, mine.id, 2, 3, LANE)], self.rows(taken))
        again = Settlement(message_id, mine.id, taken.token, from_row=True, due_at=self.clock.now + 7, attempts=2, lines=3)
        self.storage.settle([again])
        self.assertEqual(
            (State.PENDING, self.clock.now + 7),
            (self.state(message_id, mine.id), self.delivery(message_id, mine.id).next_attempt_at),
        )
        self.clock.now += 7
        self.assertEqual([Row(message_id, mine.id, 2, 3)], self.rows(self.take(worker)))

    def test_closing_a_page_frees_the_entry_for_the_next(self) -> None:
        first, second = self.subscribe(), self.subscribe("http://b/")
        message_id = self.publish()[0]
        worker = self.storage.join()
        token = self.take(worker).token
        done = Settlement(message_id, first.id, token, from_row=False, log=self.delivered())
        self.storage.settle([done], [Closing(message_id, token, after=first.id)])
        self.assertEqual(State.PENDING, self.state(message_id, second.id))
        taken = self.take(worker)
        self.assertEqual([Entry(message_id, first.id, 1)], taken.entries)
        late = Settlement(message_id, second.id, token, from_row=False, log=self.delivered())
        self.assertEqual(1, self.storage.settle([late], [Closing(message_id, token)]))
        done = Settlement(message_id, second.id, taken.token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(message_id, taken.token)]))
        self.clock.now += 1000
        self.assertEqual([], list(self.take(worker).entries))

    def test_known(self) -> None:
        subscriptions = [self.subscribe(f"http://{number}/") for number in range(5)]
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        ways: list[dict[str, Any]] = [
            {"log": self.delivered()},
            {"due_at": NOW + 9},
            {"park": LANE},
            {"due_at": NOW + 9, "hold": True},
        ]
        settlements = [
            Settlement(message_id, one.id, token, from_row=False, **way) for one, way in zip(subscriptions, ways, strict=False)
        ]
        self.assertEqual(0, self.storage.settle(settlements))
        expected = [one.id for one in subscriptions[:4]]
        self.assertEqual(set(expected), self.storage.known(message_id, None))
        self.assertEqual(set(expected[2:]), self.storage.known(message_id, expected[1]))
        self.assertEqual(set(), self.storage.known(self.publish()[0], None))

    def test_disabling(self) -> None:
        mine = self.subscribe()
        first, second = self.publish(2)
        token = self.take(self.storage.join()).token
        for message_id, reason in ((first, "410 Gone"), (second, "later")):
            why = Disabled(reason, NOW, "owner")
            end = self.attempt(1, State.GONE, OutcomeKind.GONE)
            self.storage.settle([Settlement(message_id, mine.id, token, from_row=False, log=end, disable=why)])
        self.assertEqual(Disabled("410 Gone", NOW, "owner"), self.storage.get_subscription("p", "q", mine.id).disabled)
        self.assertEqual(Disabled("410 Gone", NOW, "owner"), self.storage.load([], [mine.id]).subscriptions[mine.id].disabled)

    def test_publishing_with_a_settlement(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        worker = self.storage.join()
        token = self.take(worker).token
        draft = Draft(b'"why"', 60, {"reason": "dead"}, message_id)
        outcome = Outcome(OutcomeKind.REJECTED, publish=(("letters", draft), ("alerts", Draft(b"1", 60))))
        end = self.attempt(1, State.DEAD, outcome.kind)
        self.storage.settle([Settlement(message_id, mine.id, token, from_row=False, log=end, publish=outcome.publish)])
        letter = self.storage.list_messages("p", "letters", None, 10)[0]
        self.assertEqual(("why", message_id, {"reason": "dead"}), (letter.body, letter.parent_id, letter.attributes))
        alert = self.storage.list_messages("p", "alerts", None, 10)[0]
        self.assertEqual({letter.id, alert.id}, {entry.message_id for entry in self.take(worker).entries})

    def test_giving_back(self) -> None:
        mine = self.subscribe()
        row_of, worker = self.entry_into_row(mine.id, due_at=NOW, attempts=1, lines=1)
        kept, given = self.publish(2)
        taken = self.take(worker)
        self.assertEqual((2, 1), (len(taken.entries), len(taken.rows)))
        self.storage.give_back(taken.token + 1, [given], [(row_of, mine.id)])
        self.assertEqual([], list(self.take(worker).entries))
        self.storage.give_back(taken.token, [given, UNKNOWN], [(row_of, mine.id), (kept, mine.id)])
        self.storage.give_back(taken.token, [])
        again = self.take(self.storage.join())
        self.assertEqual(
            ([given], [(row_of, mine.id)]),
            ([entry.message_id for entry in again.entries], [(row.message_id, row.subscription_id) for row in again.rows]),
        )
        self.assertEqual([1], [entry.takes for entry in again.entries], "nothing of it was sent")
        late = Settlement(given, mine.id, taken.token, from_row=False, log=self.delivered())
        self.assertEqual(1, self.storage.settle([late]))

    def test_what_is_given_back_was_not_taken(self) -> None:
        message_id = self.publish()[0]
        worker = self.storage.join()
        self.storage.give_back(self.take(worker).token, [message_id])
        self.assertEqual([Entry(message_id, None, 1)], self.take(worker).entries)
        self.clock.now += LEASE
        taken = self.take(worker)
        self.assertEqual([Entry(message_id, None, 2)], taken.entries)
        self.storage.give_back(taken.token, [message_id])
        self.assertEqual([Entry(message_id, None, 2)], self.take(worker).entries)

    def test_leaving_gives_everything_back(self) -> None:
        mine = self.subscribe()
        worker = self.storage.join()
        parked = self.publish(2)
        self.park(worker, parked, mine.id)
        self.take(worker, lanes=5)
        held, left = self.publish(2)
        taken = self.take(worker, parked={LANE: 1})
        hold = Settlement(held, mine.id, taken.token, from_row=False, due_at=self.clock.now + 20, hold=True)
        self.storage.settle([hold], [Closing(held, taken.token)])
        other = self.storage.join()
        self.assertEqual([], list(self.take(other, lanes=5).entries))
        self.storage.leave(worker)
        found = self.take(other, lanes=5)
        self.assertEqual([left], [entry.message_id for entry in found.entries])
        self.assertEqual([parked[0], held], [row.message_id for row in found.rows])
        self.assertEqual([LANE], list(found.lanes))
        self.assertEqual([parked[1]], [row.message_id for row in self.take(other, parked={LANE: 5}).rows])

    def test_leaving_leaves_the_others_alone(self) -> None:
        self.publish(3)
        first, second, third = (self.storage.join() for _ in range(3))
        for worker in (first, second, third):
            self.assertEqual(1, len(self.take(worker, entries=1).entries))
        self.storage.leave(second)
        self.assertEqual(1, len(self.take(first).entries))

    def test_recovering_finds_no_living_worker(self) -> None:
        self.publish()
        self.take(self.storage.join())
        self.assertEqual(0, self.storage.recover())
        self.assertEqual([], list(self.take(self.storage.join()).entries))

    def test_two_workers_never_take_the_same(self) -> None:
        given = self.publish(60)
        found: list[str] = []

        def work() -> None:
            worker = self.storage.join()
            while entries := self.take(worker, entries=4).entries:
                found.extend(entry.message_id for entry in entries)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(given, sorted(found))


class LaneConformance(StorageCase):
    def fill_lane(self) -> None:
        self.mine = self.subscribe()
        self.worker = self.storage.join()
        self.parked = self.publish(5)
        self.park(self.worker, self.parked, self.mine.id)

    def test_parked_rows_are_not_due(self) -> None:
        self.fill_lane()
        self.clock.now += 100
        self.assertEqual(([], []), (list(self.take(self.worker).rows), list(self.take(self.worker).lanes)))

    def test_a_lane_is_held_by_one_until_its_lease_ends(self) -> None:
        self.fill_lane()
        self.assertEqual([LANE], list(self.take(self.worker, lanes=5).lanes))
        other = self.storage.join()
        self.assertEqual([], list(self.take(other, lanes=5).lanes))
        nothing = self.take(other, parked={LANE: 5})
        self.assertEqual(([], []), (list(nothing.rows), list(nothing.emptied)))
        self.clock.now += LEASE
        self.assertEqual([LANE], list(self.take(other, lanes=5).lanes))
        self.assertEqual([], list(self.take(self.worker, parked={LANE: 5}).rows))
        self.assertEqual(2, len(self.take(other, parked={LANE: 2}).rows))

    def test_emptying_a_lane(self) -> None:
        self.fill_lane()
        self.take(self.worker, lanes=5)
        first = self.take(self.worker, parked={LANE: 2})
        self.assertEqual([Row(one, self.mine.id, 0, 0, LANE) for one in self.parked[:2]], self.rows(first))
        self.assertEqual([], list(first.emptied))
        self.assertEqual(State.IN_FLIGHT, self.state(self.parked[0], self.mine.id))
        self.assertEqual(State.PARKED, self.state(self.parked[2], self.mine.id))
        second = self.take(self.worker, parked={LANE: 5})
        self.assertEqual(self.parked[2:], [row.message_id for row in second.rows])
        self.assertEqual([], list(second.emptied))
        third = self.take(self.worker, parked={LANE: 5})
        self.assertEqual(([], [LANE]), (list(third.rows), list(third.emptied)))
        done = [
            Settlement(row.message_id, self.mine.id, taken.token, from_row=True, log=self.delivered())
            for taken in (first, second)
            for row in taken.rows
        ]
        self.assertEqual(0, self.storage.settle(done))
        self.clock.now += 100
        again = self.take(self.worker, lanes=5)
        self.assertEqual(([], []), (list(again.rows), list(again.lanes)))

    def test_a_lane_stays_held_while_its_last_row_is_in_flight(self) -> None:
        for most in (5, 9):
            self.fill_lane()
            self.take(self.worker, lanes=5)
            taken = self.take(self.worker, parked={LANE: most})
            self.assertEqual((5, []), (len(taken.rows), list(taken.emptied)))
            other = self.storage.join()
            late = self.publish()[0]
            self.park(other, [late], self.mine.id)
            nothing = self.take(other, lanes=5, parked={LANE: 5})
            self.assertEqual(([], [], []), (list(nothing.rows), list(nothing.lanes), list(nothing.emptied)))
            self.assertEqual([late], [row.message_id for row in self.take(self.worker, parked={LANE: 5}).rows])
            self.assertEqual([LANE], list(self.take(self.worker, parked={LANE: 5}).emptied))

    def test_only_who_holds_a_lane_lets_it_go(self) -> None:
        self.fill_lane()
        self.take(self.worker, lanes=5)
        self.take(self.worker, parked={LANE: 5})
        other = self.storage.join()
        self.assertEqual([], list(self.take(other, parked={LANE: 5}).emptied))
        late = self.publish()[0]
        self.park(other, [late], self.mine.id)
        self.assertEqual([late], [row.message_id for row in self.take(self.worker, parked={LANE: 5}).rows])

    def test_asking_renews_the_lease_of_a_lane(self) -> None:
        for most in (2, 3, 0):  # also that of the last rows, and none
            self.clock.now += LEASE / 2
            if most == 2:
                self.fill_lane()
                self.take(self.worker, lanes=5)
                self.clock.now += LEASE / 2
            self.assertEqual(most, len(self.take(self.worker, rows=0, parked={LANE: most}).rows))
        other = self.storage.join()
        self.park(other, self.publish(), self.mine.id)
        self.clock.now += LEASE - 0.1
        self.assertEqual([], list(self.take(other, lanes=5).lanes))
        self.clock.now += 0.1
        self.assertEqual([LANE], list(self.take(other, lanes=5).lanes))
        self.assertEqual([], list(self.take(self.worker, parked={LANE: 5}).rows))

    def test_asking_renews_no_lease_of_others(self) -> None:
        self.fill_lane()
        self.take(self.worker, lanes=5)
        other = self.storage.join()
        self.clock.now += LEASE / 2
        self.take(other, parked={LANE: 5})
        self.clock.now += LEASE / 2
        self.assertEqual([LANE], list(self.take(other, lanes=5).lanes))

    def test_a_lane_that_was_not_asked_for_is_not_renewed(self) -> None:
        self.fill_lane()
        self.park(self.worker, self.publish(), self.mine.id, LaneKey("p", "http://b:80"))
        self.take(self.worker, lanes=5)
        self.clock.now += LEASE / 2
        self.take(self.worker, parked={LaneKey("p", "http://b:80"): 1})
        self.clock.now += LEASE / 2
        self.assertEqual([LANE], list(self.take(self.storage.join(), lanes=5).lanes))

    def test_a_lane_of_which_nothing_is_wanted_stays_without_rows(self) -> None:
        self.fill_lane()
        self.take(self.worker, lanes=5)
        self.take(self.worker, parked={LANE: 5})
        taken = self.take(self.worker, parked={LANE: 0})
        self.assertEqual(([], []), (list(taken.rows), list(taken.emptied)))
        self.assertEqual([LANE], list(self.take(self.worker, parked={LANE: 1}).emptied))

    def test_what_a_call_removes_it_does_not_hand_out(self) -> None:
        self.fill_lane()
        self.take(self.worker, lanes=5)
        self.take(self.worker, parked={LANE: 5})
        self.clock.now += LEASE
        taken = self.take(self.worker, rows=0, lanes=5, parked={LANE: 5})
        self.assertEqual(([], [LANE]), (list(taken.lanes), list(taken.emptied)))

    def test_an_emptied_lane_comes_back_when_rows_are_parked_again(self) -> None:
        self.fill_lane()
        self.take(self.worker, lanes=5)
        taken = self.take(self.worker, parked={LANE: 5})
        self.assertEqual([LANE], list(self.take(self.worker, parked={LANE: 5}).emptied))
        back = Settlement(self.parked[0], self.mine.id, taken.token, from_row=True, park=LANE, attempts=1, lines=1)
        self.storage.settle([back])
        self.assertEqual([LANE], list(self.take(self.worker, lanes=5).lanes))
        self.assertEqual([Row(self.parked[0], self.mine.id, 1, 1, LANE)], self.rows(self.take(self.worker, parked={LANE: 5})))

    def test_rows_of_a_lane_whose_lease_ended_come_due(self) -> None:
        self.fill_lane()
        self.take(self.worker, lanes=5)
        self.take(self.worker, parked={LANE: 2})
        self.clock.now += LEASE
        taken = self.take(self.storage.join())
        self.assertEqual(self.parked[:2], [row.message_id for row in taken.rows])
        self.assertEqual({LANE}, {row.lane for row in taken.rows})

    def test_rows_that_are_given_back_are_taken_again(self) -> None:
        self.fill_lane()
        self.take(self.worker, lanes=5)
        taken = self.take(self.worker, parked={LANE: 1})
        self.storage.give_back(taken.token, [], [(row.message_id, row.subscription_id) for row in taken.rows])
        again = [*self.take(self.worker).rows, *self.take(self.worker, parked={LANE: 9}).rows]
        self.assertEqual(self.parked, [row.message_id for row in again])

    def test_lanes_are_bounded_and_of_their_project(self) -> None:
        self.fill_lane()
        others = [LaneKey("p", f"http://{number}:80") for number in range(3)] + [LaneKey("o", LANE.name)]
        for lane in others:
            self.park(self.worker, self.publish(), self.mine.id, lane)
        first = self.take(self.worker, lanes=2).lanes
        second = self.take(self.worker, lanes=9).lanes
        self.assertEqual((2, 3), (len(first), len(second)))
        self.assertEqual({LANE, *others}, {*first, *second})
        taken = self.take(self.worker, parked={LANE: 1, others[3]: 1})
        self.assertEqual([(LANE, self.parked[0])], [(row.lane, row.message_id) for row in taken.rows][:1])
        self.assertEqual([], list(taken.emptied))
        taken = self.take(self.worker, parked={LANE: 1, others[3]: 1})
        self.assertEqual(([self.parked[1]], [others[3]]), ([row.message_id for row in taken.rows], list(taken.emptied)))

    def test_an_unknown_lane_is_empty(self) -> None:
        self.fill_lane()
        nowhere = LaneKey("p", "http://nowhere:80")
        self.assertEqual([nowhere], list(self.take(self.worker, parked={nowhere: 3}).emptied))


class DeliveryConformance(StorageCase):
    """Did it arrive?"""

    def test_an_open_entry_stands_for_every_live_subscription(self) -> None:
        first, second = self.subscribe(), self.subscribe("http://b/")
        expired, deleted = self.subscribe("http://c/", ttl=60), self.subscribe("http://d/")
        self.storage.delete_subscription("p", "q", deleted.id)
        self.clock.now += 60
        message_id = self.publish()[0]
        for one in (first, second):
            self.assertEqual(
                (State.PENDING, self.clock.now),
                (self.state(message_id, one.id), self.delivery(message_id, one.id).next_attempt_at),
            )
        for one in (expired, deleted):
            self.assertIsNone(self.delivery(message_id, one.id))
        self.take(self.storage.join())
        self.assertEqual(
            (State.IN_FLIGHT, None), (self.state(message_id, first.id), self.delivery(message_id, first.id).next_attempt_at)
        )
        self.clock.now += LEASE
        self.assertEqual(State.PENDING, self.state(message_id, first.id))
        self.clock.now += 300
        self.assertEqual(State.EXPIRED, self.state(message_id, first.id))

    def test_without_an_entry_only_what_is_known(self) -> None:
        first, second = self.subscribe(), self.subscribe("http://b/")
        message_id, _ = self.entry_into_row(first.id, log=self.delivered())
        self.subscribe("http://c/")
        found = self.storage.message_deliveries("p", "q", message_id, None, 10)
        self.assertEqual([(first.id, State.DELIVERED)], [(one.subscription_id, one.state) for one in found])
        self.assertEqual([], self.storage.subscription_deliveries("p", "q", second.id, None, 10))

    def test_pages_by_subscription(self) -> None:
        subscriptions = [self.subscribe(f"http://{number}/").id for number in range(9)]
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        ways = itertools.cycle([{"log": self.delivered()}, {"due_at": NOW + 900}, {"park": LANE}])
        settled = [
            Settlement(message_id, one, token, from_row=False, **way) for one, way in zip(subscriptions[:6], ways, strict=False)
        ]
        self.storage.settle(settled, [Closing(message_id, token, after=subscriptions[5])])
        for size in (1, 2, 4, 9, 20):
            found: list[Any] = []
            marker = None
            while page := self.storage.message_deliveries("p", "q", message_id, marker, size):
                self.assertTrue(len(page) <= size)
                found += page
                marker = page[-1].subscription_id
            self.assertEqual(subscriptions, [one.subscription_id for one in found])
            states = [State.DELIVERED, State.PENDING, State.PARKED] * 2 + [State.PENDING] * 3
            self.assertEqual(states, [one.state for one in found])

    def test_pages_by_message_newest_first(self) -> None:
        mine, other = self.subscribe(), self.subscribe("http://b/")
        given = self.publish(6)
        token = self.take(self.storage.join()).token
        ways: list[dict[str, Any]] = [{"log": self.delivered()}, {"due_at": NOW + 900}, {"park": LANE}]
        settled = [
            Settlement(message_id, one.id, token, from_row=False, **way)
            for one in (mine, other)
            for message_id, way in zip(given[:3], ways, strict=True)
        ]
        self.storage.settle(settled, [Closing(one, token) for one in given[:3]])
        given += self.publish(2)
        self.publish(queue="r")
        for size in (1, 3, 8, 20):
            found: list[Any] = []
            marker = None
            while page := self.storage.subscription_deliveries("p", "q", mine.id, marker, size):
                self.assertTrue(len(page) <= size)
                found += page
                marker = page[-1].message_id
            self.assertEqual(given[::-1], [one.message_id for one in found])
            states = [State.PENDING] * 2 + [State.IN_FLIGHT] * 3 + [State.PARKED, State.PENDING, State.DELIVERED]
            self.assertEqual(states, [one.state for one in found])

    def test_a_malformed_marker_is_refused(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        for bad in MALFORMED[1:]:
            self.assertRaises(InvalidRequest, self.storage.message_deliveries, "p", "q", message_id, bad, 5)
            self.assertRaises(InvalidRequest, self.storage.subscription_deliveries, "p", "q", mine.id, bad, 5)

    def test_a_row_of_an_expired_subscription_or_message_is_expired(self) -> None:
        mine = self.subscribe(ttl=60)
        message_id, _ = self.entry_into_row(mine.id, due_at=NOW + 900)
        self.clock.now += 60
        self.assertEqual(
            (State.EXPIRED, None), (self.state(message_id, mine.id), self.delivery(message_id, mine.id).next_attempt_at)
        )
        self.storage.prune(100)
        self.assertEqual(State.EXPIRED, self.state(message_id, mine.id))
        lasting = self.subscribe("http://b/")
        message_id, _ = self.entry_into_row(lasting.id, due_at=NOW + 900, ttl=60)
        self.clock.now += 60
        self.assertEqual(State.EXPIRED, self.state(message_id, lasting.id))


class PruningConformance(StorageCase):
    def test_nothing_to_do(self) -> None:
        self.subscribe()
        self.publish()
        self.assertEqual(0, self.storage.prune(100))

    def test_rows_of_what_was_deleted_end_as_cancelled(self) -> None:
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, due_at=NOW + 900, ttl=60)
        self.storage.delete_subscription("p", "q", mine.id)
        self.clock.now += 60
        self.prune_all()
        record = self.delivery(message_id, mine.id)
        self.assertEqual((State.CANCELLED, [State.CANCELLED]), (record.state, [line.state for line in record.log]))

    def test_leased_rows_are_left_alone(self) -> None:
        mine = self.subscribe()
        message_id, worker = self.entry_into_row(mine.id, due_at=NOW, ttl=60)
        self.clock.now += 50
        token = self.take(worker).token
        self.clock.now += 20
        self.storage.prune(100)
        end = Settlement(message_id, mine.id, token, from_row=True, log=self.delivered())
        self.assertEqual(0, self.storage.settle([end]))
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))

    def test_messages_and_logs_go_when_the_retention_is_over(self) -> None:
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, log=self.delivered(), ttl=60)
        unwanted = self.publish(ttl=60)[0]
        self.storage.settle([], [Closing(unwanted, self.take(self.storage.join()).token)])
        ended_at = self.clock.now
        self.clock.now = ended_at + 61
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.assertEqual({"n": 0}, self.storage.load([message_id], []).messages[message_id].body)
        self.assertIsNone(self.storage.message_deliveries("p", "q", unwanted, None, 10))
        self.clock.now = ended_at + RETENTION - 1
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.clock.now = ended_at + RETENTION + 1
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))
        self.assertEqual([], self.storage.subscription_deliveries("p", "q", mine.id, None, 10))
        self.assertEqual({}, self.storage.load([message_id], []).messages)
        self.assertIsNotNone(self.storage.get_subscription("p", "q", mine.id))
        self.assertIsNotNone(self.storage.get_queue("p", "q"))

    def test_the_retention_begins_at_the_last_end(self) -> None:
        mine, other = self.subscribe(), self.subscribe("http://b/")
        message_id = self.publish(ttl=5000)[0]
        token = self.take(self.storage.join()).token
        self.storage.settle([Settlement(message_id, mine.id, token, from_row=False, log=self.delivered())])
        self.clock.now += 25
        last = Settlement(message_id, other.id, token, from_row=False, due_at=self.clock.now + 4000)
        self.storage.settle([last], [Closing(message_id, token)])
        self.clock.now += 4000
        token = self.take(self.storage.join()).token
        self.storage.settle([Settlement(message_id, other.id, token, from_row=True, log=self.delivered())])
        ended_at = self.clock.now
        self.clock.now = NOW + 5001
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.clock.now = ended_at + RETENTION + 1
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))

    def test_what_is_still_open_is_not_removed(self) -> None:
        mine = self.subscribe()
        message_id = self.publish(ttl=60)[0]
        worker = self.storage.join()
        token = self.take(worker).token
        self.clock.now += 29
        self.storage.settle(
            [Settlement(message_id, mine.id, token, from_row=False, due_at=NOW + 9000, hold=True)], [Closing(message_id, token)]
        )
        self.clock.now += RETENTION * 3
        self.prune_all()
        end = Settlement(message_id, mine.id, token, from_row=True, log=self.delivered())
        self.assertEqual(0, self.storage.settle([end]))
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.clock.now += RETENTION + 100
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))

    def test_the_body_goes_before_the_log(self) -> None:
        self.storage = self.open(body_retention=100.0)
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, log=self.delivered(), ttl=60)
        self.clock.now += 90
        self.prune_all()
        self.assertEqual({"n": 0}, self.storage.load([message_id], []).messages[message_id].body)
        self.clock.now += 20
        self.prune_all()
        self.assertEqual(b"", self.storage.load([message_id], []).messages[message_id].body_json)
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.clock.now += RETENTION
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))

    def test_no_body_is_dropped_before_the_message_expires(self) -> None:
        self.storage = self.open(body_retention=0.0)
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, log=self.delivered(), ttl=600)
        self.clock.now += 599
        self.prune_all()
        self.assertEqual({"n": 0}, self.storage.get_message("p", "q", message_id).body)

    def test_a_deleted_subscription_is_known_as_long_as_its_log(self) -> None:
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, log=self.delivered(), ttl=60)
        self.storage.delete_subscription("p", "q", mine.id)
        self.clock.now += RETENTION - 1
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.clock.now += 2
        self.prune_all()
        self.clock.now += RETENTION
        self.prune_all()
        self.assertIsNone(self.storage.subscription_deliveries("p", "q", mine.id, None, 10))

    def test_an_expired_subscription_is_known_until_the_retention_is_over(self) -> None:
        mine = self.subscribe(ttl=60)
        self.clock.now += 60
        self.prune_all()
        self.assertEqual([], self.storage.subscription_deliveries("p", "q", mine.id, None, 10))
        self.clock.now += RETENTION + 1
        self.prune_all()
        self.assertIsNone(self.storage.subscription_deliveries("p", "q", mine.id, None, 10))
        self.assertTrue(self.subscribe().id > mine.id)

    def test_steps_are_bounded_and_come_to_an_end(self) -> None:
        subscriptions = [self.subscribe(f"http://{number}/") for number in range(6)]
        given = self.publish(10, ttl=60)
        token = self.take(self.storage.join()).token
        settled = [
            Settlement(message_id, one.id, token, from_row=False, log=self.delivered())
            for message_id in given
            for one in subscriptions
        ]
        self.storage.settle(settled, [Closing(one, token) for one in given])
        self.clock.now += RETENTION + 61
        steps = []
        while step := self.storage.prune(7):
            steps.append(step)
            self.assertTrue(len(steps) < 100)
        self.assertTrue(max(steps) <= 2 * 7, steps)
        self.assertTrue(len(steps) >= 70 // 14, steps)
        for one in given:
            self.assertIsNone(self.storage.message_deliveries("p", "q", one, None, 10))

    def test_messages_of_a_deleted_queue_go_too(self) -> None:
        self.publish(3, ttl=60)
        self.storage.delete_queue("p", "q")
        taken = self.take(self.storage.join())
        self.storage.settle([], [Closing(entry.message_id, taken.token) for entry in taken.entries])
        self.clock.now += 61
        self.assertTrue(self.prune_all() >= 3)
        self.clock.now += RETENTION
        self.prune_all()
        self.assertEqual({}, self.storage.load([entry.message_id for entry in taken.entries], []).messages)


class StorageConformance(
    QueueConformance,
    MessageConformance,
    SubscriptionConformance,
    LedgerConformance,
    LaneConformance,
    DeliveryConformance,
    PruningConformance,
    ClaimsConformance,
    QueuesConformance,
    HiddenConformance,
    BreakerConformance,
    FailureConformance,
    AlertConformance,
    FairnessConformance,
    DepthsConformance,
    RowExpiryConformance,
    RedeliveryConformance,
    CancelConformance,
    PingConformance,
    ExchangeConformance,
    RetentionConformance,
    ExpiredRowConformance,
    MembersConformance,
    JobsConformance,
    RangesConformance,
):
    def test_no_part_hides_what_another_has(self) -> None:
        parts = [one for one in StorageConformance.__mro__ if issubclass(one, StorageCase)]
        names = collections.Counter(name for one in parts for name in vars(one) if not name.startswith("_"))
        self.assertEqual([], [name for name, count in names.items() if count > 1 and name not in ("setUp", "make_storage")])
