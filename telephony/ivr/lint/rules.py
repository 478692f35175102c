"""What a check knows of the world, and what it finds.

What it never does: read a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from telephony.egress.guard import Guard
from telephony.ivr.faults import Fault, Severity
from telephony.ivr.reading import did_you_mean
from telephony.ivr.source import Path, Source
from telephony.ivr.tree import Node, Prompt, Tree

MENUS_WARNED: Final = 2
MENUS_REFUSED: Final = 3
KEYS_WARNED: Final = 5
SECONDS_WARNED: Final = 20.0
SILENT_SECONDS: Final = 3.0

PROMPT_FIELDS: Final = ("prompt", "short", "invalid")


@dataclass(frozen=True, slots=True)
class Rules:
    """What is known beside the file; None where nothing is.

    `speaks` tells whether there is a language pack for a tag, `recordings` the names there are by language,
    `trees` the other trees of the folder by name. `guard` says which addresses webhooks may go to.
    `served` names the kinds of nodes that more than a stand-in serves.
    """

    speaks: Callable[[str], bool] | None = None
    recordings: Mapping[str, Collection[str]] | None = None
    trees: Mapping[str, Tree] | None = None
    guard: Guard = field(default_factory=Guard)
    served: Collection[str] = ()


class Findings:
    """Faults of one file as they are found."""

    def __init__(self, source: Source) -> None:
        self.faults: list[Fault] = []
        self._source = source

    def error(self, code: str, path: Path, problem: str, mend: str) -> None:
        """A fault for which the tree is refused."""
        self.faults.append(self._source.fault(code, path, problem, mend, Severity.ERROR))

    def warn(self, code: str, path: Path, problem: str, mend: str) -> None:
        """A fault that people will suffer from."""
        self.faults.append(self._source.fault(code, path, problem, mend, Severity.WARNING))

    def note(self, code: str, path: Path, problem: str, mend: str) -> None:
        """Something to be known."""
        self.faults.append(self._source.fault(code, path, problem, mend, Severity.NOTE))

    def unknown(self, what: str, path: Path, name: str, known: Collection[str]) -> None:
        """A name that leads nowhere."""
        kinds = {"list": "lists", "hours": "hours", "prompt": "prompts", "variable": "variables"}
        mend = did_you_mean(name, known, f"Add it under {kinds.get(what, what)}, or mend the name")
        self.error(f"unknown-{what}", path, f"there is no {what} {name!r}", mend)


def prompts_of(node: Node) -> Iterator[tuple[str, Prompt]]:
    """The prompts of a node, by field."""
    for name in PROMPT_FIELDS:
        prompt = getattr(node, name, None)
        if prompt is not None:
            yield name, prompt
