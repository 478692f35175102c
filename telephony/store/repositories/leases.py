"""Prolonging leases, alike for every table that has them. It never takes a lease from anybody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Table

from telephony.store.session import Session

_BATCH: Final = 500
"""How many identifiers go into one statement; both engines bound its parameters."""


async def renew(session: Session, table: Table, owner: str, ids: Iterable[str], until: int) -> set[str]:
    """Set `lease_until` on the rows of `ids` that `owner` still holds, and return their identifiers."""
    wanted = list(ids)
    held: set[str] = set()
    for start in range(0, len(wanted), _BATCH):
        statement = (
            table.update()
            .where(
                table.c.id.in_(wanted[start : start + _BATCH]),
                table.c.owner == owner,
                table.c.lease_until.is_not(None),
            )
            .values(lease_until=until)
            .returning(table.c.id)
        )
        held.update((await session.run(statement)).scalars())
    return held
