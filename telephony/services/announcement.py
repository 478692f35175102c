"""The flow `announcement`: says a text, and asks for a key that tells that it was heard where one is wanted.

    * again   the `ack_key` acknowledges it

An answering machine that was asked for (`machine_detection`) hears nothing, or the text once after its tone.
What it never does: say a text once its call was cancelled or its time is over, or go on talking to a
phone that was put down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from telephony.calls.flow import Outcome, Prepared
from telephony.calls.policy import NO_INPUT
from telephony.errors import CallEnded, InputError, StoreError
from telephony.model.call import CallStatus
from telephony.model.media import Media
from telephony.model.prompt import Part, Phrase, Prompt, Silence, Text
from telephony.pbx.port import CallSession
from telephony.services.admission import LEAVE_MESSAGE, MACHINE_VARIABLE, Voice
from telephony.services.talk import (
    FROZEN_MARGIN,
    GREETING_LIMIT,
    LEAD_IN,
    MAX_REPEATS,
    MESSAGE_LEFT,
    MET_MACHINE,
    TAIL,
)
from telephony.store import RequestRecord, Store, UnitOfWork

log = structlog.get_logger(__name__)

FLOW_NAME: Final = "announcement"
MAX_TEXT: Final = 500
"""Characters: about half a minute of speech."""

PLAY_TIMES: Final = range(1, 4)
USUAL_PLAY_TIMES: Final = 2
STAR: Final = "*"
PAUSE: Final = 2.0
"""Seconds between two sayings."""

STAR_WAIT: Final = 4.0
"""Seconds that the last saying waits for a `*`."""

KEY_WAIT: Final = 5.0
"""Seconds that each saying waits for the key that is asked for."""

_VARIABLES: Final = ("text", "play_times", "ack_key")


class AnnouncementFlow:
    """The flow. `clock` gives milliseconds since the epoch."""

    name = FLOW_NAME

    def __init__(
        self,
        store: Store,
        voice: Voice,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._voice = voice
        self._clock = clock

    def check(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take `text`, `play_times` (1 to 3) and `ack_key` (a digit); raises `InputError`."""
        for name in variables:
            if name not in _VARIABLES:
                raise InputError(f"variables.{name[:64]}", "is not known", f"Known: {', '.join(_VARIABLES)}")
        checked: dict[str, Any] = {
            "text": _text(variables.get("text")),
            "play_times": _play_times(variables.get("play_times", USUAL_PLAY_TIMES)),
        }
        if variables.get("ack_key") is not None:
            checked["ack_key"] = _ack_key(variables["ack_key"])
        return checked

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        """Compose the message, and the thanks for a key where one is asked for."""
        locale, ack_key = request.locale or "", _key_of(request)
        message = await self._voice.compose(_message(request.variables["text"], ack_key), locale)
        media = [message]
        if ack_key:
            media.append(await self._voice.compose(_THANKS, locale))
        longest = (request.variables["play_times"] + MAX_REPEATS) * _time_to_say(message)
        longest += sum(_time_to_say(thanks) for thanks in media[1:])
        listen = MACHINE_VARIABLE in request.variables
        if listen:
            longest += GREETING_LIMIT
        return Prepared(tuple(media), longest, _time_to_say(message), detect_machines=listen)

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        """Say it `play_times` times, or until the key that is asked for is pressed; `*` says it again."""
        message, *thanks = prepared.media
        if session.machine:
            return await self._meet_machine(session, request, message)
        ack_key = _key_of(request)
        left, repeats, keys, heard = request.variables["play_times"], 0, "", False
        try:
            while left > 0:
                ending = await self._not_to_be_said(request)
                if ending:
                    return Outcome(CallStatus.COMPLETED, ending, keys)
                if heard or keys:
                    await session.extend(_time_to_say(message))
                key = await session.play(message, barge_in=STAR + ack_key)
                if key is None:
                    heard = True
                    wait = KEY_WAIT if ack_key else PAUSE if left > 1 else STAR_WAIT
                    gathered = await session.gather(None, max_digits=1, timeout=wait, terminator="")
                    key = gathered.digits
                keys += key
                if ack_key and key == ack_key:
                    await _thank(session, thanks)
                    return Outcome(CallStatus.COMPLETED, "acknowledged", keys)
                if key == STAR and repeats < MAX_REPEATS:
                    repeats += 1
                else:
                    left -= 1
        except CallEnded as ended:
            if not ended.hung_up:
                raise
            early = self.cut_short(request)
            return replace(early, keys=keys) if ack_key or not heard else _heard(keys)
        if ack_key:
            return Outcome(CallStatus.COMPLETED, "no_input", keys, retry_as=NO_INPUT)
        return _heard(keys)

    async def _meet_machine(self, session: CallSession, request: RequestRecord, message: Media) -> Outcome:
        """Leave the text after the tone where that is wanted; a key that is asked for is still to come."""
        left = False
        if request.variables.get(MACHINE_VARIABLE) == LEAVE_MESSAGE:
            with suppress(CallEnded):
                await session.extend(GREETING_LIMIT + FROZEN_MARGIN)
                if await session.hear_out(GREETING_LIMIT) and not await self._not_to_be_said(request):
                    await session.extend(_time_to_say(message))
                    await session.play(message)
                    left = True
        if left and not _key_of(request):
            return Outcome(CallStatus.COMPLETED, MESSAGE_LEFT)
        return Outcome(CallStatus.COMPLETED, MESSAGE_LEFT if left else MET_MACHINE, retry_as=NO_INPUT)

    def cut_short(self, request: RequestRecord) -> Outcome:
        """Put down before the end: where a key was asked for, none came."""
        retry_as = NO_INPUT if _key_of(request) else ""
        return Outcome(CallStatus.COMPLETED, "hung_up_early", retry_as=retry_as)

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        """Nothing follows from it."""

    async def _not_to_be_said(self, request: RequestRecord) -> str:
        """Tell why nothing more is said; empty where it is. A store that can't be read stops nobody."""
        if request.expires_at is not None and self._clock() >= request.expires_at:
            return "expired"
        try:
            async with self._store.reading() as work:
                row = await work.requests.get(request.id)
        except StoreError as error:
            log.warning("announcement.unread", call=request.id, error=str(error))
            return ""
        return "canceled" if row is None or row.cancel_requested_at is not None else ""


