"""A fresh database per test, on each engine in turn."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from telephony.store import Store

sys.path.insert(0, str(Path(__file__).parents[2]))

from store_engines import PostgresServer

START = 1_800_000_000_000


class Clock:
    """Milliseconds that stand still until told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'telephony.db'}"


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """The URL of a database that may be at the newest revision already."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database(template=request.getfixturevalue("migrated"))


@pytest_asyncio.fixture
async def store(database: str, clock: Clock) -> AsyncIterator[Store]:
    opened = await Store.open(database, owner="node-a", clock=clock)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def other(database: str, store: Store, clock: Clock) -> AsyncIterator[Store]:
    """A second controller on the same database."""
    opened = await Store.open(database, owner="node-b", clock=clock)
    yield opened
    await opened.close()
