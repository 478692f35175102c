"""The engine with its real store and a PBX in memory: retries, trunks, hours, shares, recovery."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import pytest

from telephony.calls.engine import CallEngine, EngineConfig, Placed
from telephony.calls.flow import Outcome, Prepared
from telephony.calls.policy import NO_INPUT, PRIORITIES
from telephony.calls.quiet import Window
from telephony.errors import StoreUnavailable
from telephony.model.call import FINAL_CALL_STATUSES, AttemptPhase, CallClass, CallStatus
from telephony.model.hangup import Cause, HangupCause
from telephony.model.ids import new_id
from telephony.model.media import Media
from telephony.pbx.memory import Callee, MemoryPbx
from telephony.pbx.port import CallSession, DialOrder, Trace
from telephony.store import Store, UnitOfWork
from telephony.store.records import AttemptRecord, RequestRecord
from telephony.trunks.dialect import Trunk
from telephony.trunks.routing import Router
from tests.store_engines import commits_unheard

NUMBER = "+8613800000001"
FAST = {"attempts": 3, "pause": 1, "longest_pause": 1}


def now() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Talk:
    """A flow that plays one sound; `answers` says what each conversation brings."""

    name: str = "talk"
    answers: list[Outcome] = field(default_factory=list)
    settled: list[tuple[str, Outcome]] = field(default_factory=list)
    seconds: float = 0.0

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        return Prepared((Media("hello", 1.0),), 30.0, 30.0)

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        await session.play(prepared.media[0])
        await asyncio.sleep(self.seconds)
        return self.answers.pop(0) if self.answers else Outcome(CallStatus.COMPLETED, "heard")

    def cut_short(self, request: RequestRecord) -> Outcome:
        return Outcome(CallStatus.COMPLETED, "hung_up_early")

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        self.settled.append((request.id, outcome))


@dataclass
class Rig:
    store: Store
    pbx: MemoryPbx
    engine: CallEngine
    talk: Talk
    router: Router
    found_full: list[int] = field(default_factory=list)

    async def place(self, **values: Any) -> str:
        """Place a request as a service does: one transaction, then go."""
        moment = now()
        plain = RequestRecord(
            id=new_id("call"),
            client="shop",
            flow="talk",
            to_number=NUMBER,
            call_class=CallClass.TRANSACTION,
            created_at=moment,
            updated_at=moment,
            expires_at=moment + 60_000,
        )
        request = replace(plain, **values)
        request = replace(request, priority=PRIORITIES[request.call_class])
        async with self.store.transaction() as work:
            placed = await self.engine.place(work, request)
        self.engine.go(placed)
        return request.id

    async def seen(self, request_id: str) -> RequestRecord:
        async with self.store.reading() as work:
            record = await work.requests.get(request_id)
        assert record is not None
        return record

    async def attempts(self, request_id: str) -> list[AttemptRecord]:
        async with self.store.reading() as work:
            return list(await work.attempts.list_for(request_id))

    async def until(self, request_id: str, wanted: Any, seconds: float = 10.0) -> RequestRecord:
        async with asyncio.timeout(seconds):
            while not wanted(record := await self.seen(request_id)):
                change = self.engine.change(request_id)
                if change is None:
                    await asyncio.sleep(0.02)
                else:
                    await asyncio.wait_for(change.wait(), seconds)
        return record

    async def ended(self, request_id: str, seconds: float = 10.0) -> RequestRecord:
        return await self.until(request_id, lambda record: record.status in FINAL_CALL_STATUSES, seconds)


@asynccontextmanager
async def rig_of(path: Path, pbx: MemoryPbx, *trunks: Trunk, **config: Any) -> AsyncIterator[Rig]:
    store = await Store.open(f"sqlite:///{path}/t.db", owner="one")
    talk = Talk()
    router = Router(trunks or (Trunk("a", "a"), Trunk("b", "b")))
    settings = EngineConfig(drain=0.2, hangup_patience=1.0, number_pause=0.05, **config)
    found_full: list[int] = []
    engine = CallEngine(
        store,
        pbx,
        router,
        {"talk": talk},
        owner="one",
        discard=lambda _media: None,
        config=settings,
        full=lambda: found_full.append(now()),
    )
    await pbx.start()
    await engine.start()
    yield Rig(store, pbx, engine, talk, router, found_full)
    await engine.stop()
    await store.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx) as made:
        yield made
    await pbx.stop()


def refuses(cause: Cause, **more: Any) -> Callee:
    return Callee(refuses_with=HangupCause(cause), **more)


async def test_busy_is_rung_again_later_and_as_often_as_asked(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = refuses(Cause.BUSY)
    call = await rig.place(retry=FAST)
    waiting = await rig.until(call, lambda one: one.status is CallStatus.QUEUED)
    assert waiting.due_at is not None
    assert waiting.lease_until is None
    assert (await rig.ended(call)).status is CallStatus.BUSY
    attempts = await rig.attempts(call)
    assert [one.cause for one in attempts] == ["busy"] * 3
    assert [one.trunk for one in attempts] == ["a"] * 3, "no second trunk rings a busy phone"
    assert attempts[1].created_at - attempts[0].ended_at >= 700  # type: ignore[operator]
    assert len(rig.talk.settled) == 1


async def test_a_full_trunk_is_passed_at_once_without_a_second_round(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = refuses(Cause.CONGESTION, ring_after=None)
    call = await rig.place(call_class=CallClass.OTP)
    assert (await rig.ended(call)).status is CallStatus.FAILED
    attempts = await rig.attempts(call)
    assert [one.trunk for one in attempts] == ["a", "b"]
    assert attempts[1].trunk_reason == "b chosen: serves every prefix; after a"


async def test_a_phone_that_rang_is_rung_by_no_other_trunk(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = refuses(Cause.CONGESTION)
    call = await rig.place(call_class=CallClass.OTP)
    await rig.ended(call)
    assert [one.trunk for one in await rig.attempts(call)] == ["a"]


@pytest.mark.parametrize("cause", [Cause.DECLINED, Cause.UNALLOCATED, Cause.BLOCKED, Cause.INVALID_NUMBER])
async def test_what_is_never_retried(rig: Rig, cause: Cause) -> None:
    rig.pbx.callees[NUMBER] = refuses(cause)
    call = await rig.place(retry=FAST)
    await rig.ended(call)
    assert len(await rig.attempts(call)) == 1


async def test_a_conversation_without_an_answer_is_retried(rig: Rig) -> None:
    rig.talk.answers = [Outcome(CallStatus.COMPLETED, "no_input", retry_as=NO_INPUT)]
    call = await rig.place(retry=FAST)
    assert (await rig.ended(call)).status is CallStatus.COMPLETED
    assert [one.end_reason for one in await rig.attempts(call)] == ["no_input", "heard"]


async def test_back_off_never_outlives_the_deadline(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = refuses(Cause.BUSY)
    call = await rig.place(retry={"attempts": 5, "pause": 30}, expires_at=now() + 5000)
    began = time.monotonic()
    assert (await rig.ended(call)).status is CallStatus.BUSY
    assert time.monotonic() - began < 2
    assert len(await rig.attempts(call)) == 1


async def test_a_cancel_while_it_waits_for_the_next_round_ends_it_at_once(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = refuses(Cause.BUSY)
    call = await rig.place(retry={"attempts": 5, "pause": 20})
    await rig.until(call, lambda one: one.status is CallStatus.QUEUED and one.due_at is not None)
    await rig.engine.cancel(call)
    assert (await rig.ended(call, 3)).status is CallStatus.CANCELED
    assert len(await rig.attempts(call)) == 1


async def test_one_call_at_a_time_for_a_number(rig: Rig) -> None:
    rig.talk.seconds = 0.4
    calls = [await rig.place() for _ in range(3)]
    for call in calls:
        assert (await rig.ended(call)).status is CallStatus.COMPLETED
    attempts = [one for call in calls for one in await rig.attempts(call)]
    spans = sorted((one.dialed_at, one.ended_at) for one in attempts)
    assert len(spans) == 3
    for (_, ended), (dialed, _) in itertools.pairwise(spans):
        assert dialed >= ended  # type: ignore[operator]


async def test_codes_pass_payments_in_a_full_queue(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx, max_calls=5, otp_share=0.2) as rig:
        rig.talk.seconds = 0.3
        payments = [await rig.place(to_number=f"+861380001{n:04d}") for n in range(30)]
        began = time.monotonic()
        code = await rig.place(to_number="+8613800020000", call_class=CallClass.OTP)
        await rig.until(code, lambda one: one.attempts_made == 1)
        assert time.monotonic() - began < 0.25, "a place was free for it"
        await rig.ended(code)
        waiting = [one for one in payments if (await rig.seen(one)).status is CallStatus.QUEUED]
        assert len(waiting) > 15
        for call in payments:
            assert (await rig.ended(call, 30)).status is CallStatus.COMPLETED
    await pbx.stop()


async def test_one_free_place_is_given_once(tmp_path: Path) -> None:
    """Where a code and a payment wait for the same place, the code has it."""
    pbx = MemoryPbx()
    order = [CallClass.TRANSACTION, CallClass.OTP, CallClass.TRANSACTION, CallClass.OTP]
    async with rig_of(tmp_path, pbx, max_calls=2, otp_share=0.5) as rig:
        calls = []
        for place, call_class in enumerate(order):
            # The first payment is over before the first code: its place could be anybody's.
            rig.talk.seconds = 0.4 * (place + 1)
            calls.append(await rig.place(to_number=f"+86138000300{place:02d}", call_class=call_class))
            if place < 2:
                await rig.until(calls[place], lambda one: one.status is CallStatus.ANSWERED)
        most = 0
        while rig.engine.live_calls:
            most = max(most, rig.engine.live_calls)
            await asyncio.sleep(0.005)
        assert most == 2
        for call in calls:
            assert (await rig.ended(call)).status is CallStatus.COMPLETED
    await pbx.stop()


async def test_what_is_too_late_ends_though_no_place_is_free(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx, max_calls=1, otp_share=0.0) as rig:
        rig.talk.seconds = 4.0
        stands = await rig.place()
        await rig.until(stands, lambda one: one.status is CallStatus.ANSWERED)
        late = await rig.place(
            to_number="+8613800000002",
            call_class=CallClass.OTP,
            dial_by=now() + 400,
            expires_at=now() + 60_000,
        )
        expires = await rig.place(to_number="+8613800000003", expires_at=now() + 400)
        assert (await rig.ended(late, 2)).failure_reason == "not_dialed_in_time"
        assert (await rig.ended(expires, 2)).status is CallStatus.EXPIRED
        assert (await rig.seen(stands)).status is CallStatus.ANSWERED
        assert len(pbx.orders) == 1
        await rig.ended(stands, 10)
    await pbx.stop()


async def test_quiet_hours_wait_for_the_callees_morning(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    local = datetime.now(UTC) + timedelta(hours=8)
    opens = (local + timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
    window = Window(opens.time(), (opens + timedelta(hours=1)).time())
    async with rig_of(tmp_path, pbx, windows={CallClass.SURVEY: (window,)}) as rig:
        survey = await rig.place(call_class=CallClass.SURVEY, expires_at=now() + 86_400_000)
        code = await rig.place(to_number="+8613800000002", call_class=CallClass.OTP)
        await rig.ended(code)
        parked = await rig.seen(survey)
        assert parked.status is CallStatus.QUEUED
        assert parked.due_at == round((opens - timedelta(hours=8)).timestamp() * 1000)
    await pbx.stop()


async def test_what_is_over_before_the_hours_ends_on_time(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    local = datetime.now(UTC) + timedelta(hours=8)
    opens = (local + timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
    window = Window(opens.time(), (opens + timedelta(hours=1)).time())
    async with rig_of(tmp_path, pbx, windows=dict.fromkeys(CallClass, (window,))) as rig:
        survey = await rig.place(call_class=CallClass.SURVEY, expires_at=now() + 700)
        code = await rig.place(
            to_number="+8613800000002",
            call_class=CallClass.OTP,
            dial_by=now() + 600,
            expires_at=now() + 60_000,
        )
        assert (await rig.ended(survey, 3)).status is CallStatus.EXPIRED
        assert (await rig.ended(code, 3)).failure_reason == "not_dialed_in_time"
        assert pbx.orders == []
    await pbx.stop()


def somewhere_by_day() -> tuple[str, str, timedelta]:
    """Two numbers of a place where it is not midnight, nor will be in half an hour, and its zone's offset."""
    china, japan = timedelta(hours=8), timedelta(hours=9)
    local = datetime.now(UTC) + china
    if (local + timedelta(minutes=30)).date() == local.date():
        return NUMBER, "+8613800000002", china
    return "+81312345678", "+81312345679", japan


