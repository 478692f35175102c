"""G.711 against the vectors of the Recommendation and the bounds of both laws."""

from __future__ import annotations

import math
from array import array

import pytest

from telephony.speech import g711

# ITU-T G.711, tables 5 and 6: the periodic sequence that is a 1 kHz sine at 0 dBm0.
ULAW_MILLIWATT = bytes.fromhex("1e0b0b1e9e8b8b9e")
ALAW_MILLIWATT = bytes.fromhex("34212134b4a1a1b4")


def level_below_overload(samples: array[int]) -> float:
    rms = math.sqrt(sum(sample * sample for sample in samples) / len(samples))
    return 20 * math.log10(rms / (32768 / math.sqrt(2)))


def test_ulaw_milliwatt_is_a_sine_3_17_db_below_overload() -> None:
    samples = g711.from_ulaw(ULAW_MILLIWATT)
    assert list(samples[4:]) == [-sample for sample in samples[:4]]
    assert level_below_overload(samples) == pytest.approx(-3.17, abs=0.2)


def test_alaw_milliwatt_is_a_sine_3_14_db_below_overload() -> None:
    samples = g711.from_alaw(ALAW_MILLIWATT)
    assert list(samples[4:]) == [-sample for sample in samples[:4]]
    assert level_below_overload(samples) == pytest.approx(-3.14, abs=0.2)


def test_the_milliwatt_comes_back_from_its_samples() -> None:
    assert g711.to_ulaw(g711.from_ulaw(ULAW_MILLIWATT)) == ULAW_MILLIWATT
    assert g711.to_alaw(g711.from_alaw(ALAW_MILLIWATT)) == ALAW_MILLIWATT


@pytest.mark.parametrize(
    ("sample", "ulaw", "alaw"),
    [
        (0, 0xFF, 0xD5),
        (-1, 0x7F, 0x55),
        (32767, 0x80, 0xAA),
        (-32768, 0x00, 0x2A),
        (1000, 0xCE, 0xFA),
        (-1000, 0x4E, 0x7A),
    ],
)
def test_known_octets(sample: int, ulaw: int, alaw: int) -> None:
    assert g711.to_ulaw(array("h", [sample])) == bytes([ulaw])
    assert g711.to_alaw(array("h", [sample])) == bytes([alaw])


@pytest.mark.parametrize(
    ("octet", "ulaw", "alaw"),
    [(0x00, -32124, -5504), (0x80, 32124, 5504), (0xFF, 0, 848), (0xD5, 716, 8), (0x2A, -5372, -32256)],
)
def test_known_samples(octet: int, ulaw: int, alaw: int) -> None:
    assert g711.from_ulaw(bytes([octet]))[0] == ulaw
    assert g711.from_alaw(bytes([octet]))[0] == alaw


def test_every_octet_survives_but_the_negative_zero_of_ulaw() -> None:
    every = bytes(range(256))
    assert g711.to_alaw(g711.from_alaw(every)) == every
    assert g711.to_ulaw(g711.from_ulaw(every)) == every.replace(b"\x7f", b"\xff")


def test_no_sample_is_off_by_more_than_its_step() -> None:
    samples = array("h", range(-32768, 32768, 7))
    for decoded in (g711.from_ulaw(g711.to_ulaw(samples)), g711.from_alaw(g711.to_alaw(samples))):
        for sample, heard in zip(samples, decoded, strict=True):
            assert abs(sample - heard) <= max(16, abs(sample) / 16)


def test_silence_is_the_quietest_octet() -> None:
    assert g711.from_ulaw(g711.ULAW_SILENCE)[0] == 0
    assert abs(g711.from_alaw(g711.ALAW_SILENCE)[0]) == 8
