"""The statements of `statements` in PostgreSQL's words.

Most are translated by rules. Here are those that have to say something else, and the locks: SQLite has one for all who write,
PostgreSQL one for each row. Who has to lock several rows does it in the order of their ids, and of their tables: messages,
outbox, jobs, deliveries, windows, lanes, subscriptions, queues, projects. What waits in a window is locked after that. What
anybody may take is locked by whoever comes first, and others pass it over.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from zaqar_notify.storage.sql import statements

# -- what has to say something else --------------------------------------------------------------------------------------------

_LIVE = "queue_id = :queue AND deleted_at IS NULL AND expires_at > :now"

# (a range of a queue's live messages, what it is ordered by). The order is that of one index alone, so that there is one way of
# reading it; a column that IS NULL, or is between a value and itself, has to be named in it. The second one is sorted.
_PLAIN = f"WHERE {_LIVE} AND free_at = 0", ("deleted_at", "id")
_ENDED = f"WHERE {_LIVE} AND free_at > 0 AND free_at <= :now", ("id + 0",)
_BETWEEN = _LIVE.replace("queue_id = :queue", "queue_id BETWEEN :queue AND :queue")
_DELAYED = f"WHERE {_BETWEEN} AND free_at > 0 AND claim_id IS NULL", ("queue_id", "id")
_CLAIMED = f"WHERE {_BETWEEN} AND claim_id IS NOT NULL", ("queue_id", "id")

_MESSAGE = ", ".join(
    f"m.{column}"
    for column in (
        *("id", "body", "ttl", "created_at", "expires_at", "attributes", "parent_id", "client_id", "version", "kind"),
        *("foreign_id", "encrypted", "free_at", "claim_id", "collapse_key", "priority", "language"),
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


def _take(table: str, found: str, changes: str, returned: str) -> str:
    """What is due, of each of the projects asked for; ``found`` is where one project's rows are. A row that somebody else has
    changed at this moment is not found there any more, and left to the next time."""
    return f"""
UPDATE {table} SET {changes} WHERE ctid = ANY(ARRAY(
    SELECT found.place FROM json_array_elements_text(:projects::json) AS asked(value) CROSS JOIN LATERAL ({found}) AS found
))
RETURNING {returned}
"""  # noqa: S608


def _due(table: str, condition: str, order: str) -> str:
    return f"""
SELECT ctid AS place FROM {table} WHERE project_id = asked.value::bigint AND {condition}
ORDER BY {order} LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608


def _subscriptions(columns: str, condition: str = "") -> str:
    """Of a queue (project, name), behind an id. Compared as rows: the index of queues is the only way to read them in order."""
    return f"""
SELECT {columns} FROM subscriptions AS s
WHERE (s.project, s.queue, s.id) > (asked.project, asked.queue, asked.behind)
    AND (s.project, s.queue) <= (asked.project, asked.queue) AND s.deleted_at IS NULL {condition}
ORDER BY s.project, s.queue, s.id
"""  # noqa: S608


# In the order of the one index that begins with claims.
_OF_CLAIM = """
id = ANY(ARRAY(
    SELECT id FROM messages WHERE claim_id BETWEEN :claim AND :claim AND claim_id IS NOT NULL AND deleted_at IS NULL
    ORDER BY claim_id
)) AND coalesce(claim_id, 0) = :claim
"""

_LIVE_SUBSCRIPTION = "AND (s.expires_at IS NULL OR s.expires_at > asked.now)"

_ROW = "message_id, subscription_id, attempts, lines, lane_id, expires_at, again, window_id, target, report"

_SUBSCRIPTION = ", ".join(
    f"s.{column}"
    for column in (
        *("id", "project", "queue", "subscriber", "ttl", "options", "created_at", "expires_at", "confirmed", "secret"),
        *("secret_made", "disabled_at", "disabled_reason", "disabled_enable_by", "strikes", "failing_since"),
    )
)