async def test_another_ring_waits_for_the_hours_too(tmp_path: Path) -> None:
    number, _, offset = somewhere_by_day()
    pbx = MemoryPbx({number: refuses(Cause.BUSY)})
    local = datetime.now(UTC) + offset
    closes = local.replace(second=0, microsecond=0) + timedelta(minutes=2)
    window = Window(time_of_day(0), closes.time())
    hours = {CallClass.SURVEY: (window,)}
    async with rig_of(
        tmp_path, pbx, windows=hours, retry={CallClass.SURVEY: {"attempts": 3, "pause": 600}}
    ) as rig:
        call = await rig.place(to_number=number, call_class=CallClass.SURVEY, expires_at=now() + 172_800_000)
        waiting = await rig.until(call, lambda one: one.status is CallStatus.QUEUED and one.due_at)
        midnight = (closes + timedelta(days=1)).replace(hour=0, minute=0)
        assert waiting.due_at == round((midnight - offset).timestamp() * 1000)
    await pbx.stop()


async def test_a_class_is_rung_as_often_as_its_configuration_says(tmp_path: Path) -> None:
    pbx = MemoryPbx({NUMBER: refuses(Cause.BUSY)})
    rule = {"attempts": 2, "pause": 1, "longest_pause": 1}
    async with rig_of(tmp_path, pbx, retry={CallClass.SURVEY: rule}) as rig:
        call = await rig.place(call_class=CallClass.SURVEY)
        await rig.ended(call)
        assert len(await rig.attempts(call)) == 2
        call = await rig.place(call_class=CallClass.SURVEY, retry={"attempts": 1})
        await rig.ended(call)
        assert len(await rig.attempts(call)) == 1
    await pbx.stop()


