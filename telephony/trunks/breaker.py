"""A breaker per trunk: a trunk that fails is left alone for a while, and probed before it is used again.

    closed ──(enough failures within the window)──► open ──(its time is over)──► half open
       ▲                                             ▲ │                          │    │
       │                                             │ └─(the PBX reaches it)─┐   │    │
       │                                             └──(the probe fails)─────┼───┘    │
       └──────────────────────────────────────────────────────────────────────┴────────┘ the probe works

A pure state machine over `BreakerState`, which the store shares between controllers. The step to half open
is taken with the slot (`Slots.acquire`): so there is one probe, whoever asks. Every move has its reason.

How it is used: at the end of an attempt, where `matters` says so, read the state with
`work.trunks.breaker(trunk)`, step it with `after_call`, and write it where it is another one; so with
`after_qualify` whenever the PBX was asked whether it reaches the trunk. All of it in one transaction, after
the slot was given back. What it never does: look at a clock, or know a trunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from telephony.model.hangup import Cause, HangupCause
from telephony.model.trunk import BreakerPhase, BreakerState

QUALIFY: Final = "qualify"
"""The `probe` of a breaker whose trunk the PBX itself does not reach: it closes when the PBX does."""

_NO_WORD: Final = (408, 504, None)
"""What a trunk fault says when nobody answered: Request Timeout, Gateway Timeout, nothing at all."""


class Verdict(StrEnum):
    """What a call that is over tells of its trunk."""

    FAILS = "fails"
    WORKS = "works"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """Opens after `failures` within `window`; stays open for `pause`, each time `growth` times as long, up to
    `longest`. Times in seconds. Once closed for `longest`, it begins with `pause` again.
    """

    failures: int = 5
    window: float = 30.0
    pause: float = 5.0
    growth: float = 2.0
    longest: float = 300.0


def verdict(cause: HangupCause) -> Verdict:
    """503, and no answer at all, are failures; a callee's answer shows that the trunk works.

    A refusal by the carrier (403 before it rang, 500) is neither: it is an answer, but no call.
    """
    match cause.cause:
        case Cause.CONGESTION:
            return Verdict.FAILS
        case Cause.TRUNK_FAULT:
            return Verdict.FAILS if cause.sip in _NO_WORD else Verdict.NOTHING
        case Cause.TRUNK_REFUSED | Cause.CANCELED | Cause.PBX_LOST | Cause.UNKNOWN:
            return Verdict.NOTHING
        case _:
            return Verdict.WORKS


def matters(cause: HangupCause, *, probe: bool) -> bool:
    """Whether a call's end can move its trunk's breaker; what works on a closed one never does."""
    return probe or verdict(cause) is Verdict.FAILS


def after_call(
    state: BreakerState, holder: str, cause: HangupCause, now: int, rules: BreakerRules
) -> BreakerState:
    """Return the breaker after a call of `holder`; the same object where nothing moved or was counted."""
    words = f"{cause.sip}" if cause.sip is not None else cause.cause.value
    probing = state.phase is BreakerPhase.HALF_OPEN and state.probe == holder
    match verdict(cause):
        case Verdict.FAILS if probing:
            return _open(state, f"the probe failed: {words}", now, rules)
        case Verdict.FAILS if state.phase is BreakerPhase.CLOSED:
            return _count(state, words, now, rules)
        case Verdict.WORKS if probing:
            return _close(state, f"the probe got through: {words}", now)
        case Verdict.NOTHING if probing:
            reason = f"the probe told nothing: {words}"
            return replace(state, phase=BreakerPhase.OPEN, probe=None, until=now, reason=reason, moved_at=now)
        case _:
            # What was on its way when the breaker moved tells of the time before.
            return state


def rings(state: BreakerState, holder: str, now: int) -> BreakerState:
    """Return the breaker once a call rings or is answered: a probe need not wait for its end."""
    if state.phase is BreakerPhase.HALF_OPEN and state.probe == holder:
        return _close(state, "the probe got through: it rings", now)
    return state


def after_qualify(state: BreakerState, reached: bool | None, now: int, rules: BreakerRules) -> BreakerState:
    """Return the breaker after the PBX told whether it reaches the trunk; None tells nothing.

    A trunk that is not reached fails like a call. One that was not reached and is again is used at once; one
    that refused calls is not: that it answers OPTIONS says nothing of calls.
    """
    if reached is None:
        return state
    if not reached and state.phase is BreakerPhase.CLOSED:
        counted = _count(state, "not reached by the PBX", now, rules)
        return replace(counted, probe=QUALIFY) if counted.phase is BreakerPhase.OPEN else counted
    if not reached and state.phase is BreakerPhase.OPEN and state.probe is None:
        return replace(state, probe=QUALIFY)
    if reached and state.phase is BreakerPhase.OPEN and state.probe == QUALIFY:
        return _close(state, "reached by the PBX again", now)
    return state


def told(trunk: str, before: BreakerState, after: BreakerState) -> dict[str, str | int | None]:
    """What an event says of a breaker's move; `until` in milliseconds since the epoch."""
    return {
        "trunk": trunk,
        "was": before.phase.value,
        "is": after.phase.value,
        "reason": after.reason,
        "until": after.until,
    }


def _count(state: BreakerState, words: str, now: int, rules: BreakerRules) -> BreakerState:
    since = now - round(rules.window * 1000)
    failures = (*(moment for moment in state.failures if since < moment <= now), now)
    if len(failures) < rules.failures:
        return replace(state, failures=failures)
    reason = f"{words}: {len(failures)} failures within {rules.window:g} s"
    return _open(state, reason, now, rules)


def _open(state: BreakerState, reason: str, now: int, rules: BreakerRules) -> BreakerState:
    calm = state.phase is BreakerPhase.CLOSED and now - (state.moved_at or 0) > rules.longest * 1000
    trips = 1 if calm else state.trips + 1
    pause = min(rules.longest, rules.pause * rules.growth ** min(trips - 1, 64))
    return BreakerState(
        phase=BreakerPhase.OPEN,
        until=now + round(pause * 1000),
        trips=trips,
        reason=reason,
        moved_at=now,
    )


def _close(state: BreakerState, reason: str, now: int) -> BreakerState:
    return BreakerState(trips=state.trips, reason=reason, moved_at=now)
