"""Carriers that each want it their own way, met by configuration alone.

Each trunk here is what a `telephony.toml` says, through the same code that the controller reads it with;
the PBX's endpoints are the lab's plain ones, and nothing in them is made for the carrier at hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from telephony.api.keys import hash_key
from telephony.errors import CallEnded
from telephony.lab import CarrierCall, Lab, Subscriber, answer_and_listen, no_answer
from telephony.lab.config import STRICT
from telephony.model.hangup import Cause
from telephony.model.ids import new_id
from telephony.model.number import parse_number
from telephony.net.ami import AmiConfig
from telephony.pbx.asterisk import AsteriskConfig, AsteriskPbx
from telephony.pbx.port import Accepted, Answered, CallSession, Ended, Ringing
from telephony.settings import check_settings
from telephony.trunks.dialect import Trunk
from tests.acceptance.lab.manager import Manager

pytestmark = pytest.mark.lab

NUMBER = "+8613800000001"
SHOP = "+861088880000"
OWN = "+861055550000"
EVENTS = ("DialState", "Hangup", "Newstate", "OriginateResponse")


def trunk(endpoint: str = "carrier", **keys: Any) -> Trunk:
    """What `[[trunks]]` with these keys means."""
    settings = check_settings(
        {
            "pbx": {"ami": {"secret": "x"}},
            "numbers": {"default_region": "CN", "allowed_regions": ["CN", "US"]},
            "trunks": [{"name": "main", "endpoint": endpoint, "ring_timeout": 4, **keys}],
            "clients": [{"name": "shop", "key_hash": hash_key("tk"), "brand": "Acme"}],
        }
    )
    return settings.trunk_list()[0]


@dataclass(slots=True)
class Seen:
    """What came of one ring."""

    rang: bool = False
    answered: bool = False
    cause: Cause | None = None
    sip: int | None = None
    told: list[str] = field(default_factory=list)


async def hang_up(session: CallSession, _seen: Seen) -> None:
    await session.hangup()


async def linger(session: CallSession, _seen: Seen) -> None:
    await session.gather(None, max_digits=1, timeout=0.5)
    await session.hangup()


async def stay(session: CallSession, _seen: Seen) -> None:
    with contextlib.suppress(CallEnded):
        await session.gather(None, max_digits=1, timeout=10)


async def ring(
    pbx: AsteriskPbx,
    line: Trunk,
    to: str = NUMBER,
    caller: str = SHOP,
    talk: Callable[[CallSession, Seen], Awaitable[None]] = hang_up,
) -> Seen:
    seen = Seen()
    order = line.order(
        new_id("att"), parse_number(to), caller, ring_timeout=line.ring_timeout, max_duration=20
    )
    talks: list[asyncio.Task[None]] = []
    async with asyncio.timeout(20), pbx.dial(order) as leg:
        while True:
            event = await leg.next_event()
            if isinstance(event, Ringing):
                seen.rang = True
            elif isinstance(event, Answered):
                seen.answered = True
                talks.append(asyncio.ensure_future(talk(event.session, seen)))
            elif isinstance(event, Ended):
                seen.cause, seen.sip = event.cause.cause, event.cause.sip
                break
            else:
                assert isinstance(event, Accepted)
    await asyncio.gather(*talks)
    return seen


@pytest_asyncio.fixture(loop_scope="session")
async def pbx(lab: Lab) -> AsyncIterator[AsteriskPbx]:
    host, port = lab.agi
    state = lab.state
    ami = AmiConfig(lab.pbx.address, state.ami_port, state.ami_user, state.ami_secret, event_names=EVENTS)
    made = AsteriskPbx(AsteriskConfig(ami, b"n" * 32, host, port))
    await made.start()
    assert await made.wait_ready(10)
    yield made
    await made.stop()


def test_as_it_stands_in_the_documents() -> None:
    """The fixture's keys are the file's keys."""
    assert trunk(number_format="00").dialled(parse_number(NUMBER)) == "008613800000001"


async def test_numbers_as_the_carrier_wants_them(lab: Lab, pbx: AsteriskPbx) -> None:
    for wanted in ("008613800000001", "13800000002", "0012125550123", "98613800000003"):
        lab.carrier.subscribe(wanted, answer_and_listen(after=0))
    national = trunk(number_format="national")
    seen = await asyncio.gather(
        ring(pbx, trunk()),
        ring(pbx, trunk(number_format="00")),
        ring(pbx, national, "+8613800000002"),
        ring(pbx, national, "+12125550123"),
        ring(pbx, trunk(number_format="digits", prefix="9"), "+8613800000003"),
    )
    assert [(one.answered, one.sip) for one in seen] == [(False, 404)] + [(True, None)] * 4


def only_from(own: str) -> Subscriber:
    """A carrier that refuses every caller number but its customer's own, before anything rings."""

    async def script(call: CarrierCall) -> None:
        if call.caller != own:
            await call.reject(403)
        await answer_and_listen(after=0)(call)

    return script


