"""The board on a PBX in memory: what is written there, and which orders are carried out when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest
import pytest_asyncio

from telephony.pbx.memory import MemoryNotes, MemoryPbx
from telephony.store import Store
from telephony.trunks import board as board_module
from telephony.trunks.board import TrunkBoard
from telephony.trunks.dialect import Trunk
from telephony.trunks.orders import Ask, read_orders

TRUNKS = (Trunk("main", "carrier", channels=30), Trunk("more", "carrier"), Trunk("no board", "carrier-b"))


@dataclass
class Rig:
    store: Store
    board: TrunkBoard
    notes: MemoryNotes
    pbx: MemoryPbx

    def say(self, ask: Ask, text: str, *, heard: bool = True) -> None:
        """At the PBX's console; without `heard` nobody tells us."""
        self.notes.variables[ask.value] = text
        if heard:
            self.board.heard(ask.value, text)

    async def until(self, wanted: Mapping[tuple[str, str], str]) -> None:
        deadline = time.monotonic() + 5
        while any(self.notes.values.get(key) != value for key, value in wanted.items()):
            assert time.monotonic() < deadline, self.notes.values
            await asyncio.sleep(0.01)

    async def limit(self) -> int | None:
        async with self.store.reading() as work:
            return (await work.trunks.all())["main"].limit


@pytest_asyncio.fixture
async def rig(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(board_module, "LOOK_SECONDS", 0.2)
    made = Rig(store, TrunkBoard(store, TRUNKS, plan="busy", crowded_at=0.8), MemoryNotes(), MemoryPbx())
    yield made
    await made.board.stop()


async def begin(rig: Rig) -> None:
    await rig.pbx.start()
    await rig.board.start(cast("Any", rig.pbx), rig.notes)


async def test_what_stands_on_it(rig: Rig) -> None:
    rig.notes.values |= {
        ("telephony-limit", "gone"): "3",
        ("telephony-trunk", "old"): "gone",
        ("telephony-limit", "main"): "99",
    }
    await begin(rig)
    await rig.until(
        {
            ("telephony-trunk", "carrier"): "main,more",
            ("telephony-limit", "main"): "30",
            ("telephony-limit", "more"): "",
            ("telephony-drained", "main"): "0",
            ("telephony-overflow", "plan"): "busy",
            ("telephony-overflow", "crowded"): "80",
        }
    )
    assert rig.notes.values[("telephony-trunks", "main")].startswith(
        "0/30 in use (out 0, in 0, foreign 0), open ["
    )
    families = {(family, key) for family, key in rig.notes.values}
    assert not {key for _, key in families} & {"gone", "old", "no board"}
    # Nothing changed: nothing is written.
    written = rig.notes.writes
    await asyncio.sleep(0.6)
    assert rig.notes.writes == written


async def test_orders_that_are_heard(rig: Rig) -> None:
    await begin(rig)
    await rig.until({("telephony-limit", "main"): "30"})
    rig.say(Ask.LIMIT, "main=7")
    await rig.until({("telephony-limit", "main"): "7", ("telephony-trunks", "~order"): "limit main=7"})
    rig.say(Ask.DRAIN, "main,more")
    await rig.until({("telephony-drained", "main"): "1", ("telephony-drained", "more"): "1"})
    rig.say(Ask.RESUME, "more")
    await rig.until({("telephony-drained", "more"): "0"})
    rig.say(Ask.LIMIT, "main=configured")
    await rig.until({("telephony-limit", "main"): "30"})
    await asyncio.sleep(0.1)
    assert not any(rig.notes.variables.values())
    async with rig.store.reading() as work:
        records = await work.trunks.all()
    assert (records["main"].drained_at is not None, records["more"].drained_at) == (True, None)


async def test_an_order_stands_in_its_global_until_it_is_on_the_board(rig: Rig) -> None:
    await begin(rig)
    await rig.until({("telephony-limit", "main"): "30"})
    rig.notes.deaf = True
    rig.say(Ask.LIMIT, "main=7")
    await asyncio.sleep(0.3)
    assert await rig.limit() == 7
    assert rig.notes.variables[Ask.LIMIT.value] == "main=7"
    rig.notes.deaf = False
    await rig.until({("telephony-limit", "main"): "7"})
    await asyncio.sleep(0.1)
    assert rig.notes.variables[Ask.LIMIT.value] == ""


async def test_orders_that_nobody_told_of(rig: Rig) -> None:
    """A global that was set while we were away, and what the dialplan took by itself."""
    rig.say(Ask.DRAIN, "more", heard=False)
    rig.notes.values |= {
        ("telephony-asked-limit", "main"): "5",
        ("telephony-asked-drain", "main"): "1",
        ("telephony-limit", "main"): "5",
    }
    await begin(rig)
    await rig.until(
        {
            ("telephony-limit", "main"): "5",
            ("telephony-drained", "main"): "1",
            ("telephony-drained", "more"): "1",
        }
    )
    assert await rig.limit() == 5
    assert not [key for family, key in rig.notes.values if family.startswith("telephony-asked")]
    rig.say(Ask.RESUME, "main", heard=False)
    await rig.until({("telephony-drained", "main"): "0"})


@pytest.mark.parametrize(
    ("ask", "text", "told"),
    [
        (Ask.LIMIT, "mian=7", "refused: limit mian=7: there is no trunk mian"),
        (Ask.LIMIT, "main", "refused: limit main: it is written limit NAME=N"),
        (Ask.LIMIT, "main=-1", "refused: limit main=-1: N is a number from 0 to 10000, or configured"),
        (Ask.LIMIT, "main=10001", "refused: limit main=10001: N is a number from 0 to 10000, or configured"),
        (
            Ask.LIMIT,
            "main=3,x=y",
            "limit main=3; refused: limit x=y: N is a number from 0 to 10000, or configured",
        ),
        (Ask.DRAIN, "no board", "refused: drain no board: it is written drain NAME"),
        (Ask.RESUME, "main", "resume main (as before)"),
    ],
)
async def test_the_answer_to_an_order(rig: Rig, ask: Ask, text: str, told: str) -> None:
    await begin(rig)
    rig.say(ask, text)
    await rig.until({("telephony-trunks", "~order"): told})


async def test_a_change_by_another_way_is_written_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "LOOK_SECONDS", 60.0)
    await begin(rig)
    await rig.until({("telephony-limit", "main"): "30"})
    async with rig.store.transaction() as work:
        await work.slots.limit("main", 4)
    rig.board.changed()
    await rig.until({("telephony-limit", "main"): "4"})


def test_what_is_heard_of_others() -> None:
    board = TrunkBoard(cast("Any", None), TRUNKS)
    for variable, value in (("TELEPHONY_AGI", "x"), ("TELEPHONY_DRAIN", ""), ("DB_RESULT", "1")):
        board.heard(variable, value)
    assert board._orders.empty()


def test_orders_are_read() -> None:
    assert [str(one) for one in read_orders(Ask.LIMIT, "a=1, b-2.c=configured")] == [
        "limit a=1",
        "limit b-2.c=configured",
    ]
