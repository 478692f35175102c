"""Webhook deliveries as operators and apps see them: listed, sent again, an endpoint enabled again.

What it never does: send anything; it writes the row and wakes whoever does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from telephony.errors import Conflict, NotFound
from telephony.model.client import Client
from telephony.model.delivery import DeliveryStatus
from telephony.services.contract import DeliveryView, Page, WebhookEndpointView
from telephony.store import OutboxRecord, Store


class WebhookDeliveries:
    """The service. `urls` are the clients' configured webhook URLs; `wake` makes the deliverer look."""

    def __init__(self, store: Store, urls: Mapping[str, str], wake: Callable[[], None]) -> None:
        self._store = store
        self._urls = dict(urls)
        self._wake = wake

    async def list(
        self, client: Client, *, status: DeliveryStatus | None, cursor: str | None, limit: int
    ) -> Page[DeliveryView]:
        """Return this client's webhooks, newest first."""
        async with self._store.reading() as work:
            page = await work.outbox.list(client.name, status=status, after=cursor, limit=limit)
        return Page(tuple(_seen(record) for record in page.items), page.cursor)

    async def resend(self, client: Client, webhook_id: str) -> DeliveryView:
        """Send a dead one again, at once, out of its order and with the whole schedule before it.

        Raises `NotFound`, and `Conflict` for one that is delivered or still being tried.
        """
        now = await self._store.now_ms()
        async with self._store.transaction() as work:
            record = await work.outbox.get_for_client(client.name, webhook_id)
            if record is None:
                raise NotFound("id", "names no webhook of yours", f"Check {webhook_id[:64]!r}")
            if not await work.outbox.revive(webhook_id, now):
                raise Conflict(f"this webhook is {record.status.value}; only a dead one is sent again")
            revived = await work.outbox.get_for_client(client.name, webhook_id)
        self._wake()
        return _seen(revived or record)

    async def endpoint(self, client: Client) -> WebhookEndpointView:
        """Return where this client's webhooks go, and whether it is disabled; raises `NotFound`."""
        url = self._urls.get(client.name)
        if url is None:
            raise NotFound("webhook_url", "this client has none", "Set webhook_url in its section")
        async with self._store.reading() as work:
            noted = await work.disabled_endpoints.get(client.name)
        if noted is None or noted.url != url:
            return WebhookEndpointView(url, None, None)
        return WebhookEndpointView(url, noted.disabled_at, noted.reason)

    async def enable(self, client: Client) -> WebhookEndpointView:
        """Send to this client's endpoint again after it had answered 410; raises `NotFound`."""
        async with self._store.transaction() as work:
            await work.disabled_endpoints.enable(client.name)
        self._wake()
        return await self.endpoint(client)


def _seen(record: OutboxRecord) -> DeliveryView:
    pending = record.status is DeliveryStatus.PENDING
    return DeliveryView(
        id=record.id,
        resource=record.resource,
        sequence=record.sequence,
        type=record.type,
        status=record.status,
        created_at=record.created_at,
        due_at=record.due_at if pending and record.opened_at is not None else None,
        tries=record.tries,
        delivered_at=record.delivered_at,
        dead_at=record.dead_at,
        last_error=record.last_error,
    )
