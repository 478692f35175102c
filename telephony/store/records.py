"""What the tables hold, as frozen values: one field per column, in the columns' order.

All times are integer milliseconds since the epoch, UTC; numbers are E.164 with their `+`; identifiers
come from `telephony.model.ids.new_id`. What it never does: read or write anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from telephony.model.call import (
    AttemptPhase,
    CallClass,
    CallStatus,
    Direction,
    PaymentStatus,
    VerificationStatus,
)
from telephony.model.delivery import DeliveryStatus
from telephony.model.trunk import BreakerState, Passed, SlotKind

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Page(Generic[Record]):
    """Some records, newest first; `cursor` leads to the next page and is None on the last."""

    items: tuple[Record, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One call that somebody asked for, with all the attempts it may take.

    `due_at` is when to look at it next: None when it is final, or when an owner holds it in memory.
    `dial_by` is the last moment to dial; `expires_at` the moment from which it means nothing.
    `owner`, `fence` and `lease_until` say whose it is; `lease_until` is None when it is nobody's.
    A final `status` goes with an `ended_at`, and the other way round.
    """

    id: str
    client: str
    flow: str
    flow_ref: str | None = None
    to_number: str
    call_class: CallClass
    priority: int = 0
    status: CallStatus = CallStatus.QUEUED
    from_number: str | None = None
    locale: str | None = None
    trunk_hint: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    out_id: str | None = None
    not_before: int | None = None
    due_at: int | None = None
    dial_by: int | None = None
    expires_at: int | None = None
    attempts_made: int = 0
    max_attempts: int = 1
    retry: Mapping[str, Any] = field(default_factory=dict)
    cancel_requested_at: int | None = None
    owner: str | None = None
    fence: int = 0
    lease_until: int | None = None
    created_at: int
    updated_at: int
    ended_at: int | None = None
    result: Mapping[str, Any] | None = None
    failure_reason: str | None = None
    direction: Direction = Direction.OUTBOUND


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One try to reach the number of a request: at most one ring.

    `number` counts from 1 inside its request. `dialed_at` is None until it is really dialled. `pbx`
    names the PBX node. `keys` are digits that were pressed and are no secret.
    """

    id: str
    request_id: str
    number: int
    to_number: str
    trunk: str | None = None
    trunk_reason: str | None = None
    phase: AttemptPhase = AttemptPhase.LEASED
    owner: str | None = None
    fence: int = 0
    lease_until: int | None = None
    created_at: int
    dialed_at: int | None = None
    ringing_at: int | None = None
    answered_at: int | None = None
    ended_at: int | None = None
    sip: int | None = None
    q850: int | None = None
    cause: str | None = None
    end_reason: str | None = None
    pbx: str | None = None
    keys: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """When an attempt held a line of its trunk, for whoever counts load. `id` leads to those after it."""

    id: str
    dialed_at: int
    answered_at: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRecord:
    """A number being verified. The code is here as a keyed hash, and sealed until it is final.

    `code_sealed` is erased by the update that makes the status final.
    """

    id: str
    client: str
    to_number: str
    locale: str
    status: VerificationStatus = VerificationStatus.PENDING
    code_hash: str = field(repr=False)
    code_sealed: bytes | None = field(repr=False, default=None)
    code_length: int
    play_times: int = 1
    require_keypress: bool = False
    brand: str | None = None
    checks_left: int
    max_checks: int
    sends: int = 0
    max_sends: int
    expires_at: int
    created_at: int
    updated_at: int
    ended_at: int | None = None
    approved_at: int | None = None
    out_id: str | None = None
    last_request_id: str | None = None
    failure_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRecord:
    """A payment to be confirmed. `amount` is a decimal as text; `decided_by` says who or what ended it."""

    id: str
    client: str
    to_number: str
    locale: str
    status: PaymentStatus = PaymentStatus.PENDING
    order_id: str
    amount: str
    currency: str
    payee: str
    brand: str | None = None
    decide_url: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    out_id: str | None = None
    request_id: str | None = None
    expires_at: int
    created_at: int
    updated_at: int
    ended_at: int | None = None
    decided_by: str | None = None
    failure_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFailureRecord:
    """A wrong code, counted against the number it was sent to."""

    id: str
    to_number: str
    at: int
    verification_id: str


class IdempotencyState(StrEnum):
    """Whether the first request under a key has been answered."""

    IN_FLIGHT = "in_flight"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class New:
    """The key is ours: do the work, then `finish` or `abandon`."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The work was done before: answer with what was answered then."""

    status: int
    body: str = field(repr=False)
    content_type: str
    resource: str | None


