"""Payment confirmations and webhooks on their way, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from telephony.errors import Conflict, InputError
from telephony.model.call import PaymentStatus
from telephony.model.delivery import DeliveryStatus
from telephony.services.contract import NewPayment
from tests.unit.api.conftest import HEADERS, OTHER_KEY, FakeDeliveries, FakePayments, HttpClient
from tests.unit.api.test_http import ask

NEW = "/v1/payment-confirmations"
ONE = f"{NEW}/pay_1"
BODY: dict[str, Any] = {
    "to": "+8613800000000",
    "order_id": "A-1024",
    "amount": "128.50",
    "currency": "CNY",
    "payee": "Acme Taxi",
}
SHOWN = {
    "id": "pay_1",
    "to": "+8613800000000",
    "locale": "zh-CN",
    "status": "pending",
    "order_id": "A-1024",
    "amount": "128.50",
    "currency": "CNY",
    "payee": "Acme Taxi",
    "call_id": "call_2",
    "call_status": "dialing",
    "expires_at": "2025-06-15T15:16:40.007Z",
    "created_at": "2025-06-15T15:06:40.007Z",
    "updated_at": "2025-06-15T15:06:40.007Z",
    "ended_at": None,
    "decided_by": None,
    "failure_reason": None,
    "metadata": {"shop": 7},
    "out_id": None,
}


async def test_a_payment_is_made(http: HttpClient, payments: FakePayments) -> None:
    sent = {
        **BODY,
        "locale": "zh-CN",
        "deadline": "2025-06-15T23:16:40+08:00",
        "ttl": 600,
        "retry": {"attempts": 2, "on": ["busy"]},
        "decide_url": "https://shop.example.com/decide",
        "metadata": {"shop": 7, "deep": [{"a": None}]},
        "out_id": "o-1",
        "machine_detection": "hang_up",
    }
    assert await ask(http, "POST", NEW, status=201, json=sent) == SHOWN
    assert payments.asked == [("create", NewPayment(**sent))]


async def test_a_dry_run_makes_nothing(http: HttpClient, payments: FakePayments) -> None:
    body = await ask(http, "POST", f"{NEW}?dry_run=true", status=200, json=BODY)
    assert body["dry_run"] is True
    assert payments.asked == [("dry_run", NewPayment(**BODY))]


async def test_the_same_key_gets_the_same_reply(http: HttpClient) -> None:
    first = await ask(http, "POST", NEW, status=201, json=BODY, headers={"Idempotency-Key": "k"})
    async with http.post(NEW, json=BODY, headers={**HEADERS, "Idempotency-Key": "k"}) as reply:
        assert reply.status == 201
        assert reply.headers["Idempotency-Replayed"] == "true"
        assert await reply.json() == first == SHOWN


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("to", {"to": ""}),
        ("to", {"to": 1}),
        ("order_id", {"order_id": "x" * 65}),
        ("order_id", {"order_id": 1024}),
        ("amount", {"amount": 128.5}),
        ("amount", {"amount": ""}),
        ("currency", {"currency": None}),
        ("payee", {"payee": "x" * 65}),
        ("ttl", {"ttl": 29}),
        ("ttl", {"ttl": 86_401}),
        ("ttl", {"ttl": "600"}),
        ("deadline", {"deadline": 1_750_000_000}),
        ("retry", {"retry": 3}),
        ("metadata", {"metadata": [1]}),
        ("machine_detection", {"machine_detection": "on"}),
        ("out_id", {"out_id": "a\n"}),
        ("decide_uri", {"decide_uri": "https://example.com/"}),
    ],
)
async def test_what_is_of_no_use_is_refused_by_field(
    http: HttpClient, payments: FakePayments, field: str, values: dict[str, Any]
) -> None:
    body = await ask(http, "POST", NEW, status=422, json={**BODY, **values})
    assert [one["field"] for one in body["errors"]] == [field]
    assert body["errors"][0]["mend"]
    assert payments.asked == []


@pytest.mark.parametrize("field", list(BODY))
async def test_what_is_missing_is_named(http: HttpClient, field: str) -> None:
    left = {name: value for name, value in BODY.items() if name != field}
    body = await ask(http, "POST", NEW, status=422, json=left)
    assert [one["field"] for one in body["errors"]] == [field]


async def test_what_the_service_refuses_is_a_problem(http: HttpClient, payments: FakePayments) -> None:
    payments.error = InputError("amount", "has more decimals than JPY has", "Send at most 0 decimals")
    body = await ask(http, "POST", NEW, status=422, json=BODY)
    assert body["errors"][0]["field"] == "amount"
    payments.error = Conflict("this payment confirmation is confirmed")
    assert (await ask(http, "POST", f"{ONE}/cancel", status=409))["type"] == "/docs#conflict"


async def test_it_is_read_listed_and_canceled(http: HttpClient, payments: FakePayments) -> None:
    assert await ask(http, "GET", ONE, status=200) == SHOWN
    page = await ask(http, "GET", f"{NEW}?status=confirmed&limit=3&cursor=c", status=200)
    assert page == {"items": [SHOWN], "next_cursor": "next-page"}
    canceled = await ask(http, "POST", f"{ONE}/cancel", status=200)
    assert canceled["status"] == "canceled"
    assert canceled["ended_at"] == "2025-06-15T15:06:40.007Z"
    assert payments.asked == [
        ("get", "pay_1"),
        ("list", (PaymentStatus.CONFIRMED, "c", 3)),
        ("cancel", "pay_1"),
    ]


async def test_it_is_waited_for(http: HttpClient, payments: FakePayments) -> None:
    await ask(http, "GET", f"{ONE}?wait=2.5&while=pending", status=200)
    assert payments.asked[0] == ("wait_changed", (2.5, PaymentStatus.PENDING))
    await ask(http, "GET", f"{ONE}?wait=1", status=200)
    assert payments.asked[2] == ("wait_changed", (1.0, None))
    await ask(http, "GET", f"{ONE}?wait=1&while=ringing", status=422)
    await ask(http, "GET", f"{NEW}?status=approved", status=422)


async def test_it_is_its_own_clients(http: HttpClient) -> None:
    other = {"Authorization": f"Bearer {OTHER_KEY}"}
    await ask(http, "GET", ONE, status=404, headers=other)
    await ask(http, "POST", f"{ONE}/cancel", status=404, headers=other)
    await ask(http, "GET", ONE, status=401, headers={"Authorization": ""})


async def test_dead_webhooks_are_listed_and_sent_again(http: HttpClient, deliveries: FakeDeliveries) -> None:
    page = await ask(http, "GET", "/v1/webhook-deliveries?status=dead", status=200)
    assert page["items"] == [
        {
            "id": "msg_1",
            "resource": "pay_1",
            "sequence": 1,
            "type": "payment_confirmation.confirmed",
            "status": "dead",
            "created_at": "2025-06-15T15:06:40.007Z",
            "due_at": None,
            "tries": 10,
            "delivered_at": None,
            "dead_at": "2025-06-15T15:06:40.012Z",
            "last_error": "answered 500",
        }
    ]
    again = await ask(http, "POST", "/v1/webhook-deliveries/msg_1/resend", status=200)
    assert again["status"] == "pending"
    await ask(http, "POST", "/v1/webhook-deliveries/msg_2/resend", status=404)
    assert deliveries.asked[0] == ("list", (DeliveryStatus.DEAD, None, 50))
