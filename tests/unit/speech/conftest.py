"""What the tests of the speech room share: packs, a quick synthesiser, and studios that end."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from telephony.resources import data_dir
from telephony.speech.engine import Engine, EspeakNg
from telephony.speech.packs import Packs
from telephony.speech.studio import Studio
from tests.unit.speech.sounds import ToneEngine

MakeStudio = Callable[..., Studio]


@pytest.fixture(scope="session")
def packs() -> Packs:
    """The language packs that are shipped."""
    return Packs.load(data_dir("audio"))


@pytest.fixture
def engine() -> ToneEngine:
    """A synthesiser that is quick and remembers what it was asked to say."""
    return ToneEngine()


@pytest.fixture
async def make_studio(tmp_path: Path, packs: Packs, engine: ToneEngine) -> AsyncIterator[MakeStudio]:
    """Make studios over one cache and one media folder; each is closed at the end."""
    made: list[Studio] = []

    def make(
        *,
        engine: Engine = engine,
        packs: Packs = packs,
        recordings_dir: Path | None = None,
        pbx_media_dir: str | None = None,
        media_dir: Path = tmp_path / "media",
        cache_dir: Path = tmp_path / "cache",
    ) -> Studio:
        studio = Studio(
            packs,
            engine,
            cache_dir=cache_dir,
            media_dir=media_dir,
            pbx_media_dir=pbx_media_dir,
            recordings_dir=recordings_dir,
            cache_limit_bytes=50_000_000,
        )
        made.append(studio)
        return studio

    yield make
    for studio in made:
        await studio.close()


@pytest.fixture(scope="session")
def espeak_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for all tests that listen to espeak-ng, so that each clip is rendered once."""
    folder = tmp_path_factory.mktemp("clips")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def espeak_studio(make_studio: MakeStudio, espeak_cache: Path) -> Studio:
    """A studio that really speaks."""
    if shutil.which("espeak-ng") is None:
        pytest.fail("espeak-ng is not installed: apt install espeak-ng")
    return make_studio(engine=EspeakNg(), cache_dir=espeak_cache)
