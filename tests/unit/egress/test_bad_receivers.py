"""Receivers that behave badly for an hour, then well: every event comes, in order, and is signed for today.

Hours pass on the store's clock; the requests are real ones.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest
import standardwebhooks.webhooks
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from telephony.egress.deliverer import Deliverer
from telephony.egress.guard import Guard
from telephony.egress.http import Egress, HttpCaller
from telephony.egress.rules import Endpoint
from telephony.model.delivery import DeliveryStatus
from tests.unit.egress.conftest import (
    RULES,
    SECRET,
    Behaviour,
    Received,
    World,
    a_webhook,
    closes,
    hangs,
    says,
    says_ok,
    until,
)

HOUR = 3_600.0


@pytest.fixture
def database(tmp_path: Path) -> str:
    """One engine: what both must do is in `test_deliverer.py`."""
    return f"sqlite:///{tmp_path / 'telephony.db'}"


@pytest.fixture(autouse=True)
def receivers_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers check signatures by the clock of the test, not by that of the machine."""

    class Moment(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(world.clock.now / 1000, tz)

    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Moment)


def verifies(received: Received, secret: bytes = SECRET) -> bool:
    try:
        Webhook("whsec_" + base64.b64encode(secret).decode()).verify(received.raw, received.headers)
    except WebhookVerificationError:
        return False
    return True


# ---- an hour of bad behaviour


async def redirects(request: web.Request, _received: Received) -> web.StreamResponse:
    return web.Response(status=301, headers={"Location": f"{request.url.origin()}/elsewhere"})


def writes(first: bytes, then: bytes = b"", pause: float = 0.01) -> Behaviour:
    """Write these bytes in place of an answer, then `then` again and again."""

    async def answer(request: web.Request, _received: Received) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        transport.write(first)
        while then and not transport.is_closing():
            transport.write(then)
            await asyncio.sleep(pause)
        transport.close()
        raise asyncio.CancelledError

    return answer


async def is_half_an_answer(request: web.Request, _received: Received) -> web.StreamResponse:
    """An error whose body never ends."""
    response = web.StreamResponse(status=500)
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(b"x" * 65536)
    return response


