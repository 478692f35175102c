"""Payment confirmations: an order, an amount, a deadline, and a person who presses a key.

Everything that can be wrong with a request is refused here, before a phone rings: whatever is taken in can
be said. What it never does: decide; the book does, in one transaction.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import structlog

from telephony.calls.engine import CallEngine
from telephony.calls.policy import PRIORITIES
from telephony.errors import Conflict, InputError, NotFound, StoreError
from telephony.model.call import CallClass, CallStatus, PaymentStatus
from telephony.model.client import Client
from telephony.model.ids import new_id
from telephony.model.number import PhoneNumber
from telephony.services.admission import (
    TimeLimits,
    Voice,
    admit_once,
    begin_once,
    check_in_time,
    check_json,
    ends_at,
    finish_once,
    locale_for,
    machine_detection_for,
    number_for,
)
from telephony.services.contract import NewPayment, Once, Page, PaymentView, StoredReply, Verdict
from telephony.services.payment_book import CANCELED, EXPIRED, AppQuestion, Decision, PaymentBook
from telephony.services.payment_flow import FLOW_NAME, reference_of
from telephony.speech.wording import amount_words
from telephony.store import Store, UnitOfWork
from telephony.store.records import PaymentRecord, RequestRecord
from telephony.trunks.routing import Router

log = structlog.get_logger(__name__)

MAX_ORDER_ID: Final = 64
MAX_PAYEE: Final = 64
LOOK_EVERY: Final = 1.0
"""Seconds between looks at a payment that another controller may decide."""

_AMOUNT: Final = re.compile(r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,8})?")


@dataclass(frozen=True, slots=True)
class PaymentRules:
    """Defaults and limits; times in seconds."""

    ttl: int = 600
    min_ttl: int = 30
    max_ttl: int = 86_400


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A request that was found good; `waits_until` is when its call may ring, None: now."""

    number: PhoneNumber
    locale: str
    waits_until: int | None
    expires_at: int
    rounds: int
    variables: Mapping[str, str]


