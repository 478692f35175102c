"""Slots of trunks, on both engines alike: never one more than there are lines, none lost, none stuck."""

# ruff: noqa: PT012 - what leaves the block of a transaction is what is tested

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Protocol

import pytest
from makers import START, a_request, an_attempt

from telephony.errors import StoreError
from telephony.model.call import AttemptPhase
from telephony.model.trunk import BreakerPhase, BreakerState, Passed, SlotKind
from telephony.store import Store
from telephony.store.records import Acquired, PassedTrunk, SlotAsk, SlotCandidate, TrunkUse

LEASE = START + 30_000


class Clock(Protocol):
    now: int


def an_ask(holder: str, *trunks: str | SlotCandidate, **fields: Any) -> SlotAsk:
    candidates = tuple(SlotCandidate(trunk=one) if isinstance(one, str) else one for one in trunks)
    values = {"owner": "node-a", "lease_until": LEASE} | fields
    return SlotAsk(candidates=candidates or (SlotCandidate(trunk="a"),), holder=holder, **values)


def paced(trunk: str, calls_per_second: float, burst: int = 1) -> SlotCandidate:
    return SlotCandidate(trunk=trunk, calls_per_second=calls_per_second, burst=burst)


async def take(store: Store, holder: str, *trunks: str | SlotCandidate, **fields: Any) -> Acquired:
    async with store.transaction() as work:
        return await work.slots.acquire(an_ask(holder, *trunks, **fields))


async def give(store: Store, *holders: str) -> list[str | None]:
    trunks = []
    for holder in holders:
        async with store.transaction() as work:
            trunks.append(await work.slots.release(holder))
    return trunks


async def ensure(store: Store, **channels: int | None) -> None:
    async with store.transaction() as work:
        for name, count in channels.items():
            await work.slots.ensure(name, count)


async def use(store: Store, name: str = "a") -> TrunkUse:
    async with store.reading() as work:
        return (await work.slots.in_use()).get(name, TrunkUse())


async def fill(store: Store, count: int, name: str = "a", prefix: str = "h") -> list[str]:
    holders = [f"{prefix}{number}" for number in range(count)]
    async with store.transaction() as work:
        answers = await work.slots.acquire_all([an_ask(holder, name) for holder in holders])
    assert [answer.trunk for answer in answers] == [name] * count
    return holders


