"""The two engines behind one face: how a connection is opened, begun, committed and given back.

SQLite is in `telephony.store.sqlite`. PostgreSQL: a pool, READ COMMITTED; rows are locked by the
statements that decide.
What it never does: know a table.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import structlog
from sqlalchemy import URL, ColumnElement, event, literal_column, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from telephony.errors import ConfigError
from telephony.store.failures import DATABASE_ERRORS, opening_error, store_error
from telephony.store.pokes import Heard, listening
from telephony.store.sqlite import InlineConnection, SqliteEngine
from telephony.store.turns import Turnstile, to_the_end

_log = structlog.get_logger(__name__)

_POSTGRES_CONNECTIONS: Final = 10
_MIGRATION_DEADLINE: Final = 120.0
"""Seconds a starter waits for another one to finish its migration, or for its own statements."""
_CLOSE_DEADLINE: Final = 10.0
_POSTGRES_NOW: Final[ColumnElement[int]] = literal_column(
    "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
)


Connection: TypeAlias = AsyncConnection | InlineConnection
"""What a transaction speaks to; the one has the face of the other."""


class Engine(Protocol):
    """What `Store` asks of an engine. `deadline` below is the one given at opening, in seconds.

    `shared` tells whether other processes may work on the same rows.
    """

    shared: bool

    def now(self) -> int | ColumnElement[int]:
        """This moment in milliseconds since the epoch, or the expression that gives it in the database."""

    async def migrate(self, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Do `work` in one write transaction that no other starter shares."""

    def writing(self) -> AbstractAsyncContextManager[Connection]:
        """One write transaction: committed at the normal end, rolled back at an exception.

        Waits at most the deadline for its turn and as long for the lock; then `StoreUnavailable`.
        """

    def reading(self) -> AbstractAsyncContextManager[Connection]:
        """One read-only transaction; never waits for a writer."""

    def listening(self, name: str, heard: Heard) -> AbstractAsyncContextManager[None]:
        """Hear the pokes of others until the block ends, and be the only one of this name in it.

        Raises `ConfigError` where somebody is that already.
        """

    async def ping(self) -> None:
        """Raise `StoreUnavailable` unless the database is there and answers."""

    async def close(self) -> None:
        """Close every connection."""


def open_engine(url: str, *, deadline: float) -> Engine:
    """Return the engine for `sqlite:///path/to/file` or `postgresql://user:password@host/name`.

    Nothing is connected yet. Raises `ConfigError` for any other URL, and where a driver is missing.
    """
    mend = "Write sqlite:////absolute/path/telephony.db or postgresql://user:password@host/name"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("store.url", "is not a database URL", mend) from error
    match parsed.drivername:
        case "sqlite" | "sqlite+aiosqlite":
            if not parsed.database or parsed.database == ":memory:" or parsed.query:
                raise ConfigError("store.url", "SQLite needs a file, and nothing after it", mend)
            return SqliteEngine(parsed.set(drivername="sqlite"), Path(parsed.database), deadline)
        case "postgres" | "postgresql" | "postgresql+asyncpg":
            try:
                return PostgresEngine(_for_asyncpg(parsed), deadline)
            except ModuleNotFoundError as error:
                raise ConfigError(
                    "store.url", "the PostgreSQL driver is not installed", "Install telephony[postgres]"
                ) from error
        case other:
            raise ConfigError("store.url", f"{other} is not an engine of ours", mend)


def _for_asyncpg(url: URL) -> URL:
    # libpq, and so every guide, says sslmode; asyncpg takes the same words under the name ssl.
    query = {"ssl" if name == "sslmode" else name: value for name, value in url.query.items()}
    return url.set(drivername="postgresql+asyncpg", query=query)


