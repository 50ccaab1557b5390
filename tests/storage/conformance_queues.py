"""What can be done to a queue as a whole: changing, finding, counting, purging; and the keys of the API."""

from __future__ import annotations

from typing import Any

from tests.storage.contract import NOW, RETENTION, StorageCase
from zaqar_notify.errors import Conflict
from zaqar_notify.model import ApiKey, State
from zaqar_notify.storage.base import Closing, Settlement


class _Refused(Exception):
    pass


class QueueChangeConformance(StorageCase):
    def test_changing(self) -> None:
        self.storage.put_queue("p", "q", {"a": 1, "b": [1]})
        self.clock.now += 5
        seen: list[Any] = []

        def change(metadata: Any) -> dict[str, Any]:
            seen.append(dict(metadata))
            return {**metadata, "c": {"é": None}, "a": 2}

        expected = {"a": 2, "b": [1], "c": {"é": None}}
        self.assertEqual(expected, self.storage.update_queue("p", "q", change))
        self.assertEqual([{"a": 1, "b": [1]}], seen)
        found = self.storage.get_queue("p", "q")
        self.assertEqual((expected, NOW), (found.metadata, found.created_at))
        self.assertEqual({}, self.storage.update_queue("p", "q", lambda metadata: {}))
        self.assertEqual({}, self.storage.get_queue("p", "q").metadata)

    def test_a_change_that_raises_changes_nothing(self) -> None:
        self.storage.put_queue("p", "q", {"a": {"b": 1}})

        def change(metadata: Any) -> dict[str, Any]:
            metadata["a"]["b"] = 2
            metadata["c"] = 3
            raise _Refused

        self.assertRaises(_Refused, self.storage.update_queue, "p", "q", change)
        self.assertEqual({"a": {"b": 1}}, self.storage.get_queue("p", "q").metadata)
        self.assertEqual({"x": 1}, self.storage.update_queue("p", "q", lambda metadata: {"x": 1}), "and the next one can")

    def test_changing_what_is_not_there(self) -> None:
        self.storage.put_queue("o", "q", {})
        called: list[Any] = []
        self.assertIsNone(self.storage.update_queue("p", "q", called.append))
        self.assertIsNone(self.storage.get_queue("p", "q"))
        self.assertEqual([], called)

    def test_finding_by_a_part_of_the_name(self) -> None:
        for name in ("a_b", "axb", "A_B", "za_bz", "a.b", "a-b"):
            self.storage.put_queue("p", name, {})
        self.storage.put_queue("o", "a_b", {})
        for part, expected in (
            ("a_b", ["a_b", "za_bz"]),
            ("a.b", ["a.b"]),
            ("A", ["A_B"]),
            ("%", []),
            ("_", ["A_B", "a_b", "za_bz"]),
            ("\\", []),
            ("'", []),
            ("\0", []),
            ("*", []),
            ("é", []),
            ("", ["A_B", "a-b", "a.b", "a_b", "axb", "za_bz"]),
        ):
            found = self.storage.list_queues("p", None, 10, name=part)
            self.assertEqual(expected, [queue.name for queue in found], part)
            self.assertEqual(len(expected), self.storage.count_queues("p", name=part), part)

    def test_finding_by_metadata(self) -> None:
        metadata: dict[str, dict[str, Any]] = {
            "both": {"a": "x", "b": 1},
            "falsehood": {"a": False},
            "float": {"b": 1.5},
            "nested": {"a": {"b": "x"}, "a.b": "dotted"},
            "nothing": {"a": None},
            "number": {"b": 1},
            "odd": {"q\"uo'te": "x", "$": "y", "a[0]": "z", "": "empty", "é": "ü"},
            "text": {"a": "x", "b": "1"},
            "truth": {"a": True},
        }
        for name, of in metadata.items():
            self.storage.put_queue("p", name, of)
            self.storage.put_queue("o", name, of)
        for wanted, expected in (
            ({"a": "x"}, ["both", "text"]),
            ({"b": "1"}, ["both", "number", "text"]),
            ({"a": "x", "b": "1"}, ["both", "text"]),
            ({"b": "1.5"}, ["float"]),
            ({"a": "true"}, ["truth"]),
            ({"a": "false"}, ["falsehood"]),
            ({"a": "null"}, ["nothing"]),
            ({"c": "null"}, []),
            ({"a": '{"b":"x"}'}, ["nested"]),
            ({"a.b": "dotted"}, ["nested"]),
            ({"q\"uo'te": "x"}, ["odd"]),
            ({"$": "y"}, ["odd"]),
            ({"a[0]": "z"}, ["odd"]),
            ({"": "empty"}, ["odd"]),
            ({"é": "ü"}, ["odd"]),
            ({"a": "X"}, []),
            ({"a": ""}, []),
            ({"a": "\0"}, []),
            ({"\0": "x"}, []),
            ({'"': "x"}, []),
            ({"x" * 2000: "x"}, []),
            ({}, sorted(metadata)),
        ):
            found = self.storage.list_queues("p", None, 20, metadata=wanted)
            self.assertEqual(expected, [queue.name for queue in found], wanted)
            self.assertEqual(len(expected), self.storage.count_queues("p", metadata=wanted), wanted)

    def test_a_filtered_listing_pages(self) -> None:
        for number in range(30):
            self.storage.put_queue("p", f"q{number:02}", {"even": number % 2 == 0})
        found: list[str] = []
        while page := self.storage.list_queues("p", found[-1] if found else None, 4, name="q1", metadata={"even": "true"}):
            self.assertTrue(len(page) <= 4)
            found += [queue.name for queue in page]
        self.assertEqual(["q10", "q12", "q14", "q16", "q18"], found)
        self.assertEqual(5, self.storage.count_queues("p", name="q1", metadata={"even": "true"}))
        self.assertEqual(30, self.storage.count_queues("p"))
        self.assertEqual(0, self.storage.count_queues("o"))

    def test_a_deleted_queue_does_not_count(self) -> None:
        self.storage.put_queue("p", "a", {})
        self.storage.put_queue("p", "b", {})
        self.storage.delete_queue("p", "a")
        self.assertEqual(1, self.storage.count_queues("p"))
        self.storage.purge_messages("p", "b")
        self.assertEqual(1, self.storage.count_queues("p"))
        self.assertEqual(["b"], [queue.name for queue in self.storage.list_queues("p", None, 9)])


