"""`telephony agi`: carries a call from Asterisk, by standard input and output, to a running controller.

What it never does: print anything but AGI.
"""

from __future__ import annotations

from typing import Annotated

import typer

from telephony.net.stdio import relay


def agi(
    script: Annotated[str, typer.Argument(metavar="ivr/NAME[?VARIABLE=VALUE]", help="Which tree.")],
    controller: Annotated[
        str, typer.Argument(metavar="[HOST:PORT]", help="Its FastAGI; else TELEPHONY_AGI, else this machine.")
    ] = "",
) -> None:
    """Be an AGI script of Asterisk's: AGI(telephony-agi,ivr/NAME), which starts sooner, does the same."""
    raise typer.Exit(relay(script, controller))
