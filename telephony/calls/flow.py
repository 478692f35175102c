"""The port that every conversation implements: what is said on a call, and what follows from it.

What it never does: dial, retry or pick a trunk; that is the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from telephony.model.call import CallStatus
from telephony.model.media import Media
from telephony.pbx.port import CallSession
from telephony.store import RequestRecord, UnitOfWork


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an attempt will say, ready before the phone rings.

    `media` is erased by the engine at the hangup. Seconds from the answer: `max_duration` bounds the
    call, `first_limit` is what the PBX grants it before the flow asks for more by
    `CallSession.extend`, so that a frozen controller leaves nobody in a long silence. `detect_machines`:
    whether `CallSession.machine` is asked for, which costs a person a second or two of waiting.
    """

    media: tuple[Media, ...]
    max_duration: float
    first_limit: float
    detect_machines: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call stands when an attempt is over: its final status and why.

    `retry_as` names the row of the retry table (`calls/policy.py`) that applies: a `Cause`, or `NO_INPUT`
    for a conversation that brought no answer. Empty: this is the end, whatever the policy.
    """

    status: CallStatus
    reason: str
    keys: str = ""
    retry_as: str = ""


class Flow(Protocol):
    """A conversation."""

    @property
    def name(self) -> str:
        """The name that a request's `flow` holds."""
        ...

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        """Make what will be said; an `Outcome` instead means: do not dial, this is the end."""
        ...

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        """Talk. Raises `CallEnded` when the far end is gone; returns when everything was said."""
        ...

    def cut_short(self, request: RequestRecord) -> Outcome:
        """Tell what it means that the far end hung up in mid-conversation."""
        ...

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        """Write what follows from the final outcome, in the outcome's own transaction."""
        ...


class CallableFlow(Flow, Protocol):
    """A conversation that an app may ask for by its name, with variables of its own."""

    def check(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the variables as the conversation reads them, with what was left out filled in.

        They are JSON, and become the request's `variables`. Raises `InputError` naming `variables.<name>`.
        """
        ...
