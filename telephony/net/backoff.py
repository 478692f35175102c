"""How long to wait before the next try: exponential, capped and fully jittered.

Full jitter spreads the tries of many controllers after a PBX restart; see "Exponential Backoff And Jitter"
(AWS Architecture Blog). What it never does: sleep, or give up.
"""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays in seconds, each drawn evenly from zero up to a ceiling that doubles from `first` to `cap`.

    `rng` returns a float in [0, 1) and is there to be replaced in tests. Raises `ValueError` unless
    `0 < first <= cap`.
    """

    __slots__ = ("_cap", "_ceiling", "_first", "_rng")

    def __init__(self, first: float, cap: float, rng: Callable[[], float] = random.random) -> None:
        if not 0 < first <= cap:
            raise ValueError("a back-off needs 0 < first <= cap")
        self._first = first
        self._cap = cap
        self._ceiling = first
        self._rng = rng

    def next_delay(self) -> float:
        """Return how long to wait now, and double the ceiling of the next wait."""
        delay = self._rng() * self._ceiling
        self._ceiling = min(self._ceiling * 2, self._cap)
        return delay

    def reset(self) -> None:
        """Begin again at `first`."""
        self._ceiling = self._first
