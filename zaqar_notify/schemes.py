"""Which schemes are sent to, and by which workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

OURS = ""
"""The pool of all workers that serve no schemes by name."""


def scheme_of(subscriber: str) -> str:
    return subscriber.partition(":")[0].lower()


@dataclasses.dataclass(frozen=True, slots=True)
class Schemes:
    """Those that are switched off, and those that workers of their own serve."""

    name_of: Callable[[str], str] = scheme_of
    """Of a subscriber's URI, the scheme that a notifier serves."""
    enabled: bool = True
    disabled: Collection[str] = frozenset()
    drops: bool = False
    """What is switched off ends at once. Else it waits in its lane, which is looked at every ``recheck`` seconds."""
    recheck: float = 30.0
    apart: Collection[str] = frozenset()
    """Each has a pool of its name."""
    pools: Sequence[str] = (OURS,)
    """Those that this worker serves."""

    @property
    def all_on(self) -> bool:
        return self.enabled and not self.disabled

    def off(self, subscriber: str) -> str | None:
        """Why nothing is sent to it; None: it is."""
        if not self.enabled:
            return "notifications are switched off: [notification] enabled"
        if self.disabled and (name := self.name_of(subscriber)) in self.disabled:
            return f"{name} is switched off: [notification] disabled_schemes"
        return None

    def all_off(self) -> str | None:
        """What is switched off, for an operator; None: nothing is."""
        what = ", ".join(sorted(self.disabled)) if self.enabled else "all notifications"
        become = "dropped" if self.drops else "parked"
        return f"switched off, by [notification] in the configuration: {what}. What would be sent is {become}" if what else None

    def pool(self, subscriber: str) -> str:
        if not self.apart:
            return OURS
        name = self.name_of(subscriber)
        return name if name in self.apart else OURS


ALL = Schemes()
"""All are sent to, by every worker."""
