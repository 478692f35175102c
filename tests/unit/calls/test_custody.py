"""Whose a request is: two engines on one PostgreSQL and one PBX in memory, and a clock that is set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from telephony.calls import custody
from telephony.calls.engine import RESUMED_AT_ONCE, CallEngine, EngineConfig
from telephony.calls.flow import Outcome
from telephony.errors import ConfigError, Overloaded, StoreUnavailable
from telephony.model.call import AttemptPhase, CallClass, CallStatus
from telephony.model.hangup import Cause, HangupCause
from telephony.model.ids import new_id
from telephony.pbx.memory import Callee, MemoryPbx
from telephony.store import Poke, PokeKind, Store, pokes
from telephony.store.records import AttemptRecord, RequestRecord, SlotAsk, SlotCandidate, SlotRecord
from telephony.trunks.dialect import Trunk
from telephony.trunks.routing import Router
from tests.store_engines import PostgresServer
from tests.unit.calls.test_engine import NUMBER, Rig, Talk

HOUR_MS = 3_600_000
RINGS = Callee(ring_after=0.0, answer_after=None)
OTHER = "+8613800000002"


@dataclass
class Wall:
    """The wall clock, which somebody sets."""

    ahead: int = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead


@asynccontextmanager
async def engine_on(
    url: str, pbx: MemoryPbx, name: str, *, wall: Callable[[], int] | None = None, **config: Any
) -> AsyncIterator[Rig]:
    """One controller; on SQLite its store goes by `wall` too, as it does in life."""
    own = wall if url.startswith("sqlite") else None
    store = await Store.open(url, owner=name, clock=own, deadline=0.3)
    talk = Talk()
    router = Router([Trunk("a", "a"), Trunk("b", "b")])
    settings = EngineConfig(**{"drain": 0.2, "hangup_patience": 1.0, "number_pause": 0.05, **config})
    more: dict[str, Any] = {} if wall is None else {"clock": wall}
    engine = CallEngine(
        store, pbx, router, {"talk": talk}, owner=name, discard=lambda _media: None, config=settings, **more
    )
    await engine.start()
    yield Rig(store, pbx, engine, talk, router)
    await engine.stop()
    await store.close()


@pytest.fixture
async def pbx() -> AsyncIterator[MemoryPbx]:
    made = MemoryPbx({NUMBER: RINGS})
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def url(postgres: PostgresServer, migrated: str) -> str:
    return postgres.new_database(template=migrated)


@dataclass
class Two:
    url: str
    pbx: MemoryPbx
    stack: AsyncExitStack
    rigs: list[Rig] = field(default_factory=list)

    async def add(self, name: str, **config: Any) -> Rig:
        rig = await self.stack.enter_async_context(engine_on(self.url, self.pbx, name, **config))
        self.rigs.append(rig)
        return rig


@pytest.fixture
async def two(url: str, pbx: MemoryPbx) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        yield Two(url, pbx, stack)


def ringing(record: RequestRecord) -> bool:
    return record.status is CallStatus.RINGING


async def test_a_cancel_reaches_the_engine_that_rings_at_once(two: Two) -> None:
    one, other = await two.add("one"), await two.add("two")
    call = await one.place()
    await one.until(call, ringing)
    began = time.monotonic()
    await other.engine.cancel(call)
    assert (await one.ended(call)).status is CallStatus.CANCELED
    assert time.monotonic() - began < 4, "a third of a lease is ten seconds"


async def test_a_poke_that_nobody_hears_is_made_good_by_the_next_renewal(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "listening", lambda _store, _heard: nullcontext())
    one, other = await two.add("one", lease=1.5), await two.add("two", lease=1.5)
    call = await one.place()
    await one.until(call, ringing)
    await other.engine.cancel(call)
    assert (await one.ended(call, 2)).status is CallStatus.CANCELED


async def test_what_finds_no_place_here_is_begun_there_at_once(two: Two) -> None:
    one, other = await two.add("one", max_calls=1, otp_share=0.0), await two.add("two")
    await one.until(await one.place(), ringing)
    began = time.monotonic()
    call = await one.place(to_number=OTHER)
    assert (await other.ended(call)).status is CallStatus.COMPLETED
    assert time.monotonic() - began < 4, "a look at the queue comes only every half minute"
    assert (await other.seen(call)).owner == "two"


async def test_calls_go_where_the_pbx_is(url: str, pbx: MemoryPbx) -> None:
    """A controller that has lost its PBX neither takes what is due nor keeps what it had."""
    moment = time.time_ns() // 1_000_000
    lost = MemoryPbx()
    await lost.start()
    async with engine_on(url, lost, "one") as one, engine_on(url, pbx, "two") as other:
        lost.lose_link()
        soon = {"dial_by": moment + 8_000, "expires_at": moment + 60_000}
        calls = [await one.place(to_number=f"+86138000100{n:02d}", **soon) for n in range(10)]
        kept = await left_by(one, "one", 30_000, to_number="+8613800010099", **soon)
        one.engine._begin(await one.seen(kept), None)
        for call in (*calls, kept):
            ended = await other.ended(call, 8)
            assert (ended.status, ended.owner) == (CallStatus.COMPLETED, "two")
        assert lost.orders == []
    await lost.stop()


async def left_by(rig: Rig, owner: str, lease_ms: int, **values: Any) -> str:
    """A request as a controller leaves it that dies between two attempts."""
    moment = await rig.store.now_ms()
    request = RequestRecord(
        id=new_id("call"),
        client="shop",
        flow="talk",
        to_number=OTHER,
        call_class=CallClass.TRANSACTION,
        owner=owner,
        fence=1,
        lease_until=moment + lease_ms,
        expires_at=moment + 60_000,
        created_at=moment,
        updated_at=moment,
    )
    async with rig.store.transaction() as work:
        await work.requests.add(replace(request, **values))
    return request.id


async def test_a_line_is_kept_with_its_request_and_taken_over_with_it(two: Two) -> None:
    one = await two.add("one", lease=1.5)

    async def held() -> SlotRecord:
        async with one.store.reading() as work:
            (found,) = await work.slots.held()
        return found

    call = await one.place()
    await one.until(call, ringing)
    before = await held()
    await asyncio.sleep(1.0)
    assert (await held()).lease_until > before.lease_until  # type: ignore[operator]
    await one.engine.cancel(call)
    await one.ended(call)
    two.pbx.lose_link()
    call = await left_by(one, "gone", 300, status=CallStatus.DIALING, attempts_made=1)
    async with one.store.transaction() as work:
        moment = await one.store.now_ms()
        ask = SlotAsk(
            candidates=(SlotCandidate(trunk="a"),), holder="att_1", owner="gone", lease_until=moment + 300
        )
        await work.slots.acquire(ask)
        await work.attempts.add(
            AttemptRecord(
                id="att_1",
                request_id=call,
                number=1,
                to_number=OTHER,
                trunk="a",
                phase=AttemptPhase.DIALING,
                owner="gone",
                fence=1,
                lease_until=moment + 300,
                created_at=moment,
                dialed_at=moment,
            )
        )
    async with asyncio.timeout(4):
        while (await held()).owner != "one":
            await asyncio.sleep(0.02)
    two.pbx.restore_link()
    assert (await one.ended(call)).status is CallStatus.COMPLETED
    async with one.store.reading() as work:
        assert await work.slots.held() == []
    assert [one.end_reason for one in await one.attempts(call)] == ["never_rang", "heard"]


async def test_what_a_dead_engine_held_is_taken_over_when_its_lease_ends_and_not_before(two: Two) -> None:
    one = await two.add("one", lease=6.0)
    began = time.monotonic()
    call = await left_by(one, "gone", 2_700)
    assert (await one.ended(call)).status is CallStatus.COMPLETED
    assert 2.6 < time.monotonic() - began < 3.8, "it is slept towards: rounds come every two seconds"
    assert (await one.seen(call)).fence == 2


@pytest.mark.parametrize("ahead", [HOUR_MS, -HOUR_MS], ids=["fast", "slow"])
async def test_leases_go_by_the_clock_of_the_database(two: Two, ahead: int) -> None:
    one, other = await two.add("one", lease=1.5), await two.add("two", lease=1.5, wall=Wall(ahead))
    call = await one.place(expires_at=time.time_ns() // 1_000_000 + 3 * HOUR_MS)
    theirs = await other.place(to_number=OTHER, expires_at=time.time_ns() // 1_000_000 + 3 * HOUR_MS)
    await one.until(call, ringing)
    await other.ended(theirs)
    await asyncio.sleep(2.0)
    held = await one.seen(call)
    assert (held.owner, held.fence, held.status) == ("one", 1, CallStatus.RINGING)
    assert held.lease_until is not None
    assert 0 < held.lease_until - await one.store.now_ms() <= 1_500


async def test_after_a_failure_of_the_store_the_living_renew_first(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await two.add("one", lease=1.5)
    failures = [StoreUnavailable("away"), Overloaded("too many")]

    async def failing(_store: Store) -> int:
        if failures:
            raise failures.pop()
        return await now_ms(_store)

    now_ms = Store.now_ms
    monkeypatch.setattr(Store, "now_ms", failing)
    monkeypatch.setattr(custody, "STORE_PAUSE", 0.1)
    async with asyncio.timeout(3):
        while failures:
            await asyncio.sleep(0.01)
    began = time.monotonic()
    call = await left_by(one, "slow", -1)
    await one.ended(call)
    assert time.monotonic() - began > 1, "whoever could not renew either has a lease's time for it"


async def test_pokes_are_heard_again_after_a_break(url: str, postgres: PostgresServer) -> None:
    store = await Store.open(url, owner="one")
    heard: asyncio.Queue[Poke] = asyncio.Queue()

    async def poke() -> None:
        async with store.transaction() as work:
            await work.pokes.send(PokeKind.CANCEL, "call_1")

    async with asyncio.timeout(10), store.listening(heard.put_nowait):
        assert await heard.get() == Poke(PokeKind.MISSED)
        await poke()
        assert await heard.get() == Poke(PokeKind.CANCEL, "call_1")
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{url.rpartition('/')[2]}' AND pid <> pg_backend_pid()"
        )
        assert await heard.get() == Poke(PokeKind.MISSED), "what was sent meanwhile is gone"
        await poke()
        assert await heard.get() == Poke(PokeKind.CANCEL, "call_1")
        postgres.sql("NOTIFY telephony, 'what a newer version says'", url.rpartition("/")[2])
        await poke()
        assert await heard.get() == Poke(PokeKind.CANCEL, "call_1")
    await store.close()


async def test_no_two_of_one_name_are_at_work(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pokes, "NAME_PATIENCE", 0.3)
    one = await two.add("one")
    call = await one.place()
    await one.until(call, ringing)
    with pytest.raises(ConfigError, match=r"server\.node"):
        await two.add("one")
    assert (await one.seen(call)).fence == 1, "its calls are left to it"
    await one.engine.stop()
    later = await two.add("one")
    assert (await later.ended(call)).status is CallStatus.CANCELED


async def test_nobody_else_works_on_a_file_of_sqlite(tmp_path: Path, pbx: MemoryPbx) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with engine_on(url, pbx, "one"):
        with pytest.raises(ConfigError, match=r"store\.url"):
            async with engine_on(url, pbx, "two"):
                pass
    async with engine_on(url, pbx, "two"):
        pass


async def test_a_connection_that_the_server_closed_fails_nobody(url: str, postgres: PostgresServer) -> None:
    store = await Store.open(url, owner="one")
    await store.ping()
    postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{url.rpartition('/')[2]}' AND pid <> pg_backend_pid()"
    )
    await asyncio.sleep(0.1)
    await store.ping()
    await store.close()


@pytest.fixture
async def set_clock(tmp_path: Path, pbx: MemoryPbx) -> AsyncIterator[tuple[Rig, Wall]]:
    wall = Wall()
    async with engine_on(f"sqlite:///{tmp_path}/t.db", pbx, "one", wall=wall, lease=1.5) as rig:
        yield rig, wall


@pytest.mark.parametrize("step", [HOUR_MS, -HOUR_MS], ids=["an hour on", "an hour back"])
async def test_a_clock_that_is_set_takes_no_call_away_and_rings_nobody_twice(
    set_clock: tuple[Rig, Wall], step: int
) -> None:
    rig, wall = set_clock
    far = wall() + 3 * HOUR_MS
    rings = await rig.place(expires_at=far)
    await rig.until(rings, ringing)
    wall.ahead = step
    await asyncio.sleep(1.2)
    talks = await rig.place(to_number=OTHER, expires_at=far)
    assert (await rig.ended(talks)).status is CallStatus.COMPLETED
    held = await rig.seen(rings)
    assert (held.status, held.fence) == (CallStatus.RINGING, 1), "nobody took it over, we ourselves least"
    await rig.engine.cancel(rings)
    assert (await rig.ended(rings)).status is CallStatus.CANCELED
    assert [order.number for order in rig.pbx.orders] == [NUMBER, OTHER]


async def test_a_retry_that_waits_is_not_an_hour_late_after_the_clock_was_set_back(
    set_clock: tuple[Rig, Wall],
) -> None:
    rig, wall = set_clock
    rig.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(Cause.BUSY))
    call = await rig.place(
        retry={"attempts": 2, "pause": 1, "longest_pause": 1}, expires_at=wall() + 2 * HOUR_MS
    )
    await rig.until(call, lambda one: one.due_at is not None)
    wall.ahead = -HOUR_MS
    assert (await rig.ended(call, 5)).status is CallStatus.BUSY
    assert len(await rig.attempts(call)) == 2


async def test_a_deadline_is_not_lengthened_by_a_clock_that_is_set_back(
    set_clock: tuple[Rig, Wall],
) -> None:
    rig, wall = set_clock
    async with rig.store.transaction() as work:
        request = RequestRecord(
            id=new_id("call"),
            client="shop",
            flow="talk",
            to_number=OTHER,
            call_class=CallClass.OTP,
            priority=100,
            dial_by=wall() + 1_000,
            created_at=wall(),
            updated_at=wall(),
        )
        placed = await rig.engine.place(work, request)
    rig.pbx.lose_link()
    rig.engine.go(placed)
    await asyncio.sleep(0.1)
    wall.ahead = -HOUR_MS
    rig.pbx.restore_link()
    rig.pbx.lose_link()
    ended = await rig.ended(request.id, 5)
    assert (ended.status, ended.failure_reason) == (CallStatus.FAILED, "not_dialed_in_time")
    assert rig.pbx.orders == []


async def test_a_lease_that_ran_out_unseen_is_prolonged_before_the_dial(
    set_clock: tuple[Rig, Wall], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, _wall = set_clock
    monkeypatch.setattr(custody.Custody, "surely_ours", lambda _self, _until: False)
    call = await rig.place(to_number=OTHER)
    assert (await rig.ended(call)).status is CallStatus.COMPLETED


async def taken_over(one: Rig) -> RequestRecord:
    """What `one` holds, taken by "two", as soon as no transaction of its own keeps the row."""
    async with asyncio.timeout(5):
        while True:
            async with one.store.transaction() as work:
                now = await one.store.now_ms()
                for taken in await work.requests.take_over("two", now + 60_000, 30_000, own=False):
                    return taken
            await asyncio.sleep(0.01)


async def test_who_lost_a_lease_while_frozen_does_not_dial(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await two.add("one")
    frozen, thawed = asyncio.Event(), asyncio.Event()

    async def slow(request: RequestRecord) -> Any:
        frozen.set()
        await thawed.wait()
        return await prepare(request)

    prepare = one.talk.prepare
    monkeypatch.setattr(one.talk, "prepare", slow)
    call = await one.place(to_number=OTHER)
    await frozen.wait()
    mine = await taken_over(one)
    monkeypatch.setattr(custody.Custody, "surely_ours", lambda _self, _until: False)
    thawed.set()
    async with asyncio.timeout(3):
        while one.engine.live_calls:
            await asyncio.sleep(0.01)
    assert two.pbx.orders == []
    held = await one.seen(call)
    assert (held.owner, held.fence, held.status) == ("two", mine.fence, CallStatus.DIALING)


async def test_who_thaws_hangs_up_nobody_that_is_somebody_elses_by_now(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Overdue two seconds after the dial: that much too early, as for one who was frozen.
    one = await two.add("one", margin=-28.0)
    call = await one.place()
    await one.until(call, ringing)
    await taken_over(one)
    monkeypatch.setattr(custody.Custody, "surely_ours", lambda _self, _until: False)
    async with asyncio.timeout(6):
        while one.engine.live_calls:
            await asyncio.sleep(0.01)
    (attempt,) = await one.attempts(call)
    assert [channel.id for channel in await two.pbx.channels()] == [attempt.id], "it rings on"


async def test_no_further_trunk_rings_for_a_request_that_was_canceled_elsewhere(
    set_clock: tuple[Rig, Wall], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, wall = set_clock
    rig.pbx.callees[OTHER] = Callee(ring_after=None, refuses_with=HangupCause(Cause.CONGESTION))
    write = rig.engine._write_attempt

    async def canceled_before(life: Any, *more: Any) -> bool:
        async with rig.store.transaction() as work:
            await work.requests.ask_cancel(life.request.id, wall())
        return await write(life, *more)

    monkeypatch.setattr(rig.engine, "_write_attempt", canceled_before)
    call = await rig.place(to_number=OTHER)
    assert (await rig.ended(call)).status is CallStatus.CANCELED
    assert [one.trunk for one in await rig.attempts(call)] == ["a"]
    assert len(rig.pbx.orders) == 1


async def test_a_store_that_cannot_be_written_keeps_nobody_waiting_and_loses_no_outcome(
    set_clock: tuple[Rig, Wall], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, _wall = set_clock
    rig.pbx.callees[OTHER] = Callee(ring_after=0.1, answer_after=0.1)
    full = [True]
    transaction = Store.transaction

    @asynccontextmanager
    async def failing(store: Store) -> AsyncIterator[Any]:
        if full[0] and rig.pbx.orders:
            await asyncio.sleep(0.5)
            raise StoreUnavailable("full")
        async with transaction(store) as work:
            yield work

    monkeypatch.setattr(Store, "transaction", failing)
    monkeypatch.setattr("telephony.calls.engine.STORE_PATIENCE", 0.0)
    rig.talk.answers = [Outcome(CallStatus.COMPLETED, "heard", "7")]
    began = time.monotonic()
    call = await rig.place(to_number=OTHER)
    async with asyncio.timeout(3):
        while not rig.pbx.sessions or not rig.pbx.sessions[0].played:
            await asyncio.sleep(0.01)
    assert time.monotonic() - began < 0.5, "the mark of the ringing is written beside the talk"
    await asyncio.sleep(1.5)
    assert (await rig.seen(call)).status is CallStatus.DIALING
    full[0] = False
    assert (await rig.ended(call)).status is CallStatus.COMPLETED
    (attempt,) = await rig.attempts(call)
    assert (attempt.end_reason, attempt.keys) == ("heard", "7"), "not what a look at the PBX could tell"


async def test_too_many_at_once_do_not_end_the_work(
    set_clock: tuple[Rig, Wall], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, wall = set_clock
    reading, failures = Store.reading, [RuntimeError("a fault of ours"), Overloaded("too many")]

    @asynccontextmanager
    async def failing(store: Store) -> AsyncIterator[Any]:
        if failures:
            raise failures.pop()
        async with reading(store) as work:
            yield work

    monkeypatch.setattr(Store, "reading", failing)
    call = await left_by(rig, "one", -1, lease_until=None, due_at=wall())
    rig.engine._wake.set()
    async with asyncio.timeout(5):
        while failures:
            await asyncio.sleep(0.05)
    assert (await rig.ended(call)).status is CallStatus.COMPLETED


async def test_what_an_earlier_life_left_is_resumed_a_few_at_a_time_and_the_oldest_first(
    tmp_path: Path, pbx: MemoryPbx, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with engine_on(url, pbx, "one") as rig:
        calls = [await left_by(rig, "two", 60_000 + n, to_number=f"+861380001{n:04d}") for n in range(40)]
    at_once: list[int] = []
    preparing = 0
    prepare = Talk.prepare

    async def slow(talk: Talk, request: RequestRecord) -> Any:
        nonlocal preparing
        preparing += 1
        at_once.append(preparing)
        await asyncio.sleep(0.05)
        preparing -= 1
        return await prepare(talk, request)

    monkeypatch.setattr(Talk, "prepare", slow)
    async with engine_on(url, pbx, "two") as rig:
        for call in calls:
            assert (await rig.ended(call)).status is CallStatus.COMPLETED
    assert max(at_once) == RESUMED_AT_ONCE
    numbers = [order.number for order in pbx.orders]
    assert numbers == sorted(numbers)


async def test_a_pbx_that_is_away_keeps_nobody_from_his_deadline(tmp_path: Path, pbx: MemoryPbx) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with engine_on(url, pbx, "one") as rig:
        dial_by = time.time_ns() // 1_000_000 + 2_000
        calls = [
            await left_by(rig, "two", 60_000, to_number=f"+861380001{n:04d}", dial_by=dial_by)
            for n in range(20)
        ]
    pbx.lose_link()
    async with engine_on(url, pbx, "two") as rig:
        for call in calls:
            assert (await rig.ended(call, 5)).failure_reason == "not_dialed_in_time"
        assert time.time_ns() // 1_000_000 - dial_by < 1_500
