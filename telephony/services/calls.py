"""Calls as an app sees them: read, listed, cancelled. What it never does: place one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from telephony.calls.engine import CallEngine, wait_for_change
from telephony.errors import Conflict, NotFound
from telephony.model.call import FINAL_CALL_STATUSES, CallStatus
from telephony.model.client import Client
from telephony.services.contract import AttemptView, CallView, Page
from telephony.store import Store, UnitOfWork
from telephony.store.records import AttemptRecord, RequestRecord


class Calls:
    """The call service.

    `withdraw`, by flow: what is asked for by the calls of that flow ends with a call that is cancelled;
    it gets the request's `flow_ref`.
    """

    def __init__(
        self,
        store: Store,
        engine: CallEngine,
        *,
        withdraw: Mapping[str, Callable[[str], Awaitable[object]]] | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._withdraw = dict(withdraw or {})

    async def get(self, client: Client, call_id: str) -> CallView:
        """Return one call of this client with its attempts; raises `NotFound`."""
        async with self._store.reading() as work:
            return await _seen(work, await _of(work, client, call_id))

    async def list(
        self, client: Client, *, status: CallStatus | None, cursor: str | None, limit: int
    ) -> Page[CallView]:
        """Return this client's calls, newest first."""
        async with self._store.reading() as work:
            page = await work.requests.list(client.name, status=status, after=cursor, limit=limit)
            return Page(tuple([await _seen(work, request) for request in page.items]), page.cursor)

    async def cancel(self, client: Client, call_id: str) -> CallView:
        """Cancel a call that is not over; raises `Conflict` for one that is."""
        async with self._store.reading() as work:
            request = await _of(work, client, call_id)
        if request.status in FINAL_CALL_STATUSES and request.status is not CallStatus.CANCELED:
            raise Conflict(f"this call is {request.status.value}")
        withdraw = self._withdraw.get(request.flow)
        if withdraw is not None and request.flow_ref is not None:
            # First: somebody on the line is told so at the next word.
            await withdraw(request.flow_ref)
        await self._engine.cancel(call_id)
        return await self.get(client, call_id)

    async def wait_changed(
        self, client: Client, call_id: str, timeout: float, seen: CallStatus | None = None
    ) -> None:
        """Wait until the call changes, at most `timeout` seconds; at once where it is not as `seen`."""
        change = self._engine.change(call_id)
        view = await self.get(client, call_id)
        if view.status in FINAL_CALL_STATUSES or (seen is not None and view.status is not seen):
            return
        await wait_for_change(change, timeout)


async def _of(work: UnitOfWork, client: Client, call_id: str) -> RequestRecord:
    request = await work.requests.get_for_client(client.name, call_id)
    if request is None:
        raise NotFound("id", "names no call of yours", f"Check {call_id[:64]!r}")
    return request


async def _seen(work: UnitOfWork, request: RequestRecord) -> CallView:
    attempts = await work.attempts.list_for(request.id)
    return CallView(
        id=request.id,
        to=request.to_number,
        flow=request.flow,
        status=request.status,
        created_at=request.created_at,
        updated_at=request.updated_at,
        ended_at=request.ended_at,
        expires_at=request.expires_at,
        failure_reason=request.failure_reason,
        out_id=request.out_id,
        attempts=tuple(_attempt(attempt) for attempt in attempts),
    )


def _attempt(attempt: AttemptRecord) -> AttemptView:
    return AttemptView(
        id=attempt.id,
        number=attempt.number,
        trunk=attempt.trunk or "",
        trunk_reason=attempt.trunk_reason or "",
        phase=attempt.phase.value,
        dialed_at=attempt.dialed_at,
        ringing_at=attempt.ringing_at,
        answered_at=attempt.answered_at,
        ended_at=attempt.ended_at,
        sip=attempt.sip,
        q850=attempt.q850,
        cause=attempt.cause,
        end_reason=attempt.end_reason,
        keys=attempt.keys,
    )