async def _thank(session: CallSession, thanks: list[Media]) -> None:
    """Say the last words; whoever does not wait for them has acknowledged all the same."""
    with suppress(CallEnded):
        for media in thanks:
            await session.extend(_time_to_say(media))
            await session.play(media)


def _heard(keys: str) -> Outcome:
    return Outcome(CallStatus.COMPLETED, "heard", keys)


def _key_of(request: RequestRecord) -> str:
    key: str = request.variables.get("ack_key", "")
    return key


def _time_to_say(media: Media) -> float:
    """How long the PBX lets one saying stand, in seconds."""
    return media.seconds + KEY_WAIT + FROZEN_MARGIN


def _message(text: str, ack_key: str) -> Prompt:
    parts: list[Part] = [Silence(LEAD_IN), Text(text), Silence(0.8)]
    if ack_key:
        parts += [Phrase("announcement.acknowledge", (("key", ack_key),)), Silence(0.3)]
    return Prompt((*parts, Phrase("announcement.repeat_hint"), Silence(TAIL)))


_THANKS: Final = Prompt((Silence(LEAD_IN), Phrase("announcement.acknowledged"), Silence(TAIL)))


def _text(value: object) -> str:
    if value is None:
        raise InputError("variables.text", "is missing", "Send what is to be said")
    if not isinstance(value, str):
        raise InputError("variables.text", "is not a text", "Send a string, in quotes")
    if not any(map(str.isalnum, value)):
        raise InputError("variables.text", "holds nothing that can be said", "Send words")
    if len(value) > MAX_TEXT:
        raise InputError("variables.text", "is too long to be said", f"Send at most {MAX_TEXT} characters")
    return value


def _play_times(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in PLAY_TIMES:
        raise InputError("variables.play_times", "is out of range", "Send 1, 2 or 3, without quotes")
    return value


def _ack_key(value: object) -> str:
    """A digit, as a text or as a number; `*` says the message again, and `#` has a name per country."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if len(text) != 1 or text not in "0123456789":
        raise InputError("variables.ack_key", "is not a key that can be asked for", "Send one digit, 0 to 9")
    return text
