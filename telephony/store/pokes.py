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
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from telephony.errors import ConfigError, StoreUnavailable
from telephony.store.failures import DATABASE_ERRORS, store_error

_log = structlog.get_logger(__name__)

CHANNEL: Final = "telephony"
_LOOK_SECONDS: Final = 15.0
"""How often a silent connection is asked whether it still stands."""
NAME_PATIENCE: Final = 30.0
"""Seconds that a start waits for its name: so long a session may stand whose machine has died."""
_NAME_PAUSE: Final = 0.1
_NAMES: Final = 1_952_805_748
"""An arbitrary number, the same in every version: "tele" in ASCII. Names are locked beside it."""
_TAKE_NAME: Final = "SELECT pg_try_advisory_lock($1, hashtext($2))"
_KEEPALIVE: Final = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
"""By which the server sees within 25 s that our machine has died, and lets our name go."""
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


@asynccontextmanager
async def listening(engine: AsyncEngine, name: str, heard: Heard) -> AsyncIterator[None]:
    """Hear every poke until the block ends, under a `name` that nobody else listens under.

    The connection is one of its own, replaced whenever it breaks; `engine` makes connections to PostgreSQL
    itself, without a pool. Raises `ConfigError` where the name is taken, `StoreUnavailable` where no
    connection can be had at the beginning.
    """
    ear = _Ear(engine, name, heard)
    await ear.begin()
    task = asyncio.create_task(ear.keep(), name="store-pokes")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ear.end()


class _Ear:
    """One listener and its connection."""

    def __init__(self, engine: AsyncEngine, name: str, heard: Heard) -> None:
        self._engine = engine
        self._name = name
        self._heard = heard
        self._connection: AsyncConnection | None = None
        self._gone = asyncio.Event()

    async def begin(self) -> None:
        """Connect and take the name, for which a session that is just ending gets some time."""
        deadline = asyncio.get_running_loop().time() + NAME_PATIENCE
        try:
            while not await self._connect():
                await self.end()
                if asyncio.get_running_loop().time() > deadline:
                    raise ConfigError(
                        "server.node",
                        f"another controller works on this database as {self._name!r}",
                        "Give each its own name",
                    )
                await asyncio.sleep(_NAME_PAUSE)
        except DATABASE_ERRORS as error:
            await self.end()
            raise store_error(error) from error

    async def keep(self) -> None:
        """Watch the connection, and replace it whenever it breaks."""
        failures = 0
        while True:
            try:
                if self._connection is None and not await self._connect():
                    _log.error("store.name_taken", node=self._name, mend="give each controller its own name")
                failures = 0
                self._heard(Poke(PokeKind.MISSED))
                await self._until_gone()
            except DATABASE_ERRORS as error:
                if not failures:
                    _log.warning("store.pokes_lost", error=str(store_error(error)))
            await self.end()
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1

    async def _connect(self) -> bool:
        """Open a connection that listens; returns whether the name is ours as long as it stands."""
        self._gone = gone = asyncio.Event()
        self._connection = await self._engine.connect()
        driver = await self._driver()
        driver.add_termination_listener(lambda _connection: gone.set())
        for name, seconds in _KEEPALIVE.items():
            await driver.execute(f"SET {name} = {seconds}")
        await driver.add_listener(CHANNEL, self._on_notify)
        return bool(
            await driver.fetchval("SELECT pg_try_advisory_lock($1, hashtext($2))", _NAMES, self._name)
        )

    async def _until_gone(self) -> None:
        driver = await self._driver()
        while not self._gone.is_set():
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._gone.wait()
            except TimeoutError:
                await driver.fetchval("SELECT 1")

    async def _driver(self) -> Any:
        """asyncpg's own connection: nothing of what is done here belongs to a transaction."""
        if self._connection is None:
            raise StoreUnavailable("there is no connection to listen on")
        return (await self._connection.get_raw_connection()).driver_connection

    async def end(self) -> None:
        """Close the connection, in whatever state it is."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*DATABASE_ERRORS):
                await connection.invalidate()
                await connection.close()

    def _on_notify(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        poke = _read(payload)
        if poke is not None:
            self._heard(poke)


def _read(payload: str) -> Poke | None:
    """Read a payload; None for one of a version that knows more kinds."""
    kind, _, subject = payload.partition(" ")
    with suppress(ValueError):
        return Poke(PokeKind(kind), subject)
    return None
