"""A scripted Asterisk manager on a free port of loopback, for tests.

What it never does: act on its own. An action without a script is left unanswered.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

Action: TypeAlias = dict[str, str]
Script: TypeAlias = Callable[["FakePeer", Action], Awaitable[None]]

BANNER = b"Asterisk Call Manager/11.0.0\r\n"
CHALLENGE = "143204838"


class FakePeer:
    """One connection, seen from the manager."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, action: Action, *lines: str, kind: str = "Success") -> None:
        head = (f"Response: {kind}", f"ActionID: {action['actionid']}")
        await self.send("\r\n".join([*head, *lines, "", ""]).encode())

    async def event(self, name: str, *lines: str) -> None:
        await self.send("\r\n".join([f"Event: {name}", *lines, "", ""]).encode())

    def cut(self) -> None:
        self.writer.transport.abort()


async def pong(peer: FakePeer, action: Action) -> None:
    await peer.reply(action, "Ping: Pong")


async def goodbye(peer: FakePeer, action: Action) -> None:
    await peer.reply(action, "Message: Thanks for all the fish.", kind="Goodbye")


class FakeAmi:
    """Takes connections, logs in user `me` with `secret`, and answers by `scripts` (action → script)."""

    def __init__(self, secret: str = "s3cret") -> None:
        self.secret = secret
        self.banner = BANNER
        self.after_login: Callable[[FakePeer], bytes] = lambda _: b""
        self.scripts: dict[str, Script] = {"ping": pong, "logoff": goodbye}
        self.received: list[Action] = []
        self.raw: list[bytes] = []
        self.logins = 0
        self.connections = 0
        self.port = 0
        self.peer: FakePeer | None = None
        self._peers: set[FakePeer] = set()
        self._changed = asyncio.Condition()

    def names(self) -> list[str]:
        """The actions that came, login apart."""
        return [a["action"] for a in self.received if a["action"] not in ("Challenge", "Login", "Logoff")]

    async def saw(self, check: Callable[[], bool]) -> None:
        """Wait until `check` holds; it is asked again after every action and connection."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(check)

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[FakeAmi]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for peer in list(self._peers):
                peer.cut()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = FakePeer(reader, writer)
        self._peers.add(peer)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.connections += 1
            await self._notify()
            await peer.send(self.banner)
            while True:
                block = await reader.readuntil(b"\r\n\r\n")
                self.raw.append(block)
                lines = [line.partition(": ") for line in block.decode().split("\r\n")]
                action = {name.lower(): value for name, _, value in lines if name}
                self.received.append(action)
                await self._answer(peer, action)
                await self._notify()
        self._peers.discard(peer)
        peer.cut()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _answer(self, peer: FakePeer, action: Action) -> None:
        name = action["action"].lower()
        if name in self.scripts:
            await self.scripts[name](peer, action)
        elif name == "challenge":
            await peer.reply(action, f"Challenge: {CHALLENGE}")
        elif name == "login":
            await self._log_in(peer, action)

    async def _log_in(self, peer: FakePeer, action: Action) -> None:
        key = hashlib.md5((CHALLENGE + self.secret).encode(), usedforsecurity=False).hexdigest()
        proof = action.get("key") == key or action.get("secret") == self.secret
        if not proof or action["username"] != "me":
            await peer.reply(action, "Message: Authentication failed", kind="Error")
            peer.writer.close()
            return
        self.logins += 1
        self.peer = peer
        accepted = f"Response: Success\r\nActionID: {action['actionid']}\r\n\r\n".encode()
        await peer.send(accepted + self.after_login(peer))
