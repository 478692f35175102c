"""The ear, against made-up clips whose places are known to the sample."""

from __future__ import annotations

import time
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from telephony.errors import LabError
from telephony.lab.ear import RATE, Heard, duration, first_sound, gaps, hear

Samples = NDArray[np.float64]


def voice(seed: int, seconds: float, level: float = 8000.0) -> Samples:
    """Something like a syllable: gliding harmonics under a hump, different for each seed."""
    random = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = random.uniform(100, 220) + random.uniform(-40, 40) * t / seconds
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = sum(random.uniform(0.1, 1) * np.sin(h * phase + random.uniform(0, 6)) for h in range(1, 14))
    hump = np.sin(np.pi * t / seconds) ** 0.5
    return level * hump * sound / np.max(np.abs(sound))


def ulaw(x: Samples) -> Samples:
    scaled = np.clip(x / 32768, -1, 1)
    code = np.round(np.sign(scaled) * np.log1p(255 * np.abs(scaled)) / np.log(256) * 127) / 127
    return 32768 * np.sign(code) * (256 ** np.abs(code) - 1) / 255


def alaw(x: Samples) -> Samples:
    scaled = np.clip(np.abs(x) / 32768, 0, 1)
    base = 1 + np.log(87.6)
    small = scaled < 1 / 87.6
    code = np.where(small, 87.6 * scaled, 1 + np.log(np.maximum(87.6 * scaled, 1))) / base
    code = np.round(code * 127) / 127
    back = np.where(code < 1 / base, code * base / 87.6, np.exp(code * base - 1) / 87.6)
    return 32768 * np.sign(x) * back


def save(path: Path, sound: Samples, rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.clip(sound, -32768, 32767).astype("<i2").tobytes())
    return path


CLIPS = {str(n): voice(n, 0.3 + 0.02 * n) for n in range(10)}


def spoken(labels: str, pause: float = 0.5, lead: float = 1.0) -> tuple[Samples, list[float]]:
    parts, starts, at = [np.zeros(int(lead * RATE))], [], lead
    for label in labels:
        starts.append(at)
        parts += [CLIPS[label], np.zeros(int(pause * RATE))]
        at += len(CLIPS[label]) / RATE + pause
    return np.concatenate(parts), starts


def labels(heard: list[Heard]) -> str:
    return "".join(h.label for h in heard)


@pytest.mark.parametrize(
    "channel", [ulaw, alaw, lambda x: alaw(ulaw(0.3 * x))], ids=["ulaw", "alaw", "both, quiet"]
)
def test_digits_are_heard_with_their_times(tmp_path, channel):
    sound, starts = spoken("4711930")
    heard = hear(save(tmp_path / "x.wav", channel(sound)), CLIPS)
    assert labels(heard) == "4711930"
    assert [h.start_seconds for h in heard] == pytest.approx(starts, abs=0.03)
    assert gaps(heard) == pytest.approx([0.5] * 6, abs=0.05)
    assert min(h.score for h in heard) > 0.95


def test_neighbours_that_touch_are_counted_once_each(tmp_path):
    sound, _ = spoken("33355", pause=0.0)
    assert labels(hear(save(tmp_path / "x.wav", ulaw(sound)), CLIPS)) == "33355"


def test_a_missing_digit_is_missed_and_a_wrong_one_is_told(tmp_path):
    missing, _ = spoken("12456")
    assert labels(hear(save(tmp_path / "a.wav", ulaw(missing)), CLIPS)) == "12456"
    # The clip that is filed as "3" holds a "7": what is heard is what was said.
    wrong, _ = spoken("127456")
    assert labels(hear(save(tmp_path / "b.wav", ulaw(wrong)), CLIPS)) == "127456"


def test_an_unknown_sound_is_no_clip(tmp_path):
    sound = np.concatenate([np.zeros(8000), voice(99, 0.5), np.zeros(4000)])
    assert hear(save(tmp_path / "x.wav", ulaw(sound)), CLIPS) == []


