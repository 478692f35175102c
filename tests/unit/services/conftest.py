"""A controller in memory: the real engine, store and service, a PBX and a voice without sound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from telephony.calls.engine import CallEngine, EngineConfig
from telephony.calls.quiet import Window
from telephony.egress.guard import Guard
from telephony.egress.http import Egress, HttpCaller
from telephony.egress.rules import Endpoint
from telephony.errors import UnknownLocale
from telephony.model.call import FINAL_CALL_STATUSES, CallClass
from telephony.model.client import Client
from telephony.model.media import Media
from telephony.model.prompt import Digits, Mark, Phrase, Prompt
from telephony.pbx.memory import MemoryPbx
from telephony.services.announcement import AnnouncementFlow
from telephony.services.calls import Calls
from telephony.services.codes import CodeBox
from telephony.services.contract import CallView, VerificationView
from telephony.services.flows import FlowRegistry
from telephony.services.notices import Notices
from telephony.services.payment import PaymentRules, Payments
from telephony.services.payment_book import AppQuestion, PaymentBook, PaymentExpiry
from telephony.services.payment_flow import Agent, PaymentFlow
from telephony.services.verification import VerificationFlow, VerificationRules, Verifications
from telephony.store import OutboxRecord, Store
from telephony.trunks.dialect import Trunk
from telephony.trunks.routing import Router

CLIENT = Client("shop", "Acme", "+861088880000", default_region="CN", regions=("CN",))
NUMBER = "+8613800000001"
ENDPOINT = Endpoint("https://shop.example.com/hook", (b"s" * 32,))


@dataclass
class SilentVoice:
    """Remembers what it was asked to say, in the clear: this is the only ear of the unit tests."""

    said: dict[str, Prompt] = field(default_factory=dict)
    discarded: list[str] = field(default_factory=list)

    def locale(self, tag: str) -> str:
        if tag not in ("en", "zh-CN", "es"):
            raise UnknownLocale("locale", f"{tag} is not spoken here", "Use en, zh-CN or es")
        return tag

    async def compose(self, prompt: Prompt, locale: str) -> Media:
        name = f"media-{len(self.said)}"
        self.said[name] = prompt
        marks = sum(isinstance(part, Mark) for part in prompt.parts)
        return Media(name, 12.0, tuple(float(at) for at in range(4, 4 + marks)))

    def discard(self, media: Media) -> None:
        self.discarded.append(media.name)

    def phrases(self, name: str) -> list[str]:
        return [part.key for part in self.said[name].parts if isinstance(part, Phrase)]

    def codes(self, name: str) -> list[str]:
        return [part.digits for part in self.said[name].parts if isinstance(part, Digits)]


class Clock:
    """Milliseconds that move when told."""

    def __init__(self) -> None:
        self.now = 1_790_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


@dataclass
class House:
    store: Store
    pbx: MemoryPbx
    voice: SilentVoice
    engine: CallEngine
    verifications: Verifications
    calls: Calls
    codes: CodeBox
    clock: Clock
    payments: Payments
    book: PaymentBook
    expiry: PaymentExpiry
    payment_flow: PaymentFlow
    woken: list[int]
    notices: Notices
    flows: FlowRegistry

    async def delivery_begins(self) -> None:
        """Wait until the delivery has been woken: a moment after a commit."""
        async with asyncio.timeout(5):
            while not self.woken:
                await asyncio.sleep(0.01)

    async def told(self) -> tuple[OutboxRecord, ...]:
        """Every event in the outbox, newest first."""
        async with self.store.reading() as work:
            return tuple((await work.outbox.list(CLIENT.name, limit=200)).items)

    def heard(self) -> list[str]:
        """The first phrase of each sound of the newest call."""
        return [self.voice.phrases(name)[0] for name in self.pbx.sessions[-1].played]

    async def ended(self, call_id: str | None) -> CallView:
        assert call_id is not None
        while (view := await self.calls.get(CLIENT, call_id)).status not in FINAL_CALL_STATUSES:
            await self.calls.wait_changed(CLIENT, call_id, 5.0, view.status)
        # What is committed can be read before its writer goes on: let it erase its sounds.
        while self.engine.change(call_id) is not None:
            await asyncio.sleep(0)
        return view

    async def code_of(self, view: VerificationView) -> str:
        async with self.store.reading() as work:
            record = await work.verifications.get_for_client(CLIENT.name, view.id)
        assert record is not None
        assert record.code_sealed is not None
        return self.codes.unseal(record.id, record.code_sealed)


@pytest.fixture
def rules() -> VerificationRules:
    return VerificationRules()


@pytest.fixture
def payment_rules() -> PaymentRules:
    return PaymentRules()


@pytest.fixture
def hours() -> dict[CallClass, tuple[Window, ...]]:
    return {}


@pytest.fixture
def retry() -> dict[CallClass, dict[str, Any]]:
    return {}


@pytest.fixture
def agent() -> Agent | None:
    return None


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/t.db"


@pytest.fixture
async def house(
    store_url: str,
    rules: VerificationRules,
    payment_rules: PaymentRules,
    hours: dict[CallClass, tuple[Window, ...]],
    retry: dict[CallClass, dict[str, Any]],
    agent: Agent | None,
) -> AsyncIterator[House]:
    clock = Clock()
    store = await Store.open(store_url, owner="one", clock=clock)
    pbx = MemoryPbx()
    pbx.started_at_ms = clock() - 1000
    voice = SilentVoice()
    codes = CodeBox(b"k" * 32)
    router = Router([Trunk("main", "carrier")])
    woken: list[int] = []
    notices = Notices({CLIENT.name: ENDPOINT}, lambda: woken.append(1))
    book = PaymentBook(store, notices, clock=clock)
    guard = Guard(["127.0.0.1"])
    caller = HttpCaller(guard)
    app = AppQuestion(Egress(caller), guard, {CLIENT.name: ENDPOINT})
    payment_flow = PaymentFlow(book, voice, app=app, agent=agent)
    flows = FlowRegistry([AnnouncementFlow(store, voice, clock=clock)], notices)
    engine = CallEngine(
        store,
        pbx,
        router,
        flows.for_engine(VerificationFlow(store, voice, codes, notices=notices, clock=clock), payment_flow),
        owner="one",
        discard=voice.discard,
        clock=clock,
        config=EngineConfig(drain=0.2, hangup_patience=5.0, windows=hours, retry=retry),
    )
    verifications = Verifications(store, engine, router, voice, codes, rules, notices=notices, clock=clock)
    payments = Payments(store, engine, router, voice, book, payment_rules, app=app, clock=clock)
    await pbx.start()
    await engine.start()
    yield House(
        store,
        pbx,
        voice,
        engine,
        verifications,
        Calls(store, engine, router, voice, flows, clock=clock, withdraw={PaymentFlow.name: book.cancel}),
        codes,
        clock,
        payments,
        book,
        PaymentExpiry(book, engine),
        payment_flow,
        woken,
        notices,
        flows,
    )
    await engine.stop()
    await pbx.stop()
    await caller.close()
    await store.close()
