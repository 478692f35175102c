"""Receivers on loopback, a clock that is told the time, and a store on each engine in turn."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from telephony.egress.deliverer import Deliverer
from telephony.egress.guard import Guard
from telephony.egress.http import Egress, HttpCaller
from telephony.egress.rules import DeliveryRules, Endpoint
from telephony.model.ids import new_id
from telephony.store import OutboxRecord, Store
from tests.store_engines import PostgresServer

SECRET = b"s" * 32
RULES = DeliveryRules(timeout=5.0, stop_grace=0.2)


class Clock:
    """Milliseconds that stand still until told; they begin now, so that signatures are of today."""

    def __init__(self) -> None:
        self.now = time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1_000)


@dataclass(frozen=True)
class Received:
    id: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.raw)
        return read


Behaviour = Callable[[web.Request, Received], Awaitable[web.StreamResponse]]


async def says_ok(_request: web.Request, _received: Received) -> web.StreamResponse:
    return web.Response(status=204)


def says(status: int, **headers: str) -> Behaviour:
    async def answer(_request: web.Request, _received: Received) -> web.StreamResponse:
        return web.Response(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


async def hangs(_request: web.Request, _received: Received) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def closes(request: web.Request, _received: Received) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@dataclass
class Receiver:
    """Somebody's server: it notes what comes and behaves as told."""

    behaves: Behaviour = says_ok
    got: list[Received] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.got]

    async def up(self) -> None:
        app = web.Application(client_max_size=1024**2)
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(headers.get("webhook-id", ""), headers, raw)
        self.got.append(received)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.behaves(request, received)
        finally:
            self.at_once -= 1


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for what another task brings about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def a_webhook(clock: Clock, resource: str = "ver_1", **fields: Any) -> OutboxRecord:
    plain: dict[str, Any] = {
        "id": new_id("msg"),
        "client": "shop",
        "resource": resource,
        "type": "verification.approved",
        "payload": {"id": resource},
        "created_at": clock.now,
        "due_at": clock.now,
        "url": "",
    }
    return OutboxRecord(**{**plain, **fields})


@dataclass
class World:
    """A store, its clock, and what is made on them; all of it is ended with the test."""

    store: Store
    database: str
    clock: Clock
    stack: AsyncExitStack

    async def receiver(self, behaves: Behaviour = says_ok) -> Receiver:
        made = Receiver(behaves)
        await made.up()
        self.stack.push_async_callback(made.down)
        return made

    async def another_store(self, owner: str) -> Store:
        store = await Store.open(self.database, owner=owner, clock=self.clock)
        self.stack.push_async_callback(store.close)
        return store

    async def deliverer(
        self,
        urls: dict[str, str],
        rules: DeliveryRules = RULES,
        *,
        secrets: tuple[bytes, ...] = (SECRET,),
        store: Store | None = None,
    ) -> Deliverer:
        caller = HttpCaller(Guard(("127.0.0.0/8",)))
        self.stack.push_async_callback(caller.close)
        endpoints = {client: Endpoint(url, secrets) for client, url in urls.items()}
        made = Deliverer(store or self.store, Egress(caller), endpoints, rules, rng=lambda: 0.5)
        made.start()
        self.stack.push_async_callback(made.stop)
        return made

    async def add(self, *records: OutboxRecord) -> list[OutboxRecord]:
        async with self.store.transaction() as work:
            return [await work.outbox.add(record) for record in records]

    async def record(self, of: OutboxRecord) -> OutboxRecord:
        async with self.store.reading() as work:
            found = await work.outbox.get_for_client(of.client, of.id)
        assert found is not None
        return found


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'telephony.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database(template=request.getfixturevalue("migrated"))


@pytest_asyncio.fixture
async def world(database: str) -> AsyncIterator[World]:
    clock = Clock()
    store = await Store.open(database, owner="node-a", clock=clock)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        yield World(store, database, clock, stack)
