"""Numbers, money and dates as words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from telephony.errors import InputError, UnknownLocale
from telephony.speech.wording import NUMBER_LIMIT, amount_words, date_words, number_words


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
        (1010, "一千零一十"),
        (2005, "二千零五"),
        (10_001, "一万零一"),
        (10_010, "一万零一十"),
        (100_000, "十万"),
        (1_234_567, "一百二十三万四千五百六十七"),
        (100_000_001, "一亿零一"),
        (10_001_000_000, "一百亿零一百万"),
        (10**12, "一万亿"),
        (12 * 10**11, "一万二千亿"),
        (-7, "负七"),
    ],
)
def test_numbers_in_chinese(value: int, words: str) -> None:
    assert number_words(value, "zh-CN") == words


def test_numbers_elsewhere_stay_figures() -> None:
    assert number_words(1234567, "en") == "1234567"
    assert number_words(-5, "es") == "-5"


@pytest.mark.parametrize("value", [NUMBER_LIMIT, -NUMBER_LIMIT])
def test_a_number_without_end_is_refused(value: int) -> None:
    with pytest.raises(InputError, match="too large"):
        number_words(value, "en")


@pytest.mark.parametrize(
    ("value", "currency", "locale", "words"),
    [
        ("128.50", "CNY", "zh-CN", "一百二十八元五角"),
        ("128.05", "CNY", "zh-CN", "一百二十八元零五分"),
        ("128.55", "CNY", "zh-CN", "一百二十八元五角五分"),
        ("128.00", "CNY", "zh-CN", "一百二十八元"),
        ("0.05", "CNY", "zh-CN", "五分"),
        ("0", "CNY", "zh-CN", "零元"),
        ("2.20", "CNY", "zh-CN", "两元两角"),
        ("-3.20", "CNY", "zh-CN", "负三元两角"),
        ("128.50", "USD", "zh-CN", "一百二十八点五美元"),
        ("0.05", "USD", "zh-CN", "零点零五美元"),
        ("500", "JPY", "zh-CN", "五百日元"),
        ("500.00", "JPY", "en", "500 Japanese yen"),
        ("1", "USD", "en", "1 US dollar"),
        ("128.50", "USD", "en", "128 US dollars and 50 cents"),
        ("0.01", "GBP", "en", "1 penny"),
        ("128.50", "CNY", "en", "128.50 Chinese yuan"),
        ("1000.5", "KWD", "en", "1000.500 Kuwaiti dinars"),
        ("3.20", "EUR", "es", "3 euros con 20 céntimos"),
        ("128.50", "CNY", "es", "128,50 yuanes renminbi"),
        ("1E+3", "USD", "en", "1000 US dollars"),
    ],
)
def test_amounts(value: str, currency: str, locale: str, words: str) -> None:
    assert amount_words(Decimal(value), currency, locale) == words


@pytest.mark.parametrize(
    ("value", "currency", "problem"),
    [
        ("1.005", "CNY", "decimals"),
        ("1.5", "JPY", "decimals"),
        ("1.00000000000000000000000000000000001", "CNY", "decimals"),
        ("1E-999999", "CNY", "decimals"),
        ("1E+999999", "CNY", "too large"),
        ("NaN", "CNY", "not a number"),
        ("Infinity", "CNY", "not a number"),
        ("1", "cny", "ISO 4217"),
        ("1", "ZZZ", "ISO 4217"),
        ("1", "", "ISO 4217"),
    ],
)
def test_money_is_never_rounded_or_guessed(value: str, currency: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        amount_words(Decimal(value), currency, "en")


AFTERNOON = datetime(2026, 11, 24, 15, 5, tzinfo=timezone(timedelta(hours=8)))


@pytest.mark.parametrize(
    ("locale", "day", "moment"),
    [
        ("zh-CN", "二零二六年十一月二十四日", "二零二六年十一月二十四日十五点零五分"),
        ("en", "November 24, 2026", "November 24, 2026, 3:05 PM"),
        ("es", "24 de noviembre de 2026", "24 de noviembre de 2026, 15:05"),
    ],
)
def test_dates(locale: str, day: str, moment: str) -> None:
    assert date_words(AFTERNOON, locale) == day
    assert date_words(AFTERNOON, locale, with_time=True) == moment


@pytest.mark.parametrize(("hour", "words"), [(0, "零点"), (2, "两点"), (12, "十二点")])
def test_full_hours_in_chinese(hour: int, words: str) -> None:
    when = AFTERNOON.replace(hour=hour, minute=0)
    assert date_words(when, "zh-CN", with_time=True).endswith("日" + words)


def test_a_language_that_nobody_speaks_is_refused() -> None:
    with pytest.raises(UnknownLocale):
        number_words(1, "qqq-ZZ-nonsense")
