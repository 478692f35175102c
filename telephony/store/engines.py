"""The two engines behind one face: how a connection is opened, begun, committed and given back.

SQLite: one write connection, taken in turn; every write transaction is `BEGIN IMMEDIATE`, so what it
reads before it decides can't change; readers have connections of their own (WAL).
PostgreSQL: a pool, READ COMMITTED; rows are locked by the statements that decide.
What it never does: know a table.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import structlog
from sqlalchemy import URL, ColumnElement, event, literal_column, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from telephony.errors import ConfigError, StoreCrowded, StoreUnavailable
from telephony.store.failures import DATABASE_ERRORS, opening_error, store_error

_log = structlog.get_logger(__name__)

Result = TypeVar("Result")

_MAX_WAITING: Final = 2_000
"""How many transactions may wait for their turn before more are turned away."""
_READERS: Final = 4
_POSTGRES_CONNECTIONS: Final = 10
_MIGRATION_DEADLINE: Final = 120.0
"""Seconds a starter waits for another one to finish its migration, or for its own statements."""
_LOCKED_PAUSE: Final = 0.02
_CLOSE_DEADLINE: Final = 10.0
_POSTGRES_NOW: Final[ColumnElement[int]] = literal_column(
    "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
)


class Engine(Protocol):
    """What `Store` asks of an engine. `deadline` below is the one given at opening, in seconds."""

    def now(self) -> int | ColumnElement[int]:
        """This moment in milliseconds since the epoch, or the expression that gives it in the database."""

    async def migrate(self, work: Callable[[AsyncConnection], Coroutine[Any, Any, None]]) -> None:
        """Do `work` in one write transaction that no other starter shares."""

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One write transaction: committed at the normal end, rolled back at an exception.

        Waits at most the deadline for its turn and as long for the lock; then `StoreUnavailable`.
        """

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One read-only transaction; never waits for a writer."""

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
            return SqliteEngine(parsed.set(drivername="sqlite+aiosqlite"), Path(parsed.database), deadline)
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


async def _to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work` even when we are cancelled meanwhile: a commit is never left half awaited."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("store.failed_while_cancelled", error=type(error).__name__)
        raise asyncio.CancelledError
    return task.result()


class _Turnstile:
    """Counts those who wait for a connection, and turns the one too many away."""

    def __init__(self) -> None:
        self._waiting = 0

    def enter(self) -> None:
        """Raise `StoreCrowded` when too many wait already."""
        if self._waiting >= _MAX_WAITING:
            raise StoreCrowded("too many transactions wait for the database")
        self._waiting += 1

    def leave(self) -> None:
        """Undo one `enter`."""
        self._waiting -= 1


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
        await _to_the_end(_undo(connection, transaction.rollback))
        raise
    try:
        await _to_the_end(transaction.commit())
    except DATABASE_ERRORS as error:
        await _to_the_end(_undo(connection, transaction.rollback))
        raise store_error(error) from error


async def _undo(connection: AsyncConnection, rollback: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Roll back; a connection that can't even do that is thrown away, which rolls back as well."""
    try:
        await rollback()
    except DATABASE_ERRORS as error:
        _log.warning("store.rollback_failed", error=str(store_error(error)))
        await connection.invalidate()


