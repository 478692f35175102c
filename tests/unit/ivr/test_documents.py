"""What docs/ivr.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

from telephony.ivr.golden import GoldenFile, play, read_golden
from telephony.ivr.lint import Rules, check
from telephony.ivr.reading import NODE_TYPES
from telephony.ivr.transcript import phrases_of
from telephony.resources import data_dir
from telephony.speech.packs import Packs

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "ivr.md").read_text("utf-8")
TREE, GOLDEN = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_has_no_fault() -> None:
    report = check(TREE, "shop.yaml", Rules(trees={}))
    assert report.faults == (), "\n".join(map(str, report.faults))


async def test_its_golden_conversation_goes_as_told() -> None:
    tree = check(TREE, "shop.yaml").tree
    file = read_golden(GOLDEN, "shop.test.yaml")
    assert tree is not None
    assert isinstance(file, GoldenFile)
    for one in file.golden.conversations:
        verdict = await play(one, tree, {}, phrases_of(Packs.load(data_dir("audio"))))
        assert not verdict.difference, verdict.difference


def test_every_node_is_told() -> None:
    nodes = PAGE[PAGE.index("## Nodes") : PAGE.index("**Questions**")]
    assert set(re.findall(r"^\| `([a-z]+)` \|", nodes, re.MULTILINE)) == set(NODE_TYPES)


def test_every_code_of_the_lint_is_told_and_planted() -> None:
    room = ROOT / "telephony" / "ivr"
    files = [*room.glob("lint/*.py"), room / "reading.py", room / "source.py"]
    source = "".join(path.read_text("utf-8") for path in files)
    called = r'(?:error|warn|note|fault|_Unreadable)\(\s*(?:file, |self\.file,\s*)?"([a-z]+(?:-[a-z]+)*)"'
    codes = set(re.findall(called, source))
    codes |= set(re.findall(r'(?:return|code = |code, )"([a-z]+-[a-z-]+)"', source))
    assert len(codes) > 40
    table = PAGE[PAGE.index("## What the lint finds") : PAGE.index("## Golden conversations")]
    told = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", table))
    assert codes <= told
    faults = "".join(path.read_text("utf-8") for path in (Path(__file__).parent / "faults").glob("*.yaml"))
    planted = set(re.findall(r"#! ([a-z-]+)", faults))
    # Those take more than one file, a depth or a size that no small tree has.
    elsewhere = {
        "unknown-tree",
        "subtree-loop",
        "subtree-language",
        "no-return",
        "yaml-too-big",
        "yaml-too-deep",
    }
    assert codes - planted <= elsewhere | {"bot-url"}
