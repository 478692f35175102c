"""A tree is walked as it says, on a scripted caller: the same code that walks it on a real call."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from telephony.errors import CallEnded, EngineError, PbxRejected
from telephony.ivr.interpreter import MAX_NODES, Ending, Interpreter
from telephony.ivr.journal import Heard, Said
from telephony.ivr.ports import CallFacts, QueueEnd, QueueOrder, TransferEnd, WebhookOrder
from telephony.ivr.saying import words_of
from telephony.ivr.scripted import ScriptedClock, ScriptedSession, SilentVoice, World
from telephony.ivr.simulate import Caller, Simulated, simulate
from telephony.ivr.sounds import Sounds
from telephony.ivr.standins import Services
from telephony.ivr.tree import Tree
from telephony.model.media import Media
from telephony.model.prompt import Prompt
from telephony.pbx.port import CallSession, Gathered
from tests.unit.ivr.trees import AGENT, HEAD, MENU, PERSON, tree_of

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def way(call: Simulated) -> list[str]:
    return [visit.node for visit in call.visits]


def said(call: Simulated) -> list[str]:
    return [
        words_of(event.prompt) for visit in call.visits for event in visit.events if isinstance(event, Said)
    ]


def heard(call: Simulated) -> list[str]:
    return [event.keys for visit in call.visits for event in visit.events if isinstance(event, Heard)]


async def play(
    nodes: str,
    *keys: str,
    head: str = HEAD,
    world: World | None = None,
    trees: Mapping[str, Tree] | None = None,
    **caller: object,
) -> Simulated:
    plain = Caller(keys=keys, at=NOON)
    return await simulate(tree_of(nodes, head), dataclasses.replace(plain, **caller), world, trees=trees)


# ---- menus


async def test_a_key_leads_on() -> None:
    call = await play(MENU, "1", "2")
    assert way(call) == ["main", "orders", "second", "bye"]
    assert said(call) == ["For orders, press 1.", "Orders.", "For more, press 2.", "Bye."]
    assert call.result == "completed"
    assert call.handed_back["TELEPHONY_RESULT"] == "completed"
    assert call.handed_back["TELEPHONY_NODE"] == "bye"


async def test_a_longer_key_is_waited_for() -> None:
    assert way(await play(MENU, "12")) == ["main", "door"]
    assert (await play(MENU, "12")).result == "door"


async def test_silence_is_asked_again_shortly_and_then_ended() -> None:
    call = await play(MENU)
    assert said(call) == ["For orders, press 1.", "Press 1.", "Press 1.", "(common.goodbye)"]
    assert heard(call) == ["", "", ""]
    assert call.result == "no_input"


async def test_where_it_is_crowded_questions_are_short_from_the_first() -> None:
    nodes = (
        MENU
        + """\
  look: {type: condition, cases: [{variable: crowded, is_set: true, to: short}], otherwise: bye}
  short: {type: hangup, result: short}
"""
    )
    tree = tree_of(nodes.replace("to: orders", "to: look"))
    for crowded, first, result in ((True, "Press 1.", "short"), (False, "For orders, press 1.", "completed")):
        clock = ScriptedClock(NOON)
        session = ScriptedSession(clock, ["1"])
        walk = Interpreter(tree, session, Sounds(SilentVoice()), Services(clock=clock), crowded=crowded)
        assert (await walk.run()).result == result
        told = [event for visit in walk.visits for event in visit.events if isinstance(event, Said)]
        assert words_of(told[0].prompt) == first


async def test_wrong_keys_are_told_and_then_ended() -> None:
    call = await play(MENU, "7", "timeout", "7", "7")
    assert heard(call) == ["7", "", "7", "7"]
    assert said(call).count("(ivr.invalid)") == 3
    assert call.result == "wrong_input"


async def test_silence_and_wrong_keys_have_ways_of_their_own() -> None:
    nodes = """\
  main:
    type: menu
    prompt: {en: "Press 1."}
    invalid: {en: "No."}
    max_timeouts: 1
    max_failures: 2
    keys: {"1": {label: One, to: a}}
    on_timeout: a
    on_invalid: b
  a: {type: hangup, result: silent}
  b: {type: hangup, result: wrong}
