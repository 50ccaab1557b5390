"""Many rows in one statement of PostgreSQL, which gets an array for each column."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Column, Connection
from sqlalchemy.dialects import postgresql

from zaqar_notify.storage.sql import statements, tables
from zaqar_notify.storage.sql.postgresql_statements import translated
from zaqar_notify.storage.sql.statements import Rows


class AtOnce:
    """A statement that gets one array for each column (or parameter): it runs once, for any number of rows."""

    def __init__(self, text: str, names: Sequence[str] = ()) -> None:
        """``names``: of the parameters, where they are given by name."""
        self.text = text
        self._names = names
        self._arrays: list[Callable[[tuple[Any, ...]], Any]] = [
            _ARRAYS.get(kind, _numbers) for kind in re.findall(r"\?::([\w ]+)\[\]", text)
        ]

    def arrays(self, rows: Sequence[Any]) -> tuple[Any, ...]:
        if self._names:
            rows = [[row[name] for name in self._names] for row in rows]
        return self.arrays_of(zip(*rows, strict=True))

    def arrays_of(self, columns: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
        return tuple(array(column) for array, column in zip(self._arrays, columns, strict=True))


def _numbers(values: tuple[Any, ...]) -> str:
    """As the text of an array: numbers (of any kind, side by side), true, false, NULL. Quicker than the driver by far."""
    return f"{{{', '.join(map(str, values))}}}".replace("None", "NULL")


def _texts(values: tuple[Any, ...]) -> list[Any] | str:
    return _numbers(values) if values.count(None) == len(values) else list(values)


_ARRAYS: dict[str, Callable[[tuple[Any, ...]], Any]] = dict.fromkeys(("text", "TEXT", "VARCHAR", "BYTEA"), _texts)

_AT_ONCE: dict[str, AtOnce] = {
    translated(statement, True): at_once
    for statement, at_once in (
        (
            statements.JUDGE,
            AtOnce("""
UPDATE subscriptions AS s SET
    strikes = asked.strikes, failing_since = asked.failing_since, disabled_at = asked.disabled_at,
    disabled_reason = asked.reason, disabled_enable_by = asked.enable_by
FROM unnest(?::int8[], ?::float8[], ?::float8[], ?::text[], ?::text[], ?::int8[])
    AS asked(strikes, failing_since, disabled_at, reason, enable_by, id)
WHERE s.id = asked.id
"""),
        ),
        (
            statements.STORE_LOOK,
            AtOnce(
                """
UPDATE messages AS m SET
    prune_at = asked.prune_at,
    ended_at = CASE WHEN asked.ended_at > coalesce(m.ended_at, 0) THEN asked.ended_at ELSE m.ended_at END,
    deleted_at = CASE WHEN m.expires_at <= asked.now THEN coalesce(m.deleted_at, m.expires_at) ELSE m.deleted_at END,
    body = CASE WHEN asked.drop_body THEN x'' ELSE m.body END
FROM unnest(?::int8[], ?::float8[], ?::float8[], ?::bool[], ?::float8[], ?::float8[])
    AS asked(message, seen, prune_at, drop_body, ended_at, now)
WHERE m.id = asked.message AND m.prune_at + 0 = asked.seen
""",
                ("message", "seen", "prune_at", "drop_body", "ended_at", "now"),
            ),
        ),
    )
}


def of_many(statement: str) -> AtOnce | None:
    """What does the same for many rows of parameters as this (translated) statement for each."""
    return _AT_ONCE.get(statement)


@functools.cache
def _inserting(*parts: Rows) -> AtOnce:
    """One statement for rows of several tables."""
    *before, last = map(_insert, parts)
    first = ", ".join(f"part_{number} AS ({text})" for number, text in enumerate(before))
    return AtOnce(f"WITH {first} {last}" if before else last)


def _insert(rows: Rows) -> str:
    found = re.fullmatch(r"INSERT INTO (\w+)\s*\(([^)]+)\) VALUES", rows.before)
    if found is None:
        raise ValueError(f"not understood: {rows.before}")
    names = [name.strip() for name in found[2].split(",")]
    arrays = ", ".join(f"?::{_type(tables.metadata.tables[found[1]].c[name])}[]" for name in names)
    return f"INSERT INTO {found[1]} ({', '.join(names)}) SELECT * FROM unnest({arrays}) {rows.after}"  # noqa: S608


def _type(column: Column[Any]) -> str:
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    compiled: str = column.type.compile(dialect)
    return re.sub(r"\(\d+\)| COLLATE.*", "", compiled)


def store(connection: Connection, parts: Sequence[tuple[Rows, Sequence[tuple[Any, ...]]]]) -> int:
    """Instead of what `statements.store` does."""
    parts = [(rows, _once(rows, values)) for rows, values in parts if values]
    if not parts:
        return 0
    at_once = _inserting(*(rows for rows, _ in parts))
    columns = itertools.chain.from_iterable(zip(*values, strict=True) for _, values in parts)
    return connection.exec_driver_sql(at_once.text, at_once.arrays_of(columns)).rowcount


def _once(rows: Rows, values: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """One statement stores a row once; and whoever locks several does it in this order."""
    return [row for _, row in sorted({row[:2]: row for row in values}.items())] if "DO UPDATE" in rows.after else values