def test_noise_and_silence_are_no_clips(tmp_path):
    noise = np.random.default_rng(1).normal(0, 2000, 10 * RATE)
    assert hear(save(tmp_path / "noise.wav", noise), CLIPS) == []
    assert hear(save(tmp_path / "silence.wav", np.zeros(5 * RATE)), CLIPS) == []


def test_a_drift_of_one_sample_does_not_matter(tmp_path):
    sound, _ = spoken("2580")
    middle = len(sound) // 2
    drifted = np.concatenate([sound[:middle], sound[middle : middle + 1], sound[middle:]])
    shortened = np.delete(drifted, [11000, 22000])
    assert labels(hear(save(tmp_path / "x.wav", ulaw(shortened)), CLIPS)) == "2580"


def test_of_similar_clips_the_right_one_wins(tmp_path):
    near = {"a": CLIPS["8"], "b": 0.8 * CLIPS["8"] + 0.35 * voice(77, len(CLIPS["8"]) / RATE)}
    sound = np.concatenate([near["b"], np.zeros(3000), near["a"], np.zeros(3000), near["b"]])
    assert labels(hear(save(tmp_path / "x.wav", ulaw(sound)), near)) == "bab"


def test_a_whole_wins_over_its_part(tmp_path):
    clips = {"2": CLIPS["2"], "25": np.concatenate([CLIPS["2"], CLIPS["5"]])}
    # The part fits to the sample, the whole not quite: its second half was said a little differently.
    other = CLIPS["5"] + 0.2 * voice(55, len(CLIPS["5"]) / RATE)
    whole = np.concatenate([CLIPS["2"], other])
    sound = np.concatenate([np.zeros(800), whole, np.zeros(4000), clips["2"], np.zeros(800)])
    assert [h.label for h in hear(save(tmp_path / "x.wav", ulaw(sound)), clips)] == ["25", "2"]


def test_silence_at_a_clips_edges_does_not_count(tmp_path):
    padded = np.concatenate([np.zeros(1600), CLIPS["6"], np.zeros(2400)])
    clip = padded.astype("<i2").tobytes()
    (heard,) = hear(save(tmp_path / "x.wav", ulaw(padded)), {"6": clip})
    assert heard.start_seconds == pytest.approx(0.2, abs=0.02)
    assert heard.end_seconds == pytest.approx(0.2 + len(CLIPS["6"]) / RATE, abs=0.02)


def test_thirty_seconds_against_twenty_clips_are_quick(tmp_path):
    clips = {str(n): voice(n, 0.5) for n in range(20)}
    sound = np.concatenate([np.concatenate([clips[str(n % 20)], np.zeros(4000)]) for n in range(30)])
    path = save(tmp_path / "x.wav", ulaw(sound))
    times = []
    for _ in range(3):
        started = time.process_time()
        heard = hear(path, clips)
        times.append(time.process_time() - started)
    assert [h.label for h in heard] == [str(n % 20) for n in range(30)]
    assert min(times) < 1.0


def test_a_direct_current_does_not_matter(tmp_path):
    sound, _ = spoken("90")
    clips = {label: clip + 1500 for label, clip in CLIPS.items()}
    heard = hear(save(tmp_path / "x.wav", sound + 900), {k: c[80:-80] for k, c in clips.items()})
    assert labels(heard) == "90"
    assert all(0.95 < h.score <= 1.001 for h in heard)


def test_first_sound_and_duration(tmp_path):
    sound = np.concatenate([np.zeros(12000), voice(1, 0.5)])
    path = save(tmp_path / "x.wav", sound)
    assert first_sound(path) == pytest.approx(1.5, abs=0.02)
    assert duration(path) == pytest.approx(2.0)
    assert first_sound(save(tmp_path / "silent.wav", np.zeros(8000))) is None


def test_what_is_no_telephone_audio_is_refused(tmp_path):
    with pytest.raises(LabError, match="8 kHz"):
        hear(save(tmp_path / "x.wav", np.zeros(16000), rate=16000), CLIPS)
    with pytest.raises(LabError, match="no recording"):
        hear(tmp_path / "absent.wav", CLIPS)
    with pytest.raises(LabError, match="'0' is silent"):
        hear(save(tmp_path / "y.wav", np.zeros(8000)), {"0": np.zeros(4000)})
