"""The back-off before a reconnect."""

from __future__ import annotations

import pytest

from telephony.net.backoff import Backoff


def test_the_ceiling_doubles_up_to_the_cap_and_begins_again() -> None:
    backoff = Backoff(0.5, 3.0, rng=lambda: 1.0)
    assert [backoff.next_delay() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next_delay() == 0.5


def test_the_whole_range_is_drawn_from() -> None:
    draws = iter([0.0, 0.25, 0.5])
    backoff = Backoff(1.0, 8.0, rng=lambda: next(draws))
    assert [backoff.next_delay() for _ in range(3)] == [0.0, 0.5, 2.0]


def test_it_never_overflows() -> None:
    backoff = Backoff(0.1, 30.0)
    assert all(0 <= backoff.next_delay() <= 30.0 for _ in range(5000))


@pytest.mark.parametrize(("first", "cap"), [(0, 1), (-1, 1), (2, 1)])
def test_senseless_bounds_are_refused(first: float, cap: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(first, cap)
