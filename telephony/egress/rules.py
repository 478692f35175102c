"""Where webhooks go, and the bounds of their delivery. What it never does: deliver one."""

from __future__ import annotations

from dataclasses import dataclass, field

from telephony.egress.schedule import WHOLE_SCHEDULE


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a client's webhooks go. `secrets` are the decoded ones, newest first, at least one."""

    url: str
    secrets: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryRules:
    """Bounds; times in seconds.

    `per_endpoint` requests at most are under way to one endpoint. Each endpoint may always have one; those
    beyond it share `concurrency` among all endpoints, so that none that hangs takes another's turn.
    `lease_margin` is what a try may take beyond `timeout` before another controller repeats it. What is
    older than `keep` is forgotten, delivered or not.
    """

    timeout: float = 15.0
    per_endpoint: int = 4
    concurrency: int = 32
    dead_after: float = float(WHOLE_SCHEDULE)
    lease_margin: float = 15.0
    stop_grace: float = 5.0
    keep: float = 30 * 86_400.0

    @property
    def lease_ms(self) -> int:
        """How long a claimed webhook is ours."""
        return int((self.timeout + self.lease_margin) * 1_000)
