"""Questions of trees to apps, over a real loopback server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from telephony.egress.guard import Guard
from telephony.egress.http import Egress, HttpCaller
from telephony.ivr.ports import CallFacts, WebhookOrder
from telephony.ivr.webhooks import MOST_OF_ANSWER, SignedProfiles, SignedQuestions, SignedWebhooks
from tests.unit.egress.conftest import SECRET, Received, Receiver, closes, hangs, says

FACTS = CallFacts("call_1", "+8613800000000", "4008", "hotline", "order", "zh-CN", 3)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    await made.up()
    yield made
    await made.down()


@pytest.fixture
async def webhooks() -> AsyncIterator[SignedWebhooks]:
    caller = HttpCaller(Guard(["127.0.0.0/8"]))
    yield SignedWebhooks(SignedQuestions(Egress(caller), [SECRET]))
    await caller.close()


def order(receiver: Receiver, timeout: float = 5.0) -> WebhookOrder:
    return WebhookOrder(FACTS, receiver.url, {"pin": "4711"}, timeout)


def answers(body: bytes, status: int = 200) -> object:
    async def answer(_request: web.Request, _received: Received) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    return answer


async def test_an_app_is_asked_with_a_signature(receiver: Receiver, webhooks: SignedWebhooks) -> None:
    receiver.behaves = answers(b'{"status": "paid"}')  # type: ignore[assignment]
    assert await webhooks.ask(order(receiver)) == {"status": "paid"}
    got = receiver.got[0]
    assert Webhook(SECRET).verify(got.raw.decode(), got.headers)
    assert got.body["type"] == "ivr.webhook"
    assert got.body["data"] == {
        "call_id": "call_1",
        "tree": "hotline",
        "node": "order",
        "caller": "+8613800000000",
        "called": "4008",
        "language": "zh-CN",
        "send": {"pin": "4711"},
    }
    assert "4711" not in repr(order(receiver))


@pytest.mark.parametrize(
    "behaves",
    [
        says(500),
        answers(b'{"status": "paid"}', 500),
        says(302, Location="/else"),
        closes,
        hangs,
        answers(b"not json"),
        answers(b"[1]"),
        answers(b"[" * 50_000),
        answers(b'{"a":"' + b"x" * MOST_OF_ANSWER + b'"}'),
    ],
)
async def test_whatever_else_comes_back_is_nothing(
    receiver: Receiver, webhooks: SignedWebhooks, behaves: object
) -> None:
    receiver.behaves = behaves  # type: ignore[assignment]
    assert await webhooks.ask(order(receiver, 0.5)) is None


async def test_a_private_address_is_not_asked(receiver: Receiver) -> None:
    caller = HttpCaller(Guard())
    assert await SignedWebhooks(SignedQuestions(Egress(caller), [SECRET])).ask(order(receiver)) is None
    await caller.close()
    assert not receiver.got


async def test_an_app_is_asked_who_calls(receiver: Receiver) -> None:
    receiver.behaves = answers(b'{"vip": true, "language": "en"}')  # type: ignore[assignment]
    caller = HttpCaller(Guard(["127.0.0.0/8"]))
    profiles = SignedProfiles(SignedQuestions(Egress(caller), [SECRET]), receiver.url)
    assert await profiles.find(FACTS, 5.0) == {"vip": True, "language": "en"}
    got = receiver.got[0]
    assert Webhook(SECRET).verify(got.raw.decode(), got.headers)
    assert got.body["type"] == "ivr.lookup"
    assert "send" not in got.body["data"]
    assert got.body["data"]["caller"] == "+8613800000000"
    receiver.behaves = says(404)
    assert await profiles.find(FACTS, 5.0) is None
    withheld = CallFacts("call_1", "", "4008", "hotline", "order", "zh-CN", 3)
    assert await profiles.find(withheld, 5.0) is None
    assert len(receiver.got) == 2, "nobody is asked about without a number"
    await caller.close()
