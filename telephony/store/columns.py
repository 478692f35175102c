"""Column types that mean the same on both engines.

What it never does: use anything that only one engine has without naming its stand-in.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy import BigInteger, Boolean, Dialect, Double, Integer, LargeBinary, Text
from sqlalchemy.types import TypeDecorator

Member = TypeVar("Member", bound=StrEnum)

# Code-point order on both engines: prefixes are ranges, and pages break at the same place.
Key = Text().with_variant(Text(collation="C"), "postgresql")
Words = Text()
Millis = BigInteger()
Count = Integer()
Flag = Boolean()
Fraction: Double[float] = Double()
Sealed = LargeBinary()


class Json(TypeDecorator[Any]):
    """A JSON value kept as ASCII text: a NUL or a lone surrogate inside it is escaped, never stored."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Python value to text; None stays NULL."""
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Text to Python value; NULL becomes None."""
        return None if value is None else json.loads(value)


class Choice(TypeDecorator[Member], Generic[Member]):
    """A member of an enumeration, kept as its text."""

    impl = Text
    cache_ok = True

    def __init__(self, members: type[Member]) -> None:
        super().__init__()
        self.members = members

    def process_bind_param(self, value: Member | None, dialect: Dialect) -> str | None:
        """Member to text; a text that is no member raises `ValueError`."""
        return None if value is None else self.members(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> Member | None:
        """Text to member."""
        return None if value is None else self.members(value)