class PurgeConformance(StorageCase):
    def test_the_queue_stays_as_it_is(self) -> None:
        self.storage.put_queue("p", "q", {"a": 1})
        before = self.storage.get_queue("p", "q")
        self.clock.now += 5
        given = self.publish(3)
        self.publish(delay=30)
        claim_id, _ = self.claim(1)
        self.storage.purge_messages("p", "q")
        self.assertEqual(before, self.storage.get_queue("p", "q"))
        self.assertFalse(self.storage.put_queue("p", "q", {"a": 1}))
        self.assertEqual([], self.listed(claimed=True, delayed=True))
        self.assertEqual([None] * 3, [self.storage.get_message("p", "q", one) for one in given])
        self.assertEqual([], self.popped())
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        self.assertEqual((0, 0), self.counted())
        self.assertEqual(0, self.storage.volume().total)
        claimed = self.storage.get_claim("p", "q", claim_id)
        self.assertEqual([], claimed[1] if claimed else [])

    def test_what_is_posted_afterwards_is_there(self) -> None:
        mine = self.subscribe()
        old = self.publish(2)
        for _ in range(2):
            self.storage.purge_messages("p", "q")
            new = self.publish(3)
            self.assertTrue(new[0] > old[-1])
            self.assertEqual(new, self.listed())
            self.storage.delete_messages("p", "q", old)
            self.assertEqual(new, self.listed())
            self.assertEqual(new, self.claim()[1])
            self.assertEqual(State.PENDING, self.state(new[0], mine.id))
            old = new

    def test_what_has_not_ended_is_cancelled(self) -> None:
        mine, other, third = self.subscribe(), self.subscribe("http://b/"), self.subscribe("http://c/")
        message_id, parked, untouched = self.publish(3)
        worker = self.storage.join()
        token = self.take(worker, entries=2).token
        settled = [
            Settlement(message_id, mine.id, token, from_row=False, log=self.delivered()),
            Settlement(message_id, other.id, token, from_row=False, log=self.failed(), due_at=NOW + 9, attempts=1, lines=1),
        ]
        self.storage.settle(settled, [Closing(message_id, token), Closing(parked, token, after=mine.id)])
        self.storage.purge_messages("p", "q")
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.assertEqual(State.CANCELLED, self.state(message_id, other.id))
        self.assertIsNone(self.delivery(message_id, other.id).next_attempt_at)
        self.assertIsNone(self.delivery(message_id, third.id))
        for one in (parked, untouched):
            found = self.storage.message_deliveries("p", "q", one, None, 9)
            self.assertEqual({State.CANCELLED}, {record.state for record in found})
        self.clock.now += 20
        taken = self.take(worker)
        loaded = self.storage.load([entry.message_id for entry in taken.entries] + [message_id], [other.id])
        self.assertEqual({}, loaded.messages)
        ended = [
            Settlement(message_id, other.id, taken.token, from_row=True, log=self.attempt(2, State.CANCELLED))
            for row in taken.rows
        ]
        self.assertEqual(0, self.storage.settle(ended, [Closing(one.message_id, taken.token) for one in taken.entries]))
        self.assertEqual(State.CANCELLED, self.state(message_id, other.id))

    def test_a_send_under_way_can_still_be_settled(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        self.storage.purge_messages("p", "q")
        done = Settlement(message_id, mine.id, token, from_row=False, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(message_id, token)]))
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))

    def test_what_was_purged_is_pruned_in_the_end(self) -> None:
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, log=self.delivered(), ttl=60)
        self.storage.purge_messages("p", "q")
        new = self.publish(ttl=5000)
        self.clock.now += RETENTION - 1
        self.prune_all()
        self.assertEqual(State.DELIVERED, self.state(message_id, mine.id))
        self.clock.now += 62
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 9))
        self.assertEqual(new, self.listed())
        self.assertIsNotNone(self.storage.get_queue("p", "q"))
        self.assertIsNotNone(self.storage.get_subscription("p", "q", mine.id))

    def test_other_queues_and_projects_are_left_alone(self) -> None:
        mine = self.publish(2)
        self.publish(queue="r")
        self.publish(project="o")
        self.storage.purge_messages("p", "none")
        self.storage.purge_messages("o", "q")
        self.storage.purge_messages("p", "r")
        self.assertIsNone(self.storage.get_queue("p", "none"))
        self.assertEqual(mine, self.listed())
        self.assertEqual([], self.storage.list_messages("o", "q", None, 9))
        self.assertEqual([], self.listed("r"))

    def test_purging_messages_leaves_subscriptions(self) -> None:
        mine = self.subscribe()
        self.publish()
        self.storage.purge_messages("p", "q")
        self.assertEqual([mine], self.storage.list_subscriptions("p", "q", None, 9))

    def test_purging_subscriptions_is_bounded(self) -> None:
        for number in range(5):
            self.subscribe(f"http://{number}/")
        others = [self.subscribe("http://x/", queue="r"), self.subscribe("http://x/", project="o")]
        message_id = self.publish()[0]
        steps = [self.storage.purge_subscriptions("p", "q", 2) for _ in range(4)]
        self.assertEqual([2, 2, 1, 0], steps)
        self.assertEqual([], self.storage.list_subscriptions("p", "q", None, 9))
        self.assertEqual(others[:1], self.storage.list_subscriptions("p", "r", None, 9))
        self.assertEqual(others[1:], self.storage.list_subscriptions("o", "q", None, 9))
        self.assertEqual([message_id], self.listed())
        self.assertEqual(0, self.storage.purge_subscriptions("p", "none", 2))
        self.assertTrue(self.storage.subscribe(self.subscription("http://0/")).created)

    def test_purging_subscriptions_passes_over_what_is_gone(self) -> None:
        for number in range(6):
            self.subscribe(f"http://{number}/", ttl=60 if number % 2 else None)
        self.clock.now += 60
        steps = 0
        while self.storage.purge_subscriptions("p", "q", 1):
            steps += 1
            self.assertTrue(steps <= 6)
        self.assertTrue(steps >= 3)
        self.assertEqual([], self.storage.list_subscriptions("p", "q", None, 9))

    def test_deliveries_to_purged_subscriptions_are_cancelled(self) -> None:
        mine = self.subscribe()
        message_id, _ = self.entry_into_row(mine.id, log=self.failed(), due_at=NOW + 10, attempts=1, lines=1)
        self.assertEqual(1, self.storage.purge_subscriptions("p", "q", 10))
        self.assertEqual(State.CANCELLED, self.state(message_id, mine.id))
        self.assertEqual({}, self.storage.load([], [mine.id]).subscriptions)


