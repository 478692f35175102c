"""One of two processes that race for the same payments: `python -m tests.payment_racer`.

It reads a plan in JSON from its standard input, says `ready`, reads when to begin, acts on each payment at
the moments that the plan names, and writes what it was told, and when. Everything below the HTTP API is
what a controller runs: the flow with a person who presses 1, the service's cancel, the expiry.
What it never does: judge what came of it; whoever started it looks at the rows.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from telephony.calls.engine import CallEngine
from telephony.calls.flow import Prepared
from telephony.errors import Conflict
from telephony.logs import set_up_logs
from telephony.pbx.memory import Callee, MemoryPbx, MemorySession
from telephony.services.notices import Notices
from telephony.services.payment import Payments
from telephony.services.payment_book import PaymentBook, PaymentExpiry
from telephony.services.payment_flow import PaymentFlow
from telephony.store import Store
from telephony.trunks.dialect import Trunk
from telephony.trunks.routing import Router
from tests.unit.services.conftest import CLIENT, ENDPOINT, SilentVoice

PREPARED_AHEAD = 0.2


@dataclass(frozen=True)
class Deed:
    """One act on one payment: what its caller was told, and from when to when it took (seconds)."""

    payment: str
    act: str
    told: str
    began: float
    ended: float


class Racer:
    """A controller without a PBX: the store, the book and the service of payments."""

    def __init__(self, store: Store) -> None:
        notices = Notices({CLIENT.name: ENDPOINT}, lambda: None)
        self._store = store
        self._voice = SilentVoice()
        self._book = PaymentBook(store, notices)
        self._flow = PaymentFlow(self._book, self._voice)
        router = Router([Trunk("main", "carrier")])
        # Never started: it only notes a cancel in the row of the call.
        self._engine = CallEngine(
            store, MemoryPbx(), router, {PaymentFlow.name: self._flow}, owner=store.owner, discard=print
        )
        self._payments = Payments(store, self._engine, router, self._voice, self._book)
        self._expiry = PaymentExpiry(self._book, self)
        self.expired: list[str] = []
        self.deeds: list[Deed] = []

    async def cancel(self, request_id: str) -> None:
        """For the expiry, in the engine's place: it cancels the call of each payment that it ended."""
        self.expired.append(request_id)
        await self._engine.cancel(request_id)

    async def run(self, plan: list[dict[str, Any]], begin: float) -> None:
        """Do everything; `begin` is when the plan's second 0 is, by `time.time()`."""
        async with asyncio.TaskGroup() as group:
            for entry in plan:
                act = getattr(self, f"_{entry['act']}")
                group.create_task(act(entry["payment"], begin + entry["at"]))

    async def _confirm(self, payment: str, at: float) -> None:
        await asyncio.sleep(at - PREPARED_AHEAD - time.time())
        async with self._store.reading() as work:
            (request,) = await work.requests.of_flow(payment)
        prepared = await self._flow.prepare(request)
        assert isinstance(prepared, Prepared)
        session = MemorySession(payment, "", request.to_number, Callee(keys="1"))
        await asyncio.sleep(at - time.time())
        began = time.monotonic()
        await self._flow.converse(session, request, prepared)
        said = [self._voice.phrases(name)[0] for name in session.played]
        self._note(payment, "confirm", " ".join(said), began)

    async def _cancel(self, payment: str, at: float) -> None:
        await asyncio.sleep(at - time.time())
        began = time.monotonic()
        try:
            told = (await self._payments.cancel(CLIENT, payment)).status.value
        except Conflict as conflict:
            told = str(conflict)
        self._note(payment, "cancel", told, began)

    async def _expire(self, payment: str, at: float) -> None:
        await asyncio.sleep(at - time.time())
        began = time.monotonic()
        await self._expiry.expire_due(time.time_ns() // 1_000_000)
        self._note(payment, "expire", "", began)

    def _note(self, payment: str, act: str, told: str, began: float) -> None:
        self.deeds.append(Deed(payment, act, told, began, time.monotonic()))


async def main() -> None:
    """Race once."""
    set_up_logs("error")
    given = json.loads(await asyncio.to_thread(sys.stdin.readline))
    store = await Store.open(given["url"], owner=given["owner"], deadline=20.0)
    try:
        racer = Racer(store)
        print("ready", flush=True)
        begin = json.loads(await asyncio.to_thread(sys.stdin.readline))
        await racer.run(given["plan"], begin)
        told = {"deeds": [asdict(deed) for deed in racer.deeds], "expired": racer.expired}
        print(json.dumps(told), flush=True)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
