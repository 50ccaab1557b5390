"""What API and worker count. These classes count nothing: they stand where ``[metrics] listen`` is unset.

`zaqar_notify.prometheus` has those that count, under the names of docs/metrics.md.
"""

from __future__ import annotations

from zaqar_notify.model import OutcomeKind


class ApiMetrics:
    """Safe to call from several threads."""

    def published(self, count: int) -> None:
        """So many messages were stored for a client."""

    def request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """A request was answered. ``route`` is the URI template, None where no route fits."""


class ReceiveMetrics:
    """Safe to call from several threads."""

    def received(self, result: str) -> None:
        """A mail has come in, and this has come of it."""


class WorkerMetrics:
    """For the worker's main thread alone: what is counted is kept there until `flush`."""

    def attempt(self, subscriber: str, outcome: OutcomeKind, duration: float | None, lag: float | None) -> None:
        """An attempt has come to ``outcome`` after ``duration`` seconds (None: nothing was sent). ``lag``: seconds from the
        publishing to a delivery, None for all else."""

    def dead_letter(self) -> None:
        """A delivery is given up."""

    def flush(self, now: float, in_flight: int) -> None:
        """Show what was counted. To be called with each turn of the loop: does nothing within a second of the last time.

        ``now`` is ``time.monotonic()``.
        """
