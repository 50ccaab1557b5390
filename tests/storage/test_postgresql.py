"""The SQL storage on PostgreSQL: what every storage does, its schema, its statements."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.servers import postgresql
from tests.storage import (
    conformance,
    conformance_at_once,
    conformance_channels,
    conformance_cluster,
    conformance_moved,
    conformance_repeated,
    conformance_windows,
)
from tests.storage.contract import NOW
from tests.storage.postgresql_case import PostgresCase, RealTimeCase, migrated, storage_at
from zaqar_notify.errors import CannotStart, StorageUnavailable
from zaqar_notify.model import Draft, LaneKey, OutcomeKind, State
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Closing, Settlement, Storage
from zaqar_notify.storage.sql import postgresql_statements, statements, tables
from zaqar_notify.storage.sql.migrations import configuration


class EmptyCase(PostgresCase):
    def make_empty(self) -> Storage:
        url = postgresql.shared().new_database(migrated())
        self.addCleanup(postgresql.shared().drop, url)
        storage = storage_at(url, clock=self.clock)
        self.addCleanup(storage.close)
        return storage


class PostgresConformanceTest(
    EmptyCase,
    conformance.StorageConformance,
    conformance_cluster.CopyConformance,
    conformance_repeated.RepeatedConformance,
):
    def setUp(self) -> None:
        super().setUp()
        # About bodies and secrets that cannot be opened.
        self.catch_log()


class PostgresChannelsTest(
    EmptyCase,
    conformance_channels.ChannelsConformance,
    conformance_windows.RepeatedWindowConformance,
    conformance_at_once.AtOnceConformance,
    conformance_at_once.KilledHolderConformance,
    conformance_moved.MovedChannelsConformance,
):
    pass


class WordsTest(PostgresCase):
    def test_the_character_nul_is_in_no_text(self) -> None:
        mine = self.subscribe("http://a/\0b")
        self.assertIsNotNone(self.storage.get_subscription("p", "q", mine.id))
        message_id, _ = self.entry_into_row(
            mine.id, log=self.attempt(1, State.PENDING, OutcomeKind.RETRY, detail="a\0b"), due_at=NOW
        )
        self.assertEqual("a\ufffdb", self.delivery(message_id, mine.id).log[0].detail)
        self.assertIsNone(self.storage.get_queue("p", "\0"))

    def test_names_are_ordered_by_their_code_points(self) -> None:
        names = ["a", "B", "_", "-", "b", "A", "10", "9"]
        for name in names:
            self.storage.put_queue("p", name, {})
        self.assertEqual(sorted(names), [queue.name for queue in self.storage.list_queues("p", None, 100)])
        self.assertEqual(["b"], [queue.name for queue in self.storage.list_queues("p", "a", 100)])

    def test_leases_do_not_wait_for_the_disk_and_all_else_does(self) -> None:
        def asked(**how: bool) -> Any:
            return self.storage._database.write(lambda run: run.exec_driver_sql("SHOW synchronous_commit").scalar(), **how)

        self.assertEqual(["on", "off", "on"], [asked(), asked(durable=False), asked()])


class DatabasesCase(PostgresCase):
    """Databases of each test's own."""

    def new_database(self, template: str | None = None) -> str:
        server = postgresql.shared()
        url: str = server.new_database(template)
        self.addCleanup(server.drop, url)
        return url

    def open_at(self, url: str, **options: Any) -> Any:
        storage = storage_at(url, clock=self.clock, **options)
        self.addCleanup(storage.close)
        return storage


