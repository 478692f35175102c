"""Trunks: how many calls may stand, their slots, their pace and their breakers."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0003"
branch_labels = None
depends_on = None

# Code-point order on both engines.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _partial(name: str, table: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.create_table(
        "trunk",
        sa.Column("name", KEY, nullable=False),
        sa.Column("configured", sa.Integer(), nullable=True),
        sa.Column("channels", sa.Integer(), nullable=True),
        sa.Column("drained_at", sa.BigInteger(), nullable=True),
        sa.Column("saturated_at", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_trunk"),
    )
    op.create_table(
        "trunk_gate",
        sa.Column("trunk", KEY, nullable=False),
        sa.Column("tat", sa.Double(), nullable=True),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("failures", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("trips", sa.Integer(), nullable=False),
        sa.Column("probe", KEY, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("moved_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("trunk", name="pk_trunk_gate"),
    )
    op.create_table(
        "slot",
        sa.Column("id", KEY, nullable=False),
        sa.Column("trunk", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("holder", KEY, nullable=True),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.Column("owner", KEY, nullable=True),
        sa.Column("acquired_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_slot"),
        sa.UniqueConstraint("trunk", "number", name="uq_slot_trunk_number"),
    )
    _partial("ix_slot_free", "slot", ["trunk", "number"], "holder IS NULL")
    _partial("ix_slot_extra", "slot", ["trunk"], "number IS NULL")
    _partial("ix_slot_lease", "slot", ["lease_until"], "lease_until IS NOT NULL")
    _partial("ux_slot_holder", "slot", ["holder"], "holder IS NOT NULL", unique=True)
