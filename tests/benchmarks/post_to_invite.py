"""From the POST to the INVITE at the carrier, against a bare AMI Originate to the same INVITE.

One call at a time, ours and the other in turns, so that nothing waits for anything else: what is left is
what the controller adds. The number is unallocated, so every call ends at once and nothing is repeated.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from telephony.lab import Lab, unallocated
from tests.benchmarks import sides
from tests.benchmarks.measure import CALLS, ROUNDS, Report, middles, percentile, ratios

PAUSE = 0.1
"""Seconds between two calls."""

AIM_MS = 15


async def post_to_invite(report: Report, say: Callable[[str], None]) -> None:
    """Measure both in turns, and report the halves and the tails."""
    figures: dict[str, list[float]] = {"ours": [], "originate": []}
    with tempfile.TemporaryDirectory(prefix="telephony-bench-") as name:
        folder = Path(name)
        async with Lab() as lab:
            lab.carrier.default = unallocated()
            async with sides.ours(lab, folder, "") as ours, sides.plain(lab, folder, "beep") as plain:
                both: dict[str, sides.Running] = {"ours": ours, "originate": plain}
                for number in range(3):
                    for index, running in enumerate(both.values()):
                        await _one(lab, running, f"+86138{index}9{number:06d}")
                for number in range(ROUNDS * CALLS):
                    for index, (side, running) in enumerate(both.items()):
                        figures[side].append(await _one(lab, running, f"+86138{index}8{number:06d}"))
    report.keep("seconds from the order to the INVITE", figures)
    for percent in (50, 99):
        told = {side: 1000 * percentile(values, percent) for side, values in figures.items()}
        say(
            f"POST to INVITE, p{percent}: {told['ours']:.1f} ms;"
            f" AMI Originate to INVITE: {told['originate']:.1f} ms"
        )
    middle = {side: [1000 * one for one in middles(values)] for side, values in figures.items()}
    more = [mine - other for mine, other in zip(middle["ours"], middle["originate"], strict=True)]
    tail = {side: [percentile(values, 99)] for side, values in figures.items()}
    report.row("POST to INVITE, p50, more than a bare Originate", more, aim=f"≤ {AIM_MS} ms", unit=" ms")
    report.row(
        "POST to INVITE, p99 of all turns, more than a bare Originate's",
        [1000 * (tail["ours"][0] - tail["originate"][0])],
        unit=" ms",
    )
    report.row("POST to INVITE, p50 / a bare Originate", ratios(middle["ours"], middle["originate"]))


async def _one(lab: Lab, running: sides.Running, number: str) -> float:
    """Seconds from the order to the arrival at the carrier."""
    began = time.monotonic()
    await running.dial(number)
    call = await lab.carrier.wait_for_call(number, 10)
    await call.wait_ended(10)
    await asyncio.sleep(PAUSE)
    return call.arrived_mono - began
