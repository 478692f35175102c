"""A tree as a diagram: its boxes and arrows, as Mermaid text, with counts of calls laid over.

What it never does: run a program, or let a text of the tree become syntax.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from telephony.errors import InputError
from telephony.ivr.edges import Occasion, edges_of
from telephony.ivr.journal import Visit, step_of
from telephony.ivr.saying import pieces_of, sayings_of
from telephony.ivr.tree import BACK, HANGUP, REPEAT, RETURN, Node, Tree

ENDS: Final = (HANGUP, RETURN)
_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "menu": ("{{", "}}"),
    "condition": ("{", "}"),
    "collect": ("[/", "/]"),
    "hangup": ("([", "])"),
    "queue": ("[[", "]]"),
    "transfer": ("[[", "]]"),
}
_COUNTS_MEND: Final = 'Write {"nodes": {"main": 12}, "ways": {"main -> order": 7}}'
_LONGEST_LABEL: Final = 44


@dataclass(frozen=True, slots=True)
class Counts:
    """How often nodes were entered and ways were taken."""

    nodes: Mapping[str, int] = field(default_factory=dict)
    ways: Mapping[tuple[str, str], int] = field(default_factory=dict)


def count(visits: Iterable[Visit], tree: Tree) -> Counts:
    """Count the visits of calls to one tree. `back` counts as the way of its name, not where it led."""
    return count_steps([[step_of(visit) for visit in visits]], tree)


def count_steps(paths: Iterable[Sequence[Mapping[str, object]]], tree: Tree) -> Counts:
    """Count the paths of calls as the store keeps them (`journal.step_of`)."""
    nodes: Counter[str] = Counter()
    ways: Counter[tuple[str, str]] = Counter()
    for path in paths:
        for step in path:
            if step["tree"] == tree.name:
                nodes[str(step["node"])] += 1
                if step["to"]:
                    ways[str(step["node"]), str(step["to"])] += 1
    return Counts(nodes, ways)


@dataclass(frozen=True, slots=True)
class Way:
    """All edges between two nodes, as one arrow."""

    origin: str
    target: str
    label: str
    quiet: bool


def ways_of(tree: Tree) -> tuple[Way, ...]:
    """The arrows of a tree: keys that every menu has, and ways back, are left out."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    quiet: dict[tuple[str, str], bool] = {}
    for name, node in tree.nodes.items():
        for edge in edges_of(node, tree):
            if edge.standard or edge.target in (BACK, REPEAT):
                continue
            if edge.target not in tree.nodes and edge.target not in ENDS:
                continue
            pair = (name, edge.target)
            if edge.label not in labels[pair]:
                labels[pair].append(edge.label)
            silent = edge.occasion in (Occasion.SILENCE, Occasion.WRONG) or edge.label in (
                "error",
                "unavailable",
                "full",
                "timeout",
                "busy",
                "no answer",
            )
            quiet[pair] = quiet.get(pair, True) and silent
    return tuple(
        Way(origin, target, _short(", ".join(filter(None, names))), quiet[origin, target])
        for (origin, target), names in labels.items()
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


def lines_of(name: str, node: Node | None, tree: Tree, counts: Counts | None) -> list[str]:
    """What stands in a box: the name, what it is, what it says first."""
    if node is None:
        return [name]
    kind = f"{node.type} · {node.label}" if node.label else node.type
    lines = [name, _short(kind)]
    prompt = getattr(node, "prompt", None)
    if prompt is not None:
        saying = sayings_of(prompt, tree).get(tree.languages[0])
        texts = [piece for piece in pieces_of(saying) if isinstance(piece, str)] if saying is not None else []
        if texts:
            lines.append(_short(texts[0]))
    if counts is not None:
        lines.append(f"{counts.nodes.get(name, 0)} calls")
    return lines


# ---- Mermaid


def mermaid(tree: Tree, counts: Counts | None = None) -> str:
    """The tree as a Mermaid flowchart."""
    lines = ["flowchart TD"]
    ids = {name: f"n{index}" for index, name in enumerate([*tree.nodes, *ENDS])}
    ways = ways_of(tree)
    for name, node in tree.nodes.items():
        opening, closing = _SHAPES.get(node.type, ("[", "]"))
        words = "<br/>".join(_quoted(line) for line in lines_of(name, node, tree, counts))
        lines.append(f'  {ids[name]}{opening}"{words}"{closing}')
    lines += [f'  {ids[end]}(["{end}"])' for end in ENDS if any(way.target == end for way in ways)]
    for way in ways:
        arrow = "-.->" if way.quiet else "-->"
        words = _quoted(label_of(way, counts))
        label = f'|"{words}"|' if words else ""
        lines.append(f"  {ids[way.origin]} {arrow}{label} {ids[way.target]}")
    lines.append(f"  style {ids[tree.start]} stroke-width:3px")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A text that Mermaid shows as it is: by entities, so that nothing in it is syntax."""
    return "".join(
        letter if letter.isalnum() or letter in " .,·…-_/!?" or ord(letter) > 0x2000 else f"#{ord(letter)};"
        for letter in text
    )


def label_of(way: Way, counts: Counts | None) -> str:
    """What stands at an arrow."""
    if counts is None:
        return way.label
    number = counts.ways.get((way.origin, way.target), 0)
    return f"{way.label} ({number})" if way.label else f"({number})"


def read_counts(value: object) -> Counts:
    """Counts from JSON: `{"nodes": {"main": 12}, "ways": {"main -> order": 7}}`. Raises `InputError`."""
    if not isinstance(value, Mapping):
        raise InputError("counts", "are no JSON object", _COUNTS_MEND)
    ways: dict[tuple[str, str], int] = {}
    for name, number in _numbers(value.get("ways", {})):
        origin, arrow, target = name.partition("->")
        if not arrow:
            raise InputError("counts", f"{name[:60]!r} is no way", "Write it like main -> order")
        ways[origin.strip(), target.strip()] = number
    return Counts(dict(_numbers(value.get("nodes", {}))), ways)


def _numbers(value: object) -> Iterator[tuple[str, int]]:
    if not isinstance(value, Mapping):
        raise InputError("counts", "nodes and ways are no objects", _COUNTS_MEND)
    for name, number in value.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise InputError("counts", f"{str(name)[:60]!r} has no count", _COUNTS_MEND)
        yield str(name), number
