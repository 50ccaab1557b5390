"""Alerts that are for the owner of one subscription alone."""

from __future__ import annotations

from tests.storage.conformance_hidden import NEW_KEY, OLD_KEY, ChangingKeyring, HiddenCase
from tests.storage.conformance_trust import SettlingCase
from tests.storage.contract import NOW
from zaqar_notify.model import Alert, Disabled, Draft, MessageKind, State, Subscription
from zaqar_notify.storage.base import Failure, Settlement


class CallbackConformance(SettlingCase, HiddenCase):
    def callback(self, of: Subscription, cause: str = "dead") -> Alert:
        return Alert(cause, "q", Draft(b'{"event": "dead"}', 60, {"k": 1}), 600.0, subscription_id=of.id)

    def test_the_subscription_alone_gets_it(self) -> None:
        mine, other = self.subscribe(), self.subscribe("http://b/")
        of = self.settle_one(mine, alerts=(self.callback(mine),))
        told_at = self.clock.now
        self.storage.delete_message("p", "q", of)
        self.clock.now -= 3600
        worker = self.storage.join()
        taken = self.take(worker)
        self.assertEqual([], list(taken.entries))
        (row,) = taken.rows
        self.assertEqual(
            (mine.id, 0, 0, round(told_at + 60, 2)), (row.subscription_id, row.attempts, row.lines, round(row.expires_at, 2))
        )
        self.assert_hidden(row.message_id)
        message = self.storage.load([row.message_id], []).messages[row.message_id]
        self.assertEqual((MessageKind.CALLBACK, {"event": "dead"}, {"k": 1}), (message.kind, message.body, message.attributes))
        self.assertIsNone(self.delivery(row.message_id, other.id))
        done = Settlement(row.message_id, mine.id, taken.token, from_row=True, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done]))
        self.assertEqual(State.DELIVERED, self.state(row.message_id, mine.id))

    def rows_left(self) -> list[str]:
        return [row.subscription_id for row in self.take(self.storage.join()).rows]

    def test_also_one_that_is_disabled(self) -> None:
        mine = self.subscribe()
        self.settle_one(mine, disable=Disabled("wrong", NOW), alerts=(self.callback(mine),))
        self.assertEqual([mine.id], self.rows_left())

    def test_also_what_comes_of_a_failure(self) -> None:
        mine = self.subscribe()
        failure = Failure(self.clock.now, True, 1, 1000.0, "wrong", "silent", self.callback(mine))
        self.settle_one(mine, failure=failure)
        self.assertEqual([mine.id], self.rows_left())

    def test_beside_the_alert_queue(self) -> None:
        mine = self.subscribe()
        failure = Failure(self.clock.now, True, 1, 1000.0, "wrong", "silent", self.alert("off"), self.callback(mine))
        self.settle_one(mine, failure=failure)
        self.assertEqual([1], self.posted())
        self.assertEqual([mine.id], self.rows_left())

    def test_a_deleted_one_gets_nothing(self) -> None:
        mine, other = self.subscribe(), self.subscribe("http://b/")
        self.storage.delete_subscription("p", "q", mine.id)
        self.settle_one(other, alerts=(self.callback(mine, "a"), self.callback(other, "b")))
        self.assertEqual([other.id], self.rows_left())

    def test_not_more_often_than_it_says(self) -> None:
        mine = self.subscribe()
        for _ in range(2):
            self.settle_one(mine, alerts=(self.callback(mine), self.callback(mine)))
        self.clock.now += 600
        self.settle_one(mine, alerts=(self.callback(mine), self.alert("other")))
        found = self.storage.subscription_deliveries("p", "q", mine.id, None, 9)
        self.assertEqual(2, [record.log for record in found].count(()))
        self.assertEqual([1], self.posted(), "others are published as before")

    def test_the_queue_is_made_again(self) -> None:
        mine = self.subscribe()
        (message,) = self.publish()
        token = self.take(self.storage.join()).token
        self.storage.delete_queue("p", "q")
        alert = self.callback(mine)
        self.storage.settle([Settlement(message, mine.id, token, from_row=False, log=self.dead(), alerts=(alert,))])
        self.assertIsNotNone(self.storage.get_queue("p", "q"))
        (row,) = self.take(self.storage.join()).rows
        self.assertEqual(State.IN_FLIGHT, self.state(row.message_id, mine.id))

    def test_it_outlives_its_queue(self) -> None:
        mine = self.subscribe()
        self.settle_one(mine, alerts=(self.callback(mine),))
        self.storage.delete_queue("p", "q")
        (row,) = self.take(self.storage.join()).rows
        self.assertIn(row.message_id, self.storage.load([row.message_id], []).messages)

    def test_encrypted_as_the_message_is(self) -> None:
        keyring = ChangingKeyring([OLD_KEY])
        self.storage = self.open(keyring=keyring)
        self.catch_log()
        self.storage.put_queue("p", "sealed", {"_enable_encrypt_messages": True})
        mine, sealed = self.subscribe(), self.subscribe(queue="sealed")
        given = []
        for of in (mine, sealed):
            # The queue that they are posted to encrypts nothing.
            self.settle_one(of, alerts=(self.callback(of, of.id),))
            given += [row.message_id for row in self.take(self.storage.join()).rows]
        for key, expected in ((OLD_KEY, [False, False]), (NEW_KEY, [False, True])):
            keyring.replace(key)
            loaded = self.storage.load(given, []).messages
            self.assertEqual(expected, [loaded[one].sealed for one in given])
