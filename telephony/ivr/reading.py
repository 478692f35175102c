"""From a file's text to a tree: pydantic's verdicts become faults with a line and a mend.

What it never does: read a file, or judge how the nodes hang together.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import TypeAdapter, ValidationError

from telephony.ivr import tree as shapes
from telephony.ivr.faults import Fault, Severity
from telephony.ivr.source import Path, Source, read_source
from telephony.ivr.tree import Node, Tree

_ADAPTER: Final[TypeAdapter[Tree]] = TypeAdapter(Tree)
NODE_TYPES: Final = {kind.__name__.lower(): kind for kind in get_args(Node)}
"""Node classes by the word that stands at `type`."""

SCHEMA_ID: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_FAULTS: Final = 200

_MENDS: Final[Mapping[str, str]] = {
    "string_type": "Write a text; figures need quotes",
    "int_type": "Write a whole number, without quotes",
    "int_from_float": "Write a whole number",
    "float_type": "Write a number, without quotes",
    "bool_type": "Write true or false",
    "tuple_type": "Write a list: [one, two]",
    "mapping_type": "Write key: value lines below it",
    "dict_type": "Write key: value lines below it",
    "dataclass_type": "Write key: value lines below it",
    "model_attributes_type": "Write key: value lines below it, with a type",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A file that was read: `tree` is None where its shape is wrong; `faults` say why."""

    source: Source
    tree: Tree | None
    faults: tuple[Fault, ...]


def read_tree(text: str, file: str) -> Reading:
    """Read a tree from YAML; every fault of its shape at once. Raises nothing."""
    source = read_source(text, file)
    if source.faults and source.data is None:
        return Reading(source, None, source.faults)
    try:
        tree = _ADAPTER.validate_python(source.data)
    except ValidationError as error:
        # A list whose items are wrong is reported a second time, as too short.
        found = [
            one for one in error.errors(include_url=False) if one["type"] != "too_short" or not one["input"]
        ]
        faults = dict.fromkeys(_fault(source, one) for one in found[:MAX_FAULTS])
        return Reading(source, None, tuple(sorted((*source.faults, *faults), key=_by_line)))
    return Reading(source, tree, source.faults)


def tree_schema() -> str:
    """The JSON Schema of a tree, as `dialplans/ivr/tree.schema.json` holds it."""
    schema = {"$schema": SCHEMA_ID, **_untitled(_ADAPTER.json_schema()), "title": "IVR tree"}
    return json.dumps(schema, ensure_ascii=False, indent=2) + "\n"


