"""The one function between an outcome and a state."""

import itertools
import unittest

from zaqar_notify.model import Outcome, OutcomeKind, State
from zaqar_notify.retry import DEFAULT_SCHEDULE, Next, Policy, next_state, policy_of

FAR = 1e12


def after(
    kind: OutcomeKind, *, attempts: int = 0, faults: int = 0, expires_at: float = FAR, chance: float = 0.5, **more
) -> Next:
    policy, further = more.pop("policy", Policy()), more.pop("further", 0)
    outcome = Outcome(kind, **more)
    return next_state(
        outcome,
        attempts=attempts,
        faults=faults,
        now=1000.0,
        expires_at=expires_at,
        policy=policy,
        chance=chance,
        further=further,
    )


class Table(unittest.TestCase):
    """delivery.md's table: outcome, state, and whether an attempt is used up."""

    def test_what_ends(self) -> None:
        for kind, state, used in (
            (OutcomeKind.DELIVERED, State.DELIVERED, 1),
            (OutcomeKind.REJECTED, State.DEAD, 1),
            (OutcomeKind.GONE, State.GONE, 1),
            (OutcomeKind.REFUSED, State.REFUSED, 0),
        ):
            with self.subTest(kind):
                self.assertEqual(after(kind), Next(state, used, None))
                self.assertTrue(state.ended)

    def test_what_goes_on(self) -> None:
        for kind, used in (
            (OutcomeKind.RETRY, 1),
            (OutcomeKind.THROTTLED, 0),
            (OutcomeKind.AUTH, 0),
            (OutcomeKind.OURS, 0),
        ):
            with self.subTest(kind):
                following = after(kind)
                self.assertIs(following.state, State.PENDING)
                self.assertEqual(following.attempts, used)
                self.assertEqual(following.due_at, 1005.0)
                self.assertFalse(following.state.ended)

    def test_every_outcome_has_a_state(self) -> None:
        for kind in OutcomeKind:
            self.assertIsInstance(after(kind).state, State)


class Schedule(unittest.TestCase):
    def test_waits_are_those_of_the_schedule_and_the_last_attempt_ends_it(self) -> None:
        attempts, waits = 0, []
        for _ in itertools.repeat(None):
            following = after(OutcomeKind.RETRY, attempts=attempts)
            attempts = following.attempts
            if following.state is State.DEAD:
                break
            waits.append(following.due_at - 1000.0)
        self.assertEqual(tuple(waits), DEFAULT_SCHEDULE[1:])
        self.assertEqual(attempts, 10)
        self.assertEqual(sum(DEFAULT_SCHEDULE) / 3600, 75.5847222222222222)

    def test_jitter_is_to_both_sides(self) -> None:
        self.assertEqual(after(OutcomeKind.RETRY, chance=0.0).due_at, 1004.0)
        self.assertEqual(after(OutcomeKind.RETRY, chance=1.0).due_at, 1006.0)

    def test_a_retry_never_lies_beyond_the_expiry(self) -> None:
        self.assertEqual(after(OutcomeKind.RETRY, attempts=4, expires_at=1300.0).due_at, 1300.0)

    def test_retry_after_lengthens_the_wait_but_never_shortens_it(self) -> None:
        self.assertEqual(after(OutcomeKind.THROTTLED, after=60.0).due_at, 1060.0)
        self.assertEqual(after(OutcomeKind.THROTTLED, after=1.0).due_at, 1005.0)
        self.assertEqual(after(OutcomeKind.THROTTLED, after=60.0, chance=0.0).due_at, 1060.0, "jitter must not cut it short")
        self.assertEqual(after(OutcomeKind.THROTTLED, after=1e9).due_at, 1000.0 + 36000.0, "capped at 10 h")

    def test_a_throttled_delivery_can_wait_for_ever_without_dying(self) -> None:
        self.assertIs(after(OutcomeKind.THROTTLED, attempts=9).state, State.PENDING)

    def test_who_throttles_for_ever_is_asked_ever_more_rarely(self) -> None:
        waits = [after(OutcomeKind.THROTTLED, faults=faults, after=0.0).due_at - 1000.0 for faults in (0, 1, 2, 3, 9, 10**6)]
        self.assertEqual(waits, [5.0, 5.0, 300.0, 1800.0, 86400.0, 86400.0])

    def test_who_throttles_is_not_asked_at_once_whatever_the_schedule(self) -> None:
        for schedule in ((0.0,), (0.0, 0.0, 0.0)):
            policy = Policy(schedule=schedule)
            waits = [after(OutcomeKind.THROTTLED, faults=n, after=0.0, policy=policy).due_at - 1000.0 for n in (0, 1, 2, 50)]
            self.assertEqual(waits, [5.0, 10.0, 20.0, 300.0])
            self.assertEqual(after(OutcomeKind.THROTTLED, after=60.0, policy=policy).due_at, 1060.0)

    def test_our_own_faults_back_off_by_themselves(self) -> None:
        waits = [after(OutcomeKind.OURS, faults=faults).due_at - 1000.0 for faults in range(8)]
        self.assertEqual(waits, [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0])
        self.assertEqual(after(OutcomeKind.OURS, faults=10**6).due_at, 1300.0)

    def test_one_attempt_only(self) -> None:
        self.assertIs(after(OutcomeKind.RETRY, policy=Policy(schedule=(0.0,))).state, State.DEAD)
        self.assertIs(after(OutcomeKind.THROTTLED, policy=Policy(schedule=(0.0,))).state, State.PENDING)


