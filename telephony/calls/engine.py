"""The engine: takes a request from the store to its final state.

    queued ──► dialing ──► ringing ──► answered ──► completed | failed
      │           │           │
      │           │           └► busy no_answer rejected unreachable failed canceled unknown
      │           └► the same, and invalid_number
      └► expired canceled failed (not dialled in time)

An attempt's `dialing` is committed before its Originate, and an attempt is ordered from the PBX at most
once. A request belongs to one owner by a lease; every update carries its fence. When a controller
starts, what an earlier life left open is settled with the PBX: adopted, ended, dialled (where nothing
can have rung), or `unknown`.

What it never does: know what is said on a call, or which PBX it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from telephony.calls.flow import Flow, Outcome, Prepared
from telephony.calls.outcome import interrupted, unanswered
from telephony.errors import (
    CallEnded,
    DestinationNotAllowed,
    PbxError,
    PbxRejected,
    PbxUnavailable,
    SpeechError,
    StaleFence,
    StoreError,
    TelephonyError,
)
from telephony.model.call import FINAL_CALL_STATUSES, AttemptPhase, CallStatus
from telephony.model.hangup import Cause, HangupCause
from telephony.model.ids import new_id
from telephony.model.media import Media
from telephony.model.number import parse_number
from telephony.pbx.port import (
    Answered,
    CallSession,
    DialOrder,
    Ended,
    Fate,
    Leg,
    LinkLost,
    Pbx,
    Ringing,
    Trace,
)
from telephony.store import Store, UnitOfWork
from telephony.store.records import AttemptRecord, EventRecord, RequestRecord
from telephony.trunks.routing import Route, Router

log = structlog.get_logger(__name__)

STORE_PATIENCE: Final = 60.0
"""Seconds that an outcome waits for a store that cannot be written, before it is left to recovery."""

CLAIM_BATCH: Final = 50


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Times in seconds. `link_patience`: how long a leg may stay unknown while the PBX is away."""

    lease: float = 30.0
    margin: float = 15.0
    link_patience: float = 60.0
    hangup_patience: float = 10.0
    drain: float = 30.0
    max_lives: int = 2000


@dataclass(frozen=True, slots=True)
class Placed:
    """A request written in the caller's transaction; `CallEngine.go` after the commit runs it."""

    request: RequestRecord
    attempt: AttemptRecord | None


@dataclass(slots=True)
class _Life:
    """One request while it is ours."""

    request: RequestRecord
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    session: CallSession | None = None


@dataclass(slots=True)
class _Watch:
    """One leg being followed, with what has come of it so far."""

    leg: Leg
    attempt: AttemptRecord
    prepared: Prepared
    talk: asyncio.Task[Outcome] | None = None


