"""The statements of `statements` in PostgreSQL's words.

Most are translated by rules. Here are those that have to say something else, and the locks: SQLite has one for all who write,
PostgreSQL one for each row. Who has to lock several rows does it in the order of their ids, and of their tables: messages,
outbox, jobs, deliveries, lanes, subscriptions, queues, projects. What anybody may take is locked by whoever comes first, and
others pass it over.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Boolean, Column, Connection, Double
from sqlalchemy.dialects import postgresql

from zaqar_notify.storage.sql import statements, tables
from zaqar_notify.storage.sql.statements import Rows

# -- what has to say something else --------------------------------------------------------------------------------------------

_LIVE = "queue_id = :queue AND deleted_at IS NULL AND expires_at > :now"

# (a range of a queue's live messages, the columns of the index that it is read by). A column that IS NULL has to be named, or
# the index is not known to be in this order.
_PLAIN = f"WHERE {_LIVE} AND free_at = 0", ("deleted_at", "id")
_ENDED = f"WHERE {_LIVE} AND free_at > 0 AND free_at <= :now", ("id",)
_DELAYED = f"WHERE {_LIVE} AND free_at > 0 AND claim_id IS NULL", ("id",)
_CLAIMED = f"WHERE {_LIVE} AND claim_id IS NOT NULL", ("id",)

_MESSAGE = ", ".join(
    f"m.{column}"
    for column in (
        *("id", "body", "ttl", "created_at", "expires_at", "attributes", "parent_id", "client_id", "version", "kind"),
        *("foreign_id", "encrypted", "free_at", "claim_id"),
    )
)


def _merged(ranges: Sequence[tuple[str, tuple[str, ...]]], page: str, limit: str, order: str) -> str:
    parts = " UNION ALL ".join(
        f"SELECT id FROM (SELECT id FROM messages {one} {page}"  # noqa: S608 - only constants, here and below
        f" ORDER BY {', '.join(f'{column} {order}' for column in columns)} LIMIT {limit}) AS part_{number}"
        for number, (one, columns) in enumerate(ranges)
    )
    return f"SELECT {_MESSAGE} FROM messages AS m WHERE m.id = ANY(ARRAY({parts})) ORDER BY m.id {order} LIMIT {limit}"  # noqa: S608


def _list_messages(*ranges: tuple[str, tuple[str, ...]]) -> str:
    page = "AND id > :behind AND (:not_from::text IS NULL OR client_id IS DISTINCT FROM :not_from::text)"
    return _merged((_PLAIN, *ranges), page, ":limit", "ASC")


def _take(table: str, keys: str, found: str, changes: str, returned: str) -> str:
    """What is due, of each of the projects asked for; ``found`` is what one project has."""
    match = " AND ".join(f"t.{key} = due.{key}" for key in keys.split(", "))
    return f"""
WITH due AS MATERIALIZED (
    SELECT found.* FROM json_array_elements_text(:projects::json) AS asked(value) CROSS JOIN LATERAL ({found}) AS found
)
UPDATE {table} AS t SET {changes} FROM due WHERE {match}
RETURNING {", ".join(f"t.{column}" for column in returned.split(", "))}
"""  # noqa: S608


def _due(table: str, keys: str, condition: str, order: str) -> str:
    return f"""
SELECT {keys} FROM {table} WHERE project_id = asked.value::bigint AND {condition}
ORDER BY {order} LIMIT :most FOR UPDATE SKIP LOCKED
"""  # noqa: S608


_ROW = "message_id, subscription_id, attempts, lines, lane_id, expires_at, again"

_REPLACED: dict[str, str] = {
    statements.LAST_MESSAGE_ID: "SELECT give_ids(:least, :room)",
    statements.LAST_SUBSCRIPTION_ID: "SELECT give_ids(:least, :room)",
    statements.LAST_CLAIM_ID: "SELECT give_ids(:least, :room)",
    statements.FIND_QUEUES_TO_POST_TO: """
