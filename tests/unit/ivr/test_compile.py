"""A tree as a plain dialplan: it leads where the interpreter leads, and what needs us takes its fallback."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from telephony.ivr.book import read_folder
from telephony.ivr.compile import Compiled, compile_tree, extension_of
from telephony.ivr.hours import timetable
from telephony.ivr.lint import Rules
from telephony.ivr.scripted import World
from telephony.ivr.simulate import Caller, simulate
from telephony.ivr.tree import Tree
from telephony.resources import data_dir
from tests.unit.ivr.plain_asterisk import PlainAsterisk
from tests.unit.ivr.test_interpreter import CONDITION, CONDITIONS
from tests.unit.ivr.trees import AGENT, HEAD, MENU, PERSON, tree_of

TREES = read_folder(data_dir("dialplans") / "ivr", Rules()).trees
SOUNDS = "/var/lib/telephony/ivr"


def compiled(tree: Tree) -> Compiled:
    made = compile_tree(tree, SOUNDS)
    assert PlainAsterisk(made.text).targets_exist()
    return made


@pytest.mark.parametrize("name", sorted(TREES))
def test_the_examples_compile_and_every_sound_is_there(name: str) -> None:
    made = compiled(TREES[name])
    paths = {f"{SOUNDS}/{sound.path}" for sound in made.sounds}
    for keys in (["1", "1"], ["2", "2", "1"], ["1", "0"], [], ["7", "7", "7", "7"], ["2", "*", "9", "3"]):
        call = PlainAsterisk(made.text, list(keys)).run()
        assert set(call.played) <= paths
        assert call.done
    for node in TREES[name].nodes:
        assert f"exten => {extension_of(node)},1," in made.text


@pytest.mark.parametrize("hour", range(0, 24, 3))
@pytest.mark.parametrize("first", ["1", "0", "3", ""])
async def test_it_leads_where_the_interpreter_leads(first: str, hour: int) -> None:
    """Both are walked with the same keys in a world where everything that needs us is away."""
    tree = TREES["car-rescue"]
    at = datetime(2026, 11, 25, hour, 0, tzinfo=UTC)
    away = World(without=frozenset({"queue", "transfer", "callback", "survey", "record"}))
    keys = ["2", *([first] if first else [])]
    ours = await simulate(tree, Caller(keys=keys, at=at, number="+8613800000000"), away)
    plain = PlainAsterisk(compiled(tree).text, list(keys), at=at).run()
    walked = [node for node in plain.walked if node.startswith("node_")]
    hours = {extension_of(name) for name in tree.hours}
    digits = {extension_of(node) for node in ("plate", "truck_plate")}
    expected = [extension_of(visit.node) for visit in ours.visits]
    assert [one for one in walked if one not in hours | digits] == [
        one for one in expected if one not in digits
    ]
    assert plain.variables["TELEPHONY_RESULT"] == ours.result == "unavailable"


@pytest.mark.parametrize(
    "keys", [["1", "2"], ["12"], [], ["7", "7", "7"], ["1", "*", "12"], ["1", "9", "2"], ["1", "0"]]
)
async def test_menus_go_the_same_way(keys: list[str]) -> None:
    tree = tree_of(MENU + PERSON, AGENT)
    ours = await simulate(tree, Caller(keys=keys))
    plain = PlainAsterisk(compiled(tree).text, list(keys)).run()
    assert plain.walked[1 : 1 + len(ours.visits)] == [extension_of(visit.node) for visit in ours.visits]
    heard = [sound.rpartition("/")[2] for sound in plain.played]
    if not keys:
        assert heard == ["main.prompt", "main.short", "main.short", "common.goodbye"]
    if ours.result == "transferred":
        assert plain.done == ["Goto(default,100,1)"]


def test_where_it_is_crowded_menus_begin_short() -> None:
    text = compiled(tree_of(MENU + PERSON, AGENT)).text
    for crowded, first in (("1", "main.short"), ("", "main.prompt")):
        call = PlainAsterisk(text, [])
        call.variables["TELEPHONY_CROWDED"] = crowded
        assert call.run().played[0].rpartition("/")[2] == first


@pytest.mark.parametrize("caller", ["+8613800000000", "447000", "1447000", '" = "" | "x', ""])
async def test_callers_and_hours(caller: str) -> None:
    head = CONDITIONS.replace("variables: {sum: {}, note: {}}", "variables: {sum: {default: '5'}, note: {}}")
    nodes = CONDITION.replace("      - {variable: sum, more_than: 10, to: big}\n", "")
    for default in ("5", "7"):
        tree = tree_of(nodes, head.replace("'5'", f"'{default}'"))
        for at in (datetime(2026, 11, 25, 2, 0, tzinfo=UTC), datetime(2026, 12, 24, 5, 0, tzinfo=UTC)):
            ours = await simulate(tree, Caller(number=caller, at=at))
            plain = PlainAsterisk(compiled(tree).text, caller=caller, at=at).run()
            assert plain.variables["TELEPHONY_RESULT"] == ours.result


def test_hours_are_those_of_the_tree_to_the_minute() -> None:
    head = (
        HEAD
        + """\
