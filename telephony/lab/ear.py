"""The ear: which known clips a recording holds, and when.

A recording is compared with clips by normalised cross-correlation, which does not mind loudness and bears
G.711 in either law. What is reported is the audible part of a clip: the silence at its edges counts as
silence. What it never does: know what a clip means, or trust what somebody asked a PBX to play.
"""

from __future__ import annotations

import itertools
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from telephony.errors import LabError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples: TypeAlias = NDArray[np.float64]

RATE = 8000
"""Samples per second of everything here: telephone audio."""

THRESHOLD = 0.75
"""The least correlation (0 to 1) that counts as heard. A clip through G.711 reaches about 0.99."""

_FRAME = RATE // 100
_QUIET = 0.01
_LEAST_CLIP = RATE // 50
_SHARPNESS = 8
_OVERLAP = 0.1
# Below this level (of 32768) there is nothing but the noise of the codec.
_NOISE_LEVEL = 24.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip that was heard: its audible part, in seconds of the recording; `score` is at most 1."""

    label: str
    start_seconds: float
    end_seconds: float
    score: float


@dataclass(frozen=True, slots=True)
class _Candidate:
    label: str
    start: int
    end: int
    score: float

    @property
    def worth(self) -> float:
        """The seconds explained, discounted steeply by what is not explained.

        So one long clip that fits badly never wins over two short ones that fit, and the longer of two
        that fit alike wins over a part of it.
        """
        return self.score**_SHARPNESS * (self.end - self.start)


def hear(
    wav_path: Path, clips: Mapping[str, bytes | NDArray[np.generic]], *, threshold: float = THRESHOLD
) -> list[Heard]:
    """Return the clips that the recording holds, in order, none overlapping another.

    `clips` maps a label to 8 kHz mono audio: 16-bit little-endian bytes, or an array of any level.
    Raises `LabError` for a recording or a clip that can't be used, and where numpy is not installed.
    """
    np = _numpy()
    sound = _read(np, wav_path)
    cores = {label: _core(np, label, clip) for label, clip in clips.items()}
    if not cores or len(sound) < _LEAST_CLIP:
        return []
    longest = max(len(core) for core in cores.values())
    size = 1 << (len(sound) + longest - 1).bit_length()
    spectrum = np.fft.rfft(sound, size)
    power = np.concatenate(([0.0], np.cumsum(sound**2)))
    total = np.concatenate(([0.0], np.cumsum(sound)))
    candidates: list[_Candidate] = []
    for label, core in cores.items():
        span = len(core)
        if span > len(sound):
            continue
        dot = np.fft.irfft(spectrum * np.conj(np.fft.rfft(core, size)), size)[: len(sound) - span + 1]
        # The clip has no DC; taking the window's own out of its energy makes the score blind to it.
        energy = power[span:] - power[:-span] - (total[span:] - total[:-span]) ** 2 / span
        floor = _NOISE_LEVEL**2 * span
        score = np.where(energy > floor, dot / np.sqrt(np.maximum(energy, floor)), 0.0)
        candidates += _peaks(np, label, score, span, threshold)
    return [Heard(c.label, c.start / RATE, c.end / RATE, round(float(c.score), 4)) for c in _best(candidates)]


def gaps(heard: Sequence[Heard]) -> list[float]:
    """Return the seconds of silence between each clip and the next."""
    return [round(after.start_seconds - before.end_seconds, 4) for before, after in itertools.pairwise(heard)]


def first_sound(wav_path: Path, *, level: float = 300.0) -> float | None:
    """Return when the first sound begins, in seconds, to 10 ms; None where all is quiet.

    A sound is 10 ms whose loudness (root mean square, of 32768) is at least `level`.
    """
    np = _numpy()
    loud = _loudness(np, _read(np, wav_path)) >= level
    return float(np.argmax(loud)) * _FRAME / RATE if loud.any() else None


def duration(wav_path: Path) -> float:
    """Return how long a recording is, in seconds."""
    return len(_read(_numpy(), wav_path)) / RATE


def _numpy() -> ModuleType:
    try:
        import numpy
    except ImportError as error:
        raise LabError("the ear needs numpy: pip install telephony[lab]") from error
    return numpy


def _read(np: ModuleType, path: Path) -> Samples:
    try:
        with wave.open(str(path), "rb") as sound:
            form = (sound.getframerate(), sound.getsampwidth(), sound.getnchannels())
            data = sound.readframes(sound.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise LabError(f"{path} is no recording: {error}") from error
    if form != (RATE, 2, 1):
        raise LabError(f"{path} is not 8 kHz, 16 bit, mono")
    samples: Samples = np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float64)
    return samples


def _core(np: ModuleType, label: str, clip: bytes | NDArray[np.generic]) -> Samples:
    """Return a clip's audible part, without DC and of energy 1."""
    raw = np.frombuffer(clip, dtype="<i2") if isinstance(clip, bytes) else np.asarray(clip)
    samples: Samples = raw.astype(np.float64).ravel()
    loudness = _loudness(np, samples)
    if len(loudness) == 0 or loudness.max() <= 0:
        raise LabError(f"clip {label!r} is silent")
    audible = np.flatnonzero(loudness > _QUIET * loudness.max())
    core: Samples = samples[audible[0] * _FRAME : (audible[-1] + 1) * _FRAME]
    if len(core) < _LEAST_CLIP:
        raise LabError(f"clip {label!r} is shorter than {_LEAST_CLIP / RATE * 1000:.0f} ms")
    core = core - core.mean()
    scaled: Samples = core / np.sqrt(np.sum(core**2))
    return scaled


