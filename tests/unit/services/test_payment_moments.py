"""Payments at awkward moments: each a doubt about who hears what when two things fall together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from telephony.errors import StoreCrowded, StoreUnavailable
from telephony.model.call import FINAL_CALL_STATUSES, CallStatus, PaymentStatus
from telephony.model.hangup import Cause
from telephony.model.media import Media
from telephony.model.prompt import Prompt
from telephony.pbx.memory import Callee, MemoryLeg, MemoryPbx, MemorySession
from telephony.pbx.port import Gathered
from telephony.services import housekeeping, payment_flow
from telephony.services.contract import CallView, NewPayment, PaymentView
from telephony.services.housekeeping import Housekeeper
from telephony.services.payment_book import CANCELED, DecidedBy, Decision
from telephony.store import UnitOfWork
from telephony.store.records import PaymentRecord
from tests.store_engines import PostgresServer
from tests.unit.services.conftest import CLIENT, NUMBER, House

QUESTION = "payment.greeting"
OTHER = "+8613800000002"


async def created(house: House, **values: Any) -> PaymentView:
    order = {"to": NUMBER, "order_id": "A-1024", "amount": "128.50", "currency": "CNY", "payee": "Acme Taxi"}
    view = await house.payments.create(
        CLIENT, NewPayment(**{**order, "retry": {"attempts": 1}, **values}), None
    )
    assert isinstance(view, PaymentView)
    return view


async def status_of(house: House, view: PaymentView) -> tuple[str, str | None, str | None]:
    now = await house.payments.get(CLIENT, view.id)
    return now.status.value, now.decided_by, now.failure_reason


async def told(house: House, view: PaymentView) -> list[str]:
    """The types of what this payment's app is told."""
    return [event.type.partition(".")[2] for event in await house.told() if event.resource == view.id]


async def until(house: House, view: PaymentView, status: CallStatus) -> CallView:
    call_id = view.call_id or ""
    while (call := await house.calls.get(CLIENT, call_id)).status is not status:
        assert call.status not in FINAL_CALL_STATUSES
        await house.calls.wait_changed(CLIENT, call_id, 5.0, call.status)
    return call


def before_gathering(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[MemorySession], Awaitable[object]]
) -> None:
    """Let something happen while a key is waited for."""
    original = MemorySession.gather

    async def gather(self: MemorySession, *args: Any, **more: Any) -> Gathered:
        gathered = await original(self, *args, **more)
        await act(self)
        return gathered

    monkeypatch.setattr(MemorySession, "gather", gather)


# ---- the deadline


async def test_a_deadline_while_the_sounds_are_made_rings_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = house.voice.compose

    async def slow(prompt: Prompt, locale: str) -> Media:
        house.clock.advance(10)
        return await original(prompt, locale)

    monkeypatch.setattr(house.voice, "compose", slow)
    view = await created(house, ttl=30)
    assert (await house.ended(view.call_id)).status is CallStatus.EXPIRED
    assert house.pbx.orders == []
    assert await status_of(house, view) == ("expired", "deadline", None)
    assert await told(house, view) == ["expired"]


