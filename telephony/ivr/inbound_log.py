"""Keeps calls that came in and are over, as calls that an app can look at, with the path through their tree.

They are written a second later, many in one transaction: a caller waits for nothing, and a controller that is
killed loses the record of what ended in its last second (the log has a line for it). What it never does:
hold up a call, or keep a secret.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import structlog

from telephony.errors import StoreError
from telephony.ivr.journal import Visit, step_of
from telephony.model.call import CallClass, CallStatus, Direction
from telephony.model.ids import new_id
from telephony.store import Store
from telephony.store.records import EventRecord, RequestRecord

PATH_EVENT: Final = "ivr.path"
"""The event that keeps the nodes of a call."""

FLUSH_SECONDS: Final = 1.0
BATCH: Final = 200
MAX_WAITING: Final = 10_000
"""Calls that are kept in memory while the store can't be written; then the oldest are let go."""

FAILURES: Final = ("lost", "failed")
"""Results that were nobody's choice."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InboundCall:
    """A call that came in. `channel` is the PBX's id of it, times are in milliseconds since the epoch."""

    channel: str
    tree: str
    caller: str
    called: str
    language: str
    result: str
    began_at: int
    ended_at: int
    visits: tuple[Visit, ...] = field(repr=False)


class InboundLog:
    """Owns one task. `client` is whose calls they are."""

    def __init__(self, store: Store, client: str) -> None:
        self._store = store
        self._client = client
        self._waiting: deque[tuple[RequestRecord, EventRecord]] = deque(maxlen=MAX_WAITING)
        self._some = asyncio.Event()
        self._in_doubt = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="inbound-log")

    async def stop(self) -> None:
        """Write what waits, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting and await self._flush():
            pass

    def keep(self, call: InboundCall) -> None:
        """Have it written soon."""
        request = RequestRecord(
            id=new_id("call"),
            client=self._client,
            direction=Direction.INBOUND,
            flow=call.tree,
            flow_ref=call.channel,
            to_number=call.called,
            from_number=call.caller or None,
            call_class=CallClass.TRANSACTION,
            status=CallStatus.FAILED if call.result in FAILURES else CallStatus.COMPLETED,
            failure_reason=call.result if call.result in FAILURES else None,
            locale=call.language,
            metadata={"channel": call.channel, "result": call.result},
            created_at=call.began_at,
            updated_at=call.ended_at,
            ended_at=call.ended_at,
        )
        detail = {"path": [step_of(visit) for visit in call.visits]}
        event = EventRecord(
            id=new_id("evt"), at=call.ended_at, request_id=request.id, kind=PATH_EVENT, detail=detail
        )
        self._waiting.append((request, event))
        self._some.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            while self._waiting:
                if not await self._flush():
                    await asyncio.sleep(FLUSH_SECONDS)
            self._some.clear()

    async def _flush(self) -> bool:
        """Write some; False where the store could not be written."""
        batch = [self._waiting[at] for at in range(min(BATCH, len(self._waiting)))]
        try:
            async with self._store.transaction() as work:
                wanted = batch
                if self._in_doubt:
                    # A commit whose answer was lost may have been one.
                    wanted = [one for one in batch if await work.requests.get(one[0].id) is None]
                await work.requests.add(*(request for request, _ in wanted))
                await work.events.add(*(event for _, event in wanted))
        except StoreError as error:
            self._in_doubt = True
            log.warning("ivr.calls_not_kept_yet", waiting=len(self._waiting), error=str(error))
            return False
        self._in_doubt = False
        for kept in batch:
            if self._waiting and self._waiting[0] is kept:
                self._waiting.popleft()
        return True
