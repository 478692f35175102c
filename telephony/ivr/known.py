"""What the lint is told of this machine: the languages that are spoken, and the recordings there are."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from telephony.egress.guard import Guard
from telephony.errors import UnknownLocale
from telephony.ivr.lint import Rules
from telephony.speech.packs import Packs


def rules_here(packs: Packs, recordings: Path | None, guard: Guard, served: Collection[str] = ()) -> Rules:
    """The lint's rules for this machine. Raises `OSError` for a folder of recordings that can't be read."""

    def speaks(tag: str) -> bool:
        try:
            packs.locale(tag)
        except UnknownLocale:
            return False
        return True

    names: dict[str, set[str]] | None = None
    if recordings is not None:
        names = {
            folder.name: {sound.stem for sound in folder.glob("*.wav")}
            for folder in recordings.iterdir()
            if folder.is_dir()
        }
    return Rules(speaks=speaks, recordings=names, guard=guard, served=served)
