"""When to try again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from telephony.egress.schedule import SCHEDULE, WHOLE_SCHEDULE, Tried, next_try, retry_after_seconds

T0 = 1_800_000_000_000


def tries_of(expires_at: int | None = None, rng: float = 0.5, took: int = 0, **more: float) -> list[float]:
    """Seconds since the first try of each try that fails, until it is given up."""
    now, made = T0, [0.0]
    while True:
        now += took
        tried = Tried(len(made), T0, expires_at, now)
        again = next_try(tried, rng=lambda: rng, **more)
        if again is None:
            return made
        assert again >= now
        now = again
        made.append((now - T0) / 1000)


def test_the_schedule_of_the_standard() -> None:
    made = tries_of()
    pauses = [round(b - a) for a, b in pairwise(made)]
    assert pauses == list(SCHEDULE[1:])
    assert made[-1] == WHOLE_SCHEDULE == 75 * 3600 + 35 * 60 + 5


@pytest.mark.parametrize("rng", [0.0, 0.25, 0.999])
def test_jitter(rng: float) -> None:
    made = tries_of(rng=rng)
    assert made[1] == pytest.approx(5 * (0.8 + 0.4 * rng), abs=0.001)
    assert made[-1] <= WHOLE_SCHEDULE


def test_given_up_after_the_stated_time_with_a_last_try_at_its_end() -> None:
    made = tries_of(dead_after=3600.0)
    assert made[-1] == 3600
    assert len(made) == 5


def test_inside_a_deadline_it_is_tried_often_and_to_its_end() -> None:
    made = tries_of(T0 + 600_000, rng=0.0)
    inside = [at for at in made if at < 600]
    assert inside[:6] == [0, 1, 3, 7, 15, 31]
    assert max(b - a for a, b in pairwise(inside)) <= 30
    assert inside[-1] > 598


def test_after_the_deadline_the_schedule_goes_on() -> None:
    after = [at for at in tries_of(T0 + 600_000) if at >= 600]
    assert [round(at - 600, -2) for at in after[:2]] == [1800, 9000]
    assert after[-1] == WHOLE_SCHEDULE


def test_a_slow_receiver_inside_a_deadline() -> None:
    made = tries_of(T0 + 60_000, took=15_000)
    assert len([at for at in made if at < 60]) >= 3


def test_a_deadline_that_is_over_is_none() -> None:
    assert tries_of(T0 - 5)[1] == 5
    assert len(tries_of(T0 - 5)) >= len(SCHEDULE) - 1


@pytest.mark.parametrize(
    ("asked", "expires_at", "pause"),
    [
        (1.0, None, 5.0),
        (60.0, None, 60.0),
        (90_000.0, None, 3600.0),
        (10.0, T0 + 600_000, 10.0),
        (90_000.0, T0 + 600_000, 30.0),
        (90_000.0, T0 + 20_000, 10.0),
    ],
)
def test_retry_after_is_honoured_within_bounds(asked: float, expires_at: int | None, pause: float) -> None:
    again = next_try(Tried(1, T0, expires_at, T0, asked), rng=lambda: 0.5)
    assert again is not None
    assert (again - T0) / 1000 == pause


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2010 08:01:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 40, None),
        ("١٢", None),
    ],
)
def test_the_header(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, T0) == seconds
