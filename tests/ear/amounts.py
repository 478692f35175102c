"""Which amount of money a sound says, heard by template against all that it might be taken for.

The words are written down here a second time, on purpose, in pinyin for Chinese: an amount whose words
are wrong, or whose characters a synthesiser reads wrongly, is heard. The templates are other speakers at
other speeds than the language packs use. What it never does: read a language pack, or call the project's
speech code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from numpy.typing import NDArray

from tests.ear.dtw import Sound, distance, features
from tests.ear.voices import VOICES, say

AMOUNTS = ("0.01", "1", "10", "11", "100.50", "1234.05", "10000", "99999999.99")
"""What must be heard right in every language."""

NEAR_MISSES = (
    "0.10", "0.11", "1.01", "7", "12", "100", "100.05", "150", "1000", "1234", "1234.50", "1243.05",
    "11000", "100000", "99999999", "99999999.90", "99999989.99", "89999999.99",
)  # fmt: skip
"""What they are most easily taken for."""

_WHOLE = {
    "en": {
        "0": "zero",
        "1": "one",
        "7": "seven",
        "10": "ten",
        "11": "eleven",
        "12": "twelve",
        "100": "one hundred",
        "150": "one hundred fifty",
        "1000": "one thousand",
        "1234": "one thousand two hundred thirty-four",
        "1243": "one thousand two hundred forty-three",
        "10000": "ten thousand",
        "11000": "eleven thousand",
        "100000": "one hundred thousand",
        "99999999": "ninety-nine million nine hundred ninety-nine thousand nine hundred ninety-nine",
        "99999989": "ninety-nine million nine hundred ninety-nine thousand nine hundred eighty-nine",
        "89999999": "eighty-nine million nine hundred ninety-nine thousand nine hundred ninety-nine",
    },
    "es": {
        "0": "cero",
        "1": "un",
        "7": "siete",
        "10": "diez",
        "11": "once",
        "12": "doce",
        "100": "cien",
        "150": "ciento cincuenta",
        "1000": "mil",
        "1234": "mil doscientos treinta y cuatro",
        "1243": "mil doscientos cuarenta y tres",
        "10000": "diez mil",
        "11000": "once mil",
        "100000": "cien mil",
        "99999999": "noventa y nueve millones novecientos noventa y nueve mil novecientos noventa y nueve",
        "99999989": "noventa y nueve millones novecientos noventa y nueve mil novecientos ochenta y nueve",
        "89999999": "ochenta y nueve millones novecientos noventa y nueve mil novecientos noventa y nueve",
    },
    "zh-CN": {
        "0": "",
        "1": "yi1",
        "7": "qi1",
        "10": "shi2",
        "11": "shi2 yi1",
        "12": "shi2 er4",
        "100": "yi1 bai3",
        "150": "yi1 bai3 wu3 shi2",
        "1000": "yi1 qian1",
        "1234": "yi1 qian1 er4 bai3 san1 shi2 si4",
        "1243": "yi1 qian1 er4 bai3 si4 shi2 san1",
        "10000": "yi1 wan4",
        "11000": "yi1 wan4 yi1 qian1",
        "100000": "shi2 wan4",
        "99999999": "jiu3 qian1 jiu3 bai3 jiu3 shi2 jiu3 wan4 jiu3 qian1 jiu3 bai3 jiu3 shi2 jiu3",
        "99999989": "jiu3 qian1 jiu3 bai3 jiu3 shi2 jiu3 wan4 jiu3 qian1 jiu3 bai3 ba1 shi2 jiu3",
        "89999999": "ba1 qian1 jiu3 bai3 jiu3 shi2 jiu3 wan4 jiu3 qian1 jiu3 bai3 jiu3 shi2 jiu3",
    },
}

_CENTS = {
    "en": {"01": "one", "05": "five", "10": "ten", "11": "eleven", "50": "fifty", "90": "ninety",
           "99": "ninety-nine"},
    "es": {"01": "un", "05": "cinco", "10": "diez", "11": "once", "50": "cincuenta", "90": "noventa",
           "99": "noventa y nueve"},
    "zh-CN": {"01": "yi1", "05": "wu3", "10": "shi2", "11": "shi2 yi1", "50": "wu3 shi2",
              "90": "jiu3 shi2", "99": "jiu3 shi2 jiu3"},
}  # fmt: skip
"""Hundredths that are counted."""

_DECIMALS = {
    "en": {"01": "zero one", "05": "zero five", "10": "one", "11": "one one", "50": "five", "90": "nine",
           "99": "nine nine"},
    "es": {"01": "cero uno", "05": "cero cinco", "10": "uno", "11": "uno uno", "50": "cinco",
           "90": "nueve", "99": "nueve nueve"},
}  # fmt: skip
"""Hundredths that are read out after a point."""

_JIAO_FEN = {"01": "yi1 fen1", "05": "wu3 fen1", "10": "yi1 jiao3", "11": "yi1 jiao3 yi1 fen1",
             "50": "wu3 jiao3", "90": "jiu3 jiao3", "99": "jiu3 jiao3 jiu3 fen1"}  # fmt: skip

_UNITS = {
    "en": {
        "CNY": ("yuan", "yuan"),
        "USD": ("dollar", "dollars", "cent", "cents"),
        "EUR": ("euro", "euros", "cent", "cents"),
        "JPY": ("yen", "yen"),
    },
    "es": {
        "CNY": ("yuan", "yuanes"),
        "USD": ("dólar", "dólares", "centavo", "centavos"),
        "EUR": ("euro", "euros", "céntimo", "céntimos"),
        "JPY": ("yen", "yenes"),
    },
    "zh-CN": {
        "CNY": ("yuan2", "yuan2"),
        "USD": ("mei3 yuan2", "mei3 yuan2", "mei3 fen1", "mei3 fen1"),
        "EUR": ("ou1 yuan2", "ou1 yuan2", "ou1 fen1", "ou1 fen1"),
        "JPY": ("ri4 yuan2", "ri4 yuan2"),
    },
}


def spoken_amounts(locale: str, currency: str) -> dict[str, str]:
    """The words of `AMOUNTS` and `NEAR_MISSES` by the amount, of whole ones only for the yen."""
    return {
        amount: _words(amount, locale, currency)
        for amount in (*AMOUNTS, *NEAR_MISSES)
        if currency != "JPY" or "." not in amount
    }


def _words(amount: str, locale: str, currency: str) -> str:
    whole, _, part = amount.partition(".")
    number = _WHOLE[locale][whole]
    one, many, *cents = _UNITS[locale][currency]
    counted = f"{number} {one if whole == '1' else many}"
    if not part:
        return counted
    if locale == "zh-CN":
        small = _JIAO_FEN[part] if currency == "CNY" else f"{_CENTS[locale][part]} {cents[0]}"
        if whole == "0":
            return small
        return f"{counted} ling2 {small}" if part.startswith("0") else f"{counted} {small}"
    if not cents:
        number = "uno" if locale == "es" and whole == "1" else number
        point = "coma" if locale == "es" else "point"
        return f"{number} {point} {_DECIMALS[locale][part]} {many}"
    small = f"{_CENTS[locale][part]} {cents[0] if part == '01' else cents[1]}"
    return small if whole == "0" else f"{counted} {'con' if locale == 'es' else 'and'} {small}"


_SHORTLIST = 6
"""How many candidates are compared in every voice; the others are told apart by the first one alone."""


@cache
def _template(words: str, voice: str, speed: int) -> Sound:
    return features(say(words, voice, speed))


def amount_scores(sound: NDArray[Any], locale: str, candidates: Mapping[str, str]) -> dict[str, float]:
    """Distance of the sound to the nearest candidates, the mean over all voices of the language.

    The mean, not the nearest voice: two candidates that differ in one word of twenty are compared in one
    and the same voice each time, so that the difference is the word's and not the speaker's.
    """
    heard = features(sound)

    def far(amount: str, voice: str, speed: int) -> float:
        return distance(heard, _template(candidates[amount], voice, speed))

    first, *others = VOICES[locale]
    rough = {amount: far(amount, *first) for amount in candidates}
    nearest = sorted(rough, key=rough.__getitem__)[:_SHORTLIST]
    return {
        amount: (rough[amount] + sum(far(amount, *voice) for voice in others)) / len(VOICES[locale])
        for amount in nearest
    }


def classify_amount(sound: NDArray[Any], locale: str, candidates: Mapping[str, str]) -> str:
    """Which of the candidates (amount by its words in that language) the sound says.

    `sound` is 8 kHz mono, linear, of any loudness, and holds the amount alone, with or without silence at
    its ends: a clip, or what `dtw.segments` cut from the recording of a call. The words are spelled as
    `spoken_amounts` spells them: in pinyin with tone numbers for Chinese.
    """
    found = amount_scores(sound, locale, candidates)
    return min(found, key=found.__getitem__)
