"""The life of a verification, with the real engine and store and a PBX in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import time
from pathlib import Path
from typing import Any

import pytest

from telephony.calls.quiet import Window
from telephony.errors import (
    Conflict,
    DestinationNotAllowed,
    IdempotencyMismatch,
    InputError,
    InvalidNumber,
    NotFound,
    RateLimited,
    StoreUnavailable,
    UnknownLocale,
)
from telephony.model.call import CallClass, CallStatus, VerificationStatus
from telephony.model.client import Client
from telephony.model.hangup import Cause, HangupCause
from telephony.model.prompt import Digits, Phrase
from telephony.pbx.memory import Callee, MemorySession
from telephony.pbx.port import Gathered
from telephony.services.contract import NewCall, NewVerification, Once, StoredReply, VerificationView
from telephony.services.housekeeping import LONGEST_SLEEP, Housekeeper
from telephony.services.verification import CallBudget, VerificationRules
from telephony.store.repositories.idempotency import PURGE_BATCH
from tests.store_engines import PostgresServer
from tests.unit.services.conftest import CLIENT, NUMBER, House


async def created(house: House, **values: Any) -> VerificationView:
    view = await house.verifications.create(CLIENT, NewVerification(**{"to": NUMBER, **values}), None)
    assert isinstance(view, VerificationView)
    return view


async def test_a_call_speaks_the_code_and_the_check_approves_it(house: House) -> None:
    view = await created(house)
    code = await house.code_of(view)
    call = await house.ended(view.call_id)

    assert call.status is CallStatus.COMPLETED
    assert [order.number for order in house.pbx.orders] == [NUMBER]
    assert house.voice.codes(house.pbx.sessions[0].played[0]) == [code, code]
    assert len(code) == 6
    assert house.voice.discarded == ["media-0"]
    wrong = await house.verifications.check(CLIENT, view.id, "000000" if code != "000000" else "111111")
    assert not wrong.valid
    assert wrong.verification.checks_left == 4
    right = await house.verifications.check(CLIENT, view.id, code)
    assert right.valid
    assert right.verification.status is VerificationStatus.APPROVED
    again = await house.verifications.check(CLIENT, view.id, code)
    assert not again.valid, "a code is accepted once"


async def test_the_brand_comes_first_and_two_seconds_stand_before_the_repeat(house: House) -> None:
    view = await created(house, code="1234", play_times=3)
    await house.ended(view.call_id)
    parts = house.voice.said["media-0"].parts
    first = next(part for part in parts if isinstance(part, Phrase))
    assert first == Phrase("verification.greeting", (("brand", "Acme"),))
    spoken = [index for index, part in enumerate(parts) if isinstance(part, Digits)]
    assert len(spoken) == 3
    assert all(part.secret for part in parts if isinstance(part, Digits))
    for index in spoken[1:]:
        assert parts[index - 3].seconds == 2.0  # type: ignore[union-attr]


async def test_star_says_it_again(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(keys="**")
    view = await created(house)
    call = await house.ended(view.call_id)
    assert house.pbx.sessions[0].played == ["media-0"] * 3
    assert call.attempts[0].keys == "**"


async def test_a_key_is_asked_for_first_and_a_voicemail_box_never_hears_the_code(house: House) -> None:
    view = await created(house, require_keypress=True)
    call = await house.ended(view.call_id)
    assert house.pbx.sessions[0].played == ["media-1"] * 3
    assert house.voice.codes("media-1") == []
    assert call.attempts[0].end_reason == "no_keypress"

    house.pbx.callees[NUMBER] = Callee(keys="5")
    view = await created(house, require_keypress=True)
    await house.ended(view.call_id)
    assert house.pbx.sessions[1].played == ["media-3", "media-2"]


@pytest.mark.parametrize(
    ("cause", "status", "verification"),
    [
        (Cause.BUSY, CallStatus.BUSY, VerificationStatus.PENDING),
        (Cause.NO_ANSWER, CallStatus.NO_ANSWER, VerificationStatus.PENDING),
        (Cause.DECLINED, CallStatus.REJECTED, VerificationStatus.PENDING),
        (Cause.BLOCKED, CallStatus.REJECTED, VerificationStatus.FAILED),
        (Cause.UNALLOCATED, CallStatus.INVALID_NUMBER, VerificationStatus.FAILED),
        (Cause.INVALID_NUMBER, CallStatus.INVALID_NUMBER, VerificationStatus.FAILED),
        (Cause.UNREACHABLE, CallStatus.UNREACHABLE, VerificationStatus.PENDING),
        (Cause.CONGESTION, CallStatus.FAILED, VerificationStatus.PENDING),
        (Cause.TRUNK_REFUSED, CallStatus.FAILED, VerificationStatus.PENDING),
        (Cause.TRUNK_FAULT, CallStatus.FAILED, VerificationStatus.PENDING),
        (Cause.PBX_LOST, CallStatus.FAILED, VerificationStatus.PENDING),
        (Cause.UNKNOWN, CallStatus.UNKNOWN, VerificationStatus.PENDING),
    ],
)
async def test_each_cause_has_its_status(
    house: House, cause: Cause, status: CallStatus, verification: VerificationStatus
) -> None:
    house.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(cause, sip=499))
    view = await created(house)
    call = await house.ended(view.call_id)
    assert call.status is status
    assert call.failure_reason == cause.value
    assert call.attempts[0].cause == cause.value
    assert call.attempts[0].sip == 499
    assert (await house.verifications.get(CLIENT, view.id)).status is verification


async def test_a_hangup_in_mid_code_is_a_completed_call(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(hang_up_after=1)
    view = await created(house)
    call = await house.ended(view.call_id)
    assert call.status is CallStatus.COMPLETED
    assert call.attempts[0].end_reason == "hung_up_early"


async def test_resend_says_the_same_code_and_only_so_often(house: House) -> None:
    view = await created(house)
    code = await house.code_of(view)
    for count in range(2, 6):
        await house.ended(view.call_id)
        again = await house.verifications.resend(CLIENT, view.id, None)
        assert isinstance(again, VerificationView)
        view = again
        assert view.sends_left == 5 - count
    await house.ended(view.call_id)
    assert all(house.voice.codes(name) == [code, code] for name in house.voice.said)
    with pytest.raises(RateLimited):
        await house.verifications.resend(CLIENT, view.id, None)


async def test_resend_while_a_call_is_under_way_is_a_conflict(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house)
    with pytest.raises(Conflict):
        await house.verifications.resend(CLIENT, view.id, None)
    await house.verifications.cancel(CLIENT, view.id)
    await house.ended(view.call_id)


async def test_an_expired_code_is_refused_never_spoken_and_erased(house: House) -> None:
    view = await created(house, ttl=60)
    code = await house.code_of(view)
    await house.ended(view.call_id)
    house.clock.advance(60)
    assert (await house.verifications.get(CLIENT, view.id)).status is VerificationStatus.EXPIRED
    late = await house.verifications.check(CLIENT, view.id, code)
    assert not late.valid
    with pytest.raises(Conflict):
        await house.verifications.resend(CLIENT, view.id, None)
    async with house.store.reading() as work:
        record = await work.verifications.get_for_client(CLIENT.name, view.id)
    assert record is not None
    assert record.code_sealed is None


async def test_failures_count_per_number_and_a_new_code_does_not_reset_them(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(Cause.BUSY))
    for _ in range(2):
        view = await created(house, code="123456")
        for _ in range(5):
            outcome = await house.verifications.check(CLIENT, view.id, "654321")
            assert not outcome.valid
        assert outcome.verification.status is VerificationStatus.MAX_ATTEMPTS_REACHED
        await house.ended(view.call_id)
    with pytest.raises(RateLimited):
        await created(house)
    house.clock.advance(3601)
    await created(house)


async def test_cancel_while_it_rings_hangs_up(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    view = await created(house)
    while (await house.calls.get(CLIENT, view.call_id or "")).status is not CallStatus.RINGING:
        await house.calls.wait_changed(CLIENT, view.call_id or "", 1.0, None)
    canceled = await house.verifications.cancel(CLIENT, view.id)
    assert canceled.status is VerificationStatus.CANCELED
    call = await house.ended(view.call_id)
    assert call.status is CallStatus.CANCELED


async def test_pbx_away_fails_within_dial_within_and_at_once(house: House) -> None:
    house.pbx.lose_link()
    view = await created(house, dial_within=1)
    assert view.call_status is CallStatus.QUEUED
    await asyncio.sleep(0)
    house.clock.advance(2)
    house.pbx.restore_link()
    call = await house.ended(view.call_id)
    assert call.status is CallStatus.FAILED
    assert call.failure_reason == "not_dialed_in_time"
    assert house.pbx.orders == []
    assert (await house.verifications.get(CLIENT, view.id)).status is VerificationStatus.FAILED


async def test_pbx_back_in_time_is_dialled(house: House) -> None:
    house.pbx.lose_link()
    view = await created(house)
    house.pbx.restore_link()
    call = await house.ended(view.call_id)
    assert call.status is CallStatus.COMPLETED


def once(key: str, fingerprint: str) -> Once[VerificationView]:
    return Once(key, fingerprint, lambda view: StoredReply(201, f'{{"id": "{view.id}"}}'))


async def test_the_same_key_gets_the_same_reply_and_rings_once(house: House) -> None:
    new = NewVerification(to=NUMBER)
    first = await house.verifications.create(CLIENT, new, once("k", "f"))
    assert isinstance(first, VerificationView)
    again = await house.verifications.create(CLIENT, new, once("k", "f"))
    assert again == StoredReply(201, f'{{"id": "{first.id}"}}')
    with pytest.raises(IdempotencyMismatch):
        await house.verifications.create(CLIENT, new, once("k", "g"))
    await house.ended(first.call_id)
    assert len(house.pbx.orders) == 1


@pytest.mark.parametrize(
    ("new", "error", "field"),
    [
        ({"to": "12"}, InvalidNumber, "to"),
        ({"to": "abc"}, InvalidNumber, "to"),
        ({"to": "+861380000000012345"}, InvalidNumber, "to"),
        ({"to": "+12025550123"}, DestinationNotAllowed, None),
        ({"locale": "xx"}, UnknownLocale, "locale"),
        ({"code": "12a4"}, InputError, "code"),
        ({"code": "123"}, InputError, "code"),
        ({"code": "１２３４"}, InputError, "code"),
        ({"code": "1234", "code_length": 6}, InputError, "code_length"),
        ({"code_length": 11}, InputError, "code_length"),
        ({"play_times": 4}, InputError, "play_times"),
        ({"ttl": 5}, InputError, "ttl"),
        ({"dial_within": 0}, InputError, "dial_within"),
    ],
)
async def test_bad_input_names_the_field_and_keeps_nothing(
    house: House, new: dict[str, Any], error: type[Exception], field: str | None
) -> None:
    with pytest.raises(error) as caught:
        await created(house, **new)
    if field is not None:
        assert getattr(caught.value, "field") == field  # noqa: B009
    page = await house.verifications.list(CLIENT, status=None, cursor=None, limit=10)
    assert page.items == ()
    assert house.pbx.orders == []


async def test_a_national_number_is_read_in_the_default_region(house: House) -> None:
    view = await created(house, to="138 0000 0001")
    assert view.to == NUMBER


async def test_keys_are_forgotten_as_fast_as_they_come(house: House) -> None:
    async with house.store.transaction() as work:
        for number in range(PURGE_BATCH + 1):
            await work.idempotency.begin("shop", str(number), "f", house.clock(), 1)
    house.clock.advance(1)
    housekeeper = Housekeeper(house.store, NoMedia(), clock=house.clock)
    assert [await housekeeper.tidy() for _ in range(2)] == [0.0, LONGEST_SLEEP]


async def test_another_client_sees_nothing(house: House) -> None:
    view = await created(house)
    other = replace(CLIENT, name="other")
    with pytest.raises(NotFound):
        await house.verifications.get(other, view.id)
    with pytest.raises(NotFound):
        await house.verifications.check(other, view.id, "123456")
    with pytest.raises(NotFound):
        await house.calls.get(other, view.call_id or "")


async def test_a_dry_run_keeps_and_dials_nothing(house: House) -> None:
    verdict = await house.verifications.dry_run(CLIENT, NewVerification(to=NUMBER))
    assert (verdict.to, verdict.trunk) == (NUMBER, "main")
    page = await house.verifications.list(CLIENT, status=None, cursor=None, limit=10)
    assert page.items == ()
    assert house.pbx.orders == []


class TestBudgets:
    @pytest.fixture
    def rules(self) -> VerificationRules:
        return VerificationRules(calls_per_number=(CallBudget(2, 300),))

    async def test_a_number_is_called_only_so_often(self, house: House) -> None:
        house.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(Cause.BUSY))
        for _ in range(2):
            view = await created(house)
            await house.ended(view.call_id)
        with pytest.raises(RateLimited) as caught:
            await created(house)
        assert caught.value.retry_after == 300
        house.clock.advance(301)
        await created(house)


class TestAtOnce:
    """What one transaction after the other keeps, many at once must keep too."""

    @pytest.fixture(params=["sqlite", "postgres"])
    def store_url(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path}/t.db"
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.new_database(template=request.getfixturevalue("migrated"))

    @pytest.fixture
    def rules(self) -> VerificationRules:
        return VerificationRules(failures_per_number=3)

    async def test_of_many_requests_for_a_number_one_rings(self, house: House) -> None:
        house.pbx.callees[NUMBER] = Callee(ring_after=0.01, answer_after=None)
        made = await asyncio.gather(*(created(house) for _ in range(8)), return_exceptions=True)
        views = [one for one in made if isinstance(one, VerificationView)]
        assert len(views) == 1
        assert sum(isinstance(one, RateLimited) for one in made) == 7
        await house.verifications.cancel(CLIENT, views[0].id)
        await house.ended(views[0].call_id)
        assert len(house.pbx.orders) == 1

    async def test_wrong_codes_for_many_verifications_of_a_number_are_counted(self, house: House) -> None:
        house.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(Cause.BUSY))
        views = []
        for _ in range(8):
            views.append(await created(house, code="314159"))
            await house.ended(views[-1].call_id)
        checks = (house.verifications.check(CLIENT, view.id, "000000") for view in views)
        told = await asyncio.gather(*checks, return_exceptions=True)
        assert sum(isinstance(one, RateLimited) for one in told) == 5


async def test_records_and_values_never_show_the_code(house: House) -> None:
    new = NewVerification(to=NUMBER, code="846251")
    view = await house.verifications.create(CLIENT, new, None)
    assert isinstance(view, VerificationView)
    await house.ended(view.call_id)
    async with house.store.reading() as work:
        record = await work.verifications.get_for_client(CLIENT.name, view.id)
        request = await work.requests.get(view.call_id or "")
        events = await work.events.list_for(view.call_id or "")
    for value in (new, view, record, request, events, house.pbx.orders, house.voice.said):
        assert "846251" not in repr(value)


async def test_each_end_of_a_verification_is_told_once_and_never_the_code(house: House) -> None:
    async def ended(view: VerificationView) -> list[tuple[str, str]]:
        return [(event.type, event.resource) for event in await house.told() if event.resource == view.id]

    approved = await created(house, code="482913")
    await house.ended(approved.call_id)
    await house.verifications.check(CLIENT, approved.id, "482913")
    await house.verifications.check(CLIENT, approved.id, "482913")
    assert await ended(approved) == [("verification.approved", approved.id)]

    house.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(Cause.UNALLOCATED))
    failed = await created(house, code="482913", out_id="o-1")
    await house.ended(failed.call_id)
    assert await ended(failed) == [("verification.failed", failed.id)]
    assert (await house.told())[0].payload == {
        "id": failed.id,
        "status": "failed",
        "to": NUMBER,
        "failure_reason": "unallocated",
        "out_id": "o-1",
        "call_id": failed.call_id,
    }

    house.pbx.callees[NUMBER] = Callee()
    canceled = await created(house, code="482913")
    await house.ended(canceled.call_id)
    await house.verifications.cancel(CLIENT, canceled.id)
    assert await ended(canceled) == [("verification.canceled", canceled.id)]

    expired = await created(house, code="482913", ttl=30)
    await house.ended(expired.call_id)
    house.clock.advance(30)
    housekeeper = Housekeeper(house.store, NoMedia(), notices=house.notices, clock=house.clock)
    await housekeeper.tidy()
    await housekeeper.tidy()
    assert await ended(expired) == [("verification.expired", expired.id)]
    assert "482913" not in repr(await house.told())


class NoMedia:
    """Nothing to sweep."""

    def sweep(self, older_than_seconds: float) -> int:
        return 0


async def rings(house: House, view: VerificationView) -> str:
    call_id = view.call_id or ""
    while (seen := await house.calls.get(CLIENT, call_id)).status is not CallStatus.RINGING:
        await house.calls.wait_changed(CLIENT, call_id, 1.0, seen.status)
    return call_id


async def test_a_code_that_expired_while_it_rang_is_not_spoken(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=0.2)
    call_id = await rings(house, await created(house, ttl=60))
    house.clock.advance(61)
    call = await house.ended(call_id)
    assert house.pbx.sessions[0].played == []
    assert (call.status, call.attempts[0].end_reason) == (CallStatus.COMPLETED, "expired")


async def test_a_code_approved_while_it_rang_is_not_spoken(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=0.3)
    view = await created(house)
    code = await house.code_of(view)
    call_id = await rings(house, view)
    await house.verifications.check(CLIENT, view.id, code)
    await house.ended(call_id)
    assert house.pbx.sessions[0].played == []


async def test_a_call_that_was_canceled_in_mid_call_speaks_no_code(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MemorySession.gather

    async def gather(self: MemorySession, *args: Any, **more: Any) -> Gathered:
        (call,) = (await house.calls.list(CLIENT, status=None, cursor=None, limit=10)).items
        await house.calls.cancel(CLIENT, call.id)
        return await original(self, *args, **more)

    monkeypatch.setattr(MemorySession, "gather", gather)
    house.pbx.callees[NUMBER] = Callee(keys="1")
    view = await created(house, require_keypress=True)
    call = await house.ended(view.call_id)
    assert [house.voice.codes(name) for name in house.pbx.sessions[0].played] == [[]]
    assert (call.status, call.attempts[0].end_reason) == (CallStatus.COMPLETED, "canceled")
    assert (await house.verifications.get(CLIENT, view.id)).status is VerificationStatus.PENDING


@pytest.mark.parametrize("seconds", [0, 61], ids=["in time", "expired meanwhile"])
async def test_a_store_that_cannot_be_read_when_somebody_answers(
    house: House, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=0.2)
    call_id = await rings(house, await created(house, ttl=60))
    house.clock.advance(seconds)
    away = [True]
    reading = house.store.reading

    @asynccontextmanager
    async def failing() -> AsyncIterator[Any]:
        if away[0]:
            raise StoreUnavailable("away")
        async with reading() as work:
            yield work

    monkeypatch.setattr(house.store, "reading", failing)
    async with asyncio.timeout(3):
        while not house.pbx.sessions or not house.pbx.sessions[0].gone:
            await asyncio.sleep(0.01)
    away[0] = False
    call = await house.ended(call_id)
    heard = not seconds
    assert (len(house.pbx.sessions[0].played) == 1) is heard
    assert (call.status, call.attempts[0].end_reason) == (
        CallStatus.COMPLETED,
        "heard" if heard else "expired",
    )


async def test_a_call_of_another_kind_keeps_no_code_from_a_number(house: House) -> None:
    other = Client("other", "Beta", "+861088880001", default_region="CN", regions=("CN",))
    house.pbx.callees[NUMBER] = Callee(refuses_with=HangupCause(Cause.BUSY))
    announced = NewCall(
        to=NUMBER,
        flow="announcement",
        variables={"text": "hello"},
        call_class="otp",
        ttl=604_800,
        locale="en",
        retry={"attempts": 3, "pause": 86_400, "longest_pause": 86_400},
    )
    call = await house.calls.create(other, announced, None)
    async with asyncio.timeout(5):
        while (await house.calls.get(other, call.id)).status is not CallStatus.QUEUED:
            await asyncio.sleep(0.01)
    made = await house.verifications.create(CLIENT, NewVerification(to=NUMBER), None)
    assert made.status is VerificationStatus.PENDING


class TestHours:
    @pytest.fixture
    def hours(self) -> dict[CallClass, tuple[Window, ...]]:
        return {CallClass.OTP: (Window(time(9), time(9, 1)),)}

    async def test_a_code_that_could_not_ring_in_time_is_refused(self, house: House) -> None:
        for ask in (
            house.verifications.dry_run(CLIENT, NewVerification(to=NUMBER)),
            house.verifications.create(CLIENT, NewVerification(to=NUMBER), None),
        ):
            with pytest.raises(InputError, match="ends before the hours") as caught:
                await ask
            assert caught.value.field == "dial_within"
