"""The Asterisk backend before a manager that answers by script: what the lab can't be made to do on time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from telephony.errors import PbxRejected, PbxUnavailable
from telephony.net.ami import AmiConfig
from telephony.pbx.asterisk import backend
from telephony.pbx.asterisk.backend import DAY_MS, AsteriskConfig, AsteriskPbx
from telephony.pbx.port import DialOrder, Fate
from telephony.wire.ami import Header, Message, Reply

ADDRESS = "10.0.0.5:4573"
UP_FOR = 3600.0


@dataclass
class Manager:
    """Asterisk's manager: nothing stands and nothing is noted, unless a test says so."""

    channels: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    sent: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    started: float = field(default_factory=lambda: time.time() - UP_FOR)
    clock_ahead: float = 0.0
    connected: bool = True
    on_action: Callable[[str], None] = lambda _name: None

    async def action(self, name: str, headers: Iterable[Header] = ()) -> Reply:
        await asyncio.sleep(0)
        variables = [str(value) for key, value in headers if key == "Variable"]
        self.sent.append((name, {**dict(headers), "Variables": "\n".join(variables)}))
        self.on_action(name)
        match name:
            case "CoreShowChannels":
                return reply(
                    *(
                        [("Event", "CoreShowChannel"), ("Uniqueid", one), ("ChannelStateDesc", "Up")]
                        for one in self.channels
                    )
                )
            case "DBGet":
                place = f"{dict(headers)['Family']}/{dict(headers)['Key']}"
                if place not in self.notes:
                    raise PbxRejected("Database entry not found")
                return reply([("Event", "DBGetResponse"), ("Val", self.notes[place])])
            case "CoreStatus":
                stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.started + self.clock_ahead))
                date, _, hour = stamp.partition(" ")
                return reply(head=[("CoreStartupDate", date), ("CoreStartupTime", hour)])
            case "Getvar":
                return reply(head=[("Value", f"{time.time() + self.clock_ahead:.3f}+0000")])
        return reply()

    def headers_of(self, name: str) -> dict[str, str]:
        return next(headers for sent, headers in self.sent if sent == name)


