"""What the store promises, on both engines alike."""

# ruff: noqa: PT012 - what leaves the block of a transaction is what is tested

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import fields, replace

import pytest
from makers import START, TO, a_request, a_verification, a_webhook, an_attempt, an_event

from telephony.errors import InputError, NotFound, StaleFence, StoreError
from telephony.model.call import AttemptPhase, CallClass, CallStatus, VerificationStatus
from telephony.model.ids import new_id
from telephony.store import Store
from telephony.store.records import AttemptTimes, CheckFailureRecord, InFlight, Mismatch, New, Replay


class TestRecords:
    async def test_a_request_comes_back_as_it_went_in(self, store: Store) -> None:
        record = a_request(
            flow_ref="ver_1",
            priority=9,
            from_number="+8621",
            locale="zh-CN",
            trunk_hint="sh-1",
            variables={"name": "李雷", "nul": "\0", "deep": [1, {"a": None}]},
            metadata={"order": 7},
            out_id="o-1",
            not_before=START + 1,
            due_at=START + 2,
            dial_by=START + 3,
            expires_at=START + 4,
            attempts_made=1,
            max_attempts=3,
            retry={"after": [60, 120]},
            cancel_requested_at=START + 5,
            owner="x",
            fence=2**40,
            lease_until=START + 6,
            result={"keys": "1"},
            failure_reason="none",
        )
        blank = {field.name for field in fields(record) if getattr(record, field.name) is None}
        assert blank == {"ended_at"}
        async with store.transaction() as work:
            await work.requests.add(record)
        async with store.reading() as work:
            assert await work.requests.get(record.id) == record
            assert await work.requests.get("call_none") is None
            assert await work.requests.get_for_client("shop", record.id) == record
            assert await work.requests.get_for_client("bank", record.id) is None
            assert await work.requests.of_flow("ver_1") == [record]

    async def test_an_attempt_comes_back_as_it_went_in(self, store: Store) -> None:
        request = a_request()
        ended = an_attempt(
            request,
            trunk="sh-1",
            trunk_reason="cheapest",
            phase=AttemptPhase.ENDED,
            owner="x",
            fence=1,
            lease_until=START,
            dialed_at=START + 1,
            ringing_at=START + 2,
            answered_at=START + 3,
            ended_at=START + 4,
            sip=200,
            q850=16,
            cause="normal",
            end_reason="hangup",
            pbx="pbx-1",
            keys="1#",
        )
        second = an_attempt(request, number=2)
        async with store.transaction() as work:
            await work.requests.add(request)
            await work.attempts.add(second)
            await work.attempts.add(ended)
        async with store.reading() as work:
            assert await work.attempts.list_for(request.id) == [ended, second]
            assert await work.attempts.get(ended.id) == ended
            assert await work.attempts.open_attempts() == [second]

    async def test_a_verification_comes_back_as_it_went_in(self, store: Store) -> None:
        record = a_verification(require_keypress=True, brand="Shop", out_id="o", last_request_id="call_1")
        async with store.transaction() as work:
            await work.verifications.add(record)
        async with store.reading() as work:
            assert await work.verifications.get_for_client("shop", record.id) == record
            assert await work.verifications.get_for_client("bank", record.id) is None
            assert await work.verifications.get(record.id) == record

    def test_a_code_shows_in_no_repr(self) -> None:
        shown = repr(a_verification(code_hash="HASH", code_sealed=b"SEALED"))
        assert "HASH" not in shown
        assert "SEALED" not in shown

    async def test_events_are_listed_in_their_order(self, store: Store) -> None:
        request = a_request()
        late = an_event(request_id=request.id, at=START + 5, detail={"why": "full"})
        early = an_event(request_id=request.id, attempt_id="att_1")
        async with store.transaction() as work:
            await work.requests.add(request)
            await work.events.add(late, early, an_event())
        async with store.reading() as work:
            assert await work.events.list_for(request.id) == [early, late]

    async def test_webhooks_are_numbered_per_resource(self, store: Store) -> None:
        async with store.transaction() as work:
            first = await work.outbox.add(a_webhook())
            second = await work.outbox.add(a_webhook(created_at=START + 1))
            alone = await work.outbox.add(a_webhook(resource="ver_2"))
        assert [first.sequence, second.sequence, alone.sequence] == [1, 2, 1]
        async with store.reading() as work:
            page = await work.outbox.list("shop", resource="ver_1")
            assert page.items == (second, first)
            assert (await work.outbox.list("bank")).items == ()

    async def test_what_is_forgotten_leaves_its_turn_to_the_next(self, store: Store) -> None:
        async with store.transaction() as work:
            old = await work.outbox.add(a_webhook())
            young = await work.outbox.add(a_webhook(created_at=START + 10, due_at=START + 10))
            await work.outbox.add(a_webhook(created_at=START + 11))
            apart = await work.outbox.add(a_webhook(resource="ver_2", created_at=START + 10))
            assert [one.opened_at for one in (old, young, apart)] == [START, None, START]
            assert await work.outbox.purge(START + 5, 100, now=START + 20) == 1
            claimed = await work.outbox.claim("shop", "node-a", START + 20, 10, 1_000)
        assert {one.id for one in claimed} == {young.id, apart.id}


