"""A carrier's dialect: how numbers, callers and the rest stand in an order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from telephony.model.number import parse_number
from telephony.pbx.asterisk.originate import order_headers
from telephony.pbx.port import Dialect, DialOrder, EarlyMedia, IdentityForm
from telephony.store.records import SlotCandidate
from telephony.trunks.dialect import NumberFormat, Trunk

MOBILE, LANDLINE, ABROAD = map(parse_number, ("+8613800000000", "+861088880000", "+12125550123"))


@pytest.mark.parametrize(
    ("trunk", "number", "dialled"),
    [
        (Trunk("a", "x"), MOBILE, "+8613800000000"),
        (Trunk("a", "x", number_format=NumberFormat.DIGITS), MOBILE, "8613800000000"),
        (Trunk("a", "x", number_format=NumberFormat.DIGITS, prefix="011"), MOBILE, "0118613800000000"),
        (Trunk("a", "x", number_format=NumberFormat.INTERNATIONAL), MOBILE, "008613800000000"),
        (Trunk("a", "x", number_format=NumberFormat.NATIONAL, region="CN"), MOBILE, "13800000000"),
        (Trunk("a", "x", number_format=NumberFormat.NATIONAL, region="CN"), LANDLINE, "01088880000"),
        (
            Trunk("a", "x", number_format=NumberFormat.NATIONAL, region="CN", prefix="9"),
            MOBILE,
            "913800000000",
        ),
        (Trunk("a", "x", number_format=NumberFormat.NATIONAL, region="CN"), ABROAD, "0012125550123"),
        (Trunk("a", "x", number_format=NumberFormat.NATIONAL, region="CA"), ABROAD, "2125550123"),
        (Trunk("a", "x", number_format=NumberFormat.NATIONAL), ABROAD, "2125550123"),
    ],
)
def test_numbers(trunk: Trunk, number: object, dialled: str) -> None:
    assert trunk.dialled(number) == dialled  # type: ignore[arg-type]


OWN = ("+861055550000", "95588")


@pytest.mark.parametrize(
    ("numbers", "form", "wanted", "told"),
    [
        ((), None, "+861088880000", "+861088880000"),
        ((), None, "", ""),
        (OWN, None, "+861088880000", "+861055550000"),
        (OWN, None, "", "+861055550000"),
        (OWN, None, "95588", "95588"),
        (OWN, None, "861055550000", "+861055550000"),
        ((), NumberFormat.NATIONAL, "+861088880000", "01088880000"),
        ((), NumberFormat.INTERNATIONAL, "+861088880000", "00861088880000"),
        ((), NumberFormat.DIGITS, "95588", "95588"),
        ((), NumberFormat.DIGITS, "+8695", "+8695"),
        (OWN, NumberFormat.DIGITS, "+861055550000", "861055550000"),
    ],
)
def test_callers(numbers: tuple[str, ...], form: NumberFormat | None, wanted: str, told: str) -> None:
    trunk = Trunk("a", "x", caller_numbers=numbers, caller_format=form, region="CN")
    assert trunk.caller(wanted) == told


def test_an_order_as_it_always_was() -> None:
    order = Trunk("a", "x", codecs=("alaw",)).order(
        "att_1", MOBILE, "+861088880000", ring_timeout=20, max_duration=60
    )
    assert order == DialOrder(
        attempt_id="att_1",
        endpoint="x",
        number="+8613800000000",
        caller_number="+861088880000",
        ring_timeout=20,
        max_duration=60,
        codecs=("alaw",),
        dialect=Dialect(identity_number="+861088880000"),
    )


def test_an_order_in_every_dialect() -> None:
    trunk = Trunk(
        "a",
        "x",
        from_number="account7",
        from_name="Acme",
        identity=IdentityForm.PAI,
        identity_domain="carrier.example",
        dtmf_mode="info",
        early_media=EarlyMedia.ANNOUNCES,
        false_answer=4.0,
        caller_numbers=("+861055550000",),
        caller_format=NumberFormat.DIGITS,
    )
    order = trunk.order("att_1", MOBILE, "", ring_timeout=20, max_duration=60)
    assert (order.caller_number, order.caller_name) == ("account7", "Acme")
    assert order.dialect == Dialect(
        IdentityForm.PAI, "861055550000", "carrier.example", "info", EarlyMedia.ANNOUNCES, 4.0
    )


def test_what_a_call_needs_of_a_trunk() -> None:
    trunk = Trunk("a", "x", calls_per_second=2.5, burst=3)
    assert trunk.slot() == SlotCandidate(trunk="a", calls_per_second=2.5, burst=3)


# ---- as an Originate


def headers(**fields: object) -> list[tuple[str, str]]:
    plain = {"attempt_id": "att_1", "endpoint": "carrier", "number": "+861", "caller_number": ""}
    return order_headers(DialOrder(**{**plain, **fields}))  # type: ignore[arg-type]


def test_a_plain_order() -> None:
    assert headers(ring_timeout=12.5) == [
        ("Channel", "PJSIP/+861@carrier"),
        ("ChannelId", "att_1"),
        ("Async", "true"),
        ("Timeout", "12500"),
        ("Variable", "GROUP(telephony)=carrier"),
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"caller_number": "+8610", "caller_name": 'A "B"'}, [("CallerID", '"A B" <+8610>')]),
        (
            {"codecs": ("alaw", "ulaw")},
            [("Codecs", "alaw,ulaw"), ("Variable", "PJSIP_MEDIA_OFFER(audio)=alaw\\,ulaw")],
        ),
        ({"dialect": Dialect(dtmf_mode="info")}, [("Variable", "PJSIP_DTMF_MODE()=info")]),
        (
            {"dialect": Dialect(IdentityForm.PAI, "+8610")},
            [("Variable", "PJSIP_HEADER(add,P-Asserted-Identity)=<tel:+8610>")],
        ),
        (
            {"dialect": Dialect(IdentityForm.PAI, "+8610", "c.example")},
            [("Variable", "PJSIP_HEADER(add,P-Asserted-Identity)=<sip:+8610@c.example>")],
        ),
        (
            {"dialect": Dialect(IdentityForm.RPID, "10", "c.example")},
            [
                (
                    "Variable",
                    "PJSIP_HEADER(add,Remote-Party-ID)=<sip:10@c.example>;party=calling;screen=yes",
                )
            ],
        ),
        ({"dialect": Dialect(IdentityForm.PAI)}, []),
        ({"dialect": Dialect(identity_number="+8610")}, []),
    ],
)
def test_each_part_of_a_dialect(fields: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert [one for one in headers(**fields) if one not in headers()] == expected


NUMBERS = some.sampled_from(
    ["+8613800000000", "+861088880000", "+12125550123", "+442079460000", "+4930901820"]
)


@given(NUMBERS, some.sampled_from(NumberFormat), some.sampled_from(["", "CN", "US", "GB", "DE"]))
def test_what_is_dialled_is_that_number_and_no_other(text: str, form: NumberFormat, region: str) -> None:
    number = parse_number(text)
    dialled = Trunk("a", "x", number_format=form, region=region or number.region).dialled(number)
    plain = f"+{dialled[2:]}" if dialled.startswith("00") else dialled
    if form is NumberFormat.DIGITS:
        plain = f"+{dialled}"
    assert parse_number(plain, region or number.region) == number
