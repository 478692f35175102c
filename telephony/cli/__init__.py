"""The command line: run a controller, talk to one over HTTP, make keys, keep a lab, look at trees and trunks.

Data goes to standard output (as JSON with `--json`), progress and faults to standard error. Whatever takes
long to import is imported by the command that needs it. What it never does: reach past the HTTP API into a
running controller.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from telephony import __version__
from telephony.cli.agi import agi
from telephony.cli.calls import call, calls
from telephony.cli.doctor import doctor
from telephony.cli.exits import code_of, say
from telephony.cli.init import init
from telephony.cli.ivr import app as ivr_app
from telephony.cli.keys import key_app
from telephony.cli.lab import lab_app
from telephony.cli.serve import serve
from telephony.cli.trunks import app as trunks_app
from telephony.cli.verify import verify
from telephony.cli.webhooks import webhooks_app
from telephony.errors import TelephonyError

app = typer.Typer(
    help="Verification calls, payment confirmations and other outbound calls over Asterisk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (init, doctor, serve, verify, call, calls, agi):
    app.command()(command)
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(key_app, name="key")
app.add_typer(lab_app, name="lab")
app.add_typer(ivr_app, name="ivr")
app.add_typer(trunks_app, name="trunks")


def main() -> None:
    """Run the command line; a fault of ours ends it with its message and exit code."""
    try:
        app(prog_name="telephony")
    except TelephonyError as error:
        say(f"telephony: {error}")
        sys.exit(code_of(error))


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
