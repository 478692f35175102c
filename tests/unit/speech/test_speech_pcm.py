"""Reading, resampling, trimming and loudness, against signals whose answers are known."""

from __future__ import annotations

import math
import random
import struct
from array import array

import pytest

from telephony.speech.pcm import (
    PEAK_CEILING,
    TARGET_LEVEL,
    BadSound,
    Pcm,
    active_level,
    finish,
    read_wav,
    to_telephone_rate,
    trim,
)
from tests.unit.speech.sounds import tone, wav


def decibels(samples: array[int]) -> float:
    return 10 * math.log10(sum(sample**2 for sample in samples) / len(samples) + 1e-9)


@pytest.mark.parametrize("rate", [11025, 16000, 22050, 44100, 48000])
def test_resampling_keeps_the_voice_and_its_length(rate: int) -> None:
    source = tone(0.5, hertz=1000, rate=rate)
    heard = to_telephone_rate(Pcm(rate, source))
    assert heard.rate == 8000
    assert heard.seconds == pytest.approx(0.5, abs=0.001)
    assert decibels(heard.samples[400:-400]) == pytest.approx(decibels(tone(0.5, hertz=1000)), abs=0.1)
    # Still the same tone in the same phase: the difference is nothing but rounding.
    expected = tone(0.5, hertz=1000)
    worst = max(abs(a - b) for a, b in zip(heard.samples[400:-400], expected[400:-400], strict=False))
    assert worst < 40


@pytest.mark.parametrize(("rate", "hertz"), [(11025, 4700), (22050, 5000), (44100, 7000), (48000, 4200)])
def test_nothing_above_four_kilohertz_folds_back(rate: int, hertz: int) -> None:
    source = tone(0.3, hertz=hertz, rate=rate)
    heard = to_telephone_rate(Pcm(rate, source)).samples[400:-400]
    assert decibels(heard) < decibels(source) - 55


def test_wav_of_a_pipe_with_an_endless_data_chunk_is_read_to_its_end() -> None:
    samples = tone(0.1)
    whole = bytearray(wav(samples))
    struct.pack_into("<I", whole, 40, 0x7FFFF000)
    assert read_wav(bytes(whole)).samples == samples


def test_stereo_is_mixed_down() -> None:
    both = array("h", [100, 300, -50, -150])
    assert list(read_wav(wav(both, channels=2)).samples) == [200, -100]


def test_chunks_before_the_sound_are_passed_over() -> None:
    whole = wav(tone(0.1))
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\x00"
    assert read_wav(whole[:36] + extra + whole[36:]).samples == tone(0.1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a WAV"),
        (b"RIFF\x00\x00\x00\x00WAVE", "no sound"),
        (wav(tone(0.1))[:30], "cut short"),
        (wav(tone(0.1), rate=4000), "sample rate"),
        (wav(tone(0.1), rate=96000), "sample rate"),
        (wav(tone(0.1), channels=3), "mono"),
        (wav(tone(0.1)).replace(b"\x10\x00data", b"\x08\x00data"), "16-bit"),
    ],
)
def test_what_is_not_such_a_wav_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadSound, match=why):
        read_wav(data)


def test_level_of_a_sine_and_of_a_square() -> None:
    assert active_level(tone(1, amplitude=32767)) == pytest.approx(-3.01, abs=0.05)
    assert active_level([3276.8, -3276.8] * 4000) == pytest.approx(-20, abs=0.01)


def test_level_leaves_pauses_out() -> None:
    speech = tone(0.4)
    pause = array("h", bytes(2 * 8000))
    assert active_level(speech + pause + speech) == pytest.approx(active_level(speech), abs=0.2)
    assert active_level(pause) == -math.inf
    # A noisy line between the words is no speech either: 30 dB below it, and well above -60 dBov.
    hiss = tone(1, hertz=2100, amplitude=8000 / 31.6)
    assert active_level(speech + hiss + speech) == pytest.approx(active_level(speech), abs=0.2)


def test_trim_cuts_noise_at_both_ends_and_no_speech() -> None:
    hiss = random.Random(1)
    noise = array("h", [hiss.randint(-20, 20) for _ in range(4000)])
    speech = tone(0.3)
    kept = trim(noise + speech + noise)
    assert len(speech) <= len(kept) <= len(speech) + 80
    assert trim(array("h", bytes(2000))) == array("h")


@pytest.mark.parametrize("amplitude", [60, 1000, 30000])
def test_finished_sound_has_the_one_loudness(amplitude: float) -> None:
    pause = array("h", bytes(2 * 3000))
    done = finish(Pcm(8000, pause + tone(0.6, amplitude=amplitude) + pause))
    assert active_level(done) == pytest.approx(TARGET_LEVEL, abs=0.5)
    assert len(done) == pytest.approx(0.6 * 8000, abs=80)
    assert abs(done[0]) < 100
    assert abs(done[-1]) < 100


def test_peaks_are_ducked_and_loudness_kept() -> None:
    # A glottal buzz: crest factor of about 20 dB, so that -20 dBov would clip without a limiter.
    buzz = array("h", [9000 if n % 100 == 0 else round(150 * math.sin(n / 3)) for n in range(8000)])
    done = finish(Pcm(8000, buzz))
    assert max(map(abs, done)) <= PEAK_CEILING + 1
    assert active_level(done) == pytest.approx(TARGET_LEVEL, abs=2)


def test_a_constant_offset_is_taken_away() -> None:
    shifted = array("h", [sample + 5000 for sample in tone(0.5)])
    silence = array("h", [5000] * 8000)
    done = finish(Pcm(8000, silence + shifted + silence))
    assert abs(sum(done) / len(done)) < 200


def test_silence_is_no_clip() -> None:
    with pytest.raises(BadSound, match="silence"):
        finish(Pcm(22050, array("h", bytes(20000))))
    with pytest.raises(BadSound, match="silence"):
        finish(Pcm(8000, array("h")))


def test_samples_are_not_in_the_repr() -> None:
    assert "array" not in repr(Pcm(8000, tone(0.1)))
