"""A call's line: taken with its attempt, waited for where none is free, given back with its outcome.

Every choice and every wait has its reason, on the attempt or as an event. What it never does: dial, end a
call, or count what stands in the PBX (`trunks/watch.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from telephony.errors import DestinationNotAllowed, StoreError
from telephony.model.call import CallClass
from telephony.model.hangup import Cause, HangupCause
from telephony.model.ids import new_id
from telephony.model.number import PhoneNumber, parse_number
from telephony.model.trunk import BreakerState, Passed
from telephony.store import Store, UnitOfWork
from telephony.store.records import Acquired, AttemptRecord, EventRecord, RequestRecord, SlotAsk
from telephony.trunks import breaker
from telephony.trunks.breaker import BreakerRules
from telephony.trunks.desk import SlotDesk
from telephony.trunks.plan import Plan, Route, TrunkState
from telephony.trunks.routing import Router

log = structlog.get_logger(__name__)

OTHERS_WAIT: Final = "others wait for a line"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is held for the attempt of this id. `told` says whether there is more to it than a plain
    choice: then it is an event too. `waited` is in milliseconds.
    """

    attempt_id: str
    route: Route
    probe: bool
    told: bool
    waited: int = 0


@dataclass(frozen=True, slots=True)
class NoLine:
    """No line is free now, and why; one may be waited for."""

    reason: str


