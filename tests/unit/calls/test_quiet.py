"""Quiet hours at the edges of time zones and at both clock changes."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.calls.quiet import Window, next_allowed, zones_of
from telephony.model.number import parse_number

DAY = Window(time(9), time(21))
CHINA = parse_number("+8613800000000")
BERLIN = parse_number("+493012345678")
NEW_YORK = parse_number("+12125550123")
US_TOLL_FREE = parse_number("+18005550199")


def ms(zone: str, *parts: int, fold: int = 0) -> int:
    return round(datetime(*parts, tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ((2026, 11, 24, 8, 59, 59), (2026, 11, 24, 9)),
        ((2026, 11, 24, 9), (2026, 11, 24, 9)),
        ((2026, 11, 24, 20, 59, 59), (2026, 11, 24, 20, 59, 59)),
        ((2026, 11, 24, 21), (2026, 11, 25, 9)),
        ((2026, 12, 31, 23, 59), (2027, 1, 1, 9)),
    ],
)
def test_the_edges_of_the_day(now: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert next_allowed(CHINA, [DAY], ms("Asia/Shanghai", *now)) == ms("Asia/Shanghai", *expected)


def test_two_windows_leave_a_noon_rest() -> None:
    windows = [Window(time(9), time(12)), Window(time(14), time(21))]
    noon = ms("Asia/Shanghai", 2026, 11, 24, 12, 30)
    assert next_allowed(CHINA, windows, noon) == ms("Asia/Shanghai", 2026, 11, 24, 14)


def test_a_number_of_many_zones_rings_only_when_all_allow_it() -> None:
    assert len(zones_of(US_TOLL_FREE.e164)) > 3
    start = ms("America/New_York", 2026, 11, 24, 9)
    allowed = next_allowed(US_TOLL_FREE, [DAY], start)
    for zone in zones_of(US_TOLL_FREE.e164):
        local = datetime.fromtimestamp(allowed / 1000, zone).time()
        assert DAY.holds(local), zone
    assert allowed > start


def test_the_hour_that_spring_skips() -> None:
    # Berlin, 29 March 2026: 02:00 becomes 03:00. A window from 02:30 begins at the jump.
    window = Window(time(2, 30), time(4))
    before = ms("Europe/Berlin", 2026, 3, 29, 1, 59)
    allowed = next_allowed(BERLIN, [window], before)
    assert datetime.fromtimestamp(allowed / 1000, ZoneInfo("Europe/Berlin")).time() == time(3)
    assert allowed - before == 60_000


def test_the_hour_that_autumn_shows_twice() -> None:
    # Berlin, 25 October 2026: 03:00 becomes 02:00 again. A window from 02:30 begins the first time, and
    # the second 02:10 lies outside it.
    window = Window(time(2, 30), time(4))
    first = ms("Europe/Berlin", 2026, 10, 25, 2, 10, fold=0)
    assert next_allowed(BERLIN, [window], first) == ms("Europe/Berlin", 2026, 10, 25, 2, 30, fold=0)
    again = ms("Europe/Berlin", 2026, 10, 25, 2, 10, fold=1)
    assert next_allowed(BERLIN, [window], again) == ms("Europe/Berlin", 2026, 10, 25, 2, 30, fold=1)


@pytest.mark.parametrize("day", [(2026, 3, 8), (2026, 11, 1)])
def test_nine_in_the_morning_is_nine_on_the_days_of_both_changes(day: tuple[int, int, int]) -> None:
    allowed = next_allowed(NEW_YORK, [DAY], ms("America/New_York", *day, 0, 30))
    assert datetime.fromtimestamp(allowed / 1000, ZoneInfo("America/New_York")).time() == time(9)


def test_no_window_is_no_limit() -> None:
    assert next_allowed(CHINA, [], 123_456) == 123_456


@given(
    st.integers(1_700_000_000_000, 1_900_000_000_000),
    st.sampled_from([CHINA, BERLIN, NEW_YORK, US_TOLL_FREE]),
)
def test_the_answer_is_allowed_and_never_in_the_past(now: int, number: object) -> None:
    allowed = next_allowed(number, [DAY], now)  # type: ignore[arg-type]
    assert now <= allowed <= now + 26 * 3600 * 1000
    for zone in zones_of(number.e164):  # type: ignore[attr-defined]
        assert DAY.holds(datetime.fromtimestamp(allowed / 1000, zone).time())
