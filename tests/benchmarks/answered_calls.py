"""CPU per answered call, everything included, against those who play the same audio otherwise.

Ours is the controller as a process of its own (HTTP, SQLite syncing, AMI, FastAGI) and the PBX. All are
at the same rate through the same lab; the carrier and whoever asks for the calls are not counted. The
end of a call is learnt from the carrier, on every side; what our controller says of it is read after the
measurement.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from telephony.lab import CarrierCall, Lab, answer_and_listen
from tests.benchmarks import sides
from tests.benchmarks.measure import CALLS, ROUNDS, Report, cpu_of, installed, ratios

RATE = 10.0
"""Calls begun per second."""

WARM_CALLS = 3
"""Calls before each measurement, for what is done once in a process."""

SETTLE = 1.0
"""Seconds after the last call in which what follows from it is written."""

Say = Callable[[str], None]


@asynccontextmanager
async def quiet_lab(folder: Path) -> AsyncIterator[Lab]:
    """A lab in which everybody answers at once and listens."""
    async with Lab(keep_recordings=folder / "heard") as lab:
        lab.carrier.default = answer_and_listen(after=0.1)
        yield lab


async def answered_calls(report: Report, say: Say) -> None:
    """Measure every side in turns, and report ours against each."""
    everybody: dict[str, sides.Side] = {
        "ours": sides.ours,
        "dialplan": sides.plain,
        "bare": sides.bare,
    }
    everybody |= {peer: start for peer, start in sides.PEERS.items() if installed(peer)}
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="telephony-bench-") as name:
        folder = Path(name)
        async with quiet_lab(folder) as lab:
            sound = await sides.same_audio(lab, folder)
            for turn in range(ROUNDS):
                for index, (side, start) in enumerate(everybody.items()):
                    async with start(lab, folder, sound) as running:
                        own, pbx, length = await turn_of(lab, running, f"+86138{index}{turn:02d}")
                    figures.setdefault(f"{side} own", []).append(own)
                    figures.setdefault(f"{side} PBX", []).append(pbx)
                    figures.setdefault(f"{side} length of a call", []).append(length)
                    say(
                        f"turn {turn + 1}, {side}: {1000 * own:.1f} ms + PBX {1000 * pbx:.1f} ms per call"
                        f" of {length:.1f} s"
                    )
    report.keep("processor seconds per answered call", figures)
    total = {
        side: [own + pbx for own, pbx in zip(figures[f"{side} own"], figures[f"{side} PBX"], strict=True)]
        for side in everybody
    }
    names = {
        "dialplan": ("a pure dialplan", "≤ 1.5 (1.25)"),
        "bare": ("a bare FastAGI handler", ""),
        "panoramisk": ("panoramisk's FastAGI", ""),
        "pyst2": ("a pyst2 process per call", ""),
    }
    for side in list(everybody)[1:]:
        what, aim = names[side]
        report.row(f"CPU per answered call, everything / {what}", ratios(total["ours"], total[side]), aim=aim)
    report.row("  of it our controller / the dialplan's PBX", ratios(figures["ours own"], total["dialplan"]))
    report.row("  of it the PBX with us / the dialplan's PBX", ratios(figures["ours PBX"], total["dialplan"]))


async def turn_of(lab: Lab, running: sides.Running, prefix: str) -> tuple[float, float, float]:
    """Processor seconds per call of the side itself and of the PBX, and the seconds a call was answered."""
    await at_rate(lab, running, f"{prefix}9", WARM_CALLS)
    lab.carrier.calls.clear()
    pbx_pid = lab.pbx.pid or 0
    own, pbx = running.cpu(), cpu_of(pbx_pid)
    calls = await at_rate(lab, running, f"{prefix}0", CALLS)
    own, pbx = running.cpu() - own, cpu_of(pbx_pid) - pbx
    await running.check()
    lengths = [(call.ended_at or 0.0) - (call.answered_at or 0.0) for call in calls]
    assert all(call.final_code == 200 for call in calls), calls
    return own / CALLS, pbx / CALLS, statistics.median(lengths)


async def at_rate(lab: Lab, running: sides.Running, prefix: str, count: int) -> list[CarrierCall]:
    """Begin `count` calls at the rate, and wait until the carrier has seen the end of all."""

    async def one(number: str) -> CarrierCall:
        await running.dial(number)
        call = await lab.carrier.wait_for_call(number, 30)
        await call.wait_ended(90)
        return call

    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / RATE - loop.time()))
            tasks.append(group.create_task(one(f"{prefix}{number:04d}")))
    await asyncio.sleep(SETTLE)
    return [task.result() for task in tasks]
