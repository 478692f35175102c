"""Opening hours: read once, asked with a moment. The clock's zone is IANA's, its changes are the zone's.

What it never does: look at the time by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from telephony.ivr.tree import Hours

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_ONE_DAY: Final = 24 * 60
_LEAP_YEAR: Final = 2024

Span: TypeAlias = tuple[int, int]
"""From minute up to minute of a day; an end beyond 24 hours runs into the next day."""


class BadHours(ValueError):
    """Hours that can't be read; `where` leads to the value inside of them."""

    def __init__(self, where: tuple[str | int, ...], problem: str, mend: str) -> None:
        super().__init__(problem)
        self.where, self.problem, self.mend = where, problem, mend


@dataclass(frozen=True, slots=True)
class Timetable:
    """Hours that were read: a week, and the days that are not like it (by date, or by month and day)."""

    zone: ZoneInfo
    week: tuple[tuple[Span, ...], ...]
    dates: Mapping[date, tuple[Span, ...]]
    every_year: Mapping[tuple[int, int], tuple[Span, ...]]

    def is_open(self, moment: datetime) -> bool:
        """Whether it is open at a moment (which knows its zone)."""
        local = moment.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        today = any(start <= minute < end for start, end in self._spans(local.date()))
        yesterday = self._spans(local.date() - timedelta(days=1))
        return today or any(start <= minute + _ONE_DAY < end for start, end in yesterday)

    def _spans(self, day: date) -> tuple[Span, ...]:
        if day in self.dates:
            return self.dates[day]
        return self.every_year.get((day.month, day.day), self.week[day.weekday()])


def timetable(hours: Hours) -> Timetable:
    """Read hours. Raises `BadHours`."""
    try:
        zone = ZoneInfo(hours.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        mend = "Write an IANA name such as Asia/Shanghai"
        raise BadHours(("zone",), f"{hours.zone!r} is no time zone", mend) from None
    week: list[tuple[Span, ...] | None] = [None] * 7
    for name, texts in hours.open.items():
        spans = _spans(("open", name), texts)
        for day in _days(name):
            if week[day] is not None:
                raise BadHours(("open", name), f"{DAYS[day]} has its hours already", "Say each day once")
            week[day] = spans
    dates: dict[date, tuple[Span, ...]] = {}
    every_year: dict[tuple[int, int], tuple[Span, ...]] = {}
    for text, texts in hours.holidays.items():
        spans = _spans(("holidays", text), texts)
        try:
            if len(text) == 5:
                yearly = date.fromisoformat(f"{_LEAP_YEAR}-{text}")
                every_year[yearly.month, yearly.day] = spans
            else:
                dates[date.fromisoformat(text)] = spans
        except ValueError:
            mend = 'Write "2026-10-01", or "10-01" for every year'
            raise BadHours(("holidays", text), f"{text!r} is no day", mend) from None
    return Timetable(zone, tuple(day or () for day in week), dates, every_year)


def _days(name: str) -> range:
    if name == "daily":
        return range(7)
    first, _, last = name.partition("-")
    if first not in DAYS or (last or first) not in DAYS or DAYS.index(last or first) < DAYS.index(first):
        mend = "Write mon, tue, … sun, a span such as mon-fri, or daily"
        raise BadHours(("open", name), f"{name!r} is no day of the week", mend)
    return range(DAYS.index(first), DAYS.index(last or first) + 1)


def _spans(where: tuple[str | int, ...], texts: tuple[str, ...]) -> tuple[Span, ...]:
    spans = []
    for index, text in enumerate(texts):
        match = _SPAN.fullmatch(text)
        if match is None:
            raise BadHours((*where, index), f"{text!r} is no span of time", 'Write "09:00-18:00"')
        start = int(match[1]) * 60 + int(match[2])
        end = _ONE_DAY if match[3] is None else int(match[3]) * 60 + int(match[4])
        spans.append((start, end if end > start else end + _ONE_DAY))
    return tuple(spans)
