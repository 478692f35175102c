"""Opening hours as subroutines of an Asterisk dialplan: each sets IVR__OPEN to 1 or 0 and returns.

Holidays go before weekdays, and a span past midnight is looked for on the day before. What it never does:
use GotoIfTime, which knows no years and no spans past midnight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from telephony.ivr.hours import DAYS, Span, Timetable, timetable
from telephony.ivr.tree import Hours

_DAY_SECONDS: Final = 86_400
_DAY_MINUTES: Final = 1_440


def hours_lines(extension: str, hours: Hours) -> Iterator[str]:
    """The steps of one subroutine."""
    table = timetable(hours)
    yield f"exten => {extension},1,Set(IVR__OPEN=0)"
    for variable, moment, form in (
        ("IVR__DAY", "${EPOCH}", "%Y-%m-%d"),
        ("IVR__WEEKDAY", "${EPOCH}", "%u"),
        ("IVR__BEFORE", f"$[${{EPOCH}} - {_DAY_SECONDS}]", "%Y-%m-%d"),
        ("IVR__WEEKDAY_BEFORE", f"$[${{EPOCH}} - {_DAY_SECONDS}]", "%u"),
        ("IVR__HOUR", "${EPOCH}", "%H"),
        ("IVR__MINUTE", "${EPOCH}", "%M"),
    ):
        yield f" same => n,Set({variable}=${{STRFTIME({moment},{hours.zone},{form})}})"
    yield " same => n,Set(IVR__NOW=$[${IVR__HOUR} * 60 + ${IVR__MINUTE}])"
    yield from _day("today", "IVR__DAY", "IVR__WEEKDAY", 0, table)
    days = (*table.week, *table.dates.values(), *table.every_year.values())
    if any(end > _DAY_MINUTES for spans in days for _, end in spans):
        yield from _day("before", "IVR__BEFORE", "IVR__WEEKDAY_BEFORE", _DAY_MINUTES, table)
    yield " same => n,Return()"


def _day(label: str, day: str, weekday: str, shift: int, table: Timetable) -> Iterator[str]:
    """Look whether a day's spans hold now; `shift` is how many minutes ago that day began its count."""
    rules = list(_rules(day, weekday, table))
    for index, (test, _) in enumerate(rules):
        yield f" same => n,GotoIf($[{test}]?{label}{index})"
    yield f" same => n,Goto({label}done)"
    for index, (_, spans) in enumerate(rules):
        yield f" same => n({label}{index}),NoOp()"
        for start, end in spans:
            moment = f"${{IVR__NOW}} + {shift}"
            yield f" same => n,ExecIf($[({moment} >= {start}) & ({moment} < {end})]?Set(IVR__OPEN=1))"
        yield f" same => n,Goto({label}done)"
    yield f" same => n({label}done),NoOp()"


def _rules(day: str, weekday: str, table: Timetable) -> Iterator[tuple[str, tuple[Span, ...]]]:
    """Which days have which spans, the first that fits counting."""
    for date, spans in table.dates.items():
        yield f'"${{{day}}}" = "{date}"', spans
    for (month, number), spans in table.every_year.items():
        yield f'"${{{day}:5}}" = "{month:02}-{number:02}"', spans
    for number in range(len(DAYS)):
        yield f'"${{{weekday}}}" = "{number + 1}"', table.week[number]