def _leased(table: str, key: str, columns: str) -> str:
    # The condition stands outside: inside, an index of leases could look like the shorter way.
    return f"""
SELECT t.* FROM (SELECT value::bigint AS key FROM json_array_elements_text(?::json) ORDER BY 1) AS asked
CROSS JOIN LATERAL (SELECT {columns} FROM {table} WHERE {key} = asked.key OFFSET 0 FOR NO KEY UPDATE) AS t
WHERE t.lease IS NOT NULL
"""  # noqa: S608


def _delete_pairs(table: str) -> str:
    """By message and subscription; nobody else changes them at this moment."""
    return f"""
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT t.place FROM json_array_elements(?::json) AS asked(pair) CROSS JOIN LATERAL (
        SELECT ctid AS place FROM {table}
        WHERE message_id = (asked.pair ->> 0)::bigint AND subscription_id = (asked.pair ->> 1)::bigint OFFSET 0
    ) AS t
))
"""  # noqa: S608


_BY_NAME = """
SELECT n.* FROM (
    SELECT pair ->> 0 AS project, pair ->> 1 AS name FROM json_array_elements(?::json) AS listed(pair) ORDER BY 1, 2
) AS asked CROSS JOIN LATERAL (
    SELECT {} FROM {} WHERE project = asked.project AND {} = asked.name OFFSET 0 {}
) AS n
"""

_REPLACED: dict[str, str] = {
    statements.LAST_SUBSCRIPTION_ID: "SELECT give_ids(:least, :room)",
    statements.LAST_CLAIM_ID: "SELECT give_ids(:least, :room)",
    statements.FIND_QUEUES_TO_POST_TO: """
WITH held AS MATERIALIZED (
    SELECT q.* FROM (
        SELECT pair ->> 0 AS project, pair ->> 1 AS name FROM json_array_elements(:asked::json) AS listed(pair) ORDER BY 1, 2
    ) AS asked CROSS JOIN LATERAL (
        SELECT * FROM queues WHERE project = asked.project AND name = asked.name AND deleted_at IS NULL FOR NO KEY UPDATE
    ) AS q
)
SELECT q.project, q.name, q.id, q.project_id, CASE WHEN strpos(q.metadata, '"_enable_encrypt_messages"') > 0
    THEN (q.metadata::json -> '_enable_encrypt_messages')::text = 'true' ELSE false END AS encrypts,
    (SELECT give_ids(:least, :room) FROM (SELECT count(*) AS queues FROM held) AS all_held WHERE queues > 0) AS last
FROM held AS q
""",
    statements.LIST_FREE: _list_messages(_ENDED),
    statements.LIST_NOT_DELAYED: _list_messages(_ENDED, _CLAIMED),
    statements.LIST_NOT_CLAIMED: _list_messages(_ENDED, _DELAYED),
    statements.LIST_ALL: _list_messages(_CLAIMED, _DELAYED),
    statements.OLDEST_MESSAGE: _merged((_PLAIN, _CLAIMED, _DELAYED), "", "1", "ASC"),
    statements.NEWEST_MESSAGE: _merged((_PLAIN, _CLAIMED, _DELAYED), "", "1", "DESC"),
    statements.COUNT_ALL_MESSAGES: """
SELECT count(*) FILTER (WHERE m.free_at > :now) AS claimed, count(*) FILTER (WHERE m.free_at <= :now) AS free
FROM queues AS q CROSS JOIN messages AS m ON m.queue_id = q.id AND m.deleted_at IS NULL AND m.expires_at > :now
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
    statements.CLAIMED_MESSAGES: f"SELECT id FROM messages WHERE {_OF_CLAIM} AND expires_at > :now",  # noqa: S608
    statements.KEEP_MESSAGES: f"UPDATE messages SET free_at = :end WHERE {_OF_CLAIM}",  # noqa: S608
    statements.FREE_MESSAGES: f"UPDATE messages SET free_at = 0, claim_id = NULL WHERE {_OF_CLAIM}",  # noqa: S608
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
        f"""
SELECT place FROM ({_due("outbox", "due_at > 0 AND due_at <= :now", "due_at, message_id")}) AS ended
UNION ALL
SELECT place FROM ({_due("outbox", "due_at BETWEEN 0 AND 0", "due_at, message_id")}) AS fresh
LIMIT :most
""",  # noqa: S608
        "due_at = :until, lease = :token, takes = takes + 1",
        "project_id, message_id, after_id, takes",
    ),
    statements.TAKE_ROWS: _take(
        "deliveries",
        _due("deliveries", "due_at <= :now", "due_at, message_id"),
        "due_at = :until, lease = :token",
        f"project_id, {_ROW}",
    ),
    statements.TAKE_LANES: _take(
        "lanes",
        _due("lanes", "pool = :pool AND due_at <= :now", "due_at, id"),
        "due_at = :until, lease = :token",
        "project_id, project, name, trips",
    ),
    statements.FIND_LANES: _BY_NAME.format("project, name, pool, id, lease", "lanes", "name", "FOR NO KEY UPDATE"),
    # What will be changed is locked so at once: whoever parks there would be in the way of who waits for it.
    statements.FIND_LANES_TO_USE: """
SELECT l.* FROM (
    SELECT parts ->> 0 AS project, parts ->> 1 AS name, parts ->> 2 AS pool
    FROM json_array_elements(?::json) AS listed(parts) ORDER BY 1, 2
) AS asked CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT project, name, pool, id FROM lanes
        WHERE project = asked.project AND name = asked.name AND pool || '' = asked.pool OFFSET 0 FOR KEY SHARE
    ) AS stays
    UNION ALL
    SELECT * FROM (
        SELECT project, name, pool, id FROM lanes
        WHERE project = asked.project AND name = asked.name AND pool || '' IS DISTINCT FROM asked.pool
        OFFSET 0 FOR NO KEY UPDATE
    ) AS moves
) AS l
""",
    statements.MERGE_POOL: """
