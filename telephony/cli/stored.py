"""The store of a configuration, for commands that count what it holds.

What it never does: make or migrate it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from telephony.cli.exits import Exit, fail

if TYPE_CHECKING:
    from telephony.settings import Settings
    from telephony.store.store import Store

STORE_SECONDS: Final = 30.0


@asynccontextmanager
async def open_stored(settings: Settings, reader: str) -> AsyncIterator[Store]:
    """Open it under the name of its `reader`; ends the program where a file is not there."""
    from telephony.store.engines import open_engine
    from telephony.store.store import Store

    url = settings.store.url
    kind, _, path = url.partition(":///")
    if kind.startswith("sqlite") and not Path(path).is_file():  # noqa: ASYNC240 - a program of one task
        # To open it would make it.
        fail(Exit.UNREACHABLE, f"{path} is not there; it is the store.url of the configuration")
    store = Store(open_engine(url, deadline=STORE_SECONDS), reader, None)
    try:
        yield store
    finally:
        await store.close()