async def test_a_carrier_that_takes_our_own_numbers_only(lab: Lab, pbx: AsteriskPbx) -> None:
    lab.carrier.subscribe(NUMBER, only_from(OWN))
    lab.carrier.subscribe("+8613800000002", only_from("01055550000"))
    refused, ours, chosen, national = await asyncio.gather(
        ring(pbx, trunk()),
        ring(pbx, trunk(caller_numbers=[OWN])),
        ring(pbx, trunk(caller_numbers=["+861055559999", OWN]), caller=OWN),
        ring(pbx, trunk(caller_numbers=[OWN], caller_format="national"), "+8613800000002"),
    )
    assert (refused.cause, refused.sip, refused.rang) == (Cause.TRUNK_REFUSED, 403, False)
    assert [one.answered for one in (ours, chosen, national)] == [True] * 3


async def test_who_calls_stands_where_the_carrier_looks(lab: Lab, pbx: AsteriskPbx) -> None:
    headers: dict[str, tuple[str, str, str]] = {}

    async def note(call: CarrierCall) -> None:
        sender = (await call.header("From")).partition(";")[0]
        asserted, party = await call.header("P-Asserted-Identity"), await call.header("Remote-Party-ID")
        headers[call.number] = (sender, asserted, party)
        await answer_and_listen(after=0)(call)

    lab.carrier.default = note
    alaw: dict[str, Any] = {"codecs": ["alaw"], "from_number": "4001"}
    seen = await asyncio.gather(
        ring(pbx, trunk(STRICT, codecs=["alaw"]), "+8613800000001"),
        ring(pbx, trunk(STRICT, **alaw, identity="pai", identity_domain="c.example"), "+8613800000002"),
        ring(pbx, trunk(STRICT, **alaw, identity="pai"), "+8613800000003"),
        ring(pbx, trunk(STRICT, **alaw, identity="rpid", identity_domain="c.example"), "+8613800000004"),
        ring(pbx, trunk(from_name="Acme", caller_format="digits"), "+8613800000005"),
    )
    assert all(one.answered for one in seen)
    address, plain = lab.state.pbx_address_b, lab.pbx.address
    assert headers == {
        "+8613800000001": (f"<sip:{SHOP}@{address}>", "", ""),
        "+8613800000002": (f"<sip:4001@{address}>", f"<sip:{SHOP}@c.example>", ""),
        "+8613800000003": (f"<sip:4001@{address}>", f"<tel:{SHOP}>", ""),
        "+8613800000004": (
            f"<sip:4001@{address}>",
            "",
            f"<sip:{SHOP}@c.example>;party=calling;screen=yes",
        ),
        # This endpoint has send_pai=yes: Asterisk itself asserts what stands in From.
        "+8613800000005": (
            f'"Acme" <sip:{SHOP[1:]}@{plain}>',
            f'"Acme" <sip:{SHOP[1:]}@{plain}>',
            "",
        ),
    }


async def test_alaw_and_keys_by_sip_info(lab: Lab, pbx: AsteriskPbx) -> None:
    async def presses(call: CarrierCall) -> None:
        await call.answer()
        await call.press("7", after=0.3)
        await call.listen()

    async def listens(session: CallSession, seen: Seen) -> None:
        seen.told.append((await session.gather(None, max_digits=1, timeout=5)).digits)
        await session.hangup()

    lab.carrier.default = presses
    plain, wanted, first = await asyncio.gather(
        ring(pbx, trunk(STRICT)),
        ring(pbx, trunk(STRICT, codecs=["alaw"], dtmf_mode="info"), "+8613800000002", talk=listens),
        ring(pbx, trunk(codecs=["alaw"]), "+8613800000003", talk=linger),
    )
    assert (plain.answered, plain.sip) == (False, 488)
    assert (wanted.answered, wanted.told, first.answered) == (True, ["7"], True)
    codecs = {call.number: call.codec for call in lab.carrier.calls if call.codec}
    assert codecs == {"+8613800000002": "alaw", "+8613800000003": "alaw"}


def announces(sound: Path, code: int | None) -> Subscriber:
    """The network speaks before anything rings, and then refuses; None: it never does."""

    async def script(call: CarrierCall) -> None:
        await call.early_media(sound, after=0.1)
        if code is None:
            await call.listen()
        await call.reject(code or 480)

    return script