class TestTaking:
    async def test_as_many_as_there_are_lines_and_no_more(self, store: Store) -> None:
        await ensure(store, a=3)
        assert await use(store) == TrunkUse(in_use=0, lines=3)
        taken = [await take(store, f"h{n}") for n in range(3)]
        assert taken == [Acquired("a")] * 3
        assert await take(store, "late") == Acquired(
            None, (PassedTrunk("a", Passed.FULL, in_use=3, limit=3),)
        )
        assert await use(store) == TrunkUse(in_use=3, lines=3)
        assert await give(store, "h1") == ["a"]
        assert (await take(store, "late")).trunk == "a"

    async def test_a_trunk_without_a_limit_takes_all_and_counts_them(self, store: Store) -> None:
        await ensure(store, a=None)
        await fill(store, 40)
        assert await use(store) == TrunkUse(in_use=40, extra=40)
        assert await give(store, *(f"h{n}" for n in range(40))) == ["a"] * 40
        assert await use(store) == TrunkUse()

    async def test_no_lines_at_all(self, store: Store) -> None:
        await ensure(store, a=0)
        answer = await take(store, "h")
        assert answer.passed == (PassedTrunk("a", Passed.FULL, in_use=0, limit=0),)

    async def test_the_first_of_an_ordered_list(self, store: Store) -> None:
        await ensure(store, a=1, b=1, c=None)
        for number, trunk in enumerate(("a", "b", "c", "c")):
            answer = await take(store, f"h{number}", "a", "b", "c")
            assert answer.trunk == trunk
            assert [one.trunk for one in answer.passed] == ["a", "b", "c"][: min(number, 2)]
        await give(store, "h0")
        assert (await take(store, "again", "b", "a")).trunk == "a"

    async def test_what_is_given_back_once_is_given_back(self, store: Store) -> None:
        await ensure(store, a=2)
        await fill(store, 1)
        assert await give(store, "h0", "h0", "never") == ["a", None, None]
        assert await use(store) == TrunkUse(in_use=0, lines=2)

    async def test_nobody_holds_two(self, store: Store) -> None:
        await ensure(store, a=2, b=2)
        await fill(store, 1)
        with pytest.raises(StoreError):
            await take(store, "h0", "b")
        assert await use(store, "b") == TrunkUse(in_use=0, lines=2)

    async def test_an_unknown_trunk_is_an_error_and_takes_nothing(self, store: Store) -> None:
        await ensure(store, a=1)
        with pytest.raises(StoreError, match="nowhere"):
            await take(store, "h", "nowhere", "a")
        assert (await use(store)).in_use == 0
        async with store.transaction() as work:
            with pytest.raises(StoreError):
                await work.slots.limit("nowhere", 3)

    async def test_what_is_rolled_back_was_never_taken(self, store: Store) -> None:
        await ensure(store, a=1)
        with pytest.raises(RuntimeError):
            async with store.transaction() as work:
                await work.slots.acquire(an_ask("gone", paced("a", 1)))
                raise RuntimeError
        assert (await take(store, "h", paced("a", 1))).trunk == "a"

    async def test_several_in_their_order(self, store: Store) -> None:
        await ensure(store, a=2, b=1)
        async with store.transaction() as work:
            asks = [an_ask(f"h{n}", "a", "b") for n in range(5)]
            answers = await work.slots.acquire_all(asks)
        assert [answer.trunk for answer in answers] == ["a", "a", "b", None, None]
        assert answers[4].passed == (
            PassedTrunk("a", Passed.FULL, in_use=2, limit=2),
            PassedTrunk("b", Passed.FULL, in_use=1, limit=1),
        )
        async with store.reading() as work:
            held = await work.slots.held()
        assert {(one.holder, one.trunk, one.number) for one in held} == {
            ("h0", "a", 1),
            ("h1", "a", 2),
            ("h2", "b", 1),
        }
        assert {(one.owner, one.kind, one.acquired_at, one.lease_until) for one in held} == {
            ("node-a", SlotKind.ATTEMPT, START, LEASE)
        }
        async with store.transaction() as work:
            assert await work.slots.acquire_all([]) == []


class TestLimits:
    async def test_ensuring_again_changes_nothing(self, store: Store) -> None:
        await ensure(store, a=2)
        await fill(store, 1)
        async with store.reading() as work:
            before = await work.slots.held()
        await ensure(store, a=2)
        async with store.reading() as work:
            assert await work.slots.held() == before
        assert await use(store) == TrunkUse(in_use=1, lines=2)

    async def test_growing(self, store: Store) -> None:
        await ensure(store, a=1)
        await fill(store, 1)
        await ensure(store, a=3)
        await fill(store, 2, prefix="more")
        assert (await take(store, "late")).trunk is None

    async def test_shrinking_ends_nobody_and_lets_nobody_in(self, store: Store) -> None:
        await ensure(store, a=5)
        holders = await fill(store, 5)
        await ensure(store, a=2)
        assert await use(store) == TrunkUse(in_use=5, lines=2, extra=3)
        assert (await take(store, "late")).passed[0] == PassedTrunk("a", Passed.FULL, in_use=5, limit=2)
        for left, holder in zip((4, 3, 2), holders, strict=False):
            await give(store, holder)
            assert (await use(store)).in_use == left
            assert (await take(store, "late")).trunk is None
        await give(store, holders[3])
        assert (await take(store, "late")).trunk == "a"
        assert (await take(store, "later")).trunk is None
        assert await use(store) == TrunkUse(in_use=2, lines=2)

    async def test_shrinking_takes_free_lines_first(self, store: Store) -> None:
        await ensure(store, a=5)
        holders = await fill(store, 5)
        await give(store, holders[0], holders[1])
        await ensure(store, a=3)
        assert await use(store) == TrunkUse(in_use=3, lines=3)

    async def test_an_operator_has_the_last_word_until_he_takes_it_back(self, store: Store) -> None:
        await ensure(store, a=2)
        async with store.transaction() as work:
            assert await work.slots.limit("a", 1) == 1
        await fill(store, 1)
        await ensure(store, a=10)
        assert (await take(store, "late")).trunk is None
        async with store.reading() as work:
            record = (await work.trunks.all())["a"]
        assert (record.configured, record.channels, record.limit) == (10, 1, 1)
        async with store.transaction() as work:
            assert await work.slots.limit("a", None) == 10
        assert await use(store) == TrunkUse(in_use=1, lines=10)

    async def test_no_limit_any_more_and_a_limit_again(self, store: Store) -> None:
        await ensure(store, a=2)
        await fill(store, 2)
        await ensure(store, a=None)
        await fill(store, 2, prefix="more")
        assert await use(store) == TrunkUse(in_use=4, extra=4)
        await ensure(store, a=3)
        assert await use(store) == TrunkUse(in_use=4, lines=3, extra=1)
        await give(store, "h0", "h1", "more0", "more1")
        assert await use(store) == TrunkUse(in_use=0, lines=3)

    @pytest.mark.parametrize("channels", [-1, 10_001])
    async def test_what_no_trunk_can_have(self, store: Store, channels: int) -> None:
        async with store.transaction() as work:
            with pytest.raises(StoreError):
                await work.slots.ensure("a", channels)


