"""Apps that ask for calls at a steady rate, and the server where they are told how each one ended.

Every request is asked again, under its key, until it is heard; every webhook is verified by the library
that an app would use. `judge` then compares what was asked for with the carrier's own count and with what
was told.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from telephony.lab import CarrierCall, Lab
from tests.acceptance.control import FINAL, HEADERS, Json

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
CODE = "1234"
VERIFICATIONS, PAYMENTS = "/v1/verifications", "/v1/payment-confirmations"


@dataclass
class Told:
    """One webhook as it came: `id` is the same at each try of the same event."""

    id: str
    type: str
    status: str
    timestamp: str


class Receiver:
    """The app's server. It refuses every tenth try, so that something is always tried again."""

    def __init__(self) -> None:
        self.url = ""
        self.told: dict[str, list[Told]] = defaultdict(list)
        self.tries = 0
        self.repeats = 0
        self._came = asyncio.Condition()

    async def hook(self, request: web.Request) -> web.Response:
        raw = await request.read()
        Webhook(SECRET).verify(raw, dict(request.headers))
        self.tries += 1
        if self.tries % 10 == 0:
            return web.Response(status=500)
        event: Json = json.loads(raw)
        data = event["data"]
        one = Told(request.headers["webhook-id"], event["type"], data["status"], event["timestamp"])
        known = self.told[data["id"]]
        if any(other.id == one.id for other in known):
            self.repeats += 1
        else:
            known.append(one)
        async with self._came:
            self._came.notify_all()
        return web.Response(status=204)

    async def all_told(self, resources: Sequence[str], seconds: float) -> None:
        """Wait until each of them was told of; an assertion names those that were not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._came:
                await self._came.wait_for(lambda: all(self.told.get(one) for one in resources))
        missing = [one for one in resources if not self.told.get(one)]
        assert not missing, f"{len(missing)} of {len(resources)} were never told: {missing[:5]}"


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.hook)
    async with TestServer(app) as listening:
        made.url = str(listening.make_url("/hook"))
        yield made


def told_at(values: Json, url: str) -> Json:
    """The configuration, with webhooks of its client going to `url`."""
    values["webhooks"] = {"allow_private": ["127.0.0.1"], "timeout": 2.0}
    values["clients"][0] |= {"webhook_url": url, "webhook_secret": SECRET}
    return values


@dataclass
class Asked:
    """One request that was accepted, and how it ended."""

    number: str
    path: str
    view: Json
    at: float
    call: Json = field(default_factory=dict)


@dataclass
class Load:
    """Asks `url()`, which may name another controller each time, `rate` times a second.

    Two of three are verifications, which are checked or cancelled once their call is over.
    """

    url: Callable[[], str]
    rate: float
    accepted: dict[str, Asked] = field(default_factory=dict)
    stopped: bool = False
    patience: float = 600.0
    _http: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        async with (
            aiohttp.ClientSession(
                headers=HEADERS,
                timeout=aiohttp.ClientTimeout(total=30),
                connector=aiohttp.TCPConnector(limit=200, force_close=True),
            ) as self._http,
            asyncio.TaskGroup() as group,
        ):
            count = 0
            while not self.stopped:
                group.create_task(self._one(count))
                count += 1
                await asyncio.sleep(1 / self.rate)

    async def _one(self, count: int) -> None:
        number = f"+86138{count:08d}"
        asked = await (self._pay(number) if count % 3 == 2 else self._verify(number))
        self.accepted[number] = asked
        asked.call = await self._until_ended(asked.view["call_id"])
        if asked.path == VERIFICATIONS:
            # An answer that was lost may have been given: the second one finds the first one's work.
            if asked.call["status"] == "completed":
                await self._ask("POST", f"{asked.path}/{asked.view['id']}/check", {"code": CODE})
            else:
                await self._ask("POST", f"{asked.path}/{asked.view['id']}/cancel")
        asked.view = await self._ask("GET", f"{asked.path}/{asked.view['id']}")

    async def _verify(self, number: str) -> Asked:
        body = {"to": number, "code": CODE, "dial_within": 600}
        return Asked(number, VERIFICATIONS, await self._make(VERIFICATIONS, number, body), time.time())

    async def _pay(self, number: str) -> Asked:
        body = {
            "to": number,
            "order_id": "1024",
            "amount": "128.50",
            "currency": "CNY",
            "payee": "Acme",
            "retry": {"attempts": 1},
        }
        return Asked(number, PAYMENTS, await self._make(PAYMENTS, number, body), time.time())

    async def _make(self, path: str, key: str, body: Json) -> Json:
        return await self._ask("POST", path, body, **{"Idempotency-Key": key})

    async def _until_ended(self, call_id: str) -> Json:
        deadline = time.monotonic() + self.patience
        while True:
            call = await self._ask("GET", f"/v1/calls/{call_id}?wait=5")
            if call["status"] in FINAL:
                return call
            assert time.monotonic() < deadline, call

    async def _ask(self, method: str, path: str, body: Json | None = None, **headers: str) -> Json:
        """Ask until there is an answer that is no failure of the server's."""
        assert self._http is not None
        deadline = time.monotonic() + self.patience
        while True:
            assert time.monotonic() < deadline, f"no answer to {method} {path}"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._http.request(
                    method, f"{self.url()}{path}", json=body, headers=headers
                ) as reply:
                    if reply.status < 500:
                        seen: Any = await reply.json()
                        assert reply.status < 300, seen
                        return dict(seen)
            await asyncio.sleep(0.1)


