"""A call that is told step by step while it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Final

from telephony.cli.client import Controller
from telephony.cli.exits import Exit, fail
from telephony.cli.output import clock, moment, stderr
from telephony.model.call import FINAL_CALL_STATUSES

WAIT_SECONDS: Final = 10.0
"""How long one look at a call waits for it to change."""


SLACK_SECONDS: Final = 60.0
"""How much longer than it may ring a call is watched."""


SOON_SECONDS: Final = 5.0
"""A call that waits no longer than this is not said to wait."""
FINAL: Final = frozenset(status.value for status in FINAL_CALL_STATUSES)


async def watch(controller: Controller, call_id: str, made: dict[str, Any]) -> dict[str, Any]:
    """Tell each step of a call as it comes, and return the call once it is over.

    It is watched from the `created_at` of what was `made` until its `expires_at`.
    """
    console = stderr()
    began = moment(made["created_at"])
    deadline = time.monotonic() + moment(made["expires_at"]) - began + SLACK_SECONDS
    path = f"/v1/calls/{call_id}"
    told = 0
    call = await controller.get(path)
    with console.status("…") if console.is_terminal else nullcontext():
        while True:
            steps = list(_steps(call))
            for at, step, words in steps[told:]:
                console.print(f"{max(0.0, at - began):6.1f} s  {step:<12} {words}".rstrip(), highlight=False)
            told = max(told, len(steps))
            if call["status"] in FINAL:
                return call
            if time.monotonic() > deadline:
                fail(Exit.FAILED, f"{call['id']} is still {call['status']}; it is watched no longer")
            call = await controller.get(path, wait=WAIT_SECONDS, **{"while": call["status"]})


def _steps(call: dict[str, Any]) -> Iterator[tuple[float, str, str]]:
    """What has happened to a call so far: when (Unix seconds), what, and more words.

    What was told once stands in its place at every later look.
    """
    yield moment(call["created_at"]), "queued", "" if call["attempts"] else until(call)
    for attempt in call["attempts"]:
        for name, step in (("dialed_at", "dialing"), ("ringing_at", "ringing"), ("answered_at", "answered")):
            if attempt[name]:
                trunk = attempt["trunk_reason"] or attempt["trunk"] if step == "dialing" else ""
                yield moment(attempt[name]), step, trunk
        if attempt["ended_at"] and attempt["ended_at"] != call["ended_at"]:
            reason = attempt["end_reason"] or attempt["cause"] or ""
            yield moment(attempt["ended_at"]), "again", f"{reason} {until(call)}".strip()
    if call["status"] in FINAL:
        yield moment(call["ended_at"] or call["updated_at"]), call["status"], why(call)


def until(call: dict[str, Any]) -> str:
    """Until when a call waits, where it is worth telling."""
    due_at = call.get("due_at")
    if not due_at or moment(due_at) - time.time() < SOON_SECONDS:
        return ""
    return f"waits until {clock(due_at)}"


def why(call: dict[str, Any]) -> str:
    """Why a call ended as it did: our reason, and what the carrier said."""
    last = call["attempts"][-1] if call["attempts"] else {}
    reason = call["failure_reason"] or last.get("end_reason") or ""
    codes = [f"{name} {last[key]}" for name, key in (("SIP", "sip"), ("Q.850", "q850")) if last.get(key)]
    return f"{reason} ({', '.join(codes)})" if codes and reason else reason or ", ".join(codes)
