"""When to try again: the schedule of Standard Webhooks, with jitter, closer together inside a deadline.

What it never does: sleep, or read a clock. Times are milliseconds since the epoch unless said otherwise.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

SCHEDULE: Final = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each try, from the one before (https://www.standardwebhooks.com, "Deliverability")."""
WHOLE_SCHEDULE: Final = sum(SCHEDULE)
_OFFSETS: Final = tuple(itertools.accumulate(SCHEDULE))

_JITTER: Final = 0.2
_URGENT_FIRST: Final = 1_000
_URGENT_CAP: Final = 30_000
_URGENT_END: Final = 1_000
_RETRY_AFTER_CAP: Final = 3_600


@dataclass(frozen=True, slots=True)
class Tried:
    """What is known of a webhook after a try that failed at `now`: the `tries`th since `opened_at`."""

    tries: int
    opened_at: int
    expires_at: int | None
    now: int
    retry_after: float | None = None


def next_try(
    tried: Tried, dead_after: float = WHOLE_SCHEDULE, rng: Callable[[], float] = random.random
) -> int | None:
    """Return when to try again, or None when it is to be given up.

    Until `expires_at` the pause doubles from 1 s up to 30 s and is at most half of what is left; after it,
    and without it, the schedule counts. It is given up after the schedule's last try, and `dead_after`
    seconds after `opened_at` at the latest. `retry_after` (seconds) only lengthens a pause: by the
    schedule up to an hour, inside a deadline up to the bounds there.
    """
    left = (tried.expires_at or 0) - tried.now
    if left > _URGENT_END:
        longest = min(_URGENT_CAP, max(_URGENT_FIRST, left // 2))
        doubled = _URGENT_FIRST << min(tried.tries - 1, 10)
        # Only ever shorter: the jitter must not carry it over the deadline.
        jittered = min(doubled, longest) * (1 - _JITTER * rng())
        return tried.now + int(max(jittered, min((tried.retry_after or 0) * 1_000, longest)))
    if tried.expires_at is None:
        step = tried.tries
    else:
        # Many tries were made inside the deadline: what counts is how far the schedule is by the clock.
        step = bisect.bisect_right(_OFFSETS, (tried.now - tried.opened_at) / 1_000)
    end = tried.opened_at + int(dead_after * 1_000)
    if step >= len(SCHEDULE) or tried.now >= end:
        return None
    pause = SCHEDULE[step] * (1 - _JITTER + 2 * _JITTER * rng())
    pause = max(pause, min(tried.retry_after or 0, _RETRY_AFTER_CAP))
    return min(tried.now + int(pause * 1_000), end)


def retry_after_seconds(value: str | None, now: int) -> float | None:
    """Read a Retry-After header: seconds or an HTTP date (RFC 9110 section 10.2.3); None for neither."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, moment.timestamp() - now / 1_000)
    except (ValueError, OverflowError, OSError):
        return None
