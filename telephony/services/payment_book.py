"""Where a payment is decided: one transaction locks the row, looks at it, ends it and writes its event.

Confirm, decline, cancel, expiry and failure all come here; the first wins, and each learns from the row
what it says now. What it never does: overrule a row that is final, or take an answer after the deadline.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Protocol

import structlog

from telephony.egress.envelope import iso
from telephony.egress.guard import Guard, url_problem
from telephony.egress.http import Egress
from telephony.egress.rules import Endpoint
from telephony.errors import AddressRefused, EgressError, InputError, NotFound
from telephony.model.call import PaymentStatus
from telephony.model.client import Client
from telephony.model.ids import new_id
from telephony.services.notices import Notices
from telephony.services.talk import MESSAGE_LEFT
from telephony.store import Store, UnitOfWork
from telephony.store.records import PaymentRecord

log = structlog.get_logger(__name__)

ASK_SECONDS: Final = 3.0
"""How long the app may think while the person waits on the line."""

_MOST_OF_ANSWER: Final = 4096
_EXPIRY_BATCH: Final = 200


class DecidedBy(StrEnum):
    """Who or what ended a payment."""

    PERSON = "person"
    APP = "app"
    APP_REFUSED = "app_refused"
    APP_SILENT = "app_silent"
    AGENT = "agent"
    CLIENT = "client"
    DEADLINE = "deadline"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Decision:
    """How a payment shall end; `reason` tells why one failed, `keys` what was pressed on the call."""

    status: PaymentStatus
    decided_by: DecidedBy
    reason: str | None = None
    keys: str = ""


EXPIRED: Final = Decision(PaymentStatus.EXPIRED, DecidedBy.DEADLINE)
CANCELED: Final = Decision(PaymentStatus.CANCELED, DecidedBy.CLIENT)


class PaymentBook:
    """Ends payments, each once. `clock` gives milliseconds since the epoch."""

    def __init__(
        self,
        store: Store,
        notices: Notices,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._notices = notices
        self._clock = clock
        self._changes: dict[str, asyncio.Event] = {}

    async def read(self, client: str, payment_id: str) -> PaymentRecord | None:
        """Return the row as it is now if it is this client's."""
        async with self._store.reading() as work:
            return await work.payments.get_for_client(client, payment_id)

    async def message_left(self, request_id: str) -> bool:
        """Whether an earlier attempt of a call has left a message on a machine."""
        async with self._store.reading() as work:
            attempts = await work.attempts.list_for(request_id)
        return any(attempt.end_reason == MESSAGE_LEFT for attempt in attempts)

    def is_open(self, record: PaymentRecord) -> bool:
        """Whether an answer given now would still count."""
        return record.status is PaymentStatus.PENDING and self._clock() < record.expires_at

    async def decide(self, payment_id: str, decision: Decision) -> PaymentRecord:
        """End a payment that is still open, and return the row as it then is, whoever has decided it.

        One whose deadline is over ends as expired, whatever the decision. Raises `NotFound`.
        """
        async with self._store.transaction() as work:
            record = await work.payments.lock(payment_id)
            if record is None:
                raise NotFound("id", "names no payment confirmation", f"Check {payment_id[:64]!r}")
            if record.status is not PaymentStatus.PENDING:
                return record
            ended = await self._end(work, record, decision)
        self._tell(ended)
        return ended

    async def cancel(self, payment_id: str) -> PaymentRecord:
        """Decide that the client has cancelled it, and return the row as it then is."""
        return await self.decide(payment_id, CANCELED)

    async def decide_within(self, work: UnitOfWork, payment_id: str, decision: Decision) -> None:
        """The same in a transaction that somebody else commits."""
        record = await work.payments.lock(payment_id)
        if record is not None and record.status is PaymentStatus.PENDING:
            ended = await self._end(work, record, decision)
            work.done.append(lambda: self._tell(ended))

    async def expire_due(self, now: int) -> tuple[PaymentRecord, ...]:
        """End those whose deadline is over, some at a time; returns them."""
        async with self._store.transaction() as work:
            due = await work.payments.due_expired(now, _EXPIRY_BATCH)
            ended = tuple([await self._end(work, record, EXPIRED) for record in due])
        for record in ended:
            self._tell(record)
        return ended

    async def next_expiry(self) -> int | None:
        """When the earliest open one expires, perhaps already."""
        async with self._store.reading() as work:
            return await work.payments.next_expiry()

    def change(self, payment_id: str) -> asyncio.Event:
        """An event that is set when this controller ends the payment; `forget` it after the wait."""
        return self._changes.setdefault(payment_id, asyncio.Event())

    def forget(self, payment_id: str, change: asyncio.Event) -> None:
        """Give an event of `change` back: nobody keeps those of payments that nobody waits for."""
        if self._changes.get(payment_id) is change:
            del self._changes[payment_id]
            change.set()

    def _tell(self, record: PaymentRecord) -> None:
        change = self._changes.pop(record.id, None)
        if change is not None:
            change.set()

    async def _end(self, work: UnitOfWork, record: PaymentRecord, decision: Decision) -> PaymentRecord:
        """Make a locked pending row final and write what is told of it."""
        # The clock is read under the lock: who waited for it past the deadline is late.
        now = self._clock()
        if now >= record.expires_at:
            decision = replace(EXPIRED, keys=decision.keys)
        ended = replace(
            record,
            status=decision.status,
            decided_by=decision.decided_by.value,
            failure_reason=decision.reason,
            ended_at=now,
            updated_at=now,
        )
        await work.payments.update(
            record.id,
            status=ended.status,
            decided_by=ended.decided_by,
            failure_reason=ended.failure_reason,
            ended_at=now,
            updated_at=now,
        )
        await self._notices.add(
            work,
            client=record.client,
            resource=record.id,
            kind=f"payment_confirmation.{ended.status.value}",
            payload=_payload(ended, decision.keys),
            now=now,
            expires_at=record.expires_at,
        )
        log.info("payment.ended", payment=record.id, status=ended.status.value, by=ended.decided_by)
        return ended


