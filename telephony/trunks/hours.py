"""The hours of a trunk: on which days of the week, from when to when, by which clock on the wall.

Clock changes are the zone's own business (IANA database). What it never does: look at the time by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_MIDNIGHT: Final = time(0)
_CLOCK: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_DAY: Final = rf"(?:{'|'.join(DAYS)})"
_WINDOW: Final = re.compile(
    rf"(?:({_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*) )?({_CLOCK})-({_CLOCK}|24:00)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class WeekWindow:
    """From `start` on each of `days` (0 is Monday) up to `end`.

    An `end` that is not after `start` is that of the next day.
    """

    days: frozenset[int]
    start: time
    end: time

    def holds(self, wall: datetime) -> bool:
        """Whether a moment on the wall clock lies inside."""
        today, clock = wall.weekday(), wall.time()
        if self.start < self.end:
            return today in self.days and self.start <= clock < self.end
        began_today = today in self.days and clock >= self.start
        return began_today or ((today - 1) % 7 in self.days and clock < self.end)


@dataclass(frozen=True, slots=True)
class WeekHours:
    """When a trunk takes calls; without any window, always."""

    windows: tuple[WeekWindow, ...] = ()
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))

    def open_at(self, now_ms: int) -> bool:
        """Whether it takes calls at this moment (milliseconds since the epoch)."""
        wall = self._wall(now_ms)
        return not self.windows or any(window.holds(wall) for window in self.windows)

    def opens_at(self, now_ms: int) -> int:
        """The first moment from now on at which it takes calls: within eight days, by the whole minute."""
        if self.open_at(now_ms):
            return now_ms
        return min(moment for moment in self._starts(now_ms) if moment > now_ms and self.open_at(moment))

    def _starts(self, now_ms: int) -> Iterator[int]:
        """When a window may begin: at its start, at both of them in autumn, and when the clock is changed."""
        for ahead in range(9):
            day = self._wall(now_ms).date() + timedelta(days=ahead)
            for window in self.windows:
                for fold in (0, 1):
                    start = datetime.combine(day, window.start).replace(tzinfo=self.zone, fold=fold)
                    yield round(start.timestamp() * 1000)
            yield from self._change_on(day)

    def _change_on(self, day: date) -> Iterator[int]:
        """The moment of a day at which the clock is changed, if it is."""
        early, late = (
            round(datetime.combine(day + timedelta(days=days), _MIDNIGHT, self.zone).timestamp())
            for days in (0, 1)
        )
        before = self._wall(early * 1000).utcoffset()
        if before == self._wall(late * 1000).utcoffset():
            return
        while late - early > 1:
            middle = (early + late) // 2
            if self._wall(middle * 1000).utcoffset() == before:
                early = middle
            else:
                late = middle
        yield late * 1000

    def _wall(self, now_ms: int) -> datetime:
        return datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(self.zone)


def parse_window(text: str) -> WeekWindow:
    """Read `mon-fri 09:00-18:00`, `sat,sun 22:00-06:00` or `00:00-24:00`; raises `ValueError`."""
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} names no hours; write them like mon-fri 09:00-18:00")
    days, start, end = found.groups()
    ends = _MIDNIGHT if end == "24:00" else time.fromisoformat(end)
    begins = time.fromisoformat(start)
    if begins == ends and end != "24:00":
        raise ValueError(f"{text!r} ends when it begins; write 00:00-24:00 for the whole day")
    return WeekWindow(_days(days), begins, ends)


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        start = DAYS.index(first)
        length = (DAYS.index(last or first) - start) % 7 + 1
        found |= {(start + step) % 7 for step in range(length)}
    return frozenset(found)