UPDATE lanes SET pool = '' WHERE id = ANY(ARRAY(
    SELECT l.id FROM (
        SELECT project, name FROM (
            SELECT project, name FROM lanes WHERE pool = ? ORDER BY pool, project_id, due_at, id LIMIT ?
        ) AS first ORDER BY 1, 2
    ) AS asked CROSS JOIN LATERAL (
        SELECT id FROM lanes WHERE project = asked.project AND name = asked.name OFFSET 0 FOR NO KEY UPDATE
    ) AS l
))
""",
    statements.FIND_WINDOWS: _BY_NAME.format("project, scope, id, ends_at", "windows", "scope", "FOR NO KEY UPDATE"),
    statements.HELD_ROWS: """
SELECT d.* FROM (
    SELECT (parts ->> 0)::bigint AS window_id, (parts ->> 1)::bigint AS subscription_id, parts ->> 2 AS window_key
    FROM json_array_elements(:asked::json) AS listed(parts) ORDER BY 1, 2, 3
) AS asked CROSS JOIN LATERAL (
    SELECT window_id, subscription_id, window_key, message_id, lines FROM deliveries
    WHERE window_id BETWEEN asked.window_id AND asked.window_id AND subscription_id = asked.subscription_id
        AND window_key = asked.window_key AND lease IS NULL AND due_at > :now
    ORDER BY window_id, message_id FOR UPDATE
) AS d
""",
    statements.TAKE_PARKED: f"""
UPDATE deliveries SET due_at = :until, lease = :token WHERE ctid = ANY(ARRAY(
    SELECT parked.place FROM (
        SELECT (pair ->> 0)::bigint AS lane_id, (pair ->> 1)::bigint AS most
        FROM json_array_elements(:asked::json) AS listed(pair)
    ) AS asked CROSS JOIN LATERAL (
        SELECT ctid AS place FROM deliveries WHERE lane_id BETWEEN asked.lane_id AND asked.lane_id AND due_at IS NULL
        ORDER BY lane_id, message_id, subscription_id LIMIT asked.most FOR NO KEY UPDATE SKIP LOCKED
    ) AS parked
))
RETURNING project_id, {_ROW}
""",  # noqa: S608
    statements.LIST_SUBSCRIPTIONS: f"""
