"""Records with something in every field that must be there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from telephony.model.call import CallClass
from telephony.model.ids import new_id
from telephony.store.records import (
    AttemptRecord,
    EventRecord,
    OutboxRecord,
    RequestRecord,
    VerificationRecord,
)

START = 1_800_000_000_000
TO = "+8613800000000"


def a_request(**fields: Any) -> RequestRecord:
    plain = RequestRecord(
        id=new_id("call"),
        client="shop",
        flow="verification",
        to_number=TO,
        call_class=CallClass.OTP,
        created_at=START,
        updated_at=START,
    )
    return replace(plain, **fields)


def an_attempt(request: RequestRecord, **fields: Any) -> AttemptRecord:
    plain = AttemptRecord(
        id=new_id("att"), request_id=request.id, number=1, to_number=request.to_number, created_at=START
    )
    return replace(plain, **fields)


def a_verification(**fields: Any) -> VerificationRecord:
    plain = VerificationRecord(
        id=new_id("ver"),
        client="shop",
        to_number=TO,
        locale="zh-CN",
        code_hash="hash-of-the-code",
        code_sealed=b"\x00sealed\xff",
        code_length=6,
        checks_left=5,
        max_checks=5,
        max_sends=3,
        expires_at=START + 600_000,
        created_at=START,
        updated_at=START,
    )
    return replace(plain, **fields)


def an_event(**fields: Any) -> EventRecord:
    return replace(EventRecord(id=new_id("evt"), at=START, kind="trunk.chosen"), **fields)


def a_webhook(**fields: Any) -> OutboxRecord:
    plain = OutboxRecord(
        id=new_id("msg"),
        client="shop",
        resource="ver_1",
        type="verification.approved",
        payload={"id": "ver_1"},
        created_at=START,
        due_at=START,
        url="https://example.com/hook",
    )
    return replace(plain, **fields)
