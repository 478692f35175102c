"""Webhooks on their way: signed, in order, tried again, given up, told of; on both engines."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from dataclasses import replace

import pytest
from aiohttp import web
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from telephony.egress.deliverer import Deliverer
from telephony.egress.envelope import MAX_BODY
from telephony.egress.rules import Endpoint
from telephony.egress.schedule import SCHEDULE
from telephony.errors import Conflict, NotFound
from telephony.model.client import Client
from telephony.model.delivery import DeliveryStatus
from telephony.services.notices import Notices
from telephony.services.webhooks import WebhookDeliveries
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

SHOP, BANK = Client("shop", "Shop"), Client("bank", "Bank")


def verified(received: Received, secret: bytes = SECRET) -> object:
    return Webhook("whsec_" + base64.b64encode(secret).decode()).verify(received.raw, received.headers)


async def next_due(world: World, client: str = "shop") -> int:
    async with world.store.reading() as work:
        due = await work.outbox.next_due(client)
    assert due is not None
    return due


async def when_next_due(world: World, deliverer: Deliverer) -> None:
    """Turn the clock to the next try, and wait until it and what follows it at once has been made."""
    counts = deliverer.counts
    before = counts.failed + counts.delivered
    world.clock.now = max(world.clock.now, await next_due(world))
    deliverer.wake()
    await until(lambda: counts.failed + counts.delivered > before and deliverer.in_flight == 0)


async def test_a_webhook_as_the_standard_wants_it(world: World) -> None:
    receiver = await world.receiver()
    deliverer = await world.deliverer({"shop": receiver.url})
    moment = 1_800_000_000_123
    [record] = await world.add(a_webhook(world.clock, created_at=moment, payload={"id": "ver_1", "名": "值"}))
    deliverer.wake()
    await until(lambda: deliverer.counts.delivered)
    [got] = receiver.got
    assert verified(got) == {
        "type": "verification.approved",
        "timestamp": "2027-01-15T08:00:00.123Z",
        "data": {"id": "ver_1", "名": "值"},
    }
    assert got.id == record.id
    assert int(got.headers["webhook-timestamp"]) == world.clock.now // 1000
    kept = await world.record(record)
    assert (kept.status, kept.tries, kept.url) == (DeliveryStatus.DELIVERED, 1, receiver.url)


async def test_while_a_secret_is_changed_both_verify(world: World) -> None:
    receiver = await world.receiver()
    new, old = b"n" * 32, b"o" * 32
    await world.add(a_webhook(world.clock))
    deliverer = await world.deliverer({"shop": receiver.url}, secrets=(new, old))
    await until(lambda: deliverer.counts.delivered)
    assert verified(receiver.got[0], new) == verified(receiver.got[0], old)


async def test_those_of_a_resource_come_in_order(world: World) -> None:
    fails = 2

    async def twice_not(_request: web.Request, _received: Received) -> web.StreamResponse:
        nonlocal fails
        fails -= 1
        return web.Response(status=503 if fails >= 0 else 200)

    receiver = await world.receiver(twice_not)
    records = await world.add(*(a_webhook(world.clock) for _ in range(4)))
    deliverer = await world.deliverer({"shop": receiver.url})
    await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
    await when_next_due(world, deliverer)
    assert receiver.ids == [records[0].id] * 2
    await when_next_due(world, deliverer)
    await until(lambda: deliverer.counts.delivered == 4)
    first = records[0].id
    assert receiver.ids == [first, first, *(record.id for record in records)]
    # What is written once all is done with has its turn at once.
    [last] = await world.add(a_webhook(world.clock))
    deliverer.wake()
    await until(lambda: receiver.ids[-1] == last.id)


async def redirects(request: web.Request, _received: Received) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": f"{request.url.origin()}/elsewhere"})


@pytest.mark.parametrize(
    ("behaves", "problem"),
    [
        (says(500), "HTTP 500"),
        (says(404), "HTTP 404"),
        (redirects, "HTTP 307, a redirect, which is not followed"),
        (hangs, "no answer within 0.5 s"),
        (closes, "no answer: the connection was closed"),
    ],
)
async def test_what_is_no_success_is_tried_again(world: World, behaves: Behaviour, problem: str) -> None:
    receiver = await world.receiver(behaves)
    [record] = await world.add(a_webhook(world.clock))
    # Short for the one that only a timeout ends, and long for those who answer.
    timeout = 0.5 if behaves is hangs else RULES.timeout
    deliverer = await world.deliverer({"shop": receiver.url}, replace(RULES, timeout=timeout))
    await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
    kept = await world.record(record)
    assert (kept.status, kept.last_error) == (DeliveryStatus.PENDING, problem)
    assert kept.due_at == world.clock.now + 5_000
    assert len(receiver.got) == 1
    receiver.behaves = says_ok
    await when_next_due(world, deliverer)
    assert (await world.record(record)).last_error is None
    assert receiver.ids == [record.id] * 2


async def test_a_private_address_is_never_sent_to(world: World) -> None:
    receiver = await world.receiver()
    [record] = await world.add(a_webhook(world.clock))
    deliverer = await world.deliverer({"shop": receiver.url.replace("127.0.0.1", "[::1]")})
    await until(lambda: deliverer.counts.failed)
    assert "loopback" in str((await world.record(record)).last_error)


async def test_back_after_an_hour_it_gets_everything_in_order_once(world: World) -> None:
    receiver = await world.receiver()
    await receiver.down()
    deliverer = await world.deliverer({"shop": receiver.url})
    records = await world.add(
        *(a_webhook(world.clock, f"pay_{n % 3}", expires_at=world.clock.now + 600_000) for n in range(12))
    )
    deliverer.wake()
    began = world.clock.now
    await until(lambda: deliverer.counts.failed == 3 and deliverer.in_flight == 0)
    while await next_due(world) < began + 3_600_000:
        await when_next_due(world, deliverer)
    assert deliverer.counts.delivered == deliverer.counts.dead == 0
    await receiver.up()
    while deliverer.counts.delivered < 12:
        await when_next_due(world, deliverer)
    assert Counter(receiver.ids) == Counter(record.id for record in records)
    for resource in ("pay_0", "pay_1", "pay_2"):
        expected = [record.id for record in records if record.resource == resource]
        assert [got.id for got in receiver.got if got.body["data"]["id"] == resource] == expected


async def test_an_urgent_one_is_tried_within_its_deadline(world: World) -> None:
    receiver = await world.receiver(says(500))
    [record] = await world.add(a_webhook(world.clock, expires_at=world.clock.now + 600_000))
    began = world.clock.now
    deliverer = await world.deliverer({"shop": receiver.url})
    await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
    due: list[int] = []
    while (moment := (await world.record(record)).due_at - began) < 600_000:
        due.append(moment)
        await when_next_due(world, deliverer)
    assert due[:4] == [900, 2700, 6300, 13500]
    assert len(due) > 20
    assert 600_000 + 1_500_000 < moment < 600_000 + 2_200_000


async def test_retry_after(world: World) -> None:
    receiver = await world.receiver(says(429, Retry_After="77"))
    [record] = await world.add(a_webhook(world.clock))
    deliverer = await world.deliverer({"shop": receiver.url})
    await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
    assert (await world.record(record)).due_at == world.clock.now + 77_000


async def test_a_dead_one_is_told_in_the_next_and_can_be_sent_again(world: World) -> None:
    async def likes_not_all(_request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=500 if received.body["type"] in ("t.0", "t.1") else 200)

    receiver = await world.receiver(likes_not_all)
    deliverer = await world.deliverer({"shop": receiver.url})
    service = WebhookDeliveries(world.store, {"shop": receiver.url}, deliverer.wake)
    first, second, third, fourth = await world.add(*(a_webhook(world.clock, type=f"t.{n}") for n in range(4)))
    deliverer.wake()
    await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
    while deliverer.counts.dead < 2:
        await when_next_due(world, deliverer)
    await until(lambda: deliverer.counts.delivered == 2)
    tries = len(SCHEDULE)
    assert receiver.ids == [first.id] * tries + [second.id] * tries + [third.id, fourth.id]
    told = {got.id: got.body.get("skipped") for got in receiver.got}
    assert told == {
        first.id: None,
        second.id: [{"id": first.id, "type": "t.0"}],
        third.id: [{"id": first.id, "type": "t.0"}, {"id": second.id, "type": "t.1"}],
        fourth.id: None,
    }

    page = await service.list(SHOP, status=DeliveryStatus.DEAD, cursor=None, limit=1)
    assert page.next_cursor is not None
    rest = await service.list(SHOP, status=DeliveryStatus.DEAD, cursor=page.next_cursor, limit=5)
    assert {view.id for view in (*page.items, *rest.items)} == {first.id, second.id}
    assert {view.status for view in (*page.items, *rest.items)} == {DeliveryStatus.DEAD}
    delivered = await service.list(SHOP, status=DeliveryStatus.DELIVERED, cursor=None, limit=9)
    assert {view.id for view in delivered.items} == {third.id, fourth.id}
    assert (await service.list(SHOP, status=DeliveryStatus.PENDING, cursor=None, limit=9)).items == ()
    assert (await service.list(BANK, status=None, cursor=None, limit=9)).items == ()

    receiver.behaves = says_ok
    before = len(receiver.got)
    view = await service.resend(SHOP, first.id)
    assert (view.status, view.tries) == (DeliveryStatus.PENDING, 0)
    await until(lambda: len(receiver.got) > before)
    assert receiver.ids[-1] == first.id
    await until(lambda: deliverer.counts.delivered == 3)
    with pytest.raises(Conflict, match="delivered"):
        await service.resend(SHOP, first.id)
    with pytest.raises(NotFound):
        await service.resend(BANK, second.id)


async def test_given_up_after_the_stated_time(world: World) -> None:
    receiver = await world.receiver(says(500))
    [record] = await world.add(a_webhook(world.clock))
    began = world.clock.now
    deliverer = await world.deliverer({"shop": receiver.url}, replace(RULES, dead_after=600.0))
    await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
    while deliverer.counts.dead == 0:
        await when_next_due(world, deliverer)
    assert (await world.record(record)).dead_at == began + 600_000


async def test_gone_stops_an_endpoint_until_somebody_says_so(world: World) -> None:
    receiver = await world.receiver(says(410))
    bank = await world.receiver()
    records = await world.add(a_webhook(world.clock), a_webhook(world.clock), a_webhook(world.clock, "ver_2"))
    rules = replace(RULES, per_endpoint=1)
    deliverer = await world.deliverer({"shop": receiver.url, "bank": bank.url}, rules)
    service = WebhookDeliveries(world.store, {"shop": receiver.url}, deliverer.wake)
    await until(lambda: deliverer.counts.disabled == 1 and deliverer.in_flight == 0)
    seen = len(receiver.got)
    await world.add(a_webhook(world.clock, "ver_3", client="bank"))
    world.clock.advance(7 * 86_400)
    deliverer.wake()
    await until(lambda: deliverer.counts.delivered == 1)
    assert len(receiver.got) == seen == 1
    view = await service.endpoint(SHOP)
    assert (view.url, view.reason) == (receiver.url, "HTTP 410")
    assert view.disabled_at is not None
    kept = await world.record(records[0])
    assert (kept.status, kept.tries) == (DeliveryStatus.PENDING, 0)

    receiver.behaves = says_ok
    assert (await service.enable(SHOP)).disabled_at is None
    await until(lambda: deliverer.counts.delivered == 4)
    assert Counter(receiver.ids[seen:]) == Counter(record.id for record in records)
    with pytest.raises(NotFound):
        await service.endpoint(BANK)


async def test_another_url_in_the_configuration_enables_too(world: World) -> None:
    receiver = await world.receiver(says(410))
    await world.add(a_webhook(world.clock))
    first = await world.deliverer({"shop": receiver.url})
    await until(lambda: first.counts.disabled)
    await first.stop()
    receiver.behaves = says_ok
    same = await world.deliverer({"shop": receiver.url})
    await asyncio.sleep(0.1)
    assert len(receiver.got) == 1
    await same.stop()
    other = await world.deliverer({"shop": receiver.url + "/new"})
    await until(lambda: other.counts.delivered == 1)


async def test_one_that_hangs_holds_nobody_else_up(world: World) -> None:
    slow = [await world.receiver(hangs) for _ in range(4)]
    quick = await world.receiver()
    urls = {f"slow-{n}": one.url for n, one in enumerate(slow)} | {"quick": quick.url}
    for n in range(40):
        await world.add(a_webhook(world.clock, f"r{n}", client=f"slow-{n % 4}"))
    rules = replace(RULES, timeout=30.0, per_endpoint=3, concurrency=2)
    deliverer = await world.deliverer(urls, rules)
    # One each, and two more among them all.
    await until(lambda: sum(one.at_once for one in slow) == 6)
    await world.add(*(a_webhook(world.clock, f"q{n}", client="quick") for n in range(20)))
    deliverer.wake()
    await until(lambda: deliverer.counts.delivered == 20)
    assert sum(one.at_once for one in slow) == 6
    assert max(one.most_at_once for one in slow) <= 3
    assert quick.most_at_once == 1


async def test_an_endpoint_is_sent_a_few_at_once(world: World) -> None:
    gate = asyncio.Event()

    async def waits(_request: web.Request, _received: Received) -> web.StreamResponse:
        await gate.wait()
        return web.Response()

    receiver = await world.receiver(waits)
    await world.add(*(a_webhook(world.clock, f"ver_{n}") for n in range(12)))
    deliverer = await world.deliverer({"shop": receiver.url}, replace(RULES, per_endpoint=3))
    await until(lambda: receiver.at_once == 3)
    gate.set()
    await until(lambda: deliverer.counts.delivered == 12)
    assert receiver.most_at_once == 3


async def test_what_is_too_big_is_cut_short_and_says_so(world: World) -> None:
    receiver = await world.receiver()
    deliverer = await world.deliverer({"shop": receiver.url})
    await world.add(
        a_webhook(world.clock, payload={"id": "ver_1", "n": 1, "note": "长" * 9_000, "deep": {"a": 1}})
    )
    deliverer.wake()
    await until(lambda: deliverer.counts.delivered == 1)
    assert receiver.got[0].body["data"] == {"id": "ver_1", "n": 1, "truncated": True}
    wide = {f"名{n}": "x" * 100 for n in range(1_000)}
    await world.add(
        a_webhook(world.clock, payload=wide), a_webhook(world.clock, payload={"note": "x" * 19_800})
    )
    deliverer.wake()
    await until(lambda: deliverer.counts.delivered == 3)
    assert all(len(got.raw) <= MAX_BODY for got in receiver.got)
    assert "truncated" not in receiver.got[2].body["data"]


async def test_stopping_gives_back_what_is_under_way(world: World) -> None:
    receiver = await world.receiver(hangs)
    [record] = await world.add(a_webhook(world.clock))
    deliverer = await world.deliverer({"shop": receiver.url}, replace(RULES, timeout=30.0))
    await until(lambda: receiver.at_once == 1)
    await deliverer.stop()
    kept = await world.record(record)
    assert (kept.due_at, kept.tries, kept.last_error) == (world.clock.now, 0, None)
    assert deliverer.in_flight == 0


async def test_it_sleeps_towards_what_is_due(world: World) -> None:
    """Nobody wakes it: the pause itself is what the row says."""
    receiver = await world.receiver()
    world.clock.now -= 200
    await world.add(a_webhook(world.clock, due_at=world.clock.now + 200))
    deliverer = await world.deliverer({"shop": receiver.url})
    await until(lambda: deliverer.counts.delivered == 0 and deliverer._loop is not None)
    await asyncio.sleep(0.05)
    assert receiver.got == []
    world.clock.now += 200
    await until(lambda: deliverer.counts.delivered == 1, seconds=3)


async def test_what_is_past_its_keep_is_forgotten(world: World) -> None:
    receiver = await world.receiver()
    old = a_webhook(world.clock, created_at=world.clock.now - 40 * 86_400_000, client="nobody")
    [kept] = await world.add(replace(old, resource="ver_9"))
    [young] = await world.add(a_webhook(world.clock))
    deliverer = await world.deliverer({"shop": receiver.url})
    await until(lambda: deliverer.counts.delivered == 1)
    async with world.store.reading() as work:
        assert await work.outbox.get_for_client("nobody", kept.id) is None
    assert (await world.record(young)).status is DeliveryStatus.DELIVERED


async def test_no_body_and_no_secret_in_the_log(world: World) -> None:
    receiver = await world.receiver(says(500))
    with capture_logs() as logs:
        await world.add(a_webhook(world.clock, payload={"id": "ver_1", "note": "PRIVATE"}))
        deliverer = await world.deliverer({"shop": receiver.url})
        await until(lambda: deliverer.counts.failed == 1 and deliverer.in_flight == 0)
        receiver.behaves = says_ok
        await when_next_due(world, deliverer)
    assert {line["event"] for line in logs} >= {"webhook.failed", "webhook.delivered"}
    assert all(line["webhook"].startswith("msg_") for line in logs if line["event"] != "store.migrated")
    assert "PRIVATE" not in str(logs)
    assert SECRET.decode() not in str(logs)
    assert "ssss" not in repr(deliverer._endpoints)


async def test_an_event_of_a_slow_commit_is_sent_right_after_it(world: World) -> None:
    receiver = await world.receiver()
    deliverer = await world.deliverer({"shop": receiver.url})
    notices = Notices({"shop": Endpoint(receiver.url, (SECRET,))}, deliverer.wake)
    await until(lambda: deliverer._loop is not None)
    await asyncio.sleep(0.1)
    async with world.store.transaction() as work:
        await notices.add(
            work,
            client="shop",
            resource="ver_1",
            kind="verification.failed",
            payload={},
            now=world.clock.now,
            expires_at=None,
        )
        await asyncio.sleep(0.5)
    await until(lambda: len(receiver.got) == 1, seconds=2)
