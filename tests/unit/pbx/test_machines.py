"""Telling machines from persons, on the wire: what Asterisk is asked, what it tells, and the wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from telephony.errors import CallEnded
from telephony.model.hangup import Cause
from telephony.net.ami import AmiConfig
from telephony.net.fastagi import AgiChannel, FastAgiServer
from telephony.pbx.asterisk import AsteriskConfig, AsteriskPbx
from telephony.pbx.asterisk.guard import Move
from telephony.pbx.asterisk.session import AgiSession
from telephony.pbx.port import Accepted, Answered, DialOrder, Ended
from tests.net.fake_ami import Action, FakeAmi, FakePeer

LONG = 10.0


class Asterisk:
    """The PBX's end of one FastAGI connection: each command is answered by the next of its replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int, query: str, unique_id: str = "att_1") -> Asterisk:
        one = cls(*await asyncio.open_connection("127.0.0.1", port))
        one.say(f"agi_network_script: session?{query}\nagi_uniqueid: {unique_id}\n\n")
        return one

    def say(self, text: str) -> None:
        self._writer.write(text.encode())

    async def command(self) -> str:
        return (await asyncio.wait_for(self._reader.readline(), LONG)).decode().strip()

    def leave(self) -> None:
        self._writer.close()


@asynccontextmanager
async def session(
    query: str, move: Move | None = None, *, linked: bool = False
) -> AsyncIterator[tuple[Asterisk, AgiSession]]:
    met: asyncio.Future[AgiChannel] = asyncio.get_running_loop().create_future()
    go = asyncio.Event()

    async def handler(channel: AgiChannel) -> None:
        met.set_result(channel)
        await go.wait()

    server = FastAgiServer(handler, port=0)
    await server.start()
    asterisk = await Asterisk.connect(server.port, query)
    try:
        yield asterisk, AgiSession(await asyncio.wait_for(met, LONG), move, linked=linked)
    finally:
        go.set()
        asterisk.leave()
        await server.stop()


@pytest.mark.parametrize(
    ("query", "machine"),
    [
        ("nonce=n", False),
        ("nonce=n&amdstatus=&amdcause=&pause=", False),
        ("nonce=n&amdstatus=HUMAN&amdcause=HUMAN-900-900&pause=", False),
        ("nonce=n&amdstatus=NOTSURE&amdcause=TOOLONG-5000&pause=", False),
        ("nonce=n&amdstatus=MACHINE&amdcause=MAXWORDS-6-5&pause=", True),
    ],
)
async def test_only_a_clear_machine_is_one(query: str, machine: bool) -> None:
    async with session(query) as (_, one):
        assert one.machine is machine


@pytest.mark.parametrize(
    ("pause", "asked", "status", "silent"),
    [
        ("", "EXEC WaitForSilence 2000,1,40", "SILENCE", True),
        ("1500", "EXEC WaitForSilence 1500,1,40", "SILENCE", True),
        ("soon", "EXEC WaitForSilence 2000,1,40", "TIMEOUT", False),
    ],
)
async def test_a_machine_is_heard_out(pause: str, asked: str, status: str, silent: bool) -> None:
    async with session(f"amdstatus=MACHINE&pause={pause}") as (asterisk, one):
        hearing = asyncio.create_task(one.hear_out(40.0))
        assert (await asterisk.command()).replace('"', "") == asked
        asterisk.say("200 result=0\n")
        assert await asterisk.command() == "GET VARIABLE WAITSTATUS"
        asterisk.say(f"200 result=1 ({status})\n")
        assert await asyncio.wait_for(hearing, LONG) is silent


async def test_a_machine_that_hangs_up_meanwhile_ends_the_call() -> None:
    async with session("amdstatus=MACHINE") as (asterisk, one):
        hearing = asyncio.create_task(one.hear_out(40.0))
        await asterisk.command()
        asterisk.say("HANGUP\n200 result=-1\n")
        with pytest.raises(CallEnded):
            await asyncio.wait_for(hearing, LONG)


async def known(peer: FakePeer, action: Action) -> None:
    await peer.reply(action, "Value: 1")


async def done(peer: FakePeer, action: Action) -> None:
    await peer.reply(action)


@asynccontextmanager
async def pbx_and_manager() -> AsyncIterator[tuple[AsteriskPbx, FakeAmi]]:
    fake = FakeAmi()
    fake.scripts |= {"getvar": known, "originate": done, "corestatus": done, "hangup": done}
    async with fake.serving():
        ami = AmiConfig(host="127.0.0.1", port=fake.port, username="me", secret="s3cret")
        pbx = AsteriskPbx(AsteriskConfig(ami=ami, nonce_key=b"k" * 32, agi_port=0, reconcile_seconds=LONG))
        await pbx.start()
        try:
            assert await pbx.wait_ready(LONG)
            yield pbx, fake
        finally:
            await pbx.stop()


def sent(fake: FakeAmi) -> str:
    (order,) = [block.decode() for block in fake.raw if block.startswith(b"Action: Originate")]
    return order


async def test_an_order_asks_for_it_or_not() -> None:
    for detect in (True, False):
        async with pbx_and_manager() as (pbx, fake):
            order = DialOrder("att_1", "carrier", "+861", "+862", detect_machines=detect)
            async with pbx.dial(order) as leg:
                assert await leg.next_event() == Accepted()
            assert ("Variable: TELEPHONY_MACHINES=1\r\n" in sent(fake)) is detect


async def test_a_phone_was_picked_up_before_the_pbx_had_listened() -> None:
    order = DialOrder("att_1", "carrier", "+861", "+862", detect_machines=True)
    async with pbx_and_manager() as (pbx, fake), pbx.dial(order) as leg:
        assert await leg.next_event() == Accepted()
        assert fake.peer is not None
        await fake.peer.event("Newstate", "Uniqueid: att_1", "ChannelState: 6")
        await asyncio.sleep(0.2)
        asterisk = await Asterisk.connect(pbx.agi_port, f"nonce={leg.nonce}&amdstatus=MACHINE")
        answered = await asyncio.wait_for(leg.next_event(), LONG)
        assert isinstance(answered, Answered)
        assert answered.session.machine
        assert 0.1 < answered.seconds_ago < 5.0
        asterisk.leave()


@pytest.mark.parametrize(
    ("context", "ours", "end"),
    [
        ("telephony-machine", False, (Cause.NORMAL, True)),
        ("telephony-machine", True, (Cause.CANCELED, True)),
        ("telephony-lost", False, (Cause.NORMAL, False)),
    ],
)
async def test_a_hangup_while_the_pbx_listens_is_told(
    context: str, ours: bool, end: tuple[Cause, bool]
) -> None:
    order = DialOrder("att_1", "carrier", "+861", "+862", detect_machines=True)
    async with pbx_and_manager() as (pbx, fake), pbx.dial(order) as leg:
        assert await leg.next_event() == Accepted()
        assert fake.peer is not None
        await fake.peer.event("Newstate", "Uniqueid: att_1", "ChannelState: 6")
        if ours:
            await leg.hangup()
        await fake.peer.event("Hangup", "Uniqueid: att_1", f"Context: {context}", "Cause: 16")
        ended = await asyncio.wait_for(leg.next_event(), LONG)
        assert isinstance(ended, Ended)
        assert (ended.cause.cause, ended.listened is not None) == end
