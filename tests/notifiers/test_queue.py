import dataclasses
import logging
import time
import unittest
from typing import Any

from oslo_config import cfg

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Draft, Message, Outcome, OutcomeKind, Priority, Subscription
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.queue import HOPS, QueueNotifier
from zaqar_notify.notifiers.sending import sound


def section(**values: Any) -> Any:
    conf = cfg.ConfigOpts()
    conf.register_opts(QueueNotifier.options, "queue")
    conf([], project="tests", default_config_files=[], default_config_dirs=[])
    for name, value in values.items():
        conf.set_override(name, value, "queue")
    return conf.queue


def notifier(**values: Any) -> QueueNotifier:
    return QueueNotifier(section(**values), HttpClients(Guard(), max_timeout=20.0), logging.getLogger("tests.queue"))


def subscription(uri: str) -> Subscription:
    return Subscription("s1", "p", "demo", uri, None, {}, time.time(), None)


def message(**fields: Any) -> Message:
    now = time.time()
    return dataclasses.replace(Message("m1", "p", "demo", b'{"a": "b"}', 300, now - 100.5, now + 199.5), **fields)


class CopyTest(unittest.TestCase):
    def copy(self, of: Message, uri: str = "queue:other", **values: Any) -> Outcome:
        reported: list[tuple[Delivery, Outcome]] = []
        delivery = Delivery("m1-s1", 1, time.monotonic() + 10, of, subscription(uri))
        notifier(**values).send_many([delivery], lambda *report: reported.append(report))
        ((same, outcome),) = reported
        self.assertIs(delivery, same)
        self.assertEqual(outcome, sound(outcome))
        return outcome

    def draft(self, of: Message, **values: Any) -> Draft:
        outcome = self.copy(of, **values)
        self.assertIs(OutcomeKind.DELIVERED, outcome.kind)
        ((queue, draft),) = outcome.publish
        self.assertEqual("other", queue)
        return draft

    def test_what_a_copy_keeps(self) -> None:
        draft = self.draft(
            message(attributes={"size": 7}, collapse_key="k", priority=Priority.HIGH, language="sv", foreign_id="f1")
        )
        self.assertEqual(
            Draft(
                b'{"a": "b"}',
                draft.ttl,
                {"size": 7, "copy_source": "demo", "copy_message_id": "f1", "copy_hops": 1},
                parent_id="m1",
                collapse_key="k",
                priority=Priority.HIGH,
                language="sv",
            ),
            draft,
        )

    def test_it_lives_as_long_as_the_message_would_have(self) -> None:
        self.assertTrue(100 < self.draft(message()).ttl <= 199)
        self.assertEqual(1, self.draft(message(expires_at=time.time() + 1.5)).ttl)
        self.assertEqual(300, self.draft(message(expires_at=time.time() - 1.0)).ttl, "an expired one, delivered again")

    def test_hops(self) -> None:
        for before, after in ((None, 1), (1, 2), (4, 5), (-7, 1), (True, 1), ("4", 1), (2.0, 1)):
            with self.subTest(before):
                self.assertEqual(after, self.draft(message(attributes={HOPS: before})).attributes[HOPS])
        outcome = self.copy(message(attributes={HOPS: 5}))
        self.assertEqual((OutcomeKind.REJECTED, False, ()), (outcome.kind, outcome.target, outcome.publish))
        self.assertIn("copied 5 times", outcome.detail)
        self.assertIs(OutcomeKind.REJECTED, self.copy(message(attributes={HOPS: 1}), max_hops=1).kind)
        self.assertEqual(6, self.draft(message(attributes={HOPS: 5}), max_hops=6).attributes[HOPS])

    def test_a_target_that_is_none(self) -> None:
        outcome = self.copy(message(), "queue:demo")
        self.assertEqual((OutcomeKind.REJECTED, True, ()), (outcome.kind, outcome.target, outcome.publish))


class CheckTest(unittest.TestCase):
    def test_good_ones(self) -> None:
        for uri in ("queue:other", "QUEUE:other", "queue:a.b_c-D4", "queue:" + "x" * 64):
            notifier().check(subscription(uri))

    def test_bad_ones(self) -> None:
        for uri, words in (
            ("queue:demo", "for ever"),
            ("queue:", "may hold"),
            ("queue:a b", "may hold"),
            ("queue:a/b", "may hold"),
            ("queue://other", "may hold"),
            ("queue:" + "x" * 65, "64"),
            ("queue+x:other", "queue: and the name"),
        ):
            with self.subTest(uri), self.assertRaisesRegex(InvalidRequest, words):
                notifier().check(subscription(uri))

    def test_each_target_has_a_lane_of_its_own(self) -> None:
        self.assertEqual("queue:other", notifier().lane(subscription("queue:other")))
