"""One question for all who ask it at the same time: a restart asks for every attempt what stands.

What it never does: give an answer that was asked for before its asker came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Together(Generic[Answer]):
    """Calls `ask` once for those who wait for it; who comes while it is being asked gets the next answer.

    What `ask` raises is raised to each of them. One who is cancelled leaves the others' question alone.
    """

    def __init__(self, ask: Callable[[], Awaitable[Answer]]) -> None:
        self._ask = ask
        self._next: asyncio.Task[Answer] | None = None
        self._asking = asyncio.Lock()

    async def __call__(self) -> Answer:
        """Ask, with whoever else wants to know."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(), name="asked-together")
            # Its failure is told to those who wait; where nobody is left, to nobody.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._next)

    async def _run(self) -> Answer:
        async with self._asking:
            self._next = None
            return await self._ask()
