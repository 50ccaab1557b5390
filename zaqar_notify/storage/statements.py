"""The hot statements, in the driver's own SQL (SQLite): building them with Core costs a third of the time of publishing.

``json_each`` stands for a list of values of any length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any


class Rows:
    """An INSERT of any number of rows, many in one statement.

    The driver gives up the interpreter's lock, and takes it again, for each statement; beside a busy thread that costs more
    than the row does.
    """

    _MOST = 50

    def __init__(self, before: str, columns: int, after: str = "") -> None:
        self.columns = columns
        self._before = before
        self._row = f"({', '.join('?' * columns)})"
        self._after = after
        self._full = self._text(self._MOST)

    def _text(self, count: int) -> str:
        return f"{self._before} {', '.join([self._row] * count)} {self._after}"

    def of(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """The statements, with their parameters."""
        for start in range(0, len(rows), self._MOST):
            some = rows[start : start + self._MOST]
            text = self._full if len(some) == self._MOST else self._text(len(some))
            yield text, tuple(itertools.chain.from_iterable(some))


# -- publishing ----------------------------------------------------------------------------------------------------------------

FIND_QUEUE = "SELECT id FROM queues WHERE project = ? AND name = ? AND deleted_at IS NULL"

INSERT_QUEUE = "INSERT INTO queues (project, name, metadata, created_at) VALUES (?, ?, ?, ?) RETURNING id"

FIND_QUEUE_AND_LAST_MESSAGE = f"""
SELECT
    ({FIND_QUEUE}),
    max(coalesce((SELECT max(id) FROM messages), 0), coalesce((SELECT last FROM id_floors WHERE name = 'messages'), 0))
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

INSERT_ENTRIES = Rows("INSERT INTO outbox (message_id, queue_id, due_at, takes) VALUES", columns=4)

# -- taking --------------------------------------------------------------------------------------------------------------------

# What need not wait is due at 0: also when the clock is set back. Among its like the oldest message is first.

ANY_ENTRY_DUE = "SELECT 1 FROM outbox WHERE due_at <= ? LIMIT 1"

ANY_ROW_DUE = "SELECT 1 FROM deliveries WHERE due_at <= ? LIMIT 1"

ANY_LANE_DUE = "SELECT 1 FROM lanes WHERE due_at <= ? LIMIT 1"

# Entries whose lease has ended go before those that are due at once: however many of these come in, those are not left behind.
TAKE_ENTRIES = """
UPDATE outbox SET due_at = ?, lease = ?, takes = takes + 1
WHERE message_id IN (
    SELECT message_id FROM (SELECT message_id FROM outbox WHERE due_at > 0 AND due_at <= ? ORDER BY due_at, message_id LIMIT ?)
    UNION ALL
    SELECT message_id FROM (SELECT message_id FROM outbox WHERE due_at = 0 ORDER BY message_id LIMIT ?)
    LIMIT ?
)
RETURNING message_id, after_id, takes
"""

TAKE_ROWS = """
UPDATE deliveries SET due_at = ?, lease = ?
WHERE (message_id, subscription_id) IN (
    SELECT message_id, subscription_id FROM deliveries WHERE due_at <= ? ORDER BY due_at, message_id LIMIT ?
)
RETURNING message_id, subscription_id, attempts, lines, lane_id
"""

TAKE_LANES = """
UPDATE lanes SET due_at = ?, lease = ?
WHERE id IN (SELECT id FROM lanes WHERE due_at <= ? ORDER BY due_at, id LIMIT ?)
RETURNING project, name
"""

FIND_LANE = "SELECT id, lease FROM lanes WHERE project = ? AND name = ?"

TAKE_PARKED = """
UPDATE deliveries SET due_at = ?, lease = ?
WHERE (message_id, subscription_id) IN (
    SELECT message_id, subscription_id FROM deliveries
    WHERE lane_id = ? AND due_at IS NULL ORDER BY message_id, subscription_id LIMIT ?
)
RETURNING message_id, subscription_id, attempts, lines, lane_id
"""

DELETE_EMPTY_LANE = """
DELETE FROM lanes
WHERE id = ? AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.lane_id = lanes.id AND deliveries.due_at IS NULL)
"""

NAME_LANES = "SELECT id, project, name FROM lanes WHERE id IN (SELECT value FROM json_each(?))"

# -- settling ------------------------------------------------------------------------------------------------------------------

# CROSS JOIN keeps the list outside: one look-up for each of its values.
LEASED_ENTRIES = """
SELECT o.message_id, o.lease FROM json_each(?) AS asked CROSS JOIN outbox AS o ON o.message_id = asked.value
WHERE o.lease IS NOT NULL
"""

LEASED_ROWS = """
SELECT d.message_id, d.subscription_id, d.lease FROM json_each(?) AS asked
CROSS JOIN deliveries AS d
    ON d.message_id = asked.value ->> 0 AND d.subscription_id = asked.value ->> 1
WHERE d.lease IS NOT NULL
"""

