"""Slots: which calls stand on which trunk, and whether one more may.

A trunk with a limit has that many lines, rows that are free or held. Taking one locks a row that nobody
else has locked (`SKIP LOCKED` on PostgreSQL, the one writer on SQLite), so that contenders never wait for
one another and no count can drift: there is none. What stands beside the lines (calls above a limit that
was lowered, or that were found on the trunk) has a row without a number, which goes with its holder; while
there are such rows, what a holder gives back goes to them and not to newcomers. A trunk without a limit
has only such rows.

A pace and a breaker are rows of their own: only who is paced or probes waits for them, and only for as
long as another such transaction lasts. The order of locks is trunk, slot, gate.

What it never does: choose the order of candidates, or look at a PBX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import and_, bindparam, case, delete, exists, func, or_, select, update

from telephony.model.ids import new_id
from telephony.model.trunk import SlotKind
from telephony.store.records import Acquired, SlotAsk, SlotRecord, TrunkUse
from telephony.store.repositories.acquire import HAS_EXTRA, acquire, acquire_plain
from telephony.store.repositories.lines import (
    HELD,
    add_trunk,
    batches,
    check_lines,
    insert_of,
    resize,
    set_limit,
    settle,
)
from telephony.store.session import Rows, Session
from telephony.store.tables import attempt, slot

_rows: Final = Rows(slot, SlotRecord)
_c: Final = slot.c
_FREED: Final[Mapping[str, None]] = dict.fromkeys(HELD)
_GIVE_BACK: Final = (
    update(slot)
    .where(_c.holder == bindparam("by"), _c.number.is_not(None), ~HAS_EXTRA)
    .values(_FREED)
    .returning(_c.trunk)
)
_GO: Final = delete(slot).where(_c.holder == bindparam("by"), _c.number.is_(None)).returning(_c.trunk)
_HELD_BY: Final = _rows.select.where(_c.holder == bindparam("by")).with_for_update()
_HELD: Final = _rows.select.where(_c.holder.is_not(None)).order_by(_c.trunk, _c.acquired_at, _c.id)
_other: Final = slot.alias("other")
_FREE_BESIDE: Final = (
    exists()
    .where(_other.c.trunk == _c.trunk, _other.c.number.is_not(None), _other.c.holder.is_(None))
    .correlate(slot)
)
_BESIDE: Final = select(_c.trunk).where(_c.number.is_(None), _FREE_BESIDE).distinct()
_EXPIRED: Final = (
    _rows.select.where(_c.lease_until.is_not(None), _c.lease_until <= bindparam("now"))
    .order_by(_c.lease_until)
    .limit(bindparam("most"))
)
_OURS: Final = _c.kind == SlotKind.ATTEMPT
_ATTEMPT: Final = and_(_OURS, exists().where(attempt.c.id == _c.holder).correlate(slot))
_OVER: Final = and_(
    _OURS, exists().where(attempt.c.id == _c.holder, attempt.c.ended_at.is_not(None)).correlate(slot)
)
_ORPHANS: Final = (
    _rows.select.where(
        _c.holder.is_not(None),
        or_(_OVER, and_(or_(_c.lease_until <= bindparam("now"), _c.owner == bindparam("own")), ~_ATTEMPT)),
    )
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True, of=slot)
)
_USE: Final = (
    select(
        _c.trunk,
        func.count(_c.holder).label("in_use"),
        func.count(_c.number).label("lines"),
        func.count(case((_c.kind == SlotKind.INBOUND, 1))).label("inbound"),
        func.count(case((_c.kind == SlotKind.FOREIGN, 1))).label("foreign"),
        func.count(case((_c.number.is_(None), 1))).label("extra"),
    )
    .group_by(_c.trunk)
    .order_by(_c.trunk)
)


class Slots:
    """The slot table, and what of `trunk` and `trunk_gate` a call meets, inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def ensure(self, name: str, channels: int | None) -> None:
        """Let a trunk have so many lines by configuration, None: no limit; what an operator said stays.

        Every controller says this of each of its trunks when it starts; the last one wins. Lines grow at
        once. Where they shrink, calls that stand above go on, and no new one comes before they have ended.
        """
        check_lines(channels)
        await add_trunk(self._session, name, channels)
        await resize(self._session, name, await set_limit(self._session, name, "configured", channels))

    async def limit(self, name: str, channels: int | None) -> int | None:
        """Let a trunk have so many lines from now on, whatever is configured; None: as configured.

        Returns how many it has, None where it has no limit. Raises `StoreError` for a trunk nobody ensured.
        """
        check_lines(channels)
        lines = await set_limit(self._session, name, "channels", channels)
        await resize(self._session, name, lines)
        return lines

    async def acquire(self, ask: SlotAsk) -> Acquired:
        """Take a slot of the first candidate that has one, is not drained, keeps its pace and works.

        All of it or nothing, in this transaction: write the attempt in the same one, and neither can be
        without the other. Of a trunk whose breaker is due to probe, one holder is let through as the probe;
        tell the breaker what became of it. Nobody waits for anybody but at a candidate with a pace or a
        probe. A holder that holds a slot already, and a trunk that nobody ensured and that it comes to, raise
        `StoreError`.
        """
        return await acquire_plain(self._session, ask) or (await self.acquire_all([ask]))[0]

    async def acquire_all(self, asks: Sequence[SlotAsk]) -> list[Acquired]:
        """Do so for several in their order, for little more than what one costs.

        May answer fewer than asked, the first ones: the others ask again in a transaction of their own.
        """
        return await acquire(self._session, asks) if asks else []

    async def release(self, holder: str) -> str | None:
        """Give a holder's slot back, and return its trunk; None where it held none: once is enough.

        One in a transaction; several go by `release_all`, which locks them in everybody's order.
        """
        # What stands without a line first: a trunk without a limit is to cost least.
        for statement in (_GO, _GIVE_BACK):
            name: str | None = await self._session.value(statement, {"by": holder})
            if name is not None:
                return name
        row = (await self._session.run(_HELD_BY, {"by": holder})).first()
        if row is None:
            return None
        if row.number is None:
            await self._session.run(delete(slot).where(_c.id == row.id))
        else:
            # There are calls beside the lines: the first of them has this one.
            await self._session.run(update(slot).where(_c.id == row.id).values(_FREED))
            await settle(self._session, row.trunk)
        return str(row.trunk)

    async def release_all(self, holders: Iterable[str]) -> int:
        """Give back what these holders hold; returns how many slots that were."""
        freed, missed = 0, set[str]()
        for batch in batches(list(holders)):
            locked = select(_c.id, _c.holder, _c.number).where(_c.holder.in_(batch)).order_by(_c.id)
            rows = (await self._session.run(locked.with_for_update())).all()
            # What stands without a line goes at once, and before a line is freed for it.
            beside = [row.id for row in rows if row.number is None]
            if beside:
                freed += (await self._session.run(delete(slot).where(_c.id.in_(beside)))).rowcount
            for row in rows:
                if row.number is not None:
                    freed += await self.release(row.holder) is not None
            missed |= {*batch} - {row.holder for row in rows}
        # Who was moved onto a line while the rows were waited for is found by a look of its own.
        for holder in sorted(missed):
            freed += await self.release(holder) is not None
        return freed

    async def renew(self, owner: str, holders: Iterable[str], until: int) -> set[str]:
        """Prolong the leases of these holders' slots that are this owner's; returns whose they were."""
        held: set[str] = set()
        for batch in batches(list(holders)):
            # In the order of their ids, as everybody who waits for more than one.
            mine = select(_c.id).where(_c.holder.in_(batch), _c.owner == owner).order_by(_c.id)
            statement = update(slot).where(_c.id.in_(mine.with_for_update())).values(lease_until=until)
            held.update((await self._session.run(statement.returning(_c.holder))).scalars())
        return held

    async def hand(self, holders: Iterable[str], owner: str, until: int) -> int:
        """Make these holders' slots another owner's, who took their calls over; returns how many."""
        count = 0
        for batch in batches(list(holders)):
            theirs = select(_c.id).where(_c.holder.in_(batch)).order_by(_c.id).with_for_update()
            statement = update(slot).where(_c.id.in_(theirs)).values(owner=owner, lease_until=until)
            count += (await self._session.run(statement)).rowcount
        return count

    async def admit(self, name: str, holder: str, *, kind: SlotKind, owner: str, lease_until: int) -> bool:
        """Note a call that stands on a trunk whether it may or not; False where it is noted already.

        It takes a line where one is free; else it stands beside them, and the trunk is above its limit.
        """
        row = _standing(name, holder, kind, owner, lease_until)
        if (await self._session.run(self._note(), row)).rowcount != 1:
            return False
        await settle(self._session, name)
        return True

    async def admit_all(
        self, calls: Mapping[str, str], *, kind: SlotKind, owner: str, lease_until: int
    ) -> None:
        """Note several, holders with their trunks, for little more than what one costs."""
        rows = [_standing(name, holder, kind, owner, lease_until) for holder, name in calls.items()]
        if rows:
            await self._session.run(self._note(), rows)
        for name in sorted(set(calls.values())):
            await settle(self._session, name)

    def _note(self) -> Any:
        """An insert whose moment is the store's own, and which passes over what is there."""
        return insert_of(self._session, slot).values(acquired_at=self._session.now).on_conflict_do_nothing()

    async def sweep(self, now: int, *, own: str = "", limit: int = 1_000) -> Sequence[SlotRecord]:
        """Free what nobody tends: slots of attempts that are over, and others whose lease ran out.

        An open attempt keeps its slot however late its lease is: whoever takes the request over settles the
        attempt with the PBX and gives the slot back. With `own`, at a start, this owner's slots without an
        attempt are freed too: they are of an earlier life. Calls that stand beside the lines get those that
        are free. Returns what was freed. Two who sweep at once free disjoint rows.
        """
        orphans = await _rows.fetch(self._session, _ORPHANS, {"now": now, "own": own, "most": limit})
        for orphan in orphans:
            await self.release(orphan.holder or "")
        for name in (await self._session.run(_BESIDE)).scalars().all():
            await settle(self._session, name)
        return orphans

    async def held(self) -> Sequence[SlotRecord]:
        """Every slot that is held: as many as there are calls."""
        return await _rows.fetch(self._session, _HELD)

    async def expired(self, now: int, limit: int = 1_000) -> Sequence[SlotRecord]:
        """Slots whose lease has run out, longest ago first, only to be looked at."""
        return await _rows.fetch(self._session, _EXPIRED, {"now": now, "most": limit})

    async def in_use(self) -> dict[str, TrunkUse]:
        """How many calls stand on each trunk that has lines or calls."""
        rows = await self._session.run(_USE)
        return {
            row.trunk: TrunkUse(row.in_use, row.lines, row.inbound, row.foreign, row.extra) for row in rows
        }


def _standing(trunk: str, holder: str, kind: SlotKind, owner: str, until: int) -> dict[str, Any]:
    row = {"id": new_id("slot"), "trunk": trunk, "holder": holder}
    return {**row, "kind": kind, "owner": owner, "lease_until": until}
