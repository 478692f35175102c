"""The lab itself: what its subscribers do is what a PBX sees, and what they heard is what was sent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import time
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from telephony.errors import LabError
from telephony.lab import (
    CarrierCall,
    Lab,
    Subscriber,
    answer_and_listen,
    busy,
    decline,
    down,
    hang_up_early,
    no_answer,
    press_keys,
    reject,
    running_labs,
    unallocated,
    voicemail,
)
from telephony.lab.ear import duration, first_sound, hear
from tests.acceptance.lab.manager import Manager

pytestmark = pytest.mark.lab

NUMBER = "+8613800000001"
LATE = 0.15
"""Seconds that a busy machine may take longer, or start to record later, than the timeline says."""


@pytest_asyncio.fixture(loop_scope="session")
async def manager(lab: Lab) -> AsyncIterator[Manager]:
    async with Manager(lab.pbx.address, lab.pbx.ami_port, lab.state.test_user, lab.state.test_secret) as ami:
        yield ami


def beep_of(lab: Lab) -> bytes:
    with wave.open(str(lab.carrier.beep), "rb") as sound:
        return sound.readframes(sound.getnframes())


def sounds(path: Path) -> list[tuple[float, float]]:
    """Start and end of every run of sound, by loudness alone."""
    with wave.open(str(path), "rb") as sound:
        assert sound.getparams()[:3] == (1, 2, 8000)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 500)
    edges = np.flatnonzero(np.diff(loud) > 400)
    starts = loud[np.r_[0, edges + 1]]
    return list(
        zip((starts / 8000).tolist(), (loud[np.r_[edges, len(loud) - 1]] / 8000).tolist(), strict=True)
    )


async def add_dialplan(lab: Lab, context: str, *steps: str) -> None:
    for step, application in enumerate(steps, 1):
        await lab.pbx.console(f"dialplan add extension s,{step},{application} into {context}")


@pytest.mark.parametrize(
    ("subscriber", "code", "rang"),
    [
        (busy(), 486, False),
        (unallocated(), 404, False),
        (decline(after=0.1), 603, True),
        (no_answer(ring_for=0.2), 480, True),
        (reject(403), 403, False),
        (reject(403, ring=True), 403, True),
        (reject(484), 484, False),
        (reject(500), 500, False),
        (reject(503), 503, False),
        (reject(600), 600, False),
        (reject(607), 607, False),
    ],
    ids=lambda v: str(v) if isinstance(v, int) else None,
)
async def test_a_refusal_reaches_the_pbx_with_its_sip_code(
    lab: Lab, manager: Manager, subscriber: Subscriber, code: int, rang: bool
):
    lab.carrier.subscribe(NUMBER, subscriber)
    await manager.originate(NUMBER, channel_id="refused")
    hangup = await manager.hangup_of("refused")
    assert hangup["TechCause"] == str(code)
    ringing = [m for m in manager.messages if m.get("ChannelStateDesc") == "Ringing"]
    assert bool(ringing) == rang
    (call,) = lab.carrier.calls
    await call.wait_ended()
    assert (call.number, call.final_code, call.answered_at) == (NUMBER, code, None)
    assert (call.rang_at is not None) == rang
    assert call.heard is None


async def test_a_number_nobody_has_gets_404(lab: Lab, manager: Manager):
    await manager.originate("+8613899999999", channel_id="nobody")
    assert (await manager.hangup_of("nobody"))["TechCause"] == "404"


async def test_an_unanswered_call_that_the_pbx_gives_up_is_487(lab: Lab, manager: Manager):
    lab.carrier.subscribe(NUMBER, no_answer())
    await manager.originate(NUMBER, channel_id="given-up")
    call = await lab.carrier.wait_for_call(NUMBER)
    await manager.wait(lambda m: m.get("ChannelStateDesc") == "Ringing")
    await manager.action(Action="Hangup", Channel="/^PJSIP/carrier-.*$/")
    await call.wait_ended()
    assert call.final_code == 487
    assert call.rang_at is not None


async def test_who_calls_over_which_trunk_with_which_codec_is_written_down(lab: Lab, manager: Manager):
    lab.carrier.default = answer_and_listen(after=0.0, listen=0.2)
    before = time.time()
    for trunk in lab.state.trunks:
        await manager.originate(f"+86{trunk.encode().hex()[-8:]}", trunk=trunk, channel_id=f"{trunk}-call")
    for trunk in lab.state.trunks:
        await manager.hangup_of(f"{trunk}-call")
    for call in lab.carrier.calls:
        await call.wait_ended()
    seen = {(call.number, call.trunk, call.codec) for call in lab.carrier.calls}
    assert seen == {
        ("+86" + b"carrier".hex()[-8:], "a", "ulaw"),
        ("+86" + b"carrier-alaw".hex()[-8:], "a", "alaw"),
        ("+86" + b"carrier-b".hex()[-8:], "b", "ulaw"),
    }
    for call in lab.carrier.calls:
        assert call.caller == "+861055550000"
        assert "+861055550000" in call.asserted
        assert before - 1 < call.arrived_at < time.time() + 1
        assert call.answered_at is not None
        assert call.ended_at is not None
        assert call.arrived_mono < call.answered_at < call.ended_at
    log = [json.loads(line) for line in Path(lab.state.calls_log).read_text().splitlines()]
    assert {entry["number"] for entry in log if entry["event"] == "ended"} >= {n for n, _, _ in seen}


async def test_the_recording_is_true_in_time(lab: Lab, manager: Manager):
    sound = str(lab.carrier.beep.with_suffix(""))
    steps = ("Wait(1)", f"Playback({sound})", "Wait(0.7)", f"Playback({sound})", "Wait(0.3)", "Hangup()")
    await add_dialplan(lab, "lab-timeline", *steps)
    lab.carrier.default = answer_and_listen(after=0.1)
    into = {"Context": "lab-timeline", "Exten": "s", "Priority": "1"}
    await manager.originate("1001", channel_id="time-a", **into)
    await manager.originate("1002", channel_id="time-b", trunk="carrier-alaw", **into)
    for number in ("1001", "1002"):
        call = await lab.carrier.wait_for_call(number)
        await call.wait_ended()
        assert call.heard is not None
        (first, first_end), (second, second_end) = sounds(call.heard)
        assert first == pytest.approx(1.0, abs=LATE)
        assert call.ended_at is not None
        assert call.answered_at is not None
        assert duration(call.heard) == pytest.approx(call.ended_at - call.answered_at, abs=LATE)
        assert second - first_end == pytest.approx(0.7, abs=LATE)
        # Asterisk plays all but the last 20 ms of a file.
        assert first_end - first == pytest.approx(0.49, abs=0.03)
        assert second_end - second == pytest.approx(0.49, abs=0.03)
        heard = hear(call.heard, {"beep": beep_of(lab)})
        assert [h.start_seconds for h in heard] == pytest.approx([first, second], abs=0.03)


async def test_keys_arrive_at_the_pbx_in_order(lab: Lab, manager: Manager):
    lab.carrier.subscribe(NUMBER, press_keys([(0.2, "1"), (0.5, "20#*")], answer_after=0.0, listen=0.2))
    await manager.originate(NUMBER, channel_id="keys")
    await manager.hangup_of("keys")
    pressed = [
        m["Digit"]
        for m in manager.messages
        if m.get("Event") == "DTMFEnd" and m["Direction"] == "Received" and m["Uniqueid"] == "keys"
    ]
    assert pressed == ["1", "2", "0", "#", "*"]
    assert lab.carrier.calls[0].digits_sent == "120#*"


async def test_who_hangs_up_early_ends_the_call_at_the_pbx(lab: Lab, manager: Manager):
    lab.carrier.subscribe(NUMBER, hang_up_early(answer_after=0.1, hang_up_after=0.3))
    await manager.originate(NUMBER, channel_id="early")
    assert (await manager.hangup_of("early"))["Cause"] == "16"
    call = lab.carrier.calls[0]
    await call.wait_ended()
    assert call.ended_at is not None
    assert call.answered_at is not None
    assert call.ended_at - call.answered_at == pytest.approx(0.3, abs=LATE)


async def test_a_voicemail_greets_beeps_and_records(lab: Lab, manager: Manager, tmp_path: Path):
    sound = lab.carrier.beep
    lab.carrier.subscribe(NUMBER, voicemail(after=0.0, greeting=sound, record=0.8))
    spoken = tmp_path / "at-the-pbx.wav"
    await add_dialplan(
        lab, "lab-voicemail", f"MixMonitor(,r({spoken}))", f"Playback({sound.with_suffix('')})", "Wait(5)"
    )
    await manager.originate(NUMBER, channel_id="vm", Context="lab-voicemail", Exten="s", Priority="1")
    await manager.hangup_of("vm")
    call = lab.carrier.calls[0]
    await call.wait_ended()
    # What the PBX got: greeting and tone, here both the same sound.
    assert len(hear(spoken, {"beep": beep_of(lab)})) == 2
    assert call.heard is not None
    assert first_sound(call.heard) == pytest.approx(0.0, abs=LATE)


async def test_what_is_above_the_capacity_gets_503(lab: Lab, manager: Manager):
    lab.carrier.default = answer_and_listen(after=0.2)
    lab.carrier.capacity(3, trunk="a")
    await asyncio.gather(*(manager.originate(f"20{n}", channel_id=f"full-{n}") for n in range(6)))
    for n in range(6):
        await lab.carrier.wait_for_call(f"20{n}")
    refused = [n for n, call in enumerate(lab.carrier.calls) if call.refused_full]
    assert len(refused) == 3
    for call in lab.carrier.calls:
        if call.refused_full:
            hangup = await manager.hangup_of(f"full-{call.number[2:]}")
            assert hangup["TechCause"] == "503"
    assert lab.carrier.standing("a") == 3
    await manager.originate("300", channel_id="other", trunk="carrier-b")
    await (await lab.carrier.wait_for_call("300")).wait_answered()
    # A place that is given back can be taken again.
    standing = next(call for call in lab.carrier.calls if call.trunk == "a" and not call.refused_full)
    await lab.pbx.console("channel request hangup all")
    await standing.wait_ended()
    await manager.originate("400", channel_id="again")
    await (await lab.carrier.wait_for_call("400")).wait_answered()


async def test_twenty_calls_at_once_are_all_heard_whole(lab: Lab, manager: Manager):
    sound = str(lab.carrier.beep.with_suffix(""))
    await add_dialplan(lab, "lab-many", "Wait(0.2)", *[f"Playback({sound})", "Wait(0.2)"] * 3, "Hangup()")
    lab.carrier.default = answer_and_listen(after=0.0)
    into = {"Context": "lab-many", "Exten": "s", "Priority": "1"}
    await asyncio.gather(
        *(manager.originate(f"50{n:02d}", channel_id=f"m{n:02d}", **into) for n in range(20))
    )
    for n in range(20):
        call = await lab.carrier.wait_for_call(f"50{n:02d}")
        await call.wait_ended()
        assert call.heard is not None
        heard = hear(call.heard, {"beep": beep_of(lab)})
        assert [h.start_seconds for h in heard] == pytest.approx([0.2, 0.89, 1.58], abs=LATE)
        # Each beep is whole: all but the last 20 ms, which Asterisk does not play.
        assert [end - start for start, end in sounds(call.heard)] == pytest.approx([0.49] * 3, abs=0.03)


async def test_the_carrier_calls_the_pbx(lab: Lab):
    for step, application in enumerate(("Answer()", "Wait(0.3)", "Hangup()"), 1):
        await lab.pbx.console(f"dialplan add extension 95500,{step},{application} into telephony-inbound")

    async def caller(call: CarrierCall) -> None:
        await call.listen()

    call = await lab.carrier.place("95500", caller, trunk="b")
    await call.wait_answered()
    await call.wait_ended()
    assert call.final_code == 200
    assert "PJSIP/carrier-b-" in lab.pbx.cdr_file.read_text()


async def test_a_call_that_the_pbx_refuses_tells_its_code(lab: Lab):
    await lab.pbx.console("dialplan add extension 95501,1,Hangup(17) into telephony-inbound")
    call = await lab.carrier.place("95501", answer_and_listen())
    await call.wait_ended()
    assert (call.final_code, call.answered_at) == (486, None)


async def test_a_mistake_in_a_subscriber_is_seen(lab: Lab, manager: Manager):
    async def wrong(call: CarrierCall) -> None:
        await call.answer()
        await call.press("x")

    lab.carrier.subscribe(NUMBER, wrong)
    await manager.originate(NUMBER, channel_id="wrong")
    call = await lab.carrier.wait_for_call(NUMBER)
    await call.wait_ended()
    assert isinstance(call.error, LabError)
    call.error = None


async def test_the_controllers_ami_user_has_its_rights_and_no_more(lab: Lab):
    async with Manager(lab.pbx.address, lab.pbx.ami_port, lab.pbx.ami_user, lab.pbx.ami_secret) as ami:
        refused = await ami.action(Action="Command", Command="core show version")
        assert (refused["Response"], refused["Message"]) == ("Error", "Permission denied")
        assert (await ami.action(Action="CoreStatus"))["Response"] == "Success"


async def test_both_start_without_a_single_error(lab: Lab):
    for instance in (lab.pbx, lab.carrier.asterisk):
        log = instance.log_file.read_text()
        assert "modules will be loaded" in log
        assert [line for line in log.splitlines() if " ERROR[" in line] == []


async def test_the_pbx_restarts_on_its_ports_with_its_database(lab: Lab):
    await lab.pbx.console("database put lab key kept")
    # The AstDB reaches the disk up to a second late, but a stop in good order writes it.
    await lab.pbx.restart()
    assert "kept" in await lab.pbx.console("database get lab key")
    await lab.pbx.kill()
    assert not lab.pbx.running
    with pytest.raises(LabError, match="console"):
        await lab.pbx.console("core show version")
    await lab.pbx.start()
    async with Manager(lab.pbx.address, lab.pbx.ami_port, lab.pbx.ami_user, lab.pbx.ami_secret):
        assert await lab.pbx.channels() == 0


async def test_two_labs_run_beside_each_other_and_leave_nothing(lab: Lab):
    async with Lab(program=lab.pbx.program) as other:
        assert other.state.number != lab.state.number
        assert {s.number for s in running_labs()} >= {lab.state.number, other.state.number}
        assert stat.S_IMODE(other.state_file.stat().st_mode) == 0o600
        other.carrier.default = answer_and_listen(after=0.0, listen=0.1)
        await other.pbx.console("channel originate PJSIP/1@carrier application Wait 5")
        await (await other.carrier.wait_for_call("1")).wait_ended()
        assert lab.carrier.calls == []
        folder, pids = Path(other.state.run_dir), (other.pbx.pid, other.carrier.asterisk.pid)
    assert not folder.exists()
    assert all(pid is not None and not Path(f"/proc/{pid}").exists() for pid in pids)
    assert other.state.number not in {s.number for s in running_labs()}


_UP = """
import asyncio
from telephony.lab import answer_and_listen, up
asyncio.run(up(default=answer_and_listen()))
"""


@pytest.mark.parametrize("way", ["down", "kill"])
async def test_a_lab_of_another_process_is_found_and_ends_with_it(lab: Lab, way: str):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _UP, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20):
            while not (found := [s for s in running_labs() if s.pid == process.pid]):
                await asyncio.sleep(0.05)
        (state,) = found
        async with Manager(state.pbx_address, state.ami_port, state.test_user, state.test_secret):
            pass
        if way == "down":
            await down(state)
        else:
            os.kill(state.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            while await _listens(state.pbx_address, state.ami_port):
                await asyncio.sleep(0.02)
        await process.wait()
        assert state.number not in {s.number for s in running_labs()}
        # The next lab clears away what a killed one left.
        async with Lab(program=lab.pbx.program) as following:
            assert following.state.pid == os.getpid()
            left = json.loads(following.state_file.read_text())["number"]
            assert not Path(state.run_dir).exists() or left == state.number
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True
