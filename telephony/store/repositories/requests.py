"""Requests: what is to be called, whose it is, and when to look at it next.

What it never does: decide which status follows which; that is the state machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, bindparam, case, func, literal_column, or_, select

from telephony.errors import StaleFence, StoreError
from telephony.model.call import FINAL_CALL_STATUSES, CallStatus
from telephony.store.records import Page, RequestRecord
from telephony.store.session import Rows, Session
from telephony.store.tables import attempt, request

_rows: Final = Rows(request, RequestRecord)
_c: Final = request.c
_BATCH: Final = 500
"""How many identifiers go into one statement; both engines bound its parameters."""

# The levels of priority that wait, highest first: each is one step in the index, whatever waits in it.
_highest_first = select(_c.priority).where(_c.due_at.is_not(None)).order_by(_c.priority.desc()).limit(1)
_levels = select(_highest_first.scalar_subquery().label("priority")).cte("level", recursive=True)
_below = _highest_first.where(_c.priority < _levels.c.priority).correlate(_levels).scalar_subquery()
_levels = _levels.union_all(select(_below).where(_levels.c.priority.is_not(None)))
_LEVELS: Final = select(_levels.c.priority).where(_levels.c.priority.is_not(None))

_DUE_IN_LEVEL: Final = (
    _rows.select.where(
        _c.due_at.is_not(None),
        _c.priority == bindparam("level"),
        _c.due_at <= bindparam("now"),
        or_(_c.lease_until.is_(None), _c.lease_until <= bindparam("now")),
        _c.ended_at.is_(None),
    )
    .order_by(_c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_OVERDUE: Final = (
    _rows.select.where(
        _c.due_at.is_not(None),
        _c.due_at <= bindparam("now"),
        _c.lease_until.is_(None),
        _c.ended_at.is_(None),
        or_(_c.dial_by <= bindparam("now"), _c.expires_at <= bindparam("now")),
    )
    .order_by(_c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_NEXT_DUE: Final = (
    select(_c.due_at)
    .where(_c.due_at.is_not(None), _c.lease_until.is_(None), _c.ended_at.is_(None))
    .order_by(_c.due_at)
    .limit(1)
)
_OF_OWNER: Final = _rows.select.where(_c.lease_until.is_not(None), _c.owner == bindparam("of"))
_EXPIRED: Final = (
    _rows.select.where(_c.lease_until.is_not(None), _c.lease_until <= bindparam("now"))
    .order_by(_c.lease_until)
    .limit(bindparam("most"))
)
_ABANDONED: Final = (
    _rows.select.where(_c.lease_until.is_not(None), _c.lease_until <= bindparam("now"))
    .order_by(_c.lease_until)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_ABANDONED_OR_OWN: Final = (
    _rows.select.where(
        _c.lease_until.is_not(None),
        or_(_c.lease_until <= bindparam("now"), _c.owner == bindparam("of")),
    )
    .order_by(_c.lease_until)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_NEXT_LEASE_END: Final = (
    select(_c.lease_until)
    .where(_c.lease_until.is_not(None), _c.owner != bindparam("of"))
    .order_by(_c.lease_until)
    .limit(1)
)
_FENCE_OF_REQUEST: Final = (
    select(_c.fence).where(_c.id == attempt.c.request_id).correlate(attempt).scalar_subquery()
)
_OF_FLOW: Final = _rows.select.where(_c.flow_ref.is_not(None), _c.flow_ref == bindparam("ref")).order_by(
    _c.created_at.desc(), _c.id.desc()
)
_ACTIVE: Final = select(func.count()).where(
    _c.to_number == bindparam("to_number"), _c.ended_at.is_(None), _c.flow == bindparam("of_flow")
)


class Requests:
    """The request table, inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, *records: RequestRecord) -> None:
        """Insert. A final status without `ended_at`, or the other way round, raises `StoreError`."""
        for record in records:
            if (record.status in FINAL_CALL_STATUSES) != (record.ended_at is not None):
                raise StoreError(f"a request that is {record.status} can't have ended_at {record.ended_at}")
        await _rows.add(self._session, *records)

    async def get(self, request_id: str) -> RequestRecord | None:
        """The request, whoever's it is."""
        return await _rows.get(self._session, request_id)

    async def lock(self, request_id: str) -> RequestRecord | None:
        """The request, which nobody else changes before this transaction ends."""
        return await _rows.get(self._session, request_id, lock=True)

    async def get_for_client(self, client: str, request_id: str) -> RequestRecord | None:
        """The request if it is this client's."""
        record = await _rows.get(self._session, request_id)
        return record if record is not None and record.client == client else None

    async def list(
        self,
        client: str,
        *,
        status: CallStatus | None = None,
        flow: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[RequestRecord]:
        """The client's requests, newest first; `after` is the cursor of the page before."""
        conditions: list[ColumnElement[bool]] = [_c.client == client]
        if status is not None:
            conditions.append(_c.status == status)
        if flow is not None:
            conditions.append(_c.flow == flow)
        return await _rows.page(self._session, *conditions, after=after, limit=limit)

    async def of_flow(self, flow_ref: str) -> Sequence[RequestRecord]:
        """The requests made for one verification or the like, newest first."""
        return await _rows.fetch(self._session, _OF_FLOW, {"ref": flow_ref})

    async def claim_due(
        self,
        owner: str,
        now: int,
        limit: int,
        lease_ms: int,
        *,
        least_priority: int = 0,
        lease_now: int | None = None,
    ) -> Sequence[RequestRecord]:
        """Take what is due at `now` and nobody's: highest priority first, then earliest `due_at`.

        Each gets the next fence, a lease of `lease_ms`, and no `due_at`: it is in its owner's memory from
        here on. Two who claim at once get disjoint rows. What is below `least_priority` stays. `lease_now` is
        this moment by the clock that leases go by, where that is another.
        """
        due: list[RequestRecord] = []
        for level in (await self._session.run(_LEVELS)).scalars().all():
            if level < least_priority:
                break
            parameters = {"level": level, "now": now, "most": limit - len(due)}
            due += await _rows.fetch(self._session, _DUE_IN_LEVEL, parameters)
            if len(due) >= limit:
                break
        return await self._hand(due, owner, now, (now if lease_now is None else lease_now) + lease_ms)

    async def claim_overdue(
        self, owner: str, now: int, limit: int, lease_ms: int, *, lease_now: int | None = None
    ) -> Sequence[RequestRecord]:
        """Take what waits in the queue and is too late at `now` to be dialled, as `claim_due` does."""
        late = await _rows.fetch(self._session, _OVERDUE, {"now": now, "most": limit})
        return await self._hand(late, owner, now, (now if lease_now is None else lease_now) + lease_ms)

    async def claim(
        self, request_id: str, owner: str, now: int, lease_ms: int, *, lease_now: int | None = None
    ) -> RequestRecord | None:
        """Take one that waits in the queue, due or not, as `claim_due` does; None where it does not wait."""
        record = await self.lock(request_id)
        if record is None or record.due_at is None:
            return None
        if record.lease_until is not None or record.ended_at is not None:
            return None
        lease_until = (now if lease_now is None else lease_now) + lease_ms
        return (await self._hand([record], owner, now, lease_until))[0]

    async def take_over(
        self,
        owner: str,
        now: int,
        lease_ms: int,
        *,
        own: bool = True,
        but: Collection[str] = (),
        limit: int = 1_000,
    ) -> Sequence[RequestRecord]:
        """Take the requests whose owner stopped renewing, with their open attempts; longest ago first.

        With `own` (a start) also those that an earlier life of `owner` holds, however long its lease still
        runs. A sweep goes without it, after renewing what is in hand; `but` are the requests in hand, which
        stay as they are whatever the clock did meanwhile. Each gets the next fence, and so do its open
        attempts: whatever the former owner still writes fails. Two who take over at once get disjoint rows.
        """
        statement = _ABANDONED_OR_OWN if own else _ABANDONED
        parameters = {"now": now, "most": limit} | ({"of": owner} if own else {})
        found = await _rows.fetch(self._session, statement, parameters)
        return await self._hand([one for one in found if one.id not in but], owner, now, now + lease_ms)

    async def take_back(
        self, owner: str, now: int, lease_ms: int, *, but: Callable[[], Collection[str]]
    ) -> Sequence[RequestRecord]:
        """Take what is `owner`'s by the store and not in hand: written in a transaction that broke in its
        commit. Gets the next fence, as in `take_over`.

        `but` tells those in hand, and those whose transaction is under way. It is asked after the rows were
        read: whatever they show was known to it by then.
        """
        known = await _rows.fetch(self._session, _OF_OWNER, {"of": owner})
        in_hand = but()
        found: list[RequestRecord] = []
        for batch in _batches([one.id for one in known if one.id not in in_hand]):
            locked = _rows.select.where(_c.id.in_(batch), _c.owner == owner, _c.lease_until.is_not(None))
            found += await _rows.fetch(self._session, locked.with_for_update(skip_locked=True))
        return await self._hand(found, owner, now, now + lease_ms)

    async def _hand(
        self, taken: Sequence[RequestRecord], owner: str, now: int, lease_until: int
    ) -> Sequence[RequestRecord]:
        """Write ourselves into rows that this transaction has locked, and into their open attempts."""
        for batch in _batches([record.id for record in taken]):
            await _rows.update(
                self._session,
                _c.id.in_(batch),
                {
                    "owner": owner,
                    "fence": _c.fence + 1,
                    "lease_until": lease_until,
                    "due_at": None,
                    "updated_at": now,
                },
            )
            await self._session.run(
                attempt.update()
                .where(attempt.c.request_id.in_(batch), attempt.c.ended_at.is_(None))
                .values(owner=owner, fence=_FENCE_OF_REQUEST, lease_until=lease_until)
            )
        return [
            replace(
                record,
                owner=owner,
                fence=record.fence + 1,
                lease_until=lease_until,
                due_at=None,
                updated_at=now,
            )
            for record in taken
        ]

    async def next_due_at(self) -> int | None:
        """When the earliest unclaimed request is due (perhaps already); None when none waits."""
        value: int | None = await self._session.value(_NEXT_DUE)
        return value

    async def update(self, request_id: str, *, fence: int, **columns: Any) -> None:
        """Change columns by their names in `RequestRecord`, if the fence is still ours.

        `updated_at` is set by itself. A final status also sets `ended_at` where it is not given, and clears
        `due_at` and `lease_until`. Raises `StaleFence`, and then nothing was changed.
        """
        if columns.get("status") in FINAL_CALL_STATUSES:
            columns = {"ended_at": self._session.now, **columns, "due_at": None, "lease_until": None}
        changes = {"updated_at": self._session.now, **columns}
        if not await _rows.change(self._session, request_id, changes, fence=fence):
            raise StaleFence(f"request {request_id} is not ours under fence {fence}")

    async def ask_cancel(self, request_id: str, now: int) -> bool:
        """Note that it shall be canceled, whoever owns it; False when it is final or was asked before.

        A request that nobody owns becomes due at once; an owner sees the note in the row.
        """
        changes = {
            "cancel_requested_at": now,
            "due_at": case((_c.lease_until.is_(None), now), else_=_c.due_at),
            "updated_at": now,
        }
        condition = and_(_c.id == request_id, _c.ended_at.is_(None), _c.cancel_requested_at.is_(None))
        return await _rows.update(self._session, condition, changes) == 1

    async def renew_leases(self, owner: str, ids: Iterable[str], until: int) -> dict[str, bool]:
        """Prolong our leases and return those that are still ours; the others were taken over or ended.

        The value says whether somebody asked to cancel the request.
        """
        held: dict[str, bool] = {}
        for batch in _batches(list(ids)):
            statement = (
                request.update()
                .where(_c.id.in_(batch), _c.owner == owner, _c.lease_until.is_not(None))
                .values(lease_until=until)
                .returning(_c.id, _c.cancel_requested_at)
            )
            rows = await self._session.run(statement)
            held.update({row.id: row.cancel_requested_at is not None for row in rows})
        return held

    async def next_lease_end(self, owner: str) -> int | None:
        """When the first lease that is not this owner's runs out (perhaps already); None without any."""
        value: int | None = await self._session.value(_NEXT_LEASE_END, {"of": owner})
        return value

    async def bring_forward(self, milliseconds: int) -> int:
        """Let what waits in the queue be due so much earlier; returns how many.

        For a clock that was set back: whoever is claimed too early is put back by its owner.
        """
        waits = and_(_c.due_at.is_not(None), _c.lease_until.is_(None), _c.ended_at.is_(None))
        return await _rows.update(self._session, waits, {"due_at": _c.due_at - milliseconds})

    async def open_of_owner(self, owner: str) -> Sequence[RequestRecord]:
        """What this owner holds: after a restart, what its former life left open."""
        return await _rows.fetch(self._session, _OF_OWNER, {"of": owner})

    async def expired_leases(self, now: int, limit: int = 100) -> Sequence[RequestRecord]:
        """Requests whose owner stopped renewing, longest ago first, only to be looked at."""
        return await _rows.fetch(self._session, _EXPIRED, {"now": now, "most": limit})

    async def count_active_for_number(self, to_number: str, flow: str) -> int:
        """How many requests of this flow to this number are not final."""
        parameters = {"to_number": to_number, "of_flow": flow}
        return int(await self._session.value(_ACTIVE, parameters))

    async def count_since(
        self,
        since: int,
        *,
        to_number: str | None = None,
        client: str | None = None,
        prefix: str | None = None,
        most: int = 10_000,
    ) -> int:
        """How many requests were made at or after `since`, to this number, by this client, under this prefix.

        What is given narrows the count; `prefix` starts with `+`. Counting stops at `most`.
        """
        conditions: list[ColumnElement[bool]] = [_c.created_at >= since]
        if to_number is not None:
            conditions.append(_c.to_number == to_number)
        if client is not None:
            conditions.append(_c.client == client)
        if prefix is not None:
            # Not a range of numbers: that would read all that was ever called under the prefix.
            conditions.append(func.substr(_c.to_number, 1, len(prefix)) == prefix)
        counted = select(literal_column("1")).select_from(request).where(*conditions).limit(most).subquery()
        return int(await self._session.value(select(func.count()).select_from(counted)))


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The identifiers in portions that fit into one statement."""
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]
