"""`FILE serve …`: the command line with a PBX in memory behind it; everything else is as shipped.

Whoever is called answers at once and presses nothing, so that a call is over within milliseconds. Each
dial is a line `NUMBER SECONDS` (Unix time) in FILE.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from telephony import app
from telephony.cli import main
from telephony.pbx.asterisk import AsteriskConfig
from telephony.pbx.memory import MemoryLeg, MemoryPbx
from telephony.pbx.port import DialOrder

DIALLED = sys.argv.pop(1) if __name__ == "__main__" else ""


class TimedPbx(MemoryPbx):
    """The `Pbx` port in memory, with what the app asks of the Asterisk backend."""

    agi_port = 0
    stray_sessions = 0

    def __init__(self, _config: AsteriskConfig, **_more: Any) -> None:
        super().__init__()
        self._dialled = Path(DIALLED).open("w", buffering=1)  # noqa: SIM115 - open as long as we live

    @asynccontextmanager
    async def dial(self, order: DialOrder) -> AsyncIterator[MemoryLeg]:
        self._dialled.write(f"{order.number} {time.time():.6f}\n")
        async with super().dial(order) as leg:
            yield leg


if __name__ == "__main__":
    app.AsteriskPbx = TimedPbx  # type: ignore[assignment, attr-defined]
    main()
