"""What a nosy person could have read while the acceptance tests ran: logs, events, replies, tables.

`new_code` hands out codes to be searched for afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from pathlib import Path

from telephony.lab import Lab

CODES: list[str] = []
FILES: list[Path] = []
DATABASES: list[Path] = []
REPLIES: list[str] = []
EVENTS = bytearray()
"""Everything an AMI user with every right was sent, in its bytes."""


def new_code() -> str:
    """A code of ten digits: too long to be met by chance."""
    code = "".join(secrets.choice("0123456789") for _ in range(10))
    CODES.append(code)
    return code


class Listener:
    """An AMI user with every right who writes down all it is sent, and comes back after a restart."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._read()
            await asyncio.sleep(0.1)

    async def _read(self) -> None:
        state = self._lab.state
        reader, writer = await asyncio.open_connection(self._lab.pbx.address, self._lab.pbx.ami_port)
        login = [
            "Action: Login",
            f"Username: {state.test_user}",
            f"Secret: {state.test_secret}",
            "Events: on",
        ]
        writer.write("\r\n".join([*login, "", ""]).encode())
        try:
            while data := await reader.read(65536):
                EVENTS.extend(data)
        finally:
            writer.close()
