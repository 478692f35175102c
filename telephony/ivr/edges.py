"""Where each node can lead, and on what occasion: one list that lint, diagram and foresight share.

What it never does: look whether a target exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from telephony.ivr.source import Path
from telephony.ivr.tree import (
    BACK,
    REPEAT,
    Asking,
    CallerCase,
    Collect,
    Condition,
    HoursCase,
    Language,
    Menu,
    Node,
    Survey,
    Tree,
    VariableCase,
)


class Occasion(StrEnum):
    """What makes a call go along an edge."""

    KEY = "key"
    """A key was pressed."""
    ENTERED = "entered"
    """Digits were entered, or a person spoke: recorded, or talked to."""
    SILENCE = "silence"
    """Nobody pressed anything."""
    WRONG = "wrong"
    """Wrong keys only."""
    STRAIGHT = "straight"
    """At once."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A way out of a node. `path` is where it is said, inside the node; `label` is for people."""

    path: Path
    target: str
    occasion: Occasion
    label: str = ""
    standard: bool = False


_STRAIGHT = ("next", "to", "on_error", "on_unknown", "on_unavailable", "on_full", "otherwise")
_SLOW = {
    "queue": ("next", "on_timeout"),
    "transfer": ("next", "on_busy", "on_no_answer"),
    "record": ("next",),
}


def edges_of(node: Node, tree: Tree) -> Iterator[Edge]:
    """Every way out of a node, the standard keys of a menu included."""
    if isinstance(node, Menu):
        for key, entry in node.keys.items():
            yield Edge(("keys", key, "to"), entry.to, Occasion.KEY, f"{key} {entry.label}")
        yield from (
            Edge(("keys",), target, Occasion.KEY, f"{key} {target}", standard=True)
            for key, target in standard_keys(node, tree).items()
        )
    if isinstance(node, Condition):
        for index, case in enumerate(node.cases):
            yield Edge(("cases", index, "to"), case.to, Occasion.STRAIGHT, case_label(case))
    if isinstance(node, Asking):
        yield from _asking(node)
    slow = _SLOW.get(node.type, ())
    for name in _STRAIGHT:
        target = getattr(node, name, None)
        if target is None or name in slow:
            continue
        asks = isinstance(node, Collect | Survey) or (isinstance(node, Language) and bool(node.choices))
        occasion = Occasion.ENTERED if asks and name == "next" else Occasion.STRAIGHT
        yield Edge((name,), target, occasion, _label(name))
    for name in slow:
        if (target := getattr(node, name, None)) is not None:
            yield Edge((name,), target, Occasion.ENTERED, _label(name))


def _asking(node: Asking) -> Iterator[Edge]:
    if node.on_timeout is not None:
        yield Edge(("on_timeout",), node.on_timeout, Occasion.SILENCE, "silence")
    if node.on_invalid is not None:
        yield Edge(("on_invalid",), node.on_invalid, Occasion.WRONG, "wrong")
    if node.on_timeout is None or node.on_invalid is None:
        occasion = Occasion.WRONG if node.on_timeout is not None else Occasion.SILENCE
        yield Edge(("on_fail",), node.on_fail, occasion, "fails")


def standard_keys(menu: Menu, tree: Tree) -> dict[str, str]:
    """The keys that every menu has unless it says otherwise: key → target."""
    if not menu.standard_keys:
        return {}
    keys = {"*": BACK, "9": REPEAT}
    if tree.agent is not None:
        keys["0"] = tree.agent
    return {key: target for key, target in sorted(keys.items()) if key not in menu.keys}


def case_label(case: HoursCase | CallerCase | VariableCase) -> str:
    """A case in words."""
    if isinstance(case, HoursCase):
        return f"{case.hours} {'open' if case.is_open else 'closed'}"
    if isinstance(case, CallerCase):
        return f"caller in {case.caller_in}"
    if case.equals is not None:
        return f"{case.variable} = {case.equals}"
    if case.one_of is not None:
        return f"{case.variable} in {', '.join(case.one_of)}"
    if case.less_than is not None:
        return f"{case.variable} < {case.less_than:g}"
    if case.more_than is not None:
        return f"{case.variable} > {case.more_than:g}"
    return f"{case.variable} {'set' if case.is_set else 'not set'}"


def _label(name: str) -> str:
    words = {"next": "", "to": "", "otherwise": "else"}
    return words.get(name, name.removeprefix("on_").replace("_", " "))