SELECT s.* FROM (SELECT ?::text AS project, ?::text AS queue, ?::bigint AS behind, ?::float8 AS now) AS asked
CROSS JOIN LATERAL ({_subscriptions(_SUBSCRIPTION, _LIVE_SUBSCRIPTION)} LIMIT ?) AS s
""",  # noqa: S608
    statements.LIST_SUBSCRIPTION_IDS: f"""
SELECT s.id FROM (SELECT ?::text AS project, ?::text AS queue, 0 AS behind, ?::float8 AS now) AS asked
CROSS JOIN LATERAL ({_subscriptions("s.id", _LIVE_SUBSCRIPTION)} LIMIT ? FOR NO KEY UPDATE) AS s
""",  # noqa: S608
    statements.END_OF_RANGE: f"""
SELECT s.id FROM (SELECT ?::text AS project, ?::text AS queue, ?::bigint AS behind) AS asked
CROSS JOIN LATERAL ({_subscriptions("s.id")} LIMIT 1 OFFSET ?) AS s
""",  # noqa: S608
    statements.LEASED_ENTRIES: _leased("outbox", "message_id", "message_id, lease, cancelled"),
    statements.LEASED_PAGES: _leased("jobs", "id", "id, lease, cancelled"),
    statements.LEASED_ROWS: """
SELECT d.* FROM (
    SELECT (pair ->> 0)::bigint AS message, (pair ->> 1)::bigint AS subscription
    FROM json_array_elements(?::json) AS listed(pair) ORDER BY 1, 2
) AS asked CROSS JOIN LATERAL (
    SELECT message_id, subscription_id, lease, report FROM deliveries
    WHERE message_id = asked.message AND subscription_id = asked.subscription OFFSET 0 FOR NO KEY UPDATE
) AS d WHERE d.lease IS NOT NULL
""",
    statements.STANDINGS: """
SELECT s.id, s.strikes, s.failing_since, s.disabled_at, s.disabled_reason, s.disabled_enable_by
FROM (
    SELECT (pair ->> 0)::bigint AS id, (pair ->> 1)::bigint AS matters
    FROM json_array_elements(?::json) AS listed(pair) ORDER BY 1
) AS asked CROSS JOIN LATERAL (
    SELECT * FROM subscriptions
    WHERE id = asked.id AND deleted_at + 0 IS NULL AND (asked.matters > 0 OR failing_since IS NOT NULL)
    OFFSET 0 FOR NO KEY UPDATE
) AS s
""",
    statements.ENCRYPTED: """
SELECT id FROM messages WHERE id = ANY(ARRAY(SELECT value::bigint FROM json_array_elements_text(?::json))) AND encrypted
""",
    statements.REMOVE_LINES: """
DELETE FROM delivery_log WHERE ctid = ANY(ARRAY(
    SELECT l.place FROM json_array_elements_text(?::json) AS asked(value)
    CROSS JOIN LATERAL (SELECT ctid AS place FROM delivery_log WHERE message_id = asked.value::bigint OFFSET 0) AS l LIMIT ?
))
""",
    statements.REMOVE_RECEIPTS: """
DELETE FROM receipts WHERE ctid = ANY(ARRAY(
    SELECT r.place FROM json_array_elements_text(?::json) AS asked(value)
    CROSS JOIN LATERAL (SELECT ctid AS place FROM receipts WHERE message_id = asked.value::bigint OFFSET 0) AS r LIMIT ?
))
""",
    statements.FORGET_DELIVERED: _delete_pairs("delivery_log"),
    statements.FORGET_RECEIPTS: _delete_pairs("receipts"),
    statements.DELETE_ROWS: _delete_pairs("deliveries"),
    statements.OLDEST_ENTRY: """
