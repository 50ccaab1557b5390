"""Jobs, what is known of workers, and which versions of the code may use a schema.

It takes no time to speak of, however much is stored.
"""

import sqlalchemy as sa
from alembic import op

from zaqar_notify.storage.sql.migrations import usable_since

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ZERO = sa.text("0")


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    _jobs()
    for column in (
        sa.Column("host", sa.String(255), nullable=False, server_default=sa.text("''")),
        sa.Column("pid", sa.Integer(), nullable=False, server_default=_ZERO),
        sa.Column("version", sa.String(64), nullable=False, server_default=sa.text("''")),
        sa.Column("seen_at", sa.Double(), nullable=False, server_default=_ZERO),
    ):
        op.add_column("workers", column)
    op.create_table(
        "schema_info",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("oldest", sa.String(32), nullable=False),
    )
    usable_since("0004")


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _ID, primary_key=True, autoincrement=False),
        sa.Column("project", sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql"), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("worker_id", _ID),
        sa.Column("held_until", sa.Double(), nullable=False, server_default=_ZERO),
        sa.Column("takes", sa.Integer(), nullable=False, server_default=_ZERO),
        sa.Column("error", sa.Text()),
        sa.Column("failed_at", sa.Double()),
        sa.Column("message_id", _ID),
        sa.Column("queue_id", _ID),
        sa.Column("after_id", _ID),
        sa.Column("last_id", _ID),
        sa.Column("cancelled", sa.Integer(), nullable=False, server_default=_ZERO),
        sa.Column("lease", _ID),
        sa.Column("due_at", sa.Double(), nullable=False, server_default=_ZERO),
    )
    _index("ix_jobs_open", "jobs", ["id"], "failed_at IS NULL")
    _index("ix_jobs_failed", "jobs", ["failed_at", "id"], "failed_at IS NOT NULL")
    _index("ix_jobs_worker", "jobs", ["worker_id"], "held_until > 0")
    _index("ix_jobs_lease", "jobs", ["lease"], "lease IS NOT NULL")
    _index("ix_jobs_message", "jobs", ["message_id", "after_id"], "message_id IS NOT NULL")
    _index("ix_jobs_queue", "jobs", ["queue_id", "message_id"], "queue_id IS NOT NULL")
