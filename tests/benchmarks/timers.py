"""How late a request is dialled that waited for its time, while many others wait.

Two controllers, one with few and one with 10,000 waiting, both with the same moments: 20 are due per
second, at random. Timers are rows (`due_at`) that the engine sleeps towards.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.benchmarks.filled_store import HOUR_MS, add_due, new_store
from tests.benchmarks.in_memory import InMemory, code_box, in_memory
from tests.benchmarks.measure import ROUNDS, Report, middles, percentile, ratios

MANY = 10_000
PER_SECOND = 20
SECONDS_A_TURN = 5
LEAD = 8.0
"""Seconds in which both controllers start before anything is due."""


async def timer_lateness(report: Report, say: Callable[[str], None]) -> None:
    """Report the halves and the tails with few and with many waiting."""
    seconds = ROUNDS * SECONDS_A_TURN
    late = await measure((seconds * PER_SECOND, MANY), seconds)
    report.keep("seconds after due_at", {str(waiting): values for waiting, values in late.items()})
    for waiting, values in late.items():
        say(
            f"{waiting:,} waiting: dialled p50 {1000 * percentile(values, 50):.1f} ms,"
            f" p99 {1000 * percentile(values, 99):.1f} ms after it was due"
        )
    few, many = late
    turns = {waiting: middles(values) for waiting, values in late.items()}
    report.row(f"timer lateness p50, {many:,} waiting / {few}", ratios(turns[many], turns[few]))
    report.row(f"timer lateness p50, {many:,} waiting", [1000 * one for one in turns[many]], unit=" ms")
    report.row(
        f"timer lateness p99 of all turns, {many:,} waiting",
        [1000 * percentile(late[many], 99)],
        unit=" ms",
    )


async def measure(sizes: Sequence[int], seconds: int) -> dict[int, list[float]]:
    """Seconds after its moment at which each was dialled, by how many wait in all, in the order of time."""
    count = seconds * PER_SECOND
    with tempfile.TemporaryDirectory(prefix="telephony-bench-") as name:
        folder = Path(name)
        codes = code_box(folder)
        stores = {waiting: folder / f"{waiting}.db" for waiting in sizes}
        first = time.time() + LEAD
        begin = round(1000 * first)
        chance = random.Random(1)
        due = {f"+86138{n:08d}": begin + chance.randrange(1000 * seconds) for n in range(count)}
        for waiting, path in stores.items():
            await new_store(path)
            later = {f"+86136{n:08d}": begin + HOUR_MS + n * 1000 for n in range(waiting - count)}
            add_due(path, codes, due | later)
        async with AsyncExitStack() as stack:
            houses = {
                waiting: await stack.enter_async_context(in_memory(path)) for waiting, path in stores.items()
            }
            assert time.time() < first, "the controllers took too long to start"
            await asyncio.sleep(first + seconds - time.time())
            return {waiting: await _lateness(house, due) for waiting, house in houses.items()}


async def _lateness(house: InMemory, due: dict[str, int]) -> list[float]:
    return [await house.dialled(number) - due[number] / 1000 for number in sorted(due, key=due.__getitem__)]
