"""The hot statements, in the driver's own SQL (SQLite): building them with Core costs a third of the time of publishing.

``json_each`` stands for a list of values of any length.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection


class Rows:
    """An INSERT of any number of rows, many in one statement.

    The driver gives up the interpreter's lock, and takes it again, for each statement; beside a busy thread that costs more
    than the row does.
    """

    _MOST = 50

    def __init__(self, before: str, columns: int, after: str = "") -> None:
        self.columns = columns
        self.before = before
        self._row = f"({', '.join('?' * columns)})"
        self.after = after
        self._full = self._text(self._MOST)

    def _text(self, count: int) -> str:
        return f"{self.before} {', '.join([self._row] * count)} {self.after}"

    def of(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """The statements, with their parameters."""
        for start in range(0, len(rows), self._MOST):
            some = rows[start : start + self._MOST]
            text = self._full if len(some) == self._MOST else self._text(len(some))
            yield text, tuple(itertools.chain.from_iterable(some))

    def into(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Store them; returns how many were."""
        return store(connection, (self, rows))


def store(connection: Connection, *parts: tuple[Rows, Sequence[tuple[Any, ...]]]) -> int:
    """Rows of several tables; returns how many of the last one were stored. An engine may have a way of its own."""
    insert = connection.get_execution_options().get("insert_rows")
    if insert is not None:
        return int(insert(connection, parts))
    stored = 0
    for rows, values in parts:
        stored = sum(connection.exec_driver_sql(statement, some).rowcount for statement, some in rows.of(values))
    return stored


def json_list(values: Iterable[Any]) -> tuple[str]:
    """The parameters of a statement whose list is a ``json_each``."""
    return (json.dumps(list(values)),)


_MESSAGE = """
m.id, m.body, m.ttl, m.created_at, m.expires_at, m.attributes, m.parent_id, m.client_id, m.version, m.kind, m.foreign_id,
m.encrypted, m.free_at, m.claim_id, m.collapse_key, m.priority, m.language
"""
"""What `bodies.Bodies.message` makes a message of."""

# -- publishing ----------------------------------------------------------------------------------------------------------------

# Ids have to rise also above the greatest one that was removed.
RAISE_FLOOR = "INSERT INTO id_floors (name, last) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET last = excluded.last"

FIND_QUEUE = "SELECT id FROM queues WHERE project = ? AND name = ? AND deleted_at IS NULL"

# Nothing happens when somebody else has just made it.
INSERT_QUEUE = """
INSERT INTO queues (project, name, metadata, created_at, project_id) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""

FIND_PROJECT = "SELECT id FROM projects WHERE name = ?"

INSERT_PROJECT = "INSERT INTO projects (name) VALUES (?) ON CONFLICT DO NOTHING"

# Looking for the name in the text first: large metadata without it is not parsed.
_ENCRYPTS = """
CASE WHEN instr(metadata, '"_enable_encrypt_messages"') > 0
    THEN json_type(metadata, '$._enable_encrypt_messages') = 'true' ELSE 0 END
"""

# Nobody else may change it before this transaction has ended.
FIND_QUEUE_TO_CHANGE = """
SELECT id, metadata, created_at FROM queues WHERE project = ? AND name = ? AND deleted_at IS NULL
"""

_LAST_MESSAGE_ID = """
SELECT max(coalesce((SELECT max(id) FROM messages), 0), coalesce((SELECT last FROM id_floors WHERE name = 'messages'), 0))
"""

# Nobody else may post to them, or change them, before this transaction has ended; the greatest id that was given out is
# looked up after that.
FIND_QUEUES_TO_POST_TO = f"""
SELECT q.project, q.name, q.id, q.project_id, {_ENCRYPTS} AS encrypts, ({_LAST_MESSAGE_ID}) AS last
FROM json_each(:asked) AS asked
CROSS JOIN queues AS q ON q.project = asked.value ->> 0 AND q.name = asked.value ->> 1 AND q.deleted_at IS NULL
"""  # noqa: S608 - only constants

LAST_SUBSCRIPTION_ID = """
SELECT max(
    coalesce((SELECT max(id) FROM subscriptions), 0), coalesce((SELECT last FROM id_floors WHERE name = 'subscriptions'), 0)
)
"""

INSERT_MESSAGES = Rows(
    "INSERT INTO messages"
    " (id, queue_id, body, attributes, parent_id, client_id, ttl, created_at, expires_at, version, prune_at) VALUES",
    columns=11,
)

# For those that are delayed, encrypted, never shown to readers, or say something of themselves.
INSERT_OTHER_MESSAGES = Rows(
    "INSERT INTO messages"
    " (id, queue_id, body, attributes, parent_id, client_id, ttl, created_at, expires_at, version, prune_at,"
    " free_at, deleted_at, kind, encrypted, collapse_key, priority, language) VALUES",
    columns=18,
)

INSERT_ENTRIES = Rows("INSERT INTO outbox (message_id, queue_id, due_at, takes, project_id) VALUES", columns=5)

# -- reading -------------------------------------------------------------------------------------------------------------------

_LIVE = "queue_id = :queue AND deleted_at IS NULL AND expires_at > :now"

GET_MESSAGE = f"SELECT {_MESSAGE} FROM messages AS m WHERE m.id = :message AND {_LIVE}"  # noqa: S608 - only constants


# Ranges of a queue's live messages, each in the order of an index. That of ended claims and delays is sorted by id where
# it has to; it is short, because housekeeping makes them plain. They are in the last two as well.
_PLAIN = f"INDEXED BY ix_messages_queue WHERE {_LIVE} AND free_at = 0"
_ENDED = f"INDEXED BY ix_messages_queue WHERE {_LIVE} AND free_at > 0 AND free_at <= :now"
_DELAYED = f"INDEXED BY ix_messages_delayed WHERE {_LIVE} AND free_at > 0 AND claim_id IS NULL"
_CLAIMED = f"INDEXED BY ix_messages_claimed WHERE {_LIVE} AND claim_id IS NOT NULL"


def _merged(ranges: Sequence[str], page: str, order: str) -> str:
    """Each range is read no further than the page is long, or sorted."""
    parts = " UNION ALL ".join(f"SELECT id FROM (SELECT id FROM messages {one} {page})" for one in ranges)  # noqa: S608
    return f"SELECT {_MESSAGE} FROM messages AS m WHERE m.id IN ({parts}) ORDER BY m.id {order}"  # noqa: S608


def _list_messages(*ranges: str) -> str:
    page = "AND id > :behind AND (:not_from IS NULL OR client_id IS NOT :not_from) ORDER BY id LIMIT :limit"
    return _merged((_PLAIN, *ranges), page, "ASC LIMIT :limit")


LIST_FREE = _list_messages(_ENDED)

LIST_NOT_DELAYED = _list_messages(_ENDED, _CLAIMED)

LIST_NOT_CLAIMED = _list_messages(_ENDED, _DELAYED)

LIST_ALL = _list_messages(_CLAIMED, _DELAYED)

OLDEST_MESSAGE, NEWEST_MESSAGE = (
    _merged((_PLAIN, _CLAIMED, _DELAYED), f"ORDER BY id {order} LIMIT 1", f"{order} LIMIT 1") for order in ("ASC", "DESC")
)

COUNT_MESSAGES = f"""
SELECT
    (SELECT count(*) FROM messages INDEXED BY ix_messages_queue WHERE {_LIVE} AND free_at > :now) AS claimed,
    (SELECT count(*) FROM messages INDEXED BY ix_messages_queue WHERE {_LIVE} AND free_at <= :now) AS free
