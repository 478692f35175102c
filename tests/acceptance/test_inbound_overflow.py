"""More callers than a trunk has lines: who stands in the tree, and what becomes of the others.

With the controller, and with it away: then the dialplan alone counts, by the limits that stand in AstDB.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from telephony.lab import Lab, Phone, answer_and_listen, busy, own_dialplan
from telephony.lab.ear import hear
from telephony.model.prompt import Phrase, Prompt
from telephony.speech.g711 import from_ulaw
from tests.acceptance import sipp
from tests.acceptance.callers import Onlooker, number
from tests.acceptance.control import Api, ControllerProcess, Json, api_of, settings_of
from tests.acceptance.test_ivr import compiled, edition_of, studio_in
from tests.acceptance.test_trunk_console import printed, shown

pytestmark = pytest.mark.lab

LINE, PARTNER = "+861088880001", "+8613800009999"

LOBBY = """\
version: 1
name: lobby
languages: [en]
voice: {brand: Acme}
start: main
agent: person
max_seconds: 900
nodes:
  main:
    type: menu
    prompt: {en: "Welcome to Acme, the house of long greetings. For an agent press 1."}
    short: {en: "Press 1."}
    timeout: 60
    max_timeouts: 9
    keys: {"1": {label: Agent, to: person}}
  person: {type: transfer, extension: "9110", context: safety, next: hangup}
"""
"""Whoever presses nothing stands here for minutes."""

CALL_ME = """\
version: 1
name: call-me
languages: [en]
voice: {brand: Acme}
start: offer
max_seconds: 60
nodes:
  offer: {type: callback, queue: support, next: bye}
  bye: {type: hangup, prompt: {en: "We will call you back."}, result: booked}
"""

OWN = f"""\
[globals](+)
TELEPHONY_TREE_{LINE[1:]}=lobby
[agents]
exten => overload,1,Answer()
 same => n,Wait(1)
 same => n,Hangup()
