"""The runner of long jobs, on the memory storage."""

import logging
import threading
import unittest

from tests.flow.case import KEY, wait_for
from zaqar_notify.encryption import Keyring
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.jobs import Result, Run, Runner, Settings
from zaqar_notify.storage.memory import MemoryStorage

LEASE = 0.6


class RunnerCase(unittest.TestCase):
    settings = Settings(jobs=2, lease=LEASE)
    make_storage = MemoryStorage

    def setUp(self):
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)
        self.storage = self.make_storage(keyring=Keyring([KEY]), retention=604800.0, body_retention=None)
        self.worker_id = self.storage.join("here", 1, "1")
        self.other_id = self.storage.join("there", 2, "1")
        self.seen = []
        self.kinds = {"note": self.note}
        self.runner = Runner(self.storage, self.settings, self.kinds, lambda: self.worker_id)

    def note(self, run):
        self.seen.append(run.job.id)
        return True

    def add(self, kind="note", **details):
        return self.storage.add_job("p", kind, details)

    def run_one(self, job_id=None, runner=None):
        run = (runner or self.runner).take(job_id)
        return self.runner.work(run) if isinstance(run, Run) else run

    def in_thread(self, job_id=None):
        """Run one, and return what waits for its result."""
        results = []
        run = self.runner.take(job_id)
        thread = threading.Thread(target=lambda: results.append(self.runner.work(run)), daemon=True)
        thread.start()

        def end():
            thread.join(20)
            return results[0]

        return end


