"""Services in memory that answer what a test tells them to, and a client of the HTTP face before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from telephony.api import create_app
from telephony.api.keys import KeyRing, hash_key
from telephony.errors import IdempotencyMismatch, NotFound, NotPermitted
from telephony.model.call import CallClass, CallStatus, PaymentStatus, VerificationStatus
from telephony.model.client import Client
from telephony.model.delivery import DeliveryStatus
from telephony.model.trunk import BreakerPhase, TrunkCondition
from telephony.services.contract import (
    AttemptView,
    BreakerView,
    CallView,
    CheckOutcome,
    DeliveryView,
    NewCall,
    NewPayment,
    NewVerification,
    Once,
    Page,
    PaymentView,
    StoredReply,
    TrunkView,
    Verdict,
    VerificationView,
)

HttpClient = TestClient[web.Request, web.Application]

KEY = "tk_of-the-shop"
OTHER_KEY = "tk_of-the-bank"
HEADERS = {"Authorization": f"Bearer {KEY}"}
SHOP = Client(name="shop", brand="Acme")
BANK = Client(name="bank", brand="Bank")
CODE = "4711"
AT = 1_750_000_000_007
"""2025-06-15T15:06:40.007Z"""

VERIFICATION = VerificationView(
    id="vrf_1",
    to="+8613800000000",
    locale="zh-CN",
    status=VerificationStatus.PENDING,
    call_id="call_1",
    call_status=CallStatus.DIALING,
    code_length=4,
    play_times=2,
    require_keypress=False,
    checks_left=5,
    sends_left=4,
    expires_at=AT + 600_000,
    created_at=AT,
    updated_at=AT,
    failure_reason=None,
    out_id=None,
)
PAYMENT = PaymentView(
    id="pay_1",
    to="+8613800000000",
    locale="zh-CN",
    status=PaymentStatus.PENDING,
    order_id="A-1024",
    amount="128.50",
    currency="CNY",
    payee="Acme Taxi",
    call_id="call_2",
    call_status=CallStatus.DIALING,
    expires_at=AT + 600_000,
    created_at=AT,
    updated_at=AT,
    ended_at=None,
    decided_by=None,
    failure_reason=None,
    metadata={"shop": 7},
    out_id=None,
)
DELIVERY = DeliveryView(
    id="msg_1",
    resource="pay_1",
    sequence=1,
    type="payment_confirmation.confirmed",
    status=DeliveryStatus.DEAD,
    created_at=AT,
    due_at=None,
    tries=10,
    delivered_at=None,
    dead_at=AT + 5,
    last_error="answered 500",
)
ATTEMPT = AttemptView(
    id="att_1",
    number=1,
    trunk="main",
    trunk_reason="serves every number",
    phase="ended",
    dialed_at=AT,
    ringing_at=None,
    answered_at=None,
    ended_at=AT + 5,
    sip=486,
    q850=17,
    cause="busy",
    end_reason="busy",
    keys=None,
)
CALL = CallView(
    id="call_1",
    to="+8613800000000",
    from_number="+861088880000",
    flow="announcement",
    call_class=CallClass.SURVEY,
    locale="zh-CN",
    variables={"text": "Hello", "play_times": 2},
    machine_detection="off",
    status=CallStatus.BUSY,
    created_at=AT,
    updated_at=AT,
    due_at=None,
    ended_at=AT + 5,
    expires_at=AT + 600_000,
    failure_reason="busy",
    metadata={"shop": 7},
    out_id=None,
    attempts=(ATTEMPT,),
)


@dataclass
class FakeVerifications:
    """Knows one verification of the shop's; raises `error` where one is set."""

    error: BaseException | None = None
    view: VerificationView = VERIFICATION
    asked: list[tuple[str, Any]] = field(default_factory=list)
    stored: dict[tuple[str, str], tuple[str, StoredReply]] = field(default_factory=dict)
    held: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def _enter(self, name: str, asked: Any) -> None:
        self.asked.append((name, asked))
        self.entered.set()
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error

    def _mine(self, client: Client, verification_id: str) -> VerificationView:
        if client != SHOP or verification_id != self.view.id:
            raise NotFound("id", "names no verification of yours", "Check it")
        return self.view

    def _once(
        self, client: Client, once: Once[VerificationView] | None, view: VerificationView
    ) -> VerificationView | StoredReply:
        if once is None:
            return view
        known = self.stored.get((client.name, once.key))
        if known is None:
            self.stored[client.name, once.key] = (once.fingerprint, once.render(view))
            return view
        if known[0] != once.fingerprint:
            raise IdempotencyMismatch("Idempotency-Key", "was used for another request", "Use a new key")
        return known[1]

    async def create(
        self, client: Client, new: NewVerification, once: Once[VerificationView] | None
    ) -> VerificationView | StoredReply:
        await self._enter("create", new)
        return self._once(client, once, replace(self.view, to=new.to, out_id=new.out_id))

    async def resend(
        self, client: Client, verification_id: str, once: Once[VerificationView] | None
    ) -> VerificationView | StoredReply:
        await self._enter("resend", verification_id)
        return self._once(client, once, self._mine(client, verification_id))

    async def check(self, client: Client, verification_id: str, code: str) -> CheckOutcome:
        await self._enter("check", code)
        valid = code == CODE
        status = VerificationStatus.APPROVED if valid else VerificationStatus.PENDING
        return CheckOutcome(replace(self._mine(client, verification_id), status=status), valid)

    async def cancel(self, client: Client, verification_id: str) -> VerificationView:
        await self._enter("cancel", verification_id)
        return replace(self._mine(client, verification_id), status=VerificationStatus.CANCELED)

    async def get(self, client: Client, verification_id: str) -> VerificationView:
        await self._enter("get", verification_id)
        return self._mine(client, verification_id)

    async def list(
        self, client: Client, *, status: VerificationStatus | None, cursor: str | None, limit: int
    ) -> Page[VerificationView]:
        await self._enter("list", (status, cursor, limit))
        return Page((self.view,), "next-page")

    async def dry_run(self, client: Client, new: NewVerification) -> Verdict:
        await self._enter("dry_run", new)
        return Verdict(new.to, "en", "main", "serves every number")

    async def wait_changed(
        self, client: Client, verification_id: str, timeout: float, seen: CallStatus | None
    ) -> None:
        self.asked.append(("wait_changed", timeout))
        self._mine(client, verification_id)
        self.view = replace(self.view, call_status=CallStatus.RINGING)


