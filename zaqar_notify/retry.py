"""When a delivery is tried again, and when it has ended: the one function between an outcome and a state."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

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
    most_attempts: int = 100
    """However a queue or a subscription puts it."""


class Next(NamedTuple):
    state: State
    attempts: int
    """How many attempts of the schedule are used up now."""
    due_at: float | None = None
    """When to try again; None when the delivery has ended."""
    goes_on: bool = False
    """To the next address of the subscription, whose attempts are counted anew."""


_ENDS = {
    OutcomeKind.DELIVERED: State.DELIVERED,
    OutcomeKind.REJECTED: State.DEAD,
    OutcomeKind.GONE: State.GONE,
    OutcomeKind.REFUSED: State.REFUSED,
}
_FALL_BACK = frozenset({State.DEAD, State.GONE})
"""Ends of one address, after which the next one is tried."""


def next_state(
    outcome: Outcome,
    *,
    attempts: int,
    faults: int,
    now: float,
    expires_at: float,
    policy: Policy,
    chance: float,
    further: int = 0,
) -> Next:
    """The state after an attempt.

    ``attempts`` counts those used up before this one, ``faults`` the ones before it that used up nothing. ``chance`` is a
    random number from 0 to 1 for the jitter. A wait never reaches beyond the message's expiry: at that instant the delivery
    is looked at again and recorded as expired. ``further``: how many addresses are left to fall back on.
    """
    ended = _ENDS.get(outcome.kind)
    if ended is not None:
        used = 0 if outcome.kind is OutcomeKind.REFUSED else 1
        end = Next(ended, attempts + used)
        return _end(end, further, now, expires_at) if further else end
    if outcome.kind is OutcomeKind.RETRY:
        attempts += 1
        if attempts >= len(policy.schedule):
            return _end(Next(State.DEAD, attempts), further, now, expires_at)
        wait = max(policy.schedule[attempts], _asked(outcome, policy))
    elif outcome.kind is OutcomeKind.THROTTLED:
        # Waits longer each time, although nothing is used up: who says "later" for ever is asked ever more rarely.
        scheduled = policy.schedule[min(max(attempts + faults, 1), len(policy.schedule) - 1)]
        # Nothing is used up, so that a schedule without waits would have it sent at once, for ever.
        wait = max(scheduled or _fault_wait(faults, policy), _asked(outcome, policy))
    else:
        wait = _fault_wait(faults, policy)
    wait *= 1.0 + policy.jitter * (2.0 * chance - 1.0)
    wait = max(wait, _asked(outcome, policy))
    return Next(State.PENDING, attempts, min(now + wait, expires_at))


def _end(end: Next, further: int, now: float, expires_at: float) -> Next:
    goes_on = further and end.state in _FALL_BACK and now < expires_at
    return Next(State.PENDING, 0, now, goes_on=True) if goes_on else end


def _fault_wait(faults: int, policy: Policy) -> float:
    return min(policy.fault_delay * 2.0 ** min(faults, 30), policy.fault_delay_max)


def _asked(outcome: Outcome, policy: Policy) -> float:
    return min(outcome.after or 0.0, policy.after_max)


# -- the schedule of a queue or a subscription ---------------------------------------------------------------------------------

_STEP = 5
"""Seconds: Zaqar backs off in so many steps as fit between its shortest and its longest wait."""


def policy_of(service: Policy, metadata: Mapping[str, Any], options: Mapping[str, Any]) -> Policy:
    """The policy for a subscription with ``options`` of a queue with ``metadata``.

    A subscription's own ``schedule`` and ``max_attempts`` come before its ``_retry_policy``, that before the queue's, and that
    before the service's schedule; a queue's with ``ignore_subscription_override`` before all. What an older version took
    without looking, and is no policy, counts as none.
    """
    try:
        return _policy_of(service, metadata, options)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return service


def _policy_of(service: Policy, metadata: Mapping[str, Any], options: Mapping[str, Any]) -> Policy:
    of_queue = metadata.get("_retry_policy") or {}
    own = {name: options[name] for name in ("schedule", "max_attempts") if options.get(name) is not None}
    of_subscription = {**(options.get("_retry_policy") or {}), **own}
    overridden = of_queue.get("ignore_subscription_override") or of_subscription.get("ignore_subscription_override")
    chosen = of_queue if overridden else of_subscription or of_queue
    return dataclasses.replace(service, schedule=_schedule(chosen, service)) if chosen else service


def _schedule(chosen: Mapping[str, Any], service: Policy) -> tuple[float, ...]:
    most = min(chosen.get("max_attempts") or service.most_attempts, service.most_attempts)
    waits: Iterator[float]
    if chosen.get("schedule"):
        waits = iter(chosen["schedule"])
    elif chosen.keys() <= {"max_attempts", "ignore_subscription_override"}:
        waits = iter(service.schedule)
    else:
        waits = _zaqar_waits(chosen)
    schedule = tuple(_seconds(wait) for wait in itertools.islice(waits, most))
    if chosen.get("max_attempts"):
        schedule += schedule[-1:] * (most - len(schedule))
    return schedule


def _seconds(wait: float) -> float:
    # Also Python's words for what is no number of JSON: a delivery that is due at "nan" would never be taken again.
    if isinstance(wait, bool) or not isinstance(wait, int | float) or wait < 0:
        raise ValueError("a wait is a number of seconds")
    return float(wait)


def _zaqar_waits(chosen: Mapping[str, Any]) -> Iterator[float]:
    """The attempt itself, then Zaqar's four phases: at once, shortest wait, backing off, longest wait."""
    shortest, longest = chosen.get("minimum_delay", 5), chosen.get("maximum_delay", 30)
    yield 0
    yield from itertools.repeat(0, chosen.get("retries_with_no_delay", 3))
    yield from itertools.repeat(shortest, chosen.get("minimum_delay_retries", 3))
    yield from _backing_off(chosen.get("retry_backoff_function", "linear"), shortest, longest)
    yield from itertools.repeat(longest, chosen.get("maximum_delay_retries", 3))


def _backing_off(function: str, shortest: int, longest: int) -> Iterator[float]:
    steps = max(0, longest - shortest) // _STEP
    for step in range(steps):
        share = step / max(1, steps - 1)
        if function == "linear":
            yield shortest + step * _STEP
        elif function == "arithmetic":
            yield shortest + (longest - shortest) * share * (step + 1) / steps
        else:  # geometric and exponential are two names of one curve
            yield max(shortest, 1) * (longest / max(shortest, 1)) ** share
