"""A tree as a called-out conversation in the real engine, and as a called-in one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from telephony.calls.engine import CallEngine, EngineConfig
from telephony.calls.policy import PRIORITIES
from telephony.errors import CallEnded, EngineError, InputError, PbxTimeout
from telephony.ivr.book import TreeBook
from telephony.ivr.flow import InboundIvr, IvrFlow, TreeFlows
from telephony.ivr.inbound_log import PATH_EVENT, InboundCall
from telephony.ivr.journal import Said, Visit
from telephony.ivr.recordings import PbxRecordings
from telephony.ivr.saying import words_of
from telephony.ivr.sounds import Wardrobe, static_prompts
from telephony.ivr.standins import Services
from telephony.model.call import FINAL_CALL_STATUSES, CallClass, CallStatus
from telephony.model.hangup import Cause
from telephony.model.ids import new_id
from telephony.model.media import Media
from telephony.model.prompt import Prompt, Text
from telephony.pbx.memory import Callee, MemoryPbx, MemorySession
from telephony.resources import data_dir
from telephony.speech.packs import Packs
from telephony.speech.studio import Studio
from telephony.store import RequestRecord, Store
from telephony.trunks.dialect import Trunk
from telephony.trunks.routing import Router
from tests.unit.ivr.trees import PERSON, tree_of
from tests.unit.speech.sounds import ToneEngine

NUMBER = "+8613800000001"
TREE = """\
version: 1
name: solved
languages: [en, zh-CN]
voice: {brand: Acme}
start: main
agent: person
variables: {order: {}}
nodes:
  main:
    type: menu
    prompt:
      en: "{brand} about order {order:digits}. Solved, press 1. Not solved, press 2."
      zh-CN: "{brand}，订单{order:digits}。已解决请按一，未解决请按二。"
    short: {en: "Solved, press 1. Not solved, press 2.", zh-CN: "已解决请按一，未解决请按二。"}
    max_timeouts: 2
    keys:
      "1": {label: Solved, to: thanks}
      "2": {label: Not solved, to: person}
  thanks: {type: hangup, prompt: {en: Thank you., zh-CN: 谢谢。}, result: solved}
  person: {type: transfer, extension: "100"}
"""


RECORDED = """\
version: 1
name: solved
languages: [en]
voice: {brand: Acme}
start: ask
agent: person
variables: {order: {}, words: {}}
nodes:
  ask: {type: record, prompt: {en: "Order {order}. Tell us, then hang up."}, variable: words, next: bye}
  bye: {type: hangup, prompt: {en: Thank you.}, result: solved}
  person: {type: transfer, extension: "100"}