"""
    assert (await play(nodes)).result == "silent"
    call = await play(nodes, "5", "5")
    assert (call.result, said(call)) == ("wrong", ["Press 1.", "No.", "Press 1.", "No."])


async def test_standard_keys() -> None:
    call = await play(MENU + PERSON, "1", "9", "*", "1", "*", "*", "0", head=AGENT)
    assert way(call) == [
        "main",
        "orders",
        "second",
        "second",
        "main",
        "orders",
        "second",
        "main",
        "main",
        "person",
    ]
    assert call.result == "transferred"
    assert call.transferred_to == ("100", "default")


async def test_a_taken_standard_key_is_the_menus_own() -> None:
    nodes = MENU.replace('"12": {label: Secret door', '"9": {label: Door')
    assert way(await play(nodes, "9")) == ["main", "door"]
    nodes = MENU.replace("    short:", "    standard_keys: false\n    short:")
    assert heard(await play(nodes, "9", "*", "0")) == ["9", "*", "0"]


async def test_keys_typed_ahead_cut_short_what_would_be_said() -> None:
    nodes = """\
  main: {type: say, prompt: {en: "A long welcome."}, next: ask}
  ask:
    type: menu
    prompt: {en: "Press 1."}
    keys: {"1": {label: One, to: code}}
  code:
    type: collect
    prompt: {en: "Type four digits."}
    variable: order
    max_digits: 4
    next: bye
  bye: {type: hangup, prompt: {en: "Order {order:digits}."}}
"""
    head = HEAD + "variables: {order: {}}\n"
    call = await play(nodes, "!14711", head=head)
    assert said(call) == ["A long welcome.", "Type four digits.", "Order [4711]"]
    assert way(call) == ["main", "ask", "code", "bye"]
    assert call.result == "completed"


async def test_what_must_be_heard_is_not_cut_short() -> None:
    nodes = """\
  main: {type: say, prompt: {en: "By law."}, barge_in: false, next: ask}
  ask: {type: menu, prompt: {en: "Press 1."}, keys: {"1": {label: One, to: bye}}}
  bye: {type: hangup}
"""
    call = await play(nodes, "!1")
    assert said(call) == ["By law.", "Press 1."]
    assert call.result == "completed"


# ---- digits

COLLECT = """\
  main:
    type: collect
    prompt: {en: "Your card."}
    short: {en: "Again."}
    variable: card
    min_digits: 4
    max_digits: 8
    check: {luhn: true, pattern: "4[0-9]+"}
    next: told
  told: {type: say, prompt: {en: "Card {card:digits}."}, next: asked}
  asked:
    type: webhook
    url: https://api.example.com/card
    send: {card: "{card}"}
    next: hangup
    on_error: hangup
"""
CARD = "variables: {card: {secret: true}}\n"


async def test_digits_are_checked_and_secrets_leave_no_trace() -> None:
    with structlog.testing.capture_logs() as logs:
        call = await play(COLLECT, "4711#", "1", "26*42424242", head=HEAD + CARD)
    assert way(call) == ["main", "told", "asked"]
    assert heard(call) == ["[secret]"] * 3
    assert said(call)[-1] == "Card [secret]"
    assert "4242" not in repr(call)
    assert "4242" not in repr(logs)
    assert not [name for name in call.handed_back if "CARD" in name]
    assert sum(line["event"] == "ivr.node" for line in logs) == 3


async def test_digits_that_are_wrong_too_often() -> None:
    call = await play(COLLECT, "4711#", "1234#", "4#", head=HEAD + CARD)
    assert call.result == "wrong_input"
    assert (await play(COLLECT, head=HEAD + CARD)).result == "no_input"


async def test_a_lone_terminator_is_no_answer() -> None:
    call = await play(COLLECT, "#", "#", "#", head=HEAD + CARD)
    assert call.result == "no_input"


# ---- conditions, language, set

CONDITION = """\
  main:
    type: condition
    cases:
      - {caller_in: vip, to: v}
      - {variable: sum, more_than: 10, to: big}
      - {variable: sum, one_of: ["5", "6"], to: five}
      - {variable: note, is_set: true, to: noted}
      - {hours: day, is_open: false, to: night}
    otherwise: day
  v: {type: hangup, result: vip}
  big: {type: hangup, result: big}
  five: {type: hangup, result: five}
  noted: {type: hangup, result: noted}
  night: {type: hangup, result: night}
  day: {type: hangup, result: day}
