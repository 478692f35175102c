"""From nothing to the newest revision: once, twice, at once, and never from beyond it."""

from __future__ import annotations

import asyncio
import multiprocessing

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from makers import a_request
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from telephony.errors import ConfigError
from telephony.store import Store
from telephony.store.engines import open_engine
from telephony.store.tables import metadata


async def test_the_revisions_make_the_tables_that_the_code_uses(store: Store) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with store.engine.writing() as connection:
        assert await connection.run_sync(differences) == []
        await connection.exec_driver_sql("DROP INDEX ix_request_due")
        assert await connection.run_sync(differences) != []


async def test_a_second_start_changes_nothing(url: str) -> None:
    first = await Store.open(url, owner="node-a")
    record = a_request()
    async with first.transaction() as work:
        await work.requests.add(record)
    await first.close()
    second = await Store.open(url, owner="node-a")
    async with second.reading() as work:
        assert await work.requests.get(record.id) == record
    await second.close()


async def test_webhooks_that_waited_before_they_had_turns(url: str) -> None:
    def to_the_first(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "telephony.store:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")

    async def work(connection: AsyncConnection) -> None:
        await connection.run_sync(to_the_first)
        columns = (
            "id, client, resource, type, payload, created_at, due_at, tries, url, sequence, delivered_at"
        )
        for sequence, ended in ((1, "1"), (2, "NULL"), (3, "NULL")):
            values = f"'msg_{sequence}', 'shop', 'ver_1', 'a.b', '{{}}', 5, 7, 0, '', {sequence}, {ended}"
            await connection.exec_driver_sql(f"INSERT INTO outbox ({columns}) VALUES ({values})")

    engine = open_engine(url, deadline=5.0)
    await engine.migrate(work)
    await engine.close()
    store = await Store.open(url, owner="node-a")
    async with store.reading() as reading:
        page = await reading.outbox.list("shop")
    assert {record.sequence: record.opened_at for record in page.items} == {1: None, 2: 7, 3: None}
    await store.close()


async def test_a_newer_database_is_refused(store: Store, database: str) -> None:
    async with store.engine.writing() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="9999"):
        await Store.open(database, owner="node-b")


def _start(url: str, gate: object, name: str) -> None:
    async def run() -> None:
        store = await Store.open(url, owner=name)
        async with store.transaction() as work:
            await work.requests.add(a_request())
        await store.close()

    gate.wait(20)  # type: ignore[attr-defined]
    asyncio.run(run())


async def test_processes_that_start_at_once_on_an_empty_database(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(3)
    processes = [context.Process(target=_start, args=(url, gate, f"node-{n}")) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    store = await Store.open(url, owner="node-a")
    async with store.reading() as work:
        assert len((await work.requests.list("shop")).items) == 3
    await store.close()
