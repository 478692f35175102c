"""The controller's AMI user: sees what it needs and no more, and may do no more."""

from __future__ import annotations

import asyncio

import pytest

from telephony.errors import PbxRejected
from telephony.lab import Lab, reject
from telephony.net.ami import AmiClient, AmiConfig
from telephony.wire.ami import Message

pytestmark = pytest.mark.lab

NUMBER = "+8613800000001"


async def test_events_are_filtered_at_the_pbx_and_rights_are_few(lab: Lab) -> None:
    # It rings first: `DialState` comes for early media only.
    lab.carrier.subscribe(NUMBER, reject(486, ring=True))
    state = lab.state
    client = AmiClient(AmiConfig(state.pbx_address, state.ami_port, state.ami_user, state.ami_secret))
    await client.start()
    try:
        assert await client.wait_connected(5)
        seen: list[str] = []
        originate = [
            ("Channel", f"PJSIP/{NUMBER}@carrier"),
            ("ChannelId", "rights"),
            ("Context", "telephony-session"),
            ("Exten", "answered"),
            ("Priority", "1"),
            ("Async", "true"),
        ]
        await client.action("Originate", originate)
        async with asyncio.timeout(10):
            while not {"OriginateResponse", "Hangup"} <= set(seen):
                item = await client.next_item()
                if isinstance(item, Message):
                    seen.append(item.name)
        assert set(seen) <= {"Hangup", "Newstate", "OriginateResponse"}, "the PBX keeps the rest away"
        for action, headers in (
            ("Command", [("Command", "core show version")]),
            ("DBPut", [("Family", "f"), ("Key", "k"), ("Val", "v")]),
            ("Originate", [*originate[:2], ("Application", "System"), ("Data", "id"), ("Async", "true")]),
            ("GetConfig", [("Filename", "manager.conf")]),
        ):
            with pytest.raises(PbxRejected):
                await client.action(action, headers)
    finally:
        await client.stop()