"""  # noqa: S608 - only constants

COUNT_ALL_MESSAGES = """
SELECT coalesce(sum(m.free_at > :now), 0) AS claimed, coalesce(sum(m.free_at <= :now), 0) AS free
FROM queues AS q CROSS JOIN messages AS m INDEXED BY ix_messages_queue
    ON m.queue_id = q.id AND m.deleted_at IS NULL AND m.expires_at > :now
WHERE q.deleted_at IS NULL
"""


# -- consuming -----------------------------------------------------------------------------------------------------------------

# Those whose delay or claim has ended before those that never had one: both ranges are read in the order of the index.
CONSUMABLE = f"""
SELECT id FROM (SELECT id FROM messages {_ENDED} ORDER BY free_at, id LIMIT :limit)
UNION ALL
SELECT id FROM (SELECT id FROM messages {_PLAIN} ORDER BY id LIMIT :limit)
LIMIT :limit
"""  # noqa: S608 - only constants

_ASKED = "m.id IN (SELECT value FROM json_each(:asked))"

# Messages of one list, whatever has become of them.
READ_MESSAGES = f"SELECT {_MESSAGE} FROM messages AS m WHERE {_ASKED} ORDER BY m.id"  # noqa: S608 - only constants

READ_LIVE_MESSAGES = f"SELECT {_MESSAGE} FROM messages AS m WHERE {_ASKED} AND {_LIVE} ORDER BY m.id"  # noqa: S608

CLAIMED_TOO_OFTEN = f"SELECT {_MESSAGE} FROM messages AS m WHERE {_ASKED} AND claims >= :most"  # noqa: S608

DELETE_MESSAGES = f"UPDATE messages AS m SET deleted_at = :now WHERE {_ASKED}"  # noqa: S608 - only constants

# The expiry is never lowered; the ttl stays above the age. What housekeeping has to do before stays due.
LIVE_LONGER = f"""
UPDATE messages AS m SET
    expires_at = :until, prune_at = CASE WHEN prune_at < expires_at THEN prune_at ELSE :until END,
    ttl = max(ttl, CAST(:until - created_at AS INTEGER) + (:until - created_at > CAST(:until - created_at AS INTEGER)))
WHERE {_ASKED} AND expires_at < :until
RETURNING id
"""  # noqa: S608 - only constants

# Redeliveries have an expiry of their own.
DELIVER_LONGER = """
UPDATE deliveries SET expires_at = :until
WHERE message_id IN (SELECT value FROM json_each(:asked)) AND expires_at < :until AND again = 0
"""

CLAIM_MESSAGES = f"""
UPDATE messages AS m SET free_at = :end, claim_id = :claim, claims = claims + 1 WHERE {_ASKED}
"""  # noqa: S608 - only constants

LAST_CLAIM_ID = """
SELECT max(coalesce((SELECT max(id) FROM claims), 0), coalesce((SELECT last FROM id_floors WHERE name = 'claims'), 0))
"""

INSERT_CLAIM = "INSERT INTO claims (id, queue_id, ttl, grace, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)"

GET_CLAIM = "SELECT ttl, grace, created_at FROM claims WHERE id = :claim AND queue_id = :queue AND expires_at > :now"

RENEW_CLAIM = """
UPDATE claims SET ttl = :ttl, grace = :grace, created_at = :now, expires_at = :end
WHERE id = :claim AND queue_id = :queue AND expires_at > :now
"""

END_CLAIM = "UPDATE claims SET expires_at = 0 WHERE id = :claim AND queue_id = :queue AND expires_at > :now"

_OF_CLAIM = "claim_id = :claim AND deleted_at IS NULL"

CLAIMED_MESSAGES = f"SELECT id FROM messages INDEXED BY ix_messages_claim WHERE {_OF_CLAIM} AND expires_at > :now"  # noqa: S608

KEEP_MESSAGES = f"UPDATE messages INDEXED BY ix_messages_claim SET free_at = :end WHERE {_OF_CLAIM}"  # noqa: S608

FREE_MESSAGES = f"UPDATE messages INDEXED BY ix_messages_claim SET free_at = 0, claim_id = NULL WHERE {_OF_CLAIM}"  # noqa: S608

# -- holding -------------------------------------------------------------------------------------------------------------------

_HELD = """
messages.id = :message AND kind = 0 AND deleted_at = created_at
AND EXISTS (SELECT 1 FROM queues AS q WHERE q.id = messages.queue_id AND q.project = :project AND q.name = :name)
"""

NAME_HELD = f"UPDATE messages SET foreign_id = :foreign WHERE {_HELD}"  # noqa: S608 - only constants

FREE_HELD = f"""
UPDATE outbox SET due_at = (SELECT free_at FROM messages WHERE id = :message)
WHERE message_id = :message AND lease IS NULL AND EXISTS (SELECT 1 FROM messages WHERE {_HELD})
"""  # noqa: S608 - only constants

DROP_ENTRY = f"""
DELETE FROM outbox
WHERE message_id = :message AND lease IS NULL AND takes = cancelled AND EXISTS (SELECT 1 FROM messages WHERE {_HELD})
"""  # noqa: S608 - only constants

DROP_LINES = "DELETE FROM delivery_log WHERE message_id = :message"

DROP_RECEIPTS = "DELETE FROM receipts WHERE message_id = :message"

DROP_MESSAGE = "DELETE FROM messages WHERE id = :message"

# -- keys of the API -----------------------------------------------------------------------------------------------------------

INSERT_KEY = """
INSERT INTO api_keys (id, project, roles, name, secret_hash, created_at, revoked_at) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

