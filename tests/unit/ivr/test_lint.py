"""Every planted fault is found at its line and nothing else is; a big tree is checked in no time.

Each tree in `faults/` has its fault on the line that says `#! code`.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from telephony.egress.guard import Guard
from telephony.errors import UnknownLocale
from telephony.ivr.faults import Severity
from telephony.ivr.lint import Rules, check
from telephony.resources import data_dir
from telephony.speech.packs import Packs
from tests.unit.ivr.trees import tree_of

FAULTS = sorted((Path(__file__).parent / "faults").glob("*.yaml"))


def speaks(tag: str) -> bool:
    try:
        Packs.load(data_dir("audio")).locale(tag)
    except UnknownLocale:
        return False
    return True


RULES = Rules(speaks=speaks, recordings={"en": {"chime"}}, trees={})


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 40


@pytest.mark.parametrize("path", FAULTS, ids=lambda path: path.stem)
def test_a_planted_fault_is_found_and_nothing_else(path: Path) -> None:
    text = path.read_text("utf-8")
    planted = {
        (code, number)
        for number, line in enumerate(text.splitlines(), 1)
        for code in re.findall(r"#! ([a-z-]+)", line)
    }
    assert planted
    report = check(text, str(path), RULES)
    told = "\n".join(map(str, report.faults))
    assert {(fault.code, fault.mark.line) for fault in report.faults} == planted, told
    for fault in report.faults:
        assert fault.mend, told
        assert str(fault).startswith(f"{path}:{fault.mark.line}:")
        assert not fault.problem.endswith("."), told


def test_what_a_folder_knows_is_checked_too() -> None:
    inner = tree_of("  main: {type: subtree, tree: outer, next: hangup}\n")
    text = """\
version: 1
name: outer
languages: [en, zh-CN]
start: main
nodes:
  main: {type: subtree, tree: inner, next: other}
  other: {type: subtree, tree: iner, next: hangup}
"""
    faults = check(text, "outer.yaml", Rules(trees={"inner": inner})).faults
    assert [(fault.code, fault.mark.line) for fault in faults] == [
        ("subtree-language", 6),
        ("subtree-loop", 6),
        ("no-return", 6),
        ("unknown-tree", 7),
    ]
    assert faults[-1].mend == "Did you mean inner?"


def test_menus_of_a_subtree_come_on_top() -> None:
    menu = """\
  {0}:
    type: menu
    prompt: {{en: "Press 1."}}
    keys:
      "1": {{label: On, to: {1}}}
      "0": {{label: Person, to: person}}
"""
    person = '  person: {type: transfer, extension: "100"}\n'
    inner = tree_of(menu.format("main", "two") + menu.format("two", "return") + person)
    head = "version: 1\nname: outer\nlanguages: [en]\nstart: main\nnodes:\n"
    text = head + menu.format("main", "two") + menu.format("two", "sub")
    text += "  sub: {type: subtree, tree: inner, next: hangup}\n" + person
    faults = check(text, "outer.yaml", Rules(trees={"inner": inner})).faults
    assert [(fault.code, fault.severity) for fault in faults] == [("menu-too-deep", Severity.ERROR)]


def test_a_private_address_may_be_allowed() -> None:
    text = Path(FAULTS[0].parent / "webhook-private.yaml").read_text("utf-8").replace("https:", "http:")
    allowed = Rules(guard=Guard(["192.168.1.0/24"]))
    assert not check(text, "webhook-private.yaml", allowed).faults
    assert len(check(text, "webhook-private.yaml", Rules()).faults) == 2


def test_an_override_with_a_reason_silences() -> None:
    path = FAULTS[0].parent / "menu-too-deep.yaml"
    text = re.sub(
        r"(  m[34]:) #!.*|(  m[34]:)  #!.*",
        r"\1\2\n    allow: {menu-too-deep: the regulator wants this order}",
        path.read_text("utf-8"),
    )
    assert not check(text, str(path), RULES).faults


def test_what_more_than_a_stand_in_serves_has_no_note() -> None:
    path = FAULTS[0].parent / "stand-in.yaml"
    assert not check(path.read_text("utf-8"), str(path), Rules(served={"queue"})).faults


def test_a_thousand_nodes_are_checked_in_less_than_a_second() -> None:
    lines = ["version: 1", "name: big", "languages: [en, zh-CN]", "start: n0", "agent: person", "nodes:"]
    lines += ['  person: {type: transfer, extension: "100"}']
    for number in range(1000):
        lines += [
            f"  n{number}:",
            "    type: menu" if number % 10 == 0 else "    type: say",
            '    prompt: {en: "This is one of a thousand prompts.", zh-CN: "这是一千个提示之一。"}',
        ]
        if number % 10 == 0:
            lines += ["    allow: {menu-too-deep: a tree of a thousand nodes}", "    keys:"]
            lines += [
                f'      "{key}": {{label: Way {key}, to: n{min(999, number + key)}}}' for key in range(1, 6)
            ]
            lines += [f"      '6': {{label: Rest, to: n{min(999, number + 6)}}}"]
        else:
            lines += [f"    next: n{number + 1}" if number < 999 else "    next: hangup"]
    text = "\n".join(lines) + "\n"
    best = 9.9
    for _ in range(3):
        started = time.perf_counter()
        report = check(text, "big.yaml", RULES)
        best = min(best, time.perf_counter() - started)
    assert report.tree is not None
    assert not report.errors
    assert best < 1.0, f"{best:.2f} s"
