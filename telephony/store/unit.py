"""The unit of work: one transaction, with a repository for each table.

What it never does: begin or end the transaction; `Store` does.
"""

from __future__ import annotations

from collections.abc import Callable

from telephony.store.repositories.attempts import Attempts
from telephony.store.repositories.endpoints import DisabledEndpoints
from telephony.store.repositories.idempotency import Idempotency
from telephony.store.repositories.notes import Events, Outbox
from telephony.store.repositories.payments import Payments
from telephony.store.repositories.pokes import Pokes
from telephony.store.repositories.requests import Requests
from telephony.store.repositories.slots import Slots
from telephony.store.repositories.trunks import Trunks
from telephony.store.repositories.verifications import CheckFailures, Verifications
from telephony.store.session import Session


class UnitOfWork:
    """Everything read or written through it belongs to the same transaction; it is of no use after it."""

    __slots__ = (
        "attempts",
        "check_failures",
        "disabled_endpoints",
        "done",
        "events",
        "idempotency",
        "outbox",
        "payments",
        "pokes",
        "requests",
        "slots",
        "trunks",
        "undone",
        "verifications",
    )

    def __init__(
        self, session: Session, done: list[Callable[[], None]], undone: list[Callable[[], None]]
    ) -> None:
        """`done` is called once it is committed, `undone` where it does not end well: only of one that broke
        in the commit itself can the rows be there all the same.
        """
        self.done = done
        self.undone = undone
        self.requests = Requests(session)
        self.attempts = Attempts(session)
        self.verifications = Verifications(session)
        self.payments = Payments(session)
        self.check_failures = CheckFailures(session)
        self.idempotency = Idempotency(session)
        self.events = Events(session)
        self.outbox = Outbox(session)
        self.disabled_endpoints = DisabledEndpoints(session)
        self.pokes = Pokes(session)
        self.slots = Slots(session)
        self.trunks = Trunks(session)
