"""Webhooks are delivered in order: whose turn it is, until when it is urgent, who is sending it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Code-point order on both engines.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

OPEN = "delivered_at IS NULL AND dead_at IS NULL"


def _partial(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.add_column("outbox", sa.Column("opened_at", sa.BigInteger(), nullable=True))
    op.add_column("outbox", sa.Column("expires_at", sa.BigInteger(), nullable=True))
    op.add_column("outbox", sa.Column("owner", KEY, nullable=True))
    op.add_column("outbox", sa.Column("fence", sa.BigInteger(), nullable=False, server_default="0"))
    # The first that is not done with in each resource has its turn; the others wait for theirs.
    op.execute(
        "UPDATE outbox SET opened_at = due_at WHERE delivered_at IS NULL AND dead_at IS NULL"
        " AND sequence = (SELECT min(earlier.sequence)"
        " FROM outbox AS earlier WHERE earlier.resource = outbox.resource"
        " AND earlier.delivered_at IS NULL AND earlier.dead_at IS NULL)"
    )
    op.drop_index("ix_outbox_due", "outbox")
    _partial("ix_outbox_due", "outbox", ["client", "due_at"], f"opened_at IS NOT NULL AND {OPEN}")
    _partial("ix_outbox_pending", "outbox", ["client", "created_at", "id"], OPEN)
    _partial("ix_outbox_dead", "outbox", ["client", "created_at", "id"], "dead_at IS NOT NULL")
    op.create_index("ix_outbox_created", "outbox", ["created_at"])
    op.create_table(
        "disabled_endpoint",
        sa.Column("id", KEY, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_disabled_endpoint"),
    )
