"""Housekeeping: verifications expire on time, sealed codes are erased, what is past its keep goes.

What it never does: touch a call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from telephony.errors import StoreError
from telephony.model.call import VerificationStatus
from telephony.store import Store

log = structlog.get_logger(__name__)

BATCH: Final = 200
LONGEST_SLEEP: Final = 30.0
FAILURES_KEPT_MS: Final = 24 * 3600 * 1000
STALE_MEDIA_SECONDS: Final = 3600.0


class Sweepable(Protocol):
    """Sounds that a crash left behind."""

    def sweep(self, older_than_seconds: float) -> int:
        """Erase what is older."""
        ...


class Housekeeper:
    """Owns one task; it sleeps towards the next expiry and never longer than half a minute."""

    def __init__(
        self,
        store: Store,
        media: Sweepable,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._media = media
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

    async def _run(self) -> None:
        while True:
            pause = LONGEST_SLEEP
            try:
                pause = await self.tidy()
            except StoreError as error:
                log.warning("housekeeping.postponed", error=str(error))
            await asyncio.sleep(pause)

    async def tidy(self) -> float:
        """Do what is due now; returns the seconds until the next expiry."""
        now = self._clock()
        async with self._store.transaction() as work:
            expired = await work.verifications.due_expired(now, BATCH)
            for record in expired:
                await work.verifications.update(
                    record.id, status=VerificationStatus.EXPIRED, ended_at=now, code_sealed=None
                )
            await work.idempotency.purge(now)
            await work.check_failures.purge(now - FAILURES_KEPT_MS)
            upcoming = await work.verifications.next_expiry()
        self._media.sweep(STALE_MEDIA_SECONDS)
        if len(expired) == BATCH:
            return 0.0
        if upcoming is None:
            return LONGEST_SLEEP
        return min(LONGEST_SLEEP, max(0.05, (upcoming - now) / 1000))
