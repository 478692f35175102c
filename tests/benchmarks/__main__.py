"""`make bench`: what a call and a message cost, beside what users would take instead. Ratios count.

The machine may be shared and noisy: everything is measured in one run, in turns, and the median of the
ratios is told. `ROUNDS` and `CALLS` set how many turns and calls, `ONLY=calls,timers` chooses rows, `BIG=1`
adds a store of a million requests, `PROFILE=1` tells where the controller's processor time goes instead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable

import structlog
from rich.console import Console

from tests.benchmarks.agi_commands import agi_commands
from tests.benchmarks.ami_parsing import ami_parsing
from tests.benchmarks.answered_calls import answered_calls
from tests.benchmarks.measure import Report
from tests.benchmarks.menus import menus
from tests.benchmarks.post_to_invite import post_to_invite
from tests.benchmarks.profile import profile
from tests.benchmarks.store_size import store_size
from tests.benchmarks.timers import timer_lateness

Say = Callable[[str], None]

ROWS: dict[str, Callable[[Report, Say], Awaitable[None]]] = {
    "ami": ami_parsing,
    "agi": agi_commands,
    "calls": answered_calls,
    "menus": menus,
    "invite": post_to_invite,
    "store": store_size,
    "timers": timer_lateness,
}


async def main() -> None:
    """Measure the rows that are asked for, and tell."""
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    if os.environ.get("PROFILE"):
        await profile(console.print)
        return
    chosen = [name for name in os.environ.get("ONLY", "").split(",") if name] or list(ROWS)
    report = Report()
    for name in chosen:
        await ROWS[name](report, console.print)
    console.print(f"raw figures: {report.write(console)}")


if __name__ == "__main__":
    # The lab's and the load generator's own log lines are not the benchmark's.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(main())
