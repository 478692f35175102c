"""The retry table, row by row."""

from __future__ import annotations

import pytest

from telephony.calls.policy import NO_INPUT, RetryPolicy, Step, policy_for
from telephony.errors import InputError
from telephony.model.call import CallClass
from telephony.model.hangup import Cause


@pytest.mark.parametrize(
    ("cause", "silent", "rang"),
    [
        (Cause.BUSY, Step.LATER, Step.LATER),
        (Cause.NO_ANSWER, Step.LATER, Step.LATER),
        (Cause.UNREACHABLE, Step.LATER, Step.LATER),
        (Cause.CONGESTION, Step.NEXT_TRUNK, Step.LATER),
        (Cause.TRUNK_REFUSED, Step.NEXT_TRUNK, Step.LATER),
        (Cause.TRUNK_FAULT, Step.NEXT_TRUNK, Step.LATER),
        (Cause.DECLINED, Step.STOP, Step.STOP),
        (Cause.BLOCKED, Step.STOP, Step.STOP),
        (Cause.UNALLOCATED, Step.STOP, Step.STOP),
        (Cause.INVALID_NUMBER, Step.STOP, Step.STOP),
        (Cause.CANCELED, Step.STOP, Step.STOP),
        (Cause.UNKNOWN, Step.STOP, Step.STOP),
        (NO_INPUT, Step.LATER, Step.LATER),
    ],
)
def test_what_follows_a_cause(cause: str, silent: Step, rang: Step) -> None:
    policy = RetryPolicy(rounds=3)
    assert policy.step(cause, rang=False) is silent
    assert policy.step(cause, rang=True) is rang


def test_every_cause_stands_in_the_table() -> None:
    for cause in Cause:
        assert RetryPolicy().step(cause, rang=False) in Step


def test_pauses_grow_to_a_bound_and_jitter_by_a_quarter() -> None:
    policy = RetryPolicy(rounds=9, first_pause=120, longest_pause=600)
    assert [policy.pause(n, lambda: 0.5) for n in range(1, 6)] == [120, 240, 480, 600, 600]
    assert policy.pause(1, lambda: 0.0) == 90
    assert policy.pause(1, lambda: 1.0) == 150


def test_a_busy_phone_is_tried_again_within_two_to_five_minutes_on_the_whole() -> None:
    policy = policy_for(CallClass.TRANSACTION, {})
    assert 90 <= policy.pause(1) <= 150
    assert 180 <= policy.pause(2) <= 300


def test_a_request_says_how_often_and_on_what() -> None:
    policy = policy_for(CallClass.SURVEY, {"attempts": 4, "pause": 10, "on": ["busy"]})
    assert (policy.rounds, policy.first_pause) == (4, 10)
    assert policy.step(Cause.BUSY, rang=False) is Step.LATER
    assert policy.step(Cause.NO_ANSWER, rang=True) is Step.STOP


def test_another_trunk_is_tried_whatever_is_rung_again() -> None:
    policy = policy_for(CallClass.TRANSACTION, {"on": ["busy"]})
    assert policy.step(Cause.CONGESTION, rang=False) is Step.NEXT_TRUNK
    assert policy.step(Cause.CONGESTION, rang=True) is Step.STOP
    assert policy_for(CallClass.TRANSACTION, {"on": []}).step(Cause.BUSY, rang=True) is Step.STOP


def test_what_a_request_leaves_out_is_its_classes() -> None:
    of_the_class = {"attempts": 5, "pause": 30, "on": ["busy"]}
    policy = policy_for(CallClass.SURVEY, {"attempts": 2}, of_the_class)
    assert (policy.rounds, policy.first_pause, policy.on) == (2, 30, frozenset({"busy"}))
    assert policy_for(CallClass.SURVEY, {}, of_the_class).rounds == 5
    assert policy_for(CallClass.SURVEY, {}).rounds == 1


@pytest.mark.parametrize(
    ("wanted", "of_the_class", "first", "second"),
    [
        ({"pause": 3600}, {}, 3600, 3600),
        ({"pause": 3600}, {"longest_pause": 600}, 3600, 3600),
        ({"pause": 500}, {"longest_pause": 600}, 500, 600),
        ({}, {"pause": 3600}, 3600, 3600),
        ({"pause": 3600, "longest_pause": 7200}, {}, 3600, 7200),
        ({"pause": 60, "longest_pause": 30}, {}, 30, 30),
        ({"longest_pause": 60}, {}, 60, 60),
        ({"longest_pause": 60}, {"pause": 3600}, 60, 60),
        ({}, {"pause": 3600, "longest_pause": 60}, 60, 60),
        ({"pause": 100}, {}, 100, 200),
    ],
)
def test_nobody_is_rung_sooner_than_was_asked_for(
    wanted: dict[str, object], of_the_class: dict[str, object], first: float, second: float
) -> None:
    policy = policy_for(CallClass.TRANSACTION, wanted, of_the_class)
    assert [policy.pause(rounds, lambda: 0.5) for rounds in (1, 2)] == [first, second]


@pytest.mark.parametrize(
    ("retry", "field"),
    [
        ({"attempts": 0}, "retry.attempts"),
        ({"attempts": True}, "retry.attempts"),
        ({"attempts": 11}, "retry.attempts"),
        ({"pause": 0}, "retry.pause"),
        ({"longest_pause": "x"}, "retry.longest_pause"),
        ({"on": ["declined"]}, "retry.on"),
        ({"on": [[]]}, "retry.on"),
        ({"on": "busy"}, "retry.on"),
        ({"often": 1}, "retry.often"),
    ],
)
def test_a_retry_of_no_use_is_named(retry: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        policy_for(CallClass.TRANSACTION, retry)
    assert caught.value.field == field
