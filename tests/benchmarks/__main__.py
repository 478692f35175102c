"""`make bench`: what a call and a message cost, beside what users would take instead. Ratios count.

The machine may be shared and noisy: everything is measured in one run, in turns, and the median of the
ratios is told.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.ami_parsing import ami_parsing
from tests.benchmarks.answered_calls import answered_calls

ROUNDS = int(os.environ.get("ROUNDS", "5"))


def ratios(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """The least, the median and the greatest ratio, turn by turn."""
    each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return min(each), statistics.median(each), max(each)


def timed(work: Callable[[], None]) -> float:
    """Processor seconds of one run."""
    began = time.process_time()
    work()
    return time.process_time() - began


async def main() -> None:
    console = Console()
    table = Table("what", "ratio (median of turns)", "least", "greatest", "aim")
    parsing = ami_parsing(ROUNDS, timed)
    if parsing is None:
        console.print("panoramisk is not installed: `make bench` installs the extra `peers`")
    else:
        ours, theirs = parsing
        least, middle, most = ratios(theirs, ours)
        table.add_row(
            "AMI events parsed, per second / panoramisk",
            f"{middle:.1f}",
            f"{least:.1f}",
            f"{most:.1f}",
            "≥ 2.5",
        )
    with tempfile.TemporaryDirectory(prefix="telephony-bench-") as folder:
        ours_cpu, pbx_cpu, plain = await answered_calls(Path(folder), ROUNDS)
    least, middle, most = ratios([a + b for a, b in zip(ours_cpu, pbx_cpu, strict=True)], plain)
    table.add_row(
        "CPU per answered call, all in / pure dialplan",
        f"{middle:.2f}",
        f"{least:.2f}",
        f"{most:.2f}",
        "≤ 1.5 (1.25)",
    )
    least, middle, most = ratios(pbx_cpu, plain)
    table.add_row("  of it the PBX's share", f"{middle:.2f}", f"{least:.2f}", f"{most:.2f}", "")
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