class Fallback(unittest.TestCase):
    """When there are further addresses."""

    ENDS = (
        (OutcomeKind.RETRY, 9, State.DEAD),
        (OutcomeKind.REJECTED, 0, State.DEAD),
        (OutcomeKind.GONE, 0, State.GONE),
    )

    def test_what_is_dead_or_gone_goes_on_at_once_with_all_attempts(self) -> None:
        for kind, attempts, _ in self.ENDS:
            with self.subTest(kind):
                self.assertEqual(
                    Next(State.PENDING, 0, 1000.0, goes_on=True), after(kind, attempts=attempts, further=1), "the next address"
                )

    def test_without_another_address_it_ends(self) -> None:
        for kind, attempts, state in self.ENDS:
            with self.subTest(kind):
                self.assertEqual(Next(state, attempts + 1), after(kind, attempts=attempts, further=0))

    def test_nothing_goes_on_beyond_the_expiry(self) -> None:
        for kind, attempts, state in self.ENDS:
            with self.subTest(kind):
                self.assertEqual(Next(state, attempts + 1), after(kind, attempts=attempts, further=1, expires_at=1000.0))

    def test_what_ends_otherwise_or_is_tried_again_stays_with_its_address(self) -> None:
        for kind in set(OutcomeKind) - {OutcomeKind.REJECTED, OutcomeKind.GONE}:
            with self.subTest(kind):
                self.assertEqual(after(kind), after(kind, further=5))


class PolicyOf(unittest.TestCase):
    """Whose schedule counts, and how Zaqar's policies are read."""

    service = Policy(schedule=(0.0, 1.0, 2.0), jitter=0.1)

    def schedule(self, options: dict | None = None, queue: dict | None = None) -> tuple[float, ...]:
        return policy_of(self.service, {"_retry_policy": queue} if queue else {}, options or {}).schedule

    def test_without_one_it_is_the_service_s(self) -> None:
        self.assertIs(policy_of(self.service, {}, {}), self.service)
        self.assertIs(policy_of(self.service, {"_retry_policy": {}}, {"_retry_policy": {}}), self.service)

    def test_who_comes_first(self) -> None:
        queue, own = {"schedule": [0, 10]}, {"schedule": [0, 20]}
        self.assertEqual(self.schedule(queue=queue), (0.0, 10.0))
        self.assertEqual(self.schedule({"_retry_policy": own}, queue), (0.0, 20.0))
        self.assertEqual(self.schedule({"_retry_policy": own, "schedule": [0, 30]}, queue), (0.0, 30.0))
        self.assertEqual(self.schedule({"schedule": [0, 30]}, {**queue, "ignore_subscription_override": True}), (0.0, 10.0))

    def test_max_attempts_cuts_and_lengthens(self) -> None:
        self.assertEqual(self.schedule({"max_attempts": 2}), (0.0, 1.0))
        self.assertEqual(self.schedule({"max_attempts": 5}), (0.0, 1.0, 2.0, 2.0, 2.0))
        self.assertEqual(self.schedule({"max_attempts": 1, "schedule": [0, 7]}), (0.0,))
        self.assertEqual(len(self.schedule({"max_attempts": 10**9})), self.service.most_attempts)
        self.assertEqual(self.schedule(queue={"max_attempts": 4, "schedule": [0, 7]}), (0.0, 7.0, 7.0, 7.0))

    def test_what_is_not_about_the_schedule_stays(self) -> None:
        self.assertEqual(policy_of(self.service, {}, {"schedule": [0]}).jitter, 0.1)

    def test_zaqar_s_defaults(self) -> None:
        phases = (0, 0, 0, 0, 5, 5, 5, 5, 10, 15, 20, 25, 30, 30, 30)
        self.assertEqual(self.schedule({"_retry_policy": {"retry_backoff_function": "linear"}}), phases)

    def test_zaqar_s_curves(self) -> None:
        only = {"retries_with_no_delay": 0, "minimum_delay_retries": 0, "maximum_delay_retries": 0, "maximum_delay": 30}
        for function, waits in (
            ("linear", (5, 10, 15, 20, 25)),
            ("arithmetic", (5, 7, 12, 20, 30)),
            ("geometric", (5, 7, 12, 19, 30)),
            ("exponential", (5, 7, 12, 19, 30)),
        ):
            with self.subTest(function):
                found = self.schedule({"_retry_policy": {**only, "minimum_delay": 5, "retry_backoff_function": function}})
                self.assertEqual(tuple(int(wait) for wait in found), (0, *waits))

    def test_what_is_no_policy_counts_as_none(self) -> None:
        for options in (
            {"schedule": "soon"},
            {"schedule": [None]},
            {"schedule": 5},
            {"schedule": "123"},
            {"schedule": [0, "nan"]},
            {"schedule": [0, "inf"]},
            {"schedule": [0, -5]},
            {"schedule": [0, True]},
            {"max_attempts": "3"},
            {"_retry_policy": 5},
            {"_retry_policy": {"minimum_delay": "1"}},
            {"_retry_policy": {"maximum_delay": [1]}},
        ):
            with self.subTest(options):
                self.assertEqual(self.schedule(options), self.service.schedule)

    def test_nothing_that_is_valid_breaks_or_grows(self) -> None:
        for policy in (
            {"minimum_delay": 0, "maximum_delay": 10, "retry_backoff_function": "geometric"},
            {"minimum_delay": 0, "maximum_delay": 2**62, "retry_backoff_function": "exponential"},
            {"minimum_delay": 0, "maximum_delay": 10, "retry_backoff_function": "arithmetic"},
            {"maximum_delay": 0},
            {"retries_with_no_delay": 2**62},
        ):
            with self.subTest(policy):
                found = self.schedule({"_retry_policy": policy})
                self.assertTrue(1 <= len(found) <= self.service.most_attempts)
                self.assertEqual(found[0], 0.0)
