"""Calls of any flow, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from telephony.errors import InputError
from telephony.services.contract import NewCall
from tests.unit.api.conftest import HEADERS, FakeCalls, HttpClient
from tests.unit.api.test_http import ask

NEW = "/v1/calls"
BODY: dict[str, Any] = {"to": "+8613800000000", "flow": "announcement", "variables": {"text": "Hello"}}
SHOWN = {
    "id": "call_1",
    "to": "+8613800000000",
    "from": "+861088880000",
    "direction": "outbound",
    "flow": "announcement",
    "class": "survey",
    "locale": "zh-CN",
    "variables": {"text": "Hello", "play_times": 2},
    "machine_detection": "off",
    "status": "busy",
    "created_at": "2025-06-15T15:06:40.007Z",
    "updated_at": "2025-06-15T15:06:40.007Z",
    "due_at": None,
    "ended_at": "2025-06-15T15:06:40.012Z",
    "expires_at": "2025-06-15T15:16:40.007Z",
    "failure_reason": "busy",
    "metadata": {"shop": 7},
    "out_id": None,
    "path": [],
    "attempts": [
        {
            "id": "att_1",
            "number": 1,
            "trunk": "main",
            "trunk_reason": "serves every number",
            "phase": "ended",
            "dialed_at": "2025-06-15T15:06:40.007Z",
            "ringing_at": None,
            "answered_at": None,
            "ended_at": "2025-06-15T15:06:40.012Z",
            "sip": 486,
            "q850": 17,
            "cause": "busy",
            "end_reason": "busy",
            "keys": None,
        }
    ],
}


async def test_a_call_is_made(http: HttpClient, calls: FakeCalls) -> None:
    sent = {
        **BODY,
        "locale": "zh-CN",
        "expires_at": "2025-06-15T23:16:40+08:00",
        "ttl": 600,
        "retry": {"attempts": 2, "on": ["busy"]},
        "metadata": {"shop": 7, "deep": [{"a": None}]},
        "out_id": "o-1",
        "machine_detection": "hang_up",
    }
    named = {"class": "callback", "from": "+861088880000"}
    assert await ask(http, "POST", NEW, status=201, json={**sent, **named}) == SHOWN
    asked = NewCall(**sent, call_class="callback", from_number="+861088880000")
    assert calls.asked == [("create", asked)]


async def test_what_is_left_out_is_the_services(http: HttpClient, calls: FakeCalls) -> None:
    await ask(http, "POST", NEW, status=201, json=BODY)
    assert calls.asked == [("create", NewCall(**BODY))]


async def test_a_dry_run_makes_nothing_and_tells_when_it_may_ring(http: HttpClient, calls: FakeCalls) -> None:
    body = await ask(http, "POST", f"{NEW}?dry_run=true", status=200, json=BODY)
    assert (body["dry_run"], body["due_at"]) == (True, "2025-06-15T15:06:40.007Z")
    assert calls.asked == [("dry_run", NewCall(**BODY))]


async def test_the_same_key_gets_the_same_reply(http: HttpClient) -> None:
    first = await ask(http, "POST", NEW, status=201, json=BODY, headers={"Idempotency-Key": "k"})
    async with http.post(NEW, json=BODY, headers={**HEADERS, "Idempotency-Key": "k"}) as reply:
        assert reply.status == 201
        assert reply.headers["Idempotency-Replayed"] == "true"
        assert await reply.json() == first == SHOWN


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("to", {"to": 1}),
        ("flow", {"flow": ""}),
        ("flow", {"flow": 7}),
        ("variables", {"variables": "text"}),
        ("variables", {"variables": [1]}),
        ("class", {"class": "fax"}),
        ("class", {"class": None}),
        ("call_class", {"call_class": "otp"}),
        ("from", {"from": ""}),
        ("from", {"from": 861088880000}),
        ("from_number", {"from_number": "+861088880000"}),
        ("clas", {"clas": "otp"}),
        ("ttl", {"ttl": 29}),
        ("ttl", {"ttl": 604_801}),
        ("ttl", {"ttl": "600"}),
        ("expires_at", {"expires_at": 1_750_000_000}),
        ("retry", {"retry": 3}),
        ("metadata", {"metadata": [1]}),
        ("machine_detection", {"machine_detection": "on"}),
        ("out_id", {"out_id": "a\n"}),
    ],
)
async def test_what_is_of_no_use_is_refused_by_field(
    http: HttpClient, calls: FakeCalls, field: str, values: dict[str, Any]
) -> None:
    body = await ask(http, "POST", NEW, status=422, json={**BODY, **values})
    assert [one["field"] for one in body["errors"]] == [field]
    assert body["errors"][0]["mend"]
    assert calls.asked == []


async def test_a_field_is_known_by_the_name_that_it_is_sent_by(http: HttpClient) -> None:
    body = await ask(http, "POST", NEW, status=422, json={**BODY, "clas": "otp"})
    mend = body["errors"][0]["mend"]
    assert mend.startswith("Did you mean class? Known: to, flow, variables, class, ")
    assert "from," in mend
    assert "call_class" not in mend


@pytest.mark.parametrize("field", ["to", "flow"])
async def test_what_is_missing_is_named(http: HttpClient, field: str) -> None:
    left = {name: value for name, value in BODY.items() if name != field}
    body = await ask(http, "POST", NEW, status=422, json=left)
    assert [one["field"] for one in body["errors"]] == [field]


async def test_what_the_service_refuses_is_a_problem(http: HttpClient, calls: FakeCalls) -> None:
    calls.error = InputError("variables.text", "is missing", "Send what is to be said")
    body = await ask(http, "POST", NEW, status=422, json=BODY)
    assert body["errors"] == [
        {"field": "variables.text", "problem": "is missing", "mend": "Send what is to be said"}
    ]
