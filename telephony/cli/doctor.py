"""`telephony doctor`: holds a configuration against the machine and the PBX that it names.

What it never does: change anything, anywhere, or place a call.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from telephony.cli.exits import Exit, run
from telephony.cli.options import Config, Json
from telephony.cli.output import count, print_json, quiet_logs, stdout
from telephony.cli.serve import settings_or_exit

if TYPE_CHECKING:
    from telephony.doctor import Finding
    from telephony.settings import Settings

_COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


def doctor(config: Config = None, as_json: Json = False) -> None:
    """Test the configuration against the live PBX: rights, dialplan, endpoints; and speech, store, ports."""
    settings = settings_or_exit(config)
    quiet_logs()
    findings = run(_examine(settings, told=not as_json))
    if as_json:
        print_json([asdict(one) for one in findings])
    faults = sum(one.level == "fault" for one in findings)
    if not as_json:
        print("\n" + (count(faults, "fault") if faults else "No fault: calls can be placed."))
    raise typer.Exit(Exit.FAILED if faults else Exit.OK)


async def _examine(settings: Settings, *, told: bool) -> list[Finding]:
    """Each finding is told as it comes: a PBX that does not answer takes seconds."""
    from telephony.doctor import examine

    findings = []
    async for one in examine(settings):
        findings.append(one)
        if told:
            _tell(one)
    return findings


def _tell(one: Finding) -> None:
    from rich.text import Text

    line = Text.assemble((f"{one.level:<8}", _COLOURS[one.level]), f"{one.part:<26} {one.found}")
    stdout().print(line, soft_wrap=True)
    if one.mend:
        stdout().print(Text(f"{'':8}{'':26} {one.mend}"), soft_wrap=True)
