"""`zaqar-notify cluster` and `zaqar-notify job`, on the embedded database."""

import contextlib
import json
import pathlib
import sqlite3
import tempfile
import unittest

from tests.flow.case import KEY
from tests.servers.redis import Redis
from tests.unit.test_cli import run
from zaqar_notify import __version__, bootstrap
from zaqar_notify.model import Draft

CONFIG = f"""\
[encryption]
keys = {KEY}
[signed_url]
secret_key = {"5a" * 32}
"""


class CommandCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.config = pathlib.Path(folder.name, "test.conf")
        self.configure(f"[DEFAULT]\ndata_dir = {folder.name}\n" + CONFIG)
        self.storage = bootstrap.build_storage(bootstrap.configure(config_files=[str(self.config)]))
        self.addCleanup(self.storage.close)
        self.storage.upgrade()

    def configure(self, text):
        self.config.write_text((self.config.read_text() if self.config.exists() else "") + text)

    def run_command(self, *words, status=0):
        ended, out, err = run(*words, "--config-file", str(self.config))
        self.assertEqual(status, ended, err)
        return out if ended in (0, 1) and not err else err

    def read(self, *words, status=0):
        return json.loads(self.run_command(*words, status=status))

    def join(self, host="one.example"):
        worker_id = self.storage.join(host, 4711, __version__)
        self.addCleanup(self.storage.leave, worker_id)
        return worker_id

    def fail(self, job_id, error="ValueError: no"):
        self.assertIsNotNone(self.storage.hold_job(self.worker_id, 30.0, job_id))
        self.assertTrue(self.storage.fail_job(self.worker_id, job_id, error))


class StatusTest(CommandCase):
    def test_a_healthy_one(self):
        worker_id = self.join()
        job_id = self.storage.add_job("p", "replay", {})
        self.storage.hold_job(worker_id, 30.0, job_id)
        found = self.read("cluster", "status", "--json")
        self.assertEqual((True, [], None), (found["healthy"], found["problems"], found["board"]))
        [worker] = found["workers"]
        self.assertEqual(
            (worker_id, "one.example", 4711, __version__, "alive", 1),
            tuple(worker[name] for name in ("id", "host", "pid", "version", "state", "jobs")),
        )
        self.assertEqual((1, 0, None), tuple(found["backlog"][name] for name in ("jobs", "failed_jobs", "oldest_age")))
        text = self.run_command("cluster", "status")
        self.assertIn("one.example", text)
        self.assertIn("all is well", text)

    def test_what_needs_a_look(self):
        found = self.read("cluster", "status", "--json", status=1)
        self.assertEqual(["no worker is at work"], found["problems"])
        self.worker_id = self.join()
        self.read("cluster", "status", "--json")
        job_id = self.storage.add_job("p", "replay", {})
        self.fail(job_id)
        found = self.read("cluster", "status", "--json", status=1)
        self.assertRegex(found["problems"][0], "^1 jobs have failed")
        self.storage.retry_job(job_id)
        self.storage.publish("p", "q", [Draft(b"1", 60)])
        self.read("cluster", "status", "--json")
        found = self.read("cluster", "status", "--json", "--max-age", "0", status=1)
        self.assertRegex(found["problems"][0], "^the oldest message")
        self.assertIn("needs a look: the oldest message", self.run_command("cluster", "status", "--max-age", "0", status=1))

    def test_a_worker_that_has_not_said_for_a_lease_that_it_lives_is_silent(self):
        self.join()
        self.configure("[worker]\nlease = 11\n")
        later = self.storage.now() + 12
        [member] = self.storage.members()
        from zaqar_notify.commands import cluster

        self.assertEqual("alive", cluster._worker(member, later - 2, 11.0)["state"])
        self.assertEqual("silent", cluster._worker(member, later, 11.0)["state"])

    def test_a_worker_of_a_version_that_says_nothing_was_seen_at_no_time(self):
        self.join()
        with contextlib.closing(sqlite3.connect(self.config.parent / "zaqar-notify.db")) as database, database:
            database.execute("UPDATE workers SET seen_at = 0, version = ''")
        [worker] = self.read("cluster", "status", "--json", status=1)["workers"]
        self.assertEqual(("silent", None, None), (worker["state"], worker["seen"], worker["seen_at"]))
        self.assertRegex(self.run_command("cluster", "status", status=1), r" silent +\S+Z +- ")

    def test_the_job_board(self):
        server = Redis(self)
        self.join()
        self.configure(f"[cluster]\njobboard = redis\nconnection = redis://:secret@127.0.0.1:{server.port}/0\n")
        conf = bootstrap.configure(config_files=[str(self.config)])
        conf.set_override("connection", server.url, "cluster")
        board = bootstrap.board_maker(conf)(0)
        board.connect()
        self.addCleanup(board.close)
        for number in "12":
            board.post("job", details={"job_id": number})
        board.claim(board.listing()[0], "me")
        found = self.read("cluster", "status", "--json")
        self.assertNotIn("secret", json.dumps(found))
        self.assertEqual(
            {"posted": 2, "claimed": 1, "error": None}, {k: found["board"][k] for k in ("posted", "claimed", "error")}
        )
        self.assertIn("2 jobs, 1 of them claimed", self.run_command("cluster", "status"))
        server.stop()
        found = self.read("cluster", "status", "--json", status=1)
        self.assertRegex(found["problems"][0], "^the job board does not answer: .*connect")


