"""The flows that an app may have somebody called with, by name; how each such call ended is told to the app.

A new conversation is registered here and nowhere else: a `CallableFlow` gets its variables checked at the
request, its calls listed, and their webhooks written. What it never does: know what a flow says.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from telephony.calls.flow import CallableFlow, Flow, Outcome, Prepared
from telephony.errors import InputError
from telephony.ivr.flow import IvrFlow
from telephony.model.call import CallStatus
from telephony.pbx.port import CallSession
from telephony.services import payment_flow, verification
from telephony.services.admission import MACHINE_VARIABLE
from telephony.services.call_view import path_of, payload_of, view_of
from telephony.services.notices import Notices
from telephony.store import UnitOfWork
from telephony.store.records import RequestRecord

_OF_THEIR_OWN: Final[Mapping[str, str]] = {
    verification.FLOW_NAME: "POST /v1/verifications",
    payment_flow.FLOW_NAME: "POST /v1/payment-confirmations",
}
"""Flows that are called by resources of their own, which hold what they say and what comes of it."""


class MoreFlows(Protocol):
    """Flows that come and go while the controller runs, as trees do."""

    @property
    def names(self) -> Iterable[str]:
        """Those that there are now."""
        ...

    def find(self, name: str) -> CallableFlow | None:
        """The flow of this name; None where there is none."""
        ...


class FlowRegistry:
    """The callable flows: `flows`, and `more`, where none of `flows` has the name."""

    def __init__(
        self, flows: Iterable[CallableFlow], notices: Notices, more: MoreFlows | None = None
    ) -> None:
        self._flows = {flow.name: flow for flow in flows}
        self._notices = notices
        self._more = more

    def check(self, name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables of a call of this flow, checked by the flow.

        Raises `InputError` naming `flow` or `variables.<name>`.
        """
        flow = self._flows.get(name) or self._another(name)
        if flow is None:
            raise self._not_callable(name)
        if MACHINE_VARIABLE in variables:
            raise InputError(
                f"variables.{MACHINE_VARIABLE}",
                "is not a variable of a flow",
                f"Send {MACHINE_VARIABLE} beside variables",
            )
        return dict(flow.check(variables))

    def _another(self, name: str) -> CallableFlow | None:
        return self._more.find(name) if self._more is not None and name not in _OF_THEIR_OWN else None

    def _not_callable(self, name: str) -> InputError:
        own = _OF_THEIR_OWN.get(name)
        if own is not None:
            return InputError("flow", f"{name} is called by a resource of its own", f"Use {own}")
        known = sorted({*self._flows, *(self._more.names if self._more is not None else ())})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        return InputError("flow", "is not a flow of this controller", f"{hint}Known: {', '.join(known)}")

    def for_engine(self, *others: Flow) -> Mapping[str, Flow]:
        """The flows as the engine runs them, each telling the app how a call ended, and the `others`."""
        flows = _EngineFlows(self._notices, self._another)
        flows |= {flow.name: flow for flow in others}
        flows |= {name: _Told(flow, self._notices) for name, flow in self._flows.items()}
        return flows


class _EngineFlows(dict[str, Flow]):
    """Flows by name; a call that waits for one that is there no more ends, and its app is told."""

    def __init__(self, notices: Notices, another: Callable[[str], CallableFlow | None]) -> None:
        self._notices = notices
        self._another = another

    def __missing__(self, name: str) -> Flow:
        return _Told(self._another(name) or _Removed(name), self._notices)


class _Removed:
    """Stands for a flow that was registered when its call was asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """The flow's own."""
        return self._name

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        """Ring nobody."""
        return Outcome(CallStatus.FAILED, "flow_removed")

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        """Say nothing on a call that stood when the controller was started anew."""
        return Outcome(CallStatus.FAILED, "flow_removed")

    def cut_short(self, request: RequestRecord) -> Outcome:
        """The same."""
        return Outcome(CallStatus.FAILED, "flow_removed")

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        """Nothing follows from it."""


class _Told:
    """A flow whose final outcome is told to the app, in the outcome's own transaction."""

    def __init__(self, flow: Flow, notices: Notices) -> None:
        self._flow = flow
        self._notices = notices

    @property
    def name(self) -> str:
        """The flow's own."""
        return self._flow.name

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        """As the flow does."""
        return await self._flow.prepare(request)

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        """As the flow does."""
        return await self._flow.converse(session, request, prepared)

    def cut_short(self, request: RequestRecord) -> Outcome:
        """As the flow does."""
        return self._flow.cut_short(request)

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        """As the flow does, and write the event of it."""
        await self._flow.settle(work, request, outcome)
        if not self._notices.wanted(request.client):
            return
        attempts = await work.attempts.list_for(request.id)
        path = await path_of(work, request) if isinstance(self._flow, IvrFlow) else ()
        view = view_of(replace(request, due_at=None), attempts, path)
        await self._notices.add(
            work,
            client=request.client,
            resource=request.id,
            kind=f"call.{request.status.value}",
            payload=payload_of(view),
            now=request.updated_at,
            expires_at=None,
        )
