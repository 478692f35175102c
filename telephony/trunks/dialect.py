"""A trunk and its carrier's dialect: the number format, the caller number, the codecs.

What it never does: choose a trunk, or reach the PBX.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import phonenumbers

from telephony.model.number import PhoneNumber


class NumberFormat(StrEnum):
    """How a carrier wants numbers written."""

    E164 = "e164"
    """`+8613800000000`"""
    DIGITS = "digits"
    """`8613800000000`"""
    INTERNATIONAL = "00"
    """`008613800000000`"""
    NATIONAL = "national"
    """`13800000000`, with the region's own trunk prefix where it has one"""


@dataclass(frozen=True, slots=True)
class Trunk:
    """One way out. `endpoint` is its name in the PBX; `prefixes` are E.164, empty serves all.

    `prefix` is put before the formatted number; `ring_timeout` is in seconds.
    """

    name: str
    endpoint: str
    prefixes: tuple[str, ...] = ()
    number_format: NumberFormat = NumberFormat.E164
    prefix: str = ""
    codecs: tuple[str, ...] = ()
    ring_timeout: float = 30.0

    def dialled(self, number: PhoneNumber) -> str:
        """Write the number as this carrier wants it."""
        match self.number_format:
            case NumberFormat.E164:
                text = number.e164
            case NumberFormat.DIGITS:
                text = number.digits
            case NumberFormat.INTERNATIONAL:
                text = f"00{number.digits}"
            case NumberFormat.NATIONAL:
                parsed = phonenumbers.parse(number.e164)
                written = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
                text = "".join(letter for letter in written if letter.isdigit())
        return f"{self.prefix}{text}"
