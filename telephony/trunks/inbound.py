"""Calls that come in take their trunk's lines too: a slot when one comes, given back when it has gone.

The conversation does not wait for the store. What is missed (the link was broken, the store was full) the
census mends. What it never does: refuse a call; the PBX's own guard does, which works without us.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

import structlog

from telephony.errors import Overloaded, StoreError
from telephony.model.trunk import SlotKind
from telephony.store import Store
from telephony.trunks.census import ATTEMPT_PREFIX, by_endpoint, endpoint_of
from telephony.trunks.dialect import Trunk

log = structlog.get_logger(__name__)

MOST: Final = 10_000
"""News that waits to be written, and calls that are known to stand."""

GATHER_SECONDS: Final = 1.0
"""How long news of trunks without a limit is gathered: to write it together costs less."""

STOP_SECONDS: Final = 5.0
BATCH: Final = 200
"""How many are written in one transaction."""


class InboundLines:
    """The `Callers` of one controller's PBX. `lease` is in seconds; the census prolongs what stands.

    Of several trunks on one endpoint the first one has the call, as in the census.
    """

    def __init__(
        self,
        store: Store,
        trunks: Sequence[Trunk],
        *,
        owner: str,
        lease: float,
    ) -> None:
        self._store = store
        self._trunks = by_endpoint(trunks)
        self._limited = frozenset(trunk.name for trunk in trunks if trunk.channels is not None)
        self._owner = owner
        self._lease_ms = round(lease * 1000)
        self._freed: Callable[[], None] = lambda: None
        self._standing: dict[str, str] = {}
        self._news: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue(MOST)
        self._unwritten: Counter[str] = Counter()
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def limited(self, trunks: Collection[str]) -> None:
        """These trunks have a limit now: news of them is written at once."""
        self._limited = frozenset(trunks)

    def start(self, freed: Callable[[], None]) -> None:
        """Begin to write; `freed` is called when a line may be free again."""
        self._freed = freed
        self._task = asyncio.create_task(self._run(), name="inbound-lines")

    async def stop(self) -> None:
        """Write what is known, and end."""
        if self._task is None:
            return
        self._stopping = True
        self._urgent.set()
        if self._news.empty():
            self._tell("", None)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._task
        except TimeoutError:
            log.warning("inbound.not_written", left=self._news.qsize())

    def arrived(self, channel_id: str, channel_name: str) -> None:
        """A call has come in; one that we placed, or that is on no trunk, is none of ours."""
        trunk = self._trunks.get(endpoint_of(channel_name))
        if trunk is None or channel_id.startswith(ATTEMPT_PREFIX) or channel_id in self._standing:
            return
        if len(self._standing) >= MOST:
            # The oldest is one whose end we missed.
            del self._standing[next(iter(self._standing))]
        self._standing[channel_id] = trunk
        self._tell(channel_id, trunk, urgent=trunk in self._limited)

    def gone(self, channel_id: str) -> None:
        """A channel has been hung up."""
        trunk = self._standing.pop(channel_id, None)
        if trunk is not None:
            self._tell(channel_id, None, urgent=trunk in self._limited)

    def writes(self, channel_id: str) -> bool:
        """Whether there is news of this channel that is not written yet."""
        return channel_id in self._unwritten

    def _tell(self, channel_id: str, trunk: str | None, *, urgent: bool = False) -> None:
        if urgent:
            self._urgent.set()
        try:
            self._news.put_nowait((channel_id, trunk))
            self._unwritten[channel_id] += 1
        except asyncio.QueueFull:
            log.warning("inbound.not_counted", channel=channel_id)

    async def _run(self) -> None:
        while not (self._stopping and self._news.empty()):
            first = await self._news.get()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), GATHER_SECONDS)
            if not self._stopping:
                self._urgent.clear()
            full = await self._write(first)
            # What did not fit has waited long enough, and something urgent may be among it.
            while full and not self._news.empty():
                full = await self._write(self._news.get_nowait())

    async def _write(self, first: tuple[str, str | None]) -> bool:
        """Write it and what waits behind it: arrivals first, for nobody goes before they came.

        Returns whether more may wait.
        """
        batch = [first]
        while len(batch) < BATCH and not self._news.empty():
            batch.append(self._news.get_nowait())
        came = {holder: trunk for holder, trunk in batch if trunk is not None}
        went = [holder for holder, trunk in batch if trunk is None]
        try:
            if came:
                until = await self._store.now_ms() + self._lease_ms
                async with self._store.transaction() as work:
                    await work.slots.admit_all(
                        came, kind=SlotKind.INBOUND, owner=self._owner, lease_until=until
                    )
            if went:
                async with self._store.transaction() as work:
                    await work.slots.release_all(went)
                self._freed()
        except (StoreError, Overloaded) as error:
            log.warning("inbound.not_written", came=len(came), went=len(went), error=str(error))
        except Exception:
            # A fault of ours with some must not end the counting of all.
            log.exception("inbound.failed")
        finally:
            # What could not be written is the census's now.
            self._unwritten -= Counter(holder for holder, _ in batch)
        return len(batch) == BATCH
