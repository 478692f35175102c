"""Money, numbers and dates in the words that people say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from babel.core import get_global
from babel.numbers import get_territory_currencies

from telephony.errors import InputError, UnknownLocale
from telephony.speech.wording import NUMBER_LIMIT, amount_words, date_words, number_words
from tests.ear.amounts import AMOUNTS, spoken_amounts

LOCALES = ("en", "es", "zh-CN")
CURRENCIES = {
    code for territory in get_global("territory_currencies") for code in get_territory_currencies(territory)
}
"""Legal tender somewhere today."""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "零"),
        (2, "二"),
        (10, "十"),
        (15, "十五"),
        (20, "二十"),
        (101, "一百零一"),
        (110, "一百一十"),
        (200, "两百"),
        (222, "两百二十二"),
        (1010, "一千零一十"),
        (1200, "一千二百"),
        (2005, "两千零五"),
        (10_001, "一万零一"),
        (10_010, "一万零一十"),
        (22_222, "两万二千二百二十二"),
        (100_000, "十万"),
        (120_000, "十二万"),
        (205_000, "二十万五千"),
        (1_234_567, "一百二十三万四千五百六十七"),
        (100_000_001, "一亿零一"),
        (200_020_000, "两亿零二万"),
        (10_001_000_000, "一百亿零一百万"),
        (NUMBER_LIMIT - 1, "九千九百九十九亿九千九百九十九万九千九百九十九"),
        (-7, "负七"),
    ],
)
def test_numbers_in_chinese(value: int, words: str) -> None:
    assert number_words(value, "zh-CN") == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (105, "one hundred five"),
        (1000, "one thousand"),
        (12_015, "twelve thousand fifteen"),
        (1_000_001, "one million one"),
        (10**9, "one billion"),
        (-5, "minus five"),
    ],
)
def test_numbers_in_english(value: int, words: str) -> None:
    assert number_words(value, "en") == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1, "uno"),
        (16, "dieciséis"),
        (21, "veintiuno"),
        (31, "treinta y uno"),
        (100, "cien"),
        (101, "ciento uno"),
        (500, "quinientos"),
        (1000, "mil"),
        (1001, "mil uno"),
        (21_000, "veintiún mil"),
        (31_021, "treinta y un mil veintiuno"),
        (100_000, "cien mil"),
        (1_000_000, "un millón"),
        (21_000_000, "veintiún millones"),
        (10**9, "mil millones"),
        (-3, "menos tres"),
    ],
)
def test_numbers_in_spanish(value: int, words: str) -> None:
    assert number_words(value, "es") == words


def test_numbers_in_a_language_that_is_not_spelled_out_stay_figures() -> None:
    assert number_words(1234567, "fr") == "1234567"
    assert number_words(-5, "fr") == "-5"


@pytest.mark.parametrize("value", [NUMBER_LIMIT, -NUMBER_LIMIT])
def test_a_number_without_end_is_refused(value: int) -> None:
    with pytest.raises(InputError, match="too large") as caught:
        number_words(value, "en")
    assert caught.value.field == "value"


@pytest.mark.parametrize(
    ("value", "currency", "locale", "words"),
    [
        ("128.50", "CNY", "zh-CN", "一百二十八元五角"),
        ("128.05", "CNY", "zh-CN", "一百二十八元零五分"),
        ("128.55", "CNY", "zh-CN", "一百二十八元五角五分"),
        ("128.00", "CNY", "zh-CN", "一百二十八元"),
        ("1000.05", "CNY", "zh-CN", "一千元零五分"),
        ("0.05", "CNY", "zh-CN", "五分"),
        ("0.02", "CNY", "zh-CN", "两分"),
        ("0", "CNY", "zh-CN", "零元"),
        ("2", "CNY", "zh-CN", "两元"),
        ("12", "CNY", "zh-CN", "十二元"),
        ("200", "CNY", "zh-CN", "两百元"),
        ("2.20", "CNY", "zh-CN", "两元两角"),
        ("128.50", "USD", "zh-CN", "一百二十八美元五十美分"),
        ("2.02", "USD", "zh-CN", "两美元零两美分"),
        ("128.50", "HKD", "zh-CN", "一百二十八点五港元"),
        ("2.05", "HKD", "zh-CN", "二点零五港元"),
        ("500", "JPY", "zh-CN", "五百日元"),
        ("500.00", "JPY", "en", "five hundred yen"),
        ("0", "USD", "en", "zero dollars"),
        ("1.01", "USD", "en", "one dollar and one cent"),
        ("0.01", "GBP", "en", "one penny"),
        ("0.50", "GBP", "en", "fifty pence"),
        ("128.50", "CNY", "en", "one hundred twenty-eight point five yuan"),
        ("128.05", "CNY", "en", "one hundred twenty-eight point zero five yuan"),
        ("1000.5", "KWD", "en", "one thousand point five Kuwaiti dinars"),
        ("3", "MXN", "en", "three Mexican pesos"),
        ("1E+3", "USD", "en", "one thousand dollars"),
        ("1", "USD", "es", "un dólar"),
        ("21", "EUR", "es", "veintiún euros"),
        ("1.21", "EUR", "es", "un euro con veintiún céntimos"),
        ("200", "GBP", "es", "doscientas libras"),
        ("21", "GBP", "es", "veintiuna libras"),
        ("1", "SEK", "es", "una corona sueca"),
        ("200000", "SEK", "es", "doscientas mil coronas suecas"),
        ("1000000", "MXN", "es", "un millón de pesos mexicanos"),
        ("200000000", "GBP", "es", "doscientos millones de libras"),
        ("1000001", "USD", "es", "un millón un dólares"),
        ("500", "JPY", "es", "quinientos yenes"),
        ("1", "JPY", "es", "un yen"),
        ("128.50", "CNY", "es", "ciento veintiocho coma cinco yuanes"),
        ("128.50", "CNY", "es-MX", "ciento veintiocho punto cinco yuanes"),
        ("128.50", "CNY", "fr", "128,50 yuans renminbi chinois"),
        ("128", "EUR", "fr", "128 euros"),
    ],
)
def test_amounts(value: str, currency: str, locale: str, words: str) -> None:
    assert amount_words(Decimal(value), currency, locale) == words


@pytest.mark.parametrize("currency", ["CNY", "USD", "EUR", "JPY"])
@pytest.mark.parametrize("locale", ["en", "es"])
def test_the_ear_listens_for_the_words_that_are_said(locale: str, currency: str) -> None:
    listed = spoken_amounts(locale, currency)
    assert "1" in listed
    for amount, words in listed.items():
        assert amount_words(Decimal(amount), currency, locale) == words


def test_the_amounts_of_the_ear_in_chinese() -> None:
    yuan = "一分 一元 十元 十一元 一百元五角 一千二百三十四元零五分 一万元"
    yuan += " 九千九百九十九万九千九百九十九元九角九分"
    assert [amount_words(Decimal(amount), "CNY", "zh-CN") for amount in AMOUNTS] == yuan.split()
    foreign = "一{1} 一{0} 十{0} 十一{0} 一百{0}五十{1} 一千二百三十四{0}零五{1} 一万{0}"
    foreign += " 九千九百九十九万九千九百九十九{0}九十九{1}"
    for currency, units in {"USD": ("美元", "美分"), "EUR": ("欧元", "欧分")}.items():
        told = [amount_words(Decimal(amount), currency, "zh-CN") for amount in AMOUNTS]
        assert told == foreign.format(*units).split()


@pytest.mark.parametrize("locale", LOCALES)
def test_every_currency_can_be_said_in_words(locale: str) -> None:
    for currency in sorted(CURRENCIES):
        words = amount_words(Decimal(1021), currency, locale)
        assert not any(char.isdigit() for char in words), (currency, words)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize(
    ("value", "currency", "field", "problem"),
    [
        ("-0.01", "CNY", "amount", "negative"),
        ("-Infinity", "CNY", "amount", "not a number"),
        ("1.005", "CNY", "amount", "decimals"),
        ("1.5", "JPY", "amount", "decimals"),
        ("1.0005", "KWD", "amount", "decimals"),
        ("1.005", "RSD", "amount", "decimals"),
        ("1.00000000000000000000000000000000001", "CNY", "amount", "decimals"),
        ("1E-999999", "CNY", "amount", "decimals"),
        ("1E+999999", "CNY", "amount", "too large"),
        ("1000000000000", "CNY", "amount", "too large"),
        ("NaN", "CNY", "amount", "not a number"),
        ("sNaN", "CNY", "amount", "not a number"),
        ("Infinity", "CNY", "amount", "not a number"),
        ("1", "cny", "currency", "ISO 4217"),
        ("1", "ZZZ", "currency", "ISO 4217"),
        ("1", "", "currency", "ISO 4217"),
        ("1", "XXX", "currency", "ISO 4217"),
        ("1", "XTS", "currency", "ISO 4217"),
        ("1", "XAU", "currency", "ISO 4217"),
        ("1", "DEM", "currency", "ISO 4217"),
    ],
)
def test_money_is_never_rounded_or_guessed(
    value: str, currency: str, field: str, problem: str, locale: str
) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        amount_words(Decimal(value), currency, locale)
    assert caught.value.field == field


@pytest.mark.parametrize("locale", [*LOCALES, "de"])
def test_decimals_are_those_of_iso_4217(locale: str) -> None:
    for currency in ("RSD", "LBP", "AFN", "MMK", "ALL"):
        assert amount_words(Decimal("128.50"), currency, locale)
    assert amount_words(Decimal("128.505"), "IQD", locale)


ZONE = timezone(timedelta(hours=8))


@pytest.mark.parametrize(
    ("when", "locale", "words"),
    [
        ((2026, 3, 5), "en", "March fifth, twenty twenty-six"),
        ((2009, 12, 31), "en", "December thirty-first, two thousand nine"),
        ((1900, 1, 20), "en", "January twentieth, nineteen hundred"),
        ((1905, 2, 22), "en", "February twenty-second, nineteen oh five"),
        ((2000, 4, 30), "en", "April thirtieth, two thousand"),
        ((2026, 3, 5), "es", "cinco de marzo de dos mil veintiséis"),
        ((2026, 8, 1), "es", "primero de agosto de dos mil veintiséis"),
        ((2026, 8, 31), "es", "treinta y uno de agosto de dos mil veintiséis"),
        ((2026, 11, 24), "zh-CN", "二零二六年十一月二十四日"),
        ((2026, 2, 2), "zh-CN", "二零二六年二月二日"),
        ((2026, 3, 5), "fr", "5 mars 2026"),
    ],
)
def test_dates(when: tuple[int, int, int], locale: str, words: str) -> None:
    assert date_words(datetime(*when, 14, 30, tzinfo=ZONE), locale) == words


@pytest.mark.parametrize(
    ("hour", "minute", "english", "spanish", "chinese"),
    [
        (0, 0, "midnight", "a las doce de la noche", "凌晨零点"),
        (0, 30, "twelve thirty a.m.", "a las doce y media de la noche", "凌晨零点三十分"),
        (1, 0, "one a.m.", "a la una de la madrugada", "凌晨一点"),
        (5, 15, "five fifteen a.m.", "a las cinco y cuarto de la madrugada", "凌晨五点十五分"),
        (6, 5, "six oh five a.m.", "a las seis y cinco de la mañana", "上午六点零五分"),
        (
            11,
            59,
            "eleven fifty-nine a.m.",
            "a las once y cincuenta y nueve de la mañana",
            "上午十一点五十九分",
        ),
        (12, 0, "noon", "a las doce del mediodía", "中午十二点"),
        (12, 10, "twelve ten p.m.", "a las doce y diez de la tarde", "中午十二点十分"),
        (13, 0, "one p.m.", "a la una de la tarde", "下午一点"),
        (14, 30, "two thirty p.m.", "a las dos y media de la tarde", "下午两点三十分"),
        (18, 0, "six p.m.", "a las seis de la tarde", "下午六点"),
        (19, 0, "seven p.m.", "a las siete de la tarde", "晚上七点"),
        (20, 0, "eight p.m.", "a las ocho de la noche", "晚上八点"),
        (23, 21, "eleven twenty-one p.m.", "a las once y veintiuno de la noche", "晚上十一点二十一分"),
    ],
)
def test_times_of_day(hour: int, minute: int, english: str, spanish: str, chinese: str) -> None:
    when = datetime(2026, 3, 5, hour, minute, tzinfo=ZONE)
    assert date_words(when, "en", with_time=True) == f"March fifth at {english}"
    assert date_words(when, "es", with_time=True) == f"cinco de marzo {spanish}"
    assert date_words(when, "zh-CN", with_time=True) == f"三月五日{chinese}"


def test_the_time_zone_of_the_moment_is_the_one_that_is_said() -> None:
    utc = datetime(2026, 3, 5, 22, 30, tzinfo=UTC)
    assert date_words(utc.astimezone(ZONE), "en", with_time=True) == "March sixth at six thirty a.m."


@pytest.mark.parametrize("locale", ["qqq-ZZ-nonsense", "", "\r\n"])
def test_a_language_that_nobody_speaks_is_refused(locale: str) -> None:
    with pytest.raises(UnknownLocale):
        number_words(1, locale)
    with pytest.raises(UnknownLocale):
        amount_words(Decimal(1), "CNY", locale)