class TestPace:
    async def test_calls_come_evenly_and_are_told_when(self, store: Store, clock: Clock) -> None:
        await ensure(store, a=10)
        pace = paced("a", 4)
        assert (await take(store, "h0", pace)).trunk == "a"
        answer = await take(store, "h1", pace)
        assert answer == Acquired(None, (PassedTrunk("a", Passed.RATE, until=START + 250),))
        assert answer.retry_at == START + 250
        clock.now += 249
        assert (await take(store, "h1", pace)).trunk is None
        clock.now += 1
        assert (await take(store, "h1", pace)).trunk == "a"
        assert (await take(store, "h2", pace)).retry_at == START + 500

    async def test_a_burst_then_the_pace(self, store: Store, clock: Clock) -> None:
        await ensure(store, a=None)
        pace = paced("a", 2, burst=3)
        assert [(await take(store, f"h{n}", pace)).trunk for n in range(4)] == ["a", "a", "a", None]
        clock.now += 500
        assert [(await take(store, f"i{n}", pace)).trunk for n in range(2)] == ["a", None]
        clock.now += 60_000
        assert [(await take(store, f"j{n}", pace)).trunk for n in range(4)] == ["a", "a", "a", None]

    async def test_never_more_than_the_pace_in_any_window(self, store: Store, clock: Clock) -> None:
        await ensure(store, a=None)
        dice, pace, moments = random.Random(7), paced("a", 3, burst=2), []
        for number in range(300):
            clock.now += dice.choice((0, 1, 50, 200, 700))
            if (await take(store, f"h{number}", pace)).trunk:
                moments.append(clock.now)
        for start, moment in enumerate(moments):
            within = sum(moment <= other < moment + 2_000 for other in moments[start:])
            assert within <= 2_000 / 1_000 * 3 + 2

    async def test_a_pace_is_not_used_up_by_who_finds_no_line(self, store: Store, clock: Clock) -> None:
        await ensure(store, a=1, b=5)
        await fill(store, 1)
        for number in range(3):
            answer = await take(store, f"i{number}", paced("a", 1), "b")
            assert (answer.trunk, answer.passed[0].why) == ("b", Passed.FULL)
        await give(store, "h0")
        assert (await take(store, "j", paced("a", 1), "b")).trunk == "a"

    async def test_another_trunk_takes_what_the_pace_leaves(self, store: Store) -> None:
        await ensure(store, a=9, b=9)
        await take(store, "h0", paced("a", 1), "b")
        answer = await take(store, "h1", paced("a", 1), "b")
        assert (answer.trunk, answer.passed[0].until) == ("b", START + 1000)

    async def test_a_clock_that_was_set_back_stops_nobody_for_long(self, store: Store, clock: Clock) -> None:
        await ensure(store, a=None)
        await take(store, "h0", paced("a", 1))
        clock.now -= 3_600_000
        assert (await take(store, "h1", paced("a", 1))).trunk == "a"
        assert (await take(store, "h2", paced("a", 1))).retry_at == clock.now + 1000

    async def test_several_share_one_gate_and_stop_before_another(self, store: Store) -> None:
        await ensure(store, a=9, b=9, c=9)
        slow, slower = paced("a", 1, burst=2), paced("b", 1)
        async with store.transaction() as work:
            asks = [an_ask("h0", slow), an_ask("h1", slow), an_ask("h2", slow), an_ask("h3", "c")]
            answers = await work.slots.acquire_all([*asks, an_ask("h4", slower), an_ask("h5", "c")])
        assert [answer.trunk for answer in answers] == ["a", "a", None, "c"]
        assert answers[2].retry_at == START + 1000
        assert (await use(store, "a")).in_use == 2
        assert (await take(store, "h6", slow)).retry_at == START + 1000


