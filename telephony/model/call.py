"""The life of a call in words: statuses of a call, phases of an attempt, classes of calls.

The table of moves lives with the state machine in `calls/`. What it never does: change anything.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Direction(StrEnum):
    """Which way a call went."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"


class CallStatus(StrEnum):
    """What an app sees of a call."""

    QUEUED = "queued"
    DIALING = "dialing"
    RINGING = "ringing"
    ANSWERED = "answered"
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    REJECTED = "rejected"
    INVALID_NUMBER = "invalid_number"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


FINAL_CALL_STATUSES: Final = frozenset(CallStatus) - {
    CallStatus.QUEUED,
    CallStatus.DIALING,
    CallStatus.RINGING,
    CallStatus.ANSWERED,
}


class AttemptPhase(StrEnum):
    """How far one attempt has come. `DIALING` is on disk before anything is on the wire."""

    LEASED = "leased"
    DIALING = "dialing"
    RINGING = "ringing"
    ANSWERED = "answered"
    ENDED = "ended"


class CallClass(StrEnum):
    """What kind of call it is: it decides priority and quiet hours."""

    OTP = "otp"
    TRANSACTION = "transaction"
    CALLBACK = "callback"
    SURVEY = "survey"


class VerificationStatus(StrEnum):
    """States of a verification; all but `PENDING` are final."""

    PENDING = "pending"
    APPROVED = "approved"
    CANCELED = "canceled"
    EXPIRED = "expired"
    MAX_ATTEMPTS_REACHED = "max_attempts_reached"
    FAILED = "failed"


class PaymentStatus(StrEnum):
    """States of a payment confirmation; all but `PENDING` are final."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    DECLINED = "declined"
    EXPIRED = "expired"
    CANCELED = "canceled"
    FAILED = "failed"
