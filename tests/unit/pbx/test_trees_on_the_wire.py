"""A tree on the wire: how long the PBX is told to wait for us, and which sessions need no nonce."""

from __future__ import annotations

import asyncio

import pytest

from telephony.errors import CallEnded
from telephony.model.media import Media
from telephony.net.ami import AmiConfig
from telephony.pbx.asterisk import AsteriskConfig, AsteriskPbx
from telephony.pbx.port import CallSession, NotBefore
from tests.unit.pbx.test_machines import LONG, Asterisk, session


async def test_each_step_of_a_question_has_a_limit_of_its_own() -> None:
    async with session("") as (asterisk, one):
        asking = asyncio.create_task(
            one.gather(Media("/s/a", 8.0), max_digits=2, timeout=5.0, terminator="#", guarded=True)
        )
        said = []
        for reply in ("1", "49", "1", "0"):
            said.append(await asterisk.command())
            asterisk.say(f"200 result={reply}\n")
        assert (await asyncio.wait_for(asking, LONG)).digits == "1"
        assert said == [
            "SET VARIABLE TIMEOUT(absolute) 15.5",
            "GET OPTION /s/a 0123456789*# 5000",
            "SET VARIABLE TIMEOUT(absolute) 4.5",
            "WAIT FOR DIGIT 2000",
        ]


@pytest.mark.parametrize(
    ("query", "linked", "first"),
    [
        ("TELEPHONY_PATIENCE=3", True, "ANSWER"),
        ("TELEPHONY_PATIENCE=3", False, "SET VARIABLE TIMEOUT(absolute) 10.5"),
        ("TELEPHONY_PATIENCE=20", True, "SET VARIABLE TIMEOUT(absolute) 10.5"),
        ("TELEPHONY_PATIENCE=1", True, "SET VARIABLE TIMEOUT(absolute) 10.5"),
        ("TELEPHONY_PATIENCE=", True, "SET VARIABLE TIMEOUT(absolute) 10.5"),
        ("", True, "SET VARIABLE TIMEOUT(absolute) 10.5"),
    ],
)
async def test_the_dialplan_s_own_limit_is_the_first_where_it_can_be_moved_on(
    query: str, linked: bool, first: str
) -> None:
    async def move(seconds: float) -> None:
        raise AssertionError("not yet")

    async with session(query, move, linked=linked) as (asterisk, one):

        async def begin() -> None:
            await one.guard(8.0)
            await one.answer()

        begun = asyncio.create_task(begin())
        assert await asterisk.command() == first
        begun.cancel()


async def test_a_hangup_in_a_wait_is_no_silence() -> None:
    async with session("") as (asterisk, one):
        asking = asyncio.create_task(one.gather(Media("/s/a", 8.0), max_digits=1, timeout=5.0))
        assert (await asterisk.command()).startswith("GET OPTION")
        asterisk.say("200 result=0 endpos=64000\n")
        assert await asterisk.command() == "NOOP"
        asterisk.say("HANGUP\n200 result=0\n")
        with pytest.raises(CallEnded):
            await asyncio.wait_for(asking, LONG)


async def test_results_are_handed_back_in_one_command_where_they_mean_nothing_to_the_pbx() -> None:
    values = {"A": "x y", "B": "zh-CN", "C": "${SECRET}", "D": "1,E=2", "F": ""}
    async with session("") as (asterisk, one):
        one.hand_back(values)
        setting = asyncio.create_task(one.hangup())
        said = []
        for _ in range(4):
            said.append(await asterisk.command())
            asterisk.say("200 result=1\n")
        await asyncio.wait_for(setting, LONG)
        assert said[3] == 'EXEC MSet "A=x y,B=zh-CN,TIMEOUT(absolute)=0,TELEPHONY_DONE=1"'
        assert said[:3] == [
            "SET VARIABLE C ${SECRET}",
            "SET VARIABLE D 1,E=2",
            'SET VARIABLE F ""',
        ]


async def test_keys_pressed_while_something_is_waited_for_are_kept() -> None:
    loop = asyncio.get_running_loop()
    async with session("") as (asterisk, one):
        asked: asyncio.Future[str] = loop.create_future()
        holding = asyncio.create_task(one.hold(Media("/s/silence", 5.0), asked))
        assert await asterisk.command() == "STREAM FILE /s/silence 0123456789*#"
        asterisk.say("200 result=52 endpos=800\n")
        assert await asterisk.command() == "STREAM FILE /s/silence 0123456789*#"
        asked.set_result("told")
        # Asterisk does not answer a playback that another command ends.
        assert await asterisk.command() == "NOOP"
        asterisk.say("200 result=0\n")
        assert await asyncio.wait_for(holding, LONG) == "4"


