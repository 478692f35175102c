"""Queues and numbers go on in the user's dialplan, and only where a context is named."""

from __future__ import annotations

from telephony.ivr.handover import DialplanQueues, DialplanTransfers
from telephony.ivr.ports import CallFacts, QueueEnd, QueueOrder, TransferEnd, TransferOrder
from telephony.pbx.memory import Callee, MemorySession

FACTS = CallFacts("1", "+8613800000001", "4008", "hotline", "support", "en", 7)


def session() -> MemorySession:
    return MemorySession("1", FACTS.caller, FACTS.called, Callee())


async def test_a_queue_is_an_extension() -> None:
    order = QueueOrder(FACTS, "support", 7, 90.0)
    one = session()
    assert await DialplanQueues("agents").wait(one, order) is QueueEnd.HANDED_OVER
    assert one.transferred_to == ("support", "agents")
    assert (one.variables["QUEUE_PRIO"], one.variables["TELEPHONY_MAX_WAIT"]) == ("7", "90")
    assert await DialplanQueues("").wait(session(), order) is QueueEnd.UNAVAILABLE


async def test_a_number_is_an_extension_of_a_context_of_its_own() -> None:
    order = TransferOrder(FACTS, "", "default", "+86 (10) 8888,0000&x", "carrier-b", 25.0)
    one = session()
    assert await DialplanTransfers("numbers").transfer(one, order) is TransferEnd.HANDED_OVER
    assert one.transferred_to == ("+861088880000", "numbers")
    assert one.variables["TELEPHONY_ROUTE"] == "carrier-b"
    assert await DialplanTransfers("").transfer(session(), order) is TransferEnd.UNAVAILABLE


async def test_an_extension_goes_where_the_tree_says() -> None:
    one = session()
    order = TransferOrder(FACTS, "9110", "safety", "", "", 10.0)
    assert await DialplanTransfers("").transfer(one, order) is TransferEnd.HANDED_OVER
    assert one.transferred_to == ("9110", "safety")
