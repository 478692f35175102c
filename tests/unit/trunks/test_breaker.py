"""The breaker: what opens it, what closes it, and that its pauses are bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from telephony.model.hangup import Cause, HangupCause, classify
from telephony.model.trunk import BreakerPhase, BreakerState
from telephony.trunks.breaker import (
    QUALIFY,
    BreakerRules,
    Verdict,
    after_call,
    after_qualify,
    matters,
    rings,
    verdict,
)

NOW = 1_800_000_000_000
RULES = BreakerRules(failures=3, window=10.0, pause=5.0, growth=2.0, longest=60.0)
FULL = HangupCause(Cause.CONGESTION, 503, 34)
SILENT = HangupCause(Cause.TRUNK_FAULT)
BUSY = HangupCause(Cause.BUSY, 486, 17)
REFUSED = HangupCause(Cause.TRUNK_REFUSED, 403, 21)
CLOSED = BreakerState()


def half_open(probe: str = "probe", trips: int = 1, until: int = NOW + 60_000) -> BreakerState:
    return BreakerState(BreakerPhase.HALF_OPEN, (), until, trips, probe, "503", NOW)


def failed(state: BreakerState, *moments: int, cause: HangupCause = FULL) -> BreakerState:
    for moment in moments:
        state = after_call(state, f"att_{moment}", cause, moment, RULES)
    return state


@pytest.mark.parametrize(
    ("sip", "rang", "told"),
    [
        (503, False, Verdict.FAILS),
        (503, True, Verdict.FAILS),
        (408, False, Verdict.FAILS),
        (408, True, Verdict.WORKS),
        (504, False, Verdict.FAILS),
        (500, False, Verdict.NOTHING),
        (403, False, Verdict.NOTHING),
        (403, True, Verdict.WORKS),
        (401, False, Verdict.NOTHING),
        (487, False, Verdict.NOTHING),
        (486, False, Verdict.WORKS),
        (480, True, Verdict.WORKS),
        (404, False, Verdict.WORKS),
        (603, True, Verdict.WORKS),
    ],
)
def test_what_a_call_tells_of_its_trunk(sip: int, rang: bool, told: Verdict) -> None:
    cause = classify(sip=sip, q850=None, rang=rang, answered=False)
    assert verdict(cause) is told
    assert matters(cause, probe=False) is (told is Verdict.FAILS)
    assert matters(cause, probe=True)


def test_causes_without_a_code() -> None:
    assert verdict(SILENT) is Verdict.FAILS
    assert verdict(HangupCause(Cause.NO_ANSWER)) is Verdict.WORKS
    assert verdict(HangupCause(Cause.NORMAL)) is Verdict.WORKS
    assert verdict(HangupCause(Cause.PBX_LOST)) is Verdict.NOTHING
    assert verdict(HangupCause(Cause.UNKNOWN)) is Verdict.NOTHING


def test_enough_failures_within_the_window_open_it() -> None:
    counted = failed(CLOSED, NOW, NOW + 1)
    assert counted == BreakerState(failures=(NOW, NOW + 1))
    opened = failed(counted, NOW + 9_999)
    assert opened == BreakerState(
        BreakerPhase.OPEN,
        until=NOW + 14_999,
        trips=1,
        reason="503: 3 failures within 10 s",
        moved_at=NOW + 9_999,
    )


def test_failures_that_lie_back_do_not_count() -> None:
    assert failed(CLOSED, NOW, NOW + 6_000, NOW + 12_000, NOW + 18_000).phase is BreakerPhase.CLOSED
    assert failed(CLOSED, NOW, NOW, NOW + 10_000).failures == (NOW + 10_000,)
    assert failed(CLOSED, NOW + 3_600_000, NOW + 3_600_000, NOW).failures == (NOW,), "a clock set back"


def test_silence_opens_it_too() -> None:
    assert failed(CLOSED, NOW, NOW, NOW, cause=SILENT).reason == "trunk_fault: 3 failures within 10 s"


def test_what_works_or_tells_nothing_is_not_even_written() -> None:
    counted = failed(CLOSED, NOW)
    for cause in (BUSY, REFUSED, HangupCause(Cause.CANCELED, 487)):
        assert after_call(counted, "att", cause, NOW + 1, RULES) is counted


def test_an_open_one_hears_nothing_of_calls_that_were_on_their_way() -> None:
    opened = failed(CLOSED, NOW, NOW, NOW)
    for cause in (FULL, BUSY, REFUSED):
        assert after_call(opened, "late", cause, NOW + 1, RULES) is opened


def test_the_probe_decides_and_nobody_else() -> None:
    probing = half_open()
    for cause in (FULL, BUSY, REFUSED):
        assert after_call(probing, "another", cause, NOW + 1, RULES) is probing
    closed = after_call(probing, "probe", BUSY, NOW + 1, RULES)
    assert (closed.phase, closed.until, closed.probe, closed.failures) == (
        BreakerPhase.CLOSED,
        None,
        None,
        (),
    )
    assert closed.reason == "the probe got through: 486"
    opened = after_call(probing, "probe", FULL, NOW + 1, RULES)
    assert (opened.phase, opened.until, opened.trips) == (BreakerPhase.OPEN, NOW + 10_001, 2)
    assert opened.reason == "the probe failed: 503"
    void = after_call(probing, "probe", HangupCause(Cause.CANCELED), NOW + 1, RULES)
    assert (void.phase, void.until, void.trips, void.probe) == (BreakerPhase.OPEN, NOW + 1, 1, None)
    assert void.reason == "the probe told nothing: canceled"


def test_a_probe_that_rings_need_not_end() -> None:
    closed = rings(half_open(), "probe", NOW)
    assert (closed.phase, closed.reason) == (BreakerPhase.CLOSED, "the probe got through: it rings")
    for state in (half_open("other"), CLOSED, failed(CLOSED, NOW, NOW, NOW)):
        assert rings(state, "probe", NOW) is state


def test_pauses_double_up_to_the_longest() -> None:
    state, pauses, now = half_open(trips=0), [], NOW
    for _ in range(8):
        state = after_call(state, "probe", FULL, now, RULES)
        assert state.until is not None
        pauses.append((state.until - now) / 1000)
        now = state.until
        state = half_open(trips=state.trips)
    assert pauses == [5, 10, 20, 40, 60, 60, 60, 60]


def test_one_that_opens_again_soon_after_goes_on_where_it_was() -> None:
    closed = after_call(half_open(trips=3), "probe", BUSY, NOW, RULES)
    soon = failed(closed, NOW + 1_000, NOW + 1_000, NOW + 1_000)
    assert (soon.trips, soon.until) == (4, NOW + 41_000)
    late = failed(closed, NOW + 60_001, NOW + 60_001, NOW + 60_001)
    assert (late.trips, late.until) == (1, NOW + 65_001)


def test_a_trunk_that_the_pbx_does_not_reach() -> None:
    state = CLOSED
    for turn in range(2):
        state = after_qualify(state, False, NOW + turn, RULES)
    assert (state.phase, len(state.failures)) == (BreakerPhase.CLOSED, 2)
    state = after_qualify(state, False, NOW + 2, RULES)
    assert (state.phase, state.probe) == (BreakerPhase.OPEN, QUALIFY)
    assert state.reason == "not reached by the PBX: 3 failures within 10 s"
    assert after_qualify(state, False, NOW + 3, RULES) is state
    assert after_qualify(state, None, NOW + 3, RULES) is state
    closed = after_qualify(state, True, NOW + 3, RULES)
    assert (closed.phase, closed.reason) == (BreakerPhase.CLOSED, "reached by the PBX again")


def test_that_it_answers_options_says_nothing_of_calls() -> None:
    opened = failed(CLOSED, NOW, NOW, NOW)
    assert after_qualify(opened, True, NOW + 1, RULES) is opened
    assert after_qualify(CLOSED, True, NOW, RULES) is CLOSED
    assert after_qualify(half_open(), False, NOW, RULES) == half_open()
    # Silent on calls, then silent altogether: then its coming back is what counts.
    gone = after_qualify(opened, False, NOW + 1, RULES)
    assert (gone.phase, gone.until, gone.probe) == (BreakerPhase.OPEN, opened.until, QUALIFY)
    assert after_qualify(gone, True, NOW + 2, RULES).phase is BreakerPhase.CLOSED


CAUSES = some.sampled_from([FULL, SILENT, BUSY, REFUSED, HangupCause(Cause.CANCELED)])
HAPPENINGS = some.tuples(
    some.integers(0, 20_000),
    CAUSES | some.sampled_from([True, False, None, "rings", "slot"]),
    some.booleans(),
)


@given(some.lists(HAPPENINGS, max_size=60))
def test_it_never_sticks_whatever_happens(happenings: list[tuple[int, object, bool]]) -> None:
    state, now, holders = CLOSED, NOW, 0
    for later, what, by_probe in happenings:
        now += later
        before = state
        holder = (state.probe or "nobody") if by_probe else "another"
        if isinstance(what, HangupCause):
            state = after_call(state, holder, what, now, RULES)
        elif what == "rings":
            state = rings(state, holder, now)
        elif what == "slot":
            # What `Slots.acquire` does.
            if state.phase is not BreakerPhase.CLOSED and (state.until or 0) <= now:
                holders += 1
                state = BreakerState(
                    BreakerPhase.HALF_OPEN,
                    state.failures,
                    now + 60_000,
                    state.trips,
                    f"p{holders}",
                    state.reason,
                    now,
                )
        else:
            state = after_qualify(state, what, now, RULES)  # type: ignore[arg-type]
        assert len(state.failures) < RULES.failures
        if state.phase is BreakerPhase.CLOSED:
            assert (state.until, state.probe) == (None, None)
        else:
            assert state.until is not None
            assert state.until <= now + 60_000
            assert state.reason
        if state.phase is BreakerPhase.HALF_OPEN:
            assert state.probe not in (None, QUALIFY)
        assert (state.phase is before.phase) or state.moved_at == now
