"""How the nodes hang together: dangling and unreachable ones, loops, depth, and the way to a person.

What it never does: look at words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from telephony.ivr.edges import Edge, Occasion, edges_of
from telephony.ivr.lint.rules import KEYS_WARNED, MENUS_REFUSED, MENUS_WARNED, Findings, Rules
from telephony.ivr.reading import did_you_mean
from telephony.ivr.source import Path
from telephony.ivr.tree import (
    BACK,
    DIALPLAN,
    REPEAT,
    RESERVED,
    RETURN,
    Callback,
    Language,
    Menu,
    Node,
    Queue,
    Subtree,
    Transfer,
    Tree,
)

_LOOPING: Final = (Occasion.STRAIGHT, Occasion.SILENCE)
_MAX_SUBTREES: Final = 16


def check_ways(tree: Tree, rules: Rules, found: Findings) -> None:
    """Look at every edge of the tree."""
    edges = {name: tuple(edges_of(node, tree)) for name, node in tree.nodes.items()}
    _dangling(tree, edges, found)
    reached = _reached(tree, edges)
    for name in tree.nodes:
        if name in RESERVED or name == DIALPLAN:
            found.error(
                "reserved-name", ("nodes", name), f"{name} is the name of no node", "Name it otherwise"
            )
        elif name not in reached:
            problem = f"nothing leads to {name}"
            found.warn("unreachable", ("nodes", name), problem, "Lead to it, or remove it")
    _loops(edges, found)
    _depth(tree, edges, rules, found)
    for name, node in tree.nodes.items():
        if isinstance(node, Menu):
            _menu(name, node, found)
            if "no-person" not in node.allow and not _leads_to_person(name, tree, edges):
                mend = "Name the tree's agent (key 0), or lead a key to a queue, a transfer or a callback"
                problem = f"no key of {name} leads to a person"
                found.error("no-person", ("nodes", name), problem, mend)
        elif isinstance(node, Subtree):
            _subtree(name, node, tree, rules, found)


def _dangling(tree: Tree, edges: Mapping[str, tuple[Edge, ...]], found: Findings) -> None:
    for what, target in (("start", tree.start), ("agent", tree.agent)):
        if target is not None and target not in tree.nodes:
            _dangles((what,), what, target, tree, found)
    for name, ways in edges.items():
        for edge in ways:
            if not edge.standard and edge.target not in tree.nodes and edge.target not in RESERVED:
                _dangles(("nodes", name, *edge.path), name, edge.target, tree, found)


def _dangles(path: Path, origin: str, target: str, tree: Tree, found: Findings) -> None:
    mend = did_you_mean(target, [*tree.nodes, *sorted(RESERVED)], "Make such a node, or name another")
    found.error("dangling", path, f"{origin} leads to {target}, which is not there", mend)


def _reached(tree: Tree, edges: Mapping[str, tuple[Edge, ...]]) -> set[str]:
    reached = {tree.start} & set(tree.nodes)
    waiting = list(reached)
    while waiting:
        for edge in edges[waiting.pop()]:
            if edge.target in tree.nodes and edge.target not in reached:
                reached.add(edge.target)
                waiting.append(edge.target)
    return reached


def _loops(edges: Mapping[str, tuple[Edge, ...]], found: Findings) -> None:
    """Ways that come back to where they were though nobody pressed a key."""
    ways = {
        name: [name if edge.target == REPEAT else edge.target for edge in known if edge.occasion in _LOOPING]
        for name, known in edges.items()
    }
    for ring in _rings(ways):
        names = sorted(ring, key=list(ways).index)
        circle = " → ".join([*names[:6], *(["…"] if len(names) > 6 else []), names[0]])
        mend = "Let it wait for a key, or lead it out (hangup, or a person)"
        problem = f"goes round without anybody pressing a key: {circle}"
        found.error("loop-without-input", ("nodes", names[0]), problem, mend)


def _rings(ways: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Groups of nodes that all lead to one another (Tarjan, without recursion)."""
    numbers: dict[str, int] = {}
    lows: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    rings: list[set[str]] = []
    for root in ways:
        if root in numbers:
            continue
        work = [(root, iter(ways[root]))]
        numbers[root] = lows[root] = len(numbers)
        stack.append(root)
        on_stack.add(root)
        while work:
            name, rest = work[-1]
            for target in rest:
                if target not in ways:
                    continue
                if target not in numbers:
                    numbers[target] = lows[target] = len(numbers)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(ways[target])))
                    break
                if target in on_stack:
                    lows[name] = min(lows[name], numbers[target])
            else:
                work.pop()
                if work:
                    lows[work[-1][0]] = min(lows[work[-1][0]], lows[name])
                if lows[name] == numbers[name]:
                    ring = set()
                    while True:
                        one = stack.pop()
                        on_stack.discard(one)
                        ring.add(one)
                        if one == name:
                            break
                    if len(ring) > 1 or name in ways[name]:
                        rings.append(ring)
    return rings


def _is_menu(node: Node) -> bool:
    return isinstance(node, Menu) or (isinstance(node, Language) and bool(node.choices))