def _loudness(np: ModuleType, samples: Samples) -> Samples:
    """Return the root mean square of each 10 ms; a rest at the end is left out."""
    count = len(samples) // _FRAME
    loudness: Samples = np.sqrt(np.mean(samples[: count * _FRAME].reshape(count, _FRAME) ** 2, axis=1))
    return loudness


def _peaks(np: ModuleType, label: str, score: Samples, span: int, threshold: float) -> list[_Candidate]:
    """Return the best places of one clip, at least half its length apart."""
    places = np.flatnonzero(score >= threshold)
    found: list[_Candidate] = []
    if len(places) == 0:
        return found
    for run in np.split(places, np.flatnonzero(np.diff(places) > span // 2) + 1):
        left = run
        while len(left):
            at = int(left[np.argmax(score[left])])
            found.append(_Candidate(label, at, at + span, float(score[at])))
            left = left[np.abs(left - at) >= span // 2]
    return found


def _best(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Return those that don't overlap and together are worth most (weighted interval scheduling)."""
    order = sorted(candidates, key=lambda c: c.end)
    worth = [0.0]
    chosen: list[tuple[int, bool]] = [(0, False)]
    for index, candidate in enumerate(order):
        # Neighbours may touch: a few milliseconds of overlap are the blur of their edges.
        slack = int(_OVERLAP * (candidate.end - candidate.start))
        before = _count_ending(order, index, candidate.start + slack)
        taken = worth[before] + candidate.worth
        chosen.append((before, True) if taken > worth[-1] else (index, False))
        worth.append(max(taken, worth[-1]))
    best: list[_Candidate] = []
    at = len(order)
    while at > 0:
        before, taken_here = chosen[at]
        if taken_here:
            best.append(order[at - 1])
        at = before
    return best[::-1]


def _count_ending(order: Sequence[_Candidate], among: int, limit: int) -> int:
    """How many of the first `among` candidates end at or before `limit` (they are in order of their end)."""
    low, high = 0, among
    while low < high:
        middle = (low + high) // 2
        if order[middle].end <= limit:
            low = middle + 1
        else:
            high = middle
    return low
