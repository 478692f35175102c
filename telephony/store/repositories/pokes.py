"""Sending pokes. What it never does: hear one; `telephony.store.pokes` does."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, func, select

from telephony.store.pokes import CHANNEL, PokeKind
from telephony.store.session import Session

_NOTIFY: Final = select(func.pg_notify(CHANNEL, bindparam("payload")))


class Pokes:
    """Sends pokes, inside one transaction. SQLite has one controller, which pokes itself in its own ways."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def send(self, kind: PokeKind, subject: str = "") -> None:
        """Let everybody who listens hear it once this transaction is committed."""
        if self._session.dialect == "postgresql":
            await self._session.run(_NOTIFY, {"payload": f"{kind.value} {subject}".rstrip()})
