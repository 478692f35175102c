"""A plan: where a call may go now, and the words for what comes of it.

What it never does: take a slot; `Slots` and the desk do, and their answer is put into words here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from telephony.errors import DestinationNotAllowed
from telephony.model.trunk import BreakerState, Passed
from telephony.store.records import Acquired, PassedTrunk, SlotCandidate, TrunkRecord, TrunkUse
from telephony.trunks.dialect import Trunk


@dataclass(frozen=True, slots=True)
class Route:
    """A chosen trunk with the reason that is shown on the attempt."""

    trunk: Trunk
    reason: str


@dataclass(frozen=True, slots=True)
class TrunkState:
    """What is known of a trunk now; a `limit` of None is none."""

    in_use: int = 0
    limit: int | None = None
    drained: bool = False
    breaker: BreakerState = field(default_factory=BreakerState)

    @classmethod
    def of(cls, record: TrunkRecord, use: TrunkUse | None) -> TrunkState:
        """The state of a trunk as the store has it."""
        in_use = 0 if use is None else use.in_use
        return cls(in_use, record.limit, record.drained_at is not None, record.breaker)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trunk that may take the call, and why it stands where it stands."""

    trunk: Trunk
    why: str


@dataclass(frozen=True, slots=True)
class Shut:
    """A trunk that serves the number and takes no call now; `until` is when it may, None: nobody knows."""

    trunk: Trunk
    words: str
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a call may go now. `candidates` are in the order in which they are to be tried.

    `after` are trunks that were tried in this round already, in no particular order.
    """

    candidates: tuple[Candidate, ...]
    shut: tuple[Shut, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether any trunk serves the number, now or later."""
        return bool(self.candidates or self.shut)

    @property
    def retry_at(self) -> int | None:
        """When a trunk that is shut now may open, in milliseconds since the epoch."""
        return min((one.until for one in self.shut if one.until is not None), default=None)

    def slots(self) -> tuple[SlotCandidate, ...]:
        """What to ask of the store (`Slots.acquire`), or of the desk."""
        return tuple(candidate.trunk.slot() for candidate in self.candidates)

    def route(self, acquired: Acquired) -> Route:
        """The trunk that was taken, with the whole reason: what was passed, and why this one.

        Raises `DestinationNotAllowed` where none was taken.
        """
        chosen = next((one for one in self.candidates if one.trunk.name == acquired.trunk), None)
        if chosen is None:
            raise DestinationNotAllowed(self.refusal(acquired))
        words = [*self._passed(acquired), f"{chosen.trunk.name} chosen: {chosen.why}"]
        if acquired.probe:
            words.append("to probe it")
        return Route(chosen.trunk, f"{', '.join(words)}{self._after()}")

    def refusal(self, acquired: Acquired) -> str:
        """Why no trunk took the call."""
        passed = self._passed(acquired)
        return f"{', '.join(passed) if passed else 'no trunk serves it'}{self._after()}"

    def _passed(self, acquired: Acquired) -> list[str]:
        trunks = {one.trunk.name: one.trunk for one in self.candidates}
        shut = [f"trunk {one.trunk.name} {one.words}" for one in self.shut]
        return shut + [f"trunk {one.trunk} {_words(one, trunks.get(one.trunk))}" for one in acquired.passed]

    def _after(self) -> str:
        return f"; after {', '.join(sorted(self.after))}" if self.after else ""


def _words(passed: PassedTrunk, trunk: Trunk | None) -> str:
    match passed.why:
        case Passed.FULL:
            return f"full {passed.in_use}/{passed.limit}"
        case Passed.RATE:
            pace = "" if trunk is None or trunk.calls_per_second is None else f" {trunk.calls_per_second:g}/s"
            return f"at its pace{pace}"
        case Passed.DRAINED:
            return "drained"
        case Passed.BREAKER:
            return f"out of order ({passed.reason})"
