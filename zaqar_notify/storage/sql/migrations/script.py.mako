"""${message}"""

import sqlalchemy as sa
from alembic import op

from zaqar_notify.storage.sql.migrations import usable_since

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
    # Older code may use it when nothing but tables, indexes and columns with a default were added: then name its revision.
    usable_since(revision)
