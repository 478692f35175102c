"""How a command ends: its exit codes, and how it is ended by Ctrl-C.

What it never does: print data.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import typer

from telephony.errors import ConfigError, InputError, PbxError, Refused, StoreError, TelephonyError

T = TypeVar("T")


class Exit(IntEnum):
    """Exit codes, as `docs/cli.md` tells them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C ends it with the code that shells use for it."""
    try:
        return asyncio.run(_until_interrupted(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("Interrupted; a call that is under way goes on.")
        raise typer.Exit(Exit.INTERRUPTED) from None


async def _until_interrupted(work: Coroutine[Any, Any, T]) -> T:
    """Cancel the work by a callback of the loop: a signal in the middle of a step could be missed."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    return await task


def code_of(error: TelephonyError) -> Exit:
    """The exit code that an error of ours stands for."""
    if isinstance(error, ConfigError | InputError):
        return Exit.USAGE
    if isinstance(error, Refused):
        return Exit.REFUSED
    return Exit.UNREACHABLE if isinstance(error, PbxError | StoreError) else Exit.FAILED


def fail(code: Exit, words: str) -> NoReturn:
    """End the command with these words."""
    say(f"telephony: {words}")
    raise typer.Exit(code)


def say(words: str) -> None:
    """Say it on standard error."""
    print(words, file=sys.stderr, flush=True)
