"""The same with panoramisk: its manager for the Originate, its FastAGI application for the call.

Arguments, output and input as in `bare_asyncio.py`.
"""

from __future__ import annotations

import asyncio
import sys

from panoramisk import Manager
from panoramisk.fast_agi import Application, Request


async def main(host: str, port: str, user: str, secret: str, context: str, sound: str, wait_ms: str) -> None:
    loop = asyncio.get_running_loop()

    async def talk(request: Request) -> None:
        await request.send_command(f'STREAM FILE {sound} "*"')
        await request.send_command(f"WAIT FOR DIGIT {wait_ms}")

    application = Application(loop=loop)
    application.add_route("bench", talk)
    server = await asyncio.start_server(application.handler, "127.0.0.1", 0)
    manager = Manager(loop=loop, host=host, port=int(port), username=user, secret=secret)
    await manager.connect()
    while not manager.authenticated:
        await asyncio.sleep(0.01)
    print(server.sockets[0].getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer)
    while number := (await lines.readline()).decode().strip():
        await manager.send_action(
            {
                "Action": "Originate",
                "Channel": f"PJSIP/{number}@carrier",
                "Context": context,
                "Exten": "s",
                "Priority": "1",
                "Async": "true",
            }
        )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
