"""Circuit breakers, failing subscriptions, alerts, redeliveries, what went over the wire, and turns between projects.

The new columns have defaults, so that the log and the messages are not rewritten: it takes as long as making the indexes, and
as numbering the projects of what is still to be delivered.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ZERO = sa.text("0")


def _name(length: int | None = None) -> TypeEngine[str]:
    return (sa.Text() if length is None else sa.String(length)).with_variant(sa.String(length, collation="C"), "postgresql")


def _index(name: str, table: str, columns: list[str], where: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    _add_columns()
    op.create_table(
        "alerts",
        sa.Column("project", _name(256), nullable=False),
        sa.Column("cause", _name(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("prune_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("project", "cause"),
        sqlite_with_rowid=False,
    )
    _index("ix_alerts_prune", "alerts", ["prune_at"])
    op.create_index(
        "ix_messages_encrypted",
        "messages",
        ["id"],
        sqlite_where=sa.text("encrypted > 0"),
        postgresql_where=sa.text("encrypted"),
    )
    _index("ix_subscriptions_failing", "subscriptions", ["id"], "failing_since IS NOT NULL")
    _index("ix_lanes_open", "lanes", ["probe_at"], "trips > 0")
    op.create_table(
        "projects",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", _name(256), nullable=False),
        sa.UniqueConstraint("name", name="uq_projects_name"),
        sqlite_autoincrement=True,
    )
    op.drop_index("ix_deliveries_expires", "deliveries")
    _index("ix_deliveries_expires", "deliveries", ["expires_at"], "ends_at IS NULL")
    _index("ix_deliveries_ends", "deliveries", ["ends_at"], "ends_at IS NOT NULL")
    _number_projects()


def _add_columns() -> None:
    for table, column in (
        ("queues", sa.Column("project_id", _ID, nullable=False, server_default=_ZERO)),
        ("messages", sa.Column("ended_at", sa.Double())),
        ("subscriptions", sa.Column("strikes", sa.Integer(), nullable=False, server_default=_ZERO)),
        ("subscriptions", sa.Column("failing_since", sa.Double())),
        ("outbox", sa.Column("project_id", _ID, nullable=False, server_default=_ZERO)),
        ("outbox", sa.Column("cancelled", sa.Integer(), nullable=False, server_default=_ZERO)),
        ("deliveries", sa.Column("project_id", _ID, nullable=False, server_default=_ZERO)),
        ("deliveries", sa.Column("again", sa.Integer(), nullable=False, server_default=_ZERO)),
        ("deliveries", sa.Column("ends_at", sa.Double())),
        ("lanes", sa.Column("project_id", _ID, nullable=False, server_default=_ZERO)),
        ("lanes", sa.Column("trips", sa.Integer(), nullable=False, server_default=_ZERO)),
        ("lanes", sa.Column("probe_at", sa.Double())),
        ("delivery_log", sa.Column("exchange", sa.LargeBinary())),
    ):
        op.add_column(table, column)


def _number_projects() -> None:
    for table in ("outbox", "deliveries", "lanes"):
        op.drop_index(f"ix_{table}_due", table)
    op.execute("INSERT INTO projects (name) SELECT project FROM queues UNION SELECT project FROM lanes")
    for table in ("queues", "lanes"):
        op.execute(f"UPDATE {table} SET project_id = (SELECT id FROM projects WHERE name = {table}.project)")  # noqa: S608
    # What belongs to nothing any more stays with the number 0, which is no project's.
    op.execute(
        "UPDATE outbox SET project_id = coalesce((SELECT q.project_id FROM queues AS q WHERE q.id = outbox.queue_id), 0)"
    )
    op.execute(
        "UPDATE deliveries SET project_id = coalesce(("
        "SELECT q.project_id FROM messages AS m JOIN queues AS q ON q.id = m.queue_id WHERE m.id = deliveries.message_id), 0)"
    )
    _index("ix_queues_project", "queues", ["project_id"])
    _index("ix_outbox_due", "outbox", ["project_id", "due_at", "message_id"])
    _index("ix_deliveries_due", "deliveries", ["project_id", "due_at", "message_id"], "due_at IS NOT NULL")
    _index("ix_lanes_due", "lanes", ["project_id", "due_at", "id"])