def reply(*events: list[Header], head: Iterable[Header] = ()) -> Reply:
    return Reply("1", Message([("Response", "Success"), *head]), tuple(Message(event) for event in events))


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
async def pbx(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> AsteriskPbx:
    monkeypatch.setattr(backend, "SETTLE_SECONDS", 0.2)
    ami = AmiConfig(host="127.0.0.1", port=1, username="u", secret="s")
    made = AsteriskPbx(AsteriskConfig(ami, b"k" * 32, agi_address=ADDRESS))
    monkeypatch.setattr(made, "_ami", manager)
    made._booted.set()
    return made


def order(attempt_id: str, dialed_at_ms: int) -> DialOrder:
    return DialOrder(attempt_id, "carrier", "+8613800000001", "", dialed_at_ms=dialed_at_ms)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_note_is_found_by_the_day_of_the_row_although_midnight_came_before_the_dial(
    pbx: AsteriskPbx, manager: Manager
) -> None:
    last_of_the_day = now_ms() // DAY_MS * DAY_MS - 1
    async with pbx.dial(order("att_1", last_of_the_day)):
        variables = manager.headers_of("Originate")["Variables"]
    day = next(line for line in variables.splitlines() if "TELEPHONY_DAY" in line).rpartition("=")[2]
    manager.notes[f"telephony-{day}/att_1"] = "16::Up"
    assert (await pbx.fate("att_1", last_of_the_day)).fate is Fate.ANSWERED


async def test_the_dialplan_is_sent_to_the_controller_that_dials_and_to_the_one_that_adopts(
    pbx: AsteriskPbx, manager: Manager
) -> None:
    async with pbx.dial(order("att_1", now_ms())):
        assert f"TELEPHONY_AGI={ADDRESS}" in manager.headers_of("Originate")["Variables"]
    async with pbx.adopt(order("att_2", now_ms()), dialed_at_ms=now_ms()):
        told = manager.headers_of("Setvar")
    assert (told["Channel"], told["Variable"], told["Value"]) == ("att_2", "TELEPHONY_AGI", ADDRESS)


async def test_never_rang_is_said_after_two_looks_with_time_between_on_a_link_however_old(
    pbx: AsteriskPbx, manager: Manager
) -> None:
    began = time.monotonic()
    assert (await pbx.fate("att_1", now_ms() - 5_000)).fate is Fate.NEVER_RANG
    assert time.monotonic() - began >= 0.2

    def comes_late(name: str) -> None:
        # Asterisk reads what the dead controller had sent it, between the two looks.
        if name == "CoreStatus":
            manager.channels.append("att_2")

    manager.on_action = comes_late
    assert (await pbx.fate("att_2", now_ms() - 5_000)).fate is Fate.LIVE


async def test_never_rang_is_not_said_where_the_link_broke_between_the_looks(
    pbx: AsteriskPbx, manager: Manager
) -> None:
    asking = asyncio.create_task(pbx.fate("att_1", now_ms() - 5_000))
    await asyncio.sleep(0.1)
    pbx._link_since += 1.0
    with pytest.raises(PbxUnavailable):
        await asking


@pytest.mark.parametrize("ahead", [0.0, 7200.0, -7200.0], ids=["as ours", "fast", "slow"])
async def test_a_pbx_that_was_started_since_the_dial_is_told_whatever_its_clock(
    pbx: AsteriskPbx, manager: Manager, ahead: float
) -> None:
    manager.clock_ahead = ahead
    assert (await pbx.fate("att_1", now_ms() - 60_000)).fate is Fate.NEVER_RANG
    manager.started = time.time() - 30
    assert (await pbx.fate("att_2", now_ms() - 60_000)).fate is Fate.UNKNOWN


async def test_nothing_is_guessed_of_an_attempt_of_before_the_clock_was_set_back(pbx: AsteriskPbx) -> None:
    assert (await pbx.fate("att_1", now_ms() + 3_600_000)).fate is Fate.UNKNOWN


async def test_what_earlier_lives_waited_is_taken_off_the_wait(pbx: AsteriskPbx) -> None:
    noted: list[float] = []

    async def unseen() -> None:
        noted.append(time.monotonic())

    began = time.monotonic()
    trace = await pbx.fate("att_1", now_ms() - 5_000, unseen_for=5.0, unseen=unseen)
    assert trace.fate is Fate.NEVER_RANG
    assert time.monotonic() - began < 0.15
    assert len(noted) == 1
    assert (await pbx.fate("att_1", now_ms() - 5_000, unseen_for=0.1, unseen=unseen)).fate is Fate.NEVER_RANG
    assert time.monotonic() - noted[1] >= 0.1


async def test_a_restart_lists_the_channels_once_for_all_that_it_finds(
    pbx: AsteriskPbx, manager: Manager
) -> None:
    fates = await asyncio.gather(*(pbx.fate(f"att_{n}", now_ms() - 5_000) for n in range(100)))
    assert {trace.fate for trace in fates} == {Fate.NEVER_RANG}
    asked = [name for name, _headers in manager.sent]
    assert asked.count("CoreShowChannels") <= 4
    assert asked.count("CoreStatus") <= 4
    assert asked.count("DBGet") == 200


async def test_a_contact_that_was_replaced_is_looked_for_before_a_trunk_is_called_unreachable(
    pbx: AsteriskPbx, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "PJSIP_ENDPOINT(carrier,aors)": ["carrier"],
        "PJSIP_AOR(carrier,contact)": ["one"],
        "PJSIP_CONTACT(one,status)": ["Reachable"],
        "PJSIP_CONTACT(two,status)": ["Reachable"],
    }
    asked: list[str] = []

    async def read(function: str) -> list[str]:
        asked.append(function)
        return told[function]

    monkeypatch.setattr(pbx, "_read", read)
    assert await pbx.reaches("carrier")
    asked.clear()
    assert await pbx.reaches("carrier")
    assert asked == ["PJSIP_CONTACT(one,status)"], "its contacts are remembered"
    told["PJSIP_CONTACT(one,status)"] = ["Unreachable"]
    assert await pbx.reaches("carrier") is False
    told["PJSIP_AOR(carrier,contact)"] = ["one", "two"]
    assert await pbx.reaches("carrier")
    told["PJSIP_AOR(carrier,contact)"] = []
    told["PJSIP_CONTACT(one,status)"] = told["PJSIP_CONTACT(two,status)"] = []
    assert await pbx.reaches("carrier") is None
    told["PJSIP_AOR(carrier,contact)"] = ["two"]
    told["PJSIP_CONTACT(two,status)"] = ["Reachable"]
    assert await pbx.reaches("carrier"), "that there was none is not remembered"