WITH RECURSIVE walk(project) AS (
    SELECT (SELECT project_id FROM outbox ORDER BY project_id LIMIT 1)
    UNION ALL
    SELECT (SELECT project_id FROM outbox WHERE project_id > walk.project ORDER BY project_id LIMIT 1)
    FROM walk WHERE walk.project IS NOT NULL
), first(id) AS MATERIALIZED (
    SELECT o.message_id FROM walk CROSS JOIN LATERAL (
        SELECT message_id FROM outbox WHERE project_id = walk.project AND due_at BETWEEN 0 AND 0
        ORDER BY due_at, message_id LIMIT 1
    ) AS o
    UNION ALL
    SELECT o.message_id FROM walk CROSS JOIN LATERAL (
        SELECT message_id FROM outbox WHERE project_id = walk.project AND due_at > 0 AND due_at <= :now
        ORDER BY due_at, message_id LIMIT 1
    ) AS o
    UNION ALL
    SELECT message_id FROM outbox WHERE lease IS NOT NULL
)
SELECT min(greatest(m.created_at, m.expires_at - m.ttl)) FROM first CROSS JOIN messages AS m ON m.id = first.id
""",
    statements.FIND_PUBLIC_MESSAGE: """
SELECT max(id) FROM (
    SELECT m.id FROM messages AS m CROSS JOIN queues AS q ON q.id = m.queue_id
    WHERE m.foreign_id = :public AND q.project = :project AND q.name = :name AND m.prune_at > 0
    UNION ALL
    SELECT m.id FROM messages AS m CROSS JOIN queues AS q ON q.id = m.queue_id
    WHERE m.id = :message AND m.foreign_id IS NULL AND q.project = :project AND q.name = :name AND m.prune_at > 0
) AS found
""",
    statements.REMOVE_ENDED_WINDOWS: """
DELETE FROM windows WHERE id = ANY(ARRAY(
    SELECT id FROM windows WHERE ends_at <= ? ORDER BY ends_at LIMIT ? FOR UPDATE SKIP LOCKED
))
""",
    statements.REMOVE_ALERTS: """
DELETE FROM alerts WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM alerts WHERE prune_at <= ? ORDER BY prune_at LIMIT ? FOR UPDATE SKIP LOCKED
))
""",
    # By the key, and not by the index of the open ones.
    statements.CLOSE_BREAKER: """
UPDATE lanes SET trips = 0, probe_at = NULL WHERE project = :project AND name = :name AND trips + 0 > 0
""",
    statements.END_DELAYS: """
UPDATE messages SET free_at = 0 WHERE id = ANY(ARRAY(
    SELECT id FROM messages WHERE free_at > 0 AND free_at <= ? AND claim_id IS NULL AND deleted_at IS NULL
    ORDER BY free_at LIMIT ? FOR UPDATE SKIP LOCKED
))
""",
    # What somebody is changing stays for the next time, and so does the claim.
    statements.END_CLAIMS: """
