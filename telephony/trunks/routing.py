"""Which trunks may take a call, in which order, and why: a pure function of the configuration.

Where a route is configured for the number, its trunks in its order; else every trunk that serves it, by
the longest prefix, then by priority, then by cost, then by weight. Trunks that are kept for overflow come
last. What it never does: dial, take a slot, or choose in silence: every choice carries its reason.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from telephony.errors import DestinationNotAllowed
from telephony.model.call import CallClass
from telephony.model.number import PhoneNumber
from telephony.model.trunk import LONGEST_BREAK_MS, BreakerPhase, Passed
from telephony.store.records import Acquired, PassedTrunk
from telephony.trunks.dialect import Trunk
from telephony.trunks.plan import Candidate, Plan, Route, Shut, TrunkState

__all__ = ["Candidate", "Order", "Plan", "Route", "RouteRule", "Router", "Shut", "TrunkState"]

_NO_STATE: Final = TrunkState()


class Order(StrEnum):
    """How a route orders its trunks."""

    LISTED = "listed"
    COST = "cost"
    """The cheapest first; equal ones as listed."""
    WEIGHT = "weight"
    """By chance, in proportion to their weights; those without any come last, as listed."""


@dataclass(frozen=True, slots=True)
class RouteRule:
    """For numbers of these `prefixes` (empty: all) and calls of these `classes` (empty: all) these trunks.

    `overflow` are tried, in their order, when none of `trunks` can take the call.
    """

    name: str
    trunks: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    classes: frozenset[CallClass] = frozenset()
    order: Order = Order.LISTED
    overflow: tuple[str, ...] = ()


class Router:
    """Plans calls over the configured trunks.

    `overflow` names trunks that are kept for calls which no other can take. `chance` gives numbers from 0 up
    to 1, for weights; `clock` milliseconds since the epoch.
    """

    def __init__(
        self,
        trunks: Sequence[Trunk],
        rules: Sequence[RouteRule] = (),
        overflow: Sequence[str] = (),
        *,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._trunks = {trunk.name: trunk for trunk in trunks}
        self._rules = tuple(rules)
        self._overflow = tuple(overflow)
        self._chance = chance
        self._clock = clock

    @property
    def trunks(self) -> tuple[Trunk, ...]:
        """Every trunk, in the configured order."""
        return tuple(self._trunks.values())

    def trunk(self, name: str) -> Trunk:
        """Return a trunk by name; raises `DestinationNotAllowed` where it is no longer configured."""
        if name not in self._trunks:
            raise DestinationNotAllowed(f"trunk {name} is not configured")
        return self._trunks[name]

    def choose(
        self, number: PhoneNumber, call_class: CallClass | None = None, *, but: Collection[str] = ()
    ) -> Route:
        """Return the trunk for a call by the configuration alone, none of those named in `but`.

        Raises `DestinationNotAllowed` where none serves it.
        """
        plan = self.plan(number, call_class, self._clock(), {}, but=but)
        if not plan.candidates:
            why = f": {plan.refusal(Acquired(None))}" if plan.shut else ""
            raise DestinationNotAllowed(f"no trunk serves {number.masked}{why}")
        return plan.route(Acquired(plan.candidates[0].trunk.name))

    def preview(self, plan: Plan, states: Mapping[str, TrunkState]) -> Route:
        """Return what the plan would come to if everything stayed as it is: nothing is taken.

        Raises `DestinationNotAllowed` with the reason where no trunk would take the call.
        """
        passed: list[PassedTrunk] = []
        for candidate in plan.candidates:
            state = states.get(candidate.trunk.name, _NO_STATE)
            if state.limit is None or state.in_use < state.limit:
                return plan.route(Acquired(candidate.trunk.name, tuple(passed)))
            full = (candidate.trunk.name, Passed.FULL, None, state.in_use, state.limit)
            passed.append(PassedTrunk(*full))
        raise DestinationNotAllowed(plan.refusal(Acquired(None, tuple(passed))))

    def plan(
        self,
        number: PhoneNumber,
        call_class: CallClass | None,
        now: int,
        states: Mapping[str, TrunkState],
        *,
        but: Collection[str] = (),
    ) -> Plan:
        """Return the trunks that may take this call at `now`, none of those named in `but`.

        A trunk without a state is taken to be free. Full trunks stay in the plan: a slot may be free when it
        is asked for.
        """
        candidates: list[Candidate] = []
        shut: list[Shut] = []
        for candidate in self._ordered(number, call_class):
            trunk = candidate.trunk
            if trunk.name in but or any(trunk is one.trunk for one in candidates):
                continue
            closed = _shut(trunk, states.get(trunk.name, _NO_STATE), now)
            if closed is None:
                candidates.append(candidate)
            elif all(trunk is not one.trunk for one in shut):
                shut.append(closed)
        return Plan(tuple(candidates), tuple(shut), tuple(but))

    def _ordered(self, number: PhoneNumber, call_class: CallClass | None) -> Iterable[Candidate]:
        """Every trunk that serves a number, in order; one may come twice."""
        rule = self._rule(number, call_class)
        if rule is None:
            kept = [trunk for name, trunk in self._trunks.items() if name not in self._overflow]
            yield from self._by_prefix(number, kept)
        else:
            listed = [self._trunks[name] for name in rule.trunks]
            for trunk in self._by_order(rule.order, listed):
                yield from _serving(number, [trunk], f"route {rule.name}, ")
            overflow = [self._trunks[name] for name in rule.overflow]
            yield from _serving(number, overflow, f"overflow of route {rule.name}, ")
        yield from _serving(number, [self._trunks[name] for name in self._overflow], "overflow, ")

    def _rule(self, number: PhoneNumber, call_class: CallClass | None) -> RouteRule | None:
        """The rule of the longest prefix; of two alike that of fewer classes, then the first."""
        found: tuple[tuple[int, bool], RouteRule] | None = None
        for rule in self._rules:
            length = _longest(rule.prefixes, number)
            if length is None or (rule.classes and call_class not in rule.classes):
                continue
            rank = (length, bool(rule.classes))
            if found is None or rank > found[0]:
                found = rank, rule
        return None if found is None else found[1]

    def _by_prefix(self, number: PhoneNumber, trunks: Sequence[Trunk]) -> Iterable[Candidate]:
        serving = [
            (length, trunk) for trunk in trunks if (length := _longest(trunk.prefixes, number)) is not None
        ]

        def rank(one: tuple[int, Trunk]) -> tuple[int, int, float]:
            length, trunk = one
            return -length, trunk.priority, _cost(trunk)

        for group in _grouped(serving, rank):
            yield from _serving(number, self._by_weight([trunk for _, trunk in group]), "")

    def _by_order(self, order: Order, trunks: Sequence[Trunk]) -> Sequence[Trunk]:
        match order:
            case Order.LISTED:
                return trunks
            case Order.COST:
                return sorted(trunks, key=_cost)
            case Order.WEIGHT:
                return self._by_weight(trunks)

    def _by_weight(self, trunks: Sequence[Trunk]) -> Sequence[Trunk]:
        """Draw one after the other, each by its weight; then those without any, as they stand."""
        weighted = [trunk for trunk in trunks if trunk.weight]
        drawn: list[Trunk] = []
        while weighted:
            mark = self._chance() * sum(trunk.weight for trunk in weighted)
            place = 0
            while place < len(weighted) - 1 and mark >= weighted[place].weight:
                mark -= weighted[place].weight
                place += 1
            drawn.append(weighted.pop(place))
        return [*drawn, *(trunk for trunk in trunks if not trunk.weight)]


def _longest(prefixes: Sequence[str], number: PhoneNumber) -> int | None:
    """The length of the longest prefix that the number has, 0 where there are none; None: not served."""
    if not prefixes:
        return 0
    return max((len(prefix) for prefix in prefixes if number.e164.startswith(prefix)), default=None)


def _cost(trunk: Trunk) -> float:
    return float("inf") if trunk.cost is None else trunk.cost


def _grouped(
    serving: Sequence[tuple[int, Trunk]], rank: Callable[[tuple[int, Trunk]], tuple[int, int, float]]
) -> Iterable[list[tuple[int, Trunk]]]:
    """Those of one rank together, best rank first, each group in its given order."""
    groups: dict[tuple[int, int, float], list[tuple[int, Trunk]]] = {}
    for one in serving:
        groups.setdefault(rank(one), []).append(one)
    return (groups[key] for key in sorted(groups))


def _serving(number: PhoneNumber, trunks: Iterable[Trunk], before: str) -> Iterable[Candidate]:
    """Those that serve a number, with what speaks for each."""
    for trunk in trunks:
        length = _longest(trunk.prefixes, number)
        if length is None:
            continue
        words = [f"prefix {number.e164[:length]}" if length else "serves every prefix"]
        if trunk.priority != 1:
            words.append(f"priority {trunk.priority}")
        if trunk.cost is not None:
            words.append(f"cost {trunk.cost:g}")
        if trunk.weight:
            words.append(f"weight {trunk.weight}")
        yield Candidate(trunk, before + ", ".join(words))


def _shut(trunk: Trunk, state: TrunkState, now: int) -> Shut | None:
    if state.drained:
        return Shut(trunk, "drained")
    if not trunk.hours.open_at(now):
        return Shut(trunk, "outside its hours", trunk.hours.opens_at(now))
    breaker, until = state.breaker, state.breaker.until or 0
    if breaker.phase is not BreakerPhase.CLOSED and now < until <= now + LONGEST_BREAK_MS:
        return Shut(trunk, f"out of order ({breaker.reason})", until)
    return None
