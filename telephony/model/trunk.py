"""Words about trunks that the store keeps and the rooms above it decide by.

What it never does: decide; `trunks/` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MOST_LINES: Final = 10_000
"""A trunk with more lines than this has no limit worth keeping."""

LONGEST_BREAK_MS: Final = 3_600_000
"""No breaker stays open longer than an hour in one go: what says more was written by a clock that was off."""


LONGEST_PROBE_MS: Final = 60_000
"""How long a probe may take; then the trunk's breaker lets another one through."""


class SlotKind(StrEnum):
    """Whose call takes a trunk's slot."""

    ATTEMPT = "attempt"
    """A call that we placed; the holder is the attempt's id."""
    INBOUND = "inbound"
    """A call that came in to us; the holder is the channel's id."""
    FOREIGN = "foreign"
    """A call on the trunk that is none of ours; the holder is the channel's id."""


class BreakerPhase(StrEnum):
    """Whether a trunk that fails is left alone."""

    CLOSED = "closed"
    """Calls go through."""
    OPEN = "open"
    """None goes through before `until`; then one does, to probe."""
    HALF_OPEN = "half_open"
    """One call probes; until it is over, or `until` has passed, no other goes through."""


class Passed(StrEnum):
    """Why a trunk was passed over."""

    FULL = "full"
    RATE = "rate"
    """Its calls-per-second budget is used up."""
    DRAINED = "drained"
    BREAKER = "breaker"


class TrunkCondition(StrEnum):
    """Whether a trunk takes a call now, in a word."""

    OPEN = "open"
    FULL = "full"
    DRAINING = "draining"
    """It takes no new call, and some still stand."""
    DRAINED = "drained"
    BROKEN = "broken"
    """Its breaker is open."""
    PROBING = "probing"
    """Its breaker lets one call at a time try."""
    CLOSED = "closed"
    """Outside its hours."""


@dataclass(frozen=True, slots=True)
class BreakerState:
    """A breaker as all controllers share it; times in milliseconds since the epoch.

    `failures` are the moments of the failures that count now, oldest first. `trips` is how often it opened
    since it was last closed; `probe` is who probes; `reason` is why it made its last move, at `moved_at`.
    """

    phase: BreakerPhase = BreakerPhase.CLOSED
    failures: tuple[int, ...] = ()
    until: int | None = None
    trips: int = 0
    probe: str | None = None
    reason: str | None = None
    moved_at: int | None = None
