"""Calls that come in hold a slot for as long as they stand."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager

import pytest

from telephony.errors import StoreUnavailable
from telephony.model.trunk import SlotKind
from telephony.store import Store, UnitOfWork
from telephony.trunks import inbound
from telephony.trunks.dialect import Trunk
from telephony.trunks.inbound import GATHER_SECONDS, InboundLines

TRUNKS = (Trunk("main", "carrier", channels=2), Trunk("second", "carrier"), Trunk("b", "carrier-b"))


async def lines_of(store: Store) -> InboundLines:
    async with store.transaction() as work:
        for trunk in TRUNKS:
            await work.slots.ensure(trunk.name, trunk.channels)
    return InboundLines(store, TRUNKS, owner="node-a", lease=30.0)


async def use(store: Store) -> dict[str, tuple[int, int, int]]:
    async with store.reading() as work:
        return {
            name: (one.in_use, one.inbound, one.extra) for name, one in (await work.slots.in_use()).items()
        }


async def until(store: Store, wanted: dict[str, tuple[int, int, int]]) -> None:
    deadline = time.monotonic() + 5
    while (seen := await use(store)) != wanted:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.01)


async def test_they_come_and_go(store: Store) -> None:
    lines = await lines_of(store)
    freed = asyncio.Event()
    lines.start(freed.set)
    for number in range(3):
        lines.arrived(f"in-{number}", f"PJSIP/carrier-0000000{number}")
        lines.arrived(f"in-{number}", f"PJSIP/carrier-0000000{number}")
    lines.arrived("in-b", "PJSIP/carrier-b-0000000a")
    # None of these comes in on a trunk.
    lines.arrived("att_1", "PJSIP/carrier-0000000b")
    lines.arrived("phone", "PJSIP/alice-0000000c")
    lines.arrived("local", "Local/1@agents-0000000d;2")
    # The third stands above the limit: it was let in, and is counted.
    await until(store, {"main": (3, 3, 1), "b": (1, 1, 1)})
    async with store.reading() as work:
        assert {one.kind for one in await work.slots.held()} == {SlotKind.INBOUND}
    lines.gone("somebody else")
    lines.gone("in-0")
    await until(store, {"main": (2, 2, 0), "b": (1, 1, 1)})
    await asyncio.wait_for(freed.wait(), 1)
    for holder in ("in-1", "in-2", "in-b", "in-b"):
        lines.gone(holder)
    await until(store, {"main": (0, 0, 0)})
    await lines.stop()


async def test_whoever_goes_at_once_leaves_nothing(store: Store) -> None:
    lines = await lines_of(store)
    for number in range(300):
        lines.arrived(f"in-{number}", "PJSIP/carrier-00000001")
        lines.gone(f"in-{number}")
    lines.start(lambda: None)
    await lines.stop()
    assert await use(store) == {"main": (0, 0, 0)}


async def test_what_is_known_at_the_stop_is_written(store: Store) -> None:
    lines = await lines_of(store)
    lines.start(lambda: None)
    await asyncio.sleep(0)
    lines.arrived("in-1", "PJSIP/carrier-00000001")
    await lines.stop()
    assert await use(store) == {"main": (1, 1, 0)}


async def test_a_store_that_is_full_does_not_end_it(store: Store) -> None:
    lines = await lines_of(store)
    now_ms, told = store.now_ms, []

    async def failing() -> int:
        if not told:
            told.append(1)
            raise StoreUnavailable("locked")
        return await now_ms()

    store.now_ms = failing  # type: ignore[method-assign]
    lines.start(lambda: None)
    lines.arrived("lost", "PJSIP/carrier-00000001")
    while not told:
        await asyncio.sleep(0.01)
    lines.arrived("in-1", "PJSIP/carrier-00000001")
    await until(store, {"main": (1, 1, 0)})
    await lines.stop()


async def test_those_of_a_trunk_without_a_limit_are_written_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = await lines_of(store)
    written = 0
    transaction = Store.transaction

    def counted(one: Store) -> AbstractAsyncContextManager[UnitOfWork]:
        nonlocal written
        written += 1
        return transaction(one)

    monkeypatch.setattr(Store, "transaction", counted)
    lines.start(lambda: None)
    for number in range(5):
        lines.arrived(f"in-{number}", "PJSIP/carrier-b-0000000a")
        await asyncio.sleep(0.02)
    await until(store, {"main": (0, 0, 0), "b": (5, 5, 5)})
    assert written == 1
    # A line of a trunk with a limit is told at once, and takes the rest along.
    lines.gone("in-0")
    began = time.monotonic()
    lines.arrived("in-main", "PJSIP/carrier-00000001")
    await until(store, {"main": (1, 1, 0), "b": (4, 4, 4)})
    assert time.monotonic() - began < GATHER_SECONDS / 2
    await lines.stop()


async def test_a_limit_that_an_operator_sets_is_heeded_at_once(store: Store) -> None:
    lines = await lines_of(store)
    async with store.transaction() as work:
        await work.slots.limit("b", 1)
    lines.limited({"main", "b"})
    lines.start(lambda: None)
    began = time.monotonic()
    lines.arrived("in-0", "PJSIP/carrier-b-0000000a")
    await until(store, {"main": (0, 0, 0), "b": (1, 1, 0)})
    assert time.monotonic() - began < GATHER_SECONDS / 2
    await lines.stop()


async def test_what_fits_into_no_batch_waits_no_longer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "BATCH", 2)
    lines = await lines_of(store)
    lines.start(lambda: None)
    for number in range(9):
        lines.arrived(f"in-{number}", "PJSIP/carrier-b-0000000a")
    began = time.monotonic()
    lines.arrived("in-main", "PJSIP/carrier-00000001")
    await until(store, {"main": (1, 1, 0), "b": (9, 9, 9)})
    assert time.monotonic() - began < GATHER_SECONDS / 2
    await lines.stop()
