"""The dialplan's notes of ended calls are pruned by the dialplan, whatever days went by without a call."""

from __future__ import annotations

import asyncio

import pytest

from telephony.lab import Lab, reject
from telephony.net.ami import AmiClient, AmiConfig
from telephony.wire.ami import Message, variable_header

pytestmark = pytest.mark.lab

NUMBER = "+8613800000001"


async def ended(client: AmiClient, day: int) -> None:
    """A call of that day, which nobody answers."""
    variables = {
        "TELEPHONY_ATTEMPT": f"notes-{day}",
        "TELEPHONY_DAY": str(day),
        "CHANNEL(hangup_handler_push)": "telephony-ended,s,1",
    }
    originate = [
        ("Channel", f"PJSIP/{NUMBER}@carrier"),
        ("ChannelId", f"notes-{day}"),
        ("Context", "telephony-session"),
        ("Exten", "answered"),
        ("Priority", "1"),
        ("Async", "true"),
    ]
    await client.action("Originate", [*originate, *(variable_header(*one) for one in variables.items())])
    async with asyncio.timeout(10):
        while True:
            item = await client.next_item()
            if isinstance(item, Message) and item.name == "Hangup" and item.get("Uniqueid") == f"notes-{day}":
                return


async def test_old_notes_go_and_young_ones_stay(lab: Lab) -> None:
    lab.carrier.subscribe(NUMBER, reject(486))
    state = lab.state
    client = AmiClient(AmiConfig(state.pbx_address, state.ami_port, state.ami_user, state.ami_secret))
    await client.start()
    try:
        assert await client.wait_connected(5)
        # Days 103 to 105 bring no call, as at a weekend; 109 is what a clock once told that was set.
        for day in (101, 102, 109, 106, 107):
            await ended(client, day)
        kept = await lab.pbx.console("database show")
        for day in (101, 102):
            assert f"/telephony-{day}/" not in kept
            assert f"/telephony-pruned/{day} " not in kept
        for day in (106, 107, 109):
            assert f"/telephony-{day}/notes-{day} " in kept
        for day in (101, 102, 106, 107, 109):
            await lab.pbx.console(f"database deltree telephony-{day}")
            await lab.pbx.console(f"database del telephony-pruned {day}")
    finally:
        await client.stop()
