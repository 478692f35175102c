"""Sounds: those that every call of a tree says alike (`Wardrobe`), and those of one call (`Sounds`).

The first are made when trees are taken and stay while a call may need them; the others are made before they
are needed where that can be known, and erased with the call. What it never does: keep a sound with a
call's values beyond that call.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from telephony.errors import TelephonyError
from telephony.ivr.ports import Voice
from telephony.ivr.saying import holes_of, parse_template, pieces_of, render
from telephony.ivr.tree import RecordingPiece, Saying, Tree
from telephony.model.media import Media
from telephony.model.prompt import Phrase, Prompt, Silence, Text

Key: TypeAlias = tuple[Prompt, str]

MAX_SOUNDS: Final = 24
"""Sounds of one call that lie ready at a time."""

PHRASES: Final = ("ivr.invalid", "ivr.unavailable", "common.goodbye", "common.apology")
"""What is said beside the tree's own words."""

SILENCE: Final = Prompt((Silence(5.0),))
"""What is played over and over while something is waited for."""

_AT_ONCE: Final = 4

log = structlog.get_logger(__name__)


class Sounds:
    """Sounds by what they say. `ready` were made before the call; whoever made them erases them."""

    def __init__(self, voice: Voice, ready: Mapping[Key, Media] | None = None) -> None:
        self._voice = voice
        self._ready = ready or {}
        self._made: OrderedDict[Key, asyncio.Task[Media]] = OrderedDict()

    def ready(self, prompt: Prompt, locale: str) -> Media | None:
        """The sound of a prompt that was made before the call."""
        return self._ready.get((prompt, locale))

    def foresee(self, prompt: Prompt, locale: str) -> None:
        """Begin to make what will soon be said."""
        key = (prompt, locale)
        if not prompt.parts or key in self._ready or key in self._made or len(self._made) >= MAX_SOUNDS:
            return
        self._begin(key)

    async def get(self, prompt: Prompt, locale: str) -> Media:
        """The sound of a prompt. Raises `SpeechError` or `InputError`."""
        key = (prompt, locale)
        if (media := self._ready.get(key)) is not None:
            return media
        task = self._made.get(key)
        if task is None:
            while len(self._made) >= MAX_SOUNDS:
                await self._drop(next(iter(self._made)))
            task = self._begin(key)
        self._made.move_to_end(key)
        try:
            return await asyncio.shield(task)
        except TelephonyError:
            del self._made[key]
            raise

    async def close(self) -> None:
        """End what is being made, and erase everything."""
        while self._made:
            await self._drop(next(iter(self._made)))

    def _begin(self, key: Key) -> asyncio.Task[Media]:
        task = asyncio.create_task(self._voice.compose(*key), name="ivr-sound")
        self._made[key] = task
        return task

    async def _drop(self, key: Key) -> None:
        task = self._made.pop(key)
        task.cancel()
        (made,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(made, Media):
            self._voice.discard(made)


def static_prompts(tree: Tree) -> tuple[Key, ...]:
    """What a tree says whatever the caller does: whole prompts, and the fixed texts around values."""
    found: dict[Key, None] = {}
    for node in tree.nodes.values():
        for name in ("prompt", "short", "invalid"):
            prompt = getattr(node, name, None)
            if prompt is None:
                continue
            sayings = tree.prompts.get(prompt, {}) if isinstance(prompt, str) else prompt
            for locale, saying in sayings.items():
                found |= dict.fromkeys((one, locale) for one in _static(saying, locale, tree))
    return tuple(key for key in found if key[0].parts)


def _static(saying: Saying, locale: str, tree: Tree) -> Iterator[Prompt]:
    known = {"brand": tree.voice.brand}
    if all(hole.name in known for hole in holes_of(saying)):
        yield render(saying, known, locale)
        return
    for piece in pieces_of(saying):
        if isinstance(piece, str):
            for segment in parse_template(piece):
                text = segment if isinstance(segment, str) else known.get(segment.name, "")
                if any(letter.isalnum() for letter in text):
                    yield Prompt((Text(text),))
        elif isinstance(piece, RecordingPiece):
            yield render((piece,), {}, locale)


@dataclass(slots=True)
class _Set:
    """The sounds of one edition, and how many calls say them."""

    sounds: dict[Key, Media] = field(default_factory=dict)
    users: int = 0


class Wardrobe:
    """What the trees of an edition say whatever the caller does, made once for all its calls."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._sets: dict[int, _Set] = {}
        self._newest = 0

    async def make(self, number: int, trees: Iterable[Tree]) -> None:
        """Make the sounds of the edition of this number. Raises `SpeechError`, `ConfigError`, …"""
        made = _Set()
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(key: Key) -> None:
            async with gate:
                made.sounds[key] = await self._voice.compose(*key)

        keys = dict.fromkeys(key for tree in trees for key in (*static_prompts(tree), *_phrases(tree)))
        try:
            async with asyncio.TaskGroup() as group:
                for key in keys:
                    group.create_task(one(key))
        except BaseException as error:
            self._erase(made)
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise
        self._sets[number], self._newest = made, number
        self._tidy()
        log.info("ivr.sounds_made", edition=number, sounds=len(keys))

    @contextmanager
    def lent(self, number: int) -> Iterator[Mapping[Key, Media]]:
        """The sounds of an edition, which stay while they are lent; none where they are gone."""
        wanted = self._sets.get(number, _Set())
        wanted.users += 1
        try:
            yield wanted.sounds
        finally:
            wanted.users -= 1
            self._tidy()

    def _tidy(self) -> None:
        for number, one in tuple(self._sets.items()):
            if number != self._newest and not one.users:
                self._erase(self._sets.pop(number))

    def _erase(self, one: _Set) -> None:
        for media in one.sounds.values():
            self._voice.discard(media)


def _phrases(tree: Tree) -> Iterator[Key]:
    for key in PHRASES:
        for locale in tree.languages:
            yield Prompt((Phrase(key),)), locale
    for locale in tree.languages:
        yield SILENCE, locale
