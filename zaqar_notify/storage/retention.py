"""How long things are kept that are over."""

from __future__ import annotations

import dataclasses
import math

_LOOK_AGAIN = 600.0
"""Seconds, at most, until the next look at something that is over but still in use."""


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What is to become of a message that housekeeping has looked at."""

    id: int
    seen: float
    """When this look was due."""
    prune_at: float
    """0: it is to be removed."""
    drop_body: bool = False
    forget: tuple[int, ...] = ()
    """Subscriptions that it was delivered to so long ago that the log drops their lines."""
    ended_at: float = 0.0
    """When the last of these deliveries ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Retention:
    """Seconds after the end; None: as long as the log."""

    log: float
    body: float | None = None
    delivered: float | None = None
    """Of the lines of what was delivered."""

    @property
    def look_again(self) -> float:
        return min(_LOOK_AGAIN, max(self.log, 1.0))

    @property
    def forget_delivered(self) -> float | None:
        """None: not before the others."""
        return self.delivered if self.delivered is not None and self.delivered < self.log else None

    def first_look(self, begins_at: float, expires_at: float) -> float:
        """When housekeeping looks at a message first."""
        return expires_at if self.forget_delivered is None else min(expires_at, begins_at + self.forget_delivered)

    def next_look(
        self,
        now: float,
        *,
        expires_at: float,
        used: bool,
        ended_at: float,
        has_body: bool,
        delivered_at: float = math.inf,
    ) -> tuple[float, bool]:
        """When housekeeping looks at a message again (0: it is over, and to be removed), and whether its body is dropped now.

        ``used``: some of its deliveries have not ended. ``ended_at``: when the last one of the others did, 0 for none;
        ``delivered_at``: when the first of those was delivered whose lines are kept yet.
        """
        kept = self.forget_delivered
        again = math.inf if kept is None else kept + (min(delivered_at, now) if used else delivered_at)
        if expires_at > now:
            return min(expires_at, again), False
        if used:
            return min(now + self.look_again, again), False
        over_at = ended_at + self.log
        if not ended_at or over_at <= now:
            return 0.0, False
        if self.body is None or not has_body or self.body >= self.log:
            return min(over_at, again), False
        if ended_at + self.body > now:
            return min(ended_at + self.body, again), False
        return min(over_at, again), True