async def test_who_answers_after_the_deadline_is_asked_nothing(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(keys="1", answer_after=0.2)
    view = await created(house, ttl=30)
    await until(house, view, CallStatus.RINGING)
    house.clock.advance(30)
    await house.ended(view.call_id)
    assert house.heard() == ["payment.closed"]
    assert await status_of(house, view) == ("expired", "deadline", None)
    assert await told(house, view) == ["expired"]


@pytest.mark.parametrize(
    ("left", "status", "last"),
    [(0.001, "confirmed", "payment.received"), (0.0, "expired", "payment.closed")],
)
async def test_at_the_very_millisecond_it_is_over(
    house: House, monkeypatch: pytest.MonkeyPatch, left: float, status: str, last: str
) -> None:
    async def late(_session: MemorySession) -> None:
        house.clock.advance(30 - left)

    before_gathering(monkeypatch, late)
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await created(house, ttl=30)
    await house.ended(view.call_id)
    assert house.heard()[-1] == last
    assert (await status_of(house, view))[0] == status
    assert await told(house, view) == [status]


async def test_a_cancel_after_the_deadline_is_late_and_nothing_rings_on(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house, ttl=30)
    await until(house, view, CallStatus.RINGING)
    assert house.pbx.orders[0].ring_timeout == 30.0
    house.clock.advance(30)
    with pytest.raises(Exception, match="expired"):
        await house.payments.cancel(CLIENT, view.id)
    assert await told(house, view) == ["expired"]


@pytest.mark.parametrize("listed", [False, True])
async def test_whoever_looks_after_the_deadline_sees_it_ended(house: House, listed: bool) -> None:
    """Not only shown so: it is over for everybody from then on, and its call with it."""
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house, ttl=30)
    await until(house, view, CallStatus.RINGING)
    house.clock.advance(30)
    if listed:
        pending = await house.payments.list(CLIENT, status=PaymentStatus.PENDING, cursor=None, limit=9)
        assert pending.items == ()
    else:
        assert (await house.payments.get(CLIENT, view.id)).status is PaymentStatus.EXPIRED
    assert await told(house, view) == ["expired"]
    assert (await house.ended(view.call_id)).status is CallStatus.CANCELED