async def test_a_key_that_comes_as_the_wait_ends_is_kept() -> None:
    loop = asyncio.get_running_loop()
    async with session("") as (asterisk, one):
        asked: asyncio.Future[str] = loop.create_future()
        holding = asyncio.create_task(one.hold(Media("/s/silence", 5.0), asked))
        assert (await asterisk.command()).startswith("STREAM")
        asked.set_result("told")
        assert await asterisk.command() == "NOOP"
        asterisk.say("200 result=55 endpos=800\n")
        assert await asyncio.wait_for(holding, LONG) == "7"
        answering = asyncio.create_task(one.answer())
        asterisk.say("200 result=0\n")
        assert await asterisk.command() == "ANSWER"
        asterisk.say("200 result=0\n")
        await asyncio.wait_for(answering, LONG)


async def test_a_wait_ends_though_its_end_lay_unseen() -> None:
    """Asterisk read the first NOOP together with the command; the next one makes it look again."""
    loop = asyncio.get_running_loop()
    async with session("") as (asterisk, one):
        asked: asyncio.Future[str] = loop.create_future()
        holding = asyncio.create_task(one.hold(Media("/s/silence", 5.0), asked))
        assert (await asterisk.command()).startswith("STREAM")
        asked.set_result("told")
        assert [await asterisk.command(), await asterisk.command()] == ["NOOP", "NOOP"]
        asterisk.say("200 result=0\n200 result=0\n")
        assert await asyncio.wait_for(holding, LONG) == ""
        answering = asyncio.create_task(one.answer())
        assert await asterisk.command() == "ANSWER"
        asterisk.say("200 result=0\n")
        await asyncio.wait_for(answering, LONG)


async def test_a_key_that_comes_too_early_leads_on_and_counts_later() -> None:
    async with session("") as (asterisk, one):
        amount = NotBefore("1", 6.0, then=4.0)
        asking = asyncio.create_task(
            one.gather(Media("/s/a", 8.0), max_digits=1, timeout=5.0, terminator="", not_before=amount)
        )
        said = []
        # At once, then 5 s into the sound; a 1 pressed at 6.5 s counts.
        for reply in ("49 endpos=800", "49 endpos=40000", "49 endpos=52000"):
            said.append(await asterisk.command())
            asterisk.say(f"200 result={reply}\n")
        gathered = await asyncio.wait_for(asking, LONG)
        assert (gathered.digits, gathered.heard) == ("1", 6.5)
        assert [line.split()[4:] for line in said] == [[], ["32000"], ["40000"]]


@pytest.mark.parametrize("key", ["2", "0", "*"])
async def test_other_keys_count_at_once(key: str) -> None:
    async with session("") as (asterisk, one):
        amount = NotBefore("1", 6.0)
        asking = asyncio.create_task(
            one.gather(Media("/s/a", 8.0), max_digits=1, timeout=5.0, terminator="", not_before=amount)
        )
        await asterisk.command()
        asterisk.say(f"200 result={ord(key)} endpos=8000\n")
        assert (await asyncio.wait_for(asking, LONG)).digits == key


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("ivr/shop?order=4711", {"tree": "shop", "order": "4711"}),
        ("ivr/?order=4711", {"order": "4711"}),
        ("inbound", {}),
        ("session", None),
        ("session?nonce=", None),
        ("ivr/shop?nonce=x", None),
    ],
)
async def test_a_dialplan_may_run_a_tree_and_nothing_else(
    script: str, arguments: dict[str, str] | None
) -> None:
    met: list[CallSession] = []

    async def take(one: CallSession) -> None:
        met.append(one)

    config = AsteriskConfig(AmiConfig("127.0.0.1", 1, "x", "x"), b"k" * 32, agi_port=0)
    pbx = AsteriskPbx(config, on_inbound=take)
    await pbx.start()
    try:
        asterisk = Asterisk(*await asyncio.open_connection("127.0.0.1", pbx.agi_port))
        asterisk.say(f"agi_network_script: {script}\nagi_uniqueid: 1.1\n\n")
        assert await asterisk.command() == ""
        assert [dict(one.arguments) for one in met] == ([] if arguments is None else [arguments])
        assert pbx.stray_sessions == (arguments is None)
    finally:
        await pbx.stop()
