"""`kill -9` of the controller at random moments under load: nobody is rung twice, nothing is lost.

The carrier's own count is the judge. Short here, long by `make soak`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from telephony.lab import CarrierCall, Lab
from tests.acceptance.control import FINAL, Api, ControllerProcess, Json, api_of, settings_of
from tests.acceptance.test_outcomes import no_channels

pytestmark = pytest.mark.lab


@dataclass
class Load:
    """An app that asks for calls at a steady rate, and asks again with the same key until it is heard."""

    lab: Lab
    process: ControllerProcess
    rate: float
    accepted: dict[str, tuple[Json, float]] = field(default_factory=dict)
    stopped: bool = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            count = 0
            while not self.stopped:
                group.create_task(self.ask(f"+86138{count:08d}"))
                count += 1
                await asyncio.sleep(1 / self.rate)

    async def ask(self, number: str) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with api_of(self.process.url) as api:
                    status, reply = await api.ask(
                        "POST",
                        "/v1/verifications",
                        {"to": number, "code": "1234", "dial_within": 60},
                        **{"Idempotency-Key": number},
                    )
                    assert status == 201, reply
                    self.accepted[number] = (reply, time.time())
                    return
            await asyncio.sleep(0.1)


async def answers_briefly(call: CarrierCall) -> None:
    """Answer most calls and hang up; refuse some, ring on for some."""
    kind = int(call.number[-1])
    await call.ring()
    if kind in (0, 1):
        await call.busy(after=0.5)
    elif kind == 2:
        await call.decline(after=1.0)
    else:
        await call.answer(after=0.2 + kind / 10)
        await call.hang_up(after=0.8)


async def storm(lab: Lab, folder: Path, *, kills: int, rate: float, seed: int) -> None:
    chance = random.Random(seed)
    process = ControllerProcess(folder, settings_of(lab, folder))
    lab.carrier.default = answers_briefly
    await process.start()
    load = Load(lab, process, rate)
    running = asyncio.create_task(load.run())
    restarts: list[float] = [time.time()]
    try:
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.2, 2.0))
            await process.kill()
            await process.start()
            restarts.append(time.time())
        await asyncio.sleep(1.0)
        load.stopped = True
        await running
        async with api_of(process.url) as api:
            calls = await asyncio.gather(*(ended(api, reply) for reply, _ in load.accepted.values()))
        await no_channels(lab)
        judge(lab, load, calls, restarts)
        await nothing_is_left(process, folder)
    finally:
        load.stopped = True
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await process.stop()
        lab.carrier.default = None


async def ended(api: Api, reply: Json) -> Json:
    return await api.until(f"/v1/calls/{reply['call_id']}", lambda call: call["status"] in FINAL, 120)


def judge(lab: Lab, load: Load, calls: list[Json], restarts: list[float]) -> None:
    assert len(calls) == len(load.accepted)
    for number, call in zip(load.accepted, calls, strict=True):
        rung = lab.carrier.calls_to(number)
        assert len(rung) == 1, f"{number} was rung {len(rung)} times: {call}"
        assert call["status"] != "unknown", call
        _reply, accepted_at = load.accepted[number]
        known = max([accepted_at, *(moment for moment in restarts if moment <= rung[0].arrived_at)])
        assert rung[0].arrived_at - known < 10, f"{number} rang late"
    # A request that was written but never answered for is asked again with its key and found: every
    # number that rang belongs to a request that was accepted.
    assert {call.number for call in lab.carrier.calls} == set(load.accepted)


async def nothing_is_left(process: ControllerProcess, folder: Path) -> None:
    import sqlite3

    await process.stop()
    with sqlite3.connect(f"file:{folder}/telephony.db?mode=ro", uri=True) as connection:
        held = connection.execute("SELECT count(*) FROM request WHERE lease_until IS NOT NULL").fetchone()
        open_attempts = connection.execute("SELECT count(*) FROM attempt WHERE ended_at IS NULL").fetchone()
    assert held == (0,)
    assert open_attempts == (0,)


async def test_twenty_kills_under_load(lab: Lab, tmp_path: Path) -> None:
    await storm(lab, tmp_path, kills=20, rate=5, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_two_hundred_kills_under_load(lab: Lab, tmp_path: Path) -> None:
    await storm(lab, tmp_path, kills=200, rate=10, seed=2)
