"""What becomes of a caller whom a full trunk has no line for: a plan, in steps.

Pure. The dialplan carries it out (`telephony-overflow`), so that it holds without us. What it never does:
send a caller anywhere by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from telephony.errors import InvalidNumber
from telephony.model.number import parse_number
from telephony.trunks.dialect import Trunk

RING_SECONDS: Final = "25"

_FORMS: Final[Mapping[str, tuple[str, re.Pattern[str]]]] = {
    "extension": (
        "extension:CONTEXT:EXTENSION",
        re.compile(r"[A-Za-z0-9_.-]{1,64}:[A-Za-z0-9_+*#.-]{1,64}"),
    ),
    "number": (
        "number:NUMBER:TRUNK, with :SECONDS that it may ring",
        re.compile(r"\+?[0-9*#]{1,20}:[A-Za-z0-9._-]{1,64}(:[1-9][0-9]{0,2})?"),
    ),
    "tree": ("tree:NAME", re.compile(r"[a-z][a-z0-9_-]{0,63}")),
    "say": ("say, or say:SOUND", re.compile(r"([A-Za-z0-9_./-]{1,200})?")),
    "busy": ("busy", re.compile("")),
    "congestion": ("congestion", re.compile("")),
}
"""Each kind of step: how it is written, and what its arguments look like."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `arguments` are as they are written, by their places."""

    kind: str
    arguments: tuple[str, ...] = ()

    @property
    def trunk(self) -> str | None:
        """The trunk that a `number` leaves by."""
        return self.arguments[1] if self.kind == "number" else None


def parse_step(text: str) -> Step:
    """Read a step; raises `ValueError` that says how it is written."""
    kind, _, rest = text.partition(":")
    if kind not in _FORMS:
        raise ValueError(f"is no step; write one of {', '.join(form for form, _ in _FORMS.values())}")
    form, pattern = _FORMS[kind]
    if not pattern.fullmatch(rest):
        raise ValueError(f"is not written right; write {form}")
    if kind == "number" and rest.startswith("+"):
        try:
            parse_number(rest.partition(":")[0])
        except InvalidNumber as error:
            raise ValueError(f"{error.problem}; {error.mend}") from None
    return Step(kind, tuple(rest.split(":")) if rest else ())


def plan_text(steps: Iterable[Step], trunks: Iterable[Trunk]) -> str:
    """The plan as the dialplan reads it: numbers in their carrier's dialect, trunks by their endpoint."""
    by_name = {trunk.name: trunk for trunk in trunks}
    return ",".join(":".join((step.kind, *_written(step, by_name))) for step in steps)


def _written(step: Step, trunks: Mapping[str, Trunk]) -> tuple[str, ...]:
    if step.kind != "number":
        return step.arguments
    number, name, *seconds = step.arguments
    trunk = trunks[name]
    dialled = trunk.dialled(parse_number(number)) if number.startswith("+") else number
    return dialled, trunk.endpoint, *(seconds or [RING_SECONDS])