"""
CONDITIONS = (
    HEAD
    + """\
variables: {sum: {}, note: {}}
lists: {vip: ["+8613800000000", "44*"]}
hours:
  day:
    zone: Asia/Shanghai
    open: {mon-fri: ["09:00-18:00"]}
    holidays: {"2026-12-24": ["09:00-12:00"], "10-01": []}
"""
)


@pytest.mark.parametrize(
    ("caller", "result"),
    [
        ({"number": "+8613800000000"}, "vip"),
        ({"number": "8613800000000"}, "vip"),
        ({"number": "+442079460000"}, "vip"),
        ({"number": ""}, "night"),
        ({"variables": {"sum": "10.5"}}, "big"),
        ({"variables": {"sum": 10}}, "night"),
        ({"variables": {"sum": "5"}}, "five"),
        ({"variables": {"sum": "NaN"}}, "night"),
        ({"variables": {"note": "x"}}, "noted"),
        ({"at": datetime(2026, 11, 25, 1, 0, tzinfo=UTC)}, "day"),
        ({"at": datetime(2026, 11, 25, 0, 59, tzinfo=UTC)}, "night"),
        ({"at": datetime(2026, 12, 24, 4, 0, tzinfo=UTC)}, "night"),
        ({"at": datetime(2026, 12, 24, 3, 59, tzinfo=UTC)}, "day"),
        ({"at": datetime(2030, 10, 1, 4, 0, tzinfo=UTC)}, "night"),
        ({"at": datetime(2026, 11, 28, 4, 0, tzinfo=UTC)}, "night"),
    ],
)
async def test_conditions(caller: Mapping[str, object], result: str) -> None:
    assert (await play(CONDITION, head=CONDITIONS, **caller)).result == result


async def test_a_language_is_chosen_in_its_own_words() -> None:
    head = HEAD.replace("[en]", "[en, zh-CN]")
    nodes = """\
  main:
    type: language
    prompt: {en: "For English, press 2.", zh-CN: 普通话请按一。}
    choices: {"1": zh-CN, "2": en}
    next: bye
  bye: {type: hangup, prompt: {en: Bye., zh-CN: 再见。}}
"""
    call = await play(nodes, "1", head=head)
    assert said(call) == ["普通话请按一。", "For English, press 2.", "再见。"]
    assert call.handed_back["TELEPHONY_LANGUAGE"] == "zh-CN"
    assert said(await play(nodes, "timeout", head=head))[-1] == "Bye."
    assert said(await play(nodes, "!1", head=head)) == ["普通话请按一。", "再见。"]


async def test_set_and_exported_variables() -> None:
    head = HEAD + "variables: {who: {export: true}, mine: {}}\n"
    nodes = """\
  main: {type: set, values: {who: "{caller}/x${y}", mine: "{who}"}, priority: 7, next: hangup}
