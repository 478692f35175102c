"""Calls as an app asks for them and sees them: any flow that may be called out, and every call there is.

Whatever can be wrong with a request is refused here, before a phone rings. What it never does: know what a
flow says, or dial.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from telephony.calls.engine import CallEngine, wait_for_change
from telephony.calls.policy import PRIORITIES
from telephony.errors import Conflict, InputError, NotFound
from telephony.model.call import FINAL_CALL_STATUSES, CallClass, CallStatus
from telephony.model.client import Client
from telephony.model.ids import new_id
from telephony.model.number import parse_number
from telephony.services.admission import (
    TimeLimits,
    Voice,
    admit_once,
    begin_once,
    caller_for,
    check_in_time,
    check_json,
    ends_at,
    finish_once,
    locale_for,
    machine_detection_for,
    number_for,
)
from telephony.services.call_view import path_of, view_of
from telephony.services.contract import CallView, NewCall, Once, Page, StoredReply, Verdict
from telephony.services.flows import FlowRegistry
from telephony.store import Store, UnitOfWork
from telephony.store.records import RequestRecord
from telephony.trunks.routing import Router

DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class CallRules:
    """Defaults and limits: how long a call is open, in seconds."""

    ttl: int = DAY
    min_ttl: int = 30
    max_ttl: int = 7 * DAY


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A request that was found good; `waits_until` is when it may ring, None: now."""

    request: RequestRecord
    waits_until: int | None


class Calls:
    """The call service. `clock` gives milliseconds since the epoch.

    `withdraw`, by flow: what is asked for by the calls of that flow ends with a call that is cancelled;
    it gets the request's `flow_ref`.
    """

    def __init__(
        self,
        store: Store,
        engine: CallEngine,
        router: Router,
        voice: Voice,
        flows: FlowRegistry,
        rules: CallRules | None = None,
        *,
        withdraw: Mapping[str, Callable[[str], Awaitable[object]]] | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._engine = engine
        self._router = router
        self._voice = voice
        self._flows = flows
        self._rules = rules or CallRules()
        self._withdraw = dict(withdraw or {})
        self._clock = clock

    async def create(
        self, client: Client, new: NewCall, once: Once[CallView] | None
    ) -> CallView | StoredReply:
        """Write the call in one transaction, and begin to dial."""
        now = self._clock()
        admitted = await admit_once(self._store, client, once, now, lambda: self._admit(client, new, now))
        if isinstance(admitted, StoredReply):
            return admitted
        async with self._store.transaction() as work:
            stored = await begin_once(work, client, once, now)
            if stored is not None:
                return stored
            placed = await self._engine.place(work, admitted.request)
            view = view_of(placed.request, [placed.attempt] if placed.attempt else [])
            await finish_once(work, client, once, view, view.id)
        self._engine.go(placed)
        return view

    async def dry_run(self, client: Client, new: NewCall) -> Verdict:
        """Make every check and choose the route; dial nothing and keep nothing."""
        admitted = self._admit(client, new, self._clock())
        request = admitted.request
        route = await self._engine.foresee(parse_number(request.to_number), request.call_class)
        return Verdict(
            to=request.to_number,
            locale=request.locale or "",
            trunk=route.trunk.name,
            trunk_reason=route.reason,
            due_at=admitted.waits_until,
        )

    async def get(self, client: Client, call_id: str) -> CallView:
        """Return one call of this client with its attempts; raises `NotFound`."""
        async with self._store.reading() as work:
            return await _seen(work, await _of(work, client, call_id))

    async def list(
        self, client: Client, *, status: CallStatus | None, cursor: str | None, limit: int
    ) -> Page[CallView]:
        """Return this client's calls, newest first."""
        async with self._store.reading() as work:
            page = await work.requests.list(client.name, status=status, after=cursor, limit=limit)
            return Page(tuple([await _seen(work, request) for request in page.items]), page.cursor)

    async def cancel(self, client: Client, call_id: str) -> CallView:
        """Cancel a call that is not over; raises `Conflict` for one that is."""
        async with self._store.reading() as work:
            request = await _of(work, client, call_id)
        if request.status in FINAL_CALL_STATUSES and request.status is not CallStatus.CANCELED:
            raise Conflict(f"this call is {request.status.value}")
        withdraw = self._withdraw.get(request.flow)
        if withdraw is not None and request.flow_ref is not None:
            # First: somebody on the line is told so at the next word.
            await withdraw(request.flow_ref)
        await self._engine.cancel(call_id)
        return await self.get(client, call_id)

    async def wait_changed(
        self, client: Client, call_id: str, timeout: float, seen: CallStatus | None = None
    ) -> None:
        """Wait until the call changes, at most `timeout` seconds; at once where it is not as `seen`."""
        change = self._engine.change(call_id)
        view = await self.get(client, call_id)
        if view.status in FINAL_CALL_STATUSES or (seen is not None and view.status is not seen):
            return
        await wait_for_change(change, timeout)

    def _admit(self, client: Client, new: NewCall, now: int) -> _Admitted:
        """Check everything; raises what a client can mend, by field."""
        number = number_for(client, new.to)
        locale = locale_for(client, self._voice, new.locale)
        call_class = _class_of(new.call_class)
        variables: dict[str, Any] = dict(new.variables or {})
        check_json("variables", variables)
        check_json("metadata", new.metadata)
        variables = self._flows.check(new.flow, variables)
        policy = self._engine.policy(call_class, new.retry or {})
        rules = self._rules
        limits = TimeLimits(rules.ttl, rules.min_ttl, rules.max_ttl)
        expires_at = ends_at(now, new.ttl, new.expires_at, field="expires_at", limits=limits)
        waits_until = self._engine.waits_until(call_class, number, now)
        check_in_time(waits_until, expires_at, field="expires_at" if new.ttl is None else "ttl")
        request = RequestRecord(
            id=new_id("call"),
            client=client.name,
            flow=new.flow,
            to_number=number.e164,
            call_class=call_class,
            priority=PRIORITIES[call_class],
            from_number=caller_for(client, new.from_number),
            locale=locale,
            variables={
                **variables,
                **machine_detection_for(new.machine_detection),
            },
            metadata=new.metadata or {},
            out_id=new.out_id,
            expires_at=expires_at,
            max_attempts=policy.rounds,
            retry=new.retry or {},
            created_at=now,
            updated_at=now,
        )
        self._router.choose(number, request.call_class)
        return _Admitted(request, waits_until)


def _class_of(name: str) -> CallClass:
    try:
        return CallClass(name)
    except ValueError:
        raise InputError("class", "is not known", f"Send one of {', '.join(CallClass)}") from None


async def _of(work: UnitOfWork, client: Client, call_id: str) -> RequestRecord:
    request = await work.requests.get_for_client(client.name, call_id)
    if request is None:
        raise NotFound("id", "names no call of yours", f"Check {call_id[:64]!r}")
    return request


async def _seen(work: UnitOfWork, request: RequestRecord) -> CallView:
    path = await path_of(work, request) if request.status in FINAL_CALL_STATUSES else ()
    return view_of(request, await work.attempts.list_for(request.id), path)
