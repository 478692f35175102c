"""Every row of docs/outcomes.md on a real Asterisk: what a call ends as, and that the next one works."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from telephony.lab import (
    Lab,
    Subscriber,
    answer_and_listen,
    busy,
    decline,
    hang_up_early,
    no_answer,
    press_keys,
    reject,
    unallocated,
)
from tests.acceptance.control import Api, ControllerProcess, Json, Wire, api_of, settings_of

pytestmark = pytest.mark.lab

NEXT = "+8613800009999"
CALLED = "+8613800000001"


@pytest_asyncio.fixture(loop_scope="session")
async def process(lab: Lab, tmp_path: Path) -> AsyncIterator[ControllerProcess]:
    controller = ControllerProcess(tmp_path, settings_of(lab, tmp_path))
    await controller.start()
    yield controller
    await controller.stop()


async def the_next_call_works(lab: Lab, api: Api) -> None:
    """The proof that nothing of the disturbance is left: a call to somebody else, and no channel after it."""
    lab.carrier.subscribe(NEXT, hang_up_early(answer_after=0.1, hang_up_after=0.5))
    view = await api.verify(NEXT)
    call = await api.call_ended(view)
    assert (call["status"], call["attempts"][-1]["end_reason"]) == ("completed", "hung_up_early")
    for one in lab.carrier.calls:
        await one.wait_ended(20)
    await no_channels(lab)


async def no_channels(lab: Lab) -> None:
    for _ in range(100):
        if await lab.pbx.channels() == 0:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await lab.pbx.console("core show channels"))


def row(call: Json) -> tuple[Any, ...]:
    attempt = call["attempts"][-1]
    return call["status"], call["failure_reason"], attempt["end_reason"], attempt["sip"]


REFUSALS: list[tuple[str, Subscriber, tuple[Any, ...], str]] = [
    ("busy", busy(), ("busy", "busy", "busy", 486), "pending"),
    ("busy everywhere", reject(600), ("busy", "busy", "busy", 600), "pending"),
    ("rings on", no_answer(), ("no_answer", "no_answer", "no_answer", None), "pending"),
    ("switched off", no_answer(ring_for=0.2), ("unreachable", "unreachable", "unreachable", 480), "pending"),
    ("408 after ringing", reject(408, ring=True), ("no_answer", "no_answer", "no_answer", 408), "pending"),
    ("declined", decline(after=0.1), ("rejected", "declined", "declined", 603), "pending"),
    ("403 after ringing", reject(403, ring=True), ("rejected", "declined", "declined", 403), "pending"),
    ("never again", reject(607, ring=True), ("rejected", "blocked", "blocked", 607), "failed"),
    ("unallocated", unallocated(), ("invalid_number", "unallocated", "unallocated", 404), "failed"),
    ("gone", reject(410), ("invalid_number", "unallocated", "unallocated", 410), "failed"),
    ("malformed", reject(484), ("invalid_number", "invalid_number", "invalid_number", 484), "failed"),
    ("full", reject(503), ("failed", "congestion", "congestion", 503), "pending"),
    ("we are refused", reject(403), ("failed", "trunk_refused", "trunk_refused", 403), "pending"),
    ("the trunk breaks", reject(500), ("failed", "trunk_fault", "trunk_fault", 500), "pending"),
    (
        "hung up in mid-code",
        hang_up_early(hang_up_after=2.0),
        ("completed", None, "hung_up_early", None),
        "pending",
    ),
    ("heard", answer_and_listen(after=0.2), ("completed", None, "heard", None), "pending"),
]


NEXT_TRUNK = ("full", "we are refused", "the trunk breaks")
"""Nothing has rung, and the trunk is to blame: the next one is tried at once. No other row is."""


async def test_what_the_callee_and_the_carrier_do(lab: Lab, process: ControllerProcess) -> None:
    async with api_of(process.url) as api:
        numbers = [f"+861370000{index:04d}" for index in range(len(REFUSALS))]
        for number, (_name, subscriber, _row, _verification) in zip(numbers, REFUSALS, strict=True):
            lab.carrier.subscribe(number, subscriber)
        views = await asyncio.gather(*(api.verify(number) for number in numbers))
        calls = await asyncio.gather(*(api.call_ended(view) for view in views))
        for view, call, (name, _subscriber, expected, verification) in zip(
            views, calls, REFUSALS, strict=True
        ):
            assert row(call) == expected, name
            tried = ["short", "main"] if name in NEXT_TRUNK else ["short"]
            assert [attempt["trunk"] for attempt in call["attempts"]] == tried, name
            assert len(lab.carrier.calls_to(view["to"])) == len(tried), name
            seen = await api.get(f"/v1/verifications/{view['id']}")
            assert seen["status"] == verification, name
        await the_next_call_works(lab, api)


async def test_keys_asked_for_pressed_and_not(lab: Lab, process: ControllerProcess) -> None:
    async with api_of(process.url) as api:
        silent, presses, repeats = "+8613800000011", "+8613800000012", "+8613800000013"
        lab.carrier.subscribe(silent, answer_and_listen(after=0.1))
        lab.carrier.subscribe(presses, press_keys([(1.0, "5")]))
        lab.carrier.subscribe(repeats, press_keys([(3.0, "*")]))
        views = [
            await api.verify(silent, require_keypress=True),
            await api.verify(presses, require_keypress=True),
            await api.verify(repeats),
        ]
        calls = await asyncio.gather(*(api.call_ended(view, 90) for view in views))
        assert [row(call)[2] for call in calls] == ["no_keypress", "heard", "heard"]
        assert [call["attempts"][0]["keys"] for call in calls] == [None, "5", "*"]
        await the_next_call_works(lab, api)


async def ringing(api: Api, view: Json) -> None:
    await api.until(f"/v1/calls/{view['call_id']}", lambda call: call["status"] == "ringing")


async def answered(api: Api, view: Json) -> None:
    await api.until(f"/v1/calls/{view['call_id']}", lambda call: call["status"] == "answered")


async def test_cancel_while_ringing_and_while_queued(lab: Lab, process: ControllerProcess) -> None:
    lab.carrier.subscribe(CALLED, no_answer())
    async with api_of(process.url) as api:
        view = await api.verify(CALLED)
        await ringing(api, view)
        await api.post(f"/v1/verifications/{view['id']}/cancel")
        call = await api.call_ended(view)
        assert row(call)[:2] == ("canceled", "canceled")
        assert (await api.get(f"/v1/verifications/{view['id']}"))["status"] == "canceled"
        await the_next_call_works(lab, api)


async def test_the_ami_link_is_cut_in_mid_call_and_while_it_rings(lab: Lab, tmp_path: Path) -> None:
    async with Wire(lab.pbx.address, lab.pbx.ami_port) as wire:
        base = settings_of(lab, tmp_path)
        ami = {**base["pbx"]["ami"], "host": "127.0.0.1", "port": wire.port}
        controller = ControllerProcess(tmp_path, settings_of(lab, tmp_path, pbx={"ami": ami}))
        await controller.start()
        try:
            async with api_of(controller.url) as api:
                lab.carrier.subscribe(CALLED, hang_up_early(hang_up_after=4.0))
                rings, answers_late = "+8613700000002", "+8613800000003"
                lab.carrier.subscribe(rings, reject(486, after=3.0, ring=True))
                lab.carrier.subscribe(answers_late, answer_and_listen(after=3.0))
                views = await asyncio.gather(*(api.verify(n) for n in (CALLED, rings, answers_late)))
                await answered(api, views[0])
                await ringing(api, views[1])
                await ringing(api, views[2])
                wire.cut()
                for number in (CALLED, rings):
                    await lab.carrier.calls_to(number)[0].wait_ended()
                wire.mend()
                calls = await asyncio.gather(*(api.call_ended(view) for view in views))
                assert row(calls[0])[:3] == ("completed", None, "hung_up_early")
                assert calls[1]["status"] in ("busy", "no_answer", "failed")
                assert calls[1]["status"] != "unknown"
                assert row(calls[2])[:3] == ("completed", None, "heard")
                assert all(len(lab.carrier.calls_to(n)) == 1 for n in (CALLED, rings, answers_late))
                await the_next_call_works(lab, api)
        finally:
            await controller.stop()


async def test_the_pbx_restarts_in_mid_call_and_while_it_rings(lab: Lab, process: ControllerProcess) -> None:
    rings = "+8613800000002"
    lab.carrier.subscribe(CALLED, answer_and_listen(after=0.1))
    lab.carrier.subscribe(rings, no_answer())
    async with api_of(process.url) as api:
        views = [await api.verify(CALLED), await api.verify(rings)]
        await answered(api, views[0])
        await ringing(api, views[1])
        await lab.pbx.kill()
        await lab.pbx.start()
        calls = await asyncio.gather(*(api.call_ended(view) for view in views))
        assert row(calls[0])[:2] == ("failed", "pbx_lost")
        assert row(calls[1])[:2] == ("failed", "pbx_lost")
        assert all(len(lab.carrier.calls_to(number)) == 1 for number in (CALLED, rings))
        # The carrier heard no BYE from a PBX that was killed; its side is ended by hand.
        await lab.carrier.asterisk.console("channel request hangup all")
        await the_next_call_works(lab, api)


async def test_the_pbx_is_away_at_the_request(lab: Lab, process: ControllerProcess) -> None:
    lab.carrier.subscribe(CALLED, hang_up_early())
    in_time = "+8613800000002"
    lab.carrier.subscribe(in_time, hang_up_early())
    async with api_of(process.url) as api:
        await lab.pbx.stop()
        late = await api.verify(CALLED, dial_within=1)
        patient = await api.verify(in_time, dial_within=60)
        failed = await api.call_ended(late, timeout=3)
        assert (failed["status"], failed["failure_reason"]) == ("failed", "not_dialed_in_time")
        assert failed["attempts"] == []
        seen = await api.get(f"/v1/verifications/{late['id']}")
        assert (seen["status"], seen["failure_reason"]) == ("failed", "not_dialed_in_time")
        await lab.pbx.start()
        call = await api.call_ended(patient)
        assert call["status"] == "completed"
        assert len(lab.carrier.calls_to(CALLED)) == 0
        assert len(lab.carrier.calls_to(in_time)) == 1
        await the_next_call_works(lab, api)


async def test_the_controller_is_killed(lab: Lab, process: ControllerProcess) -> None:
    rings, refuses = "+8613800000002", "+8613800000003"
    lab.carrier.subscribe(CALLED, answer_and_listen(after=0.1))
    lab.carrier.subscribe(rings, answer_and_listen(after=15.0))
    lab.carrier.subscribe(refuses, reject(486, after=4.0, ring=True))
    async with api_of(process.url) as api:
        views = await asyncio.gather(*(api.verify(n) for n in (CALLED, rings, refuses)))
        await answered(api, views[0])
        await ringing(api, views[1])
        await ringing(api, views[2])
    await process.kill()
    for number in (CALLED, refuses):
        await lab.carrier.calls_to(number)[0].wait_ended(20)
    await process.start()
    async with api_of(process.url) as api:
        calls = await asyncio.gather(*(api.call_ended(view) for view in views))
        assert row(calls[0])[:2] == ("failed", "interrupted")
        assert row(calls[1])[:3] == ("completed", None, "heard"), (
            "a leg that rang was adopted and heard its code"
        )
        assert calls[2]["status"] in ("busy", "failed")
        assert all(len(lab.carrier.calls_to(n)) == 1 for n in (CALLED, rings, refuses))
        assert {(await api.get(f"/v1/verifications/{v['id']}"))["status"] for v in views} == {"pending"}
        await the_next_call_works(lab, api)


async def test_the_controller_freezes_in_mid_call(lab: Lab, process: ControllerProcess) -> None:
    lab.carrier.subscribe(CALLED, answer_and_listen(after=0.1))
    async with api_of(process.url) as api:
        view = await api.verify(CALLED, play_times=1)
        await answered(api, view)
        process.signal(signal.SIGSTOP)
        await lab.carrier.calls_to(CALLED)[0].wait_ended(40)
        process.signal(signal.SIGCONT)
        call = await api.call_ended(view)
        assert row(call)[:3] == ("completed", None, "hung_up_early")
        await the_next_call_works(lab, api)


async def test_a_prompt_cannot_be_made(lab: Lab, process: ControllerProcess) -> None:
    """Nothing can be written where the sounds lie: nobody is rung, and it works again by itself."""
    media = Path(f"/dev/shm/telephony-test-{lab.state.number}")
    away = media.with_name(f"{media.name}-away")
    async with api_of(process.url) as api:
        media.rename(away)
        media.touch()
        try:
            # The first fails as it writes, the next one as it looks at the folder.
            views = [await api.verify(number) for number in (CALLED, "+8613800000002")]
            calls = [await api.call_ended(view, timeout=10) for view in views]
        finally:
            media.unlink()
            away.rename(media)
        for view, call in zip(views, calls, strict=True):
            assert row(call) == ("failed", "prompt_failed", "prompt_failed", None)
            assert call["attempts"][0]["dialed_at"] is None
            assert (await api.get(f"/v1/verifications/{view['id']}"))["status"] == "failed"
        assert lab.carrier.calls == []
        await the_next_call_works(lab, api)


async def test_the_pbx_cannot_reach_the_controller(lab: Lab, tmp_path: Path) -> None:
    """Answered, and where the dialplan looks for the controller nobody listens: an apology, and the end."""
    lab.carrier.subscribe(CALLED, answer_and_listen(after=0.1))
    controller = ControllerProcess(tmp_path, settings_of(lab, tmp_path, fastagi={"port": 0}))
    await controller.start()
    try:
        async with api_of(controller.url) as api:
            view = await api.verify(CALLED)
            call = await api.call_ended(view)
            assert row(call)[:3] == ("failed", "no_session", "no_session")
            assert (await api.get(f"/v1/verifications/{view['id']}"))["status"] == "pending"
        await no_channels(lab)
    finally:
        await controller.stop()
    (rung,) = lab.carrier.calls_to(CALLED)
    assert rung.final_code == 200


@pytest.mark.parametrize("waited", [False, pytest.param(True, marks=pytest.mark.soak)])
async def test_what_a_dead_controller_cannot_know(lab: Lab, tmp_path: Path, waited: bool) -> None:
    """Killed with the PBX: what rang is `unknown`, and what waited past its TTL is never dialled.

    The shortest TTL is half a minute; where it is not waited for, the rows are moved instead.
    """
    rings, waits = "+8613800000002", "+8613800000003"
    lab.carrier.subscribe(rings, no_answer())
    lab.carrier.subscribe(waits, answer_and_listen(after=0.1))
    # One place only, so that the second waits in the queue.
    settings = settings_of(lab, tmp_path, calls={"max_calls": 1, "otp_share": 0})
    controller = ControllerProcess(tmp_path, settings)
    await controller.start()
    try:
        async with api_of(controller.url) as api:
            views = [await api.verify(rings, ttl=30), await api.verify(waits, ttl=30)]
            await ringing(api, views[0])
        await controller.kill()
        await lab.pbx.kill()
        if waited:
            await asyncio.sleep(30)
        else:
            move_deadline(tmp_path, views[1])
        await lab.pbx.start()
        await controller.start()
        async with api_of(controller.url) as api:
            calls = [await api.call_ended(view) for view in views]
            assert row(calls[0])[:2] == ("unknown", "pbx_lost")
            assert (calls[1]["status"], calls[1]["failure_reason"]) == ("expired", "expired")
            assert calls[1]["attempts"] == []
            seen = [await api.get(f"/v1/verifications/{view['id']}") for view in views]
            assert [view["status"] for view in seen] == ["expired" if waited else "pending", "expired"]
            assert [len(lab.carrier.calls_to(number)) for number in (rings, waits)] == [1, 0]
            # The carrier heard no BYE from a PBX that was killed; its side is ended by hand.
            await lab.carrier.asterisk.console("channel request hangup all")
            await the_next_call_works(lab, api)
    finally:
        await controller.stop()


def move_deadline(folder: Path, view: Json) -> None:
    """Let a verification and its call expire now, while no controller looks."""
    now = time.time_ns() // 1_000_000
    with sqlite3.connect(folder / "telephony.db") as connection:
        for table, which in (("request", view["call_id"]), ("verification", view["id"])):
            connection.execute(f"UPDATE {table} SET expires_at = ? WHERE id = ?", (now, which))