GET_KEY = "SELECT id, project, roles, name, secret_hash, created_at, revoked_at FROM api_keys WHERE id = ?"

# -- taking --------------------------------------------------------------------------------------------------------------------

# What need not wait is due at 0: also when the clock is set back. Among its like the oldest message is first.


def _projects_due(table: str, condition: str = "") -> str:
    """The next projects that have something due, by number: one look-up for each that has anything at all."""
    following = f"SELECT project_id FROM {table} WHERE project_id >"  # noqa: S608
    return f"""
    WITH RECURSIVE walk(project) AS (
        SELECT ({following} :after {condition} ORDER BY project_id LIMIT 1)
        UNION ALL
        SELECT ({following} walk.project {condition} ORDER BY project_id LIMIT 1) FROM walk WHERE walk.project < :last
    )
    SELECT project FROM walk
    WHERE project <= :last
        AND (SELECT due_at FROM {table} WHERE project_id = walk.project {condition} ORDER BY due_at LIMIT 1) <= :now
    LIMIT :limit
    """  # noqa: S608


NUMBER_PROJECTS = "SELECT id FROM projects WHERE name IN (SELECT value FROM json_each(?))"

PROJECTS_WITH_ENTRIES, PROJECTS_WITH_ROWS, PROJECTS_WITH_LANES = (
    _projects_due("outbox"),
    _projects_due("deliveries", "AND due_at IS NOT NULL"),
    _projects_due("lanes", "AND pool = :pool"),
)

# Whether anything of each kind is.
DUE = f"""
SELECT
    EXISTS ({PROJECTS_WITH_ENTRIES}) AS entries, EXISTS ({PROJECTS_WITH_ROWS}) AS rows_, EXISTS ({PROJECTS_WITH_LANES}) AS lanes
"""

# At most so many of each of the projects asked for.

# Entries whose lease has ended go before those that are due at once: however many of these come in, those are not left behind.
TAKE_ENTRIES = """
UPDATE outbox SET due_at = :until, lease = :token, takes = takes + 1
WHERE message_id IN (
    SELECT o.message_id FROM json_each(:projects) AS asked CROSS JOIN outbox AS o ON o.message_id IN (
        SELECT message_id FROM (
            SELECT message_id FROM outbox WHERE project_id = asked.value AND due_at > 0 AND due_at <= :now
            ORDER BY due_at, message_id LIMIT :most
        )
        UNION ALL
        SELECT message_id FROM (
            SELECT message_id FROM outbox WHERE project_id = asked.value AND due_at = 0 ORDER BY message_id LIMIT :most
        )
        LIMIT :most
    )
)
RETURNING project_id, message_id, after_id, takes
"""

_ROW = "message_id, subscription_id, attempts, lines, lane_id, expires_at, again, window_id, target, report"
"""What `taking` makes a row of."""

TAKE_ROWS = f"""
UPDATE deliveries SET due_at = :until, lease = :token
WHERE (message_id, subscription_id) IN (
    SELECT d.message_id, d.subscription_id
    FROM json_each(:projects) AS asked CROSS JOIN deliveries AS d ON (d.message_id, d.subscription_id) IN (
        SELECT message_id, subscription_id FROM deliveries
        WHERE project_id = asked.value AND due_at <= :now ORDER BY due_at, message_id LIMIT :most
    )
)
RETURNING project_id, {_ROW}
"""  # noqa: S608 - only constants

TAKE_LANES = """
UPDATE lanes SET due_at = :until, lease = :token
WHERE id IN (
    SELECT l.id FROM json_each(:projects) AS asked CROSS JOIN lanes AS l ON l.id IN (
        SELECT id FROM lanes WHERE pool = :pool AND project_id = asked.value AND due_at <= :now
        ORDER BY due_at, id LIMIT :most
    )
)
RETURNING project_id, project, name, trips
"""

# Nobody else may change them before this transaction has ended.
FIND_LANES = """
SELECT l.project, l.name, l.pool, l.id, l.lease FROM json_each(?) AS asked
CROSS JOIN lanes AS l ON l.project = asked.value ->> 0 AND l.name = asked.value ->> 1
"""

# ``asked``: project, name, and the pool that each is to be in; null: it will be changed. Nobody may remove them before this
# transaction has ended.
FIND_LANES_TO_USE = """
SELECT l.project, l.name, l.pool, l.id FROM json_each(?) AS asked
CROSS JOIN lanes AS l ON l.project = asked.value ->> 0 AND l.name = asked.value ->> 1
"""

# ``asked``: lanes, and how many rows of each. Only one of them, where a LIMIT has to be the same for all.
TAKE_PARKED = f"""
UPDATE deliveries SET due_at = :until, lease = :token
WHERE (message_id, subscription_id) IN (
    SELECT message_id, subscription_id FROM deliveries
    WHERE lane_id = (SELECT value ->> 0 FROM json_each(:asked)) AND due_at IS NULL
    ORDER BY message_id, subscription_id LIMIT (SELECT value ->> 1 FROM json_each(:asked))
)
RETURNING project_id, {_ROW}
"""  # noqa: S608 - only constants

RENEW_LANES = "UPDATE lanes SET due_at = ? WHERE id IN (SELECT value FROM json_each(?))"

_UNUSED = "NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.lane_id = l.id AND d.due_at IS NULL)"

# Nobody parks anything there before this transaction has ended.
HOLD_LANES = "SELECT id FROM lanes WHERE id IN (SELECT value FROM json_each(?))"

# Those in which nothing was parked meanwhile.
UNUSED_LANES = f"SELECT l.id FROM lanes AS l WHERE l.id IN (SELECT value FROM json_each(?)) AND {_UNUSED}"  # noqa: S608

# That of an open breaker stays.
DELETE_LANES = "DELETE FROM lanes WHERE id IN (SELECT value FROM json_each(?)) AND trips = 0"

NAME_LANES = "SELECT id, project, name, pool FROM lanes WHERE id IN (SELECT value FROM json_each(?))"

