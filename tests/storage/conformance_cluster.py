"""Many nodes: the storage's clock, members, jobs, fan-outs that are cut into ranges, and moving house."""

from __future__ import annotations

import functools
import threading
from typing import Any

from tests.storage.contract import LANE, LEASE, MALFORMED, NOW, RETENTION, UNKNOWN, StorageCase
from zaqar_notify.errors import Conflict, InvalidRequest, NotFound
from zaqar_notify.model import ApiKey, Draft, Job, Member, State
from zaqar_notify.storage.base import CUT, RANGE, Alert, Breaker, Closing, Entry, Settlement, Storage


class MembersConformance(StorageCase):
    def test_the_storage_has_a_clock(self) -> None:
        self.assertEqual(NOW, self.storage.now())
        self.clock.now += 5
        self.assertEqual(NOW + 5, self.storage.now())

    def test_who_has_joined_is_a_member_until_it_leaves(self) -> None:
        one = self.storage.join("here", 12, "1.0")
        self.clock.now += 5
        two = self.storage.join()
        self.assertEqual(
            [Member(one, "here", 12, "1.0", NOW, NOW), Member(two, "", 0, "", NOW + 5, NOW + 5)], self.storage.members()
        )
        self.assertEqual(self.storage.members(), self.another().members())
        self.storage.leave(one)
        self.assertEqual([two], [member.id for member in self.storage.members()])

    def test_a_member_is_seen_when_it_says_that_it_lives(self) -> None:
        one, two = self.storage.join(), self.storage.join()
        self.clock.now += 7
        self.assertTrue(self.storage.beat(two))
        self.assertEqual([NOW, NOW + 7], [member.seen_at for member in self.storage.members()])
        self.assertEqual([NOW, NOW], [member.joined_at for member in self.storage.members()])
        self.storage.leave(one)
        self.assertFalse(self.storage.beat(one))
        self.assertFalse(self.storage.beat(10**6))
        self.assertEqual([two], [member.id for member in self.storage.members()])

    def test_what_a_member_holds_is_counted(self) -> None:
        mine, other = self.subscribe(), self.subscribe("http://b/")
        _, worker = self.entry_into_row(mine.id, due_at=NOW)
        self.park(worker, self.publish(), other.id)
        self.publish(3)
        self.storage.add_job("p", "some", {})
        idle = self.storage.join()
        self.assertEqual(2, len(self.take(worker, entries=2, rows=1, lanes=1).entries))
        self.assertIsNotNone(self.storage.hold_job(worker, LEASE))
        holds = {member.id: (member.entries, member.rows, member.lanes, member.jobs) for member in self.storage.members()}
        self.assertEqual({worker: (2, 1, 1, 1), idle: (0, 0, 0, 0)}, {one: holds[one] for one in (worker, idle)})
        self.storage.leave(worker)
        self.assertEqual([idle], [member.id for member in self.storage.members() if member.id != worker])


class _TwoWorkers(StorageCase):
    @functools.cached_property
    def worker(self) -> int:
        return self.storage.join()

    @functools.cached_property
    def other(self) -> int:
        return self.storage.join()


