"""What a query in PromQL asks for: enough of the language for the dashboard and the alert rules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<range>\[[^\]]*\])
    |(?P<number>\d[\w.]*)
    |(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},])
    |(?P<space>\s+)
    """,
    re.VERBOSE,
)
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})
_GROUPINGS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})


@dataclasses.dataclass(frozen=True)
class Selector:
    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    """Label, operator, value."""


@dataclasses.dataclass(frozen=True)
class Query:
    selectors: tuple[Selector, ...]
    grouped_by: frozenset[str]


def parse(text: str) -> Query:
    """Raises `ValueError` for what is no PromQL on the face of it."""
    tokens = list(_tokens(text))
    if tokens.count("(") != tokens.count(")"):
        raise ValueError(f"brackets in {text}")
    selectors: list[Selector] = []
    grouped: set[str] = set()
    at = 0
    while at < len(tokens):
        token, following = tokens[at], tokens[at + 1 : at + 2]
        at += 1
        if not re.fullmatch(r"[a-zA-Z_:][\w:]*", token) or token in _WORDS:
            continue
        if token in _GROUPINGS and following == ["("]:
            end = tokens.index(")", at)
            grouped |= set(tokens[at + 1 : end]) - {","}
            at = end + 1
        elif following == ["{"]:
            end = tokens.index("}", at)
            selectors.append(Selector(token, tuple(_matchers(tokens[at + 1 : end]))))
            at = end + 1
        elif following != ["("] and not _GROUPINGS & set(following):  # else a function or an aggregation
            selectors.append(Selector(token))
    return Query(tuple(selectors), frozenset(grouped))


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"{text[at:]!r} in {text}")
        at = found.end()
        if found.lastgroup not in ("space", "range"):
            yield found[0]


def _matchers(tokens: list[str]) -> Iterator[tuple[str, str, str]]:
    for at in range(0, len(tokens), 4):
        label, operator, value = tokens[at : at + 3]
        yield label, operator, value[1:-1]
