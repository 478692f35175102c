"""A few lines of AMI for the lab's own tests, so that they do not lean on the client they help to test.

What it never does: reconnect, or bound anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

Message = Mapping[str, str]


class Manager:
    """Every event since login, and awaiting one."""

    def __init__(self, host: str, port: int, user: str, secret: str) -> None:
        self._address = (host, port)
        self._login = {"Action": "Login", "Username": user, "Secret": secret}
        self._changed = asyncio.Condition()
        self.messages: list[Message] = []

    async def __aenter__(self) -> Manager:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        await self._reader.readline()
        self._task = asyncio.create_task(self._read())
        answer = await self.action(**self._login)
        assert answer["Response"] == "Success", answer
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._task.cancel()
        self._writer.close()

    async def action(self, **fields: str) -> Message:
        """Send one action, return its response."""
        number = str(len(self.messages))
        lines = [f"{name}: {value}" for name, value in {**fields, "ActionID": number}.items()]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        return await self.wait(lambda m: "Response" in m and m.get("ActionID") == number)

    async def originate(self, number: str, *, trunk: str = "carrier", channel_id: str, **fields: str) -> None:
        """Call a number; by default the answered call waits in silence for ten seconds."""
        target = fields or {"Application": "Wait", "Data": "10"}
        answer = await self.action(
            Action="Originate",
            Channel=f"PJSIP/{number}@{trunk}",
            ChannelId=channel_id,
            CallerID="<+861055550000>",
            Timeout="20000",
            Async="true",
            **target,
        )
        assert answer["Response"] == "Success", answer

    async def hangup_of(self, channel_id: str) -> Message:
        """The Hangup event of a channel."""
        return await self.wait(lambda m: m.get("Event") == "Hangup" and m.get("Uniqueid") == channel_id)

    async def wait(self, wanted: Callable[[Message], bool], timeout: float = 15.0) -> Message:
        """The first message that is wanted, past or future."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: any(map(wanted, self.messages)))
        return next(filter(wanted, self.messages))

    async def _read(self) -> None:
        while True:
            block = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            fields = (line.partition(": ") for line in block.strip().split("\r\n"))
            async with self._changed:
                self.messages.append({name: value for name, _, value in fields})
                self._changed.notify_all()