def _untitled(schema: Any) -> Any:
    """Without pydantic's titles, which repeat each name; a property that is called so stays."""
    if isinstance(schema, list):
        return [_untitled(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _untitled(value)
        for name, value in schema.items()
        if name != "title" or not isinstance(value, str)
    }


def _by_line(fault: Fault) -> tuple[int, int]:
    return fault.mark.line, fault.mark.column


def _fault(source: Source, error: Mapping[str, Any]) -> Fault:
    path, kind = _place(source.data, error["loc"])
    code, problem, mend = _verdict(source.data, path, kind, error)
    return source.fault(code, path, problem, mend, Severity.ERROR)


def _place(data: Any, loc: Iterable[str | int]) -> tuple[Path, type | None]:
    """The place of an error in the file: pydantic's own has the names of alternatives in between.

    Also the node's class, where the place is inside a node.
    """
    path: list[str | int] = []
    kind: type | None = None
    at: Any = data
    steps = list(loc)
    for index, step in enumerate(steps):
        if _has(at, step):
            at = at[step]
        elif isinstance(step, str) and step in NODE_TYPES and len(path) == 2 and path[0] == "nodes":
            kind = NODE_TYPES[step]
            continue
        elif index == len(steps) - 1 and isinstance(step, str) and isinstance(at, dict):
            path.append(step)
            break
        else:
            continue
        path.append(step)
    return tuple(path), kind


def _has(value: Any, step: str | int) -> bool:
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


def _verdict(data: Any, path: Path, kind: type | None, error: Mapping[str, Any]) -> tuple[str, str, str]:
    """Code, problem and mend."""
    name = str(path[-1]) if path else "the tree"
    value = error.get("input")
    what = error["type"]
    context = error.get("ctx", {})
    if what in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return "missing-field", f"{_owner(path)} has no {name}", f"Write {name}: …"
    if what in ("unexpected_keyword_argument", "extra_forbidden"):
        return "unknown-field", f"{name!r} is not known here", _did_you_mean(name, _fields(path, kind))
    if what in ("union_tag_invalid", "union_tag_not_found"):
        return _untagged(path, name, value, context)
    if what == "value_error":
        return "bad-value", f"{name} {context.get('error', error['msg'])}", "Write exactly one of them"
    if what == "literal_error":
        return "bad-value", f"{name} is {_shown(value)}", f"Write {context.get('expected', 'another')}"
    if what == "string_pattern_mismatch":
        return "bad-value", f"{_shown(value)} can't stand here", _pattern_mend(path, str(context["pattern"]))
    mend = _MENDS.get(what, error["msg"])
    code = "wrong-type" if what in _MENDS else "bad-value"
    return code, f"{name} is {_shown(value)}", mend


def _untagged(path: Path, name: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str, str]:
    if len(path) == 2 and path[0] == "nodes":
        if not isinstance(value, dict) or "type" not in value:
            return "missing-field", f"node {name} has no type", f"Write type: one of {', '.join(NODE_TYPES)}"
        wrong = str(value["type"])
        return "unknown-type", f"node {name} has the type {wrong!r}", _did_you_mean(wrong, NODE_TYPES)
    if len(path) >= 2 and path[-2] == "cases":
        return "bad-case", "a case tests nothing", "Write hours: NAME, caller_in: LIST or variable: NAME"
    if isinstance(path[-1], int):
        return "bad-value", "is no piece of a prompt", "Write a text, {recording: NAME} or {pause: SECONDS}"
    return "wrong-type", f"{name} is {_shown(value)}", "Write the words for each language, or a prompt's name"


def _fields(path: Path, kind: type | None) -> list[str]:
    if kind is not None and len(path) == 3:
        return [one.name for one in dataclasses.fields(kind)]
    if len(path) == 1:
        return [one.name for one in dataclasses.fields(Tree)]
    parents: Mapping[str, type] = {
        "keys": shapes.Key,
        "check": shapes.Check,
        "hours": shapes.Hours,
        "variables": shapes.Variable,
        "voice": shapes.Voice,
    }
    for step in reversed(path[:-1]):
        if (parent := parents.get(str(step))) is not None:
            return [one.name for one in dataclasses.fields(parent)]
    return []


def _owner(path: Path) -> str:
    if len(path) == 3 and path[0] == "nodes":
        return f"node {path[1]}"
    return "the tree" if len(path) < 2 else str(path[-2])


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """`Did you mean …?`, or `otherwise` where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else otherwise


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    names = list(known)
    return did_you_mean(word, names, f"Write one of {', '.join(names)}" if names else "Remove it")


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "a mapping"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _pattern_mend(path: Path, pattern: str) -> str:
    if pattern == shapes.NAME:
        return "Write a name in lower case: letters, figures, - and _"
    if pattern == shapes.RECORDING:
        return "Write the recording's name: letters, figures, - and _, no folder and no ending"
    if path and path[-1] in ("number",):
        return "Write a number such as +8613800000000, or one {variable}"
    if "keys" in path or "choices" in path:
        return "Write keys of a telephone: 0 to 9, * and #, four at most"
    if "languages" in path or "language" in path:
        return "Write a language tag such as en or zh-CN"
    return f"It must match {pattern}"
