"""Which trunks a call may take, in which order, and how that is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from telephony.errors import DestinationNotAllowed
from telephony.model.call import CallClass
from telephony.model.number import PhoneNumber
from telephony.model.trunk import BreakerPhase, BreakerState, Passed
from telephony.store.records import Acquired, PassedTrunk, SlotCandidate, TrunkRecord, TrunkUse
from telephony.trunks.dialect import Trunk
from telephony.trunks.hours import WeekHours, parse_window
from telephony.trunks.routing import Order, Plan, Router, RouteRule, TrunkState

CHINA, AMERICA = PhoneNumber("+8613800000000", "CN"), PhoneNumber("+12125550123", "US")
NOON = 1_796_097_600_000  # 2026-12-01 04:00 UTC, a Tuesday; noon in Shanghai


def trunk(name: str, *prefixes: str, **fields: Any) -> Trunk:
    return Trunk(name, f"pjsip-{name}", prefixes, **fields)


def router(*trunks: Trunk, **fields: Any) -> Router:
    return Router(trunks, **({"clock": lambda: NOON} | fields))


def plan(
    made: Router, number: PhoneNumber = CHINA, call_class: CallClass | None = CallClass.OTP, **fields: Any
) -> Plan:
    return made.plan(number, call_class, NOON, fields.pop("states", {}), **fields)


def names(planned: Plan) -> list[str]:
    return [one.trunk.name for one in planned.candidates]


# ---- the order


def test_longest_prefix_then_priority_then_cost_then_the_file() -> None:
    made = router(
        trunk("any"),
        trunk("dear", "+86", cost=0.09),
        trunk("unpriced", "+86"),
        trunk("cheap", "+86", cost=0.04),
        trunk("cheap-too", "+86", cost=0.04),
        trunk("spare", "+86", cost=0.01, priority=2),
        trunk("mobile", "+1", "+86138", "+8", cost=0.2, priority=3),
        trunk("abroad", "+1"),
    )
    planned = plan(made)
    assert names(planned) == ["mobile", "cheap", "cheap-too", "dear", "unpriced", "spare", "any"]
    assert [one.why for one in planned.candidates] == [
        "prefix +86138, priority 3, cost 0.2",
        "prefix +86, cost 0.04",
        "prefix +86, cost 0.04",
        "prefix +86, cost 0.09",
        "prefix +86",
        "prefix +86, priority 2, cost 0.01",
        "serves every prefix",
    ]
    assert planned.serves
    assert planned.slots()[1] == SlotCandidate(trunk="cheap")


def test_nobody_serves_it() -> None:
    planned = plan(router(trunk("a", "+1")))
    assert (names(planned), planned.serves, planned.retry_at) == ([], False, None)
    assert planned.refusal(Acquired(None)) == "no trunk serves it"
    with pytest.raises(DestinationNotAllowed):
        planned.route(Acquired(None))


def test_weights_share_calls_by_chance() -> None:
    made = router(
        trunk("one", weight=1), trunk("three", weight=3), trunk("none"), trunk("dear", cost=9, weight=99)
    )
    first = Counter(names(plan(made))[0] for _ in range(4_000))
    # Priced before unpriced: the dear one is first by its rank, not by its weight.
    assert set(first) == {"dear"}
    made = router(trunk("one", weight=1), trunk("three", weight=3), trunk("none"))
    orders = Counter(tuple(names(plan(made))) for _ in range(4_000))
    assert set(orders) == {("one", "three", "none"), ("three", "one", "none")}
    assert 2_800 < orders["three", "one", "none"] < 3_200


@pytest.mark.parametrize(
    ("chance", "order"),
    [
        ((0.0, 0.0), ["one", "two", "three"]),
        ((0.17, 0.0), ["two", "one", "three"]),
        ((0.16, 0.5), ["one", "three", "two"]),
        ((0.9999, 0.9999), ["three", "two", "one"]),
    ],
)
def test_weights_by_the_given_chance(chance: Sequence[float], order: list[str]) -> None:
    throws = iter([*chance, 0.0])
    made = router(
        *(trunk(name, weight=weight) for name, weight in (("one", 1), ("two", 2), ("three", 3))),
        chance=lambda: next(throws),
    )
    assert names(plan(made)) == order
    assert plan(router(trunk("a", weight=2))).candidates[0].why == "serves every prefix, weight 2"


# ---- routes and overflow


def test_a_route_is_the_order_of_its_list() -> None:
    made = router(
        trunk("a", "+86", cost=1),
        trunk("b", "+86", cost=2),
        trunk("c", "+86", cost=3),
        trunk("partner"),
        rules=[
            RouteRule("china", ("c", "a"), ("+86",), overflow=("partner", "b")),
            RouteRule("codes", ("b",), ("+86",), frozenset({CallClass.OTP})),
            RouteRule("mobile", ("a",), ("+86138",), frozenset({CallClass.SURVEY})),
        ],
    )
    assert names(plan(made, call_class=CallClass.TRANSACTION)) == ["c", "a", "partner", "b"]
    assert names(plan(made, call_class=CallClass.OTP)) == ["b"]
    assert names(plan(made, call_class=CallClass.SURVEY)) == ["a"]
    assert names(plan(made, call_class=None)) == ["c", "a", "partner", "b"]
    assert names(plan(made, AMERICA)) == ["partner"]
    told = [one.why for one in plan(made, call_class=CallClass.TRANSACTION).candidates]
    assert told == [
        "route china, prefix +86, cost 3",
        "route china, prefix +86, cost 1",
        "overflow of route china, serves every prefix",
        "overflow of route china, prefix +86, cost 2",
    ]


def test_a_route_by_cost_and_by_weight() -> None:
    trunks = [trunk("a", cost=3), trunk("b", cost=1, weight=1), trunk("c", cost=2, weight=5)]
    cheap = router(*trunks, rules=[RouteRule("r", ("a", "b", "c"), order=Order.COST)])
    assert names(plan(cheap)) == ["b", "c", "a"]
    shared = router(*trunks, rules=[RouteRule("r", ("a", "b", "c"), order=Order.WEIGHT)], chance=lambda: 0.9)
    assert names(plan(shared)) == ["c", "b", "a"]


def test_a_route_does_not_make_a_trunk_serve_what_it_does_not() -> None:
    made = router(trunk("a", "+1"), trunk("b"), rules=[RouteRule("r", ("a", "b"))])
    assert names(plan(made)) == ["b"]


def test_overflow_trunks_come_last_and_only_there() -> None:
    made = router(trunk("kept", "+8613800000000"), trunk("a"), overflow=["kept"])
    planned = plan(made)
    assert names(planned) == ["a", "kept"]
    assert planned.candidates[1].why == "overflow, prefix +8613800000000"
    ruled = router(trunk("a"), trunk("b"), rules=[RouteRule("r", ("a", "b"))], overflow=["b"])
    assert names(plan(ruled)) == ["a", "b"]


# ---- what is known now


def test_what_takes_no_call_now_is_shut_and_says_so() -> None:
    evening = WeekHours((parse_window("18:00-20:00"),), ZoneInfo("Asia/Shanghai"))
    broken = BreakerState(BreakerPhase.OPEN, until=NOON + 5_000, reason="503: 5 failures within 30 s")
    due = BreakerState(BreakerPhase.OPEN, until=NOON, reason="503")
    set_back = BreakerState(BreakerPhase.OPEN, until=NOON + 3_600_001, reason="503")
    made = router(*map(trunk, ("a", "b")), trunk("c", hours=evening), *map(trunk, ("d", "e", "f")))
    states = {
        "a": TrunkState(drained=True),
        "b": TrunkState(breaker=broken),
        "d": TrunkState(breaker=due),
        "e": TrunkState(in_use=3, limit=3),
        "f": TrunkState(breaker=set_back),
    }
    planned = plan(made, states=states)
    assert names(planned) == ["d", "e", "f"]
    assert [(one.trunk.name, one.words, one.until) for one in planned.shut] == [
        ("a", "drained", None),
        ("b", "out of order (503: 5 failures within 30 s)", NOON + 5_000),
        ("c", "outside its hours", NOON + 6 * 3_600_000),
    ]
    assert planned.retry_at == NOON + 5_000
    assert planned.route(Acquired("e")).reason == (
        "trunk a drained, trunk b out of order (503: 5 failures within 30 s), trunk c outside its hours,"
        " e chosen: serves every prefix"
    )
    assert plan(router(trunk("a")), states=states).serves


def test_a_state_as_the_store_has_it() -> None:
    record = TrunkRecord(name="a", configured=9, channels=4, drained_at=1, updated_at=1)
    assert TrunkState.of(record, TrunkUse(in_use=3, lines=4)) == TrunkState(3, 4, True, BreakerState())
    assert TrunkState.of(TrunkRecord(name="a", updated_at=1), None) == TrunkState()


# ---- words


def test_the_decision_is_told() -> None:
    made = router(trunk("A", "+86", cost=0.01, calls_per_second=2.5), trunk("B", "+86", cost=0.04))
    planned = plan(made)
    full = PassedTrunk("A", Passed.FULL, in_use=30, limit=30)
    assert planned.route(Acquired("A")).reason == "A chosen: prefix +86, cost 0.01"
    assert planned.route(Acquired("A", probe=True)).reason == "A chosen: prefix +86, cost 0.01, to probe it"
    assert planned.route(Acquired("B", (full,))).reason == (
        "trunk A full 30/30, B chosen: prefix +86, cost 0.04"
    )
    for passed, words in (
        (PassedTrunk("A", Passed.RATE, until=5), "trunk A at its pace 2.5/s"),
        (PassedTrunk("A", Passed.DRAINED), "trunk A drained"),
        (PassedTrunk("A", Passed.BREAKER, 7, reason="503"), "trunk A out of order (503)"),
    ):
        assert planned.refusal(Acquired(None, (passed,))) == words
        with pytest.raises(DestinationNotAllowed, match="trunk A"):
            planned.route(Acquired(None, (passed,)))


def test_what_was_tried_in_this_round_is_told_and_not_tried_again() -> None:
    made = router(trunk("a"), trunk("b"), trunk("c"), rules=[RouteRule("r", ("b", "a"), overflow=("c",))])
    planned = plan(made, but=["b", "c"])
    assert names(planned) == ["a"]
    assert planned.route(Acquired("a")).reason == "a chosen: route r, serves every prefix; after b, c"
    assert not plan(made, but=["a", "b", "c"]).serves


# ---- by the configuration alone, and as things stand


def test_choosing_by_the_configuration_alone() -> None:
    made = router(trunk("a", "+86"), trunk("b", "+86138"), trunk("c"))
    assert made.choose(CHINA).reason == "b chosen: prefix +86138"
    assert made.choose(CHINA, but=["b"]).reason == "a chosen: prefix +86; after b"
    assert made.choose(AMERICA).trunk.name == "c"
    with pytest.raises(DestinationNotAllowed, match=r"no trunk serves \+8613…00$"):
        made.choose(CHINA, but=["a", "b", "c"])
    assert made.trunk("a").endpoint == "pjsip-a"
    assert [one.name for one in made.trunks] == ["a", "b", "c"]
    with pytest.raises(DestinationNotAllowed, match="nowhere"):
        made.trunk("nowhere")


def test_choosing_outside_the_hours() -> None:
    night = WeekHours((parse_window("22:00-06:00"),), ZoneInfo("Asia/Shanghai"))
    with pytest.raises(DestinationNotAllowed, match="trunk a outside its hours"):
        router(trunk("a", hours=night)).choose(CHINA)


def test_a_preview_takes_nothing() -> None:
    made = router(trunk("a"), trunk("b"))
    states = {"a": TrunkState(in_use=31, limit=30), "b": TrunkState(in_use=2, limit=3)}
    reason = made.preview(plan(made, states=states), states).reason
    assert reason == "trunk a full 31/30, b chosen: serves every prefix"
    states["b"] = TrunkState(in_use=3, limit=3)
    with pytest.raises(DestinationNotAllowed, match="trunk a full 31/30, trunk b full 3/3"):
        made.preview(plan(made, states=states), states)
    assert made.preview(plan(made), {}).trunk.name == "a"


# ---- whatever is configured

PREFIXES = some.sampled_from(["+8", "+86", "+861", "+86138", "+8613800000000", "+1", "+12125"])
HOURS = some.sampled_from([(), (parse_window("09:00-18:00"),), (parse_window("mon 00:00-24:00"),)])


@some.composite
def trunk_lists(draw: some.DrawFn) -> list[Trunk]:
    count = draw(some.integers(1, 6))
    return [
        trunk(
            f"t{place}",
            *draw(some.lists(PREFIXES, max_size=3)),
            priority=draw(some.integers(1, 2)),
            cost=draw(some.none() | some.integers(0, 2)),
            weight=draw(some.integers(0, 2)),
            hours=WeekHours(draw(HOURS)),
        )
        for place in range(count)
    ]


@some.composite
def routers(draw: some.DrawFn) -> tuple[list[Trunk], Router, list[str]]:
    trunks = draw(trunk_lists())
    known = some.sampled_from([one.name for one in trunks])
    lists = some.lists(known, max_size=3)
    rules = [
        RouteRule(
            f"r{place}",
            tuple(draw(some.lists(known, min_size=1, max_size=4))),
            tuple(draw(some.lists(PREFIXES, max_size=2))),
            frozenset(draw(some.lists(some.sampled_from(CallClass), max_size=2))),
            draw(some.sampled_from(Order)),
            tuple(draw(lists)),
        )
        for place in range(draw(some.integers(0, 2)))
    ]
    overflow = draw(lists)
    throws = draw(some.lists(some.floats(0, 1, exclude_max=True), min_size=1, max_size=4))
    count = iter(range(1_000_000))
    return trunks, Router(trunks, rules, overflow, chance=lambda: throws[next(count) % len(throws)]), overflow


STATES = some.dictionaries(
    some.sampled_from([f"t{place}" for place in range(6)]),
    some.builds(
        TrunkState,
        drained=some.booleans(),
        breaker=some.sampled_from([BreakerState(), BreakerState(BreakerPhase.OPEN, until=NOON + 9)]),
    ),
)


def length(one: Trunk, number: PhoneNumber) -> int | None:
    if not one.prefixes:
        return 0
    return max((len(prefix) for prefix in one.prefixes if number.e164.startswith(prefix)), default=None)


@given(
    routers(),
    some.sampled_from([CHINA, AMERICA]),
    some.none() | some.sampled_from(CallClass),
    STATES,
    some.lists(some.sampled_from(["t0", "t1"])),
)
def test_every_plan_is_sound(
    made: tuple[list[Trunk], Router, list[str]],
    number: PhoneNumber,
    call_class: CallClass | None,
    states: dict[str, TrunkState],
    but: list[str],
) -> None:
    trunks, planner, overflow = made
    planned = planner.plan(number, call_class, NOON, states, but=but)
    chosen, shut = names(planned), [one.trunk.name for one in planned.shut]
    assert len({*chosen, *shut}) == len(chosen) + len(shut)
    assert not {*chosen, *shut} & set(but)
    for one in planned.candidates:
        state = states.get(one.trunk.name, TrunkState())
        assert length(one.trunk, number) is not None
        assert one.trunk.hours.open_at(NOON)
        assert not state.drained
        assert state.breaker == BreakerState()
        assert f"{one.trunk.name} chosen: {one.why}" in planned.route(Acquired(one.trunk.name)).reason
    assert all(one.until is None or one.until > NOON for one in planned.shut)
    if not planner._rules:
        serving = [one for one in trunks if length(one, number) is not None and one.name not in but]
        assert {*chosen, *shut} == {one.name for one in serving}
        own = [one.trunk for one in planned.candidates if one.trunk.name not in overflow]
        ranks = [
            (-(length(one, number) or 0), one.priority, float("inf") if one.cost is None else one.cost)
            for one in own
        ]
        assert ranks == sorted(ranks)
        assert chosen[len(own) :] == [name for name in dict.fromkeys(overflow) if name in chosen]


@given(trunk_lists(), some.sampled_from([CHINA, AMERICA]))
def test_choose_is_the_first_of_the_plan(trunks: list[Trunk], number: PhoneNumber) -> None:
    made = Router(trunks, chance=lambda: 0.0, clock=lambda: NOON)
    planned = made.plan(number, None, NOON, {})
    if planned.candidates:
        assert made.choose(number).trunk is planned.candidates[0].trunk
    else:
        with pytest.raises(DestinationNotAllowed):
            made.choose(number)
