"""Ready-made subscribers: how phones, and networks, commonly behave.

Each is a function that returns a `Subscriber`. Times are in seconds. What they never do: decide anything
by chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from telephony.errors import LabError
from telephony.lab.carrier import CarrierCall, Subscriber


def answer_and_listen(*, after: float = 0.5, listen: float | None = None) -> Subscriber:
    """Ring, answer after `after`, and listen: for `listen` seconds, or until the caller hangs up."""

    async def script(call: CarrierCall) -> None:
        await call.ring()
        await call.answer(after=after)
        await call.listen(listen)

    return script


def busy(*, after: float = 0.0) -> Subscriber:
    """486 Busy Here."""
    return reject(486, after=after)


def unallocated() -> Subscriber:
    """404: nobody has this number."""
    return reject(404)


def decline(*, after: float = 0.3) -> Subscriber:
    """Ring, then 603: the person pressed the red key."""
    return reject(603, after=after, ring=True)


def reject(code: int, *, after: float = 0.0, ring: bool = False) -> Subscriber:
    """Any final SIP code from 400 to 699; with `ring` after an 18x."""
    if not 400 <= code <= 699:
        raise LabError(f"{code} is no final SIP code of refusal (400 to 699)")

    async def script(call: CarrierCall) -> None:
        if ring:
            await call.ring()
        await call.reject(code, after=after)

    return script


def no_answer(*, ring_for: float | None = None) -> Subscriber:
    """Ring for `ring_for`, then 480; without it until the caller gives up."""

    async def script(call: CarrierCall) -> None:
        await call.no_answer(ring_for=ring_for)

    return script


def voicemail(*, after: float = 0.5, greeting: str | Path = "vm-intro", record: float = 60.0) -> Subscriber:
    """Ring, answer with a greeting, beep, and record for at most `record`."""

    async def script(call: CarrierCall) -> None:
        await call.ring()
        await call.answer(after=after)
        await call.say(greeting)
        await call.beep()
        await call.listen(record)

    return script


def hang_up_early(*, answer_after: float = 0.3, hang_up_after: float = 1.0) -> Subscriber:
    """Answer, and hang up `hang_up_after` later, whatever is being said."""

    async def script(call: CarrierCall) -> None:
        await call.ring()
        await call.answer(after=answer_after)
        await call.hang_up(after=hang_up_after)

    return script


def press_keys(
    presses: Iterable[tuple[float, str]], *, answer_after: float = 0.3, listen: float | None = None
) -> Subscriber:
    """Answer and press keys: pairs of (seconds after the answer, keys); then listen on."""
    plan = sorted(presses)

    async def script(call: CarrierCall) -> None:
        await call.ring()
        await call.answer(after=answer_after)
        for at, keys in plan:
            await call.press(keys, after=max(0.0, at - call.seconds_since_answer()))
        await call.listen(listen)

    return script
