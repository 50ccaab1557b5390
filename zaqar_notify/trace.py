"""W3C Trace Context: the ``traceparent`` of a request is passed on to those who get its messages."""

from __future__ import annotations

import functools
import re
from typing import Any

ATTRIBUTE = "traceparent"
"""The message's attribute that keeps the header of the request which posted it."""

_FIELDS = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-[!-~]{0,100})?")
_KNOWN_FLAGS = 0x03  # sampled; the trace id is random


def is_valid(value: Any) -> bool:
    """Whether it is a ``traceparent`` of version 00, or of a later one whose beginning can be read like it."""
    return _trace(value) is not None


def child(value: Any, span: int) -> str | None:
    """The ``traceparent`` to send for a new span (64 bits, not 0) of the same trace; None when ``value`` is no valid one.

    It has version 00 and the flags of that version, whatever came in: the specification asks for the sender's own.
    """
    trace = _trace(value)
    return None if trace is None else f"00-{trace[0]}-{span:016x}-{trace[1]}"


def _trace(value: Any) -> tuple[str, str] | None:
    return _parse(value) if isinstance(value, str) else None


@functools.lru_cache(maxsize=1024)
def _parse(value: str) -> tuple[str, str] | None:
    """Trace id and flags."""
    match = _FIELDS.fullmatch(value)
    if match is None:
        return None
    version, trace_id, flags, more = match.groups()
    if version == "00" and more is not None:
        return None
    return trace_id, f"{int(flags, 16) & _KNOWN_FLAGS:02x}"
