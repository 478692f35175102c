"""espeak-ng as a subprocess: what it gives, and how it fails."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from telephony.errors import EngineError
from telephony.speech.engine import EspeakNg


def script(folder: Path, body: str) -> str:
    path = folder / "engine"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_it_speaks() -> None:
    pcm = await EspeakNg().synthesize("您的验证码是", "cmn-latn-pinyin", 150)
    assert pcm.rate == 22050
    assert 0.5 < pcm.seconds < 4


def test_its_fingerprint_is_its_version() -> None:
    name, version = EspeakNg().fingerprint.split(" ", 1)
    assert name == "espeak-ng"
    assert version[0].isdigit()


async def test_not_installed_says_how_to_install_it() -> None:
    engine = EspeakNg("/nonexistent/espeak-ng")
    with pytest.raises(EngineError, match="apt install espeak-ng"):
        await engine.synthesize("hello", "en-us", 150)
    with pytest.raises(EngineError, match="apt install espeak-ng"):
        _ = engine.fingerprint


@pytest.mark.parametrize("voice", ["zzz", "", "-q", "en\n"])
async def test_an_unknown_voice_is_named_and_the_text_is_not(voice: str) -> None:
    with pytest.raises(EngineError) as caught:
        await EspeakNg().synthesize("Confidential Ltd", voice, 150)
    assert repr(voice) in str(caught.value)
    assert "Confidential" not in str(caught.value)


async def test_the_text_goes_by_stdin_and_can_neither_be_an_option_nor_phonemes(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    engine = EspeakNg(script(tmp_path, f'echo "$@" > {seen}.args; cat > {seen}.text; exit 1'))
    with pytest.raises(EngineError):
        await engine.synthesize("--version [[h@l'oU]]", "en-us", 150)
    assert "version" not in Path(f"{seen}.args").read_text()
    assert Path(f"{seen}.text").read_text() == "--version [ [h@l'oU]]"


async def test_a_synthesiser_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    engine = EspeakNg(script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60"), deadline=0.3)
    with pytest.raises(EngineError, match=r"longer than 0\.3 s"):
        await engine.synthesize("hello", "en-us", 150)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_cancelled_wait_leaves_no_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    engine = EspeakNg(script(tmp_path, f"echo $$ > {tmp_path}/ready; exec sleep 60"))
    waiting = asyncio.create_task(engine.synthesize("hello", "en-us", 150))
    pid = int(await asyncio.to_thread((tmp_path / "ready").read_text))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_no_more_run_at_a_time_than_allowed(tmp_path: Path) -> None:
    # Each run notes how many folders stand while it runs, then takes its own away.
    mine = f"{tmp_path}/run.$$"
    body = f"mkdir {mine}; ls -d {tmp_path}/run.* | wc -l >> {tmp_path}/counts; rmdir {mine}"
    engine = EspeakNg(script(tmp_path, body), concurrency=2)
    runs = (engine.synthesize("hello", "en-us", 150) for _ in range(12))
    failures = await asyncio.gather(*runs, return_exceptions=True)
    assert all(isinstance(failure, EngineError) for failure in failures)
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert len(counts) == 12
    assert max(counts) <= 2


async def test_silence_from_the_synthesiser_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="gave no sound"):
        await EspeakNg(script(tmp_path, "exit 0")).synthesize("hello", "en-us", 150)
