"""What one would write in an hour to take requests: one row, one commit that is on the disk, 201.

Run as a process with the path of a SQLite file; prints its port.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from tests.benchmarks.measure import run


async def main(path: str) -> None:
    # One thread: SQLite has one writer.
    thread = ThreadPoolExecutor(1)
    loop = asyncio.get_running_loop()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE request (id INTEGER PRIMARY KEY, number TEXT, code TEXT, at REAL)")
        return connection

    connection = await loop.run_in_executor(thread, connect)

    def insert(number: str, code: str) -> int | None:
        with connection:
            row = (number, code, time.time())
            made = connection.execute("INSERT INTO request (number, code, at) VALUES (?, ?, ?)", row)
        return made.lastrowid

    async def post(request: web.Request) -> web.Response:
        body = await request.json()
        made = await loop.run_in_executor(thread, insert, body["to"], body["code"])
        return web.json_response({"id": made, "status": "queued"}, status=201)

    app = web.Application()
    app.router.add_post("/", post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main(sys.argv[1]))
