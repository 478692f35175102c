"""The desk where calls wait for a line: first come, first served, codes before all others.

Whoever waits is served in one transaction with the others, as soon as a line is free: when a call of this
controller ended (`freed`), when a pace or a breaker allows it, and by a look every second, for lines that
another controller freed. What it never does: write an attempt, dial, or promise an order between the
callers of several controllers.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from telephony.errors import Overloaded, StoreError
from telephony.store import Store
from telephony.store.records import Acquired, SlotAsk, SlotCandidate

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often the desk looks for lines that others freed, while somebody waits."""

SHORTEST_PAUSE: Final = 0.005
"""Seconds between looks at least: the clocks of two machines are never quite the same."""

BATCH: Final = 64
"""How many are served in one transaction."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """One who waits. `place` is his in the line, `told` the last refusal; he `stays` until he gives up."""

    place: tuple[int, int, int]
    candidates: tuple[SlotCandidate, ...]
    holder: str
    answer: asyncio.Future[Acquired]
    stays: bool
    told: Acquired = field(default_factory=lambda: Acquired(None))


class SlotDesk:
    """One controller's line in front of its trunks.

    `lease` is in seconds, `now` gives milliseconds since the epoch by the clock that leases go by.
    """

    def __init__(self, store: Store, owner: str, lease: float, now: Callable[[], int]) -> None:
        self._store = store
        self._owner = owner
        self._lease_ms = round(lease * 1000)
        self._now = now
        self._line: list[_Waiting] = []
        self._left: list[str] = []
        self._count = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def quiet(self) -> bool:
        """Whether nobody waits: only then may a call that is written now take a slot by itself."""
        return all(one.answer.done() for one in self._line)

    def start(self) -> None:
        """Begin to serve."""
        self._task = asyncio.create_task(self._serve(), name="slot-desk")

    async def stop(self) -> None:
        """Serve nobody more; whoever waits is told the last refusal."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._line:
            _tell(waiting, waiting.told)
        self._line.clear()

    def freed(self) -> None:
        """A line may be free, or a trunk may take calls again: look at once. Call it after the commit."""
        if self._line:
            self._wake.set()

    def give_back(self, holder: str) -> None:
        """Give a slot back that was taken here and is of no use, as soon as the store allows."""
        self._left.append(holder)
        self._wake.set()

    async def take(
        self,
        candidates: Sequence[SlotCandidate],
        holder: str,
        *,
        priority: int,
        since: int,
        patience: float = 0.0,
        give_up: asyncio.Event | None = None,
    ) -> Acquired:
        """Return the trunk on which `holder` has a slot now, or why he got none.

        Higher `priority` goes first, then the smaller `since` (milliseconds since the epoch). He waits for
        `patience` seconds at most, and no longer than `give_up` lets him; without patience for one answer.

        The slot is committed: write the attempt whose id the holder is, or give it back. Where this is
        cancelled it is given back by itself. Raises `StoreError` or `Overloaded`: then ask again for another
        holder, for it is not known what became of this one.
        """
        if self._task is None or self._task.done():
            return Acquired(None)
        self._count += 1
        answer: asyncio.Future[Acquired] = asyncio.get_running_loop().create_future()
        waiting = _Waiting((-priority, since, self._count), tuple(candidates), holder, answer, patience > 0)
        insort(self._line, waiting, key=lambda one: one.place)
        self._wake.set()
        leave = None if give_up is None else asyncio.ensure_future(give_up.wait())
        watched: set[asyncio.Future[Any]] = {answer} if leave is None else {answer, leave}
        try:
            timeout = patience if waiting.stays else None
            await asyncio.wait(watched, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                # The turn that is under way decides, or the next one; there is none after it.
                waiting.stays = False
                self._wake.set()
            return await answer
        except asyncio.CancelledError:
            if not answer.cancel() and not answer.cancelled() and answer.exception() is None:
                self._left.append(holder)
            self._wake.set()
            raise
        finally:
            if leave is not None:
                leave.cancel()

    async def _serve(self) -> None:
        pause: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._turn()
            except (StoreError, Overloaded) as error:
                log.warning("trunks.not_served", error=str(error))
            except Exception:
                log.exception("trunks.turn_failed")
            pause = self._pause()

    def _pause(self) -> float | None:
        """Seconds until the next look; None: until somebody comes."""
        if not self._line:
            return LOOK_SECONDS if self._left else None
        moments = [one.told.retry_at for one in self._line if one.told.retry_at is not None]
        soonest = (min(moments) - self._now()) / 1000 if moments else LOOK_SECONDS
        return min(LOOK_SECONDS, max(SHORTEST_PAUSE, soonest))

    async def _turn(self) -> None:
        """Serve the line once, from its front to its end."""
        await self._take_back()
        self._line = [one for one in self._line if not one.answer.cancelled()]
        refused: dict[tuple[SlotCandidate, ...], Acquired] = {}
        rest = list(self._line)
        while rest:
            batch: list[_Waiting] = []
            while rest and len(batch) < BATCH:
                waiting = rest.pop(0)
                if waiting.candidates in refused:
                    self._refuse(waiting, refused[waiting.candidates])
                else:
                    batch.append(waiting)
            if batch:
                answers = await self._ask(batch)
                rest = [*batch[len(answers) :], *rest]
                for waiting, answer in zip(batch, answers, strict=False):
                    if answer.trunk is None:
                        refused.setdefault(waiting.candidates, answer)
                        self._refuse(waiting, answer)
                    else:
                        self._grant(waiting, answer)

    async def _ask(self, batch: Sequence[_Waiting]) -> list[Acquired]:
        """One transaction; where the store fails, everybody in it is told.

        It may have been committed all the same: what they may hold is given back.
        """
        until = self._now() + self._lease_ms
        asks = [
            SlotAsk(candidates=one.candidates, holder=one.holder, owner=self._owner, lease_until=until)
            for one in batch
        ]
        try:
            async with self._store.transaction() as work:
                return await work.slots.acquire_all(asks)
        except (StoreError, Overloaded) as error:
            self._left += [one.holder for one in batch]
            for one in batch:
                self._line.remove(one)
                if not one.answer.done():
                    one.answer.set_exception(error)
            raise

    def _refuse(self, waiting: _Waiting, answer: Acquired) -> None:
        waiting.told = answer
        if not waiting.stays and not waiting.answer.done():
            self._line.remove(waiting)
            _tell(waiting, answer)

    def _grant(self, waiting: _Waiting, answer: Acquired) -> None:
        self._line.remove(waiting)
        if waiting.answer.cancelled():
            self._left.append(waiting.holder)
            self._wake.set()
        else:
            _tell(waiting, answer)

    async def _take_back(self) -> None:
        """Give back what was granted to those who had gone by then."""
        while self._left:
            left = list(self._left)
            async with self._store.transaction() as work:
                await work.slots.release_all(left)
            # More may have gone meanwhile, and stand behind these.
            del self._left[: len(left)]


def _tell(waiting: _Waiting, answer: Acquired) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(answer)
