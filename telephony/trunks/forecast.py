"""How many lines each hour of the week needs, from the calls that were made.

Every hour that passed is one sample of its hour of the week by the zone's clock. An hour that a clock change
leaves out gives none that week, an hour that comes twice gives two, and half an hour counts as half. A
load is measured exactly, as the time that lines were taken; a call that runs past the hour counts in both.
What it never does: look at the clock, or reach a store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, TypeAlias
from zoneinfo import ZoneInfo

from telephony.errors import InputError
from telephony.trunks.erlang import MAX_ERLANGS, lines_for

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOURS_OF_WEEK: Final = 7 * 24
MAX_WEEKS: Final = 104

SLICE_MS: Final = 15 * 60_000
"""Clocks differ, and change, by whole quarters of an hour: one never lies in two hours."""

_Hour: TypeAlias = tuple[date, int, int]
"""Date, hour, and 1 where the clock shows this hour for the second time."""


@dataclass(frozen=True, slots=True)
class HourOfWeek:
    """One of the 168: `weekday` 0 is Monday.

    `mean` and `high` are in Erlang, `lines` are those for `high`. All are 0 where `samples` is.
    """

    weekday: int
    hour: int
    samples: int
    mean: float
    high: float
    lines: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """The week: 168 hours from Monday 00:00. `since` and `until` are milliseconds since the epoch.

    `calls` began in that time; `mean_seconds` is how long they took. `quantile` is what `high` means: so
    large a share of an hour's samples is not above it.
    """

    zone: ZoneInfo
    since: int
    until: int
    loss: float
    quantile: float
    calls: int
    mean_seconds: float
    hours: tuple[HourOfWeek, ...]

    @property
    def busiest(self) -> HourOfWeek:
        """The hour of the highest load, the first of equals."""
        return max(self.hours, key=lambda hour: (hour.high, hour.mean))


class LoadByHour:
    """Adds up calls one by one, in any order, in memory that grows with the weeks alone."""

    def __init__(self, zone: ZoneInfo, since: int, until: int) -> None:
        """Take what falls between two moments (milliseconds since the epoch), each a quarter of an hour."""
        if since % SLICE_MS or until % SLICE_MS:
            raise InputError("period", "is not of whole quarters of an hour", "Begin and end at full hours")
        if not 0 < until - since <= (MAX_WEEKS * HOURS_OF_WEEK + 1) * 3_600_000:
            raise InputError("weeks", "is out of range", f"Write a number from 1 to {MAX_WEEKS}")
        self._zone = zone
        self._since = since
        self._until = until
        self._busy = [0] * ((until - since) // SLICE_MS)
        self._calls = 0
        self._call_ms = 0
        self._first: int | None = None

    def add(self, start: int, seconds: float) -> None:
        """Count a call that took a line at `start` (milliseconds since the epoch) for so many seconds."""
        if not 0.0 <= seconds < float("inf"):
            raise InputError("seconds", "is no duration", "Give seconds, 0 or more")
        length = round(seconds * 1000)
        begin, end = max(start, self._since), min(start + length, self._until)
        if start < self._until and (start >= self._since or end > begin):
            self._first = begin if self._first is None else min(self._first, begin)
        if self._since <= start < self._until:
            self._calls += 1
            self._call_ms += length
        while begin < end:
            place = (begin - self._since) // SLICE_MS
            upto = min(end, self._since + (place + 1) * SLICE_MS)
            self._busy[place] += upto - begin
            begin = upto

    def forecast(self, *, loss: float = 0.01, quantile: float = 0.9) -> Forecast:
        """The week to expect, with the lines that lose at most `loss` of an hour's calls.

        Hours before the first call are taken as not yet in use, those after the last as quiet. Raises
        `InputError` for shares that are none, and for more load than can be.
        """
        if not 0.0 <= quantile <= 1.0:
            raise InputError("quantile", "is out of range", "Write a share from 0 to 1, such as 0.9")
        begin = self._begin()
        hours: dict[_Hour, tuple[int, int]] = {}
        for place in range(begin, len(self._busy)):
            hour = self._hour(place)
            busy, length = hours.get(hour, (0, 0))
            hours[hour] = (busy + self._busy[place], length + SLICE_MS)
        cells: list[list[tuple[float, int]]] = [[] for _ in range(HOURS_OF_WEEK)]
        for (day, hour_of_day, _again), (busy, length) in hours.items():
            cells[day.weekday() * 24 + hour_of_day].append((busy / length, length))
        return Forecast(
            self._zone,
            self._since + begin * SLICE_MS,
            self._until,
            loss,
            quantile,
            self._calls,
            self._call_ms / self._calls / 1000 if self._calls else 0.0,
            tuple(_hour_of(place, samples, loss, quantile) for place, samples in enumerate(cells)),
        )

    def _begin(self) -> int:
        """The first slice of the hour of the first call."""
        if self._first is None:
            return len(self._busy)
        begin = (self._first - self._since) // SLICE_MS
        hour = self._hour(begin)
        while begin > 0 and self._hour(begin - 1) == hour:
            begin -= 1
        return begin

    def _hour(self, place: int) -> _Hour:
        local = datetime.fromtimestamp((self._since + place * SLICE_MS) // 1000, self._zone)
        return local.date(), local.hour, local.fold


def forecast(
    calls: Iterable[tuple[int, float]],
    zone: ZoneInfo,
    since: int,
    until: int,
    *,
    loss: float = 0.01,
    quantile: float = 0.9,
) -> Forecast:
    """The week to expect from calls given as (start in milliseconds since the epoch, seconds)."""
    load = LoadByHour(zone, since, until)
    for start, seconds in calls:
        load.add(start, seconds)
    return load.forecast(loss=loss, quantile=quantile)


def last_weeks(zone: ZoneInfo, now: int, weeks: int) -> tuple[int, int]:
    """The moments between which the last whole weeks lie, up to the full hour before `now`.

    Weeks are of the zone's clock: each holds every hour of the week once, but for clock changes.
    """
    if not 1 <= weeks <= MAX_WEEKS:
        raise InputError("weeks", "is out of range", f"Write a number from 1 to {MAX_WEEKS}")
    until = now // SLICE_MS * SLICE_MS
    while datetime.fromtimestamp(until // 1000, zone).minute:
        until -= SLICE_MS
    end = datetime.fromtimestamp(until // 1000, zone)
    # A wall clock's arithmetic: the same time of day, whatever changed in between.
    return round((end - timedelta(weeks=weeks)).timestamp()) * 1000, until


def _hour_of(place: int, samples: list[tuple[float, int]], loss: float, quantile: float) -> HourOfWeek:
    weekday, hour = divmod(place, 24)
    if not samples:
        return HourOfWeek(weekday, hour, 0, 0.0, 0.0, lines_for(0.0, loss))
    length = sum(weight for _, weight in samples)
    mean = sum(load * weight for load, weight in samples) / length
    high = _quantile(sorted(load for load, _ in samples), quantile)
    if high > MAX_ERLANGS:
        raise InputError("calls", "overlap too often", f"At most {MAX_ERLANGS:g} at once are counted")
    return HourOfWeek(weekday, hour, len(samples), mean, high, lines_for(high, loss))


def _quantile(ordered: list[float], share: float) -> float:
    """Between the two nearest of the ordered values, by their distance (Hyndman and Fan's type 7)."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
