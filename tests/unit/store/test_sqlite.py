"""SQLite in particular: its settings, and what happens when the file is locked, full, broken or gone."""

# ruff: noqa: PT012 - what leaves the block of a transaction is what is tested

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from makers import a_request
from sqlalchemy import event

from telephony.errors import ConfigError, Overloaded, StoreError, StoreUnavailable
from telephony.store import Store, turns
from telephony.store.engines import SqliteEngine, open_engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telephony.db"


async def _opened(path: Path, deadline: float = 5.0) -> Store:
    return await Store.open(f"sqlite:///{path}", owner="node-a", deadline=deadline)


async def _pragma(store: Store, name: str, *, writing: bool) -> object:
    engine = store.engine
    async with engine.writing() if writing else engine.reading() as connection:
        return (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()


@pytest.mark.parametrize("writing", [True, False])
async def test_what_is_promised_of_a_power_cut_is_switched_on(path: Path, writing: bool) -> None:
    store = await _opened(path, 1.5)
    assert await _pragma(store, "journal_mode", writing=writing) == "wal"
    assert await _pragma(store, "synchronous", writing=writing) == 2
    assert await _pragma(store, "foreign_keys", writing=writing) == 1
    # The writer asks again by itself: waiting inside SQLite would stop the event loop.
    assert await _pragma(store, "busy_timeout", writing=writing) == (0 if writing else 1500)
    assert await _pragma(store, "query_only", writing=writing) == (0 if writing else 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.with_name("telephony.db-wal").stat().st_mode) == 0o600
    await store.close()


async def test_a_write_transaction_holds_the_lock_before_it_reads(path: Path) -> None:
    store = await _opened(path)
    async with store.transaction():
        with closing(sqlite3.connect(path, timeout=0)) as stranger, pytest.raises(sqlite3.OperationalError):
            stranger.execute("BEGIN IMMEDIATE")
    await store.close()


async def test_locked_by_another_process_beyond_the_deadline(path: Path) -> None:
    store = await _opened(path, 0.1)
    record = a_request()
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            async with store.transaction() as work:
                await work.requests.add(record)
        stranger.execute("ROLLBACK")
    async with store.transaction() as work:
        assert await work.requests.get(record.id) is None
        await work.requests.add(record)
    await store.close()


async def test_somebody_elses_lock_does_not_stop_the_loop(path: Path) -> None:
    store = await _opened(path, 5.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")

        async def write() -> None:
            async with store.transaction() as work:
                await work.requests.add(a_request())

        writing = asyncio.create_task(write())
        began = asyncio.get_running_loop().time()
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - began < 1.0
        assert not writing.done()
        stranger.execute("ROLLBACK")
        await writing
    await store.close()


async def test_no_turn_to_write_within_the_deadline(path: Path) -> None:
    store = await _opened(path, 0.05)
    async with store.transaction():
        with pytest.raises(StoreUnavailable, match="busy"):
            async with store.transaction():
                pass
    await store.close()


async def test_too_many_waiting_are_turned_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_WAITING", 1)
    store = await _opened(path)

    async def write() -> None:
        async with store.transaction():
            await asyncio.sleep(0)

    async with store.transaction():
        waiting = asyncio.create_task(write())
        await asyncio.sleep(0)
        # An app is told to come back; whoever bears a store that fails bears this too.
        with pytest.raises(Overloaded) as crowded:
            await write()
        assert isinstance(crowded.value, StoreError)
    await waiting
    await store.close()


async def test_a_full_disk_leaves_nothing_and_is_got_over(path: Path) -> None:
    store = await _opened(path)
    async with store.engine.writing() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    record = a_request(variables={"text": "x" * 100_000})
    small = a_request()
    with pytest.raises(StoreUnavailable, match="full"):
        async with store.transaction() as work:
            await work.requests.add(small)
            await work.requests.add(record)
    async with store.engine.writing() as connection:
        await connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 1000}")
    async with store.transaction() as work:
        assert await work.requests.get(small.id) is None
        await work.requests.add(record)
    await store.close()


async def test_a_file_that_is_removed_or_replaced_is_noticed(path: Path) -> None:
    store = await _opened(path)
    await store.ping()
    aside = path.rename(path.with_name("aside"))
    with pytest.raises(StoreUnavailable, match="gone"):
        await store.ping()
    path.touch()
    with pytest.raises(StoreUnavailable, match="replaced"):
        await store.ping()
    aside.rename(path)
    await store.ping()
    await store.close()


async def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable):
        await _opened(path)


async def test_a_folder_that_is_not_there(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file"):
        await _opened(path.parent / "none" / "telephony.db")


@pytest.mark.parametrize(
    "url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite:///a.db?mode=ro", "mysql://a/b"]
)
def test_a_url_of_no_use_is_a_setting_to_mend(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url"):
        open_engine(url, deadline=1)


def _write_until_killed(path: str, ready: object) -> None:
    async def write() -> None:
        store = await Store.open(f"sqlite:///{path}", owner="doomed")
        while True:
            async with store.transaction() as work:
                for _ in range(3):
                    await work.requests.add(a_request(flow="triple"))
            ready.set()  # type: ignore[attr-defined]

    asyncio.run(write())


async def test_a_killed_writer_leaves_whole_transactions(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_write_until_killed, args=(str(path), ready))
    process.start()
    assert await asyncio.to_thread(ready.wait, 20)
    process.kill()
    await asyncio.to_thread(process.join)
    store = await _opened(path)
    async with store.reading() as work:
        found = len((await work.requests.list("shop", flow="triple", limit=1000)).items)
    assert found > 0
    assert found % 3 == 0
    await store.close()


async def test_a_commit_that_was_begun_is_awaited_to_the_end(path: Path) -> None:
    store = await _opened(path)
    engine = store.engine
    assert isinstance(engine, SqliteEngine)
    record = a_request()

    async def write() -> None:
        async with store.transaction() as work:
            await work.requests.add(record)

    task = asyncio.create_task(write())
    loop = asyncio.get_running_loop()
    event.listen(
        engine.writer, "commit", lambda _connection: loop.call_soon_threadsafe(task.cancel), once=True
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine._connection is not None
    assert not engine._connection.invalidated
    async with store.transaction() as work:
        assert await work.requests.get(record.id) == record
    await store.close()


async def test_a_broken_write_connection_is_replaced(path: Path) -> None:
    store = await _opened(path)
    engine = store.engine
    assert isinstance(engine, SqliteEngine)
    record = a_request()
    with pytest.raises(StoreUnavailable):
        async with store.transaction() as work:
            await work.requests.add(record)
            assert engine._connection is not None
            engine._connection.connection.driver_connection.close()  # type: ignore[union-attr]
            await work.requests.add(a_request())
    async with store.transaction() as work:
        assert await work.requests.get(record.id) is None
        await work.requests.add(record)
    await store.close()
