"""Lets the PBX keep a call a few seconds at a time, for as long as we live.

A step of a conversation may be long: a prompt, and the wait behind it, are one AGI command. So a call has a
`TIMEOUT(absolute)` of `HOLD` seconds, which AMI `Setvar` moves on for as long as its step may last, whatever
command is running. A controller that freezes leaves nobody waiting longer than that, in the middle of a
prompt or with a key pressed that nobody answers. Without an AMI link the limit is set once for the
whole step, by AGI. What it never does: let a step last longer than it was given, or touch a call
after `release`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from telephony.errors import PbxError, PbxUnavailable, WireError

HOLD: Final = 5.5
"""Seconds that the PBX keeps a call without hearing of us."""

RENEW_BELOW: Final = 1.5
"""Seconds that are left when the limit is moved on: as long may the event loop, or the link, be late."""

GRID: Final = 0.5
"""Limits are moved on at multiples of so many seconds: many calls' in one write."""

RETRY: Final = 0.25
"""Seconds from a limit that could not be moved on to the next trial."""

MARGIN: Final = 2.5
"""Seconds beyond its length after which a step is given up by the PBX though we live."""

FRESH: Final = 0.5
"""Seconds after a command that was carried out in which a call is certainly still with us."""

MOVE_SECONDS: Final = 1.5
"""How long moving a limit on may take."""

Move = Callable[[float], Awaitable[None]]
"""Sets a channel's limit, in seconds from now. Raises `PbxError` or `WireError`."""


class Guard:
    """One call's limit. `move` goes beside the conversation (AMI), `set_now` through it (AGI).

    `heard_at` tells since when the conversation certainly stood, by the event loop's time. `held` is for how
    many seconds from now the dialplan has certainly limited the call by itself.
    """

    def __init__(
        self, move: Move, set_now: Move, heard_at: Callable[[], float], *, held: float = 0.0
    ) -> None:
        self._move = move
        self._set_now = set_now
        self._heard_at = heard_at
        self._loop = asyncio.get_running_loop()
        self._until = 0.0
        self._held = self._loop.time() + held
        self._open = False
        self._timer: asyncio.TimerHandle | None = None
        self._moving: asyncio.Task[bool] | None = None
        self._unanswered = False

    async def allow(self, seconds: float) -> None:
        """A step of so many seconds begins. Raises what `set_now` raises."""
        now = self._loop.time()
        self._until = now + seconds + MARGIN
        if self._held - now >= min(RENEW_BELOW / 2, self._until - now):
            self._open = True
            self._watch()
            return
        await self._stop()
        # A call may have gone its own way while we were frozen: it is no longer ours to limit then, which
        # only the conversation tells.
        if now - self._heard_at() > FRESH or not await self._move_on():
            await self._set_now(seconds + MARGIN)
            self._open = True
            self._begin()
            return
        self._open = True
        self._watch()

    async def release(self) -> None:
        """Leave the limit alone from now on; one that is just being moved on is waited for.

        Where the PBX did not answer one it may come yet, and would cut a call that was handed on. The PBX
        answers in order: once it has answered another one, nothing is left to come.
        """
        await self._stop()
        if self._unanswered:
            self._unanswered = False
            with suppress(PbxError, WireError):
                await self._move(HOLD)

    async def _stop(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._moving is not None:
            await asyncio.wait({self._moving})
        self._held = 0.0

    def _watch(self, after: float = 0.0) -> None:
        if self._timer is None and self._moving is None and self._until > self._held:
            due = (self._held - RENEW_BELOW) // GRID * GRID
            self._timer = self._loop.call_at(max(due, self._loop.time() + after), self._renew)

    def _renew(self) -> None:
        self._timer = None
        if self._loop.time() < self._held:
            self._begin()

    def _begin(self) -> None:
        self._moving = self._loop.create_task(self._move_on(), name="call-guard")
        self._moving.add_done_callback(self._moved)

    async def _move_on(self) -> bool:
        """Whether the limit is as far away as it may be."""
        now = self._loop.time()
        seconds = min(HOLD, self._until - now)
        if now + seconds > self._held:
            try:
                await self._move(seconds)
            except (PbxError, WireError) as error:
                self._unanswered |= not (isinstance(error, PbxUnavailable) and not error.sent)
                return False
            self._unanswered = False
            self._held = now + seconds
        return True

    def _moved(self, _task: asyncio.Task[bool]) -> None:
        self._moving = None
        if self._open and self._loop.time() < self._held:
            self._watch(RETRY)
