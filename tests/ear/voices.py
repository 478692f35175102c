"""Templates for the ear: the words of each language, said by voices that no language pack uses.

The words are written down here a second time, on purpose: a pack whose words are swapped is heard.
What it never does: read a language pack, or call the project's speech code.
"""

from __future__ import annotations

import subprocess
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tests.ear.dtw import RATE

DIGIT_WORDS = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "zh-CN": ("ling2", "yao1", "er4", "san1", "si4", "wu3", "liu4", "qi1", "ba1", "jiu3"),
}
"""Zero to nine; 1 in Chinese as in telephone numbers, and all of it in pinyin, not in characters."""

VOICES = {
    "en": (("en-gb", 120), ("en-gb+f3", 130), ("en-us+m3", 115), ("en-gb-x-rp+m1", 140)),
    "es": (("es", 120), ("es+f3", 130), ("es+m3", 115), ("es-419+f2", 140)),
    "zh-CN": (
        ("cmn-latn-pinyin+f2", 110),
        ("cmn-latn-pinyin+m3", 95),
        ("cmn-latn-pinyin+f3", 120),
        ("cmn-latn-pinyin+m1", 125),
    ),
}
"""Other speakers at other speeds than the packs use."""


def say(text: str, voice: str, speed: int) -> NDArray[np.float64]:
    """Synthesise at 8 kHz, with a resampler of its own (the spectrum cut at 4 kHz)."""
    wav = subprocess.run(
        ["espeak-ng", "--stdout", "--stdin", "-v", voice, "-s", str(speed)],
        input=text.encode(),
        capture_output=True,
        check=True,
        timeout=10,
    ).stdout
    rate = int.from_bytes(wav[24:28], "little")
    body = wav[44:]
    sound = np.frombuffer(body[: len(body) // 2 * 2], dtype="<i2").astype(np.float64)
    # Silence up to a fifth of a second: lengths of small factors are transformed many times faster.
    sound = np.append(sound, np.zeros(-len(sound) % (rate // 5)))
    count = len(sound) * RATE // rate
    spectrum = np.fft.rfft(sound)[: count // 2 + 1]
    return np.fft.irfft(spectrum, count) * count / len(sound)


@cache
def digit_templates(locale: str) -> dict[str, list[NDArray[np.float64]]]:
    """Every digit of a language in every voice, by the digit."""
    return {
        str(value): [say(word, voice, speed) for voice, speed in VOICES[locale]]
        for value, word in enumerate(DIGIT_WORDS[locale])
    }