"""
    call = await play(nodes, head=head, number="+8613800000000")
    assert call.handed_back["IVR_WHO"] == "+8613800000000/x_"
    assert call.handed_back["TELEPHONY_PRIORITY"] == "7"
    assert "IVR_MINE" not in call.handed_back


# ---- apps

WEBHOOK = """\
  main:
    type: webhook
    url: https://api.example.com/order
    prompt: {en: "One moment."}
    send: {order: "{order}", from: "{caller}"}
    receive: {status: order.status, sum: order.sums.0}
    next: told
    on_error: sorry
  told: {type: hangup, prompt: {en: "It is {status}, {sum:amount CNY}."}, result: told}
  sorry: {type: hangup, prompt: {en: "We could not find it."}, result: sorry}
"""
WEBHOOKS = HEAD + "variables: {order: {default: '4711'}, status: {}, sum: {}}\n"


async def test_an_app_answers() -> None:
    world = World(webhooks={"main": {"order": {"status": "on\nits way", "sums": [128.5]}}})
    call = await play(WEBHOOK, head=WEBHOOKS, world=world)
    assert said(call) == ["One moment.", "It is on its way [128.5 CNY]"]


async def test_an_app_that_fails_has_its_fallback() -> None:
    assert (await play(WEBHOOK, head=WEBHOOKS)).result == "sorry"


async def test_odd_answers_are_no_danger() -> None:
    world = World(webhooks={"main": {"order": {"status": {"a": 1}, "sums": ["lots", 2]}}})
    assert said(await play(WEBHOOK, head=WEBHOOKS, world=world))[-1] == "It is lots"
    world = World(webhooks={"main": {"order": 5}})
    assert said(await play(WEBHOOK, head=WEBHOOKS, world=world))[-1] == "It is"


class Walk:
    """An interpreter with what it works on."""

    def __init__(
        self,
        nodes: str,
        *keys: str,
        head: str = HEAD,
        voice: SilentVoice | None = None,
        session: type[ScriptedSession] = ScriptedSession,
        **services: Any,
    ) -> None:
        self.clock = ScriptedClock(NOON)
        self.voice = voice or SilentVoice()
        self.session = session(self.clock, keys, caller="+8613800000000")
        self.sounds = Sounds(self.voice)
        self.ports = dataclasses.replace(Services(clock=self.clock), **services)
        self.interpreter = Interpreter(tree_of(nodes, head), self.session, self.sounds, self.ports)

    async def run(self) -> Ending:
        try:
            return await self.interpreter.run()
        finally:
            await self.sounds.close()


async def test_an_app_is_asked_while_something_is_said_and_never_waited_for_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telephony.ivr.interpreter.OVERRUN", 0.0)
    asked: list[WebhookOrder] = []
    cancelled = asyncio.Event()

    class Stuck:
        async def ask(self, order: WebhookOrder) -> Mapping[str, object] | None:
            asked.append(order)
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()
            return None

    nodes = WEBHOOK.replace("    next", "    timeout: 0.2\n    next", 1)
    walk = Walk(nodes, head=WEBHOOKS, webhooks=Stuck())
    async with asyncio.timeout(5):
        assert (await walk.run()).result == "sorry"
    assert cancelled.is_set()
    assert asked[0].send == {"order": "4711", "from": "+8613800000000"}


async def test_a_lookup_comes_before_the_answer() -> None:
    nodes = """\
  main:
    type: lookup
    receive: {vip: vip}
    language_from: language
    priority_from: rank
    next: hello
    on_unknown: stranger
  hello: {type: say, prompt: {en: "Hello.", zh-CN: 您好。}, next: hangup}
  stranger: {type: hangup, result: stranger}
