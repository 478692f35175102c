"""Trunks as they are now: drained, saturated, broken. All controllers share it.

How many calls may stand, and which do, is `Slots`'. What it never does: decide when a breaker moves or a
trunk is saturated.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row, select, update

from telephony.errors import StoreError
from telephony.model.trunk import BreakerState
from telephony.store.records import TrunkRecord
from telephony.store.session import Session
from telephony.store.tables import trunk, trunk_gate

_c: Final = trunk.c
_gate: Final = trunk_gate.c
_BREAKER: Final = (
    _gate.phase,
    _gate.failures,
    _gate.until,
    _gate.trips,
    _gate.probe,
    _gate.reason,
    _gate.moved_at,
)
_ALL: Final = select(trunk, *_BREAKER).join(trunk_gate, _gate.trunk == _c.name).order_by(_c.name)


class Trunks:
    """The trunk and trunk_gate tables, inside one transaction; `Slots.ensure` makes their rows."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def all(self) -> dict[str, TrunkRecord]:
        """Every trunk that was ever configured, by name."""
        return {row.name: _record(row) for row in await self._session.run(_ALL)}

    async def drain(self, name: str, now: int) -> bool:
        """Let no new call take the trunk; running ones end. False where it was drained, or is not known."""
        return await self._mark(name, "drained_at", now)

    async def resume(self, name: str) -> bool:
        """Let calls take the trunk again; False where it was not drained."""
        return await self._mark(name, "drained_at", None)

    async def saturate(self, name: str, now: int) -> bool:
        """Note that it is saturated; True for the one of all controllers who is the first to say so."""
        return await self._mark(name, "saturated_at", now)

    async def recover(self, name: str) -> bool:
        """Note that it is saturated no more; True for the one of all controllers who is the first."""
        return await self._mark(name, "saturated_at", None)

    async def _mark(self, name: str, column: str, value: int | None) -> bool:
        """Set a moment where none is, or clear it where one is."""
        marked = _c[column].is_(None) if value is not None else _c[column].is_not(None)
        changes = {column: value, "updated_at": self._session.now}
        done = await self._session.run(update(trunk).where(_c.name == name, marked).values(changes))
        return done.rowcount == 1

    async def breaker(self, name: str) -> BreakerState:
        """The trunk's breaker, which nobody else changes before this transaction ends.

        Read it only to change it, and give slots back before: who asks for a slot of a trunk with a pace
        waits for this row. Raises `StoreError` for a trunk that is not known.
        """
        statement = select(*_BREAKER).where(_gate.trunk == name).with_for_update()
        row = (await self._session.run(statement)).first()
        if row is None:
            raise StoreError(f"trunk {name} is not known to the store")
        return _breaker(row)

    async def set_breaker(self, name: str, state: BreakerState) -> None:
        """Write what became of it."""
        changes: dict[str, Any] = {
            "phase": state.phase,
            "failures": list(state.failures),
            "until": state.until,
            "trips": state.trips,
            "probe": state.probe,
            "reason": state.reason,
            "moved_at": state.moved_at,
        }
        await self._session.run(update(trunk_gate).where(_gate.trunk == name).values(changes))


def _breaker(row: Row[Any]) -> BreakerState:
    return BreakerState(
        phase=row.phase,
        failures=tuple(row.failures),
        until=row.until,
        trips=row.trips,
        probe=row.probe,
        reason=row.reason,
        moved_at=row.moved_at,
    )


def _record(row: Row[Any]) -> TrunkRecord:
    return TrunkRecord(
        name=row.name,
        configured=row.configured,
        channels=row.channels,
        drained_at=row.drained_at,
        saturated_at=row.saturated_at,
        updated_at=row.updated_at,
        breaker=_breaker(row),
    )
