"""The command line: run a controller, talk to one over HTTP, make keys, keep a lab.

Data goes to standard output (as JSON with `--json`), progress and faults to standard error. Whatever takes
long to import is imported by the command that needs it. What it never does: reach past the HTTP API into a
running controller, or print a key but once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from telephony import __version__
from telephony.cli_ivr import app as ivr_app
from telephony.cli_trunks import app as trunks_app
from telephony.errors import (
    ConfigError,
    InputError,
    PbxError,
    Refused,
    StoreError,
    TelephonyError,
)
from telephony.model.call import FINAL_CALL_STATUSES, CallClass, CallStatus
from telephony.model.delivery import DeliveryStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp
    from rich.console import Console

    from telephony.lab import LabState, Subscriber

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8080"
REQUEST_SECONDS: Final = 30.0
WAIT_SECONDS: Final = 10.0
"""How long one look at a call waits for it to change."""

SLACK_SECONDS: Final = 60.0
"""How much longer than it may ring a call is watched."""

SOON_SECONDS: Final = 5.0
"""A call that waits no longer than this is not said to wait."""

LONGEST_LINE: Final = 1024
LAB_CALL_SECONDS: Final = 60.0
FINAL: Final = frozenset(status.value for status in FINAL_CALL_STATUSES)


class Exit(IntEnum):
    """Exit codes, as `docs/cli.md` tells them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


app = typer.Typer(
    help="Verification calls, payment confirmations and other outbound calls over Asterisk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
key_app = typer.Typer(help="Keys of API clients.", no_args_is_help=True)
lab_app = typer.Typer(help="A PBX and a carrier on this machine, to try things out.", no_args_is_help=True)
webhooks_app = typer.Typer(help="Show webhooks on their way, or send a dead one again.")
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(key_app, name="key")
app.add_typer(lab_app, name="lab")
app.add_typer(ivr_app, name="ivr")
app.add_typer(trunks_app, name="trunks")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option(envvar="TELEPHONY_URL", help="Where the controller is.")]
Key = Annotated[
    str | None,
    typer.Option(envvar="TELEPHONY_KEY", show_envvar=True, help="API key; better kept in the environment."),
]


def main() -> None:
    """Run the command line; a fault of ours ends it with its message and exit code."""
    try:
        app(prog_name="telephony")
    except TelephonyError as error:
        _say(f"telephony: {error}")
        sys.exit(_code_of(error))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"telephony {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


# ---- serve


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Option(help="The configuration; else TELEPHONY_CONFIG, ./telephony.toml, /etc/telephony."),
    ] = None,
) -> None:
    """Run the controller until SIGTERM or Ctrl-C."""
    from telephony.settings import ConfigErrors, find_config, load_settings

    try:
        settings = load_settings(config)
    except ConfigErrors as errors:
        place = find_config(config, os.environ) or "configuration"
        _say(f"telephony: {place}: {_count(len(errors.errors), 'fault')}")
        for error in errors.errors:
            _say(f"  {error}")
        raise typer.Exit(Exit.USAGE) from None
    from telephony.app import run
    from telephony.logs import set_up_logs

    set_up_logs(settings.log.level, settings.log.format)
    # Every prompt is made before the first call: at the first start that takes seconds.
    _say(f"telephony {__version__} is starting")
    run(settings)


# ---- verify


@app.command()
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
    lines = None if no_check or not _can_be_asked() else _Lines(sys.stdin.fileno())
    raise typer.Exit(_run(_verify(url, key, asked, lines, as_json=as_json)))


async def _verify(
    url: str, key: str | None, asked: dict[str, Any], lines: _Lines | None, *, as_json: bool
) -> Exit:
    async with _controller(url, key) as controller:
        made = await controller.post("/v1/verifications", asked)
        _stderr().print(f"{made['id']} to {made['to']} in {made['locale']}", highlight=False)
        call = await _watch(controller, made["call_id"], made)
        if call["status"] != CallStatus.COMPLETED.value:
            result, valid = Exit.FAILED, False
        elif lines is None:
            result, valid = Exit.OK, None
        else:
            valid = await _ask_until_known(controller, made, lines)
            result = Exit.OK if valid else Exit.FAILED
        if as_json:
            path = f"/v1/verifications/{made['id']}"
            _print_json({**await controller.get(path), "valid": valid, "call": call})
    return result


