"""Confirm, cancel and deadline meet in two processes on one database: one outcome each, told once.

The processes are real, and so is their clock: `tests/payment_racer.py` is what each of them does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from telephony.calls.policy import PRIORITIES
from telephony.model.call import CallClass, PaymentStatus
from telephony.services.payment_flow import FLOW_NAME
from telephony.store import RequestRecord, Store
from telephony.store.records import PaymentRecord
from tests.unit.services.conftest import CLIENT, NUMBER

SAID = {
    PaymentStatus.CONFIRMED: "payment.received",
    PaymentStatus.EXPIRED: "payment.closed",
    PaymentStatus.CANCELED: "payment.canceled",
}
NOT_RUNG = ("expired", "payment_canceled")
"""What the engine is told of a payment that was over before anybody was asked."""

QUESTION = "payment.greeting"
AT_ONCE = 5
"""Payments in one round; their moments lie `APART` seconds from each other."""

APART = 0.006
STEP = 0.002
"""By how many seconds who won begins later the next time, and who lost earlier."""

Json = dict[str, Any]


class Racers:
    """The two processes."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, url: str) -> None:
        """Start both, and return once each of them could begin."""
        for number in range(2):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tests.payment_racer",
                    url,
                    f"racer-{number}",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
            )
        assert [await self._line(process) for process in self._processes] == [b"ready\n"] * 2

    async def round(self, acts: Sequence[list[Json]]) -> list[Json]:
        """Let each do its acts, and return what each was told."""
        for process, own in zip(self._processes, acts, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(own).encode() + b"\n")
        return [json.loads(await self._line(process)) for process in self._processes]

    async def _line(self, process: asyncio.subprocess.Process) -> bytes:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            return await process.stdout.readline()

    async def end(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


@dataclass
class Aim:
    """How many seconds before the deadline the key and the cancel come.

    Who won comes later the next time, so that on a machine of any speed, however loaded, the three meet.
    """

    leads: dict[str, float] = field(default_factory=lambda: {"confirm": 0.01, "cancel": 0.005})

    def learn(self, status: PaymentStatus) -> None:
        won = {PaymentStatus.CONFIRMED: "confirm", PaymentStatus.CANCELED: "cancel"}.get(status)
        for act, lead in self.leads.items():
            changed = lead - STEP if act == won else lead + STEP / 2
            self.leads[act] = min(1.0, max(-0.05, changed))


def acts_on(payment: str, deadline: float, aim: Aim, number: int) -> list[list[Json]]:
    """What each process does: one has the person on the line, the other gets the app's cancel.

    Both of them see to the deadline.
    """
    acts: list[list[Json]] = [[], []]
    for process, act in ((number % 2, "confirm"), (1 - number % 2, "cancel")):
        acts[process].append({"payment": payment, "act": act, "at": deadline - aim.leads[act]})
    for own in acts:
        own.append({"payment": payment, "act": "expire", "at": deadline})
    return acts


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
    racers, aim = Racers(), Aim()
    verdict = Verdict()
    store = await Store.open(url, owner="judge")
    try:
        await racers.start(url)
        for first in range(0, count, AT_ONCE):
            payments = [f"pay_{number:05d}" for number in range(first, first + AT_ONCE)]
            begin = time.time() + 0.04 + max(aim.leads.values())
            acts: list[list[Json]] = [[], []]
            async with store.transaction() as work:
                for number, payment in enumerate(payments):
                    # In whole milliseconds, as it stands in the row.
                    deadline = round(begin + number * APART, 3)
                    record, request = rows_of(payment, round(begin * 1000), round(deadline * 1000))
                    await work.payments.add(record)
                    await work.requests.add(request)
                    for own, more in zip(acts, acts_on(payment, deadline, aim, number), strict=True):
                        own.extend(more)
            for status in await judge(store, payments, await racers.round(acts), verdict):
                aim.learn(status)
    finally:
        await racers.end()
        await store.close()
    print(f"{count} races: {dict(verdict.winners)}; in {verdict.met} of them two acts overlapped")
    assert verdict.met > count / 2
    on_time, late = verdict.winners["expired on time"], verdict.winners["expired at a late answer"]
    assert min(verdict.winners["confirmed"], verdict.winners["canceled"], on_time + late) > count / 10
    assert on_time


@dataclass
class Verdict:
    """Who won how often, and in how many races two acts overlapped."""

    winners: Counter[str] = field(default_factory=Counter)
    met: int = 0


async def judge(store: Store, payments: list[str], told: list[Json], verdict: Verdict) -> list[PaymentStatus]:
    """Hold the rows against what was told, to whom, and how often; return how each ended."""
    deeds: dict[str, list[Json]] = defaultdict(list)
    for deed in (deed for one in told for deed in one["deeds"]):
        deeds[deed["payment"]].append(deed)
    # By the calls that it canceled: each expired payment was ended by one process, or by somebody late.
    expired = Counter(call for one in told for call in one["expired"])
    async with store.reading() as work:
        events = {one: (await work.outbox.list(CLIENT.name, resource=one)).items for one in payments}
        rows = [await work.payments.get_for_client(CLIENT.name, payment) for payment in payments]
    statuses = []
    for row in rows:
        assert row is not None
        (event,) = events[row.id]
        assert event.type == f"payment_confirmation.{row.status.value}"
        assert (event.payload["status"], event.payload["decided_by"]) == (row.status.value, row.decided_by)
        by_act = {deed["act"]: deed for deed in deeds[row.id]}
        assert len(deeds[row.id]) == 4
        heard = by_act["confirm"]["told"].removeprefix(f"{QUESTION} ")
        assert heard == SAID[row.status] or (heard in NOT_RUNG and row.status is not PaymentStatus.CONFIRMED)
        canceled = row.status is PaymentStatus.CANCELED
        assert by_act["cancel"]["told"] == (
            "canceled" if canceled else f"this payment confirmation is {row.status.value}"
        )
        times_expired = expired.pop(row.request_id, 0)
        assert times_expired <= (row.status is PaymentStatus.EXPIRED)
        winner = row.status.value
        if row.status is PaymentStatus.EXPIRED:
            winner = "expired on time" if times_expired else "expired at a late answer"
        verdict.winners[winner] += 1
        verdict.met += any(
            one["began"] < other["ended"] and other["began"] < one["ended"] and one["act"] != other["act"]
            for one, other in combinations(deeds[row.id], 2)
        )
        statuses.append(row.status)
    assert not expired, "nobody ended what is not there"
    return statuses


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/telephony.db"
    made: str = request.getfixturevalue("postgres").new_database(request.getfixturevalue("migrated"))
    return made


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.soak)])
async def test_two_processes_decide_and_one_wins_each_time(url: str, count: int) -> None:
    await race(url, count)
