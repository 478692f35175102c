"""A tree as an SVG picture, by a layered layout of our own.

Sugiyama's in its plainest form: ways back are set aside, nodes get layers by their longest way from the
start, long ways get a bend in each layer between, layers are ordered by the middle of their neighbours.
What it never does: run a program, or let a text of the tree become markup.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from telephony.ivr.graph import ENDS, Counts, Way, label_of, lines_of, ways_of
from telephony.ivr.tree import Tree

_COLOURS: Final[Mapping[str, str]] = {
    "menu": "#dbeafe",
    "language": "#dbeafe",
    "collect": "#e0e7ff",
    "survey": "#e0e7ff",
    "record": "#e0e7ff",
    "condition": "#fef9c3",
    "set": "#fef9c3",
    "goto": "#f5f5f4",
    "subtree": "#f5f5f4",
    "webhook": "#fae8ff",
    "lookup": "#fae8ff",
    "bot": "#fee2e2",
    "queue": "#dcfce7",
    "transfer": "#dcfce7",
    "callback": "#dcfce7",
    "hangup": "#e7e5e4",
    "end": "#e7e5e4",
}
_LINE: Final = 16
_PADDING: Final = 10
_GAP: Final = 28
_LAYER_GAP: Final = 64
_MARGIN: Final = 24
_SWEEPS: Final = 6
_LONGEST_SPAN: Final = 12
_BACK_LANE: Final = 14


@dataclass(slots=True)
class _Box:
    """A node, or a bend of a long way (without lines)."""

    lines: list[str]
    kind: str
    width: float
    height: float
    layer: int = 0
    x: float = 0.0
    y: float = 0.0


def _width(text: str) -> float:
    return sum(12.5 if ord(letter) > 0x2E80 else 6.8 for letter in text)


def _layers(
    names: Sequence[str], ways: Sequence[Way], start: str
) -> tuple[dict[str, int], set[tuple[str, str]]]:
    """The layer of each node, and the ways that lead back. Depth first, without recursion."""
    out: dict[str, list[str]] = {name: [] for name in names}
    for way in ways:
        out[way.origin].append(way.target)
    back: set[tuple[str, str]] = set()
    state: dict[str, int] = {}
    finished: list[str] = []
    for root in [start, *(name for name in names if name != start)]:
        if root in state:
            continue
        state[root] = 1
        work = [(root, iter(out[root]))]
        while work:
            name, rest = work[-1]
            for target in rest:
                if state.get(target) == 1:
                    back.add((name, target))
                elif target not in state:
                    state[target] = 1
                    work.append((target, iter(out[target])))
                    break
            else:
                state[name] = 2
                finished.append(name)
                work.pop()
    layer = dict.fromkeys(names, 0)
    for name in reversed(finished):
        for target in out[name]:
            if (name, target) not in back:
                layer[target] = max(layer[target], layer[name] + 1)
    return layer, back


def _place(boxes: dict[str, _Box], links: Sequence[tuple[str, str]]) -> None:
    """Order each layer by the middle of its neighbours, then set coordinates."""
    rows: dict[int, list[str]] = defaultdict(list)
    for name, box in boxes.items():
        rows[box.layer].append(name)
    above: dict[str, list[str]] = defaultdict(list)
    below: dict[str, list[str]] = defaultdict(list)
    for origin, target in links:
        below[origin].append(target)
        above[target].append(origin)
    order = [rows[layer] for layer in sorted(rows)]
    for sweep in range(_SWEEPS):
        near = above if sweep % 2 == 0 else below
        place = {name: index for row in order for index, name in enumerate(row)}
        for row in order if sweep % 2 == 0 else reversed(order):
            row.sort(key=lambda name: _middle([place[one] for one in near[name]], place[name]))
            place |= {name: index for index, name in enumerate(row)}
    top = float(_MARGIN)
    for row in order:
        left = 0.0
        height = max(boxes[name].height for name in row)
        for name in row:
            box = boxes[name]
            box.x, box.y = left + box.width / 2, top + height / 2
            left += box.width + _GAP
        top += height + _LAYER_GAP
    for sweep in range(_SWEEPS):
        near = above if sweep % 2 == 0 else below
        for row in order if sweep % 2 == 0 else reversed(order):
            _settle(row, boxes, near)
    least = min(box.x - box.width / 2 for box in boxes.values())
    for box in boxes.values():
        box.x += _MARGIN - least


def _middle(places: Sequence[float], own: float) -> float:
    return sum(places) / len(places) if places else own


def _settle(row: Sequence[str], boxes: Mapping[str, _Box], near: Mapping[str, Sequence[str]]) -> None:
    """Move a row's boxes towards their neighbours as far as they leave one another room."""
    wanted = [_middle([boxes[one].x for one in near[name]], boxes[name].x) for name in row]
    left = float("-inf")
    placed: list[float] = []
    for name, x in zip(row, wanted, strict=True):
        half = boxes[name].width / 2
        placed.append(max(x, left + half))
        left = placed[-1] + half + _GAP
    # What was pushed to the right comes back by half of what the row as a whole was pushed.
    drift = sum(got - x for got, x in zip(placed, wanted, strict=True)) / len(row)
    for name, x in zip(row, placed, strict=True):
        boxes[name].x = x - drift


# ---- SVG


