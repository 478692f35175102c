"""What the size of the store does: requests accepted per second, and the time from a POST to the dial.

One controller for each size, all up at once, asked in turns. The PBX is in memory: it does not wait for a
carrier, and is the same for all. Beside the rate stands what one would write in an hour: an aiohttp
handler that inserts one row into SQLite and commits it to the disk (`peers/bare_http.py`).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from tests.acceptance.control import HEADERS
from tests.benchmarks.filled_store import CACHE, filled_store
from tests.benchmarks.in_memory import InMemory, in_memory
from tests.benchmarks.measure import CALLS, ROUNDS, Report, middles, percentile, ratios

SIZES = (100, 10_000, *((1_000_000,) if os.environ.get("BIG") else ()))
"""Requests stored; BIG=1 adds a million."""

LANES = 16
"""Connections at once."""

PAUSE = 0.02
AIM = 1.2

Post = Callable[[int], Awaitable[None]]
"""Asks for one call by its number in a row."""


async def store_size(report: Report, say: Callable[[str], None]) -> None:
    """Measure every size in turns, and report each against the smallest."""
    latency: dict[str, list[float]] = {str(size): [] for size in SIZES}
    rate: dict[str, list[float]] = {"bare": [], **{str(size): [] for size in SIZES}}
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(bare_http())
        houses = await controllers(stack, SIZES, say)
        # The times first: what the rates add is a multiple of the smallest store.
        for _ in range(ROUNDS):
            for size, values in (await dial_latency(houses, CALLS)).items():
                latency[str(size)] += values
        for turn in range(ROUNDS):
            rate["bare"].append(await _per_second(bare))
            for size, house in houses.items():
                rate[str(size)].append(await _per_second(_poster(house, f"+86136{turn:02d}")))
                await asyncio.sleep(1.0)
    for size in SIZES:
        values = latency[str(size)]
        say(
            f"{size:,} requests stored: POST to dial p50 {1000 * statistics.median(values):.1f} ms,"
            f" p99 {1000 * percentile(values, 99):.1f} ms;"
            f" {statistics.median(rate[str(size)]):.0f} requests accepted and called per second"
        )
    say(f"one row and a commit: {statistics.median(rate['bare']):.0f} per second")
    report.keep("seconds from the POST to the dial", latency)
    report.keep("requests accepted per second", rate)
    turns = {size: middles(values) for size, values in latency.items()}
    for size in SIZES[1:]:
        aim = f"≤ {AIM}" if size == 1_000_000 else ""
        report.row(
            f"POST to dial, p50, with {size:,} requests stored / with {SIZES[0]}",
            ratios(turns[str(size)], turns[str(SIZES[0])]),
            aim=aim,
        )
    for size in SIZES[1:]:
        report.row(
            f"requests accepted and called per second with {size:,} stored / with {SIZES[0]}",
            ratios(rate[str(size)], rate[str(SIZES[0])]),
        )
    report.row(
        f"requests accepted and called per second with {SIZES[0]} stored / one row and a commit",
        ratios(rate[str(SIZES[0])], rate["bare"]),
    )


async def controllers(
    stack: AsyncExitStack, sizes: Sequence[int], say: Callable[[str], None], folder: Path = CACHE
) -> dict[int, InMemory]:
    """A controller for each size, warmed up; the stores are in the folder."""
    houses = {}
    for size in sizes:
        began = time.monotonic()
        path = await asyncio.to_thread(filled_store, size, folder)
        megabytes = path.stat().st_size / 1e6
        say(f"a store of {size:,} requests, {megabytes:.0f} MB, in {time.monotonic() - began:.0f} s")
        houses[size] = await stack.enter_async_context(in_memory(path))
        for number in range(10):
            await _one(houses[size], f"+861350{number:07d}")
    return houses


_posted = iter(range(10_000_000))


async def dial_latency(houses: dict[int, InMemory], count: int) -> dict[int, list[float]]:
    """Seconds from the POST to the dial, `count` times each, in turns."""
    found: dict[int, list[float]] = {size: [] for size in houses}
    for _ in range(count):
        number = f"+86138{next(_posted):08d}"
        for size, house in houses.items():
            found[size].append(await _one(house, number))
            await asyncio.sleep(PAUSE)
    return found


async def _one(house: InMemory, number: str) -> float:
    began = time.time()
    await house.post(number)
    return await house.dialled(number) - began


def _poster(house: InMemory, prefix: str) -> Post:
    async def post(number: int) -> None:
        await house.post(f"{prefix}{number:06d}")

    return post


async def _per_second(post: Post) -> float:
    """How many are accepted per second over several connections."""
    numbers = iter(range(CALLS * 5))

    async def lane() -> None:
        for number in numbers:
            await post(number)

    began = time.monotonic()
    await asyncio.gather(*(lane() for _ in range(LANES)))
    return CALLS * 5 / (time.monotonic() - began)


@asynccontextmanager
async def bare_http() -> AsyncIterator[Post]:
    """The other handler's process."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "bare.db"
    for old in CACHE.glob("bare.db*"):
        old.unlink()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.peers.bare_http", str(path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            port = int(await process.stdout.readline())
        async with aiohttp.ClientSession() as session:

            async def post(number: int) -> None:
                body = {"to": f"+86138{number:08d}", "code": "123456"}
                async with session.post(f"http://127.0.0.1:{port}/", json=body, headers=HEADERS) as reply:
                    assert reply.status == 201
                    await reply.json()

            yield post
    finally:
        process.kill()
        await process.wait()
