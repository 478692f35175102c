"""Erlang's formulas: B sizes lines, C sizes agents whose callers all wait, A agents whose callers give up.

Calls come at random (Poisson) and last at random (exponentially; B holds for any lengths). Load is in
Erlang: calls per second times seconds per call. Times are in seconds, shares between 0 and 1. Bad input
raises `InputError`. What would overflow is summed in logarithms.

Sources: A. K. Erlang (1917) for B and C; C. Palm (1957), and A. Mandelbaum and S. Zeltyn, "The Palm/Erlang-A
queue, with applications to call centers" (2005), for A.
What it never does: look at a call, or at the clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from telephony.errors import InputError

MAX_ERLANGS: Final = 100_000.0
MAX_SERVERS: Final = 200_000
"""Lines or agents: more than any load within the bound asks for."""

MAX_SECONDS: Final = 86_400.0
LEAST_SECONDS: Final = 0.001
LEAST_SHARE: Final = 1e-9
MAX_PATIENT: Final = 100_000.0
"""Calls that may come while one caller is patient: as many terms are summed."""

_NEGLIGIBLE: Final = 1e-17
_HUGE: Final = 1e200


@dataclass(frozen=True, slots=True)
class Target:
    """A service level: `share` of the callers is answered `within` so many seconds."""

    share: float
    within: float

    def __post_init__(self) -> None:
        _share("target", self.share)
        _between("target", self.within, 0.0, MAX_SECONDS)


@dataclass(frozen=True, slots=True)
class Service:
    """What callers meet.

    `waiting` is the share that is not answered at once, `level` the share answered within the time asked
    for (who gave up was not), `abandoned` the share that gives up, `average_wait` in seconds over all
    callers (infinite where the queue grows without end), `occupancy` the share of an agent's time on calls.
    """

    waiting: float
    level: float
    abandoned: float
    average_wait: float
    occupancy: float


def load_of(calls_per_hour: float, handling: float) -> float:
    """Erlang offered by so many calls an hour of `handling` seconds each."""
    _between("calls_per_hour", calls_per_hour, 0.0, 3_600.0 * MAX_ERLANGS / LEAST_SECONDS)
    _between("aht", handling, LEAST_SECONDS, MAX_SECONDS)
    return _load(calls_per_hour * handling / 3_600.0)


# ---- B: who finds no line is lost


def loss(erlangs: float, lines: int) -> float:
    """The share of calls that finds every line taken."""
    _load(erlangs)
    _servers("lines", lines)
    if erlangs == 0.0:
        return 0.0
    lost = 1.0
    for line in range(1, lines + 1):
        lost = _one_more(lost, erlangs, line)
    return lost


def lines_for(erlangs: float, most_lost: float) -> int:
    """The fewest lines that lose at most this share."""
    _load(erlangs)
    _share("loss", most_lost)
    if erlangs == 0.0:
        return 0
    lost, lines = 1.0, 0
    while lost > most_lost:
        lines += 1
        lost = _one_more(lost, erlangs, lines)
    return lines


def _one_more(lost: float, erlangs: float, line: int) -> float:
    """B of one line more: between 0 and 1 at every step, so that nothing can overflow or cancel."""
    return erlangs * lost / (line + erlangs * lost)


# ---- C: everybody waits


def waiting(erlangs: float, agents: int) -> float:
    """The share that is not answered at once; 1 where there are no more agents than Erlang."""
    lost = loss(erlangs, agents)
    if erlangs == 0.0:
        return 0.0
    if agents <= erlangs:
        return 1.0
    return lost / (1.0 - erlangs / agents * (1.0 - lost))


def service(erlangs: float, agents: int, handling: float, within: float) -> Service:
    """What callers meet who all wait until they are answered."""
    _between("aht", handling, LEAST_SECONDS, MAX_SECONDS)
    _between("within", within, 0.0, MAX_SECONDS)
    late = waiting(erlangs, agents)
    if erlangs == 0.0:
        return Service(0.0, 1.0, 0.0, 0.0, 0.0)
    if agents <= erlangs:
        return Service(1.0, 0.0, 0.0, math.inf, 1.0)
    spare = (agents - erlangs) / handling
    level = 1.0 - late * math.exp(-spare * within)
    return Service(late, level, 0.0, late / spare, erlangs / agents)


# ---- A: who is out of patience gives up


def service_with_patience(
    erlangs: float, agents: int, handling: float, patience: float, within: float
) -> Service:
    """What callers meet who give up when their patience ends: exponential, of this mean (seconds)."""
    _load(erlangs)
    _servers("agents", agents)
    _between("aht", handling, LEAST_SECONDS, MAX_SECONDS)
    _between("patience", patience, LEAST_SECONDS, MAX_SECONDS)
    _between("within", within, 0.0, MAX_SECONDS)
    if erlangs == 0.0:
        return Service(0.0, 1.0, 0.0, 0.0, 0.0)
    if agents == 0:
        return Service(1.0, 0.0, 1.0, patience, 0.0)
    # Per mean patience: calls that come, and calls that the agents could end.
    come, end = erlangs * patience / handling, agents * patience / handling
    if come > MAX_PATIENT:
        most = MAX_PATIENT * handling / erlangs
        raise InputError("patience", "is too long for so many calls", f"Write at most {most:.0f} s")
    lost = loss(erlangs, agents)
    queue = _log_series(end, come)
    late = 1.0 / (1.0 + math.exp(min(700.0, math.log1p(-lost) - math.log(lost) - queue))) if lost > 0 else 0.0
    # Of those who wait, the shares that are answered ever, and after more than `within`.
    ever = math.exp(_log_answered_after(0.0, end, come) - queue)
    later = math.exp(_log_answered_after(within / patience, end, come) - queue)
    abandoned = _clip(late * (1.0 - ever))
    level = _clip(1.0 - late + late * (ever - later))
    return Service(late, level, abandoned, abandoned * patience, _clip(erlangs * (1.0 - abandoned) / agents))


def _log_answered_after(waited: float, end: float, come: float) -> float:
    """Logarithm of the weight of those answered after waiting `waited` mean patiences.

    The wait's density is proportional to exp(come (1 - e^-w) - end w), and e^-w of the callers are still
    there: an incomplete gamma function, written as its series.
    """
    left = come * math.exp(-waited)
    gone = -come * math.expm1(-waited)
    return gone - (end + 1.0) * waited + math.log(end / (end + 1.0)) + _log_series(end + 1.0, left)


def _log_series(end: float, come: float) -> float:
    """ln of 1 + y/(x+1) + y²/((x+1)(x+2)) + … for x = `end`, y = `come`: all terms are positive."""
    scale, term, total = 0.0, 1.0, 1.0
    step = 0
    while True:
        step += 1
        ratio = come / (end + step)
        term *= ratio
        total += term
        if ratio < 1.0 and term / (1.0 - ratio) < _NEGLIGIBLE * total:
            return scale + math.log(total)
        if total > _HUGE:
            scale += math.log(total)
            term, total = term / total, 1.0


# ---- agents for a level


def agents_for(erlangs: float, handling: float, target: Target, patience: float | None = None) -> int:
    """The fewest agents that keep the service level; with `patience` by Erlang A, else by Erlang C."""
    return _fewest(
        lambda agents: service_of(erlangs, agents, handling, target, patience).level >= target.share
    )


def service_of(
    erlangs: float, agents: int, handling: float, target: Target, patience: float | None = None
) -> Service:
    """What callers meet; with `patience` by Erlang A, else by Erlang C."""
    if patience is None:
        return service(erlangs, agents, handling, target.within)
    return service_with_patience(erlangs, agents, handling, patience, target.within)


def _fewest(enough: Callable[[int], bool]) -> int:
    """The least number that is enough; what is more than enough is enough as well."""
    if enough(0):
        return 0
    short, plenty = 0, 1
    while not enough(plenty):
        if plenty == MAX_SERVERS:
            raise InputError("target", "asks for too many agents", f"At most {MAX_SERVERS} are counted")
        short, plenty = plenty, min(2 * plenty, MAX_SERVERS)
    while plenty - short > 1:
        middle = (short + plenty) // 2
        short, plenty = (short, middle) if enough(middle) else (middle, plenty)
    return plenty


# ---- bounds


def _clip(share: float) -> float:
    """Rounding may carry a share past its ends."""
    return min(1.0, max(0.0, share))


def _load(erlangs: float) -> float:
    return _between("erlangs", erlangs, 0.0, MAX_ERLANGS)


def _servers(field: str, number: int) -> None:
    if number != int(_between(field, number, 0, MAX_SERVERS)):
        raise InputError(field, "is no whole number", f"Write a whole number from 0 to {MAX_SERVERS}")


def _share(field: str, share: float) -> None:
    if not LEAST_SHARE <= share <= 1.0 - LEAST_SHARE:
        raise InputError(field, "is out of range", "Write a share above 0 and below 1 (0 % and 100 %)")


def _between(field: str, number: float, least: float, most: float) -> float:
    if not least <= number <= most:  # NaN is not, either.
        raise InputError(field, "is out of range", f"Write a number from {least:g} to {most:g}")
    return number
