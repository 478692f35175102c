"""Identifiers: a prefix that tells the kind, then 26 characters that sort by time (a ULID).

What it never does: put anything of the resource into the identifier.
"""

from __future__ import annotations

import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_LATEST: Final = (1 << 48) - 1


def new_id(prefix: str) -> str:
    """Return e.g. `call_01hv…`: 48 bits of milliseconds, 80 random bits, Crockford base 32."""
    return _written(prefix, (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80))


def first_id(prefix: str, at: int) -> str:
    """Return the least identifier that `new_id` could give at `at` (milliseconds since the epoch)."""
    return _written(prefix, min(max(at, 0), _LATEST) << 80)


def _written(prefix: str, value: int) -> str:
    letters = [_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(letters)}"
