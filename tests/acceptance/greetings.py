"""Who answers a phone, as sound: twenty persons and twenty machines, made with espeak-ng.

They differ in language, voice, speed, loudness, pauses and noise on the line. What it never does: know how
Asterisk tells the two apart.
"""

from __future__ import annotations

import re
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.ear.dtw import RATE
from tests.ear.voices import say

_QUIET = 0.004
"""Of the loudest sample: what lies below at the ends of a clip is cut away."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one phone says. `text` is words, and pauses in seconds: `[0.5] Hello? [1.2]`.

    `level` is the loudness of the words in dB below full scale (root mean square, pauses left out);
    `noise` is that of the line's noise, in sample values (root mean square of 32768). A `click` is the
    handset that is picked up. A machine's greeting is followed by a tone of `beep` (Hz, seconds).
    """

    name: str
    text: str
    voice: str = "en-us"
    speed: int = 150
    level: float = -24.0
    noise: float = 8.0
    click: bool = False
    beep: tuple[float, float] = (1000.0, 0.5)


PERSONS = (
    Line("hello", "[0.4] Hello?"),
    Line("hello, a woman", "[0.6] Hello?", "en-us+f3", 140),
    Line("hello, slowly", "[0.3] Hello.", "en-gb", 100),
    Line("hello, loud", "[0.8] Hello?", "en-gb-scotland", 130, -16.0),
    Line("hello, far away", "[0.4] Hello?", "en-us+f1", 140, -32.0),
    Line("hi", "[0.2] Hi.", "en-us+f2"),
    Line("yes, hello", "[0.5] Yes, hello?", "en-gb-x-rp"),
    Line("a first name", "[0.4] Hello, Jack speaking.", "en-us+m7", 170),
    Line("a full sentence", "[0.4] Hello, this is Anna.", "en-us+f3", 130),
    Line("a surname", "[0.5] Hallo, Meier?", "de+m2", 140),
    Line("wei", "[0.4] wei2?", "cmn-latn-pinyin", 120),
    Line("wei, ni hao", "[0.4] wei2, ni3 hao3", "cmn-latn-pinyin+m3", 140),
    Line("wei, nin hao, na wei", "[0.4] wei2, nin2 hao3, na3 wei4?", "cmn-latn-pinyin+f3", 160),
    Line("bueno", "[0.5] ¿Bueno?", "es-419", 130),
    Line("diga", "[0.6] ¿Sí, diga?", "es+f3"),
    Line("silence, then hello", "[2.2] Hello?", "en-us+m3", 140),
    Line("silence, then wei", "[1.6] wei2?", "cmn-latn-pinyin+m1", 110),
    Line("a click, then hello", "[0.9] Hello?", "en-us+m5", click=True),
    Line("hello in a noisy place", "[0.6] Hello?", "en-us+f4", level=-22.0, noise=150.0),
    Line("nothing at all", "[4.0]", noise=20.0),
)

