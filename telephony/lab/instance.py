"""One Asterisk of the lab: its process, its console, and its end.

What it never does: outlive the process that started it. The kernel kills it when its parent's thread
ends, however that happens, so a lab is started from the main thread.
"""

# ruff: noqa: ASYNC240 - local files, looked at while nothing else waits

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
from pathlib import Path

from telephony.errors import LabError
from telephony.lab.providers import AsteriskProgram

_PR_SET_PDEATHSIG = 1
_PRIORITY = -10
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_CONSOLE_SECONDS = 10.0
_LIBC = ctypes.CDLL(None, use_errno=True)


class AsteriskInstance:
    """An Asterisk with a folder, an address and ports of its own.

    `address` is its loopback address; `sip_port` is UDP, `ami_port` TCP; `run_dir` holds everything
    it writes; `log_file` is the full log. The configuration in `run_dir/etc` is written before.
    """

    def __init__(
        self,
        program: AsteriskProgram,
        *,
        name: str,
        run_dir: Path,
        address: str,
        sip_port: int,
        ami_port: int,
        ami_user: str,
        ami_secret: str,
    ) -> None:
        self.program = program
        self.name = name
        self.run_dir = run_dir
        self.address = address
        self.sip_port = sip_port
        self.ami_port = ami_port
        self.ami_user = ami_user
        self.ami_secret = ami_secret
        self.log_file = run_dir / "log" / "full"
        self.cdr_file = run_dir / "log" / "cdr-csv" / "Master.csv"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its process id, None while it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    async def start(self) -> None:
        """Start it and wait until it is fully booted; `LabError` with the end of its log where it isn't."""
        if self.running:
            return
        control = self.run_dir / "run" / "asterisk.ctl"
        control.unlink(missing_ok=True)
        output = (self.run_dir / "log" / "output").open("ab")
        parent = os.getpid()

        def die_with_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            # Audio keeps time on a busy machine, as it would on a PBX of its own; only root may ask.
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)

        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                "-f",
                "-C",
                str(self._config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.run_dir,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise LabError(f"{self.program.command[0]} could not be started: {error}") from error
        finally:
            output.close()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._booted(control)
        except TimeoutError:
            await self.kill()
            raise LabError(
                f"{self.name} did not boot within {_START_SECONDS:.0f} s: {self._last_words()}"
            ) from None

    async def stop(self) -> None:
        """Stop it in good order, by force after a few seconds; its standing calls end."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once, as a crash would: it tells nobody, and its calls stay open at the far end."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def restart(self) -> None:
        """Stop it and start it again, on the same ports and with the same AstDB."""
        await self.stop()
        await self.start()

    async def console(self, command: str) -> str:
        """Return what its console says to `command` (`asterisk -rx`); `LabError` where it does not run."""
        process = await asyncio.create_subprocess_exec(
            *self.program.command,
            "-C",
            str(self._config),
            "-rx",
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_CONSOLE_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            raise LabError(f"{self.name}'s console did not answer {command!r} in time") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise LabError(
                f"{self.name}'s console refused {command!r}: {output.decode(errors='replace').strip()}"
            )
        return output.decode(errors="replace")

    async def channels(self) -> int:
        """How many channels stand in it now."""
        said = await self.console("core show channels count")
        match = re.search(r"^(\d+) active channels?", said, re.MULTILINE)
        if match is None:
            raise LabError(f"{self.name} said {said!r} when asked for its channels")
        return int(match.group(1))

    @property
    def _config(self) -> Path:
        return self.run_dir / "etc" / "asterisk.conf"

    async def _booted(self, control: Path) -> None:
        """Return once the console says so; the socket itself comes a moment earlier."""
        while not control.exists():
            self._check_alive()
            await asyncio.sleep(0.02)
        while True:
            self._check_alive()
            with contextlib.suppress(LabError):
                if "fully booted" in (await self.console("core waitfullybooted")).lower():
                    return
            await asyncio.sleep(0.02)

    def _check_alive(self) -> None:
        if not self.running:
            raise LabError(f"{self.name} ended while starting: {self._last_words()}")

    def _last_words(self) -> str:
        """The end of what it wrote, errors first."""
        lines: list[str] = []
        for path in (self.run_dir / "log" / "output", self.log_file):
            if path.is_file():
                lines += path.read_text(errors="replace").splitlines()[-200:]
        errors = [line for line in lines if "ERROR" in line] or lines
        return " / ".join(errors[-5:]) or "it wrote nothing"