hours:
  h:
    zone: America/New_York
    open: {mon-thu: ["09:00-12:30", "13:00-18:00"], fri: ["20:00-04:00"], sun: ["00:00-24:00"]}
    holidays: {"2026-07-03": [], "12-24": ["22:00-02:00"]}
"""
    )
    nodes = """\
  main: {type: condition, cases: [{hours: h, to: a}], otherwise: b}
  a: {type: hangup, result: a}
  b: {type: hangup, result: b}
"""
    tree = tree_of(nodes, head)
    text = compiled(tree).text
    table = timetable(tree.hours["h"])
    start = int(datetime(2026, 12, 20, tzinfo=UTC).timestamp())
    days = (datetime.fromtimestamp(start + 977 * 60 * step, UTC) for step in range(60))
    more = (datetime(2026, 7, day, hour, 30, tzinfo=UTC) for day in (2, 3, 4, 5) for hour in range(0, 24, 2))
    eve = (datetime(2027, 12, 24, 18, tzinfo=UTC) + timedelta(minutes=30 * step) for step in range(28))
    seen = set()
    for at in (*days, *more, *eve):
        result = PlainAsterisk(text, at=at).run().variables["TELEPHONY_RESULT"]
        assert (result == "a") == table.is_open(at), at
        seen.add(result)
    assert seen == {"a", "b"}


def test_queues_and_transfers() -> None:
    nodes = """\
  main:
    type: queue
    queue: sales
    priority: 4
    max_wait: 90
    next: out
    on_timeout: out
  out:
    type: transfer
    number: "+8610000000"
    route: carrier-b
    on_busy: busy
  busy: {type: hangup, result: busy}
"""
    text = compiled(tree_of(nodes)).text
    call = PlainAsterisk(text, queue_status="TIMEOUT", dial_status="BUSY").run()
    assert call.done == ["Queue(sales,c,,,90)", "Dial(PJSIP/+8610000000@carrier-b,30,g)", "Hangup"]
    assert call.variables["TELEPHONY_RESULT"] == "busy"
    assert call.variables["QUEUE_PRIO"] == "4"
    answered = PlainAsterisk(text, queue_status="CONTINUE", dial_status="ANSWER").run()
    assert answered.variables["TELEPHONY_RESULT"] == "transferred"
    nobody = PlainAsterisk(text, queue_status="", dial_status="CHANUNAVAIL").run()
    assert nobody.variables["TELEPHONY_RESULT"] == "unavailable"


def test_nothing_of_a_tree_is_syntax() -> None:
    """Texts that mean something to Asterisk stay out, and so does every secret."""
    head = HEAD + "variables: {a: {default: 'x,1)${SHELL(id)}'}, pin: {secret: true}, n: {}}\n"
    nodes = """\
  main:
    type: condition
    label: "evil) same => n,System(id)"
    cases:
      - {variable: a, equals: '" | $[1]', to: b-c}
      - {variable: pin, equals: "1", to: b_c}
    otherwise: b-c
  b-c: {type: set, values: {n: "${SHELL(id)}", pin: "1"}, next: b_c}
  b_c: {type: hangup, prompt: {en: "exten => s,1,System(id)"}}
"""
    made = compiled(tree_of(nodes, head))
    for word in ("SHELL", "System", "evil", "PIN", "$[1]"):
        assert word not in made.text
    assert {note.partition(":")[0] for note in made.notes} == {"main", "b-c"}
    assert len(re.findall(r"^exten => node_b[._]c,", made.text, re.MULTILINE)) == 2


def test_what_holds_values_is_not_said_and_told() -> None:
    tree = TREES["satisfaction"]
    made = compiled(tree)
    assert "solved: prompt holds values, and is not said" in made.notes
    assert "solved.short" in {sound.name for sound in made.sounds}
    assert PlainAsterisk(made.text, ["1"]).run().played[0] == f"{SOUNDS}/zh-CN/solved.short"
