"""SQLite in one file: WAL, `synchronous=FULL`, one write connection taken in turn, readers of their own.

Every write transaction is `BEGIN IMMEDIATE`, so what it reads before it decides can't change. Statements
run where they are called, in the event loop: each takes microseconds, a tenth of what handing it to
another thread costs. What may wait does not: the commit, which waits for the disk, has a thread, and
somebody else's lock is asked for again and again.

What it never does: know a table.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import structlog
from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Dialect,
    Executable,
    RootTransaction,
    create_engine,
    event,
)
from sqlalchemy import Engine as SyncEngine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from telephony.errors import ConfigError, StoreUnavailable
from telephony.store.failures import DATABASE_ERRORS, is_locked, store_error
from telephony.store.pokes import Heard
from telephony.store.turns import Turnstile, to_the_end

_log = structlog.get_logger(__name__)

Result = TypeVar("Result")
P = ParamSpec("P")

_READERS: Final = 4
_LOCKED_PAUSE: Final = 0.02
_CLOSE_DEADLINE: Final = 10.0


class InlineConnection:
    """A connection in the middle of a transaction, with the face of an asynchronous one."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect."""
        return self._connection.dialect

    async def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Run a statement, here and now."""
        return self._connection.execute(statement, parameters)

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> CursorResult[Any]:
        """Run SQL as it is written."""
        return self._connection.exec_driver_sql(statement, parameters)

    async def run_sync(
        self, work: Callable[Concatenate[Connection, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Hand the connection itself to `work`."""
        return work(self._connection, *args, **kwargs)


class SqliteEngine:
    """The engine. `deadline` in seconds bounds the wait for a turn to write, and for a lock."""

    shared = False

    def __init__(self, url: URL, path: Path, deadline: float) -> None:
        self._path = path
        self._deadline = deadline
        self._inode = 0
        self._turn = asyncio.Lock()
        self._places = asyncio.Semaphore(_READERS)
        self._turnstile = Turnstile()
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-commit")
        self._connection: Connection | None = None
        self._idle: list[Connection] = []
        self.writer = self._engine(url, "BEGIN IMMEDIATE", patience=0.0)
        self.reader = self._engine(url, "BEGIN", patience=deadline, query_only=True)

    def _engine(self, url: URL, begin: str, *, patience: float, query_only: bool = False) -> SyncEngine:
        # isolation_level None keeps the driver from opening transactions of its own; ours are the only
        # ones. A connection is used by one task at a time, in the loop's thread and the committer's.
        engine = create_engine(
            url,
            poolclass=NullPool,
            connect_args={"isolation_level": None, "timeout": patience, "check_same_thread": False},
            hide_parameters=True,
        )

        @event.listens_for(engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            # What is erased is overwritten where that costs no extra page.
            cursor.execute("PRAGMA secure_delete=FAST")
            if query_only:
                cursor.execute("PRAGMA query_only=ON")
            cursor.close()

        @event.listens_for(engine, "begin")
        def on_begin(connection: Connection) -> None:
            # To the driver itself: this is half of what a short transaction costs.
            try:
                connection.connection.driver_connection.execute(begin)  # type: ignore[union-attr]
            except sqlite3.Error as error:
                raise OperationalError(begin, None, error) from error

        return engine

    async def migrate(self, work: Callable[[InlineConnection], Coroutine[Any, Any, None]]) -> None:
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
    async def writing(self) -> AsyncIterator[InlineConnection]:
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
            connection = self._write_connection()
            transaction = await self._begin(connection)
            try:
                yield InlineConnection(connection)
            except BaseException:
                _undo(connection, transaction)
                raise
            await self._commit(connection, transaction)
        finally:
            self._turn.release()

    def _write_connection(self) -> Connection:
        held = self._connection
        if held is not None and not held.invalidated:
            return held
        self._connection = None
        try:
            if held is not None:
                held.close()
            self._connection = self.writer.connect()
        except DATABASE_ERRORS as error:
            raise store_error(error) from error
        return self._connection

    async def _begin(self, connection: Connection) -> RootTransaction:
        """`BEGIN IMMEDIATE`; another process's lock is waited for without stopping the loop."""
        ends = time.monotonic() + self._deadline
        while True:
            try:
                return connection.begin()
            except DATABASE_ERRORS as error:
                if not is_locked(error) or time.monotonic() > ends:
                    raise store_error(error) from error
            await asyncio.sleep(_LOCKED_PAUSE)

    async def _commit(self, connection: Connection, transaction: RootTransaction) -> None:
        committing = asyncio.get_running_loop().run_in_executor(self._committer, transaction.commit)
        try:
            await to_the_end(committing)
        except asyncio.CancelledError:
            if committing.exception() is not None:
                _undo(connection, transaction)
            raise
        except DATABASE_ERRORS as error:
            _undo(connection, transaction)
            raise store_error(error) from error

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[InlineConnection]:
        """A read-only connection of the readers' own."""
        self._turnstile.enter()
        try:
            async with asyncio.timeout(self._deadline):
                await self._places.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("the database is busy: every connection is in use") from error
        finally:
            self._turnstile.leave()
        try:
            connection, transaction = self._read_connection()
            try:
                yield InlineConnection(connection)
            finally:
                _undo(connection, transaction)
                if connection.invalidated:
                    connection.close()
                else:
                    self._idle.append(connection)
        finally:
            self._places.release()

    def _read_connection(self) -> tuple[Connection, RootTransaction]:
        try:
            connection = self._idle.pop() if self._idle else self.reader.connect()
            return connection, connection.begin()
        except DATABASE_ERRORS as error:
            raise store_error(error) from error

    def now(self) -> int:
        """The clock of this process: nobody else shares the file's rows."""
        return time.time_ns() // 1_000_000

    @asynccontextmanager
    async def listening(self, name: str, heard: Heard) -> AsyncIterator[None]:
        """There is nobody to be heard: a lock beside the file keeps a second controller away."""
        path = self._path.with_name(f"{self._path.name}.lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{path} can't be opened: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise ConfigError(
                "store.url",
                f"another controller works on {self._path}",
                "Give each its own file, or share a PostgreSQL",
            ) from error
        try:
            yield
        finally:
            os.close(handle)

    async def ping(self) -> None:
        """Also notices a file that was removed or replaced under us."""
        try:
            inode = self._path.stat().st_ino
        except OSError as error:
            raise StoreUnavailable(f"{self._path} is gone: {error.strerror}") from error
        if inode != self._inode:
            raise StoreUnavailable(f"{self._path} was replaced while it was open")
        try:
            async with self.reading() as connection:
                await connection.exec_driver_sql("SELECT 1")
        except DATABASE_ERRORS as error:
            raise store_error(error) from error

    async def close(self) -> None:
        """Wait for the transaction at work, then close; the last one out folds the log into the file."""
        async with asyncio.timeout(_CLOSE_DEADLINE):
            async with self._turn:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            while self._idle:
                self._idle.pop().close()
        self._committer.shutdown()


def _undo(connection: Connection, transaction: RootTransaction) -> None:
    """Roll back; a connection that can't even do that is thrown away, which rolls back as well."""
    try:
        transaction.rollback()
    except DATABASE_ERRORS as error:
        _log.warning("store.rollback_failed", error=str(store_error(error)))
        connection.invalidate()
