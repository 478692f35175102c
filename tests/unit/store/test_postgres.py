"""PostgreSQL in particular: connections that break, rows that are locked, settings that are wrong."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from makers import a_request, a_verification
from store_engines import PostgresServer

from telephony.errors import ConfigError, StoreUnavailable
from telephony.store import Store


async def test_a_broken_connection_leaves_nothing_and_is_replaced(
    postgres: PostgresServer, postgres_url: str
) -> None:
    store = await Store.open(postgres_url, owner="node-a")
    record = a_request()
    with pytest.raises(StoreUnavailable):  # noqa: PT012 - the block of a transaction
        async with store.transaction() as work:
            await work.requests.add(record)
            database = urlsplit(postgres_url).path[1:]
            postgres.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{database}' AND application_name = 'telephony'"
            )
            await work.requests.add(a_request())
    async with store.transaction() as work:
        assert await work.requests.get(record.id) is None
        await work.requests.add(record)
    await store.close()


async def test_a_row_locked_beyond_the_deadline(postgres_url: str) -> None:
    store = await Store.open(postgres_url, owner="node-a")
    hasty = await Store.open(postgres_url, owner="node-b", deadline=0.2)
    record = a_verification()
    async with store.transaction() as work:
        await work.verifications.add(record)
    async with store.transaction() as work:
        await work.verifications.lock(record.id)
        with pytest.raises(StoreUnavailable, match="deadline"):
            async with hasty.transaction() as theirs:
                await theirs.verifications.lock(record.id)
    async with hasty.transaction() as theirs:
        assert await theirs.verifications.lock(record.id) == record
    await store.close()
    await hasty.close()


async def test_a_database_that_is_not_there_is_a_setting_to_mend(postgres_url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url"):
        await Store.open(postgres_url + "_none", owner="node-a")


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreUnavailable):
        await Store.open("postgresql://postgres@127.0.0.1:1/none", owner="node-a", deadline=1)


async def test_sslmode_is_understood(postgres_url: str) -> None:
    store = await Store.open(postgres_url + "?sslmode=prefer", owner="node-a")
    await store.ping()
    await store.close()
    with pytest.raises(StoreUnavailable, match="SSL"):
        await Store.open(postgres_url + "?sslmode=require", owner="node-a")
