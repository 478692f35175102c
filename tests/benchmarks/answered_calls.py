"""CPU per answered call, everything included, against a pure dialplan that plays the same audio.

Ours: the controller as a process of its own (HTTP, SQLite syncing, AMI, FastAGI) and the PBX. The plain
side: an Originate into a context that plays the same file and waits as long for a key. Both at the same
rate through the same lab; the carrier is not counted.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from telephony.lab import Lab, answer_and_listen
from telephony.net.ami import AmiClient, AmiConfig
from tests.acceptance.control import Api, ControllerProcess, api_of, settings_of

CALLS = int(os.environ.get("CALLS", "60"))
RATE = 10.0
STAR_WAIT = 4


def cpu_of(pid: int) -> float:
    """Processor seconds that a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def at_rate(work: Callable[[int], Awaitable[None]]) -> None:
    """Begin one after another at the rate, and wait for all."""
    async with asyncio.TaskGroup() as group:
        for number in range(CALLS):
            group.create_task(work(number))  # type: ignore[arg-type]
            await asyncio.sleep(1 / RATE)


async def answered_calls(folder: Path, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Processor seconds per call and round: the controller's, the PBX's with it, the PBX's alone."""
    ours, with_us, alone = [], [], []
    async with Lab(keep_recordings=folder / "heard") as lab:
        lab.carrier.default = answer_and_listen(after=0.1)
        process = ControllerProcess(folder, settings_of(lab, folder, log={"level": "info"}))
        await process.start()
        manager = AmiClient(
            AmiConfig(
                lab.pbx.address, lab.pbx.ami_port, lab.state.test_user, lab.state.test_secret, events="off"
            )
        )
        await manager.start()
        await manager.wait_connected(10)
        try:
            async with api_of(process.url) as api:
                sound = await same_audio(lab, api, folder)
                await plain_context(lab, sound)
                for turn in range(rounds):
                    pbx, controller = cpu_of(lab.pbx.pid or 0), cpu_of(process.pid)
                    await at_rate(lambda number, turn=turn: by_us(api, turn, number))  # type: ignore[misc]
                    with_us.append((cpu_of(lab.pbx.pid or 0) - pbx) / CALLS)
                    ours.append((cpu_of(process.pid) - controller) / CALLS)
                    pbx = cpu_of(lab.pbx.pid or 0)
                    await at_rate(lambda number, turn=turn: plain(lab, manager, turn, number))  # type: ignore[misc]
                    alone.append((cpu_of(lab.pbx.pid or 0) - pbx) / CALLS)
        finally:
            await manager.stop()
            await process.stop()
    return ours, with_us, alone


async def same_audio(lab: Lab, api: Api, folder: Path) -> str:
    """Keep a copy of what one of our calls plays, for the plain side."""
    view = await api.verify("+8613899999999", code="123456")
    media = Path(f"/dev/shm/telephony-test-{lab.state.number}")
    while not (found := list(media.glob("*.ulaw"))):
        await asyncio.sleep(0.01)
    shutil.copyfile(found[0], folder / "same.ulaw")
    await api.call_ended(view)
    return str(folder / "same")


async def plain_context(lab: Lab, sound: str) -> None:
    steps = (f"Playback({sound})", f"Wait({STAR_WAIT})", "Hangup()")
    for step, application in enumerate(steps, 1):
        await lab.pbx.console(f"dialplan add extension s,{step},{application} into bench-plain")


async def by_us(api: Api, turn: int, number: int) -> None:
    view = await api.verify(f"+86138{turn:03d}{number:05d}", code="123456")
    call = await api.until(
        f"/v1/calls/{view['call_id']}", lambda call: call["ended_at"] is not None, timeout=90
    )
    assert call["status"] == "completed", call


async def plain(lab: Lab, manager: AmiClient, turn: int, number: int) -> None:
    called = f"+86137{turn:03d}{number:05d}"
    await manager.action(
        "Originate",
        [
            ("Channel", f"PJSIP/{called}@carrier"),
            ("Context", "bench-plain"),
            ("Exten", "s"),
            ("Priority", "1"),
            ("Async", "true"),
        ],
    )
    call = await lab.carrier.wait_for_call(called)
    await call.wait_ended(90)
