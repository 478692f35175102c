"""One transaction as the repositories see it: statements in, rows out, errors in our own terms.

What it never does: begin, commit or roll back.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Generic, TypeVar, cast

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    CursorResult,
    Executable,
    Row,
    Table,
    Update,
    and_,
    bindparam,
    select,
    tuple_,
)

from telephony.errors import InputError, StoreError
from telephony.store.engines import Connection
from telephony.store.failures import DATABASE_ERRORS, store_error
from telephony.store.records import Page

Record = TypeVar("Record")

_MAX_PAGE: Final = 1_000
_MAX_CURSOR: Final = 200


class Session:
    """Runs statements on one connection, and remembers a failure: after it nothing may be committed.

    `now` is a value or an SQL expression for this moment in milliseconds, by the clock that counts.
    """

    def __init__(self, connection: Connection, now: Callable[[], int | ColumnElement[int]]) -> None:
        self._connection = connection
        self._now = now
        self.dialect = connection.dialect.name
        self.failure: StoreError | None = None

    @property
    def now(self) -> int | ColumnElement[int]:
        """What to write where a row notes when it changed."""
        return self._now()

    async def run(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[Any]:
        """Execute; raises `StoreUnavailable` or `StoreError`, and never shows a parameter."""
        try:
            return await self._connection.execute(statement, parameters)
        except DATABASE_ERRORS as error:
            self.failure = store_error(error)
        # Outside the handler: PostgreSQL's own error may carry the whole row, and nothing may print it.
        raise self.failure

    def check(self) -> None:
        """Before the commit: raises the failure of a statement, if one failed, whoever swallowed it."""
        # PostgreSQL would answer the commit of a failed transaction with a silent rollback.
        if self.failure is not None:
            raise self.failure

    async def value(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row, or None."""
        return (await self.run(statement, parameters)).scalar()


class Rows(Generic[Record]):
    """The plain ways to and from one table whose rows are `record`s."""

    def __init__(self, table: Table, record: type[Record]) -> None:
        self.table = table
        self._record = record
        self._names = tuple(field.name for field in fields(cast(Any, record)))
        self.select = select(*(table.c[name] for name in self._names))
        self._insert = table.insert()
        self._by_id = self.select.where(table.c.id == bindparam("row_id"))
        self._locked = self._by_id.with_for_update()
        self._changes: dict[tuple[tuple[str, ...], bool], Update] = {}

    def values(self, record: Record) -> dict[str, Any]:
        """The record as parameters of an insert."""
        return {name: getattr(record, name) for name in self._names}

    def record(self, row: Row[Any]) -> Record:
        """A row of `self.select` as a record."""
        return self._record(**dict(zip(self._names, row, strict=True)))

    async def add(self, session: Session, *records: Record) -> None:
        """Insert; an identifier that is there already raises `StoreError`."""
        if len(records) == 1:
            await session.run(self._insert, self.values(records[0]))
        elif records:
            await session.run(self._insert, [self.values(record) for record in records])

    async def get(self, session: Session, row_id: str, *, lock: bool = False) -> Record | None:
        """The record of this identifier; with `lock` nobody else may change it before we end."""
        row = (await session.run(self._locked if lock else self._by_id, {"row_id": row_id})).first()
        return None if row is None else self.record(row)

    async def fetch(
        self, session: Session, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> list[Record]:
        """The records of a statement made from `self.select`."""
        return [self.record(row) for row in await session.run(statement, parameters)]

    async def update(
        self, session: Session, condition: ColumnElement[bool], changes: Mapping[str, Any]
    ) -> int:
        """Change columns by name, and return how many rows were touched. Unknown names raise `StoreError`."""
        unknown = [name for name in changes if name not in self._names]
        if unknown:
            raise StoreError(f"{self.table.name} has no column {unknown[0]}")
        return (await session.run(self.table.update().where(condition).values(dict(changes)))).rowcount

    async def change(
        self, session: Session, row_id: str, changes: Mapping[str, Any], *, fence: int | None = None
    ) -> int:
        """Change columns of one row, with `fence` only under it; returns 1, or 0 where it is not so.

        The statement for the same columns is made once. Values are plain or SQL expressions.
        """
        if any(isinstance(value, ClauseElement) for value in changes.values()):
            condition = self.table.c.id == row_id
            if fence is not None:
                condition = and_(condition, self.table.c.fence == fence)
            return await self.update(session, condition, changes)
        kind = (tuple(changes), fence is not None)
        statement = self._changes.get(kind)
        if statement is None:
            statement = self._changes[kind] = self._change_of(*kind)
        parameters = {f"new_{name}": value for name, value in changes.items()}
        parameters["row_id"] = row_id
        if fence is not None:
            parameters["row_fence"] = fence
        return (await session.run(statement, parameters)).rowcount

    def _change_of(self, names: Sequence[str], fenced: bool) -> Update:
        unknown = [name for name in names if name not in self._names]
        if unknown:
            raise StoreError(f"{self.table.name} has no column {unknown[0]}")
        columns = self.table.c
        statement = self.table.update().where(columns.id == bindparam("row_id"))
        if fenced:
            statement = statement.where(columns.fence == bindparam("row_fence"))
        return statement.values({name: bindparam(f"new_{name}", type_=columns[name].type) for name in names})

    async def page(
        self, session: Session, *conditions: ColumnElement[bool], after: str | None, limit: int
    ) -> Page[Record]:
        """Newest first by `created_at` and `id`, from where `after` left off.

        The place in the list is a value, not a count: rows that come and go meanwhile neither repeat
        nor hide others. Raises `InputError` for a cursor that is none of ours.
        """
        limit = max(1, min(limit, _MAX_PAGE))
        place = tuple_(self.table.c.created_at, self.table.c.id)
        statement = self.select.where(*conditions)
        if after is not None:
            statement = statement.where(place < tuple_(*_place_of(after)))
        newest_first = (self.table.c.created_at.desc(), self.table.c.id.desc())
        records = await self.fetch(session, statement.order_by(*newest_first).limit(limit + 1))
        if len(records) <= limit:
            return Page(tuple(records), None)
        last = cast(Any, records[limit - 1])
        return Page(tuple(records[:limit]), _cursor(last.created_at, last.id))


def _cursor(created_at: int, row_id: str) -> str:
    return base64.urlsafe_b64encode(f"{created_at}:{row_id}".encode()).decode().rstrip("=")


def _place_of(cursor: str) -> tuple[int, str]:
    problem = InputError(
        "cursor", "is not one that we gave out", "Send the cursor of the page before, or none"
    )
    if len(cursor) > _MAX_CURSOR:
        raise problem
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        created_at, row_id = text.split(":", 1)
        place = int(created_at), row_id
    except (binascii.Error, ValueError) as error:
        raise problem from error
    if not -(2**63) <= place[0] < 2**63 or "\0" in row_id:
        raise problem
    return place
