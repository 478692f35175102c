"""Housekeeping: what has a deadline ends on time, sealed codes are erased, what is past its keep goes.

What it never does: end a call by itself; a payment that expires ends its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from telephony.errors import StoreError
from telephony.services.notices import Notices
from telephony.services.verification import expire
from telephony.store import Store
from telephony.store.repositories.idempotency import PURGE_BATCH

log = structlog.get_logger(__name__)

BATCH: Final = 200
LONGEST_SLEEP: Final = 30.0
FAILURE_PAUSE: Final = 1.0
"""Seconds before another look after a failure: what was due meanwhile ends that much late."""

_ANY_MOMENT: Final = 1 << 62
FAILURES_KEPT_MS: Final = 24 * 3600 * 1000
STALE_MEDIA_SECONDS: Final = 3600.0


class Sweepable(Protocol):
    """Sounds that a crash left behind."""

    def sweep(self, older_than_seconds: float) -> int:
        """Erase what is older."""
        ...


class Expiring(Protocol):
    """Something else that ends on time."""

    async def expire_due(self, now: int) -> None:
        """End what is over at `now`, in milliseconds since the epoch."""
        ...

    async def next_expiry(self) -> int | None:
        """When the next one is over; None where there is none."""
        ...


class Housekeeper:
    """Owns one task; it sleeps towards the next expiry and never longer than half a minute.

    `expiring` ends with it; `look_by` tells it of a deadline that was just written.
    """

    def __init__(
        self,
        store: Store,
        media: Sweepable,
        *expiring: Expiring,
        notices: Notices | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._media = media
        self._expiring = expiring
        self._notices = notices
        self._woken = asyncio.Event()
        self._next_look = 0
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="housekeeping")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def look_by(self, moment: int) -> None:
        """Be awake at `moment` (milliseconds since the epoch), where it would sleep longer."""
        if moment < self._next_look:
            self._woken.set()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            # What is written while it tidies may be overlooked: it tidies again then.
            self._next_look = _ANY_MOMENT
            pause = FAILURE_PAUSE
            try:
                pause = await self.tidy()
            except StoreError as error:
                log.warning("housekeeping.postponed", error=str(error))
            except Exception:
                # A fault of ours in one row must not end the watch over all deadlines.
                log.exception("housekeeping.failed")
            self._next_look = self._clock() + round(pause * 1000)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause)

    async def tidy(self) -> float:
        """Do what is due now; returns the seconds until the next expiry."""
        now = self._clock()
        upcoming = []
        for one in self._expiring:
            await one.expire_due(now)
            upcoming.append(await one.next_expiry())
        async with self._store.transaction() as work:
            expired = await work.verifications.due_expired(now, BATCH)
            for record in expired:
                await expire(work, record, now, self._notices)
            forgotten = await work.idempotency.purge(now)
            await work.check_failures.purge(now - FAILURES_KEPT_MS)
            upcoming.append(await work.verifications.next_expiry())
        self._media.sweep(STALE_MEDIA_SECONDS)
        if len(expired) == BATCH or forgotten == PURGE_BATCH:
            return 0.0
        due = [moment for moment in upcoming if moment is not None]
        return min(LONGEST_SLEEP, max(0.05, (min(due) - now) / 1000)) if due else LONGEST_SLEEP
