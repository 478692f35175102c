"""Clips, and the folder where finished ones outlive the process.

A file's name is a hash of what made the clip, so several processes share a folder without talking:
each writes under a name of its own and renames it into place; a file that is short or damaged is
seen by its digest and made anew. What it never does: hold a secret, or anything that only one
call could have said (a code is joined from the clips of all ten digits, which are read together).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from telephony.speech import g711

SOUND_VERSION: Final = 1
"""To be raised whenever the same text would sound otherwise: part of every key."""

_MAGIC: Final = b"TSCLIP1\n"
_HEAD: Final = struct.Struct("<8sI32s")
_SUFFIX: Final = ".clip"
_UNFINISHED: Final = ".part"
_ABANDONED_SECONDS: Final = 3600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Clip:
    """A finished sound at 8 kHz in both laws, one octet a sample, equally long."""

    ulaw: bytes = field(repr=False)
    alaw: bytes = field(repr=False)

    @property
    def samples(self) -> int:
        """Length in samples."""
        return len(self.ulaw)

    @classmethod
    def of(cls, samples: array[int]) -> Clip:
        """Encode 16-bit samples at 8 kHz."""
        return cls(g711.to_ulaw(samples), g711.to_alaw(samples))

    @classmethod
    def silence(cls, samples: int) -> Clip:
        """Nothing, for so many samples."""
        return cls(g711.ULAW_SILENCE * samples, g711.ALAW_SILENCE * samples)


def clip_key(*made_of: str) -> str:
    """The name of a clip by everything that shapes its sound; the parts can't run into one another."""
    digest = hashlib.sha256()
    for part in (str(SOUND_VERSION), *made_of):
        octets = part.encode()
        digest.update(len(octets).to_bytes(8, "big") + octets)
    return digest.hexdigest()


class ClipCache:
    """A folder of clips, at most `limit_bytes` in all; what was used longest ago goes first.

    Pinned clips are never evicted by this process. Every method blocks on the disk: call it from a
    worker thread. None raises: a folder that can't be used costs time, not speech, and is logged.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._pinned: set[str] = set()

    def pin(self, keys: Iterable[str]) -> None:
        """Keep these for as long as the process lives."""
        self._pinned.update(keys)

    def load(self, key: str) -> Clip | None:
        """The clip, or None where there is no sound file of that name."""
        path = self._path(key)
        try:
            octets = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("speech.cache_unreadable", folder=str(self._folder), error=error.strerror)
            return None
        clip = _unpack(octets)
        try:
            if clip is None:
                log.warning("speech.cache_damaged", file=path.name)
                path.unlink(missing_ok=True)
            else:
                os.utime(path)
        except OSError:
            # Another process evicted it in between, or the folder is read-only: the clip is good.
            return clip
        return clip

    def store(self, key: str, clip: Clip) -> None:
        """Write the clip, then evict down to the limit."""
        body = clip.ulaw + clip.alaw
        head = _HEAD.pack(_MAGIC, clip.samples, hashlib.sha256(body).digest())
        unfinished = self._folder / f"{key}.{secrets.token_hex(8)}{_UNFINISHED}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(head + body)
                # No fsync: a file that a power cut leaves short is seen by its digest.
                unfinished.replace(self._path(key))
            finally:
                unfinished.unlink(missing_ok=True)
            self._evict(just_written=key)
        except OSError as error:
            log.warning("speech.cache_unwritable", folder=str(self._folder), error=error.strerror)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _evict(self, just_written: str) -> None:
        kept = self._pinned | {just_written}
        total = 0
        loose: list[tuple[int, int, Path]] = []
        now = time.time()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                path = Path(entry.path)
                if path.suffix == _UNFINISHED and now - facts.st_mtime > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
                elif path.suffix == _SUFFIX:
                    total += facts.st_size
                    if path.stem not in kept:
                        loose.append((facts.st_mtime_ns, facts.st_size, path))
        for _, size, path in sorted(loose):
            if total <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size
        if total > self._limit:
            log.warning("speech.cache_limit_too_small", limit_bytes=self._limit, needed_bytes=total)


def _unpack(octets: bytes) -> Clip | None:
    """The clip of a cache file, None when it is not whole."""
    if len(octets) < _HEAD.size:
        return None
    magic, samples, digest = _HEAD.unpack_from(octets)
    body = octets[_HEAD.size :]
    if magic != _MAGIC or len(body) != 2 * samples or hashlib.sha256(body).digest() != digest:
        return None
    return Clip(body[:samples], body[samples:])
