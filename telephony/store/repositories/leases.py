"""Prolonging leases, alike for every table that has them. It never takes a lease from anybody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sqlalchemy import Table

from telephony.store.session import Session

_BATCH: Final = 500
"""How many identifiers go into one statement; both engines bound its parameters."""


def batches(ids: Iterable[str]) -> Iterator[Sequence[str]]:
    """The identifiers in portions that fit into one statement."""
    rest = list(ids)
    for start in range(0, len(rest), _BATCH):
        yield rest[start : start + _BATCH]


async def renew(session: Session, table: Table, owner: str, ids: Iterable[str], until: int) -> set[str]:
    """Set `lease_until` on the rows of `ids` that `owner` still holds, and return their identifiers."""
    held: set[str] = set()
    for batch in batches(ids):
        statement = (
            table.update()
            .where(table.c.id.in_(batch), table.c.owner == owner, table.c.lease_until.is_not(None))
            .values(lease_until=until)
            .returning(table.c.id)
        )
        held.update((await session.run(statement)).scalars())
    return held
