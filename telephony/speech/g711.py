"""ITU-T G.711: 8 kHz µ-law and A-law from and to 16-bit linear samples.

Follows the companding of the ITU-T G.191 software tools (`ulaw_compress`, `alaw_compress` and their
inverses). What it never does: resample, or touch the level.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from typing import Final

ULAW_SILENCE: Final = b"\xff"
ALAW_SILENCE: Final = b"\xd5"

_ULAW_BIAS: Final = 33
_ULAW_MAX: Final = 0x1FFF


def _ulaw_code(sample: int) -> int:
    """µ-law octet of one 16-bit sample; the law looks at its upper 14 bits."""
    magnitude = ((~sample if sample < 0 else sample) >> 2) + _ULAW_BIAS
    magnitude = min(magnitude, _ULAW_MAX)
    segment = max(magnitude.bit_length() - 6, 0)
    step = (magnitude >> (segment + 1)) & 0x0F
    sign = 0x00 if sample < 0 else 0x80
    return sign | (~((segment << 4) | step) & 0x7F)


def _alaw_code(sample: int) -> int:
    """A-law octet of one 16-bit sample; the law looks at its upper 12 magnitude bits."""
    magnitude = (~sample if sample < 0 else sample) >> 4
    segment = 0
    if magnitude > 15:
        segment = magnitude.bit_length() - 4
        magnitude = (magnitude >> (segment - 1)) - 16
    sign = 0x00 if sample < 0 else 0x80
    return (sign | (segment << 4) | magnitude) ^ 0x55


def _ulaw_value(code: int) -> int:
    inverted = ~code & 0xFF
    segment = (inverted >> 4) & 0x07
    step = inverted & 0x0F
    magnitude = ((((step << 1) + _ULAW_BIAS) << segment) - _ULAW_BIAS) << 2
    return -magnitude if inverted & 0x80 else magnitude


def _alaw_value(code: int) -> int:
    plain = code ^ 0x55
    segment = (plain >> 4) & 0x07
    magnitude = ((plain & 0x0F) << 4) + 8
    if segment:
        magnitude = (magnitude + 0x100) << (segment - 1)
    return magnitude if plain & 0x80 else -magnitude


@cache
def _encoder(law: Callable[[int], int]) -> bytes:
    """Octets by the upper 14 bits of a sample, which is as fine as either law looks."""
    return bytes(law(value - 0x10000 if value & 0x8000 else value) for value in range(0, 0x10000, 4))


@cache
def _decoder(law: Callable[[int], int]) -> array[int]:
    return array("h", [law(code) for code in range(256)])


def _encode(samples: array[int], law: Callable[[int], int]) -> bytes:
    table = _encoder(law)
    return bytes([table[(sample & 0xFFFF) >> 2] for sample in samples])


def to_ulaw(samples: array[int]) -> bytes:
    """µ-law octets of 16-bit samples, one each."""
    return _encode(samples, _ulaw_code)


def to_alaw(samples: array[int]) -> bytes:
    """A-law octets of 16-bit samples, one each."""
    return _encode(samples, _alaw_code)


def from_ulaw(octets: bytes) -> array[int]:
    """16-bit samples of µ-law octets."""
    table = _decoder(_ulaw_value)
    return array("h", [table[code] for code in octets])


def from_alaw(octets: bytes) -> array[int]:
    """16-bit samples of A-law octets."""
    table = _decoder(_alaw_value)
    return array("h", [table[code] for code in octets])
