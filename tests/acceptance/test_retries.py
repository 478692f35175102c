"""The retry table (`telephony/calls/policy.py`) with the carrier as the judge.

What the carrier itself counted: how often each phone was rung, over which trunk, in what order and with
what pauses. Trunk `a` is the first in the configuration and `b` the second; both serve every number.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from telephony.lab import (
    CarrierCall,
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
from tests.acceptance.control import Api, Json
from tests.acceptance.test_outcomes import no_channels, ringing
from tests.acceptance.test_payments import Shop, ended, pay, shop_and_controller

pytestmark = pytest.mark.lab

TRUNKS = [
    {"name": "a", "endpoint": "carrier", "ring_timeout": 2},
    {"name": "b", "endpoint": "carrier-b", "ring_timeout": 2},
]
TWICE = {"attempts": 2, "pause": 2, "longest_pause": 2}
THRICE = {"attempts": 3, "pause": 2, "longest_pause": 3}
AT_ONCE = 1.4
"""Seconds: no pause between two rounds is as short, and no second trunk as late."""

LATE = 1.5
"""Seconds that a busy machine may add to a pause."""


@asynccontextmanager
async def two_trunks(lab: Lab, folder: Path) -> AsyncIterator[tuple[Shop, Api]]:
    # What is tried here would have the breakers of both trunks open.
    settings = {"trunks": TRUNKS, "breaker": {"failures": 1000}}
    async with shop_and_controller(lab, folder, **settings) as (shop, api, _controller):
        yield shop, api


def in_turn(*subscribers: Subscriber) -> Subscriber:
    """A phone that behaves otherwise each time it is rung."""
    turns = iter(subscribers)

    async def script(call: CarrierCall) -> None:
        await next(turns)(call)

    return script


def by_trunk(a: Subscriber, b: Subscriber) -> Subscriber:
    """Networks that treat the number differently."""

    async def script(call: CarrierCall) -> None:
        await (a if call.trunk == "a" else b)(call)

    return script


def early_media(code: int) -> Subscriber:
    """183 with audio of the network's own, then a refusal."""

    async def script(call: CarrierCall) -> None:
        await call.early_media("beep")
        await call.reject(code)

    return script


def confirms() -> Subscriber:
    """A yes in a hurry, which leads on to the amount, and another one when that was said."""
    return press_keys([(1.0, "1"), (7.5, "1")], answer_after=0.1)


def wrong_keys() -> Subscriber:
    """Three answers that are none, one to each asking."""
    return press_keys([(1.0, "9"), (1.6, "9"), (2.2, "9")], answer_after=0.1)


@dataclass(frozen=True)
class Row:
    """What a phone does, and what the carrier and the app must see of it.

    `rings` is the carrier's own list: rounds by `|`, and in each the trunk with the SIP code it gave.
    `call` is the call's status and `failure_reason`, `payment` what the webhook says and why.
    """

    name: str
    phone: Subscriber
    rings: str
    call: tuple[str, str | None]
    payment: tuple[str, str | None]
    retry: Json = field(default_factory=lambda: TWICE)


def never(name: str, phone: Subscriber, code: int, status: str, reason: str) -> Row:
    """A cause that is never rung again, on no trunk."""
    return Row(name, phone, f"a{code}", (status, reason), ("failed", reason))


def later(name: str, phone: Subscriber, code: int, status: str, reason: str) -> Row:
    """A cause that is rung again after a pause, by the same trunk."""
    return Row(name, phone, f"a{code} | a{code}", (status, reason), ("failed", reason))


def overflows(name: str, phone: Subscriber, code: int, reason: str) -> Row:
    """A trunk's fault: the other trunk at once, and both again after a pause."""
    rings = f"a{code} b{code} | a{code} b{code}"
    return Row(name, phone, rings, ("failed", reason), ("failed", reason))


