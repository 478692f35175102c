"""What serves a tree where nothing better does: it says "not available", and never pretends.

What it never does: keep anything, or leave a caller in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from telephony.ivr.ports import (
    CallbackOrder,
    Callbacks,
    CallFacts,
    Clock,
    Place,
    Profiles,
    QueueEnd,
    QueueOrder,
    Queues,
    Recordings,
    SurveyAnswer,
    Surveys,
    TransferEnd,
    TransferOrder,
    Transfers,
    WebhookOrder,
    Webhooks,
)
from telephony.pbx.port import CallSession


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """This moment in UTC."""
        return datetime.now(UTC)


class NoWebhooks:
    """No app can be asked."""

    async def ask(self, order: WebhookOrder) -> Mapping[str, object] | None:
        """Nothing came back."""
        return None


class NoProfiles:
    """Nobody is known."""

    async def find(self, call: CallFacts, timeout: float) -> Mapping[str, object] | None:
        """Nothing is known."""
        return None


class NoQueues:
    """Nobody waits."""

    async def wait(self, session: CallSession, order: QueueOrder) -> QueueEnd:
        """There is no queue."""
        return QueueEnd.UNAVAILABLE


class ExtensionTransfers:
    """Extensions by the dialplan; a number needs a trunk and somebody who dials it."""

    async def transfer(self, session: CallSession, order: TransferOrder) -> TransferEnd:
        """Hand the channel to the dialplan."""
        if not order.extension:
            return TransferEnd.UNAVAILABLE
        await session.transfer(order.extension, order.context)
        return TransferEnd.HANDED_OVER


class NoCallbacks:
    """No list."""

    async def book(self, order: CallbackOrder) -> bool:
        """It can't be promised."""
        return False


class NoSurveys:
    """No answers are kept."""

    open = False

    async def keep(self, answer: SurveyAnswer) -> bool:
        """It is lost."""
        return False


class NoRecordings:
    """No room."""

    def place(self, call: CallFacts) -> Place | None:
        """There is no place."""
        return None


@dataclass(frozen=True, slots=True)
class Services:
    """Who serves a tree: stand-ins, but for those that are given."""

    clock: Clock = field(default_factory=SystemClock)
    webhooks: Webhooks = field(default_factory=NoWebhooks)
    profiles: Profiles = field(default_factory=NoProfiles)
    queues: Queues = field(default_factory=NoQueues)
    transfers: Transfers = field(default_factory=ExtensionTransfers)
    callbacks: Callbacks = field(default_factory=NoCallbacks)
    surveys: Surveys = field(default_factory=NoSurveys)
    recordings: Recordings = field(default_factory=NoRecordings)
