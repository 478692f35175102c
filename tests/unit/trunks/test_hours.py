"""The hours of a trunk: by the week and by the clock on the wall."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from telephony.trunks.hours import DAYS, WeekHours, parse_window

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = SHANGHAI) -> int:
    """Milliseconds of a moment on the wall clock."""
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


def hours(*texts: str, zone: ZoneInfo = SHANGHAI) -> WeekHours:
    return WeekHours(tuple(map(parse_window, texts)), zone)


@pytest.mark.parametrize(
    ("text", "moment", "inside"),
    [
        ("mon-fri 09:00-18:00", "2026-11-27 09:00", True),
        ("mon-fri 09:00-18:00", "2026-11-27 17:59:59.999", True),
        ("mon-fri 09:00-18:00", "2026-11-27 18:00", False),
        ("mon-fri 09:00-18:00", "2026-11-28 12:00", False),
        ("sat,sun 10:00-12:00", "2026-11-29 11:00", True),
        ("09:00-18:00", "2026-11-29 11:00", True),
        ("fri-mon 09:00-18:00", "2026-11-29 11:00", True),
        ("fri-mon 09:00-18:00", "2026-12-01 11:00", False),
        ("mon,wed-thu 00:00-24:00", "2026-11-26 23:59", True),
        ("mon,wed-thu 00:00-24:00", "2026-11-24 00:00", False),
        ("FRI 22:00-06:00", "2026-11-27 23:00", True),
        ("fri 22:00-06:00", "2026-11-28 05:59", True),
        ("fri 22:00-06:00", "2026-11-28 06:00", False),
        ("fri 22:00-06:00", "2026-11-28 22:00", False),
        ("fri 22:00-06:00", "2026-11-27 05:00", False),
        ("sun 22:00-06:00", "2026-11-30 05:00", True),
        ("fri 22:00-24:00", "2026-11-27 23:59", True),
        ("fri 22:00-24:00", "2026-11-28 00:00", False),
    ],
)
def test_windows(text: str, moment: str, inside: bool) -> None:
    assert hours(text).open_at(at(moment)) is inside


def test_without_windows_always() -> None:
    assert WeekHours().open_at(0)
    assert WeekHours().opens_at(5) == 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9:00-18:00",
        "mon 09:00",
        "xyz 09:00-10:00",
        "mon- 09:00-10:00",
        "24:00-09:00",
        "09:00-09:00",
        "mon  09:00-10:00",
        "09:00-25:00",
        "mon,tue, 09:00-10:00",
        "00:00-00:00",
    ],
)
def test_what_names_no_hours(text: str) -> None:
    with pytest.raises(ValueError, match="; write"):
        parse_window(text)


def test_when_it_opens() -> None:
    week = hours("mon-fri 09:00-12:00", "mon-fri 14:00-18:00")
    assert week.opens_at(at("2026-11-27 10:00")) == at("2026-11-27 10:00")
    assert week.opens_at(at("2026-11-27 13:00")) == at("2026-11-27 14:00")
    assert week.opens_at(at("2026-11-27 18:00")) == at("2026-11-30 09:00")


def test_clock_changes_are_the_zones_own() -> None:
    night = hours("sun 02:30-03:30", zone=BERLIN)
    # On 2027-03-28 there is no half past two: it opens when the clock has jumped over it.
    assert night.opens_at(at("2027-03-28 00:00", BERLIN)) == at("2027-03-28 03:00", BERLIN)
    assert not night.open_at(at("2027-03-28 01:59", BERLIN))
    # On 2026-10-25 it is half past two twice.
    first = at("2026-10-25 02:30", BERLIN)
    assert [night.open_at(first + 60_000 * minutes) for minutes in (0, 60, 119, 120)] == [
        True,
        True,
        True,
        False,
    ]


CLOCKS = some.times().map(lambda clock: f"{clock.hour:02}:{clock.minute:02}")
WINDOWS = some.tuples(some.lists(some.sampled_from(DAYS), max_size=3), CLOCKS, CLOCKS).filter(
    lambda one: one[1] != one[2]
)


@given(some.lists(WINDOWS, min_size=1, max_size=3), some.integers(1_700_000_000_000, 1_900_000_000_000))
def test_it_opens_in_time_and_is_open_then(windows: list[tuple[list[str], str, str]], now: int) -> None:
    texts = [f"{','.join(days)} {start}-{end}".strip() for days, start, end in windows]
    for zone in (SHANGHAI, BERLIN):
        week = hours(*texts, zone=zone)
        opens = week.opens_at(now)
        assert now <= opens <= now + 8 * 86_400_000
        assert week.open_at(opens)
        # Nowhere in between: looked at by the quarter of an hour, and just before.
        steps = range(now, opens, 900_000)
        assert not any(week.open_at(step) for step in [*steps, opens - 1] if now <= step < opens)
