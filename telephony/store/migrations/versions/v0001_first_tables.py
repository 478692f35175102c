"""The first tables: requests and their attempts, verifications, idempotency keys, events, the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Code-point order on both engines.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _partial(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    op.create_table(
        "check_failure",
        sa.Column("id", KEY, nullable=False),
        sa.Column("to_number", KEY, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("verification_id", KEY, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_check_failure"),
    )
    op.create_index("ix_check_failure_at", "check_failure", ["at"])
    op.create_index("ix_check_failure_number", "check_failure", ["to_number", "at"])
    op.create_table(
        "idempotency",
        sa.Column("client", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("resource", KEY, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("client", "key", name="pk_idempotency"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_idempotency_expires", "idempotency", ["expires_at"])
    op.create_table(
        "outbox",
        sa.Column("id", KEY, nullable=False),
        sa.Column("client", KEY, nullable=False),
        sa.Column("resource", KEY, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("dead_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("resource", "sequence", name="uq_outbox_resource_sequence"),
    )
    op.create_index("ix_outbox_client", "outbox", ["client", "created_at", "id"])
    _partial("ix_outbox_due", "outbox", ["due_at"], "delivered_at IS NULL AND dead_at IS NULL")
    op.create_table(
        "request",
        sa.Column("id", KEY, nullable=False),
        sa.Column("client", KEY, nullable=False),
        sa.Column("flow", KEY, nullable=False),
        sa.Column("flow_ref", KEY, nullable=True),
        sa.Column("to_number", KEY, nullable=False),
        sa.Column("class", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("from_number", sa.Text(), nullable=True),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("trunk_hint", sa.Text(), nullable=True),
        sa.Column("variables", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("out_id", sa.Text(), nullable=True),
        sa.Column("not_before", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("dial_by", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts_made", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("retry", sa.Text(), nullable=False),
        sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("owner", KEY, nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_request"),
    )
    op.create_index("ix_request_client", "request", ["client", "created_at", "id"])
    op.create_index("ix_request_client_flow", "request", ["client", "flow", "created_at", "id"])
    op.create_index("ix_request_client_status", "request", ["client", "status", "created_at", "id"])
    op.create_index("ix_request_created", "request", ["created_at", "to_number"])
    _partial("ix_request_due", "request", ["due_at"], "due_at IS NOT NULL AND lease_until IS NULL")
    _partial("ix_request_flow_ref", "request", ["flow_ref"], "flow_ref IS NOT NULL")
    _partial("ix_request_lease", "request", ["lease_until"], "lease_until IS NOT NULL")
    op.create_index("ix_request_number", "request", ["to_number", "ended_at", "created_at"])
    _partial("ix_request_waiting", "request", ["priority", "due_at"], "due_at IS NOT NULL")
    op.create_table(
        "verification",
        sa.Column("id", KEY, nullable=False),
        sa.Column("client", KEY, nullable=False),
        sa.Column("to_number", KEY, nullable=False),
        sa.Column("locale", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("code_hash", sa.Text(), nullable=False),
        sa.Column("code_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("code_length", sa.Integer(), nullable=False),
        sa.Column("play_times", sa.Integer(), nullable=False),
        sa.Column("require_keypress", sa.Boolean(), nullable=False),
        sa.Column("brand", sa.Text(), nullable=True),
        sa.Column("checks_left", sa.Integer(), nullable=False),
        sa.Column("max_checks", sa.Integer(), nullable=False),
        sa.Column("sends", sa.Integer(), nullable=False),
        sa.Column("max_sends", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("approved_at", sa.BigInteger(), nullable=True),
        sa.Column("out_id", sa.Text(), nullable=True),
        sa.Column("last_request_id", KEY, nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_verification"),
    )
    op.create_index("ix_verification_client", "verification", ["client", "created_at", "id"])
    op.create_index("ix_verification_client_status", "verification", ["client", "status", "created_at", "id"])
    _partial("ix_verification_open", "verification", ["expires_at"], "ended_at IS NULL")
    _partial("ix_verification_sealed", "verification", ["expires_at"], "code_sealed IS NOT NULL")
    op.create_table(
        "attempt",
        sa.Column("id", KEY, nullable=False),
        sa.Column("request_id", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("to_number", KEY, nullable=False),
        sa.Column("trunk", sa.Text(), nullable=True),
        sa.Column("trunk_reason", sa.Text(), nullable=True),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("owner", KEY, nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("dialed_at", sa.BigInteger(), nullable=True),
        sa.Column("ringing_at", sa.BigInteger(), nullable=True),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("sip", sa.Integer(), nullable=True),
        sa.Column("q850", sa.Integer(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("pbx", sa.Text(), nullable=True),
        sa.Column("keys", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["request_id"], ["request.id"], name="fk_attempt_request_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_attempt"),
        sa.UniqueConstraint("request_id", "number", name="uq_attempt_request_id_number"),
    )
    _partial("ix_attempt_dialed", "attempt", ["to_number", "dialed_at"], "dialed_at IS NOT NULL")
    _partial("ix_attempt_open", "attempt", ["created_at", "id"], "ended_at IS NULL")
    op.create_table(
        "event",
        sa.Column("id", KEY, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("request_id", KEY, nullable=True),
        sa.Column("attempt_id", KEY, nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["request.id"], name="fk_event_request_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
    )
    op.create_index("ix_event_request", "event", ["request_id", "at", "id"])
