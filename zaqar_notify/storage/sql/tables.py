"""The schema. Changes to it go into a new revision under migrations/versions as well; a test compares the two.

Instants are epoch seconds; a ``due_at`` of 0 is at once, whatever the clock says. ``prune_at`` is when housekeeping looks at a
thing next, so that looking costs the same however much is kept. The indexes are what makes taking work cost the same whatever
is waiting, in flight or parked.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

REVISION = "0005"
"""The newest revision under migrations/versions: what this version of the code needs."""

metadata = MetaData()

# SQLite makes only an INTEGER primary key the key of the table itself.
_Id = BigInteger().with_variant(Integer(), "sqlite")
_ZERO = text("0")
_FALSE = false()


def _name(length: int | None = None) -> TypeEngine[str]:
    """Compared by code points, on every engine and with every locale."""
    return (Text() if length is None else String(length)).with_variant(String(length, collation="C"), "postgresql")


def _index(name: str, *columns: Any, where: ColumnElement[bool] | None = None) -> Index:
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)


id_floors = Table(
    "id_floors",
    metadata,
    Column("name", String(32), primary_key=True),
    # The greatest id of this table that pruning has removed: ids have to rise above it too.
    Column("last", _Id, nullable=False),
)

# Work is shared out by project; a number is cheaper to index than a name.
projects = Table(
    "projects",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _name(256), nullable=False),
    UniqueConstraint("name", name="uq_projects_name"),
    sqlite_autoincrement=True,
)

queues = Table(
    "queues",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("project", _name(256), nullable=False),
    Column("name", _name(64), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    # A deleted queue stays as long as it has messages: they belong to it and not to a later queue of the same name.
    Column("deleted_at", Double),
    Column("prune_at", Double),
    Column("project_id", _Id, nullable=False, server_default=_ZERO),
    sqlite_autoincrement=True,
)
_index("ix_queues_project", queues.c.project_id)
Index(
    "ix_queues_name",
    queues.c.project,
    queues.c.name,
    unique=True,
    sqlite_where=queues.c.deleted_at.is_(None),
    postgresql_where=queues.c.deleted_at.is_(None),
)
_index("ix_queues_prune", queues.c.prune_at, where=queues.c.prune_at.is_not(None))

messages = Table(
    "messages",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("queue_id", _Id, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("attributes", Text),
    Column("parent_id", _Id),
    Column("client_id", String(255)),
    Column("ttl", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    # Since when readers do not see it any more: deleted, or found expired by housekeeping.
    Column("deleted_at", Double),
    Column("version", SmallInteger, nullable=False),
    # 0: its retention is over and it is being removed.
    Column("prune_at", Double, nullable=False),
    # When its delay or its claim ends; 0: there is none. A plain message has the defaults of this and the next columns.
    Column("free_at", Double, nullable=False, server_default=_ZERO),
    # The last claim that has, or had, it.
    Column("claim_id", _Id),
    # How often it was claimed.
    Column("claims", Integer, nullable=False, server_default=_ZERO),
    Column("kind", SmallInteger, nullable=False, server_default=_ZERO),
    Column("foreign_id", String(255)),
    # The body is a token of the keyring.
    Column("encrypted", Boolean, nullable=False, server_default=_FALSE),
    # When the last of those deliveries ended whose lines are not in the log any more, although those of others are.
    Column("ended_at", Double),
    # A plain message has none of these.
    Column("collapse_key", Text),
    Column("priority", SmallInteger),
    Column("language", Text),
)
# With the expiry, so that counting, and passing over what is expired, reads nothing but the index.
_index(
    "ix_messages_queue",
    messages.c.queue_id,
    messages.c.deleted_at,
    messages.c.free_at,
    messages.c.id,
    messages.c.expires_at,
)
_index("ix_messages_prune", messages.c.prune_at)
# A plain message that is posted is in none of these.
_live = messages.c.deleted_at.is_(None)
_delayed = (messages.c.free_at > text("0")) & messages.c.claim_id.is_(None) & _live
_claimed = messages.c.claim_id.is_not(None) & _live
_index("ix_messages_delayed", messages.c.queue_id, messages.c.id, where=_delayed)
_index("ix_messages_delay", messages.c.free_at, where=_delayed)
_index("ix_messages_claimed", messages.c.queue_id, messages.c.id, where=_claimed)
_index("ix_messages_claim", messages.c.claim_id, where=_claimed)
Index(
    "ix_messages_encrypted",
    messages.c.id,
    sqlite_where=messages.c.encrypted > text("0"),
    postgresql_where=text("encrypted"),
)
# Not unique: another service may use an id twice, and that is no reason to refuse a message.
_index("ix_messages_foreign", messages.c.foreign_id, where=messages.c.foreign_id.is_not(None))

claims = Table(
    "claims",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("queue_id", _Id, nullable=False),
    Column("ttl", Integer, nullable=False),
    Column("grace", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    # 0: it was released.
    Column("expires_at", Double, nullable=False),
)
_index("ix_claims_expires", claims.c.expires_at)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("project", _name(256), nullable=False),
    Column("queue", _name(64), nullable=False),
    Column("subscriber", _name(), nullable=False),
    Column("ttl", BigInteger),
    Column("options", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("confirmed", Boolean, nullable=False),
    Column("secret", LargeBinary),
    Column("secret_made", Boolean, nullable=False),
    Column("disabled_at", Double),
    Column("disabled_reason", Text),
    Column("disabled_enable_by", String(16)),
    # Equal to expires_at: it was not deleted but has expired.
    Column("deleted_at", Double),
    Column("prune_at", Double),
    Column("strikes", Integer, nullable=False, server_default=_ZERO),
    Column("failing_since", Double),
)
Index(
    "ix_subscriptions_subscriber",
    subscriptions.c.project,
    subscriptions.c.queue,
    subscriptions.c.subscriber,
    unique=True,
    sqlite_where=subscriptions.c.deleted_at.is_(None),
    postgresql_where=subscriptions.c.deleted_at.is_(None),
)
_index(
    "ix_subscriptions_queue",
    subscriptions.c.project,
    subscriptions.c.queue,
    subscriptions.c.id,
    where=subscriptions.c.deleted_at.is_(None),
)
_index("ix_subscriptions_prune", subscriptions.c.prune_at, where=subscriptions.c.prune_at.is_not(None))
_index("ix_subscriptions_failing", subscriptions.c.id, where=subscriptions.c.failing_since.is_not(None))

outbox = Table(
    "outbox",
    metadata,
    Column("message_id", _Id, primary_key=True, autoincrement=False),
    Column("queue_id", _Id, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("lease", _Id),
    # How often it was taken, and ``cancelled``.
    Column("takes", Integer, nullable=False),
    Column("after_id", _Id),
    Column("project_id", _Id, nullable=False, server_default=_ZERO),
    # So many of its deliveries were cancelled before they were matched: the log knows them already.
    Column("cancelled", Integer, nullable=False, server_default=_ZERO),
)
_index("ix_outbox_due", outbox.c.project_id, outbox.c.due_at, outbox.c.message_id)
_index("ix_outbox_lease", outbox.c.lease, where=outbox.c.lease.is_not(None))
_index("ix_outbox_queue", outbox.c.queue_id, outbox.c.message_id)

deliveries = Table(
    "deliveries",
    metadata,
    Column("message_id", _Id, nullable=False),
    Column("subscription_id", _Id, nullable=False),
    Column("lane_id", _Id),
    Column("due_at", Double),
    Column("lease", _Id),
    Column("attempts", Integer, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("project_id", _Id, nullable=False, server_default=_ZERO),
    # So many lines were in its log when it was redelivered; its expiry is its own then. 0: it is no redelivery, and its expiry
    # is that of the message.
    Column("again", Integer, nullable=False, server_default=_ZERO),
    # It has expired and was handed to the workers: housekeeping ends it then, unless one of them has done so.
    Column("ends_at", Double),
    # The window that it is held in, or was released from; and for what a later message takes its place while it is held.
    Column("window_id", _Id),
    Column("window_key", String(64)),
    # Which address of its subscription it goes to; null: the first.
    Column("target", SmallInteger),
    # JSON: at, detail and gone of the receipt that says that it has failed after all.
    Column("report", Text),
    PrimaryKeyConstraint("message_id", "subscription_id"),
    sqlite_with_rowid=False,
)
_index(
    "ix_deliveries_due",
    deliveries.c.project_id,
    deliveries.c.due_at,
    deliveries.c.message_id,
    where=deliveries.c.due_at.is_not(None),
)
_index(
    "ix_deliveries_lane",
    deliveries.c.lane_id,
    deliveries.c.message_id,
    deliveries.c.subscription_id,
    where=deliveries.c.due_at.is_(None),
)
_index("ix_deliveries_lease", deliveries.c.lease, where=deliveries.c.lease.is_not(None))
# Each row is in one of these two: housekeeping does not step over what it has handed to the workers.
_index("ix_deliveries_expires", deliveries.c.expires_at, where=deliveries.c.ends_at.is_(None))
_index("ix_deliveries_ends", deliveries.c.ends_at, where=deliveries.c.ends_at.is_not(None))
_index("ix_deliveries_subscription", deliveries.c.subscription_id, deliveries.c.message_id)
_index(
    "ix_deliveries_window",
    deliveries.c.window_id,
    deliveries.c.subscription_id,
    deliveries.c.window_key,
    where=deliveries.c.window_key.is_not(None),
)

# Of each scope the one that is open, or was the last. One that has ended is replaced by another one.
windows = Table(
    "windows",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("project", _name(256), nullable=False),
    Column("scope", _name(), nullable=False),
    Column("ends_at", Double, nullable=False),
    UniqueConstraint("project", "scope", name="uq_windows_scope"),
    sqlite_autoincrement=True,
)
_index("ix_windows_ends", windows.c.ends_at)

lanes = Table(
    "lanes",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("project", _name(256), nullable=False),
    Column("name", _name(), nullable=False),
    # Of an open one that nobody holds: when it may be probed.
    Column("due_at", Double, nullable=False),
    Column("lease", _Id),
    Column("project_id", _Id, nullable=False, server_default=_ZERO),
    # How often its circuit breaker has opened in a row; 0: it is closed.
    Column("trips", Integer, nullable=False, server_default=_ZERO),
    # When an open one could be probed first, whoever holds it now.
    Column("probe_at", Double),
    # The scheme whose own workers empty it; empty: all others.
    Column("pool", _name(), nullable=False, server_default=text("''")),
    UniqueConstraint("project", "name", name="uq_lanes_name"),
    sqlite_autoincrement=True,
)
_index("ix_lanes_due", lanes.c.pool, lanes.c.project_id, lanes.c.due_at, lanes.c.id)
_index("ix_lanes_open", lanes.c.probe_at, where=lanes.c.trips > text("0"))
_index("ix_lanes_lease", lanes.c.lease, where=lanes.c.lease.is_not(None))

delivery_log = Table(
    "delivery_log",
    metadata,
    Column("message_id", _Id, nullable=False),
    Column("subscription_id", _Id, nullable=False),
    Column("number", Integer, nullable=False),
    # Whole numbers are stored in few bytes: milliseconds since the epoch, and microseconds.
    Column("at", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("outcome", SmallInteger),
    Column("status", Integer),
    Column("duration", BigInteger),
    Column("detail", Text),
    # What went over the wire: JSON, or a token of the keyring where the message is encrypted.
    Column("exchange", LargeBinary),
    # Which address of its subscription it went to; null: the first.
    Column("target", SmallInteger),
    PrimaryKeyConstraint("message_id", "subscription_id", "number"),
    sqlite_with_rowid=False,
)
_index("ix_delivery_log_subscription", delivery_log.c.subscription_id, delivery_log.c.message_id)

# What was heard of a delivery after it was accepted: of each kind one. It is kept as long as the log of the delivery.
receipts = Table(
    "receipts",
    metadata,
    Column("message_id", _Id, nullable=False),
    Column("subscription_id", _Id, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("detail", Text),
    # The target does not exist; null: it says nothing of that.
    Column("gone", Boolean),
    PrimaryKeyConstraint("message_id", "subscription_id", "kind"),
    sqlite_with_rowid=False,
)

alerts = Table(
    "alerts",
    metadata,
    Column("project", _name(256), nullable=False),
    Column("cause", _name(), nullable=False),
    # When the last one was published.
    Column("at", Double, nullable=False),
    Column("prune_at", Double, nullable=False),
    PrimaryKeyConstraint("project", "cause"),
    sqlite_with_rowid=False,
)
_index("ix_alerts_prune", alerts.c.prune_at)

# Long work. What has no lease is due at once; one that nobody holds has a ``held_until`` that is over.
jobs = Table(
    "jobs",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("project", _name(256), nullable=False),
    Column("kind", String(32), nullable=False),
    # JSON: what is not in the columns below.
    Column("details", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    # Who holds it, or held it last.
    Column("worker_id", _Id),
    Column("held_until", Double, nullable=False, server_default=_ZERO),
    # How often a worker took it up.
    Column("takes", Integer, nullable=False, server_default=_ZERO),
    Column("error", Text),
    Column("failed_at", Double),
    # Of a part of a fan-out: the message, its queue, and the subscriptions behind ``after_id``, up to ``last_id``.
    Column("message_id", _Id),
    Column("queue_id", _Id),
    Column("after_id", _Id),
    Column("last_id", _Id),
    # So many of the message's deliveries were cancelled before they were matched: the log knows them already.
    Column("cancelled", Integer, nullable=False, server_default=_ZERO),
    # Of the page that is being worked on.
    Column("lease", _Id),
    Column("due_at", Double, nullable=False, server_default=_ZERO),
)
_index("ix_jobs_open", jobs.c.id, where=jobs.c.failed_at.is_(None))
_index("ix_jobs_failed", jobs.c.failed_at, jobs.c.id, where=jobs.c.failed_at.is_not(None))
_index("ix_jobs_worker", jobs.c.worker_id, where=jobs.c.held_until > text("0"))
_index("ix_jobs_lease", jobs.c.lease, where=jobs.c.lease.is_not(None))
_index("ix_jobs_message", jobs.c.message_id, jobs.c.after_id, where=jobs.c.message_id.is_not(None))
_index("ix_jobs_queue", jobs.c.queue_id, jobs.c.message_id, where=jobs.c.queue_id.is_not(None))

workers = Table(
    "workers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("joined_at", Double, nullable=False),
    Column("host", String(255), nullable=False, server_default=text("''")),
    Column("pid", Integer, nullable=False, server_default=_ZERO),
    Column("version", String(64), nullable=False, server_default=text("''")),
    # When it said for the last time that it lives.
    Column("seen_at", Double, nullable=False, server_default=_ZERO),
    sqlite_autoincrement=True,
)

# One row: which versions of the code may use this schema, so that old and new ones can run side by side.
schema_info = Table(
    "schema_info",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # The oldest revision whose code may.
    Column("oldest", String(32), nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", _name(256), nullable=False),
    # A JSON list.
    Column("roles", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)
