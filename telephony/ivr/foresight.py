"""What can be known of a node before any call comes: where its keys lead, and what is said behind it.

Looked up by the tree itself, not by its contents: a tree never changes, and is large. What it never does:
know a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from telephony.ivr.edges import edges_of, standard_keys
from telephony.ivr.saying import holes_of, render, sayings_of
from telephony.ivr.tree import Asking, Language, Lookup, Menu, Node, Prompt, Saying, Set, Tree
from telephony.model import prompt as said

MOST: Final = 20_000
"""Nodes, by language, of which is remembered what is known."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """One node's. `tree` is held so that no other one can come to its place in memory.

    `ways` is where a menu's keys lead. `values` are the words of the next nodes that hold values which
    this node does not change.
    """

    tree: Tree
    ways: Mapping[str, str]
    values: tuple[Saying, ...]


_known: dict[tuple[int, str, str, bool], Outlook] = {}


def outlook(tree: Tree, name: str, language: str, *, crowded: bool = False) -> Outlook:
    """What is known of the node of this name; `crowded` as for the interpreter."""
    key = (id(tree), name, language, crowded)
    found = _known.get(key)
    if found is None:
        if len(_known) >= MOST:
            _known.clear()
        node = tree.nodes[name]
        ways = (
            standard_keys(node, tree) | {key: entry.to for key, entry in node.keys.items()}
            if isinstance(node, Menu)
            else {}
        )
        found = _known[key] = Outlook(tree, ways, _values_behind(node, tree, language, crowded=crowded))
    return found


def first_words(node: Asking, *, crowded: bool) -> Prompt:
    """What a question begins with."""
    return node.short if crowded and node.short is not None else node.prompt


def words_of(prompt: Prompt, tree: Tree, language: str) -> Saying | None:
    """A prompt in one language, None where it is silent there."""
    return sayings_of(prompt, tree).get(language)


@lru_cache(maxsize=MOST)
def fixed_words(saying: Saying, language: str) -> said.Prompt | None:
    """Words that are the same in every call; None for those with a value."""
    return None if any(holes_of(saying)) else render(saying, {}, language)


def _values_behind(node: Node, tree: Tree, language: str, *, crowded: bool) -> tuple[Saying, ...]:
    changed = _written(node)
    found: list[Saying] = []
    for edge in edges_of(node, tree):
        following = tree.nodes.get(edge.target)
        prompt: Prompt | None = getattr(following, "prompt", None)
        if isinstance(following, Asking):
            prompt = first_words(following, crowded=crowded)
        if prompt is None or isinstance(following, Language):
            continue
        saying = words_of(prompt, tree, language)
        names = {hole.name for hole in holes_of(saying)} if saying is not None else set()
        if saying is not None and names and not names & changed:
            found.append(saying)
    return tuple(found)


def _written(node: Node) -> set[str]:
    """The variables that a node changes."""
    names: set[str] = set()
    for attribute in ("receive", "values"):
        names |= set(getattr(node, attribute, ()))
    variable = getattr(node, "variable", None)
    if variable is not None:
        names.add(variable)
    if isinstance(node, Lookup | Language | Set):
        names |= {"language", "priority"}
    return names