class JobsConformance(_TwoWorkers):
    def add(self, **details: Any) -> str:
        self.clock.now += 0.002
        return self.storage.add_job("p", "some", details)

    def job(self, job_id: str) -> Job:
        found = self.storage.get_job(job_id)
        assert found is not None
        return found

    def test_a_job_comes_back_as_it_was_added(self) -> None:
        details = {"a": [1, {"b": None}], "after": "x", "c.d": "é"}
        job_id = self.storage.add_job("p", "some", details)
        self.assertEqual(Job(job_id, "p", "some", details, NOW), self.storage.get_job(job_id))
        self.assertEqual([self.storage.get_job(job_id)], self.another().list_jobs(None, 10))

    def test_none_that_is_not_there(self) -> None:
        for job_id in (UNKNOWN, *MALFORMED):
            self.assertIsNone(self.storage.get_job(job_id))
            self.assertIsNone(self.storage.hold_job(self.worker, LEASE, job_id))
            self.assertFalse(self.storage.finish_job(self.worker, job_id))
            self.assertFalse(self.storage.fail_job(self.worker, job_id, "why"))
            self.assertFalse(self.storage.advance_job(self.worker, job_id, {}))
            self.assertFalse(self.storage.retry_job(job_id))
            self.assertFalse(self.storage.cut(self.worker, job_id, 10))
            self.storage.let_job_go(self.worker, job_id)
        self.assertIsNone(self.storage.hold_job(self.worker, LEASE))
        self.assertEqual([], self.storage.list_jobs(None, 10))
        self.assertRaises(InvalidRequest, self.storage.list_jobs, "x", 10)

    def test_they_are_listed_in_pages_oldest_first(self) -> None:
        added = [self.add(n=number) for number in range(5)]
        for failing in (added[1], added[3]):
            self.storage.hold_job(self.worker, LEASE, failing)
            self.storage.fail_job(self.worker, failing, "why")
        self.assertEqual(sorted(added), added)
        for failed, expected in ((None, added), (True, [added[1], added[3]]), (False, [added[0], added[2], added[4]])):
            found, marker = [], None
            while page := self.storage.list_jobs(marker, 2, failed=failed):
                self.assertTrue(len(page) <= 2)
                found += [job.id for job in page]
                marker = found[-1]
            self.assertEqual(expected, found)

    def test_the_oldest_that_is_free_is_held_first(self) -> None:
        first, second, third = (self.add() for _ in range(3))
        self.assertEqual(first, self.storage.hold_job(self.worker, LEASE).id)
        self.assertEqual(second, self.storage.hold_job(self.other, LEASE).id)
        self.assertIsNone(self.storage.hold_job(self.other, LEASE, first))
        self.storage.let_job_go(self.worker, first)
        self.assertEqual(first, self.storage.hold_job(self.other, LEASE).id)
        self.assertEqual(third, self.storage.hold_job(self.worker, LEASE, third).id)
        self.assertIsNone(self.storage.hold_job(self.worker, LEASE))

    def test_a_hold_says_who_and_until_when(self) -> None:
        job_id = self.add()
        held = self.storage.hold_job(self.worker, LEASE)
        self.assertEqual((self.worker, self.clock.now + LEASE, 1), (held.worker_id, held.held_until, held.takes))
        self.assertEqual(held, self.job(job_id))

    def test_a_hold_can_be_renewed_which_is_no_other_take(self) -> None:
        job_id = self.add()
        self.storage.hold_job(self.worker, LEASE)
        self.clock.now += 20
        held = self.storage.hold_job(self.worker, LEASE, job_id)
        self.assertEqual((self.clock.now + LEASE, 1), (held.held_until, held.takes))
        self.clock.now += 20
        self.assertIsNone(self.storage.hold_job(self.other, LEASE, job_id))
        self.assertIsNone(self.storage.hold_job(self.other, LEASE))

    def test_a_hold_ends_with_its_lease(self) -> None:
        job_id = self.add()
        self.storage.hold_job(self.worker, LEASE)
        self.clock.now += LEASE
        for change in (
            lambda: self.storage.finish_job(self.worker, job_id),
            lambda: self.storage.fail_job(self.worker, job_id, "why"),
            lambda: self.storage.advance_job(self.worker, job_id, {"n": 1}),
        ):
            self.assertFalse(change())
        held = self.storage.hold_job(self.other, LEASE)
        self.assertEqual((job_id, self.other, 2, None, {}), (held.id, held.worker_id, held.takes, held.error, held.details))
        self.assertIsNone(self.storage.hold_job(self.worker, LEASE, job_id))
        self.storage.let_job_go(self.worker, job_id)
        self.assertIsNone(self.storage.hold_job(self.worker, LEASE, job_id), "it is not its own to let go")
        self.assertTrue(self.storage.finish_job(self.other, job_id))

    def test_who_has_left_holds_nothing(self) -> None:
        job_id = self.add()
        self.storage.hold_job(self.worker, LEASE)
        self.storage.leave(self.worker)
        self.assertEqual(job_id, self.storage.hold_job(self.other, LEASE).id)

    def test_what_is_done_is_gone(self) -> None:
        job_id = self.add()
        self.assertFalse(self.storage.finish_job(self.worker, job_id), "it does not hold it")
        self.storage.hold_job(self.worker, LEASE)
        self.assertFalse(self.storage.finish_job(self.other, job_id))
        self.assertTrue(self.storage.finish_job(self.worker, job_id))
        self.assertIsNone(self.storage.get_job(job_id))
        self.assertFalse(self.storage.finish_job(self.worker, job_id))

    def test_how_far_it_is_outlives_its_holder(self) -> None:
        job_id = self.add(n=0)
        self.storage.hold_job(self.worker, LEASE)
        self.assertTrue(self.storage.advance_job(self.worker, job_id, {"n": 1}))
        self.assertFalse(self.storage.advance_job(self.other, job_id, {"n": 2}))
        self.storage.leave(self.worker)
        self.assertEqual({"n": 1}, self.storage.hold_job(self.other, LEASE).details)

    def test_what_has_failed_is_kept_and_can_be_retried(self) -> None:
        job_id = self.add(n=1)
        self.storage.hold_job(self.worker, LEASE)
        self.assertFalse(self.storage.fail_job(self.other, job_id, "no"))
        self.assertFalse(self.storage.retry_job(job_id), "it has not failed")
        self.assertTrue(self.storage.fail_job(self.worker, job_id, "because"))
        self.assertEqual(("because", {"n": 1}), (self.job(job_id).error, self.job(job_id).details))
        for worker in (self.worker, self.other):
            self.assertIsNone(self.storage.hold_job(worker, LEASE))
            self.assertIsNone(self.storage.hold_job(worker, LEASE, job_id))
            self.assertFalse(self.storage.finish_job(worker, job_id))
        self.clock.now += 2 * LEASE
        self.assertIsNone(self.storage.hold_job(self.other, LEASE))
        self.assertTrue(self.storage.retry_job(job_id))
        self.assertFalse(self.storage.retry_job(job_id))
        held = self.storage.hold_job(self.other, LEASE)
        self.assertEqual((job_id, None, {"n": 1}), (held.id, held.error, held.details))

    def test_what_has_failed_goes_when_its_retention_is_over(self) -> None:
        failed, waits = self.add(), self.add()
        self.storage.hold_job(self.worker, LEASE, failed)
        self.storage.fail_job(self.worker, failed, "because")
        self.clock.now += RETENTION - 1
        self.prune_all()
        self.assertIsNotNone(self.storage.get_job(failed))
        self.clock.now += 1
        self.prune_all()
        self.assertEqual([waits], [job.id for job in self.storage.list_jobs(None, 10)])

    def test_they_are_counted(self) -> None:
        self.add()
        failed = self.add()
        self.storage.hold_job(self.worker, LEASE, failed)
        self.assertEqual((2, 0), (self.storage.depths().jobs, self.storage.depths().failed_jobs))
        self.storage.fail_job(self.worker, failed, "because")
        self.assertEqual((1, 1), (self.storage.depths().jobs, self.storage.depths().failed_jobs))

    def test_one_is_held_by_one_worker_only(self) -> None:
        added = {self.add() for _ in range(20)}
        held: dict[int, list[str]] = {self.worker: [], self.other: []}

        def hold(storage: Storage, worker: int) -> None:
            while (job := storage.hold_job(worker, LEASE)) is not None:
                held[worker].append(job.id)

        threads = [
            threading.Thread(target=hold, args=pair) for pair in ((self.storage, self.worker), (self.another(), self.other))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(added), sorted(held[self.worker] + held[self.other]))