class JobTest(CommandCase):
    def setUp(self):
        super().setUp()
        self.worker_id = self.join()
        self.ids = [self.storage.add_job("p", "replay", {"queue": "q", "subscription_id": str(n)}) for n in range(3)]

    def states(self):
        return {row["id"]: row["state"] for row in self.read("job", "list", "--json")}

    def test_list_and_show(self):
        waiting, running, failed = self.ids
        self.storage.hold_job(self.worker_id, 30.0, running)
        self.fail(failed)
        self.assertEqual({waiting: "waiting", running: "running", failed: "failed"}, self.states())
        [row] = self.read("job", "list", "--failed", "--json")
        self.assertEqual((failed, "ValueError: no", "q 2"), (row["id"], row["error"], row["about"]))
        self.assertEqual([waiting], [row["id"] for row in self.read("job", "list", "--limit", "1", "--json")])
        self.assertIn("ValueError: no", self.run_command("job", "list"))
        found = self.read("job", "show", running)
        self.assertEqual(
            (self.worker_id, 1, {"queue": "q", "subscription_id": "1"}), tuple(found[k] for k in ("worker", "takes", "details"))
        )

    def test_a_job_that_there_is_not(self):
        for words in (("show", "1"), ("retry", "7fffffffffffffff"), ("drop", "x")):
            with self.subTest(words=words):
                self.assertIn("There is no job", self.run_command("job", *words, status=1))

    def test_retry(self):
        for job_id in self.ids[:2]:
            self.fail(job_id)
        self.run_command("job", "retry", self.ids[0])
        self.assertEqual(["waiting", "failed", "waiting"], list(self.states().values()))
        self.assertIn("has not failed", self.run_command("job", "retry", self.ids[2], status=1))
        self.run_command("job", "retry", "--all")
        self.assertEqual(["waiting"] * 3, list(self.states().values()))
        self.assertEqual(2, run("job", "retry")[0])

    def test_drop(self):
        waiting, running, failed = self.ids
        self.storage.hold_job(self.worker_id, 30.0, running)
        self.fail(failed)
        self.run_command("job", "drop", waiting)
        self.run_command("job", "drop", failed)
        self.assertIn("is at work on", self.run_command("job", "drop", running, status=1))
        self.assertEqual({running: "running"}, self.states())
        self.assertEqual([self.worker_id], [member.id for member in self.storage.members()])


if __name__ == "__main__":
    unittest.main()