@dataclass
class FakeCalls:
    """Knows one call of the shop's."""

    error: BaseException | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)
    stored: dict[tuple[str, str], StoredReply] = field(default_factory=dict)

    async def _enter(self, name: str, asked: Any) -> None:
        self.asked.append((name, asked))
        if self.error is not None:
            raise self.error

    async def create(
        self, client: Client, new: NewCall, once: Once[CallView] | None
    ) -> CallView | StoredReply:
        await self._enter("create", new)
        if once is not None:
            if (client.name, once.key) in self.stored:
                return self.stored[client.name, once.key]
            self.stored[client.name, once.key] = once.render(CALL)
        return CALL

    async def dry_run(self, client: Client, new: NewCall) -> Verdict:
        await self._enter("dry_run", new)
        return Verdict(new.to, "en", "main", "serves every number", AT)

    async def get(self, client: Client, call_id: str) -> CallView:
        await self._enter("get", call_id)
        if client != SHOP or call_id != CALL.id:
            raise NotFound("id", "names no call of yours", "Check it")
        return CALL

    async def list(
        self, client: Client, *, status: CallStatus | None, cursor: str | None, limit: int
    ) -> Page[CallView]:
        await self._enter("list", (status, cursor, limit))
        return Page((CALL,), None)

    async def cancel(self, client: Client, call_id: str) -> CallView:
        await self._enter("cancel", call_id)
        return replace(CALL, status=CallStatus.CANCELED)

    async def wait_changed(
        self, client: Client, call_id: str, timeout: float, seen: CallStatus | None
    ) -> None:
        await self._enter("wait_changed", timeout)


@dataclass
class FakePayments:
    """Knows one payment of the shop's; raises `error` where one is set."""

    error: BaseException | None = None
    view: PaymentView = PAYMENT
    asked: list[tuple[str, Any]] = field(default_factory=list)
    stored: dict[tuple[str, str], StoredReply] = field(default_factory=dict)

    def _enter(self, name: str, asked: Any) -> None:
        self.asked.append((name, asked))
        if self.error is not None:
            raise self.error

    def _mine(self, client: Client, payment_id: str) -> PaymentView:
        if client != SHOP or payment_id != self.view.id:
            raise NotFound("id", "names no payment confirmation of yours", "Check it")
        return self.view

    async def create(
        self, client: Client, new: NewPayment, once: Once[PaymentView] | None
    ) -> PaymentView | StoredReply:
        self._enter("create", new)
        if once is not None:
            if (client.name, once.key) in self.stored:
                return self.stored[client.name, once.key]
            self.stored[client.name, once.key] = once.render(self.view)
        return self.view

    async def cancel(self, client: Client, payment_id: str) -> PaymentView:
        self._enter("cancel", payment_id)
        return replace(self._mine(client, payment_id), status=PaymentStatus.CANCELED, ended_at=AT)

    async def get(self, client: Client, payment_id: str) -> PaymentView:
        self._enter("get", payment_id)
        return self._mine(client, payment_id)

    async def list(
        self, client: Client, *, status: PaymentStatus | None, cursor: str | None, limit: int
    ) -> Page[PaymentView]:
        self._enter("list", (status, cursor, limit))
        return Page((self.view,), "next-page")

    async def dry_run(self, client: Client, new: NewPayment) -> Verdict:
        self._enter("dry_run", new)
        return Verdict(new.to, "en", "main", "serves every number")

    async def wait_changed(
        self, client: Client, payment_id: str, timeout: float, seen: PaymentStatus | None
    ) -> None:
        self._enter("wait_changed", (timeout, seen))
        self._mine(client, payment_id)