async def answers_briefly(call: CarrierCall) -> None:
    """Refuse some, ring on for some; answer the others and hang up, or press 1 where a payment asks."""
    kind = int(call.number[-2:]) % 10
    await call.ring()
    if kind in (0, 1):
        await call.busy(after=0.5)
    elif kind == 2:
        await call.decline(after=1.0)
    elif kind < 7:
        await call.answer(after=0.2 + kind / 10)
        await call.hang_up(after=0.8)
    else:
        await call.answer(after=kind / 10)
        await call.press("1", after=1.0)
        await call.press("1", after=6.5)
        await call.hang_up(after=1.0)


@dataclass(frozen=True)
class Verdict:
    """What `judge` found, for those who want figures."""

    requests: int
    rings: int
    latest_ring: float
    statuses: dict[str, int]


def judge(lab: Lab, load: Load, told: Receiver, starts: Sequence[float], *, late: float = 10.0) -> Verdict:
    """Everybody was rung once and in time, nothing is unknown, and every end was told.

    `starts` are the moments at which a controller was there again; `late` seconds are counted from the last
    of them before the ring, or from the answer to the request.
    """
    statuses: dict[str, int] = defaultdict(int)
    latest = 0.0
    for number, asked in load.accepted.items():
        rung = lab.carrier.calls_to(number)
        assert len(rung) == 1, f"{number} was rung {len(rung)} times: {asked.call}"
        assert asked.call["status"] != "unknown", asked.call
        assert asked.call["status"] in FINAL
        statuses[asked.call["status"]] += 1
        known = max([asked.at, *(moment for moment in starts if moment <= rung[0].arrived_at)])
        latest = max(latest, rung[0].arrived_at - known)
        assert latest < late, f"{number} rang {latest:.1f} s late"
        (event,) = told.told[asked.view["id"]]
        kind = "verification" if asked.path == VERIFICATIONS else "payment_confirmation"
        assert event.type == f"{kind}.{asked.view['status']}", (event, asked.view)
    # A request that was written but never answered for is asked again with its key and found: every
    # number that rang belongs to a request that was accepted.
    assert {call.number for call in lab.carrier.calls} == set(load.accepted)
    return Verdict(len(load.accepted), len(lab.carrier.calls), latest, dict(statuses))
