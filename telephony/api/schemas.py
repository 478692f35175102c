"""The bodies of requests and replies: pydantic models, strict, and nothing unknown.

What it never does: turn a string into a number for somebody, or carry a code in a reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from telephony.model.call import CallClass, CallStatus, Direction, PaymentStatus, VerificationStatus
from telephony.model.delivery import DeliveryStatus
from telephony.model.trunk import MOST_LINES, BreakerPhase, TrunkCondition
from telephony.services.contract import (
    AttemptView,
    CallView,
    CheckOutcome,
    DeliveryView,
    NewCall,
    NewPayment,
    NewVerification,
    PaymentView,
    TrunkView,
    Verdict,
    VerificationView,
)

Item = TypeVar("Item")

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
OutId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -~]+$")]


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )


class Reply(BaseModel):
    """A reply's body."""

    model_config = ConfigDict(frozen=True)


class VerificationRequest(Body):
    """Ring a number and speak a code."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"to": "+8613800000000", "locale": "zh-CN", "out_id": "order-1024"}]}
    )

    to: str = Field(
        min_length=1,
        max_length=64,
        description="E.164, or a national number of your default region",
        examples=["+8613800000000"],
    )
    locale: str | None = Field(
        None,
        min_length=1,
        max_length=35,
        description="Language of the call; yours by default",
        examples=["zh-CN"],
    )
    code_length: int | None = Field(None, ge=4, le=10, description="Digits of the code; 6 by default")
    code: str | None = Field(
        None, max_length=32, repr=False, description="Your own code, 4 to 10 digits; one is drawn by default"
    )
    ttl: int | None = Field(
        None, ge=30, le=3600, description="Seconds that the code is valid; 600 by default"
    )
    play_times: int | None = Field(None, ge=1, le=3, description="How often the code is said; 2 by default")
    require_keypress: bool | None = Field(
        None, description="Ask for a key first, so that a voicemail box never hears the code"
    )
    dial_within: float | None = Field(
        None, ge=1, le=3600, description="Seconds; what is not dialled by then is `failed`; 30 by default"
    )
    out_id: OutId | None = Field(None, description="Your own id, handed back", examples=["order-1024"])

    def as_new(self) -> NewVerification:
        """The same for the service."""
        return NewVerification(**self.model_dump())


class PaymentRequest(Body):
    """Ring a number and have a payment confirmed by a key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "to": "+8613800000000",
                    "order_id": "A-1024",
                    "amount": "128.50",
                    "currency": "CNY",
                    "payee": "Acme Taxi",
                }
            ]
        }
    )

    to: str = Field(
        min_length=1,
        max_length=64,
        description="E.164, or a national number of your default region",
        examples=["+8613800000000"],
    )
    order_id: str = Field(
        min_length=1,
        max_length=64,
        description="Your order; its last letters and digits, eight at most, are spelled",
        examples=["A-1024"],
    )
    amount: str = Field(
        min_length=1,
        max_length=32,
        description="A decimal in quotes, with at most the decimals that the currency has",
        examples=["128.50"],
    )
    currency: str = Field(min_length=1, max_length=16, description="ISO 4217", examples=["CNY"])
    payee: str = Field(min_length=1, max_length=64, description="Who is paid, as it is said")
    locale: str | None = Field(
        None, min_length=1, max_length=35, description="Language of the call; yours by default"
    )
    deadline: str | None = Field(
        None,
        min_length=1,
        max_length=40,
        description="RFC 3339 with an offset; until then an answer counts",
        json_schema_extra={"format": "date-time"},
    )
    ttl: int | None = Field(
        None, ge=30, le=86_400, description="Seconds until the deadline, in its place; 600 by default"
    )
    retry: dict[str, Any] | None = Field(
        None,
        description="`attempts` (1 to 10), `pause` and `longest_pause` (seconds), `on` (causes); 3 attempts "
        "by default",
        examples=[{"attempts": 2, "pause": 60}],
    )
    decide_url: str | None = Field(
        None,
        min_length=1,
        max_length=2048,
        repr=False,
        description="Where your app is asked, signed, before `confirmed` is said; it has 3 s",
    )
    metadata: dict[str, Any] | None = Field(
        None, description="Your own JSON object, handed back; 4 KiB at most"
    )
    out_id: OutId | None = Field(None, description="Your own id, handed back")
    machine_detection: Literal["off", "hang_up", "leave_message"] = Field(
        "off", description="What an answering machine gets; a person then waits a second or two to be heard"
    )

    def as_new(self) -> NewPayment:
        """The same for the service."""
        return NewPayment(**self.model_dump())


