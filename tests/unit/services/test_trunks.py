"""Trunks as operators see and change them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from telephony.errors import InputError, NotFound, NotPermitted
from telephony.model.client import Client
from telephony.model.trunk import SlotKind, TrunkCondition
from telephony.services.trunks import TrunkDesk
from telephony.store import Store
from telephony.trunks.dialect import Trunk

TRUNKS = (Trunk("main", "carrier", channels=3), Trunk("b", "carrier-b", calls_per_second=2.0, burst=4))
OPERATOR = Client("ops", "Acme", operator=True)
SHOP = replace(OPERATOR, name="shop", operator=False)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite:///{tmp_path}/telephony.db", owner="node")
    async with opened.transaction() as work:
        for trunk in TRUNKS:
            await work.slots.ensure(trunk.name, trunk.channels)
        # One of an earlier configuration.
        await work.slots.ensure("gone", 1)
    yield opened
    await opened.close()


async def test_they_are_counted_by_kind(store: Store) -> None:
    kinds = [SlotKind.ATTEMPT, SlotKind.INBOUND, SlotKind.INBOUND, SlotKind.FOREIGN]
    async with store.transaction() as work:
        for number, kind in enumerate(kinds):
            await work.slots.admit("main", f"h{number}", kind=kind, owner="node", lease_until=2**50)
    main, other = await TrunkDesk(store, TRUNKS, lambda: None).list()
    assert (main.in_use, main.outbound, main.inbound, main.foreign, main.above) == (4, 1, 2, 1, 1)
    assert (main.state, main.why, main.limit) == (TrunkCondition.FULL, "4 of 3 lines in use", 3)
    assert (other.state, other.in_use, other.limit, other.calls_per_second) == (
        TrunkCondition.OPEN,
        0,
        None,
        2.0,
    )


async def test_orders(store: Store) -> None:
    changes: list[None] = []
    desk = TrunkDesk(store, TRUNKS, lambda: changes.append(None))
    drained = await desk.drain(OPERATOR, "main")
    assert (drained.state, drained.drained_at is not None) == (TrunkCondition.DRAINED, True)
    again = await desk.drain(OPERATOR, "main")
    assert (again.drained_at, len(changes)) == (drained.drained_at, 1)
    assert (await desk.resume(OPERATOR, "main")).state is TrunkCondition.OPEN
    limited = await desk.limit(OPERATOR, "main", 0)
    assert (limited.limit, limited.configured, limited.state) == (0, 3, TrunkCondition.FULL)
    assert (await desk.limit(OPERATOR, "main", None)).limit == 3
    assert len(changes) == 4


@pytest.mark.parametrize("name", ["gone", "mian"])
async def test_only_what_is_configured(store: Store, name: str) -> None:
    desk = TrunkDesk(store, TRUNKS, lambda: None)
    with pytest.raises(NotFound):
        await desk.get(name)
    with pytest.raises(NotFound):
        await desk.drain(OPERATOR, name)


async def test_who_may(store: Store) -> None:
    desk = TrunkDesk(store, TRUNKS, lambda: None)
    for order in (desk.drain(SHOP, "main"), desk.resume(SHOP, "main"), desk.limit(SHOP, "main", 1)):
        with pytest.raises(NotPermitted):
            await order
    assert (await desk.get("main")).limit == 3
    with pytest.raises(InputError):
        await desk.limit(OPERATOR, "main", 10_001)
