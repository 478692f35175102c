"""The limit that the PBX sets a call in a tree: moved on while we live, left alone afterwards."""

from __future__ import annotations

import asyncio
import time

import pytest

from telephony.errors import PbxTimeout, PbxUnavailable
from telephony.pbx.asterisk import guard
from telephony.pbx.asterisk.guard import Guard


class Limit:
    """A channel's limit, as AMI and AGI set it; `until` is by the event loop's time."""

    def __init__(self) -> None:
        self.linked = True
        self.moved: list[float] = []
        self.by_hand: list[float] = []
        self.until = 0.0
        self.slow = 0.0
        self.replied = 0.0

    async def move(self, seconds: float) -> None:
        await asyncio.sleep(self.slow)
        if not self.linked:
            raise PbxUnavailable("no link", sent=False)
        self.moved.append(seconds)
        self.until = asyncio.get_running_loop().time() + seconds

    async def set_now(self, seconds: float) -> None:
        self.by_hand.append(seconds)
        self.until = asyncio.get_running_loop().time() + seconds


QUICK = {"HOLD": 0.4, "RENEW_BELOW": 0.125, "GRID": 0.05, "RETRY": 0.025, "MARGIN": 0.25, "FRESH": 0.05}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some ten times as fast as in life."""
    for name, value in QUICK.items():
        monkeypatch.setattr(guard, name, value)


async def test_a_long_step_is_held_a_little_at_a_time() -> None:
    limit = Limit()
    one = Guard(limit.move, limit.set_now, lambda: limit.replied)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await one.allow(1.0)
    await asyncio.sleep(0.01)
    while loop.time() < began + 1.0:
        assert loop.time() < limit.until <= loop.time() + 0.4
        await asyncio.sleep(0.02)
    # Its end is where the step was given up, though we live: 1.0 and a margin of 0.25.
    await asyncio.sleep(0.5)
    assert began + 1.2 < limit.until <= began + 1.3
    assert 4 <= len(limit.moved) <= 8
    assert limit.by_hand == [1.25]


async def test_a_call_just_heard_of_needs_no_word_through_the_conversation() -> None:
    limit = Limit()
    limit.replied = asyncio.get_running_loop().time()
    one = Guard(limit.move, limit.set_now, lambda: limit.replied)
    await one.allow(1.0)
    assert limit.moved == [0.4]
    await asyncio.sleep(0.5)
    assert len(limit.moved) >= 2
    assert not limit.by_hand
    await one.release()


async def test_the_limit_of_the_dialplan_is_the_first() -> None:
    limit = Limit()
    loop = asyncio.get_running_loop()
    one = Guard(limit.move, limit.set_now, lambda: limit.replied, held=0.3)
    began = loop.time()
    await one.allow(1.0)
    assert (limit.moved, limit.by_hand) == ([], [])
    while not limit.moved:
        await asyncio.sleep(0.005)
    # In good time before the 0.3 are over, and not at once.
    assert began + 0.1 < loop.time() < began + 0.25
    assert not limit.by_hand
    await one.release()


async def test_calls_are_moved_on_together() -> None:
    moments: list[float] = []

    async def move(seconds: float) -> None:
        moments.append(round(asyncio.get_running_loop().time(), 2))

    guards = [Guard(move, move, lambda: 0.0, held=0.3) for _ in range(3)]
    for one in guards:
        await one.allow(1.0)
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert len(set(moments[:3])) <= 2
    for one in guards:
        await one.release()


async def test_short_steps_share_a_limit() -> None:
    limit = Limit()
    one = Guard(limit.move, limit.set_now, lambda: limit.replied)
    for _ in range(5):
        await one.allow(0.1)
        await asyncio.sleep(0.02)
    assert len(limit.moved) == 1
    assert len(limit.by_hand) == 1
    await one.release()


async def test_nothing_is_moved_after_the_release() -> None:
    limit = Limit()
    one = Guard(limit.move, limit.set_now, lambda: limit.replied)
    await one.allow(5.0)
    await asyncio.sleep(0.01)
    limit.slow = 0.2
    await asyncio.sleep(0.3)
    await one.release()
    moved = len(limit.moved)
    assert moved == 2, "the one under way is waited for"
    await asyncio.sleep(0.5)
    assert len(limit.moved) == moved
    await one.allow(0.1)
    await one.release()
    assert len(limit.moved) == moved + 1


async def test_a_call_that_went_its_own_way_while_we_were_frozen_is_not_touched() -> None:
    limit = Limit()
    one = Guard(limit.move, limit.set_now, lambda: limit.replied)
    await one.allow(5.0)
    await asyncio.sleep(0.1)
    assert len(limit.moved) == 1
    time.sleep(0.5)  # The whole process stands still.
    await asyncio.sleep(0.1)
    assert len(limit.moved) == 1
    await one.allow(5.0)
    assert len(limit.by_hand) == 2, "the next step asks through the conversation whether it is still ours"
    await one.release()


async def test_without_a_link_each_step_has_its_whole_length_at_once() -> None:
    limit = Limit()
    limit.linked = False
    one = Guard(limit.move, limit.set_now, lambda: limit.replied)
    await one.allow(1.0)
    await asyncio.sleep(0.01)
    await one.allow(2.0)
    await asyncio.sleep(0.01)
    assert limit.by_hand == [1.25, 2.25]
    limit.linked = True
    await one.allow(3.0)
    await asyncio.sleep(0.01)
    assert limit.by_hand == [1.25, 2.25, 3.25]
    assert limit.moved == [0.4]
    await one.release()


async def test_a_limit_that_was_not_answered_comes_before_the_release_is_over() -> None:
    done: list[float] = []
    queue: asyncio.Queue[tuple[float, asyncio.Future[None]]] = asyncio.Queue()

    async def pbx() -> None:
        while True:
            seconds, answer = await queue.get()
            await asyncio.sleep(0.2)
            done.append(seconds)
            if not answer.done():
                answer.set_result(None)

    patience = 0.1

    async def move(seconds: float) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.put_nowait((seconds, answer))
        try:
            await asyncio.wait_for(answer, patience)
        except TimeoutError:
            raise PbxTimeout("no answer") from None

    async def set_now(seconds: float) -> None:
        return

    working = asyncio.create_task(pbx())
    one = Guard(move, set_now, lambda: 0.0)
    await one.allow(5.0)
    await asyncio.sleep(0.12)
    patience = 2.0
    await one.release()
    assert len(done) == 2
    assert queue.empty()
    await one.release()
    assert len(done) == 2, "nothing is left to come"
    working.cancel()


async def test_a_link_that_is_lost_for_a_moment_costs_no_call() -> None:
    limit = Limit()
    one = Guard(limit.move, limit.set_now, lambda: limit.replied)
    loop = asyncio.get_running_loop()
    await one.allow(5.0)
    await asyncio.sleep(0.01)
    limit.linked = False
    await asyncio.sleep(0.3)
    limit.linked = True
    await asyncio.sleep(0.3)
    assert limit.until > loop.time()
    await one.release()
