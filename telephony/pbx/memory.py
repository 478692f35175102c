"""A PBX in memory, for unit tests and simulation: callees are scripted, time is the event loop's.

It keeps what a PBX keeps (live channels, notes of ended attempts, its own start), so that recovery can
be tried without one. What it never does: make a sound, or open a socket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from telephony.errors import CallEnded, PbxRejected, PbxUnavailable, StaleFence
from telephony.model.hangup import Cause, HangupCause
from telephony.model.media import Media
from telephony.pbx.port import (
    Accepted,
    Answered,
    DialOrder,
    Ended,
    Fate,
    Gathered,
    LegEvent,
    LinkLost,
    LiveChannel,
    NotBefore,
    Ringing,
    Trace,
)

LEG_EVENTS = 32


@dataclass(frozen=True, slots=True)
class Callee:
    """What the far end does. Times in seconds, None: never.

    `keys` are pressed one by one, each as soon as a prompt listens for one; `hang_up_after` counts the
    prompts heard before the callee hangs up. A `machine` whose `greeting_ends` is not set talks on. One that
    `does_not_wait` hangs up while the PBX listens for a machine.
    """

    ring_after: float | None = 0.0
    answer_after: float | None = 0.0
    refuses_with: HangupCause | None = None
    keys: str = ""
    hang_up_after: int | None = None
    machine: bool = False
    greeting_ends: bool = True
    does_not_wait: bool = False


@dataclass(slots=True)
class MemorySession:
    """A conversation that remembers what was played, by media name."""

    id: str
    caller: str
    called: str
    callee: Callee
    leg: MemoryLeg | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    played: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    machine: bool = False
    heard_out: int = 0
    transferred_to: tuple[str, str] | None = None
    gone: bool = False
    _keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._keys = list(self.callee.keys)

    def _still_there(self) -> None:
        if self.gone:
            raise CallEnded
        limit = self.callee.hang_up_after
        if limit is not None and len(self.played) >= limit:
            self.end(Cause.NORMAL)
            raise CallEnded

    def end(self, cause: Cause) -> None:
        """End the channel."""
        self.gone = True
        if self.leg is not None:
            self.leg.end(HangupCause(cause))

    async def answer(self) -> None:
        """Nothing to do: the callee has answered."""
        self._still_there()

    async def play(self, media: Media, *, barge_in: str = "") -> str | None:
        """Note the media; the next scripted key ends it early where it may."""
        await asyncio.sleep(0)
        self._still_there()
        self.played.append(media.name)
        self._still_there()
        if self._keys and self._keys[0] in barge_in:
            return self._keys.pop(0)
        return None

    async def gather(
        self,
        media: Media | None,
        *,
        max_digits: int,
        timeout: float,
        inter_digit_timeout: float = 2.0,
        terminator: str = "#",
        guarded: bool = False,
        not_before: NotBefore | None = None,
    ) -> Gathered:
        """Take scripted keys, pressed when they count; none left is a timeout, at once."""
        await asyncio.sleep(0)
        self._still_there()
        if media is not None:
            self.played.append(media.name)
            self._still_there()
        digits = ""
        heard = media.seconds if media else 0.0
        while self._keys:
            key = self._keys.pop(0)
            if key in terminator:
                return Gathered(digits, "terminator", heard)
            digits += key
            if len(digits) >= max_digits:
                return Gathered(digits, "max_digits", heard)
        return Gathered(digits, "timeout", heard)

    async def record(
        self, name: str, *, max_seconds: float, silence_seconds: float = 3.0, terminators: str = "#"
    ) -> float:
        """Record nothing, for no time."""
        self._still_there()
        return 0.0

    async def hear_out(self, timeout: float) -> bool:
        """Count it, and tell at once what would come of it."""
        self._still_there()
        self.heard_out += 1
        return self.callee.greeting_ends

    async def transfer(self, extension: str, context: str) -> None:
        """Note where to."""
        self._still_there()
        self.transferred_to = (extension, context)
        self.end(Cause.NORMAL)

    async def set_variable(self, name: str, value: str) -> None:
        """Note the variable."""
        self._still_there()
        self.variables[name] = value

    def hand_back(self, values: Mapping[str, str]) -> None:
        """Note them."""
        self.variables.update(values)

    async def hold(self, silence: Media, until: asyncio.Future[Any]) -> str:
        """Nobody presses anything meanwhile."""
        self._still_there()
        await asyncio.wait({until})
        return ""

    async def guard(self, seconds: float) -> None:
        """Nothing to do: nobody freezes here."""
        self._still_there()

    async def extend(self, seconds: float) -> None:
        """Nothing to do: a call in memory has no dead air."""
        self._still_there()

    async def hangup(self) -> None:
        """End the call in good order."""
        self._still_there()
        self.end(Cause.NORMAL)


class MemoryLeg:
    """An ordered call in memory."""

    def __init__(self, order: DialOrder, forget: Callable[[str, HangupCause], None]) -> None:
        self.order = order
        self.session: MemorySession | None = None
        self.ended = False
        self.ringing = False
        self._forget = forget
        self._events: asyncio.Queue[LegEvent] = asyncio.Queue(LEG_EVENTS)

    async def next_event(self) -> LegEvent:
        """Wait for what happens next."""
        return await self._events.get()

    async def hangup(self, cause: Cause = Cause.NORMAL) -> None:
        """End it."""
        self.end(HangupCause(Cause.NORMAL if self.session else Cause.CANCELED))

    def deliver(self, event: LegEvent) -> None:
        """Queue an event unless the leg is over."""
        if not self.ended:
            self._events.put_nowait(event)

    def end(self, cause: HangupCause, listened: float | None = None) -> None:
        """Be over, once."""
        if self.ended:
            return
        self.deliver(Ended(cause, listened))
        self.ended = True
        if self.session is not None:
            self.session.gone = True
        self._forget(self.order.attempt_id, cause)


@dataclass
class MemoryNotes:
    """AstDB and the globals; `deaf` refuses everything."""

    values: dict[tuple[str, str], str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    writes: int = 0
    deaf: bool = False

    async def keep(self, values: Mapping[tuple[str, str], str]) -> None:
        """Take the values; refused where it is deaf."""
        if self.deaf:
            raise PbxUnavailable("deaf", sent=False)
        self.writes += 1
        self.values.update(values)

    async def kept(self, family: str) -> Mapping[str, str]:
        """Every value of a family."""
        return {key: value for (of, key), value in self.values.items() if of == family}

    async def forget(self, family: str, key: str) -> None:
        """Remove a value."""
        self.values.pop((family, key), None)

    async def variable(self, name: str) -> str:
        """A global variable."""
        return self.variables.get(name, "")

    async def clear(self, name: str) -> None:
        """Let it be empty."""
        self.variables[name] = ""


class MemoryPbx:
    """The `Pbx` port in memory. `callees` maps numbers to scripts; others answer at once.

    `unreachable` are the endpoints whose far end is silent, `strangers` channels that nobody here placed.
    """

    def __init__(self, callees: Mapping[str, Callee] | None = None) -> None:
        self.callees = dict(callees or {})
        self.orders: list[DialOrder] = []
        self.sessions: list[MemorySession] = []
        self.unreachable: set[str] = set()
        self.strangers: list[LiveChannel] = []
        self.started_at_ms = time.time_ns() // 1_000_000
        self._legs: dict[str, MemoryLeg] = {}
        self.notes = MemoryNotes()
        self._notes: dict[str, Trace] = {}
        self._ready = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether it takes orders."""
        return self._ready.is_set()

    async def start(self) -> None:
        """Be ready."""
        self._ready.set()

    async def stop(self) -> None:
        """End every script."""
        self._ready.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_ready(self, timeout: float) -> bool:
        """Wait until it takes orders."""
        try:
            await asyncio.wait_for(self._ready.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def lose_link(self) -> None:
        """Break the link: legs stand on, their owners do not see them."""
        self._ready.clear()
        for leg in self._legs.values():
            leg.deliver(LinkLost())

    def restore_link(self) -> None:
        """Take orders again."""
        self._ready.set()

    @asynccontextmanager
    async def dial(self, order: DialOrder) -> AsyncIterator[MemoryLeg]:
        """Order one ring and play the callee's script."""
        if not self.ready:
            raise PbxUnavailable("the PBX in memory is not linked", sent=False)
        if order.attempt_id in self._legs or order.attempt_id in self._notes:
            raise PbxRejected("an attempt is dialled once")
        leg = MemoryLeg(order, self._note)
        self.orders.append(order)
        self._legs[order.attempt_id] = leg
        leg.deliver(Accepted())
        task = asyncio.create_task(self._play(leg), name=f"callee-{order.attempt_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            yield leg
        except StaleFence:
            # Somebody else goes on with it.
            raise
        except BaseException:
            await leg.hangup()
            task.cancel()
            raise
        await leg.hangup()
        task.cancel()

    @asynccontextmanager
    async def adopt(self, order: DialOrder, *, dialed_at_ms: int) -> AsyncIterator[MemoryLeg]:
        """Watch a leg that stands."""
        yield self._legs[order.attempt_id]

    async def channels(self) -> tuple[LiveChannel, ...]:
        """Every leg that stands, and the strangers."""
        legs = (
            LiveChannel(
                leg.order.attempt_id,
                f"PJSIP/{leg.order.endpoint}-{place:08x}",
                "Up" if leg.session else "Ringing",
                0.0,
            )
            for place, leg in enumerate(self._legs.values())
        )
        return (*legs, *self.strangers)

    async def reaches(self, endpoint: str) -> bool | None:
        """As `unreachable` says."""
        return endpoint not in self.unreachable

    async def fate(
        self,
        attempt_id: str,
        dialed_at_ms: int,
        *,
        unseen_for: float = 0.0,
        unseen: Callable[[], Awaitable[None]] | None = None,
    ) -> Trace:
        """Live legs, then notes, then its own start; no link can have left anything unread."""
        if attempt_id in self._legs:
            return Trace(Fate.LIVE)
        if attempt_id in self._notes:
            return self._notes[attempt_id]
        if self.started_at_ms <= dialed_at_ms:
            return Trace(Fate.NEVER_RANG)
        return Trace(Fate.UNKNOWN)

    async def hangup(self, channel_id: str, cause: Cause = Cause.NORMAL) -> None:
        """End a leg by its id."""
        leg = self._legs.get(channel_id)
        if leg is not None:
            await leg.hangup(cause)

    def _note(self, attempt_id: str, cause: HangupCause) -> None:
        leg = self._legs.pop(attempt_id)
        fate = Fate.ANSWERED if leg.session else Fate.NOT_ANSWERED
        self._notes[attempt_id] = Trace(fate, cause, rang=leg.ringing)

    async def _play(self, leg: MemoryLeg) -> None:
        callee = self.callees.get(leg.order.number, Callee())
        if callee.ring_after is not None:
            await asyncio.sleep(callee.ring_after)
            leg.ringing = True
            leg.deliver(Ringing())
        if callee.refuses_with is not None:
            leg.end(callee.refuses_with)
        elif callee.answer_after is None or callee.answer_after >= leg.order.ring_timeout:
            await asyncio.sleep(leg.order.ring_timeout)
            leg.end(HangupCause(Cause.NO_ANSWER))
        else:
            await asyncio.sleep(callee.answer_after)
            if callee.does_not_wait and leg.order.detect_machines:
                leg.end(HangupCause(Cause.NORMAL), listened=1.0)
                return
            session = MemorySession(
                leg.order.attempt_id, leg.order.caller_number, leg.order.number, callee, leg
            )
            session.machine = callee.machine and leg.order.detect_machines
            leg.session = session
            self.sessions.append(session)
            leg.deliver(Answered(session))
            await asyncio.sleep(leg.order.max_duration)
            leg.end(HangupCause(Cause.NORMAL))
