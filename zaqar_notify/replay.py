"""Replays: which deliveries of a subscription are to be started anew, as the request says it and as a job keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import State
from zaqar_notify.validation import END_OF_TIME, DeliveryFilter, Limits, json_object, moment, redelivery_ttl

FAILED = frozenset({State.DEAD, State.EXPIRED})
"""What a replay that names no states delivers again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    wanted: DeliveryFilter
    ttl: int
    """Seconds for which each is tried."""

    def details(self) -> dict[str, Any]:
        """As JSON."""
        states = None if self.wanted.states is None else sorted(state.value for state in self.wanted.states)
        return {"states": states, "since": self.wanted.since, "until": self.wanted.until, "ttl": self.ttl}

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> Replay:
        states = details["states"]
        wanted = frozenset(map(State, states)) if states is not None else None
        return cls(DeliveryFilter(wanted, details["since"], details["until"]), details["ttl"])


def parse(document: Any, *, now: float, default_ttl: int, limits: Limits) -> Replay:
    """``until`` is now where none is given: what fails again meanwhile is not taken up once more. Raises `InvalidRequest`."""
    fields = json_object(document, "The request")
    since, until = _moment(fields.get("since"), "since"), _moment(fields.get("until"), "until")
    if since is None:
        raise InvalidRequest("since is missing: what was tried, or ended, before then is left as it is.")
    until = now if until is None else until
    if since >= until:
        raise InvalidRequest("since has to be before until, and until is now where it is not given.")
    wanted = DeliveryFilter(_ended(fields.get("states")), since, until)
    return Replay(wanted, redelivery_ttl(document, default_ttl=default_ttl, limits=limits))


def _ended(given: Any) -> frozenset[State]:
    if given is None:
        return FAILED
    ended = {state.value: state for state in State if state.ended}
    if not isinstance(given, list) or not given or any(not isinstance(name, str) or name not in ended for name in given):
        raise InvalidRequest(f"states has to be a list of one or more of {', '.join(ended)}.")
    return frozenset(ended[name] for name in given)


def _moment(given: Any, what: str) -> float | None:
    if given is None:
        return None
    if isinstance(given, str):
        return moment(given, what)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= END_OF_TIME:
        raise InvalidRequest(f"{what} has to be seconds since 1970, or an instant in ISO 8601, as in 2030-01-31T12:00:00Z.")
    return float(given)