async def test_a_full_trunk_is_passed_though_congestion_is_not_rung_again(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = refuses(Cause.CONGESTION, ring_after=None)
    call = await rig.place(retry=FAST | {"on": ["busy"]})
    assert (await rig.ended(call)).status is CallStatus.FAILED
    assert [one.trunk for one in await rig.attempts(call)] == ["a", "b"]


async def left_behind(path: Path, phase: AttemptPhase, **attempt: Any) -> tuple[str, str]:
    """A request and an attempt as a killed controller leaves them."""
    store = await Store.open(f"sqlite:///{path}/t.db", owner="one")
    moment = now()
    request = RequestRecord(
        id=new_id("call"),
        client="shop",
        flow="talk",
        to_number=NUMBER,
        call_class=CallClass.TRANSACTION,
        status=CallStatus.DIALING,
        attempts_made=1,
        owner="one",
        fence=1,
        lease_until=moment + 30_000,
        expires_at=moment + 60_000,
        created_at=moment,
        updated_at=moment,
    )
    record = AttemptRecord(
        id=new_id("att"),
        request_id=request.id,
        number=1,
        to_number=NUMBER,
        trunk="a",
        phase=phase,
        owner="one",
        fence=1,
        lease_until=moment + 30_000,
        created_at=moment,
        **attempt,
    )
    async with store.transaction() as work:
        await work.requests.add(request)
        await work.attempts.add(record)
    await store.close()
    return request.id, record.id


async def test_killed_before_the_pbx_heard_of_it_is_dialled_by_the_next_life(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    pbx.started_at_ms = now() - 60_000
    call, attempt = await left_behind(tmp_path, AttemptPhase.DIALING, dialed_at=now())
    async with rig_of(tmp_path, pbx) as rig:
        assert (await rig.ended(call)).status is CallStatus.COMPLETED
        first, second = await rig.attempts(call)
        assert (first.id, first.end_reason, first.dialed_at) == (attempt, "never_rang", None)
        assert [order.attempt_id for order in pbx.orders] == [second.id]
    await pbx.stop()


async def test_lives_that_are_too_short_to_look_twice_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pbx = MemoryPbx()
    pbx.started_at_ms = now() - 60_000
    call, _attempt = await left_behind(tmp_path, AttemptPhase.DIALING, dialed_at=now())
    noted, original, waited = asyncio.Event(), pbx.fate, []

    async def fate(*asked: Any, unseen_for: float, unseen: Callable[[], Awaitable[None]]) -> Trace:
        waited.append(unseen_for)
        await unseen()
        noted.set()
        if len(waited) == 1:
            await asyncio.sleep(60)
        return await original(*asked)

    monkeypatch.setattr(pbx, "fate", fate)
    async with rig_of(tmp_path, pbx):
        await noted.wait()
    async with rig_of(tmp_path, pbx) as rig:
        assert (await rig.ended(call)).status is CallStatus.COMPLETED
    assert waited[0] == 0.0
    assert 0.2 <= waited[1] < 10.0
    await pbx.stop()


async def test_what_a_restarted_pbx_cannot_know_is_unknown_and_not_rung_again(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    pbx.started_at_ms = now() + 60_000
    call, _attempt = await left_behind(tmp_path, AttemptPhase.RINGING, dialed_at=now(), ringing_at=now())
    async with rig_of(tmp_path, pbx) as rig:
        assert (await rig.ended(call)).status is CallStatus.UNKNOWN
        assert pbx.orders == []
    await pbx.stop()


async def test_what_falls_due_while_the_queue_is_looked_at_is_dialled_at_once(tmp_path: Path) -> None:
    """Its moment comes after the look and before the sleep: nobody waits a second for it."""
    ticks = itertools.count(now(), 100)
    store = await Store.open(f"sqlite:///{tmp_path}/t.db", owner="one")
    pbx = MemoryPbx()
    await pbx.start()
    engine = CallEngine(
        store,
        pbx,
        Router([Trunk("a", "a")]),
        {"talk": Talk()},
        owner="one",
        discard=lambda _media: None,
        clock=lambda: next(ticks),
    )
    begun = next(ticks)
    waiting = RequestRecord(
        id=new_id("call"),
        client="shop",
        flow="talk",
        to_number=NUMBER,
        call_class=CallClass.TRANSACTION,
        created_at=begun,
        updated_at=begun,
        # The start looks at the clock once, then the queue does, then its sleep is counted.
        due_at=begun + 250,
    )
    async with store.transaction() as work:
        await work.requests.add(waiting)
    await engine.start()
    async with asyncio.timeout(0.8):
        while not pbx.orders:
            await asyncio.sleep(0.01)
    await engine.stop()
    await pbx.stop()
    await store.close()


@pytest.mark.parametrize("stands", [True, False])
async def test_a_trunk_was_renamed_while_its_call_rang(tmp_path: Path, stands: bool) -> None:
    pbx = MemoryPbx({NUMBER: Callee(answer_after=0.5)})
    pbx.started_at_ms = now() - 60_000
    call, attempt = await left_behind(tmp_path, AttemptPhase.RINGING, dialed_at=now(), ringing_at=now())
    await pbx.start()
    order = DialOrder(
        attempt_id=attempt,
        endpoint="a",
        number=NUMBER,
        caller_number="",
        ring_timeout=30,
        max_duration=30,
    )
    async with pbx.dial(order) as leg:
        if not stands:
            await leg.hangup()
        async with rig_of(tmp_path, pbx, Trunk("other", "other")) as rig:
            ended = await rig.ended(call)
            assert ended.status is (CallStatus.COMPLETED if stands else CallStatus.CANCELED)
            assert ended.failure_reason != "internal_error"
            assert await pbx.channels() == ()
    await pbx.stop()


async def test_a_flow_that_cannot_settle_keeps_no_call_open(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def settle(*_: Any) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(rig.talk, "settle", settle)
    call = await rig.place()
    ended = await rig.ended(call, 10)
    assert (ended.status, ended.failure_reason) == (CallStatus.FAILED, "internal_error")
    assert all(one.ended_at for one in await rig.attempts(call))
    # The row is there a moment before the engine lets go.
    async with asyncio.timeout(2):
        while rig.engine.live_calls:
            await asyncio.sleep(0.005)


async def test_requests_that_come_together_do_not_share_a_place(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx, max_calls=3, otp_share=0.34) as rig:
        rig.talk.seconds = 0.3
        placed: list[Any] = []
        # Each is committed before any of them begins.
        for number in range(5):
            request = a_request(number)
            async with rig.store.transaction() as work:
                placed.append(await rig.engine.place(work, request))
        for one in placed:
            rig.engine.go(one)
        assert rig.engine.live_calls == 3
        for one in placed:
            assert (await rig.ended(one.request.id, 20)).status is CallStatus.COMPLETED
    await pbx.stop()


@pytest.mark.parametrize("max_calls", [1, 10])
async def test_a_request_of_a_commit_that_nobody_heard_of_rings_once(tmp_path: Path, max_calls: int) -> None:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx, max_calls=max_calls, otp_share=0.0) as rig:
        request = a_request(1)
        with commits_unheard(rig.store), pytest.raises(StoreUnavailable):
            async with rig.store.transaction() as work:
                await rig.engine.place(work, request)
        ended = await rig.ended(request.id, 10)
        assert ended.status is CallStatus.COMPLETED
        assert len(pbx.orders) == 1
        # The place that was kept for it is free as well.
        assert (await rig.ended(await rig.place(), 10)).status is CallStatus.COMPLETED
    await pbx.stop()


async def test_what_was_claimed_in_a_commit_that_nobody_heard_of_is_rung_once(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx) as rig:
        request = a_request(1)
        waiting = replace(request, status=CallStatus.QUEUED, due_at=now() + 100)
        async with rig.store.transaction() as work:
            await work.requests.add(waiting)
        with commits_unheard(rig.store):
            rig.engine.go(Placed(waiting, None))
            await rig.until(request.id, lambda record: record.lease_until is not None)
        assert (await rig.ended(request.id, 10)).status is CallStatus.COMPLETED
        assert len(pbx.orders) == 1
    await pbx.stop()


async def test_an_end_whose_commit_nobody_heard_of_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx) as rig:
        persist, tries = rig.engine._persist, 0

        async def unheard_at_first(write: Callable[[], Awaitable[None]]) -> None:
            async def one() -> None:
                nonlocal tries
                tries += 1
                with commits_unheard(rig.store) if tries == 1 else nullcontext():
                    await write()

            await persist(one)

        monkeypatch.setattr(rig.engine, "_persist", unheard_at_first)
        call = await rig.place()
        assert (await rig.ended(call, 10)).status is CallStatus.COMPLETED
        async with asyncio.timeout(5):
            while rig.engine.live_calls:
                await asyncio.sleep(0.01)
        assert tries == 2
        assert [told for told, _outcome in rig.talk.settled] == [call]
    await pbx.stop()


async def test_what_was_parked_in_a_commit_that_nobody_heard_of_goes_on_in_its_next_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx) as rig:
        park, parked = rig.engine._park, 0

        async def unheard_at_first(life: Any, due_at: int, reason: str) -> None:
            nonlocal parked
            parked += 1
            await park(life, due_at, reason)
            if parked == 1:
                raise StoreUnavailable("the connection broke during the commit")

        monkeypatch.setattr(rig.engine, "_park", unheard_at_first)
        rig.talk.seconds = 0.5
        first = await rig.place()
        # The number is in a call: this one is parked for a moment, and claimed by our own queue.
        second = await rig.place()
        assert (await rig.ended(first, 10)).status is CallStatus.COMPLETED
        assert (await rig.ended(second, 10)).status is CallStatus.COMPLETED
        assert len(pbx.orders) == 2
    await pbx.stop()


async def test_hours_that_end_while_a_line_is_waited_for(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    one, other, offset = somewhere_by_day()
    window = Window(time_of_day(0), (datetime.now(UTC) + offset + timedelta(seconds=2)).time())
    hours = {CallClass.TRANSACTION: (window,)}
    async with rig_of(tmp_path, pbx, Trunk("a", "a", channels=1), windows=hours) as rig:
        rig.talk.seconds = 3.0
        first = await rig.place(to_number=one, expires_at=now() + 3_600_000)
        second = await rig.place(to_number=other, expires_at=now() + 3_600_000)
        assert (await rig.ended(first, 10)).status is CallStatus.COMPLETED
        waiting = await rig.until(second, lambda record: record.lease_until is None)
        assert waiting.status is CallStatus.QUEUED
        assert (waiting.due_at or 0) > now() + 60_000
        assert len(pbx.orders) == 1
    await pbx.stop()


async def test_a_place_of_a_request_that_was_not_written_is_free_at_once(tmp_path: Path) -> None:
    pbx = MemoryPbx()
    async with rig_of(tmp_path, pbx, max_calls=1, otp_share=0.0) as rig:
        with suppress(ZeroDivisionError):
            async with rig.store.transaction() as work:
                await rig.engine.place(work, a_request(1))
                raise ZeroDivisionError
        assert (await rig.ended(await rig.place(), 3)).status is CallStatus.COMPLETED
    await pbx.stop()


def a_request(number: int) -> RequestRecord:
    moment = now()
    return RequestRecord(
        id=new_id("call"),
        client="shop",
        flow="talk",
        to_number=f"+861380006{number:04d}",
        call_class=CallClass.OTP,
        priority=PRIORITIES[CallClass.OTP],
        expires_at=moment + 60_000,
        created_at=moment,
        updated_at=moment,
    )