@dataclass(frozen=True, slots=True)
class InFlight:
    """Somebody is at work under this key right now."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was used for another request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """Why a decision fell: told when a call is explained, never read to decide."""

    id: str
    at: int
    request_id: str | None = None
    attempt_id: str | None = None
    kind: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRecord:
    """A webhook to be delivered. `sequence` counts from 1 inside its `resource` and is given by `add`.

    `opened_at` is when its turn came, None while an earlier one of its resource is not done with.
    `due_at` is when to look at it next: the next try, or the end of the lease under which it is being sent.
    Until `expires_at` (None: never) it is tried at short intervals. `owner` sent it last, under `fence`.
    """

    id: str
    client: str
    resource: str
    sequence: int = 0
    type: str
    payload: Mapping[str, Any]
    created_at: int
    due_at: int
    tries: int = 0
    delivered_at: int | None = None
    dead_at: int | None = None
    last_error: str | None = None
    url: str
    opened_at: int | None = None
    expires_at: int | None = None
    owner: str | None = None
    fence: int = 0

    @property
    def status(self) -> DeliveryStatus:
        """How far it has come."""
        if self.delivered_at is not None:
            return DeliveryStatus.DELIVERED
        return DeliveryStatus.PENDING if self.dead_at is None else DeliveryStatus.DEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class DisabledEndpointRecord:
    """A client's webhook URL that wants no more. It counts as long as that URL is the configured one."""

    id: str
    url: str
    disabled_at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """One line of a trunk, or a call that stands outside its lines.

    A line has a `number`, its own in the trunk; it is free while nobody holds it. Without a number it is a
    call above the limit, or one of a trunk that has none, and goes with its holder.
    """

    id: str
    trunk: str
    number: int | None = None
    holder: str | None = None
    kind: SlotKind | None = None
    owner: str | None = None
    acquired_at: int | None = None
    lease_until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkRecord:
    """A trunk as it is now.

    `configured` is how many lines its configuration gives it, None: no limit; `channels` is what an operator
    said since, None: as configured.
    """

    name: str
    configured: int | None = None
    channels: int | None = None
    drained_at: int | None = None
    saturated_at: int | None = None
    updated_at: int
    breaker: BreakerState = field(default_factory=BreakerState)

    @property
    def limit(self) -> int | None:
        """How many calls may stand at once; None: as many as come."""
        return self.configured if self.channels is None else self.channels


@dataclass(frozen=True, slots=True)
class TrunkUse:
    """How many calls stand on a trunk, and how many may; `lines` are the numbered slots there are."""

    in_use: int = 0
    lines: int = 0
    inbound: int = 0
    foreign: int = 0
    extra: int = 0
    """Those of `in_use` that hold no line: above the limit, or on a trunk without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCandidate:
    """A trunk that a call may take. Its pace: `burst` calls at once, `calls_per_second` in the long run."""

    trunk: str
    calls_per_second: float | None = None
    burst: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotAsk:
    """Somebody who wants a slot of the first of `candidates` that has one, until `lease_until`."""

    candidates: tuple[SlotCandidate, ...]
    holder: str
    owner: str
    lease_until: int
    kind: SlotKind = SlotKind.ATTEMPT


@dataclass(frozen=True, slots=True)
class PassedTrunk:
    """A candidate that was passed over. `until` is when that reason may end, None where nobody can say.

    `limit` and `in_use` are told of a full trunk, `reason` of an open breaker.
    """

    trunk: str
    why: Passed
    until: int | None = None
    in_use: int | None = None
    limit: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Acquired:
    """What came of asking for a slot: the trunk, None where each was passed over, and what was passed.

    `probe` says that the trunk's breaker lets this one call through to see whether the trunk works again.
    `retry_at` is the earliest moment at which a pace or a breaker may let the holder through.
    """

    trunk: str | None
    passed: tuple[PassedTrunk, ...] = ()
    probe: bool = False

    @property
    def retry_at(self) -> int | None:
        """See the class."""
        return min((one.until for one in self.passed if one.until is not None), default=None)
