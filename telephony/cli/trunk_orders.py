"""`telephony trunks`, and its orders: drain, resume and limit a trunk, for all controllers of a store."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any, Final

import typer

from telephony.cli.client import Controller, controller_at, quoted
from telephony.cli.exits import Exit, fail, run, say
from telephony.cli.options import DEFAULT_URL, Json, Key, Url, none_before
from telephony.cli.output import clock, print_json, print_table

LOOK_SECONDS: Final = 1.0
_LIMIT: Final = re.compile(r"(?P<name>[^=]{1,64})=(?P<lines>[0-9]{1,6}|configured)")
_HEADS: Final = (
    "trunk",
    "endpoint",
    "state",
    "in use",
    "out",
    "in",
    "foreign",
    "a second",
    "breaker",
    "saturated",
    "why",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The trunk, as the configuration calls it.")]


def trunks(context: typer.Context, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Show trunks, drain, resume or limit one, or count the lines that are needed."""
    if context.invoked_subcommand is not None:
        none_before(context)
        return
    raise typer.Exit(run(_list(url, key, as_json=as_json)))


async def _list(url: str, key: str | None, *, as_json: bool) -> Exit:
    async with controller_at(url, key) as controller:
        found = await controller.get("/v1/trunks")
    if as_json:
        print_json(found)
    else:
        print_table(_HEADS, [_row(one) for one in found["items"]])
    return Exit.OK


def _row(trunk: dict[str, Any]) -> tuple[str, ...]:
    breaker, pace = trunk["breaker"], trunk["calls_per_second"]
    return (
        trunk["name"],
        trunk["endpoint"],
        trunk["state"],
        _use(trunk),
        str(trunk["outbound"]),
        str(trunk["inbound"]),
        str(trunk["foreign"]),
        "" if pace is None else f"{pace:g}",
        breaker["state"],
        clock(trunk["saturated_at"]),
        trunk["why"] or "",
    )


def _use(trunk: dict[str, Any]) -> str:
    return str(trunk["in_use"]) if trunk["limit"] is None else f"{trunk['in_use']}/{trunk['limit']}"


def drain(
    name: Name,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Wait so long for its last call to end; else 1 is returned."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Let a trunk take no new call; those that stand go on."""
    raise typer.Exit(run(_drain(url, key, name, wait, as_json=as_json)))


async def _drain(url: str, key: str | None, name: str, wait: float | None, *, as_json: bool) -> Exit:
    async with controller_at(url, key) as controller:
        seen = await controller.post(f"/v1/trunks/{quoted(name)}/drain", {}, once=False)
        if wait is not None:
            seen = await _until_empty(controller, seen, wait)
    _tell(seen, as_json=as_json)
    return Exit.FAILED if wait is not None and seen["in_use"] else Exit.OK


async def _until_empty(controller: Controller, seen: dict[str, Any], wait: float) -> dict[str, Any]:
    """Look each second until no call stands; there is nothing to be told of it meanwhile."""
    deadline = time.monotonic() + wait
    while seen["in_use"] and (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(LOOK_SECONDS, left))
        seen = await controller.get(f"/v1/trunks/{quoted(seen['name'])}")
    if seen["in_use"]:
        say(f"telephony: {seen['name']} has {seen['in_use']} in use after {wait:g} s")
    return seen


def resume(name: Name, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Let a trunk take calls again."""
    raise typer.Exit(run(_order(url, key, name, "resume", {}, as_json=as_json)))


def limit(
    order: Annotated[
        str, typer.Argument(metavar="NAME=N", help="So many calls at once; NAME=configured for the file's.")
    ],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Let so many calls stand on a trunk, from the next call on."""
    found = _LIMIT.fullmatch(order)
    if found is None:
        fail(Exit.USAGE, f"{order[:80]!r} is no limit. Write NAME=N, such as main=30, or NAME=configured")
    channels = None if found["lines"] == "configured" else int(found["lines"])
    raise typer.Exit(run(_order(url, key, found["name"], "limit", {"channels": channels}, as_json=as_json)))


async def _order(
    url: str, key: str | None, name: str, order: str, body: dict[str, Any], *, as_json: bool
) -> Exit:
    async with controller_at(url, key) as controller:
        seen = await controller.post(f"/v1/trunks/{quoted(name)}/{order}", body, once=False)
    _tell(seen, as_json=as_json)
    return Exit.OK


def _tell(trunk: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(trunk)
        return
    why = f": {trunk['why']}" if trunk["why"] else ""
    print(f"{trunk['name']} is {trunk['state']}, {_use(trunk)} in use{why}")