# One look-up for each.
POOLS = """
WITH RECURSIVE walk(pool) AS (
    SELECT (SELECT pool FROM lanes WHERE pool > '' ORDER BY pool LIMIT 1)
    UNION ALL
    SELECT (SELECT pool FROM lanes WHERE pool > walk.pool ORDER BY pool LIMIT 1) FROM walk WHERE walk.pool IS NOT NULL
)
SELECT pool FROM walk WHERE pool IS NOT NULL
"""

MERGE_POOL = "UPDATE lanes SET pool = '' WHERE id IN (SELECT id FROM lanes WHERE pool = ? LIMIT ?)"

# -- settling ------------------------------------------------------------------------------------------------------------------

# CROSS JOIN keeps the list outside: one look-up for each of its values.
LEASED_ENTRIES = """
SELECT o.message_id, o.lease, o.cancelled FROM json_each(?) AS asked CROSS JOIN outbox AS o ON o.message_id = asked.value
WHERE o.lease IS NOT NULL
"""

LEASED_PAGES = """
SELECT j.id, j.lease, j.cancelled FROM json_each(?) AS asked CROSS JOIN jobs AS j ON j.id = asked.value
WHERE j.lease IS NOT NULL
"""

LEASED_ROWS = """
SELECT d.message_id, d.subscription_id, d.lease, d.report FROM json_each(?) AS asked
CROSS JOIN deliveries AS d
    ON d.message_id = asked.value ->> 0 AND d.subscription_id = asked.value ->> 1
WHERE d.lease IS NOT NULL
"""

# Which of these pairs were cancelled.
CANCELLED = """
SELECT DISTINCT l.message_id, l.subscription_id FROM json_each(?) AS asked
CROSS JOIN delivery_log AS l
    ON l.message_id = asked.value ->> 0 AND l.subscription_id = asked.value ->> 1
WHERE l.state = ?
"""

# What a row copies from its message.
ORIGINS = """
SELECT m.id, m.expires_at, q.project_id FROM json_each(?) AS asked
CROSS JOIN messages AS m ON m.id = asked.value CROSS JOIN queues AS q ON q.id = m.queue_id
"""

ENCRYPTED = """
SELECT m.id FROM json_each(?) AS asked CROSS JOIN messages AS m INDEXED BY ix_messages_encrypted
    ON m.id = asked.value AND m.encrypted > 0
"""

# Nothing happens when the line is there: it was stored by a commit that was reported as failed, and is settled again.
INSERT_LINES = Rows(
    "INSERT INTO delivery_log"
    " (message_id, subscription_id, number, at, state, outcome, status, duration, detail, target, exchange) VALUES",
    columns=11,
    after="ON CONFLICT DO NOTHING",
)

PUT_ROWS = Rows(
    "INSERT INTO deliveries"
    " (message_id, subscription_id, lane_id, due_at, lease, attempts, lines, window_id, window_key, target, report,"
    " expires_at, project_id, again) VALUES",
    columns=14,
    after="""
ON CONFLICT (message_id, subscription_id) DO UPDATE SET
    lane_id = excluded.lane_id, due_at = excluded.due_at, lease = excluded.lease,
    attempts = excluded.attempts, lines = excluded.lines,
    window_id = excluded.window_id, window_key = excluded.window_key, target = excluded.target, report = excluded.report,
    expires_at = CASE WHEN deliveries.report IS NOT NULL AND excluded.report IS NULL
        THEN excluded.expires_at ELSE deliveries.expires_at END
""",
)


def due_row(
    message: int,
    subscription: int,
    expires_at: float,
    project_id: int,
    *,
    attempts: int = 0,
    lines: int = 0,
    target: int | None = None,
    report: str | None = None,
    again: int = 0,
) -> tuple[Any, ...]:
    """The parameters for PUT_ROWS: it is due at once."""
    left = message, subscription, None, 0, None, attempts, lines, None, None, target, report
    return *left, expires_at, project_id, again


# Of deliveries that had none. One that is there was left by a commit that was reported as failed: others may work on it.
LEAVE_ROWS = Rows(PUT_ROWS.before, PUT_ROWS.columns, after="ON CONFLICT DO NOTHING")

# Which of these lines are there.
STORED_LINES = """
SELECT l.message_id, l.subscription_id, l.number FROM json_each(?) AS asked
CROSS JOIN delivery_log AS l
    ON l.message_id = asked.value ->> 0 AND l.subscription_id = asked.value ->> 1 AND l.number = asked.value ->> 2
"""

DELETE_ROW = "DELETE FROM deliveries WHERE message_id = ? AND subscription_id = ?"

DELETE_ROWS = """
DELETE FROM deliveries WHERE (message_id, subscription_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))
"""

# Somebody else may just have made it.
INSERT_LANE = """
INSERT INTO lanes (project, name, due_at, project_id, pool) VALUES (?, ?, 0, ?, ?)
ON CONFLICT (project, name) DO UPDATE SET project_id = excluded.project_id, pool = excluded.pool RETURNING id
"""

MOVE_LANES = "UPDATE lanes SET pool = ? WHERE id IN (SELECT value FROM json_each(?))"

OPEN_BREAKER = """
INSERT INTO lanes (project, name, due_at, project_id, trips, probe_at, pool)
VALUES (:project, :name, :until, :project_id, :trips, :until, :pool)
ON CONFLICT (project, name) DO UPDATE SET
    due_at = excluded.due_at, lease = NULL, trips = excluded.trips, probe_at = excluded.probe_at, pool = excluded.pool
"""

CLOSE_BREAKER = "UPDATE lanes SET trips = 0, probe_at = NULL WHERE project = :project AND name = :name AND trips > 0"

BREAKERS = "SELECT project, name, pool, trips, probe_at FROM lanes INDEXED BY ix_lanes_open WHERE trips > 0"

# Of subscriptions, and whether it matters (1) when one of them has not failed lately.
STANDINGS = """
SELECT s.id, s.strikes, s.failing_since, s.disabled_at, s.disabled_reason, s.disabled_enable_by
FROM json_each(?) AS asked CROSS JOIN subscriptions AS s ON s.id = asked.value ->> 0
WHERE s.deleted_at IS NULL AND (asked.value ->> 1 > 0 OR s.failing_since IS NOT NULL)
"""

JUDGE = """
UPDATE subscriptions SET
    strikes = ?, failing_since = ?, disabled_at = ?, disabled_reason = ?, disabled_enable_by = ?
WHERE id = ?
"""