class TestGates:
    async def test_a_drained_trunk_takes_no_new_call(self, store: Store) -> None:
        await ensure(store, a=2, b=1)
        await fill(store, 1)
        async with store.transaction() as work:
            assert await work.trunks.drain("a", START)
            assert not await work.trunks.drain("a", START + 1)
            assert not await work.trunks.drain("nowhere", START)
        assert await take(store, "i0", "a", "b") == Acquired("b", (PassedTrunk("a", Passed.DRAINED),))
        assert await give(store, "h0") == ["a"]
        assert (await take(store, "i1")).trunk is None
        async with store.transaction() as work:
            assert (await work.trunks.all())["a"].drained_at == START
            assert await work.trunks.resume("a")
            assert not await work.trunks.resume("a")
        assert (await take(store, "i2")).trunk == "a"

    async def test_an_open_breaker_lets_one_probe_through_when_it_is_due(
        self, store: Store, clock: Clock
    ) -> None:
        await ensure(store, a=5)
        opened = BreakerState(
            BreakerPhase.OPEN, (START - 2, START - 1), START + 5_000, 2, None, "503 twice", START
        )
        async with store.transaction() as work:
            assert await work.trunks.breaker("a") == BreakerState()
            await work.trunks.set_breaker("a", opened)
        assert await take(store, "early") == Acquired(
            None, (PassedTrunk("a", Passed.BREAKER, until=START + 5_000, reason="503 twice"),)
        )
        clock.now += 5_000
        assert await take(store, "probe", paced("a", 1)) == Acquired("a", probe=True)
        assert (await take(store, "second")).passed[0].why is Passed.BREAKER
        async with store.transaction() as work:
            state = await work.trunks.breaker("a")
            assert (state.phase, state.probe, state.moved_at) == (
                BreakerPhase.HALF_OPEN,
                "probe",
                START + 5_000,
            )
            assert (state.failures, state.trips) == (opened.failures, 2)
        # The probe is lost: another one goes after a minute.
        clock.now += 60_000
        assert await take(store, "next") == Acquired("a", probe=True)
        async with store.transaction() as work:
            await work.trunks.set_breaker("a", BreakerState())
        assert await take(store, "free") == Acquired("a")

    async def test_a_probe_that_finds_no_line_is_none(self, store: Store, clock: Clock) -> None:
        await ensure(store, a=1)
        await fill(store, 1)
        due = BreakerState(BreakerPhase.OPEN, until=START - 1)
        async with store.transaction() as work:
            await work.trunks.set_breaker("a", due)
        assert (await take(store, "late")).passed[0].why is Passed.FULL
        async with store.reading() as work:
            assert (await work.trunks.all())["a"].breaker == due

    async def test_several_and_one_probe(self, store: Store) -> None:
        await ensure(store, a=9)
        async with store.transaction() as work:
            await work.trunks.set_breaker("a", BreakerState(BreakerPhase.OPEN, until=START))
            answers = await work.slots.acquire_all([an_ask(f"h{n}") for n in range(3)])
        assert [answer.trunk for answer in answers] == ["a", None, None]
        assert answers[0].probe

    async def test_a_breaker_of_a_clock_that_was_set_back(self, store: Store, clock: Clock) -> None:
        await ensure(store, a=1)
        async with store.transaction() as work:
            far = BreakerState(BreakerPhase.OPEN, until=START + 3_600_001)
            await work.trunks.set_breaker("a", far)
        assert (await take(store, "h")).probe

    async def test_saturated_is_said_once(self, store: Store, other: Store) -> None:
        await ensure(store, a=1)
        async with store.transaction() as work:
            assert not await work.trunks.recover("a")
            assert await work.trunks.saturate("a", START)
        async with other.transaction() as work:
            assert not await work.trunks.saturate("a", START + 1)
            assert (await work.trunks.all())["a"].saturated_at == START
            assert await work.trunks.recover("a")
        async with store.transaction() as work:
            assert not await work.trunks.recover("a")

    async def test_a_breaker_of_a_trunk_that_is_not_known(self, store: Store) -> None:
        async with store.transaction() as work:
            with pytest.raises(StoreError, match="nowhere"):
                await work.trunks.breaker("nowhere")


