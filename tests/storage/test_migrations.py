from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from typing import Any

import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.storage import case
from tests.storage.contract import NOW
from zaqar_notify.errors import CannotStart
from zaqar_notify.model import LaneKey, Message, MessageKind, OutcomeKind, Receipt, ReceiptKind, State
from zaqar_notify.storage import codes, ids
from zaqar_notify.storage.base import Closing, Failure, Row, Settlement, Window
from zaqar_notify.storage.sql import tables
from zaqar_notify.storage.sql.migrations import configuration


class MigrationTest(case.SqlCase):
    def test_the_code_needs_the_newest_revision(self) -> None:
        script = ScriptDirectory.from_config(configuration())
        self.assertEqual([tables.REVISION], script.get_heads())
        revisions = [one.revision for one in script.walk_revisions()]
        self.assertEqual(sorted(revisions, reverse=True), revisions)

    def test_migrating_makes_the_schema_of_the_tables(self) -> None:
        engine = sqlalchemy.create_engine("sqlite://")
        self.addCleanup(engine.dispose)
        tables.metadata.create_all(engine)
        with engine.connect() as connection:
            expected = {name: _plain(sql) for name, sql in connection.exec_driver_sql(_SCHEMA)}
        with contextlib.closing(sqlite3.connect(self.path)) as migrated:
            found = {name: _plain(sql) for name, sql in migrated.execute(_SCHEMA)}
        del found["alembic_version"]
        self.assertEqual(expected, found)

    def test_alembic_sees_no_difference(self) -> None:
        engine = sqlalchemy.create_engine(f"sqlite:///{self.path}", poolclass=sqlalchemy.NullPool)
        self.addCleanup(engine.dispose)
        with engine.connect() as connection:
            self.assertEqual([], compare_metadata(MigrationContext.configure(connection), tables.metadata))

    def test_every_state_and_outcome_has_a_code_of_its_own(self) -> None:
        self.assertEqual((set(State), len(State)), (set(codes.STATE_CODES), len(codes.STATES)))
        self.assertEqual((set(MessageKind), len(MessageKind)), (set(codes.KIND_CODES), len(codes.KINDS)))
        self.assertEqual((set(OutcomeKind), len(OutcomeKind)), (set(codes.OUTCOME_CODES), len(codes.OUTCOMES)))
        self.assertEqual((set(ReceiptKind), len(ReceiptKind)), (set(codes.RECEIPT_CODES), len(codes.RECEIPT_KINDS)))


