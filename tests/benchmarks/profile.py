"""PROFILE=1: where the processor time of the controller goes, in var/bench/profile.txt.

Two runs of the same calls: one sampled (`sampler.py`), one counted by cProfile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import aiohttp

from telephony.lab import Lab
from tests.benchmarks import sides
from tests.benchmarks.answered_calls import Say, at_rate, quiet_lab
from tests.benchmarks.measure import CALLS, FOLDER, cpu_of

WARM_CALLS = 5
WRITE_SECONDS = 30.0


async def profile(say: Say) -> None:
    """Write `profile.txt` and `profile-counts.txt`, and tell the processor time of each thread."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="telephony-bench-") as name:
        folder = Path(name)
        async with quiet_lab(folder) as lab:
            for run, target in enumerate((FOLDER / "profile.txt", FOLDER / "profile-counts.txt")):
                os.environ["COUNTS"] = "1" if run else ""
                target.unlink(missing_ok=True)
                lines = await _profiled(lab, folder, target, f"+86138{run}00")
                target.write_text("\n".join([*lines, "", target.read_text()]))
                say("\n".join([f"{target}:", *lines]))


async def _profiled(lab: Lab, folder: Path, target: Path, prefix: str) -> list[str]:
    """Place calls under the profiler, which writes `target`; return what each thread used."""
    async with (
        sides.controller(lab, folder, "tests.benchmarks.sampler", str(target)) as process,
        aiohttp.ClientSession() as session,
    ):
        running = sides.Ours(process, session)
        await at_rate(lab, running, f"{prefix}9", WARM_CALLS)
        before, used = _threads(process.pid), cpu_of(process.pid)
        process.signal(signal.SIGUSR2)
        await at_rate(lab, running, f"{prefix}0", CALLS)
        used, after = cpu_of(process.pid) - used, _threads(process.pid)
        process.signal(signal.SIGUSR2)
        async with asyncio.timeout(WRITE_SECONDS):
            while not target.exists():
                await asyncio.sleep(0.1)
        await running.check()
    lines = [f"{1000 * used / CALLS:.2f} ms of processor time per call, by thread:"]
    for name, seconds in after.items():
        if seconds > (earlier := before.get(name, 0.0)):
            lines.append(f"  {1000 * (seconds - earlier) / CALLS:6.2f} ms  {name}")
    return lines


def _threads(pid: int) -> dict[str, float]:
    """Processor seconds of each thread of a process."""
    seconds = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "schedstat").read_text().split()
        seconds[f"{(task / 'comm').read_text().strip()} {task.name}"] = int(fields[0]) / 1e9
    return seconds
