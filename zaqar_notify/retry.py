"""When a delivery is tried again, and when it has ended: the one function between an outcome and a state."""

from __future__ import annotations

import dataclasses

from zaqar_notify.model import Outcome, OutcomeKind, State

DEFAULT_SCHEDULE = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""Seconds to wait before each attempt, as Standard Webhooks 1.0.0 recommends: 75 h in all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """All durations are seconds; ``jitter`` is a share of the wait, to either side."""

    schedule: tuple[float, ...] = DEFAULT_SCHEDULE
    jitter: float = 0.2
    fault_delay: float = 5.0
    """The first wait after a fault of our own; it doubles up to ``fault_delay_max``."""
    fault_delay_max: float = 300.0
    after_max: float = 36000.0
    """The longest wait that another side can ask for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Next:
    state: State
    attempts: int
    """How many attempts of the schedule are used up now."""
    due_at: float | None = None
    """When to try again; None when the delivery has ended."""


_ENDS = {
    OutcomeKind.DELIVERED: State.DELIVERED,
    OutcomeKind.REJECTED: State.DEAD,
    OutcomeKind.GONE: State.GONE,
    OutcomeKind.REFUSED: State.REFUSED,
}


def next_state(
    outcome: Outcome,
    *,
    attempts: int,
    faults: int,
    now: float,
    expires_at: float,
    policy: Policy,
    chance: float,
) -> Next:
    """The state after an attempt.

    ``attempts`` counts those used up before this one, ``faults`` the ones before it that used up nothing. ``chance`` is a
    random number from 0 to 1 for the jitter. A wait never reaches beyond the message's expiry: at that instant the delivery
    is looked at again and recorded as expired.
    """
    ended = _ENDS.get(outcome.kind)
    if ended is not None:
        used = 0 if outcome.kind is OutcomeKind.REFUSED else 1
        return Next(ended, attempts + used)
    if outcome.kind is OutcomeKind.RETRY:
        attempts += 1
        if attempts >= len(policy.schedule):
            return Next(State.DEAD, attempts)
        wait = max(policy.schedule[attempts], _asked(outcome, policy))
    elif outcome.kind is OutcomeKind.THROTTLED:
        # Waits longer each time, although nothing is used up: who says "later" for ever is asked ever more rarely.
        scheduled = policy.schedule[min(max(attempts + faults, 1), len(policy.schedule) - 1)]
        wait = max(scheduled, _asked(outcome, policy))
    else:
        wait = min(policy.fault_delay * 2.0 ** min(faults, 30), policy.fault_delay_max)
    wait *= 1.0 + policy.jitter * (2.0 * chance - 1.0)
    wait = max(wait, _asked(outcome, policy))
    return Next(State.PENDING, attempts, min(now + wait, expires_at))


def _asked(outcome: Outcome, policy: Policy) -> float:
    return min(outcome.after or 0.0, policy.after_max)
