"""What follows from an attempt that did not reach anybody: nothing, another trunk, or another time.

The table is by hangup cause and pure. Busy, declined and unallocated never meet a second trunk; once a
phone has rung, no other trunk rings it in the same round. What it never does: look at a clock or dial.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from telephony.errors import InputError
from telephony.model.call import CallClass
from telephony.model.hangup import Cause


class Step(StrEnum):
    """What to do next."""

    STOP = "stop"
    LATER = "later"
    """Ring again after a pause, as often as the policy allows."""
    NEXT_TRUNK = "next_trunk"
    """Try another trunk at once, where nothing has rung; else as `LATER`."""


NO_INPUT: Final = "no_input"
"""A conversation that brought no answer is retried like a phone that nobody picked up."""

_STEPS: Final[Mapping[str, Step]] = {
    Cause.BUSY: Step.LATER,
    Cause.NO_ANSWER: Step.LATER,
    Cause.UNREACHABLE: Step.LATER,
    Cause.CONGESTION: Step.NEXT_TRUNK,
    Cause.TRUNK_REFUSED: Step.NEXT_TRUNK,
    Cause.TRUNK_FAULT: Step.NEXT_TRUNK,
    Cause.PBX_LOST: Step.LATER,
    NO_INPUT: Step.LATER,
    Cause.DECLINED: Step.STOP,
    Cause.BLOCKED: Step.STOP,
    Cause.UNALLOCATED: Step.STOP,
    Cause.INVALID_NUMBER: Step.STOP,
    Cause.CANCELED: Step.STOP,
    Cause.NORMAL: Step.STOP,
    Cause.UNKNOWN: Step.STOP,
}

_ROUNDS: Final[Mapping[CallClass, int]] = {
    CallClass.OTP: 1,
    CallClass.TRANSACTION: 3,
    CallClass.CALLBACK: 3,
    CallClass.SURVEY: 1,
}
"""How often a phone is rung for each class where the request does not say."""

MAX_ROUNDS: Final = 10

PRIORITIES: Final[Mapping[CallClass, int]] = {
    CallClass.OTP: 100,
    CallClass.TRANSACTION: 50,
    CallClass.CALLBACK: 20,
    CallClass.SURVEY: 10,
}
"""Who goes first where several wait: somebody is looking at a screen for a code."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when: `rounds` rings in all, the first pause and its growth, in seconds.

    `on` names the causes that are worth another ring later, None: all that the table has. It says nothing
    of another trunk at once: nobody was rung then.
    """

    rounds: int = 1
    first_pause: float = 120.0
    growth: float = 2.0
    longest_pause: float = 900.0
    on: frozenset[str] | None = None

    def step(self, cause: str, *, rang: bool) -> Step:
        """Return what follows a cause; a phone that rang is rung by no other trunk now."""
        step = _STEPS.get(cause, Step.STOP)
        if step is Step.STOP or (step is Step.NEXT_TRUNK and not rang):
            return step
        return Step.LATER if self.on is None or cause in self.on else Step.STOP

    def pause(self, rounds_done: int, chance: Callable[[], float] = random.random) -> float:
        """Return the seconds before the next round: growing, with a quarter of jitter."""
        steady = min(self.longest_pause, self.first_pause * self.growth ** max(0, rounds_done - 1))
        return steady * (0.75 + 0.5 * chance())


def policy_for(
    call_class: CallClass, wanted: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> RetryPolicy:
    """Make the policy of a request from its class and its own `retry`.

    `wanted` may hold `attempts` (1 to 10), `pause`, `longest_pause` (seconds) and `on` (causes that are
    worth another ring); `defaults` holds what the configuration says of the class in the same words, for
    each that `wanted` leaves out. A `pause` is cut short by no `longest_pause` but one that was said where it
    was said, or nearer to the call. Raises `InputError` naming the key.
    """
    bound = wanted if "pause" in wanted else {**(defaults or {}), **wanted}
    wanted = {**(defaults or {}), **wanted}
    policy = RetryPolicy(rounds=_ROUNDS[call_class])
    known = {"attempts", "pause", "longest_pause", "on"}
    for key in wanted:
        if key not in known:
            raise InputError(f"retry.{key}", "is not known", f"Known: {', '.join(sorted(known))}")
    rounds = wanted.get("attempts", policy.rounds)
    if not isinstance(rounds, int) or isinstance(rounds, bool) or not 1 <= rounds <= MAX_ROUNDS:
        raise InputError("retry.attempts", "is out of range", f"Send a number from 1 to {MAX_ROUNDS}")
    pause = _seconds(wanted, "pause", policy.first_pause)
    longest = _seconds(wanted, "longest_pause", policy.longest_pause)
    return RetryPolicy(
        rounds=rounds,
        first_pause=pause,
        longest_pause=longest if "longest_pause" in bound else max(longest, pause),
        on=_causes(wanted.get("on")),
    )


def _seconds(wanted: Mapping[str, Any], key: str, default: float) -> float:
    value = wanted.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= 86_400:
        raise InputError(f"retry.{key}", "is out of range", "Send seconds from 1 to 86400")
    return float(value)


def _causes(causes: Any) -> frozenset[str] | None:
    """Read `on`: only what the table retries can be named."""
    if causes is None:
        return None
    later = {cause for cause, step in _STEPS.items() if step is not Step.STOP}
    if not isinstance(causes, list) or not all(isinstance(cause, str) and cause in later for cause in causes):
        raise InputError(
            "retry.on", "names a cause that is never retried", f"Known: {', '.join(sorted(later))}"
        )
    return frozenset(causes)
