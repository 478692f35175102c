"""A studio for one command: what it renders lies in a folder that goes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from telephony.speech.packs import Packs
    from telephony.speech.studio import Studio

CACHE_BYTES: Final = 512 * 1024 * 1024


@asynccontextmanager
async def scratch_studio(packs: Packs, recordings: Path | None = None) -> AsyncIterator[Studio]:
    """A studio of these languages; `recordings` win over what is synthesised."""
    from telephony.speech.engine import EspeakNg
    from telephony.speech.studio import Studio

    with TemporaryDirectory(prefix="telephony-") as scratch:
        studio = Studio(
            packs,
            EspeakNg(),
            cache_dir=Path(scratch) / "cache",
            media_dir=Path(scratch) / "media",
            pbx_media_dir=None,
            recordings_dir=recordings,
            cache_limit_bytes=CACHE_BYTES,
        )
        try:
            yield studio
        finally:
            await studio.close()
