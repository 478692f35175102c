"""What an operator may ask for at the PBX's console, as a global variable says it.

Pure. What it never does: carry it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from telephony.model.trunk import MOST_LINES

TRUNK_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What a trunk has to be called so that the PBX's console can name it."""

AS_CONFIGURED: Final = "configured"


class Ask(StrEnum):
    """Each order, with the variable that says it. In this order where several wait: `drain` has the last
    word.
    """

    RESUME = "TELEPHONY_RESUME"
    DRAIN = "TELEPHONY_DRAIN"
    LIMIT = "TELEPHONY_SET_LIMIT"


@dataclass(frozen=True, slots=True)
class Order:
    """One order for one trunk. `channels` is a new limit, None: as configured."""

    ask: Ask
    trunk: str
    channels: int | None = None

    def __str__(self) -> str:
        limit = AS_CONFIGURED if self.channels is None else str(self.channels)
        return f"{self.ask.name.lower()} {self.trunk}" + (f"={limit}" if self.ask is Ask.LIMIT else "")


def read_orders(ask: Ask, text: str) -> Iterator[Order]:
    """Read `NAME,NAME`, or `NAME=N,NAME=N`; raises `ValueError` at what is none, after those before it."""
    for one in text.split(","):
        name, equals, number = one.strip().partition("=")
        if not TRUNK_NAME.fullmatch(name) or bool(equals) is not (ask is Ask.LIMIT):
            form = "NAME=N" if ask is Ask.LIMIT else "NAME"
            raise ValueError(f"{ask.name.lower()} {one[:80]}: it is written {ask.name.lower()} {form}")
        if ask is not Ask.LIMIT or number == AS_CONFIGURED:
            yield Order(ask, name)
        elif re.fullmatch(r"[0-9]{1,6}", number) and int(number) <= MOST_LINES:
            yield Order(ask, name, int(number))
        else:
            words = f"N is a number from 0 to {MOST_LINES}, or {AS_CONFIGURED}"
            raise ValueError(f"limit {one[:80]}: {words}")
