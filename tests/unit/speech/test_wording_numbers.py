"""Number words read back by parsers that share nothing with the code that wrote them."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telephony.speech.wording import NUMBER_LIMIT, amount_words, number_words

ENGLISH = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30,
    "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip

SPANISH = {
    "cero": 0, "uno": 1, "un": 1, "una": 1, "dos": 2, "tres": 3, "cuatro": 4, "cinco": 5, "seis": 6,
    "siete": 7, "ocho": 8, "nueve": 9, "diez": 10, "once": 11, "doce": 12, "trece": 13, "catorce": 14,
    "quince": 15, "dieciséis": 16, "diecisiete": 17, "dieciocho": 18, "diecinueve": 19, "veinte": 20,
    "veintiuno": 21, "veintiún": 21, "veintiuna": 21, "veintidós": 22, "veintitrés": 23,
    "veinticuatro": 24, "veinticinco": 25, "veintiséis": 26, "veintisiete": 27, "veintiocho": 28,
    "veintinueve": 29, "treinta": 30, "cuarenta": 40, "cincuenta": 50, "sesenta": 60, "setenta": 70,
    "ochenta": 80, "noventa": 90, "cien": 100, "ciento": 100, "doscientos": 200, "trescientos": 300,
    "cuatrocientos": 400, "quinientos": 500, "seiscientos": 600, "setecientos": 700,
    "ochocientos": 800, "novecientos": 900,
}  # fmt: skip


def read_english(words: str) -> int:
    total = group = 0
    for word in words.replace("-", " ").split():
        if word == "hundred":
            assert 1 <= group <= 9
            group *= 100
        elif word in {"thousand", "million", "billion"}:
            assert 1 <= group <= 999
            total += group * {"thousand": 10**3, "million": 10**6, "billion": 10**9}[word]
            group = 0
        else:
            group += ENGLISH[word]
    return total + group


def read_spanish(words: str) -> int:
    total = group = 0
    for word in words.split():
        if word == "y":
            assert group % 100 in range(30, 100, 10)
        elif word == "mil":
            assert group != 1, "nobody says un mil"
            group = (group or 1) * 1000
        elif word in {"millón", "millones"}:
            assert (word == "millón") == (group == 1)
            total, group = group * 10**6, 0
        elif word.endswith("cientas") or word == "quinientas":
            group += SPANISH[word.removesuffix("as") + "os"]
        else:
            group += SPANISH[word]
    return total + group


def read_chinese(words: str) -> int:
    """The value; 零 must stand exactly where a place between two others is skipped."""
    total = section = digit = 0
    last_unit = 10**12
    zero_said = False
    for at, char in enumerate(words):
        if char == "零" and len(words) > 1:
            assert not zero_said
            zero_said = True
        elif char in "零一二三四五六七八九两":
            assert char != "两" or at == 0
            digit = 2 if char == "两" else "零一二三四五六七八九".index(char)
        elif char in "十百千":
            unit = {"十": 10, "百": 100, "千": 1000}[char]
            assert digit or at == 0
            check_zero(words, at, unit, last_unit, said=zero_said)
            section += (digit or 1) * unit
            digit, last_unit, zero_said = 0, unit, False
        else:
            if digit:
                check_zero(words, at, 1, last_unit, said=zero_said)
            zero_said = False
            total += (section + digit) * {"万": 10**4, "亿": 10**8}[char]
            # A thousand of the next lower power is the place that comes next.
            last_unit = 10**4 if char == "万" or "万" in words[at:] else 10**8
            section = digit = 0
    if digit:
        check_zero(words, len(words), 1, last_unit, said=zero_said)
    return total + section + digit


def check_zero(words: str, at: int, unit: int, last_unit: int, *, said: bool) -> None:
    if last_unit == 10**12:
        assert not said, words
    else:
        assert said == (unit * 10 < last_unit), (words, at)


READERS: dict[str, Callable[[str], int]] = {
    "en": read_english,
    "es": read_spanish,
    "zh-CN": read_chinese,
}

numbers = st.one_of(
    st.integers(0, NUMBER_LIMIT - 1),
    st.integers(0, 12).flatmap(lambda digits: st.integers(0, 10**digits - 1)),
    # Many zeros between few digits is where number words go wrong.
    st.lists(st.sampled_from("000000129"), min_size=1, max_size=12).map(lambda digits: int("".join(digits))),
)


@pytest.mark.parametrize("locale", READERS)
@given(value=numbers)
@example(value=NUMBER_LIMIT - 1)
def test_number_words_read_back_as_the_number(locale: str, value: int) -> None:
    assert READERS[locale](number_words(value, locale)) == value


@pytest.mark.parametrize("locale", READERS)
def test_every_number_to_a_few_thousand_reads_back(locale: str) -> None:
    for value in range(3000):
        assert READERS[locale](number_words(value, locale)) == value


@given(cents=st.integers(0, 10**14 - 1))
def test_english_dollars_read_back(cents: int) -> None:
    words = amount_words(Decimal(cents) / 100, "USD", "en")
    whole, _, part = words.rpartition(" and ") if "dollar" in words else ("", "", words)
    if "cent" not in part:
        whole, part = words, "zero cents"
    whole = whole.removesuffix("s").removesuffix(" dollar") or "zero"
    assert read_english(whole) * 100 + read_english(part.removesuffix("s").removesuffix(" cent")) == cents


@given(cents=st.integers(0, 10**14 - 1))
def test_spanish_pounds_read_back_and_agree(cents: int) -> None:
    words = amount_words(Decimal(cents) / 100, "GBP", "es")
    whole, _, part = words.rpartition(" con ") if "libra" in words else ("", "", words)
    if "peni" not in part:
        whole, part = words, "cero peniques"
    assert not re.search(r"(\bun|uno|ún|cientos|quinientos)( mil)? libras?\b", words)
    pounds = whole.removesuffix("s").removesuffix(" libra").removesuffix(" de") or "cero"
    pennies = part.removesuffix(" peniques").removesuffix(" penique")
    assert read_spanish(pounds) * 100 + read_spanish(pennies) == cents


@given(fen=st.integers(0, 10**14 - 1))
def test_chinese_yuan_read_back(fen: int) -> None:
    words = amount_words(Decimal(fen) / 100, "CNY", "zh-CN")
    yuan, _, rest = words.rpartition("元")
    value = read_chinese(yuan) * 100 if yuan else 0
    assert rest.startswith("零") == (bool(yuan) and 1 <= fen % 100 <= 9)
    jiao, _, small = rest.removeprefix("零").rpartition("角")
    value += read_chinese(jiao) * 10 if jiao else 0
    value += read_chinese(small.removesuffix("分")) if small else 0
    assert value == fen
