"""A body that is not packed as its headers say, or unpacks to too much."""

from __future__ import annotations

import gzip

import pytest

from tests.unit.api.conftest import HEADERS, HttpClient

PACKED = {**HEADERS, "Content-Type": "application/json", "Content-Encoding": "gzip"}


@pytest.mark.parametrize("raw", [b"not packed at all", gzip.compress(b"{}", mtime=0)[:-9] + b"123456789"])
async def test_a_body_that_cannot_be_unpacked_is_the_senders_fault(http: HttpClient, raw: bytes) -> None:
    reply = await http.post("/v1/verifications", data=raw, headers=PACKED)
    assert (reply.status, (await reply.json())["type"]) == (400, "/docs#invalid-body")
    assert reply.headers["Content-Type"].startswith("application/problem+json")


async def test_a_body_that_unpacks_to_too_much_is_not_unpacked_to_its_end(http: HttpClient) -> None:
    raw = gzip.compress(b" " * 50_000_000)
    assert len(raw) < 64 * 1024
    reply = await http.post("/v1/verifications", data=raw, headers=PACKED)
    assert (reply.status, (await reply.json())["type"]) == (413, "/docs#too-large")
