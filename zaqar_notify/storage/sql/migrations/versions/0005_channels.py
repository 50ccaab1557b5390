"""What the ways to the devices of people need: hints of messages, windows, receipts, targets, and pools of lanes.

The new columns are empty, so that nothing is rewritten: it takes no time to speak of, however much is stored.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

from zaqar_notify.storage.sql.migrations import usable_since

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _name(length: int | None = None) -> TypeEngine[str]:
    return (sa.Text() if length is None else sa.String(length)).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    for table, column in (
        ("messages", sa.Column("collapse_key", sa.Text())),
        ("messages", sa.Column("priority", sa.SmallInteger())),
        ("messages", sa.Column("language", sa.Text())),
        ("deliveries", sa.Column("window_id", _ID)),
        ("deliveries", sa.Column("window_key", sa.String(64))),
        ("deliveries", sa.Column("target", sa.SmallInteger())),
        ("deliveries", sa.Column("report", sa.Text())),
        ("delivery_log", sa.Column("target", sa.SmallInteger())),
        ("lanes", sa.Column("pool", _name(), nullable=False, server_default=sa.text("''"))),
    ):
        op.add_column(table, column)
    held = sa.text("window_key IS NOT NULL")
    columns = ["window_id", "subscription_id", "window_key"]
    op.create_index("ix_deliveries_window", "deliveries", columns, sqlite_where=held, postgresql_where=held)
    op.drop_index("ix_lanes_due", "lanes")
    op.create_index("ix_lanes_due", "lanes", ["pool", "project_id", "due_at", "id"])
    _windows()
    _receipts()
    usable_since("0005")


def _windows() -> None:
    op.create_table(
        "windows",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project", _name(256), nullable=False),
        sa.Column("scope", _name(), nullable=False),
        sa.Column("ends_at", sa.Double(), nullable=False),
        sa.UniqueConstraint("project", "scope", name="uq_windows_scope"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_windows_ends", "windows", ["ends_at"])


def _receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("message_id", _ID, nullable=False),
        sa.Column("subscription_id", _ID, nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.Column("gone", sa.Boolean()),
        sa.PrimaryKeyConstraint("message_id", "subscription_id", "kind"),
        sqlite_with_rowid=False,
    )