def _payload(record: PaymentRecord, keys: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": record.id,
        "status": record.status.value,
        "order_id": record.order_id,
        "amount": record.amount,
        "currency": record.currency,
        "to": record.to_number,
        "decided_by": record.decided_by,
        "failure_reason": record.failure_reason,
        "out_id": record.out_id,
        "call_id": record.request_id,
        "metadata": record.metadata,
    }
    return {**told, "keys": keys} if keys else told


class Canceler(Protocol):
    """What the expiry needs of the engine."""

    async def cancel(self, request_id: str) -> None:
        """Stop a call."""
        ...


class PaymentExpiry:
    """Ends payments on time, and their calls with them. Housekeeping runs it."""

    def __init__(self, book: PaymentBook, engine: Canceler) -> None:
        self._book = book
        self._engine = engine

    async def expire_due(self, now: int) -> None:
        """End what is over; a call that rings is hung up, one that is answered tells the person."""
        while ended := await self._book.expire_due(now):
            for record in ended:
                if record.request_id is not None:
                    await self._engine.cancel(record.request_id)
            if len(ended) < _EXPIRY_BATCH:
                return

    async def next_expiry(self) -> int | None:
        """When there is something to end, in milliseconds since the epoch; None where nothing is open."""
        return await self._book.next_expiry()


class AppAnswer(StrEnum):
    """What an app that was asked said."""

    CONFIRM = "confirm"
    REFUSE = "refuse"
    SILENT = "silent"


class AppQuestion:
    """Asks the app at a payment's `decide_url`, signed with the secrets of its client's webhooks.

    What it never does: follow a redirect, go to a private address, or take anything but a clear
    `confirm` for one.
    """

    def __init__(
        self,
        egress: Egress,
        guard: Guard,
        endpoints: Mapping[str, Endpoint],
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._egress = egress
        self._guard = guard
        self._endpoints = dict(endpoints)
        self._clock = clock

    def admit(self, client: Client, url: str) -> None:
        """Raise `InputError` for a URL that can't be asked, or a client without a secret to sign with."""
        problem = url_problem(url)
        if problem is not None:
            what, _, mend = problem.partition("; ")
            raise InputError("decide_url", what, mend[:1].upper() + mend[1:])
        if client.name not in self._endpoints:
            raise InputError("decide_url", "can't be signed", "Set webhook_url and its secret of this client")
        try:
            self._guard.admit(url)
        except AddressRefused as error:
            raise InputError("decide_url", str(error), "Send an address of the Internet") from None

    async def ask(self, record: PaymentRecord, keys: str) -> AppAnswer:
        """Ask whether an order that a person has just confirmed is; anything unclear is silence."""
        endpoint = self._endpoints.get(record.client)
        if endpoint is None or record.decide_url is None:
            return AppAnswer.SILENT
        now = self._clock()
        body = json.dumps(
            {
                "type": "payment_confirmation.decide",
                "timestamp": iso(now),
                "data": {
                    "id": record.id,
                    "order_id": record.order_id,
                    "amount": record.amount,
                    "currency": record.currency,
                    "to": record.to_number,
                    "decision": "confirm",
                    "keys": keys,
                    "out_id": record.out_id,
                    "call_id": record.request_id,
                    "metadata": record.metadata,
                },
            },
            separators=(",", ":"),
        ).encode("ascii")
        try:
            answer = await self._egress.post_signed(
                record.decide_url,
                endpoint.secrets,
                new_id("msg"),
                body,
                ASK_SECONDS,
                timestamp=now // 1000,
                most=_MOST_OF_ANSWER,
            )
        except EgressError as error:
            log.warning("payment.app_silent", payment=record.id, problem=str(error))
            return AppAnswer.SILENT
        said = _read(answer.body) if 200 <= answer.status < 300 and not answer.truncated else None
        if said is None:
            log.warning("payment.app_unclear", payment=record.id, status=answer.status)
            return AppAnswer.SILENT
        return said


def _read(body: bytes) -> AppAnswer | None:
    """Read `{"decision": "confirm" | "refuse"}`; None for anything else, or where it is said twice."""
    with suppress(ValueError, RecursionError):
        said = json.loads(body, object_pairs_hook=_each_once)
        decision = said.get("decision") if isinstance(said, dict) else None
        if decision in (AppAnswer.CONFIRM, AppAnswer.REFUSE):
            return AppAnswer(decision)
    return None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; raises `ValueError` for a name that stands in it twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError
    return made
