"""The desk: who waits is served in turn, and whoever leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from telephony.errors import StoreError, StoreUnavailable
from telephony.model.trunk import BreakerPhase, BreakerState, Passed
from telephony.store import Store
from telephony.store.records import Acquired, SlotCandidate
from telephony.trunks.desk import SlotDesk
from tests.store_engines import commits_unheard
from tests.unit.trunks.conftest import wall

A, B = SlotCandidate(trunk="a"), SlotCandidate(trunk="b")


@pytest_asyncio.fixture
async def desk(store: Store) -> AsyncIterator[SlotDesk]:
    async with store.transaction() as work:
        await work.slots.ensure("a", 2)
        await work.slots.ensure("b", 1)
    made = SlotDesk(store, "node-a", 30.0, wall)
    made.start()
    yield made
    await made.stop()


async def take(desk: SlotDesk, holder: str, *candidates: SlotCandidate, **fields: Any) -> Acquired:
    values: dict[str, Any] = {"priority": 1, "since": wall()} | fields
    return await desk.take(candidates or (A,), holder, **values)


async def give(store: Store, desk: SlotDesk, holder: str) -> None:
    async with store.transaction() as work:
        await work.slots.release(holder)
    desk.freed()


async def held(store: Store) -> set[str | None]:
    async with store.reading() as work:
        return {one.holder for one in await work.slots.held()}


async def test_an_answer_at_once_without_patience(store: Store, desk: SlotDesk) -> None:
    assert [(await take(desk, f"h{n}", A, B)).trunk for n in range(4)] == ["a", "a", "b", None]
    refused = await take(desk, "late", A)
    assert (refused.passed[0].why, refused.passed[0].limit) == (Passed.FULL, 2)
    assert desk.quiet
    assert await held(store) == {"h0", "h1", "h2"}


async def test_first_come_first_served_and_codes_first(store: Store, desk: SlotDesk) -> None:
    await asyncio.gather(take(desk, "h0"), take(desk, "h1"))
    served: list[str] = []

    async def wait(holder: str, priority: int, since: int) -> None:
        answer = await take(desk, holder, priority=priority, since=since, patience=30)
        assert answer.trunk == "a"
        served.append(holder)
        await give(store, desk, holder)

    waiting = [("survey", 10, 1), ("second", 50, 3), ("first", 50, 2), ("code", 100, 9)]
    tasks = [asyncio.create_task(wait(*one)) for one in waiting]
    await asyncio.sleep(0.2)
    assert not served
    assert not desk.quiet
    await give(store, desk, "h0")
    await asyncio.gather(*tasks)
    assert served == ["code", "first", "second", "survey"]
    assert desk.quiet


async def test_patience_ends(store: Store, desk: SlotDesk) -> None:
    await asyncio.gather(take(desk, "h0"), take(desk, "h1"))
    answer = await take(desk, "h2", patience=0.1)
    assert (answer.trunk, answer.passed[0].why) == (None, Passed.FULL)
    gone = asyncio.Event()
    task = asyncio.create_task(take(desk, "h3", patience=30, give_up=gone))
    await asyncio.sleep(0.05)
    gone.set()
    assert (await asyncio.wait_for(task, 5)).trunk is None
    assert desk.quiet
    await give(store, desk, "h0")
    await asyncio.sleep(0.05)
    assert await held(store) == {"h1"}


async def test_a_line_that_another_controller_frees_is_found(store: Store, desk: SlotDesk) -> None:
    await asyncio.gather(take(desk, "h0"), take(desk, "h1"))
    task = asyncio.create_task(take(desk, "h2", patience=30))
    await asyncio.sleep(0.05)
    async with store.transaction() as work:
        await work.slots.release("h1")
    assert (await asyncio.wait_for(task, 5)).trunk == "a"


async def test_a_pace_is_waited_for_to_the_moment(store: Store, desk: SlotDesk) -> None:
    pace = SlotCandidate(trunk="b", calls_per_second=10)
    async with store.transaction() as work:
        await work.slots.ensure("b", None)
    loop = asyncio.get_running_loop()

    async def timed(holder: str) -> float:
        assert (await take(desk, holder, pace, patience=30)).trunk == "b"
        return loop.time()

    times = sorted(await asyncio.gather(*(timed(f"h{n}") for n in range(6))))
    assert 0.45 <= times[-1] - times[0] < 5


async def test_who_is_cancelled_holds_nothing(store: Store, desk: SlotDesk) -> None:
    for turns in range(20):
        holders = [f"h{turns}-{n}" for n in range(6)]
        tasks = [asyncio.create_task(take(desk, holder, A, B, patience=30)) for holder in holders]
        await asyncio.sleep(0)
        for turn, task in enumerate(tasks):
            asyncio.get_running_loop().call_later(turn * 0.001, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        for holder, task in zip(holders, tasks, strict=True):
            if not task.cancelled():
                await give(store, desk, holder)
    async with asyncio.timeout(10):
        while await held(store) or not desk.quiet:
            await asyncio.sleep(0.02)
    assert desk.quiet


async def test_a_store_that_fails_is_told_to_those_who_ask(
    store: Store, desk: SlotDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as away:
        away.setattr(store, "transaction", broken)
        with pytest.raises(StoreError):
            await take(desk, "h0", patience=5)
    assert desk.quiet
    assert (await take(desk, "h1")).trunk == "a"


async def test_a_slot_of_a_commit_that_nobody_heard_of_is_given_back(store: Store, desk: SlotDesk) -> None:
    with commits_unheard(store), pytest.raises(StoreError):
        await take(desk, "h0", patience=5)
    assert await held(store) == {"h0"}
    async with asyncio.timeout(5):
        while await held(store):
            await asyncio.sleep(0.02)


async def test_an_error_of_ours_ends_nothing(
    store: Store, desk: SlotDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as odd:
        odd.setattr(store, "transaction", lambda: None)
        task = asyncio.create_task(take(desk, "h0", patience=30))
        await asyncio.sleep(0.05)
    assert (await asyncio.wait_for(task, 5)).trunk == "a"


async def test_a_stop_tells_those_who_wait(store: Store, desk: SlotDesk) -> None:
    await asyncio.gather(take(desk, "h0"), take(desk, "h1"))
    task = asyncio.create_task(take(desk, "h2", patience=30))
    await asyncio.sleep(0.05)
    await desk.stop()
    assert (await task).trunk is None
    assert await take(desk, "h3", patience=30) == Acquired(None)


async def test_one_probe_for_all_who_wait(store: Store, desk: SlotDesk) -> None:
    async with store.transaction() as work:
        await work.trunks.set_breaker("a", BreakerState(BreakerPhase.OPEN, until=wall() + 200))
    answers = [asyncio.create_task(take(desk, f"h{n}", patience=1.0)) for n in range(3)]
    done = [await answer for answer in answers]
    assert sorted((one.trunk or "", one.probe) for one in done) == [("", False), ("", False), ("a", True)]
