"""Confirm, cancel and deadline meet in two processes on one database: one outcome each, told once.

The processes are real, and so is their clock: `tests/payment_racer.py` is what each of them does.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from telephony.calls.policy import PRIORITIES
from telephony.model.call import CallClass, PaymentStatus
from telephony.services.payment_flow import FLOW_NAME
from telephony.store import OutboxRecord, RequestRecord, Store
from telephony.store.records import PaymentRecord
from tests.unit.services.conftest import CLIENT, NUMBER

SAID = {
    PaymentStatus.CONFIRMED: "payment.received",
    PaymentStatus.EXPIRED: "payment.closed",
    PaymentStatus.CANCELED: "payment.canceled",
}
QUESTION = "payment.greeting"
EVERY = 0.02
"""Seconds between two payments' moments: time enough for all who meet in one."""

AROUND = 0.015
"""How far from the moment each of them may be, in seconds."""

Json = dict[str, Any]


class Racers:
    """The two processes."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, url: str, plans: list[list[Json]]) -> None:
        """Start them all, and return once each of them could begin."""
        for number, plan in enumerate(plans):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.payment_racer",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 24,
            )
            self._processes.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps({"url": url, "owner": f"racer-{number}", "plan": plan}).encode())
            process.stdin.write(b"\n")
        assert [await self._line(process) for process in self._processes] == [b"ready\n"] * len(plans)

    async def race(self, begin: float, seconds: float) -> list[Json]:
        """Let them race, and return what each was told."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(begin).encode() + b"\n")
        async with asyncio.timeout(seconds):
            return [json.loads(await self._line(process)) for process in self._processes]

    async def _line(self, process: asyncio.subprocess.Process) -> bytes:
        assert process.stdout is not None
        return await process.stdout.readline()

    async def end(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


def plans_of(payments: list[str], chance: random.Random) -> tuple[list[list[Json]], list[float]]:
    """What each of two processes does and when, and the deadline of each payment, in seconds.

    One process has the person on the line, the other gets the app's cancel; both of them see to deadlines.
    """
    plans: list[list[Json]] = [[], []]
    deadlines = []
    for number, payment in enumerate(payments):
        moment = 1.0 + number * EVERY

        def near(moment: float = moment) -> float:
            return moment + chance.uniform(-AROUND, AROUND)

        deadline = round(near(), 3)
        deadlines.append(deadline)
        caller, canceler = (0, 1) if number % 2 else (1, 0)
        plans[caller].append({"payment": payment, "act": "confirm", "at": near()})
        plans[canceler].append({"payment": payment, "act": "cancel", "at": near()})
        for plan in plans:
            plan.append({"payment": payment, "act": "expire", "at": deadline})
    return plans, deadlines


def rows_of(payment: str, now: int, expires_at: int) -> tuple[PaymentRecord, RequestRecord]:
    """A pending payment and its call, which waits: nobody dials here."""
    request_id = f"call_{payment}"
    return (
        PaymentRecord(
            id=payment,
            client=CLIENT.name,
            to_number=NUMBER,
            locale="en",
            order_id="A-1024",
            amount="128.50",
            currency="CNY",
            payee="Acme Taxi",
            brand="Acme",
            request_id=request_id,
            expires_at=expires_at,
            created_at=now,
            updated_at=now,
        ),
        RequestRecord(
            id=request_id,
            client=CLIENT.name,
            flow=FLOW_NAME,
            flow_ref=payment,
            to_number=NUMBER,
            call_class=CallClass.TRANSACTION,
            priority=PRIORITIES[CallClass.TRANSACTION],
            due_at=expires_at + 3_600_000,
            expires_at=expires_at,
            created_at=now,
            updated_at=now,
        ),
    )


async def race(url: str, count: int) -> None:
    payments = [f"pay_{number:05d}" for number in range(count)]
    plans, deadlines = plans_of(payments, random.Random(count))
    racers = Racers()
    store = await Store.open(url, owner="judge")
    try:
        await racers.start(url, plans)
        begin = time.time() + 1.0 + count / 1000
        now = time.time_ns() // 1_000_000
        async with store.transaction() as work:
            for payment, deadline in zip(payments, deadlines, strict=True):
                record, request = rows_of(payment, now, round((begin + deadline) * 1000))
                await work.payments.add(record)
                await work.requests.add(request)
        told = await racers.race(begin, 60.0 + count * EVERY)
        await judge(store, payments, told)
    finally:
        await racers.end()
        await store.close()


async def judge(store: Store, payments: list[str], told: list[Json]) -> None:
    """Hold the rows against what was told, to whom, and how often."""
    deeds: dict[str, list[Json]] = defaultdict(list)
    for deed in (deed for one in told for deed in one["deeds"]):
        deeds[deed["payment"]].append(deed)
    # By the calls that it canceled: each expired payment was ended by one process, or by somebody late.
    expired = Counter(call for one in told for call in one["expired"])
    events: dict[str, list[OutboxRecord]] = defaultdict(list)
    async with store.reading() as work:
        cursor: str | None = None
        while True:
            page = await work.outbox.list(CLIENT.name, after=cursor, limit=1000)
            for event in page.items:
                events[event.resource].append(event)
            if (cursor := page.cursor) is None:
                break
        rows = [await work.payments.get_for_client(CLIENT.name, payment) for payment in payments]
    winners: Counter[str] = Counter()
    met = 0
    for row in rows:
        assert row is not None
        (event,) = events[row.id]
        assert event.type == f"payment_confirmation.{row.status.value}"
        assert (event.payload["status"], event.payload["decided_by"]) == (row.status.value, row.decided_by)
        assert event.sequence == 1
        by_act = {deed["act"]: deed for deed in deeds[row.id]}
        assert len(deeds[row.id]) == 4
        assert by_act["confirm"]["told"].removeprefix(f"{QUESTION} ") == SAID[row.status]
        canceled = row.status is PaymentStatus.CANCELED
        assert by_act["cancel"]["told"] == (
            "canceled" if canceled else f"this payment confirmation is {row.status.value}"
        )
        times_expired = expired.pop(row.request_id, 0)
        assert times_expired <= (row.status is PaymentStatus.EXPIRED)
        winner = row.status.value
        if row.status is PaymentStatus.EXPIRED:
            winner = "expired on time" if times_expired else "expired at a late answer"
        winners[winner] += 1
        met += any(
            one["began"] < other["ended"] and other["began"] < one["ended"] and one["act"] != other["act"]
            for one, other in combinations(deeds[row.id], 2)
        )
    assert not expired, "nobody ended what is not there"
    print(f"{len(payments)} races: {dict(winners)}; in {met} of them two acts overlapped")
    assert met > len(payments) / 2
    assert min(winners[one] for one in ("confirmed", "canceled", "expired on time")) > len(payments) / 20


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/telephony.db"
    made: str = request.getfixturevalue("postgres").new_database(request.getfixturevalue("migrated"))
    return made


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.soak)])
async def test_two_processes_decide_and_one_wins_each_time(url: str, count: int) -> None:
    await race(url, count)
