"""The fields of a query."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.validation.limits import DEFAULT_PAGE

_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


def page_size(text: str | None, most: int) -> int:
    """The query's ``limit``; without one Zaqar's default, or less where pages are shorter."""
    return min(DEFAULT_PAGE, most) if text is None else how_many(text, most, "limit")


def how_many(text: str, most: int, what: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most:
        return int(text)
    raise InvalidRequest(f"{what} has to be an integer from 1 to {most}.")


def ids(texts: Iterable[str], most: int, what: str) -> list[str]:
    """The ids in the values of a query's field, each of which may hold several, parted by commas."""
    found = list(dict.fromkeys(part for text in texts for part in text.split(",") if part))
    if len(found) > most:
        raise InvalidRequest(f"{what} may hold at most {most} ids.")
    return found


def moment(text: str, what: str) -> float:
    if _SECONDS.fullmatch(text):
        return float(text)
    # In a query that nobody has encoded the + before a zone is read as a space.
    found = instant(text)
    found = instant(text.replace(" ", "+")) if found is None else found
    if found is None:
        raise InvalidRequest(f"{what} has to be seconds since 1970, or an instant in ISO 8601, as in 2030-01-31T12:00:00Z.")
    return found


def instant(text: str) -> float | None:
    """Epoch seconds of an instant in ISO 8601, which is UTC where it names no zone; None for what is none."""
    try:
        found = datetime.datetime.fromisoformat(text)
        return found.replace(tzinfo=found.tzinfo or datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        return None
