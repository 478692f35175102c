"""Trunks at the Asterisk CLI: what it prints, and what holds for the next call, with the controller and
without it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from telephony.lab import Lab, Phone, answer_and_listen, own_dialplan
from tests.acceptance.callers import Onlooker, number
from tests.acceptance.control import Api, ControllerProcess, Json, api_of, settings_of

pytestmark = pytest.mark.lab

TRUNKS = [
    {"name": "main", "endpoint": "carrier", "channels": 30, "calls_per_second": 50, "burst": 50},
    {"name": "other-b", "endpoint": "carrier-b", "channels": 4},
]

ROOM = """\
[telephony-inbound]
exten => +861088880001,1,Gosub(telephony-overflow,guard,1)
 same => n,NoOp(full=${TELEPHONY_FULL} crowded=${TELEPHONY_CROWDED} lines=${TELEPHONY_LINES})
 same => n,GotoIf($["${TELEPHONY_FULL}" = "1"]?telephony-overflow,plan,1)
 same => n,Answer()
 same => n,Wait(30)
"""
"""A way in that keeps every caller whom the guard lets in, and asks no controller."""


def ops_settings(lab: Lab, folder: Path, **sections: Json) -> Json:
    values = settings_of(lab, folder, trunks=TRUNKS, **sections)
    values["clients"][0]["operator"] = True
    return values


@asynccontextmanager
async def running(lab: Lab, folder: Path, **sections: Json) -> AsyncIterator[tuple[ControllerProcess, Api]]:
    process = ControllerProcess(folder, ops_settings(lab, folder, **sections))
    try:
        await process.start()
        async with api_of(process.url) as api:
            yield process, api
    finally:
        await process.stop()


async def printed(lab: Lab, command: str) -> str:
    """What `asterisk -rx` prints; at a verbose console it says of itself that it ends."""
    return (await lab.pbx.console(command)).replace("Asterisk ending (0).\n", "")


async def shown(lab: Lab, wanted: str, timeout: float = 8.0) -> str:
    """What `telephony trunks` prints, once it is as wanted (a regular expression)."""
    deadline = time.monotonic() + timeout
    while True:
        said = await printed(lab, "telephony trunks")
        if re.search(wanted, said):
            return said
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.1)


async def test_orders_at_the_asterisk_cli(lab: Lab, tmp_path: Path) -> None:
    async with running(lab, tmp_path) as (process, api):
        said = await shown(lab, "other-b")
        lines = [line.split(":", 1) for line in said.splitlines() if line.startswith("/")]
        assert [name.strip() for name, _ in lines] == ["/telephony-trunks/main", "/telephony-trunks/other-b"]
        state = r"0/30 in use \(out 0, in 0, foreign 0\), 50/s, open \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\]"
        assert re.fullmatch(state, lines[0][1].strip()), lines
        assert said.endswith("\n2 results found.\n")

        said = await printed(lab, "telephony limit main=7")
        assert said.strip() == "-- Global variable 'TELEPHONY_SET_LIMIT' set to 'main=7'"
        assert re.search(r"~order +: limit main=7 *\n", await shown(lab, "0/7 in use"))
        assert (await api.get("/v1/trunks/main"))["limit"] == 7

        said = await printed(lab, "telephony drain main,other-b")
        assert said.strip() == "-- Global variable 'TELEPHONY_DRAIN' set to 'main,other-b'"
        assert re.search("main +: 0/7 .* drained: takes no call since", await shown(lab, "other-b.*drained"))
        assert (await api.get("/v1/trunks/other-b"))["state"] == "drained"
        said = await printed(lab, "telephony resume main")
        assert said.strip() == "-- Global variable 'TELEPHONY_RESUME' set to 'main'"
        assert "drained" in await shown(lab, "main +: 0/7 .* open")

        await printed(lab, "telephony limit mian=7")
        await shown(lab, "~order +: refused: limit mian=7: there is no trunk mian")
        await printed(lab, "telephony drain main=7")
        await shown(lab, "~order +: refused: drain main=7: it is written drain NAME")
        assert (await printed(lab, "telephony limit")).startswith("Usage: dialplan set global <name> <value>")
        await printed(lab, "telephony limit main=configured")
        await shown(lab, "main +: 0/30 ")
        orders = [line["order"] for line in process.log_lines("trunk.order")]
        assert orders == [
            "limit main=7",
            "drain main",
            "drain other-b",
            "resume main",
            "limit main=configured",
        ]


async def test_a_limit_holds_for_the_next_call_out(lab: Lab, tmp_path: Path) -> None:
    to = "+8613800001234"
    lab.carrier.subscribe(to, answer_and_listen(listen=0.5))
    async with running(lab, tmp_path) as (_, api):
        await shown(lab, "other-b")
        await printed(lab, "telephony limit main=0,other-b=0")
        # The console prints before anybody has heard of it: a few milliseconds.
        await shown(lab, "main +: 0/0 in use")
        made = await api.verify(to)
        call = f"/v1/calls/{made['call_id']}"
        await asyncio.sleep(2.5)
        assert ((await api.get(call))["status"], lab.carrier.calls) == ("queued", [])
        trunks = (await api.get("/v1/trunks"))["items"]
        assert [(one["state"], one["why"]) for one in trunks] == [("full", "0 of 0 lines in use")] * 2
        # It waits for a line, and has one as soon as it is given.
        await printed(lab, "telephony limit other-b=1")
        ended = await api.until(call, lambda view: view["ended_at"], 20)
        assert [attempt["trunk"] for attempt in ended["attempts"]] == ["other-b"], ended
        # Drained in the middle of a call: that one goes on, no other comes.
        lab.carrier.subscribe(to, answer_and_listen(listen=4.0))
        made = await api.verify(to)
        await api.until(f"/v1/calls/{made['call_id']}", lambda view: view["status"] == "answered", 20)
        await printed(lab, "telephony drain other-b")
        await shown(lab, "other-b +: 1/1 in use .* draining: takes no new call since")
        assert (await api.get("/v1/trunks/other-b"))["in_use"] == 1
        await api.until(f"/v1/calls/{made['call_id']}", lambda view: view["ended_at"], 40)
        await shown(lab, "other-b +: 0/1 in use .* drained: takes no call since")


async def come_in(lab: Lab, seen: Onlooker, first: int, count: int) -> list[str]:
    """So many callers one after the other; returns what the guard said of each."""
    said = []
    for index in range(first, first + count):
        await lab.carrier.place("+861088880001", Phone(), caller=number(index))
        caller = number(index)
        await seen.until(
            lambda caller=caller: bool(seen.of(caller, "Newexten", application="NoOp")),
            5,
            f"{caller} did not come",
        )
        said.append(seen.of(caller, "Newexten", application="NoOp")[0].data)
    return said


async def test_a_limit_holds_for_the_next_call(lab: Lab, tmp_path: Path) -> None:
    """Given at the Asterisk CLI, with the controller and while it is away; it learns of it at its return."""
    async with own_dialplan(lab, ROOM), Onlooker(lab).watching() as seen:
        async with running(lab, tmp_path) as (_, api):
            await shown(lab, "other-b")
            await printed(lab, "telephony limit main=2")
            assert await come_in(lab, seen, 0, 3) == [
                "full= crowded= lines=2",
                "full= crowded=1 lines=2",
                "full=1 crowded=1 lines=2",
            ]
            await shown(lab, "main +: ./2 ")
            assert (await api.get("/v1/trunks/main"))["limit"] == 2
        # Away: nobody hears of it, and the dialplan takes it with the next call.
        await printed(lab, "telephony limit main=3")
        assert await come_in(lab, seen, 10, 2) == ["full= crowded=1 lines=3", "full=1 crowded=1 lines=3"]
        await printed(lab, "telephony drain main")
        assert await come_in(lab, seen, 20, 1) == ["full=1 crowded=1 lines=0"]
        await printed(lab, "telephony resume main")
        assert await come_in(lab, seen, 30, 1) == ["full=1 crowded=1 lines=3"]
        # With no call in between it stands where it was said.
        await printed(lab, "telephony drain other-b")
        async with running(lab, tmp_path) as (_, api):
            await shown(lab, "other-b.*drained")
            trunks = {one["name"]: one for one in (await api.get("/v1/trunks"))["items"]}
            assert (trunks["main"]["limit"], trunks["main"]["state"]) == (3, "open")
            assert trunks["other-b"]["state"] == "drained"
            await api.post("/v1/trunks/main/limit", {"channels": 9})
            await shown(lab, "main +: ./9 ", 2.0)
            assert re.search(
                r"/telephony-limit/main +: 9", await printed(lab, "database show telephony-limit")
            )
        globals_ = await printed(lab, "dialplan show globals")
        assert not re.search(r"TELEPHONY_(DRAIN|RESUME|SET_LIMIT)=.", globals_), globals_
        assert "telephony-asked" not in await printed(lab, "database show")
    refused = [call.final_code for call in lab.carrier.calls if call.final_code not in (None, 200)]
    assert refused.count(503) == 4, refused