"""


class Rig:
    def __init__(self, folder: Path, store: Store) -> None:
        packs = Packs.load(data_dir("audio"))
        self.voice = ToneEngine()
        self.studio = Studio(
            packs,
            self.voice,
            cache_dir=folder / "cache",
            media_dir=folder / "media",
            pbx_media_dir=None,
            recordings_dir=None,
            cache_limit_bytes=50_000_000,
        )
        self.media = folder / "media"
        trees = folder / "trees"
        trees.mkdir()
        (trees / "solved.yaml").write_text(TREE, "utf-8")
        self.wardrobe = Wardrobe(self.studio)
        self.book = TreeBook(
            trees, prepare=lambda edition: self.wardrobe.make(edition.number, edition.trees.values())
        )
        self.visits: list[Visit] = []
        self.store = store
        self.pbx = MemoryPbx()
        self.router = Router((Trunk("a", "a"),))
        self.flow = IvrFlow(self.book, self.studio, watch=self.visits.append, wardrobe=self.wardrobe)
        self.engine = CallEngine(
            store,
            self.pbx,
            self.router,
            {IvrFlow.name: self.flow},
            owner="one",
            discard=self.studio.discard,
            config=EngineConfig(drain=0.2, hangup_patience=1.0, number_pause=0.05),
        )

    def left(self) -> set[str]:
        """The sounds that lie there and do not belong to every call."""
        with self.wardrobe.lent(self.book.edition.number) as common:
            kept = {media.name.rpartition("/")[2] for media in common.values()}
        return {path.stem for path in self.media.glob("*.?law")} - kept

    async def call(self, **values: Any) -> RequestRecord:
        moment = time.time_ns() // 1_000_000
        request = RequestRecord(
            **{
                "id": new_id("call"),
                "client": "shop",
                "flow": "ivr",
                "flow_ref": "solved",
                "to_number": NUMBER,
                "call_class": CallClass.TRANSACTION,
                "priority": PRIORITIES[CallClass.TRANSACTION],
                "variables": {"order": "4711"},
                "created_at": moment,
                "updated_at": moment,
                "expires_at": moment + 60_000,
                **values,
            }
        )
        async with self.store.transaction() as work:
            placed = await self.engine.place(work, request)
        self.engine.go(placed)
        async with asyncio.timeout(10):
            while True:
                async with self.store.reading() as work:
                    seen = await work.requests.get(request.id)
                assert seen is not None
                if seen.status in FINAL_CALL_STATUSES:
                    return seen
                await asyncio.sleep(0.02)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    store = await Store.open(f"sqlite:///{tmp_path}/t.db", owner="one")
    made = Rig(tmp_path, store)
    await made.book.load()
    await made.pbx.start()
    await made.engine.start()
    yield made
    await made.engine.stop()
    await made.pbx.stop()
    await made.studio.close()
    await store.close()


async def test_a_tree_is_called_out(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = Callee(keys="1")
    rendered = len(rig.voice.said)
    ended = await rig.call(locale="zh")
    assert ended.status == "completed"
    assert [(visit.node, visit.outcome) for visit in rig.visits] == [
        ("main", "1"),
        ("thanks", "ended"),
    ]
    assert rig.pbx.sessions[0].variables["TELEPHONY_RESULT"] == "solved"
    assert rig.pbx.sessions[0].variables["TELEPHONY_LANGUAGE"] == "zh-CN"
    # Only digits were new: everything else had been rendered when the tree was loaded.
    assert set(rig.voice.said[rendered:]) <= set("零幺二三四五六七八九")
    # The outcome is written first: the sounds go a moment later.
    async with asyncio.timeout(5):
        while rig.left():
            await asyncio.sleep(0.01)


async def test_nobody_is_rung_for_a_tree_that_is_not_there(rig: Rig) -> None:
    ended = await rig.call(flow_ref="gone")
    assert (ended.status, ended.failure_reason) == ("failed", "no_such_tree")
    assert not rig.pbx.orders


async def test_silence_and_an_early_hang_up_may_be_called_again(rig: Rig) -> None:
    once = {"attempts": 2, "pause": 1, "longest_pause": 1}
    rig.pbx.callees[NUMBER] = Callee(keys="")
    await rig.call(retry=once)
    rig.pbx.callees[NUMBER] = Callee(hang_up_after=1)
    await rig.call(retry=once)
    assert len(rig.pbx.orders) == 4


async def test_a_hang_up_after_a_key_is_an_answer(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = Callee(keys="9", hang_up_after=2)
    ended = await rig.call(retry={"attempts": 2, "pause": 1, "longest_pause": 1})
    assert ended.status == "completed"
    assert [visit.outcome for visit in rig.visits] == ["9", "hung_up"]
    assert len(rig.pbx.orders) == 1


async def test_a_call_keeps_its_edition(rig: Rig) -> None:
    prepared = await rig.flow.prepare(request())
    (rig.book._folder / "solved.yaml").write_text(TREE.replace("Thank you", "Bye"), "utf-8")
    await rig.book.load()
    session = MemorySession("1", "", NUMBER, Callee(keys="1"))
    outcome = await rig.flow.converse(session, request(), prepared)  # type: ignore[arg-type]
    assert outcome.reason == "solved"
    assert "Bye." not in [
        part.text for visit in rig.visits for event in visit.events for part in texts(event)
    ]
    assert rig.book.edition.number == 2


def texts(event: Any) -> list[Text]:
    prompt: Prompt | None = getattr(event, "prompt", None)
    return [part for part in prompt.parts if isinstance(part, Text)] if prompt else []


def request() -> RequestRecord:
    return RequestRecord(
        id="call_1",
        client="shop",
        flow="ivr",
        flow_ref="solved",
        to_number=NUMBER,
        call_class=CallClass.TRANSACTION,
        variables={"order": "1"},
        created_at=0,
        updated_at=0,
    )


async def test_a_tree_takes_calls_in(rig: Rig) -> None:
    inbound = InboundIvr(rig.book, rig.studio, default_tree="solved")
    session = MemorySession("1", NUMBER, "4008", Callee(keys="1"))
    await inbound(session)
    assert session.gone
    assert session.variables["TELEPHONY_RESULT"] == "solved"
    handed = MemorySession("2", NUMBER, "4008", Callee(keys="2"), arguments={"tree": "solved"})
    await inbound(handed)
    assert handed.transferred_to == ("100", "default")
    gone = MemorySession("3", NUMBER, "4008", Callee(hang_up_after=1))
    await inbound(gone)
    assert not rig.left()


async def test_whoever_keeps_calls_is_told_of_each_once_it_is_over(rig: Rig) -> None:
    kept: list[InboundCall] = []
    inbound = InboundIvr(rig.book, rig.studio, default_tree="solved", keep=kept.append)
    await inbound(MemorySession("1", NUMBER, "4008", Callee(keys="1")))
    await inbound(MemorySession("2", NUMBER, "4008", Callee(hang_up_after=1)))
    await inbound(MemorySession("3", NUMBER, "4008", Callee(), arguments={"tree": "gone"}))
    assert [(one.channel, one.tree, one.result) for one in kept] == [
        ("1", "solved", "solved"),
        ("2", "solved", "hung_up"),
    ]
    assert [visit.node for visit in kept[0].visits] == ["main", "thanks"]
    assert all(one.began_at <= one.ended_at for one in kept)


async def test_the_called_number_names_the_tree_where_the_dialplan_does_not(rig: Rig) -> None:
    inbound = InboundIvr(rig.book, rig.studio, default_tree="gone", numbers={"+86 4008": "solved"})
    session = MemorySession("1", NUMBER, "+864008", Callee(keys="1"))
    await inbound(session)
    assert session.variables["TELEPHONY_RESULT"] == "solved"
    assert session.variables["TELEPHONY_TREE"] == "solved"
    other = MemorySession("2", NUMBER, "+864009", Callee(keys="1"))
    await inbound(other)
    assert not other.gone


async def test_the_dialplan_hands_over_variables_and_a_language(rig: Rig) -> None:
    arguments = {"tree": "solved", "order": "4711", "language": "zh", "unknown": "1"}
    session = MemorySession("1", NUMBER, "4008", Callee(keys="1"), arguments=arguments)
    visits: list[Visit] = []
    await InboundIvr(rig.book, rig.studio, watch=visits.append)(session)
    assert session.variables["TELEPHONY_LANGUAGE"] == "zh-CN"
    said = [event.prompt for event in visits[0].events if isinstance(event, Said)]
    assert "[4711]" in words_of(said[0], {})


async def test_a_call_out_keeps_its_path(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = Callee(keys="1")
    ended = await rig.call()
    async with rig.store.reading() as work:
        (event,) = [one for one in await work.events.list_for(ended.id) if one.kind == PATH_EVENT]
    assert [(step["node"], step["keys"], step["to"]) for step in event.detail["path"]] == [
        ("main", "1", "thanks"),
        ("thanks", "", "hangup"),
    ]


def test_trees_are_flows_while_they_are_there(rig: Rig) -> None:
    flows = TreeFlows(rig.book, rig.studio, Services())
    assert flows.names == ("ivr", "solved")
    found = flows.find("solved")
    assert found is not None
    assert (found.name, flows.find("solved") is found, flows.find("gone")) == ("solved", True, None)


async def test_a_call_for_no_tree_is_left_to_the_dialplan(rig: Rig) -> None:
    session = MemorySession("1", NUMBER, "4008", Callee(), arguments={"tree": "../etc"})
    await InboundIvr(rig.book, rig.studio)(session)
    assert not session.gone
    assert session.variables == {}


async def test_a_pbx_that_does_not_answer_ends_it(rig: Rig) -> None:
    class Frozen(MemorySession):
        async def set_variable(self, name: str, value: str) -> None:
            raise PbxTimeout("no answer")

    await InboundIvr(rig.book, rig.studio, default_tree="solved")(Frozen("1", "", "", Callee(keys="1")))
    assert not rig.left()


def test_what_is_rendered_at_load() -> None:
    head = TREE[: TREE.index("nodes:")]
    nodes = TREE[TREE.index("nodes:\n") + 7 :]
    found = {(prompt.parts, locale) for prompt, locale in static_prompts(tree_of(nodes, head))}
    assert ((Text("Thank you."),), "en") in found
    assert ((Text("Acme"),), "en") in found
    assert ((Text(" about order "),), "en") in found
    assert not any("order" in getattr(part, "digits", "") for parts, _ in found for part in parts)
    assert PERSON in nodes


async def test_sounds_of_an_edition_go_when_no_call_says_them(rig: Rig) -> None:
    trees = rig.book.edition.trees.values()
    files = {path.name for path in rig.media.glob("*.?law")}
    assert files
    with rig.wardrobe.lent(1) as sounds:
        assert sounds
        await rig.wardrobe.make(2, trees)
        assert files < {path.name for path in rig.media.glob("*.?law")}
    left = {path.name for path in rig.media.glob("*.?law")}
    assert len(left) == len(files)
    assert not left & files
    with rig.wardrobe.lent(1) as sounds:
        assert not sounds


async def test_an_edition_that_can_not_be_said_leaves_no_sound(rig: Rig) -> None:
    class Hoarse:
        made = 0

        async def compose(self, prompt: Prompt, locale: str) -> Media:
            self.made += 1
            if self.made > 3:
                raise EngineError("hoarse")
            return await rig.studio.compose(prompt, locale)

        discard = staticmethod(rig.studio.discard)

    before = len(list(rig.media.glob("*.?law")))
    with pytest.raises(EngineError):
        await Wardrobe(Hoarse()).make(1, rig.book.edition.trees.values())
    assert len(list(rig.media.glob("*.?law"))) == before


def test_variables_are_checked_before_a_call_is_asked_for(rig: Rig) -> None:
    assert rig.flow.name == "ivr"
    assert rig.flow.check({"tree": "solved", "order": 4711}) == {"tree": "solved", "order": "4711"}
    named = IvrFlow(rig.book, rig.studio, tree="solved")
    assert named.name == "solved"
    assert named.check({}) == {"order": ""}
    for variables, field, mend in (
        ({}, "variables.tree", "Send one of solved"),
        ({"tree": "solve"}, "variables.tree", "Did you mean solved?"),
        ({"tree": "solved", "ordr": "1"}, "variables.ordr", "Did you mean order?"),
        ({"tree": "solved", "order": {}}, "variables.order", "Send a text"),
        ({"tree": "solved", "order": "x" * 501}, "variables.order", "Send a text"),
    ):
        with pytest.raises(InputError) as error:
            rig.flow.check(variables)
        assert (error.value.field, error.value.mend[: len(mend)]) == (field, mend)


async def test_a_secret_is_not_taken_from_a_request(tmp_path: Path, rig: Rig) -> None:
    secret = TREE.replace("order: {}", "order: {secret: true}")
    (tmp_path / "trees" / "solved.yaml").write_text(secret, "utf-8")
    await rig.book.load()
    with pytest.raises(InputError, match="secret"):
        rig.flow.check({"tree": "solved", "order": "4711"})


async def test_the_tree_may_be_named_by_a_variable(rig: Rig) -> None:
    rig.pbx.callees[NUMBER] = Callee(keys="1")
    ended = await rig.call(flow_ref=None, variables={"tree": "solved", "order": "4711"})
    assert ended.status == "completed"
    assert rig.pbx.sessions[0].variables["TELEPHONY_TREE"] == "solved"


async def test_who_hangs_up_in_a_recording_has_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (rig.media.parent / "trees" / "solved.yaml").write_text(RECORDED, "utf-8")
    await rig.book.load()
    rig.flow._services = replace(rig.flow._services, recordings=PbxRecordings("/srv/rec"))
    recorded: list[str] = []

    async def record(session: MemorySession, name: str, **_how: Any) -> float:
        recorded.append(name.rpartition("/")[2])
        session.end(Cause.NORMAL)
        raise CallEnded

    monkeypatch.setattr(MemorySession, "record", record)
    ended = await rig.call(retry={"attempts": 3, "pause": 1, "longest_pause": 1})
    assert (ended.status, len(recorded)) == (CallStatus.COMPLETED, 1)
    assert len(rig.pbx.orders) == 1, "nobody is rung again"
    async with rig.store.reading() as work:
        events = await work.events.list_for(ended.id)
    (path,) = [one.detail["path"] for one in events if one.kind == PATH_EVENT]
    assert [step.get("recording") for step in path] == recorded
