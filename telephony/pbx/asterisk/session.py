"""A conversation over AGI: the `CallSession` port in terms of AGI commands.

Source of the commands: "Asterisk AGI Commands", docs.asterisk.org. What it never does: put a secret
into a command's arguments (`agi set debug` and AMI show them), or catch `CallEnded`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final

from telephony.errors import PbxRejected
from telephony.model.media import Media
from telephony.net.fastagi import AgiChannel
from telephony.pbx.asterisk.guard import HOLD, MARGIN, Guard, Move
from telephony.pbx.port import Gathered, NotBefore
from telephony.wire.agi import AgiReply

COMMAND_SECONDS: Final = 5.0
"""How long a command that does not wait for the far end may take."""

GRACE_SECONDS: Final = 10.0
"""What a playing or waiting command gets on top of its own length: a loaded PBX starts late."""

ALL_KEYS: Final = "0123456789*#"

_PLAIN: Final = re.compile(r"[A-Za-z0-9 .:+@/_-]+")
"""What means nothing to Asterisk's parsers."""

_MOST_PAIRS: Final = 20
"""`MSet` takes 24."""

SAMPLES: Final = 8000
"""Samples a second of what is played and recorded, in which AGI counts."""

DONE_VARIABLE: Final = "TELEPHONY_DONE"
"""Set to 1 by the last command: without it the dialplan takes the local way out."""

LIMIT: Final = "TIMEOUT(absolute)"

IVR: Final = "ivr"
TREE_ARGUMENT: Final = "tree"
"""`agi://…/ivr/NAME` hands over the same as `agi://…/ivr?tree=NAME`."""

PATIENCE_ARGUMENT: Final = "TELEPHONY_PATIENCE"
"""For how many seconds the dialplan has limited the call before it came to us."""

LATE_SECONDS: Final = 1.0
"""So long ago the dialplan may have set its limit when we hear of the call: our event loop was late."""

BEEP_PAUSE_MS: Final = 2000
"""A silence of this length ends a machine's greeting and tone, where the dialplan names no other."""


