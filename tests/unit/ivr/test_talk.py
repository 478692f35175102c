"""A sound that takes long to make: the PBX is told meanwhile that we live."""

from __future__ import annotations

import asyncio

import pytest

from telephony.ivr import talk
from telephony.ivr.journal import Journal
from telephony.ivr.sounds import Sounds
from telephony.ivr.talk import Talk
from telephony.model.media import Media
from telephony.model.prompt import Prompt, Text
from telephony.pbx.memory import Callee, MemorySession

WORDS = Prompt((Text("Hello"),))


class Slow:
    """A voice that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def compose(self, prompt: Prompt, locale: str) -> Media:
        await asyncio.sleep(self.seconds)
        return Media("/s/1", 1.0)

    def discard(self, media: Media) -> None:
        """Nothing lies anywhere."""


class Counted(MemorySession):
    allowed: list[float]

    async def guard(self, seconds: float) -> None:
        self.allowed.append(seconds)


@pytest.mark.parametrize(("seconds", "signs"), [(0.0, 0), (0.25, 2)])
async def test_the_pbx_hears_of_us_while_a_sound_is_made(
    monkeypatch: pytest.MonkeyPatch, seconds: float, signs: int
) -> None:
    monkeypatch.setattr(talk, "SIGN_OF_LIFE", 0.1)
    session = Counted("1", "", "", Callee())
    session.allowed = []
    sounds = Sounds(Slow(seconds))
    await Talk(session, sounds, Journal("1")).say(WORDS, "en", barge_in=False)
    assert session.allowed == [*[0.1] * signs, 1.0]
    await sounds.close()
