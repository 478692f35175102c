"""Saturated and recovered: told once each, and never for what comes and goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from telephony.trunks.saturation import SaturationRules, Signal, Watch, step

NOW = 1_800_000_000_000
RULES = SaturationRules(high=0.9, low=0.7, seconds=10.0)


def run(watch: Watch, *seen: tuple[float, int], limit: int | None = 20) -> list[tuple[float, Signal]]:
    """What is told and when, of (second, in use)."""
    told = []
    for second, in_use in seen:
        watch, signal = step(watch, in_use, limit, NOW + round(second * 1000), RULES)
        if signal:
            told.append((second, signal))
    return told


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([(0, 17)], []),
        ([(0, 20)], [(0, Signal.SATURATED)]),
        ([(0, 23)], [(0, Signal.SATURATED)]),
        ([(0, 18), (9.9, 19)], []),
        ([(0, 18), (9.9, 19), (10, 18)], [(10, Signal.SATURATED)]),
        ([(0, 18), (5, 17), (6, 18), (12, 18), (16, 18)], [(16, Signal.SATURATED)]),
        ([(0, 18), (1, 20)], [(1, Signal.SATURATED)]),
        ([(0, 20), (1, 20), (2, 0), (3, 20)], [(0, Signal.SATURATED)]),
        ([(0, 20), (1, 14), (11, 14)], [(0, Signal.SATURATED), (11, Signal.RECOVERED)]),
        ([(0, 20), (1, 15), (11, 15), (99, 15)], [(0, Signal.SATURATED)]),
        ([(0, 20), (1, 14), (8, 15), (9, 14), (18, 0)], [(0, Signal.SATURATED)]),
        (
            [(0, 20), (1, 14), (11, 0), (12, 20)],
            [(0, Signal.SATURATED), (11, Signal.RECOVERED), (12, Signal.SATURATED)],
        ),
    ],
)
def test_when_it_is_told(seen: list[tuple[float, int]], told: list[tuple[float, Signal]]) -> None:
    assert run(Watch(), *seen) == told


def test_when_to_look_again() -> None:
    watch, _ = step(Watch(), 18, 20, NOW, RULES)
    assert watch.due_at(RULES) == NOW + 10_000
    assert step(watch, 17, 20, NOW + 1, RULES)[0].due_at(RULES) is None
    assert Watch(saturated=True).due_at(RULES) is None


@pytest.mark.parametrize("limit", [None, 0])
def test_a_trunk_without_lines_is_never_saturated(limit: int | None) -> None:
    assert run(Watch(), (0, 99), (20, 99), limit=limit) == []
    assert run(Watch(saturated=True), (0, 99), limit=limit) == [(0, Signal.RECOVERED)]


def test_a_clock_that_was_set_back_delays_it_by_no_more_than_its_time() -> None:
    watch, _ = step(Watch(), 18, 20, NOW, RULES)
    watch, _ = step(watch, 18, 20, NOW - 3_600_000, RULES)
    assert step(watch, 18, 20, NOW - 3_600_000 + 10_000, RULES)[1] is Signal.SATURATED


@given(some.lists(some.tuples(some.integers(0, 8_000), some.integers(0, 24)), max_size=60))
def test_the_two_take_turns_and_keep_their_distance(seen: list[tuple[int, int]]) -> None:
    watch, now, told = Watch(), NOW, []
    for later, in_use in seen:
        now += later
        before = watch
        watch, signal = step(watch, in_use, 20, now, RULES)
        assert (watch.saturated != before.saturated) == (signal is not None)
        assert watch.since is None or watch.since <= now
        if signal is Signal.SATURATED:
            assert in_use >= 18
        if signal is Signal.RECOVERED:
            assert in_use <= 14
            assert now - told[-1][0] >= 10_000
        if signal:
            told.append((now, signal))
    assert [one for _, one in told] == [Signal.SATURATED, Signal.RECOVERED] * (len(told) // 2) + (
        [Signal.SATURATED] * (len(told) % 2)
    )
