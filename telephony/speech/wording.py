"""Numbers, money and dates as words that a synthesiser reads the way a person would.

Pure functions of a value and a locale. Chinese is spelled out in full, because synthesisers read its
long figures wrongly; elsewhere a synthesiser knows how to read figures, so they stay figures, without
grouping. Names of currencies and months are those of CLDR (Babel). What it never does: round money.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time
from babel.numbers import (
    get_currency_name,
    get_currency_precision,
    get_decimal_symbol,
    is_currency,
)

from telephony.errors import InputError, UnknownLocale

NUMBER_LIMIT: Final = 10**16
"""Numbers are smaller than this."""

_AMOUNT_DIGITS: Final = 16

_ZH_DIGITS: Final = "零一二三四五六七八九"
_ZH_GROUPS: Final = ("", "万", "亿", "万亿")

# The hundredth part of a currency, one and many: CLDR does not name it. A currency that is not here
# is read as a decimal number.
_CENTS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "en": {
        **dict.fromkeys(("USD", "EUR", "CAD", "AUD", "NZD", "SGD", "HKD"), ("cent", "cents")),
        "GBP": ("penny", "pence"),
    },
    "es": {
        **dict.fromkeys(("USD", "MXN", "ARS", "COP", "CLP", "PEN"), ("centavo", "centavos")),
        **dict.fromkeys(("EUR",), ("céntimo", "céntimos")),
    },
}
_JOIN: Final = {"en": "and", "es": "con"}


@lru_cache(maxsize=64)
def _babel(locale: str) -> Locale:
    try:
        return Locale.parse(locale.replace("_", "-"), sep="-")
    except (ValueError, UnknownLocaleError):
        raise UnknownLocale("locale", "is not a language that CLDR knows", "Use one such as en") from None


def _bounded(value: int) -> int:
    if abs(value) >= NUMBER_LIMIT:
        raise InputError("value", "is too large to be said", "Send a number of at most 16 digits")
    return value


def number_words(value: int, locale: str) -> str:
    """A cardinal number, e.g. 1010 as `1010` (en) and 一千零一十 (zh). Raises `InputError`."""
    _bounded(value)
    if _babel(locale).language == "zh":
        return ("负" if value < 0 else "") + _zh_number(abs(value))
    return str(value)


def _zh_number(value: int) -> str:
    if value == 0:
        return _ZH_DIGITS[0]
    groups: list[int] = []
    while value:
        value, group = divmod(value, 10_000)
        groups.append(group)
    words = ""
    gap = False
    for power in range(len(groups) - 1, -1, -1):
        group = groups[power]
        if group == 0:
            gap = True
            continue
        # One 零 stands for all places skipped between two groups, or inside the lower one.
        if words and (gap or group < 1000):
            words += _ZH_DIGITS[0]
        gap = False
        words += _zh_group(group)
        # 万亿 needs its 亿 only once: 一万二千亿, but 一万亿.
        words += "万" if power == 3 and groups[2] else _ZH_GROUPS[power]
    return words.removeprefix("一") if words.startswith("一十") else words


def _zh_group(value: int) -> str:
    """1 to 9999: 一千零一十."""
    words = ""
    gap = False
    for unit, size in (("千", 1000), ("百", 100), ("十", 10), ("", 1)):
        digit = value // size % 10
        if digit == 0:
            gap = True
            continue
        if words and gap:
            words += _ZH_DIGITS[0]
        gap = False
        words += _ZH_DIGITS[digit] + unit
    return words


def _zh_counted(value: int) -> str:
    """A number before a measure word: two of a thing is 两."""
    return "两" if value == 2 else _zh_number(value)


def amount_words(value: Decimal, currency: str, locale: str) -> str:
    """Money, e.g. 128.50 CNY as 一百二十八元五角, 1 USD as `1 US dollar`.

    The currency is ISO 4217; decimals beyond what it has (none for JPY) are refused with
    `InputError` unless they are zeros, never rounded away.
    """
    spoken = _babel(locale)
    if not (currency.isascii() and currency.isalpha() and currency.isupper() and is_currency(currency)):
        raise InputError("currency", "is not an ISO 4217 currency", "Send a code such as CNY")
    if not value.is_finite():
        raise InputError("amount", "is not a number", 'Send one such as "128.50"')
    if value and value.adjusted() >= _AMOUNT_DIGITS:
        raise InputError("amount", "is too large to be said", f"Send at most {_AMOUNT_DIGITS} digits")
    places = get_currency_precision(currency)
    parts = 10**places
    too_fine = InputError(
        "amount", f"has more decimals than {currency} has", f"Send at most {places} decimals"
    )
    if value and value.adjusted() < -_AMOUNT_DIGITS:
        raise too_fine
    # A fraction is exact, where a product of decimals is rounded to the context's precision.
    scaled = Fraction(value) * parts
    if scaled.denominator != 1:
        raise too_fine
    whole, part = divmod(abs(scaled.numerator), parts)
    if spoken.language == "zh":
        words = _zh_amount(whole, part, places, currency, spoken)
        return ("负" if value < 0 else "") + words
    sign = "-" if value < 0 else ""
    return sign + _figures_amount(whole, part, places, currency, spoken)


def _zh_amount(whole: int, part: int, places: int, currency: str, spoken: Locale) -> str:
    if currency != "CNY":
        decimals = (
            "".join(_ZH_DIGITS[int(digit)] for digit in f"{part:0{places}}".rstrip("0")) if part else ""
        )
        number = f"{_zh_number(whole)}点{decimals}" if decimals else _zh_counted(whole)
        return number + get_currency_name(currency, locale=spoken)
    jiao, fen = divmod(part, 10)
    words = _zh_counted(whole) + "元" if whole or not part else ""
    if jiao:
        words += _zh_counted(jiao) + "角"
    elif fen and whole:
        words += _ZH_DIGITS[0]
    if fen:
        words += _zh_counted(fen) + "分"
    return words


def _figures_amount(whole: int, part: int, places: int, currency: str, spoken: Locale) -> str:
    if not part:
        return f"{whole} {get_currency_name(currency, count=whole, locale=spoken)}"
    cents = _CENTS.get(spoken.language, {}).get(currency)
    if cents is None:
        decimals = f"{part:0{places}}"
        name = get_currency_name(currency, count=Decimal(f"{whole}.{decimals}"), locale=spoken)
        return f"{whole}{get_decimal_symbol(spoken)}{decimals} {name}"
    small = f"{part} {cents[0] if part == 1 else cents[1]}"
    if not whole:
        return small
    name = get_currency_name(currency, count=whole, locale=spoken)
    return f"{whole} {name} {_JOIN[spoken.language]} {small}"


def date_words(when: datetime, locale: str, *, with_time: bool = False) -> str:
    """A date, and its time of day where `with_time`, in the time zone that `when` carries.

    2026-11-24 is `November 24, 2026`, `24 de noviembre de 2026`, 二零二六年十一月二十四日.
    """
    spoken = _babel(locale)
    if spoken.language == "zh":
        return _zh_date(when, with_time)
    words = format_date(when.date(), format="long", locale=spoken)
    if with_time:
        # CLDR puts a narrow no-break space before AM and PM, which a synthesiser may spell.
        time = format_time(when.time(), format="short", locale=spoken).replace("\u202f", " ")
        words += ", " + time
    return words


def _zh_date(when: datetime, with_time: bool) -> str:
    year = "".join(_ZH_DIGITS[int(digit)] for digit in str(when.year))
    words = f"{year}年{_zh_number(when.month)}月{_zh_number(when.day)}日"
    if with_time:
        hour = "零" if when.hour == 0 else _zh_counted(when.hour)
        words += hour + "点"
        if when.minute:
            words += ("零" if when.minute < 10 else "") + _zh_number(when.minute) + "分"
    return words
