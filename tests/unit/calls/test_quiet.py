"""Quiet hours at the edges of time zones and at both clock changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo, reset_tzpath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from phonenumbers.tzdata import TIMEZONE_DATA

from telephony.calls import quiet
from telephony.calls.quiet import Window, next_allowed, zones_of
from telephony.model.number import PhoneNumber, parse_number

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = Window(time(9), time(21))
CHINA = parse_number("+8613800000000")
BERLIN = parse_number("+493012345678")
NEW_YORK = parse_number("+12125550123")
US_TOLL_FREE = parse_number("+18005550199")
SPAIN = parse_number("+34612345678")
AUSTRALIA = parse_number("+61412345678")
NOON_REST = (Window(time(9), time(12)), Window(time(14), time(21)))
NIGHT = (Window(time(22), time(0)), Window(time(0), time(2, 30)))
BERLIN_CHANGES = ((2026, 3, 29), (2026, 10, 25))
NEW_YORK_CHANGES = ((2026, 3, 8), (2026, 11, 1))
SYDNEY_CHANGES = ((2026, 4, 5), (2026, 10, 4))


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
    noon = ms("Asia/Shanghai", 2026, 11, 24, 12, 30)
    assert next_allowed(CHINA, NOON_REST, noon) == ms("Asia/Shanghai", 2026, 11, 24, 14)


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


@pytest.mark.parametrize(
    ("number", "zone", "day"),
    [(BERLIN, "Europe/Berlin", (2026, 3, 29)), (NEW_YORK, "America/New_York", (2026, 3, 8))],
)
def test_a_window_around_the_hour_that_is_skipped(
    number: PhoneNumber, zone: str, day: tuple[int, int, int]
) -> None:
    """Both jump from 02:00 to 03:00."""
    last = ms(zone, *day, 1, 59, 59)
    # Until 02:30: over at the jump, and open again on the next day.
    until = [Window(time(1), time(2, 30))]
    assert next_allowed(number, until, last) == last
    assert next_allowed(number, until, last + 1000) == ms(zone, day[0], day[1], day[2] + 1, 1)
    # Wholly inside: it never comes that day.
    inside = [Window(time(2, 15), time(2, 45))]
    assert next_allowed(number, inside, last) == ms(zone, day[0], day[1], day[2] + 1, 2, 15)
    # Over it: an hour less, and no pause.
    over = [Window(time(1, 30), time(3, 30))]
    assert next_allowed(number, over, last + 1000) == last + 1000


@pytest.mark.parametrize(
    ("number", "zone", "day", "hour"),
    [(BERLIN, "Europe/Berlin", (2026, 10, 25), 2), (NEW_YORK, "America/New_York", (2026, 11, 1), 1)],
)
def test_a_window_that_ends_in_the_hour_that_comes_twice_opens_twice(
    number: PhoneNumber, zone: str, day: tuple[int, int, int], hour: int
) -> None:
    window = [Window(time(hour - 1), time(hour, 30))]
    closed = ms(zone, *day, hour, 30, fold=0)
    assert next_allowed(number, window, closed - 1000) == closed - 1000
    again = ms(zone, *day, hour, 0, fold=1)
    assert again - closed == 30 * 60_000
    assert next_allowed(number, window, closed) == again
    assert next_allowed(number, window, again + 29 * 60_000) == again + 29 * 60_000
    over = ms(zone, *day, hour, 30, fold=1)
    assert next_allowed(number, window, over) == ms(zone, day[0], day[1], day[2] + 1, hour - 1)


def test_a_number_in_two_zones_at_both_edges_and_at_the_change() -> None:
    """A Spanish mobile may be in Madrid or, an hour behind, on the Canaries; both change in one moment."""
    assert {zone.key for zone in zones_of(SPAIN.e164)} == {"Europe/Madrid", "Atlantic/Canary"}
    for day in ((2026, 11, 24), (2026, 3, 29), (2026, 10, 25)):
        morning = ms("Europe/Madrid", *day, 9)
        assert next_allowed(SPAIN, [DAY], morning) == morning + HOUR == ms("Atlantic/Canary", *day, 9)
        evening = ms("Europe/Madrid", *day, 21)
        assert next_allowed(SPAIN, [DAY], evening - 1000) == evening - 1000
        assert next_allowed(SPAIN, [DAY], evening) == ms("Atlantic/Canary", day[0], day[1], day[2] + 1, 9)


def test_a_number_whose_zones_never_agree_is_not_rung_now() -> None:
    """One hour a day, from Guam to Samoa: whoever asks again is put off again."""
    moment = ms("America/New_York", 2026, 11, 24, 9)
    for _ in range(3):
        later = next_allowed(US_TOLL_FREE, [Window(time(9), time(10))], moment)
        assert later > moment
        moment = later


def test_no_window_is_no_limit() -> None:
    assert next_allowed(CHINA, [], 123_456) == 123_456


def first_minute(number: PhoneNumber, windows: Sequence[Window], now: int) -> int:
    """The same by looking at every whole minute in every zone."""

    def allowed(moment: int) -> bool:
        at = datetime.fromtimestamp(moment / 1000, UTC)
        return all(
            any(window.holds(at.astimezone(zone).time()) for window in windows)
            for zone in zones_of(number.e164)
        )

    if allowed(now):
        return now
    moment = now // MINUTE * MINUTE + MINUTE
    while not allowed(moment):
        moment += MINUTE
    return moment


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [
            *((BERLIN, "Europe/Berlin", day) for day in BERLIN_CHANGES),
            *((SPAIN, "Europe/Madrid", day) for day in BERLIN_CHANGES),
            *((NEW_YORK, "America/New_York", day) for day in NEW_YORK_CHANGES),
            *((US_TOLL_FREE, "America/New_York", day) for day in NEW_YORK_CHANGES),
            *((AUSTRALIA, "Australia/Sydney", day) for day in SYDNEY_CHANGES),
        ]
    ),
    st.sampled_from([(DAY,), NOON_REST, NIGHT]),
    st.integers(-36 * 3600, 36 * 3600),
)
def test_around_the_changes_it_is_the_very_first_moment(
    change: tuple[PhoneNumber, str, tuple[int, int, int]], windows: tuple[Window, ...], seconds: int
) -> None:
    number, zone, day = change
    assume(number not in (US_TOLL_FREE, AUSTRALIA) or windows == (DAY,))
    now = ms(zone, *day, 2) + seconds * 1000
    assert next_allowed(number, windows, now) == first_minute(number, windows, now)


@given(
    st.integers(1_700_000_000_000, 1_900_000_000_000),
    st.sampled_from([CHINA, BERLIN, NEW_YORK, US_TOLL_FREE]),
)
def test_the_answer_is_allowed_and_never_in_the_past(now: int, number: PhoneNumber) -> None:
    allowed = next_allowed(number, [DAY], now)
    assert now <= allowed <= now + 26 * HOUR
    for zone in zones_of(number.e164):
        assert DAY.holds(datetime.fromtimestamp(allowed / 1000, zone).time())


@pytest.mark.parametrize("path", ["", None], ids=["the package tzdata alone", "the system's"])
def test_every_zone_of_a_number_is_known(monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    """Old names too, which some systems keep in a package of their own."""
    names = {name for zones in TIMEZONE_DATA.values() for name in zones}
    assert {"Asia/Calcutta", "America/Buenos_Aires"} <= names
    if path is not None:
        reset_tzpath(to=[])
        ZoneInfo.clear_cache()
    try:
        assert [ZoneInfo(name).key for name in sorted(names)] == sorted(names)
    finally:
        reset_tzpath()


def test_a_zone_that_is_not_known_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet.timezone, "time_zones_for_number", lambda _: ("Asia/Nowhere", "Asia/Tokyo"))
    zones_of.cache_clear()
    assert [zone.key for zone in zones_of("+81312345678")] == ["Asia/Tokyo"]
    zones_of.cache_clear()
