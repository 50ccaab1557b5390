"""The schema that the service began with."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _name(length: int | None = None) -> TypeEngine[str]:
    return (sa.Text() if length is None else sa.String(length)).with_variant(sa.String(length, collation="C"), "postgresql")


def _index(name: str, table: str, columns: list[str], where: str | None = None, *, unique: bool = False) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    _catalogue()
    _ledger()
    op.create_table(
        "workers",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("joined_at", sa.Double(), nullable=False),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        _postgresql()


def _postgresql() -> None:
    """What another engine does not need, or has without."""
    op.execute("CREATE SEQUENCE given_ids")
    # Returns an id below all that are free, of which so many belong to the caller from then on; they are above all that were
    # given out before, and above ``lowest``. The lock is held for this moment only, and not until the transaction ends.
    op.execute("""
CREATE FUNCTION give_ids(lowest bigint, room bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    lock CONSTANT bigint := 'given_ids'::regclass::oid::bigint;
    last bigint;
BEGIN
    PERFORM pg_advisory_lock(lock);
    last := greatest(nextval('given_ids'), lowest);
    PERFORM setval('given_ids', last + room);
    PERFORM pg_advisory_unlock(lock);
    RETURN last;
END
$$
""")
    # Rows come and go here: what is left of them stands in the way of whoever looks for the first one.
    for table in ("outbox", "deliveries", "lanes"):
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,"
            " autovacuum_vacuum_cost_delay = 0)"
        )
    # Only added to, for the most part: pages that are known to be visible are read by the index alone.
    for table in ("messages", "delivery_log"):
        op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_insert_scale_factor = 0.05)")


def _catalogue() -> None:
    op.create_table(
        "id_floors",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("last", _ID, nullable=False),
    )

    op.create_table(
        "queues",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project", _name(256), nullable=False),
        sa.Column("name", _name(64), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("deleted_at", sa.Double()),
        sa.Column("prune_at", sa.Double()),
        sqlite_autoincrement=True,
    )
    _index("ix_queues_name", "queues", ["project", "name"], "deleted_at IS NULL", unique=True)
    _index("ix_queues_prune", "queues", ["prune_at"], "prune_at IS NOT NULL")

    op.create_table(
        "messages",
        sa.Column("id", _ID, primary_key=True, autoincrement=False),
        sa.Column("queue_id", _ID, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("attributes", sa.Text()),
        sa.Column("parent_id", _ID),
        sa.Column("client_id", sa.String(255)),
        sa.Column("ttl", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("deleted_at", sa.Double()),
        sa.Column("version", sa.SmallInteger(), nullable=False),
        sa.Column("prune_at", sa.Double(), nullable=False),
    )
    _index("ix_messages_queue", "messages", ["queue_id", "deleted_at", "id"])
    _index("ix_messages_prune", "messages", ["prune_at"])

    op.create_table(
        "subscriptions",
        sa.Column("id", _ID, primary_key=True, autoincrement=False),
        sa.Column("project", _name(256), nullable=False),
        sa.Column("queue", _name(64), nullable=False),
        sa.Column("subscriber", _name(), nullable=False),
        sa.Column("ttl", sa.BigInteger()),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("secret", sa.LargeBinary()),
        sa.Column("secret_made", sa.Boolean(), nullable=False),
        sa.Column("disabled_at", sa.Double()),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("disabled_enable_by", sa.String(16)),
        sa.Column("deleted_at", sa.Double()),
        sa.Column("prune_at", sa.Double()),
    )
    not_deleted = "deleted_at IS NULL"
    _index("ix_subscriptions_subscriber", "subscriptions", ["project", "queue", "subscriber"], not_deleted, unique=True)
    _index("ix_subscriptions_queue", "subscriptions", ["project", "queue", "id"], not_deleted)
    _index("ix_subscriptions_prune", "subscriptions", ["prune_at"], "prune_at IS NOT NULL")


def _ledger() -> None:
    op.create_table(
        "outbox",
        sa.Column("message_id", _ID, primary_key=True, autoincrement=False),
        sa.Column("queue_id", _ID, nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("lease", _ID),
        sa.Column("takes", sa.Integer(), nullable=False),
        sa.Column("after_id", _ID),
    )
    _index("ix_outbox_due", "outbox", ["due_at", "message_id"])
    _index("ix_outbox_lease", "outbox", ["lease"], "lease IS NOT NULL")
    _index("ix_outbox_queue", "outbox", ["queue_id", "message_id"])

    op.create_table(
        "deliveries",
        sa.Column("message_id", _ID, nullable=False),
        sa.Column("subscription_id", _ID, nullable=False),
        sa.Column("lane_id", _ID),
        sa.Column("due_at", sa.Double()),
        sa.Column("lease", _ID),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "subscription_id"),
        sqlite_with_rowid=False,
    )
    _index("ix_deliveries_due", "deliveries", ["due_at", "message_id"], "due_at IS NOT NULL")
    _index("ix_deliveries_lane", "deliveries", ["lane_id", "message_id", "subscription_id"], "due_at IS NULL")
    _index("ix_deliveries_lease", "deliveries", ["lease"], "lease IS NOT NULL")
    _index("ix_deliveries_expires", "deliveries", ["expires_at"])
    _index("ix_deliveries_subscription", "deliveries", ["subscription_id", "message_id"])

    op.create_table(
        "lanes",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project", _name(256), nullable=False),
        sa.Column("name", _name(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("lease", _ID),
        sa.UniqueConstraint("project", "name", name="uq_lanes_name"),
        sqlite_autoincrement=True,
    )
    _index("ix_lanes_due", "lanes", ["due_at", "id"])
    _index("ix_lanes_lease", "lanes", ["lease"], "lease IS NOT NULL")

    op.create_table(
        "delivery_log",
        sa.Column("message_id", _ID, nullable=False),
        sa.Column("subscription_id", _ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("outcome", sa.SmallInteger()),
        sa.Column("status", sa.Integer()),
        sa.Column("duration", sa.BigInteger()),
        sa.Column("detail", sa.Text()),
        sa.PrimaryKeyConstraint("message_id", "subscription_id", "number"),
        sqlite_with_rowid=False,
    )
    _index("ix_delivery_log_subscription", "delivery_log", ["subscription_id", "message_id"])
