"""The watch over the trunks, with the real store on each engine and a PBX in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from telephony.model.call import AttemptPhase, CallClass
from telephony.model.ids import new_id
from telephony.model.trunk import BreakerPhase, SlotKind
from telephony.pbx.memory import Callee, MemoryPbx
from telephony.pbx.port import DialOrder, LiveChannel
from telephony.store import Store, UnitOfWork
from telephony.store.records import AttemptRecord, RequestRecord, SlotAsk, SlotCandidate
from telephony.store.tables import event
from telephony.trunks import watch as watching
from telephony.trunks.breaker import BreakerRules
from telephony.trunks.dialect import Trunk
from telephony.trunks.routing import Router
from telephony.trunks.saturation import SaturationRules, Signal
from telephony.trunks.watch import News, TrunkWatch

ROUTER = Router([Trunk("a", "carrier", channels=2), Trunk("b", "carrier-b")])
QUICK = SaturationRules(0.9, 0.5, 0.3)
STRANGER = LiveChannel("1.1", "PJSIP/carrier-00000009", "Up", 1.0)


class Told:
    """Who tells the apps."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self.commits = 0

    async def tell(self, work: UnitOfWork, news: News) -> None:
        self.news.append(news)
        work.done.append(self._committed)

    def _committed(self) -> None:
        self.commits += 1


@pytest.fixture
def pbx(monkeypatch: pytest.MonkeyPatch) -> MemoryPbx:
    monkeypatch.setattr(watching, "SURE_SECONDS", 0.05)
    return MemoryPbx({"+861": Callee(answer_after=None)})


@pytest.fixture
async def told(store: Store) -> Told:
    async with store.transaction() as work:
        for trunk in ROUTER.trunks:
            await work.slots.ensure(trunk.name, trunk.channels)
    return Told()


def made(store: Store, pbx: MemoryPbx, told: Told, owner: str = "node-a") -> TrunkWatch:
    return TrunkWatch(
        store,
        pbx,
        ROUTER,
        told,
        owner=owner,
        lease=30.0,
        rules=BreakerRules(failures=2, window=30.0, pause=60.0),
        saturation_rules=QUICK,
    )


@pytest.fixture
async def watch(store: Store, pbx: MemoryPbx, told: Told) -> AsyncIterator[TrunkWatch]:
    await pbx.start()
    yield made(store, pbx, told)
    await pbx.stop()


async def held(store: Store) -> dict[str, tuple[str, str | None]]:
    async with store.reading() as work:
        return {one.holder or "": (one.trunk, one.kind) for one in await work.slots.held()}


async def events(store: Store, kind: str) -> list[dict[str, Any]]:
    async with store.engine.reading() as connection:
        rows = await connection.execute(event.select().where(event.c.kind == kind).order_by(event.c.at))
    return [dict(row.detail) for row in rows]


async def write_attempt(store: Store, attempt_id: str, *, ended: bool = False) -> None:
    now = await store.now_ms()
    request_id = new_id("call")
    async with store.transaction() as work:
        await work.requests.add(
            RequestRecord(
                id=request_id,
                client="shop",
                flow="talk",
                to_number="+861",
                call_class=CallClass.OTP,
                created_at=now,
                updated_at=now,
            )
        )
        await work.attempts.add(
            AttemptRecord(
                id=attempt_id,
                request_id=request_id,
                number=1,
                to_number="+861",
                trunk="b",
                phase=AttemptPhase.ENDED if ended else AttemptPhase.DIALING,
                created_at=now,
                ended_at=now if ended else None,
            )
        )


@asynccontextmanager
async def leg(pbx: MemoryPbx, attempt_id: str, endpoint: str = "carrier") -> AsyncIterator[None]:
    async with pbx.dial(DialOrder(attempt_id, endpoint, "+861", "")):
        yield


async def take(store: Store, holder: str, trunk: str = "a") -> None:
    async with store.transaction() as work:
        ask = SlotAsk(
            candidates=(SlotCandidate(trunk=trunk),),
            holder=holder,
            owner="node-a",
            lease_until=await store.now_ms() + 30_000,
        )
        assert (await work.slots.acquire(ask)).trunk == trunk


