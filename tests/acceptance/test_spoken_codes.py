"""Twenty verification calls at once in each language: what the far end's recordings hold is the codes."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest

from telephony.app import running
from telephony.lab import Lab, answer_and_listen
from telephony.lab.ear import Heard, first_sound, gaps, hear
from telephony.settings import check_settings
from telephony.speech.g711 import from_ulaw
from tests.acceptance.control import api_of, settings_of

pytestmark = pytest.mark.lab

SHIFTED = ["".join(str((place + shift) % 10) for place in range(6)) for shift in range(10)]
DOUBLED = [f"{d}{d}{(d + 3) % 10}{(d + 3) % 10}{(d + 7) % 10}{(d + 7) % 10}" for d in range(10)]
CODES = SHIFTED + DOUBLED
CROWDED = 0.65
"""What makes a digit known: of a crowded machine's audio a packet may come late and shift the rest of it."""


def test_the_codes_cover_each_digit_in_each_place_and_every_double() -> None:
    for place in range(6):
        assert {code[place] for code in CODES} == set("0123456789")
    assert {code[place : place + 2] for code in CODES for place in range(5)} >= {2 * d for d in "0123456789"}


@pytest.mark.parametrize("locale", ["en", "zh-CN", "es"])
async def test_twenty_calls_at_once_are_heard_right(lab: Lab, tmp_path: Path, locale: str) -> None:
    numbers = [f"+8613{8 + index % 2}0000{index:04d}" for index in range(len(CODES))]
    for number in numbers:
        lab.carrier.subscribe(number, answer_and_listen(after=0.2))
    async with running(check_settings(settings_of(lab, tmp_path))) as controller:
        slots = await controller.studio.digit_slots(locale)
        clips = {
            str(digit): np.array(from_ulaw(clip.ulaw), dtype=np.int16)
            for digit, clip in enumerate(slots.slots)
        }
        async with api_of(controller.url) as api:
            made = await asyncio.gather(
                *(
                    api.verify(number, code=code, locale=locale)
                    for number, code in zip(numbers, CODES, strict=True)
                )
            )
            calls = await asyncio.gather(*(api.call_ended(view) for view in made))
            assert {call["status"] for call in calls} == {"completed"}
            checks = await asyncio.gather(
                *(
                    api.post(f"/v1/verifications/{view['id']}/check", {"code": code})
                    for view, code in zip(made, CODES, strict=True)
                )
            )
            assert all(check["valid"] for check in checks)
    for number, code in zip(numbers, CODES, strict=True):
        (call,) = lab.carrier.calls_to(number)
        await call.wait_ended()
        assert call.codec == ("alaw" if number.startswith("+86139") else "ulaw")
        assert call.heard is not None
        heard = await asyncio.to_thread(hear, call.heard, clips, threshold=CROWDED)
        check_heard(heard, code, number)
        begins = first_sound(call.heard)
        assert begins is not None
        assert begins < 1.5, f"{number}: the first sound came {begins:.2f} s after the answer"


def check_heard(heard: list[Heard], code: str, number: str) -> None:
    """Hold what was heard against the code, and the gaps against 400 to 700 ms."""
    assert "".join(one.label for one in heard) == code, f"{number}: {[(h.label, h.score) for h in heard]}"
    between = gaps(heard)
    assert all(0.4 <= gap <= 0.7 for gap in between), f"{number}: gaps {between}"
    assert math.isfinite(sum(between))