EXPIRIES = "SELECT m.id, m.expires_at FROM json_each(?) AS asked CROSS JOIN messages AS m ON m.id = asked.value"

# Nothing happens when the line is there: it was stored by a commit that was reported as failed, and is settled again.
INSERT_LINES = Rows(
    "INSERT INTO delivery_log (message_id, subscription_id, number, at, state, outcome, status, duration, detail) VALUES",
    columns=9,
    after="ON CONFLICT DO NOTHING",
)

PUT_ROWS = Rows(
    "INSERT INTO deliveries (message_id, subscription_id, lane_id, due_at, lease, attempts, lines, expires_at) VALUES",
    columns=8,
    after="""
ON CONFLICT (message_id, subscription_id) DO UPDATE SET
    lane_id = excluded.lane_id, due_at = excluded.due_at, lease = excluded.lease,
    attempts = excluded.attempts, lines = excluded.lines
""",
)

DELETE_ROW = "DELETE FROM deliveries WHERE message_id = ? AND subscription_id = ?"

INSERT_LANE = "INSERT INTO lanes (project, name, due_at) VALUES (?, ?, 0) RETURNING id"

DISABLE = """
UPDATE subscriptions SET disabled_at = ?, disabled_reason = ?, disabled_enable_by = ?
WHERE id = ? AND disabled_at IS NULL AND deleted_at IS NULL
"""

PROJECTS = """
SELECT m.id, q.project FROM json_each(?) AS asked
CROSS JOIN messages AS m ON m.id = asked.value JOIN queues AS q ON q.id = m.queue_id
"""

CLOSE_ENTRY = "DELETE FROM outbox WHERE message_id = ? AND lease = ?"

# The next page of subscribers is new to everyone: it was never taken.
ADVANCE_ENTRY = "UPDATE outbox SET after_id = ?, due_at = 0, lease = NULL, takes = 0 WHERE message_id = ? AND lease = ?"

# -- ending leases -------------------------------------------------------------------------------------------------------------

# Given back before anything of it was sent: it counts as not taken.
GIVE_BACK_ENTRY = "UPDATE outbox SET due_at = 0, lease = NULL, takes = takes - 1 WHERE message_id = ? AND lease = ?"

GIVE_BACK_ROW = "UPDATE deliveries SET due_at = 0, lease = NULL WHERE message_id = ? AND subscription_id = ? AND lease = ?"

RELEASE_ENTRIES = "UPDATE outbox SET due_at = 0, lease = NULL WHERE lease >= ? AND lease < ?"

RELEASE_ROWS = "UPDATE deliveries SET due_at = 0, lease = NULL WHERE lease >= ? AND lease < ?"

RELEASE_LANES = "UPDATE lanes SET due_at = 0, lease = NULL WHERE lease >= ? AND lease < ?"

# -- matching ------------------------------------------------------------------------------------------------------------------

KNOWN = """
SELECT subscription_id FROM delivery_log WHERE message_id = ? AND subscription_id > ?
UNION SELECT subscription_id FROM deliveries WHERE message_id = ? AND subscription_id > ?
"""

LOAD_MESSAGES = """
SELECT m.id, q.project, q.name, m.body, m.ttl, m.created_at, m.expires_at, m.attributes, m.parent_id, m.client_id, m.version
FROM json_each(?) AS asked CROSS JOIN messages AS m ON m.id = asked.value JOIN queues AS q ON q.id = m.queue_id
WHERE q.deleted_at IS NULL
"""

_SUBSCRIPTION = """
s.id, s.project, s.queue, s.subscriber, s.ttl, s.options, s.created_at, s.expires_at, s.confirmed, s.secret, s.secret_made,
s.disabled_at, s.disabled_reason, s.disabled_enable_by
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

# -- did it arrive? ------------------------------------------------------------------------------------------------------------

# A range of each delivery's own lines: it costs the same however many there are.
LAST_LINES = """
SELECT l.message_id, l.subscription_id, l.number, l.at, l.state, l.outcome, l.status, l.duration, l.detail
FROM json_each(?) AS asked
CROSS JOIN delivery_log AS l
    ON l.message_id = asked.value ->> 0 AND l.subscription_id = asked.value ->> 1 AND l.number > (
        SELECT max(number) FROM delivery_log
        WHERE message_id = asked.value ->> 0 AND subscription_id = asked.value ->> 1
    ) - ?
ORDER BY asked.key, l.number
"""

# -- housekeeping --------------------------------------------------------------------------------------------------------------

REMOVE_LINES = """
DELETE FROM delivery_log WHERE (message_id, subscription_id, number) IN (
    SELECT l.message_id, l.subscription_id, l.number FROM json_each(?) AS asked
    CROSS JOIN delivery_log AS l ON l.message_id = asked.value LIMIT ?
)
"""
