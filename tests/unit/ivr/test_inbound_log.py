"""Calls that came in, as an app sees them afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from telephony.errors import StoreError
from telephony.ivr import inbound_log
from telephony.ivr.inbound_log import PATH_EVENT, InboundCall, InboundLog
from telephony.ivr.journal import Heard, Visit
from telephony.model.call import CallStatus, Direction
from telephony.store import Store, UnitOfWork

VISITS = (Visit("shop", "main", "menu", 1_000, (Heard("1"),), "1", "bye"),)
CALL = InboundCall("178.1", "shop", "+8613800000001", "4008", "en", "sold", 900, 5_000, VISITS)
LONG = 10.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path / 'calls.db'}", owner="node-a")
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound_log, "FLUSH_SECONDS", 0.05)


async def test_a_call_is_kept_with_its_path_and_without_anything_to_do(store: Store) -> None:
    kept = InboundLog(store, "shop-app")
    kept.start()
    kept.keep(CALL)
    kept.keep(replace(CALL, channel="178.2", result="lost", caller=""))
    async with asyncio.timeout(LONG):
        while True:
            async with store.reading() as work:
                page = await work.requests.list("shop-app")
            if len(page.items) == 2:
                break
            await asyncio.sleep(0.02)
    await kept.stop()
    by_channel = {one.metadata["channel"]: one for one in page.items}
    sold, lost = by_channel["178.1"], by_channel["178.2"]
    assert (sold.direction, sold.status, sold.flow) == (Direction.INBOUND, CallStatus.COMPLETED, "shop")
    assert (sold.from_number, sold.to_number, sold.metadata["result"]) == ("+8613800000001", "4008", "sold")
    assert (sold.created_at, sold.ended_at, sold.due_at, sold.owner) == (900, 5_000, None, None)
    assert (lost.status, lost.failure_reason, lost.from_number) == (CallStatus.FAILED, "lost", None)
    async with store.reading() as work:
        (event,) = await work.events.list_for(sold.id)
    assert event.kind == PATH_EVENT
    assert [(step["node"], step["keys"], step["to"]) for step in event.detail["path"]] == [
        ("main", "1", "bye")
    ]


async def test_what_waits_is_written_at_the_stop(store: Store) -> None:
    kept = InboundLog(store, "shop-app")
    kept.start()
    for number in range(inbound_log.BATCH + 5):
        kept.keep(replace(CALL, channel=str(number)))
    await kept.stop()
    async with store.reading() as work:
        page = await work.requests.list("shop-app", limit=1_000)
    assert len({one.metadata["channel"] for one in page.items}) == inbound_log.BATCH + 5


async def test_a_store_that_fails_loses_nothing_and_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial fails before anything, the second after its commit."""
    real, trials = store.transaction, []

    @asynccontextmanager
    async def flaky() -> AsyncIterator[UnitOfWork]:
        trials.append(len(trials))
        if len(trials) == 1:
            raise StoreError("the disk is full")
        async with real() as work:
            yield work
        if len(trials) == 2:
            raise StoreError("the answer to the commit was lost")

    monkeypatch.setattr(store, "transaction", flaky)
    kept = InboundLog(store, "shop-app")
    kept.start()
    kept.keep(CALL)
    async with asyncio.timeout(LONG):
        while len(trials) < 3:
            await asyncio.sleep(0.02)
    await kept.stop()
    async with store.reading() as work:
        (only,) = (await work.requests.list("shop-app")).items
        assert len(await work.events.list_for(only.id)) == 1
