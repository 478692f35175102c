"""The store gives way in the middle of a call: full, locked by somebody else, restarted.

Each time the person on the line hears everything, whoever asks for a call meanwhile gets a clear refusal,
nobody is rung twice, no outcome is lost, and the next call works.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from telephony.lab import Lab, answer_and_listen
from tests.acceptance.control import Api, ControllerProcess, Json, api_of, settings_of
from tests.acceptance.databases import Database, postgres, sqlite
from tests.acceptance.load import CODE, Receiver, receiver, told_at
from tests.acceptance.test_outcomes import answered, ringing, row, the_next_call_works
from tests.store_engines import PostgresServer

pytestmark = pytest.mark.lab

TALKS, RINGS, REFUSED = "+8613800000001", "+8613800000002", "+8613800000003"
RING_SECONDS = 2.5
HEARD = ("completed", None, "heard")


@asynccontextmanager
async def controller_on(
    lab: Lab, folder: Path, database: Database
) -> AsyncIterator[tuple[ControllerProcess, Api, Receiver]]:
    async with receiver() as told:
        values = told_at(settings_of(lab, folder, store={"url": database.url}), told.url)
        process = ControllerProcess(folder, values)
        await process.start()
        try:
            async with api_of(process.url) as api:
                yield process, api, told
        finally:
            await process.stop()
        database.nothing_is_left()


async def two_calls(lab: Lab, api: Api) -> list[Json]:
    """One call in mid-code, one that rings and is answered while the store is away."""
    lab.carrier.subscribe(TALKS, answer_and_listen(after=0.1))
    lab.carrier.subscribe(RINGS, answer_and_listen(after=RING_SECONDS))
    lab.carrier.subscribe(REFUSED, answer_and_listen(after=0.1))
    views = [await api.verify(TALKS, code=CODE), await api.verify(RINGS, code=CODE)]
    await answered(api, views[0])
    await ringing(api, views[1])
    return views


async def is_refused(api: Api) -> None:
    """Whoever asks for a call learns that it can't be kept, and when to come back."""
    began = time.monotonic()
    status, problem = await api.ask("POST", "/v1/verifications", {"to": REFUSED, "code": "1234567890"})
    assert time.monotonic() - began < 12
    assert (status, problem["type"], problem["status"]) == (503, "/docs#store-unavailable", 503), problem
    assert "try again" in problem["detail"]


async def all_is_well(lab: Lab, api: Api, told: Receiver, views: list[Json]) -> None:
    calls = await asyncio.gather(*(api.call_ended(view) for view in views))
    assert [row(call)[:3] for call in calls] == [HEARD, HEARD]
    assert [len(lab.carrier.calls_to(number)) for number in (TALKS, RINGS, REFUSED)] == [1, 1, 0]
    for view in views:
        await api.post(f"/v1/verifications/{view['id']}/cancel")
    await told.all_told([view["id"] for view in views], 30)
    await the_next_call_works(lab, api)


def complained(process: ControllerProcess, event: str) -> str:
    """What the log says of a failure of the store."""
    lines = process.log_lines(event)
    assert lines, f"no {event} in the log"
    return str(lines[-1]["error"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take what is left of a file system, to the last byte."""
    with contextlib.closing(os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY), "wb", 0)) as ballast:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while ballast.write(b"\0" * size):
                    pass
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            ballast.write(b"\0")


async def test_the_disk_gets_full_in_mid_call(lab: Lab, tmp_path: Path, small_disk: Path) -> None:
    async with controller_on(lab, tmp_path, sqlite(small_disk)) as (process, api, told):
        views = await two_calls(lab, api)
        fill(small_disk / "ballast")
        await is_refused(api)
        assert "full" in complained(process, "http.unavailable")
        for number in (TALKS, RINGS):
            await lab.carrier.calls_to(number)[0].wait_ended(40)
        await asyncio.sleep(0.5)
        seen = [(await api.get(f"/v1/calls/{view['call_id']}"))["status"] for view in views]
        assert seen == ["answered", "ringing"], "nothing could be written, and nothing is made up"
        assert "full" in complained(process, "call.outcome_waits")
        (small_disk / "ballast").unlink()
        await all_is_well(lab, api, told, views)


async def test_somebody_else_holds_the_lock_in_mid_call(lab: Lab, tmp_path: Path) -> None:
    database = sqlite(tmp_path)
    async with controller_on(lab, tmp_path, database) as (process, api, told):
        views = await two_calls(lab, api)
        path = database.url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            await is_refused(api)
            assert "locked" in complained(process, "http.unavailable")
            # The second phone is answered now: it hears its code without waiting for anybody's lock.
            await lab.carrier.calls_to(RINGS)[0].wait_answered(10)
            await lab.carrier.calls_to(RINGS)[0].wait_ended(30)
            stranger.execute("ROLLBACK")
        await all_is_well(lab, api, told, views)


async def test_postgresql_is_restarted_in_mid_call(
    lab: Lab, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with controller_on(lab, tmp_path, postgres(postgres_server)) as (process, api, told):
        views = await two_calls(lab, api)
        await asyncio.to_thread(postgres_server.crash)
        try:
            await is_refused(api)
            assert complained(process, "http.unavailable")
            # It is answered while nothing can be read.
            await lab.carrier.calls_to(RINGS)[0].wait_answered(10)
            await asyncio.sleep(1.0)
        finally:
            await asyncio.to_thread(postgres_server.run)
        await all_is_well(lab, api, told, views)
