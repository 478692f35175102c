"""Every route before services in memory: what it asks of them, what it answers, what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from telephony import errors
from telephony.api import app as face
from telephony.api.reading import MAX_BODY, MAX_FAULTS
from telephony.errors import TelephonyError
from telephony.model.call import CallStatus, VerificationStatus
from telephony.services.contract import NewVerification
from tests.unit.api.conftest import (
    CODE,
    HEADERS,
    KEY,
    OTHER_KEY,
    FakeCalls,
    FakeHealth,
    FakeVerifications,
    HttpClient,
)

Json = dict[str, Any]
NEW = "/v1/verifications"
ONE = "/v1/verifications/vrf_1"
BODY = {"to": "+8613800000000"}


async def ask(
    http: HttpClient,
    method: str,
    path: str,
    *,
    status: int,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Json:
    """Ask as the shop; what is refused must be a problem that is whole."""
    async with http.request(method, path, headers={**HEADERS, **(headers or {})}, **more) as reply:
        assert reply.status == status, await reply.text()
        body: Json = await reply.json(content_type=None)
        assert reply.headers["X-Request-Id"]
        assert reply.headers["Cache-Control"] == "no-store"
        if status >= 400:
            assert reply.content_type == "application/problem+json"
            assert body["status"] == status
            assert body["type"].startswith("/docs#")
            assert body["title"]
            assert body["detail"]
        else:
            assert reply.content_type == "application/json"
        return body


# ---- what goes well


async def test_a_verification_is_made(http: HttpClient, verifications: FakeVerifications) -> None:
    sent: Json = {
        "to": "+8613800000000",
        "locale": "zh-CN",
        "code_length": 4,
        "code": "4711",
        "ttl": 60,
        "play_times": 3,
        "require_keypress": True,
        "dial_within": 2.5,
        "out_id": "order-7",
    }
    body = await ask(http, "POST", NEW, status=201, json=sent)
    assert verifications.asked == [("create", NewVerification(**sent))]
    assert body == {
        "id": "vrf_1",
        "to": "+8613800000000",
        "locale": "zh-CN",
        "status": "pending",
        "call_id": "call_1",
        "call_status": "dialing",
        "code_length": 4,
        "play_times": 2,
        "require_keypress": False,
        "checks_left": 5,
        "sends_left": 4,
        "created_at": "2025-06-15T15:06:40.007Z",
        "updated_at": "2025-06-15T15:06:40.007Z",
        "expires_at": "2025-06-15T15:16:40.007Z",
        "failure_reason": None,
        "out_id": "order-7",
    }


async def test_a_dry_run_makes_nothing(http: HttpClient, verifications: FakeVerifications) -> None:
    body = await ask(http, "POST", f"{NEW}?dry_run=true", status=200, json=BODY)
    assert body == {
        "dry_run": True,
        "to": "+8613800000000",
        "locale": "en",
        "trunk": "main",
        "trunk_reason": "serves every number",
        "due_at": None,
    }
    assert [name for name, _ in verifications.asked] == ["dry_run"]


async def test_dry_run_false_is_none(http: HttpClient, verifications: FakeVerifications) -> None:
    await ask(http, "POST", f"{NEW}?dry_run=false", status=201, json=BODY)
    assert [name for name, _ in verifications.asked] == ["create"]


@pytest.mark.parametrize(("code", "valid", "status"), [(CODE, True, "approved"), ("0000", False, "pending")])
async def test_a_check(http: HttpClient, code: str, valid: bool, status: str) -> None:
    body = await ask(http, "POST", f"{ONE}/check", status=200, json={"code": code})
    assert body == {"id": "vrf_1", "status": status, "valid": valid, "checks_left": 5}


@pytest.mark.parametrize("more", [{}, {"json": {}}])
async def test_cancel_and_resend_need_no_body(http: HttpClient, more: Json) -> None:
    assert (await ask(http, "POST", f"{ONE}/cancel", status=200, **more))["status"] == "canceled"
    assert (await ask(http, "POST", f"{ONE}/resend", status=200, **more))["id"] == "vrf_1"


async def test_reading_waits_only_where_asked(http: HttpClient, verifications: FakeVerifications) -> None:
    assert (await ask(http, "GET", ONE, status=200))["call_status"] == "dialing"
    assert verifications.asked == [("get", "vrf_1")]
    assert (await ask(http, "GET", f"{ONE}?wait=7.5", status=200))["call_status"] == "ringing"
    assert verifications.asked[1:] == [("wait_changed", 7.5), ("get", "vrf_1")]


async def test_lists(http: HttpClient, verifications: FakeVerifications, calls: FakeCalls) -> None:
    page = await ask(http, "GET", f"{NEW}?status=approved&cursor=abc&limit=7", status=200)
    assert page["next_cursor"] == "next-page"
    assert [item["id"] for item in page["items"]] == ["vrf_1"]
    assert verifications.asked == [("list", (VerificationStatus.APPROVED, "abc", 7))]
    page = await ask(http, "GET", "/v1/calls?status=no_answer", status=200)
    assert page["next_cursor"] is None
    assert calls.asked == [("list", (CallStatus.NO_ANSWER, None, 50))]


async def test_a_call_shows_its_attempts(http: HttpClient, calls: FakeCalls) -> None:
    body = await ask(http, "GET", "/v1/calls/call_1?wait=1", status=200)
    assert [name for name, _ in calls.asked] == ["wait_changed", "get"]
    assert body["ended_at"] == "2025-06-15T15:06:40.012Z"
    assert body["attempts"] == [
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
    ]
    assert (await ask(http, "POST", "/v1/calls/call_1/cancel", status=200))["status"] == "canceled"


# ---- who asks


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, "Bearer tk_wrong", f"Bearer {KEY}x", "Bearer ké"],
)
async def test_without_a_right_key_nothing_is_told(
    http: HttpClient, verifications: FakeVerifications, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (("GET", ONE), ("POST", NEW), ("GET", "/v1/nothing")):
        async with http.request(method, path, headers=headers) as reply:
            assert reply.status == 401
            assert reply.headers["WWW-Authenticate"] == 'Bearer realm="telephony"'
            assert (await reply.json(content_type=None))["type"] == "/docs#unauthorized"
    assert verifications.asked == []


async def test_the_scheme_is_read_as_the_rfc_has_it(http: HttpClient) -> None:
    await ask(http, "GET", ONE, status=200, headers={"Authorization": f"bearer {KEY}"})


async def test_another_clients_resource_is_not_there(http: HttpClient) -> None:
    body = await ask(http, "GET", ONE, status=404, headers={"Authorization": f"Bearer {OTHER_KEY}"})
    assert body["type"] == "/docs#not-found"


# ---- what goes wrong below


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry_after"),
    [
        (errors.InputError("locale", "is odd", "Send another"), 422, "invalid-input", None),
        (errors.InvalidNumber("to", "is odd", "Send another"), 422, "invalid-number", None),
        (errors.UnknownLocale("locale", "is odd", "Send another"), 422, "unknown-locale", None),
        (errors.NotFound("id", "is not there", "Check it"), 404, "not-found", None),
        (errors.IdempotencyMismatch("Idempotency-Key", "x", "y"), 422, "idempotency-mismatch", None),
        (errors.IdempotencyConflict("wait"), 409, "idempotency-conflict", None),
        (errors.DestinationNotAllowed("not there"), 403, "destination-not-allowed", None),
        (errors.RateLimited("slowly", 29.2), 429, "rate-limited", "30"),
        (errors.RateLimited("slowly", 0.0), 429, "rate-limited", "1"),
        (errors.RateLimited("never"), 429, "rate-limited", None),
        (errors.Conflict("it is over"), 409, "conflict", None),
        (errors.Overloaded("full"), 503, "overloaded", "5"),
        (errors.PbxUnavailable("10.0.0.5 is away", sent=False), 503, "pbx-unavailable", "5"),
        (errors.PbxTimeout("10.0.0.5 is slow"), 503, "pbx-unavailable", "5"),
        (errors.StoreUnavailable("10.0.0.5 is full"), 503, "store-unavailable", "5"),
        (errors.StaleFence("10.0.0.5"), 503, "store-unavailable", "5"),
        (errors.MissingPrompt("10.0.0.5"), 503, "speech-unavailable", "5"),
        (errors.LocalProtocolError("10.0.0.5"), 500, "internal-error", None),
        (TelephonyError("10.0.0.5"), 500, "internal-error", None),
        (RuntimeError("10.0.0.5"), 500, "internal-error", None),
        (KeyError("10.0.0.5"), 500, "internal-error", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_every_error_is_a_problem(
    http: HttpClient,
    verifications: FakeVerifications,
    error: Exception,
    status: int,
    kind: str,
    retry_after: str | None,
) -> None:
    verifications.error = error
    async with http.post(NEW, json=BODY, headers={**HEADERS, "X-Request-Id": "mine"}) as reply:
        body = await reply.json(content_type=None)
        assert reply.status == body["status"] == status
        assert reply.content_type == "application/problem+json"
        assert body["type"] == f"/docs#{kind}"
        assert reply.headers.get("Retry-After") == retry_after
        assert "10.0.0.5" not in str(body)
        if isinstance(error, errors.InputError):
            assert body["errors"] == [{"field": error.field, "problem": error.problem, "mend": error.mend}]
        if status == 500:
            assert body["instance"] == "mine"


# ---- what is no use


@pytest.mark.parametrize(
    ("body", "field", "mend"),
    [
        ({}, "to", "Send to"),
        ({"to": 8613800000000}, "to", "Send a string, in quotes"),
        ({"to": None}, "to", "Send a string, in quotes"),
        ({"to": ""}, "to", "Send at least 1 character"),
        ({"to": "1" * 65}, "to", "Send at most 64 characters"),
        ({**BODY, "code_length": "6"}, "code_length", "Send a whole number, without quotes"),
        ({**BODY, "code_length": 6.0}, "code_length", "Send a whole number, without quotes"),
        ({**BODY, "code_length": True}, "code_length", "Send a whole number, without quotes"),
        ({**BODY, "code_length": 11}, "code_length", "Send a number from 4 to 10"),
        ({**BODY, "ttl": 29}, "ttl", "Send a number from 30 to 3600"),
        ({**BODY, "dial_within": 0.5}, "dial_within", "Send a number from 1 to 3600"),
        ({**BODY, "require_keypress": 1}, "require_keypress", "Send true or false, without quotes"),
        ({**BODY, "out_id": "a\nb"}, "out_id", "Send printable ASCII characters"),
        ({**BODY, "locael": "en"}, "locael", "Did you mean locale? Known: to, locale, "),
        ({**BODY, "zzz": 1}, "zzz", "Known: to, locale, "),
    ],
)
async def test_a_wrong_field_is_named_with_its_mend(
    http: HttpClient, verifications: FakeVerifications, body: Json, field: str, mend: str
) -> None:
    told = await ask(http, "POST", NEW, status=422, json=body)
    assert told["type"] == "/docs#invalid-input"
    assert [one["field"] for one in told["errors"]] == [field]
    assert told["errors"][0]["mend"].startswith(mend)
    assert verifications.asked == []


async def test_all_wrong_fields_are_told_at_once(http: HttpClient) -> None:
    told = await ask(http, "POST", NEW, status=422, json={"too": "+86", "ttl": 1, "code_length": 1})
    assert {one["field"] for one in told["errors"]} == {"to", "too", "ttl", "code_length"}


async def test_a_code_is_not_said_back(http: HttpClient) -> None:
    for sent in ({**BODY, "code": "4711" * 9}, {**BODY, "code": 4711}):
        assert "4711" not in str(await ask(http, "POST", NEW, status=422, json=sent))
    assert "4711" not in str(await ask(http, "POST", f"{ONE}/check", status=422, json={"code": 4711}))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "line 1, column 1"),
        (b'{"to":\n  oops}', "line 2, column 3"),
        (b"[1]", "JSON object"),
        (b'"text"', "JSON object"),
        (b'{"to": "a", "to": "b"}', "the key 'to' twice"),
        (b'{"to": {"a": 1, "a": 2}}', "the key 'a' twice"),
        (b'{"ttl": NaN}', "NaN is not JSON"),
        (b'{"ttl": -Infinity}', "-Infinity is not JSON"),
        (b'{"ttl": ' + b"9" * 65 + b"}", "more than 64 digits"),
        (b'{"to": "\xff"}', "not UTF-8"),
        (b"[" * 33 + b"]" * 33, "deeper than 32"),
        (b'["' + b"]" * 20_000 + b'",' + b"[" * 20_000, "deeper than 32"),
        (b'["\\"",' + b"[" * 20_000, "deeper than 32"),
    ],
)
async def test_what_is_no_json_is_told_where(http: HttpClient, raw: bytes, words: str) -> None:
    told = await ask(http, "POST", NEW, status=400, data=raw, headers={"Content-Type": "application/json"})
    assert told["type"] == "/docs#invalid-json"
    assert words in told["detail"]


@pytest.mark.parametrize("raw", [b'{"to": "' + b'\\"' * 32_000, b'"' + b'\\"' * 32_000 + b"\\"])
async def test_a_string_that_is_never_closed_holds_nobody_up(http: HttpClient, raw: bytes) -> None:
    started = time.process_time()
    told = await ask(http, "POST", NEW, status=400, data=raw, headers={"Content-Type": "application/json"})
    assert told["type"] == "/docs#invalid-json"
    assert time.process_time() - started < 1.0


async def test_a_bounded_number_of_faults_is_told(http: HttpClient) -> None:
    told = await ask(http, "POST", NEW, status=422, json={f"a{number}": 1 for number in range(4_000)})
    assert len(told["errors"]) == MAX_FAULTS
    assert told["detail"].endswith(f"; and {4_001 - MAX_FAULTS} more")


async def test_brackets_in_strings_are_no_depth(http: HttpClient) -> None:
    told = await ask(http, "POST", NEW, status=422, json={"to": "[" * 64, "x": "{" * 64})
    assert told["type"] == "/docs#invalid-input"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json"])
async def test_a_body_of_another_type_is_refused(http: HttpClient, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    told = await ask(http, "POST", NEW, status=415, data=b'{"to": "+86138"}', headers=headers)
    assert told["type"] == "/docs#unsupported-media-type"
    await ask(http, "POST", f"{ONE}/cancel", status=415, data=b"{}", headers=headers)


async def test_json_may_name_its_charset(http: HttpClient) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    await ask(http, "POST", NEW, status=201, data=b'{"to": "+86138"}', headers=headers)


async def test_a_body_has_a_bound(http: HttpClient) -> None:
    told = await ask(http, "POST", NEW, status=413, json={"to": "1" * MAX_BODY})
    assert told["type"] == "/docs#too-large"


async def test_a_slow_body_is_given_up(http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "READ_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection(http.host, http.port)
    writer.write(
        f"POST {NEW} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{".encode()
    )
    head = (await asyncio.wait_for(reader.readuntil(b"}"), 5)).decode()
    writer.close()
    assert head.startswith("HTTP/1.1 408 ")
    assert "/docs#request-timeout" in head


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (f"{ONE}?wait=61", "wait"),
        (f"{ONE}?wait=-1", "wait"),
        (f"{ONE}?wait=nan", "wait"),
        (f"{ONE}?wait=soon", "wait"),
        (f"{ONE}?wiat=1", "wiat"),
        (f"{NEW}?limit=0", "limit"),
        (f"{NEW}?limit=201", "limit"),
        (f"{NEW}?limit={'9' * 5000}", "limit"),
        (f"{NEW}?limit=%C2%B2", "limit"),
        (f"{NEW}?status=busy", "status"),
        (f"{NEW}?statsu=approved", "statsu"),
        (f"{NEW}?status=approved&status=failed", "status"),
        (f"{NEW}?cursor=%00", "cursor"),
        (f"{NEW}?cursor=", "cursor"),
        ("/v1/calls?status=approved", "status"),
        ("/v1/calls/call_1?dry_run=true", "dry_run"),
    ],
)
async def test_a_wrong_parameter_is_named(http: HttpClient, path: str, field: str) -> None:
    told = await ask(http, "GET", path, status=422)
    assert [one["field"] for one in told["errors"]] == [field]


async def test_a_switch_is_true_or_false(http: HttpClient, verifications: FakeVerifications) -> None:
    await ask(http, "POST", f"{NEW}?dry_run=1", status=422, json=BODY)
    assert verifications.asked == []


@pytest.mark.parametrize("path", ["/v1/verifications/%00", "/v1/calls/a%0Ab", f"/v1/calls/{'a' * 65}", "/v1"])
async def test_what_can_be_no_id_is_not_found_and_not_looked_for(
    http: HttpClient, verifications: FakeVerifications, calls: FakeCalls, path: str
) -> None:
    assert (await ask(http, "GET", path, status=404))["type"] == "/docs#not-found"
    assert verifications.asked == calls.asked == []


async def test_a_page_that_is_not_there_asks_for_no_key(http: HttpClient) -> None:
    async with http.get("/favicon.ico") as reply:
        assert reply.status == 404
        assert reply.content_type == "application/problem+json"


async def test_a_method_that_is_not_served(http: HttpClient) -> None:
    async with http.delete(ONE, headers=HEADERS) as reply:
        assert reply.status == 405
        assert reply.headers["Allow"] == "GET,HEAD"
        assert (await reply.json(content_type=None))["type"] == "/docs#method-not-allowed"


async def test_expectations(http: HttpClient) -> None:
    async with http.post(NEW, json=BODY, headers=HEADERS, expect100=True) as reply:
        assert reply.status == 201
    reader, writer = await asyncio.open_connection(http.host, http.port)
    writer.write(
        f"POST {NEW} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nExpect: tea\r\n"
        "Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
    )
    answer = (await asyncio.wait_for(reader.read(), 5)).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 417 ")
    assert "/docs#expectation-failed" in answer


# ---- the same request twice


@pytest.mark.parametrize(("path", "status"), [(NEW, 201), (f"{ONE}/resend", 200)])
async def test_a_replay_gives_the_stored_reply(http: HttpClient, path: str, status: int) -> None:
    body = BODY if path == NEW else {}
    texts = []
    for replayed, key in ((None, "order-1"), ("true", '"order-1"')):
        async with http.post(path, json=body, headers={**HEADERS, "Idempotency-Key": key}) as reply:
            assert reply.status == status
            assert reply.headers.get("Idempotency-Replayed") == replayed
            assert reply.content_type == "application/json"
            texts.append(await reply.text())
    assert texts[0] == texts[1]


async def test_a_key_of_another_request_is_refused(http: HttpClient) -> None:
    headers = {"Idempotency-Key": "order-1"}
    await ask(http, "POST", NEW, status=201, json=BODY, headers=headers)
    told = await ask(http, "POST", NEW, status=422, json={"to": "+86139"}, headers=headers)
    assert told["type"] == "/docs#idempotency-mismatch"
    told = await ask(http, "POST", f"{ONE}/resend", status=422, json=BODY, headers=headers)
    assert told["type"] == "/docs#invalid-input"


async def test_a_fingerprint_is_of_method_path_and_body(
    http: HttpClient, verifications: FakeVerifications
) -> None:
    body = b'{"to": "+86138"}'
    json_type = {"Content-Type": "application/json"}
    await ask(http, "POST", NEW, status=201, data=body, headers={"Idempotency-Key": "a", **json_type})
    await ask(http, "POST", f"{ONE}/resend", status=200, headers={"Idempotency-Key": "b"})
    assert [fingerprint for fingerprint, _ in verifications.stored.values()] == [
        hashlib.sha256(b"POST /v1/verifications\n" + body).hexdigest(),
        hashlib.sha256(b"POST /v1/verifications/vrf_1/resend\n").hexdigest(),
    ]


async def test_clients_have_keys_of_their_own(http: HttpClient) -> None:
    headers = {"Idempotency-Key": "order-1"}
    await ask(http, "POST", NEW, status=201, json=BODY, headers=headers)
    other = {**headers, "Authorization": f"Bearer {OTHER_KEY}"}
    async with http.post(NEW, json=BODY, headers=other) as reply:
        assert reply.status == 201
        assert "Idempotency-Replayed" not in reply.headers


async def test_a_refusal_is_not_stored(http: HttpClient, verifications: FakeVerifications) -> None:
    headers = {"Idempotency-Key": "order-1"}
    await ask(http, "POST", NEW, status=422, json={}, headers=headers)
    verifications.error = errors.RateLimited("slowly")
    await ask(http, "POST", NEW, status=429, json=BODY, headers=headers)
    verifications.error = None
    await ask(http, "POST", NEW, status=201, json=BODY, headers=headers)


async def test_the_second_of_two_at_once_is_refused(
    http: HttpClient, verifications: FakeVerifications
) -> None:
    verifications.held = asyncio.Event()
    headers = {"Idempotency-Key": "order-1"}
    first = asyncio.create_task(ask(http, "POST", NEW, status=201, json=BODY, headers=headers))
    await asyncio.wait_for(verifications.entered.wait(), 5)
    told = await ask(http, "POST", NEW, status=409, json=BODY, headers=headers)
    assert told["type"] == "/docs#idempotency-conflict"
    verifications.held.set()
    await first
    async with http.post(NEW, json=BODY, headers={**HEADERS, **headers}) as reply:
        assert reply.headers["Idempotency-Replayed"] == "true"
    assert [name for name, _ in verifications.asked] == ["create", "create"]


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "ключ"])
async def test_a_key_that_is_none(http: HttpClient, verifications: FakeVerifications, key: str) -> None:
    told = await ask(http, "POST", NEW, status=422, json=BODY, headers={"Idempotency-Key": key})
    assert told["errors"][0]["field"] == "Idempotency-Key"
    assert verifications.asked == []


async def test_keys_in_flight_and_waiters_have_bounds(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face, "MAX_IN_FLIGHT", 0)
    monkeypatch.setattr(face, "MAX_WAITING", 0)
    headers = {"Idempotency-Key": "order-1"}
    told = await ask(http, "POST", NEW, status=503, json=BODY, headers=headers)
    assert told["type"] == "/docs#overloaded"
    assert (await ask(http, "GET", f"{ONE}?wait=1", status=503))["type"] == "/docs#overloaded"
    await ask(http, "GET", ONE, status=200)


async def test_a_waiter_gives_its_place_back(http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "MAX_WAITING", 1)
    for path, status in ((ONE, 200), ("/v1/verifications/vrf_2", 404), (ONE, 200), ("/v1/calls/call_1", 200)):
        await ask(http, "GET", f"{path}?wait=1", status=status)


# ---- the house itself


async def test_alive_and_ready(http: HttpClient, health: FakeHealth) -> None:
    async with http.get("/healthz") as reply:
        assert (reply.status, await reply.json()) == (200, {"status": "ok"})
    async with http.get("/readyz") as reply:
        assert reply.status == 200
        assert (await reply.json())["status"] == "ok"
    health.parts = {"pbx": "not connected", "store": "ok"}
    async with http.get("/readyz") as reply:
        assert reply.status == 503
        assert await reply.json() == {"status": "not ready", "parts": dict(health.parts)}


async def test_requests_are_counted_by_route(http: HttpClient, registry: CollectorRegistry) -> None:
    await ask(http, "GET", ONE, status=200)
    await ask(http, "GET", "/v1/verifications/vrf_2", status=404)
    async with http.get("/nothing/vrf_3"), http.request("BREW", "/nothing"):
        pass
    async with http.get("/metrics") as reply:
        assert reply.headers["Content-Type"].startswith("text/plain")
        text = await reply.text()
    assert "vrf_" not in text
    assert "BREW" not in text
    labels = {"method": "GET", "route": "/v1/verifications/{id}"}
    counted = registry.get_sample_value("telephony_http_requests_total", {**labels, "status": "200"})
    assert counted == 1
    assert registry.get_sample_value("telephony_http_request_seconds_count", labels) == 2


async def test_request_ids(http: HttpClient) -> None:
    async with http.get("/healthz", headers={"X-Request-Id": "trace-1.a_B"}) as reply:
        assert reply.headers["X-Request-Id"] == "trace-1.a_B"
    for odd in ("a b", "x" * 129, "a;b"):
        async with http.get("/healthz", headers={"X-Request-Id": odd}) as reply:
            assert re.fullmatch(r"req_[0-9a-z]{26}", reply.headers["X-Request-Id"])


async def test_one_log_line_a_request_and_no_secret_in_it(http: HttpClient) -> None:
    with capture_logs() as lines:
        await ask(http, "POST", f"{ONE}/check", status=200, json={"code": CODE})
    line = next(one for one in lines if one["event"] == "http.request")
    assert line["route"] == "/v1/verifications/{id}/check"
    assert (line["method"], line["status"], line["client"]) == ("POST", 200, "shop")
    assert line["ms"] >= 0
    assert CODE not in str(lines)
    assert KEY not in str(lines)


async def test_no_reply_may_be_sniffed(http: HttpClient) -> None:
    for path in ("/healthz", "/docs", "/nothing", "/v1/calls"):
        async with http.get(path) as reply:
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Server"] == "telephony"
