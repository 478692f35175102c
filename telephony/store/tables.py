"""The tables and their indexes, as the newest migration leaves them.

Indexes that answer "what is due now" are partial: they hold the rows that wait and none of the history,
so their cost does not grow with what is stored. Their conditions are written without parameters,
because neither engine matches a parameter against the condition of a partial index.
What it never does: create anything; `migrations/` does.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, MetaData, Table, UniqueConstraint, text

from telephony.model.call import (
    AttemptPhase,
    CallClass,
    CallStatus,
    Direction,
    PaymentStatus,
    VerificationStatus,
)
from telephony.model.trunk import BreakerPhase, SlotKind
from telephony.store.columns import Choice, Count, Flag, Fraction, Json, Key, Millis, Sealed, Words
from telephony.store.records import IdempotencyState

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _partial(name: str, condition: str, *columns: Column[object]) -> Index:
    """An index over the rows that meet `condition`, on both engines."""
    return Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


request = Table(
    "request",
    metadata,
    Column("id", Key, primary_key=True),
    Column("client", Key, nullable=False),
    Column("flow", Key, nullable=False),
    Column("flow_ref", Key),
    Column("to_number", Key, nullable=False),
    Column("class", Choice(CallClass), key="call_class", nullable=False),
    Column("priority", Count, nullable=False),
    Column("status", Choice(CallStatus), nullable=False),
    Column("from_number", Words),
    Column("locale", Words),
    Column("trunk_hint", Words),
    Column("variables", Json, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("out_id", Words),
    Column("not_before", Millis),
    Column("due_at", Millis),
    Column("dial_by", Millis),
    Column("expires_at", Millis),
    Column("attempts_made", Count, nullable=False),
    Column("max_attempts", Count, nullable=False),
    Column("retry", Json, nullable=False),
    Column("cancel_requested_at", Millis),
    Column("owner", Key),
    Column("fence", Millis, nullable=False),
    Column("lease_until", Millis),
    Column("created_at", Millis, nullable=False),
    Column("updated_at", Millis, nullable=False),
    Column("ended_at", Millis),
    Column("result", Json),
    Column("failure_reason", Words),
    Column("direction", Choice(Direction), nullable=False, server_default=text("'outbound'")),
)
Index("ix_request_client", request.c.client, request.c.created_at, request.c.id)
Index("ix_request_client_status", request.c.client, request.c.status, request.c.created_at, request.c.id)
Index("ix_request_client_flow", request.c.client, request.c.flow, request.c.created_at, request.c.id)
Index("ix_request_number", request.c.to_number, request.c.ended_at, request.c.created_at)
Index("ix_request_created", request.c.created_at, request.c.to_number)
_partial("ix_request_flow_ref", "flow_ref IS NOT NULL", request.c.flow_ref)
_partial("ix_request_waiting", "due_at IS NOT NULL", request.c.priority, request.c.due_at)
_partial("ix_request_due", "due_at IS NOT NULL AND lease_until IS NULL", request.c.due_at)
_partial("ix_request_lease", "lease_until IS NOT NULL", request.c.lease_until)

attempt = Table(
    "attempt",
    metadata,
    Column("id", Key, primary_key=True),
    Column("request_id", Key, ForeignKey("request.id", ondelete="CASCADE"), nullable=False),
    Column("number", Count, nullable=False),
    Column("to_number", Key, nullable=False),
    Column("trunk", Words),
    Column("trunk_reason", Words),
    Column("phase", Choice(AttemptPhase), nullable=False),
    Column("owner", Key),
    Column("fence", Millis, nullable=False),
    Column("lease_until", Millis),
    Column("created_at", Millis, nullable=False),
    Column("dialed_at", Millis),
    Column("ringing_at", Millis),
    Column("answered_at", Millis),
    Column("ended_at", Millis),
    Column("sip", Count),
    Column("q850", Count),
    Column("cause", Words),
    Column("end_reason", Words),
    Column("pbx", Words),
    Column("keys", Words),
    UniqueConstraint("request_id", "number"),
)
_partial("ix_attempt_open", "ended_at IS NULL", attempt.c.created_at, attempt.c.id)
Index(
    "ux_attempt_number",
    attempt.c.to_number,
    unique=True,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)
_partial("ix_attempt_dialed", "dialed_at IS NOT NULL", attempt.c.to_number, attempt.c.dialed_at)

verification = Table(
    "verification",
    metadata,
    Column("id", Key, primary_key=True),
    Column("client", Key, nullable=False),
    Column("to_number", Key, nullable=False),
    Column("locale", Words, nullable=False),
    Column("status", Choice(VerificationStatus), nullable=False),
    Column("code_hash", Words, nullable=False),
    Column("code_sealed", Sealed),
    Column("code_length", Count, nullable=False),
    Column("play_times", Count, nullable=False),
    Column("require_keypress", Flag, nullable=False),
    Column("brand", Words),
    Column("checks_left", Count, nullable=False),
    Column("max_checks", Count, nullable=False),
    Column("sends", Count, nullable=False),
    Column("max_sends", Count, nullable=False),
    Column("expires_at", Millis, nullable=False),
    Column("created_at", Millis, nullable=False),
    Column("updated_at", Millis, nullable=False),
    Column("ended_at", Millis),
    Column("approved_at", Millis),
    Column("out_id", Words),
    Column("last_request_id", Key),
    Column("failure_reason", Words),
)
Index("ix_verification_client", verification.c.client, verification.c.created_at, verification.c.id)
Index(
    "ix_verification_client_status",
    verification.c.client,
    verification.c.status,
    verification.c.created_at,
    verification.c.id,
)
_partial("ix_verification_open", "ended_at IS NULL", verification.c.expires_at)
_partial("ix_verification_sealed", "code_sealed IS NOT NULL", verification.c.expires_at)

check_failure = Table(
    "check_failure",
    metadata,
    Column("id", Key, primary_key=True),
    Column("to_number", Key, nullable=False),
    Column("at", Millis, nullable=False),
    Column("verification_id", Key, nullable=False),
)
Index("ix_check_failure_number", check_failure.c.to_number, check_failure.c.at)
Index("ix_check_failure_at", check_failure.c.at)

idempotency = Table(
    "idempotency",
    metadata,
    Column("client", Key, primary_key=True),
    Column("key", Key, primary_key=True),
    Column("fingerprint", Words, nullable=False),
    Column("state", Choice(IdempotencyState), nullable=False),
    Column("status", Count),
    Column("body", Words),
    Column("content_type", Words),
    Column("resource", Key),
    Column("created_at", Millis, nullable=False),
    Column("expires_at", Millis, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_idempotency_expires", idempotency.c.expires_at)

event = Table(
    "event",
    metadata,
    Column("id", Key, primary_key=True),
    Column("at", Millis, nullable=False),
    Column("request_id", Key, ForeignKey("request.id", ondelete="CASCADE")),
    Column("attempt_id", Key),
    Column("kind", Words, nullable=False),
    Column("detail", Json, nullable=False),
)
Index("ix_event_request", event.c.request_id, event.c.at, event.c.id)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Key, primary_key=True),
    Column("client", Key, nullable=False),
    Column("resource", Key, nullable=False),
    Column("sequence", Count, nullable=False),
    Column("type", Words, nullable=False),
    Column("payload", Json, nullable=False),
    Column("created_at", Millis, nullable=False),
    Column("due_at", Millis, nullable=False),
    Column("tries", Count, nullable=False),
    Column("delivered_at", Millis),
    Column("dead_at", Millis),
    Column("last_error", Words),
    Column("url", Words, nullable=False),
    Column("opened_at", Millis),
    Column("expires_at", Millis),
    Column("owner", Key),
    Column("fence", Millis, nullable=False),
    UniqueConstraint("resource", "sequence"),
)
Index("ix_outbox_client", outbox.c.client, outbox.c.created_at, outbox.c.id)
Index("ix_outbox_created", outbox.c.created_at)
_partial(
    "ix_outbox_due",
    "opened_at IS NOT NULL AND delivered_at IS NULL AND dead_at IS NULL",
    outbox.c.client,
    outbox.c.due_at,
)
_partial(
    "ix_outbox_pending",
    "delivered_at IS NULL AND dead_at IS NULL",
    outbox.c.client,
    outbox.c.created_at,
    outbox.c.id,
)
_partial("ix_outbox_dead", "dead_at IS NOT NULL", outbox.c.client, outbox.c.created_at, outbox.c.id)

disabled_endpoint = Table(
    "disabled_endpoint",
    metadata,
    Column("id", Key, primary_key=True),
    Column("url", Words, nullable=False),
    Column("disabled_at", Millis, nullable=False),
    Column("reason", Words, nullable=False),
)

payment_confirmation = Table(
    "payment_confirmation",
    metadata,
    Column("id", Key, primary_key=True),
    Column("client", Key, nullable=False),
    Column("to_number", Key, nullable=False),
    Column("locale", Words, nullable=False),
    Column("status", Choice(PaymentStatus), nullable=False),
    Column("order_id", Words, nullable=False),
    Column("amount", Words, nullable=False),
    Column("currency", Words, nullable=False),
    Column("payee", Words, nullable=False),
    Column("brand", Words),
    Column("decide_url", Words),
    Column("metadata", Json, nullable=False),
    Column("out_id", Words),
    Column("request_id", Key),
    Column("expires_at", Millis, nullable=False),
    Column("created_at", Millis, nullable=False),
    Column("updated_at", Millis, nullable=False),
    Column("ended_at", Millis),
    Column("decided_by", Words),
    Column("failure_reason", Words),
)
Index(
    "ix_payment_confirmation_client",
    payment_confirmation.c.client,
    payment_confirmation.c.created_at,
    payment_confirmation.c.id,
)
Index(
    "ix_payment_confirmation_client_status",
    payment_confirmation.c.client,
    payment_confirmation.c.status,
    payment_confirmation.c.created_at,
    payment_confirmation.c.id,
)
_partial("ix_payment_confirmation_open", "ended_at IS NULL", payment_confirmation.c.expires_at)

# How many calls may stand: written when the configuration or an operator says so, read by every call.
trunk = Table(
    "trunk",
    metadata,
    Column("name", Key, primary_key=True),
    Column("configured", Count),
    Column("channels", Count),
    Column("drained_at", Millis),
    Column("saturated_at", Millis),
    Column("updated_at", Millis, nullable=False),
)

# What calls themselves write: apart from `trunk`, so that who resizes a trunk, who takes its slots and who
# keeps its pace lock in one order (trunk, slot, gate) and never wait for one another in a circle.
trunk_gate = Table(
    "trunk_gate",
    metadata,
    Column("trunk", Key, primary_key=True),
    Column("tat", Fraction),
    Column("phase", Choice(BreakerPhase), nullable=False),
    Column("failures", Json, nullable=False),
    Column("until", Millis),
    Column("trips", Count, nullable=False),
    Column("probe", Key),
    Column("reason", Words),
    Column("moved_at", Millis),
)

slot = Table(
    "slot",
    metadata,
    Column("id", Key, primary_key=True),
    Column("trunk", Key, nullable=False),
    Column("number", Count),
    Column("holder", Key),
    Column("kind", Choice(SlotKind)),
    Column("owner", Key),
    Column("acquired_at", Millis),
    Column("lease_until", Millis),
    UniqueConstraint("trunk", "number"),
)
_partial("ix_slot_free", "holder IS NULL", slot.c.trunk, slot.c.number)
_partial("ix_slot_extra", "number IS NULL", slot.c.trunk)
_partial("ix_slot_lease", "lease_until IS NOT NULL", slot.c.lease_until)
Index(
    "ux_slot_holder",
    slot.c.holder,
    unique=True,
    sqlite_where=text("holder IS NOT NULL"),
    postgresql_where=text("holder IS NOT NULL"),
)
