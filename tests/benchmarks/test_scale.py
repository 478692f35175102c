"""What must not grow with the store: the time to a dial, and how late a timer is.

Ratios and wide bounds: the machine may be busy. Long by `make soak`; the figures are `make bench`'s.
"""

from __future__ import annotations

import statistics
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.benchmarks.filled_store import CACHE
from tests.benchmarks.measure import percentile
from tests.benchmarks.store_size import controllers, dial_latency
from tests.benchmarks.timers import MANY, measure


async def slowdown(many: int, calls: int, folder: Path) -> float:
    """How much longer a call takes to its dial with `many` requests stored than with a hundred."""
    async with AsyncExitStack() as stack:
        houses = await controllers(stack, (100, many), print, folder)
        times = await dial_latency(houses, calls)
    few, slow = (statistics.median(values) for values in times.values())
    print(f"{1000 * few:.1f} ms with 100 stored, {1000 * slow:.1f} ms with {many:,}")
    return slow / few


async def test_a_hundred_thousand_stored_slow_no_dial_down(tmp_path: Path) -> None:
    # A lost index costs four times as much at this size; noise has been seen to cost 1.5 times.
    assert await slowdown(100_000, 40, tmp_path) < 2


async def test_ten_thousand_waiting_make_no_timer_late() -> None:
    (late,) = (await measure((MANY,), 5)).values()
    assert min(late) >= 0, "nothing is dialled before its time"
    assert percentile(late, 50) < 0.1
    assert max(late) < 0.9


@pytest.mark.soak
async def test_a_million_stored_slow_no_dial_down() -> None:
    assert await slowdown(1_000_000, 300, CACHE) <= 1.2


@pytest.mark.soak
async def test_ten_thousand_waiting_make_no_timer_late_for_a_minute() -> None:
    late = await measure((1200, MANY), 60)
    few, many = (percentile(values, 50) for values in late.values())
    assert many <= 1.5 * few
    assert many < 0.05
    assert percentile(late[MANY], 99) < 0.25
