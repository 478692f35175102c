"""Numbers, money and dates in the words a person would say.

Pure functions of a value and a locale. English, Spanish and Chinese are spelled out, so that nothing
hangs on how a synthesiser reads figures; in a language that is not known here they stay figures,
without grouping, with the names of CLDR (Babel). What is said of an amount is chosen so that it is not
misheard on a telephone; docs/speech.md gives the rules and examples. What it never does: round money.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache
from typing import Final

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time
from babel.numbers import (
    get_currency_name,
    get_currency_precision,
    get_decimal_symbol,
    get_territory_currencies,
)

from telephony.errors import InputError, UnknownLocale

NUMBER_LIMIT: Final = 10**12
"""Numbers, and amounts in whole units of a currency, are smaller than this."""

_PLACES: Final[Mapping[str, int]] = {
    "IQD": 3,
    **dict.fromkeys(("AFN", "ALL", "IRR", "KPW", "LAK", "LBP", "MGA", "MMK", "RSD", "SOS", "SYP", "YER"), 2),
}
"""The decimals of ISO 4217 where CLDR, which goes by the coins in use, has none."""

_FINEST: Final = 16


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_EN_SMALL: Final = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_EN_TENS: Final = ("", "", *_listed("twenty thirty forty fifty sixty seventy eighty ninety"))
_EN_POWERS: Final = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
_EN_ORDINALS: Final = _listed(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)

_ES_SMALL: Final = _listed(
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciséis diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro "
    "veinticinco veintiséis veintisiete veintiocho veintinueve"
)
_ES_TENS: Final = ("", "", "", *_listed("treinta cuarenta cincuenta sesenta setenta ochenta noventa"))
_ES_HUNDREDS: Final = (
    "",
    *_listed(
        "ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos "
        "novecientos"
    ),
)

_ZH_DIGITS: Final = "零一二三四五六七八九"
_ZH_GROUPS: Final = ("", "万", "亿")

# What people call the commonest currencies, one and many; all others go by their CLDR names.
_NAMES: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "en": {
        "CNY": ("yuan", "yuan"),
        "USD": ("dollar", "dollars"),
        "EUR": ("euro", "euros"),
        "GBP": ("pound", "pounds"),
        "JPY": ("yen", "yen"),
    },
    "es": {
        "CNY": ("yuan", "yuanes"),
        "USD": ("dólar", "dólares"),
        "EUR": ("euro", "euros"),
        "GBP": ("libra", "libras"),
        "JPY": ("yen", "yenes"),
    },
    "zh": {
        "CNY": ("元", "元"),
    },
}

# The hundredth part of a currency, one and many: CLDR does not name it. A currency that is not here is
# said as a decimal number: 角 and 分 mean nothing to most people who don't speak Chinese.
_CENTS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "en": {
        **dict.fromkeys(("USD", "EUR", "CAD", "AUD", "NZD", "SGD", "HKD"), ("cent", "cents")),
        "GBP": ("penny", "pence"),
    },
    "es": {
        **dict.fromkeys(
            ("USD", "CAD", "AUD", "MXN", "ARS", "COP", "PEN", "BOB", "DOP"), ("centavo", "centavos")
        ),
        "EUR": ("céntimo", "céntimos"),
        "GBP": ("penique", "peniques"),
    },
    "zh": {
        "USD": ("美分", "美分"),
        "EUR": ("欧分", "欧分"),
        "GBP": ("便士", "便士"),
    },
}

# First words of the Spanish names of currencies that are feminine: doscientas libras.
_ES_FEMININE: Final = frozenset(
    {"corona", "grivna", "kuna", "leona", "leva", "libra", "lira", "pataca", "peseta", "rufiya", "rupia"}
)


@lru_cache(maxsize=64)
def _babel(locale: str) -> Locale:
    try:
        return Locale.parse(locale.replace("_", "-"), sep="-")
    except (ValueError, UnknownLocaleError):
        raise UnknownLocale("locale", "is not a language that CLDR knows", "Use one such as en") from None


def number_words(value: int, locale: str) -> str:
    """A cardinal number by itself, e.g. 1021 as `one thousand twenty-one`, `mil veintiuno`, 一千零二十一.

    From -999,999,999,999 to 999,999,999,999; beyond that `InputError` names `value`.
    """
    spoken = _babel(locale)
    if abs(value) >= NUMBER_LIMIT:
        raise InputError("value", "is too large to be said", "Send a number of at most 12 digits")
    match spoken.language:
        case "en":
            return ("minus " if value < 0 else "") + _en_number(abs(value))
        case "es":
            return ("menos " if value < 0 else "") + _es_number(abs(value), "uno")
        case "zh":
            return ("负" if value < 0 else "") + _zh_number(abs(value))
        case _:
            return str(value)


def _en_number(value: int) -> str:
    """Without `and`, which stands only before cents: one hundred five dollars and five cents."""
    for size, name in _EN_POWERS:
        if value >= size:
            count, rest = divmod(value, size)
            words = f"{_en_number(count)} {name}"
            return f"{words} {_en_number(rest)}" if rest else words
    if value < 20:
        return _EN_SMALL[value]
    tens, ones = divmod(value, 10)
    return f"{_EN_TENS[tens]}-{_EN_SMALL[ones]}" if ones else _EN_TENS[tens]


def _es_number(value: int, one: str) -> str:
    """`one` is the form of a final 1: `uno` by itself, `un` and `una` before a noun of that gender."""
    millions, rest = divmod(value, 10**6)
    if not millions:
        return _es_below_million(rest, one)
    # A million is a masculine noun, whatever is counted.
    words = "un millón" if millions == 1 else f"{_es_below_million(millions, 'un')} millones"
    return f"{words} {_es_below_million(rest, one)}" if rest else words


def _es_below_million(value: int, one: str) -> str:
    thousands, rest = divmod(value, 1000)
    if not thousands:
        return _es_below_thousand(rest, one)
    before_mil = "una" if one == "una" else "un"
    words = "mil" if thousands == 1 else f"{_es_below_thousand(thousands, before_mil)} mil"
    return f"{words} {_es_below_thousand(rest, one)}" if rest else words


def _es_below_thousand(value: int, one: str) -> str:
    if value == 100:
        return "cien"
    hundreds, rest = divmod(value, 100)
    if not hundreds:
        return _es_below_hundred(rest, one)
    words = _ES_HUNDREDS[hundreds]
    if one == "una" and hundreds > 1:
        words = words.removesuffix("os") + "as"
    return f"{words} {_es_below_hundred(rest, one)}" if rest else words


def _es_below_hundred(value: int, one: str) -> str:
    if value == 1:
        return one
    if value == 21:
        return {"uno": "veintiuno", "un": "veintiún", "una": "veintiuna"}[one]
    if value < 30:
        return _ES_SMALL[value]
    tens, ones = divmod(value, 10)
    return f"{_ES_TENS[tens]} y {_es_below_hundred(ones, one)}" if ones else _ES_TENS[tens]


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
        words += _zh_group(group) + _ZH_GROUPS[power]
    if words.startswith("一十"):
        return words.removeprefix("一")
    # At the head of a number people say 两百, 两千, 两万, 两亿: a full syllable where 二 is short.
    if words[0] == "二" and words[1:2] in {"百", "千", "万", "亿"}:
        return "两" + words[1:]
    return words


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


@cache
def _money() -> frozenset[str]:
    """What is legal tender somewhere: no metals, funds or codes for tests, nothing that was withdrawn."""
    territories = Locale("en").territories
    return frozenset(code for one in territories for code in get_territory_currencies(str(one)))


def amount_words(value: Decimal, currency: str, locale: str) -> str:
    """Money, e.g. 128.50 CNY as 一百二十八元五角, 1.05 USD as `one dollar and five cents`.

    The currency is one of ISO 4217 that is in use. Raises `InputError` naming `currency`, or `amount` for
    what is no number, negative, too large (`NUMBER_LIMIT`), or has more decimals than the currency (none
    for JPY) other than zeros; nothing is ever rounded away.
    """
    spoken = _babel(locale)
    if currency not in _money():
        raise InputError("currency", "is not an ISO 4217 currency in use", "Send a code such as CNY")
    places = _PLACES.get(currency, get_currency_precision(currency))
    whole, part = _units(value, places, currency)
    match spoken.language:
        case "en" | "es":
            return _words_amount(whole, part, places, currency, spoken)
        case "zh":
            return _zh_amount(whole, part, places, currency, spoken)
        case _:
            return _figures_amount(whole, part, places, currency, spoken)


def _units(value: Decimal, places: int, currency: str) -> tuple[int, int]:
    """Whole units and the rest in the smallest ones."""
    if not value.is_finite():
        raise InputError("amount", "is not a number", 'Send one such as "128.50"')
    if value < 0:
        raise InputError("amount", "is negative", "Send zero or more")
    if value >= NUMBER_LIMIT:
        raise InputError("amount", "is too large to be said", f"Send less than {NUMBER_LIMIT}")
    too_fine = InputError(
        "amount", f"has more decimals than {currency} has", f"Send at most {places} decimals"
    )
    # Before any arithmetic: as a fraction, 1E-999999 has a million digits.
    if value and value.adjusted() < -_FINEST:
        raise too_fine
    # A fraction is exact, where a product of decimals is rounded to the context's precision.
    scale: int = 10**places
    scaled = Fraction(value) * scale
    if scaled.denominator != 1:
        raise too_fine
    return divmod(scaled.numerator, scale)


def _name(whole: int, decimals: str, currency: str, spoken: Locale) -> str:
    """What so many of a currency are called."""
    if (names := _NAMES.get(spoken.language, {}).get(currency)) is not None:
        return names[0] if whole == 1 and not decimals else names[1]
    count = Decimal(f"{whole}.{decimals}") if decimals else whole
    return get_currency_name(currency, count=count, locale=spoken)


def _words_amount(whole: int, part: int, places: int, currency: str, spoken: Locale) -> str:
    """English and Spanish."""
    cents = _CENTS[spoken.language].get(currency)
    if part and cents is None:
        decimals = f"{part:0{places}}".rstrip("0")
        digits = " ".join(number_words(int(digit), spoken.language) for digit in decimals)
        name = _name(whole, decimals, currency, spoken)
        return f"{number_words(whole, spoken.language)} {_point(spoken)} {digits} {name}"
    said = []
    if whole or not part:
        said.append(_counted(whole, _name(whole, "", currency, spoken), spoken))
    if part and cents is not None:
        said.append(_counted(part, cents[0] if part == 1 else cents[1], spoken))
    return (" con " if spoken.language == "es" else " and ").join(said)


def _point(spoken: Locale) -> str:
    """What stands before decimals: Spain writes and says a comma, Mexico a point."""
    if spoken.language == "es":
        return "coma" if get_decimal_symbol(spoken) == "," else "punto"
    return "point"


def _counted(value: int, name: str, spoken: Locale) -> str:
    """So many of a thing, in English or Spanish."""
    if spoken.language == "en":
        return f"{_en_number(value)} {name}"
    first = name.partition(" ")[0]
    feminine = first in _ES_FEMININE or first.removesuffix("s") in _ES_FEMININE
    number = _es_number(value, "una" if feminine else "un")
    return f"{number} de {name}" if number.endswith(("millón", "millones")) else f"{number} {name}"


def _zh_amount(whole: int, part: int, places: int, currency: str, spoken: Locale) -> str:
    if currency == "CNY":
        return _zh_yuan(whole, part)
    cents = _CENTS["zh"].get(currency)
    if part and cents is None:
        decimals = f"{part:0{places}}".rstrip("0")
        digits = "".join(_ZH_DIGITS[int(digit)] for digit in decimals)
        return f"{_zh_number(whole)}点{digits}{_name(whole, decimals, currency, spoken)}"
    words = _zh_counted(whole) + _name(whole, "", currency, spoken) if whole or not part else ""
    if part and cents is not None:
        skipped = _ZH_DIGITS[0] if whole and part < 10 else ""
        words += skipped + _zh_counted(part) + cents[0]
    return words


def _zh_yuan(whole: int, part: int) -> str:
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
    decimals = f"{part:0{places}}" if part else ""
    figures = f"{whole}{get_decimal_symbol(spoken)}{decimals}" if part else str(whole)
    return f"{figures} {_name(whole, decimals, currency, spoken)}"


def date_words(when: datetime, locale: str, *, with_time: bool = False) -> str:
    """A date with its year, or where `with_time` a day and its time of day, as in an appointment.

    In the time zone that `when` carries. 2026-03-05 is `March fifth, twenty twenty-six`, `cinco de marzo
    de dos mil veintiséis`, 二零二六年三月五日; with 14:30 it is `March fifth at two thirty p.m.`, `cinco de
    marzo a las dos y media de la tarde`, 三月五日下午两点三十分. The day of an appointment is near,
    and nobody says its year.
    """
    spoken = _babel(locale)
    match spoken.language:
        case "en":
            return _en_date(when, with_time, spoken)
        case "es":
            return _es_date(when, with_time, spoken)
        case "zh":
            return _zh_date(when, with_time)
        case _:
            words = format_date(when.date(), format="long", locale=spoken)
            if with_time:
                # CLDR puts a narrow no-break space before AM and PM, which a synthesiser may spell.
                time = format_time(when.time(), format="short", locale=spoken).replace("\u202f", " ")
                words += ", " + time
            return words


def _month(when: datetime, spoken: Locale) -> str:
    return str(spoken.months["format"]["wide"][when.month])


def _en_date(when: datetime, with_time: bool, spoken: Locale) -> str:
    tens, ones = divmod(when.day, 10)
    if when.day <= 20:
        day = _EN_ORDINALS[when.day - 1]
    else:
        day = f"{_EN_TENS[tens]}-{_EN_ORDINALS[ones - 1]}" if ones else "thirtieth"
    words = f"{_month(when, spoken)} {day}"
    if not with_time:
        return f"{words}, {_en_year(when.year)}"
    if when.minute == 0 and when.hour in {0, 12}:
        return f"{words} at {'noon' if when.hour else 'midnight'}"
    time = _EN_SMALL[(when.hour - 1) % 12 + 1]
    if when.minute:
        time += (" oh " if when.minute < 10 else " ") + _en_number(when.minute)
    # With full stops: a synthesiser takes AM for the verb.
    return f"{words} at {time} {'a.m.' if when.hour < 12 else 'p.m.'}"


def _en_year(year: int) -> str:
    century, rest = divmod(year, 100)
    if year < 1000 or year % 1000 < 10:
        return _en_number(year)
    if rest == 0:
        return f"{_en_number(century)} hundred"
    return f"{_en_number(century)} {'oh ' if rest < 10 else ''}{_en_number(rest)}"


def _es_date(when: datetime, with_time: bool, spoken: Locale) -> str:
    day = "primero" if when.day == 1 else _es_number(when.day, "uno")
    words = f"{day} de {_month(when, spoken)}"
    if not with_time:
        return f"{words} de {_es_number(when.year, 'uno')}"
    hour = (when.hour - 1) % 12 + 1
    words += " a la una" if hour == 1 else f" a las {_ES_SMALL[hour]}"
    if when.minute:
        quarters = {15: "cuarto", 30: "media"}
        words += " y " + (quarters.get(when.minute) or _es_number(when.minute, "uno"))
    return f"{words} {_es_part_of_day(when)}"


def _es_part_of_day(when: datetime) -> str:
    if when.hour == 12 and when.minute == 0:
        return "del mediodía"
    # Twelve at night belongs to the night, one to five to the small hours.
    if 1 <= when.hour < 6:
        return "de la madrugada"
    if 6 <= when.hour < 12:
        return "de la mañana"
    return "de la tarde" if 12 <= when.hour < 20 else "de la noche"


def _zh_date(when: datetime, with_time: bool) -> str:
    words = f"{_zh_number(when.month)}月{_zh_number(when.day)}日"
    if not with_time:
        year = "".join(_ZH_DIGITS[int(digit)] for digit in str(when.year))
        return f"{year}年{words}"
    hour = when.hour - 12 if when.hour > 12 else when.hour
    words += f"{_zh_part_of_day(when.hour)}{_zh_counted(hour)}点"
    if when.minute:
        words += ("零" if when.minute < 10 else "") + _zh_number(when.minute) + "分"
    return words


def _zh_part_of_day(hour: int) -> str:
    for before, name in ((6, "凌晨"), (12, "上午"), (13, "中午"), (19, "下午")):
        if hour < before:
            return name
    return "晚上"
