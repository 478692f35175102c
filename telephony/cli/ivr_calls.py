"""Golden conversations as real calls, through a lab of their own: `telephony ivr test --pbx`.

What it never does: touch a PBX that is not the lab's, or call anybody but its scripted subscribers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from telephony.cli.scratch import scratch_studio
from telephony.ivr.golden import Conversation, Verdict, difference
from telephony.ivr.live import Stage
from telephony.ivr.sounds import Sounds, Wardrobe
from telephony.ivr.transcript import PhrasesOf
from telephony.ivr.tree import Tree
from telephony.lab import Lab, Phone, own_dialplan
from telephony.net.ami import AmiConfig
from telephony.pbx.asterisk import AsteriskConfig, AsteriskPbx
from telephony.speech.packs import Packs

AT_ONCE: Final = 20
"""Calls that stand at a time: a small machine plays them without a hitch."""

CALL_SECONDS: Final = 300.0
"""How long one conversation may take."""

CALLED: Final = "+861095550000"
AWAY: Final = ("someone", "telephony-test-person")
PERSON: Final = """\
[telephony-test-person]
exten => someone,1,Playtones(1004)
 same => n,Wait(1)
 same => n,Hangup()
"""

Part = tuple[str, Conversation]
"""A tree's name, and a conversation with it."""


async def play_by_calls(
    parts: Sequence[Part],
    trees: Mapping[str, Tree],
    packs: Packs,
    phrases: PhrasesOf,
    say: Callable[[str], None],
) -> list[Verdict]:
    """Play conversations as calls, and compare. Raises `LabError` where there is no lab to be had."""
    numbers = {_number(at): part for at, part in enumerate(parts)}
    phones = {who: Phone() for who in numbers}
    async with scratch_studio(packs) as studio:
        say("Rendering what the trees say")
        wardrobe = Wardrobe(studio)
        await wardrobe.make(1, [trees[name] for name in dict.fromkeys(name for name, _ in parts)])
        with wardrobe.lent(1) as common:
            stage = Stage(
                trees,
                numbers,
                lambda who: phones[who].soon,
                lambda: Sounds(studio, common),
                phrases,
                AWAY,
            )
            await _call(stage, phones, say)
    return [
        Verdict(one.name, stage.texts.get(who, ""), difference(one.expect, stage.texts.get(who, "")))
        for who, (_, one) in numbers.items()
    ]


async def _call(stage: Stage, phones: Mapping[str, Phone], say: Callable[[str], None]) -> None:
    say("Starting a PBX and a carrier")
    async with Lab() as lab, own_dialplan(lab, PERSON):
        host, port = lab.agi
        ami = AmiConfig(
            host=lab.pbx.address,
            port=lab.pbx.ami_port,
            username=lab.state.ami_user,
            secret=lab.state.ami_secret,
        )
        config = AsteriskConfig(ami, secrets.token_bytes(32), agi_host=host, agi_port=port)
        pbx = AsteriskPbx(config, on_inbound=stage)
        await pbx.start()
        try:
            await pbx.wait_ready(CALL_SECONDS)
            waiting = list(phones.items())
            for at in range(0, len(waiting), AT_ONCE):
                some = waiting[at : at + AT_ONCE]
                say(f"Calls {at + 1} to {at + len(some)} of {len(waiting)}")
                calls = [await lab.carrier.place(CALLED, phone, caller=who) for who, phone in some]
                await asyncio.gather(*(call.wait_ended(CALL_SECONDS) for call in calls))
        finally:
            await pbx.stop()


def _number(at: int) -> str:
    return f"+86139{at:08d}"
