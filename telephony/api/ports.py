"""What the HTTP face needs of the services. What it never does: implement it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from telephony.model.call import CallStatus, PaymentStatus, VerificationStatus
from telephony.model.client import Client
from telephony.model.delivery import DeliveryStatus
from telephony.services.contract import (
    CallView,
    CheckOutcome,
    DeliveryView,
    NewCall,
    NewPayment,
    NewVerification,
    Once,
    Page,
    PaymentView,
    StoredReply,
    TrunkView,
    Verdict,
    VerificationView,
)


class VerificationService(Protocol):
    """Verifications; every method raises the errors of `telephony.errors`."""

    async def create(
        self, client: Client, new: NewVerification, once: Once[VerificationView] | None
    ) -> VerificationView | StoredReply:
        """Make one and ring; a `StoredReply` where the same key made one before."""
        ...

    async def resend(
        self, client: Client, verification_id: str, once: Once[VerificationView] | None
    ) -> VerificationView | StoredReply:
        """Ring again with the same code."""
        ...

    async def check(self, client: Client, verification_id: str, code: str) -> CheckOutcome:
        """Compare a code."""
        ...

    async def cancel(self, client: Client, verification_id: str) -> VerificationView:
        """Cancel it and its call."""
        ...

    async def get(self, client: Client, verification_id: str) -> VerificationView:
        """Read one."""
        ...

    async def list(
        self, client: Client, *, status: VerificationStatus | None, cursor: str | None, limit: int
    ) -> Page[VerificationView]:
        """Read a page, newest first."""
        ...

    async def dry_run(self, client: Client, new: NewVerification) -> Verdict:
        """Check everything, dial nothing, keep nothing."""
        ...

    async def wait_changed(
        self, client: Client, verification_id: str, timeout: float, seen: CallStatus | None
    ) -> None:
        """Wait until its call changes; at once where the call is not (any more) as `seen`."""
        ...


class PaymentService(Protocol):
    """Payment confirmations; every method raises the errors of `telephony.errors`."""

    async def create(
        self, client: Client, new: NewPayment, once: Once[PaymentView] | None
    ) -> PaymentView | StoredReply:
        """Make one and ring; a `StoredReply` where the same key made one before."""
        ...

    async def cancel(self, client: Client, payment_id: str) -> PaymentView:
        """Cancel it and its call."""
        ...

    async def get(self, client: Client, payment_id: str) -> PaymentView:
        """Read one."""
        ...

    async def list(
        self, client: Client, *, status: PaymentStatus | None, cursor: str | None, limit: int
    ) -> Page[PaymentView]:
        """Read a page, newest first."""
        ...

    async def dry_run(self, client: Client, new: NewPayment) -> Verdict:
        """Check everything, dial nothing, keep nothing."""
        ...

    async def wait_changed(
        self, client: Client, payment_id: str, timeout: float, seen: PaymentStatus | None
    ) -> None:
        """Wait until it changes; at once where it is not (any more) as `seen`."""
        ...


class DeliveryService(Protocol):
    """Webhooks on their way."""

    async def list(
        self, client: Client, *, status: DeliveryStatus | None, cursor: str | None, limit: int
    ) -> Page[DeliveryView]:
        """Read a page, newest first."""
        ...

    async def resend(self, client: Client, webhook_id: str) -> DeliveryView:
        """Send a dead one again."""
        ...


class CallService(Protocol):
    """Calls; every method raises the errors of `telephony.errors`."""

    async def create(
        self, client: Client, new: NewCall, once: Once[CallView] | None
    ) -> CallView | StoredReply:
        """Make one and ring; a `StoredReply` where the same key made one before."""
        ...

    async def dry_run(self, client: Client, new: NewCall) -> Verdict:
        """Check everything, dial nothing, keep nothing."""
        ...

    async def get(self, client: Client, call_id: str) -> CallView:
        """Read one, with its attempts."""
        ...

    async def list(
        self, client: Client, *, status: CallStatus | None, cursor: str | None, limit: int
    ) -> Page[CallView]:
        """Read a page, newest first."""
        ...

    async def cancel(self, client: Client, call_id: str) -> CallView:
        """Cancel one that is not over."""
        ...

    async def wait_changed(
        self, client: Client, call_id: str, timeout: float, seen: CallStatus | None
    ) -> None:
        """Wait until it changes; at once where it is not (any more) as `seen`."""
        ...


class TrunkService(Protocol):
    """Trunks; every method raises the errors of `telephony.errors`."""

    async def list(self) -> Sequence[TrunkView]:
        """Read all, in the configured order."""
        ...

    async def get(self, name: str) -> TrunkView:
        """Read one."""
        ...

    async def drain(self, client: Client, name: str) -> TrunkView:
        """No new calls; running ones end."""
        ...

    async def resume(self, client: Client, name: str) -> TrunkView:
        """Calls again."""
        ...

    async def limit(self, client: Client, name: str, channels: int | None) -> TrunkView:
        """So many calls at once from the next one on; None: as configured."""
        ...


class Health(Protocol):
    """Whether calls can be placed."""

    async def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Whether all is well, and per part `ok` or what is wrong."""
        ...
