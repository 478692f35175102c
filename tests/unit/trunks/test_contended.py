"""A hundred contenders in two processes for a trunk of thirty: never thirty-one, none lost, and not slow."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from telephony.store import Store
from telephony.store.records import TrunkUse
from telephony.trunks.desk import SlotDesk
from tests.unit.trunks import racers
from tests.unit.trunks.conftest import wall

LINES = 30
CONTEXT = multiprocessing.get_context("spawn")


async def ensure(store: Store) -> None:
    async with store.transaction() as work:
        await work.slots.ensure("a", LINES)


async def use(store: Store) -> TrunkUse:
    async with store.reading() as work:
        return (await work.slots.in_use())["a"]


def start(race: racers.Race, target: Any, *arguments: Any) -> list[BaseProcess]:
    processes = [
        CONTEXT.Process(target=target, args=(race, f"node-{name}", *arguments), daemon=True) for name in "bc"
    ]
    for process in processes:
        process.start()
    return processes


async def join(processes: list[BaseProcess]) -> None:
    for process in processes:
        await asyncio.to_thread(process.join, 60)
        assert process.exitcode is not None


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


async def one_contender(store: Store) -> float:
    """The p99 of one who has the trunk for himself."""
    desk = SlotDesk(store, "node-a", racers.LEASE, wall)
    desk.start()
    seconds = []
    for turn in range(120):
        holder, got, took = await racers.timed_take(desk)
        assert got
        async with store.transaction() as work:
            await work.slots.release(holder)
        if turn >= 20:
            seconds.append(took)
    await desk.stop()
    return p99(seconds)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """PostgreSQL: only there do controllers share a store."""
    server = request.getfixturevalue("postgres")
    url: str = server.new_database(template=request.getfixturevalue("migrated"))
    return url


async def test_a_hundred_at_once(store: Store, database: str) -> None:
    await ensure(store)
    ratios = []
    for _ in range(3):
        race = racers.Race(CONTEXT, database, 2)
        alone = await one_contender(store)
        processes = start(race, racers.contend, 4, 50)
        told = [await asyncio.to_thread(race.results.get, True, 60) for _ in processes]
        await join(processes)
        rounds = [[*ours, *theirs] for ours, theirs in zip(*told, strict=True)]
        assert [sum(got for got, _ in each) for each in rounds] == [LINES] * 4
        assert await use(store) == TrunkUse(in_use=0, lines=LINES)
        ratios.append(p99([seconds for each in rounds for _, seconds in each]) / alone)
        # A machine that is busy with something else makes one of the two slow by chance.
        if ratios[-1] <= 10:
            break
    assert min(ratios) <= 10, ratios


async def test_churn_and_a_controller_that_is_killed(store: Store, database: str) -> None:
    await ensure(store)
    race = racers.Race(CONTEXT, database, 3)
    processes = start(race, racers.churn, 4.0, 50)
    await asyncio.to_thread(race.gate.wait, 60)
    samples: list[int] = []
    loop = asyncio.get_running_loop()
    ends, kills = loop.time() + 4, loop.time() + 2
    while loop.time() < ends:
        samples.append((await use(store)).in_use)
        if loop.time() > kills and processes[0].is_alive():
            os.kill(processes[0].pid or 0, signal.SIGKILL)
        await asyncio.sleep(0.005)
    served = await asyncio.to_thread(race.results.get, True, 60)
    await join(processes)
    assert served > 20
    assert len(samples) > 50
    assert max(samples) <= LINES
    assert max(samples) > LINES / 2
    left = (await use(store)).in_use
    async with store.transaction() as work:
        freed = await work.slots.sweep(wall() + round(racers.LEASE * 1000) + 1)
    assert len(freed) == left
    assert {one.owner for one in freed} <= {"node-b"}
    assert await use(store) == TrunkUse(in_use=0, lines=LINES)
