"""Those who hold the same call: our controller, a pure dialplan, and what users would write instead.

Each is started before its turn and ended after it, so that nobody else is connected to the PBX meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from telephony.lab import Lab
from telephony.net.ami import AmiClient, AmiConfig
from telephony.settings import VerificationSection
from tests.acceptance.control import HEADERS, api_of, settings_of
from tests.benchmarks.measure import cpu_of, cpu_of_children
from tests.benchmarks.shipped import ShippedController

STAR_WAIT_MS = 4000
"""How long a verification call listens for `*` after the prompt: the others listen as long."""

CODE = "123456"


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "log": {"level": "info"},
    "server": {"port": 0, "node": "bench"},
    "verification": {"calls_per_number": VerificationSection().model_dump()["calls_per_number"]},
}
"""What the tests set otherwise, as it is shipped."""


class Running(Protocol):
    """A side that is up."""

    async def dial(self, number: str) -> None:
        """Have a number called; return as soon as the order is given."""

    async def check(self) -> None:
        """After the measurement: raise where a call did not end as it should."""

    def cpu(self) -> float:
        """Processor seconds so far, without the PBX itself."""


Side = Callable[[Lab, Path, str], AbstractAsyncContextManager[Running]]
"""Starts a side for a lab; it keeps its files in the folder and plays the sound (without extension)."""


async def same_audio(lab: Lab, folder: Path) -> str:
    """Keep a copy of what one of our calls plays, and return its path without the extension."""
    async with controller(lab, folder) as process, api_of(process.url) as api:
        view = await api.verify("+8613899999999", code=CODE)
        media = Path(process.settings["speech"]["media_dir"])
        while not (found := list(media.glob("*.ulaw"))):
            await asyncio.sleep(0.01)
        shutil.copyfile(found[0], folder / "same.ulaw")
        await api.call_ended(view)
    return str(folder / "same")


@asynccontextmanager
async def controller(lab: Lab, folder: Path, *before: str) -> AsyncIterator[ShippedController]:
    """Our controller as shipped, with the default log level and budgets."""
    with media_folder() as media:
        settings = settings_of(lab, folder, **DEFAULTS, speech={"media_dir": str(media)})
        process = ShippedController(folder, settings, before=before)
        await process.start()
        try:
            yield process
        finally:
            await process.stop()


@contextmanager
def media_folder() -> Iterator[Path]:
    """A folder in memory for what is spoken, of this run alone."""
    with tempfile.TemporaryDirectory(prefix="telephony-bench-", dir="/dev/shm") as name:
        yield Path(name) / "media"


@dataclass
class Ours:
    process: ShippedController
    session: aiohttp.ClientSession
    calls: list[str] = field(default_factory=list)

    async def dial(self, number: str) -> None:
        body = {"to": number, "code": CODE}
        url = f"{self.process.url}/v1/verifications"
        async with self.session.post(url, json=body, headers=HEADERS) as reply:
            made = await reply.json()
            assert reply.status == 201, made
            self.calls.append(made["call_id"])

    async def check(self) -> None:
        for call in self.calls:
            async with self.session.get(f"{self.process.url}/v1/calls/{call}", headers=HEADERS) as reply:
                view = await reply.json()
                assert view["status"] == "completed", view
        self.calls.clear()

    def cpu(self) -> float:
        return cpu_of(self.process.pid)


@asynccontextmanager
async def ours(lab: Lab, folder: Path, _sound: str) -> AsyncIterator[Running]:
    """The controller: HTTP with connections kept alive, store, AMI, FastAGI."""
    async with controller(lab, folder) as process, aiohttp.ClientSession() as session:
        yield Ours(process, session)


@dataclass
class _Plain:
    manager: AmiClient

    async def dial(self, number: str) -> None:
        await self.manager.action(
            "Originate",
            [
                ("Channel", f"PJSIP/{number}@carrier"),
                ("Context", "bench-plain"),
                ("Exten", "s"),
                ("Priority", "1"),
                ("Async", "true"),
            ],
        )

    async def check(self) -> None:
        """Nothing knows how a call ended here."""

    def cpu(self) -> float:
        return 0.0


@asynccontextmanager
async def plain(lab: Lab, _folder: Path, sound: str) -> AsyncIterator[Running]:
    """A pure dialplan: it plays, waits and hangs up; who orders the call is not counted."""
    await dialplan(lab, "bench-plain", f"Playback({sound})", f"Wait({STAR_WAIT_MS / 1000:g})", "Hangup()")
    manager = AmiClient(
        AmiConfig(lab.pbx.address, lab.pbx.ami_port, lab.state.ami_user, lab.state.ami_secret, events="off")
    )
    await manager.start()
    try:
        assert await manager.wait_connected(10)
        yield _Plain(manager)
    finally:
        await manager.stop()


@dataclass
class _Peer:
    process: asyncio.subprocess.Process
    lab: Lab

    async def dial(self, number: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n".encode())
        await self.process.stdin.drain()

    async def check(self) -> None:
        assert self.process.returncode is None

    def cpu(self) -> float:
        # An AGI script is a child of Asterisk's; one that still runs is not in the sum, so all have ended.
        return cpu_of(self.process.pid) + cpu_of_children(self.lab.pbx.pid or 0)


@asynccontextmanager
async def _peer(lab: Lab, module: str, context: str, sound: str) -> AsyncIterator[tuple[Running, str]]:
    """A peer's process, and the port of its FastAGI server."""
    with (Path(lab.state.run_dir) / f"{module}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"tests.benchmarks.peers.{module}",
            *(lab.pbx.address, str(lab.pbx.ami_port), lab.state.ami_user, lab.state.ami_secret),
            *(context, sound, str(STAR_WAIT_MS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            port = (await process.stdout.readline()).decode().strip()
        assert port, f"{module} did not start"
        yield _Peer(process, lab), port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def bare(lab: Lab, _folder: Path, sound: str) -> AsyncIterator[Running]:
    """A FastAGI handler of some sixty lines on asyncio streams."""
    async with _peer(lab, "bare_asyncio", "bench-bare", sound) as (peer, port):
        await dialplan(lab, "bench-bare", f"AGI(agi://127.0.0.1:{port}/bench)", "Hangup()")
        yield peer


@asynccontextmanager
async def panoramisk(lab: Lab, _folder: Path, sound: str) -> AsyncIterator[Running]:
    """panoramisk's manager and FastAGI application."""
    async with _peer(lab, "with_panoramisk", "bench-panoramisk", sound) as (peer, port):
        await dialplan(lab, "bench-panoramisk", f"AGI(agi://127.0.0.1:{port}/bench)", "Hangup()")
        yield peer


@asynccontextmanager
async def pyst2(lab: Lab, folder: Path, sound: str) -> AsyncIterator[Running]:
    """A process for each call, started by Asterisk, with pyst2's AGI (its FastAGI needs Python 2)."""
    script = folder / "pyst2.agi"
    source = Path(__file__).parent / "peers" / "pyst2_script.py"
    script.write_text(f"#!{sys.executable}\n{source.read_text()}")
    script.chmod(0o755)
    async with _peer(lab, "with_pyst2", "bench-pyst2", sound) as (peer, _):
        await dialplan(lab, "bench-pyst2", f"AGI({script},{sound},{STAR_WAIT_MS})", "Hangup()")
        yield peer


PEERS: dict[str, Side] = {"panoramisk": panoramisk, "pyst2": pyst2}
"""Those that need a package."""


async def dialplan(lab: Lab, context: str, *steps: str) -> None:
    """Write the extension `s` of a context, over what stood there."""
    for step, application in enumerate(steps, 1):
        await lab.pbx.console(f"dialplan add extension s,{step},{application} into {context} replace")
