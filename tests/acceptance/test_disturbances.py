"""Lines under fire: whatever is cut, killed or restarted, what is held agrees with the channels again.

Ten calls a second on trunks that are often full. After each disturbance the lines that are held in the
store are compared with the channels that stand in the PBX; the carrier counts by itself, all the time.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from telephony.lab import CarrierCall, Lab
from tests.acceptance.control import ControllerProcess, Wire, settings_of
from tests.acceptance.databases import Database, postgres
from tests.acceptance.load import Load
from tests.acceptance.test_outcomes import no_channels
from tests.store_engines import PostgresServer

pytestmark = pytest.mark.lab

LINES = {"a": 9, "b": 5}
TRUNKS = [
    {"name": "a", "endpoint": "carrier", "channels": LINES["a"], "ring_timeout": 10},
    {"name": "b", "endpoint": "carrier-b", "channels": LINES["b"], "ring_timeout": 10},
]
WITHIN = 10.0
"""Seconds from a disturbance that is over to lines that agree with the channels."""

UNDER_WAY = 2.0
"""Seconds that a line may be ahead of its channel, or outlive it: a prompt is made, an outcome is written."""

_HELD = """SELECT coalesce(string_agg(trunk || ' ' || holder || ' ' ||
    (extract(epoch FROM now()) * 1000 - acquired_at)::bigint, ','), '') FROM slot WHERE holder IS NOT NULL"""


async def answers_a_second(call: CarrierCall) -> None:
    await call.ring()
    await call.answer(after=0.2)
    await call.hang_up(after=0.8)


class Verifications(Load):
    """Only that: each is asked for, and followed until its call is over."""

    async def _one(self, count: int) -> None:
        number = f"+86138{count:08d}"
        asked = self.accepted[number] = await self._verify(number)
        asked.call = await self._until_ended(asked.view["call_id"])


@dataclass
class Field:
    """Everything that can be disturbed, and what is counted meanwhile."""

    lab: Lab
    process: ControllerProcess
    wire: Wire
    database: Database
    most: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LINES, 0))
    took: dict[str, list[float]] = field(default_factory=dict)

    # ---- disturbances

    async def cut(self) -> None:
        """The link to the PBX breaks, and is mended."""
        self.wire.cut()
        await asyncio.sleep(1.0)
        self.wire.mend()

    async def kill(self) -> None:
        """The controller is killed, and started again."""
        await self.process.kill()
        await self.process.start(wait_for_pbx=False)

    async def restart_pbx(self) -> None:
        """The PBX ends its calls, and starts anew."""
        await self.lab.pbx.console("core stop now")
        async with asyncio.timeout(20):
            while self.lab.pbx.running:
                await asyncio.sleep(0.05)
        await self.lab.pbx.start()

    async def hang_up(self) -> None:
        """Every callee hangs up in the same moment."""
        await self.lab.carrier.asterisk.console("channel request hangup all")

    async def crash_store(self) -> None:
        """PostgreSQL crashes, and is started again."""
        assert self.database.server is not None
        await asyncio.to_thread(self.database.server.crash)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(self.database.server.run)

    # ---- counts

    async def count(self) -> None:
        """The carrier's own count, again and again."""
        while True:
            for trunk in self.most:
                self.most[trunk] = max(self.most[trunk], self.lab.carrier.standing(trunk))
            await asyncio.sleep(0.005)

    async def held(self) -> dict[str, float]:
        """Who holds a line, and for how many seconds; no trunk has more than it may."""
        rows = [
            row.split() for row in (await asyncio.to_thread(self.database.value, _HELD)).split(",") if row
        ]
        for trunk, lines in LINES.items():
            assert sum(row[0] == trunk for row in rows) <= lines, rows
        return {holder: int(age) / 1000 for _trunk, holder, age in rows}

    async def channels(self) -> set[str]:
        """Who stands on a trunk."""
        said = await self.lab.pbx.console("core show channels concise")
        return {line.split("!")[-1] for line in said.splitlines() if line.startswith("PJSIP/carrier")}

    async def wrong(self) -> set[str]:
        """Channels without a line, and lines without a channel that are not just under way."""
        before = await self.held()
        standing = await self.channels()
        after = await self.held()
        bare = standing - before.keys() - after.keys()
        empty = {one for one, age in before.items() if one in after and age > UNDER_WAY} - standing
        return bare | empty

    async def agrees(self, disturbance: str) -> None:
        """Wait until what is held agrees with what stands."""
        began = time.monotonic()
        while wrong := await self.wrong():
            took = time.monotonic() - began
            assert took < WITHIN, f"{took:.1f} s after {disturbance}: {wrong}"
            await asyncio.sleep(0.2)
        self.took.setdefault(disturbance, []).append(time.monotonic() - began)


