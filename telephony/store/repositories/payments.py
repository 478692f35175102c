"""Payment confirmations: one row each, decided once.

What it never does: decide; `lock` the row, look at its status, then `update` it.
"""

from __future__ import annotations

import builtins
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, func, select

from telephony.errors import NotFound, StoreError
from telephony.model.call import PaymentStatus
from telephony.store.records import Page, PaymentRecord
from telephony.store.session import Rows, Session
from telephony.store.tables import payment_confirmation

_rows: Final = Rows(payment_confirmation, PaymentRecord)
_c: Final = payment_confirmation.c

_EXPIRED: Final = (
    _rows.select.where(_c.ended_at.is_(None), _c.expires_at <= bindparam("now"))
    .order_by(_c.expires_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_NEXT_EXPIRY: Final = select(func.min(_c.expires_at)).where(_c.ended_at.is_(None))


class Payments:
    """The payment_confirmation table, inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, record: PaymentRecord) -> None:
        """Insert. A final status without `ended_at`, or the other way round, raises `StoreError`."""
        if (record.status is PaymentStatus.PENDING) != (record.ended_at is None):
            raise StoreError(f"a payment that is {record.status} can't have ended_at {record.ended_at}")
        await _rows.add(self._session, record)

    async def get_for_client(self, client: str, payment_id: str) -> PaymentRecord | None:
        """The payment if it is this client's."""
        record = await _rows.get(self._session, payment_id)
        return record if record is not None and record.client == client else None

    async def lock(self, payment_id: str) -> PaymentRecord | None:
        """The payment, which nobody else changes before this transaction ends."""
        return await _rows.get(self._session, payment_id, lock=True)

    async def update(self, payment_id: str, **columns: Any) -> None:
        """Change columns by their names in `PaymentRecord`; `lock` it before you decide on the change.

        `updated_at` is set by itself; a final status also sets `ended_at`. Raises `NotFound`.
        """
        if (status := columns.get("status")) is not None and status != PaymentStatus.PENDING:
            columns = {"ended_at": self._session.now, **columns}
        changes = {"updated_at": self._session.now, **columns}
        if not await _rows.change(self._session, payment_id, changes):
            raise NotFound("id", f"there is no payment confirmation {payment_id}", "Send the id of one")

    async def due_expired(self, now: int, limit: int) -> builtins.list[PaymentRecord]:
        """Pending ones whose deadline is over, earliest first, locked: two who ask get disjoint rows."""
        return list(await _rows.fetch(self._session, _EXPIRED, {"now": now, "most": limit}))

    async def next_expiry(self) -> int | None:
        """When the earliest pending one expires (perhaps already); None when none is pending."""
        value: int | None = await self._session.value(_NEXT_EXPIRY)
        return value

    async def list(
        self,
        client: str,
        *,
        status: PaymentStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[PaymentRecord]:
        """The client's payments, newest first; `after` is the cursor of the page before."""
        conditions: builtins.list[ColumnElement[bool]] = [_c.client == client]
        if status is not None:
            conditions.append(_c.status == status)
        return await _rows.page(self._session, *conditions, after=after, limit=limit)