class SchemaTest(DatabasesCase):
    def test_migrating_makes_the_schema_of_the_tables(self) -> None:
        engine = sqlalchemy.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
            self.assertEqual([], compare_metadata(context, tables.metadata))

    def test_two_upgrade_at_once(self) -> None:
        url = self.new_database()
        done: list[bool] = []
        threads = [threading.Thread(target=lambda: done.append(self.open_at(url).upgrade())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([False, False, True], sorted(done))
        self.open_at(url).check()

    def test_an_empty_or_missing_database_cannot_start(self) -> None:
        url = self.new_database()
        self.assertIn("schema none", str(self.assertRaises(CannotStart, self.open_at(url).check)))
        gone = self.open_at(url + "x")
        self.assertIn("no database", str(self.assertRaises(CannotStart, gone.check)))
        self.assertIn("createdb", str(self.assertRaises(CannotStart, gone.upgrade)))
        self.assertIn("upgrade", str(self.assertRaises(StorageUnavailable, self.open_at(url).get_queue, "p", "q")))

    def test_a_database_that_only_reads_is_unavailable(self) -> None:
        name = self.url.rpartition("/")[2]
        self.inside(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            storage = self.another()
            self.assertIn("read-only", str(self.assertRaises(StorageUnavailable, storage.check)))
            self.assertIn("read-only", str(self.assertRaises(StorageUnavailable, storage.publish, "p", "q", [Draft(b"1", 60)])))
            self.assertEqual([], storage.list_queues("p", None, 10))
        finally:
            postgresql.shared().execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    def test_urls(self) -> None:
        for url in (
            self.url.replace("postgresql:", "postgres:"),
            self.url.replace("postgresql:", "postgresql+psycopg:"),
            self.url + "?application_name=mine&connect_timeout=3",
        ):
            self.open_at(url).check()
        names = self.inside("SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()")
        self.assertTrue({("mine",), ("zaqar-notify",)} <= set(names), names)
        bad = "postgresql://u:hunter2@h/d?nonsense=1"
        self.assertNotIn("hunter2", str(self.assertRaises(CannotStart, self.open_at, bad)))
        nobody = self.open_at(self.url.replace("postgres@", "nobody:hunter2@"))
        self.assertNotIn("hunter2", str(self.assertRaises(StorageUnavailable, nobody.check)))

    def test_nothing_is_connected_before_it_is_used(self) -> None:
        url = self.new_database(migrated())
        self.open_at(url)
        of = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{url.rpartition('/')[2]}'"
        self.assertEqual([(0,)], postgresql.shared().execute(of))


class MigrationTest(DatabasesCase):
    """Databases that an earlier version made and used."""

    def upgraded_to(self, revision: str) -> tuple[str, Any]:
        url = self.new_database()
        engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            config = configuration()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        outside = psycopg.connect(url, autocommit=True)
        self.addCleanup(outside.close)
        outside.execute("INSERT INTO queues (id, project, name, metadata, created_at) VALUES (1, 'p', 'q', '{\"a\": 1}', 5)")
        outside.execute("SELECT setval('queues_id_seq', 1)")
        for number in range(1, 6):
            outside.execute(
                "INSERT INTO messages (id, queue_id, body, ttl, created_at, expires_at, deleted_at, version, prune_at)"
                " VALUES (%s, 1, %s, 300, %s, %s, %s, 1, %s)",
                (number, b"%d" % number, NOW, NOW + 300, NOW if number == 4 else None, NOW + 300),
            )
        outside.execute(
            "INSERT INTO subscriptions (id, project, queue, subscriber, options, created_at, confirmed, secret_made)"
            " VALUES (9, 'p', 'q', 'http://a/', '{}', 5, false, false)"
        )
        outside.execute(
            "INSERT INTO delivery_log (message_id, subscription_id, number, at, state, outcome) VALUES (1, 9, 1, %s, 4, 1)",
            (int(NOW * 1000),),
        )
        return url, outside

    def look(self, url: str) -> None:
        storage = self.storage = self.open_at(url)
        self.assertTrue(storage.upgrade())
        self.assertFalse(storage.upgrade())
        storage.check()
        shown = [ids.show(number) for number in range(1, 6)]
        self.assertEqual({"a": 1}, storage.get_queue("p", "q").metadata)
        found = storage.list_messages("p", "q", None, 10)
        self.assertEqual([(shown[0], 1), (shown[1], 2), (shown[2], 3), (shown[4], 5)], [(one.id, one.body) for one in found])
        self.assertEqual(State.DELIVERED, self.state(shown[0], ids.show(9)))
        self.assertEqual(State.PENDING, self.state(shown[1], ids.show(9)))
        lane = LaneKey("p", "http://a")
        worker = storage.join()
        taken = self.take(worker, lanes=2)
        self.assertEqual([shown[2], shown[4]], [entry.message_id for entry in taken.entries])
        self.assertEqual([(shown[1], ids.show(9))], [(row.message_id, row.subscription_id) for row in taken.rows])
        self.assertEqual([lane], taken.lanes)
        self.assertEqual([shown[3]], [row.message_id for row in self.take(worker, parked={lane: 5}).rows])
        done = [Settlement(one, ids.show(9), taken.token, False, self.delivered()) for one in (shown[2], shown[4])]
        self.assertEqual(0, storage.settle(done, [Closing(one, taken.token) for one in (shown[2], shown[4])]))
        self.assertEqual(State.DELIVERED, self.state(shown[2], ids.show(9)))
        self.assertGreater(self.publish()[0], shown[4])
        self.assertEqual(["r"], [queue.name for queue in (storage.put_queue("p", "r", {}), storage.get_queue("p", "r"))[1:]])

    def test_from_the_first_revision(self) -> None:
        url, outside = self.upgraded_to("0001")
        self.assertIn("0001", str(self.assertRaises(CannotStart, self.open_at(url).check)))
        outside.execute("INSERT INTO outbox (message_id, queue_id, due_at, takes) VALUES (3, 1, 0, 0), (5, 1, 0, 0)")
        outside.execute(
            "INSERT INTO deliveries (message_id, subscription_id, lane_id, due_at, attempts, lines, expires_at)"
            f" VALUES (2, 9, NULL, 0, 1, 1, {NOW + 300}), (4, 9, 1, NULL, 1, 1, {NOW + 300})"
        )
        outside.execute("INSERT INTO lanes (id, project, name, due_at) VALUES (1, 'p', 'http://a', 0)")
        self.look(url)

    def test_from_the_third_and_the_fourth_revision(self) -> None:
        for revision in ("0003", "0004"):
            self.look_from(revision)

    def look_from(self, revision: str) -> None:
        url, outside = self.upgraded_to(revision)
        outside.execute("INSERT INTO projects (id, name) VALUES (7, 'p')")
        outside.execute("UPDATE queues SET project_id = 7")
        outside.execute(
            "INSERT INTO outbox (message_id, queue_id, due_at, takes, project_id) VALUES (3, 1, 0, 0, 7), (5, 1, 0, 0, 7)"
        )
        outside.execute(
            "INSERT INTO deliveries (message_id, subscription_id, lane_id, due_at, attempts, lines, expires_at, project_id)"
            f" VALUES (2, 9, NULL, 0, 1, 1, {NOW + 300}, 7), (4, 9, 1, NULL, 1, 1, {NOW + 300}, 7)"
        )
        outside.execute("INSERT INTO lanes (id, project, name, due_at, project_id) VALUES (1, 'p', 'http://a', 0, 7)")
        self.look(url)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


class PlanTest(PostgresCase):
    """With much in the tables, and what the server believes of them: it has last looked at any time."""

    # What is asked for is all of it: open breakers, members, how much waits. To housekeeping of claims the index of all claimed
    # messages may look as good as that of one claim's.
    WHOLE = {
        *("BREAKERS", "COUNT_ALL_MESSAGES", "COUNT_WAITING", "FIND_FREE_JOB", "MEMBERS", "OLDEST_ENTRY", "LAST_JOB_ID"),
        "REMOVE_CLAIMS",
    }

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.statements = {
            name: text for name, text in vars(statements).items() if name.isupper() and name[0] != "_" and isinstance(text, str)
        }

    def fill(self, first: int, last: int) -> None:
        for table, columns, values in (
            ("projects", "id, name", "g, 'p' || g"),
            ("queues", "id, project, name, metadata, created_at, project_id", "g, 'p' || g, 'q', '{}', 0, g"),
            (
                "messages",
                "id, queue_id, body, ttl, created_at, expires_at, version, prune_at, claim_id, free_at",
                "g, g % 100, 'x', 300, 0, 1e12, 1, 1e12, CASE WHEN g % 9 = 0 THEN g END, CASE WHEN g % 9 = 0 THEN 9 ELSE 0 END",
            ),
            ("outbox", "message_id, queue_id, due_at, takes, project_id", "g, g % 100, 0, 0, g % 100"),
            (
                "deliveries",
                "message_id, subscription_id, lane_id, due_at, lease, attempts, lines, expires_at, project_id, window_id,"
                " window_key",
                "g, 9, CASE WHEN g % 3 = 0 THEN g % 100 END, CASE WHEN g % 3 > 0 THEN g END, CASE WHEN g % 3 = 1 THEN 5 END,"
                " 1, 1, 1e12, g % 100, CASE WHEN g % 3 = 2 THEN g % 100 END, CASE WHEN g % 3 = 2 THEN 'k' || g END",
            ),
            (
                "lanes",
                "id, project, name, due_at, project_id, pool",
                "g, 'p', 'l' || g, 0, g % 100, CASE WHEN g % 2 = 0 THEN '' ELSE 's' || g % 4 END",
            ),
            ("windows", "id, project, scope, ends_at", "g, 'p', 's' || g, 1e12 + g"),
            ("receipts", "message_id, subscription_id, kind, at", "g, 9, 1, 0"),
            (
                "subscriptions",
                "id, project, queue, subscriber, options, created_at, confirmed, secret_made",
                "g, 'p', 'q' || g % 100, 'http://' || g, '{}', 0, true, false",
            ),
            ("delivery_log", "message_id, subscription_id, number, at, state", "g, 9, 1, 0, 4"),
            ("jobs", "id, project, kind, details, created_at, message_id", "g, 'p', 'x', '{}', 0, g"),
        ):
            self.inside(f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series({first}, {last}) AS g")

    def plans(self) -> Iterator[tuple[str, dict[str, Any]]]:
        connection = self.storage._database.connect()
        self.addCleanup(connection.close)
        connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, statement in self.statements.items():
            numbers: dict[str, int] = {}

            def number(found: re.Match[str], numbers: dict[str, int] = numbers) -> str:
                return f"${numbers.setdefault(found[1] or str(len(numbers)), len(numbers) + 1)}"

            text = re.sub(r"%(?:\((\w+)\))?s", number, postgresql_statements.translated(statement, True)).replace("%%", "%")
            connection.execute(f"PREPARE one AS {text}", prepare=False)
            given = f"({', '.join(['NULL'] * len(numbers))})" if numbers else ""
            plan = connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE one{given}", prepare=False).fetchone()
            connection.execute("DEALLOCATE one", prepare=False)
            assert plan is not None
            yield name, plan[0][0]["Plan"]

    def assert_searched(self) -> None:
        """Whatever is looked for is looked for by an index that begins with it."""
        self.assertIn("TAKE_ROWS", self.statements)
        first = "SELECT indexname, substring(indexdef from '\\((\\w+)') FROM pg_indexes"
        begins_with = dict(self.inside(first))
        scans = [
            f"{name}: {node['Node Type']} {node.get('Index Name')} {node.get('Index Cond')} {node.get('Filter')}"
            for name, plan in self.plans()
            for node in _nodes(plan)
            if node["Node Type"] == "Seq Scan"
            or (
                node["Node Type"].startswith("Index")
                and begins_with[node["Index Name"]] not in node.get("Index Cond", "")
                and name not in self.WHOLE
            )
        ]
        self.assertEqual([], scans)

    def test_what_is_believed_is_true(self) -> None:
        self.fill(1, 3000)
        self.inside("ANALYZE")
        self.assert_searched()

    def test_all_is_believed_to_be_empty(self) -> None:
        self.inside("VACUUM ANALYZE")
        self.fill(1, 3000)
        self.assert_searched()

    def test_little_is_believed_to_be_there(self) -> None:
        self.fill(1, 3)
        self.inside("VACUUM ANALYZE")
        self.fill(4, 3000)
        self.assert_searched()


class RowsTest(RealTimeCase):
    def test_a_row_that_is_left_twice_is_stored_once(self) -> None:
        mine = self.subscribe()
        message_id = self.publish()[0]
        token = self.take(self.storage.join()).token
        twice = [Settlement(message_id, mine.id, token, from_row=False, due_at=at, attempts=1) for at in (0.0, NOW + 5e8)]
        self.assertEqual(0, self.storage.settle(twice))
        self.assertEqual(NOW + 5e8, self.delivery(message_id, mine.id).next_attempt_at)
