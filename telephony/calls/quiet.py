"""Quiet hours: when a number may be rung, by the clock on the callee's wall.

A number may lie in several time zones (a whole country's mobile numbers): it may be rung only when it is
allowed in all of them. Clock changes are the zone's own business (IANA database). What it never does:
look at the time by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import phonenumbers
from phonenumbers import timezone

from telephony.model.number import PhoneNumber

_DAY: Final = timedelta(days=1)
_SEARCH_DAYS: Final = 8


@dataclass(frozen=True, slots=True)
class Window:
    """Hours in which a phone may ring: from `start` up to `end`, both on the same day.

    `end` 00:00 is the end of the day; `start` and `end` equal is the whole day.
    """

    start: time
    end: time

    def holds(self, moment: time) -> bool:
        """Whether a time of day lies inside."""
        if self.start == self.end:
            return True
        return self.start <= moment and (moment < self.end or self.end == time(0))


@lru_cache(maxsize=4096)
def zones_of(e164: str) -> tuple[ZoneInfo, ...]:
    """Return the time zones a number may lie in (libphonenumber); UTC where nothing is known."""
    names = timezone.time_zones_for_number(phonenumbers.parse(e164))
    zones = tuple(ZoneInfo(name) for name in names if name != timezone.UNKNOWN_TIMEZONE)
    return zones or (ZoneInfo("UTC"),)


def next_allowed(number: PhoneNumber, windows: Sequence[Window], now_ms: int) -> int:
    """Return the first moment from `now_ms` on at which the number may ring, in milliseconds.

    No window at all allows every moment. The answer is exact to the second.
    """
    if not windows:
        return now_ms
    zones = zones_of(number.e164)
    moment = now_ms
    # Each zone pushes the moment on until all agree; two rounds of zones per day are plenty.
    for _ in range(2 * _SEARCH_DAYS * len(zones)):
        pushed = max(_next_in_zone(zone, windows, moment) for zone in zones)
        if pushed == moment:
            return moment
        moment = pushed
    return moment


def _next_in_zone(zone: ZoneInfo, windows: Sequence[Window], now_ms: int) -> int:
    local = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(zone)
    if any(window.holds(local.time()) for window in windows):
        return now_ms
    starts = []
    for day in range(_SEARCH_DAYS):
        date = (local + day * _DAY).date()
        for window in windows:
            moments = _moments(datetime.combine(date, window.start), zone)
            starts += [stamp for stamp in map(_to_ms, moments) if stamp > now_ms]
        if starts:
            break
    return min(starts)


def _to_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _moments(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return the real moments at which the wall clock shows `wall`: one, or two where autumn repeats it.

    A time that spring skips begins when the clock has jumped over it (PEP 495).
    """
    first, second = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    there_and_back = first.astimezone(UTC).astimezone(zone)
    if there_and_back.replace(tzinfo=None) != wall:
        return [_jump(wall, zone)]
    return [first] if first.utcoffset() == second.utcoffset() else [first, second]


def _jump(wall: datetime, zone: ZoneInfo) -> datetime:
    early = (wall - timedelta(hours=3)).replace(tzinfo=zone).astimezone(UTC)
    late = (wall + timedelta(hours=3)).replace(tzinfo=zone).astimezone(UTC)
    before = early.astimezone(zone).utcoffset()
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late.replace(microsecond=0).astimezone(zone)
