"""A controller as shipped on a store of one's own, its PBX in memory: what is left is the controller."""

from __future__ import annotations

import asyncio
import base64
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from telephony.api.keys import hash_key
from telephony.services.codes import CodeBox
from tests.acceptance.control import HEADERS, KEY, SPEECH_CACHE, Json
from tests.benchmarks.measure import cpu_of
from tests.benchmarks.shipped import ShippedController
from tests.benchmarks.sides import CODE, DEFAULTS, media_folder

DIAL_SECONDS = 10.0
"""How long a dial is waited for."""


def settings(store: Path, folder: Path, media: Path) -> Json:
    """A whole configuration; there is no Asterisk in it that answers."""
    return {
        **DEFAULTS,
        "store": {"url": f"sqlite:///{store}"},
        "secrets": {"master_key_file": str(folder / "master.key")},
        "pbx": {"ami": {"secret": "none"}},
        "trunks": [{"name": "main", "endpoint": "carrier"}],
        "speech": {"cache_dir": str(SPEECH_CACHE), "media_dir": str(media)},
        "numbers": {"default_region": "CN", "allowed_regions": ["CN"]},
        "clients": [
            {
                "name": "shop",
                "key_hash": hash_key(KEY),
                "brand": "Acme",
                "caller_number": "+861088880000",
            }
        ],
    }


def code_box(folder: Path) -> CodeBox:
    """What seals codes under a key written into the folder, before the controller starts."""
    key = secrets.token_bytes(32)
    path = folder / "master.key"
    path.write_text(base64.b64encode(key).decode())
    path.chmod(0o600)
    return CodeBox(key)


@dataclass
class InMemory:
    """A running controller, and when it has dialled whom."""

    process: ShippedController
    session: aiohttp.ClientSession
    dialled_file: Path
    _dialled: dict[str, float] = field(default_factory=dict)
    _read: int = 0

    async def post(self, number: str) -> None:
        """Have a number verified."""
        url, body = f"{self.process.url}/v1/verifications", {"to": number, "code": CODE}
        async with self.session.post(url, json=body, headers=HEADERS) as reply:
            made = await reply.json()
            assert reply.status == 201, made

    async def dialled(self, number: str) -> float:
        """When a number was dialled, in Unix seconds; waits for it."""
        async with asyncio.timeout(DIAL_SECONDS):
            while number not in self.all_dialled():
                await asyncio.sleep(0.005)
        return self._dialled[number]

    def all_dialled(self) -> dict[str, float]:
        """Every number dialled so far, and when."""
        with self.dialled_file.open() as file:
            file.seek(self._read)
            for line in iter(file.readline, ""):
                if not line.endswith("\n"):
                    break
                number, at = line.split()
                self._dialled[number] = float(at)
                self._read += len(line)
        return self._dialled

    def cpu(self) -> float:
        """Processor seconds so far."""
        return cpu_of(self.process.pid)


@asynccontextmanager
async def in_memory(store: Path) -> AsyncIterator[InMemory]:
    """Run a controller on the store; the folder of the store has the `master.key`, or gets one."""
    with media_folder() as media, tempfile.TemporaryDirectory(prefix="telephony-bench-") as name:
        folder = Path(name)
        dialled = folder / "dialled"
        before = ("tests.benchmarks.memory_controller", str(dialled))
        process = ShippedController(folder, settings(store, store.parent, media), before=before)
        await process.start(wait_for_pbx=False)
        try:
            async with aiohttp.ClientSession() as session:
                yield InMemory(process, session, dialled)
        finally:
            await process.stop()
