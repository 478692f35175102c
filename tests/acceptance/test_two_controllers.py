"""Two controllers on one PostgreSQL and one PBX: they share the work, and either finishes the other's."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from telephony.lab import CarrierCall, Lab, no_answer, press_keys
from tests.acceptance.control import ControllerProcess, api_of, settings_of
from tests.acceptance.databases import Database, postgres
from tests.acceptance.load import CODE, Load, Receiver, answers_briefly, judge, receiver, told_at
from tests.acceptance.test_outcomes import answered, no_channels, ringing
from tests.store_engines import PostgresServer, free_port

pytestmark = pytest.mark.lab

LEASE = 15.0
RINGS_LONG = "+8613900000001"
CALLED = "+8613800000001"


@dataclass
class Pair:
    """Two controllers, called one and two."""

    one: ControllerProcess
    two: ControllerProcess
    database: Database
    told: Receiver


@pytest_asyncio.fixture(loop_scope="session")
async def pair(lab: Lab, tmp_path: Path, postgres_server: PostgresServer) -> AsyncIterator[Pair]:
    database = postgres(postgres_server)
    async with receiver() as told:
        made = [controller(lab, tmp_path, name, database, told) for name in ("one", "two")]
        await made[0].start()
        await made[1].start()
        yield Pair(*made, database, told)
        for process in made:
            await process.stop()


def controller(
    lab: Lab, folder: Path, name: str, database: Database, told: Receiver, **sections: Any
) -> ControllerProcess:
    """A controller with a node's name, a FastAGI port and a media folder of its own."""
    host, lab_port = lab.agi
    port = lab_port if name == "one" else free_port(host)
    values = settings_of(
        lab,
        folder,
        server={"node": name},
        store={"url": database.url, "lease_seconds": LEASE},
        fastagi={"host": host, "port": port, "advertise": f"{host}:{port}"},
        speech={"media_dir": f"/dev/shm/telephony-test-{lab.state.number}-{name}"},
        **sections,
    )
    own = folder / name
    own.mkdir()
    return ControllerProcess(own, told_at(values, told.url))


async def rings_until_taken_over(call: CarrierCall) -> None:
    """Ring for longer than a lease, then answer and listen: the whole code is to be heard."""
    await call.ring()
    await call.answer(after=LEASE + 2.5)
    await call.listen()


async def a_cancel_reaches_the_controller_that_runs_the_call(lab: Lab, pair: Pair) -> None:
    rings, talks = "+8613900000002", "+8613900000003"
    lab.carrier.subscribe(rings, no_answer())
    # A key that answers nothing, so that the question is asked again.
    lab.carrier.subscribe(talks, press_keys([(3.0, "5")]))
    async with api_of(pair.one.url) as one, api_of(pair.two.url) as two:
        first = await one.verify(rings)
        second = await one.post(
            "/v1/payment-confirmations",
            {"to": talks, "order_id": "1", "amount": "1.00", "currency": "CNY", "payee": "Acme"},
            status=201,
        )
        await ringing(one, first)
        await answered(one, second)
        began = time.monotonic()
        await two.post(f"/v1/verifications/{first['id']}/cancel")
        call = await one.call_ended(first)
        assert (call["status"], call["failure_reason"]) == ("canceled", "canceled")
        assert time.monotonic() - began < 2, "told at once, not at the next look"
        await two.post(f"/v1/payment-confirmations/{second['id']}/cancel")
        paid = await one.call_ended(second)
        assert (paid["status"], paid["attempts"][0]["end_reason"]) == ("completed", "canceled")
        assert len(paid["attempts"]) == 1
        await pair.told.all_told([first["id"], second["id"]], 10)
    for call in list(lab.carrier.calls):
        await call.wait_ended()
    lab.carrier.calls.clear()


async def test_a_cancel_reaches_the_other_and_what_a_dead_one_did_is_finished(
    lab: Lab, pair: Pair, record_property: Callable[[str, object], None]
) -> None:
    await a_cancel_reaches_the_controller_that_runs_the_call(lab, pair)
    lab.carrier.default = answers_briefly
    lab.carrier.subscribe(RINGS_LONG, rings_until_taken_over)
    turns = itertools.cycle([pair.one, pair.two])
    alive = [pair.one, pair.two]
    load = Load(lambda: next(one for one in turns if one in alive).url, rate=5)
    running = asyncio.create_task(load.run())
    try:
        await asyncio.sleep(4.0)
        async with api_of(pair.one.url) as api:
            long = await api.verify(RINGS_LONG, code=CODE)
            await ringing(api, long)
        await pair.one.kill()
        killed = time.time()
        alive.remove(pair.one)
        await asyncio.sleep(2.0)
        load.stopped = True
        await running
        async with api_of(pair.two.url) as api:
            call = await api.call_ended(long)
            assert (call["status"], call["attempts"][0]["end_reason"]) == ("completed", "heard"), (
                "a phone that rang for one controller was answered by the other"
            )
            await api.post(f"/v1/verifications/{long['id']}/cancel")
        ids = [asked.view["id"] for asked in load.accepted.values()]
        await pair.told.all_told([*ids, long["id"]], 60)
        assert len(lab.carrier.calls_to(RINGS_LONG)) == 1
        lab.carrier.calls.remove(lab.carrier.calls_to(RINGS_LONG)[0])
        verdict = judge(lab, load, pair.told, [killed], late=LEASE + 5)
        record_property("told", f"{verdict}, taken over after {taken_over(pair.two, killed):.1f} s")
        assert taken_over(pair.two, killed) < LEASE + 1.5
        await no_channels(lab)
    finally:
        load.stopped = True
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        lab.carrier.default = None
    pair.database.nothing_is_left()


def taken_over(process: ControllerProcess, since: float) -> float:
    """Seconds from `since` until a controller had taken over all that another one held."""
    return max(line["at"] for line in process.log_lines("calls.taken_over")) - since
