"""A PostgreSQL of the tests' own, one for the run, for every room that keeps something."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from telephony.store import Store
from tests.store_engines import PostgresMissing, PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer.start()
    except PostgresMissing as error:
        pytest.skip(f"the PostgreSQL half is not run: {error}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated(postgres: PostgresServer) -> str:
    """The name of a database at the newest revision, to be copied: quicker than a migration per test."""
    url = postgres.new_database()

    async def migrate() -> None:
        await (await Store.open(url, owner="template")).close()

    asyncio.run(migrate())
    return url.rpartition("/")[2]