@dataclass
class FakeDeliveries:
    """Knows one dead webhook of the shop's."""

    asked: list[tuple[str, Any]] = field(default_factory=list)

    async def list(
        self, client: Client, *, status: DeliveryStatus | None, cursor: str | None, limit: int
    ) -> Page[DeliveryView]:
        self.asked.append(("list", (status, cursor, limit)))
        return Page((DELIVERY,), None)

    async def resend(self, client: Client, webhook_id: str) -> DeliveryView:
        self.asked.append(("resend", webhook_id))
        if client != SHOP or webhook_id != DELIVERY.id:
            raise NotFound("id", "names no webhook of yours", "Check it")
        return replace(DELIVERY, status=DeliveryStatus.PENDING, due_at=AT, dead_at=None)


TRUNK = TrunkView(
    name="main line",
    endpoint="carrier",
    state=TrunkCondition.BROKEN,
    why="out of order until 2025-06-15 15:06:45Z (503)",
    limit=30,
    configured=20,
    in_use=7,
    outbound=4,
    inbound=2,
    foreign=1,
    above=0,
    calls_per_second=2.5,
    burst=5,
    drained_at=None,
    saturated_at=AT,
    breaker=BreakerView(BreakerPhase.OPEN, 5, AT + 5_000, "503"),
)


@dataclass
class FakeTrunks:
    """Knows one trunk, which the shop may change and the bank may not."""

    asked: list[tuple[str, Any]] = field(default_factory=list)

    async def list(self) -> Sequence[TrunkView]:
        return (TRUNK,)

    async def get(self, name: str) -> TrunkView:
        if name != TRUNK.name:
            raise NotFound("name", f"there is no trunk {name!r}", "Known: main line")
        return TRUNK

    async def drain(self, client: Client, name: str) -> TrunkView:
        return replace(await self._change(client, name, "drain"), drained_at=AT)

    async def resume(self, client: Client, name: str) -> TrunkView:
        return await self._change(client, name, "resume")

    async def limit(self, client: Client, name: str, channels: int | None) -> TrunkView:
        return replace(await self._change(client, name, ("limit", channels)), limit=channels)

    async def _change(self, client: Client, name: str, order: Any) -> TrunkView:
        if client != SHOP:
            raise NotPermitted("the bank may look at trunks but not change them")
        self.asked.append((name, order))
        return await self.get(name)


@dataclass
class FakeHealth:
    parts: Mapping[str, str] = field(default_factory=lambda: {"pbx": "ok", "store": "ok", "speech": "ok"})

    async def ready(self) -> tuple[bool, Mapping[str, str]]:
        return all(state == "ok" for state in self.parts.values()), self.parts


@pytest.fixture
def verifications() -> FakeVerifications:
    return FakeVerifications()


@pytest.fixture
def payments() -> FakePayments:
    return FakePayments()


@pytest.fixture
def deliveries() -> FakeDeliveries:
    return FakeDeliveries()


@pytest.fixture
def trunks() -> FakeTrunks:
    return FakeTrunks()


@pytest.fixture
def calls() -> FakeCalls:
    return FakeCalls()


@pytest.fixture
def health() -> FakeHealth:
    return FakeHealth()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def http(
    verifications: FakeVerifications,
    payments: FakePayments,
    calls: FakeCalls,
    deliveries: FakeDeliveries,
    trunks: FakeTrunks,
    health: FakeHealth,
    registry: CollectorRegistry,
) -> AsyncIterator[HttpClient]:
    """A client without a key of its own: `HEADERS` is the shop's."""
    app = create_app(
        verifications=verifications,
        payments=payments,
        calls=calls,
        deliveries=deliveries,
        trunks=trunks,
        health=health,
        keys=KeyRing(((hash_key(KEY), SHOP), (hash_key(OTHER_KEY), BANK))),
        registry=registry,
    )
    async with TestClient(TestServer(app)) as client:
        yield client
