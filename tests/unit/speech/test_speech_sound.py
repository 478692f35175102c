"""Listening: what espeak-ng and the shipped language packs really sound like, by measure and by ear."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from telephony.model.media import Media
from telephony.model.prompt import Digits, Phrase, Prompt, Silence
from telephony.speech import g711
from telephony.speech.pcm import TARGET_LEVEL, active_level
from telephony.speech.studio import MAX_DIGIT_SPREAD, Studio
from tests.ear.dtw import RATE, classify, segments
from tests.ear.voices import digit_templates

LOCALES = ("en", "es", "zh-CN")
BRAND = (("brand", "Acme"),)


def heard(media: Media, law: str = "ulaw") -> NDArray[np.float64]:
    decode = g711.from_ulaw if law == "ulaw" else g711.from_alaw
    return np.array(decode(Path(f"{media.name}.{law}").read_bytes()), dtype=np.float64)


@pytest.mark.parametrize("locale", LOCALES)
async def test_every_clip_of_a_pack_has_the_one_loudness_and_no_silent_ends(
    espeak_studio: Studio, locale: str
) -> None:
    pack = espeak_studio._packs.pack(locale)
    prompts = {
        key: Prompt((Phrase(key, tuple((name, "Acme") for name in pack.placeholders(key))),))
        for key in pack.phrases
    }
    prompts |= {digit: Prompt((Digits(digit),)) for digit in "0123456789"}
    for name, prompt in prompts.items():
        media = await espeak_studio.compose(prompt, locale)
        for law in ("ulaw", "alaw"):
            sound = heard(media, law)
            assert active_level(sound.tolist()) == pytest.approx(TARGET_LEVEL, abs=2), (locale, name, law)
            assert np.abs(sound).max() <= 0.95 * 32768, (locale, name, law)
            if len(name) > 1:
                # A final s is weak on a telephone line, so the ear listens a little deeper.
                ((start, end),) = segments(sound, shortest_gap=10, depth_db=42)
                assert start <= 0.02 * RATE, (locale, name)
                assert len(sound) - end <= 0.02 * RATE, (locale, name)


@pytest.mark.parametrize("locale", LOCALES)
async def test_the_gap_between_any_two_digits(espeak_studio: Studio, locale: str) -> None:
    digits = await espeak_studio.digit_slots(locale)
    spread = (max(digits.clip_samples) - min(digits.clip_samples)) / RATE
    assert spread <= MAX_DIGIT_SPREAD
    assert {slot.samples for slot in digits.slots} == {digits.slot_samples}
    slots = [np.array(g711.from_ulaw(slot.ulaw), dtype=np.float64) for slot in digits.slots]
    for one, other in product(range(10), repeat=2):
        first, second = segments(np.concatenate([slots[one], slots[other]]))
        assert 0.4 <= (second[0] - first[1]) / RATE <= 0.7, (locale, one, other)


@pytest.mark.parametrize("locale", LOCALES)
async def test_an_ear_that_does_not_know_the_clips_hears_the_right_digits(
    espeak_studio: Studio, locale: str
) -> None:
    digits = await espeak_studio.digit_slots(locale)
    templates = digit_templates(locale)
    told = [classify(np.array(g711.from_ulaw(slot.ulaw)), templates) for slot in digits.slots]
    assert told == list("0123456789")


@pytest.mark.parametrize("locale", LOCALES)
async def test_the_ear_notices_a_clip_under_a_wrong_name(espeak_studio: Studio, locale: str) -> None:
    digits = await espeak_studio.digit_slots(locale)
    templates = digit_templates(locale)
    mislabelled = list(digits.slots)
    mislabelled[3], mislabelled[8] = mislabelled[8], mislabelled[3]
    told = [classify(np.array(g711.from_alaw(slot.alaw)), templates) for slot in mislabelled]
    assert [index for index in range(10) if told[index] != str(index)] == [3, 8]


@pytest.mark.parametrize("locale", LOCALES)
async def test_a_whole_verification_is_heard_as_it_was_meant(espeak_studio: Studio, locale: str) -> None:
    code = "4028176395"
    prompt = Prompt(
        (
            Phrase("verification.greeting", BRAND),
            Digits(code, secret=True),
            Silence(2),
            Phrase("verification.again"),
            Digits(code, secret=True),
        )
    )
    media = await espeak_studio.compose(prompt, locale)
    sound = heard(media)
    parts = segments(sound, shortest_gap=0.35)
    templates = digit_templates(locale)
    digits = [classify(sound[start:end], templates) for start, end in parts[-len(code) :]]
    assert "".join(digits) == code
    pauses = [(after[0] - before[1]) / RATE for before, after in pairwise(parts)]
    assert max(pauses) == pytest.approx(2.0, abs=0.15)
