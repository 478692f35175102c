"""One question for all who ask it at the same time."""

from __future__ import annotations

import asyncio

import pytest

from telephony.pbx.asterisk.together import Together


class Oracle:
    """Counts how often it is asked; an answer takes a moment, and is the number of the question."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = False

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        await asyncio.sleep(0.02)
        if self.fails:
            raise ValueError(number)
        return number


async def test_all_who_ask_at_once_share_a_question_and_who_comes_late_does_not() -> None:
    oracle = Oracle()
    together = Together(oracle.ask)
    first = [asyncio.create_task(together()) for _ in range(50)]
    await asyncio.sleep(0.01)
    late = [asyncio.create_task(together()) for _ in range(50)]
    assert set(await asyncio.gather(*first)) == {1}
    assert set(await asyncio.gather(*late)) == {2}, "what was asked before they came may be old"
    assert oracle.asked == 2


async def test_a_failure_is_told_to_each_and_the_next_question_is_a_new_one() -> None:
    oracle = Oracle()
    together = Together(oracle.ask)
    oracle.fails = True
    told = await asyncio.gather(together(), together(), return_exceptions=True)
    assert [str(one) for one in told] == ["1", "1"]
    oracle.fails = False
    assert await together() == 2


async def test_one_who_is_cancelled_takes_the_answer_from_nobody() -> None:
    together = Together(Oracle().ask)
    hasty, patient = asyncio.create_task(together()), asyncio.create_task(together())
    await asyncio.sleep(0.01)
    hasty.cancel()
    assert await patient == 1
    with pytest.raises(asyncio.CancelledError):
        await hasty