class TestLeases:
    async def test_only_their_owner_prolongs_them(self, store: Store) -> None:
        await ensure(store, a=3)
        await fill(store, 2)
        await take(store, "theirs", owner="node-b")
        async with store.transaction() as work:
            held = await work.slots.renew("node-a", ["h0", "h1", "theirs", "none"], LEASE + 5)
        assert held == {"h0", "h1"}
        async with store.reading() as work:
            leases = {one.holder: one.lease_until for one in await work.slots.held()}
            expired = await work.slots.expired(LEASE)
        assert leases == {"h0": LEASE + 5, "h1": LEASE + 5, "theirs": LEASE}
        assert [one.holder for one in expired] == ["theirs"]

    async def test_who_takes_a_call_over_has_its_slot(self, store: Store) -> None:
        await ensure(store, a=3)
        await fill(store, 2)
        async with store.transaction() as work:
            assert await work.slots.hand(["h0", "none"], "node-b", LEASE + 9) == 1
            assert await work.slots.renew("node-a", ["h0", "h1"], LEASE + 10) == {"h1"}

    async def test_a_sweep_frees_what_nobody_tends(self, store: Store) -> None:
        await ensure(store, a=9)
        request, second, third = a_request(), a_request(to_number="+8613900000001"), a_request()
        over = an_attempt(request, phase=AttemptPhase.ENDED, ended_at=START)
        rings = an_attempt(second)
        async with store.transaction() as work:
            for record in (request, second, third):
                await work.requests.add(record)
            await work.attempts.add(over)
            await work.attempts.add(rings)
        await take(store, over.id)
        await take(store, rings.id, lease_until=START - 1)
        await take(store, "never-written")
        for holder, lease in (("in-late", START - 1), ("in-time", START + 1)):
            await take(store, holder, kind=SlotKind.INBOUND, lease_until=lease)
        async with store.transaction() as work:
            freed = await work.slots.sweep(START)
            assert {one.holder for one in freed} == {over.id, "in-late"}
            assert await work.slots.sweep(START) == []
        async with store.transaction() as work:
            assert {one.holder for one in await work.slots.sweep(START + 1)} == {"in-time"}
            await work.slots.acquire(an_ask("theirs", owner="node-b"))
            freed = await work.slots.sweep(START, own="node-a")
        assert {one.holder for one in freed} == {"never-written"}
        async with store.transaction() as work:
            assert {one.holder for one in await work.slots.sweep(LEASE)} == {"theirs"}
        async with store.reading() as work:
            assert [one.holder for one in await work.slots.held()] == [rings.id]


