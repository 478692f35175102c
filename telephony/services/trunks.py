"""Trunks as operators see and change them. What it never does: end a call that stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from telephony.errors import InputError, NotFound, NotPermitted
from telephony.model.client import Client
from telephony.model.trunk import MOST_LINES
from telephony.services.contract import BreakerView, TrunkView
from telephony.store import Store
from telephony.trunks.dialect import Trunk
from telephony.trunks.operate import carry_out
from telephony.trunks.orders import Ask, Order
from telephony.trunks.status import TrunkStatus, statuses


class TrunkDesk:
    """The service. `changed` is called after a change: whoever shows or guards trunks elsewhere looks."""

    def __init__(self, store: Store, trunks: Sequence[Trunk], changed: Callable[[], None]) -> None:
        self._store = store
        self._trunks = tuple(trunks)
        self._changed = changed

    async def list(self) -> tuple[TrunkView, ...]:
        """Return every configured trunk, in the configured order."""
        async with self._store.reading() as work:
            records, use = await work.trunks.all(), await work.slots.in_use()
        now = await self._store.now_ms()
        return tuple(_seen(status) for status in statuses(self._trunks, records, use, now))

    async def get(self, name: str) -> TrunkView:
        """Return one; raises `NotFound`."""
        found = next((view for view in await self.list() if view.name == name), None)
        if found is None:
            raise self._unknown(name)
        return found

    async def drain(self, client: Client, name: str) -> TrunkView:
        """Let no new call take it; those that stand go on. Raises `NotFound`, `NotPermitted`."""
        return await self._do(client, Order(Ask.DRAIN, name))

    async def resume(self, client: Client, name: str) -> TrunkView:
        """Let calls take it again. Raises `NotFound`, `NotPermitted`."""
        return await self._do(client, Order(Ask.RESUME, name))

    async def limit(self, client: Client, name: str, channels: int | None) -> TrunkView:
        """Let it have so many lines, None: as configured. Raises `NotFound`, `NotPermitted`, `InputError`."""
        if channels is not None and not 0 <= channels <= MOST_LINES:
            raise InputError("channels", "is out of range", f"Send a number from 0 to {MOST_LINES}, or null")
        return await self._do(client, Order(Ask.LIMIT, name, channels))

    async def _do(self, client: Client, order: Order) -> TrunkView:
        if not client.operator:
            raise NotPermitted(
                f"{client.name} may look at trunks but not change them; that takes operator = true"
            )
        if all(order.trunk != trunk.name for trunk in self._trunks):
            raise self._unknown(order.trunk)
        now = await self._store.now_ms()
        async with self._store.transaction() as work:
            changed = await carry_out(work, order, now, client.name)
        if changed:
            self._changed()
        return await self.get(order.trunk)

    def _unknown(self, name: str) -> NotFound:
        known = ", ".join(trunk.name for trunk in self._trunks)
        return NotFound("name", f"there is no trunk {name[:64]!r}", f"Known: {known}")


def _seen(status: TrunkStatus) -> TrunkView:
    record, use, breaker = status.record, status.use, status.record.breaker
    return TrunkView(
        name=status.trunk.name,
        endpoint=status.trunk.endpoint,
        state=status.condition,
        why=status.why,
        limit=record.limit,
        configured=record.configured,
        in_use=use.in_use,
        outbound=status.outbound,
        inbound=use.inbound,
        foreign=use.foreign,
        above=use.extra,
        calls_per_second=status.trunk.calls_per_second,
        burst=status.trunk.burst,
        drained_at=record.drained_at,
        saturated_at=record.saturated_at,
        breaker=BreakerView(breaker.phase, len(breaker.failures), breaker.until, breaker.reason),
    )
