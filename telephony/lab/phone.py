"""A subscriber who is told what to do while the call stands.

What it never does: act by itself, but for noticing that the other side hung up.
"""

from __future__ import annotations

import asyncio
from typing import Final

from telephony.lab.carrier import CarrierCall

HANG_UP: Final = "hangup"
_LOOK_SECONDS: Final = 0.3


class Phone:
    """Does what it is told, in order, and stays on the line meanwhile; be a `Subscriber` by calling it."""

    def __init__(self) -> None:
        self._todo: asyncio.Queue[tuple[float, str]] = asyncio.Queue()

    def soon(self, what: str, after: float = 0.0) -> None:
        """Press keys, or `hangup`, so many seconds after what was told before is done."""
        self._todo.put_nowait((after, what))

    async def __call__(self, call: CarrierCall) -> None:
        """Be a subscriber of the carrier."""
        while True:
            try:
                after, what = await asyncio.wait_for(self._todo.get(), _LOOK_SECONDS)
            except TimeoutError:
                # Notices that the other side has hung up.
                await call.wait(0.001)
                continue
            if what == HANG_UP:
                await call.hang_up(after=after)
            await call.press(what, after=after)
