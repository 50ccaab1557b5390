"""The filters, tests and comparisons that templates have. Each gets what is left of the steps, and spends what it costs beyond
the length of the texts that it gets and makes."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Undefined
from markupsafe import escape

from zaqar_notify.sandbox.bounds import MOST_DIGITS, MOST_OUTPUT, STRIDE, Budget, Refused

# -- filters ------------------------------------------------------------------------------------------------------------------


def _is_nothing(value: Any) -> bool:
    """A name or field that is not there, or is null."""
    return value is None or isinstance(value, Undefined)


def shown(budget: Budget, value: Any) -> str:
    """As a person reads it. Objects and lists are JSON."""
    if isinstance(value, str):
        return value
    if _is_nothing(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _to_json(budget: Budget, value: Any) -> str:
    return "null" if _is_nothing(value) else _json(value)


def _text(method: Callable[[str], str]) -> Callable[[Budget, Any], str]:
    def function(budget: Budget, value: Any) -> str:
        return method(str(shown(budget, value)))

    return function


def _escape(budget: Budget, value: Any) -> str:
    return escape(shown(budget, value))


def _default(budget: Budget, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    missing = not value if boolean else _is_nothing(value) and value is not None
    return default_value if missing else value


def _length(budget: Budget, value: Any) -> int:
    return len(value) if isinstance(value, str | list | dict) else 0


def _first(budget: Budget, value: Any) -> Any:
    return value[0] if isinstance(value, str | list) and value else None


def _last(budget: Budget, value: Any) -> Any:
    return value[-1] if isinstance(value, str | list) and value else None


def _join(budget: Budget, value: Any, d: str = "") -> str:
    if not isinstance(value, list | dict):
        return str(shown(budget, value))
    budget.spend(len(value))
    texts, size = [], 0
    for one in value:
        texts.append(str(shown(budget, one)))
        size += len(texts[-1]) + len(d)
        if size > MOST_OUTPUT + len(d):
            break  # it is refused for that
    return d.join(texts)


def _replace(budget: Budget, value: Any, old: str, new: str) -> str:
    text = str(shown(budget, value))
    budget.spend(_search(text, old))
    if len(text) + text.count(old) * (len(new) - len(old)) > MOST_OUTPUT:
        raise Refused(f"it makes a value of more than {MOST_OUTPUT} characters")
    return text.replace(old, new)


def _search(text: str, sought: str) -> int:
    """Steps that it may take, at worst, to find the one in the other."""
    return len(text) * min(len(sought), MOST_DIGITS) // STRIDE


def _truncate(budget: Budget, value: Any, length: int = 255, killwords: bool = False, end: str = "...") -> str:
    """At most so many characters, the end included; between words where there is a space."""
    text = str(shown(budget, value))
    if len(text) <= length:
        return text
    cut = text[: max(length - len(end), 0)]
    if not killwords and " " in cut:
        cut = cut.rpartition(" ")[0]
    return cut + end


def _int(budget: Budget, value: Any, default: float = 0) -> Any:
    number = _float(budget, value, default)
    try:
        return value if type(value) is int else int(number)
    except (ValueError, OverflowError):  # not a number, or without end
        return default


def _float(budget: Budget, value: Any, default: float = 0.0) -> float:
    if not isinstance(value, int | float) and not (isinstance(value, str) and len(value) <= MOST_DIGITS):
        return default
    try:
        return float(value)
    except (ValueError, OverflowError):
        return default


def _round(budget: Budget, value: Any, precision: int = 0) -> float:
    return round(_float(budget, value), precision)


def _urlencode(budget: Budget, value: Any) -> str:
    text = str(shown(budget, value))
    budget.spend(len(text) // 4)
    return urllib.parse.quote(text.encode("utf-8", "replace"))


def each(budget: Budget, value: Any, pairs: bool, cost: int) -> Sequence[Any]:
    """What a loop goes through: of an object its keys, or ``pairs`` of key and value. ``cost``: steps for each."""
    if not isinstance(value, list | dict) or (pairs and not isinstance(value, dict)):
        return ()
    budget.spend(len(value) * cost)
    return list(value.items()) if isinstance(value, dict) and pairs else list(value)


class Filter(NamedTuple):
    function: Callable[..., Any]
    parameters: Mapping[str, Callable[[Any], bool] | None] = {}
    """What a constant has to be that is given for it; None: it may be anything, and need not be constant."""
    required: int = 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_sought(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _from_to(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


_DEFAULT = Filter(_default, {"default_value": None, "boolean": _is_bool})
FILTERS: Mapping[str, Filter] = {
    "capitalize": Filter(_text(str.capitalize)),
    "d": _DEFAULT,
    "default": _DEFAULT,
    "e": Filter(_escape),
    "escape": Filter(_escape),
    "first": Filter(_first),
    "float": Filter(_float, {"default": is_number}),
    "int": Filter(_int, {"default": is_number}),
    "join": Filter(_join, {"d": _is_text}),
    "last": Filter(_last),
    "length": Filter(_length),
    "lower": Filter(_text(str.lower)),
    "replace": Filter(_replace, {"old": _is_sought, "new": _is_text}, 2),
    "round": Filter(_round, {"precision": _from_to(0, 15)}),
    "title": Filter(_text(str.title)),
    "tojson": Filter(_to_json),
    "trim": Filter(_text(str.strip)),
    "truncate": Filter(_truncate, {"length": _from_to(1, MOST_OUTPUT), "killwords": _is_bool, "end": _is_text}),
    "upper": Filter(_text(str.upper)),
    "urlencode": Filter(_urlencode),
}
ITEMS = "items"
"""A filter as well, but of what a loop goes through alone."""
EACH = "_each"

# -- tests and comparisons ----------------------------------------------------------------------------------------------------


def _is_type(*types: type) -> Callable[[Budget, Any], bool]:
    return lambda budget, value: isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _odd(budget: Budget, value: Any) -> bool:
    return type(value) is int and value % 2 == 1


def _even(budget: Budget, value: Any) -> bool:
    return type(value) is int and value % 2 == 0


TESTS: Mapping[str, Callable[..., bool]] = {
    "boolean": _is_type(bool),
    "defined": lambda budget, value: value is None or not _is_nothing(value),
    "even": _even,
    "false": lambda budget, value: value is False,
    "list": _is_type(list),
    "mapping": _is_type(dict),
    "none": lambda budget, value: value is None,
    "number": _is_type(int, float),
    "odd": _odd,
    "string": _is_type(str),
    "true": lambda budget, value: value is True,
    "undefined": lambda budget, value: value is not None and _is_nothing(value),
}


def _equal(budget: Budget, left: Any, right: Any) -> bool:
    for one in (left, right):
        if isinstance(one, list | dict):
            raise Refused("lists and objects cannot be compared")
    if _is_nothing(left) or _is_nothing(right):
        return _is_nothing(left) and _is_nothing(right)
    return bool(left == right)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Budget, Any, Any], bool]:
    """What has no order, as a number and a text, or what is not there, is neither more nor less."""

    def function(budget: Budget, left: Any, right: Any) -> bool:
        comparable = (is_number(left) and is_number(right)) or (isinstance(left, str) and isinstance(right, str))
        return comparable and compare(left, right)

    return function


def _in(budget: Budget, left: Any, right: Any) -> bool:
    if isinstance(left, list | dict):
        raise Refused("lists and objects cannot be compared")
    if isinstance(right, str):
        budget.spend(_search(right, left) if isinstance(left, str) else 0)
        return isinstance(left, str) and left in right
    if not isinstance(right, list | tuple | dict) or _is_nothing(left):
        return False
    budget.spend(len(right) // 8)
    return left in right


COMPARISONS: Mapping[str, Callable[..., bool]] = {
    "_eq": _equal,
    "_ne": lambda budget, left, right: not _equal(budget, left, right),
    "_lt": _ordered(lambda left, right: left < right),
    "_lteq": _ordered(lambda left, right: left <= right),
    "_gt": _ordered(lambda left, right: left > right),
    "_gteq": _ordered(lambda left, right: left >= right),
    "_in": _in,
    "_notin": lambda budget, left, right: not _in(budget, left, right),
}