# Nearly always there are none.
RECOVER = """
UPDATE subscriptions SET strikes = 0, failing_since = NULL
WHERE id IN (
    SELECT s.id FROM json_each(?) AS asked CROSS JOIN subscriptions AS s INDEXED BY ix_subscriptions_failing
        ON s.id = asked.value AND s.failing_since IS NOT NULL
)
"""

# Not while the last one is too young; one of the future is from before the clock was set back.
PUT_ALERT = """
INSERT INTO alerts (project, cause, at, prune_at) VALUES (:project, :cause, :now, :prune_at)
ON CONFLICT (project, cause) DO UPDATE SET at = excluded.at, prune_at = excluded.prune_at
WHERE alerts.at > excluded.at OR alerts.at + :every <= excluded.at
"""

PROJECTS = """
SELECT m.id, q.project FROM json_each(?) AS asked
CROSS JOIN messages AS m ON m.id = asked.value JOIN queues AS q ON q.id = m.queue_id
"""

# Subscriptions that are there.
OWNERS = """
SELECT s.id FROM json_each(?) AS asked CROSS JOIN subscriptions AS s ON s.id = asked.value AND s.deleted_at IS NULL
"""

CLOSE_ENTRIES = "DELETE FROM outbox WHERE message_id IN (SELECT value FROM json_each(?)) AND lease = ?"

# The next page of subscribers is new to everyone: it was never taken.
ADVANCE_ENTRY = "UPDATE outbox SET after_id = ?, due_at = 0, lease = NULL, takes = cancelled WHERE message_id = ? AND lease = ?"

# What it has still to be matched with becomes a job.
CUT_ENTRY = "DELETE FROM outbox WHERE message_id = ? AND lease = ? RETURNING queue_id, cancelled"

CLOSE_RANGE = "DELETE FROM jobs WHERE id = ? AND lease = ?"

ADVANCE_RANGE = "UPDATE jobs SET after_id = ?, due_at = 0, lease = NULL WHERE id = ? AND lease = ?"

# -- windows -------------------------------------------------------------------------------------------------------------------

# Nobody else opens one in their place, or puts anything there, before this transaction has ended.
FIND_WINDOWS = """
SELECT w.project, w.scope, w.id, w.ends_at FROM json_each(?) AS asked
CROSS JOIN windows AS w ON w.project = asked.value ->> 0 AND w.scope = asked.value ->> 1
"""

# Nothing happens when somebody else has just opened one.
INSERT_WINDOWS = Rows("INSERT INTO windows (project, scope, ends_at) VALUES", columns=3, after="ON CONFLICT DO NOTHING")

REMOVE_WINDOWS = "DELETE FROM windows WHERE id IN (SELECT value FROM json_each(?))"

# ``asked``: window, subscription and key of each.
HELD_ROWS = """
SELECT d.window_id, d.subscription_id, d.window_key, d.message_id, d.lines FROM json_each(:asked) AS asked
CROSS JOIN deliveries AS d INDEXED BY ix_deliveries_window
    ON d.window_id = asked.value ->> 0 AND d.subscription_id = asked.value ->> 1 AND d.window_key = asked.value ->> 2
WHERE d.lease IS NULL AND d.due_at > :now
"""

# Which of these deliveries have a row, or the line.
WAITED_BEFORE = """
SELECT asked.value ->> 0 AS message_id, asked.value ->> 1 AS subscription_id FROM json_each(?) AS asked
WHERE EXISTS (
    SELECT 1 FROM deliveries WHERE message_id = asked.value ->> 0 AND subscription_id = asked.value ->> 1
) OR EXISTS (
    SELECT 1 FROM delivery_log
    WHERE message_id = asked.value ->> 0 AND subscription_id = asked.value ->> 1 AND number = asked.value ->> 2
)
"""

# -- receipts ------------------------------------------------------------------------------------------------------------------

LAST_LINE = """
SELECT number, state FROM delivery_log WHERE message_id = :message AND subscription_id = :subscription
ORDER BY number DESC LIMIT 1
"""

# The first of its kind.
INSERT_RECEIPT = """
INSERT INTO receipts (message_id, subscription_id, kind, at, detail, gone)
VALUES (:message, :subscription, :kind, :at, :detail, :gone) ON CONFLICT DO NOTHING
"""

REPLACE_RECEIPT = """
UPDATE receipts SET at = :at, detail = :detail, gone = :gone
WHERE message_id = :message AND subscription_id = :subscription AND kind = :kind
"""

# How many attempts were used up, and what the last one went to. Nothing when there is nobody any more whom it concerns.
FIND_REPORTED = """
SELECT q.project_id,
    (
        SELECT count(*) FROM delivery_log
        WHERE message_id = :message AND subscription_id = :subscription
            AND outcome IN (SELECT value FROM json_each(:used))
    ) AS attempts,
    (
        SELECT target FROM delivery_log
        WHERE message_id = :message AND subscription_id = :subscription AND outcome IS NOT NULL
        ORDER BY number DESC LIMIT 1
    ) AS target
FROM messages AS m CROSS JOIN queues AS q ON q.id = m.queue_id
WHERE m.id = :message AND (q.deleted_at IS NULL OR m.kind <> 0)
    AND EXISTS (SELECT 1 FROM subscriptions WHERE id = :subscription AND coalesce(deleted_at, 0) = 0)
"""

RECEIPTS = """
SELECT r.message_id, r.subscription_id, r.kind, r.at, r.detail, r.gone FROM json_each(?) AS asked
CROSS JOIN receipts AS r ON r.message_id = asked.value ->> 0 AND r.subscription_id = asked.value ->> 1
ORDER BY asked.key, r.at, r.kind
"""

# -- long work -----------------------------------------------------------------------------------------------------------------

_JOB = "id, project, kind, details, created_at, takes, worker_id, held_until, error, message_id, after_id, last_id"
"""What `jobs` makes a job of."""

LAST_JOB_ID = "SELECT coalesce(max(id), 0) FROM jobs"

FIND_QUEUE_OF_MESSAGE = "SELECT queue_id FROM messages WHERE id = ?"

PROJECT_OF_QUEUE = "SELECT project FROM queues WHERE id = ?"

INSERT_JOB = """
INSERT INTO jobs (id, project, kind, details, created_at, message_id, queue_id, after_id, last_id, cancelled)
VALUES (:id, :project, :kind, :details, :now, :message, :queue, :after, :last, :cancelled)
"""

GET_JOB = f"SELECT {_JOB} FROM jobs WHERE id = ?"  # noqa: S608 - only constants

