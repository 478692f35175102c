"""What a tree's file may say, and that whatever else it says is told with its line and a mend."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any, get_args

import jsonschema
import pytest

from telephony.ivr.reading import NODE_TYPES, read_tree, tree_schema
from telephony.ivr.source import MAX_BYTES, read_source
from telephony.ivr.tree import Hangup, Menu, Node, PausePiece, RecordingPiece, Say
from telephony.resources import data_dir
from tests.unit.ivr.trees import HEAD, tree_of


def test_a_menu_is_read_as_frozen_values() -> None:
    tree = tree_of(
        """\
  main:
    type: menu
    prompt: {en: "Press one."}
    keys:
      1: {label: One, to: bye}
      "*": {label: Star, to: bye}
  bye: {type: hangup}
"""
    )
    menu = tree.nodes["main"]
    assert isinstance(menu, Menu)
    assert {key: entry.label for key, entry in menu.keys.items()} == {"1": "One", "*": "Star"}
    assert (menu.timeout, menu.max_timeouts, menu.on_fail) == (5.0, 3, "hangup")
    assert isinstance(tree.nodes["bye"], Hangup)
    with pytest.raises(dataclasses.FrozenInstanceError):
        menu.timeout = 1.0  # type: ignore[misc]


def test_every_node_is_frozen_and_slotted() -> None:
    for kind in get_args(Node):
        assert kind.__dataclass_params__.frozen, kind
        assert "__slots__" in vars(kind), kind
    assert len(NODE_TYPES) == 17


def test_pieces_of_a_prompt() -> None:
    tree = tree_of(
        """\
  main:
    type: say
    prompt: {en: [{recording: chime}, "Hello.", {pause: 0.5}]}
    next: hangup
"""
    )
    say = tree.nodes["main"]
    assert isinstance(say, Say)
    assert not isinstance(say.prompt, str)
    assert say.prompt["en"] == (RecordingPiece(recording="chime"), "Hello.", PausePiece(pause=0.5))


@pytest.mark.parametrize(
    ("nodes", "code", "line", "mend"),
    [
        ("  main: {type: hangupp}\n", "unknown-type", 6, "Did you mean hangup?"),
        ("  main: {prompt: x}\n", "missing-field", 6, "Write type"),
        ("  main: {type: say, prompt: {en: Hi}}\n", "missing-field", 6, "Write next: …"),
        ("  main: {type: goto, too: x, to: y}\n", "unknown-field", 6, "Did you mean to?"),
        ("  main:\n    type: goto\n    to: No Such\n", "bad-value", 8, "Write a name in lower case"),
        ("  main: {type: transfer}\n", "bad-value", 6, "Write exactly one of them"),
        ("  main: {type: say, prompt: [a], next: x}\n", "wrong-type", 6, "Write the words for each language"),
        (
            '  main: {type: say, prompt: {en: [{recording: "../etc/x"}]}, next: x}\n',
            "bad-value",
            6,
            "no folder",
        ),
        (
            "  main: {type: record, prompt: p, variable: v, max_seconds: 1e9, next: x}\n",
            "wrong-type",
            6,
            "number",
        ),
        (
            "  main:\n    type: condition\n    cases:\n      - to: x\n    otherwise: x\n",
            "bad-case",
            9,
            "hours",
        ),
        (
            "  main: {type: survey, survey: s, variable: v, prompt: p, lowest: 5, next: x}\n",
            "bad-value",
            6,
            "",
        ),
        ("  main: {type: language, next: x}\n", "bad-value", 6, ""),
    ],
)
def test_a_wrong_shape_is_told_with_line_and_mend(nodes: str, code: str, line: int, mend: str) -> None:
    reading = read_tree(f"{HEAD}nodes:\n{nodes}", "f.yaml")
    assert reading.tree is None
    assert [(fault.code, fault.mark.line) for fault in reading.faults] == [(code, line)]
    assert mend in reading.faults[0].mend


def test_all_faults_of_a_file_are_told_at_once_in_order() -> None:
    text = f"{HEAD}strat: x\nnodes:\n  a: {{type: nothing}}\n  b: {{type: goto}}\n"
    found = [(fault.code, fault.mark.line) for fault in read_tree(text, "f.yaml").faults]
    assert found == [("unknown-field", 5), ("unknown-type", 7), ("missing-field", 8)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: &x 1\nb: *x\n", "yaml-alias"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", "yaml-alias"),
        ("<<: {a: 1}\nb: *b\n", "yaml-alias"),
        ("a: !!python/object/apply:os.system [id]\n", "yaml-tag"),
        ("a: !include /etc/passwd\n", "yaml-tag"),
        ("a: 1\n---\nb: 2\n", "yaml-invalid"),
        ("a: [1\n", "yaml-invalid"),
        ("", "yaml-invalid"),
        ("a: \0\n", "yaml-invalid"),
        ("a: \ud800\n", "yaml-invalid"),
        ("*: 1\n", "yaml-invalid"),
        ("? [a]\n: 1\n", "yaml-invalid"),
        ("[" * 100 + "]" * 100, "yaml-too-deep"),
        ("a: " + "x" * MAX_BYTES, "yaml-too-big"),
        ("a: [" + "1," * 60_000 + "]", "yaml-too-big"),
    ],
)
def test_yaml_that_is_more_than_data_is_refused_quickly(text: str, code: str) -> None:
    started = time.perf_counter()
    source = read_source(text, "f.yaml")
    assert [fault.code for fault in source.faults] == [code]
    assert source.data is None
    assert time.perf_counter() - started < 5.0


def test_scalars_are_what_they_look_like() -> None:
    text = (
        'a: no\nb: on\nc: 09:00\nd: 0123\ne: +8613800000000\nf: 12\ng: "12"\nh: true\ni: 1.5\nj: ~\nk: 1_0\n'
    )
    values = ["no", "on", "09:00", "0123", "+8613800000000", 12, "12", True, 1.5, None, "1_0"]
    assert list(read_source(text, "f").data.values()) == values


def test_a_key_said_twice_is_a_fault_and_the_first_one_counts() -> None:
    source = read_source('a: 1\nb:\n  x: 1\n  "x": {y: 2}\n', "f")
    assert source.data == {"a": 1, "b": {"x": 1}}
    assert [(fault.code, fault.mark.line, fault.mark.column) for fault in source.faults] == [
        ("duplicate-key", 4, 3)
    ]


def test_the_published_schema_is_that_of_the_code() -> None:
    published = data_dir("dialplans") / "ivr" / "tree.schema.json"
    assert published.read_text("utf-8") == tree_schema(), (
        "write it anew: telephony ivr schema > dialplans/ivr/tree.schema.json"
    )


def test_the_schema_and_the_reader_agree() -> None:
    schema = json.loads(tree_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    tree: dict[str, Any] = {
        "version": 1,
        "name": "a",
        "languages": ["en"],
        "start": "main",
        "nodes": {"main": {"type": "say", "prompt": {"en": ["Hi", {"pause": 1}]}, "next": "hangup"}},
    }
    jsonschema.validate(tree, schema)
    for broken in ({"version": 2}, {"nodes": {}}, {"nodes": {"main": {"type": "say"}}}, {"zz": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**tree, **broken}, schema)
        assert read_tree(json.dumps({**tree, **broken}), "f.yaml").faults