class CallRequest(Body):
    """Ring a number and hold a conversation: one of the flows of this controller."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "to": "+8613800000000",
                    "flow": "announcement",
                    "variables": {"text": "Acme. Your parcel is at the desk.", "ack_key": "1"},
                }
            ]
        }
    )

    to: str = Field(
        min_length=1,
        max_length=64,
        description="E.164, or a national number of your default region",
        examples=["+8613800000000"],
    )
    flow: str = Field(
        min_length=1, max_length=64, description="The conversation's name", examples=["announcement"]
    )
    variables: dict[str, Any] | None = Field(
        None,
        repr=False,
        description="What the flow is told. `announcement`: `text` (500 characters), `play_times` (1 to 3), "
        "`ack_key` (a digit that acknowledges it)",
    )
    call_class: Literal["otp", "transaction", "callback", "survey"] = Field(
        "transaction",
        alias="class",
        description="Decides who goes first, when it may ring and how often it is tried",
    )
    expires_at: str | None = Field(
        None,
        min_length=1,
        max_length=40,
        description="RFC 3339 with an offset; it does not ring from then on",
        json_schema_extra={"format": "date-time"},
    )
    ttl: int | None = Field(
        None, ge=30, le=604_800, description="Seconds until then, in its place; 86400 by default"
    )
    retry: dict[str, Any] | None = Field(
        None,
        description="`attempts` (1 to 10), `pause` and `longest_pause` (seconds), `on` (causes); what is "
        "left out is the class's",
        examples=[{"attempts": 2, "pause": 60}],
    )
    from_number: str | None = Field(
        None,
        alias="from",
        min_length=1,
        max_length=32,
        description="The caller number to show, one of yours; `caller_number` of your client by default",
    )
    locale: str | None = Field(
        None, min_length=1, max_length=35, description="Language of the call; yours by default"
    )
    metadata: dict[str, Any] | None = Field(
        None, description="Your own JSON object, handed back; 4 KiB at most"
    )
    machine_detection: Literal["off", "hang_up", "leave_message"] = Field(
        "off", description="What an answering machine gets, where the controller can tell one"
    )
    out_id: OutId | None = Field(None, description="Your own id, handed back")

    def as_new(self) -> NewCall:
        """The same for the service."""
        return NewCall(**self.model_dump())


class CheckRequest(Body):
    """A code that somebody typed."""

    code: str = Field(min_length=1, max_length=32, repr=False, examples=["123456"])


class Empty(Body):
    """Nothing: `{}` or no body at all."""


class Verification(Reply):
    """A verification; its code is never shown."""

    id: str = Field(examples=["vrf_01hv0000000000000000000000"])
    to: str
    locale: str
    status: VerificationStatus
    call_id: str | None
    call_status: CallStatus | None = Field(description="Of the newest call")
    code_length: int
    play_times: int
    require_keypress: bool
    checks_left: int
    sends_left: int
    expires_at: Moment
    created_at: Moment
    updated_at: Moment
    failure_reason: str | None
    out_id: str | None

    @classmethod
    def of(cls, view: VerificationView) -> Verification:
        """Show a view."""
        return cls(
            id=view.id,
            to=view.to,
            locale=view.locale,
            status=view.status,
            call_id=view.call_id,
            call_status=view.call_status,
            code_length=view.code_length,
            play_times=view.play_times,
            require_keypress=view.require_keypress,
            checks_left=view.checks_left,
            sends_left=view.sends_left,
            expires_at=moment(view.expires_at),
            created_at=moment(view.created_at),
            updated_at=moment(view.updated_at),
            failure_reason=view.failure_reason,
            out_id=view.out_id,
        )


class Payment(Reply):
    """A payment confirmation."""

    id: str = Field(examples=["pay_01hv0000000000000000000000"])
    to: str
    locale: str
    status: PaymentStatus
    order_id: str
    amount: str
    currency: str
    payee: str
    call_id: str | None
    call_status: CallStatus | None
    expires_at: Moment
    created_at: Moment
    updated_at: Moment
    ended_at: Moment | None
    decided_by: str | None = Field(
        description="`person`, `app`, `app_refused`, `app_silent`, `agent`, `client`, `deadline` or `call`"
    )
    failure_reason: str | None
    metadata: Mapping[str, Any]
    out_id: str | None

    @classmethod
    def of(cls, view: PaymentView) -> Payment:
        """Show a view."""
        return cls(
            id=view.id,
            to=view.to,
            locale=view.locale,
            status=view.status,
            order_id=view.order_id,
            amount=view.amount,
            currency=view.currency,
            payee=view.payee,
            call_id=view.call_id,
            call_status=view.call_status,
            expires_at=moment(view.expires_at),
            created_at=moment(view.created_at),
            updated_at=moment(view.updated_at),
            ended_at=moment_or_none(view.ended_at),
            decided_by=view.decided_by,
            failure_reason=view.failure_reason,
            metadata=view.metadata,
            out_id=view.out_id,
        )


class Delivery(Reply):
    """A webhook on its way."""

    id: str = Field(description="Its `webhook-id`", examples=["msg_01hv0000000000000000000000"])
    resource: str
    sequence: int = Field(description="Counts from 1 inside its resource")
    type: str
    status: DeliveryStatus
    created_at: Moment
    due_at: Moment | None = Field(description="The next try")
    tries: int
    delivered_at: Moment | None
    dead_at: Moment | None
    last_error: str | None

    @classmethod
    def of(cls, view: DeliveryView) -> Delivery:
        """Show a view."""
        return cls(
            id=view.id,
            resource=view.resource,
            sequence=view.sequence,
            type=view.type,
            status=view.status,
            created_at=moment(view.created_at),
            due_at=moment_or_none(view.due_at),
            tries=view.tries,
            delivered_at=moment_or_none(view.delivered_at),
            dead_at=moment_or_none(view.dead_at),
            last_error=view.last_error,
        )


class LimitRequest(Body):
    """How many calls may stand on a trunk."""

    channels: int | None = Field(
        ge=0, le=MOST_LINES, description="From the next call on; null: as configured", examples=[30]
    )


class Breaker(Reply):
    """Whether a trunk that fails is left alone."""

    state: BreakerPhase
    failures: int = Field(description="Those that count now")
    until: Moment | None = Field(description="When it may let a call through")
    reason: str | None = Field(description="Of its last move")


class Trunk(Reply):
    """A trunk as it is now."""

    name: str
    endpoint: str
    state: TrunkCondition
    why: str | None = Field(description="Why it is not `open`")
    limit: int | None = Field(description="Calls that may stand at once; null: as many as come")
    configured: int | None = Field(description="The limit that the configuration says")
    in_use: int = Field(description="`outbound`, `inbound` and `foreign` together")
    outbound: int = Field(description="Calls that were placed here")
    inbound: int = Field(description="Calls that came in to this controller")
    foreign: int = Field(description="Others' calls that were found on the trunk")
    above: int = Field(description="Of those in use: above the limit, or on a trunk without one")
    calls_per_second: float | None
    burst: int
    draining: bool
    drained_at: Moment | None
    saturated: bool
    saturated_at: Moment | None
    breaker: Breaker

    @classmethod
    def of(cls, view: TrunkView) -> Trunk:
        """Show a view."""
        return cls(
            name=view.name,
            endpoint=view.endpoint,
            state=view.state,
            why=view.why or None,
            limit=view.limit,
            configured=view.configured,
            in_use=view.in_use,
            outbound=view.outbound,
            inbound=view.inbound,
            foreign=view.foreign,
            above=view.above,
            calls_per_second=view.calls_per_second,
            burst=view.burst,
            draining=view.drained_at is not None,
            drained_at=moment_or_none(view.drained_at),
            saturated=view.saturated_at is not None,
            saturated_at=moment_or_none(view.saturated_at),
            breaker=Breaker(
                state=view.breaker.phase,
                failures=view.breaker.failures,
                until=moment_or_none(view.breaker.until),
                reason=view.breaker.reason,
            ),
        )


class TrunkList(Reply):
    """Every trunk, in the configured order."""

    items: Sequence[Trunk]


class CheckReply(Reply):
    """Whether this very check approved the verification."""

    id: str
    status: VerificationStatus
    valid: bool
    checks_left: int

    @classmethod
    def of(cls, outcome: CheckOutcome) -> CheckReply:
        """Show an outcome."""
        seen = outcome.verification
        return cls(id=seen.id, status=seen.status, valid=outcome.valid, checks_left=seen.checks_left)


class DryRun(Reply):
    """What would happen; nothing was dialled or kept."""

    dry_run: Literal[True] = True
    to: str
    locale: str
    trunk: str
    trunk_reason: str
    due_at: Moment | None = Field(description="When it may ring, where its class may not ring now")

    @classmethod
    def of(cls, verdict: Verdict) -> DryRun:
        """Show a verdict."""
        return cls(
            to=verdict.to,
            locale=verdict.locale,
            trunk=verdict.trunk,
            trunk_reason=verdict.trunk_reason,
            due_at=moment_or_none(verdict.due_at),
        )


class Attempt(Reply):
    """One ring: its trunk and why, its times, its hangup cause."""

    id: str
    number: int
    trunk: str
    trunk_reason: str
    phase: str
    dialed_at: Moment | None
    ringing_at: Moment | None
    answered_at: Moment | None
    ended_at: Moment | None
    sip: int | None = Field(description="Final SIP code")
    q850: int | None = Field(description="Q.850 cause")
    cause: str | None
    end_reason: str | None
    keys: str | None = Field(description="Keys pressed")

    @classmethod
    def of(cls, view: AttemptView) -> Attempt:
        """Show a view."""
        return cls(
            id=view.id,
            number=view.number,
            trunk=view.trunk,
            trunk_reason=view.trunk_reason,
            phase=view.phase,
            dialed_at=moment_or_none(view.dialed_at),
            ringing_at=moment_or_none(view.ringing_at),
            answered_at=moment_or_none(view.answered_at),
            ended_at=moment_or_none(view.ended_at),
            sip=view.sip,
            q850=view.q850,
            cause=view.cause,
            end_reason=view.end_reason,
            keys=view.keys,
        )


class PathStep(Reply):
    """A node of a tree that a call came to."""

    tree: str
    node: str
    type: str
    at: Moment
    keys: str = Field(description="What was pressed there")
    outcome: str
    to: str = Field(description="Where it led; empty where the call ended")
    recording: str | None = Field(default=None, description="The id of what was recorded there")


class Call(Reply):
    """A call with its attempts."""

    id: str = Field(examples=["call_01hv0000000000000000000000"])
    to: str
    from_number: str | None = Field(
        serialization_alias="from", description="The caller number shown; null: the trunk's own"
    )
    direction: Direction = Field(description="inbound: a call that came in, and is over; `flow` is its tree")
    flow: str
    call_class: CallClass = Field(serialization_alias="class")
    locale: str | None
    variables: Mapping[str, Any] = Field(description="What the flow was told; empty for verifications")
    machine_detection: str
    status: CallStatus
    created_at: Moment
    updated_at: Moment
    due_at: Moment | None = Field(description="When a call that waits is looked at next")
    ended_at: Moment | None
    expires_at: Moment | None
    failure_reason: str | None
    metadata: Mapping[str, Any]
    out_id: str | None
    attempts: tuple[Attempt, ...]
    path: tuple[PathStep, ...] = Field(
        description="The nodes of its IVR tree, first to last, once it is over; secret keys are a mark"
    )

    @classmethod
    def of(cls, view: CallView) -> Call:
        """Show a view."""
        return cls(
            id=view.id,
            to=view.to,
            from_number=view.from_number,
            direction=view.direction,
            flow=view.flow,
            call_class=view.call_class,
            locale=view.locale,
            variables=view.variables,
            machine_detection=view.machine_detection,
            status=view.status,
            created_at=moment(view.created_at),
            updated_at=moment(view.updated_at),
            due_at=moment_or_none(view.due_at),
            ended_at=moment_or_none(view.ended_at),
            expires_at=moment_or_none(view.expires_at),
            failure_reason=view.failure_reason,
            metadata=view.metadata,
            out_id=view.out_id,
            attempts=tuple(Attempt.of(attempt) for attempt in view.attempts),
            path=tuple(PathStep(**step) for step in view.path),
        )


class ListOf(Reply, Generic[Item]):
    """One page, newest first; `next_cursor` is null on the last."""

    items: Sequence[Item]
    next_cursor: str | None


class Alive(Reply):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(Reply):
    """Whether calls can be placed, part by part."""

    status: Literal["ok", "not ready"]
    parts: Mapping[str, str] = Field(description="Per part `ok`, or what is wrong")


class Fault(Reply):
    """One fault of a request."""

    field: str
    problem: str
    mend: str


class Problem(Reply):
    """RFC 9457 problem details."""

    type: str = Field(description="A page's anchor that tells the kind", examples=["/docs#rate-limited"])
    title: str
    status: int
    detail: str
    instance: str | None = Field(None, description="The request's id, where the log says more")
    errors: tuple[Fault, ...] = Field((), description="What is wrong with the request, field by field")


def moment(milliseconds: int) -> str:
    """Write a moment as RFC 3339, UTC, to the millisecond."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def moment_or_none(milliseconds: int | None) -> str | None:
    """Write a moment that may not have come."""
    return None if milliseconds is None else moment(milliseconds)