async def _watch(controller: _Controller, call_id: str, made: dict[str, Any]) -> dict[str, Any]:
    """Tell each step of a call as it comes, and return the call once it is over.

    It is watched from the `created_at` of what was `made` until its `expires_at`.
    """
    console = _stderr()
    began = _moment(made["created_at"])
    deadline = time.monotonic() + _moment(made["expires_at"]) - began + SLACK_SECONDS
    path = f"/v1/calls/{call_id}"
    told = 0
    call = await controller.get(path)
    with console.status("…") if console.is_terminal else nullcontext():
        while True:
            steps = list(_steps(call))
            for at, step, words in steps[told:]:
                console.print(f"{max(0.0, at - began):6.1f} s  {step:<12} {words}".rstrip(), highlight=False)
            told = max(told, len(steps))
            if call["status"] in FINAL:
                return call
            if time.monotonic() > deadline:
                _fail(Exit.FAILED, f"{call['id']} is still {call['status']}; it is watched no longer")
            call = await controller.get(path, wait=WAIT_SECONDS, **{"while": call["status"]})


def _steps(call: dict[str, Any]) -> Iterator[tuple[float, str, str]]:
    """What has happened to a call so far: when (Unix seconds), what, and more words.

    What was told once stands in its place at every later look.
    """
    yield _moment(call["created_at"]), "queued", "" if call["attempts"] else _until(call)
    for attempt in call["attempts"]:
        for name, step in (("dialed_at", "dialing"), ("ringing_at", "ringing"), ("answered_at", "answered")):
            if attempt[name]:
                trunk = attempt["trunk_reason"] or attempt["trunk"] if step == "dialing" else ""
                yield _moment(attempt[name]), step, trunk
        if attempt["ended_at"] and attempt["ended_at"] != call["ended_at"]:
            reason = attempt["end_reason"] or attempt["cause"] or ""
            yield _moment(attempt["ended_at"]), "again", f"{reason} {_until(call)}".strip()
    if call["status"] in FINAL:
        yield _moment(call["ended_at"] or call["updated_at"]), call["status"], _why(call)


def _until(call: dict[str, Any]) -> str:
    """Until when a call waits, where it is worth telling."""
    due_at = call.get("due_at")
    if not due_at or _moment(due_at) - time.time() < SOON_SECONDS:
        return ""
    return f"waits until {_clock(due_at)}"


def _why(call: dict[str, Any]) -> str:
    """Why a call ended as it did: our reason, and what the carrier said."""
    last = call["attempts"][-1] if call["attempts"] else {}
    reason = call["failure_reason"] or last.get("end_reason") or ""
    codes = [f"{name} {last[key]}" for name, key in (("SIP", "sip"), ("Q.850", "q850")) if last.get(key)]
    return f"{reason} ({', '.join(codes)})" if codes and reason else reason or ", ".join(codes)


async def _ask_until_known(controller: _Controller, made: dict[str, Any], lines: _Lines) -> bool:
    """Ask for the code until it is right, or no more may be checked, or nobody answers."""
    path = f"/v1/verifications/{made['id']}/check"
    while True:
        line = await lines.next(_moment(made["expires_at"]) - time.time(), prompt="Code: ")
        if line is None:
            _say("The code was not checked.")
            return False
        code = "".join(letter for letter in line if letter not in " -")
        if not code:
            continue
        outcome = await controller.post(path, {"code": code[:32]}, once=False)
        if outcome["valid"]:
            _say("Approved.")
            return True
        if outcome["status"] != "pending":
            _say(f"Wrong. The verification is {outcome['status']}.")
            return False
        _say(f"Wrong; {_count(outcome['checks_left'], 'check')} left.")