class TestTransactions:
    async def test_an_exception_leaves_nothing(self, store: Store) -> None:
        record = a_request()
        with pytest.raises(RuntimeError):
            async with store.transaction() as work:
                await work.requests.add(record)
                await work.attempts.add(an_attempt(record))
                raise RuntimeError
        async with store.reading() as work:
            assert await work.requests.get(record.id) is None
            assert await work.attempts.open_attempts() == []
        async with store.transaction() as work:
            await work.requests.add(record)

    async def test_a_cancelled_task_leaves_nothing_and_blocks_nobody(self, store: Store) -> None:
        record = a_request()
        inside = asyncio.Event()

        async def write() -> None:
            async with store.transaction() as work:
                await work.requests.add(record)
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(write())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with store.transaction() as work:
            assert await work.requests.get(record.id) is None
            await work.requests.add(record)

    async def test_a_task_cancelled_anywhere_leaves_all_or_nothing(self, store: Store) -> None:
        async def write(request_id: str) -> None:
            record = a_request(id=request_id)
            async with store.transaction() as work:
                await work.requests.add(record)
                await work.attempts.add(an_attempt(record))

        names = [new_id("call") for _ in range(40)]
        for steps, name in enumerate(names):
            task = asyncio.create_task(write(name))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with store.transaction() as work:
            for name in names:
                found = await work.requests.get(name)
                assert len(await work.attempts.list_for(name)) == (found is not None)

    async def test_what_the_database_refuses_is_an_error_of_ours_and_leaves_nothing(
        self, store: Store
    ) -> None:
        record = a_request()
        with pytest.raises(StoreError, match="refused"):
            async with store.transaction() as work:
                await work.requests.add(record)
                await work.requests.add(record)
        with pytest.raises(StoreError, match="refused"):
            async with store.transaction() as work:
                await work.attempts.add(an_attempt(record))
        async with store.reading() as work:
            assert await work.requests.get(record.id) is None

    async def test_a_swallowed_failure_is_not_committed(self, store: Store) -> None:
        record = a_request()
        with pytest.raises(StoreError):
            async with store.transaction() as work:
                await work.requests.add(record)
                with suppress(StoreError):
                    await work.requests.add(record)
        async with store.reading() as work:
            assert await work.requests.get(record.id) is None

    async def test_no_error_shows_a_parameter(self, store: Store) -> None:
        record = a_verification(code_hash="HUSH-HUSH")
        with pytest.raises(StoreError) as raised:
            async with store.transaction() as work:
                await work.verifications.add(record)
                await work.verifications.add(record)
        assert "HUSH-HUSH" not in f"{raised.value!s}{raised.value.__cause__!s}"
        assert raised.value.__context__ is None

    async def test_reading_refuses_to_write(self, store: Store) -> None:
        with pytest.raises(StoreError):
            async with store.reading() as work:
                await work.requests.add(a_request())

    async def test_a_reader_neither_waits_for_a_writer_nor_sees_its_work(self, store: Store) -> None:
        record = a_request()
        async with asyncio.timeout(2):
            async with store.transaction() as work:
                await work.requests.add(record)
                async with store.reading() as seen:
                    assert await seen.requests.get(record.id) is None
            async with store.reading() as seen:
                assert await seen.requests.get(record.id) == record

    async def test_a_write_goes_through_while_a_reader_is_open(self, store: Store) -> None:
        async with asyncio.timeout(2), store.reading() as seen:
            assert (await seen.requests.list("shop")).items == ()
            async with store.transaction() as work:
                await work.requests.add(a_request())
        async with store.reading() as seen:
            assert len((await seen.requests.list("shop")).items) == 1

    async def test_an_unknown_column_is_refused(self, store: Store) -> None:
        async with store.transaction() as work:
            with pytest.raises(StoreError, match="no column"):
                await work.requests.update("call_1", fence=0, colour="red")

    async def test_ping_and_clock(self, store: Store, database: str) -> None:
        await store.ping()
        assert await store.now_ms() == START
        live = await Store.open(database, owner="live")
        first = await live.now_ms()
        assert 0 <= await live.now_ms() - first < 5_000
        assert first > 1_700_000_000_000
        record = a_request(updated_at=0)
        async with live.transaction() as work:
            await work.requests.add(record)
            await work.requests.update(record.id, fence=0, priority=1)
            stamped = await work.requests.get(record.id)
        assert stamped is not None
        assert 0 <= stamped.updated_at - first < 5_000
        await live.close()


