"""Trunks over HTTP: shown to every client, changed by those who may."""

from __future__ import annotations

import pytest

from tests.unit.api.conftest import HEADERS, OTHER_KEY, FakeTrunks, HttpClient

MAIN = "/v1/trunks/main%20line"


async def test_trunks_are_shown(http: HttpClient) -> None:
    reply = await http.get("/v1/trunks", headers={"Authorization": f"Bearer {OTHER_KEY}"})
    assert reply.status == 200
    (one,) = (await reply.json())["items"]
    assert one == {
        "name": "main line",
        "endpoint": "carrier",
        "state": "broken",
        "why": "out of order until 2025-06-15 15:06:45Z (503)",
        "limit": 30,
        "configured": 20,
        "in_use": 7,
        "outbound": 4,
        "inbound": 2,
        "foreign": 1,
        "above": 0,
        "calls_per_second": 2.5,
        "burst": 5,
        "draining": False,
        "drained_at": None,
        "saturated": True,
        "saturated_at": "2025-06-15T15:06:40.007Z",
        "breaker": {"state": "open", "failures": 5, "until": "2025-06-15T15:06:45.007Z", "reason": "503"},
    }
    reply = await http.get(MAIN, headers=HEADERS)
    assert await reply.json() == one


async def test_one_that_is_not_there(http: HttpClient) -> None:
    for ask in (
        http.get("/v1/trunks/mian", headers=HEADERS),
        http.post("/v1/trunks/mian/drain", headers=HEADERS),
    ):
        reply = await ask
        problem = await reply.json()
        assert (reply.status, reply.content_type) == (404, "application/problem+json")
        assert problem["type"] == "/docs#not-found"
        assert "Known: main line" in problem["detail"]


async def test_orders(http: HttpClient, trunks: FakeTrunks) -> None:
    drained = await http.post(f"{MAIN}/drain", headers=HEADERS)
    assert (drained.status, (await drained.json())["draining"]) == (200, True)
    resumed = await http.post(f"{MAIN}/resume", headers=HEADERS, json={})
    assert (await resumed.json())["draining"] is False
    for channels in (0, 30, None):
        limited = await http.post(f"{MAIN}/limit", headers=HEADERS, json={"channels": channels})
        assert (await limited.json())["limit"] == channels
    assert [order for _, order in trunks.asked] == [
        "drain",
        "resume",
        ("limit", 0),
        ("limit", 30),
        ("limit", None),
    ]


@pytest.mark.parametrize(
    "body", [{}, {"channels": -1}, {"channels": 10_001}, {"channels": "3"}, {"channels": 1.5}]
)
async def test_no_limit(http: HttpClient, trunks: FakeTrunks, body: dict[str, object]) -> None:
    reply = await http.post(f"{MAIN}/limit", headers=HEADERS, json=body)
    assert reply.status == 422
    assert (await reply.json())["errors"][0]["field"] == "channels"
    assert not trunks.asked


@pytest.mark.parametrize("order", ["drain", "resume", "limit"])
async def test_not_every_key_may_change_them(http: HttpClient, order: str) -> None:
    body = {"channels": 1} if order == "limit" else {}
    reply = await http.post(f"{MAIN}/{order}", headers={"Authorization": f"Bearer {OTHER_KEY}"}, json=body)
    assert (reply.status, (await reply.json())["type"]) == (403, "/docs#not-permitted")
    assert (await http.post(f"{MAIN}/{order}", json=body)).status == 401
