"""A tree on the wire: how long the PBX is told to wait for us, and which sessions need no nonce."""

from __future__ import annotations

import asyncio

import pytest

from telephony.model.media import Media
from telephony.net.ami import AmiConfig
from telephony.pbx.asterisk import AsteriskConfig, AsteriskPbx
from telephony.pbx.port import CallSession
from tests.unit.pbx.test_machines import LONG, Asterisk, session


async def test_each_step_of_a_question_has_a_limit_of_its_own() -> None:
    async with session("") as (asterisk, one):
        asking = asyncio.create_task(
            one.gather(Media("/s/a", 8.0), max_digits=2, timeout=5.0, terminator="#", margin=2.5)
        )
        said = []
        for reply in ("1", "0", "1", "49", "1", "0"):
            said.append(await asterisk.command())
            asterisk.say(f"200 result={reply}\n")
        assert (await asyncio.wait_for(asking, LONG)).digits == "1"
        limits = [line.split()[-1].strip('"') for line in said if "TIMEOUT(absolute)" in line]
        assert limits == ["10.5", "7.5", "4.5"]


async def test_results_are_handed_back_in_one_command_where_they_mean_nothing_to_the_pbx() -> None:
    async with session("") as (asterisk, one):
        values = {"TELEPHONY_RESULT": "answered", "IVR_ORDER": "A-4711 b", "IVR_X": "a,b=${c}"}
        setting = asyncio.create_task(one.set_variables(values))
        said = []
        for _ in range(2):
            said.append(await asterisk.command())
            asterisk.say("200 result=0\n")
        await asyncio.wait_for(setting, LONG)
        assert said[0] == 'EXEC MSet "TELEPHONY_RESULT=answered,IVR_ORDER=A-4711 b"'
        assert said[1].startswith("SET VARIABLE IVR_X ")


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
