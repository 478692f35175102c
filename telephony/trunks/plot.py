"""A forecast as an SVG picture: load and lines over the hours of a week.

What it never does: count anything, or run a program.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from xml.sax.saxutils import escape

from telephony.trunks.forecast import DAYS, Forecast

_LEFT: Final = 56
_TOP: Final = 56
_BOTTOM: Final = 40
_RIGHT: Final = 20
_HOUR: Final = 6
_HEIGHT: Final = 280
_WIDTH: Final = _HOUR * 24 * len(DAYS)
_GRID: Final = 5
"""About so many horizontal lines."""

_MEAN: Final = "#93c5fd"
_HIGH: Final = "#1d4ed8"
_LINES: Final = "#b91c1c"
_INK: Final = "#44403c"
_PALE: Final = "#e7e5e4"


def svg(forecast: Forecast, title: str) -> str:
    """The picture. `title` is any text; it stays text."""
    hours = forecast.hours
    step, top = _scale(max((max(hour.high, hour.mean, hour.lines) for hour in hours), default=0.0))
    across, down = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    began, ended = (
        f"{datetime.fromtimestamp(moment / 1000, forecast.zone):%Y-%m-%d}"
        for moment in (forecast.since, forecast.until)
    )
    about = f"{began} to {ended}, {forecast.zone.key}, {forecast.calls} calls"
    legend = (
        (_MEAN, "mean load (Erlang)"),
        (_HIGH, f"load, {forecast.quantile * 100:g} % quantile of the weeks (Erlang)"),
        (_LINES, f"lines for at most {forecast.loss * 100:g} % lost"),
    )
    size = f'width="{across}" height="{down}" viewBox="0 0 {across} {down}"'
    high = _stairs([hour.high for hour in hours], top)
    lines = _stairs([hour.lines for hour in hours], top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
        f'<text x="{_LEFT + _WIDTH}" y="20" text-anchor="end">{escape(about)}</text>',
        *_legend(legend),
        *_grid(step, top),
        *_days(),
        f'<path d="{_area([hour.mean for hour in hours], top)}" fill="{_MEAN}"/>',
        f'<path d="{high}" fill="none" stroke="{_HIGH}" stroke-width="1.2"/>',
        f'<path d="{lines}" fill="none" stroke="{_LINES}" stroke-width="1.6"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _scale(highest: float) -> tuple[float, float]:
    """A round step of the grid, and a whole number of them that holds the highest value."""
    step = 1.0
    while step * _GRID < highest:
        step *= 2.5 if f"{step:g}".startswith("2") else 2.0
    count = max(1, -int(-highest // step))
    return step, step * count


def _x(hour: int) -> int:
    return _LEFT + hour * _HOUR


def _y(value: float, top: float) -> float:
    return _TOP + _HEIGHT * (1.0 - value / top)


def _legend(entries: Sequence[tuple[str, str]]) -> Iterable[str]:
    for place, (colour, words) in enumerate(entries):
        x = _LEFT + place * 310
        yield f'<rect x="{x}" y="31" width="14" height="9" fill="{colour}"/>'
        yield f'<text x="{x + 20}" y="40">{escape(words)}</text>'


def _grid(step: float, top: float) -> Iterable[str]:
    value = 0.0
    while value <= top:
        y = _y(value, top)
        yield f'<path d="M{_LEFT} {y:.1f}H{_LEFT + _WIDTH}" stroke="{_PALE}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        value += step


def _days() -> Iterable[str]:
    bottom = _TOP + _HEIGHT
    for day, name in enumerate(DAYS):
        x = _x(day * 24)
        yield f'<path d="M{x} {_TOP}V{bottom + 22}" stroke="{_PALE}"/>'
        yield f'<text x="{_x(day * 24 + 12)}" y="{bottom + 32}" text-anchor="middle">{name.title()}</text>'
        for hour in (6, 12, 18):
            at = _x(day * 24 + hour)
            yield f'<path d="M{at} {bottom}v4" stroke="{_INK}"/>'
            yield f'<text x="{at}" y="{bottom + 15}" text-anchor="middle" font-size="9">{hour}</text>'


def _stairs(values: Sequence[float], top: float) -> str:
    steps = (f"V{_y(value, top):.1f}H{_x(hour + 1)}" for hour, value in enumerate(values))
    return f"M{_x(0)} {_y(values[0], top):.1f}{''.join(steps)}"


def _area(values: Sequence[float], top: float) -> str:
    bottom = _TOP + _HEIGHT
    steps = (f"V{_y(value, top):.1f}H{_x(hour + 1)}" for hour, value in enumerate(values))
    return f"M{_x(0)} {bottom}{''.join(steps)}V{bottom}z"