SELECT q.project, q.name, q.id, q.project_id, CASE WHEN strpos(q.metadata, '"_enable_encrypt_messages"') > 0
    THEN (q.metadata::json -> '_enable_encrypt_messages')::text = 'true' ELSE false END AS encrypts
FROM json_array_elements(?::json) AS asked(pair)
JOIN queues AS q ON q.project = asked.pair ->> 0 AND q.name = asked.pair ->> 1 AND q.deleted_at IS NULL
""",
    statements.LIST_FREE: _list_messages(_ENDED),
    statements.LIST_NOT_DELAYED: _list_messages(_ENDED, _CLAIMED),
    statements.LIST_NOT_CLAIMED: _list_messages(_ENDED, _DELAYED),
    statements.LIST_ALL: _list_messages(_CLAIMED, _DELAYED),
    statements.OLDEST_MESSAGE: _merged((_PLAIN, _CLAIMED, _DELAYED), "", "1", "ASC"),
    statements.NEWEST_MESSAGE: _merged((_PLAIN, _CLAIMED, _DELAYED), "", "1", "DESC"),
    statements.COUNT_ALL_MESSAGES: """
SELECT count(*) FILTER (WHERE m.free_at > :now) AS claimed, count(*) FILTER (WHERE m.free_at <= :now) AS free
FROM queues AS q JOIN messages AS m ON m.queue_id = q.id AND m.deleted_at IS NULL AND m.expires_at > :now
WHERE q.deleted_at IS NULL
""",
    statements.CONSUMABLE: f"""
SELECT id FROM (
    SELECT id FROM messages {_ENDED[0]} ORDER BY deleted_at, free_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
) AS ended
UNION ALL
SELECT id FROM (
    SELECT id FROM messages {_PLAIN[0]} ORDER BY deleted_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
) AS plain
LIMIT :limit
""",  # noqa: S608
    statements.LIVE_LONGER: """
UPDATE messages AS m SET
    expires_at = :until, prune_at = CASE WHEN prune_at < expires_at THEN prune_at ELSE :until END,
    ttl = greatest(ttl, ceil(:until - created_at)::integer)
WHERE m.id = ANY(ARRAY(SELECT value::bigint FROM json_array_elements_text(:asked::json))) AND expires_at < :until
RETURNING id
""",
    statements.NUMBER_PROJECTS: """
SELECT id FROM projects WHERE name = ANY(ARRAY(SELECT value FROM json_array_elements_text(?::json)))
""",
    statements.TAKE_ENTRIES: _take(
        "outbox",
        "message_id",
        f"""
SELECT message_id FROM ({_due("outbox", "message_id", "due_at > 0 AND due_at <= :now", "due_at, message_id")}) AS ended
UNION ALL
SELECT message_id FROM ({_due("outbox", "message_id", "due_at = 0", "message_id")}) AS fresh
LIMIT :most
""",  # noqa: S608
        "due_at = :until, lease = :token, takes = t.takes + 1",
        "project_id, message_id, after_id, takes",
    ),
    statements.TAKE_ROWS: _take(
        "deliveries",
        "message_id, subscription_id",
        _due("deliveries", "message_id, subscription_id", "due_at <= :now", "due_at, message_id"),
        "due_at = :until, lease = :token",
        f"project_id, {_ROW}",
    ),
    statements.TAKE_LANES: _take(
        "lanes",
        "id",
        _due("lanes", "id", "due_at <= :now", "due_at, id"),
        "due_at = :until, lease = :token",
        "project_id, project, name, trips",
    ),
    statements.TAKE_PARKED: f"""
UPDATE deliveries AS d SET due_at = ?, lease = ?
FROM (
    SELECT message_id, subscription_id FROM deliveries
    WHERE lane_id = ? AND due_at IS NULL ORDER BY message_id, subscription_id LIMIT ? FOR UPDATE SKIP LOCKED
) AS parked
WHERE d.message_id = parked.message_id AND d.subscription_id = parked.subscription_id
RETURNING d.project_id, {", ".join(f"d.{column}" for column in _ROW.split(", "))}
""",  # noqa: S608
    statements.ENCRYPTED: """
