"""Asterisk's own memory (AstDB) and its globals, with no more rights than `originate,call,reporting`.

`DBPut` and a `Setvar` of `DB()` are refused to such a user, so values travel as the variables of a Local
channel into `telephony-ops`, which ends at once. What it never does: know what a note means.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Final

from telephony.errors import PbxRejected, PbxTimeout
from telephony.net.ami import AmiClient
from telephony.wire.ami import Message, variable_header

CONTEXT: Final = "telephony-ops"
EXTENSION: Final = "keep"
BATCH: Final = 40
"""How many values one channel carries: an AMI action holds 128 headers at most."""

KEEP_SECONDS: Final = 5.0


class AsteriskNotes:
    """The `Notes` port over one AMI connection."""

    def __init__(self, ami: AmiClient) -> None:
        self._ami = ami
        self._numbers = itertools.count(1)
        self._ended: dict[str, asyncio.Future[None]] = {}

    def take(self, event: Message) -> None:
        """For the connection's owner: an `OriginateResponse`, whosesoever it is."""
        ended = self._ended.get(event.get("ActionID"))
        if ended is not None and not ended.done():
            ended.set_result(None)

    async def keep(self, values: Mapping[tuple[str, str], str]) -> None:
        """AMI `Originate`; its `OriginateResponse` comes when the channel, and so the writing, is over."""
        pairs = list(values.items())
        for start in range(0, len(pairs), BATCH):
            await self._keep(pairs[start : start + BATCH])

    async def _keep(self, pairs: list[tuple[tuple[str, str], str]]) -> None:
        action_id = f"keep-{next(self._numbers)}"
        ended = self._ended[action_id] = asyncio.get_running_loop().create_future()
        try:
            await self._ami.action(
                "Originate",
                [
                    ("ActionID", action_id),
                    ("Channel", f"Local/{EXTENSION}@{CONTEXT}/n"),
                    ("Context", CONTEXT),
                    ("Exten", EXTENSION),
                    ("Priority", "1"),
                    ("Async", "true"),
                    ("Timeout", str(round(KEEP_SECONDS * 1000))),
                    # It is no call, and in no call record.
                    variable_header("CDR_PROP(disable)", "1"),
                    *(variable_header(f"DB({family}/{key})", value) for (family, key), value in pairs),
                ],
            )
            async with asyncio.timeout(KEEP_SECONDS):
                await ended
        except TimeoutError:
            raise PbxTimeout("Asterisk did not say that its notes are written") from None
        finally:
            del self._ended[action_id]

    async def kept(self, family: str) -> Mapping[str, str]:
        """AMI `Getvar` of `DB_KEYS`, then `DBGet` for each: a `Getvar` of `DB` tells such a user nothing."""
        keys = [key for key in (await self.variable(f"DB_KEYS({family})")).split(",") if key]
        return {key: await self._value(family, key) for key in keys}

    async def _value(self, family: str, key: str) -> str:
        try:
            reply = await self._ami.action("DBGet", [("Family", family), ("Key", key)])
        except PbxRejected:
            return ""
        return next((event.get("Val") for event in reply.events if event.get("Val")), "")

    async def forget(self, family: str, key: str) -> None:
        """AMI `Setvar` of `DB_DELETE`, which deletes when it is written to."""
        await self._ami.action("Setvar", [("Variable", f"DB_DELETE({family}/{key})"), ("Value", "")])

    async def variable(self, name: str) -> str:
        """AMI `Getvar` without a channel."""
        reply = await self._ami.action("Getvar", [("Variable", name)])
        return reply.get("Value")

    async def clear(self, name: str) -> None:
        """AMI `Setvar` without a channel."""
        await self._ami.action("Setvar", [("Variable", name), ("Value", "")])
