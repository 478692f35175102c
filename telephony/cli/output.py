"""How a command says things: JSON, tables, times of day.

What it never does: say anything that is no data on standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def quiet_logs() -> None:
    """Keep the logs of rooms that work for a command off standard output, and to what failed."""
    from telephony.logs import set_up_logs

    set_up_logs("error", "console")


def print_json(value: Any) -> None:
    """Print it for a program to read."""
    print(json.dumps(value, ensure_ascii=False, indent=2), flush=True)


def print_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print it for a person to read; texts are printed as they are."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    stdout().print(table)


def stdout() -> Console:
    """A console that never cuts what goes into a file or a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 240)


def stderr() -> Console:
    """The same for what is no data."""
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else 240)


def count(number: int, what: str) -> str:
    """Say how many, in the right number."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def moment(text: str) -> float:
    """Unix seconds of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def clock(text: str | None) -> str:
    """The local time of day of an RFC 3339 time, with its date where it is not today's."""
    if text is None:
        return ""
    when = datetime.fromisoformat(text).astimezone()
    today = datetime.now().astimezone().date()
    return f"{when:%H:%M:%S}" if when.date() == today else f"{when:%Y-%m-%d %H:%M:%S}"