def svg(tree: Tree, counts: Counts | None = None) -> str:
    """The tree as an SVG picture."""
    ways = ways_of(tree)
    ends = [end for end in ENDS if any(way.target == end for way in ways)]
    names = [*tree.nodes, *ends]
    layer, back = _layers(names, ways, tree.start)
    boxes: dict[str, _Box] = {}
    for name in names:
        node = tree.nodes.get(name)
        lines = lines_of(name, node, tree, counts)
        kind = node.type if node is not None else "end"
        width = max(map(_width, lines)) + 2 * _PADDING
        boxes[name] = _Box(lines, kind, width, len(lines) * _LINE + _PADDING, layer[name])
    links: list[tuple[str, str]] = []
    routes: list[tuple[Way, list[str]]] = []
    for index, way in enumerate(ways):
        if (way.origin, way.target) in back:
            continue
        route = [way.origin]
        if layer[way.target] - layer[way.origin] > _LONGEST_SPAN:
            # Bends in every layer would be many; it passes behind the boxes.
            routes.append((way, [way.origin, way.target]))
            continue
        for level in range(layer[way.origin] + 1, layer[way.target]):
            bend = f"\0{index}.{level}"
            boxes[bend] = _Box([], "bend", 8, 8, level)
            route.append(bend)
        route.append(way.target)
        links += pairwise(route)
        routes.append((way, route))
    _place(boxes, links)
    right = max(box.x + box.width / 2 for box in boxes.values())
    bottom = max(box.y + box.height / 2 for box in boxes.values())
    heaviest = max(counts.ways.values(), default=1) if counts is not None else 1
    arrows = [_arrow(way, [boxes[one] for one in route], counts, heaviest) for way, route in routes]
    lanes = [way for way in ways if (way.origin, way.target) in back]
    for index, way in enumerate(lanes):
        lane = right + _GAP + index * _BACK_LANE
        arrows.append(_arrow_back(way, boxes[way.origin], boxes[way.target], lane, counts, heaviest))
    width = right + _MARGIN + (_GAP + len(lanes) * _BACK_LANE if lanes else 0)
    drawn = [_box(box, first=name == tree.start) for name, box in boxes.items() if box.lines]
    size = f"{width:.0f} {bottom + _MARGIN:.0f}"
    across, down = size.split()
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across}" height="{down}" viewBox="0 0 {size}"',
        ' font-family="sans-serif" font-size="12">',
        f"<title>{escape(tree.name)}</title>",
        '<defs><marker id="tip" markerUnits="userSpaceOnUse" markerWidth="10" markerHeight="8"',
        ' refX="7" refY="4" orient="auto">',
        '<path d="M0 0L8 4L0 8z" fill="#57534e"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        *arrows,
        *drawn,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _box(box: _Box, *, first: bool) -> str:
    x, y = box.x - box.width / 2, box.y - box.height / 2
    fill = _COLOURS.get(box.kind, "#f0fdfa")
    stroke = 2.5 if first else 1
    shape = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="6" '
        f'fill="{fill}" stroke="#57534e" stroke-width="{stroke}"/>'
    )
    texts = []
    for index, line in enumerate(box.lines):
        weight = ' font-weight="bold"' if index == 0 else ' fill="#44403c"'
        at = y + _PADDING / 2 + (index + 0.75) * _LINE
        texts.append(f'<text x="{box.x:.1f}" y="{at:.1f}" text-anchor="middle"{weight}>{escape(line)}</text>')
    return f"<g>{shape}{''.join(texts)}</g>"


def _arrow(way: Way, route: Sequence[_Box], counts: Counts | None, heaviest: int) -> str:
    points = [(route[0].x, route[0].y + route[0].height / 2)]
    points += [(bend.x, bend.y) for bend in route[1:-1]]
    points.append((route[-1].x, route[-1].y - route[-1].height / 2))
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x1, y1), (x2, y2) in pairwise(points):
        middle = (y1 + y2) / 2
        path += f"C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}"
    (x1, y1), (x2, y2) = points[0], points[1]
    return _drawn(way, path, ((x1 + x2) / 2, (y1 + y2) / 2 + 4), counts, heaviest)


def _arrow_back(
    way: Way, origin: _Box, target: _Box, lane: float, counts: Counts | None, heaviest: int
) -> str:
    """A way back, round the right side."""
    x1, y1 = origin.x + origin.width / 2, origin.y
    x2, y2 = target.x + target.width / 2, target.y
    path = f"M{x1:.1f} {y1:.1f}C{lane:.1f} {y1:.1f} {lane:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return _drawn(way, path, (lane - 12, (y1 + y2) / 2), counts, heaviest)


def _drawn(way: Way, path: str, at: tuple[float, float], counts: Counts | None, heaviest: int) -> str:
    number = counts.ways.get((way.origin, way.target), 0) if counts is not None else 0
    width = 1.2 + 4.8 * number / max(1, heaviest)
    dashes = ' stroke-dasharray="4 3"' if way.quiet else ""
    words = label_of(way, counts)
    title = f"<title>{escape(f'{way.origin} → {way.target}')}</title>"
    line = (
        f'<path d={quoteattr(path)} fill="none" stroke="#57534e" stroke-width="{width:.1f}"{dashes} '
        'marker-end="url(#tip)"/>'
    )
    label = (
        f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="middle" font-size="10" fill="#1d4ed8" '
        f'paint-order="stroke" stroke="#fff" stroke-width="3">{escape(words)}</text>'
        if words
        else ""
    )
    return f"<g>{title}{line}{label}</g>"
