"""`telephony serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from telephony import __version__
from telephony.cli.exits import Exit, say
from telephony.cli.output import count


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
        say(f"telephony: {place}: {count(len(errors.errors), 'fault')}")
        for error in errors.errors:
            say(f"  {error}")
        raise typer.Exit(Exit.USAGE) from None
    from telephony.app import run
    from telephony.logs import set_up_logs

    set_up_logs(settings.log.level, settings.log.format)
    # Every prompt is made before the first call: at the first start that takes seconds.
    say(f"telephony {__version__} is starting")
    run(settings)
