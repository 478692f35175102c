"""Payment calls over a real Asterisk: keys by DTMF, the app's own server, and the webhook it verifies."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from telephony.app import Controller, running
from telephony.lab import Lab, answer_and_listen, no_answer, press_keys
from telephony.settings import check_settings
from tests.acceptance.control import Api, api_of, settings_of

pytestmark = pytest.mark.lab

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
NUMBER = "+8613800002001"
Json = dict[str, Any]


class Shop:
    """The app: it verifies what comes, and answers what it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.answer: Json = {"decision": "confirm"}
        self.asked: list[Json] = []
        self.told: asyncio.Queue[Json] = asyncio.Queue()

    async def decide(self, request: web.Request) -> web.Response:
        self.asked.append(await self._verified(request))
        return web.json_response(self.answer)

    async def hook(self, request: web.Request) -> web.Response:
        self.told.put_nowait(await self._verified(request))
        return web.Response(status=204)

    async def _verified(self, request: web.Request) -> Json:
        raw = await request.read()
        Webhook(SECRET).verify(raw, dict(request.headers))
        read: Json = json.loads(raw)
        return read


@asynccontextmanager
async def shop_and_controller(
    lab: Lab, folder: Path, **sections: Any
) -> AsyncIterator[tuple[Shop, Api, Controller]]:
    """The app and the controller it uses; `sections` go over the configuration."""
    shop = Shop()
    server = web.Application()
    server.router.add_post("/decide", shop.decide)
    server.router.add_post("/hook", shop.hook)
    async with TestServer(server) as listening:
        shop.url = str(listening.make_url("/"))
        values = settings_of(lab, folder, webhooks={"allow_private": ["127.0.0.1"]}, **sections)
        values["clients"][0] |= {"webhook_url": f"{shop.url}hook", "webhook_secret": SECRET}
        async with running(check_settings(values)) as controller, api_of(controller.url) as api:
            yield shop, api, controller


async def pay(api: Api, **body: Any) -> Json:
    order = {"to": NUMBER, "order_id": "A-1024", "amount": "128.50", "currency": "CNY", "payee": "Acme Taxi"}
    return await api.post(
        "/v1/payment-confirmations", {**order, "retry": {"attempts": 1}, **body}, status=201
    )


async def ended(api: Api, payment: Json) -> Json:
    path = f"/v1/payment-confirmations/{payment['id']}"
    while (view := await api.get(f"{path}?wait=20&while=pending"))["status"] == "pending":
        pass
    return view


@pytest.mark.parametrize(
    ("presses", "keys", "answer", "status", "by"),
    [
        ([(14.0, "1")], "1", None, "confirmed", "person"),
        # A yes in a hurry leads on to the amount; the second one is meant.
        ([(1.0, "*"), (2.0, "1"), (8.5, "1")], "*1", {"decision": "confirm"}, "confirmed", "app"),
        ([(1.0, "1"), (7.5, "1")], "1", {"decision": "refuse"}, "failed", "app_refused"),
        ([(2.0, "2")], "2", None, "declined", "person"),
    ],
)
async def test_a_key_decides_and_the_app_is_told(
    lab: Lab,
    tmp_path: Path,
    presses: list[tuple[float, str]],
    keys: str,
    answer: Json | None,
    status: str,
    by: str,
) -> None:
    lab.carrier.subscribe(NUMBER, press_keys(presses))
    async with shop_and_controller(lab, tmp_path) as (shop, api, _controller):
        asking: Json = {}
        if answer is not None:
            shop.answer = answer
            asking = {"decide_url": f"{shop.url}decide"}
        payment = await pay(api, **asking)
        view = await ended(api, payment)
        assert (view["status"], view["decided_by"]) == (status, by)
        event = await asyncio.wait_for(shop.told.get(), 5)
        assert event["type"] == f"payment_confirmation.{status}"
        assert event["data"]["id"] == payment["id"]
        assert event["data"]["keys"] == keys
        assert len(shop.asked) == (answer is not None)
        call = await api.call_ended(payment)
        assert call["status"] == "completed"
        assert shop.told.empty()
    (heard,) = lab.carrier.calls_to(NUMBER)
    await heard.wait_ended()
    assert heard.digits_sent == "".join(key for _at, key in presses)


async def test_a_cancel_hangs_up_what_rings_and_is_told(lab: Lab, tmp_path: Path) -> None:
    lab.carrier.subscribe(NUMBER, no_answer())
    async with shop_and_controller(lab, tmp_path) as (shop, api, _controller):
        payment = await pay(api)
        while (await api.get(f"/v1/calls/{payment['call_id']}"))["status"] != "ringing":
            await asyncio.sleep(0.05)
        await api.post(f"/v1/payment-confirmations/{payment['id']}/cancel")
        assert (await api.call_ended(payment))["status"] == "canceled"
        event = await asyncio.wait_for(shop.told.get(), 5)
        assert event["type"] == "payment_confirmation.canceled"


async def test_a_cancel_in_mid_call_is_said(lab: Lab, tmp_path: Path) -> None:
    lab.carrier.subscribe(NUMBER, press_keys([(14.0, "1")]))
    async with shop_and_controller(lab, tmp_path) as (shop, api, _controller):
        payment = await pay(api)
        while (await api.get(f"/v1/calls/{payment['call_id']}"))["status"] != "answered":
            await asyncio.sleep(0.05)
        await api.post(f"/v1/payment-confirmations/{payment['id']}/cancel")
        call = await api.call_ended(payment)
        assert call["attempts"][0]["end_reason"] == "canceled"
        assert (await ended(api, payment))["status"] == "canceled"
        event = await asyncio.wait_for(shop.told.get(), 5)
        assert event["type"] == "payment_confirmation.canceled"
        assert shop.told.empty()


async def test_silence_is_no_consent(lab: Lab, tmp_path: Path) -> None:
    lab.carrier.subscribe(NUMBER, answer_and_listen(after=0.2))
    async with shop_and_controller(lab, tmp_path) as (shop, api, _controller):
        payment = await pay(api)
        call = await api.call_ended(payment, timeout=120)
        assert call["attempts"][0]["end_reason"] == "no_input"
        event = await asyncio.wait_for(shop.told.get(), 5)
        assert event["type"] == "payment_confirmation.failed"
        assert event["data"]["failure_reason"] == "no_input"
