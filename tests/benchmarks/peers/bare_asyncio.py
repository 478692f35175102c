"""What one would write in an afternoon: asyncio streams, one sound, and an Originate for each line read.

Run as a process: `HOST PORT USER SECRET CONTEXT SOUND WAIT_MS`; prints the port of its FastAGI server;
reads numbers, one a line. It knows no hangup, no timeout, no loss of its connections and no outcome.
"""

from __future__ import annotations

import asyncio
import sys

SOUND, WAIT_MS = "", ""


async def agi(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    environment: dict[str, str] = {}
    while line := (await reader.readline()).decode().strip():
        name, _, value = line.partition(":")
        environment[name] = value.strip()
    for command in (f'STREAM FILE {SOUND} "*"', f"WAIT FOR DIGIT {WAIT_MS}"):
        writer.write(command.encode() + b"\n")
        await writer.drain()
        await reader.readline()
    writer.close()


async def message(reader: asyncio.StreamReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    while line := (await reader.readline()).decode().strip():
        name, _, value = line.partition(":")
        headers[name] = value.strip()
    return headers


def action(writer: asyncio.StreamWriter, **headers: str) -> None:
    writer.write("".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n")


async def main(host: str, port: str, user: str, secret: str, context: str) -> None:
    server = await asyncio.start_server(agi, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    action(writer, Action="Login", Username=user, Secret=secret, Events="off")
    await message(reader)
    print(server.sockets[0].getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer
    )
    while number := (await lines.readline()).decode().strip():
        action(
            writer,
            Action="Originate",
            Channel=f"PJSIP/{number}@carrier",
            Context=context,
            Exten="s",
            Priority="1",
            Async="true",
        )
        await message(reader)


if __name__ == "__main__":
    *words, SOUND, WAIT_MS = sys.argv[1:]
    asyncio.run(main(*words))
