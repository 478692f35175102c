"""Waiting for a database, and not leaving it half-way: bounds that both engines share.

What it never does: know an engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import structlog

from telephony.errors import StoreCrowded

_log = structlog.get_logger(__name__)

Result = TypeVar("Result")

MAX_WAITING: Final = 2_000
"""How many transactions may wait for their turn before more are turned away."""


async def to_the_end(work: Coroutine[Any, Any, Result] | asyncio.Future[Result]) -> Result:
    """Await `work` even when we are cancelled meanwhile: a commit is never left half awaited."""
    future = asyncio.ensure_future(work)
    cancelled = False
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:
            # It is done, and told below.
            break
    if cancelled:
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.warning("store.failed_while_cancelled", error=type(error).__name__)
        raise asyncio.CancelledError
    return future.result()


class Turnstile:
    """Counts those who wait for a connection, and turns the one too many away."""

    def __init__(self) -> None:
        self._waiting = 0

    def enter(self) -> None:
        """Raise `StoreCrowded` when too many wait already."""
        if self._waiting >= MAX_WAITING:
            raise StoreCrowded("too many transactions wait for the database")
        self._waiting += 1

    def leave(self) -> None:
        """Undo one `enter`."""
        self._waiting -= 1
