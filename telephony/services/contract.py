"""What the services take and give: the values that `api/` and the command line speak to them in.

What it never does: know HTTP or a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from telephony.model.call import CallClass, CallStatus, Direction, PaymentStatus, VerificationStatus
from telephony.model.delivery import DeliveryStatus
from telephony.model.trunk import BreakerPhase, TrunkCondition

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredReply:
    """An HTTP reply as it was first given, to be given again."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Once(Generic[T]):
    """An Idempotency-Key with the request's fingerprint (SHA-256 of method, path and body, hex).

    `render` makes the reply that is stored in the same transaction as the resource.
    """

    key: str
    fingerprint: str
    render: Callable[[T], StoredReply]


@dataclass(frozen=True, slots=True)
class NewVerification:
    """A request for a verification; None means the configured default. Times in seconds."""

    to: str
    locale: str | None = None
    code_length: int | None = None
    code: str | None = field(default=None, repr=False)
    ttl: int | None = None
    play_times: int | None = None
    require_keypress: bool | None = None
    dial_within: float | None = None
    out_id: str | None = None


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A request for a payment confirmation; None means the configured default.

    `amount` is a decimal as text (`128.50`), `currency` ISO 4217. Open until `deadline` (RFC 3339 with an
    offset), or for `ttl` seconds. `retry` is as `calls.policy.policy_for` has it.
    """

    to: str
    order_id: str
    amount: str
    currency: str
    payee: str
    locale: str | None = None
    deadline: str | None = None
    ttl: int | None = None
    retry: Mapping[str, Any] | None = None
    decide_url: str | None = field(default=None, repr=False)
    metadata: Mapping[str, Any] | None = None
    out_id: str | None = None
    machine_detection: str = "off"


@dataclass(frozen=True, slots=True)
class NewCall:
    """A request for a call of a flow; None means the configured default.

    Open until `expires_at` (RFC 3339 with an offset), or for `ttl` seconds. `variables` are the flow's own;
    `retry` is as `calls.policy.policy_for` has it.
    """

    to: str
    flow: str
    variables: Mapping[str, Any] | None = field(default=None, repr=False)
    call_class: str = CallClass.TRANSACTION.value
    expires_at: str | None = None
    ttl: int | None = None
    retry: Mapping[str, Any] | None = None
    from_number: str | None = None
    locale: str | None = None
    metadata: Mapping[str, Any] | None = None
    machine_detection: str = "off"
    out_id: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One ring of a call. Times in milliseconds since the epoch, None where it did not happen."""

    id: str
    number: int
    trunk: str
    trunk_reason: str
    phase: str
    dialed_at: int | None
    ringing_at: int | None
    answered_at: int | None
    ended_at: int | None
    sip: int | None
    q850: int | None
    cause: str | None
    end_reason: str | None
    keys: str | None


@dataclass(frozen=True, slots=True)
class CallView:
    """A call as an app sees it. Times in milliseconds since the epoch.

    `due_at` is when a call that waits is looked at next. `variables` are those of its flow. `path` are the
    nodes of its tree, first to last, where it is over and was one.
    """

    id: str
    to: str
    from_number: str | None
    flow: str
    call_class: CallClass
    locale: str | None
    variables: Mapping[str, Any]
    machine_detection: str
    status: CallStatus
    created_at: int
    updated_at: int
    due_at: int | None
    ended_at: int | None
    expires_at: int | None
    failure_reason: str | None
    metadata: Mapping[str, Any]
    out_id: str | None
    attempts: tuple[AttemptView, ...]
    direction: Direction = Direction.OUTBOUND
    path: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class VerificationView:
    """A verification as an app sees it: never the code. Times in milliseconds since the epoch.

    `call_id` and `call_status` tell of the newest call.
    """

    id: str
    to: str
    locale: str
    status: VerificationStatus
    call_id: str | None
    call_status: CallStatus | None
    code_length: int
    play_times: int
    require_keypress: bool
    checks_left: int
    sends_left: int
    expires_at: int
    created_at: int
    updated_at: int
    failure_reason: str | None
    out_id: str | None


@dataclass(frozen=True, slots=True)
class PaymentView:
    """A payment confirmation as an app sees it. Times in milliseconds since the epoch.

    `decided_by` says who or what ended it, `failure_reason` why where it failed.
    """

    id: str
    to: str
    locale: str
    status: PaymentStatus
    order_id: str
    amount: str
    currency: str
    payee: str
    call_id: str | None
    call_status: CallStatus | None
    expires_at: int
    created_at: int
    updated_at: int
    ended_at: int | None
    decided_by: str | None
    failure_reason: str | None
    metadata: Mapping[str, Any]
    out_id: str | None


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """The answer to a check: `valid` only when this very check approved it."""

    verification: VerificationView
    valid: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a dry run found: everything was checked, nothing dialled, nothing kept.

    `due_at` is the first moment at which the phone may ring, in milliseconds since the epoch; None: now.
    """

    to: str
    locale: str
    trunk: str
    trunk_reason: str
    due_at: int | None = None


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A webhook on its way. Times in milliseconds since the epoch.

    `due_at` is the next try; None when it is done with, or waits for an earlier one of its `resource`.
    """

    id: str
    resource: str
    sequence: int
    type: str
    status: DeliveryStatus
    created_at: int
    due_at: int | None
    tries: int
    delivered_at: int | None
    dead_at: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class WebhookEndpointView:
    """Where a client's webhooks go; `disabled_at` (milliseconds) and `reason` since it answered 410."""

    url: str
    disabled_at: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class BreakerView:
    """A trunk's breaker; `until` is when it may let a call through, `reason` why it made its last move."""

    phase: BreakerPhase
    failures: int
    until: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class TrunkView:
    """A trunk as it is now. Times in milliseconds since the epoch.

    `limit` is how many calls may stand, None: as many as come; `configured` is what the configuration says.
    `above` counts the calls of `in_use` that stand above the limit, or on a trunk without one. `why` says why
    it is not `open`.
    """

    name: str
    endpoint: str
    state: TrunkCondition
    why: str
    limit: int | None
    configured: int | None
    in_use: int
    outbound: int
    inbound: int
    foreign: int
    above: int
    calls_per_second: float | None
    burst: int
    drained_at: int | None
    saturated_at: int | None
    breaker: BreakerView


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is None on the last."""

    items: tuple[T, ...]
    next_cursor: str | None
