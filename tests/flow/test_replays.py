"""Replays: what has failed is delivered again, to one subscription."""

import dataclasses
import threading
import unittest

from tests.flow.case import FlowCase, Scripted, wait_for
from tests.flow.test_jobs import RunnerCase
from zaqar_notify import jobs
from zaqar_notify.cluster import Cluster, Settings
from zaqar_notify.jobs import Replaying, Result, Runner
from zaqar_notify.model import Draft, LogEntry, Outcome, OutcomeKind, State, Subscription
from zaqar_notify.storage.base import REPLAY, Closing, Settlement
from zaqar_notify.storage.memory import MemoryStorage

REJECTED = Outcome(OutcomeKind.REJECTED)


def details(subscription, **others):
    asked = {"states": ["dead", "expired"], "since": 0.0, "until": None, "ttl": 60}
    return {"queue": subscription.queue, "subscription_id": subscription.id, **asked, **others}


MORE_THAN_A_PAGE = Replaying.PAGE + 5


class WatchedStorage(MemoryStorage):
    """Tells of each delivery that is to begin anew, before and after."""

    def __init__(self, **options):
        super().__init__(**options)
        self.before = self.after = lambda message_id: None

    def redeliver(self, project, queue, message_id, subscription_id, ttl):
        self.before(message_id)
        super().redeliver(project, queue, message_id, subscription_id, ttl)
        self.after(message_id)


class ReplayJobTest(RunnerCase):
    make_storage = WatchedStorage
    settings = dataclasses.replace(RunnerCase.settings, replay_rate=10000.0)

    def setUp(self):
        super().setUp()
        self.kinds |= jobs.kinds(self.storage, None, self.settings)
        now = self.storage.now()
        self.subscription = self.storage.subscribe(Subscription("", "p", "q", "test://a", None, {}, now, None)).subscription

    def end(self, state, count=1):
        """So many messages that came to this end."""
        ids = self.storage.publish("p", "q", [Draft(b"1", 3600)] * count)
        taken = self.storage.take(self.other_id, 30.0, entries=count, rows=0)
        self.storage.settle(
            [
                Settlement(
                    message_id, self.subscription.id, taken.token, False, LogEntry(1, self.storage.now(), state), lines=1
                )
                for message_id in ids
            ],
            [Closing(message_id, taken.token) for message_id in ids],
        )
        return ids

    def states(self):
        found = self.storage.subscription_deliveries("p", "q", self.subscription.id, None, 1000)
        return {record.message_id: record.state for record in found}

    def replay(self, **others):
        return self.storage.add_job("p", REPLAY, details(self.subscription, **others))

    def test_what_has_failed_begins_anew_and_the_rest_does_not(self):
        failed = [*self.end(State.DEAD, 60), *self.end(State.EXPIRED, 60)]
        others = [*self.end(State.DELIVERED, 3), *self.end(State.FILTERED)]
        self.replay()
        self.assertIs(Result.ENDED, self.run_one())
        states = self.states()
        self.assertEqual({State.PENDING}, {states[message_id] for message_id in failed})
        self.assertEqual({State.DELIVERED, State.FILTERED}, {states[message_id] for message_id in others})
        self.assertEqual([], self.storage.list_jobs(None, 1))

    def test_states_and_times_that_were_asked_for(self):
        self.end(State.DEAD)
        since = self.storage.now()
        delivered, _ = self.end(State.DELIVERED), self.end(State.DEAD)
        until = self.storage.now()
        self.end(State.DELIVERED)
        self.replay(states=["delivered"], since=since, until=until)
        self.run_one()
        self.assertEqual(delivered, [message_id for message_id, state in self.states().items() if state is State.PENDING])

    def test_a_subscription_that_is_gone(self):
        self.end(State.DEAD)
        self.storage.delete_subscription("p", "q", self.subscription.id)
        self.replay()
        self.assertIs(Result.ENDED, self.run_one())
        self.assertEqual([], self.storage.list_jobs(None, 1))

    def test_it_goes_on_where_it_was(self):
        ids = self.end(State.DEAD, 2 * MORE_THAN_A_PAGE)
        job_id = self.replay()
        run = self.runner.take()
        begun = []

        def stop_behind_a_page(message_id):
            begun.append(message_id)
            if len(begun) == MORE_THAN_A_PAGE:
                run.stop()

        self.storage.after = stop_behind_a_page
        self.assertIs(Result.LET_GO, self.runner.work(run))
        self.assertEqual(ids[: MORE_THAN_A_PAGE - 1 : -1], begun, "the newest first")
        done = self.storage.get_job(job_id).details
        expected = (ids[MORE_THAN_A_PAGE], MORE_THAN_A_PAGE, 0)
        self.assertEqual(expected, tuple(done[name] for name in ("marker", "redelivered", "skipped")))
        self.run_one()
        self.assertEqual({State.PENDING}, set(self.states().values()))
        self.assertCountEqual(ids, begun, "none of them twice")

    def test_what_somebody_else_was_quicker_with_is_left_out(self):
        ids = self.end(State.DEAD, 2)
        self.replay()
        self.storage.before = lambda message_id: MemoryStorage.redeliver(
            self.storage, "p", "q", message_id, self.subscription.id, 60
        )
        self.assertIs(Result.ENDED, self.run_one())
        self.assertEqual(dict.fromkeys(reversed(ids), State.PENDING), self.states())
        self.assertEqual([], self.storage.list_jobs(None, 1))

    def test_replays_leave_one_place_for_other_work(self):
        first, second = self.replay(), self.replay()
        job_id = self.add()
        run = self.runner.take()
        self.assertEqual(first, run.job.id)
        self.assertEqual(job_id, self.runner.take().job.id, "although the other replay is older")
        self.assertEqual(0, self.storage.get_job(second).takes)
        alone = Runner(self.storage, dataclasses.replace(self.settings, jobs=1), self.kinds, lambda: self.other_id)
        self.assertEqual(second, alone.take().job.id, "who has one place uses it for all")


class ReplayFlowTest(FlowCase):
    def test_dead_deliveries_arrive_after_all(self):
        broken = threading.Event()
        broken.set()
        notifier = self.notifier(
            "test", Scripted(lambda delivery: REJECTED if broken.is_set() else Outcome(OutcomeKind.DELIVERED))
        )
        subscription = self.subscribe("test://a")
        self.worker(jobs=Cluster(self.storage, Settings(poll_interval=0.02)))
        ids = self.publish(3)
        for message_id in ids:
            self.wait_state(message_id, subscription, State.DEAD)
        broken.clear()
        notifier.sent.clear()
        self.storage.add_job("p", REPLAY, details(subscription))
        for message_id in ids:
            self.wait_state(message_id, subscription, State.DELIVERED)
        wait_for(lambda: not self.storage.list_jobs(None, 1), "the job's end")
        self.assertCountEqual(ids, [delivery.message.id for delivery in notifier.sent])


if __name__ == "__main__":
    unittest.main()
