"""Custody: which requests are this controller's. Leases renewed, and taken over where nobody tends them.

Leases go by one clock for all: the database's, which is looked at in every round and carried on by this
process's own steady clock in between, so that a wall clock that is set loses or steals nothing. Where
several controllers share a database, they also poke one another here.
What it never does: decide what happens to a request, or dial.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog

from telephony.errors import StoreError
from telephony.store import AttemptRecord, Poke, PokeKind, RequestRecord, Store, UnitOfWork

log = structlog.get_logger(__name__)

STEP_MS: Final = 2_000
"""A wall clock that runs so far ahead of, or behind, the steady one since the last look was set."""

STORE_PAUSE: Final = 1.0
"""Seconds between rounds while the store fails us."""

SHORTEST_PAUSE: Final = 0.2
"""Seconds between rounds at least."""


class Custody:
    """The leases of one controller, `lease` seconds long and renewed three times in that.

    `claimed` is awaited once our name is ours, before anything is taken over. `in_hand` tells the requests at
    work here and `holders` their open attempts, `found` takes one that is ours from now on, `renewed` is told
    how long one is ours and whether its cancel was asked for, `canceled` that somebody asked, `due` that
    the queue is worth a look. `wall` gives milliseconds since the epoch, `steady` seconds that never jump.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        lease: float,
        *,
        claimed: Callable[[], Awaitable[None]],
        in_hand: Callable[[], Collection[str]],
        holders: Callable[[], Collection[str]],
        found: Callable[[RequestRecord, AttemptRecord | None], None],
        renewed: Callable[[str, int, bool], None],
        canceled: Callable[[str], None],
        due: Callable[[], None],
        wall: Callable[[], int],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._owner = owner
        self._lease = lease
        self._claimed = claimed
        self._in_hand = in_hand
        self._holders = holders
        self._found = found
        self._renewed = renewed
        self._canceled = canceled
        self._due = due
        self._wall = wall
        self._steady = steady
        self._wall_ahead = self._ahead = wall() - self._steady_ms()
        self._owed = 0
        self._calm_from = 0.0
        self._hurry = asyncio.Event()
        self._taking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._at_work = AsyncExitStack()

    @property
    def lease_ms(self) -> int:
        """The length of a lease."""
        return round(self._lease * 1000)

    def now(self) -> int:
        """This moment, in milliseconds since the epoch, by the clock that leases go by."""
        return self._steady_ms() + self._ahead

    def surely_ours(self, lease_until: int | None) -> bool:
        """Whether a lease stands for long enough that nobody else can begin what we begin now.

        False where the clocks went apart: this machine may have slept, and somebody may have taken over.
        """
        apart = abs(self._wall() - self._steady_ms() - self._wall_ahead)
        rest = (lease_until or 0) - self.now()
        return apart <= STEP_MS and rest > self.lease_ms / 3

    async def confirm(self, request: RequestRecord) -> int:
        """Prolong one lease, and return until when; raises `StaleFence` where the request is not ours."""
        await self._look_at_the_clock()
        until = self.now() + self.lease_ms
        async with self._store.transaction() as work:
            await work.requests.update(request.id, fence=request.fence, lease_until=until)
        return until

    async def start(self) -> None:
        """Take over what an earlier life left and what others lost, then keep watch.

        Raises `ConfigError` where another controller is at work under our name: its calls are not ours.
        """
        await self._at_work.enter_async_context(self._store.listening(self._on_poke))
        try:
            await self._look_at_the_clock()
            await self._claimed()
            await self._take_over(own=True)
        except BaseException:
            await self._at_work.aclose()
            raise
        self._task = asyncio.create_task(self._keep(), name="calls-leases")

    def take_no_more(self) -> None:
        """Renew what is in hand, but take nothing over from now on: we are stopping."""
        self._calm_from = math.inf

    async def stop(self) -> None:
        """Renew nothing more, hear nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._at_work.aclose()

    async def _keep(self) -> None:
        pause = self._lease / 3
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            self._hurry.clear()
            try:
                pause = await self._round()
            except StoreError as error:
                log.warning("calls.lease_not_renewed", error=str(error))
                # The others could not renew theirs either: they go first once the store is back.
                self._calm_from = max(self._calm_from, self._steady() + self._lease)
                pause = STORE_PAUSE
            except Exception:
                log.exception("calls.lease_round_failed")
                pause = STORE_PAUSE

    async def _round(self) -> float:
        """Renew what is ours, take over what nobody tends; returns the seconds until the next round."""
        await self._look_at_the_clock()
        await self._renew()
        if self._steady() >= self._calm_from:
            await self._take_over(own=False)
        async with self._store.reading() as work:
            end = await work.requests.next_lease_end(self._owner)
        third = self._lease / 3
        return third if end is None else max(SHORTEST_PAUSE, min(third, (end - self.now()) / 1000))

    async def _renew(self) -> None:
        ids = list(self._in_hand())
        if not ids:
            return
        until = self.now() + self.lease_ms
        async with self._store.transaction() as work:
            held = await work.requests.renew_leases(self._owner, ids, until)
            await work.slots.renew(self._owner, self._holders(), until)
        for request_id, canceled in held.items():
            self._renewed(request_id, until, canceled)

    async def _take_over(self, *, own: bool) -> None:
        """Make ours what nobody tends any more; with `own` also what an earlier life of ours still holds."""
        count = await self._take(
            lambda work: work.requests.take_over(
                self._owner, self.now(), self.lease_ms, own=own, but=self._in_hand()
            )
        )
        if count:
            log.info("calls.taken_over", count=count)

    async def take_back(self, begun: Collection[str]) -> None:
        """Take into our hands what is ours by the store and in nobody's: a transaction broke in its commit.

        `begun` has those whose transaction is under way, as it goes. Nobody may claim meanwhile. Raises
        `StoreError`.
        """
        count = await self._take(
            lambda work: work.requests.take_back(
                self._owner, self.now(), self.lease_ms, but=lambda: {*self._in_hand(), *begun}
            )
        )
        if count:
            log.info("calls.taken_back", count=count)

    async def _take(self, take: Callable[[UnitOfWork], Awaitable[Sequence[RequestRecord]]]) -> int:
        """Take some, one at a time with others who do; returns how many, with their attempts' slots."""
        async with self._taking:
            async with self._store.transaction() as work:
                taken = await take(work)
                if not taken:
                    return 0
                open_attempts = {one.request_id: one for one in await work.attempts.open_attempts()}
                ours = [open_attempts[one.id].id for one in taken if one.id in open_attempts]
                await work.slots.hand(ours, self._owner, self.now() + self.lease_ms)
            for request in taken:
                self._found(request, open_attempts.get(request.id))
        return len(taken)

    async def _look_at_the_clock(self) -> None:
        """Set our lease clock by the store's, and see whether the wall clock was set since the last look."""
        before = self._steady_ms()
        told = await self._store.now_ms()
        self._ahead = told - (before + self._steady_ms()) // 2
        step = self._wall() - self._steady_ms() - self._wall_ahead
        self._wall_ahead += step
        if abs(step) > STEP_MS:
            log.warning("clock.set", seconds=step / 1000, mend="keep the machine's clock in step, by NTP")
            # Timers of a shared database are everybody's: one controller's clock moves none of them.
            self._owed = 0 if self._store.shared else max(0, self._owed - step)
            self._due()
        if self._owed:
            await self._bring_forward()

    async def _bring_forward(self) -> None:
        """What waits for a moment by the clock of before would wait for so much longer."""
        owed, self._owed = self._owed, 0
        try:
            async with self._store.transaction() as work:
                await work.requests.bring_forward(owed)
                await work.outbox.bring_forward(owed)
        except BaseException:
            self._owed += owed
            raise
        self._due()

    def _on_poke(self, poke: Poke) -> None:
        match poke.kind:
            case PokeKind.CANCEL:
                self._canceled(poke.subject)
            case PokeKind.DUE:
                self._due()
            case PokeKind.MISSED:
                self._due()
                self._hurry.set()

    def _steady_ms(self) -> int:
        return round(self._steady() * 1000)
