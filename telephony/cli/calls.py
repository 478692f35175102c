"""`telephony call` and `telephony calls`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from telephony.cli.client import controller_at, quoted
from telephony.cli.exits import Exit, fail, run, say
from telephony.cli.options import DEFAULT_URL, Json, Key, Url
from telephony.cli.output import clock, print_json, print_table, stderr, stdout
from telephony.cli.watching import FINAL, until, watch, why
from telephony.model.call import CallClass, CallStatus

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
        raise typer.Exit(run(_dry_run(url, key, asked, as_json=as_json)))
    raise typer.Exit(run(_call(url, key, asked, as_json=as_json)))


def _variables(words: Sequence[str]) -> dict[str, Any]:
    """Read `name=text` and `name:=json`; ends the program at anything else."""
    variables: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        typed = name.endswith(":")
        name = name.removesuffix(":")
        if not name or not equals:
            fail(Exit.USAGE, f"--var: {word!r} is no variable. Write NAME=TEXT, or NAME:=JSON")
        if name in variables:
            fail(Exit.USAGE, f"--var: {name} is set twice")
        try:
            variables[name] = json.loads(text) if typed else text
        except ValueError:
            fail(Exit.USAGE, f"--var: {text!r} is not JSON. Write {name}={text} for a text")
    return variables


async def _dry_run(url: str, key: str | None, asked: dict[str, Any], *, as_json: bool) -> Exit:
    async with controller_at(url, key) as controller:
        verdict = await controller.post("/v1/calls?dry_run=true", asked, once=False)
    if as_json:
        print_json(verdict)
    else:
        print(f"{verdict['to']} in {verdict['locale']}: {verdict['trunk_reason']} {until(verdict)}".rstrip())
    return Exit.OK


async def _call(url: str, key: str | None, asked: dict[str, Any], *, as_json: bool) -> Exit:
    async with controller_at(url, key) as controller:
        made = await controller.post("/v1/calls", asked)
        stderr().print(f"{made['id']} to {made['to']}: {made['flow']} in {made['locale']}", highlight=False)
        ended = await watch(controller, made["id"], made)
    if as_json:
        print_json(ended)
    return Exit.OK if ended["status"] == CallStatus.COMPLETED.value else Exit.FAILED


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
        fail(Exit.USAGE, "takes one ID, or cancel and one ID")
    call_id = last or None
    if call_id is not None and status is not None:
        fail(Exit.USAGE, "--status chooses among many calls; leave it out where one is named")
    if action and call_id is not None:
        raise typer.Exit(run(_cancel(url, key, call_id, as_json=as_json)))
    query: dict[str, Any] = {"limit": limit}
    query |= {"status": status.value} if status is not None else {}
    query |= {"cursor": cursor} if cursor is not None else {}
    raise typer.Exit(run(_calls(url, key, call_id, query, as_json=as_json)))


async def _cancel(url: str, key: str | None, call_id: str, *, as_json: bool) -> Exit:
    async with controller_at(url, key) as controller:
        seen = await controller.post(f"/v1/calls/{quoted(call_id)}/cancel", {}, once=False)
    if as_json:
        print_json(seen)
    elif seen["status"] in FINAL:
        print(f"{seen['id']} is {seen['status']}")
    else:
        print(f"{seen['id']} is {seen['status']}, and ends at its next step")
    return Exit.OK


async def _calls(
    url: str, key: str | None, call_id: str | None, query: dict[str, Any], *, as_json: bool
) -> Exit:
    async with controller_at(url, key) as controller:
        if call_id is not None:
            found = await controller.get(f"/v1/calls/{quoted(call_id)}")
        else:
            found = await controller.get("/v1/calls", **query)
    if as_json:
        print_json(found)
    elif call_id is not None:
        _show_call(found)
    else:
        _show_calls(found)
    return Exit.OK


def _show_calls(page: dict[str, Any]) -> None:
    if not page["items"]:
        say("No calls.")
        return
    rows = [
        (clock(call["created_at"]), call["id"], call["to"], call["flow"], call["status"], why(call))
        for call in page["items"]
    ]
    print_table(("created", "call", "to", "flow", "status", "why"), rows)
    if page["next_cursor"]:
        say(f"There are older ones: --cursor {page['next_cursor']}")


def _show_call(call: dict[str, Any]) -> None:
    console = stdout()
    for name in _TOLD_OF_A_CALL:
        if call.get(name) not in (None, {}):
            value = call[name]
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            console.print(f"{name:<15} {text}", highlight=False, markup=False)
    rows = [
        (
            str(attempt["number"]),
            attempt["trunk"],
            clock(attempt["dialed_at"]),
            clock(attempt["ringing_at"]),
            clock(attempt["answered_at"]),
            clock(attempt["ended_at"]),
            attempt["cause"] or "",
            str(attempt["sip"] or ""),
            str(attempt["q850"] or ""),
            attempt["end_reason"] or "",
            attempt.get("keys") or "",
        )
        for attempt in call["attempts"]
    ]
    if rows:
        print_table(_HEADS_OF_ATTEMPTS, rows)