class TestAdmitting:
    async def test_a_call_that_stands_is_counted_whether_it_may_or_not(self, store: Store) -> None:
        await ensure(store, a=2)
        await fill(store, 1)

        async def admit(holder: str) -> bool:
            async with store.transaction() as work:
                return await work.slots.admit(
                    "a", holder, kind=SlotKind.FOREIGN, owner="node-a", lease_until=LEASE
                )

        assert await admit("x0")
        assert not await admit("x0")
        assert await use(store) == TrunkUse(in_use=2, lines=2, foreign=1)
        assert await admit("x1")
        assert await use(store) == TrunkUse(in_use=3, lines=2, foreign=2, extra=1)
        assert (await take(store, "late")).passed[0].in_use == 3
        await give(store, "h0")
        assert await use(store) == TrunkUse(in_use=2, lines=2, foreign=2)
        assert (await take(store, "late")).trunk is None
        await give(store, "x1")
        assert (await take(store, "late")).trunk == "a"
        await give(store, "x0", "late")
        assert await use(store) == TrunkUse(in_use=0, lines=2)

    async def test_many_are_counted_at_once_and_go_at_once(self, store: Store) -> None:
        """On a trunk with two lines, of which one is free, and on one without a limit."""
        await ensure(store, a=2, b=None)
        await fill(store, 1)
        calls = {"x0": "a", "y0": "b", "x1": "a", "x2": "a", "y1": "b"}
        for _ in range(2):
            # What is noted already stays as it is.
            async with store.transaction() as work:
                await work.slots.admit_all(calls, kind=SlotKind.INBOUND, owner="node-a", lease_until=LEASE)
        assert await use(store) == TrunkUse(in_use=4, lines=2, inbound=3, extra=2)
        assert await use(store, "b") == TrunkUse(in_use=2, inbound=2, extra=2)
        async with store.transaction() as work:
            assert await work.slots.release_all([*calls, "nobody"]) == 5
        assert await use(store) == TrunkUse(in_use=1, lines=2)
        assert await use(store, "b") == TrunkUse()


async def test_free_lines_are_of_those_who_stand_beside_them(store: Store) -> None:
    """A call that is found on a full trunk while another one ends: the free line is the found one's."""
    await ensure(store, a=1)
    await fill(store, 1)
    async with store.engine.writing() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO slot (id, trunk, holder, kind) VALUES ('x', 'a', 'x', 'foreign')"
        )
        await connection.exec_driver_sql("UPDATE slot SET holder = NULL WHERE holder = 'h0'")
    assert await use(store) == TrunkUse(in_use=1, lines=1, foreign=1, extra=1)
    for candidate in ("a", paced("a", 100)):
        assert (await take(store, "late", candidate)).passed[0].why is Passed.FULL
    async with store.transaction() as work:
        await work.slots.sweep(START)
    assert await use(store) == TrunkUse(in_use=1, lines=1, foreign=1)


async def test_several_slots_are_locked_in_one_order(store: Store, other: Store) -> None:
    """Who gives several back waits for the first of them, and holds none of the others meanwhile."""
    await ensure(store, a=2)
    await fill(store, 2)
    async with store.reading() as work:
        first, second = [one.holder or "" for one in sorted(await work.slots.held(), key=lambda one: one.id)]

    async def give_both() -> int:
        async with other.transaction() as work:
            return await work.slots.release_all([second, first])

    async with store.transaction() as work:
        assert await work.slots.renew("node-a", [first], LEASE + 1) == {first}
        giving = asyncio.create_task(give_both())
        await asyncio.sleep(0.2)
        assert await work.slots.renew("node-a", [second], LEASE + 1) == {second}
    assert await giving == 2


