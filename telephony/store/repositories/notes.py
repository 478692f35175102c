"""What happened and who is to be told: the event log and the outbox of webhooks.

What it never does: send anything, or decide by what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, bindparam, func, select

from telephony.errors import StaleFence
from telephony.model.delivery import DeliveryStatus
from telephony.store.records import EventRecord, OutboxRecord, Page
from telephony.store.session import Rows, Session
from telephony.store.tables import event, outbox

_events: Final = Rows(event, EventRecord)
_outbox: Final = Rows(outbox, OutboxRecord)

_OF_KIND: Final = (
    _events.select.where(
        event.c.id > bindparam("after"), event.c.kind == bindparam("kind"), event.c.at >= bindparam("since")
    )
    .order_by(event.c.id)
    .limit(bindparam("most"))
)
_OF_REQUEST: Final = (
    _events.select.where(event.c.request_id == bindparam("of"))
    .order_by(event.c.at, event.c.id)
    .limit(bindparam("most"))
)

_c: Final = outbox.c
_LAST_SEQUENCE: Final = select(func.max(_c.sequence)).where(_c.resource == bindparam("of"))
_UNDONE: Final = and_(_c.delivered_at.is_(None), _c.dead_at.is_(None))
_UNDONE_OF_RESOURCE: Final = (
    _outbox.select.where(_c.resource == bindparam("of"), _UNDONE).order_by(_c.sequence).with_for_update()
)
_IN_TURN: Final = (_c.client == bindparam("of"), _c.opened_at.is_not(None), _UNDONE)
_DUE: Final = (
    _outbox.select.where(*_IN_TURN, _c.due_at <= bindparam("now"))
    .order_by(_c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_NEXT_DUE: Final = select(_c.due_at).where(*_IN_TURN).order_by(_c.due_at).limit(1)
_LAST_DELIVERED: Final = (
    select(func.max(_c.sequence))
    .where(_c.resource == bindparam("of"), _c.sequence < bindparam("before"), _c.delivered_at.is_not(None))
    .scalar_subquery()
)
_SKIPPED: Final = (
    _outbox.select.where(
        _c.resource == bindparam("of"),
        _c.sequence < bindparam("before"),
        _c.sequence > func.coalesce(_LAST_DELIVERED, 0),
        _c.dead_at.is_not(None),
    )
    .order_by(_c.sequence.desc())
    .limit(bindparam("most"))
)
_IN_STATUS: Final = {
    DeliveryStatus.PENDING: _UNDONE,
    DeliveryStatus.DELIVERED: _c.delivered_at.is_not(None),
    DeliveryStatus.DEAD: _c.dead_at.is_not(None),
}


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

    async def of_kind(
        self, kind: str, since: int, *, after: str = "", limit: int = 1_000
    ) -> Sequence[EventRecord]:
        """The events of a kind at or after `since`, in the order of their ids; `after` is the last one's of
        the page before. It reads the whole table page by page: for a command, not for a call.
        """
        parameters = {"kind": kind, "since": since, "after": after, "most": limit}
        return await _events.fetch(self._session, _OF_KIND, parameters)


class Outbox:
    """The outbox table, inside one transaction: written with the outcome that it tells.

    Of each resource one webhook has its turn (`opened_at`), the earliest that is neither delivered nor
    dead; what ends it opens the next. Whoever adds or ends one locks the resource's undone rows first,
    in their order: so none is left without a turn by two who meet.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, record: OutboxRecord) -> OutboxRecord:
        """Insert with the next sequence of its resource, and return it so.

        The caller has the resource's own row locked or updated in this transaction, as an outcome does;
        two who don't may meet in the same sequence, and the later one gets `StoreError`.
        """
        undone = await self._undone(record.resource)
        last: int | None = await self._session.value(_LAST_SEQUENCE, {"of": record.resource})
        opened_at = None if undone else record.due_at
        numbered = replace(record, sequence=(last or 0) + 1, opened_at=opened_at)
        await _outbox.add(self._session, numbered)
        return numbered

    async def get_for_client(self, client: str, webhook_id: str) -> OutboxRecord | None:
        """The webhook if it is this client's."""
        record = await _outbox.get(self._session, webhook_id)
        return record if record is not None and record.client == client else None

    async def list(
        self,
        client: str,
        *,
        resource: str | None = None,
        status: DeliveryStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[OutboxRecord]:
        """The client's webhooks, newest first; `after` is the cursor of the page before."""
        conditions: list[ColumnElement[bool]] = [_c.client == client]
        if resource is not None:
            conditions.append(_c.resource == resource)
        if status is not None:
            conditions.append(_IN_STATUS[status])
        return await _outbox.page(self._session, *conditions, after=after, limit=limit)

    async def next_due(self, client: str) -> int | None:
        """When the client's earliest webhook in turn is due (perhaps already), or its lease ends; or None."""
        value: int | None = await self._session.value(_NEXT_DUE, {"of": client})
        return value

    async def claim(
        self, client: str, owner: str, now: int, limit: int, lease_ms: int
    ) -> Sequence[OutboxRecord]:
        """Take the client's webhooks that are due and in turn, earliest first, to send each once.

        Each gets the next fence, one more try, and is due again when the lease ends: who is killed while it
        sends leaves it to be sent again. Two who claim at once get disjoint rows.
        """
        due = await _outbox.fetch(self._session, _DUE, {"of": client, "now": now, "most": limit})
        changes = {"owner": owner, "due_at": now + lease_ms}
        if due:
            ids = [record.id for record in due]
            stepped = {"fence": _c.fence + 1, "tries": _c.tries + 1}
            await _outbox.update(self._session, _c.id.in_(ids), {**changes, **stepped})
        return [
            replace(
                record, owner=owner, due_at=now + lease_ms, fence=record.fence + 1, tries=record.tries + 1
            )
            for record in due
        ]

    async def skipped_before(self, record: OutboxRecord, most: int) -> Sequence[OutboxRecord]:
        """The dead webhooks of its resource since the last delivered one, in order; the newest `most`."""
        parameters = {"of": record.resource, "before": record.sequence, "most": most}
        return (await _outbox.fetch(self._session, _SKIPPED, parameters))[::-1]

    async def postpone(
        self, record: OutboxRecord, *, due_at: int, error: str | None, counted: bool = True
    ) -> None:
        """Try again at `due_at`; with `counted` False this try is not one. Raises `StaleFence`."""
        tries = record.tries if counted else record.tries - 1
        await self._change(record, {"due_at": due_at, "last_error": error, "tries": tries, "url": record.url})

    async def deliver(self, record: OutboxRecord, now: int) -> None:
        """It was received: the resource's next one has its turn. Raises `StaleFence`."""
        await self._end(record, now, {"delivered_at": now, "last_error": None})

    async def bury(self, record: OutboxRecord, now: int, error: str) -> None:
        """It is given up: the resource's next one has its turn. Raises `StaleFence`."""
        await self._end(record, now, {"dead_at": now, "last_error": error})

    async def revive(self, webhook_id: str, now: int) -> bool:
        """Send a dead one again, at once and out of its order; False when it is not dead."""
        changes = {"dead_at": None, "opened_at": now, "due_at": now, "tries": 0, "fence": _c.fence + 1}
        condition = and_(_c.id == webhook_id, _c.dead_at.is_not(None))
        return await _outbox.update(self._session, condition, changes) == 1

    async def bring_forward(self, milliseconds: int) -> int:
        """Let what is not delivered be due so much earlier, for a clock that was set back; how many."""
        return await _outbox.update(self._session, _UNDONE, {"due_at": _c.due_at - milliseconds})

    async def purge(self, before: int, limit: int, *, now: int) -> int:
        """Forget what was made before then, whatever became of it; returns how many.

        Where one was in turn, which kept its resource waiting for so long, the resource's next one is.
        """
        old = select(_c.id).where(_c.created_at < before).order_by(_c.created_at).limit(limit)
        forget = outbox.delete().where(_c.id.in_(old)).returning(_c.resource, _c.delivered_at, _c.dead_at)
        forgotten = (await self._session.run(forget)).all()
        undone = {row.resource for row in forgotten if row.delivered_at is None and row.dead_at is None}
        for resource in sorted(undone):
            await self._open_next(resource, now)
        return len(forgotten)

    async def _end(self, record: OutboxRecord, now: int, changes: dict[str, Any]) -> None:
        await self._undone(record.resource)
        await self._change(record, {**changes, "url": record.url})
        await self._open_next(record.resource, now)

    async def _open_next(self, resource: str, now: int) -> None:
        rest = await self._undone(resource)
        # A dead one that is being sent again is in turn too, and ahead of all that wait: it opens the next.
        if rest and rest[0].opened_at is None:
            turn = {"opened_at": now, "due_at": max(now, rest[0].due_at)}
            await _outbox.change(self._session, rest[0].id, turn)

    async def _undone(self, resource: str) -> Sequence[OutboxRecord]:
        """The resource's webhooks that are neither delivered nor dead, in order and locked."""
        return await _outbox.fetch(self._session, _UNDONE_OF_RESOURCE, {"of": resource})

    async def _change(self, record: OutboxRecord, changes: dict[str, Any]) -> None:
        if not await _outbox.change(self._session, record.id, changes, fence=record.fence):
            raise StaleFence(f"webhook {record.id} is not ours under fence {record.fence}")
