"""The watch over the trunks: slots that agree with the channels, breakers that hear of OPTIONS, saturation.

Every few seconds, and at each new link to the PBX, it takes the census and mends what differs, says how
much that was, asks which trunks the PBX reaches, and tells when one is saturated or has recovered. What it
never does: end a call, or judge an attempt that is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from telephony.errors import PbxError, StoreError, WireError
from telephony.model.ids import new_id
from telephony.model.trunk import BreakerPhase, BreakerState, SlotKind
from telephony.pbx.port import Pbx
from telephony.store import Store, UnitOfWork
from telephony.store.records import EventRecord, TrunkRecord
from telephony.trunks import breaker, saturation
from telephony.trunks.breaker import BreakerRules
from telephony.trunks.census import Missing, by_endpoint, compare
from telephony.trunks.routing import Router
from telephony.trunks.saturation import SaturationRules, Signal, Watch

log = structlog.get_logger(__name__)

COUNT_SECONDS: Final = 4.0
"""How often channels are counted and trunks looked after."""

SURE_SECONDS: Final = 1.5
"""A channel without a slot gets one if it still stands after this time: it may just have ended, or another
controller on this PBX is just writing it (`inbound.GATHER_SECONDS`).
"""

RENEW_BELOW: Final = 0.7
"""A lease is prolonged when less than this part of it is left."""

SHORTEST_PAUSE: Final = 0.25
"""Seconds between looks at the saturation at least, however often a trunk is found full."""


@dataclass(frozen=True, slots=True)
class News:
    """What is to be told of a trunk. `at` is in milliseconds since the epoch."""

    signal: Signal
    trunk: str
    in_use: int
    limit: int | None
    at: int


class Teller(Protocol):
    """Who tells the apps."""

    async def tell(self, work: UnitOfWork, news: News) -> None:
        """Write it, in the transaction that makes it true."""
        ...


class TrunkWatch:
    """One controller's watch. Under `owner`, for `lease` seconds at a time, it holds the slots of calls that
    are nobody's attempt.
    """

    def __init__(
        self,
        store: Store,
        pbx: Pbx,
        router: Router,
        teller: Teller,
        *,
        owner: str,
        lease: float,
        rules: BreakerRules | None = None,
        saturation_rules: SaturationRules | None = None,
        on_its_way: Callable[[str], bool] = lambda _: False,
        limited: Callable[[Collection[str]], None] = lambda _: None,
    ) -> None:
        """`on_its_way` tells whether a channel's slot is just being written by who saw it come, or go;
        `limited` is told which trunks have a limit, by configuration or by an operator.
        """
        self._on_its_way = on_its_way
        self._tell_limited = limited
        self._store = store
        self._pbx = pbx
        self._router = router
        self._teller = teller
        self._owner = owner
        self._lease_ms = round(lease * 1000)
        self._rules = rules or BreakerRules()
        self._saturation = saturation_rules or SaturationRules()
        self._watches: dict[str, Watch] = {}
        self._freed: Callable[[], None] = lambda: None
        self._woken = asyncio.Event()
        self._count_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.mended = 0
        """How many slots were wrong since the start."""

    def start(self, freed: Callable[[], None]) -> None:
        """Begin, once the store knows the trunks; `freed` is called when a line may be free again."""
        self._freed = freed
        self._task = asyncio.create_task(self._run(), name="trunk-watch")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def found_full(self) -> None:
        """A call found a trunk full: it may be saturated."""
        self._woken.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            pause = COUNT_SECONDS
            try:
                if loop.time() >= self._count_at:
                    self._count_at = loop.time() + COUNT_SECONDS
                    await self.count()
                pause = min(await self.look(), max(0.0, self._count_at - loop.time()))
            except (StoreError, PbxError, WireError) as error:
                log.warning("trunks.not_watched", error=str(error))
            except Exception:
                # A fault of ours in one round must not end the watch.
                log.exception("trunks.watch_failed")
            await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        """Until it is time, or a trunk was found full, or the PBX is back."""
        if not self._pbx.ready:
            with suppress(PbxError):
                if await self._pbx.wait_ready(max(seconds, SHORTEST_PAUSE)):
                    self._count_at = 0.0
                    return
        await asyncio.sleep(SHORTEST_PAUSE)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds - SHORTEST_PAUSE)):
                await self._woken.wait()

    async def count(self) -> int:
        """Mend the slots, and ask which trunks are reached; returns how many slots were wrong.

        Channels are counted where a trunk has a limit, or while a call holds a slot that is nobody's attempt.
        """
        async with self._store.reading() as work:
            records, use = await work.trunks.all(), await work.slots.in_use()
        freed = added = 0
        if self._pbx.ready and (
            self._limited(records) or any(one.inbound or one.foreign for one in use.values())
        ):
            missing, freed = await self._compare()
            if missing:
                await asyncio.sleep(SURE_SECONDS)
                still, more = await self._compare()
                freed += more
                added = await self._admit([one for one in still if one in missing])
        now = await self._store.now_ms()
        async with self._store.transaction() as work:
            freed += len(await work.slots.sweep(now))
            if freed or added:
                await work.events.add(_event("trunk.mended", now, {"added": added, "freed": freed}))
        if freed or added:
            self.mended += freed + added
            log.warning("trunks.mended", added=added, freed=freed)
            self._freed()
        if self._pbx.ready:
            await self._qualify(records)
        return freed + added

    async def _compare(self) -> tuple[Sequence[Missing], int]:
        """Free the slots of calls that are gone and keep those of calls that stand; returns what has none,
        and how many were freed.
        """
        asked_at = await self._store.now_ms()
        live = await self._pbx.channels()
        async with self._store.reading() as work:
            held = await work.slots.held()
        endpoints = by_endpoint(self._router.trunks)
        census = compare(
            live,
            held,
            self._owner,
            trunks=endpoints,
            asked_at=asked_at,
            renew_before=asked_at + round(RENEW_BELOW * self._lease_ms),
            on_its_way=self._on_its_way,
        )
        freed = 0
        if census.gone:
            async with self._store.transaction() as work:
                freed = await work.slots.release_all(census.gone)
        if census.standing:
            async with self._store.transaction() as work:
                await work.slots.renew(self._owner, census.standing, asked_at + self._lease_ms)
        return census.missing, freed

    async def _admit(self, missing: Sequence[Missing]) -> int:
        """Give slots to calls that stand without one; returns how many those are.

        An attempt that is over and whose channel stands takes a line like a stranger's call.
        """
        until, added = await self._store.now_ms() + self._lease_ms, 0
        for one in missing:
            async with self._store.transaction() as work:
                attempt = await work.attempts.get(one.holder) if one.kind is SlotKind.ATTEMPT else None
                trunk, kind = one.trunk, SlotKind.FOREIGN
                if attempt is not None and attempt.ended_at is None:
                    trunk, kind = attempt.trunk or one.trunk, SlotKind.ATTEMPT
                added += await work.slots.admit(
                    trunk, one.holder, kind=kind, owner=self._owner, lease_until=until
                )
        return added

    async def _qualify(self, records: Mapping[str, TrunkRecord]) -> None:
        """Let the breakers know which trunks the PBX reaches."""
        endpoints = list(dict.fromkeys(trunk.endpoint for trunk in self._router.trunks))
        answers = await asyncio.gather(*(self._pbx.reaches(endpoint) for endpoint in endpoints))
        reached = dict(zip(endpoints, answers, strict=True))
        for trunk in self._router.trunks:
            record = records.get(trunk.name)
            now = await self._store.now_ms()
            told = reached[trunk.endpoint]
            # What was read a moment ago tells whether there is anything to write.
            if record is None or _after(record.breaker, told, now, self._rules) is record.breaker:
                continue
            async with self._store.transaction() as work:
                before = await work.trunks.breaker(trunk.name)
                after = _after(before, told, now, self._rules)
                if after is before:
                    continue
                await work.trunks.set_breaker(trunk.name, after)
                moved = after.phase is not before.phase
                detail = breaker.told(trunk.name, before, after)
                if moved:
                    await work.events.add(_event("trunk.breaker", now, detail))
            if moved:
                log.warning("trunk.breaker", **detail)
            if after.phase is BreakerPhase.CLOSED:
                self._freed()

    async def look(self) -> float:
        """Tell who is saturated and who has recovered; returns the seconds until the next look."""
        async with self._store.reading() as work:
            records = await work.trunks.all()
            told = [name for name, record in records.items() if record.saturated_at is not None]
            limited = self._limited(records)
            use = await work.slots.in_use() if told or limited else {}
        self._tell_limited(limited)
        now = await self._store.now_ms()
        due: list[int] = []
        for trunk in self._router.trunks:
            record = records.get(trunk.name)
            if record is None or (record.limit is None and record.saturated_at is None):
                continue
            in_use = use[trunk.name].in_use if trunk.name in use else 0
            known = self._watches.get(trunk.name, Watch())
            saturated = record.saturated_at is not None
            watch = known if known.saturated is saturated else Watch(saturated)
            watch, signal = saturation.step(watch, in_use, record.limit, now, self._saturation)
            if signal is not None:
                await self._tell(News(signal, trunk.name, in_use, record.limit, now))
            self._watches[trunk.name] = watch
            if (moment := watch.due_at(self._saturation)) is not None:
                due.append(moment)
        return min(COUNT_SECONDS, max(0.0, (min(due) - now) / 1000)) if due else COUNT_SECONDS

    async def _tell(self, news: News) -> None:
        async with self._store.transaction() as work:
            if news.signal is Signal.SATURATED:
                first = await work.trunks.saturate(news.trunk, news.at)
            else:
                first = await work.trunks.recover(news.trunk)
            if first:
                detail = {"trunk": news.trunk, "in_use": news.in_use, "limit": news.limit}
                await work.events.add(_event(news.signal.value, news.at, detail))
                await self._teller.tell(work, news)
        if first:
            log.warning(news.signal.value, trunk=news.trunk, in_use=news.in_use, limit=news.limit)

    def _limited(self, records: Mapping[str, TrunkRecord]) -> set[str]:
        """The trunks that have a limit now."""
        return {
            trunk.name
            for trunk in self._router.trunks
            if trunk.name in records and records[trunk.name].limit is not None
        }


def _event(kind: str, at: int, detail: Mapping[str, Any]) -> EventRecord:
    return EventRecord(id=new_id("evt"), at=at, kind=kind, detail=detail)


def _after(state: BreakerState, reached: bool | None, now: int, rules: BreakerRules) -> BreakerState:
    return breaker.after_qualify(state, reached, now, rules)
