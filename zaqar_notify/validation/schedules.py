"""When a delivery is tried again: options of a subscription, and of a queue in its ``_retry_policy``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.validation.documents import integer, is_number, json_object
from zaqar_notify.validation.limits import MAX_WAIT, Limits
from zaqar_notify.validation.spelling import by_sound, check_names

_BACKOFF_FUNCTIONS = ("linear", "arithmetic", "geometric", "exponential")
_RETRY_NUMBERS = ("retries_with_no_delay", "minimum_delay_retries", "minimum_delay", "maximum_delay", "maximum_delay_retries")


def check_retry_policy(value: Any, limits: Limits, what: str) -> None:
    """Zaqar's ``_retry_policy``, of a queue or a subscription."""
    policy = json_object(value, what)
    check_names(policy.keys(), _NAMES, f"{what}.")
    for name, check in SCHEDULING.items():
        if name in policy:
            check(policy[name], limits, f"{what}.{name}")
    for name in _RETRY_NUMBERS:
        if name in policy:
            integer(policy[name], 0, None, f"{what}.{name}")
    if policy.get("retry_backoff_function", "linear") not in _BACKOFF_FUNCTIONS:
        raise InvalidRequest(f"{what}.retry_backoff_function has to be one of {', '.join(_BACKOFF_FUNCTIONS)}.")
    if not isinstance(policy.get("ignore_subscription_override", False), bool):
        raise InvalidRequest(f"{what}.ignore_subscription_override has to be true or false.")
    if "minimum_delay" in policy and "maximum_delay" in policy and policy["maximum_delay"] - policy["minimum_delay"] < 10:
        raise InvalidRequest(f"{what}.maximum_delay has to be at least 10 more than minimum_delay.")


def _check_max_attempts(value: Any, limits: Limits, what: str) -> None:
    integer(value, 1, limits.max_attempts, what)


def _check_schedule(value: Any, limits: Limits, what: str) -> None:
    most = limits.max_attempts
    if not isinstance(value, list) or not 1 <= len(value) <= most or not all(is_number(wait, 0, MAX_WAIT) for wait in value):
        raise InvalidRequest(f"{what} has to be a list of 1 to {most} numbers of seconds, each from 0 to {MAX_WAIT}.")


SCHEDULING: Mapping[str, Callable[[Any, Limits, str], object]] = {
    "max_attempts": _check_max_attempts,
    "schedule": _check_schedule,
}
_NAMES = by_sound((*SCHEDULING, *_RETRY_NUMBERS, "retry_backoff_function", "ignore_subscription_override"))
