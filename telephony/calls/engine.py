"""The engine: takes a request from the store to its final state.

    queued ──► dialing ──► ringing ──► answered ──► completed | failed
      │           │           │
      │ ▲         │           └► busy no_answer rejected unreachable failed canceled unknown
      │ └─────────┴── another trunk at once, or another round later (`policy.py`)
      └► expired canceled failed (not dialled in time)

An attempt's `dialing` is committed before its Originate, with the line that it takes of its trunk
(`lines.py`), and an attempt is ordered from the PBX at most once. A request belongs to one owner by a
lease; every update carries its fence. When a controller starts, what an earlier life left open is settled
with the PBX: adopted, ended, dialled (where nothing can have rung), or `unknown`.

What it never does: know what is said on a call, or which PBX it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog

from telephony.calls.custody import Custody
from telephony.calls.flow import Flow, Outcome, Prepared
from telephony.calls.lines import Line, Lines, NoLine
from telephony.calls.outcome import interrupted, unanswered
from telephony.calls.policy import PRIORITIES, RetryPolicy, Step, policy_for
from telephony.calls.quiet import Window, next_allowed
from telephony.errors import (
    CallEnded,
    ConfigError,
    DestinationNotAllowed,
    InputError,
    Overloaded,
    PbxError,
    PbxRejected,
    PbxUnavailable,
    SpeechError,
    StaleFence,
    StoreError,
    StoreUnavailable,
    TelephonyError,
)
from telephony.model.call import FINAL_CALL_STATUSES, AttemptPhase, CallClass, CallStatus
from telephony.model.hangup import Cause, HangupCause
from telephony.model.ids import new_id
from telephony.model.media import Media
from telephony.model.number import PhoneNumber, parse_number
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
from telephony.store import PokeKind, Store, UnitOfWork
from telephony.store.records import AttemptRecord, EventRecord, RequestRecord
from telephony.trunks.breaker import BreakerRules
from telephony.trunks.dialect import Trunk
from telephony.trunks.plan import Plan, Route
from telephony.trunks.routing import Router

log = structlog.get_logger(__name__)

STORE_PATIENCE: Final = 60.0
"""Seconds that an outcome is tried again for which the store refuses, before it is left to recovery. One
that only can't be written now waits for as long as that takes."""

STORE_PAUSE: Final = 1.0
"""Seconds between looks at a store that failed us."""

LONGEST_STORE_PAUSE: Final = 2.0
"""Seconds between tries to write an outcome at most: so long its line is taken by nobody."""

CLAIM_BATCH: Final = 50

RESUMED_AT_ONCE: Final = 8
"""How many calls of an earlier life are brought on the wire at the same time, those that wait longest first:
all at once, all of them would get there late, and in a life that is short none."""

ELSEWHERE_AFTER: Final = 3.0
"""Seconds for which our PBX may be away before our calls go to a controller whose PBX is there."""

AWAY_LOOK: Final = 1.0
"""Seconds between looks for what is too late while our PBX is away."""

LONGEST_LOOK: Final = 60.0
"""Seconds for which one plan is waited with: a trunk's hours may begin or end meanwhile."""

UNSEEN_TRUSTED: Final = 60.0
"""Seconds for which an earlier life's word counts; beyond them a clock may have been set."""

_PBX_AWAY: Final = "pbx_away"
_UNSEEN: Final = "unseen"
"""In a request's progress: the attempt of which the PBX knows nothing, and since when that is known."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Times in seconds. `link_patience`: how long a leg may stay unknown while the PBX is away.

    `max_calls` bounds the calls at work at once; of them `otp_share` is kept free for codes. `windows`
    are the hours in which each class may ring; a class without any may always. `retry` is what the
    requests of a class leave out of their own (`policy_for`). `breaker` says when a trunk is left alone.
    """

    lease: float = 30.0
    margin: float = 15.0
    link_patience: float = 60.0
    hangup_patience: float = 10.0
    drain: float = 30.0
    max_calls: int = 500
    otp_share: float = 0.2
    number_pause: float = 0.5
    windows: Mapping[CallClass, tuple[Window, ...]] = field(default_factory=dict)
    retry: Mapping[CallClass, Mapping[str, Any]] = field(default_factory=dict)
    breaker: BreakerRules = field(default_factory=BreakerRules)


@dataclass(frozen=True, slots=True)
class Placed:
    """A request written in the caller's transaction; `CallEngine.go` after the commit runs it.

    Without an attempt it waits: in the queue, or, where it is `ours`, for a line. `probe`: whether it is to
    show that its trunk works again.
    """

    request: RequestRecord
    attempt: AttemptRecord | None
    ours: bool = False
    probe: bool = False


@dataclass(slots=True)
class _Life:
    """One request while it is ours; `attempt` is the newest one that has not ended.

    `probe`: whether that is, or may be, the call by which its trunk's breaker sees whether the trunk works.
    `in_line`: whether it has been told that there is no line for it now.
    """

    request: RequestRecord
    attempt: AttemptRecord | None = None
    probe: bool = False
    in_line: bool = False
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    session: CallSession | None = None
    began: tuple[int, float] = (0, 0.0)
    """When it became ours: by the wall clock (ms) and by the steady one (s)."""
    resuming: bool = False
    """Whether it is one of the few that are just being resumed."""
    then: Callable[[], None] | None = None
    """Begins the request's next life here, once this one has seen that it is over."""


