"""Apps whose servers behave badly, each in its way, beside one that does not, with real calls.

Hours of it pass in `tests/unit/egress`; here it is seconds, from the call's end to the verified webhook.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from standardwebhooks import Webhook

from telephony.api.keys import hash_key
from telephony.app import running
from telephony.lab import Lab, busy
from telephony.settings import check_settings
from tests.acceptance.control import Json, api_of, settings_of

pytestmark = pytest.mark.lab

ORDER = {"order_id": "A-1024", "amount": "128.50", "currency": "CNY", "payee": "Acme Taxi"}
BEHAVIOURS = ("answers 500", "hangs", "closes", "redirects", "trickles", "behaves")


def secret_of(name: str) -> str:
    return "whsec_" + base64.b64encode(name.encode().ljust(32, b".")).decode()


@dataclass
class App:
    """An app's server: it behaves as its name says until it is well; `got` is what it has accepted."""

    name: str
    well: bool = False
    port: int = 0
    tries: int = 0
    redirected: int = 0
    got: list[tuple[float, Json]] = field(default_factory=list)

    @property
    def client(self) -> str:
        return self.name.replace(" ", "-")

    async def hook(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        # Either secret verifies while it is changed.
        for secret in (secret_of(self.name), secret_of(f"{self.name} before")):
            event = Webhook(secret).verify(raw, dict(request.headers))
        self.tries += 1
        if self.well or self.name == "behaves":
            self.got.append((time.monotonic(), json.loads(raw) | {"id": request.headers["webhook-id"]}))
            return web.Response(status=204)
        assert event["data"]["status"] == "failed"
        return await self._badly(request)

    async def _badly(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        match self.name:
            case "redirects":
                return web.Response(status=308, headers={"Location": "/elsewhere"})
            case "hangs":
                await asyncio.Event().wait()
            case "trickles":
                transport.write(b"HTTP/1.1 200 OK\r\nX: ")
                while not transport.is_closing():
                    transport.write(b"a")
                    await asyncio.sleep(0.05)
            case "closes":
                transport.abort()
        return web.Response(status=500)

    async def elsewhere(self, _request: web.Request) -> web.StreamResponse:
        self.redirected += 1
        return web.Response(status=204)

    async def start(self, stack: AsyncExitStack) -> None:
        server = web.Application()
        server.router.add_post("/hook", self.hook)
        server.router.add_route("*", "/elsewhere", self.elsewhere)
        runner = web.AppRunner(server, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]


@pytest_asyncio.fixture(loop_scope="session")
async def apps() -> AsyncIterator[list[App]]:
    async with AsyncExitStack() as stack:
        made = [App(name) for name in BEHAVIOURS]
        for app in made:
            await app.start(stack)
        yield made


async def until_all(apps: list[App], count: int, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while any(len(app.got) < count for app in apps):
            await asyncio.sleep(0.02)


async def test_a_bad_receiver_is_waited_for_and_delays_nobody_else(
    lab: Lab, tmp_path: Path, apps: list[App]
) -> None:
    values = settings_of(lab, tmp_path, webhooks={"allow_private": ["127.0.0.1"], "timeout": 1})
    values["clients"] = [
        {
            "name": app.client,
            "key_hash": hash_key(f"tk_{app.client}"),
            "brand": "Acme",
            "webhook_url": f"http://127.0.0.1:{app.port}/hook",
            "webhook_secret": secret_of(app.name),
            "webhook_old_secret": secret_of(f"{app.name} before"),
        }
        for app in apps
    ]
    bad, good = apps[:-1], apps[-1]
    async with running(check_settings(values)) as controller, api_of(controller.url) as api:
        payments = []
        for app in apps:
            for number in range(2):
                to = f"+8613800{len(payments):02d}{number:04d}"
                lab.carrier.subscribe(to, busy())
                body = {**ORDER, "to": to, "retry": {"attempts": 1}}
                key = {"Authorization": f"Bearer tk_{app.client}"}
                status, payment = await api.ask("POST", "/v1/payment-confirmations", body, **key)
                assert status == 201, payment
                payments.append(payment["id"])
        asked = time.monotonic()
        await until_all([good], 2, 5)
        assert max(at for at, _ in good.got) - asked < 3
        async with asyncio.timeout(10):
            while any(app.tries < 4 for app in bad):
                await asyncio.sleep(0.02)
        assert all(app.got == [] for app in bad)
        for app in bad:
            app.well = True
        await until_all(apps, 2, 15)
        await asyncio.sleep(0.3)
        for app in apps:
            key = {"Authorization": f"Bearer tk_{app.client}"}
            _, listed = await api.ask("GET", "/v1/webhook-deliveries", **key)
            assert [one["status"] for one in listed["items"]] == ["delivered"] * 2
            assert {one["id"] for one in listed["items"]} == {event["id"] for _, event in app.got}
            assert (app in bad) == all(one["tries"] > 1 for one in listed["items"])
    told = [event["data"]["id"] for app in apps for _, event in app.got]
    assert sorted(told) == sorted(payments), "each once it was well, and once"
    assert sum(app.redirected for app in apps) == 0
