"""The store room: one schema and one code on two engines, SQLite and PostgreSQL.

Repositories take and return the frozen records of `telephony.store.records`; a `UnitOfWork` is one
transaction. What it never does: decide what a call does next, or speak to anything but its database.
"""

from telephony.store.pokes import Poke, PokeKind
from telephony.store.records import (
    AttemptRecord,
    CheckFailureRecord,
    DisabledEndpointRecord,
    EventRecord,
    OutboxRecord,
    Page,
    RequestRecord,
    VerificationRecord,
)
from telephony.store.store import Store
from telephony.store.unit import UnitOfWork

__all__ = [
    "AttemptRecord",
    "CheckFailureRecord",
    "DisabledEndpointRecord",
    "EventRecord",
    "OutboxRecord",
    "Page",
    "Poke",
    "PokeKind",
    "RequestRecord",
    "Store",
    "UnitOfWork",
    "VerificationRecord",
]