LIST_JOBS, LIST_OPEN_JOBS, LIST_FAILED_JOBS = (
    f"SELECT {_JOB} FROM jobs WHERE id > ? {condition} ORDER BY id LIMIT ?"  # noqa: S608 - only constants
    for condition in ("", "AND failed_at IS NULL", "AND failed_at IS NOT NULL")
)

FIND_FREE_JOB = "SELECT id FROM jobs WHERE failed_at IS NULL AND held_until <= ? ORDER BY id LIMIT 1"

# Who goes on holding it keeps the page that is under way; of another holder, the page is free. The condition says all that has
# to be true still when the row is locked.
HOLD_JOB = f"""
UPDATE jobs SET
    lease = CASE WHEN worker_id = :worker THEN lease END,
    due_at = CASE WHEN worker_id = :worker THEN due_at ELSE 0 END,
    takes = takes + CASE WHEN worker_id = :worker AND held_until > 0 THEN 0 ELSE 1 END,
    worker_id = :worker, held_until = :until
WHERE id = :job AND failed_at IS NULL AND (held_until <= :now OR worker_id = :worker)
RETURNING {_JOB}
"""  # noqa: S608 - only constants

LET_JOB_GO = "UPDATE jobs SET held_until = 0 WHERE id = :job AND worker_id = :worker"

_IS_HELD = "id = :job AND worker_id = :worker AND held_until > :now"

FINISH_JOB = f"DELETE FROM jobs WHERE {_IS_HELD}"  # noqa: S608 - only constants

ADVANCE_JOB = f"UPDATE jobs SET details = :details WHERE {_IS_HELD}"  # noqa: S608 - only constants

FAIL_JOB = f"UPDATE jobs SET held_until = 0, error = :error, failed_at = :now WHERE {_IS_HELD}"  # noqa: S608 - only constants

RETRY_JOB = "UPDATE jobs SET error = NULL, failed_at = NULL WHERE id = ? AND failed_at IS NOT NULL"

TAKE_PAGES = """
UPDATE jobs SET lease = :token, due_at = :until
WHERE id IN (SELECT value FROM json_each(:asked)) AND kind = :kind AND worker_id = :worker AND held_until > :now
    AND (lease IS NULL OR due_at <= :now)
RETURNING id, message_id, after_id, last_id
"""

HELD_RANGES = """
SELECT j.id FROM json_each(:asked) AS asked CROSS JOIN jobs AS j ON j.id = asked.value
WHERE j.kind = :kind AND j.worker_id = :worker AND j.held_until > :now
"""

# The queue of its message, while it is there.
JOB_TO_CUT = """
SELECT j.project, j.message_id, j.queue_id, j.after_id, j.cancelled, q.name AS queue
FROM jobs AS j LEFT JOIN queues AS q ON q.id = j.queue_id AND q.deleted_at IS NULL
WHERE j.id = :job AND j.kind = :kind AND j.worker_id = :worker AND j.held_until > :now
"""

END_OF_RANGE = """
SELECT id FROM subscriptions
WHERE project = ? AND queue = ? AND deleted_at IS NULL AND id > ? ORDER BY id LIMIT 1 OFFSET ?
"""

ADVANCE_CUT = "UPDATE jobs SET after_id = :after WHERE id = :job"

REMOVE_JOB = "DELETE FROM jobs WHERE id = :job"

REMOVE_FAILED_JOBS = """
DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE failed_at <= ? ORDER BY failed_at, id LIMIT ?)
"""

# -- members -------------------------------------------------------------------------------------------------------------------

BEAT = "UPDATE workers SET seen_at = ? WHERE id = ?"

# A worker's tokens are a range of numbers.
MEMBERS = """
SELECT w.id, w.host, w.pid, w.version, w.joined_at, w.seen_at,
    (SELECT count(*) FROM outbox WHERE lease >= w.id * :tokens AND lease < (w.id + 1) * :tokens) AS entries,
    (SELECT count(*) FROM deliveries WHERE lease >= w.id * :tokens AND lease < (w.id + 1) * :tokens) AS rows_,
    (SELECT count(*) FROM lanes WHERE lease >= w.id * :tokens AND lease < (w.id + 1) * :tokens) AS lanes,
    (SELECT count(*) FROM jobs WHERE worker_id = w.id AND held_until > 0 AND held_until > :now) AS jobs
FROM workers AS w ORDER BY w.id
"""

# -- again, or not at all ------------------------------------------------------------------------------------------------------

# Nobody else may change these before this transaction has ended.
HOLD_MESSAGE = "SELECT id FROM messages WHERE id = :message AND prune_at > 0"

HOLD_ENTRY = "SELECT message_id FROM outbox WHERE message_id = :message"

HOLD_JOBS = "SELECT id FROM jobs WHERE message_id = :message"

HOLD_ROW = "SELECT message_id FROM deliveries WHERE message_id = :message AND subscription_id = :subscription"

# The message, also one that is over, and what is open of this one delivery; lines: so many are in its log, the last one's
# state is ``state``.
FIND_DELIVERY = """
SELECT
    m.id, m.kind, m.expires_at, length(m.body) > 0 AS body, q.project_id, d.lines AS row_lines,
    (o.message_id IS NOT NULL AND coalesce(o.after_id, 0) < :subscription) OR EXISTS (
        SELECT 1 FROM jobs WHERE message_id = m.id AND coalesce(after_id, 0) < :subscription
            AND (last_id IS NULL OR last_id >= :subscription)
    ) AS covered,
    (SELECT max(number) FROM delivery_log WHERE message_id = m.id AND subscription_id = :subscription) AS lines,
    (SELECT state FROM delivery_log WHERE message_id = m.id AND subscription_id = :subscription
        ORDER BY number DESC LIMIT 1) AS state
FROM messages AS m CROSS JOIN queues AS q ON q.id = m.queue_id AND q.deleted_at IS NULL
LEFT JOIN outbox AS o ON o.message_id = m.id
LEFT JOIN deliveries AS d ON d.message_id = m.id AND d.subscription_id = :subscription
WHERE m.id = :message
"""

# That the row is there is looked up anew before housekeeping removes what it has seen.
REVIVE_MESSAGE = """
UPDATE messages SET prune_at = CASE WHEN expires_at <= :now THEN :look_at ELSE min(prune_at, :look_at) END
WHERE id = :message
"""