@dataclass(slots=True)
class _Talk:
    """One leg being followed, and the conversation on it once it is answered.

    `mark` writes how far it came: beside the events, so that a slow store keeps nobody waiting.
    """

    leg: Leg
    prepared: Prepared
    task: asyncio.Task[Outcome] | None = None
    mark: asyncio.Task[None] | None = None
    listened: bool = False
    """Whether the call ended while the PBX listened for a machine."""


class CallEngine:
    """Runs the calls of one controller.

    `owner` names this controller, the same in each of its lives and no other's; `clock` gives
    milliseconds since the epoch; `discard` erases a sound; `full` is called when a trunk was found full.
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
        full: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pbx = pbx
        self._router = router
        self._flows = flows
        self._owner = owner
        self._discard = discard
        self._config = config or EngineConfig()
        self._clock = clock
        self._steady = steady
        self._lives: dict[str, _Life] = {}
        self._wake = asyncio.Event()
        self._resuming = asyncio.Semaphore(RESUMED_AT_ONCE)
        self._claims: asyncio.Task[None] | None = None
        self._custody = Custody(
            store,
            owner,
            self._config.lease,
            claimed=self._open_lines,
            in_hand=self._lives.keys,
            holders=self._attempts_in_hand,
            found=lambda request, attempt: self._begin(request, attempt, inherited=True),
            renewed=self._on_renewed,
            canceled=self._on_canceled,
            due=self._wake.set,
            wall=clock,
            steady=steady,
        )
        self._lines = Lines(
            store,
            router,
            owner,
            self._config.lease,
            rules=self._config.breaker,
            now=self._custody.now,
            clock=clock,
            full=full,
        )
        self._changed: dict[str, asyncio.Event] = {}
        self._starting: dict[str, CallClass] = {}
        self._claiming = 0
        self._in_doubt = False
        self._stopping = False

    @property
    def live_calls(self) -> int:
        """How many requests this controller is working on."""
        return len(self._lives)

    async def start(self) -> None:
        """Take over what an earlier life left, then begin to work."""
        await self._custody.start()
        self._claims = asyncio.create_task(self._claim_due(), name="calls-due")

    async def _open_lines(self) -> None:
        await self._lines.open()

    def _attempts_in_hand(self) -> list[str]:
        return [life.attempt.id for life in self._lives.values() if life.attempt is not None]

    async def stop(self) -> None:
        """Let running calls end within the drain time; what is left is settled by the next life."""
        self._stopping = True
        self._custody.take_no_more()
        if self._claims is not None:
            self._claims.cancel()
            await asyncio.gather(self._claims, return_exceptions=True)
        await self._lines.close()
        running = [life.task for life in self._lives.values() if life.task]
        if running:
            _done, left = await asyncio.wait(running, timeout=self._config.drain)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        await self._custody.stop()

    async def place(self, work: UnitOfWork, request: RequestRecord) -> Placed:
        """Write a new request: already ours and dialling where it may start now, else as one that waits.

        A call for which no trunk has a line now is ours too, and waits for one; any other is in the queue.
        """
        now = self._clock()
        plan = None
        if not self._stopping and self._allowed_at(request, now) <= now and self._keep_place(request):
            work.undone.append(lambda: self._not_placed(request.id))
            try:
                if not await work.attempts.number_is_open(request.to_number):
                    plan = self._lines.plan(request, ())
            finally:
                if plan is None or not plan.candidates:
                    self._starting.pop(request.id, None)
        if plan is None or not plan.candidates:
            waiting = replace(request, status=CallStatus.QUEUED, due_at=self._next_look(request, now))
            await work.requests.add(waiting)
            if (waiting.due_at or 0) <= now and (self._stopping or not self._may_start(request)):
                await work.pokes.send(PokeKind.DUE)
            return Placed(waiting, None)
        ours = replace(
            request,
            owner=self._owner,
            fence=1,
            lease_until=self._custody.now() + self._custody.lease_ms,
            status=CallStatus.QUEUED,
        )
        line = await self._lines.take(work, plan)
        if isinstance(line, NoLine):
            await work.requests.add(ours)
            await work.events.add(self._lines.waits(ours, line))
            return Placed(ours, None, ours=True)
        ours = replace(ours, status=CallStatus.DIALING, attempts_made=1)
        await work.requests.add(ours)
        attempt = self._new_attempt(ours, line, now)
        await self._add_attempt(work, ours, attempt, line)
        return Placed(ours, attempt, ours=True, probe=line.probe)

    async def foresee(self, number: PhoneNumber, call_class: CallClass) -> Route:
        """Where a call asked for now would go, and why; raises `DestinationNotAllowed` and `StoreError`."""
        return await self._lines.foresee(number, call_class)

    def look_for_lines(self) -> None:
        """A trunk may take calls again: whoever waits for a line is served."""
        self._lines.freed()

    def go(self, placed: Placed) -> None:
        """Run a placed request, or see that the queue is looked at; call it right after the commit."""
        if placed.ours:
            self._begin(placed.request, placed.attempt, probe=placed.probe, in_line=placed.attempt is None)
        else:
            self._wake.set()

    def _may_start(self, request: RequestRecord) -> bool:
        """Whether one more call of this class fits beside those at work, and would reach the PBX."""
        everybody, others = self._free_places()
        return self._pbx.ready and (others if request.call_class is not CallClass.OTP else everybody) > 0

    def _keep_place(self, request: RequestRecord) -> bool:
        """Keep a place until the request begins; False where there is none.

        Its transaction may take a while, and others ask for places meanwhile.
        """
        if not self._may_start(request):
            return False
        self._starting[request.id] = request.call_class
        return True

    def _not_placed(self, request_id: str) -> None:
        """The transaction of a request did not end well: its place is free, the request perhaps written."""
        self._starting.pop(request_id, None)
        self._in_doubt = True
        self._wake.set()

    def _free_places(self) -> tuple[int, int]:
        """How many more calls may be at work: of any class, and of those that are no codes."""
        config = self._config
        classes = [life.request.call_class for life in self._lives.values()]
        classes += self._starting.values()
        free = config.max_calls - len(classes) - self._claiming
        others = self._claiming + sum(one is not CallClass.OTP for one in classes)
        return free, min(free, round(config.max_calls * (1 - config.otp_share)) - others)

    def _allowed_at(self, request: RequestRecord, now: int) -> int:
        """The first moment from now on at which this number may ring."""
        windows = self._config.windows.get(request.call_class, ())
        start = max(now, request.not_before or 0)
        return next_allowed(parse_number(request.to_number), windows, start) if windows else start

    def _is_quiet(self, request: RequestRecord) -> bool:
        """Whether this number may not ring now."""
        now = self._clock()
        return self._allowed_at(request, now) > now

    def _next_look(self, request: RequestRecord, now: int) -> int:
        """When a request that waits is due: once it may ring, or once it is too late for that."""
        limits = [limit for limit in (request.dial_by, request.expires_at) if limit is not None]
        return min([self._allowed_at(request, now), *limits])

    def waits_until(self, call_class: CallClass, number: PhoneNumber, now: int) -> int | None:
        """Return when a call of this class may ring this number, None where it may at `now`."""
        allowed = next_allowed(number, self._config.windows.get(call_class, ()), now)
        return allowed if allowed > now else None

    def policy(self, call_class: CallClass, wanted: Mapping[str, Any]) -> RetryPolicy:
        """Return how often and when a request of this class is rung; raises `InputError`."""
        return policy_for(call_class, wanted, self._config.retry.get(call_class))

    async def cancel(self, request_id: str) -> None:
        """Stop a call, whoever runs it: queued it ends, ringing it is hung up, answered its flow is told."""
        now, waiting = self._clock(), None
        async with self._store.transaction() as work:
            asked = await work.requests.ask_cancel(request_id, now)
            if request_id not in self._lives:
                if not self._stopping:
                    # Its end takes no place, so it waits for none.
                    waiting = await work.requests.claim(
                        request_id, self._owner, now, self._custody.lease_ms, lease_now=self._custody.now()
                    )
                if asked and waiting is None:
                    await work.pokes.send(PokeKind.CANCEL, request_id)
        if waiting is not None:
            self._begin(waiting, None)
        else:
            self._on_canceled(request_id)

    def _on_canceled(self, request_id: str) -> None:
        """Somebody asked to cancel a request: it is at work here, or in the queue, or elsewhere."""
        life = self._lives.get(request_id)
        if life is None:
            self._wake.set()
        else:
            life.cancel.set()

    def _on_renewed(self, request_id: str, until: int, canceled: bool) -> None:
        life = self._lives.get(request_id)
        if life is not None:
            life.request = replace(life.request, lease_until=until)
            if canceled:
                life.cancel.set()

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

    async def _add_attempt(
        self, work: UnitOfWork, request: RequestRecord, attempt: AttemptRecord, line: Line
    ) -> None:
        """Write an attempt, and why it has this line where that is not plain."""
        await work.attempts.add(attempt)
        if line.told:
            await work.events.add(self._lines.chosen(request, line))

    def _new_attempt(self, request: RequestRecord, line: Line, now: int) -> AttemptRecord:
        return AttemptRecord(
            id=line.attempt_id,
            request_id=request.id,
            number=request.attempts_made,
            to_number=request.to_number,
            trunk=line.route.trunk.name,
            trunk_reason=line.route.reason,
            phase=AttemptPhase.DIALING,
            owner=self._owner,
            fence=request.fence,
            lease_until=request.lease_until,
            created_at=now,
            dialed_at=now,
        )

    def _begin(
        self,
        request: RequestRecord,
        attempt: AttemptRecord | None,
        *,
        inherited: bool = False,
        probe: bool = False,
        in_line: bool = False,
    ) -> None:
        self._starting.pop(request.id, None)
        before = self._lives.get(request.id)
        if before is not None:
            # It has not seen yet that its claim is over: a commit of which it heard nothing.
            before.then = partial(
                self._begin, request, attempt, inherited=inherited, probe=probe, in_line=in_line
            )
            return
        # Whether an inherited attempt is a probe, is known to its breaker.
        life = _Life(request, attempt, probe or inherited, in_line, began=(self._clock(), self._steady()))
        if request.cancel_requested_at is not None:
            life.cancel.set()
        self._lives[request.id] = life
        life.task = asyncio.create_task(self._live(life, inherited=inherited), name=f"call-{request.id}")

    async def _live(self, life: _Life, *, inherited: bool) -> None:
        """Own one request until it is final or back in the queue; whatever goes wrong is an outcome."""
        bound = log.bind(call=life.request.id, flow=life.request.flow)
        try:
            while True:
                try:
                    await self._work_on(life, inherited=inherited)
                    return
                except StaleFence:
                    bound.warning("call.taken_over")
                    return
                except StoreError as error:
                    bound.error("call.store_failed", error=str(error))
                if not await self._read_again(life):
                    return
                inherited = True
        except asyncio.CancelledError:
            bound.info("call.left_to_next_life")
            raise
        except Exception:
            bound.exception("call.failed_inside")
            await self._give_up(life)
        finally:
            self._lives.pop(life.request.id, None)
            self._tell_changed(life.request.id)
            self._wake.set()
            if life.then is not None and not self._stopping:
                life.then()

    async def _give_up(self, life: _Life) -> None:
        """End a call after a fault of ours, and where it is its flow that fails, without the flow."""
        cause, outcome = HangupCause(Cause.UNKNOWN), Outcome(CallStatus.FAILED, "internal_error")
        with suppress(TelephonyError):
            try:
                await self._finish(life, cause, outcome)
            except TelephonyError:
                raise
            except Exception:
                log.exception("call.not_settled", call=life.request.id, flow=life.request.flow)
                await self._finish(life, cause, outcome, settled=False)

    async def _work_on(self, life: _Life, *, inherited: bool) -> None:
        if inherited and life.attempt is not None:
            again = await self._settle(life, life.attempt)
            if not again:
                return
        if inherited:
            await self._resuming.acquire()
            life.resuming = True
        try:
            while await self._one_attempt(life):
                pass
        finally:
            self._let_others_resume(life)

    def _let_others_resume(self, life: _Life) -> None:
        if life.resuming:
            life.resuming = False
            self._resuming.release()

    async def _read_again(self, life: _Life) -> bool:
        """After the store failed us: read what it holds once it is back; False where it is not ours."""
        while True:
            await asyncio.sleep(STORE_PAUSE)
            with suppress(StoreError):
                async with self._store.reading() as work:
                    request = await work.requests.get(life.request.id)
                    attempts = await work.attempts.list_for(life.request.id)
                if request is None or request.fence != life.request.fence or request.lease_until is None:
                    return False
                life.request = request
                if request.cancel_requested_at is not None:
                    life.cancel.set()
                life.attempt = next((one for one in attempts if one.ended_at is None), None)
                life.probe = True
                return request.status not in FINAL_CALL_STATUSES

    async def _one_attempt(self, life: _Life) -> bool:
        """Bring the request one step on; returns whether there is another step to do now."""
        ending = self._too_late(life)
        if ending is not None:
            await self._finish(life, None, ending)
            return False
        if life.attempt is None:
            now = self._clock()
            if self._allowed_at(life.request, now) > now:
                await self._park(life, self._next_look(life.request, now), "quiet_hours")
                return False
            if not self._pbx.ready:
                return await self._wait_for_pbx(life)
            if not await self._get_attempt(life):
                return False
        if life.attempt is None:
            # Cancelled while we were about to write it, or no line yet: look at its deadline again.
            return True
        return await self._attempt(life, life.attempt)

    def _too_late(self, life: _Life) -> Outcome | None:
        """Look at the clock and at a cancel, just before dialling."""
        now, request = self._moment(life), life.request
        if life.cancel.is_set():
            return Outcome(CallStatus.CANCELED, "canceled")
        if request.expires_at is not None and now >= request.expires_at:
            return Outcome(CallStatus.EXPIRED, "expired")
        if request.dial_by is not None and now >= request.dial_by:
            return Outcome(CallStatus.FAILED, "not_dialed_in_time")
        return None

    def _moment(self, life: _Life) -> int:
        """Now, as a deadline sees it: a clock that was set back meanwhile does not move it further away."""
        began, began_steady = life.began
        return max(self._clock(), began + round((self._steady() - began_steady) * 1000))

    async def _wait_for_pbx(self, life: _Life) -> bool:
        """Wait until the PBX is back, the request is cancelled, or its time is up.

        Returns False where it went back into the queue, for a controller whose PBX is there.
        """
        self._let_others_resume(life)
        limits = [limit for limit in (life.request.dial_by, life.request.expires_at) if limit is not None]
        seconds = (min(limits) - self._moment(life)) / 1000 if limits else 60.0
        if self._store.shared:
            seconds = min(seconds, ELSEWHERE_AFTER)
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
        if self._store.shared and not self._pbx.ready and self._too_late(life) is None:
            await self._park(life, self._clock(), _PBX_AWAY)
            return False
        return True

    async def _get_attempt(self, life: _Life) -> bool:
        """Write the attempt that is dialled next, once there is a line for it; False: nothing to do now.

        True without an attempt: look at the request anew.
        """
        plan = self._lines.plan(life.request, tuple(_tried(life.request)))
        if not plan.candidates:
            await self._finish(
                life, None, Outcome(CallStatus.FAILED, self._lines.unserved(life.request, plan))
            )
            return False
        if not life.in_line:
            if not await self._write_attempt(life, plan, None):
                return False
            if life.attempt is not None or life.cancel.is_set():
                return True
            life.in_line = True
        self._let_others_resume(life)
        line = await self._lines.wait(plan, life.request, self._patience(life), life.cancel)
        if isinstance(line, Line):
            try:
                # The hours in which it may ring may have ended meanwhile.
                if self._is_quiet(life.request):
                    return True
                return await self._write_attempt(life, plan, line)
            finally:
                # Whatever kept it from being written; where it was, this is a line of its own.
                if life.attempt is None or life.attempt.id != line.attempt_id:
                    self._lines.give_back(line)
        if self._lines.closed and not life.cancel.is_set():
            await self._park(life, self._clock(), "stopping")
            return False
        return True

    def _patience(self, life: _Life) -> float:
        """Seconds for which a request may wait before its deadline is looked at."""
        limits = [limit for limit in (life.request.dial_by, life.request.expires_at) if limit is not None]
        rest = (min(limits) - self._moment(life)) / 1000 if limits else LONGEST_LOOK
        return max(0.001, min(rest, LONGEST_LOOK))

    async def _write_attempt(self, life: _Life, plan: Plan, line: Line | None) -> bool:
        """Commit the attempt that is dialled next, on the line that is held or on one taken with it.

        Returns False where the number is in a call already: then the request is in the queue. Nothing is
        written where there is no line, nor for a request that was cancelled, wherever that was asked for.
        """
        now = self._clock()
        request = replace(
            life.request,
            attempts_made=life.request.attempts_made + 1,
            status=CallStatus.DIALING,
            updated_at=now,
        )
        async with self._store.transaction() as work:
            held = await work.requests.lock(request.id)
            if held is not None and held.cancel_requested_at is not None:
                life.cancel.set()
                return True
            got = None
            if not await work.attempts.number_is_open(request.to_number):
                got = line or await self._lines.take(work, plan)
            if isinstance(got, NoLine):
                await work.events.add(self._lines.waits(request, got))
                return True
            if got is not None:
                attempt = self._new_attempt(request, got, now)
                await work.requests.update(
                    request.id,
                    fence=request.fence,
                    attempts_made=request.attempts_made,
                    status=request.status,
                    updated_at=now,
                )
                await self._add_attempt(work, request, attempt, got)
        if got is None:
            pause = round(self._config.number_pause * 1000)
            await self._park(life, self._clock() + pause, "number_in_a_call")
            return False
        life.request, life.attempt = request, attempt
        life.probe, life.in_line = got.probe, False
        self._tell_changed(request.id)
        return True

    async def _park(self, life: _Life, due_at: int, reason: str) -> None:
        """Put the request back into the queue; one that was cancelled meanwhile is due at once."""
        now = self._clock()
        async with self._store.transaction() as work:
            held = await work.requests.lock(life.request.id)
            if held is not None and held.cancel_requested_at is not None:
                due_at = now
            await work.requests.update(
                life.request.id,
                fence=life.request.fence,
                status=CallStatus.QUEUED,
                due_at=due_at,
                lease_until=None,
                updated_at=now,
            )
            if reason != "number_in_a_call":
                await work.events.add(self._event(life.request, "call.waits", reason=reason, until=due_at))
            if reason == _PBX_AWAY:
                await work.pokes.send(PokeKind.DUE)

    async def _attempt(self, life: _Life, attempt: AttemptRecord) -> bool:
        """Dial one written attempt; returns whether the request has another step to do now."""
        request = life.request
        prepared: Prepared | None = None
        try:
            made = await self._prepare(request)
            if isinstance(made, Outcome):
                await self._finish(life, None, made)
                return False
            prepared = made
            await self._hold_on(life)
            ending = self._too_late(life)
            if ending is not None:
                await self._finish(life, None, ending)
                return False
            if self._is_quiet(request):
                await self._end_attempt_unsent(life, attempt, "quiet_hours")
                return True
            order = self._order(request, attempt, prepared)
            try:
                async with self._pbx.dial(order) as leg:
                    self._let_others_resume(life)
                    return await self._watch(life, leg, order.ring_timeout, prepared)
            except PbxUnavailable as error:
                if error.sent:
                    raise
                await self._end_attempt_unsent(life, attempt, "pbx_unavailable")
                return True
            except PbxRejected as error:
                log.warning("call.refused_by_pbx", call=request.id, error=str(error))
                await self._finish(life, None, Outcome(CallStatus.FAILED, "pbx_refused"))
                return False
        finally:
            if prepared is not None:
                for media in prepared.media:
                    self._discard(media)

    async def _prepare(self, request: RequestRecord) -> Prepared | Outcome:
        """Let the flow compose what will be said, or say why nobody is to be rung."""
        try:
            return await self._flows[request.flow].prepare(request)
        except (SpeechError, ConfigError, InputError) as error:
            log.error("call.prompt_failed", call=request.id, error=str(error))
            return Outcome(CallStatus.FAILED, "prompt_failed")

    async def _hold_on(self, life: _Life) -> None:
        """An owner looks at its own lease before it acts: one that was frozen may have lost it.

        Where in doubt it is prolonged, which only its owner can; raises `StaleFence` in anybody else's case.
        """
        if not self._custody.surely_ours(life.request.lease_until):
            until = await self._custody.confirm(life.request)
            life.request = replace(life.request, lease_until=until)

    def _order(self, request: RequestRecord, attempt: AttemptRecord, prepared: Prepared) -> DialOrder:
        try:
            trunk = self._router.trunk(attempt.trunk or "")
        except DestinationNotAllowed:
            # A leg of an earlier life, whose trunk the configuration has no more: it stands all the same.
            trunk = Trunk(attempt.trunk or "", "")
        ring = trunk.ring_timeout
        if request.expires_at is not None:
            ring = min(ring, max(1.0, (request.expires_at - self._clock()) / 1000))
        order = trunk.order(
            attempt.id,
            parse_number(request.to_number),
            request.from_number or "",
            ring_timeout=ring,
            max_duration=prepared.first_limit,
        )
        return replace(order, dialed_at_ms=attempt.dialed_at or 0, detect_machines=prepared.detect_machines)

    async def _watch(self, life: _Life, leg: Leg, ring_timeout: float, prepared: Prepared) -> bool:
        """Follow a leg to its end, and write what came of it; returns whether to go on at once."""
        flow = self._flows[life.request.flow]
        talk = _Talk(leg, prepared)
        canceler = asyncio.create_task(self._hang_up_on_cancel(life, leg))
        cause = HangupCause(Cause.UNKNOWN)
        try:
            cause = await self._follow(life, talk, ring_timeout + self._config.margin)
        except TimeoutError:
            log.warning("call.leg_overdue", call=life.request.id)
            # We may have been frozen so long that it is somebody else's leg, and conversation.
            await self._hold_on(life)
            await leg.hangup()
            cause = await self._last_words(life, talk)
        finally:
            canceler.cancel()
            outcome = await self._end_talk(talk.task, cause, flow, life.request)
            marks = () if talk.mark is None else (talk.mark,)
            await asyncio.gather(canceler, *marks, return_exceptions=True)
        if outcome is None and talk.listened and cause.cause is Cause.NORMAL:
            outcome = flow.cut_short(life.request)
        if outcome is None:
            answered = life.attempt is not None and life.attempt.answered_at is not None
            begun = answered and not talk.listened
            outcome = interrupted(cause.cause) if begun else unanswered(cause.cause)
        return await self._conclude(life, cause, outcome)

    async def _conclude(self, life: _Life, cause: HangupCause, outcome: Outcome) -> bool:
        """After an attempt: another trunk at once, another round later, or the end."""
        request, attempt = life.request, life.attempt
        policy = self.policy(request.call_class, request.retry)
        rang = attempt is not None and attempt.ringing_at is not None
        step = policy.step(outcome.retry_as, rang=rang) if outcome.retry_as else Step.STOP
        if life.cancel.is_set():
            step = Step.STOP
        progress = dict(request.result or {})
        if step is Step.NEXT_TRUNK and attempt is not None:
            tried = [*_tried(request), attempt.trunk or ""]
            if await self._lines.may_follow(request, tuple(tried)):
                await self._close_attempt(life, cause, outcome, {**progress, "tried": tried}, None)
                return True
            # No other trunk is left: what follows is another ring, if `retry` wants one for this cause.
            step = policy.step(outcome.retry_as, rang=True)
        rounds = int(progress.get("rounds", 0)) + 1
        if step is not Step.STOP and rounds < policy.rounds:
            pause = round(policy.pause(rounds) * 1000)
            due_at = self._allowed_at(request, self._clock() + pause)
            if request.expires_at is None or due_at < request.expires_at:
                await self._close_attempt(life, cause, outcome, {"rounds": rounds, "tried": []}, due_at)
                return False
        await self._finish(life, cause, outcome)
        return False

    async def _close_attempt(
        self,
        life: _Life,
        cause: HangupCause,
        outcome: Outcome,
        progress: dict[str, Any],
        due_at: int | None,
    ) -> None:
        """End an attempt that another one follows: at once and still ours, or when it is due."""
        now, request = self._clock(), life.request
        columns: dict[str, Any] = {} if due_at is None else {"due_at": due_at, "lease_until": None}

        async def write() -> None:
            async with self._store.transaction() as work:
                held = await work.requests.lock(request.id)
                if held is not None and held.cancel_requested_at is not None:
                    life.cancel.set()
                    if due_at is not None:
                        columns["due_at"] = now
                await work.requests.update(
                    request.id,
                    fence=request.fence,
                    status=CallStatus.QUEUED,
                    dial_by=None,
                    result=progress,
                    updated_at=now,
                    **columns,
                )
                if life.attempt is not None:
                    await work.attempts.update(
                        life.attempt.id, fence=life.attempt.fence, **_ending(cause, outcome, now)
                    )
                again = "next_trunk" if due_at is None else "later"
                await work.events.add(
                    self._event(
                        request, "call.again", life.attempt, reason=outcome.reason, how=again, at=due_at
                    )
                )
                if life.attempt is not None:
                    await self._lines.end(work, life.attempt, cause, probe=life.probe)

        await self._persist(write)
        self._lines.freed()
        log.info("call.again", call=request.id, reason=outcome.reason, due_at=due_at)
        life.request = replace(
            request, status=CallStatus.QUEUED, dial_by=None, result=progress, updated_at=now
        )
        life.attempt = None
        self._tell_changed(request.id)

    async def _follow(self, life: _Life, talk: _Talk, seconds: float) -> HangupCause:
        """Take a leg's events until it has ended; `TimeoutError` when it should have long ago."""
        loop = asyncio.get_running_loop()
        config, longest = self._config, talk.prepared.max_duration
        async with asyncio.timeout(seconds) as limit:
            while True:
                event = await talk.leg.next_event()
                if isinstance(event, Ended):
                    if event.listened is not None:
                        talk.listened = True
                        self._mark(life, talk, AttemptPhase.ANSWERED, seconds_ago=event.listened)
                    return event.cause
                if isinstance(event, LinkLost):
                    limit.reschedule(loop.time() + longest + config.link_patience)
                elif isinstance(event, Ringing):
                    self._mark(life, talk, AttemptPhase.RINGING)
                elif isinstance(event, Answered):
                    limit.reschedule(loop.time() + longest + config.margin)
                    life.session = event.session
                    talk.task = asyncio.create_task(
                        self._talk(life, event.session, talk.prepared), name=f"talk-{event.session.id}"
                    )
                    self._mark(life, talk, AttemptPhase.ANSWERED, seconds_ago=event.seconds_ago)

    async def _last_words(self, life: _Life, talk: _Talk) -> HangupCause:
        """Read what is still to come of an overdue leg: we may have been frozen, not the leg."""
        try:
            return await self._follow(life, talk, self._config.hangup_patience)
        except TimeoutError:
            trace = await self._ask_fate(life.attempt, life) if life.attempt else Trace(Fate.UNKNOWN)
            return trace.cause or HangupCause(Cause.UNKNOWN)

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

    def _mark(self, life: _Life, talk: _Talk, phase: AttemptPhase, *, seconds_ago: float = 0.0) -> None:
        """Note that it rings, or is answered, and begin to write it."""
        if life.attempt is None:
            return
        now = self._clock()
        ringing = phase is AttemptPhase.RINGING
        status = CallStatus.RINGING if ringing else CallStatus.ANSWERED
        life.attempt = (
            replace(life.attempt, phase=phase, ringing_at=now)
            if ringing
            else replace(life.attempt, phase=phase, answered_at=now - round(seconds_ago * 1000))
        )
        life.request = replace(life.request, status=status, updated_at=now)
        talk.mark = asyncio.create_task(
            self._write_mark(life.request, life.attempt, talk.mark, probe=life.probe),
            name=f"mark-{life.attempt.id}",
        )

    async def _write_mark(
        self,
        request: RequestRecord,
        attempt: AttemptRecord,
        before: asyncio.Task[None] | None,
        *,
        probe: bool,
    ) -> None:
        """Write how far a call came, in order. A store that fails now does not end a call that stands."""
        if before is not None:
            await before
        try:
            async with self._store.transaction() as work:
                await work.requests.update(
                    request.id, fence=request.fence, status=request.status, updated_at=request.updated_at
                )
                await work.attempts.update(
                    attempt.id,
                    fence=attempt.fence,
                    phase=attempt.phase,
                    ringing_at=attempt.ringing_at,
                    answered_at=attempt.answered_at,
                )
                if probe:
                    await self._lines.rings(work, attempt)
        except StoreError as error:
            log.error("call.mark_failed", call=request.id, phase=attempt.phase.value, error=str(error))
        if probe:
            self._lines.freed()
        self._tell_changed(request.id)

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
            await work.events.add(self._event(life.request, "attempt.not_sent", attempt, reason=reason))
            await self._lines.end(work, attempt, None, probe=life.probe)
        self._lines.freed()
        life.attempt = None
        self._tell_changed(life.request.id)

    async def _finish(
        self, life: _Life, cause: HangupCause | None, outcome: Outcome, *, settled: bool = True
    ) -> None:
        """Write the final outcome and what follows from it in one transaction.

        `cause` is None where the open attempt never reached the PBX. Without `settled` nothing follows.
        """
        now, attempt = self._clock(), life.attempt
        request = replace(
            life.request,
            status=outcome.status,
            updated_at=now,
            ended_at=now,
            failure_reason=None if outcome.status is CallStatus.COMPLETED else outcome.reason,
        )

        tried = False

        async def write() -> None:
            nonlocal tried
            async with self._store.transaction() as work:
                if tried:
                    # Its commit may have been heard by the store alone: nobody is told twice.
                    held = await work.requests.lock(request.id)
                    if held is not None and held.fence == request.fence and held.status == request.status:
                        return
                tried = True
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
                if settled:
                    await self._flows[request.flow].settle(work, request, outcome)
                await work.events.add(
                    self._event(request, f"call.{outcome.status.value}", attempt, reason=outcome.reason)
                )
                if attempt is not None:
                    await self._lines.end(work, attempt, cause, probe=life.probe)

        await self._persist(write)
        self._lines.freed()
        life.request, life.attempt = request, None
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
        """Write an outcome; a store that is locked, full or away gets the time it needs.

        Nothing is lost meanwhile, and nobody waits for it: the call itself is over.
        """
        deadline = asyncio.get_running_loop().time() + STORE_PATIENCE
        pause = 0.1
        while True:
            try:
                await write()
                return
            except StaleFence:
                raise
            except (StoreUnavailable, Overloaded) as error:
                log.warning("call.outcome_waits", error=str(error))
            except StoreError:
                if asyncio.get_running_loop().time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_STORE_PAUSE)

    def _event(
        self, request: RequestRecord, kind: str, attempt: AttemptRecord | None = None, **detail: Any
    ) -> EventRecord:
        return EventRecord(
            id=new_id("evt"),
            at=self._clock(),
            request_id=request.id,
            attempt_id=attempt.id if attempt else None,
            kind=kind,
            detail=detail,
        )

    async def _claim_due(self) -> None:
        """Sleep until the next request is due, and run it."""
        while not self._stopping:
            self._wake.clear()
            pause = 30.0
            try:
                if self._in_doubt:
                    self._in_doubt = False
                    await self._custody.take_back(self._starting)
                next_due = await self._next_due()
                looked = self._clock()
                if next_due is not None and next_due <= looked and self._is_elsewhere():
                    await self._claim(looked)
                    await self._see_the_pbx()
                    continue
                if next_due is not None and next_due <= looked:
                    if await self._claim(looked):
                        continue
                    next_due = await self._next_due()
                if next_due is not None and next_due <= looked:
                    # It was due and found no place: the end of a call wakes us.
                    pause = 1.0
                elif next_due is not None:
                    pause = min(pause, max(0.0, (next_due - self._clock()) / 1000))
            except StoreError as error:
                log.warning("calls.due_unread", error=str(error))
                self._in_doubt = True
                pause = STORE_PAUSE
            except Exception:
                # A fault of ours in one round must not end the work of all.
                log.exception("calls.claim_failed")
                pause = STORE_PAUSE
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    def _is_elsewhere(self) -> bool:
        """Whether what is due is for a controller whose PBX is there: ours is away."""
        return self._store.shared and not self._pbx.ready

    async def _see_the_pbx(self) -> None:
        try:
            await self._pbx.wait_ready(AWAY_LOOK)
        except PbxError:
            # A refused password does not mend itself.
            await asyncio.sleep(AWAY_LOOK)

    async def _next_due(self) -> int | None:
        async with self._store.reading() as work:
            return await work.requests.next_due_at()

    async def _claim(self, now: int) -> bool:
        """Take what is due at `now` into our hands: codes first, the others where their share has room.

        What is too late to be dialled ends, and takes no place for that. Returns whether more may be due
        than was taken.
        """
        everybody, others = (0, 0) if self._is_elsewhere() else self._free_places()
        self._claiming = max(0, min(everybody, CLAIM_BATCH))
        try:
            return await self._claim_into(everybody, others, now)
        finally:
            self._claiming = 0

    async def _claim_into(self, everybody: int, others: int, now: int) -> bool:
        """Claim for so many free places, which are kept meanwhile."""
        lease, lease_now = self._custody.lease_ms, self._custody.now()
        due: list[RequestRecord] = []
        async with self._store.transaction() as work:
            if everybody > 0:
                due += await work.requests.claim_due(
                    self._owner,
                    now,
                    min(everybody, CLAIM_BATCH),
                    lease,
                    least_priority=PRIORITIES[CallClass.OTP],
                    lease_now=lease_now,
                )
            room = min(others, everybody - len(due), CLAIM_BATCH - len(due))
            if room > 0:
                due += await work.requests.claim_due(self._owner, now, room, lease, lease_now=lease_now)
            elif len(due) < CLAIM_BATCH:
                most = CLAIM_BATCH - len(due)
                due += await work.requests.claim_overdue(self._owner, now, most, lease, lease_now=lease_now)
        for request in due:
            self._begin(request, None)
        return len(due) >= CLAIM_BATCH

    async def _settle(self, life: _Life, attempt: AttemptRecord) -> bool:
        """Settle an attempt of an earlier life: adopt it, end it, or let the request dial anew.

        Returns whether the request has another step to do now.
        """
        if attempt.dialed_at is None:
            await self._end_attempt_unsent(life, attempt, "never_dialed")
            return True
        trace = await self._ask_fate(attempt, life)
        log.info("call.settled", call=life.request.id, attempt=attempt.id, fate=trace.fate.value)
        if trace.fate is Fate.NEVER_RANG:
            await self._end_attempt_unsent(life, attempt, "never_rang")
            return True
        if trace.fate is Fate.LIVE:
            return await self._adopt(life, attempt)
        if trace.fate is Fate.ANSWERED:
            return await self._conclude(life, HangupCause(Cause.NORMAL), interrupted(Cause.NORMAL))
        if trace.fate is Fate.NOT_ANSWERED:
            if trace.rang and attempt.ringing_at is None:
                life.attempt = replace(attempt, ringing_at=self._clock())
            cause = trace.cause or HangupCause(Cause.UNKNOWN)
            return await self._conclude(life, cause, unanswered(cause.cause))
        outcome = Outcome(CallStatus.UNKNOWN, "pbx_lost")
        if attempt.answered_at is not None:
            outcome = interrupted(Cause.PBX_LOST)
        return await self._conclude(life, HangupCause(Cause.UNKNOWN), outcome)

    async def _ask_fate(self, attempt: AttemptRecord, life: _Life) -> Trace:
        """Ask the PBX until it answers, at most `link_patience` seconds."""
        deadline = asyncio.get_running_loop().time() + self._config.link_patience
        seen = (life.request.result or {}).get(_UNSEEN, {})
        unseen_for = 0.0
        if seen.get("attempt") == attempt.id:
            unseen_for = (self._custody.now() - seen["at"]) / 1000
            if not 0 < unseen_for < UNSEEN_TRUSTED:
                unseen_for = 0.0

        async def unseen() -> None:
            if not unseen_for:
                await self._note_unseen(life, attempt)

        while True:
            rest = deadline - asyncio.get_running_loop().time()
            if rest <= 0:
                return Trace(Fate.UNKNOWN)
            try:
                if await self._pbx.wait_ready(rest):
                    return await self._pbx.fate(
                        attempt.id, attempt.dialed_at or 0, unseen_for=unseen_for, unseen=unseen
                    )
            except PbxError as error:
                log.warning("call.fate_unasked", attempt=attempt.id, error=str(error))
                await asyncio.sleep(1.0)

    async def _note_unseen(self, life: _Life, attempt: AttemptRecord) -> None:
        """Write when the PBX first knew nothing of an attempt: lives that are short add up to one wait."""
        seen = {"attempt": attempt.id, "at": self._custody.now()}
        result = {**(life.request.result or {}), _UNSEEN: seen}
        try:
            async with self._store.transaction() as work:
                await work.requests.update(life.request.id, fence=life.request.fence, result=result)
        except StaleFence:
            raise
        except StoreError as error:
            log.warning("call.unseen_not_noted", call=life.request.id, error=str(error))
            return
        life.request = replace(life.request, result=result)

    async def _adopt(self, life: _Life, attempt: AttemptRecord) -> bool:
        """Go on with a leg that stands: one that rings may still be answered and have its talk."""
        made = await self._prepare(life.request)
        prepared = made if isinstance(made, Prepared) else Prepared((), 30.0, 30.0)
        order = self._order(life.request, attempt, prepared)
        context: AbstractAsyncContextManager[Leg] = self._pbx.adopt(
            order, dialed_at_ms=attempt.dialed_at or 0
        )
        try:
            async with context as leg:
                if isinstance(made, Outcome):
                    await leg.hangup(Cause.CANCELED)
                return await self._watch(life, leg, order.ring_timeout, prepared)
        finally:
            for media in prepared.media:
                self._discard(media)


def _tried(request: RequestRecord) -> Sequence[str]:
    """The trunks that were tried in this round."""
    tried: Sequence[str] = (request.result or {}).get("tried", ())
    return tried


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
