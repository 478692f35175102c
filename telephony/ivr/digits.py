"""What digits must be: Luhn's check, and patterns of a kind that can't run away.

A pattern may hold digits, `\\d`, classes, counts, alternatives and groups. A group can't be repeated, and at
most three counts may be open, so that matching 32 digits takes microseconds whatever was written.
What it never does: keep a digit.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

MAX_OPEN_COUNTS: Final = 3
_TOKEN: Final = re.compile(
    r"(?P<one>[0-9]|\\d|\[\^?(?:[0-9](?:-[0-9])?)+\])|(?P<count>[?+*]|\{\d{1,2}(?:,\d{0,2})?\})|(?P<open>\((?:\?:)?)"
    r"|(?P<close>\))|(?P<or>\|)"
)


class BadPattern(ValueError):
    """A pattern that is not taken; the message says why."""


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the pattern, made sure of. Raises `BadPattern`."""
    at = open_counts = 0
    before = ""
    while at < len(pattern):
        match = _TOKEN.match(pattern, at)
        if match is None:
            raise BadPattern(f"{pattern[at : at + 10]!r} is not taken")
        kind = match.lastgroup or ""
        if kind == "count":
            if before != "one":
                raise BadPattern(f"{match[0]!r} repeats a group, a count or nothing")
            open_counts += not re.fullmatch(r"\{\d+\}", match[0])
        before, at = kind, match.end()
    if open_counts > MAX_OPEN_COUNTS:
        raise BadPattern(f"there are more than {MAX_OPEN_COUNTS} open counts (?, +, *, {{n,m}})")
    try:
        return re.compile(pattern, re.ASCII)
    except re.error as error:
        raise BadPattern(str(error)) from None


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is right by ISO/IEC 7812-1 annex B."""
    total = 0
    for index, letter in enumerate(reversed(digits)):
        doubled = int(letter) * (1 + index % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return bool(digits) and total % 10 == 0
