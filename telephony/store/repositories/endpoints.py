"""Webhook URLs that said they want no more, by client.

What it never does: know which URL is configured; whoever reads it compares.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from telephony.store.records import DisabledEndpointRecord
from telephony.store.session import Rows, Session
from telephony.store.tables import disabled_endpoint

_rows: Final = Rows(disabled_endpoint, DisabledEndpointRecord)
_c: Final = disabled_endpoint.c


class DisabledEndpoints:
    """The disabled_endpoint table, inside one transaction. A row's `id` is the client's name."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def disable(self, record: DisabledEndpointRecord) -> None:
        """Note it, in place of what was noted for this client before."""
        changes = {"url": record.url, "disabled_at": record.disabled_at, "reason": record.reason}
        insert = postgresql_insert if self._session.dialect == "postgresql" else sqlite_insert
        await self._session.run(
            insert(disabled_endpoint)
            .values(_rows.values(record))
            .on_conflict_do_update(index_elements=[_c.id], set_=changes)
        )

    async def enable(self, client: str) -> bool:
        """Forget it; False when there was nothing to forget."""
        return (await self._session.run(disabled_endpoint.delete().where(_c.id == client))).rowcount == 1

    async def get(self, client: str) -> DisabledEndpointRecord | None:
        """What is noted for this client."""
        return await _rows.get(self._session, client)

    async def all(self) -> dict[str, DisabledEndpointRecord]:
        """Every one, by its client: at most as many as there are clients."""
        return {record.id: record for record in await _rows.fetch(self._session, _rows.select)}