async def test_no_final_status_is_shown_that_becomes_another(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer in time whose transaction commits after the deadline: who looks meanwhile waits for it."""
    original = house.notices.add
    deciding, go_on = asyncio.Event(), asyncio.Event()

    async def slow(work: UnitOfWork, **event: Any) -> None:
        deciding.set()
        await go_on.wait()
        await original(work, **event)

    monkeypatch.setattr(house.notices, "add", slow)
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await created(house, ttl=30)
    await asyncio.wait_for(deciding.wait(), 5)
    house.clock.advance(30)
    looking = asyncio.create_task(house.payments.get(CLIENT, view.id))
    await asyncio.sleep(0.05)
    assert not looking.done()
    go_on.set()
    assert (await looking).status is PaymentStatus.CONFIRMED
    await house.ended(view.call_id)
    assert await told(house, view) == ["confirmed"]


async def test_a_look_at_a_store_that_cannot_be_written_shows_the_row(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house, ttl=30)
    house.clock.advance(30)

    async def full(*_: object) -> PaymentRecord:
        raise StoreUnavailable("full")

    monkeypatch.setattr(house.book, "decide", full)
    assert (await house.payments.get(CLIENT, view.id)).status is PaymentStatus.PENDING


async def test_a_store_that_fails_once_makes_no_deadline_half_a_minute_late(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoMedia:
        def sweep(self, older_than_seconds: float) -> int:
            return 0

    monkeypatch.setattr(housekeeping, "FAILURE_PAUSE", 0.05)
    failures = iter((StoreUnavailable("full"), StoreCrowded("full"), KeyError("a fault")))
    original = house.expiry.expire_due

    async def fails_first(now: int) -> None:
        for failure in failures:
            raise failure
        await original(now)

    monkeypatch.setattr(house.expiry, "expire_due", fails_first)
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house, ttl=30)
    house.clock.advance(30)
    housekeeper = Housekeeper(house.store, NoMedia(), house.expiry, clock=house.clock)
    housekeeper.start()
    try:
        async with asyncio.timeout(5):
            while not await told(house, view):
                await asyncio.sleep(0.02)
    finally:
        await housekeeper.stop()


# ---- a cancel


async def test_a_cancel_between_the_answer_and_the_first_word(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = house.payment_flow.converse

    async def converse(*arguments: Any) -> Any:
        await house.payments.cancel(CLIENT, arguments[1].flow_ref)
        return await original(*arguments)

    monkeypatch.setattr(house.payment_flow, "converse", converse)
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await created(house)
    await house.ended(view.call_id)
    assert house.heard() == ["payment.canceled"]
    assert await status_of(house, view) == ("canceled", "client", None)
    assert await told(house, view) == ["canceled"]


@pytest.mark.parametrize("keys", ["1", "*", ""])
async def test_a_call_that_is_canceled_in_mid_talk_takes_its_payment_along(
    house: House, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    async def cancel(session: MemorySession) -> None:
        async with house.store.reading() as work:
            attempt = await work.attempts.get(session.id)
        assert attempt is not None
        await house.calls.cancel(CLIENT, attempt.request_id)

    before_gathering(monkeypatch, cancel)
    house.pbx.callees[NUMBER] = Callee(keys=keys)
    view = await created(house)
    await house.ended(view.call_id)
    assert house.heard() == [QUESTION, "payment.canceled"]
    assert await status_of(house, view) == ("canceled", "client", None)
    assert await told(house, view) == ["canceled"]


async def test_a_decision_of_another_controller_is_told_at_the_next_word(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the row and nowhere else: nobody has told this engine."""

    async def elsewhere(_session: MemorySession) -> None:
        await house.book.decide(view[0].id, CANCELED)

    view: list[PaymentView] = []
    before_gathering(monkeypatch, elsewhere)
    house.pbx.callees[NUMBER] = Callee(keys="*1", answer_after=0.05)
    view.append(await created(house))
    await house.ended(view[0].call_id)
    assert house.heard() == [QUESTION, "payment.canceled"]
    assert await told(house, view[0]) == ["canceled"]


async def test_a_leg_that_we_gave_up_was_canceled_by_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PBX that hung for longer than the phone may ring: we hang up, the client has not canceled."""

    async def rings_for_ever(_pbx: MemoryPbx, _leg: MemoryLeg) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryPbx, "_play", rings_for_ever)
    house.engine._config = replace(house.engine._config, margin=0.05)
    original = house.voice.compose

    async def slow(prompt: Prompt, locale: str) -> Media:
        house.clock.advance(29.9 / 7)
        return await original(prompt, locale)

    monkeypatch.setattr(house.voice, "compose", slow)
    view = await created(house, ttl=30)
    await house.ended(view.call_id)
    assert (await status_of(house, view))[:2] == ("failed", "call")
    assert await told(house, view) == ["failed"]


# ---- keys


async def test_keys_after_the_answer_change_nothing(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(keys="12")
    view = await created(house)
    call = await house.ended(view.call_id)
    assert house.heard() == [QUESTION, "payment.received"]
    assert (await status_of(house, view))[0] == "confirmed"
    assert call.attempts[0].keys == "1"


async def test_who_hangs_up_with_the_key_has_answered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang_up(session: MemorySession) -> None:
        session.end(Cause.NORMAL)

    before_gathering(monkeypatch, hang_up)
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await created(house, retry={"attempts": 3})
    call = await house.ended(view.call_id)
    assert house.heard() == [QUESTION]
    assert (call.status, len(call.attempts)) == (CallStatus.COMPLETED, 1)
    assert await told(house, view) == ["confirmed"]


# ---- the store


async def test_a_store_that_comes_back_within_seconds_is_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading at the answer, then writing at the key: each fails twice."""
    monkeypatch.setattr(payment_flow, "STORE_PAUSE", 0.01)
    fails = {"read": 2, "decide": 2}
    read, decide = house.book.read, house.book.decide

    async def flaky_read(client: str, payment_id: str) -> PaymentRecord | None:
        if house.pbx.sessions and fails["read"]:
            fails["read"] -= 1
            raise StoreUnavailable("restarting")
        return await read(client, payment_id)

    async def flaky_decide(payment_id: str, decision: Decision) -> PaymentRecord:
        if fails["decide"]:
            fails["decide"] -= 1
            raise StoreCrowded("too many")
        return await decide(payment_id, decision)

    monkeypatch.setattr(house.book, "read", flaky_read)
    monkeypatch.setattr(house.book, "decide", flaky_decide)
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await created(house)
    await house.ended(view.call_id)
    assert house.heard() == [QUESTION, "payment.received"]
    assert fails == {"read": 0, "decide": 0}
    assert await told(house, view) == ["confirmed"]


async def test_a_row_that_cannot_be_read_at_the_answer_ends_no_payment(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was asked anything: it is as if nobody had answered, and the phone rings again."""
    monkeypatch.setattr(payment_flow, "STORE_PATIENCE", 0.02)
    monkeypatch.setattr(payment_flow, "STORE_PAUSE", 0.01)
    original = house.book.read
    away = True

    async def read(client: str, payment_id: str) -> PaymentRecord | None:
        if house.pbx.sessions and away:
            raise StoreUnavailable("away")
        return await original(client, payment_id)

    monkeypatch.setattr(house.book, "read", read)
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await created(house, retry={"attempts": 2, "pause": 1})
    call = await until(house, view, CallStatus.QUEUED)
    assert call.attempts[0].end_reason == "store_failed"
    away = False
    assert (await status_of(house, view))[0] == "pending"
    house.clock.advance(2)
    house.engine._wake.set()
    await house.ended(view.call_id)
    assert await told(house, view) == ["confirmed"]


async def test_a_commit_that_went_through_and_was_lost_counts_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's word of the commit is lost: the second asking finds the first one's own decision."""
    monkeypatch.setattr(payment_flow, "STORE_PAUSE", 0.01)
    original = house.book.decide
    times = 0

    async def lost(payment_id: str, decision: Decision) -> PaymentRecord:
        nonlocal times
        times += 1
        ended = await original(payment_id, decision)
        if times == 1:
            raise StoreUnavailable("the connection was lost")
        return ended

    monkeypatch.setattr(house.book, "decide", lost)
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await created(house)
    await house.ended(view.call_id)
    assert times == 2
    assert house.heard() == [QUESTION, "payment.received"]
    assert await told(house, view) == ["confirmed"]


async def test_a_store_that_is_crowded_once_stops_no_loop_of_the_engine(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = house.engine._next_due
    crowded = 0

    async def next_due() -> int | None:
        nonlocal crowded
        crowded += 1
        if crowded == 1:
            raise StoreCrowded("too many")
        return await original()

    monkeypatch.setattr(house.engine, "_next_due", next_due)
    house.engine._wake.set()
    async with asyncio.timeout(5):
        while crowded < 2:
            await asyncio.sleep(0.02)
    call = await house.ended((await created(house)).call_id)
    assert call.status is CallStatus.COMPLETED


# ---- the rounds of a call


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (CANCELED, "payment_canceled"),
        (Decision(PaymentStatus.CONFIRMED, DecidedBy.PERSON), "payment_confirmed"),
    ],
)
async def test_a_payment_decided_between_two_rounds_rings_nobody(
    house: House, decision: Decision, reason: str
) -> None:
    """Decided in the row alone, as by another controller or before a crash."""
    house.pbx.callees[NUMBER] = Callee(keys="")
    view = await created(house, retry={"attempts": 3, "pause": 1})
    await until(house, view, CallStatus.QUEUED)
    await house.book.decide(view.id, decision)
    house.clock.advance(2)
    house.engine._wake.set()
    call = await house.ended(view.call_id)
    assert (call.status, call.failure_reason) == (CallStatus.CANCELED, reason)
    assert len(house.pbx.orders) == 1
    assert await told(house, view) == [decision.status.value]


async def test_a_deadline_between_two_rounds_rings_nobody(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(keys="")
    view = await created(house, ttl=30, retry={"attempts": 3, "pause": 10})
    await until(house, view, CallStatus.QUEUED)
    house.clock.advance(30)
    house.engine._wake.set()
    assert (await house.ended(view.call_id)).status is CallStatus.EXPIRED
    assert len(house.pbx.orders) == 1
    assert await told(house, view) == ["expired"]


async def test_two_payments_to_one_number_ring_one_after_the_other(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(keys="1", answer_after=0.2)
    house.engine._config = replace(house.engine._config, number_pause=0.05)
    first, second = await asyncio.gather(
        created(house, order_id="A-1", ttl=600), created(house, order_id="A-2", ttl=600)
    )
    standing = 0
    while not (await told(house, first) and await told(house, second)):
        standing = max(standing, len(house.pbx._legs))
        house.clock.advance(0.05)
        house.engine._wake.set()
        await asyncio.sleep(0.02)
    assert standing == 1
    assert [await told(house, view) for view in (first, second)] == [["confirmed"]] * 2
    assert len(house.pbx.orders) == 2


async def test_one_that_expires_while_another_has_the_number_rings_nobody(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    first = await created(house, ttl=600)
    await until(house, first, CallStatus.RINGING)
    second = await created(house, order_id="A-2", ttl=30)
    assert second.call_status is CallStatus.QUEUED
    house.clock.advance(30)
    house.engine._wake.set()
    assert (await house.ended(second.call_id)).status is CallStatus.EXPIRED
    assert await told(house, second) == ["expired"]
    assert len(house.pbx.orders) == 1


class TestOnPostgres:
    @pytest.fixture
    def store_url(self, postgres: PostgresServer, migrated: str) -> str:
        return postgres.new_database(migrated)

    async def test_orders_that_come_at_once_for_one_number_are_all_taken(self, house: House) -> None:
        house.pbx.callees[NUMBER] = Callee(answer_after=None)
        views = await asyncio.gather(*(created(house, order_id=f"A-{n}") for n in range(8)))
        assert sum(view.call_status is CallStatus.DIALING for view in views) == 1

    async def test_two_payments_to_one_number(self, house: House) -> None:
        await test_two_payments_to_one_number_ring_one_after_the_other(house)


# ---- the app


@pytest.mark.parametrize(
    ("body", "by"),
    [
        (b'{"decision": "refuse", "decision": "confirm"}', "app_silent"),
        (b'{"decision": "confirm", "decision": "confirm"}', "app_silent"),
        (b'{"decision": "confirm", "a": {"b": 1, "b": 2}}', "app_silent"),
        (b'{"decision": "confirm"}{"decision": "refuse"}', "app_silent"),
        (b'{"decision": "confirm"', "app_silent"),
        (b'<html>{"decision": "confirm"}', "app_silent"),
        (b"\xff\xfe\x00", "app_silent"),
        (b'{"decision": true}', "app_silent"),
        (b'{"decision": "confirm", "more": [1, {"decision": "refuse"}]}', "app"),
        ('\ufeff{"decision": "confirm"}'.encode(), "app"),
    ],
)
async def test_an_answer_of_the_app_is_clear_or_none(house: House, body: bytes, by: str) -> None:
    async def decide(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    server = web.Application()
    server.router.add_post("/", decide)
    async with TestServer(server) as running:
        house.pbx.callees[NUMBER] = Callee(keys="1")
        view = await created(house, decide_url=str(running.make_url("/")))
        await house.ended(view.call_id)
    assert (await status_of(house, view))[1] == by


async def test_an_app_that_redirects_is_not_followed(house: House) -> None:
    followed: list[str] = []

    async def decide(request: web.Request) -> web.Response:
        if request.path == "/":
            raise web.HTTPTemporaryRedirect("/elsewhere")
        followed.append(request.path)
        return web.json_response({"decision": "confirm"})

    server = web.Application()
    server.router.add_post("/{path:.*}", decide)
    async with TestServer(server) as running:
        house.pbx.callees[NUMBER] = Callee(keys="1")
        view = await created(house, decide_url=str(running.make_url("/")))
        await house.ended(view.call_id)
    assert followed == []
    assert await status_of(house, view) == ("failed", "app_silent", "app_silent")


async def test_an_app_whose_answer_never_ends_is_silent_in_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte at a time, each in good time: the deadline is for all of it."""
    monkeypatch.setattr("telephony.services.payment_book.ASK_SECONDS", 0.3)

    async def decide(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for byte in json.dumps({"decision": "confirm"}).encode() + b" " * 200:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.02)
        return response

    server = web.Application()
    server.router.add_post("/", decide)
    async with TestServer(server) as running:
        house.pbx.callees[NUMBER] = Callee(keys="1")
        view = await created(house, decide_url=str(running.make_url("/")))
        async with asyncio.timeout(3):
            await house.ended(view.call_id)
    assert (await status_of(house, view))[1] == "app_silent"