"""
    seen: list[bool] = []
    walk: Walk

    class Known:
        async def find(self, call: CallFacts, timeout: float) -> Mapping[str, object] | None:
            seen.append(walk.session.answered)
            return {"vip": True, "language": "zh-CN", "rank": 9}

    head = HEAD.replace("[en]", "[en, zh-CN]") + "variables: {vip: {}}\n"
    walk = Walk(nodes, head=head, profiles=Known())
    ending = await walk.run()
    assert seen == [False]
    assert (walk.session.answered, ending.language, ending.values) == (True, "zh-CN", {"vip": "true"})
    assert walk.session.variables["TELEPHONY_PRIORITY"] == "9"
    assert (await play(nodes, head=head)).result == "stranger"


# ---- people, and what stands in

QUEUE = """\
  main:
    type: queue
    queue: sales
    prompt: {en: "Please hold."}
    priority: 5
    next: after
    on_timeout: late
    on_full: full
  after: {type: hangup, result: after}
  late: {type: hangup, result: late}
  full: {type: hangup, result: full}
"""


@pytest.mark.parametrize(
    ("end", "result"),
    [
        (QueueEnd.SPOKEN, "after"),
        (QueueEnd.HANDED_OVER, "queued"),
        (QueueEnd.TIMEOUT, "late"),
        (QueueEnd.FULL, "full"),
        (QueueEnd.UNAVAILABLE, "unavailable"),
    ],
)
async def test_queues(end: QueueEnd, result: str) -> None:
    call = await play(QUEUE, world=World(queues={"sales": end}))
    assert call.result == result
    assert call.handed_back["TELEPHONY_PRIORITY"] == "5"


async def test_a_stand_in_says_so() -> None:
    walk = Walk(QUEUE)
    ending = await walk.run()
    spoken = [words_of(prompt) for prompt, _ in walk.voice.said.values()]
    assert spoken == ["Please hold.", "(ivr.unavailable)", "(common.goodbye)"]
    assert ending.result == "unavailable"


@pytest.mark.parametrize(
    "node",
    [
        "type: callback\n    queue: sales\n    next: bye",
        "type: survey\n    survey: s\n    variable: v\n    prompt: {en: Rate us.}\n    next: bye",
        "type: record\n    prompt: {en: Speak.}\n    variable: v\n    next: bye",
        "type: bot\n    url: wss://bot.example.com/\n    next: bye",
        'type: transfer\n    number: "+8610000000"\n    next: bye',
    ],
)
async def test_nothing_is_pretended(node: str) -> None:
    head = HEAD + "variables: {v: {}}\n"
    body = f"  main:\n    {node}\n  bye: {{type: hangup}}\n  away: {{type: hangup, result: away}}\n"
    ending = await Walk(body, head=head).run()
    assert ending.result == "unavailable"
    body = body.replace("    next: bye", "    next: bye\n    on_unavailable: away")
    assert (await Walk(body, head=head).run()).result == "away"


async def test_people_are_reached_by_transfer() -> None:
    nodes = """\
  main:
    type: transfer
    number: "{caller}"
    route: main
    next: after
    on_busy: busy
    on_no_answer: nobody
  after: {type: hangup, result: after}
  busy: {type: hangup, result: busy}
  nobody: {type: hangup, result: nobody}
"""
    for end, result in (
        (TransferEnd.SPOKEN, "after"),
        (TransferEnd.BUSY, "busy"),
        (TransferEnd.NO_ANSWER, "nobody"),
        (TransferEnd.HANDED_OVER, "transferred"),
    ):
        call = await play(nodes, world=World(transfers={"main": end}), number="+8613800000000")
        assert call.result == result


async def test_surveys_callbacks_and_recordings() -> None:
    nodes = """\
  main: {type: survey, survey: s, variable: stars, prompt: {en: "One to five."}, next: back2}
  back2: {type: callback, queue: sales, prompt: {en: "We call you back."}, next: words}
  words: {type: record, prompt: {en: "Tell us."}, variable: words, next: hangup}
