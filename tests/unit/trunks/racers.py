"""Processes that contend for the slots of one trunk, each a controller of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from multiprocessing.context import SpawnContext
from typing import Any

import uvloop

from telephony.model.ids import new_id
from telephony.store import Store
from telephony.store.records import SlotCandidate
from telephony.trunks.desk import SlotDesk
from tests.unit.trunks.conftest import wall

TRUNK = (SlotCandidate(trunk="a"),)
LEASE = 2.0


class Race:
    """What the processes of a race share: they begin each round at once, and tell what came of it."""

    def __init__(self, context: SpawnContext, url: str, parties: int) -> None:
        self.url = url
        self.gate = context.Barrier(parties)
        self.results = context.Queue()


async def timed_take(desk: SlotDesk) -> tuple[str, bool, float]:
    """(holder, whether it got a slot, seconds it took)."""
    holder, before = new_id("att"), time.perf_counter()
    answer = await desk.take(TRUNK, holder, priority=1, since=wall())
    return holder, answer.trunk is not None, time.perf_counter() - before


async def _as_controller(
    race: Race, name: str, work: Callable[[Store, SlotDesk], Coroutine[Any, Any, Any]]
) -> None:
    store = await Store.open(race.url, owner=name)
    desk = SlotDesk(store, name, LEASE, wall)
    desk.start()
    try:
        race.results.put(await work(store, desk))
    finally:
        await desk.stop()
        await store.close()


def contend(race: Race, name: str, rounds: int, contenders: int) -> None:
    """In each round all ask at once, and those who got one give it back when all have been answered."""

    async def work(store: Store, desk: SlotDesk) -> list[list[tuple[bool, float]]]:
        seen = []
        for _ in range(rounds):
            await asyncio.to_thread(race.gate.wait, 60)
            answers = await asyncio.gather(*(timed_take(desk) for _ in range(contenders)))
            await asyncio.to_thread(race.gate.wait, 60)
            async with store.transaction() as unit:
                await unit.slots.release_all([holder for holder, got, _ in answers if got])
            await asyncio.to_thread(race.gate.wait, 60)
            seen.append([(got, seconds) for _, got, seconds in answers])
        return seen

    uvloop.run(_as_controller(race, name, work))


def churn(race: Race, name: str, seconds: float, contenders: int) -> None:
    """Take and give back without a pause, each waiting its turn; tells how often that was."""

    async def work(store: Store, desk: SlotDesk) -> int:
        await asyncio.to_thread(race.gate.wait, 60)
        ends = time.monotonic() + seconds

        async def one(number: int) -> int:
            dice, served = random.Random(f"{name}{number}"), 0
            while time.monotonic() < ends:
                holder = new_id("att")
                answer = await desk.take(TRUNK, holder, priority=1, since=wall(), patience=30)
                if answer.trunk is None:
                    continue
                await asyncio.sleep(dice.random() * 0.05)
                async with store.transaction() as unit:
                    assert await unit.slots.release(holder) == "a"
                desk.freed()
                served += 1
            return served

        return sum(await asyncio.gather(*(one(number) for number in range(contenders))))

    uvloop.run(_as_controller(race, name, work))
