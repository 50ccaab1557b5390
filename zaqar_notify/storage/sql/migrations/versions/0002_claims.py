"""Claims, delays, encrypted bodies, ids of a queue service that is extended, and API keys.

The new columns of messages have defaults, so that no row is rewritten: it takes as long as making the indexes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _index(name: str, table: str, columns: list[str], where: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    _messages()
    op.create_table(
        "claims",
        sa.Column("id", _ID, primary_key=True, autoincrement=False),
        sa.Column("queue_id", _ID, nullable=False),
        sa.Column("ttl", sa.Integer(), nullable=False),
        sa.Column("grace", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
    )
    _index("ix_claims_expires", "claims", ["expires_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("project", sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql"), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
    )


def _messages() -> None:
    zero = sa.text("0")
    for column in (
        sa.Column("free_at", sa.Double(), nullable=False, server_default=zero),
        sa.Column("claim_id", _ID),
        sa.Column("claims", sa.Integer(), nullable=False, server_default=zero),
        sa.Column("kind", sa.SmallInteger(), nullable=False, server_default=zero),
        sa.Column("foreign_id", sa.String(255)),
        sa.Column("encrypted", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("messages", column)
    op.drop_index("ix_messages_queue", "messages")
    _index("ix_messages_queue", "messages", ["queue_id", "deleted_at", "free_at", "id", "expires_at"])
    delayed = "free_at > 0 AND claim_id IS NULL AND deleted_at IS NULL"
    claimed = "claim_id IS NOT NULL AND deleted_at IS NULL"
    _index("ix_messages_delayed", "messages", ["queue_id", "id"], delayed)
    _index("ix_messages_delay", "messages", ["free_at"], delayed)
    _index("ix_messages_claimed", "messages", ["queue_id", "id"], claimed)
    _index("ix_messages_claim", "messages", ["claim_id"], claimed)
    _index("ix_messages_foreign", "messages", ["foreign_id"], "foreign_id IS NOT NULL")
