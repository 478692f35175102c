"""Calls of any flow: what is taken in, what `announcement` says, what the app is told; a PBX in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.api.schemas import Call
from telephony.calls.flow import Outcome, Prepared
from telephony.calls.policy import policy_for
from telephony.calls.quiet import Window
from telephony.egress.envelope import iso
from telephony.errors import (
    CallEnded,
    Conflict,
    DestinationNotAllowed,
    IdempotencyMismatch,
    InputError,
    InvalidNumber,
    NotFound,
    StoreUnavailable,
    UnknownLocale,
)
from telephony.model.call import CallClass, CallStatus
from telephony.model.hangup import Cause, HangupCause
from telephony.model.media import Media
from telephony.model.prompt import Phrase, Text
from telephony.pbx.memory import Callee, MemorySession
from telephony.pbx.port import CallSession, Gathered
from telephony.services.admission import check_json
from telephony.services.announcement import AnnouncementFlow
from telephony.services.call_view import view_of
from telephony.services.contract import (
    CallView,
    NewCall,
    NewPayment,
    NewVerification,
    Once,
    PaymentView,
    StoredReply,
)
from telephony.services.flows import FlowRegistry
from telephony.store import RequestRecord, Store, UnitOfWork
from tests.unit.services.conftest import CLIENT, NUMBER, House

TEXT = "Acme. Your parcel is at the desk."
ONCE = {"attempts": 1}
AGAIN = {"attempts": 2, "pause": 1, "longest_pause": 1}


def new(**values: Any) -> NewCall:
    variables = {"text": TEXT, **values.pop("variables", {})}
    return NewCall(**{"to": NUMBER, "flow": "announcement", "variables": variables, "retry": ONCE, **values})


async def created(house: House, **values: Any) -> CallView:
    view = await house.calls.create(CLIENT, new(**values), None)
    assert isinstance(view, CallView)
    return view


async def called(house: House, callee: Callee, **values: Any) -> CallView:
    """Ring this callee, and return how the call ended."""
    house.pbx.callees[NUMBER] = callee
    return await house.ended((await created(house, **values)).id)


async def until(house: House, call_id: str, status: CallStatus) -> CallView:
    while (view := await house.calls.get(CLIENT, call_id)).status is not status:
        await house.calls.wait_changed(CLIENT, call_id, 5.0, view.status)
    return view


def spoken(house: House, name: str) -> list[Phrase | Text]:
    return [part for part in house.voice.said[name].parts if isinstance(part, Phrase | Text)]


# ---- machines


@pytest.mark.parametrize(
    ("choice", "callee", "played", "reason"),
    [
        ("off", Callee(machine=True), 2, "heard"),
        ("hang_up", Callee(machine=True), 0, "machine"),
        ("hang_up", Callee(), 2, "heard"),
        ("leave_message", Callee(machine=True), 1, "message_left"),
        ("leave_message", Callee(machine=True, greeting_ends=False), 0, "machine"),
    ],
)
async def test_a_machine_hears_nothing_or_the_text_once(
    house: House, choice: str, callee: Callee, played: int, reason: str
) -> None:
    view = await called(house, callee, machine_detection=choice)
    assert house.pbx.orders[0].detect_machines is (choice != "off")
    assert len(house.pbx.sessions[0].played) == played
    assert (view.status, view.attempts[0].end_reason) == (CallStatus.COMPLETED, reason)


# ---- what is said


async def test_a_text_is_said_twice_and_then_the_call_is_over(house: House) -> None:
    view = await called(house, Callee())
    assert view.status is CallStatus.COMPLETED
    assert view.attempts[0].end_reason == "heard"
    assert view.attempts[0].keys is None
    assert house.pbx.sessions[0].played == ["media-0", "media-0"]
    assert spoken(house, "media-0") == [Text(TEXT), Phrase("announcement.repeat_hint")]
    assert house.voice.discarded == ["media-0"]


@pytest.mark.parametrize(
    ("keys", "times", "played", "reason"),
    [
        ("", 1, 1, "heard"),
        ("", 3, 3, "heard"),
        ("*", 1, 2, "heard"),
        ("***", 1, 4, "heard"),
        ("*" * 9, 1, 4, "heard"),
        ("*" * 9, 2, 5, "heard"),
        ("7", 2, 2, "heard"),
    ],
)
async def test_star_says_it_again(house: House, keys: str, times: int, played: int, reason: str) -> None:
    view = await called(house, Callee(keys=keys), variables={"play_times": times})
    assert len(house.pbx.sessions[0].played) == played
    assert view.attempts[0].end_reason == reason
    assert view.attempts[0].keys == (keys[: played if set(keys) == {"*"} else None] or None)


async def test_a_key_acknowledges(house: House) -> None:
    view = await called(house, Callee(keys="5*1"), variables={"ack_key": "1", "play_times": 2})
    assert (view.status, view.attempts[0].end_reason) == (CallStatus.COMPLETED, "acknowledged")
    assert view.attempts[0].keys == "5*1"
    assert spoken(house, "media-0") == [
        Text(TEXT),
        Phrase("announcement.acknowledge", (("key", "1"),)),
        Phrase("announcement.repeat_hint"),
    ]
    assert spoken(house, "media-1") == [Phrase("announcement.acknowledged")]
    assert house.pbx.sessions[0].played == ["media-0", "media-0", "media-0", "media-1"]
    assert sorted(house.voice.discarded) == ["media-0", "media-1"]


async def test_who_acknowledges_and_hangs_up_has_acknowledged(house: House) -> None:
    view = await called(house, Callee(keys="1", hang_up_after=2), variables={"ack_key": "1"}, retry=AGAIN)
    assert view.attempts[0].end_reason == "acknowledged"
    assert len(view.attempts) == 1


@pytest.mark.parametrize(
    "callee", [Callee(), Callee(keys="23"), Callee(hang_up_after=1), Callee(hang_up_after=2)]
)
async def test_without_the_key_the_phone_rings_again(house: House, callee: Callee) -> None:
    house.pbx.callees[NUMBER] = callee
    made = await created(house, variables={"ack_key": 1}, retry=AGAIN)
    waiting = await until(house, made.id, CallStatus.QUEUED)
    reason = "hung_up_early" if callee.hang_up_after else "no_input"
    assert waiting.attempts[0].end_reason == reason
    assert waiting.due_at is not None
    assert await house.told() == ()
    house.pbx.callees[NUMBER] = Callee(keys="1")
    house.clock.advance(2)
    house.engine._wake.set()
    view = await house.ended(made.id)
    assert [one.end_reason for one in view.attempts] == [reason, "acknowledged"]
    assert [event.type for event in await house.told()] == ["call.completed"]


async def test_whoever_heard_it_once_and_hangs_up_has_heard_it(house: House) -> None:
    early = await called(house, Callee(hang_up_after=1), retry=AGAIN)
    assert (early.attempts[0].end_reason, len(early.attempts)) == ("hung_up_early", 1)
    heard = await called(house, Callee(keys="8", hang_up_after=2))
    assert (heard.attempts[0].end_reason, heard.attempts[0].keys) == ("heard", "8")


async def test_a_pbx_that_dies_in_mid_call_is_no_hearing(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee()
    original = MemorySession.play

    async def play(self: MemorySession, media: Media, *, barge_in: str = "") -> str | None:
        if self.played:
            self.end(Cause.PBX_LOST)
            raise CallEnded("gone", hung_up=False)
        return await original(self, media, barge_in=barge_in)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySession, "play", play)
        view = await house.ended((await created(house)).id)
    assert (view.status, view.failure_reason) == (CallStatus.FAILED, "pbx_lost")


@pytest.mark.parametrize("act", ["cancel", "expire"])
async def test_nothing_more_is_said_once_it_is_canceled_or_over(
    house: House, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    original = MemorySession.gather
    made: list[CallView] = []

    async def gather(self: MemorySession, *args: Any, **more: Any) -> Gathered:
        if act == "cancel":
            await house.calls.cancel(CLIENT, made[0].id)
        else:
            house.clock.advance(60)
        return await original(self, *args, **more)

    monkeypatch.setattr(MemorySession, "gather", gather)
    house.pbx.callees[NUMBER] = Callee(answer_after=0.05)
    made.append(await created(house, variables={"ack_key": "1"}, ttl=60, retry=AGAIN))
    view = await house.ended(made[0].id)
    assert len(house.pbx.sessions[0].played) == 1
    assert view.attempts[0].end_reason == ("canceled" if act == "cancel" else "expired")
    assert len(view.attempts) == 1


def request_of(**variables: Any) -> RequestRecord:
    return RequestRecord(
        id="call_1",
        client="shop",
        flow="announcement",
        to_number=NUMBER,
        call_class=CallClass.SURVEY,
        locale="en",
        variables={"text": TEXT, "play_times": 2, **variables},
        created_at=0,
        updated_at=0,
    )


async def test_a_store_that_cannot_be_read_stops_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(_self: Store) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Store, "reading", reading)
    flow, request = AnnouncementFlow(house.store, house.voice, clock=house.clock), request_of()
    prepared = await flow.prepare(request)
    assert isinstance(prepared, Prepared)
    outcome = await flow.converse(MemorySession("a", "", NUMBER, Callee()), request, prepared)
    assert outcome.reason == "heard"


async def test_the_pbx_grants_no_more_than_it_takes(house: House) -> None:
    flow = AnnouncementFlow(house.store, house.voice)
    prepared = await flow.prepare(request_of(ack_key="1"))
    assert isinstance(prepared, Prepared)
    assert prepared.first_limit == 12 + 5 + 10
    assert prepared.max_duration == (2 + 3) * 27 + 27


# ---- what the app is told


async def test_one_webhook_as_the_call_is_read(house: House) -> None:
    view = await called(
        house,
        Callee(keys="1"),
        variables={"ack_key": "1"},
        metadata={"shop": 7},
        out_id="o-1",
        call_class="callback",
        locale="zh-CN",
    )
    (event,) = await house.told()
    assert (event.type, event.resource, event.sequence) == ("call.completed", view.id, 1)
    assert event.expires_at is None
    assert event.created_at == view.ended_at
    assert event.payload == json.loads(Call.of(view).model_dump_json(by_alias=True))
    assert event.payload["class"] == "callback"
    assert event.payload["from"] == CLIENT.caller_number
    assert event.payload["variables"] == {"text": TEXT, "play_times": 2, "ack_key": "1"}
    assert event.payload["attempts"][0]["keys"] == "1"
    await house.delivery_begins()


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (Cause.BUSY, "busy"),
        (Cause.NO_ANSWER, "no_answer"),
        (Cause.DECLINED, "rejected"),
        (Cause.UNALLOCATED, "invalid_number"),
        (Cause.UNREACHABLE, "unreachable"),
        (Cause.CONGESTION, "failed"),
        (Cause.UNKNOWN, "unknown"),
    ],
)
async def test_every_end_is_told(house: House, cause: Cause, status: str) -> None:
    view = await called(house, Callee(refuses_with=HangupCause(cause)))
    assert view.status.value == status
    assert [event.type for event in await house.told()] == [f"call.{status}"]


async def test_a_cancel_while_it_rings_hangs_up_and_is_told(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    made = await created(house)
    await until(house, made.id, CallStatus.RINGING)
    await house.calls.cancel(CLIENT, made.id)
    view = await house.ended(made.id)
    assert view.status is CallStatus.CANCELED
    assert house.pbx.sessions == []
    assert [event.type for event in await house.told()] == ["call.canceled"]
    await house.calls.cancel(CLIENT, made.id)
    assert len(await house.told()) == 1


async def test_what_is_over_cannot_be_canceled(house: House) -> None:
    view = await called(house, Callee())
    with pytest.raises(Conflict, match="completed"):
        await house.calls.cancel(CLIENT, view.id)


async def test_a_client_without_an_endpoint_is_told_nothing(house: House) -> None:
    silent = replace(CLIENT, name="silent")
    made = await house.calls.create(silent, new(), None)
    assert isinstance(made, CallView)
    while (await house.calls.get(silent, made.id)).status is not CallStatus.COMPLETED:
        await house.calls.wait_changed(silent, made.id, 5.0)
    async with house.store.reading() as work:
        assert (await work.outbox.list("silent", limit=10)).items == ()


# ---- what is taken in


async def test_what_was_asked_is_kept_and_shown(house: House) -> None:
    house.pbx.callees[NUMBER] = Callee(answer_after=None)
    made = await created(house, retry={"attempts": 4}, ttl=600, call_class="survey")
    assert made.status is CallStatus.DIALING
    assert made.attempts[0].trunk == "main"
    assert made.attempts[0].trunk_reason == "main chosen: serves every prefix"
    assert made.expires_at == house.clock() + 600_000
    assert (made.call_class, made.locale, made.machine_detection) == (CallClass.SURVEY, "en", "off")
    assert made.from_number == CLIENT.caller_number
    async with house.store.reading() as work:
        row = await work.requests.get(made.id)
    assert row is not None
    assert (row.max_attempts, row.priority, row.flow_ref) == (4, 10, None)


async def test_it_is_open_a_day_where_nothing_is_said(house: House) -> None:
    made = await created(house, ttl=None)
    assert (made.expires_at or 0) - house.clock() == 86_400_000
    by_moment = await created(house, expires_at="2026-09-21T22:14:00Z")
    assert by_moment.expires_at == round(datetime(2026, 9, 21, 22, 14, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("values", "error", "field"),
    [
        ({"to": "1"}, InvalidNumber, "to"),
        ({"locale": "fr"}, UnknownLocale, "locale"),
        ({"flow": "anouncement"}, InputError, "flow"),
        ({"flow": "verification"}, InputError, "flow"),
        ({"flow": "payment_confirmation"}, InputError, "flow"),
        ({"call_class": "fax"}, InputError, "class"),
        ({"variables": {"text": None}}, InputError, "variables.text"),
        ({"variables": {"text": 1}}, InputError, "variables.text"),
        ({"variables": {"text": ""}}, InputError, "variables.text"),
        ({"variables": {"text": "。。。"}}, InputError, "variables.text"),
        ({"variables": {"text": "a" * 501}}, InputError, "variables.text"),
        ({"variables": {"text": "a\ud800"}}, InputError, "variables"),
        ({"variables": {"txt": "a"}}, InputError, "variables.txt"),
        ({"variables": {"play_times": 0}}, InputError, "variables.play_times"),
        ({"variables": {"play_times": 4}}, InputError, "variables.play_times"),
        ({"variables": {"play_times": "2"}}, InputError, "variables.play_times"),
        ({"variables": {"play_times": True}}, InputError, "variables.play_times"),
        ({"variables": {"ack_key": "*"}}, InputError, "variables.ack_key"),
        ({"variables": {"ack_key": "12"}}, InputError, "variables.ack_key"),
        ({"variables": {"ack_key": ""}}, InputError, "variables.ack_key"),
        ({"variables": {"ack_key": True}}, InputError, "variables.ack_key"),
        ({"variables": {"ack_key": "１"}}, InputError, "variables.ack_key"),
        ({"variables": {"machine_detection": "off"}}, InputError, "variables.machine_detection"),
        ({"variables": {"x": "y" * 4096}}, InputError, "variables"),
        ({"metadata": {"x": "y" * 4096}}, InputError, "metadata"),
        ({"metadata": {"x": float("nan")}}, InputError, "metadata"),
        ({"ttl": 29}, InputError, "ttl"),
        ({"ttl": 604_801}, InputError, "ttl"),
        ({"ttl": 600, "expires_at": "2026-09-21T22:14:00Z"}, InputError, "expires_at"),
        ({"expires_at": "tomorrow"}, InputError, "expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, InputError, "expires_at"),
        ({"expires_at": "2036-01-01T00:00:00Z"}, InputError, "expires_at"),
        ({"retry": {"attempts": 0}}, InputError, "retry.attempts"),
        ({"retry": {"on": [[]]}}, InputError, "retry.on"),
        ({"from_number": "+861099990000"}, InputError, "from"),
        ({"machine_detection": "on"}, InputError, "machine_detection"),
    ],
)
async def test_what_is_of_no_use_is_refused_by_field(
    house: House, values: dict[str, Any], error: type[InputError], field: str
) -> None:
    for refused in (
        house.calls.create(CLIENT, new(**values), None),
        house.calls.dry_run(CLIENT, new(**values)),
    ):
        with pytest.raises(error) as caught:
            await refused
        assert caught.value.field == field
        assert caught.value.mend
    assert house.pbx.orders == []
    assert (await house.calls.list(CLIENT, status=None, cursor=None, limit=10)).items == ()


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(
    variables=st.dictionaries(st.sampled_from(["text", "play_times", "ack_key"]) | st.text(max_size=5), JSON),
    retry=st.dictionaries(st.sampled_from(["attempts", "pause", "longest_pause", "on"]), JSON),
)
def test_whatever_is_sent_is_taken_or_refused_by_field(
    variables: dict[str, Any], retry: dict[str, Any]
) -> None:
    flow = AnnouncementFlow(None, None)  # type: ignore[arg-type]
    for check, value, field in (
        (flow.check, variables, "variables."),
        (lambda value: policy_for(CallClass.SURVEY, value), retry, "retry."),
        (lambda value: check_json("metadata", value), variables, "metadata"),
    ):
        try:
            check(value)
        except InputError as error:
            assert error.field.startswith(field)  # noqa: PT017
            assert error.mend  # noqa: PT017


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        ("verification", "POST /v1/verifications"),
        ("payment_confirmation", "POST /v1/payment-confirmations"),
        ("anouncement", "Did you mean announcement? Known: announcement"),
    ],
)
async def test_a_flow_that_is_not_called_this_way_is_told_the_way(
    house: House, flow: str, words: str
) -> None:
    with pytest.raises(InputError, match="flow") as caught:
        await house.calls.create(CLIENT, new(flow=flow), None)
    assert words in caught.value.mend


async def test_a_number_that_may_not_be_called(house: House) -> None:
    with pytest.raises(DestinationNotAllowed):
        await house.calls.create(CLIENT, new(to="+12125550123"), None)


async def test_a_caller_number_of_the_client_is_shown(house: House) -> None:
    client = replace(CLIENT, caller_numbers=("+861088880001",))
    made = await house.calls.create(client, new(from_number="+861088880001"), None)
    assert isinstance(made, CallView)
    await house.ended(made.id)
    made = await house.calls.create(client, new(from_number=CLIENT.caller_number), None)
    assert isinstance(made, CallView)
    await house.ended(made.id)
    assert [order.caller_number for order in house.pbx.orders] == ["+861088880001", CLIENT.caller_number]
    with pytest.raises(InputError) as caught:
        await house.calls.create(replace(CLIENT, caller_number=""), new(from_number=""), None)
    assert caught.value.mend == "Leave it out"


async def test_the_same_key_calls_once(house: House) -> None:
    once: Once[CallView] = Once("k", "f", lambda view: StoredReply(201, view.id))
    made = await house.calls.create(CLIENT, new(), once)
    assert isinstance(made, CallView)
    assert await house.calls.create(CLIENT, new(), once) == StoredReply(201, made.id)
    with pytest.raises(IdempotencyMismatch):
        await house.calls.create(CLIENT, new(), replace(once, fingerprint="other"))
    await house.ended(made.id)
    assert len(house.pbx.orders) == 1


async def test_the_same_key_is_answered_alike_when_its_time_is_over(house: House) -> None:
    once: Once[CallView] = Once("k", "f", lambda view: StoredReply(201, view.id))
    asked = new(expires_at=iso(house.clock() + 40_000))
    made = await house.calls.create(CLIENT, asked, once)
    assert isinstance(made, CallView)
    house.clock.advance(60)
    assert await house.calls.create(CLIENT, asked, once) == StoredReply(201, made.id)
    with pytest.raises(IdempotencyMismatch):
        await house.calls.create(CLIENT, asked, replace(once, fingerprint="other"))
    with pytest.raises(InputError):
        await house.calls.create(CLIENT, asked, replace(once, key="another"))


async def test_a_dry_run_keeps_nothing(house: House) -> None:
    verdict = await house.calls.dry_run(CLIENT, new())
    assert (verdict.to, verdict.locale, verdict.trunk, verdict.due_at) == (NUMBER, "en", "main", None)
    assert (await house.calls.list(CLIENT, status=None, cursor=None, limit=10)).items == ()
    assert house.pbx.orders == []


async def test_it_is_its_own_clients(house: House) -> None:
    made = await created(house)
    with pytest.raises(NotFound):
        await house.calls.get(replace(CLIENT, name="bank"), made.id)
    with pytest.raises(NotFound):
        await house.calls.cancel(replace(CLIENT, name="bank"), made.id)


async def test_pages_neither_repeat_nor_hide_while_calls_arrive(house: House) -> None:
    old = []
    for _ in range(7):
        old.append((await created(house)).id)
        house.clock.advance(0.001)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await house.calls.list(CLIENT, status=None, cursor=cursor, limit=3)
        seen += [view.id for view in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        await created(house)
        house.clock.advance(0.001)
    assert seen == old[::-1]


# ---- hours


class TestHours:
    @pytest.fixture
    def hours(self) -> dict[CallClass, tuple[Window, ...]]:
        """The clock of the tests stands at 22:13 in China."""
        return {
            CallClass.TRANSACTION: (Window(time(9), time(12)), Window(time(14), time(21))),
            CallClass.SURVEY: (Window(time(22), time(0)),),
        }

    OPENS = round(datetime(2026, 9, 22, 1, tzinfo=UTC).timestamp() * 1000)

    async def test_a_call_waits_for_its_hours_and_then_rings(self, house: House) -> None:
        made = await created(house)
        assert (made.status, made.due_at, made.attempts) == (CallStatus.QUEUED, self.OPENS, ())
        verdict = await house.calls.dry_run(CLIENT, new())
        assert verdict.due_at == self.OPENS
        survey = await house.ended((await created(house, to="+8613800000002", call_class="survey")).id)
        assert survey.status is CallStatus.COMPLETED
        assert (await house.calls.get(CLIENT, made.id)).status is CallStatus.QUEUED
        house.clock.now = self.OPENS
        house.engine._wake.set()
        assert (await house.ended(made.id)).status is CallStatus.COMPLETED

    async def test_a_cancel_does_not_wait(self, house: House) -> None:
        made = await created(house)
        await house.calls.cancel(CLIENT, made.id)
        assert (await house.ended(made.id)).status is CallStatus.CANCELED
        assert [event.type for event in await house.told()] == ["call.canceled"]

    async def test_what_would_be_over_before_them_is_refused(self, house: House) -> None:
        with pytest.raises(InputError, match=r"2026-09-22T01:00:00\.000Z") as caught:
            await house.calls.create(CLIENT, new(ttl=600), None)
        assert caught.value.field == "ttl"
        with pytest.raises(InputError) as caught:
            await house.calls.create(CLIENT, new(expires_at="2026-09-22T08:59:59+08:00"), None)
        assert caught.value.field == "expires_at"
        await created(house, expires_at="2026-09-22T09:00:01+08:00")

    async def test_the_same_for_payments(self, house: House) -> None:
        order = NewPayment(NUMBER, "A-1024", "128.50", "CNY", "Acme Taxi")
        for payment, field in ((order, "deadline"), (replace(order, ttl=600), "ttl")):
            with pytest.raises(InputError, match="2026-09-22T01:00") as caught:
                await house.payments.create(CLIENT, payment, None)
            assert caught.value.field == field
        assert (await house.payments.dry_run(CLIENT, replace(order, ttl=43_200))).due_at == self.OPENS
        assert (await house.verifications.dry_run(CLIENT, NewVerification(NUMBER))).due_at is None


class TestRetryOfTheClass:
    @pytest.fixture
    def retry(self) -> dict[CallClass, dict[str, Any]]:
        return {CallClass.TRANSACTION: AGAIN}

    async def test_it_counts_where_the_request_has_none(self, house: House) -> None:
        made = await created(house, retry=None)
        order = NewPayment("+8613800000002", "A-1024", "128.50", "CNY", "Acme Taxi")
        payment = await house.payments.create(CLIENT, order, None)
        assert isinstance(payment, PaymentView)
        async with house.store.reading() as work:
            rows = [await work.requests.get(one) for one in (made.id, payment.call_id or "")]
        assert [row.max_attempts for row in rows if row] == [2, 2]


# ---- flows that are registered


class Greeting:
    """A flow of somebody else's: an IVR tree, say."""

    name = "greeting"

    def __init__(self) -> None:
        self.settled: list[Outcome] = []

    def check(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        if "name" not in variables:
            raise InputError("variables.name", "is missing", "Send a name")
        return {"mood": "good", **variables}

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        return Prepared((Media("hello", 1.0),), 30.0, 30.0)

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        await session.play(prepared.media[0])
        return Outcome(CallStatus.COMPLETED, f"greeted {request.variables['name']}")

    def cut_short(self, request: RequestRecord) -> Outcome:
        return Outcome(CallStatus.COMPLETED, "hung_up_early")

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        self.settled.append(outcome)


async def test_a_flow_that_is_registered_is_called_checked_and_told(house: House) -> None:
    greeting = Greeting()
    registry = FlowRegistry([greeting], house.notices)
    assert registry.check("greeting", {"name": "Li"}) == {"name": "Li", "mood": "good"}
    with pytest.raises(InputError, match=r"variables\.name"):
        registry.check("greeting", {})
    with pytest.raises(InputError, match=r"variables\.machine_detection"):
        registry.check("greeting", {"name": "Li", "machine_detection": "off"})
    house.engine._flows = registry.for_engine()
    house.calls._flows = registry
    made = await house.calls.create(CLIENT, NewCall(NUMBER, "greeting", {"name": "Li"}), None)
    assert isinstance(made, CallView)
    view = await house.ended(made.id)
    assert view.attempts[0].end_reason == "greeted Li"
    assert [one.reason for one in greeting.settled] == ["greeted Li"]
    (event,) = await house.told()
    assert (event.type, event.payload["flow"]) == ("call.completed", "greeting")


async def test_a_call_whose_flow_was_removed_ends_and_is_told(house: House) -> None:
    house.calls._flows = FlowRegistry([Greeting()], house.notices)
    made = await house.calls.create(CLIENT, NewCall(NUMBER, "greeting", {"name": "Li"}), None)
    assert isinstance(made, CallView)
    view = await house.ended(made.id)
    assert (view.status, view.failure_reason) == (CallStatus.FAILED, "flow_removed")
    assert house.pbx.orders == []
    assert [event.type for event in await house.told()] == ["call.failed"]


def test_what_is_told_of_machines_is_no_variable_of_the_flow() -> None:
    view = view_of(request_of(machine_detection="hang_up"), [])
    assert (view.machine_detection, view.variables) == ("hang_up", {"text": TEXT, "play_times": 2})
