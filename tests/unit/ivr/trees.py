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


PERSON = '  person: {type: transfer, extension: "100"}\n'
MENU = """\
  main:
    type: menu
    prompt: {en: "For orders, press 1."}
    short: {en: "Press 1."}
    keys:
      "1": {label: Orders, to: orders}
      "12": {label: Secret door, to: door}
  orders: {type: say, prompt: {en: "Orders."}, next: second}
  second:
    type: menu
    prompt: {en: "For more, press 2."}
    keys:
      "2": {label: More, to: bye}
  door: {type: hangup, prompt: {en: "The door."}, result: door}
  bye: {type: hangup, prompt: {en: "Bye."}}
"""
AGENT = HEAD + "agent: person\n"
