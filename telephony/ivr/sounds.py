"""The sounds of one call: made before they are needed where that can be known, erased with the call.

`warm` renders at load what a tree says whatever the caller does, so that a call only joins clips that are
there. What it never does: keep a sound beyond its call.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import structlog

from telephony.errors import TelephonyError
from telephony.ivr.ports import Voice
from telephony.ivr.saying import holes_of, parse_template, pieces_of, render
from telephony.ivr.tree import RecordingPiece, Saying, Tree
from telephony.model.media import Media
from telephony.model.prompt import Prompt, Text

Key: TypeAlias = tuple[Prompt, str]

MAX_SOUNDS: Final = 24
"""Sounds of one call that lie ready at a time."""

_AT_ONCE: Final = 4

log = structlog.get_logger(__name__)


class Sounds:
    """Sounds by what they say. `ready` were made before the call; whoever made them erases them."""

    def __init__(self, voice: Voice, ready: Mapping[Key, Media] | None = None) -> None:
        self._voice = voice
        self._ready = dict(ready or {})
        self._made: OrderedDict[Key, asyncio.Task[Media]] = OrderedDict()

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


async def warm(voice: Voice, trees: Iterable[Tree]) -> None:
    """Render what trees say once, so that its clips are there. Raises `SpeechError`, `ConfigError`, …"""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(prompt: Prompt, locale: str) -> None:
        async with gate:
            voice.discard(await voice.compose(prompt, locale))

    keys = dict.fromkeys(key for tree in trees for key in static_prompts(tree))
    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(one(*key))
    log.info("ivr.warmed", prompts=len(keys))
