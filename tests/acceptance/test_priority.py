"""Codes go first: what reaches the carrier, and when, while payments wait for a place.

The order and the times are the carrier's.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from telephony.lab import CarrierCall, Lab, hang_up_early, no_answer
from tests.acceptance.control import Api, ControllerProcess, Json, api_of, settings_of
from tests.acceptance.test_outcomes import ringing
from tests.acceptance.test_payments import pay

pytestmark = pytest.mark.lab


@asynccontextmanager
async def controller(lab: Lab, folder: Path, **sections: Any) -> AsyncIterator[tuple[ControllerProcess, Api]]:
    folder.mkdir(exist_ok=True)
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