# Whoever takes it next has to ask what is known of it.
CANCEL_OF_ENTRY = "UPDATE outbox SET takes = takes + 1, cancelled = cancelled + 1 WHERE message_id = ?"

CANCEL_OF_JOB = """
UPDATE jobs SET cancelled = cancelled + 1
WHERE message_id = :message AND coalesce(after_id, 0) < :subscription AND (last_id IS NULL OR last_id >= :subscription)
"""

# -- ending leases -------------------------------------------------------------------------------------------------------------

# Given back before anything of it was sent: it counts as not taken.
GIVE_BACK_ENTRY = "UPDATE outbox SET due_at = 0, lease = NULL, takes = takes - 1 WHERE message_id = ? AND lease = ?"

GIVE_BACK_ROW = "UPDATE deliveries SET due_at = 0, lease = NULL WHERE message_id = ? AND subscription_id = ? AND lease = ?"

RELEASE_ENTRIES = "UPDATE outbox SET due_at = 0, lease = NULL WHERE lease >= ? AND lease < ?"

RELEASE_ROWS = "UPDATE deliveries SET due_at = 0, lease = NULL WHERE lease >= ? AND lease < ?"

RELEASE_LANES = "UPDATE lanes SET due_at = 0, lease = NULL WHERE lease >= ? AND lease < ?"

RELEASE_PAGES = "UPDATE jobs SET due_at = 0, lease = NULL WHERE lease >= ? AND lease < ?"

RELEASE_JOBS = "UPDATE jobs SET held_until = 0 WHERE worker_id = ? AND held_until > 0"

GIVE_BACK_PAGE = "UPDATE jobs SET due_at = 0, lease = NULL WHERE id = ? AND lease = ?"

# -- matching ------------------------------------------------------------------------------------------------------------------

KNOWN = """
SELECT subscription_id FROM delivery_log WHERE message_id = :message AND subscription_id > :after AND subscription_id <= :last
UNION
SELECT subscription_id FROM deliveries WHERE message_id = :message AND subscription_id > :after AND subscription_id <= :last
"""

# Requests to confirm belong to their subscriptions, which outlive the queue.
LOAD_MESSAGES = f"""
SELECT q.project, q.name, {_MESSAGE}
FROM json_each(?) AS asked CROSS JOIN messages AS m ON m.id = asked.value JOIN queues AS q ON q.id = m.queue_id
WHERE q.deleted_at IS NULL OR m.kind <> 0
"""  # noqa: S608 - only constants

_SUBSCRIPTION = """
s.id, s.project, s.queue, s.subscriber, s.ttl, s.options, s.created_at, s.expires_at, s.confirmed, s.secret, s.secret_made,
s.disabled_at, s.disabled_reason, s.disabled_enable_by, s.strikes, s.failing_since
"""

# One that was only found expired was not deleted: its deliveries end as expired.
LOAD_SUBSCRIPTIONS = f"""
SELECT {_SUBSCRIPTION} FROM json_each(?) AS asked CROSS JOIN subscriptions AS s ON s.id = asked.value
WHERE s.deleted_at IS NULL OR s.deleted_at = s.expires_at
"""  # noqa: S608 - only constants

LIST_SUBSCRIPTIONS = f"""
SELECT {_SUBSCRIPTION} FROM subscriptions AS s
WHERE s.project = ? AND s.queue = ? AND s.id > ? AND s.deleted_at IS NULL AND (s.expires_at IS NULL OR s.expires_at > ?)
ORDER BY s.id LIMIT ?
"""  # noqa: S608 - only constants

LIST_SUBSCRIPTION_IDS = """
SELECT s.id FROM subscriptions AS s
WHERE s.project = ? AND s.queue = ? AND s.deleted_at IS NULL AND (s.expires_at IS NULL OR s.expires_at > ?)
ORDER BY s.id LIMIT ?
"""

# -- did it arrive? ------------------------------------------------------------------------------------------------------------

# A range of each delivery's own lines: it costs the same however many there are.
_LAST_LINES = """
SELECT
    l.message_id, l.subscription_id, l.number, l.at, l.state, l.outcome, l.status, l.duration, l.detail, l.target,
    {} AS exchange
FROM json_each(?) AS asked
CROSS JOIN delivery_log AS l
    ON l.message_id = asked.value ->> 0 AND l.subscription_id = asked.value ->> 1 AND l.number > (
        SELECT max(number) FROM delivery_log
        WHERE message_id = asked.value ->> 0 AND subscription_id = asked.value ->> 1
    ) - ?
ORDER BY asked.key, l.number
"""

LAST_LINES, LAST_LINES_WITH_EXCHANGES = (_LAST_LINES.format(exchange) for exchange in ("NULL", "l.exchange"))

# By the id that it has outside; the newest, where another service used an id twice.
FIND_PUBLIC_MESSAGE = """
SELECT max(id) FROM (
    SELECT m.id FROM messages AS m INDEXED BY ix_messages_foreign CROSS JOIN queues AS q ON q.id = m.queue_id
    WHERE m.foreign_id = :public AND q.project = :project AND q.name = :name AND m.prune_at > 0
    UNION ALL
    SELECT m.id FROM messages AS m JOIN queues AS q ON q.id = m.queue_id
    WHERE m.id = :message AND m.foreign_id IS NULL AND q.project = :project AND q.name = :name AND m.prune_at > 0
)
"""

# -- how much waits ------------------------------------------------------------------------------------------------------------

# What is not due is parked. Without a condition SQLite counts pages' worth at a time.
COUNT_WAITING = """
SELECT
    (SELECT count(*) FROM outbox) AS outbox,
    (SELECT count(*) FROM deliveries) AS deliveries,
    (SELECT count(*) FROM deliveries INDEXED BY ix_deliveries_due WHERE due_at IS NOT NULL) AS due,
    (SELECT count(*) FROM deliveries INDEXED BY ix_deliveries_lease WHERE lease IS NOT NULL) AS leased,
    (SELECT count(*) FROM lanes INDEXED BY ix_lanes_open WHERE trips > 0) AS breakers,
    (SELECT count(*) FROM jobs INDEXED BY ix_jobs_open WHERE failed_at IS NULL) AS jobs,
    (SELECT count(*) FROM jobs INDEXED BY ix_jobs_failed WHERE failed_at IS NOT NULL) AS failed_jobs
"""

