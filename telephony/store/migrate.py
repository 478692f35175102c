"""Brings a database to the newest revision at start, however many start at once.

What it never does: go back, or touch a database that a newer version has been at.
"""

from __future__ import annotations

from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from telephony.errors import ConfigError
from telephony.store.engines import Connection as EngineConnection
from telephony.store.engines import Engine

_log = structlog.get_logger(__name__)

_SCRIPTS: Final = "telephony.store:migrations"


async def migrate(engine: Engine) -> None:
    """Apply what is missing, in one transaction that excludes other starters.

    Raises `ConfigError` when the database is newer than this code, `StoreUnavailable` when it can't be
    reached or written.
    """

    async def work(connection: EngineConnection) -> None:
        await connection.run_sync(_upgrade)

    await engine.migrate(work)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", _SCRIPTS)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(
            "store.url",
            f"the database is at revision {current}, which this version does not know",
            "Install the version that wrote it or a newer one, or restore a backup of before",
        )
    command.upgrade(config, "head")
    _log.info("store.migrated", before=current, after=scripts.get_current_head())
