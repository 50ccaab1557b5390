"""What every job board has to do, against a real server. ``KIND`` and ``make_server`` come from the class that uses it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import subprocess
import sys
import tempfile
import threading
import uuid

from taskflow import exceptions

from tests.flow.case import KEY, wait_for
from tests.flow.conductor import Node
from zaqar_notify import boards
from zaqar_notify.cluster import Cluster, Settings, oldest_first
from zaqar_notify.encryption import Keyring
from zaqar_notify.storage.sql.driver import SqlStorage

ROOT = pathlib.Path(__file__).parents[2]
LEASE = 2.0
TIMES = Settings(lease=LEASE, poll_interval=0.05, repost_interval=0.1, fallback_after=60.0)


class BoardConformance:
    KIND = ""
    timeout = 3.0
    """Of a request to the board."""

    @classmethod
    def make_server(cls):
        raise NotImplementedError

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = cls.make_server()
        cls.addClassCleanup(cls.server.close)

    def setUp(self):
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.database = f"sqlite:///{folder.name}/test.db"
        self.storage = self.open_storage()
        self.storage.upgrade()
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self.seen: list[tuple[int, str]] = []

    def open_storage(self):
        storage = SqlStorage(self.database, keyring=Keyring([KEY]), retention=604800.0, body_retention=None)
        self.addCleanup(storage.close)
        return storage

    @property
    def url(self):
        return f"{self.KIND}://127.0.0.1:{self.server.port}"

    def make_board(self, turn=0):
        settings = boards.Settings(self.name, LEASE, self.timeout)
        return boards.load(self.KIND).make(boards.parse(self.KIND, self.url), settings, turn)

    def board(self):
        board = self.make_board()
        board.connect()
        self.addCleanup(board.close)
        return board

    def cluster(self, kinds=None, settings=TIMES):
        """Of a worker of its own, which runs."""
        node = Node(self.storage.join("here", 1, "1"))
        self.addCleanup(self.storage.leave, node.id)

        def note(run):
            self.seen.append((node.id, run.job.id))
            return True

        cluster = Cluster(self.storage, settings, self.make_board, {"note": note, **(kinds or {})})
        cluster.start(node)
        self.addCleanup(cluster.stop)
        return cluster

    def add(self, kind="note"):
        return self.storage.add_job("p", kind, {})

    def run_ids(self):
        return [job_id for _, job_id in self.seen]

    def wait_until_all_is_done(self):
        wait_for(lambda: not self.storage.list_jobs(None, 1), "the jobs")

    # -- the board by itself ---------------------------------------------------------------------------------------------------

    def test_the_oldest_job_comes_first_whoever_was_posted_first(self):
        board = self.board()
        for number in (3, 1, 2, 1):
            board.post(f"job {number}", details={"job_id": f"{number:016x}"})
        board.post("somebody else's", details={})
        listing = board.listing()
        self.assertEqual(5, len(listing))
        self.assertEqual(["job 1", "job 2", "job 3"], [posting.name for posting in oldest_first(listing)])

    def test_one_claims_and_renews_and_others_do_not(self):
        board, other = self.board(), self.board()
        board.post("job", details={"job_id": "1"})
        [mine], [theirs] = board.listing(), other.listing()
        self.assertIsNone(board.find_owner(mine))
        board.claim(mine, "me")
        with self.assertRaises(exceptions.UnclaimableJob):
            other.claim(theirs, "them")
        self.assertEqual("me", other.find_owner(theirs))
        self.assertTrue(board.renew(mine, "me"))
        self.assertFalse(other.renew(theirs, "them"))
        board.abandon(mine, "me")
        other.claim(theirs, "them")
        self.assertTrue(other.renew(theirs, "them"))
        self.assertFalse(board.renew(mine, "me"))
        other.consume(theirs, "them")
        self.assertEqual([], board.listing())
        with self.assertRaises((exceptions.NotFound, exceptions.UnclaimableJob)):
            board.claim(mine, "me")

    # -- with workers ----------------------------------------------------------------------------------------------------------

    def test_jobs_are_posted_run_oldest_first_and_taken_off_the_board(self):
        ids = [self.add() for _ in range(4)]
        board = self.board()
        for job_id in reversed(ids):
            board.post("job", details={"job_id": job_id, "kind": "note"})
        self.cluster(settings=dataclasses.replace(TIMES, jobs=1))
        self.wait_until_all_is_done()
        self.assertEqual(ids, self.run_ids())
        ids.append(self.add())
        self.wait_until_all_is_done()
        self.assertEqual(ids, self.run_ids())
        wait_for(lambda: not board.listing(), "an empty board")

    def test_many_workers_run_each_job_once_also_one_that_is_posted_twice(self):
        ids = [self.add() for _ in range(12)]
        board = self.board()
        for job_id in ids[:3] * 2:
            board.post("job", details={"job_id": job_id, "kind": "note"})
        for _ in range(3):
            self.cluster()
        self.wait_until_all_is_done()
        self.assertCountEqual(ids, self.run_ids())
        wait_for(lambda: not board.listing(), "an empty board")

    def test_a_job_that_fails_is_kept_with_its_error_and_runs_again_when_it_is_retried(self):
        def fail(run):
            self.seen.append((0, run.job.id))
            if run.job.takes < 2:
                raise ValueError("not yet")
            return True

        job_id = self.add("fail")
        board = self.board()
        self.cluster({"fail": fail})
        wait_for(lambda: self.storage.get_job(job_id).error, "a failure")
        self.assertEqual("ValueError: not yet", self.storage.get_job(job_id).error)
        wait_for(lambda: not board.listing(), "an empty board")
        self.assertTrue(self.storage.retry_job(job_id))
        self.wait_until_all_is_done()
        self.assertEqual([job_id] * 2, self.run_ids())

    def test_a_job_that_lasts_for_long_is_nobody_elses(self):
        begun, go_on = threading.Event(), threading.Event()
        runs = []

        def long(run):
            runs.append(run.worker_id)
            begun.set()
            while run.goes_on(pause=0.1) and not go_on.is_set():
                """Held, and claimed."""
            return True

        job_id = self.add("long")
        board = self.board()
        for _ in range(2):
            self.cluster({"long": long})
        begun.wait(20)
        renewed_until = self.storage.get_job(job_id).held_until + LEASE
        wait_for(lambda: self.storage.get_job(job_id).held_until > renewed_until, "a hold that was renewed")
        self.assertTrue(any(map(board.find_owner, board.listing())), "the claim is renewed as well")
        go_on.set()
        self.wait_until_all_is_done()
        self.assertEqual(1, len(runs))

    def test_a_stop_gives_jobs_to_others_at_once(self):
        begun, released = threading.Event(), threading.Event()

        def long(run):
            begun.set()
            while run.goes_on(pause=20.0):
                """It waits."""
            released.set()
            return False

        patient = dataclasses.replace(TIMES, lease=600.0)
        self.add("long")
        first = self.cluster({"long": long}, patient)
        begun.wait(20)
        first.stop()
        self.assertTrue(released.is_set())
        [posting] = self.board().listing()
        self.assertIsNone(self.board().find_owner(posting))
        self.cluster({"long": lambda run: True}, patient)
        self.wait_until_all_is_done()

    def test_a_board_that_comes_back_empty_is_filled_again(self):
        other_id = self.storage.join("there", 2, "1")
        ids = [self.add() for _ in range(3)]
        for job_id in ids:
            self.storage.hold_job(other_id, 600.0, job_id)
        self.cluster()
        board = self.board()
        wait_for(lambda: len(oldest_first(board.listing())) == 3, "jobs on the board")
        self.server.stop()
        self.server.clear()
        self.server.start()
        board = self.board()
        wait_for(lambda: len(oldest_first(board.listing())) == 3, "jobs on the board again")
        self.assertEqual([], self.seen)
        self.storage.leave(other_id)
        self.wait_until_all_is_done()
        self.assertCountEqual(ids, self.run_ids())

    def test_while_the_board_is_away_jobs_run_without_it_and_with_it_when_it_is_back(self):
        self.cluster(settings=dataclasses.replace(TIMES, fallback_after=0.3))
        board = self.board()
        first = self.add()
        self.wait_until_all_is_done()
        self.server.stop()
        second = self.add()
        self.wait_until_all_is_done()
        self.server.start()
        third = self.add()
        self.wait_until_all_is_done()
        self.assertEqual([first, second, third], self.run_ids())
        wait_for(lambda: self.reachable(board) and not self.board().listing(), "an empty board")

    def test_a_board_that_does_not_answer_holds_up_neither_jobs_nor_a_stop(self):
        self.timeout = 0.5
        cluster = self.cluster(settings=dataclasses.replace(TIMES, fallback_after=0.3))
        self.add()
        self.wait_until_all_is_done()
        self.server.pause()
        self.addCleanup(self.server.resume)
        self.add()
        self.wait_until_all_is_done()
        cluster.stop()
        self.assertEqual([], [thread.name for thread in cluster._threads if thread.is_alive()])

    def reachable(self, board):
        with contextlib.suppress(exceptions.TaskFlowException, *board.errors):
            self.board()
            return True
        return False

    def test_a_worker_that_is_killed_in_the_middle_of_a_job_is_followed_by_another(self):
        job_id = self.add("long")
        command = [sys.executable, "-m", "tests.flow.conductor", self.KIND, self.url, self.name, str(LEASE), self.database]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            self.addCleanup(process.kill)
            self.assertEqual(f"begun {job_id}\n", process.stdout.readline())
            self.cluster({"long": lambda run: self.seen.append((run.worker_id, run.job.id)) is None})
            [posting] = oldest_first(self.board().listing())
            self.assertIsNotNone(self.board().find_owner(posting))
            self.assertEqual([], self.seen)
            process.kill()
            process.wait(20)
        self.wait_until_all_is_done()
        self.assertEqual([job_id], self.run_ids())
        board = self.board()
        wait_for(lambda: not board.listing(), "an empty board")