class SqliteEngine:
    """SQLite in one file: WAL, `synchronous=FULL`, one writer."""

    def __init__(self, url: URL, path: Path, deadline: float) -> None:
        self._path = path
        self._deadline = deadline
        self._inode = 0
        self._turn = asyncio.Lock()
        self._turnstile = _Turnstile()
        self._connection: AsyncConnection | None = None
        self.writer = self._engine(url, "BEGIN IMMEDIATE", poolclass=NullPool)
        self.reader = self._engine(
            url, "BEGIN", pool_size=_READERS, max_overflow=0, pool_timeout=deadline, query_only=True
        )

    def _engine(self, url: URL, begin: str, *, query_only: bool = False, **pool: Any) -> AsyncEngine:
        # isolation_level None keeps the driver from opening transactions of its own; ours are the only ones.
        engine = create_async_engine(
            url,
            connect_args={"isolation_level": None, "timeout": self._deadline},
            hide_parameters=True,
            **pool,
        )

        @event.listens_for(engine.sync_engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            # What is erased is overwritten where that costs no extra page.
            cursor.execute("PRAGMA secure_delete=FAST")
            if query_only:
                cursor.execute("PRAGMA query_only=ON")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: Any) -> None:
            connection.exec_driver_sql(begin)

        return engine

    async def migrate(self, work: Callable[[AsyncConnection], Coroutine[Any, Any, None]]) -> None:
        """Make the file if need be, switch it to WAL, then do `work` in one `BEGIN IMMEDIATE`."""
        try:
            # It holds phone numbers: nobody else on the machine reads it. WAL files take the same mode.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            self._inode = self._path.stat().st_ino
        except OSError as error:
            raise StoreUnavailable(f"{self._path} can't be opened: {error.strerror}") from error
        await self._switch_to_wal()
        async with self.writing() as connection:
            await work(connection)

    async def _switch_to_wal(self) -> None:
        try:
            mode = await asyncio.to_thread(self._journal_mode)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the database is not available: {error}") from error
        if mode != "wal":
            raise ConfigError(
                "store.url", "SQLite can't keep its write-ahead log there", "Use a local file system"
            )

    def _journal_mode(self) -> str:
        # SQLite does not wait by itself when two processes switch a new file at once.
        ends = time.monotonic() + self._deadline
        while True:
            try:
                with closing(sqlite3.connect(self._path, timeout=self._deadline)) as connection:
                    return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                    raise
                time.sleep(_LOCKED_PAUSE)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """The one write connection, in turn."""
        self._turnstile.enter()
        try:
            async with asyncio.timeout(self._deadline):
                await self._turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("the database is busy: no turn to write within the deadline") from error
        finally:
            self._turnstile.leave()
        try:
            connection = await self._write_connection()
            async with _transaction(connection):
                yield connection
        finally:
            self._turn.release()

    async def _write_connection(self) -> AsyncConnection:
        held = self._connection
        if held is not None and not held.invalidated:
            return held
        self._connection = None
        try:
            if held is not None:
                await held.close()
            self._connection = await self.writer.connect()
        except DATABASE_ERRORS as error:
            raise store_error(error) from error
        return self._connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A read-only connection of the readers' own."""
        async with _pooled(self.reader, self._turnstile) as connection:
            yield connection

    def now(self) -> int:
        """The clock of this process: nobody else shares the file's rows."""
        return time.time_ns() // 1_000_000

    async def ping(self) -> None:
        """Also notices a file that was removed or replaced under us."""
        try:
            inode = self._path.stat().st_ino
        except OSError as error:
            raise StoreUnavailable(f"{self._path} is gone: {error.strerror}") from error
        if inode != self._inode:
            raise StoreUnavailable(f"{self._path} was replaced while it was open")
        await _ping(self.reading())

    async def close(self) -> None:
        """Wait for the transaction at work, then close; the last one out folds the log into the file."""
        async with asyncio.timeout(_CLOSE_DEADLINE):
            async with self._turn:
                if self._connection is not None:
                    await self._connection.close()
                    self._connection = None
            await self.reader.dispose()
            await self.writer.dispose()


class PostgresEngine:
    """PostgreSQL through asyncpg; leases go by the database's clock."""

    def __init__(self, url: URL, deadline: float) -> None:
        self._url = url
        self._turnstile = _Turnstile()
        self.pool = self._engine(
            deadline,
            pool_size=_POSTGRES_CONNECTIONS,
            max_overflow=0,
            pool_timeout=deadline,
            # The last one given back is the next one used: its statements are prepared already.
            pool_use_lifo=True,
        )
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


@asynccontextmanager
async def _pooled(engine: AsyncEngine, turnstile: _Turnstile) -> AsyncIterator[AsyncConnection]:
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
        await _to_the_end(connection.close())


async def _ping(reading: AbstractAsyncContextManager[AsyncConnection]) -> None:
    try:
        async with reading as connection:
            await connection.exec_driver_sql("SELECT 1")
    except DATABASE_ERRORS as error:
        raise store_error(error) from error
