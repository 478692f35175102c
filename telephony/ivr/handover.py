"""Queues and numbers by the user's own dialplan: the call goes on there, and does not come back.

A queue is the extension of its name in one context, a number an extension of another. What it never does:
send a call to a context that no setting or tree names.
"""

from __future__ import annotations

from typing import Final

from telephony.errors import PbxRejected
from telephony.ivr.ports import QueueEnd, QueueOrder, TransferEnd, TransferOrder
from telephony.pbx.port import CallSession

PRIORITY_VARIABLE: Final = "QUEUE_PRIO"
"""What Asterisk's `Queue` reads."""

MAX_WAIT_VARIABLE: Final = "TELEPHONY_MAX_WAIT"
ROUTE_VARIABLE: Final = "TELEPHONY_ROUTE"
RING_VARIABLE: Final = "TELEPHONY_RING_TIMEOUT"


class DialplanQueues:
    """Queues are extensions of `context`; without one nobody waits."""

    def __init__(self, context: str) -> None:
        self._context = context

    async def wait(self, session: CallSession, order: QueueOrder) -> QueueEnd:
        """Hand over, with the priority and the longest wait as variables."""
        if not self._context:
            return QueueEnd.UNAVAILABLE
        try:
            await session.set_variable(PRIORITY_VARIABLE, str(order.priority))
            await session.set_variable(MAX_WAIT_VARIABLE, f"{order.max_wait:.0f}")
            await session.transfer(order.queue, self._context)
        except PbxRejected:
            return QueueEnd.UNAVAILABLE
        return QueueEnd.HANDED_OVER


class DialplanTransfers:
    """Extensions in the context that the tree names; numbers in `number_context`, where there is one."""

    def __init__(self, number_context: str) -> None:
        self._number_context = number_context

    async def transfer(self, session: CallSession, order: TransferOrder) -> TransferEnd:
        """Hand over; a number goes with its route and how long it may ring as variables."""
        extension, context = order.extension, order.context
        if not extension:
            plus = "+" if order.number.startswith("+") else ""
            extension = plus + "".join(figure for figure in order.number if figure in "0123456789")
            context = self._number_context
        if not context or not extension.strip("+"):
            return TransferEnd.UNAVAILABLE
        try:
            await session.set_variable(ROUTE_VARIABLE, order.route)
            await session.set_variable(RING_VARIABLE, f"{order.ring_timeout:.0f}")
            await session.transfer(extension, context)
        except PbxRejected:
            return TransferEnd.UNAVAILABLE
        return TransferEnd.HANDED_OVER