def _can_be_asked() -> bool:
    """Whether somebody types or something is piped in; not so under cron, where input is /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return sys.stdin.isatty() or stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


class _Lines:
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


# ---- call


@app.command()
def call(
    number: Annotated[str, typer.Argument(help="E.164, such as +8613800000000.")],
    flow: Annotated[str, typer.Option(help="The conversation, such as announcement.")],
    var: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT", help="A variable of the flow, once for each; NAME:=JSON for a number."
        ),
    ] = None,
    call_class: Annotated[
        CallClass | None, typer.Option("--class", help="Who goes first, and when it may ring.")
    ] = None,
    ttl: Annotated[int | None, typer.Option(min=30, help="Seconds after which it does not ring.")] = None,
    attempts: Annotated[int | None, typer.Option(min=1, max=10, help="How often it rings at most.")] = None,
    locale: Annotated[str | None, typer.Option(help="Language of the call, such as zh-CN.")] = None,
    from_number: Annotated[
        str | None, typer.Option("--from", help="The caller number to show, one of the client's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and ring nobody.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Ring a number and hold a conversation, telling each step."""
    optional = {"class": call_class and call_class.value, "ttl": ttl, "locale": locale, "from": from_number}
    asked: dict[str, Any] = {"to": number, "flow": flow, "variables": _variables(var or [])}
    asked |= {name: value for name, value in optional.items() if value is not None}
    if attempts is not None:
        asked["retry"] = {"attempts": attempts}
    if dry_run:
        raise typer.Exit(_run(_dry_run(url, key, asked, as_json=as_json)))
    raise typer.Exit(_run(_call(url, key, asked, as_json=as_json)))


def _variables(words: Sequence[str]) -> dict[str, Any]:
    """Read `name=text` and `name:=json`; ends the program at anything else."""
    variables: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        typed = name.endswith(":")
        name = name.removesuffix(":")
        if not name or not equals:
            _fail(Exit.USAGE, f"--var: {word!r} is no variable. Write NAME=TEXT, or NAME:=JSON")
        if name in variables:
            _fail(Exit.USAGE, f"--var: {name} is set twice")
        try:
            variables[name] = json.loads(text) if typed else text
        except ValueError:
            _fail(Exit.USAGE, f"--var: {text!r} is not JSON. Write {name}={text} for a text")
    return variables


async def _dry_run(url: str, key: str | None, asked: dict[str, Any], *, as_json: bool) -> Exit:
    async with _controller(url, key) as controller:
        verdict = await controller.post("/v1/calls?dry_run=true", asked, once=False)
    if as_json:
        _print_json(verdict)
    else:
        print(f"{verdict['to']} in {verdict['locale']}: {verdict['trunk_reason']} {_until(verdict)}".rstrip())
    return Exit.OK


async def _call(url: str, key: str | None, asked: dict[str, Any], *, as_json: bool) -> Exit:
    async with _controller(url, key) as controller:
        made = await controller.post("/v1/calls", asked)
        _stderr().print(f"{made['id']} to {made['to']}: {made['flow']} in {made['locale']}", highlight=False)
        ended = await _watch(controller, made["id"], made)
    if as_json:
        _print_json(ended)
    return Exit.OK if ended["status"] == CallStatus.COMPLETED.value else Exit.FAILED


# ---- calls