async def fire(lab: Lab, folder: Path, server: PostgresServer, disturbances: list[str]) -> str:
    """Disturb under load, compare after each time, let everything end, and return the figures."""
    lab.carrier.default = answers_a_second
    database = postgres(server)
    async with Wire(lab.pbx.address, lab.pbx.ami_port) as wire:
        values = settings_of(lab, folder, store={"url": database.url}, trunks=TRUNKS)
        values["pbx"]["ami"] |= {"host": "127.0.0.1", "port": wire.port}
        process = ControllerProcess(folder, values)
        await process.start()
        everything = Field(lab, process, wire, database)
        load = Verifications(lambda: process.url, rate=10)
        running = asyncio.create_task(load.run())
        counting = asyncio.create_task(everything.count())
        try:
            await asyncio.sleep(2.0)
            for name in disturbances:
                disturb: Callable[[], Awaitable[None]] = getattr(everything, name)
                await disturb()
                await everything.agrees(name)
                assert not running.done()
                await asyncio.sleep(0.5)
            load.stopped = True
            await running
            await no_channels(lab)
            await everything.agrees("the end")
        finally:
            load.stopped = True
            counting.cancel()
            running.cancel()
            await asyncio.gather(running, counting, return_exceptions=True)
            wire.mend()
            if not lab.pbx.running:
                await lab.pbx.start()
            await process.stop()
            lab.carrier.default = None
    assert int(database.value("SELECT count(*) FROM slot WHERE holder IS NOT NULL")) == 0
    for trunk, most in everything.most.items():
        assert most <= LINES[trunk], everything.most
    assert everything.most["a"] == LINES["a"], "the load filled a trunk"
    attempts: dict[str, int] = {
        number: len(asked.call["attempts"]) for number, asked in load.accepted.items()
    }
    rung = {number: len(lab.carrier.calls_to(number)) for number in attempts}
    assert not [number for number in attempts if rung[number] > attempts[number]]
    mended = process.log_lines("trunks.mended")
    slowest = {name: round(max(each), 1) for name, each in everything.took.items()}
    return (
        f"{len(load.accepted)} calls, at most {everything.most} at once, agreed after {slowest} s, "
        f"{sum(line['added'] for line in mended)} lines added, {sum(line['freed'] for line in mended)} freed"
    )


KINDS = ("cut", "kill", "restart_pbx", "hang_up", "crash_store")


async def test_ten_disturbances(
    lab: Lab,
    tmp_path: Path,
    postgres_server: PostgresServer,
    record_property: Callable[[str, object], None],
) -> None:
    turns = list(itertools.chain(KINDS, reversed(KINDS)))
    record_property("told", await fire(lab, tmp_path, postgres_server, turns))


@pytest.mark.soak
@pytest.mark.timeout(5400)
async def test_two_hundred_disturbances(
    lab: Lab,
    tmp_path: Path,
    postgres_server: PostgresServer,
    record_property: Callable[[str, object], None],
) -> None:
    chance = random.Random(3)
    turns = [chance.choice(KINDS) for _ in range(200)]
    record_property("told", await fire(lab, tmp_path, postgres_server, turns))
