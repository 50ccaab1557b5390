"""Texts of the configuration in which ``{name}`` stands for a value, written as the place wants it that it stands in."""

from __future__ import annotations

import json
import re
import urllib.parse
import xml.sax.saxutils
from collections.abc import Callable, Mapping

from zaqar_notify.errors import CannotStart

FORM = "application/x-www-form-urlencoded"

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

Values = Mapping[str, str]
Escape = Callable[[str], str]


class Template:
    """A text with ``{name}`` in it. Raises `CannotStart` for names that mean nothing; ``what`` says where it stands."""

    def __init__(self, text: str, escape: Escape, what: str, known: frozenset[str]) -> None:
        parts = _PLACEHOLDER.split(text)
        self._literals, self._names = parts[::2], parts[1::2]
        unknown = sorted(set(self._names) - known)
        if unknown:
            raise CannotStart(f"{what}: {{{unknown[0]}}} has no meaning there; what has is {', '.join(sorted(known))}")
        self._escape = escape

    def fill(self, values: Values) -> str:
        filled = [self._literals[0]]
        for name, literal in zip(self._names, self._literals[1:], strict=True):
            filled += (self._escape(values[name]), literal)
        return "".join(filled)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._names)


class Parameters:
    """Those of a query or a form. One whose value comes out empty is left out."""

    def __init__(self, text: str, what: str, known: frozenset[str]) -> None:
        self._pairs = []
        for pair in text.split("&") if text else ():
            name, _, value = pair.partition("=")
            self._pairs.append((name, Template(value, quoted, what, known)))

    def fill(self, values: Values) -> str:
        filled = [(name, template.fill(values), template.names) for name, template in self._pairs]
        return "&".join(f"{name}={value}" for name, value, names in filled if value or not names)

    @property
    def names(self) -> frozenset[str]:
        return frozenset().union(*(template.names for _, template in self._pairs))


def quoted(value: str) -> str:
    return urllib.parse.quote(value, safe="")


def _in_json(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _in_xml(value: str) -> str:
    return xml.sax.saxutils.escape(value, {'"': "&quot;", "'": "&apos;"})


def body_template(text: str, content_type: str, what: str, known: frozenset[str]) -> Template | Parameters:
    """Values are written as the type of the content wants them."""
    if content_type.partition(";")[0].strip().lower() == FORM:
        return Parameters(text, what, known)
    kind = content_type.lower()
    return Template(text, _in_json if "json" in kind else _in_xml if "xml" in kind else str, what, known)