@app.command()
def calls(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID | cancel ID]", help="One call, with its attempts, or the call to cancel."
        ),
    ] = None,
    status: Annotated[CallStatus | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many, newest first.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show calls, or one call with its attempts, or cancel one."""
    *action, last = words or [""]
    if action not in ([], ["cancel"]) or last == "cancel":
        _fail(Exit.USAGE, "takes one ID, or cancel and one ID")
    call_id = last or None
    if call_id is not None and status is not None:
        _fail(Exit.USAGE, "--status chooses among many calls; leave it out where one is named")
    if action and call_id is not None:
        raise typer.Exit(_run(_cancel(url, key, call_id, as_json=as_json)))
    query: dict[str, Any] = {"limit": limit}
    query |= {"status": status.value} if status is not None else {}
    query |= {"cursor": cursor} if cursor is not None else {}
    raise typer.Exit(_run(_calls(url, key, call_id, query, as_json=as_json)))


async def _cancel(url: str, key: str | None, call_id: str, *, as_json: bool) -> Exit:
    async with _controller(url, key) as controller:
        seen = await controller.post(f"/v1/calls/{_quoted(call_id)}/cancel", {}, once=False)
    if as_json:
        _print_json(seen)
    elif seen["status"] in FINAL:
        print(f"{seen['id']} is {seen['status']}")
    else:
        print(f"{seen['id']} is {seen['status']}, and ends at its next step")
    return Exit.OK


def _quoted(resource_id: str) -> str:
    """An id as one step of a path, whatever it holds."""
    from urllib.parse import quote

    return quote(resource_id, safe="")


async def _calls(
    url: str, key: str | None, call_id: str | None, query: dict[str, Any], *, as_json: bool
) -> Exit:
    async with _controller(url, key) as controller:
        if call_id is not None:
            found = await controller.get(f"/v1/calls/{_quoted(call_id)}")
        else:
            found = await controller.get("/v1/calls", **query)
    if as_json:
        _print_json(found)
    elif call_id is not None:
        _show_call(found)
    else:
        _show_calls(found)
    return Exit.OK


def _show_calls(page: dict[str, Any]) -> None:
    if not page["items"]:
        _say("No calls.")
        return
    rows = [
        (_clock(call["created_at"]), call["id"], call["to"], call["flow"], call["status"], _why(call))
        for call in page["items"]
    ]
    _print_table(("created", "call", "to", "flow", "status", "why"), rows)
    if page["next_cursor"]:
        _say(f"There are older ones: --cursor {page['next_cursor']}")


def _show_call(call: dict[str, Any]) -> None:
    console = _stdout()
    for name in _TOLD_OF_A_CALL:
        if call.get(name) not in (None, {}):
            value = call[name]
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            console.print(f"{name:<15} {text}", highlight=False, markup=False)
    rows = [
        (
            str(attempt["number"]),
            attempt["trunk"],
            _clock(attempt["dialed_at"]),
            _clock(attempt["ringing_at"]),
            _clock(attempt["answered_at"]),
            _clock(attempt["ended_at"]),
            attempt["cause"] or "",
            str(attempt["sip"] or ""),
            str(attempt["q850"] or ""),
            attempt["end_reason"] or "",
            attempt.get("keys") or "",
        )
        for attempt in call["attempts"]
    ]
    if rows:
        _print_table(_HEADS_OF_ATTEMPTS, rows)


_TOLD_OF_A_CALL: Final = (
    "id",
    "to",
    "from",
    "flow",
    "class",
    "locale",
    "variables",
    "status",
    "created_at",
    "due_at",
    "ended_at",
    "expires_at",
    "failure_reason",
    "metadata",
    "out_id",
)
_HEADS_OF_ATTEMPTS: Final = (
    "#",
    "trunk",
    "dialed",
    "ringing",
    "answered",
    "ended",
    "cause",
    "SIP",
    "Q.850",
    "reason",
    "keys",
)


# ---- webhooks


@webhooks_app.callback(invoke_without_command=True)
def webhooks(
    context: typer.Context,
    status: Annotated[DeliveryStatus | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many, newest first.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show webhooks on their way, or send a dead one again."""
    if context.invoked_subcommand is not None:
        given = [name for name in context.params if _is_given(context, name)]
        if given:
            _fail(Exit.USAGE, f"options stand behind {context.invoked_subcommand}, not before it")
        return
    query: dict[str, Any] = {"limit": limit}
    query |= {"status": status.value} if status is not None else {}
    query |= {"cursor": cursor} if cursor is not None else {}
    raise typer.Exit(_run(_webhooks(url, key, query, as_json=as_json)))


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter stands on the command line itself."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


async def _webhooks(url: str, key: str | None, query: dict[str, Any], *, as_json: bool) -> Exit:
    async with _controller(url, key) as controller:
        page = await controller.get("/v1/webhook-deliveries", **query)
    if as_json:
        _print_json(page)
        return Exit.OK
    if not page["items"]:
        _say("No webhooks.")
        return Exit.OK
    rows = [
        (
            _clock(one["created_at"]),
            one["id"],
            one["type"],
            one["resource"],
            one["status"],
            str(one["tries"]),
            _clock(one["due_at"]),
            one["last_error"] or "",
        )
        for one in page["items"]
    ]
    _print_table(("created", "webhook", "type", "resource", "status", "tries", "next try", "error"), rows)
    if page["next_cursor"]:
        _say(f"There are older ones: --cursor {page['next_cursor']}")
    return Exit.OK


@webhooks_app.command("resend")
def webhooks_resend(
    webhook_id: Annotated[str, typer.Argument(metavar="ID", help="Its webhook-id; it must be dead.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Send a dead webhook again, at once."""
    raise typer.Exit(_run(_resend(url, key, webhook_id, as_json=as_json)))


async def _resend(url: str, key: str | None, webhook_id: str, *, as_json: bool) -> Exit:
    path = f"/v1/webhook-deliveries/{_quoted(webhook_id)}/resend"
    async with _controller(url, key) as controller:
        seen = await controller.post(path, {}, once=False)
    if as_json:
        _print_json(seen)
    else:
        print(f"{seen['id']} ({seen['type']}) is sent again")
    return Exit.OK


# ---- key


@key_app.command("new")
def key_new(
    name: Annotated[str, typer.Argument(help="The client's name.")],
    brand: Annotated[str | None, typer.Option(help="What a call says it comes from; else the name.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a key: shown once; the configuration holds its hash."""
    from telephony.api.keys import hash_key, new_key

    for what, text in (("NAME", name), ("--brand", brand or name)):
        if not 1 <= len(text) <= 64 or not text.isprintable():
            _fail(Exit.USAGE, f"{what}: is not usable. Write 1 to 64 printable characters")
    drawn = new_key()
    if as_json:
        _print_json({"name": name, "brand": brand or name, "key": drawn, "key_hash": hash_key(drawn)})
        return
    _say("The key, shown this once:")
    print(drawn)
    _say("For telephony.toml:")
    print(_client_toml(name, hash_key(drawn), brand or name), end="")


def _client_toml(name: str, key_hash: str, brand: str) -> str:
    quoted = [json.dumps(text, ensure_ascii=False) for text in (name, key_hash, brand)]
    return "[[clients]]\nname = {}\nkey_hash = {}\nbrand = {}\n".format(*quoted)


# ---- lab


@lab_app.command("up")
def lab_up(
    answer: Annotated[
        bool, typer.Option("--answer", help="Every number answers and listens (default).")
    ] = False,
    busy: Annotated[bool, typer.Option("--busy", help="Every number is busy (486).")] = False,
    no_answer: Annotated[bool, typer.Option("--no-answer", help="Every number rings on.")] = False,
    decline: Annotated[
        bool, typer.Option("--decline", help="Every number rings, then declines (603).")
    ] = False,
    unallocated: Annotated[bool, typer.Option("--unallocated", help="No number exists (404).")] = False,
    voicemail: Annotated[bool, typer.Option("--voicemail", help="Every number is a voicemail box.")] = False,
    hang_up_early: Annotated[
        bool, typer.Option("--hang-up-early", help="Every number answers and hangs up after 1 s.")
    ] = False,
    press: Annotated[
        str | None, typer.Option(metavar="KEYS", help="Every number answers, and presses KEYS after 2 s.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the telephony.toml there (it must be new).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a lab until Ctrl-C, and show what a controller needs to use it."""
    chosen = {
        "answer": answer,
        "busy": busy,
        "no_answer": no_answer,
        "decline": decline,
        "unallocated": unallocated,
        "voicemail": voicemail,
        "hang_up_early": hang_up_early,
        "press_keys": press is not None,
    }
    names = [name for name, wanted in chosen.items() if wanted]
    if len(names) > 1:
        _fail(Exit.USAGE, "a number can behave in one way only; choose one of the options")
    if press is not None and not (press and set(press) <= set("0123456789*#ABCD")):
        _fail(Exit.USAGE, "--press: takes keys such as 1 or *")
    if write is not None and write.exists():
        _fail(Exit.USAGE, f"{write} is there already; name a new file")
    _quiet_logs()
    subscriber = _subscriber(names[0] if names else "answer", press or "")
    raise typer.Exit(_run(_lab_up(subscriber, write, as_json=as_json)))


def _subscriber(name: str, keys: str) -> Subscriber:
    from telephony import lab

    if name == "press_keys":
        return lab.press_keys([(2.0, keys)])
    made: dict[str, Callable[[], Subscriber]] = {
        "answer": lab.answer_and_listen,
        "busy": lab.busy,
        "no_answer": lab.no_answer,
        "decline": lab.decline,
        "unallocated": lab.unallocated,
        "voicemail": lab.voicemail,
        "hang_up_early": lab.hang_up_early,
    }
    return made[name]()


async def _lab_up(subscriber: Subscriber, write: Path | None, *, as_json: bool) -> Exit:
    from telephony.lab import running_labs, up

    ready = asyncio.Event()
    lab = asyncio.create_task(up(default=subscriber, progress=_say, ready=ready))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait((lab, waiting), return_when=asyncio.FIRST_COMPLETED)
        if ready.is_set():
            state = next(state for state in running_labs() if state.pid == os.getpid())
            _show_lab(state, write, as_json=as_json)
        await lab
    finally:
        waiting.cancel()
        lab.cancel()
        await asyncio.gather(lab, waiting, return_exceptions=True)
    return Exit.OK


def _show_lab(state: LabState, write: Path | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    from telephony.api.keys import hash_key, new_key

    key = new_key()
    snippet = _lab_toml(state, hash_key(key))
    if write is not None:
        with os.fdopen(os.open(write, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(snippet)
    if as_json:
        _print_json({**asdict(state), "key": key, "config": snippet})
        return
    print(f"PBX      {state.pbx_address}: SIP {state.sip_port}, AMI {state.ami_port}, user {state.ami_user}")
    print(f"carrier  {state.carrier_address} and {state.carrier_address_b}; calls in {state.calls_log}")
    if write is None:
        print(f"\n# telephony.toml for this lab\n{snippet}")
    else:
        print(f"config   {write}")
    print(
        f"Now:  telephony serve --config {write or 'telephony.toml'}\n"
        f"and:  TELEPHONY_KEY={key} telephony verify +8613800000001\n"
        "Ctrl-C ends the lab.",
        flush=True,
    )


def _lab_toml(state: LabState, key_hash: str) -> str:
    """A whole configuration that fits a lab; all it keeps lies in the lab's folder and goes with it."""
    host, _, port = state.agi.rpartition(":")
    folder = f"{state.run_dir}/controller"
    return f"""[store]
url = "sqlite:///{folder}/telephony.db"

[secrets]
master_key_file = "{folder}/master.key"

[pbx.ami]
host = "{state.pbx_address}"
port = {state.ami_port}
username = "{state.ami_user}"
secret = "{state.ami_secret}"

[fastagi]
host = "{host}"
port = {port}

[speech]
cache_dir = "{folder}/speech"

[numbers]
allowed_regions = ["CN", "US", "ES", "GB"]

[[trunks]]
name = "carrier"
endpoint = "{state.trunks[0]}"

{_client_toml("lab", key_hash, "Lab")}
[log]
format = "console"
"""


@lab_app.command("call")
def lab_call(
    number: Annotated[str, typer.Argument(help="What the PBX dials, such as +8613800000001.")],
    trunk: Annotated[str, typer.Option(help="The PBX's endpoint to dial through.")] = "carrier",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=60.0, help="Hang up so long after the answer.")
    ] = 3.0,
    lab: Annotated[int | None, typer.Option(help="The lab's number, where several are up.")] = None,
    as_json: Json = False,
) -> None:
    """Let the lab's PBX ring one of its subscribers, without a controller, and tell what came of it."""
    if not number or not set(number) <= set("+0123456789*#"):
        _fail(Exit.USAGE, f"{number!r} can't be dialled; write digits, +, * and # only")
    _quiet_logs()
    state = _running_lab(lab)
    if trunk not in state.trunks:
        _fail(Exit.USAGE, f"the lab has no trunk {trunk!r}; it has {', '.join(state.trunks)}")
    ended = _run(_lab_call(state, number, trunk, seconds))
    if as_json:
        _print_json(ended)
    else:
        answered = ended["answered_at"] is not None
        print(
            f"{number}: {'answered' if answered else 'not answered'}, SIP {ended['final_code'] or 'unknown'}"
        )
    raise typer.Exit(Exit.OK if ended["final_code"] == 200 else Exit.FAILED)


async def _lab_call(state: LabState, number: str, trunk: str, seconds: float) -> dict[str, Any]:
    """Originate, and return the carrier's own account of the call."""
    from telephony.net.ami import AmiClient, AmiConfig

    log = Path(state.calls_log)
    seen = _length(log)
    manager = AmiClient(
        AmiConfig(
            host=state.pbx_address,
            port=state.ami_port,
            username=state.test_user,
            secret=state.test_secret,
            events="off",
        )
    )
    order = (
        ("Channel", f"PJSIP/{number}@{trunk}"),
        ("Timeout", "30000"),
        ("Application", "Wait"),
        ("Data", f"{seconds:g}"),
        ("Async", "true"),
    )
    await manager.start()
    try:
        if not await manager.wait_connected(5.0):
            _fail(Exit.UNREACHABLE, f"the lab's PBX does not answer at {state.pbx_address}:{state.ami_port}")
        await manager.action("Originate", order)
        deadline = time.monotonic() + LAB_CALL_SECONDS + seconds
        while True:
            for entry in _log_entries(log, seen):
                if entry["event"] == "ended" and entry["number"] == number and not entry["placed"]:
                    return entry
            if time.monotonic() > deadline:
                _fail(Exit.FAILED, f"the carrier saw no end of a call to {number}")
            await asyncio.sleep(0.1)
    finally:
        await manager.stop()


def _length(log: Path) -> int:
    """Bytes of a file, 0 where there is none yet."""
    return log.stat().st_size if log.exists() else 0


def _log_entries(log: Path, start: int) -> Iterator[dict[str, Any]]:
    """The whole lines of the carrier's log from `start` (bytes)."""
    if not log.exists():
        return
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


@lab_app.command("down")
def lab_down(
    lab: Annotated[int | None, typer.Option(help="The lab's number, where several are up.")] = None,
    as_json: Json = False,
) -> None:
    """End a lab that runs elsewhere on this machine."""
    from telephony.lab import down

    state = _running_lab(lab)
    _run(down(state))
    if as_json:
        _print_json({"number": state.number, "pid": state.pid, "ended": True})
    else:
        print(f"lab {state.number} has ended")


def _running_lab(number: int | None) -> LabState:
    """The lab of this number, or the only one there is."""
    from telephony.lab import running_labs

    labs = [state for state in running_labs() if number in (None, state.number)]
    if not labs:
        _fail(Exit.UNREACHABLE, "no such lab is up; `telephony lab up` starts one")
    if len(labs) > 1:
        numbers = ", ".join(str(state.number) for state in labs)
        _fail(Exit.USAGE, f"several labs are up ({numbers}); choose one with --lab")
    return labs[0]


# ---- talking to a controller


class _Controller:
    """A running controller, as its HTTP API shows it; ends the program with what it refuses."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(self, path: str, **query: str | float) -> dict[str, Any]:
        """Read a resource."""
        return await self._ask("GET", path, params={name: str(value) for name, value in query.items()})

    async def post(self, path: str, body: dict[str, Any], *, once: bool = True) -> dict[str, Any]:
        """Make or change something; `once` sends an Idempotency-Key."""
        from uuid import uuid4

        headers = {"Idempotency-Key": str(uuid4())} if once else {}
        return await self._ask("POST", path, json=body, headers=headers)

    async def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        import aiohttp

        try:
            async with self._session.request(
                method, self._url + path, allow_redirects=False, **request
            ) as response:
                status = response.status
                reply = await response.json(content_type=None)
        except (TimeoutError, aiohttp.ClientConnectionError, aiohttp.InvalidURL) as error:
            _fail(Exit.UNREACHABLE, f"no controller answers at {self._url} ({error or 'timeout'})")
        except (ValueError, aiohttp.ClientError):
            _fail(Exit.UNREACHABLE, f"what answers at {self._url} is no controller")
        if not isinstance(reply, dict):
            _fail(Exit.UNREACHABLE, f"what answers at {self._url} is no controller")
        if status >= 300:
            _fail(
                _code_of_reply(status, reply),
                _words_of_problem(status, reply, response.headers.get("Retry-After")),
            )
        return reply


@asynccontextmanager
async def _controller(url: str, key: str | None) -> AsyncIterator[_Controller]:
    import aiohttp

    if not key:
        _fail(Exit.USAGE, "a key is missing. Set TELEPHONY_KEY; `telephony key new NAME` makes one")
    if not key.isascii() or not key.isprintable():
        _fail(Exit.USAGE, "the key holds characters that no key has")
    if not url.startswith(("http://", "https://")):
        _fail(Exit.USAGE, f"{url!r} is no address. Write it like {DEFAULT_URL}")
    headers = {"Authorization": f"Bearer {key}", "User-Agent": f"telephony/{__version__}"}
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield _Controller(session, url.rstrip("/"))


def _code_of_reply(status: int, reply: dict[str, Any]) -> Exit:
    """The exit code that a problem stands for."""
    if status in (403, 409, 429) or reply.get("type") == "/docs#overloaded":
        return Exit.REFUSED
    return Exit.UNREACHABLE if status >= 500 else Exit.USAGE


def _words_of_problem(status: int, reply: dict[str, Any], retry_after: str | None) -> str:
    words = f"{reply.get('title', 'refused')} ({status}): {reply.get('detail', '')}"
    if retry_after:
        words += f"; try again in {retry_after} s"
    mends = [f"\n  {one['field']}: {one['mend']}" for one in reply.get("errors", ())]
    return words + "".join(mend for mend in mends if mend.partition(": ")[2] not in words)


# ---- saying things


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C ends it with the code that shells use for it."""
    try:
        return asyncio.run(_until_interrupted(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("Interrupted; a call that is under way goes on.")
        raise typer.Exit(Exit.INTERRUPTED) from None


async def _until_interrupted(work: Coroutine[Any, Any, T]) -> T:
    """Cancel the work by a callback of the loop: a signal in the middle of a step could be missed."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    return await task


def _code_of(error: TelephonyError) -> Exit:
    """The exit code that an error of ours stands for."""
    if isinstance(error, ConfigError | InputError):
        return Exit.USAGE
    if isinstance(error, Refused):
        return Exit.REFUSED
    return Exit.UNREACHABLE if isinstance(error, PbxError | StoreError) else Exit.FAILED


def _fail(code: Exit, words: str) -> NoReturn:
    _say(f"telephony: {words}")
    raise typer.Exit(code)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _quiet_logs() -> None:
    """Keep the logs of rooms that work for a command off standard output, and to what failed."""
    from telephony.logs import set_up_logs

    set_up_logs("error", "console")


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2), flush=True)


def _print_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _stdout().print(table)


def _stdout() -> Console:
    """A console that never cuts what goes into a file or a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 240)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else 240)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _moment(text: str) -> float:
    """Unix seconds of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def _clock(text: str | None) -> str:
    """The local time of day of an RFC 3339 time, with its date where it is not today's."""
    if text is None:
        return ""
    when = datetime.fromisoformat(text).astimezone()
    today = datetime.now().astimezone().date()
    return f"{when:%H:%M:%S}" if when.date() == today else f"{when:%Y-%m-%d %H:%M:%S}"
