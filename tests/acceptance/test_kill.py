"""`kill -9` of the controller at random moments under load: nobody is rung twice, nothing is lost.

The carrier's own count is the judge, and the app's own server. Short here, long by `make soak`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from telephony.lab import Lab
from tests.acceptance.control import ControllerProcess, settings_of
from tests.acceptance.databases import Database, postgres, sqlite
from tests.acceptance.load import Load, answers_briefly, judge, receiver, told_at
from tests.acceptance.test_outcomes import no_channels

pytestmark = pytest.mark.lab

Figures = Callable[[str, object], None]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return sqlite(tmp_path)
    return postgres(request.getfixturevalue("postgres_server"))


async def storm(lab: Lab, folder: Path, database: Database, *, kills: int, rate: float, seed: int) -> str:
    """Kill and start again `kills` times, then let everything end, and judge; returns the figures."""
    chance = random.Random(seed)
    lab.carrier.default = answers_briefly
    async with receiver() as told:
        values = settings_of(lab, folder, store={"url": database.url})
        process = ControllerProcess(folder, told_at(values, told.url))
        await process.start()
        load = Load(lambda: process.url, rate)
        running = asyncio.create_task(load.run())
        lives = [(time.time(), time.time())]
        try:
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.1, 1.5))
                await process.kill()
                killed = time.time()
                await process.start()
                lives.append((killed, time.time()))
            await asyncio.sleep(1.0)
            load.stopped = True
            await running
            # What a killed controller was just sending is sent again when its lease ends.
            await told.all_told([asked.view["id"] for asked in load.accepted.values()], 60)
            await database.nothing_to_tell(60)
            await no_channels(lab)
            verdict = judge(lab, load, told, [started for _killed, started in lives])
        finally:
            load.stopped = True
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await process.stop()
            lab.carrier.default = None
        database.nothing_is_left()
        back = sum(started - killed for killed, started in lives) / kills
        return f"{kills} kills, {verdict}, {told.repeats} told twice, back after {back:.1f} s on average"


async def test_twenty_kills_under_load(
    lab: Lab, tmp_path: Path, database: Database, record_property: Figures
) -> None:
    record_property("told", await storm(lab, tmp_path, database, kills=20, rate=5, seed=1))


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_two_hundred_kills_under_load(
    lab: Lab, tmp_path: Path, database: Database, record_property: Figures
) -> None:
    record_property("told", await storm(lab, tmp_path, database, kills=200, rate=10, seed=2))
