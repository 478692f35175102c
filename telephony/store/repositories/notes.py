"""What happened and who is to be told: the event log and the outbox of webhooks.

What it never does: send anything, or decide by what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import ColumnElement, bindparam, func, select

from telephony.store.records import EventRecord, OutboxRecord, Page
from telephony.store.session import Rows, Session
from telephony.store.tables import event, outbox

_events: Final = Rows(event, EventRecord)
_outbox: Final = Rows(outbox, OutboxRecord)

_OF_REQUEST: Final = (
    _events.select.where(event.c.request_id == bindparam("of"))
    .order_by(event.c.at, event.c.id)
    .limit(bindparam("most"))
)
_LAST_SEQUENCE: Final = select(func.max(outbox.c.sequence)).where(outbox.c.resource == bindparam("of"))


class Events:
    """The event table, inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, *records: EventRecord) -> None:
        """Note why something was decided."""
        await _events.add(self._session, *records)

    async def list_for(self, request_id: str, limit: int = 1_000) -> Sequence[EventRecord]:
        """The events of a request, first to last."""
        return await _events.fetch(self._session, _OF_REQUEST, {"of": request_id, "most": limit})


class Outbox:
    """The outbox table, inside one transaction: written with the outcome that it tells."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, record: OutboxRecord) -> OutboxRecord:
        """Insert with the next sequence of its resource, and return it so.

        The caller has the resource's own row locked or updated in this transaction, as an outcome does;
        two who don't may meet in the same sequence, and the later one gets `StoreError`.
        """
        last: int | None = await self._session.value(_LAST_SEQUENCE, {"of": record.resource})
        numbered = replace(record, sequence=(last or 0) + 1)
        await _outbox.add(self._session, numbered)
        return numbered

    async def list(
        self, client: str, *, resource: str | None = None, after: str | None = None, limit: int = 50
    ) -> Page[OutboxRecord]:
        """The client's webhooks, newest first; `after` is the cursor of the page before."""
        conditions: list[ColumnElement[bool]] = [outbox.c.client == client]
        if resource is not None:
            conditions.append(outbox.c.resource == resource)
        return await _outbox.page(self._session, *conditions, after=after, limit=limit)
