"""The census: what stands and holds no slot, and what holds one and stands no more."""

from __future__ import annotations

import pytest

from telephony.model.trunk import SlotKind
from telephony.pbx.port import LiveChannel
from telephony.store.records import SlotRecord
from telephony.trunks.census import Census, Missing, compare, endpoint_of

NOW = 1_800_000_000_000
TRUNKS = {"carrier": "main", "carrier-b": "spare"}


def channel(name: str, channel_id: str) -> LiveChannel:
    return LiveChannel(channel_id, name, "Up", 1.0)


def held(
    holder: str, kind: SlotKind, owner: str = "node-a", acquired_at: int = NOW - 1, lease_until: int = NOW
) -> SlotRecord:
    return SlotRecord(
        id=f"slot_{holder}",
        trunk="main",
        holder=holder,
        kind=kind,
        owner=owner,
        acquired_at=acquired_at,
        lease_until=lease_until,
    )


def census(live: list[LiveChannel], slots: list[SlotRecord], *on_their_way: str) -> Census:
    return compare(
        live,
        slots,
        "node-a",
        trunks=TRUNKS,
        asked_at=NOW,
        renew_before=NOW + 10_000,
        on_its_way=on_their_way.__contains__,
    )


def test_what_stands_and_holds_no_slot() -> None:
    live = [
        channel("PJSIP/carrier-0000001a", "1.1"),
        channel("PJSIP/carrier-b-00000002", "1.2"),
        channel("PJSIP/carrier-00000003", "att_1"),
        channel("PJSIP/carrier-00000004", "being-written"),
        channel("PJSIP/carrier-00000005", "1.5"),
        channel("PJSIP/6001-00000006", "1.6"),
        channel("Local/carrier-00000007", "1.7"),
    ]
    found = census(live, [held("1.5", SlotKind.FOREIGN, "node-b")], "being-written")
    assert found.missing == (
        Missing("main", "1.1", SlotKind.FOREIGN),
        Missing("spare", "1.2", SlotKind.FOREIGN),
        Missing("main", "att_1", SlotKind.ATTEMPT),
    )
    assert (found.gone, found.standing, found.mended) == ((), (), 3)


def test_what_holds_a_slot_and_stands_no_more() -> None:
    slots = [
        held("stands", SlotKind.INBOUND),
        held("stands-for-long", SlotKind.INBOUND, lease_until=NOW + 10_001),
        held("being-written", SlotKind.INBOUND),
        held("gone", SlotKind.INBOUND),
        held("gone-too", SlotKind.FOREIGN),
        held("too-new", SlotKind.INBOUND, acquired_at=NOW),
        held("elsewhere", SlotKind.INBOUND, owner="node-b"),
        held("att_1", SlotKind.ATTEMPT),
        SlotRecord(id="slot_free", trunk="main", number=1),
    ]
    live = [channel("PJSIP/carrier-00000001", "stands"), channel("PJSIP/carrier-00000002", "stands-for-long")]
    found = census(live, slots, "being-written")
    assert (found.missing, found.gone, found.standing) == ((), ("gone", "gone-too"), ("stands",))
    assert found.mended == 2


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("PJSIP/carrier-0000001a", "carrier"),
        ("PJSIP/my-carrier-b-0000001a", "my-carrier-b"),
        ("PJSIP/nothing", ""),
        ("SIP/carrier-0000001a", ""),
        ("", ""),
    ],
)
def test_endpoints(name: str, endpoint: str) -> None:
    assert endpoint_of(name) == endpoint