async def test_announcements_before_the_answer(lab: Lab, pbx: AsteriskPbx) -> None:
    for number, code in (("1", 486), ("2", 503), ("3", 403), ("4", 408), ("5", None)):
        lab.carrier.subscribe(f"+861380000000{number}", announces(lab.carrier.beep, code))
        lab.carrier.subscribe(f"+861390000000{number}", announces(lab.carrier.beep, code))
    dialect = trunk(early_media="announces", ring_timeout=2)
    told = [ring(pbx, dialect, f"+861380000000{number}") for number in "12345"]
    plain = [ring(pbx, trunk(ring_timeout=2), f"+861390000000{number}") for number in "12345"]
    seen = await asyncio.gather(*told, *plain)
    assert [(one.rang, one.cause) for one in seen[:5]] == [
        (False, Cause.BUSY),
        # Nothing has rung: the next trunk may be tried.
        (False, Cause.CONGESTION),
        (False, Cause.TRUNK_REFUSED),
        # Whether something has rung is not known: no other trunk rings it.
        (False, Cause.NO_ANSWER),
        (False, Cause.NO_ANSWER),
    ]
    assert [(one.rang, one.cause) for one in seen[5:]] == [
        (True, Cause.BUSY),
        (True, Cause.CONGESTION),
        (True, Cause.DECLINED),
        (True, Cause.NO_ANSWER),
        (True, Cause.NO_ANSWER),
    ]


async def test_an_answer_that_is_an_announcement(lab: Lab, pbx: AsteriskPbx) -> None:
    async def speaks(call: CarrierCall) -> None:
        await call.answer(after=0.1)
        await call.hang_up(after=1.0)

    async def person(call: CarrierCall) -> None:
        await call.answer(after=0.1)
        await call.hang_up(after=3.5)

    lab.carrier.default = speaks
    lab.carrier.subscribe("+8613800000003", person)
    false = trunk(false_answer=2.5)
    seen = await asyncio.gather(
        ring(pbx, false, "+8613800000001", talk=stay),
        ring(pbx, trunk(), "+8613800000002", talk=stay),
        ring(pbx, false, "+8613800000003", talk=stay),
        ring(pbx, false, "+8613800000004", talk=hang_up),
    )
    assert all(one.answered for one in seen)
    assert [one.cause for one in seen] == [Cause.UNREACHABLE, Cause.NORMAL, Cause.NORMAL, Cause.NORMAL]


async def test_whether_the_pbx_reaches_a_carrier(lab: Lab, pbx: AsteriskPbx) -> None:
    lab.carrier.default = answer_and_listen(after=0)
    assert await pbx.reaches("carrier") is True
    assert await pbx.reaches("nowhere") is None
    pid = lab.carrier.asterisk.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(15):
            while await pbx.reaches("carrier"):
                await asyncio.sleep(0.2)
        assert await pbx.reaches("carrier") is False
        silent = await ring(pbx, trunk())
        assert (silent.cause, silent.sip) == (Cause.TRUNK_FAULT, None)
    finally:
        os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(15):
        while not await pbx.reaches("carrier"):
            await asyncio.sleep(0.2)
    assert (await ring(pbx, trunk())).answered


async def test_a_call_is_counted_before_its_invite_and_nothing_can_veto_it(
    lab: Lab, pbx: AsteriskPbx
) -> None:
    """`GROUP_COUNT` in a dialplan sees what rings out; an async Originate runs no pre-dial handler."""
    lab.carrier.default = no_answer()
    await lab.pbx.console("dialplan add extension s,1,Hangup(34) into lab-veto")
    rings = [asyncio.ensure_future(ring(pbx, trunk(), f"+861380000000{place}")) for place in range(3)]
    for place in range(3):
        await lab.carrier.wait_for_call(f"+861380000000{place}")
    groups = await lab.pbx.console("group show channels")
    assert sum(line.split()[-2:] == ["carrier", "telephony"] for line in groups.splitlines()) == 3
    state = lab.state
    async with Manager(state.pbx_address, state.ami_port, state.test_user, state.test_secret) as manager:
        await manager.originate(
            "+8613800000009",
            channel_id="veto",
            Context="telephony-lost",
            Exten="s",
            Priority="1",
            PreDialGoSub="lab-veto,s,1",
        )
        assert await lab.carrier.wait_for_call("+8613800000009")
    await lab.pbx.console("channel request hangup all")
    await asyncio.gather(*rings)
