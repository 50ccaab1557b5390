"""How many short messages a text takes, and in which alphabet: GSM 03.38 where all of it is in there, and UCS-2 where not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

ALPHABET = (
    "@\u00a3$\u00a5\u00e8\u00e9\u00f9\u00ec\u00f2\u00c7\n\u00d8\u00f8\r\u00c5\u00e5"
    "\u0394_\u03a6\u0393\u039b\u03a9\u03a0\u03a8\u03a3\u0398\u039e\x1b\u00c6\u00e6\u00df\u00c9"
    " !\"#\u00a4%&'()*+,-./0123456789:;<=>?"
    "\u00a1ABCDEFGHIJKLMNOPQRSTUVWXYZ\u00c4\u00d6\u00d1\u00dc\u00a7"
    "\u00bfabcdefghijklmnopqrstuvwxyz\u00e4\u00f6\u00f1\u00fc\u00e0"
)
"""The 128 characters of the default alphabet, at their codes."""
EXTENSION = {
    "\f": 0x0A,
    "^": 0x14,
    "{": 0x28,
    "}": 0x29,
    "\\": 0x2F,
    "[": 0x3C,
    "~": 0x3D,
    "]": 0x3E,
    "|": 0x40,
    "\u20ac": 0x65,
}
"""Characters behind an escape: they take two places."""
ESCAPE = 0x1B

_CODES = {one: code for code, one in enumerate(ALPHABET) if code != ESCAPE}
_BASIC = frozenset(_CODES)
_ALL = _BASIC | EXTENSION.keys()

ONE_GSM, PART_GSM = 160, 153
ONE_UCS2, PART_UCS2 = 70, 67
"""Places of a text that is one short message, and of each part of one that is more."""


class Measure(NamedTuple):
    unicode: bool
    """It takes UCS-2."""
    segments: int


def is_gsm(text: str) -> bool:
    return _ALL.issuperset(text)


@functools.lru_cache(maxsize=1024)
def measure(text: str) -> Measure:
    return Measure(not is_gsm(text), len(parts(text)))


def parts(text: str) -> list[str]:
    """The text of each short message. No character is cut in two: that is why parts can be shorter than they might."""
    if is_gsm(text):
        return _parts(text, ONE_GSM, PART_GSM, _gsm_places)
    return _parts(text, ONE_UCS2, PART_UCS2, _ucs2_places)


def cut(text: str, segments: int) -> str:
    """As much of it as fits into so many short messages, with an ellipsis where that is not all."""
    if measure(text).segments <= segments:
        return text
    dots = "..." if is_gsm(text) else "\u2026"
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if measure(text[:middle] + dots).segments <= segments:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + dots


def encode(text: str) -> bytes:
    """In the default alphabet, one character a byte, unpacked. Raises `ValueError` for what is not in it."""
    coded = bytearray()
    for one in text:
        if one in _CODES:
            coded.append(_CODES[one])
        elif one in EXTENSION:
            coded += bytes((ESCAPE, EXTENSION[one]))
        else:
            raise ValueError(f"{one!r} is not in GSM 03.38")
    return bytes(coded)


def _gsm_places(one: str) -> int:
    return 1 if one in _BASIC else 2


def _ucs2_places(one: str) -> int:
    return 2 if one > "\uffff" else 1


def _parts(text: str, one: int, part: int, places: Callable[[str], int]) -> list[str]:
    if sum(map(places, text)) <= one:
        return [text]
    found, begin, used = [], 0, 0
    for index, character in enumerate(text):
        needed = places(character)
        if used + needed > part:
            found.append(text[begin:index])
            begin, used = index, 0
        used += needed
    found.append(text[begin:])
    return found
