"""Questions of trees to apps: signed, guarded, one try, answered in time or not at all.

A person waits on the line, so nothing is retried. The app gets

    {"type": "ivr.webhook", "timestamp": …, "data": {"call_id", "tree", "node", "caller", "called",
     "language", "send": {…}}}

and answers a JSON object with a 2xx. What it never does: log what is sent or answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from telephony.egress.http import Egress
from telephony.errors import EgressError
from telephony.ivr.ports import WebhookOrder
from telephony.model.ids import new_id

MOST_OF_ANSWER: Final = 64 * 1024

log = structlog.get_logger(__name__)


class SignedWebhooks:
    """The `Webhooks` port over `egress`. `secrets` are the decoded ones that sign, newest first."""

    def __init__(
        self,
        egress: Egress,
        secrets: Sequence[bytes],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._egress = egress
        self._secrets = tuple(secrets)
        self._now = now

    async def ask(self, order: WebhookOrder) -> Mapping[str, object] | None:
        """Ask once; None for whatever is not a JSON object that came in time with a 2xx."""
        now = self._now()
        call = order.call
        data = {
            "call_id": call.call_id,
            "tree": call.tree,
            "node": call.node,
            "caller": call.caller,
            "called": call.called,
            "language": call.language,
            "send": dict(order.send),
        }
        body = {"type": "ivr.webhook", "timestamp": now.isoformat(), "data": data}
        payload = json.dumps(body, separators=(",", ":")).encode("ascii")
        try:
            answer = await self._egress.post_signed(
                order.url,
                self._secrets,
                new_id("msg"),
                payload,
                order.timeout,
                timestamp=int(now.timestamp()),
                most=MOST_OF_ANSWER,
            )
        except EgressError as error:
            return self._nothing(order, str(error))
        if not 200 <= answer.status < 300 or answer.truncated:
            return self._nothing(order, f"status {answer.status}")
        try:
            reply = json.loads(answer.body)
        except (ValueError, RecursionError):
            return self._nothing(order, "the answer is not JSON")
        return reply if isinstance(reply, dict) else self._nothing(order, "the answer is no object")

    @staticmethod
    def _nothing(order: WebhookOrder, problem: str) -> None:
        log.warning("ivr.app_silent", call=order.call.call_id, node=order.call.node, problem=problem)
