"""Amounts as they are heard: by an ear that knows neither the clips nor the code that worded them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from telephony.model.media import Media
from telephony.model.prompt import Amount, Digits, Phrase, Prompt, Silence
from telephony.speech import g711
from telephony.speech.studio import Studio
from tests.ear.amounts import AMOUNTS, NEAR_MISSES, classify_amount, spoken_amounts
from tests.ear.dtw import RATE, segments

LOCALES = ("en", "es", "zh-CN")
CURRENCIES = ("CNY", "USD", "EUR", "JPY")


def heard(media: Media, law: str = "ulaw") -> NDArray[np.float64]:
    decode = {"ulaw": g711.from_ulaw, "alaw": g711.from_alaw}[law]
    return np.array(decode(Path(f"{media.name}.{law}").read_bytes()), dtype=np.float64)


async def said(studio: Studio, amount: str, currency: str, locale: str) -> Media:
    return await studio.compose(Prompt((Amount(Decimal(amount), currency),)), locale)


@pytest.mark.parametrize(
    "currency",
    [
        "CNY",
        *(pytest.param(currency, marks=pytest.mark.soak) for currency in CURRENCIES if currency != "CNY"),
    ],
)
@pytest.mark.parametrize("locale", LOCALES)
async def test_amounts_are_heard_right(espeak_studio: Studio, locale: str, currency: str) -> None:
    candidates = spoken_amounts(locale, currency)
    amounts = [amount for amount in AMOUNTS if amount in candidates]
    # One sound in two laws: the second is listened to in one currency, which takes half the time.
    for law in ("ulaw", "alaw") if currency == "CNY" else ("alaw",):
        told = [
            classify_amount(
                heard(await said(espeak_studio, amount, currency, locale), law), locale, candidates
            )
            for amount in amounts
        ]
        assert told == amounts, law


@pytest.mark.soak
@pytest.mark.parametrize("locale", LOCALES)
async def test_the_ear_takes_no_near_miss_for_the_amount(espeak_studio: Studio, locale: str) -> None:
    candidates = spoken_amounts(locale, "CNY")
    told = [
        classify_amount(heard(await said(espeak_studio, amount, "CNY", locale)), locale, candidates)
        for amount in NEAR_MISSES
    ]
    assert told == list(NEAR_MISSES)


@pytest.mark.parametrize("locale", LOCALES)
async def test_an_amount_is_heard_in_the_recording_of_a_call(espeak_studio: Studio, locale: str) -> None:
    """The parts of a payment call in their order, quieter, with the hiss of a line, cut at the pauses."""
    candidates = spoken_amounts(locale, "CNY")
    hiss = np.random.default_rng(7)
    for amount in ("100.50", "1234.05"):
        prompt = Prompt(
            (
                Phrase("payment.greeting", (("brand", "Acme"),)),
                Digits("47"),
                Phrase("payment.payee", (("payee", "Acme"),)),
                Silence(1.0),
                Amount(Decimal(amount), "CNY"),
                Silence(1.0),
                Phrase("payment.keys_agent"),
            )
        )
        sound = 0.3 * heard(await espeak_studio.compose(prompt, locale), "alaw")
        sound += hiss.normal(scale=5, size=len(sound))
        before, (start, end), after = segments(sound, shortest_gap=0.8)
        assert before[1] < start
        assert after[0] > end
        told = classify_amount(sound[start - RATE // 10 : end + RATE // 10], locale, candidates)
        assert told == amount