class FirstRevisionTest(case.SqlCase):
    """A database that the first version made and used."""

    def setUp(self) -> None:
        super().setUp()
        os.unlink(self.path)
        engine = sqlalchemy.create_engine(f"sqlite:///{self.path}", poolclass=sqlalchemy.NullPool)
        self.addCleanup(engine.dispose)
        with engine.begin() as connection:
            config = configuration()
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
        with contextlib.closing(sqlite3.connect(self.path)) as outside, outside:
            outside.execute(
                "INSERT INTO queues (id, project, name, metadata, created_at) VALUES (1, 'p', 'q', '{\"a\": 1}', 5)"
            )
            outside.executemany(
                "INSERT INTO messages (id, queue_id, body, ttl, created_at, expires_at, deleted_at, version, prune_at)"
                " VALUES (?, 1, ?, 300, ?, ?, ?, 1, ?)",
                [(number, b"%d" % number, NOW, NOW + 300, NOW if number == 4 else None, NOW + 300) for number in range(1, 6)],
            )
            outside.executemany("INSERT INTO outbox (message_id, queue_id, due_at, takes) VALUES (?, 1, 0, 0)", [(3,), (5,)])
            outside.execute(
                "INSERT INTO subscriptions (id, project, queue, subscriber, options, created_at, confirmed, secret_made)"
                " VALUES (9, 'p', 'q', 'http://a/', '{}', 5, 0, 0)"
            )
            outside.execute(
                "INSERT INTO deliveries (message_id, subscription_id, due_at, attempts, lines, expires_at)"
                " VALUES (2, 9, 0, 1, 1, ?)",
                (NOW + 300,),
            )
            outside.execute(
                "INSERT INTO deliveries (message_id, subscription_id, lane_id, attempts, lines, expires_at)"
                " VALUES (4, 9, 1, 1, 1, ?)",
                (NOW + 300,),
            )
            outside.execute("INSERT INTO lanes (id, project, name, due_at) VALUES (1, 'p', 'http://a', 0)")
            outside.execute(
                "INSERT INTO delivery_log (message_id, subscription_id, number, at, state, outcome) VALUES (1, 9, 1, ?, 4, 1)",
                (int(NOW * 1000),),
            )

    def test_the_new_code_does_not_touch_it_before_it_is_upgraded(self) -> None:
        self.assertIn("0001", str(self.assertRaises(CannotStart, self.storage.check)))

    def test_everything_is_still_there(self) -> None:
        storage = self.storage
        self.assertTrue(storage.upgrade())
        storage.check()
        self.assertFalse(storage.upgrade())
        shown = [ids.show(number) for number in range(1, 6)]
        live = [shown[0], shown[1], shown[2], shown[4]]
        self.assertEqual({"a": 1}, storage.get_queue("p", "q").metadata)
        found = storage.list_messages("p", "q", None, 10)
        self.assertEqual(live, [message.id for message in found])
        self.assertEqual([1, 2, 3, 5], [message.body for message in found])
        self.assertEqual({(MessageKind.NOTIFICATION, None, None, False)}, {_new_fields(message) for message in found})
        self.assertEqual(4, storage.stats("p", "q").free)
        self.assertEqual(State.DELIVERED, self.state(shown[0], ids.show(9)))
        self.assertEqual(State.PENDING, self.state(shown[1], ids.show(9)))

    def test_what_was_not_delivered_is_delivered(self) -> None:
        self.storage.upgrade()
        taken = self.take(self.storage.join())
        self.assertEqual([ids.show(3), ids.show(5)], [entry.message_id for entry in taken.entries])
        self.assertEqual([(ids.show(2), ids.show(9))], [(row.message_id, row.subscription_id) for row in taken.rows])
        loaded = self.storage.load([ids.show(2), ids.show(3)], [ids.show(9)])
        self.assertEqual({ids.show(2): b"2", ids.show(3): b"3"}, {one.id: one.body_json for one in loaded.messages.values()})
        self.assertEqual(["http://a/"], [one.subscriber for one in loaded.subscriptions.values()])

    def test_what_was_posted_can_be_consumed(self) -> None:
        self.storage.upgrade()
        self.assertEqual([ids.show(1)], [one.id for one in self.storage.pop_messages("p", "q", 1)])
        claim, messages = self.storage.claim("p", "q", 2, 60, 60)
        self.assertEqual([ids.show(2), ids.show(3)], [message.id for message in messages])
        self.assertEqual([ids.show(5)], [message.id for message in self.storage.list_messages("p", "q", None, 10)])
        self.storage.release_claim("p", "q", claim.id)
        given = self.publish()
        self.assertEqual(
            [ids.show(2), ids.show(3), ids.show(5), *given],
            [message.id for message in self.storage.list_messages("p", "q", None, 10)],
        )

    def test_lanes_are_emptied_and_projects_have_their_turns(self) -> None:
        self.storage.upgrade()
        self.publish(2, project="o")
        worker = self.storage.join()
        lane = LaneKey("p", "http://a")
        taken = self.take(worker, entries=2, rows=0, lanes=2)
        self.assertEqual(([lane], {}), (taken.lanes, taken.probes))
        self.assertEqual([], self.storage.breakers())
        loaded = self.storage.load([entry.message_id for entry in taken.entries], []).messages.values()
        self.assertEqual({"o", "p"}, {message.project for message in loaded})
        taken = self.take(worker, rows=0, parked={lane: 5})
        self.assertEqual([(ids.show(4), NOW + 300, lane)], [(row.message_id, row.expires_at, row.lane) for row in taken.rows])
        with contextlib.closing(sqlite3.connect(self.path)) as inside:
            for table in ("queues", "outbox", "deliveries"):
                found = inside.execute(
                    f"SELECT DISTINCT p.name FROM {table} AS t LEFT JOIN projects AS p ON p.id = t.project_id"
                )
                self.assertTrue({("p",)} <= set(found.fetchall()) <= {("p",), ("o",)}, table)

    def test_it_can_fail_and_be_delivered_again(self) -> None:
        self.storage.upgrade()
        taken = self.take(self.storage.join())
        failure = Failure(NOW, True, 1, 60.0, "strikes", "longest")
        row = Settlement(ids.show(2), ids.show(9), taken.token, True, self.failed(2), failure=failure)
        self.assertEqual(0, self.storage.settle([row]))
        subscription = self.storage.get_subscription("p", "q", ids.show(9))
        self.assertEqual((1, NOW, "strikes"), (subscription.strikes, subscription.failing_since, subscription.disabled.reason))
        self.storage.redeliver("p", "q", ids.show(2), ids.show(9), 600)
        self.assertEqual([NOW + 600], [row.expires_at for row in self.take(self.storage.join()).rows])

    def test_a_worker_of_the_version_before_is_a_member(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as outside, outside:
            outside.execute("INSERT INTO workers (joined_at) VALUES (5)")
        self.storage.upgrade()
        [member] = self.storage.members()
        self.assertEqual(("", 0, "", 5.0), (member.host, member.pid, member.version, member.joined_at))
        self.assertEqual(1, self.storage.recover())
        self.storage.beat(self.storage.join("here", 1, "2"))


class FourthRevisionTest(case.SqlCase):
    """A database of the revision before windows, receipts and pools, with work in it."""

    def setUp(self) -> None:
        super().setUp()
        os.unlink(self.path)
        engine = sqlalchemy.create_engine(f"sqlite:///{self.path}", poolclass=sqlalchemy.NullPool)
        self.addCleanup(engine.dispose)
        with engine.begin() as connection:
            config = configuration()
            config.attributes["connection"] = connection
            command.upgrade(config, "0004")
        with contextlib.closing(sqlite3.connect(self.path)) as outside, outside:
            outside.execute("INSERT INTO projects (id, name) VALUES (7, 'p')")
            outside.execute(
                "INSERT INTO queues (id, project, name, metadata, created_at, project_id) VALUES (1, 'p', 'q', '{}', 5, 7)"
            )
            outside.executemany(
                "INSERT INTO messages (id, queue_id, body, ttl, created_at, expires_at, version, prune_at)"
                " VALUES (?, 1, '1', 300, ?, ?, 1, ?)",
                [(number, NOW, NOW + 300, NOW + 300) for number in range(1, 5)],
            )
            outside.execute(
                "INSERT INTO subscriptions (id, project, queue, subscriber, options, created_at, confirmed, secret_made)"
                " VALUES (9, 'p', 'q', 'http://a/', '{}', 5, 0, 0)"
            )
            outside.execute("INSERT INTO outbox (message_id, queue_id, due_at, takes, project_id) VALUES (1, 1, 0, 0, 7)")
            outside.executemany(
                "INSERT INTO deliveries (message_id, subscription_id, lane_id, due_at, attempts, lines, expires_at, project_id)"
                " VALUES (?, 9, ?, ?, 1, 1, ?, 7)",
                [(2, None, 0, NOW + 300), (3, 1, None, NOW + 300)],
            )
            outside.execute("INSERT INTO lanes (id, project, name, due_at, project_id) VALUES (1, 'p', 'http://a', 0, 7)")
            outside.executemany(
                "INSERT INTO delivery_log (message_id, subscription_id, number, at, state, outcome) VALUES (?, 9, 1, ?, ?, ?)",
                [(2, int(NOW * 1000), 1, 2), (3, int(NOW * 1000), 1, 2), (4, int(NOW * 1000), 4, 1)],
            )

    def test_its_work_goes_on(self) -> None:
        self.assertIn("0004", str(self.assertRaises(CannotStart, self.storage.check)))
        self.assertTrue(self.storage.upgrade())
        self.storage.check()
        worker, mine = self.storage.join(), ids.show(9)
        posted, retried, parked, delivered = (ids.show(number) for number in range(1, 5))
        message = self.storage.get_message("p", "q", posted)
        self.assertEqual((None, None, None), (message.collapse_key, message.priority, message.language))
        self.assertEqual([], list(self.take(worker, entries=0, rows=0, lanes=5, pool="sms").lanes))
        taken = self.take(worker, lanes=5)
        self.assertEqual([posted], [entry.message_id for entry in taken.entries])
        self.assertEqual([Row(retried, mine, 1, 1)], self.rows(taken))
        [lane] = taken.lanes
        self.assertEqual(("http://a", ""), (lane.name, lane.pool))
        from_lane = self.take(worker, parked={lane: 5})
        self.assertEqual([Row(parked, mine, 1, 1, lane)], self.rows(from_lane))
        waits = [
            Settlement(posted, mine, taken.token, False, window=Window("s", 60, "k")),
            Settlement(retried, mine, taken.token, True, window=Window("s", 60, "k"), attempts=1, lines=1, target=1),
            Settlement(parked, mine, from_lane.token, True, self.delivered(2)),
        ]
        self.assertEqual(0, self.storage.settle(waits, [Closing(posted, taken.token)]))
        self.assertEqual([State.SUPERSEDED, State.PARKED], [self.state(one, mine) for one in (posted, retried)])
        self.assertTrue(self.storage.receive(delivered, mine, Receipt(ReceiptKind.FAILED, NOW + 5)))
        self.assertEqual([0], [line.target for line in self.delivery(delivered, mine).log])
        self.assertEqual([delivered], [row.message_id for row in self.take(worker).rows])
        self.clock.now += 60
        self.assertEqual([(retried, 1)], [(row.message_id, row.target) for row in self.take(worker, entries=0).rows[:1]])


class RollingUpgradeTest(case.SqlCase):
    """Old and new versions side by side: a schema says which versions of the code may use it."""

    def setUp(self) -> None:
        super().setUp()
        self.newer = f"{int(tables.REVISION) + 1:04}"

    def run_outside(self, *statements: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as outside, outside:
            for statement in statements:
                outside.execute(statement)

    def test_each_schema_says_since_when_it_can_be_used(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as outside:
            [(oldest,)] = outside.execute("SELECT oldest FROM schema_info").fetchall()
        self.assertTrue("0004" <= oldest <= tables.REVISION, oldest)

    def test_a_newer_schema_that_this_version_may_use_is_used_and_left_alone(self) -> None:
        self.run_outside(
            f"UPDATE alembic_version SET version_num = '{self.newer}'",
            f"UPDATE schema_info SET oldest = '{tables.REVISION}'",
            "ALTER TABLE jobs ADD COLUMN more INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE outbox ADD COLUMN more INTEGER",
        )
        self.storage.check()
        self.assertFalse(self.storage.upgrade())
        mine = self.subscribe()
        message_id, worker = self.entry_into_row(mine.id, due_at=NOW, log=self.failed(), lines=1)
        self.assertEqual([message_id], [row.message_id for row in self.take(worker).rows])
        self.storage.add_job("p", "some", {})
        self.assertIsNotNone(self.storage.hold_job(worker, 30))

    def test_a_newer_schema_that_it_may_not_use_is_not_touched(self) -> None:
        self.run_outside(
            f"UPDATE alembic_version SET version_num = '{self.newer}'", f"UPDATE schema_info SET oldest = '{self.newer}'"
        )
        for use in (self.storage.check, self.storage.upgrade):
            refusal = str(self.assertRaises(CannotStart, use))
            self.assertIn(self.newer, refusal)
            self.assertIn("the version that made it", refusal)

    def test_an_older_schema_is_not_used_before_it_is_upgraded(self) -> None:
        self.run_outside("UPDATE alembic_version SET version_num = '0003'", "UPDATE schema_info SET oldest = '0001'")
        self.assertIn("db upgrade", str(self.assertRaises(CannotStart, self.storage.check)))


def _new_fields(message: Message) -> tuple[Any, ...]:
    return message.kind, message.foreign_id, message.claim_id, message.sealed


_SCHEMA = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"


def _plain(sql: str) -> str:
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.split()))
