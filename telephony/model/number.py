"""Phone numbers: parsed once at the edge, E.164 ever after.

What it never does: decide whether a number may be called; that is policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import phonenumbers

from telephony.errors import InvalidNumber


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A valid number. `e164` has the leading `+`; `region` is ISO 3166-1 alpha-2 (`001` if none)."""

    e164: str
    region: str

    @property
    def digits(self) -> str:
        """The number without its `+`."""
        return self.e164[1:]

    @property
    def masked(self) -> str:
        """The number fit for a log: the first five characters and the last two."""
        return f"{self.e164[:5]}…{self.e164[-2:]}"

    def __str__(self) -> str:
        return self.e164


def parse_number(text: str, default_region: str | None = None, *, field: str = "to") -> PhoneNumber:
    """Parse E.164, or a national number of `default_region` (libphonenumber's metadata).

    Raises `InvalidNumber` naming `field` when it is not a number that can exist.
    """
    try:
        # One call asks for its number several times; with a `+` it means the same in every region.
        return _parsed(text, None if text.startswith("+") else default_region)
    except ValueError as error:
        mend = "Send an E.164 number such as +8613800000000"
        if default_region:
            mend += f", or a national number of {default_region}"
        raise InvalidNumber(field, str(error), mend) from error


@lru_cache(maxsize=4096)
def _parsed(text: str, region: str | None) -> PhoneNumber:
    """Parse; raises `ValueError` that says what is wrong."""
    if len(text) > 32:
        raise ValueError("is longer than any phone number")
    if any(letter.isalpha() for letter in text):
        raise ValueError("holds letters")
    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException as error:
        raise ValueError("is not a phone number") from error
    if parsed.extension or not phonenumbers.is_valid_number(parsed):
        raise ValueError("is not a number that can be dialled")
    e164 = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    return PhoneNumber(e164, phonenumbers.region_code_for_number(parsed) or "001")