class Payments:
    """The service: what the HTTP API asks for.

    `deadline_set` gets each new deadline (milliseconds) once it is written, for whoever watches them.
    """

    def __init__(
        self,
        store: Store,
        engine: CallEngine,
        router: Router,
        voice: Voice,
        book: PaymentBook,
        rules: PaymentRules | None = None,
        *,
        app: AppQuestion | None = None,
        deadline_set: Callable[[int], None] = lambda _moment: None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._engine = engine
        self._router = router
        self._voice = voice
        self._book = book
        self._rules = rules or PaymentRules()
        self._app = app
        self._deadline_set = deadline_set
        self._clock = clock

    async def create(
        self, client: Client, new: NewPayment, once: Once[PaymentView] | None
    ) -> PaymentView | StoredReply:
        """Write payment and call in one transaction, and begin to dial."""
        now = self._clock()
        admitted = await admit_once(self._store, client, once, now, lambda: self._admit(client, new, now))
        if isinstance(admitted, StoredReply):
            return admitted
        record = PaymentRecord(
            id=new_id("pay"),
            client=client.name,
            to_number=admitted.number.e164,
            locale=admitted.locale,
            order_id=new.order_id,
            amount=new.amount,
            currency=new.currency,
            payee=new.payee,
            brand=client.brand,
            decide_url=new.decide_url,
            metadata=new.metadata or {},
            out_id=new.out_id,
            request_id=new_id("call"),
            expires_at=admitted.expires_at,
            created_at=now,
            updated_at=now,
        )
        request = self._request(client, new, record, admitted)
        async with self._store.transaction() as work:
            stored = await begin_once(work, client, once, now)
            if stored is not None:
                return stored
            await work.payments.add(record)
            placed = await self._engine.place(work, request)
            view = _view(record, placed.request.status)
            await finish_once(work, client, once, view, record.id)
        self._engine.go(placed)
        self._deadline_set(record.expires_at)
        return view

    async def cancel(self, client: Client, payment_id: str) -> PaymentView:
        """Cancel a pending payment and its call; one that is decided stays as it is (`Conflict`).

        A phone that rings is hung up; somebody on the line is told.
        """
        record = await self._end(await self._mine(client, payment_id), CANCELED)
        if record.status is not PaymentStatus.CANCELED:
            raise Conflict(f"this payment confirmation is {record.status.value}")
        return await self.get(client, payment_id)

    async def get(self, client: Client, payment_id: str) -> PaymentView:
        """Return one payment of this client; raises `NotFound`.

        One past its deadline ends by this, where nothing else is just ending it: a status that is final is
        never another one later.
        """
        async with self._store.reading() as work:
            record = await work.payments.get_for_client(client.name, payment_id)
            if record is None:
                raise _not_found(payment_id)
            if not self._is_over(record):
                return await self._seen(work, record)
        record = await self._expire(record)
        async with self._store.reading() as work:
            return await self._seen(work, record)

    async def list(
        self, client: Client, *, status: PaymentStatus | None, cursor: str | None, limit: int
    ) -> Page[PaymentView]:
        """Return this client's payments, newest first."""
        async with self._store.reading() as work:
            page = await work.payments.list(client.name, status=status, after=cursor, limit=limit)
        shown = [await self._expire(one) if self._is_over(one) else one for one in page.items]
        async with self._store.reading() as work:
            views = [await self._seen(work, record) for record in shown if status in (None, record.status)]
        return Page(tuple(views), page.cursor)

    async def dry_run(self, client: Client, new: NewPayment) -> Verdict:
        """Make every check and choose the route; dial nothing and keep nothing."""
        admitted = self._admit(client, new, self._clock())
        route = await self._engine.foresee(admitted.number, CallClass.TRANSACTION)
        return Verdict(
            admitted.number.e164, admitted.locale, route.trunk.name, route.reason, admitted.waits_until
        )

    async def wait_changed(
        self, client: Client, payment_id: str, timeout: float, seen: PaymentStatus | None = None
    ) -> None:
        """Wait at most `timeout` seconds until the payment is no longer as `seen`.

        Without `seen`: until the payment or its call changes from what it is now.
        """
        first = await self.get(client, payment_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    ended = self._book.change(payment_id)
                    try:
                        view = await self.get(client, payment_id)
                        if view.status is not (seen or first.status):
                            return
                        if view.status is not PaymentStatus.PENDING:
                            return
                        if seen is None and view.call_status is not first.call_status:
                            return
                        await self._next_change(ended, view)
                    finally:
                        self._book.forget(payment_id, ended)

    async def _next_change(self, ended: asyncio.Event, view: PaymentView) -> None:
        """Wait for the end of the payment, a change of its call, or the time of another look."""
        events = [ended]
        changed = self._engine.change(view.call_id) if view.call_id else None
        if changed is not None:
            events.append(changed)
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _admit(self, client: Client, new: NewPayment, now: int) -> _Admitted:
        """Check everything; raises what a client can mend, by field."""
        number = number_for(client, new.to)
        locale = locale_for(client, self._voice, new.locale)
        _check_order(new)
        _check_amount(new, locale)
        check_json("metadata", new.metadata)
        rules = self._rules
        limits = TimeLimits(rules.ttl, rules.min_ttl, rules.max_ttl)
        expires_at = ends_at(now, new.ttl, new.deadline, field="deadline", limits=limits)
        waits_until = self._engine.waits_until(CallClass.TRANSACTION, number, now)
        check_in_time(waits_until, expires_at, field="deadline" if new.ttl is None else "ttl")
        policy = self._engine.policy(CallClass.TRANSACTION, new.retry or {})
        variables = machine_detection_for(new.machine_detection)
        if new.decide_url is not None:
            if self._app is None:
                raise InputError("decide_url", "is not set up in this controller", "Leave it out")
            self._app.admit(client, new.decide_url)
        self._router.choose(number, CallClass.TRANSACTION)
        return _Admitted(number, locale, waits_until, expires_at, policy.rounds, variables)

    def _request(
        self, client: Client, new: NewPayment, record: PaymentRecord, admitted: _Admitted
    ) -> RequestRecord:
        return RequestRecord(
            id=record.request_id or "",
            client=client.name,
            flow=FLOW_NAME,
            flow_ref=record.id,
            to_number=record.to_number,
            call_class=CallClass.TRANSACTION,
            priority=PRIORITIES[CallClass.TRANSACTION],
            from_number=client.caller_number or None,
            locale=record.locale,
            variables=admitted.variables,
            out_id=record.out_id,
            expires_at=record.expires_at,
            max_attempts=admitted.rounds,
            retry=new.retry or {},
            created_at=record.created_at,
            updated_at=record.created_at,
        )

    async def _mine(self, client: Client, payment_id: str) -> PaymentRecord:
        record = await self._book.read(client.name, payment_id)
        if record is None:
            raise _not_found(payment_id)
        return record

    async def _end(self, record: PaymentRecord, decision: Decision) -> PaymentRecord:
        """Decide, and stop the call of a payment that was canceled or has expired; returns the row."""
        ended = await self._book.decide(record.id, decision)
        stopped = ended.status in (PaymentStatus.CANCELED, PaymentStatus.EXPIRED)
        if stopped and ended.request_id is not None:
            await self._engine.cancel(ended.request_id)
        return ended

    def _is_over(self, record: PaymentRecord) -> bool:
        return record.status is PaymentStatus.PENDING and not self._book.is_open(record)

    async def _expire(self, record: PaymentRecord) -> PaymentRecord:
        try:
            return await self._end(record, EXPIRED)
        except StoreError as error:
            # It is shown as its row says; the watch over deadlines ends it.
            log.warning("payment.not_expired", payment=record.id, error=str(error))
            return record

    async def _seen(self, work: UnitOfWork, record: PaymentRecord) -> PaymentView:
        request = await work.requests.get(record.request_id) if record.request_id else None
        return _view(record, request.status if request else None)


def _check_order(new: NewPayment) -> None:
    order = new.order_id
    if not (1 <= len(order) <= MAX_ORDER_ID and order.isascii() and order.isprintable()):
        raise InputError("order_id", "is not usable", f"Send 1 to {MAX_ORDER_ID} printable ASCII characters")
    if not reference_of(order):
        raise InputError("order_id", "holds nothing that can be spelled", "Send letters or digits in it")
    payee = new.payee
    if not (1 <= len(payee) <= MAX_PAYEE and payee.isprintable() and any(map(str.isalnum, payee))):
        raise InputError("payee", "can't be said", f"Send a name of at most {MAX_PAYEE} characters")


def _check_amount(new: NewPayment, locale: str) -> None:
    """Refuse what can't be said; raises `InputError` naming `amount` or `currency`."""
    if not _AMOUNT.fullmatch(new.amount):
        raise InputError("amount", "is not an amount", 'Send a decimal in quotes, such as "128.50"')
    value = Decimal(new.amount)
    if not value:
        raise InputError("amount", "is zero", "Send what is to be paid")
    amount_words(value, new.currency, locale)


def _not_found(payment_id: str) -> NotFound:
    return NotFound("id", "names no payment confirmation of yours", f"Check {payment_id[:64]!r}")


def _view(record: PaymentRecord, call_status: CallStatus | None) -> PaymentView:
    return PaymentView(
        id=record.id,
        to=record.to_number,
        locale=record.locale,
        status=record.status,
        order_id=record.order_id,
        amount=record.amount,
        currency=record.currency,
        payee=record.payee,
        call_id=record.request_id,
        call_status=call_status,
        expires_at=record.expires_at,
        created_at=record.created_at,
        updated_at=record.updated_at,
        ended_at=record.ended_at,
        decided_by=record.decided_by,
        failure_reason=record.failure_reason,
        metadata=record.metadata,
        out_id=record.out_id,
    )
