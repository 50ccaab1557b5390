"""JSON: read within bounds, so that what is stored can be read and written anywhere; and the types in it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.validation.limits import MAX_NESTING

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _parse_int(text: str) -> int:
    # The length first: Python refuses to convert thousands of digits, and takes long for hundreds.
    if len(text) <= 20:
        number = int(text)
        if -(2**63) <= number < 2**63:
            return number
    raise ValueError(f"the integer {text[:24]}{'...' if len(text) > 24 else ''} does not fit into 64 bits")


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:24]} is out of range")
    return number


def _parse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON value")


_decode = json.JSONDecoder(parse_int=_parse_int, parse_float=_parse_float, parse_constant=_parse_constant).decode
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode


def parse_json(raw: bytes, limit: int, what: str) -> Any:
    """The document in ``raw``, which can be written as UTF-8 JSON again; ``what`` names it in the description of an error."""
    check_size(len(raw), limit, what)
    try:
        document = _decode(raw.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what} is not UTF-8: byte {error.start} is wrong.") from None
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error}.") from None
    if raw.count(b"[") + raw.count(b"{") > MAX_NESTING and _too_nested(document):
        raise _too_deep(what)
    if _ESCAPED_SURROGATE.search(raw):
        _check_surrogates(document, what)
    return document


def check_size(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise InvalidRequest(f"{what} is too large: at most {limit} bytes are allowed.")


def compact_json(value: Any) -> bytes:
    """``value`` comes from `parse_json`."""
    return _encode(value).encode()


def _too_deep(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what} is nested too deeply: at most {MAX_NESTING} levels are allowed.")


def _too_nested(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_NESTING):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return False
        level = below
    return any(isinstance(value, dict | list) for value in level)


def _check_surrogates(document: Any, what: str) -> None:
    try:
        compact_json(document)
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no text.") from None


def json_object(document: Any, what: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InvalidRequest(f"{what} has to be a JSON object, and is {kind(document)}.")
    return document


def kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number"}
    return kinds[type(value)]


def integer(value: Any, least: int, most: int | None, what: str) -> int:
    """``most`` None: as large as it likes."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return value
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise InvalidRequest(f"{what} has to be an integer {bounds}.")


def is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
