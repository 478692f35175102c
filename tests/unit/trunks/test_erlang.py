"""Erlang's formulas against published tables, exact arithmetic and what must hold for any load."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telephony.errors import InputError
from telephony.trunks.erlang import (
    Service,
    Target,
    agents_for,
    lines_for,
    load_of,
    loss,
    service,
    service_of,
    service_with_patience,
    waiting,
)

EASY = Target(0.80, 15)
HARD = Target(0.99, 15)

loads = st.floats(0.01, 400.0)
servers = st.integers(0, 500)
shares = st.floats(0.0001, 0.9999)
handlings = st.floats(20.0, 3_600.0)
patiences = st.floats(1.0, 600.0)
withins = st.floats(0.0, 600.0)


# ---- B


@pytest.mark.parametrize(
    ("erlangs", "at_one_percent", "at_one_per_mille"), [(10, 18, 21), (50, 64, 71), (100, 117, 128)]
)
def test_lines_for_a_loss(erlangs: float, at_one_percent: int, at_one_per_mille: int) -> None:
    assert lines_for(erlangs, 0.01) == at_one_percent
    assert lines_for(erlangs, 0.001) == at_one_per_mille


# The load in Erlang that so many lines bear, as every printed Erlang B table has it.
_BORNE = {
    0.001: {1: 0.001, 2: 0.046, 5: 0.762, 10: 3.09, 20: 9.41, 50: 32.5, 100: 75.2},
    0.01: {1: 0.010, 2: 0.153, 5: 1.36, 10: 4.46, 20: 12.0, 30: 20.3, 50: 37.9, 100: 84.1},
    0.02: {1: 0.020, 2: 0.223, 5: 1.66, 10: 5.08, 20: 13.2, 30: 21.9, 50: 40.3, 100: 88.0},
    0.05: {1: 0.053, 2: 0.381, 5: 2.22, 10: 6.22, 20: 15.2, 50: 44.5, 100: 95.2},
}


@pytest.mark.parametrize(
    ("lost", "lines", "erlangs"),
    [(lost, lines, erlangs) for lost, row in _BORNE.items() for lines, erlangs in row.items()],
)
def test_the_printed_table(lost: float, lines: int, erlangs: float) -> None:
    """The table is rounded: the loss lies between those of the load's neighbours in its last figure."""
    unit = 10.0 ** -max(3 - len(f"{erlangs:.0f}") if erlangs >= 1 else 3, 0)
    assert loss(erlangs - unit, lines) < lost < loss(erlangs + unit, lines)