class RunnerTest(RunnerCase):
    def test_the_oldest_is_run_first_and_is_gone_then(self):
        ids = [self.add() for _ in range(3)]
        self.assertEqual([Result.ENDED] * 3, [self.run_one() for _ in ids])
        self.assertEqual(ids, self.seen)
        self.assertEqual([], self.storage.list_jobs(None, 10))
        self.assertIs(Result.ENDED, self.run_one(), "there is none")

    def test_a_named_one_that_is_gone_has_ended(self):
        job_id = self.add()
        self.run_one(job_id)
        self.assertIs(Result.ENDED, self.run_one(job_id))
        self.assertEqual([job_id], self.seen)

    def test_one_that_another_worker_holds_is_elsewhere(self):
        job_id = self.add()
        self.storage.hold_job(self.other_id, 30.0, job_id)
        self.assertIs(Result.ELSEWHERE, self.run_one(job_id))
        self.assertEqual([], self.seen)

    def test_a_failure_is_kept_with_its_reason_in_one_line_until_it_is_retried(self):
        def fail(run):
            self.seen.append(run.job.id)
            raise ValueError("no\nsuch  thing")

        self.kinds["fail"] = fail
        job_id = self.add("fail")
        self.assertIs(Result.ENDED, self.run_one())
        self.assertEqual("ValueError: no such thing", self.storage.get_job(job_id).error)
        self.assertIs(Result.ENDED, self.run_one(job_id), "it is left alone")
        self.assertIs(Result.ENDED, self.run_one())
        self.assertEqual([job_id], self.seen)
        self.assertTrue(self.storage.retry_job(job_id))
        self.kinds["fail"] = self.note
        self.run_one()
        self.assertEqual([job_id] * 2, self.seen)
        self.assertIsNone(self.storage.get_job(job_id))

    def test_trouble_of_the_storage_or_the_system_is_no_failure_and_holds_up_no_other_job(self):
        for trouble in (StorageUnavailable("locked"), OSError("no route")):
            with self.subTest(trouble=trouble):

                def fall(run, trouble=trouble):
                    raise trouble

                self.kinds["trouble"] = fall
                job_id, behind = self.add("trouble"), self.add()
                self.assertIs(Result.LET_GO, self.run_one())
                job = self.storage.get_job(job_id)
                self.assertIsNone(job.error)
                self.assertLessEqual(job.held_until, self.storage.now(), "others can have it at once")
                self.assertTrue(self.runner.is_off(job_id), "this worker leaves it alone for a moment")
                self.run_one()
                self.assertIn(behind, self.seen)
                self.storage.hold_job(self.other_id, 30.0, job_id)

    def test_who_is_put_off_again_waits_for_longer(self):
        self.runner.put_off("a")
        first = self.runner._off["a"].pause
        self.runner.put_off("a")
        self.assertEqual(2 * first, self.runner._off["a"].pause)

    def test_a_kind_of_a_newer_version_is_left_to_that_one(self):
        stranger, job_id = self.add("unheard of"), self.add()
        self.assertIs(Result.LET_GO, self.run_one())
        self.assertIs(Result.ENDED, self.run_one())
        self.assertEqual([job_id], self.seen)
        self.assertIsNotNone(self.storage.hold_job(self.other_id, 30.0, stranger), "it is free")

    def test_a_hold_is_renewed_while_the_job_is_worked_on(self):
        renewals = []
        go_on = threading.Event()

        def long(run):
            while run.goes_on(pause=1.0) and not go_on.is_set():
                """Held for several leases."""
            return True

        self.kinds["long"] = long
        job_id = self.add("long")
        run = self.runner.take()
        thread = threading.Thread(target=lambda: self.runner.work(run, renewed=lambda: renewals.append(1)), daemon=True)
        thread.start()
        wait_for(lambda: len(renewals) >= 5)
        self.assertIsNone(self.storage.hold_job(self.other_id, 30.0, job_id))
        go_on.set()
        thread.join(20)
        self.assertIsNone(self.storage.get_job(job_id))

    def test_who_has_lost_its_hold_stops_and_finishes_nothing(self):
        begun, lost = threading.Event(), threading.Event()

        def long(run):
            begun.set()
            lost.wait(20)
            while run.goes_on(pause=0.01):
                """Until it finds out."""
            return True

        self.kinds["long"] = long
        job_id = self.add("long")
        end = self.in_thread()
        begun.wait(20)
        self.storage.leave(self.worker_id)  # as when it was taken for dead
        self.storage.hold_job(self.other_id, 30.0, job_id)
        lost.set()
        self.assertIs(Result.ELSEWHERE, end())
        self.assertEqual(self.other_id, self.storage.get_job(job_id).worker_id)

    def test_who_has_joined_anew_holds_nothing(self):
        begun = threading.Event()

        def long(run):
            begun.set()
            while run.goes_on(pause=0.01):
                """Until it finds out."""
            return False

        self.kinds["long"] = long
        self.add("long")
        end = self.in_thread()
        begun.wait(20)
        self.worker_id = self.storage.join("here", 1, "1")
        self.assertIs(Result.ELSEWHERE, end())

    def test_a_stop_lets_all_go_at_once(self):
        begun = threading.Semaphore(0)

        def long(run):
            begun.release()
            while run.goes_on(pause=20.0):
                """It waits."""
            return False

        self.kinds["long"] = long
        ids = [self.add("long") for _ in range(2)]
        ends = [self.in_thread() for _ in ids]
        for _ in ids:
            begun.acquire(timeout=20)
        self.runner.stop(20)
        self.assertEqual([Result.LET_GO] * 2, [end() for end in ends])
        for job_id in ids:
            self.assertIsNotNone(self.storage.hold_job(self.other_id, 30.0, job_id), "free at once")
        self.add()
        self.assertIs(Result.LET_GO, self.run_one(), "no more are taken")

    def test_what_this_worker_has_under_way_it_does_not_begin_again(self):
        job_id = self.add()
        run = self.runner.take(job_id)
        self.assertIs(Result.ELSEWHERE, self.runner.take(job_id))
        self.storage.let_job_go(self.worker_id, job_id)  # as when its hold has run out unnoticed
        self.assertIs(Result.LET_GO, self.runner.take())
        self.runner.work(run)
        self.assertEqual([job_id], self.seen)

    def test_no_more_than_so_many_at_once(self):
        self.add()
        runs = [self.runner.take(self.add()) for _ in range(2)]
        self.assertFalse(self.runner.has_room)
        self.assertIs(Result.LET_GO, self.runner.take())
        for run in runs:
            self.runner.work(run)
        self.assertTrue(self.runner.has_room)


if __name__ == "__main__":
    unittest.main()