def menus_before(tree: Tree, edges: Mapping[str, tuple[Edge, ...]]) -> dict[str, int]:
    """How many menus a caller has passed at each node at least, itself included where it is one."""
    depth: dict[str, int] = {}
    if tree.start not in tree.nodes:
        return depth
    waiting = deque([(tree.start, int(_is_menu(tree.nodes[tree.start])))])
    while waiting:
        name, menus = waiting.popleft()
        if depth.get(name, menus + 1) <= menus:
            continue
        depth[name] = menus
        for edge in edges[name]:
            if edge.target in tree.nodes:
                more = int(_is_menu(tree.nodes[edge.target]))
                (waiting.append if more else waiting.appendleft)((edge.target, menus + more))
    return depth


def _depth(tree: Tree, edges: Mapping[str, tuple[Edge, ...]], rules: Rules, found: Findings) -> None:
    for name, menus in menus_before(tree, edges).items():
        node = tree.nodes[name]
        if "menu-too-deep" in node.allow:
            continue
        if isinstance(node, Subtree):
            inside = _deepest(node.tree, rules, 0)
            menus = menus + inside if inside else 0  # noqa: PLW2901 - the subtree's menus come on top
        elif not _is_menu(node):
            continue
        problem = f"{name} is reached after {menus} menus"
        mend = "Bring it nearer to the start, or say why under allow: {menu-too-deep: …}"
        if menus > MENUS_REFUSED:
            found.error("menu-too-deep", ("nodes", name), problem, mend)
        elif menus > MENUS_WARNED:
            found.warn("menu-too-deep", ("nodes", name), problem, mend)


def _deepest(name: str, rules: Rules, level: int) -> int:
    """The most menus that a tree has on a way, subtrees included."""
    inner = (rules.trees or {}).get(name)
    if inner is None or level > _MAX_SUBTREES:
        return 0
    edges = {one: tuple(edges_of(node, inner)) for one, node in inner.nodes.items()}
    depths = menus_before(inner, edges)
    deeper = [
        menus + _deepest(node.tree, rules, level + 1)
        for one, menus in depths.items()
        if isinstance(node := inner.nodes[one], Subtree)
    ]
    return max([*depths.values(), *deeper], default=0)


def _leads_to_person(menu: str, tree: Tree, edges: Mapping[str, tuple[Edge, ...]]) -> bool:
    """Whether one key gets from a menu to a person with no other menu in between."""
    waiting = [edge.target for edge in edges[menu] if edge.occasion is Occasion.KEY]
    seen = {menu}
    while waiting:
        name = waiting.pop()
        node = tree.nodes.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if isinstance(node, Queue | Transfer | Callback):
            return True
        if not isinstance(node, Menu):
            waiting += [edge.target for edge in edges[name]]
    return False


def _menu(name: str, node: Menu, found: Findings) -> None:
    path: Path = ("nodes", name, "keys")
    offered = [key for key, entry in node.keys.items() if entry.to not in (BACK, REPEAT) and key != "0"]
    if len(offered) > KEYS_WARNED and "menu-too-wide" not in node.allow:
        problem = f"{name} offers {len(offered)} keys"
        mend = f"Offer {KEYS_WARNED} at most, or say why under allow: {{menu-too-wide: …}}"
        found.warn("menu-too-wide", path, problem, mend)
    labels: dict[str, str] = {}
    for key, entry in node.keys.items():
        first = labels.setdefault(entry.label.casefold(), key)
        if first != key:
            problem = f"keys {first} and {key} are both called {entry.label!r}"
            found.warn("duplicate-label", (*path, key), problem, "Call one of them otherwise, or remove it")
        longer = [other for other in node.keys if other != key and other.startswith(key)]
        if longer:
            problem = f"after {key} it waits whether {longer[0]} is meant"
            found.warn("key-prefix", (*path, key), problem, "Give all keys one length")


def _subtree(name: str, node: Subtree, tree: Tree, rules: Rules, found: Findings) -> None:
    if rules.trees is None:
        return
    path: Path = ("nodes", name, "tree")
    inner = rules.trees.get(node.tree)
    if inner is None:
        mend = did_you_mean(node.tree, rules.trees, "Put that tree into the same folder")
        found.error("unknown-tree", path, f"there is no tree {node.tree!r}", mend)
        return
    lacking = [tag for tag in tree.languages if tag not in inner.languages]
    if lacking:
        problem = f"{node.tree} does not speak {', '.join(lacking)}"
        found.error("subtree-language", path, problem, f"Add it to {node.tree}")
    if _comes_back_to(tree.name, node.tree, rules):
        found.error(
            "subtree-loop", path, f"{node.tree} runs {tree.name} in its turn", "Break the circle of subtrees"
        )
    ways = (edge.target for one in inner.nodes.values() for edge in edges_of(one, inner))
    if RETURN not in ways:
        found.warn(
            "no-return", path, f"{node.tree} never comes back", "Lead it to return, or use hangup there"
        )


def _comes_back_to(origin: str, name: str, rules: Rules) -> bool:
    waiting, seen = [name], set[str]()
    while waiting:
        one = waiting.pop()
        if one == origin:
            return True
        inner = (rules.trees or {}).get(one)
        if inner is None or one in seen:
            continue
        seen.add(one)
        waiting += [node.tree for node in inner.nodes.values() if isinstance(node, Subtree)]
    return False
