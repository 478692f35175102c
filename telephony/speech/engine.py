"""The port to a synthesiser, and the one that needs no network: espeak-ng as a subprocess.

What it never does: know a language pack, keep a sound, or put the text into an error or a log.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from functools import cached_property
from typing import Protocol

from telephony.errors import EngineError
from telephony.speech.pcm import BadSound, Pcm, read_wav

_VOICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+ -]{0,63}")
_VERSION_DEADLINE = 5.0


class Engine(Protocol):
    """Turns text into sound."""

    @property
    def name(self) -> str:
        """Which section of a language pack speaks of its voices, e.g. `espeak-ng`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Name and version: sounds of another fingerprint are not taken for its own.

        May block for a moment at the first look; raises `EngineError` when it is not installed.
        """
        ...

    async def synthesize(self, text: str, voice: str, speed: int) -> Pcm:
        """Say `text`; `speed` is in words a minute, roughly. Raises `EngineError`."""
        ...


class EspeakNg:
    """espeak-ng (https://github.com/espeak-ng/espeak-ng), one short-lived process per text.

    The text goes in by stdin and the sound comes back by stdout, so neither is seen in a list of
    processes. `deadline` is in seconds and counts from the start of the process; at most
    `concurrency` run at a time.
    """

    name = "espeak-ng"

    def __init__(
        self, executable: str = "espeak-ng", *, deadline: float = 10.0, concurrency: int = 2
    ) -> None:
        self._executable = executable
        self._deadline = deadline
        self._slots = asyncio.Semaphore(concurrency)

    @cached_property
    def fingerprint(self) -> str:
        """`espeak-ng` and its version number. Raises `EngineError` when it can't be run."""
        try:
            answer = subprocess.run(
                [self._executable, "--version"],
                capture_output=True,
                timeout=_VERSION_DEADLINE,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise self._not_installed() from error
        except subprocess.SubprocessError as error:
            raise EngineError(f"{self._executable} --version failed: reinstall espeak-ng") from error
        # "eSpeak NG text-to-speech: 1.51  Data at: ...": the folder of the data says nothing.
        first = answer.stdout.decode("utf-8", "replace").partition("Data at")[0]
        return f"{self.name} {first.rpartition(':')[2].strip()}"

    async def synthesize(self, text: str, voice: str, speed: int) -> Pcm:
        """Say `text` with an espeak-ng voice (`espeak-ng --voices`) at `speed` words a minute.

        Raises `EngineError` when espeak-ng is missing, too slow, or does not know the voice.
        """
        if not _VOICE.fullmatch(voice):
            raise EngineError(f"{voice!r} is not the name of an espeak-ng voice: see `espeak-ng --voices`")
        # Double brackets would switch espeak-ng to phoneme input.
        spoken = text.replace("[[", "[ [").encode()
        command = [self._executable, "--stdout", "--stdin", "-v", voice, "-s", str(speed), "-b", "1"]
        async with self._slots:
            sound, complaint, code = await self._run(command, spoken)
        if code != 0:
            first = complaint.decode("utf-8", "replace").strip().partition("\n")[0][:200]
            raise EngineError(f"espeak-ng failed with voice {voice!r} (exit code {code}): {first}")
        try:
            return read_wav(sound)
        except BadSound as error:
            raise EngineError(f"espeak-ng gave no sound with voice {voice!r}: {error}") from None

    async def _run(self, command: list[str], text: bytes) -> tuple[bytes, bytes, int]:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise self._not_installed() from error
        try:
            async with asyncio.timeout(self._deadline):
                sound, complaint = await process.communicate(text)
        except TimeoutError:
            raise EngineError(f"espeak-ng took longer than {self._deadline:g} s") from None
        finally:
            # Also when the wait was cancelled: no process outlives the one who asked for it.
            if process.returncode is None:
                process.kill()
                await process.wait()
        return sound, complaint, process.returncode or 0

    def _not_installed(self) -> EngineError:
        return EngineError(
            f"{self._executable} can't be run: install it (apt install espeak-ng), "
            "or give every phrase and digit a recording"
        )
