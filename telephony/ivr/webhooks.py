"""Questions of trees to apps: signed, guarded, one try, answered in time or not at all.

A person waits on the line, so nothing is retried. The app gets

    {"type": "ivr.webhook", "timestamp": …, "data": {"call_id", "tree", "node", "caller", "called",
     "language", "send": {…}}}

and answers a JSON object with a 2xx. Who calls is asked likewise, as `ivr.lookup` and without `send`; a 404
says that nobody is known by that number. What it never does: log what is sent or answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from telephony.egress.http import Egress
from telephony.errors import EgressError
from telephony.ivr.ports import CallFacts, WebhookOrder
from telephony.model.ids import new_id

MOST_OF_ANSWER: Final = 64 * 1024
NOT_KNOWN: Final = 404
"""What an app says of a caller whom it does not know: no fault."""

log = structlog.get_logger(__name__)


class SignedQuestions:
    """Asks over `egress`. `secrets` are the decoded ones that sign, newest first."""

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

    async def ask(
        self, kind: str, url: str, call: CallFacts, timeout: float, more: Mapping[str, object]
    ) -> tuple[int, Mapping[str, object] | None]:
        """Ask once; returns the status (0: there was none) and the JSON object that came with a 2xx."""
        now = self._now()
        data = {
            "call_id": call.call_id,
            "tree": call.tree,
            "node": call.node,
            "caller": call.caller,
            "called": call.called,
            "language": call.language,
            **more,
        }
        body = {"type": kind, "timestamp": now.isoformat(), "data": data}
        payload = json.dumps(body, separators=(",", ":")).encode("ascii")
        try:
            answer = await self._egress.post_signed(
                url,
                self._secrets,
                new_id("msg"),
                payload,
                timeout,
                timestamp=int(now.timestamp()),
                most=MOST_OF_ANSWER,
            )
        except EgressError as error:
            return _nothing(call, 0, str(error))
        if not 200 <= answer.status < 300 or answer.truncated:
            return _nothing(call, answer.status, f"status {answer.status}")
        try:
            reply = json.loads(answer.body)
        except (ValueError, RecursionError):
            return _nothing(call, answer.status, "the answer is not JSON")
        if not isinstance(reply, dict):
            return _nothing(call, answer.status, "the answer is no object")
        return answer.status, reply


def _nothing(call: CallFacts, status: int, problem: str) -> tuple[int, None]:
    if status != NOT_KNOWN:
        log.warning("ivr.app_silent", call=call.call_id, node=call.node, problem=problem)
    return status, None


class SignedWebhooks:
    """The `Webhooks` port."""

    def __init__(self, questions: SignedQuestions) -> None:
        self._questions = questions

    async def ask(self, order: WebhookOrder) -> Mapping[str, object] | None:
        """Ask once; None for whatever is not a JSON object that came in time with a 2xx."""
        more = {"send": dict(order.send)}
        _, reply = await self._questions.ask("ivr.webhook", order.url, order.call, order.timeout, more)
        return reply


class SignedProfiles:
    """The `Profiles` port: one app knows who calls."""

    def __init__(self, questions: SignedQuestions, url: str) -> None:
        self._questions = questions
        self._url = url

    async def find(self, call: CallFacts, timeout: float) -> Mapping[str, object] | None:
        """Ask once, where there is a number to ask by."""
        if not call.caller:
            return None
        _, reply = await self._questions.ask("ivr.lookup", self._url, call, timeout, {})
        return reply