MACHINES = (
    Line("a short one", "[0.3] Hi, this is Jack. Please leave a message.", "en-us+m7", 160),
    Line(
        "a woman",
        "[0.5] Hello. You have reached Anna Miller. I can't take your call right now. [0.4] "
        "Please leave a message after the beep.",
        "en-us+f3",
        beep=(440.0, 0.4),
    ),
    Line(
        "a slow one",
        "[0.8] This is the voice mail of John Smith. [0.7] Please leave a message after the tone. [0.8]",
        "en-gb",
        120,
    ),
    Line(
        "a long one",
        "[0.4] Thank you for calling. We are sorry that nobody can come to the phone at this moment. [0.5] "
        "If you leave your name, your number and the time of your call, we will call you back as soon as we "
        "can. [0.6]",
        "en-us+f2",
        180,
        beep=(1400.0, 0.3),
    ),
    Line(
        "a carrier's",
        "[0.2] The person you have called is not available. [0.3] At the tone, please record your message. "
        "[0.3] When you have finished recording, you may hang up. [1.2]",
        speed=145,
    ),
    Line(
        "hi, then a pause",
        "[0.5] Hi, it's Tom, [0.5] I'm not here. You know what to do. [1.0]",
        "en-us+m3",
        160,
        beep=(850.0, 0.6),
    ),
    Line(
        "a fast one",
        "[0.3] Hey, can't talk now, leave me a message and I'll call you back, bye.",
        "en-us+m5",
        210,
        beep=(1000.0, 0.2),
    ),
    Line(
        "a quiet one",
        "[0.6] You have reached the mailbox of Susan Clark. [0.4] Please leave a message. [0.4]",
        "en-gb+f4",
        140,
        -31.0,
    ),
    Line(
        "a loud one",
        "[0.2] No one is available to take your call. [0.5] Please leave a message after the tone. [0.5]",
        "en-us+m1",
        level=-16.0,
        beep=(1000.0, 1.0),
    ),
    Line(
        "a late one",
        "[1.8] You have reached an answering machine. [0.4] Please leave a message. [0.6]",
        "en-gb-x-rp",
    ),
    Line(
        "a noisy one",
        "[0.5] We are closed at this time. [0.4] Please leave a message after the tone. [0.7]",
        "en-us+m4",
        level=-22.0,
        noise=120.0,
    ),
    Line(
        "a number",
        "[0.4] You have reached 5 5 5, 0 1 4 2. [0.6] Please leave a message. [0.3]",
        "en-us+f1",
        beep=(2100.0, 0.4),
    ),
    Line(
        "long pauses",
        "[0.5] You have called the Browns. [1.1] We are out. [1.2] Please leave a message. [1.3]",
        "en-gb+m3",
        140,
    ),
    Line(
        "a carrier's in Chinese",
        "[0.4] nin2 hao3, nin2 bo1 da3 de5 yong4 hu4 zan4 shi2 wu2 fa3 jie1 ting1, qing3 zai4 di1 sheng1 "
        "hou4 liu2 yan2 [0.6]",
        "cmn-latn-pinyin+f2",
        140,
        beep=(1000.0, 0.3),
    ),
    Line(
        "a man in Chinese",
        "[0.6] wo3 shi4 zhang1 wei3, xian4 zai4 bu4 fang1 bian4 jie1 dian4 hua4. [0.5] qing3 liu2 yan2, "
        "xie4 xie5 [0.5]",
        "cmn-latn-pinyin+m3",
    ),
    Line(
        "a secretary in Chinese",
        "[0.3] ni3 hao3, wo3 shi4 dian4 hua4 mi4 shu1, ji1 zhu3 xian4 zai4 bu4 zai4, nin2 you3 shen2 me5 "
        "shi4 qing2 xu1 yao4 wo3 zhuan3 gao4 ma5? [0.8]",
        "cmn-latn-pinyin+f3",
        160,
    ),
    Line(
        "Spanish",
        "[0.5] Este es el buzón de voz de María García. [0.4] Deje su mensaje después de la señal. [0.6]",
        "es+f3",
        beep=(1000.0, 0.7),
    ),
    Line(
        "a carrier's in Spanish",
        "[0.3] El teléfono al que llama está apagado o fuera de cobertura. [0.5] Grabe su mensaje después "
        "de la señal. [0.9]",
        "es-419",
        145,
    ),
    Line(
        "German",
        "[0.4] Guten Tag, hier ist der Anrufbeantworter von Familie Schmidt. [0.5] Bitte sprechen Sie nach "
        "dem Signalton. [0.4]",
        "de+f2",
        140,
        beep=(950.0, 0.5),
    ),
    Line(
        "French",
        "[0.4] Bonjour, vous êtes bien sur le répondeur de Claire. [0.4] Laissez-moi un message après le "
        "bip. [0.5]",
        "fr-fr+f3",
        beep=(600.0, 0.4),
    ),
)


def sound_of(line: Line) -> NDArray[np.float64]:
    """All that is said, up to the tone, in sample values."""
    chance = np.random.default_rng(sum(line.name.encode()))
    parts = [part.strip() for part in re.split(r"(\[[0-9.]+\])", line.text)]
    sound = np.concatenate([_part(part, line) for part in parts if part])
    if line.click:
        begin, length = round(0.15 * RATE), RATE // 40
        sound[begin : begin + length] += chance.normal(0.0, 2500.0, length)
    return np.asarray(sound + chance.normal(0.0, line.noise, len(sound)))


def beep_of(line: Line) -> NDArray[np.float64]:
    """The tone, in sample values."""
    hertz, seconds = line.beep
    return np.asarray(10_000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE))


def write(path: Path, sound: NDArray[np.float64]) -> Path:
    """Write a WAV that Asterisk plays."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.clip(np.round(sound), -32768, 32767).astype("<i2").tobytes())
    return path


def _part(part: str, line: Line) -> NDArray[np.float64]:
    """A pause, or words without the silence at their ends."""
    if part.startswith("["):
        return np.zeros(round(float(part.strip("[]")) * RATE))
    words = say(part, line.voice, line.speed)
    peak = np.abs(words).max()
    loud = np.flatnonzero(np.abs(words) > _QUIET * peak)
    words = words[loud[0] : loud[-1] + 1]
    active = words[np.abs(words) > 0.05 * peak]
    return np.asarray(words * (32768 * 10 ** (line.level / 20) / np.sqrt(np.mean(active**2))))