class RangesConformance(_TwoWorkers):
    @functools.cached_property
    def mine(self) -> list[str]:
        """Seven subscribers, beside some that have nothing to do with it."""
        self.subscribe("http://elsewhere/", queue="r")
        self.subscribe("http://elsewhere/", project="o")
        return [self.subscribe(f"http://{number}/").id for number in range(7)]

    def deliver(self, message_id: str, subscription_ids: list[str], token: int, **fields: Any) -> list[Settlement]:
        return [Settlement(message_id, one, token, from_row=False, log=self.delivered(), **fields) for one in subscription_ids]

    def cut_message(self, **fields: Any) -> tuple[str, str]:
        """The ids of a message and of the job. The first page, of two, was delivered before the entry was cut."""
        first = self.mine[:2]
        message_id = self.publish(**fields)[0]
        token = self.take(self.worker).token
        settled = self.deliver(message_id, first, token)
        self.assertEqual(0, self.storage.settle(settled, [Closing(message_id, token, self.mine[1], cut=True)]))
        [job] = self.storage.list_jobs(None, 10)
        return message_id, job.id

    def make_range(self, *, after: str | None = None, last: str | None = None, **fields: Any) -> tuple[str, str]:
        message_id = self.publish(**fields)[0]
        self.close_entries()
        details = {"message_id": message_id, "after": after, "last": last}
        job_id = self.storage.add_job("p", RANGE, details)
        self.assertIsNotNone(self.storage.hold_job(self.worker, LEASE, job_id))
        return message_id, job_id

    def ranges(self) -> list[tuple[str, str | None]]:
        return [(job.details["after"], job.details["last"]) for job in self.storage.list_jobs(None, 100) if job.kind == RANGE]

    def take_page(self, job_id: str, worker: int | None = None) -> tuple[int, Entry | None, bool]:
        """The token, the page, whether the range has ended for this worker."""
        taken = self.take(worker or self.worker, entries=0, rows=0, ranges=[job_id])
        self.assertTrue(set(taken.ended) <= {job_id})
        return taken.token, taken.entries[0] if taken.entries else None, bool(taken.ended)

    def states(self, message_id: str) -> dict[str, State]:
        return {one: self.state(message_id, one) for one in self.mine if self.state(message_id, one) is not None}

    # Cutting:

    def test_a_job_takes_the_place_of_the_entry(self) -> None:
        message_id, job_id = self.cut_message()
        job = self.storage.get_job(job_id)
        self.assertEqual(
            ("p", CUT, message_id, self.mine[1]), (job.project, job.kind, job.details["message_id"], job.details["after"])
        )
        self.assertEqual([], list(self.take(self.other).entries))
        self.assertEqual((0, 1), (self.storage.depths().outbox, self.storage.depths().jobs))

    def test_a_lease_that_is_lost_cuts_nothing(self) -> None:
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        self.clock.now += LEASE
        late = self.take(self.other).token
        self.storage.settle([], [Closing(message_id, token, self.mine[1], cut=True)])
        self.assertEqual([], self.storage.list_jobs(None, 10))
        self.storage.settle([], [Closing(message_id, late, self.mine[1], cut=True)])
        self.assertEqual(1, len(self.storage.list_jobs(None, 10)))
        self.storage.settle([], [Closing(message_id, late, self.mine[1], cut=True)])
        self.assertEqual(1, len(self.storage.list_jobs(None, 10)), "a repeated commit changes nothing")

    def test_what_has_no_more_subscribers_is_not_cut(self) -> None:
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        self.storage.settle([], [Closing(message_id, token, None, cut=True)])
        self.assertEqual([], self.storage.list_jobs(None, 10))
        self.assertEqual([], list(self.take(self.other).entries))

    def test_ranges_have_every_subscriber_once(self) -> None:
        message_id, job_id = self.cut_message()
        self.storage.hold_job(self.worker, LEASE)
        self.assertTrue(self.storage.cut(self.worker, job_id, 2))
        self.assertEqual([(self.mine[1], self.mine[3])], self.ranges())
        self.assertTrue(self.storage.cut(self.worker, job_id, 2))
        self.assertEqual(self.mine[5], self.storage.get_job(job_id).details["after"])
        self.assertFalse(self.storage.cut(self.worker, job_id, 2))
        self.assertIsNone(self.storage.get_job(job_id))
        self.assertEqual([(self.mine[1], self.mine[3]), (self.mine[3], self.mine[5]), (self.mine[5], None)], self.ranges())
        self.assertFalse(self.storage.cut(self.worker, job_id, 2))
        self.assertEqual({message_id}, {job.details["message_id"] for job in self.storage.list_jobs(None, 10)})
        self.assertEqual({("p", None)}, {(job.project, job.worker_id) for job in self.storage.list_jobs(None, 10)})

    def test_no_range_is_made_of_nobody(self) -> None:
        _, job_id = self.cut_message()
        self.storage.hold_job(self.worker, LEASE)
        self.assertTrue(self.storage.cut(self.worker, job_id, 5))
        self.assertFalse(self.storage.cut(self.worker, job_id, 5))
        self.assertEqual([(self.mine[1], self.mine[6])], self.ranges())
        self.assertEqual(1, self.storage.depths().jobs)

    def test_who_was_deleted_is_no_part_of_a_range(self) -> None:
        _, job_id = self.cut_message()
        for one in self.mine[2:5]:
            self.storage.delete_subscription("p", "q", one)
        self.storage.hold_job(self.worker, LEASE)
        self.assertTrue(self.storage.cut(self.worker, job_id, 2))
        self.assertEqual([(self.mine[1], self.mine[6])], self.ranges())

    def test_only_who_holds_a_job_cuts_it(self) -> None:
        _, job_id = self.cut_message()
        self.assertFalse(self.storage.cut(self.worker, job_id, 2))
        self.storage.hold_job(self.worker, LEASE)
        self.assertFalse(self.storage.cut(self.other, job_id, 2))
        self.clock.now += LEASE
        self.assertFalse(self.storage.cut(self.worker, job_id, 2))
        self.assertEqual([], self.ranges())
        self.storage.hold_job(self.other, LEASE)
        self.assertTrue(self.storage.cut(self.other, job_id, 2))
        some = self.storage.add_job("p", "some", {})
        self.storage.hold_job(self.other, LEASE, some)
        self.assertFalse(self.storage.cut(self.other, some, 2))
        self.assertIsNotNone(self.storage.get_job(some))

    def test_a_queue_that_was_deleted_has_no_subscribers(self) -> None:
        _, job_id = self.cut_message()
        self.storage.delete_queue("p", "q")
        self.storage.hold_job(self.worker, LEASE)
        self.assertFalse(self.storage.cut(self.worker, job_id, 2))
        self.assertEqual([], self.storage.list_jobs(None, 10))

    # Pages:

    def test_a_range_is_worked_through_page_by_page(self) -> None:
        message_id, job_id = self.make_range(after=self.mine[0], last=self.mine[4])
        token, page, ended = self.take_page(job_id)
        self.assertEqual(
            (message_id, self.mine[0], job_id, self.mine[4]), (page.message_id, page.after, page.job_id, page.last)
        )
        self.assertFalse(ended)
        self.assertEqual((None, False), self.take_page(job_id)[1:], "the page before is under way")
        settled = self.deliver(message_id, self.mine[1:3], token, job_id=job_id)
        self.assertEqual(0, self.storage.settle(settled, [Closing(message_id, token, self.mine[2], job_id=job_id)]))
        self.assertEqual(self.mine[2], self.storage.get_job(job_id).details["after"])
        token, page, ended = self.take_page(job_id)
        self.assertEqual((self.mine[2], self.mine[4]), (page.after, page.last))
        settled = self.deliver(message_id, self.mine[3:5], token, job_id=job_id)
        self.assertEqual(0, self.storage.settle(settled, [Closing(message_id, token, None, job_id=job_id)]))
        self.assertIsNone(self.storage.get_job(job_id))
        self.assertEqual((None, True), self.take_page(job_id)[1:])
        self.assertEqual(dict.fromkeys(self.mine[1:5], State.DELIVERED), self.states(message_id))

    def test_pages_come_beside_entries(self) -> None:
        _, one = self.make_range()
        _, two = self.make_range()
        [fresh] = self.publish()
        taken = self.take(self.worker, ranges=[two, one])
        self.assertEqual({None, one, two}, {entry.job_id for entry in taken.entries})
        self.assertEqual(fresh, next(entry.message_id for entry in taken.entries if entry.job_id is None))
        self.assertEqual([None, one, two], [entry.job_id for entry in taken.entries])
        self.assertEqual([], list(taken.ended))

    def test_only_the_holder_gets_pages(self) -> None:
        _, job_id = self.make_range()
        self.assertEqual((None, True), self.take_page(job_id, self.other)[1:])
        self.assertIsNotNone(self.take_page(job_id)[1])
        some = self.storage.add_job("p", "some", {})
        self.storage.hold_job(self.worker, LEASE, some)
        for other in (some, UNKNOWN, "x"):
            self.assertEqual((None, True), self.take_page(other)[1:])

    def test_a_hold_that_has_ended_gets_no_pages(self) -> None:
        _, job_id = self.make_range()
        self.clock.now += LEASE
        self.assertEqual((None, True), self.take_page(job_id)[1:])

    def test_a_page_whose_lease_has_ended_is_taken_again(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        self.clock.now += LEASE - 1
        self.storage.hold_job(self.worker, LEASE, job_id)
        self.assertIsNone(self.take_page(job_id)[1])
        self.clock.now += 1
        again, page, _ = self.take_page(job_id)
        self.assertEqual(job_id, page.job_id)
        settled = self.deliver(message_id, self.mine[:1], token, job_id=job_id)
        self.assertEqual(1, self.storage.settle(settled, [Closing(message_id, token, None, job_id=job_id)]))
        self.assertIsNotNone(self.storage.get_job(job_id))
        self.assertEqual(0, self.storage.settle(self.deliver(message_id, self.mine[:1], again, job_id=job_id)))

    def test_who_takes_over_has_the_page_at_once_and_the_one_before_cannot_settle(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        self.storage.let_job_go(self.worker, job_id)
        first = self.deliver(message_id, self.mine[:1], token, job_id=job_id)
        self.assertEqual(0, self.storage.settle(first), "nobody has taken over yet")
        self.storage.hold_job(self.other, LEASE, job_id)
        late = self.deliver(message_id, self.mine[1:2], token, job_id=job_id)
        self.assertEqual(1, self.storage.settle(late, [Closing(message_id, token, self.mine[1], job_id=job_id)]))
        token, page, _ = self.take_page(job_id, self.other)
        self.assertIsNone(page.after)
        self.assertEqual({self.mine[0]}, self.storage.known(message_id, None))
        self.assertEqual(0, self.storage.settle(self.deliver(message_id, self.mine[1:2], token, job_id=job_id)))

    def test_who_goes_on_holding_keeps_its_page(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        self.storage.hold_job(self.worker, LEASE, job_id)
        self.storage.let_job_go(self.worker, job_id)
        self.storage.hold_job(self.worker, LEASE, job_id)
        self.assertIsNone(self.take_page(job_id)[1])
        self.assertEqual(0, self.storage.settle(self.deliver(message_id, self.mine[:1], token, job_id=job_id)))

    def test_a_worker_that_has_left_cannot_settle(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        self.storage.leave(self.worker)
        self.assertEqual(1, self.storage.settle(self.deliver(message_id, self.mine[:1], token, job_id=job_id)))
        self.assertEqual(job_id, self.storage.hold_job(self.other, LEASE).id)
        self.assertIsNotNone(self.take_page(job_id, self.other)[1])

    def test_a_page_that_is_given_back_is_due_at_once(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        self.storage.give_back(token + 1, [], [], [job_id])
        self.assertIsNone(self.take_page(job_id)[1])
        self.storage.give_back(token, [message_id], [], [job_id, UNKNOWN])
        self.assertIsNotNone(self.take_page(job_id)[1])

    def test_a_delivery_can_leave_its_page_for_a_row(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        waits = Settlement(
            message_id, self.mine[0], token, False, due_at=NOW, attempts=1, lines=1, log=self.failed(), job_id=job_id
        )
        parked = Settlement(message_id, self.mine[1], token, False, park=LANE, job_id=job_id)
        under_way = Settlement(message_id, self.mine[2], token, False, due_at=NOW + LEASE, hold=True, job_id=job_id)
        self.assertEqual(0, self.storage.settle([waits, parked, under_way]))
        self.assertEqual(set(self.mine[:3]), self.storage.known(message_id, None))
        done = Settlement(message_id, self.mine[2], token, True, log=self.delivered())
        self.assertEqual(0, self.storage.settle([done], [Closing(message_id, token, None, job_id=job_id)]))
        expected = [State.PENDING, State.PARKED, State.DELIVERED]
        self.assertEqual(dict(zip(self.mine[:3], expected, strict=True)), self.states(message_id))
        self.assertEqual([self.mine[0]], [row.subscription_id for row in self.take(self.other).rows])

    def test_what_is_known_can_be_asked_up_to_the_end_of_a_page(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        self.storage.settle(self.deliver(message_id, self.mine[:3], token, job_id=job_id))
        self.storage.settle([Settlement(message_id, self.mine[3], token, False, park=LANE, job_id=job_id)])
        self.assertEqual(set(self.mine[1:4]), self.storage.known(message_id, self.mine[0]))
        self.assertEqual({self.mine[1], self.mine[2]}, self.storage.known(message_id, self.mine[0], self.mine[2]))
        self.assertEqual({self.mine[0]}, self.storage.known(message_id, None, self.mine[0]))

    def test_the_entry_of_the_message_is_no_fence_of_its_range(self) -> None:
        message_id = self.publish()[0]
        token = self.take(self.worker).token
        job_id = self.storage.add_job("p", RANGE, {"message_id": message_id, "after": None, "last": self.mine[0]})
        self.assertEqual(1, self.storage.settle(self.deliver(message_id, self.mine[:1], token, job_id=job_id)))
        self.storage.hold_job(self.worker, LEASE, job_id)
        page_token, _, _ = self.take_page(job_id)
        self.assertEqual(1, self.storage.settle(self.deliver(message_id, self.mine[:1], page_token)))
        self.storage.settle([], [Closing(message_id, page_token), Closing(message_id, token, job_id=job_id)])
        self.assertIsNotNone(self.storage.get_job(job_id))
        self.assertEqual(1, self.storage.depths().outbox)

    def test_a_range_that_has_failed_goes_on_where_it_was(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        self.storage.settle([], [Closing(message_id, token, self.mine[2], job_id=job_id)])
        self.storage.fail_job(self.worker, job_id, "because")
        self.assertEqual((None, True), self.take_page(job_id)[1:])
        self.storage.retry_job(job_id)
        self.storage.hold_job(self.other, LEASE, job_id)
        self.assertEqual(self.mine[2], self.take_page(job_id, self.other)[1].after)

    # Did it arrive?

    def test_who_is_in_a_job_waits(self) -> None:
        message_id, job_id = self.cut_message()
        expected = dict.fromkeys(self.mine[:2], State.DELIVERED) | dict.fromkeys(self.mine[2:], State.PENDING)
        self.assertEqual(expected, self.states(message_id))
        self.assertEqual(self.clock.now, self.delivery(message_id, self.mine[3]).next_attempt_at)
        self.storage.hold_job(self.worker, LEASE)
        while self.storage.cut(self.worker, job_id, 2):
            self.assertEqual(expected, self.states(message_id))
        self.assertEqual(expected, self.states(message_id))
        job = self.storage.list_jobs(None, 1)[0]
        self.storage.hold_job(self.worker, LEASE, job.id)
        token, _, _ = self.take_page(job.id)
        self.storage.settle(self.deliver(message_id, self.mine[2:3], token, job_id=job.id))
        self.assertEqual(expected | {self.mine[2]: State.DELIVERED}, self.states(message_id))
        self.storage.fail_job(self.worker, job.id, "because")
        self.assertEqual(expected | {self.mine[2]: State.DELIVERED}, self.states(message_id), "it can be retried")

    def test_what_is_in_jobs_is_shown_in_pages(self) -> None:
        message_id, job_id = self.cut_message()
        self.storage.hold_job(self.worker, LEASE)
        while self.storage.cut(self.worker, job_id, 2):
            pass
        found, marker = [], None
        while page := self.storage.message_deliveries("p", "q", message_id, marker, 3):
            self.assertTrue(len(page) <= 3)
            found += [record.subscription_id for record in page]
            marker = found[-1]
        self.assertEqual(self.mine, found)
        messages = [message_id, *self.publish(2)]
        found, marker = [], None
        while page := self.storage.subscription_deliveries("p", "q", self.mine[4], marker, 2):
            found += [record.message_id for record in page]
            marker = found[-1]
        self.assertEqual(messages[::-1], found)

    def test_who_is_outside_of_a_range_does_not_wait(self) -> None:
        message_id, _ = self.make_range(after=self.mine[1], last=self.mine[3])
        self.assertEqual(dict.fromkeys(self.mine[2:4], State.PENDING), self.states(message_id))
        self.assertRaises(NotFound, self.storage.cancel, "p", "q", message_id, self.mine[4])

    def test_the_end_of_the_message_or_of_the_queue_is_that_of_its_jobs(self) -> None:
        message_id, _ = self.make_range(ttl=300)
        self.clock.now += 301
        self.assertEqual({State.EXPIRED}, set(self.states(message_id).values()))
        self.storage.delete_queue("p", "q")
        records = self.storage.message_deliveries("p", "q", message_id, None, 10)
        self.assertEqual({State.CANCELLED}, {record.state for record in records})
        self.assertEqual({}, self.storage.load([message_id], []).messages)

    # Again, or not at all:

    def test_one_who_waits_in_a_job_can_be_left_out(self) -> None:
        message_id, job_id = self.cut_message()
        self.storage.cancel("p", "q", message_id, self.mine[3])
        self.assertRaises(Conflict, self.storage.cancel, "p", "q", message_id, self.mine[3])
        self.assertRaises(Conflict, self.storage.cancel, "p", "q", message_id, self.mine[0])
        self.assertRaises(Conflict, self.storage.redeliver, "p", "q", message_id, self.mine[4], 300)
        self.assertEqual(State.CANCELLED, self.state(message_id, self.mine[3]))
        self.storage.hold_job(self.worker, LEASE)
        self.storage.cut(self.worker, job_id, 3)
        [job] = [job for job in self.storage.list_jobs(None, 10) if job.kind == RANGE]
        self.storage.hold_job(self.worker, LEASE, job.id)
        token, _, _ = self.take_page(job.id)
        self.assertIn(self.mine[3], self.storage.known(message_id, self.mine[1]))
        settled = self.deliver(message_id, self.mine[2:5], token, job_id=job.id)
        self.assertEqual(1, self.storage.settle(settled))
        expected = [State.DELIVERED, State.CANCELLED, State.DELIVERED]
        self.assertEqual(expected, [self.state(message_id, one) for one in self.mine[2:5]])

    def test_one_whose_page_is_under_way_can_be_cancelled(self) -> None:
        message_id, job_id = self.make_range()
        token, _, _ = self.take_page(job_id)
        self.storage.cancel("p", "q", message_id, self.mine[1])
        settled = self.deliver(message_id, self.mine[:3], token, job_id=job_id)
        self.assertEqual(1, self.storage.settle(settled, [Closing(message_id, token, self.mine[2], job_id=job_id)]))
        self.assertEqual(State.CANCELLED, self.state(message_id, self.mine[1]))
        self.assertEqual(State.DELIVERED, self.state(message_id, self.mine[0]))

    def test_what_was_cancelled_before_the_entry_was_cut_stays_so(self) -> None:
        message_id = self.publish()[0]
        self.storage.cancel("p", "q", message_id, self.mine[3])
        taken = self.take(self.worker)
        self.assertEqual(2, taken.entries[0].takes)
        self.storage.settle([], [Closing(message_id, taken.token, self.mine[1], cut=True)])
        job = self.storage.hold_job(self.worker, LEASE)
        self.storage.cut(self.worker, job.id, 100)
        job = self.storage.hold_job(self.worker, LEASE)
        token, _, _ = self.take_page(job.id)
        self.assertEqual(1, self.storage.settle(self.deliver(message_id, self.mine[3:4], token, job_id=job.id)))

    # Housekeeping:

    def test_a_message_is_kept_while_it_has_jobs(self) -> None:
        message_id, job_id = self.make_range(ttl=60)
        self.clock.now += 60 + RETENTION * 5
        self.prune_all()
        self.storage.hold_job(self.worker, LEASE, job_id)
        token, page, _ = self.take_page(job_id)
        self.assertEqual(message_id, page.message_id)
        self.assertIn(message_id, self.storage.load([message_id], []).messages)
        expired = [
            Settlement(message_id, one, token, False, log=self.attempt(1, State.EXPIRED), job_id=job_id) for one in self.mine
        ]
        self.assertEqual(0, self.storage.settle(expired, [Closing(message_id, token, None, job_id=job_id)]))
        self.clock.now += RETENTION + 600
        self.prune_all()
        self.assertIsNone(self.storage.message_deliveries("p", "q", message_id, None, 10))

    def test_the_log_of_what_was_delivered_is_kept_while_there_are_jobs(self) -> None:
        self.storage = self.open(retention_delivered=100.0)
        message_id, job_id = self.make_range(ttl=300)
        token, _, _ = self.take_page(job_id)
        self.storage.settle(self.deliver(message_id, self.mine[:1], token, job_id=job_id))
        self.clock.now += 150
        self.prune_all()
        self.assertEqual({self.mine[0]}, self.storage.known(message_id, None))


class CopyCase(StorageCase):
    """For storages that can be copied. ``make_empty`` makes another one."""

    def make_empty(self) -> Storage:
        raise NotImplementedError

    def copy(self, source: Storage, target: Storage, limit: int = 2) -> None:
        for kind in source.copy_counts():
            after = None
            while True:
                records, after = source.copy_from(kind, after, limit)
                if not records:
                    break
                self.assertTrue(len(records) <= limit)
                target.copy_into(kind, records)


class CopyConformance(CopyCase):
    def fill(self) -> dict[str, Any]:
        self.storage.put_queue("p", "q", {"a": {"b.c": [1, None]}})
        mine = self.subscribe("http://a/", options={"x": 1}, secret="whsec_" + "A" * 44)
        other = self.subscribe("http://b/", ttl=300)
        filled: dict[str, Any] = {"mine": mine, "other": other}
        filled["row"], worker = self.entry_into_row(mine.id, log=self.failed(), due_at=NOW + 50, attempts=1, lines=1)
        filled["parked"] = self.publish(2)
        self.park(worker, filled["parked"], other.id)
        filled["posted"] = self.publish(3)
        filled["delayed"] = self.publish(delay=100)
        filled["claim"], filled["claimed"] = self.claim(2)
        self.storage.delete_message("p", "q", filled["posted"][2], None)
        self.storage.add_key(ApiKey("k", "p", ("read", "publish"), "me", b"\x00\xff", NOW))
        filled["job"] = self.storage.add_job("p", "some", {"n": 1})
        filled["range"] = self.storage.add_job("p", RANGE, {"message_id": filled["posted"][0], "after": None, "last": mine.id})
        self.storage.settle([], [], [Breaker(LANE, 2, NOW + 5)])
        return filled

    def test_everything_is_there(self) -> None:
        filled = self.fill()
        target = self.make_empty()
        self.copy(self.storage, target)
        self.assertEqual(self.storage.copy_counts(), target.copy_counts())
        for storage in (self.storage, target):
            self.assertEqual({"a": {"b.c": [1, None]}}, storage.get_queue("p", "q").metadata)
            self.assertEqual([filled["mine"], filled["other"]], storage.list_subscriptions("p", "q", None, 10))
            self.assertEqual([LANE], [breaker.lane for breaker in storage.breakers()])
            self.assertEqual(filled["claimed"], [message.id for message in storage.get_claim("p", "q", filled["claim"])[1]])
            self.assertEqual([filled["job"], filled["range"]], [job.id for job in storage.list_jobs(None, 10)])
        for read in (
            lambda storage: storage.list_messages("p", "q", None, 100, claimed=True, delayed=True),
            lambda storage: storage.message_deliveries("p", "q", filled["row"], None, 10),
            lambda storage: storage.subscription_deliveries("p", "q", filled["other"].id, None, 10),
            lambda storage: storage.list_jobs(None, 10),
            lambda storage: storage.list_keys(),
            lambda storage: storage.breakers(),
            lambda storage: storage.depths(),
        ):
            self.assertEqual(read(self.storage), read(target))

    def test_what_was_leased_is_due_and_nobody_holds_anything(self) -> None:
        filled = self.fill()
        worker = self.storage.join()
        self.clock.now += 60
        taken = self.take(worker, lanes=5)
        self.assertEqual((True, 1, [LANE]), (len(taken.entries) >= 3, len(taken.rows), list(taken.lanes)))
        self.storage.hold_job(worker, LEASE, filled["range"])
        self.take(worker, entries=0, rows=0, ranges=[filled["range"]])
        target = self.make_empty()
        self.copy(self.storage, target)
        again = target.take(target.join(), LEASE, entries=100, rows=100, lanes=5)
        self.assertEqual([entry.message_id for entry in taken.entries], [entry.message_id for entry in again.entries])
        self.assertEqual([row.message_id for row in taken.rows], [row.message_id for row in again.rows])
        self.assertEqual([LANE], list(again.lanes))
        self.assertEqual([], target.members()[:-1])
        heir = target.join()
        self.assertIsNotNone(target.hold_job(heir, LEASE, filled["range"]))
        page = target.take(heir, LEASE, entries=0, rows=0, ranges=[filled["range"]])
        self.assertEqual([filled["range"]], [entry.job_id for entry in page.entries])

    def test_a_copy_can_be_repeated(self) -> None:
        self.fill()
        target = self.make_empty()
        self.copy(self.storage, target)
        self.storage.put_queue("p", "q", {"new": True})
        self.publish(2)
        self.copy(self.storage, target, limit=100)
        self.assertEqual(self.storage.copy_counts(), target.copy_counts())
        self.assertEqual({"new": True}, target.get_queue("p", "q").metadata)

    def test_ids_that_are_given_out_later_are_above(self) -> None:
        filled = self.fill()
        self.storage.put_queue("o", "z", {})
        target = self.make_empty()
        self.copy(self.storage, target)
        newest = max(message.id for message in self.storage.list_messages("p", "q", None, 100, claimed=True, delayed=True))
        self.clock.now -= 1000
        self.assertGreater(target.publish("p", "q", [Draft(b"1", 300)])[0], newest)
        subscribed = target.subscribe(self.subscription("http://new/")).subscription
        self.assertGreater(subscribed.id, filled["other"].id)
        self.assertGreater(target.add_job("p", "some", {}), filled["range"])
        self.assertTrue(target.put_queue("fresh", "q", {}))
        [posted] = target.publish("fresh", "q", [Draft(b"1", 300)])
        self.assertEqual([posted], [message.id for message in target.list_messages("fresh", "q", None, 10)])

    def test_an_alert_is_not_repeated_after_the_move(self) -> None:
        mine = self.subscribe()
        alert = Alert("dead", "alerts", Draft(b"1", 300))
        for _ in range(2):
            self.entry_into_row(mine.id, log=self.failed(), due_at=NOW + 900, lines=1, alerts=(alert,))
            target = self.make_empty()
            self.copy(self.storage, target)
            self.storage = target
        self.assertEqual(1, self.storage.stats("p", "alerts").free)
