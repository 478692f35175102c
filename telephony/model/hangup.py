"""Why a leg ended: one vocabulary for SIP codes (RFC 3261), Q.850 causes and our own doing.

What it never does: decide what follows; `calls/` reads the cause and decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What happened to the leg, in the field's terms."""

    NORMAL = "normal"
    """Answered, then somebody hung up."""
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    DECLINED = "declined"
    """The callee refused the call (603, or 403 after it rang)."""
    BLOCKED = "blocked"
    """The callee never wants this call (607)."""
    UNALLOCATED = "unallocated"
    """The number does not exist (404)."""
    INVALID_NUMBER = "invalid_number"
    """The number is incomplete or malformed (484)."""
    UNREACHABLE = "unreachable"
    """The phone is off or out of coverage (480)."""
    CONGESTION = "congestion"
    """The trunk or the network is full (503)."""
    TRUNK_REFUSED = "trunk_refused"
    """The carrier refuses us, not the callee (403 before any 18x, 401, 407)."""
    TRUNK_FAULT = "trunk_fault"
    """The trunk did not answer or broke (408, 500, unreachable endpoint)."""
    CANCELED = "canceled"
    """We gave up the call ourselves before it was answered."""
    PBX_LOST = "pbx_lost"
    """The PBX went away with the call."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HangupCause:
    """A cause with what it was made from: `sip` is the final SIP code, `q850` the ISDN cause."""

    cause: Cause
    sip: int | None = None
    q850: int | None = None


_BY_SIP: dict[int, Cause] = {
    401: Cause.TRUNK_REFUSED,
    404: Cause.UNALLOCATED,
    407: Cause.TRUNK_REFUSED,
    408: Cause.TRUNK_FAULT,
    410: Cause.UNALLOCATED,
    480: Cause.UNREACHABLE,
    484: Cause.INVALID_NUMBER,
    486: Cause.BUSY,
    487: Cause.CANCELED,
    500: Cause.TRUNK_FAULT,
    502: Cause.TRUNK_FAULT,
    503: Cause.CONGESTION,
    504: Cause.TRUNK_FAULT,
    600: Cause.BUSY,
    603: Cause.DECLINED,
    604: Cause.UNALLOCATED,
    606: Cause.TRUNK_FAULT,
    607: Cause.BLOCKED,
    608: Cause.BLOCKED,
}

_BY_Q850: dict[int, Cause] = {
    1: Cause.UNALLOCATED,
    3: Cause.UNALLOCATED,
    16: Cause.NORMAL,
    17: Cause.BUSY,
    18: Cause.NO_ANSWER,
    19: Cause.NO_ANSWER,
    20: Cause.UNREACHABLE,
    21: Cause.DECLINED,
    22: Cause.UNALLOCATED,
    27: Cause.TRUNK_FAULT,
    28: Cause.INVALID_NUMBER,
    34: Cause.CONGESTION,
    38: Cause.TRUNK_FAULT,
    41: Cause.TRUNK_FAULT,
    42: Cause.CONGESTION,
}


def classify(*, sip: int | None, q850: int | None, rang: bool, answered: bool) -> HangupCause:
    """Map a final SIP code and a Q.850 cause to one `HangupCause`; the SIP code speaks first.

    `rang` is whether an 18x was seen: a 403 before it is the carrier refusing us, after it the
    callee declining; a 408 after it is a phone that nobody picked up.
    """
    if answered:
        return HangupCause(Cause.NORMAL, sip, q850)
    if sip == 403:
        return HangupCause(Cause.DECLINED if rang else Cause.TRUNK_REFUSED, sip, q850)
    if sip == 408 and rang:
        return HangupCause(Cause.NO_ANSWER, sip, q850)
    if sip is not None and sip in _BY_SIP:
        return HangupCause(_BY_SIP[sip], sip, q850)
    if sip is not None and 400 <= sip < 500:
        return HangupCause(Cause.TRUNK_REFUSED, sip, q850)
    if sip is not None and sip >= 500:
        return HangupCause(Cause.TRUNK_FAULT, sip, q850)
    if q850 is not None and q850 in _BY_Q850:
        return HangupCause(_BY_Q850[q850], sip, q850)
    return HangupCause(Cause.UNKNOWN, sip, q850)