"""
    head = HEAD + "variables: {stars: {export: true}, words: {export: true}}\n"
    call = await play(nodes, "6", "4", head=head, number="+8613800000000")
    assert (call.handed_back["IVR_STARS"], call.handed_back["IVR_WORDS"]) == ("4", "rec_1")
    assert [visit.outcome for visit in call.visits] == ["4", "booked", "recorded"]
    assert [visit.recording for visit in call.visits] == ["", "", "rec_1"]
    nobody = await play(nodes, "4", head=head)
    assert nobody.result == "unavailable", "a caller without a number can't be called back"


# ---- subtrees, bounds, failures


async def test_a_subtree_comes_back_and_shares_variables() -> None:
    inner = tree_of(
        """\
  main:
    type: menu
    prompt: {en: "Inner."}
    keys:
      "1": {label: Back there, to: write}
  write: {type: set, values: {order: "42"}, next: return}
""",
        HEAD.replace("sample", "inner") + "variables: {order: {}}\n",
    )
    nodes = """\
  main:
    type: menu
    prompt: {en: "Outer."}
    keys: {"1": {label: In, to: sub}}
  sub: {type: subtree, tree: inner, next: bye}
  bye: {type: hangup, prompt: {en: "Order {order:digits}."}}
"""
    head = HEAD + "variables: {order: {}}\n"
    call = await play(nodes, "1", "*", "1", "1", head=head, trees={"inner": inner})
    places = [f"{visit.tree}/{visit.node}" for visit in call.visits]
    assert places == [
        "sample/main",
        "sample/sub",
        "inner/main",
        "sample/main",
        "sample/sub",
        "inner/main",
        "inner/write",
        "sample/bye",
    ]
    assert said(call)[-1] == "Order [42]"


async def test_return_at_the_top_ends_the_call() -> None:
    assert (await play("  main: {type: goto, to: return}\n")).result == "completed"


async def test_a_call_visits_so_many_nodes_and_no_more() -> None:
    call = await play("  main: {type: goto, to: main}\n")
    assert (call.result, len(call.visits)) == ("too_many_nodes", MAX_NODES)
    call = await play(MENU, *["1", "*"] * MAX_NODES)
    assert (call.result, len(call.visits)) == ("too_many_nodes", MAX_NODES)


class BrokenVoice(SilentVoice):
    """Can't say one of the prompts."""

    async def compose(self, prompt: Prompt, locale: str) -> Media:
        if "Press" in words_of(prompt):
            raise EngineError("the synthesiser is gone")
        return await super().compose(prompt, locale)


async def test_a_node_that_fails_leads_to_a_person_once() -> None:
    nodes = "  main: {type: menu, prompt: {en: Press 1.}, keys: {'1': {label: One, to: hangup}}}\n"
    assert (await Walk(nodes + PERSON, head=AGENT, voice=BrokenVoice()).run()).result == "transferred"
    assert (await Walk(nodes, voice=BrokenVoice()).run()).result == "failed"
    circle = nodes + "  person: {type: say, prompt: {en: Sorry.}, next: main}\n"
    ending = await Walk(circle, head=AGENT, voice=BrokenVoice()).run()
    assert (ending.result, len(ending.visits)) == ("failed", 3)


async def test_a_sound_that_the_pbx_can_not_play_is_such_a_failure() -> None:
    class Refusing(ScriptedSession):
        async def gather(self, media: Media | None, **how: Any) -> Gathered:
            raise PbxRejected("Asterisk could not carry out STREAM")

    walk = Walk(MENU + PERSON, head=AGENT, session=Refusing)
    assert (await walk.run()).result == "transferred"


async def test_a_caller_who_leaves_ends_it_where_it_is() -> None:
    call = await play(MENU, "1", "hangup")
    assert call.result == "hung_up"
    assert call.visits[-1].node == "second"
    assert call.visits[-1].outcome == "hung_up"
    assert way(await play(MENU, "1", "!hangup")) == ["main", "orders"]


