"""The life of a payment confirmation, with the real engine and store and a PBX in memory."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from telephony.calls.flow import Prepared
from telephony.errors import (
    Conflict,
    DestinationNotAllowed,
    IdempotencyMismatch,
    InputError,
    InvalidNumber,
    NotFound,
    StoreUnavailable,
    UnknownLocale,
)
from telephony.model.call import CallStatus, PaymentStatus
from telephony.model.hangup import Cause, HangupCause
from telephony.model.prompt import Amount, Digits, Phrase, Silence, Text
from telephony.pbx.memory import Callee, MemorySession
from telephony.pbx.port import Gathered
from telephony.services import payment_book, payment_flow
from telephony.services.contract import NewPayment, Once, PaymentView, StoredReply
from telephony.services.housekeeping import Housekeeper
from telephony.services.payment_book import DecidedBy, Decision
from telephony.services.payment_flow import Agent, reference_of
from telephony.store.records import RequestRecord
from tests.store_engines import PostgresMissing, PostgresServer
from tests.unit.services.conftest import CLIENT, NUMBER, House

ORDER = {"to": NUMBER, "order_id": "A-1024", "amount": "128.50", "currency": "CNY", "payee": "Acme Taxi"}
ONCE = {"attempts": 1}
QUESTION = "payment.greeting"
Hook = Callable[[], Awaitable[object]]


def new(**values: Any) -> NewPayment:
    return NewPayment(**{**ORDER, "retry": ONCE, **values})


async def created(house: House, **values: Any) -> PaymentView:
    view = await house.payments.create(CLIENT, new(**values), None)
    assert isinstance(view, PaymentView)
    return view


async def called(house: House, keys: str, **values: Any) -> PaymentView:
    """Ring somebody who presses these keys, and return how it ended."""
    house.pbx.callees[NUMBER] = Callee(keys=keys)
    view = await created(house, **values)
    await house.ended(view.call_id)
    return await house.payments.get(CLIENT, view.id)


def at_the_first_key(monkeypatch: pytest.MonkeyPatch, hook: Hook, *, before: bool = True) -> None:
    """Let something happen while the first key is waited for, or when it has just been pressed."""
    original, done = MemorySession.gather, False

    async def gather(self: MemorySession, *args: Any, **more: Any) -> Gathered:
        nonlocal done
        first, done = not done, True
        if first and before:
            await hook()
        gathered = await original(self, *args, **more)
        if first and not before:
            await hook()
        return gathered

    monkeypatch.setattr(MemorySession, "gather", gather)


# ---- what is said


async def test_one_confirms_and_the_person_the_row_and_the_app_hear_the_same(house: House) -> None:
    view = await called(house, "1", metadata={"shop": 7}, out_id="o-1")
    assert view.status is PaymentStatus.CONFIRMED
    assert view.decided_by == "person"
    assert view.ended_at == house.clock()
    assert house.heard() == [QUESTION, "payment.received"]
    call = await house.calls.get(CLIENT, view.call_id or "")
    assert call.status is CallStatus.COMPLETED
    assert call.attempts[0].keys == "1"
    assert call.attempts[0].end_reason == "confirmed"
    (event,) = await house.told()
    assert event.type == "payment_confirmation.confirmed"
    assert event.resource == view.id
    assert event.expires_at == view.expires_at
    assert event.url == "https://shop.example.com/hook"
    assert event.payload == {
        "id": view.id,
        "status": "confirmed",
        "order_id": "A-1024",
        "amount": "128.50",
        "currency": "CNY",
        "to": NUMBER,
        "decided_by": "person",
        "failure_reason": None,
        "keys": "1",
        "metadata": {"shop": 7},
        "out_id": "o-1",
        "call_id": view.call_id,
    }
    await house.delivery_begins()


async def test_the_question_says_who_what_to_whom_and_how_much(house: House) -> None:
    await called(house, "1", order_id="2026/AB-1024x")
    parts = house.voice.said["media-0"].parts
    spoken = [part for part in parts if isinstance(part, Phrase | Digits | Text | Amount)]
    assert spoken == [
        Phrase("payment.greeting", (("brand", "Acme"),)),
        Digits("6"),
        Text("A, B"),
        Digits("1024"),
        Text("X"),
        Phrase("payment.payee", (("payee", "Acme Taxi"),)),
        Amount(Decimal("128.50"), "CNY"),
        Phrase("payment.keys"),
    ]
    assert sorted(house.voice.discarded) == sorted(house.voice.said), "every sound is erased"


@pytest.mark.parametrize(
    ("order_id", "said"), [("7", "7"), ("a-b.c", "ABC"), ("1234567890", "34567890"), ("#12 #", "12")]
)
def test_the_reference_is_the_last_eight_letters_and_figures(order_id: str, said: str) -> None:
    assert reference_of(order_id) == said


async def test_two_declines(house: House) -> None:
    view = await called(house, "2")
    assert view.status is PaymentStatus.DECLINED
    assert house.heard() == [QUESTION, "payment.declined"]
    assert [event.type for event in await house.told()] == ["payment_confirmation.declined"]


async def test_star_says_it_again_and_a_wrong_key_asks_again(house: House) -> None:
    view = await called(house, "**91")
    assert view.status is PaymentStatus.CONFIRMED
    assert house.heard() == [QUESTION] * 4 + ["payment.received"]
    assert (await house.told())[0].payload["keys"] == "**91"


@pytest.mark.parametrize(("keys", "askings"), [("", 3), ("999", 3), ("0", 3), ("*", 4), ("*" * 9, 6)])
async def test_silence_and_wrong_keys_are_no_consent(house: House, keys: str, askings: int) -> None:
    view = await called(house, keys)
    assert house.heard() == [QUESTION] * askings + ["payment.no_input"]
    assert view.status is PaymentStatus.FAILED
    assert view.failure_reason == "no_input"
    assert view.decided_by == "call"
    assert [event.type for event in await house.told()] == ["payment_confirmation.failed"]


async def test_nobody_answering_is_rung_again_by_the_policy(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(keys="")
    view = await created(house, retry={"attempts": 2, "pause": 1})
    while (call := await house.calls.get(CLIENT, view.call_id or "")).status is not CallStatus.QUEUED:
        await house.calls.wait_changed(CLIENT, view.call_id or "", 5.0, call.status)
    assert call.attempts[0].end_reason == "no_input"
    assert (await house.payments.get(CLIENT, view.id)).status is PaymentStatus.PENDING
    assert await house.told() == ()
    house.pbx.callees[NUMBER] = Callee(keys="1")
    house.clock.advance(2)
    house.engine._wake.set()
    call = await house.ended(view.call_id)
    assert len(call.attempts) == 2
    assert (await house.payments.get(CLIENT, view.id)).status is PaymentStatus.CONFIRMED


async def test_a_hang_up_before_the_answer_is_none_and_after_it_is_one(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(hang_up_after=1)
    view = await created(house)
    await house.ended(view.call_id)
    assert (await house.payments.get(CLIENT, view.id)).failure_reason == "hung_up_early"

    house.pbx.callees[NUMBER] = Callee(keys="91", hang_up_after=3)
    view = await created(house)
    call = await house.ended(view.call_id)
    assert (await house.payments.get(CLIENT, view.id)).status is PaymentStatus.CONFIRMED
    assert call.attempts[0].end_reason == "confirmed"


class TestAgent:
    @pytest.fixture
    def agent(self) -> Agent:
        return Agent("600", "agents")

    async def test_zero_goes_to_an_agent_where_there_is_one(self, house: House) -> None:
        view = await called(house, "0")
        assert house.heard() == [QUESTION, "payment.transfer"]
        assert house.voice.phrases("media-0")[-1] == "payment.keys_agent"
        assert house.pbx.sessions[0].transferred_to == ("600", "agents")
        assert view.status is PaymentStatus.FAILED
        assert view.decided_by == "agent"
        assert view.failure_reason == "transferred"
        assert len(await house.told()) == 1

    async def test_nobody_is_transferred_for_an_order_that_was_canceled(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        view: list[PaymentView] = []
        at_the_first_key(monkeypatch, lambda: house.payments.cancel(CLIENT, view[0].id), before=False)
        house.pbx.callees[NUMBER] = Callee(keys="0", answer_after=0.05)
        view.append(await created(house))
        await house.ended(view[0].call_id)
        assert house.heard() == [QUESTION, "payment.canceled"]
        assert house.pbx.sessions[0].transferred_to is None


# ---- deadline, cancel, and who wins


@pytest.mark.parametrize("before", [True, False])
async def test_an_answer_after_the_deadline_hears_that_the_order_is_closed(
    house: House, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    async def late() -> None:
        house.clock.advance(30)

    at_the_first_key(monkeypatch, late, before=before)
    view = await called(house, "1", ttl=30)
    assert house.heard() == [QUESTION, "payment.closed"]
    assert view.status is PaymentStatus.EXPIRED
    assert view.decided_by == "deadline"
    assert [event.type for event in await house.told()] == ["payment_confirmation.expired"]


async def test_a_cancel_while_it_rings_hangs_up(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house)
    while (call := await house.calls.get(CLIENT, view.call_id or "")).status is not CallStatus.RINGING:
        await house.calls.wait_changed(CLIENT, view.call_id or "", 5.0, call.status)
    canceled = await house.payments.cancel(CLIENT, view.id)
    assert canceled.status is PaymentStatus.CANCELED
    assert canceled.decided_by == "client"
    assert (await house.ended(view.call_id)).status is CallStatus.CANCELED
    assert house.pbx.sessions == []
    assert [event.type for event in await house.told()] == ["payment_confirmation.canceled"]
    assert (await house.payments.cancel(CLIENT, view.id)).status is PaymentStatus.CANCELED
    assert len(await house.told()) == 1


@pytest.mark.parametrize("keys", ["1", "2", "*", "", "9"])
async def test_a_cancel_in_mid_call_is_said(house: House, monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    view: list[PaymentView] = []
    at_the_first_key(monkeypatch, lambda: house.payments.cancel(CLIENT, view[0].id))
    house.pbx.callees[NUMBER] = Callee(keys=keys, answer_after=0.05)
    view.append(await created(house))
    call = await house.ended(view[0].call_id)
    assert house.heard() == [QUESTION, "payment.canceled"]
    assert call.attempts[0].end_reason == "canceled"
    assert len(call.attempts) == 1
    assert [event.type for event in await house.told()] == ["payment_confirmation.canceled"]


async def test_a_call_that_is_canceled_takes_its_payment_along(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house)
    await house.calls.cancel(CLIENT, view.call_id or "")
    await house.ended(view.call_id)
    assert (await house.payments.get(CLIENT, view.id)).status is PaymentStatus.CANCELED
    assert len(await house.told()) == 1


async def test_what_is_decided_cannot_be_canceled(house: House) -> None:
    view = await called(house, "1")
    with pytest.raises(Conflict, match="confirmed"):
        await house.payments.cancel(CLIENT, view.id)
    late = await created(house, ttl=30)
    house.clock.advance(30)
    with pytest.raises(Conflict, match="expired"):
        await house.payments.cancel(CLIENT, late.id)


async def test_it_expires_on_time_and_its_call_ends(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house, ttl=30)

    class NoMedia:
        def sweep(self, older_than_seconds: float) -> int:
            return 0

    housekeeper = Housekeeper(house.store, NoMedia(), house.expiry, clock=house.clock)
    assert await housekeeper.tidy() == 30.0
    house.clock.advance(29.999)
    await housekeeper.tidy()
    assert (await house.payments.get(CLIENT, view.id)).status is PaymentStatus.PENDING
    assert await house.told() == ()
    house.clock.advance(0.001)
    await housekeeper.tidy()
    await housekeeper.tidy()
    assert [event.type for event in await house.told()] == ["payment_confirmation.expired"]
    shown = await house.payments.get(CLIENT, view.id)
    assert (shown.status, shown.decided_by) == (PaymentStatus.EXPIRED, "deadline")
    assert (await house.ended(view.call_id)).status is CallStatus.CANCELED


async def test_housekeeping_wakes_for_a_deadline_that_comes_sooner(house: House) -> None:
    looked = asyncio.Semaphore(0)

    class NoMedia:
        def sweep(self, older_than_seconds: float) -> int:
            looked.release()
            return 0

    housekeeper = Housekeeper(house.store, NoMedia(), house.expiry, clock=house.clock)
    housekeeper.start()
    try:
        await asyncio.wait_for(looked.acquire(), 5)
        await asyncio.sleep(0)
        housekeeper.look_by(house.clock() + 31_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(looked.acquire(), 0.1)
        housekeeper.look_by(house.clock() + 29_000)
        await asyncio.wait_for(looked.acquire(), 5)
    finally:
        await housekeeper.stop()


async def test_confirm_expiry_and_cancel_meet_and_one_wins_each_time(
    house: House,
    step: float = 0.0,  # noqa: PT028 - the same race, on a store that is slower
    races: int = 200,  # noqa: PT028
) -> None:
    chance = random.Random(7)
    house.pbx.callees[NUMBER] = Callee(ring_after=None, answer_after=None)
    seen: dict[PaymentStatus, int] = {}
    said = {
        PaymentStatus.CONFIRMED: "payment.received",
        PaymentStatus.DECLINED: "payment.declined",
        PaymentStatus.EXPIRED: "payment.closed",
        PaymentStatus.CANCELED: "payment.canceled",
    }

    async def after(turns: int, act: Hook) -> None:
        # Turns of the loop where the store lies in this process, so that who comes first does not depend
        # on how fast the machine is; a server needs real time to be overtaken in.
        for _ in range(turns):
            await asyncio.sleep(step)
        await act()

    for _ in range(races):
        view = await created(house, ttl=30)
        async with house.store.reading() as work:
            request = await work.requests.get(view.call_id or "")
        assert request is not None
        prepared = await house.payment_flow.prepare(request)
        assert isinstance(prepared, Prepared)
        session = MemorySession("a", "", NUMBER, Callee(keys=chance.choice("12")))

        async def talk(
            session: MemorySession = session,
            request: RequestRecord = request,
            prepared: Prepared = prepared,
        ) -> None:
            await house.payment_flow.converse(session, request, prepared)

        async def cancel(payment_id: str = view.id) -> None:
            with suppress(Conflict):
                await house.payments.cancel(CLIENT, payment_id)

        async def expire() -> None:
            house.clock.advance(30)
            await house.expiry.expire_due(house.clock())

        acts: list[Hook] = [talk, cancel, expire]
        chance.shuffle(acts)
        await asyncio.gather(*(after(chance.randrange(60), act) for act in acts))
        row = await house.payments.get(CLIENT, view.id)
        seen[row.status] = seen.get(row.status, 0) + 1
        async with house.store.reading() as work:
            events = (await work.outbox.list(CLIENT.name, resource=view.id)).items
        assert [event.type for event in events] == [f"payment_confirmation.{row.status.value}"]
        assert house.voice.phrases(session.played[-1])[0] == said[row.status]
        await house.engine.cancel(view.call_id or "")
        await house.ended(view.call_id)
        async with house.store.reading() as work:
            events = (await work.outbox.list(CLIENT.name, resource=view.id)).items
        assert len(events) == 1
    assert len(seen) == 4, f"each of them wins sometimes: {seen}"


class TestOnPostgres:
    @pytest.fixture
    def store_url(self) -> Iterator[str]:
        try:
            server = PostgresServer.start()
        except PostgresMissing as error:
            pytest.skip(str(error))
        try:
            yield server.new_database()
        finally:
            server.stop()

    async def test_one_wins_there_too(self, house: House) -> None:
        await test_confirm_expiry_and_cancel_meet_and_one_wins_each_time(house, 0.002, 60)


# ---- the end of the call


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (Cause.BUSY, "busy"),
        (Cause.NO_ANSWER, "no_answer"),
        (Cause.DECLINED, "declined"),
        (Cause.UNALLOCATED, "unallocated"),
        (Cause.CONGESTION, "congestion"),
        (Cause.UNKNOWN, "unknown"),
    ],
)
async def test_a_call_that_reaches_nobody_fails_the_payment_once(
    house: House, cause: Cause, reason: str
) -> None:
    house.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(cause))
    view = await created(house)
    await house.ended(view.call_id)
    ended = await house.payments.get(CLIENT, view.id)
    assert (ended.status, ended.failure_reason, ended.decided_by) == (PaymentStatus.FAILED, reason, "call")
    (event,) = await house.told()
    assert event.type == "payment_confirmation.failed"
    assert event.payload["failure_reason"] == reason
    assert "keys" not in event.payload


async def test_the_app_hears_of_a_failed_call_without_a_wait(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(Cause.BUSY))
    view = await created(house)
    await house.ended(view.call_id)
    await house.delivery_begins()


async def test_a_store_that_cannot_be_written_is_not_a_yes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_flow, "STORE_PATIENCE", 0.05)
    monkeypatch.setattr(payment_flow, "STORE_PAUSE", 0.01)

    async def full(*_: object) -> None:
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(house.book, "decide", full)
    view = await called(house, "1")
    assert house.heard() == [QUESTION, "payment.failed"]
    assert (view.status, view.failure_reason) == (PaymentStatus.FAILED, "store_failed")


async def test_a_client_without_an_endpoint_is_told_nothing(house: House) -> None:
    silent = replace(CLIENT, name="quiet")
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await house.payments.create(silent, new(), None)
    assert isinstance(view, PaymentView)
    while (await house.payments.get(silent, view.id)).status is PaymentStatus.PENDING:
        await house.payments.wait_changed(silent, view.id, 5.0, PaymentStatus.PENDING)
    async with house.store.reading() as work:
        assert (await work.outbox.list("quiet")).items == ()


# ---- the app decides


@dataclass
class App:
    """A receiver on loopback that decides."""

    url: str = ""
    status: int = 200
    answer: str = '{"decision": "confirm"}'
    while_asked: Hook | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        Webhook(b"s" * 32).verify(raw, dict(request.headers))
        self.asked.append(json.loads(raw))
        if self.while_asked is not None:
            await self.while_asked()
        return web.Response(status=self.status, text=self.answer, headers={"Location": "/elsewhere"})


@pytest.fixture
async def app() -> AsyncIterator[App]:
    made = App()
    server = web.Application()
    server.router.add_post("/decide", made.handle)
    async with TestServer(server) as running:
        made.url = str(running.make_url("/decide"))
        yield made


async def test_the_app_is_asked_before_confirmed_is_said(house: House, app: App) -> None:
    async def heard_so_far() -> None:
        assert house.heard() == [QUESTION]

    app.while_asked = heard_so_far
    view = await called(house, "1", decide_url=app.url, metadata={"a": [1]})
    assert house.heard() == [QUESTION, "payment.confirmed"]
    assert (view.status, view.decided_by) == (PaymentStatus.CONFIRMED, "app")
    (asked,) = app.asked
    assert asked["type"] == "payment_confirmation.decide"
    assert asked["data"] == {
        "id": view.id,
        "order_id": "A-1024",
        "amount": "128.50",
        "currency": "CNY",
        "to": NUMBER,
        "decision": "confirm",
        "keys": "1",
        "out_id": None,
        "call_id": view.call_id,
        "metadata": {"a": [1]},
    }


async def test_the_app_is_not_asked_about_a_no(house: House, app: App) -> None:
    view = await called(house, "2", decide_url=app.url)
    assert view.status is PaymentStatus.DECLINED
    assert app.asked == []


@pytest.mark.parametrize(
    ("status", "answer", "by"),
    [
        (200, '{"decision": "refuse"}', "app_refused"),
        (500, '{"decision": "confirm"}', "app_silent"),
        (302, '{"decision": "confirm"}', "app_silent"),
        (404, "", "app_silent"),
        (200, "", "app_silent"),
        (200, "confirm", "app_silent"),
        (200, '{"decision": "Confirm"}', "app_silent"),
        (200, '{"decision": ["confirm"]}', "app_silent"),
        (200, '"confirm"', "app_silent"),
        (200, "[" * 4000, "app_silent"),
        (200, '{"decision": "confirm"}' + " " * 5000, "app_silent"),
    ],
)
async def test_anything_but_a_clear_confirm_is_none(
    house: House, app: App, status: int, answer: str, by: str
) -> None:
    app.status, app.answer = status, answer
    view = await called(house, "1", decide_url=app.url)
    assert house.heard() == [QUESTION, "payment.failed"]
    assert (view.status, view.decided_by, view.failure_reason) == (PaymentStatus.FAILED, by, by)
    (event,) = await house.told()
    assert event.type == "payment_confirmation.failed"
    assert event.payload["decided_by"] == by
    assert len(app.asked) == 1


async def test_an_app_that_is_too_slow_is_silent(
    house: House, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert payment_book.ASK_SECONDS == 3.0
    monkeypatch.setattr(payment_book, "ASK_SECONDS", 0.1)
    app.while_asked = asyncio.Event().wait
    view = await called(house, "1", decide_url=app.url)
    assert (view.status, view.decided_by) == (PaymentStatus.FAILED, "app_silent")
    assert house.heard() == [QUESTION, "payment.failed"]


async def test_an_app_that_is_gone_is_silent(house: House, unused_tcp_port: int) -> None:
    view = await called(house, "1", decide_url=f"http://127.0.0.1:{unused_tcp_port}/decide")
    assert (view.status, view.decided_by) == (PaymentStatus.FAILED, "app_silent")


async def test_a_deadline_that_passes_while_the_app_thinks_counts(house: House, app: App) -> None:
    async def late() -> None:
        house.clock.advance(30)
        await house.expiry.expire_due(house.clock())

    app.while_asked = late
    view = await called(house, "1", decide_url=app.url, ttl=30)
    assert view.status is PaymentStatus.EXPIRED
    assert house.heard() == [QUESTION, "payment.closed"]
    assert [event.type for event in await house.told()] == ["payment_confirmation.expired"]


async def test_a_cancel_while_the_app_thinks_counts(house: House, app: App) -> None:
    view: list[PaymentView] = []

    async def cancel() -> None:
        await house.payments.cancel(CLIENT, view[0].id)

    app.while_asked = cancel
    house.pbx.callees[NUMBER] = Callee(keys="1", answer_after=0.05)
    view.append(await created(house, decide_url=app.url))
    await house.ended(view[0].call_id)
    assert house.heard() == [QUESTION, "payment.canceled"]
    assert [event.type for event in await house.told()] == ["payment_confirmation.canceled"]


async def test_a_person_who_hangs_up_while_the_app_thinks_has_said_yes(house: House, app: App) -> None:
    async def hang_up() -> None:
        house.pbx.sessions[0].end(Cause.NORMAL)

    app.while_asked = hang_up
    view = await called(house, "1", decide_url=app.url)
    assert view.status is PaymentStatus.CONFIRMED


# ---- what is asked for


@pytest.mark.parametrize(
    ("field_name", "values"),
    [
        ("order_id", {"order_id": ""}),
        ("order_id", {"order_id": "x" * 65}),
        ("order_id", {"order_id": "--- ---"}),
        ("order_id", {"order_id": "12\n"}),
        ("order_id", {"order_id": "订单12"}),
        ("payee", {"payee": ""}),
        ("payee", {"payee": "x" * 65}),
        ("payee", {"payee": "a\r\nb"}),
        ("payee", {"payee": "…!"}),
        ("amount", {"amount": ""}),
        ("amount", {"amount": "1e3"}),
        ("amount", {"amount": "-1"}),
        ("amount", {"amount": "+1"}),
        ("amount", {"amount": "1,000"}),
        ("amount", {"amount": "01"}),
        ("amount", {"amount": "1."}),
        ("amount", {"amount": ".5"}),
        ("amount", {"amount": " 1"}),
        ("amount", {"amount": "NaN"}),
        ("amount", {"amount": "１"}),
        ("amount", {"amount": "0"}),
        ("amount", {"amount": "0.00"}),
        ("amount", {"amount": "1.234"}),
        ("amount", {"amount": "1.5", "currency": "JPY"}),
        ("amount", {"amount": "1" * 13}),
        ("currency", {"currency": "cny"}),
        ("currency", {"currency": "XQX"}),
        ("currency", {"currency": ""}),
        ("ttl", {"ttl": 29}),
        ("ttl", {"ttl": 86_401}),
        ("deadline", {"deadline": "2026-09-21T22:23:20+08:00", "ttl": 60}),
        ("deadline", {"deadline": "tomorrow"}),
        ("deadline", {"deadline": "2026-09-21T14:23:20"}),
        ("deadline", {"deadline": "2026-02-30T14:23:20Z"}),
        ("deadline", {"deadline": "2026-09-21T14:13:20Z"}),
        ("deadline", {"deadline": "2036-09-21T14:13:20Z"}),
        ("deadline", {"deadline": "0001-01-01T00:00:00+23:00"}),
        ("retry.attempts", {"retry": {"attempts": 11}}),
        ("retry.tries", {"retry": {"tries": 1}}),
        ("retry.pause", {"retry": {"pause": 0}}),
        ("retry.on", {"retry": {"on": ["never"]}}),
        ("decide_url", {"decide_url": "ftp://example.com/"}),
        ("decide_url", {"decide_url": "http://10.0.0.1/"}),
        ("decide_url", {"decide_url": "https://u:p@example.com/"}),
        ("decide_url", {"decide_url": "nonsense"}),
        ("metadata", {"metadata": {"a": "x" * 4096}}),
        ("metadata", {"metadata": {"a": float("inf")}}),
        ("metadata", {"metadata": {"a": "\ud800"}}),
        ("machine_detection", {"machine_detection": "on"}),
    ],
)
async def test_each_field_is_checked_before_a_phone_rings(
    house: House, field_name: str, values: dict[str, Any]
) -> None:
    for act in (
        house.payments.create(CLIENT, new(**values), None),
        house.payments.dry_run(CLIENT, new(**values)),
    ):
        with pytest.raises(InputError) as caught:
            await act
        assert caught.value.field == field_name
        assert caught.value.mend
    assert house.pbx.orders == []
    page = await house.payments.list(CLIENT, status=None, cursor=None, limit=10)
    assert page.items == ()


async def test_number_and_language_are_checked_as_everywhere(house: House) -> None:
    with pytest.raises(InvalidNumber):
        await created(house, to="123")
    with pytest.raises(DestinationNotAllowed):
        await created(house, to="+12025550123")
    with pytest.raises(UnknownLocale):
        await created(house, locale="xx")


async def test_a_decide_url_needs_a_secret_to_sign_with(house: House) -> None:
    with pytest.raises(InputError) as caught:
        await house.payments.create(
            replace(CLIENT, name="quiet"), new(decide_url="https://example.com/"), None
        )
    assert caught.value.field == "decide_url"


async def test_a_deadline_with_an_offset(house: House) -> None:
    """The clock of these tests begins at 2026-09-21T14:13:20Z."""
    view = await created(house, deadline="2026-09-21T22:23:20.5+08:00")
    assert view.expires_at == house.clock() + 600_500
    view = await created(house)
    assert view.expires_at == house.clock() + 600_000


async def test_the_call_is_of_its_class_and_below_codes(house: House) -> None:
    view = await created(house, retry={"attempts": 4, "on": ["busy"]})
    async with house.store.reading() as work:
        request = await work.requests.get(view.call_id or "")
    assert request is not None
    assert request.call_class.value == "transaction"
    assert request.priority == 50
    assert request.max_attempts == 4
    assert request.retry == {"attempts": 4, "on": ["busy"]}
    assert request.expires_at == view.expires_at


async def test_a_dry_run_keeps_nothing(house: House) -> None:
    verdict = await house.payments.dry_run(CLIENT, new())
    assert (verdict.to, verdict.locale, verdict.trunk) == (NUMBER, "en", "main")
    page = await house.payments.list(CLIENT, status=None, cursor=None, limit=10)
    assert page.items == ()
    assert house.pbx.orders == []


def once(key: str = "k", fingerprint: str = "f" * 64) -> Once[PaymentView]:
    return Once(key, fingerprint, lambda view: StoredReply(201, view.id))


async def test_the_same_key_makes_one_payment(house: House) -> None:
    view = await house.payments.create(CLIENT, new(), once())
    assert isinstance(view, PaymentView)
    again = await house.payments.create(CLIENT, new(), once())
    assert again == StoredReply(201, view.id)
    with pytest.raises(IdempotencyMismatch):
        await house.payments.create(CLIENT, new(), once(fingerprint="0" * 64))
    await house.ended(view.call_id)
    assert len(house.pbx.orders) == 1


async def test_the_same_key_is_answered_alike_when_its_deadline_has_come_near(house: House) -> None:
    deadline = datetime.fromtimestamp((house.clock() + 40_000) / 1000, UTC).isoformat()
    view = await house.payments.create(CLIENT, new(deadline=deadline), once())
    assert isinstance(view, PaymentView)
    house.clock.advance(20)
    for _ in range(2):
        again = await house.payments.create(CLIENT, new(deadline=deadline), once())
        assert again == StoredReply(201, view.id)
        house.clock.advance(60)
    with pytest.raises(InputError) as caught:
        await house.payments.create(CLIENT, new(deadline=deadline), once("another"))
    assert caught.value.field == "deadline"
    with pytest.raises(InputError):
        await house.payments.create(CLIENT, new(deadline=deadline), None)
    assert isinstance(await house.payments.create(CLIENT, new(), once("another")), PaymentView)


async def test_clients_see_their_own(house: House) -> None:
    view = await called(house, "2")
    other = replace(CLIENT, name="other")
    for act in (house.payments.get(other, view.id), house.payments.cancel(other, view.id)):
        with pytest.raises(NotFound):
            await act
    assert (await house.payments.list(other, status=None, cursor=None, limit=10)).items == ()
    mine = await house.payments.list(CLIENT, status=PaymentStatus.DECLINED, cursor=None, limit=10)
    assert [one.id for one in mine.items] == [view.id]
    assert (
        await house.payments.list(CLIENT, status=PaymentStatus.PENDING, cursor=None, limit=10)
    ).items == ()


async def test_waiting_ends_with_the_payment(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house)
    waiting = asyncio.create_task(house.payments.wait_changed(CLIENT, view.id, 30.0, PaymentStatus.PENDING))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await house.book.decide(view.id, Decision(PaymentStatus.DECLINED, DecidedBy.PERSON))
    await asyncio.wait_for(waiting, 0.5)
    await asyncio.wait_for(house.payments.wait_changed(CLIENT, view.id, 30.0, PaymentStatus.PENDING), 0.5)
    await asyncio.wait_for(house.payments.wait_changed(CLIENT, view.id, 30.0), 0.5)
    assert house.book._changes == {}


async def test_waiting_without_a_state_tells_of_the_call_too(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(ring_after=0.1, answer_after=None)
    view = await created(house)
    await asyncio.wait_for(house.payments.wait_changed(CLIENT, view.id, 30.0), 0.9)
    assert (await house.payments.get(CLIENT, view.id)).call_status is CallStatus.RINGING


async def test_waiting_has_an_end(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(ring_after=None, answer_after=None)
    view = await created(house)
    await house.payments.wait_changed(CLIENT, view.id, 0.05, PaymentStatus.PENDING)


@pytest.mark.parametrize(
    ("choice", "machine", "heard", "reason", "heard_out"),
    [
        ("off", True, [QUESTION, "payment.received"], "confirmed", 0),
        ("hang_up", False, [QUESTION, "payment.received"], "confirmed", 0),
        ("hang_up", True, [], "machine", 0),
        ("leave_message", False, [QUESTION, "payment.received"], "confirmed", 0),
        ("leave_message", True, ["payment.voicemail"], "message_left", 1),
    ],
)
async def test_a_machine_hears_no_amount(
    house: House, choice: str, machine: bool, heard: list[str], reason: str, heard_out: int
) -> None:
    house.pbx.callees[NUMBER] = Callee(keys="1", machine=machine)
    view = await created(house, machine_detection=choice)
    call = await house.ended(view.call_id)
    assert house.pbx.orders[0].detect_machines is (choice != "off")
    assert house.heard() == heard
    assert house.pbx.sessions[0].heard_out == heard_out
    assert call.attempts[0].end_reason == reason
    ended = await house.payments.get(CLIENT, view.id)
    assert ended.failure_reason == (None if reason == "confirmed" else reason)
    assert ended.decided_by == ("person" if reason == "confirmed" else "call")


async def test_what_is_left_on_a_machine_tells_no_secret(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(machine=True)
    await house.ended((await created(house, machine_detection="leave_message")).call_id)
    (played,) = house.pbx.sessions[0].played
    said = [part for part in house.voice.said[played].parts if not isinstance(part, Silence)]
    assert said == [Phrase("payment.voicemail", (("brand", "Acme"),)), Phrase("common.goodbye")]


async def test_a_call_leaves_one_message_and_rings_on(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(machine=True)
    retry = {"attempts": 3, "pause": 1, "longest_pause": 1}
    view = await created(house, machine_detection="leave_message", retry=retry)
    for done in range(1, 4):
        async with asyncio.timeout(5):
            while len((await house.calls.get(CLIENT, view.call_id or "")).attempts) < done:
                house.clock.advance(2)
                house.engine._wake.set()
                await asyncio.sleep(0.02)
    call = await house.ended(view.call_id)
    assert [attempt.end_reason for attempt in call.attempts] == ["message_left", "machine", "machine"]
    assert [len(session.played) for session in house.pbx.sessions] == [1, 0, 0]


async def test_a_machine_that_talks_on_is_not_talked_to(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(machine=True, greeting_ends=False)
    call = await house.ended((await created(house, machine_detection="leave_message")).call_id)
    assert call.attempts[0].end_reason == "machine"
    assert house.pbx.sessions[0].played == []


async def test_an_order_that_was_closed_during_the_greeting_is_not_spoken_of(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.pbx.callees[NUMBER] = Callee(machine=True)
    view: PaymentView | None = None
    original = MemorySession.hear_out

    async def hear_out(session: MemorySession, timeout: float) -> bool:
        assert view is not None
        await house.payments.cancel(CLIENT, view.id)
        return await original(session, timeout)

    monkeypatch.setattr(MemorySession, "hear_out", hear_out)
    view = await created(house, machine_detection="leave_message")
    call = await house.ended(view.call_id)
    assert call.attempts[0].end_reason == "machine"
    assert house.pbx.sessions[0].played == []
    assert (await house.payments.get(CLIENT, view.id)).status is PaymentStatus.CANCELED


async def test_a_machine_that_hangs_up_on_the_message_has_not_got_it(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(machine=True, hang_up_after=1)
    call = await house.ended((await created(house, machine_detection="leave_message")).call_id)
    assert call.attempts[0].end_reason == "machine"


async def test_whoever_hangs_up_while_the_pbx_listens_is_a_person_who_did_not_wait(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(does_not_wait=True)
    retry = {"attempts": 2, "pause": 60}
    view = await created(house, machine_detection="hang_up", retry=retry)
    while not (call := await house.calls.get(CLIENT, view.call_id or "")).attempts[0].ended_at:
        await house.calls.wait_changed(CLIENT, call.id, 5.0)
    (attempt,) = call.attempts
    assert (attempt.end_reason, attempt.cause) == ("hung_up_early", "normal")
    assert attempt.answered_at == house.clock() - 1000
    assert call.status is CallStatus.QUEUED, "it rings again"


async def test_logs_hold_no_number_order_or_url(house: House, app: App) -> None:
    app.status = 500
    with capture_logs() as logs:
        await called(house, "1", decide_url=app.url + "?token=hush", metadata={"m": "hush"})
    assert logs
    written = repr(logs)
    for secret in ("hush", NUMBER, "A-1024", "128.50", "sssss"):
        assert secret not in written
