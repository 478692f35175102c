"""Options that many commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from telephony.cli.exits import Exit, fail

DEFAULT_URL: Final = "http://127.0.0.1:8080"
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option(envvar="TELEPHONY_URL", help="Where the controller is.")]
Key = Annotated[
    str | None,
    typer.Option(envvar="TELEPHONY_KEY", show_envvar=True, help="API key; better kept in the environment."),
]
Config = Annotated[
    Path | None,
    typer.Option(help="The configuration; else TELEPHONY_CONFIG, ./telephony.toml, /etc/telephony."),
]


def none_before(context: typer.Context) -> None:
    """End the command where a group's own options stand before one of its commands."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            fail(Exit.USAGE, f"options stand behind {context.invoked_subcommand}, not before it")
