"""What every request passes before anything is made of it: number, language, its time, its Idempotency-Key.

What it never does: know what is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from telephony.egress.envelope import iso
from telephony.errors import (
    DestinationNotAllowed,
    IdempotencyMismatch,
    InputError,
    TelephonyError,
    UnknownLocale,
)
from telephony.model.client import Client
from telephony.model.media import Media
from telephony.model.number import PhoneNumber, parse_number
from telephony.model.prompt import Prompt
from telephony.services.contract import Once, StoredReply
from telephony.store import Store, UnitOfWork
from telephony.store.records import Mismatch, Replay

IDEMPOTENCY_MS: Final = 24 * 3600 * 1000
MAX_JSON: Final = 4096
"""Bytes of a JSON object that a client has stored and handed back."""

_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_MOMENT_MEND: Final = "Send RFC 3339 with an offset, such as 2026-01-31T18:00:00+08:00"

MACHINE_VARIABLE: Final = "machine_detection"
LEAVE_MESSAGE: Final = "leave_message"
MACHINE_CHOICES: Final = ("off", "hang_up", LEAVE_MESSAGE)
"""What an answering machine gets: the same as a person, nothing, or a message that tells no secret."""

T = TypeVar("T")
Admitted = TypeVar("Admitted")


class Voice(Protocol):
    """What this room needs of `speech`: a canonical locale, and one composed file."""

    def locale(self, tag: str) -> str:
        """Return the pack's own tag; raises `UnknownLocale`."""
        ...

    async def compose(self, prompt: Prompt, locale: str) -> Media:
        """Make one file of a prompt."""
        ...


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long a request may be open, in seconds; `ttl` is the default."""

    ttl: int
    min_ttl: int
    max_ttl: int


def number_for(client: Client, text: str) -> PhoneNumber:
    """Read a number that this client may call; raises `InvalidNumber`, `DestinationNotAllowed`."""
    number = parse_number(text, client.default_region)
    if number.region in client.regions or any(number.e164.startswith(one) for one in client.prefixes):
        return number
    raise DestinationNotAllowed(f"{number.masked} is outside the regions and prefixes allowed to you")


def locale_for(client: Client, voice: Voice, tag: str | None) -> str:
    """Return the language of a call: the one wanted or the client's own; raises `UnknownLocale`."""
    locale = voice.locale(tag or client.default_locale)
    if client.locales and locale not in client.locales:
        raise UnknownLocale("locale", f"{locale} is not one of yours", f"Use {', '.join(client.locales)}")
    return locale


def caller_for(client: Client, wanted: str | None) -> str | None:
    """Return the caller number to show: the one wanted where it is the client's, else its own."""
    if wanted is None:
        return client.caller_number or None
    allowed = tuple(filter(None, (client.caller_number, *client.caller_numbers)))
    if wanted not in allowed:
        mend = f"Use {', '.join(allowed)}, or leave it out" if allowed else "Leave it out"
        raise InputError("from", "is not a caller number of yours", mend)
    return wanted


def ends_at(now: int, ttl: int | None, moment: str | None, *, field: str, limits: TimeLimits) -> int:
    """Return when a request ends, from `ttl` in seconds or from a `moment` (RFC 3339) in `field`.

    In milliseconds since the epoch, as `now` is. Raises `InputError` naming `ttl` or `field`.
    """
    if moment is None:
        seconds = limits.ttl if ttl is None else ttl
        if not limits.min_ttl <= seconds <= limits.max_ttl:
            raise InputError(
                "ttl", "is out of range", f"Send seconds from {limits.min_ttl} to {limits.max_ttl}"
            )
        return now + seconds * 1000
    if ttl is not None:
        raise InputError(field, "stands beside ttl", "Send one of the two")
    if not _RFC_3339.fullmatch(moment):
        raise InputError(field, "is not a moment", _MOMENT_MEND)
    try:
        end = round(datetime.fromisoformat(moment.upper()).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InputError(field, "is not a moment", _MOMENT_MEND) from None
    if not limits.min_ttl * 1000 <= end - now <= limits.max_ttl * 1000:
        raise InputError(
            field,
            "is too soon or too far away",
            f"Send a moment {limits.min_ttl} to {limits.max_ttl} s from now",
        )
    return end


def check_in_time(waits_until: int | None, expires_at: int, *, field: str) -> None:
    """Refuse what is over before its class may ring (`CallEngine.waits_until`); raises `InputError`."""
    if waits_until is not None and waits_until >= expires_at:
        raise InputError(
            field,
            "ends before the hours in which such a call may ring",
            f"Let it last beyond {iso(waits_until)}",
        )


def check_json(field: str, value: Mapping[str, Any] | None) -> None:
    """Refuse what can't be stored and handed back as it is; raises `InputError` naming `field`."""
    try:
        size = len(json.dumps(value or {}, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:
        raise InputError(field, "is not plain JSON", "Send finite numbers and whole text") from None
    if size > MAX_JSON:
        raise InputError(field, "is too large", f"Send at most {MAX_JSON} bytes of JSON")


def machine_detection_for(wanted: str) -> dict[str, str]:
    """Return what a request's `variables` hold of it: nothing where machines are not to be told.

    Raises `InputError`.
    """
    if wanted not in MACHINE_CHOICES:
        raise InputError("machine_detection", "is not known", f"Send one of {', '.join(MACHINE_CHOICES)}")
    return {} if wanted == "off" else {MACHINE_VARIABLE: wanted}


async def admit_once(
    store: Store,
    client: Client,
    once: Once[T] | None,
    now: int,
    admit: Callable[[], Admitted],
) -> Admitted | StoredReply:
    """Return what `admit` makes of a request; where it refuses, what the same request was answered before.

    A request that is sent again may be refused where its first was not: its deadline has come nearer.
    """
    try:
        return admit()
    except TelephonyError:
        if once is None:
            raise
        # What is begun here is rolled back by the refusal: only an old reply is looked for.
        async with store.transaction() as work:
            stored = await begin_once(work, client, once, now)
            if stored is None:
                raise
        return stored


async def begin_once(work: UnitOfWork, client: Client, once: Once[T] | None, now: int) -> StoredReply | None:
    """Claim the Idempotency-Key in this transaction, or return what was answered before."""
    if once is None:
        return None
    found = await work.idempotency.begin(client.name, once.key, once.fingerprint, now, IDEMPOTENCY_MS)
    if isinstance(found, Replay):
        return StoredReply(found.status, found.body)
    if isinstance(found, Mismatch):
        raise IdempotencyMismatch(
            "Idempotency-Key", "was used for another request", "Use a new key for a new request"
        )
    return None


async def finish_once(work: UnitOfWork, client: Client, once: Once[T] | None, view: T, resource: str) -> None:
    """Keep the reply with the resource: both are there, or neither."""
    if once is not None:
        reply = once.render(view)
        await work.idempotency.finish(
            client.name, once.key, status=reply.status, body=reply.body, resource=resource
        )
