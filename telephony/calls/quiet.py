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
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers
import structlog
from phonenumbers import timezone

from telephony.model.number import PhoneNumber

log = structlog.get_logger(__name__)

_DAY: Final = timedelta(days=1)
_DAY_MS: Final = 86_400_000
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
    zones: list[ZoneInfo] = []
    for name in timezone.time_zones_for_number(phonenumbers.parse(e164)):
        try:
            if name != timezone.UNKNOWN_TIMEZONE:
                zones.append(ZoneInfo(name))
        except (ZoneInfoNotFoundError, OSError):
            log.warning("time_zone.unknown", zone=name, mend="install the package tzdata, from PyPI")
    return tuple(zones) or (ZoneInfo("UTC"),)


def next_allowed(number: PhoneNumber, windows: Sequence[Window], now_ms: int) -> int:
    """Return the first moment from `now_ms` on at which the number may ring, in milliseconds.

    No window at all allows every moment. The answer is exact to the second. Where the zones agree on no
    moment within eight days it is a later one, at which asking again puts it off again.
    """
    if not windows:
        return now_ms
    zones = zones_of(number.e164)
    moment, last = now_ms, now_ms + _SEARCH_DAYS * _DAY_MS
    # Each zone pushes the moment on until all agree.
    while (pushed := max(_next_in_zone(zone, windows, moment) for zone in zones)) > moment:
        moment = pushed
        if moment > last:
            break
    return moment


def _next_in_zone(zone: ZoneInfo, windows: Sequence[Window], now_ms: int) -> int:
    """The first moment from now on inside a window: now, where one starts, or where the clock is set."""
    local = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(zone)
    if any(window.holds(local.time()) for window in windows):
        return now_ms
    for day in range(_SEARCH_DAYS):
        midnight = datetime.combine((local + day * _DAY).date(), time(0))
        moments = [
            moment
            for window in windows
            for moment in _moments(datetime.combine(midnight, window.start), zone)
        ]
        moments += [
            moment
            for moment in _changes(midnight, zone)
            if any(window.holds(moment.time()) for window in windows)
        ]
        later = [stamp for stamp in map(_to_ms, moments) if stamp > now_ms]
        if later:
            return min(later)
    raise AssertionError("no window began in eight days")


def _to_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _moments(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return the real moments at which the wall clock shows `wall` (PEP 495).

    One; two where autumn repeats it; none where spring skips it.
    """
    first, second = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    there_and_back = first.astimezone(UTC).astimezone(zone)
    if there_and_back.replace(tzinfo=None) != wall:
        return []
    return [first] if first.utcoffset() == second.utcoffset() else [first, second]


def _changes(midnight: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return the first moment, if any, at which a clock that was set on this day shows the new time."""
    early = midnight.replace(tzinfo=zone).astimezone(UTC)
    late = (midnight + _DAY).replace(tzinfo=zone).astimezone(UTC)
    before = early.astimezone(zone).utcoffset()
    if late.astimezone(zone).utcoffset() == before:
        return []
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return [late.replace(microsecond=0).astimezone(zone)]
