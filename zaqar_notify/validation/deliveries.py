"""Deliveries: which are asked for, and those that are made again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import State
from zaqar_notify.validation.documents import json_object
from zaqar_notify.validation.drafts import message_ttl
from zaqar_notify.validation.limits import Limits
from zaqar_notify.validation.queries import moment


def redelivery_ttl(document: Any, *, default_ttl: int, limits: Limits) -> int:
    """Seconds. null is as good as nothing."""
    ttl = json_object(document, "The request").get("ttl")
    return default_ttl if ttl is None else message_ttl(ttl, limits, "ttl")


@dataclasses.dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """``since`` and ``until``, epoch seconds, are about the last line of a delivery's log: from, and before."""

    states: frozenset[State] | None = None
    since: float | None = None
    until: float | None = None

    @property
    def is_empty(self) -> bool:
        return self.states is None and self.since is None and self.until is None

    def has(self, state: State, last_at: float | None) -> bool:
        """``last_at``: of the last line; None where there is none, so that it is in no range of time."""
        if self.states is not None and state not in self.states:
            return False
        if self.since is None and self.until is None:
            return True
        if last_at is None:
            return False
        return (self.since is None or self.since <= last_at) and (self.until is None or last_at < self.until)


def delivery_filter(states: Iterable[str] | None, since: str | None, until: str | None) -> DeliveryFilter:
    """From the values of a query's fields; each of ``states`` may hold several, parted by commas."""
    made = DeliveryFilter(
        None if states is None else _states(states),
        None if since is None else moment(since, "since"),
        None if until is None else moment(until, "until"),
    )
    if made.since is not None and made.until is not None and made.since >= made.until:
        raise InvalidRequest("since has to be before until.")
    return made


def _states(texts: Iterable[str]) -> frozenset[State]:
    known = {state.value: state for state in State}
    names = [name for text in texts for name in text.split(",") if name]
    if not names or any(name not in known for name in names):
        raise InvalidRequest(f"state has to be one or more of {', '.join(known)}, parted by commas.")
    return frozenset(known[name] for name in names)