@pytest.mark.parametrize(("erlangs", "number"), [(1, 1), (2, 5), (8, 10), (37, 40), (90, 60)])
def test_b_and_c_are_exact(erlangs: int, number: int) -> None:
    """Against the sums of the textbook in rational numbers."""
    terms = [Fraction(erlangs**k, math.factorial(k)) for k in range(number + 1)]
    assert loss(erlangs, number) == pytest.approx(float(terms[-1] / sum(terms)), rel=1e-12)
    if number > erlangs:
        waits = terms[-1] * Fraction(number, number - erlangs)
        share = float(waits / (sum(terms[:-1]) + waits))
        assert waiting(erlangs, number) == pytest.approx(share, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(loads, servers)
def test_loss_is_a_share_and_falls_with_lines(erlangs: float, lines: int) -> None:
    assert 0.0 <= loss(erlangs, lines + 1) <= loss(erlangs, lines) <= 1.0


@settings(deadline=None, max_examples=60)
@given(loads, st.floats(0.0, 50.0), servers)
def test_loss_rises_with_load(erlangs: float, more: float, lines: int) -> None:
    assert loss(erlangs, lines) <= loss(erlangs + more, lines) * (1 + 1e-12)


@settings(deadline=None, max_examples=60)
@given(loads, shares)
def test_lines_and_loss_agree(erlangs: float, lost: float) -> None:
    lines = lines_for(erlangs, lost)
    assert loss(erlangs, lines) <= lost
    assert lines == 0 or loss(erlangs, lines - 1) > lost


def test_great_and_small_loads() -> None:
    assert loss(1e-9, 200_000) == 0.0
    assert loss(100_000.0, 0) == 1.0
    assert 100_000 < lines_for(100_000.0, 1e-9) < 103_000
    assert (lines_for(0.0, 0.01), loss(0.0, 0), waiting(0.0, 0)) == (0, 0.0, 0.0)


# ---- C


@pytest.mark.parametrize(("erlangs", "easy", "hard"), [(15, 19, 25), (30, 35, 42)])
def test_agents_for_a_level(erlangs: float, easy: int, hard: int) -> None:
    assert agents_for(erlangs, 180, EASY) == easy
    assert agents_for(erlangs, 180, HARD) == hard


def test_one_agent_is_the_plain_queue() -> None:
    """M/M/1 with 0.8 Erlang: the textbook's closed forms."""
    met = service(0.8, 1, 60.0, 60.0)
    assert met.waiting == pytest.approx(0.8)
    assert met.average_wait == pytest.approx(0.8 * 60 / 0.2)
    assert met.level == pytest.approx(1 - 0.8 * math.exp(-0.2))
    assert met.occupancy == 0.8


def test_too_few_agents_never_catch_up() -> None:
    assert service(10.0, 10, 180.0, 15.0) == Service(1.0, 0.0, 0.0, math.inf, 1.0)
    assert waiting(10.0, 3) == 1.0


@settings(deadline=None, max_examples=60)
@given(loads, servers, handlings, withins)
def test_c_is_shares_and_gets_better_with_agents(
    erlangs: float, agents: int, handling: float, within: float
) -> None:
    fewer, more = (service(erlangs, number, handling, within) for number in (agents, agents + 1))
    for met in (fewer, more):
        assert 0.0 <= met.waiting <= 1.0
        assert 0.0 <= met.level <= 1.0
    assert more.waiting <= fewer.waiting
    assert more.level >= fewer.level - 1e-12
    assert more.average_wait <= fewer.average_wait
    assert loss(erlangs, agents) <= fewer.waiting + 1e-12, "who waits would have been lost, and more"


@settings(deadline=None, max_examples=60)
@given(loads, handlings, shares, withins)
def test_agents_and_level_agree(erlangs: float, handling: float, share: float, within: float) -> None:
    target = Target(share, within)
    agents = agents_for(erlangs, handling, target)
    assert service_of(erlangs, agents, handling, target).level >= share
    assert agents == 0 or service_of(erlangs, agents - 1, handling, target).level < share


# ---- A


def test_the_published_example() -> None:
    """Garnett, Mandelbaum and Reiman (2002): 50 agents, 48 calls a minute of one minute, patience 2 min.

    3.1 % give up and the wait falls from 20.8 s to 3.7 s.
    """
    endless = service(48.0, 50, 60.0, 20.0)
    patient = service_with_patience(48.0, 50, 60.0, 120.0, 20.0)
    assert endless.average_wait == pytest.approx(20.8, abs=0.05)
    assert patient.abandoned == pytest.approx(0.031, abs=0.0005)
    assert patient.average_wait == pytest.approx(3.7, abs=0.05)
    assert (endless.occupancy, round(patient.occupancy, 2)) == (0.96, 0.93)


@pytest.mark.parametrize(
    ("erlangs", "agents", "handling", "patience", "within"),
    [(5.0, 4, 180.0, 60.0, 15.0), (12.0, 14, 90.0, 200.0, 20.0), (3.0, 9, 60.0, 30.0, 5.0)],
)
def test_a_against_the_states_themselves(
    erlangs: float, agents: int, handling: float, patience: float, within: float
) -> None:
    """The balance of births and deaths, and the wait of each state by its own stages."""
    rate, end, quit_ = erlangs / handling, 1 / handling, 1 / patience
    weights = [1.0]
    for state in range(1, 400):
        weights.append(weights[-1] * rate / (min(state, agents) * end + max(0, state - agents) * quit_))
    states = [weight / sum(weights) for weight in weights]
    late = sum(states[agents:])
    given_up = sum((state - agents) * quit_ * share for state, share in enumerate(states) if state > agents)
    met = service_with_patience(erlangs, agents, handling, patience, within)
    assert met.waiting == pytest.approx(late, rel=1e-9)
    assert met.abandoned == pytest.approx(given_up / rate, rel=1e-9)
    steps = 4_000
    weight = [
        math.exp(rate * patience * -math.expm1(-at * quit_) - agents * end * at - at * quit_)
        for at in (within * step / steps for step in range(steps + 1))
    ]
    # The wait's density begins at the rate of calls times the share that finds one agent free.
    simpson = weight[0] + weight[-1] + 4 * sum(weight[1:-1:2]) + 2 * sum(weight[2:-1:2])
    answered = 1 - late + rate * states[agents - 1] * simpson * within / steps / 3
    assert met.level == pytest.approx(answered, rel=1e-9)


def test_a_against_callers_drawn_at_random() -> None:
    """A queue simulated call by call, which knows nothing of the formula."""
    draw = Random(7)
    calls, agents, handling, patience, within = 60_000, 10, 100.0, 80.0, 15.0
    free = [0.0] * agents
    now, gave_up, in_time = 0.0, 0, 0
    for _ in range(calls):
        now += draw.expovariate(0.11)
        soonest = min(range(agents), key=free.__getitem__)
        wait = max(0.0, free[soonest] - now)
        if wait > draw.expovariate(1 / patience):
            gave_up += 1
            continue
        in_time += wait <= within
        free[soonest] = now + wait + draw.expovariate(1 / handling)
    met = service_with_patience(11.0, agents, handling, patience, within)
    assert gave_up / calls == pytest.approx(met.abandoned, abs=0.01)
    assert in_time / calls == pytest.approx(met.level, abs=0.015)


@settings(deadline=None, max_examples=60)
@given(loads, servers, handlings, patiences, withins)
def test_a_is_shares_and_gets_better_with_agents(
    erlangs: float, agents: int, handling: float, patience: float, within: float
) -> None:
    fewer, more = (
        service_with_patience(erlangs, number, handling, patience, within) for number in (agents, agents + 1)
    )
    for met in (fewer, more):
        assert 0.0 <= met.waiting <= 1.0
        assert 0.0 <= met.abandoned <= met.waiting + 1e-9
        assert 0.0 <= met.level <= 1.0 - met.abandoned + 1e-9
        assert 0.0 <= met.occupancy <= 1.0
    assert more.level >= fewer.level - 1e-9
    assert more.abandoned <= fewer.abandoned + 1e-9
    assert fewer.waiting <= waiting(erlangs, agents) + 1e-9, "who gives up shortens the queue"


@settings(deadline=None, max_examples=60)
@given(loads, handlings, patiences, shares, withins)
def test_agents_and_level_agree_with_patience(
    erlangs: float, handling: float, patience: float, share: float, within: float
) -> None:
    target = Target(share, within)
    agents = agents_for(erlangs, handling, target, patience)
    assert service_of(erlangs, agents, handling, target, patience).level >= share
    assert agents == 0 or service_of(erlangs, agents - 1, handling, target, patience).level < share


def test_endless_patience_is_c() -> None:
    endless = service(20.0, 24, 180.0, 15.0)
    patient = service_with_patience(20.0, 24, 180.0, 86_400.0, 15.0)
    assert patient.waiting == pytest.approx(endless.waiting, rel=0.01)
    assert patient.level == pytest.approx(endless.level, rel=0.01)
    assert patient.abandoned < 0.001


def test_a_crush_does_not_overflow() -> None:
    met = service_with_patience(1_000.0, 10, 180.0, 14_400.0, 15.0)
    assert met.abandoned == pytest.approx(0.99, abs=1e-6)
    assert met.level == pytest.approx(0.0, abs=1e-9)
    assert service_with_patience(5.0, 0, 180.0, 60.0, 15.0) == Service(1.0, 0.0, 1.0, 60.0, 0.0)


# ---- input


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, 1e9])
def test_a_load_out_of_range(bad: float) -> None:
    with pytest.raises(InputError) as caught:
        lines_for(bad, 0.01)
    assert caught.value.field == "erlangs"
    assert "0 to 100000" in caught.value.mend


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan])
def test_a_share_out_of_range(bad: float) -> None:
    with pytest.raises(InputError, match=r"^loss: is out of range"):
        lines_for(10.0, bad)
    with pytest.raises(InputError, match=r"^target: is out of range"):
        Target(bad, 15.0)


def test_other_bad_input() -> None:
    with pytest.raises(InputError, match=r"^lines: "):
        loss(10.0, -1)
    with pytest.raises(InputError, match=r"^lines: is no whole number"):
        loss(10.0, 1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^aht: "):
        load_of(100.0, 0.0)
    with pytest.raises(InputError, match=r"^erlangs: "):
        load_of(1e9, 86_400.0)
    with pytest.raises(InputError, match=r"^target: "):
        Target(0.8, -1.0)
    with pytest.raises(InputError, match=r"^patience: "):
        service_with_patience(10.0, 12, 180.0, 0.0, 15.0)
    with pytest.raises(InputError, match=r"^patience: is too long for so many calls. Write at most 1800 s"):
        service_with_patience(10_000.0, 12, 180.0, 7_200.0, 15.0)


def test_load_of_calls() -> None:
    assert load_of(300.0, 180.0) == 15.0
