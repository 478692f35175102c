"""From a hangup cause to the status an app sees: one table, pure.

What it never does: retry; it only names.
"""

from __future__ import annotations

from typing import Final

from telephony.calls.flow import Outcome
from telephony.calls.policy import NO_INPUT
from telephony.model.call import CallStatus
from telephony.model.hangup import Cause

_STATUS: Final = {
    Cause.NORMAL: CallStatus.FAILED,
    Cause.BUSY: CallStatus.BUSY,
    Cause.NO_ANSWER: CallStatus.NO_ANSWER,
    Cause.DECLINED: CallStatus.REJECTED,
    Cause.BLOCKED: CallStatus.REJECTED,
    Cause.UNALLOCATED: CallStatus.INVALID_NUMBER,
    Cause.INVALID_NUMBER: CallStatus.INVALID_NUMBER,
    Cause.UNREACHABLE: CallStatus.UNREACHABLE,
    Cause.CONGESTION: CallStatus.FAILED,
    Cause.TRUNK_REFUSED: CallStatus.FAILED,
    Cause.TRUNK_FAULT: CallStatus.FAILED,
    Cause.CANCELED: CallStatus.CANCELED,
    Cause.PBX_LOST: CallStatus.FAILED,
    Cause.UNKNOWN: CallStatus.UNKNOWN,
}
"""What a leg that never had its conversation means. `NORMAL` there: answered, but the PBX could not
reach our FastAGI server."""


def unanswered(cause: Cause) -> Outcome:
    """The outcome of a leg that ended before any conversation.

    Somebody who answered and met no controller is rung again like one who gave no answer.
    """
    if cause is Cause.NORMAL:
        return Outcome(_STATUS[cause], "no_session", retry_as=NO_INPUT)
    return Outcome(_STATUS[cause], cause.value, retry_as=cause.value)


def interrupted(cause: Cause) -> Outcome:
    """The outcome of a conversation that neither side ended: the PBX or the controller went away.

    `UNREACHABLE` says that there was none: what answered was the carrier's announcement.
    """
    if cause is Cause.UNREACHABLE:
        return unanswered(cause)
    reason = "pbx_lost" if cause is Cause.PBX_LOST else "interrupted"
    return Outcome(CallStatus.FAILED, reason, retry_as=NO_INPUT)
