"""The week to expect: exact loads, the zone's clock and its changes, and what is drawn of it."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telephony.errors import InputError
from telephony.trunks.erlang import lines_for
from telephony.trunks.forecast import Forecast, HourOfWeek, forecast, last_weeks
from telephony.trunks.plot import svg

BERLIN = ZoneInfo("Europe/Berlin")
SHANGHAI = ZoneInfo("Asia/Shanghai")
HOUR = 3_600_000
WEEK = 168 * HOUR


def at(text: str, zone: ZoneInfo, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()) * 1000


def cell(made: Forecast, weekday: int, hour: int) -> HourOfWeek:
    found = made.hours[weekday * 24 + hour]
    assert (found.weekday, found.hour) == (weekday, hour)
    return found


MONDAY = at("2026-03-02 00:00", SHANGHAI)


def test_a_call_counts_in_each_hour_it_takes() -> None:
    """Half an hour in each of two hours, and one of 36 s."""
    calls = [(at("2026-03-02 09:30", SHANGHAI), 3_600.0), (at("2026-03-02 10:00", SHANGHAI), 36.0)]
    made = forecast(calls, SHANGHAI, MONDAY, MONDAY + WEEK)
    assert cell(made, 0, 9).mean == pytest.approx(0.5)
    assert cell(made, 0, 10).mean == pytest.approx(0.51)
    assert cell(made, 0, 11).mean == 0.0
    assert (made.calls, made.mean_seconds) == (2, 1_818.0)
    assert made.busiest == cell(made, 0, 10)


def test_mean_high_and_lines_over_the_weeks() -> None:
    """Five Mondays at nine with 10, 20, 30, 40 and 50 calls at once."""
    first = at("2026-03-02 09:00", SHANGHAI)
    calls = [(first + week * WEEK, 3_600.0) for week in range(5) for _ in range(10 * (week + 1))]
    made = forecast(calls, SHANGHAI, MONDAY, MONDAY + 5 * WEEK, loss=0.001, quantile=0.75)
    assert cell(made, 0, 9) == HourOfWeek(0, 9, 5, 30.0, 40.0, lines_for(40.0, 0.001))
    assert cell(forecast(calls, SHANGHAI, MONDAY, MONDAY + 5 * WEEK), 0, 9).high == pytest.approx(46.0)
    assert cell(made, 0, 10) == HourOfWeek(0, 10, 5, 0.0, 0.0, 0)


def test_an_hour_that_is_left_out_gives_no_sample() -> None:
    """Berlin, 29 March 2026: after 01:59 comes 03:00."""
    since = at("2026-03-23 00:00", BERLIN)
    until = at("2026-04-06 00:00", BERLIN)
    assert until - since == 2 * WEEK - HOUR
    every_sunday = [at(f"2026-03-29 0{hour}:00", BERLIN) for hour in (1, 3)]
    calls = [(since, 1.0), *((start, 3_600.0) for start in every_sunday)]
    made = forecast(calls, BERLIN, since, until)
    assert [cell(made, 6, hour).samples for hour in (1, 2, 3)] == [2, 1, 2]
    assert [cell(made, 6, hour).mean for hour in (1, 2, 3)] == [0.5, 0.0, 0.5]


def test_an_hour_that_comes_twice_gives_two_samples() -> None:
    """Berlin, 25 October 2026: 02:00 to 02:59 comes twice, and a call holds through both."""
    since = at("2026-10-19 00:00", BERLIN)
    until = at("2026-10-26 00:00", BERLIN)
    made = forecast([(since, 1.0), (at("2026-10-25 02:00", BERLIN), 5_400.0)], BERLIN, since, until)
    assert cell(made, 6, 2) == HourOfWeek(6, 2, 2, 0.75, pytest.approx(0.95), lines_for(0.95, 0.01))
    assert cell(made, 6, 3).mean == 0.0


def test_a_clock_change_of_half_an_hour() -> None:
    """Lord Howe, 5 April 2026: 01:30 to 01:59 comes twice; the second time is half an hour."""
    zone = ZoneInfo("Australia/Lord_Howe")
    since, until = at("2026-03-30 00:00", zone), at("2026-04-06 00:00", zone)
    call = (at("2026-04-05 01:30", zone, fold=1), 1_800.0)
    made = forecast([(since, 1.0), call], zone, since, until)
    assert cell(made, 6, 1).samples == 2
    assert cell(made, 6, 1).mean == pytest.approx(1 / 3)


def test_a_zone_off_the_hour() -> None:
    zone = ZoneInfo("Asia/Kathmandu")
    since = at("2026-03-02 00:00", zone)
    made = forecast([(at("2026-03-02 09:00", zone), 3_600.0)], zone, since, since + WEEK)
    assert [cell(made, 0, hour).mean for hour in (8, 9, 10)] == [0.0, 1.0, 0.0]


def test_hours_before_the_first_call_are_not_quiet_ones() -> None:
    """In use since Wednesday 10:40 of the second week: its hours are there once, from 10:00."""
    first = at("2026-03-11 10:40", SHANGHAI)
    made = forecast([(first, 60.0)], SHANGHAI, MONDAY, MONDAY + 2 * WEEK)
    assert made.since == at("2026-03-11 10:00", SHANGHAI)
    assert [cell(made, 2, hour).samples for hour in (9, 10, 11)] == [0, 1, 1]
    assert cell(made, 0, 9).samples == 0
    assert forecast([], SHANGHAI, MONDAY, MONDAY + WEEK).hours[0].samples == 0


def test_calls_at_the_edges() -> None:
    """What began before is counted from the beginning on, what goes on is cut."""
    calls = [(MONDAY - HOUR, 5_400.0), (MONDAY + WEEK - 60_000, 999_999.0)]
    outside = [(MONDAY - 2 * HOUR, 60.0), (MONDAY + WEEK, 60.0), (MONDAY - HOUR, 3_600.0)]
    made = forecast([*calls, *outside], SHANGHAI, MONDAY, MONDAY + WEEK)
    assert cell(made, 0, 0).mean == pytest.approx(0.5)
    assert cell(made, 6, 23).mean == pytest.approx(1 / 60)
    assert sum(hour.mean for hour in made.hours) == pytest.approx(0.5 + 1 / 60)
    assert made.calls == 1


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(-HOUR, 3 * WEEK + HOUR), st.floats(0.0, 90_000.0)),
        max_size=30,
    ),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC", "Australia/Lord_Howe"]),
)
def test_no_line_time_is_lost_or_made(calls: list[tuple[int, float]], name: str) -> None:
    """Loads times hours give the time of the calls inside the period, across both clock changes."""
    zone = ZoneInfo(name)
    since = at("2026-10-19 00:00", ZoneInfo("UTC"))
    until = since + 3 * WEEK
    moved = [(since + start, seconds) for start, seconds in calls]
    made = forecast(moved, zone, since, until, quantile=1.0)
    inside = sum(
        max(0, min(start + round(seconds * 1000), until) - max(start, since)) for start, seconds in moved
    )
    # How long each hour of the week lasted in all, quarter by quarter.
    quarters = (datetime.fromtimestamp(one / 1000, zone) for one in range(made.since, until, HOUR // 4))
    lasted = Counter((one.weekday(), one.hour) for one in quarters)
    mended = sum(hour.mean * lasted[hour.weekday, hour.hour] / 4 for hour in made.hours)
    assert mended * HOUR == pytest.approx(inside, abs=1)
    assert all(hour.mean <= hour.high + 1e-9 for hour in made.hours), "the highest is not below the mean"


def test_the_last_weeks_are_the_clocks() -> None:
    now = at("2026-04-01 09:41", BERLIN) + 12_345
    assert last_weeks(BERLIN, now, 4) == (at("2026-03-04 09:00", BERLIN), at("2026-04-01 09:00", BERLIN))
    kolkata = ZoneInfo("Asia/Kolkata")
    now = at("2026-04-01 09:41", kolkata)
    assert last_weeks(kolkata, now, 1)[1] == at("2026-04-01 09:00", kolkata)


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"^weeks: "):
        last_weeks(BERLIN, MONDAY, 0)
    with pytest.raises(InputError, match=r"^weeks: "):
        forecast([], BERLIN, MONDAY, MONDAY)
    with pytest.raises(InputError, match=r"^period: "):
        forecast([], BERLIN, MONDAY + 1, MONDAY + WEEK)
    with pytest.raises(InputError, match=r"^quantile: "):
        forecast([], BERLIN, MONDAY, MONDAY + WEEK, quantile=math.nan)
    with pytest.raises(InputError, match=r"^loss: "):
        forecast([], BERLIN, MONDAY, MONDAY + WEEK, loss=0.0)
    for seconds in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"^seconds: "):
            forecast([(MONDAY, seconds)], BERLIN, MONDAY, MONDAY + WEEK)


# ---- the picture


def _rows(text: str, colour: str) -> list[float]:
    """The heights that a staircase of this colour goes through."""
    root = ET.fromstring(text)
    path = next(one for one in root.iter("{http://www.w3.org/2000/svg}path") if one.get("stroke") == colour)
    return [float(part.partition("H")[0]) for part in path.attrib["d"].split("V")[1:]]


def test_the_picture_is_the_week() -> None:
    calls = [(at("2026-03-02 09:00", SHANGHAI), 3_600.0)] * 10
    text = svg(forecast(calls, SHANGHAI, MONDAY, MONDAY + WEEK), 'a & b <script>"')
    load, lines = _rows(text, "#1d4ed8"), _rows(text, "#b91c1c")
    assert len(load) == len(lines) == 168
    assert load.index(min(load)) == lines.index(min(lines)) == 9
    bottom = load[0]
    assert (bottom - load[9]) / (bottom - lines[9]) == pytest.approx(10 / 18, abs=0.01)
    assert "<script" not in text
    assert "2026-03-02 to 2026-03-09, Asia/Shanghai, 10 calls" in text


@pytest.mark.parametrize("calls", [0, 1, 7, 4_000])
def test_any_load_can_be_drawn(calls: int) -> None:
    made = forecast([(MONDAY, 3_600.0)] * calls, SHANGHAI, MONDAY, MONDAY + WEEK)
    text = svg(made, "load")
    assert min(_rows(text, "#b91c1c")) >= 56.0, "nothing is above the picture"
    assert 2 <= text.count('stroke="#e7e5e4"') - 7 <= 8
