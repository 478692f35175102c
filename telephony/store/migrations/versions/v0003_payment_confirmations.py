"""Payment confirmations, and at most one open attempt for a number."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Code-point order on both engines.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _partial(name: str, table: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.create_table(
        "payment_confirmation",
        sa.Column("id", KEY, nullable=False),
        sa.Column("client", KEY, nullable=False),
        sa.Column("to_number", KEY, nullable=False),
        sa.Column("locale", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("payee", sa.Text(), nullable=False),
        sa.Column("brand", sa.Text(), nullable=True),
        sa.Column("decide_url", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("out_id", sa.Text(), nullable=True),
        sa.Column("request_id", KEY, nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_payment_confirmation"),
    )
    op.create_index("ix_payment_confirmation_client", "payment_confirmation", ["client", "created_at", "id"])
    op.create_index(
        "ix_payment_confirmation_client_status",
        "payment_confirmation",
        ["client", "status", "created_at", "id"],
    )
    _partial("ix_payment_confirmation_open", "payment_confirmation", ["expires_at"], "ended_at IS NULL")
    _partial("ux_attempt_number", "attempt", ["to_number"], "ended_at IS NULL", unique=True)
