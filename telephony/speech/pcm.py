"""Linear sound: reading WAV, resampling, trimming, and bringing speech to one loudness.

All of it is plain Python over `array('h')`, meant for rendering a clip once, in a worker thread;
nothing here runs while a prompt is composed from ready clips. What it never does: encode for the
PBX (that is `g711`), or touch a file.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import mul
from typing import Final

TELEPHONE_RATE: Final = 8000
"""Samples a second of everything that leaves this room."""

TARGET_LEVEL: Final = -20.0
"""Active speech level of every clip, in dB relative to an RMS of 32768 (dBov)."""

PEAK_CEILING: Final = 32767 * 10 ** (-1 / 20)
"""No sample lies above this: 1 dB below full scale."""

_MARGIN_DB: Final = 15.9
"""ITU-T P.56: what lies further than this below the active level is a pause, not speech."""

_LEVEL_FRAME: Final = 160
_TRIM_FRAME: Final = 40
_TRIM_DEPTH_DB: Final = 40.0
_QUIETEST: Final = 32768 * 10 ** (-60 / 20)
_FADE: Final = 32
_STOP_BAND_DB: Final = 65.0
_PASS_HZ: Final = 3400.0
_LIMITER_BLOCK: Final = 8
_LIMITER_REACH: Final = 6


class BadSound(ValueError):
    """The bytes are not a WAV that this module reads; the text says why. Never leaves this room."""


@dataclass(frozen=True, slots=True)
class Pcm:
    """Mono 16-bit samples at `rate` samples a second."""

    rate: int
    samples: array[int] = field(repr=False)

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.rate


def read_wav(data: bytes) -> Pcm:
    """Read a RIFF WAV of 16-bit PCM, mono or stereo (mixed down), 8 to 48 kHz.

    A `data` chunk that claims to be longer than the file is taken as far as it goes: a synthesiser
    that writes to a pipe cannot know the length beforehand. Raises `BadSound`.
    """
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise BadSound("it is not a WAV file")
    rate = channels = 0
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        body = at + 8
        if name == b"fmt ":
            if size < 16 or body + 16 > len(data):
                raise BadSound("its format chunk is cut short")
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, body)
            if kind == 0xFFFE and size >= 40 and body + 26 <= len(data):
                kind = struct.unpack_from("<H", data, body + 24)[0]
            if kind != 1 or bits != 16:
                raise BadSound("it is not 16-bit PCM")
            if channels not in {1, 2}:
                raise BadSound("it is neither mono nor stereo")
            if not TELEPHONE_RATE <= rate <= 48000:
                raise BadSound("its sample rate is not between 8 and 48 kHz")
        elif name == b"data":
            if not rate:
                raise BadSound("its format chunk is missing")
            return Pcm(rate, _mono(data[body : body + size], channels))
        at = body + size + (size & 1)
    raise BadSound("it holds no sound")


def _mono(octets: bytes, channels: int) -> array[int]:
    whole = len(octets) - len(octets) % (2 * channels)
    values = struct.unpack(f"<{whole // 2}h", octets[:whole])
    if channels == 1:
        return array("h", values)
    return array("h", [(left + right) // 2 for left, right in zip(values[::2], values[1::2], strict=True)])


def _bessel_i0(x: float) -> float:
    total = term = 1.0
    for k in range(1, 40):
        term *= (x / (2 * k)) ** 2
        total += term
    return total


@lru_cache(maxsize=8)
def _kernels(source_rate: int) -> tuple[int, tuple[tuple[float, ...], ...]]:
    """One windowed-sinc low-pass per phase between `source_rate` and 8 kHz, and its half width.

    Kaiser window: flat to 3.4 kHz, 65 dB down from 4 kHz or from where the source itself ends.
    """
    stop = TELEPHONE_RATE / 2
    cutoff = (_PASS_HZ + stop) / 2 / source_rate
    width = (stop - _PASS_HZ) / source_rate
    half = math.ceil((_STOP_BAND_DB - 7.95) / (2.285 * 2 * math.pi * width) / 2)
    beta = 0.1102 * (_STOP_BAND_DB - 8.7)
    scale = _bessel_i0(beta)
    phases = TELEPHONE_RATE // math.gcd(TELEPHONE_RATE, source_rate)
    kernels = []
    for phase in range(phases):
        taps = []
        for k in range(-half, half + 1):
            t = k - phase / phases
            window = _bessel_i0(beta * math.sqrt(max(0.0, 1 - (t / (half + 1)) ** 2))) / scale
            x = 2 * cutoff * t
            taps.append(window * (1.0 if x == 0 else math.sin(math.pi * x) / (math.pi * x)))
        gain = sum(taps)
        kernels.append(tuple(tap / gain for tap in taps))
    return half, tuple(kernels)


def to_telephone_rate(pcm: Pcm) -> Pcm:
    """Resample to 8 kHz behind a low-pass, so that nothing above 4 kHz folds back into the band."""
    if pcm.rate == TELEPHONE_RATE:
        return pcm
    half, kernels = _kernels(pcm.rate)
    phases = len(kernels)
    step = pcm.rate // math.gcd(TELEPHONE_RATE, pcm.rate)
    padding = [0.0] * half
    source = [*padding, *map(float, pcm.samples), *padding]
    width = 2 * half + 1
    count = len(pcm.samples) * phases // step
    out = array("h", bytes(2 * count))
    for n in range(count):
        start, phase = divmod(n * step, phases)
        out[n] = _clamp(sum(map(mul, source[start : start + width], kernels[phase])))
    return Pcm(TELEPHONE_RATE, out)


def _clamp(value: float) -> int:
    return max(-32768, min(32767, round(value)))


def _frame_powers(samples: Sequence[float], size: int) -> list[float]:
    """Mean square of each frame; a last one that is cut short counts by its own length."""
    powers = []
    for at in range(0, len(samples), size):
        frame = samples[at : at + size]
        powers.append(sum(map(mul, frame, frame)) / len(frame))
    return powers


def active_level(samples: Sequence[float]) -> float:
    """Level of 8 kHz speech in dBov, pauses left out; `-inf` for silence.

    After ITU-T P.56: the mean power of the 20 ms frames that lie no more than 15.9 dB below the
    level so found, by iteration from all that is above -60 dBov.
    """
    active = [power for power in _frame_powers(samples, _LEVEL_FRAME) if power > _QUIETEST**2]
    if not active:
        return -math.inf
    while True:
        mean = sum(active) / len(active)
        kept = [power for power in active if power >= mean * 10 ** (-_MARGIN_DB / 10)]
        if len(kept) == len(active):
            return 10 * math.log10(mean) - 20 * math.log10(32768)
        active = kept


def trim(samples: array[int]) -> array[int]:
    """Cut what is silent at both ends: 5 ms frames more than 40 dB below the loudest one.

    Empty when there is nothing but silence.
    """
    powers = _frame_powers(samples, _TRIM_FRAME)
    if not powers:
        return array("h")
    floor = max(max(powers) * 10 ** (-_TRIM_DEPTH_DB / 10), _QUIETEST**2)
    loud = [index for index, power in enumerate(powers) if power > floor]
    if not loud:
        return array("h")
    return samples[loud[0] * _TRIM_FRAME : (loud[-1] + 1) * _TRIM_FRAME]


def _limited(samples: Sequence[float], gain: float) -> list[float]:
    """Scale by `gain`, ducking smoothly around peaks that would pass the ceiling."""
    scaled = [sample * gain for sample in samples]
    if max(map(abs, scaled)) <= PEAK_CEILING:
        return scaled
    blocks = [
        min(1.0, PEAK_CEILING / max(1.0, *map(abs, scaled[at : at + _LIMITER_BLOCK])))
        for at in range(0, len(scaled), _LIMITER_BLOCK)
    ]
    reach = _LIMITER_REACH
    lowest = [min(blocks[max(0, n - reach) : n + reach + 1]) for n in range(len(blocks))]
    # A mean over one block less on each side leaves room for the slope between two blocks.
    smooth = []
    for n in range(len(lowest)):
        near = lowest[max(0, n - reach + 1) : n + reach]
        smooth.append(sum(near) / len(near))
    smooth.append(smooth[-1])
    out = []
    for n, sample in enumerate(scaled):
        block, within = divmod(n, _LIMITER_BLOCK)
        slope = smooth[block + 1] - smooth[block]
        out.append(sample * (smooth[block] + slope * within / _LIMITER_BLOCK))
    return out


def finish(pcm: Pcm) -> array[int]:
    """Make a clip of any sound: 8 kHz, trimmed, at `TARGET_LEVEL`, below the ceiling, edges faded.

    Raises `BadSound` when there is nothing but silence.
    """
    samples = trim(_centred(to_telephone_rate(pcm).samples))
    level = active_level(samples)
    if not samples or level == -math.inf:
        raise BadSound("it holds nothing but silence")
    gain = 10 ** ((TARGET_LEVEL - level) / 20)
    shaped = _limited(samples, gain)
    for _ in range(6):
        # The limiter takes some loudness away; a few rounds give it back.
        missing = TARGET_LEVEL - active_level(shaped)
        if abs(missing) < 0.1:
            break
        gain *= 10 ** (missing / 20)
        shaped = _limited(samples, gain)
    fade = min(_FADE, len(shaped) // 2)
    for n in range(fade):
        weight = 0.5 - 0.5 * math.cos(math.pi * (n + 1) / (fade + 1))
        shaped[n] *= weight
        shaped[-1 - n] *= weight
    return array("h", [_clamp(sample) for sample in shaped])


def _centred(samples: array[int]) -> array[int]:
    """Take away a constant offset, which a cheap sound card leaves in a recording."""
    if not samples:
        return samples
    offset = round(sum(samples) / len(samples))
    if offset == 0:
        return samples
    return array("h", [_clamp(sample - offset) for sample in samples])