# Of each project the oldest that is due at once, and the one that has been due for longest; and all that are leased.
# What is delayed has its expiry a ttl after the end of the delay.
OLDEST_ENTRY = """
WITH RECURSIVE walk(project) AS (
    SELECT min(project_id) FROM outbox
    UNION ALL
    SELECT (SELECT min(project_id) FROM outbox WHERE project_id > walk.project) FROM walk WHERE walk.project IS NOT NULL
), first(id) AS (
    SELECT (SELECT min(message_id) FROM outbox WHERE project_id = walk.project AND due_at = 0) FROM walk
    UNION ALL
    SELECT (
        SELECT message_id FROM outbox WHERE project_id = walk.project AND due_at > 0 AND due_at <= :now
        ORDER BY due_at, message_id LIMIT 1
    ) FROM walk
    UNION ALL
    SELECT message_id FROM outbox WHERE lease IS NOT NULL
)
SELECT min(max(m.created_at, m.expires_at - m.ttl)) FROM first CROSS JOIN messages AS m ON m.id = first.id
"""

# -- housekeeping --------------------------------------------------------------------------------------------------------------

REMOVE_LINES = """
DELETE FROM delivery_log WHERE (message_id, subscription_id, number) IN (
    SELECT l.message_id, l.subscription_id, l.number FROM json_each(?) AS asked
    CROSS JOIN delivery_log AS l ON l.message_id = asked.value LIMIT ?
)
"""

REMOVE_RECEIPTS = """
DELETE FROM receipts WHERE (message_id, subscription_id, kind) IN (
    SELECT r.message_id, r.subscription_id, r.kind FROM json_each(?) AS asked
    CROSS JOIN receipts AS r ON r.message_id = asked.value LIMIT ?
)
"""

# What was delivered long ago, of messages that nobody is matching: unless it is being delivered again.
DELIVERED_BEFORE = """
SELECT l.message_id, l.subscription_id, l.at FROM json_each(:asked) AS asked
CROSS JOIN delivery_log AS l ON l.message_id = asked.value
WHERE l.state = :delivered AND l.at <= :before
    AND NOT EXISTS (
        SELECT 1 FROM delivery_log AS n
        WHERE n.message_id = l.message_id AND n.subscription_id = l.subscription_id AND n.number > l.number
    )
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE message_id = l.message_id AND subscription_id = l.subscription_id)
    AND NOT EXISTS (SELECT 1 FROM outbox WHERE message_id = l.message_id)
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE message_id = l.message_id)
ORDER BY asked.key, l.subscription_id LIMIT :limit
"""

DELIVERED_SINCE = """
SELECT l.message_id, min(l.at) FROM json_each(:asked) AS asked CROSS JOIN delivery_log AS l ON l.message_id = asked.value
WHERE l.state = :delivered AND l.at > :before
GROUP BY l.message_id
"""

FORGET_DELIVERED = """
DELETE FROM delivery_log WHERE (message_id, subscription_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))
"""

FORGET_RECEIPTS = """
DELETE FROM receipts WHERE (message_id, subscription_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))
"""

# Nobody else may change them before this transaction has ended; not those that somebody is changing.
HOLD_MESSAGES = "SELECT id FROM messages WHERE id IN (SELECT value FROM json_each(?))"

# Unless something has happened to it since it was looked at. Readers pass over what is expired by the index only once it has
# deleted_at.
STORE_LOOK = """
UPDATE messages SET
    prune_at = :prune_at, ended_at = CASE WHEN :ended_at > coalesce(ended_at, 0) THEN :ended_at ELSE ended_at END,
    deleted_at = CASE WHEN expires_at <= :now THEN coalesce(deleted_at, expires_at) ELSE deleted_at END,
    body = CASE WHEN :drop_body THEN x'' ELSE body END
WHERE id = :message AND prune_at = :seen
"""

# Nobody gives them anything before this transaction has ended; not those that somebody is giving something.
HOLD_PROJECTS = "SELECT id FROM projects WHERE id IN (SELECT value FROM json_each(?))"

REMOVE_UNUSED_PROJECTS = """
DELETE FROM projects WHERE id IN (SELECT value FROM json_each(?))
    AND NOT EXISTS (SELECT 1 FROM queues WHERE project_id = projects.id)
    AND NOT EXISTS (SELECT 1 FROM lanes WHERE project = projects.name)
"""

REMOVE_ENDED_WINDOWS = """
DELETE FROM windows WHERE id IN (SELECT id FROM windows WHERE ends_at <= ? ORDER BY ends_at LIMIT ?)
"""

REMOVE_ALERTS = """
DELETE FROM alerts WHERE (project, cause) IN (SELECT project, cause FROM alerts WHERE prune_at <= ? LIMIT ?)
"""

IDLE_LANES = f"""
SELECT l.id FROM lanes AS l INDEXED BY ix_lanes_open WHERE l.trips > 0 AND l.probe_at <= ? AND {_UNUSED} LIMIT ?
"""  # noqa: S608 - only constants

# Looks again: nobody parks anything there while these are held, but somebody may have done so just before.
REMOVE_IDLE_LANES = f"DELETE FROM lanes AS l WHERE l.id IN (SELECT value FROM json_each(?)) AND {_UNUSED}"  # noqa: S608

# For the workers to end: due at once, and in no lane.
HAND_OVER_ROW = """
UPDATE deliveries SET due_at = 0, lane_id = NULL, ends_at = ? WHERE message_id = ? AND subscription_id = ?
"""

KEEP_ROW = "UPDATE deliveries SET expires_at = ?, ends_at = NULL WHERE message_id = ? AND subscription_id = ?"

# What has ended, so that readers and consumers need not look for it among the rest.
END_DELAYS = """
UPDATE messages SET free_at = 0 WHERE id IN (
    SELECT id FROM messages INDEXED BY ix_messages_delay
    WHERE free_at > 0 AND free_at <= ? AND claim_id IS NULL AND deleted_at IS NULL LIMIT ?
)
"""

# Those that no message has any more.
REMOVE_CLAIMS = """
DELETE FROM claims WHERE id IN (SELECT value FROM json_each(?))
    AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.claim_id = claims.id AND m.deleted_at IS NULL)
RETURNING id
"""

END_CLAIMS = """
UPDATE messages SET free_at = 0, claim_id = NULL WHERE id IN (
    SELECT m.id FROM json_each(?) AS asked
    CROSS JOIN messages AS m INDEXED BY ix_messages_claim ON m.claim_id = asked.value AND m.deleted_at IS NULL
    LIMIT ?
)
"""
