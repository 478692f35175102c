"""Codes go first: what reaches the carrier, and when, while payments wait for a place.

The order and the times are the carrier's.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from telephony.calls.policy import PRIORITIES
from telephony.lab import CarrierCall, Lab, busy, hang_up_early, no_answer
from telephony.model.call import CallClass
from telephony.model.ids import new_id
from telephony.store import Store
from telephony.store.records import PaymentRecord
from tests.acceptance.control import SPEECH_CACHE, Api, ControllerProcess, Json, api_of, settings_of
from tests.acceptance.test_outcomes import ringing
from tests.acceptance.test_payments import pay
from tests.store_engines import PostgresServer
from tests.unit.store.makers import a_request

pytestmark = pytest.mark.lab

HOUR_MS = 3_600_000


@asynccontextmanager
async def controller(lab: Lab, folder: Path, **sections: Any) -> AsyncIterator[tuple[ControllerProcess, Api]]:
    process = ControllerProcess(folder, settings_of(lab, folder, **sections))
    await process.start()
    try:
        async with api_of(process.url) as api:
            yield process, api
    finally:
        await process.stop()


async def pay_once(api: Api, to: str) -> Json:
    return await pay(api, to=to, retry={"attempts": 1})


async def test_codes_pass_payments_in_a_full_queue(lab: Lab, tmp_path: Path) -> None:
    """Three places, one of them kept for codes; seven payments and then four codes at once."""
    payments = [f"+861380005{index:04d}" for index in range(7)]
    codes = [f"+861390005{index:04d}" for index in range(4)]
    # The carrier's side hangs up, so that its account is ahead of what the controller knows.
    lab.carrier.default = hang_up_early(answer_after=0.1, hang_up_after=1.0)
    async with controller(lab, tmp_path, calls={"max_calls": 3, "otp_share": 0.34}) as (_process, api):
        made = [await pay_once(api, number) for number in payments]
        await lab.carrier.wait_for_call(payments[1])
        asked_at = time.monotonic()
        views = await asyncio.gather(*(api.verify(number) for number in codes))
        first = await lab.carrier.wait_for_call(codes[0])
        calls = await asyncio.gather(*(api.call_ended(one) for one in (*views, *made)))
    assert {call["attempts"][-1]["end_reason"] for call in calls} == {"hung_up_early"}
    rung = sorted(lab.carrier.calls, key=lambda call: call.arrived_mono)
    assert sorted(call.number for call in rung) == sorted(payments + codes), "each was rung once"
    order = [call.number for call in rung]
    assert set(order[2:6]) == set(codes), "no waiting payment went before a code"
    assert order[6:] == payments[2:], "payments go in their order"
    assert first.arrived_mono - asked_at < 0.5, "the first found a place free"
    assert most_at_once(rung) == 3


def most_at_once(rung: list[CarrierCall]) -> int:
    """How many stood at once; the carrier may learn of an end a moment late."""
    begins = [(call.arrived_mono, 1) for call in rung]
    ends = [(call.ended_at - 0.2, -1) for call in rung if call.ended_at is not None]
    return max(itertools.accumulate(step for _moment, step in sorted(begins + ends)))


async def test_a_number_whose_payment_waits_gets_its_code(lab: Lab, tmp_path: Path) -> None:
    """Neither waits for the other; and a payment that waits without a place is canceled at once."""
    rings, waits = "+8613800050001", "+8613800050002"
    lab.carrier.subscribe(rings, no_answer())
    lab.carrier.subscribe(waits, hang_up_early(answer_after=0.1, hang_up_after=0.5))
    async with controller(lab, tmp_path, calls={"max_calls": 2, "otp_share": 0.5}) as (_process, api):
        standing = await pay_once(api, rings)
        await ringing(api, standing)
        waiting = await pay_once(api, waits)
        call = await api.call_ended(await api.verify(waits))
        assert call["attempts"][0]["end_reason"] == "hung_up_early"
        assert (await api.get(f"/v1/calls/{waiting['call_id']}"))["status"] == "queued"
        await api.post(f"/v1/payment-confirmations/{waiting['id']}/cancel")
        assert (await api.call_ended(waiting, timeout=2))["status"] == "canceled"
        await api.post(f"/v1/payment-confirmations/{standing['id']}/cancel")
        await api.call_ended(standing)
    assert len(lab.carrier.calls_to(waits)) == 1


async def backlog(url: str, count: int) -> None:
    """Payments that are due now, written straight into the store."""
    store = await Store.open(url, owner="backlog")
    now = await store.now_ms()
    try:
        for start in range(0, count, 1000):
            async with store.transaction() as work:
                for index in range(start, min(count, start + 1000)):
                    request = a_request(
                        flow="payment_confirmation",
                        flow_ref=new_id("pay"),
                        to_number=f"+861370{index:07d}",
                        call_class=CallClass.TRANSACTION,
                        priority=PRIORITIES[CallClass.TRANSACTION],
                        due_at=now,
                        expires_at=now + HOUR_MS,
                        created_at=now,
                        updated_at=now,
                    )
                    await work.payments.add(
                        PaymentRecord(
                            id=request.flow_ref or "",
                            client=request.client,
                            to_number=request.to_number,
                            locale="en",
                            order_id=f"B-{index}",
                            amount="128.50",
                            currency="CNY",
                            payee="Acme Taxi",
                            request_id=request.id,
                            expires_at=now + HOUR_MS,
                            created_at=now,
                            updated_at=now,
                        )
                    )
                    await work.requests.add(request)
    finally:
        await store.close()


@asynccontextmanager
async def idle_and_busy(
    lab: Lab, folder: Path, urls: Sequence[str], waiting: int
) -> AsyncIterator[tuple[Api, Api]]:
    """Two controllers on one PBX: one without anything to do, one with payments waiting for a place.

    No call is answered here, so neither needs a FastAGI server that the PBX knows.
    """
    await backlog(urls[1], waiting)
    async with AsyncExitStack() as stack:
        apis = []
        for name, url in zip(("idle", "busy"), urls, strict=True):
            media = Path(f"/dev/shm/telephony-test-{lab.state.number}-{name}")
            stack.callback(shutil.rmtree, media, ignore_errors=True)
            stack.callback(media.with_name(f"{media.name}.lock").unlink, missing_ok=True)
            speech = {"cache_dir": str(SPEECH_CACHE), "media_dir": str(media)}
            _process, api = await stack.enter_async_context(
                controller(
                    lab,
                    folder / name,
                    store={"url": url},
                    speech=speech,
                    server={"node": name},
                    fastagi={"port": 0},
                    calls={"max_calls": 4, "otp_share": 0.75},
                    trunks=[{"name": "main", "endpoint": "carrier", "ring_timeout": 300}],
                )
            )
            apis.append(api)
        yield apis[0], apis[1]


async def seconds_to_invite(lab: Lab, api: Api, number: str) -> float:
    """From the moment an app asks for a code to the INVITE at the carrier."""
    asked_at = time.monotonic()
    view = await api.verify(number)
    (call,) = lab.carrier.calls_to(number) or [await lab.carrier.wait_for_call(number)]
    assert (await api.call_ended(view))["status"] == "busy"
    return call.arrived_mono - asked_at


async def compare(lab: Lab, folder: Path, urls: Sequence[str], *, waiting: int, samples: int) -> str:
    """Ask both in turn, hold the medians against each other, and tell them."""
    lab.carrier.default = no_answer()
    async with idle_and_busy(lab, folder, urls, waiting) as (idle, loaded):
        async with asyncio.timeout(10):
            while not lab.carrier.calls:
                await asyncio.sleep(0.05)
        times: dict[str, list[float]] = {"idle": [], "backlog": []}
        for index in range(samples):
            pair = [(0, "idle", idle), (1, "backlog", loaded)]
            for place, name, api in pair if index % 2 else reversed(pair):
                number = f"+86138{place:02d}{index:06d}"
                lab.carrier.subscribe(number, busy())
                times[name].append(await seconds_to_invite(lab, api, number))
        standing = [call for call in lab.carrier.calls if call.number.startswith("+86137")]
        assert len(standing) == 1, "the others waited all the time"
    idle_p50, loaded_p50 = (statistics.median(times[name]) for name in ("idle", "backlog"))
    assert loaded_p50 <= 1.5 * idle_p50, times
    return f"POST to INVITE, p50: idle {idle_p50:.4f} s, behind {waiting} payments {loaded_p50:.4f} s"


def two_files(folder: Path) -> list[str]:
    for name in ("idle", "busy"):
        (folder / name).mkdir()
    return [f"sqlite:///{folder}/{name}/telephony.db" for name in ("idle", "busy")]


async def test_a_backlog_of_payments_makes_no_code_late(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told = await compare(lab, tmp_path, two_files(tmp_path), waiting=10_000, samples=25)
    record_property("told", told)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_a_backlog_of_payments_makes_no_code_late_for_long(
    lab: Lab,
    tmp_path: Path,
    engine: str,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    urls = two_files(tmp_path)
    if engine == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        urls = [server.new_database() for _ in urls]
    told = await compare(lab, tmp_path, urls, waiting=10_000, samples=500)
    record_property("told", told)