CONFIRMED = (("completed", None), ("confirmed", None))
ROWS = [
    Row("busy", busy(), "a486 | a486 | a486", ("busy", "busy"), ("failed", "busy"), THRICE),
    later("busy everywhere", reject(600), 600, "busy", "busy"),
    later("busy after ringing", reject(486, ring=True), 486, "busy", "busy"),
    later("switched off", reject(480), 480, "unreachable", "unreachable"),
    later("480 after ringing", no_answer(ring_for=0.2), 480, "unreachable", "unreachable"),
    later("rings on", no_answer(), 487, "no_answer", "no_answer"),
    later("408 after ringing", reject(408, ring=True), 408, "no_answer", "no_answer"),
    overflows("408 before ringing", reject(408), 408, "trunk_fault"),
    overflows("503", reject(503), 503, "congestion"),
    overflows("500", reject(500), 500, "trunk_fault"),
    overflows("502", reject(502), 502, "trunk_fault"),
    overflows("504", reject(504), 504, "trunk_fault"),
    overflows("403 before ringing", reject(403), 403, "trunk_refused"),
    overflows("401", reject(401), 401, "trunk_refused"),
    overflows("407", reject(407), 407, "trunk_refused"),
    later("503 after ringing", reject(503, ring=True), 503, "failed", "congestion"),
    later("500 after ringing", reject(500, ring=True), 500, "failed", "trunk_fault"),
    later("503 after early media", early_media(503), 503, "failed", "congestion"),
    never("403 after ringing", reject(403, ring=True), 403, "rejected", "declined"),
    never("403 after early media", early_media(403), 403, "rejected", "declined"),
    never("declined", decline(after=0.1), 603, "rejected", "declined"),
    never("603 before ringing", reject(603), 603, "rejected", "declined"),
    never("607", reject(607, ring=True), 607, "rejected", "blocked"),
    never("608", reject(608), 608, "rejected", "blocked"),
    never("unallocated", unallocated(), 404, "invalid_number", "unallocated"),
    never("gone", reject(410), 410, "invalid_number", "unallocated"),
    never("exists nowhere", reject(604), 604, "invalid_number", "unallocated"),
    never("malformed", reject(484), 484, "invalid_number", "invalid_number"),
    Row(
        "no answer to three askings",
        wrong_keys(),
        "a200 | a200",
        ("completed", None),
        ("failed", "no_input"),
    ),
    Row(
        "hung up early",
        hang_up_early(answer_after=0.1, hang_up_after=0.5),
        "a200 | a200",
        ("completed", None),
        ("failed", "hung_up_early"),
    ),
    Row("busy, then confirmed", in_turn(busy(), confirms()), "a486 | a200", *CONFIRMED),
    Row("full, confirmed over the other", by_trunk(reject(503), confirms()), "a503 b200", *CONFIRMED),
    Row(
        "full, then busy over the other",
        by_trunk(reject(503), busy()),
        "a503 b486 | a503 b486",
        ("busy", "busy"),
        ("failed", "busy"),
    ),
    Row(
        "full, then declined over the other",
        by_trunk(reject(503), decline(after=0.1)),
        "a503 b603",
        ("rejected", "declined"),
        ("failed", "declined"),
    ),
    Row(
        "full at first, rings on later",
        in_turn(reject(503), reject(503), no_answer()),
        "a503 b503 | a487",
        ("no_answer", "no_answer"),
        ("failed", "no_answer"),
    ),
    Row(
        "unanswered, where only busy is worth a ring",
        reject(408, ring=True),
        "a408",
        ("no_answer", "no_answer"),
        ("failed", "no_answer"),
        {**TWICE, "on": ["busy"]},
    ),
    Row(
        "full, where only busy is worth a ring",
        reject(503),
        "a503 b503",
        ("failed", "congestion"),
        ("failed", "congestion"),
        {**TWICE, "on": ["busy"]},
    ),
    Row(
        "busy, and the deadline is before the next ring",
        busy(),
        "a486",
        ("busy", "busy"),
        ("failed", "busy"),
        {"attempts": 3, "pause": 900},
    ),
]


def rounds_of(calls: list[CarrierCall]) -> str:
    """What the carrier saw, as `Row.rings` has it: a new round where there was a pause."""
    told = ""
    for before, call in zip([None, *calls], calls, strict=False):
        if before is not None:
            told += " | " if pause_between(before, call) >= AT_ONCE else " "
        told += f"{call.trunk}{call.final_code}"
    return told


def pause_between(before: CarrierCall, after: CarrierCall) -> float:
    assert before.ended_at is not None
    return after.arrived_mono - before.ended_at


