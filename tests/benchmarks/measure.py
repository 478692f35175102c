"""What every benchmark shares: turns, processor seconds, ratios, and the report with its raw figures."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROUNDS = int(os.environ.get("ROUNDS", "5"))
"""Turns: A B C, A B C, … Each ratio is told as the median over them."""

CALLS = int(os.environ.get("CALLS", "60"))
"""Calls of each side in each turn."""

FOLDER = Path(__file__).resolve().parents[2] / "var" / "bench"

Figures = Mapping[str, Sequence[float]]
"""Raw figures by name, one of each turn."""


def cpu_of(pid: int) -> float:
    """Processor seconds that a process has used, in steps of 10 ms: ended threads are in it (proc(5))."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_threads(pid: int) -> float:
    """Processor seconds of the threads that a process has now, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def cpu_of_children(pid: int) -> float:
    """Processor seconds of the children that a process has had and waited for (proc(5))."""
    fields = _stat(pid)
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def installed(peer: str) -> bool:
    """Whether a peer is there: `make bench` installs the extra `peers`."""
    return importlib.util.find_spec({"pyst2": "asterisk"}.get(peer, peer)) is not None


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run in the loop that our controller runs in: uvloop's where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def timed(work: Callable[[], None]) -> float:
    """Processor seconds of one run in this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, turn by turn."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def middles(values: Sequence[float]) -> list[float]:
    """The median of each turn, where turns of equal length follow one another."""
    each = len(values) // ROUNDS
    return [statistics.median(values[turn * each : (turn + 1) * each]) for turn in range(ROUNDS)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass
class Report:
    """The table of one run, and a JSON file of everything measured."""

    table: Table = field(
        default_factory=lambda: Table("what", "median of turns", "least", "greatest", "aim", title="Ratios")
    )
    raw: dict[str, Figures] = field(default_factory=dict)

    def row(self, what: str, each: Sequence[float], *, aim: str = "", unit: str = "") -> None:
        """A line: the median of the turns, the least and the greatest."""
        middle = statistics.median(each)
        digits = 2 if middle < 10 else 1
        texts = [f"{value:.{digits}f}{unit}" for value in (middle, min(each), max(each))]
        self.table.add_row(what, *texts, aim)

    def keep(self, name: str, figures: Figures) -> None:
        """Raw figures for the JSON file."""
        self.raw[name] = {key: list(values) for key, values in figures.items()}

    def write(self, console: Console) -> Path:
        """Print the table, write the file, and return where it is."""
        console.print(self.table)
        FOLDER.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        path = FOLDER / f"{now:%Y%m%dT%H%M%SZ}.json"
        about = {
            "at": now.isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "rounds": ROUNDS,
            "calls": CALLS,
        }
        path.write_text(json.dumps({"about": about, "figures": self.raw}, indent=1) + "\n")
        return path
