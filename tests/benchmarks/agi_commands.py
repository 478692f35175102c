"""FastAGI without a PBX: commands per second and processor time per command, on loopback.

This process is Asterisk: it connects, tells the environment, and answers every command. Each server is a
process of its own. How many commands it gets through is measured with answers at once; what a command
costs it, with answers after some milliseconds, as a channel's come: then each finds the server asleep,
whoever is faster. (In a race a server that waits for this process pays for waking it, and one that does
not wait does not.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from tests.benchmarks.measure import ROUNDS, Report, cpu_of_children, cpu_of_threads, installed, ratios

CONNECTIONS = 20
COMMANDS = 400
"""Commands on each connection."""

PACE = 0.005
"""Seconds until an answer, where the processor time is measured."""

KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "16777216", "MALLOC_MMAP_THRESHOLD_": "16777216"}
"""asyncio makes and shortens 256 KiB for each read: whether glibc gives them back to the kernel every time
depends on what lies behind them in the heap, and doubles the time of whoever reads by asyncio's own loop.
With this it does not, for any of them."""

REPLY = b"200 result=1 (42)\n"

KINDS = ("ours", "ours-asyncio", "bare", "panoramisk", "pyst2")
_NAMES = {"bare": "bare asyncio streams", "panoramisk": "panoramisk", "pyst2": "pyst2 (a process each)"}

_ENVIRONMENT = (
    "agi_network: yes\nagi_network_script: bench\nagi_request: agi://127.0.0.1/bench\n"
    "agi_channel: PJSIP/carrier-00000001\nagi_language: en\nagi_type: PJSIP\n"
    "agi_uniqueid: att_01arz3ndektsv4rrffq69g5fav\nagi_version: 22.10.1\nagi_callerid: +861088880000\n"
    "agi_calleridname: unknown\nagi_callingpres: 0\nagi_callingani2: 0\nagi_callington: 0\n"
    "agi_callingtns: 0\nagi_dnid: unknown\nagi_rdnis: unknown\nagi_context: telephony-session\n"
    "agi_extension: answered\nagi_priority: 3\nagi_enhanced: 0.0\nagi_accountcode: \n"
    "agi_threadid: 140000000000000\n\n"
)


class _Asterisk(asyncio.Protocol):
    """One channel: each line that comes is a command, and is answered."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self.over = asyncio.get_running_loop().create_future()
        self.answered = 0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.write(_ENVIRONMENT.encode())

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if not data.endswith(b"\n"):
            return
        self.answered += 1
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._transport.write, REPLY)
        else:
            self._transport.write(REPLY)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(self.answered)


async def agi_commands(report: Report, say: Callable[[str], None]) -> None:
    """Measure every server in turns."""
    kinds = [kind for kind in KINDS if kind not in _NAMES or kind == "bare" or installed(kind)]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    rate: dict[str, list[float]] = {kind: [] for kind in kinds}
    async with contextlib.AsyncExitStack() as stack:
        servers = {kind: await stack.enter_async_context(_server(kind)) for kind in kinds}
        for turn in range(ROUNDS + 1):
            for kind, (pid, port) in servers.items():
                per_second, _ = await _turn(pid, port, 0.0)
                _, each = await _turn(pid, port, PACE)
                if turn:
                    # The first turn warms everybody up.
                    rate[kind].append(per_second)
                    seconds[kind].append(each)
    for kind in kinds:
        say(
            f"FastAGI, {kind}: {1e6 * statistics.median(seconds[kind]):.0f} µs of processor time per command,"
            f" {statistics.median(rate[kind]):.0f} commands/s"
        )
    report.keep("processor seconds per FastAGI command", seconds)
    report.keep("FastAGI commands per second", rate)
    for kind in [kind for kind in kinds if kind in _NAMES]:
        report.row(f"FastAGI commands per second / {_NAMES[kind]}", ratios(rate["ours"], rate[kind]))
        report.row(f"CPU per FastAGI command / {_NAMES[kind]}", ratios(seconds["ours"], seconds[kind]))
    both = ratios(seconds["ours-asyncio"], seconds["bare"])
    report.row("CPU per FastAGI command, ours without uvloop / bare asyncio streams", both)


async def _turn(pid: int, port: int, delay: float) -> tuple[float, float]:
    """Commands per second, and processor seconds per command."""
    loop = asyncio.get_running_loop()
    before, began = cpu_of_threads(pid) + cpu_of_children(pid), loop.time()
    channels = [_Asterisk(delay) for _ in range(CONNECTIONS)]
    for channel in channels:
        await loop.create_connection(lambda channel=channel: channel, "127.0.0.1", port)  # type: ignore[misc]
    answered = sum(await asyncio.gather(*(channel.over for channel in channels)))
    wall = loop.time() - began
    assert answered == CONNECTIONS * COMMANDS, answered
    # A forking server counts a child only once it has looked for ended ones.
    await asyncio.sleep(0.2)
    return answered / wall, (cpu_of_threads(pid) + cpu_of_children(pid) - before) / answered


@asynccontextmanager
async def _server(kind: str) -> AsyncIterator[tuple[int, int]]:
    """A server's process and port."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.peers.agi_server", kind, str(COMMANDS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **KEPT_MEMORY},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
            # structlog speaks on the same stream.
            while line and not line.strip().isdigit():
                line = await process.stdout.readline()
        yield process.pid, int(line)
    finally:
        process.kill()
        await process.wait()
