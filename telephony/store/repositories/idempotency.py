"""Idempotency keys: the same request twice is done once, and answered alike.

What it never does: outlive its `expires_at`; a key may be used anew from then on.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from sqlalchemy import ColumnElement, and_, bindparam, select, tuple_
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from telephony.errors import StoreError
from telephony.store.records import IdempotencyState, InFlight, Mismatch, New, Replay
from telephony.store.session import Session
from telephony.store.tables import idempotency

Begun: TypeAlias = New | Replay | InFlight | Mismatch

_c: Final = idempotency.c
_SQLITE_INSERT: Final = sqlite_insert(idempotency).on_conflict_do_nothing()
_POSTGRESQL_INSERT: Final = postgresql_insert(idempotency).on_conflict_do_nothing()
_SELECT: Final = (
    select(_c.fingerprint, _c.state, _c.status, _c.body, _c.content_type, _c.resource, _c.expires_at)
    .where(_c.client == bindparam("of_client"), _c.key == bindparam("of_key"))
    .with_for_update()
)
_FINISH: Final = (
    idempotency.update()
    .where(_c.client == bindparam("of_client"), _c.key == bindparam("of_key"))
    .values(
        state=bindparam("new_state", type_=_c.state.type),
        status=bindparam("new_status", type_=_c.status.type),
        body=bindparam("new_body", type_=_c.body.type),
        content_type=bindparam("new_content_type", type_=_c.content_type.type),
        resource=bindparam("new_resource", type_=_c.resource.type),
    )
)
PURGE_BATCH: Final = 1_000
_EXPIRED: Final = (
    select(_c.client, _c.key)
    .where(_c.expires_at <= bindparam("now"))
    .order_by(_c.expires_at)
    .limit(bindparam("most"))
)
# Asked again of the row itself: PostgreSQL looks for them before it waits for one that is just used anew.
_PURGE: Final = idempotency.delete().where(
    tuple_(_c.client, _c.key).in_(_EXPIRED), _c.expires_at <= bindparam("now")
)
_TRIES: Final = 3


class Idempotency:
    """The idempotency table, inside one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def begin(self, client: str, key: str, fingerprint: str, now: int, ttl: int) -> Begun:
        """Take the key for a request with this fingerprint, for `ttl` milliseconds.

        `New` goes to exactly one of those who ask at once. On PostgreSQL the others wait for its
        transaction to end and see what it left; if it rolled back, the next one gets `New`.
        """
        insert = _POSTGRESQL_INSERT if self._session.dialect == "postgresql" else _SQLITE_INSERT
        fresh = {
            "fingerprint": fingerprint,
            "state": IdempotencyState.IN_FLIGHT,
            "status": None,
            "body": None,
            "content_type": None,
            "resource": None,
            "created_at": now,
            "expires_at": now + ttl,
        }
        for _ in range(_TRIES):
            if (await self._session.run(insert, {"client": client, "key": key, **fresh})).rowcount == 1:
                return New()
            row = (await self._session.run(_SELECT, {"of_client": client, "of_key": key})).first()
            if row is None:
                # Given up between the two statements: it is free again.
                continue
            if row.expires_at <= now:
                await self._session.run(idempotency.update().where(_is(client, key)).values(fresh))
                return New()
            if row.fingerprint != fingerprint:
                return Mismatch()
            if row.state is IdempotencyState.IN_FLIGHT:
                return InFlight()
            return Replay(row.status, row.body, row.content_type, row.resource)
        return InFlight()

    async def finish(
        self,
        client: str,
        key: str,
        status: int,
        body: str,
        *,
        content_type: str = "application/json",
        resource: str | None = None,
    ) -> None:
        """Keep the answer (HTTP status and text) for whoever asks again. The body must hold no secret."""
        changes: dict[str, Any] = {
            "new_state": IdempotencyState.DONE,
            "new_status": status,
            "new_body": body,
            "new_content_type": content_type,
            "new_resource": resource,
        }
        changed = await self._session.run(_FINISH, {"of_client": client, "of_key": key, **changes})
        if changed.rowcount != 1:
            raise StoreError("the idempotency key was not begun, or has been purged")

    async def abandon(self, client: str, key: str) -> None:
        """Give a key back whose work came to nothing; a finished one stays."""
        in_flight = _c.state == IdempotencyState.IN_FLIGHT
        await self._session.run(idempotency.delete().where(_is(client, key), in_flight))

    async def purge(self, now: int) -> int:
        """Forget expired ones, `PURGE_BATCH` at most, and return how many."""
        return (await self._session.run(_PURGE, {"now": now, "most": PURGE_BATCH})).rowcount


def _is(client: str, key: str) -> ColumnElement[bool]:
    return and_(_c.client == client, _c.key == key)
