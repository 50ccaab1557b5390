"""What a message says of itself beside its body: collapse key, priority, language; and which address an attempt went to."""

from __future__ import annotations

from tests.storage.contract import NOW, StorageCase
from zaqar_notify.model import Draft, LaneKey, Message, Priority, State, Subscription
from zaqar_notify.storage.base import Closing, Row, Settlement

HINTED = Draft(b'{"a": 1}', 300, {"k": 1}, collapse_key="score", priority=Priority.HIGH, language="pt-BR")
HINTS = ("score", Priority.HIGH, "pt-BR")
NONE = (None, None, None)


def hints(message: Message) -> tuple[str | None, Priority | None, str | None]:
    return message.collapse_key, message.priority, message.language


class HintsConformance(StorageCase):
    def test_they_come_back(self) -> None:
        given = self.storage.publish("p", "q", [HINTED, Draft(b"2", 300), HINTED], "me")
        expected = [HINTS, NONE, HINTS]
        self.assertEqual(given, self.listed(), "ids are in the order of the drafts")
        self.assertEqual(expected, [hints(one) for one in self.storage.list_messages("p", "q", None, 10)])
        loaded = self.storage.load(given, []).messages
        self.assertEqual(expected, [hints(loaded[one]) for one in given])
        found = self.storage.get_message("p", "q", given[0])
        self.assertEqual(HINTS, hints(found))
        self.assertEqual(({"a": 1}, {"k": 1}, "me"), (found.body, found.attributes, found.client_id))
        stats = self.storage.stats("p", "q")
        self.assertEqual([HINTS, HINTS], [hints(stats.oldest), hints(stats.newest)])
        self.assertEqual(given, [entry.message_id for entry in self.take(self.storage.join()).entries])
        claimed = self.storage.claim("p", "q", 2, 60, 60)
        assert claimed
        self.assertEqual([HINTS, NONE], [hints(message) for message in claimed[1]])
        self.assertEqual([HINTS], [hints(message) for message in self.storage.pop_messages("p", "q", 5)])

    def test_each_alone(self) -> None:
        drafts = [
            Draft(b"1", 300, collapse_key="é" * 64),
            Draft(b"2", 300, priority=Priority.VERY_LOW),
            Draft(b"3", 300, language="zh-Hant"),
        ]
        self.storage.publish("p", "q", drafts)
        found = [hints(message) for message in self.storage.list_messages("p", "q", None, 10)]
        self.assertEqual([("é" * 64, None, None), (None, Priority.VERY_LOW, None), (None, None, "zh-Hant")], found)
        self.assertIsInstance(found[1][1], Priority)

    def test_of_hidden_messages(self) -> None:
        self.storage.put_queue("p", "q", {"_enable_encrypt_messages": True})
        subscribed = self.storage.subscribe(self.subscription(), lambda _: HINTED).subscription
        (held,) = self.storage.hold("p", "q", [HINTED], None, 30)
        pinged = self.storage.ping("p", "q", subscribed.id, HINTED)
        assert pinged
        asked = self.take(self.storage.join()).rows[0].message_id
        for message_id in (held, pinged, asked):
            message = self.storage.load([message_id], []).messages[message_id]
            self.assertEqual((HINTS, {"a": 1}), (hints(message), message.body))

    def test_of_what_a_settlement_posts(self) -> None:
        mine = self.subscribe()
        (message,) = self.publish()
        token = self.take(self.storage.join()).token
        copied = Settlement(message, mine.id, token, from_row=False, log=self.delivered(), publish=(("out", HINTED),))
        self.assertEqual(0, self.storage.settle([copied]))
        self.assertEqual([HINTS], [hints(one) for one in self.storage.list_messages("p", "out", None, 10)])

    def test_of_one_that_is_claimed_too_often(self) -> None:
        self.storage.put_queue("p", "q", {"_max_claim_count": 1, "_dead_letter_queue": "dead"})
        self.storage.publish("p", "q", [HINTED])
        self.claim()
        self.clock.now += 100
        self.assertIsNone(self.storage.claim("p", "q", 5, 60, 60))
        self.assertEqual([HINTS], [hints(one) for one in self.storage.list_messages("p", "dead", None, 10)])


class TargetsConformance(StorageCase):
    """Which of its addresses a delivery goes to."""

    def matched_one(self) -> tuple[Subscription, str, int]:
        mine = self.subscribe()
        (message,) = self.publish()
        self.worker = self.storage.join()
        return mine, message, self.take(self.worker).token

    def test_a_row_has_that_of_its_settlement(self) -> None:
        mine, message, token = self.matched_one()
        failed = {"log": self.failed(), "attempts": 1, "lines": 1}
        first = Settlement(message, mine.id, token, from_row=False, due_at=NOW, target=2, **failed)
        self.assertEqual(0, self.storage.settle([first], [Closing(message, token)]))
        taken = self.take(self.worker)
        self.assertEqual([Row(message, mine.id, 1, 1, target=2)], self.rows(taken))
        parked = Settlement(message, mine.id, taken.token, True, park=LaneKey("p", "x"), attempts=1, lines=1, target=3)
        self.assertEqual(0, self.storage.settle([parked]))
        self.take(self.worker, lanes=1)
        taken = self.take(self.worker, parked={LaneKey("p", "x"): 1})
        self.assertEqual([3], [row.target for row in taken.rows])
        back = Settlement(message, mine.id, taken.token, from_row=True, due_at=NOW, attempts=1, lines=1)
        self.assertEqual(0, self.storage.settle([back]))
        self.assertEqual([0], [row.target for row in self.take(self.worker).rows])

    def test_a_line_has_that_of_its_attempt(self) -> None:
        mine, message, token = self.matched_one()
        lines = [self.failed(), self.attempt(2, State.PENDING, target=1), self.delivered(3)]
        first = Settlement(message, mine.id, token, from_row=False, log=lines[0], due_at=NOW, lines=1, target=1)
        self.assertEqual(0, self.storage.settle([first], [Closing(message, token)]))
        for line, left in ((lines[1], {"due_at": NOW, "lines": 2}), (lines[2], {})):
            token = self.take(self.worker).token
            self.assertEqual(0, self.storage.settle([Settlement(message, mine.id, token, from_row=True, log=line, **left)]))
        self.assertEqual([0, 1, 0], [line.target for line in self.delivery(message, mine.id).log])

    def test_a_redelivery_begins_with_the_first(self) -> None:
        mine, message, token = self.matched_one()
        ended = Settlement(message, mine.id, token, from_row=False, log=self.attempt(1, State.DEAD, target=2))
        self.assertEqual(0, self.storage.settle([ended], [Closing(message, token)]))
        self.storage.redeliver("p", "q", message, mine.id, 600)
        self.assertEqual([0], [row.target for row in self.take(self.worker).rows])