"""


PLAN = ("extension:nowhere:overload", "say:beep", "busy")


def overflow_settings(lab: Lab, folder: Path, limit: int, plan: Sequence[str]) -> Json:
    trees = folder / "trees"
    trees.mkdir(exist_ok=True)
    (trees / "lobby.yaml").write_text(LOBBY)
    (trees / "call-me.yaml").write_text(CALL_ME)
    values = settings_of(
        lab,
        folder,
        trunks=[
            {"name": "main", "endpoint": "carrier", "channels": limit},
            {"name": "partner", "endpoint": "carrier-b", "channels": 4, "number_format": "00"},
        ],
        ivr={"folder": str(trees)},
        overflow={"inbound": plan},
    )
    values["clients"][0]["operator"] = True
    return values


@asynccontextmanager
async def running(
    lab: Lab, folder: Path, limit: int, plan: Sequence[str] = ("busy",)
) -> AsyncIterator[tuple[ControllerProcess, Api]]:
    process = ControllerProcess(folder, overflow_settings(lab, folder, limit, plan))
    try:
        await process.start()
        async with api_of(process.url) as api:
            await shown(lab, rf"main +: \d+/{limit} ")
            yield process, api
    finally:
        await process.stop()


async def in_use(api: Api) -> dict[str, tuple[int, int]]:
    """Calls of each trunk: all, and those that came in."""
    trunks = (await api.get("/v1/trunks"))["items"]
    return {one["name"]: (one["in_use"], one["inbound"]) for one in trunks}


async def until_in_use(api: Api, wanted: dict[str, tuple[int, int]], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while (seen := await in_use(api)) != wanted:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.1)


async def standing(lab: Lab, context: str) -> int:
    """Channels that are up in a context."""
    lines = (await printed(lab, "core show channels concise")).splitlines()
    return sum(line.split("!")[1] == context and line.split("!")[4] == "Up" for line in lines if "!" in line)


async def counted(lab: Lab) -> int:
    """Channels that the dialplan counts on the trunks."""
    found = re.search(r"(\d+) active channel", await printed(lab, "group show channels"))
    assert found is not None
    return int(found[1])


async def test_each_step_of_the_plan(lab: Lab, tmp_path: Path) -> None:
    """What a step can't do is left to the next; the carrier is told the cause."""
    lab.carrier.subscribe("008613800009999", busy())
    async with (
        own_dialplan(lab, OWN),
        Onlooker(lab).watching() as seen,
        running(lab, tmp_path, 0, PLAN) as (_, api),
    ):
        people = iter(range(100))

        async def steps(plan: str) -> tuple[list[str], int | None]:
            if plan:
                await printed(lab, f'database put telephony-overflow plan "{plan}"')
            caller = number(next(people))
            call = await lab.carrier.place(LINE, Phone(), caller=caller)
            await call.wait_ended(30)
            # What the onlooker is told last of a caller.
            await seen.until(lambda: bool(seen.of(caller, "Hangup")), 5, f"{caller} did not go")
            walked = [
                step.extension.removeprefix("step.")
                for step in seen.of(caller, "Newexten", context="telephony-overflow")
                if step.extension.startswith("step.")
            ]
            return list(dict.fromkeys(walked)), call.final_code

        # The configured one: there is no such extension, so it is said, and the line is busy.
        assert await steps("") == (["extension", "say", "busy"], 486)
        assert await steps("congestion") == (["congestion"], 503)
        assert await steps("nonsense,busy") == (["busy"], 486)
        assert await steps("say") == (["say", "congestion"], 503)
        assert await steps("extension:agents:overload,busy") == (["extension"], 200)
        # A partner's number by the other trunk: busy, then there.
        partner = "number:008613800009999:carrier-b:5"
        assert await steps(f"{partner},busy") == (["number", "busy"], 486)
        lab.carrier.subscribe("008613800009999", answer_and_listen(listen=1.0))
        assert await steps(f"{partner},busy") == (["number"], 200)
        assert [call.number for call in lab.carrier.calls if not call.placed] == ["008613800009999"] * 2
        # That one is full: nobody rings there.
        await api.post("/v1/trunks/partner/limit", {"channels": 0})
        await shown(lab, "partner +: 0/0 ")
        assert await steps(f"{partner},busy") == (["number", "busy"], 486)
        # A call-back is offered by a tree; nobody keeps a list yet, and the tree says so.
        assert await steps("tree:call-me,busy") == (["tree", "busy"], 200)
        assert await steps("tree:gone,busy") == (["tree", "busy"], 486)
        recording = next(call.heard for call in reversed(lab.carrier.calls) if call.heard is not None)
        clips = {}
        async with studio_in(tmp_path) as studio:
            for key in ("ivr.unavailable", "common.apology"):
                media = await studio.compose(Prompt((Phrase(key),)), "en")
                clips[key] = from_ulaw(Path(f"{media.name}.ulaw").read_bytes()).tobytes()
        heard = [one.label for one in await asyncio.to_thread(hear, recording, clips)]
        assert heard == ["ivr.unavailable"]
        await until_in_use(api, {"main": (0, 0), "partner": (0, 0)})
    assert await counted(lab) == 0


async def too_many(lab: Lab, folder: Path, limit: int, people: int, *, by_sipp: bool = False) -> str:
    """More callers than lines, with the controller, and again without it; returns the figures."""
    told = []
    async with AsyncExitStack() as stack:
        async with running(lab, folder, limit):
            plan = await compiled(folder, edition_of(folder / "trees"), "lobby")
        await stack.enter_async_context(own_dialplan(lab, OWN + plan))
        seen = await stack.enter_async_context(Onlooker(lab).watching())
        for away in (False, True):
            seen.steps.clear()
            async with AsyncExitStack() as there:
                api = None
                if not away:
                    process, api = await there.enter_async_context(running(lab, folder, limit))
                told.append(await one_crowd(lab, folder, seen, limit, people, api, by_sipp=by_sipp))
                if not away:
                    # Slots are taken and given back with their calls: next to nothing was to be mended.
                    mended = process.log_lines("trunks.mended")
                    assert sum(line["added"] + line["freed"] for line in mended) < limit // 3, mended
        async with running(lab, folder, limit) as (_, api):
            await until_in_use(api, {"main": (0, 0), "partner": (0, 0)})
    return "; ".join(told)


