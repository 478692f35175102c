"""A trunk's state in a word and a sentence."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from telephony.model.trunk import BreakerPhase, BreakerState, TrunkCondition
from telephony.store.records import TrunkRecord, TrunkUse
from telephony.trunks.dialect import Trunk
from telephony.trunks.hours import WeekHours, parse_window
from telephony.trunks.status import line_of, statuses

NOW = 1_750_000_000_000
"""Sunday 2025-06-15 15:06:40 UTC."""

TRUNK = Trunk("main", "carrier", calls_per_second=2.5)
SHUT = Trunk("main", "carrier", hours=WeekHours((parse_window("mon-fri 09:00-18:00"),), ZoneInfo("UTC")))


def broken(phase: BreakerPhase, until: int) -> BreakerState:
    return BreakerState(phase=phase, until=until, reason="503: 5 failures within 30 s")


@pytest.mark.parametrize(
    ("trunk", "record", "in_use", "state", "why"),
    [
        (TRUNK, {}, 3, TrunkCondition.OPEN, ""),
        (TRUNK, {"configured": 3}, 3, TrunkCondition.FULL, "3 of 3 lines in use"),
        (TRUNK, {"configured": 3, "channels": 4}, 3, TrunkCondition.OPEN, ""),
        (TRUNK, {"configured": 30, "channels": 0}, 0, TrunkCondition.FULL, "0 of 0 lines in use"),
        (
            TRUNK,
            {"drained_at": NOW},
            1,
            TrunkCondition.DRAINING,
            "takes no new call since 2025-06-15 15:06:40Z",
        ),
        (TRUNK, {"drained_at": NOW}, 0, TrunkCondition.DRAINED, "takes no call since 2025-06-15 15:06:40Z"),
        (SHUT, {}, 0, TrunkCondition.CLOSED, "outside its hours until 2025-06-16 09:00:00Z"),
        (
            TRUNK,
            {"breaker": broken(BreakerPhase.OPEN, NOW + 5000)},
            0,
            TrunkCondition.BROKEN,
            "out of order until 2025-06-15 15:06:45Z (503: 5 failures within 30 s)",
        ),
        (
            TRUNK,
            {"breaker": broken(BreakerPhase.OPEN, NOW - 1)},
            0,
            TrunkCondition.PROBING,
            "one call at a time tries it (503: 5 failures within 30 s)",
        ),
        (
            TRUNK,
            {"breaker": broken(BreakerPhase.HALF_OPEN, NOW + 5000)},
            1,
            TrunkCondition.PROBING,
            "one call at a time tries it (503: 5 failures within 30 s)",
        ),
    ],
)
def test_states(trunk: Trunk, record: dict[str, Any], in_use: int, state: TrunkCondition, why: str) -> None:
    known = {"main": TrunkRecord(name="main", updated_at=NOW, **record)}
    (seen,) = statuses([trunk], known, {"main": TrunkUse(in_use)}, NOW)
    assert (seen.condition, seen.why) == (state, why)


def test_a_line_for_the_console() -> None:
    known = {"main": TrunkRecord(name="main", configured=30, saturated_at=NOW, updated_at=NOW)}
    use = {"main": TrunkUse(30, 30, inbound=5, foreign=1)}
    assert line_of(statuses([TRUNK], known, use, NOW)[0], NOW) == (
        "30/30 in use (out 24, in 5, foreign 1), 2.5/s, full: 30 of 30 lines in use, "
        "saturated since 2025-06-15 15:06:40Z [2025-06-15 15:06:40Z]"
    )
    assert statuses([TRUNK], {}, {}, NOW) == []
