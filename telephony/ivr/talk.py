"""Mouth and ears of a tree: saying prompts and taking keys on a `CallSession`, typed ahead or not.

A key pressed while something is said, or waited for, counts in the next question. Every wait is bounded
twice: by its own deadline, and in the PBX by `guard`, step by step, should we freeze. What it never does:
know a node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, TypeVar

from telephony.ivr.journal import MASK, Journal
from telephony.ivr.sounds import SILENCE, Sounds
from telephony.model.media import Media
from telephony.model.prompt import Prompt
from telephony.pbx.port import CallSession

ALL_KEYS: Final = "0123456789*#"

SIGN_OF_LIFE: Final = 1.0
"""Seconds between two signs to the PBX that we are alive while a sound is being made."""

MAX_AHEAD: Final = 32
"""Keys typed ahead that are remembered."""

MAX_CLEARINGS: Final = 5
"""How often `*` may clear what was typed before it counts as an answer."""

Answer = TypeVar("Answer")


class Talk:
    """One conversation."""

    def __init__(self, session: CallSession, sounds: Sounds, journal: Journal) -> None:
        self.session = session
        self._sounds = sounds
        self._journal = journal
        self._ahead = ""
        self._answered = False

    async def answer(self) -> None:
        """Answer, unless that was done."""
        if not self._answered:
            self._answered = True
            await self.session.answer()

    def forget_ahead(self) -> None:
        """Keys that were typed before something went wrong meant something else."""
        self._ahead = ""

    async def allow(self, seconds: float) -> None:
        """Let the PBX keep the call for a step that takes so long."""
        await self.session.guard(seconds)

    async def wait(self, what: asyncio.Task[Answer], locale: str) -> Answer:
        """Wait for something that ends by itself, in silence; keys pressed meanwhile count afterwards."""
        silence = self._sounds.ready(SILENCE, locale)
        if self._answered and silence is not None and not what.done():
            keys = await self.session.hold(silence, what)
            self._ahead = (self._ahead + keys)[:MAX_AHEAD]
        return await what

    async def say(self, prompt: Prompt, locale: str, *, barge_in: bool) -> None:
        """Say it; a prompt without words takes no time. Keys waiting already skip it where they may."""
        if not prompt.parts or (barge_in and self._ahead):
            return
        media = await self._begin(prompt, locale)
        await self.allow(media.seconds)
        key = await self.session.play(media, barge_in=ALL_KEYS if barge_in else "")
        if key:
            self._ahead = (self._ahead + key)[:MAX_AHEAD]

    async def ask_key(
        self,
        prompts: Sequence[tuple[Prompt, str]],
        choices: Collection[str],
        *,
        timeout: float,
        inter_digit_timeout: float,
    ) -> str:
        """Say the prompts and take one choice: what was pressed, right or wrong; empty for silence."""
        await self._say_until_key(prompts[:-1])
        pressed = self._take_ahead()
        if not pressed:
            prompt, locale = prompts[-1]
            media = await self._begin(prompt, locale) if prompt.parts else None
            pressed = await self._one_key(media, timeout)
        while pressed and any(choice != pressed and choice.startswith(pressed) for choice in choices):
            more = self._take_ahead() or await self._one_key(None, inter_digit_timeout)
            if not more:
                break
            pressed += more
        self._journal.heard(pressed)
        return pressed

    async def ask_digits(
        self,
        prompt: Prompt,
        locale: str,
        *,
        most: int,
        terminator: str,
        timeout: float,
        inter_digit_timeout: float,
        secret: bool,
    ) -> str:
        """Say the prompt and take digits up to `most` or the terminator; `*` clears. Empty: none came."""
        digits, done = self._digits_ahead(most, terminator)
        media, clearings = None, 0
        if not digits and not done and prompt.parts:
            media = await self._begin(prompt, locale)
        while not done:
            wait = inter_digit_timeout if digits else timeout
            gathered = await self.session.gather(
                media,
                max_digits=most - len(digits),
                timeout=wait,
                inter_digit_timeout=inter_digit_timeout,
                terminator=terminator,
                guarded=True,
            )
            media = None
            clearings += "*" in gathered.digits
            digits = (digits + gathered.digits).rpartition("*")[2]
            done = clearings > MAX_CLEARINGS or gathered.ended_by != "max_digits" or len(digits) >= most
        self._journal.heard(MASK if secret and digits else digits)
        return digits

    async def _say_until_key(self, prompts: Sequence[tuple[Prompt, str]]) -> None:
        for prompt, locale in prompts:
            await self.say(prompt, locale, barge_in=True)

    async def _begin(self, prompt: Prompt, locale: str) -> Media:
        media = await self._made(prompt, locale)
        await self.answer()
        self._journal.said(prompt, locale)
        return media

    async def _made(self, prompt: Prompt, locale: str) -> Media:
        """A sound; one that takes long is no reason for the PBX to give us up."""
        ready = self._sounds.ready(prompt, locale)
        if ready is not None:
            return ready
        making = asyncio.ensure_future(self._sounds.get(prompt, locale))
        try:
            while not (await asyncio.wait({making}, timeout=SIGN_OF_LIFE))[0]:
                await self.allow(SIGN_OF_LIFE)
            return making.result()
        finally:
            making.cancel()

    async def _one_key(self, media: Media | None, timeout: float) -> str:
        await self.answer()
        gathered = await self.session.gather(
            media, max_digits=1, timeout=timeout, terminator="", guarded=True
        )
        return gathered.digits

    def _take_ahead(self) -> str:
        key, self._ahead = self._ahead[:1], self._ahead[1:]
        return key

    def _digits_ahead(self, most: int, terminator: str) -> tuple[str, bool]:
        """What was typed ahead of a question for digits, and whether that is all of it."""
        digits = ""
        while key := self._take_ahead():
            if terminator and key == terminator:
                return digits, True
            digits = "" if key == "*" else digits + key
            if len(digits) >= most:
                return digits, True
        return digits, False