async def one_crowd(
    lab: Lab, folder: Path, seen: Onlooker, limit: int, people: int, api: Api | None, *, by_sipp: bool
) -> str:
    context = "telephony-ivr-lobby" if api is None else "telephony-tree"
    name = "away" if api is None else "there"
    began = time.monotonic()
    crowd, calls = None, []
    if by_sipp:
        crowd = await sipp.crowd(lab, folder / f"sipp-{name}", LINE, people)
    else:
        placed = (lab.carrier.place(LINE, Phone(), caller=number(index)) for index in range(people))
        calls = await asyncio.gather(*placed)

    def refused() -> list[str]:
        return [
            caller
            for caller in list(seen.steps)
            if seen.of(caller, "Newexten", context="telephony-overflow", extension="step.busy")
        ]

    try:
        await seen.until(lambda: len(refused()) >= people - limit, 60, "not so many were refused")
        deadline = time.monotonic() + 30
        while await standing(lab, context) < limit:
            assert time.monotonic() < deadline, await standing(lab, context)
            await asyncio.sleep(0.2)
        took = time.monotonic() - began
        # They stay, and nobody is let in or sent away any more.
        await asyncio.sleep(2.0)
        assert await standing(lab, context) == limit
        assert await counted(lab) == limit
        assert len(refused()) == people - limit
        crowded = sum(
            bool(seen.of(caller, "VarSet", application="TELEPHONY_CROWDED", data="1"))
            for caller in seen.steps
        )
        # From nine tenths of the lines on callers hear less, and whoever is above too.
        assert crowded == people - limit * 9 // 10, crowded
        if api is not None:
            await until_in_use(api, {"main": (limit, limit), "partner": (0, 0)})
            assert (await api.get("/v1/trunks/main"))["state"] == "full"
            asked = [
                step.data
                for caller in list(seen.steps)
                for step in seen.of(caller, "Newexten", context="telephony-tree", application="AGI")
            ]
            assert sum("crowded=1" in data for data in asked) == limit - limit * 9 // 10
        if by_sipp:
            await with_sound(lab, limit)
    finally:
        if crowd is None:
            await lab.carrier.asterisk.console("channel request hangup all")
    if crowd is not None:
        try:
            assert await crowd.ended(sipp.HOLD_SECONDS + 60) == (limit, people - limit)
        finally:
            await crowd.stop()
    for call in calls:
        await call.wait_ended()
    if calls:
        assert sorted(call.final_code or 0 for call in calls) == [200] * limit + [486] * (people - limit)
    if api is not None:
        await until_in_use(api, {"main": (0, 0), "partner": (0, 0)})
    deadline = time.monotonic() + 10
    while await counted(lab) or await standing(lab, context):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    return f"controller {name}: {limit} stood, {people - limit} were told 486, all after {took:.1f} s"


async def with_sound(lab: Lab, people: int) -> None:
    """Each of them sends sound: the PBX has counted their packets."""
    lines = (await printed(lab, "pjsip show channelstats")).splitlines()
    received = [
        int(found[1])
        for line in lines
        if (found := re.search(r"\d\d:\d\d:\d\d\s+\S+\s+(\d+)\s", line)) is not None
    ]
    assert len(received) == people, lines[:5]
    assert min(received) > 50, sorted(received)[:5]


async def test_fifteen_lines_and_twenty_callers(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("told", await too_many(lab, tmp_path, 15, 20))


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_hundred_and_fifty_lines_and_two_hundred_callers(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """With SIPp and its RTP where it is installed (`apt-get install sip-tester`), else by the carrier."""
    by_sipp = sipp.installed()
    told = await too_many(lab, tmp_path, 150, 200, by_sipp=by_sipp)
    record_property("told", f"{told}, {'SIPp with RTP' if by_sipp else 'by the carrier'}")
