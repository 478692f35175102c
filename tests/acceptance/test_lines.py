"""Lines of trunks on real carriers: how many calls stand, which trunk takes one, and who waits for it.

The carrier's own count is the judge of how many stand; what the controller holds is compared with the
channels that its PBX has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from telephony.app import Controller
from telephony.lab import CarrierCall, Lab
from tests.acceptance.control import Api, Json, api_of
from tests.acceptance.databases import postgres, sqlite
from tests.acceptance.load import receiver
from tests.acceptance.test_outcomes import no_channels
from tests.acceptance.test_payments import Shop, pay, shop_and_controller
from tests.acceptance.test_two_controllers import controller
from tests.store_engines import PostgresServer

pytestmark = pytest.mark.lab

A = {"name": "A", "endpoint": "carrier", "channels": 5, "cost": 0.02, "prefixes": ["+86"]}
B = {"name": "B", "endpoint": "carrier-b", "channels": 3, "cost": 0.04, "prefixes": ["+86"]}
SOON = {"saturated_at": 0.9, "recovered_at": 0.5, "seconds": 1}
"""Saturation, as fast as the configuration lets it be told."""


@dataclass
class Phones:
    """Phones that ring until they are let go, and then are busy; and how many stood at once at most."""

    lab: Lab
    most: dict[str, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    rang: list[str] = field(default_factory=list)
    _gates: dict[str, asyncio.Event] = field(default_factory=dict)

    async def script(self, call: CarrierCall) -> None:
        await call.ring()
        self.rang.append(call.number)
        await self._gates.setdefault(call.number, asyncio.Event()).wait()
        await call.busy()

    def let_go(self, number: str) -> None:
        self._gates.setdefault(number, asyncio.Event()).set()

    async def ring(self, count: int, seconds: float = 10.0) -> None:
        """Wait until so many have rung, all in all."""
        async with asyncio.timeout(seconds):
            while len(self.rang) < count:
                await asyncio.sleep(0.01)

    async def count(self) -> None:
        """The carrier's own count, again and again."""
        while True:
            for trunk in self.most:
                self.most[trunk] = max(self.most[trunk], self.lab.carrier.standing(trunk))
            await asyncio.sleep(0.002)


@asynccontextmanager
async def phones_and_controller(
    lab: Lab, folder: Path, **sections: Any
) -> AsyncIterator[tuple[Phones, Shop, Api, Controller]]:
    phones = Phones(lab)
    lab.carrier.default = phones.script
    async with shop_and_controller(lab, folder, **sections) as (shop, api, controller):
        counting = asyncio.create_task(phones.count())
        try:
            yield phones, shop, api, controller
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
            for call in lab.carrier.calls:
                phones.let_go(call.number)


def reason(call: Json) -> str:
    return str(call["attempts"][0]["trunk_reason"])


async def told_of_trunks(shop: Shop, count: int, seconds: float = 10.0) -> list[tuple[str, str]]:
    """The next so many webhooks about trunks: type and trunk; others are passed over."""
    told: list[tuple[str, str]] = []
    async with asyncio.timeout(seconds):
        while len(told) < count:
            event = await shop.told.get()
            if event["type"].startswith("trunk."):
                told.append((event["type"], event["data"]["id"]))
    return told