class TestClaiming:
    async def test_the_most_urgent_of_what_is_due_and_nothing_else(self, store: Store) -> None:
        later = a_request(due_at=START + 1)
        low = a_request(due_at=START - 50)
        high = a_request(due_at=START, priority=5)
        high_older = a_request(due_at=START - 1, priority=5)
        leased = a_request(due_at=START, owner="node-b", lease_until=START + 1, priority=9)
        stale = a_request(due_at=START - 1, owner="node-b", lease_until=START, fence=4)
        held = a_request(owner="node-b", lease_until=START + 1)
        over = a_request(status=CallStatus.COMPLETED, ended_at=START, due_at=START)
        async with store.transaction() as work:
            for record in (later, low, high, high_older, leased, stale, held, over):
                await work.requests.add(record)
            claimed = await work.requests.claim_due("node-a", START, 3, 30_000)
            assert [record.id for record in claimed] == [high_older.id, high.id, low.id]
            rest = await work.requests.claim_due("node-a", START, 10, 30_000)
            assert [record.id for record in rest] == [stale.id]
            assert await work.requests.claim_due("node-a", START, 10, 30_000) == []
        taken = rest[0]
        assert (taken.owner, taken.fence, taken.lease_until, taken.due_at) == (
            "node-a",
            5,
            START + 30_000,
            None,
        )
        async with store.reading() as work:
            assert await work.requests.get(stale.id) == taken
            assert await work.requests.next_due_at() == START + 1

    async def test_one_that_waits_is_taken_by_its_id_due_or_not(self, store: Store) -> None:
        waits = a_request(due_at=START + 9_000, fence=2)
        held = a_request(owner="node-b", lease_until=START + 1)
        over = a_request(status=CallStatus.COMPLETED, ended_at=START, due_at=START)
        async with store.transaction() as work:
            for record in (waits, held, over):
                await work.requests.add(record)
            taken = await work.requests.claim(waits.id, "node-a", START, 30_000)
            assert taken is not None
            assert (taken.owner, taken.fence, taken.lease_until) == ("node-a", 3, START + 30_000)
            assert await work.requests.get(waits.id) == taken
            for one in (waits.id, held.id, over.id, "call_none"):
                assert await work.requests.claim(one, "node-a", START, 30_000) is None

    async def test_next_due_is_none_where_nothing_waits(self, store: Store) -> None:
        async with store.transaction() as work:
            await work.requests.add(a_request(owner="node-a", lease_until=START))
            assert await work.requests.next_due_at() is None

    async def test_two_controllers_get_disjoint_work(self, store: Store, other: Store) -> None:
        records = [a_request(due_at=START, priority=n % 3) for n in range(60)]
        async with store.transaction() as work:
            for record in records:
                await work.requests.add(record)

        async def claim_all(mine: Store) -> list[str]:
            got: list[str] = []
            while True:
                async with mine.transaction() as work:
                    batch = await work.requests.claim_due(mine.owner, START, 4, 30_000)
                    await asyncio.sleep(0)
                if not batch:
                    return got
                got += [record.id for record in batch]

        everything = [
            name for part in await asyncio.gather(*map(claim_all, [store, other] * 3)) for name in part
        ]
        assert sorted(everything) == sorted(record.id for record in records)

    async def test_who_lost_the_row_cannot_write(self, store: Store, other: Store, clock) -> None:
        record = a_request(due_at=START)
        attempt = an_attempt(record, phase=AttemptPhase.DIALING, fence=1, owner="node-a", lease_until=START)
        async with store.transaction() as work:
            await work.requests.add(record)
            [mine] = await work.requests.claim_due("node-a", START, 1, 1_000)
            await work.attempts.add(attempt)
        clock.now += 1_000
        async with other.transaction() as work:
            assert [each.id for each in await work.requests.expired_leases(clock.now)] == [record.id]
            [taken] = await work.requests.take_over("node-b", clock.now, 1_000)
            assert taken.fence == 2
            assert await work.requests.take_over("node-c", clock.now, 1_000) == []
            theirs = await work.attempts.get(attempt.id)
            assert theirs is not None
            assert (theirs.owner, theirs.fence, theirs.lease_until) == ("node-b", 2, clock.now + 1_000)
        with pytest.raises(StaleFence):
            async with store.transaction() as work:
                await work.events.add(an_event(request_id=record.id))
                await work.requests.update(record.id, fence=mine.fence, status=CallStatus.FAILED)
        with pytest.raises(StaleFence):
            async with store.transaction() as work:
                await work.attempts.update(attempt.id, fence=1, phase=AttemptPhase.ENDED)
        async with store.transaction() as work:
            assert await work.requests.get(record.id) == taken
            assert await work.events.list_for(record.id) == []
            assert await work.requests.renew_leases("node-a", [record.id], clock.now + 9_000) == {}
            renewed = await work.requests.renew_leases("node-b", [record.id], clock.now + 9_000)
            assert renewed == {record.id: False}
            await work.requests.ask_cancel(record.id, clock.now)
            renewed = await work.requests.renew_leases("node-b", [record.id], clock.now + 9_000)
            assert renewed == {record.id: True}, "who renews learns of a cancel"
            assert await work.requests.expired_leases(clock.now + 8_999) == []

    async def test_a_start_takes_what_an_earlier_life_held_and_a_sweep_what_ran_out(
        self, store: Store
    ) -> None:
        own = a_request(owner="node-a", lease_until=START + 5_000, fence=1)
        own_expired = a_request(owner="node-a", lease_until=START - 1, fence=1)
        foreign = a_request(owner="node-b", lease_until=START + 5_000, fence=1)
        foreign_expired = a_request(owner="node-b", lease_until=START - 5, fence=1)
        async with store.transaction() as work:
            for record in (own, own_expired, foreign, foreign_expired):
                await work.requests.add(record)
            in_hand = {own_expired.id}
            kept = await work.requests.take_over("node-a", START, 9_000, own=False, but=in_hand, limit=1)
            assert [record.id for record in kept] == [foreign_expired.id]
            assert await work.requests.take_over("node-a", START, 9_000, own=False, but=in_hand) == []
            assert await work.requests.next_lease_end("node-a") == START + 5_000
            assert await work.requests.next_lease_end("node-b") == START - 1
            swept = await work.requests.take_over("node-a", START, 9_000, own=False)
            assert [record.id for record in swept] == [own_expired.id], "nobody has it in hand any more"
        async with store.transaction() as work:
            held = {record.id for record in await work.requests.open_of_owner("node-a")}
            assert held == {own.id, own_expired.id, foreign_expired.id}
            taken = await work.requests.take_over("node-a", START, 9_000)
            assert {record.id for record in taken} == held
            assert [record.id for record in await work.requests.open_of_owner("node-b")] == [foreign.id]

    async def test_after_a_clock_was_set_back_what_waits_is_due_so_much_earlier(self, store: Store) -> None:
        waits = a_request(due_at=START + 5_000)
        held = a_request(owner="node-a", lease_until=START + 5_000, due_at=START + 5_000)
        webhook = a_webhook(due_at=START + 5_000)
        async with store.transaction() as work:
            await work.requests.add(waits)
            await work.requests.add(held)
            webhook = await work.outbox.add(webhook)
            assert await work.requests.bring_forward(4_000) == 1
            assert await work.outbox.bring_forward(4_000) == 1
        async with store.reading() as work:
            assert await work.requests.next_due_at() == START + 1_000
            assert await work.outbox.next_due(webhook.client) == START + 1_000

    async def test_a_final_status_ends_everything_about_the_row(self, store: Store, clock) -> None:
        record = a_request(owner="node-a", lease_until=START + 9, due_at=START)
        attempt = an_attempt(record, owner="node-a", lease_until=START + 9)
        async with store.transaction() as work:
            await work.requests.add(record)
            await work.attempts.add(attempt)
            clock.now += 7
            await work.requests.update(record.id, fence=0, status=CallStatus.BUSY, result={"n": 1})
            await work.attempts.update(attempt.id, fence=0, phase=AttemptPhase.ENDED, sip=486)
            ended = await work.requests.get(record.id)
            assert ended == replace(
                record,
                status=CallStatus.BUSY,
                result={"n": 1},
                ended_at=START + 7,
                updated_at=START + 7,
                lease_until=None,
                due_at=None,
            )
            assert await work.attempts.get(attempt.id) == replace(
                attempt, phase=AttemptPhase.ENDED, sip=486, ended_at=START + 7, lease_until=None
            )
            with pytest.raises(StoreError):
                await work.requests.add(a_request(status=CallStatus.BUSY))
            with pytest.raises(StoreError):
                await work.attempts.add(an_attempt(record, number=2, ended_at=START))

    async def test_asking_to_cancel_wakes_a_request_that_waits(self, store: Store) -> None:
        waiting = a_request(due_at=START + 60_000)
        held = a_request(owner="node-b", lease_until=START + 60_000)
        over = a_request(status=CallStatus.BUSY, ended_at=START)
        async with store.transaction() as work:
            for record in (waiting, held, over):
                await work.requests.add(record)
            assert await work.requests.ask_cancel(waiting.id, START)
            assert not await work.requests.ask_cancel(waiting.id, START)
            assert await work.requests.ask_cancel(held.id, START)
            assert not await work.requests.ask_cancel(over.id, START)
            assert await work.requests.next_due_at() == START
            seen = await work.requests.lock(held.id)
        assert seen is not None
        assert (seen.cancel_requested_at, seen.due_at) == (START, None)


