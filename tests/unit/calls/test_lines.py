"""A call's line, with the real store and a PBX in memory: taken, waited for, given back, and why."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from telephony.errors import StoreUnavailable
from telephony.model.call import CallClass, CallStatus
from telephony.model.hangup import Cause, HangupCause
from telephony.model.ids import new_id
from telephony.model.trunk import BreakerPhase
from telephony.pbx.memory import Callee, MemoryPbx
from telephony.store import Store, UnitOfWork
from telephony.store.records import EventRecord, SlotAsk, SlotCandidate
from telephony.store.tables import event
from telephony.trunks.breaker import BreakerRules
from telephony.trunks.dialect import Trunk
from tests.unit.calls.test_engine import Rig, rig_of

RINGS = Callee(ring_after=0.0, answer_after=None)
FAILS = Callee(ring_after=None, refuses_with=HangupCause(Cause.CONGESTION, 503))
QUICK = BreakerRules(failures=2, window=30.0, pause=0.4, longest=2.0)

Rigs = Callable[..., AbstractAsyncContextManager[Rig]]


def number(place: int) -> str:
    return f"+861380001{place:04d}"


@pytest.fixture
async def rigs(tmp_path: Path) -> AsyncIterator[Rigs]:
    """Controllers, one after another, on the same store and PBX."""
    pbx = MemoryPbx()

    @asynccontextmanager
    async def one(*trunks: Trunk, **config: Any) -> AsyncIterator[Rig]:
        async with rig_of(tmp_path, pbx, *trunks, **config) as made:
            yield made

    yield one
    await pbx.stop()


async def in_use(rig: Rig) -> dict[str, int]:
    async with rig.store.reading() as work:
        return {name: use.in_use for name, use in (await work.slots.in_use()).items() if use.in_use}


async def events(rig: Rig, kind: str) -> list[EventRecord]:
    async with rig.store.engine.reading() as connection:
        rows = (await connection.execute(event.select().where(event.c.kind == kind))).all()
    return [EventRecord(**row._mapping) for row in rows]


async def place(rig: Rig, *places: int, phone: Callee = RINGS, **values: Any) -> list[str]:
    for one in places:
        rig.pbx.callees[number(one)] = phone
    return [await rig.place(to_number=number(one), **values) for one in places]


async def ringing(rig: Rig, *calls: str) -> None:
    for call in calls:
        await rig.until(call, lambda one: one.status is CallStatus.RINGING)


async def reasons(rig: Rig, call: str) -> list[str | None]:
    return [one.trunk_reason for one in await rig.attempts(call)]


async def until(wanted: Callable[[], Any], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await wanted():
            await asyncio.sleep(0.01)


async def test_a_full_trunk_is_passed_and_then_waited_for(rigs: Rigs) -> None:
    async with rigs(Trunk("a", "a", channels=1), Trunk("b", "b", channels=1)) as rig:
        first, second, third = await place(rig, 1, 2, 3)
        await ringing(rig, first, second)
        assert await reasons(rig, first) == ["a chosen: serves every prefix"]
        assert await reasons(rig, second) == ["trunk a full 1/1, b chosen: serves every prefix"]
        assert (await rig.seen(third)).status is CallStatus.QUEUED
        assert await reasons(rig, third) == []
        (waits,) = await events(rig, "call.waits")
        assert (waits.request_id, waits.detail["reason"]) == (third, "trunk a full 1/1, trunk b full 1/1")
        assert rig.found_full
        await rig.engine.cancel(second)
        await ringing(rig, third)
        (told,) = await reasons(rig, third)
        assert told is not None
        assert told.startswith("trunk a full 1/1, b chosen: serves every prefix; waited 0.")
        (_of_second, of_third) = await events(rig, "trunk.chosen")
        assert (of_third.request_id, of_third.detail["trunk"], of_third.detail["reason"]) == (
            third,
            "b",
            told,
        )
        assert of_third.detail["waited_ms"] >= 0
        await asyncio.gather(*(rig.engine.cancel(call) for call in (first, third)))
        assert {(await rig.ended(call)).status for call in (first, third)} == {CallStatus.CANCELED}
        assert await in_use(rig) == {}


async def test_codes_first_then_first_come_first_served(rigs: Rigs) -> None:
    async with rigs(Trunk("a", "a", channels=1)) as rig:
        (stands,) = await place(rig, 1)
        await ringing(rig, stands)
        surveys = await place(rig, 2, 3, call_class=CallClass.SURVEY)
        payments = await place(rig, 4, 5)
        codes = await place(rig, 6, 7, call_class=CallClass.OTP)
        turn = [stands, *codes, *payments, *surveys]
        for ends, follows in itertools.pairwise(turn):
            await rig.engine.cancel(ends)
            await ringing(rig, follows)
            assert await in_use(rig) == {"a": 1}
        assert [order.number for order in rig.pbx.orders] == [number(one) for one in (1, 6, 7, 4, 5, 2, 3)]
        assert len(rig.pbx.orders) == 7


async def test_whoever_comes_now_goes_behind_those_who_wait(rigs: Rigs) -> None:
    """A line that is free again is not for the newcomer, even though he asks while it is free."""
    async with rigs(Trunk("a", "a", channels=1), Trunk("b", "b", channels=1, prefixes=("+44",))) as rig:
        first, waits = await place(rig, 1, 2)
        await ringing(rig, first)
        async with rig.store.transaction() as work:
            await work.slots.limit("a", 2)
        (comes,) = await place(rig, 3)
        await ringing(rig, waits)
        assert (await rig.seen(comes)).status is CallStatus.QUEUED
        assert (await events(rig, "call.waits"))[-1].detail["reason"] == "others wait for a line"


async def test_a_wait_ends_with_a_cancel_or_the_deadline(rigs: Rigs) -> None:
    async with rigs(Trunk("a", "a", channels=1)) as rig:
        moment = time.time_ns() // 1_000_000
        (stands,) = await place(rig, 1)
        await ringing(rig, stands)
        (canceled,) = await place(rig, 2)
        (late,) = await place(rig, 3, dial_by=moment + 300)
        (expires,) = await place(rig, 4, expires_at=moment + 400)
        await rig.engine.cancel(canceled)
        assert (await rig.ended(canceled, 1.0)).status is CallStatus.CANCELED
        assert (await rig.ended(late, 1.0)).failure_reason == "not_dialed_in_time"
        assert (await rig.ended(expires, 1.0)).status is CallStatus.EXPIRED
        assert len(rig.pbx.orders) == 1
        await rig.engine.cancel(stands)
        await rig.ended(stands)
        assert await in_use(rig) == {}


async def test_what_an_operator_says_holds_for_the_next_call(rigs: Rigs) -> None:
    async with rigs(Trunk("a", "a"), Trunk("b", "b")) as rig:
        (first,) = await place(rig, 1)
        await ringing(rig, first)
        async with rig.store.transaction() as work:
            await work.slots.limit("a", 1)
        (second,) = await place(rig, 2)
        await ringing(rig, second)
        assert await reasons(rig, second) == ["trunk a full 1/1, b chosen: serves every prefix"]
        async with rig.store.transaction() as work:
            await work.slots.limit("a", None)
            await work.trunks.drain("b", 1)
        (third,) = await place(rig, 3)
        await ringing(rig, third)
        assert await reasons(rig, third) == ["a chosen: serves every prefix"]
        async with rig.store.transaction() as work:
            await work.trunks.drain("a", 1)
        (fourth,) = await place(rig, 4)
        await until(lambda: events(rig, "call.waits"))
        assert (await events(rig, "call.waits"))[0].detail["reason"] == "trunk a drained, trunk b drained"
        async with rig.store.transaction() as work:
            await work.trunks.resume("b")
        await ringing(rig, fourth)
        assert await reasons(rig, fourth) != []
        assert (await rig.attempts(fourth))[0].trunk == "b"
        assert await in_use(rig) == {"a": 2, "b": 2}


async def test_a_pace_is_kept(rigs: Rigs) -> None:
    async with rigs(Trunk("a", "a", calls_per_second=10.0, burst=2)) as rig:
        calls = await place(rig, *range(1, 6))
        await ringing(rig, *calls)
        dialed = [attempt.dialed_at or 0 for call in calls for attempt in await rig.attempts(call)]
        assert dialed == sorted(dialed)
        assert dialed[4] - dialed[0] >= 290, "two at once, then one each 100 ms"
        assert (await events(rig, "call.waits"))[0].detail["reason"] == "trunk a at its pace 10/s"


async def test_a_refusal_is_followed_by_another_trunk_that_is_not_full(rigs: Rigs) -> None:
    async with rigs(Trunk("a", "a", channels=5), Trunk("b", "b", channels=1)) as rig:
        rig.pbx.callees[number(1)] = FAILS
        (stands,) = await place(rig, 2)
        await ringing(rig, stands)
        async with rig.store.transaction() as work:
            await work.slots.acquire(
                SlotAsk(
                    candidates=(SlotCandidate(trunk="b"),),
                    holder="other",
                    owner="two",
                    lease_until=time.time_ns() // 1_000_000 + 60_000,
                )
            )
        (call,) = await place(rig, 1, phone=FAILS)
        await rig.until(call, lambda one: one.status is CallStatus.QUEUED)
        assert (await rig.attempts(call))[0].cause == "congestion"
        rig.pbx.callees[number(1)] = RINGS
        async with rig.store.transaction() as work:
            await work.slots.release("other")
        await ringing(rig, call)
        after = (await reasons(rig, call))[1]
        assert after is not None
        assert after.startswith("b chosen: serves every prefix; after a; waited ")
        assert await in_use(rig) == {"a": 1, "b": 1}


async def test_a_call_that_found_every_other_trunk_drained_ends(rigs: Rigs) -> None:
    async with rigs(Trunk("a", "a"), Trunk("b", "b")) as rig:
        async with rig.store.transaction() as work:
            await work.trunks.drain("b", 1)
        (call,) = await place(rig, 1, phone=FAILS, call_class=CallClass.OTP)
        assert (await rig.ended(call)).failure_reason == "congestion"
        assert [one.trunk for one in await rig.attempts(call)] == ["a"]


async def test_a_breaker_opens_is_passed_and_closes_once_a_probe_rings(rigs: Rigs) -> None:
    async with rigs(Trunk("a", "a"), Trunk("b", "b"), breaker=QUICK) as rig:
        for one in (1, 2):
            rig.pbx.callees[number(one)] = FAILS
            (call,) = await place(rig, one, phone=FAILS, call_class=CallClass.OTP)
            await rig.ended(call)
        async with rig.store.transaction() as work:
            assert (await work.trunks.breaker("a")).phase is BreakerPhase.OPEN
            # b failed as often: here it is to be the one that works.
            await work.trunks.set_breaker("b", type(await work.trunks.breaker("b"))())
        opened = await events(rig, "trunk.breaker")
        assert [(one.detail["trunk"], one.detail["was"], one.detail["is"]) for one in opened] == [
            ("a", "closed", "open"),
            ("b", "closed", "open"),
        ]
        assert opened[0].detail["reason"] == "503: 2 failures within 30 s"
        (passes,) = await place(rig, 3)
        await ringing(rig, passes)
        assert await reasons(rig, passes) == [
            "trunk a out of order (503: 2 failures within 30 s), b chosen: serves every prefix"
        ]
        await asyncio.sleep(0.5)
        (probes,) = await place(rig, 4)
        await ringing(rig, probes)
        assert await reasons(rig, probes) == ["a chosen: serves every prefix, to probe it"]

        async def closed() -> bool:
            async with rig.store.reading() as work:
                return (await work.trunks.all())["a"].breaker.phase is BreakerPhase.CLOSED

        await until(closed)
        told = (await events(rig, "trunk.breaker"))[-1].detail
        assert (told["trunk"], told["is"], told["reason"]) == (
            "a",
            "closed",
            "the probe got through: it rings",
        )


async def test_who_waits_for_a_broken_trunk_probes_it(rigs: Rigs) -> None:
    """The only trunk is left alone; the call that waits for it goes when its pause is over, one at a time."""
    async with rigs(Trunk("a", "a"), breaker=QUICK) as rig:
        for one in (1, 2):
            (call,) = await place(rig, one, phone=FAILS, call_class=CallClass.OTP)
            await rig.ended(call)
        first, second = await place(rig, 3, phone=FAILS), await place(rig, 4)
        assert (await rig.ended(first[0])).failure_reason is not None
        (attempt,) = await rig.attempts(first[0])
        assert (attempt.trunk_reason or "").startswith(
            "a chosen: serves every prefix, to probe it; waited 0."
        )
        await ringing(rig, second[0])
        moments = [one.dialed_at or 0 for one in [attempt, *await rig.attempts(second[0])]]
        assert moments[1] - moments[0] >= 750, "after a probe that failed the pause is twice as long"


async def test_a_probe_that_reached_nobody_lets_another_one_through(
    rigs: Rigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rigs(Trunk("a", "a"), breaker=QUICK) as rig:
        for one in (1, 2):
            (call,) = await place(rig, one, phone=FAILS, call_class=CallClass.OTP)
            await rig.ended(call)
        await asyncio.sleep(0.5)

        prepare = rig.talk.prepare

        async def ends(request: Any) -> Any:
            return rig.talk.cut_short(request)

        monkeypatch.setattr(rig.talk, "prepare", ends)
        (unsent,) = await place(rig, 3)
        await rig.ended(unsent)
        monkeypatch.setattr(rig.talk, "prepare", prepare)
        (probes,) = await place(rig, 4)
        await ringing(rig, probes)
        assert await reasons(rig, probes) == ["a chosen: serves every prefix, to probe it"]


async def test_a_line_whose_attempt_could_not_be_written_is_given_back(
    rigs: Rigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rigs(Trunk("a", "a", channels=1)) as rig:
        first, waits = await place(rig, 1, 2)
        await ringing(rig, first)
        add, failures = rig.engine._add_attempt, [1]

        async def fails_once(work: UnitOfWork, *more: Any) -> None:
            if failures:
                failures.clear()
                raise StoreUnavailable("away")
            await add(work, *more)

        monkeypatch.setattr(rig.engine, "_add_attempt", fails_once)
        await rig.engine.cancel(first)
        await ringing(rig, waits)
        assert not failures
        assert len(await rig.attempts(waits)) == 1
        assert await in_use(rig) == {"a": 1}


async def test_what_waits_at_a_stop_is_in_the_queue_and_goes_in_the_next_life(rigs: Rigs) -> None:
    trunk = Trunk("a", "a", channels=1)
    async with rigs(trunk, lease=5.0) as rig:
        first, waits = await place(rig, 1, 2)
        await ringing(rig, first)
        # What a life that is killed leaves: a line that was granted, and no attempt.
        async with rig.store.transaction() as work:
            await work.slots.limit("a", 2)
            await work.slots.acquire(
                SlotAsk(
                    candidates=(SlotCandidate(trunk="a"),),
                    holder=new_id("att"),
                    owner="one",
                    lease_until=time.time_ns() // 1_000_000 + 60_000,
                )
            )
        began = time.monotonic()
    assert time.monotonic() - began < 2
    async with rigs(trunk) as rig:
        await ringing(rig, waits)
        assert await in_use(rig) == {"a": 1}
        assert [one.detail["reason"] for one in await events(rig, "call.waits")] == [
            "trunk a full 1/1",
            "stopping",
        ]
        await rig.engine.cancel(waits)
        await rig.ended(waits)
        assert await in_use(rig) == {}


async def test_a_plain_call_has_no_transaction_of_its_own_for_its_line(
    rigs: Rigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rigs(Trunk("a", "a")) as rig:
        transaction, counted = Store.transaction, []

        def counting(store: Store) -> Any:
            counted.append(1)
            return transaction(store)

        monkeypatch.setattr(Store, "transaction", counting)
        (call,) = await place(rig, 1, phone=Callee(), call_class=CallClass.OTP)
        await rig.ended(call)
        assert len(counted) == 4, "written, ringing, answered, over"
        assert await events(rig, "trunk.chosen") == []
