"""A call as it is shown: from its rows to the view, and from the view to a webhook's `data`.

What it never does: decide who may see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from telephony.egress.envelope import iso
from telephony.ivr.inbound_log import PATH_EVENT
from telephony.services.admission import MACHINE_VARIABLE
from telephony.services.contract import AttemptView, CallView
from telephony.store import UnitOfWork
from telephony.store.records import AttemptRecord, RequestRecord

_JSON_NAMES: Final = {"call_class": "class", "from_number": "from"}


async def path_of(work: UnitOfWork, request: RequestRecord) -> tuple[Mapping[str, Any], ...]:
    """Return the nodes of a tree's call that is over, first to last; nothing for any other call."""
    for event in reversed(await work.events.list_for(request.id)):
        if event.kind == PATH_EVENT:
            return tuple(_step(step) for step in event.detail["path"])
    return ()


def _step(step: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**step, "at": iso(step["at"])}


def view_of(
    request: RequestRecord,
    attempts: Sequence[AttemptRecord],
    path: tuple[Mapping[str, Any], ...] = (),
) -> CallView:
    """Return the view of a request with its attempts, and the path that it took through a tree."""
    variables = dict(request.variables)
    machine_detection = variables.pop(MACHINE_VARIABLE, "off")
    return CallView(
        id=request.id,
        to=request.to_number,
        from_number=request.from_number,
        flow=request.flow,
        call_class=request.call_class,
        locale=request.locale,
        variables=variables,
        machine_detection=machine_detection,
        status=request.status,
        created_at=request.created_at,
        updated_at=request.updated_at,
        due_at=request.due_at,
        ended_at=request.ended_at,
        expires_at=request.expires_at,
        failure_reason=request.failure_reason,
        metadata=request.metadata,
        out_id=request.out_id,
        attempts=tuple(_attempt(attempt) for attempt in attempts),
        direction=request.direction,
        path=path,
    )


def _attempt(attempt: AttemptRecord) -> AttemptView:
    return AttemptView(
        id=attempt.id,
        number=attempt.number,
        trunk=attempt.trunk or "",
        trunk_reason=attempt.trunk_reason or "",
        phase=attempt.phase.value,
        dialed_at=attempt.dialed_at,
        ringing_at=attempt.ringing_at,
        answered_at=attempt.answered_at,
        ended_at=attempt.ended_at,
        sip=attempt.sip,
        q850=attempt.q850,
        cause=attempt.cause,
        end_reason=attempt.end_reason,
        keys=attempt.keys,
    )


def payload_of(view: CallView) -> dict[str, Any]:
    """Return what a webhook tells of a call: the same as `GET /v1/calls/{id}`."""
    told = _told(asdict(view))
    told["attempts"] = [_told(attempt) for attempt in told["attempts"]]
    return told


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        _JSON_NAMES.get(name, name): iso(value) if name.endswith("_at") and value is not None else value
        for name, value in values.items()
    }