class TestCounting:
    async def test_requests_by_number_client_and_prefix(self, store: Store) -> None:
        async with store.transaction() as work:
            for to_number, client, at in [
                ("+8613800000001", "shop", START),
                ("+8613800000001", "bank", START + 5),
                ("+8613900000001", "shop", START + 5),
                ("+861", "shop", START + 5),
                ("+87", "shop", START + 5),
            ]:
                await work.requests.add(a_request(to_number=to_number, client=client, created_at=at))
            await work.requests.add(
                a_request(to_number="+8613800000001", client="later", flow="hotline", created_at=0)
            )
            count = work.requests.count_since
            assert await count(START, to_number="+8613800000001") == 2
            assert await count(START + 1, to_number="+8613800000001") == 1
            assert await count(START, client="shop") == 4
            assert await count(START, prefix="+86") == 4
            assert await count(START, prefix="+86138") == 2
            assert await count(START, prefix="+86", client="bank") == 1
            assert await count(START, most=3) == 3
            active = work.requests.count_active_for_number
            assert await active("+8613800000001", "verification") == 2
            assert await active("+8613800000001", "hotline") == 1

    async def test_only_attempts_that_were_dialled(self, store: Store) -> None:
        record = a_request()
        async with store.transaction() as work:
            await work.requests.add(record)
            over = {"phase": AttemptPhase.ENDED, "ended_at": START + 9}
            await work.attempts.add(an_attempt(record, number=1, dialed_at=START, **over))
            await work.attempts.add(an_attempt(record, number=2, dialed_at=START + 5, **over))
            await work.attempts.add(an_attempt(record, number=3))
        async with store.reading() as work:
            assert await work.attempts.count_to_number_since(TO, START) == 2
            assert await work.attempts.count_to_number_since(TO, START + 1) == 1
            assert await work.attempts.count_to_number_since("+1", START) == 0

    async def test_the_times_of_attempts_come_in_pages(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the moment of dialling, though an attempt may have been made a little earlier."""
        record = a_request()
        made = []
        async with store.transaction() as work:
            await work.requests.add(record)
            for number in range(1, 8):
                monkeypatch.setattr("time.time_ns", lambda at=START + number: at * 1_000_000)
                dialed = None if number == 6 else START + 100 * number
                times = {"dialed_at": dialed, "answered_at": dialed, "ended_at": START + 100 * number + 50}
                trunk = "b" if number == 3 else "a"
                one = an_attempt(record, number=number, trunk=trunk, phase=AttemptPhase.ENDED, **times)
                await work.attempts.add(one)
                made.append(one)
        expected = [AttemptTimes(one.id, one.dialed_at or 0, one.answered_at, one.ended_at) for one in made]
        async with store.reading() as work:
            times_of = work.attempts.times
            first = await times_of(START + 200, START + 700, limit=3)
            assert first == expected[1:4]
            assert await times_of(START + 200, START + 700, after=first[-1].id, limit=3) == [expected[4]]
            assert await times_of(START, START + 9_999, trunk="b") == [expected[2]]
            assert await times_of(START + 701, START + 9_999) == []

    async def test_a_number_of_an_attempt_is_given_once(self, store: Store) -> None:
        record = a_request()
        with pytest.raises(StoreError, match="refused"):
            async with store.transaction() as work:
                await work.requests.add(record)
                await work.attempts.add(an_attempt(record))
                await work.attempts.add(an_attempt(record, to_number="+493012345678"))

    async def test_a_phone_number_has_one_open_attempt(self, store: Store) -> None:
        record = a_request()
        async with store.transaction() as work:
            await work.requests.add(record)
            await work.attempts.add(first := an_attempt(record))
            assert await work.attempts.number_is_open(TO)
        with pytest.raises(StoreError, match="refused"):
            async with store.transaction() as work:
                await work.attempts.add(an_attempt(record, number=2))
        async with store.transaction() as work:
            await work.attempts.update(first.id, fence=first.fence, phase=AttemptPhase.ENDED)
            assert not await work.attempts.number_is_open(TO)
            await work.attempts.add(an_attempt(record, number=2))

    async def test_wrong_codes_are_counted_per_number_and_forgotten(self, store: Store) -> None:
        async with store.transaction() as work:
            for at in (START, START + 1, START + 2):
                await work.check_failures.add(
                    CheckFailureRecord(id=new_id("chk"), to_number=TO, at=at, verification_id="ver_1")
                )
            assert await work.check_failures.count(TO, START + 1) == 2
            assert await work.check_failures.count("+1", START) == 0
            assert await work.check_failures.purge(START + 1) == 1
            assert await work.check_failures.count(TO, START) == 2
            await work.check_failures.clear("+1")
            await work.check_failures.clear(TO)
            assert await work.check_failures.count(TO, START) == 0


class TestPages:
    async def test_pages_stay_right_while_rows_come_and_go(self, store: Store) -> None:
        # Several share a millisecond: the identifier decides between them.
        records = [a_request(created_at=START + n // 3) for n in range(20)]
        newest_first = sorted(records, key=lambda each: (each.created_at, each.id), reverse=True)
        async with store.transaction() as work:
            for record in records:
                await work.requests.add(record)
        seen: list[str] = []
        cursor = None
        while True:
            async with store.reading() as work:
                page = await work.requests.list("shop", after=cursor, limit=6)
            seen += [record.id for record in page.items]
            cursor = page.cursor
            if cursor is None:
                break
            async with store.transaction() as work:
                await work.requests.add(a_request(created_at=START + 1_000))
                # Once the row that the cursor was made from, once another.
                gone = page.items[-1 if len(seen) == 12 else 0]
                await work.requests.update(gone.id, fence=0, client="somebody else")
        assert seen == [record.id for record in newest_first]

    async def test_filters(self, store: Store) -> None:
        busy = a_request(status=CallStatus.BUSY, ended_at=START)
        survey = a_request(flow="survey", call_class=CallClass.SURVEY)
        foreign = a_request(client="bank")
        async with store.transaction() as work:
            for record in (busy, survey, foreign):
                await work.requests.add(record)
            assert (await work.requests.list("shop", status=CallStatus.BUSY)).items == (busy,)
            assert (await work.requests.list("shop", flow="survey")).items == (survey,)
            assert (await work.requests.list("bank")).items == (foreign,)
            exactly = await work.requests.list("shop", limit=2)
            assert len(exactly.items) == 2
            assert exactly.cursor is None

    @pytest.mark.parametrize(
        "cursor", ["", "x", "MTIz", "é", "a" * 300, "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk6YQ", "MTow/AA"]
    )
    async def test_a_cursor_of_nobody_is_refused(self, store: Store, cursor: str) -> None:
        async with store.reading() as work:
            with pytest.raises(InputError, match="cursor"):
                await work.requests.list("shop", after=cursor)


class TestVerifications:
    async def test_a_final_status_erases_the_sealed_code(self, store: Store, clock) -> None:
        record = a_verification()
        async with store.transaction() as work:
            await work.verifications.add(record)
            locked = await work.verifications.lock(record.id)
            assert locked == record
            clock.now += 3
            await work.verifications.update(record.id, checks_left=4)
            assert await work.verifications.get(record.id) == replace(
                record, checks_left=4, updated_at=START + 3
            )
            await work.verifications.update(
                record.id, status=VerificationStatus.APPROVED, approved_at=START + 3
            )
            ended = await work.verifications.get(record.id)
        assert ended is not None
        assert (ended.code_sealed, ended.ended_at, ended.status) == (
            None,
            START + 3,
            VerificationStatus.APPROVED,
        )
        with pytest.raises(NotFound):
            async with store.transaction() as work:
                await work.verifications.update("ver_none", sends=1)

    async def test_deciders_take_turns(self, store: Store, other: Store) -> None:
        record = a_verification(checks_left=20, max_checks=20)
        async with store.transaction() as work:
            await work.verifications.add(record)

        async def check(mine: Store) -> None:
            async with mine.transaction() as work:
                seen = await work.verifications.lock(record.id)
                assert seen is not None
                await asyncio.sleep(0)
                await work.verifications.update(record.id, checks_left=seen.checks_left - 1)

        await asyncio.gather(*(check(mine) for mine in [store, other] * 10))
        async with store.reading() as work:
            left = await work.verifications.get(record.id)
        assert left is not None
        assert left.checks_left == 0

    async def test_what_is_over_is_found_and_erased(self, store: Store) -> None:
        over = a_verification(expires_at=START)
        older = a_verification(expires_at=START - 1)
        ahead = a_verification(expires_at=START + 1)
        ended = a_verification(
            status=VerificationStatus.CANCELED, ended_at=START, expires_at=START + 9, client="bank"
        )
        async with store.transaction() as work:
            for record in (over, older, ahead, ended):
                await work.verifications.add(record)
            assert await work.verifications.next_expiry() == START - 1
            assert await work.verifications.due_expired(START, 10) == [older, over]
            assert await work.verifications.due_expired(START, 1) == [older]
            assert await work.verifications.erase_sealed(START) == 3
            assert await work.verifications.erase_sealed(START) == 0
            kept = await work.verifications.get(ahead.id)
            assert kept == ahead
            pending = await work.verifications.list("shop", status=VerificationStatus.PENDING, limit=2)
            assert len(pending.items) == 2
            rest = await work.verifications.list(
                "shop", status=VerificationStatus.PENDING, after=pending.cursor
            )
            assert len(rest.items) == 1


class TestIdempotency:
    async def test_the_life_of_a_key(self, store: Store) -> None:
        async with store.transaction() as work:
            keys = work.idempotency
            assert await keys.begin("shop", "k", "print", START, 1_000) == New()
            assert await keys.begin("shop", "k", "print", START, 1_000) == InFlight()
            assert await keys.begin("shop", "k", "other", START, 1_000) == Mismatch()
            assert await keys.begin("bank", "k", "other", START, 1_000) == New()
            await keys.finish("shop", "k", 201, '{"id":"ver_1"}', resource="ver_1")
            answer = Replay(201, '{"id":"ver_1"}', "application/json", "ver_1")
            assert await keys.begin("shop", "k", "print", START + 999, 1_000) == answer
            assert await keys.begin("shop", "k", "other", START + 999, 1_000) == Mismatch()
            await keys.abandon("shop", "k")
            assert await keys.begin("shop", "k", "print", START + 999, 1_000) == answer
            assert await keys.begin("shop", "k", "other", START + 1_000, 1_000) == New()
            await keys.abandon("shop", "k")
            assert await keys.begin("shop", "k", "third", START + 1_000, 1_000) == New()
            assert await keys.purge(START + 1_000) == 1
            assert await keys.begin("bank", "k", "other", START + 1_000, 1_000) == New()
            with pytest.raises(StoreError):
                await keys.finish("shop", "none", 201, "")

    async def test_of_fifty_at_once_one_is_new(self, store: Store, other: Store) -> None:
        async def begin(mine: Store) -> object:
            async with mine.transaction() as work:
                return await work.idempotency.begin("shop", "k", "print", START, 1_000)

        answers = await asyncio.gather(*(begin(mine) for mine in [store, other] * 25))
        assert answers.count(New()) == 1
        assert answers.count(InFlight()) == 49

    async def test_a_key_that_is_used_anew_is_not_purged(self, store: Store, other: Store) -> None:
        async with store.transaction() as work:
            await work.idempotency.begin("shop", "k", "print", START, 1_000)
            await work.idempotency.finish("shop", "k", 201, "old")

        async def purge() -> int:
            async with other.transaction() as work:
                return await work.idempotency.purge(START + 1_000)

        async with store.transaction() as work:
            assert await work.idempotency.begin("shop", "k", "print", START + 1_000, 1_000) == New()
            purging = asyncio.create_task(purge())
            await asyncio.sleep(0.2)
            await work.idempotency.finish("shop", "k", 201, "new")
        assert await purging == 0
        async with store.transaction() as work:
            again = await work.idempotency.begin("shop", "k", "print", START + 1_500, 1_000)
        assert again == Replay(201, "new", "application/json", None)

    async def test_a_rollback_gives_the_key_to_the_next(self, store: Store, other: Store) -> None:
        begun = asyncio.Event()

        async def fail() -> None:
            async with store.transaction() as work:
                assert await work.idempotency.begin("shop", "k", "print", START, 1_000) == New()
                begun.set()
                await asyncio.sleep(0.02)
                raise RuntimeError

        async def next_one() -> object:
            await begun.wait()
            async with other.transaction() as work:
                return await work.idempotency.begin("shop", "k", "print", START, 1_000)

        failed, answer = await asyncio.gather(fail(), next_one(), return_exceptions=True)
        assert isinstance(failed, RuntimeError)
        assert answer == New()