SELECT m.id FROM json_array_elements_text(?::json) AS asked(value) JOIN messages AS m
    ON m.id = asked.value::bigint AND m.encrypted
""",
    statements.FIND_PUBLIC_MESSAGE: """
SELECT max(id) FROM (
    SELECT m.id FROM messages AS m JOIN queues AS q ON q.id = m.queue_id
    WHERE m.foreign_id = :public AND q.project = :project AND q.name = :name AND m.prune_at > 0
    UNION ALL
    SELECT m.id FROM messages AS m JOIN queues AS q ON q.id = m.queue_id
    WHERE m.id = :message AND m.foreign_id IS NULL AND q.project = :project AND q.name = :name AND m.prune_at > 0
) AS found
""",
    statements.REMOVE_ALERTS: """
DELETE FROM alerts WHERE (project, cause) IN (
    SELECT project, cause FROM alerts WHERE prune_at <= ? ORDER BY prune_at LIMIT ? FOR UPDATE SKIP LOCKED
)
""",
    statements.END_DELAYS: """
UPDATE messages SET free_at = 0 WHERE id = ANY(ARRAY(
    SELECT id FROM messages WHERE free_at > 0 AND free_at <= ? AND claim_id IS NULL AND deleted_at IS NULL
    ORDER BY free_at LIMIT ? FOR UPDATE SKIP LOCKED
))
""",
    # Who is changing one of these has not claimed it.
    statements.END_CLAIMS: """
