"""`telephony webhooks`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from telephony.cli.client import controller_at, quoted
from telephony.cli.exits import Exit, run, say
from telephony.cli.options import DEFAULT_URL, Json, Key, Url, none_before
from telephony.cli.output import clock, print_json, print_table
from telephony.model.delivery import DeliveryStatus

webhooks_app = typer.Typer(help="Show webhooks on their way, or send a dead one again.")


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
        none_before(context)
        return
    query: dict[str, Any] = {"limit": limit}
    query |= {"status": status.value} if status is not None else {}
    query |= {"cursor": cursor} if cursor is not None else {}
    raise typer.Exit(run(_webhooks(url, key, query, as_json=as_json)))


async def _webhooks(url: str, key: str | None, query: dict[str, Any], *, as_json: bool) -> Exit:
    async with controller_at(url, key) as controller:
        page = await controller.get("/v1/webhook-deliveries", **query)
    if as_json:
        print_json(page)
        return Exit.OK
    if not page["items"]:
        say("No webhooks.")
        return Exit.OK
    rows = [
        (
            clock(one["created_at"]),
            one["id"],
            one["type"],
            one["resource"],
            one["status"],
            str(one["tries"]),
            clock(one["due_at"]),
            one["last_error"] or "",
        )
        for one in page["items"]
    ]
    print_table(("created", "webhook", "type", "resource", "status", "tries", "next try", "error"), rows)
    if page["next_cursor"]:
        say(f"There are older ones: --cursor {page['next_cursor']}")
    return Exit.OK


@webhooks_app.command("resend")
def webhooks_resend(
    webhook_id: Annotated[str, typer.Argument(metavar="ID", help="Its webhook-id; it must be dead.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Send a dead webhook again, at once."""
    raise typer.Exit(run(_resend(url, key, webhook_id, as_json=as_json)))


async def _resend(url: str, key: str | None, webhook_id: str, *, as_json: bool) -> Exit:
    path = f"/v1/webhook-deliveries/{quoted(webhook_id)}/resend"
    async with controller_at(url, key) as controller:
        seen = await controller.post(path, {}, once=False)
    if as_json:
        print_json(seen)
    else:
        print(f"{seen['id']} ({seen['type']}) is sent again")
    return Exit.OK
