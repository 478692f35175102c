"""A user's own contexts in the lab's PBX, beside ours, for a while.

What it never does: change the dialplan that is being tried.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from telephony.lab.config import OWN_DIALPLAN
from telephony.lab.lab import Lab


@asynccontextmanager
async def own_dialplan(lab: Lab, text: str) -> AsyncIterator[None]:
    """Contexts of a user, while the block runs."""
    path = lab.pbx.run_dir / "etc" / OWN_DIALPLAN
    path.write_text(text, "utf-8")
    await lab.pbx.console("dialplan reload")
    try:
        yield
    finally:
        path.unlink()
        await lab.pbx.console("dialplan reload")