class AgiSession:
    """One channel, from its AGI connection to the end of the conversation."""

    def __init__(self, channel: AgiChannel, move_limit: Move | None = None, *, linked: bool = False) -> None:
        """`move_limit` sets the channel's time limit beside the conversation, while a command runs.

        Where it works now (`linked`), the limit that the dialplan has set is enough to begin with.
        """
        self._channel = channel
        self._guard: Guard | None = None
        if move_limit is not None:
            held = _held(channel.query.get(PATIENCE_ARGUMENT, "")) if linked else 0.0
            self._guard = Guard(move_limit, self._set_limit, lambda: channel.heard_at, held=held)
        kind, _, tree = channel.script.partition("/")
        self._arguments = {**channel.query, TREE_ARGUMENT: tree} if kind == IVR and tree else channel.query
        self._over = asyncio.Event()
        self._handed_back: dict[str, str] = {}
        self.finished = False
        """Whether we have begun to end the conversation by ourselves."""

    @property
    def id(self) -> str:
        """The channel's unique id."""
        return self._channel.unique_id

    @property
    def caller(self) -> str:
        """The caller's number; empty where withheld."""
        number = self._channel.env.get("agi_callerid", "")
        return "" if number == "unknown" else number

    @property
    def called(self) -> str:
        """The dialled number, or the extension where the PBX knows no other."""
        number = self._channel.env.get("agi_dnid", "")
        return self._channel.env.get("agi_extension", "") if number in ("", "unknown") else number

    @property
    def arguments(self) -> Mapping[str, str]:
        """What the dialplan handed over in the query of the AGI address; `/ivr/NAME` is its `tree`."""
        return self._arguments

    @property
    def machine(self) -> bool:
        """What the dialplan's `AMD` found; `HUMAN`, `NOTSURE` and nothing are a person."""
        return self._channel.query.get("amdstatus") == "MACHINE"

    @property
    def hung_up(self) -> bool:
        """Whether the PBX told of a hangup on this connection."""
        return self._channel.hung_up

    async def over(self) -> None:
        """Wait until the conversation has been ended by `hangup` or `transfer`."""
        await self._over.wait()

    def end(self) -> None:
        """Let the AGI connection go, without a word to the dialplan."""
        self._over.set()

    async def _command(self, *words: str, seconds: float = COMMAND_SECONDS) -> AgiReply:
        """Send one command; -1 is a hangup when the next command finds the channel gone, else a "no"."""
        return await self._sound(await self._channel.command(*words, timeout=seconds), words[0])

    async def _sound(self, reply: AgiReply, command: str) -> AgiReply:
        if reply.result == "-1":
            await self._channel.command("NOOP", timeout=COMMAND_SECONDS)
            raise PbxRejected(f"Asterisk could not carry out {command}")
        return reply

    async def answer(self) -> None:
        """AGI `ANSWER`."""
        await self._command("ANSWER")

    async def play(self, media: Media, *, barge_in: str = "") -> str | None:
        """AGI `STREAM FILE`; raises `PbxRejected` when Asterisk cannot open the file."""
        key, _heard = await self._stream(media, barge_in)
        return key

    async def _stream(self, media: Media, keys: str, *, start: float = 0.0) -> tuple[str | None, float]:
        """Play from `start` seconds on; returns the key that stopped it, and how far it had come."""
        where = (str(round(start * SAMPLES)),) if start else ()
        reply = await self._command(
            "STREAM", "FILE", media.name, keys, *where, seconds=media.seconds + GRACE_SECONDS
        )
        key = _key(reply)
        return key, media.seconds if key is None else (reply.endpos or 0) / SAMPLES

    async def gather(
        self,
        media: Media | None,
        *,
        max_digits: int,
        timeout: float,
        inter_digit_timeout: float = 2.0,
        terminator: str = "#",
        guarded: bool = False,
        not_before: NotBefore | None = None,
    ) -> Gathered:
        """AGI `GET OPTION`, the sound and the wait for a key in one; `WAIT FOR DIGIT` for further ones.

        With `not_before` it is `STREAM FILE` and a wait, for only that begins in the middle.
        """
        digits, key, heard = "", None, 0.0
        sound = media
        if media is not None and not_before is not None:
            sound = None
            if guarded:
                await self.guard(media.seconds)
            key, heard = await self._stream(media, ALL_KEYS)
            while key and key in not_before.keys and heard < not_before.seconds:
                key, heard = await self._stream(media, ALL_KEYS, start=max(heard, not_before.then))
        while True:
            if key is None:
                wait = inter_digit_timeout if digits else timeout
                if guarded:
                    await self.guard(wait if sound is None else sound.seconds + wait)
                if sound is None:
                    key = await self._wait_for_digit(wait)
                else:
                    key, heard = await self._option(sound, wait)
                    sound = None
            if key is None:
                return Gathered(digits, "timeout", heard)
            if key in terminator:
                return Gathered(digits, "terminator", heard)
            digits += key
            if len(digits) >= max_digits:
                return Gathered(digits, "max_digits", heard)
            key = None

    async def _option(self, media: Media, seconds: float) -> tuple[str | None, float]:
        """The key, and how many seconds of the sound were heard."""
        reply = await self._command(
            "GET",
            "OPTION",
            media.name,
            ALL_KEYS,
            str(max(1, round(seconds * 1000))),
            seconds=media.seconds + seconds + GRACE_SECONDS,
        )
        key = _key(reply)
        if key is None:
            # Behind the sound it answers a hangup like a silence; the next command tells them apart.
            await self._command("NOOP")
        return key, (reply.endpos or 0) / SAMPLES

    async def hold(self, silence: Media, until: asyncio.Future[Any]) -> str:
        """`STREAM FILE`, over and over: between commands Asterisk drops what a channel brings."""
        keys = ""
        while not until.done():
            reply = await self._channel.command_until(
                until, "STREAM", "FILE", silence.name, ALL_KEYS, timeout=silence.seconds + GRACE_SECONDS
            )
            if reply is None:
                break
            keys += _key(await self._sound(reply, "STREAM")) or ""
        return keys

    async def _wait_for_digit(self, seconds: float) -> str | None:
        reply = await self._command(
            "WAIT", "FOR", "DIGIT", str(max(1, round(seconds * 1000))), seconds=seconds + GRACE_SECONDS
        )
        return _key(reply)

    async def record(
        self, name: str, *, max_seconds: float, silence_seconds: float = 3.0, terminators: str = "#"
    ) -> float:
        """AGI `RECORD FILE` as WAV; the length is what the PBX says it wrote."""
        reply = await self._command(
            "RECORD",
            "FILE",
            name,
            "wav",
            terminators,
            str(round(max_seconds * 1000)),
            f"s={round(silence_seconds)}",
            seconds=max_seconds + GRACE_SECONDS,
        )
        return (reply.endpos or 0) / SAMPLES

    async def hear_out(self, timeout: float) -> bool:
        """Run `WaitForSilence`, which counts the frames that come: dead air is silence to it too."""
        wanted = self._channel.query.get("pause", "")
        pause = int(wanted) if wanted.isdecimal() else BEEP_PAUSE_MS
        await self._command(
            "EXEC", "WaitForSilence", f"{pause},1,{max(1, round(timeout))}", seconds=timeout + GRACE_SECONDS
        )
        reply = await self._command("GET", "VARIABLE", "WAITSTATUS")
        return reply.value == "SILENCE"

    async def transfer(self, extension: str, context: str) -> None:
        """Set where the dialplan goes on, and end the session there."""
        self.finished = True
        await self.settle()
        await self._command("SET", "CONTEXT", context)
        await self._command("SET", "EXTENSION", extension)
        await self._command("SET", "PRIORITY", "1")
        await self._done()
        self._over.set()

    async def set_variable(self, name: str, value: str) -> None:
        """AGI `SET VARIABLE`."""
        await self._command("SET", "VARIABLE", name, value)

    def hand_back(self, values: Mapping[str, str]) -> None:
        """Kept until `hangup` or `transfer`, and set together with `TELEPHONY_DONE`."""
        self._handed_back.update(values)

    async def _done(self, *last: str) -> None:
        """`MSet`, which splits at commas and expands `${…}`: other values are set one by one."""
        values = self._handed_back
        plain = [f"{name}={value}" for name, value in values.items() if _PLAIN.fullmatch(value)]
        for name, value in values.items():
            if not _PLAIN.fullmatch(value):
                await self.set_variable(name, value)
        plain += [*last, f"{DONE_VARIABLE}=1"]
        for at in range(0, len(plain), _MOST_PAIRS):
            await self._command("EXEC", "MSet", ",".join(plain[at : at + _MOST_PAIRS]))

    async def extend(self, seconds: float) -> None:
        """Set the dialplan's `TIMEOUT(absolute)`, which counts from now."""
        await self.settle()
        await self._set_limit(seconds)

    async def guard(self, seconds: float) -> None:
        """A few seconds of `TIMEOUT(absolute)`, moved on by AMI while the step lasts."""
        if self._guard is None:
            await self._set_limit(seconds + MARGIN)
        else:
            await self._guard.allow(seconds)

    async def settle(self) -> None:
        """Move no limit on any more: from here on the dialplan's own counts."""
        if self._guard is not None:
            await self._guard.release()

    async def _set_limit(self, seconds: float) -> None:
        await self.set_variable(LIMIT, f"{seconds:.1f}")

    async def hangup(self) -> None:
        """Say that we are done; the dialplan hangs up as its next step."""
        self.finished = True
        try:
            await self.settle()
            if self._handed_back:
                # The dialplan that goes on has no limit of ours.
                await self._done(f"{LIMIT}=0")
            else:
                await self.set_variable(DONE_VARIABLE, "1")
        finally:
            self._over.set()


def _key(reply: AgiReply) -> str | None:
    """Return the key of a reply whose result is the key's ASCII number, None for 0."""
    return None if reply.result == "0" else chr(int(reply.result))


def _held(text: str) -> float:
    """For how many seconds more a limit of the dialplan's certainly holds; 0 where it tells none.

    One that is longer than ours is none to go by: a frozen controller would leave the caller to it.
    """
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or float(text) > HOLD:
        return 0.0
    return max(0.0, float(text) - LATE_SECONDS)