class Lines:
    """The lines of one controller's calls. `lease` is in seconds, `now` gives milliseconds since the epoch by
    the clock that leases go by, `clock` by that which deadlines and events go by. `full` is called whenever a
    trunk was found full.
    """

    def __init__(
        self,
        store: Store,
        router: Router,
        owner: str,
        lease: float,
        *,
        rules: BreakerRules,
        now: Callable[[], int],
        clock: Callable[[], int],
        full: Callable[[], None],
    ) -> None:
        self._store = store
        self._router = router
        self._owner = owner
        self._lease_ms = round(lease * 1000)
        self._rules = rules
        self._now = now
        self._clock = clock
        self._full = full
        self._known = frozenset(trunk.name for trunk in router.trunks)
        self._desk = SlotDesk(store, owner, lease, now)
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nobody is given a line any more who would have to wait for it."""
        return self._closed

    async def open(self) -> None:
        """Let every trunk have the lines that are configured, free what an earlier life of ours held without
        an attempt, and begin to serve those who wait. To be called once our name is ours.
        """
        async with self._store.transaction() as work:
            for trunk in self._router.trunks:
                await work.slots.ensure(trunk.name, trunk.channels)
            freed = await work.slots.sweep(self._now(), own=self._owner)
        if freed:
            log.info("trunks.swept", count=len(freed))
        self._desk.start()

    async def close(self) -> None:
        """Let nobody wait any longer: who does, is told that there is none."""
        self._closed = True
        await self._desk.stop()

    def plan(self, request: RequestRecord, but: tuple[str, ...]) -> Plan:
        """Where a request may go by the configuration, none of those named in `but`."""
        number = parse_number(request.to_number)
        return self._router.plan(number, request.call_class, self._clock(), {}, but=but)

    async def may_follow(self, request: RequestRecord, but: tuple[str, ...]) -> bool:
        """Whether another trunk may take a request at once, or as soon as it has a free line."""
        number = parse_number(request.to_number)
        states: dict[str, TrunkState] = {}
        # An outcome is at hand, and waits for no store: then the configuration alone decides.
        with suppress(StoreError):
            async with self._store.reading() as work:
                records = await work.trunks.all()
            states = {name: TrunkState.of(record, None) for name, record in records.items()}
        plan = self._router.plan(number, request.call_class, self._now(), states, but=but)
        return bool(plan.candidates)

    async def foresee(self, number: PhoneNumber, call_class: CallClass) -> Route:
        """Where a call asked for now would go, and why; nothing is taken.

        Raises `DestinationNotAllowed` for a number that no trunk serves, and `StoreError`.
        """
        async with self._store.reading() as work:
            records, use = await work.trunks.all(), await work.slots.in_use()
        states = {name: TrunkState.of(record, use.get(name)) for name, record in records.items()}
        plan = self._router.plan(number, call_class, self._now(), states)
        try:
            return self._router.preview(plan, states)
        except DestinationNotAllowed as error:
            route = self._router.choose(number, call_class)
            return replace(route, reason=f"{error}: it would wait for a line")

    def unserved(self, request: RequestRecord, plan: Plan) -> str:
        """Say why a plan without candidates has none."""
        why = f": {plan.refusal(Acquired(None))}" if plan.shut else ""
        return f"no trunk serves {parse_number(request.to_number).masked}{why}"

    async def take(self, work: UnitOfWork, plan: Plan) -> Line | NoLine:
        """Take a line in this transaction, which writes its attempt; where others wait, they go first."""
        if not self._desk.quiet:
            return NoLine(OTHERS_WAIT)
        attempt_id = new_id("att")
        acquired = await work.slots.acquire(
            SlotAsk(
                candidates=plan.slots(),
                holder=attempt_id,
                owner=self._owner,
                lease_until=self._now() + self._lease_ms,
            )
        )
        self._note_full(acquired)
        if acquired.trunk is None:
            return NoLine(plan.refusal(acquired))
        return self._line(plan, attempt_id, acquired)

    async def wait(
        self, plan: Plan, request: RequestRecord, patience: float, give_up: asyncio.Event
    ) -> Line | NoLine:
        """Wait in the line of all who want one, `patience` seconds at most and as long as `give_up` lets.

        The line is committed: write its attempt, or `give_back` it. Raises `StoreError`, `Overloaded`.
        """
        attempt_id = new_id("att")
        acquired = await self._desk.take(
            plan.slots(),
            attempt_id,
            priority=request.priority,
            since=request.created_at,
            patience=patience,
            give_up=give_up,
        )
        self._note_full(acquired)
        if acquired.trunk is None:
            return NoLine(plan.refusal(acquired))
        return self._line(plan, attempt_id, acquired, self._clock() - request.created_at)

    def give_back(self, line: Line) -> None:
        """A committed line whose attempt was not written is given back, as soon as the store allows."""
        self._desk.give_back(line.attempt_id)

    async def end(
        self,
        work: UnitOfWork,
        attempt: AttemptRecord,
        cause: HangupCause | None,
        *,
        probe: bool,
    ) -> None:
        """Give an attempt's line back in the transaction of its outcome, as its last step: others may wait at
        the breaker's gate for it to end. Without a `cause` nothing reached the PBX. `freed` after the commit.
        """
        await work.slots.release(attempt.id)
        cause = cause or HangupCause(Cause.UNKNOWN)
        # A call of an earlier life may have gone by a trunk that the configuration has no more.
        if attempt.trunk not in self._known or not breaker.matters(cause, probe=probe):
            return
        before = await work.trunks.breaker(attempt.trunk)
        after = breaker.after_call(before, attempt.id, cause, self._now(), self._rules)
        await self._move(work, attempt, before, after)

    async def rings(self, work: UnitOfWork, attempt: AttemptRecord) -> None:
        """A probe got through to a phone: its trunk is used again."""
        if attempt.trunk in self._known:
            before = await work.trunks.breaker(attempt.trunk)
            after = breaker.rings(before, attempt.id, self._now())
            await self._move(work, attempt, before, after)

    def freed(self) -> None:
        """A line may be free: to be called after the commit."""
        self._desk.freed()

    def chosen(self, request: RequestRecord, line: Line) -> EventRecord:
        """The event of a choice that was not the plain one."""
        detail: dict[str, Any] = {"trunk": line.route.trunk.name, "reason": line.route.reason}
        if line.waited:
            detail["waited_ms"] = line.waited
        return self._event("trunk.chosen", request.id, line.attempt_id, detail)

    def waits(self, request: RequestRecord, why: NoLine) -> EventRecord:
        """The event of a call that has to wait for a line."""
        return self._event("call.waits", request.id, None, {"reason": why.reason})

    async def _move(
        self, work: UnitOfWork, attempt: AttemptRecord, before: BreakerState, after: BreakerState
    ) -> None:
        if after is before or attempt.trunk is None:
            return
        await work.trunks.set_breaker(attempt.trunk, after)
        if after.phase is not before.phase:
            detail = breaker.told(attempt.trunk, before, after)
            await work.events.add(self._event("trunk.breaker", attempt.request_id, attempt.id, detail))
            log.warning("trunk.breaker", **detail)

    def _line(self, plan: Plan, attempt_id: str, acquired: Acquired, waited: int = 0) -> Line:
        told = bool(acquired.passed or acquired.probe or plan.shut or plan.after or waited)
        route = plan.route(acquired)
        if waited:
            route = replace(route, reason=f"{route.reason}; waited {waited / 1000:.1f} s")
        return Line(attempt_id, route, acquired.probe, told, waited)

    def _note_full(self, acquired: Acquired) -> None:
        if any(one.why is Passed.FULL for one in acquired.passed):
            self._full()

    def _event(
        self, kind: str, request_id: str | None, attempt_id: str | None, detail: dict[str, Any]
    ) -> EventRecord:
        return EventRecord(
            id=new_id("evt"),
            at=self._clock(),
            request_id=request_id,
            attempt_id=attempt_id,
            kind=kind,
            detail=detail,
        )
