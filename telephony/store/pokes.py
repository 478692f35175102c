"""Pokes: what one controller tells the others on the same PostgreSQL, so that they need not look for it.

A poke is sent within a transaction and heard after its commit, by everybody, the sender included. None is
kept: who was not connected has missed it, and is told so when it is connected again.
What it never does: carry anything that is not in the tables, or promise to arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from telephony.store.failures import DATABASE_ERRORS, store_error

_log = structlog.get_logger(__name__)

CHANNEL: Final = "telephony"
_LOOK_SECONDS: Final = 15.0
"""How often a silent connection is asked whether it still stands."""
_PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds between tries to connect again; the last one repeats."""


class PokeKind(StrEnum):
    """What a poke is about."""

    DUE = "due"
    """A request is due now, and its controller has no place for it."""
    CANCEL = "cancel"
    """Somebody asked to cancel the request that `subject` names."""
    MISSED = "missed"
    """Whatever was sent before now may have been missed. Nobody sends it."""


@dataclass(frozen=True, slots=True)
class Poke:
    """One poke; `subject` is an identifier, empty where the kind needs none."""

    kind: PokeKind
    subject: str = ""


Heard = Callable[[Poke], None]
"""What is called with each poke; it must not block."""


async def listen(engine: AsyncEngine, heard: Heard) -> None:
    """Hear every poke, for ever: on a connection of its own, and on a new one whenever that breaks.

    `engine` makes connections to PostgreSQL itself, without a pool.
    """
    failures = 0
    while True:
        try:
            async with _listening(engine, heard) as closed:
                failures = 0
                heard(Poke(PokeKind.MISSED))
                await closed()
        except DATABASE_ERRORS as error:
            if not failures:
                _log.warning("pokes.lost", error=str(store_error(error)))
        await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
        failures += 1


@asynccontextmanager
async def _listening(engine: AsyncEngine, heard: Heard) -> AsyncIterator[Callable[[], Any]]:
    """A connection that listens; what is yielded waits until it has ended."""
    gone = asyncio.Event()

    def on_notify(_connection: object, _pid: int, _channel: str, payload: str) -> None:
        poke = _read(payload)
        if poke is not None:
            heard(poke)

    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_termination_listener(lambda _connection: gone.set())
        await driver.add_listener(CHANNEL, on_notify)

        async def closed() -> None:
            while not gone.is_set():
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await gone.wait()
                except TimeoutError:
                    await driver.fetchval("SELECT 1")

        try:
            yield closed
        finally:
            await connection.invalidate()


def _read(payload: str) -> Poke | None:
    """Read a payload; None for one of a version that knows more kinds."""
    kind, _, subject = payload.partition(" ")
    with suppress(ValueError):
        return Poke(PokeKind(kind), subject)
    return None
