"""How long things are kept that are over."""

from __future__ import annotations

import dataclasses

_LOOK_AGAIN = 600.0
"""Seconds, at most, until the next look at something that is over but still in use."""


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
