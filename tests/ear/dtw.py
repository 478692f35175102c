"""Word recognition by template: mel cepstra compared by dynamic time warping, with numpy alone.

Sounds are 8 kHz mono arrays, as floats or 16-bit integers of any loudness. What it never does: know
which languages or words there are; templates say that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float64]

RATE = 8000
_WINDOW = 200
_HOP = 80
_FFT = 256
_BANDS = 26
_CEPSTRA = 13
_SLOPE_REACH = 2


@cache
def _mel_bank() -> Sound:
    """Triangles of equal width on the mel scale over the telephone band, 150 to 3600 Hz."""

    def mel(hertz: float) -> float:
        return float(2595 * np.log10(1 + hertz / 700))

    edges = 700 * (10 ** (np.linspace(mel(150), mel(3600), _BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_FFT, 1 / RATE)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


@cache
def _cosines() -> Sound:
    band = np.arange(_BANDS)
    return np.cos(np.pi * np.arange(_CEPSTRA)[:, None] * (band + 0.5) / _BANDS)


def trimmed(sound: NDArray[Any], depth_db: float = 30.0) -> Sound:
    """The sound without what lies more than `depth_db` below its loudest 10 ms at both ends."""
    flat = np.asarray(sound, dtype=np.float64)
    frames = flat[: len(flat) // _HOP * _HOP].reshape(-1, _HOP)
    power = (frames**2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-depth_db / 10))
    return flat[loud[0] * _HOP : (loud[-1] + 1) * _HOP]


def features(sound: NDArray[Any]) -> Sound:
    """Frames by coefficients: cepstra of the log mel spectrum and their slopes, each of unit spread.

    The mean over the clip is taken away, and with it loudness and the colour of the line.
    """
    flat = trimmed(sound)
    flat = np.append(flat[0], flat[1:] - 0.95 * flat[:-1])
    if len(flat) < _WINDOW:
        flat = np.pad(flat, (0, _WINDOW - len(flat)))
    frames = np.lib.stride_tricks.sliding_window_view(flat, _WINDOW)[::_HOP] * np.hamming(_WINDOW)
    spectrum = np.abs(np.fft.rfft(frames, _FFT)) ** 2
    mels = spectrum @ _mel_bank().T
    # A floor 50 dB below the loudest band: what lies under it is noise of the coding.
    logs = np.log(np.maximum(mels, mels.max() * 1e-5))
    cepstra = logs @ _cosines().T
    slopes = _slopes(cepstra)
    both = np.hstack([cepstra, slopes])
    normal: Sound = (both - both.mean(axis=0)) / (both.std(axis=0) + 1e-6)
    return normal


def _slopes(cepstra: Sound) -> Sound:
    padded = np.pad(cepstra, ((_SLOPE_REACH, _SLOPE_REACH), (0, 0)), mode="edge")
    count = len(cepstra)
    total = np.zeros_like(cepstra)
    for reach in range(1, _SLOPE_REACH + 1):
        ahead = padded[_SLOPE_REACH + reach : _SLOPE_REACH + reach + count]
        behind = padded[_SLOPE_REACH - reach : _SLOPE_REACH - reach + count]
        total += reach * (ahead - behind)
    return total


def distance(one: Sound, other: Sound) -> float:
    """Mean distance along the best warping of two feature arrays; 0 for a sound and itself.

    Symmetric steps after Sakoe and Chiba (1978): a diagonal step costs twice, so that the sum over
    any path is divided by the same length.
    """
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    local = np.sqrt(np.maximum(squares, 0))
    rows, columns = local.shape
    # Cells of one diagonal hang on the two diagonals before it alone, so each is one step of numpy.
    # `skewed[d, i]` is the local distance of frames i and d - i.
    skewed = np.full((rows + columns - 1, rows), np.inf)
    row = np.repeat(np.arange(rows), columns)
    column = np.tile(np.arange(columns), rows)
    skewed[row + column, row] = local.ravel()
    # Both start with a cell for the row before the first.
    before, last = np.full(rows + 1, np.inf), np.full(rows + 1, np.inf)
    before[0] = 0
    for cost in skewed:
        total = np.full(rows + 1, np.inf)
        straight = np.minimum(last[1:], last[:-1]) + cost
        total[1:] = np.minimum(straight, before[:-1] + 2 * cost)
        before, last = last, total
    return float(last[rows] / (rows + columns))


def scores(clip: NDArray[Any], templates: Mapping[str, Sequence[NDArray[Any]]]) -> dict[str, float]:
    """Distance of the clip to the nearest template of each word."""
    heard = features(clip)
    return {
        word: min(distance(heard, features(sound)) for sound in sounds) for word, sounds in templates.items()
    }


def classify(clip: NDArray[Any], templates: Mapping[str, Sequence[NDArray[Any]]]) -> str:
    """The word whose nearest template is nearest to the clip."""
    found = scores(clip, templates)
    return min(found, key=found.__getitem__)


def segments(
    sound: NDArray[Any], *, shortest_gap: float = 0.25, depth_db: float = 35.0
) -> list[tuple[int, int]]:
    """Where the sound is audible, as (start, end) in samples, to 5 ms.

    Audible is what lies at most `depth_db` below the loudest 5 ms; stretches with less than
    `shortest_gap` seconds of silence between them are one.
    """
    frame = RATE // 200
    flat = np.asarray(sound, dtype=np.float64)
    power = (flat[: len(flat) // frame * frame].reshape(-1, frame) ** 2).mean(axis=1)
    found: list[tuple[int, int]] = []
    for index in np.flatnonzero(power > power.max() * 10 ** (-depth_db / 10)):
        start, end = int(index) * frame, (int(index) + 1) * frame
        if found and start - found[-1][1] < shortest_gap * RATE:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