UPDATE messages SET free_at = 0, claim_id = NULL WHERE id = ANY(ARRAY(
    SELECT m.id FROM json_array_elements_text(?::json) AS asked(value)
    JOIN messages AS m ON m.claim_id = asked.value::bigint AND m.claim_id IS NOT NULL AND m.deleted_at IS NULL
    LIMIT ? FOR UPDATE OF m
))
""",
}

# By table: ids that are given out later are above those that were copied from elsewhere.
RISE_ABOVE: dict[str, str] = {
    **{table: f"SELECT setval('{table}_id_seq', max(id)) FROM {table}" for table in ("projects", "queues", "lanes")},  # noqa: S608
    **{table: f"SELECT give_ids(max(id), 0) FROM {table}" for table in ("subscriptions", "messages", "claims")},  # noqa: S608
    "id_floors": "SELECT give_ids(max(last), 0) FROM id_floors",
}

# -- locks ---------------------------------------------------------------------------------------------------------------------

# What is added to a statement in a transaction that writes.
_LOCKS: dict[str, str] = {
    statements.FIND_QUEUE_TO_CHANGE: "FOR NO KEY UPDATE",
    statements.FIND_QUEUES_TO_POST_TO: "ORDER BY q.id FOR NO KEY UPDATE OF q",
    statements.FIND_PROJECT: "FOR KEY SHARE",
    statements.GET_MESSAGE: "FOR NO KEY UPDATE",
    statements.READ_LIVE_MESSAGES: "FOR NO KEY UPDATE",
    statements.CLAIMED_MESSAGES: "ORDER BY id FOR NO KEY UPDATE",
    statements.LEASED_ENTRIES: "ORDER BY o.message_id FOR NO KEY UPDATE OF o",
    statements.LEASED_PAGES: "ORDER BY j.id FOR NO KEY UPDATE OF j",
    statements.LEASED_ROWS: "ORDER BY d.message_id, d.subscription_id FOR NO KEY UPDATE OF d",
    statements.FIND_LANE: "FOR NO KEY UPDATE",
    statements.STANDINGS: "ORDER BY s.id FOR NO KEY UPDATE OF s",
    statements.JOB_TO_CUT: "FOR NO KEY UPDATE OF j",
    statements.LIST_SUBSCRIPTION_IDS: "FOR NO KEY UPDATE",
    statements.HOLD_MESSAGE: "FOR NO KEY UPDATE",
    statements.HOLD_ENTRY: "FOR NO KEY UPDATE",
    statements.HOLD_JOBS: "ORDER BY id FOR NO KEY UPDATE",
    statements.HOLD_ROW: "FOR NO KEY UPDATE",
    statements.HOLD_PROJECTS: "ORDER BY id FOR UPDATE",
    statements.IDLE_LANES: "FOR UPDATE SKIP LOCKED",
}

# -- rules ---------------------------------------------------------------------------------------------------------------------

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"\bIN \(SELECT value FROM json_each\(([^()]+)\)\)",
            r"= ANY(ARRAY(SELECT value::bigint FROM json_array_elements_text(\1::json)))",
        ),
        (r"\bjson_each\(([^()]+)\) AS asked\b", r"json_array_elements(\1::json) WITH ORDINALITY AS asked(value, key)"),
        (r"\bFROM json_each\(([^()]+)\)", r"FROM json_array_elements(\1::json) AS listed(value)"),
        (r"\b((?:asked\.)?value) ->> (\d)", r"(\1 ->> \2)::bigint"),
        (r"= asked\.value\b(?!::)", r"= asked.value::text::bigint"),
        (r"\bINDEXED BY \w+", ""),
        (r"\bCROSS JOIN (\w+ AS \w+\s+)ON\b", r"JOIN \1ON"),
        (r"\bmax\(([^()]*,[^()]*)\)", r"greatest(\1)"),
        (r"\bmin\(([^()]*,[^()]*)\)", r"least(\1)"),
        (r"\bx''", r"''::bytea"),
        (r"%", "%%"),
        (r"(?<![:\w]):([a-z_]\w*)", r"%(\1)s"),
        (r"\?", "%s"),
    )
)


@functools.lru_cache(maxsize=2048)
def translated(statement: str, writes: bool) -> str:
    """``writes``: in a transaction that does."""
    text = _REPLACED.get(statement, statement)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    lock = _LOCKS.get(statement)
    return f"{text.rstrip()} {lock}" if writes and lock else text


# -- many rows -----------------------------------------------------------------------------------------------------------------


class _Arrays:
    """An INSERT that gets one array for each column: the same statement for any number of rows, which is planned once."""

    def __init__(self, rows: Rows) -> None:
        found = re.fullmatch(r"INSERT INTO (\w+)\s*\(([^)]+)\) VALUES", rows.before)
        if found is None:
            raise ValueError(f"not understood: {rows.before}")
        names = [name.strip() for name in found[2].split(",")]
        columns = [tables.metadata.tables[found[1]].c[name] for name in names]
        arrays = ", ".join(f"?::{_type(column)}[]" for column in columns)
        self._text = f"INSERT INTO {found[1]} ({', '.join(names)}) SELECT * FROM unnest({arrays}) {rows.after}"  # noqa: S608
        self._of_one_type = [_CONVERTED.get(type(column.type), list) for column in columns]
        self._upserts = "DO UPDATE" in rows.after

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        if self._upserts:
            # One statement stores a row once; and whoever locks several does it in this order.
            rows = [row for _, row in sorted({row[:2]: row for row in rows}.items())]
        columns = zip(self._of_one_type, zip(*rows, strict=True), strict=True)
        connection.exec_driver_sql(self._text, tuple(of_one_type(column) for of_one_type, column in columns))


def _floats(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else float(value) for value in values]


def _booleans(values: Iterable[Any]) -> list[bool]:
    return [bool(value) for value in values]


_CONVERTED: dict[type[Any], Callable[[Iterable[Any]], list[Any]]] = {Double: _floats, Boolean: _booleans}


def _type(column: Column[Any]) -> str:
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    compiled: str = column.type.compile(dialect)
    return compiled.partition(" COLLATE")[0]


@functools.cache
def _arrays(rows: Rows) -> _Arrays:
    return _Arrays(rows)


def insert(rows: Rows, connection: Connection, values: Sequence[tuple[Any, ...]]) -> None:
    """Instead of what `Rows` does."""
    if values:
        _arrays(rows).insert(connection, values)
