"""A FastAGI server that asks for variables, as each of those compared would have it: `KIND COMMANDS`.

KIND is `ours`, `ours-asyncio` (without uvloop), `bare`, `panoramisk` or `pyst2`. Each connection asks
COMMANDS times, one after the other, and ends. Run as a process; prints its port.
"""

from __future__ import annotations

import asyncio
import io
import socketserver
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from telephony.net.fastagi import AgiChannel, FastAgiServer
from tests.benchmarks.measure import run

QUESTION = "GET VARIABLE TELEPHONY_ANSWER"
ANSWER = "42"

COMMANDS = int(sys.argv[2]) if len(sys.argv) > 2 else 1


async def ours() -> None:
    async def talk(channel: AgiChannel) -> None:
        for _ in range(COMMANDS):
            reply = await channel.command("GET", "VARIABLE", "TELEPHONY_ANSWER", timeout=10.0)
            assert reply.value == ANSWER

    server = FastAgiServer(talk, port=0)
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()


async def bare() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readline()).strip():
            pass
        for _ in range(COMMANDS):
            writer.write(f"{QUESTION}\n".encode())
            await writer.drain()
            line = (await reader.readline()).decode()
            assert line.partition("(")[2].partition(")")[0] == ANSWER
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def panoramisk() -> None:
    from panoramisk.fast_agi import Application, Request

    async def talk(request: Request) -> None:
        for _ in range(COMMANDS):
            reply = await request.send_command(QUESTION)
            assert reply["result"][1] == ANSWER

    application = Application(loop=asyncio.get_running_loop())
    application.add_route("bench", talk)
    server = await asyncio.start_server(application.handler, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class _Pyst2(socketserver.BaseRequestHandler):
    """pyst2's AGI on a socket, a process for each, as its own FastAGI (for Python 2) has it."""

    def handle(self) -> None:
        from asterisk.agi import AGI

        agi = AGI(
            stdin=self.request.makefile("r"),
            stdout=self.request.makefile("w"),
            stderr=io.StringIO(),
        )
        for _ in range(COMMANDS):
            assert agi.get_variable("TELEPHONY_ANSWER") == ANSWER


def pyst2() -> None:
    # Here, so that no child has to.
    import asterisk.agi  # noqa: F401

    with socketserver.ForkingTCPServer(("127.0.0.1", 0), _Pyst2) as server:
        server.max_children = 100
        print(server.server_address[1], flush=True)
        server.serve_forever(poll_interval=0.05)


KINDS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "ours": ours,
    "ours-asyncio": ours,
    "bare": bare,
    "panoramisk": panoramisk,
}

if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "pyst2":
        pyst2()
    else:
        (run if kind == "ours" else asyncio.run)(KINDS[kind]())
