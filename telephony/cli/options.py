"""Options that many commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

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
