"""A controller for acceptance tests: in this process, or as a process that can be stopped and killed.

Both are spoken to over HTTP, as an app would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from telephony.api.keys import hash_key
from telephony.lab import Lab
from tests.acceptance import evidence

KEY = "tk_acceptance"
HEADERS = {"Authorization": f"Bearer {KEY}"}
FINAL = {
    "completed",
    "busy",
    "no_answer",
    "rejected",
    "invalid_number",
    "unreachable",
    "failed",
    "canceled",
    "expired",
    "unknown",
}

Json = dict[str, Any]

SPEECH_CACHE = Path(__file__).resolve().parents[2] / "var" / "speech"
"""Clips outlive a run: they are named by their content."""


def settings_of(lab: Lab, folder: Path, **sections: Mapping[str, Any]) -> Json:
    """The configuration of a controller for this lab; `sections` go over it."""
    host, port = lab.agi
    values: Json = {
        "server": {"port": 0, "node": "acceptance", "drain_seconds": 5},
        "store": {"url": f"sqlite:///{folder}/telephony.db"},
        "secrets": {"master_key_file": str(folder / "master.key")},
        "pbx": {
            "ami": {
                "host": lab.pbx.address,
                "port": lab.pbx.ami_port,
                "username": lab.state.ami_user,
                "secret": lab.state.ami_secret,
            }
        },
        "fastagi": {"host": host, "port": port},
        "trunks": [
            {"name": "main", "endpoint": "carrier", "ring_timeout": 20},
            {"name": "alaw", "endpoint": "carrier-alaw", "prefixes": ["+86139"], "ring_timeout": 20},
            {"name": "short", "endpoint": "carrier", "prefixes": ["+86137"], "ring_timeout": 2},
        ],
        "speech": {
            "cache_dir": str(SPEECH_CACHE),
            "media_dir": f"/dev/shm/telephony-test-{lab.state.number}",
        },
        "verification": {"calls_per_number": [], "play_times": 1},
        "numbers": {"default_region": "CN", "allowed_regions": ["CN"]},
        "clients": [
            {
                "name": "shop",
                "key_hash": hash_key(KEY),
                "brand": "Acme",
                "caller_number": "+861088880000",
            }
        ],
        "log": {"level": "debug"},
    }
    for name, section in sections.items():
        if isinstance(section, Mapping):
            values[name] = {**values.get(name, {}), **section}
        else:
            values[name] = section
    return values


class Api:
    """An app's view of a controller. Every reply is kept as evidence."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def ask(self, method: str, path: str, body: Json | None = None, **headers: str) -> tuple[int, Json]:
        async with self._session.request(
            method, f"{self.url}{path}", json=body, headers={**HEADERS, **headers}
        ) as reply:
            text = await reply.text()
            evidence.REPLIES.append(text)
            return reply.status, json.loads(text)

    async def post(self, path: str, body: Json | None = None, *, status: int = 200) -> Json:
        got, reply = await self.ask("POST", path, body or {})
        assert got == status, reply
        return reply

    async def get(self, path: str) -> Json:
        got, reply = await self.ask("GET", path)
        assert got == 200, reply
        return reply

    async def verify(self, to: str, **body: Any) -> Json:
        """Ring a number. The code has ten digits where the test names none, so that a search for it
        finds nothing else."""
        body.setdefault("code", evidence.new_code())
        return await self.post("/v1/verifications", {"to": to, **body}, status=201)

    async def call_ended(self, verification: Json, timeout: float = 60.0) -> Json:
        """The verification's newest call, once it is final."""
        return await self.until(
            f"/v1/calls/{verification['call_id']}", lambda call: call["status"] in FINAL, timeout
        )

    async def until(self, path: str, wanted: Any, timeout: float = 60.0) -> Json:
        """Read a resource again at each change, until it is as wanted."""
        deadline = time.monotonic() + timeout
        waiting = ""
        while True:
            seen = await self.get(f"{path}{waiting}")
            if wanted(seen):
                return seen
            assert time.monotonic() < deadline, seen
            waiting = f"?wait=5&while={seen['status']}"


@asynccontextmanager
async def api_of(url: str) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
        yield Api(url, session)


class ControllerProcess:
    """`telephony serve` as a process of its own, its log in a file."""

    def __init__(self, folder: Path, settings: Json) -> None:
        self.folder = folder
        self.log_file = folder / "controller.log"
        self.config = folder / "settings.json"
        self.config.write_text(json.dumps(settings))
        evidence.FILES.append(self.log_file)
        evidence.DATABASES.append(folder / "telephony.db")
        self.url = ""
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, wait_for_pbx: bool = True) -> None:
        mark = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*self.command(), stderr=log)
        deadline = time.monotonic() + 30
        while True:
            text = self.log_file.read_bytes()[mark:].decode()
            ready = [line for line in text.splitlines() if '"controller.ready"' in line]
            if ready and (not wait_for_pbx or '"ami.connected"' in text):
                self.url = json.loads(ready[-1])["url"]
                return
            assert self._process.returncode is None, text[-3000:]
            assert time.monotonic() < deadline, text[-3000:]
            await asyncio.sleep(0.05)

    def command(self) -> list[str]:
        """How the process is started."""
        return [sys.executable, "-m", "tests.acceptance.controller", str(self.config)]

    def log_lines(self, event: str) -> list[Json]:
        """What it logged under this name, oldest first; `at` is seconds since the epoch."""
        lines = [json.loads(line) for line in self.log_file.read_text().splitlines() if line.startswith("{")]
        found = [line for line in lines if line.get("event") == event]
        return [{**line, "at": datetime.fromisoformat(line["timestamp"]).timestamp()} for line in found]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()

    async def stop(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGCONT)
            self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise AssertionError("the controller did not stop on SIGTERM") from None


class Wire:
    """A TCP relay in front of a port, which can be cut and mended: a bad network to the PBX."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.whole = True
        self.port = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, and refuse new ones until `mend`."""
        self.whole = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self.whole = True

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.whole:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()
        self._writers.discard(sink)