async def test_calls_that_stand_without_a_slot_get_one_and_lose_it_when_they_are_gone(
    store: Store, pbx: MemoryPbx, watch: TrunkWatch
) -> None:
    await write_attempt(store, "att_open")
    await write_attempt(store, "att_over", ended=True)
    pbx.strangers = [STRANGER, LiveChannel("1.2", "PJSIP/6001-00000001", "Up", 1.0)]
    async with leg(pbx, "att_open", "carrier-b"), leg(pbx, "att_over"):
        assert await watch.count() == 3
        assert await held(store) == {
            "1.1": ("a", SlotKind.FOREIGN),
            "att_open": ("b", SlotKind.ATTEMPT),
            # Its attempt is over and its channel stands: it takes a line like anybody's.
            "att_over": ("a", SlotKind.FOREIGN),
        }
        assert await watch.count() == 0, "what is right stays as it is"
    pbx.strangers = []
    await asyncio.sleep(0.01)
    assert await watch.count() == 2
    assert await held(store) == {"att_open": ("b", SlotKind.ATTEMPT)}, "its own end gives its slot back"
    assert await events(store, "trunk.mended") == [{"added": 3, "freed": 0}, {"added": 0, "freed": 2}]
    assert watch.mended == 5


async def test_a_call_that_just_ended_gets_no_slot(
    store: Store, pbx: MemoryPbx, watch: TrunkWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    pbx.strangers = [STRANGER]
    monkeypatch.setattr(watching, "SURE_SECONDS", 0.3)
    counting = asyncio.create_task(watch.count())
    await asyncio.sleep(0.15)
    pbx.strangers = []
    assert await counting == 0
    assert await held(store) == {}


async def test_where_no_trunk_has_a_limit_the_pbx_is_not_asked(
    store: Store, pbx: MemoryPbx, watch: TrunkWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.transaction() as work:
        await work.slots.ensure("a", None)

    async def unasked() -> tuple[LiveChannel, ...]:
        raise AssertionError("it need not be known")

    monkeypatch.setattr(pbx, "channels", unasked)
    assert await watch.count() == 0


async def test_saturation_is_told_once_by_one_of_two(
    store: Store, pbx: MemoryPbx, watch: TrunkWatch, told: Told
) -> None:
    other = made(store, pbx, told, "node-b")
    await take(store, "one")
    for one in (watch, other):
        assert await one.look() == watching.COUNT_SECONDS
    assert told.news == []
    await take(store, "two")
    for one in (watch, other, watch):
        await one.look()
    ((saturated, *more),) = [told.news]
    assert more == []
    assert (saturated.signal, saturated.trunk, saturated.in_use, saturated.limit) == (
        Signal.SATURATED,
        "a",
        2,
        2,
    )
    assert told.commits == 1
    async with store.transaction() as work:
        await work.slots.release("two")
    for one in (watch, other):
        assert 0 < await one.look() <= 0.3, "it has recovered if it stays so"
    assert len(told.news) == 1
    await asyncio.sleep(0.35)
    for one in (watch, other, watch):
        await one.look()
    assert [one.signal for one in told.news] == [Signal.SATURATED, Signal.RECOVERED]
    assert await events(store, "trunk.recovered") == [{"trunk": "a", "in_use": 1, "limit": 2}]


async def test_a_trunk_that_the_pbx_does_not_reach_is_left_alone_until_it_does(
    store: Store, pbx: MemoryPbx, watch: TrunkWatch
) -> None:
    pbx.unreachable = {"carrier-b"}
    for _ in range(3):
        await watch.count()

    async def phase(name: str) -> BreakerPhase:
        async with store.reading() as work:
            return (await work.trunks.all())[name].breaker.phase

    assert (await phase("a"), await phase("b")) == (BreakerPhase.CLOSED, BreakerPhase.OPEN)
    pbx.unreachable = set()
    await watch.count()
    assert await phase("b") is BreakerPhase.CLOSED
    told = await events(store, "trunk.breaker")
    assert [(one["trunk"], one["is"], one["reason"]) for one in told] == [
        ("b", "open", "not reached by the PBX: 2 failures within 30 s"),
        ("b", "closed", "reached by the PBX again"),
    ]


async def test_it_counts_at_once_when_the_pbx_is_back_and_looks_when_a_trunk_was_full(
    store: Store, pbx: MemoryPbx, watch: TrunkWatch, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed = asyncio.Event()
    monkeypatch.setattr(watching, "COUNT_SECONDS", 0.3)
    watch.start(freed.set)
    try:
        await asyncio.sleep(0.1)
        pbx.lose_link()
        monkeypatch.setattr(watching, "COUNT_SECONDS", 60.0)
        await asyncio.sleep(0.6)
        pbx.strangers = [STRANGER]
        pbx.restore_link()
        async with asyncio.timeout(2):
            await freed.wait()
        assert await held(store) == {"1.1": ("a", SlotKind.FOREIGN)}
        await take(store, "two")
        watch.found_full()
        async with asyncio.timeout(1):
            while not told.news:
                await asyncio.sleep(0.01)
    finally:
        await watch.stop()
