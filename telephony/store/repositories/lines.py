"""A trunk's lines: numbered rows, made and unmade as its limit changes.

Whoever resizes a trunk locks its row first and then the rows of all its slots, in the order of their ids.
What it never does: know whose call is more important; calls that stand go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from telephony.errors import StoreError
from telephony.model.ids import new_id
from telephony.model.trunk import MOST_LINES, BreakerPhase
from telephony.store.session import Session
from telephony.store.tables import slot, trunk, trunk_gate

_BATCH: Final = 500
"""How many identifiers go into one statement; both engines bound its parameters."""

HELD: Final = ("holder", "kind", "owner", "acquired_at", "lease_until")
"""The columns of a slot that go with whoever holds it."""

_c: Final = slot.c
_EXTRAS_OF: Final = (
    select(slot)
    .where(_c.trunk == bindparam("of"), _c.number.is_(None))
    .order_by(_c.acquired_at, _c.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_FREE_OF: Final = (
    select(_c.id)
    .where(_c.trunk == bindparam("of"), _c.holder.is_(None))
    .order_by(_c.number)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_ANY_FREE_OF: Final = select(_c.id).where(_c.trunk == bindparam("of"), _c.holder.is_(None)).limit(1)


def check_lines(channels: int | None) -> None:
    """Raise `StoreError` for a number of lines that no trunk can have."""
    if channels is not None and not 0 <= channels <= MOST_LINES:
        raise StoreError(f"a trunk can't have {channels} lines, but 0 to {MOST_LINES}, or no limit")


async def add_trunk(session: Session, name: str, channels: int | None) -> None:
    """Make the rows of a trunk that has none."""
    row = {"name": name, "configured": channels, "updated_at": session.now}
    await session.run(insert_of(session, trunk).values(row).on_conflict_do_nothing())
    gate = {"trunk": name, "phase": BreakerPhase.CLOSED, "failures": [], "trips": 0}
    await session.run(insert_of(session, trunk_gate).values(gate).on_conflict_do_nothing())


async def set_limit(session: Session, name: str, column: str, channels: int | None) -> int | None:
    """Lock the trunk against others who resize it, write one of its limits, and return what counts."""
    row = (await session.run(select(trunk).where(trunk.c.name == name).with_for_update())).first()
    if row is None:
        raise StoreError(f"trunk {name} is not known to the store")
    said: dict[str, int | None] = {"configured": row.configured, "channels": row.channels}
    if said[column] != channels:
        said[column] = channels
        changes = {column: channels, "updated_at": session.now}
        await session.run(update(trunk).where(trunk.c.name == name).values(changes))
    return said["configured"] if said["channels"] is None else said["channels"]


async def resize(session: Session, name: str, lines: int | None) -> None:
    """Make as many numbered rows as there are lines: free ones go first, calls beside them come in first.

    Nobody else makes or unmakes numbered rows, so those that are seen here are all there are.
    """
    statement = select(_c.id, _c.number, _c.holder).where(_c.trunk == name, _c.number.is_not(None))
    rows = (await session.run(statement.order_by(_c.id).with_for_update())).all()
    numbered = sorted(rows, key=lambda row: -row.number)
    surplus = len(numbered) if lines is None else max(0, len(numbered) - lines)
    free = [row.id for row in numbered if row.holder is None][:surplus]
    held = [row.id for row in numbered if row.holder is not None][: surplus - len(free)]
    await _run_for(session, free, delete(slot))
    await _run_for(session, held, update(slot).values(number=None))
    missing = 0 if lines is None else max(0, lines - len(numbered))
    if missing:
        used = {row.number for row in numbered}
        unused = (number for number in range(1, MOST_LINES + 1) if number not in used)
        fresh = [{"id": new_id("slot"), "trunk": name, "number": next(unused)} for _ in range(missing)]
        await session.run(slot.insert(), fresh)
    await settle(session, name)


async def settle(session: Session, name: str) -> None:
    """Let calls that stand beside a trunk's lines have those that are free; waits for nobody."""
    if await session.value(_ANY_FREE_OF, {"of": name}) is None:
        # So it is on a trunk without a limit, where all stand beside.
        return
    extras = (await session.run(_EXTRAS_OF, {"of": name, "most": MOST_LINES})).all()
    if not extras:
        return
    free = (await session.run(_FREE_OF, {"of": name, "most": len(extras)})).scalars().all()
    for extra, line in zip(extras, free, strict=False):
        await session.run(delete(slot).where(_c.id == extra.id))
        moved = {column: getattr(extra, column) for column in HELD}
        await session.run(update(slot).where(_c.id == line).values(moved))


def insert_of(session: Session, table: Any) -> Any:
    """An insert in the engine's own dialect, which can pass over what is there."""
    insert = postgresql_insert if session.dialect == "postgresql" else sqlite_insert
    return insert(table)


def batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The identifiers in portions that fit into one statement."""
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]


async def _run_for(session: Session, ids: Sequence[str], statement: Any) -> None:
    for batch in batches(ids):
        await session.run(statement.where(_c.id.in_(batch)))
