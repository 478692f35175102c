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

from tests.benchmarks import sides
from tests.benchmarks.answered_calls import Say, at_rate, quiet_lab
from tests.benchmarks.measure import CALLS, FOLDER, cpu_of

WARM_CALLS = 5


async def profile(say: Say) -> None:
    """Write `profile.txt` and `profile-counts.txt`, and tell the processor time of each thread."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="telephony-bench-") as name:
        folder = Path(name)
        async with quiet_lab(folder) as lab:
            for run, (file, counts) in enumerate((("profile.txt", ""), ("profile-counts.txt", "1"))):
                target = FOLDER / file
                target.unlink(missing_ok=True)
                os.environ["COUNTS"] = counts
                before = ("tests.benchmarks.sampler", str(target))
                async with (
                    sides.controller(lab, folder, *before) as process,
                    aiohttp.ClientSession() as session,
                ):
                    running = sides.Ours(process, session)
                    await at_rate(lab, running, f"+86138{run}009", WARM_CALLS)
                    threads = _threads(process.pid)
                    used = cpu_of(process.pid)
                    process.signal(signal.SIGUSR2)
                    await at_rate(lab, running, f"+86138{run}000", CALLS)
                    used = cpu_of(process.pid) - used
                    after = _threads(process.pid)
                    process.signal(signal.SIGUSR2)
                    while not target.exists() or not target.stat().st_size:
                        await asyncio.sleep(0.1)
                    await running.check()
                spent = {
                    name: after[name] - threads.get(name, 0.0)
                    for name in after
                    if after[name] > threads.get(name, 0.0)
                }
                lines = [f"{1000 * used / CALLS:.2f} ms of processor time per call, by thread:"]
                lines += [f"  {1000 * seconds / CALLS:6.2f} ms  {name}" for name, seconds in spent.items()]
                target.write_text("\n".join([*lines, "", target.read_text()]))
                say("\n".join([f"{target}:", *lines]))


def _threads(pid: int) -> dict[str, float]:
    """Processor seconds of each thread of a process."""
    seconds = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "schedstat").read_text().split()
        seconds[f"{(task / 'comm').read_text().strip()} {task.name}"] = int(fields[0]) / 1e9
    return seconds
