"""Diagrams: every node and way is in them, no text becomes markup, boxes keep out of one another's way."""

from __future__ import annotations

import itertools
import re
import time
from xml.etree import ElementTree

import pytest

from telephony.errors import InputError
from telephony.ivr.book import read_folder
from telephony.ivr.graph import Counts, count, mermaid, read_counts, ways_of
from telephony.ivr.lint import Rules
from telephony.ivr.picture import svg
from telephony.ivr.simulate import Caller, simulate
from telephony.resources import data_dir
from tests.unit.ivr.trees import HEAD, MENU, tree_of

TREES = read_folder(data_dir("dialplans") / "ivr", Rules()).trees
SVG = "{http://www.w3.org/2000/svg}"


def boxes(picture: str) -> list[tuple[float, float, float, float]]:
    root = ElementTree.fromstring(picture)
    return [
        tuple(float(rect.attrib[name]) for name in ("x", "y", "width", "height"))  # type: ignore[misc]
        for rect in root.iter(f"{SVG}rect")
        if "rx" in rect.attrib
    ]


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_node_has_a_box_of_its_own(name: str) -> None:
    tree = TREES[name]
    picture = svg(tree)
    texts = [text.text for text in ElementTree.fromstring(picture).iter(f"{SVG}text")]
    assert set(tree.nodes) <= set(texts)
    for (x1, y1, w1, h1), (x2, y2, w2, h2) in itertools.combinations(boxes(picture), 2):
        assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1
    width = float(ElementTree.fromstring(picture).attrib["width"])
    assert all(x >= 0 and x + w <= width for x, _, w, _ in boxes(picture))


@pytest.mark.parametrize("name", sorted(TREES))
def test_mermaid_has_every_node_and_way(name: str) -> None:
    tree = TREES[name]
    lines = mermaid(tree).splitlines()
    assert lines[0] == "flowchart TD"
    assert len([line for line in lines if re.match(r"  n\d+ (-->|-\.->)", line)]) == len(ways_of(tree))
    for node in tree.nodes:
        assert any(f'"{node}<br/>' in line for line in lines)


def test_no_text_of_a_tree_is_markup() -> None:
    evil = '\\"]; click n0 \\"javascript:alert(1)\\" <script>alert(1)</script> &amp; #x'
    tree = tree_of(
        f'  main: {{type: menu, label: "{evil[:100]}", prompt: {{en: "{evil}"}}, '
        f'keys: {{"1": {{label: "{evil[:40]}", to: hangup}}}}}}\n'
    )
    picture = svg(tree)
    ElementTree.fromstring(picture)
    assert "<script" not in picture
    text = mermaid(tree)
    assert "<script" not in text
    assert text.count('"') == 2 * (2 + len(ways_of(tree)))


async def test_counts_are_laid_over() -> None:
    tree = tree_of(MENU)
    call = await simulate(tree, Caller(keys=["1", "2"]))
    counts = count([*call.visits, *call.visits], tree)
    assert counts.nodes["main"] == 2
    assert counts.ways["main", "orders"] == 2
    assert "2 calls" in svg(tree, counts)
    assert "1 Orders (2)" in svg(tree, counts)
    assert "#40;2#41;" in mermaid(tree, counts)
    assert "0 calls" in mermaid(tree, counts)


def test_counts_from_json() -> None:
    read = read_counts({"nodes": {"main": 3}, "ways": {"main -> orders": 2}})
    assert read == Counts({"main": 3}, {("main", "orders"): 2})
    for wrong in ([], {"nodes": []}, {"nodes": {"a": "1"}}, {"nodes": {"a": -1}}, {"ways": {"a": 1}}):
        with pytest.raises(InputError):
            read_counts(wrong)


def test_loops_and_a_thousand_nodes_are_drawn_quickly() -> None:
    nodes = "".join(
        f"  n{number}:\n    type: menu\n    prompt: {{en: Press.}}\n    keys:\n"
        f'      "1": {{label: On, to: n{(number + 1) % 1000}}}\n'
        f'      "2": {{label: Back, to: n{max(0, number - 7)}}}\n'
        f'      "3": {{label: Far, to: n{min(999, number + 5)}}}\n'
        for number in range(1000)
    )
    tree = tree_of(nodes, HEAD.replace("start: main", "start: n0"))
    started = time.perf_counter()
    assert len(boxes(svg(tree))) == 1001
    assert time.perf_counter() - started < 5.0