class CallEngine:
    """Runs the calls of one controller.

    `owner` names this controller, the same in each of its lives and no other's; `clock` gives
    milliseconds since the epoch; `discard` erases a sound.
    """

    def __init__(
        self,
        store: Store,
        pbx: Pbx,
        router: Router,
        flows: Mapping[str, Flow],
        *,
        owner: str,
        discard: Callable[[Media], None],
        config: EngineConfig | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._pbx = pbx
        self._router = router
        self._flows = flows
        self._owner = owner
        self._discard = discard
        self._config = config or EngineConfig()
        self._clock = clock
        self._lives: dict[str, _Life] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._changed: dict[str, asyncio.Event] = {}
        self._stopping = False

    @property
    def live_calls(self) -> int:
        """How many requests this controller is working on."""
        return len(self._lives)

    async def start(self) -> None:
        """Take over what an earlier life left, then begin to work."""
        await self._take_over(own=True)
        self._tasks = [
            asyncio.create_task(self._claim_due(), name="calls-due"),
            asyncio.create_task(self._renew_leases(), name="calls-leases"),
        ]

    async def stop(self) -> None:
        """Let running calls end within the drain time; what is left is settled by the next life."""
        self._stopping = True
        self._wake.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        running = [life.task for life in self._lives.values() if life.task]
        if running:
            _done, left = await asyncio.wait(running, timeout=self._config.drain)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def place(self, work: UnitOfWork, request: RequestRecord, route: Route | None) -> Placed:
        """Write a new request, already ours; one that may start now is written as dialling."""
        now = self._clock()
        lease_until = now + round(self._config.lease * 1000)
        starts_now = (
            route is not None
            and self._pbx.ready
            and not self._stopping
            and len(self._lives) < self._config.max_lives
        )
        ours = replace(
            request,
            owner=self._owner,
            fence=1,
            lease_until=lease_until,
            status=CallStatus.DIALING if starts_now else CallStatus.QUEUED,
            attempts_made=1 if starts_now else 0,
        )
        await work.requests.add(ours)
        attempt = None
        if starts_now and route is not None:
            attempt = self._new_attempt(ours, route, now)
            await work.attempts.add(attempt)
        return Placed(ours, attempt)

    def go(self, placed: Placed) -> None:
        """Run a placed request; call it right after the commit."""
        self._begin(placed.request, placed.attempt)

    async def cancel(self, request_id: str) -> None:
        """Stop a call: queued it ends at once, ringing it is hung up, answered its flow is told."""
        async with self._store.transaction() as work:
            await work.requests.ask_cancel(request_id, self._clock())
        life = self._lives.get(request_id)
        if life:
            life.cancel.set()
        self._wake.set()

    def change(self, request_id: str) -> asyncio.Event | None:
        """An event that is set at the next change of a request; None where it is not this controller's.

        Take it before you look at the request, and no change is missed.
        """
        if request_id not in self._lives:
            return None
        return self._changed.setdefault(request_id, asyncio.Event())

    def _tell_changed(self, request_id: str) -> None:
        event = self._changed.pop(request_id, None)
        if event:
            event.set()

    def _new_attempt(self, request: RequestRecord, route: Route, now: int) -> AttemptRecord:
        return AttemptRecord(
            id=new_id("att"),
            request_id=request.id,
            number=request.attempts_made,
            to_number=request.to_number,
            trunk=route.trunk.name,
            trunk_reason=route.reason,
            phase=AttemptPhase.DIALING,
            owner=self._owner,
            fence=request.fence,
            lease_until=request.lease_until,
            created_at=now,
            dialed_at=now,
        )

    def _begin(
        self, request: RequestRecord, attempt: AttemptRecord | None, *, inherited: bool = False
    ) -> None:
        life = _Life(request)
        if request.cancel_requested_at is not None:
            life.cancel.set()
        self._lives[request.id] = life
        life.task = asyncio.create_task(
            self._live(life, attempt, inherited=inherited), name=f"call-{request.id}"
        )

    async def _live(self, life: _Life, attempt: AttemptRecord | None, *, inherited: bool) -> None:
        """Own one request to its end; whatever goes wrong is an outcome, not a lost request."""
        bound = log.bind(call=life.request.id, flow=life.request.flow)
        try:
            if inherited and attempt is not None:
                await self._settle(life, attempt)
                attempt = None
            if life.request.status not in FINAL_CALL_STATUSES:
                await self._run(life, attempt)
        except StaleFence:
            bound.warning("call.taken_over")
        except StoreError as error:
            bound.error("call.store_failed", error=str(error))
        except asyncio.CancelledError:
            bound.info("call.left_to_next_life")
            raise
        except Exception:
            bound.exception("call.failed_inside")
            with suppress(TelephonyError):
                await self._finish(life, None, None, Outcome(CallStatus.FAILED, "internal_error"))
        finally:
            self._lives.pop(life.request.id, None)
            self._tell_changed(life.request.id)
            self._wake.set()

    async def _run(self, life: _Life, attempt: AttemptRecord | None) -> None:
        """From queued to a final state: wait for the PBX, write the attempt, dial it."""
        while True:
            ending = self._too_late(life)
            if ending is not None:
                await self._finish(life, attempt, None, ending)
                return
            if attempt is None:
                if not self._pbx.ready:
                    await self._wait_for_pbx(life)
                    continue
                try:
                    route = self._router.choose(parse_number(life.request.to_number))
                except DestinationNotAllowed as error:
                    await self._finish(life, None, None, Outcome(CallStatus.FAILED, str(error)))
                    return
                attempt = await self._write_attempt(life, route)
            if await self._attempt(life, attempt):
                return
            attempt = None

    def _too_late(self, life: _Life) -> Outcome | None:
        """Look at the clock and at a cancel, just before dialling."""
        now, request = self._clock(), life.request
        if life.cancel.is_set():
            return Outcome(CallStatus.CANCELED, "canceled")
        if request.expires_at is not None and now >= request.expires_at:
            return Outcome(CallStatus.EXPIRED, "expired")
        if request.dial_by is not None and now >= request.dial_by:
            return Outcome(CallStatus.FAILED, "not_dialed_in_time")
        return None

    async def _wait_for_pbx(self, life: _Life) -> None:
        """Wait until the PBX is back, the request is cancelled, or its time is up."""
        limits = [limit for limit in (life.request.dial_by, life.request.expires_at) if limit is not None]
        seconds = (min(limits) - self._clock()) / 1000 if limits else 60.0
        ready = asyncio.create_task(self._pbx.wait_ready(max(0.0, seconds)))
        canceled = asyncio.create_task(life.cancel.wait())
        try:
            await asyncio.wait({ready, canceled}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.exception():
                # A refused password does not mend itself within this call's time.
                await asyncio.wait({canceled}, timeout=max(0.0, seconds))
        finally:
            for task in (ready, canceled):
                task.cancel()
            await asyncio.gather(ready, canceled, return_exceptions=True)

    async def _write_attempt(self, life: _Life, route: Route) -> AttemptRecord:
        now = self._clock()
        request = replace(
            life.request,
            attempts_made=life.request.attempts_made + 1,
            status=CallStatus.DIALING,
            updated_at=now,
        )
        attempt = self._new_attempt(request, route, now)
        async with self._store.transaction() as work:
            await work.requests.update(
                request.id,
                fence=request.fence,
                attempts_made=request.attempts_made,
                status=request.status,
                updated_at=now,
            )
            await work.attempts.add(attempt)
        life.request = request
        self._tell_changed(request.id)
        return attempt

    async def _attempt(self, life: _Life, attempt: AttemptRecord) -> bool:
        """Dial one written attempt; returns False when nothing reached the PBX and it may be tried anew."""
        request = life.request
        flow = self._flows[request.flow]
        prepared: Prepared | None = None
        try:
            try:
                made = await flow.prepare(request)
            except SpeechError as error:
                log.error("call.prompt_failed", call=request.id, error=str(error))
                made = Outcome(CallStatus.FAILED, "prompt_failed")
            if isinstance(made, Outcome):
                await self._finish(life, attempt, None, made)
                return True
            prepared = made
            ending = self._too_late(life) or self._lease_gone(life)
            if ending is not None:
                await self._finish(life, attempt, None, ending)
                return True
            order = self._order(request, attempt, prepared)
            try:
                return await self._dial(life, attempt, order, prepared)
            except PbxUnavailable as error:
                if error.sent:
                    raise
                await self._end_attempt_unsent(life, attempt, "pbx_unavailable")
                return False
            except PbxRejected as error:
                log.warning("call.refused_by_pbx", call=request.id, error=str(error))
                await self._finish(life, attempt, None, Outcome(CallStatus.FAILED, "pbx_refused"))
                return True
        finally:
            if prepared is not None:
                for media in prepared.media:
                    self._discard(media)

    def _lease_gone(self, life: _Life) -> Outcome | None:
        """An owner looks at its own lease just before dialling: a frozen one has lost it."""
        if life.request.lease_until is not None and self._clock() >= life.request.lease_until:
            raise StaleFence(f"the lease of {life.request.id} ran out before it was dialled")
        return None

    def _order(self, request: RequestRecord, attempt: AttemptRecord, prepared: Prepared) -> DialOrder:
        number = parse_number(request.to_number)
        trunk = self._router.trunk(attempt.trunk or "")
        ring = trunk.ring_timeout
        if request.expires_at is not None:
            ring = min(ring, max(1.0, (request.expires_at - self._clock()) / 1000))
        return DialOrder(
            attempt_id=attempt.id,
            endpoint=trunk.endpoint,
            number=trunk.dialled(number),
            caller_number=request.from_number or "",
            ring_timeout=ring,
            max_duration=prepared.first_limit,
            codecs=trunk.codecs,
        )

    async def _dial(self, life: _Life, attempt: AttemptRecord, order: DialOrder, prepared: Prepared) -> bool:
        async with self._pbx.dial(order) as leg:
            await self._watch(life, attempt, leg, order.ring_timeout, prepared)
        return True

    async def _watch(
        self, life: _Life, attempt: AttemptRecord, leg: Leg, ring_timeout: float, prepared: Prepared
    ) -> None:
        """Follow a leg to its end, and write what came of it."""
        flow = self._flows[life.request.flow]
        watch = _Watch(leg, attempt, prepared)
        canceler = asyncio.create_task(self._hang_up_on_cancel(life, leg))
        cause = HangupCause(Cause.UNKNOWN)
        try:
            cause = await self._follow(life, watch, ring_timeout + self._config.margin)
        except TimeoutError:
            log.warning("call.leg_overdue", call=life.request.id, attempt=attempt.id)
            await leg.hangup()
            cause = await self._last_words(life, watch)
        finally:
            canceler.cancel()
            outcome = await self._end_talk(watch.talk, cause, flow, life.request)
            await asyncio.gather(canceler, return_exceptions=True)
        if outcome is None:
            answered = watch.attempt.answered_at is not None
            outcome = interrupted(cause.cause) if answered else unanswered(cause.cause)
        await self._finish(life, watch.attempt, cause, outcome)

    async def _follow(self, life: _Life, watch: _Watch, seconds: float) -> HangupCause:
        """Take a leg's events until it has ended; `TimeoutError` when it should have long ago."""
        loop = asyncio.get_running_loop()
        config, longest = self._config, watch.prepared.max_duration
        async with asyncio.timeout(seconds) as limit:
            while True:
                event = await watch.leg.next_event()
                if isinstance(event, Ended):
                    return event.cause
                if isinstance(event, LinkLost):
                    limit.reschedule(loop.time() + longest + config.link_patience)
                elif isinstance(event, Ringing):
                    watch.attempt = await self._mark(life, watch.attempt, AttemptPhase.RINGING)
                elif isinstance(event, Answered):
                    limit.reschedule(loop.time() + longest + config.margin)
                    life.session = event.session
                    watch.talk = asyncio.create_task(
                        self._talk(life, event.session, watch.prepared), name=f"talk-{watch.attempt.id}"
                    )
                    watch.attempt = await self._mark(life, watch.attempt, AttemptPhase.ANSWERED)

    async def _last_words(self, life: _Life, watch: _Watch) -> HangupCause:
        """Read what is still to come of an overdue leg: we may have been frozen, not the leg."""
        try:
            return await self._follow(life, watch, self._config.hangup_patience)
        except TimeoutError:
            trace = await self._ask_fate(watch.attempt)
            return HangupCause(trace.cause or Cause.UNKNOWN)

    async def _hang_up_on_cancel(self, life: _Life, leg: Leg) -> None:
        await life.cancel.wait()
        if life.session is None:
            await leg.hangup(Cause.CANCELED)

    async def _talk(self, life: _Life, session: CallSession, prepared: Prepared) -> Outcome:
        """Hold the conversation, then end the call in good order, however it went."""
        try:
            return await self._flows[life.request.flow].converse(session, life.request, prepared)
        finally:
            with suppress(CallEnded, PbxError):
                await session.hangup()

    async def _end_talk(
        self, talk: asyncio.Task[Outcome] | None, cause: HangupCause, flow: Flow, request: RequestRecord
    ) -> Outcome | None:
        """Collect the conversation's outcome once the leg is gone."""
        if talk is None:
            return None
        done, _ = await asyncio.wait({talk}, timeout=self._config.hangup_patience)
        if not done:
            talk.cancel()
            await asyncio.gather(talk, return_exceptions=True)
            return interrupted(cause.cause)
        error = talk.exception()
        if error is None:
            return talk.result()
        if isinstance(error, CallEnded):
            if cause.cause is Cause.NORMAL:
                return flow.cut_short(request)
            return interrupted(cause.cause)
        log.error("call.conversation_failed", call=request.id, error=str(error), kind=type(error).__name__)
        return Outcome(CallStatus.FAILED, "conversation_failed")

    async def _mark(self, life: _Life, attempt: AttemptRecord, phase: AttemptPhase) -> AttemptRecord:
        """Write that it rings, or is answered. A store that fails now does not end a call that stands."""
        now = self._clock()
        ringing = phase is AttemptPhase.RINGING
        status = CallStatus.RINGING if ringing else CallStatus.ANSWERED
        marked = (
            replace(attempt, phase=phase, ringing_at=now)
            if ringing
            else replace(attempt, phase=phase, answered_at=now)
        )
        life.request = replace(life.request, status=status, updated_at=now)
        try:
            async with self._store.transaction() as work:
                await work.requests.update(
                    life.request.id, fence=life.request.fence, status=status, updated_at=now
                )
                await work.attempts.update(
                    attempt.id,
                    fence=attempt.fence,
                    phase=phase,
                    ringing_at=marked.ringing_at,
                    answered_at=marked.answered_at,
                )
        except StoreError as error:
            log.error("call.mark_failed", call=life.request.id, phase=phase.value, error=str(error))
        self._tell_changed(life.request.id)
        return marked

    async def _end_attempt_unsent(self, life: _Life, attempt: AttemptRecord, reason: str) -> None:
        """Close an attempt of which nothing reached the PBX; the request is as it was before it."""
        now = self._clock()
        life.request = replace(life.request, status=CallStatus.QUEUED, updated_at=now)
        async with self._store.transaction() as work:
            await work.requests.update(
                life.request.id, fence=life.request.fence, status=CallStatus.QUEUED, updated_at=now
            )
            await work.attempts.update(
                attempt.id,
                fence=attempt.fence,
                phase=AttemptPhase.ENDED,
                dialed_at=None,
                ended_at=now,
                end_reason=reason,
            )
            await work.events.add(self._event(life.request, attempt, "attempt.not_sent", reason=reason))
        self._tell_changed(life.request.id)

    async def _finish(
        self, life: _Life, attempt: AttemptRecord | None, cause: HangupCause | None, outcome: Outcome
    ) -> None:
        """Write the final outcome and what follows from it in one transaction."""
        now = self._clock()
        request = replace(
            life.request,
            status=outcome.status,
            updated_at=now,
            ended_at=now,
            failure_reason=None if outcome.status is CallStatus.COMPLETED else outcome.reason,
        )

        async def write() -> None:
            async with self._store.transaction() as work:
                # The request before its attempt, as those who take over lock them.
                await work.requests.update(
                    request.id,
                    fence=request.fence,
                    status=request.status,
                    updated_at=now,
                    ended_at=now,
                    due_at=None,
                    lease_until=None,
                    failure_reason=request.failure_reason,
                )
                if attempt is not None:
                    await work.attempts.update(
                        attempt.id, fence=attempt.fence, **_ending(cause, outcome, now)
                    )
                await self._flows[request.flow].settle(work, request, outcome)
                await work.events.add(
                    self._event(request, attempt, f"call.{outcome.status.value}", reason=outcome.reason)
                )

        await self._persist(write)
        life.request = request
        log.info(
            "call.ended",
            call=request.id,
            attempt=attempt.id if attempt else None,
            status=outcome.status.value,
            reason=outcome.reason,
            sip=cause.sip if cause else None,
        )
        self._tell_changed(request.id)

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write an outcome; a store that is locked or full gets time to mend."""
        deadline = asyncio.get_running_loop().time() + STORE_PATIENCE
        pause = 0.1
        while True:
            try:
                await write()
                return
            except StaleFence:
                raise
            except StoreError:
                if asyncio.get_running_loop().time() + pause > deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    def _event(
        self, request: RequestRecord, attempt: AttemptRecord | None, kind: str, **detail: Any
    ) -> EventRecord:
        return EventRecord(
            id=new_id("evt"),
            at=self._clock(),
            request_id=request.id,
            attempt_id=attempt.id if attempt else None,
            kind=kind,
            detail=detail,
        )

    async def _renew_leases(self) -> None:
        """Three times in a lease's length: renew what is ours, take over what nobody tends."""
        while True:
            await asyncio.sleep(self._config.lease / 3)
            try:
                if self._lives:
                    await self._renew()
                await self._take_over(own=False)
            except StoreError as error:
                log.warning("calls.lease_not_renewed", error=str(error))

    async def _renew(self) -> None:
        until = self._clock() + round(self._config.lease * 1000)
        async with self._store.transaction() as work:
            held = await work.requests.renew_leases(self._owner, list(self._lives), until)
        for request_id in held:
            life = self._lives.get(request_id)
            if life is not None:
                life.request = replace(life.request, lease_until=until)

    async def _claim_due(self) -> None:
        """Sleep until the next request is due, and run it."""
        while not self._stopping:
            self._wake.clear()
            pause = 30.0
            try:
                free = self._config.max_lives - len(self._lives)
                if free > 0:
                    async with self._store.transaction() as work:
                        due = await work.requests.claim_due(
                            self._owner,
                            self._clock(),
                            min(free, CLAIM_BATCH),
                            round(self._config.lease * 1000),
                        )
                    for request in due:
                        self._begin(request, None)
                    if len(due) == CLAIM_BATCH:
                        continue
                async with self._store.reading() as work:
                    next_due = await work.requests.next_due_at()
                if next_due is not None:
                    pause = min(pause, max(0.0, (next_due - self._clock()) / 1000))
            except StoreError as error:
                log.warning("calls.due_unread", error=str(error))
                pause = 1.0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(pause, 0.001))

    async def _take_over(self, *, own: bool) -> None:
        """Make ours what nobody tends any more, and settle each with the PBX in a life of its own.

        With `own` (a start) also what an earlier life of this controller still holds.
        """
        async with self._store.transaction() as work:
            orphans = await work.requests.take_over(
                self._owner, self._clock(), round(self._config.lease * 1000), own=own
            )
            if not orphans:
                return
            open_attempts = {attempt.request_id: attempt for attempt in await work.attempts.open_attempts()}
        for request in orphans:
            self._begin(request, open_attempts.get(request.id), inherited=True)
        log.info("calls.taken_over", count=len(orphans))

    async def _settle(self, life: _Life, attempt: AttemptRecord) -> None:
        """Settle an attempt of an earlier life: adopt it, end it, or let the request dial anew."""
        if attempt.dialed_at is None:
            await self._end_attempt_unsent(life, attempt, "never_dialed")
            return
        trace = await self._ask_fate(attempt)
        log.info("call.settled", call=life.request.id, attempt=attempt.id, fate=trace.fate.value)
        if trace.fate is Fate.NEVER_RANG:
            await self._end_attempt_unsent(life, attempt, "never_rang")
        elif trace.fate is Fate.LIVE:
            await self._adopt(life, attempt)
        elif trace.fate is Fate.ANSWERED:
            await self._finish(
                life, attempt, HangupCause(Cause.NORMAL), Outcome(CallStatus.FAILED, "interrupted")
            )
        elif trace.fate is Fate.NOT_ANSWERED:
            cause = trace.cause or Cause.UNKNOWN
            await self._finish(life, attempt, HangupCause(cause), unanswered(cause))
        else:
            outcome = Outcome(CallStatus.UNKNOWN, "pbx_lost")
            if attempt.answered_at is not None:
                outcome = interrupted(Cause.PBX_LOST)
            await self._finish(life, attempt, HangupCause(Cause.UNKNOWN), outcome)

    async def _ask_fate(self, attempt: AttemptRecord) -> Trace:
        """Ask the PBX until it answers, at most `link_patience` seconds."""
        deadline = asyncio.get_running_loop().time() + self._config.link_patience
        while True:
            rest = deadline - asyncio.get_running_loop().time()
            if rest <= 0:
                return Trace(Fate.UNKNOWN)
            try:
                if await self._pbx.wait_ready(rest):
                    return await self._pbx.fate(attempt.id, attempt.dialed_at or 0)
            except PbxError as error:
                log.warning("call.fate_unasked", attempt=attempt.id, error=str(error))
                await asyncio.sleep(1.0)

    async def _adopt(self, life: _Life, attempt: AttemptRecord) -> None:
        """Go on with a leg that stands: one that rings may still be answered and have its talk."""
        flow = self._flows[life.request.flow]
        made = await flow.prepare(life.request)
        prepared = made if isinstance(made, Prepared) else Prepared((), 30.0, 30.0)
        order = self._order(life.request, attempt, prepared)
        context: AbstractAsyncContextManager[Leg] = self._pbx.adopt(
            order, dialed_at_ms=attempt.dialed_at or 0
        )
        try:
            async with context as leg:
                if isinstance(made, Outcome):
                    await leg.hangup(Cause.CANCELED)
                await self._watch(life, attempt, leg, order.ring_timeout, prepared)
        finally:
            for media in prepared.media:
                self._discard(media)


async def wait_for_change(change: asyncio.Event | None, timeout: float) -> None:
    """Wait for an event of `CallEngine.change`; a call of another controller is worth a look a second."""
    if change is None:
        await asyncio.sleep(min(timeout, 1.0))
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(change.wait(), timeout)


def _ending(cause: HangupCause | None, outcome: Outcome, now: int) -> dict[str, Any]:
    """The columns that close an attempt."""
    columns: dict[str, Any] = {
        "phase": AttemptPhase.ENDED,
        "ended_at": now,
        "end_reason": outcome.reason,
        "keys": outcome.keys or None,
    }
    if cause is None:
        columns["dialed_at"] = None
    else:
        columns.update(cause=cause.cause.value, sip=cause.sip, q850=cause.q850)
    return columns