class Model:
    """What must hold, kept by plain counting."""

    def __init__(self) -> None:
        self.limit: int | None = 4
        self.held: set[str] = set()

    def room(self) -> bool:
        return self.limit is None or len(self.held) < self.limit


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_done_in_whatever_order(store: Store, seed: int) -> None:
    dice, model, count = random.Random(seed), Model(), 0
    await ensure(store, a=4)
    for _ in range(150):
        match dice.choices(("take", "give", "limit", "admit", "sweep"), (5, 5, 1, 1, 1))[0]:
            case "take":
                count += 1
                taken = (await take(store, f"h{count}")).trunk
                assert (taken == "a") == model.room()
                model.held |= {f"h{count}"} if taken else set()
            case "give" if model.held:
                holder = dice.choice(sorted(model.held))
                assert await give(store, holder, holder) == ["a", None]
                model.held.remove(holder)
            case "limit":
                model.limit = dice.choice((0, 1, 3, 4, 6, None))
                await ensure(store, a=model.limit)
            case "admit":
                count += 1
                async with store.transaction() as work:
                    await work.slots.admit(
                        "a", f"x{count}", kind=SlotKind.FOREIGN, owner="node-a", lease_until=LEASE
                    )
                model.held.add(f"x{count}")
            case _:
                async with store.transaction() as work:
                    assert await work.slots.sweep(START) == []
                    freed = {one.holder for one in await work.slots.sweep(LEASE)}
                assert freed == model.held
                model.held = set()
        seen = await use(store)
        above = len(model.held) if model.limit is None else max(0, len(model.held) - model.limit)
        assert (seen.in_use, seen.lines, seen.extra) == (len(model.held), model.limit or 0, above)


async def test_contenders_on_two_connections(store: Store, other: Store) -> None:
    await ensure(store, a=30)
    holders = [f"h{n}" for n in range(100)]
    stores = [store, other]

    async def contend(place: int, holder: str) -> str | None:
        return (await take(stores[place % 2], holder)).trunk

    won = await asyncio.gather(*(contend(place, holder) for place, holder in enumerate(holders)))
    assert won.count("a") == 30
    assert await use(store) == TrunkUse(in_use=30, lines=30)
    await asyncio.gather(*(give(stores[place % 2], holder) for place, holder in enumerate(holders)))
    assert await use(store) == TrunkUse(in_use=0, lines=30)


async def test_nobody_waits_in_a_circle(store: Store, other: Store) -> None:
    """Everything at once, each in its own order of trunks: no deadlock, and nothing is left at the end."""
    await ensure(store, a=6, b=6, c=None)
    stores = [store, other]
    fast: Sequence[SlotCandidate] = [paced("a", 2000, 50), paced("b", 2000, 50), paced("c", 2000, 50)]

    async def call(number: int) -> None:
        dice, mine = random.Random(number), stores[number % 2]
        for turn in range(6):
            holder = f"h{number}-{turn}"
            order = dice.sample(list(fast), 3) if dice.random() < 0.7 else dice.sample(["a", "b", "c"], 3)
            asks = [an_ask(holder, *order), an_ask(f"{holder}+", *reversed(order))]
            async with mine.transaction() as work:
                await work.slots.acquire_all(asks)
            async with mine.transaction() as work:
                await work.slots.renew("node-a", [holder, f"{holder}+"], LEASE + turn)
            async with mine.transaction() as work:
                await work.slots.release_all([f"{holder}+", holder, "none"])
                name = dice.choice("abc")
                state = await work.trunks.breaker(name)
                opened = BreakerState(BreakerPhase.OPEN, until=START)
                await work.trunks.set_breaker(name, opened if state == BreakerState() else BreakerState())

    async def operate() -> None:
        for turn in range(8):
            async with stores[turn % 2].transaction() as work:
                await work.slots.ensure("ab"[turn % 2], 3 + turn)
            async with stores[turn % 2].transaction() as work:
                await work.slots.limit("ab"[turn % 2], 2 + turn % 3)
            async with stores[turn % 2].transaction() as work:
                await work.slots.admit(
                    "a", f"x{turn}", kind=SlotKind.FOREIGN, owner="node-a", lease_until=START - 1
                )
            async with stores[turn % 2].transaction() as work:
                await work.slots.sweep(START)

    await asyncio.gather(*(call(number) for number in range(12)), operate(), operate())
    async with store.transaction() as work:
        await work.slots.sweep(START)
        assert await work.slots.held() == []
    async with store.transaction() as work:
        for name in "ab":
            await work.slots.limit(name, 5)
    assert [await use(store, name) for name in "abc"] == [TrunkUse(lines=5), TrunkUse(lines=5), TrunkUse()]
