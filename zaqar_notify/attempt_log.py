"""One wide line in the log for each attempt, under the logger ``zaqar_notify.attempt``.

At some thousand attempts a second a log record for each would cost a sixth of the worker's time. So the lines of a micro-batch
are put together to a few records, each of whose lines looks as if it were one of its own. docs/metrics.md says what is in them.
"""

from __future__ import annotations

import datetime
import functools
import logging
import re
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring_ascii as quoted  # what json.dumps does with a str, without its detours

from zaqar_notify.model import Delivery, Outcome, OutcomeKind, State

LOGGER = logging.getLogger("zaqar_notify.attempt")
MOST_AT_ONCE = 4096
"""Bytes of one write: those of other processes to the same pipe cannot come between (PIPE_BUF)."""
MOST_DETAIL = 500
_PLAIN = re.compile(r"[\w.:@/+-]+", re.ASCII)
_PROBE = 'x="\\"'
"""Stands where a message would, to find out what a formatter puts around it, and whether it leaves quotes as they are."""


def attempt_line(
    delivery: Delivery,
    outcome: Outcome,
    *,
    attempt: int,
    most: int,
    duration: float | None,
    state: State,
    due_at: float | None,
) -> str:
    """``attempt`` n of at most ``most``, ``duration`` seconds long, has put the delivery into ``state``; the next one is due at
    ``due_at`` (epoch seconds). What others can choose is quoted where it has to be: it stays one line with these keys."""
    message, subscription = delivery.message, delivery.subscription
    message_id = message.id if message.foreign_id is None else value(message.foreign_id)
    return (
        f"delivery={delivery.id} message={message_id} subscription={subscription.id}"
        f" queue={value(message.queue)} project={value(message.project)}"
        f" scheme={value(subscription.subscriber.partition(':')[0])}"
        f" outcome={outcome.kind._value_} status={'-' if outcome.status is None else outcome.status}"
        f" attempt={attempt}/{most} duration={'-' if duration is None else f'{duration:.4f}'}"
        f" next={state._value_ if due_at is None else instant(due_at)}"
        f" detail={quoted(outcome.detail[:MOST_DETAIL])}"
    )


@functools.lru_cache(maxsize=4096)
def value(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quoted(text)


def instant(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AttemptLog:
    """For one thread. ``log_attempts`` is the option: ``all``, ``failures`` or ``none``."""

    def __init__(self, log_attempts: str, logger: logging.Logger = LOGGER) -> None:
        self._all = log_attempts == "all"
        self._none = log_attempts == "none"
        self._logger = logger
        self._lines: list[str] = []

    def wants(self, outcome: OutcomeKind) -> bool:
        return self._all or not (self._none or outcome is OutcomeKind.DELIVERED)

    def add(self, line: str) -> None:
        self._lines.append(line)

    def flush(self) -> None:
        """Write what was added."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        if logger.filters:  # which may count the records, or look into them
            for line in lines:
                logger.info("%s", line)
            return
        for handler in _handlers(logger):
            if handler.level <= logging.INFO:
                for text in _together(handler, lines, logger.name):
                    handler.handle(_record(logger.name, text))


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    """Those that get the logger's records."""
    above: logging.Logger | None = logger
    while above is not None:
        yield from above.handlers
        above = above.parent if above.propagate else None


def _together(handler: logging.Handler, lines: Sequence[str], name: str) -> Sequence[str]:
    """The lines, or several of them in one message where the handler writes texts and its formatter leaves them as they are."""
    if not isinstance(handler, logging.StreamHandler) or handler.filters:
        return lines
    before, found, after = handler.format(_record(name, _PROBE)).partition(_PROBE)
    if not found:
        return lines
    between = f"{after}{handler.terminator}{before}"
    return list(_joined(lines, between, MOST_AT_ONCE - len(before) - len(after) - len(handler.terminator)))


def _joined(lines: Sequence[str], between: str, most: int) -> Iterator[str]:
    begin = size = 0
    for index, line in enumerate(lines):
        size += len(line) + len(between)
        if size > most and index > begin:
            yield between.join(lines[begin:index])
            begin, size = index, len(line) + len(between)
    yield between.join(lines[begin:])


def _record(name: str, text: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, __file__, 0, text, None, None, "flush")