async def test_every_row_of_the_table(lab: Lab, tmp_path: Path) -> None:
    numbers = [f"+861380003{index:04d}" for index in range(len(ROWS))]
    for number, row in zip(numbers, ROWS, strict=True):
        lab.carrier.subscribe(number, row.phone)
    async with two_trunks(lab, tmp_path) as (shop, api):
        payments = []
        for number, row in zip(numbers, ROWS, strict=True):
            # One after another: a burst would make the second trunks late, which is another test's matter.
            payments.append(await pay(api, to=number, retry=row.retry))
            await asyncio.sleep(0.05)
        calls = await asyncio.gather(*(api.call_ended(payment, 90) for payment in payments))
        events = {}
        for _ in ROWS:
            event = await asyncio.wait_for(shop.told.get(), 10)
            events[event["data"]["id"]] = event
        await no_channels(lab)
        assert shop.told.empty(), "one webhook for each"
    wrong = [
        problem
        for number, row, payment, call in zip(numbers, ROWS, payments, calls, strict=True)
        for problem in problems_of(lab.carrier.calls_to(number), row, call, events[payment["id"]])
    ]
    assert not wrong, "\n".join(wrong)


def problems_of(rung: list[CarrierCall], row: Row, call: Json, event: Json) -> list[str]:
    """What is not as the row has it."""
    told = event["data"]
    status = event["type"].removeprefix("payment_confirmation.")
    trunks = [attempt["trunk"] for attempt in call["attempts"]]
    facts = {
        "the carrier rang": (rounds_of(rung), row.rings),
        "the call is": ((call["status"], call["failure_reason"]), row.call),
        "the webhook says": ((status, told["failure_reason"]), row.payment),
        "the attempts' trunks are": (trunks, [one.trunk for one in rung]),
    }
    problems = [f"{what} {seen}, not {wanted}" for what, (seen, wanted) in facts.items() if seen != wanted]
    rounds = 0
    for before, after in itertools.pairwise(rung):
        pause = pause_between(before, after)
        if pause >= AT_ONCE:
            steady = min(row.retry["longest_pause"], row.retry["pause"] * 2**rounds)
            rounds += 1
            if not 0.75 * steady <= pause <= 1.25 * steady + LATE:
                problems.append(f"pause {rounds} was {pause:.2f} s, not {steady} s")
    return [f"{row.name}: {problem}" for problem in problems]


