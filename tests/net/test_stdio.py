"""A script of Asterisk's that carries its call to a controller: the process itself, on two pipes."""

from __future__ import annotations

import asyncio
import signal
import sys

from telephony.net.fastagi import AgiChannel, FastAgiServer
from telephony.wire.agi import AgiReply

LONG = 20.0
ENVIRONMENT = b"agi_request: telephony-agi\nagi_network: no\nagi_uniqueid: 17.1\nagi_arg_1: ivr/shop?a=b\n\n"


async def script(controller: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "telephony.net.stdio",
        "ivr/shop?a=b",
        controller,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(ENVIRONMENT)
    return process


async def said(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    return await asyncio.wait_for(process.stdout.readline(), LONG)


async def test_a_call_is_carried_both_ways_and_its_hangup_told() -> None:
    met: list[AgiChannel] = []
    replies: list[AgiReply] = []
    hung_up = asyncio.Event()

    async def handler(channel: AgiChannel) -> None:
        met.append(channel)
        replies.append(await channel.command("ANSWER", timeout=LONG))
        try:
            await channel.command("WAIT", "FOR", "DIGIT", "5000", timeout=LONG)
        finally:
            if channel.hung_up:
                hung_up.set()

    server = FastAgiServer(handler, port=0)
    await server.start()
    try:
        process = await script(f"127.0.0.1:{server.port}")
        assert process.stdin is not None
        assert await said(process) == b"ANSWER\n"
        process.stdin.write(b"200 result=0\n")
        assert await said(process) == b"WAIT FOR DIGIT 5000\n"
        process.send_signal(signal.SIGHUP)
        await asyncio.wait_for(hung_up.wait(), LONG)
        assert await asyncio.wait_for(process.wait(), LONG) == 0
        assert met[0].script == "ivr/shop"
        assert met[0].query == {"a": "b"}
        assert met[0].unique_id == "17.1"
        assert replies == [AgiReply(200, "0")]
    finally:
        await server.stop()


async def test_a_controller_that_is_away_is_told_to_the_dialplan_at_once() -> None:
    process = await script("127.0.0.1:1")
    assert process.stdin is not None
    assert await said(process) == b"SET VARIABLE TELEPHONY_RESULT away\n"
    process.stdin.write(b"200 result=1\n")
    assert await asyncio.wait_for(process.wait(), LONG) == 1
