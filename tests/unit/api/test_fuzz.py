"""Whatever is sent, the answer is one of those that are described: never a 500, always a whole problem."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from telephony.api import create_app
from telephony.api.documents import openapi
from telephony.api.keys import KeyRing, hash_key
from tests.unit.api.conftest import (
    HEADERS,
    KEY,
    SHOP,
    FakeCalls,
    FakeDeliveries,
    FakeHealth,
    FakePayments,
    FakeTrunks,
    FakeVerifications,
)

Sent = tuple[asyncio.Runner, TestClient[Any, Any]]

SCHEMAS = openapi()["components"]["schemas"]
FIELDS = [
    *SCHEMAS["VerificationRequest"]["properties"],
    *SCHEMAS["PaymentRequest"]["properties"],
    *SCHEMAS["CallRequest"]["properties"],
]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from([*FIELDS, "too", ""]) | st.text(max_size=12), VALUES, max_size=6)
POSTS = [
    "/v1/verifications",
    "/v1/verifications/{id}/check",
    "/v1/verifications/{id}/resend",
    "/v1/verifications/{id}/cancel",
    "/v1/payment-confirmations",
    "/v1/payment-confirmations/{id}/cancel",
    "/v1/webhook-deliveries/{id}/resend",
    "/v1/calls",
    "/v1/calls/{id}/cancel",
    "/v1/trunks/{name}/drain",
    "/v1/trunks/{name}/limit",
]


@pytest.fixture(scope="module")
def face() -> Iterator[Sent]:
    """One HTTP face for all examples, on a loop of its own."""
    with asyncio.Runner() as runner:

        async def start() -> TestClient[Any, Any]:
            app = create_app(
                verifications=FakeVerifications(),
                payments=FakePayments(),
                calls=FakeCalls(),
                deliveries=FakeDeliveries(),
                trunks=FakeTrunks(),
                health=FakeHealth(),
                keys=KeyRing(((hash_key(KEY), SHOP),)),
            )
            client: TestClient[Any, Any] = TestClient(TestServer(app))
            await client.start_server()
            return client

        client = runner.run(start())
        yield runner, client
        runner.run(client.close())


def send(face: Sent, path: str, raw: bytes) -> None:
    """Post bytes; the answer must be described, and a problem whole."""
    runner, client = face

    async def ask() -> tuple[int, str, Any]:
        headers = {**HEADERS, "Content-Type": "application/json"}
        url = path.replace("{id}", "call_1" if "calls" in path else "vrf_1").replace("{name}", "main line")
        async with client.post(url, data=raw, headers=headers) as reply:
            return reply.status, reply.content_type, await reply.json(content_type=None)

    status, content_type, body = runner.run(ask())
    assert status != 500
    assert str(status) in openapi()["paths"][path]["post"]["responses"]
    if status >= 400:
        assert content_type == "application/problem+json"
        assert body["status"] == status
        assert set(body) >= {"type", "title", "detail"}


@given(path=st.sampled_from(POSTS), body=BODIES)
@settings(max_examples=300, deadline=None)
def test_any_json_object(face: Sent, path: str, body: dict[str, Any]) -> None:
    send(face, path, json.dumps(body).encode())


@given(body=BODIES)
@settings(max_examples=150, deadline=None)
def test_a_number_with_anything_beside_it(face: Sent, body: dict[str, Any]) -> None:
    send(face, POSTS[0], json.dumps({**body, "to": "+8613800000000"}).encode())


@given(
    path=st.sampled_from(POSTS),
    raw=st.binary(max_size=200) | st.text('[]{}",:\\ \n1eE-.u0ntf').map(str.encode),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes(face: Sent, path: str, raw: bytes) -> None:
    send(face, path, raw)
