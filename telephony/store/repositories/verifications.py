"""Verifications, and the wrong codes counted against a number.

What it never does: see a code; it keeps a keyed hash and sealed bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, bindparam, func, or_, select

from telephony.errors import NotFound, StoreError
from telephony.model.call import VerificationStatus
from telephony.store.records import CheckFailureRecord, Page, VerificationRecord
from telephony.store.session import Rows, Session
from telephony.store.tables import check_failure, verification

_rows: Final = Rows(verification, VerificationRecord)
_c: Final = verification.c
_failures: Final = Rows(check_failure, CheckFailureRecord)

_EXPIRED: Final = (
    _rows.select.where(_c.ended_at.is_(None), _c.expires_at <= bindparam("now"))
    .order_by(_c.expires_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_NEXT_EXPIRY: Final = select(_c.expires_at).where(_c.ended_at.is_(None)).order_by(_c.expires_at).limit(1)
_COUNT_FAILURES: Final = select(func.count()).where(
    check_failure.c.to_number == bindparam("to_number"), check_failure.c.at >= bindparam("since")
)


class Verifications:
    """The verification table, inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, record: VerificationRecord) -> None:
        """Insert. A final status without `ended_at`, or the other way round, raises `StoreError`."""
        if (record.status is VerificationStatus.PENDING) != (record.ended_at is None):
            raise StoreError(f"a verification that is {record.status} can't have ended_at {record.ended_at}")
        await _rows.add(self._session, record)

    async def get(self, verification_id: str) -> VerificationRecord | None:
        """The verification, whoever's it is."""
        return await _rows.get(self._session, verification_id)

    async def get_for_client(self, client: str, verification_id: str) -> VerificationRecord | None:
        """The verification if it is this client's."""
        record = await _rows.get(self._session, verification_id)
        return record if record is not None and record.client == client else None

    async def lock(self, verification_id: str) -> VerificationRecord | None:
        """The verification, which nobody else changes before this transaction ends."""
        return await _rows.get(self._session, verification_id, lock=True)

    async def list(
        self,
        client: str,
        *,
        status: VerificationStatus | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[VerificationRecord]:
        """The client's verifications, newest first; `after` is the cursor of the page before."""
        conditions: list[ColumnElement[bool]] = [_c.client == client]
        if status is not None:
            conditions.append(_c.status == status)
        return await _rows.page(self._session, *conditions, after=after, limit=limit)

    async def update(self, verification_id: str, **columns: Any) -> None:
        """Change columns by their names in `VerificationRecord`; `lock` it before you decide on the change.

        `updated_at` is set by itself; a final status also sets `ended_at` where it is not given, and erases
        `code_sealed`. Raises `NotFound`.
        """
        if (status := columns.get("status")) is not None and status != VerificationStatus.PENDING:
            columns = {"ended_at": self._session.now, **columns, "code_sealed": None}
        changes = {"updated_at": self._session.now, **columns}
        if not await _rows.change(self._session, verification_id, changes):
            raise NotFound("id", f"there is no verification {verification_id}", "Send the id of one")

    async def due_expired(self, now: int, limit: int) -> Sequence[VerificationRecord]:
        """Pending ones whose time is over, earliest first, locked: two who ask at once get disjoint rows."""
        return await _rows.fetch(self._session, _EXPIRED, {"now": now, "most": limit})

    async def next_expiry(self) -> int | None:
        """When the earliest pending verification expires (perhaps already); None when none is pending."""
        value: int | None = await self._session.value(_NEXT_EXPIRY)
        return value

    async def erase_sealed(self, now: int) -> int:
        """Erase the sealed code of whatever is final or over, and return of how many."""
        over = or_(_c.ended_at.is_not(None), _c.expires_at <= now)
        return await _rows.update(
            self._session, and_(_c.code_sealed.is_not(None), over), {"code_sealed": None}
        )


class CheckFailures:
    """The check_failure table, inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, record: CheckFailureRecord) -> None:
        """Count a wrong code."""
        await _failures.add(self._session, record)

    async def count(self, to_number: str, since: int) -> int:
        """How many wrong codes were tried for this number at or after `since`."""
        return int(await self._session.value(_COUNT_FAILURES, {"to_number": to_number, "since": since}))

    async def clear(self, to_number: str) -> None:
        """Forget them: the right code was given."""
        await self._session.run(check_failure.delete().where(check_failure.c.to_number == to_number))

    async def purge(self, before: int) -> int:
        """Forget what no window reaches any more, and return how many."""
        return (await self._session.run(check_failure.delete().where(check_failure.c.at < before))).rowcount
