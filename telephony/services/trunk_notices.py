"""What the apps are told of the trunks: every client that has a webhook endpoint, of every trunk.

What it never does: decide when a trunk is saturated.
"""

from __future__ import annotations

from typing import Final

from telephony.services.notices import Notices
from telephony.store import UnitOfWork
from telephony.trunks.watch import News

FRESH_MS: Final = 600_000
"""For so long it is tried at short intervals; later it is told all the same, for what it is worth."""


class TrunkNotices:
    """Writes `trunk.saturated` and `trunk.recovered`."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices

    async def tell(self, work: UnitOfWork, news: News) -> None:
        """Write one for each client; the trunk's row is held by this transaction."""
        payload = {
            "id": news.trunk,
            "status": news.signal.value.removeprefix("trunk."),
            "in_use": news.in_use,
            "limit": news.limit,
        }
        for client in sorted(self._notices.clients):
            await self._notices.add(
                work,
                client=client,
                resource=f"trunk {news.trunk} {client}",
                kind=news.signal.value,
                payload=payload,
                now=news.at,
                expires_at=news.at + FRESH_MS,
            )
