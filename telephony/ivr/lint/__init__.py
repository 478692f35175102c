"""The lint: everything that is wrong with a tree, each fault with line and mend, before a call meets it.

    check(text, file, rules) -> Report

What it never does: read a file, use the network, or change a tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from telephony.ivr.faults import Fault, Severity
from telephony.ivr.lint.parts import check_parts
from telephony.ivr.lint.rules import Findings, Rules
from telephony.ivr.lint.ways import check_ways
from telephony.ivr.lint.words import check_words
from telephony.ivr.reading import read_tree
from telephony.ivr.source import Source
from telephony.ivr.tree import Tree

__all__ = ["Report", "Rules", "check"]


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, in the order of the lines. `tree` is None where the file's shape is wrong."""

    source: Source
    tree: Tree | None
    faults: tuple[Fault, ...]

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults for which the tree is refused."""
        return tuple(fault for fault in self.faults if fault.severity is Severity.ERROR)


def check(text: str, file: str, rules: Rules | None = None) -> Report:
    """Check a tree. Raises nothing: whatever is wrong is in the report."""
    rules = rules or Rules()
    reading = read_tree(text, file)
    found = Findings(reading.source)
    found.faults += reading.faults
    tree = reading.tree
    if tree is not None:
        stem = PurePath(file).stem
        if stem != tree.name:
            problem = f"the tree is called {tree.name!r} in a file called {stem!r}"
            found.error("name-differs", ("name",), problem, f"Write name: {stem}, or rename the file")
        check_ways(tree, rules, found)
        check_words(tree, rules, found)
        check_parts(tree, rules, found)
    order = sorted(dict.fromkeys(found.faults), key=lambda fault: (fault.mark.line, fault.mark.column))
    return Report(reading.source, tree, tuple(order))
