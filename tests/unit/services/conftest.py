"""A controller in memory: the real engine, store and service, a PBX and a voice without sound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from telephony.calls.engine import CallEngine, EngineConfig
from telephony.errors import UnknownLocale
from telephony.model.call import FINAL_CALL_STATUSES
from telephony.model.client import Client
from telephony.model.media import Media
from telephony.model.prompt import Digits, Prompt
from telephony.pbx.memory import MemoryPbx
from telephony.services.calls import Calls
from telephony.services.codes import CodeBox
from telephony.services.contract import CallView, VerificationView
from telephony.services.verification import VerificationFlow, VerificationRules, Verifications
from telephony.store import Store
from telephony.trunks.dialect import Trunk
from telephony.trunks.routing import Router

CLIENT = Client("shop", "Acme", "+861088880000", default_region="CN", regions=("CN",))
NUMBER = "+8613800000001"


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
        return Media(name, 12.0)

    def discard(self, media: Media) -> None:
        self.discarded.append(media.name)

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

    async def ended(self, call_id: str | None) -> CallView:
        assert call_id is not None
        while (view := await self.calls.get(CLIENT, call_id)).status not in FINAL_CALL_STATUSES:
            await self.calls.wait_changed(CLIENT, call_id, 5.0, view.status)
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
async def house(tmp_path: Path, rules: VerificationRules) -> AsyncIterator[House]:
    clock = Clock()
    store = await Store.open(f"sqlite:///{tmp_path}/t.db", owner="one", clock=clock)
    pbx = MemoryPbx()
    pbx.started_at_ms = clock() - 1000
    voice = SilentVoice()
    codes = CodeBox(b"k" * 32)
    router = Router([Trunk("main", "carrier")])
    engine = CallEngine(
        store,
        pbx,
        router,
        {"verification": VerificationFlow(store, voice, codes, clock=clock)},
        owner="one",
        discard=voice.discard,
        clock=clock,
        config=EngineConfig(drain=0.2, hangup_patience=1.0),
    )
    verifications = Verifications(store, engine, router, voice, codes, rules, clock=clock)
    await pbx.start()
    await engine.start()
    yield House(store, pbx, voice, engine, verifications, Calls(store, engine), codes, clock)
    await engine.stop()
    await pbx.stop()
    await store.close()
