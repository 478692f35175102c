"""A pace: so many calls a second, by GCRA, in milliseconds with fractions.

What is kept is one moment, the theoretical arrival time: when the next call comes if all come evenly. A
call conforms that is at most `burst - 1` intervals early, and moves it on by one interval (ITU-T I.371).
What it never does: read a clock, or keep anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from telephony.store.records import SlotCandidate

STALE_MS: Final = 60_000
"""A pace that is so much further ahead than it can be was kept by a clock that has been set back since."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`interval` and `early` are in milliseconds; so are all moments, since the epoch."""

    interval: float
    early: float

    @classmethod
    def of(cls, candidate: SlotCandidate) -> Pace | None:
        """The pace of a candidate; None where it has none."""
        if candidate.calls_per_second is None:
            return None
        interval = 1000 / candidate.calls_per_second
        return cls(interval, interval * (candidate.burst - 1))

    def free_at(self, tat: float | None, now: int) -> int | None:
        """When the next call conforms, None where one does now."""
        if tat is None or tat - self.early <= now or self._stale(tat, now):
            return None
        return math.ceil(tat - self.early)

    def after(self, tat: float | None, now: int) -> float:
        """What a call that conforms leaves."""
        if tat is None or tat < now or self._stale(tat, now):
            return now + self.interval
        return tat + self.interval

    def _stale(self, tat: float, now: int) -> bool:
        return tat > now + self.early + self.interval + STALE_MS
