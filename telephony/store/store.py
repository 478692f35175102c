"""The store: opened once by the app, handed to whoever keeps something.

What it never does: keep anything in memory; what is not committed is not there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sqlalchemy import ColumnElement, select

from telephony.store.engines import Engine, open_engine
from telephony.store.migrate import migrate
from telephony.store.pokes import Heard
from telephony.store.session import Session
from telephony.store.unit import UnitOfWork


class Store:
    """One database, on SQLite or PostgreSQL.

    `owner` is the name under which this process holds its leases.
    """

    def __init__(self, engine: Engine, owner: str, clock: Callable[[], int] | None) -> None:
        self.owner = owner
        self.engine = engine
        self._now: Callable[[], int | ColumnElement[int]] = clock or engine.now

    @classmethod
    async def open(
        cls, url: str, *, owner: str, deadline: float = 5.0, clock: Callable[[], int] | None = None
    ) -> Store:
        """Connect to `sqlite:////path/file.db` or `postgresql://…`, and migrate.

        `deadline` in seconds bounds every wait: for a turn to write, for a lock, for an answer. `clock`
        gives milliseconds since the epoch in place of the engine's clock. Raises `ConfigError` for a URL of
        no use or a database that is newer than this code, `StoreUnavailable` when it can't be reached.
        """
        engine = open_engine(url, deadline=deadline)
        try:
            await migrate(engine)
        except BaseException:
            await engine.close()
            raise
        return cls(engine, owner, clock)

    async def close(self) -> None:
        """Finish the transaction at work, and close every connection."""
        await self.engine.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[UnitOfWork]:
        """Write: committed at the normal end of the block, rolled back when an exception leaves it.

        Raises `StoreUnavailable` when nothing could be written, `StoreCrowded` when too many wait. Must not
        be nested. Only where the connection to PostgreSQL breaks during the commit itself can
        `StoreUnavailable` mean that it is not known; the rows, if they are there, are found like those
        of a crashed owner.
        """
        done: list[Callable[[], None]] = []
        undone: list[Callable[[], None]] = []
        try:
            async with self.engine.writing() as connection:
                session = Session(connection, self._now)
                yield UnitOfWork(session, done, undone)
                session.check()
        except BaseException:
            for tell in undone:
                tell()
            raise
        for tell in done:
            tell()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[UnitOfWork]:
        """Read only; a write inside it raises a `StoreError`. Never waits for a writer."""
        async with self.engine.reading() as connection:
            yield UnitOfWork(Session(connection, self._now), [], [])

    async def now_ms(self) -> int:
        """This moment in milliseconds since the epoch: by the database's clock where several share it."""
        moment = self._now()
        if isinstance(moment, int):
            return moment
        async with self.engine.reading() as connection:
            return int(await Session(connection, self._now).value(select(moment)))

    @property
    def shared(self) -> bool:
        """Whether other controllers may work on the same database."""
        return self.engine.shared

    def listening(self, heard: Heard) -> AbstractAsyncContextManager[None]:
        """Be at work as `owner` until the block ends, and call `heard` with every poke meanwhile.

        `PokeKind.MISSED` comes at the beginning and after every break: pokes that nobody heard are gone.
        Raises `ConfigError` where somebody of this name is at work already, or, with SQLite, anybody.
        """
        return self.engine.listening(self.owner, heard)

    async def ping(self) -> None:
        """Raise `StoreUnavailable` unless the database is there and answers."""
        await self.engine.ping()
