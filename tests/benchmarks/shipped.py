"""The controller as users run it: `telephony serve --config FILE`, with uvloop where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.acceptance import evidence
from tests.acceptance.control import ControllerProcess, Json


class ShippedController(ControllerProcess):
    """`telephony serve` as a process, its log in a file. `before` runs it under something else."""

    def __init__(self, folder: Path, settings: Json, *, before: Sequence[str] = ()) -> None:
        super().__init__(folder, settings)
        # These files go with the measurement: no test reads them afterwards.
        evidence.FILES.remove(self.log_file)
        evidence.DATABASES.remove(folder / "telephony.db")
        self.settings = settings
        self.config = folder / "telephony.toml"
        self.config.write_text("".join(f"{name} = {toml(value)}\n" for name, value in settings.items()))
        self._before = before

    def command(self) -> list[str]:
        return [sys.executable, "-m", *(self._before or ["telephony"]), "serve", "--config", str(self.config)]


def toml(value: Any) -> str:
    """A value of a configuration in TOML, tables inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False)
