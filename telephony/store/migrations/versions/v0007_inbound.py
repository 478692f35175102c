"""Calls that come in are kept beside those that go out."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "request", sa.Column("direction", sa.Text(), nullable=False, server_default=sa.text("'outbound'"))
    )
