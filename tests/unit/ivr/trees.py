"""Small trees for the tests of the IVR room."""

from __future__ import annotations

from telephony.ivr.reading import read_tree
from telephony.ivr.tree import Tree

HEAD = """\
version: 1
name: sample
languages: [en]
start: main
"""


def tree_of(nodes: str, head: str = HEAD) -> Tree:
    """A tree of `nodes` as YAML, indented by two."""
    reading = read_tree(f"{head}nodes:\n{nodes}", "sample.yaml")
    assert reading.tree is not None, "\n".join(map(str, reading.faults))
    return reading.tree