UPDATE messages SET free_at = 0, claim_id = NULL WHERE id = ANY(ARRAY(
    SELECT m.id FROM json_array_elements_text(?::json) AS asked(value)
    CROSS JOIN LATERAL (
        SELECT id FROM messages
        WHERE claim_id BETWEEN asked.value::bigint AND asked.value::bigint AND claim_id IS NOT NULL AND deleted_at IS NULL
        ORDER BY claim_id FOR NO KEY UPDATE SKIP LOCKED
    ) AS m LIMIT ?
))
""",
}

# By table: ids that are given out later are above those that were copied from elsewhere.
RISE_ABOVE: dict[str, str] = {
    **{table: f"SELECT setval('{table}_id_seq', max(id)) FROM {table}" for table in ("projects", "queues", "lanes", "windows")},  # noqa: S608
    **{table: f"SELECT give_ids(max(id), 0) FROM {table}" for table in ("subscriptions", "messages", "claims")},  # noqa: S608
    "id_floors": "SELECT give_ids(max(last), 0) FROM id_floors",
}

# -- locks ---------------------------------------------------------------------------------------------------------------------

# What is added to a statement in a transaction that writes.
_LOCKS: dict[str, str] = {
    statements.FIND_QUEUE_TO_CHANGE: "FOR NO KEY UPDATE",
    statements.FIND_PROJECT: "FOR KEY SHARE",
    statements.GET_MESSAGE: "FOR NO KEY UPDATE",
    statements.READ_LIVE_MESSAGES: "FOR NO KEY UPDATE",
    statements.CLAIMED_MESSAGES: "ORDER BY id + 0 FOR NO KEY UPDATE",
    statements.HOLD_LANES: "ORDER BY id FOR UPDATE",
    statements.JOB_TO_CUT: "FOR NO KEY UPDATE OF j",
    statements.HOLD_MESSAGE: "FOR NO KEY UPDATE",
    statements.HOLD_ENTRY: "FOR NO KEY UPDATE",
    statements.HOLD_JOBS: "ORDER BY id + 0 FOR NO KEY UPDATE",
    statements.HOLD_ROW: "FOR NO KEY UPDATE",
    statements.HOLD_PROJECTS: "FOR UPDATE SKIP LOCKED",
    statements.HOLD_MESSAGES: "FOR NO KEY UPDATE SKIP LOCKED",
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
        # No reason to use another index than that of the key.
        (r"\bAND lease = \?", r"AND coalesce(lease, 0) = ?"),
        (r"\bAND prune_at = :", r"AND prune_at + 0 = :"),
        (r"\bmax\(([^()]*,[^()]*)\)", r"greatest(\1)"),
        (r"\bmin\(([^()]*,[^()]*)\)", r"least(\1)"),
        (r"\bx''", r"''::bytea"),
        (r"%", "%%"),
        (r"(?<![:\w]):([a-z_]\w*)", r"%(\1)s"),
        (r"\?", "%s"),
    )
)


_JOIN = re.compile(r"\b(LEFT )?(?:CROSS )?JOIN (\w+) AS (\w+)\s+ON\b")
_EXISTS = re.compile(r"\bEXISTS \((?=\s*SELECT 1\b)")
_IN_SELECTED = re.compile(r"(\b[\w.]+) IN \((?=\s*SELECT\b)")
_BOUNDARY = re.compile(r"[()]|\b(?:WHERE|CROSS|LEFT|JOIN|GROUP|ORDER|LIMIT|UNION)\b")


def _end(text: str, start: int, *, of_condition: bool = False) -> int:
    """Where the parenthesis around ``start`` is closed, or the condition that begins there ends."""
    depth = 0
    for boundary in _BOUNDARY.finditer(text, start):
        if boundary[0] == "(":
            depth += 1
        elif boundary[0] == ")":
            depth -= 1
        if depth < 0 or (of_condition and depth == 0 and boundary[0] not in "()"):
            return boundary.start()
    return len(text)


def _in_order(text: str) -> str:
    """SQLite keeps the order of the tables (CROSS JOIN); PostgreSQL does where each has to be looked up for those before."""
    while found := _JOIN.search(text):
        end = _end(text, found.end(), of_condition=True)
        kind, table, alias = found[1] or "", found[2], found[3]
        condition, also, rest = text[found.end() : end].partition(f"AND {alias}.deleted_at IS NULL")
        looked_up = f"SELECT * FROM {table} AS {alias} WHERE{condition}{rest} OFFSET 0"  # noqa: S608
        # Not within: an index of what is not deleted could look like the shorter way.
        joined = f"{kind}JOIN LATERAL ({looked_up}) AS {alias} ON {also.removeprefix('AND ') or 'true'}"
        text = f"{text[: found.start()]}{joined} {text[end:]}"
    return text


def _by_key(text: str) -> str:
    """What is selected is looked up by the index: it is no join that could begin with the other table."""
    while found := _IN_SELECTED.search(text):
        end = _end(text, found.end())
        text = f"{text[: found.start()]}{found[1]} = ANY(ARRAY({text[found.end() : end]}){text[end:]}"
    return text


def _for_each(text: str) -> str:
    """What has to exist is looked up for each row: it is no join that could begin there."""
    for found in reversed(list(_EXISTS.finditer(text))):
        end = _end(text, found.end())
        text = f"{text[:end]} OFFSET 0{text[end:]}"
    return text


@functools.lru_cache(maxsize=2048)
def translated(statement: str, writes: bool) -> str:
    """``writes``: in a transaction that does."""
    text = _REPLACED.get(statement, statement)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _in_order(_by_key(_for_each(text)))
    lock = _LOCKS.get(statement)
    return f"{text.rstrip()} {lock}" if writes and lock else text
