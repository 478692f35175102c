"""What digits must be, and when it is open."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from telephony.ivr.digits import BadPattern, compile_pattern, passes_luhn
from telephony.ivr.hours import BadHours, timetable
from telephony.ivr.tree import Hours

SHANGHAI = ZoneInfo("Asia/Shanghai")


@pytest.mark.parametrize("number", ["4242424242424242", "79927398713", "0", "18"])
def test_luhn(number: str) -> None:
    assert passes_luhn(number)
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert not passes_luhn(wrong)
    assert not passes_luhn("")


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"4[0-9]{3}", "4711", "5711"),
        (r"\d{4,6}", "47110", "471"),
        (r"(?:1|2)[1-35-9]?", "25", "24"),
        (r"[^0]+", "123", "103"),
        (r"", "", "1"),
    ],
)
def test_patterns(pattern: str, good: str, bad: str) -> None:
    assert compile_pattern(pattern).fullmatch(good)
    assert not compile_pattern(pattern).fullmatch(bad)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(\d+)+x",
        r"(?:\d*)*",
        r"(1|1)*2",
        r"(1){2}",
        r"\d+\d+\d+\d+",
        r"\d**",
        r"*1",
        r".*",
        r"\1",
        r"(?=1)",
        r"(?P<a>1)",
        r"a",
        r"[a-z]",
        r"(1",
        r"1)",
        r"\w",
        r"1{1000}",
        r"[9-0]",
    ],
)
def test_patterns_that_are_not_taken(pattern: str) -> None:
    with pytest.raises(BadPattern):
        compile_pattern(pattern)


def test_no_pattern_that_is_taken_runs_away() -> None:
    pattern = compile_pattern(r"\d*\d*\d*x".replace("x", "[0-8]"))
    started = time.perf_counter()
    assert not pattern.fullmatch("9" * 32)
    assert time.perf_counter() - started < 0.5


def opening(**values: object) -> Hours:
    plain: dict[str, object] = {"zone": "Asia/Shanghai", "open": {"mon-fri": ("09:00-18:00",)}}
    return Hours(**{**plain, **values})  # type: ignore[arg-type]


def at(day: int, clock: str, month: int = 11) -> datetime:
    return datetime.fromisoformat(f"2026-{month:02}-{day:02}T{clock}:00").replace(tzinfo=SHANGHAI)


def test_a_night_belongs_to_the_day_it_begins() -> None:
    table = timetable(opening(open={"fri": ("22:00-06:00",)}, holidays={"2026-11-28": ("10:00-11:00",)}))
    # 2026-11-27 is a Friday.
    assert not table.is_open(at(27, "21:59"))
    assert table.is_open(at(27, "22:00"))
    assert table.is_open(at(28, "05:59")), "a holiday does not end the night before it"
    assert not table.is_open(at(28, "06:00"))
    assert table.is_open(at(28, "10:30"))
    assert not table.is_open(at(28, "22:30"))
    assert not table.is_open(at(27, "05:00"))


def test_holidays_by_date_and_every_year() -> None:
    table = timetable(
        opening(holidays={"2026-11-25": (), "11-26": (), "2026-11-26": ("12:00-24:00",), "02-29": ()})
    )
    assert table.is_open(at(24, "12:00"))
    assert not table.is_open(at(25, "12:00"))
    assert table.is_open(at(26, "23:59")), "the date goes before the day of every year"
    assert not table.is_open(at(26, "11:00"))
    assert not table.is_open(at(26, "11:00") + timedelta(days=365))
    assert not table.is_open(datetime(2028, 2, 29, 4, 0, tzinfo=UTC))


def test_the_clock_is_the_zones_own() -> None:
    table = timetable(opening(zone="Europe/Madrid", open={"daily": ("02:30-03:30",)}))
    assert table.is_open(datetime(2026, 3, 28, 1, 45, tzinfo=UTC))
    # On 29 March the clock jumps from 2:00 to 3:00.
    assert table.is_open(datetime(2026, 3, 29, 1, 15, tzinfo=UTC))
    assert not table.is_open(datetime(2026, 3, 29, 0, 45, tzinfo=UTC))
    assert not table.is_open(datetime(2026, 3, 29, 1, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"zone": "Mars/Olympus"}, ("zone",)),
        ({"zone": "../etc/passwd"}, ("zone",)),
        ({"open": {"fri-mon": ("09:00-10:00",)}}, ("open", "fri-mon")),
        ({"open": {"mon": (), "mon-tue": ()}}, ("open", "mon-tue")),
        ({"open": {"mon": ("9:00-10:00",)}}, ("open", "mon", 0)),
        ({"open": {"mon": ("09:00-25:00",)}}, ("open", "mon", 0)),
        ({"holidays": {"2026-13-01": ()}}, ("holidays", "2026-13-01")),
        ({"holidays": {"tomorrow": ()}}, ("holidays", "tomorrow")),
    ],
)
def test_hours_that_can_not_be_read(values: dict[str, object], where: tuple[object, ...]) -> None:
    with pytest.raises(BadHours) as error:
        timetable(opening(**values))
    assert error.value.where == where
