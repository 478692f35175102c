"""Events for the apps: written into the outbox in the transaction that makes them true.

What it never does: send anything, or tell a client that has no webhook endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from telephony.egress.rules import Endpoint
from telephony.model.ids import new_id
from telephony.store import OutboxRecord, UnitOfWork

TOGETHER: Final = 0.05
"""Seconds from a commit to the look at the outbox: what ends in the same moment is found by one look."""


class Notices:
    """Writes webhooks. `endpoints` are the clients' that have one, by name; `wake` starts the delivery."""

    def __init__(self, endpoints: Mapping[str, Endpoint], wake: Callable[[], None]) -> None:
        self._endpoints = dict(endpoints)
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None

    @property
    def clients(self) -> Collection[str]:
        """The clients that have an endpoint."""
        return self._endpoints.keys()

    def wanted(self, client: str) -> bool:
        """Whether this client has an endpoint: where not, nothing need be made for it."""
        return client in self._endpoints

    async def add(
        self,
        work: UnitOfWork,
        *,
        client: str,
        resource: str,
        kind: str,
        payload: Mapping[str, Any],
        now: int,
        expires_at: int | None,
    ) -> None:
        """Write one event of a resource whose row this transaction holds.

        `kind` is the webhook's `type`; until `expires_at` (milliseconds) it is tried closely. The delivery
        begins after the commit, together with that of others.
        """
        endpoint = self._endpoints.get(client)
        if endpoint is None:
            return
        await work.outbox.add(
            OutboxRecord(
                id=new_id("msg"),
                client=client,
                resource=resource,
                type=kind,
                payload=payload,
                created_at=now,
                due_at=now,
                url=endpoint.url,
                expires_at=expires_at,
            )
        )
        work.done.append(self._soon)

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TOGETHER, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._wake()
