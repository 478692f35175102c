"""A trunk and its carrier's dialect: numbers, callers, codecs, keys, and what its answers mean.

What it never does: choose a trunk, or reach the PBX.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import phonenumbers

from telephony.errors import InvalidNumber
from telephony.model.number import PhoneNumber, parse_number
from telephony.pbx.port import Dialect, DialOrder, EarlyMedia, IdentityForm
from telephony.store.records import SlotCandidate
from telephony.trunks.hours import WeekHours


class NumberFormat(StrEnum):
    """How a carrier wants numbers written."""

    E164 = "e164"
    """`+8613800000000`"""
    DIGITS = "digits"
    """`8613800000000`"""
    INTERNATIONAL = "00"
    """`008613800000000`"""
    NATIONAL = "national"
    """`13800000000`, with the region's own trunk prefix where it has one; other countries' numbers with 00"""


@dataclass(frozen=True, slots=True)
class Trunk:
    """One way out. `endpoint` is its name in the PBX; `prefixes` are E.164, empty serves all.

    Number: `prefix` is put before the formatted one; `region` (ISO 3166-1) is where `national` numbers are
    at home, empty: wherever they are. Choice: the smaller `priority` first, then the smaller `cost` (None is
    more than any), then by chance as `weight` says, then the configured order. Capacity: `channels` calls at
    once (None: no limit), `calls_per_second` in the long run with `burst` at once (None: no pace).

    Caller: one of `caller_numbers` (empty: whoever it is), as `caller_format` says (None: as it stands).
    `from_number` stands in From whoever calls, and `identity` then tells the caller. Times are in seconds.
    """

    name: str
    endpoint: str
    prefixes: tuple[str, ...] = ()
    number_format: NumberFormat = NumberFormat.E164
    prefix: str = ""
    codecs: tuple[str, ...] = ()
    ring_timeout: float = 30.0
    region: str = ""
    channels: int | None = None
    calls_per_second: float | None = None
    burst: int = 1
    priority: int = 1
    cost: float | None = None
    weight: int = 0
    hours: WeekHours = field(default_factory=WeekHours)
    caller_numbers: tuple[str, ...] = ()
    caller_format: NumberFormat | None = None
    from_number: str = ""
    from_name: str = ""
    identity: IdentityForm = IdentityForm.FROM
    identity_domain: str = ""
    dtmf_mode: str = ""
    early_media: EarlyMedia = EarlyMedia.RINGS
    false_answer: float = 0.0

    def dialled(self, number: PhoneNumber) -> str:
        """Write the number as this carrier wants it."""
        return f"{self.prefix}{self._written(number, self.number_format)}"

    def caller(self, wanted: str) -> str:
        """Return the number that is told: the wanted one where the carrier accepts it, else its first."""
        if not self.caller_numbers:
            return self._caller_written(wanted)
        same = (one for one in self.caller_numbers if one.lstrip("+") == wanted.lstrip("+"))
        return self._caller_written(next(same, self.caller_numbers[0]))

    def order(
        self,
        attempt_id: str,
        number: PhoneNumber,
        wanted_caller: str,
        *,
        ring_timeout: float,
        max_duration: float,
    ) -> DialOrder:
        """Return the order of one ring in this dialect; `wanted_caller` may be empty."""
        caller = self.caller(wanted_caller)
        return DialOrder(
            attempt_id=attempt_id,
            endpoint=self.endpoint,
            number=self.dialled(number),
            caller_number=self.from_number or caller,
            caller_name=self.from_name,
            ring_timeout=ring_timeout,
            max_duration=max_duration,
            codecs=self.codecs,
            dialect=Dialect(
                identity=self.identity,
                identity_number=caller,
                identity_domain=self.identity_domain,
                dtmf_mode=self.dtmf_mode,
                early_media=self.early_media,
                false_answer=self.false_answer,
            ),
        )

    def slot(self) -> SlotCandidate:
        """What a call needs of it in the store."""
        return SlotCandidate(trunk=self.name, calls_per_second=self.calls_per_second, burst=self.burst)

    def _caller_written(self, caller: str) -> str:
        if self.caller_format is None or not caller.startswith("+"):
            return caller
        try:
            return self._written(parse_number(caller), self.caller_format)
        except InvalidNumber:
            # A service number that no numbering plan has: it is written as it stands.
            return caller

    def _written(self, number: PhoneNumber, number_format: NumberFormat) -> str:
        match number_format:
            case NumberFormat.E164:
                return number.e164
            case NumberFormat.DIGITS:
                return number.digits
            case NumberFormat.NATIONAL if self._at_home(number):
                parsed = phonenumbers.parse(number.e164)
                written = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
                return "".join(letter for letter in written if letter.isdigit())
            case _:
                return f"00{number.digits}"

    def _at_home(self, number: PhoneNumber) -> bool:
        if not self.region:
            return True
        return (
            phonenumbers.country_code_for_region(self.region) == phonenumbers.parse(number.e164).country_code
        )