@asynccontextmanager
async def _transaction(connection: AsyncConnection) -> AsyncIterator[None]:
    """Begin, then commit or roll back to the end, whatever happens to the task."""
    try:
        transaction = await connection.begin()
    except DATABASE_ERRORS as error:
        raise store_error(error) from error
    try:
        yield
    except BaseException:
        await to_the_end(_undo(connection, transaction.rollback))
        raise
    try:
        await to_the_end(transaction.commit())
    except DATABASE_ERRORS as error:
        await to_the_end(_undo(connection, transaction.rollback))
        raise store_error(error) from error


async def _undo(connection: AsyncConnection, rollback: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Roll back; a connection that can't even do that is thrown away, which rolls back as well."""
    try:
        await rollback()
    except DATABASE_ERRORS as error:
        _log.warning("store.rollback_failed", error=str(store_error(error)))
        await connection.invalidate()


class PostgresEngine:
    """PostgreSQL through asyncpg; leases go by the database's clock."""

    shared = True

    def __init__(self, url: URL, deadline: float) -> None:
        self._url = url
        self._deadline = deadline
        self._turnstile = Turnstile()
        self.pool = self._engine(
            deadline,
            pool_size=_POSTGRES_CONNECTIONS,
            max_overflow=0,
            pool_timeout=deadline,
            # The last one given back is the next one used: its statements are prepared already.
            pool_use_lifo=True,
        )
        event.listen(self.pool.sync_engine, "checkout", _refuse_closed)
        self._read_only = self.pool.execution_options(postgresql_readonly=True)

    def _engine(self, deadline: float, **pool: Any) -> AsyncEngine:
        return create_async_engine(
            self._url,
            isolation_level="READ COMMITTED",
            connect_args={
                "timeout": deadline,
                "command_timeout": deadline,
                "server_settings": {"application_name": "telephony"},
            },
            hide_parameters=True,
            **pool,
        )

    async def migrate(self, work: Callable[[AsyncConnection], Coroutine[Any, Any, None]]) -> None:
        """Do `work` under an advisory lock that ends with its transaction."""
        engine = self._engine(_MIGRATION_DEADLINE, poolclass=NullPool)
        try:
            async with engine.connect() as connection, _transaction(connection):
                # An arbitrary number, the same in every version: "telephon" in ASCII.
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(8387229063980805998)")
                await work(connection)
        except DATABASE_ERRORS as error:
            raise opening_error(error) from error
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool."""
        async with _pooled(self.pool, self._turnstile) as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection of the same pool, told to refuse writes."""
        async with _pooled(self._read_only, self._turnstile) as connection:
            yield connection

    @asynccontextmanager
    async def listening(self, name: str, heard: Heard) -> AsyncIterator[None]:
        """A connection outside the pool, which is open for as long as we listen."""
        engine = self._engine(self._deadline, poolclass=NullPool)
        try:
            async with listening(engine, name, heard):
                yield
        finally:
            await engine.dispose()

    def now(self) -> ColumnElement[int]:
        """The server's clock: the same for every controller."""
        return _POSTGRES_NOW

    async def ping(self) -> None:
        """Ask the server for an answer."""
        await _ping(self.reading())

    async def close(self) -> None:
        """Close the pool."""
        async with asyncio.timeout(_CLOSE_DEADLINE):
            await self.pool.dispose()


def _refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """Let the pool open a new connection for one that the server has closed while nobody used it."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError("closed by the server")


@asynccontextmanager
async def _pooled(engine: AsyncEngine, turnstile: Turnstile) -> AsyncIterator[AsyncConnection]:
    turnstile.enter()
    try:
        connection = await engine.connect()
    except DATABASE_ERRORS as error:
        raise store_error(error) from error
    finally:
        turnstile.leave()
    try:
        async with _transaction(connection):
            yield connection
    finally:
        await to_the_end(connection.close())


async def _ping(reading: AbstractAsyncContextManager[AsyncConnection]) -> None:
    try:
        async with reading as connection:
            await connection.exec_driver_sql("SELECT 1")
    except DATABASE_ERRORS as error:
        raise store_error(error) from error