class KeyConformance(StorageCase):
    def key(self, key_id: str, project: str = "p", **fields: Any) -> ApiKey:
        self.clock.now += 1
        values = {"roles": ("read", "publish"), "name": "", "secret_hash": b"\0\xff" * 16, **fields}
        return ApiKey(key_id, project, created_at=self.clock.now, **values)

    def test_a_key_comes_back(self) -> None:
        key = self.key("k1", roles=("admin",), name="the billing's é")
        self.storage.add_key(key)
        self.assertEqual(key, self.storage.get_key("k1"))
        self.assertEqual([key], self.storage.list_keys())

    def test_unknown_ones(self) -> None:
        self.storage.add_key(self.key("k1"))
        for unknown in ("", "K1", "k", "k1 ", "k%", "\0", "é", "x" * 1000):
            self.assertIsNone(self.storage.get_key(unknown))
            self.assertFalse(self.storage.revoke_key(unknown))
        self.assertEqual([], self.storage.list_keys("none"))

    def test_an_id_is_given_once(self) -> None:
        first = self.key("k1")
        self.storage.add_key(first)
        self.assertRaises(Conflict, self.storage.add_key, self.key("k1", "o"))
        self.assertEqual([first], self.storage.list_keys())

    def test_listing_oldest_first(self) -> None:
        keys = [self.key(key_id, project) for key_id, project in (("z", "p"), ("a", "o"), ("m", "p"))]
        for key in keys[1:] + keys[:1]:
            self.storage.add_key(key)
        self.assertEqual(keys, self.storage.list_keys())
        self.assertEqual([keys[0], keys[2]], self.storage.list_keys("p"))
        self.assertEqual([keys[1]], self.storage.list_keys("o"))

    def test_revoking(self) -> None:
        for key_id in ("a", "b"):
            self.storage.add_key(self.key(key_id))
        self.clock.now += 5
        self.assertTrue(self.storage.revoke_key("a"))
        revoked_at = self.clock.now
        self.clock.now += 5
        self.assertFalse(self.storage.revoke_key("a"))
        self.assertEqual(revoked_at, self.storage.get_key("a").revoked_at)
        self.assertEqual([revoked_at, None], [key.revoked_at for key in self.storage.list_keys("p")])
        self.prune_all()
        self.assertIsNotNone(self.storage.get_key("a"))


class QueuesConformance(QueueChangeConformance, PurgeConformance, KeyConformance):
    pass
