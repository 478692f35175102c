"""An operator's order carried out, in one transaction, with the event that tells who gave it.

What it never does: end a call that stands.
"""

from __future__ import annotations

import structlog

from telephony.model.ids import new_id
from telephony.store import UnitOfWork
from telephony.store.records import EventRecord
from telephony.trunks.orders import Ask, Order

log = structlog.get_logger(__name__)


async def carry_out(work: UnitOfWork, order: Order, now: int, by: str) -> bool:
    """Drain, resume or limit a trunk that the store knows; False where it was so already.

    It counts from the next call on, with every controller of this store. `now` is in milliseconds since the
    epoch. Raises `StoreError` for a trunk that nobody ensured.
    """
    match order.ask:
        case Ask.DRAIN:
            changed = await work.trunks.drain(order.trunk, now)
        case Ask.RESUME:
            changed = await work.trunks.resume(order.trunk)
        case Ask.LIMIT:
            before = (await work.trunks.all()).get(order.trunk)
            await work.slots.limit(order.trunk, order.channels)
            changed = before is None or before.channels != order.channels
    if changed:
        detail = {"trunk": order.trunk, "order": str(order), "by": by}
        await work.events.add(EventRecord(id=new_id("evt"), at=now, kind="trunk.order", detail=detail))
        log.info("trunk.order", order=str(order), by=by)
    return changed