BAD: dict[str, Behaviour] = {
    "500": says(500),
    "503 for a day": says(503, Retry_After="86400"),
    "401": says(401),
    "hangs": hangs,
    "closes": closes,
    "redirects": redirects,
    "speaks no HTTP": writes(b"220 mail.example.com ESMTP\r\n"),
    "breaks off in the headers": writes(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "trickles headers for ever": writes(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "headers without end": writes(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000, pause=0.0),
    "one header without end": writes(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65536, pause=0.0),
    "wait for ever": writes(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "an error without end": is_half_an_answer,
}


WAITED_OUT = ("hangs", "trickles headers for ever", "wait for ever")
"""Those that only a timeout ends: it is short for them, and long for those who answer."""


async def due_now(world: World, deliverer: Deliverer) -> None:
    """Turn the clock to the next try, and wait until all that is due then was tried."""
    async with world.store.reading() as work:
        due = await work.outbox.next_due("shop")
    assert due is not None
    world.clock.now = max(world.clock.now, due)
    counts = deliverer.counts
    before = counts.failed + counts.delivered
    deliverer.wake()
    await until(lambda: counts.failed + counts.delivered > before and deliverer.in_flight == 0)


@pytest.mark.parametrize("how", BAD)
async def test_after_a_bad_hour_everything_comes_in_order(world: World, how: str) -> None:
    receiver = await world.receiver(BAD[how])
    records = await world.add(*(a_webhook(world.clock, f"pay_{n % 3}", type=f"t.{n}") for n in range(9)))
    timeout = 0.2 if how in WAITED_OUT else RULES.timeout
    deliverer = await world.deliverer({"shop": receiver.url}, replace(RULES, timeout=timeout))
    began = world.clock.now
    firsts = {record.id for record in records[:3]}
    await until(lambda: deliverer.counts.failed == 3 and deliverer.in_flight == 0)
    assert all(verifies(got) for got in receiver.got)
    while world.clock.now < began + HOUR * 1000:
        await due_now(world, deliverer)
    assert set(receiver.ids) == firsts, "nobody overtakes"
    assert deliverer.counts.delivered == 0
    tries = len(receiver.got)
    assert tries <= deliverer.counts.failed, "one request a try, and none to where it pointed"
    assert how in WAITED_OUT or tries == deliverer.counts.failed
    await deliverer.stop()

    genuine: list[bool] = []

    async def is_well(_request: web.Request, received: Received) -> web.StreamResponse:
        genuine.append(verifies(received))
        return web.Response(status=204)

    receiver.behaves = is_well
    deliverer = await world.deliverer({"shop": receiver.url})
    while deliverer.counts.delivered < len(records):
        await due_now(world, deliverer)
    assert Counter(receiver.ids[tries:]) == Counter(record.id for record in records)
    assert len(genuine) == len(records)
    assert all(genuine), "each try is signed for its own moment"
    for resource in ("pay_0", "pay_1", "pay_2"):
        expected = [record.id for record in records if record.resource == resource]
        got = [one.id for one in receiver.got[tries:] if one.body["data"]["id"] == resource]
        assert got == expected
    assert all("skipped" not in one.body for one in receiver.got)


async def test_one_that_trickles_delays_only_its_own(world: World) -> None:
    slow = await world.receiver(BAD["trickles headers for ever"])
    quick = await world.receiver()
    await world.add(*(a_webhook(world.clock, f"s{n}", client="slow") for n in range(10)))
    deliverer = await world.deliverer(
        {"slow": slow.url, "quick": quick.url}, replace(RULES, timeout=1.0, per_endpoint=2, concurrency=2)
    )
    await until(lambda: slow.at_once >= 1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await world.add(*(a_webhook(world.clock, f"q{n}", client="quick") for n in range(10)))
    deliverer.wake()
    await until(lambda: len(quick.got) == 10)
    assert loop.time() - began < 0.9, "not one timeout of the other was waited for"
    await until(lambda: deliverer.counts.failed >= 2)


# ---- dead letters


async def test_a_dead_one_is_skipped_after_the_stated_time_and_the_next_one_says_so(world: World) -> None:
    async def dislikes_the_first(_request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=500 if received.body["type"] == "t.first" else 204)

    receiver = await world.receiver(dislikes_the_first)
    first, second, third = await world.add(
        *(a_webhook(world.clock, type=f"t.{name}") for name in ("first", "second", "third"))
    )
    [other] = await world.add(a_webhook(world.clock, "pay_other", type="t.other"))
    began = world.clock.now
    deliverer = await world.deliverer({"shop": receiver.url}, replace(RULES, dead_after=600.0))
    await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
    assert (await world.record(other)).status is DeliveryStatus.DELIVERED, "another resource does not wait"
    while deliverer.counts.dead == 0:
        assert (await world.record(second)).status is DeliveryStatus.PENDING
        await due_now(world, deliverer)
    await until(lambda: deliverer.counts.delivered == 3)
    assert world.clock.now == began + 600_000
    skipped = {got.id: got.body.get("skipped") for got in receiver.got}
    assert skipped[second.id] == [{"id": first.id, "type": "t.first"}]
    assert skipped[third.id] is None
    assert (await world.record(first)).last_error == "HTTP 500"


# ---- secrets


async def test_a_secret_is_changed_while_events_wait(world: World) -> None:
    """Old, then both, then new: whichever the receiver holds at the time, it can verify."""
    old, new = b"o" * 32, b"n" * 32
    receiver = await world.receiver(says(500))
    [record] = await world.add(a_webhook(world.clock))
    ways: Sequence[tuple[tuple[bytes, ...], bytes, bytes | None]] = (
        ((old,), old, new),
        ((new, old), old, None),
        ((new, old), new, None),
        ((new,), new, old),
    )
    for secrets, held, unknown in ways:
        tried = len(receiver.got)
        deliverer = await world.deliverer({"shop": receiver.url}, secrets=secrets)
        await until(lambda tried=tried: len(receiver.got) == tried + 1)
        await until(lambda deliverer=deliverer: deliverer.in_flight == 0)
        assert verifies(receiver.got[-1], held)
        assert unknown is None or not verifies(receiver.got[-1], unknown)
        await deliverer.stop()
        async with world.store.reading() as work:
            world.clock.now = await work.outbox.next_due("shop") or 0
    assert receiver.ids == [record.id] * len(ways)


# ---- gone


async def test_gone_holds_for_what_is_written_later_and_after_a_restart(world: World) -> None:
    receiver = await world.receiver(says(410))
    await world.add(a_webhook(world.clock))
    first = await world.deliverer({"shop": receiver.url})
    await until(lambda: first.counts.disabled == 1)
    await first.stop()
    receiver.behaves = says_ok
    again = await world.deliverer({"shop": receiver.url})
    [later] = await world.add(a_webhook(world.clock, "ver_2"))
    world.clock.advance(100 * HOUR)
    again.wake()
    await asyncio.sleep(0.2)
    assert len(receiver.got) == 1
    kept = await world.record(later)
    assert (kept.status, kept.tries) == (DeliveryStatus.PENDING, 0), "kept, not dead of old age"


# ---- where we do not go


class Names:
    """A name server whose answers follow one another."""

    def __init__(self, *answers: str) -> None:
        self._answers: Iterator[str] = iter(answers)
        self.asked = 0

    async def __call__(self, _host: str) -> Sequence[str]:
        self.asked += 1
        return [next(self._answers)]


async def test_a_name_that_turns_to_our_own_network_is_left_alone(world: World) -> None:
    """127.0.0.1 stands for an address of the Internet, 127.0.0.2 for one of ours: each try looks anew."""
    receiver = await world.receiver(says(500))
    inner = await world.receiver()
    names = Names("127.0.0.1", "127.0.0.2", "::ffff:127.0.0.2", "0.0.0.0", "127.0.0.1")
    caller = HttpCaller(Guard(("127.0.0.1",)), lookup=names)
    world.stack.push_async_callback(caller.close)
    url = f"http://shop.example.com:{receiver.port}/hook"
    endpoints = {"shop": Endpoint(url, (SECRET,))}
    deliverer = Deliverer(world.store, Egress(caller), endpoints, RULES, rng=lambda: 0.5)
    [record] = await world.add(a_webhook(world.clock))
    deliverer.start()
    world.stack.push_async_callback(deliverer.stop)
    await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
    for tried in range(3):
        await due_now(world, deliverer)
        assert names.asked == tried + 2, "one lookup a try: what was looked at is what is connected to"
        error = (await world.record(record)).last_error or ""
        assert error.startswith("not sent: shop.example.com is at a")
        assert "127" not in error
    assert len(receiver.got) == 1
    receiver.behaves = says_ok
    await due_now(world, deliverer)
    assert (await world.record(record)).status is DeliveryStatus.DELIVERED
    assert receiver.got[1].headers["host"] == f"shop.example.com:{receiver.port}"
    assert inner.got == []


def test_a_moment_of_the_test_is_one_of_the_standard(world: World) -> None:
    """The patched clock is really what `verify` looks at."""
    world.clock.advance(2 * HOUR)
    moment = datetime.fromtimestamp(world.clock.now / 1000, UTC)
    headers = {"webhook-id": "a", "webhook-timestamp": str(world.clock.now // 1000)}
    headers["webhook-signature"] = Webhook(SECRET).sign("a", moment, "{}")
    assert verifies(Received("a", headers, b"{}"))
    world.clock.advance(HOUR)
    assert not verifies(Received("a", headers, b"{}"))
