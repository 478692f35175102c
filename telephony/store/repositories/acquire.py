"""Taking slots: for each who asks the first of some trunks that has one, keeps its pace and works.

What it never does: wait for anybody but at the gate of a trunk with a pace or a probe, or at two gates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    Update,
    bindparam,
    case,
    exists,
    func,
    select,
    text,
    update,
)

from telephony.errors import StoreError
from telephony.model.ids import new_id
from telephony.model.trunk import LONGEST_BREAK_MS, LONGEST_PROBE_MS, BreakerPhase, Passed
from telephony.store.columns import Millis
from telephony.store.records import Acquired, PassedTrunk, SlotAsk, SlotCandidate
from telephony.store.repositories.pace import Pace
from telephony.store.session import Session
from telephony.store.tables import slot, trunk, trunk_gate

_c: Final = slot.c
_gate: Final = trunk_gate.c
_other: Final = slot.alias("other")

HAS_EXTRA: Final = exists().where(_other.c.trunk == _c.trunk, _other.c.number.is_(None)).correlate(slot)
"""Whether a slot's trunk has calls beside its lines: then a free line is theirs."""

_lines: Final = func.coalesce(trunk.c.channels, trunk.c.configured)
_free: Final = exists().where(_c.trunk == trunk.c.name, _c.holder.is_(None), ~HAS_EXTRA).correlate(trunk)
_STATES: Final = (
    select(
        trunk.c.name,
        trunk.c.drained_at,
        _lines.label("lines"),
        case((_lines.is_(None), True), else_=_free).label("has_room"),
        _gate.phase,
        _gate.until,
        _gate.reason,
        _gate.tat,
    )
    .join(trunk_gate, _gate.trunk == trunk.c.name)
    .where(trunk.c.name.in_(bindparam("names", expanding=True)))
)
_PLAIN: Final = (
    select(_lines.label("lines"))
    .join(trunk_gate, _gate.trunk == trunk.c.name)
    .where(trunk.c.name == bindparam("of"), trunk.c.drained_at.is_(None), _gate.phase == BreakerPhase.CLOSED)
)
_GATE: Final = (
    select(_gate.phase, _gate.until, _gate.reason, _gate.tat)
    .where(_gate.trunk == bindparam("of"))
    .with_for_update()
)
_FREE_LINES: Final = (
    select(_c.id)
    .where(_c.trunk == bindparam("of"), _c.holder.is_(None), ~HAS_EXTRA)
    .order_by(_c.number)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_FREE_LINE: Final = _FREE_LINES.limit(1).correlate(None).scalar_subquery()
_TAKEN: Final = ("holder", "kind", "owner", "lease_until")
_GIVEN_NOW: Final[ColumnElement[int]] = bindparam("now", type_=Millis)
_IN_USE_OF: Final = (
    select(_c.trunk, func.count(_c.holder).label("in_use"))
    .where(_c.trunk.in_(bindparam("names", expanding=True)))
    .group_by(_c.trunk)
)


@dataclass(slots=True)
class _State:
    """A trunk as this transaction knows it; what it changes of the gate is written at its end."""

    name: str
    drained_at: int | None
    lines: int | None
    has_room: bool
    phase: BreakerPhase
    until: int | None
    reason: str | None
    tat: float | None
    now: int


async def acquire_plain(session: Session, ask: SlotAsk) -> Acquired | None:
    """Take a slot of the first candidate where there is nothing to say against it, in two statements.

    None: it is drained, full, paced or broken, and the whole of `acquire` has to decide.
    """
    first = ask.candidates[0] if ask.candidates else None
    if first is None or first.calls_per_second is not None:
        return None
    row = (await session.run(_PLAIN, {"of": first.trunk})).first()
    if row is None:
        return None
    taking: dict[str, Any] = {f"new_{name}": getattr(ask, name) for name in _TAKEN}
    now = _by_clock(session, taking)
    if row.lines is None:
        await session.run(_stand_at(now), {"new_id": new_id("slot"), "new_trunk": first.trunk, **taking})
        return Acquired(first.trunk)
    took = await session.run(_take_at(now), {"of": first.trunk, **taking})
    return Acquired(first.trunk) if took.rowcount == 1 else None


async def acquire(session: Session, asks: Sequence[SlotAsk]) -> list[Acquired]:
    """Serve those who ask, in their order; see `Slots.acquire_all`."""
    demand = Counter(candidate.trunk for ask in asks for candidate in ask.candidates)
    states = await _states(session, sorted(demand))
    if missing := demand.keys() - states.keys():
        raise StoreError(f"trunk {min(missing)} is not known to the store")
    turn = _Turn(session, states, demand, alone=len(asks) == 1)
    served: list[Acquired] = []
    for ask in asks:
        answer = await turn.serve(ask)
        if answer is None:
            break
        served.append(answer)
    await turn.write()
    return await _counted(session, served, states)


class _Turn:
    """One transaction's work for those who ask: each trunk's free lines are fetched once for all of them.

    Whoever wants the same as somebody before, who was refused, is refused alike. `alone`: there is one.
    """

    def __init__(
        self, session: Session, states: Mapping[str, _State], demand: Mapping[str, int], *, alone: bool
    ) -> None:
        self._session = session
        self._states = states
        self._demand = demand
        self._alone = alone
        self._refused: dict[tuple[SlotCandidate, ...], Acquired] = {}
        self._lines: dict[str, list[str]] = {}
        self._gate: _State | None = None
        self._probe: str | None = None
        self._takes: list[dict[str, Any]] = []
        self._stands: list[dict[str, Any]] = []

    async def serve(self, ask: SlotAsk) -> Acquired | None:
        """Take a slot for one, or say why not; None for whoever has to ask in another transaction.

        Once one has passed a trunk's gate, we hold it: to wait at another one could make a circle of waiters.
        """
        if ask.candidates in self._refused:
            return self._refused[ask.candidates]
        passed: list[PassedTrunk] = []
        for candidate in ask.candidates:
            state = self._states[candidate.trunk]
            refused, probe = _refusal(candidate, state), state.phase is not BreakerPhase.CLOSED
            if refused is None and (probe or candidate.calls_per_second is not None):
                if self._gate not in (None, state):
                    return None
                refused = await self._through_gate(candidate, state, ask)
            elif refused is None and not await self._take(state, ask):
                refused = PassedTrunk(state.name, Passed.FULL)
            if refused is None:
                return Acquired(candidate.trunk, tuple(passed), probe)
            passed.append(refused)
        return self._refused.setdefault(ask.candidates, Acquired(None, tuple(passed)))

    async def write(self) -> None:
        """Write who has what now."""
        moment: dict[str, Any] = {}
        now = _by_clock(self._session, moment)
        if self._takes:
            await self._session.run(_take_line_at(now), [{**row, **moment} for row in self._takes])
        if self._stands:
            await self._session.run(_stand_at(now), [{**row, **moment} for row in self._stands])
        if self._gate is not None:
            changes: dict[str, Any] = {"tat": self._gate.tat}
            if self._probe is not None:
                moved = {"phase": self._gate.phase, "until": self._gate.until, "moved_at": self._gate.now}
                changes |= {**moved, "probe": self._probe}
            passed = update(trunk_gate).where(_gate.trunk == self._gate.name)
            await self._session.run(passed.values(changes))

    async def _through_gate(
        self, candidate: SlotCandidate, state: _State, ask: SlotAsk
    ) -> PassedTrunk | None:
        """Pass the gate and take a slot; where that can't be, no lock of this trunk is held."""
        if self._gate is not None:
            if not await self._take(state, ask):
                return PassedTrunk(state.name, Passed.FULL)
            self._pass(candidate, state, ask)
            return None
        async with _undoable(self._session) as undo:
            row = (await self._session.run(_GATE, {"of": state.name})).one()
            state.phase, state.until, state.reason, state.tat = row.phase, row.until, row.reason, row.tat
            refused = _refusal(candidate, state)
            if refused is None and not await self._take(state, ask):
                refused = PassedTrunk(state.name, Passed.FULL)
            if refused is None:
                self._gate = state
                self._pass(candidate, state, ask)
            else:
                self._lines.pop(state.name, None)
                await undo()
        return refused

    def _pass(self, candidate: SlotCandidate, state: _State, ask: SlotAsk) -> None:
        if state.phase is not BreakerPhase.CLOSED:
            self._probe = ask.holder
            state.phase, state.until = BreakerPhase.HALF_OPEN, state.now + LONGEST_PROBE_MS
        pace = Pace.of(candidate)
        if pace is not None:
            state.tat = pace.after(state.tat, state.now)

    async def _take(self, state: _State, ask: SlotAsk) -> bool:
        """Take one slot of a trunk; False where none is free."""
        taking = {f"new_{name}": getattr(ask, name) for name in _TAKEN}
        if state.lines is None:
            self._stands.append({"new_id": new_id("slot"), "new_trunk": state.name, **taking})
            return True
        if self._alone:
            now = _by_clock(self._session, taking)
            return (await self._session.run(_take_at(now), {"of": state.name, **taking})).rowcount == 1
        if state.name not in self._lines:
            parameters = {"of": state.name, "most": self._demand[state.name]}
            self._lines[state.name] = list((await self._session.run(_FREE_LINES, parameters)).scalars())
        if not self._lines[state.name]:
            return False
        self._takes.append({"row_id": self._lines[state.name].pop(0), **taking})
        return True


async def _states(session: Session, names: Sequence[str]) -> dict[str, _State]:
    parameters: dict[str, Any] = {"names": list(names)}
    rows = await session.run(_states_at(_by_clock(session, parameters)), parameters)
    return {row.name: _State(**row._mapping) for row in rows}


def _refusal(candidate: SlotCandidate, state: _State) -> PassedTrunk | None:
    """Why a trunk can't be taken as it was seen; None where it is worth a try."""
    name, now = candidate.trunk, state.now
    if state.drained_at is not None:
        return PassedTrunk(name, Passed.DRAINED)
    if state.phase is not BreakerPhase.CLOSED and now < (state.until or 0) <= now + LONGEST_BREAK_MS:
        return PassedTrunk(name, Passed.BREAKER, state.until, reason=state.reason)
    if not state.has_room:
        return PassedTrunk(name, Passed.FULL)
    pace = Pace.of(candidate)
    free_at = None if pace is None else pace.free_at(state.tat, now)
    return None if free_at is None else PassedTrunk(name, Passed.RATE, free_at)


@asynccontextmanager
async def _undoable(session: Session) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A part of this transaction that can be undone, its locks with it."""
    await session.run(text("SAVEPOINT gate"))

    async def undo() -> None:
        await session.run(text("ROLLBACK TO SAVEPOINT gate"))

    yield undo
    await session.run(text("RELEASE SAVEPOINT gate"))


async def _counted(
    session: Session, served: Sequence[Acquired], states: Mapping[str, _State]
) -> list[Acquired]:
    """Give those that were full their numbers."""
    full = {one.trunk for each in served for one in each.passed if one.why is Passed.FULL}
    if not full:
        return list(served)
    rows = await session.run(_IN_USE_OF, {"names": sorted(full)})
    counted = {row.trunk: row.in_use for row in rows}

    def told(one: PassedTrunk) -> PassedTrunk:
        if one.why is not Passed.FULL:
            return one
        lines = states[one.trunk].lines or 0
        # Those who are taking the last ones have not committed, and do not show in the count.
        return replace(one, in_use=max(lines, counted.get(one.trunk, 0)), limit=lines)

    return [replace(each, passed=tuple(map(told, each.passed))) for each in served]


def _by_clock(session: Session, parameters: dict[str, Any]) -> ColumnElement[int]:
    """This moment in a statement that is made once: the database's own, or a parameter that is added."""
    now = session.now
    if isinstance(now, int):
        parameters["now"] = now
        return _GIVEN_NOW
    return now


@cache
def _states_at(now: ColumnElement[int]) -> Select[Any]:
    return _STATES.add_columns(now.label("now"))


@cache
def _stand_at(now: ColumnElement[int]) -> Insert:
    stands = {name: bindparam(f"new_{name}", type_=_c[name].type) for name in ("id", "trunk", *_TAKEN)}
    return slot.insert().values(stands).values(acquired_at=now)


@cache
def _take_at(now: ColumnElement[int]) -> Update:
    return _taken(now).where(_c.id == _FREE_LINE)


@cache
def _take_line_at(now: ColumnElement[int]) -> Update:
    return _taken(now).where(_c.id == bindparam("row_id"))


def _taken(now: ColumnElement[int]) -> Update:
    taken = {name: bindparam(f"new_{name}", type_=_c[name].type) for name in _TAKEN}
    return update(slot).values(taken).values(acquired_at=now)
