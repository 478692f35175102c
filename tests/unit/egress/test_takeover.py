"""Several controllers, one outbox: nobody sends twice at once, and what a killed one held is sent again."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import replace

import pytest

from telephony.egress.deliverer import Deliverer
from telephony.egress.guard import Guard
from telephony.egress.http import Egress, HttpCaller
from telephony.egress.rules import DeliveryRules, Endpoint
from telephony.errors import StaleFence
from telephony.model.delivery import DeliveryStatus
from telephony.store import OutboxRecord, Store
from tests.unit.egress.conftest import RULES, SECRET, World, a_webhook, hangs, says_ok, until


async def test_what_another_holds_is_left_alone_until_its_lease_ends(world: World) -> None:
    receiver = await world.receiver()
    [record] = await world.add(a_webhook(world.clock))
    dead = await world.another_store("node-dead")
    async with dead.transaction() as work:
        [held] = await work.outbox.claim("shop", "node-dead", world.clock.now, 5, RULES.lease_ms)
    deliverer = await world.deliverer({"shop": receiver.url})
    world.clock.now += RULES.lease_ms - 1
    deliverer.wake()
    await asyncio.sleep(0.1)
    assert receiver.got == []
    world.clock.now += 1
    deliverer.wake()
    await until(lambda: deliverer.counts.delivered == 1)
    assert receiver.ids == [record.id]
    # The one that was only frozen comes back, and changes nothing any more.
    async with dead.transaction() as work:
        with pytest.raises(StaleFence):
            await work.outbox.deliver(held, world.clock.now)
        with pytest.raises(StaleFence):
            await work.outbox.bury(held, world.clock.now, "late")
        with pytest.raises(StaleFence):
            await work.outbox.postpone(held, due_at=world.clock.now, error="late")
    assert (await world.record(record)).status is DeliveryStatus.DELIVERED


async def test_a_slow_answer_after_the_lease_changes_nothing(world: World) -> None:
    receiver = await world.receiver(hangs)
    [record] = await world.add(a_webhook(world.clock))
    frozen = await world.deliverer({"shop": receiver.url}, replace(RULES, timeout=0.5))
    await until(lambda: receiver.at_once == 1)
    receiver.behaves = says_ok
    world.clock.now += RULES.lease_ms
    other = await world.another_store("node-b")
    second = await world.deliverer({"shop": receiver.url}, store=other)
    await until(lambda: second.counts.delivered == 1)
    await until(lambda: frozen.counts.stale == 1)
    assert receiver.ids == [record.id] * 2
    assert (await world.record(record)).status is DeliveryStatus.DELIVERED


async def test_two_controllers_share_the_work(world: World) -> None:
    receiver = await world.receiver()
    records: list[OutboxRecord] = []
    for n in range(60):
        records += await world.add(a_webhook(world.clock, f"ver_{n % 7}"))
    both = [
        await world.deliverer({"shop": receiver.url}),
        await world.deliverer({"shop": receiver.url}, store=await world.another_store("node-b")),
    ]

    async def write_on() -> None:
        for n in range(60):
            records.extend(await world.add(a_webhook(world.clock, f"ver_{n % 7}")))
            both[n % 2].wake()

    await write_on()
    await until(lambda: sum(one.counts.delivered for one in both) == 120, seconds=40)
    assert Counter(receiver.ids) == Counter(record.id for record in records)
    for n in range(7):
        expected = [record.id for record in records if record.resource == f"ver_{n}"]
        assert [got.id for got in receiver.got if got.body["data"]["id"] == f"ver_{n}"] == expected


async def test_a_dead_one_sent_again_strands_nobody(world: World) -> None:
    """Two of a resource in turn at once, ended by two controllers at once: the third gets its turn."""
    for n in range(10):
        first, second, third = await world.add(*(a_webhook(world.clock, f"ver_{n}") for _ in range(3)))
        other = await world.another_store(f"node-{n}")
        now = world.clock.now
        async with world.store.transaction() as work:
            [held] = await work.outbox.claim("shop", "a", now, 1, 1_000)
            await work.outbox.bury(held, now, "x")
        async with world.store.transaction() as work:
            assert await work.outbox.revive(first.id, now)
            claimed = await work.outbox.claim("shop", "a", now, 9, 10**9)
        assert {one.id for one in claimed} == {first.id, second.id}

        async def end(store: Store, record: OutboxRecord, now: int = now) -> None:
            async with store.transaction() as work:
                await work.outbox.deliver(record, now)

        await asyncio.gather(end(world.store, claimed[0]), end(other, claimed[1]))
        assert (await world.record(third)).opened_at == now
        async with world.store.transaction() as work:
            [last] = await work.outbox.claim("shop", "a", now, 9, 10**9)
            await work.outbox.deliver(last, now)


async def test_one_written_while_the_one_before_ends_gets_its_turn(world: World) -> None:
    other = await world.another_store("node-b")
    for n in range(25):
        await world.add(a_webhook(world.clock, f"ver_{n}"))
        async with world.store.transaction() as work:
            [held] = await work.outbox.claim("shop", "a", world.clock.now, 1, 10**9)

        async def end(record: OutboxRecord = held) -> None:
            async with other.transaction() as work:
                await work.outbox.deliver(record, world.clock.now)

        written, _ = await asyncio.gather(world.add(a_webhook(world.clock, f"ver_{n}")), end())
        assert (await world.record(written[0])).opened_at is not None
        async with world.store.transaction() as work:
            [last] = await work.outbox.claim("shop", "a", world.clock.now, 9, 10**9)
            await work.outbox.deliver(last, world.clock.now)


def _controller(database: str, url: str) -> None:
    """A controller that is killed: its receiver never answers."""

    async def run() -> None:
        store = await Store.open(database, owner="node-killed")
        caller = HttpCaller(Guard(("127.0.0.1",)))
        rules = DeliveryRules(timeout=1.0, lease_margin=0.5)
        Deliverer(store, Egress(caller), {"shop": Endpoint(url, (SECRET,))}, rules).start()
        await asyncio.Event().wait()

    asyncio.run(run())


async def test_killed_while_it_sends(world: World) -> None:
    """By the real clock and a real `kill -9`: the next controller sends it again, under the same id."""
    receiver = await world.receiver(hangs)
    [record] = await world.add(a_webhook(world.clock))
    process = multiprocessing.get_context("spawn").Process(
        target=_controller, args=(world.database, receiver.url)
    )
    process.start()
    assert process.pid is not None
    await until(lambda: receiver.at_once == 1, seconds=30)
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.join, 10)
    receiver.behaves = says_ok
    world.clock.now = time.time_ns() // 1_000_000
    deliverer = await world.deliverer({"shop": receiver.url})
    await asyncio.sleep(0.05)
    assert len(receiver.got) == 1
    world.clock.advance(1.6)
    deliverer.wake()
    await until(lambda: deliverer.counts.delivered == 1)
    assert receiver.ids == [record.id] * 2
    assert (await world.record(record)).tries == 2
