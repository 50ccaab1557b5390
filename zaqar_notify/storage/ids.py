"""Ids: 63-bit integers inside, 16 lower-case hexadecimal characters outside.

An id begins with the milliseconds since the epoch and ends in chance, so that ids rise with time and are unique over databases
with overwhelming likelihood. They are given out under the write lock, above every id that was given out before: they rise
strictly, also when the clock jumps back.
"""

from __future__ import annotations

import functools
import random
import re

from zaqar_notify.errors import InvalidRequest

_SHAPE = re.compile(r"[0-7][0-9a-f]{15}")
_CHANCE_BITS = 20
_STEP_BITS = 8


def rising(last: int, now: float, count: int) -> list[int]:
    """``count`` ids above ``last``, which is the greatest that was ever given out; ``now``: epoch seconds."""
    return above(max(last, least(now)), count)


def least(now: float) -> int:
    """What is given out now is above this."""
    return int(now * 1000) << _CHANCE_BITS | random.getrandbits(_CHANCE_BITS)


def above(last: int, count: int) -> list[int]:
    """``count`` ids above ``last``, by `room` at most."""
    ids = []
    for _ in range(count):
        last += 1 + random.getrandbits(_STEP_BITS)
        ids.append(last)
    return ids


def room(count: int) -> int:
    return count << _STEP_BITS


def show(number: int) -> str:
    return f"{number:016x}"


@functools.lru_cache(maxsize=8192)
def parse(text: str) -> int | None:
    """None for what cannot be an id."""
    return int(text, 16) if _SHAPE.fullmatch(text) else None


def parse_marker(marker: str | None) -> int | None:
    """None stays None; raises `InvalidRequest` for what cannot be an id."""
    if marker is None:
        return None
    number = parse(marker)
    if number is None:
        raise InvalidRequest("Invalid marker: take it from the link to the next page.")
    return number
