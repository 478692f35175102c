"""Amounts as the person at the far end heard them: every language at once, told from the recordings.

Where the amount stands in a recording is found by the clips around it; what it says is told by an ear that
knows neither the clips nor the code that worded them (`tests/ear`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from telephony.app import running
from telephony.lab import Lab, answer_and_listen
from telephony.lab.ear import hear
from telephony.model.prompt import Phrase, Prompt
from telephony.settings import check_settings
from telephony.speech.g711 import from_ulaw
from telephony.speech.pcm import read_wav
from telephony.speech.studio import Studio
from tests.acceptance.control import Api, api_of, settings_of
from tests.acceptance.test_payments import pay
from tests.ear.amounts import AMOUNTS, classify_amount, spoken_amounts
from tests.ear.dtw import RATE

pytestmark = pytest.mark.lab

Asked: TypeAlias = list[tuple[str, str]]
"""Languages and amounts."""

LOCALES = ("en", "zh-CN", "es")
ORDER = {"order_id": "7", "payee": "Acme"}
"""Soon said."""

LONG, SHORT = 18.0, 14.5
"""Seconds that somebody listens: until the keys are being told, after the longest amount and the others."""

KEYS_BEGIN = 1.5
"""Seconds of the words after the amount that are looked for."""

FOUND = 0.45
"""Correlation: where a busy machine sent a packet late, one half of a phrase still fits."""


@dataclass(frozen=True)
class Told:
    """What is said right before an amount and right after it, 8 kHz."""

    before: NDArray[np.int16]
    after: NDArray[np.int16]


async def clip(studio: Studio, locale: str, phrase: Phrase) -> NDArray[np.int16]:
    media = await studio.compose(Prompt((phrase,)), locale)
    try:
        return np.array(from_ulaw(Path(f"{media.name}.ulaw").read_bytes()), dtype=np.int16)
    finally:
        studio.discard(media)


async def around(studio: Studio, locale: str) -> Told:
    before = await clip(studio, locale, Phrase("payment.payee", (("payee", ORDER["payee"]),)))
    after = await clip(studio, locale, Phrase("payment.keys"))
    return Told(before, after[: round(KEYS_BEGIN * RATE)])


def amount_in(recording: Path, told: Told) -> NDArray[np.float64]:
    """Cut out of a recording what lies between the payee and the keys."""
    found = hear(recording, {"before": told.before, "after": told.after}, threshold=FOUND)
    assert [one.label for one in found] == ["before", "after"], (recording, found)
    sound = np.array(read_wav(recording.read_bytes()).samples, dtype=np.float64)
    return sound[round(found[0].end_seconds * RATE) : round(found[1].start_seconds * RATE)]


async def recorded(lab: Lab, api: Api, number: str, locale: str, amount: str, currency: str) -> Path:
    """Place one payment call, and return what the person heard of it."""
    listen = LONG if amount == AMOUNTS[-1] else SHORT
    lab.carrier.subscribe(number, answer_and_listen(after=0.1, listen=listen))
    payment = await pay(api, to=number, locale=locale, amount=amount, currency=currency, **ORDER)
    call = await api.call_ended(payment)
    assert call["attempts"][0]["end_reason"] == "hung_up_early"
    (rung,) = lab.carrier.calls_to(number)
    await rung.wait_ended()
    assert rung.heard is not None
    assert rung.codec == ("alaw" if number.startswith("+86139") else "ulaw")
    return rung.heard


def amounts_heard(recordings: Sequence[Path], asked: Asked, told: Mapping[str, Told], currency: str) -> Asked:
    """Tell which amount each recording holds; nothing else runs meanwhile: it takes all of a processor."""
    found: Asked = []
    for recording, (locale, _amount) in zip(recordings, asked, strict=True):
        sound = amount_in(recording, told[locale])
        found.append((locale, classify_amount(sound, locale, spoken_amounts(locale, currency))))
    return found


@pytest.mark.parametrize(
    "currency", ["CNY", *(pytest.param(other, marks=pytest.mark.soak) for other in ("USD", "EUR", "JPY"))]
)
async def test_amounts_are_heard_right_at_the_far_end(lab: Lab, tmp_path: Path, currency: str) -> None:
    asked: Asked = [
        (locale, amount)
        for locale in LOCALES
        for amount in AMOUNTS
        if amount in spoken_amounts(locale, currency)
    ]
    async with (
        running(check_settings(settings_of(lab, tmp_path))) as controller,
        api_of(controller.url) as api,
    ):
        told = {locale: await around(controller.studio, locale) for locale in LOCALES}
        recordings = await asyncio.gather(
            *(
                recorded(lab, api, f"+8613{8 + index % 2}0006{index:04d}", locale, amount, currency)
                for index, (locale, amount) in enumerate(asked)
            )
        )
    assert await asyncio.to_thread(amounts_heard, recordings, asked, told, currency) == asked