async def test_a_full_trunk_is_passed_in_a_tenth_of_a_second(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """From the moment the first trunk refuses to the INVITE on the second, codes and payments in turn."""
    refused_at: dict[str, float] = {}

    async def full(call: CarrierCall) -> None:
        refused_at[call.number] = time.monotonic()
        await call.reject(503)

    lab.carrier.default = by_trunk(full, unallocated())
    async with two_trunks(lab, tmp_path) as (_shop, api):
        for index in range(20):
            number = f"+861380004{index:04d}"
            made = await (api.verify(number) if index % 2 else pay(api, to=number))
            assert (await api.call_ended(made))["failure_reason"] == "unallocated"
    took = []
    for number, moment in refused_at.items():
        first, second = lab.carrier.calls_to(number)
        assert (first.trunk, second.trunk) == ("a", "b")
        took.append(second.arrived_mono - moment)
    middle, most = statistics.median(took), max(took)
    record_property("told", f"from a 503 to the second INVITE {middle:.3f} s, {most:.3f} s at most")
    assert middle < 0.1, took


class DeafCarrier(asyncio.DatagramProtocol):
    """A UDP port where INVITEs arrive and nothing answers."""

    def __init__(self) -> None:
        self.calls: set[bytes] = set()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if data.startswith(b"INVITE"):
            self.calls |= {line for line in data.split(b"\r\n") if line.lower().startswith(b"call-id:")}


@asynccontextmanager
async def deaf_and_gone(lab: Lab) -> AsyncIterator[DeafCarrier]:
    """Two more trunks of the PBX: `deaf` takes INVITEs and is silent, `gone` answers no OPTIONS either."""
    loop = asyncio.get_running_loop()
    transport, carrier = await loop.create_datagram_endpoint(DeafCarrier, (lab.pbx.address, 0))
    port = transport.get_extra_info("sockname")[1]
    config = lab.pbx.run_dir / "etc" / "pjsip.conf"
    before = config.read_text()
    sections = "".join(
        f"[{name}]\ntype=endpoint\ntransport=transport-a\ncontext=lab-inbound\n"
        f"disallow=all\nallow=ulaw\naors={name}\n\n[{name}]\ntype=aor\n"
        f"contact=sip:{lab.pbx.address}:{port}\nqualify_frequency={seconds}\nqualify_timeout=0.5\n\n"
        for name, seconds in (("deaf", 0), ("gone", 1))
    )
    try:
        config.write_text(before + sections)
        await lab.pbx.console("module reload res_pjsip.so")
        async with asyncio.timeout(10):
            while "Unavail" not in await lab.pbx.console("pjsip show contacts"):
                await asyncio.sleep(0.1)
        yield carrier
    finally:
        config.write_text(before)
        await lab.pbx.console("module reload res_pjsip.so")
        transport.close()


async def test_a_trunk_that_does_not_answer_is_passed(lab: Lab, tmp_path: Path) -> None:
    """Silence up to the trunk's ring timeout without an 18x, and a trunk that the PBX knows to be away."""
    trunks = [
        {"name": "deaf", "endpoint": "deaf", "prefixes": ["+86137"], "ring_timeout": 2},
        {"name": "gone", "endpoint": "gone", "prefixes": ["+86138"], "ring_timeout": 2},
        {"name": "b", "endpoint": "carrier-b", "ring_timeout": 10},
    ]
    lab.carrier.default = unallocated()
    async with (
        deaf_and_gone(lab) as deaf,
        shop_and_controller(lab, tmp_path, trunks=trunks) as (_shop, api, _),
    ):
        began = time.monotonic()
        views = [await api.verify("+8613700040001"), await api.verify("+8613800040001")]
        calls = [await api.call_ended(view) for view in views]
    for call, first in zip(calls, ("deaf", "gone"), strict=True):
        told = [(attempt["trunk"], attempt["end_reason"]) for attempt in call["attempts"]]
        assert told == [(first, "trunk_fault"), ("b", "unallocated")]
    assert len(deaf.calls) == 1
    (after_deaf,), (after_gone,) = (lab.carrier.calls_to(view["to"]) for view in views)
    assert after_deaf.arrived_mono - began > 2
    assert after_gone.arrived_mono - began < 1.5


async def test_a_cancel_ends_it_wherever_it_is(lab: Lab, tmp_path: Path) -> None:
    """While it rings, and while it waits for the next round: nobody is rung again."""
    rings, waits = "+8613800030001", "+8613800030002"
    lab.carrier.subscribe(rings, no_answer())
    lab.carrier.subscribe(waits, busy())
    async with two_trunks(lab, tmp_path) as (shop, api):
        retry = {"attempts": 2, "pause": 1}
        made = [await pay(api, to=number, retry=retry) for number in (rings, waits)]
        await ringing(api, made[0])
        path = f"/v1/calls/{made[1]['call_id']}"
        await api.until(path, lambda call: call["status"] == "queued" and call["attempts"])
        for payment in made:
            await api.post(f"/v1/payment-confirmations/{payment['id']}/cancel")
        calls = await asyncio.gather(*(api.call_ended(payment, 10) for payment in made))
        assert {call["status"] for call in calls} == {"canceled"}
        events = [await asyncio.wait_for(shop.told.get(), 5) for _ in made]
        assert {event["type"] for event in events} == {"payment_confirmation.canceled"}
        await asyncio.sleep(1.5)
    assert [rounds_of(lab.carrier.calls_to(number)) for number in (rings, waits)] == ["a487", "a486"]


async def test_a_pbx_that_is_lost_is_no_reason_to_give_up(lab: Lab, tmp_path: Path) -> None:
    """Killed while one phone rings and somebody is on the line at the other: both are rung once more."""
    rings, talks = "+8613800030001", "+8613800030002"
    lab.carrier.subscribe(rings, in_turn(no_answer(), confirms()))
    lab.carrier.subscribe(talks, in_turn(answer_and_listen(after=0.1), confirms()))
    async with two_trunks(lab, tmp_path) as (shop, api):
        payments = [await pay(api, to=number, retry=TWICE) for number in (rings, talks)]
        await asyncio.gather(
            api.until(f"/v1/calls/{payments[0]['call_id']}", lambda call: call["status"] == "ringing"),
            api.until(f"/v1/calls/{payments[1]['call_id']}", lambda call: call["status"] == "answered"),
        )
        await lab.pbx.kill()
        await lab.pbx.start()
        calls = [await api.call_ended(payment) for payment in payments]
        assert [[attempt["end_reason"] for attempt in call["attempts"]] for call in calls] == [
            ["pbx_lost", "confirmed"],
            ["pbx_lost", "confirmed"],
        ]
        assert {(await ended(api, payment))["status"] for payment in payments} == {"confirmed"}
        events = [await asyncio.wait_for(shop.told.get(), 5) for _ in payments]
        assert {event["type"] for event in events} == {"payment_confirmation.confirmed"}
    for number in (rings, talks):
        rung = lab.carrier.calls_to(number)
        assert [call.trunk for call in rung] == ["a", "a"]
        assert rung[1].final_code == 200
