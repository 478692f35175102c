"""What a database's own error means in this project's terms.

What it never does: show a statement's parameters; they may hold secrets.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from telephony.errors import ConfigError, StoreError, StoreUnavailable


def _driver_errors() -> tuple[type[Exception], ...]:
    # While it connects, asyncpg's own errors come unwrapped; it is installed only where it is used.
    try:
        import asyncpg
    except ModuleNotFoundError:
        return ()
    return (asyncpg.PostgresError, asyncpg.InterfaceError)


DATABASE_ERRORS: Final[tuple[type[Exception], ...]] = (SQLAlchemyError, OSError, *_driver_errors())
"""Whatever a database operation may raise; catch these around nothing else."""

# https://sqlite.org/rescode.html: BUSY, LOCKED, NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB
_SQLITE_UNAVAILABLE: Final = frozenset({5, 6, 7, 8, 10, 11, 13, 14, 26})

# https://www.postgresql.org/docs/current/errcodes-appendix.html, by class: connection, transaction
# rolled back (deadlock), resources, object state (lock not available), operator intervention, system.
_POSTGRES_UNAVAILABLE: Final = ("08", "25006", "40", "53", "55", "57", "58")
_POSTGRES_MISCONFIGURED: Final = ("28", "3D")


def store_error(error: Exception) -> StoreError:
    """Return the `StoreError` that `error` of the database or its driver means.

    `StoreUnavailable` where the database is locked, full, broken or gone; plain `StoreError` where it
    works and says no: a constraint, a value it can't hold.
    """
    if isinstance(error, StoreError):
        return error
    if isinstance(error, DBAPIError):
        reason = str(error.orig)
        if _unavailable(error):
            return StoreUnavailable(f"the database is not available: {reason}")
        return StoreError(f"the database refused: {reason}")
    if isinstance(error, PoolTimeout):
        return StoreUnavailable("the database is not available: every connection is in use")
    if isinstance(error, TimeoutError):
        return StoreUnavailable("the database is not available: it did not answer within the deadline")
    if isinstance(error, OSError):
        return StoreUnavailable(f"the database is not available: {error}")
    if not isinstance(error, SQLAlchemyError):
        return StoreUnavailable(f"the database is not available: {error}")
    return StoreError(f"the database refused: {error}")


def is_locked(error: Exception) -> bool:
    """Whether SQLite found somebody else's lock (SQLITE_BUSY), which may soon be gone."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return (code & 0xFF) == sqlite3.SQLITE_BUSY


def opening_error(error: Exception) -> StoreError | ConfigError:
    """Like `store_error`, for the first connection: a wrong password or name is a setting to be mended."""
    if _state_of(error).startswith(_POSTGRES_MISCONFIGURED):
        reason = error.orig if isinstance(error, DBAPIError) else error
        return ConfigError("store.url", f"PostgreSQL refuses it: {reason}", "Mend user, password or name")
    return store_error(error)


def _unavailable(error: DBAPIError) -> bool:
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    state = _state_of(error)
    if state:
        return state.startswith(_POSTGRES_UNAVAILABLE)
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return (code & 0xFF) in _SQLITE_UNAVAILABLE
    return isinstance(error, OperationalError)


def _state_of(error: Exception) -> str:
    """The SQLSTATE of a PostgreSQL error, else an empty text."""
    for candidate in (getattr(error, "orig", None), error):
        state = getattr(candidate, "sqlstate", None)
        if isinstance(state, str):
            return state
    return ""
