"""What happened on a call, node by node: the transcript's source, whoever plays the PBX.

Keys that are secret are in it as a mark alone. What it never does: hold a secret, or know a PBX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from telephony.model.prompt import Prompt

MASK: Final = "[secret]"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Said:
    """A prompt that was played, wholly or up to a key."""

    prompt: Prompt
    locale: str


@dataclass(frozen=True, slots=True)
class Heard:
    """Keys that were pressed; empty for a silence that was too long."""

    keys: str


Event: TypeAlias = Said | Heard


@dataclass(frozen=True, slots=True)
class Visit:
    """One node of a call. `at_ms` is when it was entered (Unix milliseconds), `outcome` how it ended.

    `target` is the node it led to, or one of the reserved targets; empty where the call ended there.
    `recording` is the id of what was recorded here, also where a hang-up ended it; else empty.
    """

    tree: str
    node: str
    type: str
    at_ms: int
    events: tuple[Event, ...]
    outcome: str
    target: str
    recording: str = ""

    @property
    def keys(self) -> str:
        """What was pressed here."""
        return "".join(event.keys for event in self.events if isinstance(event, Heard))


def step_of(visit: Visit) -> dict[str, object]:
    """A node of a path in JSON's types; `at` is in milliseconds since the epoch, secret keys are a mark."""
    return {
        "tree": visit.tree,
        "node": visit.node,
        "type": visit.type,
        "at": visit.at_ms,
        "keys": visit.keys,
        "outcome": visit.outcome,
        "to": visit.target,
        **({"recording": visit.recording} if visit.recording else {}),
    }


class Journal:
    """Writes visits down, one log line each. `watch` is told of each as it ends."""

    def __init__(self, call_id: str, watch: Callable[[Visit], None] | None = None) -> None:
        self.visits: list[Visit] = []
        self._call_id = call_id
        self._watch = watch
        self._events: list[Event] = []
        self._open: tuple[str, str, str, int] | None = None
        self._recording = ""

    @property
    def keys(self) -> str:
        """Every key of the call, secrets as a mark."""
        return "".join(visit.keys for visit in self.visits)

    def begin(self, tree: str, node: str, type_: str, at_ms: int) -> None:
        """A node is entered."""
        self._events = []
        self._recording = ""
        self._open = (tree, node, type_, at_ms)

    def said(self, prompt: Prompt, locale: str) -> None:
        """A prompt is being played."""
        self._events.append(Said(prompt, locale))

    def heard(self, keys: str) -> None:
        """Keys were pressed, or none in time."""
        self._events.append(Heard(keys))

    def recording(self, recording_id: str) -> None:
        """The caller is being recorded."""
        self._recording = recording_id

    def end(self, outcome: str, target: str) -> None:
        """The node is left."""
        if self._open is None:
            return
        tree, node, type_, at_ms = self._open
        self._open = None
        visit = Visit(tree, node, type_, at_ms, tuple(self._events), outcome, target, self._recording)
        self.visits.append(visit)
        log.info(
            "ivr.node",
            call=self._call_id,
            tree=tree,
            node=node,
            type=type_,
            pressed=visit.keys,
            outcome=outcome,
            to=target,
            **({"recording": visit.recording} if visit.recording else {}),
        )
        if self._watch is not None:
            self._watch(visit)
