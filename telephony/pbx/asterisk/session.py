"""A conversation over AGI: the `CallSession` port in terms of AGI commands.

Source of the commands: "Asterisk AGI Commands", docs.asterisk.org. What it never does: put a secret
into a command's arguments (`agi set debug` and AMI show them), or catch `CallEnded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from telephony.errors import PbxRejected
from telephony.model.media import Media
from telephony.net.fastagi import AgiChannel
from telephony.pbx.port import Gathered, NotBefore
from telephony.wire.agi import AgiReply

COMMAND_SECONDS: Final = 5.0
"""How long a command that does not wait for the far end may take."""

GRACE_SECONDS: Final = 10.0
"""What a playing or waiting command gets on top of its own length: a loaded PBX starts late."""

ALL_KEYS: Final = "0123456789*#"

SAMPLES: Final = 8000
"""Samples a second of what is played and recorded, in which AGI counts."""

DONE_VARIABLE: Final = "TELEPHONY_DONE"
"""Set to 1 by the last command: without it the dialplan takes the local way out."""

IVR: Final = "ivr"
TREE_ARGUMENT: Final = "tree"
"""`agi://…/ivr/NAME` hands over the same as `agi://…/ivr?tree=NAME`."""

BEEP_PAUSE_MS: Final = 2000
"""A silence of this length ends a machine's greeting and tone, where the dialplan names no other."""


class AgiSession:
    """One channel, from its AGI connection to the end of the conversation."""

    def __init__(self, channel: AgiChannel) -> None:
        self._channel = channel
        kind, _, tree = channel.script.partition("/")
        self._arguments = {**channel.query, TREE_ARGUMENT: tree} if kind == IVR and tree else channel.query
        self._over = asyncio.Event()
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
        reply = await self._channel.command(*words, timeout=seconds)
        if reply.result == "-1":
            await self._channel.command("NOOP", timeout=COMMAND_SECONDS)
            raise PbxRejected(f"Asterisk could not carry out {words[0]}")
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
        margin: float | None = None,
        not_before: NotBefore | None = None,
    ) -> Gathered:
        """AGI `STREAM FILE` stopped by any key, then `WAIT FOR DIGIT` for each further one."""
        digits = ""
        key = None
        heard = 0.0
        if media is not None:
            if margin is not None:
                await self.extend(media.seconds + margin)
            key, heard = await self._stream(media, ALL_KEYS)
            while not_before and key and key in not_before.keys and heard < not_before.seconds:
                key, heard = await self._stream(media, ALL_KEYS, start=max(heard, not_before.then))
        while True:
            if key is None:
                wait = inter_digit_timeout if digits else timeout
                if margin is not None:
                    await self.extend(wait + margin)
                key = await self._wait_for_digit(wait)
            if key is None:
                return Gathered(digits, "timeout", heard)
            if key in terminator:
                return Gathered(digits, "terminator", heard)
            digits += key
            if len(digits) >= max_digits:
                return Gathered(digits, "max_digits", heard)
            key = None

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
        await self._command("SET", "CONTEXT", context)
        await self._command("SET", "EXTENSION", extension)
        await self._command("SET", "PRIORITY", "1")
        await self.set_variable(DONE_VARIABLE, "1")
        self._over.set()

    async def set_variable(self, name: str, value: str) -> None:
        """AGI `SET VARIABLE`."""
        await self._command("SET", "VARIABLE", name, value)

    async def extend(self, seconds: float) -> None:
        """Set the dialplan's `TIMEOUT(absolute)`, which counts from now."""
        await self.set_variable("TIMEOUT(absolute)", f"{seconds:.1f}")

    async def hangup(self) -> None:
        """Say that we are done; the dialplan hangs up as its next step."""
        self.finished = True
        try:
            await self.set_variable(DONE_VARIABLE, "1")
        finally:
            self._over.set()


def _key(reply: AgiReply) -> str | None:
    """Return the key of a reply whose result is the key's ASCII number, None for 0."""
    return None if reply.result == "0" else chr(int(reply.result))