async def test_what_comes_next_is_made_while_this_is_said() -> None:
    """The order's prompt holds a value that is known: its sound is begun at the menu, before the key."""
    made: list[str] = []

    class Counting(SilentVoice):
        async def compose(self, prompt: Prompt, locale: str) -> Media:
            made.append(words_of(prompt))
            return await super().compose(prompt, locale)

    nodes = """\
  main:
    type: menu
    prompt: {en: "Press 1."}
    keys: {"1": {label: Orders, to: order}}
  order: {type: say, prompt: {en: "Order {order:digits}."}, next: change}
  change: {type: set, values: {order: "2"}, next: again}
  again: {type: hangup, prompt: {en: "Now {order:digits}."}}
"""
    head = HEAD + "variables: {order: {default: '1'}}\n"
    at_the_question: list[str] = []

    class Listening(ScriptedSession):
        async def gather(self, media: Media | None, **how: Any) -> Gathered:
            await asyncio.sleep(0)
            at_the_question.extend(made)
            return await super().gather(media, **how)

    await Walk(nodes, "1", head=head, voice=Counting(), session=Listening).run()
    assert "Order [1]" in at_the_question
    assert made.count("Order [1]") == 1
    assert "Now [1]" not in made


async def test_no_sound_outlives_the_call() -> None:
    kept: set[str] = set()

    class Keeping(SilentVoice):
        async def compose(self, prompt: Prompt, locale: str) -> Media:
            media = await super().compose(prompt, locale)
            kept.add(media.name)
            return media

        def discard(self, media: Media) -> None:
            kept.remove(media.name)

    await Walk(MENU, "1", "2", voice=Keeping()).run()
    assert not kept


async def test_an_ending_holds_no_secret() -> None:
    walk = Walk(COLLECT, "4242424242424242"[:8], head=HEAD + CARD)
    assert (await walk.run()).values == {}
    assert walk.interpreter.keys == "[secret]"


async def test_a_caller_who_leaves_ends_the_question_to_the_app() -> None:
    cancelled = asyncio.Event()

    class Stuck:
        async def ask(self, order: WebhookOrder) -> Mapping[str, object] | None:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()
            return None

    walk = Walk(WEBHOOK, "!hangup", head=WEBHOOKS, webhooks=Stuck())
    with pytest.raises(CallEnded):
        await walk.run()
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_clearing_for_ever_is_an_answer_too() -> None:
    class Clearing(ScriptedSession):
        async def gather(self, media: Media | None, **how: Any) -> Gathered:
            return Gathered("*" * how["max_digits"], "max_digits")

    walk = Walk(COLLECT, head=HEAD + CARD, session=Clearing)
    async with asyncio.timeout(5):
        assert (await walk.run()).result == "no_input"


@pytest.mark.parametrize(("spoken", "result"), [(20.0, "too_long"), (0.0, "completed")])
async def test_the_trees_own_time_is_bounded(
    monkeypatch: pytest.MonkeyPatch, spoken: float, result: str
) -> None:
    """What is said counts, what is spoken with a person does not."""
    now = [0.0]

    class Loop:
        def time(self) -> float:
            return now[0]

    class Slow(ScriptedSession):
        async def play(self, media: Media, *, barge_in: str = "") -> str | None:
            now[0] += spoken
            return await super().play(media, barge_in=barge_in)

    class Long:
        async def wait(self, session: CallSession, order: QueueOrder) -> QueueEnd:
            now[0] += 500.0
            return QueueEnd.SPOKEN

    nodes = """\
  main: {type: queue, queue: sales, next: one}
  one: {type: say, prompt: {en: One.}, next: two}
  two: {type: say, prompt: {en: Two.}, next: three}
  three: {type: hangup, prompt: {en: Three.}}
"""
    walk = Walk(nodes, head=HEAD + "max_seconds: 30\n", session=Slow, queues=Long())
    monkeypatch.setattr(asyncio, "get_running_loop", Loop)
    try:
        ending = await walk.interpreter.run()
    finally:
        monkeypatch.undo()
        await walk.sounds.close()
    assert ending.result == result