async def test_two_trunks_are_filled_and_whoever_finds_them_full_goes_in_his_turn(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Twelve at once for eight lines: the code that came last goes first, the others as they came."""
    lab.carrier.capacity(5, trunk="a")
    lab.carrier.capacity(3, trunk="b")
    numbers = [f"+861380005{index:04d}" for index in range(12)]
    async with phones_and_controller(lab, tmp_path, trunks=[A, B], overflow=SOON) as (phones, shop, api, _):
        paying = [asyncio.create_task(pay(api, to=number)) for number in numbers[:11]]
        await asyncio.sleep(0)
        asked = [*(await asyncio.gather(*paying)), await api.verify(numbers[11])]
        await phones.ring(8)
        assert (lab.carrier.standing("a"), lab.carrier.standing("b")) == (5, 3)
        assert sorted(await told_of_trunks(shop, 2)) == [("trunk.saturated", "A"), ("trunk.saturated", "B")]
        calls = [await api.get(f"/v1/calls/{one['call_id']}") for one in asked]
        reasons = sorted(reason(call) for call in calls if call["attempts"])
        assert reasons[:5] == ["A chosen: prefix +86, cost 0.02"] * 5
        assert reasons[5:] == ["trunk A full 5/5, B chosen: prefix +86, cost 0.04"] * 3
        waiting = [call for call in calls if not call["attempts"]]
        assert [call["status"] for call in waiting] == ["queued"] * 4
        waiting.sort(key=lambda call: (call["class"] != "otp", call["created_at"]))
        assert waiting[0]["to"] == numbers[11]
        freed = []
        for index, call in enumerate(waiting):
            ended_on = lab.carrier.calls_to(phones.rang[index])[0].trunk
            began = time.monotonic()
            phones.let_go(phones.rang[index])
            await phones.ring(9 + index)
            freed.append(time.monotonic() - began)
            assert phones.rang[-1] == call["to"], "in their turn"
            assert lab.carrier.calls_to(call["to"])[0].trunk == ended_on, "on the line that was freed"
        for number in phones.rang:
            phones.let_go(number)
        ended = [await api.call_ended(one) for one in asked]
        assert {call["status"] for call in ended} == {"busy"}
        assert {len(call["attempts"]) for call in ended} == {1}
        late = [call for call in ended if call["id"] in {one["id"] for one in waiting}]
        assert all("waited" in reason(call) for call in late), [reason(call) for call in late]
        assert phones.most == {"a": 5, "b": 3}
        assert not [call for call in lab.carrier.calls if call.refused_full]
        assert sorted(await told_of_trunks(shop, 2)) == [("trunk.recovered", "A"), ("trunk.recovered", "B")]
        await no_channels(lab)
    sqlite(tmp_path).nothing_is_left()
    record_property("told", f"from a freed line to the next ring {max(freed):.3f} s at most")


async def test_a_trunk_that_fails_is_left_alone_and_probed(lab: Lab, tmp_path: Path) -> None:
    """Two 503s open its breaker; after the pause one call probes it, and it is used again."""
    breaker = {"failures": 2, "pause": 2}
    broken = True
    async with phones_and_controller(lab, tmp_path, trunks=[A, B], breaker=breaker) as (phones, _, api, made):

        async def network(call: CarrierCall) -> None:
            await (call.reject(503) if broken and call.trunk == "a" else phones.script(call))

        async def next_call(place: int) -> Json:
            number = f"+861380006{place:04d}"
            asked = await api.verify(number)
            await phones.ring(place)
            phones.let_go(number)
            return await api.call_ended(asked)

        lab.carrier.default = network
        for place in (1, 2):
            call = await next_call(place)
            assert [one["trunk"] for one in call["attempts"]] == ["A", "B"]
        opened = time.monotonic()
        assert reason(await next_call(3)) == (
            "trunk A out of order (503: 2 failures within 30 s), B chosen: prefix +86, cost 0.04"
        )
        broken = False
        await asyncio.sleep(max(0.0, opened + 2.1 - time.monotonic()))
        assert reason(await next_call(4)) == "A chosen: prefix +86, cost 0.02, to probe it"
        assert reason(await next_call(5)) == "A chosen: prefix +86, cost 0.02"
        async with made.store.transaction() as work:
            await work.trunks.drain("A", 1)
        assert reason(await next_call(6)) == "trunk A drained, B chosen: prefix +86, cost 0.04"
    assert len(lab.carrier.calls) == 8
    sqlite(tmp_path).nothing_is_left()


async def test_a_call_that_is_not_ours_takes_a_line_too(lab: Lab, tmp_path: Path) -> None:
    """Somebody else dials out over the trunk: its one line is taken, and free again when he has hung up."""
    stranger, number = "+8613800070001", "+8613800070002"
    single = {**A, "channels": 1}
    async with phones_and_controller(lab, tmp_path, trunks=[single, B]) as (phones, _, api, made):

        async def taken(lines: int) -> None:
            async with asyncio.timeout(7):
                while True:
                    async with made.store.reading() as work:
                        if (await work.slots.in_use())["A"].foreign == lines:
                            return
                    await asyncio.sleep(0.05)

        await lab.pbx.console(f"channel originate PJSIP/{stranger}@carrier application Wait 30")
        await phones.ring(1)
        await taken(1)
        asked = await api.verify(number)
        await phones.ring(2)
        phones.let_go(number)
        assert reason(await api.call_ended(asked)) == ("trunk A full 1/1, B chosen: prefix +86, cost 0.04")
        phones.let_go(stranger)
        await taken(0)
    database = sqlite(tmp_path)
    database.nothing_is_left()
    assert database.value("SELECT count(*) FROM event WHERE kind = 'trunk.mended'") == "2"


async def test_a_hundred_for_thirty_lines_from_two_controllers(
    lab: Lab,
    tmp_path: Path,
    postgres_server: PostgresServer,
    record_property: Callable[[str, object], None],
) -> None:
    """Half of them asked of each controller at once: thirty stand, never thirty-one, and all are served."""
    database = postgres(postgres_server)
    trunks = [{"name": "main", "endpoint": "carrier", "channels": 30, "ring_timeout": 30}]
    most = 0

    async def rings_a_while(call: CarrierCall) -> None:
        nonlocal most
        most = max(most, lab.carrier.standing())
        await call.ring()
        await call.busy(after=1.5)

    lab.carrier.default = rings_a_while
    async with receiver() as told:
        pair = [controller(lab, tmp_path, name, database, told, trunks=trunks) for name in ("one", "two")]
        try:
            for process in pair:
                await process.start()
            async with api_of(pair[0].url) as one, api_of(pair[1].url) as two:
                turns = [one if place % 2 else two for place in range(100)]
                began = time.monotonic()
                asked = await asyncio.gather(
                    *(
                        api.verify(f"+861380007{place:04d}", code="1234567890", dial_within=120)
                        for place, api in enumerate(turns)
                    )
                )
                calls = await asyncio.gather(
                    *(api.call_ended(view, 90) for api, view in zip(turns, asked, strict=True))
                )
                took = time.monotonic() - began
            assert {call["status"] for call in calls} == {"busy"}
            assert len(lab.carrier.calls) == 100
            assert most == 30
            owners = database.value("SELECT count(DISTINCT owner) FROM attempt")
            assert owners == "2"
            assert database.value("SELECT count(*) FROM slot WHERE holder IS NOT NULL") == "0"
            assert not [line for one in pair for line in one.log_lines("trunks.mended")]
        finally:
            for process in pair:
                await process.stop()
    record_property("told", f"{most} at most, a hundred served in {took:.1f} s")
