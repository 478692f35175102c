"""`telephony verify`: ring a number, speak a code, check what was heard."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from typing import Annotated, Any, Final

import typer

from telephony.cli.client import Controller, controller_at
from telephony.cli.exits import Exit, run, say
from telephony.cli.options import DEFAULT_URL, Json, Key, Url
from telephony.cli.output import count, moment, print_json, stderr
from telephony.cli.watching import watch
from telephony.model.call import CallStatus

LONGEST_LINE: Final = 1024


def verify(
    number: Annotated[str, typer.Argument(help="E.164, such as +8613800000000.")],
    locale: Annotated[str | None, typer.Option(help="Language of the call, such as zh-CN.")] = None,
    code_length: Annotated[int | None, typer.Option(min=4, max=10, help="Digits of the code.")] = None,
    play_times: Annotated[int | None, typer.Option(min=1, max=3, help="How often it is said.")] = None,
    require_keypress: Annotated[
        bool, typer.Option("--require-keypress", help="Say it only after a key was pressed.")
    ] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Ring only; don't ask for the code.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Ring a number, speak a code, and check what was heard."""
    optional = {"locale": locale, "code_length": code_length, "play_times": play_times}
    asked: dict[str, Any] = {"to": number}
    asked |= {name: value for name, value in optional.items() if value is not None}
    if require_keypress:
        asked["require_keypress"] = True
    lines = None if no_check or not can_be_asked() else Lines(sys.stdin.fileno())
    raise typer.Exit(run(_verify(url, key, asked, lines, as_json=as_json)))


async def _verify(
    url: str, key: str | None, asked: dict[str, Any], lines: Lines | None, *, as_json: bool
) -> Exit:
    async with controller_at(url, key) as controller:
        made = await controller.post("/v1/verifications", asked)
        stderr().print(f"{made['id']} to {made['to']} in {made['locale']}", highlight=False)
        call = await watch(controller, made["call_id"], made)
        if call["status"] != CallStatus.COMPLETED.value:
            result, valid = Exit.FAILED, False
        elif lines is None:
            result, valid = Exit.OK, None
        else:
            valid = await _ask_until_known(controller, made, lines)
            result = Exit.OK if valid else Exit.FAILED
        if as_json:
            path = f"/v1/verifications/{made['id']}"
            print_json({**await controller.get(path), "valid": valid, "call": call})
    return result


async def _ask_until_known(controller: Controller, made: dict[str, Any], lines: Lines) -> bool:
    """Ask for the code until it is right, or no more may be checked, or nobody answers."""
    path = f"/v1/verifications/{made['id']}/check"
    while True:
        line = await lines.next(moment(made["expires_at"]) - time.time(), prompt="Code: ")
        if line is None:
            say("The code was not checked.")
            return False
        code = "".join(letter for letter in line if letter not in " -")
        if not code:
            continue
        outcome = await controller.post(path, {"code": code[:32]}, once=False)
        if outcome["valid"]:
            say("Approved.")
            return True
        if outcome["status"] != "pending":
            say(f"Wrong. The verification is {outcome['status']}.")
            return False
        say(f"Wrong; {count(outcome['checks_left'], 'check')} left.")


def can_be_asked() -> bool:
    """Whether somebody types or something is piped in; not so under cron, where input is /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return sys.stdin.isatty() or stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


class Lines:
    """Lines of an input, each waited for no longer than told."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unread = b""
        self._over = False

    async def next(self, seconds: float, *, prompt: str) -> str | None:
        """Return a line, None at the end of the input or after `seconds`."""
        if os.isatty(self._descriptor):
            print(prompt, end="", file=sys.stderr, flush=True)
        try:
            async with asyncio.timeout(seconds):
                while b"\n" not in self._unread and not self._over:
                    await self._readable()
                    data = os.read(self._descriptor, LONGEST_LINE)
                    self._over = not data or len(self._unread) + len(data) > LONGEST_LINE
                    self._unread += data
        except TimeoutError:
            return None
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace").strip() if line or not self._over else None

    async def _readable(self) -> None:
        """Wait until a read won't block; a regular file never does."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, ready.set)
        except PermissionError:
            return
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._descriptor)
