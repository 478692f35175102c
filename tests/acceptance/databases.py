"""The two stores that a controller may have in an acceptance test, and what is left in them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.store_engines import PostgresMissing, PostgresServer

_LEFT = {
    "leases": "SELECT count(*) FROM request WHERE lease_until IS NOT NULL",
    "open requests": "SELECT count(*) FROM request WHERE ended_at IS NULL",
    "open attempts": "SELECT count(*) FROM attempt WHERE ended_at IS NULL",
    "lines": "SELECT count(*) FROM slot WHERE holder IS NOT NULL",
    "open webhooks": "SELECT count(*) FROM outbox WHERE delivered_at IS NULL",
}


@dataclass(frozen=True)
class Database:
    """One database: its URL, and the server where it has one."""

    url: str
    server: PostgresServer | None = None

    def value(self, query: str) -> str:
        """The one value of a query, by a way of our own into the database."""
        if self.server is not None:
            return self.server.sql(query, self.url.rpartition("/")[2])
        path = self.url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return str(connection.execute(query).fetchone()[0])

    async def nothing_to_tell(self, seconds: float) -> None:
        """Wait until the outbox is empty: what a killed sender had in hand is sent again after its lease."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await asyncio.to_thread(self.value, _LEFT["open webhooks"]) != "0":
                    await asyncio.sleep(0.2)

    def nothing_is_left(self) -> None:
        """No lease, no open attempt, no line that is held, nothing that is still to be told."""
        left = {name: self.value(query) for name, query in _LEFT.items()}
        assert set(left.values()) == {"0"}, left


def sqlite(folder: Path) -> Database:
    return Database(f"sqlite:///{folder}/telephony.db")


def postgres_server() -> Iterator[PostgresServer]:
    """A server of the tests' own; skips where none can be started."""
    try:
        server = PostgresServer.start()
    except PostgresMissing as error:
        pytest.skip(f"the PostgreSQL half is not run: {error}")
    yield server
    server.stop()


def postgres(server: PostgresServer) -> Database:
    return Database(server.new_database(), server)
