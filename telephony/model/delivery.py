"""How far a webhook has come. What it never does: send one."""

from __future__ import annotations

from enum import StrEnum


class DeliveryStatus(StrEnum):
    """A webhook is tried until it is received or given up; a dead one is listed and can be sent again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
