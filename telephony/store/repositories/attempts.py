"""Attempts: each is on disk before it is on the wire.

What it never does: dial, or decide whether another attempt follows.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import bindparam, func, select

from telephony.errors import StaleFence, StoreError
from telephony.model.call import AttemptPhase
from telephony.model.ids import first_id
from telephony.store.records import AttemptRecord, AttemptTimes
from telephony.store.session import Rows, Session
from telephony.store.tables import attempt

_rows: Final = Rows(attempt, AttemptRecord)
_c: Final = attempt.c

_OF_REQUEST: Final = _rows.select.where(_c.request_id == bindparam("of")).order_by(_c.number)
_OPEN: Final = _rows.select.where(_c.ended_at.is_(None)).order_by(_c.created_at, _c.id)
_OPEN_TO: Final = select(func.count()).where(_c.ended_at.is_(None), _c.to_number == bindparam("to_number"))
_ALONE_WITH: Final = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("to_number"), 0)))
_DIALED: Final = select(func.count()).where(
    _c.dialed_at.is_not(None), _c.to_number == bindparam("to_number"), _c.dialed_at >= bindparam("since")
)

# An identifier tells when it was made, so that the primary key serves for time as well; the moment of
# dialling follows, and is by the database's clock where several share it.
_DIALED_AFTER_MS: Final = 86_400_000
_CLOCKS_APART_MS: Final = 3_600_000
_TIMES: Final = (
    select(_c.id, _c.dialed_at, _c.answered_at, _c.ended_at)
    .where(
        _c.id > bindparam("after"),
        _c.id < bindparam("before"),
        _c.dialed_at >= bindparam("since"),
        _c.dialed_at < bindparam("until"),
    )
    .order_by(_c.id)
    .limit(bindparam("most"))
)
_TIMES_OF_TRUNK: Final = _TIMES.where(_c.trunk == bindparam("of_trunk"))


class Attempts:
    """The attempt table, inside one transaction.

    An open attempt follows its request: who takes over the request takes over the attempt, under the
    same new fence.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, record: AttemptRecord) -> None:
        """Insert. A second attempt of the same number in one request raises `StoreError`."""
        if (record.phase is AttemptPhase.ENDED) != (record.ended_at is not None):
            raise StoreError(f"an attempt that is {record.phase} can't have ended_at {record.ended_at}")
        await _rows.add(self._session, record)

    async def get(self, attempt_id: str) -> AttemptRecord | None:
        """The attempt."""
        return await _rows.get(self._session, attempt_id)

    async def update(self, attempt_id: str, *, fence: int, **columns: Any) -> None:
        """Change columns by their names in `AttemptRecord`, if the fence is still ours.

        The phase `ended` also sets `ended_at` where it is not given, and clears `lease_until`. Raises
        `StaleFence`, and then nothing was changed.
        """
        if columns.get("phase") == AttemptPhase.ENDED:
            columns = {"ended_at": self._session.now, **columns, "lease_until": None}
        if not await _rows.change(self._session, attempt_id, columns, fence=fence):
            raise StaleFence(f"attempt {attempt_id} is not ours under fence {fence}")

    async def list_for(self, request_id: str) -> list[AttemptRecord]:
        """The attempts of a request, first to last."""
        return await _rows.fetch(self._session, _OF_REQUEST, {"of": request_id})

    async def open_attempts(self) -> list[AttemptRecord]:
        """Every attempt that has not ended, oldest first: as many as there are calls, not as are stored."""
        return await _rows.fetch(self._session, _OPEN)

    async def alone_with(self, to_number: str) -> None:
        """Let nobody else who asks for this number go on before the transaction ends.

        So what is counted of it stays as it is, until what the count allowed is written.
        """
        # SQLite has one writer.
        if self._session.dialect == "postgresql":
            await self._session.run(_ALONE_WITH, {"to_number": to_number})

    async def number_is_open(self, to_number: str) -> bool:
        """Whether an attempt to this number has not ended: a second one may not be added.

        We are alone with the number from here on, so who hears "no" may add one.
        """
        await self.alone_with(to_number)
        return bool(await self._session.value(_OPEN_TO, {"to_number": to_number}))

    async def count_to_number_since(self, to_number: str, since: int) -> int:
        """How many attempts to this number were really dialled at or after `since`."""
        return int(await self._session.value(_DIALED, {"to_number": to_number, "since": since}))

    async def times(
        self, since: int, until: int, *, trunk: str | None = None, after: str = "", limit: int = 1_000
    ) -> list[AttemptTimes]:
        """A page of the attempts that were dialled from `since` up to `until`, by any trunk or by one.

        `after` is the last identifier of the page before. They come as they were made, to be read in one
        short transaction for each page. Found is what `new_id` named, at most a day before the dialling.
        """
        asked = {
            "after": max(after, first_id("att", since - _DIALED_AFTER_MS)),
            "before": first_id("att", until + _CLOCKS_APART_MS),
            "since": since,
            "until": until,
            "most": limit,
        }
        if trunk is None:
            rows = await self._session.run(_TIMES, asked)
        else:
            rows = await self._session.run(_TIMES_OF_TRUNK, {**asked, "of_trunk": trunk})
        return [AttemptTimes(row.id, row.dialed_at, row.answered_at, row.ended_at) for row in rows]
