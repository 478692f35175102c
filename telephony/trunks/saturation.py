"""When a trunk is saturated, and when it has recovered: with a distance between the two, so that nobody is
told twice of what comes and goes.

Pure: a watch per trunk is stepped with what is in use. The store's `saturate` and `recover` say which of
several controllers tells. What it never does: tell anybody, or look at a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Signal(StrEnum):
    """What is to be told; the value is the webhook's type."""

    SATURATED = "trunk.saturated"
    RECOVERED = "trunk.recovered"


@dataclass(frozen=True, slots=True)
class SaturationRules:
    """Saturated when full, or when `high` of the lines were in use for `seconds`; recovered when no more than
    `low` of them were for as long. `high` and `low` are parts of 1.
    """

    high: float = 0.9
    low: float = 0.7
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Watch:
    """One trunk as it is watched. `since` is when it began to be what would change `saturated`, in ms."""

    saturated: bool = False
    since: int | None = None

    def due_at(self, rules: SaturationRules) -> int | None:
        """When to look again though nothing changes; None: not before something does."""
        return None if self.since is None else self.since + round(rules.seconds * 1000)


def step(
    watch: Watch, in_use: int, limit: int | None, now: int, rules: SaturationRules
) -> tuple[Watch, Signal | None]:
    """Return the watch at `now` (milliseconds) and what is to be told, if anything.

    A trunk without a limit, or with no line at all, is never saturated.
    """
    if not limit:
        return Watch(), Signal.RECOVERED if watch.saturated else None
    if watch.saturated:
        changing, at_once = in_use <= limit * rules.low, False
    else:
        changing, at_once = in_use >= limit * rules.high, in_use >= limit
    if not changing:
        return Watch(watch.saturated), None
    since = now if watch.since is None else min(watch.since, now)
    if not at_once and now - since < rules.seconds * 1000:
        return Watch(watch.saturated, since), None
    return Watch(not watch.saturated), Signal.RECOVERED if watch.saturated else Signal.SATURATED
