"""`telephony serve`, and how a configuration is read by a command."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from telephony import __version__
from telephony.cli.exits import Exit, say
from telephony.cli.options import Config
from telephony.cli.output import count

if TYPE_CHECKING:
    from telephony.settings import Settings


def serve(config: Config = None) -> None:
    """Run the controller until SIGTERM or Ctrl-C."""
    # Nothing that is imported is garbage, and looking for it takes an eighth of the start; `run` looks again.
    gc.disable()
    settings = settings_or_exit(config)
    from telephony.app import run
    from telephony.logs import set_up_logs

    set_up_logs(settings.log.level, settings.log.format)
    # Every prompt is made before the first call: at the first start that takes seconds.
    say(f"telephony {__version__} is starting")
    run(settings)


def settings_or_exit(config: Path | None) -> Settings:
    """Read the configuration; ends the program with every fault that it has."""
    from telephony.settings import ConfigErrors, find_config, load_settings

    try:
        return load_settings(config)
    except ConfigErrors as errors:
        place = find_config(config, os.environ) or "configuration"
        say(f"telephony: {place}: {count(len(errors.errors), 'fault')}")
        for error in errors.errors:
            say(f"  {error}")
        raise typer.Exit(Exit.USAGE) from None
