"""What a tree needs of the rest of the house: ports, and what goes through them.

Every port answers within the deadline it is given, or says that it could not. What they never do: raise
for what a far end does (a busy line, an app that fails); only a caller who is gone raises `CallEnded`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from telephony.model.media import Media
from telephony.model.prompt import Prompt
from telephony.pbx.port import CallSession


@dataclass(frozen=True, slots=True)
class CallFacts:
    """Which call it is, for whoever is asked about it."""

    call_id: str
    caller: str
    called: str
    tree: str
    node: str
    language: str
    priority: int


class Voice(Protocol):
    """Sound. `speech.Studio` is one."""

    async def compose(self, prompt: Prompt, locale: str) -> Media:
        """Make one sound of a prompt. Raises `SpeechError` or `InputError`."""
        ...

    def discard(self, media: Media) -> None:
        """Erase it."""
        ...


class Clock(Protocol):
    """The time of day."""

    def now(self) -> datetime:
        """This moment, with its zone."""
        ...


@dataclass(frozen=True, slots=True)
class WebhookOrder:
    """A question to an app; `send` is what the tree says, `timeout` in seconds."""

    call: CallFacts
    url: str
    send: Mapping[str, str] = field(repr=False)
    timeout: float


class Webhooks(Protocol):
    """Questions to apps."""

    async def ask(self, order: WebhookOrder) -> Mapping[str, object] | None:
        """Return the JSON object that came with a 2xx, None for anything else, or for nothing in time."""
        ...


class Profiles(Protocol):
    """Who calls."""

    async def find(self, call: CallFacts, timeout: float) -> Mapping[str, object] | None:
        """Return what is known of the caller, None where nothing is (or not in time)."""
        ...


class QueueEnd(StrEnum):
    """How waiting ended."""

    SPOKEN = "spoken"
    """With an agent; the caller is back."""
    HANDED_OVER = "handed_over"
    """The dialplan has the call now, and does not give it back."""
    TIMEOUT = "timeout"
    FULL = "full"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class QueueOrder:
    """A place in a queue, for `max_wait` seconds at most."""

    call: CallFacts
    queue: str
    priority: int
    max_wait: float


class Queues(Protocol):
    """Waiting for an agent."""

    async def wait(self, session: CallSession, order: QueueOrder) -> QueueEnd:
        """Wait until an agent has spoken with the caller, or it is given up. Raises `CallEnded`."""
        ...


class TransferEnd(StrEnum):
    """How a transfer ended."""

    SPOKEN = "spoken"
    HANDED_OVER = "handed_over"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class TransferOrder:
    """Where to: an extension of the dialplan, or a number by `route` (empty: whichever trunk serves it)."""

    call: CallFacts
    extension: str
    context: str
    number: str
    route: str
    ring_timeout: float


class Transfers(Protocol):
    """Handing a caller over."""

    async def transfer(self, session: CallSession, order: TransferOrder) -> TransferEnd:
        """Hand over. Raises `CallEnded`."""
        ...


@dataclass(frozen=True, slots=True)
class CallbackOrder:
    """A call that somebody wants back."""

    call: CallFacts
    number: str
    queue: str


class Callbacks(Protocol):
    """The call-back list."""

    async def book(self, order: CallbackOrder) -> bool:
        """Put it on the list; False where that can't be promised."""
        ...


@dataclass(frozen=True, slots=True)
class SurveyAnswer:
    """One answer."""

    call: CallFacts
    survey: str
    answer: int


class Surveys(Protocol):
    """Kept answers."""

    @property
    def open(self) -> bool:
        """Whether answers are kept: nobody is asked in vain."""
        ...

    async def keep(self, answer: SurveyAnswer) -> bool:
        """Keep an answer; False where it is lost."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a recording goes: `path` as the PBX sees it, without an ending; `id` is what is known of it."""

    id: str
    path: str


class Recordings(Protocol):
    """Room for what callers say."""

    def place(self, call: CallFacts) -> Place | None:
        """A new place under a name that tells nothing; None where recording is not set up."""
        ...
