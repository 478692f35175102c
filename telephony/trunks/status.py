"""How a trunk is now, in one word and in a sentence. Pure. What it never does: decide about a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from telephony.model.trunk import LONGEST_BREAK_MS, BreakerPhase, TrunkCondition
from telephony.store.records import TrunkRecord, TrunkUse
from telephony.trunks.dialect import Trunk


@dataclass(frozen=True, slots=True)
class TrunkStatus:
    """A configured trunk as the store has it; `why` is empty where it is `open`."""

    trunk: Trunk
    record: TrunkRecord
    use: TrunkUse
    condition: TrunkCondition
    why: str

    @property
    def outbound(self) -> int:
        """Calls that we placed."""
        return self.use.in_use - self.use.inbound - self.use.foreign


def statuses(
    trunks: Sequence[Trunk], records: Mapping[str, TrunkRecord], use: Mapping[str, TrunkUse], now: int
) -> list[TrunkStatus]:
    """Every trunk that is configured and that the store knows, in the configured order; `now` in ms."""
    found = []
    for trunk in trunks:
        record = records.get(trunk.name)
        if record is not None:
            used = use.get(trunk.name, TrunkUse())
            found.append(TrunkStatus(trunk, record, used, *_condition(trunk, record, used, now)))
    return found


def _condition(trunk: Trunk, record: TrunkRecord, use: TrunkUse, now: int) -> tuple[TrunkCondition, str]:
    if record.drained_at is not None:
        if use.in_use:
            return TrunkCondition.DRAINING, f"takes no new call since {_clock(record.drained_at)}"
        return TrunkCondition.DRAINED, f"takes no call since {_clock(record.drained_at)}"
    if not trunk.hours.open_at(now):
        opens = trunk.hours.opens_at(now)
        return TrunkCondition.CLOSED, "outside its hours" + (f" until {_clock(opens)}" if opens else "")
    breaker, until = record.breaker, record.breaker.until or 0
    if breaker.phase is not BreakerPhase.CLOSED:
        if breaker.phase is BreakerPhase.OPEN and now < until <= now + LONGEST_BREAK_MS:
            return TrunkCondition.BROKEN, f"out of order until {_clock(until)} ({breaker.reason})"
        return TrunkCondition.PROBING, f"one call at a time tries it ({breaker.reason})"
    if record.limit is not None and use.in_use >= record.limit:
        return TrunkCondition.FULL, f"{use.in_use} of {record.limit} lines in use"
    return TrunkCondition.OPEN, ""


def line_of(status: TrunkStatus, now: int) -> str:
    """A trunk in a line, for the PBX's console."""
    use, record = status.use, status.record
    limit = "no limit" if record.limit is None else str(record.limit)
    pace = "" if status.trunk.calls_per_second is None else f", {status.trunk.calls_per_second:g}/s"
    saturated = "" if record.saturated_at is None else f", saturated since {_clock(record.saturated_at)}"
    why = f": {status.why}" if status.why else ""
    kinds = f"out {status.outbound}, in {use.inbound}, foreign {use.foreign}"
    word = f"{status.condition.value}{why}"
    return f"{use.in_use}/{limit} in use ({kinds}){pace}, {word}{saturated} [{_clock(now)}]"


def _clock(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment // 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
