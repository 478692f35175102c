"""One of two processes that race for the same payments: `python -m tests.payment_racer URL OWNER`.

It says `ready`, then reads rounds from its standard input, one in each line as JSON: acts on payments and
the moment of each. It does them all at their moments, and answers with a line: what each caller was told,
and when. Everything below the HTTP API is what a controller runs: the flow with a person who presses 1,
the service's cancel, the expiry. What it never does: judge what came of it; whoever started it looks at
the rows.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from telephony.calls.engine import CallEngine
from telephony.calls.flow import Outcome
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

Json = dict[str, Any]


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

    async def round(self, acts: list[Json]) -> Json:
        """Do these acts, each at its moment by `time.time()`."""
        self.deeds, self.expired = [], []
        async with asyncio.TaskGroup() as group:
            for entry in acts:
                act = getattr(self, f"_{entry['act']}")
                group.create_task(act(entry["payment"], entry["at"]))
        return {"deeds": [asdict(deed) for deed in self.deeds], "expired": self.expired}

    async def _confirm(self, payment: str, at: float) -> None:
        async with self._store.reading() as work:
            (request,) = await work.requests.of_flow(payment)
        prepared = await self._flow.prepare(request)
        if isinstance(prepared, Outcome):
            # On a crowded machine it may be over by now: then nobody is rung.
            self._note(payment, "confirm", prepared.reason, time.monotonic())
            return
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
    """Race until there is no more to read."""
    set_up_logs("error")
    url, owner = sys.argv[1:]
    store = await Store.open(url, owner=owner, deadline=20.0)
    try:
        racer = Racer(store)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await racer.round(json.loads(line))), flush=True)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
