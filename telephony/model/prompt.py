"""What is to be said, before any sound exists: a prompt is a list of parts.

What it never does: know a language. `speech/` turns a prompt and a locale into sound.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded clip of the language pack or of the user's own, by name without an ending."""

    name: str


@dataclass(frozen=True, slots=True)
class Phrase:
    """A text of the language pack by key, its `{placeholders}` filled from `values`."""

    key: str
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A free text in the prompt's locale."""

    text: str


@dataclass(frozen=True, slots=True)
class Digits:
    """Digits said one at a time, each in a slot of the same length.

    `secret` keeps them out of every cache, log and `repr`.
    """

    digits: str = field(repr=False)
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """A cardinal number said as a person says it."""

    value: int


@dataclass(frozen=True, slots=True)
class Amount:
    """Money: a decimal and an ISO 4217 currency."""

    value: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Date:
    """A calendar date (and time of day where `with_time`), in the time zone it carries."""

    when: datetime
    with_time: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing, for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment between two parts, without a length: where it lies in the sound, `Media.marks` tells."""


Part: TypeAlias = Recording | Phrase | Text | Digits | Number | Amount | Date | Silence | Mark


@dataclass(frozen=True, slots=True)
class Prompt:
    """Parts, said one after another."""

    parts: tuple[Part, ...]

    @property
    def secret(self) -> bool:
        """Whether any part must leave no trace."""
        return any(isinstance(part, Digits) and part.secret for part in self.parts)
