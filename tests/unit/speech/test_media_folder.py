"""The media folder belongs to one process, and what a killed one left there goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from telephony.errors import ConfigError
from telephony.resources import data_dir
from telephony.speech.engine import EspeakNg
from telephony.speech.packs import Packs
from telephony.speech.studio import Studio


def studio(folder: Path) -> Studio:
    return Studio(
        Packs.load(data_dir("audio")),
        EspeakNg(),
        cache_dir=folder / "cache",
        media_dir=folder / "media",
        pbx_media_dir=None,
        recordings_dir=None,
        cache_limit_bytes=10_000_000,
    )


async def test_a_folder_is_claimed_once_and_swept(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir(mode=0o750)
    left = media / f"{'a' * 32}.ulaw"
    left.write_bytes(b"a code")
    foreign = media / "README"
    foreign.write_text("mine")
    first, second = studio(tmp_path), studio(tmp_path)
    first.claim()
    assert not left.exists()
    assert foreign.exists()
    with pytest.raises(ConfigError, match=r"speech\.media_dir"):
        second.claim()
    await first.close()
    second.claim()
    await second.close()
