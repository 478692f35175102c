"""What is wrong with a tree: where it stands, how bad it is, and what to write instead.

What it never does: decide what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from telephony.errors import ConfigError


class Severity(StrEnum):
    """How bad a fault is."""

    ERROR = "error"
    """The tree is not taken."""
    WARNING = "warning"
    """It works, and people will suffer."""
    NOTE = "note"
    """To be known; nothing to mend in the tree."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; lines and columns count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `code` is a stable word, `problem` says what is wrong and `mend` what to write instead."""

    code: str
    severity: Severity
    file: str
    mark: Mark
    problem: str
    mend: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.mark.line}:{self.mark.column}"
        return f"{place}: {self.severity.value} {self.code}: {self.problem}. {self.mend}"


class TreeRefused(ConfigError):
    """A tree that can't be taken; `faults` are all of them, the first one is the message."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        first = next(fault for fault in self.faults if fault.severity is Severity.ERROR)
        super().__init__(f"{first.file}:{first.mark.line}", first.problem, first.mend)
